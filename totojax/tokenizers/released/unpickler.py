"""Pickles read so that nothing of a file can run.

Python's own unpickler imports the names of a file and calls them; that is how
a checkpoint takes over the process that loads it. Here a class or function of
the file is an `Inert`, and so is whatever the file wants made of it: nothing is
imported, no attribute of the file's choice is looked up, and only the functions
that the caller lists are called.

The unpickler is the standard library's in Python, not the one in C, which takes
memory for whatever memo index a file names. Nothing of the file's but strings
is hashed: the hash of tuples in tuples recurses in C, without a bound.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import io
import pickle
import pickletools
from typing import Any, BinaryIO

from totojax.storage import Damage

OPCODES = 1_000_000  # of a pickle; 500 tensors with Adam's moments take 59,586
AGAIN = "copy or download the file again"
PUBLISHER = "get the file from its publisher"

# Names that no checkpoint needs. Nothing of a file is run, with or without this
# list: it is here so that an attack is called one.
_ATTACK_MODULES = frozenset(
  "_posixsubprocess bdb code codeop commands ctypes importlib nt os pdb pip popen2 posix pty pydoc"
  " runpy shutil socket subprocess sys timeit webbrowser".split()
)
_BUILTINS = frozenset({"builtins", "__builtin__", "io", "_io", "codecs"})
_ATTACK_BUILTINS = frozenset(
  "__import__ breakpoint compile delattr eval exec execfile file globals input locals open setattr"
  " vars".split()
)
# The process's own table of objects, buffers that are not in the file, and ids
# of storages as bare text.
_FOREIGN_OPCODES = frozenset("EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER PERSID".split())


Maker = Callable[[tuple[Any, ...]], Any]


class UnsafeOrDamaged(Damage, ValueError):
  """A file that is not read: hostile, cut short, altered, or of another kind.

  Nothing of it was run. The message says what is wrong and what to do.
  """


@dataclasses.dataclass(eq=False)
class Inert:
  """A class or function of the file, or what the file wanted made by its call."""

  name: str  # of the class or function, which was not looked up
  # Our function that is called in its place, with the tuple of arguments; None:
  # a call gives another `Inert` of this name.
  maker: Maker | None = None
  state: Any = None  # of a BUILD: the attributes of a pickled object

  def append(self, _: Any) -> None:
    """Of a subclass of list or dict, the items are of no use."""

  def __setitem__(self, key: Any, value: Any) -> None:
    pass


def load(file: BinaryIO, *, makers: Mapping[str, Maker], storage: Callable[[Any], Any]) -> Any:
  """The value of the pickle that starts here; the file then stands behind it.

  Args:
    file: of which this is a part.
    makers: what is called in place of a function of the file, by its full name.
    storage: resolves a persistent id, or raises UnsafeOrDamaged.

  Raises:
    UnsafeOrDamaged: it is no whole pickle, or names what only an attack does.
  """
  begin = file.tell()
  try:
    # Before anything is made: every opcode is known, and whole.
    for count, (opcode, _, _) in enumerate(pickletools.genops(file)):
      if count == OPCODES:
        raise UnsafeOrDamaged(
          f"the pickle has more than {OPCODES} opcodes; a checkpoint of tensors has far fewer:"
          f" {PUBLISHER}"
        )
      if opcode.name in _FOREIGN_OPCODES:
        raise UnsafeOrDamaged(
          f"the pickle uses the opcode {opcode.name}, which no checkpoint has; {PUBLISHER}"
        )
    end = file.tell()
    file.seek(begin)
    return _Safe(io.BytesIO(file.read(end - begin)), makers, storage).load()
  except UnsafeOrDamaged:
    raise
  except Exception as error:  # any bytes at all, in a machine that trusts them
    raise UnsafeOrDamaged(
      f"the pickle is cut short or damaged ({shown(f'{type(error).__name__}: {error}')}); {AGAIN}"
    ) from None


def shown(text: str) -> str:
  """A file's own words, quoted and cut, so that they cannot fill a screen."""
  return repr(text if len(text) <= 80 else text[:77] + "...")


