"""Other people's encoders, as features and in the same probe as ours."""

import csv
import json

from etils import epath
import numpy as np
from PIL import Image
import probes
import pytest
import safetensors.numpy
import test_configs

from totojax import jobs
from totojax.config import recipes, roots
from totojax.data.store import feature_files
from totojax.data.stream import labelled
from totojax.jobs.probe import setup as probe_setup
from totojax.trained import encoders

SIZE, PATCH = 16, 4
SHAPE = dict(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=16,
  image_size=SIZE,
  patch_size=PATCH,
)


def vit(kind, **more):
  """A vision transformer of transformers, with random weights."""
  torch = pytest.importorskip("torch")
  lib = pytest.importorskip("transformers")
  torch.manual_seed(0)
  match kind:
    case "mae":
      more = {"mask_ratio": 0.0, **more}
      return lib.ViTMAEModel(lib.ViTMAEConfig(**SHAPE, **more))
    case "dino":
      return lib.ViTModel(lib.ViTConfig(**SHAPE), add_pooling_layer=False)
    case "dinov2":
      config = lib.Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=2)
      return lib.Dinov2WithRegistersModel(config)


def clips(count, frames=1):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, frames, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("kind, prefix", [("mae", 1), ("dino", 1), ("dinov2", 3)])
@pytest.mark.parametrize("pool", ["patches", "class"])
def test_features_are_the_models_own_hidden_states(kind, prefix, pool):
  model = vit(kind)
  frames = clips(3, frames=2)
  of = encoders.of_vit(model, pool=pool, frames=2, rows=4)
  assert (of.size_px, of.layers) == (SIZE, (0, 1, 2))
  found = of.features(frames)
  assert found.shape == (3, 3, 12) and not model.training
  import torch

  scaled = (frames / 255.0 - np.array(encoders.MEAN)) / np.array(encoders.STD)
  for clip, clip_SN in zip(scaled, found.swapaxes(0, 1)):
    pixels = torch.tensor(clip.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
      states = model(pixels, output_hidden_states=True).hidden_states
    for layer in range(3):
      tokens_NTD = states[layer].numpy()
      assert tokens_NTD.shape[1] == 16 + prefix
      picked = tokens_NTD[:, prefix:].mean(1)
      if pool == "class":
        picked = tokens_NTD[:, 0]
      np.testing.assert_allclose(clip_SN[layer], picked.mean(0), rtol=1e-3, atol=1e-5)
  # Control: the layers differ.
  assert not np.allclose(found[1], found[2], rtol=0.01)


def test_tokens_of_a_clip_are_those_of_all_its_frames():
  model, frames = vit("dinov2"), clips(3, frames=2)
  of = encoders.of_vit(model, pool="tokens", frames=2, rows=4)
  x_LRTD = of.features(frames)
  assert x_LRTD.shape == (3, 3, 2 * 16, 12)
  mean = encoders.of_vit(model, pool="patches", frames=2).features(frames)
  np.testing.assert_allclose(x_LRTD.mean(2), mean, rtol=1e-4, atol=1e-6)
  second = encoders.of_vit(model, pool="tokens").features(frames[:, 1:])
  np.testing.assert_allclose(x_LRTD[:, :, 16:], second, rtol=1e-4, atol=1e-6)


def test_mae_masks_nothing_and_keeps_the_order_of_its_tokens():
  masking, frames = vit("mae", mask_ratio=0.75), clips(3)
  found = encoders.of_vit(masking, pool="tokens").features(frames)
  whole = encoders.of_vit(vit("mae"), pool="tokens").features(frames)
  np.testing.assert_array_equal(found, whole)
  import torch

  pixels = torch.zeros(1, 3, SIZE, SIZE) + torch.arange(SIZE) / SIZE
  with torch.no_grad():  # control: on its own it comes in another order each time
    first, second = (masking(pixels, output_hidden_states=True).hidden_states[0] for _ in "ab")
  assert not torch.equal(first, second)


def test_what_a_model_has_not_is_refused():
  for more, told in (
    (dict(pool="mean"), "pool is 'mean'; use one of patches"),
    (dict(size_px=18), "ViTModel reads frames of a multiple of 4 pixels, and 18"),
  ):
    with pytest.raises(ValueError, match=told):
      encoders.of_vit(vit("dino"), **more)


@pytest.mark.parametrize("kind", ["mae", "dino", "dinov2"])
def test_positions_are_interpolated_as_the_model_does(kind):
  model = vit(kind)
  frames = np.random.default_rng(0).integers(0, 256, (2, 1, 24, 24, 3), np.uint8)
  of = encoders.of_vit(model, pool="tokens", size_px=24, mean=(0, 0, 0), std=(1, 1, 1))
  found = of.features(frames)
  assert of.size_px == 24 and found.shape == (3, 2, 36, 12)
  import torch

  pixels = torch.tensor(frames[:, 0].transpose(0, 3, 1, 2) / 255.0, dtype=torch.float32)
  with torch.no_grad():
    more = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    more |= {"noise": torch.arange(36.0).repeat(2, 1)} if kind == "mae" else {}
    last = model(pixels, output_hidden_states=True, **more).hidden_states[-1]
  np.testing.assert_allclose(found[-1], last[:, -36:].numpy(), rtol=1e-4, atol=1e-5)


def test_any_module_serves_and_other_shapes_are_refused():
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2, 5))
  of = encoders.of_torch(
    lambda x: [module(x)], size_px=SIZE, layers=[0], mean=(0, 0, 0), std=(1, 1, 1)
  )
  frames = clips(4)
  pixels = (frames[:, 0] / 255.0).transpose(0, 3, 1, 2).reshape(4, -1)
  weight, bias = (p.detach().numpy() for p in module[1].parameters())
  np.testing.assert_allclose(of.features(frames)[0], pixels @ weight.T + bias, rtol=1e-4, atol=1e-5)
  whole = encoders.of_torch(lambda x: [x], size_px=SIZE, layers=[0])
  with pytest.raises(ValueError, match="1 layers need one .4, width. or"):
    whole.features(frames)


