"""Counts, plans and losses of tokens where a latent frame is several frames.

Against numbers that are worked out by hand: 17 frames with a stride of 2 at 30
a second are 34/30 s, and 5 latent frames of 2 x 2 places.
"""

import collections
import csv
import dataclasses
import json

from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest
from temporal import brightness, CAUSAL, clips, store

from totojax import sequence
from totojax.config import recipes, roots
from totojax.config.model import LatentSpec
from totojax.data.store import shards, store as store_lib
from totojax.evals import baselines, loss_tables, reconstructions, token_counts, val_loss
from totojax.jobs import leakage, shards as jobs_shards, tokens_report
from totojax.jobs.plan import corpus as plan
from totojax.report import plots, reading, verdict
from totojax.tokenizers import api, weights

TWO = LatentSpec(codes=2)
BLOCKS = LatentSpec(codes=2, frame_factor=4, first_frames=4)
NEVER = lambda _: False


@pytest.mark.parametrize(
  "latents, frames, latent, tokens, tokens_30fps",
  [
    # 3 clips: 3.4 s, 102 frames at 30 a second, a quarter of them latent.
    (CAUSAL, 17, 5, 3 * 5 * 4, 102),
    (TWO, 17, 17, 3 * 17 * 8, 816),
    (BLOCKS, 17, 5, 3 * 5 * 8, 204),
    (LatentSpec(), 17, 17, 3 * 17 * 4, 408),
    (CAUSAL, 15, 5, 3 * 5 * 4, 90),  # two frames of padding are no video
  ],
)
def test_tokens_are_counted_of_latent_frames_and_hours_of_frames(
  tmp_path, latents, frames, latent, tokens, tokens_30fps
):
  facts = token_counts.describe(store(tmp_path, brightness(latents), clips(3, frames)))
  assert (facts["frames"], facts["latent_frames"]) == (3 * frames, 3 * latent)
  assert (facts["tokens"], facts["tokens_30fps"]) == (tokens, tokens_30fps)
  np.testing.assert_allclose(facts["hours"], 3 * frames * 2 / 30 / 3600, rtol=1e-12)


def _codes(store_):
  head = store_.manifest
  codes = store_.read(np.arange(len(store_)))["codes"]
  return codes.reshape(-1, head.frames, head.grid, head.grid * head.latents.codes)


@pytest.mark.parametrize("adjacency", ["raster", "row"])
def test_ngrams_run_over_the_codes_of_a_place(tmp_path, adjacency, monkeypatch):
  monkeypatch.setattr(token_counts, "READ_TOKENS", 90)  # 2 records at a time
  made = store(tmp_path / "a", brightness(BLOCKS, vocab=8), clips(5, 17))
  tables = token_counts.count_ngrams(
    {"a": made}, n=3, images=0, adjacency=adjacency, interrupted=NEVER
  )
  assert tables
  counter = collections.Counter()
  for image in np.concatenate(_codes(made)).tolist():
    for line in [sum(image, [])] if adjacency == "raster" else image:
      counter.update(zip(line, line[1:], line[2:]))
  assert sorted(tables["a"].counts) == sorted(counter.values())
  counts = token_counts.count_codes({"a": made}, epath.Path(tmp_path / "c.npz"), NEVER)
  assert counts
  np.testing.assert_array_equal(counts["a"], np.bincount(_codes(made).reshape(-1), minlength=8))


def test_a_record_of_one_pair_of_codes_is_single(tmp_path):
  """Halves of a place's code beside it; the control is a clip with one other place."""
  still = np.full((3, 17, 8, 8, 3), 200, np.uint8)
  still[1, 9, :4, :4] = 0
  use = token_counts.use(store(tmp_path, brightness(TWO), still))
  assert use.codes_used == 3 and use.tokens == 3 * 17 * 8
  assert use.single == 2 / 3


def _plan(tokenizer, made, pixels):
  return reconstructions.Plan(tokenizer, {"a": made}, {"a": pixels})


