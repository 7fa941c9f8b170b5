"""The dVAE against DALL-E's own modules, its files and its use of pixels."""

import dataclasses
import functools
import json

import chex
from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from totojax.tokenizers import dvae, weights

OFFICIAL = dvae.DvaeConfig(
  vocab=8192, hidden=256, groups=4, blocks=2, decoder_init=128, post_gain=1 / 64
)
SMALL = dvae.DvaeConfig(vocab=24, hidden=8, groups=3, blocks=1, decoder_init=16, post_gain=0.25)


@functools.partial(jax.jit, static_argnums=0)
def _params(config):
  return nn.unbox(dvae.init(config, jax.random.key(0)))


def _frames(count, side, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_the_official_size_has_the_released_parameters():
  shapes = jax.eval_shape(lambda: _params(OFFICIAL))
  counts = {
    part: (len(leaves), sum(leaf.size for leaf in leaves))
    for part, tree in shapes.items()
    for leaves in [jax.tree.leaves(tree)]
  }
  # Counted in the state dictionaries of the package DALL-E 0.1.
  assert counts == {"encoder": (74, 53_786_240), "decoder": (76, 43_829_766)}


def _torch_pair(n_hid, vocab):
  """DALL-E's encoder and decoder with random weights, biases included."""
  torch = pytest.importorskip("torch")
  dall_e = pytest.importorskip("dall_e", exc_type=ImportError)
  torch.manual_seed(0)
  modules = (
    dall_e.Encoder(n_hid=n_hid, vocab_size=vocab),
    dall_e.Decoder(n_hid=n_hid, vocab_size=vocab),
  )
  with torch.no_grad():
    for module in modules:
      for value in module.parameters():
        # Twice the usual size, so that the residual branches, which count
        # 1/64, are far above the tolerance.
        value.copy_(2 * value if value.ndim == 4 else torch.randn_like(value))
  return torch, *modules


def _state(module):
  return {k: v.numpy() for k, v in module.state_dict().items()}


@pytest.mark.parametrize(
  "n_hid,vocab", [(64, 512), pytest.param(256, 8192, marks=pytest.mark.slow)]
)
def test_encoder_and_decoder_equal_the_released_modules(n_hid, vocab):
  torch, encoder, decoder = _torch_pair(n_hid, vocab)
  params, config = dvae.from_reference(_state(encoder), _state(decoder))
  assert config == dataclasses.replace(OFFICIAL, hidden=n_hid, vocab=vocab)

  frames = _frames(3, 32)
  with torch.no_grad():
    x = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2)
    expected = encoder(0.8 * x + 0.1)
    codes = expected.argmax(1)
    z = torch.nn.functional.one_hot(codes, vocab).permute(0, 3, 1, 2).float()
    drawn = decoder(z).permute(0, 2, 3, 1).numpy()
  expected = expected.permute(0, 2, 3, 1).numpy()

  encode = jax.jit(dvae.logits, static_argnums=0)
  logits = encode(config, params, frames)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(logits, expected, atol=1e-4 * scale, rtol=0)
  np.testing.assert_array_equal(logits.argmax(-1), codes.numpy())
  z_BGGV = jax.nn.one_hot(codes.numpy(), vocab)
  ours = jax.jit(dvae.statistics, static_argnums=0)(config, params, z_BGGV)
  np.testing.assert_allclose(ours, drawn, atol=1e-4 * np.abs(drawn).max(), rtol=0)
  # Kernels turned by 90 degrees, or another gain, are seen.
  turned = jax.tree.map(lambda w: w.transpose(1, 0, 2, 3) if w.ndim == 4 else w, params)
  wrong = encode(config, turned, frames)
  assert np.abs(wrong - expected).max() > 1e-2 * scale
  louder = dataclasses.replace(config, post_gain=1 / 32)
  wrong = encode(louder, params, frames)
  assert np.abs(wrong - expected).max() > 1e-3 * scale


def _reference(config):
  """State dictionaries with DALL-E's names for random weights of any size."""
  parts, params = [], jax.device_get(_params(config))
  for part in ("encoder", "decoder"):
    flat = traverse_util.flatten_dict(params[part], sep=".")
    parts.append(
      {
        f"blocks.{name}".replace("output.", "output.conv."): (
          w.transpose(3, 2, 0, 1) if w.ndim == 4 else w
        )
        for name, w in flat.items()
      }
    )
  return parts


def test_any_size_is_read_from_released_names():
  encoder, decoder = _reference(SMALL)
  assert encoder["blocks.group_1.block_1.res_path.conv_1.w"].shape == (2, 8, 3, 3)
  params, config = dvae.from_reference(encoder, decoder)
  assert config == dataclasses.replace(SMALL, post_gain=1 / 9)
  chex.assert_trees_all_equal(params, _params(SMALL))


