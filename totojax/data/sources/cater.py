"""CATER: where is the snitch at the end?

Layout, as its archives are unpacked
  videos/CLEVR_new_000000.avi          or CATER_new_..., or images/, or in <root>
  lists/localize/train.txt, val.txt    CLEVR_new_000000.avi 17
  scenes/CLEVR_new_000000.json         where every object is in every frame

The class of a clip is the cell of 6 x 6 in which its snitch (the only object of
shape spl) is in the last frame: 6 row + column, where x goes from -3 to 3 along
columns and y along rows. `lists/localize_4x4` and `localize_8x8` have other
grids of the same table.

Girdhar and Ramanan, "CATER", section 4.3, and its generator's `localize`.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from totojax.data.pixels import containers, timelines
from totojax.data.sources import files, items
from totojax.storage import outside, reading

SNITCH = "spl"
SIDE = 6  # cells of a row
HALF = 3.0  # of the table's side
FRAMES = 301  # of CATER's own videos
SPLITS = ("train", "val", "train_subsetT", "train_subsetV")
_CONTAIN, _PICK = "_contain", "_pick_place"


def cell(x: float, y: float, side: int = SIDE) -> int:
  """The class of a place.

  Raises:
    ValueError: it is not on the table.
  """
  # Down, and not towards zero.
  column, row = (math.floor(v * side / (2 * HALF)) + side // 2 for v in (x, y))
  if not (0 <= column < side and 0 <= row < side):
    raise ValueError(f"the snitch ends at ({x:g}, {y:g}); the table is from -3 to 3")
  return side * row + column


@dataclasses.dataclass(frozen=True)
class Fate:
  """What a scene's file says of its snitch."""

  places: tuple[tuple[float, float], ...]  # x and y, frame by frame
  # From which frame on something covers it to the end; None: it is seen, as far
  # as containers go.
  hidden: int | None

  @property
  def last(self) -> tuple[float, float]:
    return self.places[-1]

  @property
  def last_seen(self) -> tuple[float, float]:
    """Where it was when it was covered for good; its last place where it was not."""
    return self.last if self.hidden is None else self.places[self.hidden]

  def is_carried(self, side: int = SIDE) -> bool:
    """Whether it ends in another cell than where it was covered for good."""
    return cell(*self.last, side) != cell(*self.last_seen, side)


def read_fate(path: str) -> Fate:
  """Of the file of a scene.

  Raises:
    ValueError: it cannot be read, has no snitch or several, or lacks frames;
      names the file.
  """
  scene = files.read_json(path)
  objects = scene.get("objects") if isinstance(scene, Mapping) else None
  if not isinstance(objects, list) or not all(isinstance(one, Mapping) for one in objects):
    raise ValueError(f"{path} has no list of objects; it is no scene of CATER")
  snitches = [one for one in objects if one.get("shape") == SNITCH]
  if len(snitches) != 1:
    raise ValueError(
      f"{path} has {len(snitches)} objects of shape {SNITCH!r}; a scene has one snitch"
    )
  places = _places(path, snitches[0].get("locations"))
  return Fate(places, _hidden(path, scene, snitches[0].get("instance"), len(places)))


def _places(path: str, locations: Any) -> tuple[tuple[float, float], ...]:
  if not isinstance(locations, Mapping) or not locations:
    raise ValueError(f"{path}: its snitch has no locations")
  out = []
  for frame in range(len(locations)):
    place = locations.get(str(frame))
    if place is None:
      raise ValueError(
        f"{path}: its snitch has {len(locations)} locations, and none of frame {frame}"
      )
    if not isinstance(place, list) or len(place) != 3 or not all(map(_is_finite, place)):
      raise ValueError(f"{path}: location {place!r:.80} of frame {frame} is not three numbers")
    out.append((float(place[0]), float(place[1])))
  return tuple(out)


def _is_finite(value: Any) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and abs(value) < 1e6


def _hidden(path: str, scene: Mapping[str, Any], name: Any, frames: int) -> int | None:
  """From which frame on the snitch is covered to the end, by the movements of all objects."""
  movements = scene.get("movements", {})
  if not isinstance(movements, Mapping):
    raise ValueError(f"{path}: its movements are no mapping of objects")
  by = []  # (frame, who, what it covers from then on; None: nothing)
  for who, rows in movements.items():
    for row in rows if isinstance(rows, list) else [rows]:
      if not isinstance(row, list) or not _is_movement(row, frames):
        raise ValueError(
          f"{path}: movement {row!r:.80} of {who!r:.40} is not [verb, object, from, to]"
        )
      verb, other, begin, end = row
      if verb == _CONTAIN:
        by.append((end, who, other))
      elif verb == _PICK:
        by.append((begin, who, None))
  covers: dict[str, Any] = {}
  since = None
  for frame, who, other in sorted(by, key=lambda row: row[0]):
    covers[who] = other
    is_covered = isinstance(name, str) and name in covers.values()
    since = (frame if since is None else since) if is_covered else None
  return since


