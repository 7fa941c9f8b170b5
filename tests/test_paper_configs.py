"""configs/paper: every row builds, and has the paper's numbers in it."""

import json
import re

from ml_collections import ConfigDict
import pytest
import runs
import test_configs

from totojax import assembly, flops, jobs
from totojax.config import paper as paper_defaults, recipes, roots
from totojax.report import paper

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


@pytest.mark.parametrize("row", ["patch", "patch_dvae16"])
def test_a_probe_of_features_reads_what_its_chain_makes(row):
  stages = config_of(FOLDER / "table3.py", row).to_dict()["stages"]
  (encoder,) = stages["probe"]["encoders"].values()
  made = [f"{{workdir}}/features/{split}" for split in stages["features"]["source"]["splits"]]
  assert [encoder["train"], encoder["validation"]] == made


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
