"""The shape of the project: ranks, names, optional imports, the entry point."""

import ast
import functools
import subprocess
import sys

import measures
import pytest
import runs
import xla_flags

from totojax import main as program
from totojax.config import arguments

PACKAGE = runs.ROOT / "totojax"

# Folders and files of the package: one imports only lower ranks, or its own
# folder. `report` reads run directories only: of the rest it may import their
# files' readers and writers, and nothing that loads jax.
RANKS = {
  "plugins": -1,
  "config": 0,
  "tree": 0,
  "flops": 0,
  "storage": 0.1,
  "sequence": 0.3,
  "rundir": 0.5,
  "sharding": 1,
  "models": 1,
  "tokenizers": 1,
  "data": 1,
  "world": 1.5,
  "optim": 1,
  "tasks": 2,
  "evals": 2,
  "step": 3,
  "lanes": 3.1,
  "checkpoint": 3.1,
  "train": 3.2,
  "assembly": 3.3,
  "trained": 4,
  "doctor": 4.5,
  "report": 4,
  "jobs": 5,
  "failures": 5.5,
  "main": 6,
  "notebook": 6.5,
  "": 7,
}
ALONE = {"report": {"rundir.console", "rundir.files", "rundir.metrics", "rundir.wording"}}

# Distribution -> the extra that brings it.
OPTIONAL = {
  "h5py": "robots",
  "av": "data",
  "skimage": "data",
  "starlette": "web",
  "uvicorn": "web",
  "apache_beam": "beam",
  "mujoco": "world",
  "gymnasium": "",
  "torch": "encoders",
  "transformers": "encoders",
}


def files(package):
  return sorted(package.rglob("*.py"))


def parsed(path):
  return _parsed(path.read_text(encoding="utf-8"))


@functools.cache  # the package is read by many tests here
def _parsed(text):
  return ast.parse(text)


def part_of(path, package):
  """The folder or file of the table that a path belongs to."""
  return path.relative_to(package).with_suffix("").parts[0]


