"""The docs: links lead somewhere, commands are understood, the tree is new."""

import ast
import dataclasses
import importlib
import pathlib
import re
import shlex
import shutil

from absl import flags
import calls
import code_tree
import container
import gke
import numpy as np
import pytest
import runs
import slurm
import ssh
import tpu_vm

from totojax import main  # noqa: F401  whose flags commands may have
from totojax.config import arguments, roots
from totojax.data.store import manifests, store as store_lib

README = runs.ROOT / "README.md"
PAGES = [
  README,
  *sorted((runs.ROOT / "docs").rglob("*.md")),
  runs.ROOT / "configs" / "paper" / "README.md",
  runs.ROOT / "CHANGELOG.md",
  runs.ROOT / ".github" / "CONTRIBUTING.md",
  runs.ROOT / ".github" / "SECURITY.md",
]
DOORS = {"container": container, "gke": gke, "slurm": slurm, "ssh": ssh, "tpu_vm": tpu_vm}
MOST_LINES, MOST_BYTES, MOST_COLUMNS = 150, 12_000, 120
IMAGE_BYTES = 200_000


def name_of(path):
  return str(path.relative_to(runs.ROOT))


def text_of(path):
  return path.read_text(encoding="utf-8")


def blocks(text):
  """(language, text) of each block of code."""
  return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def prose(text):
  """What is no block of code."""
  return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def inline(text):
  """What stands between single backticks, in sentences."""
  lines = [line for line in prose(text).splitlines() if line[:1] != "|"]
  return re.findall(r"`([^`]+)`", "\n".join(lines))


# --- Links -------------------------------------------------------------------


def anchors(text):
  """What GitHub makes of each heading, for links to it."""
  found = []
  for title in re.findall(r"^#+ (.*)$", prose(text), re.M):
    words = re.sub(r"[^\w\- ]", "", title.strip().lower())
    found.append(words.replace(" ", "-"))
  return found


def targets(text):
  """What links and images of a page lead to, labels of links looked up."""
  text = re.sub(r"`[^`]*`|\\[\[\]]", "", prose(text))
  labels = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.M))
  found = re.findall(r"\]\(([^)\s]+)\)", text)
  found += labels.values()
  alone = re.findall(r"(?<!\])\[([^\]]+)\](?![\[(:])", text)
  alone = [word for word in alone if word != "gap"]  # a mark, no label
  found += [labels.get(word, f"no label {word}") for word in alone]
  return found


def broken(path):
  """One line for each link of a page that leads nowhere."""
  lines = []
  for target in targets(text_of(path)):
    if re.match(r"https?://", target):
      continue
    file, _, anchor = target.partition("#")
    page = path.parent / file if file else path
    if not page.exists():
      lines.append(f"{path.name}: {target} does not exist")
    elif anchor and anchor not in anchors(text_of(page)):
      lines.append(f"{path.name}: {target} has no such heading")
  return lines


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
  assert broken(path) == []


def test_there_are_links_in_both_directions():
  linked = {
    (page.parent / target.partition("#")[0]).resolve()
    for page in PAGES
    for target in targets(text_of(page))
    if not target.startswith("http")
  }
  assert {page.resolve() for page in PAGES} - {README} <= linked


@pytest.mark.parametrize(
  "text, told",
  [
    ("[a](gone.md)", "gone.md does not exist"),
    ("![a](images/gone.png)", "images/gone.png does not exist"),
    ("# A title\n[a](#a-titel)", "#a-titel has no such heading"),
    ("[a](other.md#b)", "other.md#b has no such heading"),
    ("| [data] |", "no label data does not exist"),
    ("[data]\n\n[data]: gone.md", "gone.md does not exist"),
  ],
)
def test_a_broken_link_is_found(tmp_path, text, told):
  (tmp_path / "other.md").write_text("## Where is `x`, and µP?\n")
  page = tmp_path / "page.md"
  page.write_text(text)
  assert f"page.md: {told}" in broken(page)
  page.write_text(
    "# A title\n[a](#a-title) [b](other.md#where-is-x-and-µp) `[no](link)`\n"
    "[c][o] [o] [d](https://example.org/x#y)\n\n[o]: other.md\n"
  )
  assert broken(page) == []


