"""Torch files written opcode by opcode: what `torch.save` would never write."""

import io
import struct
import zipfile


def name(module, function):
  return f"c{module}\n{function}\n".encode()


def text(value):
  data = value.encode()
  return b"X" + struct.pack("<I", len(data)) + data


def number(value):
  data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
  return b"\x8a" + bytes([len(data)]) + data


def row(*items):
  return b"(" + b"".join(items) + b"t"


def mapping(**items):
  return b"}(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def call(function, *arguments):
  return function + row(*arguments) + b"R"


ORDERED = call(name("collections", "OrderedDict"))


def storage(kind="FloatStorage", key="0", count=4, *more):
  return (
    row(text("storage"), name("torch", kind), text(key), text("cpu"), number(count), *more) + b"Q"
  )


def tensor(source=None, offset=0, shape=(4,), strides=(1,)):
  return call(
    name("torch._utils", "_rebuild_tensor_v2"),
    source or storage(),
    number(offset),
    row(*map(number, shape)),
    row(*map(number, strides)),
    b"\x89",
    ORDERED,
  )


def module(parameters=b"}", children=b"}", buffers=b"}", cls="Linear"):
  """An object with the state of an `nn.Module`."""
  made = name("torch.nn", cls) + b")\x81"
  return made + mapping(_parameters=parameters, _buffers=buffers, _modules=children) + b"b"


def pickled(body):
  return b"\x80\x02" + body + b"."


FOUR = struct.pack("<4f", 1.0, -2.0, 3.0, 0.5)


def archive(body, entries=None, *, folder="model", compress=False, more=()):
  """The bytes of a zip file; `entries` are the storages by their keys."""
  file = io.BytesIO()
  method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
  with zipfile.ZipFile(file, "w", method) as zipped:
    zipped.writestr(f"{folder}/data.pkl", pickled(body))
    for key, data in ({"0": FOUR} if entries is None else entries).items():
      zipped.writestr(f"{folder}/data/{key}", data)
    for extra, data in more:
      zipped.writestr(f"{folder}/{extra}", data)
  return file.getvalue()


def legacy(body, keys=("0",), storages=((4, FOUR),)):
  """The bytes of a legacy file."""
  head = [
    pickled(number(0x1950A86A20F9469CFC6C)),
    pickled(number(1001)),
    pickled(mapping(little_endian=b"\x88")),
    pickled(body),
    pickled(b"](" + b"".join(map(text, keys)) + b"e"),
  ]
  raw = [struct.pack("<q", count) + data for count, data in storages]
  return b"".join(head + raw)