FILE = """
import numpy as np
from totojax.trained import encoders


def encoder():
  def features(clips):
    mean = clips.mean((1, 2, 3)) / 255.0
    noise = np.random.default_rng(0).normal(size=mean.shape)
    return np.stack([noise, mean])
  return encoders.Encoder(size_px=8, frames=1, layers=(0, 1), features=features)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """The features job of an encoder of the user's, on two class folders."""
  root = tmp_path_factory.mktemp("encoder")
  rng = np.random.default_rng(0)
  for name, low in (("dark", 0), ("light", 140)):
    (root / "in" / name).mkdir(parents=True)
    for i in range(40):
      image = rng.integers(low, low + 100, (8, 8, 3)).astype(np.uint8)
      Image.fromarray(image).save(root / "in" / name / f"{i}.png")
  (root / "in" / "dark" / "broken.png").write_bytes(b"no image")
  (root / "mean.py").write_text(FILE)
  c = recipes.features("")
  c.features.encoder = str(root / "mean.py")
  c.source.update(root=str(root / "in"), kind="image", val_frac=0.4)
  c.source.folder.class_folders = True
  c.amount.update(items_per_shard=32, workers=0)
  assert jobs.run(c.to_dict(), epath.Path(root / "out"), lambda done: False)
  return root


def probe(path, *words, **more):
  c = test_configs.load(f"{path}", *words)
  c.data.holdout_frac = 0.25
  c.train.update(epochs=40.0, batch_rows=16, score_rows=32)
  c.optim.update(lrs=(0.03,), weight_decays=(0.0,))
  with c.unlocked():
    c.update(more)
  return c.to_dict()


def rows_of(workdir):
  with open(workdir / "per_layer.csv") as file:
    return list(csv.DictReader(file))


def test_an_encoder_is_probed_without_a_model_of_ours(made, tmp_path):
  c = probe(f"configs/probe_encoders.py:mean={made / 'out'}")
  assert jobs.run(c, epath.Path(tmp_path), lambda step: False)
  noise, mean = rows_of(tmp_path)
  assert [r["backbone"] for r in (noise, mean)] == ["mean", "mean"]
  assert [r["depth_frac"] for r in (noise, mean)] == ["0.0000", "1.0000"]
  assert float(mean["top1"]) == 1.0
  assert float(noise["top1"]) < 0.8  # of 32 or 33 items: chance is a half
  with open(tmp_path / "predictions.csv") as file:
    names = {r["label_name"] for r in csv.DictReader(file)}
  assert names == {"dark", "light"}
  with open(made / "out" / "skipped.csv") as file:
    (broken,) = csv.DictReader(file)
  found = json.loads((tmp_path / "metrics.json").read_text())
  missing = int(broken["store"] == "val")
  assert found["n_expected"] == found["n"] + missing


def prepare(config):
  return probe_setup.prepare(roots.read(config))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
  root = tmp_path_factory.mktemp("ours")
  labels = {"train": np.arange(48) % 3, "validation": np.arange(24) % 3}
  stores = {
    name: probes.write(root / name, y, prefix=name, seed=i)
    for i, (name, y) in enumerate(labels.items())
  }
  return dict(root=root, labels=labels, stores=stores, model=probes.bare_backbone(root))


