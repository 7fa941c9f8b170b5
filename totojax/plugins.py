"""What a user brings: a file or a module of theirs gives an object of a kind.

A config names it where it names one of ours: "my_head.py", or
"my_package.heads:deep". The function of that name, or of its kind's name
("head"), is called without arguments and returns what `KINDS` says of the kind.
docs/contributing.md shows one of each.

Whatever is wrong with it is one line that names the file and, where there is
one, the line in it. The digest of the source is part of a run's identity, like
its config.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import math
import os
import pathlib
import re
import sys
import traceback
import types
from typing import Any, TypeVar

T = TypeVar("T")

# Kind -> the contract of what its function returns.
KINDS: Mapping[str, str] = {
  "architecture": "a `schema.section` of keys that is a models.architecture.Architecture",
  "tokenizer": "a tokenizers.api.Tokenizer",
  "encoder": "a trained.encoders.Encoder",
  "dataset": "a function (root, split) -> data.sources.items.Listing",
  "head": "an object with shapes(width) and pool(params, x_BTD, visual_BT) -> [B, D]",
  "task": "a function (model, µP or None) -> tasks.pretrain.Pretrain",
  "evaluation": "a function (task, config) -> function (state) -> pairs (name, finite number)",
  "job": "(a `schema.section` of keys, a function (config, workdir, interrupted) -> bool)",
}
_FUNCTION: Any = Callable  # which to checkers is no class
# Encoders of ours, which are named as NAME:PATH (`trained.ready`).
ENCODERS = ("dinov2", "dinov3", "mae", "clip", "videomae", "vjepa2", "rvm", "4ds", "pixels")
_MODULE = re.compile(rf"(?!({'|'.join(ENCODERS)}):)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FILE = re.compile(r"(.+\.py)(?::([A-Za-z_]\w*))?")


class PluginError(ValueError):
  """A file or module of the user's that is missing or not what it must be."""


@dataclasses.dataclass(frozen=True)
class Plugin:
  """A function of the user's."""

  reference: str  # as the config names it
  kind: str  # one of `KINDS`
  make: Callable[[], Any]  # the function; called without arguments
  file: str  # that it is in
  digest: str  # of its source

  def wrong(self, value: Any, *, call: str = "") -> PluginError:
    """An error for what it gives, or what calling that gives ("(state)")."""
    name = self.make.__name__
    return PluginError(
      f"{self.reference}: {name}(){call} gives {short(value)};"
      f" {name}() must give {KINDS[self.kind]} (docs/contributing.md)"
    )


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
    path, name = file[1], file[2] or kind
    module = run_file(path)
    source = pathlib.Path(path).read_bytes()
  else:
    path, _, name = reference.partition(":")
    if not name:
      raise PluginError(f"{reference} names no {kind}; give {path}.py or {path}:{kind}")
    with users(reference, f"module {path} cannot be imported: is it on PYTHONPATH?"):
      module = importlib.import_module(path)
      path, source = inspect.getfile(module), inspect.getsource(module).encode()
  make = function_of(module, reference, name, f"gives the {kind} (docs/contributing.md)")
  return Plugin(reference, kind, make, path, hashlib.sha256(source).hexdigest()[:16])


def load(
  reference: str, kind: str, contract: type[T], fits: Callable[[T], bool] = lambda value: True
) -> T:
  """What the user's function returns.

  Args:
    reference: as for `find`.
    kind: the same.
    contract: the class that it must be of.
    fits: what else must hold of it.

  Raises:
    PluginError: it fails, or returns something else.
  """
  plugin = find(reference, kind)
  with users(plugin.file, f"{plugin.make.__name__}() fails"):
    value = plugin.make()
  if not isinstance(value, contract) or not fits(value):
    raise plugin.wrong(value)
  return value


def function(reference: str, kind: str, contract: type[T]) -> Callable[..., T]:
  """The same, of kinds that are functions of something to a `contract`.

  What the function raises, or gives in place of one, is a PluginError too.
  """
  plugin, value = find(reference, kind), load(reference, kind, _FUNCTION)

  def call(*args: Any) -> T:
    with users(plugin.file, f"{plugin.make.__name__}()(...) fails"):
      result = value(*args)
    if not isinstance(result, contract):
      raise plugin.wrong(result, call="(...)")
    return result

  return call


