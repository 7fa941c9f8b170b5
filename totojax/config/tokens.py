"""Config keys of tokens: tokenizers, and what is made of pixels with them."""

from collections.abc import Mapping
import math
import re

from totojax.config import model as models, training
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

FAMILIES = ("dvae", "fsq")  # that are trained here


@section("dvae")
class DvaeConfig(models.DvaeSize):
  """Size of the encoder and the decoder of a dVAE (Ramesh et al., A.1)."""

  vocab: int = field(8192, "codes", "section 3.4", at_least=1)

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return 2 ** (self.groups - 1)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels of each group, encoder order."""
    return tuple(self.hidden * 2**i for i in range(self.groups))


@section("fsq")
class FsqConfig(Section):
  """Size of a tokenizer of finite scalars, or of a codebook, over patches (`tokenizers/fsq.py`)."""

  levels: tuple[int, ...] = field((8, 8, 8, 8), "of each channel of a code", at_least=2, some=True)
  codebook: int = field(0, "rows that are learnt, in place of levels; 0: levels", at_least=0)
  embed: int = field(24, "channels of a row", at_least=1)
  side_px: int = field(8, "of a patch", at_least=1)
  frame_factor: int = field(1, "frames of a token; above 1: of clips, causal", at_least=1)
  width: int = field(128, "channels", at_least=1)
  hidden: int = field(128, "channels within a block", at_least=1)
  encoder_blocks: int = field(4, "residual", at_least=0)
  decoder_blocks: int = field(6, "residual", at_least=0)

  def __post_init__(self):
    if self.channels > min(self.width, self.values):
      raise ConfigError(
        f"codes of section fsq have {self.channels} channels; they must fit fsq.width {self.width}"
        f" and the {self.values} numbers of a patch"
      )

  @property
  def family(self) -> str:
    return "fsq"

  @property
  def vocab(self) -> int:
    """Codes."""
    return self.codebook or math.prod(self.levels)

  @property
  def channels(self) -> int:
    """Of what the quantiser reads."""
    return self.embed if self.codebook else len(self.levels)

  @property
  def factor(self) -> int:
    """Pixels of one side of a token."""
    return self.side_px

  @property
  def latents(self) -> models.LatentSpec:
    """A frame or clip's codes: causal, so the first latent frame is one frame."""
    return models.LatentSpec(frame_factor=self.frame_factor)

  @property
  def values(self) -> int:
    """Numbers of a patch."""
    return 3 * self.frame_factor * self.side_px**2


@section("objective")
class TokenizerConfig(Section):
  """How a dVAE is trained (Ramesh et al., A.2); see `tasks/tokenizer.py`.

  Attributes:
    start: the encoder's last layer at the start: "random", or "patches": a
      ridge regression of the k-means distances of each patch from what the
      layer reads, over the start frames.
    start_logit_std: standard deviation of a position's logits after "patches".
    teacher: weight of the cross-entropy to the k-means codes at the first
      update, in nats.
  """

  loss: str = field("logit_laplace", "l2: squared pixels", "A.3", choices=("logit_laplace", "l2"))
  kl: float = field(6.6, "final weight of the KL divergence", "A.2", at_least=0)
  kl_steps: int = field(5000, "until it has risen from 0", "A.2", at_least=1)
  tau_start: float = field(1.0, "temperature, at first", "A.2", above=0)
  tau_end: float = field(1 / 16, "and after tau_steps", "A.2", above=0)
  tau_steps: int = field(150_000, "of the cosine between", "A.2", at_least=1)
  usage: float = field(0.0, "weight of log V - H(mean q), nats", "ours: off", at_least=0)
  start: str = field("random", "of the last layer", "patches: ours", choices=("random", "patches"))
  start_logit_std: float = field(10.0, "of a start of patches", above=0)
  teacher: float = field(0.0, "weight of the k-means codes", "ours: off", at_least=0)
  teacher_steps: int = field(1, "until it has fallen to 0", at_least=1)

  @property
  def needs_kmeans(self) -> bool:
    """Whether training starts from k-means centres of patches."""
    return self.start == "patches" or self.teacher > 0


