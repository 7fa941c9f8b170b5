"""What jax says of a device."""

import re

_LOST = re.compile(
  r"uncorrectable ECC|CUDA_ERROR_(ECC|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY|HARDWARE)"
  r"|GPU is lost|halted unexpectedly",
  re.IGNORECASE,
)


def says(error: BaseException, words: re.Pattern[str]) -> bool:
  """Whether it is a runtime error of jax that says one of the words."""
  return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and bool(
    words.search(str(error))
  )


def is_lost(error: BaseException) -> bool:
  """Whether a device is gone; the same command may succeed on another."""
  return says(error, _LOST)
