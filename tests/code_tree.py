"""The tree of docs/tour.md: a line a file, the first that it says of itself.

python tests/code_tree.py --write
"""

import ast
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tour.md"
BEGIN = "<!-- tree: made by tests/code_tree.py --write -->"
END = "<!-- end of the tree -->"
# In the order in which they are shown.
PARTS = ("configs", "totojax", "launch", "colab", "docs", "tests", "setup.py")
COLUMN = 36  # where the sentences begin


def sentence(path: pathlib.Path) -> str:
  """The first line that a file says of itself; "" where it says nothing."""
  text = path.read_text(encoding="utf-8")
  match path.suffix:
    case ".py":
      return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    case ".md":
      found = [line for line in text.splitlines() if line.startswith("# ")]
      return found[0].removeprefix("# ") if found else ""
    case ".sh":
      found = [line for line in text.splitlines() if line.startswith("# ")]
      return found[0].removeprefix("# ") if found else ""
    case ".ipynb":
      return json.loads(text)["cells"][0]["source"][0].strip("# \n")
  raise ValueError(f"{path}: {path.suffix} says nothing of itself")


def shown(path: pathlib.Path) -> bool:
  """Whether the tree has a line for a file, or for a folder with some."""
  if path.name.startswith((".", "__pycache__")):
    return False
  if path.is_dir():
    return any(map(shown, path.iterdir()))
  return path.suffix in (".py", ".md", ".sh", ".ipynb") and path.name != "__init__.py"


def lines(path: pathlib.Path, depth: int = 0) -> list[str]:
  """The line of a file, or of a folder and all that is in it."""
  if not path.is_dir():
    return [line(path.name, sentence(path), depth)]
  own = path / "__init__.py"
  found = [line(f"{path.name}/", sentence(own) if own.exists() else "", depth)]
  below = sorted(filter(shown, path.iterdir()), key=lambda p: (p.is_dir(), p))
  return found + [text for one in below for text in lines(one, depth + 1)]


def line(name: str, said: str, depth: int) -> str:
  return f"{'  ' * depth + name:{COLUMN}}{said}".rstrip()


def tree(root: pathlib.Path = ROOT) -> str:
  """The tree as a block of Markdown, with its markers."""
  parts = [root / name for name in PARTS if (root / name).exists()]
  found = [text for part in parts for text in lines(part)]
  return "\n".join([BEGIN, "", "```text", *found, "```", "", END])


def replaced(page: str, new: str) -> str:
  """`page` with `new` in place of the tree that it has.

  Raises:
    ValueError: it does not have the two markers, once each.
  """
  if page.count(BEGIN) != 1 or page.count(END) != 1:
    raise ValueError(f"the page needs one line {BEGIN!r} and one {END!r}")
  before, _, rest = page.partition(BEGIN)
  _, _, after = rest.partition(END)
  return before + new + after


def main(words: list[str]) -> int:
  page = PAGE.read_text(encoding="utf-8")
  new = replaced(page, tree())
  if words == ["--write"]:
    PAGE.write_text(new, encoding="utf-8")
  elif new != page:
    print("docs/tour.md is not up to date: python tests/code_tree.py --write")
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
