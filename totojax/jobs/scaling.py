"""`run = "scaling"`: a law of loss against compute, from finished runs.

Reads the manifest and the evaluations of pre-training runs, trains nothing.
Leaves `scaling.csv` (compute in MACs, FLOPs and PF-days of training),
`laws.json`, the paper's Figure 9 as `scaling.png`, and `report.html`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import studies
from totojax.config.studies import Scaling
from totojax.jobs.sweep import finished
from totojax.report import frame, plots, reading, scaling, scaling_page
from totojax.rundir import console, directory, files


def run(config: studies.ScalingJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Reads, fits, draws.

  Raises:
    ValueError: a run is missing, not finished or without evaluations, or the
      points make no law.
  """
  del interrupted  # seconds
  settings = config.scaling
  rows = read(settings)
  rows.sort(key=lambda row: (row["parameters"], row["run"], row["step"]))
  summary = laws(rows, settings)
  directory.begin(workdir, config, points=len(rows))
  files.write_json(workdir / "laws.json", summary)
  numbers = [{key: value for key, value in row.items() if key != "recipe"} for row in rows]
  files.write_csv(workdir / "scaling.csv", numbers)
  plots.write(workdir / "scaling.png", scaling_page.drawing(reading.RunFolder(workdir)))
  for sentence in scaling_page.verdict(summary):
    console.say(sentence)
  console.say(f"report: {frame.write(workdir, scaling_page.PAGE)}")
  return True


def read(settings: Scaling) -> list[dict[str, Any]]:
  """`points` of all runs.

  Raises:
    ValueError: as `points`, or the losses of two cannot be compared.
  """
  runs = finished.read(settings.runs, "scaling.runs")
  finished.check_alike(runs, "scaling.runs", compute=True)
  return [row for source in runs for row in points(source, settings)]


def points(source: finished.PastRun, settings: Scaling) -> list[dict[str, Any]]:
  """A row for each evaluation of a run after its warm-up.

  Raises:
    ValueError: the run is not finished, or has no such evaluation.
  """
  name, manifest = source.name, source.manifest
  evaluations = [
    row for row in source.rows if row["kind"] == "eval" and any(k.endswith("/loss") for k in row)
  ]
  steps = manifest["steps"]
  last = evaluations[-1]["step"] if evaluations else 0
  if last < steps:
    raise ValueError(
      f"scaling.runs: {name}: {source.path} was evaluated at update {last} of"
      f" {steps} last; run it to its end first"
    )
  rows = []
  for row in evaluations:
    if row["step"] <= settings.skip_frac * steps:
      continue
    loss, sem = _loss(row, settings.source, name)
    tokens = row["step"] * manifest["tokens_per_step"]
    flops = tokens * manifest["flops_per_token"]
    rows.append(
      {
        "run": name,
        "recipe": source.recipe,
        "seed": source.config.seed,
        "parameters": manifest["parameters"],
        "step": row["step"],
        "last": int(row["step"] == steps),
        "trained": row["step"] - source.begin,
        "tokens": tokens,
        "macs": flops / 2,
        "flops": flops,
        "pf_days": flops / scaling.PF_DAY_FLOPS,
        "loss": loss,
        "loss_sem": sem,
        "frontier": 0,
      }
    )
  return rows


def _loss(row: Mapping[str, Any], source: str, name: str) -> tuple[float, float]:
  """(mean loss over sources, its standard error) of an evaluation."""
  losses = {key.removesuffix("/loss"): value for key, value in row.items() if key.endswith("/loss")}
  if source and source not in losses:
    raise ValueError(
      f"scaling.source is {source!r}; run {name} was evaluated on {', '.join(sorted(losses))}"
    )
  names = [source] if source else sorted(losses)
  values = [losses[key] for key in names]
  if any(value is None for value in values):
    raise ValueError(
      f"run {name} has a loss that is not finite at update {row['step']};"
      " leave it out of scaling.runs"
    )
  errors = [row.get(f"{key}/loss_sem") or 0.0 for key in names]
  return float(np.mean(values)), float(np.hypot.reduce(errors) / len(names))


def laws(rows: Sequence[dict[str, Any]], settings: Scaling) -> dict[str, Any]:
  """Marks the frontier in the rows and fits it, as `laws.json` holds it.

  Raises:
    ValueError: the points make no law.
  """
  macs, loss = (np.array([row[k] for row in rows]) for k in ("macs", "loss"))
  frontier = np.flatnonzero([row["last"] for row in rows])
  points, force = frontier, settings.force  # that the interval is drawn of
  if settings.frontier == "envelope":
    frontier = scaling.envelope(macs, loss, bins_per_decade=settings.bins_per_decade)
    points = np.arange(len(rows))
  for i in frontier.tolist():
    rows[i]["frontier"] = 1
  front_macs, front_loss = macs[frontier], loss[frontier]
  law = scaling.fit(front_macs, front_loss, floor=False, force=force)
  summary = {
    "units": {"compute": "MACs of training", "loss": "nats per token"},
    "frontier": settings.frontier,
    "points": len(frontier),
    "decades": float(np.log10(front_macs.max() / front_macs.min())),
    "law": dataclasses.asdict(law),
  }
  notes = []
  if len(frontier) < scaling.LEAST_POINTS + 1:
    notes.append(f"{len(frontier)} points: any line, and more so any curve, goes through them")
  try:
    summary["b_interval_95"] = scaling.bootstrap(
      macs[points],
      loss[points],
      [rows[i]["run"] for i in points.tolist()],
      bins_per_decade=settings.bins_per_decade,
      floor=False,
      draws=settings.draws,
      seed=settings.seed,
      force=force,
    )
  except ValueError as error:
    notes.append(f"no interval: {error}")
  try:
    law = scaling.fit(front_macs, front_loss, floor=True, force=force)
    summary["law_with_floor"] = dataclasses.asdict(law)
  except ValueError as error:
    notes.append(f"no law with an irreducible loss: {error}")
  return summary | {"notes": notes, "recipes": scaling.compared(rows)}
