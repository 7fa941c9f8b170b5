"""Config keys of jobs that read images or videos of any source."""

from totojax.config import pixels
from totojax.config.schema import ConfigError, field, Section, section, SEEDS


@section("source.folder")
class Folder(Section):
  """Files in folders at any depth."""

  class_folders: bool = field(False, "the folders are the classes")


@section("source.list")
class Lines(Section):
  """A file with "path label" in each line."""

  path: str = field("", "of the list")
  separator: str = field(
    "space", "before the label; none: there is none", choices=("space", "comma", "tab", "none")
  )
  classes: int = field(0, "labels are below it; 0: any", at_least=0)


@section("source.tars")
class Tars(Section):
  """WebDataset."""

  classes: int = field(0, "labels are below it; 0: any", at_least=0)
  label_key: str = field("label", "of a sample's .json")


@section("source.tfds")
class Tfds(Section):
  """A set of TensorFlow Datasets."""

  name: str = field("", '"ucf101", "moving_mnist:1.0.0"')
  feature: str = field("", "of pixels; '': the only image or video")
  label: str = field("", "its class; '': the only one, if there is one")
  fps: float = field(30.0, "of videos, which TFDS does not store", above=0)


@section("source.imagenet")
class Imagenet(Section):
  """ImageNet-1k, or 21k."""

  classes: int = field(1000, "0: ImageNet-21k", at_least=0)
  val_labels: str = field("", "classes of a flat folder; '': looked for")


@section("source.kinetics")
class Kinetics(Section):
  """Kinetics-400, 600 or 700."""

  annotations: str = field("", 'the CSV, with "{split}"; "": what is there')
  classes: int = field(400, "or 600, 700", at_least=0)
  plain_names: str = field("whole", "files whose names have no times", choices=("whole", "trimmed"))


@section("source.ssv2")
class Ssv2(Section):
  """Something-Something v2."""

  classes: int = field(174, "0: any", at_least=0)


@section("source.diving48")
class Diving48(Section):
  """Diving-48, version 2."""

  classes: int = field(48, "0: any", at_least=0)


@section("source.cater")
class Cater(Section):
  """CATER: the cell in which the snitch ends."""

  side: int = field(6, "cells of a row", choices=(4, 6, 8))
  fates: bool = field(True, "scenes, where there are any, are held against the lists")
  frames: bool = field(False, "videos with other frames than their scene, or 301: left out")


@section("source.ego4d")
class Ego4d(Section):
  """Ego4D."""

  folder: str = field("full_scale", 'or "clips"')
  ids: str = field("", 'file of ids or stretches, with "{split}"; "": all')


@section("source.howto100m")
class Howto100m(Section):
  """HowTo100M."""

  ids: str = field("", "file of the wanted ids; '': all")


@section("source.lerobot")
class Lerobot(Section):
  """A robot's episodes as LeRobot keeps them; the classes are tasks."""

  camera: str = field("", "its key; '': all")


@section("source.ucf101")
class Ucf101(Section):
  """UCF101."""

  fold: int = field(1, "official split", choices=(1, 2, 3))
  classes: int = field(101, "0: any", at_least=0)


SOURCES = (
  *"folder list tars tfds imagenet kinetics ssv2 diving48 ego4d howto100m lerobot".split(),
  *"ucf101 cater".split(),
)


@section("source")
class SourceConfig(Section):
  """Where items come from; the section called `name` says more.

  Attributes:
    splits: each becomes a store of its name ("all" for the split "").
    val_frac: with one split: what it holds out makes a second store, so that
      there are train and val.
  """

  name: str = field("folder", "a section below, or your file", choices=SOURCES, plugin="dataset")
  kind: str = field("video", "of folder, list and tars", choices=("video", "image"))
  root: str = field("", "folder of the data")
  prefix: str = field("", '"test": ids are "test/a.mp4", apart from those of other folders')
  splits: tuple[str, ...] = field(("",), "of the source; '': all of it", some=True, once=True)
  val_frac: float = field(0.0, "of the items, held out", at_least=0, below=1)
  exclude: tuple[str, ...] = field((), "files of ids, or stores: left out")
  folder: Folder = field(Folder(), "files")
  list: Lines = field(Lines(), "a list of files")
  tars: Tars = field(Tars(), "WebDataset")
  tfds: Tfds = field(Tfds(), "TensorFlow Datasets")
  imagenet: Imagenet = field(Imagenet(), "ImageNet")
  kinetics: Kinetics = field(Kinetics(), "Kinetics")
  ssv2: Ssv2 = field(Ssv2(), "Something-Something v2")
  diving48: Diving48 = field(Diving48(), "Diving-48")
  ego4d: Ego4d = field(Ego4d(), "Ego4D")
  howto100m: Howto100m = field(Howto100m(), "HowTo100M")
  lerobot: Lerobot = field(Lerobot(), "LeRobot")
  ucf101: Ucf101 = field(Ucf101(), "UCF101")
  cater: Cater = field(Cater(), "CATER")

  def __post_init__(self):
    if self.val_frac and len(self.splits) != 1:
      raise ConfigError(
        f"source.val_frac is {self.val_frac} with splits {self.splits};"
        " hold items out of one split, or set it to 0.0"
      )


