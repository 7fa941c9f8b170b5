"""Config keys of probes, joint training and fine-tuning: all need labels.

"[gap]" marks what the paper does not say; the source of our default follows.
"tuned" is where the default of fine-tuning is from, if it is another.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from totojax.config import model as models, training
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

BACKBONES = ("trained", "untrained")  # of a probe: the model, and before it was
BASELINES = ("pixels", "histogram")  # what takes no model
POOLS = ("average", "attention", "cross", "blocks")
OPTIMISERS = ("lars", "adamw")
SOURCES = ("tokens", "folder", "imagenet")
LAST_RATE = 1e-6  # with which MAE ends


@section("data")
class Data(Section):
  """Records with a class, to be trained on and held out."""

  train: str = field("", "store of tokens with classes")
  validation: str = field("", "the same, held out")
  classes: int = field(0, "0: as many as the data say", at_least=0)
  # Missing: what the job that made a store, or the files' listing, calls so.
  expected: int = field(0, "to validate; 0: those there and missing", at_least=0, unit="items")
  holdout_frac: float = field(
    0.0, "of each class, to choose a layer; 0.0: none", "[gap]", at_least=0, below=1
  )
  frames: int = field(0, "latent ones of a clip; 0: as the model was trained", at_least=0)
  reading: training.Reading = field(training.Reading(), "how batches are read")


@section("data")
class FileData(Data):
  """Stores, or files of images, which are cropped anew in each epoch and encoded on the device."""

  source: str = field("tokens", "stores of them, or files", choices=SOURCES)
  root: str = field("", "of files: what their ids are relative to")
  val_frac: float = field(0.0, "of files: held out of `train`", at_least=0, below=1)
  encode_with: str = field("", "of files: the model's tokenizer, or 'shipped'")

  def __post_init__(self):
    if self.source == "tokens":
      if self.encode_with or self.root:
        raise ConfigError(
          "data.encode_with and data.root are for files of images; with"
          " data.source 'tokens' leave them empty"
        )
    elif bool(self.validation) == bool(self.val_frac):
      raise ConfigError(
        f"data.validation is {self.validation!r} and data.val_frac {self.val_frac}; name a folder"
        " that is held out, or a share of data.train, and not both"
      )


@section("data")
class ProbeData(FileData):
  """What is probed on: a layer is always chosen without the validation set."""

  holdout_frac: float = field(0.1, "of each class, to choose a layer", "[gap]", above=0, below=1)
  train_pixels: str = field("", "what `train` was made from, for `pixels`; '': drawn from tokens")
  validation_pixels: str = field("", "the same of `validation`")
  pixels_side: int = field(8, "of a frame, for `pixels`", at_least=1, unit="pixels")
  train_records: int = field(0, "so many, of every class its share; 0: all", at_least=0)
  evaluations: Mapping[str, str] = field({}, "name -> store of tokens: a further held-out list")
  real_labels: str = field("", "ReaL's real.json, of ImageNet's validation images; '': none")


@section("data")
class TrainData(FileData):
  """ImageNet from its files at 32 x 32 tokens, other files, or stores."""

  source: str = field("imagenet", "files, or stores", choices=SOURCES)
  train: str = field("train", "folder below root, '': all; or a store")
  validation: str = field("val", "the same, held out; '': val_frac of train")
  grid: int = field(32, "0: as the model was trained", "4.2", at_least=0, unit="tokens")
  classes: int = field(1000, "0: as many as the data say", at_least=0)
  expected: int = field(50_000, "to validate; 0: those there and missing", at_least=0, unit="items")
  reading: training.Reading = field(training.Reading(workers=8, prefetch=4), "for photographs")


@section("encoders.NAME")
class EncoderFiles(Section):
  """Features of somebody else's encoder (`data/store/feature_files.py`)."""

  train: str = field("", "folder or file of the training items")
  validation: str = field("", "the same of the held-out ones")
  evaluations: Mapping[str, str] | None = field(
    None, "name -> the same of a further held-out list", optional=True
  )


@section("head")
class PooledHead(Section):
  """A head but for how it pools tokens."""

  heads: int = field(0, "of attention; 0: the model's", "[gap]", at_least=0)
  bias: bool = field(True, "of the linear layer")
  init_std: float = field(0.01, "of matrices and queries", "[gap] MAE; AIM .02", at_least=0)
  norm_eps: float = field(1e-6, "of BatchNorm, without gain and bias", "[gap]", at_least=0)
  norm_momentum: float = field(0.1, "of the newest batch", "[gap] PyTorch", at_least=0, at_most=1)


