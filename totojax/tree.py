"""Pytrees of parameters: names of leaves, what modules give."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn, traverse_util
import jax
from jax.sharding import PartitionSpec

Tree = Any


def _is_spec(leaf: Any) -> bool:
  return isinstance(leaf, PartitionSpec)


def name_of(path: tuple[Any, ...]) -> str:
  """`blocks/attention/query` of a key path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
  """(name, leaf) of every leaf, in tree order; PartitionSpecs are leaves."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_spec)
  return [(name_of(path), leaf) for path, leaf in flat]


def paths(tree: Tree) -> dict[tuple[str, ...], Any]:
  """Every leaf of nested dictionaries by its keys, in their own order."""
  return traverse_util.flatten_dict(tree)


def apply(module: nn.Module, params: Tree, *inputs: Any, **options: Any) -> Any:
  """What a module gives with these parameters.

  Linen's own `apply` is typed as what may be a pair, which it is where
  collections are `mutable`.
  """
  return module.apply({"params": params}, *inputs, **options)


def map_named(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """`fn(name, leaf, *leaves of rest)` over a tree with PartitionSpec leaves."""
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: fn(name_of(path), *leaves), tree, *rest, is_leaf=_is_spec
  )


def differences(actual: Tree, expected: Tree) -> list[str]:
  """What differs between two trees of arrays: names, shapes, dtypes.

  Empty when they agree. Values are not looked at.
  """
  actual_by_name = dict(named_leaves(actual))
  expected_by_name = dict(named_leaves(expected))
  lines = []
  for name in expected_by_name.keys() - actual_by_name.keys():
    lines.append(f"{name}: missing")
  for name in actual_by_name.keys() - expected_by_name.keys():
    lines.append(f"{name}: not expected")
  for name in expected_by_name.keys() & actual_by_name.keys():
    a, b = actual_by_name[name], expected_by_name[name]
    if a.shape != b.shape or a.dtype != b.dtype:
      lines.append(f"{name}: {a.dtype}{list(a.shape)} where {b.dtype}{list(b.shape)} is needed")
  return sorted(lines)
