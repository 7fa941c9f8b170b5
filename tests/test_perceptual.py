"""LPIPS and Fréchet's distance against what others get; and both in `run = "generate"`."""

import dataclasses
import itertools
import json
import re

from etils import epath
import jax
import numpy as np
import probes
import pytest
import runs
import safetensors.numpy
import scipy.linalg
import temporal

from totojax import jobs
from totojax.config import recipes
from totojax.config.model import EACH_FRAME
from totojax.config.schema import ConfigError
from totojax.evals import lpips, perceptual
from totojax.trained import encoders

GOLDEN = runs.ROOT / "tests" / "golden" / "perceptual.npz"
# A network of six parameters' tensors that reads the frames of `temporal`, 8 x 8.
TINY = lpips.Net((lpips.Conv(0, 4, read=True), lpips.Conv(3, 6, pool=True, read=True)), 2, "tiny")
PAIRS = ((0, 1), (1, 0), (2, 2), (0, 2))


# --- Fréchet -----------------------------------------------------------------------


def fit(x_ND, **more):
  return perceptual.Gaussian.of(x_ND, **more)


def by_sqrtm(one_ND, other_ND, *, ddof=1):
  """What the definition says, with scipy's root of the product."""
  means = [x.mean(0) for x in (one_ND, other_ND)]
  covs = [np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof)) for x in (one_ND, other_ND)]
  root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
  return np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1] - 2 * root)


def test_frechet_is_the_golden():
  golden = np.load(GOLDEN)
  sets = golden["feat_real"].astype(np.float64), golden["feat_fake"].astype(np.float64)
  for ddof in (0, 1):
    found = perceptual.frechet(*(fit(x, ddof=ddof) for x in sets))
    assert found == pytest.approx(float(golden[f"ddof{ddof}"]), rel=1e-9)
  # Control: what covariances are over is told apart.
  assert float(golden["ddof0"]) != pytest.approx(float(golden["ddof1"]), rel=1e-3)


@pytest.mark.parametrize("n, width", [(50, 1), (50, 7), (400, 30)])
def test_frechet_is_that_of_scipy(n, width):
  rng = np.random.default_rng(n + width)
  mixing = rng.normal(size=(width, width))
  one, other = rng.normal(size=(n, width)), rng.normal(size=(n + 9, width)) @ mixing + 0.5
  assert perceptual.frechet(fit(one), fit(other)) == pytest.approx(by_sqrtm(one, other), rel=1e-9)
  assert perceptual.frechet(fit(other), fit(one)) == pytest.approx(by_sqrtm(one, other), rel=1e-9)
  assert fit(one).is_full


def test_frechet_of_gaussians_that_are_known():
  """Covariances with the same axes: sum of (s1 - s2)^2; whatever roots they are given by."""
  rng = np.random.default_rng(0)
  turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
  scales = rng.uniform(0.1, 3, (2, 5))
  shift = rng.normal(size=5)
  covs = [turn @ np.diag(s**2) @ turn.T for s in scales]
  expected = np.square(shift).sum() + np.square(scales[0] - scales[1]).sum()
  for root in (lambda c: np.linalg.cholesky(c).T, lambda c: scipy.linalg.sqrtm(c).real):
    one = perceptual.Gaussian(np.zeros(5), root(covs[0]), 99)
    other = perceptual.Gaussian(shift, root(covs[1]), 99)
    assert perceptual.frechet(one, other) == pytest.approx(expected, rel=1e-9)
    assert perceptual.frechet(one, one) <= 1e-13 * np.trace(covs[0])


def test_frechet_of_fewer_samples_than_features():
  """Without full rank scipy's root is of noise; here none is taken."""
  rng = np.random.default_rng(1)
  flat = rng.normal(size=(6, 3)), rng.normal(size=(7, 3)) * 2 + 1
  turn = np.linalg.qr(rng.normal(size=(40, 40)))[0][:3]
  one, other = (fit(x @ turn) for x in flat)  # the same, in 40 dimensions
  assert not one.is_full
  assert perceptual.frechet(one, other) == pytest.approx(by_sqrtm(*flat), rel=1e-9)
  with pytest.raises(ValueError, match="a Gaussian of 1 samples has no covariance; give 2"):
    fit(np.ones((1, 3)))
  with pytest.raises(ValueError, match="1 of 6 features are not finite"):
    fit(np.array([[0, 1, np.nan], [1, 2, 3]]))


