"""What stores decide of a config, and what is told where the two do not fit."""

import dataclasses
import json
import re

from etils import epath
import numpy as np
import pytest
import runs
import stores
import test_docs

from totojax import jobs
from totojax.config import arguments, named_stores, recipes, roots, training
from totojax.config.schema import ConfigError
from totojax.data.store import manifests, store as store_lib
from totojax.data.store.store import Store
from totojax.data.stream import mixture, rows
from totojax.jobs import fitting, pretrain, stores as stores_lib
from totojax.jobs.plan import job as plan

PRETRAIN = "configs/pretrain.py:tiny"


@pytest.mark.parametrize(
  "text, expected",
  [
    ("", {}),
    ("a:p", {"a": ("p", 1.0)}),
    ("a:p:0.3, b:q/r:2", {"a": ("p", 0.3), "b": ("q/r", 2.0)}),
    ("a:gs://b/c:2,d:s3://e/f", {"a": ("gs://b/c", 2.0), "d": ("s3://e/f", 1.0)}),
    ("gs://b/c:2", {"c": ("gs://b/c", 2.0)}),
    ("gs://b", {"b": ("gs://b", 1.0)}),
    ("/x/my.store/", {"my_store": ("/x/my.store/", 1.0)}),
    ("TOKENS/train", {"TOKENS": ("TOKENS/train", 1.0)}),
    ("train,./val", {"train": ("train", 1.0), "val": ("./val", 1.0)}),
  ],
)
def test_stores_of_a_flag(text, expected):
  found = named_stores.parse(text, key="data.train", weights=True)
  assert {name: (each["path"], each["weight"]) for name, each in found.items()} == expected
  if all(weight == 1.0 for _, weight in expected.values()):
    paths = named_stores.parse(text, key="data.validation", weights=False)
    assert paths == {name: path for name, (path, _) in expected.items()}


@pytest.mark.parametrize(
  "text, told",
  [
    ("a:p:0", "'a:p:0', whose weight is '0'"),
    ("a:p:-1", "whose weight is '-1'"),
    ("a:p:nan", "whose weight is 'nan'"),
    ("a:p:inf", "whose weight is 'inf'"),
    ("a:p:much", "whose weight is 'much'"),
    ("a:p:1:2", "'a:p:1:2'; write NAME:PATH:WEIGHT"),
    (":p", "':p'; write"),
    ("a:", "'a:'; write"),
    ("a:p,a:q", "names 'a' twice"),
    ("x/train,x/val", "names 'x' twice .*give each store a name"),
    ("my.name:p", "a store named 'my.name'; give it a name of letters"),
  ],
)
def test_a_store_of_another_form_is_one_line(text, told):
  with pytest.raises(ConfigError, match=f"^config key data.train .*{told}") as error:
    named_stores.parse(text, key="data.train", weights=True)
  assert "\n" not in str(error.value)


def test_flags_name_stores_in_any_config():
  words = ["--config.data.train=a:p:2", "--config.data.train=q", "--config.data.validation=a:v"]
  config, _ = arguments.read(["", f"--config={runs.ROOT}/configs/base.py", *words])
  typed = roots.read(config.to_dict())
  assert typed.data.train == {"a": training.Share("p", 2.0), "q": training.Share("q", 1.0)}
  assert typed.data.validation == {"a": "v"}
  with pytest.raises(ConfigError, match="held-out stores have no weight: NAME:PATH"):
    arguments.read(["", f"--config={PRETRAIN}", "--config.data.validation=a:v:1"])


