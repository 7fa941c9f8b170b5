"""The robots' environments as roll-outs want them.

There are two batches of them, of which one draws: what needs no frames is not kept
waiting for any. Each is started when it is first asked for.

Shapes: E environments, A numbers of an action.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
from typing import Any

import numpy as np

from totojax.config.policies import Worlds
from totojax.config.robot_envs import EnvConfig
from totojax.data.pixels import workers
from totojax.jobs.robots import rollouts
from totojax.rundir import console


@contextlib.contextmanager
def opened(config: EnvConfig, settings: Worlds) -> Iterator[rollouts.Worlds]:
  """Environments, until the block ends.

  Raises:
    ImportError: MuJoCo, robosuite or OpenGL is missing; says what to install.
    OSError: a process died.
  """
  with contextlib.ExitStack() as stack:
    yield _Batch(config, settings, stack)


class _Batch:
  """Environments of a config; `rollouts.Worlds`."""

  def __init__(self, config: EnvConfig, settings: Worlds, stack: contextlib.ExitStack):
    from totojax.world.robots import experts, layout

    self.count, self.steps = settings.count, config.steps
    self.actions, self.felt, self.states = layout.actions(config), layout.PROPRIO, layout.STATE
    self._config, self._settings, self._stack = config, settings, stack
    self._act: Callable[[np.ndarray, np.ndarray], np.ndarray] = experts.expert(config)
    self._made, self._drawn = {}, False

  def begin(self, seeds: Sequence[int], *, drawn: bool) -> rollouts.Seen:
    self._drawn = drawn
    with console.phase(f"environments of {self._config.task} begin"):  # robosuite's take 10 s
      return _seen(self._envs.reset(np.array(seeds, np.int64)))

  def do(self, action_EA: np.ndarray) -> tuple[rollouts.Seen, np.ndarray, np.ndarray]:
    out = self._envs.step(action_EA)
    return _seen(out.observation), out.terminated_B | out.truncated_B, out.success_B

  def expert(self, seen: rollouts.Seen) -> np.ndarray:
    return self._act(seen.state_ES, seen.felt_EP)

  @property
  def _envs(self) -> Any:
    """Those that are asked now."""
    from totojax.world.robots import envs, suite

    if self._drawn not in self._made:
      config, settings = self._config, self._settings
      if not self._drawn:
        config = dataclasses.replace(config, image=False, wrist=False)
      more: dict[str, Any] = {"processes": workers.processes(settings.processes), "gl": settings.gl}
      if config.simulator == "robosuite":
        made = suite.Envs(config, self.count, python=settings.python, **more)
      else:
        made = envs.Envs(config, self.count, **more)
      self._made[self._drawn] = self._stack.enter_context(made)
    return self._made[self._drawn]


def _seen(observation: dict[str, np.ndarray]) -> rollouts.Seen:
  return rollouts.Seen(observation["proprio"], observation["state"], observation.get("image"))
