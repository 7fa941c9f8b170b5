"""Parameters of our blocks by the names that transformers gives them."""

import numpy as np


def gpt2_block(params) -> dict[str, np.ndarray]:
  """Of one `gpt2.Block`, for a `GPT2Block`."""
  attention, mlp = params["attention"], params["mlp"]
  names, width = ("query", "key", "value"), len(attention["out_bias"])
  return {
    "ln_1.weight": params["attention_norm"]["scale"],
    "ln_1.bias": params["attention_norm"]["bias"],
    "ln_2.weight": params["mlp_norm"]["scale"],
    "ln_2.bias": params["mlp_norm"]["bias"],
    "attn.c_attn.weight": np.concatenate([attention[k].reshape(width, width) for k in names], 1),
    "attn.c_attn.bias": np.concatenate([attention[f"{k}_bias"].reshape(width) for k in names]),
    "attn.c_proj.weight": attention["out"].reshape(width, width),
    "attn.c_proj.bias": attention["out_bias"],
    "mlp.c_fc.weight": mlp["up"],
    "mlp.c_fc.bias": mlp["up_bias"],
    "mlp.c_proj.weight": mlp["down"],
    "mlp.c_proj.bias": mlp["down_bias"],
  }


def mamba_block(params) -> dict[str, np.ndarray]:
  """Of one `mamba.Block`, for a `MambaBlock`."""
  mixer = params["mixer"]
  return {
    "norm.weight": params["norm"]["scale"],
    "mixer.A_log": mixer["log_a"],
    "mixer.D": mixer["skip"],
    "mixer.conv1d.weight": mixer["conv"].T[:, None],
    "mixer.conv1d.bias": mixer["conv_bias"],
    "mixer.in_proj.weight": np.concatenate([mixer["input"], mixer["gate"]], 1).T,
    "mixer.x_proj.weight": np.concatenate(
      [mixer[k] for k in ("rank", "state_in", "state_out")], 1
    ).T,
    "mixer.dt_proj.weight": mixer["steps"].T,
    "mixer.dt_proj.bias": mixer["steps_bias"],
    "mixer.out_proj.weight": mixer["out"].T,
  }
