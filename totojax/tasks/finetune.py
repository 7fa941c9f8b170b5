"""Full fine-tuning for classification (Table 13, appendix A.2), as MAE does it.

The mean over visual tokens of the residual stream after the last block goes
through a LayerNorm and a linear layer; everything is trained. The final norm
and the output head of pre-training have no use and are not here.

Shapes: B rows, T tokens, D width, C classes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import sequence, tasks
from totojax.config.labels import FineTuneConfig
from totojax.models import heads as heads_lib, layers, taps, trunk
from totojax.optim import layered
from totojax.tasks import pretrain


class FineTune:
  """Parameters are {"backbone": embedding and blocks, "heads": the head}."""

  def __init__(
    self, backbone: pretrain.Pretrain, model: trunk.Trunk, config: FineTuneConfig, *, classes: int
  ):
    """Args:
    backbone: the parameters, as pre-training has them.
    model: the same with any mask; its inputs are whole clips.
    config: the head and the drop path.
    classes: labels are below it.
    """
    self.backbone, self.model, self.config = backbone, model, config
    self.spec, self.classes = model.spec, classes

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    return tasks.labelled(batch, self.spec.row_tokens)

  def axes(self) -> tasks.Variables:
    params = {
      layered.BACKBONE: trunk_params(self.backbone.axes().params),
      layered.HEADS: {
        "norm_scale": PartitionSpec("norm"),
        "norm_bias": PartitionSpec("norm"),
        "linear": PartitionSpec("embed", "classes"),
        "bias": PartitionSpec("classes"),
      },
    }
    return tasks.Variables(params, {}, {"train_loss": PartitionSpec(None, None)})

  def init(self, key: jax.Array) -> tasks.Variables:
    width = self.model.config.width
    linear_DC = self.config.head_init_std * jax.random.truncated_normal(
      jax.random.fold_in(key, 1), -2.0, 2.0, (width, self.classes)
    )
    params = {
      layered.BACKBONE: trunk_params(self.backbone.init(key).params),
      layered.HEADS: {
        "norm_scale": jnp.ones(width),
        "norm_bias": jnp.zeros(width),
        "linear": linear_DC,
        "bias": jnp.zeros(self.classes),
      },
    }
    return tasks.Variables(params, {}, {"train_loss": jnp.zeros((1, 1))})

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    return {"ce": jnp.float32(len(batch["label"]))}

  def logits(self, params: Any, tokens_BR: jax.Array, *, key: jax.Array | None) -> jax.Array:
    """float32 [B, C]; `key` draws what is dropped, None drops nothing."""
    inputs_BT, _ = sequence.split(tokens_BR)
    paths = None
    if key is not None and self.config.drop_path:
      paths = layers.kept_paths(
        key, rows=len(inputs_BT), depth=self.model.config.depth, drop=self.config.drop_path
      )
    x_BTD = taps.residual(self.model, params[layered.BACKBONE], inputs_BT, kept_L2B=paths)
    pooled_BD = heads_lib.mean_over_tokens(x_BTD, sequence.is_visual(inputs_BT))
    head = params[layered.HEADS]
    normed_BD = heads_lib.layer_norm(pooled_BD, self.config.norm_eps)
    normed_BD = normed_BD * head["norm_scale"] + head["norm_bias"]
    return normed_BD @ head["linear"] + head["bias"]

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    """Cross-entropy with `target` [B, C], which sums to 1 over classes."""
    del step, rest
    logits_BC = self.logits(params, batch["tokens"], key=key)
    logp_BC = jax.nn.log_softmax(logits_BC)
    total = -jnp.sum(batch["target"] * logp_BC)
    hits_B = jnp.argmax(logits_BC, -1) == batch["label"]
    rows = jnp.float32(len(hits_B))
    stats = {"train_loss": (total / rows)[None, None]}
    metrics = {"top1": tasks.Weighted(jnp.sum(hits_B.astype(jnp.float32)), rows)}
    return {"ce": tasks.LossTerm(total, 1.0)}, stats, metrics

  def outcomes(
    self, variables: tasks.Variables, batch: tasks.Batch, *, measure: tasks.Measure
  ) -> Any:
    """As `Classify.outcomes`, of the one head."""
    outcome = measure(self.logits(variables.params, batch["tokens"], key=None))
    return jax.tree.map(lambda leaf: leaf[None, None], outcome)


def trunk_params(backbone: Any) -> Any:
  """What fine-tuning needs of a `Trunk`'s parameters."""
  return {name: backbone[name] for name in ("embedding", "blocks")}
