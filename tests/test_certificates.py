"""Training and held-out data share no item: compared once, and on proof."""

import dataclasses
import json
import os
import tracemalloc

import numpy as np
import pytest
import token_sets

from totojax.data.store import certificates, columns, manifests, shards, store as store_lib
from totojax.data.store.store import Store
from totojax.data.stream import heldout, rows


@pytest.fixture(name="read")
def _read(monkeypatch):
  """Paths of the stores whose ids were read, in order."""
  found, columns_of = [], Store.id_columns

  def recorded(self):
    found.append(os.path.basename(self.path))
    return columns_of(self)

  monkeypatch.setattr(Store, "id_columns", recorded)
  return found


def store(path, records, **changes):
  return token_sets.write(path, records, prefix=path.name, **changes)


def of_ids(path, ids, per_shard=4):
  writer = shards.Writer(path, token_sets.manifest(labels=False, records_per_shard=per_shard))
  for i, item in enumerate(ids):
    codes = token_sets.codes(i, 1)
    writer.append({"codes": codes}, labels=None, ids=[item], cursor=i + 1)
  writer.close()
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def before(opened):
  """The store as it was written before there were sums of ids."""
  file = os.path.join(opened.path, manifests.FILE)
  with open(file) as stream:
    values = json.load(stream)
  del values["digest"]
  for shard in values["shards"]:
    del shard["ids"]
  with open(file, "w") as stream:
    json.dump(values, stream)
  return again(opened.path)


def again(path):
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def check(train, held_out):
  heldout.check_disjoint([rows.Source("t", train, 1.0)], [rows.Source("v", held_out, 1.0)])


@pytest.mark.parametrize("old", [(), (0,), (1,), (0, 1)])
def test_two_stores_are_compared_once(tmp_path, read, old):
  pair = [store(tmp_path / name, 20) for name in ("train", "val")]
  pair = [before(s) if i in old else s for i, s in enumerate(pair)]
  check(*pair)
  assert set(read) == {"train", "val"}
  read.clear()
  for _ in range(2):
    check(*map(again, (s.path for s in pair)))
  assert not read
  # Control: the certificate is of this direction, and is what was asked.
  (tmp_path / "val" / certificates.FILE).unlink()
  check(*pair)
  assert set(read) == {"train", "val"}
  assert not (tmp_path / "train" / certificates.FILE).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"ids": 3}', "\xff"])
def test_a_damaged_certificate_proves_nothing(tmp_path, read, text):
  train, val = store(tmp_path / "train", 9), store(tmp_path / "val", 5)
  check(train, val)
  file = tmp_path / "val" / certificates.FILE
  whole = file.read_bytes()
  file.write_text(text)
  read.clear()
  check(train, val)
  assert set(read) == {"train", "val"} and file.read_bytes() == whole


