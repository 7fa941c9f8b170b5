"""`run = "record"`: an expert's roll-outs as a LeRobot data set (3.0).

Leaves `data/`, which is whole or not there, and `metrics.json`: in how many episodes
the expert succeeded, with Wilson's interval. Stopped, it begins anew.
"""

from collections.abc import Iterator

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config.policies import Record
from totojax.config.schema import ConfigError
from totojax.data.trajectories import lerobot_writer
from totojax.jobs.robots import rollouts, worlds as worlds_lib
from totojax.report import shares
from totojax.rundir import console, directory, files, wording

CAMERA = "observation.images.front"
TASKS = {
  **{"pick": "Pick up the cube.", "cabinet": "Open the drawer."},
  **{"lift": "Lift the cube.", "door": "Open the door."},  # robosuite's
}


class _Stopped(Exception):
  """Nothing more is to be done now."""


def run(config: Record, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes the data set; False when interrupted.

  Raises:
    ConfigError: nothing can be recorded so, or no episode succeeded.
    ImportError: an extra is missing (`world`, `data`).
  """
  if not config.env.rate_hz.is_integer():
    raise ConfigError(
      f"env.rate_hz is {config.env.rate_hz:g}; LeRobot's frames a second are whole numbers"
    )
  if not config.env.image or config.env.size_px % 2:
    raise ConfigError(
      f"env.image is {config.env.image} and env.size_px {config.env.size_px}; videos need frames of"
      " an even side"
    )
  with worlds_lib.opened(config.env, config.worlds) as worlds:
    return recorded(config, worlds, workdir, interrupted)


def recorded(
  config: Record, worlds: rollouts.Worlds, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """The job in environments that are open."""
  directory.begin(workdir, config)
  tally = {"successes": 0, "episodes": 0, "steps": 0, "kept": 0}
  # What was there is of a run that did not come to its end.
  files.remove(workdir / "data")
  try:
    lerobot_writer.write(
      workdir / "data",
      _episodes(config, worlds, tally, interrupted),
      fps=int(config.env.rate_hz),
      robot=config.env.arm,
      state_names=[f"felt_{n}" for n in range(worlds.felt)],
      action_names=[f"action_{n}" for n in range(worlds.actions)],
      environment_names=[f"state_{n}" for n in range(worlds.states)],
    )
  except _Stopped:
    return False
  except ValueError as error:
    if tally["kept"]:
      raise
    raise ConfigError(
      f"none of {wording.counted(tally['episodes'], 'episode')} succeeded, so nothing is kept;"
      " set failures to True,"
      " or env to something easier"
    ) from error
  files.write_json(workdir / "metrics.json", tally)
  share = tally["successes"] / tally["episodes"]
  console.say(
    f"the expert succeeds in {tally['successes']} of"
    f" {wording.counted(tally['episodes'], 'episode')},"
    f" {shares.percent(share, tally['episodes'])}; {tally['kept']} are kept: {workdir / 'data'}"
  )
  return True


def _episodes(
  config: Record, worlds: rollouts.Worlds, tally: dict[str, int], interrupted: jobs.Interrupted
) -> Iterator[lerobot_writer.Recorded]:
  """Those that are kept; counts all."""
  seeds = np.random.SeedSequence([config.seed, 4]).generate_state(config.episodes)
  nothing = lambda seen: np.zeros((worlds.count, 0), np.float32)
  with console.tracking("recording", unit="episodes", total=config.episodes) as bar:
    for first in range(0, config.episodes, worlds.count):
      some = [int(one) for one in seeds[first : first + worlds.count]]
      options = {"noise": config.noise, "drawn": True, "keep_frames": len(some)}
      for one in rollouts.roll(worlds, some, nothing, None, **options):
        tally["episodes"] += 1
        tally["successes"] += one.succeeded
        bar.advance()
        if one.frames_NHW3 is None or not (one.succeeded or config.failures):
          continue
        tally["kept"] += 1
        tally["steps"] += len(one.steps)
        yield lerobot_writer.Recorded(
          task=TASKS[config.env.task],
          state_NS=one.steps.felt_NP,
          action_NA=one.steps.action_NA,
          frames={CAMERA: one.frames_NHW3},
          environment_NE=one.state_NS,
        )
      if interrupted(bar.done) and bar.done < config.episodes:
        raise _Stopped
