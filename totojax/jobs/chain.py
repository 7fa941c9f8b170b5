"""`run = "chain"`: stages one after the other, each a run of its own.

A stage is a whole config (with its own key `run`) under `config.stages`, and
lives in the folder of its name. "{workdir}" in a value is the chain's folder,
wherever that is, so that one stage can read what another wrote, also after the
chain was moved. A finished stage is not run again; one that was cut goes on
where it stopped. With `keep_going` one that fails is noted in failures.json, and
those that do not read it are run; the next start tries it again.
"""

import time
import traceback
from typing import Any

from etils import epath
import jax

from totojax import jobs, rundir
from totojax.config import roots, studies
from totojax.jobs import foresight
from totojax.rundir import console, devices, directory, files
from totojax.storage import disks, outages

_PAGES = frozenset({"report", "miniature"})  # jobs that show what the other stages left
FAILURES = "failures.json"  # stage -> why it failed, or what it reads that did


def run(config: studies.Chain, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Runs what is left of the chain; False when interrupted.

  Raises:
    ConfigError: its stages do not fit each other; none was begun.
    rundir.RunError: with `keep_going`, when all others are done: stages failed.
  """
  foresight.check(config, workdir)
  directory.begin(workdir, config)
  failed: dict[str, str] = {}
  for number, name in enumerate(config.order, 1):
    folder, is_page = workdir / name, _is_page(config.stages[name])
    if _is_whole(config, name, workdir):
      continue
    if not is_page:
      _outdate(config, workdir)
    place = f"[{number}/{len(config.order)}] {name}"
    console.say(place)
    begin = time.monotonic()
    try:
      _check_read(config.stages[name], failed)
      if not _run(config, name, workdir, interrupted):
        return False
    except Exception as error:
      if not config.keep_going or _ends_all(error):
        raise
      failed[name] = _told(error)
      console.say(f"{place} failed: {failed[name]}; the stages that do not read it go on")
    else:
      seconds = time.monotonic() - begin
      directory.mark_done(folder, seconds)
      console.say(f"{place}: {console.duration(seconds)}")
    if config.keep_going and not is_page:
      _show(config, workdir, failed, interrupted)
  if failed:
    files.write_json(workdir / FAILURES, failed)
    raise rundir.RunError(
      f"{len(failed)} of {len(config.order)} stages are not done: {', '.join(failed)}"
      f" ({workdir / FAILURES} has the reasons); run the same command again to try them again"
    )
  return True


def _run(
  config: studies.Chain, name: str, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Runs a stage; whether it is finished."""
  return jobs.run(directory.typed(config.stages[name], workdir), workdir / name, interrupted)


def _is_page(stage: Any) -> bool:
  """Whether a stage is made anew when another is, of what is there."""
  return roots.job(stage) in _PAGES


def _is_whole(config: studies.Chain, name: str, workdir: epath.Path) -> bool:
  """Whether a stage is finished, and a page that may change as it is asked for now."""
  if config.keep_going and _is_page(config.stages[name]):
    try:
      directory.check_config(workdir / name, config.stages[name], allow_change=False)
    except directory.ConfigChanged:
      return False
  return directory.is_done(workdir / name)


def _outdate(config: studies.Chain, workdir: epath.Path) -> None:
  """Has pages made anew, whenever that is: a stage that they show changes."""
  for name in config.order:
    if _is_page(config.stages[name]):
      files.remove(workdir / name / "done.json")


class _NotMade(rundir.RunError):
  """What a stage reads was not made."""


def _check_read(stage: Any, failed: dict[str, str]) -> None:
  """Raises _NotMade where a stage reads one that failed; a page shows what there is."""
  if _is_page(stage):
    return
  for name in studies.reads(directory.written(stage)):
    if name in failed:
      raise _NotMade(f"it reads {name}, which failed")


def _ends_all(error: Exception) -> bool:
  """Whether no other stage would fare better: the disk, storage, a device, another process."""
  if isinstance(error, (rundir.Lost, rundir.PeerLost, rundir.InUse)) or jax.process_count() > 1:
    return True  # of several processes the others do not know of it
  away = outages.is_away(error) or disks.number(error) is not None
  return away or devices.is_lost(error)


def _told(error: Exception) -> str:
  """One line; of what nobody foresaw the traceback is printed."""
  if isinstance(error, jobs.ERRORS):
    return outages.brief(error)
  traceback.print_exception(error)
  return f"{type(error).__name__}: {outages.brief(error)}"


def _show(
  config: studies.Chain, workdir: epath.Path, failed: dict[str, str], interrupted: jobs.Interrupted
) -> None:
  """Makes the pages of a chain that is on its way, before it comes to them."""
  files.write_json(workdir / FAILURES, failed)
  for name in config.order:
    if _is_page(config.stages[name]):
      try:
        _run(config, name, workdir, interrupted)
      except Exception as error:
        if _ends_all(error):
          raise
        _told(error)  # when its turn comes it fails


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
    if config.keep_going and _is_page(stage):
      continue  # its config may change: it is made anew
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
  return directory.is_done(workdir) and all(
    _is_whole(config, name, workdir) for name in config.order
  )
