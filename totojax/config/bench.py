"""Config keys of the benchmark (`run = "bench"`): a section for each row.

`trained` is a model whose batches are random: its stores are not opened.
"""

from collections.abc import Mapping
import dataclasses

from ml_collections import ConfigDict

from totojax.config import (
  labels,
  model as models,
  pixels,
  robot_envs,
  schema,
  studies,
  training,
  world,
)
from totojax.config.model import PRESETS
from totojax.config.pretrain import Amount, Pretrain
from totojax.config.propagation import PRESETS as RULES, Propagation
from totojax.config.schema import ConfigError, field, Section, section, SEEDS

ROWS = (
  "decode",
  "dvae_encode",
  "tokenizers",
  "store_write",
  "store_read",
  "train_step",
  "decode_tokens",
  "serving",
  "probe",
  "sweep",
  "checkpoint",
  "startup",
  "growth",
  "mamba_scan",
  "world",
  "robots",
  "propagation",
)
TOKENS_OF_FRAME = 256
_TINY_CLIPS = models.SequenceSpec(vocab=512, grid=4, frames=4, context=64)


def _trained(
  preset: str,
  rows: int,
  sequence: models.SequenceSpec,
  *,
  dtype: str = "float32",
  remat: str = "auto",
  **sizes: int,
) -> Pretrain:
  """A LLaMA, some of its sizes replaced, and a batch of so many sequences."""
  return Pretrain(
    sequence=sequence,
    model=models.Llama(**PRESETS[preset] | sizes),
    compute=models.Compute(dtype=dtype, remat=remat),
    train=Amount(batch_tokens=rows * sequence.context, total_tokens=1e9),
  )


def _frames(frames: int) -> models.SequenceSpec:
  return models.SequenceSpec(frames=frames, context=frames * TOKENS_OF_FRAME)


def _four_layers(*, frames: int, rows: int = 1) -> Pretrain:
  """Base with 4 layers in float32, for measurements on a CPU."""
  trained = _trained("base", rows, _frames(frames), depth=4)
  return dataclasses.replace(trained, checkpoint=training.CheckpointConfig(keep=1))


@section("bench")
class How(Section):
  """How everything is measured.

  Attributes:
    rest_s: in which threads that wait for work by spinning (OpenMP's do) come
      to rest: they would slow the other side.
  """

  rounds: int = field(5, "readings of each side, after one that warms up", at_least=1)
  rest_s: float = field(0.2, "pause before each reading", at_least=0.0)


@section("bench")
class Bench(How):
  """What is measured, and how often."""

  rows: tuple[str, ...] = field((), "in this order; (): all", choices=ROWS)


@section("decode")
class DecodeBench(Section):
  """Which videos, and what is cut out of them."""

  sizes: tuple[str, ...] = field(("320x240", "1280x720"), "of the videos")
  # 2.1 is just more than a clip.
  lengths_s: tuple[float, ...] = field((2.1, 6.0), "of the videos")
  codec: str = field("libx264", "that they are written with")
  rate: int = field(30, "of the videos", at_least=1, unit="frames/s")
  clips: int = field(8, "of one reading, each from its own start", at_least=1)
  clip: pixels.ClipSpec = field(pixels.ClipSpec(), "what is cut out")


@section("dvae_encode")
class DvaeEncodeBench(Section):
  """What is encoded.

  Attributes:
    precision: below "highest", PyTorch takes TF32 on a GPU.
  """

  frames: int = field(8, "of a reading, in one call", at_least=1)
  size_px: int = field(128, "side of a frame", "section 3.4", at_least=1)
  hidden: int = field(256, "width of the dVAE", "Ramesh et al.", at_least=1)
  vocab: int = field(8192, "its codes", "section 3.4", at_least=1)
  precision: str = field("highest", "of products", choices=("default", "high", "highest"))


@section("tokenizers")
class TokenizersBench(Section):
  """What is encoded and decoded.

  Attributes:
    families: cases, each of its publisher's usual size but for the channels.
    channels: that the levels are multiples of.
  """

  families: tuple[str, ...] = field((), "of `tokenizers/families.py`; (): all")
  channels: int = field(32, "of the first level; released: 128", at_least=1)
  frames: int = field(8, "of a reading, in one call", at_least=1)
  size_px: int = field(64, "side of a frame", at_least=1)


