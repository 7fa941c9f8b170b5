"""`run = "curves"`: training curves of several runs over tokens (Figure 2).

Reads what runs have logged so far, trains nothing. Leaves `curves.csv`,
`validation.csv` where runs held something out, `curves.png` and `report.html`.
"""

from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import studies
from totojax.jobs.sweep import finished
from totojax.report import curves_page, frame, model_sections, plots, reading
from totojax.rundir import console, directory, files


def run(config: studies.CurvesJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Reads and draws.

  Raises:
    ValueError: a run is missing or has no training losses.
  """
  del interrupted  # seconds
  settings = config.curves
  runs = finished.read(settings.runs, "curves.runs")
  finished.check_alike(runs, "curves.runs", compute=False)
  rows = [row for source in runs for row in points(source, settings)]
  directory.begin(workdir, config, points=len(rows))
  files.write_csv(workdir / "curves.csv", rows)
  if held := [
    row
    for source in runs
    for row in model_sections.held_out(source.rows, source.name, source.manifest["tokens_per_step"])
  ]:
    files.write_csv(workdir / curves_page.FILE, held)
  plots.write(workdir / "curves.png", curves_page.drawing(reading.RunFolder(workdir)))
  console.say(f"report: {frame.write(workdir, curves_page.PAGE)}")
  return True


def points(source: finished.PastRun, settings: studies.Curves) -> list[dict[str, Any]]:
  """A row for each logged loss, the mean of the last `window` of them.

  Raises:
    ValueError: there is none.
  """
  logged = [
    (row["step"], row["loss"])
    for row in source.rows
    if row["kind"] == "train" and row.get("loss") is not None
  ]
  if not logged:
    raise ValueError(f"curves.runs: {source.name}: {source.path} has logged no training loss yet")
  losses = np.array([loss for _, loss in logged])
  sums = np.concatenate([[0.0], np.cumsum(losses)])
  ends = np.arange(1, len(losses) + 1)
  begins = np.maximum(ends - settings.window, 0)
  means = (sums[ends] - sums[begins]) / (ends - begins)
  return [
    {
      "run": source.name,
      "parameters": source.manifest["parameters"],
      "step": step,
      "tokens": step * source.manifest["tokens_per_step"],
      "loss": float(mean),
      "printed": settings.printed.get(source.name),
    }
    for (step, _), mean in zip(logged, means)
  ]
