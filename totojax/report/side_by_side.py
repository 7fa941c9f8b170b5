"""One page about several runs: their curves, the settings that differ, final numbers.

Runs of any job and any version may stand beside each other. Curves are of those
that trained on tokens: a run of pre-training, or a chain with one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax.report import (
  curves_page,
  frame,
  kinds,
  model_sections,
  page,
  plots,
  provenance,
  reading,
)
from totojax.rundir import console, wording

MOST_ROWS = 60  # of numbers that runs share; more are in the CSV
_NO_SETTING = ("sha256", "workdir")


@dataclasses.dataclass(frozen=True)
class Run:
  """One of them."""

  name: str
  folder: reading.RunFolder
  kind: frame.Kind
  prefix: str  # of the files that say what it trained

  def json(self, name: str) -> dict[str, Any]:
    """A file of it, {} where there is none or it is damaged."""
    return reading.optional({}, self.folder.json, f"{self.prefix}{name}")

  def log(self) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, [] where it trained nothing."""
    return reading.optional([], self.folder.lines, f"{self.prefix}metrics.jsonl")


@dataclasses.dataclass(frozen=True)
class Several:
  """What the sections are about."""

  runs: tuple[Run, ...]

  def claim(self, folder: reading.RunFolder) -> frame.Claim:
    """Which run ends lowest, where that can be compared."""
    del folder
    held = self.held_out()
    if not held:
      line = (
        f"{wording.counted(len(self.runs), 'run')} side by side; no two have a held-out"
        " loss in common."
      )
      return frame.Claim(line, "no verdict on the whole: each run's own stands below")
    if differ := self.not_alike():
      line = (
        f"{wording.counted(len(self.runs), 'run')} side by side; their losses cannot be compared."
      )
      return frame.Claim(line, f"{' and '.join(differ)} differ between the runs")
    return curves_page.lowest(held)

  def not_alike(self) -> list[str]:
    """What makes losses of two runs incomparable."""
    facts = {
      "tokenizers": [run.json("manifest.json").get("tokenizer") for run in self.trained()],
      "held-out data": [_held_out_data(run.json("manifest.json")) for run in self.trained()],
    }
    return [name for name, values in facts.items() if any(one != values[0] for one in values)]

  def trained(self) -> list[Run]:
    return [run for run in self.runs if any(model_sections.sources(row) for row in run.log())]

  def held_out(self) -> list[dict[str, Any]]:
    """Held-out losses of all, as `curves_page.FILE`, of sources that two runs have."""
    rows = []
    for run in self.trained():
      batch = run.json("config.json").get("train", {}).get("batch_tokens") or 1
      rows += model_sections.held_out(run.log(), run.name, batch)
    by_source: dict[str, set[str]] = {}
    for row in rows:
      by_source.setdefault(row["source"], set()).add(row["run"])
    return [row for row in rows if len(by_source[row["source"]]) > 1]

  def verdicts(self, folder: reading.RunFolder) -> str:
    """What each run's own page says."""
    del folder
    rows = []
    for run in self.runs:
      try:
        said = run.kind.claim(run.folder)
        rows.append((run.name, run.kind.about, said.line, said.interval))
      except (reading.Missing, LookupError, TypeError, ValueError) as reason:
        rows.append((run.name, run.kind.about, f"not known: {reason}", ""))
    return page.table(("run", "page", "verdict", "how sure"), rows, words=4)

  def curves(self, folder: reading.RunFolder) -> str:
    """Training and held-out losses, a curve a run."""
    del folder
    curves, batches = {}, []
    for run in self.runs:
      try:
        arrays, batch = model_sections.losses(run.folder, run.prefix)
      except reading.Missing:
        continue
      if len(arrays["train"][0]):
        curves[run.name] = arrays["train"]
        batches.append(batch)
    if not curves:
      return ""
    x = "training tokens" if all(batches) else "updates"
    plain = plots.lines(
      curves, look={"lw": 1.1}, xlabel=x, ylabel="training loss (nats per token)", xlim=(0, None)
    )

    def draw(axes, palette):
      plain(axes, palette)
      axes.xaxis.set_major_formatter(plots.short_ticks())

    out = plots.figure(
      draw, "Training loss as it was logged.", name="training", label="Training loss over tokens"
    )
    held = self.held_out()
    return out + (curves_page.held_out(held) if held else "")

  def numbers(self) -> list[dict[str, Any]]:
    """Final numbers by run."""
    out = []
    for run in self.runs:
      manifest, log = run.json("manifest.json"), run.log()
      row: dict[str, Any] = {"run": run.name, "parameters": manifest.get("parameters")}
      steps = max((one["step"] for one in log), default=None)
      batch = run.json("config.json").get("train", {}).get("batch_tokens")
      row |= {"updates": steps, "tokens": steps * batch if steps and batch else None}
      train = [one["loss"] for one in log if one["kind"] == "train" and one.get("loss") is not None]
      row["training loss"] = train[-1] if train else None
      for one in reversed(log):
        for source in model_sections.sources(one):
          if f"held out: {source}" not in row:
            row[f"held out: {source}"] = one[f"{source}/loss"]
            row[f"held out: {source}, interval"] = model_sections.interval(one, source)
      out.append(row)
    return out

  def final(self, folder: reading.RunFolder) -> str:
    """Final numbers, and what metrics.json have in common."""
    del folder
    rows = self.numbers()
    keys = list(dict.fromkeys(key for row in rows for key in row if row[key] is not None))
    table = page.table(keys, [[_shown(row.get(key)) for key in keys] for row in rows])
    return (table if len(keys) > 1 else "") + self._metrics()

  def _metrics(self) -> str:
    values = [
      dict(provenance.flat(reading.optional({}, run.folder.json, f"{place}metrics.json")))
      for run in self.runs
      for place in ("validate/" if run.prefix else "",)
    ]
    shared = [
      key
      for key in dict.fromkeys(key for one in values for key in one)
      if sum(isinstance(one.get(key), int | float) for one in values) > 1
    ]
    rows = [(key, *(_shown(one.get(key)) for one in values)) for key in shared[:MOST_ROWS]]
    if not rows:
      return ""
    title = f"{wording.counted(len(shared), 'number')} of metrics.json that runs have in common"
    title += f", the first {MOST_ROWS}" if len(shared) > MOST_ROWS else ""
    return page.fold(title, page.table(("", *(run.name for run in self.runs)), rows))

  def differing(self) -> list[tuple[str, ...]]:
    """(key, value of each run) of settings that are not the same in all."""
    flats = [dict(provenance.flat(run.json("config.json"))) for run in self.runs]
    keys = dict.fromkeys(key for one in flats for key in one if key not in _NO_SETTING)
    rows = [(key, *(_setting(one, key) for one in flats)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]

  def settings(self, folder: reading.RunFolder) -> str:
    """The settings that differ."""
    del folder
    rows = self.differing()
    if not rows:
      return page.paragraph("All settings are the same.")
    return page.table(("setting", *(run.name for run in self.runs)), rows, words=len(self.runs) + 1)

  def each(self, folder: reading.RunFolder) -> str:
    """What was run, run by run."""
    del folder
    out = []
    for run in self.runs:
      try:
        content = provenance.what_was_run(run.folder)
      except (reading.Missing, LookupError, TypeError, ValueError) as reason:
        content = page.missing(reason)
      out.append(page.fold(f"{run.name}: {run.folder.path}", content))
    return "".join(out)

  def again(self, folder: reading.RunFolder) -> str:
    """The command of each run, and that of this page."""
    del folder
    commands = []
    for run in self.runs:
      manifest = reading.optional({}, run.folder.json, "manifest.json")
      commands.append((run.name, [manifest, *manifest.get("starts", ())][-1].get("command")))
    shown = page.terms(
      (name, page.command(provenance.readable(line)) if line else None) for name, line in commands
    )
    last = page.paragraph("This page alone:", "soft")
    runs = {run.name: run.folder for run in self.runs}
    return shown + last + page.command(provenance.page_command(runs))

  def downloads(self, folder: reading.RunFolder) -> str:
    """Curves, final numbers and settings as CSV."""
    del folder
    numbers = self.numbers()
    keys = list(dict.fromkeys(key for row in numbers for key in row))
    held = [list(row.values()) for row in self.held_out()]
    train = [
      (run.name, x, y)
      for run in self.runs
      if run.log()
      for x, y in np.transpose(model_sections.losses(run.folder, run.prefix)[0]["train"])
    ]
    tables = {
      "final.csv": [keys, *([row.get(key) for key in keys] for row in numbers)],
      "settings.csv": [("setting", *(run.name for run in self.runs)), *self.differing()],
      "training.csv": [("run", "tokens", "loss"), *train],
      curves_page.FILE: [("run", "source", "step", "tokens", "loss", "loss_sem"), *held],
    }
    links = [
      page.download(name, provenance.table(rows)) for name, rows in tables.items() if len(rows) > 1
    ]
    return f"<p>{' · '.join(links)}</p>" if links else ""


def write(workdir: epath.PathLike, named: Sequence[tuple[str, reading.RunFolder]]) -> epath.Path:
  """Writes `report.html` about runs by the names that they have on it; returns its path.

  Raises:
    reading.Missing: a folder is no run directory, or its config.json is damaged.
  """
  several = Several(
    tuple(Run(name, one, kinds.of(one), provenance.trained(one)) for name, one in named)
  )
  kind = frame.Kind(
    f"{wording.counted(len(several.runs), 'run')} side by side",
    several.claim,
    (
      ("Each run", several.verdicts),
      ("Curves", several.curves),
      ("Final numbers", several.final),
      ("Settings that differ", several.settings),
    ),
    paper=("Figure 2",) if several.trained() else (),
  )
  foot = (
    ("What was run", several.each),
    ("Run it again", several.again),
    ("Numbers as CSV", several.downloads),
  )
  names = ", ".join(run.name for run in several.runs)
  return frame.document(workdir, names, reading.RunFolder(workdir), kind, foot)


def _held_out_data(manifest: Mapping[str, Any]) -> dict[str, str]:
  """Digests of what was held out, by name."""
  data = manifest.get("data", {})
  return {key: one["digest"] for key, one in data.items() if key.startswith("data.validation")}


def _setting(kept: Mapping[str, Any], key: str) -> str:
  return provenance.plain(kept[key]) if key in kept else "-"


def _shown(value: Any) -> str:
  match value:
    case None:
      return "-"
    case float():
      return console.short(value) if abs(value) >= 1e5 else f"{value:.4g}"
    case int():
      return f"{value:,}"
  return str(value)
