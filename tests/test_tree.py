"""Names of leaves, differences."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from totojax import tree

AXES = {"blocks": {"out": P("layers", "embed"), "norm": P()}, "head": P("v")}


def test_names_follow_the_path():
  names = tree.named_leaves({"b": {"c": 1, "a": 2}, "a": [3, (4, 5)]})
  assert names == [("a/0", 3), ("a/1/0", 4), ("a/1/1", 5), ("b/a", 2), ("b/c", 1)]


def test_partition_specs_are_leaves():
  named = dict(tree.named_leaves(AXES))
  assert named == {"blocks/norm": P(), "blocks/out": P("layers", "embed"), "head": P("v")}


def test_map_named_gives_name_and_leaves():
  shapes = {"blocks": {"out": 1, "norm": 2}, "head": 3}
  told = tree.map_named(lambda *x: x, AXES, shapes)
  assert told["blocks"]["out"] == ("blocks/out", P("layers", "embed"), 1)
  assert told["head"] == ("head", P("v"), 3)
  with pytest.raises(ValueError):  # another structure
    tree.map_named(lambda *x: x, AXES, {"head": 3})


def test_differences_name_everything_that_differs():
  found = {
    "same": jnp.zeros(3),
    "shape": jnp.zeros((2, 3)),
    "dtype": jnp.zeros(3, jnp.bfloat16),
    "extra": np.zeros(1),
  }
  expected = {
    "same": jax.ShapeDtypeStruct((3,), jnp.float32),
    "shape": jax.ShapeDtypeStruct((3, 2), jnp.float32),
    "dtype": jax.ShapeDtypeStruct((3,), jnp.float32),
    "gone": jax.ShapeDtypeStruct((), jnp.float32),
  }
  assert tree.differences(found, expected) == [
    "dtype: bfloat16[3] where float32[3] is needed",
    "extra: not expected",
    "gone: missing",
    "shape: float32[2, 3] where float32[3, 2] is needed",
  ]
  assert tree.differences(found, found) == []
  # Values are not looked at.
  assert tree.differences({"a": np.ones(2)}, {"a": np.zeros(2)}) == []
