"""Every file in configs/: it loads, it is whole, and, shrunk, it trains."""

import collections
import copy
import functools
import json
import math

from etils import epath
from ml_collections import ConfigDict
import numpy as np
import pytest
import runs
from runs import load
import stores

from totojax import assembly, checkpoint, jobs, sequence, train
from totojax.config import arguments, pixel_recipes, recipes, roots, schema, tokens
from totojax.config.schema import ConfigError
from totojax.data.store import manifests, shards
from totojax.rundir import directory

CONFIGS = sorted((runs.ROOT / "configs").rglob("*.py"))
ELSEWHERE = {"miniature"}  # stages of these are trained by tests of their own
SIDE_PX = 8


def name_of(path):
  return str(path.relative_to(runs.ROOT))


def parts_of(config):
  """(name, config) of the runs that a config is made of."""
  if config["run"] != "chain":
    return [("", config)]
  return [(name, config["stages"][name]) for name in config["order"]]


def of_job(job):
  """Every config, or stage of one, that runs `job`."""
  return [
    pytest.param(path, name, id=f"{path.stem}-{name}".strip("-"))
    for path in CONFIGS
    if path.stem not in ELSEWHERE
    for name, part in parts_of(loaded(path))
    if part["run"] == job
  ]


@functools.cache
def loaded(path):
  """A config as a dict, which nobody may change."""
  return load(path).to_dict()


def part(path, name):
  return copy.deepcopy(dict(parts_of(loaded(path)))[name])


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_it_loads_and_its_jobs_are_known(path):
  config = load(path)
  assert isinstance(config, ConfigDict)
  json.dumps(config.to_dict())  # config.json can hold it
  if config["run"] == "chain":
    assert sorted(config["order"]) == sorted(config["stages"])
  for name, one in parts_of(config.to_dict()):
    assert one["run"] in jobs.JOBS, name
    if one["run"] in roots.ROOTS:
      roots.read(one)  # no key is left over or out of range
  told = path.read_text().split('"""')[1]
  assert f"--config={name_of(path)}" in told  # the command that runs it


def test_there_is_a_config_for_every_kind_of_training():
  assert len(CONFIGS) >= 6
  assert len(of_job("pretrain")) >= 5 and of_job("tokenizer")


def same_keys(config, reference, name=""):
  """Names of keys that only one of the two has; empty sections hold any."""
  lines = []
  for key in config.keys() | reference.keys():
    if key not in config or key not in reference:
      lines.append(f"{name}{key}")
    elif isinstance(reference[key], dict) and reference[key]:
      lines += same_keys(config[key], reference[key], f"{name}{key}.")
  return lines


@pytest.mark.parametrize("path, name", of_job("pretrain"))
def test_pretraining_is_whole_at_full_size(path, name):
  """Every section makes its typed part, and no key is left over."""
  config = part(path, name)
  whole = roots.read(config)
  model = assembly.model(whole)
  assert model.spec.context == config["sequence"]["context"]
  batch, rest = divmod(config["train"]["batch_tokens"], model.spec.context)
  assert batch and not rest
  steps = config["train"]["total_tokens"] // config["train"]["batch_tokens"]
  assert whole.optim.warmup_steps < steps
  assert isinstance(whole.every, train.Every)
  reference = recipes.pretrain("tiny").to_dict()
  assert set(same_keys(config, reference)) <= {"data.root", "from_stores"}


@pytest.mark.parametrize("path, name", of_job("tokenizer"))
def test_a_tokenizer_is_whole_at_full_size(path, name):
  config = part(path, name)
  assert isinstance(roots.read(config), tokens.Tokenizer)
  assert same_keys(config, recipes.tokenizer().to_dict()) == []


