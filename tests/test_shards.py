"""Shards: what is written comes back, resumes byte for byte, or is refused."""

import json
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorstore as ts
import token_sets

from totojax import sequence
from totojax.data.store import manifests, shards, store as store_lib
from totojax.storage import objects, zarr


def open_any(path):
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def contents(path):
  """Every file below `path` with its bytes."""
  return {
    str(file.relative_to(path)): file.read_bytes()
    for file in sorted(pathlib.Path(path).rglob("*"))
    if file.is_file()
  }


def script(path, body):
  """A child process that has the tests' modules; returns its Popen."""
  head = f"import sys; sys.path[:0] = {sys.path!r}; path = {str(path)!r}\n"
  return subprocess.Popen(
    [sys.executable, "-c", head + body], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_records_labels_and_ids_come_back(tmp_path):
  store = token_sets.write(tmp_path / "a", 30)
  expected = token_sets.codes(0, 30)
  order = np.random.default_rng(0).permutation(30)
  read = store.read(order)["codes"]
  assert read.dtype == np.uint16
  np.testing.assert_array_equal(read, expected[order])
  np.testing.assert_array_equal(store.labels(), np.arange(30) % 3 - 1)
  assert store.ids() == [f"item/{i}" for i in range(30)]
  record = store[17]
  np.testing.assert_array_equal(record["codes"], expected[17])
  assert (record["label"], record["id"]) == (1, "item/17")
  assert len(store) == 30
  # 3 records an append, 8 a shard: shards are closed by the append that fills.
  assert [s.records for s in store.manifest.shards] == [9, 9, 9, 3]
  store.verify()


def test_codes_beyond_16_bits_come_back(tmp_path):
  """Up to the row that a model reads; of Open-MAGVIT2, say."""
  vocab = 262_144
  writer = shards.Writer(tmp_path / "a", token_sets.manifest(vocab=vocab, labels=False, ids=False))
  codes = np.random.default_rng(0).integers(0, vocab, (8, 16))
  codes[0, :2] = 2**16, vocab - 1
  writer.append({"codes": codes}, labels=None, ids=None, cursor=8)
  writer.close()
  store = store_lib.open_store(tmp_path / "a", tokenizer="0123456789abcdef", vocab=vocab, grid=2)
  read = store.read(range(8))["codes"]
  assert read.dtype == np.uint32
  np.testing.assert_array_equal(read, codes)
  seq = sequence.SequenceSpec(vocab=vocab, grid=2, frames=4, context=16)
  row = sequence.build(read[0].reshape(4, 4), kind="video", spec=seq)
  np.testing.assert_array_equal(sequence.codes_of(row[1:]), codes[0])
  # Control: what 16 bits would have made of them.
  assert codes[0].astype(np.uint16)[0] == 0
  with pytest.raises(ValueError, match="262144 codes need uint32"):
    token_sets.manifest(vocab=vocab, fields=(manifests.token_field(frames=4, grid=2),))


def test_plain_tensorstore_reads_a_shard(tmp_path):
  """An independent reader: nothing of ours is needed to read the codes."""
  token_sets.write(tmp_path / "a", 9)
  array = ts.open(
    {"driver": "zarr3", "kvstore": f"file://{tmp_path}/a/shard-00000/codes/"}
  ).result()
  np.testing.assert_array_equal(array.read().result(), token_sets.codes(0, 9))
  # One record per inner chunk, all of them in one file.
  assert array.chunk_layout.read_chunk.shape == (1, 16)
  assert array.chunk_layout.write_chunk.shape == (9, 16)


def test_pixels_and_records_of_zeros(tmp_path):
  """A record equal to the fill value is stored, not taken for missing."""
  field = manifests.frame_field(frames=2, size_px=4)
  head = token_sets.manifest(
    fields=(field,), frames=2, size_px=4, vocab=0, grid=0, tokenizer="", labels=False, ids=False
  )
  writer = shards.Writer(tmp_path / "px", head)
  frames = np.zeros((5, 2, 4, 4, 3), np.uint8)
  frames[3] = 255
  writer.append({"frames": frames}, labels=None, ids=None, cursor=None)
  writer.close()
  store = open_any(tmp_path / "px")
  np.testing.assert_array_equal(store.read(range(5))["frames"], frames)
  assert set(store[0]) == {"frames"}
  with pytest.raises(shards.StoreError, match="has no ids"):
    store.ids()


@pytest.mark.parametrize("stop", range(0, 28, 4))
def test_resume_after_an_exception_is_byte_identical(tmp_path, stop):
  whole = token_sets.write(tmp_path / "whole", 30)
  path = tmp_path / "parts"
  with pytest.raises(RuntimeError, match="stops here"):
    writer = shards.Writer(path, token_sets.manifest())
    token_sets.fill(writer, 30, stop=stop)
  with pytest.raises(shards.StoreError, match="incomplete"):
    open_any(path)
  token_sets.write(path, 30)
  assert contents(path) == contents(whole.path)


def test_resume_after_failure_inside_a_shard_is_byte_identical(tmp_path, monkeypatch):
  """Stops before every single write of the job, one after the other."""
  whole = contents(token_sets.write(tmp_path / "whole", 20).path)
  failures, left = 0, 0
  homes = {"write_array": zarr, "write": objects}
  real = {name: getattr(home, name) for name, home in homes.items()}

  def failing(name):
    def write(*args, **kwargs):
      nonlocal left
      left -= 1
      if left < 0:
        raise OSError("no space left on device")
      return real[name](*args, **kwargs)

    return write

  for name, home in homes.items():
    monkeypatch.setattr(home, name, failing(name))
  for stop in range(100):
    path, left = tmp_path / str(stop), stop
    try:
      token_sets.write(path, 20)
      break
    except OSError:
      failures += 1
    left = 100
    token_sets.write(path, 20)
    assert contents(path) == whole, stop
  assert failures == 13  # 3 shards of 3 arrays, 4 manifests


@pytest.mark.slow
def test_resume_after_sigkill_is_byte_identical(tmp_path):
  whole = contents(token_sets.write(tmp_path / "whole", 300).path)
  path = tmp_path / "killed"
  body = (
    "import time, token_sets\n"
    "from totojax.data.store import shards\n"
    "writer = shards.Writer(path, token_sets.manifest())\n"
    "print('ready', flush=True)\n"
    "token_sets.fill(writer, 300)\n"
    "writer.close()\n"
  )
  killed = 0
  for delay_s in (0.0, 0.01, 0.03, 0.05, 0.08):
    child = script(path, body)
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    killed += child.wait() == -signal.SIGKILL
    child.communicate()
    for shard in manifests.load(path).shards:
      assert (path / shard.name).is_dir()
  assert killed  # else nothing was tested
  token_sets.write(path, 300)
  assert contents(path) == whole


@pytest.mark.slow
def test_a_full_disk_is_an_error_with_the_path(tmp_path):
  """A limit on file size stands for a full disk: writes fail half-way."""
  path = tmp_path / "full"
  body = (
    "import resource, token_sets\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    "token_sets.write(path, 300, records_per_shard=200)\n"
  )
  _, err = script(path, body).communicate()
  message = err.strip().splitlines()[-1]
  assert "StoreError" in message and f"{path}/shard-00000/codes" in message
  assert "File too large" in message
  assert manifests.load(path).shards == ()


def test_a_job_with_other_values_cannot_go_on(tmp_path):
  token_sets.fill(shards.Writer(tmp_path / "a", token_sets.manifest()), 10)
  other = token_sets.manifest(stride_frames=2)
  with pytest.raises(shards.StoreError, match="a was begun with stride"):
    shards.Writer(tmp_path / "a", other)


def test_a_complete_data_set_takes_no_more(tmp_path):
  token_sets.write(tmp_path / "a", 10)
  before = contents(tmp_path / "a")
  writer = shards.Writer(tmp_path / "a", token_sets.manifest())
  assert writer.complete
  with pytest.raises(shards.StoreError, match="is complete"):
    token_sets.fill(writer, 20)
  writer.close()
  assert contents(tmp_path / "a") == before


def test_an_empty_data_set_is_refused(tmp_path):
  writer = shards.Writer(tmp_path / "a", token_sets.manifest())
  with pytest.raises(ValueError, match="has no record"):
    writer.close()


def chunk_of(path, shard=1, column="codes"):
  folder = path / f"shard-{shard:05d}" / column / "c"
  (file,) = [file for file in folder.rglob("*") if file.is_file()]
  return file


def truncate(path, other):
  file = chunk_of(path)
  file.write_bytes(file.read_bytes()[:-7])


def empty(path, other):
  chunk_of(path).write_bytes(b"")


def lose_chunk(path, other):
  chunk_of(path).unlink()


def lose_shard(path, other):
  shutil.rmtree(path / "shard-00001")


def lose_ids(path, other):
  shutil.rmtree(path / "shard-00001/id")


def unreadable(path, other):
  chunk_of(path).unlink()
  chunk_of(path, column="label").rename(path / "elsewhere")


def foreign(path, other):
  shutil.rmtree(path / "shard-00001")
  shutil.copytree(other / "shard-00001", path / "shard-00001")


def foreign_chunk(path, other):
  shutil.copy(chunk_of(other), chunk_of(path))


def swap(path, other):
  (path / "shard-00000").rename(path / "x")
  (path / "shard-00001").rename(path / "shard-00000")
  (path / "x").rename(path / "shard-00001")


def swap_chunks(path, other):
  first, second = chunk_of(path, 0), chunk_of(path, 1)
  a, b = first.read_bytes(), second.read_bytes()
  first.write_bytes(b)
  second.write_bytes(a)


def swap_labels(path, other):
  first, second = (chunk_of(path, shard, "id") for shard in (0, 1))
  a, b = first.read_bytes(), second.read_bytes()
  first.write_bytes(b)
  second.write_bytes(a)


def reorder_manifest(path, other):
  file = path / manifests.FILE
  values = json.loads(file.read_text())
  del values["digest"]  # as older ones are
  names = [shard["name"] for shard in values["shards"]]
  for shard, name in zip(values["shards"], names[::-1]):
    shard["name"] = name
  file.write_text(json.dumps(values))


def damage_metadata(path, other):
  (path / "shard-00001/codes/zarr.json").write_text("{")


def deepen_metadata(path, other):
  """Of which TensorStore's own reader, in C++, dies."""
  (path / "shard-00001/codes/zarr.json").write_text("[" * 100_000 + "]" * 100_000)


DAMAGES = [
  truncate,
  empty,
  lose_chunk,
  lose_shard,
  lose_ids,
  unreadable,
  foreign,
  foreign_chunk,
  swap,
  swap_chunks,
  swap_labels,
  reorder_manifest,
  damage_metadata,
  deepen_metadata,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damage_is_refused_by_name_on_opening(tmp_path, damage):
  """The other data set has the same shapes and settings, and other records."""
  token_sets.write(tmp_path / "a", 18)
  token_sets.write(tmp_path / "b", 18, salt=1)
  open_any(tmp_path / "a")  # whole: opens
  damage(tmp_path / "a", tmp_path / "b")
  with pytest.raises(shards.StoreError, match=rf"^{tmp_path}/a/shard-0000\d"):
    open_any(tmp_path / "a")


def test_damage_after_opening_is_refused_when_read(tmp_path):
  store = token_sets.write(tmp_path / "a", 18)
  fresh = pickle.loads(pickle.dumps(store))
  file = chunk_of(tmp_path / "a")
  damaged = bytearray(file.read_bytes())
  damaged[4 * 36 + 3] ^= 1  # 32 bytes and a crc a record: in record 4
  file.write_bytes(damaged)
  np.testing.assert_array_equal(  # others are untouched
    fresh.read([0, 12])["codes"], token_sets.codes(0, 18)[[0, 12]]
  )
  with pytest.raises(shards.StoreError, match="shard-00001/codes.*damaged"):
    fresh.read([13])
  with pytest.raises(shards.StoreError, match="shard-00001/codes"):
    open_any(tmp_path / "a").verify()


def test_a_shard_lost_after_opening_is_no_zeros(tmp_path):
  store = token_sets.write(tmp_path / "a", 18)
  lose_chunk(tmp_path / "a", None)
  fresh = pickle.loads(pickle.dumps(store))
  with pytest.raises(shards.StoreError, match="shard-00001/codes"):
    fresh.read([0, 10])


def test_shards_swapped_after_opening_are_refused_by_each_reader(tmp_path):
  """A worker opens shards long after the first look at them."""
  store = token_sets.write(tmp_path / "a", 18)
  swap(tmp_path / "a", None)
  fresh = pickle.loads(pickle.dumps(store))
  with pytest.raises(shards.StoreError, match="written as shard 'shard-00000'"):
    fresh.read([10])


def test_reordered_records_within_a_shard_fail_verification(tmp_path):
  """First and last record are in place, so only the full check can see it."""
  store = token_sets.write(tmp_path / "a", 9)
  shard = store.manifest.shards[0]
  values = token_sets.codes(0, 9)[[0, 2, 1, 3, 4, 5, 6, 7, 8]]
  zarr.write_array(
    f"{store.path}/{shard.name}/codes",
    values.astype(np.uint16),
    single_records=True,
    attributes={"shard": shard.name, "checksum": shard.checksum},
  )
  changed = open_any(tmp_path / "a")
  with pytest.raises(shards.StoreError, match="shard-00000 holds other record"):
    changed.verify()


def test_a_damaged_or_missing_manifest_is_refused_by_name(tmp_path):
  token_sets.write(tmp_path / "a", 18)
  file = tmp_path / "a" / manifests.FILE
  whole = file.read_bytes()
  values = json.loads(whole)
  unknown = json.dumps({**values, "colour": 1}).encode()
  mistyped = json.dumps({**values, "vocab": "64"}).encode()
  version = json.dumps({**values, "version": 2}).encode()
  for damaged in (whole[: len(whole) // 2], b"", b"[]", b"\xff", unknown, mistyped, version):
    file.write_bytes(damaged)
    with pytest.raises(shards.StoreError, match=f"^{file} is damaged"):
      open_any(tmp_path / "a")
    with pytest.raises(shards.StoreError, match=f"^{file} is damaged"):
      shards.Writer(tmp_path / "a", token_sets.manifest())
  file.unlink()
  with pytest.raises(shards.StoreError, match=f"^{file} does not exist"):
    open_any(tmp_path / "a")


@pytest.mark.parametrize("wanted", [{"tokenizer": "feed"}, {"vocab": 128}, {"grid": 4}])
def test_another_tokenizer_vocabulary_or_grid_is_refused(tmp_path, wanted):
  token_sets.write(tmp_path / "a", 9)
  right = dict(tokenizer="0123456789abcdef", vocab=64, grid=2)
  store_lib.open_store(tmp_path / "a", **right)
  (key,) = wanted
  with pytest.raises(shards.StoreError, match=f"^{tmp_path}/a has {key}"):
    store_lib.open_store(tmp_path / "a", **{**right, **wanted})


def test_wrong_records_are_refused_when_appended(tmp_path):
  writer = shards.Writer(tmp_path / "a", token_sets.manifest())
  codes = token_sets.codes(0, 2)
  good = dict(labels=[0, 1], ids=["a", "b"], cursor=2)
  for values, changes, message in (
    ({"codes": codes + 64}, {}, "codes run from 64 to"),
    ({"codes": codes[:, :-1]}, {}, r"shape \(2, 15\)"),
    ({"codes": codes * 1.0}, {}, "float64"),
    ({"pixels": codes}, {}, "pixels"),
    ({"codes": codes}, {"labels": [0, 2]}, "labels run from 0 to 2"),
    ({"codes": codes}, {"labels": None}, "labels are missing"),
    ({"codes": codes}, {"ids": ["a", ""]}, "id '' is empty"),
    ({"codes": codes}, {"ids": ["a"]}, "differ in number"),
  ):
    with pytest.raises(ValueError, match=message):
      writer.append(values, **{**good, **changes})
  with pytest.raises(IndexError, match="records 0 to 8"):
    token_sets.write(tmp_path / "b", 9).read([9])


def test_the_job_may_reuse_its_buffer(tmp_path):
  writer = shards.Writer(tmp_path / "a", token_sets.manifest(labels=False, ids=False))
  buffer = token_sets.codes(0, 1).astype(np.uint16)
  for record in range(5):
    buffer[:] = record
    writer.append({"codes": buffer}, labels=None, ids=None, cursor=record)
  writer.close()
  codes = open_any(tmp_path / "a").read(range(5))["codes"]
  np.testing.assert_array_equal(codes[:, 0], range(5))


def test_a_pickled_store_opens_its_own_arrays(tmp_path):
  store = token_sets.write(tmp_path / "a", 18)
  unread = shards.Store(store.path, store.manifest)
  store.read([0])
  assert store._arrays
  assert pickle.dumps(store) == pickle.dumps(unread)
  copy = pickle.loads(pickle.dumps(store))
  assert not copy._arrays
  np.testing.assert_array_equal(copy[11]["codes"], store[11]["codes"])


def test_urls_take_the_same_path_as_folders(tmp_path):
  assert objects.kvstore_spec("gs://pod/sets/a") == {
    "driver": "gcs",
    "bucket": "pod",
    "path": "sets/a/",
  }
  spec = objects.kvstore_spec("s3://pod/sets/a/")
  assert (spec["driver"], spec["bucket"], spec["path"]) == ("s3", "pod", "sets/a/")
  odd = tmp_path / "with space % and ü"
  assert objects.kvstore_spec(odd) == {"driver": "file", "path": f"{odd}/"}
  assert len(token_sets.write(odd, 9)) == 9


def test_an_object_store_works_like_a_disk(tmp_path):
  """TensorStore's memory:// has keys only, no folders and no renaming."""
  path = "memory://sets/a"
  token_sets.fill(shards.Writer(path, token_sets.manifest()), 20)
  with pytest.raises(shards.StoreError, match="^memory://sets/a is incomplete"):
    open_any(path)
  store = token_sets.write(path, 30)
  disk = token_sets.write(tmp_path / "a", 30)
  assert store.manifest == disk.manifest
  np.testing.assert_array_equal(store.read(range(30))["codes"], disk.read(range(30))["codes"])
  store.verify()
  objects.write(f"{path}/shard-00002/codes/c/0/0", b"")
  with pytest.raises(shards.StoreError, match="^memory://sets/a/shard-00002"):
    open_any(path)
