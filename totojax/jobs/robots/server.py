"""`run = "policy_server"`: frames of a robot in, actions out, over a local socket.

One process has tokenizer, backbone and policy, compiled before the first frame. A
thread reads what comes (`wire`), this one computes. Of frames that wait the newest is
computed, and of the others is said that they were passed; one client is served at a
time, and what each sends that is wrong is told and counted. No run directory is left.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import track
from totojax.config.policies import CameraView, PolicyServer
from totojax.config.schema import ConfigError
from totojax.jobs.robots import rows as rows_lib, wire
from totojax.rundir import console, files
from totojax.storage import outside
from totojax.trained import policies

_TICK_S = 0.2  # between looks at whether it is to end
Answer = Callable[[wire.Frame], np.ndarray]


def run(config: PolicyServer, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Serves a policy until it is interrupted.

  Raises:
    ConfigError: there is no such policy, or it sees states.
    OSError: the address cannot be had.
  """
  del workdir
  policy, facts, sight = opened(config)

  def answer(frame: wire.Frame) -> np.ndarray:
    features_1D = sight.of(frame.image_HW3[None], np.zeros((1, 0), np.float32))
    return policy.act(features_1D, frame.felt_P[None])[0]

  with console.phase("compiling"):
    side = max(config.warm_px, 1)
    felt_P = np.zeros(facts.felt, np.float32)
    answer(wire.Frame(0, 0, felt_P, np.zeros((side, side, 3), np.uint8)))
  told = {"felt": facts.felt, "actions": facts.actions, "policy": facts.row}
  server = Server(config, answer, {**told, "action_names": list(facts.action_names)})
  with server.listening() as address:
    console.say(f"{address} (Ctrl-C ends it)")
    server.serve(interrupted)
  console.say(server.tally.sentence())
  if config.latency:
    files.write_json(config.latency, server.tally.facts())
  return True


def opened(config: PolicyServer) -> tuple[policies.Policy, policies.Facts, rows_lib.Sight]:
  """The policy of a config, and what it sees with; raises ConfigError."""
  if not config.policy:
    raise ConfigError("policy is empty; name a folder with policy.json, as RUN/policies/NAME/0")
  try:
    policy, facts = policies.read(epath.Path(config.policy))
  except FileNotFoundError as error:
    raise ConfigError(f"policy {config.policy} has no whole policy ({error})") from error
  if facts.row == rows_lib.STATE:
    raise ConfigError(f"{config.policy} sees where everything is, which no camera tells")
  where = epath.Path(config.policy) / "policy.json"
  view = outside.fields(CameraView, where, facts.view)
  sees = outside.fields(track.Tracker, where, facts.sees) if facts.sees else None
  sight = rows_lib.Row(facts.row, facts.layer, sees).load(view)
  return policy, facts, sight


@dataclasses.dataclass
class Tally:
  """What came, and how long answers took."""

  answered: int = 0
  passed: int = 0
  lost: int = 0
  wrong: int = 0
  seconds: list[float] = dataclasses.field(default_factory=list)

  def facts(self) -> dict[str, Any]:
    """Counts, and a histogram of latencies whose bins double."""
    edges = 1e-3 * 2.0 ** np.arange(-3, 14)
    counts, _ = np.histogram(np.clip(self.seconds, edges[0], edges[-1]), edges)
    out: dict[str, Any] = {k: getattr(self, k) for k in ("answered", "passed", "lost", "wrong")}
    out["latency_s"] = {"edges": edges.tolist(), "counts": counts.tolist()}
    if self.seconds:
      for share in (50, 95, 99):
        out["latency_s"][f"p{share}"] = float(np.percentile(self.seconds, share))
    return out

  def sentence(self) -> str:
    """The same in a line."""
    facts = self.facts()
    latency = facts.pop("latency_s")
    text = ", ".join(f"{count:,} {name}" for name, count in facts.items())
    if not self.seconds:
      return f"frames: {text}"
    quantiles = ", ".join(f"{1e3 * latency[key]:.3g}" for key in ("p50", "p95", "p99"))
    return f"frames: {text}; latency of 50, 95 and 99 %: {quantiles} ms"