class _Dict(dict):
  """Its keys are strings; any other becomes one by its identity alone."""

  def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()):
    super().__init__()
    for key, value in pairs:
      self[key] = value

  def __setitem__(self, key: Any, value: Any) -> None:
    if key.__class__ is not str:
      key = Inert(type(key).__name__)
    elif key in self:
      raise UnsafeOrDamaged(
        f"the pickle has the key {shown(key)} twice in one dict; torch never writes that:"
        f" {PUBLISHER}"
      )
    super().__setitem__(key, value)


class _Strings(set):
  """The strings of a set: nobody asks for anything else."""

  def __init__(self, items: Iterable[Any] = ()):
    super().__init__()
    self.update(items)

  def update(self, *others: Iterable[Any]) -> None:
    for items in others:
      super().update(item for item in items if isinstance(item, str))


_Unpickler: Any = pickle._Unpickler  # type checkers know the one in C alone


class _Safe(_Unpickler):
  """Makes `Inert` of names, and plain values of the rest."""

  dispatch: dict[int, Callable[[Any], None]] = dict(_Unpickler.dispatch)

  def __init__(self, file: BinaryIO, makers: Mapping[str, Maker], storage: Callable[[Any], Any]):
    super().__init__(file, encoding="latin1")  # Python 2 wrote bytes
    self.persistent_load = storage
    strings, ordered = (functools.partial(self._collection, kind) for kind in (_Strings, _Dict))
    self._makers = {
      "collections.OrderedDict": ordered,
      "builtins.set": strings,
      "__builtin__.set": strings,
      **makers,
    }
    self._copied = 0

  def find_class(self, module: str, name: str) -> Inert:
    full = f"{module}.{name}"
    if module.split(".")[0] in _ATTACK_MODULES or (
      module in _BUILTINS and name in _ATTACK_BUILTINS
    ):
      raise UnsafeOrDamaged(
        f"the pickle asks for {shown(full)}, which no checkpoint needs: the file is an attack."
        f" Nothing of it was run; delete it, and {PUBLISHER}"
      )
    return Inert(full, self._makers.get(full))

  def _collection(self, kind: Callable[[Any], Any], arguments: tuple[Any, ...]) -> Any:
    """A set or dict of another's items; a memo could multiply those."""
    (items,) = arguments or ((),)
    self._copied += len(items)
    if self._copied > OPCODES:
      raise UnsafeOrDamaged(f"the pickle copies more than {OPCODES} items; {PUBLISHER}")
    return kind(items)

  def load_reduce(self) -> None:
    args, klass = self.stack.pop(), self.stack.pop()
    if not isinstance(klass, Inert) or not isinstance(args, list | tuple):
      raise TypeError(f"a {type(klass).__name__} is called with a {type(args).__name__}")
    self.append(klass.maker(tuple(args)) if klass.maker else Inert(klass.name))

  def load_newobj_ex(self) -> None:
    self.stack.pop()  # arguments by name
    self.load_reduce()

  def load_build(self) -> None:
    """Sets no attribute but an `Inert`'s state."""
    state = self.stack.pop()
    if isinstance(self.stack[-1], Inert):
      self.stack[-1].state = state

  def load_dict(self) -> None:
    items = self.pop_mark()
    self.append(_Dict(zip(items[::2], items[1::2], strict=True)))

  dispatch[pickle.REDUCE[0]] = load_reduce
  dispatch[pickle.NEWOBJ[0]] = load_reduce
  dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
  dispatch[pickle.BUILD[0]] = load_build
  dispatch[pickle.DICT[0]] = load_dict
  dispatch[pickle.EMPTY_DICT[0]] = lambda self: self.append(_Dict())
  dispatch[pickle.EMPTY_SET[0]] = lambda self: self.append(_Strings())
  dispatch[pickle.FROZENSET[0]] = lambda self: self.append(_Strings(self.pop_mark()))
