"""What every page of a run has, and in which order.

The verdict in one line with its interval; the sections of its kind; what was run,
the command that makes it again, where the paper has the like, and all numbers as
CSV. A section that has nothing to say leaves nothing behind; one whose file is
missing or damaged is named below the others, which are not affected.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses

from etils import epath

from totojax.report import page, paper, provenance, reading
from totojax.rundir import files

Section = tuple[str, Callable[[reading.RunFolder], str]]  # title, and what fills it


@dataclasses.dataclass(frozen=True)
class Claim:
  """The verdict: one sentence, and how sure it is."""

  line: str
  interval: str = ""  # the numbers behind it, with their interval
  good: bool | None = None  # whether it is what one hopes for; None: neither

  def html(self) -> str:
    kind = {True: " good", False: " bad", None: ""}[self.good]
    sure = f"<span>{page.text(self.interval)}</span>" if self.interval else ""
    return f'<p class="verdict{kind}">{page.text(self.line)}{sure}</p>'


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of page."""

  about: str
  claim: Callable[[reading.RunFolder], Claim]
  sections: tuple[Section, ...]
  paper: tuple[str, ...] = ()  # its tables and figures that show the like, as "Table 10"


def write(workdir: epath.PathLike, kind: Kind, *, run: epath.PathLike | None = None) -> epath.Path:
  """Writes `report.html` about a run directory; returns its path.

  Args:
    workdir: where the page is written; made if need be.
    kind: of the page.
    run: the run directory, where it is not `workdir`.
  """
  folder = reading.RunFolder(workdir if run is None else run)
  foot = (
    ("What was run", provenance.what_was_run),
    ("Run it again", provenance.again),
    ("Settings", provenance.settings),
    ("Numbers as CSV", provenance.downloads),
  )
  return document(workdir, folder.path.name, folder, kind, foot)


def document(
  workdir: epath.PathLike, name: str, folder: reading.RunFolder, kind: Kind, foot: Sequence[Section]
) -> epath.Path:
  """Writes `report.html` with a name and a foot that are given; returns its path."""
  gaps: list[tuple[str, str]] = []
  body = _sections(kind.sections, folder, gaps)
  below = _sections(foot, folder, gaps)
  if kind.paper:
    title = "In the paper"
    below.insert(len(below) - 1, (title, _section(title, _published(kind.paper))))
  head = [f"<h1>{page.text(name)} &middot; {page.text(kind.about)}</h1>"]
  said = _filled(lambda of: kind.claim(of).html(), folder, "Verdict", gaps)
  head.append(said or _no_verdict(folder).html())
  links = (page.link(f"#{_anchor(title)}", title) for title, _ in below)
  head.append(f"<nav>{''.join(links)}</nav>")
  if gaps:
    by_reason: dict[str, list[str]] = {}
    for title, why in dict.fromkeys(gaps):
      by_reason.setdefault(why, []).extend([title] if title else [])
    lines = (page.missing(f"{', '.join(titles)}: {why}") for why, titles in by_reason.items())
    body.append(("", f"<section>{''.join(lines)}</section>"))
  foot_html = "".join(html for _, html in below)
  parts = [*head, *(html for _, html in body), f"<footer>{foot_html}</footer>"]
  files.make_folder(workdir)
  path = epath.Path(workdir) / "report.html"
  files.write_text(path, page.page(f"{name}: {kind.about}", parts))
  return path


def _no_verdict(folder: reading.RunFolder) -> Claim:
  """What stands above a page whose run does not say how it came out."""
  done = (folder.path / "done.json").exists()
  line = "The run is finished." if done else "The run is not finished."
  return Claim(line, "What it found cannot be read: see below." if done else "No verdict yet.")


def _sections(
  sections: Iterable[Section], folder: reading.RunFolder, gaps: list[tuple[str, str]]
) -> list[tuple[str, str]]:
  """(title, HTML) of those that have something to say; appends to `gaps`."""
  out = []
  for title, body in sections:
    if content := _filled(body, folder, title, gaps):
      out.append((title, _section(title, content)))
  return out


def _filled(
  body: Callable[[reading.RunFolder], str],
  folder: reading.RunFolder,
  title: str,
  gaps: list[tuple[str, str]],
) -> str:
  try:
    return body(folder)
  except reading.Missing as reason:
    if not (isinstance(reason, reading.Absent) and _is_elsewhere(folder, reason.name)):
      gaps.append((title, str(reason)))
  except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
    # The files are there, but not as this version writes them.
    why = f"its files have another format ({type(error).__name__}: {error})"
    gaps.append((title, why))
  return ""


def _is_elsewhere(folder: reading.RunFolder, name: str) -> bool:
  """Whether a file is of a stage that this chain does not have."""
  stage, slash, _ = name.partition("/")
  return (
    bool(slash) and not (folder.path / stage).exists() and stage not in provenance.stages(folder)
  )


def _section(title: str, content: str) -> str:
  head = f'<h2 id="{_anchor(title)}">{page.text(title)}</h2>' if title else ""
  return f"<section>{head}{content}</section>"


def _anchor(title: str) -> str:
  return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _published(places: Sequence[str]) -> str:
  """Where the paper shows the like."""
  of = f"{', '.join(places)} of "
  title = page.link(paper.ADDRESS, paper.TITLE)
  note = page.link(paper.PDF, "PDF")
  return f"<p>{page.text(of)}{title} (arXiv {paper.ARXIV}, {note}).</p>"
