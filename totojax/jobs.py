"""The jobs that are one call of `train.fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from totojax import train
from totojax.build import pretrain as build_pretrain


def pretrain(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Pre-trains; True when finished, False when interrupted."""
  run = build_pretrain.pretraining(config)
  _, finished = train.fit(run, workdir, interrupted=interrupted)
  return finished
