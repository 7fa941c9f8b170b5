"""The report of a made-up chain: its numbers, and what it says of gaps."""

import json
import shutil

import fake_chain
import numpy as np
import pages
import pytest

from totojax.report import frame, kinds, model_sections, paper, plots, reading, report, verdict


@pytest.fixture(scope="module", name="chain")
def _chain(tmp_path_factory):
  return fake_chain.write(tmp_path_factory.mktemp("made") / "demo")


@pytest.fixture(name="copy")
def _copy(chain, tmp_path):
  return shutil.copytree(chain, tmp_path / "demo")


@pytest.fixture(name="undrawn")
def _undrawn(monkeypatch):
  """Pages without their figures: the captions do where text is looked at."""
  monkeypatch.setattr(plots, "_svg", lambda *_, **__: "<svg></svg>")
  monkeypatch.setattr(plots, "_legend", lambda *_: "")


def _read(chain):
  return pages.Page(fake_chain.page(chain).read_text())


def test_numbers_and_sections_appear(chain):
  page = _read(chain)
  for words in (
    "The model beats copying the previous frame.",
    "1.532",
    "2.064",
    "2.107",
    "5.029",
    "5.545",  # frames 2 and later
    "1.7123 ± 0.0211",
    "2.4719 ± 0.0200",  # the table, all frames
    "without a network (copy, rate by code) needs 2.064",
    "0.532 nats less",
    "26%",
    "1.34 M",
    "300",
    "614 k",
    "1,500",
    "256",  # model and data
    "code frequencies 5.03",
    "copy 2.43",  # in the figure
    "24.6 dB",
    "20.1 dB",
    "15.2 dB",
    "4.5 dB better",
    "187 of 256 codes",
    "148.4",
    "2-grams",
    "49.00%",
    "a, <b>.mp4",
    "too short: 1.63 s",
    "3 min 16 s",
    "6.54 k",
    "1.2%",  # times
    "1,337,216",
    "0.10.3",
    "3 x cpu",
    "9.12 M",
    "train.batch_tokens",
    "2048",
  ):
    assert words in page.text, words
  assert "Not shown" not in page.text
  assert page.tags.count("figure") == 3 + 2 + 1  # curves, halves, pictures
  assert page.tags.count("img") == 4 * 8


def test_the_first_figure_is_a_file_too(chain, copy, tmp_path):
  report.write_figure(chain, tmp_path)
  png = (tmp_path / "loss.png").read_bytes()
  assert png.startswith(b"\x89PNG") and 10_000 < len(png) < 200_000
  (tmp_path / "loss.png").unlink()
  (copy / "pretrain" / "metrics.jsonl").unlink()
  report.write_figure(copy, tmp_path)
  assert not (tmp_path / "loss.png").exists()


def test_the_page_needs_nothing_else(chain):
  page = _read(chain)
  assert all(x.startswith(("data:image/png", "#")) for x in page.loads)
  assert all(
    x.startswith(("#", "data:text/csv;base64,", paper.ADDRESS, paper.PDF)) for x in page.links
  )
  assert "script" not in page.tags  # the config's <script> is text
  assert "<script>alert(1)</script>" in page.text
  assert len(page.ids) == len(set(page.ids))
  source = (chain / "report" / "report.html").read_text()
  assert "url(http" not in source and "@import" not in source
  # Figures follow the page's colours: nothing is left of the stand-ins.
  assert "var(--ink)" in source
  assert not any(mark in source for mark in plots._VARIABLES)


def test_the_foot_says_what_the_run_was(copy, undrawn):
  del undrawn
  words = (
    "totojax --config=b.py",  # of the last start
    "totojax 0.0.7",
    "commit 0123456789ab ",
    "with changes that were not committed",
    "begun 2025-01-31 13:05 UTC",
    "started 3 times, the last time 2025-02-01 15:07 UTC",
    "Abacus 9 · 12 cores · Linux x86_64 · 3 x cpu",
    "Python 3.11.8 · jax 0.10.3",
  )
  text = _read(copy).text
  for said in words:
    assert said in text, said
  # What the manifest does not hold, as in runs of before, is left out.
  old = {"versions": {"jax": "0.10.3"}, "devices": {"kind": "cpu", "count": 3}}
  (copy / "manifest.json").write_text(json.dumps(old))
  text = _read(copy).text
  assert not any(said in text for said in words)
  assert "3 x cpu" in text and "jax 0.10.3" in text
  assert "Not shown" not in text
  clean = fake_chain.MANIFEST["git"] | {"clean": True}
  old |= {"git": clean}
  (copy / "manifest.json").write_text(json.dumps(old))
  text = _read(copy).text
  assert "commit 0123456789ab" in text and "not committed" not in text
  (copy / "manifest.json").write_text("{")
  assert "manifest.json cannot be read" in _read(copy).text
  (copy / "manifest.json").unlink()
  assert "Not shown" not in _read(copy).text


