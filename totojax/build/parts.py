"""Typed parts that several kinds of run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from totojax import checkpoint
from totojax import logs
from totojax import sequence
from totojax import sharding
from totojax import step as step_lib
from totojax import train
from totojax.build.typed import typed
from totojax.data import stream
from totojax.models import llama
from totojax.models import trunk
from totojax.optim import adamw
from totojax.tasks import api

Section = Mapping[str, Any]


def sequence_spec(config: Section) -> sequence.SequenceSpec:
  return typed(sequence.SequenceSpec, config["sequence"], "sequence")


def compute(section: Section, depth: int) -> trunk.Compute:
  """Fills in what "auto" and 0 mean on this backend."""
  backend = jax.default_backend()
  chosen = dict(section)
  if chosen["attention"] == "auto":
    chosen["attention"] = "blocked" if backend == "cpu" else "xla"
    if backend == "gpu" and chosen["dtype"] == "bfloat16":
      chosen["attention"] = "cudnn"  # which has no float32
  if chosen["remat"] == "auto":
    chosen["remat"] = "none" if backend == "cpu" else "full"
  if chosen["unroll"] == 0:
    # XLA for CPU does not optimise across the iterations of a scan.
    chosen["unroll"] = depth if backend == "cpu" else 1
  return typed(trunk.Compute, chosen, "compute")


def model(config: Section) -> trunk.Trunk:
  shape = typed(llama.LlamaConfig, config["model"], "model")
  return trunk.Trunk(
      config=shape,
      spec=sequence_spec(config),
      compute=compute(config["compute"], shape.depth),
  )


def mesh(config: Section) -> Mesh:
  return sharding.make_mesh(typed(sharding.MeshConfig, config["mesh"], "mesh"))


def run(
    config: Section,
    *,
    task: api.Task,
    steps: int,
    rows: int,
    microbatches: int,
    batches: Callable[[int], Any],
    evals: Mapping[str, train.Eval],
    facts: Mapping[str, Any],
    tokens_per_step: int,
    flops_per_token: float,
    on: Mesh,
) -> train.Run:
  """Joins a task, an optimiser and a mesh into what `train.fit` needs.

  Args:
    config: sections `optim`, `every`, `checkpoint` and the key `seed`.
    task: what is trained.
    steps: updates.
    rows: of the global batch.
    microbatches: parts of a batch.
    batches: first step -> this host's batches from there on.
    evals: name -> evaluation.
    facts: for manifest.json.
    tokens_per_step: for the rate.
    flops_per_token: for the MFU; 0 where it is not known.
    on: the mesh.
  """
  rules = sharding.ShardingRules()
  sharding.check_batch(rows, microbatches=microbatches, mesh=on)
  optimiser = typed(adamw.AdamWConfig, config["optim"], "optim")
  tx = adamw.make(optimiser, axes=task.axes().params, steps=steps)
  placed, shapes = step_lib.state_shardings(task, tx, mesh=on, rules=rules)

  def rate(opt_state, update):
    return adamw.learning_rate(
        optimiser, opt_state, update=update, steps=steps
    )

  step_fn = step_lib.jit_step(
      functools.partial(
          step_lib.train_step,
          task=task,
          tx=tx,
          rate=rate,
          seed=config["seed"],
          microbatches=microbatches,
      ),
      shardings=placed,
      mesh=on,
      rules=rules,
  )

  def init():
    make = jax.jit(
        functools.partial(step_lib.init_state, task, tx), out_shardings=placed
    )
    return make(jax.random.key(config["seed"]))

  device = jax.devices()[0].device_kind
  return train.Run(
      init=init,
      step_fn=step_fn,
      batches=batches,
      batch_sharding=sharding.batch_sharding(on, rules),
      shapes=shapes,
      shardings=placed,
      steps=steps,
      every=typed(train.Every, config["every"], "every"),
      evals=evals,
      checkpoint=typed(
          checkpoint.CheckpointConfig, config["checkpoint"], "checkpoint"
      ),
      meta={"task": type(task).__name__},
      config=config,
      facts={
          "mesh": dict(on.shape),
          "steps": steps,
          "tokens_per_step": tokens_per_step,
          **facts,
      },
      clock=lambda: logs.Clock(
          tokens_per_step=tokens_per_step,
          flops_per_token=flops_per_token,
          devices=len(jax.devices()),
          device_kind=device,
      ),
  )


def reader(config: Section, dataset: Any) -> Callable[[int], Any]:
  """First step -> iterator of host batches, read ahead as `data.reading`."""
  reading = typed(stream.Reading, config["data"]["reading"], "data.reading")
  return lambda first_step: stream.host_batches(
      dataset, first_step, reading=reading
  )


def whole(on: Mesh) -> NamedSharding:
  return NamedSharding(on, PartitionSpec())