@section("amount")
class Work(Section):
  """How the work is cut."""

  items_per_shard: int = field(256, "all an interruption costs", at_least=1)
  workers: int = field(-1, "processes that decode; -1: each core", at_least=-1)
  ahead: int = field(4, "items decoded ahead, of each worker", at_least=1)


@section("")
class SourceJob(Section):
  """What jobs over a source have in common."""

  run: str = field("", "the job")
  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  source: SourceConfig = field(SourceConfig(), "of what")
  clip: pixels.ClipSpec = field(pixels.ClipSpec(), "out of videos")
  views: pixels.Views = field(pixels.Views(), "or so, out of videos")
  image: pixels.ImageSpec = field(pixels.ImageSpec(), "out of images")
  amount: Work = field(Work(), "how the work is cut")

  def __post_init__(self):
    if self.views.mode and self.clip.sampling != "uniform":
      raise ConfigError(
        f"clip.sampling is {self.clip.sampling!r} with views.mode"
        f" {self.views.mode!r}, which has its own; set it to 'uniform'"
      )


@section("beam")
class BeamSettings(Section):
  """Which Apache Beam runner makes the shards."""

  name: str = field("", '"DirectRunner", "DataflowRunner"; "": no pipeline')
  options: tuple[str, ...] = field((), 'Beam\'s flags, as "--project=NAME"')


@section("plan")
class Planning(Section):
  """What a plan of tokenizing assumes.

  Attributes:
    hours: of video, where no source is at hand; 0.0: the source is looked at.
    videos: with `hours`; 0: they are cut into clips without gaps, so that each
      frame at the job's stride is encoded once.
  """

  chip: str = field("TPU v5e", "as in `flops.PEAK_FLOPS_PER_S`")
  busy: float = field(0.3, "share of its peak: assumed", above=0, at_most=1)
  probed: int = field(64, "videos whose length is read", at_least=0)
  hours: float = field(0.0, "of video, without a source", at_least=0)
  videos: int = field(0, "that these hours are; 0: no gaps", at_least=0)
  images: int = field(0, "or images, without a source", at_least=0)

  def __post_init__(self):
    if self.hours and self.images:
      raise ConfigError(
        f"plan.hours is {self.hours} and plan.images {self.images}; a plan"
        " without a source is for one of them"
      )


@section("")
class Tokenize(SourceJob):
  """`run = "tokenize"`, and "plan": any images or videos to tokens."""

  run: str = field("tokenize", "the job; or plan: what it would cost")
  tokenizer: str = field("shipped", "or its file; pixels: they are kept", plugin="tokenizer")
  beam: BeamSettings = field(BeamSettings(), "a pipeline")
  plan: Planning = field(Planning(), "what a plan assumes")


@section("features")
class FeatureFiles(Section):
  """Which features are written, and how.

  Attributes:
    encoder: in place of a run of ours: "dinov2:FOLDER" or another one by name
      (`totojax/trained/ready.py`), or a Python file that makes one
      (`totojax/trained/encoders.py`).
    pool: means over each; of another encoder "clip", or "token" where it gives
      them; "class": the class token of one by name.
    norm: of an encoder by name, whose layers are otherwise what leaves its
      blocks.
  """

  encoder: str = field("", "by name, or of yours; '': model_run's", plugin="encoder")
  tokenizer: str = field("", "its file; '': of the run, chain or package")
  layers: tuple[int, ...] = field((), "H_0 (embeddings) to H_L; (): all", at_least=0)
  pool: str = field("clip", "means over each", choices=("token", "frame", "clip", "class"))
  norm: bool = field(False, "every layer through the norm after the last block")
  format: str = field("safetensors", "of the files", choices=("safetensors", "npz"))
  dtype: str = field("float32", "of what is stored", choices=("float32", "float16"))
  rows: int = field(8, "clips of a forward pass", at_least=1)

  def __post_init__(self):
    if self.encoder and (self.pool == "frame" or self.tokenizer):
      raise ConfigError(
        f"features.encoder is {self.encoder!r}, which knows no frames and reads pixels; set"
        " features.pool to 'clip' (or 'token') and features.tokenizer to ''"
      )
    if not self.encoder and (self.pool == "class" or self.norm):
      raise ConfigError(
        f"features.pool is {self.pool!r} and features.norm {self.norm}: class tokens and norms are"
        " of encoders by name; set features.encoder, or pool to 'clip' and norm to False"
      )


@section("clip")
class ModelClip(pixels.ClipSpec):
  """Clips of the model's size."""

  frames: int = field(0, "of a clip of pixels; 0: the model's", at_least=0)
  size_px: int = field(0, "short side, and crop; 0: the model's", at_least=0)


@section("image")
class ModelImage(pixels.ImageSpec):
  """Images of the model's size."""

  size_px: int = field(0, "short side, and crop; 0: the model's", at_least=0)
  crop: str = field(
    "center", "where; '': random, held out: center", choices=("", "random", "center")
  )


@section("", run="features")
class Features(SourceJob):
  """`run = "features"`: features of a pre-trained model, as files."""

  clip: ModelClip = field(ModelClip(), "out of videos")
  image: ModelImage = field(ModelImage(), "out of images")
  model_run: str = field("", 'run directory of `run = "pretrain"`')
  features: FeatureFiles = field(FeatureFiles(), "which")
