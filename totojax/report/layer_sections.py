"""Sections of a report about probes: accuracy by layer, and what was chosen."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from etils import epath
from matplotlib import ticker
import numpy as np

from totojax.report import frame, page, plots, provenance, reading, shares
from totojax.rundir import wording

# Sources with one layer are levels, not curves.
NAMES = {
  "trained": "this model",
  "untrained": "the same model, untrained",
  "joint": "this model, trained further beside its probes",
  "finetuned": "this model, fine-tuned",
  "pixels": "small pixels, no backbone",
  "histogram": "token histogram, no backbone",
}
HOLDOUT = "chosen_on_holdout"


def figure(workdir: epath.Path) -> None:
  """Writes layer_curve.png (Figures 4, 8 and 14) beside per_layer.csv.

  Raises:
    reading.Missing: the CSV is missing, empty or damaged.
  """
  table = reading.RunFolder(workdir).table("per_layer.csv", by="backbone")
  plots.write(workdir / "layer_curve.png", by_layer(table))


def probes(folder: reading.RunFolder) -> str:
  """Every probe of a chain, and what those of several seeds say together."""
  by_kind = {"probe": [], "probe_seeds": []}
  for stage in provenance.stages(folder):
    job = reading.optional({}, folder.json, f"{stage}/config.json").get("run")
    if job in by_kind:
      by_kind[job].append(stage)
  out = [seeds(folder, stage) for stage in by_kind["probe_seeds"]]
  if len(by_kind["probe"]) == 1:
    out.append(layers(folder, by_kind["probe"][0]))
  else:
    not_yet = page.paragraph("This probe has not finished.", "missing")
    for stage in by_kind["probe"]:
      out.append(page.fold(stage, reading.optional(not_yet, layers, folder, stage)))
  return "".join(out)


def all_neighbours(folder: reading.RunFolder) -> str:
  """Neighbours of every stage of a chain that has them."""
  out = []
  for stage in provenance.stages(folder):
    job = reading.optional({}, folder.json, f"{stage}/config.json").get("run")
    if job == "knn":
      out.append(neighbours(folder, stage))
  return "".join(out)


_NEIGHBOUR_COLUMNS = (
  ("top-1, %", "{name}"),
  ("k", "{k}"),
  ("layer chosen on a hold-out", "{chosen_on_holdout/top1:percent}"),
  ("95 % from", "{chosen_on_holdout/top1_low:percent}"),
  ("to", "{chosen_on_holdout/top1_high:percent}"),
  ("its layer", "{chosen_on_holdout/layer}"),
  ("last layer", "{last/top1:percent}"),
  ("best on validation", "{chosen_on_validation/top1:percent}"),
  ("its layer", "{chosen_on_validation/layer}"),
)


def neighbours(folder: reading.RunFolder, stage: str) -> str:
  """k nearest neighbours: a curve of each encoder, and a table."""
  metrics = folder.json(f"{stage}/metrics.json")
  rows = folder.records(f"{stage}/per_layer.csv")
  first = rows[0]["k"]
  table = {
    name: {
      key: np.array([float(r[key]) for r in rows if (r["encoder"], r["k"]) == (name, first)])
      for key in ("layer", "top1", "n")
    }
    for name in dict.fromkeys(row["encoder"] for row in rows)
  }
  caption = (
    f"Top-1 of {first} nearest neighbours (cosine, temperature {rows[0]['temperature']}) on"
    f" {metrics['n']} validation items of {metrics['classes']} classes; bars are 95 % intervals;"
    " dashed, of one layer. Nothing is trained."
  )
  label = "Accuracy of nearest neighbours by layer"
  out = [plots.figure(by_layer(table), caption, name=f"neighbours-{stage}", label=label)]
  ends = "/chosen_on_holdout/top1"
  keys = [key.removesuffix(ends) for key in metrics if key.endswith(ends)]
  found = []
  for key in keys:
    name, _, k = key.rpartition("/k")
    found.append({"name": name, "k": k, **_below(metrics, key)})
  out.append(page.records(_NEIGHBOUR_COLUMNS, found))
  majority = f"Always the largest class: {100 * metrics['majority_top1']:.1f} %."
  return "".join([*out, page.paragraph(majority, "soft")])


def layers(folder: reading.RunFolder, stage: str = "probe") -> str:
  """Probes of every layer, beside what needs no training or no backbone."""
  table = folder.table(f"{stage}/per_layer.csv", by="backbone")
  metrics = folder.json(f"{stage}/metrics.json")
  n, expected = metrics["n"], metrics["n_expected"]
  caption = (
    f"Top-1 accuracy on {n} validation items of {metrics['classes']} classes, of each layer's"
    " setting that is best on them; bars are 95 % intervals; dashed, without layers. Layer 0"
    " is the embeddings. Figures 4, 8 and 14 of the paper."
  )
  label = "Probe accuracy by layer"
  out = []
  if stage != ".":  # or it is the page's verdict
    said = claim(folder, stage)
    out.append(page.paragraph(f"{said.line} {said.interval}"))
  out.append(plots.figure(by_layer(table), caption, name=f"layers-{stage}", label=label))
  if n != expected:
    absent = f"{expected - n} of {expected} validation items are missing."
    out.append(page.paragraph(absent, "missing"))
  out.append(page.table([head for head, _ in _COLUMNS], _rows(metrics)))
  if lists := metrics.get("lists"):
    out.append(_on_lists(metrics, lists))
  out += [page.paragraph(note, "soft") for note in metrics.get("notes", ())]
  note = (
    "A layer chosen on the validation set, as the paper does it, has seen"
    " the answers; the hold-out is of the training set."
  )
  views = (
    "Frozen views are the same pixels in every epoch, as stores and features have them; new views"
    " are MAE's random windows and flips of image files. The two are not to be compared."
  )
  return "".join([*out, *(page.paragraph(text, "soft") for text in (note, views))])


def _on_lists(metrics: Mapping[str, Any], lists: Sequence[str]) -> str:
  """A table: the same heads on further lists."""
  rows = []
  for source in _sources(metrics):
    for name in lists:
      holdout, validation = (f"{source}/{name}/chosen_on_{x}" for x in ("holdout", "validation"))
      top, n = metrics[f"{holdout}/top1"], metrics[f"{holdout}/n"]
      shown = [top, *shares.wilson(top, n), metrics[f"{validation}/top1"]]
      row = [f"{100 * value:.1f}" for value in shown]
      rows.append([NAMES.get(source, source), name, *row, str(n)])
  head = ["top-1, %", "on", "head chosen on a hold-out", "95 % from", "to"]
  return page.table([*head, "chosen on validation", "items"], rows, words=2)


def seeds(folder: reading.RunFolder, stage: str) -> str:
  """Several seeds: a curve and a table of each question."""
  metrics = folder.json(f"{stage}/metrics.json")
  rows = folder.records(f"{stage}/per_layer.csv")
  out = []
  for question in dict.fromkeys(row["question"] for row in rows):
    facts = _below(metrics, question)
    question_rows = [row for row in rows if row["question"] == question]
    names = list(dict.fromkeys(row["backbone"] for row in question_rows))
    highest = max(facts[f"{n}/high"] for n in names if n != "trained")
    claim = (
      f"the trained backbone is at least {100 * facts['trained/low']:.1f} %, the"
      f" best of the others at most {100 * highest:.1f} %."
      if facts["pays"]
      else "no sure gain from pre-training; intervals overlap."
    )
    caption = (
      f"{question}: top-1 on {facts['n']} validation items of {facts['classes']} classes, mean of"
      f" {wording.counted(facts['seeds'], 'seed')}, of the best setting of each layer; dashed,"
      " without layers."
    )
    draw, label = by_layer(_over_seeds(question_rows)), f"Probe accuracy by layer: {question}"
    results = [{"name": NAMES.get(n, n), **_below(facts, n)} for n in names]
    for result in results:
      result["layers"] = ", ".join(map(str, result["layers"]))
    out.append(page.paragraph(f"{question}: {claim}"))
    out.append(plots.figure(draw, caption, name=f"seeds-{question}", label=label))
    out.append(page.records(_SEED_COLUMNS, results))
  return "".join(out)


def _below(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The values whose keys begin with "name/", without that."""
  start = f"{name}/"
  return {k.removeprefix(start): v for k, v in metrics.items() if k.startswith(start)}


