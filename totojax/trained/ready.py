"""Other people's encoders by name: of weights that lie on disk, nothing is downloaded.

  dinov2:FOLDER    DINOv2, with registers or without      a class token and patches
  dinov3:FOLDER    DINOv3's vision transformers           a class token and patches
  mae:FOLDER       ViT-MAE                                a class token and patches
  clip:FOLDER      CLIP's vision tower                    a class token and patches
  videomae:FOLDER  VideoMAE                               patches of clips
  vjepa2:FOLDER    V-JEPA 2                               patches of clips
  rvm:FILE.npz     RVM, recurrent (representations4d)     patches of every frame
  4ds:FILE.npz     4DS (representations4d)                patches of clips
  pixels:SIDE      small pixels, no network               one vector a frame

The first six are folders of transformers, as its `save_pretrained` leaves them
or a hub holds them: config.json, safetensors, and preprocessor_config.json, whose
mean and deviation of pixels are used (without it, those with which the family
was trained). They need the `encoders` extra. `dinov2@392:FOLDER` reads frames of
another size; positions are interpolated as the model itself does.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np

from totojax import plugins
from totojax.config.schema import ConfigError
from totojax.storage import objects, outside
from totojax.trained import encoders, representations4d

KINDS = plugins.ENCODERS
_NAME = re.compile(rf"({'|'.join(KINDS)})(?:@([1-9]\d{{0,4}}))?:(.+)")
_PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_STILL = 16  # frames that a model without a number of its own is given, and of a still image
_SIDE = 64  # the largest of `pixels`


@dataclasses.dataclass(frozen=True)
class _Family:
  """Models of transformers that go by one name."""

  # model_type of config.json -> class.
  classes: Mapping[str, str]
  mean: tuple[float, ...] = encoders.MEAN
  std: tuple[float, ...] = encoders.STD
  # Parameters that a checkpoint may lack: no feature depends on them.
  unused: tuple[str, ...] = ()


_FAMILIES = {
  "dinov2": _Family(
    {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"},
    unused=("embeddings.mask_token",),
  ),
  "dinov3": _Family({"dinov3_vit": "DINOv3ViTModel"}, unused=("embeddings.mask_token",)),
  "mae": _Family({"vit_mae": "ViTMAEModel"}),
  "clip": _Family(
    {"clip": "CLIPVisionModel", "clip_vision_model": "CLIPVisionModel"}, _CLIP_MEAN, _CLIP_STD
  ),
  "videomae": _Family({"videomae": "VideoMAEModel"}),
  "vjepa2": _Family({"vjepa2": "VJEPA2Model"}, unused=("predictor.",)),
}


def is_name(reference: str) -> bool:
  """Whether a reference names an encoder of this file."""
  return _NAME.fullmatch(reference) is not None


def load(reference: str, *, pool: str = "clip", norm: bool = False) -> encoders.Encoder:
  """An encoder by name, or what `encoder()` of the user's file returns.

  Args:
    reference: "dinov2:FOLDER", say, or "FILE.py".
    pool: of a name: "clip", a mean over patches and frames; "class", the class
      token; "token", every patch.
    norm: of a name: whether its layers pass the norm after its last block.

  Raises:
    ValueError: there is no such encoder, its files are damaged, or it has no
      such tokens, norm or size.
    ImportError: it needs an extra that is not installed.
  """
  found = _NAME.fullmatch(reference)
  if found is None:
    return _users(reference, pool=pool, norm=norm)
  kind, size, path = found[1], int(found[2] or 0), found[3]
  if kind in _FAMILIES:
    return _of_transformers(kind, path, pool=pool, norm=norm, size_px=size)
  if pool == "class" and kind != "rvm":
    raise ConfigError(f"{reference} has no class token; set pool to 'clip' or 'token'")
  if norm:
    raise ConfigError(f"{reference} has no norm after its last block; set norm to False")
  if kind == "pixels":
    return _pixels(path, pool=pool)
  return _in_jax(kind, path, pool=pool, size_px=size)


def _users(reference: str, *, pool: str, norm: bool) -> encoders.Encoder:
  if pool == "class" or norm:
    raise ConfigError(
      f"pool 'class' and norm are of encoders by name, and {reference} makes its own features; set"
      " pool to 'clip' or 'token', and norm to False"
    )
  if not plugins.is_reference(reference):
    kind, at, size = reference.partition(":")[0].partition("@")
    if at and kind in KINDS:
      raise ConfigError(
        f"the encoder is {reference!r:.200}, and {size!r:.20} no side of a frame; give pixels from"
        f" 1 to 99999 and then its files, as {kind}@224:PATH, or none: {kind}:PATH"
      )
    known = ", ".join(f"{kind}:PATH" for kind in KINDS)
    raise ConfigError(f"the encoder is {reference!r:.200}; name a Python file, or one of {known}")
  encoder = encoders.load(reference)
  return dataclasses.replace(encoder, digest=plugins.find(reference, "encoder").digest)


def _of_transformers(
  kind: str, path: str, *, pool: str, norm: bool, size_px: int
) -> encoders.Encoder:
  """A model of a folder on this machine.

  Raises:
    ValueError: the folder is none of this family's, or lacks parameters.
  """
  family, folder = _FAMILIES[kind], pathlib.Path(path)
  if objects.is_url(path):
    raise ConfigError(f"{kind}:{path} is in a bucket; copy the folder to this machine")
  if not (folder / "config.json").is_file():
    raise ConfigError(
      f"{path} has no config.json; give the folder of a model of transformers, as"
      " save_pretrained leaves it, on this machine (nothing is downloaded)"
    )
  weights = sorted(folder.glob("*.safetensors"))
  if not weights:
    raise ConfigError(
      f"{path} has no *.safetensors, and nothing else is read: convert the weights with"
      " save_pretrained of transformers"
    )
  facts = outside.read_json(folder / "config.json")
  kinds = family.classes
  model_type = facts.get("model_type") if isinstance(facts, dict) else None
  if not isinstance(model_type, str) or model_type not in kinds:
    raise ConfigError(
      f"{folder / 'config.json'} is of a {outside.shown(model_type)}; {kind}: reads"
      f" {' and '.join(kinds)}"
    )
  mean, std = _normalisation(folder, family)
  lib = encoders.transformers()
  model = _built(getattr(lib, kinds[model_type]), folder, kind=kind, size_px=size_px)
  model = model.to("cuda" if encoders.torch().cuda.is_available() else "cpu")
  pools = {"clip": "patches", "token": "tokens", "class": "class"}
  # An encoder of images takes the mean over a clip's frames.
  frames = {} if model_type in encoders.VIDEO else {"frames": _STILL}
  try:
    return encoders.of_vit(
      model,
      **frames,
      pool=pools[pool],
      size_px=size_px,
      norm=norm,
      mean=mean,
      std=std,
      digest=_digest([folder / "config.json", *weights], mean, std),
    )
  except (TypeError, ValueError, ZeroDivisionError) as error:
    raise ConfigError(f"{kind}:{path}: {outside.shown(error)}") from error


def _built(cls: Any, folder: pathlib.Path, *, kind: str, size_px: int) -> Any:
  """The model with the folder's parameters, all of them."""
  lib = encoders.transformers()
  verbosity = lib.logging.get_verbosity()
  lib.logging.set_verbosity_error()  # what it would warn of is an error here
  try:
    config = cls.config_class.from_pretrained(os.fspath(folder), local_files_only=True)
    if kind == "vjepa2" and size_px:
      config.crop_size = size_px  # its positions are of this, whatever the frames are
    model, info = cls.from_pretrained(
      os.fspath(folder),
      config=config,
      local_files_only=True,
      use_safetensors=True,
      dtype=encoders.torch().float32,
      output_loading_info=True,
      ignore_mismatched_sizes=True,  # it tells of them where nobody looks; below
    )
  except Exception as error:  # of many kinds, and of any of its files
    raise outside.Damaged(folder, error, "; copy the folder again") from error
  finally:
    lib.logging.set_verbosity(verbosity)
  family = _FAMILIES[kind]
  if wrong := sorted(info["mismatched_keys"]):
    name, stored, needed = wrong[0]
    raise outside.Damaged(
      folder,
      f"{name} is {[*stored]}, and its config.json asks for {[*needed]}",
      "; give weights and config.json of one model",
    )
  lost = sorted(k for k in info["missing_keys"] if not k.startswith(family.unused))
  if lost:
    raise outside.Damaged(
      folder,
      f"it lacks {len(lost)} parameters of {cls.__name__}, the first of them {lost[0]}",
      "; give the folder of the whole model",
    )
  return model


