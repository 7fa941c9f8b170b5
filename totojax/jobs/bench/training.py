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
    mesh = sharding.make_mesh(
      sharding.MeshConfig(data=1, fsdp=devices, tensor=1, sequence=1), jax.devices()[:devices]
    )
    size = config.train
    rows = pretrain.batch_rows(size.batch_tokens, self.spec)
    program = assembly.program(
      config,
      task=task_lib.Pretrain(assembly.model(config)),
      steps=flops.steps(size.total_tokens, size.batch_tokens),
      rows=rows,
      microbatches=size.microbatches,
      layout=sharding.Layout(mesh),
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

  def dispatch(self) -> jax.Array:
    """Begins one update and returns its loss, for which nobody waits yet."""
    self.state, self._metrics = self.run.step_fn(self.state, self._batch)
    return self._metrics["loss"]

  def losses(self, lanes: int) -> list[float]:
    """Of the newest update, before it: of each lane, or of the only run."""
    if lanes == 1:
      return [float(self._metrics["loss"])]
    names = map(lanes_lib.name, range(lanes))
    return [float(self._metrics[f"{name}/loss"]) for name in names]

  def step(self) -> float:
    """Makes one update, waits for it, and returns its loss."""
    loss = self.dispatch()
    jax.block_until_ready(self.state)
    return float(loss)

  def checkpoints(self, directory: Any) -> checkpoint.Checkpoints:
    return checkpoint.Checkpoints(directory, self.run.checkpoint)


def random_rows(spec: sequence.SequenceSpec, rows: int, *, seed: int) -> np.ndarray:
  """int32 [rows, R]: videos of random codes."""
  rng = np.random.default_rng(seed)
  shape = (rows, spec.frames, spec.frame_tokens)
  codes_BNP = rng.integers(0, spec.vocab, shape)
  return np.stack(
    [sequence.build(codes_NP, kind="video", spec=spec) for codes_NP in codes_BNP]
  ).astype(np.int32)


def measure_train_step(
  settings: TrainStepBench, *, how: measure.How
) -> Iterator[measure.Row | measure.Skipped]:
  """Tokens per second of training.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  ceiling = hardware.ceiling() if hardware.is_accelerator() else None
  for case, config in settings.trained.items():
    # The arrays of a case go before those of the next one come.
    yield _case(case, config, settings, how=how, ceiling=ceiling)
    peers.free()


def _case(
  case: str,
  config: Pretrain,
  settings: TrainStepBench,
  *,
  how: measure.How,
  ceiling: hardware.Ceiling | None,
) -> measure.Row:
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
  losses = {}

  def repeated(name: str, begin: Callable[[], Any]) -> Callable[[], float]:
    def run() -> float:
      begun = [begin() for _ in range(settings.steps)]
      float(begun[-1])  # waits
      losses.setdefault(name, float(begun[0]))
      return float(settings.steps * inputs_BT.size)

    return run

  ours = measure.Side("our train step", repeated("ours", trainer.dispatch), measure.nothing)
  theirs = measure.Side(
    f"PyTorch, {'compiled' if settings.peer_compiled else 'eager'}, with"
    " transformers' LlamaForCausalLM (fused attention and AdamW)",
    repeated("theirs", step),
    measure.nothing,
  )
  measured = measure.compare(ours, theirs, how=how)
  needed = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
  return measure.Row(
    row="train_step",
    case=f"{case}, {config.compute.dtype}",
    compares=(
      "one update (forward, backward, clipping, AdamW) of the same LLaMA on the same batch"
    ),
    unit="tokens",
    ours=ours.what,
    theirs=theirs.what,
    measured=measured,
    goals=(measure.Goal("times PyTorch's tokens/s", measured.ratio.median, 1.0),),
    facts={
      "parameters": parameters,
      "batch": inputs_BT.shape[0],
      "context": inputs_BT.shape[1],
      "width": shape.width,
      "depth": shape.depth,
      "threads_of_pytorch": peers.cores(),
      "first_loss": losses,
      "model_flops_per_token": needed,
      **utilisation(measured, needed, ceiling),
    },
  )


def utilisation(
  measured: measure.Comparison, flops_per_token: float, ceiling: hardware.Ceiling | None
) -> dict[str, Any]:
  """MFU of both sides, of the measured peak and of the vendor's."""
  if ceiling is None:
    return {}
  found = {"measured_peak_flops_per_s": ceiling.flops_per_s}
  vendor = flops.peak_flops_per_s(jax.devices()[0].device_kind)
  sides = {"ours": measured.ours, "theirs": measured.theirs}
  for name, readings in sides.items():
    rate = measure.spread([r.per_s for r in readings]).median
    done = rate * flops_per_token
    found[f"mfu_of_measured_peak_{name}"] = done / ceiling.flops_per_s
    if vendor:
      found[f"mfu_{name}"] = done / vendor
  return found
