"""Files of the world that went wrong: the right frames and colours, or none.

Frames carry their number (`numbered`). The files of `golden/video` were made by
FFmpeg and damaged, joined or edited; others of each kind are made here.
"""

import collections
import pathlib

import little_videos
import numpy as np
import pytest

from totojax.data.pixels import augment, containers, decode, media, timelines, video
from totojax.data.sources import items

av = pytest.importorskip("av")
import numbered  # noqa: E402  needs PyAV

FILES = pathlib.Path(__file__).parent / "golden" / "video"
RESIZE = augment.Resize(96, "bilinear")
STRIDE = 4


def _numbers(path, first, *, timeline, tally=None):
  """The numbers in three frames, a stride apart."""
  wanted = [first, first + STRIDE, first + 2 * STRIDE]
  images = decode.read_images(path, wanted, timeline=timeline, prepare=RESIZE, tally=tally)
  return [numbered.read(images[number]) for number in wanted], wanted


def _check(path, starts, *, tally=None):
  timeline = timelines.read(path)
  for first in starts:
    numbers, wanted = _numbers(path, first, timeline=timeline, tally=tally)
    assert numbers == wanted, (first, numbers)
  return timeline


SOUGHT = (
  "x264_g60_good.mp4 x265_g60.mp4 fragmented.mp4 opengop.mp4 mpeg2.mpg intra_refresh.mp4".split()
)


@pytest.mark.parametrize("name", SOUGHT)
def test_the_frame_that_was_asked_for_at_every_start(name):
  tally = decode.Tally()
  starts = [0, 299, *range(313, 1490, 131), 347, 495, 717, 1198]
  timeline = _check(FILES / f"seek_{name}", starts, tally=tally)
  assert len(timeline.times_s) == 1500 and timeline.gap_s == pytest.approx(1 / 30, rel=1e-3)
  # Those whose seeks land behind, or where the picture is not whole, go further back.
  assert (tally.restarts > 0) == (name in ("intra_refresh.mp4", "opengop.mp4", "x265_g60.mp4"))
  assert timeline.counted == (name == "mpeg2.mpg")


OTHERS = {
  "open.ts": ("libx264", dict(b_frames=3, options={"x264-params": "open-gop=1:keyint=50"})),
  "refresh.mkv": ("libx264", dict(options={"x264-params": "intra-refresh=1:keyint=45"})),
  "h264.flv": ("libx264", dict(b_frames=2)),
  "mpeg1.mpg": ("mpeg1video", dict(b_frames=2, gop=15)),
  "mpeg2.ts": ("mpeg2video", dict(b_frames=2, gop=15)),
  "mpeg4.avi": ("mpeg4", dict(b_frames=2)),
  "vp8.webm": ("libvpx", dict(options={"deadline": "realtime", "cpu-used": "16"})),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_frame_that_was_asked_for_in_other_containers(tmp_path, name):
  codec, how = OTHERS[name]
  path = numbered.write(tmp_path / name, 450, codec=codec, **how)
  _check(path, [0, 100, 310, 347, 388, 441])


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("times_*")))
def test_where_times_mean_nothing_frames_are_counted(name):
  timeline = _check(FILES / name, range(0, 171, 19))
  assert timeline.counted and len(timeline.times_s) == 180
  np.testing.assert_allclose(np.diff(timeline.times_s), 1 / 30, rtol=1e-2)


@pytest.mark.parametrize(
  "shown, decoded, reorders, trusted",
  [
    ([0, 1, 2, 3], [0, 1, 2, 3], False, True),
    ([0, 3, 1, 2], [-1, 0, 1, 2], True, True),
    ([0, 3, 1, 2], [0, 1, 2, 3], False, False),  # a codec that does not reorder
    ([0, 1, 2, 3], [0, 1, 2, 3], True, False),  # one that does, by its times does not
    ([0, 1, 1, 2], [0, 1, 1, 2], False, False),
    ([5, 6, 7, 0, 1], [5, 6, 7, 0, 1], False, False),
    ([*range(40), *range(1, 41)], None, True, False),
    ([*range(100, 140), *range(40)], None, True, False),  # starts again, no time twice
  ],
)
def test_times_that_can_be_trusted(shown, decoded, reorders, trusted):
  decoded = decoded or [tick - 2 for tick in shown]
  ticks = timelines._Ticks(shown, decoded, whole=True, trimmed=False)
  assert ticks.trusted(reorders=reorders) == trusted


