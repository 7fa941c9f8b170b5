"""`run = "knn"`: k nearest neighbours on the features of any encoders.

Writes `per_layer.csv` (a row for each encoder, layer and k), `metrics.json` (the
layer that a hold-out of the training items chose, the last one, and the one that
is best on the validation items), `predictions.csv` and `report.html`. Rows that
are there are not computed again.

Shapes: M records, L layers, I items, C classes, D width.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import compare, labels
from totojax.data.store import feature_files
from totojax.data.stream import labelled
from totojax.evals import knn
from totojax.jobs.labels import setup as setup_lib
from totojax.jobs.probe import setup as probe_setup
from totojax.report import frame, layer_sections, shares
from totojax.rundir import console, directory, files, pieces
from totojax.trained import backbone

_ROWS = "rows"  # folder of what is computed


def run(config: compare.KnnJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Lets neighbours vote; False when interrupted.

  Raises:
    ValueError: there are no features, they are of other items, or an item is
      trained on and evaluated.
  """
  found = probe_setup.encoder_files(config.encoders)
  data = labels.ProbeData(holdout_frac=config.knn.holdout_frac)
  sets = probe_setup.sets_of_features(found, data=data, seed=config.seed)
  directory.begin(workdir, config, data=sets.data)
  facts = {key: identity["digest"] for key, identity in sets.data.items()}
  backbone.check_same({"items": facts}, workdir)
  console.say(sets.sentence)
  notes, table = pieces.Pieces(workdir / _ROWS), []
  total = sum(len(splits["train"].layers) for splits in found.values())
  with console.tracking("neighbours", unit="layers", total=total) as bar:
    for name, splits in found.items():
      features = {
        split: _pooled(feature_files.in_order(splits[split], records))
        for split, records in sets.splits.items()
      }
      for place, layer in enumerate(splits["train"].layers):
        if interrupted(bar.done):
          return False
        piece = f"{name}-{layer}"
        note = notes.read(piece)
        if note is None:
          of_layer = {split: x_MLD[:, place] for split, x_MLD in features.items()}
          note = {"ks": _layer(of_layer, sets, config.knn)}
          notes.write(piece, note)
        table += [{"encoder": name, "layer": layer, **row} for row in note["ks"]]
        bar.advance()
  _finish(table, sets, workdir)
  return True


def _pooled(x_ML: np.ndarray) -> np.ndarray:
  """[M, L, D]: means over tokens, where there are any."""
  return np.asarray(x_ML, np.float32) if x_ML.ndim == 3 else x_ML.mean(2, dtype=np.float32)


def _layer(
  x: Mapping[str, np.ndarray], sets: setup_lib.Sets, settings: compare.Knn
) -> list[dict[str, Any]]:
  """A row for each k of one layer."""
  rest, validation = sets.train.records, sets.validation
  named, holdout = (
    named_classes(
      train_MD=x["train"][records],
      label_M=sets.all_train.labels[records],
      queries_MD=x[split],
      queries=queries,
      classes=sets.classes,
      settings=settings,
    )
    for records, split, queries in (
      (sets.all_train.records, "validation", validation),
      (rest, "train", sets.holdout),
    )
  )
  rows = []
  for k in settings.neighbours:
    n = len(named[k])
    rows.append(
      {
        "k": k,
        "temperature": settings.temperature,
        "top1": float((named[k][:, 0] == _labels(validation)).mean()),
        "top5": _top5(named[k], _labels(validation)) if k >= 5 else None,
        "n": n,
        "holdout_top1": float((holdout[k][:, 0] == _labels(sets.holdout)).mean()),
        "holdout_n": len(holdout[k]),
        "named": named[k][:, 0].tolist(),
      }
    )
  return rows


def _labels(data: labelled.Records) -> np.ndarray:
  """Of its items."""
  return np.array([data.labels[records[0]] for records in data.items()])


def _top5(named_IC: np.ndarray, label_I: np.ndarray) -> float:
  return float((named_IC[:, :5] == label_I[:, None]).any(1).mean())


def named_classes(
  *,
  train_MD: np.ndarray,
  label_M: np.ndarray,
  queries_MD: np.ndarray,
  queries: labelled.Records,
  classes: int,
  settings: compare.Knn,
) -> dict[int, np.ndarray]:
  """k -> up to 5 classes [I, 5] of the items of `queries`, the best first.

  Scores of an item are the sum over its views, each of which has one vote.
  """
  items = queries.items()
  order = np.concatenate([np.array(records) for records in items])
  scores = {k: [] for k in settings.neighbours}
  for k, share_QC in knn.shares(
    train_MD,
    label_M,
    queries_MD[order],
    classes=classes,
    neighbours=settings.neighbours,
    temperature=settings.temperature,
  ):
    scores[k].append(share_QC)
  starts = np.cumsum([0, *(len(records) for records in items[:-1])])
  return {
    k: np.argsort(-np.add.reduceat(np.concatenate(parts), starts), axis=1, kind="stable")[:, :5]
    for k, parts in scores.items()
  }


def _finish(table: list[dict[str, Any]], sets: setup_lib.Sets, workdir: epath.Path) -> None:
  rows = []
  for row in table:
    low, high = shares.wilson(row["top1"], row["n"])
    kept = {key: value for key, value in row.items() if key != "named"}
    rows.append({**kept, "top1_low": float(low), "top1_high": float(high)})
  files.write_csv(workdir / "per_layer.csv", rows)
  n = rows[0]["n"]
  metrics = {
    "n": n,
    "n_expected": n + len(sets.missing),
    "classes": sets.classes,
    "majority_top1": float(np.bincount(_labels(sets.validation)).max() / n),
  }
  said = []
  for name in dict.fromkeys(row["encoder"] for row in rows):
    for k in dict.fromkeys(row["k"] for row in rows):
      mine = [row for row in table if (row["encoder"], row["k"]) == (name, k)]
      chosen = {
        "chosen_on_holdout": max(mine, key=lambda row: row["holdout_top1"]),
        "chosen_on_validation": max(mine, key=lambda row: row["top1"]),
        "last": mine[-1],
      }
      for key, row in chosen.items():
        low, high = shares.wilson(row["top1"], n)
        metrics |= {
          f"{name}/k{k}/{key}/{what}": value
          for what, value in (
            ("top1", row["top1"]),
            ("top1_low", float(low)),
            ("top1_high", float(high)),
            ("layer", row["layer"]),
          )
        }
      best = chosen["chosen_on_holdout"]
      text = shares.percent(best["top1"], n)
      said.append(f"{name}, k = {k}: top-1 {text} at layer {best['layer']}, chosen on the hold-out")
  files.write_json(workdir / "metrics.json", metrics)
  files.write_csv(workdir / "predictions.csv", _predictions(table, sets.validation))
  for line in said:
    console.say(line)
  console.say(f"report: {frame.write(workdir, layer_sections.NEIGHBOURS)}")


def _predictions(table: list[dict[str, Any]], data: labelled.Records) -> list[dict[str, Any]]:
  """What the layer chosen on the hold-out names of every item, of the first k."""
  rows = []
  for name in dict.fromkeys(row["encoder"] for row in table):
    mine = [row for row in table if row["encoder"] == name and row["k"] == table[0]["k"]]
    best = max(mine, key=lambda row: row["holdout_top1"])
    for records, guess in zip(data.items(), best["named"]):
      rows.append(
        {
          "encoder": name,
          "layer": best["layer"],
          "k": best["k"],
          "id": data.ids[records[0]],
          "label": int(data.labels[records[0]]),
          "named": guess,
        }
      )
  return rows
