"""Row `train_step`: our update against PyTorch and transformers' LLaMA.

A case for each model. On a GPU both sides run there, and the part of the matrix
unit's measured peak that each reaches stands beside them. On a CPU a second case
has the products with weights alone, which are most of a step: what the compiler
makes of them bounds what the rest can bring.

Shapes: B rows, T context, R = T + 1 tokens of a row, M = B T, I inputs and O
outputs of a product.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
from typing import Any

import jax
import numpy as np

from totojax import assembly, flops, lanes as lanes_lib, sequence, sharding, step, tasks
from totojax.config.bench import TrainStepBench
from totojax.config.pretrain import Pretrain
from totojax.jobs import pretrain
from totojax.jobs.bench import hardware, measure, peers
from totojax.models import layers, llama
from totojax.rundir import provenance
from totojax.tasks import pretrain as task_lib


class Trainer:
  """A train step, on one batch.

  Attributes:
    program: the step.
    state: after the updates so far.
    batch: on the devices.
  """

  def __init__(
    self,
    config: assembly.Trains,
    *,
    task: tasks.Task,
    steps: int,
    batch: Mapping[str, np.ndarray],
    microbatches: int = 1,
    devices: int = 1,
    lanes: lanes_lib.Lanes | None = None,
    **more: Any,
  ):
    """Builds and initialises; nothing of the step is compiled yet.

    Args:
      config: of a job that trains.
      task: what is trained.
      steps: of the schedule.
      batch: of all updates.
      microbatches: parts of it.
      devices: that share the parameters (fsdp) and the batch.
      lanes: several learning rates in place of the config's.
      **more: as `assembly.program` takes it.
    """
    mesh = sharding.MeshConfig(data=1, fsdp=devices, tensor=1, sequence=1)
    self.program = assembly.program(
      config,
      task=task,
      steps=steps,
      rows=len(batch["tokens"]),
      microbatches=microbatches,
      layout=sharding.layout(mesh, jax.devices()[:devices]),
      lanes=lanes,
      **more,
    )
    self.batch = self.program.layout.place(batch)
    self.state = self.program.init(None, None)
    self._losses = ["loss"]
    if lanes is not None:
      self._losses = [f"{lanes_lib.name(lane)}/loss" for lane in range(len(lanes.peak_lr))]

  def dispatch(self) -> jax.Array:
    """Begins one update and returns its loss, for which nobody waits yet."""
    self.state, self._metrics = self.program.step_fn(self.state, self.batch)
    return self._metrics["loss"]

  def losses(self) -> list[float]:
    """Of the newest update, before it: of each lane, or of the only run."""
    return [float(self._metrics[name]) for name in self._losses]

  def step(self) -> float:
    """Makes one update, waits for it, and returns its loss."""
    loss = self.dispatch()
    jax.block_until_ready(self.state)
    return float(loss)


def trainer(config: Pretrain, *, devices: int = 1, lanes: lanes_lib.Lanes | None = None) -> Trainer:
  """The train step of a config on one batch of random videos."""
  size = config.train
  rows = pretrain.batch_rows(size.batch_tokens, config.sequence)
  return Trainer(
    config,
    task=task_lib.Pretrain(assembly.model(config)),
    steps=flops.steps(size.total_tokens, size.batch_tokens),
    batch=random_batch(config.sequence, rows, seed=config.seed),
    microbatches=size.microbatches,
    devices=devices,
    lanes=lanes,
  )


def random_batch(spec: sequence.SequenceSpec, rows: int, *, seed: int) -> dict[str, np.ndarray]:
  """Videos of random codes: "tokens", int32 [rows, R], and their "source"."""
  rng = np.random.default_rng(seed)
  codes_BNP = rng.integers(0, spec.vocab, (rows, spec.frames, spec.frame_tokens))
  videos = [sequence.build(codes_NP, kind="video", spec=spec) for codes_NP in codes_BNP]
  return {"tokens": np.stack(videos).astype(np.int32), "source": np.zeros(rows, np.int32)}


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
    if ceiling is None and config.compute.dtype == "float32":
      yield _products(case, config, harness)


def _row(
  case: str,
  config: Pretrain,
  settings: TrainStepBench,
  harness: measure.Harness,
  ceiling: hardware.Ceiling | None,
) -> measure.Measurement:
  ours, spec = trainer(config), config.sequence
  shape = llama.required(assembly.shape(config.model))
  inputs_BT, targets_BT = sequence.split(np.asarray(ours.batch["tokens"]))
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
    measure.Side("our train step", repeated(ours.dispatch), tokens),
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
    facts=lambda rounds: {
      "parameters": parameters,
      "batch": inputs_BT.shape[0],
      "context": inputs_BT.shape[1],
      "width": shape.width,
      "depth": shape.depth,
      "threads_of_pytorch": provenance.cores(),
      "first_loss": dict(zip(("ours", "theirs"), rounds.warmup)),
      "model_flops_per_token": cost,
      **utilisation(rounds, cost, ceiling),
    },
  )


def _products(case: str, config: Pretrain, harness: measure.Harness) -> measure.Measurement:
  """One layer's products with weights and the head's: forward, and both gradients."""
  shape = llama.required(assembly.shape(config.model))
  tokens = pretrain.batch_rows(config.train.batch_tokens, config.sequence) * config.sequence.context
  d, f = shape.width, shape.mlp_dim
  sizes = [*[(d, d)] * 4, *[(d, f)] * 2, (f, d), (d, config.sequence.padded_vocab)]
  rng = np.random.default_rng(config.seed)

  def draw(*size):
    return rng.standard_normal(size, np.float32)

  # Those of one width share their inputs, as in the model, and nothing else: no
  # product is there twice.
  inputs = {width: draw(tokens, width) for width in (d, f)}
  operands = [(inputs[i], draw(i, o), draw(tokens, o)) for i, o in sizes]

  @functools.partial(jax.jit, compiler_options=step.compiler_options("cpu"))
  def both_ways(operands):
    results = []
    for x_MI, weight_IO, gradient_MO in operands:
      multiply = functools.partial(layers.product, "MI,IO->MO", on_cpu=True)
      y_MO, pull = jax.vjp(multiply, x_MI, weight_IO)
      results.append((y_MO, *pull(gradient_MO)))
    return results

  ours = jax.device_put(operands)
  gflop = sum(6e-9 * tokens * i * o for i, o in sizes)
  return harness.compare(
    measure.Side("jax.numpy", lambda: jax.block_until_ready(both_ways(ours)), gflop),
    measure.Side("torch.mm", peers.products(operands), gflop),
    case=f"{case}, products alone, float32",
    compares="the products of a layer and of the head with weights: forward and both gradients",
    unit="GFLOP",
    facts=lambda rounds: {"tokens": tokens, "inputs_and_outputs": [list(size) for size in sizes]},
  )


def utilisation(
  rounds: measure.Rounds, flops_per_token: float, ceiling: hardware.Ceiling | None
) -> dict[str, Any]:
  """MFU of both sides, of the measured peak and of the vendor's."""
  if ceiling is None:
    return {}
  facts = {"measured_peak_flops_per_s": ceiling.flops_per_s}
  vendor = flops.peak_flops_per_s(jax.devices()[0].device_kind)
  for name in ("ours", "theirs"):
    rate = measure.spread([r.per_s for r in getattr(rounds, name)]).median
    flops_per_s = rate * flops_per_token
    facts[f"mfu_of_measured_peak_{name}"] = flops_per_s / ceiling.flops_per_s
    if vendor:
      facts[f"mfu_{name}"] = flops_per_s / vendor
  return facts