def _normalisation(
  folder: pathlib.Path, family: _Family
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, deviation) of pixels from 0 to 1 as the folder says, or the family's."""
  for name in _PREPROCESSORS:
    path = folder / name
    if not path.is_file():
      continue
    facts = outside.read_json(path)
    if not isinstance(facts, dict):
      raise outside.Damaged(path, "it is no object")
    if facts.get("do_normalize") is False:
      return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    values = [facts.get(key) for key in ("image_mean", "image_std")]
    if values == [None, None]:
      continue
    mean, std = (_three(path, value) for value in values)
    if min(std) <= 0:
      raise outside.Damaged(path, f"image_std is {std}, which is not above 0")
    return mean, std
  return family.mean, family.std


def _three(path: pathlib.Path, value: Any) -> tuple[float, ...]:
  ok = isinstance(value, list) and len(value) == 3
  if not ok or not all(type(v) in (int, float) and abs(v) <= 1e3 for v in value):
    raise outside.Damaged(path, f"{value!r:.80} is no mean or deviation of three channels")
  return tuple(map(float, value))


def _digest(paths: Sequence[pathlib.Path], *more: Any) -> str:
  state = hashlib.sha256(repr(more).encode())
  for path in paths:
    with outside.open_plain(path) as file:
      while data := file.read(2**22):
        state.update(data)
  return state.hexdigest()[:32]


