"""What sets the families of released tokenizers apart: one table.

All are a convolutional encoder and decoder around a quantiser (`quantisers`),
of images (`vqgan_modules`) or of clips (`causal_modules`). Sizes are in a
`VqganConfig` or a `CausalConfig`; what every size of a family shares is here:
its quantiser, the range of its pixels and how they are rounded, what its network
has and lacks, and its publisher's names for our parameters.

Sources: the repositories CompVis/taming-transformers, FoundationVision/LlamaGen
(ce98ec4), huggingface/diffusers (0.42), TencentARC/SEED-Voken (b9a17ea),
NVIDIA/Cosmos-Tokenizer (3584ae7) and microsoft/VidTok (d6ad92d).
"""

from collections.abc import Callable, Mapping
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from totojax.tokenizers.quantisers import Fsq, LargestProduct, Nearest, Quantiser, SignBits


def _rounded(y: jax.Array) -> jax.Array:
  return jnp.rint((jnp.clip(y, -1.0, 1.0) + 1.0) / 2.0 * 255.0)


def _rounded_unit(y: jax.Array) -> jax.Array:
  return jnp.rint(jnp.clip(y, 0.0, 1.0) * 255.0)


def _shifted(y: jax.Array) -> jax.Array:
  return jnp.clip(127.5 * y + 128.0, 0.0, 255.0)


def _truncated(y: jax.Array) -> jax.Array:
  return 255.0 * ((jnp.clip(y, -1.0, 1.0) + 1.0) / 2.0)


def _half_up(y: jax.Array) -> jax.Array:
  return jnp.clip((y + 1.0) / 2.0, 0.0, 1.0) * 255.0 + 0.5


@dataclasses.dataclass(frozen=True)
class Family:
  """What all sizes of a family share."""

  what: str  # for people
  # The publisher's names: patterns and replacements, in turn, on our path.
  names: tuple[tuple[str, str], ...]
  quantiser: Callable[[Any], Quantiser]  # of its config
  # Decoded values to what truncation makes a pixel of: as its own scripts do.
  pixels: Callable[[jax.Array], jax.Array] = _rounded
  lowest: float = -1.0  # what a black pixel enters as; a white one is 1
  ignored: str = r"loss\."  # names that are no part of the network
  keys: tuple[str, ...] = ("state_dict",)  # of a checkpoint, the first that it has
  averaged: bool = False  # whether a moving average of the weights is preferred
  deepest_first: bool = False  # the decoder's levels, in its names
  # Open-MAGVIT2's network: no biases in residual blocks, resolution halved with
  # padding all around and doubled by depth to space, a middle of `blocks`
  # residual blocks without attention, as many blocks in the decoder's levels as
  # in the encoder's, each after an adaptive norm, no layers around the codes.
  magvit: bool = False
  clips: bool = False  # in place of images
  # Every convolution of clips is one over space and then one over time, layers
  # are halved and doubled in both at once, and the middle attends over time too.
  factorised: bool = False
  # Before a clip stands its first frame, as often as a kernel needs it, in place
  # of zeros; and VidTok's decoder doubles the frames linearly, not by repetition.
  repeats: bool = False

  def renamed(self, name: str) -> str:
    """Its name today of a tensor that older versions named otherwise."""
    if self.names is not _DIFFUSERS:
      return name
    return re.sub(
      r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.",
      lambda m: f"{m[1]}{_OLD_ATTENTION[m[2]]}.",
      name,
    )

  def name(self, path: tuple[str, ...], levels: int) -> str:
    """The publisher's name of a path in our parameters."""
    name = ".".join(path)
    if self.deepest_first:
      name = re.sub(
        r"\.(up|upsample)_(\d+)", lambda m: f".{m[1]}_{levels - 1 - int(m[2])}", name, count=1
      )
    for pattern, replacement in self.names:
      name = re.sub(pattern, replacement, name)
    return re.sub(r"\.scale$", ".weight", name)


