"""--config=FILE and --config.KEY=VALUE: what is wrong with them is one line.

A value has the type of the key's default; of a key that a config may lack, and
lacks, that of its declaration. A tuple is written as in Python, "('a', 'b')";
without brackets it is one item, and a flag that is repeated adds another. So
are stores, NAME:PATH:WEIGHT (`named_stores.parse`).
"""

import ast
from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import inspect
import pathlib
import re
import sys
import typing
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from totojax import plugins
from totojax.config import roots, schema, training
from totojax.config.schema import ConfigError

_WORD = re.compile(r"--?(no)?config(?:\.([^=]+))?(?:=(.*))?", re.DOTALL)
_STORES = (Mapping[str, training.Share], Mapping[str, str])  # types of keys that name stores
_HELP = {"--help", "-help", "-?", "--helpshort", "--helpfull"}
_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read(argv: Sequence[str]) -> tuple[ConfigDict | None, list[str]]:
  """The config of a command, or None, and its words without --config.KEY.

  Raises:
    FileNotFoundError: there is no such config; lists what ships.
    ValueError: the file gives no config, or a key or value is wrong.
  """
  words = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
  if _HELP & {*words}:
    return None, words
  path, changes, rest = None, {}, []
  while words:
    word = words.pop(0)
    match = _WORD.fullmatch(word)
    if match is None or word == "--":
      rest.append(word)
      continue
    key, text = match[2], "False" if match[1] else match[3]
    # As absl: a value may follow as a word of its own.
    if text is None and words and not re.match(r"-\D", words[0]):
      text = words.pop(0)
    if key is None:
      path = config_path(text or "")
    else:
      changes.setdefault(key, []).append(text)
  if path is None:
    return None, rest
  config = load(path)
  # A section as a whole before the keys below it.
  for key in sorted(changes, key=lambda key: key.count(".")):
    change(config, key, changes[key])
    _refuse_hidden(config, key)
    # What is given is not for the stores to say.
    if key in (config.get("from_stores") or ()):
      config.from_stores = tuple(other for other in config.from_stores if other != key)
  return config, [*rest, f"--config={path}"]


def parse(words: list[str]) -> list[str]:
  """Parses all other flags; a mistake is a ConfigError."""
  try:
    return flags.FLAGS(words)
  except flags.Error as error:
    raise ConfigError(f"{error}; --help lists the flags") from error
  except SystemExit:  # absl leaves --help as if it were a mistake
    sys.exit(0)


def config_path(name: str) -> str:
  """The file that `--config=NAME[:ARGUMENT]` means, here or shipped, with its argument.

  Raises:
    FileNotFoundError: neither is there; names the nearest that ship, or all.
  """
  file, colon, argument = name.partition(":")
  if pathlib.Path(name).is_file() or pathlib.Path(file).is_file():
    return name
  if not file:
    raise FileNotFoundError("--config names no file; try configs/demo.py")
  there, wanted = shipped(), "configs/" + re.sub(r"^(\./)?configs/", "", file)
  if wanted in there:
    return f"{there[wanted]}{colon}{argument}"
  near = difflib.get_close_matches(wanted, there, n=2, cutoff=0.85)
  names = f"did you mean {' or '.join(near)}?" if near else f"shipped are {', '.join(there)}"
  raise FileNotFoundError(f"config {file!r} does not exist; {names}")


def shipped() -> dict[str, pathlib.Path]:
  """Name ("configs/demo.py") -> file of each config that ships with the package."""
  package = pathlib.Path(__file__).resolve().parent.parent
  roots = [root for root in (package / "configs", package.parent / "configs") if root.is_dir()]
  paths = sorted(roots[0].rglob("*.py")) if roots else []
  return {f"configs/{path.relative_to(roots[0])}": path for path in paths}


