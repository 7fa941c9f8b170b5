"""Config keys of the page on which a model is played with."""

from totojax.config import generate
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

PAGE_SEED = 20_250_109  # of what is rendered for the page: no config's


@section("prompt")
class Clips(Section):
  """Clips that the page begins with.

  Attributes:
    path: read as `configs/tokenize.py` reads videos.
    store: of pixels or of tokens; '' without a path: the first that the run
      holds out, if it is at hand.
  """

  path: str = field("", "a video file, or a folder of them")
  store: str = field("", "of clips; '': the run's held-out one, unless there is a path")
  clips: int = field(8, "of them at most, evenly spread", at_least=1, at_most=100)
  rendered: int = field(4, "clips that the project draws", at_least=0, at_most=100)
  seed: int = field(PAGE_SEED, "of what it draws", at_least=0, below=SEEDS)

  def __post_init__(self):
    if self.path and self.store:
      raise ConfigError(
        f"prompt.path is {self.path!r} and prompt.store {self.store!r}; clips come from one of"
        " them: empty the other"
      )


@section("server")
class Server(Section):
  """Where the page is served.

  Attributes:
    host: an address of this machine. Whoever reaches it can upload and decode:
      there is no password.
  """

  host: str = field("127.0.0.1", "address; of loopback this machine's programs alone reach it")
  port: int = field(8765, "0: a free one", at_least=0, at_most=65_535)

  def __post_init__(self):
    if not self.host.strip():
      raise ConfigError(
        "server.host is empty; give an address of this machine: 127.0.0.1, or 0.0.0.0 for all that"
        " it has"
      )


@section("limits")
class Limits(Section):
  """What one may ask of the page."""

  upload_mb: float = field(64.0, "of a video, 10^6 bytes", above=0, at_most=4096)
  uploads: int = field(16, "kept; then the oldest goes", at_least=1, at_most=1000)
  upload_s: float = field(60.0, "for a video to come, and again to be read", above=0)
  new_frames: int = field(64, "of pixels", at_least=1, at_most=10_000)
  samples: int = field(4, "of a clip at a time", at_least=1, at_most=100)
  decode_s: float = field(600.0, "for one decoding, in which it ends with a frame", above=0)
  waiting: int = field(8, "decodings in line", at_least=1, at_most=1000)
  kept: int = field(16, "finished decodings that can be downloaded", at_least=1, at_most=1000)


@section("", run="playground")
class Playground(Job):
  """`run = "playground"`: a page on which a model goes on with clips."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  tokenizer: str = field("", "its file; '': of the run, chain or package", plugin="tokenizer")
  prompt: Clips = field(Clips(), "what there is to go on with")
  clip: generate.Frames = field(generate.Frames(), "out of files")
  sampling: generate.Sampling = field(generate.Sampling(), "what the page begins with")
  window: generate.Window = field(generate.Window(), "of longer videos")
  output: generate.Drawn = field(generate.Drawn(), "what is downloaded")
  server: Server = field(Server(), "where")
  limits: Limits = field(Limits(), "what one may ask for")
