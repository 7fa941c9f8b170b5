"""The released tokenizers: DALL-E's dVAE, taming's VQGANs, their kin, and video's.

Their files are torch pickles, TorchScript or safetensors. They are read once,
with `pickles`, and written as a tokenizer file of ours, whose card has the
SHA-256 of what was read: most publishers print none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
from typing import Any

import numpy as np

from totojax.storage import arrays, outside
from totojax.tokenizers import causal, dvae, vqgan, weights
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
  # What its tensors do not tell, or not always: see `_variant`.
  variants: tuple[str, ...] = ()

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
    Kind(
      "vidtok",
      ("vidtok_fsq_causal_488_32768.ckpt",),
      ("https://huggingface.co/microsoft/VidTok",),
      "vidtok",
      variants=("v1.0", "v1.1"),
    ),
    Kind(
      "cosmos-dv",
      ("encoder.jit", "decoder.jit"),
      ("https://huggingface.co/nvidia/Cosmos-0.1-Tokenizer-DV8x16x16",),
      "cosmos-dv",
      variants=("4x8x8", "8x8x8", "8x16x16"),
    ),
  )
}
_IMAGES = "a Cosmos DI, which reads images"
# The start of a name that tells which family's a file is, the surest first, and
# the family. What has the same names as another is not told apart here.
_SIGNS = (
  ("blocks.input.w", "DALL-E's dVAE", {"dvae"}),
  ("encoder.down_temporal.", "a VidTok, which reads videos", {"vidtok"}),
  ("encoder.conv_in.0.conv3d.", "a Cosmos DV, which reads videos", {"cosmos-dv"}),
  ("decoder.conv_in.0.conv3d.", "a Cosmos DV, which reads videos", {"cosmos-dv"}),
  ("encoder.conv_blocks.", FAMILIES["llamagen"].what, {"llamagen"}),
  ("quantize.codebook_used", FAMILIES["llamagen"].what, {"llamagen"}),
  ("encoder.down_blocks.", FAMILIES["diffusers"].what, {"diffusers", "amused"}),
  ("decoder.adaptive.", FAMILIES["open-magvit2"].what, {"open-magvit2"}),
  ("inv_quant.quantizer.", _IMAGES, {"cosmos-di"}),
  ("quantizer._levels", _IMAGES, {"cosmos-di"}),
  ("model_ema.", FAMILIES["ibq"].what, {"ibq"}),
  ("quantize.embedding.weight", FAMILIES["vqgan"].what, {"vqgan", "ibq"}),
)
# Where no name tells: of a Cosmos DI's state dict, the axis along which a kernel
# has the values of a patch of 2, 4 or 8 pixels a side.
_PATCHED = {"encoder.conv_in.weight": 1, "decoder.conv_out.weight": 0}
# aMUSEd's, whose pixels are of 0 to 1: the tensors are as any VQModel's.
_AMUSED = dict(channels=128, multipliers=(1, 2, 2, 4, 6), z=64, vocab=8192)
# Of Cosmos, what the folder of a release is called.
_COSMOS = {"cosmos-di": r"DI(?:8x8|16x16)", "cosmos-dv": r"DV(?:4x8x8|8x8x8|8x16x16)"}


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
  variant: str = "",
) -> str:
  """Writes a tokenizer file from the released ones; returns its fingerprint.

  Prints the SHA-256 of each file. Nothing in the files is executed.

  Args:
    kind: a name of `KINDS`, or a `Kind` of another size.
    files: as its `files` are called, in their order.
    out: safetensors file; its folder must exist.
    sha256: what each file must have; empty: not checked.
    variant: of the kind's, where the names of the files do not tell it; empty:
      what they tell.

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
  _check_variant(kind, variant)
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
  params, config = _parameters(kind, paths, named, variant)
  card = {
    "kind": kind.name,
    "source": [{"file": path.name, "sha256": digest} for path, digest in zip(paths, digests)],
  }
  try:
    return weights.save(out, params, config, card=card, dtype="float32")
  except ValueError as error:  # values that are not finite
    raise ValueError(f"{named}: {error}") from error


def _parameters(
  kind: Kind, paths: Sequence[pathlib.Path], named: str, variant: str
) -> tuple[Any, weights.Config]:
  """Of the files of a kind, whose names stand before what is wrong with them."""
  with contextlib.ExitStack() as stack:
    return _read(kind, paths, named, variant, stack)


def _read(
  kind: Kind, paths: Sequence[pathlib.Path], named: str, variant: str, stack: contextlib.ExitStack
) -> tuple[Any, weights.Config]:
  # First its own, then those of all: the files of another family are named.
  asked = FAMILIES.get(kind.family, FAMILIES["vqgan"]).keys
  keys = tuple(dict.fromkeys((*asked, *(key for f in FAMILIES.values() for key in f.keys))))
  if kind.files == _DIFFUSERS:
    published, files = _json(paths[0]), paths[1:]
  else:
    published, files = None, paths
  tensors = [stack.enter_context(opened(path, keys)) for path in files]
  try:
    for state in tensors:
      _check_model(kind, state)
    _check_names(kind, paths)
    if kind.family == "dvae":
      params, config = dvae.from_reference(*tensors)
    elif kind.variants:
      state, variant = _joined(kind, tensors), _variant(kind, paths, variant)
      family = "vidtok-1.1" if variant == "v1.1" else kind.family
      config = sizes.of_clips(state, family, variant)
      params = causal.from_reference(state, config)
    else:
      size = sizes.from_diffusers(published, kind.family) if published is not None else None
      if size is not None:
        weights.check_size(size, tensors[0], "the weights beside it")
      params, config = vqgan.from_reference(_joined(kind, tensors), kind.family, size)
    _check_size(kind, config)
  except ValueError as error:
    raise ValueError(f"{named}: {error}") from error
  return params, config


