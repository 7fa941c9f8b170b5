"""What a run was: when, by which command, with what code, on which machine.

A result can be made again only where all of this is known, so `directory.begin`
writes it into the manifest of every run, and every report ends with it. So is
what it reads, which must be the same when it goes on: the manifest, and the
meta data of checkpoints, have for each of its data sets what
`Manifest.identity` gives: a digest of the records in their order, and how many
there are, of which items and tokenizer.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

import totojax

# What decides numbers: every run needs the first, some use the others.
_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "tensorstore",
  "numpy",
  "ml-collections",
  "chex",
  "pillow",
  "scipy",
)
_OPTIONAL = ("av", "scikit-image", "libtpu")
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_PATIENCE_S = 2.0  # with a program that is asked for a fact


def environment() -> dict[str, Any]:
  """The facts of this start, as JSON has them.

  `git` is None where the package is not part of a git checkout; jax's devices
  are started.
  """
  devices = jax.devices()
  return {
    "started": _now(),
    "command": shlex.join(sys.orig_argv),
    "git": git(_PACKAGE),
    "versions": packages(),
    "python": platform.python_version(),
    "machine": {
      "system": f"{platform.system()} {platform.machine()}",
      "cpu": processor(),
      "cores": cores(),
    },
    "devices": {"kind": devices[0].device_kind, "count": len(devices)},
    "processes": jax.process_count(),
  }


def packages() -> dict[str, str]:
  """The versions of what decides numbers."""
  return {"totojax": totojax.__version__, **versions(_PACKAGES), **_installed(_OPTIONAL)}


def versions(packages: Iterable[str]) -> dict[str, str]:
  """The version of each package, "not installed" where it is missing."""
  packages = tuple(packages)
  return dict.fromkeys(packages, "not installed") | _installed(packages)


def _installed(packages: Iterable[str]) -> dict[str, str]:
  """The version of each package that is there."""
  versions = {}
  for name in packages:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _now() -> str:
  """2025-01-31T13:05:00+00:00: the time, by the clock of UTC."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# Once a process: it runs the code that it has read, whatever is changed since.
@functools.cache
def git(folder: pathlib.Path) -> dict[str, Any] | None:
  """{"commit": 40 digits, "clean": no tracked file is changed} of a folder.

  None where there is no git, no checkout, or only one that does not hold the
  folder's files, as that of a project whose .venv has the package. Neither an
  error nor a wait: git gets 2 seconds.
  """
  if _told(["git", "ls-files", "--error-unmatch", "__init__.py"], folder):
    status = _told(["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"], folder)
    head, *changes = status.splitlines() or [""]
    words = head.split()
    if words[:2] == ["#", "branch.oid"] and words[2] != "(initial)":
      clean = all(line.startswith("#") for line in changes)
      return {"commit": words[2], "clean": clean}
  return None


@functools.cache
def processor() -> str:
  """The CPU's name, as "AMD EPYC 9R14"."""
  path = pathlib.Path("/proc/cpuinfo")
  if path.exists():
    for line in path.read_text(encoding="utf-8").splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  if platform.system() == "Darwin":
    if name := _told(["sysctl", "-n", "machdep.cpu.brand_string"]):
      return name.strip()
  return platform.processor() or platform.machine()


def cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _told(words: Sequence[str], folder: pathlib.Path | None = None) -> str:
  """What a program prints; nothing if it fails, is missing or takes long."""
  # A hook of git names the repository that it belongs to.
  clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
  try:
    return subprocess.run(
      words,
      cwd=folder,
      env=clean | {"GIT_OPTIONAL_LOCKS": "0"},
      encoding="utf-8",
      errors="replace",
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      timeout=_PATIENCE_S,
      check=True,
    ).stdout
  except (OSError, subprocess.SubprocessError, ValueError):
    return ""


_others_allowed = False  # by --allow_other_versions


def allow_other_versions(allow: bool) -> None:
  """Whether data may be gone on with under other versions of what makes it."""
  global _others_allowed
  _others_allowed = allow


def other_versions_allowed() -> bool:
  return _others_allowed


def check_versions(
  path: str, before: Sequence[Mapping[str, str]], here: Sequence[Mapping[str, str]]
) -> None:
  """Whether data that was begun under some versions may be gone on with here.

  Args:
    path: of the data.
    before: versions by package; several where it was made under several.
    here: those of this process.

  Raises:
    ValueError: they differ, and --allow_other_versions was not given.
  """
  if _others_allowed or all(versions in before for versions in here):
    return
  lists = [
    " or ".join(", ".join(f"{name} {version}" for name, version in each.items()) for each in all_)
    for all_ in (before, here)
  ]
  raise ValueError(
    f"{path} was begun with {lists[0] or 'unknown versions'}, and here is {lists[1]}: the same"
    " files may become other pixels. Install the versions it was begun with, or go on with these"
    " by --allow_other_versions (the manifest names both)"
  )


DATA = "data"  # key of manifest.json, and of a checkpoint's meta data
Identities = Mapping[str, Mapping[str, Any]]  # config key of a data set -> its identity

_other_data_allowed = False  # by --allow_changed_config


class DataChanged(ValueError):
  """A run that would go on with other data than it was begun with."""


def allow_other_data(allow: bool) -> None:
  """Whether runs may go on with other data than they were begun with."""
  global _other_data_allowed
  _other_data_allowed = allow


def are_identities(values: Any) -> bool:
  """Whether what a file has for them is of their types."""
  rows = list(values.values()) if isinstance(values, dict) else [None]
  return all(isinstance(row, dict) and isinstance(row.get("digest"), str) for row in rows)


def data_changes(before: Identities, now: Identities) -> dict[str, str]:
  """Data set -> what is otherwise, of those that are in both."""
  return {
    name: data_change(before[name], now[name])
    for name in now
    if name in before and before[name]["digest"] != now[name]["digest"]
  }


def data_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """What is otherwise in one of two identities that differ."""
  for what, unit in (("tokenizer", ""), ("records", " records")):
    if before.get(what) != now.get(what):
      name = what if not unit else ""
      return f"{name} {now.get(what)}{unit} instead of {before.get(what)}".strip()
  if before.get("items") == now.get("items"):
    return f"the same {now['records']} items in another order, or with other contents"
  return f"{now['records']} other records"


def check_data(workdir: Any, before: Identities, now: Identities) -> None:
  """Raises DataChanged unless a run may go on with the data that it has now."""
  told = data_changes(before, now)
  listed = "; ".join(f"{name}: {what}" for name, what in told.items())
  if told and _other_data_allowed:
    print(f"{workdir} goes on with other data than it was begun with ({listed})", flush=True)
  elif told:
    raise DataChanged(
      f"{workdir} was begun with other data ({listed}). Restore the data, use another --workdir,"
      " or pass --allow_changed_config to go on with what is there now"
    )
