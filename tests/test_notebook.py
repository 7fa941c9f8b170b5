"""Notebooks: nothing is worked out in them, and each runs as its user runs it."""

import ast
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import sys

from absl import flags
import notebooks
import numpy as np
from PIL import Image
import pytest

from totojax import notebook
from totojax.data.pixels import movies

MOST_BYTES = 400_000
# What none says of the machine that it was run on.
OF_A_MACHINE = re.compile(r"(?<![\w.])/(?:root|home|Users|tmp|work|var|content|usr)/")
IMAGE = re.compile(r"base64,[\w+/=]+")
CALLS = 2  # of public functions, or the like
NODES = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)


def code(name):
  return [cell for cell in notebooks.cells(name) if cell["cell_type"] == "code"]


def logic(source):
  """What a cell has that belongs into the package."""
  source = source.replace("\\\n", " ")
  commands = [line for line in source.splitlines() if line.startswith("%")]
  tree = ast.parse("\n".join(line for line in source.splitlines() if line not in commands))
  found = [type(node).__name__ for node in tree.body if not isinstance(node, NODES)]
  calls = 0
  for node in ast.walk(tree):
    calls += isinstance(node, ast.Call)
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.Compare, ast.comprehension, ast.Lambda)):
      found.append(type(node).__name__)
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
      found.append(node.attr)
  programs = [line for line in commands if not line.startswith("%load_ext ")]
  if len(programs) > 1 or calls + len(programs) > CALLS:
    found.append(f"{len(programs)} commands, {calls} calls")
  return found


def text_of(cell):
  """The outputs of a cell but for pictures."""
  parts = []
  for output in cell["outputs"]:
    parts += [output.get("text", "")]
    parts += [data for kind, data in output.get("data", {}).items() if kind != "image/png"]
  return IMAGE.sub("", "\n".join("".join(part) for part in parts))


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_it_has_no_logic_and_what_it_gave(name):
  assert name in SMOKE
  path = notebooks.FOLDER / f"{name}.ipynb"
  assert path.stat().st_size <= MOST_BYTES
  # The cell that installs is one for all; the address stands in it, once.
  (ours,), (first,) = (notebooks.cells(each, "install") for each in (name, "quickstart"))
  assert notebooks.source(ours) == notebooks.source(first)
  ran = code(name)
  assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)]
  pictures = 0
  for cell in ran:
    source, kinds = notebooks.source(cell), [kind["output_type"] for kind in cell["outputs"]]
    if cell is not ran[1]:
      assert "install" not in cell["metadata"].get("tags", ()) and not logic(source), source
    assert "error" not in kinds and not OF_A_MACHINE.search(text_of(cell)), source
    shows = re.search(r"^notebook\.(show|play)\(", source, re.M)
    pictures += bool(shows)
    assert not shows or "execute_result" in kinds, source
    assert "%totojax" not in source or "stream" in kinds, source
  assert pictures >= 1


@pytest.mark.parametrize(
  "source, told",
  [
    ("x = f(1)\n%totojax --config=configs/demo.py \\\n  --workdir={X}", []),
    ("for x in y:\n  f(x)", ["For"]),
    ("x = A or f()", ["BoolOp"]),
    ("[f(x) for x in y]", ["comprehension"]),
    ("m._params", ["_params"]),
    ("%totojax a\n%totojax b", ["2 commands, 0 calls"]),
    ("f(g(h()))", ["0 commands, 3 calls"]),
  ],
)
def test_logic_is_noticed(source, told):
  assert logic(source) == told


@pytest.mark.parametrize(
  "chosen, variable, wheel, installed",
  [
    ("https://a.org/toto", "", "", "totojax[data] @ git+https://a.org/toto"),
    ("clone", "https://b.org/toto", "totojax-0.1.0-py3-none-any.whl", "HERE/clone[data]"),
    (
      "",
      "https://b.org/toto",
      "totojax-0.1.0-py3-none-any.whl",
      "totojax[data] @ git+https://b.org/toto",
    ),
    ("", "", "totojax-0.1.0-py3-none-any.whl", "HERE/totojax-0.1.0-py3-none-any.whl[data]"),
    ("", "", "", None),
  ],
)
def test_it_is_installed_from_what_there_is(
  tmp_path, monkeypatch, chosen, variable, wheel, installed
):
  """And the runtime's jax is pinned; where nothing is there, one line says what to do."""
  (cell,) = notebooks.cells("quickstart", "install")
  source = notebooks.source(cell)
  assert source.count('SOURCE = ""\n') == 1
  source = source.replace('SOURCE = ""', f"SOURCE = {chosen!r}")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("TOTOJAX_SOURCE", variable)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  called = []
  monkeypatch.setattr("subprocess.run", lambda words, check: called.append(words))
  if wheel:
    (tmp_path / wheel).write_bytes(b"")
  if installed is None:
    with pytest.raises(ValueError, match="no totojax-.*whl lies here"):
      exec(source, {})
    return
  exec(source, {})
  (words,) = called
  assert words[-1] == installed.replace("HERE", str(tmp_path.resolve()))
  assert words[-3:-1] == ["-c", "runtime.txt"]
  version = importlib.metadata.version("jax")
  assert f"jax=={version}\n" in (tmp_path / "runtime.txt").read_text()


