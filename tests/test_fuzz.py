"""Files from outside, mutated: refused in one line that names them, or read as they were.

Every reader has a small valid sample. Mutations of each by a seed (bits,
cuts, sections, JSON of every wrong type, numbers at the edges, names that lead
elsewhere, pipes and devices) are read in a process with limits. It may end in
three ways:

  refused  one line of an error that names the file
  same     what the sound file gives
  legal    another value that the reader cannot know to be wrong, and that the
           result shows: each reader here says which, against another library;
           other pixels, of JPEGs and videos alone

The seed of one that fails is printed. Of the slow test `TOTOJAX_FUZZ_SEED` is the
first seed and `TOTOJAX_FUZZ_CASES` how many it tries of each reader.
"""

import ast
import collections
from collections.abc import Callable
import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile
import threading
import time
from typing import Any
import zipfile

import anticipated
from etils import epath
import fuzzing
import h5py
import jax
import numpy as np
from PIL import Image
from pyarrow import parquet
import pytest
import runs
import safetensors.numpy
import token_sets
import torch_bytes
import tracked

from totojax import plugins, sharding
from totojax.config import arguments, policies as policies_config, recipes, roots
from totojax.config.codes import CodeFiles
from totojax.config.corpus import SourceConfig
from totojax.config.tokens import DvaeConfig, FsqConfig
from totojax.data.pixels import augment, excerpts, images, media, video
from totojax.data.sources import (
  cater,
  code_files,
  diving48,
  ego4d,
  folder,
  howto100m,
  imagenet,
  items,
  kinetics,
  lerobot as lerobot_source,
  listings,
  pairs,
  physics,
  real,
  ssv2,
  sta,
  tars,
  tfds_source,
  tracks,
  ucf101,
)
from totojax.data.store import certificates, feature_files, manifests, store as store_lib
from totojax.data.trajectories import lerobot, robomimic
from totojax.evals import lpips, sta_baselines, sta_results
from totojax.jobs import exchange
from totojax.jobs.sta import encoding as sta_encoding
from totojax.jobs.sweep import finished
from totojax.models import policy as policy_lib
from totojax.report import (
  frame as report_frame,
  model_sections,
  reading as report_reading,
  run_sections,
)
from totojax.rundir import directory, files, lock, metrics
from totojax.storage import outside
from totojax.tasks import imitate
from totojax.tokenizers import causal_modules, vqgan_modules, weights
from totojax.tokenizers.released import official, pickles
from totojax.trained import backbone, grids, policies

fuzzing._CTX.set_forkserver_preload(["test_fuzz"])

REFUSALS = (ValueError, OSError)
Legal = Callable[[pathlib.Path, Any, Any], str]


def never(folder, value, sound):
  return ""


@dataclasses.dataclass(frozen=True)
class Reader:
  """A reader of files from outside."""

  make: Callable[[pathlib.Path], Any]  # writes a sample into a folder
  read: Callable[[pathlib.Path], Any]  # reads it; plain values that can be compared
  files: tuple[str, ...] = ("**/*",)  # of the sample, that are mutated
  legal: Legal = never  # (folder, value, sound value) -> "legal", "refused", or what is wrong
  refusals: tuple[type[Exception], ...] = REFUSALS


def plain(value):
  """Arrays as type, shape and digest, in plain lists and dicts."""
  if isinstance(value, np.ndarray):
    return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
  if dataclasses.is_dataclass(value):
    return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, dict):
    return {str(key): plain(part) for key, part in value.items()}
  if isinstance(value, list | tuple):
    return [plain(part) for part in value]
  return value


# Stores.


def make_store(path):
  token_sets.write(path / "store", 5, records_per_shard=3)


def read_store(path):
  store = store_lib.open_store(path / "store", tokenizer=None, vocab=None, grid=None)
  store.verify()
  rows = plain([store.read(range(len(store))), store.labels(), store.ids()])
  return {"manifest": manifests.to_json(store.manifest), "rows": rows}


def make_old_store(path):
  make_store(path)
  file = path / "store" / manifests.FILE
  values = json.loads(file.read_text())
  del values["digest"]
  file.write_text(json.dumps(values))


def manifest_shows(path, value, sound):
  """Of a manifest without a digest: typed values, as they stand in the file."""
  told = json.loads((path / "store" / manifests.FILE).read_text())
  told["shards"] = [{"ids": "", **shard} for shard in told["shards"]]  # a key that older ones lack
  different = [k for k in value["manifest"] if value["manifest"][k] != told.get(k)]
  fewer = value["manifest"]["shards"] != sound["manifest"]["shards"]  # than there were
  if different or (value["rows"] != sound["rows"] and not fewer):
    return f"{different} are not the file's"
  m = value["manifest"]
  sizes = (m["stride_frames"] > 0, m["fps"] > 0, 1 <= m["crops"] < 2**32, len(m["classes"]) > 0)
  return "legal" if all(sizes) or not m["labels"] else "sizes that are none"


def make_certificate(path):
  make_store(path)
  token_sets.write(path / "held", 3, salt=1, prefix="held")
  train, held = opened(path / "store"), opened(path / "held")
  assert certificates.check(train, held) is None
  assert (path / "held" / certificates.FILE).exists()


def opened(path):
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)


def read_certificate(path):
  return certificates.check(opened(path / "store"), opened(path / "held"))


# Tokenizers and features.


def tokenizer(config):
  def make(path):
    shapes = weights.module(config).shapes(config)
    values = lambda x: np.linspace(-1, 1, x.size, dtype=np.float32).reshape(x.shape)
    params = jax.tree.map(values, shapes)
    weights.save(path / "t.safetensors", params, config, card={"a": [1, 2.5]}, dtype="float32")

  return make


def old_tokenizer(config):
  def make(path):
    tokenizer(config)(path)
    file = path / "t.safetensors"
    with safetensors.safe_open(file, framework="numpy") as opened:
      about = {k: v for k, v in opened.metadata().items() if k != weights._MARK}
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file(tensors, file, metadata=about)

  return make


def read_tokenizer(path):
  params, config, mark = weights.read(path / "t.safetensors")
  return plain([params, config, mark, weights.card(path / "t.safetensors")])


def card_alone(path, value, sound):
  """The card is for people, and no part of what is signed."""
  return "legal" if value[:3] == sound[:3] else ""


def tensors_show(path, value, sound):
  """Of a tokenizer without a fingerprint: another library reads the same."""
  data = (path / "t.safetensors").read_bytes()
  tensors = safetensors.numpy.load(data)
  header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
  size = json.loads(header["__metadata__"]["config"])
  flat = {".".join(k): v for k, v in leaves(value[0])}
  same = {k: plain(v.astype(np.float32)) for k, v in tensors.items()} == flat
  told = all(value[1][key] == size[key] for key in size)
  return "legal" if same and told else "tensors or sizes that are not the file's"


def leaves(tree, path=()):
  for key, part in tree.items():
    yield from leaves(part, (*path, key)) if isinstance(part, dict) else [((*path, key), part)]


FEATURES = {
  "label": np.array([0, 1, 1, -1]),
  "layer_3": np.arange(24, dtype=np.float32).reshape(4, 6),
  "layer_5": np.arange(24, dtype=np.float32).reshape(4, 6) / 7,
}


def make_features_npz(path):
  files.write_npz(
    path / "f.npz", {**FEATURES, "id": np.array(["a", "b", "b", "c"])}, compressed=True
  )


def features_npz_show(path, value, sound):
  arrays = dict(np.load(path / "f.npz"))
  layers = sorted(int(k[6:]) for k in arrays if k.startswith("layer_"))
  same = [
    value["layers"] == layers,
    value["features_ML"] == plain(np.stack([arrays[f"layer_{n}"] for n in layers], 1)),
    value["labels"] == plain(arrays["label"].astype(np.int32)),
    value["ids"] == [str(i) for i in arrays.get("id", ())],
  ]
  return "legal" if all(same) else f"not the file's: {same}"


def make_features_folder(path):
  for name, rows in (("00000.safetensors", slice(0, 3)), ("00001.safetensors", slice(3, 4))):
    part = {k: v[rows] for k, v in FEATURES.items()}
    (path / name).write_bytes(feature_files.to_bytes(part, "safetensors"))
  facts = {"classes": ["x", "y"], "files": ["00000.safetensors", "00001.safetensors"]}
  files.write_json(path / "features.json", {**facts, "ids": ["a", "b", "b", "c"]})


