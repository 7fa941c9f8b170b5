"""What a probe leaves: tables of every head, and which heads were chosen.

Shapes: M items, L layers, S settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import io
from typing import Any, Protocol

from etils import epath
import numpy as np

from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.probe import setup as build
from totojax.report import layer_sections
from totojax.rundir import console
from totojax.rundir import files
from totojax.storage import objects

COLUMNS = (
    "backbone", "layer", "depth_frac", "setting", "lr", "weight_decay", "top1",
    "top5", "nll", "n", "n_expected", "holdout_top1", "holdout_n",
    "train_loss",
)  # fmt: skip
SPLITS = ("validation", "holdout")


@dataclasses.dataclass(frozen=True)
class Paper:
  """The number of the paper that this setting is to be compared with.

  Attributes:
    name: where it is printed, "Table 5, average pooling"; "": none.
    top1: in per cent.
  """

  name: str
  top1: float


@dataclasses.dataclass(frozen=True)
class Found:
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


def read(unit: build.Unit, folder: epath.Path) -> Found:
  """The scores that a unit left in its folder."""
  with np.load(io.BytesIO((folder / "scores.npz").read_bytes())) as file:
    arrays = dict(file)
  scores = {
      name: top1.Scores(**{
          field.name: arrays[f"{name}/{field.name}"]
          for field in dataclasses.fields(top1.Scores)
      })
      for name in SPLITS
  }
  return Found(unit.source, unit.layers, arrays["train_loss"], scores)


def joined(found: list[Found]) -> list[Found]:
  """One for each source: groups of layers are put together."""
  out = {}
  for part in found:
    if part.source not in out:
      out[part.source] = part
      continue
    before = out[part.source]
    scores = {
        name: top1.Scores(**{
            key: np.concatenate([value, getattr(part.scores[name], key)])
            for key, value in vars(before.scores[name]).items()
        })
        for name in SPLITS
    }
    out[part.source] = Found(
        part.source,
        before.layers + part.layers,
        np.concatenate([before.train_loss, part.train_loss]),
        scores,
    )
  return list(out.values())


class Told(Protocol):
  """What tables say of the heads and the data; a `Setup` is one."""

  data: Any  # with `expected`
  run: Any  # the backbone's
  optim: Any  # with `settings`
  validation: labelled.Records
  missing: Sequence[tuple[str, str]]  # (id, reason) of validation items
  classes: int


def write(
    of: Told,
    found: list[Found],
    workdir: epath.Path,
    paper: Paper,
    *,
    depths: Mapping[str, int] | None = None,
) -> None:
  """Writes the tables, the metrics and the figure of a whole probe.

  Args:
    of: what was probed.
    found: the heads of every source.
    workdir: where they go.
    paper: a number beside them.
    depths: last layers of sources that are no model of ours.
  """
  n = found[0].scores["validation"].items
  expected = of.data.expected or n + len(of.missing)
  rows = (
      row
      for one in found
      for row in _rows(of, one, expected, (depths or {}).get(one.source))
  )
  (workdir / "per_layer.csv").write_text(_csv(COLUMNS, rows))
  (workdir / "predictions.csv").write_text(_predictions(of, found))
  counts = np.bincount(of.validation.labels[of.validation.records])
  metrics = {
      "n": n,
      "n_expected": expected,
      "classes": of.classes,
      "majority_top1": float(counts.max() / counts.sum()),
  }
  for one in found:
    for key, value in _chosen(of, one).items():
      metrics[f"{one.source}/{key}"] = value
  if paper.name:
    metrics |= {"paper/name": paper.name, "paper/top1": paper.top1 / 100.0}
  metrics["notes"] = [note for one in found for note in _edge(of, one, metrics)]
  files.write_json(workdir / "metrics.json", metrics)
  layer_sections.figure(workdir / "per_layer.csv", workdir / "layer_curve.png")
  for one in found:
    console.say(_sentence(one, metrics))
  for note in metrics["notes"]:
    console.say(note)
  if n != expected:
    console.say(f"{n} of {expected} validation items were there")
  objects.write_table(
      workdir, "missing.csv", of.missing, header=("id", "reason")
  )
  if of.missing:
    names = ", ".join(item for item, _ in of.missing[:3])
    more = ", ..." if len(of.missing) > 3 else ""
    console.say(
        f"{len(of.missing)} validation items are missing: {names}{more}; see"
        f" {workdir / 'missing.csv'}"
    )
  console.say(f"report: {layer_sections.write_report(workdir)}")


def _edge(
    of: Told, one: Found, metrics: Mapping[str, Any]
) -> Iterator[str]:
  """What is said where the best rate is the first or the last of the grid."""
  rates = sorted({lr for lr, _ in of.optim.settings})
  best = metrics[f"{one.source}/chosen_on_{_chooser(one.scores)}/lr"]
  for rate, end, further in (
      (rates[0], "smallest", "smaller"), (rates[-1], "largest", "larger"),
  ):  # fmt: skip
    if len(rates) > 1 and best == rate:
      yield (
          f"{one.source}: its best rate, {rate:g}, is the {end} of optim.lrs; a"
          f" {further} one may be better"
      )


def _rows(
    of: Told, one: Found, expected: int, depth: int | None
) -> Iterator[tuple[Any, ...]]:
  validation, holdout = one.scores["validation"], one.scores.get("holdout")
  depth = depth or of.run.model.config.depth
  values = {
      "top1": validation.top(1), "top5": validation.top(5),
      "nll": validation.loss(),
  }  # fmt: skip
  if holdout is not None:
    values["holdout"] = holdout.top(1)
  for i, layer in enumerate(one.layers):
    for s, (lr, decay) in enumerate(of.optim.settings):
      at = {key: f"{value[i, s]:.6f}" for key, value in values.items()}
      yield (
          one.source, layer, f"{layer / depth:.4f}", s, lr, decay, at["top1"],
          at["top5"], at["nll"], validation.items, expected,
          at.get("holdout", "nan"),
          holdout.items if holdout is not None else 0,
          f"{one.train_loss[i, s]:.6f}",
      )  # fmt: skip


def _chosen(of: Told, one: Found) -> dict[str, float]:
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
        f"chosen_on_{name}/lr": of.optim.settings[s][0],
        f"chosen_on_{name}/weight_decay": of.optim.settings[s][1],
    }
  return out


def _chooser(scores: Mapping[str, Any]) -> str:
  return "holdout" if "holdout" in scores else "validation"


def _best(one: Found, name: str) -> tuple[int, int]:
  return top1.best(one.scores[name].top(1), one.scores[name].loss())


def _predictions(of: Told, found: list[Found]) -> str:
  """What the heads chosen on the hold-out say of every validation item.

  Without a hold-out there is one head, or they are chosen on what they say it
  of.
  """
  data = of.validation
  items = data.items()

  def rows():
    for one in found:
      i, s = _best(one, _chooser(one.scores))
      scores = one.scores["validation"]
      for m, item in enumerate(items):
        label, named = int(data.labels[item[0]]), int(scores.named[i, s, m])
        names = [data.classes[c] if data.classes else c for c in (label, named)]
        yield (
            one.source, one.layers[i], s, data.ids[item[0]], label, named,
            *names, f"{scores.confidence[i, s, m]:.6f}",
            int(scores.rank[i, s, m]),
        )  # fmt: skip

  head = (
      "backbone", "layer", "setting", "id", "label", "predicted", "label_name",
      "predicted_name", "confidence", "rank",
  )  # fmt: skip
  return _csv(head, rows())


def _csv(head: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(head)
  writer.writerows(rows)
  return text.getvalue()


def _sentence(one: Found, metrics: Mapping[str, Any]) -> str:
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
