"""A pod's day, played: two hosts on a bucket that is slow, preempted again and again.

It takes minutes of a quiet machine, and is run by hand, here with ten preemptions:

  TOTOJAX_POD_DAY=10 python -m pytest -m slow -s tests/test_pod_day.py

(Runs that were killed at each kind of request are in test_buckets_checkpoints.py.)
"""

import collections
import os
import random
import re
import signal
import statistics
import threading
import time

import numpy as np
import pytest
import runs
import stores
import test_hosts

from totojax.storage import paths  # noqa: F401  runs in the bucket are read as any other

DEVICES = 8  # four a host
PREEMPTIONS = int(os.environ.get("TOTOJAX_POD_DAY", "1"))
STEPS = 80 * (PREEMPTIONS + 1)
LATENCY_S, LOG_STEPS = 0.05, 4
_KINDS = {
  "a save": r"/checkpoints/|/checkpoints%2F",
  "metrics": r"metrics",
  "TensorBoard": r"tensorboard",
  "the lease": r"\.lease",
  "stores": r"shard-|/train|/val",
}


class Host:
  """A process of the run, and when it said what."""

  def __init__(self, process):
    self.process, self.begin = process, time.monotonic()
    self.lines: list[tuple[float, str]] = []
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self):
    for line in self.process.stdout:
      self.lines.append((time.monotonic() - self.begin, line.rstrip()))

  def end(self) -> int:
    code = self.process.wait(timeout=1200)
    self._reader.join()
    return code

  def said(self, words: str) -> float | None:
    """Seconds from its start to the first line with these words."""
    return next((at for at, line in self.lines if words in line), None)

  def text(self) -> str:
    return "\n".join(line for _, line in self.lines)


def start(words: list[str], hosts: int) -> list[Host]:
  if hosts == 1:
    return [Host(runs.start(words, DEVICES))]
  return [Host(process) for process in test_hosts.start_hosts(words, hosts, DEVICES)]


def command(data, workdir) -> list[str]:
  return runs.smoke(
    data,
    workdir,
    f"--config.train.total_tokens={STEPS * 128.0}",
    "--config.every.checkpoint_steps=20",
    "--config.every.eval_steps=60",
    f"--config.every.log_steps={LOG_STEPS}",
    "--host_timeout_s=10",
  )


def preempted(words, how, *, hosts: int, after_s: float, victim: int) -> list[Host]:
  """Starts the run and takes it away again, as a spot machine is taken away."""
  processes = start(words, hosts)
  time.sleep(after_s)
  target = processes[victim % hosts].process
  if target.poll() is None:
    target.send_signal(how)
  for host in processes:
    host.end()
  return processes


def seconds(host: Host) -> float:
  """That it trained."""
  words = re.search(r"training: .*took (.*)", host.text())
  assert words, host.text()
  units = {"s": 1, "min": 60}
  return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (s|min)", words[1]))


@pytest.fixture
def data(bucket, tmp_path):
  """The same two stores, here and in the bucket."""
  records = {
    "train": dict(records=96, seed=0, prefix="t"),
    "val": dict(records=19, seed=1, prefix="v"),
  }
  return tuple(
    tuple(stores.write(place(name), **what) for name, what in records.items())
    for place in (lambda name: tmp_path / name, lambda name: bucket / name)
  )