# --- LPIPS -------------------------------------------------------------------------


def test_the_head_is_the_golden():
  golden = np.load(GOLDEN)

  def total(unit):
    with jax.enable_x64(True):
      parts = []
      for k in (0, 1):
        one, other = (unit(np.moveaxis(golden[f"lp{k}_{x}"], 1, -1)) for x in "ab")
        parts.append(float(perceptual.layer_distance(one, other, golden[f"lp{k}_w"])[0]))
      return sum(parts)

  assert total(perceptual.unit) == pytest.approx(float(golden["lpips_head"]), rel=1e-9)
  # Control: places of their own length.
  assert total(lambda x: x) != pytest.approx(float(golden["lpips_head"]), rel=0.1)


def weights(net, seed=0):
  """(tensors of torchvision's names, of the package's names), random."""
  rng, backbone, channels = np.random.default_rng(seed), {}, 3
  for conv in net.convs:
    shape = conv.width, channels, conv.side, conv.side
    scale = np.sqrt(2 / np.prod(shape[1:]))
    name = f"features.{conv.place}"
    backbone[f"{name}.weight"] = rng.normal(size=shape, scale=scale).astype(np.float32)
    backbone[f"{name}.bias"] = rng.normal(size=conv.width, scale=0.1).astype(np.float32)
    channels = conv.width
  lin = {
    f"lin{i}.model.1.weight": rng.uniform(size=(1, width, 1, 1)).astype(np.float32)
    for i, width in enumerate(net.widths)
  }
  return backbone, lin


def saved(folder, net=TINY, **change):
  """Paths of both files, as keywords of `lpips.read`."""
  folder.mkdir(exist_ok=True)
  paths = {}
  for key, tensors in zip(("backbone", "lin"), weights(net)):
    tensors = {k: v for k, v in (tensors | change.get(key, {})).items() if v is not None}
    paths[key] = str(folder / f"{key}.safetensors")
    safetensors.numpy.save_file(tensors, paths[key])
  return paths


def images(videos, frames, height, width):
  rng = np.random.default_rng(7)
  return rng.integers(0, 256, (videos, frames, height, width, 3), np.uint8)


# As torchvision has them: (channels in, out, side, stride, padding) of convolutions,
# "M" for maxima; places in the row after which LPIPS reads.
_VGG = [(3, 64), (64, 64), "M", (64, 128), (128, 128), "M", (128, 256), (256, 256), (256, 256), "M"]
_VGG += [(256, 512), (512, 512), (512, 512), "M", (512, 512), (512, 512), (512, 512)]
REFERENCES = {
  "vgg": ([x if x == "M" else (*x, 3, 1, 1) for x in _VGG], (2, 2), (3, 8, 15, 22, 29)),
  "alex": (
    [(3, 64, 11, 4, 2), "M", (64, 192, 5, 1, 2), "M", (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
    + [(256, 256, 3, 1, 1)],
    (3, 2),
    (1, 4, 7, 9, 11),
  ),
}


def reference(torch, name, lin):
  """(the layers of torchvision's model, what LPIPS makes of two tensors of images)."""
  nn = torch.nn
  parts, pool, read = REFERENCES[name]
  layers = []
  for part in parts:
    layers += [nn.MaxPool2d(*pool)] if part == "M" else [nn.Conv2d(*part), nn.ReLU()]
  features = nn.Sequential(*layers)
  assert len(read) == len(lin)
  shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
  scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)

  def taps(x):
    x, out = (x - shift) / scale, []
    for place, layer in enumerate(features):
      x = layer(x)
      if place in read:
        out.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return out

  def distance(one, other):
    total = torch.zeros(len(one))
    for a, b, weight in zip(taps(one), taps(other), lin.values()):
      total += nn.functional.conv2d((a - b) ** 2, torch.from_numpy(weight)).mean((2, 3))[:, 0]
    return total.numpy()

  return features, distance


@pytest.mark.parametrize(
  "name, form, size",
  [
    pytest.param("vgg", "torch", (32, 48), marks=pytest.mark.slow),
    pytest.param("alex", "old", (67, 64), marks=pytest.mark.slow),
    ("alex", "safe", 35),
  ],
)
def test_networks_are_those_of_torch_modules(tmp_path, name, form, size):
  torch = pytest.importorskip("torch")
  net = lpips.NETS[name]
  backbone, lin = weights(net)
  features, distance = reference(torch, name, lin)
  features.load_state_dict(
    {k.removeprefix("features."): torch.from_numpy(v) for k, v in backbone.items()}
  )
  backbone["classifier.0.weight"] = np.ones((2, 2), np.float32)  # which is not read
  paths = {key: str(tmp_path / key) for key in ("backbone", "lin")}
  for key, tensors in (("backbone", backbone), ("lin", lin)):
    if form == "safe":
      safetensors.numpy.save_file(tensors, paths[key])
    else:
      state = {k: torch.from_numpy(v) for k, v in tensors.items()}
      torch.save(state, paths[key], _use_new_zipfile_serialization=form != "old")
  model = lpips.load(name, **paths)
  videos = images(3, 2, *np.broadcast_to(size, 2))
  with torch.inference_mode():
    x = torch.from_numpy(np.moveaxis(videos, -1, 2).astype(np.float32)) / 127.5 - 1
    expected = np.stack([distance(x[a], x[b]) for a, b in PAIRS])
  found = model.distances(videos, PAIRS)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0)
  assert found[2].max() == 0 < found[3].min()
  # Control: weights of channels in another order.
  params = {**model.params, "lin": [w[::-1] for w in model.params["lin"]]}
  other = dataclasses.replace(model, params=params).distances(videos, PAIRS)
  assert np.abs(other[0] / found[0] - 1).min() > 1e-3