def _check_variant(kind: Kind, variant: str) -> None:
  if variant and variant not in kind.variants:
    known = f"give one of {', '.join(kind.variants)}" if kind.variants else "leave it empty"
    raise ValueError(f"official.variant is {variant!r}; of {kind.name} there is none: {known}")


def _check_names(kind: Kind, paths: Sequence[pathlib.Path]) -> None:
  """Raises ValueError for parts of a Cosmos out of folders of two compressions.

  Their tensors may have the same names and shapes, so that nothing else says it.
  """
  if kind.family in _COSMOS:
    named = [_compression(kind, path) for path in paths]
    if all(named) and len({*named}) > 1:
      parts = (f"the {file.split('.')[0]} is called a {x}" for file, x in zip(kind.files, named))
      raise ValueError(f"{' and '.join(parts)}; give all files of one of them")


def _compression(kind: Kind, path: pathlib.Path) -> str:
  """Of a Cosmos, as the name of its folder has it ("DV8x16x16"); empty: it has not."""
  found = re.findall(rf"{_COSMOS[kind.family]}(?!\d)", str(path.resolve()))
  return found[-1] if found else ""


def _variant(kind: Kind, paths: Sequence[pathlib.Path], given: str) -> str:
  """What was given or the files' names tell, where their tensors do not.

  Of a VidTok its version, whose networks differ in nothing but how clips begin.
  Of a Cosmos DV how much it compresses: empty, where its tensors have to tell.

  Raises:
    ValueError: a VidTok's file has no name that it was released under, and
      nothing was given; or what was given is not what the name tells.
  """
  if kind.name == "cosmos-dv":
    named = next(filter(None, (_compression(kind, path) for path in paths)), "").removeprefix("DV")
  elif match := re.fullmatch(r"vidtok_fsq_causal_\d+_\d+(_v1_1)?", paths[0].stem):
    named = "v1.1" if match[1] else "v1.0"
  elif given:
    return given
  else:
    raise ValueError(
      "its tensors do not tell which version of VidTok this is, and its name is none of those that"
      f" were released ({kind.files[0]}, {kind.files[0].replace('.', '_v1_1.')}): give"
      f" --config.official.variant, one of {', '.join(kind.variants)}"
    )
  if given and named and given != named:
    raise ValueError(
      f"official.variant is {given}, and the name is that of a {named}; leave the variant empty, or"
      " rename what is called wrongly"
    )
  return given or named


@contextlib.contextmanager
def opened(
  path: str | os.PathLike[str], keys: Sequence[str] = ("state_dict",)
) -> Iterator[Mapping[str, Any]]:
  """The tensors of a safetensors or a torch file by their names, read when asked for.

  Args:
    path: the file; its content tells which it is.
    keys: of a torch checkpoint, as `pickles.read` takes them.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no such file, or damaged.
  """
  with outside.open_plain(path, most_bytes=pickles.FILE_BYTES) as file:
    head = file.read(9)
  if head[8:] == b"{":  # after the length of a header in JSON
    yield arrays.stored(os.fspath(path))
    return
  with pickles.opened(path, keys) as tensors:
    yield tensors


def _json(path: pathlib.Path) -> Mapping[str, Any]:
  """The values of a config.json."""
  try:
    values = outside.read_json(path)
  except outside.Damaged as error:
    values = error.reason
  if not isinstance(values, dict):
    raise ValueError(
      f"{path} is no config.json ({values!s:.200}); give the one of the weights, and the weights"
      " after it"
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
  signs = ((_first(tensors, start), what, families) for start, what, families in _SIGNS)
  patched = next((k for k, axis in _PATCHED.items() if _is_patched(tensors.get(k), axis)), None)
  for found, what, families in (*signs, (patched, _IMAGES, {"cosmos-di"})):
    if found and kind.family in families:
      return
    if found:
      fits = [other.name for other in KINDS.values() if other.family in families]
      raise ValueError(
        f"this is a file of {what} (it has {found}): use {' or '.join(fits)}; {kind.name} is made"
        f" of {', '.join(kind.files)} from {', '.join(kind.urls)}"
      )


def _first(names: Iterable[str], start: str) -> str | None:
  return next((name for name in names if name.startswith(start)), None)


def _is_patched(kernel: np.ndarray | None, axis: int) -> bool:
  """Whether a kernel over space reads or gives the values of a patch, not of a pixel."""
  return kernel is not None and kernel.ndim == 4 and kernel.shape[axis] in (12, 48, 192)


def _check_size(kind: Kind, config: weights.Config) -> None:
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
