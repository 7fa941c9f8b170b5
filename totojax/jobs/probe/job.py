"""`run = "probe"`: what every layer of a frozen backbone knows of some classes.

Writes `per_layer.csv` (one row for each head), `metrics.json` (the best layer
chosen on the validation set, as the paper does, and on a hold-out of the
training set), `predictions.csv` (of the heads chosen on the hold-out) and
`layer_curve.png` (Figures 4, 8 and 14). Every backbone has a folder of its own
and is not trained again.

Shapes: M records, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import train
from totojax.config import labels
from totojax.data.store import shards
from totojax.data.stream import without_backbone
from totojax.jobs.labels import tables
from totojax.jobs.probe import kept, runs
from totojax.jobs.probe import memory as probe_plan
from totojax.jobs.probe import setup as probe_setup
from totojax.rundir import console, directory, files
from totojax.trained import backbone


def run(config: labels.Probe, workdir: epath.Path, interrupted: Callable[[int], bool]) -> bool:
  """Trains and scores every head; False when interrupted."""
  setup = probe_setup.prepare(config)
  plan, facts = probe_plan.plan(setup), _facts(setup)
  directory.begin(workdir, config, backbone=facts, plan=list(plan.lines))
  for line in plan.lines:
    console.say(line)
  backbone.check_same(facts, workdir)
  programs = {}
  for unit in plan.units:
    folder = workdir / unit.name
    if directory.is_done(folder):
      continue
    begin = time.monotonic()
    if not _unit(setup, unit, programs, folder, workdir, interrupted):
      return False
    directory.mark_done(folder, time.monotonic() - begin)
  if jax.process_index() == 0:
    heads = [
      tables.read(
        name,
        source.layers,
        source.depth,
        [workdir / unit.name for unit in plan.units if unit.source == name],
      )
      for name, source in setup.sources.items()
    ]
    tables.write(setup, heads, workdir)
  return True


def _facts(setup: probe_setup.Setup) -> dict[str, Any]:
  outside = {name: list(s.layers) for name, s in setup.sources.items() if s.features is not None}
  if setup.run is None:
    return {"encoders": outside}
  run, model = setup.trained
  return {
    **({"encoders": outside} if outside else {}),
    "model_run": str(run.path),
    "step": run.step,
    "tokenizer": run.tokenizer,
    "frames": model.spec.frames,
    "depth": run.model.config.depth,
  }


def _unit(
  setup: probe_setup.Setup,
  unit: probe_setup.Unit,
  programs: dict[Any, runs.Programs],
  folder: epath.Path,
  workdir: epath.Path,
  interrupted: Callable[[int], bool],
) -> bool:
  """Trains the heads of one unit and keeps their scores."""
  source, features = setup.sources[unit.source], None
  if source.features is not None:
    stop = unit.first + len(unit.layers)
    features = {name: x_ML[:, unit.first : stop] for name, x_ML in source.features.items()}
  elif not source.model:
    features = _baseline(setup, unit.source)
  elif setup.cached:
    features = _features(setup, unit, workdir, interrupted)
    if features is None:
      return False
  training, score = runs.training(setup, unit, features, programs)
  state, finished = train.fit(training, folder, interrupted=interrupted)
  if not finished:
    return False
  arrays = {"train_loss": np.asarray(state.stats["train_loss"])}
  for name in tables.SPLITS:
    for key, value in vars(score(state, name)).items():
      arrays[f"{name}/{key}"] = value
  if jax.process_index() == 0:
    files.write_npz(folder / "scores.npz", arrays)
  return True


def _baseline(setup: probe_setup.Setup, source: str) -> dict[str, np.ndarray]:
  """What the classes can be told from without a backbone: [M, 1, D]."""
  data, out = setup.config.data, {}
  for name, records, path in (
    ("train", setup.sets.all_train, data.train_pixels),
    ("validation", setup.sets.validation, data.validation_pixels),
  ):
    if source == "histogram":
      _, model = setup.trained
      x_MD = without_backbone.histograms(records.tokens, model.spec.vocab)
    else:
      pixels = shards.open_store(path, tokenizer=None, vocab=None, grid=None)
      without_backbone.same_records(records, pixels)
      x_MD = without_backbone.small_pixels(pixels, data.pixels_side)
    out[name] = x_MD[:, None]
  return out


def _features(
  setup: probe_setup.Setup,
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
  source, seed = setup.sources[unit.source], setup.config.seed
  layers = source.layers
  out, pooled = {}, None
  for name, records in (("train", setup.sets.all_train), ("validation", setup.sets.validation)):
    path = folder / f"{unit.source}-{name}.npy"
    batches = setup.finite(records, runs.read_tokens(setup, records), by_item=False)
    facts = {
      **_facts(setup),
      "source": unit.source,
      "store": records.tokens.path,
      "layers": layers,
      "seed": seed,
    }
    if pooled is None and not kept.is_whole(path):
      model, params = backbone.load(
        *setup.trained,
        trained=unit.source == "trained",
        depth=layers[-1],
        layout=setup.layout,
        seed=seed,
      )
      pooled = backbone.features(model, params, layers=layers, pool="clip", layout=setup.layout)
    if not kept.make(
      path, pooled, batches, shape=(len(layers), source.width), facts=facts, interrupted=interrupted
    ):
      return None
    x_ML = kept.load(path)
    out[name] = x_ML[:, unit.first : unit.first + len(unit.layers)]
  return out
