"""Short-term anticipation of Ego4D: what will be touched next, how, and when.

Layout, in <root> or <root>/v2, <root>/v1
  annotations/fho_sta_train.json      and val, test_unannotated; or beside the videos
  full_scale/<video_uid>.mp4          or clips/<clip_uid>.mp4, video_540ss/...
  object_frames/<video_uid>_<frame:07d>.jpg   in place of videos; or frames/

Of each query a video is given up to a frame; its objects are those that are
touched next, with boxes in pixels of the full-size frame, a noun, a verb, and
the seconds until the contact. How many nouns and verbs there are, and their ids,
the file says: those of v1 and v2 are others.

Objects whose box is empty or outside its frame are left out of "train"; of other
splits they count in the metric, and so stay, and are told. What has a class that
the file has not, or a time or box that are no numbers, is left out everywhere.

Grauman et al., "Ego4D", section F; formats as EGO4D/forecasting reads them.

Shapes: O objects of a query, T frames, H and W pixels.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import math
import os
import re
from typing import Any, TypeGuard

import numpy as np

from totojax.data.pixels import containers, images, numbered
from totojax.data.sources import files, items
from totojax.storage import objects, outside, reading

SPLITS = ("train", "val", "test_unannotated")
VIDEOS = ("full_scale", "clips", "video_540ss")
FRAMES = ("object_frames", "frames")
OTHERS = {
  "lta": "long-term anticipation",
  "hands": "prediction of hands",
  "scod": "detection of what changes",
  "oscc-pnr": "classification of changes",
  "main": "all annotations of hands and objects",
}
MOST_VALUES = 2**25  # of the JSON; v2's training split may have some millions
_NAME = re.compile(r"fho_([a-z-]+)_(.+)\.json")
_MOST_PX, _MOST_FRAMES, _MOST_TTC_S = 2**16, 10**8, 3600.0
_RATIO = 0.03  # that a video's sides may differ from those of the annotations


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
  """A frame, and what will be touched after it; of the test split, no objects."""

  uid: str
  video: str  # its uid; queries of one are not independent
  frame: int  # number in the full video
  width_px: int  # of the full-size frame, that boxes are in
  height_px: int
  fps: float
  boxes: np.ndarray  # float32 [O, 4], x1 y1 x2 y2
  nouns: np.ndarray  # int32 [O], index into `Annotations.nouns`
  verbs: np.ndarray  # int32 [O], index into `Annotations.verbs`
  ttc_s: np.ndarray  # float32 [O]
  path: str = ""  # a video file, or what the names of frames begin with; "": not looked for
  place: int = 0  # the frame's number in that file
  is_video: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
  """What a file of annotations holds."""

  path: str
  split: str
  nouns: tuple[str, ...]  # in the file's order
  verbs: tuple[str, ...]
  noun_ids: tuple[int, ...]  # as results name them
  verb_ids: tuple[int, ...]
  queries: tuple[Query, ...]  # in the file's order
  uids: tuple[str, ...]  # of all that results must have, in the file's order
  missing: tuple[items.Skipped, ...]  # queries, and objects "<uid>/object 2", with the reason
  told: tuple[str, ...]  # what is kept though it looks wrong, a line for each kind

  def digest(self) -> str:
    """Of all that is asked and true, however the file is written."""
    state = hashlib.sha256(repr((self.split, self.nouns, self.verbs, self.uids)).encode())
    for query in self.queries:
      facts = (query.uid, query.video, query.frame, query.width_px, query.height_px, query.fps)
      state.update(repr(facts).encode())
      for array in (query.boxes, query.nouns, query.verbs, query.ttc_s):
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:32]


def read(
  root: str, split: str, *, annotations: str | None = None, media: str | None = ""
) -> Annotations:
  """Annotations of a split, with the files of its videos.

  Args:
    root: the folder that was given to the downloader, or a version in it.
    split: one of `SPLITS`.
    annotations: the file; None: fho_sta_<split>.json of the root.
    media: a folder of videos or of frames, in the root or anywhere; "": the first
      of `VIDEOS` and `FRAMES` that is there; None: none is looked for, and
      `clip` gives nothing.

  Raises:
    ValueError: the file is none of this task or split, or no query is left; names it.
  """
  if split not in SPLITS:
    raise ValueError(f"split is {split!r}; short-term anticipation has {', '.join(SPLITS)}")
  bases = [reading.join(root, version) if version else root for version in ("", "v2", "v1")]
  path = annotations if annotations is not None else _found(bases, split)
  _check_name(path, split)
  try:
    value = outside.parse(path, reading.load(path), finite=False, most=MOST_VALUES)
  except OSError as error:
    raise ValueError(f"{path} cannot be read: {error}") from error
  _check_kind(path, value)
  disk = None if media is None else _Disk(_folder(bases, path, media))
  reader = _Reader(path, split, value, disk)
  for number, entry in enumerate(value["annotations"]):
    reader.take(number, entry)
  if not reader.queries:
    example = f"; {reader.missing[0].id:.100}: {reader.missing[0].reason:.400}"
    raise ValueError(
      f"{path} has no query that can be used ({len(reader.missing)} are left out"
      f"{example if reader.missing else ''}); check the file, and the folder of videos"
    )
  (nouns, noun_ids), (verbs, verb_ids) = reader.classes
  return Annotations(
    path,
    split,
    nouns=nouns,
    verbs=verbs,
    noun_ids=tuple(noun_ids),
    verb_ids=tuple(verb_ids),
    queries=tuple(reader.queries),
    uids=tuple(reader.uids),
    missing=tuple(reader.missing),
    told=tuple(f"{count} {what}, as {example}" for what, (count, example) in reader.told.items()),
  )


def _found(bases: list[str], split: str) -> str:
  """The file of a split.

  Raises:
    ValueError: there is none; names those of other tasks that are there.
  """
  folders = [folder for base in bases for folder in (reading.join(base, "annotations"), base)]
  candidates = [reading.join(folder, f"fho_sta_{split}.json") for folder in folders]
  for path in candidates:
    if reading.exists(path):
      return path
  others = [
    reading.join(folder, name)
    for folder in folders
    if reading.is_folder(folder)
    for name in files.names(folder)
    if _NAME.fullmatch(name)
  ]
  there = f"; there is {others[0]}, which is another file" if others else ""
  raise ValueError(
    f"no annotations of short-term anticipation; looked for {', '.join(candidates)}{there}"
  )


def _check_name(path: str, split: str) -> None:
  """Raises ValueError for a file whose name says another task or split."""
  name = _NAME.fullmatch(os.path.basename(path))
  task = name[1] if name else "sta"
  if task in OTHERS:
    raise ValueError(
      f"{path} is of {OTHERS[task]} (fho_{task}); short-term anticipation is fho_sta_{split}.json"
    )
  if name and task == "sta" and name[2] in SPLITS and name[2] != split:
    raise ValueError(f"{path} is of the split {name[2]!r}, and {split!r} is wanted; give its file")


def _check_kind(path: str, value: Any) -> None:
  """Raises ValueError for what is no file of short-term anticipation."""
  wanted = "short-term anticipation has annotations, noun_categories, verb_categories and info"
  if not isinstance(value, Mapping):
    raise ValueError(f"{path} holds no JSON object; {wanted}")
  if "annotations" not in value and "clips" in value:
    raise ValueError(
      f"{path} has clips and no annotations, as long-term anticipation, hands and changes have"
      f" (fho_lta, fho_hands, fho_scod, fho_oscc-pnr); {wanted}: take fho_sta_*.json"
    )
  if "images" in value and "categories" in value:
    raise ValueError(f"{path} has images and categories, as COCO's detection has; {wanted}")
  for name in ("annotations", "noun_categories", "verb_categories"):
    if not isinstance(value.get(name), list):
      raise ValueError(f"{path} has no list {name}; {wanted}")


def _folder(bases: list[str], path: str, media: str) -> str:
  """The folder of videos or frames; that of the annotations' own version rather than another's."""
  near = os.path.dirname(path)
  own = os.path.dirname(near) if os.path.basename(near) == "annotations" else near
  bases = sorted(bases, key=lambda base: os.path.normpath(base) != os.path.normpath(own))
  names = [media] if media else [*VIDEOS, *FRAMES]
  folders = [reading.join(base, name) for base in bases for name in names]
  for folder in (*folders, *([media] if media else [])):
    if reading.is_folder(folder):
      return folder
  raise ValueError(f"no folder of videos or frames; looked for {', '.join(folders)}")


class _Disk:
  """Videos by uid, or frames by name."""

  def __init__(self, folder: str):
    self.folder = folder
    self.by_clip = os.path.basename(os.path.normpath(folder)) == "clips"
    self._videos = files.by_stem(folder, "video")
    self._frames = set() if self._videos else set(files.names(folder))

  def find(self, entry: Mapping[str, Any], video: str, frame: int) -> tuple[str, int, bool]:
    """What begins the path of a query, its place there, and whether it is a video.

    Raises:
      ValueError: it is not there.
    """
    if not self._videos:
      name = f"{video}_{frame:07d}.jpg"
      if name not in self._frames:
        raise ValueError(f"{reading.join(self.folder, name)} does not exist")
      return reading.join(self.folder, video), frame, False
    name, place = (
      (entry.get("clip_uid"), entry.get("clip_frame")) if self.by_clip else (video, frame)
    )
    if not isinstance(name, str) or not _is_whole(place, _MOST_FRAMES):
      raise ValueError(
        f"clip_uid {name!r:.80} and clip_frame {place!r:.80} name no frame of a clip"
      )
    if name not in self._videos:
      raise ValueError(f"no video {name!r:.100} below {self.folder}")
    return self._videos[name], place, True


class _Reader:
  """Annotations on their way to queries."""

  def __init__(self, path: str, split: str, value: Mapping[str, Any], disk: _Disk | None):
    self._path, self._split, self._disk = path, split, disk
    self.classes = [_categories(path, value, what) for what in ("noun", "verb")]
    info = value.get("info")
    known = info.get("video_metadata") if isinstance(info, Mapping) else None
    known = value.get("videos") if known is None else known
    if not isinstance(known, Mapping):
      raise ValueError(f"{path} has no info.video_metadata with each video's fps and size")
    self._videos = known
    self._lengths_s: dict[str, float | str] = {}
    self.queries: list[Query] = []
    self.uids: list[str] = []
    self._seen: set[str] = set()
    self.missing: list[items.Skipped] = []
    self.told: dict[str, tuple[int, str]] = {}

  def take(self, number: int, entry: Any) -> None:
    """One annotation: a query, or why there is none."""
    uid = entry.get("uid") if isinstance(entry, Mapping) else None
    if not isinstance(uid, str) or not uid or not uid.isprintable() or len(uid) > 255:
      self.missing.append(items.Skipped(f"annotation {number}", f"its uid is {uid!r:.80}"))
      return
    if uid in self._seen:
      self.missing.append(items.Skipped(uid, f"annotation {number} has the uid of one before"))
      return
    self._seen.add(uid)
    self.uids.append(uid)
    try:
      self.queries.append(self._query(uid, entry))
    except ValueError as error:
      self.missing.append(items.Skipped(uid, outside.shown(error)))

  def _query(self, uid: str, entry: Mapping[str, Any]) -> Query:
    video = entry.get("video_uid", entry.get("video_id"))
    if not isinstance(video, str):
      raise ValueError(f"its video is {video!r:.80} (video_uid, or video_id)")
    outside.check_name(self._path, video)
    frame = entry.get("frame")
    if not _is_whole(frame, _MOST_FRAMES):
      raise ValueError(f"its frame is {frame!r:.80}; it should be a number from 0 on")
    about = self._videos.get(video)
    if not isinstance(about, Mapping):
      raise ValueError(f"its video {video} is not among the file's (info.video_metadata)")
    fps, width_px, height_px = (about.get(key) for key in ("fps", "frame_width", "frame_height"))
    if not _is_number(fps) or not 0 < fps <= 1000:
      raise ValueError(f"its video {video} has fps {fps!r:.80}")
    if not (_is_whole(width_px, _MOST_PX, 1) and _is_whole(height_px, _MOST_PX, 1)):
      raise ValueError(f"its video {video} has the size {width_px!r:.80} x {height_px!r:.80}")
    count = about.get("num_frames")
    if _is_whole(count, _MOST_FRAMES) and frame >= count:
      raise ValueError(f"its frame {frame} is beyond the {count} frames of {video}")
    path, place, is_video = self._media(entry, video, frame, float(fps))
    size = width_px, height_px
    boxes, nouns, verbs, ttc_s = self._objects(uid, entry, *size)
    truth = boxes, nouns, verbs, ttc_s
    return Query(uid, video, frame, *size, float(fps), *truth, path, place, is_video)

  def _media(
    self, entry: Mapping[str, Any], video: str, frame: int, fps: float
  ) -> tuple[str, int, bool]:
    if self._disk is None:
      return "", frame, True
    path, place, is_video = self._disk.find(entry, video, frame)
    if is_video:
      length_s = self._length_s(path)
      # Headers may be a little off; `clip` counts.
      if length_s and place > round(length_s * fps):
        raise ValueError(f"its frame {place} is beyond the end of {path} ({length_s:.2f} s)")
    return path, place, is_video

  def _length_s(self, path: str) -> float:
    """By the header; raises ValueError where the file is no video."""
    if path not in self._lengths_s:
      try:
        self._lengths_s[path] = containers.header_s(path)
      except containers.Undecodable as error:
        self._lengths_s[path] = f"{path}: {outside.shown(error)}"
    length_s = self._lengths_s[path]
    if isinstance(length_s, str):
      raise ValueError(length_s)
    return length_s

  def _objects(
    self, uid: str, entry: Mapping[str, Any], width_px: int, height_px: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, nouns, verbs and times of what can be used; the others are named.

    Raises:
      ValueError: none can, and the split is one that has them.
    """
    given = entry.get("objects")
    if given is None and self._split == "test_unannotated":
      given = []
    elif not isinstance(given, list) or not given:
      raise ValueError("it has no objects")
    rows = []
    for number, one in enumerate(given):
      try:
        rows.append(self._object(uid, one, width_px, height_px))
      except ValueError as error:
        self.missing.append(items.Skipped(f"{uid}/object {number}", outside.shown(error)))
    if given and not rows:
      raise ValueError(f"none of its {len(given)} objects can be used")
    boxes, nouns, verbs, ttc_s = zip(*rows) if rows else ((), (), (), ())
    return (
      np.array(boxes, np.float32).reshape(-1, 4),
      np.array(nouns, np.int32),
      np.array(verbs, np.int32),
      np.array(ttc_s, np.float32),
    )

  def _object(
    self, uid: str, one: Any, width_px: int, height_px: int
  ) -> tuple[list[float], int, int, float]:
    if not isinstance(one, Mapping):
      raise ValueError(f"it is {one!r:.80}, and no object")
    labels = []
    for what, (_, places) in zip(("noun", "verb"), self.classes):
      id_ = one.get(f"{what}_category_id")
      if type(id_) is not int or id_ not in places:
        raise ValueError(f"{what}_category_id {id_!r:.80} is none of {what}_categories")
      labels.append(places[id_])
    ttc_s, box = one.get("time_to_contact"), one.get("box")
    if not _is_number(ttc_s) or not 0 <= ttc_s <= _MOST_TTC_S:
      raise ValueError(f"time_to_contact {ttc_s!r:.80} is no time from 0 s on")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
      raise ValueError(f"box {box!r:.80} is not four numbers")
    x1, y1, x2, y2 = box = [float(v) for v in box]
    if max(map(abs, box)) > 2 * _MOST_PX:
      raise ValueError(f"box {box} is no place in a frame of {width_px} x {height_px}")
    wrong = ""
    if x2 <= x1 or y2 <= y1:
      wrong = "boxes are empty"
    elif x2 <= 0 or y2 <= 0 or x1 >= width_px or y1 >= height_px:
      wrong = "boxes are outside their frame"
    if wrong and self._split == "train":
      raise ValueError(f"box {box} in a frame of {width_px} x {height_px}: {wrong}")
    if not wrong and (min(x1, y1) < 0 or x2 > width_px or y2 > height_px):
      wrong = "boxes reach beyond their frame"
    if wrong:
      count, example = self.told.get(wrong, (0, f"{box} of {width_px} x {height_px} in {uid}"))
      self.told[wrong] = count + 1, example
    return box, labels[0], labels[1], float(ttc_s)


