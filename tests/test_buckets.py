"""The harness of object stores: what it promises to the tests that use it."""

import http.client
import sys
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request

import buckets
from etils import epath
import numpy as np
import proxy as proxies
import pytest
import tensorstore as ts
import token_sets

from totojax.storage import objects


def test_a_store_is_written_and_verified_anywhere(data_place):
  store = token_sets.write(data_place / "store", 30)
  np.testing.assert_array_equal(store.read([4, 29])["codes"], token_sets.codes(0, 30)[[4, 29]])
  store.verify()
  assert store.ids()[7] == "item/7"
  # It is where it should be, and nowhere else.
  assert data_place.proxy is None or len(data_place.proxy.lines("PUT|POST")) > 4


def test_a_path_and_storage_see_the_same_files(place):
  objects.write(place / "a b/é", b"1")
  epath.Path(place / "c").mkdir()
  epath.Path(place / "c/d").write_text("2")
  assert epath.Path(place / "a b/é").read_text() == "1"
  assert objects.read(place / "c/d") == b"2"
  epath.Path(place / "c/d").replace(place / "c/e f")
  found = {name: data for name, data in place.objects().items() if data}
  assert found == {"a b/é": b"1", "c/e f": b"2"}


def test_places_are_apart(bucket, s3_bucket):
  assert bucket.url != s3_bucket.url
  objects.write(bucket / "a", b"1")
  assert s3_bucket.proxy.log == []
  assert [r.status for r in bucket.proxy.log] == [200]


def _get(bucket, name):
  """(status, body) of a GET that is tried once."""
  name = urllib.parse.quote((bucket / name).removeprefix("gs://bucket/"), safe="")
  path = f"/storage/v1/b/bucket/o/{name}"
  connection = http.client.HTTPConnection("127.0.0.1", bucket.proxy.port, timeout=60)
  connection.request("GET", path + "?alt=media")
  answer = connection.getresponse()
  return answer.status, answer.read()


def test_faults_are_seen_by_the_client_and_end(bucket):
  objects.write(bucket / "a", b"0123456789")
  whole, proxy = (200, b"0123456789"), bucket.proxy

  def get():
    return _get(bucket, "a")

  assert get() == whole
  with proxy.rule("GET .*/a", status=503) as rule:
    status, body = get()
    assert status == 503 and b"injected 503" in body
    assert _get(bucket, "b")[0] == 404  # another request, another answer
    assert get()[0] == 503 and rule.hits == 2
  assert get() == whole
  with proxy.rule("GET", reset=True), pytest.raises(ConnectionError):
    get()
  with proxy.rule("GET", cut_bytes=4), pytest.raises(http.client.IncompleteRead) as caught:
    get()
  assert caught.value.partial == b"0123"
  with proxy.rule("GET", cut_bytes=0), pytest.raises(ConnectionError):
    get()
  with proxy.rule("GET", delay_s=0.2), proxy.rule("GET", delay_s=0.1):
    begun = time.monotonic()
    assert get() == whole
    assert time.monotonic() - begun >= 0.3
  with proxy.away(), pytest.raises(ConnectionRefusedError):
    get()
  assert get() == whole


def test_rules_count_and_end_by_the_clock(bucket, monkeypatch):
  objects.write(bucket / "a", b"1")
  with bucket.proxy.rule("GET", status=429, skip=1, times=2):
    assert [_get(bucket, "a")[0] for _ in range(5)] == [200, 429, 429, 200, 200]
  now = [100.0]
  clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
  monkeypatch.setattr(proxies, "time", clock)
  with bucket.proxy.rule("GET", status=500, after_s=20, for_s=30):
    for seconds, status in ((100, 200), (119, 200), (125, 500), (154, 500), (156, 200)):
      now[0] = seconds
      assert _get(bucket, "a")[0] == status


