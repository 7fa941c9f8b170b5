"""totojax: autoregressive pre-training from videos.

  python -m totojax.main --config=configs/demo.py
  python -m totojax.main --config=configs/1b.py --workdir=gs://bucket/toto-1b

The file after --config says which job is run (its key `run`) and holds every
setting; --config.section.key=value changes one. --workdir is where the run
lives. The same command again goes on where the last one stopped; SIGTERM and
Ctrl-C save first. Configs that ship with the package are found by name.
"""

import functools
import os
import pathlib
import signal
import sys
import time
import traceback
from typing import Any

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict

from totojax import jobs, storage
from totojax.config import arguments
from totojax.rundir import console
from totojax.storage import outages

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "The config file, as configs/demo.py; --config.section.key=value sets one of its keys.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Where the run lives: a folder or gs://, and s3:// where it makes data alone."
  " Default: runs/NAME for configs/NAME.py.",
)
_ALLOW = flags.DEFINE_bool(
  "allow_changed_config",
  False,
  "Go on in a workdir that was made with another config, or with other data.",
)
_OTHER_VERSIONS = flags.DEFINE_bool(
  "allow_other_versions",
  False,
  "Go on with data that was begun under other versions of PyAV, FFmpeg or Pillow.",
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error was found.")
_LIST = flags.DEFINE_bool(
  "list", False, "Print every key of the config, with its value, meaning and unit, and end."
)
_MULTIHOST = flags.DEFINE_bool(
  "multihost",
  False,
  "One process of several. On a TPU pod they find each other; elsewhere give"
  " --coordinator, --processes and --process.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "Address host:port of process 0, with --multihost."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer(
  "process", None, "Number of this process, from 0, with --coordinator."
)
_HOST_TIMEOUT = flags.DEFINE_integer(
  "host_timeout_s",
  100,
  "Seconds of silence after which a process is taken for lost, with --multihost: all others then"
  " end with an error. One whose connection breaks is missed at once.",
)
_START_TIMEOUT = flags.DEFINE_integer(
  "start_timeout_s",
  300,
  "Seconds that processes wait for each other at the start, with --multihost.",
)
_STORAGE_TIMEOUT = flags.DEFINE_float(
  "storage_timeout_s",
  outages.PATIENCE_S,
  "Seconds that a run waits for storage that does not answer. Then it ends with"
  " exit status 75: the same command may succeed later.",
)


class Interrupt:
  """SIGTERM or Ctrl-C asks the job to save and leave at its next boundary."""

  def __init__(self):
    self._asked = False
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._ask)

  def _ask(self, number: int, frame: Any) -> None:
    del frame
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt  # the second Ctrl-C does not wait
    self._asked = True
    waits = sys.modules.get("totojax.rundir.lease")
    if waits is not None and waits.waiting:  # nothing is begun that could be lost
      print("totojax: stopped while it waited for the work directory", file=sys.stderr)
      raise SystemExit(0)

  def __call__(self, step: int) -> bool:
    """Whether to leave after `step`; on several hosts the same step on all."""
    import jax

    if jax.process_count() == 1:
      return self._asked
    from jax.experimental import multihost_utils

    # jax.distributed has taken SIGTERM over, to make all hosts agree on a step.
    return multihost_utils.reached_preemption_sync_point(step)


