"""Annotated videos that are tracked through: DAVIS, JHMDB and VIP, as they lie on disk.

  DAVIS  ImageSets/<year>/<split>.txt, JPEGImages/480p/<sequence>/00000.jpg, and
         Annotations/480p/<sequence>/00000.png (of DAVIS-2016 the lists may lie in
         ImageSets/480p, with paths of frames and masks)
  JHMDB  splits/<class>_test_split1.txt (lines "<video>.avi 2"),
         Rename_Images/<class>/<video>/00001.png, and
         joint_positions/<class>/<video>/joint_positions.mat
  VIP    lists/<split>_videos.txt, Images/<video>/<frame>.jpg, and
         Annotations/Category_ids/<video>/<frame>.png

Whatever is not as it should be is an error that says which file.

Shapes: T frames, H and W pixels, J joints.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import io
import re

import numpy as np

from totojax.data.pixels import images, label_images
from totojax.data.sources import files
from totojax.storage import outside, reading

SETS = ("davis", "jhmdb", "vip")
VOID = 255  # pixels of no object (DAVIS-2017) or class (VIP)
JOINTS = (
  "neck belly face right-shoulder left-shoulder right-hip left-hip right-elbow left-elbow"
  " right-knee left-knee right-wrist left-wrist right-ankle left-ankle"
).split()
PARTS = (
  "background hat hair sun-glasses upper-clothes dress coat socks pants gloves scarf skirt"
  " torso-skin face right-arm left-arm right-leg left-leg right-shoe left-shoe"
).split()
_MOST_OBJECTS = 32  # of a sequence; DAVIS has up to 10
_MOST_FRAMES = 10_000
_MAT_BYTES = 2**20
_NUMBER = re.compile(r"\d{1,9}")
_TEST = "2"  # of JHMDB's lists


@dataclasses.dataclass(frozen=True)
class Track:
  """A video and the files that its annotations are in; nothing of them is read yet."""

  name: str
  frames: tuple[str, ...]  # paths, in order
  truth: tuple[str, ...]  # of label images as many as frames, of JHMDB one file


def listed(
  name: str, root: str, *, split: str, year: int = 2017, resolution: str = "480p", names: str = ""
) -> list[Track]:
  """The sequences of a data set.

  Args:
    name: one of `SETS`.
    root: its folder.
    split: of its lists: "val", or "1" to "3" of JHMDB.
    year: of DAVIS: 2017 or 2016.
    resolution: of DAVIS: the folder of frames and masks.
    names: file of the sequences in place of the data set's list; a path below
      the root, or any other; "": its own.

  Raises:
    ValueError: a folder, a list, a frame or an annotation is missing.
  """
  if not reading.is_folder(root):
    raise ValueError(f"{root} is no folder; give the folder of {name}")
  if name == "jhmdb":
    found = _jhmdb(root, split, names)
  else:
    folders = _davis(root, year, resolution) if name == "davis" else _vip(root)
    own = _davis_lists(split, year) if name == "davis" else (f"lists/{split}_videos.txt",)
    found = [
      _of_images(one, [reading.join(folder, one) for folder in folders])
      for one in _names(root, names, own)
    ]
  tracks = [one for one in found if isinstance(one, Track)]
  wrong = [one for one in found if isinstance(one, str)]
  if wrong:
    raise ValueError(f"{len(wrong)} of {len(found)} sequences are not whole; the first: {wrong[0]}")
  if not tracks:
    raise ValueError(f"{root}: its list names no sequence; give another data.list")
  return tracks


def _davis(root: str, year: int, resolution: str) -> tuple[str, str]:
  """Folders of frames and of masks."""
  if not reading.is_folder(reading.join(root, "Annotations")):
    others = [name for name in files.names(root) if name.startswith("Annotations_")]
    if others:
      raise ValueError(
        f"{root} has {others[0]} and no Annotations: the unsupervised set has other objects; give"
        " the folder of the semi-supervised one (DAVIS-2017-trainval)"
      )
  found = []
  for kind in ("JPEGImages", "Annotations"):
    folder = reading.join(reading.join(root, kind), resolution)
    if not reading.is_folder(folder):
      raise ValueError(
        f"{folder} does not exist; data.root is the folder that holds ImageSets, JPEGImages and"
        f" Annotations of DAVIS-{year}, each with {resolution} (data.resolution)"
      )
    found.append(folder)
  return found[0], found[1]


def _davis_lists(split: str, year: int) -> tuple[str, ...]:
  own = (f"ImageSets/{year}/{split}.txt",)
  return (*own, f"ImageSets/480p/{split}.txt") if year == 2016 else own


def _vip(root: str) -> tuple[str, str]:
  found = []
  for kind in ("Images", "Annotations/Category_ids"):
    folder = reading.join(root, kind)
    if not reading.is_folder(folder):
      raise ValueError(
        f"{folder} does not exist; data.root is the folder that holds Images, Annotations and lists"
        " of VIP_Fine"
      )
    found.append(folder)
  return found[0], found[1]


def _names(root: str, given: str, own: Sequence[str]) -> list[str]:
  """Names of the sequences in a list, each once."""
  if given:
    below = reading.join(root, given)
    path = below if reading.exists(below) else given
    if not reading.exists(path):
      raise ValueError(f"data.list is {given!r}, and there is neither {below} nor {given}")
  else:
    there = [reading.join(root, one) for one in own if reading.exists(reading.join(root, one))]
    if not there:
      raise ValueError(
        f"{reading.join(root, own[0])} does not exist; name a list of sequences with data.list"
      )
    path = there[0]
  found = []
  for number, line in files.lines(path):
    name = line.split()[0]
    if name.startswith("/") and name.count("/") > 1:  # /JPEGImages/480p/<sequence>/00000.jpg
      name = name.split("/")[-2]
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
      raise ValueError(f"{path}, line {number}: {name!r:.80} is no name of a sequence")
    found.append(name)
  return list(dict.fromkeys(found))


def _numbered(folder: str, kind: str) -> dict[int, str]:
  """Number -> path of the images in a folder, in order of numbers.

  Raises:
    ValueError: two have one number.
  """
  found = {}
  for name in files.names(folder):
    stem = files.stem(name)
    if files.suffix(name) not in files.suffixes(kind) or not _NUMBER.fullmatch(stem):
      continue
    if int(stem) in found:
      raise ValueError(f"{reading.join(folder, name)} has the number of {found[int(stem)]}")
    found[int(stem)] = reading.join(folder, name)
  return dict(sorted(found.items()))


def _of_images(name: str, folders: Sequence[str]) -> Track | str:
  """Frames and label images of the same numbers; or what is wrong."""
  both = []
  for folder in folders:
    if not reading.is_folder(folder):
      return f"{name}: {folder} does not exist"
    try:
      both.append(_numbered(folder, "image"))
    except ValueError as error:
      return f"{name}: {error}"
  frames, truth = both
  if len(frames) < 2:
    return f"{name}: {folders[0]} holds {len(frames)} frames; tracking needs 2 and more"
  if lost := sorted({*truth} ^ {*frames}):
    where = folders[0] if lost[0] in truth else folders[1]
    return f"{name}: number {lost[0]} is missing in {where} ({len(lost)} numbers differ)"
  if "480p" in folders[0].split("/") and (gaps := sorted({*range(max(frames))} - {*frames})):
    return f"{name}: frame {gaps[0]:05d} is missing in {folders[0]} and its masks"
  return Track(name, tuple(frames.values()), tuple(truth.values()))


def _jhmdb(root: str, split: str, names: str) -> list[Track | str]:
  folder, wanted = reading.join(root, "splits"), f"_test_split{split}.txt"
  pairs = []
  if names:
    pairs = [(line.split("/")[0], line.split("/")[-1]) for line in _jhmdb_list(root, names)]
  elif not reading.is_folder(folder):
    raise ValueError(f"{folder} does not exist; data.root is the folder of JHMDB, with its splits")
  else:
    lists = [name for name in files.names(folder) if name.endswith(wanted)]
    if not lists:
      raise ValueError(f"{folder} holds no list *{wanted}")
    for name in lists:
      for number, line in files.lines(reading.join(folder, name)):
        video, _, part = line.strip().rpartition(" ")
        if part not in ("1", _TEST) or "/" in video or not video.endswith(".avi"):
          raise ValueError(
            f"{reading.join(folder, name)}, line {number}: {line!r:.80} is not '<video>.avi 1' or 2"
          )
        if part == _TEST:
          pairs.append((name.removesuffix(wanted), video.removesuffix(".avi")))
  return [_person(root, *pair) for pair in dict.fromkeys(pairs)]


def _jhmdb_list(root: str, names: str) -> list[str]:
  below = reading.join(root, names)
  path = below if reading.exists(below) else names
  out = []
  for number, line in files.lines(path):
    text = line.strip()
    if text.count("/") != 1 or {"", ".", ".."} & {*text.split("/")} or "\\" in text:
      raise ValueError(f"{path}, line {number}: {text!r:.80} is not '<class>/<video>'")
    out.append(text)
  return out


def _person(root: str, of: str, video: str) -> Track | str:
  name = f"{of}/{video}"
  path = reading.join(root, f"joint_positions/{name}/joint_positions.mat")
  folder = reading.join(root, f"Rename_Images/{name}")
  if not reading.exists(path):
    return f"{name}: {path} does not exist"
  if not reading.is_folder(folder):
    return f"{name}: {folder} does not exist"
  try:
    frames = _numbered(folder, "image")
  except ValueError as error:
    return f"{name}: {error}"
  if gaps := sorted({*range(1, len(frames) + 1)} - {*frames}):
    return f"{name}: frame {gaps[0]:05d} is missing in {folder}"
  if len(frames) < 2:
    return f"{name}: {folder} holds {len(frames)} frames; tracking needs 2 and more"
  return Track(name, tuple(frames.values()), (path,))


def frame(path: str) -> np.ndarray:
  """uint8 [H, W, 3].

  Raises:
    ValueError: it is no image; names it.
  """
  try:
    return images.read(reading.load(path), animated="refuse")
  except (images.Unreadable, OSError) as error:
    raise ValueError(f"{path}: {outside.shown(error)}") from error


def objects(track: Track, *, year: int) -> np.ndarray:
  """Masks of DAVIS, uint8 [T, H, W]: the object of each pixel from 1; 0 is none.

  Of 2017 pixels of 255 are of no object. Of 2016 all objects are one.

  Raises:
    ValueError: a mask is no label image, or of another year's set; names it.
  """
  masks_THW = _label_images(track)
  there = np.unique(masks_THW)
  ids = sorted({*there.tolist()} - {0, VOID})
  if ids and ids[-1] > _MOST_OBJECTS:
    raise ValueError(
      f"{track.truth[0]} and its like have object {ids[-1]}; are they masks of DAVIS?"
    )
  if year == 2016:
    found = masks_THW > 0 if not ids else (masks_THW > 0) & (masks_THW != VOID)
  elif not ids and VOID in there:
    raise ValueError(
      f"{track.truth[0]} and its like hold 0 and 255 alone, as DAVIS-2016 has them, and of 2017 255"
      " is no object: set data.year to 2016"
    )
  else:
    found = np.where(masks_THW == VOID, 0, masks_THW)
  found = found.astype(np.uint8)
  if not found[0].any():
    raise ValueError(f"{track.truth[0]} has no object; tracking starts from the first frame's")
  return found


def classes(track: Track) -> np.ndarray:
  """Classes of VIP, uint8 [T, H, W]; 255 is none.

  Raises:
    ValueError: an image has other numbers; names it.
  """
  labels_THW = _label_images(track)
  for path, labels_HW in zip(track.truth, labels_THW):
    wrong = [n for n in np.unique(labels_HW).tolist() if n >= len(PARTS) and n != VOID]
    if wrong:
      raise ValueError(f"{path} has class {wrong[0]}; VIP has 0 to {len(PARTS) - 1} and 255")
  return labels_THW


def _label_images(track: Track) -> np.ndarray:
  found = []
  for path in track.truth:
    try:
      found.append(label_images.read(reading.load(path)))
    except (images.Unreadable, OSError) as error:
      raise ValueError(f"{path}: {outside.shown(error)}") from error
    if found[-1].shape != found[0].shape:
      raise ValueError(
        f"{path} is {found[-1].shape} pixels and {track.truth[0]} {found[0].shape}; they must agree"
      )
  return np.stack(found)


def joints(track: Track) -> np.ndarray:
  """Places of joints of JHMDB in pixels from 0, float64 [2, J, T], x first.

  Raises:
    ValueError: the file is damaged or has something else, or there are fewer
      frames than places; names it.
  """
  import scipy.io  # slow, and of no other job

  (path,) = track.truth
  wanted = (2, len(JOINTS))
  data = outside.load(path, most_bytes=_MAT_BYTES)
  try:
    shapes = {name: shape for name, shape, _ in scipy.io.whosmat(io.BytesIO(data))}
    shape = shapes.get("pos_img", ())
    if len(shape) != 3 or shape[:2] != wanted or not 2 <= shape[2] <= _MOST_FRAMES:
      raise ValueError(f"its pos_img is {[*shape]}, and should be [2, {wanted[1]}, frames]")
    place = scipy.io.loadmat(io.BytesIO(data), variable_names=["pos_img"])["pos_img"]
    if place.dtype.kind != "f" or place.shape != shape or not np.isfinite(place).all():
      raise ValueError("its pos_img is not of finite numbers")
  except MemoryError:
    raise
  except Exception as error:  # damaged files make SciPy raise anything
    raise outside.Damaged(path, outside.shown(error)) from error
  if len(track.frames) < place.shape[2]:
    raise ValueError(
      f"{path} has {place.shape[2]} frames and {track.frames[0].rpartition('/')[0]}"
      f" {len(track.frames)}; copy the frames again"
    )
  return place.astype(np.float64) - 1.0


def digest(annotations: Iterable[tuple[str, np.ndarray]]) -> str:
  """Of the names and decoded annotations of sequences, whatever the files are packed like."""
  state = hashlib.sha256()
  for name, array in annotations:
    state.update(f"{name} {array.dtype.str} {array.shape} ".encode())
    state.update(np.ascontiguousarray(array).tobytes())
  return state.hexdigest()[:32]
