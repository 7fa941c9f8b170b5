"""robosuite's environments, stepped in Pythons of their own.

robosuite wants an older MuJoCo and pins that do not go with jax, so an interpreter
that has both is named, and `suite_worker` runs in it. `Envs` is `envs.Envs` over
again; `env.Env` is one of them. Success and lengths of episodes are counted here.

Shapes: B environments.
"""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from totojax.config.robot_envs import EnvConfig
from totojax.world import processes as gl_lib
from totojax.world.robots import envs, layout, simulation, suite_worker

VARIABLE = "TOTOJAX_ROBOSUITE_PYTHON"
_KEYS = ("task", "arm", "image", "wrist", "size_px", "rate_hz")  # that a worker is told
_END_S = 5.0  # that a worker may take to end, before it is made to


def interpreter(python: str = "") -> str:
  """The Python that has robosuite: as named, or VARIABLE's, or the one that runs."""
  return python or os.environ.get(VARIABLE, "") or sys.executable


class Envs(envs.Envs):
  """A context manager, which ends the processes; nothing of the other's processes is used."""

  def __init__(
    self, config: EnvConfig, count: int, *, processes: int = 1, gl: str = "", python: str = ""
  ):
    """Starts the processes when they are first asked.

    Args:
      config: of every environment; their seeds differ.
      count: environments.
      processes: that they are spread over; no more than environments are started.
      gl: "egl" or "osmesa"; "": MUJOCO_GL if it is set, else the first that is found.
      python: as of `interpreter`.

    Raises:
      ValueError: no environments, or no processes.
    """
    self.config, self.count = config, count
    self._parts = envs.parts(count, processes)
    self.action_space, self.observation_space = layout.spaces(config)
    self.episodes = [simulation.Episode() for _ in range(count)]
    self._python, self._gl = interpreter(python), gl
    self._workers: list[_Worker] = []

  def close(self) -> None:
    """Ends the processes."""
    for worker in self._workers:
      worker.close()
    self._workers = []

  def reset(
    self, seeds: int | Sequence[int] | np.ndarray, which: np.ndarray | None = None
  ) -> envs.Observation:
    """As `envs.Envs.reset`.

    Raises:
      ImportError: robosuite, or what it needs, is missing from that Python.
      OSError: that Python cannot be started, or a process died.
      ValueError: as there.
    """
    seeds_B, which_B = envs.seeds_and_which(self.count, seeds, which)
    if not self._workers and not which_B.all():
      raise ValueError("the first reset must be of all environments")
    seen = self._ask("reset", seed=seeds_B, which=which_B)
    for number in np.flatnonzero(which_B):
      self.episodes[number] = simulation.Episode(is_done=False)
    return seen

  def step(self, actions_BA: np.ndarray) -> envs.Stepped:
    """As `envs.Envs.step`, with actions float [B, 7] (`layout`)."""
    actions_BA = layout.checked(actions_BA, (self.count, *self.action_space.shape))
    if not self._workers:
      raise ValueError("no episode has begun; call reset first")
    active_B = np.array([not one.is_done for one in self.episodes])
    seen = self._ask("step", action=actions_BA, which=active_B)
    reward_B, in_region_B = seen.pop("reward"), seen.pop("in_region")
    rows = []
    for number, episode in enumerate(self.episodes):
      if active_B[number]:
        episode.advance(self.config, in_region=bool(in_region_B[number]))
      rows.append((episode.terminated, episode.truncated, episode.succeeded(self.config)))
    terminated_B, truncated_B, success_B = np.array(rows, bool).T
    return envs.Stepped(seen, reward_B, terminated_B, truncated_B, success_B, active_B)

  def _ask(self, what: str, **arrays_B: np.ndarray) -> envs.Observation:
    """What all answer together; each is asked about its share, all at a time."""
    if not self._workers:
      self._start()
    try:
      for worker, part in zip(self._workers, self._parts):
        worker.ask(what, {name: array[part] for name, array in arrays_B.items()})
      answers = [worker.answer() for worker in self._workers]
    except BaseException:
      self.close()  # an answer that nobody took would be the next one's
      raise
    return envs.joined(answers)

  def _start(self) -> None:
    told = {name: getattr(self.config, name) for name in _KEYS}
    try:
      for part in self._parts:
        worker = _Worker(self._python, self._gl if self.config.image else "disabled")
        self._workers.append(worker)
        worker.ask("begin", {}, **told, count=part.stop - part.start)
      for worker in self._workers:
        worker.answer()
    except BaseException:
      self.close()
      raise


