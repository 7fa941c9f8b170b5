"""How many clips a video gives, spans of videos, and videos of odd kinds."""

import dataclasses
import os
import struct
import subprocess
import sys

import little_videos
from little_videos import av, numbers, write
import numpy as np
from PIL import Image
import pytest
import runs

from totojax.data.pixels import augment, containers, decode, media, timelines, video
from totojax.data.sources import items

SPEC = video.ClipSpec(
  frames=4,
  stride_frames=1,
  fps=30.0,
  size_px=32,
  crops=2,
  resample="bicubic",
  sampling="duration",
  every_s=0.5,
  most_stretches=100,
)


def change(**values):
  return dataclasses.replace(SPEC, **values)


def clips(item, spec, seed=0):
  result = media.load(item, spec, seed=seed)
  assert isinstance(result, np.ndarray), result
  return result


@pytest.mark.parametrize(
  "frames, stretches", [(7, 1), (20, 1), (30, 2), (45, 3), (75, 5), (105, 7)]
)
def test_clips_in_proportion_to_length(tmp_path, frames, stretches):
  item = write(tmp_path / "a.mp4", frames)
  got = numbers(clips(item, SPEC))
  assert got.shape == (2 * stretches, 4)
  assert (np.diff(got, axis=1) == 1).all()
  # Each stretch has its own share of the possible starts, without a gap.
  starts = frames - 3
  edges = [starts * i // stretches for i in range(stretches + 1)]
  for i, (start, *_) in enumerate(got):
    assert edges[i // 2] <= start < edges[i // 2 + 1]


def test_uniform_gives_every_video_as_many(tmp_path):
  spec = change(sampling="uniform")
  for frames in (7, 105):
    assert len(clips(write(tmp_path / "a.mp4", frames), spec)) == 2


def starts_of(clips_KTRR3):
  return numbers(clips_KTRR3)[:, 0].tolist()


def test_stretches_are_limited_and_cover_all_starts(tmp_path):
  item = write(tmp_path / "a.mp4", 60)
  spec = change(most_stretches=3, crops=1)
  assert len(clips(item, spec)) == 3
  drawn = {n for s in range(40) for n in starts_of(clips(item, spec, s))}
  assert min(drawn) <= 3 and max(drawn) >= 53 and len(drawn) > 30
  # More stretches than starts: each start once.
  short = write(tmp_path / "b.mp4", 6)
  got = numbers(clips(short, change(every_s=0.01, crops=1)))
  assert got[:, 0].tolist() == [0, 1, 2]


def test_a_clip_does_not_depend_on_the_number_of_crops(tmp_path):
  item = write(tmp_path / "a.mp4", 60)
  two, three = clips(item, SPEC), clips(item, change(crops=3))
  np.testing.assert_array_equal(
    two.reshape(4, 2, *two.shape[1:]), three.reshape(4, 3, *three.shape[1:])[:, :2]
  )


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_spans(tmp_path, name):
  whole = write(tmp_path / name, 90)
  spec = change(sampling="uniform", crops=60)

  def span(start_s, end_s):
    item = items.Item("x", whole.path, start_s=start_s, end_s=end_s)
    return media.load(item, spec, seed=0)

  got = numbers(span(1.0, 1.5))
  assert got.min() == 30 and got.max() == 44
  assert numbers(span(2.5, None)).min() >= 75
  assert numbers(span(None, 0.5)).max() <= 14
  assert numbers(span(2.5, 9.0)).max() <= 89  # annotations reach too far
  assert numbers(clips(whole, spec)).max() > 60  # the control
  assert "no frame between 5 and 7 s" in span(5.0, 7.0).reason
  assert "too short" in span(1.0, 1.05).reason


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.mpg"])
def test_of_a_stretch_no_more_is_read(tmp_path, name, monkeypatch):
  codec = "libx264" if name.endswith("mpg") else "mpeg4"
  whole = write(tmp_path / name, 400, rate=10, b_frames=2, codec=codec)
  spec = change(sampling="uniform", fps=10.0)
  item = dataclasses.replace(whole, start_s=25.0, end_s=26.0)
  read, ticks = [], timelines._ticks

  def watched(*args, **kwargs):
    found = ticks(*args, **kwargs)
    read.append(len(found.shown))
    return found

  monkeypatch.setattr(timelines, "_ticks", watched)
  got = numbers(clips(item, spec))
  assert ((got % 110 >= 250 % 110) & (got % 110 < 260 % 110)).all()
  if name != "long.mpg":  # no times: all of it has to be counted
    assert sum(read) < 200
  # The same as out of the timeline of all.
  monkeypatch.setattr(timelines, "_read_stretch", lambda *_: None)
  np.testing.assert_array_equal(numbers(clips(item, spec)), got)
  assert read[-1] == 400
  # And no seek is needed for it to be right.
  monkeypatch.undo()
  monkeypatch.setattr(decode, "SEEK_GAP_S", 1e9)
  np.testing.assert_array_equal(numbers(clips(item, spec)), got)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_duration(tmp_path, name):
  item = write(tmp_path / name, 75)
  assert media.duration_s(item) == pytest.approx(2.5, abs=2e-3)
  span = dataclasses.replace(item, start_s=0.5, end_s=1.0)
  assert media.duration_s(span) == pytest.approx(0.5, abs=2e-3)
  (tmp_path / name).write_bytes(b"")
  with pytest.raises(containers.Undecodable, match="0 bytes"):
    media.duration_s(item)


def test_part_of_a_file(tmp_path):
  item = write(tmp_path / "a.mp4", 60)
  data = open(item.path, "rb").read()
  (tmp_path / "big").write_bytes(b"x" * 1000 + data + b"y" * 500)

  def part(offset, size):
    return dataclasses.replace(item, path=str(tmp_path / "big"), part=(offset, size))

  np.testing.assert_array_equal(clips(part(1000, len(data)), SPEC), clips(item, SPEC))
  row = media.load(part(1000, len(data) + 501), SPEC, seed=0)
  assert "ends after" in row.reason


def test_variable_frame_rate_follows_the_clock(tmp_path):
  # Two seconds at 30 a second, then two at 10: 60 and 20 frames.
  times = [*range(60), *range(60, 120, 3)]
  item = write(tmp_path / "a.mkv", 80, times=times)
  spec = change(frames=8, sampling="uniform", crops=12)
  got = numbers(clips(item, spec))
  steps = np.diff(got, axis=1)
  fast = got.max(axis=1) < 60
  assert (steps[fast] == 1).all()
  slow = got.min(axis=1) >= 60
  assert fast.any() and slow.any()
  assert (steps[slow].sum(axis=1) <= 3).all()  # 7 thirtieths are 2.3 tenths
  assert (steps >= 0).all()


@pytest.mark.parametrize(
  "pix_fmt", ["yuv420p10le", "gray", "gray10le", "gray16le", "yuv444p16le", "bgra"]
)
def test_pixels_of_other_depths_and_colours(tmp_path, pix_fmt):
  item = write(tmp_path / "a.mkv", 20, codec="ffv1", pix_fmt=pix_fmt)
  got = clips(item, change(frames=20, crops=1))
  assert (numbers(got) == np.arange(20)).all()
  want = np.stack([little_videos.picture(i)[:, :32] for i in range(20)])
  # The left of the picture is in every crop; grey stays grey and as bright.
  error = np.abs(got[0, :, :, :8].astype(int) - want[:, :, :8])
  assert error.max() <= 3


def test_a_header_that_claims_two_hours(tmp_path):
  item = write(tmp_path / "a.mkv", 30)
  data = bytearray((tmp_path / "a.mkv").read_bytes())
  place = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in ms
  data[place : place + 8] = struct.pack(">d", 7200e3)
  (tmp_path / "long.mkv").write_bytes(data)
  claims = items.Item("a.mkv", tmp_path / "long.mkv")
  with little_videos.av.open(claims.path) as container:
    assert container.duration > 7000e6  # the header is believed elsewhere
  np.testing.assert_array_equal(clips(claims, SPEC), clips(item, SPEC))
  one = write(tmp_path / "one.mp4", 1)
  assert "too short" in media.load(one, SPEC, seed=0).reason


@pytest.mark.parametrize("name", [b"\xff\xfe.mp4", b"concat:x.mp4", b"%03d.mp4"])
def test_names_that_a_decoder_could_misread(tmp_path, name, monkeypatch):
  path = os.fsdecode(name)
  written = write(tmp_path / "a.mp4", 30)
  os.rename(written.path, os.path.join(tmp_path, path))
  monkeypatch.chdir(tmp_path)
  assert len(clips(items.Item("x", path), SPEC)) == 4


def test_spec_refuses_nonsense():
  for values, told in (
    ({"sampling": "length"}, "'uniform', 'duration' or 'whole'"),
    ({"every_s": 0.0}, "clip.every_s is 0.0"),
    ({"most_stretches": 0}, "clip.most_stretches is 0"),
  ):
    with pytest.raises(ValueError, match=told):
      change(**values)


def test_workers_import_neither_jax_nor_tensorflow():
  code = """
import sys
from totojax.data.pixels import media
heavy = ["jax", "tensorflow", "tensorflow_datasets", "av", "scipy", "etils"]
print([name for name in heavy if name in sys.modules], "PIL" in sys.modules)
"""
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  assert result.stdout == "[] True\n"


def test_damaged_bytes_never_raise(tmp_path):
  rng = np.random.default_rng(0)
  kinds = []
  for name in ("a.mp4", "a.mkv", "a.avi", "a.webm"):
    codec = "libvpx" if name.endswith("webm") else "mpeg4"
    write(tmp_path / name, 20, codec=codec)
    data = (tmp_path / name).read_bytes()
    for _ in range(12):
      hurt = bytearray(data)
      for place in rng.integers(0, len(hurt), 20):
        hurt[place] = rng.integers(256)
      (tmp_path / name).write_bytes(hurt)
      result = media.load(items.Item("x", tmp_path / name), SPEC, seed=0)
      kinds.append(type(result))
  assert set(kinds) == {np.ndarray, items.Skipped}


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_frames_are_resized_without_aliasing(tmp_path, resample):
  """FFmpeg's scaler against Pillow's: near, and a fine grid becomes grey."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(40, 216, (12, 16, 3), np.uint8)
  smooth = np.asarray(Image.fromarray(coarse).resize((256, 192)))
  grid = np.indices((192, 256)).sum(0) % 2 * 255
  grid = np.repeat(grid[..., None], 3, 2).astype(np.uint8)
  path = tmp_path / "a.mkv"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=30)  # lossless
    stream.height, stream.width, stream.pix_fmt = 192, 256, "bgr0"
    for picture in (smooth, grid):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  resize = augment.Resize(32, resample)
  found = decode.read_images(path, [0, 1], timeline=timelines.read(path), prepare=resize)
  away = np.abs(found[0].astype(int) - resize(smooth))
  assert found[0].shape == (32, 43, 3) and away.mean() < 2 and away.max() < 12
  inner = found[1][2:-2, 2:-2]
  assert inner.std() < 6 and 110 < inner.mean() < 145
  # The control: every sixth pixel of the grid, as a filter that aliases takes.
  assert grid[::6, ::5].std() > 60
