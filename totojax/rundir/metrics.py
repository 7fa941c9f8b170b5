"""What a run measures of itself: metrics.jsonl, TensorBoard, the clock."""

from __future__ import annotations

from collections.abc import Mapping
import json
import sys
import time
from typing import Any

from etils import epath

from totojax import flops
from totojax.rundir import files

FILE = "metrics.jsonl"


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
  """
  rows = []
  data = epath.Path(path).read_bytes()
  lines = data.decode(errors="replace").splitlines()
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line)
      row["step"]  # every row has one
    except (json.JSONDecodeError, TypeError, KeyError) as error:
      if number == len(lines):
        break
      raise DamagedLine(path, line, number, len(lines)) from error
    rows.append(row)
  return rows


class MetricsLog:
  """`metrics.jsonl` and TensorBoard events, cut back to the restored step."""

  def __init__(self, workdir: epath.Path, *, restored_step: int):
    import jax  # only now: a report reads logs and needs none of it

    self._path = workdir / FILE
    self._local = not str(workdir).startswith(("gs://", "s3://"))
    self._rows = self._read(restored_step)
    self._board = None  # of a process that writes nothing
    if jax.process_index() == 0:
      self._rewrite()
      self._board = _board(workdir / "tensorboard", restored_step + 1)

  def _read(self, last_step: int) -> list[dict[str, Any]]:
    """Rows up to `last_step`; raises as `read` does."""
    if not self._path.exists():
      return []
    return [row for row in read(self._path) if row["step"] <= last_step]

  def _rewrite(self) -> None:
    lines = (json.dumps(row) + "\n" for row in self._rows)
    files.write_text(self._path, "".join(lines))

  def has_eval(self, step: int) -> bool:
    """Whether the evaluations of this step are in the log."""
    return any(row["step"] == step and row["kind"] == "eval" for row in self._rows)

  def write(
    self, step: int, kind: str, values: Mapping[str, float], *, wall: Mapping[str, float]
  ) -> None:
    """One row; `wall` holds what differs between two identical runs.

    A value that JSON has no number for (NaN, infinity) is written as null.
    """
    row = {"step": step, "kind": kind, **_finite(values), "wall": _finite(wall)}
    self._rows.append(row)
    if self._board is None:
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
    # As the language reference says; its stub has no None here.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
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
