"""Config keys of surprise: how unlikely a model finds videos that cannot be."""

from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

SETS = ("rendered", "csv", "intphys", "intphys_test", "intphys2", "grasp", "inflevel")
EVENTS = ("vanish", "vanish_screen", "colour", "colour_screen", "wall")


@section("data")
class Videos(Section):
  """Which videos are scored, as they lie on disk (docs/generation.md).

  Attributes:
    frame_step: every how many frames of a file one is taken; 0: as its authors
      have it (IntPhys: 2; GRASP, IntPhys 2: 10; InfLevel: 5), and 1 of a CSV.
    fit: of frames that are not square. "crop" cuts the middle out, "squash"
      takes the whole; "": as its authors have it (InfLevel squash, others crop).
  """

  set: str = field("rendered", "data set", choices=SETS)
  root: str = field("", "its folder; of a CSV what paths are relative to")
  list: str = field("", "csv: path, group, label; inflevel: its table of pairs; ''")
  frame_step: int = field(0, "frames; 0: as its authors", at_least=0)
  fit: str = field("", "of frames that are not square", choices=("", "crop", "squash"))
  groups: int = field(0, "at most, evenly spread; 0: all", at_least=0)

  def __post_init__(self):
    if self.set == "csv" and not self.list:
      raise ConfigError("data.list is empty; with data.set 'csv' it names the CSV file")
    if self.list and self.set not in ("csv", "inflevel"):
      raise ConfigError(
        f"data.list is {self.list!r}, and data.set {self.set!r} has none: set it to ''"
      )
    if self.set == "rendered" and self.root:
      raise ConfigError(
        f"data.root is {self.root!r}, and data.set 'rendered' reads no files; choose one of"
        f" {', '.join(SETS[1:])}"
      )
    if self.set not in ("rendered", "csv") and not self.root:
      raise ConfigError(f"data.root is empty; set it to the folder of {self.set}")


@section("rendered")
class Rendered(Section):
  """Scenes that the project draws: two possible videos and two impossible ones each."""

  events: tuple[str, ...] = field((), "what cannot be; (): all", choices=EVENTS)
  scenes: int = field(64, "of each event", at_least=1, at_most=100_000)
  frames: int = field(0, "of a video; 0: the window", at_least=0, at_most=10_000)
  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)


@section("windows")
class Windows(Section):
  """How a video is scored: windows that slide over it, of each the frames after a context.

  Attributes:
    choose: which frames count. A token is given all before it in its window
      whatever the context, which says only from where on frames are scored.
      "fixed" takes `context`, 0 the least of `contexts`; "filtered" the least
      loss over contexts of each window, as V-JEPA's study has it; "validation"
      what is best on one half of the groups, and tells of the other half.
    aggregate: of windows; with "validation" what is better there.
  """

  frames: int = field(0, "of a window; 0: the model's", at_least=0)
  stride: int = field(2, "frames between windows", "V-JEPA's", at_least=1)
  contexts: tuple[int, ...] = field(
    (), "frames given before scoring; (): quarters of the window", at_least=1
  )
  choose: str = field("fixed", "what counts", choices=("fixed", "filtered", "validation"))
  context: int = field(0, "fixed: frames given; 0: the least of contexts", at_least=0)
  aggregate: str = field("mean", "over windows", choices=("mean", "max"))

  def __post_init__(self):
    if self.choose != "fixed" and self.context:
      raise ConfigError(
        f"windows.context is {self.context} with windows.choose {self.choose!r}; it is of 'fixed':"
        " set it to 0"
      )
    if self.contexts and self.context and self.context not in self.contexts:
      raise ConfigError(
        f"windows.context is {self.context}, which is none of windows.contexts {self.contexts}"
      )


@section("output")
class Output(Section):
  """What is drawn."""

  pairs: int = field(10, "worst frame and heat map of both videos", at_least=0)
  side_px: int = field(128, "of a drawn frame, at least", at_least=1, at_most=4096)


@section("", run="surprise")
class Surprise(Job):
  """`run = "surprise"`: whether impossible videos surprise a model more than possible ones."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  tokenizer: str = field("", "its file; '': of the run, chain or package", plugin="tokenizer")
  data: Videos = field(Videos(), "which videos")
  rendered: Rendered = field(Rendered(), "of data.set = rendered")
  windows: Windows = field(Windows(), "how a video is scored")
  rows: int = field(32, "windows at a time, of a device", at_least=1)
  output: Output = field(Output(), "what is drawn")
