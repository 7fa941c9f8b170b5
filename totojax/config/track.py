"""Config keys of tracking by features: DAVIS, JHMDB, VIP (Table 10, Figures 5 and 8)."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from ml_collections import ConfigDict

from totojax import plugins
from totojax.config import schema
from totojax.config.generate import CODECS
from totojax.config.propagation import PRESETS, Propagation
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

SETS = ("davis", "jhmdb", "vip")
BASELINES = ("copy", "pixels", "untrained")
INPUTS = ("image", "self_repeat", "video")


@section("data")
class Tracks(Section):
  """Which annotated videos, as they lie on disk (docs/tracking.md)."""

  set: str = field("davis", "data set", choices=SETS)
  root: str = field("", "its folder")
  year: int = field(2017, "of DAVIS; of 2016 all objects are one", choices=(2017, 2016))
  split: str = field("val", "of its lists; of jhmdb '1', '2' or '3'")
  list: str = field("", "file of sequences in its place; '': its own")
  resolution: str = field("480p", "of DAVIS: folder of frames and masks")
  sequences: tuple[str, ...] = field((), "names of those that are tracked; (): all", once=True)


@section("encoders.NAME")
class Tracker(Section):
  """Whose features: of an encoder by name or file, of a run of ours, or on disk.

  Attributes:
    features: folder with a file for each sequence, NAME.npz or NAME.safetensors,
      whose arrays layer_<number> are [frames, height, width, values].
  """

  encoder: str = field("", "by name, or of yours (features.encoder)", plugin="encoder")
  model_run: str = field("", 'or run directory of `run = "pretrain"`')
  tokenizer: str = field("", "of the run; '': found by itself", plugin="tokenizer")
  features: str = field("", "or folder of features on disk")
  untrained: bool = field(False, "the run's model as it was before training")
  norm: bool = field(False, "an encoder's layers through the norm after the last block")
  layers: tuple[int, ...] = field((), "that are tried; (): all", at_least=0, once=True)

  def __post_init__(self):
    named = [bool(one) for one in (self.encoder, self.model_run, self.features)]
    if sum(named) != 1 or (self.untrained and not self.model_run):
      raise ConfigError(
        f"encoders.NAME has encoder {self.encoder!r}, model_run {self.model_run!r}, features"
        f" {self.features!r} and untrained {self.untrained}; give one of the first three, and"
        " untrained with model_run"
      )


@section("frames")
class Frames(Section):
  """How a frame comes to features; of runs of ours but for its size.

  Frames are resized to squares, whatever their ratio, or to size_px x width_px.

  Attributes:
    width_px: 880 with a size_px of 480 is what DINO reads of DAVIS; of our models,
      of pixels, and of maps on disk.
    input: what of a sequence is read. "image": the frame alone, as an image;
      "self_repeat": it twice, of which the second has seen the whole frame;
      "video": the last frame of a clip, before whose start stand copies.
  """

  size_px: int = field(256, "height of a frame; 0: the encoder's", "Table 10: 256/8", at_least=0)
  width_px: int = field(0, "its width; 0: the same", at_least=0)
  input: str = field("image", "of our models", "[gap]", choices=INPUTS)
  clip_frames: int = field(4, "of input = video", "[gap] 4,096 tokens", at_least=1, at_most=64)
  full_attn: bool = field(False, "each token sees all of its sequence", "[gap]")
  rope_base: float = field(0.0, "of our models; 0: as trained", "[gap]", at_least=0)
  rows: int = field(8, "sequences of a forward pass", at_least=1)

  def __post_init__(self):
    if self.width_px and not self.size_px:
      raise ConfigError(
        f"frames.width_px is {self.width_px} and frames.size_px 0; give the height in size_px"
      )

  def size(self, side_px: int) -> tuple[int, int]:
    """(height, width) of frames, where a height of 0 is `side_px`."""
    height = self.size_px or side_px
    return height, self.width_px or height


@section("output")
class Output(Section):
  """What is drawn and kept, of the best layer."""

  masks: bool = field(True, "predictions as files: indexed PNGs, or joints in a table")
  sequences: int = field(3, "that are drawn", at_least=0)
  frames: int = field(5, "of each, on the page", "Figure 5", at_least=2)
  width_px: int = field(240, "of a frame on the page", at_least=16)
  codec: str = field("h264", "of the .mp4; '': none is written", choices=CODECS)
  crf: int = field(23, "its quality: 0 loses least, 51 most", at_least=0, at_most=51)
  fps: float = field(24.0, "of the .mp4", "DAVIS", above=0, at_most=240)


@section("paper")
class Paper(Section):
  """The paper's numbers that stand beside the first encoder."""

  name: str = field("", "where they are printed; '': none")
  score: float = field(0.0, "J&F, PCK at 0.1 or mIoU", at_least=0, at_most=100, unit="per cent")


