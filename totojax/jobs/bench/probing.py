"""Row `probe`: heads of all layers and settings, against a forward pass.

One update of every head beside one forward pass of the frozen backbone alone,
on the same tokens. A case for each width and pooling: the curve of how the
heads' share falls as the backbone grows.

Shapes: B rows, T tokens.
"""

from collections.abc import Iterator
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, sequence
from totojax.config import schema
from totojax.config.bench import ProbeBench
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import measure, training
from totojax.models import heads, taps, trunk
from totojax.optim import lars
from totojax.tasks import classify

MOST = 1.3  # times a forward pass, that all heads together may take
_STEPS = 10**6  # of the schedule; few are made


def rows(settings: ProbeBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Rows per second of updates and of forward passes."""
  for pool in settings.pools:
    for width in settings.widths:
      yield _row(settings, pool, width, harness)


def _row(
  settings: ProbeBench, pool: str, width: int, harness: measure.Harness
) -> measure.Measurement:
  config, sizes = settings.trained, dict(width=width, heads=width // 64, mlp_dim=4 * width)
  config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
  model = assembly.model(config)
  layers = range(model.config.depth + 1)
  trainer = _trainer(settings, config, model, pool=pool, layers=layers)
  # An update gives its state's arrays away.
  frozen = jax.tree.map(jnp.copy, trainer.state.frozen)

  @trainer.program.layout.jit
  def forward(frozen, tokens_BT):
    mean = lambda x_BTD, _: x_BTD.mean()
    return taps.tap_layers(model, frozen, tokens_BT, tap=mean, layers=layers[-1:], per_layer=None)

  heads_count = len(layers) * len(settings.optim.settings)
  name = f"of a forward pass's rate (1/{MOST:g}: {MOST:g} times its cost)"
  return harness.compare(
    measure.Side(
      f"one update of {heads_count} heads, the frozen backbone's forward pass included",
      trainer.step,
      settings.rows,
    ),
    measure.Side(
      "the backbone's forward pass alone",
      lambda: jax.block_until_ready(forward(frozen, trainer.batch["tokens"])),
      settings.rows,
    ),
    case=f"{pool} pooling, width {width}",
    compares="heads of every layer and setting against the backbone alone",
    unit="rows",
    goals=lambda rounds: [measure.Goal(name, rounds.ratio.median, 1 / MOST)],
    facts=lambda rounds: {
      "times_a_forward_pass": 1 / rounds.ratio.median,
      "heads": heads_count,
      "classes": settings.classes,
      "rows": settings.rows,
      "context": model.spec.context,
      "dtype": model.compute.dtype,
    },
  )


def _trainer(
  settings: ProbeBench, config: Pretrain, model: trunk.Trunk, *, pool: str, layers: range
) -> training.Trainer:
  """Heads of some layers and all settings, on one random batch."""
  rows, optim = settings.rows, settings.optim
  head = heads.HeadConfig(pool=pool, **schema.to_dict(settings.head))
  task = classify.Classify(
    head=heads.filled(head, model.config),
    model=model,
    layers=layers,
    width=model.config.width,
    classes=settings.classes,
    settings=len(optim.settings),
    split=True,
  )
  tokens_BR = training.random_batch(model.spec, rows, seed=config.seed)["tokens"]
  inputs_BT, _ = sequence.split(tokens_BR)
  labels_B = np.arange(rows, dtype=np.int32) % settings.classes
  return training.Trainer(
    config,
    task=task,
    steps=_STEPS,
    batch={"tokens": inputs_BT, "label": labels_B},
    optimiser=assembly.Optimiser(
      lars.grid(optim, batch_rows=rows, steps=_STEPS, warmup_steps=0),
      lars.highest_rate(optim, steps=_STEPS, warmup_steps=0),
    ),
  )
