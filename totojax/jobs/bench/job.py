"""`run = "bench"`: how fast this machine does what the project needs.

Every row compares two ways to do the same work, measured in turns in this one
process, and is a ratio with its spread; absolute rates stand beside it. Leaves
`bench.json`. A row whose packages are missing is listed as skipped, with the
reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
import tempfile
from typing import Any

from etils import epath
from rich import console as rich_console, table as rich_table

from totojax import jobs
from totojax.config import bench
from totojax.jobs.bench import (
  acting,
  decoding,
  encoding,
  generating,
  growth,
  hardware,
  measure,
  probing,
  propagating,
  rendering,
  saving,
  scanning,
  serving,
  startup,
  storing,
  sweeping,
  tokenizing,
  training,
)
from totojax.rundir import console, directory, files

FILE = "bench.json"
FILE_COLUMNS = 140  # of the table where there is no terminal

# Row -> (its section of the config, what it is measured with) -> its cases.
ROWS: Mapping[str, Callable[[Any, measure.Harness], Iterator[measure.Result]]] = {
  "decode": decoding.rows,
  "dvae_encode": encoding.rows,
  "tokenizers": tokenizing.rows,
  "store_write": storing.rows_written,
  "store_read": storing.rows_read,
  "train_step": training.rows,
  "decode_tokens": generating.rows,
  "serving": serving.rows,
  "probe": probing.rows,
  "sweep": sweeping.rows,
  "checkpoint": saving.rows,
  "startup": startup.rows,
  "growth": growth.rows,
  "mamba_scan": scanning.rows,
  "world": rendering.rows,
  "robots": acting.rows,
  "propagation": propagating.rows,
}
SECTIONS = {"store_write": "store", "store_read": "store"}  # others have their row's name


def run(config: bench.BenchJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Measures the rows; False when it was interrupted between two of them.

  Begins anew each time: halves of a table would come from different hours.

  Raises:
    ConfigError: a size does not fit.
  """
  names = config.bench.rows or tuple(ROWS)
  directory.begin(workdir, config)
  machine, results, before = hardware.describe(), [], hardware.load()
  with console.tracking("measuring", unit="rows", total=len(names)) as bar:
    for number, name in enumerate(names):
      if interrupted(number):
        return False
      results += _measure(name, config)
      bar.advance(note=name)
  files.write_json(
    workdir / FILE,
    {
      "hardware": machine,
      "load": {"before": before, "after": hardware.load()},
      "rounds": config.bench.rounds,
      "rows": [measure.as_json(result) for result in results],
    },
  )
  show(results, hardware.sentence(machine), rounds=config.bench.rounds)
  return True


def _measure(name: str, config: bench.BenchJob) -> list[measure.Result]:
  """The cases of one row; what a missing package leaves out is named."""
  section, results = getattr(config, SECTIONS.get(name, name)), []
  with tempfile.TemporaryDirectory(prefix="totojax-bench-") as folder:
    harness = measure.Harness(name, config.bench, config.seed, pathlib.Path(folder))
    try:
      for result in ROWS[name](section, harness):
        results.append(result)
    except ImportError as reason:
      results.append(harness.skipped("", reason))
  return results


def show(results: Sequence[measure.Result], machine: str, *, rounds: int) -> None:
  """Prints the table, and below it what each row compares."""
  table = rich_table.Table(
    title=(
      f"ours over theirs, median of {rounds} rounds (least to most): above"
      f" 1, ours is faster. {machine}"
    ),
    show_lines=True,
  )
  for column in ("row", "ratio", "per CPU-second", "ours", "theirs", "goal"):
    table.add_column(column, overflow="fold")
  notes = []
  for number, result in enumerate(results, 1):
    name, title = f"{number}. {result.row}\n{result.case}".strip(), f"{number}. {result.row}:"
    if isinstance(result, measure.Unmeasured):
      table.add_row(name, "skipped", "", "", "", "")
      notes.append(f"{title} skipped: {result.reason}")
      continue
    table.add_row(
      name,
      _spread(result.rounds.ratio),
      _spread(result.rounds.cpu_ratio),
      _rate(result.rounds.ours, result.unit),
      _rate(result.rounds.theirs, result.unit),
      "\n".join(
        f"{'met' if goal.met else 'missed'}: {goal.value:.3g} {goal.what}; at least {goal.least:g}"
        for goal in result.goals
      ),
    )
    told = f". {result.told}" if result.told else ""
    notes.append(f"{title} {result.compares}: {result.ours}; against {result.theirs}{told}")
  printer = rich_console.Console()
  if not printer.is_terminal:
    printer = rich_console.Console(width=FILE_COLUMNS)
  printer.print(table)
  for note in notes:
    printer.print(note, markup=False, highlight=False)


def _spread(values: measure.Spread) -> str:
  return f"{values.median:.3g}\n({values.low:.3g} to {values.high:.3g})"


def _rate(readings: Sequence[measure.Timing], unit: str) -> str:
  rate = measure.spread([r.per_s for r in readings]).median
  wall_s = measure.spread([r.usage.wall_s for r in readings]).median
  cpu_s = measure.spread([r.usage.cpu_s for r in readings]).median
  return f"{rate:.4g} {unit}/s\n{wall_s:.3g} s, {cpu_s:.3g} CPU-s"