def _in_jax(kind: str, path: str, *, pool: str, size_px: int) -> encoders.Encoder:
  """RVM or 4DS, of one file."""
  model = representations4d.load(kind, path)
  size, frames = size_px or model.size_px, model.frames or _STILL
  if size % model.patch_px:
    raise ConfigError(
      f"{kind}:{path} reads frames of a multiple of {model.patch_px} pixels, and {size} were"
      " asked for"
    )
  compute = jax.jit(functools.partial(model.features, pool=pool))

  def features(clips_RNSS3: np.ndarray) -> np.ndarray:
    if clips_RNSS3.shape[1] == 1:
      clips_RNSS3 = np.repeat(clips_RNSS3, frames, axis=1)
    # A clip at a time: the widest has 3.8 billion parameters.
    parts = [np.asarray(compute(model.params, clip_NSS3)) for clip_NSS3 in clips_RNSS3]
    return np.stack(parts, axis=1)

  return encoders.Encoder(
    size,
    frames,
    model.layers,
    features,
    multiple=model.frames or 1,
    digest=model.digest,
    grid=size // model.patch_px,
    streams=kind == "rvm",
  )


def _pixels(side: str, *, pool: str) -> encoders.Encoder:
  """Pixels themselves: what can be told without a network."""
  if not side.isdigit() or not 1 <= int(side) <= _SIDE:
    raise ConfigError(f"pixels:{side:.20} is no side; use pixels:1 to pixels:{_SIDE}")

  def features(clips_RNSS3: np.ndarray) -> np.ndarray:
    clips, count = clips_RNSS3.shape[:2]
    x_RNF = clips_RNSS3.reshape(clips, count, -1).astype(np.float32) / 255.0
    return x_RNF[None] if pool == "token" else x_RNF.reshape(1, clips, -1)

  return encoders.Encoder(int(side), _STILL, (0,), features, digest=f"pixels {side}")
