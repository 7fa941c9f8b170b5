"""Row `decode_tokens`: further tokens, against transformers' `generate`.

Shapes: B rows, N frames, P tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, sequence
from totojax.config.bench import DecodeTokensBench
from totojax.jobs.bench import hardware, measure, peers
from totojax.models import decode, llama, trunk
from totojax.trained import generate


def measure_decode_tokens(
  settings: DecodeTokensBench, *, how: measure.How, seed: int
) -> Iterator[measure.Row]:
  """Tokens per second, greedy, the prompt's pass included.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  model = assembly.model(settings.trained)
  spec = model.spec
  params = nn.unbox(
    jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, spec.context), jnp.int32))
  )["params"]
  dtype = model.compute.dtype
  theirs = peers.llama_generate(
    llama.required(model.config),
    params,
    vocab=spec.padded_vocab,
    dtype=dtype,
    first=sequence.SPECIALS,
    last=sequence.SPECIALS + spec.vocab,
  )
  weights = jax.jit(lambda params: decode.load(model, params))(params)
  del params
  codes_BNP = np.random.default_rng(seed).integers(
    0, spec.vocab, (settings.rows, settings.context, spec.frame_tokens)
  )
  start_B1 = np.full((settings.rows, 1), sequence.VIDEO_START)
  inputs_BT = np.concatenate(
    [start_B1, codes_BNP.reshape(settings.rows, -1) + sequence.SPECIALS], axis=1
  )
  count = settings.further * spec.frame_tokens
  made = {}

  def ours() -> float:
    made["ours"] = generate.frames(
      model,
      weights,
      codes_BNP,
      further=settings.further,
      sampling=generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0),
      rows=np.arange(settings.rows),
    ).reshape(settings.rows, count)
    return float(settings.rows * count)

  def other() -> float:
    made["theirs"] = theirs(inputs_BT, count) - sequence.SPECIALS
    return float(settings.rows * count)

  left = measure.Side("our cached decoding", ours, measure.nothing)
  right = measure.Side(
    "PyTorch, eager, transformers' generate with its dynamic cache, with the same weights",
    other,
    measure.nothing,
  )
  measured = measure.compare(left, right, how=how)
  of_floor = {}
  if hardware.is_accelerator():
    of_floor = floor(
      model,
      weights,
      rows=settings.rows,
      first=inputs_BT.shape[1],
      count=count,
      bytes_per_s=hardware.ceiling().bytes_per_s,
      measured=measured,
    )
  yield measure.Row(
    row="decode_tokens",
    case=f"{settings.rows} x {inputs_BT.shape[1]} + {count} tokens, {dtype}",
    compares="reading a prompt and choosing the most likely tokens after it",
    unit="tokens",
    ours=left.what,
    theirs=right.what,
    measured=measured,
    goals=(measure.Goal("times transformers' tokens/s", measured.ratio.median, 1.0),),
    facts={
      "width": model.config.width,
      "depth": model.config.depth,
      "tokens_equal_frac": float(np.mean(made["ours"] == made["theirs"])),
      "threads_of_pytorch": peers.cores(),
      **of_floor,
    },
  )


def floor(
  model: trunk.Trunk,
  weights: Any,
  *,
  rows: int,
  first: int,
  count: int,
  bytes_per_s: float,
  measured: measure.Comparison,
) -> dict[str, float]:
  """What it takes at least to read weights and cache once for each token.

  Args:
    model: the model.
    weights: of `decode.load`.
    rows: sequences at a time.
    first: tokens of the prompt.
    count: tokens that are made after it.
    bytes_per_s: of the device's memory.
    measured: the row's readings.
  """
  c, read = model.config, dict(weights)
  if not c.tied:
    read.pop("embedding")  # one row of it for each token
  weight_bytes = sum(x.nbytes for x in jax.tree.leaves(read))
  wide = jnp.dtype(model.compute.dtype).itemsize
  mean_tokens = first + (count - 1) / 2
  cache_bytes = 2 * c.depth * c.width * mean_tokens * rows * wide
  floor_s = count * (weight_bytes + cache_bytes) / bytes_per_s
  ours_s = measure.spread([r.used.wall_s for r in measured.ours]).median
  return {
    "measured_bytes_per_s": bytes_per_s,
    "weight_bytes": weight_bytes,
    "mean_cache_bytes": cache_bytes,
    "bandwidth_floor_s": floor_s,
    "floor_over_ours": floor_s / ours_s,
  }
