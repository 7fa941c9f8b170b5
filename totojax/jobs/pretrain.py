"""`run = "pretrain"`: from the config to a run of `train.fit`."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
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
from totojax.config.pretrain import Data, Pretrain
from totojax.config.schema import ConfigError
from totojax.config.training import Share
from totojax.data.store import manifests, store
from totojax.data.stream import heldout, mixture, rows as rows_lib
from totojax.evals import val_loss
from totojax.rundir import console, metrics, provenance
from totojax.storage import objects, outages
from totojax.tasks import pretrain as task_lib

if TYPE_CHECKING:
  from totojax import lanes as lanes_lib
  from totojax.tokenizers import api as tokenizer_api


def run(config: Pretrain, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Prediction of the next token, or of the next patch."""
  if not config.patches.inputs:
    training = pretraining(config)
  else:
    from totojax.jobs import patches  # Table 3 alone reads patches

    training = patches.pretraining(config)
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
  start, began = _start(config, task, tokenizer=inputs.tokenizer, lanes=lanes, layout=layout)
  # Inputs, padding of images included: every update costs the same.
  program = assembly.program(
    config,
    task=inputs.task,
    steps=flops.steps(config.train.total_tokens, tokens_per_step),
    rows=batch,
    microbatches=config.train.microbatches,
    layout=layout,
    rules=task.rules,
    lanes=lanes,
  )
  if lanes is None:  # a sweep's runs are alike
    for line in rows_lib.in_words(inputs.training, spec, steps=program.steps, batch=batch):
      console.say(line)
    if not inputs.held_out:
      console.say("no data.validation: nothing is held out, and no loss on held-out data is known")
  shape = task.model.config
  # Of the codes alone: specials, and the padding of the vocabulary, are ours.
  cost = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
  # The inner task: what is held out is tokens already.
  sums = assembly.position_sums(task.per_target, layout, spec.frame_tokens)
  held_out = validation_batches(
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
      **began,
    },
    data=inputs.data,
    closing=lambda evals: _held_out_in_words(evals, config) if lanes is None else (),
    tokens_per_step=tokens_per_step,
    flops_per_token=cost,
    frozen=inputs.frozen,
    start=start,
  )


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
  encoder = _encoder(config, spec)
  config.data.shares(example="configs/1b.py")
  check_stores(config)
  training = open_sources(config, spec, pixels=encoder is not None)
  # Tokens even where training encodes pixels: the same ones at every
  # evaluation, so encoding them each time would buy nothing.
  held_out = open_validation(config, spec)
  if encoder is not None:
    _check_same_tokenizer(encoder, held_out)
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
  from totojax.data.stream import frames
  from totojax.tasks import encode

  stream = frames.clips_stream(training, factor=encoder.factor, **of_stream)
  encoding = encode.EncodeFrames(task, encoder, spec=spec)
  return _Inputs(encoding, stream, tokenizer=encoder.fingerprint, frozen=encoding.frozen, **read)


def _task(config: Pretrain) -> task_lib.Pretrain:
  """The task of the paper, or the user's on the same tokens."""
  model, parametrisation = assembly.model(config), assembly.parametrisation(config)
  if config.task is None:
    return task_lib.Pretrain(model, parametrisation)  # Eq. 1 and 2
  task = plugins.function(config.task, "task", task_lib.Pretrain)(model, parametrisation)
  tasks.check(task, config.task)
  return task


def _evaluations(config: Pretrain, task: task_lib.Pretrain) -> dict[str, train.Eval]:
  """The user's evaluations, by the names of their files."""
  return {
    plugins.stem(reference): plugins.evaluation(reference, task, config)
    for reference in config.evaluations or ()
  }


