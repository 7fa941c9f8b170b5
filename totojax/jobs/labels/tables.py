"""What a job on labels leaves: tables of every head, and the chosen ones.

Shapes: M items, L layers, S settings.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import rundir
from totojax.config import labels
from totojax.data.sources import real as real_lib
from totojax.data.stream import labelled
from totojax.evals import top1
from totojax.jobs.labels import setup as setup_lib
from totojax.report import frame, layer_sections, shares
from totojax.rundir import console, files

SPLITS = ("validation", "holdout")


@dataclasses.dataclass(frozen=True)
class Heads:
  """All heads of one backbone or baseline."""

  source: str  # its name
  layers: tuple[int, ...]  # [L]
  depth: int  # the last layer that there is
  train_loss: np.ndarray  # of the last batch, [L, S]; NaN: diverged
  scores: Mapping[str, top1.Scores]  # by "validation" and, where something is held out, "holdout"
  lists: Mapping[str, top1.Scores] = dataclasses.field(default_factory=dict)  # further ones

  @property
  def chooser(self) -> str:
    """What the layer is chosen on."""
    return "holdout" if "holdout" in self.scores else "validation"

  @property
  def diverged(self) -> np.ndarray:
    """Which heads are left out, bool [L, S]: their training loss is NaN."""
    return np.isnan(self.train_loss)

  def best(self, split: str) -> tuple[int, int]:
    """(index of the layer, setting) of the head that is best on a split.

    Raises:
      RunError: all of them diverged.
    """
    if self.diverged.all():
      raise rundir.RunError(
        f"all {self.diverged.size} heads of {self.source} diverged; lower optim.lrs or"
        " optim.weight_decays, and use another --workdir"
      )
    scores = self.scores[split].without(self.diverged)
    return top1.best(scores.top(1), scores.loss())


def read(
  source: str,
  layers: tuple[int, ...],
  depth: int,
  folders: Sequence[epath.Path],
  *,
  lists: Sequence[str] = (),
) -> Heads:
  """The heads whose layers were trained in groups, each left in a folder."""
  parts = [files.read_npz(folder / "scores.npz") for folder in folders]
  arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  scores = {
    split: top1.Scores(
      **{field.name: arrays[f"{split}/{field.name}"] for field in dataclasses.fields(top1.Scores)}
    )
    for split in (*SPLITS, *lists)
  }
  more = {name: scores.pop(name) for name in lists}
  return Heads(source, layers, depth, arrays["train_loss"], scores, more)


def real_labels(setup: setup_lib.Setup) -> list[frozenset[int]] | None:
  """ReaL's labels of the validation items, where the config names them.

  Raises:
    ValueError: the file is none, or an item is no image of ImageNet's validation
      set.
  """
  data, records = setup.config.data, setup.sets.validation
  path = data.real_labels if isinstance(data, labels.ProbeData) else ""
  if not path:
    return None
  found = real_lib.read(path, classes=setup.sets.classes)
  return found.of([records.ids[item[0]] for item in records.items()])


def write(
  setup: setup_lib.Setup,
  heads: Sequence[Heads],
  workdir: epath.Path,
  *,
  real: Sequence[frozenset[int]] | None = None,
) -> None:
  """Writes the tables, the metrics and the figure of a finished job."""
  sets, config, settings = setup.sets, setup.config, setup.config.optim.settings
  n = heads[0].scores["validation"].items
  expected = config.data.expected or n + len(sets.missing)
  views = {group.source: setup.views_of(group.source) for group in heads}
  rows = (
    {**row, "views": views[group.source]}
    for group in heads
    for row in _rows(group, settings, expected)
  )
  files.write_csv(workdir / "per_layer.csv", rows)
  rows = (row for group in heads for row in _predictions(group, sets.validation))
  files.write_csv(workdir / "predictions.csv", rows)
  files.write_table(workdir / "missing.csv", sets.missing, header=("id", "reason"))
  counts = np.bincount(sets.validation.labels[sets.validation.records])
  metrics = {
    "n": n,
    "n_expected": expected,
    "classes": sets.classes,
    "majority_top1": float(counts.max() / counts.sum()),
  }
  for group in heads:
    metrics |= {f"{group.source}/{key}": value for key, value in _chosen(group, settings).items()}
    metrics[f"{group.source}/views"] = views[group.source]
  more = [row for group in heads for row in _lists(group, settings, real)]
  if more:
    files.write_csv(workdir / "lists.csv", more)
    metrics["lists"] = list(dict.fromkeys(row["list"] for row in more))
    for row in more:
      if key := row.pop("chosen_on", ""):
        for name in key.split(" "):
          prefix = f"{row['backbone']}/{row['list']}/chosen_on_{name}"
          metrics |= {f"{prefix}/top1": row["top1"], f"{prefix}/n": row["n"]}
  if config.paper.name:
    metrics |= {"paper/name": config.paper.name, "paper/top1": config.paper.top1 / 100.0}
  metrics["notes"] = [note for group in heads for note in _notes(group, settings, metrics)]
  files.write_json(workdir / "metrics.json", metrics)
  layer_sections.figure(workdir)
  for line in (*(_sentence(group, metrics) for group in heads), *metrics["notes"]):
    console.say(line)
  if n != expected:
    console.say(f"{n} of {expected} validation items were there")
  if sets.missing:
    names = ", ".join(item for item, _ in sets.missing[:3])
    more = ", ..." if len(sets.missing) > 3 else ""
    where = workdir / "missing.csv"
    console.say(f"{len(sets.missing)} validation items are missing: {names}{more}; see {where}")
  console.say(f"report: {frame.write(workdir, layer_sections.PAGE)}")


def _lists(
  group: Heads, settings: Sequence[tuple[float, float]], real: Sequence[frozenset[int]] | None
) -> Iterator[dict[str, Any]]:
  """A row for each further list and head that did not diverge.

  `chosen_on` says which split chose the head; a list chooses none.
  """
  chosen = {split: group.best(split) for split in group.scores}
  named_LSM = group.scores["validation"].named
  found = {name: (scores.top(1), scores.items) for name, scores in group.lists.items()}
  if real is not None:
    hits_LSM = real_lib.hits(named_LSM, real)
    found["real"] = hits_LSM.mean(-1), hits_LSM.shape[-1]
  for name, (top_LS, n) in found.items():
    for i, layer in enumerate(group.layers):
      for s, (lr, decay) in enumerate(settings):
        if not group.diverged[i, s]:
          yield {
            "list": name,
            "backbone": group.source,
            "layer": layer,
            "lr": lr,
            "weight_decay": decay,
            "top1": float(top_LS[i, s]),
            "n": n,
            "chosen_on": " ".join(split for split, head in chosen.items() if head == (i, s)),
          }


def _notes(
  group: Heads, settings: Sequence[tuple[float, float]], metrics: Mapping[str, Any]
) -> Iterator[str]:
  """What is said of heads that diverged or know nothing, and of a grid's ends."""
  lost = [
    f"layer {group.layers[i]} with rate {settings[s][0]:g} and decay {settings[s][1]:g}"
    for i, s in np.argwhere(group.diverged)
  ]
  if lost:
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    yield (
      f"{group.source}: {len(lost)} of {group.diverged.size} heads diverged and are left out:"
      f" {', '.join(lost[:3])}{more}"
    )
  prefix = f"{group.source}/chosen_on_{group.chooser}"
  top, majority = metrics[f"{prefix}/top1"], metrics["majority_top1"]
  if top < majority:
    yield (
      f"{group.source}: top-1 {100 * top:.1f} % is below the {100 * majority:.1f} % of always"
      " naming the largest class"
    )
  ends = []
  for key, what, keys, grid in (
    ("lr", "rate", "optim.lrs", {lr for lr, _ in settings}),
    ("weight_decay", "decay", "optim.weight_decays", {decay for _, decay in settings}),
  ):
    best = metrics[f"{prefix}/{key}"]
    # Nothing is below no decay.
    if len(grid) > 1 and best and best in (min(grid), max(grid)):
      end = "smallest" if best == min(grid) else "largest"
      ends.append(f"its best {what}, {best:g}, is the {end} of {keys}")
  if ends:
    yield f"{group.source}: {', and '.join(ends)}; one beyond may be better"