def test_every_wrong_tensor_of_a_released_file_is_named():
  encoder, decoder = _reference(SMALL)
  del encoder["blocks.group_2.block_1.id_path.w"]
  encoder["blocks.output.conv.b"] = np.zeros(23, np.float32)
  decoder["blocks.group_9.w"] = np.zeros(1, np.float32)
  with pytest.raises(ValueError) as error:
    dvae.from_reference(encoder, decoder)
  for told in (
    "a dVAE encoder",
    "blocks.group_2.block_1.id_path.w is missing",
    "blocks.output.conv.b has shape (23,) where (24,) is needed",
    "a dVAE decoder",
    "blocks.group_9.w is unknown",
  ):
    assert told in str(error.value)
  with pytest.raises(ValueError, match="conv_1.w is missing; .*; and 66 more. Give the whole"):
    dvae.from_reference({}, {})


def test_one_module_given_for_the_other_is_told():
  encoder, decoder = _reference(SMALL)
  with pytest.raises(ValueError, match="as the encoder is the decoder"):
    dvae.from_reference(decoder, decoder)
  with pytest.raises(ValueError, match="as the decoder is the encoder"):
    dvae.from_reference(encoder, encoder)


def test_encoding_costs_what_the_literature_says():
  assert dvae.macs(OFFICIAL, 128) == pytest.approx(34.0e9, rel=2e-3)
  assert dvae.macs(OFFICIAL, 256) == 4 * dvae.macs(OFFICIAL, 128)
  with pytest.raises(ValueError, match="100 x 100"):
    dvae.macs(OFFICIAL, 100)


def test_every_parameter_has_its_axis_names():
  boxed = jax.eval_shape(lambda: dvae.init(SMALL, jax.random.key(0)))
  specs = nn.get_partition_spec(boxed)
  for path, leaf in traverse_util.flatten_dict(nn.unbox(boxed)).items():
    spec = traverse_util.flatten_dict(specs)[path]
    if path[-1] == "w":
      assert tuple(spec) == ("conv_height", "conv_width", "conv_in", "conv_out")
    else:
      assert tuple(spec) == ("conv_out",) and leaf.ndim == 1


def test_a_token_sees_its_surroundings_and_nothing_far():
  params = _params(SMALL)
  frames = np.zeros((2, 48, 48, 3), np.uint8)
  frames[1, 0, 0] = 255
  logits = jax.jit(lambda f: dvae.logits(SMALL, params, f))(frames)
  change = np.abs(logits[1] - logits[0]).max(axis=-1)
  assert change[0, 0] > 0
  assert change[-1].max() == 0


def test_pixels_map_into_the_open_interval_and_back():
  pixels = np.arange(256, dtype=np.uint8)
  mapped = np.asarray(dvae.map_pixels(pixels))
  np.testing.assert_allclose(mapped[[0, 255]], [0.1, 0.9], rtol=1e-6)
  back = np.rint(np.asarray(dvae.unmap_pixels(mapped)) * 255)
  np.testing.assert_array_equal(back, pixels)


def test_frames_that_are_not_whole_tokens_are_refused():
  with pytest.raises(ValueError, match="30 x 30.*4 pixels"):
    dvae.logits(SMALL, _params(SMALL), jnp.zeros((1, 30, 30, 3), jnp.uint8))
  with pytest.raises(ValueError, match="hidden is 6"):
    dataclasses.replace(SMALL, hidden=6)


@pytest.fixture(name="saved")
def _saved(tmp_path):
  path = tmp_path / "small.safetensors"
  mark = weights.save(path, _params(SMALL), SMALL, card={"steps": 3}, dtype="float32")
  return path, mark


def test_frames_of_floats_are_refused_and_not_read_as_black():
  codes = functools.partial(dvae.codes, SMALL, precision="highest")
  frames = np.zeros((1, 16, 16, 3), np.uint8)
  found = jax.eval_shape(codes, dvae.shapes(SMALL), frames)
  assert found.shape == (1, 4, 4)
  with pytest.raises(AssertionError, match="uint8"):
    jax.eval_shape(codes, dvae.shapes(SMALL), frames.astype(np.float32))


def test_a_saved_tokenizer_comes_back_whole(saved):
  path, mark = saved
  params, config, read_mark = weights.read(path)
  assert (config, read_mark) == (SMALL, mark)
  chex.assert_trees_all_equal(params, _params(SMALL))
  assert weights.card(path) == {"steps": 3}
  assert not list(path.parent.glob("*.part"))
  assert len(mark) == 16 and int(mark, 16) >= 0


