"""totojax: autoregressive pre-training from videos.

  python -m totojax.main --config=configs/demo.py
  python -m totojax.main --config=configs/1b.py --workdir=gs://bucket/toto-1b

The file after --config says which job is run (its key `run`) and holds every
setting; --config.section.key=value changes one. --workdir is where the run
lives. The same command again goes on where the last one stopped; SIGTERM and
Ctrl-C save first. Configs that ship with the package are found by name.
"""

from __future__ import annotations

import os
import pathlib
import re
import signal
import sys
import time
import traceback
from typing import Any

from absl import app
from absl import flags
from absl import logging
from etils import epath
from ml_collections import config_flags
from ml_collections import ConfigDict

from totojax import jobs
from totojax.config import document
from totojax.config import roots
from totojax.config import schema
from totojax.rundir import console

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file, as configs/demo.py; --config.section.key=value sets one"
    " of its keys.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run lives: a folder, gs:// or s3://. Default: runs/NAME for"
    " configs/NAME.py.",
)
_ALLOW = flags.DEFINE_bool(
    "allow_changed_config",
    False,
    "Go on in a workdir that was made with another config.",
)
_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show where in the code an error was found."
)
_LIST = flags.DEFINE_bool(
    "list",
    False,
    "Print every key of the config, with its value, meaning and unit, and end.",
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
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Number of processes, with --coordinator."
)
_PROCESS = flags.DEFINE_integer(
    "process", None, "Number of this process, from 0, with --coordinator."
)
_HOST_TIMEOUT = flags.DEFINE_integer(
    "host_timeout_s",
    100,
    "Seconds of silence after which a process is taken for lost, with"
    " --multihost: all others then end with an error. One whose connection"
    " breaks is missed at once.",
)
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout_s",
    300,
    "Seconds that processes wait for each other at the start, with"
    " --multihost.",
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

  def __call__(self, step: int) -> bool:
    """Whether to leave after `step`; on several hosts the same step on all."""
    import jax

    if jax.process_count() == 1:
      return self._asked
    from jax.experimental import multihost_utils

    # jax.distributed has taken SIGTERM over, to make all hosts agree on a step.
    return multihost_utils.reached_preemption_sync_point(step)


def config_path(name: str) -> str:
  """The file that `--config=name` means: here, or shipped with the package.

  What follows a colon is the argument of the file's `get_config`, and stays.

  Raises:
    FileNotFoundError: neither is there; lists what ships.
  """
  if pathlib.Path(name).is_file():
    return name
  name, colon, argument = name.partition(":")
  return _config_file(name) + colon + argument


