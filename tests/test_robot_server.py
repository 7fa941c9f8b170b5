"""The policy server: messages, frames that are lost, late or wrong, and who else connects."""

import socket
import struct
import threading

import numpy as np
import pytest

from totojax.config import policies as config_lib
from totojax.jobs.robots import client as client_lib, server as server_lib, wire

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


class Served:
  """A server whose answers wait for `go`, on a thread."""

  def __init__(self, **keys):
    self.go, self.ended, self.seen = threading.Semaphore(0), False, []
    self.server = server_lib.Server(
      config_lib.PolicyServer(port=0, idle_s=60.0, **keys), self.answer, {"felt": 2, "actions": 2}
    )

  def answer(self, frame):
    self.seen.append(frame.number)
    assert self.go.acquire(timeout=60)
    if frame.image_HW3[0, 0, 0] == 99:
      raise ValueError("no such frame")
    return frame.felt_P * 2

  def __enter__(self):
    self._open = self.server.listening()
    self.address = self._open.__enter__()
    self.thread = threading.Thread(target=self.server.serve, args=(lambda n: self.ended,))
    self.thread.start()
    return self

  def __exit__(self, *error):
    self.ended = True
    self.go.release(100)
    self.thread.join(60)
    self._open.__exit__(*error)


def raw(address):
  host, _, port = address.rpartition(":")
  made = socket.create_connection((host, int(port)), 60)
  return made, made.makefile("rb")


def frame(number, felt=(1.0, 2.0), image=IMAGE):
  return wire.frame(wire.Frame(number, 7, np.array(felt, np.float32), image))


def test_a_frame_is_bytes_that_are_written_down():
  data = frame(5)
  assert data[:12] == b"TJXP" + struct.pack("<BBHI", 1, 2, 0, 24 + 8 + 18)
  assert data[12:36] == struct.pack("<QQHHHH", 5, 7, 2, 3, 2, 0)
  assert data[36:44] == struct.pack("<2f", 1, 2) and data[44:] == IMAGE.tobytes()
  kind, count = wire.head(data[:12])
  read = wire.parse_frame(data[12:], felt=2)
  assert (kind, count) == (wire.FRAME, len(data) - 12) and (read.number, read.time) == (5, 7)
  np.testing.assert_array_equal(read.image_HW3, IMAGE)


@pytest.mark.parametrize(
  "change, told",
  [
    (lambda b: b[:10], "has 10 bytes"),
    (lambda b: b[:-1], "has 49 bytes; 2 numbers and 2 x 3 pixels are 50"),
    (lambda b: b[:16] + b"\0\0" + b[18:], "has 50 bytes"),
    (lambda b: b[:24] + struct.pack("<f", np.nan) + b[28:], "not finite"),
  ],
)
def test_frames_that_are_none_are_told(change, told):
  with pytest.raises(wire.Wrong, match=told):
    wire.parse_frame(change(frame(1)[12:]), felt=2)


def test_any_bytes_are_a_frame_or_wrong():
  rng, body = np.random.default_rng(0), frame(1)[12:]
  for _ in range(300):
    data = bytearray(body[: rng.integers(len(body) + 1)])
    for at in rng.integers(0, max(len(data), 1), 3)[: len(data)]:
      data[at] = rng.integers(256)
    try:
      found = wire.parse_frame(bytes(data), felt=2)
    except wire.Wrong as error:
      assert "\n" not in str(error)
    else:
      assert found.felt_P.shape == (2,) and found.image_HW3.ndim == 3


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_gets_the_actions_of_its_frames(kind, tmp_path):
  keys = {"socket": str(tmp_path / "s")} if kind == "unix" else {}
  with Served(**keys) as served:
    served.go.release(100)
    client = client_lib.Client(served.address, timeout_s=60.0)
    assert client.facts == {"version": 1, "felt": 2, "actions": 2}
    for number in range(1, 4):
      found = client.act(IMAGE, np.array([number, 0.5], np.float32))
      np.testing.assert_array_equal(found.action_A, [2 * number, 1])
      assert found.number == number and found.seconds > 0
    client.close()
  facts = served.server.tally.facts()
  assert [facts[k] for k in ("answered", "passed", "lost", "wrong")] == [3, 0, 0, 0]
  assert sum(facts["latency_s"]["counts"]) == 3
  assert not (tmp_path / "s").exists()


def test_of_frames_that_wait_the_newest_is_answered_and_lost_ones_are_counted():
  with Served() as served:
    made, stream = raw(served.address)
    more = stream.read
    made.sendall(frame(1))
    while not served.seen:  # the first is being computed
      pass
    made.sendall(frame(2) + frame(5) + frame(6))
    passed = [wire.read(more) for _ in range(2)]
    assert [struct.unpack("<QQ", body)[0] for _, body in passed] == [2, 5]
    served.go.release(2)
    answered = [wire.parse_action(wire.read(more)[1]).number for _ in range(2)]
    assert answered == [1, 6] == served.seen
    made.close()
  facts = served.server.tally.facts()
  assert (facts["passed"], facts["lost"], facts["wrong"]) == (2, 2, 0)


def test_what_is_wrong_is_told_and_the_next_frame_is_answered():
  with Served() as served:
    served.go.release(100)
    made, stream = raw(served.address)

    def told(data):
      made.sendall(data)
      kind, body = wire.read(stream.read)
      assert kind == wire.WRONG
      return body.decode()

    made.sendall(frame(3))
    assert wire.read(stream.read)[0] == wire.ACTION
    assert told(frame(3)) == "frame 3 comes after frame 3; it is too late"
    assert "1 numbers felt" in told(frame(4, felt=(1.0,)))
    assert "kind 3" in told(wire.message(wire.ACTION))
    assert told(frame(5, image=np.full((2, 3, 3), 99, np.uint8))) == "no such frame"
    made.sendall(frame(6))
    assert wire.read(stream.read)[0] == wire.ACTION
    other, answers = raw(served.address)
    assert b"another client" in wire.read(answers.read)[1]
    assert not answers.read(1)  # and it is let go
    # What is no message ends the connection, after a line.
    assert "version 9" in told(b"TJXP\x09\x02\0\0\0\0\0\0")
    assert not stream.read(1)
    made.close()
    other.close()
    # Whoever comes then is served, from any number on.
    client = client_lib.Client(served.address, timeout_s=60.0)
    np.testing.assert_array_equal(client.act(IMAGE, np.ones(2)).action_A, [2, 2])
    client.close()


def test_a_client_that_stops_within_a_message_holds_up_nobody():
  with Served() as served:
    served.go.release(100)
    made, _ = raw(served.address)
    made.sendall(frame(1)[:20])
    made.close()
    for _ in range(1000):  # until the server has noticed
      try:
        client = client_lib.Client(served.address, timeout_s=60.0)
        break
      except (wire.Wrong, OSError):
        pass
    assert client.act(IMAGE, np.ones(2)).number == 1
    client.close()