# --- Sizes -------------------------------------------------------------------


def too_large(text):
  """What a README has more of than it may."""
  lines = text.splitlines()
  found = {
    "lines": len(lines) > MOST_LINES,
    "bytes": len(text.encode()) > MOST_BYTES,
    "columns": any(len(line) > MOST_COLUMNS for line in lines),
  }
  return [name for name, large in found.items() if large]


def test_the_readme_is_short():
  assert too_large(text_of(README)) == []


@pytest.mark.parametrize(
  "text, told",
  [
    ("a\n" * 151, ["lines"]),
    ("µ" * 100 + "\n" + ("µ" * 59 + "\n") * 100, ["bytes"]),
    ("a" * 121, ["columns"]),
    ("µ" * 120, []),
    ("a\n" * 150, []),
  ],
)
def test_a_long_readme_is_noticed(text, told):
  assert too_large(text) == told


def test_images_are_small():
  images = sorted((runs.ROOT / "docs" / "images").iterdir())
  assert images
  for path in images:
    assert path.stat().st_size <= IMAGE_BYTES, path


# --- Files and commands ------------------------------------------------------

FILE = (
  r"\b(?:configs|totojax|tests|launch|docs|colab)/[\w./]*"
  r"\.(?:py|sh|md|ipynb)"
)


def missing_files(text):
  return [
    file
    for file in sorted(set(re.findall(FILE, text)))
    if not (runs.ROOT / file).exists() and "NAME" not in file
  ]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named_exist(path):
  assert missing_files(text_of(path)) == []


def test_a_file_that_does_not_exist_is_noticed():
  text = "`configs/demo.py`, configs/paper/tabel1.py and `totojax/gone.py:f`"
  assert missing_files(text) == ["configs/paper/tabel1.py", "totojax/gone.py"]


def cells(text):
  """Commands in tables: one that ends in a backslash goes on a row below."""
  found = []
  for line in prose(text).splitlines():
    for word in re.findall(r"`([^`]+)`", line) if line[:1] == "|" else ():
      if found and found[-1].endswith("\\"):
        found[-1] = found[-1][:-1] + word
      else:
        found.append(word)
  return found


def repeated(text):
  """Rows of tables that say "the same, `FLAGS`": the last whole command above, with these."""
  whole, found = "", []
  for line in prose(text).splitlines():
    cell = line.split("|")[2].strip() if line.count("|") > 2 else ""
    words = re.findall(r"`([^`]+)`", cell)
    if cell.startswith("the same"):
      more = shlex.split(" ".join(word for word in words if word.startswith("--")))
      given = {word.partition("=")[0] for word in more}
      kept = [word for word in shlex.split(whole) if word.partition("=")[0] not in given]
      of_config = [word for word in more if word.startswith("--config=")]
      others = [word for word in more if word not in of_config]
      if more:
        found.append(shlex.join([*kept[:1], *of_config, *kept[1:], *others]))
    elif words and whole.endswith("\\"):
      whole = whole[:-1] + words[0]
    elif words and words[0].startswith("totojax "):
      whole = words[0]
  return found


def commands(text):
  """The words of every command of ours: in blocks, in tables, in sentences."""
  lines = []
  for language, block in blocks(text):
    if language == "bash":
      lines += block.replace("\\\n", " ").splitlines()
  lines += [*cells(text), *repeated(text)]
  for code in inline(text):
    lines.append(" ".join(code.split()))
  found = []
  for line in lines:
    for part in line.split("&&"):
      ours = re.search(r"(?:launch/\w+\.sh|python -m totojax\.main|\btotojax) .*--.*", part)
      if ours:
        found.append(shlex.split(ours[0]))
  return found


def misunderstood(words):
  """Why a command is not understood, or None."""
  if words[0].startswith("launch/"):
    try:
      DOORS[pathlib.Path(words[0]).stem].parse([*words[1:2], "--dry-run", *words[2:]])
    except calls.GiveUp as error:
      return str(error)
    return None
  of_config = [w for w in words if w.startswith("--config")]
  others = [w for w in words if w[:2] == "--" and w not in of_config]
  for word in others:
    if word[2:].partition("=")[0] not in {*flags.FLAGS, "help"}:
      return f"{word} is no flag"
  if not of_config:
    return None
  first, *keys = of_config
  name = first.removeprefix("--config=")
  if name == first or name == "mine.py":  # a file of the reader's
    return None if name == "mine.py" else f"{first} comes before --config"
  try:
    arguments.read(["totojax", f"--config={arguments.config_path(name)}", *keys])
  except Exception as error:
    return f"{' '.join(words)}: {type(error).__name__} {error}"
  return None


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_are_understood(path):
  found = commands(text_of(path))
  assert [told for told in map(misunderstood, found) if told] == []


