"""What looks at a machine: each kind of fault is a row with an advice, and ends nothing."""

import dataclasses
import json
import os
import pathlib
import sys

from totojax import doctor

ROOT = pathlib.Path(doctor.__file__).resolve().parent.parent


def one(rows):
  (row,) = rows
  return row


def test_what_kills_hangs_or_breaks_is_told_of_the_right_module(tmp_path, monkeypatch):
  codes = {
    "well_made": "",
    "broken_made": "raise ImportError('libx.so is missing')",
    "killer_made": "import os; os.abort()",
    "after_made": "",
  }
  for name, code in codes.items():
    (tmp_path / f"{name}.py").write_text(code)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  found = dict(doctor._imported(list(codes), 60.0))
  assert found == {
    "well_made": "",
    "broken_made": "ImportError: libx.so is missing",
    "killer_made": "it died of signal 6",
    "after_made": "",
  }
  (tmp_path / "hanging_made.py").write_text("import time; time.sleep(1000)")
  assert dict(doctor._imported(["hanging_made"], 2.0)) == {"hanging_made": "no answer within 2 s"}


def test_extras_are_missing_broken_or_well(monkeypatch):
  monkeypatch.setattr(doctor, "EXTRAS", {"a": ("json",), "b": ("no_such_made",), "c": ("csv",)})
  monkeypatch.setattr(doctor, "_imported", lambda names, s: [("csv", "it died of signal 11")])
  rows = {row.name: row for row in doctor._extras(1.0)}
  assert rows["extra a"].status == doctor.OK
  assert rows["extra b"].status == doctor.NOTE and "totojax[b]" in rows["extra b"].advice
  assert rows["extra c"].status == doctor.WARN and "signal 11" in rows["extra c"].found


def devices(monkeypatch, facts, why="", files=()):
  monkeypatch.setattr(doctor, "_answer", lambda code, timeout_s: (facts, why))
  monkeypatch.setattr(doctor, "_GPU_FILES", files)
  return one(doctor._devices(1.0))


def test_devices(monkeypatch, tmp_path):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  cpu = {"kind": "cpu", "platform": "cpu", "count": 2, "bytes": None, "sum": 64.0**3}
  assert devices(monkeypatch, cpu) == doctor.Check("devices", "ok", "2 x cpu")
  row = devices(monkeypatch, cpu, files=(str(tmp_path),))
  assert row.status == "warn" and "totojax[cuda]" in row.advice
  assert devices(monkeypatch, {**cpu, "sum": 1.0}).status == "fail"
  row = devices(monkeypatch, None, "no answer within 1 s")
  assert row.status == "fail" and "JAX_PLATFORMS=cpu" in row.advice
  monkeypatch.setenv("JAX_PLATFORMS", "gpu")
  row = devices(monkeypatch, None, "Unable to initialize backend 'gpu'")
  assert row.status == "fail" and row.advice.startswith("JAX_PLATFORMS is gpu")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  row = one(doctor._folder("workdir", str(tmp_path / "not" / "there")))
  assert row.status in ("ok", "warn") and not list(tmp_path.iterdir())
  monkeypatch.setattr(os, "fsync", lambda n: (_ for _ in ()).throw(OSError(28, "No space left")))
  row = one(doctor._folder("workdir", str(tmp_path)))
  assert row.status == "fail" and "No space left" in row.found and "--workdir" in row.advice
  assert not list(tmp_path.iterdir())  # nothing stays behind


def test_requirements_that_do_not_match(tmp_path, monkeypatch):
  for name, version, wants in (("one_made", "1.0", "two_made<2,>=1"), ("two_made", "2.5", "")):
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    requires = f"Requires-Dist: {wants}\n" if wants else ""
    folder.joinpath("METADATA").write_text(
      f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    )
  monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
  assert list(doctor._unmet("one_made")) == [("two_made<2,>=1", "2.5")]
  assert list(doctor._unmet("two_made")) == []


def test_stores_runs_and_what_is_neither(tmp_path):
  missing = one(doctor._path(str(tmp_path / "nothing")))
  assert missing.status == "fail"
  (tmp_path / "run").mkdir()
  config = tmp_path / "run" / "config.json"
  config.write_text('{"run": "pretrain"}')
  assert one(doctor._path(str(tmp_path / "run"))).status == "note"
  (tmp_path / "run" / "done.json").write_text("{}")
  assert one(doctor._path(str(tmp_path / "run"))).found == "run 'pretrain', done"
  config.write_text('{"run": "pre')
  damaged = one(doctor._path(str(tmp_path / "run")))
  assert damaged.status == "fail" and damaged.advice
  (tmp_path / "store").mkdir()
  (tmp_path / "store" / "manifest.json").write_text('{"version": 1}')
  damaged = one(doctor._path(str(tmp_path / "store")))
  assert damaged.status == "fail" and "manifest.json" in damaged.found


def test_what_nobody_foresaw_is_a_row(monkeypatch, capsys):
  def broken():
    raise ZeroDivisionError("of a made kind")

  row = one(doctor._tried("part", broken))
  assert row.status == "fail" and "ZeroDivisionError: of a made kind" in row.found
  for name in ("_python", "_packages", "_memory", "_open_files", "_compiled"):
    monkeypatch.setattr(doctor, name, broken)
  monkeypatch.setattr(doctor, "_devices", lambda s: broken())
  monkeypatch.setattr(doctor, "_extras", lambda s: broken())
  assert doctor.main(["--json"]) == 2
  rows = json.loads(capsys.readouterr().out)
  assert {row["name"] for row in rows if row["status"] == "fail"} >= {"python", "devices", "extras"}
  assert set(rows[0]) == {f.name for f in dataclasses.fields(doctor.Check)}


def test_it_prints_without_rich_and_imports_nothing_of_others(monkeypatch, capsys):
  rows = [doctor.Check("[name]", "fail", "found [1]", "do this")]
  doctor.show(rows)
  told = capsys.readouterr().out
  assert "[name]" in told and "found [1]" in told and "do this" in told
  monkeypatch.setitem(sys.modules, "rich", None)
  doctor.show(rows)
  assert capsys.readouterr().out == "fail  [name]: found [1] -> do this\n"


def test_compiled_programs_have_a_folder_of_their_kind_of_cpu(tmp_path, monkeypatch):
  from totojax.rundir import console

  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  folder = console.keep_compiled()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == folder == console.keep_compiled()
  assert pathlib.Path(folder).parent == tmp_path / "cache" / "totojax" and os.path.isdir(folder)
  for chosen in ("", "/mine"):  # the user's stays, none included
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    assert console.keep_compiled() == chosen == os.environ["JAX_COMPILATION_CACHE_DIR"]
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  assert console.keep_compiled() == "" and "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_long_path_is_told_whole(monkeypatch, capsys):
  monkeypatch.setenv("COLUMNS", "80")
  path = "/data/" + "/".join(["videos"] * 20)
  doctor.show([doctor.Check(path, doctor.FAIL, "there is nothing", "check the path")])
  lines = capsys.readouterr().out.splitlines()
  assert path in "".join(
    line.split("there is")[0].replace("fail", "").strip() for line in lines[3:]
  )
