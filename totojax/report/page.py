"""The look of a report: one page of HTML that needs no other file.

Text, tables and figures follow the reader's light or dark mode. The page is
never wider than its window; what is wider (tables, rows of images) scrolls in
a box of its own.
"""

import base64
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
import html
import io
import pathlib
import string
from typing import Any

from etils import epath
import numpy as np
from PIL import Image

from totojax.report import reading
from totojax.rundir import console, files

Section = tuple[str, Callable[[reading.RunFolder], str]]  # title, and what fills it
Column = tuple[str, str]  # head, and template of the cells
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


def section(title: str, body: Callable[[reading.RunFolder], str], folder: reading.RunFolder) -> str:
  """A section with its title, or with the reason why there is none."""
  try:
    content = body(folder)
  except reading.Missing as reason:
    content = missing(reason)
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
    # The files are there, but not as this version writes them.
    content = missing(f"its files have another format ({type(error).__name__}: {error})")
  head = f"<h2>{text(title)}</h2>" if title else ""
  return f"<section>{head}{content}</section>"


def text(value: object) -> str:
  """Any value as safe text."""
  return html.escape(str(value))


def write(
  workdir: epath.PathLike,
  *,
  about: str,
  sections: Sequence[Section],
  run: epath.PathLike | None = None,
) -> epath.Path:
  """Writes `report.html` about a run directory; returns its path.

  A section whose file is missing says which; the others are not affected.

  Args:
    workdir: where the page is written.
    about: what the page is, in its title.
    sections: title and function of each, in order. What the run's manifest says
      of its provenance stands below them.
    run: the run directory, where it is not `workdir`.
  """
  folder = reading.RunFolder(workdir if run is None else run)
  name = folder.path.name
  parts = [f"<h1>{text(name)} &middot; totojax</h1>"]
  parts += [section(title, body, folder) for title, body in sections]
  if (folder.path / "manifest.json").exists():
    parts.append(f"<footer>{section('', provenance, folder)}</footer>")
  path = epath.Path(workdir) / "report.html"
  files.write_text(path, page(f"{name}: {about}", parts))
  return path


def provenance(folder: reading.RunFolder) -> str:
  """When the run began, by which command, with what code, on what machine.

  A manifest of an earlier version says less.
  """
  manifest = folder.json("manifest.json")
  versions = dict(manifest.get("versions", {}))
  code = [f"totojax {versions.pop('totojax', 'of an unknown version')}"]
  if git := manifest.get("git"):
    changed = "" if git["clean"] else " with changes that were not committed"
    code.append(f"commit {git['commit'][:12]}{changed}")
  if "started" in manifest:
    code.append(f"begun {_minute(manifest['started'])}")
  if later := manifest.get("starts"):
    last = _minute(later[-1]["started"])
    code.append(f"started {len(later) + 1} times, the last time {last}")
  data = [stores(read)] if (read := manifest.get("data")) else []
  hardware = []
  if machine := manifest.get("machine"):
    hardware += [machine["cpu"], f"{machine['cores']} cores", machine["system"]]
  if devices := manifest.get("devices"):
    hardware.append(f"{devices['count']} x {devices['kind']}")
  if "python" in manifest:
    versions = {"Python": manifest["python"], **versions}
  packages = [f"{name} {version}" for name, version in versions.items()]
  command = manifest.get("command")
  shown = f"<p><code>{text(command)}</code></p>" if command else ""
  return shown + "".join(paragraph(" · ".join(x)) for x in (code, data, hardware, packages) if x)


def stores(data: Mapping[str, Mapping[str, Any]]) -> str:
  """The data sets of a manifest with the digests by which runs know them."""
  return ", ".join(
    f"{name} {each['digest'][:12]} ({each['records']:,} records)" for name, each in data.items()
  )


def _minute(iso: str) -> str:
  """2025-01-31T13:05:09+00:00 -> 2025-01-31 13:05 UTC."""
  return f"{iso[:16].replace('T', ' ')} UTC"


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
  """A table in a box that scrolls; columns after `words` hold numbers."""

  def cells(tag, values):
    out = []
    for column, value in enumerate(values):
      kind = ' class="number"' if column >= words else ""
      out.append(f"<{tag}{kind}>{text(value)}</{tag}>")
    return f"<tr>{''.join(out)}</tr>"

  header = f"<thead>{cells('th', head)}</thead>" if head else ""
  body = "".join(cells("td", row) for row in rows)
  return f'<div class="scroll" tabindex="0"><table>{header}<tbody>{body}</tbody></table></div>'


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
  "ms": lambda seconds: f"{1e3 * seconds:.3g}",
  "percent": lambda part: f"{100 * part:.1f}",  # under a head that says so
}


def facts(pairs: Mapping[str, str | None]) -> str:
  """Big values over small names; None is left out."""
  items = "".join(
    f"<li><b>{text(value)}</b><span>{text(name)}</span></li>"
    for name, value in pairs.items()
    if value is not None
  )
  return f'<ul class="facts">{items}</ul>'


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
  for what, command in rows:
    shown = f"<p><code>{text(command)}</code></p>" if command else ""
    out.append(f"<li>{text(what)}{shown}</li>")
  return f"<ol>{''.join(out)}</ol>"


def fold(summary: str, content: str) -> str:
  return f"<details><summary>{text(summary)}</summary>{content}</details>"


def images(rows: Iterable[tuple[str, str, np.ndarray]]) -> str:
  """Rows of images that scroll together: (name, note, uint8 [M, H, W, 3])."""
  out = []
  for name, note, pixels_MHW3 in rows:
    shown = "".join(
      f'<td><img alt="{text(name)}, image {i}" src="{_data(image)}"></td>'
      for i, image in enumerate(pixels_MHW3, 1)
    )
    head = f'<th scope="row">{text(name)}<span>{text(note)}</span></th>'
    out.append(f"<tr>{head}{shown}</tr>")
  return (
    '<div class="scroll" tabindex="0"><table class="images"><tbody>'
    f"{''.join(out)}</tbody></table></div>"
  )


def picture(data: bytes, kind: str, alt: str) -> str:
  """An image of a kind that browsers show, as "webp" (which may move), in its own size."""
  return f'<div class="scroll"><img alt="{text(alt)}" src="{_source(data, kind)}"></div>'


def _source(data: bytes, kind: str) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _data(pixels_HW3: np.ndarray) -> str:
  buffer = io.BytesIO()
  Image.fromarray(pixels_HW3).save(buffer, format="png", optimize=True)
  return _source(buffer.getvalue(), "png")
