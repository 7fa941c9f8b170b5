"""Config keys of comparisons of encoders: neighbours, and every probe side by side."""

from collections.abc import Mapping
from typing import Any

from totojax import plugins
from totojax.config import labels, track as track_config
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS


def encoder_files(folders: str, *, validation: str = "val") -> dict[str, labels.EncoderFiles]:
  """Features of encoders as configs name them: "NAME=FOLDER,..." or folders alone.

  Each folder holds `train` and what is called `validation`, as `features` writes them.
  """
  found = {}
  for part in filter(None, folders.split(",")):
    name, equals, path = part.rpartition("=")
    name = name if equals else path.strip("/").rpartition("/")[2]
    found[name] = labels.EncoderFiles(train=f"{path}/train", validation=f"{path}/{validation}")
  return found


@section("knn")
class Knn(Section):
  """How neighbours vote."""

  neighbours: tuple[int, ...] = field(
    (20,), "how many vote; each a row of the table", "DINO", at_least=1, some=True, once=True
  )
  temperature: float = field(0.07, "of their weights", "DINO", above=0)
  holdout_frac: float = field(0.1, "of each class, to choose a layer", "[gap]", above=0, below=1)


@section("", run="knn")
class KnnJob(Job):
  """`run = "knn"`: k nearest neighbours on features on disk, without training."""

  seed: int = field(0, "of what is held out", at_least=0, below=SEEDS)
  encoders: Mapping[str, labels.EncoderFiles] = field({}, "name -> features on disk")
  knn: Knn = field(Knn(), "how neighbours vote")

  def __post_init__(self):
    if not self.encoders:
      raise ConfigError("encoders is empty; name features: configs/knn.py:NAME=FOLDER")


def names_encoder(text: str) -> bool:
  """Whether a text names an encoder, by name or by file, and no run directory."""
  kind, colon, _ = text.partition(":")
  return plugins.is_reference(text) or bool(colon and kind.partition("@")[0] in plugins.ENCODERS)


TRACK = "track"  # labels of a first frame that follow features; it needs no classes
PROBES = ("knn", "linear", "attentive", "blocks", TRACK)
# Which head each is; "knn" and "track" train none.
POOLS = {"linear": "average", "attentive": "cross", "blocks": "blocks"}


@section("compare.encoders.NAME")
class Encoder(Section):
  """What is compared: an encoder by name or file, or a run of ours."""

  encoder: str = field("", "by name, or of yours (features.encoder)", plugin="encoder")
  model_run: str = field("", 'or run directory of `run = "pretrain"`')
  untrained: bool = field(False, "the run's model as it was before training")
  norm: bool = field(False, "every layer through the norm after the last block")
  layers: tuple[int, ...] = field((), "that are probed; (): all", at_least=0)

  def __post_init__(self):
    if bool(self.encoder) == bool(self.model_run) or (self.untrained and self.encoder):
      raise ConfigError(
        f"compare.encoders.NAME has encoder {self.encoder!r} and model_run {self.model_run!r},"
        f" untrained {self.untrained}; give one of the first two, and untrained with model_run"
      )


@section("compare")
class Compare(Section):
  """What is compared, on which clips."""

  train: str = field("", "store of pixels with classes")
  validation: str = field("", "the same, held out")
  encoders: Mapping[str, Encoder] = field({}, "name -> encoder")
  probes: tuple[str, ...] = field(
    ("knn", "linear"), "what each is asked by", choices=PROBES, some=True, once=True
  )
  seeds: tuple[int, ...] = field(
    (0, 1, 2), "of heads and hold-outs", at_least=0, below=SEEDS, some=True, once=True
  )
  heads: int = field(4, "of attention in heads; a divisor of every width", at_least=1)
  rows: int = field(8, "clips of a forward pass", at_least=1)


@section("", run="compare")
class CompareJob(Job):
  """`run = "compare"`: any encoders by any probes, in one table.

  Of `probe`, what is said of data, backbones, encoders, layers, seed and of the
  head's pool is replaced; of `track`, encoders, baselines and seeds.
  """

  compare: Compare = field(Compare(), "what is compared")
  knn: Knn = field(Knn(), "how neighbours vote")
  probe: labels.Probe = field(labels.Probe(), "what trained heads share")
  track: track_config.Track = field(track_config.Track(), "what is tracked, and how")

  def __post_init__(self):
    settings = self.compare
    if not settings.encoders:
      raise ConfigError("compare.encoders is empty; name some: configs/compare.py:NAME=ENCODER")
    if wrong := sorted(n for n in settings.encoders if not n.replace("-", "").isalnum()):
      raise ConfigError(f"compare.encoders.{wrong[0]} is no name; use letters, digits and dashes")
    if TRACK in settings.probes and not self.track.data.root:
      raise ConfigError(
        f"compare.probes has {TRACK!r}, and track.data.root is empty; set it to the folder of"
        f" {self.track.data.set}"
      )

  @classmethod
  def decides(cls, key: str, values: Mapping[str, Any]) -> str:
    """The key that hides a key of the job, or ""; see `arguments.read`."""
    del values
    keys = {
      "probe.seed": "compare.seeds",
      "probe.head.pool": "compare.probes",
      "probe.head.heads": "compare.heads",
      "probe.data.train": "compare.train",
      "probe.data.validation": "compare.validation",
    }
    return keys.get(key, "")
