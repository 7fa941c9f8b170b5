"""`run = "dagger"`: an expert corrects what policies on frozen features do (Figure 6).

A row is what policies see: an encoder at a layer, or a baseline. Of every row and
seed the iterations follow each other: roll-outs, in which every state that is
visited gets what the expert would do; training on all of these; trials. Features
are kept, not frames. An iteration is a part on disk as soon as it is done, `parts/`,
so that a run that was killed goes on to the same curve.

Leaves `curve.csv`, `metrics.json`, `policies/` (of each row and seed), `videos/` and
`report.html`.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import policies as config_lib
from totojax.data.pixels import movies
from totojax.jobs.robots import curves, rollouts, rows as rows_lib, training, worlds as worlds_lib
from totojax.report import frame, robot_sections
from totojax.rundir import console, directory, files, wording
from totojax.trained import backbone, policies

EXPERT = "expert"
_ROLL, _TRIAL = 1, 2  # what seeds of episodes are for


def run(config: config_lib.Dagger, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains and scores the policies of all rows; False when interrupted.

  Raises:
    ConfigError: an encoder or the environment cannot be used.
    ImportError: the extra `world` is missing.
  """
  rows = rows_lib.of(config)
  with worlds_lib.opened(config.env, config.worlds) as worlds:
    return corrected(config, rows, worlds, workdir, interrupted)


