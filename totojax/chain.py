"""`run = "chain"`: stages one after the other, each a run of its own.

A stage is a whole config (with its own key `run`) under `config.stages`, and
lives in the folder of its name. "{workdir}" in a value is the chain's folder,
so that one stage can read what another wrote. A finished stage is not run
again; one that was cut goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any

from etils import epath

from totojax import jobs
from totojax import logs
from totojax import progress
from totojax import train

WORKDIR = "{workdir}"


def run(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Runs what is left of the chain; False when interrupted.

  Raises:
    ValueError: `order` and `stages` do not name the same stages.
  """
  order, stages = list(config["order"]), config["stages"]
  if sorted(order) != sorted(stages):
    raise ValueError(
        f"order names {order}, and stages has {sorted(stages)}; they must be"
        " the same"
    )
  logs.begin(workdir, config)
  for number, name in enumerate(order, 1):
    folder = workdir / name
    if logs.is_done(folder):
      continue
    train.say(f"[{number}/{len(order)}] {name}")
    begin = time.monotonic()
    stage = resolve(stages[name], str(workdir))
    if not jobs.run(stage, folder, interrupted):
      return False
    seconds = time.monotonic() - begin
    logs.mark_done(folder, seconds)
    train.say(f"[{number}/{len(order)}] {name}: {progress.duration(seconds)}")
  return True


def check(
    workdir: epath.PathLike, config: Mapping[str, Any], *, allow_change: bool
) -> epath.Path:
  """The chain's folder, if the stages that began were made with this config.

  A stage that has not begun may change: a mistake in it can be mended.

  Raises:
    ConfigChanged: names the keys that differ; also, with `allow_change`, where
      the stage is finished and would not be run again.
  """
  workdir = epath.Path(workdir)
  for name in config["order"]:
    folder = workdir / name
    stage = resolve(config["stages"][name], str(workdir))
    try:
      logs.check_config(folder, stage, allow_change=False)
    except logs.ConfigChanged as error:
      if not allow_change:
        raise
      if logs.is_done(folder):
        raise logs.ConfigChanged(
            f"{folder} is finished and was made with another config; remove it,"
            " and what later stages made of it, to run it again"
        ) from error
  return workdir


def resolve(value: Any, workdir: str) -> Any:
  """`value` with "{workdir}" filled in, in every string below it."""
  if isinstance(value, Mapping):
    return {key: resolve(below, workdir) for key, below in value.items()}
  if isinstance(value, str):
    return value.replace(WORKDIR, workdir)
  return value
