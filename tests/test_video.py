"""Which frames a clip has, and files that are bad."""

import dataclasses
import pathlib
import platform
import sys

import little_videos
import numpy as np
import pytest

from totojax.data.pixels import augment, containers, decode, media, timelines, video
from totojax.data.sources import folder, items

av = pytest.importorskip("av")

SPEC = video.ClipSpec(
  frames=4,
  stride_frames=4,
  fps=30.0,
  size_px=16,
  crops=2,
  resample="bicubic",
  sampling="uniform",
  every_s=1.0,
  most_stretches=1,
)

# Videos of the tests' own, and their clips by PyAV 18.1; `python
# tests/test_video.py` writes both anew.
GOLDEN = pathlib.Path(__file__).parent / "golden"
CODECS = {"h264.mkv": "libx264", "mpeg4.mp4": "mpeg4", "vp9.webm": "libvpx-vp9"}


RESIZE = augment.Resize(32, "bicubic")


def _clips(item, spec, *, seed):
  return video.clips(item, item.path, spec, seed=seed)


def _wide(spec, **changes):
  """A spec whose crop is the whole height of a 32 x 48 frame."""
  return dataclasses.replace(spec, size_px=32, **changes)


def test_frames_are_a_stride_apart_and_seeded(tmp_path):
  item = little_videos.write(tmp_path / "a.mp4", 60)
  spec = _wide(SPEC, crops=6)
  clips = _clips(item, spec, seed=0)
  assert clips.shape == (6, 4, 32, 32, 3) and clips.dtype == np.uint8
  numbers = little_videos.numbers(clips)
  assert (np.diff(numbers, axis=1) == 4).all()
  assert numbers.min() >= 0 and numbers.max() <= 59
  assert len(set(numbers[:, 0])) > 2  # each crop draws its own start
  np.testing.assert_array_equal(clips, _clips(item, spec, seed=0))
  assert (little_videos.numbers(_clips(item, spec, seed=1)) != numbers).any()
  # A clip does not depend on how many others are asked for.
  two = _clips(item, dataclasses.replace(spec, crops=2), seed=0)
  np.testing.assert_array_equal(two, clips[:2])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("rate, step", [(30, 4), (15, 2), (60, 8)])
def test_resampling_by_time(tmp_path, name, rate, step):
  item = little_videos.write(tmp_path / name, 50, rate=rate)
  spec = _wide(SPEC)
  if rate == 60:
    spec = dataclasses.replace(spec, frames=3)
  numbers = little_videos.numbers(_clips(item, spec, seed=0))
  assert (np.diff(numbers, axis=1) == step).all()


def test_off_rate_follows_the_clock(tmp_path):
  item = little_videos.write(tmp_path / "a.mp4", 60, rate=25)
  numbers = little_videos.numbers(_clips(item, _wide(SPEC, crops=1), seed=3))[0]
  # 4 frames at 30 a second are 3.33 at 25: what is on the screen by then.
  steps = np.diff(numbers)
  assert set(steps.tolist()) == {3, 4} and numbers[-1] - numbers[0] == 10


def test_b_frames_in_avi_stay_in_order(tmp_path):
  item = little_videos.write(tmp_path / "b.avi", 60, b_frames=2)
  spec = _wide(SPEC, frames=40, stride_frames=1)
  numbers = little_videos.numbers(_clips(item, spec, seed=0))
  assert (np.diff(numbers, axis=1) == 1).all()


class _Wrapped:
  """A container whose seeks or reported times are wrong, as some files' are."""

  def __init__(self, container, *, seek_late_s=0.0, swap=False):
    self.container, self.late_s, self.swap = container, seek_late_s, swap

  def __getattr__(self, name):
    return getattr(self.container, name)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.container.close()

  def seek(self, ticks, *, stream):
    late = int(self.late_s / stream.time_base)
    self.container.seek(ticks + late, stream=stream)

  def decode(self, stream):
    for count, frame in enumerate(self.container.decode(stream)):
      if self.swap:  # times of each pair of frames change places
        frame.pts += stream.duration // stream.frames * (-1) ** count
      yield frame


def _wrap(monkeypatch, **how):
  original = containers.open_video

  def opened(path, **more):
    container, stream = original(path, **more)
    return _Wrapped(container, **how), stream

  monkeypatch.setattr(containers, "open_video", opened)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4"])
def test_frames_whose_times_go_back_are_counted(tmp_path, monkeypatch, name):
  item = little_videos.write(tmp_path / name, 60)
  spec = _wide(SPEC, crops=4)
  want = _clips(item, spec, seed=0)
  _wrap(monkeypatch, swap=True)
  np.testing.assert_array_equal(_clips(item, spec, seed=0), want)
  # The control: an MP4's times are believed, until they are seen to be wrong.
  timeline = timelines.read(item.path)
  assert timeline.counted == (name == "a.avi")
  if not timeline.counted:
    with pytest.raises(decode.Disordered):
      decode.read_images(item.path, [0, 4], timeline=timeline, prepare=RESIZE)


