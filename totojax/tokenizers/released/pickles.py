"""Tensors of a file that PyTorch saved, without PyTorch and running nothing.

`torch_files` finds the pickle and the storages, `unpickler` reads the pickle, and
this file makes arrays of what it declares, after checking it. Names are those
of the state dict, whether the file holds a module, as torch.save or TorchScript
writes it, a state dict, or a checkpoint with one.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import itertools
import math
import os
import pathlib
from typing import Any
import weakref

import numpy as np

from totojax.storage import outside
from totojax.storage.arrays import Stored
from totojax.tokenizers.released import torch_files
from totojax.tokenizers.released.torch_files import Storage, Tensor
from totojax.tokenizers.released.unpickler import AGAIN, Inert, PUBLISHER, shown, UnsafeOrDamaged

FILE_BYTES = 4 * 2**30
TENSOR_BYTES = 2**30
NAMES = 100_000  # of tensors, and of modules
NAME_CHARS = 1000  # of the longest
DEPTH = 100  # of modules
DIMENSIONS = 32
_SCRIPT = "__torch__."  # of the classes of TorchScript


def read(
  path: str | os.PathLike[str], keys: Sequence[str] = ("state_dict",)
) -> dict[str, np.ndarray]:
  """Every tensor of a torch file by its state-dict name; nothing is executed.

  Args:
    path: a module, a state dict, or a dict that holds one under a key.
    keys: of these, the first that there is.

  Returns:
    Arrays in native byte order, not writeable. Tied tensors share their memory.

  Raises:
    FileNotFoundError: there is no such file.
    UnsafeOrDamaged: it is hostile, cut short, altered, or no such file; a
      tensor has another dtype than float32, float16, bfloat16, float64, int64,
      int32, uint8 and bool, or values that are not finite.
  """
  with opened(path, keys) as tensors:
    return {name: tensor.read() for name, tensor in tensors.items()}


@contextlib.contextmanager
def opened(
  path: str | os.PathLike[str], keys: Sequence[str] = ("state_dict",)
) -> Iterator[dict[str, Stored]]:
  """The same tensors, each of which is read when it is asked for.

  What the file declares is checked at once, and the values of a tensor when
  they are read.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"no file at {path}; give the path of a torch file")
  size = path.stat().st_size
  try:
    if not size:
      raise UnsafeOrDamaged(f"it is empty; {AGAIN}")
    if size > FILE_BYTES:
      raise UnsafeOrDamaged(
        f"it has {size} bytes, more than {FILE_BYTES}; save the state dict of"
        " the model alone, without an optimizer's"
      )
    with outside.open_plain(path) as file:
      is_zip = file.read(4) == b"PK\x03\x04"
      layout = torch_files.Zip(file) if is_zip else torch_files.Legacy(file)
      yield _tensors(_state(layout.root, keys), layout.storage, size)
  except UnsafeOrDamaged as error:
    if str(error).startswith(f"{path}: "):
      raise
    raise UnsafeOrDamaged(f"{path}: {error}") from None


def _tensors(root: Any, load: Callable[[Storage], np.ndarray], size: int) -> dict[str, Stored]:
  """The named tensors below `root`, checked."""
  tensors: dict[str, Tensor] = {}
  for name, tensor in _named(root):
    if name in tensors:
      raise UnsafeOrDamaged(f"it has two tensors named {shown(name)}; {PUBLISHER}")
    if len(tensors) == NAMES:
      raise UnsafeOrDamaged(f"it has over {NAMES} tensors; {PUBLISHER}")
    _check(shown(name), tensor)
    tensors[name] = tensor
  if not tensors:
    raise UnsafeOrDamaged("it holds no tensor; give the checkpoint of a model")
  # What overlaps in the file could declare far more than it has.
  used = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
  declared = max(sum(t.nbytes for t in set(tensors.values())), sum(s.nbytes for s in used.values()))
  if declared > size:
    raise UnsafeOrDamaged(
      f"its tensors have {declared} bytes, more than the file's {size}; {PUBLISHER}"
    )
  # Of tensors that share a storage, those before are often parts of the same.
  recent = functools.lru_cache(maxsize=4)(lambda key: load(used[key]))
  tied = weakref.WeakValueDictionary()

  def values(name: str, tensor: Tensor) -> np.ndarray:
    if (array := tied.get(tensor)) is None:
      array = tied[tensor] = _array(shown(name), tensor, recent(tensor.storage.key))
    return array

  return {
    name: Stored(tensor.shape, functools.partial(values, name, tensor))
    for name, tensor in tensors.items()
  }


def _state(root: Any, keys: Sequence[str]) -> Any:
  """What a checkpoint holds under the first of the keys, or the root itself."""
  if not isinstance(root, dict):
    return root
  return next((root[key] for key in keys if isinstance(root.get(key), dict)), root)


def _named(root: Any) -> Iterator[tuple[str, Any]]:
  """State-dict names and tensors of a module or state dict."""
  if isinstance(root, Inert):
    yield from _module(root, "", 0, itertools.count())
    return
  if not isinstance(root, dict):
    raise UnsafeOrDamaged(
      f"it holds a {type(root).__name__}; give a module, a state dict, or a"
      ' checkpoint with one under "state_dict"'
    )
  for name, value in root.items():
    yield _entry(name, "", value)


