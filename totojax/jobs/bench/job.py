"""`run = "bench"`: how fast this machine does what the project needs.

Every row compares two ways to do the same work, measured in turns in this one
process, and is a ratio with its spread; absolute rates stand beside it. Leaves
`bench.json`. A row whose packages are missing is listed as skipped, with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import tempfile
from typing import Any

from etils import epath
from rich import console as rich_console
from rich import table as rich_table

from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.jobs.bench import decoding
from totojax.jobs.bench import encoding
from totojax.jobs.bench import generating
from totojax.jobs.bench import growth
from totojax.jobs.bench import hardware
from totojax.jobs.bench import measure
from totojax.jobs.bench import probing
from totojax.jobs.bench import saving
from totojax.jobs.bench import scanning
from totojax.jobs.bench import startup
from totojax.jobs.bench import storing
from totojax.jobs.bench import sweeping
from totojax.jobs.bench import training
from totojax.rundir import console
from totojax.rundir import directory
from totojax.rundir import files

FILE = "bench.json"
FILE_COLUMNS = 140  # of the table where there is no terminal
ROWS = (
    "decode", "dvae_encode", "store_write", "store_read", "train_step",
    "decode_tokens", "probe", "sweep", "checkpoint", "startup", "growth",
    "mamba_scan",
)  # fmt: skip

Result = measure.Row | measure.Skipped


@dataclasses.dataclass(frozen=True)
class Bench:
  """What is measured, and how often.

  Attributes:
    rows: of `ROWS`, in the order in which they are measured; () for all.
    rounds: as `measure.How`.
    rest_s: as `measure.How`.
  """

  rows: tuple[str, ...]
  rounds: int
  rest_s: float

  def __post_init__(self):
    unknown = [row for row in self.rows if row not in ROWS]
    if unknown:
      raise ValueError(
          f"bench.rows has {', '.join(unknown)}; the rows are"
          f" {', '.join(ROWS)}"
      )


def run(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Measures the rows; False when it was interrupted between two of them.

  Begins anew each time: halves of a table would come from different hours.

  Raises:
    ConfigError: an unknown row, or a size that does not fit.
  """
  chosen = typed(Bench, config["bench"], "bench")
  how = measure.How(rounds=chosen.rounds, rest_s=chosen.rest_s)
  names = chosen.rows or ROWS
  begin = {name: _row(name, config, how) for name in names}
  directory.begin(workdir, config)
  found, results, before = hardware.describe(), [], hardware.load()
  with console.tracking("measuring", unit="rows", total=len(names)) as bar:
    for number, name in enumerate(names):
      if interrupted(number):
        return False
      with tempfile.TemporaryDirectory(prefix="totojax-bench-") as folder:
        results += _measured(name, begin[name], pathlib.Path(folder))
      bar.advance(note=name)
  files.write_json(
      workdir / FILE,
      {
          "hardware": found,
          "load": {"before": before, "after": hardware.load()},
          "rounds": chosen.rounds,
          "rows": [measure.as_json(result) for result in results],
      },
  )
  show(results, hardware.sentence(found), rounds=chosen.rounds)
  return True


