"""What setup.py tells the world, and that it needs nothing to tell it."""

import re
import runpy
import subprocess
import sys
import tomllib

from packaging import requirements, utils
import pytest
import runs
import yaml

import totojax

setuptools = pytest.importorskip("setuptools")
SETUP = runs.ROOT / "setup.py"


@pytest.fixture(name="told")
def _told(monkeypatch):
  """The arguments of setuptools.setup."""
  arguments = {}
  monkeypatch.setattr(setuptools, "setup", arguments.update)
  monkeypatch.chdir(runs.ROOT)
  runpy.run_path(str(SETUP))
  return arguments


def test_the_version_stands_in_one_place(told, tmp_path):
  assert told["version"] == totojax.__version__
  assert totojax.__version__ not in SETUP.read_text(encoding="utf-8")
  # Read, not imported: another line there is another version.
  package = tmp_path / "totojax"
  package.mkdir()
  (package / "__init__.py").write_text('import nothing\n__version__ = "7.8"\n')
  (tmp_path / "README.md").write_text("")
  (tmp_path / "setup.py").write_bytes(SETUP.read_bytes())
  assert _printed(tmp_path / "setup.py", "--version") == "7.8"


def test_all_files_of_the_package_ship(told):
  patterns = told["package_data"]
  left = {
    path.relative_to(runs.ROOT).as_posix()
    for path in (runs.ROOT / "totojax").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
  }
  assert "totojax/py.typed" in left
  for package, names in patterns.items():
    folder = runs.ROOT / package.replace(".", "/")
    for name in names:
      left -= {p.relative_to(runs.ROOT).as_posix() for p in folder.glob(name)}
  assert not left
  packages = {
    path.parent.relative_to(runs.ROOT).as_posix().replace("/", ".")
    for path in (runs.ROOT / "totojax").rglob("__init__.py")
  }
  assert packages == {p for p in told["packages"] if "configs" not in p}


def test_what_is_told_of_the_project(told):
  assert told["license"] == "Apache-2.0" and told["author"]
  for url in told["project_urls"].values():
    assert url.startswith("https://")
  assert "Typing :: Typed" in told["classifiers"]
  readme = (runs.ROOT / "README.md").read_text(encoding="utf-8")
  assert told["long_description"] == readme
  for system in ("Linux", "macOS"):
    assert system in readme
    assert any(system.lower() in row.lower() for row in told["classifiers"])


def test_no_newer_version_is_shut_out(told):
  """An upper bound needs a version that was seen to fail; there is none.

  But of MuJoCo's next major version: it decides pixels, and 3.3.7 and 4.0.0 were compared.
  With 4.0.0 robosuite fails, and its worker takes 3.3.7 alone.
  """
  extras = {**told["extras_require"]}
  assert extras.pop("world") == ["mujoco>=3.3.7,<5"]
  extras["robosuite"] = [one for one in extras["robosuite"] if one != "mujoco==3.3.7"]
  extras = extras.values()
  for requirement in [*told["install_requires"], *sum(extras, [])]:
    assert not re.search("<|==|~=", requirement), requirement


def test_tests_need_no_torch_and_ci_installs_what_they_can_use(told):
  extras = told["extras_require"]
  assert not {"torch", "transformers"} & set(_names(extras["test"]))
  assert {"torch", "transformers"} <= set(_names(extras["parity"]))
  script = (runs.ROOT / ".ci" / "run").read_text(encoding="utf-8")
  installed = re.findall(r"-e '\.\[([\w,]+)\]'", script)
  assert {"test", "parity", "beam", "lint", "tpu"} <= {
    name for extra in installed for name in extra.split(",")
  }


def test_locks_have_versions_that_the_project_asks_for(told):
  """`.ci/locks`: what the core and the tests ask for, for each Python that is tested."""
  for file in sorted((runs.ROOT / ".ci" / "locks").glob("py*.txt")):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    environment = {"python_version": file.stem.removeprefix("py"), "extra": ""}
    for text in [*told["install_requires"], *told["extras_require"]["test"]]:
      asked = requirements.Requirement(text)
      if asked.marker is None or asked.marker.evaluate(environment):
        assert pinned[utils.canonicalize_name(asked.name)] in asked.specifier, (file.name, text)
  text = (runs.ROOT / ".github" / "workflows" / "ci.yml").read_text()
  assert sorted(re.findall(r'"(3\.\d+)"', text)) == [
    path.stem.removeprefix("py") for path in sorted((runs.ROOT / ".ci" / "locks").iterdir())
  ]


def test_the_citation_is_of_this_version(told):
  cited = yaml.safe_load((runs.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
  assert cited["version"] == told["version"] and cited["license"] == told["license"]
  assert cited["references"][0]["url"] == told["project_urls"]["Paper"]


def _names(requirements):
  return [re.match(r"[\w-]+", each)[0] for each in requirements]


def test_ci_runs_what_the_readme_says_and_what_it_leaves_out():
  readme, script = (
    (runs.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run")
  )
  (block,) = re.findall(r"^```bash\n([^`]*pytest[^`]*)^```$", readme, re.M)
  *_, install, test = block.replace("\\\n", "").split("&&")
  lines = script.replace(" --quiet", "").splitlines()
  assert install.strip() in lines
  (plain, slow) = [line for line in lines if line.startswith(test.strip())]
  assert "-m" not in plain.split("pytest")[1]
  assert slow.endswith(" -m slow")
  settings = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())
  assert '-m "not slow"' in settings["tool"]["pytest"]["ini_options"]["addopts"]


def test_setup_reads_utf8_everywhere(tmp_path):
  assert not (runs.ROOT / "README.md").read_text(encoding="utf-8").isascii()
  assert _printed(SETUP, "--version") == totojax.__version__
  # Control: the encoding of the machine would be noticed.
  careless = SETUP.read_text().replace('encoding="utf-8"', "")
  (tmp_path / "totojax").symlink_to(runs.ROOT / "totojax")
  (tmp_path / "README.md").symlink_to(runs.ROOT / "README.md")
  (tmp_path / "setup.py").write_text(careless)
  with pytest.raises(subprocess.CalledProcessError) as failed:
    _printed(tmp_path / "setup.py", "--version")
  assert "EncodingWarning" in failed.value.stderr


def _printed(setup, *words):
  """What a setup.py prints; to read by the machine's encoding is an error."""
  strict = ["-X", "warn_default_encoding"]
  strict += ["-W", "error::EncodingWarning:__main__"]
  return subprocess.run(
    [sys.executable, *strict, str(setup), *words],
    cwd=setup.parent,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
