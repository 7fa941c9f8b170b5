"""`run = "probe"`: what every layer of a frozen backbone knows of some classes.

Writes `per_layer.csv` (one row for each head), `metrics.json` (the best layer
chosen on the validation set, as the paper does, and on a hold-out of the
training set), `predictions.csv` (of the heads chosen on the hold-out) and
`layer_curve.png` (Figures 4, 8 and 14). Every backbone has a folder of its own
and is not trained again.

Shapes: M records, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import train
from totojax.config.typed import typed
from totojax.data.store import shards
from totojax.data.stream import without_backbone
from totojax.jobs.probe import kept as features_lib
from totojax.jobs.probe import memory as probe_plan
from totojax.jobs.probe import runs as build
from totojax.jobs.probe import setup as probe_setup
from totojax.jobs.probe import tables
from totojax.rundir import console
from totojax.rundir import directory
from totojax.rundir import files
from totojax.trained import backbone


def run(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Trains and scores every head; False when interrupted."""
  paper = typed(tables.Paper, config["paper"], "paper")
  of = probe_setup.setup(config)
  plan = probe_plan.plan(of)
  directory.begin(workdir, config, backbone=_facts(of), plan=list(plan.lines))
  for line in plan.lines:
    console.say(line)
  backbone.check_same(_facts(of), workdir)
  programs = {}
  for unit in plan.units:
    folder = workdir / unit.name
    if directory.is_done(folder):
      continue
    begin = time.monotonic()
    if not _unit(of, unit, programs, folder, workdir, interrupted):
      return False
    directory.mark_done(folder, time.monotonic() - begin)
  if jax.process_index() == 0:
    found = [tables.read(unit, workdir / unit.name) for unit in plan.units]
    tables.write(
        of, tables.joined(found), workdir, paper,
        depths={name: max(e.layers[-1], 1) for name, e in of.encoders.items()},
    )  # fmt: skip
  return True


def _facts(of: probe_setup.Setup) -> dict[str, Any]:
  outside = {name: list(e.layers) for name, e in of.encoders.items()}
  if of.run is None:
    return {"encoders": outside}
  return {
      **({"encoders": outside} if outside else {}),
      "model_run": str(of.run.path),
      "step": of.run.step,
      "tokenizer": of.run.tokenizer,
      "frames": of.model.spec.frames,
      "depth": of.run.model.config.depth,
  }


def _unit(
    of: probe_setup.Setup,
    unit: probe_setup.Unit,
    programs: dict[Any, build.Programs],
    folder: epath.Path,
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Trains the heads of one unit and keeps their scores."""
  features = None
  if unit.source in of.encoders:
    stop = unit.first + len(unit.layers)
    features = {
        name: x_ML[:, unit.first : stop]
        for name, x_ML in of.encoders[unit.source].features.items()
    }
  elif unit.source in probe_setup.BASELINES:
    features = _baseline(of, unit.source)
  elif of.cached:
    features = _features(of, unit, workdir, interrupted)
    if features is None:
      return False
  run_, score = build.training(of, unit, features, programs)
  state, finished = train.fit(run_, folder, interrupted=interrupted)
  if not finished:
    return False
  arrays = {"train_loss": np.asarray(state.stats["train_loss"])}
  for name in tables.SPLITS:
    for key, value in vars(score(state, name)).items():
      arrays[f"{name}/{key}"] = value
  if jax.process_index() == 0:
    files.write_npz(folder / "scores.npz", arrays)
  return True


def _baseline(of: probe_setup.Setup, source: str) -> dict[str, np.ndarray]:
  """What the classes can be told from without a backbone: [M, 1, D]."""
  out = {}
  pairs = (("train", of.whole), ("validation", of.validation))
  for name, data in pairs:
    if source == "histogram":
      found = without_backbone.histograms(data.store, of.model.spec.vocab)
    else:
      path = getattr(of.data, f"{name}_pixels")
      pixels = shards.open_store(path, tokenizer=None, vocab=None, grid=None)
      without_backbone.same_records(data, pixels)
      found = without_backbone.small_pixels(pixels, of.data.pixels_side)
    out[name] = found[:, None]
  return out


def _features(
    of: probe_setup.Setup,
    unit: probe_setup.Unit,
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> dict[str, np.ndarray] | None:
  """Means of every layer [M, L, D], made where they are not there yet."""
  if str(workdir).startswith(("gs://", "s3://")):
    raise ValueError(
        f"{workdir} is no local folder, where features are kept; set cache"
        ' "off", or use a local --workdir'
    )
  folder = workdir / "features"
  folder.mkdir(parents=True, exist_ok=True)
  found, pooled = {}, None
  for name, data in (("train", of.whole), ("validation", of.validation)):
    path = folder / f"{unit.source}-{name}.npy"
    batches = build.finite(
        of, data, build.read_tokens(of, data), by_item=False
    )
    facts = {**_facts(of), "source": unit.source, "store": data.store.path,
             "layers": of.layers, "seed": of.config["seed"]}  # fmt: skip
    if pooled is None and not features_lib.is_whole(path):
      model, params = backbone.load(
          of.run, of.model, trained=unit.source == "trained",
          depth=of.layers[-1], on=of.on, seed=of.config["seed"],
      )  # fmt: skip
      pooled = backbone.features(
          model, params, layers=of.layers, pool="clip", on=of.on
      )
    shape = len(of.layers), of.width(unit.source)
    if not features_lib.make(
        path, pooled, batches, shape=shape, of=facts, interrupted=interrupted
    ):
      return None
    whole = features_lib.load(path)
    found[name] = whole[:, unit.first : unit.first + len(unit.layers)]
  return found
