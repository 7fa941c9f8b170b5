"""Where arrays lie: the table of rules, its errors, and golden tables.

`python tests/test_sharding.py` writes the golden tables anew.
"""

import pathlib
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec as P
import numpy as np
import pytest

from totojax import sequence, sharding
from totojax.config import recipes
from totojax.models import llama, platform, trunk
from totojax.tasks import pretrain

RULES = sharding.ShardingRules()
GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = {"tiny": (1, 4, 2), "base": (2, 16, 4)}


def abstract(*sizes):
  return AbstractMesh((*sizes, 1), sharding.AXES)


def shape(*sides):
  return jax.ShapeDtypeStruct(sides, jnp.float32)


def model(preset):
  """(axes, shapes) of the parameters with the paper's vocabulary."""
  task = pretrain.Pretrain(
    trunk.Trunk(
      llama.LlamaConfig(**recipes.model(preset).to_dict()),
      sequence.SequenceSpec(8192, 16, 16, 4096, False),
      trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU),
    )
  )
  shapes = jax.eval_shape(task.init, jax.random.key(0)).params
  return task.axes().params, shapes


def table(preset):
  axes, shapes = model(preset)
  mesh = abstract(*CASES[preset])
  return sharding.Layout(mesh).table(axes, shapes) + "\n"


@pytest.mark.parametrize("preset", CASES)
def test_golden_tables(preset):
  assert table(preset) == (GOLDEN / f"sharding_{preset}.txt").read_text()


def test_the_table_is_what_devices_hold():
  """Bytes of the table against real arrays on eight devices."""
  axes, shapes = model("tiny")
  mesh = sharding.make_mesh(sharding.MeshConfig(*CASES["tiny"], 1))
  placed = sharding.Layout(mesh).shardings(axes, shapes)
  arrays = jax.device_put(
    jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), placed
  )
  held = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(arrays)]
  told = [int(line.split()[-1]) for line in table("tiny").splitlines()]
  assert told == held


def test_rules():
  spec = RULES.spec(P("layers", "embed", "heads", "head_dim"), name="query")
  assert spec == P(None, "fsdp", "tensor", None)
  assert RULES.spec(P("batch", "tokens", None), name="x") == P(("data", "fsdp"), "sequence", None)
  assert RULES.spec(P(), name="step") == P()


@pytest.mark.parametrize(
  "axes, message",
  [
    (("mlp", "heads"), "w: logical axes 'mlp' and 'heads' both go to mesh axis 'tensor'"),
    (("batch", "embed"), "'batch' and 'embed' both go to .* 'fsdp'"),
    (("width",), "w: logical axis 'width' has no rule; known are .*'mlp'"),
  ],
)
def test_rules_refuse(axes, message):
  with pytest.raises(ValueError, match=message):
    RULES.spec(P(*axes), name="w")


def test_other_rules_can_be_given():
  rules = sharding.ShardingRules(embed="data", vocab=None)
  assert rules.spec(P("vocab", "embed"), name="w") == P(None, "data")
  assert dict(rules.flax_rules())["embed"] == "data"
  collide = sharding.ShardingRules(mlp="fsdp")
  with pytest.raises(ValueError, match="'embed' and 'mlp' both"):
    collide.spec(P("embed", "mlp"), name="w")


def test_a_dimension_that_does_not_divide_is_named():
  axes = {"blocks": {"query": P("embed", "heads")}, "norm": P("norm")}
  shapes = {"blocks": {"query": shape(32, 6)}, "norm": shape(7)}

  def place(*sizes):
    return sharding.Layout(abstract(*sizes)).shardings(axes, shapes)

  with pytest.raises(
    ValueError,
    match=r"blocks/query \[32, 6\]: 6 is not divisible by the 4 devices of"
    " mesh axis 'tensor'",
  ):
    place(1, 2, 4)
  assert place(1, 2, 2)["blocks"]["query"].spec == P("fsdp", "tensor")


def sizes_of(mesh):
  return tuple(mesh.shape[axis] for axis in sharding.AXES[:3])


