"""`run = "pretrain"`: from the config to a run of `train.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh

from totojax import flops
from totojax import sequence
from totojax import sharding
from totojax import step as step_lib
from totojax import train
from totojax.build import parts
from totojax.build.typed import ConfigError
from totojax.data import heldout
from totojax.data import rows as rows_lib
from totojax.data import shards
from totojax.data import store
from totojax.data import stream
from totojax.evals import val_loss
from totojax.tasks import pretrain as task_lib

Section = Mapping[str, Any]


def pretraining(config: Section) -> train.Run:
  """Everything that `train.fit` needs for next-token prediction."""
  spec = parts.sequence_spec(config)
  on = parts.mesh(config)
  task = task_lib.Pretrain(parts.model(config))
  batch = batch_rows(config["train"]["batch_tokens"], spec)
  training = open_sources(config, spec)
  held_out = open_validation(config, spec)
  heldout.check_disjoint(training, held_out)
  dataset = stream.stream(
      training,
      seq=spec,
      seed=config["seed"],
      batch=batch,
      host=jax.process_index(),
      hosts=jax.process_count(),
  )
  shape = task.model.config
  cost = flops.train_flops_per_token(
      shape, vocab=spec.vocab, context=spec.context
  )
  sums = position_sums(task, on)
  sources = validation_batches(
      held_out, spec=spec, rows=config["validation"]["rows"], batch=batch
  )

  def validate(state: step_lib.TrainState):
    return val_loss.scalars(val_loss.evaluate(sums, state.params, sources))

  return parts.run(
      config,
      task=task,
      steps=flops.steps(
          config["train"]["total_tokens"], batch * spec.context
      ),
      rows=batch,
      microbatches=config["train"]["microbatches"],
      batches=parts.reader(config, dataset),
      evals={"": validate} if held_out else {},
      facts={
          "parameters": flops.parameters(shape, spec.vocab + sequence.SPECIALS),
          "parameters_without_specials": flops.parameters(shape, spec.vocab),
          "flops_per_token": cost,
          "sources": {s.name: len(s.store) for s in training},
          "tokenizer": training[0].store.manifest.tokenizer,
      },
      tokens_per_step=batch * spec.context,
      flops_per_token=cost,
      on=on,
  )


def batch_rows(batch_tokens: int, spec: sequence.SequenceSpec) -> int:
  """Sequences in a batch of `batch_tokens` inputs."""
  count, rest = divmod(batch_tokens, spec.context)
  if rest or not count:
    raise ConfigError(
        f"train.batch_tokens {batch_tokens} is not a multiple of the context of"
        f" {spec.context} tokens; use {max(count, 1) * spec.context}"
    )
  return count


def open_sources(
    config: Section, spec: sequence.SequenceSpec
) -> list[rows_lib.Source]:
  """The stores of `data.train`, checked against the sequence."""
  section = config["data"]["train"]
  if not section:
    raise ConfigError(
        "config key data.train is empty; name at least one store of tokens, as"
        " --config.data.train.NAME.path=... in a config made from configs/1b.py"
    )
  return [
      rows_lib.Source(
          name=name, store=_open(config, value["path"], spec, name),
          weight=value["weight"],
      )
      for name, value in section.items()
  ]  # fmt: skip


def open_validation(
    config: Section, spec: sequence.SequenceSpec
) -> list[rows_lib.Source]:
  """The stores of `data.validation`."""
  return [
      rows_lib.Source(
          name=name, store=_open(config, path, spec, name), weight=1.0
      )
      for name, path in config["data"]["validation"].items()
  ]


def _open(
    config: Section, path: str, spec: sequence.SequenceSpec, name: str
) -> store.Store:
  if not path:
    raise ConfigError(
        f"the store {name!r} has no path; set it to a folder that the shards"
        " stage wrote"
    )
  return shards.open_store(
      path,
      tokenizer=config["data"]["tokenizer"] or None,
      vocab=spec.vocab,
      grid=spec.grid,
  )


def validation_batches(
    sources: list[rows_lib.Source],
    *,
    spec: sequence.SequenceSpec,
    rows: int,
    batch: int,
) -> dict[str, heldout.HeldOut]:
  """Source -> this host's part of its first `rows` sequences (0: of all)."""
  return {
      source.name: heldout.validation(
          source, seq=spec, rows=rows, batch=batch,
          host=jax.process_index(), hosts=jax.process_count(),
      )
      for source in sources
  }  # fmt: skip


def position_sums(
    task: task_lib.Pretrain, on: Mesh
) -> Callable[[Any, Mapping[str, Any]], val_loss.Sums]:
  """(params, this host's rows) -> sums over the global batch, on every host."""
  rules = sharding.ShardingRules()
  split = sharding.batch_sharding(on, rules)

  @functools.partial(jax.jit, out_shardings=parts.whole(on))
  def compute(params, tokens_BR):
    with nn.logical_axis_rules(rules.flax_rules()):
      return val_loss.batch_sums(
          *task.nll(params, tokens_BR), frame_tokens=task.spec.frame_tokens
      )

  def sums(params, batch):
    with jax.set_mesh(on):
      return compute(params, train.place(batch, split)["tokens"])

  return sums
