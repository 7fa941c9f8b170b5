"""Config keys of generation: videos that a model goes on with."""

from totojax.config import pixels
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

CODECS = ("h264", "vp9", "")
MODES = ("slide", "roll", "extend")
LEAST_TEMPERATURE = 1e-6  # below it logits overflow
MOST_K = 1_000_000  # more than any vocabulary has
MOST_SIDE_PX = 4096  # of a drawn frame
MOST_FRAMES, MOST_SAMPLES = 1_000_000, 10_000


@section("sampling")
class Sampling(Section):
  """How a token is chosen, in this order."""

  temperature: float = field(
    1.0, "of logits; 0.0: the most likely token (greedy)", at_least=0, at_most=1e6
  )
  top_k: int = field(
    0, "only so many of the most likely tokens; 0: all", at_least=0, at_most=MOST_K
  )
  # Holtzman et al., arXiv 1904.09751.
  top_p: float = field(
    1.0, "only the fewest that together have this probability; 1.0: all", above=0, at_most=1
  )
  # Nguyen et al., arXiv 2407.01082.
  min_p: float = field(
    0.0, "only those with this share of the likeliest's probability", at_least=0, at_most=1
  )
  seed: int = field(0, "of the draws", at_least=0, below=SEEDS)

  def __post_init__(self):
    if 0 < self.temperature < LEAST_TEMPERATURE:
      raise ConfigError(
        f"sampling.temperature is {self.temperature!r}; use 0.0, which takes the most likely token,"
        f" or {LEAST_TEMPERATURE:g} and more"
      )


@section("window")
class Window(Section):
  """How a video goes on that is longer than what the model was trained on (A.8).

  Attributes:
    mode: "slide" drops the oldest frames when the window is full and reads the
      others anew, from the first place on. "roll" drops them from the cache and
      reads nothing again: cheaper, and what stays was made with what went.
      "extend" drops none: places go on beyond those of training.
    rope: "extend" alone: "ntk" stretches the base of rotary angles with the
      length, so that the slowest angle ends where it did; "base" takes
      rope_base; "same" leaves it.
  """

  mode: str = field("slide", "when the window is full", choices=MODES)
  drop_frames: int = field(
    0, "latent ones, that go at a time; 0: a quarter of the window", at_least=0
  )
  rope: str = field("ntk", "extend: base of the angles", choices=("ntk", "base", "same"))
  rope_base: float = field(0.0, "of rope = base", "Table 4 has 50,000", at_least=0)

  def __post_init__(self):
    if (self.rope == "base") != (self.rope_base > 0):
      raise ConfigError(
        f"window.rope_base is {self.rope_base:g} with window.rope {self.rope!r}; give a base above"
        " 0 with 'base', and 0.0 with the others"
      )


@section("prompt")
class Prompt(Section):
  """What is continued.

  Attributes:
    path: read as `configs/tokenize.py` reads videos.
    store: of pixels or of tokens; '' without a path: the first that the run
      holds out.
    pairs: a folder of pictures, NAME_in.png and NAME_out.png, or input/ and
      output/ with equal names, which are given before the query: a picture of
      `path`, which may be a folder of them. The one new frame is its answer.
    place: of a file, "start" takes its first frames, and those after them are
      what the model's are compared with; "end" goes on where the file ends.
  """

  path: str = field("", "a video file, or a folder of them; with pairs of pictures")
  store: str = field("", "of clips; '': the run's held-out one, unless there is a path")
  pairs: str = field("", "folder of example pairs, before the pictures of path", "A.8")
  frames: int = field(0, "that the model is given; 0: half of its window", at_least=0)
  clips: int = field(16, "at most, evenly spread; 0: all", at_least=0)
  place: str = field("start", "of a file", choices=("start", "end"))

  def __post_init__(self):
    if self.path and self.store:
      raise ConfigError(
        f"prompt.path is {self.path!r} and prompt.store {self.store!r}; clips come from one of"
        " them: empty the other"
      )
    if not self.pairs:
      return
    if not self.path:
      raise ConfigError(
        f"prompt.pairs is {self.pairs!r} and prompt.path empty; with pairs it is the query, a"
        " picture or a folder of them"
      )
    if self.frames or self.place != "start":
      raise ConfigError(
        "prompt.frames and prompt.place are of videos; with prompt.pairs all pairs and the query"
        " are given: leave them at 0 and 'start'"
      )


