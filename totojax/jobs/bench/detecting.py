"""Row `detection`: what a detector has beside a network, NMS and RoI align, against plain PyTorch.

Both sides get arrays of numpy and give some. What torchvision computes of a golden
is what both compute (tests/test_detection.py, tests/test_bench.py).

Shapes: K boxes, R regions, P bins of a side, G cells of a map's side, C channels.
"""

from collections.abc import Iterator
import functools
from typing import Any

import jax
import numpy as np

from totojax.config.bench import DetectionBench
from totojax.jobs.bench import measure, torch_detection
from totojax.models import boxes, regions


def drawn(count: int, *, size_px: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(boxes [K, 4], scores [K]): crowds about a few places, as a detector proposes."""
  rng = np.random.default_rng(seed)
  middles_O2 = rng.uniform(0.2, 0.8, (max(count // 50, 1), 2)) * size_px
  sides_O2 = rng.uniform(0.1, 0.4, middles_O2.shape) * size_px
  which_K = rng.integers(0, len(middles_O2), count)
  noise = lambda: rng.normal(0.0, 0.15, (count, 2)) * sides_O2[which_K]
  middles_K2, sides_K2 = middles_O2[which_K] + noise(), np.abs(sides_O2[which_K] + noise()) + 1.0
  corners = np.concatenate([middles_K2 - sides_K2 / 2, middles_K2 + sides_K2 / 2], 1)
  return np.clip(corners, 0, size_px).astype(np.float32), rng.uniform(size=count).astype(np.float32)


def rows(settings: DetectionBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Pictures per second: of NMS, then of RoI align in each map.

  Raises:
    ImportError: PyTorch is missing.
  """
  facts: dict[str, Any] = {"backend": jax.default_backend()}
  boxes_K4, scores_K = drawn(settings.boxes, size_px=settings.size_px, seed=harness.seed)
  suppress = jax.jit(functools.partial(boxes.nms, threshold=settings.threshold))
  yield harness.compare(
    measure.Side(
      "ours: all boxes at once until nothing changes",
      lambda: np.asarray(suppress(boxes_K4, scores_K)),
      1,
    ),
    measure.Side(
      "PyTorch: the best that is left, and what overlaps it goes",
      torch_detection.nms(boxes_K4, scores_K, settings.threshold),
      1,
    ),
    case=f"NMS of {settings.boxes} boxes",
    compares=f"which boxes stay at an IoU of {settings.threshold:g}",
    unit="pictures",
    goals=measure.level("times PyTorch's pictures/s"),
    facts=lambda rounds: (
      facts
      | {"stay": int(rounds.warmup[0].sum()), "differ": int(np.not_equal(*rounds.warmup).sum())}
    ),
  )
  regions_R4, _ = drawn(settings.regions, size_px=settings.size_px, seed=harness.seed + 1)
  for grid in settings.grids:
    rng = np.random.default_rng(harness.seed)
    map_GGC = rng.normal(size=(grid, grid, settings.width)).astype(np.float32)
    how: dict[str, Any] = dict(
      scale=grid / settings.size_px, bins=settings.bins, samples=settings.samples
    )
    align = jax.jit(functools.partial(regions.roi_align, **how))
    yield harness.compare(
      measure.Side(
        "ours: two products of matrices for each region",
        lambda align=align, map_GGC=map_GGC: np.asarray(align(map_GGC, regions_R4)),
        1,
      ),
      measure.Side(
        "PyTorch: four corners of each sample, weighted",
        torch_detection.roi_align(map_GGC, regions_R4, **how),
        1,
      ),
      case=f"RoI align of {settings.regions} regions in {grid} x {grid} x {settings.width}",
      compares=f"{settings.bins} x {settings.bins} bins of {settings.samples} x"
      f" {settings.samples} samples, float32",
      unit="pictures",
      goals=measure.level("times PyTorch's pictures/s"),
      facts=lambda rounds: (
        facts | {"largest_difference": float(np.abs(np.subtract(*rounds.warmup)).max())}
      ),
    )
