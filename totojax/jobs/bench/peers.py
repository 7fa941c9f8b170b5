"""What others have for the same work, in PyTorch (the `parity` extra).

The one place of the package that imports transformers and the modules of
DALL-E, taming and diffusers, and only inside the functions that the benchmark
calls.

Shapes: N frames, B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import gc
import io
import sys
from typing import Any

import jax
import numpy as np

from totojax import tree
from totojax.config.propagation import Propagation
from totojax.jobs.bench import torch_networks
from totojax.models import llama as llama_lib
from totojax.optim import adamw
from totojax.rundir import provenance
from totojax.tokenizers import vqgan_modules
from totojax.trained import encoders, llama_files

State = Mapping[str, np.ndarray]


def pytorch() -> Any:
  """PyTorch, with as many threads as JAX has."""
  torch = encoders.torch()
  torch.set_num_threads(provenance.cores())
  return torch


def device_of(torch: Any) -> str:
  """Where PyTorch works: on the kind of device that JAX has."""
  if jax.default_backend() == "cpu":
    return "cpu"
  if jax.default_backend() == "gpu" and torch.cuda.is_available():
    return "cuda"
  raise ImportError(
    f"JAX runs on a {jax.default_backend()} and this PyTorch does not;"
    " install a PyTorch for it, or set JAX_PLATFORMS=cpu"
  )


def free() -> None:
  """Gives back what PyTorch keeps of a GPU's memory."""
  torch = sys.modules.get("torch")
  gc.collect()
  if torch is not None and torch.cuda.is_available():
    torch.cuda.empty_cache()


def _dall_e() -> Any:
  try:
    import dall_e
  except ImportError as error:
    raise ImportError(
      "DALL-E's modules are missing; install them with: pip install"
      " 'totojax[parity]' and pip install --no-deps DALL-E"
    ) from error
  return dall_e


