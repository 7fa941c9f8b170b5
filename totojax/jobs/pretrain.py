"""`run = "pretrain"`: from the config to a run of `train.fit`."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import Any, TYPE_CHECKING

from etils import epath
import jax

from totojax import (
  assembly,
  flops,
  jobs,
  plugins,
  sequence,
  sharding,
  step as step_lib,
  tasks,
  train,
)
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.data.stream import heldout, mixture, rows as rows_lib
from totojax.evals import val_loss
from totojax.jobs import stores
from totojax.rundir import console, directory, metrics, provenance
from totojax.tasks import pretrain as task_lib

if TYPE_CHECKING:
  from totojax import lanes as lanes_lib


def run(config: Pretrain, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Prediction of the next token, or of the next patch."""
  if not config.patches.inputs:
    training = pretraining(config)
  else:
    from totojax.jobs import patches  # Table 3 alone reads patches

    training = patches.pretraining(config)
  if config.profile.steps:
    from totojax.jobs import profiling

    training = profiling.traced(training, workdir, steps=config.profile.steps)
  if config.samples.clips:
    from totojax.jobs import samples

    training = samples.drawn(training, config, workdir)
  _, finished = train.fit(training, workdir, interrupted=interrupted)
  return finished


def _held_out_in_words(evals: metrics.Evaluations, config: Pretrain) -> Iterator[str]:
  """A line for each store that is held out: its loss, and whether it was lower before."""
  for name in config.data.validation:
    key = f"{name}/loss"
    points = [
      (loss, step) for step, row in evals.items() if step and (loss := row.get(key)) is not None
    ]
    if not points:
      continue
    (lowest, when), (loss, step) = min(points), points[-1]
    line = f"{name}: {loss:.4f} nats per visual token held out, after update {step:,}"
    if lowest < loss - max(2 * (evals[step].get(f"{key}_sem") or 0.0), lowest / 20):
      line += f", and {lowest:.4f} after {when:,}: what is trained on is learned by heart"
      if config.checkpoint.best != key:
        line += f" (--config.checkpoint.best={key} keeps the best checkpoint)"
    yield line


def pretraining(config: Pretrain, lanes: "lanes_lib.Lanes | None" = None) -> train.Run:
  """Everything that `train.fit` needs for next-token prediction.

  Args:
    config: of `run = "pretrain"`.
    lanes: several learning rates in place of the config's.

  Raises:
    ValueError: something does not fit, such as a run to start from.
  """
  assembly.check_tokens(config, "this job")
  spec, layout = config.sequence, sharding.layout(config.mesh)
  task = _task(config)
  batch = batch_rows(config.train.batch_tokens, spec)
  tokens_per_step = batch * spec.context
  inputs = _inputs(config, task, batch)
  steps = flops.steps(config.train.total_tokens, tokens_per_step)
  start = None
  if config.init_from or config.branch_from:
    if lanes is not None:
      raise ConfigError(
        "init_from or branch_from is set, and runs that share a program start afresh; sweep"
        " without it"
      )
    from totojax.jobs import starts

    start = starts.find(
      config, task, tokenizer=inputs.tokenizer, steps=steps, data=inputs.data, layout=layout
    )
  # Inputs, padding of images included: every update costs the same.
  config, program, fitted = build(
    config, task=inputs.task, steps=steps, rows=batch, layout=layout, rules=task.rules, lanes=lanes
  )
  if lanes is None:  # a sweep's runs are alike
    tell_data(config, inputs.training, steps=program.steps, batch=batch)
    if not inputs.held_out:
      console.say("no data.validation: nothing is held out, and no loss on held-out data is known")
  shape = task.model.config
  # Of the codes alone: specials, and the padding of the vocabulary, are ours.
  cost = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
  # The inner task: what is held out is tokens already.
  sums = assembly.position_sums(task.per_target, layout, spec.frame_tokens)
  held_out = stores.validation_batches(
    inputs.held_out, spec=spec, rows=config.validation.rows, batch=batch
  )

  def validate(state: step_lib.TrainState):
    return val_loss.scalars(val_loss.evaluate(sums, state.params, held_out))

  return assembly.run(
    program,
    batches=assembly.reader(config.data.reading, inputs.stream),
    evals={**({"": validate} if held_out else {}), **_evaluations(config, task)},
    facts={
      "parameters": flops.parameters(shape, spec.vocab + sequence.SPECIALS),
      "parameters_without_specials": flops.parameters(shape, spec.vocab),
      "flops_per_token": cost,
      "sources": {source.name: len(source.store) for source in inputs.training},
      "tokenizer": inputs.tokenizer,
      "encoded": "before" if inputs.frozen is None else "on the device",
      **(start.facts if start else {}),
      **fitted,
    },
    data=inputs.data,
    closing=lambda evals: _held_out_in_words(evals, config) if lanes is None else (),
    tokens_per_step=tokens_per_step,
    flops_per_token=cost,
    frozen=inputs.frozen,
    start=start and start.parameters,
    branch=start and start.branch,
  )


