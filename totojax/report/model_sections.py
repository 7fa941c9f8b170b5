"""Sections of a report about the model: the verdict and the losses."""

from collections.abc import Iterable, Mapping
import functools
from typing import Any

import numpy as np

from totojax.report import (
  diagnosis,
  frame,
  page,
  plots,
  reading,
  run_sections,
  verdict,
  video_sections,
)
from totojax.rundir import wording

BARS = "Bars: two standard errors, with tokens taken as independent."


def claim(folder: reading.RunFolder, *, validate: str = "validate/") -> frame.Claim:
  """Whether the model beats the baselines on the first source."""
  metrics = folder.json(f"{validate}metrics.json")
  source = next(verdict.sources(metrics), None)
  if source is None:
    raise reading.Missing(f"{validate}metrics.json names no source")
  judgement = verdict.judge(metrics, source, _history(folder, metrics, source))
  # That nothing moves is no fault of the model.
  judged = None if judgement.cause == "still" else judgement.better
  n = metrics.get(f"{source}/n")
  of = f", on {n:,.0f} held-out sequences" if n else ""
  return frame.Claim(judgement.claim, f"{judgement.interval}{of}", judged)


def trained(folder: reading.RunFolder) -> frame.Claim:
  """How far a run of pre-training has come: its last held-out loss, or its last training loss."""
  rows = folder.lines("metrics.jsonl")
  last = [row for row in rows if row["kind"] == "eval" and sources(row)]
  if not last:
    ends = [row for row in rows if row.get("loss") is not None]
    if not ends:
      raise reading.Missing("metrics.jsonl has no loss yet")
    line = (
      f"{ends[-1]['loss']:.3f} nats per token in training after"
      f" {wording.counted(ends[-1]['step'], 'update')}."
    )
    return frame.Claim(line, "nothing was held out: no interval")
  row = last[-1]
  source = sources(row)[0]
  line = f"{row[f'{source}/loss']:.3f} nats per token on held-out {source}"
  return frame.Claim(
    f"{line} after {wording.counted(row['step'], 'update')}.", interval(row, source)
  )


def sources(row: Mapping[str, Any]) -> list[str]:
  """What an evaluation of metrics.jsonl was held on."""
  return [
    key.removesuffix("/loss") for key, x in row.items() if key.endswith("/loss") and x is not None
  ]


def held_out(rows: Iterable[Mapping[str, Any]], run: str, batch: int) -> list[dict[str, Any]]:
  """A row for each held-out loss of a metrics.jsonl, as `curves_page.FILE` has them."""
  return [
    {
      "run": run,
      "source": source,
      "step": row["step"],
      "tokens": row["step"] * batch,
      "loss": row[f"{source}/loss"],
      "loss_sem": row.get(f"{source}/loss_sem"),
    }
    for row in rows
    if row["kind"] == "eval"
    for source in sources(row)
  ]


def interval(row: Mapping[str, Any], source: str) -> str:
  """The interval of a held-out loss, over sequences."""
  sem, loss = row.get(f"{source}/loss_sem"), row[f"{source}/loss"]
  n = row.get(f"{source}/n")
  if sem is None or n == 1:  # of one sequence nobody knows how others vary
    return verdict.UNKNOWN
  of = f", {wording.counted(round(n), 'sequence')}" if n else ""
  return f"95 % from {loss - verdict.Z * sem:.3f} to {loss + verdict.Z * sem:.3f}{of}"


