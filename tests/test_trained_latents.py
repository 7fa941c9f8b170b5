"""Models of tokenizers with latent frames of several frames, or several codes a place."""

import dataclasses
import json
import re

from etils import epath
import jax
import numpy as np
from PIL import Image
import probes
import pytest
import runs
import safetensors.numpy
import temporal
import test_plugins

import totojax
from totojax import jobs, plugins, sequence
from totojax.config import recipes, roots
from totojax.config.model import LatentSpec
from totojax.config.schema import ConfigError
from totojax.data.store import manifests, store as store_lib
from totojax.data.stream import labelled, without_backbone
from totojax.jobs import patches as patches_job
from totojax.jobs.labels import job as labels_job
from totojax.models import decode
from totojax.tasks import encode
from totojax.tokenizers import api, weights
from totojax.trained import backbone, generate

CAUSAL, BLOCKS = LatentSpec(frame_factor=4), LatentSpec(frame_factor=4, first_frames=4)
PAIRS = LatentSpec(codes=2, frame_factor=4)
KINDS = {"causal": CAUSAL, "blocks": BLOCKS, "pairs": PAIRS}
VOCAB, GRID, SIZE, LATENT = 64, temporal.GRID, temporal.SIZE, 3
FILE = """
import temporal
from totojax.config.model import LatentSpec

def tokenizer():
  return temporal.brightness({})
"""


def write(path, latents: LatentSpec) -> str:
  path.write_text(FILE.format(latents))
  return str(path)


@pytest.fixture(scope="module", name="models")
def _models(tmp_path_factory):
  """Of each kind a model that was never trained, loaded with a file of the user's."""
  loaded = {}
  for name, latents in KINDS.items():
    root = tmp_path_factory.mktemp(name)
    file = write(root / "mine.py", latents)
    spec = dict(dataclasses.asdict(latents), frames=LATENT, grid=GRID, vocab=VOCAB)
    tokens = LATENT * GRID * GRID * latents.codes
    run = probes.bare_backbone(
      root, tokenizer=weights.load(file).fingerprint, sequence=dict(spec, context=tokens)
    )
    loaded[name] = totojax.load(run, tokenizer=file)
  return loaded