def test_same_files_same_page(chain):
  first = fake_chain.page(chain).read_text()
  assert first == fake_chain.page(chain).read_text()


@pytest.mark.parametrize(
  "name, gone, stays",
  [
    ("validate/metrics.json", "The model beats", "24.6 dB"),
    ("pretrain/metrics.jsonl", "Cross-entropy", "1.7123"),
    ("validate/position_loss.csv", "thick lines", "By frame"),
    ("validate/frame_loss.csv", "By frame", "By row"),
    ("shards/samples.npz", "Held-out frames", "187 of 256"),
    ("shards/tokens.json", "187 of 256", "Held-out frames"),
    ("pretrain/manifest.json", "1,337,216", "Cross-entropy"),
    ("clips/config.json", None, "Cross-entropy"),
  ],
)
def test_a_missing_or_damaged_file_costs_its_section(copy, name, gone, stays, undrawn):
  del undrawn
  whole = (copy / name).read_bytes()
  cut = b"\xff" if name.endswith(".csv") else whole[: len(whole) // 3]
  for damage in (None, cut):
    if damage is None:
      (copy / name).unlink()
    elif not name.endswith(".jsonl"):  # of which whole lines are still good
      (copy / name).write_bytes(damage)
    text = _read(copy).text
    assert name in text
    assert stays in text
    if gone:
      assert gone not in text


def test_an_empty_chain_still_gives_a_page(tmp_path):
  (tmp_path / "demo").mkdir()
  folder = reading.RunFolder(tmp_path / "demo")
  path = frame.write(tmp_path / "page", kinds.chain(folder), run=folder.path)
  text = pages.Page(path.read_text()).text
  assert text.count("Not shown") >= 8 and "Reconstructions" not in text
  assert "validate/metrics.json is missing" in text


def test_other_formats_are_said_and_not_fatal(copy, undrawn):
  del undrawn
  (copy / "shards" / "tokens.json").write_text('{"vocab": "many"}')
  text = _read(copy).text
  assert "have another format (KeyError: 'codes_used')" in text
  assert "1.7123" in text


def _metrics(**changes):
  base = {
    "a/loss": 2.0,
    "a/loss_sem": 0.01,
    "a/later_loss": 1.5,
    "a/unigram/loss": 5.0,
    "a/unigram/loss_sem": 0.01,
    "a/unigram/later_loss": 5.0,
    "a/unigram/later_loss_sem": 0.01,
    "a/copy/loss": 2.2,
    "a/copy/loss_sem": 0.01,
    "a/copy/later_loss": 1.8,
    "a/copy/later_loss_sem": 0.01,
  }
  return {**base, **{k.replace("__", "/"): v for k, v in changes.items()}}


@pytest.mark.parametrize(
  "changes, better, words",
  [
    ({}, True, "beats copying the previous frame"),
    # Far below the unigram on all tokens, and no better than a copy.
    ({"a__later_loss": 1.9}, False, "does not beat copying"),
    ({"a__later_loss": 1.79}, None, "about level with copying"),
    ({"a__copy__later_loss_sem": 0.2}, None, "about level"),
  ],
)
def test_the_verdict_follows_the_numbers(changes, better, words):
  found = verdict.judge(_metrics(**changes), "a")
  assert found.better is better and words in found.claim


@pytest.mark.parametrize(
  "tokenizer, kmeans, words",
  [
    (24.6, 20.1, "are 4.5 dB better than k-means on patches."),
    (16.8, 17.2, "are 0.4 dB worse than k-means on patches, which is fitted to these videos."),
    # Frames of flat colour: k-means has no error at all.
    (16.8, float("inf"), "are worse than k-means on patches, which is fitted"),
    (float("inf"), float("inf"), "are as good as those of k-means on patches."),
  ],
)
def test_the_tokenizer_is_judged_by_decibels(copy, undrawn, tokenizer, kmeans, words):
  del undrawn
  path = copy / "shards" / "tokens.json"
  tokens = json.loads(path.read_text())
  tokens["psnr_db"] |= {"reconstruction": tokenizer, "kmeans": kmeans}
  path.write_text(json.dumps(tokens))
  text = _read(copy).text
  assert words in text
  assert "nan" not in text and "inf dB" not in text
  assert ("configs/official.py" in text) == (tokenizer < kmeans)


def test_a_model_that_is_no_better_says_why_and_what_to_do(copy, undrawn):
  """From the files alone: few videos, and a held-out loss that rose."""
  del undrawn
  clips = {"crops": 32, "info": {"clip": {}, "items": 8}}
  for split, videos in (("train", 6), ("val", 2)):
    manifest = clips | {"shards": [{"records": 32 * videos}]}
    (copy / "clips" / split / "manifest.json").write_text(json.dumps(manifest))
  path = copy / "validate" / "metrics.json"
  numbers = {"moving/loss": 5.3, "moving/later_loss": 5.2, "moving/training/loss": 5.1}
  path.write_text(json.dumps(json.loads(path.read_text()) | numbers | {"step": 50}))
  config = json.loads((copy / "pretrain" / "config.json").read_text())
  data = {"train": {"moving": {"path": "x", "weight": 1.0}}}
  (copy / "pretrain" / "config.json").write_text(json.dumps(config | {"data": data}))
  rows = [{"step": s, "kind": "train", "loss": 2.5} for s in range(10, 151, 10)]
  rows += [
    {"step": s, "kind": "eval", "moving/loss": x, "moving/loss_sem": 0.02}
    for s, x in ((0, 6.2), (50, 5.3), (100, 5.5), (150, 5.8))
  ]
  (copy / "pretrain" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  text = _read(copy).text
  for words in (
    "6 training videos: training loss 2.5, held out 5.8: the model has learned them by heart.",
    "lowest after update 50 (5.30): that checkpoint was kept",
    "come from 2 videos",
    "What to do next",
    "More videos",
    f"totojax --config=b.py --workdir={copy}-more",  # of the last start
  ):
    assert words in text, words
  # Control: one that beats copying needs none of it.
  better = {"moving/loss": 1.7, "moving/later_loss": 1.5}
  path.write_text(json.dumps(json.loads(path.read_text()) | better))
  text = _read(copy).text
  assert "The model beats copying" in text and "What to do next" not in text


def test_the_verdict_on_images_and_without_baselines():
  images = {k: v for k, v in _metrics().items() if "cop" not in k}
  found = verdict.judge(images, "a")
  assert found.claim == "The model beats code frequencies."
  assert found.losses[verdict.MODEL] == 2.0
  alone = verdict.judge({"a/loss": 2.0, "b/loss": 3.0}, "b")
  assert alone.better is None and "3.000" in alone.claim
  assert list(verdict.sources({"step": 1, "a/loss": 2.0, "b/loss": 1})) == ["a", "b"]


def test_an_unknown_standard_error_is_said(copy, undrawn):
  del undrawn
  path = copy / "validate" / "metrics.json"
  metrics = json.loads(path.read_text())
  kept = {k: v for k, v in metrics.items() if not k.endswith("_sem")}
  path.write_text(json.dumps(kept | {"moving/copy/loss_sem": float("nan")}))
  text = _read(copy).text
  assert "standard error of the difference unknown" in text and "(interval unknown)" in text


def test_a_diverged_run_can_be_shown(copy):
  path = copy / "pretrain" / "metrics.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows[20:]:
    row.update({k: None for k in row if k.endswith("loss")})
  text = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_text(text + '{"step": 305, "kind": "tr')  # cut in the middle
  assert "Cross-entropy" in _read(copy).text


def test_figure_10_as_a_picture(copy, tmp_path):
  plots.position_figure(copy / "validate")
  picture = (copy / "validate" / "position_loss.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  with pytest.raises(reading.Missing, match="position_loss.csv is missing"):
    plots.position_figure(tmp_path)


def test_figure_10_draws_the_means_of_frames(chain):
  table = reading.RunFolder(chain).table("validate/position_loss.csv")
  figure = plots._render(plots.by_position(table), plots.WIDE, plots.PAPER)
  thick = [line for line in figure.axes[0].lines if line.get_lw() == 2]
  assert len(thick) == fake_chain.FRAMES
  t = table["moving"]
  for number, line in enumerate(thick):
    want = t["mean"][t["frame"] == number].mean()
    np.testing.assert_allclose(line.get_ydata(), want)


def test_one_sequence_has_no_interval():
  row = {"a/loss": 8.25, "a/loss_sem": 0.0, "a/n": 1.0}
  assert model_sections.interval(row, "a") == verdict.UNKNOWN
  row = {"a/loss": 8.0, "a/loss_sem": 0.5, "a/n": 2.0}
  assert model_sections.interval(row, "a") == "95 % from 7.020 to 8.980, 2 sequences"
