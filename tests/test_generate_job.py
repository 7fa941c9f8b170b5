"""`run = "generate"`: from clips to videos, tables and a page; files, and what is refused."""

import json

from etils import epath
import numpy as np
from PIL import Image
import probes
import pytest
import runs
import temporal

import totojax
from totojax import jobs
from totojax.config import recipes
from totojax.config.generate import Sampling, Window
from totojax.config.model import EACH_FRAME, LatentSpec
from totojax.data.pixels import movies
from totojax.data.store import store as store_lib
from totojax.evals import baselines, continuations
from totojax.jobs.generate import job, prompts
from totojax.tokenizers import api, split, weights
from totojax.trained import backbone, generate, model as pretrained

VOCAB, GRID, SIZE = 64, temporal.GRID, temporal.SIZE
CAUSAL = LatentSpec(frame_factor=4)
FILE = """
import sys
sys.path.append({!r})
import temporal
from totojax.config.model import EACH_FRAME, LatentSpec

def tokenizer():
  return temporal.brightness({})
"""


def build(root, latents, frames=4):
  """A model that was never trained, of clips of pixels that are beside it."""
  file = root / "mine.py"
  file.write_text(FILE.format(str(runs.ROOT / "tests"), latents))
  tokens = frames * GRID * GRID * latents.codes
  spec = dict(
    frames=frames,
    grid=GRID,
    vocab=VOCAB,
    codes=latents.codes,
    frame_factor=latents.frame_factor,
    first_frames=latents.first_frames,
  )
  run = probes.bare_backbone(
    root, tokenizer=weights.load(str(file)).fingerprint, sequence=dict(spec, context=tokens)
  )
  count = latents.whole_frames(frames + 2)
  temporal.store(
    root / "pixels", temporal.brightness(latents), temporal.clips(3, count), pixels=True
  )
  temporal.store(root / "tokens", temporal.brightness(latents), temporal.clips(3, count))
  return run, str(file)


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
  root = tmp_path_factory.mktemp("generate")
  return (root, *build(root, EACH_FRAME))


def config(made, store="pixels", **keys):
  root, run, file = made
  c = recipes.generate(run)
  c.tokenizer = file
  if store:
    c.prompt.store = str(root / store)
  c.output.codec = ""
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    (c[section] if section else c)[name] = value
  return c


def go(c, folder, interrupted=lambda step: False):
  return jobs.run(jobs.typed(c.to_dict(), folder), epath.Path(folder), interrupted)


@pytest.fixture(scope="module", name="done")
def _done(made, tmp_path_factory):
  """6 frames known, 2 given, 6 made: past the window of 4, and 2 past the truth."""
  folder = tmp_path_factory.mktemp("done")
  assert go(config(made, new_frames=6, samples=2, sampling__seed=3), folder)
  return folder


def test_what_is_left(made, done):
  names = {path.name for path in done.iterdir()}
  assert {"gen.json", "metrics.csv", "tokens.npy", "truth.npy", "videos", "report.html"} <= names
  assert "parts" not in names
  clips = temporal.clips(3, 6)
  codes = temporal.brightness(EACH_FRAME).encode(clips.reshape(-1, SIZE, SIZE, 3))
  truth = np.load(done / "truth.npy")
  np.testing.assert_array_equal(truth[:, :6], codes.reshape(3, 6, GRID, GRID))
  assert (truth[:, 6:] == -1).all()
  tokens = np.load(done / "tokens.npy")
  assert tokens.shape == (3, 2, 8, GRID, GRID) and tokens.min() >= 0 and tokens.max() < VOCAB
  assert (tokens[:, :, :2] == truth[:, None, :2]).all()
  assert (tokens[:, 0] != tokens[:, 1]).any()
  page = (done / "report.html").read_text()
  assert page.count("data:image/webp;base64,") == 3 and "truth, tokenizer, sample 1" in page


