"""A tokenizer whose large vocabulary is several codes of a place."""

import dataclasses

from etils import epath
import jax
import numpy as np
import pytest
import runs
import test_latents

from totojax.config import pixel_recipes, roots
from totojax.config.model import LatentSpec
from totojax.data.store import store as store_lib
from totojax.jobs import pixels, shards as pretokenize
from totojax.tokenizers import api, split, weights

NEVER = lambda done: False
PARTS = (16, 32)  # of the shipped tokenizer's 512 codes
NAME = "shipped:split=16,32"


def frames(count: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_parts_are_quotients_with_ids_of_their_own():
  """As Open-MAGVIT2's: 262,144 codes are 64 x 4,096."""
  codes = np.array([0, 63, 64, 262_143, 100_000])
  found = split.divided(codes, (64, 4096), np)
  np.testing.assert_array_equal(found[:, 0], codes % 2**6)
  np.testing.assert_array_equal(found[:, 1], codes // 2**6 + 64)
  np.testing.assert_array_equal(split.joined(found, (64, 4096)), codes)
  whole = np.arange(2 * 3 * 5).reshape(5, 6)
  np.testing.assert_array_equal(split.joined(split.divided(whole, (2, 3, 5), np), (2, 3, 5)), whole)


def test_a_split_tokenizer_draws_what_it_draws_unsplit():
  whole, parts = weights.load("shipped"), weights.load(NAME)
  codes = parts.encode(frames(3))
  assert codes.shape == (3, 2, 2, 2) and (parts.vocab, parts.latents) == (48, LatentSpec(codes=2))
  assert codes[..., 0].max() < 16 <= codes[..., 1].min()
  np.testing.assert_array_equal(split.joined(codes, PARTS), whole.encode(frames(3)))
  np.testing.assert_array_equal(parts.decode(codes), whole.decode(whole.encode(frames(3))))
  inside = jax.jit(parts.codes_of)(parts.params, frames(3))
  np.testing.assert_array_equal(inside, codes)


def test_an_id_of_another_part_is_an_error():
  tokenizer = weights.load(NAME)
  codes = tokenizer.encode(frames(1))
  for swapped, told in (
    (codes[..., ::-1], "code 1 of a place is .*; the codes of this part are 0 to 15"),
    (np.full_like(codes, 3), "code 2 of a place is 3; the codes of this part are 16 to 47"),
  ):
    with pytest.raises(ValueError, match=told):
      tokenizer.decode(swapped)
  with pytest.raises(ValueError, match="2 codes"):
    tokenizer.decode(codes[..., 0])


def test_the_fingerprint_is_of_the_tokenizer_and_the_parts():
  names = ["shipped", NAME, "shipped:split=32,16", "shipped:split=4,4,32"]
  assert len({weights.load(name).fingerprint for name in names}) == 4
  whole = weights.load("shipped").fingerprint
  assert weights.load(NAME).fingerprint == split.fingerprint(whole, PARTS)


@pytest.mark.parametrize(
  "name, told",
  [
    ("shipped:split=16,31", "whose product is the vocabulary of 512"),
    ("shipped:split=512", "must be two or more"),
    ("shipped:split=1,512", "each at least 2"),
    ("shipped:split=16x32", "with commas between, as split=64,4096"),
    ("mine.py:split=16,32", "a tokenizer of yours splits its codes itself"),
    ("nowhere.safetensors:split=16,32", "no tokenizer file at nowhere.safetensors"),
  ],
)
def test_other_parts_are_refused(name, told):
  with pytest.raises((ValueError, FileNotFoundError), match=told):
    weights.load(name)


def test_several_codes_of_a_place_are_not_split_again():
  with pytest.raises(ValueError, match="has 2 codes for a place already"):
    split.split(weights.load(NAME), (6, 8))


def test_clips_of_a_causal_tokenizer_are_split_too():
  whole = test_latents.brightness(test_latents.CAUSAL)
  parts = split.split(whole, (8, 8))
  assert parts.latents == dataclasses.replace(test_latents.CAUSAL, codes=2)
  clips = test_latents.clips(2, 7)
  codes = api.encode_clips(parts, clips)
  places = codes.reshape(2, 3, 2, 2, 2)
  np.testing.assert_array_equal(
    split.joined(places, (8, 8)).reshape(2, -1), api.encode_clips(whole, clips)
  )
  drawn = api.decode_clips(parts, places, frames=7)
  unsplit = api.encode_clips(whole, clips).reshape(2, 3, 2, 2)
  np.testing.assert_array_equal(drawn, api.decode_clips(whole, unsplit, frames=7))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = epath.Path(tmp_path_factory.mktemp("split"))
  c = pixel_recipes.render(train=16, val=8)
  c.scene.update(frames=2, size_px=16)
  assert pixels.render(roots.read(c.to_dict()), root / "pixels", NEVER)
  c = pixel_recipes.shards(str(root / "pixels"), NAME)
  c.tokenizing.update(report_frames=8, kmeans_frames=16, kmeans_patches=600)
  assert pretokenize.run(roots.read(c.to_dict()), root / "tokens", NEVER)
  return root


def train(workdir, store, data, *more: str) -> list[dict]:
  runs.here(
    runs.command(
      "configs/pretrain.py:tiny",
      workdir,
      f"--config.data.train=a:{store}",
      f"--config.data.validation=a:{data}/tokens/val",
      "--config.train.batch_tokens=256",
      "--config.train.total_tokens=512.0",
      *more,
    )
  )
  return runs.metrics(workdir)


def test_a_run_reads_its_tokens_or_encodes_pixels_itself(data, tmp_path):
  store = store_lib.open_store(data / "tokens" / "train", tokenizer=None, vocab=48, grid=2)
  assert store.manifest.tokenizer == weights.load(NAME).fingerprint
  cached = train(tmp_path / "cached", data / "tokens" / "train", data)
  encoded = train(
    tmp_path / "encoded", data / "pixels" / "train", data, f"--config.data.encode_with={NAME}"
  )
  for one, two in zip(cached, encoded, strict=True):
    for key in {"loss", "a/loss"} & one.keys():
      np.testing.assert_allclose(one[key], two[key], rtol=1e-4)
  # The control: codes of other parts are told by the fingerprint.
  text = runs.here(
    runs.command(
      "configs/pretrain.py:tiny",
      tmp_path / "other",
      f"--config.data.train=a:{data}/pixels/train",
      f"--config.data.validation=a:{data}/tokens/val",
      "--config.data.encode_with=shipped:split=32,16",
    ),
    code=2,
  )
  assert "tokenizer" in text and not (tmp_path / "other" / "metrics.jsonl").exists()
