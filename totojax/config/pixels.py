"""Config keys of pixels: what is rendered, and cut out of videos and images."""

import dataclasses
from typing import Self

from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

MOTIONS = tuple("still right left up down clockwise anticlockwise swing spin pulse".split())
BACKGROUNDS = ("plain", "gradient", "stripes", "checker", "noise")
LABELS = ("motion", "shape", "both")
RESAMPLES = ("bicubic", "bilinear", "lanczos")
SHORT = ("", "skip", "stride", "hold")
HELD_OUT = ("val", "test", "dev", "eval")  # what names of splits that are not trained on begin with


@section("scene")
class Scene(Section):
  """What `data/pixels/synthetic.py` renders; lengths are in frame sides."""

  frames: int = field(16, "of a clip", at_least=1)
  size_px: int = field(32, "side of the square frames", at_least=8)
  objects: int = field(2, "at most, the labelled one included", at_least=1)
  occluder_frac: float = field(0.3, "clips with a bar in front", at_least=0, at_most=1)
  pan_frac: float = field(0.25, "clips whose background moves", at_least=0, at_most=1)
  motions: tuple[str, ...] = field((), "of objects; (): all", choices=MOTIONS)
  backgrounds: tuple[str, ...] = field((), "behind the objects; (): all", choices=BACKGROUNDS)
  radius: tuple[float, float] = field(
    (0.22, 0.30), "of the large object, least and greatest", above=0, at_most=0.5
  )
  speed: tuple[float, float] = field(
    (0.05, 0.085), "of what moves straight, a frame: least and greatest", above=0, at_most=0.5
  )

  def __post_init__(self):
    for name in ("radius", "speed"):
      least, greatest = getattr(self, name)
      if least > greatest:
        raise ConfigError(f"scene.{name} is {(least, greatest)}; give the smaller first")

  @property
  def moves(self) -> tuple[str, ...]:
    """The motions that are rendered; labels count them in this order."""
    return tuple(self.motions) or MOTIONS


@section("amount")
class RenderAmount(Section):
  """How many clips are rendered."""

  train: int = field(2000, "clips", at_least=0)
  val: int = field(256, "clips, held out", at_least=0)
  label: str = field("motion", "what is labelled", choices=LABELS)
  records_per_shard: int = field(256, "clips of a shard", at_least=1)


@section("", run="render")
class Render(Job):
  """`run = "render"`: labelled clips of moving textured objects."""

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  scene: Scene = field(Scene(), "what is rendered")
  amount: RenderAmount = field(RenderAmount(), "how much")


@section("clip")
class Clip(Section):
  """What is cut out of each video (section 3.4).

  Attributes:
    short: what is done with a video in which a clip does not fit. "skip" lists
      it; "stride" takes the largest stride that fits, and lists it where not
      even 1 does; "hold" shows the last frame again. "" is "skip", and with
      `views` "hold", as SlowFast has it.
  """

  frames: int = field(16, "of a clip", "section 3.4", above=0)
  stride_frames: int = field(4, "of the resampled video", "3.4", above=0)
  fps: float = field(30.0, "a video is resampled to", "[gap] Table 2", above=0)
  size_px: int = field(128, "short side, and crop", "section 3.4", above=0)
  crops: int = field(1, "clips of a video or stretch", "[gap]", above=0)
  resample: str = field("bicubic", "antialiased", "[gap]", choices=RESAMPLES)
  short: str = field("", "videos too short for one; '': skip", "[gap]", choices=SHORT)

  @property
  def span_frames(self) -> int:
    """Frames of the resampled video from a clip's first to its last."""
    return (self.frames - 1) * self.stride_frames + 1


@section("clip")
class ClipSpec(Clip):
  """The same where long videos may give more clips than short ones.

  Attributes:
    sampling: "uniform" is as many of each video, "duration" in proportion to its
      length; "whole" is one clip of each, from its first frame to its last, whose
      pictures are squashed into squares so that nothing is cut off.
  """

  sampling: str = field("uniform", "of videos", "[gap]", choices=("uniform", "duration", "whole"))
  every_s: float = field(10.0, "duration: of video for a stretch", above=0)
  # All clips of a video are in memory at once.
  most_stretches: int = field(64, "duration: of one video", above=0)

  def __post_init__(self):
    if self.sampling == "whole" and self.crops != 1:
      raise ConfigError(
        f"clip.crops is {self.crops}, and clip.sampling 'whole' gives one; set it to 1"
      )