def features_show(path, value, sound):
  """A folder's names and values are as the files have them."""
  facts = json.loads((path / "features.json").read_text())
  parts = [safetensors.numpy.load_file(path / name) for name in facts["files"]]
  layers = sorted(int(k[6:]) for k in parts[0] if k.startswith("layer_"))
  both = [np.concatenate([p[f"layer_{n}"] for p in parts]) for n in layers]
  same = [
    value["layers"] == layers,
    value["features_ML"] == plain(np.stack(both, 1)),
    value["labels"] == plain(np.concatenate([p["label"] for p in parts]).astype(np.int32)),
    value["ids"] == facts.get("ids", []),
    value["classes"] == facts.get("classes", []),
  ]
  return "legal" if all(same) else f"not the files': {same}"


# Codes of others.

CODES = np.arange(4 * 2 * 3 * 3, dtype=np.int32).reshape(4, 2, 3, 3)
CODE_KEYS = CodeFiles(kind="video", vocab=80, files=("*",))


def make_codes_npz(path):
  ids = np.array(["a", "b", "c", "d"])
  np.savez_compressed(path / "c.npz", codes=CODES, labels=np.array([0, 1, 2, -1]), ids=ids)


def make_codes_npy(path):
  np.save(path / "c.npy", CODES)
  np.save(path / "c.labels.npy", np.array([0, 1, 2, -1]))


def make_codes_safetensors(path):
  labels = np.array([0, 1, 2, -1])
  safetensors.numpy.save_file({"codes": CODES, "labels": labels}, path / "c.safetensors")


def codes_of(name):
  return lambda path: read_codes(path, path / name)


def read_codes(path, file):
  config = dataclasses.replace(CODE_KEYS, files=(str(file),))
  paths = code_files.listed(config, config.files)
  out = []
  for file in code_files.read(config, paths, where=str(path)):
    codes = np.concatenate(list(file.pieces(0, 3, vocab=80)))
    out.append(plain([codes.astype(np.int64), file.labels_of(0), file.ids_of()]))
  return out


def codes_show(path, value, sound):
  """numpy and safetensors read the same numbers, all of which are codes."""
  ids = None
  if (path / "c.npy").exists():
    codes = np.load(path / "c.npy")
    labels = np.load(path / "c.labels.npy") if (path / "c.labels.npy").exists() else None
  else:
    file = next(path.glob("c.*"))
    tensors = dict(np.load(file)) if file.suffix == ".npz" else safetensors.numpy.load_file(file)
    codes, labels, ids = (tensors.get(name) for name in ("codes", "labels", "ids"))
  ((got, got_labels, got_ids),) = value
  wanted = codes.reshape(got[1]).astype(np.int64)
  if plain(wanted) != got or not (0 <= wanted).all() or not (wanted < 80).all():
    return "codes that are not the file's"
  same = got_labels == (None if labels is None else plain(labels.astype(np.int64)))
  same &= ids is None or [str(i) for i in ids.tolist()] == got_ids or ids.dtype.kind == "S"
  return "legal" if same else "labels or ids that are not the file's"


# Released tokenizers.


def make_torch_zip(path):
  parts = (torch_bytes.storage(key=str(i), count=4) for i in range(2))
  state = {f"w{i}": torch_bytes.tensor(part) for i, part in enumerate(parts)}
  data = b"\x80\x02" + torch_bytes.mapping(**state) + b"."
  with zipfile.ZipFile(path / "m.pt", "w") as archive:
    archive.writestr("m/data.pkl", data)
    archive.writestr("m/byteorder", b"little")
    for i in range(2):
      archive.writestr(f"m/data/{i}", np.arange(4, dtype=np.float32).tobytes())


def read_torch(path):
  return plain(pickles.read(path / "m.pt"))


def torch_shows(path, value, sound):
  """Nothing in a torch file says what its values are: names, and no more than it has."""
  size = (path / "m.pt").stat().st_size
  total = sum(int(np.prod(v[1])) * np.dtype(v[0]).itemsize for v in value.values())
  return "legal" if total <= size else "more than there is"


def make_diffusers(path):
  import test_open_tokenizers

  test_open_tokenizers.released("diffusers-group", path)


def read_diffusers(path):
  files_ = [path / "config.json", path / "model.safetensors"]
  out = path.parent / f"made-{path.name}.safetensors"
  official.convert("diffusers", files_, out)
  params, config, _ = weights.read(out)
  return plain([params, config])


def diffusers_shows(path, value, sound):
  """Weights that no publisher signs: each value of ours is one of the file's."""
  tensors = safetensors.numpy.load_file(path / "model.safetensors")
  theirs = collections.Counter(float(v.sum(dtype=np.float64)) for v in tensors.values())
  params, _, _ = weights.read(path.parent / f"made-{path.name}.safetensors")
  ours = collections.Counter(
    float(np.asarray(v).sum(dtype=np.float64)) for v in jax.tree.leaves(params)
  )
  lost = [x for x in ours if not any(abs(x - y) <= 1e-5 * max(1, abs(y)) for y in theirs)]
  return "legal" if not lost else f"weights that are not the file's: {lost[:3]}"


def make_llama(path):
  import test_exchange

  test_exchange.folder(path / "hf")


def make_meta(path):
  import test_exchange

  test_exchange.meta(path / "hf")


def read_llama(path):
  config = roots.config("import")
  config.importing.path = str(path / "hf")
  out = epath.Path(path.parent / f"made-{path.name}")
  shutil.rmtree(out, ignore_errors=True)
  try:
    exchange.import_(roots.read(config.to_dict()), out, lambda step: False)
  finally:
    lock._leave_to_parent()
  run = backbone.find(str(out / "model"))
  params = backbone.read(run, run.model, sharding.layout(run.config.mesh))
  return plain([jax.device_get(params), run.config.model, run.model.spec, run.tokenizer])


def llama_shows(path, value, sound):
  """Weights that nobody signs: each value of ours is one of the files'."""
  (file,) = (path / "hf").glob("*.safetensors")
  tensors = safetensors.numpy.load_file(file)
  theirs = {float(x) for v in tensors.values() for x in v.ravel()} | {0.0}
  run = backbone.find(str(path.parent / f"made-{path.name}" / "model"))
  params = backbone.read(run, run.model, sharding.layout(run.config.mesh))
  lost = {float(x) for v in jax.tree.leaves(params) for x in np.ravel(v)} - theirs
  return "legal" if not lost else f"weights that are not the file's: {[*lost][:3]}"


# Networks that a user has.

SMALL_NET = lpips.Net((lpips.Conv(0, 4, read=True), lpips.Conv(3, 6, pool=True, read=True)), 2, "-")


def make_lpips(path):
  """A state dict in safetensors, and the package's weights as torch has them."""
  shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "3.weight": (6, 4, 3, 3), "3.bias": (6,)}
  convs = {
    f"features.{k}": np.linspace(-1, 1, int(np.prod(s)), dtype=np.float32).reshape(s)
    for k, s in shapes.items()
  }
  safetensors.numpy.save_file(convs, path / "net.safetensors")
  rows = {
    f"lin{i}.model.1.weight": torch_bytes.tensor(
      torch_bytes.storage(key=str(i), count=width), shape=(1, width, 1, 1), strides=(width, 1, 1, 1)
    )
    for i, width in enumerate(SMALL_NET.widths)
  }
  with zipfile.ZipFile(path / "lin.pth", "w") as archive:
    archive.writestr("m/data.pkl", b"\x80\x02" + torch_bytes.mapping(**rows) + b".")
    archive.writestr("m/byteorder", b"little")
    for i, width in enumerate(SMALL_NET.widths):
      archive.writestr(f"m/data/{i}", np.arange(width, dtype=np.float32).tobytes())


def read_lpips(path):
  paths = {"backbone": str(path / "net.safetensors"), "lin": str(path / "lin.pth")}
  return plain(jax.device_get(lpips.read("vgg", SMALL_NET, **paths).params))


def lpips_shows(path, value, sound):
  """Nobody signs these weights: of the same shapes, they are those of the file."""
  tensors = safetensors.numpy.load_file(path / "net.safetensors")
  wanted = [
    [plain(weight.transpose(2, 3, 1, 0)), plain(bias)]
    for weight, bias in (
      [tensors[f"features.{i}.{x}"].astype(np.float32) for x in ("weight", "bias")] for i in (0, 3)
    )
  ]
  shapes = [row[:2] for row in value["lin"]] == [row[:2] for row in sound["lin"]]
  return "legal" if value["convs"] == wanted and shapes else "weights that are not the file's"


# Sources.


def listing(value: items.Listing, root):
  """Ids to what they are; and how many are missing."""
  rows = {
    item.id: [item.path.replace(str(root), "."), item.label, item.part, item.start_s, item.end_s]
    for item in value.items
  }
  return {"rows": plain(rows), "classes": list(value.classes), "missing": len(value.missing)}


