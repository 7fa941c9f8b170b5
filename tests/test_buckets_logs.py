"""Rows and TensorBoard's events in an object store: whatever it does, training goes on."""

import itertools
import os
import socket
import struct
import sys
import time

from etils import epath
import proxy as proxies
import pytest

from totojax.rundir import console, events, files, metrics, segments
from totojax.storage import objects, outages


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
  monkeypatch.setattr(outages, "_PAUSES_S", (0.02, 0.2))


def opened(place, *, step=0) -> metrics.MetricsLog:
  return metrics.MetricsLog(epath.Path(place.url), restored_step=step)


def write(log, steps) -> None:
  for step in steps:
    log.write(step, "train", {"loss": 1 / step}, wall={})
    if step % 5 == 0:
      log.write(step, "eval", {"k/loss": 2.0}, wall={})


def lines(place) -> list[tuple[int, str]]:
  return [(row["step"], row["kind"]) for row in metrics.read(epath.Path(place / metrics.FILE))]


def wanted(last) -> list[tuple[int, str]]:
  kinds = [(step, kind) for step in range(1, last + 1) for kind in ("train", "eval")]
  return [(step, kind) for step, kind in kinds if kind == "train" or step % 5 == 0]


def logged(place) -> dict[str, bytes]:
  """The files of the log, in order."""
  found = {k: v for k, v in place.objects().items() if k.startswith("metrics")}
  return dict(sorted(found.items(), key=lambda item: metrics.segment_number(item[0])))


def test_a_log_of_several_files_is_one(place, monkeypatch):
  """Written, cut back at any step, gone on with: as a single file locally."""
  monkeypatch.setattr(metrics, "SEGMENT_BYTES", 300)
  log = opened(place)
  write(log, range(1, 31))
  log.flush()
  log.close()
  assert lines(place) == wanted(30)
  names = list(logged(place))
  if place.scheme == "local":
    assert names == ["metrics.jsonl"]
  else:
    assert names[:2] == ["metrics.jsonl", "metrics.0001.jsonl"] and len(names) > 5
    assert all(300 <= len(data) < 400 for data in list(logged(place).values())[:-1])
  for step in (29, 20, 19, 3):
    log = opened(place, step=step)
    assert lines(place) == wanted(step)
    assert [s for s in range(31) if log.has_eval(s)] == [
      s for s in range(1, step + 1) if s % 5 == 0
    ]
    log.close()
  log = opened(place, step=3)
  write(log, range(4, 31))
  log.flush()
  log.close()
  assert lines(place) == wanted(30)
  opened(place).close()
  assert logged(place) == {"metrics.jsonl": b""}


def test_a_run_that_was_copied_from_a_bucket_goes_on_locally(local, monkeypatch):
  parts = [b'{"step": %d, "kind": "train"}\n' % step for step in range(1, 13)]
  for number, part in enumerate(parts):
    path = metrics.FILE if not number else f"metrics.{number:04d}.jsonl"
    files.write_bytes(local / path, part)
  assert [step for step, _ in lines(local)] == list(range(1, 13))
  log = opened(local, step=11)
  log.write(12, "eval", {}, wall={})
  log.close()
  assert lines(local) == [*((step, "train") for step in range(1, 12)), (12, "eval")]
  # In the middle, a line that is cut is damage; at the end, it was being written.
  cut = parts[3][:9]
  files.write_bytes(local / "metrics.0003.jsonl", cut)
  with pytest.raises(metrics.DamagedLine, match="metrics.0003.jsonl, line 1 is damaged"):
    opened(local, step=12)
  # As is one that is not there, and another after it is.
  files.remove(local / "metrics.0003.jsonl")
  with pytest.raises(files.Damaged, match="metrics.0003.jsonl is missing, and metrics.0004.jsonl"):
    lines(local)
  files.write_bytes(local / "metrics.0003.jsonl", cut)
  # Nor can a log go on whose first file is gone: its old rows would stay.
  files.remove(local / metrics.FILE)
  with pytest.raises(files.Damaged, match="metrics.jsonl.*it is missing, and metrics.0001.jsonl"):
    opened(local, step=12)
  files.write_bytes(local / metrics.FILE, parts[0])
  for number in range(4, 12):
    files.remove(local / f"metrics.{number:04d}.jsonl")
  assert [step for step, _ in lines(local)] == [1, 2, 3]


def test_killed_between_any_two_requests(bucket, monkeypatch):
  """What `flush` has returned for is there; what follows is a beginning of the rest."""
  monkeypatch.setattr(metrics, "SEGMENT_BYTES", 150)
  monkeypatch.setattr(events.Events, "write", lambda *_: None)
  survived = set()
  for kill in itertools.count():
    log, safe = opened(bucket), 0
    with bucket.proxy.rule("(POST|DELETE) .*metrics", status=403, skip=kill) as rule:
      try:
        for step in range(1, 11):
          write(log, [step])
          if step % 3 == 0:
            log.flush()
            safe = step
      except objects.StoreError:
        pass
      log.close()
    assert lines(bucket) == wanted(10)[: len(lines(bucket))]
    assert lines(bucket)[: len(wanted(safe))] == wanted(safe)
    survived.add(safe)
    # The next start is killed as well, while it cuts the log back.
    for cut in range(20):
      with bucket.proxy.rule("(POST|DELETE) .*metrics", status=403, skip=cut) as again:
        try:
          opened(bucket, step=safe).close()
        except objects.StoreError:
          pass
      assert lines(bucket)[: len(wanted(safe))] == wanted(safe)
      if not again.hits:
        break
    assert lines(bucket) == wanted(safe)
    if not rule.hits:
      break
  assert survived == {0, 3, 6, 9} and kill > 4


