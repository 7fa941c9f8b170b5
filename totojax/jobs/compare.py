"""`run = "compare"`: any encoders by any probes, in one table and one page.

Every encoder sees the same clips of two stores of pixels, resized to its side;
its features are kept in `features/`, its probes in `probes/`, each a run of its
own, and what is there is not made again. Leaves `compare.csv`, `compare.md`,
`metrics.json` and `report.html`.

A row is an encoder and a probe: the top-1 of the layer that a hold-out of the
training items chose, its mean over seeds with a 95 % interval (`probe.seeds`);
neighbours train nothing, and have the interval of so many items alone. Of the
probe "track" it is the score of `run = "track"` of the encoder.

Shapes: R clips, N frames, H, W and S pixels, L layers, T tokens, D width.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import pathlib
import resource
import sys
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import jobs
from totojax.config import compare, labels, schema, track
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.data.store import feature_files, store as store_lib
from totojax.data.stream import labelled
from totojax.jobs.probe import seeds
from totojax.models import taps
from totojax.report import compare_page, frame, shares
from totojax.rundir import console, directory, files, pieces
from totojax.trained import backbone, encoders, model as pretrained, ready

_UNIT = 128  # records of a file of features: what an interruption costs
_SPLITS = ("train", "validation")
_NAME = "encoder"  # of each in its own probes, where "pixels" is a baseline's


@dataclasses.dataclass(frozen=True)
class _Encoder:
  """An encoder, ready for clips of any side and number of frames."""

  layers: tuple[int, ...]
  size_px: int
  frames: int  # of a clip, at most
  multiple: int
  facts: Mapping[str, Any]
  # uint8 [R, N, S, S, 3] -> [L, R, D], or with tokens [L, R, T, D]
  compute: Callable[[np.ndarray], np.ndarray]


def run(config: compare.CompareJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Makes the rows of the table that are not there; False when interrupted.

  Raises:
    ValueError: a store or an encoder does not fit.
  """
  settings = config.compare
  records = {}
  if {*settings.probes} - {compare.TRACK}:
    records = {split: _records(getattr(settings, split), split) for split in _SPLITS}
    labelled.check_apart(records["train"], records["validation"])
  data = {f"compare.{split}": each.identity for split, each in records.items()}
  directory.begin(workdir, config, data=data)
  rows = []
  work = [(name, probe) for name in settings.encoders for probe in settings.probes]
  for number, (name, probe) in enumerate(work, 1):
    console.say(f"[{number}/{len(work)}] {name}: {probe}")
    if probe == compare.TRACK:
      found = _tracked(config, name, workdir / "probes", interrupted)
      if found is None:
        return False
      rows.append({"encoder": name, "probe": probe, **found})
      _write(rows, workdir)
      continue
    pool = "clip" if probe in ("knn", "linear") else "token"
    folder = workdir / "features" / f"{name}-{pool}"
    if not _features(settings.encoders[name], folder, records, pool, settings.rows, interrupted):
      return False
    paths = labels.EncoderFiles(train=str(folder / "train"), validation=str(folder / "validation"))
    found = _asked(config, name, probe, paths, workdir / "probes", interrupted)
    if found is None:
      return False
    cost = files.read_json(folder / "cost.json")
    del cost["of"]
    rows.append({"encoder": name, "probe": probe, **found, **cost})
    _write(rows, workdir)
  console.say(_table(rows))
  console.say(f"report: {frame.write(workdir, compare_page.PAGE)}")
  return True


def _records(path: str, split: str) -> labelled.Records:
  """The clips of a store of pixels, with classes."""
  if not path:
    raise ConfigError(
      f"compare.{split} is empty; give a store of pixels with classes, as configs/tokenize.py"
      " makes with --config.tokenizer=pixels"
    )
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if store.manifest.tokenizer:
    raise ConfigError(f"compare.{split}: {path} holds tokens; give a store of pixels")
  return labelled.records(store, split)


