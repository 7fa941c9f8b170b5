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

from etils import epath
from rich import console as rich_console
from rich import table as rich_table

from totojax import jobs
from totojax.config import bench
from totojax.jobs.bench import (
  decoding,
  encoding,
  generating,
  growth,
  hardware,
  measure,
  probing,
  saving,
  scanning,
  startup,
  storing,
  sweeping,
  training,
)
from totojax.rundir import console, directory, files

FILE = "bench.json"
FILE_COLUMNS = 140  # of the table where there is no terminal

Result = measure.Row | measure.Skipped


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a row is measured.

  Attributes:
    measure: (section, how=, what it needs) -> the row's cases.
    section: of the config.
    needs: what else it is given: "folder" to write in, "seed".
  """

  measure: Callable[..., Iterator[Result]]
  section: str
  needs: tuple[str, ...] = ()


ROWS: Mapping[str, Kind] = {
  "decode": Kind(decoding.measure_decode, "decode", ("folder", "seed")),
  "dvae_encode": Kind(encoding.measure_dvae_encode, "dvae_encode", ("seed",)),
  "store_write": Kind(storing.measure_store_write, "store", ("folder", "seed")),
  "store_read": Kind(storing.measure_store_read, "store", ("folder", "seed")),
  "train_step": Kind(training.measure_train_step, "train_step"),
  "decode_tokens": Kind(generating.measure_decode_tokens, "decode_tokens", ("seed",)),
  "probe": Kind(probing.measure_probe, "probe"),
  "sweep": Kind(sweeping.measure_sweep, "sweep"),
  "checkpoint": Kind(saving.measure_checkpoint, "checkpoint", ("folder",)),
  "startup": Kind(startup.measure_startup, "startup", ("folder",)),
  "growth": Kind(growth.measure_growth, "growth"),
  "mamba_scan": Kind(scanning.measure_mamba_scan, "mamba_scan", ("seed",)),
}


def run(config: bench.BenchJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Measures the rows; False when it was interrupted between two of them.

  Begins anew each time: halves of a table would come from different hours.

  Raises:
    ConfigError: a size does not fit.
  """
  names = config.bench.rows or tuple(ROWS)
  directory.begin(workdir, config)
  found, results, before = hardware.describe(), [], hardware.load()
  with console.tracking("measuring", unit="rows", total=len(names)) as bar:
    for number, name in enumerate(names):
      if interrupted(number):
        return False
      with tempfile.TemporaryDirectory(prefix="totojax-bench-") as folder:
        results += _measured(name, config, pathlib.Path(folder))
      bar.advance(note=name)
  files.write_json(
    workdir / FILE,
    {
      "hardware": found,
      "load": {"before": before, "after": hardware.load()},
      "rounds": config.bench.rounds,
      "rows": [measure.as_json(result) for result in results],
    },
  )
  show(results, hardware.sentence(found), rounds=config.bench.rounds)
  return True


def _measured(name: str, config: bench.BenchJob, folder: pathlib.Path) -> list[Result]:
  """The cases of one row; what a missing package leaves out is named."""
  kind, results = ROWS[name], []
  given = {"folder": folder, "seed": config.seed}
  try:
    for result in kind.measure(
      getattr(config, kind.section), how=config.bench, **{need: given[need] for need in kind.needs}
    ):
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
      f"{number}. {result.row}: {result.compares}: {result.ours}; against {result.theirs}"
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
