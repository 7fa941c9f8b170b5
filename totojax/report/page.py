"""The look of a report: one page of HTML that needs no other file.

Text, tables and figures follow the reader's light or dark mode, and are dark on
white on paper. The page is never wider than its window: on a phone tables of
many columns become cards, and what is wider still scrolls in a box whose edges
show that there is more. What stands on a page of a run, and in which order, is
`frame`'s.
"""

import base64
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
import html
import io
import pathlib
import re
import string
from typing import Any

import numpy as np
from PIL import Image

from totojax.rundir import console

Column = tuple[str, str]  # head, and template of the cells
MOST_LETTERS = 26  # of numbers in a line of a phone's table
LEAST_WIDTH, STRIP_WIDTH = 320, 720  # pixels that small images are enlarged to; above, strips
STYLE = pathlib.Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def page(title: str, sections: Iterable[str]) -> str:
  """The whole document."""
  body = "\n".join(sections)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def text(value: object) -> str:
  """Any value as safe text."""
  return html.escape(str(value))


def paragraph(value: object, kind: str = "") -> str:
  """A paragraph of plain text; `kind` is a class of the style sheet."""
  opening = f'<p class="{kind}">' if kind else "<p>"
  return f"{opening}{text(value)}</p>"


def too_short(stores: Mapping[str, Mapping[str, int] | None]) -> str:
  """A paragraph: how many videos were too short for a clip, by what was done."""
  parts = [
    f"{name}: {', '.join(f'{count:,} {way}' for way, count in ways.items())}"
    for name, ways in stores.items()
    if ways
  ]
  claim = "Videos too short for a clip, and what was done with them (clip.short): "
  return paragraph(claim + "; ".join(parts) + ".") if parts else ""


def missing(reason: object) -> str:
  """What stands in the place of a part that cannot be shown."""
  return paragraph(f"Not shown: {reason}.", "missing")


def figure(content: str, caption: str) -> str:
  return f"<figure>{content}<figcaption>{text(caption)}</figcaption></figure>"


def pair(figures: str) -> str:
  """Two figures side by side, where the window is wide enough."""
  return f'<div class="pair">{figures}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
  """A table in a box that scrolls; columns after `words` hold numbers.

  On a phone more than three columns, or numbers that leave no room for words, are a
  card for each row, in which each cell stands below its head.
  """
  rows = [list(row) for row in rows]
  lengths = (max((len(str(row[i])) for row in rows), default=0) for i in range(words, len(head)))

  def cells(tag, values):
    out = []
    for column, value in enumerate(values):
      kinds = (("number", column >= words), ("none", tag == "td" and value in ("", "-")))
      kind = " ".join(name for name, is_one in kinds if is_one)
      kind = f' class="{kind}"' if kind else ""
      if tag == "td" and head and head[column]:
        kind += f' data-head="{text(head[column])}"'
      out.append(f"<{tag}{kind}>{text(value)}</{tag}>")
    return f"<tr>{''.join(out)}</tr>"

  header = f"<thead>{cells('th', head)}</thead>" if head else ""
  body = "".join(cells("td", row) for row in rows)
  kind = "scroll cards" if len(head) > 3 or sum(lengths) > MOST_LETTERS else "scroll"
  return f'<div class="{kind}" tabindex="0"><table>{header}<tbody>{body}</tbody></table></div>'


def records(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], *, words: int = 1) -> str:
  """A table of rows with keys.

  Args:
    columns: head, and `filled` template of the cells below it.
    rows: of the table; a value that is missing is a dash.
    words: columns that hold no numbers.
  """
  head = [head for head, _ in columns]
  return table(head, [cells(columns, row) for row in rows], words=words)


def cells(columns: Sequence[Column], row: Mapping[str, Any]) -> list[str]:
  """What `records` shows of a row."""
  return [filled(template, row) or "-" for _, template in columns]


def filled(template: str, row: Mapping[str, Any]) -> str | None:
  """A template of `str.format` with the values of a row.

  Numbers may be text, as a CSV has them. Beside Python's formats there are
  those of `FORMATS`: "{tokens:short}".

  Returns:
    None where a value is None or empty.

  Raises:
    KeyError: the row has no such key.
  """
  try:
    return _Filled().vformat(template, (), row)
  except _Empty:
    return None


class _Empty(Exception):
  """A value of a template is missing."""


class _Filled(string.Formatter):
  """Formats what `filled` takes."""

  def format_field(self, value: Any, format_spec: str) -> str:
    if value is None or value == "":
      raise _Empty
    if format_spec and isinstance(value, str):
      value = float(value)
    if format_spec in FORMATS:
      return FORMATS[format_spec](value)
    return super().format_field(value, format_spec)


def share(value: float) -> str:
  """12.34%, or 1.2e-05 where that would be 0.00%."""
  return f"{value:.2%}" if value >= 1e-4 else f"{value:.1e}"