@section("views")
class Views(Section):
  """Clips as SlowFast samples Kinetics (section 4.3), in place of `clip`'s.

  Frames, stride, rate and size stay those of `clip`.

  Attributes:
    offset: whether the spans of "test" go from the first to the last possible
      one; otherwise, as SlowFast has it, they divide what is left of the video
      into `temporal` parts and begin with each.
  """

  mode: str = field("", "clip.crops random, views, or as `clip`", choices=("train", "test", ""))
  temporal: int = field(10, "test: spans of a video", "SlowFast", at_least=1)
  spatial: int = field(3, "test: along the long side; 1: central", "SlowFast", choices=(1, 3))
  offset: bool = field(False, "test: the last span ends with the video")
  short_frac: tuple[float, float] = field(
    (8 / 7, 10 / 7),
    "train: the short side is drawn, in sizes of the clip",
    "SlowFast: 256 to 320 for 224",
    at_least=1,
  )
  flip_frac: float = field(0.5, "train: clips that are mirrored", "SlowFast", at_least=0, at_most=1)

  def __post_init__(self):
    least, greatest = self.short_frac
    if least > greatest:
      raise ConfigError(f"views.short_frac is {self.short_frac}; give the smaller size first")


@section("image")
class ImageSpec(Section):
  """What is cut out of each image.

  Attributes:
    crop: where. "" is "random", and for splits that are held out "center", once;
      of which split an image is, `of_split` knows by its name.
    center_frac: the side of a central crop over the short side that the image
      is resized to. Objects are as large as in random windows at 1.0, and as in
      MAE's (`labels.ViewConfig`), which are zoomed in, at 0.875.
  """

  size_px: int = field(128, "side of a crop; random: and short side", "section 3.4", above=0)
  crops: int = field(1, "windows of one image", "[gap]", above=0)
  crop: str = field(
    "",
    "where; '': random, held out: center",
    "[gap] 3.4 says it of videos",
    choices=("", "random", "center"),
  )
  center_frac: float = field(
    1.0, "center: crop / short side before", "[gap] 3.4; MAE: 0.875", at_least=0.01, at_most=1
  )
  resample: str = field("bicubic", "antialiased", "[gap]", choices=RESAMPLES)
  animated: str = field("refuse", "of several pictures in a file", choices=("refuse", "first"))

  def __post_init__(self):
    if self.crop == "center" and self.crops != 1:
      raise ConfigError(
        f"image.crops is {self.crops} with center crops, which are all the"
        " same; use 1, or random crops"
      )

  def of_split(self, name: str) -> Self:
    """What is cut out of the images of one split.

    Raises:
      ConfigError: windows of a held-out split would be random.
    """
    held_out = name.rpartition("/")[2].lower().startswith(HELD_OUT)
    if held_out and self.crop == "random":
      raise ConfigError(
        f"image.crop is 'random', and split {name!r} is held out: scores would depend on what is"
        " drawn; leave it '' (random of other splits, central of this one), or use 'center'"
      )
    if self.crop == "center" or (held_out and not self.crop):
      return dataclasses.replace(self, crop="center", crops=1)
    return dataclasses.replace(self, crop="random", center_frac=1.0)


@section("decoding")
class Decoding(Section):
  """Which videos are decoded."""

  root: str = field("", "folder that holds them, at any depth")
  val_frac: float = field(0.1, "of them, held out", above=0, below=1)
  records_per_shard: int = field(256, "clips of a shard", at_least=1)


@section("", run="decode")
class Decode(Job):
  """`run = "decode"`: clips out of a folder of videos (section 3.4)."""

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  clip: Clip = field(Clip(), "what is cut out of a video")
  views: Views = field(Views(), "training clips that are varied; held-out ones never are")
  decoding: Decoding = field(Decoding(), "which videos")


@section("crop")
class CropSpec(Section):
  """Which squares are cut out of a photograph."""

  size_px: int = field(32, "side after resizing", at_least=1)
  least_px: int = field(48, "smallest side, of the photograph", at_least=1)
  most_px: int = field(400, "largest side, of the photograph", at_least=1)
  frames: int = field(1, "above 1: clips, over which the square moves and grows", at_least=1)
  most_move_frac: float = field(0.5, "of a side, over a clip, each way", at_least=0)
  most_zoom_frac: float = field(0.3, "by which a side grows or shrinks over a clip", at_least=0)

  def __post_init__(self):
    if not self.size_px <= self.least_px <= self.most_px:
      raise ConfigError(
        f"crops of {self.least_px} to {self.most_px} pixels for frames of {self.size_px}: sides"
        " must grow in that order, so that nothing is enlarged"
      )


@section("folder")
class PhotosFolder(Section):
  """Further photographs, of one's own."""

  root: str = field("", "folder with them, at any depth; '': none")
  held_out: tuple[str, ...] = field((), "names of files in it that are not trained on")


@section("amount")
class PhotosAmount(Section):
  """How many squares are cut out."""

  train: int = field(4000, "of the training photographs", at_least=0)
  val: int = field(256, "of those held out", at_least=0)
  records_per_shard: int = field(1024, "squares of a shard", at_least=1)


@section("", run="photos")
class Photos(Job):
  """`run = "photos"`: squares, or clips, out of a few public-domain photographs."""

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  folder: PhotosFolder = field(PhotosFolder(), "beside those of the package")
  crop: CropSpec = field(CropSpec(), "which squares")
  amount: PhotosAmount = field(PhotosAmount(), "how many")
