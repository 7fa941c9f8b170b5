"""The released tokenizers: DALL-E's dVAE, taming's VQGANs, and their kin.

Their files are torch pickles, TorchScript or safetensors. They are read once,
with `pickles`, and written as a tokenizer file of ours, whose card has the
SHA-256 of what was read: most publishers print none.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from totojax.tokenizers import dvae, vqgan, weights
from totojax.tokenizers.families import FAMILIES
from totojax.tokenizers.released import download, pickles, sizes


@dataclasses.dataclass(frozen=True)
class Kind:
  """A released tokenizer, or a family of them."""

  name: str  # of the kind
  files: tuple[str, ...]  # names of its files, in the order in which they are given
  # Their addresses, a file each; or the page of the files, which users download.
  urls: tuple[str, ...]
  # The size that they have; or a family of which any size is read.
  config: dvae.DvaeConfig | vqgan.VqganConfig | str

  @property
  def family(self) -> str:
    """Of its network."""
    return self.config if isinstance(self.config, str) else getattr(self.config, "family", "dvae")

  @property
  def is_downloaded(self) -> bool:
    """Whether there are addresses to download from."""
    return not isinstance(self.config, str)

  def origin(self, file: int) -> str:
    """Where its file of this number is to be had."""
    return self.urls[min(file, len(self.urls) - 1)]


_DVAE = dvae.DvaeConfig(
  vocab=8192, hidden=256, groups=4, blocks=2, decoder_init=128, post_gain=1 / 64
)
_VQGAN_1K = vqgan.VqganConfig(
  vocab=1024, embed=256, z=256, channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(4,)
)
_DIFFUSERS = ("config.json", "diffusion_pytorch_model.safetensors")
# Addresses: github.com/openai/DALL-E, notebooks/usage.ipynb; and
# github.com/CompVis/taming-transformers, overview of pretrained models. Pages:
# the READMEs of the publishers' repositories (see `families`).
KINDS: Mapping[str, Kind] = {
  kind.name: kind
  for kind in (
    Kind(
      "dvae",
      ("encoder.pkl", "decoder.pkl"),
      ("https://cdn.openai.com/dall-e/encoder.pkl", "https://cdn.openai.com/dall-e/decoder.pkl"),
      _DVAE,
    ),
    Kind(
      "vqgan-1k",
      ("last.ckpt",),
      ("https://heibox.uni-heidelberg.de/f/140747ba53464f49b476/?dl=1",),
      _VQGAN_1K,
    ),
    Kind(
      "vqgan-16k",
      ("last.ckpt",),
      ("https://heibox.uni-heidelberg.de/f/867b05fc8c4841768640/?dl=1",),
      dataclasses.replace(_VQGAN_1K, vocab=16384),
    ),
    Kind(
      "llamagen",
      ("vq_ds16_c2i.pt",),
      ("https://huggingface.co/FoundationVision/LlamaGen",),
      "llamagen",
    ),
    Kind("amused", _DIFFUSERS, ("https://huggingface.co/amused/amused-256",), "amused"),
    Kind(
      "diffusers",
      _DIFFUSERS,
      ("https://huggingface.co/kandinsky-community/kandinsky-2-2-decoder",),
      "diffusers",
    ),
    Kind(
      "ibq",
      ("imagenet256_16384.ckpt",),
      ("https://huggingface.co/TencentARC/IBQ-Tokenizer-16384",),
      "ibq",
    ),
    Kind(
      "open-magvit2",
      ("imagenet_256_L.ckpt",),
      ("https://huggingface.co/TencentARC/Open-MAGVIT2-Tokenizer-256-resolution",),
      "open-magvit2",
    ),
    Kind(
      "cosmos-di",
      ("encoder.jit", "decoder.jit"),
      ("https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-DI16x16",),
      "cosmos-di",
    ),
  )
}
# The start of a name that tells which family's a file is, the surest first, and
# the family. What has the same names as another is not told apart here.
_SIGNS = (
  ("blocks.input.w", "DALL-E's dVAE", {"dvae"}),
  ("encoder.down_temporal.", "a VidTok, which reads videos", set()),
  ("encoder.conv_in.0.conv3d.", "a Cosmos DV, which reads videos", set()),
  ("encoder.conv_blocks.", FAMILIES["llamagen"].what, {"llamagen"}),
  ("encoder.down_blocks.", FAMILIES["diffusers"].what, {"diffusers", "amused"}),
  ("decoder.adaptive.", FAMILIES["open-magvit2"].what, {"open-magvit2"}),
  ("inv_quant.quantizer.", FAMILIES["cosmos-di"].what, {"cosmos-di"}),
  ("quantizer._levels", FAMILIES["cosmos-di"].what, {"cosmos-di"}),
  ("model_ema.", FAMILIES["ibq"].what, {"ibq"}),
  ("quantize.embedding.weight", FAMILIES["vqgan"].what, {"vqgan", "ibq"}),
)
# aMUSEd's, whose pixels are of 0 to 1: the tensors are as any VQModel's.
_AMUSED = dict(channels=128, multipliers=(1, 2, 2, 4, 6), z=64, vocab=8192)
_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
}


def find(name: str) -> Kind:
  """The kind of this name.

  Raises:
    ValueError: there is none.
  """
  if name not in KINDS:
    raise ValueError(f"the official tokenizer {name!r} is unknown; use one of {', '.join(KINDS)}")
  return KINDS[name]


def convert(
  kind: str | Kind,
  files: Sequence[str | os.PathLike[str]],
  out: str | os.PathLike[str],
  *,
  sha256: Sequence[str] = (),
) -> str:
  """Writes a tokenizer file from the released ones; returns its fingerprint.

  Prints the SHA-256 of each file. Nothing in the files is executed.

  Args:
    kind: a name of `KINDS`, or a `Kind` of another size.
    files: as its `files` are called, in their order.
    out: safetensors file; its folder must exist.
    sha256: what each file must have; empty: not checked.

  Raises:
    FileNotFoundError: a file is not there.
    ValueError: a file is not the one that it should be: another hash, hostile,
      cut short, the decoder for the encoder, another model or size, tensors
      missing, too many, or of another shape.
  """
  kind = find(kind) if isinstance(kind, str) else kind
  paths = [pathlib.Path(file) for file in files]
  if len(paths) != len(kind.files):
    raise ValueError(
      f"{len(paths)} files were given for {kind.name}; it is made of"
      f" {len(kind.files)}: {', '.join(kind.files)}"
    )
  digests = []
  for i, path in enumerate(paths):
    if not path.is_file():
      raise FileNotFoundError(f"no file at {path}; give {kind.files[i]} from {kind.origin(i)}")
    digests.append(
      download.check_digest(path, sha256[i], f"get it from {kind.origin(i)}")
      if sha256
      else download.digest(path)
    )
    print(f"{path}: SHA-256 {digests[i]}", flush=True)
  named = ", ".join(map(str, paths))
  params, config = _parameters(kind, paths, named)
  card = {
    "kind": kind.name,
    "source": [{"file": path.name, "sha256": digest} for path, digest in zip(paths, digests)],
  }
  try:
    return weights.save(out, params, config, card=card, dtype="float32")
  except ValueError as error:  # values that are not finite
    raise ValueError(f"{named}: {error}") from error


def _parameters(
  kind: Kind, paths: Sequence[pathlib.Path], named: str
) -> tuple[Any, dvae.DvaeConfig | vqgan.VqganConfig]:
  """Of the files of a kind, whose names stand before what is wrong with them."""
  if kind.files == _DIFFUSERS:
    published, tensors = _json(paths[0]), [read(paths[1])]
  else:
    keys = FAMILIES[kind.family].keys if kind.family in FAMILIES else ("state_dict",)
    published, tensors = None, [read(path, keys) for path in paths]
  try:
    for state in tensors:
      _check_model(kind, state)
    if kind.family == "dvae":
      params, config = dvae.from_reference(*tensors)
    else:
      size = sizes.from_diffusers(published, kind.family) if published is not None else None
      params, config = vqgan.from_reference(_joined(kind, tensors), kind.family, size)
    _check_size(kind, config)
  except ValueError as error:
    raise ValueError(f"{named}: {error}") from error
  return params, config


def read(
  path: str | os.PathLike[str], keys: Sequence[str] = ("state_dict",)
) -> Mapping[str, np.ndarray]:
  """The tensors of a safetensors or a torch file, by their names.

  Args:
    path: the file; its content tells which it is.
    keys: of a torch checkpoint, as `pickles.read` takes them.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such file, or damaged.
  """
  path = pathlib.Path(path)
  with open(path, "rb") as file:
    head = file.read(9)
  if head[8:] != b"{":  # after the length of a header in JSON
    return pickles.read(path, keys)
  try:
    parts = dict(safetensors.deserialize(path.read_bytes()))
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path}: it is no whole safetensors file ({error}); download the file again"
    ) from error
  if odd := sorted({part["dtype"] for part in parts.values()} - _DTYPES.keys()):
    raise ValueError(
      f"{path}: it has tensors of type {', '.join(odd)}; supported are"
      f" {', '.join(_DTYPES)}: save it as float32"
    )
  return {
    name: np.frombuffer(part["data"], _DTYPES[part["dtype"]]).reshape(part["shape"])
    for name, part in parts.items()
  }


def _json(path: pathlib.Path) -> Mapping[str, Any]:
  """The values of a config.json."""
  try:
    values = json.loads(path.read_bytes())
  except ValueError:
    values = None
  if not isinstance(values, dict):
    raise ValueError(
      f"{path} is no config.json; give the one of the weights, and the weights after it"
    )
  return values


def _joined(kind: Kind, tensors: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The tensors of all files, each of which is what its place asks for."""
  for name, state in zip(kind.files, tensors):
    part = name.split(".")[0]
    if len(tensors) > 1 and not any(key.startswith(part + ".") for key in state):
      raise ValueError(
        f"what was given as the {part} has no tensor of it; give {', then '.join(kind.files)}"
      )
  return {name: value for state in tensors for name, value in state.items()}


