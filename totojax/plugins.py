"""What a user brings: a file or a module of theirs gives an object of a kind.

A config names it where it names one of ours: "my_head.py", or
"my_package.heads:deep". The function of that name, or of its kind's name
("head"), is called without arguments and returns the object, which must be what
the kind's contract says. docs/contributing.md shows one of each kind.

  architecture  a class of `models.architecture.Architecture`, with its keys
  tokenizer     `tokenizers.api.Tokenizer`
  encoder       `trained.encoders.Encoder`
  dataset       (root, split) -> `data.sources.items.Listing`
  head          `models.heads`: features of a layer to class logits
  task          (model, µP or None) -> a `tasks.pretrain.Pretrain`
  evaluation    (task, config) -> (state -> pairs of name and value)
  job           (a `config.schema.section` of keys, a function as `jobs.Run`)

The digest of the source is part of a run's identity, like its config.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from typing import Any, TypeVar

T = TypeVar("T")

KINDS = ("architecture", "tokenizer", "encoder", "dataset", "head", "task", "evaluation", "job")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE = re.compile(r"(.+\.py)(?::([A-Za-z_]\w*))?")


class PluginError(ValueError):
  """A file or module of the user's that is missing or not what it must be."""


@dataclasses.dataclass(frozen=True)
class Plugin:
  """A function of the user's.

  Attributes:
    reference: as the config names it.
    make: the function; called without arguments.
    digest: of its source.
  """

  reference: str
  make: Callable[[], Any]
  digest: str


def is_reference(text: Any) -> bool:
  """Whether `text` names something of the user's, and nothing of ours."""
  if not isinstance(text, str):
    return False
  return bool(_FILE.fullmatch(text) or _MODULE.fullmatch(text))


def stem(reference: str) -> str:
  """What a reference is called in logs: "mine" of "evals/mine.py"."""
  if file := _FILE.fullmatch(reference):
    return file[2] or pathlib.Path(file[1]).stem
  return reference.rpartition(":")[2]


@functools.cache
def find(reference: str, kind: str) -> Plugin:
  """The function that `reference` names, imported once a process.

  Args:
    reference: "FILE.py", "FILE.py:FUNCTION" or "MODULE:FUNCTION".
    kind: one of `KINDS`, the function's name where none is given.

  Raises:
    PluginError: there is no such file, module or function, or it cannot be
      imported; says why.
  """
  if file := _FILE.fullmatch(reference):
    module, source = _of_file(pathlib.Path(file[1]), reference)
    name = file[2] or kind
  else:
    path, _, name = reference.partition(":")
    module, source = _of_module(path, reference)
  make = getattr(module, name, None)
  if not callable(make):
    raise PluginError(
      f"{reference} must define {name}(), which gives the {kind}"
      f" (docs/contributing.md); it defines {_functions(module)}"
    )
  return Plugin(reference, make, hashlib.sha256(source).hexdigest()[:16])


def load(reference: str, kind: str, contract: type[T]) -> T:
  """What the user's function returns.

  Raises:
    PluginError: it fails, or returns something else.
  """
  plugin = find(reference, kind)
  try:
    value = plugin.make()
  except (Exception, SystemExit) as error:
    raise PluginError(
      f"{reference}: {plugin.make.__name__}() fails ({type(error).__name__}: {error})"
    ) from error
  if (lacking := _lacking(value, contract)) is not None:
    raise _other(plugin, value, kind, contract.__name__ + lacking)
  return value


def function(reference: str, kind: str) -> Callable[..., Any]:
  """The same, of kinds that are functions: data sets, tasks, evaluations."""
  value = load(reference, kind, object)
  if not callable(value):
    plugin = find(reference, kind)
    raise _other(plugin, value, kind, "a function")
  return value


def _other(plugin: Plugin, value: Any, kind: str, contract: str) -> PluginError:
  return PluginError(
    f"{plugin.reference}: {plugin.make.__name__}() gives"
    f" {type(value).__name__}; the contract of {kind!r} is {contract}"
  )


def _lacking(value: Any, contract: type) -> str | None:
  """What `value` has not that `contract` asks for; None where it is one."""
  if not getattr(contract, "_is_protocol", False):
    return None if isinstance(value, contract) else ""
  asked = [
    name
    for base in contract.__mro__
    for name in {*vars(base), *vars(base).get("__annotations__", {})}
    if not name.startswith("_") and getattr(base, "_is_protocol", False)
  ]
  missing = sorted(name for name in asked if not hasattr(value, name))
  return f" with {', '.join(missing)}" if missing else None


def _of_file(path: pathlib.Path, reference: str) -> tuple[Any, bytes]:
  try:
    source = path.read_bytes()
  except OSError as error:
    raise PluginError(
      f"{reference} cannot be read ({error.strerror}); give the path of a Python file"
    ) from error
  # Under a name of its own: two files may be called alike.
  name = f"totojax_plugin_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None  # of a name in .py
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # where dataclasses and pickle look for it
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    del sys.modules[name]
    raise PluginError(
      f"{reference} cannot be imported ({type(error).__name__}: {error})"
    ) from error
  return module, source


def _of_module(name: str, reference: str) -> tuple[Any, bytes]:
  try:
    module = importlib.import_module(name)
    return module, inspect.getsource(module).encode()
  except (Exception, SystemExit) as error:
    raise PluginError(
      f"{reference}: module {name} cannot be imported"
      f" ({type(error).__name__}: {error}); is it on PYTHONPATH?"
    ) from error


def _functions(module: Any) -> str:
  names = [
    name
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__
  ]
  return ", ".join(names) or "no function"