def imports(tree):
  """(module, name or None, node) of everything that a file imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, None, node
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      for alias in node.names:
        yield module, alias.name, node


def rank_violations(package):
  """One line for each import of a part that is not lower."""
  found = []
  for path in files(package):
    part, tree = part_of(path, package), parsed(path)
    # The package's own file is run by every import: it imports when called.
    eager = set()
    if part == "__init__":
      part, eager = "", set(map(id, tree.body))
    elif part not in RANKS:
      found.append(f"{path.relative_to(package)} has no rank; give it one")
      continue
    for module, name, node in imports(tree):
      if module.startswith("."):
        found.append(f"{path.relative_to(package)} imports {module} relatively")
      words = [*module.split("."), *([name] if name else [])]
      if words[0] != "totojax" or len(words) < 2:
        continue
      target = words[1]
      own_folder = target == part and path.parent != package
      if own_folder:
        continue
      higher = RANKS.get(target, 99) >= RANKS[part]
      alone = part in ALONE and ".".join(words[1:]) not in ALONE[part]
      if higher or alone or id(node) in eager:
        found.append(f"{path.relative_to(package)} imports {'.'.join(words)}")
  return found


def test_files_import_only_lower_ranks():
  assert rank_violations(PACKAGE) == []


@pytest.mark.parametrize(
  "file, line, told",
  [
    ("tree.py", "from totojax import sharding", "totojax.sharding"),
    ("models/trunk.py", "from totojax.data import stream", "totojax.data"),
    ("train.py", "from totojax.trained import run", "totojax.trained"),
    ("train.py", "import totojax.jobs.pretrain", "totojax.jobs"),
    ("step.py", "def f():\n  from totojax.train import fit", "totojax.tr"),
    ("report/plots.py", "from totojax import tree", "totojax.tree"),
    ("report/plots.py", "from totojax.rundir import lock", "rundir.lock"),
    ("models/llama.py", "from . import layers", "relatively"),
    ("newpart/file.py", "", "no rank"),
    ("__init__.py", "from totojax import main", "totojax.main"),
  ],
)
def test_a_planted_import_is_found(tmp_path, file, line, told):
  path = tmp_path / "totojax" / file
  path.parent.mkdir(parents=True)
  path.write_text(line)
  (violation,) = rank_violations(tmp_path / "totojax")
  assert file in violation and told in violation
  # Control: what is allowed is not found.
  path.write_text("import jax")
  if "newpart" not in file:
    assert rank_violations(tmp_path / "totojax") == []


def test_a_file_may_import_its_own_folder_and_below(tmp_path):
  path = tmp_path / "totojax" / "models" / "trunk.py"
  path.parent.mkdir(parents=True)
  path.write_text("from totojax.models import layers\nfrom totojax import sequence\n")
  assert rank_violations(tmp_path / "totojax") == []


# What reads configs before they are typed.
DOORS = {"rundir/directory.py", "main.py"}
CONFIG_NAMES = {"config", "section", "settings"}
UNTYPED = {"Mapping[str, Any]", "dict[str, Any]", "ConfigDict"}


def untyped_configs(package):
  """ "file:line" where a config that is no dataclass travels below config/."""
  trees = {str(path.relative_to(package)): parsed(path) for path in files(package)}
  trees = {
    name: tree
    for name, tree in trees.items()
    if name not in DOORS and not name.startswith("config/")
  }
  nodes = [(n, node) for n, tree in trees.items() for node in ast.walk(tree)]
  # A name for such a mapping is one too, from wherever it is imported.
  untyped = UNTYPED | {
    target.id
    for _, node in nodes
    if isinstance(node, ast.Assign) and ast.unparse(node.value) in UNTYPED
    for target in node.targets
    if isinstance(target, ast.Name)
  }
  found = []
  for name, node in nodes:
    annotation, key = None, None
    if isinstance(node, ast.arg):
      annotation, who = node.annotation, node.arg
    elif isinstance(node, ast.AnnAssign):
      annotation, who = node.annotation, _last(node.target)
    elif isinstance(node, ast.Subscript):
      key, who = node.slice, _last(node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
      if node.func.attr == "get" and node.args:
        key, who = node.args[0], _last(node.func.value)
    words = ast.unparse(annotation).strip("'\"") if annotation else ""
    kinds = {word.rpartition(".")[2] for word in words.split(" | ")}
    typed = not kinds & untyped
    by_key = isinstance(key, ast.Constant) and isinstance(key.value, str)
    if (by_key or not typed) and who in CONFIG_NAMES:
      found.append(f"{name}:{node.lineno}")
  return found


def _last(node):
  """The last name of `a.b.c`, or None."""
  if isinstance(node, ast.Name):
    return node.id
  return node.attr if isinstance(node, ast.Attribute) else None


def test_no_untyped_config_travels_below_the_door():
  assert untyped_configs(PACKAGE) == []
  assert all((PACKAGE / door).exists() for door in DOORS)


@pytest.mark.parametrize(
  "code",
  [
    "def f(config: Mapping[str, Any]):\n  pass",
    "def f(x, *, settings: dict[str, Any] | None = None):\n  pass",
    "class A:\n  section: 'dict[str, Any]'",
    "def f(config: jobs.Config):\n  pass\nConfig = Mapping[str, Any]",
    "def f(config: ml_collections.ConfigDict):\n  pass",
    "self.config: Mapping[str, Any] = {}",
    'x = config["model"]["width"]',
    'config["run"] = "probe"',
    'x = run.config["seed"]',
    'x = run.config.get("init_from")',
  ],
)
def test_a_planted_untyped_config_is_found(tmp_path, code):
  (tmp_path / "jobs").mkdir()
  (tmp_path / "jobs" / "probe.py").write_text(code)
  found = untyped_configs(tmp_path)
  assert len(found) == 1 and found[0].startswith("jobs/probe.py:")
  # Controls: typed ones, mappings of something else, and the doors.
  (tmp_path / "jobs" / "probe.py").write_text(
    "def f(config: pretrain.Pretrain, facts: Mapping[str, Any]):\n"
    '  return facts["steps"], config.optim.lr, settings[0]\n'
  )
  for name in ("main.py", "config/roots.py"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(code)
  assert untyped_configs(tmp_path) == []


def test_nothing_imports_in_a_circle():
  assert measures.cycles(PACKAGE) == []
  assert measures.two_way(PACKAGE) == []


def test_a_planted_circle_is_found(tmp_path):
  package = tmp_path / "totojax"
  for name, code in {
    "__init__.py": "def f():\n  from totojax import step\n",
    "step.py": "from totojax.models import trunk\n",
    "models/__init__.py": "",
    "models/trunk.py": "from totojax.models import heads\n",
    "models/heads.py": "",
    "data/__init__.py": "",
    "data/rows.py": "def f():\n  from totojax import step\n",
  }.items():
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text(code)
  assert measures.cycles(package) == measures.two_way(package) == []
  # Late, it breaks no import, but ties two parts to each other.
  late = "def f():\n  from totojax.data import rows\n"
  (package / "models" / "heads.py").write_text(late)
  (package / "data" / "rows.py").write_text("import totojax.models.heads\n")
  assert measures.cycles(package) == []
  assert measures.two_way(package) == [("data", "models")]
  (package / "models" / "heads.py").write_text("from totojax import step\n")
  assert measures.cycles(package) == [
    ["totojax.models.heads", "totojax.models.trunk", "totojax.step"]
  ]


# What `python tests/measures.py` prints.
MOST_FILES, MOST_LINES = 60, 11_000
MOST_PATH_LINES, MOST_IDENTICAL = 2_000, 8


def test_a_run_imports_what_it_needs():
  found = measures.closure(PACKAGE, measures.BY_NAME)
  paths = measures.modules(PACKAGE)
  assert len(found) <= MOST_FILES
  assert sum(measures.lines(paths[name]) for name in found) <= MOST_LINES
  # Or it would be looking at nothing.
  assert {"totojax.train", "totojax.models.blocked", "totojax.data"} <= found
  for part in ("report", "trained", "tokenizers"):
    assert not any(name.startswith(f"totojax.{part}") for name in found)


def test_a_file_more_is_seen(tmp_path):
  package = tmp_path / "totojax"
  package.mkdir()
  (package / "__init__.py").write_text("")
  (package / "main.py").write_text(
    "import jax\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "  from totojax import sweep\ndef f():\n  from totojax import probe\n"
  )
  (package / "sweep.py").write_text("")
  (package / "probe.py").write_text("from totojax.sweep import a\n")
  whole = {"totojax", "totojax.main"}
  assert measures.closure(package, ("totojax.main",)) == whole
  with open(package / "main.py", "a", encoding="utf-8") as file:
    file.write("try:\n  import totojax.probe\nexcept ImportError: pass\n")
  whole |= {"totojax.probe", "totojax.sweep"}
  assert measures.closure(package, ("totojax.main",)) == whole


@pytest.mark.slow
def test_what_a_run_really_loads_is_what_its_imports_say():
  loaded = set(measures.loaded())
  assert loaded == measures.closure(PACKAGE, measures.BY_NAME)


def test_the_reading_path_is_short():
  paths = [runs.ROOT / name for name in measures.READING_PATH]
  assert len(paths) == 9
  assert sum(map(measures.lines, paths)) <= MOST_PATH_LINES


def test_nothing_is_written_twice():
  assert len(measures.identical_runs(PACKAGE)) <= MOST_IDENTICAL


def test_a_planted_copy_is_found(tmp_path):
  rows = [f"x{i} = {i}" for i in range(9)]
  package = tmp_path / "totojax"
  package.mkdir()
  (package / "a.py").write_text("\n".join(["a = 1", *rows]))
  noise = ["# not this", "", "import jax", ")"]
  (package / "b.py").write_text("\n".join(["b", *rows[:3], *noise, *rows[3:7]]))
  # One run however long, with what does not count in between.
  assert measures.identical_runs(package) == [("a.py:2", "b.py:2")]
  (package / "c.py").write_text("\n".join(["if c:", *(f"  {r}" for r in rows)]))
  assert len(measures.identical_runs(package)) == 3
  # Five lines are no run, and lines of the same shape are not the same.
  (package / "b.py").write_text("\n".join(rows[:5]))
  (package / "c.py").write_text("\n".join(f"y{i} = {i}" for i in range(9)))
  assert measures.identical_runs(package) == []
  # A line that repeats is one place.
  (package / "c.py").write_text("x = 1\n" * 11)
  assert measures.identical_runs(package) == []
  (package / "c.py").write_text("x = 1\n" * 12)
  assert len(measures.identical_runs(package)) == 1


PYTHON = [
  path
  for root in ("totojax", "configs", "tests", "launch", "colab")
  for path in files(runs.ROOT / root)
]


def test_every_file_compiles():
  assert len(PYTHON) > 50
  for path in PYTHON:
    if path.name.startswith("test_"):
      continue  # pytest compiles it
    compile(path.read_text(), str(path), "exec")


def test_no_file_is_a_drawer():
  vague = {"utils", "util", "common", "helpers", "helper", "misc", "base_utils"}
  allowed = {runs.ROOT / "configs" / "base.py"}
  for path in PYTHON:
    names = {*path.relative_to(runs.ROOT).parts[:-1], path.stem}
    assert not names & vague or path in allowed, path


def test_no_folder_is_without_its_init():
  for path in files(PACKAGE):
    assert (path.parent / "__init__.py").exists(), path.parent


ARCHITECTURES = {"llama", "gpt2", "mamba"}
CONFIGS = {"LlamaConfig", "Gpt2Config", "MambaConfig"}


def asks_which(package):
  """(file, line) where an architecture is told apart by name or by class.

  But in its own file, which nothing hinders.
  """
  found = []
  for path in files(package):
    if path.parent.name == "models" and path.stem in ARCHITECTURES:
      continue
    for node in ast.walk(parsed(path)):
      asked = []
      if isinstance(node, ast.Compare):
        asked = [node.left, *node.comparators]
      elif isinstance(node, ast.match_case):
        asked = [node.pattern]
      elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("isinstance", "issubclass"):
          asked = node.args[1:]
      elif isinstance(node, (ast.Subscript, ast.Attribute)):
        if isinstance(node.value, ast.Dict):  # {...}[kind], {...}.get(kind)
          asked = node.value.keys
      parts = [part for one in filter(None, asked) for part in ast.walk(one)]
      words = {p.value for p in parts if isinstance(p, ast.Constant)}
      classes = {p.id for p in parts if isinstance(p, ast.Name)}
      classes |= {p.attr for p in parts if isinstance(p, ast.Attribute)}
      if words & ARCHITECTURES or classes & CONFIGS:
        line = getattr(node, "lineno", 0) or node.pattern.lineno
        found.append((str(path.relative_to(package)), line))
  return found


def test_nobody_asks_which_architecture_it_is():
  assert asks_which(PACKAGE) == []


@pytest.mark.parametrize(
  "code",
  [
    'x = config.kind == "mamba"',
    'x = config.kind in ("gpt2", "mamba")',
    'match config.kind:\n  case "gpt2" | "llama":\n    pass',
    "x = isinstance(model.config, llama.LlamaConfig)",
    "x = isinstance(c, (MambaConfig, int))",
    'x = {"gpt2": 1, "mamba": 2}[config.kind]',
    'x = {"gpt2": 1, "mamba": 2}.get(config.kind, 3)',
  ],
)
def test_a_planted_question_is_found(tmp_path, code):
  (tmp_path / "trunk.py").write_text(code)
  # Controls: another kind of something else, and a table.
  (tmp_path / "a.py").write_text(
    'x = manifest.kind == "video"\ny = {"gpt2": 1}\nisinstance(y, int)\n'
  )
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "llama.py").write_text(code)
  ((file, line),) = asks_which(tmp_path)
  assert file == "trunk.py" and line in (1, 2)


ARITHMETIC = """
import sys
sys.modules["jax"] = None  # importing it fails
import dataclasses
from typing import ClassVar
from totojax import flops
from totojax.models import architecture