class Server:
  """A socket, and what is computed for whoever is on it."""

  def __init__(self, config: PolicyServer, answer: Answer, facts: dict[str, Any]):
    """`facts`: what a client is told, with "felt", of frames."""
    self.config, self.answer, self.facts = config, answer, facts
    self.tally = Tally()
    self._wanted = threading.Condition()
    self._waiting: tuple[_Connection, wire.Frame, float] | None = None
    self._client: _Connection | None = None
    self._ended = False

  @contextlib.contextmanager
  def listening(self) -> Iterator[str]:
    """The address, while clients are let in on a thread; raises OSError."""
    listener, address = _listener(self.config)
    thread = threading.Thread(target=self._let_in, args=(listener,), daemon=True)
    thread.start()
    try:
      yield address
    finally:
      self._ended = True
      # What is waited for in `accept` is not woken by a close.
      with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
      listener.close()
      if self._client is not None:
        self._client.close()
      thread.join(2.0)
      if self.config.socket:
        with contextlib.suppress(OSError):
          os.unlink(self.config.socket)

  def serve(self, interrupted: jobs.Interrupted) -> None:
    """Answers the newest frame, again and again, until interrupted."""
    while not interrupted(self.tally.answered):
      console.watchdog.feed()
      with self._wanted:
        if self._waiting is None:
          self._wanted.wait(_TICK_S)
        waiting, self._waiting = self._waiting, None
      if waiting is not None:
        self._answer(*waiting)

  def _answer(self, client: "_Connection", frame: wire.Frame, begin: float) -> None:
    try:
      action_A = self.answer(frame)
    except ValueError as error:  # a frame that the encoder cannot take, say
      self.wrong(client, outside.shown(error))
      return
    seconds = time.monotonic() - begin
    self.tally.answered += 1
    self.tally.seconds.append(seconds)
    client.send(wire.action(wire.Action(frame.number, frame.time, seconds, action_A)))

  def _let_in(self, listener: socket.socket) -> None:
    while not self._ended:
      try:
        connected, _ = listener.accept()
      except OSError:
        return
      client = _Connection(connected, self)
      if self._client is not None and self._client.is_open:
        client.send(wire.message(wire.WRONG, b"another client is served; one at a time"))
        client.close()
        continue
      self._client = client
      threading.Thread(target=client.read, daemon=True).start()

  def take(self, client: "_Connection", frame: wire.Frame) -> None:
    """A frame that came: the one that still waits is passed."""
    with self._wanted:
      before, self._waiting = self._waiting, (client, frame, time.monotonic())
      self._wanted.notify()
    if before is not None:
      self.tally.passed += 1
      before[0].send(wire.passed(before[1]))

  def wrong(self, client: "_Connection", line: str) -> None:
    """Tells a client what is wrong."""
    self.tally.wrong += 1
    client.send(wire.message(wire.WRONG, line.encode()))


class _Connection:
  """A client: what it sends is read on a thread of its own."""

  def __init__(self, connected: socket.socket, server: Server):
    self._socket, self._server, self.is_open = connected, server, True
    self._sending, self._last = threading.Lock(), 0
    # A client that stops in the middle of a message, or says nothing, is let go.
    connected.settimeout(server.config.idle_s)

  def send(self, data: bytes) -> None:
    """Sends a message; of a client that has left nothing comes of it."""
    with self._sending, contextlib.suppress(OSError):
      if self.is_open:
        self._socket.sendall(data)

  def close(self) -> None:
    self.is_open = False
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_RDWR)
    self._socket.close()

  def read(self) -> None:
    """Reads messages until the client leaves, or sends what is none."""
    try:
      while True:
        self._take(*wire.read(self._more))
    except wire.Unreadable as error:
      self._server.wrong(self, str(error))
    except OSError:  # it has left, or was silent for too long
      pass
    finally:
      self.close()

  def _more(self, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
      part = self._socket.recv(min(count - len(parts), 2**20))
      if not part:
        raise ConnectionError("the client has left")
      parts += part
    return bytes(parts)

  def _take(self, kind: int, body: bytes) -> None:
    server = self._server
    if kind == wire.HELLO:
      facts = {"version": wire.VERSION, **server.facts}
      self.send(wire.message(wire.HELLO, json.dumps(facts).encode()))
      return
    try:
      if kind != wire.FRAME:
        raise wire.Wrong(f"a client sends HELLO and FRAME, and not kind {kind}")
      frame = wire.parse_frame(body, felt=server.facts["felt"])
      if frame.number <= self._last:
        raise wire.Wrong(f"frame {frame.number} comes after frame {self._last}; it is too late")
    except wire.Wrong as error:
      server.wrong(self, str(error))
      return
    server.tally.lost += frame.number - self._last - 1
    self._last = frame.number
    server.take(self, frame)


def _listener(config: PolicyServer) -> tuple[socket.socket, str]:
  """(what is listened on, its address); raises OSError."""
  if config.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
      made.bind(config.socket)
      made.listen(4)
    except OSError as error:
      made.close()
      why = error.strerror or error
      raise OSError(
        f"socket {config.socket} cannot be made ({why}); remove what is there, or name another"
      ) from error
    return made, config.socket
  try:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    made = socket.create_server((config.host, config.port), family=family)
  except OSError as error:
    why = error.strerror or error
    raise OSError(
      f"host {config.host} and port {config.port} cannot be listened on ({why}); port 0 takes a"
      " free one"
    ) from error
  host = f"[{config.host}]" if ":" in config.host else config.host
  return made, f"{host}:{made.getsockname()[1]}"
