"""Two ways to do the same work, measured in turns: A B A B ...

A machine that is shared, or that changes its clock, slows both sides of a round
alike, so a row is the median of the rounds' ratios and not the ratio of two
medians. CPU-seconds stand beside wall time: they tell a side that is quicker
from one that only uses more cores, and they mind other programs less.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
import resource
import statistics
import time
from typing import Any

from totojax.config.bench import How

LEAST_S = 1e-6  # resolution of the clocks: nothing takes no time


def nothing() -> None:
  """A `Side.after` with nothing to clean up."""


@dataclasses.dataclass(frozen=True)
class Side:
  """One of the two."""

  what: str  # it is, in words
  run: Callable[[], Any]  # does the work and returns what came of it
  units: float | None = None  # of work; None: it is their number that `run` returns
  after: Callable[[], None] = nothing  # cleans up, outside of the time


@dataclasses.dataclass(frozen=True)
class Usage:
  """A reading of the clocks, or the difference of two."""

  wall_s: float
  cpu_s: float


@dataclasses.dataclass(frozen=True)
class Timing:
  """One run of one side."""

  units: float
  usage: Usage

  @property
  def per_s(self) -> float:
    return self.units / self.usage.wall_s

  @property
  def per_cpu_s(self) -> float:
    return self.units / self.usage.cpu_s


@dataclasses.dataclass(frozen=True)
class Spread:
  """Of the values of all rounds: median, least and most."""

  median: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Rounds:
  """Readings of both sides, round by round."""

  ours: tuple[Timing, ...]  # of our side
  theirs: tuple[Timing, ...]  # of the other
  warmup: tuple[Any, ...] = ()  # what came of the turns that warmed up, ours and theirs

  @property
  def ratio(self) -> Spread:
    """Our units per second over theirs: above 1, ours is faster."""
    return spread([a.per_s / b.per_s for a, b in zip(self.ours, self.theirs)])

  @property
  def cpu_ratio(self) -> Spread:
    """The same per CPU-second: above 1, ours does with less."""
    return spread([a.per_cpu_s / b.per_cpu_s for a, b in zip(self.ours, self.theirs)])


@dataclasses.dataclass(frozen=True)
class Goal:
  """A number and what it should reach."""

  what: str
  value: float
  least: float

  @property
  def met(self) -> bool:
    return self.value >= self.least


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One line of the table."""

  row: str  # its kind, one of the job's rows
  case: str  # which of its cases; "" where there is one
  compares: str  # what is compared, in words
  unit: str  # of work
  ours: str  # what our side is
  theirs: str  # what the other side is
  rounds: Rounds  # the readings
  goals: tuple[Goal, ...]  # what is asked of it; may be empty
  facts: Mapping[str, Any]  # sizes and whatever else explains the numbers, as plain values
  told: str = ""  # of them, what is printed below the table


@dataclasses.dataclass(frozen=True)
class Unmeasured:
  """A row, or a case of one, that was not measured, and why."""

  row: str
  case: str
  reason: str


Result = Measurement | Unmeasured


@dataclasses.dataclass(frozen=True)
class Harness:
  """What a row is measured with."""

  row: str  # its kind
  how: How  # everything is measured
  seed: int  # of random batches
  folder: pathlib.Path  # to write in; empty, and removed after the row

  def compare(
    self,
    ours: Side,
    theirs: Side,
    *,
    case: str,
    compares: str,
    unit: str,
    goals: Callable[[Rounds], Sequence[Goal]] = lambda rounds: (),
    facts: Callable[[Rounds], Mapping[str, Any]] = lambda rounds: {},
    told: Callable[[Mapping[str, Any]], str] = lambda facts: "",
  ) -> Measurement:
    """Measures one case; `goals` and `facts` are of what was measured, `told` of the facts."""
    rounds = compare(ours, theirs, how=self.how)
    found = facts(rounds)
    return Measurement(
      row=self.row,
      case=case,
      compares=compares,
      unit=unit,
      ours=ours.what,
      theirs=theirs.what,
      rounds=rounds,
      goals=tuple(goals(rounds)),
      facts=found,
      told=told(found),
    )

  def skipped(self, case: str, reason: object) -> Unmeasured:
    return Unmeasured(self.row, case, str(reason))


def level(what: str) -> Callable[[Rounds], Sequence[Goal]]:
  """The goal to be as fast: `what` says in which unit."""
  return lambda rounds: [Goal(what, rounds.ratio.median, 1.0)]


def usage() -> Usage:
  """Wall time, and CPU time of this process and of children that ended."""
  cpu_s = 0.0
  for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    usage = resource.getrusage(who)
    cpu_s += usage.ru_utime + usage.ru_stime
  return Usage(time.perf_counter(), cpu_s)


def compare(ours: Side, theirs: Side, *, how: How, clock: Callable[[], Usage] = usage) -> Rounds:
  """Runs both sides in turns, ours first; the first turn warms up.

  Raises:
    ValueError: a side did no work.
  """
  warmup, our_readings, their_readings = [], [], []
  for turn in range(how.rounds + 1):
    for side, own in ((ours, our_readings), (theirs, their_readings)):
      time.sleep(how.rest_s)
      reading, outcome = _read(side, clock)
      if turn:
        own.append(reading)
      else:
        warmup.append(outcome)
  return Rounds(tuple(our_readings), tuple(their_readings), tuple(warmup))


def _read(side: Side, clock: Callable[[], Usage]) -> tuple[Timing, Any]:
  before = clock()
  outcome = side.run()
  after = clock()
  side.after()
  units = float(outcome if side.units is None else side.units)
  if not units > 0:
    raise ValueError(f"{side.what} did {units} units of work; nothing to rate")
  wall_s, cpu_s = after.wall_s - before.wall_s, after.cpu_s - before.cpu_s
  return Timing(units, Usage(max(wall_s, LEAST_S), max(cpu_s, LEAST_S))), outcome


def spread(values: Sequence[float]) -> Spread:
  return Spread(statistics.median(values), min(values), max(values))


def as_json(row: Result) -> dict[str, Any]:
  """Plain values; a row that was skipped has the key `skipped`."""
  if isinstance(row, Unmeasured):
    return {"row": row.row, "case": row.case, "skipped": row.reason}
  return {
    "row": row.row,
    "case": row.case,
    "compares": row.compares,
    "unit": row.unit,
    "ratio": dataclasses.asdict(row.rounds.ratio),
    "cpu_ratio": dataclasses.asdict(row.rounds.cpu_ratio),
    "ours": _side(row.ours, row.rounds.ours),
    "theirs": _side(row.theirs, row.rounds.theirs),
    "goals": [{**dataclasses.asdict(goal), "met": goal.met} for goal in row.goals],
    "facts": dict(row.facts),
  }


def _side(what: str, readings: Sequence[Timing]) -> dict[str, Any]:
  return {
    "what": what,
    "per_s": dataclasses.asdict(spread([r.per_s for r in readings])),
    "per_cpu_s": dataclasses.asdict(spread([r.per_cpu_s for r in readings])),
    "units": [r.units for r in readings],
    "wall_s": [r.usage.wall_s for r in readings],
    "cpu_s": [r.usage.cpu_s for r in readings],
  }
