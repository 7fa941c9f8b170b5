"""Short-term anticipation: what is touched next, where, how and when (Table 9).

Two tasks with the heads of `models.detection`. `Tuned` trains a pre-trained model
through, with its next-token loss beside; `Frozen` reads features of any encoder
and pools them by the attentive probe.

Regions are sampled of what the model proposes, so beside weights of the batch
alone (`tasks.Task.weights`) there are counts within a row that depend on the
model: the declared exception of a sampler.

Shapes: B rows, R tokens of a row, T positions, N frames of a clip, G places of a
side, P places of a frame, O objects, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from totojax import sequence, tasks, tree as tree_lib
from totojax.config import sta
from totojax.config.labels import HeadConfig
from totojax.models import detection, heads as heads_lib, taps, trunk
from totojax.optim import layered
from totojax.tasks import pretrain

Spec = Mapping[str, jax.ShapeDtypeStruct]
_OBJECTS = ("boxes", "noun", "verb", "ttc", "real")


def _truth_spec(rows: int, objects: int) -> Spec:
  """`Task.batch_spec` of the objects of rows."""
  shape = rows, objects
  return {
    "boxes": jax.ShapeDtypeStruct((*shape, 4), jnp.float32),
    "noun": jax.ShapeDtypeStruct(shape, jnp.int32),
    "verb": jax.ShapeDtypeStruct(shape, jnp.int32),
    "ttc": jax.ShapeDtypeStruct(shape, jnp.float32),
    "real": jax.ShapeDtypeStruct(shape, jnp.bool_),
  }


class Detecting:
  """What both tasks share: a detector, its losses, and what it finds."""

  def __init__(self, detector: detection.Detector, *, objects: int):
    """Args:
    detector: its sizes.
    objects: of a row, at most (O).
    """
    self.detector, self.objects = detector, objects

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    rows = jnp.float32(len(batch["real"]))
    some = jnp.sum(jnp.any(batch["real"], 1), dtype=jnp.float32)
    each = {name: rows for name in ("anchor", "anchor_box", "noun", "box", "verb")}
    return {**each, "ttc": jnp.maximum(some, 1.0)}

  def _terms(
    self, params: Any, maps: Any, context_BD: jax.Array | None, batch: tasks.Batch, key: jax.Array
  ) -> tuple[dict[str, tasks.LossTerm], dict[str, tasks.Weighted]]:
    c = self.detector.config
    truth = detection.Truth(*(batch[name] for name in _OBJECTS))
    sums = self.detector.losses(params, maps, truth, key, context_BD=context_BD)
    some = jnp.sum(jnp.any(batch["real"], 1), dtype=jnp.float32)
    recall = tasks.Weighted(sums.pop("recall"), jnp.maximum(some, 1.0))
    times = {
      "anchor": c.proposal_loss,
      "anchor_box": c.proposal_loss,
      "noun": c.noun_loss,
      "box": c.box_loss,
      "verb": c.verb_loss,
      "ttc": c.ttc_loss,
    }
    terms = {name: tasks.LossTerm(total, times[name]) for name, total in sums.items()}
    return terms, {"proposal_recall": recall}


class Tuned(Detecting):
  """Parameters are {"backbone": a `Trunk`'s, "heads": the detector's}."""

  def __init__(
    self,
    backbone: pretrain.Pretrain,
    still: trunk.Trunk | None,
    detector: detection.Detector,
    *,
    layers: Sequence[int],
    over_time: str,
    nll_loss: float,
    objects: int,
  ):
    """Args:
    backbone: next-token prediction; the inputs are whole clips.
    still: the same model with an image as its input; None: there is none.
    detector: on `layers`.
    layers: one for each map.
    over_time: how frames become one map, of `sta.OVER_TIME`.
    nll_loss: times the loss of next tokens of the clip.
    objects: of a row, at most.
    """
    super().__init__(detector, objects=objects)
    self.backbone, self.model, self.still = backbone, backbone.model, still
    self.spec, self.layers = self.model.spec, tuple(layers)
    taps.check_layers(sorted({*layers}), self.model.config.depth)
    if 0 in layers:
      raise ValueError(f"layers are {self.layers}; 0 is the embeddings: name layers from 1 on")
    self._over_time, self._nll_loss = over_time, nll_loss

  def batch_spec(self, batch: int) -> Spec:
    row = lambda model: jax.ShapeDtypeStruct((batch, model.spec.row_tokens), jnp.int32)
    spec = {"tokens": row(self.model), **_truth_spec(batch, self.objects)}
    return spec if self.still is None else {**spec, "still": row(self.still)}

  def axes(self) -> tasks.Variables:
    params = {layered.BACKBONE: self.backbone.axes().params, layered.HEADS: self.detector.axes()}
    return tasks.Variables(params, {}, {})

  def init(self, key: jax.Array) -> tasks.Variables:
    params = {
      layered.BACKBONE: self.backbone.init(key).params,
      layered.HEADS: self.detector.init(jax.random.fold_in(key, 1)),
    }
    return tasks.Variables(params, {}, {})

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    own = super().weights(batch)
    return {**own, **self.backbone.weights(batch)} if self._nll_loss else own

  def _maps(self, model: trunk.Trunk, params: Any, tokens_BR: jax.Array) -> tuple[list, jax.Array]:
    """Maps [B, G, G, D] of the layers, over time, and nats [B, T] of next tokens."""
    inputs_BT, targets_BT = sequence.split(tokens_BR)
    nll_BT, variables = tree_lib.apply(
      model, params, inputs_BT, targets_BT, mutable=["intermediates"]
    )
    (streams,) = variables["intermediates"]["blocks"]["residual"]
    spec, maps = model.spec, []
    for layer in self.layers:
      # Position 0 holds the start; of several codes of a place the last has seen them all.
      x_BTD = streams[layer - 1][:, 1 : 1 + spec.visual_tokens]
      shape = spec.frames, spec.grid, spec.grid, -1, x_BTD.shape[-1]
      x_BNGGD = x_BTD.reshape(len(x_BTD), *shape)[..., -1, :]
      last = self._over_time == "last"
      maps.append(x_BNGGD[:, -1] if last else jnp.mean(x_BNGGD, 1))
    return maps, nll_BT

  def _pyramid(self, params: Any, batch: tasks.Batch) -> tuple[list, jax.Array]:
    own = params[layered.BACKBONE]
    maps, nll_BT = self._maps(self.model, own, batch["tokens"])
    stills = self._maps(self.still, own, batch["still"])[0] if self.still is not None else None
    return self.detector.pyramid(params[layered.HEADS], maps, stills), nll_BT

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    del step
    maps, nll_BT = self._pyramid(params, batch)
    terms, metrics = self._terms(params[layered.HEADS], maps, None, batch, key)
    if self._nll_loss:
      counted_BT = self.backbone.counted(batch)
      nll = jnp.sum(jnp.where(counted_BT, nll_BT, 0.0))
      terms[self.backbone.term] = tasks.LossTerm(nll, self._nll_loss)
    return terms, rest.stats, metrics

  def detect(self, params: Any, batch: tasks.Batch) -> detection.Found:
    """What is found in the pictures of rows."""
    maps, _ = self._pyramid(params, batch)
    return self.detector.detect(params[layered.HEADS], maps)


class Frozen(Detecting):
  """Features [B, N, G x G, D] of a clip and [B, g x g, D] of its last frame.

  The clip's tokens pass the blocks of the attentive probe. Each frame has a query;
  what it pools says how much the frame counts in the mean over time, and the mean
  of all is what heads know of the whole clip. Parameters are one flat mapping,
  `probe/` and `detector/`.
  """

  def __init__(
    self,
    detector: detection.Detector,
    *,
    frames: int,
    still_grid: int,
    probe: sta.Probe,
    objects: int,
  ):
    """Args:
    detector: its `context` is the width.
    frames: maps of a clip (N).
    still_grid: places of a side of the last frame (g); 0: it has no features.
    probe: how tokens are attended to.
    objects: of a row, at most.
    """
    super().__init__(detector, objects=objects)
    self.frames, self.still_grid, self._probe = frames, still_grid, probe
    self._head = HeadConfig(pool="blocks", heads=probe.heads, init_std=probe.init_std)

  def batch_spec(self, batch: int) -> Spec:
    d = self.detector
    clip = batch, self.frames, d.grid**2, d.width
    spec = {"clip": jax.ShapeDtypeStruct(clip, jnp.float32), **_truth_spec(batch, self.objects)}
    if self.still_grid:
      still = batch, self.still_grid**2, d.width
      spec["still"] = jax.ShapeDtypeStruct(still, jnp.float32)
    return spec

  def axes(self) -> tasks.Variables:
    probe = heads_lib.axes(self._head, width=self.detector.width, classes=1)
    # Of any width, which devices may not divide: all is whole on each of them.
    probe = {name: PartitionSpec(*("conv_in" for _ in spec)) for name, spec in probe.items()}
    probe["query"] = PartitionSpec("bias", "bias")
    return tasks.Variables(_flat(probe, self.detector.axes()), {}, {})

  def init(self, key: jax.Array) -> tasks.Variables:
    width = self.detector.width
    probe = heads_lib.init(self._head, key, width=width, classes=1)
    queries = jax.random.normal(jax.random.fold_in(key, 2), (self.frames, width))
    probe["query"] = self._probe.init_std * queries
    head = self.detector.init(jax.random.fold_in(key, 1))
    return tasks.Variables(_flat(probe, head), {}, {})

  def _pyramid(self, params: Any, batch: tasks.Batch) -> tuple[list, jax.Array]:
    """Maps of the detector, and what is said of the whole clip [B, D]."""
    probe = {k[len("probe/") :]: v for k, v in params.items() if k.startswith("probe/")}
    side = self.detector.grid
    clip_BNPD = heads_lib.layer_norm(batch["clip"].astype(jnp.float32))
    rows, frames, places, width = clip_BNPD.shape
    x_BTD, pooled_BND = heads_lib.blocks_by_query(
      probe, clip_BNPD.reshape(rows, -1, width), probe["query"]
    )
    weight_BN = jax.nn.softmax((pooled_BND @ probe["linear"] + probe["bias"])[..., 0], -1)
    x_BNPD = x_BTD.reshape(rows, frames, places, width)
    map_BPD = jnp.einsum("BN,BNPD->BPD", weight_BN, x_BNPD)
    maps, stills = [map_BPD.reshape(rows, side, side, width)], None
    if self.still_grid:
      shape = rows, self.still_grid, self.still_grid, width
      stills = [batch["still"].astype(jnp.float32).reshape(shape)]
    return self.detector.pyramid(self._own(params), maps, stills), jnp.mean(pooled_BND, 1)

  @staticmethod
  def _own(params: Any) -> Any:
    start = "detector/"
    return {k[len(start) :]: v for k, v in params.items() if k.startswith(start)}

  def loss(
    self, params: Any, rest: tasks.Variables, batch: tasks.Batch, *, step: jax.Array, key: jax.Array
  ) -> tasks.Losses:
    del step
    maps, context_BD = self._pyramid(params, batch)
    terms, metrics = self._terms(self._own(params), maps, context_BD, batch, key)
    return terms, rest.stats, metrics

  def detect(self, params: Any, batch: tasks.Batch) -> detection.Found:
    """What is found in the pictures of rows."""
    maps, context_BD = self._pyramid(params, batch)
    return self.detector.detect(self._own(params), maps, context_BD=context_BD)


def _flat(probe: Any, detector: Any) -> dict[str, Any]:
  return {
    **{f"probe/{name}": leaf for name, leaf in probe.items()},
    **{f"detector/{name}": leaf for name, leaf in detector.items()},
  }