@pytest.mark.parametrize("latents", [CAUSAL, TWO, LatentSpec()])
def test_the_middle_frame_is_decoded_beside_the_original(tmp_path, latents):
  tokenizer, frames = brightness(latents, vocab=256), clips(6, 15)
  made = store(tmp_path / "tokens", tokenizer, frames)
  pixels = store(tmp_path / "pixels", tokenizer, frames, pixels=True)
  facts, arrays = reconstructions.decode(_plan(tokenizer, made, pixels))
  np.testing.assert_array_equal(arrays["a/original"], frames[:, 7])
  # Frame 7 is in latent frame 2, of frames 5 to 8; else a frame of its own.
  first, last = (5, 9) if latents.is_temporal else (7, 8)
  blocks = frames[:, first:last].reshape(6, last - first, 2, 4, 2, 4, 3).astype(float)
  means = blocks.mean((1, 3, 5, 6)).astype(int).repeat(4, 1).repeat(4, 2) * 255 // 256
  np.testing.assert_array_equal(arrays["a/reconstruction"], np.stack([means] * 3, -1))
  squared = (frames[:, 7] - means[..., None].astype(float)) ** 2
  np.testing.assert_allclose(facts["a"]["psnr_db"], 10 * np.log10(255**2 / squared.mean()))
  rival = facts["a"]["rivals"]["block_means"]
  by_hand = np.rint(frames[:, 7].reshape(6, 2, 4, 2, 4, 3).mean((2, 4))).repeat(4, 1).repeat(4, 2)
  squared = (frames[:, 7] - by_hand) ** 2
  np.testing.assert_allclose(rival["psnr_db"], 10 * np.log10(255**2 / squared.mean()))
  assert 0 < facts["a"]["ssim"] < 1 and facts["a"]["rivals"]["kmeans"].keys() == rival.keys()


def test_pixels_of_clips_of_another_length_are_refused(tmp_path, monkeypatch):
  """Latent frames are no frames: 15 frames of pixels are those of 5 latent ones."""
  tokenizer = brightness(CAUSAL)
  made = store(tmp_path / "tokens", tokenizer, clips(6, 15))
  monkeypatch.setattr(reconstructions.weights, "load", lambda path: tokenizer)
  for count in (15, 5):
    store(tmp_path / f"{count}", tokenizer, clips(6, count), pixels=True)
  found = reconstructions.plan({"a": made}, "x", {"a": str(tmp_path / "15")})
  assert found.originals["a"].manifest.frames == 15
  with pytest.raises(ValueError, match="has frames 5, and the token store 15"):
    reconstructions.plan({"a": made}, "x", {"a": str(tmp_path / "5")})


@pytest.mark.slow
def test_the_report_says_which_frames_it_counts(tmp_path, monkeypatch, capsys):
  for name, latents in (("a", CAUSAL), ("b", LatentSpec())):
    tokenizer = brightness(latents)
    monkeypatch.setattr(reconstructions.weights, "load", lambda path, made=tokenizer: made)
    store(tmp_path / f"{name} codes", tokenizer, clips(6, 17))
    store(tmp_path / f"{name} pixels", tokenizer, clips(6, 17), pixels=True)
    settings = dict(
      stores={"a": str(tmp_path / f"{name} codes")},
      tokenizer="x",
      pixels={"a": str(tmp_path / f"{name} pixels")},
      images=0,
      adjacency="raster",
    )
    config = roots.read({"run": "tokens_report", "tokens_report": settings})
    workdir = epath.Path(tmp_path / f"{name} run")
    assert tokens_report.run(config, workdir, NEVER)
    text = (workdir / "report.html").read_text()
    assert ("latent frames" in text) is (name == "a")
    for word in ("PSNR", "SSIM", "means of blocks", "k-means on patches"):
      assert word in text, word
    assert "means of blocks" in capsys.readouterr().out
    row = json.loads((workdir / "tokens.json").read_text())["stores"]["a"]
    assert row["ngrams"][0]["images"] == 6 * (5 if name == "a" else 17)


def test_a_first_latent_frame_is_compared_with_first_ones(tmp_path):
  """Equal codes of one frame, and of four; the control is a tokenizer of blocks."""
  for latents, matches in ((CAUSAL, 0), (LatentSpec(frame_factor=4, first_frames=4), 1)):
    tokenizer, where = brightness(latents), tmp_path / str(matches)
    frames = clips(2, 8)
    shared = np.full((4, 8, 8, 3), 77, np.uint8)
    train, held = frames[:1].copy(), frames[1:].copy()
    train[0, : latents.first_frames] = shared[: latents.first_frames]
    begin, stop = latents.span(1)
    held[0, begin:stop] = shared
    paths = [where / "train", where / "held"]
    for path, values in zip(paths, (train, held)):
      _named(store(path, tokenizer, values), path)
    settings = dict(train=[str(paths[0])], validation=[str(paths[1])], per="frame", fail=False)
    config = roots.read({"run": "leakage", "leakage": settings})
    assert leakage.run(config, epath.Path(where / "out"), NEVER)
    rows = (where / "out" / "leakage.csv").read_text().splitlines()[1:]
    assert len([row for row in rows if row.startswith("frame")]) == matches


