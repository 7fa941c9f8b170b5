"""`run = "probe_seeds"`: what probes of several seeds say together.

Writes `per_layer.csv` (every head of every seed, with the columns `question`
and `seed`) and `metrics.json`: for each question and source the mean over
seeds of the top-1 accuracy at the layer that a hold-out of train chose, with a
95 % interval, and whether the trained backbone's lies above all others.

An interval has two parts, which add as squares: the spread over seeds, by
Student's t, and Wilson's of a sample of so many items, which all seeds share.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import labels, roots
from totojax.config.schema import ConfigError
from totojax.report import frame, layer_sections, shares
from totojax.rundir import console, directory, files, wording

_TOP1 = "/chosen_on_holdout/top1"


@dataclasses.dataclass(frozen=True)
class Interval:
  """A mean over seeds and the ends of its interval, all shares of 1."""

  mean: float
  low: float
  high: float


def interval(values: Sequence[float], items: int) -> Interval:
  """Of accuracies of several seeds on the same items."""
  low, high = shares.wilson(float(np.mean(values)), items)
  return widened(values, float(low), float(high))


def widened(values: Sequence[float], low: float, high: float) -> Interval:
  """The mean over seeds, where low to high is its interval over items alone."""
  mean, half = float(np.mean(values)), spread(values)
  return Interval(
    mean, float(mean - np.hypot(half, mean - low)), float(mean + np.hypot(half, high - mean))
  )


def spread(values: Sequence[float] | np.ndarray) -> float:
  """Half of a 95 % interval of the mean over seeds, by Student's t; 0 of one seed."""
  seeds = len(values)
  if seeds < 2:
    return 0.0
  from scipy import stats  # slow to import

  level = (1.0 + shares.LEVEL) / 2.0
  return float(stats.t.ppf(level, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds))


def run(config: labels.ProbeSeeds, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Puts the tables of finished probes together."""
  del interrupted  # seconds
  directory.begin(workdir, config)
  metrics, rows = {}, []
  for question, folders in config.probe_seeds.items():
    if len(folders) < 2:
      raise ConfigError(
        f"probe_seeds.{question} names {wording.counted(len(folders), 'run')}; an interval over"
        " seeds takes two or more"
      )
    probes = [_read(epath.Path(folder)) for folder in folders]
    for (_, table), folder in zip(probes, folders):
      probe = roots.read(directory.read_config(folder), fill=True)
      rows += [{"question": question, "seed": probe.seed, **row} for row in table]
    row = summary([one for one, _ in probes])
    metrics |= {f"{question}/{key}": value for key, value in row.items()}
    console.say(_sentence(question, row))
  files.write_csv(workdir / "per_layer.csv", rows)
  files.write_json(workdir / "metrics.json", metrics)
  console.say(f"report: {frame.write(workdir, layer_sections.SEEDS)}")
  return True


def summary(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """What the `metrics.json` of probes of one question say together.

  Raises:
    ValueError: they are not of the same items and sources.
  """
  sources = _sources(metrics[0])
  for name, values in (
    ("n", [one["n"] for one in metrics]),
    ("classes", [one["classes"] for one in metrics]),
    ("sources", [_sources(one) for one in metrics]),
  ):
    if any(value != values[0] for value in values):
      raise ConfigError(
        f"probes with {name} {values} are not of one question; name runs that"
        " differ in their seed alone"
      )
  items = metrics[0]["n"]
  row = {"n": items, "classes": metrics[0]["classes"], "seeds": len(metrics)}
  for source in sources:
    values = [one[source + _TOP1] for one in metrics]
    ends = interval(values, items)
    row |= {
      f"{source}/top1": ends.mean,
      f"{source}/low": ends.low,
      f"{source}/high": ends.high,
      f"{source}/layers": [one[f"{source}/chosen_on_holdout/layer"] for one in metrics],
    }
  others = [source for source in sources if source != "trained"]
  if "trained" in sources and others:
    highest = max(row[f"{source}/high"] for source in others)
    row["pays"] = row["trained/low"] > highest
  return row


def _sources(metrics: Mapping[str, Any], end: str = _TOP1) -> list[str]:
  return [key.removesuffix(end) for key in metrics if key.endswith(end)]


def _read(folder: epath.Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
  path = folder / "per_layer.csv"
  if not path.exists():
    raise ConfigError(f"{path} does not exist; finish this probe first")
  return files.read_json(folder / "metrics.json"), files.read_csv(path)


def _sentence(question: str, metrics: Mapping[str, Any]) -> str:
  text = ", ".join(
    f"{source} {100 * metrics[f'{source}/top1']:.1f} ({100 * metrics[f'{source}/low']:.1f} to"
    f" {100 * metrics[f'{source}/high']:.1f})"
    for source in _sources(metrics, "/top1")
  )
  return f"{question}: top-1 in %, {wording.counted(metrics['seeds'], 'seed')}: {text}"