def touched(path, *names):
  for name in names:
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).touch()


def make_list(path):
  touched(path, "v/a.mp4", "v/b c.mp4", "v/d,e.mp4")
  (path / "list.txt").write_text("a.mp4 0\nb c.mp4 2\nd,e.mp4 1\ngone.mp4 1\n")


def read_list(path):
  out = folder.list_lines(
    path / "v", str(path / "list.txt"), kind="video", separator="space", classes=3
  )
  return listing(out, path)


def list_shows(path, value, sound):
  """Each item stands in a line of its own, with its label."""
  lines = (path / "list.txt").read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
  told = {}
  for line in lines:
    name, _, label = line.strip().rpartition(" ")
    told[name.strip()] = label.strip()
  for file, label, *_ in value["rows"].values():
    names = [
      n
      for n in told
      if os.path.normpath(os.path.join("./v", n.strip('"'))) == os.path.normpath(file)
    ]
    if not any(told[n].lstrip("+") and int(told[n]) == label for n in names):
      return f"{file} with label {label} is in no line"
  return "legal"


_PHYSICS = {  # set -> its table and what stands in it, files that are there
  "csv": (
    "l.csv",
    "path,group,label,pair,kind\na.mp4,1,possible,x,fall\nb.mp4,1,impossible,x,fall\n",
    ("a.mp4", "b.mp4"),
  ),
  "intphys_test": ("task.txt", "O1/0001/1\nO2/0003/4\n", ()),
  "intphys2": (
    "metadata.csv",
    "name,SceneIndex,type,condition,env\na,0,1_Possible,solidity,None\n"
    "b,0,1_Impossible,solidity,None\n",
    ("Videos/a.mp4", "Videos/b.mp4"),
  ),
  "inflevel": (
    "l.csv",
    ",".join(
      f"vid{n}_{c}"
      for n in (1, 2)
      for c in ("path", *(f"{e}_priming_{k}" for k in (1, 2) for e in ("start", "end")), "label")
    )
    + "\ngravity/a.mp4,0,1,2,3,possible,gravity/b.mp4,0,1,2,5.0,impossible\n",
    ("gravity/a.mp4", "gravity/b.mp4"),
  ),
}


def make_physics(name):
  def make(path):
    table, text, names = _PHYSICS[name]
    touched(path, *names)
    (path / table).write_text(text)

  return make


def make_intphys(path):
  for number in range(1, 5):
    folder = path / "O1/01" / str(number)
    (folder / "scene").mkdir(parents=True)
    (folder / "scene/scene_001.png").write_bytes(png(number))
    status = {"header": {"is_possible": number < 3, "masks": {"sky": 0}}}
    (folder / "status.json").write_text(json.dumps(status))


def read_physics(name):
  def read(path):
    table = str(path / "l.csv") if name in ("csv", "inflevel") else ""
    groups, skipped = physics.list_groups(name, str(path), table)
    frames = [
      [os.path.basename(frame) for frame in physics.frames_of(shown.path)]
      for group in groups
      for shown in group.videos
      if name == "intphys"
    ]
    return [plain(groups), len(skipped), frames]

  return read


def physics_shows(path, value, sound):
  """Each label stands in the table, in the row of its video; of IntPhys in its status.json."""
  groups = value[0]
  for shown in (one for group in groups for one in group["videos"]):
    name = os.path.basename(shown["path"])
    if name == "scene":
      status = pathlib.Path(shown["path"]).parent / "status.json"
      if status.exists():
        told = json.loads(status.read_text(encoding="utf-8-sig"))["header"]["is_possible"]
        if told is not shown["is_possible"]:
          return f"{shown['id']} is said to be {told}"
      continue
    (table,) = (p for p in (path / "l.csv", path / "metadata.csv") if p.exists())
    rows = [r for r in table.read_text("utf-8-sig").splitlines() if name.split(".")[0] in r]
    words = ("mpossible", "0") if shown["is_possible"] is False else ("ossible", "1")
    if not any(word in row for row in rows for word in words):
      return f"{shown['id']} is in no row so"
  return "legal"


KINETICS = """label,youtube_id,time_start,time_end,split
riding a bike,-abcdefghij,10,20,val
eating x,ABCDEFGHIJK,3,13,val
eating x,zzzzzzzzzzz,0,10,val
"""


def make_kinetics(path):
  touched(path, "val/riding a bike/-abcdefghij_000010_000020.mp4", "val/eating_x/ABCDEFGHIJK.mp4")
  (path / "val.csv").write_text(KINETICS)


def read_kinetics(path):
  out = kinetics.list_items(
    path, "val", annotations=str(path / "val.csv"), classes=0, plain_names="whole"
  )
  return listing(out, path)


def kinetics_shows(path, value, sound):
  """Each item is a row of the CSV, by its times and the name of its class."""
  with open(path / "val.csv", encoding="utf-8-sig", newline="") as file:
    rows = list(csv.DictReader(file, skipinitialspace=True))
  rows = [{k.strip(): str(v).strip() for k, v in row.items()} for row in rows]
  for item, (_, label, _, start_s, _) in value["rows"].items():
    mine = [row for row in rows if item.startswith(row["youtube_id"])]
    names = {items.name(row.get("label", "")).replace("_", " ").strip() for row in mine}
    starts = [float(row["time_start"]) for row in mine]
    shown = value["classes"][label] if label >= 0 else ""
    if shown not in names or (start_s is not None and start_s not in starts):
      return f"{item} is in no row so"
  return "legal"


def make_ssv2(path):
  touched(path, "videos/1.webm", "videos/2.webm")
  (path / "labels.json").write_text('{"Holding something": "0", "Pushing something": "1"}')
  rows = [
    {"id": "1", "template": "Holding [something]"},
    {"id": "2", "template": "Pushing [something]"},
    {"id": "3", "template": "Pushing [something]"},
  ]
  (path / "train.json").write_text(json.dumps(rows))


def read_ssv2(path):
  return listing(ssv2.list_items(path, "train", classes=0), path)


def ssv2_shows(path, value, sound):
  labels = json.loads((path / "labels.json").read_text())
  rows = {str(row["id"]): row for row in json.loads((path / "train.json").read_text())}
  for item, (_, label, *_) in value["rows"].items():
    name = rows[item].get("template", "").replace("[", "").replace("]", "")
    if label != (int(labels[name]) if name else -1):
      return f"{item} has label {label}"
  return "legal"


def make_diving48(path):
  touched(path, "rgb/a.mp4", "rgb/b.mp4")
  vocab = [["Back", "15som", "05Twis", "FREE"], ["Forward", "25som", "2Twis", "PIKE"]]
  (path / "Diving48_vocab.json").write_text(json.dumps(vocab))
  rows = [
    {"vid_name": "a", "label": 0, "start_frame": 0, "end_frame": 39},
    {"vid_name": "b", "label": 1, "start_frame": 0, "end_frame": 58},
    {"vid_name": "c", "label": 1, "start_frame": 5, "end_frame": 26},
  ]
  (path / "Diving48_V2_train.json").write_text(json.dumps(rows))


def read_diving48(path):
  return listing(diving48.list_items(path, "train", classes=0), path)


def diving48_shows(path, value, sound):
  rows = json.loads((path / "Diving48_V2_train.json").read_text())
  labels = {str(row["vid_name"]): row["label"] for row in rows}
  for item, (_, label, *_) in value["rows"].items():
    if label != labels[item]:
      return f"{item} has label {label}"
  return "legal"


def read_real(path):
  found = real.read(path / "real.json", classes=20)
  return [sorted(own) for own in found.classes]


def real_shows(path, value, sound):
  rows = json.loads((path / "real.json").read_text())
  return "legal" if [sorted({*row}) for row in rows] == value else "its labels are others"


def make_ego4d(path):
  touched(path, "v2/full_scale/a.mp4", "v2/full_scale/b.mp4")
  rows = [{"video_uid": "a", "fps": 30.0}, {"video_uid": "b"}, {"video_uid": "c"}]
  (path / "v2/ego4d.json").write_text(json.dumps({"version": 1, "videos": rows, "clips": []}))


def read_ego4d(path):
  return listing(ego4d.list_items(path, "", folder="full_scale"), path)


def ego4d_shows(path, value, sound):
  try:
    told = {row["video_uid"] for row in json.loads((path / "v2/ego4d.json").read_text())["videos"]}
  except OSError:  # without one, or behind a link to nothing, all videos are taken
    told = {"a", "b"}
  there = {item: sound["rows"][item] for item in told & sound["rows"].keys()}
  return "legal" if value["rows"] == there else f"{value['rows']}, and the file says {told}"