def test_frames_in_parts_are_those_at_once(tmp_path, monkeypatch):
  model, videos = lpips.read("vgg", TINY, **saved(tmp_path)), images(3, 5, 8, 8)
  found = model.distances(videos, PAIRS)
  assert found.shape == (4, 5) and len(set(found[0])) == 5
  for pixels in (1, 2 * 3 * 64):
    monkeypatch.setattr(lpips, "_PIXELS", pixels)
    np.testing.assert_allclose(model.distances(videos, PAIRS), found, rtol=1e-5, atol=0)


def test_the_smallest_images():
  assert {name: net.least_px for name, net in lpips.NETS.items()} == {"vgg": 16, "alex": 31}
  assert TINY.least_px == 2 and [sum(map(bool, net.widths)) for net in lpips.NETS.values()] == [
    5,
    5,
  ]


def test_pixels_are_scaled_as_the_golden(tmp_path):
  """Of a network that lets one channel after the other through."""
  golden = np.load(GOLDEN)
  through = np.zeros((6, 3, 3, 3), np.float32)
  through[[0, 1, 2], [0, 1, 2], 1, 1], through[[3, 4, 5], [0, 1, 2], 1, 1] = 1, -1
  net = lpips.Net((lpips.Conv(0, 6, read=True),), 2, "through")
  change = {"features.0.weight": through, "features.0.bias": np.zeros(6, np.float32)}
  model = lpips.read("vgg", net, **saved(tmp_path, net, backbone=change))
  (layer,) = lpips.features(model.params, golden["pixel"].reshape(1, 1, 1, 3), net)
  found = np.asarray(layer)[0, 0, 0]
  np.testing.assert_allclose(found[:3] - found[3:], golden["scaled_pixel"], rtol=1e-5)


@pytest.mark.parametrize(
  "key, change, told",
  [
    ("backbone", {"features.3.bias": None}, "it has no tensor features.3.bias.; give the state"),
    (
      "backbone",
      {"features.0.weight": np.ones((4, 3, 11, 11), np.float32)},
      r"features.0.weight is \[4, 3, 11, 11\], and \[4, 3, 3, 3\] is needed.; give the state",
    ),
    ("backbone", {"features.0.bias": np.full(4, np.inf, np.float32)}, "features.0.bias has values"),
    ("backbone", {"features.0.bias": np.ones(4, np.int32)}, "features.0.bias is of int32"),
    ("lin", {"lin1.model.1.weight": None}, "no tensor lin1.model.1.weight.; give weights/v"),
    (
      "lin",
      {"lin0.model.1.weight": np.full((1, 4, 1, 1), -1, np.float32)},
      "lin0.model.1.weight has weights below 0",
    ),
  ],
)
def test_a_wrong_file_is_one_line(tmp_path, key, change, told):
  with pytest.raises(ValueError, match=told) as error:
    lpips.read("vgg", TINY, **saved(tmp_path, **{key: change}))
  assert "\n" not in str(error.value) and f"{key}.safetensors" in str(error.value)


