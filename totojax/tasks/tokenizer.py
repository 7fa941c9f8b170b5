"""Training of the dVAE: a Gumbel-softmax relaxation of the evidence bound.

As in DALL-E (Ramesh et al. 2021, appendix A.2): logits of the encoder, plus
Gumbel noise, over a temperature that falls from 1 to 1/16; a logit-Laplace
reconstruction; the KL divergence of the codes from a uniform prior with a
weight that rises from 0 to 6.6. The bound is divided by the number of pixel
channels, so that the weight of one token's KL is beta / (3 factor ** 2), which
is DALL-E's beta / 192 at factor 8.

Additions, all off in the published recipe, keep a short schedule from
collapsing to a few codes: `usage`, a penalty on the mean code distribution; a
start that depends on data; and a k-means teacher, whose codes of the plain
patches the encoder is asked to give while the rest is still learning.

Shapes: B images, H height, W width, G grid side, V codes, C channels, P tokens
of the whole batch, X values of a patch (3 factor ** 2).
"""

from collections.abc import Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import tasks
from totojax.config.tokens import TokenizerConfig
from totojax.tokenizers import api as tokenizer_api, dvae, patches as patches_lib

_USE_DECAY = 0.99  # of the running histogram: about 100 updates
_RIDGE = 1e-5  # of the mean variance, against features that are collinear
_SCORED = 4  # every fourth image is decoded from its hard codes for the log
_START_BATCH = 32  # frames that go through the encoder at a time
_LEAST_MSE = 1e-6  # caps one image's PSNR at 60 dB


@dataclasses.dataclass(frozen=True)
class KMeansStart:
  """What a start that depends on data looks at."""

  frames: np.ndarray  # uint8 [n, H, W, 3], on which the encoder's last layer is fitted
  centres_VX: np.ndarray  # k-means centres of patches, float32 in 0 to 1