def _row(
    name: str, config: Mapping[str, Any], how: measure.How
) -> Callable[[pathlib.Path], Iterator[Result]]:
  """Folder to write in -> the row's cases, once its settings are checked."""

  def section(cls: type, key: str) -> Any:
    return typed(cls, config[key], key)

  seed = config["seed"]
  match name:
    case "decode":
      decode = section(decoding.DecodeBench, "decode")
      return lambda folder: decoding.measure_decode(
          decode, how=how, folder=folder, seed=seed
      )
    case "dvae_encode":
      encode = section(encoding.DvaeEncodeBench, "dvae_encode")
      return lambda folder: encoding.measure_dvae_encode(
          encode, how=how, seed=seed
      )
    case "store_write":
      write = section(storing.StoreBench, "store")
      return lambda folder: storing.measure_store_write(
          write, how=how, folder=folder, seed=seed
      )
    case "store_read":
      read = section(storing.StoreBench, "store")
      return lambda folder: storing.measure_store_read(
          read, how=how, folder=folder, seed=seed
      )
    case "train_step":
      train = section(training.TrainStepBench, "train_step")
      return lambda folder: training.measure_train_step(train, how=how)
    case "decode_tokens":
      made = section(generating.DecodeTokensBench, "decode_tokens")
      return lambda folder: generating.measure_decode_tokens(
          made, how=how, seed=seed
      )
    case "probe":
      probed = section(probing.ProbeBench, "probe")
      return lambda folder: probing.measure_probe(probed, how=how)
    case "sweep":
      swept = section(sweeping.SweepBench, "sweep")
      return lambda folder: sweeping.measure_sweep(swept, how=how)
    case "checkpoint":
      save = section(saving.CheckpointBench, "checkpoint")
      return lambda folder: saving.measure_checkpoint(
          save, how=how, folder=folder
      )
    case "startup":
      start = section(startup.StartupBench, "startup")
      return lambda folder: startup.measure_startup(
          start, how=how, folder=folder
      )
    case "growth":
      grow = section(growth.GrowthBench, "growth")
      return lambda folder: growth.measure_growth(grow, how=how)
    case "mamba_scan":
      scan = section(scanning.MambaScanBench, "mamba_scan")
      return lambda folder: scanning.measure_mamba_scan(
          scan, how=how, seed=seed
      )
  raise ConfigError(f"row {name!r} is unknown")


def _measured(
    name: str,
    cases: Callable[[pathlib.Path], Iterator[Result]],
    folder: pathlib.Path,
) -> list[Result]:
  """The cases of one row; what a missing package leaves out is named."""
  results = []
  try:
    for result in cases(folder):
      results.append(result)
  except ImportError as reason:
    results.append(measure.Skipped(name, "", str(reason)))
  return results


def show(results: Sequence[Result], where: str, *, rounds: int) -> None:
  """Prints the table, and below it what each row compares."""
  table = rich_table.Table(
      title=(
          f"ours over theirs, median of {rounds} rounds (least to most): above"
          f" 1, ours is faster. {where}"
      ),
      show_lines=True,
  )
  for column in ("row", "ratio", "per CPU-second", "ours", "theirs", "goal"):
    table.add_column(column, overflow="fold")
  notes = []
  for number, result in enumerate(results, 1):
    name = f"{number}. {result.row}\n{result.case}".strip()
    if isinstance(result, measure.Skipped):
      table.add_row(name, "skipped", "", "", "", "")
      notes.append(f"{number}. {result.row}: skipped: {result.reason}")
      continue
    measured = result.measured
    table.add_row(
        name,
        _spread(measured.ratio),
        _spread(measured.cpu_ratio),
        _rate(measured.ours, result.unit),
        _rate(measured.theirs, result.unit),
        "\n".join(_told(goal) for goal in result.goals),
    )
    notes.append(
        f"{number}. {result.row}: {result.compares}: {result.ours}; against"
        f" {result.theirs}"
    )
  console = rich_console.Console()
  if not console.is_terminal:
    console = rich_console.Console(width=FILE_COLUMNS)
  console.print(table)
  for note in notes:
    console.print(note, markup=False, highlight=False)


def _told(goal: measure.Goal) -> str:
  met = "met" if goal.value >= goal.least else "missed"
  return f"{met}: {goal.value:.3g} {goal.what}; at least {goal.least:g}"


def _spread(values: measure.Spread) -> str:
  return f"{values.median:.3g}\n({values.low:.3g} to {values.high:.3g})"


def _rate(readings: Sequence[measure.Reading], unit: str) -> str:
  rate = measure.spread([r.per_s for r in readings]).median
  wall_s = measure.spread([r.used.wall_s for r in readings]).median
  cpu_s = measure.spread([r.used.cpu_s for r in readings]).median
  return f"{rate:.4g} {unit}/s\n{wall_s:.3g} s, {cpu_s:.3g} CPU-s"
