"""`run = "finetune"`: everything is trained to classify (Table 13, A.2)."""

from __future__ import annotations

from totojax import train
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.jobs.labels import scoring
from totojax.jobs.labels import setup as setup_lib
from totojax.tasks import finetune, mix


def training(setup: setup_lib.Setup) -> tuple[train.Run, scoring.Score]:
  """A run for `train.fit`, and how its head is scored.

  Raises:
    ConfigError: tokens are read, which cannot be mixed, or several rates are
      asked for, which one backbone cannot have.
  """
  config = setup.config
  assert isinstance(config, labels.Finetune)
  if setup.tokenizer is None:
    raise ConfigError(
      "data.source is 'tokens', and fine-tuning mixes and changes pixels; use"
      " 'folder' or 'imagenet', with data.root and data.encode_with"
    )
  if len(config.optim.head_lr_mults) != 1:
    raise ConfigError(
      f"optim.head_lr_mults is {config.optim.head_lr_mults}; fine-tuning has"
      " one head: name one number"
    )
  classes = setup.sets.classes
  task = finetune.FineTune(setup.backbone, setup.model, config.head, classes=classes)
  return setup_lib.training(
    setup,
    task,
    wrap=lambda inner: mix.MixFrames(inner, config.mix, classes=classes),
    used=finetune.used,
    facts={"prefix_tokens": setup.model.config.prefix_tokens},
  )
