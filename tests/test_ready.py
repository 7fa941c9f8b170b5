"""Encoders by name: their features are their references', at random weights."""

import json

import numpy as np
import pytest
import runs

from totojax.storage import outside
from totojax.trained import encoders, ready, representations4d

GOLDEN = runs.ROOT / "tests" / "golden"
TINY = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=2)
# Name of the golden -> classes of transformers, sizes beside TINY.
SIZES = {
  "dinov2": ("Dinov2Model", dict(patch_size=14, image_size=28, mlp_ratio=4)),
  "dinov2_reg": (
    "Dinov2WithRegistersModel",
    dict(patch_size=14, image_size=28, mlp_ratio=4, num_register_tokens=4),
  ),
  "dinov3": (
    "DINOv3ViTModel",
    dict(patch_size=16, image_size=32, intermediate_size=48, num_register_tokens=4),
  ),
  "vitmae": (
    "ViTMAEModel",
    dict(patch_size=8, image_size=32, intermediate_size=48, mask_ratio=0.75),
  ),
  "clip": ("CLIPVisionModel", dict(patch_size=16, image_size=32, intermediate_size=48)),
  "videomae": (
    "VideoMAEModel",
    dict(patch_size=16, image_size=32, num_frames=4, intermediate_size=48, use_mean_pooling=False),
  ),
  "vjepa2": (
    "VJEPA2Model",
    dict(
      patch_size=16,
      crop_size=32,
      frames_per_clip=4,
      mlp_ratio=4.0,
      pred_hidden_size=24,
      pred_num_attention_heads=2,
      pred_num_hidden_layers=1,
    ),
  ),
}
NAMES = {"dinov2_reg": "dinov2", "vitmae": "mae"}  # of goldens -> ours


def built(name):
  """A tiny model whose parameters are what a formula gives."""
  torch = pytest.importorskip("torch")
  lib = pytest.importorskip("transformers")
  cls, sizes = SIZES[name]
  cls = getattr(lib, cls)
  model = cls(cls.config_class(**TINY, **sizes)).eval()
  with torch.no_grad():
    for k, (key, p) in enumerate(sorted(model.named_parameters())):
      v = np.sin(0.7390851 * np.arange(p.numel()) + 1.618 * k).reshape(tuple(p.shape))
      if ("norm" in key.lower() and key.endswith("weight")) or "lambda1" in key:
        v = 1 + 0.3 * v
      elif p.ndim >= 2:
        v = 1.5 * v / np.sqrt(p[0].numel())
      else:
        v = 0.2 * v
      p.copy_(torch.tensor(v))
  return model


@pytest.mark.parametrize("name", SIZES)
def test_layers_are_the_golden_s(name):
  model = built(name)
  golden = np.load(GOLDEN / "encoders_tiny.npz")
  import torch

  pixels = torch.tensor(golden[f"{name}/input"])
  if name == "vitmae":
    model.config.mask_ratio = 0.0
  with torch.no_grad():
    states = encoders.hidden_states(model, pixels)
    again = encoders.hidden_states(model, pixels)
  assert len(states) == 4
  for layer, state in enumerate(states):
    np.testing.assert_allclose(state.numpy(), golden[f"{name}/hidden{layer}"], rtol=1e-4, atol=1e-4)
    assert torch.equal(state, again[layer])
  tokens, patches = states[0].shape[1], encoders.patches_of(model, pixels)
  assert tokens - patches == int(golden[f"{name}/drop"])
  normed = encoders._norm(model)(states[1]).detach().numpy()
  np.testing.assert_allclose(normed, golden[f"{name}/norm_of_hidden1"], rtol=1e-4, atol=1e-4)


def saved(name, folder, **preprocessor):
  model = built(name)
  model.save_pretrained(folder)
  if preprocessor:
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
  return model


def clips(of, count=2, seed=0):
  """Of an encoder of images they have one frame."""
  shape = (count, of.frames if of.multiple > 1 else 1, of.size_px, of.size_px, 3)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("name", SIZES)
