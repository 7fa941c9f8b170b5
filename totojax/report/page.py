"""The look of a report: one page of HTML that needs no other file.

Text, tables and figures follow the reader's light or dark mode. The page is
never wider than its window; what is wider (tables, rows of images) scrolls in
a box of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
import html
import io
import string
from typing import Any

from etils import epath
import numpy as np
from PIL import Image

from totojax.report import reading
from totojax.rundir import console, files

Section = tuple[str, Callable[[reading.Folder], str]]  # title, and what fills it
Column = tuple[str, str]  # head, and template of the cells
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #23272b; --soft: #666b70;
  --line: #e3e0d9; --s1: #1f6f8b; --s2: #c26a2d; --s3: #5b7f3a; --s4: #85539b;
  --good: #2f7d4f; --bad: #b3452f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1d2125; --ink: #e4e2dd; --soft: #a0a3a6;
    --line: #343a40; --s1: #62b4d0; --s2: #e39a63; --s3: #9cc276; --s4: #c397d6;
    --good: #74c493; --bad: #e78a75;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word;
}
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 3rem 0 .25rem; }
h3 { font-size: .95rem; margin: 1.5rem 0 .25rem; }
p { margin: .4rem 0; max-width: 44rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.verdict { font-size: 1.75rem; line-height: 1.25; font-weight: 650;
  margin: 0 0 .5rem; max-width: none; letter-spacing: -.01em; }
.good { color: var(--good); } .bad { color: var(--bad); }
.missing { border-left: 3px solid var(--line); padding: .3rem .8rem;
  color: var(--soft); }
figure { margin: 1rem 0; padding: 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; }
figcaption { margin-top: .5rem; max-width: 44rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.narrow-only { display: none; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.pair figure { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
.number { text-align: right; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: 1.2rem 0 0;
  padding: 0; list-style: none; }
.facts li { display: flex; flex-direction: column; }
.facts b { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content;
  gap: .45rem .9rem; align-items: center; margin: 1.2rem 0 .4rem; }
.bars .track { background: var(--line); border-radius: 4px; height: .9rem; }
.bars .fill { height: 100%; border-radius: 4px; background: var(--soft);
  opacity: .6; }
.bars .mine .fill { background: var(--s1); opacity: 1; }
.bars .name { white-space: nowrap; }
.bars .value { font-variant-numeric: tabular-nums; text-align: right; }
.bars .row { display: contents; } .bars .mine .name, .bars .mine .value
  { font-weight: 650; color: var(--s1); }
.images td { padding: 0 .35rem .35rem 0; border: 0; }
.images th { position: sticky; left: 0; background: var(--card);
  vertical-align: middle; padding-right: 1rem; border: 0; }
.images th span { display: block; font-weight: 400; }
.images img { display: block; width: 88px; height: 88px; border-radius: 3px;
  image-rendering: pixelated; }
details { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .5rem 0; }
details .scroll { margin: 0 0 1rem; }
code { font-size: .9em; }
footer { margin-top: 3rem; padding-top: 1rem; font-size: .85rem;
  border-top: 1px solid var(--line); color: var(--soft); }
footer p { max-width: none; }
@media (max-width: 40rem) {
  main { padding: 1.5rem 1rem 3rem; }
  .verdict { font-size: 1.4rem; }
  .wide-only { display: none; } .narrow-only { display: block; }
  .pair { grid-template-columns: 1fr; }
  figure { padding: .75rem; }
  .bars { grid-template-columns: 1fr max-content; gap: .1rem .9rem; }
  .bars .track { grid-column: 1 / -1; grid-row: auto; order: 3;
    margin-bottom: .6rem; }
  .bars .row { display: grid; grid-column: 1 / -1;
    grid-template-columns: 1fr max-content; gap: .1rem .9rem; }
  .images img { width: 64px; height: 64px; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; }
}
"""


def page(title: str, sections: Iterable[str]) -> str:
  """The whole document."""
  body = "\n".join(sections)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def section(title: str, body: Callable[[reading.Folder], str], folder: reading.Folder) -> str:
  """A section with its title, or with the reason why there is none."""
  try:
    content = body(folder)
  except reading.Missing as reason:
    content = missing(reason)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
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
  folder = reading.Folder(workdir if run is None else run)
  name = folder.path.name
  parts = [f"<h1>{text(name)} &middot; totojax</h1>"]
  parts += [section(title, body, folder) for title, body in sections]
  if (folder.path / "manifest.json").exists():
    parts.append(f"<footer>{section('', provenance, folder)}</footer>")
  path = epath.Path(workdir) / "report.html"
  files.write_text(path, page(f"{name}: {about}", parts))
  return path


def provenance(folder: reading.Folder) -> str:
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
  return shown + "".join(paragraph(" · ".join(x)) for x in (code, hardware, packages) if x)


def _minute(iso: str) -> str:
  """2025-01-31T13:05:09+00:00 -> 2025-01-31 13:05 UTC."""
  return f"{iso[:16].replace('T', ' ')} UTC"


def paragraph(value: object, kind: str = "") -> str:
  """A paragraph of plain text; `kind` is a class of the style sheet."""
  opening = f'<p class="{kind}">' if kind else "<p>"
  return f"{opening}{text(value)}</p>"


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


def _data(pixels_HW3: np.ndarray) -> str:
  buffer = io.BytesIO()
  Image.fromarray(pixels_HW3).save(buffer, format="png", optimize=True)
  return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
