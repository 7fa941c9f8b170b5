"""A plain folder of videos or images, or a list of `path label` lines.

Layouts
  <root>/[<split>/]**/*.mp4, *.jpg, ...            `list_items`
  <root>/[<split>/]<class>/**/*.mp4, ...           the same, with class folders
  a text file of `path label` lines, as SlowFast   `list_lines`
  has them, or of `path,label`; paths below <root>

Ids are paths below the root, so that those of two splits differ.
"""

import os

from totojax.data.sources import files, items
from totojax.storage import objects, reading

SEPARATORS = {"space": " ", "comma": ",", "tab": "\t", "none": None}


def list_items(root: objects.Path, split: str, *, kind: str, class_folders: bool) -> items.Listing:
  """All files of a kind below a folder.

  Args:
    root: what ids are relative to.
    split: folder below it; "" for all of it.
    kind: "video" or "image".
    class_folders: whether the folders right below are the classes, sorted.

  Raises:
    ValueError: no such folder or no such file in it, or a folder that may not
      be read.
  """
  root = os.fspath(root)
  top = os.path.join(root, split) if split else root
  classes = files.folders(top) if class_folders and reading.is_folder(top) else []
  labels = {name: i for i, name in enumerate(classes)}
  entries = []
  for path in files.walk(top, files.suffixes(kind)):
    label = -1
    if class_folders:
      first, *rest = os.path.relpath(path, top).split(os.sep)
      if not rest:
        raise ValueError(f"{path} is in no class folder; move it, or set class_folders to False")
      label = labels[first]
    entries.append(items.Item(files.below(root, path), path, label=label))
  if not entries:
    raise ValueError(f"{top} holds no {kind}; looked for {' '.join(sorted(files.suffixes(kind)))}")
  return items.listing(kind, entries, classes=[items.name(name) for name in classes], where=top)


def list_lines(
  root: objects.Path, path: str, *, kind: str, separator: str, classes: int
) -> items.Listing:
  """The files that a list names.

  The last separator of a line counts, so paths may hold spaces and commas. A
  name of the list is the id; one that is there twice counts once. Files that do
  not exist are `missing`.

  Args:
    root: folder that relative paths start at; a path may be a URL of its own.
    path: the list.
    kind: "video" or "image".
    separator: between path and label: "space", "comma", "tab", or "none" for
      paths without labels.
    classes: how many there are; 0 takes any label from 0 on.

  Raises:
    ValueError: with the line number, for a line without a label, a label that
      is not an integer or out of range, and a path that has two labels.
  """
  if separator not in SEPARATORS:
    raise ValueError(f"separator is {separator!r}; use one of {sorted(SEPARATORS)}")
  files.suffixes(kind)
  mark = SEPARATORS[separator]
  rows, seen = [], {}
  for number, line in files.lines(path):
    where = f"{path}, line {number}"
    name, label = line.strip(), -1
    if mark is not None:
      name, cut, text = name.rpartition(mark)
      if not cut:
        raise ValueError(
          f"{where}: {line!r:.200} is not a path and a label with a {separator} between"
        )
      label = files.label(text.strip(), classes, where=where)
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':  # as CSV quotes commas
      name = name[1:-1].replace('""', '"')
    path_there = reading.join(os.fspath(root), name)
    # One file may be named in several ways: relative, absolute, "./a.mp4".
    file = path_there if objects.is_url(path_there) else os.path.normpath(path_there)
    if seen.setdefault(file, (number, label))[1] != label:
      before, other = seen[file]
      raise ValueError(f"{where}: {name!r:.200} has label {label}, and {other} on line {before}")
    rows.append(items.Item(items.name(name), path_there, label=label))
  rows = files.once(rows, lambda item: os.path.normpath(item.path), path)
  return items.listing(
    kind, files.existing(rows), classes=[str(i) for i in range(classes)], where=path
  )
