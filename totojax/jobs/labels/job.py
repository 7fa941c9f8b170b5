"""`run = "joint"` and `run = "finetune"`: a backbone that is trained on labels.

Both start from a pre-trained run, whose grid, frames, base of RoPE and mask may
be others: no parameter depends on them. Both write what `run = "probe"` writes:
`per_layer.csv`, `metrics.json`, `predictions.csv` and `layer_curve.png`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly, flops, jobs, sharding, train
from totojax.config import labels
from totojax.config.schema import ConfigError
from totojax.evals import top1
from totojax.jobs.labels import setup as setup_lib, tables
from totojax.models import heads, taps, trunk
from totojax.optim import lars, layered
from totojax.rundir import console
from totojax.tasks import encode, finetune as finetune_lib, joint as joint_lib, mix, pretrain
from totojax.tokenizers import api as tokenizer_api
from totojax.trained import backbone

Training = tuple[train.Run, setup_lib.Score]


@dataclasses.dataclass(frozen=True)
class TuningSetup(setup_lib.Setup):
  """And what trains a backbone on."""

  config: labels.Joint | labels.Finetune
  run: backbone.Trained
  model: trunk.Trunk  # as the backbone, with the mask of this run
  backbone: pretrain.Pretrain  # its parameters, as pre-training has them
  tokenizer: tokenizer_api.Tokenizer | None  # of files of images; None: tokens are read
  reads: setup_lib.Reads  # how records are read


def joint(config: labels.Joint, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Next-token training with probes of the layers; False when interrupted."""
  setup = prepare(config)
  return _run(setup, joint_training(setup), workdir, interrupted, "joint", _layers(setup))