def save(ours, root, *, ids=True, change=lambda arrays: None):
  """Files of features that tell the classes apart, in an order of their own."""
  paths = {}
  for seed, (name, y) in enumerate(ours["labels"].items()):
    order = np.random.default_rng(seed).permutation(len(y))
    arrays = {
      "layer_4": np.eye(3)[y][order],
      "label": y[order],
      "id": np.array([f"{name}/{i}" for i in order]),
    }
    if not ids:
      del arrays["id"]
    change(arrays)
    paths[name] = str(root / f"{name}.npz")
    np.savez(paths[name], **arrays)
  return paths


def side_by_side(ours, paths):
  return probes.config(
    ours["model"],
    ours["stores"]["train"],
    ours["stores"]["validation"],
    backbones=("histogram",),
    encoders={"theirs": paths},
    train=dict(epochs=20.0, batch_rows=16),
  )


def test_encoders_stand_beside_ours_on_the_same_items(ours, tmp_path):
  """Features are matched by name: in their own order they are of others."""
  c = side_by_side(ours, save(ours, tmp_path))
  assert jobs.run(c, epath.Path(tmp_path / "run"), lambda step: False)
  found = {r["backbone"]: r for r in rows_of(tmp_path / "run")}
  assert set(found) == {"histogram", "theirs"}
  assert float(found["theirs"]["top1"]) == 1.0
  assert found["theirs"]["layer"] == "4" and found["theirs"]["n"] == "24"
  setup = prepare(c)
  x_ML = setup.subjects["theirs"].features["validation"]
  expected = np.eye(3)[ours["labels"]["validation"]]
  np.testing.assert_array_equal(x_ML[:, 0], expected)


def hidden(root, count, seed):
  """One token of six is marked and says the class; the others say any."""
  rng = np.random.default_rng(seed)
  labels, said = rng.integers(0, 3, count), rng.integers(0, 3, (count, 6))
  marked = rng.integers(0, 6, count)
  said[np.arange(count), marked] = labels
  x_MTD = np.zeros((count, 6, 4), np.float16)
  x_MTD[..., :3] = np.eye(3)[said]
  x_MTD[np.arange(count), marked, 3] = 3.0
  np.savez(root / f"{seed}.npz", layer_0=x_MTD, label=labels)
  return str(root / f"{seed}.npz")


@pytest.mark.slow
def test_heads_with_attention_read_the_tokens_of_an_encoder(tmp_path):
  files = dict(train=hidden(tmp_path, 600, 0), validation=hidden(tmp_path, 300, 1))
  scores = {}
  for pool in ("attention", "cross", "average"):
    c = probe(
      "configs/probe_encoders.py",
      encoders={"theirs": files},
      head=dict(recipes.probe("", "", "").head, pool=pool, heads=1),
    )
    c["train"]["epochs"] = 15.0
    assert prepare(c).subjects["theirs"].tokens == 6
    assert jobs.run(c, epath.Path(tmp_path / pool), lambda step: False)
    (row,) = rows_of(tmp_path / pool)
    scores[pool] = float(row["top1"])
  assert scores["attention"] > 0.9 and scores["cross"] > 0.9
  assert scores["average"] < 0.75  # the others outvote the marked one


def other_labels(arrays):
  arrays["label"] = (arrays["label"] + 1) % 3


def fewer(arrays):
  for name in arrays:
    arrays[name] = arrays[name][:-1]


def other_ids(arrays):
  arrays["id"] = np.array([f"{i}x" for i in arrays["id"]])


def uneven(arrays):
  arrays["label"] = arrays["label"][:-2]


def too_deep(arrays):
  arrays["layer_4"] = arrays["layer_4"][:, None, None]


def infinite(arrays):
  arrays["layer_4"][3] = np.inf


def nothing(arrays):
  del arrays["layer_4"]


@pytest.mark.parametrize(
  "change, told",
  [
    (other_labels, "48 of 48 labels of .*train.npz are not those of train"),
    (fewer, "has features of 47 clips, and train has 48 records"),
    (other_ids, "no features of 48 of 48 records of train, .*'train/0'"),
    (uneven, "holds .'features': 48, 'labels': 46, 'ids': 48."),
    (too_deep, "clips, width. is needed, or .*features.pool"),
    (infinite, "has features that are not finite"),
    (nothing, "holds .'label'.; probing needs `label` and"),
  ],
)
def test_features_that_do_not_fit_are_refused(ours, tmp_path, change, told):
  c = side_by_side(ours, save(ours, tmp_path, change=change))
  with pytest.raises(ValueError, match=told):
    prepare(c)