def _start(
  config: Pretrain,
  task: task_lib.Pretrain,
  *,
  tokenizer: str,
  lanes: "lanes_lib.Lanes | None",
  layout: sharding.Layout,
) -> tuple[Callable[[Any], Any] | None, dict[str, Any]]:
  """How parameters begin, and what the manifest says of it (Table 4's stage 2).

  Returns:
    Fresh parameters -> those of `init_from`, or None: they begin fresh; and
    facts.

  Raises:
    ConfigError: that run is of another model, vocabulary or tokenizer.
  """
  if not config.init_from:
    return None, {}
  if lanes is not None:
    raise ConfigError(
      "init_from is set, and runs that share a program start afresh; sweep without it"
    )
  from totojax.trained import backbone

  # Checked here, before anything is compiled; read when the state is made.
  source_run = backbone.find(config.init_from)
  backbone.check_start(source_run, task.model, tokenizer=tokenizer)
  facts = {"init_from": {"run": str(source_run.path), "step": source_run.step}}
  # Parameters alone: moments, step and schedule are this run's.
  return lambda _: backbone.read(source_run, task.model, layout), facts


def _encoder(config: Pretrain, spec: sequence.SequenceSpec) -> "tokenizer_api.Tokenizer | None":
  """The tokenizer that runs on the device, if one does.

  Raises:
    ConfigError: it has other codes than the sequence.
  """
  path = config.data.encode_with
  if not path:
    return None
  from totojax.tokenizers import weights

  tokenizer = weights.load(path)
  if tokenizer.vocab != spec.vocab:
    raise ConfigError(
      f"data.encode_with {path} has {tokenizer.vocab} codes; sequence.vocab is"
      f" {spec.vocab}: make them equal"
    )
  expected = config.data.tokenizer
  if expected and expected != tokenizer.fingerprint:
    raise ConfigError(
      f"data.encode_with {path} is tokenizer {tokenizer.fingerprint}; data.tokenizer asks for"
      f" {expected}"
    )
  return tokenizer


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


def _check_same_tokenizer(
  encoder: "tokenizer_api.Tokenizer", held_out: list[rows_lib.Source]
) -> None:
  # Shapes would fit: the loss would be of codes that mean something else.
  for source in held_out:
    fingerprint = source.store.manifest.tokenizer
    if fingerprint != encoder.fingerprint:
      raise ConfigError(
        f"validation store {source.name!r} has tokens of {fingerprint}, and data.encode_with is"
        f" {encoder.fingerprint}; make it with the same tokenizer"
      )


def open_sources(
  config: Pretrain, spec: sequence.SequenceSpec, *, pixels: bool
) -> list[rows_lib.Source]:
  """The stores of `data.train`: of pixels, or of tokens that fit.

  Raises:
    ConfigError: there is none.
  """
  return [
    rows_lib.Source(
      name=name,
      store=_open(config, share.path, None if pixels else spec, name),
      weight=share.weight,
    )
    for name, share in config.data.shares(example="configs/1b.py").items()
  ]


def check_stores(config: Pretrain) -> None:
  """Raises ConfigError with all reasons why stores of tokens do not fit."""
  sources, reasons = find_stores(config.data)
  reasons += rows_lib.mismatches(sources, config.sequence, ("vocab", "grid", "frames"))
  refuse([*reasons, *rows_lib.disagreements(sources, ("tokenizer",))])


def refuse(reasons: Sequence[str]) -> None:
  """Raises ConfigError with all of them, if there are any."""
  if reasons:
    head = "stores and config do not fit:\n  " if len(reasons) > 1 else ""
    raise ConfigError(head + "\n  ".join(reasons))


