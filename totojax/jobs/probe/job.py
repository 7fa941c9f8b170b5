"""`run = "probe"`: what every layer of a frozen backbone knows of some classes.

Writes `per_layer.csv` (one row for each head), `metrics.json` (the best layer
chosen on the validation set, as the paper does, and on a hold-out of the
training set), `predictions.csv` (of the heads chosen on the hold-out) and
`layer_curve.png` (Figures 4, 8 and 14).

The heads of every subject, and where memory asks for it of some of its layers,
are a group: a run of its own in a folder of its own, which is not trained again.

Shapes: M records, L layers, T tokens, D width.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import time
from typing import Any
import zlib

from etils import epath
import jax
import numpy as np

from totojax import assembly, flops, jobs, tasks, train
from totojax.config import labels, schema
from totojax.data.store import store as store_lib
from totojax.data.stream import labelled, without_backbone
from totojax.evals import top1
from totojax.jobs.labels import setup as setup_lib, tables
from totojax.jobs.probe import kept, memory, setup as probe_setup
from totojax.models import trunk
from totojax.optim import lars
from totojax.rundir import console, directory, files, local
from totojax.tasks import classify, encode
from totojax.tokenizers import api
from totojax.trained import backbone

_FEATURES = "features"  # the folder, on this machine
Arrays = Mapping[str, np.ndarray]  # "train" and "validation" -> of every record


@dataclasses.dataclass(frozen=True)
class Programs:
  """What is compiled for heads on features of one shape."""

  run: train.Run
  outcomes: Callable[..., Any]


def run(config: labels.Probe, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains and scores every head; False when interrupted."""
  setup = _placed(probe_setup.prepare(config), workdir)
  real = tables.real_labels(setup)
  plan, facts = memory.plan(setup), _facts(setup)
  directory.begin(workdir, config, data=setup.data, backbone=facts, plan=list(plan.lines))
  for line in plan.lines:
    console.say(line)
  backbone.check_same(facts, workdir)
  programs = {}
  for number, group in enumerate(plan.groups, 1):
    folder = workdir / group.name
    if directory.is_done(folder):
      continue
    console.say(f"[{number}/{len(plan.groups)}] heads of {group.name}")
    begin = time.monotonic()
    if not _train(setup, group, programs, workdir, interrupted):
      return False
    directory.mark_done(folder, time.monotonic() - begin)
  if jax.process_index() == 0:
    heads = [
      tables.read(
        name,
        subject.layers,
        subject.depth,
        [workdir / group.name for group in plan.parts(name)],
        lists=tuple(setup.sets.lists),
      )
      for name, subject in setup.subjects.items()
    ]
    tables.write(setup, heads, workdir, real=real)
    local.remove(workdir, _FEATURES)
  return True


def _placed(setup: probe_setup.ProbeSetup, workdir: epath.Path) -> probe_setup.ProbeSetup:
  """The setup, without kept features where a disk has no room for them.

  Raises:
    ValueError: it has none, and `cache` is "on".
  """
  if not setup.cached:
    return setup
  folder = local.folder(workdir, _FEATURES)
  rows = sum(len(records.records) for records in setup.sets.splits.values())
  models = [subject for subject in setup.subjects.values() if subject.model]
  needed = sum(4 * rows * len(subject.layers) * subject.width for subject in models)
  if needed <= (room := kept.room_bytes(folder)):
    return setup
  words = f"features take {needed / 1e9:.3g} GB and {folder} has room for {room / 1e9:.3g}"
  if setup.config.cache == "on":
    raise ValueError(f'{words}; make room there, or set cache "auto"')
  console.say(f"{words}: they are not kept")
  return dataclasses.replace(setup, cached=False)


def _facts(setup: probe_setup.ProbeSetup) -> dict[str, Any]:
  encoders = {name: list(s.layers) for name, s in setup.subjects.items() if s.features is not None}
  if setup.run is None:
    return {"encoders": encoders}
  run, model = setup.trained
  return {
    **({"encoders": encoders} if encoders else {}),
    "model_run": str(run.path),
    "step": run.step,
    "digest": run.digest,
    "tokenizer": run.tokenizer,
    "frames": model.spec.frames,
    "depth": run.model.config.depth,
  }