def test_rows_cost_the_loop_no_request(bucket):
  """Of 3,000 rows at 50 ms a request one is written alone, and then all others."""
  log = opened(bucket)
  since = len(bucket.proxy.log)
  with bucket.proxy.rule("POST", delay_s=0.05):
    write(log, range(1, 2501))
    assert len(bucket.proxy.lines("metrics", since)) <= 1
    log.flush()
  assert len(bucket.proxy.lines("metrics", since)) <= 2
  log.close()
  assert lines(bucket) == wanted(2500)


def test_bytes_of_many_rows_are_bounded(monkeypatch):
  """They grow as the rows do, and not as their square; so a million are 26 GB."""
  sent = []
  monkeypatch.setattr(metrics.files, "write_bytes", lambda path, data: sent.append(len(data)))
  log = segments.Segments(epath.Path("gs://bucket/run/metrics.jsonl"), "")
  line = "x" * 99 + "\n"
  for _ in range(2000):
    log._put([line] * 100)
  assert max(sent) < metrics.SEGMENT_BYTES + 200
  assert sum(sent) < 2000 * metrics.SEGMENT_BYTES * 0.6
  assert len(sent) < 2000 * 1.1


@pytest.mark.parametrize("status", [403, 503])
def test_what_the_thread_meets_is_raised(bucket, monkeypatch, status):
  monkeypatch.setenv(outages._VARIABLE, "0.1")
  log = opened(bucket)
  kind = objects.StoreError if status == 403 else outages.StorageAway
  with bucket.proxy.rule("POST .*metrics", status=status):
    log.write(1, "train", {}, wall={})
    for ask in (log.flush, lambda: log.write(2, "train", {}, wall={}), log.flush):
      with pytest.raises(kind, match=f"^{bucket / metrics.FILE} "):
        ask()
    log.close()


def refused(**what) -> proxies.Rule:
  return proxies.Rule("POST .*/tensorboard/", **what)


def scalars(place) -> dict[tuple[str, int], float]:
  """(tag, step) -> value of all event files, without what was purged."""
  # By now `events` has imported it, without PyTorch, which it would load here.
  from tensorboardX.proto import event_pb2

  found = {}
  for name, data in sorted(place.objects().items()):
    if not name.startswith("tensorboard/"):
      continue
    while data:
      (size,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      if event.HasField("session_log"):
        found = {key: value for key, value in found.items() if key[1] < event.step}
      found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
  return found


def test_events_are_what_was_written(place, monkeypatch):
  """Over several files, two starts, and outages of an object store."""
  monkeypatch.setattr(events, "EVERY_S", 0.05)
  monkeypatch.setattr(events, "FILE_BYTES", 2000)
  if place.proxy:
    place.proxy.rules.append(refused(status=503, times=3))
  log = opened(place)
  write(log, range(1, 101))
  time.sleep(0.3)
  write(log, range(101, 201))
  log.close()
  monkeypatch.setattr(socket, "gethostname", lambda: "z")  # a name has the second, too
  log = opened(place, step=150)
  log.write(151, "train", {"loss": 7.0}, wall={"time_s": 0.5})
  log.close()
  values = {("train/loss", step): pytest.approx(1 / step) for step in range(1, 151)}
  values |= {("eval/k/loss", step): 2.0 for step in range(5, 151, 5)}
  assert scalars(place) == values | {("train/loss", 151): 7.0, ("train/time_s", 151): 0.5}
  count = len([name for name in place.objects() if name.startswith("tensorboard/")])
  assert count == 2 if place.scheme == "local" else count > 4


def test_events_that_are_refused_cost_one_warning(place, monkeypatch, capfd):
  monkeypatch.setattr(events, "EVERY_S", 0.01)
  if place.proxy:
    place.proxy.rules.append(refused(status=403))
  else:  # a file where the folder should be
    files.write_bytes(epath.Path(place / "tensorboard"), b"")
  log = opened(place)
  for start in range(1, 2000, 100):
    write(log, range(start, start + 100))
    time.sleep(0.005)
  log.close()
  told = [line for line in capfd.readouterr().err.splitlines() if "TensorBoard" in line]
  assert len(told) == 1 and told[0].startswith(f"totojax: {place / 'tensorboard'} gets no more")
  assert lines(place) == wanted(2000)
  assert place.proxy is None or len(place.proxy.lines("tensorboard")) == 1


@pytest.mark.parametrize("how", ["hangs", "is away"])
def test_a_server_that_is_dead_at_the_end_is_not_waited_for(bucket, how, monkeypatch, capfd):
  monkeypatch.setattr(events, "CLOSE_S", 0.5)
  monkeypatch.setattr(metrics, "CLOSE_S", 0.5)
  log = opened(bucket)
  write(log, range(1, 11))
  log.flush()
  write(log, [11])
  with bucket.proxy.holding("POST") if how == "hangs" else bucket.proxy.away():
    begin = time.monotonic()
    log.close()
    assert time.monotonic() - begin < 60  # of 120 s of patience
  assert capfd.readouterr().err.count("no more events for TensorBoard (storage is away)") == 1
  assert lines(bucket)[:12] == wanted(10)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_console_that_nobody_reads_stops_nothing(name, monkeypatch):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, "w") as file:
    monkeypatch.setattr(sys, name, file)
    with pytest.raises(BrokenPipeError):
      print("x", file=file, flush=True)
    bar = console.Progress("work", unit="steps", total=1, done=0)
    for _ in range(3):
      console.say("x")
      console.warn("y")
      bar.close()
    file.flush()  # nor does the end of the process, with status 120