def test_the_same_from_python(made, done):
  root, run, file = made
  model = totojax.load(run, tokenizer=file)
  clips = temporal.clips(3, 6)[:, :2]
  tokens = np.load(done / "tokens.npy")
  found = model.generate(clips, new_frames=6, samples=2, sampling=Sampling(seed=3))
  assert found.shape == (3, 2, 6, SIZE, SIZE, 3) and found.dtype == np.uint8
  expected = temporal.brightness(EACH_FRAME).decode(tokens[:, :, 2:].reshape(-1, GRID, GRID))
  np.testing.assert_array_equal(found.reshape(expected.shape), expected)
  one = model.generate(clips[1], new_frames=6, sampling=Sampling(seed=3))
  np.testing.assert_array_equal(one, found[1, 0])
  for given, more, told in (
    (clips[:, :0], {}, "holds none"),
    (temporal.clips(1, 5), {}, "5 frames are given; .* has 4: give 1 to 4 of them, the last ones"),
    (clips, {"new_frames": 0}, "new_frames is 0; give a whole number"),
    (clips, {"samples": 0}, "samples is 0"),
    (clips[0, 0], {}, "give uint8 .clips, frames, height, width, 3."),
    (clips.astype(float), {}, "frames are float64"),
  ):
    with pytest.raises(ValueError, match=told):
      model.generate(given, **more)


def test_losses_and_baselines_are_worked_out_again(made, done):
  """The loss of the model by the task of pre-training, in one window; copies by hand."""
  root, run, file = made
  facts = json.loads((done / "gen.json").read_text())
  rows = {}
  for line in (done / "metrics.csv").read_text().splitlines()[1:]:
    frame, of, measure, mean, *_, n = line.split(",")
    rows[of, measure, int(frame)] = float(mean), int(n)
  source = backbone.find(run)
  task = backbone._task(source, source.model)
  model = pretrained.load(run, tokenizer=file)
  params = backbone.read(source, source.model, model._layout)
  clips = temporal.clips(3, 6)
  codes = temporal.brightness(EACH_FRAME).encode(clips.reshape(-1, SIZE, SIZE, 3)).reshape(3, 6, -1)
  row = np.insert(codes[:, :4].reshape(3, -1) + 4, 0, 1, axis=1)
  nll, _ = task.per_target(params, {"tokens": row.astype(np.int32)})
  by_frame = np.asarray(nll).reshape(3, 4, -1).mean((0, 2))
  for frame in (1, 2):  # the third and fourth of the clip
    assert rows["model", "loss", frame] == (pytest.approx(by_frame[1 + frame], rel=1e-4), 3)
  assert ("model", "loss", 4) in rows and ("model", "loss", 5) not in rows
  tokens = np.load(done / "tokens.npy").reshape(3, 2, 8, -1)
  equal = (tokens[:, :, 2:6] == codes[:, None, 2:]).mean()
  assert facts["metrics"]["sample/accuracy"]["mean"] == pytest.approx(equal)
  last = (codes[:, 1:2] == codes[:, 2:]).mean()
  assert facts["metrics"]["copy_last/accuracy"]["mean"] == pytest.approx(last)
  change = (tokens[:, :, 2:] != tokens[:, :, 1:-1]).mean()
  assert facts["metrics"]["sample/change"]["mean"] == pytest.approx(change)
  # Nothing was trained on, so that nothing can be fitted, and that is said.
  assert facts["model_less_copy"] is None and "copying and unigram" in facts["notes"][0]


def test_predictors_against_the_baselines_of_validation():
  codes = np.random.default_rng(0).integers(0, 5, (9, 6, 4))
  both = np.concatenate([codes, codes + 5], -1).reshape(9, 6, 2, 4).swapaxes(2, 3).reshape(9, 6, 8)
  fitted = continuations.Predictors.fit(both[:6], vocab=10, codes=2)
  each = [fitted.losses(clip) for clip in both[6:]]
  expected = baselines.evaluate(both[:6], both[6:], vocab=10, codes=2)
  for name in ("copy", "unigram"):
    found = np.mean([one[name] for one in each])
    assert found == pytest.approx(expected[f"{name}/later_loss"], rel=1e-9)
  drawn = fitted.draws(500, 8, seed=0)
  assert drawn[:, ::2].max() < 5 <= drawn[:, 1::2].min() or drawn[:, ::2].max() < 10
  shares = np.bincount(drawn[:, ::2].ravel(), minlength=10) / drawn[:, ::2].size
  np.testing.assert_allclose(shares, fitted.copies[0].unigram_V, atol=0.03)


