"""What is wrong with a machine, an installation, a store or a run, and what to do about it.

  python -m totojax.main --config=configs/doctor.py
  python -m totojax.doctor            where the line above fails: it needs Python alone

Whatever is looked at may be broken. So nothing but Python's own library is
imported here; what could crash or hang (jax, OpenGL, optional packages) is tried
in processes of its own, within a time; and a check that fails in a way nobody
foresaw is a row of the table like any other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import concurrent.futures
import dataclasses
import glob
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from typing import Any
import uuid

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"
GIB = 2**30
OLDEST, TESTED = (3, 11), ("3.11", "3.13")
DISK_GIB, MEMORY_GIB = 5.0, 4.0  # with less a line warns; configs/demo.py takes 0.1 and 2
FILES = 1024  # open at a time, that a run may want
CACHE_GIB = 10.0  # of compiled programs, above which a line warns
# Extra -> modules that are tried.
EXTRAS: Mapping[str, tuple[str, ...]] = {
  "data": ("av", "skimage"),
  "web": ("starlette", "uvicorn"),
  "world": ("mujoco",),
  "robots": ("h5py",),
  "beam": ("apache_beam",),
  "encoders": ("torch", "transformers"),
  "tpu": ("libtpu",),
  "cuda": ("jax_cuda13_plugin",),
  "notebook": ("nbclient", "ipykernel"),
}
_FOUND_ALONE = ("libtpu", "jax_cuda13_plugin")  # importing them would claim a device
_MODULES = {"skimage": "scikit-image", "apache_beam": "apache-beam"}  # as pip calls them
_GPU_FILES, _TPU_FILES = ("/dev/nvidia[0-9]*",), ("/dev/accel*", "/dev/vfio/[0-9]*")

_DEVICES = """
import json
try:
  from totojax.rundir import console
  console.before_jax()
  console.after_jax()
except Exception:
  pass
import jax, jax.numpy as jnp
devices = jax.devices()
x = jnp.ones((64, 64))
memory = [(d.memory_stats() or {}).get("bytes_limit") for d in devices[:1]]
print(json.dumps({"kind": devices[0].device_kind, "platform": devices[0].platform,
  "count": len(devices), "bytes": memory[0], "sum": float((x @ x).sum())}))
"""
_IMPORTS = """
import importlib, json, sys
for name in sys.argv[1:]:
  print(json.dumps([name, "begun"]), flush=True)
  try:
    importlib.import_module(name)
    why = ""
  except BaseException as error:
    why = f"{type(error).__name__}: {error}".strip() or "?"
  print(json.dumps([name, why]), flush=True)
"""
_OPENGL = """
import json
from totojax.world import processes
if __name__ == "__main__":
  with processes.Pool(1) as pool:
    print(json.dumps(pool.backend()))
"""
_CODECS = """
import json, av
from av.codec import Codec
def has(name, mode):
  try:
    return bool(Codec(name, mode))
  except Exception:
    return False
