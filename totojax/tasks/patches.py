"""Prediction from patches of pixels: Table 3's "patch" rows.

Each row of the trunk sees the patches before and predicts the next one: its
pixels, normalised by the patch's own mean and variance (regression), or the
code that a tokenizer gives it (`encode.EncodeFrames` adds the tokens). The
sequence is that of `sequence.py`, with patches where it has visual tokens.

Shapes: B rows, N frames, S pixels of a side, P patches of a frame, T context,
F values of a patch, R = T + 1 tokens of a row.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from totojax import sequence, tasks, tree as tree_lib
from totojax.models import patched
from totojax.optim import mup
from totojax.tasks import pretrain
from totojax.tokenizers import patches


class Patches(pretrain.OfModel):
  """Mean squared error of the next patch, or nats of its token."""

  def __init__(
    self,
    model: patched.PatchTrunk,
    config: patches.PatchesConfig,
    parametrisation: mup.Parametrisation | None = None,
  ):
    """`parametrisation`: µP's, for a model with its scales; None: standard.

    Raises:
      ValueError: rows see what they are to predict, or images are hidden from
        each other, which needs tokens.
    """
    if model.config.prefix_tokens not in (0, 1):
      raise ValueError(
        f"model.prefix_tokens {model.config.prefix_tokens} shows patches what"
        " they are to predict; use 0"
      )
    if model.spec.segments:
      raise ValueError(
        "sequence.segments is for rows of tokens; set it to False, or"
        " sequence.frames to 1: one image in a row"
      )
    if model.spec.train_end:
      raise ValueError("sequence.train_end is of tokens, and no patch is an end; set it to False")
    self.config = config
    self.term = "nll" if model.predicts == "tokens" else "mse"
    super().__init__(model, parametrisation)

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    side = self.spec.grid * self.config.side_px
    shapes = {
      "frames": ((batch, self.spec.frames, side, side, 3), jnp.uint8),
      "start": ((batch,), jnp.int32),
      "source": ((batch,), jnp.int32),
    }
    if self.model.predicts == "tokens":
      shapes["tokens"] = ((batch, self.spec.row_tokens), jnp.int32)
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def boxed(self, key: jax.Array) -> Any:
    shape = (1, self.spec.context - 1, self.model.values)
    none = patched.Inputs(jnp.zeros(shape), jnp.zeros(1, jnp.int32))
    return self.model.init(key, none)["params"]

  def counted(self, batch: tasks.Batch) -> jax.Array:
    """bool [B, T]: the rows whose next token is a patch of a real frame.

    All frames are real but where a batch says how many are ("here").
    """
    rows, frames = batch["frames"].shape[:2]
    here_B = batch.get("here", jnp.full(rows, frames))
    places_T = jnp.arange(self.spec.context)
    return places_T[None] < here_B[:, None] * self.spec.frame_tokens

  def per_target(self, params: Any, batch: tasks.Batch) -> tuple[jax.Array, jax.Array]:
    frames_MSS3 = batch["frames"].reshape(-1, *batch["frames"].shape[2:])
    cut_MGGF = patches.inputs(self.config, frames_MSS3)
    next_BTF = self._row(cut_MGGF, batch)
    inputs = patched.Inputs(next_BTF[:, :-1], batch["start"])
    if self.model.predicts == "tokens":
      _, targets = sequence.split(batch["tokens"])
    else:
      values_MGGF = patches.targets(self.config, cut_MGGF).values_BGGF
      targets = self._row(values_MGGF, batch)
    loss_BT = tree_lib.apply(self.model, params, inputs, targets)
    return loss_BT, self.counted(batch)

  def _row(self, patches_MGGF: jax.Array, batch: tasks.Batch) -> jax.Array:
    """The first T patches [B, T, F] of each row, in raster order."""
    rows, context = batch["frames"].shape[0], self.spec.context
    all_BPF = patches_MGGF.reshape(rows, -1, patches_MGGF.shape[-1])
    short = max(0, context - all_BPF.shape[1])
    return jnp.pad(all_BPF, ((0, 0), (0, short), (0, 0)))[:, :context]