def _named(made, path):
  """The same store with the folder's name before its ids."""
  values = made.read(np.arange(len(made)))["codes"]
  head = dataclasses.replace(made.manifest, shards=(), cursor=None, complete=False)
  for file in sorted(path.rglob("*"), reverse=True):
    file.rmdir() if file.is_dir() else file.unlink()
  writer = shards.Writer(path, head)
  ids = [f"{path.name}/{i}" for i in range(len(values))]
  writer.append({"codes": values}, labels=None, ids=ids, cursor=len(ids))
  writer.close()


@pytest.mark.parametrize(
  "latents, latent, codes, second",
  [
    # 17 frames with a stride of 4 of 128 pixels: 16 x 16 places, 7.5 frames a second.
    (LatentSpec(), 17, 1, 7.5 * 256),
    (CAUSAL, 5, 1, 7.5 / 4 * 256),
    (TWO, 17, 2, 7.5 * 256 * 2),
    (LatentSpec(3, 4, 4), 5, 3, 7.5 / 4 * 256 * 3),
  ],
)
def test_a_plan_is_of_latent_frames(latents, latent, codes, second):
  c = recipes.tokenize()
  c.plan.update(hours=1.0, videos=1000)
  c.clip.frames = 17
  shipped = weights.load("shipped")
  tokenizer = dataclasses.replace(shipped, factor=8, macs=lambda px: 10**9, latents=latents)
  (row,) = plan.without_source(roots.read(c.to_dict()), tokenizer)
  assert (row.frames, row.latent_frames) == (17_000, latent * 1000)
  assert row.tokens == latent * 1000 * 256 * codes and row.store_bytes == 2 * row.tokens
  assert row.flops == 2e9 * tokenizer.passes * latent * 1000
  assert row.tokens_per_s == second
  assert (row.tokens_every_frame, row.tokens_strided) == (
    pytest.approx(4 * 3600 * second, rel=1e-12),
    pytest.approx(3600 * second, rel=1e-12),
  )


SPEC = sequence.SequenceSpec(vocab=8, grid=2, frames=3, context=24, codes=2, frame_factor=4)


def test_losses_name_latent_frames_and_codes(tmp_path):
  """3 latent frames of 2 x 2 places of 2 codes; each target costs 100 frame + code nats."""
  frame_T, code_T = np.arange(24) // 8, np.arange(24) % 2
  nll_BT = np.tile(100.0 * frame_T + code_T, (2, 1)).astype(np.float32)
  sums = val_loss.batch_sums(
    jnp.asarray(nll_BT), jnp.ones((2, 24), bool), frame_tokens=SPEC.frame_tokens
  )
  losses = {"a": val_loss.PositionLoss.total([sums])}
  loss_tables.write(tmp_path, losses, SPEC)
  read = lambda name: list(csv.DictReader((tmp_path / f"{name}_loss.csv").open()))
  frames = [
    (r["frame"], r["first_frame"], r["last_frame"], float(r["mean"])) for r in read("frame")
  ]
  assert frames == [("0", "0", "0", 0.5), ("1", "1", "4", 100.5), ("2", "5", "8", 200.5)]
  assert [(r["code"], float(r["mean"])) for r in read("code")] == [("0", 100.0), ("1", 101.0)]
  place = read("position")[21]  # 2 x 8 + (1 x 2 + 0) x 2 + 1
  assert [place[k] for k in ("frame", "row", "col", "code")] == ["2", "1", "0", "1"]
  np.testing.assert_allclose(losses["a"].mean(first_frame=1)[0], 150.5)
  plain = dataclasses.replace(SPEC, frame_factor=1, codes=1, frames=6)
  (tmp_path / "plain").mkdir()
  loss_tables.write(tmp_path / "plain", losses, plain)  # the control
  assert (tmp_path / "plain" / "frame_loss.csv").read_text().startswith("source,frame,mean,sem,n")
  assert not (tmp_path / "plain" / "code_loss.csv").exists()
  folder = reading.RunFolder(tmp_path)
  assert plots.latent_lengths(folder.table("frame_loss.csv")) == [1, 4, 4]
  assert plots.latent_lengths(folder.table("plain/frame_loss.csv")) is None


