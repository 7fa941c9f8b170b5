"""What all kinds of tokenizer share: files, devices, precision, cost, jit."""

import functools
import json

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors

from totojax.config import tokens
from totojax.data.pixels import synthetic
from totojax.tokenizers import api, batches, convolution, dvae, vqgan, weights

DVAE = dvae.DvaeConfig(vocab=24, hidden=8, groups=3, blocks=1, decoder_init=16, post_gain=0.25)
VQGAN = vqgan.VqganConfig(
  vocab=40, embed=8, z=12, channels=32, multipliers=(1, 1), blocks=1, attention=(1,)
)
BITS = vqgan.VqganConfig(
  vocab=64,
  embed=6,
  z=6,
  channels=32,
  multipliers=(1, 1),
  blocks=2,
  attention=(),
  family="open-magvit2",
)
LEVELS = vqgan.VqganConfig(
  vocab=40,
  embed=2,
  z=12,
  channels=32,
  multipliers=(2, 2, 1),
  blocks=1,
  attention=(1,),
  family="cosmos-di",
  patch=4,
  flat=1,
  levels=(8, 5),
)
SCALARS = tokens.FsqConfig(
  levels=(5, 4, 3), side_px=4, width=12, hidden=12, encoder_blocks=4, decoder_blocks=1
)
FORMATS = {dvae.DvaeConfig: "dvae", vqgan.VqganConfig: "vqgan", tokens.FsqConfig: "fsq"}
ALL = pytest.mark.parametrize(
  "config", [DVAE, VQGAN, BITS, LEVELS, SCALARS], ids=["dvae", "vqgan", "bits", "levels", "scalars"]
)
KINDS = pytest.mark.parametrize("config", [DVAE, VQGAN, SCALARS], ids=["dvae", "vqgan", "scalars"])


@functools.cache
def _params(config):
  module = weights.module(config)
  rng = np.random.default_rng(0)
  if config in (BITS, LEVELS):
    return jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), module.shapes(config))
  make = jax.jit(module.init, static_argnums=0)
  params = jax.device_get(nn.unbox(make(config, jax.random.key(0))))
  if config is SCALARS:  # blocks that start at 0 do something
    for part, name in (("encoder", "block_0"), ("decoder", "block_0")):
      out = params[part][name]["out"]
      out["w"] = np.float32(rng.normal(size=out["w"].shape))
    return params
  if config is VQGAN:  # codes as far apart as latents are
    book = 0.5 * rng.normal(size=(config.vocab, config.embed))
    params["quantize"]["embedding"]["weight"] = np.float32(book)
    return params
  # Logits without what all positions share, or one code wins everywhere.
  probe = jax.jit(dvae.features, static_argnums=0)(config, params, _frames(32, 16, 16))
  layer = params["encoder"]["output"]
  mean_C = np.asarray(probe).mean((0, 1, 2))
  layer["b"] = np.float32(-mean_C @ layer["w"][0, 0])
  return params


def _frames(count, height, width):
  rng = np.random.default_rng(0)
  shape = (count, height, width, 3)
  noise = rng.integers(0, 256, shape, dtype=np.uint8)
  # From dark to light, so that frames differ in more than noise.
  return (noise * np.linspace(0.1, 1, count)[:, None, None, None]).astype(np.uint8)


@ALL
def test_a_saved_tokenizer_comes_back_whole(tmp_path, config):
  path = tmp_path / "tokenizer.safetensors"
  params = _params(config)
  mark = weights.save(path, params, config, card={"a": 1}, dtype="float32")
  read, found, read_mark = weights.read(path)
  assert (found, read_mark) == (config, mark)
  chex.assert_trees_all_equal(read, params)
  tokenizer = weights.load(path)
  assert tokenizer.kind == ("dvae" if config is DVAE else config.family)
  assert (tokenizer.vocab, tokenizer.factor) == (config.vocab, config.factor)
  assert tokenizer.fingerprint == mark
  chex.assert_trees_all_equal(tokenizer.params, params)
  with safetensors.safe_open(path, framework="numpy") as file:
    stored = json.loads(file.metadata()["config"])
    assert file.metadata()["format"] == f"totojax-{FORMATS[type(config)]}-1"
    assert stored.get("vocab", config.vocab) == config.vocab
    # What families brought is in files of theirs alone: older ones stay as they are.
    assert ("family" in stored) == (config in (BITS, LEVELS))
    assert ("patch" in stored) == (config is LEVELS)