class TokenizerTask:
  """A dVAE in training (`tasks/tasks.py`). Batches are {"frames": uint8}."""

  def __init__(
    self,
    *,
    model: dvae.DvaeConfig,
    config: TokenizerConfig,
    size_px: int,
    kmeans: KMeansStart | None,
  ):
    """A task.

    Args:
      model: size of the dVAE.
      config: its training.
      size_px: side of the square training frames.
      kmeans: given exactly where the config needs it.

    Raises:
      ValueError: frames of no whole number of tokens, or `kmeans` missing.
    """
    tokenizer_api.check_sides((size_px, size_px, 3), model.factor)
    if config.needs_kmeans != (kmeans is not None):
      raise ValueError(
        f"objective.start {config.start!r} with teacher {config.teacher}"
        f" {'needs' if config.needs_kmeans else 'takes no'} k-means centres"
      )
    self.model = model
    self.config = config
    self.size_px = size_px
    self.kmeans = kmeans

  def batch_spec(self, batch: int) -> Mapping[str, jax.ShapeDtypeStruct]:
    shape = (batch, self.size_px, self.size_px, 3)
    return {"frames": jax.ShapeDtypeStruct(shape, jnp.uint8)}

  def axes(self) -> tasks.Variables:
    boxed = jax.eval_shape(lambda: dvae.init(self.model, jax.random.key(0)))
    names = {"use_V": jax.sharding.PartitionSpec(None)}
    replicated = jax.sharding.PartitionSpec(None, None)
    frozen = {"centres_VX": replicated} if self.kmeans else {}
    return tasks.Variables(nn.get_partition_spec(boxed), frozen, names)

  def init(self, key: jax.Array) -> tasks.Variables:
    params = nn.unbox(dvae.init(self.model, key))
    frozen = {}
    if self.kmeans:  # given wherever `start` is "patches"
      frozen["centres_VX"] = jnp.asarray(self.kmeans.centres_VX)
      if self.config.start == "patches":
        # A few at a time: the encoder's activations of all take gigabytes.
        features = jax.lax.map(
          lambda frame_HWC: dvae.features(self.model, params, frame_HWC[None])[0],
          jnp.asarray(self.kmeans.frames),
          batch_size=_START_BATCH,
        )
        w_CV, b_V = distance_layer(
          features.reshape(-1, features.shape[-1]),
          patches(self.kmeans.frames, self.model.factor),
          frozen["centres_VX"],
          std=self.config.start_logit_std,
        )
        params["encoder"]["output"] = {"w": w_CV[None, None], "b": b_V}
    use_V = jnp.full(self.model.vocab, 1 / self.model.vocab, jnp.float32)
    return tasks.Variables(params, frozen, {"use_V": use_V})

  def weights(self, batch: tasks.Batch) -> Mapping[str, jax.Array]:
    values = batch["frames"].size  # 3 of a pixel
    tokens = values // (3 * self.model.factor**2)
    return {
      "reconstruction": jnp.float32(values),
      "kl": jnp.float32(tokens),
      "usage": jnp.float32(tokens),
      "teacher": jnp.float32(tokens),
    }

  def loss(
    self,
    params: tasks.Tree,
    rest: tasks.Variables,
    batch: tasks.Batch,
    *,
    step: jax.Array,
    key: jax.Array,
  ) -> tasks.Losses:
    """The three terms; `usage` is taken over each microbatch by itself.

    The entropy of a mean is no sum over rows, so `usage` is the one term that
    microbatches change.
    """
    model, config = self.model, self.config
    frames_BHWC = batch["frames"]
    logits_BGGV = dvae.logits(model, params, frames_BHWC)
    log_q_BGGV = jax.nn.log_softmax(logits_BGGV)
    noise_BGGV = jax.random.gumbel(key, logits_BGGV.shape)
    tau = self.temperature(step)
    z_BGGV = jax.nn.softmax((logits_BGGV + noise_BGGV) / tau)
    stats_BHWC = dvae.statistics(model, params, z_BGGV)
    error = reconstruction_loss(config.loss, stats_BHWC, frames_BHWC)

    q_BGGV = jnp.exp(log_q_BGGV)
    kl_BGG = jnp.sum(q_BGGV * log_q_BGGV, -1) + jnp.log(model.vocab)
    tokens = jnp.float32(kl_BGG.size)
    entropy = _entropy(jnp.mean(q_BGGV, axis=(0, 1, 2)))
    unused = jnp.log(model.vocab) - entropy
    terms = {
      "reconstruction": tasks.LossTerm(error, 1.0),
      "kl": tasks.LossTerm(jnp.sum(kl_BGG), self.kl_coefficient(step)),
      "usage": tasks.LossTerm(tokens * unused, config.usage),
    }
    if self.config.teacher > 0:
      taught_BGG = nearest_patch(frames_BHWC, rest.frozen["centres_VX"], model.factor)
      log_q_BGG = jnp.take_along_axis(log_q_BGGV, taught_BGG[..., None], axis=-1)[..., 0]
      terms["teacher"] = tasks.LossTerm(-jnp.sum(log_q_BGG), self.teacher_coefficient(step))
    hard_BGG = jnp.argmax(logits_BGGV, axis=-1)
    metrics, use_V = self._metrics(jax.lax.stop_gradient(params), hard_BGG, frames_BHWC, rest.stats)
    values = jnp.float32(frames_BHWC.size)
    metrics |= {
      "reconstruction": tasks.Weighted(error, values),
      "kl": tasks.Weighted(jnp.sum(kl_BGG), tokens),
      "tau": tasks.Weighted(tau, jnp.float32(1)),
    }
    return terms, {"use_V": use_V}, metrics

  def temperature(self, step: jax.Array) -> jax.Array:
    """Cosine from `tau_start` to `tau_end`, then constant."""
    config = self.config
    progress = jnp.clip(step / config.tau_steps, 0.0, 1.0)
    rest = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return config.tau_end + (config.tau_start - config.tau_end) * rest

  def kl_coefficient(self, step: jax.Array) -> jax.Array:
    """Weight of one token's KL in the loss per pixel channel."""
    risen = jnp.clip(step / self.config.kl_steps, 0.0, 1.0)
    return self.config.kl * risen / (3 * self.model.factor**2)

  def teacher_coefficient(self, step: jax.Array) -> jax.Array:
    """Weight of the teacher at an update, falling linearly to 0."""
    share = jnp.clip(1 - step / self.config.teacher_steps, 0.0, 1.0)
    return self.config.teacher * share

  def _metrics(
    self, params: tasks.Tree, hard_BGG: jax.Array, frames_BHWC: jax.Array, stats: tasks.Tree
  ) -> tuple[dict[str, tasks.Weighted], jax.Array]:
    """Scores of the codes that would be stored, and the new histogram."""
    vocab = self.model.vocab
    share_V = jnp.bincount(hard_BGG.reshape(-1), length=vocab) / hard_BGG.size
    use_V = _USE_DECAY * stats["use_V"] + (1 - _USE_DECAY) * share_V
    # A second pass of the decoder: on some of the images, as it is only a log.
    z_bGGV = jax.nn.one_hot(hard_BGG[::_SCORED], vocab, dtype=jnp.float32)
    colours = dvae.pixels(dvae.statistics(self.model, params, z_bGGV))
    error = (colours - frames_BHWC[::_SCORED] / 255.0) ** 2
    psnr_b = -10 * jnp.log10(jnp.mean(error, axis=(1, 2, 3)) + _LEAST_MSE)
    active = jnp.sum(share_V > 0, dtype=jnp.float32)
    unit = jnp.float32(1)
    metrics = {
      "psnr_db": tasks.Weighted(jnp.sum(psnr_b), jnp.float32(psnr_b.size)),
      "codes_used": tasks.Weighted(active, unit),
      "perplexity": tasks.Weighted(jnp.exp(_entropy(use_V)), unit),
    }
    return metrics, use_V


