"""From a typed config to what is trained: model, optimiser, program, run."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import importlib
import inspect
from typing import Any, Protocol, TYPE_CHECKING

import jax
import optax

from totojax import checkpoint, plugins, sharding, step as step_lib, tasks, train
from totojax.config import model as model_config, pretrain as pretrain_config, schema
from totojax.config.schema import ConfigError
from totojax.data.stream import mixture
from totojax.evals import val_loss
from totojax.models import architecture as architecture_lib, layers, platform, trunk
from totojax.optim import adamw
from totojax.rundir import metrics, provenance

if TYPE_CHECKING:
  from totojax import lanes as lanes_lib
  from totojax.optim import mup


class Trains(schema.Dataclass, Protocol):
  """What of the config of a job that trains is read here.

  Its `optim` is an `AdamWConfig` where the job brings no optimiser of its own.
  """

  seed: int
  optim: Any
  every: train.Every
  checkpoint: checkpoint.CheckpointConfig


def compute(
  section: model_config.Compute, *, depth: int, context: int, backend: str
) -> trunk.Compute:
  """Fills in what "auto" and 0 mean on a backend: "cpu", "gpu" or "tpu"."""
  # What is fastest there, of what gives the same numbers beyond rounding.
  keys = schema.to_dict(section)
  if section.attention == "auto":
    keys["attention"] = "blocked" if backend == "cpu" else "xla"
    if backend == "tpu" and platform.splash_fits(context):
      keys["attention"] = "splash"
    if backend == "gpu" and section.dtype == "bfloat16":
      keys["attention"] = "cudnn"  # which has no float32
  # A chip's memory is what limits its batch; a host's is not.
  if section.remat == "auto":
    keys["remat"] = "none" if backend == "cpu" else "full"
  if section.unroll == 0:
    # XLA for CPU does not optimise across the iterations of a scan, and a GPU
    # copies what a scan stacks: base took 150 ms in line and 185 with one, on
    # an H200. A TPU's compiler keeps up, and compiles a scan sooner.
    keys["unroll"] = 1 if backend == "tpu" else depth
  return trunk.Compute(**keys, platform=platform.find(backend))


def shape(section: model_config.Model) -> architecture_lib.Architecture:
  """The architecture of a section `model`, which is imported only now."""
  if isinstance(section, architecture_lib.Architecture):
    return section  # of a user's own
  if not hasattr(section, "architecture"):
    raise ConfigError(
      f"{type(section).__name__} is a section of keys, and no"
      " models.architecture.Architecture; derive it from that class"
    )
  module, _, name = section.architecture.partition(":")
  cls = getattr(importlib.import_module(module), name)
  return cls(**schema.to_dict(section))


def model(config: pretrain_config.Pretrain, backend: str = "") -> trunk.Trunk:
  """The model for a backend: "cpu", "gpu", "tpu", or "" for the one here.

  With `patches.inputs` it is a `patched.PatchTrunk`.
  """
  architecture = shape(config.model)
  users = architecture is config.model  # and none of ours
  scales = layers.STANDARD
  rule = parametrisation(config)
  if rule is not None:
    scales = layers.Scales(attention=rule.attention, logits=rule.logits)
  make = trunk.Trunk
  if config.patches.inputs:
    from totojax.models import patched  # Table 3 alone reads patches

    make = functools.partial(
      patched.PatchTrunk,
      values=3 * config.patches.side_px**2,
      predicts="patches" if config.patches.targets else "tokens",
      decayed=config.patches.decay,
    )
  made = make(
    config=architecture,
    spec=config.sequence,
    compute=compute(
      config.compute,
      depth=architecture.depth,
      context=config.sequence.context,
      backend=backend or jax.default_backend(),
    ),
    scales=scales,
  )
  if users and not config.patches.inputs:
    _try_blocks(made)
  return made


def _try_blocks(model: trunk.Trunk) -> None:
  """Raises PluginError where the blocks of a user's architecture do not fit."""
  shape_BT = 2, model.spec.context
  with plugins.users(
    inspect.getfile(type(model.config)), f"the architecture fails at tokens {[*shape_BT]}"
  ):
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape_BT, "int32"))


