"""totojax: autoregressive pre-training from videos, in JAX.

m = totojax.load(run)                # of run = "pretrain", local or gs://
f = m.features(frames, layer=8)      # uint8 [T, H, W, 3] -> [T, G, G, D]
"""

from typing import Any

__version__ = "0.1.0"  # setup.py reads this line


def __getattr__(name: str) -> Any:
  """`totojax.encoders`, for files that define `encoder()`; see that module."""
  if name == "encoders":
    from totojax.trained import encoders

    return encoders
  raise AttributeError(f"module 'totojax' has no attribute {name!r}")


def load(run: str, *, tokenizer: str = "", depth: int | None = None) -> Any:
  """A pre-trained model; see `totojax.trained.model.load`."""
  # Only now: importing the package must cost nothing.
  from totojax.rundir import console

  console.before_jax()
  console.after_jax()
  from totojax.trained import model

  return model.load(run, tokenizer=tokenizer, depth=depth)
