"""The jobs by the name that `config.run` has for them.

A job is a function (config, run directory, interrupted) -> whether it is
finished; run again after an interruption it goes on where it stopped. Each is
imported when it is run, no sooner; its config is that of `config.roots`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
from typing import Any, TYPE_CHECKING

from totojax import plugins, rundir
from totojax.config import roots

if TYPE_CHECKING:
  from etils import epath

Interrupted = Callable[[int], bool]
Run = Callable[[Any, "epath.Path", Interrupted], bool]


@dataclasses.dataclass(frozen=True)
class Job:
  """One line of the table."""

  # "module:function" below this package; the function does what is left of the
  # job, and returns False if it was interrupted before its end.
  run: str
  shared: bool = False  # whether several processes do it together; else each would do it all
  kept: bool = True  # whether it leaves a run directory; a plan changes nothing, and is made anew
  early: bool = False  # whether it is run before jax starts, as that may be broken
  # Whether it leaves data alone, which may be on s3://; what else a run leaves
  # are checkpoints, say, which may not.
  data: bool = False
  # Module that has `check` and `is_done` of the job's run directory, in place
  # of those of `rundir.directory`.
  checks: str = "totojax.rundir.directory"
  # Variables that must be set before jax starts.
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def check(self, workdir: "epath.PathLike", config: Any, **more: Any) -> Any:
    """The run directory, if it is new or was made with this config."""
    return importlib.import_module(self.checks).check(workdir, config, **more)

  def is_done(self, workdir: "epath.Path", config: Any) -> bool:
    return importlib.import_module(self.checks).is_done(workdir, config)


JOBS: Mapping[str, Job] = {
  "render": Job("pixels:render", data=True),
  "decode": Job("pixels:decode", data=True),
  "photos": Job("pixels:photos", data=True),
  "tokenizer": Job("tokenizer:run", shared=True),
  "shards": Job("shards:run", data=True),
  "tokenize": Job("tokenize.job:run", shared=True, data=True),
  "codes": Job("codes:run", data=True),
  # How long the compiler takes is part of a plan.
  "plan": Job("plan.job:run", kept=False, environment={"JAX_ENABLE_COMPILATION_CACHE": "false"}),
  "leakage": Job("leakage:run"),
  "official": Job("official:run"),
  "tokens_report": Job("tokens_report:run"),
  "pretrain": Job("pretrain:run", shared=True),
  "validate": Job("validate:run", shared=True),
  "generate": Job("generate.job:run", shared=True),
  "surprise": Job("surprise.job:run"),
  "prompt_tune": Job("prompt_tune.job:run"),
  "playground": Job("playground.job:run", kept=False),
  "world": Job("world:run"),
  "cater": Job("cater:run"),
  "track": Job("track.job:run"),
  "feature_maps": Job("feature_maps:run"),
  **{name: Job(f"robots.{name}:run") for name in ("record", "clone", "dagger")},
  "policy_server": Job("robots.server:run", kept=False),
  "sta": Job("sta.job:tuned"),
  "sta_frozen": Job("sta.job:frozen"),
  "sta_seeds": Job("sta.seeds:run"),
  "probe": Job("probe.job:run", shared=True),
  "probe_seeds": Job("probe.seeds:run"),
  "knn": Job("knn:run"),
  "compare": Job("compare:run"),
  "features": Job("features:run"),
  "joint": Job("labels.job:joint", shared=True),
  "finetune": Job("labels.job:finetune", shared=True),
  "coord_check": Job("coordinates:run"),
  "audit": Job("audit:run"),
  "sweep": Job("sweep.job:run", shared=True),
  "scaling": Job("scaling:run"),
  "curves": Job("curves:run"),
  "miniature": Job("miniature:run", kept=False),
  "token_study": Job("token_study:run"),
  # PyTorch is measured beside JAX and needs its part of a GPU's memory.
  "bench": Job("bench.job:run", environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
  "report": Job("report:run", kept=False),
  "export": Job("exchange:export"),
  "import": Job("exchange:import_"),
  "doctor": Job("doctor:run", kept=False, early=True),
  # Its stages are jobs too, and say themselves what several processes do.
  "chain": Job("chain:run", shared=True, checks="totojax.jobs.chain"),
}
ERRORS = (ValueError, ImportError, OSError, rundir.RunError)  # one line, which users can mend


def find(name: str) -> Job:
  """The job of this name.

  Raises:
    ValueError: there is none.
  """
  if plugins.is_reference(name):
    return Job(name)
  if name not in JOBS:
    raise ValueError(f"config.run is {name!r}; the jobs are {', '.join(sorted(JOBS))}")
  return JOBS[name]


def early(values: Mapping[str, Any], workdir: "epath.Path") -> None:
  """Runs a job that is there before jax is (`Job.early`); raises as it does."""
  module, _, function = find(values["run"]).run.partition(":")
  job = getattr(importlib.import_module(f"totojax.jobs.{module}"), function)
  job(roots.read(values), workdir, lambda step: False)


def typed(values: Any, workdir: "epath.PathLike") -> Any:
  """The typed config of a job, with what its stores decide filled in.

  Raises:
    ConfigError: as `directory.typed` and `fitting.filled`.
  """
  from totojax.rundir import directory

  if isinstance(values, Mapping) and (values.get("from_stores") or asks_memory(values)):
    from totojax.jobs import fitting

    values = fitting.filled(values, workdir)
  return directory.typed(values)


def asks_memory(values: Mapping[str, Any]) -> bool:
  """Whether a config leaves its microbatches to the devices' memory (`memory.fewest`)."""
  train = values.get("train")
  return isinstance(train, Mapping) and train.get("microbatches") == 0


def enter(workdir: "epath.Path") -> None:
  """Tries the rights that a run needs in a bucket, once; nothing elsewhere.

  Raises:
    objects.StoreError, outages.StorageAway: as `door.check`.
  """
  from totojax.storage import objects

  if objects.is_url(workdir):
    from totojax.rundir import console
    from totojax.storage import door

    door.check(workdir, say=console.say)


def run(config: Any, workdir: "epath.Path", interrupted: Interrupted) -> bool:
  """Runs the job that `config.run` names.

  Args:
    config: typed, or what `directory.typed` makes it of.
    workdir: of the run, new or this run's.
    interrupted: step -> whether to save and leave now.

  Raises:
    ValueError: there is no such job, or it is none for several processes.
  """
  import jax  # only now: the table is read before jax may start

  from totojax.rundir import console, directory, hosts

  name = roots.job(config)
  job = find(name)
  if jax.process_count() > 1 and not job.shared:
    shared = sorted(name for name, job in JOBS.items() if job.shared)
    raise ValueError(
      f'run = "{name}" works in one process, and this is one of'
      f" {jax.process_count()}; run it without --multihost. Jobs for several"
      f" processes: {', '.join(shared)}"
    )
  hosts.first(lambda: enter(workdir))  # before anything is built or read
  config = typed(config, workdir)
  if plugins.is_reference(name):
    _, function = plugins.job(name)
  else:
    module, _, function = job.run.partition(":")
    with console.phase(f"importing what {name} needs"):
      module = importlib.import_module(f"totojax.jobs.{module}")
    function = getattr(module, function)
  try:
    return function(config, workdir, interrupted)
  except plugins.PluginError:
    directory.forget(workdir)
    raise
