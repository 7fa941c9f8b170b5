"""A machine that reads pickles and can run nothing.

Python's own unpickler imports the names of a file and calls them; that is how
a checkpoint takes over the process that loads it. This one parses the opcodes
with `pickletools` and builds plain values (numbers, strings, lists, tuples,
dicts and sets). It imports nothing, looks up no attribute and calls nothing but
the functions that its caller lists: a class or function of the file is a
`Name`, and whatever the file wants made of it is an `Inert` record.

Reading is linear in the size of the file: no step recurses, and nothing of the
file's but strings is hashed or compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import pickletools
from typing import Any, BinaryIO

OPCODES = 1_000_000  # of a pickle; 500 tensors with Adam's moments take 59,586

# Names that no checkpoint needs. Nothing of a file is run, with or without this
# list: it is here so that an attack is called one.
_ATTACK_MODULES = frozenset(
  {
    "_posixsubprocess",
    "bdb",
    "code",
    "codeop",
    "commands",
    "ctypes",
    "importlib",
    "nt",
    "os",
    "pdb",
    "pip",
    "popen2",
    "posix",
    "pty",
    "pydoc",
    "runpy",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "timeit",
    "webbrowser",
  }
)
_BUILTINS = frozenset({"builtins", "__builtin__", "io", "_io", "codecs"})
_ATTACK_BUILTINS = frozenset(
  {
    "__import__",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "execfile",
    "file",
    "globals",
    "input",
    "locals",
    "open",
    "setattr",
    "vars",
  }
)

_LITERALS = frozenset(
  {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
  }
)
_EMPTY: Mapping[str, Callable[[], Any]] = {
  "NONE": lambda: None,
  "NEWTRUE": lambda: True,
  "NEWFALSE": lambda: False,
  "EMPTY_LIST": list,
  "EMPTY_TUPLE": tuple,
  "EMPTY_DICT": dict,
  "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnsafeOrDamaged(ValueError):
  """A file that is not read: hostile, cut short, altered, or of another kind.

  Nothing of it was run. The message says what is wrong and what to do.
  """


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
  """A class or function that the file refers to; it was not looked up."""

  name: str


@dataclasses.dataclass(eq=False)
class Inert:
  """What the file wanted made by a call: its name, and the state given to it.

  Attributes:
    name: of what was called.
    state: of a BUILD: the attributes of a pickled object.
  """

  name: str
  state: Any = None


class Machine:
  """Reads one pickle after another.

  Args:
    calls: functions by the name that a file has for them; each gets the tuple
      of arguments. Every other call gives an `Inert`.
    persistent: resolves a persistent id, or raises UnsafeOrDamaged.
  """

  def __init__(
    self, *, calls: Mapping[str, Callable[[tuple], Any]], persistent: Callable[[Any], Any]
  ):
    self._calls = {
      "collections.OrderedDict": _ordered_dict,
      "builtins.set": _set,
      "__builtin__.set": _set,
      **calls,
    }
    self._persistent = persistent

  def run(self, file: BinaryIO) -> Any:
    """The value of the pickle that starts here; the file stands behind it.

    Raises:
      UnsafeOrDamaged: it is no whole pickle, or names what only an attack does.
    """
    self._stack, self._marks, self._memo = [], [], {}
    try:
      for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == OPCODES:
          raise UnsafeOrDamaged(
            f"the pickle has more than {OPCODES} opcodes; a checkpoint of"
            " tensors has far fewer: get the file from its publisher"
          )
        if opcode.name == "STOP":
          return self._pop()
        self._step(opcode.name, argument)
    except UnsafeOrDamaged:
      raise
    except (ValueError, OverflowError) as error:  # pickletools
      raise UnsafeOrDamaged(
        f"the pickle is cut short or damaged ({shown(str(error))}); copy or download the file again"
      ) from None
    raise AssertionError("genops ends with STOP or raises")

  def _step(self, name: str, argument: Any) -> None:
    if name in _LITERALS:
      self._push(argument)
    elif name in _EMPTY:
      self._push(_EMPTY[name]())
    elif name in _TUPLES:
      items = [self._pop() for _ in range(_TUPLES[name])]
      self._push(tuple(reversed(items)))
    elif not (
      self._step_stack(name, argument) or self._step_fill(name) or self._step_object(name, argument)
    ):
      # EXT1, EXT2 and EXT4 (the process's own table of objects), and buffers
      # that are not in the file.
      raise UnsafeOrDamaged(
        f"the pickle uses the opcode {name}, which no checkpoint has; get the"
        " file from its publisher"
      )

  def _step_stack(self, name: str, argument: Any) -> bool:
    """Stack and memo; False where `name` is neither."""
    match name:
      case "PROTO" | "FRAME":
        pass
      case "MARK":
        self._marks.append(self._stack)
        self._stack = []
      case "POP":
        if self._stack:
          self._stack.pop()
        else:
          self._pop_mark()
      case "POP_MARK":
        self._pop_mark()
      case "DUP":
        self._push(self._top(object))
      case "PUT" | "BINPUT" | "LONG_BINPUT":
        self._memo[argument] = self._top(object)
      case "MEMOIZE":
        self._memo[len(self._memo)] = self._top(object)
      case "GET" | "BINGET" | "LONG_BINGET":
        if argument not in self._memo:
          raise _damaged(f"it asks for memo {argument}, which was not set")
        self._push(self._memo[argument])
      case _:
        return False
    return True

  def _step_fill(self, name: str) -> bool:
    """Lists, tuples, dicts and sets; False where `name` is another."""
    match name:
      case "LIST":
        self._push(self._pop_mark())
      case "TUPLE":
        self._push(tuple(self._pop_mark()))
      case "DICT":
        self._push(_fill({}, self._pop_mark()))
      case "FROZENSET":
        self._push({_key(item) for item in self._pop_mark()})
      case "APPEND":
        item = self._pop()
        self._extend([item])
      case "APPENDS":
        self._extend(self._pop_mark())
      case "ADDITEMS":
        items = self._pop_mark()
        self._top(set).update(_key(item) for item in items)
      case "SETITEM":
        value, key = self._pop(), self._pop()
        self._set_items([key, value])
      case "SETITEMS":
        self._set_items(self._pop_mark())
      case _:
        return False
    return True

  def _step_object(self, name: str, argument: Any) -> bool:
    """Names, calls and state; False where `name` is another."""
    match name:
      case "GLOBAL":
        self._push(_name(*argument.split(" ", 1)))
      case "STACK_GLOBAL":
        last, module = self._pop(), self._pop()
        self._push(_name(module, last))
      case "REDUCE" | "NEWOBJ":
        arguments, called = self._pop(), self._pop()
        self._push(self._call(called, arguments))
      case "NEWOBJ_EX":
        _, arguments, called = self._pop(), self._pop(), self._pop()
        self._push(self._call(called, arguments))
      case "OBJ":
        called, *rest = self._pop_mark() or [None]
        self._push(self._call(called, tuple(rest)))
      case "INST":
        called = _name(*argument.split(" ", 1))
        self._push(self._call(called, tuple(self._pop_mark())))
      case "BUILD":
        state, built = self._pop(), self._top(object)
        if isinstance(built, Inert):  # a dict's or a tensor's is of no use
          built.state = state
      case "BINPERSID":
        self._push(self._persistent(self._pop()))
      case _:
        return False
    return True

  def _call(self, called: Any, arguments: Any) -> Any:
    if not isinstance(arguments, tuple):
      raise _damaged(f"a call's arguments are {type(arguments).__name__}")
    if isinstance(called, Inert):  # the result of a call, called again
      return Inert(called.name)
    if not isinstance(called, Name):
      raise _damaged(f"a {type(called).__name__} is called")
    if called.name in self._calls:
      return self._calls[called.name](arguments)
    return Inert(called.name)

  def _push(self, value: Any) -> None:
    # Looked up here, after a mark was popped for `value`: that is the stack.
    self._stack.append(value)

  def _pop(self) -> Any:
    if not self._stack:
      raise _damaged("its stack is empty")
    return self._stack.pop()

  def _pop_mark(self) -> list[Any]:
    if not self._marks:
      raise _damaged("a mark is missing")
    items, self._stack = self._stack, self._marks.pop()
    return items

  def _top(self, kind: type) -> Any:
    if not self._stack or not isinstance(self._stack[-1], kind):
      raise _damaged(f"its stack has no {kind.__name__} on top")
    return self._stack[-1]

  def _extend(self, items: list[Any]) -> None:
    if not isinstance(self._top(object), Inert):  # a subclass of list
      self._top(list).extend(items)

  def _set_items(self, items: list[Any]) -> None:
    if not isinstance(self._top(object), Inert):  # a subclass of dict
      _fill(self._top(dict), items)


def shown(text: str) -> str:
  """A file's own words, quoted and cut, so that they cannot fill a screen."""
  return repr(text if len(text) <= 80 else text[:77] + "...")


