"""Completion in real shells: what a TAB gives, and that it asks for keys once."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest
import runs

from totojax.config import arguments, completion, document, roots, schema


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with the scripts, and a `totojax` that has the keys ready and counts its calls."""
  folder = tmp_path_factory.mktemp("home")
  config = roots.read(arguments.load(arguments.config_path("configs/1b.py")).to_dict())
  (folder / "keys").write_text("".join(f"{line}\n" for line in completion.keys(config)))
  for shell in ("bash", "zsh"):
    (folder / shell).write_text(completion.script(shell))
  program = folder / "bin" / "totojax"
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\ncat {folder}/keys\n')
  program.chmod(0o755)
  (folder / "my runs").mkdir()
  (folder / "mine.py").write_text("")
  return folder


def environment(home):
  path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
  return {"HOME": str(home), "PATH": path, "TERM": "dumb"}


def completed(home, line):
  """What bash offers after `line`, by its own variables."""
  code = (
    f"source {home}/bash; COMP_LINE=$1; COMP_POINT=${{#COMP_LINE}}; _totojax;"
    ' printf "%s\\n" "${COMPREPLY[@]}"'
  )
  words = ["bash", "--norc", "-c", code, "bash", line]
  done = subprocess.run(words, cwd=home, env=environment(home), capture_output=True, text=True)
  assert not done.stderr and not done.returncode, done.stderr
  return [word for word in done.stdout.split("\n") if word]


def test_bash_completes_flags_configs_keys_and_values(home):
  assert completed(home, "totojax --work") == ["--workdir="]
  tables = sorted(path.name for path in (runs.ROOT / "configs/paper").glob("table1*.py"))
  assert len(tables) > 6 and completed(home, "totojax --config=configs/paper/table1") == [
    f"configs/paper/{name} " for name in tables
  ]
  assert completed(home, "totojax --config=mi") == ["mine.py "]
  begun = "totojax --config=configs/1b.py "
  assert completed(home, f"{begun}--config.opt") == ["--config.optim."]
  assert completed(home, f"{begun}--config.optim.mo") == ["--config.optim.momentum="]
  assert completed(home, f"{begun}--config.optim.schedule=") == ["cosine ", "wsd "]
  assert completed(home, f"{begun}--config.checkpoint.skip_damaged=F") == ["False "]
  assert completed(home, f"{begun}--config.run=pl") == ["plan "]
  assert completed(home, f"{begun}--config.data.root=mi") == ["mine.py "]
  assert "optim " in completed(home, f"{begun}--list=")
  assert completed(home, "totojax --config configs/1b.py --config.see") == ["--config.seed="]
  # Controls: no such key; no config, of which nobody knows keys.
  assert completed(home, f"{begun}--config.nothing") == []
  (home / "calls").unlink()
  assert completed(home, f"{begun}--config.optim.mo") and not (home / "calls").exists()


def test_keys_are_asked_for_again_when_a_config_is_newer(home):
  completed(home, "totojax --config=mine.py --config.see")
  calls = (home / "calls").read_text().count("--config=mine.py --completion=keys")
  completed(home, "totojax --config=mine.py --config.see")
  assert (home / "calls").read_text().count("mine.py") == calls == 1
  late = time.time() + 5
  os.utime(home / "mine.py", (late, late))
  completed(home, "totojax --config=mine.py --config.see")
  assert (home / "calls").read_text().count("mine.py") == 2


def test_every_key_and_flag_is_there(home):
  config = roots.read(arguments.load(arguments.config_path("configs/1b.py")).to_dict())
  names = [line.partition("\t")[0] for line in completion.keys(config)]
  assert names == [key.path for key in schema.keys(config)] and "optim.lr" in names
  script = completion.script("zsh")
  for word in ("--config=", "--workdir=", "'--list'", "configs/demo.py", "--start_timeout_s="):
    assert word in script
  with pytest.raises(schema.ConfigError, match="name one, --config=FILE"):
    completion.show("keys", None)


def test_listing_has_types_and_defaults_and_sections():
  config = arguments.load(arguments.config_path("configs/1b.py"))
  config.optim.lr = 0.5
  lines = document.listing(roots.read(config.to_dict()), "optim").splitlines()
  (line,) = [line for line in lines if line.startswith("optim.lr = 0.5 ")]
  assert "# float: peak rate; at least 0;" in line and line.endswith("default 0.0003")
  assert all(line.startswith("optim.") for line in lines)
  assert not [line for line in lines if line.startswith("optim.b1") and "default" in line]
  with pytest.raises(schema.ConfigError, match="did you mean optim?"):
    document.listing(roots.read(config.to_dict()), "optm")


def typed(words, keys, home, wanted):
  """What a shell in a terminal shows once keys were typed; ends when `wanted` is there."""
  process, terminal = pty.fork()
  if not process:
    os.chdir(home)
    os.execvpe(words[0], words, environment(home))
  shown = b""
  try:
    os.write(terminal, keys[0])
    for key in keys[1:]:
      while b"READY" not in shown.replace(b"echo READ", b""):
        shown += read(terminal)
      os.write(terminal, key)
    while wanted not in shown:
      shown += read(terminal)
  finally:
    os.kill(process, 9)
    os.waitpid(process, 0)
    os.close(terminal)
  return shown


def read(terminal):
  ready, _, _ = select.select([terminal], [], [], 120)
  assert ready, "nothing more is shown"
  return os.read(terminal, 4096)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_terminal_completes(home, shell):
  """Readline's and zsh's own keys: each TAB goes on from what the one before has made."""
  if not shutil.which(shell):
    pytest.skip(f"{shell} is not installed")
  words = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
  begin = f"source {home}/{shell}; echo READ''Y\n".encode()
  keys = b"totojax --config=configs/1b.py --config.optim.sche\tw\t"
  shown = typed(words, [begin, keys], home, b"schedule=wsd")
  assert b"--config.optim.schedule=wsd" in shown


@pytest.mark.slow
def test_the_program_prints_keys_without_jax():
  code = "import sys; sys.argv = ['totojax', '--config=configs/1b.py', '--completion=keys']\n"
  code += "from totojax import main\ntry:\n  main.run()\nfinally:\n  print('jax' in sys.modules)"
  words = [sys.executable, "-c", code]
  done = subprocess.run(
    words, cwd=runs.ROOT, env=runs.environment(), capture_output=True, text=True
  )
  *lines, loaded = done.stdout.splitlines()
  assert "optim.schedule\tcosine wsd" in lines and loaded == "False", done.stderr