def test_files_that_are_none(tmp_path, monkeypatch):
  paths = saved(tmp_path)
  assert lpips.read("vgg", TINY, **paths).released is False
  for key, path, told in (
    ("backbone", str(tmp_path / "none.pth"), "perceptual.backbone is .*none.pth', which is not th"),
    ("lin", "gs://bucket/vgg.pth", "perceptual.lin is 'gs://bucket/vgg.pth', which is in a bucket"),
    ("lin", paths["backbone"], "it has no tensor lin0.model.1.weight"),
  ):
    with pytest.raises(ConfigError if "none" in told else ValueError, match=told):
      lpips.read("vgg", TINY, **{**paths, key: path})
  (tmp_path / "text.pth").write_text("no weights")
  with pytest.raises(ValueError, match="text.pth"):
    lpips.read("vgg", TINY, **{**paths, "backbone": str(tmp_path / "text.pth")})
  digest = lpips.read("vgg", TINY, **paths).digests["lin"]
  monkeypatch.setitem(lpips._RELEASED, digest, ("vgg", "0.0"))
  with pytest.raises(ConfigError, match="lin.safetensors, which is of version 0.0"):
    lpips.read("vgg", TINY, **paths)
  monkeypatch.setitem(lpips._RELEASED, digest, ("vgg", "0.1"))
  assert lpips.read("vgg", TINY, **paths).released is True


# --- The job -----------------------------------------------------------------------

PLUGIN = """
import sys
sys.path.append({tests!r})
import numpy as np
import temporal
from totojax.config.model import EACH_FRAME
from totojax.trained import encoders

def tokenizer():
  return temporal.brightness(EACH_FRAME)

def encoder():
  def features(clips):
    x = (clips.astype(np.float32).mean((2, 3)) / 255).reshape(len(clips), -1)[:, :5]
    return np.stack([0 * x, x])
  return encoders.Encoder(4, 4, (0, 1), features)

def other():
  return encoders.Encoder(4, 4, (0,), lambda clips: np.ones((len(clips), 5)))

def endless():
  return encoders.Encoder(4, 4, (0,), lambda clips: np.full((1, len(clips), 5), np.nan))
"""


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  root = tmp_path_factory.mktemp("perceptual")
  file = root / "mine.py"
  file.write_text(PLUGIN.format(tests=str(runs.ROOT / "tests")))
  tokenizer = temporal.brightness(EACH_FRAME)
  frames = 4
  spec = dict(frames=frames, grid=temporal.GRID, vocab=64, context=frames * temporal.GRID**2)
  run = probes.bare_backbone(root, tokenizer=tokenizer.fingerprint, sequence=spec)
  temporal.store(root / "pixels", tokenizer, temporal.clips(9, 5), pixels=True)
  return root, run, str(file)


def go(made, folder, store="pixels", **keys):
  root, run, file = made
  c = recipes.generate(run)
  c.tokenizer, c.prompt.store, c.output.codec, c.output.clips = file, str(root / store), "", 1
  c.prompt.frames, c.new_frames = 2, 3
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    section = c[section] if section else c if key in ("samples", "new_frames") else c.perceptual
    section[name] = value
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lpips, "NETS", {"vgg": TINY})
    return jobs.run(jobs.typed(c.to_dict(), folder), epath.Path(folder), lambda step: False)


def decoded(codes):
  tokenizer = temporal.brightness(EACH_FRAME)
  return tokenizer.decode(codes.reshape(-1, *codes.shape[-2:])).reshape(*codes.shape[:-2], 8, 8, 3)


