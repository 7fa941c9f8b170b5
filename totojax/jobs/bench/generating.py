"""Row `decode_tokens`: further tokens, against transformers' `generate`.

Shapes: B rows, N frames, P tokens of a frame.
"""

from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, sequence
from totojax.config.bench import DecodeTokensBench
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import hardware, measure, peers
from totojax.models import decode, llama, trunk
from totojax.rundir import provenance
from totojax.trained import generate


def rows(settings: DecodeTokensBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Tokens per second, greedy, the prompt's pass included.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  batch = settings.rows
  model, weights, peer = both(settings.trained, harness.seed)
  spec, dtype = model.spec, model.compute.dtype
  codes_BNP, inputs_BT = prompt(spec, batch, settings.context, harness.seed)
  count = settings.further * spec.frame_tokens
  sampling = generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
  options = {"further": settings.further, "sampling": sampling, "rows": np.arange(batch)}

  def facts(rounds: measure.Rounds) -> dict[str, Any]:
    (codes, tokens), limit = rounds.warmup, {}
    if hardware.is_accelerator():
      limit = floor(
        model,
        weights,
        rows=batch,
        prompt_tokens=inputs_BT.shape[1],
        count=count,
        bytes_per_s=hardware.ceiling().bytes_per_s,
        rounds=rounds,
      )
    return {
      "width": model.config.width,
      "depth": model.config.depth,
      "tokens_equal_frac": float(
        np.mean(codes.reshape(batch, count) + sequence.SPECIALS == tokens)
      ),
      "threads_of_pytorch": provenance.cores(),
      **limit,
    }

  yield harness.compare(
    measure.Side(
      "our cached decoding",
      lambda: generate.frames(model, weights, codes_BNP, **options),
      batch * count,
    ),
    measure.Side(
      "PyTorch, eager, transformers' generate with its dynamic cache, with the same weights",
      lambda: peer(inputs_BT, count),
      batch * count,
    ),
    case=f"{batch} x {inputs_BT.shape[1]} + {count} tokens, {dtype}",
    compares="reading a prompt and choosing the most likely tokens after it",
    unit="tokens",
    goals=measure.level("times transformers' tokens/s"),
    facts=facts,
  )


def both(trained: Pretrain, seed: int) -> tuple[trunk.Trunk, Any, Callable[..., np.ndarray]]:
  """A model with random weights, these for `decode`, and transformers' `generate` with them.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  model = assembly.model(trained)
  spec = model.spec
  key, empty_1T = jax.random.key(seed), jnp.zeros((1, spec.context), jnp.int32)
  params = nn.unbox(jax.jit(model.init)(key, empty_1T))["params"]
  peer = peers.llama_generate(
    llama.required(model.config),
    params,
    vocab=spec.padded_vocab,
    dtype=model.compute.dtype,
    first=sequence.SPECIALS,
    last=sequence.SPECIALS + spec.vocab,
  )
  return model, jax.jit(lambda params: decode.load(model, params))(params), peer


def prompt(
  spec: sequence.SequenceSpec, batch: int, frames: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Random codes [B, N, P] of a video's first frames, and the tokens [B, T] that they are."""
  codes_BNP = np.random.default_rng(seed).integers(
    0, spec.vocab, (batch, frames, spec.frame_tokens)
  )
  start_B1 = np.full((batch, 1), sequence.VIDEO_START)
  tokens_BT = codes_BNP.reshape(batch, -1) + sequence.SPECIALS
  return codes_BNP, np.concatenate([start_B1, tokens_BT], axis=1)


def floor(
  model: trunk.Trunk,
  weights: Any,
  *,
  rows: int,
  prompt_tokens: int,
  count: int,
  bytes_per_s: float,
  rounds: measure.Rounds,
) -> dict[str, float]:
  """What it takes at least to read weights and cache once for each token.

  Args:
    model: the model.
    weights: of `decode.load`.
    rows: sequences at a time.
    prompt_tokens: how many the prompt has.
    count: tokens that follow it.
    bytes_per_s: of the device's memory.
    rounds: the row's readings.
  """
  mean_tokens = prompt_tokens + (count - 1) / 2
  weight_bytes, cache_bytes = read_bytes(model, weights, rows=rows, tokens=mean_tokens)
  floor_s = count * (weight_bytes + cache_bytes) / bytes_per_s
  ours_s = measure.spread([r.usage.wall_s for r in rounds.ours]).median
  return {
    "measured_bytes_per_s": bytes_per_s,
    "weight_bytes": weight_bytes,
    "mean_cache_bytes": cache_bytes,
    "bandwidth_floor_s": floor_s,
    "floor_over_ours": floor_s / ours_s,
  }


def read_bytes(
  model: trunk.Trunk, weights: Any, *, rows: int, tokens: float
) -> tuple[float, float]:
  """What a step cannot do without reading: weights, and keys and values of the tokens so far."""
  c, read = model.config, dict(weights)
  if not c.tied:
    read.pop("embedding")  # one row of it for each token
  weight_bytes = sum(x.nbytes for x in jax.tree.leaves(read))
  wide = jnp.dtype(model.compute.dtype).itemsize
  return weight_bytes, 2 * c.depth * c.width * tokens * rows * wide
