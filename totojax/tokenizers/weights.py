"""Tokenizer files: safetensors with the config and a card in the metadata.

A dVAE, a VQGAN of any family or a tokenizer of clips, by the format and config
that the metadata name. A file holds every parameter under its path
("encoder.input.w"), and nothing else. Reading is strict: a missing, extra or
wrongly shaped tensor is an error that names it.
Values may be stored in float16 to halve the file; they are used in float32.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import types
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import numpy as np
import safetensors.numpy

from totojax import plugins, tree as tree_lib
from totojax.config.model import EACH_FRAME, LatentSpec, MAX_VOCAB
from totojax.rundir import files
from totojax.storage import arrays, outside
from totojax.storage.outages import brief
from totojax.tokenizers import (
  api,
  batches,
  causal,
  causal_modules,
  checked,
  dvae,
  fsq,
  split,
  vqgan,
)

Config = dvae.DvaeConfig | vqgan.VqganConfig | causal_modules.CausalConfig | fsq.FsqConfig

# What the package ships: name -> file in its folder. The first is the small one
# that the demos and the smallest configs use.
SHIPPED = "shipped"
_SHIPPED_DIR = pathlib.Path(__file__).parent / "shipped"
PACKAGED = {
  SHIPPED: "fsq-512",
  "shipped-32": "fsq-512",
  "shipped-f8": "fsq-4096",
  "shipped-video": "fsq-video",
}
_WIDEST = 2**17  # channels; released ones have a few thousand
_MARK = "fingerprint"  # of the metadata, but in files that are older
_FORMATS = {
  "totojax-dvae-1": dvae.DvaeConfig,
  "totojax-vqgan-1": vqgan.VqganConfig,
  "totojax-fsq-1": fsq.FsqConfig,
  "totojax-causal-1": causal_modules.CausalConfig,
}


def save(
  path: str | os.PathLike[str], params: Any, config: Config, *, card: Mapping[str, Any], dtype: str
) -> str:
  """Writes a tokenizer and returns its fingerprint.

  Args:
    path: file to write; its directory must exist.
    params: as `init` of its kind gives them, unboxed.
    config: the size they belong to.
    card: how it was made (command, data, scores), as plain values.
    dtype: "float32" or "float16", of the stored values.

  Raises:
    ValueError: on another dtype, or parameters that do not fit the config.
  """
  if dtype not in ("float32", "float16"):
    raise ValueError(f"dtype {dtype!r} is unknown; use 'float32' or 'float16'")
  flat = traverse_util.flatten_dict(jax.device_get(params), sep=".")
  tensors = {name: np.asarray(flat[name], dtype) for name in sorted(flat)}
  _check(tensors, config, str(path))
  settings = _settings(config)
  metadata = {
    "format": _format(config),
    "config": json.dumps(settings, sort_keys=True),
    "card": json.dumps(dict(card), sort_keys=True),
    _MARK: api.fingerprint(tensors, settings),
  }
  files.write_bytes(path, safetensors.numpy.save(tensors, metadata))
  return metadata[_MARK]


def load(path: str | os.PathLike[str], *, precision: str = api.HIGHEST) -> api.Tokenizer:
  """The tokenizer in a file, or a packaged one for "shipped" and its like.

  Args:
    path: a file that `save` wrote (local or gs://), a name of `resolve`, or a
      Python file of the user's (`plugins`). "FILE:split=64,4096": `split` into
      these parts.
    precision: of the products on an accelerator (`api.PASSES`). Below the
      highest, codes may differ from those that others made with the same file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: on another format, config or set of tensors; a PluginError where
      a file of the user's is wrong, or gives wrong codes or frames later.
  """
  whole, parts = split.reference(os.fspath(path))
  if parts and plugins.is_reference(whole):  # its digest would be no part of the run's identity
    raise ValueError(f"{path}: a tokenizer of yours splits its codes itself, by split.split")
  if parts:
    return split.split(load(whole, precision=precision), parts)
  if plugins.is_reference(os.fspath(path)):
    made = plugins.load(os.fspath(path), "tokenizer", api.Tokenizer, _is_whole)
    if not re.fullmatch("[0-9a-f]{16}", made.fingerprint):
      raise plugins.PluginError(
        f"{path}: tokenizer() has the fingerprint {made.fingerprint!r}; give 16 hex digits (0 to 9,"
        " a to f), others whenever its codes are (docs/contributing.md)"
      )
    return checked.checked(made, os.fspath(path))
  params, config, mark = read(path)
  return tokenizer(params, config, mark, precision=precision)


def _is_whole(value: api.Tokenizer) -> bool:
  """Whether what a user gives has values of the types that are reckoned with."""
  numbers = (value.vocab, value.factor, value.passes)
  words = (value.kind, value.fingerprint)
  calls = (value.encode, value.decode, value.codes_of, value.macs)
  return (
    all(type(number) is int and number >= 0 for number in numbers)
    and isinstance(value.latents, LatentSpec)
    and all(isinstance(word, str) for word in words)
    and all(map(callable, calls))
  )


def read(path: str | os.PathLike[str]) -> tuple[Any, Config, str]:
  """Parameters (float32), config and fingerprint of a tokenizer file.

  Raises:
    Damaged: it is no whole tokenizer file, or not the one that was written.
    ValueError: it is another file.
  """
  file = resolve(path)
  data = files.read_bytes(file)
  about = arrays.metadata(file, data)
  if about.get("format") not in _FORMATS:
    raise ValueError(
      f"{file} has format {about.get('format', None)!r:.80}; a tokenizer file has"
      f" one of {sorted(_FORMATS)}: write one with weights.save"
    )
  settings = _json(file, about, "config")
  config = _config(_FORMATS[about["format"]], settings, str(file))
  tensors = arrays.load(file, data)
  _check(tensors, config, str(file))
  mark = api.fingerprint(tensors, settings)
  if about.get(_MARK, mark) != mark:
    raise outside.Damaged(
      file, f"its weights have the fingerprint {mark}, and it was written with {about[_MARK]!r:.40}"
    )
  flat = {name: value.astype(np.float32) for name, value in tensors.items()}
  return traverse_util.unflatten_dict(flat, sep="."), config, mark


def card(path: str | os.PathLike[str]) -> dict[str, Any]:
  """How the tokenizer in a file was made: command, data, scores; raises as `read`."""
  file = resolve(path)
  about = arrays.metadata(file, files.read_bytes(file))
  return _json(file, about, "card") if "card" in about else {}


def _json(file: epath.Path, about: Mapping[str, str], name: str) -> dict[str, Any]:
  """The JSON object that the metadata hold under a name."""
  where = f"{file}: {name}"
  value = outside.parse(where, about.get(name, "").encode(), finite=name != "card")
  if not isinstance(value, dict):
    raise outside.Damaged(where, "it is no JSON object")
  return value


def resolve(path: str | os.PathLike[str]) -> epath.Path:
  """The file that a path means; "shipped" and "shipped-..." are in the package."""
  if str(path) in PACKAGED:
    shipped = _SHIPPED_DIR / f"{PACKAGED[str(path)]}.safetensors"
    if not shipped.is_file():
      raise FileNotFoundError(
        f"the package ships {shipped}, which is missing: reinstall it, or train one with"
        " configs/tokenizer.py"
      )
    return epath.Path(shipped)
  file = epath.Path(path)
  if not files.exists(file):
    hint = (
      "train one with configs/tokenizer.py, convert a released one with configs/official.py, or"
    )
    if inside := [str(f) for f in files.children(file) if f.suffix == ".safetensors"]:
      hint = "it is a folder:"
    raise FileNotFoundError(f"no tokenizer file at {file}; {hint} use {[*inside, SHIPPED][0]!r}")
  return file


def tokenizer(
  params: Any, config: Config, mark: str, *, precision: str = api.HIGHEST
) -> api.Tokenizer:
  """Encoder and decoder as functions over numpy batches.

  Args:
    params: as `init` of its kind gives them, unboxed.
    config: the size they belong to.
    mark: its fingerprint.
    precision: of the products on an accelerator.
  """
  passes, kind = api.passes(precision), module(config)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), jax.device_get(params))
  codes_of = functools.partial(kind.codes, config, precision=precision)
  encoder = batches.LocalDevices(codes_of, params)
  decoder = batches.LocalDevices(functools.partial(kind.draw, config, precision=precision), params)

  latents = getattr(config, "latents", EACH_FRAME)

  def rows(places: int, frames: int) -> int:
    return batches.call_rows(places * kind.macs(config, config.factor), frames)

  def encode(frames_NHWC: np.ndarray) -> np.ndarray:
    api.check_frames(frames_NHWC, config.factor, latents)
    places = math.prod(frames_NHWC.shape[-3:-1]) // config.factor**2
    frames = frames_NHWC.shape[1] if latents.is_temporal else 1
    return encoder(frames_NHWC, rows=rows(places * latents.latent_frames(frames), frames))

  def decode(codes_NGG: np.ndarray) -> np.ndarray:
    api.check_codes(codes_NGG, config.vocab, latents)
    places = math.prod(codes_NGG.shape[1:]) // latents.codes
    frames = latents.whole_frames(codes_NGG.shape[1]) if latents.is_temporal else 1
    return decoder(codes_NGG.astype(np.int32), rows=rows(places, frames))

  return api.Tokenizer(
    kind=getattr(config, "family", "dvae"),
    vocab=config.vocab,
    factor=config.factor,
    fingerprint=mark,
    size=_settings(config),
    encode=encode,
    decode=decode,
    params=params,
    codes_of=codes_of,
    macs=functools.partial(kind.macs, config),
    passes=passes,
    latents=latents,
  )


def module(config: Config) -> types.ModuleType:
  """The module with the functions of a kind."""
  if isinstance(config, causal_modules.CausalConfig):
    return causal
  if isinstance(config, fsq.FsqConfig):
    return fsq
  return dvae if isinstance(config, dvae.DvaeConfig) else vqgan


def _format(config: Config) -> str:
  return next(f for f, kind in _FORMATS.items() if isinstance(config, kind))


def _settings(config: Config) -> dict[str, Any]:
  """The config as plain values, without what is as in every older file."""
  silent = _silent(type(config))
  values = dataclasses.asdict(config)
  return {k: v for k, v in values.items() if k not in silent or v != silent[k]}


def check_size(config: Config, tensors: Mapping[str, Any], path: str) -> None:
  """Raises ValueError where a config has more blocks, or wider ones, than tensors can be of.

  Each block is a module, and each hundred channels of one an operation, which
  take their time to lay out.
  """
  if isinstance(config, fsq.FsqConfig):
    blocks = config.encoder_blocks + config.decoder_blocks
    widths = (config.width, config.hidden)
  elif isinstance(config, dvae.DvaeConfig):
    blocks = config.groups * config.blocks
    widths = (config.hidden * 2 ** (min(config.groups, 64) - 1),)
  else:
    blocks = len(config.multipliers) * config.blocks
    side = config.patch ** (2 if isinstance(config, vqgan.VqganConfig) else 3)
    widths = (config.channels * max(*config.multipliers, config.stem), config.z, 3 * side)
  if blocks > len(tensors):
    raise ValueError(f"{path} has {len(tensors)} tensors; a tokenizer of {blocks} blocks has more")
  values = sum(math.prod(value.shape) for value in tensors.values())
  if max(widths) > min(values, _WIDEST):
    raise ValueError(
      f"{path} has {values:,} values, of no tokenizer {max(widths):,.4g} channels wide"
    )


def _silent(kind: type[Config]) -> dict[str, Any]:
  """Fields that a file names where they differ from these values alone."""
  if kind is dvae.DvaeConfig:
    return {}
  if kind is fsq.FsqConfig:
    return {"codebook": 0, "embed": 24}
  fields = dataclasses.fields(kind)
  return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _config(kind: type[Config], size: Mapping[str, Any], path: str) -> Config:
  needed = {field.name for field in dataclasses.fields(kind)} - _silent(kind).keys()
  if missing := sorted(needed - size.keys()):
    raise outside.Damaged(
      path, f"its config has no {', '.join(missing)}; it is of another version: train it again"
    )
  return outside.fields(kind, f"{path}: config", size)


def _check(tensors: Mapping[str, np.ndarray], config: Config, path: str) -> None:
  """Raises ValueError unless names, shapes and dtypes fit the config."""
  if not 1 <= config.vocab <= MAX_VOCAB:
    raise ValueError(
      f"{path}: its config has {config.vocab:.3g} codes; 1 to {MAX_VOCAB:,} are read"
    )
  check_size(config, tensors, path)
  try:
    tree = module(config).shapes(config)
  except Exception as error:  # whatever sides without a size are to a library
    raise ValueError(f"{path}: there is no tokenizer of {config} ({brief(error)})") from error
  expected = {".".join(path): leaf.shape for path, leaf in tree_lib.paths(tree).items()}
  missing, extra = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
  if missing or extra:
    raise ValueError(
      f"{path}: missing tensors {missing}, unexpected tensors {extra}; they"
      f" do not belong to {config}"
    )
  for name, shape in expected.items():
    value = tensors[name]
    if value.shape != shape:
      raise ValueError(f"{path}: tensor {name} has shape {value.shape}; {config} needs {shape}")
    if value.dtype not in (np.float32, np.float16):
      raise ValueError(f"{path}: tensor {name} is {value.dtype}; use float32 or float16")
    if not np.isfinite(value).all():
      raise ValueError(
        f"{path}: tensor {name} has values that are not finite; the training"
        " diverged or float16 overflowed"
      )
