"""Config keys of short-term anticipation: boxes, nouns, verbs, time to contact (Table 9).

"StillFast" is the source of what the paper does not say (Ragusa et al., 2023).
"""

from totojax.config import labels, model as models, training
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

OVER_TIME = ("mean", "last")


@section("data")
class Data(Section):
  """Ego4D as it lies on disk (docs/anticipation.md), and what of a video is seen.

  A clip ends with the frame of the query. Frames are squashed to squares.
  """

  root: str = field("", "its folder, with v1 or v2 annotations")
  train: str = field("train", "split that is trained on")
  validation: str = field("val", "split that is evaluated")
  train_annotations: str = field("", "file of the split; '': fho_sta_<split>.json")
  validation_annotations: str = field("", "the same of what is evaluated")
  train_queries: int = field(0, "at most so many, evenly spread; 0: all", at_least=0)
  validation_queries: int = field(0, "the same of what is evaluated", at_least=0)
  frames: int = field(16, "of a clip", "StillFast", at_least=1, at_most=256)
  stride: int = field(1, "frames from one of a clip to the next", "StillFast", at_least=1)
  clip_px: int = field(128, "side of a clip's frames", "16 x 16 tokens of 8", at_least=8)
  still_px: int = field(256, "side of the last frame seen again; 0: it is not", "[gap]", at_least=0)
  mirror: bool = field(True, "also train on mirror images", "StillFast")
  most_objects: int = field(16, "of a training query; further ones are left out", at_least=1)
  reading: training.Reading = field(training.Reading(), "how batches are read")


@section("detector")
class Detector(Section):
  """A pyramid, proposals, and heads of regions, all with fixed shapes.

  Attributes:
    scales: sides of the pyramid's maps over that of a clip's, from fine to coarse.
    region_samples: bilinear samples of a bin's side. StillFast's 0 is as many as
      cells, of which the most that there can be are computed.
  """

  over_time: str = field("mean", "frames of a clip in one map", "StillFast", choices=OVER_TIME)
  width: int = field(256, "of maps", "StillFast", at_least=1)
  scales: tuple[float, ...] = field(
    (4.0, 2.0, 1.0, 0.5, 0.25), "of maps over a clip's", "[gap] SimpleFPN", above=0, some=True
  )
  anchor_cells: float = field(8.0, "side of an anchor in cells of its map", "FPN", above=0)
  anchor_ratios: tuple[float, ...] = field(
    (0.5, 1.0, 2.0), "heights over widths", "StillFast", above=0, some=True
  )
  anchor_fg: float = field(0.7, "IoU from which an anchor is an object's", "StillFast", above=0)
  anchor_bg: float = field(0.3, "IoU below which it is background", "StillFast", at_least=0)
  anchors: int = field(256, "sampled for the loss, half of them objects'", "StillFast", at_least=2)
  candidates: int = field(2000, "of a map before NMS, in training", "StillFast", at_least=1)
  proposals: int = field(2000, "after NMS, in training", "StillFast", at_least=1)
  eval_candidates: int = field(1000, "of a map before NMS, evaluated", "StillFast", at_least=1)
  eval_proposals: int = field(1000, "after NMS, evaluated", "StillFast", at_least=1)
  proposal_nms: float = field(0.7, "IoU of proposals' NMS", "StillFast", above=0, at_most=1)
  regions: int = field(512, "sampled for the loss", "StillFast", at_least=1)
  region_fg: float = field(0.5, "IoU from which a region is an object's", "StillFast", above=0)
  region_fg_frac: float = field(0.25, "objects' at most", "StillFast", above=0, at_most=1)
  region_bins: int = field(7, "of a region's side", "StillFast", at_least=1)
  region_samples: int = field(2, "of a bin's side", "StillFast: 0", at_least=0)
  region_px: float = field(0.0, "side of the middle map's regions; 0: the picture's / 3.57", "FPN")
  hidden: int = field(1024, "units of regions' layers", "StillFast", at_least=1)
  noun_loss: float = field(1.0, "times nouns' cross-entropy", "StillFast", at_least=0)
  box_loss: float = field(1.0, "times regions' smooth L1", "StillFast", at_least=0)
  verb_loss: float = field(0.1, "times verbs' cross-entropy", "StillFast", at_least=0)
  ttc_loss: float = field(0.5, "times smooth L1 of seconds", "StillFast", at_least=0)
  proposal_loss: float = field(1.0, "times both losses of anchors", "StillFast", at_least=0)
  least_score: float = field(0.05, "of a detection", "StillFast", at_least=0, below=1)
  nms: float = field(0.5, "IoU of detections' NMS, of a noun and verb", "StillFast", above=0)
  scored: int = field(1000, "pairs of region and noun before NMS", at_least=1)
  detections: int = field(100, "of a query", "StillFast", at_least=1)

  def __post_init__(self):
    if self.anchor_bg > self.anchor_fg:
      raise ConfigError(
        f"detector.anchor_bg is {self.anchor_bg:g} and anchor_fg {self.anchor_fg:g}; what is"
        " background overlaps less than what is an object's"
      )
    if list(self.scales) != sorted({*self.scales}, reverse=True):
      raise ConfigError(f"detector.scales are {self.scales}; name them once, from fine to coarse")


