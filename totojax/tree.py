"""Pytrees of parameters: names of leaves, rules for them, what modules give."""

from collections.abc import Callable, Iterable
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util
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


def first_match(rules: Iterable[tuple[str, Any]], names: list[str]) -> list[Any]:
  """The value of the first rule whose pattern matches each whole name.

  Raises:
    ValueError: a name that no rule covers, or a rule that matches no name: a
      rule that does nothing is a mistake in the rule.
  """
  rules = list(rules)
  used = set()
  values = []
  for name in names:
    for i, (pattern, value) in enumerate(rules):
      if re.fullmatch(pattern, name):
        used.add(i)
        values.append(value)
        break
    else:
      raise ValueError(
        f"parameter {name!r} matches none of the rules"
        f" {[pattern for pattern, _ in rules]}; add one for it"
      )
  idle = [pattern for i, (pattern, _) in enumerate(rules) if i not in used]
  if idle:
    raise ValueError(f"rules {idle} match no parameter of {names}; remove them")
  return values


def differences(found: Tree, expected: Tree) -> list[str]:
  """What differs between two trees of arrays: names, shapes, dtypes.

  Empty when they agree. Values are not looked at.
  """
  found_by_name = dict(named_leaves(found))
  expected_by_name = dict(named_leaves(expected))
  lines = []
  for name in expected_by_name.keys() - found_by_name.keys():
    lines.append(f"{name}: missing")
  for name in found_by_name.keys() - expected_by_name.keys():
    lines.append(f"{name}: not expected")
  for name in expected_by_name.keys() & found_by_name.keys():
    a, b = found_by_name[name], expected_by_name[name]
    if a.shape != b.shape or a.dtype != b.dtype:
      lines.append(f"{name}: {a.dtype}{list(a.shape)} where {b.dtype}{list(b.shape)} is needed")
  return sorted(lines)
