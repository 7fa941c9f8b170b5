"""The lease that guards a work directory in a bucket; see also test_run_lock."""

import concurrent.futures
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from etils import epath
import pytest
import runs
import stores

from totojax import rundir
from totojax.rundir import directory, files, lease, lock
from totojax.storage import objects

HERE = lease.this_process()
# Of which this process cannot know whether they live.
B, C = (
  dataclasses.replace(HERE, host=f"host-{name}", place="another boot", token=name) for name in "bc"
)


@pytest.fixture
def leases(bucket):
  """(holder, times) -> a lease on the bucket, and what it says while it waits."""
  made = []

  def make(holder, *, renew_s=60.0, stale_s=0.6):
    said = []
    made.append(lease.Lease(bucket.url, holder, renew_s=renew_s, stale_s=stale_s, say=said.append))
    return made[-1], said

  yield make
  for one in made:
    one.release()


def taken(one: lease.Lease) -> float:
  """Seconds that it took to take a lease."""
  begin = time.monotonic()
  one.take()
  return time.monotonic() - begin


def stored(bucket) -> dict:
  return json.loads(bucket.objects()[lease.FILE])


def test_a_holder_that_renews_is_alive(bucket, leases):
  first, _ = leases(B, renew_s=0.1, stale_s=30.0)
  first.take()
  second, said = leases(C, renew_s=0.1, stale_s=30.0)
  with pytest.raises(
    rundir.InUse, match=f"in use by process {B.pid} on host-b, since 20.*--workdir"
  ):
    taken(second)
  (line,) = said
  assert re.search("held by .* on host-b.* at most (30|29).* s$", line)
  assert stored(bucket)["token"] == "b"
  assert set(bucket.objects()) == {lease.FILE}  # what the clock was asked with is gone
  first.check()


@pytest.mark.parametrize("clock", ["server", "own", "holder's is wrong", "own is wrong"])
def test_a_silent_holder_is_waited_for_until_it_is_stale(bucket, leases, clock, monkeypatch):
  """A time-out that is partly over already, by a clock that can know it."""
  first, _ = leases(B)
  now = time.time
  if clock == "holder's is wrong":  # by an hour
    monkeypatch.setattr(lease.time, "time", lambda: now() - 3600)
  first.take()
  monkeypatch.setattr(lease.time, "time", now)
  time.sleep(0.4)
  if clock == "own is wrong":
    monkeypatch.setattr(lease.time, "time", lambda: now() + 3600)
  if clock == "own":  # a server whose versions are no times
    monkeypatch.setattr(lease, "_server_time", lambda version: 7.0)
  second, said = leases(C, renew_s=0.05)
  seconds = taken(second)
  (told_s,) = map(float, re.findall(r"at most (.*) s$", *said))
  # Of 0.6 s some are over, or none that are known of; what is waited is what was told.
  low, high = (0.05, 0.3) if clock == "server" else (0.6, 0.6)
  assert low <= told_s <= high and seconds >= told_s - 0.1
  assert stored(bucket)["token"] == "c"


def test_a_stale_lease_is_watched_for_a_renewal_all_the_same(bucket, leases):
  """After an outage those that wait are no sooner than those that live."""
  first, _ = leases(B, stale_s=0.1)
  first.take()
  time.sleep(0.3)
  second, said = leases(C, renew_s=0.5, stale_s=0.1)
  say = second._say
  second._say = lambda line: (say(line), first.renew())  # it has begun to wait
  with pytest.raises(rundir.InUse, match="host-b"):
    second.take()
  assert stored(bucket)["token"] == "b" and "at most 0.6 s" in said[0]
  assert taken(leases(C, renew_s=0.1, stale_s=0.1)[0]) >= 0.1


def test_what_is_no_lease_becomes_stale_as_well(bucket, leases):
  objects.write(f"{bucket.url}/{lease.FILE}", b"{")
  one, said = leases(B, renew_s=0.05)
  assert taken(one) > 0.5
  assert "another process" in said[0]
  for garbage in (b"", b"[]", b"null", b"\xff\xfe", b'{"renewed": "now"}', b'{"renewed": 1}'):
    objects.write(f"{bucket.url}/{lease.FILE}", garbage)
    found = one._read()
    assert found.there and found.holder is None and str(found) == "another process", garbage