def _opened(config: compare.Encoder, pool: str, rows: int) -> _Encoder:
  """What computes features; loads it."""
  if config.encoder:
    encoder = ready.load(config.encoder, pool=pool, norm=config.norm)
    layers = config.layers or encoder.layers
    if unknown := sorted(set(layers) - set(encoder.layers)):
      raise ConfigError(f"{config.encoder} has layers {encoder.layers}, and none {unknown[0]}")
    places = [encoder.layers.index(layer) for layer in layers]
    return _Encoder(
      layers,
      encoder.size_px,
      encoder.frames,
      encoder.multiple,
      {"encoder": config.encoder, "digest": encoder.digest, "normed": encoder.normed},
      lambda clips_RNSS3: np.asarray(encoder.features(clips_RNSS3))[places],
    )
  source = backbone.find(config.model_run, patches=True)
  depth = source.model.config.depth
  layers = config.layers or tuple(range(depth + 1))
  taps.check_layers(layers, depth)
  model = pretrained.load(source.path, depth=layers[-1], trained=not config.untrained)

  def compute(clips_RNSS3: np.ndarray) -> np.ndarray:
    x_LR = model.features(clips_RNSS3, layer=layers, pool=pool, rows=rows)
    return x_LR if pool == "clip" else x_LR.reshape(*x_LR.shape[:2], -1, x_LR.shape[-1])

  facts = {"model_run": str(source.path), "step": source.step, "untrained": config.untrained}
  return _Encoder(layers, model.size_px, model.frames, 1, facts, compute)


def _features(
  config: compare.Encoder,
  folder: epath.Path,
  records: Mapping[str, labelled.Records],
  pool: str,
  rows: int,
  interrupted: jobs.Interrupted,
) -> bool:
  """Features of both stores, as `run = "features"` leaves them; False when interrupted."""
  asked = json.loads(json.dumps(schema.to_dict(config)))
  if files.exists(folder / "cost.json"):
    made = files.read_json(folder / "cost.json")["of"]
    if made != asked:
      raise ConfigError(
        f"{folder} has features of {made}, and the config asks for {asked}; give this encoder"
        " another name, or use another --workdir"
      )
    return True
  before = _memory_bytes(reset=True)
  encoder = _opened(config, pool, rows)
  files.make_folder(folder)
  backbone.check_same({**encoder.facts, "layers": list(encoder.layers)}, folder)
  seconds = []
  for split, data in records.items():
    notes = pieces.Pieces(folder / split)
    files.make_folder(folder / split)
    starts = range(0, len(data.labels), _UNIT)
    with console.tracking(f"features of {split}", unit="clips", total=len(data.labels)) as bar:
      for number, start in enumerate(starts):
        which = np.arange(start, min(start + _UNIT, len(data.labels)))
        if (note := notes.read(number)) is None:
          parts, note = [], {"seconds": []}
          for first in range(0, len(which), rows):
            if interrupted(bar.done):
              return False
            clips = _clips(data.tokens, which[first : first + rows], encoder)
            begin = time.perf_counter()
            parts.append(encoder.compute(clips))
            note["seconds"].append((time.perf_counter() - begin) / len(clips))
          x_LR = np.concatenate(parts, axis=1)
          arrays = dict(zip(map(feature_files.layer_name, encoder.layers), x_LR))
          arrays["label"] = data.labels[which].astype(np.int32)
          made = feature_files.to_bytes(arrays, "safetensors")
          files.write_bytes(folder / split / f"{number:05d}.safetensors", made)
          notes.write(number, note)
        seconds += note["seconds"]
        bar.advance(len(which))
    names = [f"{number:05d}.safetensors" for number in range(len(starts))]
    contents = {"classes": data.classes, "files": names, "ids": data.ids}
    files.write_json(folder / split / feature_files.WHOLE, contents)
  peak = _memory_bytes()
  cost = {
    # The first passes compile.
    "seconds_a_clip": float(np.median(seconds)),
    "memory_bytes": None if before is None or peak is None else max(peak - before, 0),
    "size_px": encoder.size_px,
    "frames": len(_places(records["train"].tokens.manifest.pixel_frames, encoder)),
    "normed": bool(encoder.facts.get("normed")),
    "of": asked,
  }
  files.write_json(folder / "cost.json", cost)
  return True


def _places(count: int, encoder: _Encoder) -> np.ndarray:
  """Which of a clip's frames an encoder sees."""
  return encoders.places(count, most=encoder.frames, multiple=encoder.multiple)


def _clips(store: store_lib.Store, which: np.ndarray, encoder: _Encoder) -> np.ndarray:
  """uint8 [R, N, S, S, 3] of records, as an encoder reads them."""
  frames = store.read(which)["frames"]
  clips_RNHW3 = frames[:, None] if frames.ndim == 4 else frames
  if clips_RNHW3.shape[1] > 1:
    clips_RNHW3 = clips_RNHW3[:, _places(clips_RNHW3.shape[1], encoder)]
  return augment.fitted(clips_RNHW3, encoder.size_px, "bicubic")