def _module(
  module: Inert, prefix: str, depth: int, visits: Iterator[int]
) -> Iterator[tuple[str, Any]]:
  """What `nn.Module.state_dict` would name, in its order."""
  if depth > DEPTH or next(visits) >= NAMES:
    raise UnsafeOrDamaged(f"its modules are over {DEPTH} deep, or over {NAMES}; {PUBLISHER}")
  state = module.state
  if module.name.startswith(_SCRIPT) and isinstance(state, dict):
    # Attributes of all kinds: tensors, children, and what is neither.
    for name, value in state.items():
      if isinstance(value, Inert) and value.name.startswith(_SCRIPT):
        yield from _module(value, _joined(prefix, name) + ".", depth + 1, visits)
      elif isinstance(value, Tensor):
        yield _entry(name, prefix, value)
    return
  if not isinstance(state, dict) or not all(
    isinstance(state.get(part), dict) for part in ("_parameters", "_buffers", "_modules")
  ):
    raise UnsafeOrDamaged(
      f"{shown(module.name)} at {shown(prefix)} is no module; save the state dict of the model"
    )
  hidden = state.get("_non_persistent_buffers_set")
  hidden = hidden if isinstance(hidden, set) else set()
  buffers = ((name, value) for name, value in state["_buffers"].items() if name not in hidden)
  for name, value in itertools.chain(state["_parameters"].items(), buffers):
    if value is not None:
      yield _entry(name, prefix, value)
  for name, child in state["_modules"].items():
    if isinstance(child, Inert):
      below = _joined(prefix, name) + "."
      yield from _module(child, below, depth + 1, visits)
    elif child is not None:
      raise UnsafeOrDamaged(f"a child of the module at {shown(prefix)} is no module; {PUBLISHER}")


def _entry(name: Any, prefix: str, value: Any) -> tuple[str, Tensor]:
  path = _joined(prefix, name)
  if isinstance(value, Tensor):
    return path, value
  kind = type(value).__name__
  if isinstance(value, Inert):
    kind = shown(value.name)
  raise UnsafeOrDamaged(
    f"{shown(path)} is {kind}, no dense tensor; save the state dict of the model alone"
  )


def _joined(prefix: str, name: Any) -> str:
  if not isinstance(name, str) or len(prefix) + len(name) > NAME_CHARS:
    raise UnsafeOrDamaged(
      f"a name below {shown(prefix)} is no string, or longer than"
      f" {NAME_CHARS} characters; {PUBLISHER}"
    )
  return prefix + name


def _check(name: str, tensor: Tensor) -> None:
  """Raises UnsafeOrDamaged unless the view lies inside its storage."""
  storage, first = tensor.storage, tensor.first
  shape, strides = tensor.shape, tensor.strides
  torch_files.check_type(storage, f"tensor {name}")
  if tensor.marks:
    raise UnsafeOrDamaged(f"tensor {name} is a conjugate or negative view; save a .clone() of it")
  if (
    not isinstance(storage, Storage)
    or not _counts((first,))
    or not _counts(shape)
    or not _counts(strides)
    or len(shape) != len(strides)
    or len(shape) > DIMENSIONS
  ):
    raise UnsafeOrDamaged(
      f"tensor {name} is declared with offset, shape or strides that are no counts; {PUBLISHER}"
    )
  values = math.prod(shape)
  last = first + sum((n - 1) * step for n, step in zip(shape, strides))
  if values > storage.count or (values and last >= storage.count):
    raise UnsafeOrDamaged(
      f"tensor {name} of shape {shape} at {first} with strides {strides} does not fit its storage"
      f" of {storage.count} values; {AGAIN}, and where it was expanded, save a .clone() of it"
    )
  if tensor.nbytes > TENSOR_BYTES:
    raise UnsafeOrDamaged(
      f"tensor {name} has {tensor.nbytes} bytes; {TENSOR_BYTES} are the most"
      f" that is read: {PUBLISHER}"
    )


def _counts(values: Any) -> bool:
  return isinstance(values, tuple) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _array(name: str, tensor: Tensor, values: np.ndarray) -> np.ndarray:
  """The view of `values` that a checked tensor declares."""
  itemsize = values.dtype.itemsize
  if not math.prod(tensor.shape):
    return np.zeros(tensor.shape, values.dtype)
  array = np.lib.stride_tricks.as_strided(
    values[tensor.storage.first + tensor.first :],
    tensor.shape,
    [step * itemsize for step in tensor.strides],
    writeable=False,
  )
  array = np.ascontiguousarray(array).reshape(tensor.shape)
  array.flags.writeable = False
  if array.dtype.kind not in "iub" and not np.isfinite(array).all():
    raise UnsafeOrDamaged(
      f"tensor {name} has values that are not finite; the training diverged,"
      f" or the file is damaged: {AGAIN}"
    )
  return array
