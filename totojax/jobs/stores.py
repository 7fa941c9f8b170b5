"""The stores of a config of pre-training: found, compared with it, opened."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax

from totojax import sequence
from totojax.config.pretrain import Data, Pretrain
from totojax.config.schema import ConfigError
from totojax.config.training import Share
from totojax.data.store import manifests, store
from totojax.data.stream import heldout, rows as rows_lib
from totojax.storage import objects, outages


def open_sources(
  config: Pretrain, spec: sequence.SequenceSpec, *, pixels: bool
) -> list[rows_lib.Source]:
  """The stores of `data.train`: of pixels, or of tokens that fit.

  Raises:
    ConfigError: there is none.
  """
  return [
    rows_lib.Source(
      name=name,
      store=_open(config, share.path, None if pixels else spec, name),
      weight=share.weight,
    )
    for name, share in config.data.shares(example="configs/1b.py").items()
  ]


def check_stores(config: Pretrain) -> None:
  """Raises ConfigError with all reasons why stores of tokens do not fit."""
  sources, reasons = find_stores(config.data)
  reasons += rows_lib.mismatches(sources, config.sequence, rows_lib.SIZES)
  refuse([*reasons, *rows_lib.disagreements(sources, ("tokenizer",))])


def refuse(reasons: Sequence[str]) -> None:
  """Raises ConfigError with all of them, if there are any."""
  if reasons:
    head = "stores and config do not fit:\n  " if len(reasons) > 1 else ""
    raise ConfigError(head + "\n  ".join(reasons))


def find_stores(
  data: Data,
  manifest_of: Callable[[str], manifests.Manifest | None] = manifests.existing,
  tokenizer_of: Callable[[str], Any] | None = None,
) -> tuple[list[rows_lib.Source], list[str]]:
  """The stores that are there, by config key, and why others cannot be read.

  Nothing but manifests is read. Pixels that are encoded have the vocabulary and
  grid of what is made of them.

  Args:
    data: names them.
    manifest_of: path -> manifest, where stages of a chain are still to make
      some; None leaves a store out.
    tokenizer_of: the same of tokenizers.

  Raises:
    outages.StorageAway: where they lie does not answer.
  """
  encoder, sources, reasons = None, [], []
  if data.encode_with:
    from totojax.tokenizers import weights

    encoder = (tokenizer_of or weights.load)(data.encode_with)
  shares = {f"data.train.{name}": share for name, share in data.train.items()}
  shares |= {f"data.validation.{name}": Share(path) for name, path in data.validation.items()}
  for key, share in shares.items():
    encoded = encoder is not None and key.startswith("data.train.")
    try:
      manifest = manifest_of(share.path or "(no path)")
    except objects.StoreError as error:
      if outages.is_away(error):
        raise
      reasons.append(f"{key}: {error}")
      continue
    if manifest is None:
      continue
    reason = _unreadable(manifest, "frames" if encoded else "codes")
    if reason:
      reasons.append(f"{key}: {share.path} {reason}")
      continue
    if encoder is not None and encoded:
      grid, rest = divmod(manifest.size_px, encoder.factor)
      if rest:
        reasons.append(
          f"{key}: {share.path} has frames of {manifest.size_px} pixels, no multiple of the"
          f" {encoder.factor} of a token of data.encode_with"
        )
        continue
      frames = encoder.latents.latent_frames(manifest.frames)
      manifest = dataclasses.replace(
        manifest, vocab=encoder.vocab, grid=grid, latents=encoder.latents, frames=frames
      )
    elif data.tokenizer and manifest.tokenizer != data.tokenizer:
      reasons.append(
        f"{key}: {share.path} has tokenizer {manifest.tokenizer}; data.tokenizer asks for"
        f" {data.tokenizer}"
      )
    sources.append(rows_lib.Source(key, store.Store(share.path, manifest), share.weight))
  return sources, reasons


def _unreadable(manifest: manifests.Manifest, field: str) -> str:
  """Why a store of this manifest is none to read `field` from, if it is none."""
  if not manifest.complete:
    return (
      f"is incomplete: {manifest.records} records so far. Start the job that makes it again; it"
      " goes on where it stopped"
    )
  if not manifest.records:
    return "has no record; make it again, of files that can be read"
  names = [one.name for one in manifest.fields]
  if field == "codes" and names == ["frames"]:
    return (
      "holds pixels, and tokens are read; make tokens of its files with configs/tokenize.py, or"
      " name a tokenizer for data.train, --config.data.encode_with=shipped"
    )
  if names != [field]:
    return f"holds {names}, and this run reads {field!r}"
  return ""


def identities(data: Data) -> dict[str, dict[str, Any]]:
  """Config key -> what stands for its records in a run, of the manifests alone."""
  paths = {f"data.train.{name}": share.path for name, share in data.train.items()}
  paths |= {f"data.validation.{name}": path for name, path in data.validation.items()}
  return {name: manifests.existing(path).identity for name, path in paths.items()}


def open_validation(
  config: Pretrain, spec: sequence.SequenceSpec, *, pixels: bool = False
) -> list[rows_lib.Source]:
  """The stores of `data.validation`: of pixels, or of tokens that fit."""
  # All weigh the same: each is evaluated by itself, whole or its first rows.
  needed = None if pixels else spec
  return [
    rows_lib.Source(name=name, store=_open(config, path, needed, name), weight=1.0)
    for name, path in config.data.validation.items()
  ]


def _open(
  config: Pretrain, path: str, spec: sequence.SequenceSpec | None, name: str
) -> store.Store:
  """A store of tokens that fit the sequence, or any store for None."""
  if not path:
    raise ConfigError(
      f"the store {name!r} has no path; set it to a folder that the shards stage wrote"
    )
  # Said by the manifest: no record is read before the first batch.
  return store.open_store(
    path,
    tokenizer=(spec and config.data.tokenizer) or None,
    vocab=spec and spec.vocab,
    grid=spec and spec.grid,
  )


def validation_batches(
  sources: list[rows_lib.Source],
  *,
  spec: sequence.SequenceSpec,
  rows: int,
  batch: int,
  factor: int = 0,
) -> dict[str, heldout.HeldOut]:
  """Source -> this host's part of its first `rows` sequences (0: of all).

  `factor` is the pixels of a token's side, where the sources are of pixels.
  """
  return {
    source.name: heldout.validation(
      source,
      seq=spec,
      rows=rows,
      batch=batch,
      host=jax.process_index(),
      hosts=jax.process_count(),
      factor=factor,
    )
    for source in sources
  }
