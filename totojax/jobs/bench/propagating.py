"""Row `propagation`: labels of a first frame through a video, against plain PyTorch.

Shapes: T frames, h and w places, D width, C labels.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from totojax.config.bench import PropagationBench
from totojax.evals import propagation
from totojax.jobs.bench import measure, peers


def inputs(settings: PropagationBench, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Features [T, h, w, D] that change slowly, and labels [h, w, C] of the first frame."""
  rng, side = np.random.default_rng(seed), settings.grid
  shape = (settings.frames, side, side, settings.width)
  features_ThwD = rng.normal(size=shape).astype(np.float32)
  for t in range(1, len(features_ThwD)):
    features_ThwD[t] = 0.9 * features_ThwD[t - 1] + 0.44 * features_ThwD[t]
  numbers_hw = rng.integers(0, settings.labels, (side, side))
  return features_ThwD, np.eye(settings.labels, dtype=np.float32)[numbers_hw]


def temporary_bytes(settings: PropagationBench, chunk: int) -> int:
  """What a step needs beside the state and its result."""
  features_ThwD, labels_hwC = inputs(settings, seed=0)
  state = propagation.start(features_ThwD[0], labels_hwC, settings.rule)
  grid = features_ThwD.shape[1:3]
  program: Any = propagation.program(settings.rule, grid, chunk)
  memory = program.lower(state, features_ThwD[0]).compile().memory_analysis()
  assert memory is not None  # CPU, GPU and TPU tell it
  return memory.temp_size_in_bytes


def rows(settings: PropagationBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Frames per second, from features in numpy to soft labels in numpy.

  Raises:
    ImportError: PyTorch is missing.
  """
  features_ThwD, labels_hwC = inputs(settings, seed=harness.seed)
  theirs = peers.label_propagation(features_ThwD, labels_hwC, settings.rule)

  def ours() -> np.ndarray:
    return propagation.propagate(features_ThwD, labels_hwC, settings.rule, chunk=settings.chunk)

  side, further = settings.grid, settings.frames - 1
  rule = settings.rule
  yield harness.compare(
    measure.Side(f"ours, {settings.chunk} places at a time", ours, further),
    measure.Side("PyTorch: product, mask, topk, softmax, gather of a whole frame", theirs, further),
    case=f"{further} frames of {side} x {side}, {settings.width} wide",
    compares=(
      f"features to soft labels: {rule.context_frames} frames and the first, the {rule.top_k} most"
      f" alike within {rule.radius:g} places, float32"
    ),
    unit="frames",
    goals=measure.level("times PyTorch's frames/s"),
    facts=lambda rounds: {
      "largest_difference": float(np.abs(np.subtract(*rounds.warmup)).max()),
      "labels_equal_frac": float(np.mean(np.equal(*(x.argmax(-1) for x in rounds.warmup)))),
      "temporary_bytes": temporary_bytes(settings, settings.chunk),
      "bytes_of_all_similarities": 4 * side**4 * (rule.context_frames + 1),
      "backend": jax.default_backend(),
    },
  )