_SEED_COLUMNS = (
  ("top-1, %", "{name}"),
  ("layer chosen on a hold-out", "{top1:percent}"),
  ("95 % from", "{low:percent}"),
  ("to", "{high:percent}"),
  ("layers", "{layers}"),
)


def _over_seeds(rows: Sequence[Mapping[str, str]]) -> dict[str, plots.Table]:
  """Of each source the mean over seeds of each layer's best top-1."""
  best = {}
  for row in rows:
    by_layer = best.setdefault(row["backbone"], {})
    by_seed = by_layer.setdefault(int(row["layer"]), {})
    by_seed[row["seed"]] = max(by_seed.get(row["seed"], 0.0), float(row["top1"]))
  return {
    source: {
      "layer": np.array(list(accuracies)),
      "top1": np.array([np.mean([*v.values()]) for v in accuracies.values()]),
      "n": np.full(len(accuracies), float(rows[0]["n"])),
    }
    for source, accuracies in best.items()
  }


_COLUMNS = (
  ("top-1, %", "{name}"),
  ("of", "{views}"),
  ("layer chosen on a hold-out", "{chosen_on_holdout/top1:percent}"),
  ("95 % from", "{low:percent}"),
  ("to", "{high:percent}"),
  ("its layer", "{chosen_on_holdout/layer}"),
  ("chosen on validation", "{chosen_on_validation/top1:percent}"),
  ("its layer", "{chosen_on_validation/layer}"),
)


