"""`run = "coord_check"`: do activations keep their size as the width grows?

The coordinate check of Yang et al., 2022 (section D.1 there). A few updates of
each width, with µP and without; with it the mean absolute residual and logit
hardly depend on the width, without it they grow. Leaves `coordinates.csv` and a
figure, and needs no data: the tokens are random.

Shapes: B rows, R tokens of a row, T context, H heads, K head dim, L layers.
"""

from collections.abc import Mapping
import functools
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
from rich import console as rich_console, table as rich_table

from totojax import assembly, jobs, sequence
from totojax.config import studies
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import training
from totojax.jobs.sweep import expand
from totojax.report import check_sections, plots
from totojax.rundir import console, directory, files
from totojax.tasks import pretrain as task_lib

QUANTITIES = ("residual", "logits", "attention")


def run(config: studies.CoordCheckJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Measures every model; False when interrupted."""
  settings, base = config.coord_check, config.pretrain
  cases = [
    (kind, expand.changed(base, kind=kind, model=sizes, lr=2.0**settings.log2_lr, seed=base.seed))
    for kind in settings.parametrisations
    for _, sizes in expand.narrow_first(settings.models)
  ]
  for _, case in cases:
    # A mistake in any of them is found before the first runs.
    assembly.model(case)
  directory.begin(workdir, config)
  rows = []
  with console.tracking("measuring", unit="models", total=len(cases)) as bar:
    for kind, case in cases:
      if interrupted(len(rows)):
        return False
      labels = {"parametrisation": kind, "width": case.model.width}
      history = measure(case, rows=settings.rows, updates=settings.updates)
      rows += [labels | {"update": i, **sizes} for i, sizes in enumerate(history)]
      bar.advance()
  files.write_csv(workdir / "coordinates.csv", rows)
  for quantity in (q for q in QUANTITIES if q in rows[0]):  # Mamba has no attention
    plots.write(workdir / f"coordinates_{quantity}.png", plots.by_width(rows, quantity))
  _print(rows)
  return True


def measure(config: Pretrain, *, rows: int, updates: int) -> list[dict[str, float]]:
  """Mean absolute coordinates before the first update and after each.

  Args:
    config: of `run = "pretrain"`; its data are not read.
    rows: sequences.
    updates: made on the same batch.

  Returns:
    For each of 0, 1, ... `updates`: the residual stream after the last block,
    the logits of real tokens, and the last layer's attention logits.
  """
  task = task_lib.Pretrain(assembly.model(config), assembly.parametrisation(config))
  batch = training.random_batch(task.spec, rows, seed=config.seed)
  trainer = training.Trainer(config, task=task, steps=updates, batch=batch, rules=task.rules)
  measured = jax.jit(functools.partial(coordinates, task))
  history = [measured(trainer.state.params, trainer.batch["tokens"])]
  for _ in range(updates):
    trainer.step()
    history.append(measured(trainer.state.params, trainer.batch["tokens"]))
  return [{k: float(v) for k, v in sizes.items()} for sizes in history]


def _sown(model: nn.Module, params: Any, inputs_BT: jax.Array) -> tuple[jax.Array, Any]:
  """What the model gives, and what it sows on the way."""
  return model.apply({"params": params}, inputs_BT, mutable=["intermediates"])


def coordinates(task: task_lib.Pretrain, params: Any, tokens_BR: jax.Array) -> dict[str, jax.Array]:
  """Mean absolute `QUANTITIES` of one forward pass; Mamba has no attention."""
  inputs_BT, _ = sequence.split(tokens_BR)
  logits_BTV, sown = _sown(task.model, params, inputs_BT)
  # Layers are stacked in front; a sown value is a tuple of one.
  blocks = sown["intermediates"]["blocks"]
  (residual_LBTD,) = blocks["residual"]
  real = task.spec.vocab + sequence.SPECIALS
  quantities = {
    "residual": jnp.mean(jnp.abs(residual_LBTD[-1])),
    "logits": jnp.mean(jnp.abs(logits_BTV[..., :real])),
  }
  if "attention" not in blocks:
    return quantities
  (q_LBTHK,) = blocks["attention"]["query"]
  (k_LBTHK,) = blocks["attention"]["key"]
  scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_LBTHK[-1], k_LBTHK[-1])
  scale = task.model.scales.attention * q_LBTHK.shape[-1] ** -0.5
  return quantities | {"attention": jnp.mean(jnp.abs(scores_BHTS)) * scale}


def _print(rows: list[Mapping[str, Any]]) -> None:
  growths, rows = check_sections.ratios(rows), check_sections.last(rows)
  quantities = [q for q in QUANTITIES if q in rows[0]]
  table = rich_table.Table("", title=f"mean |x| after {rows[0]['update']} updates")
  for head in ("width", *quantities):
    table.add_column(head, justify="right")
  for row in rows:
    values = [f"{row[q]:.4g}" for q in quantities]
    table.add_row(row["parametrisation"], str(row["width"]), *values)
  rich_console.Console().print(table)
  for kind, growth in growths.items():
    text = ", ".join(f"{q} x {ratio:.3g}" for q, ratio in growth.items())
    keeps = check_sections.is_steady(growth)
    claim = "keep their size" if keeps else "do not keep their size"
    console.say(f"{kind}: {text} from the smallest to the largest width; {claim}")