_TAMING = (
  (r"(down|up)sample_(\d+)", r"\1.\2.\1sample.conv"),
  (r"(down|up)_(\d+)", r"\1.\2"),
  (r"(\.\d+)\.(block|attn)_(\d+)", r"\1.\2.\3"),
)
_LLAMAGEN = (
  (r"(down|up)sample_(\d+)", r"conv_blocks.\2.\1sample.conv"),
  (r"(down|up)_(\d+)", r"conv_blocks.\2"),
  (r"(\.\d+)\.block_(\d+)", r"\1.res.\2"),
  (r"(\.\d+)\.attn_(\d+)", r"\1.attn.\2"),
  (r"mid\.block_1", "mid.0"),
  (r"mid\.attn_1", "mid.1"),
  (r"mid\.block_2", "mid.2"),
)
_DIFFUSERS = (
  (r"(down|up)sample_(\d+)", r"\1_blocks.\2.\1samplers.0.conv"),
  (r"(down|up)_(\d+)", r"\1_blocks.\2"),
  (r"(\.\d+)\.block_(\d+)", r"\1.resnets.\2"),
  (r"(\.\d+)\.attn_(\d+)", r"\1.attentions.\2"),
  (r"mid\.block_1", "mid_block.resnets.0"),
  (r"mid\.block_2", "mid_block.resnets.1"),
  (r"mid\.attn_1", "mid_block.attentions.0"),
  (r"(attentions\.\d+)\.norm\.(norm_layer|conv_)", r"\1.spatial_norm.\2"),
  (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
  (r"(attentions\.\d+)\.(q|k|v)\.", r"\1.to_\2."),
  (r"(attentions\.\d+)\.proj_out", r"\1.to_out.0"),
  (r"norm_out", "conv_norm_out"),
  (r"nin_shortcut", "conv_shortcut"),
)
_MAGVIT = (
  (r"downsample_(\d+)", r"down.\1.downsample"),
  (r"upsample_(\d+)", r"up.\1.upsample.conv1"),
  (r"(down|up|adaptive)_(\d+)", r"\1.\2"),
  (r"(\.\d+)\.block_(\d+)", r"\1.block.\2"),
  (r"mid\.block_(\d+)", r"mid_block.\1"),
)
_CLIPS = (  # of both families
  (r"(down|up)_(\d+)_block_(\d+)", r"\1.\2.block.\3"),
  (r"\.(norm\w*)\.", r".\1.norm."),
)
_VIDTOK = (
  (r"(down|up)sample_temporal_(\d+)", r"\1_temporal.\2.\1sample"),
  (r"(down|up)sample_(\d+)", r"\1.\2.\1sample.conv"),
  (r"(down|up)_temporal_(\d+)_block_(\d+)", r"\1_temporal.\2.block.\3"),
  *_CLIPS,
  (r"((?:_temporal|\.mid)\..*\.(?:conv\d?|[qkv]|proj_out))\.", r"\1.conv."),
  (r"\.(conv_in|conv_out)\.", r".\1.conv."),
)
_COSMOS_DV = (
  (r"(down|up)sample_(\d+)", r"\1.\2.\1sample"),
  *_CLIPS,
  (r"mid\.attn_1", "mid.attn_1.0"),
  (r"mid\.attn_temporal", "mid.attn_1.1"),
  (r"\.space\.", ".0."),
  (r"\.time\.", ".1."),
  (r"^(?!.*\.norm\.)(.*)\.(weight|bias)$", r"\1.conv3d.\2"),
)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _nearest(_: Any) -> Quantiser:
  return Nearest()


def _fsq(config: Any) -> Quantiser:
  return Fsq(config.levels)


_VIDTOK_1 = Family(
  "a VidTok", _VIDTOK, _fsq, pixels=_truncated, ignored=r"(loss|model_ema)\.", clips=True
)

FAMILIES: Mapping[str, Family] = {
  "vqgan": Family("a VQGAN of taming", _TAMING, _nearest),
  "llamagen": Family(
    "a VQ of LlamaGen",
    _LLAMAGEN,
    lambda _: Nearest(unit=True),
    pixels=_shifted,
    ignored=r"quantize\.codebook_used$",
    keys=("ema", "model", "state_dict"),
    deepest_first=True,
  ),
  "diffusers": Family(
    "a VQModel of diffusers", _DIFFUSERS, _nearest, ignored=r"$^", deepest_first=True
  ),
  # The same module, on pixels of 0 to 1.
  "amused": Family(
    "the VQModel of aMUSEd",
    _DIFFUSERS,
    _nearest,
    pixels=_rounded_unit,
    lowest=0.0,
    ignored=r"$^",
    deepest_first=True,
  ),
  "ibq": Family(
    "an IBQ of SEED-Voken", _TAMING, lambda _: LargestProduct(), pixels=_truncated, averaged=True
  ),
  "open-magvit2": Family(
    "an image tokenizer of Open-MAGVIT2",
    _MAGVIT,
    lambda config: SignBits(config.embed),
    pixels=_truncated,
    averaged=True,
    magvit=True,
  ),
  "cosmos-di": Family(
    "a Cosmos DI",
    _TAMING,
    _fsq,
    pixels=_half_up,
    # Buffers; the files' wavelets are rounded to bfloat16.
    ignored=r"(inv_quant\.)?quantizer\.|encoder\.patcher\.|decoder\.unpatcher\.",
  ),
  "vidtok": _VIDTOK_1,
  "vidtok-1.1": dataclasses.replace(_VIDTOK_1, what="a VidTok 1.1", repeats=True),
  "cosmos-dv": Family(
    "a Cosmos DV",
    _COSMOS_DV,
    _fsq,
    pixels=_half_up,
    ignored=r"(inv_quant\.)?quantizer\.|encoder\.patcher3d\.|decoder\.unpatcher3d\.",
    clips=True,
    factorised=True,
    repeats=True,
  ),
}