def headline(folder: reading.RunFolder, *, validate: str = "validate/") -> str:
  """By how much the model beats the baselines, each loss, and what to do next."""
  metrics = folder.json(f"{validate}metrics.json")
  out = []
  for number, source in enumerate(verdict.sources(metrics)):
    history = _history(folder, metrics, source)
    judgement = verdict.judge(metrics, source, history)
    if number:  # the page's verdict is of the first
      out.append(f"<h3>{page.text(source)}</h3>" + page.paragraph(judgement.claim))
    out += map(page.paragraph, (judgement.detail, *diagnosis.notes(history)))
    out.append(_next(folder, judgement, history))
    if len(judgement.losses) > 1:
      bars = ((name, loss, f"{loss:.3f}") for name, loss in judgement.losses.items())
      out.append(page.bars(bars, highlighted=(verdict.MODEL,)))
      out.append(page.paragraph(f"{judgement.scope}; shorter is better.", "soft"))
    if rows := verdict.rows(metrics, source):
      noun = verdict.frame(metrics)
      heads = ("nats per visual token", f"all {noun}s", f"{noun}s 2 and later")
      table = page.table(heads, rows)
      out.append(page.fold("All losses, with standard errors over sequences", table))
  return "".join(out)


def _history(
  folder: reading.RunFolder, metrics: Mapping[str, float], source: str
) -> diagnosis.History:
  """What the files of a chain tell of how its model came about."""
  asked = reading.optional({}, folder.json, "pretrain/config.json")
  stores = {split: f"clips/{split}/manifest.json" for split in ("train", "val")}
  manifests = {split: reading.optional({}, folder.json, path) for split, path in stores.items()}
  return diagnosis.of_logs(
    metrics,
    source,
    rows=reading.optional([], folder.lines, "pretrain/metrics.jsonl"),
    manifests={split: manifest for split, manifest in manifests.items() if manifest},
    sources=len(asked.get("data", {}).get("train", {})) or None,
  )


def _next(folder: reading.RunFolder, judgement: verdict.Verdict, history: diagnosis.History) -> str:
  """What to do where the model is no better, with the command for it."""
  if judgement.better or len(judgement.losses) < 2:
    return ""
  manifest = reading.optional({}, folder.json, "manifest.json")
  steps = diagnosis.advice(
    judgement.cause,
    history,
    command=[manifest, *manifest.get("starts", ())][-1].get("command", ""),
    chain=str(folder.path),
    prefix="stages__pretrain__",
  )
  return "<h3>What to do next</h3>" + page.steps((step.text, step.command) for step in steps)


def loss_curves(
  folder: reading.RunFolder, *, pretrain: str = "pretrain/", validate: str = "validate/"
) -> str:
  """Training and validation loss against tokens, with what is to be beaten."""
  draw, caption = learning(folder, pretrain=pretrain, validate=validate)
  return plots.figure(draw, caption + ".", name="loss", label=caption)


def losses(
  folder: reading.RunFolder, prefix: str
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int | None]:
  """Curves of metrics.jsonl: (tokens, loss) of "train" and of each source that was held out.

  Returns:
    The curves, and tokens of a batch; where that is None x is updates.
  """
  rows = folder.lines(f"{prefix}metrics.jsonl")
  asked = reading.optional({}, folder.json, f"{prefix}config.json")
  batch = asked.get("train", {}).get("batch_tokens")
  series: dict[str, tuple[list[float], list[float]]] = {"train": ([], [])}
  for row in rows:
    found = sources(row) if row["kind"] != "train" else []
    named = {name: row[f"{name}/loss"] for name in found}
    if row["kind"] == "train" and row.get("loss") is not None:
      named["train"] = row["loss"]
    for name, value in named.items():
      x, y = series.setdefault(name, ([], []))
      x.append(row["step"] * (batch or 1))
      y.append(value)
  return {k: (np.array(x), np.array(y)) for k, (x, y) in series.items()}, batch


