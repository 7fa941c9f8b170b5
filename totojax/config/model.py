"""Config keys of the model: sequence, architectures, µP, how it is computed.

"[gap]" marks what the paper does not say; the source of our default follows.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar

from totojax import plugins
from totojax.config import schema, training
from totojax.config.schema import ConfigError, field, Section, section

SPECIALS = 4  # ids below this are special; visual tokens start here
MAX_VOCAB = 2**30  # tokens are int32
VOCAB_MULTIPLE = 128  # lanes of a TPU register: the vocabulary axis is padded

# Table 1. The MLP sizes are not printed: 4 x width for base and large and
# LVM's 5,504 for 1b are what gives 120m, 280m and 1.1b, tied (and, for large,
# Table 4's compute). a1 to a6 are Table 15's widths and depths with 8/3 x width
# rounded up to 128, which the compute axis of Figure 9 agrees with; Table 15's
# parameter counts fit no standard rule.
PRESETS = {
  "base": dict(width=768, depth=12, heads=12, mlp_dim=3072),
  "large": dict(width=1024, depth=16, heads=16, mlp_dim=4096),
  "1b": dict(width=2048, depth=22, heads=16, mlp_dim=5504),
  "a1": dict(width=256, depth=12, heads=16, mlp_dim=768),
  "a2": dict(width=512, depth=16, heads=16, mlp_dim=1408),
  "a3": dict(width=768, depth=20, heads=16, mlp_dim=2048),
  "a4": dict(width=1024, depth=24, heads=16, mlp_dim=2816),
  "a5": dict(width=1536, depth=28, heads=16, mlp_dim=4096),
  "a6": dict(width=1792, depth=32, heads=16, mlp_dim=4864),
  # Ours: base and large with heads of 128, the side of a TPU's matrix unit; those
  # of 64 fill half of it. The same parameters and products.
  "base_tpu": dict(width=768, depth=12, heads=6, mlp_dim=3072),
  "large_tpu": dict(width=1024, depth=16, heads=8, mlp_dim=4096),
  # Ours, for one GPU, one laptop and for tests.
  "small": dict(width=512, depth=8, heads=8, mlp_dim=1408),
  "mini": dict(width=128, depth=6, heads=2, mlp_dim=384),
  "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}
# Table 6: 1,024 wide as large. Depths are not printed; these are the ones that
# give 280m and 290m, tied (`run = "audit"`).
GPT2_PRESETS = {
  "280m": dict(width=1024, depth=22, heads=16, mlp_dim=4096),
  "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}
MAMBA_PRESETS = {"290m": dict(width=1024, depth=42), "tiny": dict(width=32, depth=2)}


@dataclasses.dataclass(frozen=True)
class LatentSpec:
  """How the codes of a tokenizer lie over frames and places.

  A clip of frames becomes latent frames, each a grid of places with `codes`
  codes. Of an image tokenizer each frame is a latent frame.

  Attributes:
    codes: of a place, one token after the other.
    frame_factor: frames from one latent frame to the next.
    first_frames: frames that the first latent frame holds: 1 where the
      tokenizer is causal, `frame_factor` where it cuts a clip into blocks.
  """

  codes: int = 1
  frame_factor: int = 1
  first_frames: int = 1

  def __post_init__(self):
    numbers = (self.codes, self.frame_factor, self.first_frames)
    if not all(type(number) is int and number >= 1 for number in numbers):
      raise ValueError(f"{self}: each must be a whole number, 1 or more")
    if self.first_frames > self.frame_factor:
      raise ValueError(
        f"{self}: first_frames is 1 (causal) up to frame_factor {self.frame_factor} (blocks)"
      )

  @property
  def is_temporal(self) -> bool:
    """Whether a latent frame stands for several frames."""
    return self.frame_factor > 1

  @property
  def has_start(self) -> bool:
    """Whether the first latent frame is of another kind than the others."""
    return self.first_frames != self.frame_factor

  @property
  def takes_images(self) -> bool:
    """Whether an image is the first latent frame of a clip."""
    return self.first_frames == 1

  def latent_frames(self, frames: int) -> int:
    """Latent frames of so many frames; the last may be in part of padding."""
    return 1 + max(0, -(-(frames - self.first_frames) // self.frame_factor))

  def whole_frames(self, latent_frames: int) -> int:
    """Frames that so many latent frames stand for."""
    return self.first_frames + (latent_frames - 1) * self.frame_factor

  def latent_frame(self, frame: int) -> int:
    """The latent frame that holds a frame; both are counted from 0."""
    return self.latent_frames(frame + 1) - 1

  def span(self, latent_frame: int) -> tuple[int, int]:
    """The first frame of a latent frame, and the one after its last."""
    stop = self.whole_frames(latent_frame + 1)
    return (stop - self.frame_factor if latent_frame else 0), stop


EACH_FRAME = LatentSpec()  # of an image tokenizer


@section("sequence")
class SequenceSpec(Section):
  """What one sequence holds; see `totojax.sequence`.

  `frames` are latent frames: those of a tokenizer that makes one of several
  frames are fewer than the clip's (`LatentSpec`).
  """

  vocab: int = field(8192, "codes", "section 3.4", at_least=1, at_most=MAX_VOCAB)
  grid: int = field(16, "tokens a side: 128 px over 8", "3.4", at_least=1)
  frames: int = field(16, "video frames, or images", "section 3.4", at_least=1)
  context: int = field(4096, "inputs of the model", "section 3.4", at_least=1, unit="tokens")
  segments: bool = field(False, "images are hidden from each other", "3.4: no")
  codes: int = field(1, "of a place of the grid", "section 3.4", at_least=1)
  frame_factor: int = field(1, "frames of a token, as the tokenizer", "section 3.4", at_least=1)
  first_frames: int = field(1, "of the first tokens: 1 is causal", at_least=1)
  train_end: bool = field(False, "the end is a target too, within the context", "[gap] 3.4")

  def __post_init__(self):
    if self.first_frames > self.frame_factor:
      raise ConfigError(
        f"sequence.first_frames is {self.first_frames}; it is 1 (a causal tokenizer) up to"
        f" sequence.frame_factor {self.frame_factor} (blocks of frames)"
      )

  @property
  def latents(self) -> LatentSpec:
    """How the tokens lie over frames and places."""
    return LatentSpec(self.codes, self.frame_factor, self.first_frames)

  @property
  def clip_frames(self) -> int:
    """Frames of pixels that a sequence stands for."""
    return self.latents.whole_frames(self.frames)

  @property
  def frame_shape(self) -> tuple[int, ...]:
    """Of a latent frame's codes: grid, grid, and codes of a place if several."""
    return (self.grid, self.grid, *((self.codes,) if self.codes > 1 else ()))

  @property
  def frame_tokens(self) -> int:
    """Tokens of a latent frame."""
    return math.prod(self.frame_shape)

  @property
  def visual_tokens(self) -> int:
    return self.frames * self.frame_tokens

  @property
  def padded_vocab(self) -> int:
    """Rows of the embedding: codes and specials, rounded up to 128."""
    return -(-(self.vocab + SPECIALS) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

  @property
  def row_tokens(self) -> int:
    """Tokens of one training row: the inputs and the last target."""
    return self.context + 1


@section("model")
class Llama(Section):
  """LLaMA; with the vocabulary it fixes every parameter (Eq. 3 and 4)."""

  architecture: ClassVar[str] = "totojax.models.llama:LlamaConfig"
  segments: ClassVar[bool] = True

  width: int = field(768, "residual stream", "Table 1", at_least=1)
  depth: int = field(12, "blocks", "Table 1", at_least=0)
  heads: int = field(12, "of attention", "Table 1", at_least=1)
  mlp_dim: int = field(3072, "hidden units", "[gap] see PRESETS", at_least=1)
  rope_base: float = field(10_000.0, "of rotary angles", "Table 4 has 50,000", above=0)
  norm_eps: float = field(1e-6, "of RMSNorm", "[gap] LVM", at_least=0)
  init_std: float = field(0.02, "of matrices at the start", "[gap] LVM", at_least=0)
  tied: bool = field(True, "the head is the embedding", "[gap] Table 4's FLOPs")
  prefix_tokens: int = field(0, "seen by all; 0: causal, -1: full", "Eq. 1", at_least=-1)
  qk_norm: bool = field(False, "queries and keys of each head have RMS 1", "Eq. 3: no")

  def __post_init__(self):
    if self.width % self.heads or (self.width // self.heads) % 2:
      raise ConfigError(
        f"model.width {self.width} over model.heads {self.heads} must give an"
        " even whole head dimension (RoPE rotates pairs); change one of them"
      )


@section("model")
class Gpt2(Section):
  """GPT-2 with fixed sines and cosines for places (Table 6)."""

  architecture: ClassVar[str] = "totojax.models.gpt2:Gpt2Config"
  segments: ClassVar[bool] = True

  width: int = field(1024, "residual stream", "Table 6", at_least=1)
  depth: int = field(22, "blocks", "[gap] gives 280m, tied", at_least=0)
  heads: int = field(16, "of attention", "[gap] as large", at_least=1)
  mlp_dim: int = field(4096, "hidden units", "[gap] GPT-2", at_least=1)
  norm_eps: float = field(1e-5, "of LayerNorm", "[gap] GPT-2", at_least=0)
  init_std: float = field(0.02, "of matrices at the start", "[gap] GPT-2", at_least=0)
  tied: bool = field(True, "the head is the embedding", "[gap] GPT-2")
  # As large as sines are (0.7), they drown the tokens.
  position_std: float = field(0.02, "of sines and cosines", "[gap] GPT-2's own", at_least=0)
  qk_norm: bool = field(False, "queries and keys of each head have RMS 1", "[gap] no")

  def __post_init__(self):
    if self.width % self.heads or self.width % 2:
      raise ConfigError(
        f"model.width {self.width} must be even and a multiple of"
        f" model.heads {self.heads}; change one of them"
      )


@section("model")
class Mamba(Section):
  """Mamba (S6; Table 6)."""

  architecture: ClassVar[str] = "totojax.models.mamba:MambaConfig"
  segments: ClassVar[bool] = False

  width: int = field(1024, "residual stream", "Table 6", at_least=1)
  depth: int = field(42, "blocks", "[gap] gives 290m, tied", at_least=0)
  expand: int = field(2, "inner width / width", "[gap] mamba_ssm", at_least=1)
  state: int = field(16, "of an inner channel", "[gap] mamba_ssm", at_least=1)
  conv: int = field(4, "tokens of a convolution", "[gap] mamba_ssm", at_least=1)
  step_rank: int = field(0, "of step sizes; 0: width / 16", "[gap] mamba_ssm", at_least=0)
  chunk_tokens: int = field(64, "whose states exist at a time", at_least=1)
  scan: str = field("steps", "within a chunk", choices=("steps", "tree"))
  norm_eps: float = field(1e-5, "of RMSNorm", "[gap] mamba_ssm", at_least=0)
  init_std: float = field(0.02, "of matrices at the start", "[gap] as LLaMA's", at_least=0)
  tied: bool = field(True, "the head is the embedding", "[gap] mamba_ssm")


Model = Llama | Gpt2 | Mamba
# Name of an architecture -> its keys in section `model`, and its sizes.
MODELS = {"llama": Llama, "gpt2": Gpt2, "mamba": Mamba}
SIZES = {"llama": PRESETS, "gpt2": GPT2_PRESETS, "mamba": MAMBA_PRESETS}


def model_kind(values: Mapping[str, Any]) -> type:
  """The section `model` of a config that names an `architecture`.

  Configs from before there was a choice name none; they are LLaMAs.

  Raises:
    ConfigError: an unknown architecture.
  """
  name = values.get("architecture", "llama")
  if plugins.is_reference(name):
    return plugins.load(name, "architecture", type, lambda cls: hasattr(cls, "SECTION"))
  if name not in MODELS:
    raise ConfigError(
      f"config key architecture is {name!r}; use {schema.either(map(repr, MODELS))}, with the"
      " keys of `recipes.use` in section model, or a file of yours (docs/contributing.md)"
    )
  section, kind = values.get("model"), MODELS[name]
  keys = {*section} if isinstance(section, Mapping) else set()
  of = [other for other, cls in MODELS.items() if keys == {f.name for f in dataclasses.fields(cls)}]
  if of and name not in of:
    raise ConfigError(
      f"config key architecture is {name!r}, and the section model has the keys of {of[0]!r}; a"
      " flag changes one without the other. Some configs take a name, as"
      f" --config=configs/smoke.py:{name}; in one of yours write"
      f" recipes.use(c, {name!r}, SIZE), with SIZE one of {', '.join(SIZES[name])}"
    )
  return kind


@section("mup")
class MupConfig(Section):
  """µP (A.5; Yang et al., 2022): base model, and what it leaves open."""

  on: bool = field(False, "False: standard, nothing else is read", "Table 1")
  base_width: int = field(64, "both agree there", "[gap] Figure 11", at_least=1)
  base_mlp_dim: int = field(0, "hidden units there; 0: by ratio", at_least=0)
  base_heads: int = field(0, "there; 0: the model's", "Table 15", at_least=0)
  zero_query: bool = field(True, "queries start at 0", "[gap] Yang et al., D.2")
  zero_head: bool = field(True, "so does an untied head", "[gap] the same")
  depth_init: bool = field(True, "stream / sqrt(2 depth)", "[gap] GPT-2")
  matrix_std: float = field(0.0, "of the base; 0: model.init_std", at_least=0)
  embedding_std: float = field(0.0, "the same, embeddings", at_least=0)
  output: float = field(1.0, "times the logits", above=0)


@section("compute")
class Compute(Section):
  """How the model is computed; changes no parameter and no checkpoint.

  Attributes:
    attention: "auto": blocked on CPUs, splash on TPUs, cudnn on GPUs (bf16).
    remat: what the backward pass finds kept of a block: "none" recomputes
      nothing, "full" keeps its input alone, "projections" q, k, v, attention's
      output and the residual, "products" the MLP's gate and up in place of it.
  """

  dtype: str = field(
    "bfloat16", "of activations and products", "[gap] LVM", choices=training.DTYPES
  )
  attention: str = field("auto", "one of `attention.IMPLEMENTATIONS`, or auto")
  remat: str = field(
    "auto",
    "what is computed twice; auto: none on CPUs, full elsewhere",
    choices=("auto", "none", "full", "projections", "products"),
  )
  unroll: int = field(0, "layers in line; 0: a scan on TPUs, else all", at_least=0)
  loss_chunk: int = field(0, "logits at a time; 0: all", at_least=0, unit="tokens")


@section("patches")
class PatchesConfig(Section):
  """Size of patches."""

  side_px: int = field(16, "of a patch", "[gap] 256 over 16", at_least=1)
  eps: float = field(1e-6, "added to a patch's variance", "MAE", above=0.0)


@section("patches")
class Patches(PatchesConfig):
  """Table 3's continuous inputs; `data` then names stores of pixels."""

  inputs: bool = field(False, "patches of pixels in place of tokens")
  targets: bool = field(False, "the next patch is predicted, not its token")
  decay: bool = field(False, "their embedding and head too, as those of tokens")

  @property
  def size(self) -> PatchesConfig:
    return PatchesConfig(side_px=self.side_px, eps=self.eps)

  def __post_init__(self):
    if self.targets and not self.inputs:
      raise ConfigError(
        "patches.targets is True and patches.inputs False; patches are"
        " predicted from patches: set both"
      )


@section("dvae")
class DvaeSize(Section):
  """A dVAE of DALL-E's kind without its vocabulary, which may be a sequence's."""

  hidden: int = field(256, "channels; doubles every group", "Ramesh et al.", at_least=4)
  groups: int = field(4, "of layers, half the resolution each", "the same", at_least=1)
  blocks: int = field(2, "of a group, residual", "the same", at_least=1)
  decoder_init: int = field(128, "channels of the decoder's start", "the same", at_least=1)
  post_gain: float = field(1 / 64, "of a branch", "1 / (groups * blocks) ** 2", at_least=0)

  def __post_init__(self):
    if self.hidden % 4:
      raise ConfigError(
        f"dvae.hidden is {self.hidden}; residual branches are a quarter as"
        " wide, so use a multiple of 4"
      )