def test_the_dead_on_this_host_are_known_at_once(bucket, leases):
  child = subprocess.run(
    [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
  )
  dead = dataclasses.replace(HERE, pid=int(child.stdout), token="dead")
  reused = dataclasses.replace(HERE, born="1", token="dead")  # this number, and another process
  for holder in (dead, reused):
    first, _ = leases(holder, stale_s=300.0)
    first.take()
    second, said = leases(HERE, stale_s=300.0)
    assert taken(second) < 200 and not said
    second.release()
  alive, _ = leases(HERE, stale_s=300.0)
  alive.take()
  with pytest.raises(rundir.InUse, match=f"process {os.getpid()} on "):
    taken(leases(B, stale_s=300.0)[0])


def test_a_zombie_is_dead():
  with subprocess.Popen(["true"]) as child:
    # It has ended, and nobody has asked how.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lease._born(child.pid) is None
  assert lease._born(os.getpid()) == HERE.born


def test_a_lost_lease_is_noticed_and_not_given_back(bucket, leases):
  first, _ = leases(B, stale_s=0.1)
  first.take()
  first.check()
  second, _ = leases(C, renew_s=0.05, stale_s=0.1)
  second.take()
  first.check()  # nothing has been asked yet
  with pytest.raises(rundir.Lost) as caught:
    first.confirm()
  line = str(caught.value)
  assert f"taken over by process {C.pid} on host-c" in line and bucket.url in line
  assert "\n" not in line
  with pytest.raises(rundir.Lost):
    first.check()
  first.release()
  assert stored(bucket)["token"] == "c"
  second.confirm()
  second.release()
  assert bucket.objects() == {}


def test_a_write_asks_only_once_renewals_have_failed(bucket, leases):
  one, _ = leases(B, renew_s=60.0, stale_s=300.0)
  one.take()
  bucket.proxy.log.clear()
  one.confirm()
  assert bucket.proxy.log == []
  one._sure_s -= 200  # of 300 - 2 x 60
  one.confirm()
  assert len(bucket.proxy.log) == 1
  one.confirm()
  assert len(bucket.proxy.log) == 1


def test_outages_do_not_end_renewals(bucket, leases):
  one, _ = leases(B, renew_s=0.05, stale_s=300.0)
  one.take()
  before = stored(bucket)["renewed"]
  with bucket.proxy.rule("POST", status=503) as rule:
    while rule.hits < 3:
      time.sleep(0.02)
    one.check()
  deadline = time.monotonic() + 60
  while stored(bucket)["renewed"] == before and time.monotonic() < deadline:
    time.sleep(0.02)
  assert stored(bucket)["renewed"] > before
  one.check()


def test_a_renewal_whose_answer_is_lost_is_no_loss(bucket, leases):
  one, _ = leases(B)
  one.take()
  with bucket.proxy.rule("POST", cut_bytes=0, times=1) as rule:
    one.renew()
  assert rule.hits == 1
  one.check()
  # Nor is one that was given up although it was carried out.
  version, sure_s = one._version, one._sure_s
  one.renew()
  one._version, one._sure_s = version, sure_s
  one.renew()
  one.check()


def test_a_lease_that_is_removed_is_written_again(bucket, leases):
  one, _ = leases(B)
  one.take()
  objects.delete(f"{bucket.url}/{lease.FILE}")
  one.renew()
  one.check()
  assert stored(bucket)["token"] == "b"


def race(leases, count: int) -> int:
  """How many of so many at once have got the lease."""
  ours = [dataclasses.replace(HERE, token=str(i)) for i in range(count)]
  made = [leases(holder)[0] for holder in ours]

  def wins(one):
    try:
      one.take()
    except rundir.InUse:
      return False
    return True

  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    return sum(pool.map(wins, made))


@pytest.mark.parametrize("before", ["none", "dead"])
def test_one_of_many_wins(bucket, leases, before):
  if before == "dead":
    leases(dataclasses.replace(HERE, born="1", token="dead"))[0].take()
  assert race(leases, 8) == 1


def test_many_win_without_conditions(bucket, leases, monkeypatch):
  """Negative control: it is the condition of the write that decides."""
  plain = objects.write_version
  looked, all_have = threading.Barrier(8), threading.Event()

  def ignored(path, value, version, **more):
    if not all_have.is_set():
      looked.wait(60)
      all_have.set()
    found, now = objects.read_version(path)
    return plain(path, value, now, **more) or plain(path, value, version, **more) or b"?"

  monkeypatch.setattr(objects, "write_version", ignored)
  assert race(leases, 8) > 1


CHILD = """
import sys
from totojax.rundir import lock
lock.take(sys.argv[1])
lock.take(sys.argv[1] + "/stage")
print("held", flush=True)
sys.stdin.read()
sys.exit("a line") if sys.argv[2] == "exit" else 1 / 0
"""


@pytest.mark.parametrize("end", ["error", "exit"])
def test_leases_are_given_back_at_the_end_of_a_process(bucket, end):
  child = subprocess.Popen(
    [sys.executable, "-c", CHILD, bucket.url, end],
    env=runs.environment(),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  with child:
    assert child.stdout and child.stdout.readline() == "held\n"
    assert bucket.objects().keys() == {lease.FILE, f"stage/{lease.FILE}"}
    child.communicate()
  assert child.returncode == 1 and bucket.objects() == {}


def test_a_stage_that_is_done_is_free_and_its_chain_is_not(bucket):
  folder = epath.Path(bucket.url)
  for one in (folder, folder / "stage"):
    directory.begin(one, {"run": "x"})
  assert lock._leases.keys() == {bucket.url, bucket / "stage"}
  directory.mark_done(folder / "stage", 1.0)
  assert lease.FILE in bucket.objects() and f"stage/{lease.FILE}" not in bucket.objects()
  lock.release_all()
  assert lease.FILE not in bucket.objects()


def test_files_of_a_run_that_was_taken_over_are_left_alone(bucket):
  folder = epath.Path(bucket.url)
  directory.begin(folder, {"run": "x"})
  files.write_text(folder / "a.txt", "ours")
  held = lock._leases[bucket.url]
  other = lease.Lease(bucket.url, C, stale_s=0.0, say=lambda _: None)
  objects.delete(f"{bucket.url}/{lease.FILE}")
  other.take()
  held.renew()
  with pytest.raises(rundir.Lost, match="host-c"):
    files.write_text(folder / "a.txt", "theirs")
  with pytest.raises(rundir.Lost):
    lock.check()
  assert bucket.objects()["a.txt"] == b"ours"
  lock.release(bucket.url)
  other.release()


# The program, which renews its leases more often than in earnest.
PROGRAM = """
import functools
from totojax import main
from totojax.rundir import lease
lease.Lease = functools.partial(lease.Lease, renew_s=0.1)
main.run()
"""


@pytest.mark.slow
def test_runs_give_a_directory_back_and_end_when_it_is_taken(bucket, tmp_path):
  pair = tuple(
    stores.write(tmp_path / name, records=records, seed=seed, prefix=name)
    for name, records, seed in (("train", 400, 1), ("val", 80, 2))
  )
  workdir = bucket / "run"
  words = runs.smoke(pair, workdir, "--config.train.total_tokens=1e9")
  words = [words[0], "-c", PROGRAM, *words[3:]]

  def until(pattern):
    seen = len(bucket.proxy.log)
    while not bucket.proxy.lines(pattern, since=seen):
      assert process.poll() is None, runs.finish(process)
      time.sleep(0.05)

  process = runs.start(words)
  until("POST .*commit_success")
  second = runs.start(words)
  last = runs.finish(second, code=2).splitlines()[-2]
  assert last.startswith(f"totojax: {workdir} is in use by process {process.pid} on ")
  process.send_signal(signal.SIGTERM)
  assert "stopped at step" in runs.finish(process)
  assert "run/.lease" not in bucket.objects()

  process = runs.start(words)
  theirs = json.dumps({**dataclasses.asdict(C), "renewed": time.time()}).encode()
  # In the middle of a save, of which orbax has a story to tell.
  with bucket.proxy.holding("POST .*/state/ocdbt.process_0/d/") as hold:
    while not hold.arrived.wait(0.05):
      assert process.poll() is None, runs.finish(process)
    objects.write(f"{workdir}/{lease.FILE}", theirs)
    time.sleep(0.5)
    hold.release()
  output = runs.finish(process, code=2)
  assert "Traceback" not in output
  assert output.splitlines()[-2].startswith(f"totojax: {workdir} was taken over by process")
  assert sum(line.startswith("totojax: ") for line in output.splitlines()) == 1
  found = bucket.objects()
  assert found["run/.lease"] == theirs and "run/done.json" not in found
  # What comes after that is the other's.
  seen = len(bucket.proxy.log)
  time.sleep(0.5)
  assert not bucket.proxy.lines("POST|DELETE", since=seen)