def _damaged(what: str) -> UnsafeOrDamaged:
  return UnsafeOrDamaged(f"the pickle is damaged ({what}); copy or download the file again")


def _name(module: Any, name: Any) -> Name:
  if not isinstance(module, str) or not isinstance(name, str):
    raise _damaged("a class or function has no name")
  if module.split(".")[0] in _ATTACK_MODULES or (module in _BUILTINS and name in _ATTACK_BUILTINS):
    raise UnsafeOrDamaged(
      f"the pickle asks for {shown(f'{module}.{name}')}, which no checkpoint"
      " needs: the file is an attack. Nothing of it was run; delete it, and"
      " get the file from its publisher"
    )
  return Name(f"{module}.{name}")


def _key(value: Any) -> Any:
  """A string itself; anything else by its identity alone."""
  return value if isinstance(value, str) else Inert(type(value).__name__)


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
  if len(items) % 2:
    raise _damaged("a key has no value")
  for key, value in zip(items[::2], items[1::2]):
    key = _key(key)
    if key in target:
      raise UnsafeOrDamaged(
        f"the pickle has the key {shown(key)} twice in one dict; torch"
        " never writes that: get the file from its publisher"
      )
    target[key] = value
  return target


def _ordered_dict(arguments: tuple) -> dict[Any, Any]:
  """Empty, or from a list of pairs, as Python 2 wrote it."""
  if not arguments:
    return {}
  pairs = arguments[0]
  if (
    len(arguments) > 1
    or not isinstance(pairs, list)
    or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)
  ):
    raise _damaged("an OrderedDict is not made of pairs")
  return _fill({}, [item for pair in pairs for item in pair])


def _set(arguments: tuple) -> set[Any]:
  items = arguments[0] if arguments else []
  if len(arguments) > 1 or not isinstance(items, list | tuple):
    raise _damaged("a set is not made of a list")
  return {_key(item) for item in items}
