"""Mesh, the one table from logical axes to mesh axes, and what both lay out.

A parameter names its logical axes where it is created (`models/`). This file
alone says which of them are split over which axis of the mesh.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Generic, TypeVar

from flax import linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from totojax import tree as tree_lib
from totojax.config.training import MeshConfig

T = TypeVar("T")
AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True)
class ShardingRules:
  """Logical axis -> mesh axis (None: on every device)."""

  batch: tuple[str, ...] = ("data", "fsdp")
  tokens: str = "sequence"
  embed: str | None = "fsdp"
  mlp: str = "tensor"
  heads: str = "tensor"
  head_dim: None = None
  rank: None = None
  state: None = None
  vocab: str = "tensor"
  layers: None = None
  settings: None = None
  classes: None = None
  features: None = None
  values: None = None
  norm: None = None
  conv_time: None = None
  conv_height: None = None
  conv_width: None = None
  conv_in: None = None
  conv_out: None = None
  bias: None = None

  def spec(self, logical: PartitionSpec, *, name: str) -> PartitionSpec:
    """Mesh axes of one array.

    Raises:
      ValueError: an unknown logical axis, or two axes of one array on one mesh
        axis (XLA would refuse it later and less clearly).
    """
    table = dataclasses.asdict(self)
    mesh_axes, owners = [], {}
    for axis in logical:
      if axis is not None and axis not in table:
        raise ValueError(
          f"{name}: logical axis {axis!r} has no rule; known are"
          f" {sorted(table)}. Add it to ShardingRules"
        )
      target = None if axis is None else table[axis]
      for mesh_axis in _names(target):
        if mesh_axis in owners:
          raise ValueError(
            f"{name}: logical axes {owners[mesh_axis]!r} and {axis!r} both go"
            f" to mesh axis {mesh_axis!r}; change one of the two rules"
          )
        owners[mesh_axis] = axis
      mesh_axes.append(target)
    return PartitionSpec(*mesh_axes)

  def flax_rules(self) -> tuple[tuple[str, Any], ...]:
    """The same table for `flax.linen.logical_axis_rules`."""
    return tuple(dataclasses.asdict(self).items())


def _names(target: Any) -> tuple[str, ...]:
  if target is None:
    return ()
  return (target,) if isinstance(target, str) else tuple(target)


def filled(config: MeshConfig, devices: int) -> list[int]:
  """Sizes of the axes, in order, for so many devices.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  sizes = [getattr(config, axis) for axis in AXES]
  if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
    raise ValueError(
      f"mesh {dict(zip(AXES, sizes))}: sizes are positive, and one of them may be -1"
    )
  if -1 in sizes:
    given = -int(np.prod(sizes))
    if devices % given:
      raise ValueError(
        f"mesh {dict(zip(AXES, sizes))}: {devices} devices are no"
        f" multiple of {given}, so -1 cannot be filled in; change the others"
      )
    sizes[sizes.index(-1)] = devices // given
  if int(np.prod(sizes)) != devices:
    raise ValueError(
      f"mesh {dict(zip(AXES, sizes))} needs {int(np.prod(sizes))} devices;"
      f" there are {devices}. Set one axis to -1 to fill what is left"
    )
  return sizes


