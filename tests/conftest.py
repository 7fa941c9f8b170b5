"""Eight CPU devices and parsed flags, before anything imports jax."""

import os
import sys

import xla_flags

os.environ["XLA_FLAGS"] = xla_flags.value(
    8, more=os.environ.get("XLA_FLAGS", "").split()
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags  # noqa: E402

# grain's worker processes read absl flags, which pytest does not parse.
flags.FLAGS(sys.argv[:1])
