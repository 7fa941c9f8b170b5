"""configs/paper: every row builds, and has the paper's numbers in it."""

import dataclasses
import json
import pathlib
import re

import little_videos
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest
import runs
import test_configs
import test_docs

from totojax import assembly, flops, jobs
from totojax.config import paper as paper_defaults, recipes, roots
from totojax.data.store import fill, manifests, store as store_lib
from totojax.data.stream import mixture, rows
from totojax.jobs.plan import corpus
from totojax.report import paper
from totojax.rundir import console
from totojax.tokenizers import weights

FOLDER = runs.ROOT / "configs" / "paper"
FILES = sorted(FOLDER.glob("*.py"))


ROWS = [
  pytest.param(path, row, id=f"{path.stem}-{row}".strip("-"))
  for path in FILES
  for row in getattr(runs.module(path), "ROWS", None) or [""]
]


def config_of(path, row) -> ConfigDict:
  return test_configs.load(f"{path}:{row}" if row else path)


@pytest.mark.parametrize("path, row", ROWS)
def test_every_row_builds(path, row):
  config = config_of(path, row)
  json.dumps(config.to_dict())
  for _, one in test_configs.parts_of(config.to_dict()):
    assert one["run"] in jobs.JOBS
    if one["run"] == "pretrain":
      _pretraining(one)
    if one["run"] == "probe":
      assert roots.read(one).optim.settings


