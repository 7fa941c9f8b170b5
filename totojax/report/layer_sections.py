"""Sections of a report about probes: accuracy by layer, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools

from etils import epath
from matplotlib import ticker
import numpy as np

from totojax.report import page, plots, reading, run_sections

# Sources with one layer are levels, not curves.
NAMES = {
  "trained": "this model",
  "untrained": "the same model, untrained",
  "joint": "this model, trained further beside its probes",
  "finetuned": "this model, fine-tuned",
  "pixels": "small pixels, no backbone",
  "histogram": "token histogram, no backbone",
}
HOLDOUT, VALIDATION = "chosen_on_holdout", "chosen_on_validation"


def write_report(workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` of one probe into its folder; returns its path."""
  return page.write(
    workdir, about="probe", sections=[("What each layer knows", lambda folder: layers(folder, "."))]
  )


def figure(source: epath.PathLike, target: epath.PathLike) -> None:
  """Writes the layer curve (Figures 4, 8 and 14) from per_layer.csv as a PNG.

  Raises:
    reading.Missing: the CSV is missing, empty or damaged.
  """
  source = epath.Path(source)
  table = reading.Folder(source.parent).table(source.name, by="backbone")
  plots.write(target, by_layer(table))


def probes(folder: reading.Folder) -> str:
  """Every probe of a chain, and what those of several seeds say together."""
  by_kind = {"probe": [], "probe_seeds": []}
  for stage in run_sections.stages(folder):
    name = f"{stage}/config.json"
    job = reading.optional(lambda n=name: folder.json(n), {}).get("run")
    if job in by_kind:
      by_kind[job].append(stage)
  out = [seeds(folder, stage) for stage in by_kind["probe_seeds"]]
  if len(by_kind["probe"]) == 1:
    out.append(layers(folder, by_kind["probe"][0]))
  else:
    for probe in by_kind["probe"]:
      not_yet = page.paragraph("This probe has not finished.", "missing")
      shown = reading.optional(lambda s=probe: layers(folder, s), not_yet)
      out.append(page.fold(probe, shown))
  if not out:
    return page.paragraph("This chain has no probes.", "soft")
  return "".join(out)


def layers(folder: reading.Folder, stage: str = "probe") -> str:
  """Probes of every layer, beside what needs no training or no backbone."""
  table = folder.table(f"{stage}/per_layer.csv", by="backbone")
  metrics = folder.json(f"{stage}/metrics.json")
  svg = plots.html(by_layer(table), name=f"layers-{stage}", label="Probe accuracy by layer")
  n, expected = metrics["n"], metrics["n_expected"]
  caption = (
    f"Top-1 accuracy on {n} validation items of {metrics['classes']} classes,"
    " of each layer's setting that is best on them; bars are two standard"
    " errors; dashed, without layers. Layer 0 is the embeddings. Figures 4, 8"
    " and 14 of the paper."
  )
  out = [_claim(metrics), page.figure(svg, caption)]
  if n != expected:
    out.append(
      page.paragraph(f"{expected - n} of {expected} validation items are missing.", "missing")
    )
  out.append(page.table(_HEAD, _rows(metrics)))
  out += [page.paragraph(note, "soft") for note in metrics.get("notes", ())]
  out.append(
    page.paragraph(
      "A layer chosen on the validation set, as the paper does it, has seen"
      " the answers; the hold-out is of the training set.",
      "soft",
    )
  )
  return "".join(out)


def seeds(folder: reading.Folder, stage: str) -> str:
  """Several seeds: a curve and a table of each question."""
  metrics = folder.json(f"{stage}/metrics.json")
  rows = folder.records(f"{stage}/per_layer.csv")
  questions = dict.fromkeys(row["question"] for row in rows)
  out = []
  for question in questions:
    at = lambda key, q=question: metrics[f"{q}/{key}"]  # noqa: E731
    own = [row for row in rows if row["question"] == question]
    names = list(dict.fromkeys(row["backbone"] for row in own))
    svg = plots.html(
      by_layer(_over_seeds(own)),
      name=f"seeds-{question}",
      label=f"Probe accuracy by layer: {question}",
    )
    highest = max(at(f"{n}/high") for n in names if n != "trained")
    out.append(
      page.paragraph(
        f"{question}: the trained backbone is at least"
        f" {100 * at('trained/low'):.1f} %, the best of the others at most"
        f" {100 * highest:.1f} %."
        if at("pays")
        else f"{question}: no sure gain from pre-training; intervals overlap."
      )
    )
    out.append(
      page.figure(
        svg,
        (
          f"{question}: top-1 on {at('n')} validation items of {at('classes')}"
          f" classes, mean of {at('seeds')} seeds, of the best setting of each"
          " layer; dashed, without layers."
        ),
      )
    )
    out.append(
      page.table(
        ("top-1, %", "layer chosen on a hold-out", "95 % from", "to", "layers"),
        [
          (
            NAMES.get(n, n),
            *(f"{100 * at(f'{n}/{k}'):.1f}" for k in _ENDS),
            ", ".join(map(str, at(f"{n}/layers"))),
          )
          for n in names
        ],
      )
    )
  return "".join(out)