def read_sta(path):
  """Queries with all that they say and a frame of each, classes, and how many are left out."""
  found = sta.read(str(path), "train")
  rows = {
    query.uid: [query.video, query.frame, query.width_px, query.height_px, query.fps]
    + [array.tolist() for array in (query.boxes, query.nouns, query.verbs, query.ttc_s)]
    + [plain(sta.clip(query, 1, 1))]
    for query in found.queries
  }
  ids = dict(zip(("noun", "verb"), (found.noun_ids, found.verb_ids)))
  return {"rows": rows, "ids": plain(ids), "missing": len(found.missing)}


def sta_shows(path, value, sound):
  """Each query stands in the file so, with some of its objects; another reader of JSON says."""
  told = json.loads((path / anticipated.FILE).read_bytes())
  about = (told["info"] if "info" in told else {}).get("video_metadata") or told["videos"]
  entries = {}
  for row in told["annotations"]:
    if isinstance(row, dict) and isinstance(row.get("uid"), str):
      entries.setdefault(row["uid"], row)
  for uid, (name, frame, *size, boxes, nouns, verbs, ttc_s, pixels) in value["rows"].items():
    row = entries[uid]
    wanted = [about[name][key] for key in ("frame_width", "frame_height", "fps")]
    if name != row.get("video_uid", row.get("video_id")) or [frame, *size] != [
      row["frame"],
      *wanted,
    ]:
      return f"{uid} is not so in the file"
    ids = value["ids"]
    for box, noun, verb, time_s in zip(boxes, nouns, verbs, ttc_s):
      one = [box, ids["noun"][noun], ids["verb"][verb], time_s]
      if not any(is_object(given, one) for given in row["objects"]):
        return f"{uid} has an object that is not in the file"
    if frame == sound["rows"].get(uid, [0, None])[1] and pixels != sound["rows"][uid][-1]:
      return f"{uid} has other pixels"
  return "legal"


def is_object(given, one):
  keys = ("box", "noun_category_id", "verb_category_id", "time_to_contact")
  try:
    box, noun, verb, time_s = (given[key] for key in keys)
    return [np.array(box, np.float32).tolist(), noun, verb, float(np.float32(time_s))] == one
  except (TypeError, KeyError, ValueError):
    return False


def make_sta_results(path):
  anticipated.write(path)
  (path / "results.json").write_text(json.dumps(anticipated.results()))


def read_sta_results(path):
  known = sta.read(str(path), "train", media=None)
  found = sta_results.read(path / "results.json", known)
  keys = ("boxes", "nouns", "verbs", "ttc_s", "scores")
  return {uid: [getattr(one, key).tolist() for key in keys] for uid, one in found.items()}


def sta_results_show(path, value, sound):
  """All that the file has of each image, with ids in place of numbers of classes."""
  told = json.loads((path / "results.json").read_bytes())["results"]
  nouns, verbs = ([row["id"] for row in rows] for rows in (anticipated.NOUNS, anticipated.VERBS))
  for uid, (boxes, noun, verb, ttc_s, scores) in value.items():
    ids = [nouns[n] for n in noun], [verbs[v] for v in verb]
    names = ("box", "noun_category_id", "verb_category_id", "time_to_contact", "score")
    wanted = [[row[name] for row in told[uid]] for name in names]
    if repr([boxes, *ids, ttc_s, scores]) != repr(
      [[[float(v) for v in box] for box in wanted[0]], *(list(map(int, x)) for x in wanted[1:3])]
      + wanted[3:]
    ):
      return f"{uid} is not so in the file"
  return "legal" if value.keys() == sound.keys() else "other images"


def make_sta_around(path):
  anticipated.write(path, file="fho_sta_train.json")
  thing = {"box": [1.0, 2.0, 30.5, 40.0], "noun_category_id": 4, "away_m": 0.25}
  uids = [row["uid"] for row in anticipated.annotations()["annotations"]]
  value = {uid: {"tip": [1.0, 2.0], "things": [thing, thing]} for uid in uids}
  (path / "world_sta_train.json").write_text(json.dumps(value))


def read_sta_around(path):
  found = sta_baselines.read_around(sta.read(str(path), "train", media=None))
  keys = ("boxes", "nouns", "away_m")
  return {uid: [getattr(one, key).tolist() for key in keys] for uid, one in found.items()}


def sta_around_shows(path, value, sound):
  told = json.loads((path / "world_sta_train.json").read_bytes())
  ids = [row["id"] for row in anticipated.NOUNS]
  for uid, (boxes, nouns, away_m) in value.items():
    things = told[uid]["things"]
    keys = ("box", "noun_category_id", "away_m")
    if [boxes, [ids[n] for n in nouns], away_m] != [[one[key] for one in things] for key in keys]:
      return f"{uid} is not so in the file"
  return "legal" if value.keys() == sound.keys() else "other queries"


def make_howto100m(path):
  touched(path, "v/a.mp4", "v/b.mp4", "v/c.mp4")
  rows = "video_id,start_s,end_s\na,1.5,3\nb,,\nd,,\n"
  (path / "ids.csv").write_text(rows)


def read_howto100m(path):
  return listing(howto100m.list_items(path, "v", ids=str(path / "ids.csv")), path)


def spans_show(path, value, sound):
  text = (path / "ids.csv").read_bytes().decode("utf-8-sig", "surrogateescape")
  for item, (_, _, _, start_s, end_s) in value["rows"].items():
    video = item.partition("/")[0]
    lines = [line for line in text.replace('"', "").split("\n") if video in line]
    wanted = [str(t) for t in (start_s, end_s) if t is not None]
    if not any(all(_has(line, t) for t in wanted) for line in lines):
      return f"{item} is in no line"
  return "legal"


def _has(line, number):
  cells = (cell.strip() for cell in line.split(","))
  return any(_float(cell) == float(number) for cell in cells)


def _float(text):
  try:
    return float(text)
  except ValueError:
    return None


def make_ucf101(path):
  touched(path, "videos/A/v_1.avi", "videos/B/v_2.avi")
  (path / "classInd.txt").write_text("1 A\n2 B\n")
  (path / "trainlist01.txt").write_text("A/v_1.avi 1\nB/v_2.avi 2\nB/v_3.avi 2\n")


def read_ucf101(path):
  return listing(ucf101.list_items(path, "train", fold=1, classes=0), path)


def ucf101_shows(path, value, sound):
  names = [line.split(" ", 1)[1] for line in _lines(path / "classInd.txt")]
  rows = _lines(path / "trainlist01.txt")
  for file, label, *_ in value["rows"].values():
    inside = file.removeprefix("./videos/")
    if names[label].strip() != inside.split("/")[0] or not any(
      r.split()[0] == inside for r in rows
    ):
      return f"{file} with label {label} is in no line"
  return "legal"


def _lines(path):
  text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
  return [line.strip() for line in text.splitlines() if line.strip()]


ROBOTS = pathlib.Path(__file__).parent / "golden" / "robots"


def make_lerobot(version):
  return lambda path: shutil.copytree(ROBOTS / f"lerobot_{version}", path / "set")


def read_lerobot(path):
  found = lerobot.read(path / "set")
  videos = listing(lerobot_source.list_items(path / "set", ""), path)
  return {"tasks": [one.task for one in found.episodes], "videos": videos, **numbers(found)}


def numbers(found):
  rows = {one.name: [one.state_NS.tolist(), one.action_NA.tolist()] for one in found.episodes}
  names = [list(found.state_names), list(found.action_names), list(found.cameras)]
  return {"rows": rows, "names": names, "missing": len(found.missing), "fps": found.fps}


def lerobot_shows(path, value, sound):
  """Numbers are those that pandas' way of reading a table gives; words are in a file."""
  tables = [
    parquet.read_table(p).to_pydict()
    for p in (path / "set" / "data").rglob("*.parquet")
    if _is_sound(p)
  ]
  for name, (states, actions) in value["rows"].items():
    number = int(name.rpartition("_")[2])
    mine = [
      [state, action]
      for table in tables
      for state, action, of in zip(
        table["observation.state"], table["action"], table["episode_index"]
      )
      if of == number
    ]
    if [*map(list, zip(*mine))] != [states, actions]:
      return f"{name} has other numbers"
  text = "".join(
    p.read_bytes().decode("utf-8", "replace")
    for p in (path / "set" / "meta").rglob("*")
    if p.is_file()
  )
  if not all(json.dumps(task)[1:-1] in text or task in text for task in value["tasks"]):
    return "a task is in no file"
  return "legal"


