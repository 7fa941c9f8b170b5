"""Config keys of prompt tuning: a model that draws what example pairs show (A.8)."""

import re

from totojax.config import generate, training
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

TASKS = ("depth", "segmentation", "colourisation", "rotation", "edges")
_COLOUR = "#[0-9a-fA-F]{6}"


@section("data")
class Pairs(Section):
  """Where pairs come from, and what their pixels mean.

  Attributes:
    root: a folder for each task, with NAME_in.png and NAME_out.png, or input/
      and output/ with equal names. Of one that is called otherwise than the
      tasks that are drawn, the PSNR is told.
    depth: of grey g, 0 to 255. "inverse": 255 / g, so that white is at 1, and
      what is darker than a tenth of white at 10. "linear": g / 255. In a true
      picture 0 is a pixel whose depth is not known.
    palette: colours of classes, as #e12828; (): of drawn scenes theirs, of a
      folder those of its outputs.
  """

  root: str = field("", "folder of tasks; '': the project draws scenes")
  val_frac: float = field(0.2, "of a folder's pairs: held out", above=0, below=1)
  depth: str = field("inverse", "of grey", choices=("inverse", "linear"))
  palette: tuple[str, ...] = field((), "of segmentation; (): as said above")

  def __post_init__(self):
    for colour in self.palette:
      if not re.fullmatch(_COLOUR, colour):
        raise ConfigError(f"data.palette has {colour!r}; a colour is # and 6 hex digits: #e12828")
    if len({colour.lower() for colour in self.palette}) != len(self.palette):
      raise ConfigError("data.palette has a colour twice; name each class's own")


@section("prompts")
class Prompts(Section):
  """How many prompts there are, and how long they are."""

  examples: int = field(0, "pairs before the query; 0: as the window holds", at_least=0)
  train: int = field(2000, "of each task", "[gap] A.8", at_least=1)
  val: int = field(64, "held out, of each task", at_least=2)
  objects: int = field(3, "of a drawn scene, at most", at_least=1, at_most=16)


@section("train")
class Amount(Section):
  """How long the model is tuned."""

  steps: int = field(1000, "updates", "A.8", at_least=1)
  batch_rows: int = field(32, "prompts of an update", "[gap] A.8", at_least=1, at_most=65_536)
  lr: float = field(0.0, "peak rate; 0.0: that of the run", "[gap] A.8", at_least=0)
  warmup_frac: float = field(0.05, "of the updates", "[gap] A.8", at_least=0, at_most=1)


@section("output")
class Output(Section):
  """What is drawn."""

  prompts: int = field(6, "of each task", at_least=0)
  side_px: int = field(
    96,
    "of a drawn frame, at least: a multiple of the model's",
    at_least=1,
    at_most=generate.MOST_SIDE_PX,
  )


@section("", run="prompt_tune")
class PromptTune(Job):
  """`run = "prompt_tune"`: a pre-trained model learns to answer prompts (A.8)."""

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  model_run: str = field("", 'run directory of `run = "pretrain"`')
  tokenizer: str = field("", "its file; '': of the run, chain or package", plugin="tokenizer")
  tasks: tuple[str, ...] = field((), "folders, or drawn ones; (): all", once=True)
  data: Pairs = field(Pairs(), "pairs")
  prompts: Prompts = field(Prompts(), "made of them")
  train: Amount = field(Amount(), "how long")
  sampling: generate.Sampling = field(
    generate.Sampling(temperature=0.0), "how a token of an answer is chosen"
  )
  mesh: training.MeshConfig = field(training.MeshConfig(), "devices")
  every: training.Every = field(
    training.Every(log_steps=10, eval_steps=200, checkpoint_steps=200), "how often"
  )
  checkpoint: training.CheckpointConfig = field(training.CheckpointConfig(), "which stay")
  rows: int = field(32, "answers at a time, of a device", at_least=1)
  output: Output = field(Output(), "what is drawn")

  def __post_init__(self):
    if not self.data.root and (unknown := [name for name in self.tasks if name not in TASKS]):
      raise ConfigError(
        f"tasks has {unknown[0]!r}; without data.root they are of {', '.join(TASKS)}"
      )
