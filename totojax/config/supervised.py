"""Configs of joint training and fine-tuning; their keys are in `labels`."""

from __future__ import annotations

from ml_collections import ConfigDict

from totojax.config import labels
from totojax.config import schema


def joint(model_run: str) -> ConfigDict:
  """`run = "joint"`: next-token loss, and probes of the layers (Table 7).

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  return schema.to_config(labels.Joint(model_run=model_run))


def joint_of_clips(model_run: str, stores: str) -> ConfigDict:
  """The same on clips of 16 x 16 tokens of Kinetics-400 (section 4.3).

  Args:
    model_run: run directory of `run = "pretrain"`.
    stores: folder with the stores train and val of tokens.
  """
  c = joint(model_run)
  c.model.rope_base = 10_000.0  # that of the model
  c.data.update(
      source="tokens", train=f"{stores}/train", validation=f"{stores}/val",
      grid=0, classes=400, expected=0,
  )  # fmt: skip
  c.data.reading.update(workers=0, prefetch=2)  # tokens need no processes
  c.train.update(batch_rows=256, score_rows=256)
  return c


def finetune(model_run: str) -> ConfigDict:
  """`run = "finetune"`: MAE's recipe for ViT-B (Table 13, A.2).

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  return schema.to_config(labels.Finetune(model_run=model_run))
