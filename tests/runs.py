"""Running the program as its user does, and comparing what it left behind."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from absl import flags
from etils import epath
import jax
from ml_collections import config_flags, ConfigDict
import numpy as np
import orbax.checkpoint as ocp
import xla_flags

from totojax import failures, main, rundir
from totojax.config import arguments

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Whether each case is tried of which CI tries a few (docs/contributing.md).
EXHAUSTIVE = os.environ.get("TOTOJAX_EXHAUSTIVE", "0") != "0"


def load(path, *words) -> ConfigDict:
  """A config file as the command line reads it."""
  values, argv = flags.FlagValues(), ["totojax", f"--config={path}", *words]
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  values(argv)
  return values.config


def module(path: pathlib.Path):
  """A config file as a module, whatever folder it is in."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def command(config: str, workdir, *more: str) -> list[str]:
  return [sys.executable, "-m", "totojax.main", f"--config={config}", f"--workdir={workdir}", *more]


def smoke(stores: tuple[str, str], workdir, *more: str) -> list[str]:
  train, validation = stores
  return command(
    "configs/smoke.py",
    workdir,
    f"--config.data.train.moving.path={train}",
    f"--config.data.validation.moving={validation}",
    *more,
  )


def environment(devices: int = 1, **more: str) -> dict[str, str]:
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags.value(devices),
    "PYTHONPATH": str(ROOT),
    **more,
  }


def start(words: list[str], devices: int = 1, **variables: str) -> subprocess.Popen:
  return subprocess.Popen(
    words,
    env=environment(devices, **variables),
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )


def stopped(process: subprocess.Popen) -> subprocess.Popen:
  """Returns once a process has suspended itself; SIGCONT lets it go on."""
  end, number = time.monotonic() + 240, 0
  while not number:
    assert time.monotonic() < end, "it neither stands still nor has it ended"
    time.sleep(0.01)
    number, status = os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)
  assert os.WIFSTOPPED(status), process.stdout and process.stdout.read()
  return process


def start_and_stop(words: list[str], at: int, devices: int = 1) -> subprocess.Popen:
  """A run of pre-training that stands still at a step (`ailing`), however fast it is."""
  ailing = [words[0], "tests/ailing.py", *words[3:]]
  return stopped(start(ailing, devices, AILS="stop", AT=str(at)))


def finish(process: subprocess.Popen, *, code: int | None = 0) -> str:
  """Waits for the end, and returns what the process printed."""
  output, _ = process.communicate(timeout=240)
  if code is not None:
    assert process.returncode == code, output
  return output


def here(words: list[str], *, code: int = 0) -> str:
  """What a command prints that runs in this process, on its eight devices.

  For what is not about a process: an interpreter's start takes seconds.
  """
  printed, ended = io.StringIO(), 0
  config, rest = arguments.read(words[2:])
  with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    try:
      arguments.parse(rest)
      main.work(config.to_dict(), lambda step: False)
    except Exception as error:
      ended = ending(error)
    finally:
      flags.FLAGS.unparse_flags()
      flags.FLAGS(sys.argv[:1])  # as conftest does
  assert ended == code, printed.getvalue()
  return printed.getvalue()


def ending(error: Exception) -> int:
  """The exit status of an error that nobody handled; prints what a process would."""
  code = failures.status(error)
  if code == rundir.BUG:
    traceback.print_exception(error)
  print(failures.line(error))
  return code


def metrics(workdir) -> list[dict]:
  """Rows of metrics.jsonl without what differs between identical runs."""
  lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  for row in rows:
    del row["wall"]
  return rows


def checkpoint(workdir, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint by name."""
  path = epath.Path(workdir) / "checkpoints" / str(step) / "state"
  with ocp.PyTreeCheckpointer() as reader:
    found = reader.metadata(path).item_metadata.tree
    # As numpy: the devices that saved it may not be here.
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(found))
    tree = reader.restore(path, restore_args=arguments)
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in flat}


_LIST = bytes.fromhex("0cdb20de")  # how TensorStore's lists of values begin


def damage(step, *, process: str = "*") -> None:
  """Changes the values of all arrays in a checkpoint's folder, or those that one host wrote.

  Of its files the largest can be a list that a later one replaced, which stays
  and is not read.
  """
  files = list(pathlib.Path(step, "state").glob(f"ocdbt.process_{process}/d/*"))
  values = {path: path.read_bytes() for path in files}
  values = {path: value for path, value in values.items() if not value.startswith(_LIST)}
  assert values, files
  for path, value in values.items():
    path.write_bytes(bytes(byte ^ 0x5A for byte in value))


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
  """Bit-equal arrays under equal names."""
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)