_ENDS = ("top1", "low", "high")


def _over_seeds(rows: Sequence[Mapping[str, str]]) -> dict[str, plots.Table]:
  """Of each source the mean over seeds of each layer's best top-1."""
  best = {}
  for row in rows:
    layers_ = best.setdefault(row["backbone"], {})
    of_seed = layers_.setdefault(int(row["layer"]), {})
    of_seed[row["seed"]] = max(of_seed.get(row["seed"], 0.0), float(row["top1"]))
  return {
    source: {
      "layer": np.array(list(accuracies)),
      "top1": np.array([np.mean([*v.values()]) for v in accuracies.values()]),
      "n": np.full(len(accuracies), float(rows[0]["n"])),
    }
    for source, accuracies in best.items()
  }


_HEAD = (
  "top-1, %",
  "layer chosen on a hold-out",
  "standard error",
  "its layer",
  "chosen on validation",
  "its layer",
)


def _rows(metrics: Mapping[str, float]) -> list[tuple[str, ...]]:
  rows = []
  for source in _sources(metrics):
    at = lambda key: metrics[f"{source}/{key}"]  # noqa: E731
    rows.append(
      (
        NAMES.get(source, source),
        f"{100 * at(f'{HOLDOUT}/top1'):.1f}",
        f"{100 * at(f'{HOLDOUT}/top1_sem'):.1f}",
        str(at(f"{HOLDOUT}/layer")),
        f"{100 * at(f'{VALIDATION}/top1'):.1f}",
        str(at(f"{VALIDATION}/layer")),
      )
    )
  none = ("",) * 3
  majority = f"{100 * metrics['majority_top1']:.1f}"
  rows.append(("always the largest class", majority, *none, ""))
  if "paper/top1" in metrics:
    value = f"{100 * metrics['paper/top1']:.1f}"
    rows.append((f"paper, {metrics['paper/name']}", *none, value, ""))
  return rows


def _claim(metrics: Mapping[str, float]) -> str:
  """Is the trained backbone above the others, beyond two standard errors?"""
  ours = metrics.get(f"trained/{HOLDOUT}/top1")
  others = {
    source: metrics[f"{source}/{HOLDOUT}/top1"]
    for source in _sources(metrics)
    if source != "trained"
  }
  if ours is None or not others:
    return ""
  best = max(others, key=others.__getitem__)
  sem = np.hypot(metrics[f"trained/{HOLDOUT}/top1_sem"], metrics[f"{best}/{HOLDOUT}/top1_sem"])
  gap = 100 * (ours - others[best])
  name = NAMES.get(best, best)
  claim = f"{gap:+.1f} points against the best other: {name} (2 s.e. "
  claim += f"{200 * sem:.1f})."
  if abs(gap) <= 200 * sem:
    return page.paragraph(f"No sure difference: {claim}")
  word = "above" if gap > 0 else "below"
  return page.paragraph(f"The trained backbone is {word} the rest: {claim}")


def _sources(metrics: Mapping[str, float]) -> list[str]:
  end = f"/{HOLDOUT}/top1"
  return [key.removesuffix(end) for key in metrics if key.endswith(end)]


def by_layer(table: Mapping[str, plots.Table]) -> plots.Draw:
  """Best top-1 of each layer, with two standard errors; levels dashed."""

  def draw(axes, palette):
    colours = itertools.cycle(palette.series)
    markers = itertools.cycle("osD^")
    for (source, t), colour in zip(table.items(), colours):
      marker = next(markers)
      layers = np.unique(t["layer"])
      best = np.array([t["top1"][t["layer"] == l].max() for l in layers])  # noqa: E741
      name = NAMES.get(source, source)
      if len(layers) == 1:
        axes.axhline(100 * best[0], color=colour, lw=1.2, ls=(0, (4, 3)), label=name)
        continue
      bar = 200 * np.sqrt(best * (1 - best) / t["n"][0])
      axes.errorbar(
        layers,
        100 * best,
        yerr=bar,
        color=colour,
        lw=1.4,
        marker=marker,
        ms=3.5,
        capsize=0,
        label=name,
      )
    axes.set_xlabel("layer (0: embeddings)")
    axes.set_ylabel("top-1, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(12, integer=True))
    axes.legend(
      frameon=False,
      labelcolor=palette.ink,
      fontsize=8,
      loc="lower center",
      bbox_to_anchor=(0.5, 1.0),
      ncols=2,
    )

  return draw
