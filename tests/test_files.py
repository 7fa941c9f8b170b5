"""Result files: whole, read as they were written, and written in one place."""

import ast

from etils import epath
import numpy as np
import pytest
import runs

from totojax.report import reading
from totojax.rundir import console, files, metrics

HEADER = ("id", "reason")
ROWS = [["a", 'ends "here"\nand, there'], ["b\u2028c", "\n"], ["", "x"]]


def test_a_table_is_read_as_it_was_written(tmp_path):
  path = tmp_path / "t.csv"
  files.write_table(path, ROWS, header=HEADER)
  assert files.read_table(path) == ROWS
  assert files.read_csv(path) == [dict(zip(HEADER, row)) for row in ROWS]
  with pytest.raises(FileNotFoundError):
    files.read_table(tmp_path / "none.csv")
  whole = path.read_bytes()
  for damaged in (b"", whole[:-6], whole + b"c", whole + b"\xff,c\n"):
    path.write_bytes(damaged)
    for read in (files.read_table, files.read_csv):
      with pytest.raises(files.Damaged, match="t.csv is damaged .*remove it"):
        read(path)


def test_both_writers_of_tables_write_the_same(tmp_path):
  files.write_table(tmp_path / "a", ROWS, header=HEADER)
  files.write_csv(tmp_path / "b", (dict(zip(HEADER, row)) for row in ROWS))
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  files.write_table(tmp_path / "a", [], header=HEADER)
  assert (tmp_path / "a").read_text() == "id,reason\n"
  assert files.read_table(tmp_path / "a") == []


def test_no_flipped_bit_is_another_sealed_object(tmp_path):
  path = tmp_path / "config.json"
  value = {"model": {"heads": 4, "rope_base": 1e4, "names": ("a", "\u00e9")}, "seed": 0, "b": None}
  files.write_json(path, value, sealed=True)
  whole, sound = path.read_bytes(), files.read_json(path)
  assert sound == {**value, "model": {**value["model"], "names": ["a", "\u00e9"]}}
  seal = range(whole.index(b'"sha256"'), whole.index(b'"sha256"') + 8)
  for bit in range(8 * len(whole)):
    if bit // 8 in seal:  # as of before there were any: its key is one too many
      continue
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
      assert files.read_json(path) == sound
    except files.Damaged as error:
      assert str(path) in str(error)
  # Control, and what a user does on purpose: without a seal it is believed.
  files.write_json(path, {**sound, "seed": 1})
  assert files.read_json(path)["seed"] == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_read_as_they_were_written(tmp_path, compressed):
  path = tmp_path / "a.npz"
  arrays = {"x/y": np.arange(6.0).reshape(2, 3), "text": np.array("a b")}
  files.write_npz(path, arrays, compressed=compressed)
  found = files.read_npz(path)
  assert set(found) == set(arrays)
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(files.Damaged, match="a.npz is damaged"):
    files.read_npz(path)


@pytest.mark.parametrize(
  "data, told", [(b'{"a": ', "line 1"), (b"[1]", "no JSON object"), (b"\xff", "decode")]
)
def test_json_that_is_no_object_is_damaged(tmp_path, data, told):
  path = tmp_path / "a.json"
  path.write_bytes(data)
  with pytest.raises(files.Damaged, match=f"a.json is damaged .*{told}"):
    files.read_json(path)
  files.write_json(path, {"a": 1})
  assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize(
  "write, value",
  [
    (files.write_bytes, b"abc"),
    (files.write_text, "abc"),
    (files.write_json, {"a": 1}),
    (files.write_csv, [{"a": 1}]),
    (files.write_npz, {"a": np.zeros(2)}),
  ],
)
def test_an_object_store_gets_one_put(write, value, bucket, tmp_path):
  write(epath.Path(bucket / "file"), value)
  (request,) = bucket.proxy.lines()
  assert request.startswith("POST /upload/")
  # A local one is the same, and left alone by what is beside it for a moment.
  write(tmp_path / "file", value)
  assert bucket.objects() == {"file": (tmp_path / "file").read_bytes()}
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_are_alike_in_a_folder_and_in_a_bucket(place):
  folder = epath.Path(place / "run #1%20")
  assert files.children(folder) == [] and not files.exists(folder / "b")
  files.make_folder(folder / "a/deep")
  for name in ("b", "a/deep/c", "ab", "empty"):
    files.write_bytes(folder / name, name.encode() * (name != "empty"))
  assert files.children(folder) == [folder / name for name in ("a", "ab", "b", "empty")]
  assert files.exists(folder / "b") and files.exists(folder / "empty")
  assert not files.exists(folder / "a") and not files.exists(folder / "a/dee")
  assert files.read_bytes(folder / "a/deep/c") == b"a/deep/c"
  assert files.read_bytes(folder / "empty") == b""
  with pytest.raises(FileNotFoundError, match="run #1%20/none"):
    files.read_bytes(folder / "none")
  for name in ("a", "b", "b", "none"):
    files.remove(folder / name)
  assert files.children(folder) == [folder / "ab", folder / "empty"]
  assert sorted(place.objects()) == ["run #1%20/ab", "run #1%20/empty"]