SPEC = video.ClipSpec(
  frames=3,
  stride_frames=STRIDE,
  fps=30.0,
  size_px=96,
  crops=1,
  resample="bilinear",
  sampling="uniform",
  every_s=1.0,
  most_stretches=1,
)


@pytest.mark.parametrize("name", ["clock_still.mkv", "clock_still.mp4"])
def test_the_frame_on_the_screen_is_the_last_one_before(name):
  """A second of motion, four still ones, two of motion: 30 + 60 frames."""
  timeline = timelines.read(FILES / name)
  times_s = timeline.times_s - timeline.begin_s
  assert len(times_s) == 90 and times_s[30] - times_s[29] > 3.5
  span = video.within(items.Item("a", FILES / name), timeline)
  for since_s, number in ((0.0, 0), (0.97, 29), (1.5, 29), (4.5, 29), (4.9, 29), (5.1, 33)):
    place = int(span.on_screen(np.array([since_s]))[0])
    assert abs(place - number) <= (1 if since_s == 5.1 else 0), since_s
  # The second frames of a still that a clip begins in: all one picture.
  item = items.Item("a", FILES / name, start_s=2.0, end_s=4.0)
  assert len({frame.tobytes() for frame in media.load(item, SPEC, seed=0)[0]}) == 1
  assert media.duration_s(item) == pytest.approx(2.0, abs=1e-3)
  # A control: the nearest frame would be the next one from 3 s on.
  assert decode.nearest(times_s)(4.5) == 30