@section("head")
class HeadConfig(PooledHead):
  """A head; with the width and the classes it fixes every parameter."""

  pool: str = field("average", "of tokens", "3.5, Table 16", choices=POOLS, plugin="head")


@section("head")
class FineTuneConfig(Section):
  """The head of fine-tuning, and how the blocks are trained.

  Attributes:
    pool: "average" is MAE's mean with a LayerNorm after it, "attention" section
      3.5's probe, with BatchNorm before it.
    positions: whether a vector for each position is trained that is added to its token,
      zeros at first. A rotary model keeps distances and not places, and a small one
      has not learnt these.
    next_token: weight of Eq. 2 beside the cross-entropy, which needs causal
      attention and no drop path; 0.0: none.
  """

  drop_path: float = field(0.1, "rows that skip last branches", "[gap] MAE", at_least=0, below=1)
  head_init_std: float = field(2e-5, "of matrices and queries", "[gap] MAE", at_least=0)
  norm_eps: float = field(1e-6, "of the head's norm", "[gap] MAE", at_least=0)
  pool: str = field("average", "of tokens", "[gap] MAE", choices=("average", "attention"))
  heads: int = field(0, "of attention; 0: the model's", "[gap]", at_least=0)
  positions: bool = field(False, "trained vectors of them, added to tokens")
  next_token: float = field(0.0, "weight of the next-token loss", at_least=0)


@section("train")
class Epochs(Section):
  """How long heads, or models with heads, are trained."""

  epochs: float = field(90.0, "over the items, not their views", "4.2; tuned: [gap] MAE", above=0)
  batch_rows: int = field(1024, "of an update", "[gap] MAE", at_least=1)
  # BatchNorm, mixup and cutmix see one of them at a time.
  microbatches: int = field(1, "parts of a batch, in turn", at_least=1)
  score_rows: int = field(1024, "of a batch of the evaluation", at_least=1)


@section("optim")
class GridConfig(Section):
  """Every pair of a rate and a decay is one setting, and trains its own head.

  Rates fall by half a cosine. Weight decay, as V-JEPA's, and LARS' trust are on
  matrices and queries; biases and norms have neither, but for `decay_all`.

  Attributes:
    schedule: "mae": the rate of an update is that of the epochs before it;
      "vjepa2": that after it, with a warm-up from `start_lr`.
  """

  name: str = field("lars", "the optimiser", "[gap] MAE", choices=OPTIMISERS)
  lrs: tuple[float, ...] = field((0.1,), "peak rates", "[gap] MAE", at_least=0, some=True)
  weight_decays: tuple[float, ...] = field(
    (0.0,), "times the rate and the parameter", "[gap] MAE", at_least=0, some=True
  )
  lr_rows: int = field(256, "that lrs are for; 0: any", "[gap] MAE", at_least=0)
  warmup_epochs: float = field(10.0, "linear from 0", "[gap] MAE", at_least=0)
  end_lr_frac: float = field(0.0, "of the peak, at the end", "[gap] MAE", at_least=0)
  end_decay_frac: float = field(1.0, "of the weight decay; 1.0: constant", at_least=0)
  schedule: str = field("mae", "whose", "[gap] MAE", choices=("mae", "vjepa2"))
  start_lr: float = field(0.0, "of every head's warm-up, of vjepa2", at_least=0)
  decay_all: bool = field(False, "AdamW's decay on biases, norms and all, as V-JEPA 2's")
  momentum: float = field(0.9, "of LARS", "[gap] MAE", at_least=0, below=1)
  trust: float = field(0.001, "of LARS: largest update / size", "[gap] MAE", above=0)
  b1: float = field(0.9, "of AdamW: decay of the first moment", at_least=0, below=1)
  b2: float = field(0.999, "of AdamW: decay of the second moment", at_least=0, below=1)
  eps: float = field(1e-8, "of AdamW: added to the second moment's root", at_least=0)
  clip_norm: float = field(0.0, "of each head's gradient; 0.0: none", at_least=0)

  def __post_init__(self):
    if (self.start_lr and self.schedule != "vjepa2") or (self.decay_all and self.name != "adamw"):
      raise ConfigError(
        f"optim.start_lr is {self.start_lr:g} with schedule {self.schedule!r}, and decay_all"
        f" {self.decay_all} with {self.name!r}; they are of schedule 'vjepa2' and of 'adamw'"
      )

  @property
  def settings(self) -> list[tuple[float, float]]:
    """(rate, decay) of each setting, in order."""
    return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]

  @property
  def moments(self) -> int:
    """Arrays that the optimiser keeps for each parameter."""
    return {"lars": 1, "adamw": 2}[self.name]

  def peak_lr(self, lr: float, batch_rows: int) -> float:
    """The peak for a batch of so many rows of one of `lrs`."""
    return lr * batch_rows / self.lr_rows if self.lr_rows else lr


