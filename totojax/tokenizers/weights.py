"""Tokenizer files: safetensors with the config and a card in the metadata.

A file holds every parameter under its path ("encoder.input.w"), and nothing
else. Reading is strict: a missing, extra or wrongly shaped tensor is an error
that names it. Values may be stored in float16 to halve the file; they are used
in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from totojax.tokenizers import api
from totojax.tokenizers import dvae

SHIPPED = "shipped"
_SHIPPED_DIR = pathlib.Path(__file__).parent / "shipped"
_FORMAT = "totojax-dvae-1"
_BATCH = 64  # frames of a call; at 128 pixels the widest layer is 1 GB


def save(
    path: str | os.PathLike[str],
    params: Any,
    config: dvae.DvaeConfig,
    *,
    card: Mapping[str, Any],
    dtype: str,
) -> str:
  """Writes a tokenizer and returns its fingerprint.

  Args:
    path: file to write; its directory must exist.
    params: {"encoder", "decoder"}, unboxed.
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
  settings = dataclasses.asdict(config)
  metadata = {
      "format": _FORMAT,
      "config": json.dumps(settings, sort_keys=True),
      "card": json.dumps(dict(card), sort_keys=True),
  }
  whole = pathlib.Path(path)
  part = whole.with_name(whole.name + ".part")
  safetensors.numpy.save_file(tensors, part, metadata=metadata)
  os.chmod(part, 0o644)  # safetensors makes it readable for its owner alone
  os.replace(part, whole)
  return fingerprint(tensors, settings)


def load(path: str | os.PathLike[str]) -> api.Tokenizer:
  """The tokenizer in a file, or the packaged one for the path "shipped".

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: on another format, config or set of tensors.
  """
  params, config, mark = read(path)
  return tokenizer(params, config, mark)


def read(
    path: str | os.PathLike[str],
) -> tuple[Any, dvae.DvaeConfig, str]:
  """Parameters (float32), config and fingerprint of a tokenizer file."""
  path = resolve(path)
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = file.metadata() or {}
      tensors = {name: file.get_tensor(name) for name in file.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(
        f"{path} is no whole safetensors file ({error}); copy or train it again"
    ) from error
  if metadata.get("format") != _FORMAT:
    raise ValueError(
        f"{path} has format {metadata.get('format')!r}; a tokenizer file has"
        f" {_FORMAT!r}: write one with weights.save"
    )
  settings = json.loads(metadata["config"])
  config = _config(settings, str(path))
  _check(tensors, config, str(path))
  mark = fingerprint(tensors, settings)
  flat = {name: value.astype(np.float32) for name, value in tensors.items()}
  return traverse_util.unflatten_dict(flat, sep="."), config, mark


def card(path: str | os.PathLike[str]) -> dict[str, Any]:
  """How the tokenizer in a file was made: command, data, scores."""
  with safetensors.safe_open(resolve(path), framework="numpy") as file:
    return json.loads((file.metadata() or {}).get("card", "{}"))


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
  """The file that a path means; "shipped" is the one in the package."""
  if str(path) == SHIPPED:
    found = sorted(_SHIPPED_DIR.glob("*.safetensors"))
    if len(found) != 1:
      raise FileNotFoundError(
          f"{len(found)} tokenizer files in {_SHIPPED_DIR}; the package ships"
          " one: reinstall it, or train one with configs/tokenizer.py"
      )
    return found[0]
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
        f"no tokenizer file at {path}; train one with configs/tokenizer.py or"
        f" use {SHIPPED!r}"
    )
  return path


def tokenizer(
    params: Any, config: dvae.DvaeConfig, mark: str
) -> api.Tokenizer:
  """Encoder and decoder as jitted functions over numpy batches."""
  params = jax.tree.map(jnp.asarray, params)

  @jax.jit
  def codes_of(params, frames_BHWC):
    logits_BGGV = dvae.logits(config, params, frames_BHWC)
    return jnp.argmax(logits_BGGV, axis=-1).astype(jnp.int32)

  @jax.jit
  def frames_of(params, codes_BGG):
    z_BGGV = jax.nn.one_hot(codes_BGG, config.vocab, dtype=jnp.float32)
    colours = dvae.pixels(dvae.statistics(config, params, z_BGGV))
    return jnp.rint(colours * 255.0).astype(jnp.uint8)

  def encode(frames_NHWC: np.ndarray) -> np.ndarray:
    api.check_frames(frames_NHWC, config.factor)
    return api.in_batches(
        lambda part: codes_of(params, part), frames_NHWC, _BATCH
    )

  def decode(codes_NGG: np.ndarray) -> np.ndarray:
    api.check_codes(codes_NGG, config.vocab)
    return api.in_batches(
        lambda part: frames_of(params, part), codes_NGG.astype(np.int32), _BATCH
    )

  return api.Tokenizer(
      vocab=config.vocab,
      factor=config.factor,
      fingerprint=mark,
      config=dataclasses.asdict(config),
      encode=encode,
      decode=decode,
  )


def fingerprint(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> str:
  """16 hex digits of the SHA-256 over config and tensors as stored."""
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
  for name in sorted(tensors):
    value = np.ascontiguousarray(tensors[name])
    digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


def _config(settings: Mapping[str, Any], path: str) -> dvae.DvaeConfig:
  names = {field.name for field in dataclasses.fields(dvae.DvaeConfig)}
  if set(settings) != names:
    raise ValueError(
        f"the config in {path} has keys {sorted(settings)}; a dVAE has"
        f" {sorted(names)}: the file is of another version, train it again"
    )
  return dvae.DvaeConfig(**settings)


def _check(
    tensors: Mapping[str, np.ndarray], config: dvae.DvaeConfig, path: str
) -> None:
  """Raises ValueError unless names, shapes and dtypes fit the config."""
  tree = nn.unbox(jax.eval_shape(lambda k: dvae.init(config, k), _key()))
  expected = {
      name: leaf.shape
      for name, leaf in traverse_util.flatten_dict(tree, sep=".").items()
  }
  missing = sorted(set(expected) - set(tensors))
  extra = sorted(set(tensors) - set(expected))
  if missing or extra:
    raise ValueError(
        f"{path}: missing tensors {missing}, unexpected tensors {extra}; they"
        f" do not belong to {config}"
    )
  for name, shape in expected.items():
    value = tensors[name]
    if value.shape != shape:
      raise ValueError(
          f"{path}: tensor {name} has shape {value.shape}; {config} needs"
          f" {shape}"
      )
    if value.dtype not in (np.float32, np.float16):
      raise ValueError(
          f"{path}: tensor {name} is {value.dtype}; use float32 or float16"
      )
    if not np.isfinite(value).all():
      raise ValueError(
          f"{path}: tensor {name} has values that are not finite; the training"
          " diverged or float16 overflowed"
      )


def _key() -> jax.ShapeDtypeStruct:
  return jax.eval_shape(lambda: jax.random.key(0))