def _rows(metrics: Mapping[str, Any]) -> list[list[str]]:
  rows = []
  for source, prefix in _sources(metrics).items():
    facts: dict[str, Any] = {"name": NAMES.get(source, source), "views": ""}
    facts |= {f"{HOLDOUT}/{key}": "" for key in ("top1", "layer")} | _below(metrics, source)
    facts["low"], facts["high"] = shares.wilson(metrics[f"{prefix}/top1"], metrics["n"])
    rows.append(page.cells(_COLUMNS, facts))
  majority = f"{100 * metrics['majority_top1']:.1f}"
  rows.append(["always the largest class", "", majority, "", "", "", "", ""])
  if "paper/top1" in metrics:
    value = f"{100 * metrics['paper/top1']:.1f}"
    rows.append([f"paper, {metrics['paper/name']}", "", "", "", "", "", value, ""])
  return rows


def claim(folder: reading.RunFolder, stage: str = ".") -> frame.Claim:
  """Is the trained backbone above the others, beyond a 95 % interval?"""
  metrics = folder.json(f"{stage}/metrics.json")
  n, top1 = metrics["n"], {s: metrics[f"{at}/top1"] for s, at in _sources(metrics).items()}
  if "trained" not in top1 or len(top1) < 2:
    best = max(top1, key=top1.__getitem__)
    line = f"Top-1 of {NAMES.get(best, best)}: {100 * top1[best]:.1f} %"
    line += f"; always the largest class: {100 * metrics['majority_top1']:.1f} %."
    return frame.Claim(
      line, f"{shares.percent(top1[best], n)}, 95 %, on {wording.counted(n, 'item')}."
    )
  ours = top1.pop("trained")
  best = max(top1, key=top1.__getitem__)
  low, high = shares.difference(ours, top1[best], n)
  gap = 100 * (ours - top1[best])
  sure = f"{gap:+.1f} points against the best other: {NAMES.get(best, best)} (95 % from "
  sure += f"{100 * low:+.1f} to {100 * high:+.1f}), on {wording.counted(n, 'item')}."
  if low <= 0 <= high:
    return frame.Claim("No sure difference between the trained backbone and the rest.", sure)
  word = "above" if gap > 0 else "below"
  return frame.Claim(f"The trained backbone is {word} the rest.", sure, gap > 0)


