"""`run = "pretrain"` from patches of pixels: Table 3's "patch" rows.

Training and validation stores are of pixels. With `patches.targets` the next
patch is predicted, else its token of `data.encode_with`, which is made on the
device in each step.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from totojax import assembly, flops, lanes as lanes_lib, sequence, sharding, step as step_lib, train
from totojax.config.model import EACH_FRAME
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.data.stream import frames, heldout, rows as rows_lib
from totojax.evals import val_loss
from totojax.jobs import pretrain, stores
from totojax.models import patched
from totojax.tasks import encode, patches as task_lib
from totojax.tokenizers import api as tokenizer_api, patches, weights


@dataclasses.dataclass(frozen=True)
class PatchTask:
  """What is trained, and what goes with it."""

  inner: task_lib.Patches  # on patches, with tokens in its batch where it predicts these
  trained: task_lib.Patches | encode.EncodeFrames  # the same, from batches of pixels alone
  fingerprint: str  # of the tokenizer, or of the patches
  frozen: Any  # host arrays of the trained task, or None


def task(config: Pretrain, backend: str = "") -> PatchTask:
  """The task of a config with `patches.inputs`.

  Raises:
    ConfigError: the tokenizer does not fit, or is missing, or too many.
  """
  spec, size, path = config.sequence, config.patches.size, config.data.encode_with
  if spec.latents != EACH_FRAME:
    raise ConfigError(
      f"the sequence has {spec.latents}; patches of pixels are one for each place of each frame:"
      " set sequence.codes, frame_factor and first_frames to 1"
    )
  from_pixels = config.patches.targets
  if from_pixels == bool(path):
    form = '""' if from_pixels else "a tokenizer file, or 'shipped'"
    raise ConfigError(
      f"config key data.encode_with is {path!r}; with patches.targets ="
      f" {from_pixels} it must be {form}"
    )
  model = assembly.model(config, backend)
  assert isinstance(model, patched.PatchTrunk)
  inner = task_lib.Patches(model, size, assembly.parametrisation(config))
  if from_pixels:
    return PatchTask(inner, inner, patches.tokenizer(size).fingerprint, None)
  tokenizer = weights.load(path)
  _check(tokenizer, spec, size.side_px)
  times = size.side_px // tokenizer.factor

  def codes(params, frames_BSS3):
    return tokenizer.codes_of(params, smaller(frames_BSS3, times))

  encoder = dataclasses.replace(tokenizer, factor=size.side_px, codes_of=codes)
  trained = encode.EncodeFrames(inner, encoder, spec=spec, keep_frames=True)
  return PatchTask(inner, trained, tokenizer.fingerprint, trained.frozen)


def _check(tokenizer: tokenizer_api.Tokenizer, spec: sequence.SequenceSpec, side: int) -> None:
  if tokenizer.latents != EACH_FRAME:
    raise ConfigError(
      f"the tokenizer of data.encode_with has {tokenizer.latents}; each patch of a frame has one"
      " token: use a tokenizer of images with one code a place"
    )
  if tokenizer.vocab != spec.vocab:
    raise ConfigError(
      f"the tokenizer of data.encode_with has {tokenizer.vocab} codes;"
      f" sequence.vocab is {spec.vocab}: make them equal"
    )
  if side % tokenizer.factor:
    raise ConfigError(
      f"patches.side_px is {side}; a token of data.encode_with is {tokenizer.factor} pixels wide:"
      " use that, or a multiple of it, so that each patch has one token"
    )


def smaller(frames_BSS3: jax.Array, times: int) -> jax.Array:
  """uint8 frames with the mean of `times` x `times` pixels as one.

  [gap] Table 3 has patches of 256 pixels a side beside tokens of 128.
  """
  if times == 1:
    return frames_BSS3
  batch, high, wide, _ = frames_BSS3.shape
  split = frames_BSS3.reshape(batch, high // times, times, wide // times, times, 3)
  mean = jnp.mean(split.astype(jnp.float32), axis=(2, 4))
  return jnp.rint(mean).astype(jnp.uint8)


def pretraining(config: Pretrain, lanes: lanes_lib.Lanes | None = None) -> train.Run:
  """Everything that `train.fit` needs.

  Args:
    config: of `run = "pretrain"` with `patches.inputs`.
    lanes: several learning rates in place of the config's.
  """
  goal = task(config)
  spec, side = goal.inner.spec, goal.inner.config.side_px
  layout, size = sharding.layout(config.mesh), config.train
  batch = pretrain.batch_rows(size.batch_tokens, spec)
  training = stores.open_sources(config, spec, pixels=True)
  held_out = stores.open_validation(config, spec, pixels=True)
  heldout.check_disjoint(training, held_out)
  dataset = frames.clips_stream(
    training,
    factor=side,
    seq=spec,
    seed=config.seed,
    batch=batch,
    host=jax.process_index(),
    hosts=jax.process_count(),
  )
  sources = stores.validation_batches(
    held_out, spec=spec, rows=config.validation.rows, batch=batch, factor=side
  )
  sums = assembly.position_sums(functools.partial(nll, goal), layout, spec.frame_tokens)

  def validate(state: step_lib.TrainState):
    arrays = (state.params, state.frozen)
    return val_loss.scalars(val_loss.evaluate(sums, arrays, sources))

  model = goal.inner.model
  rows = spec.vocab if model.predicts == "tokens" else model.values
  cost = 6 * (
    flops.forward_macs_per_token(model.config, vocab=rows, context=spec.context)
    + model.values * model.config.width
  )
  shapes = jax.eval_shape(goal.inner.init, jax.random.key(0)).params
  config, program, fitted = pretrain.build(
    config,
    task=goal.trained,
    steps=flops.steps(size.total_tokens, batch * spec.context),
    rows=batch,
    layout=layout,
    rules=goal.inner.rules,
    lanes=lanes,
  )
  if lanes is None:  # a sweep's runs are alike
    pretrain.tell_data(config, training, steps=program.steps, batch=batch)
  return assembly.run(
    program,
    batches=assembly.reader(config.data.reading, dataset),
    evals={"": validate} if held_out else {},
    facts={
      "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
      "flops_per_token": cost,
      "sources": {s.name: len(s.store) for s in training},
      "tokenizer": goal.fingerprint,
      "predicts": model.predicts,
      **fitted,
    },
    data=rows_lib.identities(train=training, validation=held_out),
    tokens_per_step=batch * spec.context,
    flops_per_token=cost,
    frozen=goal.frozen,
  )


def nll(
  task: PatchTask, arrays: tuple[Any, Any], batch: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
  """Loss [B, T] of every target, and where it counts.

  Args:
    task: what is evaluated.
    arrays: its parameters and frozen arrays.
    batch: of pixels; tokens are made of it where these are predicted.
  """
  params, frozen = arrays
  if isinstance(task.trained, encode.EncodeFrames):
    tokens_BR = task.trained.tokens(frozen["tokenizer"], batch)
    batch = {**batch, "tokens": tokens_BR}
  return task.inner.per_target(params, batch)