def check_tokens(config: pretrain_config.Pretrain, what: str) -> None:
  """Raises ConfigError where the model is one of patches."""
  if config.patches.inputs:
    raise ConfigError(
      f"config key patches.inputs is True; {what} is for models of tokens"
      " only: use a run with patches.inputs=False"
    )


def parametrisation(config: pretrain_config.Pretrain) -> "mup.Parametrisation | None":
  """µP for this model, or None for the standard parametrisation."""
  section = config.mup
  if not section.on:
    return None
  from totojax.optim import mup

  # [gap] The paper gives µP's widths and rates (Figure 11) and no base model.
  architecture = shape(config.model)
  growth = architecture.growth(
    base_width=section.base_width, base_heads=section.base_heads, base_mlp_dim=section.base_mlp_dim
  )
  if architecture.starts_smaller:  # its blocks do `depth_init` by themselves
    section = dataclasses.replace(section, depth_init=False)
  if getattr(architecture, "qk_norm", False):  # of zeros it has no gradient to speak of
    section = dataclasses.replace(section, zero_query=False)
  return mup.Parametrisation(section, growth, architecture.depth, architecture.init_std)


@dataclasses.dataclass(frozen=True)
class Optimiser:
  """What makes updates, and what the log says of it."""

  tx: optax.GradientTransformationExtraArgs  # its numbers lie in `hyperparams` of its state
  rate: Callable[[Any, jax.Array], jax.Array]  # (opt_state, update) -> learning rate of that update
  at: Callable[[Any, Any], Any] | None = None  # see `step.train_step`


@dataclasses.dataclass(frozen=True)
class Program:
  """The train step of a config, ready to be compiled."""

  config: Trains  # of a job that trains
  task: tasks.Task  # what is trained
  steps: int  # updates
  layout: sharding.Layout  # of the state and the batches
  lanes: "lanes_lib.Lanes | None"  # several learning rates in place of the config's
  step_fn: Callable[..., Any]  # of `step.jit_step`
  make: Callable[[jax.Array], step_lib.TrainState]  # key -> state
  shapes: step_lib.TrainState  # of the state
  shardings: step_lib.TrainState  # its shardings

  def init(self, frozen: Any, start: Callable[[Any], Any] | None) -> step_lib.TrainState:
    """A fresh state on the devices; see `run`."""
    key = jax.random.key(self.config.seed)
    # Made in place, each device its part: a model may fit no device as a whole.
    if frozen is None:
      state = jax.jit(self.make, out_shardings=self.shardings)(key)
    else:
      # Put there as they are: as constants they would be in the program.
      bare = jax.jit(
        lambda key: self.make(key).replace(frozen={}),
        out_shardings=self.shardings.replace(frozen={}),
      )
      state = bare(key).replace(frozen=jax.device_put(frozen, self.shardings.frozen))
    # Another run's parameters take the place of fresh ones; step and moments
    # are this run's.
    return state if start is None else state.replace(params=start(state.params))


def program(
  config: Trains,
  *,
  task: tasks.Task,
  steps: int,
  rows: int,
  microbatches: int,
  layout: sharding.Layout,
  rules: Any = None,
  lanes: "lanes_lib.Lanes | None" = None,
  optimiser: Optimiser | None = None,
) -> Program:
  """Joins a task, an optimiser and a layout into a train step.

  Args:
    config, task, steps, layout, lanes: as `Program` has them.
    rows: of the global batch.
    microbatches: parts of a batch.
    rules: µP's, a `mup.Rule` for every parameter.
    optimiser: in place of the config's AdamW.
  """
  # Before anything is traced: the mesh must divide every microbatch.
  sharding.check_batch(rows, microbatches=microbatches, mesh=layout.mesh)
  if optimiser is None:
    rate = functools.partial(adamw.learning_rate, config.optim, steps=steps)
    optimiser = Optimiser(
      adamw.make(config.optim, axes=task.axes().params, steps=steps, rules=rules),
      lambda opt_state, update: rate(opt_state, update=update),
      adamw.gradient_at(config.optim),
    )
  tx = optimiser.tx
  make = functools.partial(step_lib.init_state, task, tx)
  shardings, shapes = step_lib.state_shardings(task, tx, layout, make)
  one_step = functools.partial(
    step_lib.train_step,
    task=task,
    tx=tx,
    rate=optimiser.rate,
    seed=config.seed,
    microbatches=microbatches,
    at=optimiser.at,
  )
  # A sweep's lanes are an axis around the step, which knows nothing of them.
  if lanes is not None:
    from totojax import lanes as lanes_lib  # of sweeps alone

    one_step = lanes_lib.step(one_step, lanes)
    make = lanes_lib.init(make, lanes)
    shardings, shapes = lanes_lib.state(shardings, make)
  step_fn = step_lib.jit_step(one_step, shardings=shardings, layout=layout)
  return Program(config, task, steps, layout, lanes, step_fn, make, shapes, shardings)


