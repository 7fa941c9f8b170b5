"""`run = "cater"`: where fine-tuned models say that the snitch is, beside rules.

Top-1, top-5 and L1 on all clips that were held out, and on exactly those in which
the snitch is carried while it is hidden: something covers it for good, and it ends
in another cell than it was covered in. On these the last visible place is wrong
by what they are. Which they are, the scenes say.

Writes `metrics.json`, `per_item.csv` and `report.html`.

Shapes: M clips, S runs.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs, rundir
from totojax.config import cater as config_lib
from totojax.config.schema import ConfigError
from totojax.data.sources import cater, items as items_lib
from totojax.evals import cells, resampled
from totojax.jobs.probe import seeds
from totojax.report import cater_sections, frame, shares
from totojax.rundir import console, directory, files, wording
from totojax.storage import outside, reading

_COLUMNS = ("id", "label", "predicted", "rank")


@dataclasses.dataclass(frozen=True)
class Clips:
  """What is known of the clips."""

  ids: tuple[str, ...]
  labels_M: np.ndarray
  train_labels: np.ndarray  # of every training clip
  last_seen_M: np.ndarray | None  # cells; None: there are no scenes
  hidden_M: np.ndarray | None  # bool: something covers it at the end
  missing: tuple[tuple[str, str], ...]  # (id, reason)

  @functools.cached_property
  def place(self) -> dict[str, int]:
    """Number of a clip, by its id."""
    return {id_: m for m, id_ in enumerate(self.ids)}

  @property
  def groups(self) -> dict[str, np.ndarray]:
    """Name -> which clips, bool [M]."""
    everything = {"all": np.ones(len(self.ids), bool)}
    if self.hidden_M is None or self.last_seen_M is None:
      return everything
    carried_M = self.last_seen_M != self.labels_M  # of what is seen to the end they are one
    return everything | {
      "carried": carried_M,
      "hidden, not carried": self.hidden_M & ~carried_M,
      "seen": ~self.hidden_M,
    }


def run(config: config_lib.Cater, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Scores the answers of finished runs.

  Raises:
    ValueError: lists or scenes are not as CATER has them, or a run answered other
      clips.
  """
  del interrupted  # seconds
  clips = opened(config.data)
  answers = {name: _answers(paths, clips, config) for name, paths in config.models.items()}
  directory.begin(workdir, config)
  side, labels_M = config.data.side, clips.labels_M
  ways = {name: one for name, (_, one) in answers.items()}
  if clips.last_seen_M is not None:
    ways["last seen"] = cells.Answers.named(clips.last_seen_M, labels_M, side)
  ways |= cells.constant(clips.train_labels, labels_M, side)
  ways["chance"] = cells.chance(labels_M, side)
  rows = [
    {"name": name, "group": group, **numbers(one, which_M, seed=config.seed)}
    for group, which_M in clips.groups.items()
    for name, one in ways.items()
  ]
  files.write_csv(workdir / "per_item.csv", _items(clips, answers))
  facts = {
    "n": len(clips.ids),
    "n_expected": len(clips.ids) + len(clips.missing),
    "side": side,
    "models": list(config.models),
    "rows": rows,
    "verdicts": [one for name in config.models for one in verdicts(rows, name)],
    "paper": config.paper,
  }
  files.write_json(workdir / "metrics.json", facts)
  files.write_table(workdir / "missing.csv", clips.missing, header=("id", "reason"))
  for line in cater_sections.sentences(facts):
    console.say(line)
  if clips.missing:
    console.say(
      f"missing or wrong: {wording.counted(len(clips.missing), 'clip')}, {workdir / 'missing.csv'}"
    )
  path = frame.write(workdir, cater_sections.PAGE)
  console.say(f"report: {path}")
  return True


def opened(data: config_lib.Clips) -> Clips:
  """The clips of the lists, and what their scenes say.

  Raises:
    ConfigError, ValueError: there is no root, or as `cater.list_items`.
  """
  if not data.root:
    raise ConfigError("data.root is empty; name the folder of CATER's lists")
  listing = cater.list_items(data.root, data.split, side=data.side)
  train = cater.list_items(data.root, data.train, side=data.side, fates=False)
  scenes = reading.join(data.root, "scenes")
  last_seen, hidden = [], []
  if reading.is_folder(scenes):
    for item in listing.items:
      path = reading.join(scenes, f"{_stem(item)}.json")
      fate = cater.read_fate(path)
      try:
        last_seen.append(cater.cell(*fate.last_seen, data.side))
      except ValueError as error:
        raise ValueError(f"{path}, where the snitch is covered: {outside.shown(error)}") from error
      hidden.append(fate.hidden is not None)
  labels_M = np.array([item.label for item in listing.items])
  return Clips(
    ids=tuple(item.id for item in listing.items),
    labels_M=labels_M,
    train_labels=np.array([item.label for item in train.items]),
    last_seen_M=np.array(last_seen) if hidden else None,
    hidden_M=np.array(hidden) if hidden else None,
    missing=tuple((one.id, one.reason) for one in listing.missing),
  )