def reference(clips, latents: LatentSpec):
  """Codes [R, N, G, G, K], one by one, of frames that are written out."""
  first = latents.first_frames
  spans, at = [range(first)], first
  while at < clips.shape[1]:
    spans.append(range(at, at + latents.frame_factor))
    at += latents.frame_factor
  codes = np.zeros((len(clips), len(spans), GRID, GRID, latents.codes), int)
  side = SIZE // GRID
  for r, n, y, x in np.ndindex(codes.shape[:4]):
    shown = [min(t, clips.shape[1] - 1) for t in spans[n]]
    square = clips[r, shown, y * side : (y + 1) * side, x * side : (x + 1) * side]
    # As float32 has it: a mean near a step would be another code.
    code = int(np.float32(square.astype(np.float32).mean()) * np.float32(VOCAB / 256))
    codes[r, n, y, x] = [code // (k + 1) for k in range(latents.codes)]
  return codes


@pytest.mark.parametrize(
  "kind, frames", [("causal", 8), ("causal", 9), ("blocks", 11), ("pairs", 9)]
)
def test_features_are_of_the_latent_frame_that_holds_a_frame(models, kind, frames):
  model, latents = models[kind], KINDS[kind]
  clips = temporal.clips(2, frames)
  codes = reference(clips, latents)
  found = model.features(clips, layer=(0, 2))
  several = (latents.codes,) if latents.codes > 1 else ()
  assert found.shape == (2, 2, LATENT, GRID, GRID, *several, 32)
  table = np.asarray(model._params["embedding"], np.float32)
  np.testing.assert_allclose(
    found[0].reshape(*codes.shape, 32), table[codes + sequence.SPECIALS], rtol=1e-5
  )
  frame = model.features(clips, layer=2, pool="frame")
  whole = found[1].reshape(2, LATENT, -1, 32)
  np.testing.assert_allclose(frame, whole.mean(2), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    model.features(clips[0], layer=2, pool="clip"), whole[0].mean((0, 1)), rtol=1e-4, atol=1e-6
  )
  of_codes = model.features_of_codes(codes.reshape(2, LATENT, -1), layer=(0, 2))
  np.testing.assert_array_equal(of_codes, found)


@pytest.mark.parametrize("kind", ["causal", "blocks"])
def test_a_frame_changes_its_latent_frame_alone(models, kind):
  model = models[kind]
  clip = temporal.clips(1, model.frames)[0] // 2
  before = model.features(clip, layer=0)
  for t in range(model.frames):
    other = clip.copy()
    other[t] = 255
    changed = (model.features(other, layer=0) != before).any((1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [model.latents.latent_frame(t)]


def test_how_many_frames_a_clip_may_have(models):
  assert {name: model.frames for name, model in models.items()} == {
    "causal": 9,
    "blocks": 12,
    "pairs": 9,
  }
  with pytest.raises(ValueError, match="clips have 10 frames; .* was trained on 9: give 1 to 9"):
    models["causal"].features(temporal.clips(1, 10), layer=0)
  codes = np.zeros((1, 4, 4), int)
  with pytest.raises(ValueError, match="clips have 4 latent frames; .*: give 1 to 3"):
    models["causal"].features_of_codes(codes, layer=0)
  with pytest.raises(ValueError, match="latent frames, 8 tokens"):
    models["pairs"].features_of_codes(codes[:, :3], layer=0)


def test_an_image_is_one_latent_frame_of_a_causal_tokenizer(models):
  images = temporal.clips(3, 1)[:, 0]
  for kind, places in (("causal", (GRID, GRID)), ("pairs", (GRID, GRID, 2))):
    found = models[kind].features(images, layer=1, kind="image")
    assert found.shape == (3, *places, 32)
    codes = reference(images[:, None], KINDS[kind]).reshape(3, 1, -1)
    expected = models[kind].features_of_codes(codes, layer=1, kind="image")[:, 0]
    np.testing.assert_array_equal(found, expected)
    assert (found != models[kind].features(images[:, None], layer=1)[:, 0]).any()
  with pytest.raises(ConfigError, match="images, and the tokenizer makes tokens of 4 frames at a"):
    models["blocks"].features(images, layer=1, kind="image")


def test_a_tokenizer_of_other_latents_is_refused(models, tmp_path):
  """By the same fingerprint, which an author writes by hand."""
  file = write(tmp_path / "other.py", BLOCKS)
  with pytest.raises(ConfigError, match="other.py has .*first_frames=4.*trained with .*frames=1"):
    totojax.load(models["causal"].run.path, tokenizer=file)


def test_stores_of_other_latents_are_refused(models, tmp_path):
  path, run = tmp_path / "a", models["causal"].run
  temporal.store(path, temporal.brightness(PAIRS), temporal.clips(2, 9))
  with pytest.raises(ConfigError, match=r"a \(data.train\) has .*codes=2.* trained with .*codes=1"):
    backbone.open_tokens(run, str(path), "data.train")
  short = tmp_path / "b"
  temporal.store(short, temporal.brightness(CAUSAL), temporal.clips(2, 5))
  with pytest.raises(ConfigError, match="clips of 2 latent frames; .* was trained on 3"):
    backbone.open_tokens(run, str(short), "data.train")


@pytest.mark.parametrize("latents, frames", [(CAUSAL, 8), (PAIRS, 9), (BLOCKS, 7)])
def test_baselines_read_whole_clips(tmp_path, latents, frames):
  tokenizer, clips = temporal.brightness(latents), temporal.clips(3, frames)
  store = temporal.store(tmp_path / "a", tokenizer, clips)
  ids = tuple(store.ids())
  data = labelled.Records(store, "a", np.array([0, 2]), np.zeros(3, np.int32), ids, ())
  draw = lambda codes: api.decode_clips(tokenizer, codes)
  found = without_backbone.drawn_pixels(data, draw, factor=temporal.FACTOR, side=GRID)
  assert found.shape == (2, frames * GRID * GRID * 3)
  codes = reference(clips, latents)
  for m, record in enumerate((0, 2)):
    for t in range(frames):
      drawn = found[m].reshape(frames, GRID, GRID, 3)[t]
      grey = codes[record, latents.latent_frame(t), :, :, 0] * 255 // VOCAB
      np.testing.assert_allclose(drawn, np.repeat(grey[..., None], 3, -1) / 255, rtol=1e-5)
  shares = without_backbone.histograms(store).reshape(3, latents.codes, VOCAB)
  for r, k in np.ndindex(3, latents.codes):
    counts = np.bincount(codes[r, ..., k].ravel(), minlength=VOCAB)
    np.testing.assert_allclose(shares[r, k], counts / counts.sum() * VOCAB, rtol=1e-6)


def test_patches_need_a_token_each(tmp_path):
  c = recipes.pretrain("tiny")
  c.patches.update(inputs=True, targets=False, side_px=8)
  c.sequence.update(vocab=VOCAB, grid=GRID, frames=3, context=12)
  c.data.encode_with = write(tmp_path / "mine.py", CAUSAL)
  with pytest.raises(ConfigError, match="encode_with has .*frame_factor=4.*a tokenizer of images"):
    patches_job.task(roots.read(c.to_dict()))
  c.sequence.update(codes=2)
  with pytest.raises(
    ConfigError, match="the sequence has .*codes=2.*frame_factor and first_frames"
  ):
    patches_job.task(roots.read(c.to_dict()))


@pytest.mark.parametrize(
  "change, told",
  [
    ((" // 16", " // 8"), "encode gives codes 0 to 31 of uint8"),
    (
      ("* 3 +", "* 7 +"),
      r"encode gives int32 \(2, 3, 2, 2\) .* it must give integers \(2, 2, 2, 2",
    ),
    (("[:, 3:]", ""), r"decode gives uint8 \(2, 8, .* it must give uint8 \(2, 5, 16, 16, 3\)"),
    (('astype("uint8")', 'astype("int8")'), "decode gives int8"),
    (('.astype("int32")', ""), r"encode gives float32 \(2, 2, 2, 2\)"),
    (("_, h, w, _ =", "_, h, w ="), r"line 7: encode fails at uint8 \(2, 5"),
  ],
)
def test_wrong_results_of_a_users_tokenizer_are_one_line(tmp_path, change, told):
  text = test_plugins.examples()["my_clip_tokenizer.py"]
  assert text.count(change[0]) == 1
  clips = np.tile(np.array([0, 255], np.uint8)[:, None, None, None, None], (1, 5, 16, 16, 3))
  for name, code in (("good.py", text), ("bad.py", text.replace(*change))):
    (tmp_path / name).write_text(code)
  good, bad = (weights.load(str(tmp_path / name)) for name in ("good.py", "bad.py"))
  codes = good.encode(clips)
  np.testing.assert_array_equal(codes, clips[..., 0][:, :2, ::8, ::8] // 16)
  np.testing.assert_array_equal(good.decode(codes), clips)
  with pytest.raises(plugins.PluginError, match=f"bad.py.*{told}") as error:
    bad.encode(clips)
    bad.decode(codes)
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="a clip has 4 frames; this tokenizer reads 1 and then 4"):
    good.encode(clips[:, :4])


@pytest.fixture(scope="module", name="pictures")
def _pictures(tmp_path_factory):
  root = tmp_path_factory.mktemp("pictures")
  for i, image in enumerate(temporal.clips(8, 1)[:, 0]):
    folder = root / f"class{i % 2}"
    folder.mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / f"{i}.png")
  return str(root)


@pytest.mark.parametrize("make", [recipes.joint, recipes.finetune])
def test_images_are_encoded_on_the_device_as_first_frames(models, pictures, make):
  def prepared(kind):
    c = make(str(models[kind].run.path))
    c.data.update(source="folder", root=pictures, train="", validation="", val_frac=0.25, grid=0)
    c.data.update(classes=0, expected=0, holdout_frac=0.0, encode_with=models[kind]._tokenizer)
    return labels_job.prepare(roots.read(c.to_dict()))

  setup = prepared("pairs")
  spec, tokenizer = setup.model.spec, setup.tokenizer
  assert tokenizer is not None
  encoder = encode.EncodeFrames(setup.backbone, tokenizer, spec=spec)
  shape = encoder.batch_spec(3)["frames"].shape
  assert shape == (3, 1, SIZE, SIZE, 3)
  images = temporal.clips(3, 1)
  batch = {"frames": images, "start": np.full(3, sequence.IMAGE_START, np.int32)}
  found = jax.jit(encoder.tokens)(tokenizer.params, batch)
  codes = reference(images, PAIRS).reshape(3, 1, -1)
  expected = [sequence.build(each, kind="image", spec=spec) for each in codes]
  np.testing.assert_array_equal(found, expected)
  with pytest.raises(ConfigError, match="pictures.* is of images, and the tokenizer makes tokens"):
    prepared("blocks")


def test_files_of_images_have_no_features_of_a_model_of_blocks(models, pictures, tmp_path):
  model = models["blocks"]
  c = recipes.features(str(model.run.path))
  c.features.tokenizer = model._tokenizer
  c.source.update(root=pictures, kind="image")
  with pytest.raises(ConfigError, match="split 'all' is of images, and the tokenizer makes"):
    jobs.run(c.to_dict(), epath.Path(tmp_path / "out"), lambda step: False)
  assert not (tmp_path / "out").exists()


@pytest.mark.slow  # 15 s each, of which compiling is the most
@pytest.mark.parametrize("frames, latents", [(16, CAUSAL), (17, PAIRS)])
def test_from_videos_to_frames_that_the_model_goes_on_with(tmp_path, frames, latents):
  """Dark and bright videos, by a tokenizer in a file of the user's."""
  little = pytest.importorskip("little_videos")
  for i in range(16):
    folder = tmp_path / "videos" / ("bright" if i % 2 else "dark")
    folder.mkdir(parents=True, exist_ok=True)
    shade = np.full((32, 48, 3), (42, 170, 74, 202)[i % 4], np.uint8)  # the middle of a code
    little.write(folder / f"{i}.avi", 24, paint=lambda _, shade=shade: shade)
  if latents == CAUSAL:  # the page's
    file, side = tmp_path / "mine.py", 8 * GRID
    file.write_text(test_plugins.examples()["my_clip_tokenizer.py"])
  else:
    file, side = tmp_path / "pairs.py", SIZE
    write(file, latents)

  def command(config, folder, *flags):
    words = runs.command(f"configs/{config}", tmp_path / folder)
    return runs.here([*words, *(f"--config.{flag}" for flag in flags)])

  source = (
    f"source.root={tmp_path / 'videos'}",
    "source.folder.class_folders=True",
    "source.val_frac=0.25",
    "clip.stride_frames=1",
    "amount.workers=0",
  )
  sizes = (f"tokenizer={file}", f"clip.frames={frames}", f"clip.size_px={side}")
  command("tokenize.py", "tokens", *source, *sizes)
  head = manifests.existing(tmp_path / "tokens" / "train")
  assert (head.frames, head.pixel_frames, head.latents) == (5, frames, latents)

  run, tokens = tmp_path / "run", 5 * GRID**2 * latents.codes
  trained, held = tmp_path / "tokens" / "train", tmp_path / "tokens" / "val"
  amounts = (f"train.batch_tokens={8 * tokens}", f"train.total_tokens={96.0 * 8 * tokens}")
  command(
    "pretrain.py:tiny", "run", f"data.train={trained}", f"data.validation=held:{held}", *amounts
  )
  spec = json.loads((run / "config.json").read_text())["sequence"]
  assert (spec["frames"], spec["context"]) == (5, tokens) and spec["codes"] == latents.codes
  losses = [r["loss"] for r in runs.metrics(run) if r["kind"] == "train"]
  assert losses[-1] < 0.7 * losses[0]

  command("validate.py", "validation", f"model_run={run}")
  assert json.loads((tmp_path / "validation" / "metrics.json").read_text())["held/loss"] > 0

  probing = (
    f"data.train={trained}",
    f"data.validation={held}",
    f"model_run={run}",
    "backbones=('trained','pixels','histogram')",
    "data.holdout_frac=0.25",
    "train.epochs=30.0",
    "train.batch_rows=8",
    "train.score_rows=8",
    "optim.name=adamw",
    "optim.lrs=(0.03,)",
    "optim.weight_decays=(0.0,)",
    "optim.lr_rows=0",
    "data.pixels_side=2",
    "data.classes=0",
    "data.expected=0",
  )
  command("probe_folder.py", "probe", *probing)
  metrics = json.loads((tmp_path / "probe" / "metrics.json").read_text())
  assert metrics["trained/chosen_on_validation/top1"] == 1.0
  assert metrics["pixels/chosen_on_validation/top1"] == 1.0

  command("features.py", "features", *source, f"model_run={run}", "features.pool=frame")
  (found,) = (tmp_path / "features" / "train").glob("*.safetensors")
  layers = safetensors.numpy.load(found.read_bytes())
  assert layers["layer_2"].shape == (12, 5, 32)

  model = totojax.load(run)
  tokenizer = model.tokenizer
  store = store_lib.open_store(held, tokenizer=None, vocab=None, grid=None)
  codes = store.read(range(4))["codes"].reshape(4, 5, -1).astype(int)
  trunk = model.run.model
  made = generate.frames(
    trunk,
    decode.load(trunk, backbone.read(model.run, trunk, model._layout)),
    codes[:, :3],
    further=2,
    sampling=generate.Sampling(temperature=0.0),
    rows=np.arange(4),
  )
  assert made.shape == (4, 2, codes.shape[-1])
  whole = np.concatenate([codes[:, :3], made], axis=1)
  drawn = api.decode_clips(tokenizer, whole.reshape(4, 5, *trunk.spec.frame_shape))
  assert drawn.shape == (4, 17, side, side, 3) == (4, model.frames, side, side, 3)
  known = api.decode_clips(tokenizer, codes.reshape(4, *head.code_shape), frames=9)
  np.testing.assert_array_equal(drawn[:, :9], known)
  # A still video goes on with codes of its own; the control is another video's.
  own, others = (
    np.mean([np.isin(each, given) for each, given in zip(made, videos)])
    for videos in (codes, codes[::-1])
  )
  assert own > 0.8 > others


@pytest.mark.parametrize("mark", ["", "xyz", "F19AFC9C5E45A15F", 7])
def test_a_fingerprint_by_hand_has_sixteen_digits(tmp_path, mark):
  file = write(tmp_path / "mine.py", CAUSAL)
  assert re.fullmatch("[0-9a-f]{16}", weights.load(file).fingerprint)  # the control
  other = tmp_path / "other.py"
  text = "import dataclasses\n" + FILE.format(CAUSAL)
  other.write_text(
    text.replace("return ", "made = ")
    + f"  return dataclasses.replace(made, fingerprint={mark!r})\n"
  )
  words = "must give" if mark == 7 else f"has the fingerprint {mark!r}; give 16 hex digits"
  with pytest.raises(plugins.PluginError, match=words):
    weights.load(str(other))