def test_the_parameters_of_one_kind_are_no_file_of_the_other(tmp_path):
  with pytest.raises(ValueError, match="missing tensors .*quant_conv"):
    weights.save(tmp_path / "x", _params(DVAE), VQGAN, card={}, dtype="float32")


@pytest.mark.parametrize(
  "name, mark",
  [
    ("shipped", "36c72dcee16ddf59"),
    ("shipped-32", "36c72dcee16ddf59"),
    ("shipped-f8", "5d8ffa5a2d6bc186"),
    ("shipped-video", "8285d5c9103a455e"),
  ],
)
def test_the_shipped_fingerprints_have_not_changed(name, mark):
  assert weights.load(name).fingerprint == mark


@KINDS
def test_codes_do_not_depend_on_devices_or_on_how_many_frames(monkeypatch, config):
  assert len(jax.local_devices()) == 8
  monkeypatch.setattr(batches, "_CPU_MOST_FRAMES", 4)
  frames = _frames(45, 16, 8)  # eight devices, then a part, padded
  tokenizer = weights.tokenizer(_params(config), config, "mark")
  codes = tokenizer.encode(frames)
  grid = (16 // config.factor, 8 // config.factor)
  assert codes.shape == (45, *grid) and codes.dtype == np.int32
  assert len(np.unique(codes)) > 8
  order = np.random.default_rng(1).permutation(45)
  np.testing.assert_array_equal(tokenizer.encode(frames[order]), codes[order])
  for i in (0, 3, 44):
    alone = tokenizer.encode(frames[i : i + 1])
    np.testing.assert_array_equal(alone, codes[i : i + 1])
  drawn = tokenizer.decode(codes)
  assert drawn.shape == frames.shape and drawn.dtype == np.uint8

  first = jax.local_devices()[:1]
  monkeypatch.setattr(jax, "local_devices", lambda: first)
  single = weights.tokenizer(_params(config), config, "mark")
  np.testing.assert_array_equal(single.encode(frames), codes)
  np.testing.assert_array_equal(single.decode(codes), drawn)


def test_rows_are_spread_over_all_devices_and_the_rest_padded(monkeypatch):
  shapes = []

  def double(params, x):
    shapes.append(x.shape)
    return 2 * x + params

  function = batches.LocalDevices(double, np.float32(1))
  x = np.arange(17, dtype=np.float32)
  np.testing.assert_array_equal(function(x, rows=2), 2 * x + 1)
  assert shapes == [(2,), (2,)]  # on eight devices, then on one
  mesh_sizes = {function._program(n)[1].mesh.size for n in (1, 8)}
  assert mesh_sizes == {1, 8}
  with pytest.raises(ValueError, match="0 frames"):
    function(x[:0], rows=2)
  assert batches.call_rows(0) == 8
  assert batches.call_rows(34_000_000_000) == 2
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert batches.call_rows(0) == 64
  assert batches.call_rows(34_000_000_000) == 8
  assert batches.call_rows(2**50) == 1


@KINDS
def test_codes_inside_a_larger_jit_are_those_of_encode(config):
  tokenizer = weights.tokenizer(_params(config), config, "mark")
  _same_inside_a_jit(tokenizer, _frames(5, 16, 16))


def test_the_shipped_tokenizer_inside_a_larger_jit():
  scenes = synthetic.SyntheticConfig(
    seed=0,
    frames=4,
    size_px=32,
    objects=2,
    occluder_frac=0.3,
    pan_frac=0.2,
    motions=(),
    backgrounds=(),
    radius=(0.22, 0.3),
    speed=(0.05, 0.085),
  )
  clips = [synthetic.render(scenes, i) for i in range(3)]
  frames = np.concatenate([clip.frames_NHW3 for clip in clips])
  frames = np.concatenate([frames, _frames(4, 32, 32)])
  _same_inside_a_jit(weights.load("shipped"), frames)


def _same_inside_a_jit(tokenizer, frames):
  """Flips frames, encodes them and goes on with the codes, in one program."""

  @jax.jit
  def step(params, frames, table_V):
    codes = tokenizer.codes_of(params, frames[:, :, ::-1])
    return codes, table_V[codes].sum()

  table_V = np.arange(tokenizer.vocab, dtype=np.float32)
  codes, total = step(tokenizer.params, frames, table_V)
  expected = tokenizer.encode(np.ascontiguousarray(frames[:, :, ::-1]))
  assert codes.dtype == np.int32
  np.testing.assert_array_equal(codes, expected)
  assert total == expected.sum()
  assert np.any(expected != tokenizer.encode(frames))  # control: the flip


def _products(jaxpr, branches):
  """Every product of a program: (kind, shapes, parameters).

  Of a choice (here: by the kind of device) only the branches asked for.
  """
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
      shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
      yield eqn.primitive.name, shapes, eqn.params
    for name, value in eqn.params.items():
      for part in value[branches] if name == "branches" else (value,):
        inner = getattr(part, "jaxpr", part)
        if hasattr(inner, "eqns"):
          yield from _products(inner, branches)


def _program(tokenizer, frames, *, branches):
  traced = jax.make_jaxpr(tokenizer.codes_of)(tokenizer.params, frames)
  return list(_products(traced.jaxpr, branches))


@ALL
def test_every_product_has_the_highest_precision_unless_asked(config):
  frames = _frames(1, 16, 16)
  for precision, passes in (("highest", 6), ("high", 3), ("default", 1)):
    tokenizer = weights.tokenizer(_params(config), config, "mark", precision=precision)
    assert tokenizer.passes == passes
    wanted = jax.lax.Precision(precision)
    products = _program(tokenizer, frames, branches=slice(None))
    assert len(products) > 10
    for _, _, params in products:
      assert params["precision"] == (wanted, wanted)
  default = weights.tokenizer(_params(config), config, "mark")
  assert default.passes == api.PASSES["highest"] == 6
  with pytest.raises(ValueError, match="'best' is unknown.*'high'"):
    weights.tokenizer(_params(config), config, "mark", precision="best")


@ALL
def test_the_cost_is_that_of_the_program(config):
  tokenizer = weights.tokenizer(_params(config), config, "mark")
  for side in (8, 24):
    total = 0
    for kind, (left, right, out), params in _program(
      tokenizer, _frames(1, side, side), branches=slice(-1, None)
    ):
      if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        total += np.prod(out) * np.prod([left[i] for i in contracted])
      else:  # kernels are HWIO
        total += np.prod(out) * np.prod(right[:-1])
    assert tokenizer.macs(side) == total


def test_the_cost_of_the_vqgan_is_near_what_xla_counts(monkeypatch):
  # Of plain convolutions.
  monkeypatch.setattr(convolution, "_WINOGRAD_CHANNELS", 10**6)
  config = vqgan.VqganConfig(
    vocab=1024,
    embed=256,
    z=256,
    channels=128,
    multipliers=(1, 1, 2, 2, 4),
    blocks=2,
    attention=(4,),
  )
  frames = jax.ShapeDtypeStruct((1, 128, 128, 3), np.uint8)
  encode = jax.jit(lambda p, f: vqgan.codes(config, p, f, precision="highest"))
  cost = encode.lower(vqgan.shapes(config), frames).cost_analysis()
  # XLA leaves out what meets padding and counts additions of norms.
  assert vqgan.macs(config, 128) == pytest.approx(cost["flops"] / 2, rel=0.05)