@dataclasses.dataclass(frozen=True)
class Plain(architecture.Transformer):
  kind: ClassVar[str] = "plain"
  width: int = 8
  depth: int = 3
  heads: int = 2
  mlp_dim: int = 16
  tied: bool = False
  block = norm = None
  matrices = property(lambda self: 4 * self.width**2)
  vectors = property(lambda self: 5)

print(flops.parameters(Plain(), 10))
print(flops.train_flops_per_token(Plain(), vocab=10, context=4))
try:
  import jax
except ImportError:
  print("no jax")
"""


def test_arithmetic_needs_no_jax():
  found = python(ARITHMETIC).split("\n")
  macs = 3 * (256 + 8 * 4) + 10 * 8
  parameters = 3 * (256 + 5) + 8 + 2 * 10 * 8
  assert found[:3] == [str(parameters), str(6 * macs), "no jax"]


def optional_imports(package):
  """distribution -> [(file, whether at its top level)]."""
  found = {}
  for path in files(package):
    tree = parsed(path)
    top = set(map(id, tree.body))
    for module, _, node in imports(tree):
      name = module.split(".")[0]
      if name in OPTIONAL:
        where = str(path.relative_to(package))
        found.setdefault(name, set()).add((where, id(node) in top))
  return found


def test_optional_dependencies_have_one_lazy_place_each():
  found = optional_imports(PACKAGE)
  assert "av" in found  # or this test looks at nothing
  # Runs in another Python, where this package is not, and so imports it for itself.
  found["mujoco"].remove(("world/robots/suite_worker.py", False))
  for name, places in found.items():
    assert len(places) == 1, (name, places)
    ((file, at_top),) = places
    assert not at_top, f"{file} imports {name} at its top level"
    if OPTIONAL[name]:  # and its absence names the extra
      assert f"totojax[{OPTIONAL[name]}]" in (PACKAGE / file).read_text()


def test_an_eager_or_second_optional_import_is_found(tmp_path):
  (tmp_path / "a.py").write_text("def f():\n  import av.video\n")
  (tmp_path / "b.py").write_text("from av import open\nimport torch\n")
  assert optional_imports(tmp_path) == {
    "av": {("a.py", False), ("b.py", True)},
    "torch": {("b.py", True)},
  }


def python(code):
  """What a fresh interpreter prints."""
  result = subprocess.run(
    [sys.executable, "-c", code],
    env=runs.environment(),
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=240,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def test_a_report_is_written_without_jax():
  modules = [f"totojax.report.{p.stem}" for p in files(PACKAGE / "report")]
  modules.remove("totojax.report.__init__")
  printed = python(f"""
