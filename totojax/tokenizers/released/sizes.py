"""The size of a released tokenizer: off its tensors, or out of its config.json."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from totojax.config import schema
from totojax.storage import outside
from totojax.tokenizers.causal_modules import CausalConfig
from totojax.tokenizers.families import FAMILIES
from totojax.tokenizers.released import reference
from totojax.tokenizers.vqgan_modules import VqganConfig

_COSMOS_LEVELS = (8, 8, 8, 5, 5, 5)
_VIDTOK_LEVELS = 8  # of each channel of all released codes
_BLOCKS = {  # in which attention follows
  "DownEncoderBlock2D": False,
  "AttnDownEncoderBlock2D": True,
  "UpDecoderBlock2D": False,
  "AttnUpDecoderBlock2D": True,
}


@dataclasses.dataclass(frozen=True)
class _Published:
  """What the config.json of a diffusers' VQModel says, or means where it is silent."""

  _class_name: str = "VQModel"
  in_channels: int = 3
  out_channels: int = 3
  down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
  up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
  block_out_channels: tuple[int, ...] = schema.field((64,), "of levels", at_least=1, some=True)
  layers_per_block: int = schema.field(1, "residual blocks", at_least=1)
  act_fn: str = "silu"
  latent_channels: int = schema.field(3, "of what is quantised", at_least=1)
  num_vq_embeddings: int = schema.field(256, "codes", at_least=1)
  norm_num_groups: int = schema.field(32, "of group norms", at_least=1)
  vq_embed_dim: int | None = schema.field(None, "of a code", at_least=1, optional=True)
  norm_type: str = "group"
  mid_block_add_attention: bool = True


def from_tensors(tensors: Mapping[str, np.ndarray], family: str) -> VqganConfig:
  """Of a family whose names and shapes tell it.

  A tensor that is missing is replaced by taming's released size: `arrange`
  names it.

  Raises:
    ValueError: of a Cosmos, the encoder and the decoder compress differently, or
      the levels of its codes are not known.
  """
  size, numbers = _readers(tensors, family)
  levels = 1 + max(numbers("encoder.down_{}"), default=4)
  stem = size("encoder.conv_in.weight", 0, 128)
  released = [stem * multiplier for multiplier in (1, 1, 2, 2, 4)]
  widths = [
    size(f"encoder.down_{i}.block_0.conv1.weight", 0, released[min(i, 4)]) for i in range(levels)
  ]
  z = size("encoder.conv_out.weight", 0, 256)
  match family:
    case "cosmos-di":
      down, up = (numbers(f"{path}sample_{{}}") for path in ("encoder.down", "decoder.up"))
      codes = _cosmos(tensors, levels - 1 - len(down))
      if down and up and len(down) != len(up):
        sides = (codes["patch"] * 2 ** len(found) for found in (down, up))
        raise ValueError(_two_compressions(*(f"{side}x{side}" for side in sides)))
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


def _readers(
  tensors: Mapping[str, np.ndarray], family: str
) -> tuple[Callable[[str, int, int], int], Callable[[str], list[int]]]:
  """Of our paths in the encoder: an axis' length, and which numbers there are."""

  def name(path: str) -> str:
    return FAMILIES[family].name(tuple(path.split(".")), 0)  # the same for any levels

  def size(path: str, axis: int, otherwise: int) -> int:
    return reference.size(tensors, name(path), axis, otherwise)

  def numbers(path: str) -> list[int]:
    """For which `{}` in the path there is a tensor below it."""
    starts = [name(path.format(i)) + "." for i in range(32)]
    return [i for i, start in enumerate(starts) if any(k.startswith(start) for k in tensors)]

  return size, numbers


def of_clips(tensors: Mapping[str, np.ndarray], family: str, variant: str = "") -> CausalConfig:
  """Of VidTok, or of a Cosmos DV.

  What is missing is replaced by the released size: `arrange` names it.

  Args:
    tensors: by name.
    family: which.
    variant: of a Cosmos, the frames and pixels of a side that become one
      ("8x16x16"); its tensors tell it unless they have convolutions that never
      run. Of a VidTok `family` is enough.

  Raises:
    ValueError: it is a Cosmos, and neither tells it, or they differ, or so do
      its encoder and decoder.
  """
  is_cosmos = FAMILIES[family].factorised
  size, numbers = _readers(tensors, family)
  released = (2, 4, 4) if is_cosmos else (1, 2, 4, 4)
  levels = 1 + max(numbers("encoder.down_{}_block_0"), default=len(released) - 1)
  first = "space." if is_cosmos else ""
  stem = size(f"encoder.conv_in.{first}weight", 0, 128)
  widths = [
    size(f"encoder.down_{i}_block_0.conv1.{first}weight", 0, stem * released[min(i, 2)])
    for i in range(levels)
  ]
  z = size(f"encoder.conv_out.{first}weight", 0, 16 if is_cosmos else 4)
  if is_cosmos:
    codes = _cosmos_codes(tensors, size("quant_conv.weight", 0, len(_COSMOS_LEVELS)))
    patched = size("encoder.conv_in.space.weight", 1, 192)
    patch = 2 ** round(math.log2(max(patched, 3) / 3) / 3)
    ends = _cosmos_levels(numbers, levels, patch, variant)
  else:
    codes, patch = (_VIDTOK_LEVELS,) * z, 1
    ends: dict[str, Sequence[int]] = {
      "space_down": numbers("encoder.downsample_{}") or range(levels - 1),
      "space_up": numbers("decoder.upsample_{}") or range(1, levels),
      "time_down": numbers("encoder.downsample_temporal_{}") or (levels - 3, levels - 2),
      "time_up": numbers("decoder.upsample_temporal_{}") or (1, 2),
    }
  sides: dict[str, Any] = {name: tuple(found) for name, found in ends.items()}
  return CausalConfig(
    **_units(stem, widths),
    **sides,
    levels=codes,
    z=z,
    blocks=1 + max(numbers("encoder.down_0_block_{}"), default=1),
    family=family,
    patch=patch,
  )


