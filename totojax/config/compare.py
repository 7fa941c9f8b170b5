"""Config keys of comparisons of encoders: neighbours, and every probe side by side."""

from collections.abc import Mapping

from totojax.config import labels
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS


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