@section("dark")
class FsqTraining(Section):
  """How a tokenizer of finite scalars is trained, beside its squared error (`tasks/fsq.py`)."""

  dim_frac: float = field(0.08, "of the clips of a batch: darkened", at_least=0, at_most=1)
  dim: tuple[float, float] = field(
    (0.03, 0.7), "times the light, drawn uniformly in the logarithm", above=0, at_most=1
  )
  codebook: float = field(0.125, "weight of the distance of latents to their rows", at_least=0)
  dim_weight: float = field(0.5, "their error counts light ** -this", at_least=0)
  grain: float = field(1.0, "noise of a darkened clip, standard deviation in levels", at_least=0)


@section("views")
class FsqViews(Section):
  """How finite scalars see their training pictures: few are learnt by heart otherwise.

  Each clip by itself, all of its frames alike.
  """

  move_px: int = field(0, "at most, each way: the rim is mirrored", at_least=0)
  turn: bool = field(False, "mirrored, upside down and on their side")
  gain: float = field(0.0, "of each channel: times or over 1 + this, at most", at_least=0)


@section("train")
class TokenizerAmount(Section):
  """How long a tokenizer is trained."""

  steps: int = field(3_000_000, "updates", "A.2", at_least=1)
  batch_frames: int = field(512, "of an update, or clips", "A.2", at_least=1)
  clip_frames: int = field(0, "of a clip; 0: single frames", at_least=0)
  microbatches: int = field(1, "parts of a batch, in turn", at_least=1)
  start_frames: int = field(256, "that a start of patches, or a teacher, sees", at_least=1)
  score_frames: int = field(512, "held out, of each source", at_least=1)
  least_used_frac: float = field(0.0, "of the codes, at the end; 0.0: any", at_least=0, at_most=1)
  dtype: str = field("float32", "of the file", choices=("float32", "float16"))


@section("data")
class TokenizerData(Section):
  """What a tokenizer is trained and scored on: stores of pixels."""

  train: Mapping[str, training.Share] = field({}, "name -> store")
  validation: Mapping[str, str] = field({}, "name -> folder of a store")
  reading: training.Reading = field(training.Reading(), "how batches are read")


@section("card")
class Card(Section):
  """What the file says of itself, beside steps and scores."""

  command: str = field("", "that makes it again")
  data: str = field("", "that it was trained on")


@section("", run="tokenizer")
class Tokenizer(Job):
  """`run = "tokenizer"`: a dVAE as DALL-E trained it (Ramesh et al., A.2), or finite scalars."""

  seed: int = field(0, "of parameters and data", at_least=0, below=SEEDS)
  weights: str = field("train", 'or a tokenizer file, or "shipped"')
  family: str = field("dvae", "of what is trained: its size's section", choices=FAMILIES)
  dvae: DvaeConfig = field(DvaeConfig(), "its size")
  fsq: FsqConfig = field(FsqConfig(), "its size")
  objective: TokenizerConfig = field(TokenizerConfig(), "its losses, of a dVAE")
  dark: FsqTraining = field(FsqTraining(), "dark clips, of finite scalars")
  views: FsqViews = field(FsqViews(), "other views of them, of finite scalars")
  train: TokenizerAmount = field(TokenizerAmount(), "how long")
  optim: training.AdamWConfig = field(
    training.AdamWConfig(
      lr=1e-4, warmup_steps=0, end_lr_frac=0.0125, b2=0.999, weight_decay=1e-4, clip_norm=1e9
    ),
    "the optimiser",
    "A.2, without clipping",
  )
  data: TokenizerData = field(TokenizerData(), "on what")
  mesh: training.MeshConfig = field(training.MeshConfig(), "devices")
  every: training.Every = field(
    training.Every(eval_steps=10_000, checkpoint_steps=5000), "how often"
  )
  checkpoint: training.CheckpointConfig = field(training.CheckpointConfig(), "which stay")
  card: Card = field(Card(), "of the file")

  @property
  def size(self) -> DvaeConfig | FsqConfig:
    """Of what is trained."""
    return self.dvae if self.family == "dvae" else self.fsq

  def __post_init__(self):
    times, clip = self.fsq.frame_factor if self.family == "fsq" else 1, self.train.clip_frames
    if (times > 1) != (clip > 0) or (times > 1 and clip % times != 1):
      raise ConfigError(
        f"train.clip_frames is {clip}; a {self.family} whose tokens are of {times} frames is"
        f" trained on {f'clips of 1 + a multiple of {times}' if times > 1 else 'single frames: 0'}"
      )


