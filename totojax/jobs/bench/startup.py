"""Row `startup`: from the command to the second step, in fresh processes.

This file is also what such a process runs:

  python -m totojax.jobs.bench.startup TIME < CONFIG

reads a config of `run = "pretrain"` as JSON, takes two steps and prints the
seconds since TIME at which each part was over.
"""

from collections.abc import Callable, Iterator, Mapping
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from totojax.config import roots, schema
from totojax.config.bench import StartupBench
from totojax.config.pretrain import Pretrain
from totojax.jobs.bench import measure, training

PARTS = ("imported", "initialised", "first_step", "second_step")


def rows(settings: StartupBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Starts per second with and without the persistent compilation cache."""
  marks = {"with": [], "without": []}

  def start(name: str, cache: pathlib.Path | None) -> Callable[[], None]:
    return lambda: marks[name].append(child(settings.trained, cache))

  yield harness.compare(
    # The turn that warms up also fills the cache.
    measure.Side("with a filled compilation cache", start("with", harness.folder / "compiled"), 1),
    measure.Side("without a compilation cache", start("without", None), 1),
    case="",
    compares="a fresh process from its start to the end of its second train step",
    unit="starts",
    facts=lambda rounds: {
      f"seconds_{name}_cache": seconds(starts[1:]) for name, starts in marks.items()
    },
  )


def seconds(starts: list[Mapping[str, float]]) -> dict[str, float]:
  """Medians over starts of the seconds that each part takes."""
  return {
    part: statistics.median(start[part] - (start[PARTS[i - 1]] if i else 0.0) for start in starts)
    for i, part in enumerate(PARTS)
  }


def child(config: Pretrain, cache: pathlib.Path | None) -> dict[str, float]:
  """Seconds since the start at which each of `PARTS` was over.

  Raises:
    RuntimeError: the process failed; has the end of what it said.
  """
  environment = os.environ | {
    # Where there is a GPU, most of its memory is this process's.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_ENABLE_COMPILATION_CACHE": "false" if cache is None else "true",
    "JAX_COMPILATION_CACHE_DIR": "" if cache is None else str(cache),
  }
  result = subprocess.run(
    [sys.executable, "-m", "totojax.jobs.bench.startup", repr(time.monotonic())],
    input=json.dumps(schema.to_dict(config)),
    env=environment,
    capture_output=True,
    encoding="utf-8",
    check=False,
  )
  if result.returncode:
    raise RuntimeError(f"a process that should train two steps failed: {result.stderr[-2000:]}")
  return json.loads(result.stdout.splitlines()[-1])


def _main(began: float) -> None:
  marks = [time.monotonic() - began]  # everything was imported above
  trainer = training.trainer(roots.read(json.load(sys.stdin)))
  marks.append(time.monotonic() - began)
  for _ in range(2):
    trainer.step()
    marks.append(time.monotonic() - began)
  print(json.dumps(dict(zip(PARTS, marks))))


if __name__ == "__main__":
  _main(float(sys.argv[1]))
