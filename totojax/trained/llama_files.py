"""A LLaMA in other people's files: names, layouts and settings, both ways.

Hugging Face's transformers keep a matrix as [out, in] and rotate pairs (j, j +
K / 2), as ours does; Meta's files, and EasyLM's (LVM), rotate neighbours (2 j,
2 j + 1), so that rows of queries and keys lie in another order.

Sources: transformers' `LlamaConfig` and `LlamaForCausalLM` (names of keys and
tensors), Meta's llama repository (`params.json`, names of tensors).

Shapes: D width, H heads, G heads of keys and values, K head dim, F mlp, V rows.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from totojax.models import layers, llama
from totojax.storage import outside

_READ = ("llama",)  # of transformers' model_type
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_MATRICES = {  # ours -> Hugging Face's, Meta's
  ("attention", "query"): ("self_attn.q_proj", "attention.wq"),
  ("attention", "key"): ("self_attn.k_proj", "attention.wk"),
  ("attention", "value"): ("self_attn.v_proj", "attention.wv"),
  ("attention", "out"): ("self_attn.o_proj", "attention.wo"),
  ("mlp", "gate"): ("mlp.gate_proj", "feed_forward.w1"),
  ("mlp", "up"): ("mlp.up_proj", "feed_forward.w3"),
  ("mlp", "down"): ("mlp.down_proj", "feed_forward.w2"),
}
_NORMS = {
  "attention_norm": ("input_layernorm", "attention_norm"),
  "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
}
_META = {EMBEDDING: "tok_embeddings.weight", HEAD: "output.weight", NORM: "norm.weight"}


def check(config: Any, what: str) -> llama.LlamaConfig:
  """The same, where other programs have a model for it.

  Raises:
    ValueError: it is no LLaMA, or one with what theirs has not.
  """
  shape = llama.required(config)
  if shape.qk_norm or shape.prefix_tokens:
    key = "qk_norm" if shape.qk_norm else "prefix_tokens"
    raise ValueError(
      f"{what} was trained with model.{key} = {getattr(shape, key)}, which LlamaForCausalLM has"
      " not; export.what='plain' writes its parameters as they are"
    )
  return shape


def settings(shape: llama.LlamaConfig, *, rows: int, context: int, tied: bool) -> dict[str, Any]:
  """config.json of transformers, but for what is about tokens and types."""
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": rows,
    "hidden_size": shape.width,
    "intermediate_size": shape.mlp_dim,
    "num_hidden_layers": shape.depth,
    "num_attention_heads": shape.heads,
    "num_key_value_heads": shape.heads,
    "head_dim": shape.head_dim,
    "hidden_act": "silu",
    "rms_norm_eps": shape.norm_eps,
    "initializer_range": shape.init_std,
    "max_position_embeddings": context,
    # Where the base stands depends on transformers' version.
    "rope_theta": shape.rope_base,
    "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": tied,
  }


def is_tied(shape: llama.LlamaConfig, scales: layers.Scales) -> bool:
  """Whether one matrix does for both; not where µP multiplies the logits."""
  return shape.tied and scales.logits == 1


def tensors(
  shape: llama.LlamaConfig, params: Any, *, scales: layers.Scales = layers.STANDARD
) -> Iterator[tuple[str, np.ndarray]]:
  """(name of transformers, float32 array) of each parameter, one after the other.

  What a parametrisation multiplies by goes into the matrices before it.

  Args:
    shape: of the model.
    params: of `models.trunk.Trunk`, without boxes.
    scales: of the model.
  """
  blocks = params["blocks"]
  own = lambda x: np.asarray(jax.device_get(x), np.float32)
  yield EMBEDDING, own(params["embedding"])
  yield NORM, own(params["norm"]["scale"])
  if not is_tied(shape, scales):
    yield HEAD, own(params["embedding" if shape.tied else "head"]) * np.float32(scales.logits)
  for i in range(shape.depth):
    at = f"model.layers.{i}"
    for (part, name), (theirs, _) in _MATRICES.items():
      w = own(blocks[part][name][i])
      if name == "query":
        w = w * np.float32(scales.attention)
      inputs = w.shape[0] * (w.shape[1] if name == "out" else 1)
      yield f"{at}.{theirs}.weight", np.ascontiguousarray(w.reshape(inputs, -1).T)
    for name, (theirs, _) in _NORMS.items():
      yield f"{at}.{theirs}.weight", own(blocks[name]["scale"][i])


@dataclasses.dataclass(frozen=True)
class _Rope:
  """Of `rope_parameters`, or `rope_scaling` before there was that."""

  rope_type: str = "default"
  rope_theta: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class _HuggingFace:
  """What is read of a config.json."""

  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  vocab_size: int
  model_type: str
  rms_norm_eps: float = 1e-6
  initializer_range: float = 0.02
  hidden_act: str = "silu"
  attention_bias: bool = False
  mlp_bias: bool = False
  tie_word_embeddings: bool = False


@dataclasses.dataclass(frozen=True)
class _Meta:
  """What is read of a params.json."""

  dim: int
  n_layers: int
  n_heads: int
  norm_eps: float = 1e-5
  rope_theta: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class Foreign:
  """A model in somebody else's files.

  Attributes:
    where: its settings' file, for errors.
    keys: of section `model`.
    tensors: by transformers' names, read when numpy asks for one.
    groups: heads of keys and values, G.
    neighbours: whether rotary pairs are neighbours.
  """

  where: str
  keys: Mapping[str, Any]
  tensors: Mapping[str, Any]
  groups: int
  neighbours: bool

  @property
  def rows(self) -> int:
    """Of its embedding."""
    return self.tensors[EMBEDDING].shape[0]


def of_hugging_face(where: str, values: Mapping[str, Any], stored: Mapping[str, Any]) -> Foreign:
  """A model as transformers save it.

  Args:
    where: its config.json.
    values: what is in it.
    stored: its tensors.

  Raises:
    Damaged: a setting is missing or of another type.
    ValueError: it is no LLaMA as ours is, or a tensor is missing or has another shape.
  """
  named = values.get("model_type")
  if isinstance(named, str) and named not in _READ:
    raise ValueError(f"{where}: model_type is {named!r:.80}; read is {', '.join(_READ)}")
  got = outside.fields(_HuggingFace, where, _known(_HuggingFace, values))
  head_dim = got.hidden_size // max(got.num_attention_heads, 1)
  rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
  if not isinstance(rope, Mapping):
    raise outside.Damaged(where, "its rope_parameters are no object")
  base = values.get("rope_theta")
  rope = {"rope_type": rope.get("type", "default"), "rope_theta": base or 10_000.0} | dict(rope)
  rotary = outside.fields(_Rope, where, _known(_Rope, rope))
  wanted = {
    "hidden_act": (got.hidden_act, "silu"),
    "attention_bias": (got.attention_bias, False),
    "mlp_bias": (got.mlp_bias, False),
    "head_dim": (values.get("head_dim") or head_dim, head_dim),
    "rope_type": (rotary.rope_type, "default"),
  }
  for name, (value, ours) in wanted.items():
    if value != ours:
      raise ValueError(f"{where}: {name} is {value!r:.80}; models here have {ours!r}")
  groups = values.get("num_key_value_heads") or got.num_attention_heads
  keys = dict(
    width=got.hidden_size,
    depth=got.num_hidden_layers,
    heads=got.num_attention_heads,
    mlp_dim=got.intermediate_size,
    rope_base=rotary.rope_theta,
    norm_eps=got.rms_norm_eps,
    init_std=got.initializer_range,
    tied=got.tie_word_embeddings,
  )
  return _checked(Foreign(where, keys, stored, _whole(where, groups), neighbours=False))


def of_meta(where: str, values: Mapping[str, Any], stored: Mapping[str, Any]) -> Foreign:
  """A model as Meta's files have it, on one device; as `of_hugging_face`.

  Args:
    where: its params.json.
    values: what is in it.
    stored: its tensors, by Meta's names.
  """
  got = outside.fields(_Meta, where, _known(_Meta, values))
  names = {theirs: ours for ours, theirs in _META.items()}
  for i in range(min(max(got.n_layers, 0), len(stored))):
    for ours, theirs in (*_MATRICES.values(), *_NORMS.values()):
      names[f"layers.{i}.{theirs}.weight"] = f"model.layers.{i}.{ours}.weight"
  renamed = {names[name]: tensor for name, tensor in stored.items() if name in names}
  gate = renamed.get("model.layers.0.mlp.gate_proj.weight")
  if gate is None or not gate.shape:
    raise ValueError(f"{where}: beside it there is no layers.0.feed_forward.w1.weight")
  keys = dict(
    width=got.dim,
    depth=got.n_layers,
    heads=got.n_heads,
    mlp_dim=gate.shape[0],
    rope_base=got.rope_theta,
    norm_eps=got.norm_eps,
    tied=HEAD not in renamed,
  )
  groups = _whole(where, values.get("n_kv_heads") or got.n_heads)
  return _checked(Foreign(where, keys, renamed, groups, neighbours=True))


def _whole(where: str, groups: Any) -> int:
  if type(groups) is not int:
    raise outside.Damaged(where, f"its heads of keys and values are {groups!r:.80}")
  return groups


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
  """What a dataclass has of them; null is what is not said."""
  names = {field.name for field in dataclasses.fields(cls)}
  return {k: v for k, v in values.items() if k in names and v is not None}


def _checked(foreign: Foreign) -> Foreign:
  """The same, where every tensor is there and has its shape."""
  sizes = foreign.keys
  width, heads, depth = sizes["width"], sizes["heads"], sizes["depth"]
  least = min(width, heads, depth, foreign.groups, sizes["mlp_dim"])
  if least < 1 or width % heads or heads % foreign.groups or depth > len(foreign.tensors):
    raise ValueError(
      f"{foreign.where}: width {width}, {depth} layers, {heads} heads and {foreign.groups} of keys"
      f" and values, and an MLP of {sizes['mlp_dim']} beside {len(foreign.tensors)} tensors are no"
      " LLaMA's"
    )
  narrow = width // heads * foreign.groups
  shapes = {EMBEDDING: (None, width), NORM: (width,)}
  if not sizes["tied"]:
    shapes[HEAD] = (None, width)
  for i in range(depth):
    at = f"model.layers.{i}"
    for (_, name), (theirs, _) in _MATRICES.items():
      rows = {"gate": sizes["mlp_dim"], "up": sizes["mlp_dim"], "key": narrow, "value": narrow}
      columns = sizes["mlp_dim"] if name == "down" else width
      shapes[f"{at}.{theirs}.weight"] = (rows.get(name, width), columns)
    shapes |= {f"{at}.{theirs}.weight": (width,) for theirs, _ in _NORMS.values()}
  for name, shape in shapes.items():
    if name not in foreign.tensors:
      raise ValueError(f"{foreign.where}: beside it there is no tensor {name}")
    got = foreign.tensors[name].shape
    if len(got) != len(shape) or any(b is not None and a != b for a, b in zip(got, shape)):
      raise ValueError(f"{foreign.where}: tensor {name} is {[*got]!s:.80}; it must be {[*shape]}")
  if not sizes["tied"] and foreign.tensors[HEAD].shape != foreign.tensors[EMBEDDING].shape:
    raise ValueError(f"{foreign.where}: its head has other rows than its embedding")
  return foreign


def blocks(
  foreign: Foreign, *, neighbours: bool, progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
  """`params["blocks"]` of our trunk, float32, stacked over the layers.

  Heads that share keys and values have copies of them.

  Args:
    foreign: the model.
    neighbours: whether its rotary pairs are.
    progress: called after each layer.
  """
  width, heads = foreign.keys["width"], foreign.keys["heads"]
  head_dim = width // heads
  stacked: dict[str, Any] = {"attention": {}, "mlp": {}}
  layers_of: list[dict[tuple[str, ...], np.ndarray]] = []
  for i in range(foreign.keys["depth"]):
    layer = {}
    for path, (theirs, _) in _MATRICES.items():
      w = _float(foreign, f"model.layers.{i}.{theirs}.weight")
      if path[1] in ("query", "key", "value"):
        w = w.reshape(-1, head_dim, width)
        if neighbours and path[1] != "value":
          w = w.reshape(-1, head_dim // 2, 2, width).swapaxes(1, 2).reshape(w.shape)
        w = np.repeat(w, heads // len(w), axis=0)
        layer[path] = w.transpose(2, 0, 1)
      else:
        layer[path] = w.T.reshape(heads, head_dim, width) if path[1] == "out" else w.T
    for name, (theirs, _) in _NORMS.items():
      layer[(name, "scale")] = _float(foreign, f"model.layers.{i}.{theirs}.weight")
    layers_of.append(layer)
    progress()
  for part, name in [*layers_of[0]]:
    stacked.setdefault(part, {})[name] = np.stack([layer.pop((part, name)) for layer in layers_of])
  return stacked


def norm(foreign: Foreign) -> np.ndarray:
  """The scale of the last norm [D]."""
  return _float(foreign, NORM)


def _float(foreign: Foreign, name: str) -> np.ndarray:
  array = np.asarray(foreign.tensors[name], np.float32)
  if not np.isfinite(array).all():
    raise outside.Damaged(foreign.where, f"tensor {name} has values that are not finite")
  return array


def rows(
  foreign: Foreign, name: str, *, codes_at: int, specials: tuple[int, ...], vocab: int, padded: int
) -> np.ndarray:
  """An embedding or a head with our rows: specials, codes, and zeros [V, D].

  Args:
    foreign: the model.
    name: `EMBEDDING` or `HEAD`.
    codes_at: its row of code 0.
    specials: its rows of ours; -1: zeros.
    vocab: codes.
    padded: our rows.

  Raises:
    ValueError: it has no such rows.
  """
  wide = _float(foreign, name)
  if codes_at + vocab > len(wide) or max(specials) >= len(wide):
    raise ValueError(
      f"{foreign.where}: {name} has {len(wide)} rows; {vocab} codes from row {codes_at} on and"
      f" specials {specials} are asked of it: set importing.codes_at and importing.specials"
    )
  out = np.zeros((padded, wide.shape[1]), np.float32)
  for ours, theirs in enumerate(specials):
    if theirs >= 0:
      out[ours] = wide[theirs]
  first = len(specials)
  out[first : first + vocab] = wide[codes_at : codes_at + vocab]
  return out


def parts(sizes: Mapping[str, int], most: int) -> list[list[str]]:
  """Names of tensors by file, in order, each file of at most so many bytes (or one tensor)."""
  files, room = [], -math.inf
  for name, size in sizes.items():
    if size > room:
      files.append([])
      room = most
    files[-1].append(name)
    room -= size
  return files
