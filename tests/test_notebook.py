"""The notebook runs as it is, at a size for tests."""

import json

import pytest
import runs

pytestmark = pytest.mark.slow

SMALL = [
  "--config.stages.clips.amount.train=48",
  "--config.stages.clips.amount.val=8",
  "--config.stages.shards.tokenizing.report_frames=64",
  "--config.stages.shards.tokenizing.kmeans_frames=256",
  "--config.stages.shards.tokenizing.kmeans_patches=2000",
  "--config.stages.pretrain.model.width=32",
  "--config.stages.pretrain.model.depth=2",
  "--config.stages.pretrain.train.total_tokens=12288.0",
  "--config.stages.pretrain.optim.warmup_steps=1",
  "--config.stages.probe.train.epochs=2.0",
]


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
