"""TPU chips and topologies that are not here."""

import dataclasses
import importlib.util
import os
from typing import Any

from totojax import flops
from totojax.config.schema import ConfigError

# The compiler looks for the machine it runs on, complains and locks it; there
# is none. What it compiles for does not depend on these.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of TPU."""

  kind: str  # as jax names its devices
  clock_hz: float  # nominal
  side: int  # of a matrix unit
  ici_bytes_per_s: float  # what a chip sends over all its links to its neighbours, one way
  hbm_bytes_per_s: float  # of its memory, nominal
  # A chip's share of its host's network, which joins slices; None where it is
  # not known.
  dcn_bytes_per_s: float | None
  cores: int = 1  # of a chip, which together are one device
  # What matrix products take, of the cycles that the compiler estimates for them.
  products: float = 1.0

  @property
  def peak_flops_per_s(self) -> float:
    peak = flops.peak_flops_per_s(self.kind)
    assert peak is not None  # that of every chip here is known
    return peak

  @property
  def macs_per_cycle(self) -> float:
    """Of the matrix units, which the peak is made of."""
    return self.peak_flops_per_s / 2 / self.clock_hz


# Links: 45 GB/s each way on v4 and v5e, 90 on v5p and v6e; 4 of them on v5e
# and v6e, 6 on v4 and v5p ("How to Scale Your Model", chapter 2,
# jax-ml.github.io/scaling-book). Clocks follow from the peak and the number of
# matrix units. Memory: nominal rates as commonly quoted of each chip; that of
# v5p was not compared with its vendor's page. `products` of a v6e is fitted to
# the measurement in `estimate.PUBLIC`: of a product of 8,192 x 8,192 matrices the
# compiler counts 70 % of the peak, and 84 % is what is left. Network: 6.4 Tbit/s of a pod of
# 256 v5e (cloud.google.com/tpu/docs/v5e), 50 and 100 Gbit/s of a v5p and v6e.
CHIPS = {
  "v4": Chip("TPU v4", 1.05e9, 128, 6 * 45e9, 1228e9, None, cores=2),
  "v5e": Chip("TPU v5e", 1.503e9, 128, 4 * 45e9, 819e9, 3.125e9),
  "v5p": Chip("TPU v5p", 1.75e9, 128, 6 * 90e9, 2765e9, 6.25e9, cores=2),
  "v6e": Chip("TPU v6e", 1.75e9, 256, 4 * 90e9, 1640e9, 12.5e9, products=0.84),
}


@dataclasses.dataclass(frozen=True)
class Gpu:
  """One kind of GPU, for arithmetic."""

  hbm_gib: float  # its memory, nominal
  hbm_bytes_per_s: float  # of its memory, nominal
  float32_flops_per_s: float  # peak without tensor cores


# NVIDIA's data sheets: A100 80 GB SXM, H100 SXM, H200 SXM.
GPUS = {
  "NVIDIA A100": Gpu(80e9 / 2**30, 2.039e12, 19.5e12),
  "NVIDIA H100": Gpu(80e9 / 2**30, 3.35e12, 67e12),
  "NVIDIA H200": Gpu(141e9 / 2**30, 4.8e12, 67e12),
}


def gpus(topology: str) -> tuple[str, int, Gpu] | None:
  """(kind, number, card) of "gpu:NVIDIA H100:8", or None for a TPU.

  Raises:
    ConfigError: an unknown kind, or no number.
  """
  if not topology.startswith("gpu:"):
    return None
  _, kind, count = (topology.split(":") + ["", ""])[:3]
  card = next((card for name, card in GPUS.items() if kind.startswith(name)), None)
  if card is None or not count.isdigit() or int(count) < 1:
    raise ConfigError(
      f"plan.topology is {topology!r}; for GPUs it is gpu:KIND:NUMBER with one of {', '.join(GPUS)}"
    )
  return kind, int(count), card


def chip(topology: str) -> Chip:
  """The chip of "v5e:16x16".

  Raises:
    ConfigError: an unknown chip, or no shape.
  """
  family, colon, shape = topology.partition(":")
  if family not in CHIPS or not colon or not shape:
    raise ConfigError(
      f"plan.topology is {topology!r}; use {', '.join(CHIPS)} with a shape of"
      " chips, as v5e:16x16 or v4:4x4x8, or gpu:NVIDIA H100:8"
    )
  return CHIPS[family]


def devices(topology: str, *, slices: int) -> list[Any]:
  """The devices of one or several slices, for compiling only.

  Raises:
    ImportError: the TPU compiler is not installed.
    ValueError: there is no such topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ImportError(
      "the TPU compiler is not installed; pip install 'totojax[tpu]' (it needs no TPU)"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
  if topology.startswith("v4"):
    options["chip_config_name"] = "megacore"  # or each chip is two devices
  if not set(topology.partition(":")[2]) - set("1x"):
    options["chips_per_host_bounds"] = (1, 1, 1)  # of one chip, not of four
  try:
    return list(topologies.get_topology_desc(topology, platform="tpu", **options).devices)
  except Exception as error:
    raise ValueError(
      f"plan.topology {topology!r} with {slices} slices is refused by the"
      f" TPU compiler: {str(error).splitlines()[0]}"
    ) from error
