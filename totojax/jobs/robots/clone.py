"""`run = "clone"`: behaviour cloning from recorded trajectories (Table 11).

Of every row and seed a policy is trained on all but a few trajectories; how far it is
from what was done in these is beside that of a policy that sees no frame, and of one
that sees where everything is. Where the environment is named in which they were
recorded, each policy is tried in it too.

Features are on disk as soon as they are made, `features/`, and so is each policy
(`policies/`), so that a run that was interrupted goes on with the next. Leaves
`metrics.json`, `per_episode.csv`, `videos/` and `report.html`.
"""

from collections.abc import Iterator, Sequence
import contextlib
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import policies as config_lib
from totojax.config.schema import ConfigError
from totojax.evals import resampled
from totojax.jobs.robots import (
  dagger,
  recordings as recordings_lib,
  rollouts,
  rows as rows_lib,
  training,
  worlds as worlds_lib,
)
from totojax.report import frame, robot_sections
from totojax.rundir import console, directory, files, wording
from totojax.trained import backbone, policies

_TRIAL_SEEDS = 3


def run(config: config_lib.Clone, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains and scores the policies of all rows; False when interrupted.

  Raises:
    ConfigError: the recording, an encoder or the environment cannot be used.
  """
  with contextlib.ExitStack() as stack:
    worlds = None
    if config.trials:
      worlds = stack.enter_context(worlds_lib.opened(config.env, config.worlds))
    return cloned(config, worlds, workdir, interrupted)


def cloned(
  config: config_lib.Clone,
  worlds: rollouts.Worlds | None,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """The job, with environments that are open; None: there are no trials."""
  recorded = recordings_lib.opened(config.data, seed=config.seed)
  rows = rows_lib.of(config, state=recorded.has_state)
  _check_fits(recorded, worlds)
  directory.begin(workdir, config)
  train = recorded.train
  listed = {"train": [one.name for one in train], "steps": sum(map(len, train))}
  backbone.check_same({"root": config.data.root, "camera": recorded.camera, **listed}, workdir)
  if recorded.missing:
    table = [(one.id, one.reason) for one in recorded.missing]
    files.write_table(workdir / "skipped.csv", table, header=("id", "reason"))
    console.say(
      f"left out: {wording.counted(len(table), 'trajectory', 'trajectories')},"
      f" {workdir / 'skipped.csv'}"
    )
  total, found = len(rows) * config.seeds, []
  with console.tracking("cloning", unit="policies", total=total) as bar:
    for row in rows:
      one = _Row(config, row, recorded, worlds, workdir)
      for seed in range(config.seeds):
        one.clone(seed)
        bar.advance(note=row.key)
        if interrupted(bar.done) and bar.done < total:
          return False
      found.append(one)
  _finish(config, found, recorded, workdir)
  return True


def _check_fits(recorded: recordings_lib.Recordings, worlds: rollouts.Worlds | None) -> None:
  if worlds is None:
    return
  one = recorded.train[0]
  there = {"felt": one.felt_NP.shape[1], "action": one.action_NA.shape[1]}
  wanted = {"felt": worlds.felt, "action": worlds.actions}
  if recorded.has_state:
    there["state"], wanted["state"] = one.state_NS.shape[1], worlds.states
  if there != wanted:
    raise ConfigError(
      f"trials is set, and env has {wanted} numbers where {there} were recorded; set trials to 0,"
      " or env to what was recorded in"
    )


class _Row:
  """The policies of a row."""

  def __init__(
    self,
    config: config_lib.Clone,
    row: rows_lib.Row,
    recorded: recordings_lib.Recordings,
    worlds: rollouts.Worlds | None,
    workdir: epath.Path,
  ):
    self.config, self.row, self.recorded = config, row, recorded
    self.worlds, self.workdir = worlds, workdir
    self._sight: rows_lib.Sight | None = None
    self._tables: tuple[list[training.Steps], list[training.Steps]] | None = None

  @property
  def sight(self) -> rows_lib.Sight:
    """What makes its features; loaded once."""
    if self._sight is None:
      self._sight = self.row.load(self.config.view)
    return self._sight

  @property
  def tables(self) -> tuple[list[training.Steps], list[training.Steps]]:
    """(learned from, held out), of each trajectory."""
    if self._tables is None:
      folder = self.workdir / "features" / self.row.key
      if self.sight.drawn:
        files.make_folder(folder)
        backbone.check_same({**self.sight.facts, "camera": self.recorded.camera}, folder)
      self._tables = recordings_lib.tables(self.recorded, self.sight, folder, name=self.row.key)
    return self._tables

  def _folder(self, seed: int) -> epath.Path:
    return self.workdir / "policies" / self.row.key / str(seed)

  def result(self, seed: int) -> dict[str, Any]:
    """What a policy was worth."""
    return files.read_json(self._folder(seed) / "result.json")

  def clone(self, seed: int) -> None:
    """Makes a policy that is not on disk."""
    folder = self._folder(seed)
    if files.exists(folder / "result.json"):
      return
    train, heldout = self.tables
    policy = training.train(
      training.joined(train),
      head=self.config.head,
      settings=self.config.train,
      plain=self.sight.plain,
      seed=self.config.seed + seed,
      advance=lambda share: console.watchdog.feed(),
    )
    names = {"camera": self.recorded.camera, "action_names": self.recorded.action_names}
    policies.save(folder, policy, self.row.facts(self.config, policy, **names))
    out: dict[str, Any] = {"errors": errors(policy, heldout), "train": errors(policy, train)}
    if self.worlds is not None:
      out["won"] = [one.succeeded for one in self._tried(policy, self.worlds, self.config.trials)]
    files.write_json(folder / "result.json", out)

  def _tried(
    self, policy: policies.Policy, worlds: rollouts.Worlds, count: int, keep: int = 0
  ) -> Iterator[rollouts.Episode]:
    """Roll-outs, of the same seeds for every row."""
    drawn = np.random.SeedSequence([self.config.seed, _TRIAL_SEEDS]).generate_state(count)
    see = lambda seen: self.sight.of(seen.image_EHW3, seen.state_ES)
    options = {"drawn": self.sight.drawn, "keep_frames": keep, "labelled": False}
    return rollouts.roll(worlds, [int(x) for x in drawn], see, policy.act, **options)

  def filmed(self) -> dict[str, Any] | None:
    """A video of the first policy's first trials."""
    count = min(self.config.output.episodes, self.config.trials)
    if self.worlds is None or not count:
      return None
    policy, _ = policies.read(self._folder(0))
    shown = [*self._tried(policy, self.worlds, count, keep=count)]
    data = dagger.film(shown, self.config.output)
    if data is None:
      return None
    files.make_folder(self.workdir / "videos")
    name = f"videos/{self.row.key}.webp"
    files.write_bytes(self.workdir / name, data)
    won = [one.succeeded for one in shown]
    return {"row": self.row.name, "layer": self.row.layer, "webp": name, "succeeded": won}


def errors(policy: policies.Policy, tables: Sequence[training.Steps]) -> list[list[float]]:
  """[sum of squared differences, sum of squares] of the actions of each trajectory."""
  out = []
  for steps in tables:
    found_NA = policy.act(steps.features_ND, steps.felt_NP)
    wrong = np.sum((found_NA - steps.action_NA) ** 2, dtype=np.float64)
    out.append([float(wrong), float(np.sum(steps.action_NA**2, dtype=np.float64))])
  return out


def _share(sums_V2: np.ndarray, seed: int) -> dict[str, Any]:
  """The error of all trajectories over their actions' squares, with its interval."""
  value = lambda times_V: float(times_V @ sums_V2[:, 0] / (times_V @ sums_V2[:, 1]))
  low, high = resampled.interval(value, len(sums_V2), seed=seed)
  return {"mean": value(np.ones(len(sums_V2))), "low": low, "high": high}


def _finish(
  config: config_lib.Clone,
  found: Sequence[_Row],
  recorded: recordings_lib.Recordings,
  workdir: epath.Path,
) -> None:
  """Tables, videos and the page."""
  rows, table, videos = [], [], []
  sums = {}
  for one in found:
    each = [one.result(seed) for seed in range(config.seeds)]
    sums[one.row.key] = sums_V2 = np.mean([r["errors"] for r in each], axis=0)
    train_V2 = np.mean([r["train"] for r in each], axis=0)
    row = {"row": one.row.name, "layer": one.row.layer, "several": one.row.several}
    row["error"] = _share(sums_V2, config.seed)
    row["train_error"] = float(train_V2[:, 0].sum() / train_V2[:, 1].sum())
    if config.trials:
      won = [yes for r in each for yes in r["won"]]
      row["trials"] = {"successes": sum(won), "n": len(won)}
    rows.append(row)
    for seed, r in enumerate(each):
      table += [
        {
          "row": one.row.name,
          "layer": one.row.layer,
          "seed": seed,
          "episode": t.name,
          "error": e / s,
        }
        for t, (e, s) in zip(recorded.heldout, r["errors"])
      ]
    if video := one.filmed():
      videos.append(video)
  if rows_lib.BLIND in sums:
    blind_V2 = sums[rows_lib.BLIND]
    for one, row in zip(found, rows):
      less_V2 = blind_V2 - sums[one.row.key]
      row["less_than_blind"] = _share(np.stack([less_V2[:, 0], blind_V2[:, 1]], 1), config.seed)
  files.write_csv(workdir / "per_episode.csv", table)
  facts: dict[str, Any] = {
    "rows": rows,
    "seeds": config.seeds,
    "videos": videos,
    "amounts": {
      "train": len(recorded.train),
      "train_steps": sum(map(len, recorded.train)),
      "heldout": len(recorded.heldout),
      "heldout_steps": sum(map(len, recorded.heldout)),
      "missing": len(recorded.missing),
    },
  }
  if config.paper.name:
    paper = config.paper
    facts["paper"] = {"name": paper.name, "successes": paper.successes, "trials": paper.trials}
  files.write_json(workdir / "metrics.json", facts)
  report = frame.write(workdir, robot_sections.CLONE)
  files.remove(workdir / "features")
  said = robot_sections.verdict(facts)
  console.say(f"{said.line} {said.interval}")
  console.say(f"report: {report}")
