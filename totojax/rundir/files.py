"""Result files: JSON and CSV, always whole.

Each is written beside and renamed, so that half of one is never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import csv
import io
import json
from typing import Any

from etils import epath


def write_json(path: epath.Path, value: Any) -> None:
  """Replaces a JSON file in one step, so that half of one is never read."""
  _replace(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def write_csv(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Replaces a CSV in one step; the keys of the first row are the columns.

  None is an empty cell. There must be a row.
  """
  rows = iter(rows)
  first = next(rows)
  text = io.StringIO()
  writer = csv.DictWriter(text, first.keys(), lineterminator="\n")
  writer.writeheader()
  writer.writerow(first)
  writer.writerows(rows)
  _replace(path, text.getvalue())


def _replace(path: epath.Path, text: str) -> None:
  beside = path.parent / f".{path.name}.part"
  beside.write_text(text)
  beside.replace(path)
