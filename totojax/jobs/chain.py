"""`run = "chain"`: stages one after the other, each a run of its own.

A stage is a whole config (with its own key `run`) under `config.stages`, and
lives in the folder of its name. "{workdir}" in a value is the chain's folder,
wherever that is, so that one stage can read what another wrote, also after the
chain was moved. A finished stage is not run again; one that was cut goes on
where it stopped.
"""

import time

from etils import epath

from totojax import jobs
from totojax.config import studies
from totojax.jobs import foresight
from totojax.rundir import console, directory


def run(config: studies.Chain, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Runs what is left of the chain; False when interrupted.

  Raises:
    ConfigError: its stages do not fit each other; none was begun.
  """
  foresight.check(config, workdir)
  directory.begin(workdir, config)
  for number, name in enumerate(config.order, 1):
    folder = workdir / name
    if directory.is_done(folder):
      continue
    place = f"[{number}/{len(config.order)}] {name}"
    console.say(place)
    begin = time.monotonic()
    stage = directory.typed(config.stages[name], workdir)
    if not jobs.run(stage, folder, interrupted):
      return False
    seconds = time.monotonic() - begin
    directory.mark_done(folder, seconds)
    console.say(f"{place}: {console.duration(seconds)}")
  return True


def check(workdir: epath.PathLike, config: studies.Chain, *, allow_change: bool) -> epath.Path:
  """The chain's folder, if the stages that began were made with this config.

  A stage that has not begun may change: a mistake in it can be mended. One that
  is finished may not, not even with `allow_change`: it would not be run again.

  Raises:
    ConfigChanged: names the keys that differ.
  """
  workdir = epath.Path(workdir)
  for number, name in enumerate(config.order):
    folder, stage = workdir / name, config.stages[name]
    if not directory.is_done(folder):
      directory.check_config(folder, stage, allow_change=allow_change)
      continue
    later = config.order[number + 1 :]
    advice = (
      f"This stage is finished. Set the keys back, use another --workdir, or remove {folder}"
      + (f" and beside it {', '.join(later)}" if later else "")
      + ", to make it again"
    )
    directory.check_config(folder, stage, allow_change=False, advice=advice)
  return workdir


def is_done(workdir: epath.Path, config: studies.Chain) -> bool:
  """Whether the chain is finished, and none of its stages was removed since."""
  folders = [workdir, *(workdir / name for name in config.order)]
  return all(directory.is_done(folder) for folder in folders)
