"""Released tokenizers of clips against goldens of their own modules, and as files.

Goldens: as in `test_open_tokenizers`, of clips of 9 frames, and every third pixel
of the last 9 that they decode (VidTok 1.1's module gives 12). Files: of a Cosmos
DV of random weights, as torch wrote them, and the codes that it gave.
"""

import dataclasses
import functools
import hashlib
import io
import lzma
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import test_open_tokenizers as of_images

from totojax.config.model import LatentSpec
from totojax.tokenizers import api, causal, haar, weights
from totojax.tokenizers.causal_modules import CausalConfig
from totojax.tokenizers.released import official, pickles, sizes

golden, safe = of_images.golden, of_images.safe
KIND = {
  "vidtok": ("vidtok", "v1.0"),
  "vidtok-1.1": ("vidtok", "v1.1"),
  "cosmos-dv-4x8x8": ("cosmos-dv", "4x8x8"),
  "cosmos-dv-8x16x16": ("cosmos-dv", "8x16x16"),
}
EACH = pytest.mark.parametrize("name", KIND)
PARTS = {"encoder": ("encoder.", "quant_conv."), "decoder": ("decoder.", "post_quant_conv.")}
# The released sizes.
VIDTOK = CausalConfig(
  family="vidtok",
  levels=(8, 8, 8, 8),
  z=4,
  channels=128,
  multipliers=(1, 2, 4, 4),
  blocks=2,
  space_down=(0, 1, 2),
  space_up=(1, 2, 3),
  time_down=(1, 2),
  time_up=(1, 2),
)
COSMOS = CausalConfig(
  family="cosmos-dv",
  levels=(8, 8, 8, 5, 5, 5),
  z=16,
  channels=128,
  multipliers=(2, 4, 4),
  blocks=2,
  space_down=(0, 1),
  space_up=(1, 2),
  time_down=(0,),
  time_up=(1,),
  patch=4,
)
TINY = {
  "vidtok": dataclasses.replace(VIDTOK, channels=4, blocks=1),
  "vidtok-1.1": dataclasses.replace(VIDTOK, family="vidtok-1.1", channels=4, blocks=1),
  "cosmos-dv": dataclasses.replace(COSMOS, channels=4, blocks=1),
}


def released(name, folder, tensors=None):
  """The files of a golden, as safetensors, in the order of its kind."""
  tensors = golden(name)["params"] if tensors is None else tensors
  if KIND[name][0] == "vidtok":
    version = "" if name == "vidtok" else "_v1_1"
    return [safe(folder / f"vidtok_fsq_causal_488_32768{version}.ckpt", tensors)]
  files = []
  for part, starts in PARTS.items():
    prefix = "" if part == "encoder" else "inv_quant."
    state = {k: v for k, v in tensors.items() if k.startswith(starts)}
    levels = {f"{prefix}quantizer._levels": np.int32([8, 8, 8, 5, 5, 5])}
    files.append(safe(folder / f"{part}.jit", state | levels))
  return files


@functools.cache
def config_of(name):
  family = name if name.startswith("vidtok") else "cosmos-dv"
  return sizes.of_clips(golden(name)["params"], family, KIND[name][1])


