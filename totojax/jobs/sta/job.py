"""`run = "sta"` and `run = "sta_frozen"`: what is touched next, where, how and when.

`sta` trains a pre-trained model through (Table 9); `sta_frozen` trains an attentive
probe and the same heads on features of any frozen encoder. Both leave the
challenge's `results.json`, checked by its own rules, `metrics.json` (top-5 mAP),
`predictions.npz`, `pictures/` with drawn boxes, and `report.html`.

Shapes: B rows, K detections of a query.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly, flops, jobs, sharding, train
from totojax.config import sta
from totojax.config.schema import ConfigError
from totojax.evals import sta_map
from totojax.jobs.sta import encoding, inputs, outcome
from totojax.models import detection, trunk
from totojax.optim import lars, layered
from totojax.rundir import console, directory
from totojax.storage import outside
from totojax.tasks import anticipate, pretrain
from totojax.trained import backbone

_ROWS = 8  # clips that are made codes of at a time
_PART = 64  # records of a file of codes; of features it is one


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A protocol on its data, before anything is computed.

  Attributes:
    task: what is trained.
    encode: gives what makes of pixels what the task reads; None: it is others'.
    sizes: sides of clips and stills in pixels.
    each: records of a file of what is read.
    facts: for manifest.json.
    optimiser: updates -> the optimiser; None: the config's AdamW.
    start: fresh parameters -> those that the run starts from; None: these.
    tokens: of a row, for the rate.
    cost: FLOPs of a token; 0: not known.
  """

  task: Any
  encode: Callable[[], inputs.Encode] | None
  sizes: tuple[int, int]
  each: int
  facts: Mapping[str, Any]
  optimiser: Callable[[int], assembly.Optimiser] | None
  start: Callable[[Any], Any] | None
  tokens: int
  cost: float


