"""What libraries print that is no news to a user: kept back, by name, and no more.

Errors of theirs stay, but for orbax's in a run, for which `checkpoint` has a
line. Nothing here starts jax's devices.
"""

import glob
import importlib.metadata
import importlib.util
import logging
import os
import sys

from absl import logging as absl_logging

# Orbax looks for a checkpoint's own note one folder below where it is, and warns
# of each that it does not find there, though it needs none.
_NO_NEWS = ("_CHECKPOINT_METADATA",)
# A chip of a TPU has such a file; which ones there are is up to the driver.
_TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")


def before_jax() -> None:
  """Of the C++ logs of XLA and TensorFlow errors alone, unless the user has set more."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read as they are imported


def after_jax() -> None:
  """Filters what is known, and keeps jax from asking for a TPU that is not here.

  With libtpu installed jax tries it first, and libtpu tells of the missing
  chips in five lines of errors.
  """
  # Made by absl, whose own kind knows the file that a record is from.
  logger = absl_logging.get_absl_logger()
  if _is_news not in logger.filters:
    logger.addFilter(_is_news)
  if _cannot_have_tpu():
    import jax

    jax.config.update("jax_platforms", "cpu")


def quieten_orbax() -> None:
  """Drops all that orbax logs: it tells a story at each save, and pages of one that fails."""
  absl_logging.set_verbosity(absl_logging.ERROR)
  absl_logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)
  hook = sys.unraisablehook

  def filtered(unraisable):
    # What TensorStore still had to say to an orbax that did not wait.
    if "Event loop is closed" not in str(unraisable.exc_value):
      hook(unraisable)

  sys.unraisablehook = filtered


def _is_news(record: logging.LogRecord) -> bool:
  """Whether a record of absl's logger is to be seen."""
  if record.levelno >= logging.ERROR or "/orbax/" not in record.pathname:
    return True
  return not any(words in record.getMessage() for words in _NO_NEWS)


def _cannot_have_tpu() -> bool:
  """Whether jax would try libtpu for nothing, and the CPU is all that is left.

  jax itself asks for "tpu,cpu" where it knows the chips of the PCI bus. A
  plugin, as that for CUDA, may bring other devices: then nothing is decided
  here.
  """
  import jax

  return (
    not jax.config.jax_platforms
    and "JAX_FORCE_TPU_INIT" not in os.environ
    and importlib.util.find_spec("libtpu") is not None
    and not any(glob.glob(pattern) for pattern in _TPU_FILES)
    and importlib.util.find_spec("jax_plugins") is None
    and not importlib.metadata.entry_points(group="jax_plugins")
  )
