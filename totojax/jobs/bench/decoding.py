"""Row `decode`: clips out of videos against a bare PyAV loop (extra `data`).

Shapes: H height, W width.
"""

from collections.abc import Iterator, Sequence
import fractions
import pathlib

import numpy as np

from totojax.config.bench import DecodeBench
from totojax.data.pixels import containers, decode, media, timelines, video
from totojax.data.sources import items as items_lib
from totojax.jobs.bench import measure

_TILE = 16  # pixels of the texture's blocks


def rows(settings: DecodeBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Frames of the spans per second.

  Raises:
    ImportError: PyAV is missing.
  """
  spec = video.ClipSpec(**vars(settings.clip))
  for size in settings.sizes:
    width, height = map(int, size.split("x"))
    for length_s in settings.lengths_s:
      path = harness.folder / f"{size}-{length_s:g}.mp4"
      frames = round(length_s * settings.rate)
      render(path, frames, height=height, width=width, settings=settings, seed=harness.seed)
      items = [items_lib.Item(f"clip {i}", str(path)) for i in range(settings.clips)]
      for arrays in (True, False):
        yield _row(items, spec, f"{size}, {length_s:g} s", settings, harness, arrays=arrays)


def _row(
  items: Sequence[items_lib.Item],
  spec: video.ClipSpec,
  case: str,
  settings: DecodeBench,
  harness: measure.Harness,
  *,
  arrays: bool,
) -> measure.Measurement:
  """Against a loop that makes arrays of the spans' frames, or only decodes."""
  spans = [span(item, spec, seed=harness.seed) for item in items]
  units = sum(map(len, spans))

  def clips() -> None:
    for item in items:
      loaded = media.load(item, spec, seed=harness.seed)
      if isinstance(loaded, items_lib.Skipped):
        raise ValueError(f"{item.path} gives no clip: {loaded.reason}")

  def bare() -> None:
    for item, one in zip(items, spans):
      bare_loop(item.path, one, rate=settings.rate, arrays=arrays)

  kind, what = "decoding alone", "that only decodes, no frame made an array"
  if arrays:
    kind, what = "RGB arrays", "every frame of the span an RGB array"

  def goals(rounds: measure.Rounds) -> list[measure.Goal]:
    # What is asked is the rate of a core: CPU-seconds, not wall time.
    name, rate = "times the loop's frames per CPU-second", rounds.cpu_ratio.median
    return [measure.Goal(name, rate, 1.0)] if arrays else []

  return harness.compare(
    measure.Side("media.load: times, decode, resize, crop", clips, units),
    measure.Side(f"a bare PyAV loop{',' if arrays else ''} {what}", bare, units),
    case=f"{case}, against {kind}",
    compares="clips from a video against decoding the same span of it, one thread",
    unit="frames of the span",
    goals=goals,
    facts=lambda rounds: {
      "clips": len(items),
      "codec": settings.codec,
      "frames_of_clip": spec.frames,
      "stride_frames": spec.stride_frames,
      "size_px": spec.size_px,
    },
  )


def render(
  path: pathlib.Path, frames: int, *, height: int, width: int, settings: DecodeBench, seed: int
) -> None:
  """Writes a video of a texture that moves, with a little noise.

  Raises:
    ImportError: PyAV is missing.
  """
  rng = np.random.default_rng(seed)
  rows, columns = -(-height // _TILE) + 1, -(-width // _TILE) + 1
  coarse = rng.integers(0, 256, (rows, columns, 3)).astype(np.uint8)
  texture = coarse.repeat(_TILE, 0).repeat(_TILE, 1)[:height, :width]
  noise_HW3 = rng.integers(0, 16, (height, width, 3), dtype=np.uint8)
  with containers.pyav().open(str(path), "w") as container:
    stream = container.add_stream(settings.codec, rate=settings.rate)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for i in range(frames):
      moved_HW3 = np.roll(texture, (i, 2 * i), axis=(0, 1)) // 2 + 64
      image_HW3 = moved_HW3 + np.roll(noise_HW3, 7 * i, axis=0)
      frame = containers.pyav().VideoFrame.from_ndarray(image_HW3, format="rgb24")
      frame.pts, frame.time_base = i, fractions.Fraction(1, settings.rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def span(item: items_lib.Item, spec: video.ClipSpec, *, seed: int) -> range:
  """From the first frame that `media.load` reads to the last; decodes nothing."""
  numbers = []

  def read(frames, *, prepare):
    del prepare
    numbers.extend(map(int, frames))
    blank = np.zeros((spec.size_px, spec.size_px, 3), np.uint8)
    return dict.fromkeys(numbers, blank)

  video.cut(item, timelines.read(item.path), read, spec, seed=seed)
  return range(min(numbers), max(numbers) + 1)


def bare_loop(path: str, frames: range, *, rate: int, arrays: bool) -> int:
  """Decodes up to the last of some frames as a plain script would.

  Begins at the key frame before the first one where that is far from the
  start, as `media.load` does.

  Returns:
    Those of the frames that were decoded.
  """
  count = 0
  with containers.pyav().open(path) as container:
    stream = container.streams.video[0]
    first_s = frames.start / rate
    if first_s > decode.SEEK_GAP_S:
      container.seek(int(first_s / stream.time_base), stream=stream)
    for frame in container.decode(stream):
      number = round(frame.time * rate)
      if number >= frames.start:
        count += 1
        if arrays:
          frame.to_ndarray(format="rgb24")
      if number >= frames.stop - 1:
        break
  return count
