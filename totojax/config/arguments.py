"""--config=FILE and --config.KEY=VALUE: what is wrong with them is one line.

The library that reads these flags answers a misspelt key or a file that is not
there with a traceback.
"""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags, ConfigDict

from totojax.config import schema


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
  package = pathlib.Path(__file__).resolve().parent.parent
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


def with_config_path(argv: list[str]) -> list[str]:
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


def parse(argv: list[str]) -> list[str]:
  """Parses the flags; what users can mend is one line, not a traceback."""
  if told := wrong_argument(argv):
    sys.exit(f"totojax: {told}")
  try:
    return app.parse_flags_with_usage(argv)
  except SystemExit as leave:
    # absl leaves --help as if it were a mistake.
    sys.exit(0 if {"--help", "-help", "-?"} & set(argv) else leave.code)
  except (AttributeError, KeyError, TypeError) as error:
    sys.exit(f"totojax: {_unknown_key(argv) or f'a flag is wrong: {error}'}")


def wrong_argument(argv: list[str]) -> str | None:
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
        f"{file.removeprefix('--config=')} takes no argument, and {argument!r} follows its colon"
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
  found: Any = config
  above = ""
  for word in key.split("."):
    name = word.partition("[")[0]  # the rest is a place in a tuple
    if not isinstance(found, ConfigDict):
      return (
        f"config key {key} does not exist; {above.rstrip('.')} is {found!r}, with no keys below it"
      )
    if name not in found:
      return str(schema.unknown(above + name, [above + k for k in found]))
    found, above = found[name], f"{above}{name}."
  return None