def make_mesh(config: MeshConfig, devices: list[Any] | None = None) -> Mesh:
  """A mesh (data, fsdp, tensor, sequence) over all devices of all hosts.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = filled(config, len(devices))
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices > 1:
    return _over_slices(sizes, slices, devices)
  # Linen's scan needs Auto axes; jax.make_mesh would make them Explicit.
  return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def layout(config: MeshConfig, devices: list[Any] | None = None) -> "Layout":
  """Over `devices`; None: over all that are here.

  Raises:
    ValueError: as `make_mesh`.
  """
  return Layout(make_mesh(config, devices))


def _over_slices(sizes: list[int], slices: int, devices: list[Any]) -> Mesh:
  """Slices are joined by a slower network, over which only `data` goes."""
  if sizes[0] % slices:
    raise ValueError(
      f"mesh.data {sizes[0]} is not a multiple of the {slices} slices of this"
      " topology; only replicas may go over the network between slices"
    )
  grid = mesh_utils.create_hybrid_device_mesh(
    (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1), devices
  )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh and the rules: what lies where, and functions of what lies there."""

  mesh: Mesh  # the devices
  rules: ShardingRules = ShardingRules()  # the table

  @property
  def whole(self) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @functools.cached_property
  def by_row(self) -> NamedSharding:
    """Of a batch: rows over every data axis, the rest whole."""
    spec = self.rules.spec(PartitionSpec("batch"), name="batch")
    return NamedSharding(self.mesh, spec)

  @property
  def ways(self) -> int:
    """Parts that the rows of a batch are split into."""
    return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

  def shardings(self, axes: Any, shapes: Any) -> Any:
    """NamedShardings of a tree of arrays.

    Args:
      axes: tree of PartitionSpecs of logical names.
      shapes: the same tree of arrays or ShapeDtypeStructs.

    Raises:
      ValueError: a dimension that its mesh axes do not divide.
    """

    def one(name, logical, leaf):
      spec = self.rules.spec(logical, name=name)
      for size, target in zip(leaf.shape, spec):
        parts = self._parts(target)
        if size % parts:
          raise ValueError(
            f"{name} {list(leaf.shape)}: {size} is not divisible by the {parts} devices of mesh"
            f" axis {target!r}; use a mesh that divides it"
          )
      return NamedSharding(self.mesh, spec)

    return tree_lib.map_named(one, axes, shapes)

  def _parts(self, target: Any) -> int:
    """Devices along the mesh axes that a dimension goes to."""
    return int(np.prod([self.mesh.shape[axis] for axis in _names(target)]))

  def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays of this host's rows, copied while the host goes on."""
    by_row = self.by_row
    return {
      name: jax.make_array_from_process_local_data(by_row, rows) for name, rows in batch.items()
    }

  def jit(self, function: Callable[..., T], **options: Any) -> "Jitted[T]":
    """`jax.jit`, traced and called with the mesh and the rules set.

    Args:
      function: of arrays.
      **options: of `jax.jit`; without `out_shardings`, results are whole on
        every device, so that every host can read them.

    Returns:
      The function; its `lower` is that of `jax.jit`, for a mesh of devices that
      are not here.
    """

    @functools.wraps(function)
    def traced(*args, **more):
      with nn.logical_axis_rules(self.rules.flax_rules()):
        return function(*args, **more)

    jitted = jax.jit(traced, **{"out_shardings": self.whole, **options})
    return Jitted(jitted, self.mesh)

  def table(self, axes: Any, shapes: Any) -> str:
    """A line per array: name, shape, mesh axes, bytes on one device."""
    specs = dict(tree_lib.named_leaves(axes))
    lines = []
    for name, leaf in tree_lib.named_leaves(shapes):
      spec = self.rules.spec(specs[name], name=name)
      parts = int(np.prod([self._parts(target) for target in spec]))
      local_bytes = int(np.prod(leaf.shape)) * leaf.dtype.itemsize // parts
      shape = "x".join(map(str, leaf.shape)) or "scalar"
      lines.append(f"{name:40} {shape:20} {str(tuple(spec)):32} {local_bytes}")
    return "\n".join(lines)


class Jitted(Generic[T]):
  """What `Layout.jit` gives."""

  def __init__(self, jitted: Any, mesh: Any):
    self._jitted, self._mesh = jitted, mesh

  def __call__(self, *args: Any, **more: Any) -> T:
    with jax.set_mesh(self._mesh):
      return self._jitted(*args, **more)

  def lower(self, *args: Any, **more: Any) -> Any:
    with jax.set_mesh(self._mesh):
      return self._jitted.lower(*args, **more)


def check_batch(rows: int, *, microbatches: int, mesh: Mesh | AbstractMesh) -> None:
  """Raises ValueError unless the rows divide over devices and microbatches.

  Nor may two hosts hold the same rows, as each reads its own part of a batch.
  """
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  unit = int(np.lcm(ways * microbatches, jax.process_count()))
  if rows % unit:
    raise ValueError(
      f"a batch of {rows} rows is not divisible by {microbatches} microbatches x {ways}"
      f" data-parallel devices on {jax.process_count()} processes; use a multiple of {unit}"
    )
  if jax.process_count() == 1 or isinstance(mesh, AbstractMesh):
    return
  for replicas in mesh.devices.reshape(ways, -1):
    hosts = sorted({device.process_index for device in replicas})
    if len(hosts) > 1:
      raise ValueError(
        f"mesh axis 'tensor' of {mesh.shape['tensor']} (times 'sequence' of"
        f" {mesh.shape['sequence']}) goes over processes {hosts}, which read different rows; make"
        " mesh.tensor and mesh.sequence small enough for the devices of one process"
      )