def test_a_seek_that_lands_too_late_starts_over(tmp_path, monkeypatch):
  item = little_videos.write(tmp_path / "long.mp4", 400, rate=10)
  spec = _wide(SPEC, crops=5)
  monkeypatch.setattr(decode, "SEEK_GAP_S", 2.0)
  want = _clips(item, spec, seed=0)
  _wrap(monkeypatch, seek_late_s=4.0)
  np.testing.assert_array_equal(_clips(item, spec, seed=0), want)


def test_files_without_times_are_counted(tmp_path):
  item = little_videos.write(tmp_path / "a.mpg", 60, codec="libx264", b_frames=2)
  assert timelines.read(item.path).counted
  numbers = little_videos.numbers(_clips(item, _wide(SPEC), seed=0))
  assert (np.diff(numbers, axis=1) == 4).all()


def test_seeking_changes_no_pixel(tmp_path, monkeypatch):
  item = little_videos.write(tmp_path / "long.mp4", 400, rate=10, b_frames=2)
  spec = _wide(SPEC, crops=5)
  seeks, original = [], decode._decode_from

  def watched(*args, **kwargs):
    seeks.append(kwargs["seek_s"])
    return original(*args, **kwargs)

  monkeypatch.setattr(decode, "_decode_from", watched)
  monkeypatch.setattr(decode, "SEEK_GAP_S", 2.0)
  jumped = _clips(item, spec, seed=0)
  assert sum(s is not None for s in seeks) >= 3
  assert len({s for s in seeks}) == len(seeks)  # no seek had to be repeated
  monkeypatch.setattr(decode, "SEEK_GAP_S", 1e9)
  np.testing.assert_array_equal(jumped, _clips(item, spec, seed=0))
  assert seeks[-1] is None


def test_rotation_noted_in_the_file_is_applied(tmp_path):
  plain = little_videos.write(tmp_path / "a.mp4", 30)
  data = bytearray((tmp_path / "a.mp4").read_bytes())
  matrix = data.index(b"tkhd") + 4 + 40
  turn = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4")
  data[matrix : matrix + 36] = turn.tobytes()  # a quarter turn clockwise
  turned = items.Item("a.mp4", tmp_path / "turned.mp4")
  (tmp_path / "turned.mp4").write_bytes(data)
  spec = dataclasses.replace(SPEC, frames=1, crops=1, size_px=32)
  left = _clips(plain, spec, seed=0)[0, 0].astype(int)
  top = _clips(turned, spec, seed=0)[0, 0].astype(int)
  assert left[:, 0].mean() > left[:, -1].mean() + 10  # bright on the left ...
  assert top[0].mean() > top[-1].mean() + 10  # ... is bright on top, turned


def test_one_frame(tmp_path):
  item = little_videos.write(tmp_path / "one.mp4", 1)
  with pytest.raises(containers.Undecodable, match="span 13"):
    _clips(item, SPEC, seed=0)
  spec = dataclasses.replace(SPEC, frames=1)
  assert _clips(item, spec, seed=0).shape == (2, 1, 16, 16, 3)


def test_exactly_long_enough(tmp_path):
  item = little_videos.write(tmp_path / "a.mp4", 13)
  assert _clips(item, SPEC, seed=0).shape[1] == 4
  row = media.load(little_videos.write(tmp_path / "b.mp4", 12), SPEC, seed=0)
  assert row == items.Skipped(
    "b.mp4", "too short: 0.40 s are 12 frames at 30 a second; 4 frames with a stride of 4 span 13"
  )


def _audio(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=16_000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 16_000), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 16_000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _listed(root):
  return folder.list_items(root, "", kind="video", class_folders=False).items


