"""Tokenizer files: safetensors with the config and a card in the metadata.

A dVAE, or a VQGAN of any family, by the format and config that the metadata
name. A file holds every
parameter under its path ("encoder.input.w"), and nothing else. Reading is
strict: a missing, extra or wrongly shaped tensor is an error that names it.
Values may be stored in float16 to halve the file; they are used in float32.
"""

from collections.abc import Mapping
import dataclasses
import functools
import io
import json
import math
import os
import pathlib
import types
from typing import Any, IO

from etils import epath
from flax import traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy

from totojax import plugins, tree as tree_lib
from totojax.rundir import files
from totojax.tokenizers import api, batches, dvae, vqgan

Config = dvae.DvaeConfig | vqgan.VqganConfig

SHIPPED = "shipped"
_SHIPPED_DIR = pathlib.Path(__file__).parent / "shipped"
_FORMATS = {"totojax-dvae-1": dvae.DvaeConfig, "totojax-vqgan-1": vqgan.VqganConfig}


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
  }
  files.write_bytes(path, safetensors.numpy.save(tensors, metadata))
  return api.fingerprint(tensors, settings)


def load(path: str | os.PathLike[str], *, precision: str = api.HIGHEST) -> api.Tokenizer:
  """The tokenizer in a file, or the packaged one for the path "shipped".

  Args:
    path: a file that `save` wrote (local or gs://), "shipped", or a Python file
      of the user's (`plugins`).
    precision: of the products on an accelerator (`api.PASSES`). Below the
      highest, codes may differ from those that others made with the same file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: on another format, config or set of tensors.
  """
  if plugins.is_reference(os.fspath(path)):
    return plugins.load(os.fspath(path), "tokenizer", api.Tokenizer, _is_whole)
  params, config, mark = read(path)
  return tokenizer(params, config, mark, precision=precision)


def _is_whole(value: api.Tokenizer) -> bool:
  """Whether what a user gives has values of the types that are reckoned with."""
  numbers = (value.vocab, value.factor, value.passes)
  words = (value.kind, value.fingerprint)
  calls = (value.encode, value.decode, value.codes_of, value.macs)
  return (
    all(type(number) is int and number >= 0 for number in numbers)
    and all(isinstance(word, str) and word for word in words)
    and all(map(callable, calls))
  )


def read(path: str | os.PathLike[str]) -> tuple[Any, Config, str]:
  """Parameters (float32), config and fingerprint of a tokenizer file."""
  file = resolve(path)
  data = files.read_bytes(file)
  try:
    tensors = safetensors.numpy.load(data)
    metadata = _metadata(io.BytesIO(data))
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{file} is no whole safetensors file ({error}); copy or train it"
      " again, or convert a released one with configs/official.py"
    ) from error
  if metadata.get("format") not in _FORMATS:
    raise ValueError(
      f"{file} has format {metadata.get('format')!r}; a tokenizer file has"
      f" one of {sorted(_FORMATS)}: write one with weights.save"
    )
  settings = json.loads(metadata["config"])
  config = _config(_FORMATS[metadata["format"]], settings, str(file))
  _check(tensors, config, str(file))
  mark = api.fingerprint(tensors, settings)
  flat = {name: value.astype(np.float32) for name, value in tensors.items()}
  return traverse_util.unflatten_dict(flat, sep="."), config, mark


def card(path: str | os.PathLike[str]) -> dict[str, Any]:
  """How the tokenizer in a file was made: command, data, scores."""
  file = io.BytesIO(files.read_bytes(resolve(path)))
  return json.loads(_metadata(file).get("card", "{}"))


def _metadata(file: IO[bytes]) -> dict[str, str]:
  """Of a safetensors file: 8 bytes say how long the JSON after them is."""
  size = int.from_bytes(file.read(8), "little")
  return json.loads(file.read(size)).get("__metadata__", {})


def resolve(path: str | os.PathLike[str]) -> epath.Path:
  """The file that a path means; "shipped" is the one in the package."""
  if str(path) == SHIPPED:
    shipped = sorted(_SHIPPED_DIR.glob("*.safetensors"))
    if len(shipped) != 1:
      raise FileNotFoundError(
        f"{len(shipped)} tokenizer files in {_SHIPPED_DIR}; the package ships"
        " one: reinstall it, or train one with configs/tokenizer.py"
      )
    return epath.Path(shipped[0])
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
  passes, module = api.passes(precision), _module(config)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), jax.device_get(params))
  codes_of = functools.partial(module.codes, config, precision=precision)
  encoder = batches.LocalDevices(codes_of, params)
  decoder = batches.LocalDevices(
    functools.partial(module.draw, config, precision=precision), params
  )

  def rows(tokens: int) -> int:
    return batches.call_rows(tokens * module.macs(config, config.factor))

  def encode(frames_NHWC: np.ndarray) -> np.ndarray:
    api.check_frames(frames_NHWC, config.factor)
    tokens = math.prod(frames_NHWC.shape[1:3]) // config.factor**2
    return encoder(frames_NHWC, rows=rows(tokens))

  def decode(codes_NGG: np.ndarray) -> np.ndarray:
    api.check_codes(codes_NGG, config.vocab)
    tokens = math.prod(codes_NGG.shape[1:])
    return decoder(codes_NGG.astype(np.int32), rows=rows(tokens))

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
    macs=functools.partial(module.macs, config),
    passes=passes,
  )


def _module(config: Config) -> types.ModuleType:
  """The module with the functions of a kind."""
  return dvae if isinstance(config, dvae.DvaeConfig) else vqgan


def _format(config: Config) -> str:
  return next(f for f, kind in _FORMATS.items() if isinstance(config, kind))


def _settings(config: Config) -> dict[str, Any]:
  """The config as plain values, without what is as in every older file."""
  silent = _silent(type(config))
  values = dataclasses.asdict(config)
  return {k: v for k, v in values.items() if k not in silent or v != silent[k]}


def _silent(kind: type[Config]) -> dict[str, Any]:
  """Fields that a file names where they differ from these values alone."""
  if kind is dvae.DvaeConfig:
    return {}
  fields = dataclasses.fields(kind)
  return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _config(kind: type[Config], size: Mapping[str, Any], path: str) -> Config:
  names = {field.name for field in dataclasses.fields(kind)}
  if not names - _silent(kind).keys() <= size.keys() <= names:
    raise ValueError(
      f"the config in {path} has keys {sorted(size)}; a {kind.__name__} has {sorted(names)}: the"
      " file is of another version, train or convert it again"
    )
  values: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value for name, value in size.items()
  }
  return kind(**values)


def _check(tensors: Mapping[str, np.ndarray], config: Config, path: str) -> None:
  """Raises ValueError unless names, shapes and dtypes fit the config."""
  tree = _module(config).shapes(config)
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
