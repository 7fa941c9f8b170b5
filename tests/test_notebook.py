"""The notebook runs as it is, at a size for tests."""

import json

import pytest
import runs
import test_chain

pytestmark = pytest.mark.slow

SMALL = list(test_chain.FEWER)  # whose programs are compiled once for both


def test_quickstart_runs_from_top_to_bottom(tmp_path, monkeypatch):
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  for name, value in runs.environment().items():
    monkeypatch.setenv(name, value)
  path = runs.ROOT / "colab" / "quickstart.ipynb"
  notebook = nbformat.read(path, as_version=4)
  (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
  cell.source = f"SOURCE = ''\nWORKDIR = {str(tmp_path)!r}\nOPTIONS = {SMALL!r}"
  client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
  client.execute()
  outputs = json.dumps([c.get("outputs", []) for c in notebook.cells])
  assert "copy/later_loss" in outputs and "image/png" in outputs
  assert (tmp_path / "report" / "report.html").exists()
  # As it is committed, it holds no output.
  clean = nbformat.read(path, as_version=4)
  assert not any(c.get("outputs") for c in clean.cells)
