"""Sets of videos of which some cannot be: IntPhys, IntPhys 2, GRASP, InfLevel, or a CSV.

Layouts
  IntPhys       [dev/]<O1|O2|O3>/<scene>/<1..4>/scene/*.png and status.json beside,
                with header.is_possible; which two are a pair, their frames say
  IntPhys test  task.txt, a task on each line; [test/]<task[:7]><task[-2:]>/scene/*.png
  IntPhys 2     metadata.csv (name, SceneIndex, type, condition, env), Videos/<name>.mp4
  GRASP         [level2/]P_<property>/<n>.mp4, and IP_<property>/<the same name>
  InfLevel      [<continuity|gravity|solidity>/]<camera>__<category>__<cover>__<object>__
                <type>__<direction>.mp4; with a list, a CSV whose rows are pairs
                (vid1_path, vid1_start_priming_1, ..., vid2_label), what is before
                the end of the second priming is left out
  CSV           path, group, label (possible or impossible), and, if they are there,
                pair and kind. A path is a video file or a folder of frames

A group is what a data set shows once: the videos of a scene.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
from typing import Any

from totojax.data.sources import files, items
from totojax.rundir import console
from totojax.storage import outside, reading

BLOCKS = {"O1": "object permanence", "O2": "shape constancy", "O3": "continuity"}
CONDITIONS = {
  "permanence": "Permanence",
  "immutability": "Immutability",
  "immutability_texture": "Immutability",
  "continuity": "Continuity",
  "continuity_swap": "Continuity",
  "solidity": "Solidity",
}
DIFFICULTIES = {
  "Easy": ("BasicLevel_0",),
  "Medium": ("SaltFlats_0", "DesertMap_0", "RaceTrack_0", "TropicalIsland_0"),
  "Hard": ("PLVDaylight_0", "Egypt_0", "RuralAustralia03_0", "ParkingGarage_0", "None"),
}
# InfLevel-lab's types by part; first the possible ones.
TYPES = {
  "continuity": (("vv", "ii"), ("iv", "vi")),
  "gravity": (("ui", "cv"), ("uv", "ci")),
  "solidity": (("ui", "cv"), ("uv", "ci")),
}
STEPS = {"intphys": 2, "intphys_test": 2, "grasp": 10, "inflevel": 5, "intphys2": 10}
_TASK = 7, 2  # letters of a task that are its folder's, at both ends
_FRAMES_OF_INFLEVEL = ("start_priming_1", "end_priming_1", "start_priming_2", "end_priming_2")
_MOST_FRAMES = 10_000_000


@dataclasses.dataclass(frozen=True)
class Video:
  """One video, before anything is decoded."""

  id: str
  path: str  # a file, or a folder of frames
  is_possible: bool | None  # None: not known
  pair: str  # the same for the two of a pair; "": frames say which they are
  first: int = 0  # frames before it are left out
  at_end: bool = False  # whether the two of a pair end together, whatever their lengths


@dataclasses.dataclass(frozen=True)
class Group:
  """The videos of a scene."""

  id: str
  kinds: tuple[str, ...]  # what is told of it apart: its property, its difficulty
  videos: tuple[Video, ...]


def list_groups(
  name: str, root: str, list_path: str = ""
) -> tuple[list[Group], list[items.Skipped]]:
  """(groups in order, what is incomplete) of a data set.

  Args:
    name: of `config.surprise.SETS`, but for "rendered".
    root: its folder.
    list_path: of a CSV, or InfLevel's pairs; "": none.

  Raises:
    ValueError: there is no such folder, nothing in it, or a table that says
      something else than those of the data set.
  """
  entries = {
    "intphys": _intphys,
    "intphys_test": _intphys_test,
    "intphys2": _intphys2,
    "grasp": _grasp,
    "inflevel": _inflevel,
    "csv": _csv,
  }[name](root, list_path)
  groups, skipped = [], []
  for entry in entries:
    if isinstance(entry, Group) and (reason := _incomplete(entry)):
      entry = items.Skipped(entry.id, reason)
    (groups if isinstance(entry, Group) else skipped).append(entry)
  if not groups:
    example = f"; {skipped[0].id:.200}: {skipped[0].reason:.400}" if skipped else ""
    raise ValueError(
      f"{list_path or root} holds no group of videos of {name} ({len(skipped)} are"
      f" incomplete{example}); check data.set and data.root"
    )
  return groups, skipped


def _incomplete(group: Group) -> str:
  """Why a group cannot be scored; "": it can."""
  known = {video.is_possible for video in group.videos}
  if None in known:
    return ""
  if known != {True, False}:
    return "it needs a possible video and an impossible one"
  pairs: dict[str, list[bool | None]] = {}
  for video in group.videos:
    pairs.setdefault(video.pair, []).append(video.is_possible)
  if "" in pairs:
    if set(pairs) != {""} or sorted(map(bool, pairs[""])) != [False, False, True, True]:
      return (
        f"{len(group.videos)} videos without a pair; name pairs, or give two possible and two"
        " impossible videos"
      )
    return ""
  wrong = [name for name, two in pairs.items() if sorted(map(bool, two)) != [False, True]]
  return f"pair {wrong[0]!r:.80} is not one possible and one impossible video" if wrong else ""


Entries = Iterator[Group | items.Skipped]


def _top(root: str, below: str) -> str:
  """The folder `below` in a root, or the root itself where there is none."""
  folder = reading.join(root, below)
  return folder if reading.is_folder(folder) else root


def _intphys(root: str, list_path: str) -> Entries:
  del list_path
  top = _top(root, "dev")
  for block in (name for name in files.folders(top) if name in BLOCKS):
    for scene in files.folders(reading.join(top, block)):
      folder, videos = reading.join(reading.join(top, block), scene), []
      group = f"{block}/{scene}"
      try:
        for number in files.folders(folder):
          path = reading.join(folder, number)
          videos.append(Video(f"{group}/{number}", reading.join(path, "scene"), _status(path), ""))
      except ValueError as error:
        yield items.Skipped(group, outside.shown(error))
        continue
      if len(videos) != 4:
        yield items.Skipped(group, f"{len(videos)} videos; a scene of IntPhys has 4")
        continue
      yield Group(group, (f"{block} {BLOCKS[block]}",), tuple(videos))


def _status(folder: str) -> bool:
  """Whether a video of IntPhys is possible; a missing file says nothing, so it is an error."""
  path = reading.join(folder, "status.json")
  value = files.read_json(path)
  header = value.get("header") if isinstance(value, Mapping) else None
  possible = header.get("is_possible") if isinstance(header, Mapping) else None
  if not isinstance(possible, bool):
    raise ValueError(f"{path} has no header.is_possible that is true or false")
  return possible


def _intphys_test(root: str, list_path: str) -> Entries:
  del list_path
  path = reading.join(root, "task.txt")
  top, seen = _top(root, "test"), set()
  for number, line in files.lines(path):
    task = line.strip()
    begin, end = _TASK
    below = task[:begin] + task[-end:]
    steps = below.split("/")
    wrong = len(task) < begin + end or not task.isprintable() or "\\" in task
    if wrong or " " in task or {"", ".", ".."} & {*steps}:
      raise ValueError(f"{path}, line {number}: {task!r:.80} is no task of IntPhys, as O1/0001/1")
    if task in seen:
      raise ValueError(f"{path}, line {number}: task {task!r:.80} is there twice")
    seen.add(task)
    folder = reading.join(reading.join(top, below), "scene")
    yield Group(items.name(task), (), (Video(items.name(task), folder, None, ""),))


def _intphys2(root: str, list_path: str) -> Entries:
  del list_path
  path = reading.join(root, "metadata.csv")
  rows = files.table(path, ("name", "SceneIndex", "type", "condition", "env"))
  folder = reading.join(root, "Videos")
  disk, scenes = files.by_stem(folder, "video"), {}
  for row in rows:
    scenes.setdefault(row["SceneIndex"], []).append(row)
  levels = {env: level for level, envs in DIFFICULTIES.items() for env in envs}
  for scene, rows_of in scenes.items():
    videos, group, missing = [], f"scene {items.name(scene)}", ""
    for row in rows_of:
      where = f"{path}, line {row['line']}"
      name = outside.check_name(path, row["name"])
      # In this order: of both words it is the longer one.
      kind = next((kind for kind in ("Impossible", "Possible") if kind in row["type"]), "")
      if not kind:
        raise ValueError(f"{where}: type {row['type']!r:.80} is neither Possible nor Impossible")
      pair = row["type"].replace(kind, "").strip("_ ")
      missing = missing or ("" if name in disk else f"{folder} has no video {name}")
      videos.append(
        Video(items.name(name), disk.get(name, ""), kind == "Possible", pair or "the only one")
      )
    if missing:
      yield items.Skipped(group, missing)
      continue
    first = rows_of[0]
    condition = CONDITIONS.get(first["condition"], items.name(first["condition"]))
    level = levels.get(first["env"], items.name(first["env"]))
    yield Group(group, (condition, level), tuple(videos))


def _grasp(root: str, list_path: str) -> Entries:
  del list_path
  top = _top(root, "level2")
  folders = files.folders(top)
  for possible in (name for name in folders if name.startswith("P_")):
    kind = possible[2:]
    sides = []
    for name in (possible, f"IP_{kind}"):
      folder = reading.join(top, name)
      paths = files.walk(folder, files.suffixes("video")) if name in folders else ()
      sides.append({os.path.basename(path): path for path in paths})
    for name in sorted(set(sides[0]) | set(sides[1])):
      group = items.name(f"{kind}/{name}")
      if not all(name in side for side in sides):
        yield items.Skipped(group, f"it is not in both P_{kind} and IP_{kind}")
        continue
      yield Group(
        group,
        (items.name(kind),),
        (
          Video(items.name(f"P_{kind}/{name}"), sides[0][name], True, name),
          Video(items.name(f"IP_{kind}/{name}"), sides[1][name], False, name),
        ),
      )


def _inflevel_name(path: str) -> tuple[str, str] | None:
  """(name but for its type, type) of a file of InfLevel-lab; None: it is none."""
  parts = files.stem(path).split("__")
  if len(parts) != 6:
    return None
  return "__".join([*parts[:4], *parts[5:]]), parts[4]


def _inflevel(root: str, list_path: str) -> Entries:
  if list_path:
    yield from _inflevel_pairs(root, list_path)
    return
  parts = [part for part in TYPES if reading.is_folder(reading.join(root, part))]
  if not parts:
    raise ValueError(f"{root} has none of the folders {', '.join(TYPES)}; give InfLevel's folder")
  for part in parts:
    scenes: dict[str, dict[str, str]] = {}
    for path in files.walk(reading.join(root, part), files.suffixes("video")):
      if named := _inflevel_name(path):
        scenes.setdefault(named[0], {})[named[1]] = path
    possible, impossible = TYPES[part]
    for scene, paths in sorted(scenes.items()):
      group = items.name(f"{part}/{scene}")
      if lacking := [kind for kind in (*possible, *impossible) if kind not in paths]:
        yield items.Skipped(group, f"no video of type {', '.join(lacking)}")
        continue
      videos = [
        Video(items.name(f"{part}/{os.path.basename(paths[kind])}"), paths[kind], is_p, pair)
        for kinds, is_p in ((possible, True), (impossible, False))
        for kind, pair in zip(kinds, "12")
      ]
      yield Group(group, (part,), tuple(videos))


def _inflevel_pairs(root: str, list_path: str) -> Entries:
  columns = ("path", *_FRAMES_OF_INFLEVEL, "label")
  needed = [f"vid{n}_{column}" for n in (1, 2) for column in columns]
  groups: dict[tuple[str, str], list[Video]] = {}
  for row in files.table(list_path, needed):
    where, two = f"{list_path}, line {row['line']}", []
    for n in (1, 2):
      path = row[f"vid{n}_path"]
      first = _frame(row[f"vid{n}_end_priming_2"], where) + 1
      possible = _label(row[f"vid{n}_label"], where)
      name = items.name(f"{path} (line {row['line']})")
      file = reading.join(root, path)
      two.append(Video(name, file, possible, f"line {row['line']}", first, at_end=True))
    path = row["vid1_path"]
    named = _inflevel_name(path)
    part = next((part for part in TYPES if part in path.split("/")), "")
    scene = named[0] if named else f"line {row['line']}"
    groups.setdefault((part, scene), []).extend(two)
  for (part, scene), videos in groups.items():
    group = items.name(f"{part}/{scene}".lstrip("/"))
    yield _present(Group(group, (part,) if part else (), tuple(videos)))


def _frame(text: str, where: str) -> int:
  """A number of a frame; pandas writes whole numbers as 12.0."""
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not (0 <= value <= _MOST_FRAMES and value == int(value)):
    raise ValueError(f"{where}: {text!r:.80} is no number of a frame")
  return int(value)


_LABELS = {"possible": True, "impossible": False, "1": True, "0": False}


def _label(text: str, where: str) -> bool:
  if text.lower() not in _LABELS:
    raise ValueError(f"{where}: label {text!r:.80} is neither possible (1) nor impossible (0)")
  return _LABELS[text.lower()]


def _csv(root: str, list_path: str) -> Entries:
  groups: dict[str, list[Video]] = {}
  kinds: dict[str, str] = {}
  seen: dict[str, Any] = {}
  for row in files.table(list_path, ("path", "group", "label")):
    where = f"{list_path}, line {row['line']}"
    if not row["path"] or not row["group"]:
      raise ValueError(f"{where}: path or group is empty")
    if row["path"] in seen:
      raise ValueError(f"{where}: {row['path']!r:.200} is on line {seen[row['path']]} too")
    seen[row["path"]] = row["line"]
    group, file = row["group"], reading.join(root, row["path"])
    possible = _label(row["label"], where)
    pair = row.get("pair") or ""
    groups.setdefault(group, []).append(Video(items.name(row["path"]), file, possible, pair))
    kind = row.get("kind") or ""
    if kinds.setdefault(group, kind) != kind:
      raise ValueError(
        f"{where}: group {group!r:.80} has the kinds {kinds[group]!r:.80} and others"
      )
  for name, videos in groups.items():
    if len(videos) == 2 and not any(video.pair for video in videos):
      videos = [dataclasses.replace(video, pair="the only one") for video in videos]
    kind = (items.name(kinds[name]),) if kinds[name] else ()
    yield _present(Group(items.name(name), kind, tuple(videos)))


def _present(group: Group) -> Group | items.Skipped:
  """A group of files that a list names, or which of them is missing."""
  missing = [video.path for video in group.videos if not reading.exists(video.path)]
  return items.Skipped(group.id, f"{items.name(missing[0])} does not exist") if missing else group


def frames_of(folder: str) -> Sequence[str]:
  """Paths of the frames in a folder, by name.

  Raises:
    ValueError: there is none.
  """
  endings = files.suffixes("image")
  found = [name for name in files.names(folder) if files.suffix(name) in endings]
  if not found:
    raise ValueError(f"{folder} holds no frames")
  return [reading.join(folder, name) for name in found]


def tell(groups: Sequence[Group], skipped: Sequence[items.Skipped]) -> None:
  """How many there are, on the console."""
  videos = sum(len(group.videos) for group in groups)
  more = f"; {len(skipped)} incomplete groups are left out" if skipped else ""
  console.say(f"{len(groups):,} groups, {videos:,} videos{more}")
