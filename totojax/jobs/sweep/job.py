"""`run = "sweep"`: many short runs, and the best learning rate of each model.

Learning rates of one model, length and seed are lanes of one program
(`lanes.py`), trained by the loop that trains everything. A finished point has a
note under `points/` (`rundir.pieces`) and is never trained again; a killed
group goes on from its checkpoint. Leaves `sweep.csv`, `optima.csv`, the paper's
Figure 11 for each parametrisation, and `report.html`.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import math
import os
from typing import Any

from etils import epath
import jax

from totojax import assembly, flops, jobs, lanes as lanes_lib, train
from totojax.config import studies
from totojax.config.schema import ConfigError
from totojax.jobs import pretrain, stores
from totojax.jobs.sweep import expand
from totojax.report import frame, optimum, reading, sweep_page
from totojax.rundir import console, directory, files, lock, metrics, pieces

LAST_FRAC = 0.1  # of the training rows, for the training loss of a point


def run(config: studies.SweepJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains what is not trained yet, then writes the report.

  Raises:
    ConfigError: a model or a run of the sweep cannot be built.
  """
  sweep = config.sweep
  if config.pretrain.data.encode_with:
    raise ConfigError(
      "pretrain.data.encode_with would encode every batch once for each"
      " learning rate of a sweep; tokenize first and leave it empty"
    )
  # A chain holds its data beside the sweep, and may be moved.
  home = os.fspath(workdir.parent)
  points = list(expand.points(sweep, config.pretrain, home))
  for point in points:
    assembly.model(point.config)  # a mistake is found before the first run
  _rows(workdir, points)  # a damaged one is noticed now
  notes = _notes(workdir)
  points_left = [point for point in points if notes.read(point.name) is None]
  groups = list(_programs(points_left, sweep.lanes))
  data = stores.identities(config.pretrain.data)
  directory.begin(workdir, config, data=data, points=len(points))
  for number, group in enumerate(groups, 1):
    console.say(f"{group[0].run}: {len(group)} rates, {number}/{len(groups)}")
    if not _train(group, workdir, sweep, interrupted):
      return False
    if jax.process_index() == 0:
      files.write_csv(workdir / "sweep.csv", _rows(workdir, points))
  if jax.process_index() == 0:
    _report(workdir, points)
  return True


def _programs(points: Sequence[expand.Point], lanes: int) -> Iterable[list[expand.Point]]:
  """Points that one program trains: alike but for their learning rate."""
  for _, group in itertools.groupby(points, key=lambda point: point.run):
    members = list(group)
    size = lanes or len(members)
    for first in range(0, len(members), size):
      yield members[first : first + size]


def _notes(workdir: epath.Path) -> pieces.Pieces:
  return pieces.Pieces(workdir / "points")


def _train(
  group: Sequence[expand.Point],
  workdir: epath.Path,
  sweep: studies.Sweep,
  interrupted: jobs.Interrupted,
) -> bool:
  """The learning rates of one model, seed and length; False: interrupted."""
  in_turn = sweep.together == "in_turn" or (
    sweep.together == "auto" and jax.default_backend() == "cpu"
  )
  rates = tuple(2.0**point.log2_lr for point in group)
  digest = hashlib.sha256(repr(rates).encode()).hexdigest()[:6]
  folder = workdir / "runs" / f"{group[0].run}-{digest}"
  config = group[0].config
  run_ = pretrain.pretraining(config, lanes_lib.Lanes(rates, in_turn))
  # The one rate of a config is none of these.
  annotation = directory.annotated(config, lanes=list(rates))
  run_ = dataclasses.replace(run_, config=annotation)
  _, finished = train.fit(run_, folder, interrupted=interrupted)
  if not finished:
    return False
  if jax.process_index() == 0:
    rows = metrics.read(folder / metrics.FILE)
    for lane, point in enumerate(group):
      result = outcome(rows, lane, run_.steps)
      _notes(workdir).write(point.name, {"steps": run_.steps, **result})
    # Weights of a sweep have no use, and there may be hundreds of them.
    files.remove(folder / "checkpoints")
    lock.release(folder)
  return True


def outcome(rows: Sequence[Mapping[str, Any]], lane: int, steps: int) -> dict[str, Any]:
  """What metrics.jsonl says of one lane.

  Returns:
    `val_loss` at the last step, the mean over sources, and its standard error;
    `train_loss`, the mean of the last tenth of the training rows;
    `diverged_at`, the step whose update was not finite, or 0. Losses of a lane
    that diverged are None: its weights are those before that step.
  """
  prefix = f"{lanes_lib.name(lane)}/"
  last = [r for r in rows if r["kind"] == "eval" and r["step"] == steps]
  scores = {k: v for k, v in last[-1].items() if k.startswith(prefix)}
  diverged_at = int(scores[f"{prefix}diverged"])
  row: dict[str, Any] = dict(val_loss=None, val_sem=None, train_loss=None, diverged_at=diverged_at)
  if diverged_at:
    return row
  values = [v for k, v in scores.items() if k.endswith("/loss")]
  errors = [v for k, v in scores.items() if k.endswith("/loss_sem")]
  row["val_loss"] = sum(values) / len(values)
  row["val_sem"] = math.hypot(*errors) / len(errors)
  losses = [r[f"{prefix}loss"] for r in rows if r["kind"] == "train"]
  recent = losses[-max(1, round(LAST_FRAC * len(losses))) :]
  row["train_loss"] = sum(recent) / len(recent)
  return row


def _rows(workdir: epath.Path, points: Sequence[expand.Point]) -> list[dict[str, Any]]:
  """A row for each finished point, in the order of the sweep."""
  rows = []
  for point in points:
    note = _notes(workdir).read(point.name)
    if note is None:
      continue
    shape = point.config.model
    rows.append(
      {
        "parametrisation": point.parametrisation,
        "model": point.model,
        "width": shape.width,
        "depth": shape.depth,
        "parameters": flops.parameters(assembly.shape(shape), point.config.sequence.vocab),
        "tokens": point.total_tokens,
        "seed": point.seed,
        "log2_lr": point.log2_lr,
        **note,
      }
    )
  return rows


def _report(workdir: epath.Path, points: Sequence[expand.Point]) -> None:
  rows = _rows(workdir, points)
  files.write_csv(workdir / "sweep.csv", rows)
  curves = sweep_page.read(reading.RunFolder(workdir))
  files.write_csv(workdir / "optima.csv", optimum.table(curves))
  sweep_page.write_figures(workdir)
  console.say(f"report: {frame.write(workdir, sweep_page.PAGE)}")
  for sentence in optimum.verdict(curves):
    console.say(sentence)
