"""Videos too short for a clip: how many there are, and what was done with them.

Before the work lengths are asked of the files' headers, and of the frames' times
only where a header leaves a doubt, so a corpus is looked at in seconds; of more
than `MOST` videos, or after `MOST_S`, it is a sample. What the work itself found
(`decode.Tally.short`) goes by the item into `short.csv`, and counted into the
manifest of the store, as `info.short`.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import time

from etils import epath

from totojax.data.pixels import containers, images, media, slowfast
from totojax.data.sources import items as items_lib
from totojax.rundir import console, files, wording
from totojax.storage import reading

FILE = "short.csv"
MOST, MOST_S, AT_ONCE = 2000, 60.0, 64  # videos and seconds; videos between two looks at the clock


@dataclasses.dataclass(frozen=True)
class Estimate:
  """How many videos of a listing are too short for a clip."""

  items: int  # in the listing
  opened: int  # that were looked at
  short: int  # of these, in which a clip does not fit
  least: int  # of these, in which it would not fit with a stride of 1 either

  def __str__(self) -> str:
    sample = f" (of a sample of {self.opened:,})" if self.opened < self.items else ""
    return f"{self.short:,}{sample}"


def way(spec: media.VideoSpec) -> str:
  """What is done with such a video: "skip", "stride" or "hold"."""
  if isinstance(spec, slowfast.ViewSpec):
    return spec.clip.short or "hold"
  return spec.short or "skip"


def estimate(
  items: Sequence[items_lib.Item], spec: media.Spec, *, seed: int, name: str
) -> Estimate | None:
  """Looks at videos, all or some in a random order; decodes nothing.

  None for images, and for records, whose lengths are known as they are decoded.

  Args:
    items: of a listing.
    spec: what is cut out of them.
    seed: of the order.
    name: of the store, for the progress line.
  """
  if isinstance(spec, images.ImageSpec) or items[0].record is not None:
    return None
  look = functools.partial(_fits, spec=spec)
  chosen = items_lib.shuffled(items, seed=seed)[:MOST]
  end, found = time.monotonic() + MOST_S, []
  with console.tracking(f"lengths of {name}", unit="videos", total=len(chosen)) as bar:
    for start in range(0, len(chosen), AT_ONCE):
      some = chosen[start : start + AT_ONCE]
      for fits in reading.each(look, some):
        found.append(fits)
        bar.advance()
      if time.monotonic() > end:
        break
  short, least = (sum(not fits[i] for fits in found) for i in (0, 1))
  return Estimate(len(items), len(found), short, least)


def _fits(item: items_lib.Item, *, spec: media.VideoSpec) -> tuple[bool, bool]:
  """Whether a clip fits; and one with a stride of 1. What cannot be read may."""
  try:
    length_s = media.about_s(item, enough_s=spec.needs_s)
  except (containers.Undecodable, OSError, ValueError):
    return True, True
  return length_s >= spec.needs_s, length_s >= spec.least_s


def announce(
  items: Sequence[items_lib.Item], spec: media.Spec, *, seed: int, name: str
) -> Estimate | None:
  """`estimate`, and a line about it where a video is too short."""
  found = estimate(items, spec, seed=seed, name=name)
  if found is None or isinstance(spec, images.ImageSpec) or not found.short:
    return found
  among = f"{found.items:,}" if found.opened == found.items else f"a sample of {found.opened:,}"
  then = {
    "skip": f"they will be skipped and listed. {_remedy(found.least)}",
    "stride": "they get the largest stride that fits, and the"
    f" {found.least:,} in which not even 1 does are skipped and listed",
    "hold": "their last frame is shown again",
  }
  console.say(
    f"{name}: {found.short:,} of {among} videos are too short for a clip"
    f" ({wording.counted(spec.frames, 'frame')} with"
    f" a stride of {spec.stride_frames} at {spec.fps:g} a second are {spec.needs_s:.2f} s):"
    f" {then[way(spec)]}"
  )
  return found


def report(
  name: str, ways: Mapping[str, str], spec: media.Spec, *, items: int, where: epath.Path
) -> None:
  """A line about what was done; nothing where no video was too short.

  Args:
    name: of the store.
    ways: id -> what was done with it.
    spec: what was cut out.
    items: of the store, in all.
    where: the table of `write`.
  """
  if not ways or isinstance(spec, images.ImageSpec):
    return
  parts = ", ".join(f"{n} by {how!r}" for how, n in counts(ways.values()).items())
  remedy = f". {_remedy(0)}" if way(spec) == "skip" else ""
  console.say(
    f"{name}: {len(ways)} of {wording.counted(items, 'video')} were too short:"
    f" {parts} ({where}){remedy}"
  )


def _remedy(least: int) -> str:
  but = f" (not even 1 does in {least:,})" if least else ""
  return (
    f"To use them set clip.short to 'stride', the largest stride that fits{but}, or to 'hold',"
    " which shows the last frame again; or ask for shorter clips (clip.frames, clip.stride_frames)"
  )


def counts(ways: Iterable[str]) -> dict[str, int]:
  """Way -> number of videos, for the manifest."""
  return dict(sorted(collections.Counter(ways).items()))


def write(workdir: epath.Path, ways: Mapping[str, Mapping[str, str]]) -> None:
  """`short.csv`: store, id and way of each; no file where there are none."""
  rows = [(name, item, how) for name, some in ways.items() for item, how in some.items()]
  if rows:
    files.write_table(workdir / FILE, rows, header=("store", "id", "way"))
