"""Torch files against torch, and files that mean harm."""

import copyreg
import cProfile
import io
import os
import pathlib
import pickle
import pstats
import subprocess
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_bytes as tb

from totojax.tokenizers.released import pickles, unpickler

ZIP = pytest.param(True, id="zip")
LEGACY = pytest.param(False, id="legacy")
BOTH = pytest.mark.parametrize("is_zip", [ZIP, LEGACY])


def read(data, tmp_path):
  path = tmp_path / "some file.pt"
  path.write_bytes(data)
  return pickles.read(path)


def refusal(data, tmp_path):
  """The message with which a file is refused: it names the file and a fix."""
  with pytest.raises(unpickler.UnsafeOrDamaged) as caught:
    read(data, tmp_path)
  message = str(caught.value)
  assert str(tmp_path / "some file.pt") in message
  assert any(word in message for word in ("get ", "give", "save", "copy"))
  assert len(message) < 700
  return message


def saved(value, is_zip):
  torch = pytest.importorskip("torch")
  file = io.BytesIO()
  torch.save(value, file, _use_new_zipfile_serialization=is_zip)
  return file.getvalue()


def as_numpy(value):
  torch = pytest.importorskip("torch")
  if value.dtype == torch.bfloat16:
    return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return value.numpy()


def assert_tensors(found, expected):
  """Same names in the same order, shapes, dtypes and bits."""
  assert list(found) == list(expected)
  for key, value in expected.items():
    value = as_numpy(value)
    assert found[key].dtype == value.dtype and found[key].shape == value.shape
    np.testing.assert_array_equal(found[key], value, err_msg=key)


def some_module():
  """Every kind of entry that a state dict leaves out or takes in."""
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  norm = torch.nn.BatchNorm2d(4)  # buffers, one of them int64
  norm.register_buffer("scratch", torch.ones(2), persistent=False)
  tied = torch.nn.Linear(3, 3)
  return torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 2, bias=False),
    norm,
    torch.nn.ReLU(),
    torch.nn.Sequential(tied, tied, torch.nn.Identity()),
  )


@BOTH
def test_a_module_reads_as_its_state_dict(tmp_path, is_zip):
  module = some_module()
  found = read(saved(module, is_zip), tmp_path)
  assert_tensors(found, module.state_dict())
  assert not any("scratch" in name for name in found)
  # Tied weights take memory once.
  assert np.shares_memory(found["3.0.weight"], found["3.1.weight"])


@BOTH
def test_a_state_dict_alone_and_in_a_checkpoint(tmp_path, is_zip):
  state = some_module().state_dict()
  assert_tensors(read(saved(state, is_zip), tmp_path), state)
  plain = dict(state)  # without the attribute `_metadata`
  assert_tensors(read(saved({"state_dict": plain}, is_zip), tmp_path), state)


@BOTH
def test_what_a_checkpoint_carries_besides_is_not_made(tmp_path, is_zip):
  torch = pytest.importorskip("torch")
  module = some_module()
  optimizer = torch.optim.Adam(module.parameters())
  module(torch.rand(1, 3, 4, 4)).sum().backward()
  optimizer.step()
  checkpoint = {
    "epoch": 3,
    "callbacks": {pathlib.PurePosixPath: {"best": np.float64(3.0)}},
    "optimizer_states": [optimizer.state_dict()],
    "hyper_parameters": {
      "path": pathlib.PurePosixPath("a"),
      "set": {1, "b"},
      "complex": 1j,
      "bytes": b"x",
      "array": np.ones(3),
    },
    "state_dict": module.state_dict(),
    "unread": torch.ones(2, dtype=torch.int16),
  }
  if not is_zip:  # there a storage of unknown size hides those behind it
    message = refusal(saved(checkpoint, is_zip), tmp_path)
    assert "ShortStorage" in message
    del checkpoint["unread"]
  found = read(saved(checkpoint, is_zip), tmp_path)
  assert_tensors(found, module.state_dict())


