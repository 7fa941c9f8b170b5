"""Released image tokenizers against goldens of their own modules, and as files.

Goldens: the official modules at tiny random weights (torch 2.13, CPU, float32;
repositories in `totojax/tokenizers/families.py`), the first image of two, and
every second pixel of what they decode. `param/NAME*E` is NAME over 2^E as int8.
Files: torch's own, of random weights.
"""

import dataclasses
import functools
import io
import json
import lzma
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from totojax.storage import arrays
from totojax.tokenizers import haar, quantisers, vqgan, weights
from totojax.tokenizers.families import FAMILIES
from totojax.tokenizers.released import official, pickles, reference, sizes

GOLDENS = pathlib.Path(__file__).parent / "golden" / "tokenizers"
KIND = {
  "llamagen": "llamagen",
  "diffusers-group": "diffusers",
  "diffusers-spatial": "diffusers",
  "ibq": "ibq",
  "open-magvit2": "open-magvit2",
  "cosmos-di": "cosmos-di",
}
EACH = pytest.mark.parametrize("name", KIND)


@functools.cache
def golden(name):
  """What was written down; parameters under "params"."""
  stored = np.load(io.BytesIO(lzma.decompress((GOLDENS / f"{name}.npz.xz").read_bytes())))
  found = {"params": {}}
  for key in stored.files:
    if key.startswith("param/"):
      tensor, _, exponent = key.removeprefix("param/").partition("*")
      found["params"][tensor] = stored[key] * np.float32(2.0 ** int(exponent))
    else:
      found[key] = stored[key]
  return found


def sample(name, folder):
  """A file as torch wrote it."""
  path = folder / name
  path.write_bytes(lzma.decompress((GOLDENS / f"{name}.xz").read_bytes()))
  return path


def safe(path, tensors):
  safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
  return path


def released(name, folder, tensors=None):
  """The files of a golden, as safetensors, in the order of its kind."""
  tensors = golden(name)["params"] if tensors is None else tensors
  if name.startswith("diffusers"):
    config = folder / "config.json"
    config.write_text(str(golden(name)["config"]))
    return [config, safe(folder / "model.safetensors", tensors)]
  if name != "cosmos-di":
    return [safe(folder / f"{name}.pt", tensors)]
  files = []
  for file, starts, buffer in (
    ("encoder.jit", ("encoder.", "quant_conv."), "quantizer._levels"),
    ("decoder.jit", ("decoder.", "post_quant_conv."), "inv_quant.quantizer._levels"),
  ):
    part = {k: v for k, v in tensors.items() if k.startswith(starts)}
    files.append(safe(folder / file, part | {buffer: np.int32([8, 8, 8, 5, 5, 5])}))
  return files


@functools.cache
def converted(name):
  size = None
  if name.startswith("diffusers"):
    size = sizes.from_diffusers(json.loads(str(golden(name)["config"])), "diffusers")
  return vqgan.from_reference(golden(name)["params"], KIND[name], size)