@section("", run="track")
class Track(Job):
  """`run = "track"`: labels of a first frame go on by the likeness of features."""

  seed: int = field(0, "of intervals, and the first of untrained models", at_least=0, below=SEEDS)
  data: Tracks = field(Tracks(), "which videos")
  encoders: Mapping[str, Tracker] = field({}, "name -> whose features")
  baselines: tuple[str, ...] = field(
    BASELINES,
    "copy: the first frame's labels; pixels: patches as features; untrained: runs before training",
    choices=BASELINES,
    once=True,
  )
  propagation: Mapping[str, Propagation] = field({"dino": PRESETS["dino"]}, "name -> rules")
  frames: Frames = field(Frames(), "how a frame comes to features")
  chunk: int = field(128, "places whose similarities are there at a time", at_least=1)
  output: Output = field(Output(), "what is drawn and kept")
  select: int = field(
    0, "first sequences, which choose layers; others are scored; 0: all do both", at_least=0
  )
  seeds: Mapping[str, tuple[str, ...]] = field({}, "name -> encoders that differ in their seed")
  paper: Paper = field(Paper(), "what it is compared with")

  def __post_init__(self):
    check_names(self.encoders, BASELINES)
    for name, members in self.seeds.items():
      if lost := sorted({*members} - {*self.encoders}):
        raise ConfigError(f"seeds.{name} has {lost[0]!r}, which encoders has not; name some of it")
      if len({*members}) < 2 or len({*members}) < len(members):
        raise ConfigError(f"seeds.{name} is {members}; an interval takes two or more encoders")
      if name in self.encoders or name in BASELINES:
        raise ConfigError(f"seeds.{name} has the name of a row; give it another")
    if wrong := sorted(n for n in self.propagation if not n.replace("_", "").isalnum()):
      raise ConfigError(f"propagation.{wrong[0]} is no name; use letters, digits and '_'")
    if not self.propagation:
      raise ConfigError("propagation is empty; name rules: configs/davis.py has presets")
    if not self.encoders and "pixels" not in self.baselines and "copy" not in self.baselines:
      raise ConfigError("encoders is empty, and so are baselines; name what is to track")
    if self.data.set == "jhmdb" and self.data.split not in ("1", "2", "3"):
      raise ConfigError(f"data.split is {self.data.split!r}; of jhmdb it is '1', '2' or '3'")


def _tracker(text: str) -> Tracker:
  """An encoder, "features:FOLDER" on disk, "untrained:RUN", or else a run."""
  kind, _, path = text.partition(":")
  if kind == "features":
    return Tracker(features=path)
  if kind == "untrained":
    return Tracker(model_run=path, untrained=True)
  if plugins.is_reference(text) or (path and kind.partition("@")[0] in plugins.ENCODERS):
    return Tracker(encoder=text)
  return Tracker(model_run=text)


def trackers(parts: Iterable[str]) -> dict[str, Tracker]:
  """What "NAME=WHAT"s of an argument name; raises ConfigError where a name is missing."""
  found = {}
  for part in filter(None, parts):
    name, equals, what = part.partition("=")
    if not equals:
      raise ConfigError(
        f"{part} has no name: write NAME={part}; rules are {', '.join(PRESETS)}, with + between"
      )
    found[name] = _tracker(what)
  return found


def check_names(encoders: Mapping[str, Tracker], baselines: Sequence[str]) -> None:
  """Raises ConfigError for a name that is none of a folder, or that of a baseline."""
  if wrong := sorted(n for n in encoders if not n.replace("-", "").replace("_", "").isalnum()):
    raise ConfigError(f"encoders.{wrong[0]} is no name; use letters, digits, '-' and '_'")
  if taken := sorted({*encoders} & {*baselines}):
    raise ConfigError(f"encoders.{taken[0]} has the name of a baseline; give it another")


# Rules of each set where none are named, and what is otherwise in them.
_RULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
  "davis": ("dino", {}),
  "jhmdb": ("rvm", {}),
  "vip": ("rvm", {"top_k": 10}),
}


def job(name: str, argument: str = "") -> ConfigDict:
  """The config of a data set.

  Args:
    name: of `SETS`.
    argument: "[RULES,]NAME=WHAT,...": presets with "+" between them, and what
      each tracker is, as `_tracker` reads it.

  Raises:
    ConfigError: a preset is unknown, or a tracker has no name.
  """
  rules, changes = _RULES[name]
  parts = [part for part in argument.split(",") if part]
  if parts and "=" not in parts[0] and {*parts[0].split("+")} <= {*PRESETS}:
    rules = parts.pop(0)
  return schema.to_config(
    Track(
      data=Tracks(set=name, split="1" if name == "jhmdb" else "val"),
      encoders=trackers(parts),
      propagation={
        rule: dataclasses.replace(PRESETS[rule], **(changes if rule == "rvm" else {}))
        for rule in rules.split("+")
      },
    )
  )