def test_baselines_are_of_each_code_of_a_place():
  """The second code is known from its own past alone, and never mixed with the first."""
  rng = np.random.default_rng(0)
  first = rng.integers(0, 4, (300, 3, 4))
  second = np.broadcast_to(4 + rng.integers(0, 2, (300, 1, 4)), (300, 3, 4))  # never changes
  both = np.stack([first, second], -1).reshape(300, 3, 8)
  found = baselines.evaluate(both[:200], both[200:], vocab=6, codes=2)
  assert found["unigram/loss"] == pytest.approx((np.log(4) + np.log(2)) / 2, rel=0.01)
  # On later latent frames copying knows the second code, and half of all tokens is free.
  assert found["copy/later_loss"] == pytest.approx(np.log(4) / 2, rel=0.02)
  assert found["copy/loss"] == pytest.approx((np.log(2) / 3 + np.log(4)) / 2, rel=0.02)
  parts = [baselines.evaluate(p[:200], p[200:], vocab=6) for p in (first, second)]
  for key in ("unigram/later_loss", "neighbours/loss", "copy_per_code/loss", "copy/lam"):
    np.testing.assert_allclose(found[key], np.mean([part[key] for part in parts]), rtol=1e-12)
  # The control: read as one code of a place, what comes of both is dearer.
  mixed = baselines.evaluate(both[:200, :, :4], both[200:, :, :4], vocab=6)
  assert mixed["copy/later_loss"] > found["copy/later_loss"] * 1.2


def test_a_verdict_says_latent_frames():
  numbers = {"a/loss": 2.0, "a/later_loss": 1.0, "a/unigram/loss": 3.0, "a/unigram/later_loss": 3.0}
  numbers |= {"a/copy/loss": 2.0, "a/copy/later_loss": 2.0}
  plain, temporal_ = (verdict.judge(m, "a") for m in (numbers, numbers | {"frame_factor": 4}))
  assert temporal_.scope.startswith("Latent frames 2 and later")
  assert "copying the previous latent frame" in temporal_.claim
  assert "On latent frames 2 and later" in temporal_.detail
  assert "atent" not in str(plain) and "copying the previous frame" in plain.claim


@pytest.mark.parametrize("latents", [CAUSAL, BLOCKS])
def test_tokens_of_a_chain_are_shown_with_their_clips(tmp_path, monkeypatch, latents):
  """The frames that are shown are decoded from codes of the whole clip."""
  tokenizer = brightness(latents, vocab=256)
  monkeypatch.setattr(weights, "load", lambda path: tokenizer)
  frames = {split: clips(5, 9) // (1 + (split == "val")) for split in jobs_shards.SPLITS}
  for split, values in frames.items():
    store(tmp_path / "clips" / split, tokenizer, values, pixels=True)
  settings = dict(
    pixels=str(tmp_path / "clips"),
    tokenizer="x",
    every=1,
    records=2,
    records_per_shard=4,
    report_frames=10,  # frames 0 and 8 of each
    kmeans_frames=10,
    kmeans_patches=100,
  )
  config = roots.read({"run": "shards", "seed": 0, "tokenizing": settings})
  workdir = epath.Path(tmp_path / "shards")
  assert jobs_shards.run(config, workdir, NEVER)
  made = store_lib.open_store(workdir / "val", tokenizer=None, vocab=None, grid=None)
  assert made.manifest.latents == latents and made.manifest.pixel_frames == 9
  whole = api.decode_clips(
    tokenizer, made.read(range(5))["codes"].reshape(5, *made.manifest.code_shape)
  )
  shown = np.concatenate(whole[:, [0, 8]])
  facts = json.loads((workdir / "tokens.json").read_text())
  assert (facts["images"], facts["frame_factor"]) == (5 * 3, 4)
  assert facts["ngrams"][0]["total"] == 5 * 3 * 4 * latents.codes
  original = np.concatenate(frames["val"][:, [0, 8]])
  psnr = 10 * np.log10(255**2 / ((original - shown.astype(float)) ** 2).mean())
  np.testing.assert_allclose(facts["psnr_db"]["reconstruction"], psnr)
  assert facts["ssim"].keys() == facts["psnr_db"].keys()


def test_an_image_has_one_latent_frame_in_the_plan():
  c = recipes.tokenize()
  c.plan.update(images=10)
  tokenizer = dataclasses.replace(weights.load("shipped"), factor=8, latents=CAUSAL)
  (row,) = plan.without_source(roots.read(c.to_dict()), tokenizer)
  assert (row.frames, row.latent_frames, row.tokens) == (10, 10, 2560)
