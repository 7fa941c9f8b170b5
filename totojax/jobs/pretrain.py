"""`run = "pretrain"`: from the config to a run of `train.fit`."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from etils import epath
import jax

from totojax import assembly as parts
from totojax import flops
from totojax import jobs
from totojax import lanes as lanes_lib
from totojax import plugins
from totojax import sequence
from totojax import sharding
from totojax import step as step_lib
from totojax import train
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.data.store import shards
from totojax.data.store import store
from totojax.data.stream import heldout
from totojax.data.stream import mixture
from totojax.data.stream import rows as rows_lib
from totojax.evals import val_loss
from totojax.tasks import encode
from totojax.tasks import pretrain as task_lib
from totojax.tokenizers import api as tokenizer_api
from totojax.tokenizers import weights
from totojax.trained import backbone


def run(
    config: Pretrain, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Prediction of the next token, or of the next patch."""
  if not config.patches.inputs:
    made = pretraining(config)
  else:
    from totojax.jobs import patches  # Table 3 alone reads patches

    made = patches.pretraining(config)
  _, finished = train.fit(made, workdir, interrupted=interrupted)
  return finished


@dataclasses.dataclass(frozen=True)
class Planned:
  """A run without its data, for planning.

  Attributes:
    task: what is trained; where nothing is to be compiled, with plain
      attention, as what computes it there may not be here.
    attention: what computes it there.
    rows: of a batch.
    microbatches: parts of a batch.
    total_tokens: of the whole run.
    layout: where it is computed; None where nothing is to be compiled.
    program: its train step; None where nothing is to be compiled.
  """

  task: task_lib.Pretrain
  attention: str
  rows: int
  microbatches: int
  total_tokens: float
  layout: sharding.Layout | None
  program: parts.Program | None


def planned(
    config: Pretrain, *, devices: list[Any] | None, backend: str
) -> Planned:
  """The train step that `pretraining` runs, for devices that are not here.

  Args:
    config: of `run = "pretrain"`; its stores of tokens are not opened.
    devices: of a topology; None: describe the run, compile nothing.
    backend: "tpu" or "gpu": what "auto" means there.
  """
  parts.check_tokens(config, "a plan")
  model = parts.model(config, backend)
  attention = model.compute.attention
  if devices is None:
    plain = dataclasses.replace(model.compute, attention="xla")
    model = model.clone(compute=plain)
  task = task_lib.Pretrain(model, parts.parametrisation(config))
  size = config.train
  rows = batch_rows(size.batch_tokens, task.spec)
  layout = made = None
  if devices is not None:
    layout = sharding.layout(config.mesh, devices)
    made = parts.program(
        config,
        task=task,
        steps=flops.steps(size.total_tokens, rows * task.spec.context),
        rows=rows,
        microbatches=size.microbatches,
        layout=layout,
        rules=task.rules,
    )
  return Planned(
      task=task,
      attention=attention,
      rows=rows,
      microbatches=size.microbatches,
      total_tokens=size.total_tokens,
      layout=layout,
      program=made,
  )


def pretraining(
    config: Pretrain, lanes: lanes_lib.Lanes | None = None
) -> train.Run:
  """Everything that `train.fit` needs for next-token prediction.

  Args:
    config: of `run = "pretrain"`.
    lanes: several learning rates in place of the config's.

  Raises:
    ValueError: something does not fit, such as a run to start from.
  """
  parts.check_tokens(config, "this job")
  spec = config.sequence
  layout = sharding.layout(config.mesh)
  task = _task(config)
  size = config.train
  batch = batch_rows(size.batch_tokens, spec)
  encoder = _encoder(config, spec)
  training = open_sources(config, spec, pixels=encoder is not None)
  held_out = open_validation(config, spec)
  if encoder is not None:
    _check_same_tokenizer(encoder, held_out)
  heldout.check_disjoint(training, held_out)
  of_stream = dict(
      seq=spec,
      seed=config.seed,
      batch=batch,
      host=jax.process_index(),
      hosts=jax.process_count(),
  )
  trained, frozen = task, None
  if encoder is None:
    dataset = mixture.stream(training, **of_stream)
    fingerprint = training[0].store.manifest.tokenizer
  else:
    dataset = mixture.clips_stream(
        training, factor=encoder.factor, **of_stream
    )
    fingerprint = encoder.fingerprint
    trained = encode.EncodeFrames(
        task,
        spec=spec,
        factor=encoder.factor,
        codes_of=encoder.codes_of,
        params=encoder.params,
    )
    frozen = {"inner": {}, "tokenizer": encoder.params}
  start, began = None, {}
  if config.init_from:
    before = _start(config, task, tokenizer=fingerprint, lanes=lanes)
    began = {"init_from": {"run": str(before.path), "step": before.step}}
    start = lambda _: backbone.read(before, task.model, layout)
  shape = task.model.config
  cost = flops.train_flops_per_token(
      shape, vocab=spec.vocab, context=spec.context
  )
  sums = parts.position_sums(task.batch_nll, layout, spec.frame_tokens)
  sources = validation_batches(
      held_out, spec=spec, rows=config.validation.rows, batch=batch
  )

  def validate(state: step_lib.TrainState):
    return val_loss.scalars(val_loss.evaluate(sums, state.params, sources))

  return parts.run(
      config,
      task=trained,
      steps=flops.steps(size.total_tokens, batch * spec.context),
      rows=batch,
      microbatches=size.microbatches,
      batches=parts.reader(config.data.reading, dataset),
      evals={
          **({"": validate} if held_out else {}),
          **_evaluations(config, task),
      },
      facts={
          "parameters": flops.parameters(shape, spec.vocab + sequence.SPECIALS),
          "parameters_without_specials": flops.parameters(shape, spec.vocab),
          "flops_per_token": cost,
          "sources": {s.name: len(s.store) for s in training},
          "tokenizer": fingerprint,
          "encoded": "on the device" if encoder else "before",
          **began,
      },
      tokens_per_step=batch * spec.context,
      flops_per_token=cost,
      layout=layout,
      frozen=frozen,
      rules=task.rules,
      lanes=lanes,
      start=start,
  )


