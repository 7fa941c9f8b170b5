"""Pictures of a step in logs: the strip of `samples/` that an evaluation left (`jobs.samples`)."""

import io
from typing import Any

from etils import epath

from totojax.rundir import files

FOLDER, NAME = "samples", "{step:09d}"
ROWS = "eval/samples/"  # tags of rows of a step that may have one
TAG = f"{ROWS}strip"


def strip(workdir: epath.Path, step: int) -> bytes:
  """The PNG of a step; b"" where none was drawn."""
  path = workdir / FOLDER / f"{NAME.format(step=step)}.png"
  return files.read_bytes(path) if files.exists(path) else b""


def add(event: Any, workdir: epath.Path) -> None:
  """Gives an event of TensorBoard the strip of its step, if there is one."""
  from PIL import Image

  if data := strip(workdir, event.step):
    with Image.open(io.BytesIO(data)) as image:
      width, height = image.size
    value = event.summary.value.add(tag=TAG)
    value.image.width, value.image.height, value.image.colorspace = width, height, 3
    value.image.encoded_image_string = data
