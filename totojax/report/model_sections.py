"""Sections of a report about the model: the verdict and the losses."""

from collections.abc import Mapping

import numpy as np

from totojax.report import diagnosis, page, plots, reading, verdict

BARS = "Bars: two standard errors, with tokens taken as independent."


def headline(folder: reading.RunFolder) -> str:
  """Whether the model beats the baselines, by how much, and each loss."""
  metrics = folder.json("validate/metrics.json")
  out = []
  for source in verdict.sources(metrics):
    history = _history(folder, metrics, source)
    judgement = verdict.judge(metrics, source, history)
    # That nothing moves is no fault of the model.
    judged = None if judgement.cause == "still" else judgement.better
    kind = {True: " good", False: " bad", None: ""}[judged]
    out.append(f'<p class="verdict{kind}">{page.text(judgement.claim)}</p>')
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
  return "".join(out) or page.missing("validate/metrics.json names no source")


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


def loss_curves(folder: reading.RunFolder) -> str:
  """Training and validation loss against tokens, with what is to be beaten."""
  draw, caption = learning(folder)
  return plots.figure(draw, caption + ".", name="loss", label=caption)


def learning(folder: reading.RunFolder) -> tuple[plots.Draw, str]:
  """The figure of `loss_curves`, and what it shows.

  Raises:
    reading.Missing: there is no log of the training.
  """
  rows = folder.lines("pretrain/metrics.jsonl")
  asked = reading.optional({}, folder.json, "pretrain/config.json")
  batch = asked.get("train", {}).get("batch_tokens")
  series = {"train": ([], [])}
  for row in rows:
    for key, value in row.items():
      name = "train" if row["kind"] == "train" else key.removesuffix("/loss")
      is_loss = key == "loss" if name == "train" else key.endswith("/loss")
      if is_loss and value is not None:
        x, y = series.setdefault(name, ([], []))
        x.append(row["step"] * (batch or 1))
        y.append(value)
  arrays = {k: (np.array(x), np.array(y)) for k, (x, y) in series.items()}
  metrics = reading.optional({}, folder.json, "validate/metrics.json")
  sources = list(verdict.sources(metrics))
  levels = verdict.levels(metrics, sources[0]) if sources else {}
  draw = plots.learning(
    train=arrays.pop("train"),
    evals=arrays,
    levels=levels,
    xlabel="training tokens" if batch else "updates",
  )
  names = asked.get("data", {}).get("train", {})
  of = f" of {' and '.join(names)}" if len(names) > 1 else ""
  caption = f"Cross-entropy on training batches{of} and on held-out sequences"
  if levels:
    caption += "; dashed, predictors that need no network, on held-out data"
  if len(sources) > 1:
    caption += f" of {sources[0]}"
  return draw, caption


def position_loss(folder: reading.RunFolder) -> str:
  """The paper's Figure 10."""
  table = folder.table("validate/position_loss.csv")
  metrics = reading.optional({}, folder.json, "validate/metrics.json")
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


def _by_frame(folder: reading.RunFolder) -> str:
  """Says which frames a latent one holds, where it holds several."""
  tables = reading.optional({}, folder.table, "validate/frame_loss.csv")
  if (frames := plots.latent_lengths(tables)) is None:
    return "By frame."
  return (
    f"By latent frame. The first holds {frames[0]} frame{'s' * (frames[0] > 1)} of the clip, and"
    f" each of the others {frames[-1]}."
  )


def group_loss(folder: reading.RunFolder) -> str:
  """Loss by frame and by row of the grid, side by side."""
  captions = {"frame": _by_frame(folder), "row": "By row of the token grid, over all frames."}
  if (folder.path / "validate" / "code_loss.csv").exists():
    captions["code"] = "By code of a place, over all places."
  out = []
  for group, caption in captions.items():
    try:
      draw = plots.by_group(folder.table(f"validate/{group}_loss.csv"), group)
    except reading.Missing as reason:
      out.append(page.missing(reason))
      continue
    caption = f"{caption} {BARS}"
    out.append(plots.figure(draw, caption, name=group, label=f"Loss by {group}", half=True))
  return page.pair("".join(out))
