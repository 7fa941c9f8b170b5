"""`run = "joint"` and `run = "finetune"`: a backbone that is trained on labels.

Writes what `run = "probe"` writes: `per_layer.csv`, `metrics.json`,
`predictions.csv` and `layer_curve.png`.
"""

from __future__ import annotations

from collections.abc import Callable

from etils import epath
import jax
import numpy as np

from totojax import train
from totojax.config import labels
from totojax.jobs.labels import finetune as finetune_lib
from totojax.jobs.labels import joint as joint_lib
from totojax.jobs.labels import scoring, tables
from totojax.jobs.labels import setup as setup_lib
from totojax.rundir import console

Interrupted = Callable[[int], bool]


def joint(config: labels.Joint, workdir: epath.Path, interrupted: Interrupted) -> bool:
  """Next-token training with probes of the layers; False when interrupted."""
  setup = setup_lib.prepare(config)
  layers = joint_lib.layers(setup)
  return _run(setup, joint_lib.training(setup), workdir, interrupted, source="joint", layers=layers)


def finetune(config: labels.Finetune, workdir: epath.Path, interrupted: Interrupted) -> bool:
  """Trains everything to classify; False when interrupted."""
  setup = setup_lib.prepare(config)
  layers = (setup.model.config.depth,)
  return _run(
    setup, finetune_lib.training(setup), workdir, interrupted, source="finetuned", layers=layers
  )


def _run(
  setup: setup_lib.Setup,
  training: tuple[train.Run, scoring.Score],
  workdir: epath.Path,
  interrupted: Interrupted,
  *,
  source: str,
  layers: tuple[int, ...],
) -> bool:
  run, score = training
  console.say(_amounts(setup))
  state, finished = train.fit(run, workdir, interrupted=interrupted)
  if not finished:
    return False
  held = len(setup.sets.held.records)
  splits = tables.SPLITS if held else tables.SPLITS[:1]
  scores = {name: score(state, name) for name in splits}
  losses = np.asarray(state.stats["train_loss"])
  if jax.process_index() == 0:
    heads = tables.Heads(source, layers, losses, scores)
    tables.write(setup, [heads], workdir)
  return True


def _amounts(setup: setup_lib.Setup) -> str:
  spec = setup.model.spec
  return (
    f"{setup.sets.sentence}; {setup.steps} updates of"
    f" {setup.config.train.batch_rows} rows of {spec.frames} x {spec.grid} x"
    f" {spec.grid} tokens, from {setup.run.path} at step {setup.run.step}"
  )