def dvae(
  *, hidden: int, vocab: int, seed: int, exact: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], State, State]:
  """DALL-E's modules with random weights.

  Args:
    hidden: their width.
    vocab: their codes.
    seed: of the weights.
    exact: whether products on a GPU are in float32, not TF32 (PyTorch's own
      choice for convolutions).

  Returns:
    A function from uint8 [N, H, W, 3] to int64 codes [N, H / 8, W / 8], as
    DALL-E's notebook computes them, and the state dictionaries of encoder and
    decoder.

  Raises:
    ImportError: PyTorch or DALL-E is missing.
  """
  torch, dall_e = pytorch(), _dall_e()
  device = device_of(torch)
  torch.backends.cudnn.allow_tf32 = not exact
  torch.manual_seed(seed)
  encoder = dall_e.Encoder(n_hid=hidden, vocab_size=vocab).eval()
  decoder = dall_e.Decoder(n_hid=hidden, vocab_size=vocab)

  def encode(frames_NHW3: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      x = torch.from_numpy(frames_NHW3).to(device)
      x = x.permute(0, 3, 1, 2).float() / 255
      return encoder(0.8 * x + 0.1).argmax(1).cpu().numpy()

  def state(module):
    return {k: v.numpy() for k, v in module.state_dict().items()}

  states = state(encoder), state(decoder)
  encoder.to(device)
  return encode, *states


def tokenizer(config: Any, params: Any) -> tuple[torch_networks.Network, str]:
  """A released tokenizer in PyTorch, with our parameters, in float32.

  Args:
    config: its size, a `VqganConfig` or a `CausalConfig`.
    params: as `init` of its module gives them, unboxed.

  Returns:
    The publisher's module around a quantiser of ours, or a network of ours where
    that is not installed or nobody packages it; and which of them, in words.

  Raises:
    ImportError: PyTorch is missing.
  """
  torch = pytorch()
  device = device_of(torch)
  torch.backends.cudnn.allow_tf32 = False
  kind = torch_networks.ClipNetwork if config.design.clips else torch_networks.Network
  network = kind(torch, config, params, device)
  module, what = None, "a network of ours in plain PyTorch"
  try:
    if config.family == "vqgan":
      module, what = _taming(torch, config), "taming's Encoder and Decoder in PyTorch"
    elif config.family in ("diffusers", "amused"):
      module, what = _vq_model(config), "diffusers' VQModel"
  except ImportError as error:
    what += f" ({error.name} is not installed)"
  if module is not None:
    _load(torch, module, config, params)
    module.eval().to(device)
    network.latents = lambda x: module.quant_conv(module.encoder(x))
    read = lambda codes: (codes,) if config.spatial else ()
    network.drawing = lambda codes: module.decoder(module.post_quant_conv(codes), *read(codes))
  return network, what


def _load(torch: Any, module: Any, config: vqgan_modules.VqganConfig, params: Any) -> None:
  """Our parameters into a publisher's module, by its names."""
  named = {
    config.design.name(path, len(config.multipliers)): torch_networks.channels_first(leaf)
    for path, leaf in tree.paths(params).items()
  }
  shapes = {name: value.shape for name, value in module.state_dict().items()}
  # Kernels of one pixel may be those of linear layers.
  state = {name: torch.tensor(named[name].reshape(shape)) for name, shape in shapes.items()}
  module.load_state_dict(state)


def _taming(torch: Any, config: vqgan_modules.VqganConfig) -> Any:
  from taming.modules.diffusionmodules import model

  side = 2 ** len(config.multipliers)
  sizes = dict(
    ch=config.channels,
    out_ch=3,
    ch_mult=config.multipliers,
    num_res_blocks=config.blocks,
    in_channels=3,
    resolution=side,
    attn_resolutions=[side // 2**i for i in config.attention],
    z_channels=config.z,
    double_z=False,
  )
  module = torch.nn.Module()
  with contextlib.redirect_stdout(io.StringIO()):  # it tells sizes
    module.encoder, module.decoder = model.Encoder(**sizes), model.Decoder(**sizes)
  module.quant_conv = torch.nn.Conv2d(config.z, config.embed, 1)
  module.post_quant_conv = torch.nn.Conv2d(config.embed, config.z, 1)
  return module


def _vq_model(config: vqgan_modules.VqganConfig) -> Any:
  from diffusers import VQModel

  attends = [i in config.attention for i in range(len(config.multipliers))]
  return VQModel(
    block_out_channels=config.widths,
    layers_per_block=config.blocks,
    latent_channels=config.z,
    vq_embed_dim=config.embed,
    num_vq_embeddings=config.vocab,
    norm_num_groups=config.groups,
    norm_type="spatial" if config.spatial else "group",
    mid_block_add_attention=config.middle_attention,
    down_block_types=["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends],
    up_block_types=["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in attends[::-1]],
  )


def loader(records: np.ndarray, order: Sequence[int], *, batch: int) -> Callable[[], Iterator[Any]]:
  """A `DataLoader` over an array, in this order, in this process.

  Returns:
    A function that begins anew and gives the batches.

  Raises:
    ImportError: PyTorch is missing.
  """
  torch = pytorch()

  class RecordSet(torch.utils.data.Dataset):
    def __len__(self):
      return len(records)

    def __getitem__(self, index):
      # int32 as the model reads; torch can do little with uint16.
      return torch.from_numpy(records[index].astype(np.int32))

  batches = torch.utils.data.DataLoader(
    RecordSet(), batch_size=batch, sampler=list(order), num_workers=0
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
  torch = pytorch()
  model = _llama(torch, shape, vocab=vocab, use_cache=True).eval()
  parameters = dict(model.named_parameters())
  for name, value in llama_files.tensors(shape, params):
    target = parameters[name]
    if tuple(target.shape) != value.shape:
      raise ValueError(f"{name} has shape {value.shape}; transformers' has {tuple(target.shape)}")
    target.data = torch.tensor(value, device=target.device)
  return model


def _llama(torch: Any, shape: llama_lib.LlamaConfig, *, vocab: int, **more: Any) -> Any:
  """A model with random weights, drawn where that is quick."""
  transformers = encoders.transformers()
  config = transformers.LlamaConfig(
    vocab_size=vocab,
    hidden_size=shape.width,
    intermediate_size=shape.mlp_dim,
    num_hidden_layers=shape.depth,
    num_attention_heads=shape.heads,
    rms_norm_eps=shape.norm_eps,
    initializer_range=shape.init_std,
    rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
    tie_word_embeddings=shape.tied,
    attn_implementation="sdpa",
    **more,
  )
  with torch.device(device_of(torch)):
    return transformers.LlamaForCausalLM(config)


def llama_generate(
  shape: llama_lib.LlamaConfig, params: Any, *, vocab: int, dtype: str, first: int, last: int
) -> Callable[..., np.ndarray]:
  """Greedy `generate` of `llama`, of tokens from `first` to `last` - 1 alone.

  Args:
    shape: as `llama` takes it; raises as that does.
    params: likewise.
    vocab: likewise.
    dtype: of weights and products, "float32" or "bfloat16".
    first: token that may be chosen.
    last: token after the last that may be.

  Returns:
    (inputs [B, T], count, told) -> the tokens that follow, int64 [B, count];
    `told` is called with each token of all rows as it is chosen.
  """
  torch = pytorch()
  device = device_of(torch)
  model = llama(shape, params, vocab=vocab).to(getattr(torch, dtype))
  never = [token for token in range(vocab) if not first <= token < last]

  def run(
    inputs_BT: np.ndarray, count: int, told: Callable[[Any], None] | None = None
  ) -> np.ndarray:
    inputs = torch.from_numpy(inputs_BT.astype(np.int64)).to(device)
    with torch.inference_mode():
      tokens = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        suppress_tokens=never,
        eos_token_id=None,
        pad_token_id=0,
        streamer=None if told is None else _Streamer(told),
      )
    return tokens[:, inputs_BT.shape[1] :].cpu().numpy()

  return run


class _Streamer:
  """What `generate` hands tokens to: the prompt first, then each as it is chosen."""

  def __init__(self, told: Callable[[Any], None]):
    self._told, self._prompt = told, True

  def put(self, tokens: Any) -> None:
    if not self._prompt:
      self._told(tokens)
    self._prompt = False

  def end(self) -> None:
    pass


def products(operands: Sequence[Sequence[np.ndarray]]) -> Callable[[], list[Any]]:
  """Products with weights as `torch.nn.Linear` makes them, whose weights are [O, I].

  Args:
    operands: inputs [M, I], weight [I, O] and gradient [M, O] of each.

  Returns:
    A function that gives for each the outputs, and the gradients of inputs and
    weight.

  Raises:
    ImportError: PyTorch is missing.
  """
  torch = pytorch()
  ready = [
    (torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(w.T)), torch.from_numpy(g))
    for x, w, g in operands
  ]

  def run() -> list[Any]:
    return [(torch.mm(x, w.t()), torch.mm(g, w), torch.mm(g.t(), x)) for x, w, g in ready]

  return run


def llama_step(
  shape: llama_lib.LlamaConfig,
  optimiser: adamw.AdamWConfig,
  *,
  vocab: int,
  dtype: str,
  compiled: bool,
  inputs_BT: np.ndarray,
  targets_BT: np.ndarray,
) -> tuple[Callable[[], Any], int]:
  """`LlamaForCausalLM` of the same size, trained with AdamW.

  Attention is PyTorch's fused one, AdamW its fused one, and gradients are
  clipped by their norm, as in our step.

  Args:
    shape: the architecture.
    optimiser: whose peak rate is used throughout.
    vocab: rows of the embedding.
    dtype: "float32", or "bfloat16" for autocast.
    compiled: whether the loss goes through `torch.compile`.
    inputs_BT: tokens.
    targets_BT: the token that follows each.

  Returns:
    A function that makes one update and returns its loss, a tensor for which
    nobody waits yet, and the number of parameters.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  torch = pytorch()
  device = device_of(torch)
  torch.manual_seed(0)
  sizes = {"use_cache": False, "max_position_embeddings": inputs_BT.shape[1]}
  model = _llama(torch, shape, vocab=vocab, **sizes).train()
  update = torch.optim.AdamW(
    model.parameters(),
    lr=optimiser.lr,
    betas=(optimiser.b1, optimiser.b2),
    eps=optimiser.eps,
    weight_decay=optimiser.weight_decay,
    fused=True,
  )
  inputs, targets = (
    torch.from_numpy(x_BT.astype(np.int64)).to(device) for x_BT in (inputs_BT, targets_BT)
  )

  def mean_nll() -> Any:
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
      logits_BTV = model(input_ids=inputs).logits
    logits = logits_BTV.reshape(-1, vocab).float()
    return torch.nn.functional.cross_entropy(logits, targets.reshape(-1))

  loss_fn = torch.compile(mean_nll) if compiled else mean_nll

  def step() -> Any:
    update.zero_grad(set_to_none=True)
    loss = loss_fn()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optimiser.clip_norm)
    update.step()
    return loss.detach()

  return step, sum(p.numel() for p in model.parameters())


def label_propagation(
  features_ThwD: np.ndarray, labels_hwC: np.ndarray, rule: Propagation
) -> Callable[[], np.ndarray]:
  """A run of label propagation as it is commonly written: a frame at a time, all of it at once.

  Returns:
    () -> soft labels [T, h, w, C], the first as given.
  """
  torch = pytorch()
  device = device_of(torch)
  count, h, w, _ = features_ThwD.shape
  rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
  places = torch.stack([rows.ravel(), columns.ravel()], -1).to(device).float()
  far = torch.cdist(places, places) >= rule.radius
  far = far[:, None].repeat(1, rule.context_frames + 1, 1)
  far[:, 0] = False
  far = far.reshape(h * w, -1)

  def run() -> np.ndarray:
    with torch.inference_mode():
      x = torch.from_numpy(features_ThwD).to(device).flatten(1, 2)
      x = torch.nn.functional.normalize(x, dim=-1)
      soft = [torch.from_numpy(labels_hwC).to(device).flatten(0, 1)]
      for t in range(1, count):
        before = [0, *(max(t - n, 0) for n in range(rule.context_frames, 0, -1))]
        keys, labels = torch.cat([x[i] for i in before]), torch.cat([soft[i] for i in before])
        like = (x[t] @ keys.T / rule.temperature).masked_fill(far, -1e10)
        values, index = like.topk(rule.top_k, dim=1)
        soft.append((values.softmax(1)[..., None] * labels[index]).sum(1))
      return torch.stack(soft).reshape(count, h, w, -1).cpu().numpy()

  return run
