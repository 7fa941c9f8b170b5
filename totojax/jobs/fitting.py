"""What the stores of a config of pre-training decide (`from_stores`).

Such keys, of configs/pretrain.py, are filled in before anything else looks at
the config, from the stores' manifests alone. A run that goes on keeps those
that it was begun with, and the number of microbatches that was found for it.
"""

from collections.abc import Mapping, Sequence
import copy
import math
from typing import Any

from etils import epath

from totojax import assembly, jobs
from totojax.config import roots
from totojax.config.pretrain import Pretrain
from totojax.data.stream import rows
from totojax.jobs import stores
from totojax.rundir import directory, files

# Chosen, and not tuned. Four epochs are nearly as good as new data, and beyond
# them each one adds less (Muennighoff et al., 2023).
MOST_EPOCHS = 16
LEAST_STEPS = 400  # updates, for a warm-up and a decay, whatever the epochs
LEAST_BATCHES = 8  # of an epoch
IMAGES = 16  # of a sequence (section 3.4)


def filled(values: Mapping[str, Any], workdir: epath.PathLike) -> dict[str, Any]:
  """The config with what its stores decide in place of `from_stores`.

  Args:
    values: of `run = "pretrain"`, or of a plan of it, as flags left them.
    workdir: of the run; one that was begun keeps its values.

  Raises:
    ConfigError: with all reasons why the stores do not fit each other, or what
      the config says.
  """
  values = copy.deepcopy(dict(values))
  keys = tuple(values.pop("from_stores", None) or ())
  planned = values.get("run") == "plan"
  if not planned and files.exists(epath.Path(workdir) / "config.json"):
    begun = directory.flat(directory.read_config(workdir))
    left = {*keys, "train.microbatches"} if jobs.asks_memory(values) else {*keys}
    for key in left & set(begun):
      _set(values, key, begun[key])
    return values
  if not keys:
    return values
  config = roots.read(values)
  assembly.check_tokens(config, "configs/pretrain.py")
  if not config.data.train and planned:
    return values  # of the sizes that the file has
  config.data.shares(example="configs/pretrain.py")
  sources, reasons = stores.find_stores(config.data)
  free = [key for key in rows.SIZES if f"sequence.{key}" in keys]
  compared = [key for key in free if key not in rows.LATENTS]  # one tokenizer has one of each
  reasons += rows.disagreements(sources, ("tokenizer", *compared))
  given = [key for key in rows.SIZES if key not in free]
  reasons += rows.mismatches(sources, config.sequence, given)
  stores.refuse(reasons)
  trained = [source for source in sources if source.name.startswith("data.train.")]
  for key, value in sizes(trained).items():
    if key in free:
      _set(values, f"sequence.{key}", value)
  if "sequence.context" in keys:
    spec = values["sequence"]
    _set(values, "sequence.context", spec["frames"] * spec["grid"] ** 2 * spec["codes"])
  for key, value in _amounts(roots.read(values), trained, keys, planned=planned).items():
    if key in keys:
      _set(values, key, value)
  return values


def _set(values: dict[str, Any], key: str, value: Any) -> None:
  section, _, name = key.rpartition(".")
  values[section] = {**values[section], name: value}


def sizes(trained: Sequence[rows.Source]) -> dict[str, int]:
  """What a sequence holds: a record of videos, or the paper's 16 images."""
  all_ = [source.store.manifest for source in trained]
  frames = [manifest.frames for manifest in all_ if manifest.kind == "video"]
  frames = frames or [min(IMAGES, *(manifest.records for manifest in all_))]
  sizes = {"vocab": all_[0].vocab, "grid": all_[0].grid, "frames": frames[0]}
  return sizes | {key: getattr(all_[0].latents, key) for key in rows.LATENTS}


def _amounts(
  config: Pretrain, trained: Sequence[rows.Source], keys: Sequence[str], *, planned: bool
) -> dict[str, Any]:
  """How much is trained: what the config says, or less where there are fewer data."""
  spec, train, every = config.sequence, config.train, config.every
  epoch = sum(len(source.store) // rows.records_per_row(source, spec) for source in trained)
  batch = train.batch_tokens // spec.context
  if "train.batch_tokens" in keys and not planned:  # of a plan's devices, not those here
    import jax

    most = max(min(batch, epoch // LEAST_BATCHES), 1)
    batch = 2 ** (most.bit_length() - 1)
    parts = math.lcm(train.microbatches or 1, jax.device_count())
    batch = -(-batch // parts) * parts
  steps = math.ceil(train.total_tokens / max(batch * spec.context, 1))
  if "train.total_tokens" in keys:
    steps = max(min(steps, MOST_EPOCHS * epoch // max(batch, 1)), LEAST_STEPS)
  tenth = max(steps // 10, 1)
  return {
    "train.batch_tokens": batch * spec.context,
    "train.total_tokens": float(steps * batch * spec.context),
    "optim.warmup_steps": min(config.optim.warmup_steps, tenth),
    "every.log_steps": min(every.log_steps, max(steps // 100, 1)),
    "every.eval_steps": min(every.eval_steps, tenth),
    "every.checkpoint_steps": min(every.checkpoint_steps, tenth),
  }