@pytest.fixture(scope="module", name="tiny")
def _tiny(tmp_path_factory):
  return saved(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", name="done")
def _done(made, tiny, tmp_path_factory):
  folder = tmp_path_factory.mktemp("done")
  assert go(made, folder, lpips="vgg", frechet=made[2], ddof=0, prompt__clips=0, samples=2, **tiny)
  return folder


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # of fewer samples than features
def test_numbers_of_the_job_are_worked_out_again(tiny, done):
  """From tokens.npy: frames, their features, scipy's root; and each LPIPS alone."""
  facts = json.loads((done / "gen.json").read_text())
  tokens, truth = np.load(done / "tokens.npy"), temporal.clips(9, 5)
  samples, recon = decoded(tokens), decoded(np.load(done / "truth.npy"))
  last = np.repeat(recon[:, 1:2], 3, axis=1)
  net = lpips.read("vgg", TINY, **tiny)
  alone = lambda a, b: np.mean([net.distances(np.stack(x), [(0, 1)])[0] for x in zip(a, b)])
  metrics = facts["metrics"]
  for name, found in (
    ("sample/lpips/truth", np.mean([alone(samples[:, k, 2:], truth[:, 2:]) for k in (0, 1)])),
    ("sample/lpips/recon", np.mean([alone(samples[:, k, 2:], recon[:, 2:]) for k in (0, 1)])),
    ("copy_last/lpips/truth", alone(last, truth[:, 2:])),
    ("recon/lpips/truth", alone(recon[:, 2:], truth[:, 2:])),
  ):
    assert metrics[name]["mean"] == pytest.approx(found, rel=1e-4) and metrics[name]["n"] == 9, name
  assert "truth/lpips/recon" not in metrics and "recon/lpips/recon" not in metrics
  assert metrics["best/lpips/truth"]["mean"] < metrics["sample/lpips/truth"]["mean"]
  rows = (done / "metrics.csv").read_text()
  assert "3,sample,lpips/truth," in rows and "3,unigram" not in rows

  def features(videos):  # 3 new frames, as the encoder of the file sees them
    small = np.stack([[_halved(x) for x in video] for video in videos])
    return (small.astype(np.float32).mean((2, 3)) / 255).reshape(len(videos), -1)[:, :5]

  def _halved(image):
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((4, 4), Image.Resampling.BILINEAR))

  sets = {
    "truth": truth[:, 2:],
    "sample": samples[:, 0, 2:],
    "recon": recon[:, 2:],
    "copy_last": last,
  }
  distances = facts["perceptual"]["frechet"]["distances"]
  x = {name: features(videos).astype(np.float64) for name, videos in sets.items()}
  for of, to in itertools.product(("sample", "recon", "copy_last"), ("truth", "recon")):
    if of != to:
      expected = by_sqrtm(x[of], x[to], ddof=0)
      assert distances[f"{of}/{to}"] == pytest.approx(expected, rel=1e-6), (of, to)
  half = by_sqrtm(x["truth"][::2], x["truth"][1::2], ddof=0)
  # Five and four samples of five features: scipy takes a root of noise.
  assert distances["halves/truth"] == pytest.approx(half, rel=1e-3)


def test_what_stands_beside_the_numbers(made, done):
  facts = json.loads((done / "gen.json").read_text())
  seen = facts["perceptual"]
  assert seen["lpips"]["label"] == (
    "LPIPS (vgg of backbone.safetensors, version 0.1, channels' weights not those released; 3 new"
    " frames of 8 x 8 pixels, 15 frames a second; n = 9 clips)"
  )
  label = seen["frechet"]["label"]
  assert label.startswith(f"Fréchet distance of {made[2]} features (layer 1, 5 wide; 3 new frames")
  for word in (
    "of 8 x 8 pixels",
    "15 frames a second",
    "shown to it at 4",
    "n = 9 clips",
    "ddof 0",
  ):
    assert word in label
  keys = {
    "n": 9,
    "clips": 9,
    "layer": 1,
    "frames_read": 3,
    "full_rank": True,
    "note": "",
    "ddof": 0,
  }
  assert {key: seen["frechet"][key] for key in keys} == keys
  kept = json.loads((done / "backbone.json").read_text())["perceptual"]
  assert kept == {"lpips": seen["lpips"]["weights"], "frechet": seen["frechet"]["digest"]}
  text = re.sub(r'base64,[^"]*', "", (done / "report.html").read_text())
  assert "LPIPS (vgg of backbone" in text and label in text and "one half of the clips" in text
  for name in ("FVD", "FID"):  # which are of networks that are not these
    assert name not in text and name not in json.dumps(facts)


