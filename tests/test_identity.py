"""A run knows its data: what it goes on with must be what it was begun with."""

import dataclasses
import json
import os
import shutil

from etils import epath
import jax
import pytest
import runs
import stores
import test_hosts

from totojax import checkpoint
from totojax.data.store import manifests, shards
from totojax.rundir import directory, files, hosts, lock, peers, provenance

TRAIN, VAL = "data.train.moving", "data.validation.moving"
SHARD = 3  # records


def write(path, *, records=6, seed=0, prefix="t", order=1, **changes) -> str:
  """A store in shards of `SHARD`, in the place of what is there."""
  shutil.rmtree(path, ignore_errors=True)
  values: dict = dict(
    kind="video", tokenizer="0123456789abcdef", vocab=stores.VOCAB, size_px=16, stride_frames=4
  )
  values |= dict(fps=30.0, crops=1, labels=False, ids=True, classes=(), info={}) | changes
  field = manifests.token_field(frames=stores.FRAMES, grid=stores.GRID)
  manifest = manifests.new(
    fields=(field,), frames=stores.FRAMES, grid=stores.GRID, records_per_shard=SHARD, **values
  )
  codes_M = stores.codes(records, seed).reshape(records, -1)[::order]
  ids = [f"{prefix}/{i}" for i in range(records)][::order]
  writer = shards.Writer(path, manifest)
  for first in range(0, records, SHARD):
    part = slice(first, first + SHARD)
    writer.append({"codes": codes_M[part]}, labels=None, ids=ids[part], cursor=first)
  writer.close()
  return str(path)


def digest(path) -> str:
  return manifests.existing(path).identity["digest"]


def test_a_digest_is_of_the_records_and_of_nothing_else(tmp_path):
  path = tmp_path / "a"
  first = digest(write(path))
  assert digest(shutil.copytree(path, tmp_path / "elsewhere")) == first
  manifest = manifests.existing(path)
  # When, where and how far: harmless.
  same = dataclasses.replace(manifest, info={"made": "2031-01-01", "host": "b"}, cursor="z")
  assert same.identity == manifest.identity
  assert digest(write(path, info={"made": "later"})) == first  # made again, and the same
  others = [
    digest(write(path, seed=1)),
    digest(write(path, records=7)),
    digest(write(path, prefix="u")),
    digest(write(path, order=-1)),
  ]
  one, two = manifest.shards
  for changes in (
    dict(shards=(two, one)),
    dict(shards=(one,)),
    dict(tokenizer="0123456789abcdee"),
    dict(vocab=61),
    dict(classes=("a",)),
  ):
    others.append(dataclasses.replace(manifest, **changes).identity["digest"])
  assert len({first, *others}) == 1 + len(others)


def test_it_reads_the_manifest_alone(tmp_path):
  path = tmp_path / "a"
  first = digest(write(path))
  for shard in manifests.existing(path).shards:
    shutil.rmtree(path / shard.name)
  assert digest(path) == first


OTHERS = {
  "swapped": (dict(seed=5), "the same 6 items in another order, or with other contents"),
  "reordered": (dict(order=-1), "the same 6 items in another order, or with other contents"),
  "of other items": (dict(prefix="w"), "6 other records"),
  "grown": (dict(records=9), "9 records instead of 6"),
  "of another tokenizer": (
    dict(tokenizer="0123456789abcdee"),
    "tokenizer 0123456789abcdee instead of 0123456789abcdef",
  ),
}
CONFIG = {"run": "pretrain", "seed": 1}