def _train(
  setup: probe_setup.ProbeSetup,
  group: probe_setup.HeadGroup,
  programs: dict[Any, Programs],
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Trains the heads of one group and keeps their scores."""
  subject, features, reads = setup.subjects[group.source], None, None
  if subject.features is not None:
    features = subject.features
  elif not subject.model:
    features = _baseline(setup, group.source)
  elif setup.cached:
    features = _cached(setup, group.source, workdir, interrupted)
    if features is None:
      return False
  if features is not None:
    splits = setup.sets.splits
    # What is kept has a row for each record that is used; all else for every one.
    reads = {
      name: labelled.ReadFeatures(
        x_ML[:, group.part], splits[name].records if subject.model else None
      )
      for name, x_ML in features.items()
    }
  training, score = _training(setup, group, reads, programs)
  state, finished = train.fit(training, workdir / group.name, interrupted=interrupted)
  if not finished:
    return False
  diverged_LS = np.asarray(lars.diverged(state.opt_state))
  arrays = {"train_loss": np.where(diverged_LS, np.nan, np.asarray(state.stats["train_loss"]))}
  for split in (*tables.SPLITS, *setup.sets.lists):
    arrays |= {f"{split}/{key}": value for key, value in vars(score(state, split)).items()}
  if jax.process_index() == 0:
    files.write_npz(workdir / group.name / "scores.npz", arrays)
  return True


def _baseline(setup: probe_setup.ProbeSetup, source: str) -> Arrays:
  """What the classes can be told from without a backbone: [M, 1, D]."""
  data, features = setup.config.data, {}
  for name, records in setup.sets.splits.items():
    if source == "histogram":
      x_MD = without_backbone.histograms(records.tokens)
    elif not data.train_pixels:
      # Of the records that are used alone: drawing takes a network.
      tokenizer = probe_setup.drawing_tokenizer(setup.trained[0])
      draw = functools.partial(api.decode_clips, tokenizer)
      drawn_MD = without_backbone.drawn_pixels(
        records, draw, factor=tokenizer.factor, side=data.pixels_side
      )
      x_MD = np.zeros((len(records.labels), drawn_MD.shape[1]), np.float32)
      x_MD[records.records] = drawn_MD
    else:
      path = {"train": data.train_pixels, "validation": data.validation_pixels}[name]
      pixels = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
      without_backbone.same_records(records, pixels)
      x_MD = without_backbone.small_pixels(pixels, data.pixels_side)
    features[name] = x_MD[:, None]
  return features


def _load(setup: probe_setup.ProbeSetup, source: str, depth: int) -> tuple[trunk.Trunk, Any]:
  """The first blocks of the trained or untrained backbone."""
  with console.phase(f"reading the {source} backbone"):
    return backbone.load(
      *setup.trained,
      trained=source == "trained",
      depth=depth,
      layout=setup.layout,
      seed=setup.config.seed,
    )


def _cached(
  setup: probe_setup.ProbeSetup, source: str, workdir: epath.Path, interrupted: jobs.Interrupted
) -> Arrays | None:
  """Means of every layer [M, L, D], made where they are not there yet."""
  folder = local.folder(workdir, _FEATURES)
  folder.mkdir(parents=True, exist_ok=True)
  layers, width = setup.subjects[source].layers, setup.subjects[source].width
  paths, pooled = {}, None
  for name, records in setup.sets.splits.items():
    path = folder / f"{source}-{name}.npy"
    batches = setup.finite(records, _reader(setup, records), by_item=False)
    facts = {
      **_facts(setup),
      "source": source,
      "store": records.tokens.path,
      "data": records.identity["digest"],
      "layers": layers,
      "seed": setup.config.seed,
    }
    if len(records.records) < len(records.labels):  # a subset
      facts["records"] = zlib.crc32(records.records.tobytes())
    if pooled is None and not kept.is_whole(path):
      model, params = _load(setup, source, layers[-1])
      pooled = backbone.features(model, params, layers=layers, pool="clip", layout=setup.layout)
    shape = (len(layers), width)
    if not kept.make(path, pooled, batches, shape=shape, facts=facts, interrupted=interrupted):
      return None
    paths[name] = path
  return kept.load(paths)


def _reader(setup: probe_setup.ProbeSetup, records: labelled.Records) -> labelled.ReadInputs:
  """Reads the inputs of the backbone."""
  return labelled.ReadInputs(
    setup_lib.token_reader(records, setup.trained[1].spec, setup.config.seed)
  )


def _training(
  setup: probe_setup.ProbeSetup,
  group: probe_setup.HeadGroup,
  reads: setup_lib.Reads | None,
  programs: dict[Any, Programs],
) -> tuple[train.Run, setup_lib.Score]:
  """A run for `train.fit`, and how its heads are scored afterwards.

  Args:
    setup: from `probe_setup.prepare`.
    group: what is trained.
    reads: of the features of its layers, [M, L, D], or of tokens [M, L, T, D];
      None: the backbone runs in every step.
    programs: of groups before this one, which it uses and adds to: on features
      of one shape all sources have the same.
  """
  config, subject, model, frozen = setup.config, setup.subjects[group.source], None, None
  if reads is None:
    model, frozen = _load(setup, group.source, group.layers[-1])
    reads = setup.reads or {
      name: _reader(setup, records) for name, records in setup.sets.splits.items()
    }
  task: Any = classify.Classify(
    head=subject.head,
    model=model,
    layers=group.layers,
    width=subject.width,
    classes=setup.sets.classes,
    settings=len(config.optim.settings),
    tokens=subject.tokens,
    split=subject.model,
    patches=setup.run.patches if setup.run and model is not None else None,
  )
  if model is not None and setup.tokenizer is not None and task.patches is None:
    # A backbone reads a position less than it predicts.
    spec = dataclasses.replace(model.spec, context=model.spec.context - 1)
    task = encode.EncodeFrames(task, setup.tokenizer, spec=spec)
    frozen = {"inner": frozen, "tokenizer": setup.tokenizer.params}
  # Heads start as the numbers of their layers say.
  shape = (group.layers, subject.width, subject.tokens, subject.model)
  program = programs.get(shape) if model is None else None
  if program is None:
    program = Programs(_run(setup, group, task, model, frozen), setup.outcomes(task))
  if model is None:  # a backbone is not held on to
    programs[shape] = program
  score = setup.scorer(program.outcomes, reads)
  run = dataclasses.replace(
    program.run,
    config={**schema.to_dict(config), "unit": dataclasses.asdict(group)},
    batches=setup.stream(reads["train"]),
    evals={
      "validation": lambda state: top1.summary(
        score(state, "validation").without(np.asarray(lars.diverged(state.opt_state)))
      )
    },
  )
  return run, score


def _run(
  setup: probe_setup.ProbeSetup,
  group: probe_setup.HeadGroup,
  task: tasks.Task,
  model: trunk.Trunk | None,
  frozen: Any,
) -> train.Run:
  """A run without batches and evaluations, of heads on a `model` or on features."""
  config = setup.config
  rows, context, cost = config.train.batch_rows, 1, 0.0
  if model is not None:  # its forward pass; heads are not counted
    context = model.spec.context
    cost = 2.0 * flops.forward_macs_per_token(model.config, vocab=0, context=context)
  warmup = setup.rate_in(config.optim.warmup_epochs)
  optimiser = assembly.Optimiser(
    lars.grid(config.optim, batch_rows=rows, steps=setup.steps, warmup_steps=warmup),
    lars.highest_rate(config.optim, steps=setup.steps, warmup_steps=warmup),
  )
  return assembly.run(
    setup.program(task, optimiser),
    batches=lambda first_step: (),
    evals={},
    facts={
      "backbone": setup.run and {"run": str(setup.run.path), "step": setup.run.step},
      "heads": len(group.layers) * len(config.optim.settings),
      "parameters_of_a_head": setup.subjects[group.source].parameters(setup.sets.classes),
    },
    data=setup.data,
    tokens_per_step=rows * context,
    flops_per_token=cost,
    frozen=frozen,
  )