def _rows(
  group: Heads, settings: Sequence[tuple[float, float]], expected: int
) -> Iterator[dict[str, Any]]:
  """A row of per_layer.csv for each head that did not diverge."""
  validation, holdout = group.scores["validation"], group.scores.get("holdout")
  top_1, top_5, nll = validation.top(1), validation.top(5), validation.loss()
  holdout_top = np.full_like(top_1, np.nan) if holdout is None else holdout.top(1)
  for i, layer in enumerate(group.layers):
    for s, (lr, decay) in enumerate(settings):
      if group.diverged[i, s]:
        continue
      yield {
        "backbone": group.source,
        "layer": layer,
        "depth_frac": f"{layer / group.depth:.4f}",
        "setting": s,
        "lr": lr,
        "weight_decay": decay,
        "top1": f"{top_1[i, s]:.6f}",
        "top5": f"{top_5[i, s]:.6f}",
        "nll": f"{nll[i, s]:.6f}",
        "n": validation.items,
        "n_expected": expected,
        "holdout_top1": f"{holdout_top[i, s]:.6f}",
        "holdout_n": holdout.items if holdout is not None else 0,
        "train_loss": f"{group.train_loss[i, s]:.6f}",
      }


def _chosen(group: Heads, settings: Sequence[tuple[float, float]]) -> dict[str, float]:
  """Accuracy on the validation set of the heads chosen in two ways."""
  validation, metrics = group.scores["validation"], {}
  for split in group.scores:
    i, s = group.best(split)
    top = float(validation.top(1)[i, s])
    low, high = shares.wilson(top, validation.items)
    values = {
      "top1": top,
      "top1_low": float(low),
      "top1_high": float(high),
      "top5": float(validation.top(5)[i, s]),
      "layer": group.layers[i],
      "lr": settings[s][0],
      "weight_decay": settings[s][1],
    }
    metrics |= {f"chosen_on_{split}/{key}": value for key, value in values.items()}
  return metrics