def test_a_folder_gives_what_its_model_gives(name, tmp_path):
  """Pixels in the family's numbers, layers as they leave the blocks, means over patches."""
  model = saved(name, tmp_path)
  kind = NAMES.get(name, name)
  of = ready.load(f"{kind}:{tmp_path}")
  assert of.layers == (0, 1, 2, 3) and of.digest and not of.normed
  frames = clips(of)
  found = of.features(frames)
  mean, std = (encoders.MEAN, encoders.STD)
  if name == "clip":
    mean, std = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
  import torch

  x = torch.tensor(np.moveaxis((frames / 255.0 - mean) / std, -1, 2), dtype=torch.float32)
  if name not in ("videomae", "vjepa2"):
    assert (of.frames, of.multiple) == (16, 1)
    x = x[:, 0]
  if name == "vitmae":
    model.config.mask_ratio = 0.0
  with torch.no_grad():
    states = encoders.hidden_states(model, x)
  drop = states[0].shape[1] - encoders.patches_of(model, x)
  for layer in range(4):
    expected = states[layer][:, drop:].mean(1).numpy()
    np.testing.assert_allclose(found[layer], expected, rtol=1e-4, atol=1e-5)
  tokens = ready.load(f"{kind}:{tmp_path}", pool="token").features(frames)
  np.testing.assert_allclose(tokens.mean(2), found, rtol=1e-4, atol=1e-5)
  assert not np.allclose(found[2], found[3], rtol=0.01)