@BOTH
def test_every_dtype_and_every_view(tmp_path, is_zip):
  torch = pytest.importorskip("torch")
  base = torch.arange(60).reshape(3, 4, 5)
  state = {
    str(kind): base.to(kind)
    for kind in (
      torch.float32,
      torch.float16,
      torch.bfloat16,
      torch.float64,
      torch.int64,
      torch.int32,
      torch.uint8,
    )
  }
  state |= {
    "bool": base % 3 == 0,
    "transposed": base.permute(2, 0, 1),
    "window": base[1:, ::2, 1:4],
    "column": base[:, 1, 2],
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "half": base.to(torch.bfloat16).permute(1, 2, 0)[::2],
  }
  found = read(saved(state, is_zip), tmp_path)
  assert_tensors(found, state)
  # Control: the strides matter.
  assert not np.array_equal(found["transposed"].ravel(), base.numpy().ravel())
  with pytest.raises(ValueError, match="read-only"):
    found["window"][0] = 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path, protocol):
  torch = pytest.importorskip("torch")
  module = some_module()
  file = io.BytesIO()
  torch.save(module, file, pickle_protocol=protocol)
  assert_tensors(read(file.getvalue(), tmp_path), module.state_dict())


def test_a_big_endian_file(tmp_path):
  torch = pytest.importorskip("torch")
  state = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}
  body = tb.mapping(
    a=tb.tensor(tb.storage(count=3), shape=(3,)),
    b=tb.tensor(tb.storage("BFloat16Storage", "1", 2), shape=(2,)),
  )
  swapped = {"0": np.arange(3, dtype=">f4").tobytes(), "1": b"\x3f\x80" * 2}
  more = [("byteorder", b"big")]
  found = read(tb.archive(body, swapped, more=more), tmp_path)
  assert_tensors(found, state)
  assert "middle" in refusal(tb.archive(body, swapped, more=[("byteorder", b"middle")]), tmp_path)
  more = [("byteorder", b"little")]  # control: the entry decides
  other = read(tb.archive(body, swapped, more=more), tmp_path)
  assert not np.array_equal(other["a"], found["a"])


def test_the_archives_folder_may_have_any_name(tmp_path):
  body = tb.mapping(w=tb.tensor())
  for folder in ("archive", "encoder", "ein Modell.v2 ü"):
    found = read(tb.archive(body, folder=folder), tmp_path)
    np.testing.assert_array_equal(found["w"], [1.0, -2.0, 3.0, 0.5])
  found = read(tb.legacy(body), tmp_path)
  np.testing.assert_array_equal(found["w"], [1.0, -2.0, 3.0, 0.5])


def test_a_legacy_view_of_a_storage(tmp_path):
  view = tb.row(tb.text("view"), tb.number(1), tb.number(2))
  body = tb.mapping(w=tb.tensor(tb.storage("FloatStorage", "0", 4, view), shape=(2,)))
  found = read(tb.legacy(body), tmp_path)
  np.testing.assert_array_equal(found["w"], [-2.0, 3.0])
  view = tb.row(tb.text("view"), tb.number(3), tb.number(2))
  body = tb.mapping(w=tb.tensor(tb.storage("FloatStorage", "0", 4, view), shape=(2,)))
  assert "leaves it" in refusal(tb.legacy(body), tmp_path)


# Attacks. Each is a pickle that, loaded by Python, makes the file `ran`.


class Calls:
  """Pickles as the call of a function."""

  def __init__(self, function, *arguments):
    self._reduced = (function, arguments)

  def __reduce__(self):
    return self._reduced


def body_of(attack):
  if isinstance(attack, bytes):
    return attack
  return pickle.dumps(attack, protocol=2)[2:-1]