def test_frames_by_themselves_and_all_of_them(made, tmp_path, capsys):
  assert go(made, tmp_path / "a", frechet="pixels:2", unit="frame", frames="all", prompt__clips=4)
  found = json.loads((tmp_path / "a" / "gen.json").read_text())["perceptual"]["frechet"]
  assert (found["n"], found["clips"], found["frames_read"]) == (20, 4, 1)
  assert "5 given and new frames, of which it reads 1 at a time" in found["label"]
  clips = temporal.clips(9, 5)[np.linspace(0, 8, 4).astype(int)]
  codes = temporal.brightness(EACH_FRAME).encode(clips.reshape(-1, 8, 8, 3)).reshape(4, 5, 2, 2)

  def features(videos):
    encoder = encoders.Encoder(2, 1, (0,), lambda clips: clips)
    from totojax.data.pixels import augment

    small = augment.fitted(videos.reshape(-1, 1, 8, 8, 3), encoder.size_px, "bilinear")
    return small.reshape(20, -1) / 255

  expected = by_sqrtm(features(clips), features(decoded(codes)))
  assert found["distances"]["recon/truth"] == pytest.approx(expected, rel=1e-4)
  assert "features (layer 0" in capsys.readouterr().out
  # Too few for the features' covariances: told.
  assert go(made, tmp_path / "b", frechet="pixels:4", prompt__clips=2)
  found = json.loads((tmp_path / "b" / "gen.json").read_text())["perceptual"]["frechet"]
  assert not found["full_rank"] and "2 samples give covariances of 144 features no" in found["note"]
  assert "no full rank" in (tmp_path / "b" / "report.html").read_text()


def test_codes_without_pixels_are_compared_with_the_tokenizers_frames(made, tiny, tmp_path):
  root = made[0]
  temporal.store(root / "tokens", temporal.brightness(EACH_FRAME), temporal.clips(4, 5))
  assert go(made, tmp_path / "a", "tokens", lpips="vgg", frechet="pixels:1", **tiny)
  facts = json.loads((tmp_path / "a" / "gen.json").read_text())
  distances = facts["perceptual"]["frechet"]["distances"]
  assert {"sample/recon", "copy_last/recon", "halves/recon"} <= distances.keys()
  assert not any(key.endswith("/truth") for key in [*distances, *facts["metrics"]])
  assert "sample/lpips/recon" in facts["metrics"]


@pytest.mark.parametrize(
  "keys, told",
  [
    (dict(lpips="vgg"), "perceptual.lpips is 'vgg' with backbone '' and lin ''; LPIPS takes all"),
    (dict(lin="x.pth"), "perceptual.lpips is '' with backbone '' and lin 'x.pth'"),
    (dict(lpips="squeeze"), "perceptual.lpips is 'squeeze'; use '', 'vgg' or 'alex'"),
    (dict(lpips="vgg", backbone="a.pth", lin="b.pth"), "backbone is 'a.pth', which is not there"),
    (dict(frechet="i3d"), "perceptual.frechet: the encoder is 'i3d'; name a Python file, or one"),
    (dict(frechet="pixels:2", layer=3), r"perceptual.layer is 3; pixels:2 has layers \(0,\)"),
    (dict(frechet="pixels:2", pool="class"), "perceptual.frechet: pixels:2 has no class token"),
    (dict(frechet="pixels:2", ddof=2), "perceptual.ddof is 2; use 0 or 1"),
    (
      dict(frechet="pixels:2", prompt__clips=1),
      "perceptual.frechet: all 3 new frames are known of 1 of 1 clips",
    ),
    (dict(frechet="pixels:2", new_frames=4), "all 4 new frames are known of 0 of 9 clips"),
  ],
)
def test_bad_input_is_one_line(made, tmp_path, keys, told):
  with pytest.raises((ValueError, OSError), match=told) as error:
    go(made, tmp_path / "out", **keys)
  assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_encoders_that_give_something_else(made, tmp_path):
  """Found before anything is made."""
  for name, told in (("other", r"shape \(1, 5\); for 1 clips"), ("endless", "not finite")):
    with pytest.raises(ValueError, match=told):
      go(made, tmp_path / name, frechet=f"{made[2]}:{name}")
    assert not (tmp_path / name).exists()


def test_frames_that_are_too_small():
  net = lpips.Lpips("vgg", lpips.NETS["vgg"], None, {}, False)
  net.check_size(16)
  with pytest.raises(ConfigError, match="images of 16 pixels and more, and the model's .* 8;"):
    net.check_size(8)
