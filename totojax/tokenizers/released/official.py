"""The released tokenizers: the dVAE of DALL-E, and two VQGANs of taming.

Their files are torch pickles. They are read once, with `pickles`, and written
as a tokenizer file of ours, whose card has the SHA-256 of what was read: the
publishers print none.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib

import numpy as np

from totojax.tokenizers import dvae, vqgan, weights
from totojax.tokenizers.released import download, pickles


@dataclasses.dataclass(frozen=True)
class Kind:
  """A released tokenizer."""

  name: str  # of the kind
  files: tuple[str, ...]  # names of its files, in the order in which they are given
  urls: tuple[str, ...]  # their addresses
  config: dvae.DvaeConfig | vqgan.VqganConfig  # the size that they have


_DVAE = dvae.DvaeConfig(
  vocab=8192, hidden=256, groups=4, blocks=2, decoder_init=128, post_gain=1 / 64
)
_VQGAN_1K = vqgan.VqganConfig(
  vocab=1024, embed=256, z=256, channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(4,)
)
# Addresses: github.com/openai/DALL-E, notebooks/usage.ipynb; and
# github.com/CompVis/taming-transformers, overview of pretrained models.
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
  )
}
# A tensor that tells which model a file is of.
_SIGNS = {
  dvae.DvaeConfig: ("blocks.input.w", "DALL-E's dVAE"),
  vqgan.VqganConfig: ("quantize.embedding.weight", "a VQGAN of taming"),
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
    kind: "dvae", "vqgan-1k" or "vqgan-16k", or a `Kind` of another size.
    files: encoder and decoder, or the checkpoint.
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
      raise FileNotFoundError(f"no file at {path}; give {kind.files[i]} from {kind.urls[i]}")
    digests.append(
      download.check_digest(path, sha256[i], f"get it from {kind.urls[i]}")
      if sha256
      else download.digest(path)
    )
    print(f"{path}: SHA-256 {digests[i]}", flush=True)
  tensors = [pickles.read(path) for path in paths]
  named = ", ".join(map(str, paths))
  try:
    for state in tensors:
      _check_model(kind, state)
    module = dvae if isinstance(kind.config, dvae.DvaeConfig) else vqgan
    params, config = module.from_reference(*tensors)
    _check_size(kind, config)
  except ValueError as error:
    raise ValueError(f"{named}: {error}") from error
  card = {
    "kind": kind.name,
    "source": [{"file": path.name, "sha256": digest} for path, digest in zip(paths, digests)],
  }
  return weights.save(out, params, config, card=card, dtype="float32")


def _check_model(kind: Kind, tensors: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError for the files of another model."""
  for cls, (sign, model) in _SIGNS.items():
    if sign in tensors and not isinstance(kind.config, cls):
      raise ValueError(
        f"this is a file of {model} (it has {sign}); {kind.name} is made of"
        f" {', '.join(kind.files)} from {', '.join(kind.urls)}"
      )


def _check_size(kind: Kind, config: dvae.DvaeConfig | vqgan.VqganConfig) -> None:
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
