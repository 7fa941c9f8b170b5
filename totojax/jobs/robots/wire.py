"""Messages between a robot and a policy server, version 1 (docs/robots.md).

A message is a head of 12 bytes and a body, all numbers little-endian:

  head    "TJXP", version u8, kind u8, 0 u16, bytes of the body u32
  HELLO   (both ways) the client's is empty; the server's is JSON: "version", "felt",
          "actions" (counts), "action_names", "policy"
  FRAME   number u64, time u64, height u16, width u16, felt u16, 0 u16; then felt
          f32 each, then RGB u8 [height, width, 3]
  ACTION  number u64, time u64 (as the frame had them), seconds f32, actions u16, 0
          u16; then f32 each
  PASSED  number u64, time u64: a later frame came before this one was begun
  WRONG   UTF-8: one line that says what is wrong

Frames have numbers that increase by one; a number that was left out is counted as
lost, one that is not above the last is WRONG. Nothing here needs more than numpy.
"""

from collections.abc import Callable
import dataclasses
import struct

import numpy as np

VERSION = 1
HELLO, FRAME, ACTION, PASSED, WRONG = range(1, 6)
MOST_BYTES = 2**26  # of a body
_MAGIC = b"TJXP"
_HEAD = struct.Struct("<4sBBHI")
_FRAME = struct.Struct("<QQHHHH")
_ACTION = struct.Struct("<QQfHH")
_PASSED = struct.Struct("<QQ")
HEAD_BYTES = _HEAD.size


class Unreadable(ValueError):
  """A head that is none: what follows in the stream cannot be read either."""


class Wrong(ValueError):
  """A body that is not as it must be; the next message can be read."""


@dataclasses.dataclass(frozen=True)
class Frame:
  """What a robot sees and feels."""

  number: int
  time: int  # the robot's clock, which is sent back
  felt_P: np.ndarray  # float32
  image_HW3: np.ndarray  # uint8


@dataclasses.dataclass(frozen=True)
class Action:
  """What it is to do."""

  number: int
  time: int
  seconds: float  # from the whole frame to the action
  action_A: np.ndarray  # float32


def message(kind: int, body: bytes = b"") -> bytes:
  """A whole message."""
  return _HEAD.pack(_MAGIC, VERSION, kind, 0, len(body)) + body


def head(data: bytes) -> tuple[int, int]:
  """(kind, bytes of the body).

  Raises:
    Unreadable: it is none, of another version, or larger than can be.
  """
  magic, version, kind, zero, count = _HEAD.unpack(data)
  if magic != _MAGIC or zero:
    raise Unreadable(f"a message begins with {data[:8]!r}, and one of totojax with {_MAGIC!r}")
  if version != VERSION:
    raise Unreadable(f"a message is of version {version}, and this is version {VERSION}")
  if kind not in range(HELLO, WRONG + 1) or count > MOST_BYTES:
    raise Unreadable(f"a message is of kind {kind} with {count:,} bytes; there is none such")
  return kind, count


def read(more: Callable[[int], bytes]) -> tuple[int, bytes]:
  """(kind, body) of the next message; `more` gives so many bytes of the stream."""
  kind, count = head(more(HEAD_BYTES))
  return kind, more(count) if count else b""


def frame(one: Frame) -> bytes:
  """The message of a frame."""
  felt_P = np.ascontiguousarray(one.felt_P, "<f4")
  image_HW3 = np.ascontiguousarray(one.image_HW3, np.uint8)
  sizes = *image_HW3.shape[:2], len(felt_P)
  packed = _FRAME.pack(one.number, one.time, *sizes, 0)
  return message(FRAME, packed + felt_P.tobytes() + image_HW3.tobytes())


def parse_frame(body: bytes, *, felt: int) -> Frame:
  """A frame of a body; `felt`: how many numbers must be felt.

  Raises:
    Wrong: it is none.
  """
  if len(body) < _FRAME.size:
    raise Wrong(f"a frame has {len(body)} bytes, less than its numbers take")
  number, time, height, width, count, zero = _FRAME.unpack_from(body)
  expected = _FRAME.size + 4 * count + 3 * height * width
  if zero or len(body) != expected:
    raise Wrong(
      f"frame {number} has {len(body):,} bytes; {count} numbers and {height} x {width} pixels are"
      f" {expected:,}"
    )
  if not height or not width or count != felt:
    raise Wrong(
      f"frame {number} has {count} numbers felt and {height} x {width} pixels; {felt} numbers and"
      " some pixels are needed"
    )
  felt_P = np.frombuffer(body, "<f4", count, _FRAME.size)
  if not np.isfinite(felt_P).all():
    raise Wrong(f"frame {number} has numbers felt that are not finite")
  pixels = np.frombuffer(body, np.uint8, offset=_FRAME.size + 4 * count)
  return Frame(number, time, felt_P, pixels.reshape(height, width, 3))


def action(one: Action) -> bytes:
  """The message of an action."""
  action_A = np.ascontiguousarray(one.action_A, "<f4")
  packed = _ACTION.pack(one.number, one.time, one.seconds, len(action_A), 0)
  return message(ACTION, packed + action_A.tobytes())


def parse_action(body: bytes) -> Action:
  """An action of a body; raises Wrong."""
  if len(body) < _ACTION.size:
    raise Wrong(f"an action has {len(body)} bytes")
  number, time, seconds, count, _ = _ACTION.unpack_from(body)
  if len(body) != _ACTION.size + 4 * count:
    raise Wrong(f"action {number} has {len(body)} bytes for {count} numbers")
  return Action(number, time, seconds, np.frombuffer(body, "<f4", count, _ACTION.size))


def passed(one: Frame) -> bytes:
  """The message that a frame was passed over."""
  return message(PASSED, _PASSED.pack(one.number, one.time))