def _config_file(name: str) -> str:
  if pathlib.Path(name).is_file():
    return name
  if not name:
    raise FileNotFoundError("--config names no file; try configs/demo.py")
  package = pathlib.Path(__file__).resolve().parent
  for root in (package / "configs", package.parent / "configs"):
    if root.is_dir():
      inside = re.sub(r"^(\./)?configs/", "", name)
      if (root / inside).is_file():
        return str(root / inside)
      names = sorted(str(p.relative_to(root)) for p in root.rglob("*.py"))
      raise FileNotFoundError(
          f"config {name!r} does not exist; shipped with the package:"
          f" {', '.join('configs/' + n for n in names)}"
      )
  raise FileNotFoundError(f"config {name!r} does not exist; check the path")


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"{argv[1:]} is not understood; flags begin with --")
  if _CONFIG.value is None:
    raise app.UsageError("--config is missing; try --config=configs/demo.py")
  if _LIST.value:
    _print_keys(_CONFIG.value.to_dict())
    return
  interrupted = Interrupt()
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # orbax tells a story at each save
  job = jobs.JOBS.get(_CONFIG.value.get("run"))
  for name, value in (job.environment if job else {}).items():
    os.environ.setdefault(name, value)
  import jax  # only now: the signals are ours

  from totojax.rundir import hosts

  if not _MULTIHOST.value:
    _work(interrupted)
    return
  try:
    hosts.check(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  except ValueError as error:
    sys.exit(f"totojax: {error}")
  # An error of one process must end the others too: none of them leaves by
  # the usual door, where jax makes each wait for all.
  try:
    hosts.join(
        _COORDINATOR.value,
        _PROCESSES.value,
        _PROCESS.value,
        start_timeout_s=_START_TIMEOUT.value,
        silence_timeout_s=_HOST_TIMEOUT.value,
    )
    _work(interrupted)
  except SystemExit as error:
    if not error.code:
      raise
    hosts.leave(str(error.code))
  except jax.errors.JaxRuntimeError as error:
    if _TRACEBACK.value:
      traceback.print_exc()
    if hosts.is_loss(error):
      hosts.leave(hosts.lost(str(error).partition("\n")[0]))
    traceback.print_exc()
    hosts.leave("totojax: this process ends, and with it the run")
  except Exception as error:
    traceback.print_exc()
    hosts.leave(f"totojax: {error}")


def _print_keys(config: dict[str, Any]) -> None:
  """What `--list` prints; a key that is wrong is one line."""
  try:
    print(document.listing(roots.read(config)), flush=True)
  except BrokenPipeError:  # whoever reads has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except ValueError as error:
    sys.exit(f"totojax: {error}")


def _work(interrupted: Interrupt) -> None:
  """Runs the job of the config; an error that users can mend is one line."""
  from totojax.rundir import directory

  config = _CONFIG.value.to_dict()
  file, _, _ = flags.FLAGS["config"].config_filename.partition(":")
  folder = epath.Path(_WORKDIR.value or f"runs/{pathlib.Path(file).stem}")
  begin = time.monotonic()
  try:
    job = jobs.find(config["run"])
    if not job.kept:
      jobs.run(config, folder / config["run"], interrupted)
      return
    workdir = job.check(folder, config, allow_change=_ALLOW.value)
    if job.is_done(workdir, config):
      console.say(f"{workdir}: done already")
    elif jobs.run(config, workdir, interrupted):
      directory.mark_done(workdir, time.monotonic() - begin)
    else:
      console.say(f"{workdir}: stopped; run the same command again to go on")
  except jobs.ERRORS as error:
    if _TRACEBACK.value:
      raise
    # What libraries left half done must not talk after the message.
    sys.unraisablehook = lambda unraisable: None
    sys.exit(f"totojax: {error}\n(--traceback shows where this was found)")


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; what users can mend is one line, not a traceback."""
  if told := _wrong_argument(argv):
    sys.exit(f"totojax: {told}")
  try:
    return app.parse_flags_with_usage(argv)
  except SystemExit as leave:
    # absl leaves --help as if it were a mistake.
    sys.exit(0 if {"--help", "-help", "-?"} & set(argv) else leave.code)
  except (AttributeError, KeyError, TypeError) as error:
    sys.exit(f"totojax: {_unknown_key(argv) or f'a flag is wrong: {error}'}")


def _wrong_argument(argv: list[str]) -> str | None:
  """What is wrong with the argument in --config=FILE:ARGUMENT, if anything."""
  files = [word for word in argv if word.startswith("--config=")]
  file, colon, argument = files[-1].partition(":") if files else ("", "", "")
  if not colon:
    return None
  try:
    _load(files[-1], argv[0])
  except flags.IllegalFlagValueError as error:
    reason = error.__cause__ or error.__context__
    if isinstance(reason, TypeError):
      return (
          f"{file.removeprefix('--config=')} takes no argument, and"
          f" {argument!r} follows its colon"
      )
    if isinstance(reason, ValueError):  # whose text is a whole traceback
      return str(reason).strip().splitlines()[-1].removeprefix("ValueError: ")
  return None


def _load(word: str, program: str) -> ConfigDict:
  """The config of --config=FILE, without the flags that change it."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=[])
  values([program, word])
  return values.config


def _unknown_key(argv: list[str]) -> str | None:
  """What is wrong with the first --config.KEY that the config does not have.

  The library that reads these flags names the last word of the key alone.
  """
  files = [word for word in argv if word.startswith("--config=")]
  if not files:
    return None
  config = _load(files[-1], argv[0])
  for word in argv:
    key = re.match(r"--?(?:no)?config\.([^=]+)", word)
    if key and (told := _misspelt(config, key[1])):
      return told
  return None


def _misspelt(config: ConfigDict | None, key: str) -> str | None:
  """Why `config` has no `key`, or None where it has one."""
  found, above = config, ""
  for word in key.split("."):
    name = word.partition("[")[0]  # the rest is a place in a tuple
    if not isinstance(found, ConfigDict):
      return (
          f"config key {key} does not exist; {above.rstrip('.')} is {found!r},"
          " with no keys below it"
      )
    if name not in found:
      return str(schema.unknown(above + name, [above + k for k in found]))
    found, above = found[name], f"{above}{name}."
  return None


def with_config_found(argv: list[str]) -> list[str]:
  """`argv` with `--config=PATH`, of `config_path`, for any way to say it.

  Raises:
    FileNotFoundError: there is no such file; lists what ships.
  """
  words, i = list(argv), 0
  while i < len(words):
    flag, equals, name = words[i].partition("=")
    if flag in ("--config", "-config"):
      if not equals and words[i + 1 : i + 2] and words[i + 1][:1] != "-":
        name = words.pop(i + 1)
      words[i] = f"--config={config_path(name)}"
    i += 1
  return words


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
    # In place: the flags of the config's keys are read from there.
    sys.argv[:] = with_config_found(sys.argv)
  except FileNotFoundError as error:
    sys.exit(f"totojax: {error}")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
  run()
