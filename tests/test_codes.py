"""`run = "codes"`: arrays that others made become stores that are trained on."""

import json
import pathlib
import tracemalloc
import zipfile

from etils import epath
import numpy as np
import pytest
import runs
import safetensors.numpy

from totojax.config import recipes, roots
from totojax.config.model import LatentSpec
from totojax.data.sources import code_files
from totojax.data.store import manifests, store as store_lib
from totojax.jobs import codes as job
from totojax.storage import arrays
from totojax.tokenizers import split

NEVER = lambda done: False
RECORDS, FRAMES, GRID, VOCAB = 12, 3, 2, 60


def made(records=RECORDS, frames=FRAMES, seed=0, grid=GRID, dtype=np.int64) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, VOCAB, (records, frames, grid, grid)).astype(dtype)


def config(*files, **changes):
  c = recipes.codes()
  values = dict(vocab=VOCAB, tokenizer="theirs", size_px=48, records_per_shard=4)
  c.codes.update({"files": tuple(map(str, files)), **values, **changes})
  return roots.read(c.to_dict())


def run(workdir, *files, interrupted=NEVER, **changes) -> dict[str, store_lib.Store]:
  finished = job.run(config(*files, **changes), epath.Path(workdir), interrupted)
  assert finished or interrupted is not NEVER
  return {path.parent.name: opened(path.parent) for path in workdir.glob("*/manifest.json")}


def opened(path) -> store_lib.Store:
  return store_lib.Store(str(path), manifests.existing(str(path)))


def codes_of(store: store_lib.Store) -> np.ndarray:
  return store.read(range(len(store)))["codes"].reshape(-1, *store.manifest.code_shape)


def save(path: pathlib.Path, **arrays_: np.ndarray) -> pathlib.Path:
  """The arrays in a file of the path's kind."""
  if path.suffix == ".safetensors":
    safetensors.numpy.save_file({n: np.ascontiguousarray(a) for n, a in arrays_.items()}, path)
  elif path.suffix == ".npy":
    for name, array in arrays_.items():
      np.save(path if name == "codes" else path.with_suffix(f".{name}.npy"), array)
  else:
    (np.savez if path.stem == "plain" else np.savez_compressed)(path, **arrays_)
  return path