class _Worker:
  """A process with `suite_worker`."""

  def __init__(self, python: str, gl: str):
    """Raises OSError: it cannot be started."""
    self.python = python
    environment = {**os.environ, "MUJOCO_GL": gl_lib.backend(gl), "LP_NUM_THREADS": "0"}
    # As many processes as are wanted are there already.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if python != sys.executable:  # which this Python's packages are not for
      environment = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    self._told = tempfile.TemporaryFile()
    try:
      self._process = subprocess.Popen(
        [python, str(pathlib.Path(suite_worker.__file__).resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._told,
        env=environment,
      )
    except OSError as error:
      self._told.close()
      raise OSError(
        f"the Python {python} cannot be started ({error.strerror}); worlds.python or {VARIABLE}"
        f" names one with robosuite: {suite_worker.COMMANDS}"
      ) from error

  def ask(self, what: str, arrays: dict[str, np.ndarray], **more: Any) -> None:
    """Sends a request; an answer must be taken before the next."""
    assert self._process.stdin is not None
    try:
      suite_worker.send(self._process.stdin, {"ask": what, **more}, arrays)
    except OSError as error:
      raise self._died() from error

  def answer(self) -> dict[str, np.ndarray]:
    """The arrays of an answer.

    Raises:
      ImportError: something is missing there.
      ValueError: what was asked for cannot be done.
      OSError: the process died.
    """
    assert self._process.stdout is not None
    try:
      head, arrays = suite_worker.receive(self._process.stdout)
    except (EOFError, OSError, ValueError) as error:
      raise self._died() from error
    if head["error"]:
      raise {"import": ImportError}.get(head["kind"], ValueError)(head["error"])
    return arrays

  def _died(self) -> OSError:
    self._process.kill()
    code = self._process.wait()
    self._told.seek(0)
    lines = self._told.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return OSError(
      f"a process with environments of robosuite died (exit code {code}; {last[:300]}); run the"
      f" same command again, with fewer environments if memory was short, or look at the Python"
      f" {self.python}: {suite_worker.COMMANDS}"
    )

  def close(self) -> None:
    """Ends the process: its input does, and if that is not enough it is killed."""
    for stream in (self._process.stdin, self._process.stdout):
      assert stream is not None
      try:
        stream.close()
      except OSError:
        pass  # half of a request was not taken
    try:
      self._process.wait(_END_S)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._told.close()


class Simulation:
  """One environment of a process of its own, as `simulation.Simulation` is one of this."""

  def __init__(self, config: EnvConfig, gl: str = "", python: str = ""):
    self._envs = Envs(config, 1, gl=gl, python=python)
    self._seen: envs.Observation = {}

  @property
  def episode(self) -> simulation.Episode:
    return self._envs.episodes[0]

  def reset(self, seed: int) -> None:
    self._seen = self._envs.reset(seed)

  def step(self, action: np.ndarray) -> simulation.Outcome:
    out = self._envs.step(action[None])
    self._seen, episode = out.observation, self.episode
    reward = float(out.reward_B[0])
    return simulation.Outcome(reward, episode.terminated, episode.truncated, self.info())

  def observe(self) -> envs.Observation:
    return {name: array[0] for name, array in self._seen.items()}

  def info(self) -> dict[str, Any]:
    return self.episode.info(self._envs.config)

  def close(self) -> None:
    self._envs.close()
