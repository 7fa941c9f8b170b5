"""`run = "joint"`: next-token training with probes beside it (Table 7)."""

from __future__ import annotations

from totojax import assembly, train
from totojax.config import labels
from totojax.jobs.labels import scoring
from totojax.jobs.labels import setup as setup_lib
from totojax.models import heads, taps
from totojax.tasks import joint, pretrain


def layers(setup: setup_lib.Setup) -> tuple[int, ...]:
  """The layers with heads; all but the embeddings where none are named."""
  depth = setup.model.config.depth
  assert isinstance(setup.config, labels.Joint)
  chosen = setup.config.layers or tuple(range(1, depth + 1))
  taps.check_layers(chosen, depth)
  return chosen


def training(setup: setup_lib.Setup) -> tuple[train.Run, scoring.Score]:
  """A run for `train.fit`, and how its heads are scored."""
  assert isinstance(setup.config, labels.Joint)
  chosen = layers(setup)
  head = heads.filled(setup.config.head, setup.model.config)
  settings = len(setup.config.optim.settings)
  task = joint.Joint(
    # This run's mask, not any: next tokens are not to be seen.
    pretrain.Pretrain(setup.model, assembly.parametrisation(setup.run.config)),
    head=head,
    layers=chosen,
    classes=setup.sets.classes,
    settings=settings,
  )
  return setup_lib.training(setup, task, facts={"heads": len(chosen) * settings, "layers": chosen})
