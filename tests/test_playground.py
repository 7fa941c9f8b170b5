"""`run = "playground"`: what the page is told, what it refuses, and whoever leaves."""

import base64
from concurrent import futures
import io
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time

from etils import epath
import numpy as np
from PIL import Image
import playgrounds
import pytest
import runs

from totojax import jobs
from totojax.config import roots
from totojax.config.generate import Sampling
from totojax.config.schema import ConfigError
from totojax.data.pixels import excerpts, media, movies, video as video_lib, workers
from totojax.data.sources import items
from totojax.data.store import store as store_lib
from totojax.evals import continuations
from totojax.jobs.playground import server, studio as studio_lib
from totojax.tokenizers import api
from totojax.trained import continued, generate as generate_lib

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module", name="built")
def _built(tmp_path_factory):
  return playgrounds.build(tmp_path_factory.mktemp("playground"))


@pytest.fixture(scope="module", name="page")
def _page(built):
  with playgrounds.serving(playgrounds.config(*built)) as page:
    yield page


def pixels(address):
  head, _, data = address.partition(",")
  assert head == "data:image/png;base64"
  with Image.open(io.BytesIO(base64.b64decode(data))) as image:
    return np.asarray(image.convert("RGB"))


def frames_of_webp(data):
  with Image.open(io.BytesIO(data)) as image:
    frames = []
    for t in range(image.n_frames):
      image.seek(t)
      frames.append(np.asarray(image.convert("RGB")))
  return np.stack(frames)


@pytest.fixture(scope="module", name="made")
def _made(page):
  """(events, frames by number, facts of "done") of 3 frames and 6 more: past the window of 6."""
  response = page.ask(new_frames=6)
  assert response.headers["content-type"].startswith("text/event-stream")
  found = list(playgrounds.events(response))
  return found, [data for name, data in found if name == "frame"], found[-1]


def test_frames_come_in_order_and_are_generates(page, built, made):
  found, frames, (ended, done) = made
  names = [name for name, _ in found]
  assert ended == "done" and names[0] == "queued" and names.count("begun") == 1
  begun = dict(found)["begun"]
  assert begun["columns"] == ["truth", "tokenizer", "sample 1", "sample 2"]
  assert begun["compiling"] and begun["frames"] == 9
  assert [frame["t"] for frame in frames] == list(range(9))
  assert [frame["made"] for frame in frames] == [False] * 3 + [True] * 6
  truth = store_lib.open_store(built[1], tokenizer=None, vocab=None, grid=None).read([0])["frames"]
  new = page.model.generate(
    truth[0, :3], new_frames=6, samples=2, sampling=Sampling(seed=3), rows=2
  )
  kept = api.decode_clips(
    page.model.tokenizer, page.model.codes(truth).reshape(1, -1, playgrounds.GRID, playgrounds.GRID)
  )[0]
  for t, frame in enumerate(frames):
    true, recon, *samples = map(pixels, frame["pictures"])
    np.testing.assert_array_equal(true, truth[0, t])
    np.testing.assert_array_equal(recon, kept[t])
    for k, sample in enumerate(samples):
      np.testing.assert_array_equal(sample, kept[t] if t < 3 else new[k, t - 3])
  assert (new[0] != new[1]).any()
  # The same again: nothing is compiled, and another seed is another video.
  again = list(playgrounds.events(page.ask(new_frames=6, sampling={"seed": 4})))
  assert not dict(again)["begun"]["compiling"]
  assert dict(again)["frame"]["pictures"][:2] == frames[-1]["pictures"][:2]
  assert dict(again)["frame"]["pictures"][2:] != frames[-1]["pictures"][2:]
  others = dict(temperature=0.5, top_k=9, top_p=0.9, min_p=0.01)
  others = list(playgrounds.events(page.ask(new_frames=6, sampling=others)))
  assert not dict(others)["begun"]["compiling"]
  assert dict(others)["frame"]["pictures"][2:] != frames[-1]["pictures"][2:]


