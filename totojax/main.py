"""totojax: autoregressive pre-training from videos.

  python -m totojax.main --config=configs/demo.py
  python -m totojax.main --config=configs/1b.py --workdir=gs://bucket/toto-1b

The file after --config says which job is run (its key `run`) and holds every
setting; --config.section.key=value changes one. --workdir is where the run
lives. The same command again goes on where the last one stopped; SIGTERM and
Ctrl-C save first. Configs that ship with the package are found by name.

  totojax --config=configs/1b.py --list=optim   the keys of its section optim
  totojax --config=configs/doctor.py            what is wrong with this machine
  eval "$(totojax --completion=bash)"           completion by TAB; or zsh
"""

import atexit
import contextlib
import functools
import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict

from totojax import jobs, storage
from totojax.config import arguments
from totojax.config.schema import ConfigError
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
  "allow_changed_config", False, "Go on in a workdir made with another config, or with other data."
)
_OTHER_VERSIONS = flags.DEFINE_bool(
  "allow_other_versions", False, "Go on with data of other versions of PyAV, FFmpeg or Pillow."
)
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error was found.")
_LIST = flags.DEFINE_flag(
  flags.Flag(
    flags.ArgumentParser(),
    flags.ArgumentSerializer(),
    "list",
    None,
    "Print every key of the config with its value, type and meaning, and end;"
    " --list=optim: those of a section.",
    boolean=True,  # so that it needs no value
  )
)
_COMPLETION = flags.DEFINE_enum(
  "completion",
  None,
  ["bash", "zsh", "keys"],
  "Print what completes this command in a shell, and end; keys: those of the config, for that.",
)
_WANDB = flags.DEFINE_string("wandb", None, "Project on W&B that gets the rows too: extra wandb.")
_MULTIHOST = flags.DEFINE_bool(
  "multihost",
  False,
  "One process of several. On a TPU pod they find each other; elsewhere give"
  " --coordinator, --processes and --process.",
)
flags.DEFINE_string("coordinator", None, "Address host:port of process 0, with --multihost.")
flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process", None, "Number of this process, from 0, with --coordinator.")
flags.DEFINE_integer(
  "host_timeout_s",
  100,
  "Seconds of silence after which a process is taken for lost, with --multihost: all others then"
  " end with an error. One whose connection breaks is missed at once.",
)
flags.DEFINE_integer(
  "start_timeout_s", 300, "Seconds that processes wait for each other first, with --multihost."
)
_TWICE_S = 0.5  # in which a signal comes twice that was sent to a process and to its group
_OF_SEVERAL = ("coordinator", "processes", "process", "host_timeout_s", "start_timeout_s")
_STORAGE_TIMEOUT = flags.DEFINE_float(
  "storage_timeout_s",
  outages.PATIENCE_S,
  "Seconds that a run waits for storage that does not answer. Then it ends with"
  " exit status 75: the same command may succeed later.",
)