def nearest(folder: reading.RunFolder) -> frame.Claim:
  """The encoder whose neighbours are right most often."""
  metrics, ends = folder.json("metrics.json"), f"/{HOLDOUT}/top1"
  keys = [key.removesuffix(ends) for key in metrics if key.endswith(ends)]
  best = max(keys, key=lambda key: metrics[key + ends])
  name, _, k = best.rpartition("/k")
  value, low, high = (100 * metrics[f"{best}{ends}{end}"] for end in ("", "_low", "_high"))
  largest = 100 * metrics["majority_top1"]
  line = f"{wording.counted(int(k), 'nearest neighbour')} by features of {name}"
  line += f" {'names' if k == '1' else 'name'} the class of {value:.1f} % of items rightly"
  line += f"; always the largest class: {largest:.1f} %."
  good = True if low > largest else False if high < largest else None
  n = wording.counted(metrics["n"], "held-out item")
  return frame.Claim(line, f"95 % from {low:.1f} to {high:.1f} %, on {n}.", good)


def pays(folder: reading.RunFolder) -> frame.Claim:
  """In which questions the trained backbone is surely above all others."""
  metrics = folder.json("metrics.json")
  found = {
    key.removesuffix("/pays"): value for key, value in metrics.items() if key.endswith("/pays")
  }
  if not found:
    raise reading.Missing("metrics.json compares nothing with a trained backbone")
  sure = [name for name, value in found.items() if value]
  name = (sure or list(found))[0]
  facts = _below(metrics, name)
  others = [key for key in facts if key.endswith("/high") and key != "trained/high"]
  best = max(others, key=facts.__getitem__)
  interval = (
    f"{name}: {100 * facts['trained/top1']:.1f} % (95 % from {100 * facts['trained/low']:.1f} to"
    f" {100 * facts['trained/high']:.1f}); the best of the others at most"
    f" {100 * facts[best]:.1f} %; {wording.counted(facts['seeds'], 'seed')}."
  )
  line = f"Pre-training surely pays in {len(sure)} of {wording.counted(len(found), 'question')}"
  return frame.Claim(
    line + (f": {', '.join(sure)}." if sure else "."), interval, bool(sure) or None
  )


def _sources(metrics: Mapping[str, Any]) -> dict[str, str]:
  """source -> prefix of its chosen head: on a hold-out, or of the one head that there is."""
  found = {}
  for choice in (HOLDOUT, "chosen_on_validation"):
    end = f"/{choice}/top1"
    for key in metrics:
      if key.endswith(end):
        found.setdefault(key.removesuffix(end), key.removesuffix("/top1"))
  return found


def by_layer(table: Mapping[str, plots.Table]) -> plots.Draw:
  """Best top-1 of each layer, with its interval; levels dashed."""

  def draw(axes, palette):
    markers = itertools.cycle("osD^")
    for (source, t), look, marker in zip(table.items(), palette.looks(), markers):
      layers = np.unique(t["layer"])
      best = np.array([t["top1"][t["layer"] == layer].max() for layer in layers])
      look["label"] = NAMES.get(source, source)
      if len(layers) == 1:
        axes.axhline(100 * best[0], lw=1.2, **(look | {"ls": plots.LEVEL}))
        continue
      low, high = shares.wilson(best, t["n"][0])
      bars = 100 * np.stack([best - low, high - best])
      plots.points(axes, (layers, 100 * best), bars, lw=1.4, **(look | {"marker": marker}))
    axes.set(xlabel="layer (0: embeddings)", ylabel="top-1, %", ylim=(0, None))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(12, integer=True))
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

  return draw


_TABLES = ("Table 7", "Table 8", "Figure 4", "Figure 14")
PAGE = frame.Kind(
  "probe", claim, (("What each layer knows", lambda folder: layers(folder, ".")),), _TABLES
)
NEIGHBOURS = frame.Kind(
  "neighbours", nearest, (("What neighbours tell", lambda folder: neighbours(folder, ".")),)
)
SEEDS = frame.Kind(
  "probes of several seeds",
  pays,
  (("What each layer knows", lambda folder: seeds(folder, ".")),),
  _TABLES,
)
