"""Config keys: each is declared once, in one line, as a field of a dataclass.

  @section("optim")
  class AdamWConfig(Section):
    lr: float = field(3e-4, "peak rate", "section 3.2", above=0.0)

From it come the `ConfigDict` that the files in `configs/` start from and that
flags change (`to_config`), the frozen dataclass that the code uses (`read`),
`--list` and `docs/config.md` (`keys`). The type of a key is its annotation:
bool, int, float, str, a tuple of these, another section, or a mapping from
names that the user chooses to one of them.

A flag takes a value's type from its default: write floats as 1.0.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import operator
import types
import typing
from typing import Any, ClassVar, Protocol, TYPE_CHECKING, TypeVar

import ml_collections

from totojax import plugins

Choose = Callable[[Mapping[str, Any]], type]

_PLAIN = (bool, int, float, str)
# Of which in Python others serve: numpy's numbers.
_SERVES = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}
SEEDS = 2**32  # jax's keys and torch's generators take 32 bits
_BOUNDS = dict(at_least=operator.ge, above=operator.gt, at_most=operator.le, below=operator.lt)


class ConfigError(ValueError):
  """A config key that is missing, unknown, mistyped or out of range."""


def either(words: Iterable[str]) -> str:
  """ "a, b or c"."""
  *others, last = words
  return f"{', '.join(others)} or {last}" if others else last


@dataclasses.dataclass(frozen=True)
class Range:
  """What values a key may have."""

  at_least: float | None = None  # the least number, or least number of a tuple
  above: float | None = None  # a number that it must be greater than
  at_most: float | None = None  # the greatest
  below: float | None = None  # a number that it must be less than
  choices: tuple[Any, ...] = ()  # all that are allowed; (): any
  some: bool = False  # whether a tuple must not be empty
  once: bool = False  # whether a tuple may have nothing twice

  def broken(self, value: Any) -> str | None:
    """What `value`, or one of a tuple, must be and is not; None: all is well."""
    if isinstance(value, tuple):
      if (self.some and not value) or (self.once and len({*value}) < len(value)):
        return "name one or more" if not self.once else "name some, each once"
      return next(filter(None, map(self.broken, value)), None)
    if self.choices:
      return None if value in self.choices else f"use {either(map(repr, self.choices))}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
      return None
    if not isinstance(value, numbers.Integral) and not math.isfinite(value):
      return f"it must be {' and '.join(['finite', *self.bounds])}"
    limits = {name: getattr(self, name) for name in _BOUNDS}
    if all(n is None or _BOUNDS[name](value, n) for name, n in limits.items()):
      return None
    return f"it must be {' and '.join(self.bounds)}"

  @property
  def bounds(self) -> list[str]:
    """In words: ["at least 1", "below 2"]."""
    limits = {name.replace("_", " "): getattr(self, name) for name in _BOUNDS}
    return [
      f"{word} {n if isinstance(n, int) else format(n, 'g')}"
      for word, n in limits.items()
      if n is not None
    ]

  def __str__(self) -> str:
    words = [*map(repr, self.choices)] if self.choices else self.bounds
    amounts = [word for word, holds in (("some", self.some), ("each once", self.once)) if holds]
    return ", ".join([*words, *amounts])


@dataclasses.dataclass(frozen=True)
class Meta:
  """What is said of a key beside its type and default."""

  doc: str  # its meaning, a phrase
  source: str = ""  # where the default is from; "[gap]" where the paper is silent
  range: Range = Range()  # allowed values
  unit: str = ""  # of a number; "": as the last word of the key's name says
  optional: bool = False  # whether a config may lack it: None is then its default
  choose: Choose | None = None  # for a section of several kinds: what is beside it -> which one
  plugin: str = ""  # kind of `plugins` that a value may name in place of one of ours


_PLAIN_META = Meta("")  # of a field that is no `field`


REQUIRED: Any = dataclasses.MISSING  # in place of a `field`'s default: there is none


def field(default: Any, doc: str, source: str = "", **more: Any) -> Any:
  """A key of a `section`; `more` are attributes of `Range` and `Meta`.

  `default` may be a mapping, of which every instance gets the same, or an
  instance of another section.
  """
  limits = {key: more.pop(key) for key in Range.__dataclass_fields__ if key in more}
  meta = Meta(doc, source, Range(**limits), **more)
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: dict(default), metadata={"key": meta})
  return dataclasses.field(default=default, metadata={"key": meta})


class Dataclass(Protocol):
  """Any dataclass, as `section` makes one of its class."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Dataclass)
Class = TypeVar("Class", bound=type)


class Section:
  """Base of the `section`s, for type checkers alone.

  They know a field's default by the keyword `default=` only and would ask for
  every key. When a program runs, `section` writes what stands here.
  """

  if TYPE_CHECKING:
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init__(self, *args: Any, **values: Any) -> None: ...


