"""`run = "sta_seeds"`: what runs of several seeds say together.

Writes `metrics.json`: of each column the mean over seeds and a 95 % interval by
Student's t, beside the numbers of each seed and of the rules.
"""

from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import sta
from totojax.config.schema import ConfigError
from totojax.report import shares, sta_sections
from totojax.rundir import console, directory, files, wording

_SAME = ("split", "n", "protocol", "objects")  # of runs that differ in their seed alone


def run(config: sta.StaSeeds, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Puts the numbers of finished runs together.

  Raises:
    ConfigError: there are less than two, or they are not of the same queries.
  """
  del interrupted  # seconds
  if len(config.runs) < 2:
    raise ConfigError(f"runs names {len(config.runs)}; an interval over seeds takes two or more")
  found = []
  for folder in config.runs:
    path = epath.Path(folder) / "metrics.json"
    if not files.exists(path):
      raise ConfigError(f"{path} does not exist; finish this run first")
    found.append(files.read_json(path))
    if "overall" not in found[-1]:
      raise ConfigError(f"{path} has no top-5 mAP; its queries have no objects")
  for name in _SAME:
    if len({one.get(name) for one in found}) > 1:
      raise ConfigError(
        f"runs have {name} {[one.get(name) for one in found]}; name runs that differ in their seed"
        " alone"
      )
  directory.begin(workdir, config)
  metrics = {name: found[0][name] for name in _SAME}
  metrics |= {"seeds": [one["seed"] for one in found], "baselines": found[0].get("baselines", {})}
  metrics |= {key: interval([one[key] for one in found]) for key in sta_sections.COLUMNS}
  files.write_json(workdir / "metrics.json", metrics)
  each = ", ".join(
    f"{name} {metrics[key]['mean']:.1f} ({metrics[key]['low']:.1f} to {metrics[key]['high']:.1f})"
    for key, name in sta_sections.COLUMNS.items()
  )
  console.say(
    f"{metrics['protocol']}, {wording.counted(len(found), 'seed')},"
    f" {wording.counted(metrics['n'], 'query', 'queries')}: {each}"
  )
  for name, row in metrics["baselines"].items():
    rule = ", ".join(f"{text} {row[key]:.1f}" for key, text in sta_sections.COLUMNS.items())
    console.say(f"  {name}: {rule}")
  return True


def interval(values: list[float]) -> dict[str, Any]:
  """Mean over seeds and the ends of its 95 % interval, in per cent."""
  from scipy import stats  # slow to import

  mean, count = float(np.mean(values)), len(values)
  level = (1.0 + shares.LEVEL) / 2.0
  spread = float(stats.t.ppf(level, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
  return {"mean": mean, "low": mean - spread, "high": mean + spread, "each": list(values)}