def _cosmos_levels(
  numbers: Callable[[str], list[int]], levels: int, patch: int, variant: str
) -> dict[str, Sequence[int]]:
  """After which levels a Cosmos DV halves and doubles space and time."""
  last = levels - 1
  there = {
    name: numbers(f"{path}_{{}}.conv{i}")
    for name, path, i in (
      ("space_down", "encoder.downsample", 1),
      ("time_down", "encoder.downsample", 2),
      ("space_up", "decoder.upsample", 2),
      ("time_up", "decoder.upsample", 1),
    )
  }
  every = {}
  for space, time in ((s, t) for s in range(levels) for t in range(s + 1)):
    # Deepest first, the decoder doubles time, and space with it, from the second
    # level on; where there is more of space, that begins with the first.
    up = [last - 1 - i for i in range(time)]
    flags = {
      "space_down": [*range(space)],
      "time_down": [*range(time)],
      "space_up": sorted({*up, *(last - i for i in range(space if space > time else 0))}),
      "time_up": sorted(up),
    }
    if len(flags["space_up"]) == space and min(flags["space_up"], default=1) > 0:
      every["x".join(str(patch * 2**n) for n in (time, space, space))] = flags
  if variant and variant not in every:
    raise ValueError(f"{variant} was given; of this size there are {', '.join(every)}")
  if all(len(found) == last for found in there.values()):
    if not variant:
      raise ValueError(
        "its tensors do not tell how much it compresses, because all convolutions are there: give"
        f" --config.official.variant, one of {', '.join(every)}"
      )
    return every[variant]
  down, up = (
    [name for name, flags in every.items() if all(flags[k] == there[k] for k in sides)]
    for sides in (("space_down", "time_down"), ("space_up", "time_up"))
  )
  told = [name for name in down if name in up]
  if down and up and there["space_down"] and there["space_up"] and not told:
    raise ValueError(_two_compressions(down[0], up[0]))
  if told and variant not in ("", *told):
    raise ValueError(
      f"it is called a {variant}, and has the convolutions of {told[0]}; mend the name of its"
      " folder, or --config.official.variant"
    )
  wrong = lambda name: sum(len({*every[name][k]} ^ {*found}) for k, found in there.items())
  return every[variant or min(every, key=wrong)]


def _two_compressions(encoder: str, decoder: str) -> str:
  return (
    f"the encoder has the convolutions of {encoder}, and the decoder those of {decoder}; give both"
    " files of one of them"
  )


def _units(stem: int, widths: Sequence[int]) -> dict[str, Any]:
  """The channels that first convolution and levels are multiples of."""
  channels = max(1, math.gcd(stem, *widths))
  multipliers = tuple(width // channels for width in widths)
  return {"channels": channels, "stem": stem // channels, "multipliers": multipliers}


def _cosmos(tensors: Mapping[str, np.ndarray], flat: int) -> dict[str, Any]:
  """Codes and patches of a Cosmos DI; a state dict does not name the levels."""
  embed = reference.size(tensors, "quant_conv.weight", 0, len(_COSMOS_LEVELS))
  levels = _cosmos_codes(tensors, embed)
  patched = reference.size(tensors, "encoder.conv_in.weight", 1, 48)
  return {
    "embed": embed,
    "vocab": math.prod(levels),
    "levels": levels,
    "patch": 2 ** round(math.log2(max(patched, 3) / 3) / 2),
    "flat": max(flat, 0),
  }


def _cosmos_codes(tensors: Mapping[str, np.ndarray], embed: int) -> tuple[int, ...]:
  """The levels of a code's channels; a state dict does not name them."""
  levels = tuple(map(int, np.ravel(tensors.get("quantizer._levels", _COSMOS_LEVELS))))
  if embed != len(levels):
    raise ValueError(
      f"this is not a Cosmos: its codes have {embed} channels, and the levels of {len(levels)}"
      f" are known, {levels}. Give encoder.jit, which names its levels"
    )
  return levels


def from_diffusers(values: Mapping[str, Any], family: str) -> VqganConfig:
  """Of a VQModel, by the values of its config.json.

  Raises:
    ValueError: it is of another class, or has what no released VQModel has.
  """
  names = [field.name for field in dataclasses.fields(_Published)]
  known = {name: values[name] for name in names if name in values}
  told = vars(outside.fields(_Published, "config.json", known))
  kinds = {"group": False, "spatial": True}
  _check(told["_class_name"] == "VQModel", "_class_name", told, "VQModel")
  _check(told["act_fn"] in ("silu", "swish"), "act_fn", told, "silu")
  _check(told["norm_type"] in kinds, "norm_type", told, "group or spatial")
  for name in ("in_channels", "out_channels"):
    _check(told[name] == 3, name, told, "3")
  widths = told["block_out_channels"]
  for name in ("down_block_types", "up_block_types"):
    fits = {*told[name]} <= {*_BLOCKS} and len(told[name]) == len(widths)
    _check(fits, name, told, f"of {len(widths)} {[*_BLOCKS]}")
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
