"""The job that says what is in stores of tokens."""

import collections
import csv
import json
import math
import re
import types

import numpy as np
import pytest
from scipy import stats as scipy_stats
import token_reports
import token_sets

from totojax.config.model import EACH_FRAME
from totojax.config.schema import ConfigError
from totojax.data.store import shards, store as store_lib
from totojax.evals import reconstructions, token_counts
from totojax.report import paper, reading

FILES = (
  "tokens.json",
  "ngrams.csv",
  "sources.csv",
  "rank_frequency.csv",
  "rank_frequency_1.png",
  "rank_frequency_2.png",
  "rank_frequency_3.png",
  "report.html",
)


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory):
  return token_reports.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", name="done")
def _done(data, tmp_path_factory):
  """The directory of a finished run."""
  workdir = tmp_path_factory.mktemp("runs") / "tokens"
  assert token_reports.run(token_reports.config(data), workdir)
  return workdir


def _codes(data, name):
  store = store_lib.open_store(data / name, tokenizer=None, vocab=None, grid=None)
  return store.read(np.arange(len(store)))["codes"].reshape(-1, 2, 2)


def _rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def _expected(codes, n):
  grams = collections.Counter()
  for image in codes.reshape(len(codes), -1).tolist():
    grams.update(zip(*(image[k:] for k in range(n))))
  return sorted(grams.values(), reverse=True)


def test_every_file_is_there(done):
  for name in FILES:
    assert (done / name).stat().st_size > 0, name
  for n in (1, 2, 3):
    png = (done / f"rank_frequency_{n}.png").read_bytes()
    assert png.startswith(b"\x89PNG")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_equal_a_counter(data, done, n):
  """Of each store, and of those of one tokenizer together."""
  rows = [r for r in _rows(done / "ngrams.csv") if r["n"] == str(n)]
  rows = {row["source"]: row for row in rows}
  assert list(rows) == ["clips", "more", "stills", "clips + more"]
  facts = json.loads((done / "tokens.json").read_text())
  for name, row in rows.items():
    codes = np.concatenate([_codes(data, k) for k in name.split(" + ")])
    counts = _expected(codes, n)
    vocab = 100 if name == "stills" else 64
    assert int(row["total"]) == sum(counts)
    assert int(row["distinct"]) == len(counts)
    assert int(row["images"]) == len(codes)
    for key, want in (
      ("entropy_nats", scipy_stats.entropy(counts)),
      ("entropy_bits", scipy_stats.entropy(counts, base=2)),
      ("perplexity", math.exp(scipy_stats.entropy(counts))),
      ("space_coverage", len(counts) / vocab**n),
      ("total_coverage", len(counts) / sum(counts)),
    ):
      np.testing.assert_allclose(float(row[key]), want, err_msg=key)
    if name in facts["stores"]:
      assert facts["stores"][name]["ngrams"][n - 1]["distinct"] == len(counts)
      curve = [
        int(r["count"])
        for r in _rows(done / "rank_frequency.csv")
        if (r["source"], r["n"]) == (name, str(n))
        for _ in range(int(r["first_rank"]), int(r["last_rank"]) + 1)
      ]
      assert curve == counts


def test_the_two_countings_of_tokens(done):
  """12 records of 4 frames, one in 4 at 30 a second, are 6.4 seconds."""
  rows = {row["source"]: row for row in _rows(done / "sources.csv")}
  clips = rows["clips"]
  assert (clips["records"], clips["frames"], clips["tokens"]) == ("12", "48", "192")
  np.testing.assert_allclose(float(clips["hours"]), 6.4 / 3600)
  assert int(clips["tokens_30fps"]) == 6.4 * 30 * 4 == 4 * 192
  assert rows["stills"]["hours"] == ""
  assert rows["stills"]["tokens"] == rows["stills"]["tokens_30fps"] == "80"
  own = [row for row in rows.values() if row["origin"] == "counted"]
  np.testing.assert_allclose(sum(float(row["share"]) for row in own), 1)
  assert rows["Ego4D"]["origin"] == "paper, Table 2"
  assert rows["Ego4D"]["tokens"] == ""  # the paper's are counted at 30 fps
  assert rows["Ego4D"]["tokens_30fps"] == "103000000000"


def test_another_frame_rate_gives_the_same_hours(data, tmp_path):
  """Every frame at 15 a second is as long as every second one at 30."""
  slow = token_sets.write(tmp_path / "a", 3, stride_frames=1, fps=15.0)
  fast = token_sets.write(tmp_path / "b", 3, stride_frames=2, fps=30.0)
  slow, fast = token_counts.describe(slow), token_counts.describe(fast)
  assert slow["hours"] == fast["hours"] == 12 / 15 / 3600
  assert slow["tokens_30fps"] == fast["tokens_30fps"] == 2 * slow["tokens"]


def test_the_papers_tokens_are_its_hours_at_30_frames_a_second():
  for row in paper.SOURCES:
    if row.hours is not None:
      np.testing.assert_allclose(
        row.hours * 3600 * token_counts.PAPER_FPS * 256, row.tokens, rtol=0.01
      )