def test_heat_is_the_models_loss(page, built, made):
  """Of the truth as `surprise` has it, of samples as a pass over the whole of them has it."""
  _, frames, _ = made
  window = playgrounds.FRAMES
  truth = store_lib.open_store(built[1], tokenizer=None, vocab=None, grid=None).read([0])["frames"]
  nats = page.model.surprise(truth[0, :window]).reshape(window, -1)
  decoder = page.model.decoder(frames=9, sampling=Sampling(seed=3), window=generate_lib.Window())
  codes = continued.samples(decoder, page.model.codes(truth[:, :3]), further=6, samples=2, rows=8)[
    0
  ]
  drawn = page.model.nll_of_codes(codes[:, :window])
  for t, frame in enumerate(frames):
    of_truth, of_kept, *of_samples = frame["heat"]
    assert of_kept is None
    if t >= window:  # what no window has seen from its beginning
      assert of_truth is None and frame["nats"][0] is None
      continue
    np.testing.assert_allclose(of_truth, nats[t], rtol=1e-3, atol=2e-3)
    assert frame["nats"][0] == pytest.approx(nats[t].mean(), rel=1e-3)
    for k, heat in enumerate(of_samples):
      np.testing.assert_allclose(heat, nats[t] if t < 3 else drawn[k, t], rtol=1e-3, atol=2e-3)
  assert np.abs(nats[4] - drawn[0, 4]).max() > 0.05  # or one could stand for the other


def test_what_is_downloaded_is_what_was_shown(page, made):
  av = pytest.importorskip("av")
  _, frames, (_, done) = made
  assert done["files"] == ["webp", "mp4"] and done["seconds"] > 0
  columns = [np.stack(one) for one in zip(*([*map(pixels, f["pictures"])] for f in frames))]
  pairs = [(movies.enlarged(c, side_px=96), n) for c, n in zip(columns, (9, 9, 3, 3))]
  expected = movies.beside(pairs, frames=9)
  answer = page.get(f"runs/{done['id']}.webp")
  assert answer.headers["content-type"] == "image/webp"
  assert "attachment" in answer.headers["content-disposition"]
  np.testing.assert_array_equal(frames_of_webp(answer.content), expected)
  answer = page.get(f"runs/{done['id']}.mp4")
  with av.open(io.BytesIO(answer.content)) as container:
    found = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
  assert found.shape == expected.shape
  assert continuations.psnrs(expected, found).min() > 20
  assert continuations.psnrs(expected[::-1], found)[0] < 20  # or frames could be any
  for path in (f"runs/{done['id']}.exe", "runs/0000.mp4", "nothing"):
    page.error(page.get(path), 404)


@pytest.mark.parametrize(
  "values, told",
  [
    (dict(given=7), "frames that are kept: 7 frames are given; the window of the model has 6"),
    (dict(given=0), "given is 0; it must be at least 1"),
    (dict(given="3"), "given is '3' (str); it must be int"),
    (dict(new_frames=0), "new_frames is 0"),
    (dict(new_frames=10**9), "new_frames is 1000000000; it must be"),
    (dict(new_frames=13), "new_frames is 13, and at most 12 may be asked for"),
    (dict(samples=5), "samples is 5, and at most 4"),
    (dict(clip="../../etc/passwd"), "clip '../../etc/passwd' is not there"),
    (dict(mode="jump"), "mode is 'jump'; use 'slide', 'roll' or 'extend'"),
    (dict(sampling={"temperature": -1}), "sampling.temperature is -1.0; it must be at least 0"),
    (dict(sampling={"temperature": 1e-9}), "sampling.temperature is 1e-09; use 0.0"),
    (dict(sampling={"temperature": 10**30}), "is no number of 64 bits"),
    (dict(sampling={"top_p": 0}), "sampling.top_p is 0.0; it must be above 0"),
    (dict(sampling={"seed": 2**32}), "sampling.seed is 4294967296"),
    (dict(sampling={"heat": 1}), "sampling.heat does not exist"),
    (dict(more=1), "more does not exist"),
  ],
)
def test_what_cannot_be_made_is_one_line(page, values, told):
  assert told in page.error(page.ask(**values))