def _is_sound(path):
  try:
    return bool(parquet.read_table(path).num_rows)
  except Exception:
    return False


def make_robomimic(path):
  shutil.copy(ROBOTS / "robomimic_tiny.hdf5", path / "set.hdf5")


def read_robomimic(path):
  found = robomimic.read(path / "set.hdf5", state=["robot0_eef_pos"])
  first = [
    one.frames(found.cameras[0], [0], augment.Resize(16, "bicubic")).tolist()
    for one in found.episodes[:1]
  ]
  return {"first": first, **numbers(found)}


def robomimic_shows(path, value, sound):
  with h5py.File(path / "set.hdf5") as file:
    for name, (_, actions) in value["rows"].items():
      if file[f"data/{name}/actions"][()].astype(np.float32).tolist() != actions:
        return f"{name} has other numbers"
  return "legal"


def make_policy(path):
  head = policies_config.PolicyHead(embed=3, hidden=(2,))
  rng = np.random.default_rng(0)
  steps = [rng.normal(size=(5, n)).astype(np.float32) for n in (4, 2, 3)]
  model = policy_lib.Policy(head, 3)
  params = jax.jit(imitate.Imitate(model, width=4, felt=2).init)(jax.random.key(0)).params
  units = policies.Units.of(*steps, features=True)
  facts = policies.Facts(head, True, 4, 2, 3, "mine", {"model_run": "RUN"}, {"rows": 4}, 1)
  policies.save(epath.Path(path), policies.Policy(model, params, units), facts)


def read_policy(path):
  found, facts = policies.read(epath.Path(path))
  arrays = {name: plain(np.asarray(value)) for name, value in found.params.items()}
  return {"facts": plain(facts), "params": arrays, "units": plain(found.units)}


def policy_shows(path, value, sound):
  told = json.loads((path / "policy.json").read_text())
  if "sha256" in told:  # the digest of all others
    return "another value under the same seal"
  same = {k: v for k, v in value.items() if k != "facts"} == {
    k: v for k, v in sound.items() if k != "facts"
  }
  facts = value["facts"]
  shown = all(plain(told[key]) == facts[key] for key in told if key != "head")
  return "legal" if same and shown else "it is not what policy.json says"


def make_cater(path):
  touched(path, "videos/CLEVR_new_000000.avi", "videos/CLEVR_new_000001.avi")
  for below in ("lists/localize", "scenes"):
    (path / below).mkdir(parents=True)
  lines = []
  for number, (x, y) in enumerate([(0.5, -2.25), (-1.5, 1.75)]):
    name = f"CLEVR_new_{number:06d}"
    places = {str(frame): [x * frame / 2, y * frame / 2, 0.3] for frame in range(3)}
    objects = [
      {"shape": "spl", "instance": "Spl_0", "locations": places},
      {"shape": "cone", "instance": "Cone_0", "locations": places},
    ]
    moves = {"Spl_0": [["_slide", None, 0, 2]], "Cone_0": [["_contain", "Spl_0", 0, 1]]}
    scene = {"image_filename": f"{name}.avi", "objects": objects, "movements": moves}
    (path / "scenes" / f"{name}.json").write_text(json.dumps(scene))
    lines.append(f"{name}.avi {cater.cell(x, y)}\n")
  (path / "lists/localize/train.txt").write_text("".join(lines))


def read_cater(path):
  return listing(cater.list_items(str(path), "train"), path)


def cater_shows(path, value, sound):
  """Clips may be missing; those that are there are in the cell that both files say."""
  wrong = {item for item, row in value["rows"].items() if sound["rows"].get(item) != row}
  return f"{wrong} are not what list and scene say" if wrong else "legal"


def make_imagenet(path):
  touched(path, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
  rows = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_0000000{i},n0000000{i} 1 2 3 4\n" for i in (1, 2)
  )
  (path / "LOC_val_solution.csv").write_text(rows)


def make_imagenet_kit(path):
  from scipy import io as scipy_io

  touched(path, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
  (path / imagenet.GROUND_TRUTH).write_text("2\n1\n")
  kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
  synsets = np.array([(1, "n00000001"), (2, "n00000002")], kinds)
  scipy_io.savemat(path / "meta.mat", {"synsets": synsets})


def read_imagenet(path):
  return listing(imagenet.list_items(path, "val", classes=0, val_labels=""), path)


def imagenet_shows(path, value, sound):
  """Labels count wnids, which stand in the files."""
  if value["rows"].keys() != sound["rows"].keys():
    return "other images"
  if (path / "meta.mat").exists():
    return "legal" if all(imagenet.WNID.fullmatch(name) for name in value["classes"]) else "classes"
  text = (path / "LOC_val_solution.csv").read_bytes().decode("utf-8-sig", "replace")
  for item, (_, label, *_) in value["rows"].items():
    stem = pathlib.Path(item).stem
    if not any(stem in row and value["classes"][label] in row for row in text.split("\n")):
      return f"{item} is in no row so"
  return "legal"


def png(level):
  file = io.BytesIO()
  Image.fromarray(np.full((9, 8, 3), level, np.uint8)).save(file, "PNG")
  return file.getvalue()


def make_tar(path):
  with tarfile.open(path / "s.tar", "w") as archive:
    for name, data in (
      ("0.png", png(1)),
      ("0.cls", b"2"),
      ("1.json", b'{"label": 1, "text": "a b"}'),
      ("1.png", png(2)),
      ("2.json", b'{"label": 0}'),
      ("2.png", png(3)),
    ):
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))


SPEC = images.ImageSpec(size_px=8, crops=1, crop="center", resample="bicubic", animated="refuse")


def read_tar(path):
  """Items with their pixels; a picture that cannot be read is as good as missing."""
  found = tars.list_items(path, "", kind="image", classes=3, label_key="label")
  out = {"rows": {}, "missing": [row.reason for row in found.missing]}
  for item in found.items:
    pixels = media.load(item, SPEC, seed=0)
    if isinstance(pixels, items.Skipped):
      out["missing"].append(pixels.reason)
    else:
      out["rows"][item.id] = plain([item.label, pixels])
  return out


def tar_shows(path, value, sound):
  """Pictures as they were, by any name; labels as some member gives them; or told missing."""
  known = [pixels for _, pixels in sound["rows"].values()]
  if not all(pixels in known for _, pixels in value["rows"].values()):
    return "another picture"
  data = (path / "s.tar").read_bytes()
  for item, (label, _) in value["rows"].items():
    told = f'"label": {label}'.encode() in data or str(label).encode() in data
    if item in sound["rows"] and label != sound["rows"][item][0] and not (told or label == -1):
      return f"{item} has label {label}"
  if value["missing"]:
    return "refused"
  return "legal"


def picture(name):
  def make(path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (9, 8, 3), np.uint8)).save(path / name)

  return make


def make_pairs(path):
  for name in ("a_in.png", "a_out.png"):
    picture(name)(path)


def make_videos(path):
  import little_videos

  little_videos.write(path / "a.mp4", 20, codec="libx264")
  little_videos.write(path / "b.avi", 20)


CLIP = video.ClipSpec(frames=4, stride_frames=4, fps=30.0, size_px=8)


def pixels_of(*names: str, spec: media.Spec = SPEC):
  """Reads pictures or videos; one that a job would skip is refused."""

  def read(path):
    out = []
    for name in names:
      pixels = media.load(items.Item(name, str(path / name)), spec, seed=0)
      if isinstance(pixels, items.Skipped):
        raise ValueError(f"{path / name}: {pixels.reason}")
      out.append(plain(pixels))
    return out

  return read


def read_uploads(path):
  """Videos that somebody sends, under a name that says nothing."""
  out = []
  for name in ("a.mp4", "b.avi"):
    pixels = excerpts.of_stranger(items.Item("x", str(path / name)), CLIP)
    if isinstance(pixels, items.Skipped):
      raise ValueError(f"{path / name}: {pixels.reason}")
    out.append(plain(pixels))
  return out


def upload_shows(path, value, sound):
  """Other pixels, and as many frames as the file says it has, up to those that are wanted."""
  right = [v[0] == s[0] and v[1][1:] == s[1][1:] and 0 < v[1][0] <= 4 for v, s in zip(value, sound)]
  return "legal" if all(right) else "another shape"


def other_pixels(path, value, sound):
  """JPEGs and videos alone: their bytes have no checksum, and decoders mend what they can.

  Where libjpeg and FFmpeg say nothing, there is nothing to know it by.
  """
  return "legal" if [v[:2] for v in value] == [v[:2] for v in sound] else "another shape"


def make_tfds(path):
  import test_tfds_source as sets

  records = [sets.example(image=png(i), label=i, file_name=b"x") for i in range(3)]
  sets.prepare(path, "tiny", sets.features(), records)


