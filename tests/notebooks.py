"""The notebooks of colab/, run as their user does: in a folder with a wheel, from top to bottom."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import runs

FOLDER = runs.ROOT / "colab"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def cells(name: str, tag: str = "") -> list[dict]:
  """The cells of a notebook, or those with a tag."""
  found = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
  return [cell for cell in found if not tag or tag in cell["metadata"].get("tags", ())]


def source(cell: dict) -> str:
  return "".join(cell["source"])


def wheel(folder: pathlib.Path) -> pathlib.Path:
  """A wheel of this checkout, made from a copy: an earlier build's leavings would go in as well."""
  copy = folder / "source"
  copy.mkdir()
  for name in ("README.md", "LICENSE", "setup.py", "pyproject.toml"):
    shutil.copy(runs.ROOT / name, copy)
  for name in ("totojax", "configs"):
    shutil.copytree(runs.ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  if importlib.util.find_spec("setuptools"):  # else pip downloads it
    words.append("--no-build-isolation")
  subprocess.run([*words, "-w", str(folder), str(copy)], check=True)
  (built,) = folder.glob("totojax-*.whl")
  return built


def environment(folder: pathlib.Path) -> pathlib.Path:
  """Python of a new virtual environment with all packages of this one but totojax.

  They are links: nothing is copied, and pip, which is among them, finds all that a
  wheel of ours asks for.
  """
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
  python = folder / "bin" / "python"
  code = "import sysconfig; print(sysconfig.get_path('purelib'))"
  printed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
  packages = pathlib.Path(printed.stdout.strip())
  for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
    for entry in pathlib.Path(place).iterdir():
      ours = "totojax" in entry.name or entry.name == "__pycache__"
      if not ours and not (packages / entry.name).exists():
        (packages / entry.name).symlink_to(entry)
  return python


def variables(folder: pathlib.Path) -> dict[str, str]:
  """The environment of a kernel: this checkout is not in its path, and nothing is downloaded."""
  found = runs.environment(
    PIP_NO_INDEX="1", PIP_NO_COMPILE="1", XDG_CACHE_HOME=str(folder), TOTOJAX_SOURCE=""
  )
  del found["PYTHONPATH"]
  return found


def execute(notebook, python: pathlib.Path, folder: pathlib.Path, env: dict[str, str]) -> None:
  """Runs a notebook (of `nbformat`) in a folder, by a Python that has ipykernel."""
  import nbclient

  client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=None)
  client.create_kernel_manager().kernel_spec.argv[0] = str(python)
  client.execute(cwd=str(folder), env=env)
