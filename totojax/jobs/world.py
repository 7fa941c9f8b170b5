"""`run = "world"`: clips of a rendered world, in stores or in other people's files.

Clips are rendered by other processes, which hold MuJoCo and OpenGL, and written
in order. A run that was stopped goes on with the clips that are not there; the
same config gives the same files.

The run directory gets what `output.format` says, `clips.csv` with a row a clip,
`world.json` with what is in them all, `sheets/`, and `report.html`.
"""

import collections
from collections.abc import Generator, Mapping, Sequence
import contextlib
import importlib.metadata
from typing import Any

from etils import epath

from totojax import jobs
from totojax.config import schema
from totojax.config.world import World
from totojax.data.pixels import workers
from totojax.data.store import certificates, fill, manifests, shards
from totojax.data.store.store import Store
from totojax.report import frame, world_sections
from totojax.rundir import console, directory, files, pieces, wording
from totojax.world import cater, davis, delivery, ego4d, processes, records

PARTS = "parts"  # a note for each clip, until all are there
TRUTH = "_truth"  # ends the name of the store of what is true of a store's clips


def run(config: World, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Renders all clips of a config; False when interrupted.

  Raises:
    ImportError: MuJoCo or OpenGL is missing; says what to install.
    OSError: a process that renders died.
    StoreError: a store was begun with other values, as another version of MuJoCo.
  """
  every = sum(map(len, _splits(config).values()))
  count = max(min(workers.processes(config.processes), every), 1)
  with processes.Pool(count, config.gl) as pool:
    with console.phase("starting a process that renders"):
      gl = pool.backend()
    renderer = {"MuJoCo": _version(), "OpenGL": gl}
    finished = _render(config, workdir, pool, renderer, interrupted)
  if finished:
    _finish(config, workdir)
  return finished


def _render(
  config: World,
  workdir: epath.Path,
  pool: processes.Pool,
  renderer: Mapping[str, str],
  interrupted: jobs.Interrupted,
) -> bool:
  """Begins the run and writes all clips; False when interrupted."""
  directory.begin(workdir, config, renderer=renderer)
  files.make_folder(workdir / PARTS)
  stores: list[Store] = []
  for split, numbers in _splits(config).items():
    if not numbers:
      continue
    if config.output.format == "stores":
      writers = _writers(config, workdir, split, numbers, renderer)
      finished = _fill(config, workdir, split, numbers, writers, pool, interrupted)
      stores.append(Store(writers[0].path, writers[0].manifest))
    else:
      finished = _files(config, workdir, split, numbers, pool, interrupted)
    if not finished:
      return False
  if len(stores) > 1:
    certificates.certify(stores)
  return True


def _version() -> str:
  """Of MuJoCo, which decides pixels; it is not imported."""
  return importlib.metadata.version("mujoco")


def _splits(config: World) -> dict[str, range]:
  """Numbers of the clips of each split."""
  train, val = config.amount.train, config.amount.val
  return {"train": range(train), "val": range(train, train + val)}


def _delivered(
  config: World, workdir: epath.Path, pool: processes.Pool, split: str, numbers: Sequence[int]
) -> Generator[delivery.Delivery]:
  """What the processes make of some clips, in order."""
  every = sum(map(len, _splits(config).values()))
  step = max(every // max(config.output.shown, 1), 1)
  shown = range(0, every, step)[: config.output.shown]
  specs = (delivery.spec(config.scene, config.seed, n) for n in numbers)
  return pool.films(specs, delivery.deliver, config, str(workdir), split, frozenset(shown))


def _writers(
  config: World, workdir: epath.Path, split: str, numbers: range, renderer: Mapping[str, str]
) -> tuple[shards.Writer, shards.Writer]:
  """Of a split's pixels, and of what is true of them."""
  scene, label = config.scene, config.output.label
  info = {
    "scene": {"seed": config.seed, **schema.to_dict(scene)},
    "first": numbers.start,
    "renderer": dict(renderer),
  }
  shared: dict[str, Any] = dict(
    stride_frames=1, fps=scene.fps, crops=1, records_per_shard=config.amount.records_per_shard
  )
  pixels = fill.manifest(
    frames=scene.frames,
    size_px=scene.width_px,
    labels=bool(label),
    classes=records.classes(label),
    info=info,
    **shared,
  )
  true = manifests.new(
    kind="video",
    fields=records.fields(scene),
    frames=scene.frames,
    size_px=scene.width_px,
    labels=False,
    classes=(),
    tokenizer="",
    vocab=0,
    grid=0,
    ids=True,
    info=info,
    **shared,
  )
  return shards.Writer(workdir / split, pixels), shards.Writer(workdir / f"{split}{TRUTH}", true)


def _fill(
  config: World,
  workdir: epath.Path,
  split: str,
  numbers: range,
  writers: tuple[shards.Writer, shards.Writer],
  pool: processes.Pool,
  interrupted: jobs.Interrupted,
) -> bool:
  """Fills both stores of a split; False when interrupted."""
  ends = [len(numbers) if writer.complete else writer.cursor or 0 for writer in writers]
  begin = min(ends)  # one may have been saved when the job was stopped, and the other not
  bar_of = console.tracking(f"rendering {split}", unit="clips", total=len(numbers), done=begin)
  clips = _delivered(config, workdir, pool, split, numbers[begin:])
  notes = pieces.Pieces(workdir / PARTS)
  with bar_of as bar, contextlib.closing(clips):
    for i in range(begin, len(numbers)):
      if interrupted(i):
        return False
      clip = next(clips)
      notes.write(numbers[i], clip.note)
      assert clip.pixels_NHW3 is not None and clip.truth is not None
      values = {"frames": clip.pixels_NHW3[None]}, {k: v[None] for k, v in clip.truth.items()}
      labels = None if clip.label is None else [clip.label]
      id_ = [f"world/{config.scene.kind}/{config.seed}/{numbers[i]}"]
      for writer, end, value, label in zip(writers, ends, values, (labels, None)):
        if i >= end:
          writer.append(value, labels=label, ids=id_, cursor=i + 1)
      bar.advance()
  for writer in writers:
    writer.close()
  return True


def _files(
  config: World,
  workdir: epath.Path,
  split: str,
  numbers: range,
  pool: processes.Pool,
  interrupted: jobs.Interrupted,
) -> bool:
  """Writes the files of a split, then its lists; False when interrupted."""
  there = {path.name for path in files.children(workdir / PARTS)}
  left = [n for n in numbers if f"{n:05d}.json" not in there]
  done = len(numbers) - len(left)
  bar_of = console.tracking(f"rendering {split}", unit="clips", total=len(numbers), done=done)
  clips = _delivered(config, workdir, pool, split, left)
  notes = pieces.Pieces(workdir / PARTS)
  with bar_of as bar, contextlib.closing(clips):
    for n in left:
      if interrupted(bar.done):
        return False
      notes.write(n, next(clips).note)
      bar.advance()
  if config.output.format == "davis":
    davis.write_list(str(workdir), split, [delivery.sequence(n) for n in numbers])
  elif config.output.format == "ego4d":
    ego4d.write_lists(str(workdir), split, config.scene, [notes.require(n) for n in numbers])
  else:
    cater.write_lists(str(workdir), split, [(n, notes.require(n)) for n in numbers])
  return True


def _finish(config: World, workdir: epath.Path) -> None:
  """The table, the sums and the page; then the notes are not needed any more."""
  notes = pieces.Pieces(workdir / PARTS)
  if not files.exists(workdir / world_sections.FILE):
    rows = [notes.require(n) for numbers in _splits(config).values() for n in numbers]
    verbs, labels = collections.Counter[str](), collections.Counter[str]()
    for row in rows:
      verbs.update(row["events"])
      if "label" in row:
        labels[row["label"]] += 1
    lists = ("events", "cells", "queries")
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in lists))
    table = [
      {**{key: row.get(key, "") for key in keys}, **{v: row["events"].get(v, 0) for v in verbs}}
      for row in rows
    ]
    files.write_csv(workdir / "clips.csv", table)
    carried = [row["carried"] for row in rows if "carried" in row]
    files.write_json(
      workdir / world_sections.FILE,
      {
        "kind": config.scene.kind,
        "format": config.output.format,
        "clips": len(rows),
        "frames": len(rows) * config.scene.frames,
        "seen_frac": sum(row["seen_frac"] for row in rows) / len(rows),
        "events": dict(sorted(verbs.items())),
        "labels": dict(sorted(labels.items())),
        **({"carried_frac": sum(carried) / len(carried)} if carried else {}),
        "sheets": [path.name for path in files.children(workdir / delivery.SHEETS)],
      },
    )
  files.remove(workdir / PARTS)
  frame.write(workdir, world_sections.PAGE)
  console.say(
    f"{wording.counted(config.amount.train + config.amount.val, 'clip')}; report:"
    f" {workdir / 'report.html'}"
  )
