"""Next-token training with probes beside it (Table 7, and section 4.3).

The loss is Eq. 2 plus the cross-entropy of heads on the residual stream after
each layer asked for. Heads stop the gradient: what the backbone learns from is
the next token alone, exactly as in pre-training.

Shapes: B batch, T tokens of the inputs, L layers asked for, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax import sequence, tasks, tree as tree_lib
from totojax.models import heads as heads_lib
from totojax.optim import layered
from totojax.tasks import classify, pretrain


class Joint:
  """Parameters are {"backbone": a `Trunk`'s, "heads": [layers, settings]}."""

  def __init__(
    self,
    backbone: pretrain.Pretrain,
    *,
    head: heads_lib.HeadConfig,
    layers: Sequence[int],
    classes: int,
    settings: int,
  ):
    """Args:
      backbone: next-token prediction; the inputs are whole clips.
      head: of each layer and setting.
      layers: which H_l, from 1 on.
      classes: labels are below it.
      settings: heads of each layer.

    Raises:
      ValueError: layer 0, which nothing of the backbone is in.
    """
    if 0 in layers:
      raise ValueError(
        f"layers are {tuple(layers)}; 0 is the embeddings, which have no head"
        " here: name layers from 1 on, or () for all"
      )
    self.backbone, self.model = backbone, backbone.model
    self.spec = backbone.spec
    self.heads = classify.Classify(
      head=head,
      model=self.model,
      layers=layers,
      width=self.model.config.width,
      classes=classes,
      settings=settings,
      split=True,
    )

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    return tasks.labelled(batch, self.spec.row_tokens)

  def axes(self) -> tasks.Variables:
    heads = self.heads.axes()
    params = {layered.BACKBONE: self.backbone.axes().params, layered.HEADS: heads.params}
    return tasks.Variables(params, {}, heads.stats)

  def init(self, key: jax.Array) -> tasks.Variables:
    heads = self.heads.init(key)
    params = {layered.BACKBONE: self.backbone.init(key).params, layered.HEADS: heads.params}
    return tasks.Variables(params, {}, heads.stats)

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    return {**self.backbone.weights(batch), **self.heads.weights(batch)}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    inputs_BT, targets_BT = sequence.split(batch["tokens"])
    nll_BT, variables = tree_lib.apply(
      self.model, params[layered.BACKBONE], inputs_BT, targets_BT, mutable=["intermediates"]
    )
    visual_BT = sequence.is_visual(targets_BT)
    nll = jnp.sum(jnp.where(visual_BT, nll_BT, 0.0))
    (streams,) = variables["intermediates"]["blocks"]["residual"]
    indices = np.array(self.heads.layers) - 1
    if len(indices) < len(streams):
      streams = streams[indices]
    head_terms, stats, metrics = self.heads.loss(
      params[layered.HEADS],
      tasks.Variables(None, {}, rest.stats),
      {"tokens": inputs_BT, "streams": jax.lax.stop_gradient(streams), "label": batch["label"]},
      step=step,
      key=key,
    )
    return {"nll": tasks.LossTerm(nll, 1.0), **head_terms}, stats, metrics

  def outcomes(
    self, variables: tasks.Variables, batch: tasks.Batch, *, measure: tasks.Measure
  ) -> Any:
    """`Classify.outcomes` on the backbone as it is now."""
    params, _, stats = variables
    inputs_BT, _ = sequence.split(batch["tokens"])
    own = tasks.Variables(params[layered.HEADS], params[layered.BACKBONE], stats)
    return self.heads.outcomes(own, {**batch, "tokens": inputs_BT}, measure=measure)
