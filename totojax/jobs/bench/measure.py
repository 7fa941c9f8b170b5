"""Two ways to do the same work, measured in turns: A B A B ...

A machine that is shared, or that changes its clock, slows both sides of a round
alike, so a row is the median of the rounds' ratios and not the ratio of two
medians. CPU-seconds stand beside wall time: they tell a side that is quicker
from one that only uses more cores, and they mind other programs less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import resource
import statistics
import time
from typing import Any

from totojax.config.bench import How

LEAST_S = 1e-6  # resolution of the clocks: nothing takes no time


@dataclasses.dataclass(frozen=True)
class Side:
  """One of the two.

  Attributes:
    what: it is, in words.
    run: does the work and returns how many units of it.
    after: cleans up, outside of the time.
  """

  what: str
  run: Callable[[], float]
  after: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Usage:
  """A reading of the clocks, or the difference of two."""

  wall_s: float
  cpu_s: float


@dataclasses.dataclass(frozen=True)
class Reading:
  """One run of one side."""

  units: float
  used: Usage

  @property
  def per_s(self) -> float:
    return self.units / self.used.wall_s

  @property
  def per_cpu_s(self) -> float:
    return self.units / self.used.cpu_s


@dataclasses.dataclass(frozen=True)
class Spread:
  """Of the values of all rounds: median, least and most."""

  median: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Readings of both sides, round by round."""

  ours: tuple[Reading, ...]
  theirs: tuple[Reading, ...]

  @property
  def ratio(self) -> Spread:
    """Our units per second over theirs: above 1, ours is faster."""
    return spread([a.per_s / b.per_s for a, b in self._rounds()])

  @property
  def cpu_ratio(self) -> Spread:
    """The same per CPU-second: above 1, ours does with less."""
    return spread([a.per_cpu_s / b.per_cpu_s for a, b in self._rounds()])

  def _rounds(self) -> list[tuple[Reading, Reading]]:
    return list(zip(self.ours, self.theirs))


@dataclasses.dataclass(frozen=True)
class Goal:
  """A number and what it should reach."""

  what: str
  value: float
  least: float


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    row: its kind, one of the job's rows.
    case: which of its cases; "" where there is one.
    compares: what is compared, in words.
    unit: of work.
    ours: what our side is.
    theirs: what the other side is.
    measured: the readings.
    goals: what is asked of it; may be empty.
    facts: sizes and whatever else explains the numbers, as plain values.
  """

  row: str
  case: str
  compares: str
  unit: str
  ours: str
  theirs: str
  measured: Comparison
  goals: tuple[Goal, ...]
  facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A row, or a case of one, that was not measured, and why."""

  row: str
  case: str
  reason: str


def usage() -> Usage:
  """Wall time, and CPU time of this process and of children that ended."""
  cpu_s = 0.0
  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    used = resource.getrusage(who)
    cpu_s += used.ru_utime + used.ru_stime
  return Usage(time.perf_counter(), cpu_s)


def nothing() -> None:
  """A `Side.after` with nothing to clean up."""


def compare(
  ours: Side, theirs: Side, *, how: How, clock: Callable[[], Usage] = usage
) -> Comparison:
  """Runs both sides in turns, ours first; the first turn warms up.

  Raises:
    ValueError: a side did no work.
  """
  found = {ours: [], theirs: []}
  for turn in range(how.rounds + 1):
    for side in (ours, theirs):
      time.sleep(how.rest_s)
      reading = _read(side, clock)
      if turn:
        found[side].append(reading)
  return Comparison(tuple(found[ours]), tuple(found[theirs]))


def _read(side: Side, clock: Callable[[], Usage]) -> Reading:
  before = clock()
  units = side.run()
  after = clock()
  side.after()
  if not units > 0:
    raise ValueError(f"{side.what} did {units} units of work; nothing to rate")
  return Reading(
    units=units,
    used=Usage(
      max(after.wall_s - before.wall_s, LEAST_S), max(after.cpu_s - before.cpu_s, LEAST_S)
    ),
  )


def spread(values: Sequence[float]) -> Spread:
  return Spread(statistics.median(values), min(values), max(values))


def as_json(row: Row | Skipped) -> dict[str, Any]:
  """Plain values; a row that was skipped has the key `skipped`."""
  if isinstance(row, Skipped):
    return {"row": row.row, "case": row.case, "skipped": row.reason}
  return {
    "row": row.row,
    "case": row.case,
    "compares": row.compares,
    "unit": row.unit,
    "ratio": dataclasses.asdict(row.measured.ratio),
    "cpu_ratio": dataclasses.asdict(row.measured.cpu_ratio),
    "ours": _side(row.ours, row.measured.ours),
    "theirs": _side(row.theirs, row.measured.theirs),
    "goals": [{**dataclasses.asdict(goal), "met": goal.value >= goal.least} for goal in row.goals],
    "facts": dict(row.facts),
  }


def _side(what: str, readings: Sequence[Reading]) -> dict[str, Any]:
  return {
    "what": what,
    "per_s": dataclasses.asdict(spread([r.per_s for r in readings])),
    "per_cpu_s": dataclasses.asdict(spread([r.per_cpu_s for r in readings])),
    "units": [r.units for r in readings],
    "wall_s": [r.used.wall_s for r in readings],
    "cpu_s": [r.used.cpu_s for r in readings],
  }