def _is_whole(value: Any, most: int, least: int = 0) -> TypeGuard[int]:
  return type(value) is int and least <= value <= most


def _is_number(value: Any) -> TypeGuard[float]:
  return type(value) in (int, float) and math.isfinite(value)


def _categories(
  path: str, value: Mapping[str, Any], what: str
) -> tuple[tuple[str, ...], dict[int, int]]:
  """Names of the nouns or verbs, and id -> place among them, in the file's order."""
  names, places = [], {}
  for row in value[f"{what}_categories"]:
    id_, name = (row.get("id"), row.get("name")) if isinstance(row, Mapping) else (None, None)
    if not _is_whole(id_, 2**31) or not isinstance(name, str) or not name.isprintable() or not name:
      raise ValueError(f"{path}: {what}_categories has {row!r:.80}, and not an id and a name")
    if id_ in places:
      raise ValueError(f"{path}: {what}_categories has the id {id_} twice")
    places[id_] = len(names)
    names.append(name)
  if not names:
    raise ValueError(f"{path}: {what}_categories is empty")
  return tuple(names), places


def clip(query: Query, frames: int, stride: int, *, height_px: int = 0) -> np.ndarray:
  """Frames up to the query's, which is the last one, uint8 [T, H, W, 3].

  Frame t is number `frame - (T - 1 - t) stride` of the video; before its begin, 0.

  Args:
    query: of `read`.
    frames: T.
    stride: from one frame to the next.
    height_px: that frames are scaled to, antialiased; 0: as they are, which may be
      less than the full size that boxes are in, in files that were made smaller.

  Raises:
    ValueError: a frame is missing, damaged, or of another shape than the
      annotations say; names query and file.
    ImportError: PyAV is missing, and it is a video.
  """
  if frames < 1 or stride < 1:
    raise ValueError(f"frames is {frames} and stride {stride}; both must be 1 or more")
  if not query.path:
    raise ValueError(f"{query.uid}: its video was not looked for; read it with a folder of media")
  places = [max(query.place - back * stride, 0) for back in range(frames - 1, -1, -1)]
  wanted, prepare = sorted({*places}), numbered.Height(height_px, "bicubic")
  try:
    if query.is_video:
      found = numbered.of_video(query.path, wanted, fps=query.fps, prepare=prepare)
    else:
      paths = {place: f"{query.path}_{place:07d}.jpg" for place in wanted}
      found = numbered.of_images(paths, prepare=prepare)
  except (containers.Undecodable, images.Unreadable, OSError, objects.StoreError) as error:
    raise ValueError(f"{query.uid}: {query.path}: {outside.shown(error)}") from error
  shapes = {found[place].shape for place in wanted}
  height, width = next(iter(shapes))[:2]
  ratio = (width / height) / (query.width_px / query.height_px)
  if len(shapes) > 1 or not 1 - _RATIO < ratio < 1 + _RATIO:
    raise ValueError(
      f"{query.uid}: {query.path} has frames of {width} x {height} pixels, and the annotations"
      f" {query.width_px} x {query.height_px}; they must have one ratio"
    )
  return np.stack([found[place] for place in places])
