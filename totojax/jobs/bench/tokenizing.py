"""Row `tokenizers`: released tokenizers against their modules in PyTorch.

Weights are random: rates do not depend on them. Sizes are their publishers'
but for the channels.
"""

from collections.abc import Iterator, Mapping
import math
from typing import Any

import jax
import numpy as np

from totojax import tree
from totojax.config.bench import TokenizersBench
from totojax.config.schema import ConfigError
from totojax.jobs.bench import measure, peers, torch_networks
from totojax.rundir import provenance
from totojax.tokenizers import api, causal, vqgan, weights
from totojax.tokenizers.families import FAMILIES

_TAMING = dict(embed=256, z=256, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(4,))
# 4 frames and 8 x 8 pixels.
_VIDTOK = dict(
  levels=(8, 8, 8, 8),
  z=4,
  multipliers=(1, 2, 4, 4),
  blocks=2,
  space_down=(0, 1, 2),
  space_up=(1, 2, 3),
  time_down=(1, 2),
  time_up=(1, 2),
)
# Family -> what a size of it has beside the channels.
SIZES: Mapping[str, Mapping[str, Any]] = {
  "vqgan": _TAMING | dict(vocab=16384),
  "llamagen": _TAMING | dict(vocab=16384, embed=8),
  # Kandinsky's MoVQ.
  "diffusers": dict(
    vocab=16384, embed=4, z=4, multipliers=(1, 2, 2, 4), blocks=2, attention=(3,), spatial=True
  ),
  "amused": dict(
    vocab=8192,
    embed=64,
    z=64,
    multipliers=(1, 2, 2, 4, 6),
    blocks=2,
    attention=(),
    middle_attention=False,
  ),
  "ibq": _TAMING | dict(vocab=16384, blocks=4),
  "open-magvit2": _TAMING | dict(vocab=2**18, embed=18, z=18, blocks=4, attention=()),
  "cosmos-di": dict(
    vocab=64_000,
    embed=6,
    levels=(8, 8, 8, 5, 5, 5),
    z=256,
    multipliers=(2, 4, 4),
    blocks=2,
    attention=(),
    patch=4,
  ),
  "vidtok": _VIDTOK,
  "vidtok-1.1": _VIDTOK,
  # 8 frames and 16 x 16 pixels.
  "cosmos-dv": dict(
    levels=(8, 8, 8, 5, 5, 5),
    z=16,
    multipliers=(2, 4, 4),
    blocks=2,
    space_down=(0, 1),
    space_up=(1, 2),
    time_down=(0,),
    time_up=(1,),
    patch=4,
  ),
}
Config = vqgan.VqganConfig | causal.CausalConfig


def size(family: str, channels: int) -> Config:
  """Of a tokenizer of a family; 128 channels: the released one."""
  kind = causal.CausalConfig if FAMILIES[family].clips else vqgan.VqganConfig
  return kind(family=family, channels=channels, **SIZES[family])


def random(config: Config, seed: int) -> Any:
  """Parameters as `init` gives them, with no zeros and no ones."""
  rng = np.random.default_rng(seed)
  if isinstance(config, causal.CausalConfig):
    shapes = causal.shapes(config)
  else:
    shapes = vqgan.shapes(config)

  def draw(leaf):
    fan_in = math.prod(leaf.shape[:-1])
    if leaf.ndim > 2:
      return rng.uniform(-1, 1, leaf.shape).astype(np.float32) / fan_in**0.5
    return rng.standard_normal(leaf.shape, np.float32) * 0.2

  params = jax.tree.map(draw, shapes)
  return tree.map_named(lambda name, leaf: leaf + name.endswith("/scale"), params)


def sides(
  config: Config, frames_NHW3: np.ndarray, seed: int
) -> tuple[api.Tokenizer, torch_networks.Network, str]:
  """A tokenizer and what there is of it in PyTorch, and which, in words.

  Rows of the codebook lie among the latents of the frames, as in a trained one.
  """
  params = random(config, seed)
  network, what = peers.tokenizer(config, params)
  if config.quantiser.has_book:
    z_E = network.latents_of(frames_NHW3).reshape(-1, config.embed)
    book_VE = np.random.default_rng(seed).standard_normal((config.vocab, config.embed), np.float32)
    params["quantize"]["embedding"]["weight"] = z_E.mean(0) + z_E.std(0) * book_VE
    network, what = peers.tokenizer(config, params)
  return weights.tokenizer(params, config, "benchmark"), network, what


def rows(settings: TokenizersBench, harness: measure.Harness) -> Iterator[measure.Result]:
  """Frames per second, from uint8 pixels to codes and back, all in numpy.

  Raises:
    ConfigError: a family that there is not.
    ImportError: PyTorch is missing.
  """
  if unknown := set(settings.families) - SIZES.keys():
    raise ConfigError(f"tokenizers.families has {sorted(unknown)}; use some of {', '.join(SIZES)}")
  for family in settings.families or SIZES:
    yield from _family(size(family, settings.channels), settings, harness)


def _family(
  config: Config, settings: TokenizersBench, harness: measure.Harness
) -> Iterator[measure.Measurement]:
  """Its encoder and its decoder."""
  count, side = settings.frames, settings.size_px
  shape = (count, side, side, 3)
  if isinstance(config, causal.CausalConfig):
    count = config.latents.whole_frames(config.latents.latent_frames(count))
    shape = (1, count, side, side, 3)
  frames_NHW3 = np.random.default_rng(harness.seed).integers(0, 256, shape, dtype=np.uint8)
  ours, network, what = sides(config, frames_NHW3, harness.seed)
  codes_NGG = ours.encode(frames_NHW3)
  for name, inputs, equal in (
    ("encode", frames_NHW3, lambda a, b: a == b),
    ("decode", codes_NGG, lambda a, b: np.abs(np.subtract(a, b, dtype=np.int16)) <= 1),
  ):
    run, other = getattr(ours, name), getattr(network, name)
    yield harness.compare(
      measure.Side(f"our {config.family}, float32", lambda: run(inputs), count),
      measure.Side(f"{what}, float32, with the same weights", lambda: other(inputs), count),
      case=f"{config.family}, {name}, {count} frames of {side} px",
      compares="uint8 frames to codes" if name == "encode" else "codes to uint8 frames",
      unit="frames",
      goals=lambda rounds: [
        measure.Goal("times PyTorch's frames per CPU-second", rounds.cpu_ratio.median, 1.0)
      ],
      facts=lambda rounds: {
        "channels": config.channels,
        "macs_per_latent_frame": ours.macs(side),
        "equal_frac": float(np.mean(equal(*rounds.warmup))),
        "threads_of_pytorch": provenance.cores(),
      },
    )
  peers.free()
