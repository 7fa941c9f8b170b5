"""Config keys that every kind of training shares."""

from collections.abc import Mapping

from totojax.config.schema import ConfigError, field, Section, section

DTYPES = ("float32", "bfloat16")
OPTIMISERS = ("adamw", "muon", "schedule_free")
WATCHDOG_S = 7200.0  # in which something is done by whatever is not stuck


@section("optim")
class AdamWConfig(Section):
  """AdamW with linear warm-up and cosine decay (section 3.2), and what is tried in its place."""

  name: str = field("adamw", "the optimiser", "3.2", choices=OPTIMISERS)
  schedule: str = field("cosine", "after the warm-up", "3.2", choices=("cosine", "wsd"))
  lr: float = field(3e-4, "peak rate", "section 3.2", at_least=0)
  warmup_steps: int = field(2000, "linear, from lr / this", "3.2", at_least=0)
  end_lr_frac: float = field(0.1, "of the peak", "[gap] LVM: 3e-5", at_least=0)
  decay_frac: float = field(
    0.2, "of wsd: of the run, at its end", "Hägele et al.", at_least=0, at_most=1
  )
  b1: float = field(0.9, "of the first moment", "3.2", at_least=0, below=1)
  b2: float = field(0.95, "of the second moment", "3.2", at_least=0, below=1)
  eps: float = field(1e-8, "added to its root", "[gap] optax", at_least=0)
  momentum: float = field(0.95, "of Muon's matrices", "Jordan et al.", at_least=0, below=1)
  weight_decay: float = field(0.1, "on matrices", "[gap] LLaMA", at_least=0)
  clip_norm: float = field(1.0, "of the whole gradient", "[gap] LLaMA, LVM", above=0)
  mu_dtype: str = field("float32", "of the first moment; bfloat16: 1/6 less state", choices=DTYPES)


@section("mesh")
class MeshConfig(Section):
  """Devices per axis; one of them may be -1, "what is left"."""

  data: int = field(1, "replicas: other rows, whole parameters", at_least=-1)
  fsdp: int = field(-1, "rows and parameters are split over these (ZeRO-3)", at_least=-1)
  tensor: int = field(1, "heads, mlp and vocabulary are split over these", at_least=-1)
  sequence: int = field(1, "tokens of a sequence are split over these", at_least=-1)


@section("every")
class Every(Section):
  """How often; the last step is always logged, evaluated and saved."""

  log_steps: int = field(100, "a row in metrics.jsonl", at_least=1)
  eval_steps: int = field(5000, "evaluations; also at the start", at_least=1)
  checkpoint_steps: int = field(1000, "a checkpoint", at_least=1)
  watchdog_s: float = field(
    WATCHDOG_S, "a step, save or evaluation at least, or exit status 75; 0: never", at_least=0
  )


@section("checkpoint")
class CheckpointConfig(Section):
  """Which checkpoints stay."""

  keep: int = field(2, "newest checkpoints", at_least=1)
  keep_every_steps: int = field(0, "multiples stay; 0: none", at_least=0)
  skip_damaged: bool = field(False, "go on from the one before, on a disk")
  best: str = field("", "evaluation (NAME/loss): its lowest stays and is used; '': the newest")


@section("profile")
class Profile(Section):
  """A trace of some updates in the run directory, by jax's profiler."""

  steps: int = field(0, "that are traced, after the first; 0: none", at_least=0)


@section("data.reading")
class Reading(Section):
  """How batches are made ahead of their use; changes no batch."""

  # Threads are enough by far for tokens, and processes take seconds to start.
  workers: int = field(0, "processes; 0: threads of this one", at_least=0)
  prefetch: int = field(2, "batches ahead, of each worker; 0: none", at_least=0)


@section("data.train.NAME")
class Share(Section):
  """A store that is trained on, and its share of each batch."""

  path: str = field("", "folder of the store")
  weight: float = field(1.0, "share of each batch, any unit", above=0.0)


def shares(train: Mapping[str, Share], *, example: str) -> Mapping[str, Share]:
  """The section `data.train`, of a config that trains.

  Raises:
    ConfigError: there is no store (`example` says which config has some), or
      one has no path.
  """
  if not train:
    raise ConfigError(
      "config key data.train is empty; name at least one store, --config.data.train=NAME:PATH, or"
      f" as {example} does"
    )
  for name, share in train.items():
    if not share.path:
      raise ConfigError(
        f"config key data.train.{name}.path is empty; set it to the folder of a store"
      )
  return train
