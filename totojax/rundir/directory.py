"""The run directory: config, manifest, done marker, and who may write it.

Only process 0 writes. Every file appears whole (`files`), but for
`metrics.jsonl`, which grows by lines (`metrics`).
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax

from totojax import plugins
from totojax.config import roots, schema
from totojax.rundir import console, files, hosts, lock, provenance

# In the config of a chain's stage: the chain's folder, which is the one above
# the stage's own. config.json keeps it unfilled, so that a chain can be moved.
WORKDIR = "{workdir}"
# Keys that change nothing of what a run computes, and are wanted once it has ended badly,
# or on another machine; in a chain after the stage's name.
_FREE = ("checkpoint.skip_damaged", "every.watchdog_s", "processes")
_ADVICE = "Use another --workdir, or pass --allow_changed_config to go on with the new values"


class ConfigChanged(schema.ConfigError):
  """A run directory that was made with another config."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"model.width": 768, ...} of nested dicts."""
  out = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      out |= flat(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = list(value) if isinstance(value, tuple) else value
  return out


def fill(value: Any, folder: epath.PathLike) -> Any:
  """`value` with `folder` for "{workdir}" in every string below it."""
  if isinstance(value, Mapping):
    return {key: fill(below, folder) for key, below in value.items()}
  if isinstance(value, tuple | list):
    return type(value)(fill(below, folder) for below in value)
  if isinstance(value, str):
    return value.replace(WORKDIR, os.fspath(folder))
  return value


def typed(config: Any, folder: epath.PathLike | None = None) -> Any:
  """The typed config of a job, of which `written` is still as it was given.

  Args:
    config: nested mappings, or typed already.
    folder: for a stage of a chain, what "{workdir}" is in what its job reads.

  Raises:
    ConfigError: a key is missing, unknown, mistyped or out of range.
  """
  if folder is None and not isinstance(config, Mapping):
    return config
  plain = written(config)
  result = roots.read(plain if folder is None else fill(plain, folder))
  # Beside its keys, so that whoever changes a key writes what it has become.
  object.__setattr__(result, "_written", plain)
  return result


def annotated(config: Any, **more: Any) -> Any:
  """A typed config of which config.json says `more` than its keys."""
  copy = dataclasses.replace(config)
  object.__setattr__(copy, "_written", {**written(config), **more})
  return copy


def decided(config: Any, section: str, **keys: Any) -> Any:
  """A typed config, and what config.json says of it, with keys that were left open."""
  plain = written(config)
  copy = dataclasses.replace(
    config, **{section: dataclasses.replace(getattr(config, section), **keys)}
  )
  object.__setattr__(copy, "_written", {**plain, section: {**plain[section], **keys}})
  return copy


def written(config: Mapping[str, Any] | schema.Dataclass) -> Mapping[str, Any]:
  """What config.json says of a config, whose "{workdir}" may be filled in."""
  if isinstance(config, Mapping):
    return config
  return getattr(config, "_written", None) or schema.to_dict(config)


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The config that a run was made with, "{workdir}" filled in.

  Raises:
    FileNotFoundError: there is no such run.
    files.Damaged: config.json is damaged.
  """
  workdir = epath.Path(workdir)
  path = workdir / "config.json"
  if not files.exists(path):
    from totojax.storage import buckets

    buckets.check_bucket(workdir)
    raise FileNotFoundError(f"{workdir} is not a run directory (no config.json)")
  return fill(files.read_json(path), workdir.parent)


def check_config(
  workdir: epath.PathLike, config: Any, *, allow_change: bool, advice: str = _ADVICE
) -> epath.Path:
  """The run directory, if it is new or was made with this config.

  Args:
    workdir: the run directory.
    config: what is to run in it.
    allow_change: whether to take a run that was made with another.
    advice: what to do otherwise; ends the message.

  Raises:
    ConfigChanged: it was made with another config; names the keys that differ.
    PluginError: what it names of the user's cannot be read.
  """
  workdir = epath.Path(workdir)
  if allow_change or not files.exists(workdir / "config.json"):
    return workdir
  try:
    old = flat(_filled(read_config(workdir)))
  except ValueError as error:
    raise ConfigChanged(f"{error}; restore it. {advice}") from error
  # Through JSON, so that tuples and lists compare as what is on disk.
  plain = fill(written(config), workdir.parent)
  new = flat(json.loads(json.dumps(plain)))
  old |= _plugins_then(workdir)
  new |= _plugins_now(config)
  lines = [
    f"{key}: {old.get(key, '(absent)')!r} -> {new.get(key, '(absent)')!r}"
    for key in sorted(old.keys() | new.keys())
    if not f".{key}".endswith(tuple(f".{free}" for free in _FREE))
    and (key not in old or key not in new or old[key] != new[key])
  ]
  if old.get("run") != new.get("run"):
    raise ConfigChanged(
      f"{workdir} is a run directory of {old.get('run')!r}, and this is {new.get('run')!r};"
      " use another --workdir"
    )
  if lines:
    raise ConfigChanged(
      f"{workdir} was made with another config:\n  " + "\n  ".join(lines) + f"\n{advice}"
    )
  return workdir


def _filled(config: dict[str, Any]) -> Mapping[str, Any]:
  """An old config with the defaults of keys that there were not yet."""
  try:
    return schema.to_dict(roots.read(config, fill=True))
  except ValueError:  # its keys were others: compared as they are
    return config


def _plugins_now(config: Any) -> dict[str, str]:
  """ "source of KEY" -> digest, of what a config names of the user's."""
  try:
    config = typed(config)
  except plugins.PluginError:  # a file that is gone is told as that
    raise
  except ValueError:  # the job says what is wrong with it
    return {}
  return {f"source of {key}": digest for key, digest in schema.digests(config).items()}


def _plugins_then(workdir: epath.Path) -> dict[str, str]:
  """The same as the run was begun, in its manifest."""
  try:
    digests = dict(files.read_json(workdir / "manifest.json").get("plugins", {}))
  except (OSError, ValueError):
    return {}
  return {f"source of {key}": digest for key, digest in digests.items()}


def begin(
  workdir: epath.Path,
  config: Mapping[str, Any] | schema.Dataclass,
  *,
  data: provenance.Identities | None = None,
  saved: Callable[[], Mapping[str, Any]] = dict,
  **facts: Any,
) -> None:
  """Writes config.json and manifest.json: from here on the folder is a run.

  Called once everything that the config asks for could be built, so that a
  mistake in it leaves no run behind that refuses the correction. Until this
  process ends, or `mark_done`, no other may begin in the folder. All processes
  of the run call it, and one that may not begin ends them all.

  The manifest of a run that is started again keeps `provenance.environment` of
  its first start; each later one is a row of "starts", with what was otherwise
  then. `facts` are those of the last start, as config.json is.

  Args:
    workdir: the run directory.
    config: of the run.
    data: what it reads: the same on all hosts, and as it was begun with.
    saved: gives the meta data of its newest checkpoint, which knows the data
      where the manifest was lost.
    **facts: for the manifest.

  Raises:
    provenance.DataChanged: its data are others.
    InUse: another process is at work in it.
    ValueError: it cannot be written.
  """
  if data is not None:
    hosts.check_data(data)
    facts[provenance.DATA] = dict(data)
  hosts.first(lambda: _begin(workdir, config, facts, saved))


def forget(workdir: epath.Path) -> None:
  """Takes the beginning back where a first start left nothing else.

  So that code of the user's that failed before anything was made can be
  corrected: its digest is part of what a run is, see `check_config`. Without a
  checkpoint the log begins anew as well.
  """
  names = {path.name for path in files.children(workdir)}
  rest = {name for name in names if not name.startswith(".")} - {"tensorboard", "metrics.jsonl"}
  if jax.process_index() or rest != {"config.json", "manifest.json"}:
    return
  if "starts" not in files.read_json(workdir / "manifest.json"):
    files.remove(workdir / "config.json")
    files.remove(workdir / "manifest.json")


def _begin(
  workdir: epath.Path,
  config: Mapping[str, Any] | schema.Dataclass,
  facts: dict[str, Any],
  saved: Callable[[], Mapping[str, Any]],
) -> None:
  try:
    files.make_folder(workdir)
    lock.take(workdir)
  except OSError as error:
    raise ValueError(
      f"the run directory {workdir} cannot be made ({error.strerror}); give"
      " --workdir a folder that can be written"
    ) from error
  # Before a file is replaced: what is refused leaves the run as it was.
  try:
    manifest = _manifest(workdir, facts, saved)
  except (provenance.DataChanged, files.Damaged):
    lock.release(workdir)
    raise
  files.write_json(workdir / "config.json", written(config), sealed=True)
  if dataclasses.is_dataclass(config):
    if digests := schema.digests(config):
      manifest["plugins"] = digests
  files.write_json(workdir / "manifest.json", manifest, sealed=True)


def _manifest(
  workdir: epath.Path, facts: Mapping[str, Any], saved: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
  """What manifest.json is to hold from this start on.

  Raises:
    provenance.DataChanged: the run was begun with other data.
    files.Damaged: nobody can tell which it was begun with.
  """
  now, path = provenance.environment(), workdir / "manifest.json"
  try:
    old = files.read_json(path)
  except (FileNotFoundError, files.Damaged):  # no reason not to begin
    old = {}
  changed = _data_changed(workdir, old, facts, saved)
  if not old:
    return {**now, **facts}
  first = {key: old[key] for key in now if key in old}
  start = {
    key: value
    for key, value in now.items()
    if key in ("started", "command") or value != first.get(key)
  }
  if changed:
    start["data_before"] = changed
  starts = old.get("starts", [])
  return {**first, **facts, "starts": [*(starts if isinstance(starts, list) else []), start]}


def _data_changed(
  workdir: epath.Path,
  old: Mapping[str, Any],
  facts: Mapping[str, Any],
  saved: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
  """The data of the starts before that are others now; raises as `_manifest`."""
  data = facts.get(provenance.DATA)
  if data is None:
    return {}
  before = old.get(provenance.DATA)
  if before is None:
    before = saved().get(provenance.DATA)
  if before is None:
    if old:
      console.say(
        f"{workdir} is of a version that kept no digests of data: what it was begun with could"
        " not be compared; from now on it is"
      )
    return {}
  if not provenance.are_identities(before):
    advice = f"; restore it, or take out its key {provenance.DATA!r} to go on without a comparison"
    raise files.Damaged(workdir / "manifest.json", "its data have no digests", advice)
  provenance.check_data(workdir, before, data)
  return {name: before[name] for name in provenance.data_changes(before, data)}


def is_done(workdir: epath.PathLike, config: Any = None) -> bool:
  """Whether the job of this directory is finished, whatever its config."""
  del config
  return files.exists(epath.Path(workdir) / "done.json")


def check(workdir: epath.PathLike, config: Any, *, allow_change: bool) -> epath.Path:
  """`check_config` of a job that is to be run, or was.

  A finished run would not be run again, so that it keeps its config, whatever
  is allowed.

  Raises:
    ConfigChanged: it was made with another config; names the keys that differ.
  """
  finished = allow_change and is_done(workdir)
  try:
    return check_config(workdir, config, allow_change=allow_change and not finished)
  except ConfigChanged as error:
    if not finished:
      raise
    lines = str(error).removesuffix("\n" + _ADVICE)
    raise ConfigChanged(
      f"{lines}\nIt is finished and is not run again: use another --workdir, or remove it"
    ) from error


def mark_done(workdir: epath.PathLike, seconds: float) -> None:
  """Says that the job of this directory is finished; it is not run again."""
  if jax.process_index() == 0:
    files.write_json(epath.Path(workdir) / "done.json", {"seconds": seconds})
    lock.release(workdir)