@pytest.mark.parametrize(
  "given, found",
  [
    ((1, -1, 1), (1, 8, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((2, 4, -1), (2, 4, 1)),
    ((1, 2, 4), (1, 2, 4)),
  ],
)
def test_a_mesh_fills_what_is_left(given, found):
  mesh = sharding.make_mesh(sharding.MeshConfig(*given, 1))
  assert sizes_of(mesh) == found
  assert mesh.axis_names == sharding.AXES
  assert len({device.id for device in mesh.devices.flat}) == 8
  assert not mesh.are_all_axes_explicit  # Linen's scan would fail


@pytest.mark.parametrize(
  "given, message",
  [
    ((-1, -1, 1), "sizes are positive, and one of them may be -1"),
    ((0, 8, 1), "'data': 0.*sizes are positive"),
    ((1, -2, 1), "mesh.fsdp is -2; it must be at least -1"),
    ((1, 4, 1), "needs 4 devices; there are 8. Set one axis to -1"),
    ((1, 16, 1), "needs 16 devices; there are 8"),
    ((-1, 3, 1), "'data': -1, 'fsdp': 3.*8 devices are no multiple of 3"),
    ((1, -1, 16), "8 devices are no multiple of 16"),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(given, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(sharding.MeshConfig(*given, 1))


def test_a_mesh_over_some_of_the_devices():
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 2, -1, 1), jax.devices()[:4])
  assert sizes_of(mesh) == (1, 2, 2)


def test_batch_rows_lie_over_data_and_fsdp():
  mesh = sharding.make_mesh(sharding.MeshConfig(2, 2, 2, 1))
  rows = jax.device_put(np.arange(8), sharding.Layout(mesh).by_row)
  held = {tuple(s.data.tolist()) for s in rows.addressable_shards}
  assert held == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_a_layout_places_rows_and_compiles_for_its_mesh():
  layout = sharding.Layout(sharding.make_mesh(sharding.MeshConfig(2, 2, 2, 1)))
  assert layout.ways == 4
  placed = layout.place({"x": np.arange(8.0), "y": np.zeros((4, 3), np.int8)})
  assert placed["x"].dtype == "float32" and placed["y"].dtype == "int8"
  held = {tuple(s.data.tolist()) for s in placed["x"].addressable_shards}
  assert held == {(0, 1), (2, 3), (4, 5), (6, 7)}
  seen = []

  def double(x, times):
    x = nn.with_logical_constraint(x, ("mlp",))
    seen.append((times, jax.sharding.get_abstract_mesh().shape["tensor"]))
    return 2 * x

  # Static arguments are found by their names, and given by their places.
  whole = layout.jit(double, static_argnames="times")(placed["x"], 3)
  np.testing.assert_array_equal(whole, 2 * np.arange(8.0))
  assert whole.sharding.is_fully_replicated and seen == [(3, 2)]
  split = layout.jit(double, out_shardings=None)(placed["x"], 0)
  assert split.sharding.spec == P("tensor")
  # Control: other rules lay it out in another way.
  rules = sharding.ShardingRules(mlp="fsdp")
  other = sharding.Layout(layout.mesh, rules)
  split = other.jit(double, out_shardings=None)(placed["x"], 0)
  assert split.sharding.spec == P("fsdp")
  # It is lowered for shapes, too.
  lowered = layout.jit(double, static_argnums=1).lower(shape(8), 1)
  assert "sdy.sharding_constraint" in lowered.as_text()
  assert len(seen) == 4
  # It is a key: what is compiled for one is found by another that is equal.
  assert {layout: 1}[sharding.Layout(layout.mesh)] == 1 and other != layout


def test_a_batch_must_divide():
  mesh = abstract(2, 4, 8)
  for rows, microbatches in ((8, 1), (48, 3), (16, 2)):
    sharding.check_batch(rows, microbatches=microbatches, mesh=mesh)
  with pytest.raises(
    ValueError,
    match="a batch of 250 rows is not divisible by 2 microbatches x 8"
    " data-parallel devices on 1 processes; use a multiple of 16",
  ):
    sharding.check_batch(250, microbatches=2, mesh=mesh)
  with pytest.raises(ValueError, match="use a multiple of 24"):
    sharding.check_batch(16, microbatches=3, mesh=mesh)


def pod(*sizes, devices_per_process):
  """Shape and devices of a mesh over several processes."""
  count = int(np.prod(sizes))
  devices = np.empty(count, object)
  for i in range(count):
    process = i // devices_per_process
    devices[i] = types.SimpleNamespace(process_index=process)
  return types.SimpleNamespace(
    shape=dict(zip(sharding.AXES, (*sizes, 1))), devices=devices.reshape(sizes)
  )


def test_a_batch_must_divide_over_processes(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  mesh = pod(2, 6, 1, devices_per_process=4)
  with pytest.raises(ValueError, match="on 3 processes; use a multiple of 12"):
    sharding.check_batch(16, microbatches=1, mesh=mesh)
  sharding.check_batch(48, microbatches=1, mesh=mesh)


def test_two_processes_may_not_share_rows(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for sizes in ((1, 4, 2), (2, 1, 4), (8, 1, 1)):
    mesh = pod(*sizes, devices_per_process=4)
    sharding.check_batch(8, microbatches=1, mesh=mesh)
  with pytest.raises(ValueError, match=r"'tensor' of 8 .* processes \[0, 1\]"):
    mesh = pod(1, 1, 8, devices_per_process=4)
    sharding.check_batch(8, microbatches=1, mesh=mesh)


if __name__ == "__main__":
  for name in CASES:
    (GOLDEN / f"sharding_{name}.txt").write_text(table(name))
