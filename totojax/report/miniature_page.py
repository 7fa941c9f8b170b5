"""The page of `run = "miniature"`: every table and figure of the paper beside ours in small.

Reads the run directories of a chain's stages, and the table of parts that the
stage's own config.json has (`totojax/config/miniature.py`).
"""

from collections.abc import Iterator, Mapping
import os
import shlex
from typing import Any

from totojax.report import frame, miniature_numbers, page, reading
from totojax.rundir import console, wording

FAILURES = "failures.json"  # of the chain: stage -> why it failed
CONFIG = "configs/paper/miniature.py"
PAGES = "pages"  # of stages that have none of their own, below the page's folder
_SIZES = (
  "The sizes here are not the paper's: models, data and runs are far smaller, on rendered pictures,"
  " so that a number of ours is not to be compared with the paper's beside it."
)
_NOT_YET = "not run yet"


def named(folder: reading.RunFolder) -> str:
  """The stage of a chain that is such a page; "": none."""
  stages = folder.json("config.json").get("stages", {})
  return next((n for n, one in stages.items() if one.get("run") == "miniature"), "")


def _asked(folder: reading.RunFolder) -> tuple[reading.RunFolder, Mapping[str, Any], str]:
  """The chain's folder, its parts in order, and how its folder is reached from the page."""
  kept, root, base = folder.json("config.json"), reading.RunFolder(folder.path.parent), ".."
  if kept.get("run") == "chain":
    kept, root, base = kept["stages"][named(folder)], folder, os.fspath(folder.path)
  return root, {name: kept["parts"][name] for name in kept["order"]}, base


def runs(part: Mapping[str, Any]) -> list[str]:
  """Stages of a part, each once."""
  stages = [part["rows"][name]["stage"] for name in part["order"]]
  return list(dict.fromkeys([*filter(None, stages), *part["stages"]]))


def without_page(folder: reading.RunFolder) -> Iterator[str]:
  """Finished stages that belong to a part, and have no page that is as new as they are."""
  root, parts, _ = _asked(folder)
  for stage in dict.fromkeys(stage for part in parts.values() for stage in runs(part)):
    done, written = root.path / stage / "done.json", folder.path / PAGES / stage / "report.html"
    if not done.exists() or (root.path / stage / "report.html").exists():
      continue
    if not written.exists() or written.stat().mtime < done.stat().mtime:
      yield stage


def _numbers(
  root: reading.RunFolder, part: Mapping[str, Any]
) -> dict[str, miniature_numbers.Number | str]:
  """Row -> our number, or why there is none."""
  failed = reading.optional({}, root.json, FAILURES)
  out: dict[str, miniature_numbers.Number | str] = {}
  for name in part["order"]:
    row = part["rows"][name]
    stage = row["stage"]
    if not stage:
      out[name] = row["why_not"]
    elif stage in failed:
      out[name] = f"failed: {stage}: {failed[stage]}"
    elif not (root.path / stage / "done.json").exists():
      out[name] = _NOT_YET
    else:
      try:
        out[name] = miniature_numbers.read(root, stage, row["what"])
      except reading.Missing as reason:
        out[name] = f"not shown: {reason}"
  return out


def _state(root: reading.RunFolder, part: Mapping[str, Any]) -> str:
  """Whether a part is there, in a few words."""
  if part["why_not"]:
    return "cannot be run in small"
  failed = reading.optional({}, root.json, FAILURES)
  stages = runs(part)
  bad = [stage for stage in stages if stage in failed]
  done = [stage for stage in stages if (root.path / stage / "done.json").exists()]
  if bad:
    return f"failed: {', '.join(bad)}"
  if len(done) == len(stages):
    return "done"
  return _NOT_YET if not done else f"{len(done)} of {wording.counted(len(stages), 'run')} are done"


