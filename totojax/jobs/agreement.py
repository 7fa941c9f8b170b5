"""What all processes of a run must have been started with alike, and whether they were."""

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import platform
from typing import Any

from etils import epath
import jax

import totojax
from totojax import jobs
from totojax.config import schema
from totojax.data.pixels import containers
from totojax.rundir import directory, peers, provenance
from totojax.storage import objects

# Of the command line; not --coordinator, as each may know process 0 by another name.
_FLAGS = (
  "processes",
  "host_timeout_s",
  "start_timeout_s",
  "storage_timeout_s",
  "allow_changed_config",
  "allow_other_versions",
)
# Settings of jax that decide what is compiled; they may be in the environment.
_SETTINGS = (
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
)
# What XLA compiles hangs on these as well, but for where it writes what it did.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_DUMPS = "--xla_dump"


def typed(values: Mapping[str, Any], workdir: epath.Path, flags: Any) -> Any:
  """`jobs.typed` of a config that all processes have, with the same of all else.

  Before anything is asked of the devices, where those that were started
  otherwise would wait for each other for ever. The data are compared once they
  are open (`hosts.check_data`).

  Args:
    values: the config as it was given.
    workdir: of the run.
    flags: absl's, parsed.

  Raises:
    ConfigError: of this process's config; or a process, which it names, was
      started otherwise, with the keys that differ.
  """
  config, error = None, None
  try:
    config = jobs.typed(values, workdir)
  except Exception as caught:  # the others wait here, and are to know why it ends
    error = caught
  table = _table(config, workdir, flags) if error is None else {peers.REFUSED: str(error)}
  try:
    peers.agree(table, patience_s=flags.start_timeout_s)
  except ValueError:
    if error is None:
      raise
  if error is not None:
    raise peers.last(error)
  return config


def _table(config: Any, workdir: epath.PathLike, flags: Any) -> dict[str, str]:
  """Name -> value, of what this process was started with."""
  keys = directory.flat({"config": json.loads(json.dumps(schema.to_dict(config)))})
  place = objects.text(workdir)
  found = {
    "--workdir": place if objects.is_url(place) else os.path.abspath(place),
    **{f"--{name}": getattr(flags, name) for name in _FLAGS},
    **keys,
    **{f"source of config.{key}": digest for key, digest in schema.digests(config).items()},
    "source of totojax": _digest(pathlib.Path(totojax.__file__).parent),
    "version of Python": platform.python_version(),
    **{f"version of {name}": text for name, text in _versions(config.run).items()},
    **{name: getattr(jax.config, name, None) for name in _SETTINGS},
    **{name: _compiler_flags(name) for name in _VARIABLES},
  }
  return {name: str(value) for name, value in found.items()}


def _compiler_flags(variable: str) -> str:
  """Of the environment, in an order of their own; of two alike the last one counts."""
  words = [word for word in os.environ.get(variable, "").split() if not word.startswith(_DUMPS)]
  return " ".join(sorted({word.partition("=")[0]: word for word in words}.values()))


def _versions(job: str) -> dict[str, str]:
  """Of the packages, and where videos are decoded, of what decodes them."""
  found = provenance.packages()
  if job == "tokenize" and "av" in found:
    found |= containers.versions()
  return found


def _digest(package: pathlib.Path) -> str:
  """Of the code that this process runs: a checkout may be at any commit."""
  digest = hashlib.sha256()
  for path in sorted(package.rglob("*.py")):
    digest.update(f"{path.relative_to(package)}\n".encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:16]