@pytest.mark.parametrize("changed", ["train", "val"])
@pytest.mark.parametrize("old", [False, True])
def test_a_store_that_was_changed_is_compared_again(tmp_path, read, changed, old):
  ids = {"train": [f"t/{i}" for i in range(9)], "val": ["v/0", "v/1"]}
  made = {k: of_ids(tmp_path / k, v) for k, v in ids.items()}
  if old:
    made = {name: before(one) for name, one in made.items()}
  check(**{"train": made["train"], "held_out": made["val"]})
  # One more record, in the same folder and beside the same certificate.
  proof = (tmp_path / "val" / certificates.FILE).read_bytes()
  more = ids[changed] + [{"train": "v/1", "val": "t/3"}[changed]]
  for path in sorted((tmp_path / changed).rglob("*"), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  made[changed] = of_ids(tmp_path / changed, more)
  if old:
    made[changed] = before(made[changed])
  (tmp_path / "val" / certificates.FILE).write_bytes(proof)
  read.clear()
  told = {"train": "v/1", "val": "t/3"}[changed]
  for _ in range(2):  # a refusal leaves no proof behind
    with pytest.raises(ValueError, match=f"'{told}' is in training source 't'"):
      check(made["train"], made["val"])
  assert read


def test_the_proof_of_one_training_store_is_of_no_other(tmp_path, read):
  val = store(tmp_path / "val", 5)
  others = [store(tmp_path / name, 9) for name in ("a", "b")]
  leak = of_ids(tmp_path / "leak", ["x", "val/3", "val/1", "val/3"])
  check(others[0], val)
  read.clear()
  check(others[1], val)
  assert set(read) == {"b", "val"}
  with pytest.raises(ValueError, match=r"'val/1' is in .*'v' \(2 such items\)"):
    check(leak, val)
  read.clear()
  for one in others:
    check(one, val)
  assert not read


def test_a_folder_that_cannot_be_written_is_compared_each_time(tmp_path, read, monkeypatch):
  train, val = store(tmp_path / "train", 9), store(tmp_path / "val", 5)

  def refuse(path, value):
    raise certificates.objects.StoreError(f"{path}: read-only")

  monkeypatch.setattr(certificates.objects, "write", refuse)
  for _ in range(2):
    read.clear()
    check(train, val)
    assert set(read) == {"train", "val"}
  with pytest.raises(ValueError, match="'val/0' is in"):
    check(val, val)


def test_what_is_shared_is_what_sets_say(tmp_path):
  rng = np.random.default_rng(0)
  names = [f"{'long' * (i % 7)}/{i}\u00e9" for i in range(60)]
  for trial in range(20):
    low, high = sorted(rng.integers(0, 60, 2) + [0, 1])
    one = list(rng.choice(names[:high], 25))  # crops of an item share its id
    other = list(rng.choice(names[low:], int(rng.integers(1, 60))))
    a = of_ids(tmp_path / f"{trial}a", one, per_shard=9)
    b = of_ids(tmp_path / f"{trial}b", other, per_shard=16)
    both = sorted(set(one) & set(other))
    expected = (both[0], len(both)) if both else None
    assert certificates.shared(a, b) == expected
    assert certificates.shared(b, a) == expected


def test_the_digest_is_of_ids_alone_in_any_order(tmp_path):
  ids = ["a", "bb", "a", "c" * 40]
  digests = {
    of_ids(tmp_path / str(i), given, per_shard).manifest.ids_digest
    for i, (given, per_shard) in enumerate([(ids, 4), (ids, 1), (ids[::-1], 3), (sorted(ids), 2)])
  }
  assert len(digests) == 1
  others = [ids[:3], [*ids, "a"], ["a", "bb", "bb", ids[3]], [*ids[:3], "c"]]
  for i, given in enumerate(others):
    other = of_ids(tmp_path / f"other{i}", given).manifest.ids_digest
    assert other not in digests
    digests.add(other)


def test_the_sum_is_that_of_plain_numbers():
  ids = [f"item/{i}" for i in range(3000)] + ["item/7"]
  width = max(map(len, ids))
  ids_RU = np.array(ids, f"S{width}").view(np.uint8).reshape(-1, width)
  marks = columns.marks(ids_RU)
  total = sum(int.from_bytes(m.ljust(16, b"\0"), "big") for m in marks.tolist())
  assert columns.ids_sum(ids_RU) == f"{total % 2**128:032x}"
  assert len(set(marks.tolist())) == 3000


def test_a_changed_record_changes_the_digest_of_an_old_store(tmp_path):
  one, same, other = (
    before(of_ids(tmp_path / name, ids)).manifest.ids_digest
    for name, ids in (("a", "xyz"), ("b", "xyz"), ("c", "xyw"))
  )
  assert one == same != other and one.startswith("probes ")


def test_jobs_that_write_both_splits_leave_the_proof(tmp_path, read):
  train, val = store(tmp_path / "train", 9), store(tmp_path / "val", 5)
  no_ids = token_sets.manifest(ids=False, labels=False)
  writer = shards.Writer(tmp_path / "nameless", no_ids)
  writer.append({"codes": token_sets.codes(0, 2)}, labels=None, ids=None, cursor=2)
  writer.close()
  nameless = Store(writer.path, writer.manifest)
  certificates.certify([train, val, nameless])
  read.clear()
  check(train, val)
  check(val, train)
  certificates.certify([train, val])
  assert not read
  leak = of_ids(tmp_path / "leak", ["val/1"])
  certificates.certify([leak, val])  # which is no error of that job
  with pytest.raises(ValueError, match="'val/1' is in"):
    check(leak, val)


class Counted:
  """A store of ids alone, made when they are read, in shards of 1,000."""

  def __init__(self, path, first, records):
    self.path, self._first, self._records = str(path), first, records
    path.mkdir()
    shard = manifests.Shard("shard-00000", records, "", str(first))
    self.manifest = dataclasses.replace(token_sets.manifest(), shards=(shard,))

  def __len__(self):
    return self._records

  def id_columns(self):
    for start in range(0, self._records, 1000):
      numbers = range(self._first + start, self._first + start + 1000)
      names = [b"howto100m/a-name-of-some-length/%09d" % i for i in numbers]
      yield np.frombuffer(b"".join(names), np.uint8).reshape(1000, -1)

  def ids(self):
    return [i for ids in self.id_columns() for i in columns.texts(ids)]


def peak_bytes(run):
  tracemalloc.start()
  try:
    run()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("held", [1_000, 100_000])
def test_memory_is_a_few_bytes_a_record(tmp_path, held):
  records = 100_000
  train = Counted(tmp_path / "t", 0, records)
  val = Counted(tmp_path / "v", records, held)
  leak = Counted(tmp_path / "l", records - 1000, held)
  few = 2**20 + 20 * held  # what a shard takes, and of the smaller one marks
  assert few < 40 * records
  assert peak_bytes(lambda: check(train, val)) < few
  assert peak_bytes(lambda: certificates.shared(train, leak)) < few
  # Control: the sets of all ids that this replaces.
  assert peak_bytes(lambda: set(train.ids())) > 80 * records
