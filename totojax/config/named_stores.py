"""Stores as a flag names them: NAME:PATH:WEIGHT, with commas between."""

import math
import re
from typing import Any

from totojax.config.schema import ConfigError

# NAME:PATH:WEIGHT; a URL's scheme has a colon too.
_STORE = re.compile(
  r"(?:(?P<name>[^:/]*):(?!//))?(?P<path>(?:[a-z][a-z0-9]*://)?[^:]*)(?::(?P<weight>[^:/]*))?"
)
_SPLITS = ("train", "val", "validation", "test", "all")  # folders that jobs name so


def parse(text: str, *, key: str, weights: bool) -> dict[str, Any]:
  """The stores of a flag: NAME:PATH:WEIGHT with commas between.

  A store without a name has that of its folder, or of the one above where that
  is a split's (TOKENS/train is TOKENS); one without a weight weighs 1.

  Args:
    text: of the flag; "" is none.
    key: whose flag it is, for errors.
    weights: whether the stores are `Share`s; else they are paths.

  Raises:
    ConfigError: a store is of another form, or two have one name.
  """
  stores: dict[str, Any] = {}
  form = "NAME:PATH:WEIGHT" if weights else "NAME:PATH"
  for part in filter(None, map(str.strip, text.split(","))):
    found = _STORE.fullmatch(part)
    if not found or not found["path"] or found["name"] == "":
      raise ConfigError(
        f"config key {key} has {part!r}; write {form} (a path or URL; the name"
        f"{' and the weight' if weights else ''} may be left out), with commas between stores"
      )
    name = found["name"] or _folder_name(found["path"])
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name):
      raise ConfigError(
        f"config key {key} has a store named {name!r}; give it a name of letters, digits, - and _,"
        f" as mine:{found['path']}"
      )
    if name in stores:
      raise ConfigError(
        f"config key {key} names {name!r} twice ({part!r} is the second); give each store a name"
        f" of its own, as {form}"
      )
    if found["weight"] is not None and not weights:
      raise ConfigError(f"config key {key} has {part!r}; held-out stores have no weight: {form}")
    stores[name] = found["path"]
    if weights:
      weight = _weight(found["weight"], part, key)
      stores[name] = {"path": found["path"], "weight": weight}
  return stores


def _folder_name(path: str) -> str:
  *above, last = path.rstrip("/").replace("://", "/").split("/")
  if last in _SPLITS and above and above[-1] not in ("", ".", ".."):
    last = above[-1]
  return re.sub(r"[^\w-]", "_", last)


def _weight(text: str | None, part: str, key: str) -> float:
  try:
    weight = 1.0 if text is None else float(text)
  except ValueError:
    weight = math.nan
  if not 0 < weight < math.inf:
    raise ConfigError(
      f"config key {key} has {part!r}, whose weight is {text!r}; a weight is a positive number, in"
      " any unit"
    )
  return weight