# --- What they call ----------------------------------------------------------


@pytest.fixture(name="_flags")
def _restored():
  yield
  flags.FLAGS.unparse_flags()
  flags.FLAGS(sys.argv[:1])  # as conftest does


@pytest.mark.parametrize(
  "words, told",
  [
    (["--config=configs/gone.py"], r"totojax: config 'configs/gone.py' does not exist"),
    (["--config=configs/smoke.py", "--config.sed=1"], "sed"),
    (["--config=configs/smoke.py", "--list"], "none for a notebook"),
    (["--config=configs/smoke.py", "and"], "none for a notebook"),
    (["--workdir=a"], "none for a notebook"),
    (["--config=configs/smoke.py", "--workdir="], "--workdir is empty"),
    (["--config=configs/smoke.py", "--workdir=s3://b/run"], "s3://b/run"),
    (["--config=configs/smoke.py", "--storage_timeout_s=-1"], "storage_timeout_s is -1"),
  ],
)
def test_a_wrong_command_is_one_line(_flags, words, told):
  with pytest.raises(notebook.Failed, match=told) as caught:
    notebook.run(*words)
  (line,) = caught.value._render_traceback_()
  assert line.startswith("totojax: ") and "Traceback" not in line
  with pytest.raises((ValueError, OSError)):
    notebook.run(*words, "--traceback")


def test_a_command_forgets_the_flags_of_the_one_before(_flags, monkeypatch):
  ran = []
  monkeypatch.setattr(
    "totojax.main.work", lambda values, _: ran.append((values["seed"], flags.FLAGS.workdir))
  )
  notebook.run("--config=configs/smoke.py", "--workdir=a", "--config.seed=3")
  notebook.run("--config=configs/smoke.py")
  assert ran == [(3, "a"), (0, None)]


def test_the_first_interruption_asks_and_the_second_ends(_flags, monkeypatch):
  told, before = [], signal.getsignal(signal.SIGINT)

  def work(values, interrupted):
    told.append(interrupted(1))
    os.kill(os.getpid(), signal.SIGINT)
    told.append(interrupted(2))
    if values["seed"]:
      os.kill(os.getpid(), signal.SIGINT)
      told.append("went on")

  monkeypatch.setattr("totojax.main.work", work)
  for seed, error in enumerate((notebook.Stopped, KeyboardInterrupt)):
    with pytest.raises(KeyboardInterrupt) as caught:
      notebook.run("--config=configs/smoke.py", f"--config.seed={seed}")
    assert caught.type is error
    assert signal.getsignal(signal.SIGINT) is before
  assert told == [False, True] * 2