def tuned(config: sta.Sta, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains a model to anticipate; False when interrupted."""
  return _run(config, workdir, interrupted, _tuned)


def frozen(config: sta.StaFrozen, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains heads on features; False when interrupted."""
  return _run(config, workdir, interrupted, _frozen)


def _run(
  config: sta.Anticipating,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
  protocol: Callable[..., Prepared],
) -> bool:
  with console.phase("opening the data"):
    try:
      annotations = inputs.opened(config.data)
    except (ValueError, OSError) as error:
      raise ConfigError(f"data: {error}") from error
  data = config.data
  queries = {
    "train": inputs.chosen(annotations["train"].queries, data.train_queries),
    "validation": inputs.chosen(annotations["validation"].queries, data.validation_queries),
  }
  layout = sharding.layout(config.mesh)
  prepared = protocol(config, annotations["train"], queries["train"][0].uid, layout)
  identities = {
    f"data.{name}": inputs.identity(annotations[name], queries[name]) for name in queries
  }
  directory.begin(workdir, config, data=identities, **prepared.facts)
  facts = {**prepared.facts, "data": identities}
  backbone.check_same(facts, workdir)
  folder = workdir
  if config.inputs_from:
    folder = epath.Path(config.inputs_from)
    inputs.check_same(folder, config.data, facts)
  found = {}
  for name in queries:
    one = _inputs(prepared, config, annotations[name], queries[name], name, folder, interrupted)
    if one is None:
      return False
    found[name] = one
  run, detect = _training(prepared, config, found, layout, identities)
  state, finished = train.fit(run, workdir, interrupted=interrupted)
  if not finished:
    return False
  outcome.write(found["validation"], detect(state), config, annotations["train"], workdir)
  return True


def _inputs(
  prepared: Prepared,
  config: sta.Anticipating,
  annotations: Any,
  queries: Any,
  name: str,
  folder: epath.Path,
  interrupted: jobs.Interrupted,
) -> inputs.Inputs | None:
  """The records of a split, with what is read of them made in `folder`; None when interrupted."""
  views = 2 if config.data.mirror and name == "train" and prepared.encode is not None else 1
  if prepared.encode is None:
    assert isinstance(config, sta.StaFrozen)
    read = functools.partial(_of_others, config.features, queries, prepared.task.batch_spec(1))
  else:
    made = inputs.Made(folder / "inputs" / name, prepared.each, len(queries) * views)
    if config.inputs_from and made.missing():
      raise ConfigError(f"inputs_from is {folder}, which has not made all inputs; finish it first")
    clip_px, still_px = prepared.sizes
    look = lambda query, mirrored: inputs.pixels(
      query, config.data, clip_px=clip_px, still_px=still_px, mirrored=mirrored
    )
    rows = min(config.encode_rows if isinstance(config, sta.StaFrozen) else _ROWS, prepared.each)
    what = f"encoding {name}"
    if not inputs.make(
      made, queries, views, prepared.encode, look, rows=rows, what=what, interrupted=interrupted
    ):
      return None
    read = made.in_memory if prepared.each > 1 else made.from_disk
  return inputs.Inputs(
    annotations, queries, views, read, _picture_px(config.data), config.data.most_objects
  )


def _of_others(
  folder: str, queries: Any, spec: anticipate.Spec, records: Any
) -> dict[str, np.ndarray]:
  """Features of others; raises Damaged where they have another size than the first's."""
  rows = []
  for record in records:
    row = encoding.read(folder, queries[record].uid)
    wanted = {name: spec[name].shape[1:] for name in ("clip", "still") if name in spec}
    if (shapes := {name: row[name].shape for name in row}) != wanted:
      raise outside.Damaged(
        f"{folder}/{queries[record].uid}", f"it has {shapes}, and the first file has {wanted}"
      )
    rows.append(row)
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _picture_px(data: sta.Data) -> float:
  """Side of the square that boxes are in."""
  return float(data.still_px or data.clip_px)


def _tuned(config: sta.Sta, annotations: Any, first: str, layout: sharding.Layout) -> Prepared:
  del first
  run = backbone.find(config.model_run, what="a model that anticipates")
  if not run.model.config.fine_tunes:
    raise ConfigError(
      f"{run.path} is of a {type(run.model.config).__name__}; fine-tuning is for LLaMA. Its"
      " features can be read by configs/ego4d_frozen.py"
    )
  tokenizer = backbone.find_tokenizer(run, config.tokenizer)
  clip, still = models(config, run.model, tokenizer.factor)
  if still is not None:
    backbone.check_kind(run.model.spec.latents, "image", "the last frame (data.still_px)")
  task = make_task(
    config,
    pretrain.Pretrain(clip, assembly.parametrisation(run.config)),
    still,
    nouns=len(annotations.nouns),
    verbs=len(annotations.verbs),
  )

  def start(params: Any) -> Any:
    with console.phase(f"reading the parameters of {run.path}"):
      return {**params, layered.BACKBONE: backbone.read(run, clip, layout=layout)}

  positions = clip.spec.context + (still.spec.context if still is not None else 0)
  return Prepared(
    task=task,
    encode=lambda: encoding.tokens(tokenizer, clip.spec, still.spec if still else None),
    sizes=(config.data.clip_px, config.data.still_px),
    each=_PART,
    facts={
      "backbone": {"run": str(run.path), "step": run.step, "untrained": config.untrained},
      "digest": run.digest,
      "tokenizer": tokenizer.fingerprint,
      "layers": list(task.layers),
    },
    optimiser=functools.partial(layered_optimiser, config, task),
    start=None if config.untrained else start,
    tokens=positions,
    cost=flops.train_flops_per_token(clip.config, vocab=clip.spec.vocab, context=clip.spec.context),
  )


def layered_optimiser(config: sta.Sta, task: anticipate.Tuned, steps: int) -> assembly.Optimiser:
  """Of so many updates: rates by layer, and half a cosine."""
  optim, axes, rows = config.optim, task.axes().params, config.train.batch_rows
  schedule = lars.Schedule(
    steps=steps,
    warmup_steps=optim.warmup_epochs * steps / config.train.epochs,
    end_lr_frac=optim.end_lr_frac,
  )
  rules = layered.rules(
    optim, axes=axes, depth=task.model.config.depth, backbone_rules=task.backbone.rules
  )
  tx = layered.make(optim, axes=axes, rules=rules, schedule=schedule, batch_rows=rows)
  return assembly.Optimiser(tx, layered.learning_rate(schedule))


def models(
  config: sta.Sta, model: trunk.Trunk, factor: int, *, backend: str = ""
) -> tuple[trunk.Trunk, trunk.Trunk | None]:
  """A model with clips as its inputs, and the same with stills.

  Args:
    config: sizes, and what is not as it was trained.
    model: of the run.
    factor: pixels of a side of a token.
    backend: that it is for; "": the one here.
  """
  shape, made = dataclasses.replace(model.config, **dataclasses.asdict(config.model)), []
  frames = model.spec.latents.latent_frames(config.data.frames)
  for key, count in (("clip_px", frames), ("still_px", 1)):
    size_px = getattr(config.data, key)
    if not size_px:
      made.append(None)
      continue
    grid = encoding.grid_of(size_px, factor, f"data.{key}")
    spec = dataclasses.replace(model.spec, grid=grid)
    one = backbone.for_clips(model.clone(config=shape, spec=spec), frames=count)
    compute = assembly.compute(
      config.compute,
      depth=shape.depth,
      context=one.spec.context,
      backend=backend or jax.default_backend(),
    )
    made.append(one.clone(compute=compute))
  clip, still = made
  assert clip is not None, "the schema asks for a size"
  return clip, still


def make_task(
  config: sta.Sta,
  backbone_task: pretrain.Pretrain,
  still: trunk.Trunk | None,
  *,
  nouns: int,
  verbs: int,
) -> anticipate.Tuned:
  """The task of the paper's protocol.

  Raises:
    ConfigError: layers do not fit the model or the pyramid.
  """
  clip, c = backbone_task.model, config.detector
  depth, count = clip.config.depth, len(c.scales)
  # [gap] The paper says "5 layers"; a shallow model has some twice.
  layers = config.layers or tuple(max(round(n * depth / count), 1) for n in range(1, count + 1))
  if len(layers) != count or max(layers) > depth or list(layers) != sorted(layers):
    raise ConfigError(
      f"layers is {layers}; name {count} in increasing order, one for each of detector.scales, up"
      f" to the model's {depth}"
    )
  detector = detection.Detector(
    c,
    nouns=nouns,
    verbs=verbs,
    width=clip.config.width,
    grid=clip.spec.grid,
    size_px=_picture_px(config.data),
    still=still is not None,
    maps=count,
  )
  return anticipate.Tuned(
    backbone_task,
    still,
    detector,
    layers=layers,
    over_time=c.over_time,
    nll_loss=config.nll_loss,
    objects=config.data.most_objects,
  )


def _frozen(
  config: sta.StaFrozen, annotations: Any, first: str, layout: sharding.Layout
) -> Prepared:
  del layout
  if config.features:
    of = encoding.on_disk(config, first)
  elif config.encoder:
    of = encoding.of_encoder(config)
  else:
    of = encoding.of_run(config)
  if of.width % config.probe.heads:
    raise ConfigError(
      f"probe.heads is {config.probe.heads}, which does not divide the width of {of.width}; use a"
      " divisor"
    )
  detector = detection.Detector(
    config.detector,
    nouns=len(annotations.nouns),
    verbs=len(annotations.verbs),
    width=of.width,
    grid=of.grid,
    size_px=_picture_px(config.data),
    still=bool(of.still_grid),
    maps=1,
    context=of.width,
  )
  task = anticipate.Frozen(
    detector,
    frames=of.frames,
    still_grid=of.still_grid,
    probe=config.probe,
    objects=config.data.most_objects,
  )
  return Prepared(
    task=task,
    encode=of.encode,
    sizes=(of.clip_px, of.still_px),
    each=1,
    facts={"features": of.facts},
    optimiser=None,
    start=None,
    tokens=of.frames * of.grid**2 + of.still_grid**2,
    cost=0.0,
  )


def _training(
  prepared: Prepared,
  config: Any,
  found: Mapping[str, inputs.Inputs],
  layout: sharding.Layout,
  identities: Mapping[str, Any],
) -> tuple[train.Run, Callable[[Any], dict[str, sta_map.Detections]]]:
  """A run for `train.fit`, and state -> detections by uid."""
  one, rows = found["train"], config.train.batch_rows
  steps = max(round(config.train.epochs * len(one.queries) / rows), 1)
  console.say(
    f"{len(one.queries)} queries to train on, {len(found['validation'].queries)} for validation,"
    f" {len(one.annotations.nouns)} nouns, {len(one.annotations.verbs)} verbs; {steps} updates of"
    f" {rows} queries"
  )
  task = prepared.task
  optimiser = prepared.optimiser(steps) if prepared.optimiser is not None else None
  program = assembly.program(
    config,
    task=task,
    steps=steps,
    rows=rows,
    microbatches=config.train.microbatches,
    layout=layout,
    optimiser=optimiser,
  )
  compute = assembly.everywhere(task.detect, layout)
  score_rows = -(-config.train.score_rows // layout.ways) * layout.ways

  def detect(state: Any) -> dict[str, sta_map.Detections]:
    return dict(
      _detections(found["validation"], functools.partial(compute, state.params), score_rows)
    )

  def evaluation(state: Any) -> Iterator[tuple[str, float]]:
    yield from outcome.scores(found["validation"], detect(state)).items()

  run = assembly.run(
    program,
    batches=assembly.reader(config.data.reading, one.stream(seed=config.seed, rows=rows)),
    evals={"validation": evaluation} if outcome.has_truth(found["validation"]) else {},
    facts={"flops_per_token": prepared.cost, **prepared.facts},
    data=identities,
    tokens_per_step=rows * prepared.tokens,
    flops_per_token=prepared.cost,
    start=prepared.start,
  )
  return run, detect


def _detections(
  found: inputs.Inputs, compute: Callable[[Any], detection.Found], rows: int
) -> Iterator[tuple[str, sta_map.Detections]]:
  """(uid, what is foreseen of it), in pixels of the full-size frame."""
  for some, batch in found.once(rows):
    out = jax.device_get(compute(batch))
    for row, query in enumerate(some):
      real = out.real_BK[row]
      boxes_K4 = found.placement(query * found.views).to_frame(out.boxes_BK4[row][real])
      yield (
        found.queries[query].uid,
        sta_map.Detections(
          boxes_K4,
          out.noun_BK[row][real],
          out.verb_BK[row][real],
          out.ttc_BK[row][real],
          out.score_BK[row][real],
        ),
      )
