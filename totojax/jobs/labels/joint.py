"""`run = "joint"`: next-token training with probes beside it (Table 7)."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from totojax import assembly as parts
from totojax import train
from totojax.config.typed import typed
from totojax.jobs.labels import setup as supervised
from totojax.jobs.probe import runs as probe
from totojax.models import heads
from totojax.models import taps
from totojax.tasks import joint
from totojax.tasks import pretrain


def layers(config: Mapping[str, Any], depth: int) -> tuple[int, ...]:
  """The layers with heads; all but the embeddings where none are named."""
  found = tuple(config["layers"]) or tuple(range(1, depth + 1))
  taps.check_layers(found, depth)
  return found


def training(of: supervised.Setup) -> tuple[train.Run, probe.Score]:
  """A run for `train.fit`, and how its heads are scored."""
  shape = of.model.config
  head = typed(heads.HeadConfig, of.config["head"], "head")
  if not head.heads:
    head = dataclasses.replace(head, heads=shape.heads)
  at = layers(of.config, shape.depth)
  settings = len(of.optim.settings)
  task = joint.Joint(
      # This run's mask, not any: next tokens are not to be seen.
      pretrain.Pretrain(of.model, parts.parametrisation(of.run.config)),
      head=head,
      layers=at,
      classes=of.classes,
      settings=settings,
  )
  return supervised.training(
      of, task, facts={"heads": len(at) * settings, "layers": at}
  )