# What the file's matrix makes of a picture, as a player shows it (numpy's words).
TURNS = {
  (1, 0, 0, 1): lambda x: x,
  (0, 1, -1, 0): lambda x: np.rot90(x, -1),
  (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
  (0, -1, 1, 0): lambda x: np.rot90(x),
  (-1, 0, 0, 1): np.fliplr,
  (1, 0, 0, -1): np.flipud,
  (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
  (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("turn", TURNS)
def test_all_eight_display_matrices(tmp_path, turn):
  """Written into a file's track header (ISO 14496-12, 8.3.2)."""
  little_videos.write(tmp_path / "a.mp4", 2)
  data = bytearray((tmp_path / "a.mp4").read_bytes())
  place = data.index(b"tkhd") + 4 + 40
  a, b, c, d = (int(value) << 16 for value in turn)
  data[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
  (tmp_path / "b.mp4").write_bytes(data)
  images = [
    decode.read_images(
      path, [0], timeline=timelines.read(path), prepare=augment.Resize(32, "bicubic")
    )[0]
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4")
  ]
  np.testing.assert_array_equal(images[1], TURNS[turn](images[0]))


def _quarters(name):
  path = FILES / name
  image = decode.read_images(path, [0], timeline=timelines.read(path), prepare=RESIZE)[0]
  height, width = image.shape[:2]
  return [image[y, x] for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]


RED, GREEN, BLUE, GREY = (220, 41, 40), (40, 220, 41), (40, 40, 220), (61, 61, 61)
MIRRORED = {
  "rot90": (BLUE, RED, GREY, GREEN),
  "hflip": (GREEN, RED, GREY, BLUE),
  "vflip": (BLUE, GREY, RED, GREEN),
  "transpose": (RED, BLUE, GREEN, GREY),
  "transverse": (GREY, GREEN, BLUE, RED),
}


@pytest.mark.parametrize("turn", MIRRORED)
def test_a_mirrored_picture_is_shown_as_a_player_shows_it(turn):
  for shown, expected in zip(_quarters(f"matrix_{turn}.mp4"), MIRRORED[turn], strict=True):
    np.testing.assert_allclose(shown, expected, atol=6)


COLOURS = np.array(
  [
    [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)],
    [(128, 128, 128), (230, 180, 150), (20, 90, 60), (255, 255, 255)],
  ]
)


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("colour_*")))
def test_colours_are_those_that_were_drawn(name):
  """Matrix BT.601 and BT.709, limited and full range, 8 and 10 bits."""
  path = FILES / name
  image = decode.read_images(
    path, [0], timeline=timelines.read(path), prepare=augment.Resize(128, "bicubic")
  )[0]
  height, width = image.shape[:2]
  shown = image[height // 4 :: height // 2, width // 8 :: width // 4].astype(int)
  assert np.abs(shown - COLOURS).max() <= 4
  # A control: read by the other matrix, they would be further away.
  other = dict(decode._MATRICES)
  other[1], other[6] = decode._MATRICES[6], decode._MATRICES[1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(decode, "_MATRICES", other)
    again = decode.read_images(
      path, [0], timeline=timelines.read(path), prepare=augment.Resize(128, "bicubic")
    )[0][height // 4 :: height // 2, width // 8 :: width // 4]
  assert np.abs(again.astype(int) - COLOURS).max() > 8


def test_a_matrix_that_cannot_be_converted_is_listed(tmp_path):
  """YCgCo (8); as BT.601 it would be off by up to 215 levels."""
  path = tmp_path / "a.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=30)
    stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p"
    stream.codec_context.colorspace = 8
    for _ in range(40):
      frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 100, np.uint8), format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  row = media.load(items.Item("a", path), SPEC, seed=0)
  assert isinstance(row, items.Skipped) and "matrix 8" in row.reason, row


@pytest.mark.parametrize("name", ["damage_h264.mp4", "damage_mpeg4.avi", "damage_none_h264.mp4"])
def test_nothing_smeared_is_used(name):
  path = FILES / name
  timeline = timelines.read(path)
  listed = 0
  for first in range(0, 231, 3):
    try:
      numbers, wanted = _numbers(path, first, timeline=timeline)
    except containers.Undecodable as error:
      assert "damaged around" in str(error)
      listed += 1
    else:
      assert numbers == wanted
  assert (listed > 30) == (name != "damage_none_h264.mp4")
  row = media.load(items.Item(name, path, start_s=2.5, end_s=3.9), SPEC, seed=0)
  assert isinstance(row, items.Skipped) == (name != "damage_none_h264.mp4")


def _known_damage(path):
  """Times of the frames that the decoder itself calls damaged, or gives up."""
  times_s = []
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    for packet in container.demux(stream):
      try:
        times_s += [frame.time for frame in packet.decode() if frame.is_corrupt]
      except av.FFmpegError:
        times_s.append(float((packet.pts or 0) * stream.time_base))
  return times_s


@pytest.mark.parametrize(
  "name, codec, b_frames, slices",
  [
    ("a.mkv", "libx264", 3, 1),
    ("b.mkv", "libx264", 3, 4),  # in several threads these lose the mark
    ("a.ts", "mpeg2video", 2, 1),
    ("a.mp4", "mpeg4", 0, 1),
  ],
)
def test_damage_that_the_decoder_knows_of_is_never_delivered(
  tmp_path, name, codec, b_frames, slices
):
  gop, options = 40, {"slices": str(slices)} if slices > 1 else {}
  path = numbered.write(
    tmp_path / name, 200, codec=codec, b_frames=b_frames, gop=gop, options=options
  )
  whole = path.read_bytes()
  rng, outcomes = np.random.default_rng(0), collections.Counter()
  path = tmp_path / f"hurt_{name}"
  for _ in range(4):
    hurt = bytearray(whole)
    for place in rng.integers(len(whole) // 5, len(whole) * 9 // 10, 6):
      hurt[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(hurt)
    timeline, known_s = timelines.read(path), _known_damage(path)
    for first in range(0, len(timeline.times_s) - 2 * STRIDE, 24):
      try:
        numbers, wanted = _numbers(path, first, timeline=timeline)
      except containers.Undecodable:
        outcomes["listed"] += 1
        continue
      outcomes["shown"] += 1
      if numbered.SMEARED in numbers:  # of what the bits became nobody can know
        last_s = timeline.times_s[wanted[-1]]
        assert not [at for at in known_s if last_s - gop / 30 < at <= last_s], first
        outcomes["not known of"] += 1
  assert outcomes["shown"] > 5 * outcomes["not known of"] and outcomes["listed"], outcomes
