"""Frozen probing: heads of every layer and every setting in one pass.

A head is one (layer, setting); parameters have two leading axes for them. The
loss and its gradient are both made where a layer's features are, inside the
scan over layers, because nothing else needs them: the features of a layer are
gone before the next one's exist, and nothing of the backbone is kept for a
backward pass that never comes.

The gradient of a head is that of its own mean cross-entropy, as if it were
trained alone. The loss that is logged is the mean over heads.

Shapes: B rows, T tokens, L layers asked for, S settings, D width, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import sequence, tasks
from totojax.config.model import PatchesConfig
from totojax.models import heads, patched, taps, trunk
from totojax.tokenizers import patches as patches_lib


class Classify:
  """Probes on a frozen backbone, or on features made before."""

  def __init__(
    self,
    *,
    head: heads.HeadConfig,
    model: trunk.Trunk | None,
    layers: Sequence[int],
    width: int,
    classes: int,
    settings: int,
    split: bool,
    tokens: int = 0,
    patches: PatchesConfig | None = None,
  ):
    """Args:
    head: what is trained.
    model: the backbone: a batch holds `tokens`, or of a `PatchTrunk` `frames`
      and `start`. None: it holds `features` of every layer asked for.
    layers: which H_l; heads start as their layer's number says.
    width: of the features.
    classes: labels are below it.
    settings: heads of each layer; they start equal.
    split: whether the width is split over devices, as a backbone's is; what
      has any other width may not divide.
    tokens: of a row of `features`; 0: they are pooled.
    patches: of a `PatchTrunk`, what its frames are cut into.
    """
    if model is None and not tokens and head.pool != "average":
      raise ValueError(
        f"head.pool {head.pool!r} reads every token; features that are pooled"
        " already serve 'average' alone"
      )
    if model is not None:
      taps.check_layers(layers, model.config.depth)
    self.head, self.model = head, model
    self.layers, self.width = tuple(layers), width
    self.classes, self.settings, self.split = classes, settings, split
    self.tokens, self.patches = tokens, patches

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    spec = {"label": jax.ShapeDtypeStruct((batch,), jnp.int32)}
    if self.model is None:
      row = (self.tokens, self.width) if self.tokens else (self.width,)
      shape = (batch, len(self.layers), *row)
      spec["features"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    elif self.patches is not None:
      side = self.model.spec.grid * self.patches.side_px
      shape = (batch, self.model.spec.frames, side, side, 3)
      spec["frames"] = jax.ShapeDtypeStruct(shape, jnp.uint8)
      spec["start"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    else:
      shape = (batch, self.model.spec.context)
      spec["tokens"] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return spec

  def axes(self) -> tasks.Variables:
    head_axes = heads.axes(self.head, width=self.width, classes=self.classes)
    if not self.split:
      head_axes = {
        name: PartitionSpec(*("features" for _ in spec)) for name, spec in head_axes.items()
      }
    params = {name: PartitionSpec("layers", "settings", *spec) for name, spec in head_axes.items()}
    stats = {"train_loss": PartitionSpec("layers", "settings")}
    stats |= {
      name: PartitionSpec("layers", None) for name in heads.init_stats(self.head, self.width)
    }
    frozen = {}
    if self.model is not None:
      boxed = functools.partial(_boxed, self.model)
      axes = nn.get_partition_spec(jax.eval_shape(boxed, jax.random.key(0)))
      frozen = _entry_and_blocks(axes)
    return tasks.Variables(params, frozen, stats)

  def init(self, key: jax.Array) -> tasks.Variables:
    lanes = len(self.layers), self.settings

    def of_layer(layer):
      own = jax.random.fold_in(key, layer)
      return heads.init(self.head, own, width=self.width, classes=self.classes)

    params_L = jax.vmap(of_layer)(jnp.array(self.layers))
    params = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], self.settings, axis=1), params_L)
    stats = {
      name: jnp.repeat(leaf[None], len(self.layers), axis=0)
      for name, leaf in heads.init_stats(self.head, self.width).items()
    }
    stats["train_loss"] = jnp.zeros(lanes)
    frozen = {}
    if self.model is not None:
      # A fresh backbone; the builder puts a trained one in its place.
      fresh = nn.unbox(_boxed(self.model, key))
      frozen = _entry_and_blocks(fresh)
      dtype = jnp.dtype(self.model.compute.dtype)
      frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)
    return tasks.Variables(params, frozen, stats)

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    return {"ce": jnp.float32(len(batch["label"]))}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    del step, key  # nothing is drawn and nothing is scheduled
    label_B = batch["label"]

    def one_head(prepared, visual_BT, head_params):
      def summed(head_params):
        logits_BC = heads.logits(self.head, head_params, prepared, visual_BT)
        nll_B = cross_entropy(logits_BC, label_B)
        hits_B = jnp.argmax(logits_BC, -1) == label_B
        return jnp.sum(nll_B), jnp.sum(hits_B.astype(jnp.float32))

      value_and_grad = jax.value_and_grad(summed, has_aux=True)
      (loss, hits), grads = value_and_grad(head_params)
      leaves = [loss, *jax.tree.leaves(grads)]
      fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
      # A head that diverged stops learning; the others go on.
      keep = lambda x: jnp.where(fine, x, 0.0)  # noqa: E731
      return jax.tree.map(keep, (loss, hits, grads)), fine

    def of_layer(x, visual_BT, own):
      params_S, stats = own
      prepared, stats = heads.prepare(self.head, x, visual_BT, stats, training=True)
      one = lambda p: one_head(prepared, visual_BT, p)  # noqa: E731
      return heads.over_settings(self.head, one, params_S), stats

    running = {k: v for k, v in rest.stats.items() if k != "train_loss"}
    own = jax.lax.stop_gradient((params, running))
    heads_LS, stats = self._at_layers(rest.frozen, batch, of_layer, own)
    (loss_LS, hits_LS, grads), fine_LS = heads_LS
    rows = jnp.float32(len(label_B))
    loss = _with_gradient(jnp.mean(loss_LS), params, grads)
    # NaN for good: such a head is left out of what is chosen from.
    lost_LS = jnp.isnan(rest.stats["train_loss"]) | ~fine_LS
    stats = {**stats, "train_loss": jnp.where(lost_LS, jnp.nan, loss_LS / rows)}
    metrics = {
      "top1_mean": tasks.Weighted(jnp.mean(hits_LS), rows),
      "diverged_frac": tasks.Weighted(rows * jnp.mean(1.0 - fine_LS.astype(jnp.float32)), rows),
    }
    return {"ce": tasks.LossTerm(loss, 1.0)}, stats, metrics

  def outcomes(
    self, variables: tasks.Variables, batch: tasks.Batch, *, measure: tasks.Measure
  ) -> Any:
    """`measure` of every head's logits, with leading axes [L, S].

    Statistics are the running ones, so a row's logits depend on no other row.
    """

    def of_layer(x, visual_BT, own):
      params_S, stats = own
      prepared, _ = heads.prepare(self.head, x, visual_BT, stats, training=False)
      one = lambda p: measure(heads.logits(self.head, p, prepared, visual_BT))  # noqa: E731
      return heads.over_settings(self.head, one, params_S)

    running = {k: v for k, v in variables.stats.items() if k != "train_loss"}
    return self._at_layers(variables.frozen, batch, of_layer, (variables.params, running))

  def _inputs(self, batch: tasks.Batch) -> Any:
    """What the backbone reads of a batch: tokens, or the patches of its frames."""
    if self.patches is None:
      return batch["tokens"]
    frames_BNSS3 = batch["frames"]
    cut_MGGF = patches_lib.inputs(self.patches, frames_BNSS3.reshape(-1, *frames_BNSS3.shape[2:]))
    patches_BPF = cut_MGGF.reshape(len(frames_BNSS3), -1, cut_MGGF.shape[-1])
    assert self.model is not None
    short = self.model.spec.context - 1 - patches_BPF.shape[1]
    return patched.Inputs(jnp.pad(patches_BPF, ((0, 0), (0, short), (0, 0))), batch["start"])

  def _at_layers(
    self, frozen: Any, batch: tasks.Batch, of_layer: Callable[..., Any], own: Any
  ) -> Any:
    """`of_layer(features, visual, own part)` at each layer, stacked.

    A batch may hold `streams` [L, B, T, D] beside its tokens, where somebody
    else has computed them.
    """
    if "streams" in batch:
      visual_BT = sequence.is_visual(batch["tokens"])
      return jax.lax.map(
        lambda both: of_layer(both[0], visual_BT, both[1]), (batch["streams"], own)
      )
    if self.model is None:
      x_LB = jnp.swapaxes(batch["features"], 0, 1)
      if self.tokens:  # all of them count; a layer at a time, as a backbone's
        visual_BT = jnp.ones(x_LB.shape[1:3], bool)
        return jax.lax.map(lambda both: of_layer(both[0], visual_BT, both[1]), (x_LB, own))
      return jax.vmap(lambda x, mine: of_layer(x, None, mine))(x_LB, own)
    inputs = self._inputs(batch)
    visual_BT = patched.visual(self.model.spec, inputs)
    return taps.tap_layers(
      self.model,
      frozen,
      inputs,
      tap=lambda x_BTD, mine: of_layer(x_BTD, visual_BT, mine),
      layers=self.layers,
      per_layer=own,
    )


def _boxed(model: trunk.Trunk, key: jax.Array) -> Any:
  """A backbone's fresh parameters, boxed with their axis names."""
  inputs = jnp.zeros((1, model.spec.context), jnp.int32)
  if isinstance(model, patched.PatchTrunk):
    patches_BTF = jnp.zeros((1, model.spec.context - 1, model.values))
    inputs = patched.Inputs(patches_BTF, jnp.zeros(1, jnp.int32))
  return model.init(key, inputs)["params"]


def _entry_and_blocks(params: Any) -> dict[str, Any]:
  """A backbone's without what comes after the blocks, as `taps.truncate` leaves them."""
  return {name: tree for name, tree in params.items() if not name.startswith(taps.LAST)}


def cross_entropy(logits_BC: jax.Array, label_B: jax.Array) -> jax.Array:
  """Nats [B] of each row's class."""
  chex.assert_rank(logits_BC, 2)
  chex.assert_shape(label_B, logits_BC.shape[:1])
  logp_BC = jax.nn.log_softmax(logits_BC)
  return -jnp.take_along_axis(logp_BC, label_B[:, None], axis=-1)[:, 0]


@jax.custom_vjp
def _with_gradient(value: jax.Array, params: Any, grads: Any) -> jax.Array:
  """`value`, whose gradient in `params` is `grads`."""
  del params, grads
  return value


_with_gradient.defvjp(
  lambda value, params, grads: (value, grads),
  lambda grads, cotangent: (None, jax.tree.map(lambda g: cotangent * g, grads), None),
)
