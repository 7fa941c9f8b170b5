"""The words of a command: --config=FILE, its keys, and what is wrong with them."""

import pytest
import runs

from totojax.config import arguments, document, roots
from totojax.config.schema import ConfigError

SMOKE = runs.ROOT / "configs" / "smoke.py"
DEMO = runs.ROOT / "configs" / "demo.py"


@pytest.mark.parametrize(
  "path, words",
  [
    (SMOKE, ["--config.optim.lr=1e-4", "--config.optim.warmup_steps=3"]),
    (SMOKE, ["--config.optim.lr", "1e-4", "-config.seed=7", "--config.mesh.data=-1"]),
    (SMOKE, ["--config.mesh.fsdp", "-1", "--config.seed=1", "--config.seed=2"]),
    (SMOKE, ["--config.mup.on", "--noconfig.model.tied", "--config.plan.search=false"]),
    (SMOKE, ["--config.plan.meshes=((1, 8, 1), (1, 4, 2))", "--config.plan.remats=none"]),
    (SMOKE, ["--config.plan.remats=none", "--config.plan.remats=full"]),
    (SMOKE, ["--config.data.train={'a': {'path': 'x', 'weight': 1.0}}"]),
    (SMOKE, ["--config.init_from=", "--config.run=plan", "--config.data.train.moving.path=a=b"]),
    (f"{SMOKE}:gpt2", ["--config.optim.lr=2"]),
    (DEMO, ["--config.order=('clips',)", "--config.stages.pretrain.optim.lr=1e-2"]),
    (DEMO, ["--config.order=", "--config.stages.probe.optim.lrs=(1.0, 2.0)"]),
    # What a key of several stages refers to moves with it.
    (runs.ROOT / "configs" / "1b.py", ["--config.data.root=gs://b/t"]),
  ],
)
def test_words_mean_what_they_mean_to_ml_collections(path, words):
  config, rest = arguments.read(["totojax", *words, f"--config={path}", "--list"])
  assert config.to_dict() == runs.load(path, *words).to_dict()
  assert config.to_dict() != runs.load(path).to_dict()
  assert rest == ["totojax", "--list", f"--config={path}"]


def test_what_a_config_may_lack_is_set_by_flags():
  words = ["--config.task=t.py", "--config.evaluations=a.py", "--config.evaluations=b.py:deep"]
  config, _ = arguments.read(["", f"--config={SMOKE}", *words, "--config.data.root=here"])
  typed = roots.read(config.to_dict())
  assert typed.task == "t.py" and typed.evaluations == ("a.py", "b.py:deep")
  assert typed.data.root == "here"
  words = ["--config.stages.pretrain.evaluations=('a.py',)", "--config.data.root=x"]
  config, _ = arguments.read(["", f"--config={DEMO}", *words])
  typed = roots.read(config.to_dict())
  assert typed.stages["pretrain"].evaluations == ("a.py",) and typed.data.root == "x"
  for word, told in (
    ("--config.stages.clips.evaluations=a.py", "key stages.clips.evaluations does not exist"),
    (
      "--config.stages.pretrain.tasks=t.py",
      "stages.pretrain.tasks does not .*stages.pretrain.task",
    ),
    ("--config.stages.pretrian.optim.lr=1e-3", "stages.pretrian does not .*stages.pretrain"),
  ):
    with pytest.raises(ConfigError, match=told):
      arguments.read(["", f"--config={DEMO}", word])


@pytest.mark.parametrize(
  "word, told",
  [
    ("seed=x", "seed is 'x'; it must be int"),
    ("seed=1.0", "seed is '1.0'; it must be int"),
    ("seed", "seed has no value; it must be int"),
    ("optim.lr=fast", "optim.lr is 'fast'; it must be float"),
    ("mup.on=maybe", "mup.on is 'maybe'; it must be bool"),
    ("plan.microbatches=(nan,)", r"plan.microbatches is '\(nan,\)'; it must be a tuple of numbers"),
    ("plan.remats=a,b", r"plan.remats is 'a,b'; it must be a tuple .* quotes, as \('none', "),
    ("data=here", "data is 'here'; it must be a section, as {'key': 1.0}"),
    ("optim=3", "optim is '3'; it must be a section, as {'key': 1.0}"),
    ("data.train={'a'", "data.train is \"{'a'\"; it must be a section, as {'key': 1.0}"),
  ],
)
def test_a_value_of_another_type_is_one_line(word, told):
  with pytest.raises(ConfigError, match=f"^config key {told}") as error:
    arguments.read(["", f"--config={SMOKE}", f"--config.{word}"])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "text, told",
  [
    (
      "def config(): pass",
      r"must define get_config\(\), which returns the config .*defines config",
    ),
    ("def get_config(:\n", r", line 1: it cannot be imported \(SyntaxError: invalid syntax"),
    ("x = 1\nimport nowhere", r", line 2: it cannot be imported \(ModuleNotFoundError: No module"),
    (
      "def get_config():\n  return {}",
      r"get_config\(\) returns {} \(dict\); it must return a Conf",
    ),
    (
      "def get_config():\n  pass",
      r"get_config\(\) returns None \(NoneType\); it must return a Conf",
    ),
    (
      "def get_config():\n  x = 1\n  raise ValueError('no\\nway')",
      r", line 3: get_config\(\) fails \(ValueError: no\)",
    ),
    (
      "from totojax.config import recipes\ndef get_config():\n  c = recipes.pretrain('mini')\n"
      "  c.optim.lr = 'x'\n  return c",
      r", line 4: get_config\(\) fails \(TypeError: .*lr",
    ),
    ("def get_config(name):\n  pass", "mine.py takes an argument; give it as --config=.*:ARGUMENT"),
  ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, text, told):
  path = tmp_path / "mine.py"
  path.write_text(text)
  with pytest.raises(ValueError, match=told) as error:
    arguments.read(["", f"--config={path}"])
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "values, told",
  [
    ({"run": ["pretrain"]}, r"config.run is \['pretrain'\]; .*the jobs are"),
    ({}, "config key run is missing; it says which job this is: one of audit"),
    (
      {"run": "chain", "order": ("a",), "stages": {"a": 3}},
      "key stages.a is 3; it must be a whole",
    ),
    ({"run": "chain", "order": ("a",), "stages": {"a": {}}}, "key stages.a.run is missing"),
    (
      {"run": "chain", "order": ("a",), "stages": [1]},
      r"key stages is \[1\]; it must be a section",
    ),
  ],
)
def test_what_is_no_config_of_a_job_is_one_line(values, told):
  with pytest.raises(ConfigError, match=told):
    roots.read(values)


def test_stages_are_listed_as_they_are_run():
  config, _ = arguments.read(["", f"--config={DEMO}"])
  lines = document.listing(roots.read(config.to_dict())).splitlines()
  stages = [line.split(".")[1] for line in lines if line.startswith("stages.")]
  assert list(dict.fromkeys(stages)) == list(config.order)
  assert list(config.order) != sorted(config.order)
