"""Options of the scripts of launch/: a script's help is their table.

A line of it, "  --name VALUE   what it is; default 5", is an option: of a whole
number with N, of a number with SECONDS, HOURS or MONEY, one that may be given
several times with F, one without a value where there is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import os
import pathlib
import re

from calls import GiveUp
from project import LEFT_OUT, ROOT

_NUMBERS = {" N": int, " SECONDS": float, " HOURS": float, " MONEY": float}


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    raise GiveUp(f"{message}; see --help")


def read(words: Sequence[str], table_of: str | None) -> argparse.Namespace:
  """The options of a call, and what follows -- as `flags`.

  Args:
    words: of the call.
    table_of: the help that has the table.

  Raises:
    GiveUp: there is no such option, or no such value.
  """
  own, flags = list(words), []
  if "--" in own:
    own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
  parser = _Parser(add_help=False, allow_abbrev=False)
  parser.add_argument("command")
  table = re.findall(r"^  (--[\w-]+)( [A-Z]+)? +(.*(?:\n {10}.*)*)", table_of or "", re.M)
  names = {name for name, *_ in table}
  repeatable = {name for name, value, _ in table if value == " F"}
  for i, word in enumerate(own):  # argparse takes no value that begins with --
    if word in repeatable and not names & {*own[i + 1 : i + 2]}:
      own[i : i + 2] = ["=".join(own[i : i + 2])]
  for name, value, text in table:
    number = _NUMBERS.get(value)
    default = re.search(r"default (\d+)", text)
    if not value:
      parser.add_argument(name, action="store_true")
    elif name in repeatable:
      parser.add_argument(name, action="append", default=[])
    else:
      parser.add_argument(
        name, type=number or str, default=number(default[1]) if number and default else None
      )
  options = parser.parse_args(own)
  options.flags = flags
  return options


def check_needed(options: argparse.Namespace, needs: Mapping[str, Sequence[str]]) -> None:
  """Raises GiveUp unless the command is one of `needs`, and has the options that it needs."""
  needed = needs.get(options.command)
  if needed is None:
    raise GiveUp(f"{options.command} is not a command; see --help")
  if missing := [f"--{name}" for name in needed if not getattr(options, name.replace("-", "_"))]:
    raise GiveUp(f"{options.command} needs {' '.join(missing)}; see --help")


def check_least(options: argparse.Namespace, least: Mapping[str, int]) -> None:
  """Raises GiveUp where a number that is given is too small, or no number."""
  for name, low in least.items():
    value = getattr(options, name)
    if value is not None and not low <= value < 1e6:
      raise GiveUp(
        f"--{name.replace('_', '-')} is {value:g}; it is at least {low}, and below a million"
      )


def config_file(config: str) -> str:
  """--config by its path below the project, with what follows a colon.

  Raises:
    GiveUp: there is no such file, or it goes to no other machine.
  """
  name, colon, argument = config.partition(":")
  path = (pathlib.Path(name) if os.path.exists(name) else ROOT / name).resolve()
  if not path.is_file() or ROOT not in path.parents:
    raise GiveUp(f"--config is {config}; it must be a file below {ROOT}")
  if left_out := [part for part in path.relative_to(ROOT).parts if LEFT_OUT.search(part)]:
    raise GiveUp(f"--config is {config}; {left_out[0]} goes to no worker: move it to configs")
  return path.relative_to(ROOT).as_posix() + colon + argument


def shared_folder(workdir: str) -> str:
  """--workdir without a slash at its end.

  Raises:
    GiveUp: it is no whole path, and no URL that runs may have.
  """
  folder = workdir.rstrip("/")
  if re.fullmatch(r"gs://[^/]+/[^*?#\[\]{}]+", folder) or re.fullmatch(r"/[^\n]+", folder):
    return folder
  raise GiveUp(
    f"--workdir is {workdir}; it must be a whole path that all machines see, or gs://BUCKET/FOLDER"
  )
