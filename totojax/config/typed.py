"""From a section of an untyped config to a dataclass; see `schema`."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing
from typing import Any, TypeVar

from totojax.config import schema
from totojax.config.schema import ConfigError

T = TypeVar("T")


def typed(
    cls: type[T], section: Mapping[str, Any], name: str, **more: Any
) -> T:
  """`cls(**section)`, with every key checked; `more` are no keys."""
  if hasattr(cls, "SECTION"):
    return schema.read(cls, section, name)
  types = typing.get_type_hints(cls)
  fields = [f.name for f in dataclasses.fields(cls) if f.name not in more]
  for key in section:
    if key not in fields:
      raise schema.unknown(f"{name}.{key}", [f"{name}.{f}" for f in fields])
  values = {}
  for field in fields:
    if field not in section:
      raise ConfigError(f"config key {name}.{field} is missing; set it")
    values[field] = schema._value(
        types[field], section[field], f"{name}.{field}", fill=False
    )
  try:
    return cls(**values, **more)
  except ValueError as error:
    raise ConfigError(str(error)) from error