def test_one_key_moves_all_the_stores_of_the_paper():
  config = load(CONFIGS[0].parent / "1b.py", "--config.data.root=gs://b/t")
  paths = {name: source.path for name, source in config.data.train.items()}
  assert paths == {
    "imagenet": "gs://b/t/imagenet/all",
    "ego4d": "gs://b/t/ego4d/all",
    "kinetics600": "gs://b/t/kinetics600/train",
    "howto100m": "gs://b/t/howto100m/all",
  }
  assert config.data.validation.kinetics400 == "gs://b/t/kinetics400/val"
  # Section 3.3: 20 % images, 10 % Ego4D, 10 % Kinetics, 60 % HowTo100M.
  weights = {name: source.weight for name, source in config.data.train.items()}
  assert weights == dict(imagenet=0.2, ego4d=0.1, kinetics600=0.1, howto100m=0.6)


@schema.section("knobs")
class Knobs:
  rate: float = schema.field(0.5, "of what")
  steps: int = schema.field(3, "updates")
  name: str = schema.field("x", "any")
  on: bool = schema.field(True, "whether")

  def __post_init__(self):
    if self.steps < 1:
      raise ValueError(f"knobs.steps is {self.steps}; use 1 or more")


KNOBS = dict(rate=0.5, steps=3, name="x", on=True)


def test_a_section_becomes_its_dataclass():
  assert schema.read(Knobs, KNOBS, "knobs") == Knobs(0.5, 3, "x", True)
  whole = schema.read(Knobs, KNOBS | {"rate": 2}, "knobs")
  assert whole.rate == 2.0 and type(whole.rate) is float  # an int serves
  part = {k: v for k, v in KNOBS.items() if k != "steps"}
  assert schema.read(Knobs, part, "knobs", fill=True).steps == 3


@pytest.mark.parametrize(
  "change, message",
  [
    ({"step": 3}, "knobs.step does not exist; did you mean knobs.steps?"),
    ({"zzz": 3}, "zzz does not exist; known: knobs.rate, knobs.steps, "),
    ({"steps": None}, "knobs.steps is None .NoneType.; it must be int"),
    ({"steps": 3.0}, "knobs.steps is 3.0 .float.; it must be int"),
    ({"steps": True}, "knobs.steps is True .bool.; it must be int"),
    ({"rate": "1e-3"}, "knobs.rate is '1e-3' .str.; it must be float"),
    ({"on": 1}, "knobs.on is 1 .int.; it must be bool"),
    ({"steps": 0}, "knobs.steps is 0; use 1 or more"),
  ],
)
def test_a_section_that_does_not_fit_is_refused(change, message):
  with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
    schema.read(Knobs, KNOBS | change, "knobs")


def test_a_missing_key_is_refused():
  with pytest.raises(ConfigError, match="config key knobs.on is missing"):
    schema.read(Knobs, {k: v for k, v in KNOBS.items() if k != "on"}, "knobs")


