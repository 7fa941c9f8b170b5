"""`run = "joint"` and `run = "finetune"`: a backbone that is trained on labels.

Writes what `run = "probe"` writes: `per_layer.csv`, `metrics.json`,
`predictions.csv` and `layer_curve.png`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import train
from totojax.config.typed import typed
from totojax.jobs.labels import finetune as build_finetune
from totojax.jobs.labels import joint as build_joint
from totojax.jobs.labels import setup as build
from totojax.jobs.probe import runs as build_probe
from totojax.jobs.probe import tables
from totojax.rundir import console

Config = Mapping[str, Any]
Interrupted = Callable[[int], bool]


def joint(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Next-token training with probes of the layers; False when interrupted."""
  of = build.setup(config)
  at = build_joint.layers(config, of.model.config.depth)
  made = build_joint.training(of)
  return _run(of, made, workdir, interrupted, source="joint", layers=at)


def finetune(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Trains everything to classify; False when interrupted."""
  of = build.setup(config)
  made = build_finetune.training(of)
  at = (of.model.config.depth,)
  return _run(of, made, workdir, interrupted, source="finetuned", layers=at)


def _run(
    of: build.Setup,
    made: tuple[train.Run, build_probe.Score],
    workdir: epath.Path,
    interrupted: Interrupted,
    *,
    source: str,
    layers: tuple[int, ...],
) -> bool:
  paper = typed(tables.Paper, of.config["paper"], "paper")
  run, score = made
  console.say(_amounts(of))
  state, finished = train.fit(run, workdir, interrupted=interrupted)
  if not finished:
    return False
  splits = tables.SPLITS if len(of.held.records) else tables.SPLITS[:1]
  scores = {name: score(state, name) for name in splits}
  losses = np.asarray(state.stats["train_loss"])
  if jax.process_index() == 0:
    found = tables.Found(source, layers, losses, scores)
    tables.write(of, [found], workdir, paper)
  return True


def _amounts(of: build.Setup) -> str:
  spec = of.model.spec
  return (
      f"{len(of.train.records)} training records, {len(of.held.items())} items"
      f" held out of training, {len(of.validation.items())} for validation,"
      f" {of.classes} classes; {of.steps} updates of {of.amount.batch_rows}"
      f" rows of {spec.frames} x {spec.grid} x {spec.grid} tokens, from"
      f" {of.run.path} at step {of.run.step}"
  )