def test_the_readme_has_its_commands():
  found = commands(text_of(README))
  told = {w for words in found for w in words if w.startswith("--config=")}
  assert len(told) >= 15 and "--config=configs/demo.py" in told
  assert any(words[0] == "launch/tpu_vm.sh" for words in found)


@pytest.mark.parametrize(
  "text, told",
  [
    ("```bash\ntotojax --config=configs/gone.py\n```", "does not exist"),
    (
      "```bash\npython -m totojax.main --config=configs/base.py \\\n  --config.optim.lrr=0.1\n```",
      "lrr",
    ),
    ("| a | `totojax --config=configs/base.py --workdr=x` | |", "no flag"),
    ("| a | `totojax --config=configs/base.py \\` | |\n| | `--config.optm.lr=0.1` | |", "optm"),
    ("`totojax --config=configs/base.py --config.seed=x`", "seed"),
    ("`totojax --config=configs/paper/table6.py:gone`", "gone"),
    ("`launch/tpu_vm.sh stop --zone z --nam toto`", "--nam"),
  ],
)
def test_a_wrong_command_is_noticed(text, told):
  (words,) = commands(text)
  assert told in str(misunderstood(words))
  for wrong, right in (
    ("gone.py", "base.py"),
    ("table6.py:gone", "table6.py:mamba"),
    ("lrr", "lr"),
    ("optm", "optim"),
    ("workdr", "workdir"),
    ("seed=x", "seed=1"),
    ("--nam ", "--name "),
  ):
    text = text.replace(wrong, right)
  (words,) = commands(text)
  assert misunderstood(words) is None


@pytest.mark.parametrize(
  "file, told", [("knn.py:a=A", "features does not exist"), ("features.py", None)]
)
def test_the_same_is_the_command_above(file, told):
  text = (
    "| a | `totojax --config=configs/features.py` | |\n| b | `totojax --workdir=B \\` | |\n"
    f"| | `--config=configs/{file}` | |\n"
    "| c | the same with `--config.features.norm=True` for `b` | |"
  )
  (words,) = [words for words in commands(text) if "--config.features.norm=True" in words]
  assert "--workdir=B" in words
  assert str(told) in str(
    misunderstood(["totojax", *sorted(words[1:], key=lambda w: "=configs" not in w)])
  )


def keys(text):
  """Keys of configs that sentences name: `--config.KEY` and no file."""
  found = []
  for code in inline(text):
    if "--config=" not in code:
      found += re.findall(r"^--config\.([\w.]+)", code)
  return found


@pytest.fixture(scope="module", name="known")
def _known():
  """Every key of every config, and its sections."""
  found = set()

  def walk(config, above):
    for name, value in config.items():
      found.add(above + name)
      if hasattr(value, "items"):
        walk(value, f"{above}{name}.")

  for path in (runs.ROOT / "configs").rglob("*.py"):
    walk(runs.load(path), "")
  # And what a config may lack.
  roots_ = map(roots.find, roots.ROOTS)
  return found | {field.name for root in roots_ for field in dataclasses.fields(root)}


def unknown(text, known):
  return [k for k in keys(text) if k not in known and k != "section.key"]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_keys_that_are_named_exist(path, known):
  assert unknown(text_of(path), known) == []


def test_a_key_that_does_not_exist_is_noticed(known):
  text = "`--config.mup.on=True`, `--config.mup.onn=True`"
  assert unknown(text, known) == ["mup.onn"]


# --- Python ------------------------------------------------------------------


def named(package, name):
  """What `from package import name` gives; None: an error."""
  found = importlib.import_module(package)
  if hasattr(found, name):
    return getattr(found, name)
  try:
    return importlib.import_module(f"{package}.{name}")
  except ImportError:
    return None