def test_rare_codes():
  got = token_counts.rare(np.array([5, 0, 2, 9, 0, 1]))
  assert got["never"] == 2 and got["never_first"] == [1, 4]
  assert got["rarest"] == [[5, 1], [2, 2], [0, 5], [3, 9]]


def _store(path, codes):
  writer = shards.Writer(path, token_sets.manifest(labels=False, ids=False))
  writer.append({"codes": codes}, labels=None, ids=None, cursor=len(codes))
  writer.close()
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def test_use_equals_a_counter(tmp_path, capsys):
  codes = np.random.default_rng(0).integers(0, 40, (50, 16))
  codes[[3, 30]] = 7  # two records of a single code, of 50
  use = token_counts.tell_use("mine", _store(tmp_path / "a", codes))
  counter = collections.Counter(codes.reshape(-1).tolist())
  shares = np.array(list(counter.values())) / codes.size
  assert (use.records, use.tokens, use.codes_used) == (50, 800, len(counter))
  assert use.perplexity == pytest.approx(np.exp(scipy_stats.entropy(shares)), rel=1e-12)
  assert use.commonest == counter.most_common(1)[0][1] / 800
  assert use.single == 2 / 50
  assert not use.collapse() and "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
  "spoil, told",
  [
    (lambda codes: codes * (np.arange(16) % 2), "one code is 51% of all tokens"),
    (lambda codes: np.where(np.arange(50)[:, None] < 3, 9, codes), "6.0% of the records are a"),
    (lambda codes: codes * 0, "a perplexity of 1.0 is 1.6% of 64"),
  ],
)
def test_a_collapse_is_told(tmp_path, capsys, spoil, told):
  codes = np.random.default_rng(0).integers(0, 40, (50, 16))
  token_counts.tell_use("mine", _store(tmp_path / "a", spoil(codes)))
  assert re.search(f"WARNING: mine: .*{told}", capsys.readouterr().out)


@pytest.mark.parametrize("images", [1, 7, 24, 48])
def test_images_are_spread_evenly(data, images, monkeypatch):
  monkeypatch.setattr(token_counts, "READ_TOKENS", 80)  # 5 images at a time
  store = store_lib.open_store(data / "clips", tokenizer=None, vocab=None, grid=None)
  got = np.concatenate(list(token_counts.sampled(store, images)))
  all_M = {image.tobytes(): i for i, image in enumerate(_codes(data, "clips"))}
  places = [all_M[image.tobytes()] for image in got]
  assert len(places) == images and places == sorted(set(places))
  if images > 1:
    assert (places[0], places[-1]) == (0, 47)
    steps = np.diff(places)
    assert steps.max() - steps.min() <= 1


def test_fewer_images_are_counted_for_pairs_but_not_for_codes(data, tmp_path):
  config = token_reports.config(data, images=10)
  assert token_reports.run(config, tmp_path / "run")
  facts = json.loads((tmp_path / "run" / "tokens.json").read_text())
  for name, frames in (("clips", 48), ("more", 20), ("stills", 20)):
    one, two, three = facts["stores"][name]["ngrams"]
    assert one["total"] == 4 * frames
    assert (two["total"], three["total"]) == (10 * 3, 10 * 2)
  together = facts["tokenizers"][token_reports.MINE]["ngrams"]
  assert [row["images"] for row in together] == [68, 20, 20]


def test_a_killed_count_goes_on_and_gives_the_same(data, done, tmp_path, monkeypatch):
  monkeypatch.setattr(token_counts, "READ_TOKENS", 64)  # 4 records at a time
  workdir, config = tmp_path / "run", token_reports.config(data)
  read = []
  for stop in (4, 8, 17, 10**9):
    seen = []

    def interrupted(at, stop=stop, seen=seen):
      seen.append(at)
      return at >= stop

    whole = token_reports.run(config, workdir, interrupted)
    assert whole is (stop == 10**9)
    read.append(seen)
    assert (workdir / "tokens.json").exists() is (stop == 10**9)
  assert [seen[0] for seen in read] == [0, 4, 8, 17]  # nothing is read twice
  for name in ("tokens.json", "ngrams.csv", "rank_frequency.csv"):
    assert (workdir / name).read_text() == (done / name).read_text()


def test_a_crash_loses_little(data, tmp_path, monkeypatch):
  monkeypatch.setattr(token_counts, "READ_TOKENS", 64)
  monkeypatch.setattr(token_counts, "SAVE_EVERY_S", -1.0)
  config = token_reports.config(data)

  def crash(at):
    if at >= 8:
      raise KeyboardInterrupt
    return False

  with pytest.raises(KeyboardInterrupt):
    token_reports.run(config, tmp_path / "run", crash)
  seen = []
  stop = lambda at: not seen.append(at)
  assert not token_reports.run(config, tmp_path / "run", stop)
  assert seen == [8]