def _main(config: ConfigDict | None, argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"{argv[1:]} is not understood; flags begin with --")
  if config is None:
    raise app.UsageError("--config is missing; try --config=configs/demo.py")
  values = config.to_dict()
  # Before jax and the signals: listing keys needs no device.
  if _LIST.value:
    _print_keys(values)
    return
  # From here on a signal means "save and leave", also while jax starts.
  interrupted = Interrupt()
  if not flags.FLAGS["verbosity"].present:
    console.quieten_orbax()
  job = jobs.JOBS.get(str(values.get("run")))
  try:
    if _WORKDIR.value == "":
      raise ValueError(
        "--workdir is empty; name a folder, or leave the flag out for runs/NAME (is a variable of"
        " the shell not set?)"
      )
    storage.check_run(_WORKDIR.value or "", data=job is not None and job.data)
    outages.set_patience(_STORAGE_TIMEOUT.value)
  except ValueError as error:
    sys.exit(f"totojax: {error}")
  # What jax reads once, as it starts; what the user has set stays.
  for name, value in (job.environment if job else {}).items():
    os.environ.setdefault(name, value)
  alone = not _MULTIHOST.value
  # Which of several processes is the first is known before jax where it is told.
  with console.phase("starting jax", shown=alone or _PROCESS.value == 0):
    import jax  # only now: the signals are ours

    console.after_jax()
    if alone:
      jax.devices()
  from totojax import rundir
  from totojax.rundir import hosts

  if alone:
    _work(values, interrupted)
    return
  peers = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
  try:
    hosts.check(*peers)
  except ValueError as error:
    sys.exit(f"totojax: {error}")
  # An error of one process must end the others too: none of them leaves by
  # the usual door, where jax makes each wait for all.
  try:
    hosts.join(*peers, start_timeout_s=_START_TIMEOUT.value, silence_timeout_s=_HOST_TIMEOUT.value)
    _work(values, interrupted)
  except SystemExit as error:  # a line was made of the error already
    if not error.code:
      raise
    hosts.leave(str(error.code))
  except jax.errors.JaxRuntimeError as error:
    if _TRACEBACK.value:
      traceback.print_exc()
    # That another process is gone shows first as a failed collective.
    if hosts.is_loss(error):
      hosts.leave(hosts.lost(str(error).partition("\n")[0]), rundir.RESTART)
    traceback.print_exc()
    hosts.leave("totojax: this process ends, and with it the run")
  except Exception as error:
    traceback.print_exc()
    hosts.leave(f"totojax: {error}")


def _print_keys(config: dict[str, Any]) -> None:
  """What `--list` prints; a key that is wrong is one line."""
  from totojax.config import document, roots

  try:
    print(document.listing(roots.read(config)), flush=True)
  except BrokenPipeError:  # whoever reads has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except ValueError as error:
    sys.exit(f"totojax: {error}")


def _work(values: dict[str, Any], interrupted: Interrupt) -> None:
  """Runs the job of the config; an error that users can mend is one line."""
  from totojax import rundir
  from totojax.rundir import directory, hosts, provenance

  provenance.allow_other_data(_ALLOW.value)
  provenance.allow_other_versions(_OTHER_VERSIONS.value)

  file, _, _ = (_CONFIG.value or "").partition(":")
  folder = epath.Path(_WORKDIR.value or f"runs/{pathlib.Path(file).stem}")
  begin = time.monotonic()
  try:
    # From here on there is no untyped config.
    config = jobs.typed(values, folder)
    job = jobs.find(config.run)
    # A plan leaves no run behind, so there is nothing to check or to finish.
    if not job.kept:
      jobs.run(config, folder / config.run, interrupted)
      return
    hosts.first(lambda: jobs.enter(folder))
    # Before the marker: a finished run of another config is not "done already".
    workdir = job.check(folder, config, allow_change=_ALLOW.value)
    if job.is_done(workdir, config):
      console.say(f"{workdir}: done already")
    elif jobs.run(config, workdir, interrupted):
      directory.mark_done(workdir, time.monotonic() - begin)
    else:
      console.say(f"{workdir}: stopped; run the same command again to go on")
  except Exception as error:
    away = outages.is_away(error)
    if not away and (_TRACEBACK.value or not isinstance(error, jobs.ERRORS)):
      raise
    if _TRACEBACK.value:
      traceback.print_exc()
    # What libraries left half done must not talk after the message.
    sys.unraisablehook = lambda unraisable: None
    line = f"totojax: {error}\n(--traceback shows where this was found)"
    # At once: a save that still waits, or may not go on, would hold this process.
    if away or isinstance(error, rundir.Lost):
      hosts.leave(line, rundir.RESTART if away else 1)
    sys.exit(line)


def _show_help_of_this_file() -> None:
  """Lets --help print our text and flags where the script is another file.

  absl prints those of the main module, which it knows by the program's name.
  """
  sys.modules["__main__"].__doc__ = __doc__
  for flag in flags.FLAGS.get_key_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def run() -> None:
  """The console entry: finds the config, then hands over to absl."""
  if __name__ != "__main__":
    _show_help_of_this_file()
  try:
    config, words = arguments.read(sys.argv)
  except (ValueError, OSError) as error:
    if "--traceback" in sys.argv:
      raise
    sys.exit(f"totojax: {error}")
  console.before_jax()
  app.run(functools.partial(_main, config), words, flags_parser=arguments.parse)


if __name__ == "__main__":
  run()