def _task(config: Pretrain) -> task_lib.Pretrain:
  """The task of the paper, or the user's on the same tokens."""
  make = task_lib.Pretrain
  if config.task is not None:
    make = plugins.load(config.task, "task", Callable)
  return make(parts.model(config), parts.parametrisation(config))


def _evaluations(
    config: Pretrain, task: task_lib.Pretrain
) -> dict[str, train.Eval]:
  """The user's evaluations, by the names of their files."""
  evals = {}
  for reference in config.evaluations or ():
    make = plugins.load(reference, "evaluation", Callable)
    evals[plugins.stem(reference)] = make(task, config)
  return evals


def _start(
    config: Pretrain,
    task: task_lib.Pretrain,
    *,
    tokenizer: str,
    lanes: lanes_lib.Lanes | None,
) -> backbone.Trained:
  """The run that this one starts from (stage 2 of Table 4).

  Raises:
    ConfigError: it is of another model, vocabulary or tokenizer.
  """
  if lanes is not None:
    raise ConfigError(
        "init_from is set, and runs that share a program start afresh; sweep"
        " without it"
    )
  found = backbone.find(config.init_from)
  backbone.check_start(found, task.model, tokenizer=tokenizer)
  return found


def _encoder(
    config: Pretrain, spec: sequence.SequenceSpec
) -> tokenizer_api.Tokenizer | None:
  """The tokenizer that runs on the device, if one does.

  Raises:
    ConfigError: it has other codes than the sequence.
  """
  path = config.data.encode_with
  if not path:
    return None
  found = weights.load(path)
  if found.vocab != spec.vocab:
    raise ConfigError(
        f"data.encode_with {path} has {found.vocab} codes; sequence.vocab is"
        f" {spec.vocab}: make them equal"
    )
  wanted = config.data.tokenizer
  if wanted and wanted != found.fingerprint:
    raise ConfigError(
        f"data.encode_with {path} is tokenizer {found.fingerprint};"
        f" data.tokenizer asks for {wanted}"
    )
  return found


def batch_rows(batch_tokens: int, spec: sequence.SequenceSpec) -> int:
  """Sequences in a batch of `batch_tokens` inputs."""
  count, rest = divmod(batch_tokens, spec.context)
  if rest or not count:
    raise ConfigError(
        f"train.batch_tokens {batch_tokens} is not a multiple of the context of"
        f" {spec.context} tokens; use {max(count, 1) * spec.context}"
    )
  return count


def _check_same_tokenizer(
    encoder: tokenizer_api.Tokenizer, held_out: list[rows_lib.Source]
) -> None:
  for source in held_out:
    found = source.store.manifest.tokenizer
    if found != encoder.fingerprint:
      raise ConfigError(
          f"validation store {source.name!r} has tokens of {found}, and"
          f" data.encode_with is {encoder.fingerprint}; make it with the same"
          " tokenizer"
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
  ]  # fmt: skip


def open_validation(
    config: Pretrain, spec: sequence.SequenceSpec, *, pixels: bool = False
) -> list[rows_lib.Source]:
  """The stores of `data.validation`: of pixels, or of tokens that fit."""
  needed = None if pixels else spec
  return [
      rows_lib.Source(
          name=name, store=_open(config, path, needed, name), weight=1.0
      )
      for name, path in config.data.validation.items()
  ]


def _open(
    config: Pretrain, path: str, spec: sequence.SequenceSpec | None, name: str
) -> store.Store:
  """A store of tokens that fit the sequence, or any store for None."""
  if not path:
    raise ConfigError(
        f"the store {name!r} has no path; set it to a folder that the shards"
        " stage wrote"
    )
  return shards.open_store(
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
          source, seq=spec, rows=rows, batch=batch,
          host=jax.process_index(), hosts=jax.process_count(), factor=factor,
      )
      for source in sources
  }  # fmt: skip
