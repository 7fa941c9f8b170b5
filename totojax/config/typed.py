"""From a section of the config to the dataclass that the code uses."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing
from typing import Any, TypeVar

from totojax.config.schema import ConfigError
from totojax.config.schema import unknown

T = TypeVar("T")


def typed(
    cls: type[T], section: Mapping[str, Any], name: str, **more: Any
) -> T:
  """`cls(**section)`, with every key checked.

  Args:
    cls: a dataclass whose fields are the section's keys.
    section: the values.
    name: of the section, for errors ("model").
    **more: fields that do not come from the section.

  Raises:
    ConfigError: a key is missing, unknown (the nearest right one is named), or
      has another type than its field. An int serves as a float.
  """
  types = typing.get_type_hints(cls)
  fields = [f.name for f in dataclasses.fields(cls) if f.name not in more]
  for key in section:
    if key not in fields:
      raise unknown(f"{name}.{key}", [f"{name}.{field}" for field in fields])
  values = {}
  for field in fields:
    if field not in section:
      raise ConfigError(f"config key {name}.{field} is missing; set it")
    values[field] = _checked(section[field], types[field], f"{name}.{field}")
  try:
    return cls(**values, **more)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _checked(value: Any, kind: Any, key: str) -> Any:
  if kind is float and type(value) is int:
    return float(value)
  if kind in (int, float, str, bool) and type(value) is not kind:
    raise ConfigError(
        f"config key {key} is {value!r} ({type(value).__name__}); it must be"
        f" {kind.__name__}"
    )
  return value
