"""Each family at a tiny size: against PyTorch, inside a jitted function, memory.

PyTorch's side is the publisher's module where that is installed, else the plain
network of the benchmark, which shares no line with ours but the wavelets.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from totojax.jobs.bench import tokenizing
from totojax.tokenizers import api, batches, vqgan, weights


def tiny(family):
  """Two levels; books of few codes."""
  size = tokenizing.size(family, 32)
  changes = dict(multipliers=(1, 2), blocks=1)
  if size.design.clips:
    down, up = ("space_down", "time_down"), ("space_up", "time_up")
    changes |= dict.fromkeys(down, (0,)) | dict.fromkeys(up, (1,)) | {"patch": min(size.patch, 2)}
  else:
    changes["attention"] = (1,) if size.attention else ()
  if size.quantiser.has_book:
    changes["vocab"] = 64
  return dataclasses.replace(size, **changes)


def frames(config, count, seed=0):
  """Of clips, each as long as two latent frames."""
  side = 4 * config.factor
  length = (1 + config.frame_factor,) if config.design.clips else ()
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, *length, side, side, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("family", tokenizing.SIZES)
def test_codes_and_images_are_those_of_pytorch_also_inside_a_jitted_function(family):
  pytest.importorskip("torch")
  config = tiny(family)
  two = frames(config, 2)
  ours, network, _ = tokenizing.sides(config, two, seed=0)
  codes = network.encode(two)
  assert len(np.unique(codes)) > 4
  np.testing.assert_array_equal(ours.encode(two), codes)

  drawn = network.decode(codes)
  assert drawn.shape == two.shape and np.std(drawn) > 10
  # Families truncate or round; see `Network.decode`.
  assert np.abs(np.subtract(ours.decode(codes), drawn, dtype=np.int16)).max() <= 1
  assert np.mean(network.decode(codes[::-1]) != drawn) > 0.1  # control

  # As `data.encode_with` encodes.
  clips = two if config.design.clips else two[None]
  inside = jax.jit(functools.partial(api.clip_codes, ours))(ours.params, clips)
  np.testing.assert_array_equal(inside, codes.reshape(len(clips), -1))


@pytest.mark.slow
def test_memory_is_of_the_rows_alone():
  config = tiny("llamagen")
  ours = weights.tokenizer(tokenizing.random(config, 0), config, "mark")

  def temporary(function, *shape):
    rows = jax.ShapeDtypeStruct((*shape, 64, 64, 3), np.uint8)
    compiled = jax.jit(function).lower(ours.params, rows).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  two, four = temporary(ours.codes_of, 2), temporary(ours.codes_of, 4)
  assert two < four <= 2 * two
  # Frames of a clip are encoded one after the other.
  clips = functools.partial(api.clip_codes, ours)
  assert temporary(clips, 2, 16) < 1.3 * two
  assert temporary(ours.codes_of, 32) > 3 * two  # control: as many at once


def test_no_call_has_more_rows_however_many_frames_there_are(monkeypatch):
  shapes = set()

  def first(config, params, frames_BHWC, *, precision):
    shapes.add(frames_BHWC.shape)
    return frames_BHWC[:, ::2, ::2, 0].astype(np.int32)

  monkeypatch.setattr(vqgan, "codes", first)
  monkeypatch.setattr(batches, "_CPU_MOST_FRAMES", 2)
  config = tiny("llamagen")
  tokenizer = weights.tokenizer({}, config, "mark")
  for count in (1, 2, 19, 50):
    many = frames(config, count)
    np.testing.assert_array_equal(tokenizer.encode(many), many[:, ::2, ::2, 0])
  assert shapes == {(2, 8, 8, 3)}
