"""Features that are made once and kept: written by rows, gone on with later.

A file of features is a .npy [records, layers, width]; its note beside it
(`rundir.pieces`) says what they are of and how many rows are there, so that a
job that was cut goes on, and features of another model or data set are not
taken for these.

Shapes: M records, B rows of a batch, L layers, D width.
"""

from collections.abc import Callable, Mapping
import json
import pathlib
import shutil
from typing import Any

from etils import epath
import numpy as np

from totojax.data.stream import labelled
from totojax.rundir import console, local, pieces

MEMORY_BYTES = 4 * 2**30  # of features that are held in memory; above, they stay on disk
_SAVE_EVERY = 50  # batches that a kill may cost


def room_bytes(folder: epath.Path) -> int:
  """Bytes that files of features in a folder may take, those there included."""
  there = pathlib.Path(folder)
  own = sum(file.stat().st_blocks * 512 for file in there.glob("*.npy"))
  while not there.exists():
    there = there.parent
  return own + shutil.disk_usage(there).free


def make(
  path: epath.Path,
  features: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None,
  data: labelled.ItemBatches,
  *,
  shape: tuple[int, int],
  facts: Mapping[str, Any],
  interrupted: Callable[[int], bool],
) -> bool:
  """Writes the features [M, L, D] of every record, in order.

  Args:
    path: of the .npy; a local one.
    features: this host's rows -> [B, L, D]; not called where all are there.
    data: every record once.
    shape: (L, D).
    facts: what they are of (JSON): a file of something else is refused.
    interrupted: rows -> whether to leave.

  Returns:
    Whether they are all there (False: interrupted).

  Raises:
    ValueError: the file that is there is of something else.
  """
  facts = {**facts, "rows": data.items, "shape": shape}
  facts = json.loads(json.dumps(facts))
  done = _rows_kept(path, facts)
  if done >= data.items:
    return True
  assert features is not None
  out_MLD = local.mapped(path, shape=None if done else (data.items, *shape))

  def save(rows):
    out_MLD.flush()
    note = {"of": facts, "done": rows}
    pieces.Pieces(path.parent).write(path.name, note)

  with console.tracking(f"features {path.stem}", unit="rows", total=data.items, done=done) as bar:
    for start in range(done, data.items, data.at_once):
      index = start // data.at_once
      stop = min(start + data.at_once, data.items)
      out_MLD[start:stop] = features(data.batches[index])[: stop - start]
      bar.advance(stop - start)
      leave = interrupted(stop)
      if leave or (index + 1) % _SAVE_EVERY == 0 or stop == data.items:
        save(stop)
      if leave and stop < data.items:
        return False
  return True


def is_whole(path: epath.Path) -> bool:
  """Whether every row of a file is there; `make` then needs no features."""
  note = _note(path)
  return bool(note) and note["done"] >= note["of"]["rows"]


def load(paths: Mapping[str, epath.Path]) -> dict[str, np.ndarray]:
  """Features [M, L, D] of files that are whole: in memory, if all fit there.

  Where together they are above `MEMORY_BYTES`, read from disk as needed.
  """
  fit = sum(path.stat().length for path in paths.values()) <= MEMORY_BYTES
  return {name: np.load(str(path), mmap_mode=None if fit else "r") for name, path in paths.items()}


def _note(path: epath.Path) -> dict[str, Any] | None:
  return pieces.Pieces(path.parent).read(path.name) if path.exists() else None


def _rows_kept(path: epath.Path, facts: Mapping[str, Any]) -> int:
  note = _note(path)
  if note is None:
    return 0
  # A fact that an earlier version did not keep says nothing.
  different = [k for k in facts if note["of"].get(k, facts[k]) != facts[k]]
  if different:
    key = different[0]
    raise ValueError(
      f"{path} holds features with {key} {note['of'].get(key)!r}; this run"
      f" has {facts[key]!r}. Remove the file, or use another --workdir"
    )
  return note["done"]
