"""Tokenizers whose latent frames stand for several frames, or have several codes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from temporal import brightness, CAUSAL, clips, FACTOR, GRID, store

from totojax import sequence
from totojax.config.model import LatentSpec
from totojax.data.store import manifests
from totojax.data.stream import frames as frames_lib, heldout, mixture, rows
from totojax.tasks import encode
from totojax.tokenizers import api


@pytest.mark.parametrize(
  "latents, frames, expected",
  [
    (CAUSAL, 17, (5, 17)),
    (CAUSAL, 16, (5, 17)),
    (CAUSAL, 13, (4, 13)),
    (CAUSAL, 1, (1, 1)),
    (LatentSpec(frame_factor=4, first_frames=4), 16, (4, 16)),
    (LatentSpec(frame_factor=4, first_frames=4), 1, (1, 4)),
    (LatentSpec(), 16, (16, 16)),
  ],
)
def test_frames_become_latent_frames(latents, frames, expected):
  latent = latents.latent_frames(frames)
  assert (latent, latents.whole_frames(latent)) == expected
  spans = [latents.span(index) for index in range(latent)]
  assert spans[0][0] == 0 and spans[-1][1] == expected[1]
  assert all(one[1] == two[0] for one, two in zip(spans, spans[1:]))
  assert [b - a for a, b in spans[1:]] == [latents.frame_factor] * (latent - 1)


def test_a_first_frame_of_more_than_the_others_is_refused():
  with pytest.raises(ValueError, match="first_frames is 1"):
    LatentSpec(frame_factor=4, first_frames=5)


def test_a_clip_of_no_whole_number_goes_on_with_its_last_frame():
  tokenizer = brightness(CAUSAL)
  short = clips(2, 15)
  whole = np.concatenate([short, short[:, -1:], short[:, -1:]], axis=1)
  codes = api.encode_clips(tokenizer, short)
  np.testing.assert_array_equal(codes, api.encode_clips(tokenizer, whole))
  assert codes.shape == (2, 5 * GRID * GRID)
  other = np.concatenate([short, short[:, :1], short[:, :1]], axis=1)
  assert (codes != api.encode_clips(tokenizer, other)).any()
  drawn = api.decode_clips(tokenizer, codes.reshape(2, 5, GRID, GRID), frames=15)
  assert drawn.shape == short.shape


def test_a_wrong_number_of_latent_frames_is_refused():
  tokenizer = dataclasses.replace(
    brightness(CAUSAL), encode=lambda clips: np.zeros((len(clips), 4, GRID, GRID), np.int32)
  )
  with pytest.raises(ValueError, match="must begin with"):
    api.encode_clips(tokenizer, clips(2, 17))


@pytest.mark.parametrize("latents", [CAUSAL, LatentSpec(codes=2), LatentSpec(2, 4, 4)])
def test_a_row_is_the_codes_of_a_store_or_of_its_pixels(tmp_path, latents):
  """On the device as beforehand, at training and at validation."""
  tokenizer, frames_RNHW3 = brightness(latents), clips(6, 15)
  tokens = rows.Source("a", store(tmp_path / "tokens", tokenizer, frames_RNHW3), 1.0)
  pixels = rows.Source("a", store(tmp_path / "pixels", tokenizer, frames_RNHW3, pixels=True), 1.0)
  head = tokens.store.manifest
  assert head.latents == latents and head.pixel_frames == 15
  assert pixels.store.manifest.latents == LatentSpec()
  spec = sequence.SequenceSpec(
    vocab=64,
    grid=GRID,
    frames=head.frames,
    context=head.frames * GRID * GRID * latents.codes,
    codes=latents.codes,
    frame_factor=latents.frame_factor,
    first_frames=latents.first_frames,
  )
  options = dict(seq=spec, seed=5, batch=3, host=0, hosts=1)
  cached = mixture.stream([tokens], **options)[7]
  drawn = frames_lib.clips_stream([pixels], factor=FACTOR, **options)[7]
  encoding = encode.EncodeFrames(_NoTask(), tokenizer, spec=spec)
  spec_frames = encoding.batch_spec(3)["frames"]
  assert drawn["frames"].shape == spec_frames.shape
  params = jax.tree.map(jnp.asarray, tokenizer.params)
  np.testing.assert_array_equal(jax.jit(encoding.tokens)(params, drawn), cached["tokens"])
  held = [
    heldout.validation(source, seq=spec, rows=0, batch=4, host=0, hosts=1, factor=factor).batches
    for source, factor in ((tokens, 0), (pixels, FACTOR))
  ]
  for step in range(2):
    here = held[1][step]["here"]
    assert set(here.tolist()) <= {0, head.frames}
    visual = held[0][step]["tokens"] >= sequence.SPECIALS
    np.testing.assert_array_equal(visual.sum(1), here * spec.frame_tokens)


class _NoTask:
  def batch_spec(self, batch):
    return {"tokens": jax.ShapeDtypeStruct((batch, 1), jnp.int32)}


@pytest.mark.parametrize("key, value", [("codes", 2), ("frame_factor", 2)])
def test_a_store_of_other_latents_is_refused(tmp_path, key, value):
  source = rows.Source("a", store(tmp_path / "a", brightness(CAUSAL), clips(4, 17)), 1.0)
  spec = sequence.SequenceSpec(vocab=64, grid=GRID, frames=5, context=20, frame_factor=4)
  rows.check_tokens([source], spec)
  with pytest.raises(ValueError, match=f"sequence.{key} is {value}, and source 'a'"):
    rows.check_tokens([source], dataclasses.replace(spec, **{key: value}))


def test_a_window_of_a_causal_tokenizer_begins_with_its_clip(tmp_path):
  """The control: of blocks it begins anywhere."""
  record = np.arange(10)
  causal = sequence.SequenceSpec(frames=4, frame_factor=4)
  blocks = dataclasses.replace(causal, first_frames=4)
  starts = {
    spec.first_frames: {
      int(rows.cut(record, rows.Draw(0, epoch), source=0, seq=spec, seed=0)[0])
      for epoch in range(20)
    }
    for spec in (causal, blocks)
  }
  assert starts[1] == {0} and len(starts[4]) > 3


def test_old_manifests_have_no_word_of_latents(tmp_path):
  plain = store(tmp_path / "plain", brightness(LatentSpec()), clips(4, 4)).manifest
  assert not {"latents", "clip_frames"} & manifests.to_json(plain).keys()
  temporal = store(tmp_path / "temporal", brightness(CAUSAL), clips(4, 4)).manifest
  assert manifests.load(tmp_path / "temporal") == temporal
  assert manifests.to_json(temporal)["clip_frames"] == 4