def reconstruction_loss(kind: str, stats_BHWC: jax.Array, frames_BHWC: jax.Array) -> jax.Array:
  """Summed loss of pixel statistics [B, H, W, 6] for uint8 frames.

  "logit_laplace" is the negative log-density of the mapped pixels x under a
  Laplace distribution of logit(x) (DALL-E, Eq. 3 of appendix A.3):
  log(2 b x (1 - x)) + |logit(x) - mu| / b. "l2" is the squared error of the
  distribution's median in pixel units, and leaves b untrained.
  """
  x_BHWC = dvae.map_pixels(frames_BHWC)
  mu_BHWC, log_b_BHWC = jnp.split(stats_BHWC, 2, axis=-1)
  if kind == "l2":
    colours = dvae.unmap_pixels(nn.sigmoid(mu_BHWC))
    return jnp.sum((colours - frames_BHWC.astype(jnp.float32) / 255.0) ** 2)
  logit = jnp.log(x_BHWC) - jnp.log1p(-x_BHWC)
  area = jnp.log(2 * x_BHWC * (1 - x_BHWC)) + log_b_BHWC
  return jnp.sum(area + jnp.abs(logit - mu_BHWC) * jnp.exp(-log_b_BHWC))


def distance_layer(
  features_PC: jax.Array, patches_PX: jax.Array, centres_VX: jax.Array, *, std: float
) -> tuple[jax.Array, jax.Array]:
  """The encoder's last layer (w [C, V], b [V]) that is nearest to k-means.

  Logits are `s (x . c_v - |c_v| ** 2 / 2)`: up to what all codes share,
  the negative squared distance of a patch x to each centre, with x regressed
  from the features; s makes the standard deviation of a position's logits
  `std` on average.
  """
  mean_C, mean_X = jnp.mean(features_PC, axis=0), jnp.mean(patches_PX, axis=0)
  shifted_PC = features_PC - mean_C
  gram_CC = shifted_PC.T @ shifted_PC
  ridge = _RIDGE * jnp.trace(gram_CC) / len(gram_CC)
  map_CX = jnp.linalg.solve(
    gram_CC + ridge * jnp.eye(len(gram_CC)), shifted_PC.T @ (patches_PX - mean_X)
  )
  w_CV = map_CX @ centres_VX.T
  norm_V = 0.5 * jnp.sum(centres_VX**2, axis=1)
  b_V = (mean_X - mean_C @ map_CX) @ centres_VX.T - norm_V
  scale = std / jnp.mean(jnp.std(features_PC @ w_CV + b_V, axis=1))
  return w_CV * scale, (b_V - jnp.mean(b_V)) * scale


def patches(frames_BHWC: jax.Array | np.ndarray, side: int) -> jax.Array:
  """Patches of uint8 frames as rows, 0 to 1: [B G G, 3 side ** 2]."""
  unit = jnp.asarray(frames_BHWC, jnp.float32) / 255.0
  return patches_lib.cut(unit, side).reshape(-1, side * side * 3)


def nearest_patch(frames_BHWC: jax.Array, centres_VX: jax.Array, side: int) -> jax.Array:
  """int32 [B, G, G]: the k-means code of each patch."""
  batch, height, width, _ = frames_BHWC.shape
  score_PV = patches(frames_BHWC, side) @ centres_VX.T
  score_PV -= 0.5 * jnp.sum(centres_VX**2, axis=1)
  shape = (batch, height // side, width // side)
  return jnp.argmax(score_PV, axis=-1).astype(jnp.int32).reshape(shape)


def _entropy(share_V: jax.Array) -> jax.Array:
  """In nats; a share of 0 counts nothing."""
  return -jnp.sum(share_V * jnp.log(share_V + 1e-12))
