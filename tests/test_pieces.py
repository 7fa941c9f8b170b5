"""Notes of pieces: whole, numbered or named, and those of earlier versions."""

import concurrent.futures
import json
import multiprocessing
import signal

from etils import epath
import numpy as np
import pytest
import token_sets

from totojax.data.store import shards
from totojax.jobs.probe import kept
from totojax.jobs.tokenize import units
from totojax.rundir import files, pieces


def test_notes_are_read_as_they_were_written(tmp_path):
  notes = pieces.Pieces(tmp_path / "deep" / "notes")
  assert notes.read(3) is None
  with pytest.raises(ValueError, match="00003.json does not exist.*run the jo"):
    notes.require(3)
  notes.write(3, {"rows": [1, 2]})
  notes.write("a-b.npy", {"done": 4})
  assert notes.read(3) == notes.require(3) == {"rows": [1, 2]}
  assert notes.read(2) is None
  assert notes.read("a-b.npy") == {"done": 4}
  # An earlier version wrote them in the same places, with other spaces.
  file = tmp_path / "deep" / "notes" / "00003.json"
  for indent in (None, 1, 2):
    file.write_text(json.dumps({"rows": [5]}, indent=indent))
    assert notes.read(3) == {"rows": [5]}


@pytest.mark.parametrize("text", ['{"rows": ', "[1]", "", "\xff"])
def test_a_damaged_note_says_what_to_do(tmp_path, text):
  notes = pieces.Pieces(tmp_path)
  (tmp_path / "00000.json").write_text(text)
  with pytest.raises(files.Damaged, match="00000.json is damaged .*remove it"):
    notes.read(0)
  notes.write(0, {})
  assert notes.read(0) == {}


def test_a_piece_that_many_make_at_once_is_whole(tmp_path):
  notes = pieces.Pieces(tmp_path)
  note = {"ids": [f"item/{i}" for i in range(5000)]}
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    done = [pool.submit(notes.write, 0, note) for _ in range(40)]
    seen = [notes.read(0) for _ in range(40)]
    for future in done:
      future.result()
  assert all(found in (None, note) for found in seen)
  assert notes.read(0) == note
  assert [path.name for path in tmp_path.iterdir()] == ["00000.json"]


def _write_for_ever(folder):
  notes, number = pieces.Pieces(folder), 0
  while True:
    notes.write("last", {"number": number, "rows": list(range(3000))})
    number += 1


def test_a_note_is_whole_whenever_its_job_is_killed(tmp_path):
  process = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(tmp_path,))
  process.start()
  notes, seen = pieces.Pieces(tmp_path), set()
  while len(seen) < 50:
    note = notes.read("last")
    if note is not None:
      assert note["rows"] == list(range(3000))
      seen.add(note["number"])
  process.kill()
  process.join()
  assert process.exitcode == -signal.SIGKILL
  assert notes.read("last")["number"] >= max(seen)


def test_units_of_an_earlier_version_are_gone_on_with(tmp_path):
  path, head = tmp_path / "all", token_sets.manifest()
  shard = shards.write_shard(
    path,
    head,
    number=0,
    arrays={
      "codes": token_sets.codes(0, 4).astype(np.uint16),
      "label": np.zeros(4, np.int32),
      "id": np.frombuffer(b"a0a1a2a3", np.uint8).reshape(4, 2).copy(),
    },
  )
  note = {
    "shard": {
      "name": "shard-00000",
      "records": 4,
      "checksum": shard.checksum,
      "probe": shard.probe,
    },
    "skipped": [{"id": "x", "reason": "too short"}],
  }
  (tmp_path / "all.units").mkdir()
  file = tmp_path / "all.units" / "00000.json"
  file.write_text(json.dumps(note, indent=1))
  assert units.is_made(path, head, 0) and not units.is_made(path, head, 1)
  (skipped,) = units.finish(path, head, 1).skipped
  assert skipped.id == "x"
  for damaged in ({}, {**note, "shard": {"name": "shard-00000"}}):
    file.write_text(json.dumps(damaged))
    with pytest.raises(files.Damaged, match="00000.json is damaged"):
      units.is_made(path, head, 0)


class Rows:
  """Twelve rows in batches of four, each row its number."""

  items, at_once = 12, 4
  batches = [np.arange(i, i + 4) for i in range(0, 12, 4)]


def features_of(batch):
  return np.broadcast_to(batch[:, None, None], (4, 1, 3)).astype(np.float32)


def make(path, *, of="model", stop=None, features=features_of):
  return kept.make(
    path, features, Rows, shape=(1, 3), facts={"source": of}, interrupted=lambda rows: rows == stop
  )


def test_features_of_an_earlier_version_are_gone_on_with(tmp_path):
  whole, path = (epath.Path(tmp_path / name) for name in ("w.npy", "a.npy"))
  assert make(whole)
  assert not make(path, stop=8) and not kept.is_whole(path)
  note = {"of": {"source": "model", "rows": 12, "shape": [1, 3]}, "done": 4}
  (tmp_path / "a.npy.json").write_text(json.dumps(note, indent=2) + "\n")
  asked = []

  def counted(batch):
    asked.append(int(batch[0]))
    return features_of(batch)

  assert make(path, features=counted) and asked == [4, 8]
  assert kept.is_whole(path) and path.read_bytes() == whole.read_bytes()
  with pytest.raises(ValueError, match="holds features with source 'model'"):
    make(path, of="other")
