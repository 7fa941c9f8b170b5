"""The run directory: config, manifest, metrics, TensorBoard, done marker.

Only process 0 writes. Every file appears whole (written beside, then renamed),
but for `metrics.jsonl`, which grows by lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import csv
import io
import json
import os
import sys
import time
from typing import Any

from etils import epath
import jax

from totojax import flops
from totojax import provenance
from totojax import run_lock

# In the config of a chain's stage: the chain's folder, which is the one above
# the stage's own. config.json keeps it unfilled, so that a chain can be moved.
WORKDIR = "{workdir}"
_ADVICE = (
    "Use another --workdir, or pass --allow_changed_config to go on with the"
    " new values"
)


class ConfigChanged(ValueError):
  """A run directory that was made with another config."""


def write_json(path: epath.Path, value: Any) -> None:
  """Replaces a JSON file in one step, so that half of one is never read."""
  _replace(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def write_csv(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Replaces a CSV in one step; the keys of the first row are the columns.

  None is an empty cell. There must be a row.
  """
  rows = iter(rows)
  first = next(rows)
  text = io.StringIO()
  writer = csv.DictWriter(text, first.keys(), lineterminator="\n")
  writer.writeheader()
  writer.writerow(first)
  writer.writerows(rows)
  _replace(path, text.getvalue())


def _replace(path: epath.Path, text: str) -> None:
  beside = path.parent / f".{path.name}.part"
  beside.write_text(text)
  beside.replace(path)


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


class Filled(dict):
  """A stage's config with "{workdir}" filled in; `written` still has it.

  Jobs read the one; `begin` writes the other.
  """

  def __init__(self, config: Mapping[str, Any], folder: epath.PathLike):
    super().__init__(fill(config, folder))
    self.written = config


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
  """The config that a run was made with, "{workdir}" filled in.

  Raises:
    FileNotFoundError: there is no such run.
    ValueError: config.json is damaged.
  """
  workdir = epath.Path(workdir)
  path = workdir / "config.json"
  if not path.exists():
    raise FileNotFoundError(
        f"{workdir} is not a run directory (no config.json)"
    )
  try:
    config = json.loads(path.read_text())
    if not isinstance(config, dict):
      raise ValueError("it holds no object")
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error})") from error
  return fill(config, workdir.parent)


def check_config(
    workdir: epath.PathLike,
    config: Mapping[str, Any],
    *,
    allow_change: bool,
    advice: str = _ADVICE,
) -> epath.Path:
  """The run directory, if it is new or was made with this config.

  Args:
    workdir: the run directory.
    config: what is to run in it.
    allow_change: whether to take a run that was made with another.
    advice: what to do otherwise; ends the message.

  Raises:
    ConfigChanged: it was made with another config; names the keys that differ.
  """
  workdir = epath.Path(workdir)
  if allow_change or not (workdir / "config.json").exists():
    return workdir
  try:
    old = flat(read_config(workdir))
  except ValueError as error:
    raise ConfigChanged(f"{error}; restore it. {advice}") from error
  # Through JSON, so that tuples and lists compare as what is on disk.
  new = flat(json.loads(json.dumps(fill(config, workdir.parent))))
  lines = [
      f"{key}: {old.get(key, '(absent)')!r} -> {new.get(key, '(absent)')!r}"
      for key in sorted(old.keys() | new.keys())
      if key not in old or key not in new or old[key] != new[key]
  ]
  if lines:
    raise ConfigChanged(
        f"{workdir} was made with another config:\n  "
        + "\n  ".join(lines)
        + f"\n{advice}"
    )
  return workdir


def begin(
    workdir: epath.Path, config: Mapping[str, Any], **facts: Any
) -> None:
  """Writes config.json and manifest.json: from here on the folder is a run.

  Called once everything that the config asks for could be built, so that a
  mistake in it leaves no run behind that refuses the correction. Until this
  process ends, no other may begin in the folder.

  The manifest of a run that is started again keeps `provenance.environment` of
  its first start; each later one is a row of "starts", with what was otherwise
  then. `facts` are those of the last start, as config.json is.

  Raises:
    InUse: another process is at work in it.
    ValueError: it cannot be written.
  """
  if jax.process_index() == 0:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      run_lock.take(workdir)
    except OSError as error:
      raise ValueError(
          f"the run directory {workdir} cannot be made ({error.strerror}); give"
          " --workdir a folder that can be written"
      ) from error
    written = config.written if isinstance(config, Filled) else config
    write_json(workdir / "config.json", written)
    write_json(workdir / "manifest.json", _manifest(workdir, facts))