def unfound(code):
  """Names of ours that an example imports or calls, and that do not exist."""
  found = []
  syntax = ast.parse(code)
  for node in ast.walk(syntax):
    if isinstance(node, ast.ImportFrom) and node.module.startswith("totojax"):
      for alias in node.names:
        name = f"{node.module}.{alias.name}"
        module = named(node.module, alias.name)
        if module is None:
          found.append(name)
          continue
        used = rf"\b{alias.name}\.(\w+)"
        found += [
          f"{name}.{word}"
          for word in re.findall(used, code)
          if not hasattr(module, word) and word != alias.name
        ]
  return found


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_examples_name_what_exists(path):
  for language, code in blocks(text_of(path)):
    if language == "python":
      assert unfound(code) == []


def test_a_name_that_does_not_exist_is_noticed():
  code = "from totojax.tokenizers import weights\nweights.load('x')\n"
  assert unfound(code) == []
  assert unfound(code.replace("load", "lod")) == ["totojax.tokenizers.weights.lod"]
  assert unfound("from totojax.tokenizers import wights") == ["totojax.tokenizers.wights"]


def test_the_config_of_ones_own_is_one(tmp_path):
  """docs/data.md: it loads, and it is the reader's data that is read."""
  (code,) = [
    code for _, code in blocks(text_of(runs.ROOT / "docs" / "data.md")) if "get_config" in code
  ]
  (tmp_path / "mine.py").write_text(code)
  config = runs.load(tmp_path / "mine.py")
  assert config.run == "pretrain"
  assert config.data.train.mine.path == "TOKENS/train"
  assert config.sequence.context == 16 * 16 * 16


# --- The tree ----------------------------------------------------------------


def test_the_tree_is_up_to_date():
  page = text_of(code_tree.PAGE)
  assert code_tree.replaced(page, code_tree.tree()) == page, "run python tests/code_tree.py --write"


def test_a_file_that_is_new_or_says_otherwise_makes_the_tree_old(tmp_path):
  package = tmp_path / "totojax" / "models"
  shutil.copytree(runs.ROOT / "totojax" / "models", package)
  before = code_tree.tree(tmp_path)
  assert "    llama.py  " in before
  (package / "new.py").write_text('"""A new model.\n\nMore of it."""\n')
  after = code_tree.tree(tmp_path)
  added = set(after.splitlines()) - set(before.splitlines())
  (line,) = added
  assert line.split(maxsplit=1) == ["new.py", "A new model."]
  (package / "new.py").write_text('"""Another one."""\n')
  assert code_tree.tree(tmp_path) != after
  page = "above\n" + before + "\nbelow\n"
  assert code_tree.replaced(page, after) == "above\n" + after + "\nbelow\n"
  with pytest.raises(ValueError, match="needs one line"):
    code_tree.replaced("no tree", after)


def test_every_file_of_ours_says_what_it_is():
  silent = [
    name_of(path)
    for part in ("totojax", "configs", "tests")
    for path in sorted((runs.ROOT / part).rglob("*.py"))
    if not code_tree.sentence(path)
  ]
  assert silent == []


def test_codes_made_elsewhere_become_a_store_as_the_docs_say(tmp_path, monkeypatch):
  page = text_of(runs.ROOT / "docs" / "data.md")
  (code,) = [block for _, block in blocks(page) if "shards.Writer" in block]
  codes = np.random.default_rng(0).integers(0, 8192, (3, 16 * 256)).astype(np.uint16)
  monkeypatch.chdir(tmp_path)
  np.save("codes.npy", codes)
  exec(code, {})  # noqa: S102
  store = store_lib.open_store("TOKENS/train", tokenizer="00000000000000aa", vocab=8192, grid=16)
  np.testing.assert_array_equal(store.read(range(3))["codes"].reshape(3, -1), codes)


def test_every_field_of_a_manifest_is_said():
  page = text_of(runs.ROOT / "docs" / "data.md")
  rows = re.findall(
    r"^\| ((?:`\w+`(?:, )?)+) \|", page[page.index("The manifest's fields") :], re.M
  )
  found = [name for row in rows for name in re.findall(r"\w+", row)]
  assert found == [field.name for field in dataclasses.fields(manifests.Manifest)]
