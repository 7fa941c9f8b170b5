"""Roll-outs of policies and experts in a batch of environments.

Shapes: E environments, N steps, H and W pixels, D width of features, P numbers felt,
S of a state, A of an action.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Protocol

import numpy as np

from totojax.jobs.robots import training


@dataclasses.dataclass(frozen=True)
class Seen:
  """What is known in all environments at a time."""

  felt_EP: np.ndarray  # of the robot itself
  state_ES: np.ndarray  # where everything is
  image_EHW3: np.ndarray | None  # None where nothing is drawn


class Worlds(Protocol):
  """A batch of environments whose episodes begin together."""

  count: int  # of environments
  actions: int  # numbers of an action
  felt: int
  states: int
  steps: int  # of an episode, at most

  def begin(self, seeds: Sequence[int], *, drawn: bool) -> Seen:
    """Episodes of these seeds, one an environment; `drawn`: whether frames are needed."""
    ...

  def do(self, action_EA: np.ndarray) -> tuple[Seen, np.ndarray, np.ndarray]:
    """(what is seen then, bool [E] episodes that have ended, those that have succeeded)."""
    ...

  def expert(self, seen: Seen) -> np.ndarray:
    """float32 [E, A]: what the expert would do."""
    ...


@dataclasses.dataclass(frozen=True)
class Episode:
  """What came of an episode."""

  seed: int
  steps: training.Steps  # what was seen, and what the expert would have done
  done_NA: np.ndarray  # what was done
  state_NS: np.ndarray
  succeeded: bool
  frames_NHW3: np.ndarray | None  # where they are kept


See = Callable[[Seen], np.ndarray]  # -> features [E, D]
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # features, felt -> actions [E, A]


def roll(
  worlds: Worlds,
  seeds: Sequence[int],
  see: See,
  act: Act | None,
  *,
  beta: float = 0.0,
  noise: float = 0.0,
  drawn: bool,
  keep_frames: int = 0,
  labelled: bool = True,
) -> Iterator[Episode]:
  """Episodes of these seeds, as many at a time as there are environments.

  An episode depends on its seed and on what acts alone, not on those beside it.

  Args:
    worlds: where.
    seeds: of the episodes.
    see: what features are made of; called once a step, for all environments.
    act: the policy; None: the expert acts.
    beta: share of steps in which the expert acts, drawn step by step.
    noise: standard deviation that is added to what is done.
    drawn: whether frames are needed.
    keep_frames: first episodes whose frames are kept.
    labelled: whether the expert is asked in every step.
  """
  for first in range(0, len(seeds), worlds.count):
    some = list(seeds[first : first + worlds.count])
    kept = min(max(keep_frames - first, 0), len(some))
    # What is missing is the last one again, of which nothing is kept.
    whole = some + some[-1:] * (worlds.count - len(some))
    yield from _together(
      worlds,
      whole,
      see,
      act,
      beta=beta,
      noise=noise,
      drawn=drawn or kept > 0,
      kept=kept,
      labelled=labelled or act is None or beta > 0,
      count=len(some),
    )


def _together(
  worlds: Worlds,
  seeds: list[int],
  see: See,
  act: Act | None,
  *,
  beta: float,
  noise: float,
  drawn: bool,
  kept: int,
  labelled: bool,
  count: int,
) -> list[Episode]:
  rngs = [np.random.default_rng([seed, 0x7261]) for seed in seeds]
  seen = worlds.begin(seeds, drawn=drawn)
  going_E = np.ones(len(seeds), bool)
  won_E = np.zeros(len(seeds), bool)
  log: list[tuple[np.ndarray, ...]] = []
  frames: list[list[np.ndarray]] = [[] for _ in range(kept)]
  for _ in range(worlds.steps):
    features_ED = see(seen)
    label_EA = worlds.expert(seen) if labelled else None
    if act is None:
      done_EA = np.array(label_EA)
    else:
      done_EA = act(features_ED, seen.felt_EP)
      if beta > 0 and label_EA is not None:
        experts_E = np.array([rng.random() < beta for rng in rngs])
        done_EA = np.where(experts_E[:, None], label_EA, done_EA)
    if noise:
      done_EA = done_EA + noise * np.stack([rng.normal(size=worlds.actions) for rng in rngs])
    done_EA = done_EA.astype(np.float32)
    asked_EA = done_EA if label_EA is None else label_EA
    log.append((going_E, features_ED, seen.felt_EP, asked_EA, done_EA, seen.state_ES))
    for number, mine in enumerate(frames):
      if going_E[number] and seen.image_EHW3 is not None:
        mine.append(seen.image_EHW3[number])
    seen, ended_E, success_E = worlds.do(done_EA)
    won_E = won_E | (success_E & going_E)
    going_E = going_E & ~ended_E
    if not going_E[:count].any():
      break
  columns = [np.stack(column) for column in zip(*log)]
  return [
    _episode(seeds[e], e, columns, bool(won_E[e]), frames[e] if e < kept else None)
    for e in range(count)
  ]


def _episode(
  seed: int, e: int, columns: list[np.ndarray], won: bool, frames: list[np.ndarray] | None
) -> Episode:
  going_N, features, felt, asked, done, state = (column[:, e] for column in columns)
  features, felt, asked, done, state = (
    np.asarray(one[going_N], np.float32) for one in (features, felt, asked, done, state)
  )
  steps = training.Steps(features, felt, asked)
  return Episode(seed, steps, done, state, won, np.stack(frames) if frames else None)