def random_params(config, seed=0):
  """Of no zeros and ones: norms and shares are to be seen."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32), causal.shapes(config)
  )


latents_of = jax.jit(causal.latents, static_argnums=0)
drawing_of = jax.jit(causal.drawing, static_argnums=0)


@pytest.mark.slow
@EACH
def test_latents_codes_and_clips_are_those_of_the_official_module(tmp_path, name):
  known = golden(name)
  path = tmp_path / "tokenizer.safetensors"
  kind, variant = KIND[name]
  official.convert(kind, released(name, tmp_path), path, variant=variant)
  params, config, _ = weights.read(path)
  assert config == config_of(name)
  latents = np.asarray(latents_of(config, params, known["pixels"]))
  drawn = np.asarray(drawing_of(config, params, known["codes"]))
  np.testing.assert_allclose(latents, known["latents"], atol=1e-4, rtol=0)
  assert drawn.shape == known["pixels"].shape
  bound = 1e-4 * (1 + np.abs(known["decoded"]).max())
  np.testing.assert_allclose(drawn[:, :, ::3, ::3], known["decoded"], atol=bound, rtol=0)
  np.testing.assert_array_equal(config.quantiser.codes(latents), known["codes"])
  assert len(np.unique(known["codes"])) > 12
  # The golden does not hold by its bound alone.
  assert np.std(known["latents"]) > 0.3 and np.std(known["decoded"]) > 0.2
  made = np.asarray(config.design.pixels(drawn).astype(np.uint8))
  unit = (np.clip(drawn, -1, 1) + 1) / 2 * 255
  np.testing.assert_array_equal(made, (unit + 0.5 * (kind == "cosmos-dv")).astype(np.uint8))


@pytest.mark.slow
def test_the_versions_of_vidtok_are_not_taken_for_each_other():
  """Same names and shapes: only the frames before a clip differ."""
  known = golden("vidtok")
  config = config_of("vidtok")
  other = dataclasses.replace(config, family="vidtok-1.1")
  params = causal.from_reference(known["params"], other)
  latents = latents_of(other, params, known["pixels"])
  assert np.mean(np.asarray(config.quantiser.codes(latents)) != known["codes"]) > 0.25


@EACH
def test_a_size_is_read_off_the_tensors(name):
  config = config_of(name)
  assert config.vocab == {"vidtok": 8**4, "vidtok-1.1": 8**5}.get(name, 64_000)
  frames, side = (8, 16) if name == "cosmos-dv-8x16x16" else (4, 8)
  assert (config.frame_factor, config.factor) == (frames, side)
  known = golden(name)
  assert known["codes"].shape[1:] == (
    1 + (known["pixels"].shape[1] - 1) // frames,
    *(n // side for n in known["pixels"].shape[2:4]),
  )
  # Convolutions that never run are left out, where all are there.
  params = causal.from_reference(known["params"], config)
  unused = len(known["params"]) - len(jax.tree.leaves(params))
  assert unused == {"cosmos-dv-4x8x8": 16, "cosmos-dv-8x16x16": 4}.get(name, 0)


@pytest.mark.slow
def test_sizes_of_the_released_networks():
  """Tensors and values counted in the official modules."""
  for config, counted in (
    (VIDTOK, (416, 157_396_363)),
    (dataclasses.replace(VIDTOK, levels=(8,) * 5, z=5), (416, 157_424_012)),
    # With 4 tensors, of 2 convolutions over time, that never run: 322.
    (COSMOS, (318, 112_472_182 - 2 * (3 * 512**2 + 512))),
  ):
    leaves = jax.tree.leaves(causal.shapes(config))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == counted


def test_haar_patches_of_clips():
  known = golden("cosmos-dv-4x8x8")
  first = np.repeat(known["pixels"][:, :1, :16, :16], 4, axis=1)
  clip = np.concatenate([first, known["pixels"][:, 1:, :16, :16]], axis=1)
  x = 2 * (clip.astype(np.float32) / 255) - 1
  np.testing.assert_allclose(haar.haar(x, (1, 2, 3), 2), known["patched_crop"], atol=1e-6)
  # Control: width before height, as of images.
  assert np.abs(haar.haar(x, (1, 3, 2), 2) - known["patched_crop"]).max() > 1e-2


@pytest.mark.parametrize("family", TINY)
def test_later_frames_change_no_earlier_code(family):
  config = TINY[family]
  step = config.frame_factor
  params = random_params(config)
  rng = np.random.default_rng(1)
  clip = rng.integers(0, 256, (1, 1 + 2 * step, config.factor, config.factor, 3), dtype=np.uint8)
  other = clip.copy()
  other[:, 1 + step :] = 255 - other[:, 1 + step :]
  both = latents_of(config, params, np.concatenate([clip, other]))
  np.testing.assert_array_equal(both[0, :2], both[1, :2])
  assert np.abs(both[0, 2:] - both[1, 2:]).max() > 1e-3
  assert both.shape[1] == 3


def multiplications(jaxpr):
  """Of all products and convolutions, in the branch that every device has."""
  total = 0
  for eqn in jaxpr.eqns:
    name, out = eqn.primitive.name, eqn.outvars[0].aval
    if name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      total += out.size * int(np.prod([eqn.invars[0].aval.shape[i] for i in contracted]))
    elif name == "conv_general_dilated":
      total += out.size * int(np.prod(eqn.invars[1].aval.shape[:-1]))
    elif "branches" in eqn.params:
      total += multiplications(eqn.params["branches"][-1].jaxpr)
    elif inner := eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")):
      total += multiplications(getattr(inner, "jaxpr", inner))
  return total


@pytest.mark.parametrize("config", [TINY["vidtok"], TINY["cosmos-dv"]])
def test_multiplications_are_those_of_one_more_latent_frame(config):
  def count(latent):
    frames = 1 + (latent - 1) * config.frame_factor
    clip = jax.ShapeDtypeStruct((1, frames, 32, 32, 3), np.uint8)
    closed = jax.make_jaxpr(functools.partial(causal.latents, config))(causal.shapes(config), clip)
    return multiplications(closed.jaxpr)

  assert causal.macs(config, 32) == count(2) - count(1)


@pytest.mark.slow
def test_a_tokenizer_of_clips_encodes_and_decodes(tmp_path):
  config = TINY["cosmos-dv"]
  path = tmp_path / "tokenizer.safetensors"
  mark = weights.save(path, random_params(config), config, card={}, dtype="float32")
  tokenizer = weights.load(path)
  assert (tokenizer.fingerprint, tokenizer.kind, tokenizer.vocab) == (mark, "cosmos-dv", 64_000)
  assert tokenizer.latents == LatentSpec(frame_factor=8, first_frames=1)
  clips = np.random.default_rng(2).integers(0, 256, (3, 7, 16, 32, 3), dtype=np.uint8)
  codes = api.encode_clips(tokenizer, clips)
  assert codes.shape == (3, 2 * 1 * 2) and len(np.unique(codes)) > 6
  padded = np.concatenate([clips, clips[:, -1:], clips[:, -1:]], axis=1)
  np.testing.assert_array_equal(tokenizer.encode(padded).reshape(3, -1), codes)
  # Clips do not see each other, nor how many there are.
  np.testing.assert_array_equal(api.encode_clips(tokenizer, clips[1:2]), codes[1:2])
  codes = codes.reshape(3, 2, 1, 2)
  drawn = tokenizer.decode(codes)
  assert drawn.shape == (3, 9, 16, 32, 3) and drawn.dtype == np.uint8
  np.testing.assert_array_equal(api.decode_clips(tokenizer, codes, frames=7), drawn[:, :7])
  for wrong, told in (
    (lambda: tokenizer.encode(clips), "7 frames; this tokenizer reads 1 and then 8"),
    (lambda: tokenizer.encode(clips[0]), r"uint8 \[clips, frames, height, width, 3\]"),
    (lambda: tokenizer.decode(codes[0]), r"\[clips, frames, grid, grid\]"),
    (lambda: tokenizer.decode(codes + 64_000), "codes 0 to 63999"),
  ):
    with pytest.raises(ValueError, match=told):
      wrong()


# Files.


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
  """Files of a Cosmos DV 4x8x8 as TorchScript, in bfloat16."""
  folder = tmp_path_factory.mktemp("scripts")
  return [of_images.sample(f"cosmos-dv-{part}.jit", folder) for part in PARTS]


def test_torchscript_as_torch_writes_it(scripts):
  digests = {
    "encoder": "e1062160ec74b0ef9437ab978b0fda692d8786b966d3e64854a5d405c8119a80",
    "decoder": "62450f1595eb7dda60ab941912247fc4470fb068feffb103e2f5f80c97281c2f",
  }
  for part, file in zip(PARTS, scripts):
    found, digest = pickles.read(file), hashlib.sha256()
    codebook = found.pop(
      ("" if part == "encoder" else "inv_quant.") + "quantizer.implicit_codebook"
    )
    np.testing.assert_array_equal(codebook, COSMOS.quantiser.values(np.arange(64_000)))
    for name in sorted(found):
      value = found[name]
      digest.update(f"{name} {value.shape}".encode() + value.astype(np.float32).tobytes())
    assert digest.hexdigest() == digests[part]
    assert found[f"{part}.conv_in.0.conv3d.weight"].dtype == ml_dtypes.bfloat16


@pytest.mark.slow
def test_codes_of_torchscript_are_those_of_float32(scripts, tmp_path):
  official.convert("cosmos-dv", scripts, tmp_path / "made")
  params, config, _ = weights.read(tmp_path / "made")
  assert (config.frame_factor, config.factor) == (4, 8)
  known = np.load(
    io.BytesIO(lzma.decompress((of_images.GOLDENS / "cosmos-dv-jit.npz.xz").read_bytes()))
  )
  codes = config.quantiser.codes(latents_of(config, params, known["pixels"]))
  np.testing.assert_array_equal(codes, known["codes_float32"])
  # As published they are computed in bfloat16, and some differ.
  assert 0 < np.mean(codes != known["codes_bfloat16"]) < 0.2


def converted(kind, files, folder, variant=""):
  mark = official.convert(kind, files, folder / "made.safetensors", variant=variant)
  return mark, weights.read(folder / "made.safetensors")[1]


def test_the_version_of_a_vidtok_is_that_of_its_name(tmp_path):
  files = released("vidtok", tmp_path)
  assert converted("vidtok", files, tmp_path)[1].family == "vidtok"
  newer = tmp_path / "vidtok_fsq_causal_488_32768_v1_1.ckpt"
  newer.write_bytes(files[0].read_bytes())
  mark, config = converted("vidtok", [newer], tmp_path)
  assert config.family == "vidtok-1.1"
  # What is given may say the same again, and nothing else.
  assert converted("vidtok", [newer], tmp_path, "v1.1") == (mark, config)
  for wrong, given, named in ((files, "v1.1", "v1.0"), ([newer], "v1.0", "v1.1")):
    message = refusal("vidtok", wrong, tmp_path, variant=given)
    assert f"official.variant is {given}, and the name is that of a {named}" in message
  renamed = newer.rename(tmp_path / "vidtok.ckpt")
  message = refusal("vidtok", [renamed], tmp_path)
  assert "which version of VidTok" in message and "official.variant, one of v1.0, v1.1" in message
  assert converted("vidtok", [renamed], tmp_path, "v1.1")[0] == mark
  assert "of vidtok there is none: give one of v1.0" in str(
    refusal("vidtok", files, tmp_path, variant="4x8x8", named=False)
  )
  assert "leave it empty" in refusal("ibq", files, tmp_path, variant="v1.0", named=False)


def test_the_compression_of_a_cosmos_is_that_of_its_convolutions(tmp_path):
  name = "cosmos-dv-8x16x16"
  params, released_as = golden(name)["params"], tmp_path / "Cosmos-0.1-Tokenizer-DV8x16x16"
  files = released(name, tmp_path)
  message = refusal("cosmos-dv", files, tmp_path)
  assert "do not tell how much it compresses" in message and "8x16x16" in message
  mark, config = converted("cosmos-dv", files, tmp_path, "8x16x16")
  # By the name of its folder, and by what is left out.
  released_as.mkdir()
  assert converted("cosmos-dv", released(name, released_as), tmp_path) == (mark, config)
  message = refusal("cosmos-dv", released(name, released_as), tmp_path, variant="4x8x8")
  assert "official.variant is 4x8x8, and the name is that of a 8x16x16" in message
  idle = ("encoder.down.1.downsample.conv2.", "decoder.up.2.upsample.conv1.")
  left = {k: v for k, v in params.items() if not k.startswith(idle)}
  assert len(left) == len(params) - 4
  files = released(name, tmp_path, left)
  assert converted("cosmos-dv", files, tmp_path) == (mark, config)
  assert "called a 4x8x8, and has the convolutions of 8x16x16" in refusal(
    "cosmos-dv", files, tmp_path, variant="4x8x8"
  )
  del left["encoder.down.0.downsample.conv1.conv3d.weight"]
  message = refusal("cosmos-dv", released(name, tmp_path, left), tmp_path)
  assert "no Cosmos" in message or "conv1.conv3d.weight is missing" in message


def test_the_parts_of_two_cosmos_are_not_taken_for_one(tmp_path):
  folders, parts = [], []
  for name in ("cosmos-dv-4x8x8", "cosmos-dv-8x16x16"):
    folders.append(tmp_path / f"Cosmos-0.1-Tokenizer-DV{KIND[name][1]}")
    folders[-1].mkdir()
    parts.append(released(name, folders[-1]))
  # Control: what the names say is all that sets the parts apart.
  files = [parts[0][0], parts[1][1]]
  plain = [tmp_path / file.name for file in files]
  for file, copy in zip(files, plain):
    copy.write_bytes(file.read_bytes())
  assert converted("cosmos-dv", plain, tmp_path, "4x8x8")[1].factor == 8
  for variant in ("", "4x8x8"):
    message = refusal("cosmos-dv", files, tmp_path, variant=variant)
    assert "the encoder is called a DV4x8x8 and the decoder is called a DV8x16x16" in message
    assert all(str(folder) in message for folder in folders)
  # One name is enough, whichever has it.
  assert converted("cosmos-dv", [plain[0], files[1]], tmp_path)[1].factor == 16
  # And by the convolutions that are left.
  idle = {
    "cosmos-dv-4x8x8": r"encoder\.down\.(0\.downsample\.conv[23]|1\.downsample)",
    "cosmos-dv-8x16x16": r"decoder\.up\.2\.upsample\.conv1",
  }
  for (name, pattern), number in zip(idle.items(), (0, 1)):
    params = golden(name)["params"]
    left = {k: v for k, v in params.items() if not re.match(pattern, k)}
    assert len(left) < len(params)
    plain[number].write_bytes(released(name, folders[0], left)[number].read_bytes())
  message = refusal("cosmos-dv", plain, tmp_path)
  assert "encoder has the convolutions of 4x8x8, and the decoder those of 8x16x16" in message


# What is refused: in one line that names what the file is and what was asked.


def refusal(kind, files, folder, *, variant="", named=True):
  (folder / "made.safetensors").unlink(missing_ok=True)
  with pytest.raises(ValueError) as caught:
    official.convert(kind, files, folder / "made.safetensors", variant=variant)
  message = str(caught.value)
  assert "\n" not in message and len(message) < 1500, message
  assert any(str(file) in message for file in files) or not named
  assert not (folder / "made.safetensors").exists()
  return message


@pytest.mark.parametrize("name", ["vidtok", "cosmos-dv-4x8x8"])
def test_the_files_of_another_family(tmp_path, name):
  (tmp_path / "own").mkdir()
  own = released(name, tmp_path / "own")
  what = "a VidTok, which reads videos" if name == "vidtok" else "a Cosmos DV, which reads videos"
  for kind in official.KINDS.values():
    if kind.name != KIND[name][0] and kind.files[0] != "config.json":
      message = refusal(kind.name, (own * 2)[: len(kind.files)], tmp_path)
      assert f"a file of {what}" in message and f"{kind.name} is made of" in message
  for other, file_what in (
    ("llamagen", "a VQ of LlamaGen"),
    ("cosmos-di", "a Cosmos DI"),
    ("open-magvit2", "an image tokenizer of Open-MAGVIT2"),
    ("ibq", "a VQGAN of taming"),
  ):
    files = of_images.released(other, tmp_path)
    message = refusal(KIND[name][0], (files * 2)[: len(own)], tmp_path)
    assert f"a file of {file_what}" in message and f"{KIND[name][0]} is made of" in message


def test_a_cosmos_of_images_is_named_without_its_levels(tmp_path):
  """As a state dict has none: only kernels of whole patches tell."""
  params = of_images.golden("cosmos-di")["params"]
  parts = [{k: v for k, v in params.items() if k.startswith(starts)} for starts in PARTS.values()]
  files = [safe(tmp_path / part, tensors) for part, tensors in zip(PARTS, parts)]
  for asked in ("cosmos-dv", "vidtok", "vqgan-1k"):
    for given in (files, files[::-1]):
      message = refusal(asked, given[: len(official.KINDS[asked].files)], tmp_path)
      assert "file of a Cosmos DI, which reads images" in message and ": use cosmos-di;" in message
  # Control: it is what it is called.
  assert converted("cosmos-di", files, tmp_path)[1].family == "cosmos-di"


def test_files_that_are_no_tokenizer_of_clips(tmp_path, scripts):
  assert "given as the encoder has no tensor of it; give encoder.jit, then decoder.jit" in refusal(
    "cosmos-dv", scripts[::-1], tmp_path
  )
  assert "given as the decoder has no tensor of it" in refusal(
    "cosmos-dv", [scripts[0]] * 2, tmp_path
  )
  (file,) = released("vidtok", tmp_path)
  whole = file.read_bytes()
  file.write_bytes(whole[: len(whole) // 2])
  assert "no whole safetensors file" in refusal("vidtok", [file], tmp_path)
  half = tmp_path / "half.jit"
  half.write_bytes(scripts[0].read_bytes()[:100_000])
  assert "cut short" in refusal("cosmos-dv", [half, scripts[1]], tmp_path)
  params = golden("vidtok")["params"]
  for gone, told in (
    ("encoder.mid.attn_1.q.conv.weight", "encoder.mid.attn_1.q.conv.weight is missing"),
    ("encoder.down_temporal.1.downsample.mix_factor", "downsample.mix_factor is missing"),
    ("decoder.conv_out.conv.bias", "decoder.conv_out.conv.bias is missing"),
    ("encoder.conv_in.conv.weight", "encoder.conv_in.conv.weight is missing"),
  ):
    kept = {k: v for k, v in params.items() if k != gone}
    message = refusal("vidtok", released("vidtok", tmp_path, kept), tmp_path)
    assert told in message and "not a VidTok of 4x8x8" in message
  encoder = {k: v for k, v in params.items() if k.startswith("encoder.")}
  assert "decoder.conv_in.conv.bias is missing" in refusal(
    "vidtok", released("vidtok", tmp_path, encoder), tmp_path
  )
  extra = params | {"encoder.conv_in.conv.more": np.ones(3, np.float32)}
  assert "conv.more is unknown" in refusal("vidtok", released("vidtok", tmp_path, extra), tmp_path)
  losses = params | {"loss.x": np.ones(3, np.float32), "model_ema.decay": np.ones(1, np.float32)}
  plain = converted("vidtok", released("vidtok", tmp_path), tmp_path)
  assert converted("vidtok", released("vidtok", tmp_path, losses), tmp_path) == plain


def test_clips_that_are_not_read():
  config, params = TINY["vidtok"], {}
  clip = np.zeros((1, 5, 16, 16, 3), np.uint8)
  for wrong, told in (
    (clip[:, :4], "4 frames; a VidTok reads 1 and a multiple of 4 more.*up to 5"),
    (np.concatenate([clip, clip[:, :1]], 1), "6 frames.*up to 9"),
    (clip[:, :0], "0 frames"),
    (clip[:, :, :12], "12 x 16 pixels"),
  ):
    with pytest.raises(ValueError, match=told):
      causal.latents(config, params, wrong)
  with pytest.raises(AssertionError):
    causal.latents(config, params, clip.astype(np.float32))


def test_sizes_that_cannot_be():
  for change, told in (
    (dict(family="vqgan"), "family 'vqgan' is unknown; use one of vidtok"),
    (dict(blocks=0), "blocks is 0"),
    (dict(multipliers=()), "multipliers are"),
    (dict(time_up=(1,)), r"time_down is \(1, 2\) and causal.time_up \(1,\)"),
    (dict(space_up=(0, 1, 2)), r"of 1 to 3"),
    (dict(z=5), "z is 5; a VidTok quantises it: give 4"),
    (dict(levels=(8, 1), z=2), "levels are"),
  ):
    with pytest.raises(ValueError, match=told):
      dataclasses.replace(VIDTOK, **change)
