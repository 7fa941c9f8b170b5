"""Recipes of robots: a chain in small (Figure 6, Table 11), and the paper's jobs."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from totojax.config import cater, policies, recipes, robot_envs, roots, schema, small_runs, track
from totojax.config.schema import ConfigError

# Of the stand-in: what a frame is to the model, as in `cater`.
FRAMES, SIZE_PX, TOKENIZER = cater.FRAMES, cater.SIZE_PX, cater.TOKENIZER
STATE = ("observation.environment_state",)
# Steps of an episode that experts do not need all of.
STEPS = {"pick": 120, "cabinet": 120, "lift": 120, "door": 200}


def env(task: str, arm: str, **keys: Any) -> robot_envs.EnvConfig:
  """A robot at its task, in episodes that end with success.

  Raises:
    ConfigError: there is no such task, or robosuite does not know a key.
  """
  known = robot_envs.SIMULATORS
  simulator = next((name for name, tasks in known.items() if task in tasks), "world")
  steps = STEPS.get(task, 120)
  return robot_envs.EnvConfig(simulator=simulator, task=task, arm=arm, steps=steps, **keys)


def chain(argument: str = "") -> ConfigDict:
  """A stand-in from an expert's roll-outs to policies, of "arm=panda,task=pick,seeds=3".

  Raises:
    ConfigError: the argument has another key.
  """
  words = small_runs.words(argument, arm="panda", task="pick", seeds="3", spread="1")
  try:
    spread = float(words["spread"])
  except ValueError:
    raise ConfigError(f"spread is {words['spread']!r}; give 0 to 1") from None
  where = env(words["task"], words["arm"], spread=spread)
  record = roots.config("record", env=where, episodes=55, noise=0.1)
  tokens = recipes.tokenize()
  tokens.tokenizer = TOKENIZER
  tokens.source.update(name="lerobot", root="{workdir}/record/data", val_frac=0.1)
  tokens.clip.update(frames=FRAMES, stride_frames=2, size_px=SIZE_PX, fps=where.rate_hz, crops=16)
  stages = {
    "record": record,
    "tokens": tokens,
    "pretrain": cater.pretrained("robot", "{workdir}/tokens", depth=4),
  }
  toto = {"toto": track.Tracker(model_run="{workdir}/pretrain")}
  # Thrifty: an expert is asked in each step, so few epochs are needed.
  stages["clone"] = clone = roots.config("clone", encoders=toto, env=where, trials=50)
  clone.data.update(root="{workdir}/record/data", state=STATE, episodes=50)
  clone.train.update(epochs=50.0, warmup_epochs=5.0)
  clone.output.episodes = 0
  stages["dagger"] = roots.config("dagger", encoders=toto, env=where, seeds=int(words["seeds"]))
  stages["dagger"].baselines = ("untrained", "pixels", "state")
  # The expert acts in half of the steps: of few episodes, those that the policy leads
  # astray would be most of what there is.
  stages["dagger"].update(iterations=5, episodes=32, trials=32, beta=0.5)
  stages["dagger"].train.epochs = 50.0
  # Of a model of this size, features of frames differ little from each other.
  for name in ("clone", "dagger"):
    stages[name].head.standardise = True
    stages[name].view.pool_side = 4  # over a whole frame they do not tell where things are
  return recipes.chain(**stages)


def paper_dagger(task: str, arm: str, **encoders: track.Tracker) -> ConfigDict:
  """DAgger of one of Figure 6's panels: MVP's episodes."""
  where = robot_envs.EnvConfig(task=task, arm=arm, until_success=False)
  c = roots.config("dagger", encoders=encoders, env=where)
  c.update(iterations=20, episodes=32, trials=100)
  return c


def paper_clone(root: str, **encoders: track.Tracker) -> ConfigDict:
  """Table 11's behaviour cloning of recorded trajectories, filtered and scaled as RPT's."""
  c = schema.to_config(policies.Clone(encoders=encoders, trials=0))
  c.data.update(root=root, actions="deltas", episodes=240)
  c.view.crop_px = 448
  return c


def tracker(text: str, layer: int) -> track.Tracker:
  """An encoder, or a run, at one layer."""
  (one,) = track.trackers([f"one={text}"]).values()
  return dataclasses.replace(one, layers=(layer,))