def _stem(item: items_lib.Item) -> str:
  return item.path.rpartition("/")[2].rpartition(".")[0]


def _answers(
  paths: tuple[str, ...], clips: Clips, config: config_lib.Cater
) -> tuple[np.ndarray, cells.Answers]:
  """(cells [S, M], what they are worth) of a model's runs."""
  named, ranks = zip(*(_predictions(path, clips) for path in paths))
  named_SM = np.stack(named)
  return named_SM, cells.Answers.named(
    named_SM, clips.labels_M, config.data.side, rank=np.stack(ranks)
  )


def _predictions(path: str, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
  """(named cells, ranks of the right ones) [M] of a run.

  Raises:
    RunError: it is not finished.
    ValueError: its table is damaged, or of other clips or labels.
  """
  if not directory.is_done(epath.Path(path)):
    raise rundir.RunError(f"{path} is no finished run of fine-tuning; finish it first")
  table = f"{path}/predictions.csv"
  found: dict[str, tuple[int, int]] = {}
  for number, row in enumerate(files.read_csv(table), 2):
    try:
      id_, label, named, rank = row["id"], *(int(row[key]) for key in _COLUMNS[1:])
    except (KeyError, ValueError) as error:
      raise ValueError(
        f"{table}, line {number}: {outside.shown(error)}; it has not the columns"
        f" {', '.join(_COLUMNS)} of fine-tuning"
      ) from error
    found[id_] = named, rank
    place = clips.place.get(id_)
    if place is None or clips.labels_M[place] != label:
      what = "is not in the list" if place is None else f"has cell {clips.labels_M[place]} there"
      raise ValueError(
        f"{table}, line {number}: clip {id_!r} with cell {label} {what}; give the data.root,"
        " data.split and data.side that the run was scored on"
      )
  if lacking := [id_ for id_ in clips.ids if id_ not in found]:
    raise ValueError(
      f"{table} lacks {len(lacking)} of {wording.counted(len(clips.ids), 'clip')} of the list,"
      f" the first of them {lacking[0]!r}; score the run on all of them"
    )
  both = np.array([found[id_] for id_ in clips.ids])
  return both[:, 0], both[:, 1]


def numbers(answers: cells.Answers, which_M: np.ndarray, *, seed: int) -> dict[str, Any]:
  """The measures of some clips with 95 % intervals; None: there is no such number.

  Shares have Wilson's, distances a bootstrap over clips; of several runs the
  spread over these is added, as squares.
  """
  n = int(which_M.sum())
  out: dict[str, Any] = {"n": n, "runs": len(answers.top1_SM)}
  of = {"top1": answers.top1_SM, "top5": answers.top5_SM, "l1": answers.l1_SM}
  for name, values_SM in of.items():
    keys = name, f"{name}_low", f"{name}_high"
    if values_SM is None or not n:
      out |= dict.fromkeys(keys)
      continue
    values_SM = values_SM[:, which_M]
    mean, of_clip = float(values_SM.mean()), values_SM.mean(0)
    if name == "l1":
      average = lambda times_M, of_clip=of_clip: float(times_M @ of_clip / n)
      low, high = resampled.interval(average, n, seed=seed)
    else:
      low, high = (float(end) for end in shares.wilson(mean, n))
    low, high = (mean if end is None else end for end in (low, high))
    more = seeds.spread(values_SM.mean(1))
    below, above = np.hypot(mean - low, more), np.hypot(high - mean, more)
    out |= dict(zip(keys, (mean, float(mean - below), float(mean + above))))
  return out


def verdicts(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
  """Of each group whether a model is better than the last visible place, and surely."""
  out = []
  for ours in (row for row in rows if row["name"] == name and row["n"]):
    rule = [row for row in rows if row["name"] == "last seen" and row["group"] == ours["group"]]
    for theirs in rule:
      out.append(
        {
          "name": name,
          "group": ours["group"],
          "n": ours["n"],
          "top1": ours["top1_low"] > theirs["top1_high"],
          "l1": ours["l1_high"] < theirs["l1_low"],
        }
      )
  return out


def _items(
  clips: Clips, answers: Mapping[str, tuple[np.ndarray, cells.Answers]]
) -> list[dict[str, Any]]:
  """A row of per_item.csv for each clip."""
  rows = []
  for m, id_ in enumerate(clips.ids):
    row: dict[str, Any] = {"id": id_, "label": int(clips.labels_M[m])}
    if clips.last_seen_M is not None:
      row["last_seen"] = int(clips.last_seen_M[m])
      row |= {name: int(which_M[m]) for name, which_M in clips.groups.items() if name != "all"}
    for name, (named_SM, _) in answers.items():
      row |= {f"{name}/{s}": int(cell) for s, cell in enumerate(named_SM[:, m])}
    rows.append(row)
  return rows
