"""What a run says of itself: date, command, commit, machine and versions."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

from etils import epath
import jax
import numpy as np
import pytest
import runs

import totojax
from totojax.rundir import directory, files, provenance


def git(folder, *words):
  """What git prints in a folder; a repository needs no user of this machine."""
  who = {
    f"GIT_{role}_{key}": "nobody@localhost"
    for role in ("AUTHOR", "COMMITTER")
    for key in ("NAME", "EMAIL")
  }
  return subprocess.run(
    ["git", *words], cwd=folder, env=os.environ | who, check=True, capture_output=True, text=True
  ).stdout.strip()


@pytest.fixture(name="checkout")
def _checkout(tmp_path):
  """A repository that holds a package, committed."""
  package = tmp_path / "clone" / "package"
  package.mkdir(parents=True)
  (package / "__init__.py").write_text("A = 1\n")
  git(package, "init", "-q")
  git(package, "add", ".")
  git(package, "commit", "-q", "-m", "first")
  provenance.git.cache_clear()
  yield package
  provenance.git.cache_clear()


def test_facts_of_this_process():
  found = json.loads(json.dumps(provenance.environment()))
  started = datetime.datetime.fromisoformat(found["started"])
  assert started.utcoffset() == datetime.timedelta(0)
  age = datetime.datetime.now(datetime.UTC) - started
  assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=10)
  assert shlex.split(found["command"]) == sys.orig_argv
  assert found["git"] == provenance.git(runs.ROOT / "totojax")
  assert found["python"] == platform.python_version()
  assert found["machine"]["system"].split() == list(platform.uname()[::4])
  assert found["machine"]["cpu"] and found["machine"]["cores"] >= 1
  assert found["devices"] == {"kind": "cpu", "count": 8}
  versions = found["versions"]
  assert versions["totojax"] == totojax.__version__
  assert versions["jax"] == jax.__version__
  assert versions["numpy"] == np.__version__
  for name in ("av", "libtpu", "pillow", "scipy"):
    try:
      installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      assert name not in versions
    else:
      assert versions[name] == installed
  missing = ("numpy", "no-such-package")
  assert provenance.versions(missing) == {
    "numpy": np.__version__,
    "no-such-package": "not installed",
  }


def test_the_commit_and_whether_files_were_changed(checkout):
  commit = git(checkout, "rev-parse", "HEAD")
  assert provenance.git(checkout) == {"commit": commit, "clean": True}
  # Results and notes that lie beside the code do not change it.
  (checkout / "notes.txt").write_text("a")
  provenance.git.cache_clear()
  assert provenance.git(checkout) == {"commit": commit, "clean": True}
  (checkout / "__init__.py").write_text("A = 2\n")
  # The process has read its code: what is changed later says nothing of it.
  assert provenance.git(checkout) == {"commit": commit, "clean": True}
  provenance.git.cache_clear()
  assert provenance.git(checkout) == {"commit": commit, "clean": False}


def test_the_commit_of_another_project_is_none_of_ours(checkout):
  inside = checkout / ".venv" / "package"
  inside.mkdir(parents=True)
  (inside / "__init__.py").write_text("")
  assert provenance.git(inside) is None
  git(inside, "add", "--force", ".")
  git(inside, "commit", "-q", "-m", "second")
  provenance.git.cache_clear()
  assert provenance.git(inside)["clean"]


def test_a_hook_of_git_does_not_mislead(checkout, tmp_path, monkeypatch):
  commit = git(checkout, "rev-parse", "HEAD")
  other = tmp_path / "other"
  other.mkdir()
  git(other, "init", "-q")
  monkeypatch.setenv("GIT_DIR", str(other / ".git"))
  assert provenance.git(checkout)["commit"] == commit


def test_without_git_or_a_checkout_there_is_no_commit(checkout, monkeypatch):
  outside = checkout.parent.parent / "outside"
  outside.mkdir()
  (outside / "__init__.py").write_text("")
  assert provenance.git(outside) is None
  assert provenance.git(outside / "nowhere") is None
  monkeypatch.setenv("PATH", "")
  assert provenance.git(checkout) is None
  monkeypatch.undo()
  provenance.git.cache_clear()
  assert provenance.git(checkout) is not None


def test_a_git_that_hangs_or_fails_costs_the_commit_alone(checkout, monkeypatch):
  programs = checkout.parent.parent / "bin"
  programs.mkdir()
  real = subprocess.run(
    ["sh", "-c", "command -v git"], capture_output=True, text=True, check=True
  ).stdout.strip()
  monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
  monkeypatch.setattr(provenance, "_PATIENCE_S", 0.2)
  for body, there in (
    ("exec sleep 600", False),
    ("exit 3", False),
    (f'exec {shlex.quote(real)} "$@"', True),
  ):
    program = programs / "git"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    provenance.git.cache_clear()
    if there:
      monkeypatch.setattr(provenance, "_PATIENCE_S", 60.0)
    assert (provenance.git(checkout) is not None) == there, body


def _start(monkeypatch, minute, *, cores):
  """An environment that differs by its date, and by its cores."""
  real = provenance.environment()
  monkeypatch.setattr(
    provenance,
    "environment",
    lambda: {
      **real,
      "started": f"2025-01-31T10:{minute:02}:00+00:00",
      "command": f"command {minute}",
      "machine": {**real["machine"], "cores": cores},
    },
  )


def _manifest(workdir):
  return files.read_json(workdir / "manifest.json")


def test_a_run_keeps_the_facts_of_its_first_start(tmp_path, monkeypatch):
  workdir = epath.Path(tmp_path)
  _start(monkeypatch, 1, cores=3)
  directory.begin(workdir, {"run": "x"}, steps=7)
  first = _manifest(workdir)
  assert first["command"] == "command 1" and "starts" not in first
  _start(monkeypatch, 2, cores=3)
  directory.begin(workdir, {"run": "x"}, steps=8)
  _start(monkeypatch, 3, cores=5)
  directory.begin(workdir, {"run": "x"}, steps=8)
  later = _manifest(workdir)
  machine = {**first["machine"], "cores": 5}
  assert later.pop("starts") == [
    {"started": "2025-01-31T10:02:00+00:00", "command": "command 2"},
    {"started": "2025-01-31T10:03:00+00:00", "command": "command 3", "machine": machine},
  ]
  assert later == {**first, "steps": 8}


def test_a_manifest_of_before_goes_on_and_a_damaged_one_anew(tmp_path, monkeypatch):
  workdir = epath.Path(tmp_path)
  _start(monkeypatch, 1, cores=3)
  old = {"versions": {"jax": "0.9"}, "python": "3.11.0", "steps": 7}
  (workdir / "manifest.json").write_text(json.dumps(old))
  directory.begin(workdir, {"run": "x"}, steps=7)
  found = _manifest(workdir)
  (start,) = found.pop("starts")
  assert found == old  # and nothing is made up of its first start
  assert start["python"] == platform.python_version()
  assert start["started"] == "2025-01-31T10:01:00+00:00"
  for damage in ("", '{"versions": ', "[1]", "null"):
    pathlib.Path(workdir / "manifest.json").write_text(damage)
    directory.begin(workdir, {"run": "x"}, steps=7)
    assert "starts" not in _manifest(workdir)
    assert _manifest(workdir)["command"] == "command 1"