def pixels(name, decoded):
  """Decoded values to pixels as the publisher's script says, in numpy."""
  y = np.asarray(decoded, np.float32)
  match name:
    case "llamagen":
      return np.clip(127.5 * y + 128, 0, 255).astype(np.uint8)
    case "ibq" | "open-magvit2":
      return (255 * ((np.clip(y, -1, 1) + 1) / 2)).astype(np.uint8)
    case "cosmos-di":
      return (np.clip((y + 1) / 2, 0, 1) * 255 + 0.5).astype(np.uint8)
    case "amused":
      return (np.clip(y, 0, 1) * 255).round().astype(np.uint8)
    case _:
      return (np.clip(y / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8)


@pytest.mark.slow
@EACH
def test_latents_codes_and_images_are_those_of_the_official_module(tmp_path, name):
  known = golden(name)
  path = tmp_path / "tokenizer.safetensors"
  official.convert(KIND[name], released(name, tmp_path), path)
  params, config, _ = weights.read(path)
  assert (params.keys(), config) == (converted(name)[0].keys(), converted(name)[1])

  @jax.jit
  def both(params, frames, codes):
    return vqgan.latents(config, params, frames), vqgan.drawing(config, params, codes)

  latents, drawn = jax.device_get(both(params, known["pixels"], known["codes"]))
  np.testing.assert_allclose(latents, known["latents"], atol=1e-4, rtol=0)
  bound = 1e-4 * (1 + np.abs(known["decoded"]).max())
  np.testing.assert_allclose(drawn[:, ::2, ::2], known["decoded"], atol=bound, rtol=0)
  book = params.get("quantize", {"embedding": {"weight": None}})["embedding"]["weight"]
  np.testing.assert_array_equal(config.quantiser.codes(latents, book), known["codes"])
  assert len(np.unique(known["codes"])) > 16
  # The golden does not hold by its bound alone.
  assert np.std(known["latents"]) > 0.3 and np.std(known["decoded"]) > 0.3
  made = np.asarray(config.design.pixels(drawn).astype(np.uint8))
  np.testing.assert_array_equal(made, pixels(name, drawn))


@pytest.mark.slow
def test_a_converted_file_encodes_and_decodes(tmp_path):
  name = "cosmos-di"
  known = golden(name)
  path = tmp_path / "tokenizer.safetensors"
  mark = official.convert(KIND[name], released(name, tmp_path), path)
  tokenizer = weights.load(path)
  assert (tokenizer.fingerprint, tokenizer.kind) == (mark, KIND[name])
  np.testing.assert_array_equal(tokenizer.encode(known["pixels"]), known["codes"])
  drawn = tokenizer.decode(known["codes"])
  assert drawn.shape == known["pixels"].shape
  shown = pixels(name, known["decoded"]).astype(int)
  # A value beside a step between two pixels may go to the other side.
  away = np.abs(drawn[:, ::2, ::2] - shown)
  assert away.max() <= 1 and np.mean(away) < 1e-3
  with pytest.raises(ValueError, match=f"codes run from .* to {tokenizer.vocab};"):
    tokenizer.decode(np.full((1, 2, 2), tokenizer.vocab))
  # Decoding runs on any grid, and another code is another image.
  other = tokenizer.decode((known["codes"] + 1) % tokenizer.vocab)
  assert np.mean(other != drawn) > 0.5


# Quantisers, by the goldens' latents; each with what it is easily taken for.


def codes_by(quantiser, name):
  book = golden(name)["params"].get("quantize.embedding.weight")
  codes = quantiser.codes(golden(name)["latents"], book)
  return np.mean(np.asarray(codes) != golden(name)["codes"])


@pytest.mark.parametrize(
  "name, right, wrong",
  [
    ("llamagen", quantisers.Nearest(unit=True), quantisers.Nearest()),
    ("ibq", quantisers.LargestProduct(), quantisers.Nearest()),
    ("ibq", quantisers.LargestProduct(), quantisers.Nearest(unit=True)),
    ("diffusers-group", quantisers.Nearest(), quantisers.LargestProduct()),
    ("diffusers-spatial", quantisers.Nearest(), quantisers.Nearest(unit=True)),
    ("cosmos-di", quantisers.Fsq((8, 8, 8, 5, 5, 5)), quantisers.Fsq((5, 5, 5, 8, 8, 8))),
  ],
)
def test_codes_of_the_goldens_latents(name, right, wrong):
  assert codes_by(right, name) == 0
  assert codes_by(wrong, name) > 0.25


def test_signs_by_hand():
  latents = np.float32([[0.1, -2, 3], [0, -1, -1], [-1, 1, 1]])
  sign = quantisers.SignBits(3)
  np.testing.assert_array_equal(sign.codes(latents), [1 + 4, 0, 2 + 4])  # 0 is no bit
  np.testing.assert_array_equal(sign.values(np.array([5, 0])), [[1, -1, 1], [-1, -1, -1]])
  every = np.arange(2**10)
  ten = quantisers.SignBits(10)
  np.testing.assert_array_equal(ten.codes(ten.values(every)), every)
  known = golden("open-magvit2")
  np.testing.assert_array_equal(ten.codes(known["latents"]), known["codes"])
  assert np.mean(ten.codes(known["latents"][..., ::-1]) != known["codes"]) > 0.5
  # The two codes of 5 bits that its autoregressive models read.
  np.testing.assert_array_equal(known["codes"] % 32, known["codes_pre"])
  np.testing.assert_array_equal(known["codes"] // 32, known["codes_post"])
  assert quantisers.SignBits(18).vocab == 262_144
  for bits in (0, 31):
    with pytest.raises(ValueError, match=f"{bits} bits"):
      quantisers.SignBits(bits)


def test_finite_scalars_by_hand():
  fsq = quantisers.Fsq((8, 8, 8, 5, 5, 5))
  # Digits 3, 3, 2, 1, 3, 2 of the basis 1, 8, 64, 512, 2560, 12800.
  code = 3 + 3 * 8 + 2 * 64 + 1 * 512 + 3 * 2560 + 2 * 12800
  assert code == golden("cosmos-di")["codes"].ravel()[0] == 33947
  np.testing.assert_allclose(fsq.values(np.array(code)), [-0.25, -0.25, -0.5, -0.5, 0.5, 0])
  every = np.arange(fsq.vocab)
  digits = np.asarray(fsq.values(every)) * [4, 4, 4, 2, 2, 2] + [4, 4, 4, 2, 2, 2]
  np.testing.assert_array_equal(digits @ [1, 8, 64, 512, 2560, 12800], every)
  clip = np.linspace(-3, 3, 2 * 3 * 4 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 4, 6)
  assert fsq.codes(clip).shape == (2, 3, 4, 4)  # of clips as well
  extreme = np.float32([[-9] * 6, [9] * 6])
  np.testing.assert_array_equal(fsq.codes(extreme), [0, 64_000 - 1])
  with pytest.raises(ValueError, match="levels are .*1, 8"):
    quantisers.Fsq((1, 8))


def test_haar_patches():
  known = golden("cosmos-di")
  x = 2 * (known["pixels"][:, :16, :16].astype(np.float32) / 255) - 1
  there = jax.jit(haar.haar, static_argnums=(1, 2))
  back = jax.jit(haar.unhaar, static_argnums=(1, 2))
  patched = np.asarray(there(x, (2, 1), 2))
  np.testing.assert_allclose(patched, known["patched_crop"], atol=1e-6)
  transposed = there(x, (1, 2), 2)  # control: height before width
  assert np.abs(transposed - known["patched_crop"]).max() > 1e-2
  mean = x.reshape(1, 4, 4, 4, 4, 3).mean((2, 4))
  np.testing.assert_allclose(patched[..., :3], mean, atol=1e-6)
  np.testing.assert_allclose(back(patched, (2, 1), 2), x, atol=1e-6)
  clip = np.random.default_rng(0).normal(size=(2, 8, 8, 16, 3)).astype(np.float32)
  # Band 1 of 8 is high along the last axis alone.
  once = np.asarray(there(clip, (1, 2, 3), 1))
  high = (clip[..., ::2, :] - clip[..., 1::2, :]).reshape(2, 4, 2, 4, 2, 8, 3).mean((2, 4)) / 2
  np.testing.assert_allclose(once[..., 3:6], high, atol=1e-6)
  np.testing.assert_allclose(back(once, (1, 2, 3), 1), clip, atol=1e-5)
  with pytest.raises(ValueError, match="odd"):
    haar.haar(clip[:, :, :3], (1, 2, 3), 1)


# Networks: what is easily read otherwise.


def test_pixels_are_rounded_as_each_family_does():
  # 127.5 * 0.006 + 127.5 = 128.265; and 200.7.
  y = np.float32([-3, -1, 0.006, 200.7 / 127.5 - 1, 1, 2])
  made = {k: np.asarray(f.pixels(y).astype(np.uint8)).tolist() for k, f in FAMILIES.items()}
  assert made == {
    "vqgan": [0, 0, 128, 201, 255, 255],
    "llamagen": [0, 0, 128, 201, 255, 255],
    "diffusers": [0, 0, 128, 201, 255, 255],
    "amused": [0, 0, 2, 146, 255, 255],
    "ibq": [0, 0, 128, 200, 255, 255],
    "open-magvit2": [0, 0, 128, 200, 255, 255],
    "cosmos-di": [0, 0, 128, 201, 255, 255],
    "vidtok": [0, 0, 128, 200, 255, 255],
    "vidtok-1.1": [0, 0, 128, 200, 255, 255],
    "cosmos-dv": [0, 0, 128, 201, 255, 255],
  }


@pytest.mark.slow
def test_amused_reads_pixels_of_0_to_1(tmp_path):
  name = "diffusers-group"
  files = released(name, tmp_path)
  configs = [converted(name)[1]]
  official.convert("amused", files, tmp_path / "amused")
  params, config, _ = weights.read(tmp_path / "amused")
  assert config == dataclasses.replace(configs[0], family="amused")
  latents = jax.jit(vqgan.latents, static_argnums=0)
  odd = golden(name)["pixels"] | 1
  ours = latents(config, params, odd)
  # The same values, where black enters as -1.
  halved = ((odd.astype(np.int32) + 255) // 2).astype(np.uint8)
  np.testing.assert_allclose(ours, latents(configs[0], params, halved), atol=1e-4)
  assert np.abs(ours - latents(configs[0], params, odd)).max() > 0.1


@pytest.mark.slow
def test_the_adaptive_norm_sees_the_whole_image():
  params, config = converted("open-magvit2")
  codes = golden("open-magvit2")["codes"]
  drawing = jax.jit(vqgan.drawing, static_argnums=0)
  whole, half = drawing(config, params, codes), drawing(config, params, codes[:, :8])
  # Far from the cut, beyond any convolution's reach.
  assert np.abs(whole[:, :4] - half[:, :4]).max() > 1e-2
  with pytest.raises(ValueError, match="2 tokens or more"):
    vqgan.drawing(config, params, codes[:, :1, :1])


def test_spatial_norms_read_the_codes_before_the_convolution():
  params, config = converted("diffusers-spatial")
  norm = params["decoder"]["norm_out"]
  assert norm.keys() == {"norm_layer", "conv_y", "conv_b"}
  assert norm["conv_y"]["weight"].shape[2] == config.embed
  assert params["encoder"]["norm_out"].keys() == {"scale", "bias"}


@pytest.mark.slow
def test_sizes_of_the_released_configs():
  """Tensors and values counted in diffusers' own modules."""
  amused = dict(
    block_out_channels=[128, 256, 256, 512, 768],
    layers_per_block=2,
    latent_channels=64,
    vq_embed_dim=None,
    num_vq_embeddings=8192,
    mid_block_add_attention=False,
    down_block_types=["DownEncoderBlock2D"] * 5,
    up_block_types=["UpDecoderBlock2D"] * 5,
  )
  movq = dict(
    block_out_channels=[128, 256, 256, 512],
    layers_per_block=2,
    latent_channels=4,
    vq_embed_dim=4,
    num_vq_embeddings=16384,
    norm_type="spatial",
    down_block_types=["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
    up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
  )
  for settings, counted, factor in ((amused, (277, 146_244_675), 16), (movq, (431, 67_832_495), 8)):
    config = sizes.from_diffusers(settings, "diffusers")
    leaves = jax.tree.leaves(vqgan.shapes(config))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == counted
    assert config.factor == factor


@pytest.mark.slow
def test_sizes_of_the_other_released_networks():
  """Counted in the official modules; without LlamaGen's count of uses."""
  common = dict(embed=256, z=256, channels=128, multipliers=(1, 1, 2, 2, 4), attention=(4,))
  fsq = dict(embed=6, levels=(8, 8, 8, 5, 5, 5), vocab=64_000, z=256, channels=128, attention=())
  for family, size, counted, factor in (
    ("llamagen", common | dict(embed=8, blocks=2, vocab=16384), (343, 71_883_403), 16),
    ("ibq", common | dict(blocks=4, vocab=16384), (543, 110_982_019), 16),
    (
      "open-magvit2",
      common | dict(embed=18, z=18, blocks=4, vocab=2**18, attention=()),
      (339, 115_127_829),
      16,
    ),
    ("cosmos-di", fsq | dict(blocks=2, multipliers=(2, 4, 4), patch=4), (202, 83_723_958), 16),
    (
      "cosmos-di",
      fsq | dict(blocks=2, multipliers=(2, 4, 4), patch=4, flat=1),
      (198, 79_004_342),
      8,
    ),
  ):
    config = vqgan.VqganConfig(family=family, **size)
    leaves = jax.tree.leaves(vqgan.shapes(config))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == counted, family
    assert config.factor == factor


# Files.


def fingerprint(kind, files, folder):
  return official.convert(kind, files, folder / "made.safetensors")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_are_cast(tmp_path, dtype):
  name = "diffusers-group"
  mark = fingerprint("diffusers", released(name, tmp_path), tmp_path)
  files = released(name, tmp_path)
  cast = {k: v.astype(dtype) for k, v in golden(name)["params"].items()}
  files[1].write_bytes(safe_bytes(cast))
  assert arrays.stored(str(files[1]))["quant_conv.bias"].read().dtype == dtype
  assert fingerprint("diffusers", files, tmp_path) == mark


def safe_bytes(tensors):
  kinds = {np.dtype(dtype): name for name, dtype in arrays._DTYPES.items()}
  header, data = {}, b""
  for name, value in tensors.items():
    begin, data = len(data), data + value.tobytes()
    header[name] = {
      "dtype": kinds[value.dtype],
      "shape": value.shape,
      "data_offsets": [begin, len(data)],
    }
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + data


def test_attention_by_its_older_names(tmp_path):
  name = "diffusers-spatial"
  mark = fingerprint("diffusers", released(name, tmp_path), tmp_path)
  older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  renamed = {}
  for key, value in golden(name)["params"].items():
    for new, old in older.items():
      key = key.replace(f".{new}.", f".{old}.")
    renamed[key] = value
  assert renamed.keys() != golden(name)["params"].keys()
  assert fingerprint("diffusers", released(name, tmp_path, renamed), tmp_path) == mark


@pytest.mark.parametrize("name", ["ibq", pytest.param("open-magvit2", marks=pytest.mark.slow)])
def test_the_moving_average_is_read_where_there_is_one(tmp_path, name):
  torch = pytest.importorskip("torch")
  params = golden(name)["params"]
  mark = fingerprint(name, released(name, tmp_path), tmp_path)
  raw = {k: torch.from_numpy(v + 1) for k, v in params.items()}
  state = dict(raw)
  for key, value in params.items():
    state["model_ema." + key.replace(".", "")] = torch.from_numpy(value)
  state["model_ema.decay"] = torch.tensor(0.999)
  state["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
  state["loss.logvar"] = torch.zeros(())
  file = tmp_path / "last.ckpt"
  torch.save({"state_dict": state, "callbacks": {pathlib.PurePosixPath: 1}}, file)
  assert fingerprint(name, [file], tmp_path) == mark
  torch.save({"state_dict": raw}, file)  # control
  assert fingerprint(name, [file], tmp_path) != mark
  del state["model_ema.encoderconv_inweight"]
  torch.save({"state_dict": state}, file)
  with pytest.raises(ValueError, match="model_ema.encoderconv_inweight is missing"):
    fingerprint(name, [file], tmp_path)


def test_a_lightning_checkpoint_as_torch_writes_it(tmp_path):
  found = pickles.read(sample("lightning.ckpt", tmp_path))
  names = [n for n in found if not n.startswith(("model_ema.", "loss."))]
  assert len(names) == 11
  averaged = reference.averaged({k: v for k, v in found.items() if "loss" not in k}, names)
  assert list(averaged) == names
  for name in names:
    np.testing.assert_array_equal(averaged[name], found[name] / 2)
    assert np.any(found[name] != 0)


def test_llamagens_checkpoints(tmp_path):
  """The average of a training run is preferred; released files have none."""
  keys = FAMILIES["llamagen"].keys
  plain = pickles.read(sample("llamagen_release.pt", tmp_path), keys)
  averaged = pickles.read(sample("llamagen_training.pt", tmp_path), keys)
  model = pickles.read(tmp_path / "llamagen_training.pt", ("model",))
  assert plain.keys() == averaged.keys() == model.keys()
  assert plain["quantize.embedding.weight"].shape == (256, 8)
  for name in set(model) - {"quantize.codebook_used"}:
    np.testing.assert_array_equal(averaged[name], model[name] / 2)
  torch = pytest.importorskip("torch")
  params = {k: torch.from_numpy(v) for k, v in golden("llamagen")["params"].items()}
  mark = fingerprint("llamagen", released("llamagen", tmp_path), tmp_path)
  other = {k: v + 1 for k, v in params.items()}
  for saved in ({"model": params, "steps": 1}, {"model": other, "ema": params}, params):
    torch.save(saved, tmp_path / "vq.pt")
    assert fingerprint("llamagen", [tmp_path / "vq.pt"], tmp_path) == mark
  torch.save({"model": other}, tmp_path / "vq.pt")  # control
  assert fingerprint("llamagen", [tmp_path / "vq.pt"], tmp_path) != mark


def test_torchscript_as_torch_writes_it(tmp_path):
  found = pickles.read(sample("encoder.jit", tmp_path))
  assert found["encoder.conv_in.weight"].shape == (32, 48, 3, 3)
  assert found["encoder.conv_in.weight"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(found["quantizer._levels"], [8, 8, 8, 5, 5, 5])
  assert found["quantizer.implicit_codebook"].shape == (64_000, 6)
  expected = {k for k in golden("cosmos-di")["params"] if k.startswith(("encoder", "quant_conv"))}
  buffers = {n for n in found if n.startswith(("quantizer.", "encoder.patcher."))}
  # The golden's middle is wider than its first level, the file's is not.
  assert set(found) - buffers == expected - {
    f"encoder.down.1.block.0.nin_shortcut.{p}" for p in PARTS
  }
  torch = pytest.importorskip("torch")
  module = torch.jit.load(tmp_path / "encoder.jit", map_location="cpu")
  state = module.state_dict()
  assert state.keys() == found.keys()
  for name, value in state.items():
    np.testing.assert_array_equal(found[name].astype(np.float64), value.double().numpy())


PARTS = ("weight", "bias")


def script(torch, tensors):
  """A TorchScript module whose attributes are these tensors by their paths."""
  root = torch.nn.Module()
  for path, value in tensors.items():
    *parents, last = path.split(".")
    module = root
    for name in parents:
      if name not in module._modules:
        module.add_module(name, torch.nn.Module())
      module = module._modules[name]
    module.register_buffer(last, value)
  return torch.jit.script(root)


def test_cosmos_files_as_torchscript(tmp_path):
  torch = pytest.importorskip("torch")
  mark = fingerprint("cosmos-di", released("cosmos-di", tmp_path), tmp_path)
  params = golden("cosmos-di")["params"]
  encoder = {k: v for k, v in params.items() if k.startswith(("encoder.", "quant_conv."))}
  decoder = {k: v for k, v in params.items() if k not in encoder}
  levels = torch.tensor([8, 8, 8, 5, 5, 5], dtype=torch.int32)
  waves = torch.tensor([0.7071, 0.7071], dtype=torch.bfloat16)
  files = [tmp_path / "encoder.jit", tmp_path / "decoder.jit"]
  for file, part, buffers in (
    (files[0], encoder, {"quantizer._levels": levels, "encoder.patcher.wavelets": waves}),
    (files[1], decoder, {"inv_quant.quantizer._levels": levels}),
  ):
    tensors = {k: torch.from_numpy(v).to(torch.bfloat16) for k, v in part.items()}
    script(torch, tensors | buffers).save(str(file))
  assert fingerprint("cosmos-di", files, tmp_path) == mark
  with pytest.raises(
    ValueError, match="given as the encoder has no tensor of it.*encoder.jit, then"
  ):
    fingerprint("cosmos-di", files[::-1], tmp_path)


def test_the_parts_of_two_cosmos_are_not_taken_for_one(tmp_path):
  folders = [tmp_path / f"Cosmos-0.1-Tokenizer-DI{side}x{side}" for side in (8, 16)]
  files = []
  for number, folder in enumerate(folders):
    folder.mkdir()
    files.append(released("cosmos-di", folder)[number])
  message = refusal("cosmos-di", files, tmp_path)
  assert "the encoder is called a DI8x8 and the decoder is called a DI16x16" in message
  assert all(str(folder) in message for folder in folders)
  params = dict(golden("cosmos-di")["params"])
  factor = converted("cosmos-di")[1].factor
  for part in PARTS:
    params[f"decoder.up.7.upsample.conv.{part}"] = np.ones(4, np.float32)
  message = refusal("cosmos-di", released("cosmos-di", tmp_path, params), tmp_path)
  assert f"convolutions of {factor}x{factor}, and the decoder those of {2 * factor}x" in message


# What is refused: in one line that names what the file is and what was asked.


def refusal(kind, files, folder, error=ValueError):
  with pytest.raises(error) as caught:
    fingerprint(kind, files, folder)
  message = str(caught.value)
  assert "\n" not in message and len(message) < 1500, message
  assert any(str(file) in message for file in files)
  assert not (folder / "made.safetensors").exists()
  return message


@EACH
def test_the_files_of_another_family(tmp_path, name):
  (tmp_path / "own").mkdir()
  own = released(name, tmp_path / "own")
  for kind in official.KINDS.values():
    files = [own[-1]] * len(kind.files)
    if kind.files[0] == "config.json":
      files[0] = tmp_path / "config.json"
      files[0].write_text(str(golden("diffusers-group")["config"]))
    if FAMILIES.get(kind.family) and kind.family in (KIND[name], "amused", "diffusers"):
      continue
    if {name, kind.family} == {"ibq", "vqgan"}:
      continue  # the same names: told apart by their sizes, see below
    message = refusal(kind.name, files, tmp_path)
    assert kind.name in message
    assert FAMILIES[KIND[name]].what in message or (name == "ibq" and "VQGAN" in message)


def test_a_checkpoint_of_llamagen_is_named_whatever_is_asked(tmp_path):
  torch = pytest.importorskip("torch")
  file, config = tmp_path / "vq_ds16_c2i.pt", tmp_path / "config.json"
  config.write_text(str(golden("diffusers-group")["config"]))
  params = {k: torch.from_numpy(v) for k, v in golden("llamagen")["params"].items()}
  torch.save({"model": params, "optimizer": {}}, file)
  for kind in official.KINDS.values():
    if kind.name != "llamagen":
      files = [config if name == "config.json" else file for name in kind.files]
      message = refusal(kind.name, files, tmp_path)
      assert "this is a file of a VQ of LlamaGen" in message and f"{kind.name} is made" in message
  torch.save({"anything": params}, file)  # control
  assert "'anything' is _Dict, no dense tensor" in refusal("ibq", [file], tmp_path)


def test_a_part_of_a_checkpoint_of_llamagen_is_told_what_it_lacks(tmp_path):
  file = sample("llamagen_release.pt", tmp_path)
  message = refusal("llamagen", [file], tmp_path)
  assert "not a VQ of LlamaGen: encoder.conv_" in message and "is missing" in message
  assert "this is a file of a VQ of LlamaGen" in refusal("ibq", [file], tmp_path)
  # Control: without what LlamaGen alone has, its names are taming's.
  state = pickles.read(file, ("model",))
  del state["quantize.codebook_used"]
  assert "a VQGAN of taming" in refusal("llamagen", [safe(tmp_path / "vq", state)], tmp_path)


def test_twins_are_told_apart_where_their_sizes_are_known(tmp_path, monkeypatch):
  config = converted("ibq")[1]
  twin = official.Kind(
    "vqgan-tiny", ("last.ckpt",), ("nowhere",), dataclasses.replace(config, family="vqgan")
  )
  monkeypatch.setitem(official.KINDS, "vqgan-tiny", twin)
  files = released("ibq", tmp_path)
  assert "parts of vqgan-tiny" in refusal("ibq", files, tmp_path)
  assert "blocks 1 instead of 2" in refusal("vqgan-1k", files, tmp_path)
  tiny = {k: getattr(converted("diffusers-group")[1], k) for k in official._AMUSED}
  monkeypatch.setattr(official, "_AMUSED", tiny)
  files = released("diffusers-group", tmp_path)
  assert "parts of amused" in refusal("diffusers", files, tmp_path)
  files = released("diffusers-spatial", tmp_path)
  assert "parts of diffusers" in refusal("amused", files, tmp_path)


def test_settings_that_are_not_read(tmp_path):
  name = "diffusers-group"
  config, model = released(name, tmp_path)
  settings = json.loads(config.read_text())
  for change, told in (
    ({"_class_name": "AutoencoderKL"}, "_class_name 'AutoencoderKL'.*VQModel"),
    ({"act_fn": "relu"}, "act_fn 'relu'"),
    ({"norm_type": "layer"}, "norm_type 'layer'"),
    ({"block_out_channels": [16, 32]}, "down_block_types"),
    ({"up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2}, "attention where"),
    (
      {"layers_per_block": 1},
      "of this config.json: .*resnets.1.conv1.bias is unknown.* and 40 more",
    ),
    ({"num_vq_embeddings": 64}, "quantize.embedding.weight has shape .128, 16. where .64, 16."),
    ({"norm_num_groups": 7}, "multiples of 7"),
    ({"latent_channels": "x"}, "latent_channels is 'x' .*must be int"),
  ):
    config.write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=told):
      fingerprint("diffusers", [config, model], tmp_path)
  assert "is no config.json" in refusal("diffusers", [model, config], tmp_path)


def test_files_that_are_no_tokenizer(tmp_path):
  whole = released("llamagen", tmp_path)[0].read_bytes()
  file = tmp_path / "file"
  for data, told in (
    (b"", "empty"),
    (b"<!DOCTYPE html>", "no torch file"),
    (whole[:5000], "no whole safetensors file"),
    (
      safe_bytes({"a": np.ones(2, np.float32)}),
      "not a VQ of LlamaGen: encoder.conv_in.bias is missing",
    ),
    (safe_bytes({"a": np.ones(2, np.float32)}).replace(b"F32", b"X32"), "type X32; supported"),
  ):
    file.write_bytes(data)
    assert told in refusal("llamagen", [file], tmp_path)
  bad = dict(golden("llamagen")["params"])
  bad["quant_conv.bias"] = bad["quant_conv.bias"] * np.nan
  assert "not finite" in refusal("llamagen", released("llamagen", tmp_path, bad), tmp_path)
  video = safe_bytes({"encoder.conv_in.0.conv3d.weight": np.ones((1, 1, 1, 3, 3), np.float32)})
  file.write_bytes(video)
  assert "reads videos" in refusal("cosmos-di", [file, file], tmp_path)