class Job(Section):
  """Base of whole configs, which `section` gives the key `run`."""

  if TYPE_CHECKING:
    run: str


def section(name: str, *, run: str = "") -> Callable[[Class], Class]:
  """Makes a class of `field`s a frozen dataclass whose ranges are checked.

  Args:
    name: where its keys usually stand in a config, for errors; "" for a whole
      config. What `read` finds wrong is named where it stands.
    run: of a whole config, the job that it is of.
  """

  def decorate(cls: Class) -> Class:
    if run:
      cls.__annotations__ = {"run": "str", **inspect.get_annotations(cls)}
      cls.run = field(run, "the job")
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self):
      for f in dataclasses.fields(self):
        value, path = getattr(self, f.name), _join(name, f.name)
        _check_kind(f, _types(type(self))[f.name], value, path)
        _check_range(f, value, path)
      if own is not None:
        own(self)
      elif above := getattr(super(cls, self), "__post_init__", None):
        above()

    checked: Any = cls
    checked.__post_init__ = __post_init__
    checked.SECTION = name
    return dataclasses.dataclass(frozen=True)(checked)

  return decorate


def _check_kind(f: dataclasses.Field, kind: Any, value: Any, path: str) -> None:
  """Raises ConfigError for a value of another type, where a section is made in Python."""
  if isinstance(value, ml_collections.FieldReference):
    return  # of a config file: it is looked at as it is read
  plain = without_none(kind)
  named: Any = plain
  meta = f.metadata.get("key", _PLAIN_META)
  is_none = value is None and (meta.optional or plain is not kind)
  serves = _SERVES.get(plain, plain if dataclasses.is_dataclass(plain) else object)
  is_other = isinstance(value, bool) and plain in (int, float)
  if not is_none and (is_other or not isinstance(value, serves)):
    told, doc = f"{value!r:.200} ({type(value).__name__})", meta.doc and f" ({meta.doc})"
    raise ConfigError(f"{path} is {told}; it must be {named.__name__}{doc}")


def _check_range(f: dataclasses.Field, value: Any, path: str) -> None:
  """Raises ConfigError for a value that is out of range; says what the key is."""
  meta = f.metadata.get("key")
  if meta is None or (meta.optional and value is None):
    return
  if meta.plugin and plugins.is_reference(value):
    return
  if reason := meta.range.broken(value):
    raise ConfigError(f"{path} is {value!r:.200}; {reason} ({meta.doc})")


def read(cls: type[T], values: Any, path: str = "", *, fill: bool = False) -> T:
  """The section that `values` describes, with every key checked.

  Args:
    cls: of `section`; or any dataclass, of which a file from outside has the
      fields (`storage.outside`).
    values: nested mappings, as `to_config` makes or config.json holds.
    path: of the section in the config, for errors ("model").
    fill: whether keys that are missing have their defaults, if there are any:
      for what an older version wrote.

  Raises:
    ConfigError: a key is missing, unknown (the nearest right one is named), of
      another type than its annotation (an int serves as a float), or out of
      range; or keys contradict each other.
  """
  fields, types_, parts = {f.name: f for f in dataclasses.fields(cls)}, _types(cls), {}
  if not isinstance(values, Mapping):
    raise ConfigError(f"config key {path or 'of all'} is {values!r:.60}; it must be a section")
  for key in values:
    if key not in fields:
      raise unknown(_join(path, key), [_join(path, name) for name in fields])
  for name, f in fields.items():
    meta, key = f.metadata.get("key", _PLAIN_META), _join(path, name)
    if name in values:
      kind = meta.choose(values) if meta.choose else types_[name]
      parts[name] = _value(kind, values[name], key, fill=fill)
      _check_range(f, parts[name], key)
    elif not (fill and _has_default(f)) and not meta.optional:
      raise ConfigError(f"config key {key} is missing; set it")
    elif meta.choose:  # its kind depends on what is beside it
      parts[name] = read(meta.choose(values), {}, key, fill=True)
  try:
    return cls(**parts)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _has_default(f: dataclasses.Field[Any]) -> bool:
  return not (f.default is f.default_factory is dataclasses.MISSING)


@functools.cache
def _types(cls: type) -> dict[str, Any]:
  return typing.get_type_hints(cls)


def without_none(kind: Any) -> Any:
  """A type that is not None, of one that may be."""
  if typing.get_origin(kind) not in (types.UnionType, typing.Union):
    return kind
  kinds = [one for one in typing.get_args(kind) if one is not type(None)]
  return kinds[0] if len(kinds) == 1 else kind