def read_tfds(path):
  tfds_source._open.cache_clear()
  tfds_source._record.cache_clear()
  found = tfds_source.list_items(path, "train", name="tiny", feature="", label="", fps=0.0)
  out = {"rows": {}, "missing": [], "classes": list(found.classes)}
  for item in found.items:
    pixels = media.load(item, SPEC, seed=0)
    if isinstance(pixels, items.Skipped):
      out["missing"].append(pixels.reason)
    else:
      out["rows"][item.id] = plain([media.label(item), pixels])
  return out


def tfds_shows(path, value, sound):
  """Records as they were, under the names of classes and sets that the files give."""
  known = list(sound["rows"].values())
  if b"ClassLabel" not in (path / "tiny/1.0.0/features.json").read_bytes():
    known = [[-1, pixels] for _, pixels in known]  # it says that there are no labels
  if not all(row in known for row in value["rows"].values()):
    return "another record"
  return "refused" if value["missing"] else "legal"


# Annotated videos that are tracked through, and maps of their frames.


def make_tracks(name):
  return lambda path: getattr(tracked, name)(path)


def read_tracks(name):
  """Name -> its frames and annotations, in order."""
  truths = {
    "davis": lambda one: tracks.objects(one, year=2017),
    "jhmdb": tracks.joints,
    "vip": tracks.classes,
  }

  def read(path):
    found = tracks.listed(name, str(path), split="1" if name == "jhmdb" else "val")
    return [
      [one.name, [os.path.relpath(f, path) for f in one.frames], plain(truths[name](one))]
      for one in found
      if tracks.frame(one.frames[0]).ndim
    ]

  return read


def make_named_tracks(path):
  make_tracks("jhmdb")(path)
  (path / "mine.txt").write_text("walk/a_1\nwalk/b_2\n")


def read_named_tracks(path):
  """Names, in the order of a list of one's own."""
  return [one.name for one in tracks.listed("jhmdb", str(path), split="1", names="mine.txt")]


def named_tracks_show(path, value, sound):
  """Some of them."""
  return "legal" if value and all(name in sound for name in value) else "other sequences"


def tracks_show(path, value, sound):
  """Some sequences as they were: all that the list names, in its order.

  PNGs and compressed .mat have checksums, so there are no other annotations.
  """
  (file,) = (*path.glob("*/*.txt"), *path.glob("*/*/*.txt"))
  named = []
  for line in _lines(file):
    if line.endswith(".avi 1"):  # JHMDB's for training
      continue
    name = line.split()[0]
    name = name.split("/")[-2] if name.startswith("/") else name
    named.append(f"walk/{name[:-4]}" if name.endswith(".avi") else name)
  named = list(dict.fromkeys(named))
  if [name for name, *_ in value] != named:
    return f"{[name for name, *_ in value]}, and the list names {named}"
  return "legal" if all(one in sound for one in value) else "other annotations"


MAPS = {
  "layer_0": np.arange(48, dtype=np.float32).reshape(3, 2, 2, 4),
  "layer_5": np.arange(36, dtype=np.float32).reshape(3, 2, 2, 3) / 7,
}


def make_maps(ending):
  def make(path):
    (path / "a").mkdir()
    file = path / "a" / f"b.{ending}"
    if ending == "npz":
      np.savez_compressed(file, **MAPS)
    else:
      safetensors.numpy.save_file(MAPS, file)

  return make


def read_maps(path):
  of = grids.on_disk(str(path))
  frames = (np.zeros((4, 4, 3), np.uint8) for _ in range(3))
  return [list(of.layers), plain([*of.of("a/b", frames)])]


def maps_show(path, value, sound):
  """numpy and safetensors read the same layers, for as many frames."""
  (file,) = (path / "a").glob("b.*")
  tensors = dict(np.load(file)) if file.suffix == ".npz" else safetensors.numpy.load_file(file)
  layers = sorted(int(name[6:]) for name in tensors if name.startswith("layer_"))
  whole = [tensors[f"layer_{n}"].astype(np.float32) for n in layers]
  wanted = [layers, plain([[x[t] for x in whole] for t in range(3)])]
  same = wanted == value and {len(x) for x in whole} == {3}
  return "legal" if same else f"not the file's: {wanted}"


SEEN = {
  "clip": np.arange(24, dtype=np.float32).reshape(2, 4, 3),
  "still": np.arange(27, dtype=np.float32).reshape(3, 3, 3) / 7,
}


def make_seen(ending):
  def make(path):
    file = path / f"q.{ending}"
    if ending == "npz":
      np.savez_compressed(file, **SEEN)
    else:
      safetensors.numpy.save_file(SEEN, file)

  return make


def read_seen(path):
  return {name: plain(x) for name, x in sorted(sta_encoding.read(str(path), "q").items())}


def seen_shows(path, value, sound):
  """numpy and safetensors read the same features of a clip and its last frame."""
  (file,) = path.glob("q.*")
  tensors = dict(np.load(file)) if file.suffix == ".npz" else safetensors.numpy.load_file(file)
  wanted = {}
  for name in sorted(tensors.keys() & {"clip", "still"}):
    x = tensors[name].astype(np.float32)
    lead = x.shape[:1] if name == "clip" else ()
    wanted[name] = plain(x.reshape(*lead, -1, x.shape[-1]))
  return "legal" if wanted == value else f"not the file's: {wanted}"


# What users write, and what runs leave.


PLUGIN = """import pathlib
from totojax.data.sources import items

def dataset():
  def list_items(root, split):
    files = sorted(pathlib.Path(root).glob("*.png"))
    found = [items.Item(f.name, f, label=0) for f in files]
    return items.listing("image", found, classes=("a", "b"), where=root)
  return list_items
"""


def make_plugin(path):
  touched(path, "a.png", "b.png")
  (path / "mine.py").write_text(PLUGIN)


def read_plugin(path):
  plugins.find.cache_clear()
  source = SourceConfig(name=str(path / "mine.py"), root=str(path), splits=("",))
  return listing(listings.by_store(source, seed=0)["all"], path)


def make_config(path):
  (path / "c.py").write_text(
    "from totojax.config import recipes\n\n"
    "def get_config():\n  c = recipes.own('tiny')\n  c.train.total_tokens = 1e6\n  return c\n"
  )


def read_config(path):
  config = arguments.load(str(path / "c.py"))
  return json.loads(json.dumps(config.to_dict(), default=str))


def of_the_user(path, value, sound):
  """Python is the user's: what it gives is what they asked for."""
  return "legal"


def make_run_files(path):
  files.write_json(path / "a.json", {"steps": 3, "lr": 0.5, "names": ["x"]})
  files.write_csv(path / "b.csv", [{"k": "1", "v": "x,y"}, {"k": "2", "v": "z"}])
  files.write_npz(path / "c.npz", {"x": np.arange(6.0).reshape(2, 3).T})


def read_run_files(path):
  return plain(
    [
      files.read_json(path / "a.json"),
      files.read_csv(path / "b.csv"),
      files.read_npz(path / "c.npz"),
    ]
  )