@section("store")
class StoreBench(Section):
  """What is written and read."""

  records: int = field(4096, "of the store", at_least=1)
  frames: int = field(16, "of a record, 256 tokens each", at_least=1)
  records_per_shard: int = field(1024, "of the store", at_least=1)
  batch: int = field(64, "records at a time", at_least=1, unit="records")
  reads: int = field(64, "batches of one reading", at_least=1)
  singles: int = field(512, "records of one reading, one by one", at_least=1)

  @property
  def tokens(self) -> int:
    return self.frames * TOKENS_OF_FRAME


@section("train_step")
class TrainStepBench(Section):
  """What is trained."""

  steps: int = field(1, "of a reading; the last is waited for", at_least=1)
  # It needs a C++ compiler on CPUs.
  peer_compiled: bool = field(False, "PyTorch's side by torch.compile")
  trained: Mapping[str, Pretrain] = field(
    {"4 layers": _four_layers(frames=4, rows=4)}, "case -> model"
  )


@section("decode_tokens")
class DecodeTokensBench(Section):
  """What is decoded."""

  rows: int = field(1, "sequences at a time", at_least=1)
  context: int = field(1, "that are given", at_least=1, unit="frames")
  further: int = field(1, "that are made", at_least=1, unit="frames")
  trained: Pretrain = field(_four_layers(frames=2), "the model")


@section("serving")
class ServingBench(Section):
  """What is served: 1,024 tokens after a video's first frame."""

  rows: tuple[int, ...] = field((1, 8), "a case each; sequences at a time", at_least=1)
  context: int = field(1, "that are given", at_least=1, unit="frames")
  further: int = field(4, "that are made", at_least=2, unit="frames")
  copied_mib: int = field(512, "array whose reading gives the memory's rate", at_least=1)
  trained: Pretrain = field(
    _trained("base", 1, _frames(5), width=512, depth=8, heads=8, mlp_dim=1408), "the model"
  )


@section("probe")
class ProbeBench(Section):
  """What is probed: every layer of four, 20 settings each."""

  pools: tuple[str, ...] = field(
    ("average", "attention"), "a case each", choices=("average", "attention", "cross")
  )
  widths: tuple[int, ...] = field((384, 768), "a case each; heads of 64")
  classes: int = field(1000, "of every head", at_least=1)
  rows: int = field(128, "of a batch", at_least=1)
  head: labels.PooledHead = field(labels.PooledHead(), "but for its pool")
  optim: labels.GridConfig = field(
    labels.GridConfig(lrs=(0.01, 0.03, 0.1, 0.3, 1.0), weight_decays=(0.0, 1e-4, 1e-3, 1e-2)),
    "settings that train together",
  )
  trained: Pretrain = field(_four_layers(frames=1), "but for its width")


@section("sweep")
class SweepBench(Section):
  """What is trained."""

  log2_lr: tuple[float, ...] = field((-9.0, -8.0, -7.0, -6.0), "a lane each")
  steps: int = field(50, "of each run", at_least=1)
  together: tuple[str, ...] = field(
    ("at_once", "in_turn"), "a case each; vmap, or lanes in turn", choices=("at_once", "in_turn")
  )
  # One of configs/mup_sweep.py.
  trained: Pretrain = field(
    _trained("tiny", 8, _TINY_CLIPS, width=128, depth=2, heads=4, mlp_dim=256), "but for its rate"
  )

  def __post_init__(self):
    if len(self.log2_lr) < 2 or not self.together:
      raise ConfigError(
        f"sweep.log2_lr is {self.log2_lr} and sweep.together {self.together};"
        " use at least 2 rates and 1 way"
      )


@section("checkpoint")
class CheckpointBench(Section):
  """What is saved."""

  steps: int = field(4, "of one reading of the train step", at_least=1)
  trained: Pretrain = field(_four_layers(frames=1, rows=2), "the model")


@section("startup")
class StartupBench(Section):
  """What is started."""

  trained: Pretrain = field(_four_layers(frames=1, rows=2), "the model")


@section("growth")
class GrowthBench(Section):
  """What is trained: from 10.6M parameters, 1,024 tokens, a device upwards.

  Attributes:
    devices: those that are not here are skipped. On a CPU,
      XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of it.
  """

  trained: Pretrain = field(
    _trained("base", 1, _frames(4), width=256, depth=10, heads=4, mlp_dim=768), "the smallest case"
  )
  models: Mapping[str, studies.Sizes] = field(
    {name: PRESETS[name] for name in ("base", "large", "1b")},
    "name -> sizes, in place of the smallest's",
  )
  frames: tuple[int, ...] = field((16, 64), "of longer sequences", at_least=1)
  devices: tuple[int, ...] = field((2, 4, 8), "that share parameters and as many rows", at_least=1)

  def __post_init__(self):
    for name, sizes in self.models.items():
      studies.sized(self.trained.model, sizes, f"growth.models.{name}")


