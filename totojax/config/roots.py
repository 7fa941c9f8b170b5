"""Which keys a config has, by the name of its job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from totojax.config import labels
from totojax.config import pretrain
from totojax.config import schema

# Value of the key `run` -> the whole config of that job.
ROOTS: Mapping[str, type] = {
    "pretrain": pretrain.Pretrain,
    "validate": pretrain.Validate,
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
  name = values.get("run")
  if name not in ROOTS:
    raise schema.ConfigError(
        f"config.run is {name!r}; the jobs are {', '.join(sorted(ROOTS))}"
    )
  return schema.read(ROOTS[name], values, path, fill=fill)