print(json.dumps({
  "decoders": [n for n in ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg") if has(n, "r")],
  "encoders": [n for n in ("libx264", "libopenh264", "libvpx-vp9", "mpeg4") if has(n, "w")],
  "version": av.__version__}))
"""


@dataclasses.dataclass(frozen=True)
class Check:
  """One row of the table."""

  name: str  # what was looked at
  status: str  # one of OK, NOTE, WARN, FAIL
  found: str
  advice: str = ""  # what to do; "" where all is well


def checks(workdir: str, paths: Iterable[str] = (), *, timeout_s: float = 120.0) -> list[Check]:
  """Looks at everything, some of it at the same time.

  Args:
    workdir: where runs are to be made; need not exist. A folder, or gs://.
    paths: stores, run directories, or folders of videos and images.
    timeout_s: that a device, OpenGL or a package may take to start.
  """
  parts: list[tuple[str, Callable[[], Iterable[Check]]]] = [
    ("python", _python),
    ("packages", _packages),
    ("devices", lambda: _devices(timeout_s)),
    ("extras", lambda: _extras(timeout_s)),
    ("memory", _memory),
    ("open files", _open_files),
    ("workdir", lambda: _folder("workdir", workdir)),
    ("temporary files", lambda: _folder("temporary files", tempfile.gettempdir())),
    ("compilation cache", _compiled),
    *((path, lambda path=path: _path(path)) for path in paths),
  ]
  with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
    found = pool.map(lambda part: _tried(*part), parts)
    return [check for rows in found for check in rows]


def _tried(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
  """The rows of a part, whatever happens in it."""
  try:
    return list(look())
  except Exception as error:
    why = f"could not be looked at: {type(error).__name__}: {_brief(str(error))}"
    return [Check(name, FAIL, why, "mend what the line says, then run this again")]


def _brief(text: str, most: int = 200) -> str:
  """The last line of a text."""
  lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
  return lines[-1][-most:] if lines else "it says nothing"


def _child(code: str, *words: str, timeout_s: float) -> tuple[str, str]:
  """What a process prints, and why it ended badly ("": it did not)."""
  here = os.fspath(pathlib.Path(__file__).resolve().parent.parent)
  path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "tried.py")  # children of it must find it
    file.write_text(code, encoding="utf-8")
    try:
      done = subprocess.run(
        [sys.executable, os.fspath(file), *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
      )
    except subprocess.TimeoutExpired as error:
      printed = error.stdout or b""
      text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
      return text, f"no answer within {timeout_s:g} s"
  if done.returncode < 0:
    return done.stdout, f"it died of signal {-done.returncode}"
  return done.stdout, _brief(done.stderr) if done.returncode else ""


def _answer(code: str, timeout_s: float) -> tuple[Any, str]:
  """The JSON of a child's last line, and why there is none."""
  printed, why = _child(code, timeout_s=timeout_s)
  if why:
    return None, why
  return json.loads(printed.strip().splitlines()[-1]), ""


def _python() -> Iterator[Check]:
  version = platform.python_version()
  if sys.version_info[:2] < OLDEST:
    yield Check("python", FAIL, version, "use Python 3.11 or newer, in a new venv")
  elif not version.startswith(TESTED):
    yield Check("python", NOTE, f"{version}; tested are {' and '.join(TESTED)}")
  else:
    yield Check("python", OK, f"{version}, {sys.prefix}")
  if sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
    yield Check(
      "venv", NOTE, "none", "python3 -m venv .venv && . .venv/bin/activate keeps it apart"
    )


def _packages() -> Iterator[Check]:
  """What the project, jax and its plugins require, against what is there."""
  for name in ("totojax", "jax", "jaxlib"):
    try:
      version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      how = (
        "pip install -e . in the clone, or the wheel" if name == "totojax" else "pip install jax"
      )
      status = NOTE if name == "totojax" else FAIL
      yield Check(name, status, "not installed", how)
      continue
    wrong = list(_unmet(name))
    advice = f"pip install -U {' '.join(repr(one) for one, _ in wrong)}"
    told = "; ".join(f"wants {one}, and here is {found}" for one, found in wrong)
    yield Check(
      name, FAIL if wrong else OK, f"{version}{told and f': {told}'}", advice if wrong else ""
    )
  for path in importlib.metadata.distributions():
    name, version = path.name or "", path.version
    if name.startswith(("jax-cuda", "jax_cuda")) and version != importlib.metadata.version(
      "jaxlib"
    ):
      found = f"{version}, and jaxlib is {importlib.metadata.version('jaxlib')}"
      yield Check(name, FAIL, found, "pip install -U 'jax[cuda13]' makes them one version")


def _unmet(name: str) -> Iterator[tuple[str, str]]:
  """(requirement, version that is there) of what a package requires and has not."""
  try:
    from packaging import requirements
  except ImportError:  # nothing of ours needs it, and who installs has it
    return
  for line in importlib.metadata.requires(name) or ():
    wanted = requirements.Requirement(line)
    if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
      continue
    try:
      version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
      yield f"{wanted.name}{wanted.specifier}", "none"
      continue
    if not wanted.specifier.contains(version, prereleases=True):
      yield f"{wanted.name}{wanted.specifier}", version


def _devices(timeout_s: float) -> Iterator[Check]:
  chosen = os.environ.get("JAX_PLATFORMS", "")
  facts, why = _answer(_DEVICES, timeout_s)
  if why:
    advice = "pip install -U jax jaxlib; and python -c 'import jax; jax.devices()' says more"
    if "no answer" in why:
      advice = "does another process hold the device? JAX_PLATFORMS=cpu does without it"
    elif chosen:
      advice = f"JAX_PLATFORMS is {chosen}: unset it, or mend that device's driver"
    yield Check("devices", FAIL, why, advice)
    return
  memory = f", {facts['bytes'] / GIB:.0f} GiB each" if facts["bytes"] else ""
  found = f"{facts['count']} x {facts['kind']}{memory}"
  if facts["sum"] != 64.0**3:
    yield Check("devices", FAIL, f"{found}: a product of ones is wrong", "do not use this device")
    return
  for what, files, extra in ("GPU", _GPU_FILES, "cuda"), ("TPU", _TPU_FILES, "tpu"):
    if facts["platform"] == "cpu" and any(map(glob.glob, files)):
      advice = f"pip install 'totojax[{extra}]'"
      if chosen:
        advice = f"JAX_PLATFORMS is {chosen}: unset it; else {advice}"
      yield Check("devices", WARN, f"{found}, and a {what} that is not used", advice)
      return
  yield Check("devices", OK, found + (f" (JAX_PLATFORMS={chosen})" if chosen else ""))


def _extras(timeout_s: float) -> Iterator[Check]:
  there = {
    name: importlib.util.find_spec(name) is not None
    for modules in EXTRAS.values()
    for name in modules
  }
  wrong = dict(_imported([n for n in there if there[n] and n not in _FOUND_ALONE], timeout_s))
  for extra, modules in EXTRAS.items():
    install = f"pip install 'totojax[{extra}]'"
    broken = [f"{name}: {wrong[name]}" for name in modules if wrong.get(name)]
    missing = [name for name in modules if not there[name]]
    if broken:
      names = " ".join(_MODULES.get(name, name) for name in modules)
      advice = f"pip install --force-reinstall {names}, or pip uninstall it"
      yield Check(f"extra {extra}", WARN, "; ".join(broken), advice)
    elif missing:
      yield Check(
        f"extra {extra}", NOTE, f"no {', '.join(missing)}", f"where you want it: {install}"
      )
    else:
      yield Check(f"extra {extra}", OK, ", ".join(map(_version, modules)))
  if there.get("av") and not wrong.get("av"):
    yield from _codecs(timeout_s)
  if there.get("mujoco") and not wrong.get("mujoco"):
    backend, why = _answer(_OPENGL, timeout_s)
    advice = "Debian: apt-get install libegl1 libegl-mesa0 libosmesa6; MUJOCO_GL=osmesa chooses"
    yield Check("OpenGL", WARN if why else OK, why or backend, advice if why else "")


def _version(module: str) -> str:
  name = _MODULES.get(module, module)
  try:
    return f"{name} {importlib.metadata.version(name)}"
  except importlib.metadata.PackageNotFoundError:
    return name


def _imported(names: list[str], timeout_s: float) -> Iterator[tuple[str, str]]:
  """(module, why it cannot be imported) of each; one that kills its process too."""
  while names:
    printed, why = _child(_IMPORTS, *names, timeout_s=timeout_s)
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
    ended = {name: told for name, told in rows if told != "begun"}
    yield from ((name, _brief(told) if told else "") for name, told in ended.items())
    left = [name for name in names if name not in ended]
    if left and why:  # the first of them was being imported
      yield left.pop(0), why
    elif left:
      yield from ((name, "nothing is known of it") for name in left)
      return
    names = left


def _codecs(timeout_s: float) -> Iterator[Check]:
  facts, why = _answer(_CODECS, timeout_s)
  again = "pip install --force-reinstall av: the wheel has them all"
  if why:
    yield Check("PyAV", WARN, why, again)
    return
  missing = [name for name in ("h264", "vp9", "av1") if name not in facts["decoders"]]
  if missing:
    yield Check("PyAV", WARN, f"cannot decode {', '.join(missing)}", again)
  elif "libx264" not in facts["encoders"]:
    yield Check("PyAV", WARN, "cannot write H.264", f"{again}; or --config.output.codec=mpeg4")
  else:
    found = f"decodes {', '.join(facts['decoders'])}; writes {', '.join(facts['encoders'])}"
    yield Check("PyAV", OK, found)


def _memory() -> Iterator[Check]:
  """What is free, or what this container may have, whichever is less."""
  free = None
  with open("/proc/meminfo", encoding="utf-8") as file:
    for line in file:
      if line.startswith("MemAvailable:"):
        free = int(line.split()[1]) * 1024
  for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
    try:
      limit = int(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max"
      continue
    free = limit if free is None else min(free, limit)
  if free is None:
    yield Check("memory", NOTE, "not known")
    return
  found = f"{free / GIB:.1f} GiB free, {os.cpu_count()} cores"
  if free < MEMORY_GIB * GIB:
    yield Check("memory", WARN, found, "end other programs, or take smaller batches")
  else:
    yield Check("memory", OK, found)


def _open_files() -> Iterator[Check]:
  import resource  # which Windows has not

  limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  if 0 <= limit < FILES:
    yield Check("open files", WARN, f"at most {limit}", "ulimit -n 65536")
  else:
    yield Check("open files", OK, f"at most {limit}")


def _folder(name: str, folder: str) -> Iterator[Check]:
  """Whether a folder can be written, which may not exist yet, and how much room it has."""
  if "://" in folder:
    yield from _bucket(name, folder)
    return
  there = pathlib.Path(folder).expanduser().absolute()
  while not there.exists() and there != there.parent:
    there = there.parent
  other = "name another with --workdir" if name == "workdir" else "set TMPDIR to another folder"
  file = there / f".doctor-{uuid.uuid4().hex}"
  try:  # as files of a run are made: written aside, then renamed
    try:
      with open(file, "wb") as written:
        written.write(b"1" * 4096)
        written.flush()
        os.fsync(written.fileno())
      file.replace(file.with_suffix(".part"))
    finally:
      file.unlink(missing_ok=True)
      file.with_suffix(".part").unlink(missing_ok=True)
  except OSError as error:
    yield Check(name, FAIL, f"{there} cannot be written: {error.strerror}", other)
    return
  free = shutil.disk_usage(there).free / GIB
  low = free < DISK_GIB
  found = f"{folder}: can be written, {free:.1f} GiB free"
  yield Check(name, WARN if low else OK, found, f"free space there, or {other}" if low else "")


def _bucket(name: str, folder: str) -> Iterator[Check]:
  from totojax import storage
  from totojax.storage import door

  storage.check_run(folder, data=True)
  door.check(folder, say=lambda line: None)
  yield Check(name, OK, f"{folder}: can be written")


def _compiled() -> Iterator[Check]:
  """Where compiled programs are kept, and how large that is."""
  from totojax.rundir import console

  name = "compilation cache"
  if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
    advice = "unset JAX_ENABLE_COMPILATION_CACHE, and runs start faster"
    yield Check(name, NOTE, "turned off", advice)
    return
  folder = console.keep_compiled()
  if not folder:
    advice = "name a folder that can be written, JAX_COMPILATION_CACHE_DIR"
    yield Check(name, WARN, "none: ~/.cache cannot be written", advice)
  elif "://" in folder:
    yield Check(name, OK, folder)
  else:
    files = [entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()]
    size = sum(files) / GIB
    found, large = f"{folder}: {len(files)} files, {size:.2f} GiB", size > CACHE_GIB
    advice = f"rm -r {folder}: what is needed is compiled again"
    yield Check(name, WARN if large else OK, found, advice if large else "")


def _path(path: str) -> Iterator[Check]:
  """What a folder is: a store, a run, pixels; and whether it is whole."""
  from totojax.rundir import files

  if "://" not in path and not os.path.exists(path):
    yield Check(path, FAIL, "there is nothing", "check the path")
  elif files.exists(f"{path}/config.json"):
    yield _run(path)
  elif files.exists(f"{path}/manifest.json"):
    yield _store(path)
  else:
    below = [
      name for name in ("train", "val", "all") if files.exists(f"{path}/{name}/manifest.json")
    ]
    yield from (_store(f"{path}/{name}") for name in below)
    if not below and "://" not in path:
      count = sum(len(names) for _, _, names in os.walk(path))
      status, advice = (NOTE, "") if count else (FAIL, "check the path")
      yield Check(path, status, f"no store and no run: {count} files", advice)
    elif not below:
      yield Check(path, FAIL, "no store and no run", "check the path")


def _store(path: str) -> Check:
  from totojax.data.store import manifests, store

  try:
    head = manifests.existing(path)
    # Opening compares the first and last record of each shard with the manifest.
    store.open_store(path, tokenizer=None, vocab=None, grid=None)
  except Exception as error:
    return Check(path, FAIL, _brief(str(error)), "restore it from a copy, or make it again")
  found = f"{head.records:,} {head.kind}s in {len(head.shards)} shards"
  found += (
    f", {head.grid} x {head.grid} tokens" if head.vocab else f", {head.size_px} pixels a side"
  )
  if not head.complete:
    return Check(path, WARN, f"{found}, not complete", "run the command that makes it again")
  return Check(path, OK, found)


def _run(path: str) -> Check:
  from etils import epath

  from totojax.rundir import files

  try:
    written = files.read_json(f"{path}/config.json")
    manifest = f"{path}/manifest.json"
    facts = files.read_json(manifest) if files.exists(manifest) else {}
  except Exception as error:
    return Check(path, FAIL, _brief(str(error)), "restore it from a copy")
  found = f"run {written.get('run')!r}"
  if files.exists(f"{path}/done.json"):
    return Check(path, OK, f"{found}, done")
  folder = epath.Path(path) / "checkpoints"
  steps = (
    [int(p.name) for p in files.children(folder) if p.name.isdigit()] if folder.exists() else []
  )
  if steps:
    found += f", checkpoint of step {max(steps):,} of {facts.get('steps', '?')}"
  return Check(
    path, NOTE, f"{found}, not done", f"go on: {facts.get('command', 'its command again')}"
  )


def failed(rows: Iterable[Check]) -> list[str]:
  """The names of what must be mended."""
  return [row.name for row in rows if row.status == FAIL]


def show(rows: list[Check], *, as_json: bool = False) -> None:
  """Prints a table, or JSON: a list of objects with the keys of `Check`."""
  if as_json:
    print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2), flush=True)
    return
  try:
    from rich import box, console, table
  except ImportError:
    for row in rows:
      print(
        f"{row.status:<5} {row.name}: {row.found}{row.advice and f' -> {row.advice}'}", flush=True
      )
    return
  colours = {OK: "green", NOTE: "dim", WARN: "yellow", FAIL: "bold red"}
  grid = table.Table(box=box.SIMPLE)
  for title in ("", "what", "found", "what to do"):
    grid.add_column(title, overflow="fold")  # a path is told whole
  for row in rows:
    status = f"[{colours[row.status]}]{row.status}[/]"
    cells = (text.replace("[", "\\[") for text in (row.name, row.found, row.advice))
    grid.add_row(status, *cells)
  console.Console().print(grid)


def main(words: list[str]) -> int:
  """`python -m totojax.doctor [--json] [PATH ...]`; the exit status: 2 where something failed."""
  if {"-h", "--help"} & {*words}:
    print(__doc__)
    return 0
  paths = [word for word in words if word != "--json"]
  rows = checks("runs", paths)
  show(rows, as_json="--json" in words)
  return 2 if failed(rows) else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
