"""Many environments, stepped together in processes of their own.

Neither MuJoCo nor OpenGL is loaded here, so this goes with jax. Environments of one
process share a model and an OpenGL context.

Shapes: B environments.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import process
import dataclasses
from typing import Any, Self

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.data.pixels import workers
from totojax.world import processes
from totojax.world.robots import layout

Observation = dict[str, np.ndarray]  # as of `Env`, with a first axis of environments
_group: list[Any] = []  # of a child: its stage and environments


@dataclasses.dataclass(frozen=True)
class Stepped:
  """What a step of all environments led to."""

  observation: Observation
  reward_B: np.ndarray  # float32
  terminated_B: np.ndarray  # bool
  truncated_B: np.ndarray  # bool
  success_B: np.ndarray  # bool: it stays, once it came
  active_B: np.ndarray  # bool: whether it was stepped; those that are over are not


class Envs:
  """A context manager, which ends the processes."""

  def __init__(self, config: EnvConfig, count: int, *, processes: int = 1, gl: str = ""):
    """Starts the processes when they are first asked.

    Args:
      config: of every environment; their seeds differ.
      count: environments.
      processes: that they are spread over; no more than environments are started.
      gl: "egl" or "osmesa"; "": MUJOCO_GL if it is set, else the first that works.

    Raises:
      ValueError: no environments, or no processes.
    """
    self.config, self.count = config, count
    self._parts = parts(count, processes)
    self.action_space, self.observation_space = layout.spaces(config)
    self._children = [
      workers.children(1, _begin, config, part.stop - part.start, gl) for part in self._parts
    ]

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the processes."""
    for child in self._children:
      child.shutdown(wait=True, cancel_futures=True)

  def reset(
    self, seeds: int | Sequence[int] | np.ndarray, which: np.ndarray | None = None
  ) -> Observation:
    """New episodes; the observation of all environments.

    Args:
      seeds: of each environment [B]; or one, and they have it and those that follow.
      which: bool [B]; those that begin anew; None: all.

    Raises:
      ValueError: seeds or `which` of another length, or a seed below 0.
      ImportError: MuJoCo or OpenGL is missing; says what to install.
      OSError: a process died.
    """
    seeds_B, which_B = seeds_and_which(self.count, seeds, which)
    return joined(self._ask(_reset, seeds_B, which_B))

  def step(self, actions_BA: np.ndarray) -> Stepped:
    """One step of control of each environment whose episode is not over.

    Args:
      actions_BA: float [B, 8], as of `Env.step`; those of episodes that are over are
        left aside.

    Raises:
      ValueError: actions of another shape, or that are not finite.
      OSError: a process died.
    """
    actions_BA = layout.checked(actions_BA, (self.count, layout.ACTIONS))
    answers = self._ask(_step, actions_BA)
    told = [np.concatenate(x) for x in zip(*(rest for _, rest in answers))]
    return Stepped(joined([seen for seen, _ in answers]), *told)

  def _ask(self, function: Callable[..., Any], *arrays: np.ndarray) -> list[Any]:
    """What each process answers about its share."""
    futures = []
    try:
      for child, part in zip(self._children, self._parts):
        futures.append(child.submit(function, *(array[part] for array in arrays)))
      return [future.result() for future in futures]
    except process.BrokenProcessPool as error:
      raise OSError(
        f"a process with environments of {self.config.task} ({self.config.arm}) died; run the"
        " same command again, with fewer environments if memory was short, or set gl to the"
        " other of egl and osmesa"
      ) from error


def parts(count: int, processes: int) -> list[slice]:
  """Which environments each process has.

  Raises:
    ValueError: no environments, or no processes.
  """
  for name, value in (("count", count), ("processes", processes)):
    if value < 1:
      raise ValueError(f"{name} is {value}; use 1 or more")
  shares = np.array_split(np.arange(count), min(processes, count))
  return [slice(int(s[0]), int(s[-1]) + 1) for s in shares]


def seeds_and_which(
  count: int, seeds: int | Sequence[int] | np.ndarray, which: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """What `Envs.reset` is told, for each environment: int64 [B] and bool [B].

  Raises:
    ValueError: of another length, or a seed below 0.
  """
  seeds_B = np.asarray(seeds, np.int64)
  if not seeds_B.ndim:
    seeds_B = seeds_B + np.arange(count)
  which_B = np.ones(count, bool) if which is None else np.asarray(which, bool)
  for name, array in (("seeds", seeds_B), ("which", which_B)):
    if array.shape != (count,):
      raise ValueError(f"{name} has shape {array.shape}; there are {count} environments")
  if (seeds_B < 0).any():
    raise ValueError(f"a seed is {int(seeds_B.min())}; use 0 or more")
  return seeds_B, which_B


def joined(shares: list[Observation]) -> Observation:
  """Observations of all processes, as one."""
  return {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}


def _begin(config: EnvConfig, count: int, gl: str) -> None:
  """In a child, before anything draws."""
  processes.begin(gl)
  _group[:] = [config, count]


def _environments() -> list[Any]:
  """This child's, made when they are first asked for: what is missing is then told."""
  if isinstance(_group[0], EnvConfig):
    from totojax.world.robots import simulation

    config, count = _group
    if config.image:
      processes.take_gl("")
    stage = simulation.Stage(config)
    _group[:] = [simulation.Simulation(stage) for _ in range(count)]
  return _group


_seen: list[Observation] = []  # of a child: the last of each environment


def _reset(seeds_B: np.ndarray, which_B: np.ndarray) -> Observation:
  made = _environments()
  if not _seen and not which_B.all():
    raise ValueError("the first reset must be of all environments")
  for number, simulation in enumerate(made):
    if which_B[number]:
      simulation.reset(int(seeds_B[number]))
      _seen[number : number + 1] = [simulation.observe()]
  return _stacked()


def _step(actions_BA: np.ndarray) -> tuple[Observation, list[np.ndarray]]:
  made = _environments()
  if not _seen:
    raise ValueError("no episode has begun; call reset first")
  rows = []
  for number, simulation in enumerate(made):
    active = not simulation.episode.is_done
    if active:
      out = simulation.step(actions_BA[number])
      _seen[number] = simulation.observe()
      rows.append((out.reward, out.terminated, out.truncated, out.info["success"], True))
    else:
      ended = simulation.episode.terminated, simulation.episode.truncated
      rows.append((0.0, *ended, simulation.info()["success"], False))
  reward, *flags = zip(*rows)
  return _stacked(), [np.array(reward, np.float32), *(np.array(flag, bool) for flag in flags)]


def _stacked() -> Observation:
  return {name: np.stack([seen[name] for seen in _seen]) for name in _seen[0]}
