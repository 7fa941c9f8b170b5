"""A detector that anticipates: a pyramid, proposals, and heads of regions.

Faster R-CNN (Ren et al., 2015) on the maps of a clip and of its last frame, with
StillFast's heads (Ragusa et al., 2023): noun, box, verb, and seconds to contact.
All shapes are fixed: boxes that are not there are masked, and those that count
are sampled by the largest of random numbers.

What is sampled depends on the model, so a loss can know its weight of the batch
alone only by rows: each row's is a mean over what was sampled of it, and the
batch's the mean over rows (of time to contact, over rows with objects).

Shapes: B rows, G places of a clip's map, L maps, M anchors, K proposals or
regions, O objects of a row, N nouns and V verbs without background, C channels,
F hidden units, D width of the features.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from totojax.config import sta
from totojax.models import boxes as boxes_lib, heads, pyramid, regions

BETA = 1.0 / 9.0  # of boxes' smooth L1
Params = Mapping[str, jax.Array]
_MIDDLE = 0.28  # region_px over the picture's side: 224 of 800 pixels
_TINY_PX = 1e-2  # sides of boxes below it are no boxes


class Truth(NamedTuple):
  """Objects of one row, or with a leading axis of several."""

  boxes_O4: jax.Array  # in pixels of the picture
  noun_O: jax.Array  # int32, from 1 on; 0 is background
  verb_O: jax.Array  # int32, the same
  ttc_O: jax.Array  # seconds
  real_O: jax.Array  # bool; others are padding


class Found(NamedTuple):
  """Detections of rows, best first."""

  boxes_BK4: jax.Array
  noun_BK: jax.Array  # int32, from 0 on
  verb_BK: jax.Array
  ttc_BK: jax.Array  # seconds
  score_BK: jax.Array
  real_BK: jax.Array  # bool; the first is, always


@dataclasses.dataclass(frozen=True)
class Detector:
  """Sizes; its functions take the parameters.

  Attributes:
    config: section `detector`.
    nouns, verbs: how many there are.
    width: of the features (D).
    grid: places of a side of a clip's maps.
    size_px: side of the picture in which boxes lie.
    still: whether maps of the last frame are fused with the clip's.
    maps: features that come in, one for each scale or one for all.
    context: width of what is said of the whole clip beside maps; 0: nothing.
  """

  config: sta.Detector
  nouns: int
  verbs: int
  width: int
  grid: int
  size_px: float
  still: bool
  maps: int
  context: int = 0

  @functools.cached_property
  def sides(self) -> tuple[int, ...]:
    """Places of a side of each map of the pyramid."""
    return tuple(max(round(self.grid * scale), 1) for scale in self.config.scales)

  @functools.cached_property
  def anchors(self) -> tuple[np.ndarray, ...]:
    """Those of each map, [M, 4]."""
    out = []
    for side in self.sides:
      stride = self.size_px / side
      size_px = self.config.anchor_cells * stride
      made = boxes_lib.anchors(
        size_px, self.config.anchor_ratios, grid=(side, side), stride=(stride, stride)
      )
      # Around the middles of cells: a map of few cells would lack its far sides.
      out.append(made + np.float32(0.5 * stride))
    return tuple(out)

  @functools.cached_property
  def shapes(self) -> dict[str, tuple[tuple[int, ...], float]]:
    """Name -> (shape, standard deviation it starts with; 0: zeros) of every parameter."""
    c, channels, hidden = self.config, self.config.width, self.config.hidden
    shapes: dict[str, tuple[tuple[int, ...], float]] = {}

    def add(name, *shape, std=None):
      fan_in = math.prod(shape[:-1])
      shapes[name] = shape, 1.0 / math.sqrt(fan_in) if std is None else std
      shapes[f"{name}_bias"] = shape[-1:], 0.0

    sources = ("clip", "still") if self.still else ("clip",)
    for n in range(self.maps):
      for source in sources:
        add(f"{source}_{n}", self.width, channels)
    for n in range(len(c.scales)):
      if self.still:
        add(f"fuse_{n}/fast", 3, 3, channels, channels)
        add(f"fuse_{n}/both", 3, 3, channels, channels)
      add(f"fpn/inner_{n}", channels, channels)
      add(f"fpn/layer_{n}", 3, 3, channels, channels)
    ratios = len(c.anchor_ratios)
    add("proposals", 3, 3, channels, channels)
    add("objectness", channels, ratios, std=0.01)
    add("anchor_deltas", channels, 4 * ratios, std=0.01)
    add("region_1", c.region_bins**2 * channels, hidden)
    add("region_2", hidden, hidden)
    if self.context:
      add("context", self.context, channels)
    add("around_1", hidden + channels, hidden)
    add("around_2", hidden, hidden)
    add("noun", hidden, self.nouns + 1, std=0.01)
    add("deltas", hidden, 4 * (self.nouns + 1), std=0.001)
    add("verb", hidden, self.verbs + 1, std=0.01)
    add("ttc", hidden, 1, std=0.01)
    return shapes

  def axes(self) -> dict[str, PartitionSpec]:
    """Logical axes: those of convolutions, which decay and lie whole on every device."""
    names = ("conv_height", "conv_width", "conv_in", "conv_out")
    return {
      name: PartitionSpec("bias") if len(shape) == 1 else PartitionSpec(*names[-len(shape) :])
      for name, (shape, _) in self.shapes.items()
    }

  def init(self, key: jax.Array) -> dict[str, jax.Array]:
    """Fresh parameters, float32: parts of one draw, which compiles sooner than many."""
    drawn = {name: math.prod(shape) for name, (shape, std) in self.shapes.items() if std}
    flat, params, first = jax.random.normal(key, (sum(drawn.values()),)), {}, 0
    for name, (shape, std) in self.shapes.items():
      if not std:
        params[name] = jnp.zeros(shape)
        continue
      params[name] = std * flat[first : first + drawn[name]].reshape(shape)
      first += drawn[name]
    return params

  def pyramid(
    self, params: Params, clips: Sequence[jax.Array], stills: Sequence[jax.Array] | None
  ) -> list[jax.Array]:
    """Maps [B, side, side, C] from fine to coarse.

    Args:
      params: of the detector.
      clips: features [B, G, G, D], already over time; as many as `maps`.
      stills: the same of the last frame, of any grid; None as `still` says.
    """

    def scaled(source, features):
      out = []
      for n, side in enumerate(self.sides):
        x_BGGD = features[n if self.maps > 1 else 0]
        name = f"{source}_{n if self.maps > 1 else 0}"
        x_BGGC = heads.layer_norm(x_BGGD.astype(jnp.float32)).astype(x_BGGD.dtype)
        x_BGGC = _linear(params, name, x_BGGC)
        out.append(pyramid.resampled(x_BGGC, (side, side)))
      return out

    maps = scaled("clip", clips)
    if self.still:
      assert stills is not None, "a detector with `still` has maps of it"
      pairs = zip(scaled("still", stills), maps)
      maps = [pyramid.fused(_of(params, f"fuse_{n}/"), *pair) for n, pair in enumerate(pairs)]
    return pyramid.fpn(_of(params, "fpn/"), maps)

  def losses(
    self,
    params: Params,
    maps: Sequence[jax.Array],
    truth: Truth,
    key: jax.Array,
    *,
    context_BD: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Sums over rows of "anchor", "anchor_box", "noun", "box", "verb" and "ttc", and of
    "recall", the share of objects that a proposal overlaps by half.

    Args:
      params: of the detector.
      maps: of `pyramid`.
      truth: objects [B, O].
      key: draws what is sampled.
      context_BD: what is said of the whole clip, where `context` is not 0.
    """
    score_BM, deltas_BM4 = self._anchor_heads(params, maps)
    keys_B = jax.random.split(key, len(score_BM))
    one = functools.partial(self._proposal_losses, training=True)
    out, regions_BK4, region = jax.vmap(one)(score_BM, deltas_BM4, truth, keys_B)
    head = self._region_heads(params, maps, regions_BK4, context_BD)
    more = jax.vmap(self._region_losses)(*head, regions_BK4, region)
    return {name: jnp.sum(value_B) for name, value_B in {**out, **more}.items()}

  def detect(
    self, params: Params, maps: Sequence[jax.Array], *, context_BD: jax.Array | None = None
  ) -> Found:
    """What is found, at least one object of each row.

    A score is a noun's probability times that of the likeliest verb. Detections of
    `least_score` stay, of those that overlap with the same noun and verb the best.
    """
    score_BM, deltas_BM4 = self._anchor_heads(params, maps)
    propose = functools.partial(self._proposed, training=False)
    boxes_BK4, real_BK, _ = jax.vmap(propose)(score_BM, deltas_BM4)
    head = self._region_heads(params, maps, boxes_BK4, context_BD)
    return jax.vmap(self._detected)(*head, boxes_BK4, real_BK)

  def _anchor_heads(self, params: Params, maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """float32 objectness [B, M] and deltas [B, M, 4] of all anchors, map by map."""
    scores, deltas = [], []
    for x_BGGC in maps:
      x_BGGC = pyramid.convolved(x_BGGC, params["proposals"], params["proposals_bias"])
      x_BGGC = jax.nn.relu(x_BGGC)
      rows = len(x_BGGC)
      scores.append(_linear(params, "objectness", x_BGGC).reshape(rows, -1))
      deltas.append(_linear(params, "anchor_deltas", x_BGGC).reshape(rows, -1, 4))
    return (
      jnp.concatenate(scores, 1).astype(jnp.float32),
      jnp.concatenate(deltas, 1).astype(jnp.float32),
    )

  def _proposed(
    self, score_M: jax.Array, deltas_M4: jax.Array, *, training: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(boxes [K, 4], bool [K] whether they are real, scores [K]) of one row; no gradient."""
    c = self.config
    most = c.candidates if training else c.eval_candidates
    score_M, deltas_M4 = jax.lax.stop_gradient((score_M, deltas_M4))
    parts, first = [], 0
    for anchors_m4 in self.anchors:
      last = first + len(anchors_m4)
      score_K, place_K = jax.lax.top_k(score_M[first:last], min(most, last - first))
      boxes_K4 = boxes_lib.decode(deltas_M4[first:last][place_K], jnp.asarray(anchors_m4)[place_K])
      boxes_K4 = boxes_lib.clipped(boxes_K4, self.size_px, self.size_px)
      real_K = jnp.min(boxes_K4[:, 2:] - boxes_K4[:, :2], -1) >= _TINY_PX
      # Maps do not put out each other's: one by one they are small.
      real_K = boxes_lib.nms(boxes_K4, score_K, c.proposal_nms, valid_K=real_K)
      parts.append((boxes_K4, score_K, real_K))
      first = last
    boxes_K4, score_K, real_K = (jnp.concatenate(part) for part in zip(*parts))
    place_K, real_K = boxes_lib.best(score_K, real_K, c.proposals if training else c.eval_proposals)
    return boxes_K4[place_K], real_K, score_K[place_K]

  def _proposal_losses(
    self, score_M: jax.Array, deltas_M4: jax.Array, truth: Truth, key: jax.Array, *, training: bool
  ) -> tuple[dict[str, jax.Array], jax.Array, "_Region"]:
    """Losses of the anchors of one row, and the regions that are sampled."""
    c, (anchor_key, region_key) = self.config, jax.random.split(key)
    anchors_M4 = jnp.concatenate(self.anchors)
    overlap_OM = boxes_lib.iou(truth.boxes_O4, anchors_M4)
    found_M = boxes_lib.match(
      overlap_OM, truth.real_O, high=c.anchor_fg, low=c.anchor_bg, rescue=True
    )
    place, counts = sampled(
      anchor_key, found_M >= 0, found_M == boxes_lib.BELOW, min(c.anchors, len(found_M)), 0.5
    )
    own, total = found_M[place], jnp.maximum(jnp.sum(counts), 1)
    is_fg = own >= 0
    logit = score_M[place]
    nll = jax.nn.softplus(jnp.where(is_fg, -logit, logit))
    wanted = boxes_lib.encode(truth.boxes_O4[jnp.maximum(own, 0)], anchors_M4[place])
    off = smooth_l1(deltas_M4[place] - wanted, BETA).sum(-1)
    out = {
      "anchor": jnp.sum(jnp.where(counts, nll, 0.0)) / total,
      "anchor_box": jnp.sum(jnp.where(counts & is_fg, off, 0.0)) / total,
    }
    boxes_K4, real_K, _ = self._proposed(score_M, deltas_M4, training=training)
    half_O = jnp.max(jnp.where(real_K, boxes_lib.iou(truth.boxes_O4, boxes_K4), 0.0), 1) >= 0.5
    objects = jnp.maximum(jnp.sum(truth.real_O), 1)
    out["recall"] = jnp.sum(half_O & truth.real_O) / objects
    # The objects themselves are among the proposals, so that there are some to learn of.
    boxes_K4 = jnp.concatenate([boxes_K4, truth.boxes_O4])
    real_K = jnp.concatenate([real_K, truth.real_O])
    overlap_OK = boxes_lib.iou(truth.boxes_O4, boxes_K4)
    found_K = boxes_lib.match(overlap_OK, truth.real_O, high=c.region_fg, low=c.region_fg)
    place, counts = sampled(
      region_key,
      (found_K >= 0) & real_K,
      (found_K == boxes_lib.BELOW) & real_K,
      c.regions,
      c.region_fg_frac,
    )
    own = found_K[place]
    is_fg, at = (own >= 0) & counts, jnp.maximum(own, 0)
    region = _Region(
      truth.boxes_O4[at],
      jnp.where(is_fg, truth.noun_O[at], 0),
      jnp.where(is_fg, truth.verb_O[at], 0),
      truth.ttc_O[at],
      is_fg,
      counts,
    )
    return out, boxes_K4[place], region

  def _region_heads(
    self,
    params: Params,
    maps: Sequence[jax.Array],
    boxes_BK4: jax.Array,
    context_BD: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """float32 logits of nouns [B, K, N + 1] and verbs, deltas [B, K, N + 1, 4], seconds [B, K]."""
    c = self.config
    pool = functools.partial(
      regions.pooled,
      scales=[side / self.size_px for side in self.sides],
      bins=c.region_bins,
      samples=c.region_samples,
    )
    find = functools.partial(
      regions.levels,
      count=len(self.sides),
      first=2,
      canonical_px=c.region_px or _MIDDLE * self.size_px,
    )
    boxes_BK4 = jax.lax.stop_gradient(boxes_BK4)
    held_BKPPC = jax.vmap(lambda maps, at_K4: pool(maps, at_K4, find(at_K4)))(list(maps), boxes_BK4)
    x_BKF = held_BKPPC.reshape(*boxes_BK4.shape[:2], -1)
    x_BKF = jax.nn.relu(_linear(params, "region_1", x_BKF))
    x_BKF = jax.nn.relu(_linear(params, "region_2", x_BKF))
    whole_BC = jnp.mean(maps[-1], (1, 2))
    if context_BD is not None:
      whole_BC += _linear(params, "context", context_BD.astype(whole_BC.dtype))
    whole_BKC = jnp.broadcast_to(whole_BC[:, None], (*x_BKF.shape[:2], whole_BC.shape[-1]))
    both_BKF = jnp.concatenate([x_BKF, whole_BKC], -1)
    both_BKF = jax.nn.relu(_linear(params, "around_1", both_BKF))
    x_BKF = (x_BKF + _linear(params, "around_2", both_BKF)).astype(jnp.float32)
    deltas_BK4 = _linear(params, "deltas", x_BKF)
    return (
      _linear(params, "noun", x_BKF),
      _linear(params, "verb", x_BKF),
      deltas_BK4.reshape(*deltas_BK4.shape[:2], -1, 4),
      jax.nn.softplus(_linear(params, "ttc", x_BKF))[..., 0],
    )

  def _region_losses(
    self,
    noun_KN: jax.Array,
    verb_KV: jax.Array,
    deltas_KN4: jax.Array,
    ttc_K: jax.Array,
    boxes_K4: jax.Array,
    region: "_Region",
  ) -> dict[str, jax.Array]:
    """Of one row; verbs of background count too, its time to contact and box do not."""
    total = jnp.maximum(jnp.sum(region.counts), 1)
    fg = jnp.maximum(jnp.sum(region.is_fg), 1)
    wanted_K4 = boxes_lib.encode(region.boxes_K4, boxes_K4, boxes_lib.SECOND)
    own_K4 = _picked(deltas_KN4, region.noun_K)
    off_K = smooth_l1(own_K4 - wanted_K4, BETA).sum(-1)
    late_K = smooth_l1(ttc_K - region.ttc_K, 1.0)
    nll = lambda logits, label: -_picked(jax.nn.log_softmax(logits), label)
    count = lambda value_K, mask_K, by: jnp.sum(jnp.where(mask_K, value_K, 0.0)) / by
    return {
      "noun": count(nll(noun_KN, region.noun_K), region.counts, total),
      "verb": count(nll(verb_KV, region.verb_K), region.counts, total),
      "box": count(off_K, region.is_fg, total),
      "ttc": count(late_K, region.is_fg, fg),
    }

  def _detected(
    self,
    noun_KN: jax.Array,
    verb_KV: jax.Array,
    deltas_KN4: jax.Array,
    ttc_K: jax.Array,
    boxes_K4: jax.Array,
    real_K: jax.Array,
  ) -> Found:
    """Detections of one row."""
    c = self.config
    noun_KN = jax.nn.softmax(noun_KN)[:, 1:]
    verb_KV = jax.nn.softmax(verb_KV)[:, 1:]
    score_KN = noun_KN * jnp.max(verb_KV, -1, keepdims=True)
    place, real = boxes_lib.best(score_KN.reshape(-1), jnp.repeat(real_K, self.nouns), c.scored)
    region, noun = place // self.nouns, place % self.nouns
    score, verb = score_KN[region, noun], jnp.argmax(verb_KV, -1)[region]
    found_4 = boxes_lib.decode(deltas_KN4[region, noun + 1], boxes_K4[region], boxes_lib.SECOND)
    found_4 = boxes_lib.clipped(found_4, self.size_px, self.size_px)
    real &= jnp.min(found_4[:, 2:] - found_4[:, :2], -1) >= _TINY_PX
    # An image without a detection would leave the metric, which is no honest gain.
    first = jnp.arange(len(real)) == jnp.argmax(jnp.where(real, score, -1.0))
    real &= (score > c.least_score) | first
    label = noun + verb * (self.nouns + 1)
    real = boxes_lib.nms(found_4, score, c.nms, labels_K=label, valid_K=real)
    at, real = boxes_lib.best(score, real, c.detections)
    return Found(found_4[at], noun[at], verb[at], ttc_K[region][at], score[at], real)


class _Region(NamedTuple):
  """What sampled regions of a row are to say."""

  boxes_K4: jax.Array
  noun_K: jax.Array  # 0: background
  verb_K: jax.Array
  ttc_K: jax.Array
  is_fg: jax.Array  # bool
  counts: jax.Array  # bool: others fill up


def sampled(
  key: jax.Array, fg_K: jax.Array, bg_K: jax.Array, count: int, fg_frac: float
) -> tuple[jax.Array, jax.Array]:
  """(places, bool whether they count) of `count` boxes drawn at random.

  As many of objects as there are, up to a share; the rest of background, as far
  as there is any. Objects come first.
  """
  fg_key, bg_key = jax.random.split(key)
  places_K = jnp.arange(len(fg_K))

  def drawn(key, mask_K):
    """The rank of each in a random order of those in the mask."""
    draw_K = jnp.where(mask_K, jax.random.uniform(key, mask_K.shape), 2.0)
    return jnp.zeros_like(places_K).at[jnp.argsort(draw_K)].set(places_K)

  most = int(count * fg_frac)
  few = jnp.minimum(jnp.sum(fg_K), most)
  chosen_fg = fg_K & (drawn(fg_key, fg_K) < most)
  chosen_bg = bg_K & (drawn(bg_key, bg_K) < count - few)
  order = jnp.where(chosen_fg, 2.0, jnp.where(chosen_bg, 1.0, 0.0))
  return boxes_lib.best(order, order > 0.0, count)


def smooth_l1(off: jax.Array, beta: float) -> jax.Array:
  """0.5 off^2 / beta below beta, |off| - 0.5 beta above."""
  size = jnp.abs(off)
  return jnp.where(size < beta, 0.5 * off * off / beta, size - 0.5 * beta)


def _picked(values_KN: jax.Array, at_K: jax.Array) -> jax.Array:
  """values[k, at[k]] of every k."""
  shape = (len(at_K), 1, *(1,) * (values_KN.ndim - 2))
  return jnp.take_along_axis(values_KN, at_K.reshape(shape), 1)[:, 0]


def _of(params: Params, prefix: str) -> Params:
  return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def _linear(params: Params, name: str, x: jax.Array) -> jax.Array:
  return x @ params[name].astype(x.dtype) + params[f"{name}_bias"].astype(x.dtype)