def find_stores(data: Data) -> tuple[list[rows_lib.Source], list[str]]:
  """The stores that are there, by config key, and why others cannot be read.

  Nothing but manifests is read. Pixels that are encoded have the vocabulary and
  grid of what is made of them.

  Raises:
    outages.StorageAway: where they lie does not answer.
  """
  encoder, sources, reasons = None, [], []
  if data.encode_with:
    from totojax.tokenizers import weights

    encoder = weights.load(data.encode_with)
  shares = {f"data.train.{name}": share for name, share in data.train.items()}
  shares |= {f"data.validation.{name}": Share(path) for name, path in data.validation.items()}
  for key, share in shares.items():
    encoded = encoder is not None and key.startswith("data.train.")
    try:
      manifest = manifests.existing(share.path or "(no path)")
    except objects.StoreError as error:
      if outages.is_away(error):
        raise
      reasons.append(f"{key}: {error}")
      continue
    reason = _unreadable(manifest, "frames" if encoded else "codes")
    if reason:
      reasons.append(f"{key}: {share.path} {reason}")
      continue
    if encoder is not None and encoded:
      grid, rest = divmod(manifest.size_px, encoder.factor)
      if rest:
        reasons.append(
          f"{key}: {share.path} has frames of {manifest.size_px} pixels, no multiple of the"
          f" {encoder.factor} of a token of data.encode_with"
        )
        continue
      manifest = dataclasses.replace(manifest, vocab=encoder.vocab, grid=grid)
    elif data.tokenizer and manifest.tokenizer != data.tokenizer:
      reasons.append(
        f"{key}: {share.path} has tokenizer {manifest.tokenizer}; data.tokenizer asks for"
        f" {data.tokenizer}"
      )
    sources.append(rows_lib.Source(key, store.Store(share.path, manifest), share.weight))
  return sources, reasons


def _unreadable(manifest: manifests.Manifest, field: str) -> str:
  """Why a store of this manifest is none to read `field` from, if it is none."""
  if not manifest.complete:
    return (
      f"is incomplete: {manifest.records} records so far. Start the job that makes it again; it"
      " goes on where it stopped"
    )
  if not manifest.records:
    return "has no record; make it again, of files that can be read"
  names = [one.name for one in manifest.fields]
  if field == "codes" and names == ["frames"]:
    return (
      "holds pixels, and tokens are read; make tokens of its files with configs/tokenize.py, or"
      " name a tokenizer for data.train, --config.data.encode_with=shipped"
    )
  if names != [field]:
    return f"holds {names}, and this run reads {field!r}"
  return ""


def identities(data: Data) -> dict[str, dict[str, Any]]:
  """Config key -> what stands for its records in a run, of the manifests alone."""
  paths = {f"data.train.{name}": share.path for name, share in data.train.items()}
  paths |= {f"data.validation.{name}": path for name, path in data.validation.items()}
  return {name: manifests.existing(path).identity for name, path in paths.items()}


def open_validation(
  config: Pretrain, spec: sequence.SequenceSpec, *, pixels: bool = False
) -> list[rows_lib.Source]:
  """The stores of `data.validation`: of pixels, or of tokens that fit."""
  # All weigh the same: each is evaluated by itself, whole or its first rows.
  needed = None if pixels else spec
  return [
    rows_lib.Source(name=name, store=_open(config, path, needed, name), weight=1.0)
    for name, path in config.data.validation.items()
  ]


def _open(
  config: Pretrain, path: str, spec: sequence.SequenceSpec | None, name: str
) -> store.Store:
  """A store of tokens that fit the sequence, or any store for None."""
  if not path:
    raise ConfigError(
      f"the store {name!r} has no path; set it to a folder that the shards stage wrote"
    )
  # Said by the manifest: no record is read before the first batch.
  return store.open_store(
    path,
    tokenizer=(spec and config.data.tokenizer) or None,
    vocab=spec and spec.vocab,
    grid=spec and spec.grid,
  )


def validation_batches(
  sources: list[rows_lib.Source],
  *,
  spec: sequence.SequenceSpec,
  rows: int,
  batch: int,
  factor: int = 0,
) -> dict[str, heldout.HeldOut]:
  """Source -> this host's part of its first `rows` sequences (0: of all).

  `factor` is the pixels of a token's side, where the sources are of pixels.
  """
  return {
    source.name: heldout.validation(
      source,
      seq=spec,
      rows=rows,
      batch=batch,
      host=jax.process_index(),
      hosts=jax.process_count(),
      factor=factor,
    )
    for source in sources
  }