def load(path: str) -> ConfigDict:
  """What `get_config()` of FILE returns, or `get_config(ARGUMENT)` of FILE:ARGUMENT.

  Raises:
    ValueError: the file cannot be run, or gives no config; names the line.
  """
  file, colon, argument = path.partition(":")
  values = [argument] if colon else []
  get_config = plugins.function_of(
    plugins.run_file(file), file, "get_config", "returns the config (docs/running.md#a-config)"
  )
  try:
    inspect.signature(get_config).bind(*values)
  except TypeError as error:
    reason = f"takes no argument, and {argument!r} follows its colon"
    if not colon:
      reason = f"takes an argument; give it as --config={file}:ARGUMENT"
    raise ConfigError(f"{file} {reason}") from error
  with plugins.users(file, "get_config() fails"):
    config = get_config(*values)
  if not isinstance(config, ConfigDict):
    raise ConfigError(
      f"{file}: get_config() returns {plugins.short(config)}; it must return a ConfigDict, as"
      " those of totojax.config.recipes"
    )
  return config.lock()


def change(config: ConfigDict, key: str, texts: Sequence[str | None]) -> None:
  """Sets a key to what its flags say.

  Args:
    config: is changed.
    key: with dots.
    texts: of each flag in order; the last one counts, but for tuples.

  Raises:
    ConfigError: there is no such key, or its value is of another type.
  """
  *sections, last = key.split(".")
  section, cls, path = config, None, ""
  for name in sections:
    # A stage of a chain is a whole config by itself.
    cls = schema.kind_of(roots.root(section) if "run" in section else cls, name)
    if name not in section:
      if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise schema.unknown(path + name, [path + other for other in section])
      with section.unlocked():
        section[name] = schema.to_config(cls())
    section, path = section[name], f"{path}{name}."
    if not isinstance(section, ConfigDict):
      raise ConfigError(
        f"config key {key} does not exist; {path[:-1]} is {section!r}, with no keys below it"
      )
  default = section.get(last)
  kind = type(default)
  cls = roots.root(section) if "run" in section else cls
  given = [text for text in texts if text is not None]
  if given and schema.kind_of(cls, last) in _STORES and not given[-1].lstrip().startswith("{"):
    from totojax.config import named_stores  # few commands name any

    weights = schema.kind_of(cls, last) == Mapping[str, training.Share]
    stores = named_stores.parse(",".join(given), key=key, weights=weights)
    with section.unlocked():
      section[last] = ConfigDict(stores)
    return
  if default is None:  # one that a config may lack
    kind = schema.kind_of(cls, last, optional=True)
    if kind is None:
      known = {*section, *getattr(cls, "__dataclass_fields__", ())}
      raise schema.unknown(key, [path + other for other in sorted(known)])
  with section.unlocked():
    section[last] = _value(kind, default, texts, key)


def _refuse_hidden(config: ConfigDict, key: str) -> None:
  """Raises ConfigError where another key of the job decides in place of a changed one."""
  section, path, words = config, "", key.split(".")
  for place, name in enumerate(words):
    decides = getattr(roots.root(section), "decides", None) if "run" in section else None
    if decides and (other := decides(".".join(words[place:]), section)):
      raise ConfigError(f"config key {key} would change nothing: set {path}{other}")
    section, path = section[name], f"{path}{name}."
    if not isinstance(section, ConfigDict):
      return


def _value(kind: Any, default: Any, texts: Sequence[str | None], key: str) -> Any:
  """The value that flags give a key of some type."""
  text, kind = texts[-1], typing.get_origin(kind) or kind
  if dataclasses.is_dataclass(kind):
    kind = ConfigDict
  words = {
    tuple: f"a tuple of numbers, or of words in quotes, as {default or ('a', 'b')}",
    ConfigDict: "a section, as {'key': 1.0}",
  }.get(kind, getattr(kind, "__name__", "a value"))
  if text is None:
    if kind is bool:
      return True
    raise ConfigError(f"config key {key} has no value; it must be {words}")
  try:
    match kind():
      case bool():
        return _BOOLS[text.lower()]
      case int():
        return int(text, 0)
      case tuple() | list():
        return kind(item for one in texts for item in _items(one))
      case ConfigDict():
        return ConfigDict(dict(ast.literal_eval(text)))
      case _:
        return kind(text)
  except (KeyError, SyntaxError, TypeError, ValueError) as error:
    raise ConfigError(f"config key {key} is {text!r}; it must be {words}") from error


def _items(text: str | None) -> tuple[Any, ...]:
  """Those of a flag of a tuple: one, if it is no Python."""
  text = text or ""
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError):
    if re.search(r"^[(\[]|[,\s]", text):
      raise
    return (text,)
  return tuple(value) if isinstance(value, tuple | list | set) else (value,)