class Interrupt:
  """SIGTERM or Ctrl-C asks the job to save and leave at its next boundary.

  Python's handlers wait for the end of what is done outside of it, as of a
  compilation; so a thread says at once what is awaited, and ends the process
  where a second signal comes.
  """

  def __init__(self):
    self._asked = False
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # theirs are not ours
    threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._ask)
    # While Python ends it would be the default again, and the status not 0.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)

  def _ask(self, number: int, frame: Any) -> None:
    del number, frame
    self._asked = True
    for name, what in ("lease", "work directory"), ("peers", "other processes"):
      waits = sys.modules.get(f"totojax.rundir.{name}")
      if waits is not None and waits.waiting:  # nothing is begun that could be lost
        # The signal may have come within a print, which cannot be entered again.
        os.write(sys.stderr.fileno(), f"totojax: stopped while it waited for the {what}\n".encode())
        raise SystemExit(0)

  def _listen(self, heard: int) -> None:
    first_s = None
    while number := os.read(heard, 1):
      name, now_s = signal.Signals(number[0]).name, time.monotonic()
      if name not in ("SIGTERM", "SIGINT"):
        continue
      if first_s is None:
        first_s, doing = now_s, [*map(str, console.watchdog.doing)][-1:] or ["the start"]
        line = f"totojax: {name}: leaves when it can, after {doing[0]} (a second one ends it now)"
        with contextlib.suppress(OSError):  # nobody may read it
          os.write(2, f"{line}\n".encode())
      elif now_s - first_s > _TWICE_S:
        console.leave("totojax: ended; the last whole checkpoint stays\n", 128 + number[0])

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
    raise ConfigError(f"{argv[1:]} is not understood; flags begin with --")
  # Before jax and the signals: these need no device.
  if _COMPLETION.value:
    from totojax.config import completion

    return completion.show(_COMPLETION.value, config)
  if config is None:
    raise ConfigError("--config is missing; try --config=configs/demo.py")
  values = config.to_dict()
  if _LIST.value not in (None, "false"):
    from totojax.config import document

    return document.show(values, "" if _LIST.value == "true" else _LIST.value)
  job = jobs.JOBS.get(str(values.get("run")))
  if job is not None and job.early:
    return jobs.early(values, epath.Path(_WORKDIR.value or "runs"))
  # From here on a signal means "save and leave", also while jax starts.
  interrupted = Interrupt()
  if not flags.FLAGS["verbosity"].present:
    console.quieten_orbax()
  before_jax(job)
  alone, several = not _MULTIHOST.value, {name: flags.FLAGS[name] for name in _OF_SEVERAL}
  if not alone or any(flag.present for flag in several.values()):
    from totojax.rundir import peers

    peers.check(not alone, {name: flag.value for name, flag in several.items() if flag.present})
  console.watchdog.turn_on()
  # Which of several processes is the first is known before jax where it is told.
  shown = alone or several["process"].value == 0
  with console.watchdog.watched(), console.phase("starting jax", shown=shown):
    import jax  # only now: the signals are ours

    console.after_jax()
    if alone:
      jax.devices()
  if alone:
    work(values, interrupted)
    return
  from totojax.rundir import peers

  with console.watchdog.watched():
    where: dict[str, Any] = {name: flag.value for name, flag in several.items()}
    peers.join(**where)
    work(values, interrupted)


def before_jax(job: jobs.Job | None) -> None:
  """Checks what flags say of the place of a run, and sets what holds for the whole process."""
  if _WORKDIR.value == "":
    raise ConfigError(
      "--workdir is empty; name a folder, or leave the flag out for runs/NAME (is a variable of"
      " the shell not set?)"
    )
  try:
    storage.check_run(_WORKDIR.value or "", data=job is not None and job.data)
    outages.set_patience(_STORAGE_TIMEOUT.value)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  if _WANDB.value:
    from totojax.rundir import wandb_runs

    wandb_runs.turn_on(_WANDB.value)
  # What jax reads once, as it starts; what the user has set stays.
  for name, value in (job.environment if job else {}).items():
    os.environ.setdefault(name, value)


def work(values: dict[str, Any], interrupted: jobs.Interrupted) -> None:
  """Runs the job of the config."""
  from totojax.rundir import directory, hosts, provenance

  provenance.allow_other_data(_ALLOW.value)
  provenance.allow_other_versions(_OTHER_VERSIONS.value)

  file, _, _ = (_CONFIG.value or "").partition(":")
  folder = epath.Path(_WORKDIR.value or f"runs/{pathlib.Path(file).stem}")
  begin = time.monotonic()
  # From here on there is no untyped config.
  if _MULTIHOST.value:
    from totojax.jobs import agreement

    config = agreement.typed(values, folder, flags.FLAGS)
  else:
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


def _show_help_of_this_file() -> None:
  """Lets --help print our text and flags where the script is another file.

  absl prints those of the main module, which it knows by the program's name.
  """
  sys.modules["__main__"].__doc__ = __doc__
  for flag in flags.FLAGS.get_key_flags_for_module(__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def run() -> None:
  """The console entry: finds the config, then hands over to absl."""
  if {sys.getfilesystemencoding(), sys.stdout.encoding, sys.stderr.encoding} != {"utf-8"}:
    from totojax.rundir import utf8

    utf8.begin()
  if __name__ != "__main__":
    _show_help_of_this_file()
  try:
    config, words = arguments.read(sys.argv)
    console.before_jax()
    console.keep_compiled()
    app.run(functools.partial(_main, config), words, flags_parser=arguments.parse)
  except Exception as error:
    _end(error)


def _end(error: Exception) -> NoReturn:
  """Ends the process with a line and an exit status."""
  from totojax import failures  # only now: a run that goes well needs none

  parsed = flags.FLAGS.is_parsed()
  trace = _TRACEBACK.value if parsed else "--traceback" in sys.argv
  failures.end(error, trace=trace, alone=not (parsed and _MULTIHOST.value))


if __name__ == "__main__":
  run()
