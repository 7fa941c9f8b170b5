"""Runs of pre-training that begin with what another run has learned.

From its parameters alone (`init_from`), or from its whole state, as if they had
been that run until then (`branch_from`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from etils import epath

from totojax import checkpoint, flops, sharding, storage, train
from totojax.checkpoint import restoring
from totojax.config import schema
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.optim import adamw
from totojax.rundir import directory, files, provenance
from totojax.tasks import pretrain as task_lib
from totojax.trained import backbone

# What a branch may have otherwise than its trunk, with all below it: nothing of
# it has changed the state at the step where they part, beyond rounding.
FREE = (
  *("init_from", "branch_from", "from_stores", "evaluations", "plan", "profile"),
  *("train.total_tokens", "train.microbatches", "optim.decay_frac", "optim.end_lr_frac"),
  *("every", "checkpoint", "validation", "compute", "mesh"),
  *("data.root", "data.validation", "data.reading"),
)


@dataclasses.dataclass(frozen=True)
class Start:
  """How a run begins.

  Attributes:
    parameters: fresh parameters -> those that it starts from; None: fresh.
    branch: the state that it goes on from, or None.
    facts: for its manifest.
  """

  parameters: Callable[[Any], Any] | None
  branch: train.Branch | None
  facts: Mapping[str, Any]


def find(
  config: Pretrain,
  task: task_lib.Pretrain,
  *,
  tokenizer: str,
  steps: int,
  data: provenance.Identities,
  layout: sharding.Layout,
) -> Start:
  """What a config with `init_from` or `branch_from` starts from; nothing is read yet.

  Args:
    config: of the run.
    task: what it trains.
    tokenizer: fingerprint of the one whose tokens it sees.
    steps: its updates.
    data: what it reads.
    layout: of the parameters.

  Raises:
    ConfigError: that run does not fit, or both keys are set.
  """
  if config.branch_from:
    if config.init_from:
      raise ConfigError("init_from and branch_from are both set; a branch has all of its trunk")
    path, step = _parts(config.branch_from)
    check_branch(config, path, step, steps=steps, data=data)
    facts = {"branch_from": {"run": str(path), "step": step}}
    return Start(None, (step, functools.partial(_restore, path, step)), facts)
  # Checked here, before anything is compiled; read when the state is made.
  run = backbone.find(config.init_from)
  backbone.check_start(run, task.model, tokenizer=tokenizer)
  facts = {"init_from": {"run": str(run.path), "step": run.step}}
  # Parameters alone: moments, step and schedule are this run's.
  return Start(lambda _: backbone.read(run, task.model, layout), None, facts)


def _parts(branch_from: str) -> tuple[epath.Path, int]:
  path, _, step = branch_from.rpartition("@")
  if not path or not step.isdecimal():
    raise ConfigError(
      f"branch_from is {branch_from!r}; write RUN@STEP, a run directory and a step of its"
      " checkpoints"
    )
  storage.check_run(path)
  return epath.Path(path), int(step)


def check_branch(
  config: Pretrain, path: epath.Path, step: int, *, steps: int, data: provenance.Identities
) -> None:
  """Raises ConfigError unless a run may go on from a step of another one.

  Until then both must be one run: the same config but for `FREE`, the same
  training data, and neither has begun to decay its rate. (Paths do not count:
  what the records are is compared.)
  """
  what = f"branch_from {path}@{step}"
  trunk = backbone.read_config(path, "what a run branches off")
  ours, theirs = (directory.flat(schema.to_dict(one)) for one in (config, trunk))
  for key in sorted(ours.keys() | theirs.keys()):
    if key.startswith(FREE) or (key.startswith("data.train.") and key.endswith(".path")):
      continue
    if ours.get(key) != theirs.get(key):
      raise ConfigError(
        f"{what}: {key} is {theirs.get(key)!r} there and {ours.get(key)!r} here, and until its"
        f" branch a run is its trunk: set {key} to {theirs.get(key)!r}, or branch off another run"
      )
  manifest = files.read_json(path / "manifest.json")
  before, now = ({k: v for k, v in _trained(ids).items()} for ids in (manifest.get("data"), data))
  changes = provenance.data_changes(before, now)
  if changes or before.keys() != now.keys():
    told = "; ".join(f"{name}: {change}" for name, change in changes.items()) or [*before]
    raise ConfigError(f"{what} has other training data than this run ({told}); use the same stores")
  code = manifest.get("plugins", {}).items() ^ schema.digests(config).items()
  if keys := {key for key, _ in code} - {"evaluations"}:
    raise ConfigError(
      f"{what} was trained with other code of {', '.join(sorted(keys))}; restore it"
    )
  if config.optim.schedule != "wsd":
    raise ConfigError(
      f'{what}: a rate of optim.schedule "{config.optim.schedule}" depends on the length of the run'
      ' from the warm-up on; use "wsd" in both'
    )
  length = flops.steps(trunk.train.total_tokens, manifest["tokens_per_step"])
  for whose, optim, total in (("that run", trunk.optim, length), ("this run", config.optim, steps)):
    begin = adamw.decay_begin(optim, total)
    if step > begin:
      raise ConfigError(
        f"{what}: the rate of {whose} falls from update {begin} of {total} on; branch off before"
      )
  whole = checkpoint.whole_steps(path / "checkpoints")
  if step not in whole:
    raise ConfigError(
      f"{what}: there is no whole checkpoint of step {step}; there are {whole or 'none'}"
      " (checkpoint.keep_every_steps keeps those that are to be branched off)"
    )


def _trained(data: provenance.Identities | None) -> provenance.Identities:
  return {key: value for key, value in (data or {}).items() if key.startswith("data.train.")}


def _restore(path: epath.Path, step: int, shapes: Any, shardings: Any) -> tuple[Any, Any]:
  return restoring.read_state(
    checkpoint.absolute(path / "checkpoints") / str(step),
    shapes,
    shardings,
    advice="restore it from a copy, or branch off another step",
  )
