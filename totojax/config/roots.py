"""Which keys a config has, by the name of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from totojax.config import bench
from totojax.config import pretrain
from totojax.config import schema
from totojax.config import studies

# Value of the key `run` -> the whole config of that job.
ROOTS: Mapping[str, type] = {
    "pretrain": pretrain.Pretrain,
    "validate": pretrain.Validate,
    "audit": studies.Audit,
    "coord_check": studies.CoordCheckJob,
    "sweep": studies.SweepJob,
    "scaling": studies.ScalingJob,
    "curves": studies.CurvesJob,
    "probe_seeds": studies.ProbeSeeds,
    "bench": bench.BenchJob,
    "report": studies.Report,
    "chain": studies.Chain,
}


def job(values: Mapping[str, Any]) -> str:
  """The job that a config is of; of a plan, that which is planned.

  Raises:
    schema.ConfigError: it has no plan.
  """
  name = values.get("run")
  if name != "plan":
    return name
  if "model_run" in values:
    raise schema.ConfigError(
        "a plan is of pre-training or of tokenizing; this config starts from"
        " model_run. Plan a pre-training config of its model and grid"
    )
  return "pretrain" if {"model", "optim"} <= set(values) else "tokenize"


def read(
    values: Mapping[str, Any], path: str = "", *, fill: bool = False
) -> Any:
  """The typed config of the job that `values["run"]` names.

  Raises:
    schema.ConfigError: as `schema.read`, or there is no such job.
  """
  name = job(values)
  if name not in ROOTS:
    raise schema.ConfigError(
        f"config.run is {name!r}; the jobs are {', '.join(sorted(ROOTS))}"
    )
  if name == "chain":
    stages = values.get("stages", {})
    stages = {
        stage: read(config, f"{path}.stages.{stage}".lstrip("."), fill=fill)
        if job(config) in ROOTS
        else config
        for stage, config in stages.items()
    }
    values = {**values, "stages": stages}
  return schema.read(ROOTS[name], values, path, fill=fill)