def _memory_bytes(*, reset: bool = False) -> int | None:
  """The most that was held, of a device or, of a CPU, by this process; None: unknown.

  With `reset` the process' own mark is put to what it holds now, where the
  system can.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return stats["bytes_in_use"] if reset else stats["peak_bytes_in_use"]
  if reset:
    try:
      pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
      return None
  try:
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [x for x in status.splitlines() if x.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
  except (OSError, ValueError):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None if reset else peak * (1 if sys.platform == "darwin" else 1024)


def _asked(
  config: compare.CompareJob,
  name: str,
  probe: str,
  paths: labels.EncoderFiles,
  folder: epath.Path,
  interrupted: jobs.Interrupted,
) -> dict[str, Any] | None:
  """What a probe says of an encoder; None when interrupted."""
  settings = config.compare
  runs = settings.seeds[:1] if probe == "knn" else settings.seeds
  found = []
  for seed in runs:
    where = folder / f"{name}-{probe}-{seed}"
    if not _finished(_config(config, probe, paths, seed), where, interrupted):
      return None
    found.append(files.read_json(where / "metrics.json"))
  key = f"{_NAME}/k{config.knn.neighbours[0]}" if probe == "knn" else _NAME
  tops = [one[f"{key}/chosen_on_holdout/top1"] for one in found]
  layers = [one[f"{key}/chosen_on_holdout/layer"] for one in found]
  n = found[0]["n"]
  if len(tops) > 1:
    ends = seeds.interval(tops, n)
    low, high = ends.low, ends.high
  else:
    low, high = map(float, shares.wilson(tops[0], n))
  return {
    "measure": "top-1",
    "score": float(np.mean(tops)),
    "low": max(low, 0.0),
    "high": min(high, 1.0),
    "seeds": len(tops),
    "layers": " ".join(map(str, layers)),
    "n": n,
    "majority_top1": found[0]["majority_top1"],
  }


def _finished(config: Any, where: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Makes a run that is not there yet; False when interrupted."""
  if not directory.is_done(where):
    begin = time.monotonic()
    if not jobs.run(config, where, interrupted):
      return False
    directory.mark_done(where, time.monotonic() - begin)
  return True


def _tracked(
  config: compare.CompareJob, name: str, folder: epath.Path, interrupted: jobs.Interrupted
) -> dict[str, Any] | None:
  """What tracking says of an encoder; None when interrupted."""
  asked = schema.to_dict(config.compare.encoders[name])
  settings = dataclasses.replace(
    config.track, encoders={_NAME: track.Tracker(**asked)}, baselines=(), seeds={}
  )
  where = folder / f"{name}-{compare.TRACK}"
  if not _finished(settings, where, interrupted):
    return None
  metrics = files.read_json(where / "metrics.json")
  best = max(metrics["rows"], key=lambda row: row["score"])
  return {
    "measure": metrics["score"],
    "score": best["score"],
    "low": best["low"],
    "high": best["high"],
    "seeds": 1,
    "layers": f"{best['layer']} ({best['rule']})",
    "n": metrics["sequences"],
    "majority_top1": None,
    "seconds_a_clip": best["features_s_a_frame"],
    "memory_bytes": None,
    "size_px": config.track.frames.size_px or None,
    "frames": 1,
    "normed": asked["norm"],
  }


def _config(
  config: compare.CompareJob, probe: str, paths: labels.EncoderFiles, seed: int
) -> compare.KnnJob | labels.Probe:
  """The run of one seed."""
  if probe == "knn":
    return compare.KnnJob(run="knn", seed=seed, encoders={_NAME: paths}, knn=config.knn)
  head = dataclasses.replace(
    config.probe.head, pool=compare.POOLS[probe], heads=config.compare.heads
  )
  shared = config.probe
  empty = dict(train="", validation="", train_pixels="", validation_pixels="")
  return dataclasses.replace(
    shared,
    seed=seed,
    model_run="",
    backbones=(),
    encoders={_NAME: paths},
    layers=(),
    data=dataclasses.replace(shared.data, **empty),
    head=head,
  )


def _write(rows: list[dict[str, Any]], workdir: epath.Path) -> None:
  files.write_csv(workdir / "compare.csv", rows)
  files.write_text(workdir / "compare.md", _table(rows))
  metrics = {f"{row['encoder']}/{row['probe']}/{k}": v for row in rows for k, v in row.items()}
  files.write_json(workdir / "metrics.json", metrics)


def _table(rows: list[dict[str, Any]]) -> str:
  """In Markdown."""
  lines = [" | ".join(head for head, _ in compare_page.COLUMNS)]
  lines += [" | ".join("---" for _ in compare_page.COLUMNS)]
  lines += [" | ".join(compare_page.cells(row)) for row in rows]
  return "".join(f"| {line} |\n" for line in lines)