@section("tokenizing")
class Tokenizing(Section):
  """What is tokenized and how."""

  pixels: str = field("", "folder of the pixel stores train and val")
  every: int = field(1, "frames of a clip from one that is kept to the next", at_least=1)
  tokenizer: str = field("shipped", 'a tokenizer file, or "shipped"', plugin="tokenizer")
  records: int = field(32, "clips that are encoded at a time", at_least=1)
  records_per_shard: int = field(512, "clips of a shard", at_least=1)
  report_frames: int = field(512, "held out, for PSNR", at_least=1)
  kmeans_frames: int = field(2000, "to train the baseline on", at_least=1)
  kmeans_patches: int = field(20_000, "of these", at_least=1, unit="patches")


@section("", run="shards")
class Shards(Job):
  """`run = "shards"`: stores of pixels to stores of tokens."""

  seed: int = field(0, "of the k-means baseline", at_least=0, below=SEEDS)
  tokenizing: Tokenizing = field(Tokenizing(), "what and how")


@section("tokens_report")
class ReportStores(Section):
  """What is counted and shown.

  Attributes:
    pixels: pixel stores that token stores were made from, by the names of
      these: originals beside reconstructions.
    images: a frame of a video is one image.
    adjacency: whether n-grams go on into the next row ("raster").
  """

  stores: Mapping[str, str] = field({}, "name -> folder of a token store")
  tokenizer: str = field("", 'that shows images: a file, "shipped"; "": none')
  pixels: Mapping[str, str] = field({}, "name -> folder of their pixels")
  images: int = field(10_000, "of each store, for 2- and 3-grams; 0: all", "A.6", at_least=0)
  adjacency: str = field("raster", "of tokens in n-grams", "[gap]", choices=("raster", "row"))

  def __post_init__(self):
    extra = sorted(set(self.pixels) - set(self.stores))
    if extra:
      raise ConfigError(
        f"tokens_report.pixels names {extra}, and stores has {sorted(self.stores)}; use the name of"
        " the token store that was made from them"
      )
    if self.pixels and not self.tokenizer:
      raise ConfigError(
        "tokens_report.pixels are shown beside reconstructions, which need a"
        " tokenizer; give tokens_report.tokenizer, or leave pixels empty"
      )


@section("", run="tokens_report")
class TokensReport(Job):
  """`run = "tokens_report"`: what is in stores of tokens."""

  tokens_report: ReportStores = field(ReportStores(), "of which stores")


@section("official")
class OfficialWeights(Section):
  """Which released weights, and where they are; see docs/tokenizers.md.

  Attributes:
    files: in the order of that page; of the dVAE and the VQGANs (): downloaded.
  """

  kind: str = field(
    "dvae",
    "which",
    choices=(
      "dvae",
      "vqgan-1k",
      "vqgan-16k",
      "llamagen",
      "amused",
      "diffusers",
      "ibq",
      "open-magvit2",
      "cosmos-di",
      "vidtok",
      "cosmos-dv",
    ),
  )
  files: tuple[str, ...] = field((), "on this disk")
  variant: str = field(
    "",
    "where names of files do not tell: version of a VidTok, compression of a Cosmos DV",
    choices=("", "v1.0", "v1.1", "4x8x8", "8x8x8", "8x16x16"),
  )
  urls: tuple[str, ...] = field((), "addresses; (): the official ones")
  sha256: tuple[str, ...] = field((), "of the files; (): none is published")

  def __post_init__(self):
    if self.files and self.urls:
      raise ConfigError(
        "official.files and official.urls are both set; keep the one that the weights are read from"
      )
    for word in self.sha256:
      if not re.fullmatch("[0-9a-fA-F]{64}", word):
        raise ConfigError(f"official.sha256 has {word!r}; a SHA-256 has 64 hex digits")


@section("", run="official")
class Official(Job):
  """`run = "official"`: released tokenizers, as files of ours."""

  official: OfficialWeights = field(OfficialWeights(), "which")


@section("leakage")
class Comparison(Section):
  """What is compared."""

  train: tuple[str, ...] = field((), "stores that are trained on")
  validation: tuple[str, ...] = field((), "stores that are held out")
  per: str = field("record", "what must not be equal", choices=("record", "frame"))
  fail: bool = field(True, "an overlap is an error")


@section("", run="leakage")
class Leakage(Job):
  """`run = "leakage"`: is anything held out also trained on?"""

  leakage: Comparison = field(Comparison(), "what is compared")
