"""Weights & Biases (extra `wandb`): what TensorBoard gets goes there as well.

--wandb=PROJECT turns it on. Who may not reach its server sets WANDB_MODE=offline,
and sends what `RUN/wandb` has with `wandb sync` later.
"""

from collections.abc import Mapping
import importlib.util
import io
import os
import tempfile
import threading
from typing import Any
import uuid

from etils import epath

from totojax.config.schema import ConfigError
from totojax.rundir import console, directory, events, files, pictures
from totojax.storage import objects, outages

FILE = "wandb.json"  # of a run directory: which run it is there
CLOSE_S = 60.0  # that a run waits for the last rows to be sent


def turn_on(project: str) -> None:
  """Has all runs of this process, and those it starts, send their rows to a project.

  Raises:
    ConfigError: the extra is missing.
  """
  if importlib.util.find_spec("wandb") is None:
    raise ConfigError(
      f"--wandb={project} needs the extra wandb: pip install 'totojax[wandb]', or leave it out"
    )
  os.environ[events.WANDB] = project


class Beside:
  """TensorBoard's events, and a run of W&B beside them."""

  def __init__(self, first: events.Events, workdir: epath.Path, project: str):
    """Begins a run of W&B, or goes on with the one that the directory names.

    Args:
      first: TensorBoard's.
      workdir: of the run.
      project: where it belongs.

    Raises:
      ConfigError: W&B does not take it, as nobody is logged in.
    """
    import wandb

    self._first, self._workdir, self._over = first, workdir, False
    config, identity = workdir / "config.json", _identity(workdir, project)
    with console.phase(f"reaching W&B's project {project}"):
      try:
        self._run = wandb.init(
          project=project,
          id=identity,
          name=workdir.name,
          resume="allow",
          dir=tempfile.mkdtemp() if objects.is_url(workdir) else os.fspath(workdir),
          config=directory.flat(files.read_json(config)) if files.exists(config) else {},
          settings=wandb.Settings(console="off", silent=True),
        )
      except Exception as error:
        raise ConfigError(
          f"--wandb={project}: {outages.brief(error)}; run: wandb login, or set"
          " WANDB_MODE=offline to send it later"
        ) from error
    # Its own count of steps never goes back, and ours does where a run is resumed.
    self._run.define_metric("step")
    self._run.define_metric("*", step_metric="step")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """A row to both; whatever goes wrong at W&B is one warning."""
    self._first.write(step, values)
    if self._over:
      return
    row: dict[str, Any] = {"step": step, **values}
    try:
      if any(name.startswith(pictures.ROWS) for name in values):
        row |= _picture(self._workdir, step)
      self._run.log(row)
    except Exception as error:
      self._warn(outages.brief(error))

  def close(self) -> None:
    """Ends both, W&B's within `CLOSE_S`."""
    self._first.close()
    sending = threading.Thread(target=self._finish, name="wandb", daemon=True)
    sending.start()
    sending.join(CLOSE_S)
    if sending.is_alive():
      self._warn("its server does not answer")

  def _finish(self) -> None:
    try:
      self._run.finish()
    except Exception as error:
      self._warn(outages.brief(error))

  def _warn(self, why: str) -> None:
    if not self._over:
      self._over = True
      console.warn(
        f"W&B gets no more of {self._workdir} ({why}); metrics.jsonl and TensorBoard have all of"
        " it, and `wandb sync` sends what its folder has"
      )


def _identity(workdir: epath.Path, project: str) -> str:
  """The id of the run at W&B, which stays with its directory."""
  path = workdir / FILE
  known = files.read_json(path) if files.exists(path) else {}
  if known.get("project") != project:
    known = {"project": project, "id": uuid.uuid4().hex[:8]}
    files.write_json(path, known)
  return str(known["id"])


def _picture(workdir: epath.Path, step: int) -> dict[str, Any]:
  from PIL import Image
  import wandb

  data = pictures.strip(workdir, step)
  return {pictures.TAG: wandb.Image(Image.open(io.BytesIO(data)))} if data else {}