def test_bad_files_are_rows_and_never_fatal(tmp_path):
  little_videos.write(tmp_path / "good.mp4", 60)
  whole = (tmp_path / "good.mp4").read_bytes()
  noise = np.random.default_rng(0).bytes(4000)
  files = {
    "empty.mp4": b"",
    "noise.avi": noise,
    "text.mkv": b"not a video at all",
    "head.mp4": whole[: len(whole) // 2],  # its index was at the end
    "holes.mp4": whole[:200] + noise[: len(whole) - 1500] + whole[-1300:],
  }
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
  _audio(tmp_path / "audio.mp4")
  rows = {}
  for item in _listed(tmp_path):
    rows[item.id] = media.load(item, SPEC, seed=0)
  assert isinstance(rows.pop("good.mp4"), np.ndarray)
  assert set(rows) == set(files) | {"audio.mp4"}
  for name, row in rows.items():
    assert isinstance(row, items.Skipped), name
    assert row.id == name and row.reason
  assert "0 bytes" in rows["empty.mp4"].reason
  assert "no video stream" in rows["audio.mp4"].reason
  # A file that was listed and is gone says nothing about what was in it.
  with pytest.raises(media.SourceLost):
    media.load(items.Item("gone.mp4", tmp_path / "gone.mp4"), SPEC, seed=0)


def test_truncated_video_gives_what_is_there_or_says_so(tmp_path):
  little_videos.write(tmp_path / "a.mkv", 100)
  whole = (tmp_path / "a.mkv").read_bytes()
  for share in (0.2, 0.5, 0.9):
    path = tmp_path / f"cut{share}.mkv"
    path.write_bytes(whole[: int(len(whole) * share)])
    result = media.load(items.Item("a", path), _wide(SPEC), seed=0)
    if isinstance(result, np.ndarray):
      numbers = little_videos.numbers(result)
      assert (np.diff(numbers, axis=1) == 4).all()
      assert numbers.max() < 100 * share + 5
    else:
      assert share < 0.5, result.reason


def test_frames_missing_in_the_middle_are_not_made_up(tmp_path, monkeypatch):
  item = little_videos.write(tmp_path / "a.mp4", 60)
  timeline = timelines.read(item.path)
  later = np.concatenate([timeline.times_s, timeline.times_s + 2.0])
  longer = dataclasses.replace(timeline, times_s=later)
  monkeypatch.setattr(timelines, "read", lambda *_, **__: longer)
  rows = [media.load(item, SPEC, seed=seed) for seed in range(8)]
  assert any("do not decode" in getattr(row, "reason", "") for row in rows)


def test_titles_in_old_encodings_do_not_matter(tmp_path):
  item = little_videos.write(tmp_path / "a.mp4", 30)
  data = (tmp_path / "a.mp4").read_bytes()
  assert b"zzqqzzqq" in data
  (tmp_path / "a.mp4").write_bytes(data.replace(b"zzqqzzqq", b"zzq\xd3\xc3zqq"))
  assert _clips(item, SPEC, seed=0).shape == (2, 4, 16, 16, 3)


def test_unicode_names_decode(tmp_path):
  item = little_videos.write(tmp_path / "Ünï cödé 視頻.mp4", 30)
  assert _clips(item, SPEC, seed=0).shape == (2, 4, 16, 16, 3)


def test_spec_refuses_nonsense():
  with pytest.raises(ValueError, match="clip.crops is 0"):
    dataclasses.replace(SPEC, crops=0)
  with pytest.raises(ValueError, match="'bicubic', 'bilinear' or 'lanczos'"):
    dataclasses.replace(SPEC, resample="nearest")


def test_missing_pyav_names_the_extra(tmp_path, monkeypatch):
  item = little_videos.write(tmp_path / "a.mp4", 30)
  monkeypatch.setitem(sys.modules, "av", None)
  with pytest.raises(ImportError, match=r"totojax\[data\]"):
    _clips(item, SPEC, seed=0)


def _coloured(i):
  """Coloured squares that move: frame i, uint8 [32, 48, 3]."""
  squares = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  return np.roll(squares.repeat(8, 0).repeat(8, 1), i, axis=1)


@pytest.mark.parametrize("name", CODECS)
def test_every_version_of_pyav_decodes_the_same_pixels(name):
  """The same bytes of a video are the same tokens, whatever reads them."""
  path = GOLDEN / f"video_{name}"
  clips = _clips(items.Item(name, path), SPEC, seed=0)
  golden = np.load(GOLDEN / "video_clips.npz")[name]
  # FFmpeg turns YUV into RGB by other instructions on other processors.
  levels = 0 if platform.machine() == "x86_64" else 2
  np.testing.assert_allclose(clips.astype(int), golden, rtol=0, atol=levels)
  # Other frames, or the same ones in grey, are further away than that.
  other = _clips(items.Item(name, path), SPEC, seed=1)
  grey = clips.mean(axis=-1, keepdims=True)
  assert np.abs(other.astype(int) - golden).max() > 20
  assert np.abs(grey - golden).max() > 20


if __name__ == "__main__":
  made = {}
  for file, codec in CODECS.items():
    of = GOLDEN / f"video_{file}"
    little_videos.write(of, 30, codec=codec, b_frames=2, paint=_coloured)
    made[file] = _clips(items.Item(file, of), SPEC, seed=0)
  np.savez_compressed(GOLDEN / "video_clips.npz", **made)
