"""From the tensors of a released PyTorch module to our parameters, strictly."""

from collections.abc import Callable, Mapping
import re
from typing import Any

from flax import traverse_util
import numpy as np

from totojax import tree as tree_lib

_HWIO = (2, 3, 1, 0)  # the transposition that makes it of OIHW
_OIHW = (3, 2, 0, 1)  # and back


def arrange(
  tensors: Mapping[str, np.ndarray],
  shapes: Any,
  name_of: Callable[[tuple[str, ...]], str],
  *,
  what: str,
) -> Any:
  """Our parameter tree out of a state dictionary.

  Args:
    tensors: by their reference names; kernels are OIHW.
    shapes: our tree, of anything with a shape; kernels are HWIO.
    name_of: the reference name of a path in our tree.
    what: the tensors are meant to be ("a dVAE encoder"), for errors.

  Returns:
    The tree with float32 arrays.

  Raises:
    ValueError: naming every missing tensor, every one too many, and every wrong
      shape.
  """
  flat, known, wrong = {}, set(), []
  for path, leaf in tree_lib.paths(shapes).items():
    name, kernel = name_of(path), len(leaf.shape) == 4
    known.add(name)
    if name not in tensors:
      wrong.append(f"{name} is missing")
      continue
    value = np.asarray(tensors[name])
    needed = tuple(leaf.shape[i] for i in _OIHW) if kernel else leaf.shape
    if value.shape != needed:
      wrong.append(f"{name} has shape {value.shape} where {needed} is needed")
      continue
    value = value.transpose(_HWIO) if kernel else value
    flat[path] = np.ascontiguousarray(value, np.float32)
  wrong += [f"{name} is unknown" for name in sorted(set(tensors) - known)]
  if wrong:
    raise ValueError(
      f"these tensors are not {what}: {'; '.join(wrong)}. Give the whole released file"
    )
  return traverse_util.unflatten_dict(flat)


def size(tensors: Mapping[str, np.ndarray], name: str, axis: int, otherwise: int) -> int:
  """A tensor's length along an axis; `otherwise` where it does not say.

  `arrange` names what is wrong with such a tensor.
  """
  shape = np.shape(tensors[name]) if name in tensors else ()
  return shape[axis] if axis < len(shape) else otherwise


def highest(tensors: Mapping[str, np.ndarray], pattern: str, otherwise: int) -> int:
  """The highest number that the pattern's group has in any name."""
  numbers = [int(match[1]) for name in tensors if (match := re.match(pattern, name))]
  return max(numbers, default=otherwise)
