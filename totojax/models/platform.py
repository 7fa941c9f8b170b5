"""What is computed in another way on a CPU, a GPU or a TPU: named decisions.

None of them changes a parameter, or a result beyond rounding. They hold
whatever computes attention (`attention.IMPLEMENTATIONS`), which is chosen apart
from them.
"""

import dataclasses

LANES = 128  # of a TPU: what its kernels take is in multiples of it


@dataclasses.dataclass(frozen=True)
class Platform:
  """Decisions; without any of them it is the plain form of everything."""

  name: str  # of the backend
  cpu_products: bool = False  # how the gradient of a weight is written (`layers.product`)
  rope_by_product: bool = False  # whether halves are swapped by a product (`layers.apply_rope`)
  # Whether the gradient of a lookup in bfloat16 is a product with rows of 0 and 1
  # (`layers.looked_up`). Of a split table it is a scatter of as many rows as the
  # global batch has tokens.
  embedding_by_product: bool = False
  # Of a single token: rows that its product with a cache has at least, of as many
  # heads that lie side by side in it (`attention.attend_to_cache`).
  query_rows: int = 1
  # Whether a decoder takes layers apart in any case. A scan copies each layer's
  # weights out of their stack.
  decodes_apart: bool = False
  lanes: int = 128  # inputs whose length is free are padded to a multiple of it


CPU = Platform("cpu", cpu_products=True, lanes=1)
GPU = Platform("gpu")
TPU = Platform(
  "tpu",
  rope_by_product=True,
  embedding_by_product=True,
  query_rows=8,  # of a register
  decodes_apart=True,
)
_PLATFORMS = {platform.name: platform for platform in (CPU, GPU, TPU)}


def find(backend: str) -> Platform:
  """The platform of a backend of jax; the plain form where it is another."""
  return _PLATFORMS.get(backend) or Platform(backend)


def splash_fits(tokens: int) -> bool:
  """Whether attention's kernel for TPUs (`splash`) takes sequences of this length."""
  return tokens % LANES == 0