def _manifest(
    workdir: epath.Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
  """What manifest.json is to hold from this start on."""
  now, path = provenance.environment(), workdir / "manifest.json"
  try:
    old = dict(json.loads(path.read_text())) if path.exists() else {}
  except (ValueError, TypeError):  # damaged, which is no reason not to begin
    old = {}
  if not old:
    return {**now, **facts}
  first = {key: old[key] for key in now if key in old}
  start = {
      key: value
      for key, value in now.items()
      if key in ("started", "command") or value != first.get(key)
  }
  return {**first, **facts, "starts": [*old.get("starts", []), start]}


def is_done(workdir: epath.PathLike) -> bool:
  return (epath.Path(workdir) / "done.json").exists()


def check_finished(
    workdir: epath.PathLike, config: Mapping[str, Any]
) -> None:
  """Raises ConfigChanged if a finished run was made with another config.

  It would not be run again, whatever was allowed.
  """
  try:
    check_config(workdir, config, allow_change=False)
  except ConfigChanged as error:
    lines = str(error).removesuffix("\n" + _ADVICE)
    raise ConfigChanged(
        f"{lines}\nIt is finished and is not run again: use another --workdir,"
        " or remove it"
    ) from error


def mark_done(workdir: epath.PathLike, seconds: float) -> None:
  """Says that the job of this directory is finished; it is not run again."""
  if jax.process_index() == 0:
    write_json(epath.Path(workdir) / "done.json", {"seconds": seconds})


class MetricsLog:
  """`metrics.jsonl` and TensorBoard events, cut back to the restored step."""

  def __init__(self, workdir: epath.Path, *, restored_step: int):
    self._path = workdir / "metrics.jsonl"
    self._local = not str(workdir).startswith(("gs://", "s3://"))
    self._rows = self._read(restored_step)
    self._writes = jax.process_index() == 0
    self._board = None
    if self._writes:
      self._rewrite()
      self._board = _board(workdir / "tensorboard", restored_step + 1)

  def _read(self, last_step: int) -> list[dict[str, Any]]:
    """Rows up to `last_step`; a last line cut in the middle is dropped.

    Raises:
      ValueError: another line is damaged.
    """
    if not self._path.exists():
      return []
    rows = []
    lines = self._path.read_bytes().decode(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
      try:
        row = json.loads(line)
        step = row["step"]
      except (json.JSONDecodeError, TypeError, KeyError) as error:
        if number == len(lines):
          break
        raise ValueError(
            f"{self._path}, line {number} is damaged: {line[:60]!r}; remove"
            " that line, then run the same command again"
        ) from error
      if step <= last_step:
        rows.append(row)
    return rows

  def _rewrite(self) -> None:
    beside = self._path.parent / ".metrics.jsonl.part"
    beside.write_text("".join(json.dumps(row) + "\n" for row in self._rows))
    beside.replace(self._path)

  def has_eval(self, step: int) -> bool:
    """Whether the evaluations of this step are in the log."""
    return any(
        row["step"] == step and row["kind"] == "eval" for row in self._rows
    )

  def write(
      self,
      step: int,
      kind: str,
      values: Mapping[str, float],
      *,
      wall: Mapping[str, float],
  ) -> None:
    """One row; `wall` holds what differs between two identical runs.

    A value that JSON has no number for (NaN, infinity) is written as null.
    """
    row = {"step": step, "kind": kind, **_finite(values), "wall": _finite(wall)}
    self._rows.append(row)
    if not self._writes:
      return
    if self._local:
      with open(self._path, "a") as file:
        file.write(json.dumps(row) + "\n")
    else:  # an object store cannot append
      self._rewrite()
    for name, value in {**values, **wall}.items():
      self._board.add_scalar(f"{kind}/{name}", value, step)

  def close(self) -> None:
    if self._board is not None:
      self._board.close()


def _board(folder: epath.Path, purge_step: int) -> Any:
  """A writer of TensorBoard events."""
  # tensorboardX loads PyTorch where it is installed, which takes longer than
  # everything else that a run imports, and needs it for nothing here.
  hidden = "torch" not in sys.modules
  if hidden:
    sys.modules["torch"] = None
  try:
    from tensorboardX import SummaryWriter
  finally:
    if hidden:
      del sys.modules["torch"]
  return SummaryWriter(str(folder), purge_step=purge_step)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
  return {k: v if abs(v) < float("inf") else None for k, v in values.items()}


class Clock:
  """Wall-clock figures between two log rows: rate, MFU, waiting for data."""

  def __init__(
      self, *, tokens_per_step: int, flops_per_token: float, devices: int,
      device_kind: str,
  ):  # fmt: skip
    self._tokens_per_step = tokens_per_step
    self._flops_per_token = flops_per_token
    self._peak = flops.peak_flops_per_s(device_kind)
    self._devices = devices
    self._begin = time.monotonic()
    self._last, self._steps, self._waited_s = self._begin, 0, 0.0

  def waited(self, seconds: float) -> None:
    self._waited_s += seconds

  def stepped(self) -> None:
    self._steps += 1

  def paused(self, seconds: float) -> None:
    """Leaves an evaluation or a save out of the rate."""
    self._last += seconds

  def read(self) -> dict[str, float]:
    """Figures since the last call; then starts anew."""
    now = time.monotonic()
    span_s = max(now - self._last, 1e-9)
    tokens_per_s = self._steps * self._tokens_per_step / span_s
    figures = {
        "time_s": now - self._begin,
        "tokens_per_s": tokens_per_s,
        "data_frac": self._waited_s / span_s,
    }
    if self._peak is not None and self._flops_per_token:
      figures["mfu"] = (
          tokens_per_s * self._flops_per_token / (self._peak * self._devices)
      )
    self._last, self._steps, self._waited_s = now, 0, 0.0
    return figures