def test_a_changed_store_is_counted_again(data, tmp_path):
  path, workdir = tmp_path / "store", tmp_path / "run"
  config = token_reports.config(data, stores={"a": str(path)})
  totals = []
  for records in (6, 9):
    token_sets.write(path, records, salt=records)
    assert token_reports.run(config, workdir)
    facts = json.loads((workdir / "tokens.json").read_text())
    totals.append(facts["stores"]["a"]["ngrams"][0]["total"])
    for file in sorted(path.rglob("*"), reverse=True):
      file.rmdir() if file.is_dir() else file.unlink()
  assert totals == [6 * 16, 9 * 16]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"stores": {}}, "stores is empty"),
    ({"stores": "here"}, "stores is 'here'; it must be a section with nam"),
    ({"pixels": {"clip": "x"}}, r"\['clip'\].*'clips', 'more', 'stills'"),
    ({"pixels": {"clips": "x"}}, "need a tokenizer"),
    ({"images": -1}, "images is -1; it must be at least 0"),
    ({"images": 2.5}, "must be int"),
    ({"adjacency": "column"}, "'raster' or 'row'"),
    ({"stores": {"a": "nowhere"}}, "nowhere/manifest.json does not exist"),
  ],
)
def test_mistakes_are_said_before_anything_is_written(data, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    token_reports.run(token_reports.config(data, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_pixel_store_among_the_token_stores(data, tmp_path):
  config = token_reports.config(data, stores={"a": str(data / "pixels")})
  with pytest.raises(ValueError, match="stores.a: .* is a pixel store"):
    token_reports.run(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_refused(data, tmp_path):
  with pytest.raises(ConfigError, match="did you mean"):
    token_reports.run(token_reports.config(data, image=3), tmp_path)


@pytest.fixture(name="decoder")
def _decoder(monkeypatch):
  """A tokenizer whose every code is a grey of its number, 8 pixels wide."""

  def decode(codes_NGG):
    grey = codes_NGG.astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return np.repeat(grey[..., None], 3, axis=-1)

  made = types.SimpleNamespace(
    vocab=64, factor=8, fingerprint=token_reports.MINE, decode=decode, latents=EACH_FRAME
  )
  monkeypatch.setattr(reconstructions.weights, "load", lambda path: made)


def test_reconstructions_and_psnr(data, tmp_path, decoder):
  del decoder
  config = token_reports.config(data, tokenizer="some file", pixels={"clips": str(data / "pixels")})
  assert token_reports.run(config, tmp_path / "run")
  facts = json.loads((tmp_path / "run" / "tokens.json").read_text())
  assert facts["decoder"] == token_reports.MINE
  assert list(facts["reconstructions"]) == ["clips", "more"]  # not stills
  arrays = reading.RunFolder(tmp_path / "run").arrays("samples.npz")
  assert sorted(arrays) == ["clips/original", "clips/reconstruction", "more/reconstruction"]
  # Originals of record r are grey r; codes of its third frame are 0, r, 0, 2.
  record_R = np.arange(token_reports.ROOM)
  codes = np.stack([0 * record_R, record_R, 0 * record_R, 0 * record_R + 2], axis=1)
  mse = ((codes - record_R[:, None]) ** 2.0).mean()
  np.testing.assert_allclose(
    facts["reconstructions"]["clips"]["psnr_db"], 10 * math.log10(255**2 / mse)
  )
  # An image of one grey is its own mean, and so are the patches of twelve of them.
  for rival in facts["reconstructions"]["clips"]["rivals"].values():
    assert rival == {"psnr_db": None, "ssim": 1.0}
  assert facts["reconstructions"]["more"]["psnr_db"] is None
  shown = np.linspace(0, token_reports.ROOM - 1, 8).astype(int)
  assert arrays["clips/original"][:, 0, 0, 0].tolist() == shown.tolist()
  assert arrays["clips/reconstruction"][:, 0, 8, 0].tolist() == shown.tolist()


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"records": 11}, "records 11, .* 12"),
    ({"frames": 2}, "frames 2, .* 4"),
    ({"size_px": 8}, "size_px 8, .* 16"),
    ({"prefix": "others"}, "ids .*others/0"),
  ],
)
def test_pixels_of_something_else(data, tmp_path, decoder, changes, message):
  del decoder
  token_reports.pixels(tmp_path / "px", **changes)
  config = token_reports.config(data, tokenizer="some file", pixels={"clips": str(tmp_path / "px")})
  with pytest.raises(ValueError, match=message):
    token_reports.run(config, tmp_path / "run")


def test_a_tokenizer_that_made_no_store(data, tmp_path, decoder):
  del decoder
  config = token_reports.config(data, tokenizer="x", stores={"stills": str(data / "stills")})
  mine, other = token_reports.MINE, token_reports.OTHER
  with pytest.raises(ValueError, match=f"{mine}.*made by {other}"):
    token_reports.run(config, tmp_path / "run")
  config = token_reports.config(data, tokenizer="x", pixels={"stills": str(data / "pixels")})
  with pytest.raises(ValueError, match=f"did not make .{other}"):
    token_reports.run(config, tmp_path / "run")
  config = token_reports.config(data, tokenizer="x", pixels={"clips": str(data / "more")})
  with pytest.raises(ValueError, match="is a token store"):
    token_reports.run(config, tmp_path / "run")
