"""Row `serving`: numbers of a server, beside transformers' `generate`.

Time to the first frame: a prompt is read and a frame made of it; programs are
compiled. Tokens/s of all rows together, the prompt's pass included. Share of the
memory's bandwidth (MBU, of Databricks' "LLM inference performance
engineering"): bytes that a step cannot do without over the time of a step after
the first frame, over the memory's rate, which is measured before and after. A
share above one says that caches hold a part.

Shapes: B rows, N frames, P tokens of a frame.
"""

from collections.abc import Iterator, Mapping
import statistics
import time
from typing import Any

import numpy as np

from totojax import sequence
from totojax.config.bench import ServingBench
from totojax.jobs.bench import generating, hardware, measure
from totojax.rundir import provenance
from totojax.trained import generate

GOAL = 1.5  # times transformers' tokens/s


def rows(settings: ServingBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """A case for each number of rows, greedy.

  Raises:
    ImportError: PyTorch or transformers is missing.
  """
  pair = generating.both(settings.trained, harness.seed)
  for batch in settings.rows:
    yield _case(settings, harness, pair, batch)


def _case(
  settings: ServingBench, harness: measure.Harness, pair: Any, batch: int
) -> measure.Measurement:
  model, weights, peer = pair
  spec, dtype = model.spec, model.compute.dtype
  codes_BNP, inputs_BT = generating.prompt(spec, batch, settings.context, harness.seed)
  count = settings.further * spec.frame_tokens
  sampling = generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
  decoder = generate.Decoder(
    model, weights, window=settings.context + settings.further, sampling=sampling
  )
  numbers = np.arange(batch, dtype=np.uint32)
  videos = generate.Batch(codes_BNP, numbers, np.zeros_like(numbers))
  ours_s: list[float] = []  # to the first frame, of each turn
  theirs_s: list[float] = []

  def ours() -> np.ndarray:
    begin, made = time.perf_counter(), []
    for frame in decoder.frames(videos, further=settings.further):
      if not made:
        ours_s.append(time.perf_counter() - begin)
      made.append(frame.codes_BP)
    return np.stack(made, axis=1)

  def theirs() -> np.ndarray:
    begin, chosen = time.perf_counter(), []

    def told(tokens: Any) -> None:
      chosen.append(tokens)
      if len(chosen) == spec.frame_tokens:
        theirs_s.append(time.perf_counter() - begin)

    return peer(inputs_BT, count, told)

  before = hardware.bytes_per_s(settings.copied_mib)

  def facts(rounds: measure.Rounds) -> dict[str, Any]:
    codes, tokens = rounds.warmup
    memory = max(before, hardware.bytes_per_s(settings.copied_mib))
    later = count - spec.frame_tokens  # tokens after the first frame
    mean = inputs_BT.shape[1] + spec.frame_tokens + (later - 1) / 2
    read = sum(generating.read_bytes(model, weights, rows=batch, tokens=mean))
    sides = {}
    for name, readings, first_s in (
      ("ours", rounds.ours, ours_s[1:]),
      ("theirs", rounds.theirs, theirs_s[1:]),
    ):
      steps_s = [r.usage.wall_s - first for r, first in zip(readings, first_s, strict=True)]
      step_s = statistics.median(steps_s) / later
      sides |= {
        f"first_frame_s_{name}": statistics.median(first_s),
        f"tokens_per_s_{name}": measure.spread([r.per_s for r in readings]).median,
        f"step_ms_{name}": 1e3 * step_s,
        f"memory_share_{name}": read / step_s / memory,
      }
    return {
      "width": model.config.width,
      "depth": model.config.depth,
      "threads": provenance.cores(),
      "measured_bytes_per_s": memory,
      "read_bytes_of_a_step": read,
      "tokens_equal_frac": float(np.mean(sequence.codes_of(tokens) == codes.reshape(batch, -1))),
      **sides,
    }

  return harness.compare(
    measure.Side("our cached decoding", ours, batch * count),
    measure.Side(
      "PyTorch, eager, transformers' generate with its dynamic cache, with the same weights",
      theirs,
      batch * count,
    ),
    case=f"{batch} x {inputs_BT.shape[1]} + {count} tokens, {dtype}",
    compares="continuing a video: a prompt is read, then the most likely tokens are chosen",
    unit="tokens",
    goals=lambda rounds: [measure.Goal("times transformers' tokens/s", rounds.ratio.median, GOAL)],
    facts=facts,
    told=told,
  )


def told(facts: Mapping[str, Any]) -> str:
  """Ours, and theirs in brackets, in one sentence."""
  return (
    "First frame after {first_frame_s_ours:.3g} s ({first_frame_s_theirs:.3g}),"
    " {tokens_per_s_ours:.4g} tokens/s ({tokens_per_s_theirs:.4g}), {memory_share_ours:.0%}"
    " ({memory_share_theirs:.0%}) of the {gb:.3g} GB/s that the memory gives"
  ).format(**facts, gb=facts["measured_bytes_per_s"] / 1e9)