def test_all_readers_of_a_log_forgive_its_cut_end_alone(tmp_path):
  path = tmp_path / metrics.FILE
  rows = '{"step": 1, "kind": "train"}\n{"step": 2, "kind": "train"}\n'
  for end in ("", '{"step": 3, "ki', "\xff"):
    path.write_text(rows + end)
    assert [row["step"] for row in metrics.read(path)] == [1, 2]
    assert len(reading.RunFolder(tmp_path).lines(metrics.FILE)) == 2
  path.write_text('{"step": 1, "ki\n' + rows)
  with pytest.raises(metrics.DamagedLine, match="line 1 is damaged"):
    metrics.read(path)
  with pytest.raises(reading.Missing, match="damaged in line 1 of 3"):
    reading.RunFolder(tmp_path).lines(metrics.FILE)


@pytest.mark.parametrize(
  "seconds, text",
  [
    (0.04, "0.0 s"),
    (9.12, "9.1 s"),
    (60, "1 min 0 s"),
    (119.6, "2 min 0 s"),
    (3599.7, "1 h 0 min"),
    (5 * 3600 + 400, "5 h 6 min"),
    (100 * 3600, "4 d 4 h"),
  ],
)
def test_durations(seconds, text):
  assert console.duration(seconds) == text


@pytest.mark.parametrize(
  "value, text",
  [
    (0, "0"),
    (12, "12"),
    (999.4, "999"),
    (1_337_216, "1.34 M"),
    (-2500, "-2.5 k"),
    (2.56e12, "2.56 T"),
    (float("inf"), "inf"),
  ],
)
def test_short_numbers(value, text):
  assert console.short(value) == text


# Who may write a file by other means: the data sets' own door, downloads and
# the bench, which measures a plain write.
WRITERS = {
  "doctor.py",  # imports nothing of ours: it is for where that fails
  "rundir/files.py",
  "rundir/local.py",  # arrays that are written in place
  "rundir/peers.py",  # the descriptor of stderr
  "rundir/lock.py",
  "rundir/metrics.py",
  "storage/objects.py",
  "storage/paths.py",
  "tokenizers/released/download.py",
  "jobs/bench/saving.py",
  "jobs/compare.py",  # no file: /proc, of which the mark of the most memory begins anew
}


def bare_writes(text):
  """Lines of a program that write a file by themselves."""
  found = []
  for node in ast.walk(ast.parse(text)):
    if not isinstance(node, ast.Call):
      continue
    function = node.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    owner = getattr(getattr(function, "value", None), "id", "")
    writes = name in ("write_text", "write_bytes", "to_csv", "tofile")
    writes = writes and owner not in ("files", "objects")
    writes |= name in ("savez", "savez_compressed") or (name, owner) == ("save", "np")
    writes |= name in ("writer", "DictWriter") and owner == "csv"
    # open(path, "w"), or path.open("w").
    first = 1 if isinstance(function, ast.Name) else 0
    modes = node.args[first : first + 1]
    words = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
    words += [getattr(k.value, "value", "") for k in node.keywords if k.arg == "mode"]
    writes |= name == "open" and any(
      isinstance(word, str) and set(word) & set("wax+") for word in words
    )
    if writes:
      found.append(node.lineno)
  return found


def test_files_are_written_in_one_place():
  seen = set()
  for path in sorted((runs.ROOT / "totojax").rglob("*.py")):
    name = str(path.relative_to(runs.ROOT / "totojax"))
    lines = bare_writes(path.read_text())
    if name in WRITERS:
      seen |= {name} if lines else set()
    else:
      assert not lines, f"{name}: {lines} write a file; use rundir.files"
  assert "rundir/files.py" in seen  # or this test looks at nothing


@pytest.mark.parametrize(
  "line",
  [
    "path.write_text(x)",
    "(a / 'b').write_bytes(x)",
    "np.savez(b, **c)",
    "np.save(path, x)",
    "open(path, 'w')",
    "open(path, mode='ab')",
    "path.open('w')",
    "csv.writer(text)",
    "frame.to_csv(path)",
  ],
)
def test_a_bare_write_is_found(line):
  assert bare_writes(f"x = 1\n{line}\n") == [2]
  assert bare_writes("files.write_bytes(path, x)\nopen(path, 'rb')\n") == []