def test_other_data_are_refused_and_leave_the_run_as_it_was(place, tmp_path):
  """Wherever the run is: in a bucket it is the same code."""
  workdir = epath.Path(place / "run")
  data = lambda: {
    key: manifests.existing(tmp_path / name).identity
    for key, name in ((TRAIN, "train"), (VAL, "val"))
  }
  write(tmp_path / "train")
  write(tmp_path / "val", prefix="v", seed=1)
  directory.begin(workdir, CONFIG, data=data())
  directory.begin(workdir, CONFIG, data=data())  # as it was
  before = files.read_json(workdir / "manifest.json")
  assert before["data"][TRAIN]["digest"] == digest(tmp_path / "train")
  for changes, words in OTHERS.values():
    write(tmp_path / "train", **changes)
    with pytest.raises(provenance.DataChanged) as told:
      directory.begin(workdir, {**CONFIG, "seed": 2}, data=data())
    line = str(told.value)
    assert f"({TRAIN}: {words})" in line and str(workdir) in line and "\n" not in line
    assert "Restore" in line and "another --workdir" in line and "--allow_changed_config" in line
    assert files.read_json(workdir / "manifest.json") == before
    assert files.read_json(workdir / "config.json") == CONFIG
  # Of what was lost the checkpoint knows.
  files.remove(workdir / "manifest.json")
  with pytest.raises(provenance.DataChanged):
    directory.begin(workdir, CONFIG, data=data(), saved=lambda: before)
  # What is allowed is kept in mind.
  files.write_json(workdir / "manifest.json", before)
  provenance.allow_other_data(True)
  try:
    directory.begin(workdir, CONFIG, data=data())
  finally:
    provenance.allow_other_data(False)
  after = files.read_json(workdir / "manifest.json")
  assert after["data"][TRAIN]["digest"] == digest(tmp_path / "train")
  assert after["starts"][-1]["data_before"] == {TRAIN: before["data"][TRAIN]}
  directory.begin(workdir, CONFIG, data=data())
  lock.release(workdir)


def test_a_run_from_before_there_were_digests_goes_on_and_has_them(tmp_path, capsys):
  workdir, data = epath.Path(tmp_path / "run"), {TRAIN: {"digest": "a", "records": 1}}
  directory.begin(workdir, CONFIG)
  directory.begin(workdir, CONFIG, data=data)
  assert capsys.readouterr().out.count("could not be compared") == 1
  directory.begin(workdir, CONFIG, data=data)
  assert "compared" not in capsys.readouterr().out
  with pytest.raises(provenance.DataChanged):
    directory.begin(workdir, CONFIG, data={TRAIN: {"digest": "b", "records": 1}})


def test_hosts_must_have_the_same_data(monkeypatch):
  now = {f"data.train.{k}": {"digest": k, "tokenizer": "t", "records": 5} for k in "ab"}
  hosts.check_data(now)  # one process
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  name = "data.train.b"
  other = json.dumps({**now[name], "records": 4})
  found = {name: {0: json.dumps(now[name]), 1: other}}
  monkeypatch.setattr(peers, "differences", lambda table: found)
  told = r"different data \(data.train.b: process 1 has 4 records instead of 5\)"
  with pytest.raises(provenance.DataChanged, match=told):
    hosts.check_data(now)
  monkeypatch.setattr(peers, "differences", lambda table: {})
  hosts.check_data(now)


@pytest.mark.slow
def test_a_run_of_pretraining_refuses_a_swapped_store_on_one_host_and_on_two(tmp_path):
  """None hangs; a store that was made again with the same bytes is the same data."""
  data = write(tmp_path / "train", records=24), write(tmp_path / "val", prefix="v", seed=1)
  words, workdir = runs.smoke(data, tmp_path / "run"), tmp_path / "run"
  runs.here(words)
  os.remove(workdir / "done.json")
  shutil.rmtree(workdir / "checkpoints" / "20")
  manifest = json.loads((workdir / "manifest.json").read_text())
  meta = checkpoint.latest_meta(workdir / "checkpoints")
  assert meta["data"] == manifest["data"] and set(meta["data"]) == {TRAIN, VAL}
  write(tmp_path / "train", records=24, seed=5)
  (line,) = [line for line in runs.here(words, code=2).splitlines() if "other data" in line]
  assert line.startswith("totojax: ") and TRAIN in line and VAL not in line
  shutil.copytree(workdir, tmp_path / "copy")  # this process has the other until it ends
  more = runs.smoke(data, tmp_path / "copy", "--host_timeout_s=10")
  processes = test_hosts.start_hosts(more, 2, 2)
  for process in processes:
    assert "was begun with other data" in runs.finish(process, code=2)
  write(tmp_path / "train", records=24)
  assert "resumed at step 16" in runs.here(words)
