"""`run = "finetune"`: everything is trained to classify (Table 13, A.2)."""

from __future__ import annotations

from totojax import train
from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.jobs.labels import setup as supervised
from totojax.jobs.probe import runs as probe
from totojax.tasks import finetune
from totojax.tasks import mix


def training(of: supervised.Setup) -> tuple[train.Run, probe.Score]:
  """A run for `train.fit`, and how its head is scored.

  Raises:
    ConfigError: tokens are read, which cannot be mixed, or several rates are
      asked for, which one backbone cannot have.
  """
  if of.tokenizer is None:
    raise ConfigError(
        "data.source is 'tokens', and fine-tuning mixes and changes pixels; use"
        " 'folder' or 'imagenet', with data.root and data.encode_with"
    )
  if len(of.optim.head_lr_mults) != 1:
    raise ConfigError(
        f"optim.head_lr_mults is {of.optim.head_lr_mults}; fine-tuning has one"
        " head: name one number"
    )
  config = typed(finetune.FineTuneConfig, of.config["head"], "head")
  mixing = typed(mix.MixConfig, of.config["mix"], "mix")
  task = finetune.FineTune(
      of.backbone, of.model, config, classes=of.classes
  )
  return supervised.training(
      of,
      task,
      wrap=lambda inner: mix.MixFrames(inner, mixing, classes=of.classes),
      used=finetune.used,
      facts={"prefix_tokens": of.model.config.prefix_tokens},
  )