def build(
  config: Pretrain, *, rows: int, **parts: Any
) -> tuple[Pretrain, assembly.Program, dict[str, Any]]:
  """The train step, with the config's microbatches or the fewest that fit.

  Args:
    config: of the run.
    rows: of the global batch.
    **parts: of `assembly.program`, the rest.

  Returns:
    The config with that number, the train step, and facts for manifest.json.
  """
  make = functools.partial(assembly.program, config, rows=rows, **parts)
  count, facts = config.train.microbatches, {}
  if count:
    return config, make(microbatches=count), facts
  from totojax.jobs import memory

  count, program, facts = memory.fewest(lambda count: make(microbatches=count), rows=rows)
  config = directory.decided(config, "train", microbatches=count)
  return config, dataclasses.replace(program, config=config), facts


def tell_data(
  config: Pretrain, training: Sequence[rows_lib.Source], *, steps: int, batch: int
) -> None:
  """Prints `mixture.in_words`."""
  most = config.data.warn_epochs
  for line in mixture.in_words(training, config.sequence, steps=steps, batch=batch, most=most):
    console.say(line)


@dataclasses.dataclass(frozen=True)
class _Inputs:
  """What is read, and the task on it."""

  task: tasks.Task  # on tokens, or on pixels that it encodes itself
  stream: Any  # this host's batches
  training: list[rows_lib.Source]  # what is trained on
  data: provenance.Identities  # of what is trained and evaluated on
  held_out: list[rows_lib.Source]  # stores of tokens
  tokenizer: str  # fingerprint of the one that makes, or made, the tokens
  frozen: Any  # its parameters, where it runs in the step


@console.phase("opening the data")
def _inputs(config: Pretrain, task: task_lib.Pretrain, batch: int) -> _Inputs:
  """Opens the stores and compares them; nothing is compiled yet."""
  spec = config.sequence
  encoder = None
  if config.data.encode_with:
    from totojax.jobs import encoding

    encoder = encoding.tokenizer(config.data, spec)
  config.data.shares(example="configs/1b.py")
  stores.check_stores(config)
  training = stores.open_sources(config, spec, pixels=encoder is not None)
  # Tokens even where training encodes pixels: the same ones at every
  # evaluation, so encoding them each time would buy nothing.
  held_out = stores.open_validation(config, spec)
  # Before anything is compiled: a leak makes every evaluation worthless.
  heldout.check_disjoint(training, held_out)
  of_stream: dict[str, Any] = dict(
    seq=spec, seed=config.seed, batch=batch, host=jax.process_index(), hosts=jax.process_count()
  )
  read: dict[str, Any] = dict(
    training=training,
    data=rows_lib.identities(train=training, validation=held_out),
    held_out=held_out,
  )
  if encoder is None:
    tokenizer = training[0].store.manifest.tokenizer
    stream = mixture.stream(training, **of_stream)
    return _Inputs(task, stream, tokenizer=tokenizer, frozen=None, **read)
  from totojax.jobs import encoding

  encoding.check_same(encoder, held_out)
  stream, encodes = encoding.stream(training, encoder, task, **of_stream)
  return _Inputs(encodes, stream, tokenizer=encoder.fingerprint, frozen=encodes.frozen, **read)


def _task(config: Pretrain) -> task_lib.Pretrain:
  """The task of the paper, or the user's on the same tokens."""
  model, parametrisation = assembly.model(config), assembly.parametrisation(config)
  if config.task is None:
    z_loss = config.train.z_loss
    return task_lib.Pretrain(model, parametrisation, z_loss=z_loss)  # Eq. 1 and 2
  task = plugins.function(config.task, "task", task_lib.Pretrain)(model, parametrisation)
  tasks.check(task, config.task)
  return task


def _evaluations(config: Pretrain, task: task_lib.Pretrain) -> dict[str, train.Eval]:
  """The user's evaluations, by the names of their files."""
  return {
    plugins.stem(reference): plugins.evaluation(reference, task, config)
    for reference in config.evaluations or ()
  }


def batch_rows(batch_tokens: int, spec: sequence.SequenceSpec) -> int:
  """Sequences in a batch of `batch_tokens` inputs."""
  # Section 3.2's "1M tokens" are 256 rows of 4,096.
  count, rest = divmod(batch_tokens, spec.context)
  if rest or not count:
    raise ConfigError(
      f"train.batch_tokens {batch_tokens} is not a multiple of the context of"
      f" {spec.context} tokens; use {max(count, 1) * spec.context}"
    )
  return count