@section("clip")
class Frames(Section):
  """How frames are taken out of files; those of a store are taken as they are."""

  stride_frames: int = field(0, "of the resampled video; 0: as the training data", at_least=0)
  fps: float = field(
    0.0, "a video is resampled to; 0.0: as the training data", at_least=0, at_most=1000
  )
  resample: str = field("bicubic", "antialiased", "[gap]", choices=pixels.RESAMPLES)


@section("output")
class Drawn(Section):
  """How videos are drawn."""

  side_px: int = field(
    96, "of a drawn frame, at least: a multiple of the model's", at_least=1, at_most=MOST_SIDE_PX
  )
  fps: float = field(8.0, "of the drawn videos", above=0, at_most=240)
  codec: str = field("h264", "of the .mp4; '': none is written", choices=CODECS)
  crf: int = field(18, "its quality: 0 loses least, 51 (vp9: 63) most", at_least=0, at_most=63)

  def __post_init__(self):
    if self.codec == "h264" and self.crf > 51:
      raise ConfigError(f"output.crf is {self.crf}; of h264 it is at most 51")


@section("output")
class Output(Drawn):
  """What is drawn of them, beside tokens.npy and the tables."""

  clips: int = field(8, "that are drawn", at_least=0)
  samples: int = field(2, "of a clip that are drawn", at_least=1)


@section("perceptual")
class Perceptual(Section):
  """Likeness as networks see it, with weights that you have; none is downloaded.

  Attributes:
    lpips: LPIPS of each frame, by the features of this network.
    frechet: Fréchet's distance of the features of this encoder: of what the
      model makes, and of what needs no network, to those of the truth.
    unit: "clip" gives the encoder clips, of an encoder of images the mean over
      frames; "frame" gives it every frame by itself.
    frames: "all" are those that were given too.
    ddof: 1 as numpy's `cov` and most have it; some papers' codes have 0.
  """

  lpips: str = field("", "its network; '': none", choices=("", "vgg", "alex"))
  backbone: str = field("", "file of torchvision's weights of it")
  lin: str = field("", "file of LPIPS' own weights of it, of version 0.1")
  frechet: str = field("", "encoder, by name or of yours; '': none", plugin="encoder")
  layer: int = field(-1, "of the encoder; -1: its last", at_least=-1)
  pool: str = field("clip", "mean over tokens, or the class token", choices=("clip", "class"))
  norm: bool = field(False, "the layer through the norm after the last block")
  unit: str = field("clip", "what features are of", choices=("clip", "frame"))
  frames: str = field("new", "of a video, that are compared", choices=("new", "all"))
  ddof: int = field(1, "covariances are sums over n - ddof", choices=(0, 1))

  def __post_init__(self):
    if len({bool(word) for word in (self.lpips, self.backbone, self.lin)}) > 1:
      raise ConfigError(
        f"perceptual.lpips is {self.lpips!r} with backbone {self.backbone!r} and lin {self.lin!r};"
        " LPIPS takes all three: 'vgg' or 'alex', torchvision's weights and the package's own"
        " (docs/generation.md)"
      )


@section("", run="generate")
class Generate(Job):
  """`run = "generate"`: videos that a pre-trained model goes on with."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  tokenizer: str = field("", "its file; '': of the run, chain or package", plugin="tokenizer")
  prompt: Prompt = field(Prompt(), "what is continued")
  clip: Frames = field(Frames(), "out of files")
  new_frames: int = field(0, "of pixels; 0: to the window's end", at_least=0, at_most=MOST_FRAMES)
  samples: int = field(1, "of each clip", at_least=1, at_most=MOST_SAMPLES)
  sampling: Sampling = field(Sampling(), "how a token is chosen")
  window: Window = field(Window(), "of longer videos")
  fitted_on: str = field("", "store of tokens for copying and unigram; '': the run's training data")
  rows: int = field(32, "videos at a time, spread over the devices", at_least=1)
  perceptual: Perceptual = field(Perceptual(), "with networks that you have")
  output: Output = field(Output(), "what is drawn")

  def __post_init__(self):
    if self.prompt.pairs and (self.new_frames > 1 or self.clip != Frames()):
      raise ConfigError(
        "new_frames and the section clip are of videos; with prompt.pairs one frame is drawn, the"
        " answer: leave them as they are"
      )