def attacks(ran):
  touch = f"touch '{ran}'"
  opened = f"open({str(ran)!r}, 'w').close()"
  shell = tb.text(touch)
  made = Calls(pathlib.Path, str(ran))
  code = 217
  copyreg.add_extension("os", "system", code)
  return {
    "os.system": Calls(os.system, touch),
    "eval": Calls(eval, opened),
    "exec": Calls(exec, opened),
    "import": Calls(getattr, Calls(__import__, "os"), "system"),
    "called result": tb.call(body_of(Calls(getattr, Calls(__import__, "os"), "system")), shell),
    "subprocess": Calls(subprocess.call, ["touch", str(ran)]),
    "open": Calls(open, str(ran), "w"),
    "inst": b"(" + shell + b"ios\nsystem\n",
    "obj": b"(" + tb.name("os", "system") + shell + b"o",
    "inst builtins": b"(" + tb.text(opened) + b"i__builtin__\neval\n",
    "stack global": b"\x8c\x02os\x8c\x06system\x93" + tb.row(shell) + b"R",
    "extension": b"\x82" + bytes([code]) + tb.row(shell) + b"R",
    # Names that are on no list.
    "method": tb.call(body_of(Calls(getattr, made, "touch"))),
    "numpy": Calls(np.savetxt, str(ran), [1.0]),
    "argument": tb.call(body_of(Calls(getattr, made, "write_text")), shell),
  }


NAMES = list(attacks("x"))
copyreg.remove_extension("os", "system", 217)
UNLISTED = {"method", "numpy", "argument"}
NO_CALL_ALONE = {"import"}  # gets os.system, and does not call it


@pytest.fixture
def ran(tmp_path):
  yield tmp_path / "ran"
  copyreg.remove_extension("os", "system", 217)


def places(gadget):
  """Files with the gadget at each place that is read."""
  ours = tb.tensor()
  return {
    "root": tb.archive(gadget),
    "beside": tb.archive(tb.mapping(callbacks=gadget, state_dict=tb.mapping(w=ours))),
    "entry": tb.archive(tb.mapping(w=ours, x=gadget)),
    "module": tb.archive(tb.module(children=tb.mapping(a=gadget))),
    "state": tb.archive(
      tb.mapping(state_dict=tb.ORDERED + b"(" + tb.text("w") + ours + b"u" + gadget + b"b")
    ),
    "tensor": tb.archive(tb.mapping(w=tb.tensor(source=gadget))),
    "storage": tb.archive(tb.mapping(w=tb.tensor(source=gadget + b"Q"))),
    "legacy root": tb.legacy(gadget),
    "legacy beside": tb.legacy(tb.mapping(callbacks=gadget, state_dict=tb.mapping(w=ours))),
    "legacy magic": tb.pickled(gadget),
  }


@pytest.mark.parametrize("name", NAMES)
def test_no_attack_runs(tmp_path, ran, name):
  gadget = body_of(attacks(ran)[name])
  for place, data in places(gadget).items():
    unread = place in ("beside", "state", "legacy beside")
    if unread and name in UNLISTED:  # an unknown function: it is not called
      np.testing.assert_array_equal(read(data, tmp_path)["w"][:2], [1, -2])
    else:
      message = refusal(data, tmp_path)
      if name not in UNLISTED and place != "legacy magic":
        assert "attack" in message or "EXT" in message, (place, message)
    assert not ran.exists(), place
  # Control: Python's own unpickler runs it.
  loaded = pickle.loads(tb.pickled(gadget))
  if name in NO_CALL_ALONE:
    loaded(f"touch '{ran}'")
  assert ran.exists()