def corrected(
  config: config_lib.Dagger,
  rows: list[rows_lib.Row],
  worlds: rollouts.Worlds,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """The job in environments that are open."""
  directory.begin(workdir, config)
  files.make_folder(workdir / "parts")
  expert = _expert(config, worlds, workdir)
  console.say(
    f"the expert succeeds in {expert['successes']} of {wording.counted(expert['n_ep'], 'trial')}"
  )
  each = config.seeds * config.iterations
  runs = [_Run(config, row, seed, worlds, workdir) for row in rows for seed in range(config.seeds)]
  done = sum(one.there for one in runs)
  with console.tracking("dagger", unit="iterations", total=len(rows) * each, done=done) as bar:
    for one in runs:
      for point in one.go_on():
        bar.advance(note=f"{one.row.key} {one.seed}: {point.success_mean:.0%}")
        if interrupted(bar.done) and bar.done < len(rows) * each:
          return False
  _finish(config, rows, runs, expert, workdir)
  return True


def _episodes(config: config_lib.Dagger, count: int, *words: int) -> list[int]:
  """Seeds of episodes, the same for every row."""
  drawn = np.random.SeedSequence([config.seed, *words]).generate_state(count)
  return [int(one) for one in drawn]


def _expert(
  config: config_lib.Dagger, worlds: rollouts.Worlds, workdir: epath.Path
) -> dict[str, Any]:
  """How often the expert succeeds in the first seed's trials."""
  path = workdir / "parts" / f"{EXPERT}.json"
  if not files.exists(path):
    seeds = _episodes(config, config.trials, _TRIAL, 0)
    nothing = lambda seen: np.zeros((worlds.count, 0), np.float32)
    with console.phase("trials of the expert"):
      done = [*rollouts.roll(worlds, seeds, nothing, None, drawn=False)]
    steps = float(np.mean([len(one.steps) for one in done]))
    won = sum(one.succeeded for one in done)
    files.write_json(path, {"successes": won, "n_ep": len(done), "steps": steps})
  return files.read_json(path)


class _Run:
  """A row and a seed."""

  def __init__(
    self,
    config: config_lib.Dagger,
    row: rows_lib.Row,
    seed: int,
    worlds: rollouts.Worlds,
    workdir: epath.Path,
  ):
    self.config, self.row, self.seed, self.worlds = config, row, seed, worlds
    self.workdir = workdir
    self.folder = workdir / "parts" / row.key / str(seed)
    self.curve: list[curves.Point] = []
    self.policy: policies.Policy | None = None

  @property
  def there(self) -> int:
    """Iterations that are on disk."""
    names = {path.name for path in files.children(self.folder)}
    done = 0
    while f"{done + 1:04d}.npz" in names:
      done += 1
    return min(done, self.config.iterations)

  @property
  def saved(self) -> epath.Path:
    """The folder of its policy."""
    return self.workdir / "policies" / self.row.key / str(self.seed)

  def go_on(self) -> Iterator[curves.Point]:
    """Makes the iterations that are not on disk; the point of each."""
    tables = []
    for number in range(1, self.there + 1):
      part = files.read_npz(self.folder / f"{number:04d}.npz")
      tables.append(training.Steps(part["features"], part["felt"], part["action"]))
      self.curve.append(
        curves.Point(int(part["env_steps"]), float(part["success_mean"]), int(part["n_ep"]))
      )
    if self.curve:
      self.policy, _ = policies.read(self.saved.parent / f"{self.seed}-{len(self.curve):04d}")
    if len(self.curve) == self.config.iterations:
      return
    sight = self.row.load(self.config.view)
    files.make_folder(self.folder)
    backbone.check_same({**sight.facts}, self.folder)
    for number in range(len(self.curve) + 1, self.config.iterations + 1):
      tables.append(self._rolled(number, sight))
      self.policy = self._trained(number, training.joined(tables), sight)
      point = self._scored(sum(map(len, tables)), sight)
      self.curve.append(point)
      self._save(number, tables[-1], point)
      yield point

  def see(self, sight: rows_lib.Sight, seen: rollouts.Seen) -> np.ndarray:
    return sight.of(seen.image_EHW3, seen.state_ES)

  def _rolled(self, number: int, sight: rows_lib.Sight) -> training.Steps:
    """Steps of an iteration's roll-outs with the expert's actions."""
    seeds = _episodes(self.config, self.config.episodes, _ROLL, self.seed, number)
    see = functools.partial(self.see, sight)
    act = None if self.policy is None else self.policy.act
    beta = self.config.beta if number > 1 else 1.0
    found = rollouts.roll(self.worlds, seeds, see, act, beta=beta, drawn=sight.drawn)
    return training.joined([one.steps for one in found])

  def _trained(self, number: int, steps: training.Steps, sight: rows_lib.Sight) -> policies.Policy:
    return training.train(
      steps,
      head=self.config.head,
      settings=self.config.train,
      plain=sight.plain,
      seed=self.config.seed + self.seed,
      start=None if self.config.restart else self.policy,
    )

  def _scored(self, env_steps: int, sight: rows_lib.Sight) -> curves.Point:
    assert self.policy is not None
    seeds = _episodes(self.config, self.config.trials, _TRIAL, self.seed)
    see = functools.partial(self.see, sight)
    found = rollouts.roll(
      self.worlds, seeds, see, self.policy.act, drawn=sight.drawn, labelled=False
    )
    won = [one.succeeded for one in found]
    return curves.Point(env_steps, float(np.mean(won)), len(won))

  def _save(self, number: int, steps: training.Steps, point: curves.Point) -> None:
    """The policy, then the part, which says that both are there."""
    assert self.policy is not None
    facts = self.row.facts(self.config, self.policy)
    policies.save(self.saved.parent / f"{self.seed}-{number:04d}", self.policy, facts)
    arrays = {"features": steps.features_ND, "felt": steps.felt_NP, "action": steps.action_NA}
    arrays |= {name: np.asarray(value) for name, value in dataclasses.asdict(point).items()}
    files.write_npz(self.folder / f"{number:04d}.npz", arrays)
    if number > 1:
      files.remove(self.saved.parent / f"{self.seed}-{number - 1:04d}")


def _finish(
  config: config_lib.Dagger,
  rows: list[rows_lib.Row],
  runs: list[_Run],
  expert: dict[str, Any],
  workdir: epath.Path,
) -> None:
  """Tables, videos and the page."""
  table, by_row = [], {}
  for one in runs:
    by_row.setdefault(one.row, []).append(one.curve)
    at = {"row": one.row.name, "layer": one.row.layer, "seed": one.seed}
    table += [{**at, "iteration": n, **dataclasses.asdict(p)} for n, p in enumerate(one.curve, 1)]
    if one.policy is not None:
      policies.save(one.saved, one.policy, one.row.facts(config, one.policy))
      files.remove(one.saved.parent / f"{one.seed}-{config.iterations:04d}")
  files.write_csv(workdir / "curve.csv", table)
  found = [
    {"row": row.name, "layer": row.layer, "several": row.several, **numbers}
    for row, numbers in zip(by_row, curves.summary(by_row))
  ]
  env = {"task": config.env.task, "arm": config.env.arm}
  facts = {"rows": found, "expert": expert, "seeds": config.seeds, "env": env}
  facts["videos"] = filmed(config, [one for one in runs if one.seed == 0], workdir)
  files.write_json(workdir / "metrics.json", facts)
  report = frame.write(workdir, robot_sections.DAGGER)
  files.remove(workdir / "parts")
  for line in robot_sections.sentences(facts):
    console.say(line)
  console.say(f"report: {report}")


def filmed(
  config: config_lib.Dagger, runs: list[_Run], workdir: epath.Path
) -> list[dict[str, Any]]:
  """Videos of the first trials of each row's first policy."""
  out, count = [], config.output.episodes
  if not count:
    return out
  files.make_folder(workdir / "videos")
  for one in runs:
    assert one.policy is not None
    sight = one.row.load(config.view)
    see = functools.partial(one.see, sight)
    seeds = _episodes(config, config.trials, _TRIAL, 0)[:count]
    options = {"drawn": True, "keep_frames": count, "labelled": False}
    episodes = [*rollouts.roll(one.worlds, seeds, see, one.policy.act, **options)]
    name = f"videos/{one.row.key}.webp"
    if video := film(episodes, config.output):
      files.write_bytes(workdir / name, video)
      won = [episode.succeeded for episode in episodes]
      out.append({"row": one.row.name, "layer": one.row.layer, "webp": name, "succeeded": won})
  return out


def film(episodes: list[rollouts.Episode], output: config_lib.Output) -> bytes | None:
  """Episodes side by side, as a lossless WebP; None where no frames were drawn."""
  shown = [one.frames_NHW3 for one in episodes if one.frames_NHW3 is not None]
  if not shown:
    return None
  last = max(map(len, shown))
  # One that has ended stands still.
  whole = [np.concatenate([x, np.repeat(x[-1:], last - len(x), axis=0)]) for x in shown]
  frames = movies.enlarged(np.concatenate(whole, axis=2), side_px=output.side_px)
  return movies.webp(frames, fps=output.fps)
