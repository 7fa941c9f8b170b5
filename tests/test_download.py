"""Downloads from a local server, with all that goes wrong on the way."""

import hashlib
import json
import resource
import shutil
import signal

import numpy as np
import pytest
import web

from totojax.tokenizers.released import download

BODY = np.random.default_rng(0).bytes(3 * 2**20 + 17)
OTHER = np.random.default_rng(1).bytes(len(BODY))
HASH = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetch(site, path, *, sha256=None, **more):
  return download.fetch(site.url + "/file", path, sha256=sha256, **more)


def after(chunks):
  """Asks to stop once this many chunks came."""
  left = iter(range(chunks))
  return lambda: next(left, None) is None


def alone(path):
  """Whether nothing but the file is left in its folder."""
  return list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("sha256", [None, HASH, HASH.upper()])
def test_a_whole_download(tmp_path, sha256, capfd):
  path = tmp_path / "a file.pkl"
  with web.serving({"/file": BODY}) as site:
    assert fetch(site, path, sha256=sha256)
    assert path.read_bytes() == BODY and alone(path)
    assert fetch(site, path, sha256=sha256)  # there already: not asked for
    assert len(site.asked) == 1
  assert "4/4 MiB" in capfd.readouterr().err  # the line of progress
  assert download.digest(path) == HASH


@pytest.mark.parametrize(
  "marks", [dict(), dict(etags=False), dict(dates=False), dict(etags=False, dates=False)]
)
def test_an_interrupted_download_goes_on(tmp_path, marks):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}, **marks) as site:
    assert not fetch(site, path, interrupted=after(4))
    assert not path.exists()
    have = (tmp_path / "file.part").stat().st_size
    assert have == 5 * download.CHUNK_BYTES
    assert fetch(site, path, sha256=HASH)
    assert site.asked == [("/file", None), ("/file", f"bytes={have}-")]
  assert path.read_bytes() == BODY and alone(path)


@pytest.mark.parametrize("marks", [dict(), dict(etags=False)])
def test_a_file_that_changed_is_not_glued_together(tmp_path, marks):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}, **marks) as site:
    assert not fetch(site, path, interrupted=after(4))
    site.files["/file"] = OTHER  # of the same length
    assert fetch(site, path)
    assert path.read_bytes() == OTHER and alone(path)


@pytest.mark.parametrize("length", [4, 2**20, len(BODY) + 5])
def test_without_marks_another_length_tells(tmp_path, length):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}, etags=False, dates=False) as site:
    assert not fetch(site, path, interrupted=after(4))
    site.files["/file"] = (OTHER * 2)[:length]
    assert fetch(site, path)
    assert path.read_bytes() == (OTHER * 2)[:length] and alone(path)


def test_another_address_does_not_continue_the_part(tmp_path):
  path = tmp_path / "file"
  files = {"/file": BODY, "/other": OTHER}
  with web.serving(files, etags=False, dates=False) as site:
    assert not fetch(site, path, interrupted=after(4))
    assert download.fetch(site.url + "/other", path, sha256=None)
    assert path.read_bytes() == OTHER


def test_a_part_of_unknown_origin_is_not_continued(tmp_path):
  path = tmp_path / "file"
  for note in (None, "{", "[]", '{"url": 3}', json.dumps({"a": 1})):
    (tmp_path / "file.part").write_bytes(OTHER[:100])
    if note is not None:
      (tmp_path / "file.part.json").write_text(note)
    with web.serving({"/file": BODY}) as site:
      assert fetch(site, path)
    assert path.read_bytes() == BODY and alone(path)
    path.unlink()


def test_a_connection_that_breaks_off_is_taken_up(tmp_path):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}, break_after=2**20) as site:
    assert fetch(site, path, sha256=HASH)
    assert len(site.asked) == 4
    assert site.sent_bytes == len(BODY)  # each byte once
  assert path.read_bytes() == BODY and alone(path)