def test_features_without_names_must_be_in_the_order_of_the_records(ours, tmp_path):
  c = side_by_side(ours, save(ours, tmp_path, ids=False))
  with pytest.raises(ValueError, match="labels of .* are not those of train"):
    prepare(c)


def test_what_is_no_set_of_features_is_refused(made, ours, tmp_path):
  for path, told in (
    ("", "there are no features at ''"),
    (str(tmp_path / "none"), "there are no features at"),
    (str(made / "out"), "has no features.json: .* folder of one split"),
    (str(made / "mean.py"), "no whole safetensors file, and no .npz or .npy"),
  ):
    with pytest.raises(ValueError, match=told):
      feature_files.read(path)
  path = str(made / "out" / "val")
  with pytest.raises(ValueError, match="item .* is in train and in validation"):
    prepare(probe("configs/probe_encoders.py", encoders={"a": dict(train=path, validation=path)}))
  paths = save(ours, tmp_path)
  for more, told in (
    (dict(encoders={}), "backbones is .*; name some"),
    (dict(encoders={"pixels": paths}), "encoders.pixels has the name of a b"),
    (dict(encoders={"a": paths}, data={"train": "x"}), "backbones is empty"),
    (dict(encoders={"a": paths}, model_run="x"), "model_run is 'x' and back"),
    (dict(encoders={"a": paths}, head={"pool": "cross"}), "reads every to"),
    (dict(encoders={"a": {"train": "x"}}), "encoders.a.validation is mis"),
  ):
    with pytest.raises(ValueError, match=told):
      prepare(probe("configs/probe_encoders.py", **more))
  found = feature_files.read(paths["train"])
  no_class = feature_files.dataclasses.replace(found, labels=found.labels - 1)
  with pytest.raises(ValueError, match="16 of 48 records of t .* no class"):
    feature_files.records(no_class, "t")
  assert labelled.missing(path) == labelled.missing(path + "/")


@pytest.mark.parametrize(
  "text, told",
  [
    (None, "mine.py does not exist; give the path of a Python file"),
    ("x = 1", "must define encoder.., which gives the .* no function"),
    ("encoder = lambda: 3", "gives 3 .int.; .* must give a trained.encoders.Encoder"),
  ],
)
def test_a_file_that_makes_no_encoder_is_refused(tmp_path, text, told):
  path = tmp_path / "mine.py"
  if text:
    path.write_text(text)
  with pytest.raises(ValueError, match=told):
    encoders.load(str(path))


@pytest.mark.parametrize(
  "features, more, told",
  [
    (dict(pool="frame"), {}, "which knows no frames"),
    (dict(pool="token"), {}, "they are .2 layers, 8, tokens, width"),
    (dict(layers=(0, 3)), {}, r"features.layers is \(0, 3\); .* \(0, 1\)"),
    ({}, dict(model_run="x"), "features are of one of them"),
    ({}, dict(clip=dict(frames=2)), "clip.frames is 2; clips of .* have 1"),
  ],
)
def test_a_job_that_does_not_fit_its_encoder_is_refused(made, tmp_path, features, more, told):
  c = recipes.features("")
  c.features.update(encoder=str(made / "mean.py"), **features)
  c.source.update(root=str(made / "in"), kind="image")
  c.update(more)
  with pytest.raises(ValueError, match=told):
    jobs.run(c.to_dict(), epath.Path(tmp_path / "out"), lambda done: False)


def test_no_flipped_bit_is_another_feature(tmp_path):
  rng = np.random.default_rng(0)
  features_ML = rng.standard_normal((5, 3)).astype(np.float32)
  arrays = {"layer_2": features_ML, "label": np.arange(5, dtype=np.int32)}
  path, refused = tmp_path / "train.safetensors", 0
  whole = feature_files.to_bytes(arrays, "safetensors")
  path.write_bytes(whole)
  sound = feature_files.read(str(path))
  for bit in range(0, 8 * len(whole), 3):
    data = bytearray(whole)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    # In the name of the digest itself: as of before there were any.
    if whole.index(b"totojax.") <= bit // 8 < whole.index(b"digest") + 6:
      continue
    try:
      found = feature_files.read(str(path))
    except ValueError as error:
      assert str(path) in str(error)
      refused += 1
      continue
    np.testing.assert_array_equal(found.features_ML, sound.features_ML)
    np.testing.assert_array_equal(found.labels, sound.labels)
  assert refused > len(whole)  # of 8 / 3 as many
  # Control: a file of others has no digest, and gives another label.
  data = bytearray(safetensors.numpy.save(arrays))
  data[-1] ^= 64
  path.write_bytes(data)
  assert (feature_files.read(str(path)).labels != sound.labels).any()
