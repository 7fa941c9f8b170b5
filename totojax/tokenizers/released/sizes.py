"""The size of a released VQGAN: off its tensors, or out of its config.json."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from totojax.tokenizers.families import FAMILIES
from totojax.tokenizers.released import reference
from totojax.tokenizers.vqgan_modules import VqganConfig

_COSMOS_LEVELS = (8, 8, 8, 5, 5, 5)
# Of diffusers' VQModel, where its config.json is silent.
_DIFFUSERS = {
  "_class_name": "VQModel",
  "in_channels": 3,
  "out_channels": 3,
  "down_block_types": ("DownEncoderBlock2D",),
  "up_block_types": ("UpDecoderBlock2D",),
  "block_out_channels": (64,),
  "layers_per_block": 1,
  "act_fn": "silu",
  "latent_channels": 3,
  "num_vq_embeddings": 256,
  "norm_num_groups": 32,
  "vq_embed_dim": None,
  "norm_type": "group",
  "mid_block_add_attention": True,
}
_BLOCKS = {  # in which attention follows
  "DownEncoderBlock2D": False,
  "AttnDownEncoderBlock2D": True,
  "UpDecoderBlock2D": False,
  "AttnUpDecoderBlock2D": True,
}


def from_tensors(tensors: Mapping[str, np.ndarray], family: str) -> VqganConfig:
  """Of a family whose names and shapes tell it.

  A tensor that is missing is replaced by taming's released size: `arrange`
  names it.
  """
  design = FAMILIES[family]

  def name(path: str) -> str:
    return design.name(tuple(path.split(".")), 0)  # of the encoder, for any levels

  def size(path: str, axis: int, otherwise: int) -> int:
    return reference.size(tensors, name(path), axis, otherwise)

  def numbers(path: str) -> list[int]:
    """For which `{}` in the path there is a tensor below it."""
    starts = [name(path.format(i)) + "." for i in range(32)]
    return [i for i, start in enumerate(starts) if any(k.startswith(start) for k in tensors)]

  levels = 1 + max(numbers("encoder.down_{}"), default=4)
  stem = size("encoder.conv_in.weight", 0, 128)
  released = [stem * multiplier for multiplier in (1, 1, 2, 2, 4)]
  widths = [
    size(f"encoder.down_{i}.block_0.conv1.weight", 0, released[min(i, 4)]) for i in range(levels)
  ]
  z = size("encoder.conv_out.weight", 0, 256)
  match family:
    case "cosmos-di":
      codes = _cosmos(tensors, levels - 1 - len(numbers("encoder.downsample_{}")))
    case "open-magvit2":
      codes = {"embed": z, "vocab": 2 ** min(z, 30)}
    case _:
      book = "quantize.embedding.weight"
      codes = {"vocab": size(book, 0, 1024), "embed": size(book, 1, 256)}
  return VqganConfig(
    **codes,
    **_units(stem, widths),
    z=z,
    blocks=1 + max(numbers("encoder.down_0.block_{}"), default=1),
    attention=tuple(i for i in range(levels) if numbers(f"encoder.down_{i}.attn_{{}}")),
    family=family,
  )


def _units(stem: int, widths: Sequence[int]) -> dict[str, Any]:
  """The channels that first convolution and levels are multiples of."""
  channels = max(1, math.gcd(stem, *widths))
  multipliers = tuple(width // channels for width in widths)
  return {"channels": channels, "stem": stem // channels, "multipliers": multipliers}


def _cosmos(tensors: Mapping[str, np.ndarray], flat: int) -> dict[str, Any]:
  """Codes and patches of a Cosmos DI; a state dict does not name the levels."""
  embed = reference.size(tensors, "quant_conv.weight", 0, len(_COSMOS_LEVELS))
  levels = tuple(map(int, np.ravel(tensors.get("quantizer._levels", _COSMOS_LEVELS))))
  if embed != len(levels):
    raise ValueError(
      f"this is not a Cosmos DI: its codes have {embed} channels, and the levels of {len(levels)}"
      f" are known, {levels}. Give encoder.jit, which names its levels"
    )
  patched = reference.size(tensors, "encoder.conv_in.weight", 1, 48)
  return {
    "embed": embed,
    "vocab": math.prod(levels),
    "levels": levels,
    "patch": 2 ** round(math.log2(max(patched, 3) / 3) / 2),
    "flat": max(flat, 0),
  }


def from_diffusers(values: Mapping[str, Any], family: str) -> VqganConfig:
  """Of a VQModel, by the values of its config.json.

  Raises:
    ValueError: it is of another class, or has what no released VQModel has.
  """
  told = _DIFFUSERS | {key: values[key] for key in _DIFFUSERS.keys() & values.keys()}
  kinds = {"group": False, "spatial": True}
  _check(told["_class_name"] == "VQModel", "_class_name", told, "VQModel")
  _check(told["act_fn"] in ("silu", "swish"), "act_fn", told, "silu")
  _check(told["norm_type"] in kinds, "norm_type", told, "group or spatial")
  for name in ("in_channels", "out_channels"):
    _check(told[name] == 3, name, told, "3")
  numbers = ("layers_per_block", "latent_channels", "num_vq_embeddings", "norm_num_groups")
  for name in numbers:
    _check(type(told[name]) is int and told[name] > 0, name, told, "a count")
  widths = told["block_out_channels"]
  is_list = isinstance(widths, list | tuple) and all(type(w) is int and w > 0 for w in widths)
  _check(is_list and bool(widths), "block_out_channels", told, "a list of counts")
  for name in ("down_block_types", "up_block_types"):
    known = isinstance(told[name], list | tuple) and all(kind in _BLOCKS for kind in told[name])
    _check(known and len(told[name]) == len(widths), name, told, f"of {len(widths)} {[*_BLOCKS]}")
  down = [_BLOCKS[kind] for kind in told["down_block_types"]]
  up = [_BLOCKS[kind] for kind in told["up_block_types"]]
  _check(down == up[::-1], "up_block_types", told, "attention where down_block_types have it")
  return VqganConfig(
    **_units(widths[0], widths),
    vocab=told["num_vq_embeddings"],
    embed=told["vq_embed_dim"] or told["latent_channels"],
    z=told["latent_channels"],
    blocks=told["layers_per_block"],
    attention=tuple(i for i, attends in enumerate(down) if attends),
    family=family,
    groups=told["norm_num_groups"],
    middle_attention=told["mid_block_add_attention"],
    spatial=kinds[told["norm_type"]],
  )


def _check(holds: bool, name: str, values: Mapping[str, Any], needed: str) -> None:
  if not holds:
    raise ValueError(
      f"the config.json has {name} {values[name]!r}; what is read is a VQModel with {needed}"
      " there: give the config.json beside the weights"
    )