def test_a_size_that_does_not_exist_lists_those_that_do():
  for size in ("small", "1b", "gpt2-tiny", "mamba-290m"):
    assert roots.read(recipes.own(size).to_dict()).from_stores
  for size in ("huge", "gpt2", "gpt2-base", ""):
    with pytest.raises(ConfigError, match="use one of base, large, 1b, .*small, .*mamba-290m"):
      recipes.own(size)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Stores of videos; `other` has another vocabulary, tokenizer and length."""
  root = tmp_path_factory.mktemp("fitting")
  stores.write(root / "train", records=96, seed=0, prefix="t")
  stores.write(root / "more", records=40, seed=2, prefix="m")
  stores.write(root / "val", records=8, seed=1, prefix="v")
  other = dict(frames=8, vocab=99, tokenizer="fedcba9876543210")
  stores.write(root / "other", records=4, seed=3, prefix="o", **other)
  manifest = manifests.existing(root / "train")
  manifests.save(root / "begun", dataclasses.replace(manifest, complete=False))
  manifests.save(root / "empty", dataclasses.replace(manifest, shards=()))
  pixels = dict(tokenizer="", vocab=0, grid=0)
  field = manifests.frame_field(frames=4, size_px=16)
  manifests.save(root / "pixels", dataclasses.replace(manifest, fields=(field,), **pixels))
  return root


def filled(data, train, *words, size="tiny", workdir="/nowhere"):
  """The config of a command, as its job gets it."""
  named = ",".join(f"{part.partition(':')[0]}:{data}/{part}" for part in train.split())
  words = [f"--config.data.train={named}", *words]
  config, _ = arguments.read(["", f"--config={runs.ROOT}/configs/pretrain.py:{size}", *words])
  return jobs.typed(config.to_dict(), workdir)


def test_the_sequence_is_the_stores(data):
  config = filled(data, "train more", f"--config.data.validation={data}/val")
  spec = config.sequence
  assert (spec.vocab, spec.grid, spec.frames, spec.context) == (60, 2, 4, 16)
  assert config.from_stores is None
  assert (filled(data, "other").sequence.vocab, filled(data, "other").sequence.context) == (99, 32)
  given = filled(data, "other", "--config.sequence.frames=2")
  assert (given.sequence.frames, given.sequence.context) == (2, 8)


def test_amounts_follow_from_the_data(data):
  config = filled(data, "train")
  # 96 records: at least 8 batches an epoch, in whole rows of each of 8 devices;
  # so few that 16 epochs would be 128 updates, and there are 400.
  batch = config.train.batch_tokens // 16
  assert batch == 8
  assert config.train.total_tokens == fitting.LEAST_STEPS * batch * 16
  assert config.optim.warmup_steps == config.every.eval_steps == 40
  assert config.every.log_steps == 4
  # What is given stays, and the others follow.
  words = "--config.train.batch_tokens=1024", "--config.train.total_tokens=1024000.0"
  given = filled(data, "train", *words, "--config.optim.warmup_steps=7")
  assert (given.train.batch_tokens, given.train.total_tokens) == (1024, 1024000.0)
  assert given.optim.warmup_steps == 7 and given.every.checkpoint_steps == 100
  # With enough data they are those of the size.
  many = rows.Source("data.train.a", Store("p", manifest_of(data, 10**9)), 1.0)
  base = roots.read({k: v for k, v in recipes.own("base").to_dict().items() if k != "from_stores"})
  amounts = fitting._amounts(base, [many], recipes.own("base").from_stores, planned=True)
  assert amounts["train.batch_tokens"] == base.train.batch_tokens == 2**19
  assert amounts["train.total_tokens"] == pytest.approx(base.train.total_tokens, rel=1e-3)
  assert amounts["optim.warmup_steps"] == base.optim.warmup_steps
  assert amounts["every.eval_steps"] <= 5000


def manifest_of(data, records):
  manifest = manifests.existing(data / "train")
  one = dataclasses.replace(manifest.shards[0], records=records)
  return dataclasses.replace(manifest, shards=(one,))


@pytest.mark.parametrize(
  "train, words, told",
  [
    ("gone", [], ["data.train.gone: ", "gone/manifest.json does not exist"]),
    ("begun", [], ["data.train.begun: ", "is incomplete: 96 records so far"]),
    ("empty", [], ["data.train.empty: ", "has no record"]),
    ("pixels", [], ["data.train.pixels: ", "holds pixels", "configs/tokenize.py", "encode_with"]),
    (
      "train",
      ["--config.sequence.vocab=61"],
      ["sequence.vocab is 61, and source 'data.train.train' (", "60"],
    ),
    ("train", ["--config.sequence.frames=9"], ["sequence.frames is 9", "4 frames a record"]),
    (
      "train",
      ["--config.data.tokenizer=ab"],
      ["data.tokenizer asks for ab", "has tokenizer 0123456789abcdef"],
    ),
    (
      "train more other",
      [],
      [
        "'data.train.more' (",
        "and source 'data.train.other' (",
        "vocab 60",
        "99",
        "frames 4",
        "tokenizer",
      ],
    ),
    (
      "train gone begun",
      ["--config.sequence.vocab=61", "--config.sequence.grid=3"],
      ["data.train.gone: ", "data.train.begun: ", "sequence.vocab is 61", "sequence.grid is 3"],
    ),
  ],
)
def test_all_that_does_not_fit_is_told_at_once(data, train, words, told):
  with pytest.raises(ConfigError) as error:
    filled(data, train, *words)
  text = str(error.value)
  assert [words for words in told if words not in text] == []
  if len(told) == 2:  # one reason is one line
    assert "\n" not in text
  # The same of a config that leaves nothing to the stores.
  if train == "train" and "frames" not in words[0]:
    values = filled(data, "train")
    spec = dataclasses.replace(values.sequence, vocab=61, grid=3)
    with pytest.raises(ConfigError, match="(?s)vocab is 61.*grid is 3"):
      stores_lib.check_stores(dataclasses.replace(values, sequence=spec))
  stores_lib.check_stores(filled(data, "train more"))


def test_a_run_that_goes_on_keeps_what_it_was_begun_with(data, tmp_path):
  values = filled(data, "train")
  begun = json.loads(json.dumps(jobs.roots.schema.to_dict(values)))
  begun["train"]["total_tokens"] = 12345.0
  (tmp_path / "config.json").write_text(json.dumps(begun))
  again = filled(data, "train more", workdir=tmp_path)  # more data: the digests refuse it
  assert again.train.total_tokens == 12345.0
  given = filled(data, "train", "--config.train.total_tokens=99.0", workdir=tmp_path)
  assert given.train.total_tokens == 99.0  # and the config's comparison this


def test_a_plan_needs_no_stores(data):
  words = [f"--config={runs.ROOT}/configs/pretrain.py:1b", "--config.run=plan"]
  config, _ = arguments.read(["", *words])
  plan = jobs.typed(config.to_dict(), "/nowhere")
  assert (plan.sequence.context, plan.train.batch_tokens) == (4096, 2**20)
  with pytest.raises(ConfigError, match="data.train is empty; .*NAME:PATH"):
    jobs.typed({**config.to_dict(), "run": "pretrain"}, "/nowhere")


def test_what_is_cut_off_is_told(data):
  def told(config, **spec):
    sources, _ = stores_lib.find_stores(config.data)
    spec = dataclasses.replace(config.sequence, **spec)
    most = config.data.warn_epochs
    return list(mixture.in_words(sources, spec, steps=40, batch=8, most=most))

  fits = filled(data, "train")
  (line,) = told(fits)
  assert "train: 96 records of 1,536 tokens in all, 3.33 epochs" in line  # 40 x 8 / 96
  assert "40 updates of 8 sequences of 16 tokens" in line
  (_, few) = told(fits, frames=1, context=4)
  assert "a sequence is 1 of a record's 4 frames" in few
  (_, short) = told(fits, context=4)
  assert "the last 12 of each are never read" in short
  (_, long) = told(fits, context=20)
  assert "4 inputs of each are its end and padding" in long
  # A mixture by weight: 3/4 of 40 x 8 sequences of 96, 1/4 of 40.
  (line,) = told(filled(data, "train:3 more"))
  assert "2.5 epochs" in line and "more: 40 records of 640 tokens in all, 2 epochs" in line
  _, often = told(filled(data, "train:3 more", "--config.data.warn_epochs=2.2"))
  assert often.startswith("data.train.train is read 2.5 times over, more than data.warn_epochs 2.2")


def test_a_plan_says_how_often_stores_are_read(data, capsys):
  config = filled(data, "train:3 more", "--config.data.warn_epochs=2.2")
  steps = config.train.total_tokens / config.train.batch_tokens
  rows = steps * pretrain.batch_rows(config.train.batch_tokens, config.sequence)
  passes = plan.epochs(config)
  np.testing.assert_allclose(passes["train"], rows * 0.75 / 96, rtol=1e-6)
  np.testing.assert_allclose(passes["more"], rows * 0.25 / 40, rtol=1e-6)
  assert "train is read" in capsys.readouterr().out
  share = dataclasses.replace(config.data.train["more"], path="none")
  train = {**config.data.train, "more": share}
  later = dataclasses.replace(config, data=dataclasses.replace(config.data, train=train))
  assert plan.epochs(later) == {}  # the control: one is still to be made
  assert "not known (more: not there yet)" in capsys.readouterr().out


@pytest.mark.slow
def test_codes_of_ones_own_become_a_model_that_is_validated(tmp_path, monkeypatch):
  """docs/data.md's example, then a command each, as its reader would."""
  page = test_docs.text_of(runs.ROOT / "docs" / "data.md")
  (code,) = [text for _, text in test_docs.blocks(page) if "shards.Writer" in text]
  code = code.replace("frames=16, grid=16", "frames=4, grid=2").replace("vocab=8192", "vocab=60")
  monkeypatch.chdir(tmp_path)
  for name, records, seed in (("train", 64, 0), ("val", 8, 1)):
    np.save("codes.npy", stores.codes(records, seed).reshape(records, -1))
    exec(code.replace("TOKENS/train", f"TOKENS/{name}").replace("mine/", f"{name}/"), {})
  words = "--config.data.train=TOKENS/train", "--config.data.validation=TOKENS/val"
  steps = "--config.train.total_tokens=6400.0", "--config.every.eval_steps=25"
  output = runs.here(runs.command(PRETRAIN, "RUN", *words, *steps))
  assert (
    "TOKENS: 64 records of 1,024 tokens in all, 6.25 epochs; 50 updates of 8 sequences" in output
  )
  losses = [row["TOKENS/loss"] for row in runs.metrics("RUN") if row["kind"] == "eval"]
  assert losses[-1] < losses[0] - 0.1
  assert "done already" in runs.here(runs.command(PRETRAIN, "RUN", *words, *steps))
  word = "--config.validation=mine:TOKENS/val"
  output = runs.here(
    runs.command("configs/validate.py", "VALIDATION", "--config.model_run=RUN", word)
  )
  store = store_lib.open_store("TOKENS/val", tokenizer=None, vocab=None, grid=None)
  assert f"data.validation.mine {store.manifest.identity['digest'][:12]} (8 records)" in output
  values = json.loads((epath.Path("VALIDATION") / "metrics.json").read_text())
  assert values["mine/loss"] == pytest.approx(losses[-1], rel=1e-4)
  assert "mine/unigram/loss" in values  # fitted on the only store that was trained on
  # Of another tokenizer: its codes mean something else.
  stores.write("other", records=4, seed=3, prefix="o", tokenizer="fedcba9876543210")
  words = "--config.model_run=RUN", "--config.validation=other"
  output = runs.here(runs.command("configs/validate.py", "OTHER", *words), code=2)
  assert re.search("tokenizer 'fedcba9876543210'; this run needs '00000000000000aa'", output)


@pytest.mark.parametrize(
  "losses, told",
  [
    ((6.2, 5.0, 4.5), "own: 4.5000 nats per visual token held out, after update 20"),
    ((6.2, 4.5, 4.6), "own: 4.6000 nats per visual token held out, after update 20"),
    (
      (6.2, 4.5, 8.5),
      "own: 8.5000 nats per visual token held out, after update 20, and 4.5000 after 10: what is"
      " trained on is learned by heart (--config.checkpoint.best=own/loss keeps the best"
      " checkpoint)",
    ),
  ],
)
def test_a_run_ends_with_its_held_out_loss(losses, told):
  log = {s: {"own/loss": loss, "own/loss_sem": 0.1} for s, loss in zip((0, 10, 20), losses)}
  c = recipes.pretrain("tiny")
  c.data.train = {"own": {"path": "x", "weight": 1.0}}
  c.data.validation = {"own": "y", "other": "z"}
  config = roots.read(c.to_dict())
  assert list(pretrain._held_out_in_words(log, config)) == [told]
  c.checkpoint.best = "own/loss"
  (line,) = pretrain._held_out_in_words(log, roots.read(c.to_dict()))
  assert "--config.checkpoint.best" not in line
