"""The model that ships: a run like any other, whose card says what it is."""

import dataclasses
import json
import pathlib

from etils import epath
import numpy as np
import probes
import pytest
import safetensors.numpy

import totojax
from totojax import jobs, sharding
from totojax.config import recipes
from totojax.config.schema import ConfigError
from totojax.jobs.generate import prompts
from totojax.rundir import directory
from totojax.tokenizers import weights
from totojax.trained import backbone, shipped

FOLDER = pathlib.Path(shipped.__file__).parent / "shipped"


@pytest.fixture(scope="module", name="cache")
def _cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder


def test_it_is_a_run_that_is_made_once(cache):
  run = backbone.find("shipped")
  assert cache in pathlib.Path(run.path).parents and directory.is_done(run.path)
  before = (pathlib.Path(run.path) / "manifest.json").stat().st_mtime_ns
  assert backbone.find("shipped").digest == run.digest
  assert (pathlib.Path(run.path) / "manifest.json").stat().st_mtime_ns == before
  params = backbone.read(run, run.model, sharding.layout(run.config.mesh))
  stored = safetensors.numpy.load((FOLDER / "model.safetensors").read_bytes())
  np.testing.assert_array_equal(
    params["embedding"][:516], stored["model.embed_tokens.weight"][:516]
  )


@pytest.mark.parametrize("name", ["shipped", "shipped-f8", "shipped-video"])
def test_tokenizers_of_the_package_are_found_for_a_run(cache, name):
  marked = dataclasses.replace(backbone.find("shipped"), tokenizer=weights.load(name).fingerprint)
  assert backbone.find_tokenizer(marked, "").fingerprint == marked.tokenizer
  other = dataclasses.replace(marked, tokenizer="0" * 16)
  with pytest.raises(ConfigError, match="none of those in the package"):
    backbone.find_tokenizer(other, "")


def test_tokens_of_another_tokenizer_are_refused_with_the_flags_that_make_its_own(cache, tmp_path):
  other = weights.load("shipped-f8")
  path = probes.write(
    tmp_path / "store", [0, 1], prefix="x", seed=0, tokenizer=other.fingerprint, vocab=other.vocab
  )
  flags = "configs/tokenize.py with --config.tokenizer=shipped --config.clip.size_px=32$"
  with pytest.raises(ConfigError, match=f"this run needs '36c7.* {flags}"):
    backbone.open_tokens(backbone.find("shipped"), path, "data.train")


def test_one_that_was_cut_is_made_again(cache, monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  with monkeypatch.context() as patch:
    patch.setattr("totojax.rundir.directory.mark_done", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      shipped.run()
  assert not list((tmp_path / "totojax/models").iterdir())
  with monkeypatch.context() as patch:
    patch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match="several processes cannot make it; on each host run"):
      shipped.run()
  assert directory.is_done(shipped.run())


def test_it_is_small_and_its_card_says_what_it_is():
  assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6e6
  card = (FOLDER / "README.md").read_text()
  for word in ("configs/shipped.py", "seed", "Nats per visual token", "tokenizer", "NASA", "CC0"):
    assert word in card, word
  facts = json.loads((FOLDER / "config.json").read_text())["totojax"]
  assert facts["tokenizer"][:16] in card
  assert f"| updates | {facts['step']:,} of" in card


def test_clips_are_drawn_where_none_is_named(cache):
  run = backbone.find("shipped")
  config = jobs.typed(recipes.generate("shipped").to_dict(), cache)
  amounts = prompts.Amounts.of(config, run)
  assert prompts.find(config, run, amounts, 32).drawn == 16
  model = totojax.load("shipped")
  first, second = (frames for _, frames in prompts.drawn(model, 4, 2, seed=1))
  assert first.shape == (4, 32, 32, 3) and (first != second).any()


@pytest.mark.slow
def test_the_first_picture_takes_one_command(cache, tmp_path):
  c = recipes.generate("shipped")
  c.prompt.clips, c.new_frames, c.output.codec = 4, 4, ""
  assert jobs.run(jobs.typed(c.to_dict(), tmp_path), epath.Path(tmp_path), lambda step: False)
  metrics = json.loads((tmp_path / "gen.json").read_text())["metrics"]
  assert metrics["model/loss"]["mean"] < min(4.0, metrics["copy/loss"]["mean"] - 1.0)
  assert metrics["copy/loss"]["mean"] < metrics["unigram/loss"]["mean"]
  assert (tmp_path / "report.html").exists()
