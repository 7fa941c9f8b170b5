"""Which keys a config has, by the name of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from totojax import plugins
from totojax.config import bench
from totojax.config import corpus
from totojax.config import labels
from totojax.config import pixels
from totojax.config import pretrain
from totojax.config import schema
from totojax.config import studies
from totojax.config import tokens

# Value of the key `run` -> the whole config of that job.
ROOTS: Mapping[str, type] = {
    "render": pixels.Render,
    "decode": pixels.Decode,
    "photos": pixels.Photos,
    "tokenizer": tokens.Tokenizer,
    "shards": tokens.Shards,
    "tokenize": corpus.Tokenize,
    "features": corpus.Features,
    "leakage": tokens.Leakage,
    "official": tokens.Official,
    "tokens_report": tokens.TokensReport,
    "pretrain": pretrain.Pretrain,
    "validate": pretrain.Validate,
    "audit": studies.Audit,
    "coord_check": studies.CoordCheckJob,
    "sweep": studies.SweepJob,
    "scaling": studies.ScalingJob,
    "curves": studies.CurvesJob,
    "bench": bench.BenchJob,
    "report": studies.Report,
    "chain": studies.Chain,
    "probe": labels.Probe,
    "probe_seeds": labels.ProbeSeeds,
    "joint": labels.Joint,
    "finetune": labels.Finetune,
}


def read(
    values: Mapping[str, Any], path: str = "", *, fill: bool = False
) -> Any:
  """The typed config of the job that `values["run"]` names.

  Raises:
    schema.ConfigError: as `schema.read`, or there is no such job.
  """
  cls = root(values)
  if cls is studies.Chain:
    stages = {
        name: read(stage, f"{path}.stages.{name}".lstrip("."), fill=fill)
        if stage.get("run") in ROOTS
        else stage
        for name, stage in values.get("stages", {}).items()
    }
    values = {**values, "stages": stages}
  return schema.read(cls, values, path, fill=fill)


def root(values: Mapping[str, Any]) -> type:
  """Which of `ROOTS` a config is; for a plan, of which job it is a plan.

  Raises:
    schema.ConfigError: there is no such job, or no plan of it.
  """
  name = values.get("run")
  if name == "plan":
    return _root_of_plan(values)
  if plugins.is_reference(name):
    keys, _ = plugins.load(name, "job", tuple)
    return keys
  if name not in ROOTS:
    raise schema.ConfigError(
        f"config.run is {name!r}; the jobs are {', '.join(sorted(ROOTS))}"
    )
  return ROOTS[name]


def _root_of_plan(values: Mapping[str, Any]) -> type:
  told = "a plan is of pre-training or of tokenizing; this config"
  if "model_run" in values:
    raise schema.ConfigError(
        f"{told} starts from model_run. Plan a pre-training config of its model"
        " and grid"
    )
  if {"model", "optim"} <= set(values):
    return pretrain.Pretrain
  if "source" in values:
    return corpus.Tokenize
  raise schema.ConfigError(
      f"{told} has neither a model nor a source. Plan configs/1b.py or"
      " configs/tokenize.py, with your changes"
  )