def test_normed_layers_and_class_tokens(tmp_path):
  model = saved("dinov2", tmp_path)
  of = ready.load(f"dinov2:{tmp_path}", pool="class", norm=True)
  assert of.normed
  frames = clips(of)
  import torch

  x = torch.tensor(
    np.moveaxis((frames[:, 0] / 255.0 - encoders.MEAN) / encoders.STD, -1, 1), dtype=torch.float32
  )
  with torch.no_grad():
    expected = model(x).pooler_output.numpy()
  np.testing.assert_allclose(of.features(frames)[-1], expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_normalised_as_the_folder_says(tmp_path):
  saved("dinov2", tmp_path / "a", image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
  saved("dinov2", tmp_path / "b", image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0])
  one, two = (ready.load(f"dinov2:{tmp_path / x}") for x in "ab")
  frames = clips(one)
  torch = pytest.importorskip("torch")
  model = built("dinov2")
  x = (frames[:, 0] / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
  with torch.no_grad():
    states = encoders.hidden_states(model, torch.tensor(np.moveaxis(x, -1, 1)).float())
  np.testing.assert_allclose(
    one.features(frames)[3], states[3][:, 1:].mean(1).numpy(), rtol=1e-4, atol=1e-5
  )
  assert not np.allclose(one.features(frames), two.features(frames), rtol=1e-2)
  assert one.digest != two.digest


def test_a_released_dinov2_reads_224_pixels(tmp_path):
  torch = pytest.importorskip("torch")
  lib = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = lib.Dinov2Config(**TINY, patch_size=14, image_size=518, mlp_ratio=1)
  lib.Dinov2Model(config).save_pretrained(tmp_path)
  of = ready.load(f"dinov2:{tmp_path}", pool="token")
  assert of.size_px == 224
  assert of.features(clips(of, count=1)).shape == (4, 1, 256, 24)
  assert ready.load(f"dinov2@42:{tmp_path}").size_px == 42


def test_v_jepa_s_positions_are_those_of_the_size_that_is_asked_for(tmp_path):
  """Without crop_size its features of another size are others, and nothing says so."""
  lib = pytest.importorskip("transformers")
  model = saved("vjepa2", tmp_path)
  of = ready.load(f"vjepa2@48:{tmp_path}", pool="token")
  frames = clips(of)
  found = of.features(frames)
  config = lib.VJEPA2Config.from_dict({**model.config.to_dict(), "crop_size": 48})
  right = lib.VJEPA2Model(config).eval()
  right.load_state_dict(model.state_dict())
  import torch

  x = np.moveaxis((frames / 255.0 - encoders.MEAN) / encoders.STD, -1, 2)
  x = torch.tensor(x, dtype=torch.float32)
  with torch.no_grad():
    last = right(x, skip_predictor=True, output_hidden_states=True).hidden_states[3].numpy()
    wrong = model(x, skip_predictor=True, output_hidden_states=True).hidden_states[3].numpy()
  np.testing.assert_allclose(found[3], last, rtol=1e-4, atol=1e-5)
  assert abs(last - wrong).max() > 1e-4


def test_a_checkpoint_with_a_head_serves_and_half_of_one_is_refused(tmp_path):
  """Names of parameters have a prefix there; without one they would be drawn at random."""
  torch = pytest.importorskip("torch")
  lib = pytest.importorskip("transformers")
  torch.manual_seed(0)
  vision = {**TINY, **SIZES["clip"][1]}
  text = dict(TINY, intermediate_size=24, vocab_size=32, max_position_embeddings=8)
  both = lib.CLIPModel(lib.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
  both.save_pretrained(tmp_path / "clip")
  mae = lib.ViTMAEForPreTraining(
    lib.ViTMAEConfig(
      **TINY,
      **SIZES["vitmae"][1],
      decoder_hidden_size=8,
      decoder_num_hidden_layers=1,
      decoder_num_attention_heads=2,
      decoder_intermediate_size=8,
    )
  )
  mae.save_pretrained(tmp_path / "mae")
  video = lib.VideoMAEForVideoClassification(lib.VideoMAEConfig(**TINY, **SIZES["videomae"][1]))
  video.save_pretrained(tmp_path / "videomae")
  for kind, inner in (("clip", both.vision_model), ("mae", mae.vit), ("videomae", video.videomae)):
    of = ready.load(f"{kind}:{tmp_path / kind}")
    expected = encoders.of_vit(
      inner, mean=_mean(of, kind)[0], std=_mean(of, kind)[1], rows=4
    ).features(clips(of))
    np.testing.assert_allclose(of.features(clips(of)), expected, rtol=1e-4, atol=1e-5)
  import safetensors.torch

  path = tmp_path / "mae" / "model.safetensors"
  arrays = safetensors.torch.load_file(path)
  lost = next(name for name in arrays if "encoder" in name and name.startswith("vit"))
  del arrays[lost]
  safetensors.torch.save_file(arrays, path, {"format": "pt"})
  with pytest.raises(outside.Damaged, match="lacks 1 parameters of ViTMAEModel"):
    ready.load(f"mae:{tmp_path / 'mae'}")


def _mean(of, kind):
  family = ready._FAMILIES[kind]
  return family.mean, family.std


def test_videos_of_one_frame_are_repeated_and_other_lengths_have_a_rule(tmp_path):
  saved("videomae", tmp_path)
  of = ready.load(f"videomae:{tmp_path}")
  assert (of.frames, of.multiple) == (4, 4)
  image = clips(of)[:, :1]
  np.testing.assert_array_equal(of.features(image), of.features(np.repeat(image, 4, axis=1)))
  saved("vjepa2", tmp_path / "v")
  of = ready.load(f"vjepa2:{tmp_path / 'v'}")
  assert (of.frames, of.multiple) == (4, 2)


@pytest.mark.parametrize(
  "text, told",
  [
    (None, "has no config.json"),
    ("{", "is damaged"),
    ('{"model_type": "vit"}', r"is of a vit; dinov2: reads dinov2 and"),
    ('{"model_type": ["dinov2"]}', r"is of a"),
    ('{"model_type": "dinov2", "hidden_size": "x"}', "is damaged"),
    ('{"model_type": "dinov2", "auto_map": {"AutoModel": "evil.Model"}}', "is damaged"),
  ],
)
def test_what_is_no_folder_of_a_family_is_refused(tmp_path, text, told):
  pytest.importorskip("transformers")
  if text is not None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
  with pytest.raises(ValueError, match=told) as error:
    ready.load(f"dinov2:{tmp_path}")
  assert "\n" not in str(error.value)


def test_names_that_are_none_and_pools_that_do_not_fit(tmp_path):
  for reference, more, told in (
    ("dino2:/weights", {}, "name a Python file, or one of dinov2:PATH"),
    ("dinov2@-5:/weights", {}, "'-5' no side of a frame; .* dinov2@224:PATH"),
    ("pixels:900", {}, "use pixels:1 to pixels:64"),
    ("pixels:8", dict(pool="class"), "has no class token"),
    ("pixels:8", dict(norm=True), "has no norm"),
    ("dinov2:gs://bucket/x", {}, "is in a bucket; copy the folder"),
    ("mine.py", dict(norm=True), "are of encoders by name"),
    (f"rvm:{tmp_path}/none.npz", {}, "none.npz"),
  ):
    with pytest.raises((ValueError, OSError), match=told):
      ready.load(reference, **more)


def test_small_pixels_are_themselves():
  of = ready.load("pixels:4")
  frames = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3), np.uint8)
  np.testing.assert_allclose(of.features(frames)[0], frames.reshape(3, -1) / 255.0, rtol=1e-6)
  assert ready.load("pixels:4", pool="token").features(frames).shape == (1, 3, 2, 48)


def npz(tmp_path, name):
  golden = np.load(GOLDEN / f"{name}_tiny.npz")
  arrays = {k.removeprefix("param/"): golden[k] for k in golden.files if k.startswith("param/")}
  path = tmp_path / f"{name}.npz"
  np.savez(path, **arrays)
  return path, golden, arrays


def test_rvm_is_the_golden(tmp_path):
  path, golden, arrays = npz(tmp_path, "rvm")
  model = representations4d.load("rvm", str(path))
  layers, states = representations4d.rvm(model.params, golden["video"])
  np.testing.assert_allclose(states, golden["features"], rtol=1e-5, atol=1e-5)
  assert layers.shape == (3, 3, 13, 32) and model.layers == (0, 1, 2, 3)
  # A frame's state depends on those before it, and on none after it.
  _, fewer = representations4d.rvm(model.params, golden["video"][:2])
  np.testing.assert_allclose(fewer, states[:2], rtol=1e-5, atol=1e-5)
  _, later = representations4d.rvm(model.params, golden["video"][1:])
  assert not np.allclose(later[0], states[1], rtol=0.01)
  # With params/ before each name, and beside the decoder.
  np.savez(
    path, **{f"params/{k}": v for k, v in arrays.items()}, **{"params/decoder/x": np.ones(2)}
  )
  again = representations4d.load("rvm", str(path))
  assert set(again.params) == set(model.params)


def test_4ds_is_the_golden_one_layer_on(tmp_path):
  path, golden, arrays = npz(tmp_path, "4ds")
  model = representations4d.load("4ds", str(path))
  assert (model.frames, model.size_px, model.patch_px) == (4, 24, 8)
  layers = np.asarray(representations4d.four_ds(model.params, golden["video"]))
  for i in range(1, 5):  # the released module's number i is after i - 1 blocks
    np.testing.assert_allclose(layers[i - 1], golden["aux"][i], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(layers[4], golden["last_block_output"], rtol=1e-5, atol=1e-5)
  assert not np.allclose(layers[4], golden["aux"][4], rtol=0.01)
  bare = {k.removeprefix("params/layers_0/"): v for k, v in arrays.items()}
  np.savez(path, **bare)
  assert set(representations4d.load("4ds", str(path)).params) == set(model.params)


@pytest.mark.parametrize("kind, frames", [("rvm", 2), ("4ds", 4)])
def test_files_of_representations4d_are_encoders(kind, frames, tmp_path):
  path, *_ = npz(tmp_path, kind)
  size = {"rvm": 32, "4ds": 24}[kind]
  of = ready.load(f"{kind}@{size}:{path}")
  x = np.random.default_rng(0).integers(0, 256, (2, frames, size, size, 3), np.uint8)
  found = of.features(x)
  tokens = ready.load(f"{kind}@{size}:{path}", pool="token").features(x)
  assert found.shape == (len(of.layers), 2, 32)
  np.testing.assert_allclose(tokens.mean(2), found, rtol=1e-4, atol=1e-5)
  alone = of.features(x[1:])
  np.testing.assert_allclose(alone[:, 0], found[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rvm", "4ds"])
def test_a_file_that_lacks_an_array_or_has_another_shape_is_refused(kind, tmp_path):
  path, _, arrays = npz(tmp_path, kind)
  rng = np.random.default_rng(0)
  for name in rng.choice(sorted(arrays), 6, replace=False):
    np.savez(path, **{k: v for k, v in arrays.items() if k != name})
    try:  # without its first block's last array there may be fewer blocks
      representations4d.load(kind, str(path))
    except ValueError as error:
      assert str(path) in str(error)
    else:
      raise AssertionError(name)
    np.savez(path, **{**arrays, name: arrays[name][..., :-1]})
    with pytest.raises(ValueError, match=path.name):
      representations4d.load(kind, str(path))
  np.savez(path, **{**arrays, sorted(arrays)[0]: np.array([{"a": 1}], object)})
  with pytest.raises(ValueError, match=path.name):
    representations4d.load(kind, str(path))
