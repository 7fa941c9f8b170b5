"""Recipes of studies, beside `recipes`: several runs, compared."""

from collections.abc import Sequence
import math

from ml_collections import ConfigDict

from totojax.config import model as models, roots, schema


def tuned_mup(base_width: int) -> ConfigDict:
  """µP, on, for an untied head, with multipliers that were tuned.

  In `configs/mup_sweep.py` at widths of 32 to 256, on a CPU; with the section's
  defaults wider models learnt hardly better there (see docs/results.md).
  """
  tuned = models.MupConfig(
    on=True, base_width=base_width, matrix_std=base_width**-0.5, embedding_std=1.0, output=8.0
  )
  return schema.to_config(tuned)


def sizes(*widths: int, depth: int, heads: int, mlp_ratio: float | None = None) -> ConfigDict:
  """Models of one depth by name, for a sweep over widths; without a ratio `mlp_dim`'s MLPs."""
  shape = dict(depth=depth, heads=heads)
  models = {
    f"w{w}": dict(width=w, mlp_dim=int(w * mlp_ratio) if mlp_ratio else mlp_dim(w), **shape)
    for w in widths
  }
  return ConfigDict(models)


def mlp_dim(width: int) -> int:
  """Hidden units of Table 15's family, of which `PRESETS` a1 to a6 are.

  8/3 of the width, as SwiGLU has it, up to the next multiple of 128, or of half
  the width where that is less: 3 times the width up to 256.
  """
  multiple = min(128, max(width // 2, 1))
  return -(-8 * width // (3 * multiple)) * multiple


def coord_check(models: ConfigDict) -> ConfigDict:
  """`run = "coord_check"`: do activations keep their size over the width?

  `models`: name -> sizes, in place of pretrain.model's.
  """
  c = roots.config("coord_check")
  c.coord_check.models = models
  return c


def sweep(pretrain: ConfigDict, models: ConfigDict) -> ConfigDict:
  """`run = "sweep"`: every combination of the lists, and their optima.

  `models`: name -> sizes, in place of those of `pretrain`, which all runs share.
  """
  c = roots.config("sweep")
  c.pretrain = pretrain
  c.sweep.models = models
  c.sweep.total_tokens = (pretrain.train.total_tokens,)
  return c


def scaling(*runs: str) -> ConfigDict:
  """`run = "scaling"`: the law (Figure 9) of runs of pre-training, "NAME=FOLDER" each."""
  c = roots.config("scaling")
  c.scaling.runs = runs
  return c


def curves(*runs: str) -> ConfigDict:
  """`run = "curves"`: training losses (Figure 2) of the same, over tokens."""
  c = roots.config("curves")
  c.curves.runs = runs
  return c


def lengthen(pretrain: ConfigDict, steps: int) -> None:
  """Gives a config of pre-training so many updates, of which the last is evaluated."""
  pretrain.train.total_tokens = float(steps * pretrain.train.batch_tokens)
  pretrain.every.update(eval_steps=steps, checkpoint_steps=steps)


def branched(name: str, pretrain: ConfigDict, lengths: Sequence[int]) -> dict[str, ConfigDict]:
  """Stages: runs of several lengths, the shorter ones decays that branch off the longest.

  Their warm-up and constant rate are one run (Hägele et al., 2024). The rate
  falls to 0, over `optim.decay_frac` of each.

  Args:
    name: of the longest, before "_" and its updates of the others.
    pretrain: what all share; a copy is changed.
    lengths: updates of each.
  """
  *shorter, longest = sorted(lengths)
  begins = {steps: steps - round(pretrain.optim.decay_frac * steps) for steps in shorter}
  trunk = pretrain.copy_and_resolve_references()
  trunk.optim.update(schedule="wsd", end_lr_frac=0.0)
  lengthen(trunk, longest)
  kept = math.gcd(*begins.values())
  trunk.every.checkpoint_steps = trunk.checkpoint.keep_every_steps = kept
  stages = {name: trunk}
  for steps, begin in begins.items():
    stage = stages[f"{name}_{steps}"] = trunk.copy_and_resolve_references()
    stage.branch_from = f"{{workdir}}/{name}@{begin}"
    lengthen(stage, steps)
  return stages
