"""Row `probe`: heads of all layers and settings, against a forward pass.

One update of every head beside one forward pass of the frozen backbone alone,
on the same tokens. A case for each width and pooling: the curve of how the
heads' share falls as the backbone grows.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, sequence
from totojax.config import schema
from totojax.config.bench import ProbeBench
from totojax.jobs.bench import measure, training
from totojax.models import heads, taps
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
  both = _Both(settings, pool, width)
  name = f"of a forward pass's rate (1/{MOST:g}: {MOST:g} times its cost)"
  return harness.compare(
    measure.Side(
      f"one update of {both.heads} heads, the frozen backbone's forward pass included",
      both.update,
      settings.rows,
    ),
    measure.Side("the backbone's forward pass alone", both.forward, settings.rows),
    case=f"{pool} pooling, width {width}",
    compares="heads of every layer and setting against the backbone alone",
    unit="rows",
    goals=lambda measured: [measure.Goal(name, measured.ratio.median, 1 / MOST)],
    facts=lambda measured: {
      "times_a_forward_pass": 1 / measured.ratio.median,
      "heads": both.heads,
      "classes": settings.classes,
      "rows": settings.rows,
      "context": both.model.spec.context,
      "dtype": both.model.compute.dtype,
    },
  )


class _Both:
  """Heads in training, and their backbone alone, on one random batch.

  Attributes:
    model: the backbone.
    heads: of all layers and settings.
  """

  def __init__(self, settings: ProbeBench, pool: str, width: int):
    config, sizes = settings.trained, dict(width=width, heads=width // 64, mlp_dim=4 * width)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
    self.model = assembly.model(config)
    depth, rows, optim = self.model.config.depth, settings.rows, settings.optim
    head = heads.HeadConfig(pool=pool, **schema.to_dict(settings.head))
    self.heads = (depth + 1) * len(optim.settings)
    task = classify.Classify(
      head=heads.filled(head, self.model.config),
      model=self.model,
      layers=range(depth + 1),
      width=width,
      classes=settings.classes,
      settings=len(optim.settings),
      split=True,
    )
    layout = training.layout(1)
    program = assembly.program(
      config,
      task=task,
      steps=_STEPS,
      rows=rows,
      microbatches=1,
      layout=layout,
      optimiser=assembly.Optimiser(
        lars.grid(optim, batch_rows=rows, steps=_STEPS, warmup_steps=0),
        lars.highest_rate(optim, steps=_STEPS, warmup_steps=0),
      ),
    )
    self._step = program.step_fn
    init = jax.jit(program.make, out_shardings=program.shardings)
    self._state = init(jax.random.key(config.seed))
    # An update gives its state's arrays away.
    self._frozen = jax.tree.map(jnp.copy, self._state.frozen)
    tokens_BR = training.random_rows(self.model.spec, rows, seed=config.seed)
    inputs_BT, _ = sequence.split(tokens_BR)
    labels_B = np.arange(rows, dtype=np.int32) % settings.classes
    self._batch = layout.place({"tokens": inputs_BT, "label": labels_B})

    @layout.jit
    def forward(frozen, tokens_BT):
      mean = lambda x_BTD, _: x_BTD.mean()
      return taps.tap_layers(
        self.model, frozen, tokens_BT, tap=mean, layers=(depth,), per_layer=None
      )

    self._forward = forward

  def update(self) -> None:
    """One update of all heads."""
    self._state, metrics = self._step(self._state, self._batch)
    float(metrics["loss"])  # waits

  def forward(self) -> None:
    """One forward pass to the last layer."""
    jax.block_until_ready(self._forward(self._frozen, self._batch["tokens"]))
