"""What others have for the same work, in PyTorch (the `parity` extra).

The one place of the package that imports torch, transformers and DALL-E's own
modules, and only inside the functions that the benchmark calls.

Shapes: N frames, B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
from typing import Any

import numpy as np

from totojax.models import llama as llama_lib
from totojax.optim import adamw

State = Mapping[str, np.ndarray]


def cores() -> int:
  """Cores that this process may use: the threads of both sides."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _torch() -> Any:
  try:
    import torch  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "PyTorch is missing; install it with: pip install 'totojax[parity]'"
    ) from error
  torch.set_num_threads(cores())
  return torch


def _transformers() -> Any:
  try:
    import transformers  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "transformers is missing; install it with: pip install"
        " 'totojax[parity]'"
    ) from error
  return transformers


def _dall_e() -> Any:
  try:
    import dall_e  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ImportError(
        "DALL-E's modules are missing; install them with: pip install"
        " 'totojax[parity]' and pip install --no-deps DALL-E"
    ) from error
  return dall_e


def dvae(
    *, hidden: int, vocab: int, seed: int
) -> tuple[Callable[[np.ndarray], np.ndarray], State, State]:
  """DALL-E's modules with random weights.

  Returns:
    A function from uint8 [N, H, W, 3] to int64 codes [N, H / 8, W / 8], as
    DALL-E's notebook computes them, and the state dictionaries of encoder and
    decoder.

  Raises:
    ImportError: PyTorch or DALL-E is missing.
  """
  torch, dall_e = _torch(), _dall_e()
  torch.manual_seed(seed)
  encoder = dall_e.Encoder(n_hid=hidden, vocab_size=vocab).eval()
  decoder = dall_e.Decoder(n_hid=hidden, vocab_size=vocab)

  def encode(frames_NHW3: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      x = torch.from_numpy(frames_NHW3).permute(0, 3, 1, 2).float() / 255
      return encoder(0.8 * x + 0.1).argmax(1).numpy()

  def state(module):
    return {k: v.numpy() for k, v in module.state_dict().items()}

  return encode, state(encoder), state(decoder)


def loader(
    records: np.ndarray, order: Sequence[int], *, batch: int
) -> Callable[[], Iterator[Any]]:
  """A `DataLoader` over an array, in this order, in this process.

  Returns:
    A function that begins anew and gives the batches.

  Raises:
    ImportError: PyTorch is missing.
  """
  torch = _torch()

  class Records(torch.utils.data.Dataset):

    def __len__(self):
      return len(records)

    def __getitem__(self, index):
      # int32 as the model reads; torch can do little with uint16.
      return torch.from_numpy(records[index].astype(np.int32))

  batches = torch.utils.data.DataLoader(
      Records(), batch_size=batch, sampler=list(order), num_workers=0
  )
  return lambda: iter(batches)


def llama(shape: llama_lib.LlamaConfig, params: Any, *, vocab: int) -> Any:
  """`LlamaForCausalLM` of the same size with the same weights, to evaluate.

  Args:
    shape: the architecture.
    params: of `models.trunk.Trunk`, without boxes.
    vocab: rows of the embedding.

  Raises:
    ImportError: PyTorch or transformers is missing.
    ValueError: a parameter of another shape.
  """
  torch = _torch()
  model = _llama(shape, vocab=vocab, use_cache=True).eval()
  d, body = shape.width, model.model

  def copy(target, value):
    if tuple(target.shape) != value.shape:
      raise ValueError(
          f"a parameter has shape {value.shape}; transformers' has"
          f" {tuple(target.shape)}"
      )
    target.data = torch.tensor(np.array(value, np.float32))

  copy(body.embed_tokens.weight, params["embedding"])
  copy(body.norm.weight, params["norm"]["scale"])
  copy(model.lm_head.weight, params["embedding" if shape.tied else "head"])
  blocks = params["blocks"]
  for i, layer in enumerate(body.layers):
    attention, mlp = blocks["attention"], blocks["mlp"]
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
      target = getattr(layer.self_attn, f"{theirs}_proj").weight
      copy(target, np.asarray(attention[ours][i]).reshape(d, d).T)
    out_DD = np.asarray(attention["out"][i]).reshape(d, d)
    copy(layer.self_attn.o_proj.weight, out_DD.T)
    for name in ("gate", "up", "down"):
      copy(getattr(layer.mlp, f"{name}_proj").weight, mlp[name][i].T)
    copy(layer.input_layernorm.weight, blocks["attention_norm"]["scale"][i])
    copy(
        layer.post_attention_layernorm.weight, blocks["mlp_norm"]["scale"][i]
    )
  return model


def llama_generate(
    shape: llama_lib.LlamaConfig,
    params: Any,
    *,
    vocab: int,
    first: int,
    last: int,
) -> Callable[[np.ndarray, int], np.ndarray]:
  """Greedy `generate` of `llama`, of tokens from `first` to `last` - 1 alone.

  Returns:
    (inputs [B, T], count) -> the tokens that follow, int64 [B, count].

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  torch = _torch()
  model = llama(shape, params, vocab=vocab)
  never = [token for token in range(vocab) if not first <= token < last]

  def run(inputs_BT: np.ndarray, count: int) -> np.ndarray:
    inputs = torch.from_numpy(inputs_BT.astype(np.int64))
    with torch.inference_mode():
      made = model.generate(
          inputs,
          attention_mask=torch.ones_like(inputs),
          do_sample=False,
          max_new_tokens=count,
          min_new_tokens=count,
          suppress_tokens=never,
          eos_token_id=None,
          pad_token_id=0,
      )
    return made[:, inputs_BT.shape[1] :].numpy()

  return run


def _llama(
    shape: llama_lib.LlamaConfig, *, vocab: int, use_cache: bool, **more: Any
) -> Any:
  transformers = _transformers()
  return transformers.LlamaForCausalLM(
      transformers.LlamaConfig(
          vocab_size=vocab,
          hidden_size=shape.width,
          intermediate_size=shape.mlp_dim,
          num_hidden_layers=shape.depth,
          num_attention_heads=shape.heads,
          rms_norm_eps=shape.norm_eps,
          initializer_range=shape.init_std,
          rope_parameters={
              "rope_type": "default", "rope_theta": shape.rope_base
          },
          tie_word_embeddings=shape.tied,
          use_cache=use_cache,
          attn_implementation="sdpa",
          **more,
      )
  )  # fmt: skip


def llama_step(
    shape: llama_lib.LlamaConfig,
    optimiser: adamw.AdamWConfig,
    *,
    vocab: int,
    dtype: str,
    inputs_BT: np.ndarray,
    targets_BT: np.ndarray,
) -> tuple[Callable[[], float], int]:
  """`LlamaForCausalLM` of the same size, trained with AdamW.

  Attention is PyTorch's fused one, AdamW its fused one, and gradients are
  clipped by their norm, as in our step.

  Args:
    shape: the architecture.
    optimiser: whose peak rate is used throughout.
    vocab: rows of the embedding.
    dtype: "float32", or "bfloat16" for autocast.
    inputs_BT: tokens.
    targets_BT: the token that follows each.

  Returns:
    A function that makes one update and returns its loss, and the number of
    parameters.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  torch = _torch()
  torch.manual_seed(0)
  model = _llama(
      shape,
      vocab=vocab,
      use_cache=False,
      max_position_embeddings=inputs_BT.shape[1],
  ).train()
  update = torch.optim.AdamW(
      model.parameters(),
      lr=optimiser.lr,
      betas=(optimiser.b1, optimiser.b2),
      eps=optimiser.eps,
      weight_decay=optimiser.weight_decay,
      fused=True,
  )
  inputs = torch.from_numpy(inputs_BT.astype(np.int64))
  targets = torch.from_numpy(targets_BT.astype(np.int64)).reshape(-1)

  def step() -> float:
    update.zero_grad(set_to_none=True)
    with torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"
    ):
      logits_BTV = model(input_ids=inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits_BTV.reshape(-1, vocab).float(), targets
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optimiser.clip_norm)
    update.step()
    return float(loss.detach())

  return step, sum(p.numel() for p in model.parameters())