@section("optim")
class LayeredConfig(Section):
  """AdamW with rates by layer; weight decay is on matrices and queries.

  Embeddings are matrices, as MAE's of patches are.
  The rate falls by half a cosine. Heads are not clipped, so that they cannot
  slow the backbone.
  """

  lr: float = field(6e-5, "of the last layer, at most", "4.2; tuned: [gap] MAE", above=0)
  lr_rows: int = field(0, "that lr is for; 0: any", "tuned: MAE", at_least=0)
  warmup_epochs: float = field(5.0, "linear from 0", "[gap] MAE", at_least=0)
  end_lr_frac: float = field(LAST_RATE / 6e-5, "of the peak", "[gap] MAE", at_least=0)
  layer_decay: float = field(
    0.9, "a layer's rate / the next one's", "4.2; tuned: [gap] MAE", above=0, at_most=1
  )
  head_lr_mults: tuple[float, ...] = field(
    (1.0,), "rates of heads over lr, each of its own heads", above=0, some=True
  )
  b1: float = field(0.9, "decay of the first moment", "section 3.2", at_least=0, below=1)
  b2: float = field(0.95, "decay of second moment", "3.2; tuned: [gap] MAE", at_least=0, below=1)
  eps: float = field(1e-8, "added to the second moment's root", "[gap] optax", at_least=0)
  weight_decay: float = field(0.05, "times the rate, on matrices", "[gap] MAE", at_least=0)
  clip_norm: float = field(1.0, "of the backbone; 0.0: none", "[gap] LLaMA", at_least=0)
  mu_dtype: str = field("float32", "of the first moment", choices=training.DTYPES)

  @property
  def settings(self) -> list[tuple[float, float]]:
    """(rate, decay) of the heads of each setting."""
    return [(self.lr * m, self.weight_decay) for m in self.head_lr_mults]

  def peak_lr(self, batch_rows: int) -> float:
    """The peak for a batch of so many rows."""
    return self.lr * batch_rows / self.lr_rows if self.lr_rows else self.lr


def layered(*, batch_rows: int, lr: float, lr_rows: int, **more: Any) -> LayeredConfig:
  """AdamW by layers that ends with MAE's last rate."""
  rates = LayeredConfig(lr=lr, lr_rows=lr_rows, **more)
  peak = rates.peak_lr(batch_rows)
  return dataclasses.replace(rates, end_lr_frac=LAST_RATE / peak)


@section("view")
class ViewConfig(Section):
  """What is seen of an image: MAE's views, without RandAugment and erasing."""

  least_area: float = field(0.08, "of a training window", "[gap] MAE", at_least=0, at_most=1)
  widest: float = field(4 / 3, "ratio of its sides", "[gap] MAE", at_least=1, at_most=100)
  flip: float = field(0.5, "share of training views", "[gap] MAE", at_least=0, at_most=1)
  resample: str = field(
    "bicubic", "filter of the resizing", "[gap] MAE", choices=("bicubic", "bilinear", "lanczos")
  )
  operations: int = field(0, "of RandAugment, a view", "tuned: [gap] MAE", at_least=0, at_most=100)
  magnitude: float = field(9.0, "of the operations", "[gap] MAE", at_least=0, at_most=10)
  magnitude_std: float = field(0.5, "of each one's magnitude", "[gap] MAE", at_least=0)
  erase: float = field(0.0, "views losing a rectangle", "tuned: [gap] MAE", at_least=0, at_most=1)
  center_frac: float = field(0.875, "of the side evaluated", "[gap] MAE", at_least=0.01, at_most=1)


@section("mix")
class MixConfig(Section):
  """How rows and their classes are mixed."""

  mixup: float = field(0.8, "alpha; 0.0: none", "[gap] MAE", at_least=0)
  cutmix: float = field(1.0, "alpha; 0.0: none", "[gap] MAE", at_least=0)
  share: float = field(1.0, "microbatches that are mixed", "[gap] MAE", at_least=0, at_most=1)
  switch: float = field(0.5, "of these, with cutmix", "[gap] MAE", at_least=0, at_most=1)
  smoothing: float = field(0.1, "goes evenly to all classes", "[gap] MAE", at_least=0, at_most=1)


@section("model")
class ModelConfig(Section):
  """What is not as the model was trained."""

  rope_base: float = field(50_000.0, "trained at 10,000", "section 4.2", above=0)
  prefix_tokens: int = field(0, "seen by all; 0: causal, -1: full", "A.2", at_least=-1)


