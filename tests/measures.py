"""Prints the numbers that the architecture is judged by.

  python tests/measures.py

`test_structure.py` holds the bounds; how many seconds a start takes is printed
and held nowhere, as it depends on the machine.
"""

import ast
import collections
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "totojax"

# What main and the config of a run name by strings: the job and its keys, the
# architecture.
BY_NAME = (
  "totojax.main",
  "totojax.jobs.pretrain",
  "totojax.config.pretrain",
  "totojax.config.recipes",
  "totojax.models.llama",
  "totojax.rundir.hosts",
)
READING_PATH = (
  "configs/1b.py",
  "totojax/main.py",
  "totojax/jobs/pretrain.py",
  "totojax/data/stream/mixture.py",
  "totojax/tasks/pretrain.py",
  "totojax/models/trunk.py",
  "totojax/models/llama.py",
  "totojax/step.py",
  "totojax/train.py",
)
RUN_LINES = 6


def modules(package: pathlib.Path) -> dict[str, pathlib.Path]:
  """Name -> file of every module of a package."""
  found = {}
  for path in sorted(package.rglob("*.py")):
    parts = path.relative_to(package.parent).with_suffix("").parts
    found[".".join(parts).removesuffix(".__init__")] = path
  return found


def lines(path: pathlib.Path) -> int:
  return len(path.read_text(encoding="utf-8").splitlines())


def imported(path: pathlib.Path, *, late: bool = False) -> set[str]:
  """What a file's import statements name, as "module" or "module.name".

  Args:
    path: the file.
    late: also those in functions, which are run when these are called, and
      those for type checkers, which are never run.
  """
  left, found = [ast.parse(path.read_text(encoding="utf-8"))], set()
  while left:
    node = left.pop()
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif late or not _is_late(node):
      left += ast.iter_child_nodes(node)
  return found


def _is_late(node: ast.AST) -> bool:
  if isinstance(node, ast.If):
    return "TYPE_CHECKING" in ast.dump(node.test)
  return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def graph(package: pathlib.Path, *, late: bool = False) -> dict[str, set[str]]:
  """Module -> modules of the package that it imports."""
  files = modules(package)

  def module_of(name):
    while name and name not in files:
      name = name.rpartition(".")[0]
    return name

  return {
    name: {module_of(n) for n in imported(path, late=late)} - {"", name}
    for name, path in files.items()
  }


def closure(package: pathlib.Path, names: tuple[str, ...]) -> set[str]:
  """Modules that importing some imports, the folders' own files among them."""
  edges, found, left = graph(package), set(), list(names)
  while left:
    name = left.pop()
    if name in edges and name not in found:
      found.add(name)
      left += [*edges[name], name.rpartition(".")[0]]
  return found


def cycles(package: pathlib.Path) -> list[list[str]]:
  """Groups of modules each of which imports all others in the end.

  A package's own file counts where something is imported from it, and not
  because what lies below it is.
  """
  edges = graph(package)

  def reached(start):
    found, left = set(), list(edges[start])
    while left:
      name = left.pop()
      if name not in found:
        found.add(name)
        left += edges[name]
    return found

  reach = {name: reached(name) for name in edges}
  groups = {
    tuple(sorted(n for n in reach[name] if name in reach[n]))
    for name in edges
    if name in reach[name]
  }
  return sorted(map(list, groups))


def two_way(package: pathlib.Path) -> list[tuple[str, str]]:
  """Parts (folders and files of the package) that import each other anywhere.

  The package's own file, which imports when it is called, is no part.
  """
  pairs = set()
  for name, others in graph(package, late=True).items():
    for other in others:
      if "." in name and "." in other:
        pairs.add((name.split(".")[1], other.split(".")[1]))
  return sorted((a, b) for a, b in pairs if a < b and (b, a) in pairs)


def identical_runs(package: pathlib.Path, size: int = RUN_LINES) -> list[tuple[str, str]]:
  """Pairs of places that share at least `size` lines, each at its longest.

  Lines without their indentation; blank ones, comments, imports and lone
  punctuation do not count. Returns "file:line" of both.
  """
  texts = {}
  for path in modules(package).values():
    rows = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    name = str(path.relative_to(package))
    texts[name] = [(n, row.strip()) for n, row in rows if _counts(row.strip())]
  places = collections.defaultdict(list)
  for name, rows in texts.items():
    for i in range(len(rows) - size + 1):
      places[tuple(row for _, row in rows[i : i + size])].append((name, i))
  pairs = {
    (first, second)
    for same in places.values()
    for k, first in enumerate(same)
    for second in same[k + 1 :]
    # Places that overlap are one place that repeats itself.
    if first[0] != second[0] or second[1] - first[1] >= size
  }
  return sorted(
    (f"{a}:{texts[a][i][0]}", f"{b}:{texts[b][j][0]}")
    for (a, i), (b, j) in pairs
    if ((a, i - 1), (b, j - 1)) not in pairs  # or it is the middle of a run
  )


def _counts(row: str) -> bool:
  if row.startswith(("#", "import ")):
    return False
  if row.startswith("from ") and " import " in row:
    return False
  return any(c.isalnum() for c in row)


_SPY = """
import atexit, json, os, sys
def tell():
  names = sorted(n for n in sys.modules if n.partition(".")[0] == "totojax")
  with open(os.environ["LOADED"], "w") as file:
    json.dump(names, file)
atexit.register(tell)
from totojax import main
main.run()
"""


def loaded() -> list[str]:
  """Modules that are there after the first step of configs/smoke.py."""
  import stores  # which imports jax, as what is measured does

  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    train = stores.write(root / "train", records=16, seed=0, prefix="t")
    val = stores.write(root / "val", records=8, seed=1, prefix="v")
    words = (
      "--config=configs/smoke.py",
      f"--workdir={folder}/run",
      f"--config.data.train.moving.path={train}",
      f"--config.data.validation.moving={val}",
      "--config.train.total_tokens=128.0",
      "--config.optim.warmup_steps=0",
    )
    _finish(["-c", _SPY, *words], LOADED=str(root / "loaded.json"))
    return json.loads((root / "loaded.json").read_text())


def _finish(words: list[str], **variables: str) -> None:
  variables |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  subprocess.run(
    [sys.executable, *words], cwd=ROOT, env=os.environ | variables, check=True, capture_output=True
  )


def cpu_seconds(words: list[str]) -> float:
  """CPU time of a process and its children."""

  def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime

  before = used()
  _finish(words)
  return used() - before


def main() -> None:
  files = modules(PACKAGE)

  def told(names):
    names = list(names)
    return f"{len(names)} files, {sum(lines(files[n]) for n in names):,} lines"

  path_lines = sum(lines(ROOT / name) for name in READING_PATH)
  print("imports of a pre-training run:", told(closure(PACKAGE, BY_NAME)))
  print("  really loaded after a step: ", told(loaded()))
  print(f"reading path: {len(READING_PATH)} files, {path_lines:,} lines")
  same = identical_runs(PACKAGE)
  print(f"identical runs of {RUN_LINES} lines: {len(same)}")
  for first, second in same:
    print(f"  {first} ~ {second}")
  print("package:", told(files))
  print("cycles:", len(cycles(PACKAGE)), "two-way:", len(two_way(PACKAGE)))
  print(f"import totojax: {cpu_seconds(['-c', 'import totojax']):.2f} s CPU")
  print(f"--help: {cpu_seconds(['-m', 'totojax.main', '--help']):.2f} s CPU")


if __name__ == "__main__":
  main()