def line(root: reading.RunFolder, part: Mapping[str, Any]) -> str:
  """The verdict on a part: our number with interval, n and size, and the paper's."""
  if part["why_not"]:
    return f"Not run in small: {part['why_not']}"
  numbers = _numbers(root, part)
  there = [(name, one) for name, one in numbers.items() if not isinstance(one, str)]
  if not there:
    if not numbers:
      return "The paper prints no number here; the pages below have the figure."
    return f"No number of ours: {next(iter(numbers.values()))}."
  name, one = there[0]
  row = part["rows"][name]
  of = ", ".join(filter(None, (one.n, miniature_numbers.size(root, row["stage"], row["what"]))))
  said = f"{name}: ours {one.shown}{f' ({of})' if of else ''}"
  said += f"; the paper's {row['paper']}" if row["paper"] else "; the paper prints no number"
  if part["best"] and len(there) > 1:
    pick = max if part["best"] == "highest" else min
    said += f". {part['best'].capitalize()} of {len(there)} rows here: "
    said += pick(there, key=lambda pair: pair[1].value)[0]
  return f"{said}."


def claim(folder: reading.RunFolder) -> frame.Claim:
  """That sizes are not the paper's, and how much of it is there."""
  root, parts, _ = _asked(folder)
  states = [_state(root, part) for part in parts.values()]
  told = {
    "done": states.count("done"),
    "failed": sum(state.startswith("failed") for state in states),
    "not run in small": states.count("cannot be run in small"),
  }
  told["not or not wholly run yet"] = len(states) - sum(told.values())
  counts = ", ".join(f"{count} {what}" for what, count in told.items() if count)
  return frame.Claim(_SIZES, f"{len(parts)} tables and figures: {counts}.")


def overview(folder: reading.RunFolder) -> str:
  """A line for each table and figure."""
  root, parts, _ = _asked(folder)
  rows = [
    f"<li>{page.link(f'#{name}', part['title'])}: {page.text(line(root, part))}"
    f"{page.text('' if part['why_not'] else f' [{_state(root, part)}]')}</li>"
    for name, part in parts.items()
  ]
  return f"<ul>{''.join(rows)}</ul>"


def every_part(folder: reading.RunFolder) -> str:
  """A section for each table and figure."""
  root, parts, base = _asked(folder)
  out = []
  for name, part in parts.items():
    title = page.text(f"{part['title']}: {part['about']}")
    out.append(f'<h3 id="{page.text(name)}">{title}</h3>')
    out.append(page.paragraph(line(root, part)))
    out.append(_table(root, part))
    if part["differs"]:
      out.append(page.paragraph(f"What differs, beside sizes: {part['differs']}", "soft"))
    if not part["why_not"]:
      out.append(_links(root, part, base))
      out.append(page.command(_command(root, f"{CONFIG}:parts={name}")))
    if part["at_size"]:
      out.append(page.paragraph(f"At the paper's size: --config={part['at_size']}", "soft"))
  return "".join(out)


def _table(root: reading.RunFolder, part: Mapping[str, Any]) -> str:
  if not part["rows"]:
    return ""
  lines = []
  for name, one in _numbers(root, part).items():
    row = part["rows"][name]
    paper = row["paper"] or "-"
    if isinstance(one, str):
      lines.append((name, one, "-", "-", paper))
    else:
      size = miniature_numbers.size(root, row["stage"], row["what"]) or "-"
      lines.append((name, one.shown, one.n or "-", size, paper))
  head = ("row", "ours, in small (95 %)", "of", "model", "the paper's, at its size")
  return page.table(head, lines, words=5)


def _links(root: reading.RunFolder, part: Mapping[str, Any], base: str) -> str:
  """The pages of the runs of a part."""
  out = []
  for stage in runs(part):
    done = reading.optional({}, root.json, f"{stage}/done.json")
    took = f" ({console.duration(done['seconds'])})" if "seconds" in done else ""
    place = f"{stage}/report.html"
    if not (root.path / place).exists():
      place = f"{named(root)}/{PAGES}/{stage}/report.html"
    known = (root.path / place).exists()
    out.append((page.link(f"{base}/{place}", stage) if known else page.text(stage)) + took)
  return f"<p>Runs: {' · '.join(out)}</p>" if out else ""


def _command(root: reading.RunFolder, config: str) -> str:
  words = ("python", "-m", "totojax.main", f"--config={config}", f"--workdir={root.path}")
  return shlex.join(words)


def again(folder: reading.RunFolder) -> str:
  """The command that makes all of it."""
  root, _, _ = _asked(folder)
  note = page.paragraph("Goes on where it stopped; parts that failed are tried again.", "soft")
  return page.command(_command(root, CONFIG)) + note


PAGE = frame.Kind(
  "the paper in miniature",
  claim,
  (("In short", overview), ("Part by part", every_part), ("All of it again", again)),
)
