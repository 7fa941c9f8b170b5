"""Typed parts that several kinds of run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import importlib
from typing import Any

import jax
import optax

from totojax import checkpoint
from totojax import lanes as lanes_lib
from totojax import sequence
from totojax import sharding
from totojax import step as step_lib
from totojax import train
from totojax.config.typed import ConfigError
from totojax.config.typed import typed
from totojax.data.stream import mixture
from totojax.models import architecture
from totojax.models import layers
from totojax.models import patched
from totojax.models import platform
from totojax.models import splash
from totojax.models import trunk
from totojax.optim import adamw
from totojax.optim import mup
from totojax.rundir import metrics
from totojax.tasks import api
from totojax.tokenizers import patches as patches_lib

Section = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Share:
  """A store that is trained on.

  Attributes:
    path: its folder.
    weight: its share of each batch (any positive number).
  """

  path: str
  weight: float


def shares(config: Section, *, example: str) -> dict[str, Share]:
  """The stores of `data.train`, by name.

  Raises:
    ConfigError: there is none (`example` says which config has some), or one
      has no path.
  """
  section = config["data"]["train"]
  if not section:
    raise ConfigError(
        "config key data.train is empty; name at least one store, as"
        f" {example} does"
    )
  found = {
      name: typed(Share, value, f"data.train.{name}")
      for name, value in section.items()
  }
  for name, share in found.items():
    if not share.path:
      raise ConfigError(
          f"config key data.train.{name}.path is empty; set it to the folder of"
          " a store"
      )
  return found


def sequence_spec(config: Section) -> sequence.SequenceSpec:
  return typed(sequence.SequenceSpec, config["sequence"], "sequence")


def compute(
    section: Section, *, depth: int, context: int, backend: str
) -> trunk.Compute:
  """Fills in what "auto" and 0 mean on a backend: "cpu", "gpu" or "tpu"."""
  chosen = dict(section)
  if chosen["attention"] == "auto":
    chosen["attention"] = "blocked" if backend == "cpu" else "xla"
    if backend == "tpu" and splash.fits(context):
      chosen["attention"] = "splash"
    if backend == "gpu" and chosen["dtype"] == "bfloat16":
      chosen["attention"] = "cudnn"  # which has no float32
  if chosen["remat"] == "auto":
    chosen["remat"] = "none" if backend == "cpu" else "full"
  if chosen["unroll"] == 0:
    # XLA for CPU does not optimise across the iterations of a scan, and a GPU
    # copies what a scan stacks: base took 150 ms in line and 185 with one, on
    # an H200. A TPU's compiler keeps up, and compiles a scan sooner.
    chosen["unroll"] = 1 if backend == "tpu" else depth
  return typed(
      trunk.Compute, chosen, "compute", platform=platform.find(backend)
  )


# Architecture -> "module:class" of its config, imported when it is asked for.
ARCHITECTURES = {
    "llama": "totojax.models.llama:LlamaConfig",
    "gpt2": "totojax.models.gpt2:Gpt2Config",
    "mamba": "totojax.models.mamba:MambaConfig",
}


def shape(config: Section) -> architecture.Architecture:
  """The section `model`, of the architecture that the config names.

  Runs from before there was a choice name none; they are LLaMAs.

  Raises:
    ConfigError: an unknown architecture, or another one's keys.
  """
  name = config["architecture"] if "architecture" in config else "llama"
  if name not in ARCHITECTURES:
    *others, last = map(repr, ARCHITECTURES)
    raise ConfigError(
        f"config key architecture is {name!r}; use {', '.join(others)} or"
        f" {last}, with the keys of `defaults.use` in section model"
    )
  module, _, cls = ARCHITECTURES[name].partition(":")
  cls = getattr(importlib.import_module(module), cls)
  if not cls.segments and config["sequence"]["segments"]:
    raise ConfigError(
        "sequence.segments hides images from each other with a mask of"
        f" attention, and {name.capitalize()} has none; set it to False"
    )
  return typed(cls, config["model"], "model")


def model(config: Section, backend: str = "") -> trunk.Trunk:
  """The model for a backend: "cpu", "gpu", "tpu", or "" for the one here.

  With `patches.inputs` it is a `patched.PatchTrunk`.
  """
  of = shape(config)
  scales = layers.STANDARD
  chosen = parametrisation(config)
  if chosen is not None:
    scales = layers.Scales(attention=chosen.attention, logits=chosen.logits)
  spec = sequence_spec(config)
  make = trunk.Trunk
  pixels = patches(config)
  if pixels is not None:
    make = functools.partial(
        patched.PatchTrunk,
        values=3 * pixels.side_px**2,
        predicts="patches" if pixels.targets else "tokens",
    )
  return make(
      config=of,
      spec=spec,
      compute=compute(
          config["compute"],
          depth=of.depth,
          context=spec.context,
          backend=backend or jax.default_backend(),
      ),
      scales=scales,
  )


@dataclasses.dataclass(frozen=True)
class Patches:
  """Table 3's continuous inputs.

  Attributes:
    inputs: patches of pixels in place of tokens.
    targets: the next patch, normalised, in place of the next token.
    side_px: pixels of a patch's side.
    eps: as `tokenizers.patches.PatchesConfig`.
  """

  inputs: bool
  targets: bool
  side_px: int
  eps: float

  @property
  def size(self) -> patches_lib.PatchesConfig:
    return patches_lib.PatchesConfig(side_px=self.side_px, eps=self.eps)

  def __post_init__(self):
    if self.targets and not self.inputs:
      raise ValueError(
          "patches.targets is True and patches.inputs False; patches are"
          " predicted from patches: set both"
      )


def patches(config: Section) -> Patches | None:
  """What is predicted from patches; None for a model of tokens.

  Runs from before there was a choice do not have the section.
  """
  if "patches" not in config:
    return None
  chosen = typed(Patches, config["patches"], "patches")
  return chosen if chosen.inputs else None


def check_tokens(config: Section, what: str) -> None:
  """Raises ConfigError where the model is one of patches."""
  if patches(config) is not None:
    raise ConfigError(
        f"config key patches.inputs is True; {what} is for models of tokens"
        " only: use a run with patches.inputs=False"
    )


def parametrisation(config: Section) -> mup.Parametrisation | None:
  """µP for this model, or None for the standard parametrisation."""
  if "mup" not in config:
    raise ConfigError("config section mup is missing; set mup.on and the rest")
  chosen = typed(mup.MupConfig, config["mup"], "mup")
  if not chosen.on:
    return None
  of = shape(config)
  growth = of.growth(
      base_width=chosen.base_width,
      base_heads=chosen.base_heads,
      base_mlp_dim=chosen.base_mlp_dim,
  )
  return mup.parametrise(
      chosen,
      growth,
      depth=of.depth,
      init_std=of.init_std,
      starts_smaller=of.starts_smaller,
  )


def layout(
    config: Section, devices: list[Any] | None = None
) -> sharding.Layout:
  """Over `devices`; None: over all that are here."""
  chosen = typed(sharding.MeshConfig, config["mesh"], "mesh")
  return sharding.Layout(sharding.make_mesh(chosen, devices))


@dataclasses.dataclass(frozen=True)
class Optimiser:
  """What makes updates, and what the log says of it.

  Attributes:
    tx: its numbers lie in `hyperparams` of its state.
    rate: (opt_state, update) -> learning rate of that update.
  """

  tx: optax.GradientTransformationExtraArgs
  rate: Callable[[Any, jax.Array], jax.Array]


def _adamw(
    config: Section, task: api.Task, steps: int, rules: Any
) -> Optimiser:
  chosen = typed(adamw.AdamWConfig, config["optim"], "optim")
  return Optimiser(
      adamw.make(chosen, axes=task.axes().params, steps=steps, rules=rules),
      lambda opt_state, update: adamw.learning_rate(
          chosen, opt_state, update=update, steps=steps
      ),
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """The train step of a config, ready to be compiled.

  Attributes:
    step_fn: of `step.jit_step`.
    make: key -> state.
    shapes: of the state.
    placed: its shardings.
  """

  step_fn: Callable[..., Any]
  make: Callable[[jax.Array], step_lib.TrainState]
  shapes: step_lib.TrainState
  placed: step_lib.TrainState


def program(
    config: Section,
    *,
    task: api.Task,
    steps: int,
    rows: int,
    microbatches: int,
    layout: sharding.Layout,
    rules: Any = None,
    lanes: lanes_lib.Lanes | None = None,
    optimiser: Optimiser | None = None,
) -> Program:
  """Joins a task, an optimiser and a layout into a train step; see `run`."""
  sharding.check_batch(rows, microbatches=microbatches, mesh=layout.mesh)
  if optimiser is None:
    optimiser = _adamw(config, task, steps, rules)
  tx = optimiser.tx
  placed, shapes = step_lib.state_shardings(task, tx, layout)
  one_step = functools.partial(
      step_lib.train_step,
      task=task,
      tx=tx,
      rate=optimiser.rate,
      seed=config["seed"],
      microbatches=microbatches,
  )
  make = functools.partial(step_lib.init_state, task, tx)
  if lanes is not None:
    one_step = lanes_lib.step(one_step, lanes)
    make = lanes_lib.init(make, lanes)
    placed, shapes = lanes_lib.state(placed, make)
  step_fn = step_lib.jit_step(one_step, shardings=placed, layout=layout)
  return Program(step_fn=step_fn, make=make, shapes=shapes, placed=placed)


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
    layout: sharding.Layout,
    frozen: Any = None,
    rules: Any = None,
    lanes: lanes_lib.Lanes | None = None,
    optimiser: Optimiser | None = None,
    start: Callable[[Any], Any] | None = None,
) -> train.Run:
  """Joins a task, an optimiser and a layout into what `train.fit` needs.

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
    layout: of the state and the batches.
    frozen: host arrays that take the place of the task's own frozen arrays,
      where these are too large to be constants of a compiled program.
    rules: µP's, a `mup.Rule` for every parameter.
    lanes: several learning rates in place of the config's.
    optimiser: in place of the config's AdamW.
    start: fresh parameters -> those that the run starts from, where another
      run's are among them.
  """
  made = program(
      config, task=task, steps=steps, rows=rows, microbatches=microbatches,
      layout=layout, rules=rules, lanes=lanes, optimiser=optimiser,
  )  # fmt: skip
  make, placed = made.make, made.placed
  if lanes is not None:
    evals = lanes_lib.evals(evals, lanes)

  whole_state = jax.jit(make, out_shardings=placed)

  def init():
    state = fresh()
    return state if start is None else state.replace(params=start(state.params))

  def fresh():
    key = jax.random.key(config["seed"])
    if frozen is None:
      return whole_state(key)
    bare = jax.jit(
        lambda key: make(key).replace(frozen={}),
        out_shardings=placed.replace(frozen={}),
    )
    return bare(key).replace(frozen=jax.device_put(frozen, placed.frozen))

  device = jax.devices()[0].device_kind
  return train.Run(
      init=init,
      step_fn=made.step_fn,
      batches=batches,
      layout=layout,
      shapes=made.shapes,
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
          "mesh": dict(layout.mesh.shape),
          "steps": steps,
          "tokens_per_step": tokens_per_step,
          **facts,
      },
      clock=lambda: metrics.Clock(
          tokens_per_step=tokens_per_step,
          flops_per_token=flops_per_token,
          devices=len(jax.devices()),
          device_kind=device,
      ),
  )


def reader(config: Section, dataset: Any) -> Callable[[int], Any]:
  """First step -> iterator of host batches, read ahead as `data.reading`."""
  reading = typed(mixture.Reading, config["data"]["reading"], "data.reading")
  return lambda first_step: mixture.host_batches(
      dataset, first_step, reading=reading
  )