def learning(
  folder: reading.RunFolder, *, pretrain: str = "pretrain/", validate: str = "validate/"
) -> tuple[plots.Draw, str]:
  """The figure of `loss_curves`, and what it shows.

  Raises:
    reading.Missing: there is no log of the training.
  """
  arrays, batch = losses(folder, pretrain)
  asked = reading.optional({}, folder.json, f"{pretrain}config.json")
  metrics = reading.optional({}, folder.json, f"{validate}metrics.json") if validate else {}
  found = list(verdict.sources(metrics))
  levels = verdict.levels(metrics, found[0]) if found else {}
  train = arrays.pop("train")
  draw = plots.learning(
    train=train, evals=arrays, levels=levels, xlabel="training tokens" if batch else "updates"
  )
  names = asked.get("data", {}).get("train", {})
  of = f" of {' and '.join(names)}" if len(names) > 1 else ""
  caption = f"Cross-entropy on training batches{of}"
  caption += " and on held-out sequences" if arrays else ""
  if levels:
    caption += "; dashed, predictors that need no network, on held-out data"
    caption += f" of {found[0]}" if len(found) > 1 else ""
  return draw, caption


def position_loss(folder: reading.RunFolder, *, validate: str = "validate/") -> str:
  """The paper's Figure 10."""
  table = folder.table(f"{validate}position_loss.csv")
  metrics = reading.optional({}, folder.json, f"{validate}metrics.json")
  noun = verdict.frame(metrics)
  lines = []
  for source, t in table.items():
    first = t["frame"] == 0
    if first.all():
      continue
    means = [np.average(t["mean"][part], weights=t["n"][part]) for part in (first, ~first)]
    lines.append(
      f"{source}: {means[0]:.2f} nats per token on the first {noun}, {means[1]:.2f} on later ones."
    )
  caption = (
    f"Mean loss at each place of the sequence; thick lines are the means of {noun}s. Figure 10 of"
    " the paper: the first frame is the hardest, later frames repeat much of it."
  )
  return "".join(map(page.paragraph, lines)) + plots.figure(
    plots.by_position(table), caption, name="position", label="Loss by position"
  )


def _by_frame(folder: reading.RunFolder, validate: str) -> str:
  """Says which frames a latent one holds, where it holds several."""
  tables = reading.optional({}, folder.table, f"{validate}frame_loss.csv")
  if (frames := plots.latent_lengths(tables)) is None:
    return "By frame."
  return (
    f"By latent frame. The first holds {frames[0]} frame{'s' * (frames[0] > 1)} of the clip, and"
    f" each of the others {frames[-1]}."
  )


def group_loss(folder: reading.RunFolder, *, validate: str = "validate/") -> str:
  """Loss by frame and by row of the grid, side by side."""
  captions = {"frame": _by_frame(folder, validate)}
  captions["row"] = "By row of the token grid, over all frames."
  if (folder.path / f"{validate}code_loss.csv").exists():
    captions["code"] = "By code of a place, over all places."
  out, gaps = [], []
  for group, caption in captions.items():
    try:
      draw = plots.by_group(folder.table(f"{validate}{group}_loss.csv"), group)
    except reading.Missing as reason:
      gaps.append(reason)
      continue
    caption = f"{caption} {BARS}"
    out.append(plots.figure(draw, caption, name=group, label=f"Loss by {group}", half=True))
  if not out:
    raise gaps[0]
  return page.pair("".join(out)) + "".join(map(page.missing, gaps))


TRAINING = frame.Kind(
  "pre-training",
  trained,
  (
    ("", functools.partial(run_sections.in_short, pretrain="")),
    ("Learning", functools.partial(loss_curves, pretrain="", validate="")),
    ("While it was trained", functools.partial(video_sections.while_trained, prefix="")),
    ("Time", functools.partial(run_sections.timings, pretrain="")),
  ),
  paper=("Figure 2", "Table 1"),
)
VALIDATION = frame.Kind(
  "held-out loss",
  functools.partial(claim, validate=""),
  (
    ("Against baselines", functools.partial(headline, validate="")),
    ("Where in the video the loss is", functools.partial(position_loss, validate="")),
    ("Frames and rows", functools.partial(group_loss, validate="")),
  ),
  paper=("Figure 10",),
)
