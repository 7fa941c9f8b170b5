"""The notebook runs as it is, at a size for tests."""

import importlib.metadata
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_quickstart_runs_from_top_to_bottom(tmp_path, monkeypatch):
  import runs
  import test_chain

  small = list(test_chain.FEWER)  # whose programs are compiled once for both
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  for name, value in runs.environment().items():
    monkeypatch.setenv(name, value)
  path = ROOT / "colab" / "quickstart.ipynb"
  notebook = nbformat.read(path, as_version=4)
  (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
  cell.source = f"SOURCE = ''\nWORKDIR = {str(tmp_path)!r}\nOPTIONS = {small!r}"
  client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
  client.execute()
  outputs = json.dumps([c.get("outputs", []) for c in notebook.cells])
  assert "copy/later_loss" in outputs and "image/png" in outputs
  assert (tmp_path / "report" / "report.html").exists()
  # As it is committed, it holds no output.
  clean = nbformat.read(path, as_version=4)
  assert not any(c.get("outputs") for c in clean.cells)


@pytest.mark.parametrize(
  "chosen, variable, wheel, installed",
  [
    ("https://a.org/toto", "", "", "git+https://a.org/toto"),
    ("clone", "https://b.org/toto", "totojax-0.1.0-py3-none-any.whl", "clone"),
    ("", "https://b.org/toto", "totojax-0.1.0-py3-none-any.whl", "git+https://b.org/toto"),
    ("", "", "totojax-0.1.0-py3-none-any.whl", "totojax-0.1.0-py3-none-any.whl"),
    ("", "", "", None),
  ],
)
def test_it_is_installed_from_what_there_is(
  tmp_path, monkeypatch, chosen, variable, wheel, installed
):
  """And the runtime's jax is pinned; where nothing is there, one line says what to do."""
  cells = json.loads((ROOT / "colab" / "quickstart.ipynb").read_text())["cells"]
  (cell,) = [c for c in cells if "install" in c["metadata"].get("tags", ())]
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("TOTOJAX_SOURCE", variable)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  called = []
  monkeypatch.setattr("subprocess.run", lambda words, check: called.append(words))
  if wheel:
    (tmp_path / wheel).write_bytes(b"")
  if installed is None:
    with pytest.raises(ValueError, match="no totojax-.*whl lies here"):
      exec("".join(cell["source"]), {"SOURCE": chosen})
    return
  exec("".join(cell["source"]), {"SOURCE": chosen})
  (words,) = called
  assert words[-1] == installed and words[-3:-1] == ["-c", "runtime.txt"]
  version = importlib.metadata.version("jax")
  assert f"jax=={version}\n" in (tmp_path / "runtime.txt").read_text()