def _pretraining(config):
  if not config["patches"]["inputs"]:
    spec = assembly.model(roots.read(config)).spec
    assert spec.context == spec.frames * spec.frame_tokens
  optim = roots.read(config).optim
  train = config["train"]
  assert train["batch_tokens"] % config["sequence"]["context"] == 0
  steps = flops.steps(train["total_tokens"], train["batch_tokens"])
  assert optim.warmup_steps < steps
  reference = recipes.pretrain("tiny").to_dict()
  extra = test_configs.same_keys(config, reference)
  assert {key.split(".")[0] for key in extra} <= {"data", "model"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_of_rows_stand_in_the_docstring(path):
  told = path.read_text().split('"""')[1]
  for row, value in getattr(runs.module(path), "ROWS", {}).items():
    assert re.search(rf"\b{row}\b", told) or row in ("a2", "a3", "a4", "a5")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
      if isinstance(number, float) and number < 100:
        assert f"{number:g}" in told, (row, number)


def test_a_row_that_is_not_there_is_told():
  with pytest.raises(ValueError, match="table6.py:rwkv is unknown; its rows"):
    runs.module(FOLDER / "table6.py").get_config("rwkv")


def test_ablations_share_one_recipe():
  """Tables 3 to 6 differ in what they are about alone."""
  base = paper_defaults.ablation().to_dict()
  assert base["train"]["total_tokens"] == 400 * 1_281_167 * 256.0
  about = {
    "table3-vqgan1k": {"sequence.vocab", "data.train", "data.validation"},
    "table4-32": {
      "sequence.grid",
      "sequence.context",
      "train.total_tokens",
      "data.train",
      "data.validation",
    },
    "table6-mamba": {"architecture", "model"},
    "table5": set(),
  }
  for name, keys in about.items():
    stem, _, row = name.partition("-")
    config = config_of(FOLDER / f"{stem}.py", row).to_dict()
    found = config["stages"]["pretrain"]
    assert set(different(found, base)) == keys, name


@pytest.mark.parametrize("row", ["patch", "patch_dvae16", "vqgan16k"])
def test_rows_of_table_3_are_probed_alike(row):
  """Views, layers, optimiser: all but who encodes, where anybody does."""
  probe, usual = (
    config_of(FOLDER / "table3.py", one).to_dict()["stages"]["probe"] for one in (row, "dvae16")
  )
  assert usual["layers"] == (8, 9) and usual["data"]["source"] == "imagenet"
  assert set(different(probe, usual)) == {"data.encode_with", "paper.name", "paper.top1"}
  assert bool(probe["data"]["encode_with"]) != row.startswith("patch")


def different(a, b, depth=2, name=""):
  """Keys, two levels deep, whose values differ."""
  for key in a.keys() | b.keys():
    if a.get(key) == b.get(key):
      continue
    nested = isinstance(a.get(key), dict) and isinstance(b.get(key), dict)
    whole = key == "model" and a.get("architecture") != b.get("architecture")
    if nested and depth > 1 and not whole:
      yield from different(a[key], b[key], depth - 1, f"{name}{key}.")
    else:
      yield f"{name}{key}"


def test_the_parameters_are_those_of_the_tables():
  for row in ("base", "large", "1b"):
    config = config_of(FOLDER / "table1.py", row)
    shape = assembly.model(roots.read(config.to_dict())).config
    count = flops.parameters(shape, 8192)
    printed = float(paper.TABLE_1[row][:-1]) * (1e9 if paper.TABLE_1[row][-1] == "b" else 1e6)
    assert abs(count / printed - 1) < 0.03
  table = runs.module(FOLDER / "table15.py").ROWS
  assert table == paper.TABLE_15


def test_the_index_names_every_config():
  text = (FOLDER / "README.md").read_text()
  for path in FILES:
    assert f"`{path.name}`" in text, path.name
    for row in getattr(runs.module(path), "ROWS", ()):
      assert row in text or row in ("a2", "a3", "a4", "a5"), (path.name, row)


def tokenizing():
  """The README's commands that make the mixture: name of the store -> flags of each."""
  found = {}
  for words in test_docs.commands(test_docs.text_of(FOLDER / "README.md")):
    if "--config=configs/tokenize.py" in words:
      (folder,) = [w for w in words if w.startswith("--workdir=data/")]
      found[pathlib.PurePath(folder).name] = [w for w in words if w.startswith("--config.")]
  return found


def clips(words, row):
  """How many a command makes of as many images, or videos and hours, as Table 2 has."""
  sizes = dict(images=row.instances)
  if row.hours is not None:
    sizes = dict(hours=row.hours, videos=row.instances)
  flags = [f"--config.plan.{key}={value}" for key, value in sizes.items()]
  planned = roots.read(runs.load("configs/tokenize.py", *words, *flags).to_dict())
  (plan,) = corpus.without_source(planned, None)
  return plan.clips


def counted(kind, records):
  """A store that says it has so many records."""
  manifest = fill.manifest(
    kind=kind,
    frames=1 if kind == "image" else 16,
    size_px=128,
    stride_frames=4,
    fps=30.0,
    crops=1,
    records_per_shard=1,
    info={},
  )
  shard = manifests.Shard("all", records, "", "")
  return store_lib.Store("", dataclasses.replace(manifest, shards=(shard,)))


def test_how_often_the_mixture_is_read_is_as_told():
  """The README's table, from its own commands, Table 2 and a run of Table 1."""
  config = roots.read(config_of(FOLDER / "table1.py", "large").to_dict())
  steps = flops.steps(config.train.total_tokens, config.train.batch_tokens)
  total_rows = steps * config.train.batch_tokens // config.sequence.context
  words, text = tokenizing(), test_docs.text_of(FOLDER / "README.md")
  made, plain = [], []
  for row in paper.SOURCES:
    name = row.name.lower().replace("-", "")
    assert config.data.train[name].weight == row.mix
    kind = "image" if row.hours is None else "video"
    for sources, flags in ((made, words[name]), (plain, [])):
      flags = flags or [w for w in words[name] if ".clip." not in w and ".image." not in w]
      store = counted(kind, clips(flags, row))
      sources.append(rows.Source(name, store, row.mix))
  now, before = (
    mixture.epochs(sources, config.sequence, total_rows=total_rows) for sources in (made, plain)
  )
  for source in made:
    told = (
      f"| {console.short(len(source.store))} | {now[source.name]:.3g} | {before[source.name]:.3g} |"
    )
    assert f"| `{source.name}` {told}" in text
    assert now[source.name] < config.data.warn_epochs
  assert max(before.values()) > config.data.warn_epochs  # the control


def put(folder, names, write):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write(folder / name)


def photograph(path):
  noise = np.random.default_rng(len(str(path))).integers(0, 256, (40, 48, 3), np.uint8)
  Image.fromarray(noise).save(path)


@pytest.mark.slow
def test_the_mixtures_commands_make_what_table_1_trains_on(tmp_path, monkeypatch):
  """The README's, in its order, on small sources laid out as the real ones."""
  put(tmp_path, [f"IMAGENET21K/n0000000{i % 2}/{i}.JPEG" for i in range(8)], photograph)
  videos = [f"EGO4D/full_scale/{i}.mp4" for i in "ab"] + [f"HOWTO100M/{i}.mp4" for i in "cd"]
  for split, ids in (("KINETICS400/val", "ef"), ("KINETICS600/train", "egh")):
    videos += [f"{split}/run/{i}_000010_000020.mp4" for i in ids]
  put(tmp_path, videos, lambda path: little_videos.write(path, 40))
  monkeypatch.chdir(tmp_path)
  small = "--config.clip.frames=4 --config.clip.size_px=32 --config.image.size_px=32"
  small += " --config.amount.workers=0 --config.tokenizer=shipped"
  for name, words in tokenizing().items():
    own = [w.replace("every_s=2.13", "every_s=0.43") for w in words if "classes" not in w]
    config = runs.ROOT / "configs" / "tokenize.py"
    classes = [f"--config.source.{kind}.classes=0" for kind in ("imagenet", "kinetics")]
    runs.here(runs.command(config, f"data/{name}", *own, *classes, *small.split()))
  table = runs.ROOT / "configs" / "paper" / "table1.py"
  config = runs.load(f"{table}:base")
  found = {
    name: manifests.existing(share.path).records for name, share in config.data.train.items()
  }
  # 40 frames are 1.33 s and 3 stretches; one of three videos is held out.
  assert found == {"imagenet": 8, "ego4d": 6, "howto100m": 6, "kinetics600": 10}
  left_out = (tmp_path / "data" / "kinetics600" / "missing.csv").read_text()
  assert "left out: it is also in data/kinetics400/val" in left_out
  sizes = dict(vocab=weights.load("shipped").vocab, grid=4, frames=4, context=64)
  more = [f"--config.sequence.{key}={value}" for key, value in sizes.items()]
  more += [f"--config.model.{key}={v}" for key, v in dict(width=16, depth=1, heads=2).items()]
  more += ["--config.train.batch_tokens=512", "--config.train.total_tokens=1024.0"]
  more += ["--config.optim.warmup_steps=1", "--config.compute.dtype=float32"]
  told = runs.here(runs.command(f"{table}:base", "run", *more))
  assert "howto100m: 6 records of 384 tokens in all, 1.6 epochs" in told


@pytest.mark.parametrize(
  "name, about",
  [("table2", "ImageNet-1k"), ("table8", "256"), ("table14", "128 pixels"), ("table15", "0.1")],
)
def test_what_the_paper_leaves_out_is_marked(name, about):
  told = " ".join((FOLDER / f"{name}.py").read_text().split('"""')[1].split())
  assert any(about in part[-60:] for part in told.split("[gap]")[:-1]), told


def test_the_one_epoch_of_table_4_s_text_works_as_written():
  """With the flags of its docstring alone; without the second the warm-up would not fit."""
  told = (FOLDER / "table4.py").read_text().split('"""')[1]
  flags = re.findall(r"^  (--config\.stages\S+)$", told, re.M)
  assert len(flags) == 2
  warm = []
  for words in (flags, flags[:1]):
    c = runs.load(f"{FOLDER / 'table4.py'}:16to32_rope", *words).stages.pretrain
    assert c.train.total_tokens == paper_defaults.IMAGES * 32**2
    steps = flops.steps(c.train.total_tokens, c.train.batch_tokens)
    warm.append(c.optim.warmup_steps < steps)
  assert warm == [True, False]