FORMATS: Mapping[str, Callable[[float], str]] = {
  "short": console.short,
  "duration": console.duration,
  "share": share,
  "hours": lambda hours: f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}",
  "gib": lambda value: f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}",
  "ms": lambda seconds: f"{1e3 * seconds:.3g}",
  "percent": lambda part: f"{100 * part:.1f}",  # under a head that says so
}


def facts(pairs: Mapping[str, str | None]) -> str:
  """Big values over small names, plurals of which lose their s under a 1; None is left out."""
  under = lambda name, value: re.sub(r"([a-z]{3})s$", r"\1", name) if value == "1" else name
  items = "".join(
    f"<li><b>{text(value)}</b><span>{text(under(name, value))}</span></li>"
    for name, value in pairs.items()
    if value is not None
  )
  return f'<ul class="facts">{items}</ul>'


def terms(pairs: Iterable[tuple[str, str | None]]) -> str:
  """Names, and beside each what is said of it as HTML; None and "" are left out."""
  rows = "".join(f"<dt>{text(name)}</dt><dd>{said}</dd>" for name, said in pairs if said)
  return f'<dl class="terms">{rows}</dl>'


def command(words: str) -> str:
  """A command to copy, whose words are broken only where a line cannot hold one.

  Such a flag is broken before its value, and a value anywhere.
  """
  shown = []
  for part in re.findall(r"""\s+|(?:'[^']*'|"[^"]*"|[^\s'"]|['"])+""", words):
    flag, equals, value = part.partition("=")
    if not value:
      flag, equals = part, ""
    value = f"<span>{text(value)}</span>" if value else ""
    whole = f"<span>{text(flag + equals)}{value}</span>"
    shown.append(part if part.isspace() else whole)
  return f'<pre tabindex="0"><code>{"".join(shown)}</code></pre>'


def bars(rows: Iterable[tuple[str, float, str]], *, highlighted: Container[str] = ()) -> str:
  """Horizontal bars from zero: (name, length, written value)."""
  rows = list(rows)
  longest = max(length for _, length, _ in rows) or 1.0
  out = []
  for name, length, value in rows:
    out.append(
      f'<div class="row{" mine" if name in highlighted else ""}">'
      f'<span class="name">{text(name)}</span>'
      '<div class="track"><div class="fill"'
      f' style="width: {100 * length / longest:.1f}%"></div></div>'
      f'<span class="value">{text(value)}</span></div>'
    )
  return f'<div class="bars">{"".join(out)}</div>'


def steps(rows: Iterable[tuple[str, str]]) -> str:
  """A numbered list of (what to do, command or "")."""
  out = []
  for what, line in rows:
    out.append(f"<li>{text(what)}{command(line) if line else ''}</li>")
  return f"<ol>{''.join(out)}</ol>"


def fold(summary: str, content: str) -> str:
  return f"<details><summary>{text(summary)}</summary>{content}</details>"


def images(rows: Iterable[tuple[str, str, np.ndarray]]) -> str:
  """Rows of images that belong below each other: (name, note, uint8 [M, H, W, 3])."""
  out = []
  for name, note, pixels_MHW3 in rows:
    shown = "".join(
      f'<img alt="{text(name)}, image {i}" src="{_data(image)}">'
      for i, image in enumerate(pixels_MHW3, 1)
    )
    out.append(f"<dt>{text(name)}<span>{text(note)}</span></dt><dd>{shown}</dd>")
  return f'<dl class="images">{"".join(out)}</dl>'


def picture(data: bytes, kind: str, alt: str) -> str:
  """An image of a kind that browsers show, as "webp" (which may move).

  Small ones are shown at a whole multiple of their size; on a phone they fit, but
  for strips of frames, which scroll.
  """
  with Image.open(io.BytesIO(data)) as image:
    width, height = image.size
  times = max(1, LEAST_WIDTH // max(width, height))
  box = "scroll strip" if width > STRIP_WIDTH else "fit"
  shown = f'<img alt="{text(alt)}" width="{times * width}" src="{_source(data, kind)}">'
  return f'<div class="{box}">{shown}</div>'


def gallery(figures: Iterable[str]) -> str:
  """Figures in as many columns as there is room for; "" of none."""
  figures = list(figures)
  return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


def link(address: str, words: str) -> str:
  return f'<a href="{text(address)}">{text(words)}</a>'


def download(name: str, data: bytes) -> str:
  """A link under which a CSV is saved, which the page holds."""
  packed = base64.b64encode(data).decode()
  return f'<a download="{text(name)}" href="data:text/csv;base64,{packed}">{text(name)}</a>'


def _source(data: bytes, kind: str) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _data(pixels_HW3: np.ndarray) -> str:
  buffer = io.BytesIO()
  Image.fromarray(pixels_HW3).save(buffer, format="png", optimize=True)
  return _source(buffer.getvalue(), "png")