def _check_model(kind: Kind, tensors: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError for the files of another model."""
  for sign, what, families in _SIGNS:
    if found := next((name for name in tensors if name.startswith(sign)), None):
      if kind.family in families:
        return
      raise ValueError(
        f"this is a file of {what} (it has {found}); {kind.name} is made of"
        f" {', '.join(kind.files)} from {', '.join(kind.urls)}"
      )


def _check_size(kind: Kind, config: dvae.DvaeConfig | vqgan.VqganConfig) -> None:
  if isinstance(kind.config, str):
    _check_twin(kind, config)
    return
  if config == kind.config:
    return
  fits = [other.name for other in KINDS.values() if other.config == config]
  wrong = ", ".join(
    f"{field} {value} instead of {getattr(kind.config, field)}"
    for field, value in dataclasses.asdict(config).items()
    if value != getattr(kind.config, field)
  )
  fix = f"it is {fits[0]}: give that kind" if fits else "give the released file"
  raise ValueError(f"this is not {kind.name}: it has {wrong}; {fix}")


def _check_twin(kind: Kind, config: Any) -> None:
  """Raises ValueError where a file is known to be of a twin of its family.

  Twins have the same names and shapes, so that nothing else would say it.
  """
  taming = dataclasses.replace(config, family="vqgan") if kind.family == "ibq" else None
  fits = [other.name for other in KINDS.values() if other.config == taming and taming]
  is_amused = all(getattr(config, name) == value for name, value in _AMUSED.items())
  if kind.family == "diffusers" and is_amused:
    fits = ["amused"]
  elif kind.family == "amused" and (config.spatial or config.middle_attention):
    fits = ["diffusers"]
  if fits:
    raise ValueError(
      f"this is not {kind.name}: it has the size and the parts of {fits[0]}; give that kind"
    )
