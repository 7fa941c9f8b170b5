"""Storage that is away, refuses, or breaks off: what is waited for, and what is said."""

import concurrent.futures
import itertools
import os
import re
import signal
import time
import urllib.request

import numpy as np
import proxy as proxies
import pytest
import runs
import stores
import token_sets

from totojax import rundir
from totojax.data.store import store as store_lib
from totojax.data.stream import mixture, rows
from totojax.storage import objects, outages

PASSING = {
  "unavailable": {"status": 503},
  "busy": {"status": 429},
  "broken": {"status": 500},
  "expired": {"status": 401},
  "reset": {"reset": True},
  "cut": {"cut_bytes": 3},
  "lost": {"cut_bytes": 0},
  "slow": {"delay_s": 0.5},
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
  """Pauses and lines that no test has to wait for."""
  monkeypatch.setattr(outages, "_PAUSES_S", (0.02, 0.2))
  monkeypatch.delenv(outages._VARIABLE, raising=False)
  outages.Patience._lines.clear()


def use(bucket, fault):
  """Everything that `objects` does, on objects whose requests have a fault."""
  path = bucket / f"{fault}/a"
  objects.write(path, b"12345")
  assert objects.read(path) == b"12345" and objects.exists(path)
  assert objects.keys(bucket / fault) == ["a"]
  data, version = objects.read_version(path)
  new = objects.write_version(path, data + b"6", version)
  assert new is not None and objects.read(path) == b"123456"
  assert objects.write_version(path, b"7", version) is None  # it has changed since
  objects.delete(path)
  assert not objects.exists(path) and objects.read(path) is None


def test_faults_that_pass_change_no_result(bucket, capfd):
  for fault, what in PASSING.items():
    bucket.proxy.rules.append(proxies.Rule(f"/{fault}/", times=4, **what))
  with concurrent.futures.ThreadPoolExecutor(len(PASSING)) as pool:
    for done in [pool.submit(use, bucket, fault) for fault in PASSING]:
      done.result()
  assert all(rule.hits == 4 for rule in bucket.proxy.rules)
  assert "waiting" not in capfd.readouterr().err  # for less than half a minute


@pytest.mark.parametrize(
  "status, words",
  [
    (403, "may not be written by this account .*gs://bucket .*--role=roles/storage.objectUser"),
    (404, "is in no bucket: there is no gs://bucket; mend the path"),
    (400, "cannot be written: injected 400$"),
  ],
)
def test_refusals_are_told_at_once(bucket, status, words):
  with bucket.proxy.rule("POST .*/a", status=status) as rule:
    with pytest.raises(objects.StoreError, match=f"^{bucket / 'a'} {words}") as caught:
      objects.write(bucket / "a", b"")
  assert rule.hits == 1 and "\n" not in str(caught.value) and len(str(caught.value)) < 300
  assert not outages.is_away(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_listing_that_is_refused_is_not_an_empty_one(bucket, status, monkeypatch):
  monkeypatch.setattr(outages, "PATIENCE_S", 0.0)
  assert objects.keys(bucket.url) == []
  with bucket.proxy.rule("GET", status=status):
    with pytest.raises((objects.StoreError, outages.StorageAway), match=f"{status}"):
      objects.keys(bucket.url)


def test_what_another_client_adds_is_listed(place):
  """A listing of before, which clients such as gcsfs keep, is not shown again."""
  objects.write(place / "run/1/a", b"")
  assert objects.children(place / "run") == ["1/"]
  if place.scheme == "local":
    (runs.pathlib.Path(place.url) / "run/2").touch()
  else:
    name = (place / "run/2").removeprefix("gs://bucket/")
    url = f"{place.proxy.url}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"
    urllib.request.urlopen(urllib.request.Request(url, b"2", method="POST"))
  assert objects.children(place / "run") == ["1/", "2"] and objects.exists(place / "run/2")


def test_a_write_whose_answer_is_lost_is_told_from_another_s(bucket):
  """The second try finds its own value: it has won, and did not lose."""
  with bucket.proxy.rule("POST .*/lease", cut_bytes=0, times=1) as rule:
    version = objects.write_version(bucket / "lease", b"mine", objects.ABSENT)
  assert rule.hits == 1 and version == objects.read_version(bucket / "lease")[1]
  with bucket.proxy.rule("POST .*/lease", cut_bytes=0, times=1):
    assert objects.write_version(bucket / "lease", b"other", objects.ABSENT) is None
  assert objects.read(bucket / "lease") == b"mine"


def test_a_line_says_what_is_waited_for(bucket, monkeypatch, capfd):
  monkeypatch.setattr(outages, "LINE_AFTER_S", 0.5)
  with bucket.proxy.rule("GET .*/a", status=503, for_s=1.5):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      assert list(pool.map(objects.read, [bucket / f"a{i}" for i in range(4)])) == [None] * 4
  first, last = [line for line in capfd.readouterr().err.splitlines() if "totojax:" in line]
  why = "(injected 503|no answer yet)"  # it depends on who is faster
  assert re.fullmatch(rf"totojax: waiting for {bucket.url}/a\d: {why} \(\d+ s\)", first)
  assert re.fullmatch(r"totojax: gs://bucket answers again, after [1-9]\d* s", last)


def test_a_silent_server_is_waited_for_aloud(bucket, monkeypatch, capfd):
  monkeypatch.setattr(outages, "LINE_AFTER_S", 0.3)
  with bucket.proxy.holding("GET .*/a") as hold:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      found, told, end = pool.submit(objects.read, bucket / "a"), "", time.monotonic() + 60
      while "s)" not in told and time.monotonic() < end:
        told += capfd.readouterr().err
        time.sleep(0.01)
      assert not found.done()
      hold.release()
      assert found.result() is None
  assert re.search(rf"waiting for {bucket / 'a'}: no answer yet \(\d+ s\)", told)


@pytest.mark.parametrize("limit_s", [0.0, pytest.param(1.5, marks=pytest.mark.slow)])
def test_patience_ends(bucket, limit_s):
  outages.set_patience(limit_s)
  begin = time.monotonic()
  with bucket.proxy.away():
    with pytest.raises(
      outages.StorageAway, match=rf"^{bucket / 'a'} did not answer for . s \(Could not connect"
    ):
      objects.write(bucket / "a", b"")
  assert limit_s <= time.monotonic() - begin < limit_s + 60  # of 900
  del os.environ[outages._VARIABLE]


def test_patience_is_not_negative():
  with pytest.raises(ValueError, match="--storage_timeout_s is -1"):
    outages.set_patience(-1)


def test_what_passes_and_what_does_not():
  """What is none of storage's, such as a process that jax has lost, is neither."""
  passing = [
    *(ValueError(f"x [http_response_code='{code}']") for code in (401, 408, 429, 500, 503)),
    ValueError("ABORTED: All 2 retry attempts failed: x [curl_code='7']"),
    ConnectionResetError(),
    TimeoutError(),
  ]
  final = [
    *(ValueError(f"x [http_response_code='{code}']") for code in (400, 403, 404, 412)),
    ValueError("Anonymous [http_response_code='401']"),  # there is no login to renew
    ValueError("503"),
    FileNotFoundError(),
    BrokenPipeError(),
    RuntimeError("UNAVAILABLE: a process of jax"),
  ]
  assert [e for e in passing if not outages.is_passing(e)] == []
  assert [e for e in final if outages.is_passing(e)] == []
  told = rundir.RunError("not saved")
  told.__cause__ = passing[0]
  assert outages.is_away(told) and not outages.is_away(rundir.RunError("not finite"))


@pytest.mark.parametrize("patience_s, for_s", [(60.0, 1.0), (0.5, 60.0)])
def test_the_stream_waits_for_its_stores(bucket, patience_s, for_s, monkeypatch):
  """Shards are opened, and read in the middle of training, while storage is away."""

  def opened():
    store = store_lib.open_store(bucket / "store", tokenizer=None, vocab=None, grid=None)
    source = rows.Source("store", store, 1.0)
    return mixture.stream([source], seq=token_sets.SEQ, seed=0, batch=4, host=0, hosts=1)

  # No record is read twice in a run of some length: here all are small enough.
  monkeypatch.setattr(objects, "CACHE_BYTES", 0)
  objects.context.cache_clear()
  token_sets.write(bucket / "store", 40)
  stream, wanted = opened(), [batch["tokens"] for batch in itertools.islice(opened(), 12)]
  found = [stream[0]["tokens"]]
  outages.set_patience(patience_s)
  with bucket.proxy.rule("GET", status=503, for_s=for_s) as rule:
    try:
      if for_s > patience_s:
        with pytest.raises(outages.StorageAway, match=f"{bucket / 'store'}.* injected 503"):
          list(map(stream.__getitem__, range(1, 12)))
      else:
        found += [stream[step]["tokens"] for step in range(1, 12)]
        np.testing.assert_array_equal(found, wanted)
    finally:
      outages.set_patience(outages.PATIENCE_S)
      objects.context.cache_clear()
    assert rule.hits


@pytest.mark.slow
def test_a_run_whose_storage_stays_away_is_started_again(bucket, tmp_path):
  """With status 75 and in one line; afterwards nothing is missing.

  The second start is refused all of TensorBoard's events, which costs it a
  warning.
  """
  data = [
    stores.write(bucket / name, records=records, seed=seed, prefix=name)
    for seed, (name, records) in enumerate({"train": 96, "val": 16}.items())
  ]
  runs.finish(runs.start(runs.smoke(data, tmp_path / "whole")))
  words = runs.smoke(data, bucket / "run", "--storage_timeout_s=2")
  # The save of step 8 was begun, once that of step 4 was done.
  process = runs.start_and_stop(words, 9)
  assert bucket.proxy.lines("POST .*/4/commit_success")
  with bucket.proxy.away():
    process.send_signal(signal.SIGCONT)
    output = runs.finish(process, code=rundir.RESTART)
  assert "Traceback" not in output
  assert len(re.findall("^totojax: .* did not answer", output, re.MULTILINE)) == 1
  with bucket.proxy.rule("POST .*/tensorboard/", status=403) as rule:
    output = runs.finish(runs.start(words))
  assert "resumed at step" in output and "Traceback" not in output
  assert rule.hits == 1 and output.count("no more events for TensorBoard") == 1
  assert runs.metrics(bucket / "run") == runs.metrics(tmp_path / "whole")
  runs.assert_same(runs.checkpoint(bucket / "run", 20), runs.checkpoint(tmp_path / "whole", 20))
