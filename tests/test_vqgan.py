"""The VQGAN against taming's own modules, and its released names."""

import dataclasses
import functools

import chex
from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np
import pytest

from totojax.tokenizers import quantisers, vqgan
from totojax.tokenizers.vqgan_modules import VqganConfig

OFFICIAL = VqganConfig(
  vocab=1024, embed=256, z=256, channels=128, multipliers=(1, 1, 2, 2, 4), blocks=2, attention=(4,)
)
SMALL = VqganConfig(
  vocab=48, embed=12, z=20, channels=32, multipliers=(1, 2, 2), blocks=1, attention=(1,)
)
NEAREST = quantisers.Nearest()


def _frames(count, side, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@functools.cache
def _parameters(config):
  return nn.unbox(jax.jit(vqgan.init, static_argnums=0)(config, jax.random.key(0)))


def _taming(config, resolution):
  """The modules of taming's `VQModel` with random weights, as one module."""
  torch = pytest.importorskip("torch")
  model = pytest.importorskip("taming.modules.diffusionmodules.model")
  quantize = pytest.importorskip("taming.modules.vqvae.quantize")
  torch.manual_seed(0)
  sizes = dict(
    ch=config.channels,
    out_ch=3,
    ch_mult=config.multipliers,
    num_res_blocks=config.blocks,
    in_channels=3,
    resolution=resolution,
    attn_resolutions=[resolution // 2**i for i in config.attention],
    z_channels=config.z,
    double_z=False,
  )
  module = torch.nn.Module()
  module.encoder = model.Encoder(**sizes)
  module.decoder = model.Decoder(**sizes)
  module.quantize = quantize.VectorQuantizer2(config.vocab, config.embed, 0.25)
  module.quant_conv = torch.nn.Conv2d(config.z, config.embed, 1)
  module.post_quant_conv = torch.nn.Conv2d(config.embed, config.z, 1)
  with torch.no_grad():
    for value in module.parameters():
      if value.ndim == 1:  # biases and norms that do something
        value.add_(0.2 * torch.randn_like(value))
  return torch, module


@pytest.mark.parametrize(
  "config,side", [(SMALL, 32), pytest.param(OFFICIAL, 128, marks=pytest.mark.slow)]
)
def test_latents_codes_and_images_equal_the_released_modules(config, side):
  # Attention sits by the configured resolution, twice that of the frames.
  torch, module = _taming(config, resolution=2 * side)
  frames = _frames(4 if config is SMALL else 1, side)
  with torch.no_grad():
    x = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2)
    z = module.quant_conv(module.encoder(2 * x - 1))
    book = module.quantize.embedding.weight
    # Codes lie among the latents, as in a trained model.
    std, mean = torch.std_mean(z, dim=(0, 2, 3))
    book.copy_(mean + std * torch.randn_like(book))
    _, _, (_, _, codes) = module.quantize(z)
    grid = side // config.factor
    codes = codes.reshape(len(frames), grid, grid)
    e = module.quantize.embedding(codes).permute(0, 3, 1, 2)
    drawn = module.decoder(module.post_quant_conv(e)).clamp(-1, 1)
  z = z.permute(0, 2, 3, 1).numpy()
  drawn = drawn.permute(0, 2, 3, 1).numpy()
  assert len(np.unique(codes)) > 16  # not one code for all

  tensors = {k: v.numpy() for k, v in module.state_dict().items()}
  tensors["loss.discriminator.main.0.weight"] = np.zeros(3)
  params, read = vqgan.from_reference(tensors)
  assert read == config

  latents = jax.jit(vqgan.latents, static_argnums=0)
  ours = np.asarray(latents(config, params, frames))
  scale = np.abs(z).max()
  np.testing.assert_allclose(ours, z, atol=1e-4 * scale, rtol=0)
  book = params["quantize"]["embedding"]["weight"]
  np.testing.assert_array_equal(jax.jit(NEAREST.codes)(ours, book), codes)
  draw = jax.jit(vqgan.drawing, static_argnums=0)
  image = np.clip(draw(config, params, codes.numpy()), -1, 1)
  assert np.abs(drawn).max() > 0.2
  np.testing.assert_allclose(image, drawn, atol=1e-4, rtol=0)

  if config is SMALL:  # attention left out, or at another level, is seen
    plain = dataclasses.replace(config, attention=())
    assert np.abs(latents(plain, params, frames) - z).max() > 1e-2 * scale


def test_the_official_size_has_the_released_parameters():
  shapes = vqgan.shapes(OFFICIAL)
  counts = {
    part: (len(leaves), sum(leaf.size for leaf in leaves))
    for part, tree in shapes.items()
    for leaves in [jax.tree.leaves(tree)]
  }
  # Counted in the state dictionaries of taming-transformers-rom1504 0.0.6.
  assert counts.pop("encoder") == (144, 29_298_176)
  assert counts.pop("decoder") == (194, 42_449_795)
  assert counts == {
    "quant_conv": (2, 65_792),
    "post_quant_conv": (2, 65_792),
    "quantize": (1, 262_144),
  }
  assert OFFICIAL.factor == 16


def test_the_nearest_code_is_the_first_of_equals():
  book = np.float32([[9, 9], [1, 0], [0, 1], [1, 0], [0, 1]])
  z = np.float32([[[[1, 0], [0, 2], [2, 2], [9, 8]]]])
  np.testing.assert_array_equal(NEAREST.codes(z, book), [[[1, 2, 1, 0]]])
  rng = np.random.default_rng(0)
  book, z = rng.normal(size=(70, 5)), rng.normal(size=(2, 3, 4, 5))
  distance = ((z[..., None, :] - book) ** 2).sum(-1)
  codes = NEAREST.codes(np.float32(z), np.float32(book))
  np.testing.assert_array_equal(codes, distance.argmin(-1))


def _reference(config):
  """A state dictionary with taming's names for random weights."""
  tensors = {}
  for path, value in traverse_util.flatten_dict(_parameters(config)).items():
    words = []
    for word in path:
      kind, _, number = word.rpartition("_")
      if kind in ("downsample", "upsample"):
        words += [kind.removesuffix("sample"), number, kind, "conv"]
      elif kind in ("down", "up", "block", "attn") and "mid" not in path:
        words += [kind, number]
      else:
        words.append({"scale": "weight"}.get(word, word))
    value = np.asarray(value)
    tensors[".".join(words)] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
  return tensors


def test_any_size_is_read_from_released_names():
  tensors = _reference(SMALL)
  assert {
    "encoder.down.1.block.0.nin_shortcut.weight",
    "encoder.down.1.attn.0.q.bias",
    "encoder.down.0.downsample.conv.weight",
    "encoder.mid.attn_1.proj_out.weight",
    "decoder.up.2.upsample.conv.bias",
    "decoder.up.0.block.1.norm2.weight",
    "quantize.embedding.weight",
  } <= set(tensors)
  params, config = vqgan.from_reference(tensors)
  assert config == SMALL
  chex.assert_trees_all_equal(params, _parameters(SMALL))


def test_every_wrong_tensor_of_a_released_file_is_named():
  tensors = _reference(SMALL)
  del tensors["encoder.down.1.block.0.norm1.weight"]
  tensors["post_quant_conv.bias"] = np.zeros(3, np.float32)
  tensors["encoder.extra"] = np.zeros(3, np.float32)
  with pytest.raises(ValueError) as error:
    vqgan.from_reference(tensors)
  for told in (
    "encoder.down.1.block.0.norm1.weight is missing",
    "post_quant_conv.bias has shape (3,) where (20,) is needed",
    "encoder.extra is unknown",
  ):
    assert told in str(error.value)
  with pytest.raises(ValueError, match="encoder.conv_in.weight is missing"):
    vqgan.from_reference({"loss.logvar": np.zeros(1)})


def test_sizes_that_cannot_be_are_refused():
  for change, told in (
    (dict(channels=24), r"\(24, 48, 48\).*multiples of 32"),
    (dict(attention=(3,)), "attention is .*levels are 0 to 2"),
    (dict(multipliers=()), "multipliers are"),
    (dict(vocab=0), "vocab is 0"),
  ):
    with pytest.raises(ValueError, match=told):
      dataclasses.replace(SMALL, **change)
  with pytest.raises(ValueError, match="18 x 18.*4 pixels"):
    vqgan.latents(SMALL, _parameters(SMALL), _frames(1, 18))


def test_every_parameter_has_its_axis_names():
  boxed = jax.eval_shape(lambda: vqgan.init(SMALL, jax.random.key(0)))
  specs = traverse_util.flatten_dict(nn.get_partition_spec(boxed))
  for path, leaf in traverse_util.flatten_dict(vqgan.shapes(SMALL)).items():
    names = {4: ("conv_height", "conv_width", "conv_in", "conv_out")}
    if "embedding" in path:
      names[2] = ("conv_out", "conv_in")
    names[1] = ("norm",) if "norm" in path[-2] else ("conv_out",)
    assert tuple(specs[path]) == names[leaf.ndim], path