def test_examples_and_pictures(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  frames = notebook.frames(count=3, size_px=16)
  assert frames.shape == (3, 16, 16, 3) and (frames[0] != frames[2]).any()
  pytest.importorskip("av")
  playing = np.repeat(notebook.frames(count=6, size_px=32), 3, axis=0)  # 18 of a second
  pathlib.Path("a.mp4").write_bytes(movies.mp4(playing, fps=30, codec="h264", crf=1))
  found = notebook.frames("a.mp4", count=4, size_px=32).astype(int)
  right, wrong = playing[::4][:4], playing[::-4][:4]
  assert np.abs(found - right).mean() < 0.5 * np.abs(found - wrong).mean()
  with pytest.raises(ValueError, match="a.mp4 has 5 frames at 7.5 a second, and 6 are wanted"):
    notebook.frames("a.mp4", count=6, size_px=32)
  with pytest.raises(ValueError, match="b.mp4 gives no frames"):
    notebook.frames("b.mp4")

  folder = notebook.images(each=2, size_px=16)
  assert len(os.listdir(folder)) == 5 and not [p for p in os.listdir() if p.startswith(".")]
  assert len({path.read_bytes() for path in pathlib.Path(folder).rglob("*.png")}) == 10
  assert notebook.images(each=2, size_px=16) == folder == notebook.images(folder)
  with pytest.raises(ValueError, match="gone is no folder"):
    notebook.images("gone")

  codes = np.arange(8).reshape(2, 2, 2)
  coloured = notebook.coloured(codes, vocab=8)
  assert coloured.shape == (2, 2, 2, 3) and len(np.unique(coloured.reshape(8, 3), axis=0)) == 8
  shown = notebook.play(frames, coloured, title="<b>")._repr_mimebundle_()
  assert "data:image/webp;base64," in shown["text/html"] and "&lt;b&gt;" in shown["text/html"]
  with pytest.raises(ValueError, match="128 is a multiple"):
    notebook.play(frames, frames[:, :, :12])

  Image.new("RGB", (4, 4)).save("a.png")
  assert set(notebook.show("a.png")._repr_mimebundle_()) == {"image/png", "text/plain"}
  for number in (0, 1):
    pathlib.Path(f"{number}.webp").write_bytes(movies.webp(frames, fps=8))
  assert repr(notebook.show(".")) == "1.webp"
  for name, told in (("b.png", "there is no picture b.png"), ("a.mp4", "no .png or .webp")):
    with pytest.raises(ValueError, match=told):
      notebook.show(name)


# --- As a user runs them -----------------------------------------------------

# Their parameters at a size for tests; what is not named stays.
SMOKE = {
  "quickstart": {"FIRST_OPTIONS": "--config.new_frames=2", "OPTIONS": None},
  "tokens": {"VIDEO": "my video.mp4", "FRAMES": 5, "SIZE_PX": 32},
  "generate": {"OPTIONS": "--config.prompt.clips=2 --config.new_frames=2", "LONGER": 9},
  "probe": {"EACH": 5, "OPTIONS": "--config.train.epochs=2.0 --config.data.holdout_frac=0.25"},
  "scaling": {
    "OPTIONS": " ".join(
      [
        "--config.stages.law.scaling.force=True --config.stages.law.scaling.draws=20",
        "--config.stages.clips.amount.train=40 --config.stages.clips.amount.val=8",
        "--config.stages.shards.tokenizing.kmeans_frames=64",
        "--config.stages.shards.tokenizing.kmeans_patches=1000",
        "--config.stages.shards.tokenizing.report_frames=32",
        *(
          f"--config.stages.{name}.{key}"
          for name in ("w32", "w64", "w128")
          for key in (
            "model.depth=1",
            "train.total_tokens=8192.0",  # 4 updates
            "optim.warmup_steps=1",
            "validation.rows=8",
            "every.eval_steps=1",
            "every.checkpoint_steps=4",
          )
        ),
      ]
    )
  },
}
GAVE = {
  "quickstart": ("(copy ", "image/png", "runs/quickstart/demo/report/report.html"),
  "tokens": ("psnr_db", "(5, 4, 4)", "(1, 2, 4, 4)"),
  "generate": ("nats per visual token", "webp", "(16, 32, 6, 128)"),
  "probe": ("histogram, frozen views: top-1", "image/png", "runs/probe/probe/report.html"),
  "scaling": ("loss falls as compute^", "image/png", "runs/scaling/law/report.html"),
}


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory):
  """(a folder with a wheel, Python of an environment in which the first notebook installs it)."""
  for package in ("nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(package)
  folder = tmp_path_factory.mktemp("notebooks")
  (folder / "build").mkdir()
  shutil.copy(notebooks.wheel(folder / "build"), folder)
  return folder, notebooks.environment(folder / "venv")


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.NAMES)
def test_it_runs_from_top_to_bottom(installed, tmp_path, name):
  import nbformat
  import test_chain

  folder, python = installed
  shutil.copy(notebooks.FOLDER / f"{name}.ipynb", tmp_path)
  shutil.copy(next(folder.glob("*.whl")), tmp_path)
  found = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
  for cell in found.cells:
    cell.pop("outputs", None)
    if cell.cell_type == "code":
      cell.outputs = []
    if "parameters" in cell.metadata.get("tags", ()):
      for key, value in SMOKE[name].items():
        assert re.search(rf"^{key}\b|, {key} = ", cell.source, re.M), key
        if value is None:  # of the demo; whose programs are compiled once for both
          stages = ("clips", "shards", "pretrain")
          small = [word for word in test_chain.SMALL if word.split(".")[2] in stages]
          value = " ".join(small)
        cell.source += f"\n{key} = {value!r}"
  if name == "tokens":
    playing = np.repeat(notebook.frames(count=6, size_px=32), 4, axis=0)
    data = movies.mp4(playing, fps=30, codec="h264", crf=10)
    (tmp_path / SMOKE[name]["VIDEO"]).write_bytes(data)
  notebooks.execute(found, python, tmp_path, notebooks.variables(folder / "cache"))
  outputs = json.dumps([cell.get("outputs", []) for cell in found.cells])
  for told in GAVE[name]:
    assert told in outputs, (told, outputs[-3000:])
  # The wheel was installed, and this checkout is not what ran.
  (package,) = (folder / "venv").glob("lib/python*/site-packages/totojax")
  assert package.is_dir() and not package.is_symlink()