def test_requests_that_are_none_are_one_line(page):
  for body, told in (
    (b"", "it is empty"),
    (b"{", "is damaged"),
    (b"[" * 40 + b"]" * 40, "deep"),
    (b"[]", "must be a section"),
    (b'{"clip": NaN}', "NaN"),
    (b"\xff\xfe", "is damaged"),
  ):
    assert told in page.error(page.post("runs", body))
  assert "more than 0.016384 MB" in page.error(page.post("runs", b" " * 2**15), 413)
  assert "no such page" in page.error(page.get("runs"), 404) and page.get("state").ok


def test_a_clip_that_is_too_short_is_one_line(built):
  config = playgrounds.config(*built, prompt__rendered=0)
  with playgrounds.serving(config) as page:
    short = page.studio.shelf.find("c1")
    object.__setattr__(short, "codes_NP", short.codes_NP[:2])
    told = page.error(page.ask(clip="c1"))
    assert "has 2 frames, and 3 are to be kept" in told
    assert playgrounds.last(page.ask())[0] == "done"


# --- Uploads -----------------------------------------------------------------------


def aside():
  return set(pathlib.Path(tempfile.gettempdir()).glob("totojax-upload-*"))


@pytest.fixture(scope="module", name="video")
def _video(tmp_path_factory):
  little = pytest.importorskip("little_videos")
  path = tmp_path_factory.mktemp("video") / "a.mp4"
  little.write(path, 60)
  return little, path


def test_an_upload_is_a_clip_like_any_other(page, video):
  little, path = video
  name = '../../<b>"x"</b>\n.mp4'
  answer = page.post("clips", path.read_bytes(), params={"name": name})
  clip = answer.json()
  assert answer.ok and clip["kind"] == "uploaded" and clip["name"] == '../../<b>"x"</b> .mp4'
  assert clip["frames"] == 15  # every fourth
  shown = page.studio.shelf.find(clip["key"]).frames_TSS3
  assert little.numbers(shown[None])[0].tolist() == list(range(0, 60, 4))
  assert any(one["key"] == clip["key"] for one in page.state()["clips"])
  frames = [
    data for name, data in playgrounds.events(page.ask(clip=clip["key"])) if name == "frame"
  ]
  np.testing.assert_array_equal(pixels(frames[6]["pictures"][0]), shown[6])
  assert not aside()