@section("probe")
class Probe(Section):
  """The attentive probe of the frozen protocol; its base protocol is not published."""

  heads: int = field(16, "of attention", "V-JEPA 2's probe", at_least=1)
  init_std: float = field(0.02, "of matrices and queries", "V-JEPA 2's probe", at_least=0)


@section("output")
class Output(Section):
  """What is drawn."""

  pictures: int = field(12, "queries on the page", at_least=0)
  boxes: int = field(3, "of each, the best", at_least=1)
  width_px: int = field(360, "of a picture", at_least=32)


@section("paper")
class Paper(Section):
  """Numbers that stand beside ours, in per cent."""

  name: str = field("", "where they are printed; '': none")
  noun: float = field(0.0, "top-5 mAP of nouns", at_least=0, at_most=100, unit="per cent")
  noun_verb: float = field(0.0, "and verbs", at_least=0, at_most=100, unit="per cent")
  noun_ttc: float = field(0.0, "and time to contact", at_least=0, at_most=100, unit="per cent")
  overall: float = field(0.0, "and both", at_least=0, at_most=100, unit="per cent")


@section("")
class Anticipating(Section):
  """What both protocols have."""

  run: str = field("", "the job")
  seed: int = field(0, "of parameters and data", at_least=0, below=SEEDS)
  data: Data = field(Data(), "on what")
  inputs_from: str = field("", "run of the same data and model whose inputs are read, not made")
  detector: Detector = field(Detector(), "what finds objects")
  train: labels.Epochs = field(
    labels.Epochs(epochs=20.0, batch_rows=32, score_rows=32),
    "how long: epochs 20.0, batch_rows 32, score_rows 32",
    "StillFast; [gap]",
  )
  output: Output = field(Output(), "what is drawn")
  paper: Paper = field(Paper(), "numbers beside ours")
  mesh: training.MeshConfig = field(training.MeshConfig(), "devices")
  every: training.Every = field(
    training.Every(log_steps=50, eval_steps=1000, checkpoint_steps=500),
    "how often: log_steps 50, eval_steps 1000, checkpoint_steps 500",
  )
  checkpoint: training.CheckpointConfig = field(training.CheckpointConfig(), "which stay")


@section("", run="sta")
class Sta(Anticipating):
  """`run = "sta"`: a pre-trained model is trained to anticipate, and to predict tokens."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  untrained: bool = field(False, "the run's model as it was before training")
  tokenizer: str = field("", "of the run; '': found by itself", plugin="tokenizer")
  layers: tuple[int, ...] = field(
    (), "one for each of detector.scales; (): evenly, to the last", "Table 9: 5", at_least=1
  )
  nll_loss: float = field(1.0, "times next tokens' of the clip; 0.0: none", "Table 9", at_least=0)
  model: labels.ModelConfig = field(
    labels.ModelConfig(rope_base=10_000.0), "what is not as it was trained: rope_base as it was"
  )
  compute: models.Compute = field(models.Compute(), "how it is computed")
  optim: labels.LayeredConfig = field(
    labels.LayeredConfig(lr=1e-4, warmup_epochs=1.0, clip_norm=1.0),
    "the optimiser: lr 1e-4, warmup_epochs 1.0",
    "[gap]",
  )


@section("", run="sta_frozen")
class StaFrozen(Anticipating):
  """`run = "sta_frozen"`: heads on features of a frozen encoder.

  What is public of V-JEPA 2.1's protocol; the rest is ours.
  """

  model_run: str = field("", 'a run of `run = "pretrain"`: its features')
  untrained: bool = field(False, "the run's model as it was before training")
  tokenizer: str = field("", "of the run; '': found by itself", plugin="tokenizer")
  encoder: str = field("", "or an encoder by name, or of yours", plugin="encoder")
  features: str = field("", "or a folder of features on disk")
  layer: int = field(-1, "that is read; -1: the last", at_least=-1)
  encode_rows: int = field(4, "clips of a forward pass", at_least=1)
  probe: Probe = field(Probe(), "what is trained of tokens")
  optim: training.AdamWConfig = field(
    training.AdamWConfig(lr=3e-4, warmup_steps=200, weight_decay=0.05),
    "the optimiser: warmup_steps 200, weight_decay 0.05",
    "[gap]",
  )

  def __post_init__(self):
    if sum(map(bool, (self.model_run, self.encoder, self.features))) > 1:
      raise ConfigError(
        f"model_run is {self.model_run!r}, encoder {self.encoder!r} and features"
        f" {self.features!r}; give one of them"
      )


@section("", run="sta_seeds")
class StaSeeds(Job):
  """`run = "sta_seeds"`: what runs of several seeds say together."""

  runs: tuple[str, ...] = field((), "finished runs that differ in their seed alone", once=True)