def test_it_goes_on_where_it_stopped(made, done, tmp_path):
  c = config(made, new_frames=6, samples=2, sampling__seed=3, rows=4)
  stops = iter([False, False, True, False, True])
  assert not go(c, tmp_path, lambda step: next(stops))
  parts = sorted(path.name for path in (tmp_path / "parts").iterdir())
  assert parts == ["00000-000000.npz", "00000-000001.npz", "00000-000002.npz"]
  before = (tmp_path / "parts" / parts[0]).stat().st_mtime_ns
  assert not go(c, tmp_path, lambda step: next(stops))
  assert (tmp_path / "parts" / parts[0]).stat().st_mtime_ns == before
  # One video is of one setting; and what is no whole part is made anew.
  for key, value in (("sampling__temperature", 0.0), ("new_frames", 3), ("rows", 2)):
    other = config(made, **{**dict(new_frames=6, samples=2, sampling__seed=3, rows=4), key: value})
    with pytest.raises(ValueError, match="was begun with another .* Use another --workdir"):
      go(other, tmp_path)
  first = tmp_path / "parts" / parts[1]
  first.write_bytes(first.read_bytes()[:100])
  assert go(c, tmp_path)
  assert (tmp_path / "tokens.npy").read_bytes() == (done / "tokens.npy").read_bytes()
  with pytest.raises(ValueError, match="was made with another config"):
    jobs.JOBS["generate"].check(
      tmp_path, jobs.typed(config(made, new_frames=5).to_dict(), tmp_path), allow_change=False
    )


def test_tokens_of_a_store_are_those_of_its_pixels(made, done, tmp_path):
  """Without pixels there is no PSNR against the truth."""
  assert go(config(made, "tokens", new_frames=6, samples=2, sampling__seed=3), tmp_path)
  np.testing.assert_array_equal(np.load(tmp_path / "tokens.npy"), np.load(done / "tokens.npy"))
  metrics = json.loads((tmp_path / "gen.json").read_text())["metrics"]
  assert "sample/psnr_db/recon" in metrics and "sample/psnr_db/truth" not in metrics


@pytest.mark.parametrize(
  "keys, told",
  [
    (dict(prompt__frames=5), r"prompt.frames: 5 frames are given; the window of .* has 4: give 1"),
    (dict(new_frames=5, window__drop_frames=4), "window.drop_frames is 4; the window of .* has 4"),
    (dict(tokenizer="shipped"), "shipped has 512 codes; .* was trained with 64"),
    (dict(prompt__store="nowhere"), "nowhere"),
    (dict(store="", prompt__path="nowhere.mp4"), "no such file or folder"),
    (dict(store=""), "prompt.path and prompt.store are empty, and .* holds nothing out"),
    (dict(prompt__place="end"), "prompt.place is 'end', which is of files"),
    (dict(clip__stride_frames=2), "clip.stride_frames and clip.fps are of files"),
    (dict(prompt__path="a.mp4"), "clips come from one of them"),
    (dict(samples=0), "samples is 0"),
    (dict(new_frames=10**9), "new_frames is 1000000000; it must be .* at most 1000000"),
    (dict(output__crf=60, output__codec="h264"), "output.crf is 60; of h264"),
    (dict(output__codec="av1"), "codec is 'av1'; use 'h264', 'vp9'"),
    (dict(model_run=""), "model_run is empty"),
  ],
)
def test_bad_input_is_one_line(made, tmp_path, keys, told):
  keys = dict(keys)
  c = config(made, keys.pop("store", "pixels"), **keys)
  folder = tmp_path / "out"
  with pytest.raises((ValueError, OSError), match=told) as error:
    go(c, folder)
  assert "\n" not in str(error.value)
  assert not folder.exists()


def test_a_store_of_clips_that_are_too_short_is_refused(made, tmp_path):
  tokenizer = temporal.brightness(EACH_FRAME)
  temporal.store(tmp_path / "short", tokenizer, temporal.clips(2, 1))
  c = config(made, "")
  c.prompt.store = str(tmp_path / "short")
  with pytest.raises(ValueError, match="clips of 1 frames, and prompt.frames is 2; give as many"):
    go(c, tmp_path / "out")
  temporal.store(tmp_path / "other", temporal.brightness(CAUSAL), temporal.clips(2, 9))
  c.prompt.store = str(tmp_path / "other")
  with pytest.raises(ValueError, match="other has .*frame_factor=4"):
    go(c, tmp_path / "out")