def kind_of(cls: Any, name: str, *, optional: bool = False) -> Any:
  """The type of a key below a section or a mapping of names, without None.

  None where there is no such key, or none that a config may lack (`optional`).
  """
  if dataclasses.is_dataclass(cls):
    field = cls.__dataclass_fields__.get(name)
    if field is None or (optional and not field.metadata["key"].optional):
      return None
    return without_none(_types(cls)[name])
  if typing.get_origin(cls) is Mapping and not optional:
    return typing.get_args(cls)[1]
  return None


def _value(kind: Any, value: Any, path: str, *, fill: bool) -> Any:
  """`value` as its annotation says; raises ConfigError where it cannot be."""

  def wrong(wanted: str) -> ConfigError:
    return ConfigError(f"config key {path:.200} is {value!r:.200}; it must be {wanted}")

  if isinstance(kind, type) and dataclasses.is_dataclass(kind):
    if isinstance(value, kind):
      return value
    if not isinstance(value, Mapping):
      raise wrong("a section with keys")
    return read(kind, value, path, fill=fill)
  outer, inner = typing.get_origin(kind), typing.get_args(kind)
  if outer in (types.UnionType, typing.Union):
    return None if value is None else _value(without_none(kind), value, path, fill=fill)
  if outer is tuple:
    if not isinstance(value, tuple | list):
      raise wrong(f"a tuple, as ({value!r:.80},)")
    kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
    if len(value) != len(kinds):
      raise ConfigError(f"config key {path} is {value!r:.200}; it must have {len(kinds)} parts")
    parts = enumerate(zip(kinds, value))
    return tuple(_value(part, one, f"{path}[{i}]", fill=fill) for i, (part, one) in parts)
  if outer is not None and issubclass(outer, Mapping):
    if not isinstance(value, Mapping):
      raise wrong("a section with names")
    return {
      name: _value(inner[1], one, _join(path, name), fill=fill) for name, one in value.items()
    }
  if kind is float and type(value) is int:
    return float(value)
  if kind in _PLAIN and type(value) is not kind:
    raise ConfigError(
      f"config key {path} is {value!r:.200} ({type(value).__name__}); it must be {kind.__name__}"
    )
  return value


def unknown(key: str, known: list[str]) -> ConfigError:
  """An error for a key that does not exist, with the nearest that does.

  Last words are compared: what stands before them is the same in all.
  """
  words = {name.rpartition(".")[2]: name for name in known}
  near = difflib.get_close_matches(key.rpartition(".")[2], words, n=1, cutoff=0.5)
  hint = f"did you mean {words[near[0]]}?" if near else f"known: {', '.join(known)}"
  return ConfigError(f"config key {key:.200} does not exist; {hint}")


def to_dict(values: Any) -> dict[str, Any]:
  """Nested dicts of a section; optional keys that are None are left out."""
  return {
    f.name: _plain(getattr(values, f.name))
    for f in dataclasses.fields(values)
    if not (f.metadata["key"].optional and getattr(values, f.name) is None)
  }


def _plain(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    return to_dict(value)
  if isinstance(value, Mapping):
    return {name: _plain(one) for name, one in value.items()}
  return value


def to_config(values: Any) -> ml_collections.ConfigDict:
  """The `ConfigDict` of a section, which flags can change."""
  return ml_collections.ConfigDict(to_dict(values))


@dataclasses.dataclass(frozen=True)
class Key:
  """A key of a config, as `--list` and docs/config.md show it."""

  path: str  # with dots
  value: Any  # its value, or its default
  kind: Any  # its type
  meta: Meta  # what is said of it
  default: Any = None  # of its section; None where it is not told


def keys(values: Any, path: str = "") -> Iterator[Key]:
  """Every key of a section, in order, those of its sections after it."""
  for f in dataclasses.fields(values):
    value, key, meta = getattr(values, f.name), _join(path, f.name), f.metadata["key"]
    if meta.optional and value is None:
      continue
    items = value.items() if isinstance(value, Mapping) else ()
    sections = {_join(key, name): one for name, one in items if dataclasses.is_dataclass(one)}
    if dataclasses.is_dataclass(value):
      sections = {key: value}
    for section_path, one in sections.items():
      yield from keys(one, section_path)
    if not sections:
      yield Key(key, value, _types(type(values))[f.name], meta, f.default)


def digests(values: Any) -> dict[str, str]:
  """Key -> digest of the user's source that it names (`plugins`).

  Raises:
    plugins.PluginError: there is no such file or module.
  """
  sources = {}
  for key in keys(values):
    many = key.value if isinstance(key.value, tuple) else (key.value,)
    names = [one for one in many if key.meta.plugin and plugins.is_reference(one)]
    if names:
      sources[key.path] = "-".join(plugins.find(one, key.meta.plugin).digest for one in names)
  return sources


def _join(path: str, name: str) -> str:
  return f"{path}.{name}" if path else name
