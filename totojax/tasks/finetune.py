"""Full fine-tuning for classification (Table 13, appendix A.2; Table 12).

As MAE does it, the mean over visual tokens of the residual stream after the last
block goes through a LayerNorm and a linear layer; or section 3.5's attention
probe reads it. Everything is trained. The final norm and the output head of
pre-training have no use and are not here, but where the next-token loss is
trained on beside the classes.

Shapes: B rows, T tokens, D width, C classes.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import sequence, tasks, tree as tree_lib
from totojax.config.labels import FineTuneConfig, HeadConfig
from totojax.models import heads as heads_lib, layers, taps, trunk
from totojax.optim import layered
from totojax.tasks import mix, pretrain


class FineTune:
  """Parameters are {"backbone": embedding and blocks, "heads": the head}.

  With a next-token loss the backbone is a whole `Trunk`'s.
  """

  def __init__(
    self,
    backbone: pretrain.Pretrain,
    model: trunk.Trunk,
    config: FineTuneConfig,
    *,
    classes: int,
    smoothing: float = 0.0,
  ):
    """Args:
    backbone: the parameters, as pre-training has them.
    model: the same with any mask; its inputs are whole clips.
    config: the head and the drop path.
    classes: labels are below it.
    smoothing: of the target, where a batch brings none.
    """
    self.backbone, self.model, self.config = backbone, model, config
    self.spec, self.classes, self.smoothing = model.spec, classes, smoothing
    if config.positions:
      own = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
      self.model = _Placed(**{name: own[name] for name in own.keys() - {"parent", "name"}})
    self.probe = None
    if config.pool == "attention":
      head = HeadConfig(
        pool="attention",
        heads=config.heads,
        init_std=config.head_init_std,
        norm_eps=config.norm_eps,
      )
      self.probe = heads_lib.filled(head, model.config)
    # What is used of a backbone's parameters.
    self.select = (lambda params: params) if config.next_token else trunk_params

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    return tasks.labelled(batch, self.spec.row_tokens)

  def axes(self) -> tasks.Variables:
    stats = {"train_loss": PartitionSpec(None, None)}
    if self.probe is None:
      head = {
        "norm_scale": PartitionSpec("norm"),
        "norm_bias": PartitionSpec("norm"),
        "linear": PartitionSpec("embed", "classes"),
        "bias": PartitionSpec("classes"),
      }
    else:
      width = self.model.config.width
      head = heads_lib.axes(self.probe, width=width, classes=self.classes)
      stats |= {name: PartitionSpec(None) for name in heads_lib.init_stats(self.probe, width)}
    params = {layered.BACKBONE: self.select(self.backbone.axes().params), layered.HEADS: head}
    if self.config.positions:
      params[layered.BACKBONE]["positions"] = PartitionSpec(None, "embed")
    return tasks.Variables(params, {}, stats)

  def init(self, key: jax.Array) -> tasks.Variables:
    width, own = self.model.config.width, jax.random.fold_in(key, 1)
    stats = {"train_loss": jnp.zeros((1, 1))}
    if self.probe is None:
      shape = (width, self.classes)
      linear_DC = self.config.head_init_std * jax.random.truncated_normal(own, -2.0, 2.0, shape)
      head = {
        "norm_scale": jnp.ones(width),
        "norm_bias": jnp.zeros(width),
        "linear": linear_DC,
        "bias": jnp.zeros(self.classes),
      }
    else:
      head = heads_lib.init(self.probe, own, width=width, classes=self.classes)
      stats |= heads_lib.init_stats(self.probe, width)
    params = {layered.BACKBONE: self.select(self.backbone.init(key).params), layered.HEADS: head}
    if self.config.positions:
      params[layered.BACKBONE]["positions"] = jnp.zeros((self.spec.row_tokens - 1, width))
    return tasks.Variables(params, {}, stats)

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    weights = {"ce": jnp.float32(len(batch["label"]))}
    return {**weights, **self.backbone.weights(batch)} if self.config.next_token else weights

  def logits(
    self, params: Any, tokens_BR: jax.Array, *, key: jax.Array | None, stats: Any = None
  ) -> jax.Array:
    """float32 [B, C]; `key` draws what is dropped, None drops nothing.

    An attention probe takes the running statistics in `stats`.
    """
    inputs_BT, _ = sequence.split(tokens_BR)
    x_BTD = self._residual(params, inputs_BT, key)
    return self._head(params[layered.HEADS], x_BTD, inputs_BT, stats, training=False)[0]

  def _residual(self, params: Any, inputs_BT: jax.Array, key: jax.Array | None) -> jax.Array:
    """H_depth [B, T, D]."""
    paths = None
    if key is not None and self.config.drop_path:
      paths = layers.kept_paths(
        key, rows=len(inputs_BT), depth=self.model.config.depth, drop=self.config.drop_path
      )
    return taps.residual(self.model, params[layered.BACKBONE], inputs_BT, kept_L2B=paths)

  def _head(
    self, head: Any, x_BTD: jax.Array, inputs_BT: jax.Array, stats: Any, *, training: bool
  ) -> tuple[jax.Array, Any]:
    """float32 logits [B, C], and the statistics after this batch."""
    visual_BT = sequence.is_visual(inputs_BT)
    if self.probe is not None:
      prepared, stats = heads_lib.prepare(self.probe, x_BTD, visual_BT, stats, training=training)
      return heads_lib.logits(self.probe, head, prepared, visual_BT), stats
    pooled_BD = heads_lib.mean_over_tokens(x_BTD, visual_BT)
    normed_BD = heads_lib.layer_norm(pooled_BD, self.config.norm_eps)
    normed_BD = normed_BD * head["norm_scale"] + head["norm_bias"]
    return normed_BD @ head["linear"] + head["bias"], {}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    """Cross-entropy with `target` [B, C], which sums to 1 over classes.

    Without one it is the smoothed label.
    """
    del step
    inputs_BT, targets_BT = sequence.split(batch["tokens"])
    terms = {}
    if self.config.next_token:
      nll_BT, variables = tree_lib.apply(
        self.model, params[layered.BACKBONE], inputs_BT, targets_BT, mutable=["intermediates"]
      )
      nll = jnp.sum(jnp.where(sequence.is_visual(targets_BT), nll_BT, 0.0))
      terms["nll"] = tasks.LossTerm(nll, self.config.next_token)
      (streams,) = variables["intermediates"]["blocks"]["residual"]
      x_BTD = streams[-1]
    else:
      x_BTD = self._residual(params, inputs_BT, key)
    running = {name: leaf for name, leaf in rest.stats.items() if name != "train_loss"}
    logits_BC, running = self._head(params[layered.HEADS], x_BTD, inputs_BT, running, training=True)
    logp_BC = jax.nn.log_softmax(logits_BC)
    target_BC = batch.get("target")
    if target_BC is None:
      target_BC = mix.smoothed(batch["label"], self.classes, self.smoothing)
    total = -jnp.sum(target_BC * logp_BC)
    hits_B = jnp.argmax(logits_BC, -1) == batch["label"]
    rows = jnp.float32(len(hits_B))
    stats = {**running, "train_loss": (total / rows)[None, None]}
    metrics = {"top1": tasks.Weighted(jnp.sum(hits_B.astype(jnp.float32)), rows)}
    return {"ce": tasks.LossTerm(total, 1.0), **terms}, stats, metrics

  def outcomes(
    self, variables: tasks.Variables, batch: tasks.Batch, *, measure: tasks.Measure
  ) -> Any:
    """As `Classify.outcomes`, of the one head."""
    logits_BC = self.logits(variables.params, batch["tokens"], key=None, stats=variables.stats)
    return jax.tree.map(lambda leaf: leaf[None, None], measure(logits_BC))


class _Placed(trunk.Trunk):
  """A trunk that is told by a trained vector where each token is."""

  @nn.nowrap
  def entry(self, params: Any, inputs_BT: jax.Array) -> tuple[jax.Array, Any, jax.Array | None]:
    x_BTD, rope, segments_BT = super().entry(params, inputs_BT)
    return x_BTD + params["positions"].astype(x_BTD.dtype), rope, segments_BT


def trunk_params(backbone: Any) -> Any:
  """What fine-tuning needs of a `Trunk`'s parameters."""
  return {name: backbone[name] for name in ("embedding", "blocks")}