def _predictions(group: Heads, data: labelled.Records) -> Iterator[dict[str, Any]]:
  """What the head chosen on the hold-out says of every validation item.

  Without a hold-out there is one head, or it is chosen on what it says it of.
  """
  i, s = group.best(group.chooser)
  scores = group.scores["validation"]
  for m, (record, *_) in enumerate(data.items()):
    label, guess = int(data.labels[record]), int(scores.named[i, s, m])
    yield {
      "backbone": group.source,
      "layer": group.layers[i],
      "setting": s,
      "id": data.ids[record],
      "label": label,
      "predicted": guess,
      "label_name": data.classes[label] if data.classes else label,
      "predicted_name": data.classes[guess] if data.classes else guess,
      "confidence": f"{scores.confidence[i, s, m]:.6f}",
      "rank": int(scores.rank[i, s, m]),
    }


def _sentence(group: Heads, metrics: Mapping[str, Any]) -> str:
  score = lambda key: metrics[f"{group.source}/chosen_on_{key}"]
  name = f"{group.source}, {metrics[f'{group.source}/views']}"
  if group.chooser == "validation":
    return (
      f"{name}: top-1 {shares.percent(score('validation/top1'), metrics['n'])},"
      f" top-5 {100 * score('validation/top5'):.1f} %"
    )
  return (
    f"{name}: top-1 {shares.percent(score('holdout/top1'), metrics['n'])} at layer"
    f" {score('holdout/layer')}, chosen on the hold-out; {100 * score('validation/top1'):.1f} %"
    f" at layer {score('validation/layer')}, chosen on the validation set"
  )
