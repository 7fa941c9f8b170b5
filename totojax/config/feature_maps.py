"""Config keys of pictures of features: principal components and likeness to a place."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from totojax.config import schema, track
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

BASELINES = ("pixels", "untrained")


@section("clips")
class Clips(Section):
  """What is looked at: video files, or folders of frames."""

  paths: tuple[str, ...] = field((), "videos and folders of frames", once=True)
  frames: int = field(6, "of each, evenly spread", at_least=1, at_most=1000)


@section("", run="feature_maps")
class FeatureMaps(Job):
  """`run = "feature_maps"`: what features of frames hold, in pictures.

  Attributes:
    basis: whose principal components: of each "clip", or of the whole "set",
      so that a colour means the same in all clips.
    place: (down, right) shares of the first frame: the place that others are
      compared with.
  """

  seed: int = field(0, "of untrained models", at_least=0, below=SEEDS)
  clips: Clips = field(Clips(), "what is looked at")
  encoders: Mapping[str, track.Tracker] = field({}, "name -> whose features")
  baselines: tuple[str, ...] = field(
    BASELINES, "pixels: patches; untrained: runs before training", choices=BASELINES, once=True
  )
  frames: track.Frames = field(track.Frames(), "how a frame comes to features")
  basis: str = field("clip", "of the colours", choices=("clip", "set"))
  place: tuple[float, float] = field((0.5, 0.5), "of the first frame", at_least=0, below=1)
  width_px: int = field(160, "of a frame on the page", at_least=16)

  def __post_init__(self):
    if not self.encoders and "pixels" not in self.baselines:
      raise ConfigError("encoders is empty; name some: configs/feature_maps.py:NAME=WHAT")
    track.check_names(self.encoders, BASELINES)


def job(argument: str = "") -> ConfigDict:
  """The config of "NAME=WHAT,...", as `track.job` reads it."""
  return schema.to_config(FeatureMaps(encoders=track.trackers(argument.split(","))))
