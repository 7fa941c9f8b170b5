"""How many heads are trained at a time: a plan of memory, printed first.

Heads take parameters, gradients and moments in float32; the width of every
array is split over the mesh axis `fsdp`, as the backbone's is. Where all layers
together do not fit, they are trained in groups, each with its own pass of the
backbone.
"""

import dataclasses

import jax

from totojax.config.schema import ConfigError
from totojax.jobs.probe import setup as probe_setup

_SHARE = 0.6  # of a device's memory for heads; the rest is for activations
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Plan:
  """What trains together, in order, and the lines that say why they are these."""

  groups: tuple[probe_setup.HeadGroup, ...]
  lines: tuple[str, ...]

  def parts(self, source: str) -> list[probe_setup.HeadGroup]:
    return [group for group in self.groups if group.source == source]


def plan(setup: probe_setup.ProbeSetup) -> Plan:
  """Groups of layers whose heads fit on a device.

  Raises:
    ValueError: the settings of one layer do not fit.
  """
  optim = setup.config.optim
  budget = _budget_bytes(setup.config.memory_gb)
  settings = len(optim.settings)
  groups, lines = [], []
  for source, subject in setup.subjects.items():
    layers = subject.layers
    parameters = subject.parameters(setup.sets.classes)
    arrays = 2 + optim.moments  # parameters, gradients, moments
    shards = setup.layout.mesh.shape["fsdp"] if subject.model else 1
    layer_bytes = 4 * arrays * settings * parameters / shards
    fit = len(layers) if budget is None else int(budget // layer_bytes)
    if budget is not None and fit < 1:
      raise ConfigError(
        f"the {settings} heads of one layer of {source} take {_size(layer_bytes)} on a device, and"
        f" {_size(budget)} are for heads; use fewer settings (optim.lrs, optim.weight_decays), or a"
        " mesh with more devices on fsdp"
      )
    parts = _parts(layers, fit)
    for number, part in enumerate(parts):
      name = source if len(parts) == 1 else f"{source}-{number}"
      groups.append(probe_setup.HeadGroup(name, source, part, layers.index(part[0])))
    largest = max(map(len, parts))
    lines.append(
      f"{source}: {len(layers)} layers x {settings} settings = {len(layers) * settings} heads of"
      f" {parameters:,} parameters; {_size(largest * layer_bytes)} a device with gradients and"
      f" moments ({optim.name})"
      + (f", in {len(parts)} groups of layers" if len(parts) > 1 else "")
      + (f", over {shards} devices" if shards > 1 else "")
    )
  how = "features are made once and kept" if setup.cached else "the backbone runs in every step"
  if setup.reads:
    how += " on new views of files"
  lines.append(
    f"{setup.sets.sentence}; {setup.steps} updates of {setup.config.train.batch_rows} rows; {how}"
  )
  return Plan(tuple(groups), tuple(lines))


def _size(count: float) -> str:
  """1,234,567 bytes -> 1.23 MB."""
  for unit, size in (("GB", _GB), ("MB", 1e6)):
    if count >= size:
      return f"{count / size:.3g} {unit}"
  return f"{count / 1e3:.3g} kB"


def _budget_bytes(memory_gb: float) -> float | None:
  """Of one device, for heads; None where nobody knows (a CPU)."""
  if memory_gb:
    return memory_gb * _GB
  stats = jax.local_devices()[0].memory_stats() or {}
  return _SHARE * stats["bytes_limit"] if "bytes_limit" in stats else None


def _parts(layers: tuple[int, ...], fit: int) -> list[tuple[int, ...]]:
  """As few groups as possible, of as equal a size as possible."""
  count = -(-len(layers) // fit)
  ends = [round(i * len(layers) / count) for i in range(count + 1)]
  return [layers[a:b] for a, b in zip(ends, ends[1:])]
