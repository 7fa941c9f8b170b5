"""What an accelerator costs an hour: of a flag, or of a table that is the user's.

  {"NVIDIA H100": {"per_hour": 2.0, "currency": "USD", "source": "URL", "date": "2026-01-31"}}

`prices.json` beside this file is the table where --prices names no other. It
ships empty: prices differ by provider, contract, region and month, and one that
nobody looked up is worse than none.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

from calls import GiveUp

TABLE = pathlib.Path(__file__).resolve().parent / "prices.json"


@dataclasses.dataclass(frozen=True)
class Price:
  """Of one accelerator.

  Attributes:
    per_hour: in `currency`.
    currency: as its source has it; may be empty.
    source: who says so, and when.
  """

  per_hour: float
  currency: str
  source: str

  def bill(self, count: int, hours: float | None) -> str:
    """A line: of so many accelerators, an hour and in `hours`."""
    each, unit = self.per_hour * count, f" {self.currency}".rstrip()
    line = f"{count} x {self.per_hour:g}{unit} an hour ({self.source}): {each:,.2f}{unit} an hour"
    return line if hours is None else f"{line}, {each * hours:,.2f}{unit} in {hours:.3g} h"


def find(kind: str | None, given: float | None, table: str | None) -> Price | None:
  """The price of an accelerator; None: nobody has said it.

  Args:
    kind: of accelerator, as the table names it.
    given: by --price.
    table: a JSON file, --prices.

  Raises:
    GiveUp: the table is damaged, or it is the user's and has no such kind.
  """
  if given is not None:
    return Price(given, "", "--price")
  path = pathlib.Path(table) if table else TABLE
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise GiveUp(
      f"--prices {path} cannot be read ({error}); its form is in docs/launch.md"
    ) from error
  if not isinstance(found, dict):
    raise GiveUp(f"--prices {path} holds no table of kinds; see docs/launch.md")
  if kind not in found:
    if table:
      raise GiveUp(
        f"--prices {path} has {', '.join(map(repr, found)) or 'nothing'}, and not {kind!r}"
      )
    return None
  row = found[kind]
  per_hour = row.get("per_hour") if isinstance(row, dict) else None
  if isinstance(per_hour, bool) or not isinstance(per_hour, (int, float)):
    raise GiveUp(f"--prices {path}: per_hour of {kind!r} is {per_hour!r}; it is a number")
  if not 0 <= per_hour < math.inf:
    raise GiveUp(f"--prices {path}: per_hour of {kind!r} is {per_hour}; it is at least 0")
  source = ", ".join(str(row[name]) for name in ("source", "date") if row.get(name))
  return Price(float(per_hour), str(row.get("currency", "")), source or str(path))
