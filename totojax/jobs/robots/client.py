"""A robot's side of `run = "policy_server"`: frames out, actions in."""

import json
import socket
import time
from typing import Any

import numpy as np

from totojax.jobs.robots import wire


class Client:
  """A connection to a policy server; `facts` are what it says of its policy."""

  def __init__(self, address: str, *, timeout_s: float = 5.0):
    """`address`: "HOST:PORT", or the path of a socket. Raises OSError, wire.Wrong."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
      self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
      self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
      self._socket = socket.socket(socket.AF_UNIX)
      self._socket.settimeout(timeout_s)
      self._socket.connect(address)
    self._stream, self._number = self._socket.makefile("rb"), 0
    self._socket.sendall(wire.message(wire.HELLO))
    self.facts: dict[str, Any] = json.loads(self._next()[1])

  def act(self, image_HW3: np.ndarray, felt_P: np.ndarray) -> wire.Action:
    """The action for a frame (uint8 RGB) and what is felt; raises OSError, wire.Wrong."""
    self._number += 1
    one = wire.Frame(self._number, time.monotonic_ns(), np.asarray(felt_P), image_HW3)
    self._socket.sendall(wire.frame(one))
    while True:
      kind, body = self._next()
      if kind == wire.ACTION and (found := wire.parse_action(body)).number == self._number:
        return found  # answers to earlier frames are of no use any more

  def _next(self) -> tuple[int, bytes]:
    kind, body = wire.read(self._more)
    if kind == wire.WRONG:
      raise wire.Wrong(body.decode("utf-8", "replace"))
    return kind, body

  def _more(self, count: int) -> bytes:
    data = self._stream.read(count)
    if len(data) < count:
      raise ConnectionError("the policy server has closed the connection")
    return data

  def close(self) -> None:
    """Ends the connection."""
    self._stream.close()
    self._socket.close()
