"""Row `train_step`: our update against PyTorch and transformers' LLaMA.

A case for each model. On a GPU both sides run there, and the part of the matrix
unit's measured peak that each reaches stands beside them.

Shapes: B rows, T context, R = T + 1 tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from totojax import assembly, checkpoint, flops, sequence, sharding
from totojax import lanes as lanes_lib
from totojax.config.bench import TrainStepBench
from totojax.config.pretrain import Pretrain
from totojax.jobs import pretrain
from totojax.jobs.bench import hardware, measure, peers
from totojax.models import llama
from totojax.rundir import provenance
from totojax.tasks import pretrain as task_lib


class Trainer:
  """The train step of a config on one random batch.

  Attributes:
    shape: of the model.
    run: as `train.fit` gets it.
    state: after the updates so far.
    tokens_BR: int32, the batch.
    spec: of its sequences.
  """

  def __init__(self, config: Pretrain, *, devices: int = 1, lanes: lanes_lib.Lanes | None = None):
    """Builds and initialises; nothing of the step is compiled yet.

    Args:
      config: of `run = "pretrain"`.
      devices: that share the parameters (fsdp) and the batch.
      lanes: several learning rates in place of the config's.
    """
    self.shape = assembly.shape(config.model)
    self.spec = config.sequence
    size = config.train
    rows = pretrain.batch_rows(size.batch_tokens, self.spec)
    program = assembly.program(
      config,
      task=task_lib.Pretrain(assembly.model(config)),
      steps=flops.steps(size.total_tokens, size.batch_tokens),
      rows=rows,
      microbatches=size.microbatches,
      layout=layout(devices),
      lanes=lanes,
    )
    self.run = assembly.run(
      program,
      batches=lambda first: iter(()),  # there is but the one below
      evals={},
      facts={},
      tokens_per_step=size.batch_tokens,
      flops_per_token=0.0,
    )
    self.tokens_BR = random_rows(self.spec, rows, seed=config.seed)
    batch = {"tokens": self.tokens_BR, "source": np.zeros(rows, np.int32)}
    self._batch = self.run.layout.place(batch)
    self.state = self.run.init()
    self._losses = ["loss"]
    if lanes is not None:
      self._losses = [f"{lanes_lib.name(lane)}/loss" for lane in range(len(lanes.peak_lr))]

  def dispatch(self) -> jax.Array:
    """Begins one update and returns its loss, for which nobody waits yet."""
    self.state, self._metrics = self.run.step_fn(self.state, self._batch)
    return self._metrics["loss"]

  def losses(self) -> list[float]:
    """Of the newest update, before it: of each lane, or of the only run."""
    return [float(self._metrics[name]) for name in self._losses]

  def step(self) -> float:
    """Makes one update, waits for it, and returns its loss."""
    loss = self.dispatch()
    jax.block_until_ready(self.state)
    return float(loss)

  def checkpoints(self, directory: Any) -> checkpoint.Checkpoints:
    return checkpoint.Checkpoints(directory, self.run.checkpoint)


def layout(devices: int) -> sharding.Layout:
  """The first devices, over which parameters and rows are split."""
  mesh = sharding.MeshConfig(data=1, fsdp=devices, tensor=1, sequence=1)
  return sharding.layout(mesh, jax.devices()[:devices])


def random_rows(spec: sequence.SequenceSpec, rows: int, *, seed: int) -> np.ndarray:
  """int32 [rows, R]: videos of random codes."""
  rng = np.random.default_rng(seed)
  codes_BNP = rng.integers(0, spec.vocab, (rows, spec.frames, spec.frame_tokens))
  videos = [sequence.build(codes_NP, kind="video", spec=spec) for codes_NP in codes_BNP]
  return np.stack(videos).astype(np.int32)


def rows(settings: TrainStepBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Tokens per second of training.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  ceiling = hardware.ceiling() if hardware.is_accelerator() else None
  for case, config in settings.trained.items():
    # The arrays of a case go before those of the next one come.
    yield _row(case, config, settings, harness, ceiling)
    peers.free()


def _row(
  case: str,
  config: Pretrain,
  settings: TrainStepBench,
  harness: measure.Harness,
  ceiling: hardware.Ceiling | None,
) -> measure.Measurement:
  trainer = Trainer(config)
  shape, spec = llama.required(trainer.shape), trainer.spec
  inputs_BT, targets_BT = sequence.split(trainer.tokens_BR)
  step, parameters = peers.llama_step(
    shape,
    config.optim,
    vocab=spec.padded_vocab,
    dtype=config.compute.dtype,
    compiled=settings.peer_compiled,
    inputs_BT=inputs_BT,
    targets_BT=targets_BT,
  )
  tokens = settings.steps * inputs_BT.size
  cost = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)

  def repeated(begin: Callable[[], Any]) -> Callable[[], float]:
    """Makes some updates and returns the loss of the first."""

    def run() -> float:
      losses = [begin() for _ in range(settings.steps)]
      float(losses[-1])  # waits
      return float(losses[0])

    return run

  return harness.compare(
    measure.Side("our train step", repeated(trainer.dispatch), tokens),
    measure.Side(
      f"PyTorch, {'compiled' if settings.peer_compiled else 'eager'}, with"
      " transformers' LlamaForCausalLM (fused attention and AdamW)",
      repeated(step),
      tokens,
    ),
    case=f"{case}, {config.compute.dtype}",
    compares="one update (forward, backward, clipping, AdamW) of the same LLaMA on the same batch",
    unit="tokens",
    goals=measure.level("times PyTorch's tokens/s"),
    facts=lambda measured: {
      "parameters": parameters,
      "batch": inputs_BT.shape[0],
      "context": inputs_BT.shape[1],
      "width": shape.width,
      "depth": shape.depth,
      "threads_of_pytorch": provenance.cores(),
      "first_loss": dict(zip(("ours", "theirs"), measured.first)),
      "model_flops_per_token": cost,
      **utilisation(measured, cost, ceiling),
    },
  )


def utilisation(
  measured: measure.Rounds, flops_per_token: float, ceiling: hardware.Ceiling | None
) -> dict[str, Any]:
  """MFU of both sides, of the measured peak and of the vendor's."""
  if ceiling is None:
    return {}
  facts = {"measured_peak_flops_per_s": ceiling.flops_per_s}
  vendor = flops.peak_flops_per_s(jax.devices()[0].device_kind)
  for name in ("ours", "theirs"):
    rate = measure.spread([r.per_s for r in getattr(measured, name)]).median
    flops_per_s = rate * flops_per_token
    facts[f"mfu_of_measured_peak_{name}"] = flops_per_s / ceiling.flops_per_s
    if vendor:
      facts[f"mfu_{name}"] = flops_per_s / vendor
  return facts