@pytest.mark.parametrize("codes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_latent_frames_go_on_as_several_frames(tmp_path, codes):
  """A causal tokenizer of clips: a window that slides begins with a first frame again."""
  latents = LatentSpec(codes=codes, frame_factor=4)
  root, run, file = made = (tmp_path, *build(tmp_path, latents, frames=3))
  seen = []
  tokenizer = weights.load(file)
  model = pretrained.load(run, tokenizer=file)
  clips = temporal.clips(2, 5)
  found = model.generate(clips, new_frames=14, sampling=Sampling(seed=1))
  assert found.shape == (2, 14, SIZE, SIZE, 3)
  # By hand: windows of 3 latent frames, drawn and encoded anew when they are full.
  context = model.codes(clips)
  plain = dict(settings=Window(), sampling=Sampling(seed=1), slots=split.slots(tokenizer))
  one = generate.decoder(model.run.model, model._weights, frames=6, **plain)
  shape = model.run.model.spec.frame_shape
  again = lambda codes_BNP: api.encode_clips(
    tokenizer, api.decode_clips(tokenizer, codes_BNP.reshape(2, 3, *shape))[:, -5:]
  ).reshape(2, 2, -1)

  def spied(codes_BNP, keep):
    assert keep == 2
    seen.append(again(codes_BNP))
    return seen[-1]

  from totojax.trained import continued

  other = generate.decoder(model.run.model, model._weights, frames=6, restart=spied, **plain)
  made_codes = continued.samples(other, context, further=4, samples=1, rows=8)[:, 0]
  assert len(seen) == 3 and made_codes.shape[1] == 6
  drawn = api.decode_clips(tokenizer, made_codes.reshape(2, 6, *shape))
  np.testing.assert_array_equal(found, drawn[:, 5:19])
  # Control: without drawing and encoding the first latent frame is another.
  without = continued.samples(one, context, further=4, samples=1, rows=8)[:, 0]
  assert (without[:, :3] == made_codes[:, :3]).all() and (without != made_codes).any()
  with pytest.raises(ValueError, match="4 frames are given, and a token of .* 4 .*; give 1 or 5"):
    model.generate(clips[:, :4], new_frames=4)
  c = config(made, "pixels", new_frames=8, prompt__frames=5)
  assert go(c, tmp_path / "run")
  facts = json.loads((tmp_path / "run" / "gen.json").read_text())
  assert facts["given_frames"] == 5 and facts["metrics"]["model/loss"]["n"] == 3
  tokens = np.load(tmp_path / "run" / "tokens.npy")
  assert tokens.shape == (3, 1, 4, *shape)


def test_codes_of_a_split_tokenizer_stay_in_their_parts():
  whole = temporal.brightness(EACH_FRAME)
  parted = split.split(whole, (4, 16))
  assert split.slots(parted) == ((0, 4), (4, 20)) and split.slots(whole) == ((0, 64),)
  codes = np.array([[[[3, 4], [0, 19]], [[1, 5], [2, 10]]]])
  assert parted.decode(codes).shape == (1, SIZE, SIZE, 3)
  with pytest.raises(ValueError, match="the codes of this part are 0 to 3"):
    parted.decode(codes[..., ::-1])


# --- Files -----------------------------------------------------------------------


def test_frames_of_a_file_are_its_first_or_its_last(made, tmp_path):
  little = pytest.importorskip("little_videos")
  for name, frames in (("a", 60), ("b", 14), ("c", 6)):
    little.write(tmp_path / f"{name}.mp4", frames)
  (tmp_path / "d.mp4").write_bytes(b"no video at all")
  source = backbone.find(made[1])
  amounts = prompts.Amounts(given=2, new=4, context=2, further=4)

  def shown(place="start", **keys):
    c = config(made, "", prompt__path=str(tmp_path), prompt__place=place, **keys)
    found = prompts.find(jobs.typed(c.to_dict(), tmp_path), source, amounts, 32)
    out = {}
    for item in found.items:
      one = prompts.of_file(item, found, amounts, place=place)
      out[item.id] = (
        one if not isinstance(one, np.ndarray) else little.numbers(one[None])[0].tolist()
      )
    return out

  at_four = shown(clip__stride_frames=4)
  assert at_four["a.mp4"] == [0, 4, 8, 12, 16, 20]
  assert at_four["b.mp4"] == [0, 4, 8, 12]  # as much as there is
  assert at_four["c.mp4"] == [0, 4]
  assert "InvalidData" in at_four["d.mp4"].reason
  last = shown("end", clip__stride_frames=4)
  assert last["a.mp4"] == [55, 59] and last["c.mp4"] == [1, 5]
  assert shown(clip__fps=15.0, clip__stride_frames=1)["a.mp4"] == [0, 2, 4, 6, 8, 10]
  assert "too short: it has 1 frames at 3 a second" in shown(clip__stride_frames=10)["c.mp4"].reason


def test_files_are_continued(made, tmp_path):
  little = pytest.importorskip("little_videos")
  (tmp_path / "videos").mkdir()
  little.write(tmp_path / "videos" / "a.mp4", 30)
  (tmp_path / "videos" / "b.mp4").write_bytes(b"no video")
  keys = dict(clip__stride_frames=4, new_frames=3, output__codec="vp9", output__side_px=16)
  c = config(made, "", prompt__path=str(tmp_path / "videos"), **keys)
  assert go(c, tmp_path / "run")
  facts = json.loads((tmp_path / "run" / "gen.json").read_text())
  assert (facts["clips"], facts["skipped"], facts["fps"]) == (1, 1, 7.5)
  assert "b.mp4" in (tmp_path / "run" / "skipped.csv").read_text()
  assert (tmp_path / "run" / "videos" / "00000.mp4").stat().st_size > 300
  c.prompt.path = str(tmp_path / "videos" / "b.mp4")
  with pytest.raises(ValueError, match="b.mp4 gives no clip: ") as error:
    go(c, tmp_path / "bad")
  assert "\n" not in str(error.value) and not (tmp_path / "bad").exists()


# --- What is drawn and measured ----------------------------------------------------


def pictures(frames=5, height=20, width=24, seed=0):
  y, x = np.mgrid[:height, :width]
  planes = lambda t: [np.sin(0.3 * x + 0.2 * t), np.cos(0.2 * y + 0.1 * t), np.sin(0.1 * x * y)]
  smooth = np.stack([np.stack(planes(t), -1) for t in range(frames)])
  noise = np.random.default_rng(seed).normal(0, 6, smooth.shape)
  return (127 + 90 * smooth + noise).clip(0, 255).astype(np.uint8)


def test_webp_is_lossless_and_plays(tmp_path):
  frames = pictures()
  (tmp_path / "a.webp").write_bytes(movies.webp(frames, fps=8.0))
  with Image.open(tmp_path / "a.webp") as image:
    assert (image.n_frames, image.info["loop"]) == (5, 0)
    for t, frame in enumerate(frames):
      image.seek(t)
      np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
      assert image.info["duration"] == 125
  still = np.repeat(frames[:1], 3, axis=0)  # equal frames are not merged
  (tmp_path / "b.webp").write_bytes(movies.webp(still, fps=8.0))
  with Image.open(tmp_path / "b.webp") as image:
    assert image.n_frames in (1, 3)
  with pytest.raises(ValueError, match="a WebP has up to 16383"):
    movies.webp(np.zeros((1, 2, 20000, 3), np.uint8), fps=8.0)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_mp4_is_what_was_drawn(tmp_path, codec):
  av = pytest.importorskip("av")
  frames = pictures(height=21, width=35)[:, :, :, [0, 0, 0]]  # colours are halved
  sizes = []
  for crf in (4, 45):
    path = tmp_path / f"{crf}.mp4"
    path.write_bytes(movies.mp4(frames, fps=7.5, codec=codec, crf=crf))
    with av.open(str(path)) as container:
      stream = container.streams.video[0]
      assert stream.codec_context.name.startswith(codec.replace("h264", "h264"))
      assert float(stream.average_rate) == 7.5
      found = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert found.shape == (5, 22, 36, 3)
    sizes.append((path.stat().st_size, continuations.psnrs(frames, found[:, :21, :35]).mean()))
  assert sizes[0][0] > sizes[1][0] and sizes[0][1] > max(sizes[1][1], 30)


def test_columns_say_what_was_given():
  frames = pictures(frames=4, height=8, width=8)
  wide = movies.beside([(frames, 4), (frames[:2], 1)], frames=4)
  assert wide.shape == (4, 12, 20, 3)
  np.testing.assert_array_equal(wide[:, 4:, :8], frames)
  np.testing.assert_array_equal(wide[:2, 4:, 12:], frames[:2])
  assert (wide[2:, 4:, 12:] == 40).all()
  assert (wide[:, :4, :8] == 150).all() and (wide[0, :4, 12:] == 150).all()
  assert (wide[1:, :4, 12:, 2] == 27).all()
  rows = movies.strip([(frames, 4), (frames, 1)], [0, 3])
  assert rows.shape == (28, 20, 3)
  np.testing.assert_array_equal(rows[4:12, 12:], frames[3])
  assert movies.enlarged(frames, side_px=20).shape == (4, 24, 24, 3)


@pytest.mark.parametrize(
  "amounts, told",
  [
    ((56, 1, 1, 1), "1 clip goes on for 56 frames; it is read once more as it really goes on"),
    ((8, 6, 3, 2), "2 clips go on for 8 frames, 3 times each; each is read once more"),
    ((1, 2, 1, 1), "2 clips go on for 1 frame; 1 of them is read once more"),
  ],
)
def test_what_is_made_is_said_in_words(amounts, told):
  assert job._amount_in_words(*amounts).startswith(told)
  assert "read once more" not in job._amount_in_words(8, 2, 1, 0)


def test_measures_are_scikit_images():
  metrics = pytest.importorskip("skimage.metrics")
  truth, other = pictures(), pictures(seed=1)
  other[0] = truth[0]
  found = continuations.pixel_measures(truth, other)
  for t in range(1, 5):
    options = dict(data_range=255)
    psnr = metrics.peak_signal_noise_ratio(truth[t], other[t], **options)
    assert found["psnr_db"][t] == pytest.approx(psnr, rel=1e-9)
    ssim = metrics.structural_similarity(truth[t], other[t], channel_axis=-1, **options)
    assert found["ssim"][t] == pytest.approx(ssim, rel=1e-9)
  assert (found["psnr_db"][0], found["ssim"][0]) == (100.0, 1.0)
  small = continuations.pixel_measures(truth[:, :6], other[:, :6])
  assert small.keys() == {"psnr_db"}


def test_intervals_by_hand():
  found = continuations.Interval.of(np.array([1.0, 2.0, 6.0, np.nan]))
  assert (found.n, found.mean) == (3, 3.0)
  spread = 4.302653 * np.sqrt(7) / np.sqrt(3)  # t of 2 degrees of freedom, at 97.5 %
  assert found.high == pytest.approx(3 + spread, rel=1e-6) and found.low == pytest.approx(
    3 - spread
  )
  one = continuations.Interval.of(np.array([2.0]))
  assert (one.mean, one.low, one.n) == (2.0, None, 1)
  table = continuations.Table()
  for model, copy in (([1.0, 2.0], [2.0, 4.0]), ([3.0], [3.5])):
    table.add("model", "loss", np.array(model))
    table.add("copy", "loss", np.array(copy))
  assert table.compared("loss", "model", "copy")["mean"] == pytest.approx(-1.0)
  assert table.compared("loss", "model", "unigram") is None
  assert [(row["frame"], row["mean"], row["n"]) for row in table.rows()[:2]] == [
    (1, 2, 2),
    (2, 2, 1),
  ]
  drift = continuations.Table()
  drift.add("sample", "own_loss", np.arange(8.0))
  assert drift.drift("sample", "own_loss")["mean"] == 6.0
  assert table.drift("model", "loss") is None or table.drift("model", "loss")["n"] == 0


def test_the_best_sample_is_the_best_as_a_whole():
  values = np.array([[9.0, 0.0, 0.0], [4.0, 4.0, 4.0]])
  np.testing.assert_array_equal(continuations.best(values), values[1])


def test_the_command_of_the_docs(made, tmp_path):
  root, run, file = made
  words = runs.command(
    "configs/generate.py",
    tmp_path / "out",
    f"--config.model_run={run}",
    f"--config.tokenizer={file}",
    f"--config.prompt.store={root / 'tokens'}",
    "--config.output.codec=",
    "--config.sampling.temperature=0.0",
  )
  printed = runs.here(words)
  assert "nats per visual token of the true next frames" in printed
  store = store_lib.open_store(root / "tokens", tokenizer=None, vocab=None, grid=None)
  assert np.load(tmp_path / "out" / "truth.npy").shape == (len(store), 4, GRID, GRID)
  assert job._TRUTH < 2**32


def test_a_video_with_fewer_frames_a_second_says_that_frames_repeat(made, tmp_path, capsys):
  """Beside it one of the rate of training, of which nothing is said."""
  rng = np.random.default_rng(0)
  for name, frames in ("slow", 3), ("quick", 40):
    folder = tmp_path / name
    folder.mkdir()
    data = movies.mp4(
      rng.integers(0, 256, (frames, 16, 16, 3), np.uint8), fps=frames / 2, codec="h264", crf=10
    )
    (folder / "clip.mp4").write_bytes(data)
    go(config(made, None, prompt__path=str(folder)), tmp_path / f"of_{name}")
    said = "1 of 1 clips repeat frames (clip" in capsys.readouterr().out
    assert said == (name == "slow")