@section("paper")
class Paper(Section):
  """The number of the paper that this setting is to be compared with."""

  name: str = field("", "where it is printed; '': none")
  top1: float = field(0.0, "the number", at_least=0, at_most=100, unit="per cent")


@section("")
class Labels(Section):
  """What all jobs that need labels have."""

  run: str = field("", "the job")
  seed: int = field(0, "of parameters and data", at_least=0, below=SEEDS)
  model_run: str = field("", 'run directory of `run = "pretrain"`')
  data: Data = field(Data(), "on what")
  train: Epochs = field(Epochs(), "how long")
  paper: Paper = field(Paper(), "a number beside ours")
  mesh: training.MeshConfig = field(training.MeshConfig(), "devices")
  every: training.Every = field(training.Every(), "how often")
  checkpoint: training.CheckpointConfig = field(training.CheckpointConfig(), "which stay")


@section("", run="probe")
class Probe(Labels):
  """`run = "probe"`: MAE's linear probe on every layer (section 3.5)."""

  backbones: tuple[str, ...] = field(
    ("trained", "untrained", "histogram"),
    "what is probed; (): encoders",
    once=True,
    choices=(*BACKBONES, *BASELINES),
  )
  encoders: Mapping[str, EncoderFiles] = field({}, "name -> features on disk")
  layers: tuple[int, ...] = field((), "H_0, embeddings, to H_L; (): all", at_least=0)
  cache: str = field(
    "auto", "make features once; auto: for means, with room", choices=("auto", "on", "off")
  )
  memory_gb: float = field(0.0, "of a device, for heads; 0.0: 0.6 of its own", at_least=0)
  data: ProbeData = field(ProbeData(), "on what")
  view: ViewConfig = field(ViewConfig(), "what is seen of an image, of files")
  head: HeadConfig = field(HeadConfig(), "of every layer and setting")
  train: Epochs = field(Epochs(batch_rows=16_384), "how long: batch_rows 16,384", "[gap] MAE")
  optim: GridConfig = field(GridConfig(), "the optimiser of each head")
  every: training.Every = field(
    training.Every(log_steps=100, eval_steps=1000, checkpoint_steps=1000),
    "how often: eval_steps 1000",
  )


@section("")
class Tuning(Labels):
  """What all jobs that train a backbone on have."""

  model: ModelConfig = field(ModelConfig(), "what is not as it was trained")
  compute: models.Compute = field(models.Compute(), "how it is computed")
  data: TrainData = field(TrainData(), "on what")
  view: ViewConfig = field(ViewConfig(), "what is seen of an image")
  optim: LayeredConfig = field(LayeredConfig(), "the optimiser")


@section("", run="joint")
class Joint(Tuning):
  """`run = "joint"`: next-token loss, and probes of the layers (Table 7)."""

  layers: tuple[int, ...] = field((), "H_1 to H_L; (): all", at_least=0)
  data: TrainData = field(TrainData(holdout_frac=0.01), "on what: holdout_frac 0.01", "[gap]")
  head: HeadConfig = field(
    HeadConfig(pool="attention", init_std=0.02),
    "of each layer: pool 'attention', init_std 0.02",
    "3.5; [gap] AIM",
  )


@section("", run="finetune")
class Finetune(Tuning):
  """`run = "finetune"`: MAE's recipe for ViT-B (Table 13, A.2)."""

  model: ModelConfig = field(ModelConfig(prefix_tokens=-1), "full: prefix_tokens -1", "A.2")
  view: ViewConfig = field(
    ViewConfig(operations=2, erase=0.25),
    "what is seen of an image: operations 2, erase 0.25",
    "[gap] MAE",
  )
  head: FineTuneConfig = field(FineTuneConfig(), "on the last layer")
  mix: MixConfig = field(MixConfig(), "how rows are mixed")
  train: Epochs = field(Epochs(epochs=100.0), "how long: epochs 100.0", "[gap] MAE")
  optim: LayeredConfig = field(
    layered(batch_rows=1024, lr=5e-4, lr_rows=256, layer_decay=0.65, b2=0.999, clip_norm=0.0),
    "the optimiser: lr 5e-4 for 256 rows, so that the last is 1e-6 too;"
    " layer_decay 0.65, b2 0.999, clip_norm 0.0",
    "[gap] MAE",
  )


@section("", run="probe_seeds")
class ProbeSeeds(Job):
  """`run = "probe_seeds"`: what probes of several seeds say together."""

  probe_seeds: Mapping[str, tuple[str, ...]] = field({}, "question -> runs, one for each seed")