def finetune(config: labels.Finetune, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Trains everything to classify; False when interrupted."""
  setup = prepare(config)
  layers = (setup.model.config.depth,)
  return _run(setup, finetune_training(setup), workdir, interrupted, "finetuned", layers)


def _run(
  setup: TuningSetup,
  training: Training,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
  source: str,
  layers: tuple[int, ...],
) -> bool:
  """Trains and scores the heads of `layers`, which tables call `source`."""
  run, score = training
  spec = setup.model.spec
  shape = " x ".join(map(str, (spec.frames, *spec.frame_shape)))
  console.say(
    f"{setup.sets.sentence}; {setup.steps} updates of {setup.config.train.batch_rows} rows of"
    f" {shape} tokens, from {setup.run.path} at step {setup.run.step}"
  )
  state, finished = train.fit(run, workdir, interrupted=interrupted)
  if not finished:
    return False
  splits = tables.SPLITS if len(setup.sets.holdout.records) else tables.SPLITS[:1]
  scores = {name: score(state, name) for name in splits}
  losses = np.asarray(state.stats["train_loss"])
  if jax.process_index() == 0:
    depth = setup.model.config.depth
    tables.write(setup, [tables.Heads(source, layers, depth, losses, scores)], workdir)
  return True


@console.phase("opening the data")
def prepare(config: labels.Joint | labels.Finetune) -> TuningSetup:
  """Opens what the config names; loads no parameters.

  Raises:
    ValueError: whatever does not fit, before anything is computed.
  """
  run, tokenizer = backbone.find(config.model_run), None
  if not run.model.config.fine_tunes:
    raise ConfigError(
      f"{run.path} is of a {type(run.model.config).__name__}; joint training"
      " and fine-tuning are for LLaMA"
    )
  if config.data.source == "tokens":
    model, sets, reads = _tokens(run, config)
  else:
    tokenizer = setup_lib.open_encoder(run, config.data)
    model = _model(run, config, frames=1)
    sets, reads = setup_lib.open_files(config, size_px=model.spec.grid * tokenizer.factor)
  return TuningSetup(
    config=config,
    run=run,
    model=model,
    layout=sharding.layout(config.mesh),
    sets=sets,
    backbone=pretrain.Pretrain(backbone.causal(model), assembly.parametrisation(run.config)),
    tokenizer=tokenizer,
    reads=reads,
  )


def _model(run: backbone.Trained, config: labels.Tuning, *, frames: int) -> trunk.Trunk:
  """The run's model with this run's grid, frames, base, mask and compute."""
  shape = dataclasses.replace(run.model.config, **dataclasses.asdict(config.model))
  spec = dataclasses.replace(run.model.spec, grid=config.data.grid or run.model.spec.grid)
  model = backbone.for_clips(run.model.clone(config=shape, spec=spec), frames=frames)
  return model.clone(
    compute=assembly.compute(
      config.compute, depth=shape.depth, context=model.spec.context, backend=jax.default_backend()
    )
  )


def _tokens(
  run: backbone.Trained, config: labels.Tuning
) -> tuple[trunk.Trunk, setup_lib.Sets, setup_lib.Reads]:
  """From stores of tokens."""
  data, spec = config.data, run.model.spec
  spec = dataclasses.replace(spec, grid=data.grid or spec.grid, frames=data.frames or spec.frames)
  sets, frames = setup_lib.open_sets(run, data, seed=config.seed, spec=spec)
  model = _model(run, config, frames=frames)
  reads = {
    name: setup_lib.token_reader(records, model.spec, config.seed)
    for name, records in sets.splits.items()
  }
  return model, sets, reads


def _layers(setup: TuningSetup) -> tuple[int, ...]:
  """The layers with heads; all but the embeddings where none are named."""
  assert isinstance(setup.config, labels.Joint)
  depth = setup.model.config.depth
  layers = setup.config.layers or tuple(range(1, depth + 1))
  taps.check_layers(layers, depth)
  return layers


def joint_training(setup: TuningSetup) -> Training:
  """A run of next-token training with probes beside it (Table 7), and their scores."""
  config, layers, classes = setup.config, _layers(setup), setup.sets.classes
  assert isinstance(config, labels.Joint)
  head = heads.filled(config.head, setup.model.config)
  setup_lib.check_head(head, width=setup.model.config.width, classes=classes)
  settings = len(config.optim.settings)
  task = joint_lib.Joint(
    # This run's mask, not any: next tokens are not to be seen.
    pretrain.Pretrain(setup.model, assembly.parametrisation(setup.run.config)),
    head=head,
    layers=layers,
    classes=classes,
    settings=settings,
  )
  return _training(setup, task, facts={"heads": len(layers) * settings, "layers": layers})


def finetune_training(setup: TuningSetup) -> Training:
  """A run in which everything is trained to classify (Table 13, A.2), and its scores.

  Raises:
    ConfigError: tokens are to be mixed, next tokens to be learnt where they are
      seen, or several rates are asked for, which one backbone cannot have.
  """
  config, classes = setup.config, setup.sets.classes
  assert isinstance(config, labels.Finetune)
  if setup.tokenizer is None and (config.mix.mixup or config.mix.cutmix):
    raise ConfigError(
      "data.source is 'tokens', which cannot be mixed as pixels are; set mix.mixup and mix.cutmix"
      " to 0.0, or use 'folder' or 'imagenet', with data.root and data.encode_with"
    )
  prefix = setup.model.config.prefix_tokens
  if config.head.next_token and (prefix not in (0, 1) or config.head.drop_path):
    raise ConfigError(
      f"head.next_token is {config.head.next_token:g} with model.prefix_tokens {prefix} and"
      f" head.drop_path {config.head.drop_path:g}; next tokens are learnt by causal attention"
      " without drop path: set both to 0"
    )
  if config.head.next_token and config.head.positions:
    raise ConfigError(
      f"head.next_token is {config.head.next_token:g} and head.positions is set, which the"
      " pre-trained model knows nothing of; set one of them to 0 or False"
    )
  if len(config.optim.head_lr_mults) != 1:
    raise ConfigError(
      f"optim.head_lr_mults is {config.optim.head_lr_mults}; fine-tuning has"
      " one head: name one number"
    )
  task = finetune_lib.FineTune(
    setup.backbone, setup.model, config.head, classes=classes, smoothing=config.mix.smoothing
  )
  return _training(
    setup,
    task,
    encoder=functools.partial(mix.MixFrames, config=config.mix, classes=classes),
    select=task.select,
    facts={"prefix_tokens": setup.model.config.prefix_tokens},
  )


def _training(
  setup: TuningSetup,
  task: Any,
  *,
  encoder: Callable[..., encode.EncodeFrames] = encode.EncodeFrames,
  select: Callable[[Any], Any] = lambda params: params,
  facts: Mapping[str, Any],
) -> Training:
  """A run for `train.fit`, and how its heads are scored.

  Args:
    setup: from `prepare`.
    task: on tokens; its parameters are {"backbone": .., "heads": ..}.
    encoder: what makes a task on frames of it, where frames are read.
    select: what the task takes of a backbone's parameters.
    facts: for manifest.json.
  """
  config, run, spec, tokenizer = setup.config, setup.run, setup.model.spec, setup.tokenizer
  frozen = None
  if tokenizer is not None:
    task = encoder(task, tokenizer, spec=spec)
    frozen = task.frozen
  score = setup.scorer(setup.outcomes(task), setup.reads)
  cost = flops.train_flops_per_token(setup.model.config, vocab=spec.vocab, context=spec.context)

  def start(params):
    with console.phase(f"reading the parameters of {run.path}"):
      trained = backbone.read(run, setup.model, layout=setup.layout)
    return {**params, layered.BACKBONE: {**params[layered.BACKBONE], **select(trained)}}

  built = assembly.run(
    setup.program(task, _optimiser(setup, task)),
    batches=setup.stream(setup.reads["train"]),
    evals={"validation": lambda state: top1.summary(score(state, "validation"))},
    facts={
      "backbone": {"run": str(run.path), "step": run.step},
      "tokenizer": run.tokenizer,
      "encoded": "on the device" if tokenizer else "before",
      "records": len(setup.sets.train.records),
      "flops_per_token": cost,
      **facts,
    },
    data=setup.sets.data,
    tokens_per_step=config.train.batch_rows * spec.context,
    flops_per_token=cost,
    frozen=frozen,
    start=start,
  )
  return built, score


def _optimiser(setup: TuningSetup, task: Any) -> assembly.Optimiser:
  optim, axes = setup.config.optim, task.axes().params
  schedule = lars.Schedule(
    steps=setup.steps,
    warmup_steps=setup.rate_in(optim.warmup_epochs),
    end_lr_frac=optim.end_lr_frac,
  )
  rules = layered.rules(
    optim, axes=axes, depth=setup.model.config.depth, backbone_rules=setup.backbone.rules
  )
  tx = layered.make(
    optim, axes=axes, rules=rules, schedule=schedule, batch_rows=setup.config.train.batch_rows
  )
  return assembly.Optimiser(tx, layered.learning_rate(schedule))
