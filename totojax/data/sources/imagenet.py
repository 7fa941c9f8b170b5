"""ImageNet-1k and ImageNet-21k.

Layouts, below <root>/<split> or, with split "", below <root>
  <wnid>/*.JPEG                  1k train; 21k unpacked; val as often sorted
  <wnid>.tar                     21k as released in winter 2021
  ILSVRC2012_val_00000001.JPEG   flat 1k val, with its classes in one of
    LOC_val_solution.csv                     ImageId,PredictionString (Kaggle)
    *synset_labels.txt                       a wnid per line, by file name
    ILSVRC2012_validation_ground_truth.txt   numbers of the development kit,
                                             whose meta.mat lies beside it
  0/*.jpeg to 999/*.jpeg         ImageNet-V2, whose folders are classes as numbers
Labels count the sorted wnids from 0. Those of ImageNet-V2 are the folders' names
as numbers, which sorted as words are in another order. The development kit's own numbers are in
another order; they are never used as labels.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import fnmatch
import os
import re

from totojax.data.sources import files, items, matlab, tars
from totojax.storage import objects, outside, reading

_KIT_BYTES = 2**20  # of meta.mat, which has 50 kB
_V2_IMAGES = 10  # of a class of ImageNet-V2
WNID = re.compile(r"n\d{8}")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def list_items(root: objects.Path, split: str, *, classes: int, val_labels: str) -> items.Listing:
  """All images of a split.

  Args:
    root: what ids are relative to.
    split: folder below it: "train", "val", or "" for ImageNet-21k.
    classes: how many there must be: 1000; 0 takes any number.
    val_labels: the file with the classes of a flat folder; "" looks for it in
      the root, the folder, and beside the root.

  Raises:
    ValueError: no images, another number of classes, or an image of a flat
      folder without one.
  """
  root = os.fspath(root)
  top = os.path.join(root, split) if split else root
  if not reading.is_folder(top):
    raise ValueError(f"{top} is not a folder; it should hold ImageNet's images")
  folders = files.folders(top)
  if any(map(WNID.fullmatch, folders)):
    return _from_folders(root, top, folders, classes)
  if folders and all(name.isdigit() for name in folders):
    return _from_numbers(root, top, folders, classes)
  packed = [name for name in files.names(top) if re.fullmatch(WNID.pattern + r"\.tar", name)]
  if packed:
    return _from_tars(root, top, packed, classes)
  return _from_flat(root, top, classes=classes, val_labels=val_labels)


def _from_folders(root: str, top: str, folders: Sequence[str], classes: int) -> items.Listing:
  strange = [name for name in folders if not WNID.fullmatch(name)]
  if strange:
    raise ValueError(
      f"{top} holds folders of wnids and {strange[0]!r}, which is none; rename it or move it away"
    )
  files.check_classes(len(folders), classes, where=top)
  entries = [
    items.Item(files.below(root, path), path, label=label)
    for label, wnid in enumerate(folders)
    for path in files.walk(os.path.join(top, wnid), files.suffixes("image"))
  ]
  return items.listing("image", entries, classes=folders, where=top)


def _from_numbers(root: str, top: str, folders: Sequence[str], classes: int) -> items.Listing:
  """ImageNet-V2: ten images of each class."""
  files.check_classes(len(folders), classes, where=top)
  if sorted(map(int, folders)) != list(range(len(folders))):
    raise ValueError(f"{top}: its folders are not 0 to {len(folders) - 1}")
  entries = []
  for name in folders:
    paths = list(files.walk(os.path.join(top, name), files.suffixes("image")))
    if len(paths) != _V2_IMAGES:
      raise ValueError(
        f"{top}/{name} has {len(paths)} images; ImageNet-V2 has {_V2_IMAGES} of each class: unpack"
        " it again"
      )
    entries += [items.Item(files.below(root, path), path, label=int(name)) for path in paths]
  return items.listing("image", entries, where=top)


def _from_tars(root: str, top: str, packed: Sequence[str], classes: int) -> items.Listing:
  files.check_classes(len(packed), classes, where=top)
  wnids = [name.removesuffix(".tar") for name in packed]
  rows = []
  paths = [os.path.join(top, file) for file in packed]
  by_tar = tars.each_samples(paths, "image", label_key="", classes=0)
  for label, (path, entries) in enumerate(zip(paths, by_tar)):
    prefix = files.below(root, path).removesuffix(".tar")
    for row in entries:
      row = dataclasses.replace(row, id=f"{prefix}/{row.id}" if row.id else prefix)
      rows.append(dataclasses.replace(row, label=label) if isinstance(row, items.Item) else row)
  return items.listing("image", rows, classes=wnids, where=top)


def _from_flat(root: str, top: str, *, classes: int, val_labels: str) -> items.Listing:
  paths = {files.stem(path): path for path in files.walk(top, files.suffixes("image"))}
  if not paths:
    raise ValueError(f"{top} holds neither folders nor tars named by wnids (n01440764), nor images")
  truth = val_labels or _find_truth(root, top)
  wnids_by_stem = dict(_read_truth(truth, sorted(paths)))
  wnids = sorted(set(wnids_by_stem.values()))
  files.check_classes(len(wnids), classes, where=truth)
  labels = {wnid: i for i, wnid in enumerate(wnids)}
  rows: list[items.Entry] = []
  for stem, path in paths.items():
    if stem not in wnids_by_stem:
      raise ValueError(f"{truth} has no class for {path}")
    rows.append(items.Item(files.below(root, path), path, label=labels[wnids_by_stem[stem]]))
  rows += [
    items.Skipped(items.name(stem), f"{truth} names it, but {top} has no such image")
    for stem in wnids_by_stem.keys() - paths.keys()
  ]
  return items.listing("image", rows, classes=wnids, where=top)


def _find_truth(root: str, top: str) -> str:
  names = ("LOC_val_solution.csv", "*synset_labels.txt", GROUND_TRUTH)
  parent = os.path.dirname(root if objects.is_url(root) else os.path.abspath(root))
  for folder in (root, top, parent):
    names_in = files.names(folder) if reading.is_folder(folder) else []
    for name in names:
      if matches := fnmatch.filter(names_in, name):
        return os.path.join(folder, matches[0])
  raise ValueError(
    f"{top} is a flat folder of images; their classes are in none of"
    f" {', '.join(names)} in {root}; give the file as val_labels"
  )


def _read_truth(path: str, stems: Sequence[str]) -> Iterator[tuple[str, str]]:
  """(name of an image, its wnid); `stems` are the images, in order."""
  if path.endswith(".csv"):
    for row in files.table(path, ("ImageId", "PredictionString")):
      wnid = row["PredictionString"].split(" ")[0]
      yield row["ImageId"], _wnid(wnid, f"{path}, line {row['line']}")
    return
  lines = files.lines(path)
  if len(lines) != len(stems):
    raise ValueError(
      f"{path} has {len(lines)} lines for {len(stems)} images, one for each in the order of names"
    )
  numbers = None
  for stem, (number, line) in zip(stems, lines):
    where, text = f"{path}, line {number}", line.strip()
    if re.fullmatch("[0-9]{1,9}", text):
      numbers = numbers or _kit_wnids(path)
      if int(text) not in numbers:
        raise ValueError(f"{where}: meta.mat has no class {text}")
      text = numbers[int(text)]
    yield stem, _wnid(text, where)


def _wnid(text: str, where: str) -> str:
  if not WNID.fullmatch(text):
    raise ValueError(f"{where}: {text!r:.200} is no wnid (n01440764)")
  return text


def _kit_wnids(path: str) -> dict[int, str]:
  """wnid by number of the development kit, from meta.mat."""
  meta = os.path.join(os.path.dirname(path), "meta.mat")
  if not reading.exists(meta):
    raise ValueError(
      f"{path} gives numbers of the development kit, which are not in the"
      f" order of wnids; put the kit's meta.mat beside it ({meta})"
    )
  try:
    rows = matlab.structs(outside.load(meta, most_bytes=_KIT_BYTES), "synsets")
    numbers = [_kit_number(row) for row in rows]
    wnids = [_wnid(str(row.get("WNID")), meta) for row in rows]
  except ValueError as error:
    raise outside.Damaged(meta, error) from error
  if len({*numbers}) < len(numbers) or len({*wnids}) < len(wnids):
    raise outside.Damaged(meta, "it has a class twice")
  return dict(zip(numbers, wnids))


def _kit_number(row: Mapping[str, matlab.Value]) -> int:
  number = row.get("ILSVRC2012_ID")
  if not isinstance(number, float) or not number.is_integer() or number < 1:
    raise ValueError(f"a class has the number {number!r:.40}")
  return int(number)