def run(
  built: Program,
  *,
  batches: Callable[[int], Any],
  evals: Mapping[str, train.Eval],
  facts: Mapping[str, Any],
  data: provenance.Identities,
  tokens_per_step: int,
  flops_per_token: float,
  closing: Callable[[metrics.Evaluations], Iterable[str]] = lambda evals: (),
  frozen: Any = None,
  start: Callable[[Any], Any] | None = None,
  branch: train.Branch | None = None,
) -> train.Run:
  """Adds to a train step what `train.fit` needs beside it.

  Args:
    built: what is trained.
    batches: first step -> this host's batches from there on.
    evals: name -> evaluation.
    facts: for manifest.json.
    data: what is read, by config key.
    tokens_per_step: for the rate.
    flops_per_token: for the MFU; 0 where it is not known.
    closing: what to say of the evaluations when the run has ended.
    frozen: host arrays that take the place of the task's own frozen arrays,
      where these are too large to be constants of a compiled program.
    start: fresh parameters -> those that the run starts from, where another
      run's are among them.
    branch: where another run's state is, which a fresh one begins with.
  """
  config, steps = built.config, built.steps
  if built.lanes is not None:
    from totojax import lanes as lanes_lib

    evals = lanes_lib.evals(evals, built.lanes)
  mesh = dict(built.layout.mesh.shape)
  return train.Run(
    init=lambda: built.init(frozen, start),
    step_fn=built.step_fn,
    batches=batches,
    layout=built.layout,
    shapes=built.shapes,
    shardings=built.shardings,
    steps=steps,
    every=config.every,
    evals=evals,
    checkpoint=config.checkpoint,
    meta={"task": type(built.task).__name__},
    config=config,
    data=data,
    closing=closing,
    branch=branch,
    facts={"mesh": mesh, "steps": steps, "tokens_per_step": tokens_per_step, **facts},
    # Made as the loop begins: building and restoring are not in its rate.
    clock=lambda: metrics.Clock(
      tokens_per_step=tokens_per_step,
      flops_per_token=flops_per_token,
      devices=len(jax.devices()),
      device_kind=jax.devices()[0].device_kind,
    ),
  )


def reader(reading: mixture.Reading, dataset: Any) -> Callable[[int], Any]:
  """First step -> iterator of host batches, read ahead."""
  return lambda first_step: mixture.host_batches(dataset, first_step, reading=reading)


def everywhere(
  function: Callable[..., Any], layout: sharding.Layout, *, static: tuple[str, ...] = ()
) -> Callable[..., Any]:
  """`function(*args, batch)` as one program: an evaluation of rows.

  Args:
    function: its last positional argument is a global batch.
    layout: whose batch axes divide the rows.
    static: names of keyword arguments that are constants of the program.

  Returns:
    The same of this host's rows; what it gives is whole on every host.
  """
  compute = layout.jit(function, static_argnames=static)

  def call(*args, **more):
    *args, batch = args
    return compute(*args, layout.place(batch), **more)

  return call


def position_sums(
  nll: Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, jax.Array]],
  layout: sharding.Layout,
  frame_tokens: int,
) -> Callable[[Any, Mapping[str, Any]], val_loss.Sums]:
  """(params, this host's rows) -> sums over the global batch, on every host.

  Args:
    nll: (params, batch) -> float32 nats [B, T] of every target, and bool [B, T]
      where it counts.
    layout: where it is computed.
    frame_tokens: targets of a frame.
  """

  def sums(params, batch):
    return val_loss.batch_sums(*nll(params, batch), frame_tokens=frame_tokens)

  return everywhere(sums, layout)
