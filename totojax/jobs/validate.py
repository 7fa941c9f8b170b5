"""`run = "validate"`: what a pre-trained model knows of held-out tokens.

Reads a finished run of `run = "pretrain"` and writes `metrics.json` (loss in
nats per visual token with its standard error, and honest baselines), the loss
at every position, frame and row as CSV, and the figure (the paper's Figure 10).

Frames are latent ones; where these hold several frames, `metrics.json` says how
many (`frame_factor`).

Shapes: M records, N frames, P tokens of a frame.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly, jobs, sharding
from totojax.config.validate import Validate
from totojax.data.stream import rows
from totojax.evals import baselines, loss_tables, val_loss
from totojax.jobs import pretrain, stores
from totojax.report import plots, provenance, verdict
from totojax.rundir import console, directory, files
from totojax.tasks import pretrain as task_lib
from totojax.trained import backbone

MOST_RECORDS = 20_000  # that baselines are fitted on, and at most
MOST_TOKENS = 2**22  # so many: enough for 8,192 codes, and seconds to count


def run(config: Validate, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Evaluates the checkpoint of `config.model_run` that all readers take."""
  source = backbone.find(config.model_run, what="a validated run")
  trained, spec = source.config, source.config.sequence
  layout = sharding.layout(trained.mesh)
  task = task_lib.Pretrain(source.model, assembly.parametrisation(trained))
  with console.phase(f"reading the parameters of {source.path}"):
    params = backbone.read(source, source.model, layout)
  if config.validation:
    # Of the run's tokenizer: other codes have no loss here.
    data = dataclasses.replace(
      trained.data, validation=config.validation, tokenizer=source.tokenizer
    )
    trained = dataclasses.replace(trained, data=data)
  held_out = stores.open_validation(trained, spec)
  if not held_out:
    raise ValueError(
      f"{source.path} names no validation data; name a store, --config.validation=NAME:PATH"
    )
  batch = pretrain.batch_rows(trained.train.batch_tokens, spec)
  batches = stores.validation_batches(held_out, spec=spec, rows=config.rows, batch=batch)
  data = rows.identities(validation=held_out)
  directory.begin(workdir, config, data=data, step=source.step)
  console.say(f"{source.path} at step {source.step}; {provenance.stores(data)}")

  total = sum(len(part) for part in batches.values())
  with console.tracking("validating", unit="batches", total=total) as bar:

    def tracked(part):
      for local_rows in part:
        yield local_rows
        bar.advance()

    sums = assembly.position_sums(task.per_target, layout, spec.frame_tokens)
    parts = {name: tracked(part) for name, part in batches.items()}
    losses = dict(val_loss.evaluate(sums, params, parts))
  metrics = {"step": source.step, **dict(val_loss.scalars(losses.items()))}
  training = []
  if trained.data.train:  # an imported model names none
    training = stores.open_sources(trained, spec, pixels=bool(trained.data.encode_with))
  metrics |= _on_training(training, losses, sums=sums, params=params, spec=spec, batch=batch)
  for name, loss in losses.items():
    metrics |= _later(name, loss)
    metrics |= _baselines(name, training, held_out, spec)
  if spec.latents.is_temporal:
    metrics["frame_factor"] = spec.frame_factor
  if jax.process_index() == 0:
    loss_tables.write(workdir, losses, spec)
    plots.position_figure(workdir)
    files.write_json(workdir / "metrics.json", metrics)
  for name in losses:
    console.say(_sentence(name, metrics))
  return True


def _on_training(
  training: list[rows.Source],
  losses: Mapping[str, val_loss.PositionLoss],
  *,
  sums: Any,
  params: Any,
  spec: Any,
  batch: int,
) -> dict[str, float]:
  """`<source>/training/loss`: of as many training clips as were held out, spread evenly.

  Beside the held-out loss it says whether a model has learned its clips by heart.
  """
  out = {}
  for source in training:
    if source.name in losses and source.store.manifest.vocab:
      (part,) = stores.validation_batches(
        [source], spec=spec, rows=losses[source.name].rows, batch=batch
      ).values()
      mean, sem = val_loss.PositionLoss.total(sums(params, rows) for rows in part).mean()
      out |= {f"{source.name}/training/loss": mean, f"{source.name}/training/loss_sem": sem}
  return out


def _later(name: str, loss: val_loss.PositionLoss) -> dict[str, float]:
  """Loss on frames 2 and later, where copying the frame before is possible."""
  if loss.sum_MN.shape[1] < 2:
    return {}
  mean, sem = loss.mean(first_frame=1)
  return {f"{name}/later_loss": mean, f"{name}/later_loss_sem": sem}


def _baselines(
  name: str, training: list[rows.Source], held_out: list[rows.Source], spec: Any
) -> dict[str, float]:
  """Fitted on the training source of the same name, or the only one, where that is of tokens."""
  alone = training[0] if len(training) == 1 else None
  fit = {s.name: s for s in training}.get(name, alone)
  score = {s.name: s for s in held_out}[name]
  # A store without codes is of pixels, encoded in each step.
  if fit is None or not fit.store.manifest.vocab:
    return {}
  with console.phase(f"predictors of {name} without a network"):
    losses = baselines.evaluate(
      codes_of(fit, spec), codes_of(score, spec), vocab=spec.vocab, codes=spec.codes
    )
  return {f"{name}/{key}": value for key, value in losses.items()}


def codes_of(source: rows.Source, spec: Any) -> np.ndarray:
  """Codes [M, N, P] of a sequence's frames, evenly from all records."""
  tokens = min(source.store.manifest.frames, spec.frames) * spec.frame_tokens
  records = min(len(source.store), MOST_RECORDS, max(MOST_TOKENS // tokens, 1))
  places = np.linspace(0, len(source.store) - 1, records).astype(int)
  codes_MNP = source.store.read(places)["codes"].reshape(records, -1, spec.frame_tokens)
  return codes_MNP[:, : spec.frames].astype(np.int64)


def _sentence(name: str, metrics: Mapping[str, float]) -> str:
  value = lambda key: f"{metrics[f'{name}/{key}']:.4f}"
  error = f" +- {value('loss_sem')}" if metrics[f"{name}/n"] > 1 else ""
  text = f"{name}: {value('loss')}{error} nats per visual token"
  if not error:
    text += " of one sequence, so without a standard error"
  if f"{name}/unigram/loss" in metrics:
    text += (
      f" (unigram {value('unigram/loss')}, neighbours {value('neighbours/loss')}, of"
      f" {metrics[f'{name}/fitted_records']:,} training records)"
    )
  if f"{name}/copy/later_loss" in metrics:
    later = f"{verdict.frame(metrics)}s 2 and later"
    text += f"; {later} {value('later_loss')} (copy {value('copy/later_loss')})"
  return text
