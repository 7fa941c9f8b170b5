"""What the attention kernel costs, from the instructions it is compiled to.

A Pallas kernel is a custom call, which the compiler's estimate counts as
nothing. Compiled alone, with a dump of its instructions, it is a loop over the
grid of (head, row of blocks, block) with regions that only some turns enter:

  regions with matrix products  in blocks at or below the diagonal
  other conditional regions     once in a row of blocks (start, write out)
  the rest of the loop          in every turn, as blocks above the diagonal are
                                skipped inside

Each bundle of instructions is one cycle or more, so their number is a lower
bound without stalls. The matrix units may need longer than the bundles that
feed them, so a kernel is charged its bundles, or the products of the blocks
that it computes at 88 % of the peak if that is more (what the compiler expects
of a large matrix product).

Where a chip has two cores (v4, v5p) a grid is split over them along dimensions
that are called parallel: those that jax maps over, which are rows and heads
(`models/splash.py`).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from totojax.jobs.plan import chips, hlo

REACHED = 0.88  # of the peak, by a large matrix product
# Kernel -> products of a block of queries with a block of keys.
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_DUMP_FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
_BUNDLE = re.compile(r"^ +(?:0x)?[0-9a-f]+ +(?P<tag>[A-Z]{2})? *:(?P<loop> >)?")
_NAME = re.compile(r"splash_mha_(fwd|dq|dkv)")


@dataclasses.dataclass(frozen=True)
class Bundles:
  """Instruction bundles of one kernel."""

  per_block: int  # of regions with matrix products
  per_row: int  # of the other conditional regions
  per_turn: int  # of the rest of the loop


@dataclasses.dataclass(frozen=True)
class Charge:
  """What one call of a kernel costs."""

  kernel: str  # "fwd", "dq" or "dkv"
  heads: int  # sequences times heads on one chip
  times: int  # calls in a step
  bundles: float  # cycles of one call by its instructions
  products: float  # cycles of one call by its matrix products at `REACHED`

  @property
  def cycles(self) -> float:
    """Of all calls in a step."""
    return self.times * max(self.bundles, self.products)


def charges(
  program: hlo.Module, *, topology: str, chip: chips.Chip
) -> tuple[list[Charge], list[str]]:
  """(a charge for each attention kernel, names of kernels without one)."""
  kernels, unknown = [], []
  for operation in program.operations():
    if 'custom_call_target="tpu_custom_call"' not in operation.rest:
      continue
    name = _NAME.search(operation.name)
    # Queries, keys, gradients: all are [heads.., tokens, head dim].
    shape = re.search(r"bf16\[([\d,]+),(\d+),(\d+)\]", operation.shape)
    if not name or not shape:
      unknown.append(operation.name)
      continue
    heads = math.prod(map(int, shape[1].split(",")))
    sizes = {"heads": heads, "tokens": int(shape[2]), "head_dim": int(shape[3])}
    bundles = splash_bundles(topology, sizes["tokens"], sizes["head_dim"])[name[1]]
    kernels.append(_charge(name[1], bundles, operation.times, chip=chip, **sizes))
  return kernels, unknown


def _charge(
  kernel: str,
  bundles: Bundles,
  times: int,
  *,
  chip: chips.Chip,
  heads: int,
  tokens: int,
  head_dim: int,
  backward: int = 0,
) -> Charge:
  """`backward`: the largest block of that pass; 0: the model's."""
  from totojax.models import splash

  backward = backward or splash.BACKWARD_BLOCK
  most = splash.FORWARD_BLOCK if kernel == "fwd" else backward
  block = splash.block(tokens, most)
  rows = tokens // block
  blocks = rows * (rows + 1) // 2
  lanes = -(-head_dim // chip.side) * chip.side
  macs = PRODUCTS[kernel] * block**2 * lanes
  core_heads = -(-heads // chip.cores)
  products = core_heads * blocks * macs * chip.cores / chip.macs_per_cycle / REACHED
  turns = blocks * bundles.per_block + rows * bundles.per_row + rows**2 * bundles.per_turn
  return Charge(kernel, heads, times, core_heads * turns, products)


@functools.cache
def splash_bundles(
  topology: str, tokens: int, head_dim: int, backward: int = 0
) -> Mapping[str, Bundles]:
  """Bundles of the kernel's three parts, compiled in a process of its own.

  `backward` is as `_charge` takes it.

  The compiler reads the flags of its dump when it is loaded, which in this
  process it is already.

  Raises:
    ValueError: the process failed, or dumped something else.
  """
  with tempfile.TemporaryDirectory() as folder:
    environment = os.environ | {
      "LIBTPU_INIT_ARGS": _DUMP_FLAGS.format(folder=folder),
      "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
      "JAX_PLATFORMS": "cpu",
    }
    sizes = map(str, (tokens, head_dim, backward))
    command = [sys.executable, "-m", __name__, topology, *sizes]
    process = subprocess.run(
      command, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    if process.returncode:
      reason = process.stderr.strip()[-500:]
      raise ValueError(f"the attention kernel could not be compiled alone: {reason}")
    bundles = {}
    for path in sorted(pathlib.Path(folder).glob("*final_bundles.txt")):
      name = _NAME.search(path.name)
      if name and "schedule-analysis" not in path.name:
        bundles[name[1]] = read_bundles(path.read_text(encoding="utf-8"))
  missing = sorted(set(PRODUCTS) - set(bundles))
  if missing:
    raise ValueError(f"the compiler dumped no instructions of {missing}")
  return bundles


def read_bundles(text: str) -> Bundles:
  """Counts the bundles in a dump of final instructions."""
  counts = dict.fromkeys(("per_block", "per_row", "per_turn"), 0)
  for bundles, conditional, products in _segments(text):
    counts["per_block" if products else "per_row" if conditional else "per_turn"] += bundles
  return Bundles(**counts)


def _segments(text: str) -> Iterator[tuple[int, bool, bool]]:
  """(bundles, conditional, with products) of each stretch in the loop."""
  count, products, branched = 0, False, False
  for line in text.splitlines():
    bundle = _BUNDLE.match(line)
    if not bundle or not bundle["loop"]:
      # A region's last bundle may be empty; other lines continue a bundle.
      if not bundle:
        products |= "vmatmul" in line
      continue
    if bundle["tag"] == "PF":  # where a skipped region is left
      yield count, branched, products
      count, products, branched = 0, False, False
    count += 1
    products |= "vmatmul" in line
    if "sbr.rel" in line:  # what follows may be skipped
      yield count, False, products
      count, products, branched = 0, False, True
  yield count, False, products


def _compile_alone(topology: str, tokens: int, head_dim: int, backward: int = 0) -> None:
  """Two heads, forward and backward, for the first chip of a topology."""
  import jax
  import jax.numpy as jnp

  from totojax.models import splash

  device = chips.devices(topology, slices=1)[0]
  sharding = jax.sharding.SingleDeviceSharding(device)
  x_NTK = jax.ShapeDtypeStruct((2, tokens, head_dim), jnp.bfloat16, sharding=sharding)

  def both(q_NTK, k_NTK, v_NTK, gradient_NTK):
    one = splash.kernel(tokens, head_dim, most=backward or splash.BACKWARD_BLOCK)
    heads = jax.vmap(splash.by_head(one))
    out_NTK, pull = jax.vjp(heads, q_NTK, k_NTK, v_NTK)
    return out_NTK, pull(gradient_NTK)

  jax.jit(both).lower(x_NTK, x_NTK, x_NTK, x_NTK).compile()


if __name__ == "__main__":
  _compile_alone(sys.argv[1], *map(int, sys.argv[2:]))