@section("mamba_scan")
class MambaScanBench(Section):
  """What is scanned, forward and backward: a layer of 290m, fewer tokens."""

  rows: int = field(1, "sequences", at_least=1)
  tokens: int = field(1024, "of each", at_least=1)
  inner: int = field(2048, "channels", "Table 6", at_least=1)
  state: int = field(16, "of each channel", "[gap] mamba_ssm", at_least=1)
  chunk_tokens: int = field(64, "as model.chunk_tokens", at_least=1)
  scans: tuple[str, ...] = field(("steps", "tree"), "a case each", choices=("steps", "tree"))


@section("world")
class WorldBench(Section):
  """What is rendered, on one core."""

  clips: int = field(12, "of a reading, each of its own scene", at_least=1)
  scene: world.SceneConfig = field(world.SceneConfig(), "what is rendered")


@section("robots")
class RobotsBench(Section):
  """Which environments act, on one core."""

  tasks: tuple[str, ...] = field(robot_envs.TASKS, "a case each", choices=robot_envs.TASKS)
  arm: str = field("panda", "that does them", choices=robot_envs.ARMS)
  size_px: int = field(128, "side of a frame", at_least=16)
  frames: int = field(300, "of a reading", at_least=1)


@section("propagation")
class PropagationBench(Section):
  """What labels are propagated through: a sequence of DAVIS at 256/8."""

  frames: int = field(25, "of the sequence, the first with labels", at_least=2)
  grid: int = field(32, "places of a side", "Table 10", at_least=2)
  width: int = field(768, "of features: base", "Table 1", at_least=1)
  labels: int = field(4, "of the first frame", at_least=1)
  chunk: int = field(128, "places at a time, as of the job", at_least=1)
  rule: Propagation = field(RULES["stc"], "10 of 20 frames, radius 12")


@section("")
class BenchJob(Section):
  """`run = "bench"`: ratios to what others have, measured in one run."""

  run: str = field("bench", "the job")
  seed: int = field(0, "of random batches", at_least=0, below=SEEDS)
  bench: Bench = field(Bench(), "what, and how often")
  decode: DecodeBench = field(DecodeBench(), "row decode")
  dvae_encode: DvaeEncodeBench = field(DvaeEncodeBench(), "row dvae_encode")
  tokenizers: TokenizersBench = field(TokenizersBench(), "row tokenizers")
  store: StoreBench = field(StoreBench(), "rows store_write and store_read")
  train_step: TrainStepBench = field(TrainStepBench(), "row train_step")
  decode_tokens: DecodeTokensBench = field(DecodeTokensBench(), "row decode_tokens")
  serving: ServingBench = field(ServingBench(), "row serving")
  probe: ProbeBench = field(ProbeBench(), "row probe")
  sweep: SweepBench = field(SweepBench(), "row sweep")
  checkpoint: CheckpointBench = field(CheckpointBench(), "row checkpoint")
  startup: StartupBench = field(StartupBench(), "row startup")
  growth: GrowthBench = field(GrowthBench(), "row growth")
  mamba_scan: MambaScanBench = field(MambaScanBench(), "row mamba_scan")
  world: WorldBench = field(WorldBench(), "row world")
  robots: RobotsBench = field(RobotsBench(), "row robots")
  propagation: PropagationBench = field(PropagationBench(), "row propagation")


def bench() -> ConfigDict:
  """`run = "bench"` on a CPU."""
  return schema.to_config(BenchJob())


def bench_accelerator() -> ConfigDict:
  """What a GPU does, with the paper's models in bfloat16."""
  trained = {name: _one_gpu(name, rows) for name, rows in (("base", 16), ("large", 8), ("1b", 4))}
  return schema.to_config(
    BenchJob(
      bench=Bench(rows=("train_step", "decode_tokens", "dvae_encode")),
      train_step=TrainStepBench(steps=8, peer_compiled=True, trained=trained),
      decode_tokens=DecodeTokensBench(rows=8, trained=_one_gpu("1b", 1)),
      dvae_encode=DvaeEncodeBench(frames=64),
    )
  )


def _one_gpu(preset: str, rows: int) -> Pretrain:
  """A step of one of Table 1's models that fills one GPU."""
  return _trained(preset, rows, models.SequenceSpec(), dtype="bfloat16", remat="none")