import importlib, sys
for name in {modules!r}:
  importlib.import_module(name)
print(sorted({{"jax", "tensorstore", "matplotlib"}} & set(sys.modules)))
""")
  assert printed == "['matplotlib']\n"  # which shows that the test can see


@pytest.mark.slow
def test_importing_everything_does_nothing(tmp_path):
  """No backend of jax starts, no random state moves, no file appears."""
  modules = [".".join(path.relative_to(runs.ROOT).with_suffix("").parts) for path in files(PACKAGE)]
  modules = [name.removesuffix(".__init__") for name in modules]
  before = {p for p in runs.ROOT.iterdir()}
  printed = python(f"""
import importlib, signal, sys
import flax, jax
import numpy as np
state = np.random.get_state()[1].tolist()
handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
for name in {modules!r}:
  importlib.import_module(name)
from jax._src import xla_bridge
assert xla_bridge._backends == {{}}, xla_bridge._backends
assert np.random.get_state()[1].tolist() == state
assert handlers == [
    signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
loaded = {set(OPTIONAL) | {"scipy"}!r} & set(sys.modules)
assert not loaded, loaded
jax.devices()
assert xla_bridge._backends, "the check above would see nothing"
print("imported", len({modules!r}))
""")
  assert printed == f"imported {len(modules)}\n"
  assert {p for p in runs.ROOT.iterdir()} == before


def main(*words, code):
  return runs.finish(runs.start([sys.executable, "-m", "totojax.main", *words]), code=code)


def refused(monkeypatch, capsys, *words):
  """The line with which the program ends in this process, before it is one of jax."""
  monkeypatch.setattr(sys, "argv", ["totojax", *words])
  monkeypatch.setattr(program, "_show_help_of_this_file", lambda: None)
  with pytest.raises(SystemExit) as ended:
    program.run()
  assert ended.value.code == 2
  return capsys.readouterr().err.strip()


def test_help():
  output = main("--help", code=0)
  assert "--config" in output and "--workdir" in output
  assert "configs/demo.py" in output and "Traceback" not in output
  # The installed script says the same, but for the name of its own file.
  script = "import sys; from totojax import main; sys.exit(main.run())"
  words = [sys.executable, "-c", script, "--help"]
  of_script = runs.finish(runs.start(words), code=0)
  mine, other = output.splitlines(), of_script.splitlines()
  assert [i for i, (a, b) in enumerate(zip(mine, other)) if a != b] == [
    mine.index(f"{PACKAGE / 'main.py'}:")
  ]
  assert len(mine) == len(other)


@pytest.mark.parametrize(
  "code, slow",
  [
    ("import totojax", ["numpy", "etils", "absl"]),
    ("from totojax import main", ["jax", "numpy", "flax", "tensorflow", "totojax.config.pretrain"]),
    ("import totojax.train", []),  # or the check would see nothing
  ],
)
def test_what_is_imported_early_is_light(code, slow):
  """So that the package and its --help are there at once."""
  loaded = set(python(f"{code}\nimport sys; print(*sys.modules)").split())
  assert not loaded & set(slow)
  assert ("jax" in loaded) == (not slow)


@pytest.mark.parametrize(
  "word, right",
  [
    ("--config.optim.lrr=0.1", "optim.lrr does not exist; did you mean optim.lr?"),
    (
      "--config.data.train.moving.pth=x",
      "data.train.moving.pth does not exist; did you mean data.train.moving.path?",
    ),
    ("--config.optm.lr=0.1", "optm does not exist; did you mean optim?"),
    (
      "--config.every.zzz=3",
      "every.zzz does not exist; known: every.checkpoint_steps, every.eval_steps, every.log_steps,"
      " every.watchdog_s",
    ),
    (
      "--config.model.width.x=3",
      "model.width.x does not exist; model.width is 32, with no keys below it",
    ),
  ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(monkeypatch, capsys, tmp_path, word, right):
  workdir = tmp_path / "run"
  told = refused(monkeypatch, capsys, "--config=configs/smoke.py", f"--workdir={workdir}", word)
  assert told == f"totojax: config key {right}"
  assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--config=configs/smoke.py"], ["--config", "configs/smoke.py"]])
def test_a_config_is_found_from_any_folder(tmp_path, words):
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "totojax.main",
      *words,
      "--config.data.train.moving.path=none",
      "--config.seed=7",
    ],
    env=runs.environment(),
    cwd=tmp_path,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
  # The config was read, with its changes: what fails is the store.
  assert "none/manifest.json does not exist" in runs.finish(process, code=2)


def test_what_is_missing_or_wrong_is_one_line(monkeypatch, capsys, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  for words, told in (
    ([], "--config is missing"),
    (["--config=configs/nothing.py"], "configs/demo.py"),  # what there is
    (["--config=configs/smoke.py", "word"], "flags begin with --"),
  ):
    output = main(*words, workdir, code=2)
    assert told in output and "Traceback" not in output
  for words, told in (
    (["--config", "configs/nothing.py"], "configs/demo.py"),
    (["--config"], "--config names no file"),
  ):
    assert told in refused(monkeypatch, capsys, *words, workdir)
  empty = refused(monkeypatch, capsys, "--config=configs/smoke.py", "--workdir=")
  assert empty.startswith("totojax: --workdir is empty")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "config, told",
  [
    ("configs/bench.py:gpuu", "configs/bench.py:gpuu is unknown; use gpu"),
    ("configs/paper/table6.py:xx", "table6.py:xx is unknown; its rows are"),
    ("configs/base.py:foo", "configs/base.py takes no argument, and 'foo'"),
  ],
)
def test_a_wrong_argument_of_a_config_is_one_line(config, told):
  with pytest.raises(ValueError) as error:
    arguments.read(["totojax", f"--config={runs.ROOT}/{config}"])
  (line,) = str(error.value).splitlines()
  assert told.removeprefix("configs/") in line
  # A right one is no mistake.
  right = f"--config={runs.ROOT}/configs/paper/table6.py:mamba"
  assert arguments.read(["totojax", right])[0].run == "chain"


def test_tests_ask_xla_for_no_flag_that_it_does_not_know():
  flags = ("--xla_backend_optimization_level=0", "--xla_no_such_flag=1")
  assert xla_flags.known(flags) == flags[:1]
  assert xla_flags.known(flags[:1]) == flags[:1]
  with pytest.raises(RuntimeError, match="does not read"):
    xla_flags.known(("--xla_backend_optimization_level=many",))


# Calls that read or write text, and the place of their mode among the arguments.
_TEXT = {"open": 1, "fdopen": 1, "read_text": None, "write_text": None}
_TEXT |= {"NamedTemporaryFile": 0, "TemporaryFile": 0}
_PROGRAMS = {"run", "Popen", "check_output", "call", "check_call"}
# Of modules and classes whose calls of these names are no text files.
_NO_TEXT = {
  "os",
  "ts",
  "KvStore",
  "av",
  "pyav",
  "Image",
  "tarfile",
  "zipfile",
  "files",
  "self",
  "archive",
}


def without_encoding(tree: ast.AST) -> list[int]:
  """Lines of the calls that leave the encoding of text to the locale.

  ruff's PLW1514 is a preview, and knows neither paths in variables nor what
  programs print.
  """
  found = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    function, words = node.func, {word.arg: word.value for word in node.keywords}
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if "encoding" in words or None in words or owner.rpartition(".")[2].strip("()") in _NO_TEXT:
      continue
    if name in _PROGRAMS and {"text", "universal_newlines"} & words.keys():
      found.append(node.lineno)
    if name in _TEXT and (owner or name == "open"):
      place = _TEXT[name]
      if place is not None:
        place -= bool(owner) and name == "open" and owner != "io"  # a method of a path
        mode = words.get("mode", node.args[place] if len(node.args) > place else None)
        default = "r" if name in ("open", "fdopen") else "w+b"
        text = mode.value if isinstance(mode, ast.Constant) else default
        if mode is not None and not isinstance(mode, ast.Constant):
          text = "b" if "b" in ast.unparse(mode) else "r"
        if "b" in text:
          continue
      found.append(node.lineno)
  return found


def test_text_is_utf8_wherever_it_is_read_or_written():
  for code, lines in (
    ("open(p)", [1]),
    ("path.open('w')", [1]),
    ("path.read_text()", [1]),
    ("subprocess.run(words, text=True)", [1]),
    ("tempfile.NamedTemporaryFile('w')", [1]),
    ("open(p, 'rb'), path.open('wb'), os.open(p, 0), tempfile.TemporaryFile()", []),
    ("open(p, encoding='utf-8'), files.write_text(p, text), subprocess.run(words)", []),
  ):
    assert without_encoding(ast.parse(code)) == lines, code
  paths = [
    measures.ROOT / "setup.py",
    *(p for d in ("totojax", "configs", "launch") for p in (measures.ROOT / d).rglob("*.py")),
  ]
  wrong = {
    str(path.relative_to(measures.ROOT)): lines
    for path in paths
    if (lines := without_encoding(parsed(path)))
  }
  assert not wrong, f"say encoding='utf-8' in {wrong}"


def exhaustive(text: str) -> tuple[set[str], set[str]]:
  """(tests that `exhaustive` leaves out with all of their cases, tests that it names instead)."""
  module, asks = ast.parse(text), "mark.exhaustive"
  functions = (node for node in module.body if isinstance(node, ast.FunctionDef))
  out = {
    f.name
    for f in functions
    if any(ast.unparse(word).startswith(f"pytest.{asks}") for word in f.decorator_list)
  }
  calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
  return out, {c.args[0].value for c in calls if ast.unparse(c.func).endswith(asks)}


def test_what_ci_leaves_out_is_found_by_a_test_that_it_runs():
  tests = {path.name: path.read_text() for path in (runs.ROOT / "tests").glob("test_*.py")}
  named = {word for text in tests.values() for word in exhaustive(text)[1]}
  assert len(named) > 5
  for word in named:
    file, _, name = word.partition("::")
    assert f"\ndef {name}(" in tests[file], word
    assert name not in exhaustive(tests[file])[0], word
  # Control: a test that is left out itself.
  assert exhaustive('@pytest.mark.exhaustive("b")\ndef a():\n  pass') == ({"a"}, {"b"})