def test_a_server_without_ranges_is_asked_from_the_start(tmp_path):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}, ranges=False) as site:
    assert not fetch(site, path, interrupted=after(4))
    assert fetch(site, path, sha256=HASH)
    assert site.sent_bytes == 2 * len(BODY)
  assert path.read_bytes() == BODY and alone(path)
  # And where it breaks off at the same place each time, it is given up.
  path.unlink()
  with web.serving({"/file": BODY}, ranges=False, break_after=2**20) as site:
    told = f"{2**20} bytes are kept"
    with pytest.raises(download.DownloadError, match=told):
      fetch(site, path)
    assert len(site.asked) == 2
  assert not path.exists()


def test_a_whole_part_is_not_asked_for_again(tmp_path):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}) as site:
    assert not fetch(site, path, interrupted=after(4))
    (tmp_path / "file.part").write_bytes(BODY)  # killed before the renaming
    assert fetch(site, path, sha256=HASH)
    assert len(site.asked) == 1


def test_a_wrong_hash_leaves_nothing(tmp_path):
  path = tmp_path / "file"
  with web.serving({"/file": OTHER}) as site:
    with pytest.raises(download.DownloadError) as caught:
      fetch(site, path, sha256=HASH)
    found = hashlib.sha256(OTHER).hexdigest()
    assert found in str(caught.value) and HASH in str(caught.value)
    assert not list(tmp_path.iterdir())
    site.files["/file"] = BODY  # and the next call begins anew
    assert fetch(site, path, sha256=HASH)
    path.write_bytes(OTHER)  # one that is there is checked, and not deleted
    with pytest.raises(download.DownloadError, match="delete it"):
      fetch(site, path, sha256=HASH)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_error_of_the_server(tmp_path, status):
  with web.serving({"/file": BODY}, status=status) as site:
    with pytest.raises(download.DownloadError, match=f"/file answers {status}"):
      fetch(site, tmp_path / "file")
  assert not list(tmp_path.iterdir())


def test_an_error_of_the_server_keeps_the_part(tmp_path):
  path = tmp_path / "file"
  with web.serving({"/file": BODY}) as site:
    assert not fetch(site, path, interrupted=after(4))
    site.status = 503
    with pytest.raises(download.DownloadError, match="503"):
      fetch(site, path)
    site.status = None
    assert fetch(site, path, sha256=HASH)
    assert site.asked[-1][1] is not None


def test_no_connection(tmp_path):
  with web.serving({}) as site:
    pass
  with pytest.raises(download.DownloadError) as caught:
    fetch(site, tmp_path / "file")
  assert site.url in str(caught.value) and "refused" in str(caught.value)
  for url in ("file", "ftp://host/file", "http://", "file:///etc/passwd"):
    with pytest.raises(download.DownloadError, match="no address"):
      download.fetch(url, tmp_path / "file", sha256=None)
  assert not list(tmp_path.iterdir())


def test_a_body_of_unknown_length(tmp_path):
  with web.serving({"/file": BODY}, length=False) as site:
    with pytest.raises(download.DownloadError, match="how long"):
      fetch(site, tmp_path / "file")


def test_too_little_space(tmp_path, monkeypatch):
  path = tmp_path / "file"
  usage = shutil.disk_usage(tmp_path)
  free = [len(BODY) - 1]
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
  with web.serving({"/file": BODY}) as site:
    with pytest.raises(download.DownloadError, match="free some space"):
      fetch(site, path)
    assert not list(tmp_path.iterdir())  # it is known before the first byte
    free[0] += 1
    assert fetch(site, path)


def test_a_disk_that_fills_on_the_way(tmp_path):
  """The system refuses to let the part grow, as a full disk does."""
  path = tmp_path / "file"
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  with web.serving({"/file": BODY}) as site:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
      with pytest.raises(download.DownloadError, match="free some space"):
        fetch(site, path)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
      signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    assert (tmp_path / "file.part").stat().st_size == 2**20
    assert fetch(site, path, sha256=HASH)  # and goes on from there
    assert site.asked[-1] == ("/file", f"bytes={2**20}-")
  assert path.read_bytes() == BODY


def test_a_folder_that_is_not_there(tmp_path):
  with web.serving({"/file": BODY}) as site:
    with pytest.raises(download.DownloadError, match="cannot be written"):
      fetch(site, tmp_path / "no" / "file")