def test_the_fingerprint_changes_with_weights_and_config_only(tmp_path, saved):
  _, mark = saved
  save = lambda params, config, **kw: weights.save(
    tmp_path / "other.safetensors", params, config, **({"card": {}, "dtype": "float32"} | kw)
  )
  assert save(_params(SMALL), SMALL, card={"steps": 4}) == mark
  changed = _params(SMALL)
  changed["decoder"]["output"]["b"] = changed["decoder"]["output"]["b"].at[0].add(1e-6)
  louder = dataclasses.replace(SMALL, post_gain=0.5)
  marks = {
    mark,
    save(changed, SMALL),
    save(_params(SMALL), louder),
    save(_params(SMALL), SMALL, dtype="float16"),
  }
  assert len(marks) == 4


def _edit(path, change, **metadata):
  """Rewrites a file with other tensors or metadata."""
  with safetensors.safe_open(path, framework="numpy") as file:
    known = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
  change(tensors)
  safetensors.numpy.save_file(tensors, path, metadata=known | metadata)


@pytest.mark.parametrize(
  "change,message",
  [
    (lambda t: t.pop("encoder.input.w"), r"missing tensors \['encoder.input.w'\]"),
    (lambda t: t.update(extra=np.zeros(2, np.float32)), r"unexpected tensors \['extra'\]"),
    (
      lambda t: t.update({"decoder.output.b": np.zeros(7, np.float32)}),
      r"decoder.output.b has shape \(7,\).*\(6,\)",
    ),
    (lambda t: t.update({"decoder.output.b": np.zeros(6, np.int32)}), "decoder.output.b is int32"),
    (
      lambda t: t.update({"decoder.output.b": np.full(6, np.nan, np.float32)}),
      "decoder.output.b has values that are not finite",
    ),
  ],
)
def test_a_wrong_tensor_is_refused_by_name(saved, change, message):
  path, _ = saved
  _edit(path, change)
  with pytest.raises(ValueError, match=message):
    weights.load(path)


def test_other_files_are_refused(tmp_path, saved):
  path, _ = saved
  _edit(path, lambda t: None, config=json.dumps({"vocab": 24}))
  with pytest.raises(ValueError, match="its config has no .*hidden"):
    weights.load(path)
  _edit(path, lambda t: None, format="other")
  with pytest.raises(ValueError, match="format 'other'"):
    weights.load(path)
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(ValueError, match="no whole safetensors file"):
    weights.load(path)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    weights.load(tmp_path / "nowhere.safetensors")


def test_codes_do_not_depend_on_the_frames_around(saved):
  tokenizer = weights.load(saved[0])
  frames = _frames(70, 16)  # more than one batch, and a short one
  codes = tokenizer.encode(frames)
  assert codes.shape == (70, 4, 4) and codes.dtype == np.int32
  order = np.random.default_rng(1).permutation(70)
  np.testing.assert_array_equal(tokenizer.encode(frames[order]), codes[order])
  np.testing.assert_array_equal(tokenizer.encode(frames[69:]), codes[69:])
  logits = jax.jit(lambda f: dvae.logits(SMALL, _params(SMALL), f))(frames)
  np.testing.assert_array_equal(codes, logits.argmax(-1))
  assert len(np.unique(codes)) > 3  # not one code for all


def test_decoding_draws_the_median_of_the_decoder(saved):
  tokenizer = weights.load(saved[0])
  codes = np.random.default_rng(0).integers(0, 24, (3, 2, 5))
  frames = tokenizer.decode(codes)
  assert frames.shape == (3, 8, 20, 3) and frames.dtype == np.uint8
  z = jax.nn.one_hot(codes, 24)
  out = jax.jit(lambda z: dvae.statistics(SMALL, _params(SMALL), z))(z)
  sigmoid = 1 / (1 + np.exp(-np.asarray(out[..., :3], np.float64)))
  expected = np.clip((sigmoid - 0.1) / 0.8, 0, 1) * 255
  assert np.abs(frames - expected).max() < 0.51


def test_wrong_inputs_of_a_tokenizer_say_what_is_needed(saved):
  tokenizer = weights.load(saved[0])
  with pytest.raises(ValueError, match="float32.*uint8"):
    tokenizer.encode(np.zeros((1, 16, 16, 3), np.float32))
  with pytest.raises(ValueError, match="18 x 16.*multiple of 4"):
    tokenizer.encode(np.zeros((1, 18, 16, 3), np.uint8))
  with pytest.raises(ValueError, match="0 frames"):
    tokenizer.encode(np.zeros((0, 16, 16, 3), np.uint8))
  with pytest.raises(ValueError, match="24.*codes 0 to 23"):
    tokenizer.decode(np.full((1, 2, 2), 24))


def test_half_precision_halves_the_file(tmp_path, saved):
  path = tmp_path / "half.safetensors"
  weights.save(path, _params(SMALL), SMALL, card={}, dtype="float16")
  assert path.stat().st_size < 0.6 * saved[0].stat().st_size
  half, whole = weights.read(path)[0], _params(SMALL)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), half, whole)
