"""Features on disk, of any encoder: written, read, and compared with records.

`run = "features"` writes folders of them, with `features.json` when all are
there. A single file serves too: a .npz or .safetensors with `label` [M],
`layer_<number>` [M, D], or of tokens [M, T, D], for each layer (or `features`),
and in a .npz perhaps `id` [M].

Shapes: M clips, L layers, T tokens, D width.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from typing import Any

from etils import epath
import numpy as np
import safetensors.numpy

from totojax.config import schema
from totojax.data.store import columns
from totojax.data.stream import labelled
from totojax.rundir import files
from totojax.storage import arrays as arrays_lib, outside

FORMATS = ("safetensors", "npz")
WHOLE = "features.json"  # in a folder: written last
_LAYER = "layer_"


@dataclasses.dataclass(frozen=True)
class _Facts:
  """What `WHOLE` says."""

  files: tuple[str, ...] = schema.field((), "their names", some=True, once=True)
  ids: tuple[str, ...] = schema.field((), "of the clips' items")
  classes: tuple[str, ...] = schema.field((), "names by label", once=True)
  short: dict[str, Any] = schema.field({}, "items that were too short, by what was done")


@dataclasses.dataclass(frozen=True)
class Features:
  """One vector for each clip and layer, or for each of its tokens."""

  path: str  # where they are
  layers: tuple[int, ...]  # increasing
  features_ML: np.ndarray  # floats [M, L, D], or [M, L, T, D] as they are stored
  labels: np.ndarray  # int32 [M]
  ids: tuple[str, ...]  # of the clips' items; () where the file has none
  classes: tuple[str, ...]  # names by label; () where they are not known


def to_bytes(arrays: Mapping[str, np.ndarray], form: str) -> bytes:
  """A file with these arrays, in one of `FORMATS`."""
  if form == "safetensors":
    about = {arrays_lib.DIGEST: arrays_lib.digest(arrays)}
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, about)
  return files.npz(arrays, compressed=False)


def layer_name(layer: int) -> str:
  return f"{_LAYER}{layer}"


def read(path: str) -> Features:
  """All features of a folder or a file.

  Raises:
    ValueError: there are none, they are not all there, they are no vectors of a
      clip, or labels, names and features are not as many.
  """
  where = epath.Path(path)
  classes, ids = (), ()
  if path and files.exists(where / WHOLE):
    facts = outside.fields(_Facts, where / WHOLE, files.read_json(where / WHOLE))
    parts = [_read(where / outside.check_name(where / WHOLE, name)) for name in facts.files]
    if not parts:
      raise outside.Damaged(where / WHOLE, "it names no file")
    arrays = {name: _joined(path, name, parts) for name in sorted(parts[0])}
    classes, ids = facts.classes, facts.ids
  elif path and files.exists(where):
    arrays = _read(where)
    if "id" in arrays:
      ids = tuple(map(str, arrays.pop("id")))
    if "features" in arrays:
      arrays[layer_name(0)] = arrays.pop("features")
  elif path and files.children(where):
    raise ValueError(
      f"{path} has no {WHOLE}: the features are not all there; run the job"
      " that writes them to its end, and give the folder of one split"
    )
  else:
    beside = [child.name for child in files.children(epath.Path(path).parent) if child.is_dir()]
    held = f" (its folder holds {', '.join(sorted(beside))})" if beside else ""
    raise ValueError(
      f"there are no features at {path!r}{held}; make them with configs/features.py, whose"
      " --config.source.val_frac=0.2 holds items out, or give a .npz or .safetensors file"
    )
  return _checked(path, arrays, ids, classes)


def _read(path: epath.Path) -> dict[str, np.ndarray]:
  return arrays_lib.load(path, files.read_bytes(path))


def _joined(path: str, name: str, parts: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
  """An array of all files of a folder."""
  shapes = {part[name].shape[1:] if name in part else None for part in parts}
  if len(shapes) > 1 or any(set(part) != set(parts[0]) for part in parts):
    raise outside.Damaged(path, f"its files have other arrays, or {name} of other shapes")
  return np.concatenate([part[name] for part in parts])


def _checked(
  path: str, arrays: Mapping[str, np.ndarray], ids: tuple[str, ...], classes: tuple[str, ...]
) -> Features:
  numbers = (name.removeprefix(_LAYER) for name in arrays if name.startswith(_LAYER))
  layers = sorted(int(number) for number in numbers if number.isdigit())
  if not layers or "label" not in arrays:
    raise ValueError(
      f"{path} holds {sorted(arrays)!s:.400}; probing needs `label` and"
      f" `{layer_name(8)}` of a layer 8, say, or `features`"
    )
  labels = arrays["label"]
  shapes = {n: arrays[layer_name(n)].shape for n in layers}
  if any(len(shape) not in (2, 3) for shape in shapes.values()):
    raise ValueError(
      f"features of {path} have shapes {shapes}; [clips, width] is needed, or [clips, tokens,"
      " width]: write them with features.pool 'clip' or 'token'"
    )
  if len(set(shapes.values())) > 1:
    raise ValueError(f"the layers of {path} differ: {shapes}; give each width its own file")
  counts = {"features": shapes[layers[0]][0], "labels": len(labels)} | (
    {"ids": len(ids)} if ids else {}
  )
  if len(set(counts.values())) > 1 or labels.ndim != 1:
    raise ValueError(
      f"{path} holds {counts}, and labels of shape {labels.shape}; each clip has one of each"
    )
  most = len(classes) or columns.MOST_CLASSES
  if labels.dtype.kind not in "iu" or (
    len(labels) and not -1 <= labels.min() <= labels.max() < most
  ):
    raise ValueError(
      f"{path} has labels of {labels.dtype} that are not whole numbers, -1 to {most - 1}"
    )
  if wrong := [n for n in layers if arrays[layer_name(n)].dtype.kind in "bSU"]:
    raise ValueError(f"{path}: {layer_name(wrong[0])} has no numbers")
  x_ML = np.stack([arrays[layer_name(n)] for n in layers], axis=1)
  if not np.isfinite(x_ML).all():
    raise ValueError(f"{path} has features that are not finite")
  return Features(path, tuple(layers), x_ML, labels.astype(np.int32), ids, classes)


def records(features: Features, name: str) -> labelled.Records:
  """The clips as records that are probed; clips of one id are its views.

  Without ids every clip is an item.

  Raises:
    ValueError: a clip has no class.
  """
  return labelled.checked(
    labelled.Records(
      store=None,
      name=name,
      records=np.arange(len(features.labels)),
      labels=features.labels,
      ids=features.ids or tuple(f"{features.path}/{i}" for i in range(len(features.labels))),
      classes=features.classes,
    ),
    features.path,
  )


def in_order(features: Features, data: labelled.Records) -> np.ndarray:
  """The features [M, L, ...] of the records, in their order.

  Clips are matched by their items' ids, views of one item by their order;
  without ids, clip m is record m.

  Raises:
    ValueError: they are of other items, or have other labels or classes.
  """
  count = len(data.labels)
  if len(features.labels) != count:
    raise ValueError(
      f"{features.path} has features of {len(features.labels)} clips, and"
      f" {data.name} has {count} records; make them of the same items"
    )
  order = np.arange(count)
  if features.ids:
    place = {key: m for m, key in enumerate(_keys(features.ids))}
    keys = _keys(data.ids)
    lost = [key for key in keys if key not in place]
    if lost:
      item, view = lost[0]
      raise ValueError(
        f"{features.path} has no features of {len(lost)} of {count} records of {data.name}, the"
        f" first of them {item!r} (clip {view}); make them of the same items"
      )
    order = np.array([place[key] for key in keys])
  if features.classes and data.classes and features.classes != data.classes:
    raise ValueError(
      f"{features.path} has classes {list(features.classes)[:5]} ..., and"
      f" {data.name} {list(data.classes)[:5]} ...; make both with one list"
    )
  different = np.flatnonzero(features.labels[order] != data.labels)
  if len(different):
    m = int(different[0])
    raise ValueError(
      f"{len(different)} of {count} labels of {features.path} are not those"
      f" of {data.name}: {data.ids[m]!r} has {features.labels[order[m]]} and"
      f" {data.labels[m]}; make both of the same items"
    )
  return features.features_ML[order]


def _keys(ids: tuple[str, ...]) -> list[tuple[str, int]]:
  """Each id with the number of its view."""
  views = collections.defaultdict(itertools.count)
  return [(item, next(views[item])) for item in ids]
