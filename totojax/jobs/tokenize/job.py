"""`run = "tokenize"`: images or videos of any source become stores of tokens.

On one machine worker processes decode while the devices encode; with
`--multihost` every host makes its share of the shards; with `beam.runner` an
Apache Beam pipeline makes them. All three write the same shards.

The run directory gets a store for each split, `plan.json`, `quarantine.csv`
(what gave nothing, with the reason), `short.csv` (what is too short for a clip,
and what was done) and `missing.csv` (what is listed but not on disk, or left out
on purpose).
"""

from collections.abc import Sequence
import time

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from totojax import jobs
from totojax.config.corpus import Tokenize
from totojax.data.pixels import decode, media, workers
from totojax.data.sources import items as items_lib
from totojax.data.store import certificates, manifests, store as store_lib
from totojax.evals import token_counts
from totojax.jobs.plan import corpus as plan
from totojax.jobs.tokenize import beam, short, stores, units
from totojax.rundir import console, directory, files, wording
from totojax.tokenizers import api


class _Stop(Exception):
  """The unit that is being made is given up."""


def run(config: Tokenize, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Tokenizes every split of the source; False when interrupted.

  Raises:
    ValueError: the source cannot be read or gives no record at all.
  """
  tokenizer = stores.tokenizer(config.tokenizer)
  parts = [part.with_tokenizer(tokenizer) for part in stores.parts(config, workdir)]
  beam.check(config.beam)
  plan.peak_flops_per_s(config.plan)
  for part in parts:
    media.check_installed(part.listing.items[0], part.spec)
  facts = {"tokenizer": tokenizer.fingerprint, "vocab": tokenizer.vocab} if tokenizer else {}
  directory.begin(workdir, config, **facts)
  first = jax.process_index() == 0
  if first:
    plan.show(plan.with_source(config, parts, tokenizer), workdir)
    stores.write_missing(parts, workdir)
    for part in parts:
      units.begin(part.path, part.manifest)
  _all_finished(True)  # nobody goes on before the stores are begun
  for part in parts:
    units.join(part.path, part.manifest)
  for part in parts:
    if manifests.existing(part.path).complete:
      continue
    if config.beam.name:
      beam.make(part, config)
      finished = True
    else:
      finished = _make(part, tokenizer, config, interrupted)
    if not _all_finished(finished):
      return False
  if first:
    _finish(parts, workdir)
  return True


def _make(
  part: stores.CorpusStore,
  tokenizer: api.Tokenizer | None,
  config: Tokenize,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes this host's units of a store; False when interrupted."""
  mine = part.units[jax.process_index() :: jax.process_count()]
  todo = [unit for unit in mine if not units.is_made(part.path, part.manifest, unit.number)]
  with part.decoding("tokenizing", mine, todo, config) as (items, bar):
    count = _Count(bar)

    def progress(item: workers.Decoded) -> None:
      count.add(item)
      if interrupted(bar.done):
        raise _Stop

    try:
      for unit in todo:
        units.make(
          unit, items(unit), tokenizer, path=part.path, head=part.manifest, progress=progress
        )
    except _Stop:
      return False
  return True


class _Count:
  """Frames and skipped items, for the progress line."""

  def __init__(self, bar: console.Progress):
    self._bar, self._begin = bar, time.monotonic()
    self._frames = self._skipped = 0

  def add(self, item: workers.Decoded) -> None:
    if isinstance(item.clips, items_lib.Skipped):
      self._skipped += 1
    else:
      self._frames += int(np.prod(item.clips.shape[:2]))
    rate = self._frames / max(time.monotonic() - self._begin, 1e-9)
    note = f"{rate:.4g} frames/s"
    if self._skipped:
      note += f", {self._skipped} in quarantine"
    self._bar.advance(note=note)


def _all_finished(finished: bool) -> bool:
  """Whether every host has finished; waits for the slowest."""
  if jax.process_count() == 1:
    return finished
  with console.watchdog.watched(0):  # each of those that are waited for has its own
    return bool(np.all(multihost_utils.process_allgather(np.array(finished))))


def _finish(parts: Sequence[stores.CorpusStore], workdir: epath.Path) -> None:
  """Manifests, the quarantine list, and what a user wants to know of both."""
  rows, complete, empty, ways = [], [], [], {}
  for part in parts:
    result = units.finish(part.path, part.manifest, len(part.units))
    rows += [(part.name, row.id, row.reason) for row in result.skipped]
    manifest = manifests.existing(part.path)
    items = len(part.listing.items)
    latent = f" ({manifest.frames} latent ones)" if manifest.latents.is_temporal else ""
    print(
      f"{part.path}: {wording.counted(manifest.records, 'record')} of"
      f" {wording.counted(manifest.pixel_frames, 'frame')}{latent}"
      f" from {items - len(result.skipped)} of {wording.counted(items, 'item')}"
    )
    if result.psnr_db is not None:
      print(f"PSNR of a few frames of {part.name}: {result.psnr_db:.1f} dB")
    if result.restarts:
      print(decode.slowed(result.restarts))
    ways[part.name] = result.short
    short.report(part.name, result.short, part.spec, items=items, where=workdir / short.FILE)
    if manifest.complete:
      complete.append(store_lib.Store(part.path, manifest))
    else:
      empty.append(part.name)
  files.write_table(workdir / "quarantine.csv", rows, header=("store", "id", "reason"))
  short.write(workdir, ways)
  certificates.certify(complete)
  for store in (store for store in complete if store.manifest.tokenizer):
    token_counts.tell_use(store.path, store)
  if rows:
    print(f"{wording.counted(len(rows), 'item')} gave nothing: {workdir / 'quarantine.csv'}")
  if empty:
    raise ValueError(
      f"no item of {', '.join(empty)} gave a record; the reasons are in"
      f" {workdir / 'quarantine.csv'}"
    )
