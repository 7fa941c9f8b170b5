"""From the tensors of a released PyTorch module to our parameters, strictly."""

from collections.abc import Callable, Iterable, Mapping
import re
from typing import Any

from flax import traverse_util
import numpy as np

from totojax import tree as tree_lib

_NAMED = 8  # wrong tensors in an error


def arrange(
  tensors: Mapping[str, np.ndarray],
  shapes: Any,
  name_of: Callable[[tuple[str, ...]], str],
  *,
  what: str,
) -> Any:
  """Our parameter tree out of a state dictionary.

  Args:
    tensors: by their reference names; kernels are OIHW (of other dimensions OIT
      or OITHW), those of one pixel also OI, as a linear layer's.
    shapes: our tree, of anything with a shape; kernels are HWIO (TIO, THWIO).
    name_of: the reference name of a path in our tree.
    what: the tensors are meant to be ("a dVAE encoder"), for errors.

  Returns:
    The tree with float32 arrays.

  Raises:
    ValueError: naming the missing tensors, those too many, and wrong shapes (of
      many the first).
  """
  flat, known, wrong = {}, set(), []
  for path, leaf in tree_lib.paths(shapes).items():
    name, kernel = name_of(path), len(leaf.shape) >= 3
    known.add(name)
    if name not in tensors:
      wrong.append(f"{name} is missing")
      continue
    shape = np.shape(tensors[name])
    if kernel and len(shape) == 2 and leaf.shape[:2] == (1, 1):
      shape = (*shape, 1, 1)
    needed = (*leaf.shape[:-3:-1], *leaf.shape[:-2]) if kernel else leaf.shape
    if shape != needed:  # before its values, of which there may be too many
      wrong.append(f"{name} has shape {shape} where {needed} is needed")
      continue
    value = np.asarray(tensors[name]).reshape(shape)
    value = value.transpose(*range(2, value.ndim), 1, 0) if kernel else value
    flat[path] = np.ascontiguousarray(value, np.float32)
  wrong += [f"{name} is unknown" for name in sorted(set(tensors) - known)]
  if wrong:
    wrong.sort(key=lambda line: not line.startswith("encoder."))  # from pixels on
    if len(wrong) > _NAMED:
      wrong[_NAMED:] = [f"and {len(wrong) - _NAMED} more"]
    raise ValueError(f"this is not {what}: {'; '.join(wrong)}. Give the whole released file")
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


def averaged(tensors: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
  """The moving average in a Lightning checkpoint, under the weights' names.

  It stands under "model_ema." and a name without its dots, which cannot be
  undone: hence the names. Without an average the weights themselves; what has
  neither name stays, to be named in an error.

  Raises:
    ValueError: there is an average, but not of this weight.
  """
  if not any(name.startswith("model_ema.") for name in tensors):
    return dict(tensors)
  left = {k: v for k, v in tensors.items() if k not in ("model_ema.decay", "model_ema.num_updates")}
  found = {}
  for name in names:
    average = "model_ema." + name.replace(".", "")
    if average not in left:
      raise ValueError(f"{average} is missing beside other averages. Give the whole released file")
    left.pop(name, None)
    found[name] = left.pop(average)
  return found | left
