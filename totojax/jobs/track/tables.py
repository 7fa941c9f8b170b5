"""What tracking leaves: scores by layer and sequence, and the data set's own tables.

A part is an .npz of a sequence and a row: of every rule and layer its scores, and
what was found in each frame, one after the other. Where the first sequences choose
layers (`select`), all scores are of the others.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import track
from totojax.data.sources import tracks
from totojax.evals import masks
from totojax.jobs.track import kinds, overlays, seeded
from totojax.report import track_sections
from totojax.rundir import console, files

_OFFICIAL = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


@dataclasses.dataclass
class Found:
  """What a rule finds in a video, frame by frame, packed as soon as it is scored."""

  video: kinds.Video
  kind: kinds.Kind
  scored: list[np.ndarray] = dataclasses.field(default_factory=list)
  data: list[bytes] = dataclasses.field(default_factory=list)

  @property
  def count(self) -> int:
    """Frames that came."""
    return len(self.data)

  def add(self, found: np.ndarray) -> None:
    """Takes what was found in the next frame."""
    score = self.kind.scored(self.video, self.count, found)
    if score is not None:
      self.scored.append(score)
    self.data.append(self.kind.packed(found))

  def arrays(self, rule: str, layer: int) -> dict[str, np.ndarray]:
    """Of the part."""
    key = f"{rule}|{layer}"
    return {
      f"{key}|scores": self.kind.joined(self.scored),
      f"{key}|data": np.frombuffer(b"".join(self.data), np.uint8),
      f"{key}|ends": np.cumsum([len(one) for one in self.data]),
    }


def seconds(features_s: float, propagation_s: float, frames: int) -> dict[str, np.ndarray]:
  """How long a sequence took, for its part."""
  return {"seconds": np.array([features_s, propagation_s, frames])}


def folder_of(workdir: epath.Path, row: str) -> epath.Path:
  """Where the parts of a row are."""
  return workdir / "parts" / row


@dataclasses.dataclass(frozen=True)
class Layout:
  """What there is of a finished run."""

  workdir: epath.Path
  found: Sequence[tracks.Track]
  rows: Mapping[str, tuple[str, ...]]  # name of a row -> its rules

  def part(self, row: str, number: int) -> dict[str, np.ndarray]:
    return files.read_npz(folder_of(self.workdir, row) / f"{number:06d}.npz")


@dataclasses.dataclass(frozen=True)
class _Best:
  """A rule of a row with the layer that is best on all sequences."""

  row: str
  rule: str
  layer: int

  @property
  def name(self) -> str:
    return self.row if self.row == self.rule else f"{self.row}-{self.rule}"

  def frames(self, part: Mapping[str, np.ndarray]) -> list[bytes]:
    """What was found in each frame, packed."""
    key = f"{self.rule}|{self.layer}"
    data, ends = part[f"{key}|data"].tobytes(), part[f"{key}|ends"].tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends)]


def write(
  kind: kinds.Kind,
  layout: Layout,
  config: track.Track,
  facts: Mapping[str, Any],
  interrupted: jobs.Interrupted,
) -> bool:
  """Writes all tables and pictures of a run whose parts are there; False when interrupted."""
  scores: dict[tuple[str, str, int], list[np.ndarray]] = {}
  cost: dict[str, np.ndarray] = {}
  for row in layout.rows:
    for number in range(len(layout.found)):
      for key, array in layout.part(row, number).items():
        if key == "seconds":
          cost[row] = cost.get(row, 0) + array
        elif key.endswith("|scores"):
          rule, layer, _ = key.split("|")
          scores.setdefault((row, rule, int(layer)), []).append(array)
  chooses, total = config.select, kind.total
  choice = {key: total(each[: chooses or None], seed=0)[kind.score] for key, each in scores.items()}
  scores = {key: each[chooses:] for key, each in scores.items()}
  scored = layout.found[chooses:]
  table = [
    {"row": row, "rule": rule, "layer": layer, "score": found[kind.score], **found}
    for (row, rule, layer), each in scores.items()
    for found in [total(each, seed=config.seed)]
  ]
  for one in table if chooses else ():
    one["choice"] = choice[one["row"], one["rule"], one["layer"]]
  table.sort(key=lambda one: one["layer"])
  files.write_csv(layout.workdir / "per_layer.csv", [_plain(one) for one in table])
  chosen = []
  for row, rules in layout.rows.items():
    for rule in rules:
      mine = [one for one in table if (one["row"], one["rule"]) == (row, rule)]
      best_at = max(mine, key=lambda one: choice[one["row"], one["rule"], one["layer"]])
      chosen.append((best_at, mine[-1]))
  best = [_Best(one["row"], one["rule"], one["layer"]) for one, _ in chosen]
  each = [
    {"row": of.row, "rule": of.rule, "layer": of.layer, "sequence": one.name, **_plain(found)}
    for of in best
    for one, score in zip(scored, scores[of.row, of.rule, of.layer])
    for found in [total([score], seed=0)]
  ]
  files.write_csv(layout.workdir / "per_sequence.csv", each)
  if not _results(kind, layout, best, scores, config, interrupted):
    return False
  firsts = {of.row: of for of in reversed(best)}  # the first rule of each row
  drawn = overlays.write(
    kind,
    layout.found,
    {
      of.name: lambda number, of=of: of.frames(layout.part(of.row, number))
      for of in best
      if firsts[of.row] is of
    },
    config.output,
    layout.workdir,
    interrupted,
  )
  if drawn is None:
    return False
  seeds = seeded.rows(kind, config, {(of.row, of.rule): of.layer for of in best}, scores)
  facts = {**facts, "drawn": drawn, "seeds": seeds, "select": chooses}
  _metrics(kind, layout, config, chosen, cost, facts)
  track_sections.figure(layout.workdir)
  return True


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in found.items() if not key.startswith("IoU/")}


def _metrics(
  kind: kinds.Kind,
  layout: Layout,
  config: track.Track,
  chosen: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
  cost: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
) -> None:
  """metrics.json: of each row and rule the best layer and the last."""
  out: dict[str, Any] = {
    **facts,
    "score": kind.score,
    "sequences": len(layout.found) - config.select,
    "whole": dict(kind.whole),
    "rows": [],
  }
  for best, last in chosen:
    features_s, propagation_s, frames = (float(value) for value in cost[best["row"]])
    out["rows"].append(
      {
        **best,
        "last_layer": last["layer"],
        "last_score": last["score"],
        "features_s_a_frame": features_s / frames,
        "propagation_s_a_frame": propagation_s / frames,
      }
    )
  if config.paper.name:
    out["paper"] = {"name": config.paper.name, "score": config.paper.score / 100}
  files.write_json(layout.workdir / "metrics.json", out)


def _results(
  kind: kinds.Kind,
  layout: Layout,
  best: Sequence[_Best],
  scores: Mapping[tuple[str, str, int], list[np.ndarray]],
  config: track.Track,
  interrupted: jobs.Interrupted,
) -> bool:
  """results/: the data set's own tables, and what was found, of the best layers.

  False when interrupted: what is written by then is written again.
  """
  for of in best:
    folder = layout.workdir / "results" / of.name
    files.make_folder(folder)
    if isinstance(kind, kinds.Davis):
      scored = layout.found[config.select :]
      _davis_tables(folder, scored, scores[of.row, of.rule, of.layer], config.data.split)
  if not config.output.masks:
    return True
  total = len(best) * len(layout.found)
  with console.tracking("what was found", unit="sequences", total=total) as bar:
    for of in best:
      folder, places = layout.workdir / "results" / of.name, []
      for number, one in enumerate(layout.found):
        found = of.frames(layout.part(of.row, number))
        if isinstance(kind, kinds.Jhmdb):
          for frame, data in enumerate(found):
            places.append([one.name, frame, *kind.unpacked(data).T.ravel().round(3).tolist()])
        else:
          files.make_folder(folder / one.name)
          for path, data in zip(one.frames, found):
            stem = path.rpartition("/")[2].rpartition(".")[0]
            files.write_bytes(folder / one.name / f"{stem}.png", data)
        bar.advance(note=one.name)
        if interrupted(bar.done):
          return False
      if places:
        named = [f"{name}_{axis}" for name in tracks.JOINTS for axis in "xy"]
        files.write_table(folder / "joints.csv", places, header=("video", "frame", *named))
  return True


def _davis_tables(
  folder: epath.Path, found: Sequence[tracks.Track], scores: Sequence[np.ndarray], split: str
) -> None:
  """The two tables of DAVIS' own evaluation, as it writes them."""
  whole = masks.summary([both for each in scores for both in each.swapaxes(0, 1)])
  values = [f"{whole[name]:.3f}" for name in _OFFICIAL]
  files.write_table(folder / f"global_results-{split}.csv", [values], header=_OFFICIAL)
  rows = []
  for one, each in zip(found, scores):
    for number, (j, f) in enumerate(each.mean(-1).T, 1):
      rows.append([f"{one.name}_{number}", f"{j:.3f}", f"{f:.3f}"])
  head = ("Sequence", "J-Mean", "F-Mean")
  files.write_table(folder / f"per-sequence_results-{split}.csv", rows, header=head)