def test_what_is_no_video_is_one_line(page, video):
  _, path = video
  sound, before = path.read_bytes(), len(page.state()["clips"])
  for body, told in (
    (sound[: len(sound) // 3], "x.mp4 gives no clip: it is no video"),
    (f"ffconcat version 1.0\nfile {path}\n".encode(), "x.mp4 gives no clip: it is no video"),
    (b"", "it is empty"),
  ):
    line = page.error(page.post("clips", body, params={"name": "x.mp4"}))
    assert told in line and tempfile.gettempdir() not in line
  assert len(page.state()["clips"]) == before and not aside()
  assert playgrounds.last(page.ask())[0] == "done"


SPEC = video_lib.ClipSpec(frames=2, stride_frames=1, fps=30.0, size_px=8)


def test_files_of_strangers_are_read_alone(video, tmp_path):
  """Lists of other files would be read: that is what makes the check worth something."""
  _, path = video
  sound, file = path.read_bytes(), tmp_path / "file"
  item = items.Item("x", str(file))
  (tmp_path / path.name).write_bytes(sound)
  hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{path}\n#EXT-X-ENDLIST\n"
  for body in (
    f"ffconcat version 1.0\nfile {path.name}\n".encode(),
    hls.encode(),
    b"no video at all",
    b"\0" * 9999,
    b"",
    b"#!/bin/sh\ntouch /tmp/ran\n",
  ):
    file.write_bytes(body)
    assert "it is no video that is read here" in excerpts.of_stranger(item, SPEC).reason
  file.write_text(f"ffconcat version 1.0\nfile {path.name}\n")
  assert isinstance(media.load(item, SPEC, seed=0), np.ndarray)
  file.write_bytes(sound)
  assert excerpts.of_stranger(item, SPEC).shape == (2, 8, 8, 3)
  damaged = bytearray(sound)
  quarter = len(sound) // 4
  damaged[quarter : 2 * quarter] = b"\x5a" * quarter
  file.write_bytes(bytes(damaged))
  found = excerpts.of_stranger(item, video_lib.ClipSpec(**{**vars(SPEC), "frames": 60}))
  assert found.reason and "\n" not in found.reason


def test_uploads_are_limited_in_size_and_count(built, page, video):
  _, path = video
  limits = dict(limits__upload_mb=0.1, limits__uploads=1, prompt__rendered=0)
  with playgrounds.serving(playgrounds.config(*built, **limits), page.model) as small:
    assert "more than 0.1 MB" in small.error(small.post("clips", b"x" * 150_000), 413)
    parts = (b"x" * 10_000 for _ in range(10**6))  # 10 GB, of no length that is told
    try:
      assert "more than 0.1 MB" in small.error(small.post("clips", parts), 413)
    except OSError:  # it hangs up, whoever still sends
      assert next(parts, None) is not None
    assert sum(1 for _ in parts) > 10**6 - 10_000
    keys = [small.post("clips", path.read_bytes()).json()["key"] for _ in range(2)]
    there = [clip["key"] for clip in small.state()["clips"]]
    assert keys[0] not in there and there[-1] == keys[1] and "c0" in there
    assert "is not there, or not any more" in small.error(small.ask(clip=keys[0]))
  assert not aside()


def test_uploads_are_limited_in_time(built, page):
  config = playgrounds.config(*built, limits__upload_s=1.0, prompt__rendered=0)
  with playgrounds.serving(config, page.model) as hasty:
    port = int(hasty.address.rpartition(":")[2].strip("/"))
    with socket.create_connection(("127.0.0.1", port)) as slow:
      slow.sendall(b"POST /clips HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx")
      slow.settimeout(60)
      assert b"it did not come within 1 s" in slow.recv(9999)
    with socket.create_connection(("127.0.0.1", port)) as gone:
      gone.sendall(b"POST /clips HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx")
    assert hasty.get("state").ok
  assert not aside()


def test_uploads_at_a_time_wait_for_each_other(page, monkeypatch):
  at_once, most, sent_away, refused = [], [], [], threading.Semaphore(0)

  def slow(shelf, path, name):
    at_once.append(name)
    most.append(len(at_once))
    if name != "7":  # until two were sent away; for each of the four
      assert refused.acquire(timeout=60)
    at_once.remove(name)
    return shelf.find("c0")

  monkeypatch.setattr(type(page.studio.shelf), "upload", slow)
  monkeypatch.setattr(server, "_UPLOADS", 4)

  def send(n):
    status = page.post(f"clips?name={n}", b"x").status_code
    sent_away.append(status == 429)
    if sum(sent_away) == 2:
      refused.release(4)
    return status

  with futures.ThreadPoolExecutor(6) as pool:
    found = [*pool.map(send, range(6))]
  assert sorted(found) == [200] * 4 + [429] * 2 and max(most) == 2
  assert send(7) == 200


def _sleep(seconds):
  time.sleep(seconds)


def _crash():
  import os

  os.abort()


@pytest.mark.slow
def test_a_call_has_a_time_and_may_crash():
  assert workers.call(sorted, [2, 1], limit_s=60) == [1, 2]
  begun = time.monotonic()
  with pytest.raises(workers.Ended, match="it took more than 3 s"):
    workers.call(_sleep, 60, limit_s=3)
  with pytest.raises(workers.Ended, match="its process died"):
    workers.call(_crash, limit_s=60)
  assert time.monotonic() - begun < 40


# --- Whom it answers ----------------------------------------------------------------


@pytest.mark.parametrize(
  "headers, status",
  [
    ({"Host": "evil.example"}, 403),
    ({"Host": "evil.example:8765"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "evil.example/@127.0.0.1"}, 403),
    ({"Host": "127.0.0.1:1"}, 200),  # a port that was forwarded
    ({"Host": "localhost"}, 200),
    ({"Host": "[::1]:80"}, 200),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Host": "localhost:9", "Origin": "http://localhost:9"}, 200),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 200),
  ],
)
def test_strangers_pages_are_refused(page, headers, status):
  assert page.get("state", headers=headers).status_code == status
  answer = page.post("runs", b"", headers=headers)
  assert ("it is empty" in answer.text) == (status == 200)
  assert answer.status_code == (400 if status == 200 else 403)


def test_the_page_loads_nothing_from_elsewhere(page):
  for path in ("", "page.css", "page.js", "state"):
    answer = page.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
  folder = pathlib.Path(server.__file__).parent
  own = {path.name: path.read_text() for path in folder.glob("page.*")}
  assert set(own) == {"page.html", "page.css", "page.js"}
  assert sum(text.count("\n") for text in own.values()) <= 400
  for name, text in own.items():
    assert "//" not in text.replace("/**", "").replace("// ", "") or name == "page.js", name
    assert "http:" not in text and "https:" not in text and "innerHTML" not in text
  assert "page.js" in own["page.html"] and "<style" not in own["page.html"]


def test_the_address_is_loopbacks(page):
  assert page.address.startswith("http://127.0.0.1:")
  config = roots.config("playground", model_run="")
  assert config.server.host == "127.0.0.1"


# --- Lines, leaving, stopping ----------------------------------------------------------


def wait_for(condition, seconds=60.0):
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.02)


def test_whoever_leaves_ends_the_decoding(page, monkeypatch):
  made = []
  add = studio_lib._Stage.add

  def slow(stage, frame):
    made.append(stage)
    time.sleep(0.1)
    return add(stage, frame)

  monkeypatch.setattr(studio_lib._Stage, "add", slow)
  response = page.ask(new_frames=12)
  for name, _ in playgrounds.events(response):
    if name == "frame":
      break
  response.close()
  wait_for(lambda: page.studio._now is None)
  assert len(made) < 12
  monkeypatch.undo()
  assert playgrounds.last(page.ask())[0] == "done"


def test_one_at_a_time_in_a_line_that_ends(built, page, monkeypatch):
  config = playgrounds.config(*built, limits__waiting=2, prompt__rendered=0)
  with playgrounds.serving(config, page.model) as other:
    add, going = studio_lib._Stage.add, []

    def slow(stage, frame):
      going.append(stage)
      wait_for(lambda: len(going) > 90)
      return add(stage, frame)

    monkeypatch.setattr(studio_lib._Stage, "add", slow)
    first = other.ask()
    wait_for(lambda: going)
    second, third = playgrounds.events(other.ask()), playgrounds.events(other.ask())
    assert next(second) == ("queued", {"before": 1, "ready": True})
    assert next(third) == ("queued", {"before": 2, "ready": True})
    assert "2 decodings wait already" in other.error(other.ask(), 429)
    going += [None] * 90
    assert playgrounds.last(first)[0] == "done"
    assert list(second)[-1][0] == "done"
    found = list(third)
    assert ("queued", {"before": 1, "ready": True}) in found and found[-1][0] == "done"


def test_a_decoding_has_a_time(built, page):
  config = playgrounds.config(*built, limits__decode_s=1e-3, prompt__rendered=0)
  with playgrounds.serving(config, page.model) as other:
    name, data = playgrounds.last(other.ask())
    assert (
      name == "failed" and "it took more than 0.001 s (limits.decode_s) for 1 of 4" in data["error"]
    )
    assert playgrounds.last(other.ask())[0] == "failed"  # and it still answers


def test_what_goes_wrong_in_a_decoding_ends_it_alone(page, monkeypatch, capsys):
  def broken(*_, **__):
    raise generate_lib.NotFinite("a model gives logits that are NaN")

  monkeypatch.setattr(generate_lib.Decoder, "frames", broken)
  name, data = playgrounds.last(page.ask())
  assert (name, data) == ("failed", {"error": "a model gives logits that are NaN"})
  monkeypatch.setattr(generate_lib.Decoder, "frames", lambda *_, **__: 1 / 0)
  name, data = playgrounds.last(page.ask())
  assert name == "failed" and "a bug (ZeroDivisionError" in data["error"]
  assert "Traceback" in capsys.readouterr().err
  monkeypatch.undo()
  assert playgrounds.last(page.ask())[0] == "done"


def test_stopping_tells_whoever_waits(built, page, monkeypatch):
  config = playgrounds.config(*built, prompt__rendered=0)
  with playgrounds.serving(config, page.model) as other:
    add = studio_lib._Stage.add

    def stopping(stage, frame):
      other.stop.set()
      return add(stage, frame)

    monkeypatch.setattr(studio_lib._Stage, "add", stopping)
    first, second = other.ask(), other.ask()
    for response in (first, second):
      assert playgrounds.last(response) == ("failed", {"error": studio_lib.STOPPED})
    other.thread.join(60)
    assert studio_lib.STOPPED in other.error(other.ask(), 429)


# --- The job --------------------------------------------------------------------------


def go(config, folder):
  return jobs.run(config, epath.Path(folder), lambda step: True)


def test_the_job_says_its_address_and_leaves_nothing(built, tmp_path, capsys):
  assert go(playgrounds.config(*built), tmp_path / "run")
  printed = capsys.readouterr().out
  assert "http://127.0.0.1:" in printed and "the page is closed" in printed
  assert not (tmp_path / "run").exists()
  # Nothing is held out: what is drawn serves.
  assert go(playgrounds.config(built[0]), tmp_path / "run")
  assert "no held-out clips: prompt.path and prompt.store are empty" in capsys.readouterr().out


@pytest.mark.parametrize(
  "keys, told",
  [
    (dict(model_run=""), "model_run is empty"),
    (dict(model_run="nowhere"), "nowhere"),
    (dict(prompt__store="nowhere"), "nowhere"),
    (dict(prompt__store="", prompt__path="nowhere.mp4"), "no such file or folder"),
    (dict(server__host="192.0.2.1"), "'192.0.2.1' and .* cannot be listened on .* 0.0.0.0 for all"),
    (dict(server__host="http://127.0.0.1"), "listened on .Name or .*; give an address"),
    (dict(server__host=""), "server.host is empty; give an address"),
  ],
)
def test_bad_input_is_one_line(built, tmp_path, keys, told):
  keys = dict(model_run=built[0]) | keys
  with pytest.raises((ValueError, OSError), match=told) as error:
    go(playgrounds.config(keys.pop("model_run"), built[1], **keys), tmp_path / "run")
  assert "\n" not in str(error.value)


def test_the_wrong_tokenizer_is_one_line(built, tmp_path):
  (tmp_path / "mine.py").write_text(
    "import temporal\nfrom totojax.config.model import EACH_FRAME\n"
    "def tokenizer():\n  return temporal.brightness(EACH_FRAME)\n"
  )
  with pytest.raises(ConfigError, match="mine.py has 64 codes; .* was trained with 512"):
    go(playgrounds.config(*built, tokenizer=str(tmp_path / "mine.py")), tmp_path / "run")


def test_a_port_that_is_taken_and_an_extra_that_lacks(built, tmp_path, monkeypatch):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f"server.port {port} cannot be .*--config.server.port=0"):
      go(playgrounds.config(*built, server__port=port), tmp_path / "run")
  monkeypatch.setitem(sys.modules, "uvicorn", None)
  with pytest.raises(ImportError, match=r'pip install "totojax\[web\]"'):
    go(playgrounds.config(*built), tmp_path / "run")


@pytest.mark.slow
def test_the_command_of_the_docs_ends_with_ctrl_c(built, tmp_path):
  words = runs.command(
    "configs/playground.py",
    tmp_path / "run",
    f"--config.model_run={built[0]}",
    f"--config.prompt.store={built[1]}",
    "--config.server.port=0",
  )
  process = runs.start(words)
  for line in process.stdout:
    if "http://" in line:
      break
  process.send_signal(signal.SIGINT)
  assert "the page is closed" in runs.finish(process)
  assert not (tmp_path / "run").exists()
