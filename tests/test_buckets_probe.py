"""Probing with a run directory in a bucket: features are kept on this machine."""

import collections
import shutil

from etils import epath
import probes
import pytest

from totojax import jobs
from totojax.rundir import files, local

TABLES = ("per_layer.csv", "predictions.csv", "metrics.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("probe")
  labels = [i % 3 for i in range(24)]
  train, val = (
    probes.write(root / s, labels, prefix=s, seed=i) for i, s in enumerate(("train", "val"))
  )
  return probes.bare_backbone(root), train, val


def config(data, **more):
  return probes.config(*data, train=dict(epochs=2.0, batch_rows=8, score_rows=8), **more)


def tables(workdir):
  return {name: files.read_bytes(epath.Path(workdir) / name) for name in TABLES}


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("local")
  assert jobs.run(config(data, cache="on"), epath.Path(workdir), lambda step: False)
  assert sorted(p.suffix for p in (workdir / "features").iterdir()) == [
    ".json",
    ".json",
    ".npy",
    ".npy",
  ]
  return tables(workdir)


def test_features_of_a_run_in_a_bucket_are_kept_here(data, expected, bucket, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  workdir, steps = epath.Path(bucket / "run"), []

  def interrupted(step):
    steps.append(step)
    return len(steps) == 1  # once the features of one set are half there

  assert not jobs.run(config(data), workdir, interrupted)
  (note,) = tmp_path.rglob("*.npy.json")
  assert '"done": 8' in note.read_text() and local.folder(workdir, "features") == epath.Path(
    note.parent
  )
  assert jobs.run(config(data), workdir, lambda step: False)
  assert tables(workdir) == expected
  assert not any("features" in name for name in bucket.objects())
  assert not list(tmp_path.rglob("*.npy"))  # nobody else would clear them


@pytest.mark.slow
def test_without_room_features_are_not_kept(data, expected, bucket, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 100, 100))
  with pytest.raises(ValueError, match="has room for 1e-07; make room there"):
    jobs.run(config(data, cache="on"), epath.Path(bucket / "on"), lambda step: False)
  assert jobs.run(config(data), epath.Path(bucket / "run"), lambda step: False)
  assert "they are not kept" in capsys.readouterr().out
  assert not list(tmp_path.iterdir())
  rows, wanted = (t["predictions.csv"] for t in (tables(bucket / "run"), expected))
  assert rows == wanted


def test_each_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  here = [local.folder(f"gs://bucket/{name}", "features") for name in ("a", "b", "a/")]
  assert here[0] == here[2] != here[1]
  assert local.folder(tmp_path / "run", "features") == epath.Path(tmp_path / "run/features")