@pytest.mark.slow
@pytest.mark.skipif("TOTOJAX_POD_DAY" not in os.environ, reason="set TOTOJAX_POD_DAY=10")
@pytest.mark.parametrize("shrinks", [False, True], ids=["two hosts", "two, one, two"])
def test_a_day_of_preemptions_ends_where_an_unbroken_run_ends(bucket, data, tmp_path, shrinks):
  """Bit for bit on one mesh; up to the rounding of sums where a host was alone between."""
  rng = random.Random(shrinks)
  local, remote = data
  unbroken = start(command(local, tmp_path / "run"), 2)
  assert [host.end() for host in unbroken] == [0, 0], unbroken[0].text()
  # Legs of about 80 steps of this machine, after its time to start.
  training_s = seconds(unbroken[0])
  start_s, leg_s = unbroken[0].lines[-1][0] - training_s, 80 * training_s / STEPS
  workdir, words = bucket / "run", command(remote, bucket / "run")
  figures = collections.defaultdict(list)
  with bucket.proxy.rule(".", delay_s=LATENCY_S):
    for number in range(1 if shrinks else PREEMPTIONS):
      how = (signal.SIGTERM, signal.SIGKILL)[number % 2]
      after_s = start_s + leg_s * (1.5 if shrinks else rng.uniform(0.2, 2))
      hosts = preempted(words, how, hosts=2, after_s=after_s, victim=rng.randrange(2))
      resumed = hosts[0].said("resumed at step")
      print(f"{number + 1}. {how.name}: {[host.process.returncode for host in hosts]}", flush=True)
      if resumed is not None:
        figures["resume"].append(resumed)
    if shrinks:
      hosts = preempted(words, signal.SIGTERM, hosts=1, after_s=start_s + leg_s, victim=0)
      assert hosts[0].said("resumed at step"), hosts[0].text()
      figures["resume"].append(hosts[0].said("resumed at step"))
      alone_at = int(re.search(r"resumed at step (\d+)", hosts[0].text())[1])
    bucket.proxy.log.clear()
    hosts = start(words, 2)
    assert [host.end() for host in hosts] == [0, 0], "\n".join(host.text() for host in hosts)
  ours, theirs = runs.metrics(workdir), runs.metrics(tmp_path / "run")
  arrays, expected = (runs.checkpoint(w, STEPS) for w in (workdir, tmp_path / "run"))
  if shrinks:
    # Sums are added in another order on one host, and rounding grows with each
    # update; data and schedule are the same to the last step.
    assert [(r["step"], r["kind"]) for r in ours] == [(r["step"], r["kind"]) for r in theirs]
    losses, expected = (
      np.array([row["loss"] for row in rows if row["kind"] == "train"]) for rows in (ours, theirs)
    )
    alone = alone_at // LOG_STEPS
    apart = np.abs(losses - expected)
    print(f"losses apart: {apart[:alone].max():g} before, {apart[alone : alone + 5].max():g} in")
    print(f"the first rows on one host, {apart[-1]:g} at the end of {STEPS} steps")
    assert not apart[:alone].any()
    assert apart[alone : alone + 5].max() < 1e-4
    others = np.abs(losses[alone : alone + 5] - expected[alone + 1 : alone + 6])
    assert others.min() > 1e-4  # the control: other batches are further apart
  else:
    assert ours == theirs
    runs.assert_same(arrays, expected)
  report(bucket.proxy, hosts, figures)


def price_class(request) -> str:
  """As Google charges: A writes and lists, B reads, DELETE is free."""
  method, _, path = request.line.partition(" ")
  if method == "GET":
    return "A" if re.search(r"/o\?(?!.*alt=media)", path) else "B"
  return "free" if method == "DELETE" else "A"


def report(proxy, hosts: list[Host], figures) -> None:
  """What docs/results.md shows."""
  print("start to 'resumed':", [f"{value:.1f}" for value in figures["resume"]], "s")
  begin_s = hosts[0].lines[-1][0] - seconds(hosts[0])
  print(
    f"last leg: {len(hosts)} host(s), {begin_s:.1f} s to its compilation,"
    f" then {seconds(hosts[0]):.0f} s"
  )
  by_kind = collections.Counter()
  saves = collections.defaultdict(list)
  for request in proxy.log:
    kind = next((k for k, pattern in _KINDS.items() if re.search(pattern, request.line)), "others")
    by_kind[kind, price_class(request)] += 1
    if (match := re.search(r"checkpoints(?:/|%2F)(\d+)", request.line)) and kind == "a save":
      if price_class(request) != "free":
        saves[int(match[1])].append(request)
  for (kind, price), count in sorted(by_kind.items()):
    print(f"  {kind}, class {price}: {count}")
  middle = statistics.median
  # Until its mark is there; what comes later is its deletion.
  ends = {
    step: [r for r in rows if r.line.startswith(("POST", "PUT")) and "commit_success" in r.line]
    for step, rows in saves.items()
  }
  spans = [ends[step][-1].seconds - rows[0].seconds for step, rows in saves.items() if ends[step]]
  for price in "AB":
    counts = [sum(price_class(r) == price for r in rows) for rows in saves.values()]
    print(f"  of a save, class {price}: {middle(counts):g} (median of {len(saves)})")
  print(f"  a save: {middle(spans):.1f} s from its first request to its mark (median)")