def test_nothing_that_a_file_names_is_imported(tmp_path, monkeypatch):
  """Importing alone runs a module's code."""
  (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
  monkeypatch.syspath_prepend(tmp_path)
  body = tb.mapping(state_dict=tb.mapping(w=tb.tensor()), other=tb.call(tb.name("trap", "f")))
  assert list(read(tb.archive(body), tmp_path)) == ["w"]
  assert not (tmp_path / "ran").exists()
  with pytest.raises(AttributeError):
    pickle.loads(tb.pickled(tb.name("trap", "f")))
  assert (tmp_path / "ran").exists()


def test_a_file_cannot_change_the_reader(tmp_path):
  """BUILD sets attributes of what is on the stack: here of a record alone."""
  before = dict(vars(pickles)), dict(vars(unpickler))
  poison = tb.mapping(__defaults__=tb.row(tb.number(1)), name=tb.text("x"))
  for target in ("OrderedDict", "set"):
    where = "collections" if target == "OrderedDict" else "builtins"
    body = tb.row(
      tb.name("torch._utils", "_rebuild_tensor_v2") + poison + b"b",
      tb.name(where, target) + tb.row(b"N", poison) + b"b",
      tb.tensor() + poison + b"b",
      tb.storage() + poison + b"b",
    )
    body = tb.mapping(state_dict=tb.mapping(w=tb.tensor()), x=body)
    found = read(tb.archive(body), tmp_path)
    np.testing.assert_array_equal(found["w"], [1.0, -2.0, 3.0, 0.5])
  assert (dict(vars(pickles)), dict(vars(unpickler))) == before


def numbered(count):
  return {f"n{i}": tb.tensor() for i in range(count)}


HUGE = 2**62
WRONG = {
  "more values than the storage": (tb.tensor(shape=(5,)), "does not fit"),
  "huge": (tb.tensor(shape=(HUGE,)), "does not fit"),
  "huge product": (tb.tensor(shape=(HUGE,) * 9, strides=(0,) * 9), "not fit"),
  "expanded": (tb.tensor(shape=(9,), strides=(0,)), "does not fit"),
  "offset": (tb.tensor(offset=1), "does not fit"),
  "stride": (tb.tensor(shape=(3,), strides=(2,)), "does not fit"),
  "huge stride": (tb.tensor(shape=(2,), strides=(HUGE,)), "does not fit"),
  "negative stride": (tb.tensor(strides=(-1,)), "no counts"),
  "negative offset": (tb.tensor(offset=-1), "no counts"),
  "negative size": (tb.tensor(shape=(-1,)), "no counts"),
  "beyond int64": (tb.tensor(shape=(2**80,)), "no counts"),
  "ranks": (tb.tensor(shape=(2, 2)), "no counts"),
  "dimensions": (tb.tensor(shape=(1,) * 40, strides=(1,) * 40), "no counts"),
  "no storage": (tb.tensor(source=tb.text("x")), "no counts"),
  "huge storage": (tb.tensor(tb.storage(count=HUGE), shape=(HUGE,)), "most"),
  "beyond int64 storage": (tb.tensor(tb.storage(count=2**70)), "unknown way"),
  "no such storage": (tb.tensor(tb.storage(key="7")), "lacks"),
  "outside": (tb.tensor(tb.storage(key="../data.pkl")), "lacks"),
  "short storage": (tb.tensor(tb.storage(count=8)), "32"),
  "long storage": (tb.tensor(tb.storage(count=3), shape=(3,)), "12"),
  "dtype": (tb.tensor(tb.storage("ShortStorage", count=8)), "ShortStorage"),
  "complex": (tb.tensor(tb.storage("ComplexFloatStorage")), "Complex"),
  "two types": (tb.row(tb.tensor(), tb.tensor(tb.storage("IntStorage"))), "two ways"),
  "few": (tb.call(tb.name("torch._utils", "_rebuild_tensor")), "from 0"),
  "no parameter": (tb.call(tb.name("torch._utils", "_rebuild_parameter")), "no tensor"),
  "sparse": (tb.call(tb.name("torch._utils", "_rebuild_sparse_tensor")), "sparse"),
  "number": (tb.number(3), "int"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_tensor_that_is_not_in_the_file(tmp_path, what):
  body, told = WRONG[what]
  message = refusal(tb.archive(tb.mapping(weight=body)), tmp_path)
  assert told in message
  # Where a tensor is wrong, and not its storage, the message names it.
  if told in ("does not fit", "no counts", "Complex"):
    assert "'weight'" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  "kind, dtype",
  [
    ("FloatStorage", np.float32),
    ("HalfStorage", np.float16),
    ("BFloat16Storage", ml_dtypes.bfloat16),
    ("DoubleStorage", np.float64),
  ],
)
def test_values_that_are_not_finite(tmp_path, kind, dtype, value):
  values = np.array([1, 2, value, 4], dtype)
  body = tb.mapping(good=tb.tensor(tb.storage("IntStorage", "1")), bad=tb.tensor(tb.storage(kind)))
  ints = np.full(4, -1, np.int32).tobytes()  # NaN, if they were floats
  entries = {"0": values.tobytes(), "1": ints}
  message = refusal(tb.archive(body, entries), tmp_path)
  assert "'bad'" in message and "not finite" in message
  entries["0"] = np.ones(4, dtype).tobytes()
  assert (read(tb.archive(body, entries), tmp_path)["good"] == -1).all()


def test_bools_are_zero_or_one(tmp_path):
  body = tb.mapping(b=tb.tensor(tb.storage("BoolStorage")))
  found = read(tb.archive(body, {"0": b"\x00\x01\x01\x00"}), tmp_path)
  np.testing.assert_array_equal(found["b"], [False, True, True, False])
  assert "bools" in refusal(tb.archive(body, {"0": b"\0\2\1\0"}), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_come_twice(tmp_path):
  item = tb.text("weight") + tb.tensor()
  assert "'weight' twice" in refusal(tb.archive(b"}(" + item + item + b"u"), tmp_path)
  pairs = b"](" + tb.row(item) + tb.row(item) + b"e"
  ordered = tb.call(tb.name("collections", "OrderedDict"), pairs)
  assert "'weight' twice" in refusal(tb.archive(ordered), tmp_path)
  # The parameter "b.w" beside the parameter "w" of the child "b".
  one = b"}(" + tb.text("w") + tb.tensor() + b"u"
  two = b"}(" + tb.text("b.w") + tb.tensor() + b"u"
  body = tb.module(parameters=two, children=tb.mapping(b=tb.module(one)))
  assert "two tensors named 'b.w'" in refusal(tb.archive(body), tmp_path)
  body = tb.mapping(w=tb.tensor())
  again = tb.archive(body, more=[("data/0", tb.FOUR)])
  assert "'model/data/0' twice" in refusal(again, tmp_path)


def test_compressed_and_overlapping_archives(tmp_path):
  zeros = {"0": bytes(2**20)}
  body = tb.mapping(w=tb.tensor(tb.storage(count=2**18), shape=(2**18,)))
  bomb = tb.archive(body, zeros, compress=True)
  assert len(bomb) < 5000
  assert "compressed" in refusal(bomb, tmp_path)
  assert read(tb.archive(body, zeros), tmp_path)["w"].shape == (2**18,)
  # One stored MiB, and four hundred names in the archive for it.
  names = [str(i) for i in range(400)]
  data = tb.archive(
    tb.mapping(**{f"n{i}": tb.tensor(tb.storage(key=i, count=2**18)) for i in names}), zeros
  )
  begin = data.index(b"PK\x01\x02")
  (old,) = zipfile.ZipFile(io.BytesIO(data)).infolist()[1:]
  entry = data[data.index(b"PK\x01\x02", begin + 4) : data.index(b"PK\x05\x06")]
  assert old.filename.encode() in entry
  entries = data[begin : begin + data[begin:].index(entry)] + b"".join(
    entry[:28]
    + len(f"model/data/{i}").to_bytes(2, "little")
    + entry[30:46]
    + f"model/data/{i}".encode()
    for i in names
  )
  end = data[-22:]
  count = (len(names) + 1).to_bytes(2, "little")
  end = end[:8] + count * 2 + len(entries).to_bytes(4, "little") + end[16:]
  message = refusal(data[:begin] + entries + end, tmp_path)
  assert "more than the file's" in message or "cannot be read" in message


def test_sizes_that_the_archive_claims(tmp_path):
  """A central directory may say anything; memory is not taken on its word."""
  body = tb.mapping(w=tb.tensor(tb.storage(count=2**29), shape=(2**28,)))
  data = bytearray(tb.archive(body))
  at = data.rindex(b"PK\x01\x02")
  for place in (20, 24):  # compressed and whole size
    data[at + place : at + place + 4] = (2**31).to_bytes(4, "little")
  tracemalloc.start()
  refusal(bytes(data), tmp_path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5e6


@pytest.mark.parametrize(
  "body",
  [
    pytest.param(b"Nr\xff\xff\xff\x7f", id="memo"),  # C's unpickler makes room for all before it
    pytest.param(b"\x96" + (2**33).to_bytes(8, "little"), id="bytearray"),
    pytest.param(b"\x95" + (2**33).to_bytes(8, "little") + b"N", id="frame"),
  ],
)
def test_sizes_that_a_pickle_claims(tmp_path, body):
  tracemalloc.start()
  refusal(tb.archive(body), tmp_path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5e6


def test_aliases_may_not_multiply_a_file(tmp_path):
  """Many views of one storage, each copied: refused before memory is taken."""
  views = {f"n{i}": tb.tensor(offset=0, shape=(2, 2), strides=(i % 2, 1 + i % 2)) for i in range(2)}
  assert len(read(tb.archive(tb.mapping(**views)), tmp_path)) == 2
  count = 2**16
  data = {"0": bytes(4 * count)}
  same = tb.storage(count=count)
  views = {f"n{i}": tb.tensor(same, offset=i, shape=(count // 2,), strides=(1,)) for i in range(50)}
  message = refusal(tb.archive(tb.mapping(**views), data), tmp_path)
  assert "more than the file's" in message
  tied = {f"n{i}": tb.tensor(same, shape=(count,)) for i in range(50)}
  assert len(read(tb.archive(tb.mapping(**tied), data), tmp_path)) == 50


def nested(count):
  return b"]" * count + b"a" * (count - 1)


def bombs(size: int) -> dict[str, bytes]:
  """Pickles that ask for far more than their bytes, if one lets them."""
  return {
    "lists in lists": tb.mapping(state_dict=nested(size)),
    "tuples as keys": b"}" + b")" + b"\x85" * size + b"Ns",
    "calls of calls": tb.name("a", "b") + b")R" * size,
    "state of states": (tb.name("a", "b") + b")\x81") * (size // 6) + b"b" * (size // 6 - 1),
    "opcodes": b"N0" * 2 * size + b"N",
    "many marks": b"(" * 2 * size + b"N",
    "laughter": b"(NNNNNNNNNNlq\0"
    + b"".join(b"(" + b"h%c" % i * 10 + b"lq%c" % (i + 1) for i in range(90)),
    "long name": tb.mapping(**{"w" * (size // 3): tb.tensor()}),
    "unhashable": b"}]Ns",
    "copies of a list": b"]("
    + b"".join(tb.text(str(i)) for i in range(size // 100))
    + b"eq\0"
    + (tb.name("builtins", "set") + b"h\0\x85R0") * (size // 100)
    + b"N",
    "own child": tb.module(
      children=b"}q\0("
      + tb.text("x")
      + tb.name("a", "b")
      + b")\x81q\1}("
      + tb.text("_parameters")
      + b"}"
      + tb.text("_buffers")
      + b"}"
      + tb.text("_modules")
      + b"h\0ubu"
    ),
    "twins of twins": b"".join(
      tb.module(
        children=b"}"
        if not i
        else b"}(" + b"".join(tb.text(side) + b"h%c" % (i - 1) for side in "ab") + b"u"
      )
      + b"q%c" % i
      for i in range(40)
    ),
  }


BOMBS = bombs(300_000)


def refused_twice(body, tmp_path):
  """In both layouts, and not because of the layout."""
  tail = {} if b"FloatStorage" in body else {"keys": (), "storages": ()}
  for data in (tb.archive(body), tb.legacy(body, **tail)):
    assert "not those" not in refusal(data, tmp_path)


@pytest.mark.parametrize("what", BOMBS)
def test_bombs(tmp_path, what):
  refused_twice(BOMBS[what], tmp_path)


def calls(function, *arguments) -> int:
  """How many calls, of Python and of C, `function` makes."""
  with cProfile.Profile() as profile:
    function(*arguments)
  return pstats.Stats(profile).total_calls


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_take_work_in_proportion_to_their_bytes(tmp_path, what):
  """And to the modules that a file may have: one visit of each."""
  body = bombs(20_000)[what]
  made = calls(refused_twice, body, tmp_path)
  assert made < 2 * 40 * (len(body) + pickles.NAMES), made


def test_every_truncation_is_refused(tmp_path):
  torch = pytest.importorskip("torch")
  state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
  for is_zip in (True, False):
    data = saved(state, is_zip)
    for length in range(0, len(data), 1 if is_zip is False else 3):
      refusal(data[:length], tmp_path)
    assert_tensors(read(data, tmp_path), state)


@BOTH
def test_random_damage_is_refused_or_harmless(tmp_path, is_zip):
  """Any bytes give tensors or one kind of error, never another."""
  rng = np.random.default_rng(0)
  plain = tb.pickled(tb.mapping(state_dict=tb.module(tb.mapping(w=tb.tensor(), v=tb.tensor()))))[
    2:-1
  ]
  outcomes = {"read": 0, "refused": 0}
  for _ in range(400):
    body = bytearray(plain)
    for at in rng.integers(0, len(body), rng.integers(1, 4)):
      body[at] = rng.integers(256)
    data = (tb.archive if is_zip else tb.legacy)(bytes(body))
    try:
      read(data, tmp_path)
      outcomes["read"] += 1
    except unpickler.UnsafeOrDamaged:
      outcomes["refused"] += 1
  assert outcomes["refused"] > 200


def test_files_of_another_kind(tmp_path):
  assert "empty" in refusal(b"", tmp_path)
  page = b"<!DOCTYPE html><html><body>Not found</body></html>"
  assert "no torch file" in refusal(page, tmp_path)
  assert "no torch file" in refusal(pickle.dumps({"a": 1}), tmp_path)
  assert "no torch file" in refusal(os.urandom(1000), tmp_path)
  assert "no zip" in refusal(b"PK\x03\x04" + bytes(100), tmp_path)
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as zipped:
    zipped.writestr("a.txt", "x")
  assert "0 entries named data.pkl" in refusal(file.getvalue(), tmp_path)
  assert "no tensor" in refusal(tb.archive(tb.mapping(), {}), tmp_path)
  assert "holds a int" in refusal(tb.archive(tb.number(1), {}), tmp_path)
  with pytest.raises(FileNotFoundError, match="nothing.pt"):
    pickles.read(tmp_path / "nothing.pt")
  with pytest.raises(FileNotFoundError):
    pickles.read(tmp_path)


def test_torchscript_reads_as_its_state_dict(tmp_path):
  torch = pytest.importorskip("torch")
  module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
  module.eval()
  file = io.BytesIO()
  torch.jit.save(torch.jit.trace(module, torch.ones(4, 2)), file)
  assert_tensors(read(file.getvalue(), tmp_path), module.state_dict())


def scripted(**attributes):
  """An object as TorchScript pickles a module."""
  return tb.name("__torch__.a.___torch_mangle_1", "B") + b")\x81" + tb.mapping(**attributes) + b"b"


def test_torchscript_attributes_of_any_kind(tmp_path):
  other = tb.name("a", "b") + b")\x81" + tb.mapping(w=tb.tensor()) + b"b"  # no module of its own
  body = scripted(training=b"\x89", hook=b"N", sizes=tb.row(tb.number(1)), other=other)
  assert "no tensor" in refusal(tb.archive(body), tmp_path)
  child = scripted(w=tb.tensor())
  found = read(tb.archive(scripted(training=b"\x88", list=scripted(**{"0": child}))), tmp_path)
  assert list(found) == ["list.0.w"]
  np.testing.assert_array_equal(found["list.0.w"], [1.0, -2.0, 3.0, 0.5])
  wrong = scripted(w=tb.tensor(shape=(5,)))
  assert "'a.w'" in refusal(tb.archive(scripted(a=wrong)), tmp_path)
  circle = tb.name("__torch__", "A") + b")\x81q\1}(" + tb.text("x") + b"h\1ub"
  assert "deep" in refusal(tb.archive(circle), tmp_path)


def test_a_legacy_file_whose_tail_differs(tmp_path):
  body = tb.mapping(w=tb.tensor())
  for data, told in (
    (tb.legacy(body, keys=()), "not those"),
    (tb.legacy(body, keys=("0", "0")), "not those"),
    (tb.legacy(body, storages=[(3, tb.FOUR)]), "says 3"),
    (tb.legacy(body, storages=[(4, tb.FOUR[:-1])]), "15 bytes"),
    (tb.legacy(body, storages=[(-4, tb.FOUR)]), "says -4"),
  ):
    assert told in refusal(data, tmp_path)
