"""What a job on labels leaves: tables of every head, and the chosen ones.

Shapes: M items, L layers, S settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.labels import data as data_lib
from totojax.report import layer_sections
from totojax.rundir import console, files

COLUMNS = (
  "backbone",
  "layer",
  "depth_frac",
  "setting",
  "lr",
  "weight_decay",
  "top1",
  "top5",
  "nll",
  "n",
  "n_expected",
  "holdout_top1",
  "holdout_n",
  "train_loss",
)
_PREDICTIONS = (
  "backbone",
  "layer",
  "setting",
  "id",
  "label",
  "predicted",
  "label_name",
  "predicted_name",
  "confidence",
  "rank",
)
SPLITS = ("validation", "holdout")


@dataclasses.dataclass(frozen=True)
class Heads:
  """All heads of one backbone or baseline.

  Attributes:
    source: its name.
    layers: [L].
    train_loss: of the last batch, [L, S].
    scores: by "validation" and "holdout".
  """

  source: str
  layers: tuple[int, ...]
  train_loss: np.ndarray
  scores: Mapping[str, top1.Scores]


def read(source: str, layers: tuple[int, ...], folder: epath.Path) -> Heads:
  """The scores of heads of some layers that were left in a folder."""
  arrays = files.read_npz(folder / "scores.npz")
  scores = {
    name: top1.Scores(
      **{field.name: arrays[f"{name}/{field.name}"] for field in dataclasses.fields(top1.Scores)}
    )
    for name in SPLITS
  }
  return Heads(source, layers, arrays["train_loss"], scores)


def joined(parts: list[Heads]) -> list[Heads]:
  """One for each source: groups of layers are put together."""
  out = {}
  for part in parts:
    if part.source not in out:
      out[part.source] = part
      continue
    before = out[part.source]
    scores = {
      name: top1.Scores(
        **{
          key: np.concatenate([value, getattr(part.scores[name], key)])
          for key, value in vars(before.scores[name]).items()
        }
      )
      for name in SPLITS
    }
    out[part.source] = Heads(
      part.source,
      before.layers + part.layers,
      np.concatenate([before.train_loss, part.train_loss]),
      scores,
    )
  return list(out.values())


def write(
  setup: data_lib.Setup,
  heads: list[Heads],
  workdir: epath.Path,
  *,
  depths: Mapping[str, int] | None = None,
) -> None:
  """Writes the tables, the metrics and the figure of a finished job.

  Args:
    setup: of the job.
    heads: of every source.
    workdir: where they go.
    depths: last layers of sources that are no model of ours.
  """
  sets, paper = setup.sets, setup.config.paper
  n = heads[0].scores["validation"].items
  expected = setup.config.data.expected or n + len(sets.missing)
  rows = (
    row for one in heads for row in _rows(setup, one, expected, (depths or {}).get(one.source))
  )
  files.write_table(workdir / "per_layer.csv", rows, header=COLUMNS)
  files.write_table(
    workdir / "predictions.csv", _predictions(sets.validation, heads), header=_PREDICTIONS
  )
  counts = np.bincount(sets.validation.labels[sets.validation.records])
  metrics = {
    "n": n,
    "n_expected": expected,
    "classes": sets.classes,
    "majority_top1": float(counts.max() / counts.sum()),
  }
  settings = setup.config.optim.settings
  for one in heads:
    for key, value in _chosen(settings, one).items():
      metrics[f"{one.source}/{key}"] = value
  if paper.name:
    metrics |= {"paper/name": paper.name, "paper/top1": paper.top1 / 100.0}
  metrics["notes"] = [note for one in heads for note in _notes(settings, one, metrics)]
  files.write_json(workdir / "metrics.json", metrics)
  layer_sections.figure(workdir / "per_layer.csv", workdir / "layer_curve.png")
  for one in heads:
    console.say(_sentence(one, metrics))
  for note in metrics["notes"]:
    console.say(note)
  if n != expected:
    console.say(f"{n} of {expected} validation items were there")
  _missing(sets.missing, workdir)
  console.say(f"report: {layer_sections.write_report(workdir)}")


def _missing(items: tuple[tuple[str, str], ...], workdir: epath.Path) -> None:
  """Writes and names the validation items that are not there."""
  files.write_table(workdir / "missing.csv", items, header=("id", "reason"))
  if items:
    names = ", ".join(item for item, _ in items[:3])
    more = ", ..." if len(items) > 3 else ""
    console.say(
      f"{len(items)} validation items are missing: {names}{more}; see {workdir / 'missing.csv'}"
    )


def _notes(
  settings: list[tuple[float, float]], one: Heads, metrics: Mapping[str, Any]
) -> Iterator[str]:
  """What is said where a head knows nothing, or its rate is an end of the grid."""
  chosen = f"{one.source}/chosen_on_{_chooser(one.scores)}"
  top, majority = metrics[f"{chosen}/top1"], metrics["majority_top1"]
  if top < majority:
    yield (
      f"{one.source}: top-1 {100 * top:.1f} % is below the {100 * majority:.1f} % of always"
      " naming the largest class"
    )
  rates = sorted({lr for lr, _ in settings})
  best = metrics[f"{chosen}/lr"]
  for rate, end, further in ((rates[0], "smallest", "smaller"), (rates[-1], "largest", "larger")):
    if len(rates) > 1 and best == rate:
      yield (
        f"{one.source}: its best rate, {rate:g}, is the {end} of optim.lrs; a"
        f" {further} one may be better"
      )


def _rows(
  setup: data_lib.Setup, one: Heads, expected: int, depth: int | None
) -> Iterator[tuple[Any, ...]]:
  validation, holdout = one.scores["validation"], one.scores.get("holdout")
  if depth is None:
    assert setup.run is not None  # features alone tell their depth
    depth = setup.run.model.config.depth
  values = {"top1": validation.top(1), "top5": validation.top(5), "nll": validation.loss()}
  if holdout is not None:
    values["holdout"] = holdout.top(1)
  for i, layer in enumerate(one.layers):
    for s, (lr, decay) in enumerate(setup.config.optim.settings):
      at = {key: f"{value[i, s]:.6f}" for key, value in values.items()}
      yield (
        one.source,
        layer,
        f"{layer / depth:.4f}",
        s,
        lr,
        decay,
        at["top1"],
        at["top5"],
        at["nll"],
        validation.items,
        expected,
        at.get("holdout", "nan"),
        holdout.items if holdout is not None else 0,
        f"{one.train_loss[i, s]:.6f}",
      )


def _chosen(settings: list[tuple[float, float]], one: Heads) -> dict[str, float]:
  """Accuracy on the validation set of the heads chosen in two ways."""
  validation = one.scores["validation"]
  out = {}
  for name in one.scores:
    i, s = _best(one, name)
    top = float(validation.top(1)[i, s])
    out |= {
      f"chosen_on_{name}/top1": top,
      f"chosen_on_{name}/top1_sem": top1.error(top, validation.items),
      f"chosen_on_{name}/top5": float(validation.top(5)[i, s]),
      f"chosen_on_{name}/layer": one.layers[i],
      f"chosen_on_{name}/lr": settings[s][0],
      f"chosen_on_{name}/weight_decay": settings[s][1],
    }
  return out


def _chooser(scores: Mapping[str, Any]) -> str:
  return "holdout" if "holdout" in scores else "validation"


def _best(one: Heads, name: str) -> tuple[int, int]:
  return top1.best(one.scores[name].top(1), one.scores[name].loss())


def _predictions(data: labelled.Records, heads: list[Heads]) -> Iterator[tuple[Any, ...]]:
  """What the heads chosen on the hold-out say of every validation item.

  Without a hold-out there is one head, or they are chosen on what they say it
  of.
  """
  items = data.items()
  for one in heads:
    i, s = _best(one, _chooser(one.scores))
    scores = one.scores["validation"]
    for m, item in enumerate(items):
      label, named = int(data.labels[item[0]]), int(scores.named[i, s, m])
      names = [data.classes[c] if data.classes else c for c in (label, named)]
      yield (
        one.source,
        one.layers[i],
        s,
        data.ids[item[0]],
        label,
        named,
        *names,
        f"{scores.confidence[i, s, m]:.6f}",
        int(scores.rank[i, s, m]),
      )


def _sentence(one: Heads, metrics: Mapping[str, Any]) -> str:
  at = lambda key: metrics[f"{one.source}/chosen_on_{key}"]  # noqa: E731
  if _chooser(one.scores) == "validation":
    return (
      f"{one.source}: top-1 {100 * at('validation/top1'):.1f} +-"
      f" {100 * at('validation/top1_sem'):.1f} %, top-5"
      f" {100 * at('validation/top5'):.1f} %"
    )
  return (
    f"{one.source}: top-1 {100 * at('holdout/top1'):.1f} +-"
    f" {100 * at('holdout/top1_sem'):.1f} % at layer {at('holdout/layer')},"
    f" chosen on the hold-out; {100 * at('validation/top1'):.1f} % at layer"
    f" {at('validation/layer')}, chosen on the validation set"
  )