def run_files_show(path, value, sound):
  with open(path / "b.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  arrays = {k: v for k, v in np.load(path / "c.npz").items()}
  wanted = plain([json.loads((path / "a.json").read_bytes()), rows, arrays])
  same = json.dumps(wanted) == json.dumps(value)
  return "legal" if same else f"not the files': {wanted}"


DATA = {"data.train.a": {"digest": "1" * 64, "records": 3, "items": "2" * 64}}
TABLE = "source,layer,loss\na,1,0.5\na,2,0.25\nb,1,\n"
_OF_RUN = ("pretrain/*.json", "pretrain/*.jsonl", "pretrain/*.csv")


def make_run(path):
  """What pre-training and a table of a probe leave."""
  run = epath.Path(path / "pretrain")
  config = directory.typed({**recipes.pretrain("tiny").to_dict(), "run": "pretrain"})
  sizes = dict(flops_per_token=9, tokens_per_step=8, steps=3, parameters=7)
  directory.begin(run, config, saved=dict, data=DATA, tokenizer="t/1", **sizes)
  log = metrics.MetricsLog(run, restored_step=0)
  for step in (1, 2, 3):
    log.write(step, "train", {"loss": 3 / step}, wall={"tokens_per_s": 2.0, "time_s": 1.0 * step})
  log.write(3, "eval", {"loss": 0.5}, wall={})
  log.close()
  shutil.rmtree(run / "tensorboard")
  (run / "layers.csv").write_text(TABLE)
  directory.mark_done(run, 12.5)


def make_old_run(path):
  """One from before config.json and manifest.json were sealed."""
  make_run(path)
  for name in ("config.json", "manifest.json"):
    files.write_json(path / "pretrain" / name, files.read_json(path / "pretrain" / name))


def read_run(path):
  """What a report, a sweep and the next start of the run make of it."""
  run, below = path / "pretrain", report_reading.RunFolder(path)
  kind = report_frame.Kind("", model_sections.claim, (("Time", run_sections.timings),))
  assert report_frame.write(
    path / "page", kind, run=path
  ).exists()  # says what is wrong, and is no error
  kept, refusal, past, table = {}, None, None, None
  try:
    (past,) = finished.read([f"a={run}"], "sweep.runs")
    table = below.table("pretrain/layers.csv")
    kept = {run / name: (run / name).read_bytes() for name in ("config.json", "manifest.json")}
  except (*REFUSALS, report_reading.Missing) as error:
    refusal = error
  is_done = directory.is_done(run)
  try:
    directory.begin(epath.Path(run), {"run": "x"}, data=DATA)
  finally:
    lock._leave_to_parent()
  if refusal:
    raise ValueError(str(refusal)) from refusal
  for name, data in kept.items():
    name.write_bytes(data)
  return plain([past, table, is_done])


def run_shows(path, value, sound):
  """Facts and rows as the files have them; only what is sealed cannot be another."""
  run = path / "pretrain"
  (past, table, is_done) = value
  told = {name: json.loads((run / f"{name}.json").read_bytes()) for name in ("config", "manifest")}
  sealed = {name for name in told if told[name].pop("sha256", None)}
  lines = (run / "metrics.jsonl").read_bytes().splitlines()
  rows = [json.loads(line) for line in lines[: len(past["rows"])]]
  is_whole = (run / "metrics.jsonl").read_bytes().endswith(b"\n")
  columns = collections.defaultdict(lambda: collections.defaultdict(list))
  with open(run / "layers.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
      for key in row.keys() - {"source"}:
        columns[row["source"]][key].append(float(row[key] or "nan"))
  flat = directory.flat(past["config"])
  keys = directory.flat(told["config"])
  same = {
    "manifest": json.dumps(past["manifest"]) == json.dumps(told["manifest"]),
    "config": all(flat.get(key) == value for key, value in keys.items()),
    "rows": past["rows"] == rows and len(lines) - len(rows) in (0, not is_whole),
    "table": table
    == plain({k: {c: np.array(v) for c, v in g.items()} for k, g in columns.items()}),
    "done": is_done == (run / "done.json").is_file(),
    "seals": not any(past[name] != sound[0][name] for name in sealed),
  }
  return "legal" if all(same.values()) else f"not the files': {same}"


SMALL_DVAE = DvaeConfig(vocab=8, hidden=8, groups=2, blocks=1, decoder_init=4, post_gain=0.25)
SMALL_FSQ = FsqConfig(
  levels=(3, 3), side_px=2, width=4, hidden=4, encoder_blocks=1, decoder_blocks=1
)
SMALL_VQGAN = vqgan_modules.VqganConfig(
  vocab=8, embed=4, z=4, channels=4, multipliers=(1, 1), blocks=1, attention=(1,), groups=2
)
SMALL_CAUSAL = causal_modules.CausalConfig(
  family="vidtok",
  levels=(4, 4),
  z=2,
  channels=4,
  multipliers=(1, 1),
  blocks=1,
  space_down=(0,),
  space_up=(1,),
  time_down=(0,),
  time_up=(1,),
)
_TOKENS = ("t.safetensors",)

READERS: dict[str, Reader] = {
  "manifest": Reader(make_store, read_store, ("store/manifest.json",)),
  "manifest_old": Reader(make_old_store, read_store, ("store/manifest.json",), manifest_shows),
  "shards": Reader(make_store, read_store, ("store/shard-*/**/*",)),
  "certificate": Reader(make_certificate, read_certificate, ("held/certificates.json",)),
  "dvae": Reader(tokenizer(SMALL_DVAE), read_tokenizer, _TOKENS, card_alone),
  "fsq": Reader(tokenizer(SMALL_FSQ), read_tokenizer, _TOKENS, card_alone),
  "fsq_old": Reader(old_tokenizer(SMALL_FSQ), read_tokenizer, _TOKENS, tensors_show),
  "vqgan": Reader(tokenizer(SMALL_VQGAN), read_tokenizer, _TOKENS, card_alone),
  "causal": Reader(tokenizer(SMALL_CAUSAL), read_tokenizer, _TOKENS, card_alone),
  "features_npz": Reader(
    make_features_npz,
    lambda p: plain(feature_files.read(str(p / "f.npz"))) | {"path": ""},
    legal=features_npz_show,
  ),
  "features_folder": Reader(
    make_features_folder,
    lambda p: plain(feature_files.read(str(p))) | {"path": ""},
    legal=features_show,
  ),
  "codes_npz": Reader(make_codes_npz, codes_of("c.npz"), legal=codes_show),
  "codes_npy": Reader(make_codes_npy, codes_of("c.npy"), legal=codes_show),
  "codes_safetensors": Reader(make_codes_safetensors, codes_of("c.safetensors"), legal=codes_show),
  "torch_zip": Reader(make_torch_zip, read_torch, legal=torch_shows),
  "diffusers": Reader(make_diffusers, read_diffusers, legal=diffusers_shows),
  "llama": Reader(make_llama, read_llama, legal=llama_shows),
  "llama_meta": Reader(make_meta, read_llama, legal=llama_shows),
  "lpips": Reader(make_lpips, read_lpips, legal=lpips_shows),
  "list": Reader(make_list, read_list, ("list.txt",), list_shows),
  "kinetics": Reader(make_kinetics, read_kinetics, ("val.csv",), kinetics_shows),
  "ssv2": Reader(make_ssv2, read_ssv2, ("*.json",), ssv2_shows),
  "diving48": Reader(make_diving48, read_diving48, ("*.json",), diving48_shows),
  "real": Reader(
    lambda path: (path / "real.json").write_text("[[7], [8, 6], [], [1, 12], [19, 4, 13]]"),
    read_real,
    legal=real_shows,
  ),
  "ego4d": Reader(make_ego4d, read_ego4d, ("v2/ego4d.json",), ego4d_shows),
  "sta": Reader(anticipated.make, read_sta, (anticipated.FILE,), sta_shows),
  "sta_results": Reader(make_sta_results, read_sta_results, ("results.json",), sta_results_show),
  "sta_around": Reader(
    make_sta_around, read_sta_around, ("world_sta_train.json",), sta_around_shows
  ),
  "howto100m": Reader(make_howto100m, read_howto100m, ("ids.csv",), spans_show),
  "intphys": Reader(make_intphys, read_physics("intphys"), ("O1/01/*/status.json",), physics_shows),
  **{
    f"physics_{name}": Reader(
      make_physics(name), read_physics(name), (_PHYSICS[name][0],), physics_shows
    )
    for name in _PHYSICS
  },
  "ucf101": Reader(make_ucf101, read_ucf101, ("*.txt",), ucf101_shows),
  "lerobot_21": Reader(
    make_lerobot("v21"), read_lerobot, ("set/meta/*", "set/data/*/*"), lerobot_shows
  ),
  "lerobot_30": Reader(
    make_lerobot("v30"),
    read_lerobot,
    ("set/meta/*.*", "set/meta/*/*/*", "set/data/*/*"),
    lerobot_shows,
  ),
  "policy": Reader(make_policy, read_policy, legal=policy_shows),
  "robomimic": Reader(make_robomimic, read_robomimic, legal=robomimic_shows),
  "cater": Reader(make_cater, read_cater, ("lists/*/*.txt", "scenes/*.json"), cater_shows),
  "imagenet": Reader(make_imagenet, read_imagenet, ("*.csv",), imagenet_shows),
  "imagenet_kit": Reader(make_imagenet_kit, read_imagenet, ("meta.mat", "*.txt"), imagenet_shows),
  "tar": Reader(make_tar, read_tar, legal=tar_shows),
  "png": Reader(picture("a.png"), pixels_of("a.png")),
  "jpeg": Reader(picture("a.jpg"), pixels_of("a.jpg"), legal=other_pixels),
  "pairs": Reader(
    make_pairs,
    lambda path: [plain([pair.id, *pair.read()]) for pair in pairs.list_pairs(str(path))],
  ),
  "videos": Reader(make_videos, pixels_of("a.mp4", "b.avi", spec=CLIP), legal=other_pixels),
  "uploads": Reader(make_videos, read_uploads, legal=upload_shows),
  "tfds": Reader(make_tfds, read_tfds, legal=tfds_shows),
  **{
    f"tracks_{name}": Reader(make_tracks(name), read_tracks(name), patterns, tracks_show)
    for name, patterns in (
      ("davis", ("ImageSets/2017/*.txt", "Annotations/480p/*/*.png")),
      ("jhmdb", ("splits/*.txt", "joint_positions/*/*/*.mat")),
      ("vip", ("lists/*.txt", "Annotations/Category_ids/*/*.png")),
    )
  },
  "tracks_named": Reader(make_named_tracks, read_named_tracks, ("mine.txt",), named_tracks_show),
  "maps_npz": Reader(make_maps("npz"), read_maps, legal=maps_show),
  "maps_safetensors": Reader(make_maps("safetensors"), read_maps, legal=maps_show),
  "seen_npz": Reader(make_seen("npz"), read_seen, legal=seen_shows),
  "seen_safetensors": Reader(make_seen("safetensors"), read_seen, legal=seen_shows),
  "plugin": Reader(make_plugin, read_plugin, ("mine.py",), of_the_user),
  "config": Reader(make_config, read_config, ("c.py",), of_the_user),
  "run_files": Reader(make_run_files, read_run_files, legal=run_files_show),
  "run": Reader(make_run, read_run, _OF_RUN, run_shows),
  "run_old": Reader(make_old_run, read_run, _OF_RUN, run_shows),
}


@pytest.fixture(scope="module")
def folder_of_samples(tmp_path_factory):
  root = tmp_path_factory.mktemp("fuzz")
  for name, reader in READERS.items():
    (root / "samples" / name).mkdir(parents=True)
    reader.make(root / "samples" / name)
  return root


def fuzz(folder, *, seconds: float, first: int, names=tuple(READERS), cases: int = 10**9):
  """(reader -> end -> count, what was not allowed) of readers, each for its share of the time."""
  counts, wrong = {name: collections.Counter() for name in names}, []
  child = fuzzing.Child(folder)  # what it has compiled serves all
  try:
    for name in names:
      child.outcome(name, None)  # imports and compilers are nobody's share
      end = time.monotonic() + seconds / len(names)
      for seed in range(first, first + cases):
        outcome = child.outcome(name, seed)
        counts[name][outcome.end] += 1
        if not outcome.is_allowed:
          wrong.append(f"{name}, seed {seed}: {outcome.end}: {outcome.words}")
        if time.monotonic() > end or sum(line.startswith(f"{name},") for line in wrong) > 5:
          break
  finally:
    child.close()
  return counts, wrong


# Which readers there are.

# What opens or parses a file from outside: the door, and libraries beside it.
DOOR = {
  *("outside.load", "outside.open_plain", "outside.read_json", "outside.parse", "outside.fields"),
  *("reading.load", "reading.open_file", "reading.open_text", "files.read_json", "files_lib.lines"),
  *("files.lines", "files.table", "arrays.load", "arrays.find", "arrays.stored", "arrays.metadata"),
  *("arrays_lib.load", "json.loads", "json.load", "np.load", "zipfile.ZipFile", "tarfile.open"),
  *("csv.reader", "csv.DictReader", "pickle.load", "safetensors.deserialize", "torch.load", "open"),
}
LIBRARIES = {"json.loads", "np.load", "open", "json.load"}  # which may be about something else
# "file:function" -> why no sample is read through it here.
ELSEWHERE = {
  "data/pixels/containers.py:has_bytes": "asks only whether there is a first byte",
  "data/pixels/media.py:_check_there": "the same",
  "data/pixels/media.py:_source": "a file of a bucket",
  "data/pixels/photos.py:read": "what scikit-image ships, or `media` reads",
  "storage/door.py:_far": "an answer of Google's machines",
  "tokenizers/released/download.py:_write": "its own file, which it writes",
  "tokenizers/released/download.py:known": "its own note; tests/test_download.py",
}


def callers() -> dict[str, set[str]]:
  """ "file:function" of data/, storage/ and tokenizers/ -> what of `DOOR` it calls."""
  package, found = pathlib.Path(outside.__file__).parent.parent, collections.defaultdict(set)
  for part in ("data", "storage", "tokenizers"):
    for path in (package / part).rglob("*.py"):
      for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef):
          calls = {ast.unparse(c.func) for c in ast.walk(function) if isinstance(c, ast.Call)}
          if calls & DOOR:
            found[f"{path.relative_to(package)}:{function.name}"] |= calls & DOOR
  return found


def executed(samples: pathlib.Path) -> set[str]:
  """ "file:function" of all that reading the samples runs."""
  package, seen = str(pathlib.Path(outside.__file__).parent.parent) + "/", set()

  def spy(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(package):
      seen.add(f"{frame.f_code.co_filename.removeprefix(package)}:{frame.f_code.co_name}")

  sys.setprofile(spy)
  threading.setprofile(spy)  # stores are opened by several
  try:
    for name, reader in READERS.items():
      reader.read(samples / name)
  finally:
    sys.setprofile(None)
    threading.setprofile(None)
  return seen


def test_every_reader_has_a_sample(folder_of_samples):
  scratch = folder_of_samples / "read"
  shutil.copytree(folder_of_samples / "samples", scratch)
  found, seen = callers(), executed(scratch)
  lost = {p: sorted(c) for p, c in found.items() if p not in seen and p not in ELSEWHERE}
  assert ELSEWHERE.keys() <= found.keys()
  assert not lost, f"readers without a sample in READERS: {lost}"
  assert "data/store/manifests.py:load" in found  # or it would be looking at nothing


def _first_seed() -> int:
  return int(os.environ.get("TOTOJAX_FUZZ_SEED", 7_399_490_000))


def test_damaged_files_are_refused_or_read_as_they_were(folder_of_samples):
  counts, wrong = fuzz(folder_of_samples, seconds=6, first=0, cases=25)
  assert not wrong, "\n".join(wrong)
  assert all(sum(ends.values()) for ends in counts.values())
  assert sum(ends["refused"] for ends in counts.values()) > 0


@pytest.mark.slow
def test_more_of_them_by_other_seeds(folder_of_samples):
  # A number of cases, not a time: a faster machine would find what another one passed.
  cases = int(os.environ.get("TOTOJAX_FUZZ_CASES", 60 if runs.EXHAUSTIVE else 10))
  counts, wrong = fuzz(folder_of_samples, seconds=600, first=_first_seed(), cases=cases)
  assert not wrong, "\n".join(wrong)


def _planted(change, name="list"):
  return dataclasses.replace(READERS[name], read=change)


@pytest.mark.parametrize(
  "change, end",
  [(lambda path: 1 / 0, "traceback"), (lambda path: np.zeros(2**55), "out of memory")],
)
def test_what_is_not_allowed_is_seen(folder_of_samples, tmp_path, change, end):
  """A reader that fails otherwise, or believes whatever it reads."""
  sample = folder_of_samples / "samples" / "list"
  outcome = fuzzing.run(_planted(change), sample, None, tmp_path / "at", "list/0")
  assert outcome.end == end and not outcome.is_allowed


def test_a_value_that_is_believed_is_seen(folder_of_samples, tmp_path):
  sample = folder_of_samples / "samples" / "list"
  believing = dataclasses.replace(
    READERS["list"], read=lambda path: (path / "list.txt").read_bytes(), legal=never
  )
  sound = (sample / "list.txt").read_bytes()
  ends = {
    fuzzing.run(believing, sample, sound, tmp_path / "at", f"list/{i}").end for i in range(40)
  }
  assert "silent" in ends


if __name__ == "__main__":  # python tests/test_fuzz.py READERS SEED CASES: the counts, as a table
  import tempfile

  import test_fuzz

  asked, first, cases = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
  names = tuple(test_fuzz.READERS) if asked == "all" else tuple(asked.split(","))
  root = pathlib.Path(tempfile.mkdtemp())
  for name in names:
    (root / "samples" / name).mkdir(parents=True)
    test_fuzz.READERS[name].make(root / "samples" / name)
  seconds = float(os.environ.get("TOTOJAX_FUZZ_S", 1e9))
  counts, wrong = test_fuzz.fuzz(root, seconds=seconds, first=first, names=names, cases=cases)
  print("| reader | tried | refused | same | legal | anything else |\n|---|---|---|---|---|---|")
  for name, ends in counts.items():
    known = [ends.pop(end, 0) for end in ("refused", "same", "legal")]
    print(f"| {name} | {sum(known) + sum(ends.values())} |", *(f"{n} |" for n in known), end="")
    print(f" {sum(ends.values())} |")
  print("\n".join(wrong), file=sys.stderr)