@pytest.mark.parametrize("passes", [True, False])
def test_a_request_is_held(bucket, passes):
  statuses = []

  def put():
    request = urllib.request.Request(
      f"{bucket.proxy.url}/upload/storage/v1/b/bucket/o?uploadType=media"
      f"&name={bucket.url.split('/')[-1]}/a",
      b"1",
    )
    try:
      statuses.append(urllib.request.urlopen(request, timeout=60).status)
    except OSError:
      statuses.append(None)

  with bucket.proxy.holding("POST .*name=.*/a") as hold:
    thread = threading.Thread(target=put)
    thread.start()
    assert hold.arrived.wait(60)
    time.sleep(0.1)
    assert bucket.objects() == {} and not statuses
    if passes:
      hold.release()
      thread.join()
  thread.join()
  assert statuses == ([200] if passes else [None])
  assert bucket.objects() == ({"a": b"1"} if passes else {})


def test_outages_of_moments_are_outlived(data_place):
  """Negative control of the faults: TensorStore's own tries get through."""
  objects.write(data_place / "a", b"1" * 1000)
  if data_place.proxy is None:
    return
  soon = {"initial_delay": "10ms"}
  context = ts.Context({"gcs_request_retries": soon, "s3_request_retries": soon})
  kvstore = ts.KvStore.open(objects.kvstore_spec(data_place.url), context=context).result()
  for fault in ({"status": 503}, {"reset": True}, {"cut_bytes": 10}):
    with data_place.proxy.rule("GET", times=2, **fault) as rule:
      assert kvstore.read("a").result().value == b"1" * 1000
    assert rule.hits == 2, fault


def test_generations_are_conditions(bucket):
  """What a lease is made of: the emulator refuses as the real one does."""
  kvstore = ts.KvStore.open(objects.kvstore_spec(bucket.url)).result()
  new = kvstore.read("lease").result().stamp.generation
  first = kvstore.write("lease", b"1", if_equal=new).result().generation
  assert first
  other = kvstore.write("other", b"1").result().generation
  for before in (new, other):  # nothing is there, or another
    assert not kvstore.write("lease", b"2", if_equal=before).result().generation
    assert not kvstore.write("lease", None, if_equal=before).result().generation
  kvstore.write("other", None).result()
  assert bucket.objects() == {"lease": b"1"}
  second = kvstore.write("lease", b"2", if_equal=first).result().generation
  assert second and second != first
  assert not kvstore.write("lease", b"3", if_equal=first).result().generation
  assert bucket.objects() == {"lease": b"2"}
  assert kvstore.write("lease", None, if_equal=second).result().generation
  assert bucket.objects() == {}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_of_two_writers_of_a_version_one_writes(bucket, s3_bucket, scheme):
  """The server compares, not the client: also while a write is under way."""
  place, written = {"gs": bucket, "s3": s3_bucket}[scheme], []

  def write():
    written.append(objects.write_version(place / "a", b"1", objects.ABSENT))

  with place.proxy.holding("PUT|POST", times=1) as hold:
    thread = threading.Thread(target=write)
    thread.start()
    assert hold.arrived.wait(9)
    assert objects.write_version(place / "a", b"2", objects.ABSENT)
    hold.release()
    thread.join()
  assert written == [None] and objects.read(place / "a") == b"2"


CHILD = """
import sys
from totojax.storage import objects
for i in range(3):
  objects.write(f"{sys.argv[1]}/{i}", b"x")
  print(i, flush=True)
"""


def test_a_child_is_killed_at_its_request_and_runs_again(bucket):
  words = [sys.executable, "-c", CHILD, bucket.url]
  assert buckets.killed(bucket.proxy, words, "POST .*upload", skip=1).split()[-1:] == ["0"]
  assert set(bucket.objects()) == {"0"}
  with pytest.raises(AssertionError, match="no 4. request"):
    buckets.killed(bucket.proxy, words, "POST .*upload", skip=3)
  assert set(bucket.objects()) == {"0", "1", "2"}


def test_a_package_that_lacks_is_named(monkeypatch):
  buckets.need("json")
  monkeypatch.delenv("TOTOJAX_ALL_TESTS", raising=False)
  with pytest.raises(pytest.skip.Exception, match="needs nothing_such"):
    buckets.need("json", "nothing_such")
  monkeypatch.setenv("TOTOJAX_ALL_TESTS", "1")
  with pytest.raises(pytest.fail.Exception, match="nothing_such lacks"):
    buckets.need("json", "nothing_such")