def images(path) -> str:
  """A store of 64 images."""
  writer = shards.Writer(
    path,
    manifests.new(
      kind="image",
      fields=(manifests.token_field(frames=1, grid=stores.GRID),),
      tokenizer="0123456789abcdef",
      vocab=stores.VOCAB,
      grid=stores.GRID,
      frames=1,
      size_px=16,
      stride_frames=0,
      fps=0.0,
      crops=1,
      labels=False,
      ids=True,
      classes=(),
      records_per_shard=64,
      info={},
    ),
  )
  codes = stores.codes(64, seed=3)[:, 0].astype(np.uint16)
  names = [f"image/{i}" for i in range(64)]
  writer.append({"codes": codes}, labels=None, ids=names, cursor=64)
  writer.close()
  return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Small stores: tokens of videos and of images, and 8 + 8 rendered clips."""
  root = tmp_path_factory.mktemp("stores")
  config = pixel_recipes.render(train=8, val=8).to_dict()
  config["scene"] |= dict(frames=4, size_px=SIDE_PX)
  assert jobs.run(config, epath.Path(root / "clips"), lambda step: False)
  return {
    "video": stores.write(root / "train", records=32, seed=0, prefix="t"),
    "image": images(root / "images"),
    "validation": stores.write(root / "val", records=8, seed=1, prefix="v"),
    "pixels": str(root / "clips" / "train"),
    "held_out_pixels": str(root / "clips" / "val"),
  }


def tiny(config, data):
  """The config of a training run, small enough for two steps in a test.

  What is computed and how stays as it is; sizes, amounts and stores change.
  """
  # What stores decide is in test_fitting.py.
  config = ConfigDict({key: value for key, value in config.items() if key != "from_stores"})
  config.every = recipes.every(log=1, evaluate=2, checkpoint=2)
  config.optim.warmup_steps = min(config.optim.warmup_steps, 1)
  if config.run == "pretrain":
    config.init_from = ""  # what a second stage begins with is not there
    config.model.update(width=16, depth=1, heads=2, mlp_dim=32)
    config.sequence.update(vocab=stores.VOCAB, grid=stores.GRID, frames=stores.FRAMES, context=16)
    config.sequence.frame_factor = 1
    config.compute.dtype = "float32"
    rows = 8 * (config.train.microbatches or 1)
    config.train.update(batch_tokens=rows * 16, total_tokens=2 * rows * 16.0)
    for name in {*config.data.train} or {"clips"}:
      path = data["image" if name == "imagenet" else "video"]
      weight = config.data.train[name].weight if name in config.data.train else 1.0
      config.data.train[name] = recipes.source(path, weight)
    for name in {*config.data.validation} or {"clips"}:
      config.data.validation[name] = data["validation"]
    config.validation.rows = 8
  else:
    config.weights = "train"
    config.dvae.update(vocab=16, hidden=4, groups=2, blocks=1, decoder_init=4)
    config.fsq.update(levels=(4, 2, 2), codebook=min(config.fsq.codebook, 16), embed=4, side_px=2)
    config.fsq.update(width=12, hidden=8, encoder_blocks=1, decoder_blocks=1)
    config.train.update(
      steps=2, batch_frames=8, start_frames=4, score_frames=8, least_used_frac=0.0
    )
    for key in config.objective:  # the schedules end with the run
      if key.endswith("_steps"):
        config.objective[key] = 2
    for name in {*config.data.train} or {"clips"}:
      config.data.train[name] = recipes.source(data["pixels"], 1.0)
      config.data.validation[name] = data["held_out_pixels"]
  return config.to_dict()


def two_steps(config, workdir):
  """Rows of metrics.jsonl of a finished run."""
  workdir = epath.Path(workdir)
  directory.check_config(workdir, config, allow_change=False)
  assert jobs.run(config, workdir, lambda step: False)
  rows = runs.metrics(workdir)
  for row in rows:
    numbers = [x for x in row.values() if not isinstance(x, str)]
    assert all(x is not None and math.isfinite(x) for x in numbers), row
  assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2]
  assert checkpoint.latest_step(workdir / "checkpoints") == 2
  return rows


def pretraining():
  """All of them; slow where one before differs in what test_models.py tries, or not at all."""
  cases, seen = [], set()
  for case in of_job("pretrain"):
    config = tiny(part(*case.values), collections.defaultdict(str))
    program = json.dumps(
      [
        *(config[k] for k in ("architecture", "model")),
        config["mup"]["on"],
        config["train"]["microbatches"],
      ]
    )
    marks = [pytest.mark.slow] if program in seen else []
    cases.append(pytest.param(*case.values, id=case.id, marks=marks))
    seen.add(program)
  return cases


@pytest.mark.parametrize("path, name", pretraining())
def test_pretraining_takes_two_steps(path, name, data, tmp_path):
  config = tiny(part(path, name), data)
  rows = two_steps(config, tmp_path)
  assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2]
  # A fresh model knows nothing: log of the 64 tokens. Below its base width, µP
  # makes logits larger.
  rel = 0.05 if config["mup"]["on"] else 0.02
  assert rows[1]["loss"] == pytest.approx(math.log(64), rel=rel)
  manifest = json.loads((tmp_path / "manifest.json").read_text())
  assert manifest["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1}
  vocab = stores.VOCAB + sequence.SPECIALS
  matrices = 4 * 16**2 + 3 * 16 * 32
  tables = 1 if config["model"]["tied"] else 2
  assert manifest["parameters"] == tables * vocab * 16 + matrices + 3 * 16


def different():
  """Tokenizer stages, each recipe once, fast the first: they take long to compile."""
  first = {}
  for case in of_job("tokenizer"):
    config = tiny(part(*case.values), collections.defaultdict(str))
    recipe = json.dumps([config[k] for k in ("family", "dvae", "fsq", "objective", "optim")])
    if recipe not in first:
      marks = [pytest.mark.slow] if first else []
      first[recipe] = pytest.param(*case.values, id=case.id, marks=marks)
  return list(first.values())


@pytest.mark.parametrize("path, name", different())
def test_a_tokenizer_takes_two_steps(path, name, data, tmp_path):
  rows = two_steps(tiny(part(path, name), data), tmp_path)
  last = [row for row in rows if row["kind"] == "eval"][-1]
  assert last["step"] == 2 and 1 <= last["codes_used"] <= 16
  assert (tmp_path / "tokenizer.safetensors").exists()


@pytest.mark.parametrize(
  "section, change, told",
  [
    ("train", {"batch": 1}, "train.batch does not exist; did you mean"),
    ("train", {"microbatches": 1.0}, "train.microbatches is 1.0"),
    ("validation", {"row": 1}, "validation.row does not exist"),
    ("data", {"train": {}}, "data.train is empty; .* configs/1b.py"),
    (
      "data",
      {"train": {"a": {"path": "p", "weight": 1.0, "wait": 1}}},
      "data.train.a.wait does not exist; did you mean data.train.a.weig",
    ),
    ("data", {"train": {"a": {"path": "", "weight": 1.0}}}, "data.train.a.path is empty"),
  ],
)
def test_what_is_trained_on_is_checked(data, tmp_path, section, change, told):
  config = tiny(part(runs.ROOT / "configs" / "smoke.py", ""), data)
  config[section] |= change
  with pytest.raises(ConfigError, match=told):
    jobs.run(config, epath.Path(tmp_path / "run"), lambda step: False)
  assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_stores_is_refused(tmp_path):
  config = recipes.tokenizer().to_dict()
  with pytest.raises(ConfigError, match="data.train is empty; .*tokenizer.py"):
    jobs.run(config, epath.Path(tmp_path / "run"), lambda step: False)


def test_a_tokenizer_names_its_own_section():
  config = part(runs.ROOT / "configs" / "tokenizer.py", "tokenizer")
  for key, value in (("loss", "l1"), ("tau_steps", 0), ("tau_end", 0.0)):
    section = config["objective"] | {key: value}
    with pytest.raises(ConfigError, match=f"^objective.{key} is "):
      roots.read(config | {"objective": section})


def stores_of(part):
  """Folders that a stage trains on or evaluates."""
  data = part["data"]
  paths = [source["path"] for source in data["train"].values()]
  return {*paths, *data["validation"].values()}


@pytest.mark.parametrize("path, name", of_job("tokenizer"))
def test_a_tokenizer_of_a_chain_can_be_trained(path, name):
  """Its stores, of both kinds, are what an earlier stage writes."""
  config = load(path, f"--config.stages.{name}.weights=train").to_dict()
  stage, order = config["stages"][name], list(config["order"])
  assert stage["weights"] == "train"
  assert stage["data"]["train"] and stage["data"]["validation"]
  for folder in stores_of(stage):
    word, maker, split = folder.split("/")
    assert word == "{workdir}" and split in ("train", "val")
    assert order.index(maker) < order.index(name)


def test_a_nan_would_be_seen(data, tmp_path):
  config = tiny(part(runs.ROOT / "configs" / "smoke.py", ""), data)
  config["optim"] |= dict(lr=1e30, clip_norm=1e9)
  with pytest.raises(train.NotFinite, match="param_norm of step 1 is inf"):
    two_steps(config, tmp_path)
  assert checkpoint.latest_step(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(
  "name, told",
  [
    ("configs/tokenise.py", r"did you mean configs/tokenize\.py or "),
    ("pretrian.py", r"did you mean configs/pretrain\.py\?$"),
    ("configs/paper/figur2.py", r"did you mean configs/paper/figure2\.py or "),
    ("nonsense", r"shipped are configs/1b\.py, .*configs/world\.py$"),
  ],
)
def test_a_misspelt_config_is_refused_with_the_nearest(name, told):
  with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist; {told}"):
    arguments.config_path(name)
