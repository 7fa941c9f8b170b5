"""Videos named by an identifier, whole or in stretches.

What Ego4D and HowTo100M have in common: a folder of <id>.<ending>, a list of
ids that may be longer than what was downloaded, and perhaps stretches of them.
"""

from collections.abc import Iterable, Mapping
import dataclasses

from totojax.data.sources import files, items


@dataclasses.dataclass(frozen=True)
class Span:
  """A stretch of a video in seconds; None: from the start, to the end."""

  video: str
  start_s: float | None = None
  end_s: float | None = None


def read(path: str, column: str) -> list[Span]:
  """Spans of a CSV that has the column, or of a text file with an id per line.

  In a CSV `start_s` and `end_s` are optional columns.

  Raises:
    ValueError: an empty file, or times that are none.
  """
  lines = files.lines(path)
  if not lines:
    raise ValueError(f"{path} is empty; it should hold ids")
  if column not in (name.strip(' "') for name in lines[0][1].split(",")):
    return [Span(line.strip()) for _, line in lines]
  spans = []
  for row in files.table(path, (column,)):
    where = f"{path}, line {row['line']}"
    start_s = files.seconds(row.get("start_s") or "", where=where)
    end_s = files.seconds(row.get("end_s") or "", where=where)
    if end_s is not None and (start_s or 0.0) >= end_s:
      raise ValueError(f"{where}: the span from {start_s} to {end_s} is empty")
    spans.append(Span(row[column].strip(), start_s, end_s))
  return spans


def listing(spans: Iterable[Span], disk: Mapping[str, str], *, where: str) -> items.Listing:
  """The spans whose videos are on disk; the others are `missing`.

  A whole video has its own name as id, a stretch <name>/<start>-<end> in
  seconds. Spans that are listed twice count once.
  """
  rows = {}
  for span in spans:
    item = items.name(span.video)
    if span.start_s is not None or span.end_s is not None:
      end = "end" if span.end_s is None else f"{span.end_s:g}"
      item += f"/{span.start_s or 0.0:g}-{end}"
    if span.video in disk:
      rows[item] = items.Item(item, disk[span.video], start_s=span.start_s, end_s=span.end_s)
    else:
      rows[item] = items.Skipped(item, f"no video {span.video} below {where}")
  return items.listing("video", rows.values(), where=where)
