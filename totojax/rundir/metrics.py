"""What a run measures of itself: metrics.jsonl, TensorBoard, the clock."""

from collections.abc import Iterator, Mapping
import concurrent.futures
import contextlib
import json
import os
import re
import sys
import time
from typing import Any

from etils import epath

from totojax import flops
from totojax.rundir import events, files, lock
from totojax.storage import objects

FILE = "metrics.jsonl"
_LATER = r"{}\.\d+\.jsonl"  # the other files of a log, in an object store
MOST_BYTES = 2**28  # of a log that is read: a million rows
SEGMENT_BYTES = 2**19
WRITE_EVERY_S = 10.0
CLOSE_S = 10.0  # that the end of a run waits for rows at most
_READERS = 16
_LARGEST = sys.float_info.max  # of a number: integers of JSON have no end


class DamagedLine(files.Damaged):
  """A line of metrics.jsonl that is no row.

  Attributes:
    line: its number, from 1.
    lines: how many there are.
  """

  def __init__(self, path: epath.PathLike, text: str, line: int, lines: int):
    ValueError.__init__(
      self,
      f"{path}, line {line} is damaged: {text[:60]!r}; remove that line, then"
      " run the same command again",
    )
    self.reason = f"line {line} of {lines}"
    self.line, self.lines = line, lines


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl; a last line cut in the middle is left out.

  Raises:
    FileNotFoundError: there is no such file.
    DamagedLine: another line is no row.
    files.Damaged: a file of it is missing.
  """
  return [row for _, rows in _segments(epath.Path(path)) for row in rows]


def _segments(path: epath.Path) -> Iterator[tuple[epath.Path, list[dict[str, Any]]]]:
  """Each file of a log and its rows, in order; raises as `read` does.

  metrics.jsonl and, of a run in an object store, metrics.0001.jsonl and so on.
  """
  if objects.is_url(path):
    names = objects.keys(path.parent, f"{path.stem}.")
  else:
    names = [below.name for below in files.children(path.parent)]
  later = [name for name in names if re.fullmatch(_LATER.format(path.stem), name)]
  later.sort(key=segment_number)
  for number, name in enumerate(later, 1):
    if segment_number(name) != number:
      missing = path.parent / segment_name(number)
      raise files.Damaged(path, f"{missing} is missing, and {name} is there", "; restore it")
  if later and not files.exists(path):
    raise files.Damaged(path, f"it is missing, and {later[0]} is there", "; restore it")
  paths = [path, *(path.parent / name for name in later)]
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    for each, data in zip(paths, pool.map(_read, paths), strict=True):
      if data is None and each == path:
        raise FileNotFoundError(f"there is no {path}")
      if data is None:  # cut off by the run, which goes on from before it
        return
      yield each, _rows(each, data, last=each == paths[-1])


def _segments_if_any(path: epath.Path) -> Iterator[tuple[epath.Path, list[dict[str, Any]]]]:
  with contextlib.suppress(FileNotFoundError):
    yield from _segments(path)


def segment_name(number: int) -> str:
  """The file of this number of a log."""
  stem, suffix = FILE.split(".")
  return f"{stem}.{number:04d}.{suffix}" if number else FILE


def segment_number(name: str) -> int:
  """Which file of a log one is: 0 of metrics.jsonl, 1 of metrics.0001.jsonl."""
  number = name.split(".")[-2]
  return int(number) if number.isdecimal() else 0


def _read(path: epath.Path) -> bytes | None:
  if not objects.is_url(path) and files.exists(path) and path.stat().length > MOST_BYTES:
    size = path.stat().length
    advice = "; move it away: the run goes on with a new one"
    raise files.Damaged(path, f"it has {size:,} bytes, and a log at most {MOST_BYTES:,}", advice)
  try:
    return files.read_bytes(path)
  except FileNotFoundError:
    return None


def _rows(path: epath.Path, data: bytes, *, last: bool) -> list[dict[str, Any]]:
  """The rows of one file; `last`: whether its end may be cut."""
  rows = []
  lines = data.splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode(), parse_constant=_refuse)
      if type(row["step"]) is not int or not 0 <= row["step"] < 2**63:
        raise ValueError("its step is no number of updates")
      numbers = (value for key, value in row.items() if key not in ("kind", "wall"))
      times = row.get("wall", {}).values()
      if not isinstance(row["kind"], str) or not all(map(_is_number, (*numbers, *times))):
        raise ValueError("a value is of another type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
      if last and number == len(lines) and not data.endswith(b"\n"):
        break
      raise DamagedLine(path, line.decode(errors="replace"), number, len(lines)) from error
    rows.append(row)
  return rows


def _is_number(value: Any) -> bool:
  return value is None or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def _refuse(constant: str) -> float:
  """NaN and infinity, which rows have as null; ours never hold them."""
  raise ValueError(f"{constant} is no number of JSON")


Evaluations = Mapping[int, Mapping[str, float | None]]  # step -> name -> value, in order


class MetricsLog:
  """`metrics.jsonl` and TensorBoard events, cut back to the restored step."""

  def __init__(self, workdir: epath.Path, *, restored_step: int):
    import jax  # only now: a report reads logs and needs none of it

    path = workdir / FILE
    last, rows, later = path, [], []
    self.evaluations: dict[int, Mapping[str, float | None]] = {}
    for each, written in _segments_if_any(path):
      kept = [row for row in written if row["step"] <= restored_step]
      self.evaluations |= {row["step"]: row for row in kept if row["kind"] == "eval"}
      if kept:
        last, rows, later = each, kept, []
      elif each != path:
        later.append(each)
    self._file, self._events = None, None  # of a process that writes nothing
    if jax.process_index() == 0:
      # The last first: whenever this is stopped, what is left is a beginning.
      for each in reversed(later):
        files.remove(each)
      kind: type[Any] = _Appended
      if objects.is_url(workdir):
        from totojax.rundir import segments  # of buckets alone

        kind = segments.Segments
      self._file = kind(last, "".join(map(_line, rows)))
      self._events = events.Events(workdir / "tensorboard", purge_step=restored_step + 1)
      if project := os.environ.get(events.WANDB):
        from totojax.rundir import wandb_runs  # of those who ask for it alone

        self._events = wandb_runs.Beside(self._events, workdir, project)

  def has_eval(self, step: int) -> bool:
    """Whether the evaluations of this step are in the log."""
    return step in self.evaluations

  def lowest(self, name: str) -> int | None:
    """The step, after the start, of the lowest value of an evaluation; of equals the first.

    None before there is one. It is the same on every host and after a resume.
    """
    values = {
      step: row[name]
      for step, row in self.evaluations.items()
      if step and row.get(name) is not None
    }
    return min(values, key=lambda step: (values[step], step), default=None)

  def write(
    self, step: int, kind: str, values: Mapping[str, float], *, wall: Mapping[str, float]
  ) -> None:
    """One row; `wall` holds what differs between two identical runs.

    A value that JSON has no number for (NaN, infinity) is written as null. In
    an object store a thread writes it; what it could not write is raised here,
    at the next row.
    """
    if kind == "eval":
      self.evaluations[step] = _finite(values)
    if self._file is None or self._events is None:
      return
    row = {"step": step, "kind": kind, **_finite(values), "wall": _finite(wall)}
    self._file.write(_line(row))
    self._events.write(step, {f"{kind}/{name}": v for name, v in {**values, **wall}.items()})

  def flush(self) -> None:
    """Returns when all rows are written; raises as the storage does if not."""
    if self._file is not None:
      self._file.flush()

  def close(self) -> None:
    """Ends it within seconds, whatever the storage does; `flush` before."""
    if self._file is not None and self._events is not None:
      self._file.close()
      self._events.close()


class _Appended:
  """A local file of rows, which grows by lines."""

  def __init__(self, path: epath.Path, text: str):
    self._path = path
    files.write_text(path, text)

  def write(self, line: str) -> None:
    self.flush()
    with files.naming(self._path), open(self._path, "a", encoding="utf-8") as file:
      file.write(line)

  def flush(self) -> None:
    lock.check(self._path)

  def close(self) -> None:
    pass


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(row) + "\n"


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
  return {k: v if abs(v) < float("inf") else None for k, v in values.items()}


class Clock:
  """Wall-clock figures between two log rows: rate, MFU, waiting for data."""

  def __init__(
    self, *, tokens_per_step: int, flops_per_token: float, devices: int, device_kind: str
  ):
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
      figures["mfu"] = tokens_per_s * self._flops_per_token / (self._peak * self._devices)
    self._last, self._steps, self._waited_s = now, 0, 0.0
    return figures
