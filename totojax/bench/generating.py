"""Row `decode_tokens`: further tokens, against transformers' `generate`.

Shapes: B rows, N frames, P tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from totojax import generate
from totojax import sequence
from totojax.bench import measure
from totojax.bench import peers
from totojax.build import parts
from totojax.models import decode


@dataclasses.dataclass(frozen=True)
class DecodeTokensBench:
  """What is decoded.

  Attributes:
    rows: sequences at a time.
    context: frames that are given.
    further: frames that are made.
    trained: a config of `run = "pretrain"`: the model, which stays untrained.
  """

  rows: int
  context: int
  further: int
  trained: Mapping[str, Any]


def measure_decode_tokens(
    settings: DecodeTokensBench, *, how: measure.How, seed: int
) -> Iterator[measure.Row]:
  """Tokens per second, greedy, the prompt's pass included.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  model = parts.model(settings.trained)
  spec = model.spec
  params = nn.unbox(
      jax.jit(model.init)(
          jax.random.key(seed), jnp.zeros((1, spec.context), jnp.int32)
      )
  )["params"]
  theirs = peers.llama_generate(
      model.config, params, vocab=spec.padded_vocab,
      first=sequence.SPECIALS, last=sequence.SPECIALS + spec.vocab,
  )  # fmt: skip
  weights = decode.load(model, params)
  codes_BNP = np.random.default_rng(seed).integers(
      0, spec.vocab, (settings.rows, settings.context, spec.frame_tokens)
  )
  start_B1 = np.full((settings.rows, 1), sequence.VIDEO_START)
  inputs_BT = np.concatenate(
      [start_B1, codes_BNP.reshape(settings.rows, -1) + sequence.SPECIALS],
      axis=1,
  )
  count = settings.further * spec.frame_tokens
  made = {}

  def ours() -> float:
    made["ours"] = generate.frames(
        model,
        weights,
        codes_BNP,
        further=settings.further,
        sampling=generate.Sampling(
            temperature=0.0, top_k=0, top_p=1.0, seed=0
        ),
        rows=np.arange(settings.rows),
    ).reshape(settings.rows, count)
    return float(settings.rows * count)

  def other() -> float:
    made["theirs"] = theirs(inputs_BT, count) - sequence.SPECIALS
    return float(settings.rows * count)

  left = measure.Side("our cached decoding", ours, measure.nothing)
  right = measure.Side(
      "PyTorch, eager, transformers' generate with its dynamic cache, with the"
      " same weights",
      other,
      measure.nothing,
  )
  measured = measure.compare(left, right, how=how)
  yield measure.Row(
      row="decode_tokens",
      case=f"{settings.rows} x {inputs_BT.shape[1]} + {count} tokens",
      compares="reading a prompt and choosing the most likely tokens after it",
      unit="tokens",
      ours=left.what,
      theirs=right.what,
      measured=measured,
      goals=(
          measure.Goal(
              "times transformers' tokens/s", measured.ratio.median, 1.0
          ),
      ),
      facts={
          "width": model.config.width,
          "depth": model.config.depth,
          "tokens_equal_frac": float(np.mean(made["ours"] == made["theirs"])),
          "threads_of_pytorch": peers.cores(),
      },
  )