@pytest.mark.parametrize("name", ["plain.npz", "packed.npz", "a.npy", "a.safetensors"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_every_kind_of_file_and_of_integer(tmp_path, name, dtype):
  codes, labels = made(dtype=dtype), np.arange(RECORDS) - 1
  file = save(tmp_path / name, codes=codes, labels=labels)
  store = run(tmp_path / "out", file)["all"]
  np.testing.assert_array_equal(codes_of(store), codes)
  assert store.labels().tolist() == labels.tolist()
  assert store.ids() == [f"{name}/{row}" for row in range(RECORDS)]
  assert [shard.records for shard in store.manifest.shards] == [4, 4, 4]


@pytest.mark.parametrize(
  "shape, changes, frames",
  [
    ((RECORDS, FRAMES, 4, 4), {}, FRAMES),
    ((RECORDS, FRAMES, 16), {}, FRAMES),
    ((RECORDS, FRAMES * 16), {"grid": 4}, FRAMES),
    ((FRAMES, 4, 4), {"grid": 4}, FRAMES),
    ((5, 3, 3), {}, 5),
    ((RECORDS, FRAMES, 4, 4, 2), {"place_codes": 2}, FRAMES),
    ((RECORDS, FRAMES * 32), {"place_codes": 2, "grid": 4}, FRAMES),
    ((RECORDS, 4, 4), {"kind": "image", "grid": 4}, 1),
    ((RECORDS, 16), {"kind": "image"}, 1),
    ((3, 3), {"kind": "image"}, 1),
    ((RECORDS, 5, 3, 3), {"frame_factor": 4, "clip_frames": 16}, 5),
  ],
)
def test_shapes_in_raster_order(tmp_path, shape, changes, frames):
  codes = np.random.default_rng(1).integers(0, VOCAB, shape)
  store = run(tmp_path / "out", save(tmp_path / "a.npz", codes=codes), **changes)["all"]
  head = store.manifest
  alone = shape in ((FRAMES, 4, 4), (5, 3, 3), (3, 3))
  assert (len(store), head.frames) == (1 if alone else RECORDS, frames)
  np.testing.assert_array_equal(codes_of(store).ravel(), codes.ravel())
  assert head.latents.codes == changes.get("place_codes", 1)
  assert head.pixel_frames == changes.get("clip_frames", frames)
  assert store.ids()[0] == ("a.npz" if alone else "a.npz/0")


def test_a_square_of_frames_and_places_is_asked_about(tmp_path):
  file = save(tmp_path / "a.npz", codes=np.zeros((5, 16, 16), int))
  with pytest.raises(ValueError, match="a grid of 4 or 16; set codes.grid"):
    run(tmp_path / "out", file)
  assert len(run(tmp_path / "clips", file, grid=4)["all"]) == 5
  assert len(run(tmp_path / "clip", file, grid=16)["all"]) == 1


def test_the_fingerprint_is_of_name_and_vocabulary_or_given(tmp_path):
  file = save(tmp_path / "a.npz", codes=made())
  changes = [{}, {"vocab": 61}, {"tokenizer": "ours"}, {"tokenizer": "0123456789abcdef"}]
  marks = [
    run(tmp_path / str(i), file, **each)["all"].manifest.tokenizer for i, each in enumerate(changes)
  ]
  assert len({*marks}) == 4 and marks[3] == "0123456789abcdef"
  assert marks[0] == run(tmp_path / "again", file)["all"].manifest.tokenizer


def test_what_is_held_out_is_a_share_of_the_items_and_no_item_is_in_both(tmp_path):
  (tmp_path / "in").mkdir()
  for i in range(2):
    save(tmp_path / "in" / f"{i}.npz", codes=made(10, seed=i))
  stores = run(tmp_path / "out", tmp_path / "in", val_frac=0.3, crops=2)
  ids = {name: store.ids() for name, store in stores.items()}
  assert len(stores["val"]) == 2 * round(0.3 * 10) and len(stores["train"]) == 14
  assert not {*ids["train"]} & {*ids["val"]}
  everything = sorted([*ids["train"], *ids["val"]])
  assert everything == sorted(f"{i}.npz/{row // 2}" for i in range(2) for row in range(10))
  both = np.concatenate([codes_of(stores["train"]), codes_of(stores["val"])])
  wanted = np.concatenate([made(10, seed=0), made(10, seed=1)])
  assert sorted(row.tobytes() for row in both.astype(int)) == sorted(
    row.tobytes() for row in wanted
  )
  other = job._parts(config(tmp_path / "in", val_frac=0.3, crops=2, prefix="other"))
  same = job._parts(config(tmp_path / "in", val_frac=0.3, crops=2))
  assert (other["val"].chosen != same["val"].chosen).any()  # by the id, not by the place


def test_files_that_are_held_out_share_no_id(tmp_path):
  ids = np.array([f"v{i}" for i in range(RECORDS)])
  train = save(tmp_path / "a.npz", codes=made(), ids=ids)
  val = save(tmp_path / "b.npz", codes=made(), ids=np.char.add(ids, "x"))
  stores = run(tmp_path / "out", train, val_files=(str(val),))
  assert stores["train"].ids() == ids.tolist() and stores["val"].ids()[0] == "v0x"
  assert stores["train"].manifest.origin is None
  save(tmp_path / "b.npz", codes=made(), ids=np.where(ids == "v3", ids, "w"))
  with pytest.raises(ValueError, match="codes.val_files has 1 record with ids of items"):
    run(tmp_path / "leak", train, val_files=(str(val),))


def test_an_interrupted_job_goes_on_and_makes_the_same_shards(tmp_path):
  files = [save(tmp_path / f"{i}.npz", codes=made(9, seed=i)) for i in range(3)]
  whole = run(tmp_path / "whole", *files, val_frac=0.2)
  left = {}

  def interrupted(done):
    left["calls"] -= 1
    return left["calls"] < 0

  starts = 0
  for starts in range(1, 20):
    left["calls"] = 2 + starts
    if job.run(config(*files, val_frac=0.2), epath.Path(tmp_path / "cut"), interrupted):
      break
  assert 2 < starts < 19
  for name in ("train", "val"):
    cut = opened(tmp_path / "cut" / name)
    assert cut.manifest.shards == whole[name].manifest.shards
  # The control: other files are no way to go on.
  job.run(config(*files, val_frac=0.2), epath.Path(tmp_path / "other"), lambda done: done > 4)
  save(tmp_path / "2.npz", codes=made(10, seed=2))
  with pytest.raises(ValueError, match="files were added, removed or renamed"):
    run(tmp_path / "other", *files, val_frac=0.2)


def _pickled(path):
  np.savez(path, codes=made(), ids=np.array(["a"] * RECORDS, object))


def _cut(path):
  save(path, codes=made(200, seed=1))
  path.write_bytes(path.read_bytes()[:-200])


def _flipped(path):
  np.savez(path, codes=made())
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def _lying(path):
  """A header of far more than the member holds."""
  whole = path.with_name("whole.npy")
  np.save(whole, made())
  data = whole.read_bytes().replace(b"(12, 3, 2, 2)", b"(12e6,3, 2,2)")
  data = data.replace(b"12e6", b"9999")
  whole.unlink()
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("codes.npy", data)


@pytest.mark.parametrize(
  "make, told",
  [
    (_pickled, r"a.npz: ids is an array of Python objects .* np.array\(texts, dtype=str\)"),
    (_cut, "cannot be read|cut off"),
    (_flipped, "a.npz: codes is damaged .*Bad CRC"),
    (_lying, "has 1,152 bytes, and <i8 .* would have"),
    (lambda p: save(p, codes=made().astype(float)), r"is <f8; codes are integers .*astype"),
    (lambda p: save(p, codes=made() > 5), r"is \|b1; codes are integers"),
    (lambda p: save(p, codes=np.asfortranarray(made())), "Fortran's order"),
    (lambda p: save(p, codes=made()[:0]), r"shape \(0, 3, 2, 2\); video codes are \[R, N, G, G\]"),
    (lambda p: save(p, codes=made()[..., :1]), r"shape .*; video codes are \[R, N, G, G\]"),
    (lambda p: save(p, tokens=made()), "has no array 'codes'; it has tokens: set codes.array"),
    (lambda p: save(p, codes=made(), ids=np.arange(3)), r"ids is <i8 \(3,\); texts or integers"),
    (lambda p: save(p, codes=made(), labels=np.full(12, -2)), "has -2 in row 0; labels run from 0"),
    (lambda p: p.write_text("no zip"), "a.npz is damaged .*not a zip"),
  ],
)
def test_what_is_no_array_of_codes_is_one_line(tmp_path, make, told):
  make(tmp_path / "a.npz")
  with pytest.raises(ValueError, match=told) as error:
    run(tmp_path / "out", tmp_path / "a.npz")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("code", [-1, VOCAB])
def test_a_code_out_of_range_is_named_with_its_file_and_row(tmp_path, code):
  codes = made(dtype=np.int32)
  good = save(tmp_path / "good.safetensors", codes=codes)
  codes[7, 1, 0, 1] = code
  bad = save(tmp_path / "bad.safetensors", codes=codes)
  with pytest.raises(ValueError, match=f"bad.*has code {code} in row 7; .* codes are 0 to 59"):
    run(tmp_path / "out", good, bad)
  run(tmp_path / "wider", good, vocab=VOCAB)  # the control


def test_files_that_differ_are_both_named(tmp_path):
  one = save(tmp_path / "one.npz", codes=made())
  with pytest.raises(ValueError, match="one.npz has 3 frames of 2 x 2 places, and .*two.npz 4 of"):
    run(tmp_path / "a", one, save(tmp_path / "two.npz", codes=made(frames=4)))
  with pytest.raises(ValueError, match="three.npz has labels, and .*one.npz has none"):
    run(tmp_path / "b", one, save(tmp_path / "three.npz", codes=made(), labels=np.zeros(12, int)))


def test_all_that_is_missing_is_said_at_once(tmp_path):
  with pytest.raises(ValueError, match=r"set codes.files .*codes.vocab .*size_px .*tokenizer"):
    run(tmp_path, vocab=0, tokenizer="", size_px=0)


def test_pieces_hold_no_more_than_they_may(tmp_path, monkeypatch):
  """Of a packed .npz too, whose member is far larger than the file."""
  file = save(tmp_path / "a.npz", codes=np.zeros((4000, 4, 4, 4), np.int64))
  monkeypatch.setattr(code_files, "PIECE_BYTES", 50 * 4 * 4 * 4 * 8)
  monkeypatch.setattr(arrays, "WHOLE_BYTES", 1)  # nothing is read at once
  (one,) = code_files.read(config(file).codes, [str(file)], where=str(tmp_path))
  sizes = [len(part) for part in one.pieces(3900, 4000, vocab=VOCAB)]
  assert sizes == [50, 50] and file.stat().st_size * 10 < 4000 * one.codes.row_bytes
  with pytest.raises(ValueError, match="up to 1 are read; divide the file"):
    one.codes.all()


def test_split_codes_are_those_of_a_split_tokenizer(tmp_path):
  file = save(tmp_path / "a.npz", codes=made())
  changes = dict(split=(5, 12), tokenizer="0123456789abcdef")
  store = run(tmp_path / "out", file, **changes)["all"]
  head = store.manifest
  assert (head.vocab, head.latents) == (17, LatentSpec(codes=2))
  assert head.tokenizer == split.fingerprint("0123456789abcdef", (5, 12))
  np.testing.assert_array_equal(split.joined(codes_of(store), (5, 12)), made())
  with pytest.raises(ValueError, match="whose product is the vocabulary of 60"):
    run(tmp_path / "bad", file, split=(5, 11))


def test_the_command_makes_stores_that_pretraining_reads(tmp_path):
  """With no further flag about the data; two latent frames, each of two codes."""
  files = save(tmp_path / "a.npy", codes=made(40, frames=2))
  text = runs.here(
    runs.command(
      "configs/codes.py",
      tmp_path / "tokens",
      f"--config.codes.files=('{files}',)",
      "--config.codes.val_frac=0.2",
      "--config.codes.tokenizer=theirs",
      "--config.codes.vocab=60",
      "--config.codes.size_px=16",
      "--config.codes.frame_factor=4",
      "--config.codes.split=(5, 12)",
    )
  )
  assert "32 records of 2 frames from 1 file;" in text and "17 codes in use" in text
  text = runs.here(
    runs.command(
      "configs/pretrain.py:tiny",
      tmp_path / "run",
      f"--config.data.train={tmp_path}/tokens/train",
      f"--config.data.validation={tmp_path}/tokens/val",
      "--config.train.batch_tokens=128",
      "--config.train.total_tokens=256.0",
    )
  )
  spec = json.loads((tmp_path / "run" / "config.json").read_text())["sequence"]
  found = [spec[key] for key in ("vocab", "grid", "frames", "context", "codes", "frame_factor")]
  assert found == [17, 2, 2, 16, 2, 4]
  assert runs.metrics(tmp_path / "run")[-1]["tokens/loss"] > 0


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"size_px": 49}, "codes.size_px is 49, and the files have 2 tokens a side"),
    ({"tokenizer": "F19AFC9C5E45A15F"}, "small letters: 'f19afc9c5e45a15f'"),
  ],
)
def test_what_would_pass_as_a_typo_is_refused(tmp_path, changes, words):
  file = save(tmp_path / "a.npz", codes=made())
  with pytest.raises(ValueError, match=words):
    run(tmp_path / "out", file, **changes)


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path):
  with pytest.raises(ValueError, match=r"codes.files names .*nothing.npz, and there is no such"):
    run(tmp_path / "out", tmp_path / "nothing.npz")


def test_the_largest_vocabulary_takes_no_memory_by_itself(tmp_path):
  """One number a code would be 8 GB."""
  file = save(tmp_path / "a.npz", codes=made())
  tracemalloc.start()
  store = run(tmp_path / "out", file, vocab=2**30)["all"]
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert store.manifest.vocab == 2**30 and peak < 2**28