def _is_movement(row: list[Any], frames: int) -> bool:
  if len(row) != 4 or not isinstance(row[0], str):
    return False
  if not (row[1] is None or isinstance(row[1], str)):
    return False
  return all(type(n) is int and 0 <= n < frames for n in row[2:]) and row[2] <= row[3]


def list_items(
  root: str, split: str, *, side: int = SIDE, fates: bool = True, frames: bool = False
) -> items.Listing:
  """The clips of a split with their cells; what is missing or wrong is in `missing`.

  Args:
    root: of the data set.
    split: "train", "val", or CATER's halves of "train" for a search,
      "train_subsetT" and "train_subsetV".
    side: cells of a row: 4, 6 or 8, each with its own lists.
    fates: whether the scenes are read where there are any, and lists compared
      with them.
    frames: whether the packets of every video are read, which takes as long as
      its file; left out are those with other frames than their scene, or than
      CATER's 301 where no scene is read.

  Raises:
    ValueError: no such list, a line that is none, or a class that is another
      cell than the one that the scene says.
  """
  if split not in SPLITS:
    raise ValueError(f"split is {split!r}; CATER has {', '.join(SPLITS)}")
  if side not in (4, 6, 8):
    raise ValueError(f"side is {side}; CATER has lists of 4, 6 and 8 cells")
  folder = "localize" if side == SIDE else f"localize_{side}x{side}"
  tops = (reading.join(root, "lists"), reading.join(root, "list"), root)
  path = files.first_of(
    [reading.join(reading.join(top, folder), f"{split}.txt") for top in tops],
    what=f"list of CATER ({folder}/{split}.txt)",
  )
  where = [reading.join(root, name) for name in ("videos", "images")]
  videos = files.by_stem(next(filter(reading.is_folder, where), root), "video")
  scenes = reading.join(root, "scenes")
  with_scenes = fates and reading.is_folder(scenes)
  entries: dict[str, items.Entry] = {}
  labels: dict[str, int] = {}
  for number, line in files.lines(path):
    at = f"{path}, line {number}"
    words = line.split()
    if len(words) != 2:
      raise ValueError(f"{at}: {line!r:.200} is not a video and its class")
    name = files.stem(words[0])  # lists of one's own have whole paths
    label = files.label(words[1], side * side, where=at)
    if label < 0:
      raise ValueError(f"{at}: class {label} is no cell; they are 0 to {side * side - 1}")
    if labels.setdefault(name, label) != label:
      raise ValueError(f"{at}: {name} has class {label}, and {labels[name]} before")
    if name not in entries:
      scene = reading.join(scenes, f"{name}.json") if with_scenes else ""
      entries[name] = _entry(name, label, videos.get(name), scene, side, frames, at)
  classes = [f"row {c // side}, column {c % side}" for c in range(side * side)]
  return items.listing("video", entries.values(), classes=classes, where=path)


def _entry(
  name: str, label: int, video: str | None, scene: str, side: int, frames: bool, where: str
) -> items.Entry:
  """A line of a list; ValueError where the scene says another class."""
  id_, wanted = items.name(name), FRAMES
  if video is None:
    return items.Skipped(id_, "there is no such video")
  if scene:
    if not reading.exists(scene):
      return items.Skipped(id_, f"{scene} does not exist")
    try:
      fate = read_fate(scene)
      found, wanted = cell(*fate.last, side), len(fate.places)
    except ValueError as error:
      return items.Skipped(id_, outside.shown(error))
    if found != label:
      raise ValueError(
        f"{where}: class {label}, and {scene} says {found}; one of them is not CATER's"
      )
  lacking = missing_frames(video, wanted) if frames else ""
  if lacking:
    return items.Skipped(id_, lacking)
  return items.Item(id_, video, label=label)


def missing_frames(path: str, wanted: int = FRAMES) -> str:
  """What is wrong with a video's frames, as of one that was cut off; "": nothing is.

  Nothing is decoded.
  """
  try:
    with containers.readable():
      count = len(timelines.read(path).times_s)
  except containers.Undecodable as error:
    return outside.shown(error)
  return "" if count == wanted else f"{count} frames, and {wanted} are wanted"