def job(reference: str) -> tuple[type, Callable[..., bool]]:
  """The section of a user's job, and its function."""
  keys, run = load(
    reference,
    "job",
    tuple,
    lambda v: len(v) == 2 and hasattr(v[0], "SECTION") and callable(v[1]) and takes(v[1], 3),
  )

  def checked(*args: Any) -> bool:
    finished = run(*args)
    if not isinstance(finished, bool):  # None would read as an interruption
      raise find(reference, "job").wrong(finished, call="[1](...)")
    return finished

  return keys, checked


def takes(run: Callable[..., Any], count: int) -> bool:
  """Whether a function can be called with so many arguments."""
  try:
    inspect.signature(run).bind(*range(count))
  except (TypeError, ValueError):
    return False
  return True


def evaluation(reference: str, *args: Any) -> Callable[[Any], list[tuple[str, float]]]:
  """State -> (name, value) pairs of a user's evaluation of (task, config).

  It raises PluginError for anything else. A number that is not finite is an
  error the first time, before training; later it must not end a run, and is
  logged as none.
  """
  plugin = find(reference, "evaluation")
  evaluate = function(reference, "evaluation", _FUNCTION)(*args)
  calls = itertools.count()

  def pairs(state: Any) -> list[tuple[str, float]]:
    with users(plugin.file, "the evaluation fails"):
      results = evaluate(state)
      if isinstance(results, Iterable) and not isinstance(results, str | Mapping):
        results = list(results)
    if not isinstance(results, list):
      raise plugin.wrong(results, call="(...)(state)")
    scores, first = list(map(_score, results)), not next(calls)
    for pair, score in zip(results, scores):
      if score is None or (first and not math.isfinite(score[1])):
        raise plugin.wrong(pair, call="(...)(state)")
    return [score for score in scores if score is not None]

  return pairs


def _score(pair: Any) -> tuple[str, float] | None:
  """(name, value) with a value of numpy or jax as a float; None: it is none."""
  try:
    name, value = pair
    return (name, float(value)) if isinstance(name, str) and not isinstance(value, str) else None
  except (TypeError, ValueError):
    return None


@contextlib.contextmanager
def users(file: str, what: str) -> Iterator[None]:
  """Makes one line of what code of the user's raises inside.

  Args:
    file: of that code.
    what: fails, in words.

  Raises:
    PluginError: in place of what was raised, which is its cause.
  """
  try:
    yield
  except (Exception, SystemExit) as error:
    text = error.msg if isinstance(error, SyntaxError) else _said(str, error).strip()
    text = text.partition("\n")[0][:300]
    raise PluginError(f"{_place(error, file)}: {what} ({type(error).__name__}: {text})") from error


def _place(error: BaseException, file: str) -> str:
  """ "mine.py, line 3", where the error came up in a file."""
  frames, whole = traceback.extract_tb(error.__traceback__), os.path.abspath(file)
  lines = [frame.lineno for frame in frames if frame.filename == whole]
  if isinstance(error, SyntaxError) and error.filename == whole:
    lines.append(error.lineno)
  return f"{file}, line {lines[-1]}" if lines else file


def short(value: Any) -> str:
  """A value and its type, for one line."""
  text = _said(repr, value).partition("\n")[0]
  return f"{text[:60]}{'...' if len(text) > 60 else ''} ({type(value).__name__})"


def _said(how: Callable[[Any], str], value: Any) -> str:
  """`str` or `repr` of what a user made, whose own may fail."""
  try:
    return how(value)
  except Exception as error:
    return f"which cannot be shown: {type(error).__name__}"


def run_file(path: str) -> types.ModuleType:
  """The module of a Python file of the user's, run now.

  Raises:
    PluginError: it cannot be read or run; says why, and in which line.
  """
  if not os.path.isfile(path):
    raise PluginError(f"{path} does not exist; give the path of a Python file")
  # Under a name of its own: two files may be called alike.
  name = f"totojax_plugin_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
  loader = importlib.machinery.SourceFileLoader(name, os.path.abspath(path))
  spec = importlib.util.spec_from_file_location(name, loader.path, loader=loader)
  assert spec is not None  # with a loader it is made of any path
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # where dataclasses and pickle look for it
  with users(path, "it cannot be imported"):
    loader.exec_module(module)
  return module


def function_of(module: types.ModuleType, file: str, name: str, why: str) -> Callable[..., Any]:
  """A function that a user's file must define.

  Raises:
    PluginError: it does not; says `why` it must, and what it defines.
  """
  value = getattr(module, name, None)
  if callable(value):
    return value
  names = [
    key
    for key, one in vars(module).items()
    if inspect.isfunction(one) and one.__module__ == module.__name__
  ]
  raise PluginError(
    f"{file} must define {name}(), which {why}; it defines {', '.join(names) or 'no function'}"
  )
