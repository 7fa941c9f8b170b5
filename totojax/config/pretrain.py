"""Config keys of pre-training and its validation."""

from collections.abc import Mapping

from totojax.config import model as models, training
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS


@section("train")
class Amount(Section):
  """How long a model is trained, and what is added to its loss."""

  batch_tokens: int = field(2**20, "inputs of an update", "3.2", at_least=1)
  total_tokens: float = field(1e12, "inputs of the run", "section 3.3", above=0)
  microbatches: int = field(1, "parts of a batch, in turn; 0: the fewest that fit", at_least=0)
  z_loss: float = field(0.0, "times the mean of (ln Z)^2; PaLM: 1e-4", "3.2: none", at_least=0)


@section("data")
class Data(Section):
  """What is trained and evaluated on."""

  tokenizer: str = field("", "fingerprint of all stores; '': any, equal")
  encode_with: str = field("", "tokenizer file: `train` are pixels", plugin="tokenizer")
  train: Mapping[str, training.Share] = field({}, "name -> store")
  validation: Mapping[str, str] = field({}, "name -> folder of a store")
  reading: training.Reading = field(training.Reading(), "how batches are read")
  # The paper reads its 13.9 M images 56 times (section 3.3).
  warn_epochs: float = field(64.0, "of a store in a run: a line warns above", above=0)
  root: str | None = field(None, "folder of all stores", optional=True)

  def shares(self, *, example: str) -> Mapping[str, training.Share]:
    """`train`; raises ConfigError as `training.shares`."""
    return training.shares(self.train, example=example)


@section("validation")
class Validation(Section):
  """How much of the held-out stores is evaluated during training."""

  rows: int = field(1024, "sequences of each; 0: all", at_least=0)


@section("samples")
class Samples(Section):
  """Held-out videos that the model goes on with at each evaluation: DIR/samples."""

  clips: int = field(0, "of the first store of videos; 0: none", at_least=0, at_most=64)


@section("plan")
class Plan(Section):
  """What `run = "plan"` of a pre-training config compiles for."""

  what: str = field("train", "the step that is planned", choices=("train", "decode", "encode"))
  rows: int = field(8, "of decode, encode: of a device", at_least=1)
  cache_tokens: int = field(0, "of decode; 0: the context", at_least=0)
  dvae: models.DvaeSize = field(models.DvaeSize(), "what encodes")
  topology: str = field("", '"v5e:16x16", "v4:4x4x8", "gpu:NVIDIA H100:8"')
  slices: int = field(1, "of this topology each", at_least=1)
  price_per_chip_hour: float = field(0.0, "any currency; 0.0: none", at_least=0.0)
  busy: float = field(0.4, "share of the peak that GPUs reach: assumed", above=0.0, at_most=1.0)
  search: bool = field(False, "every combination of the three lists")
  meshes: tuple[tuple[int, ...], ...] = field((), "sizes of `mesh`; (): `mesh`", at_least=-1)
  remats: tuple[str, ...] = field(("none", "full", "projections", "products"), "(): the config's")
  microbatches: tuple[int, ...] = field((), "(): train.microbatches", at_least=1)

  def __post_init__(self):
    for mesh in self.meshes:
      if len(mesh) not in (3, 4):
        raise ConfigError(
          f"plan.meshes has {mesh!r}; each is (data, fsdp, tensor) or (data,"
          " fsdp, tensor, sequence)"
        )


@section("", run="pretrain")
class Pretrain(Job):
  """`run = "pretrain"`: the paper's recipe (section 3) for one model."""

  seed: int = field(0, "of parameters and data", at_least=0, below=SEEDS)
  init_from: str = field("", "run whose parameters it starts from (Table 4); '': none")
  branch_from: str = field("", "RUN@STEP: it goes on from that state of RUN; '': none")
  sequence: models.SequenceSpec = field(models.SequenceSpec(), "token contract")
  architecture: str = field("llama", "whose keys `model` has", plugin="architecture")
  model: models.Model = field(models.Llama(), "its sizes", choose=models.model_kind)
  patches: models.Patches = field(models.Patches(), "Table 3's patches")
  mup: models.MupConfig = field(models.MupConfig(), "µP")
  compute: models.Compute = field(models.Compute(), "how it is computed")
  mesh: training.MeshConfig = field(training.MeshConfig(), "devices")
  optim: training.AdamWConfig = field(training.AdamWConfig(), "the optimiser")
  train: Amount = field(Amount(), "how long")
  data: Data = field(Data(), "on what")
  validation: Validation = field(Validation(), "during training")
  samples: Samples = field(Samples(), "that are drawn")
  every: training.Every = field(training.Every(), "how often")
  checkpoint: training.CheckpointConfig = field(training.CheckpointConfig(), "which stay")
  profile: training.Profile = field(training.Profile(), "what is traced")
  plan: Plan = field(Plan(), "what `run = plan` is for")
  task: str | None = field(None, "what is trained, of yours", plugin="task", optional=True)
  evaluations: tuple[str, ...] | None = field(
    None, "more of yours during training", plugin="evaluation", optional=True
  )

  from_stores: tuple[str, ...] | None = field(
    None, "keys that are fitted to the stores, where no flag sets them", optional=True
  )

  def __post_init__(self):
    if self.train.z_loss and (self.task or self.patches.inputs):
      raise ConfigError(
        f"train.z_loss is {self.train.z_loss:g}, and is of the next-token task alone; set it to 0.0"
        " with a task of yours or patches.inputs"
      )
    if self.sequence.segments and not self.model.segments:
      raise ConfigError(
        "sequence.segments hides images from each other with a mask of attention, and"
        f" {self.architecture.capitalize()} has none; set it to False"
      )
