"""`run = "prompt_tune"`: a pre-trained model learns to answer prompts of pictures (A.8).

Prompts become stores of tokens, of which a run of pre-training reads that begins
with the parameters of the model (`init_from`): the same loop, loss and files, in
`tuned/`. Then both models answer held-out prompts. Each part is on disk when it
is made: an interrupted run goes on with the next.

The run directory gets `prompts/TASK/train` and `val`, `tuned/`, `scores.csv`,
`prompt_tune.json`, `answers.npz` [prompts, tokens] of codes, `pictures/` and
`report.html`; `skipped.csv` where pairs cannot be read.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import time

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import schema
from totojax.config.pretrain import Amount, Data, Pretrain, Validation
from totojax.config.prompt_tune import PromptTune
from totojax.config.schema import ConfigError
from totojax.config.tokens import Tokenizing
from totojax.config.training import Share
from totojax.data.store import certificates, fill, manifests, shards, store as store_lib
from totojax.jobs import shards as tokenizing
from totojax.jobs.prompt_tune import prompts, scores
from totojax.report import frame, prompt_sections
from totojax.rundir import console, directory, files
from totojax.tokenizers import api
from totojax.trained import backbone, generate, prompting

_AT_A_TIME = 32  # prompts that are encoded
_PER_SHARD = 512


def run(config: PromptTune, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Makes prompts, tunes and scores; False when interrupted.

  Raises:
    ConfigError: the model, the pairs and their number do not fit each other.
    generate.NotFinite: a model gives NaN.
  """
  source = backbone.find(config.model_run, what="a model that is tuned")
  tokenizer = backbone.find_tokenizer(source, config.tokenizer)
  spec = source.model.spec
  examples = config.prompts.examples or prompting.most_pairs(spec)
  try:
    prompting.check(spec, pairs=max(examples, 1), name=str(source.path))
    generate.check_causal(source.model, str(source.path))
  except ValueError as error:
    raise ConfigError(f"prompts.examples: {error}") from error
  tasks = prompts.find(config, examples=examples, size_px=spec.grid * tokenizer.factor)
  facts = {
    "model_run": str(source.path),
    "step": source.step,
    "tokenizer": tokenizer.fingerprint,
    "examples": examples,
    "tasks": [task.name for task in tasks],
  }
  backbone.begin(workdir, config, facts, digest=source.digest)
  _write_skipped(tasks, workdir)
  for task in tasks:
    if not _make(task, tokenizer, examples, spec.grid, workdir, interrupted):
      return False
  _tell_tasks_apart(tasks, workdir)
  if not _tune(tuning(config, source, tasks, workdir, examples=examples), workdir, interrupted):
    return False
  if not scores.answer(tasks, source, config, workdir, interrupted):
    return False
  found = scores.measure(tasks, tokenizer, spec, config, workdir)
  files.write_csv(workdir / "scores.csv", found.rows)
  facts |= {"sampling": schema.to_dict(config.sampling), "steps": config.train.steps}
  facts |= {"root": config.data.root, "depth": config.data.depth, **found.summary}
  files.write_json(workdir / "prompt_tune.json", facts)
  report = frame.write(workdir, prompt_sections.PAGE)
  files.remove(workdir / "parts")
  for sentence in prompt_sections.sentences(facts):
    console.say(sentence)
  console.say(f"report: {report}")
  return True


def _write_skipped(tasks: Sequence[prompts.Task], workdir: epath.Path) -> None:
  """`skipped.csv`: pairs that cannot be read, if there are any."""
  rows = [(task.name, one.id, one.reason) for task in tasks for one in task.skipped]
  if not rows:
    return
  files.write_table(workdir / "skipped.csv", rows, header=("task", "id", "reason"))
  more = f", and {len(rows) - 1} more: {workdir / 'skipped.csv'}" if len(rows) > 1 else ""
  console.say(f"skipped: {rows[0][0]}/{rows[0][1]} ({rows[0][2]}){more}")


def store_path(workdir: epath.Path, task: str, split: str) -> str:
  """Where the prompts of a split of a task are."""
  return str(workdir / "prompts" / task / split)


def _make(
  task: prompts.Task,
  tokenizer: api.Tokenizer,
  examples: int,
  grid: int,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """The stores of a task, going on where they stopped; False when interrupted."""
  pixels = fill.manifest(
    frames=2 * examples + 2,
    size_px=grid * tokenizer.factor,
    stride_frames=1,
    fps=1.0,
    crops=1,
    records_per_shard=_PER_SHARD,
    info={"prompts": dict(task.info)},
  )
  head = tokenizing.token_manifest(pixels, tokenizer, Tokenizing(records_per_shard=_PER_SHARD))
  made = []
  for split, total in task.counts.items():
    writer = shards.Writer(store_path(workdir, task.name, split), head)
    if not writer.complete:
      begin = writer.cursor or 0
      what = f"prompts of {task.name}, {split}"
      with console.tracking(what, unit="prompts", total=total, done=begin) as bar:
        for start in range(begin, total, _AT_A_TIME):
          if interrupted(start):
            return False
          some = [task.make(split, n) for n in range(start, min(start + _AT_A_TIME, total))]
          codes_RP = api.encode_clips(tokenizer, np.stack([one.frames_TSS3 for one in some]))
          ids = [one.id for one in some]
          writer.append({"codes": codes_RP}, labels=None, ids=ids, cursor=start + len(some))
          bar.advance(len(some))
      writer.close()
    made.append(store_lib.Store(writer.path, writer.manifest))
  certificates.certify(made)
  return True


def _tell_tasks_apart(tasks: Sequence[prompts.Task], workdir: epath.Path) -> None:
  """Certificates for stores of different tasks, whose ids begin with a task's name each."""
  opened = {
    (task.name, split): store_lib.Store(path, manifests.existing(path))
    for task in tasks
    for split in task.counts
    for path in [store_path(workdir, task.name, split)]
  }
  for one, other in itertools.permutations(tasks, 2):
    certificates.write(opened[one.name, "train"], opened[other.name, "val"])


def tuning(
  config: PromptTune,
  source: backbone.Trained,
  tasks: Sequence[prompts.Task],
  workdir: epath.Path,
  *,
  examples: int,
) -> Pretrain:
  """The run of pre-training that tunes: as the model's own, on prompts."""
  before, amount = source.config, config.train
  frames = 2 * examples + 2
  context = frames * source.model.spec.frame_tokens
  chunk = before.compute.loss_chunk
  batch_tokens = amount.batch_rows * context
  return dataclasses.replace(
    before,
    seed=config.seed,
    init_from=str(source.path),
    branch_from="",
    sequence=dataclasses.replace(before.sequence, frames=frames, context=context, segments=False),
    compute=dataclasses.replace(
      before.compute, loss_chunk=0 if chunk and context % chunk else chunk
    ),
    mesh=config.mesh,
    optim=dataclasses.replace(
      before.optim,
      schedule="cosine",
      lr=amount.lr or before.optim.lr,
      warmup_steps=round(amount.warmup_frac * amount.steps),
    ),
    train=Amount(batch_tokens=batch_tokens, total_tokens=float(amount.steps * batch_tokens)),
    data=Data(
      train={task.name: Share(store_path(workdir, task.name, "train"), 1.0) for task in tasks},
      validation={task.name: store_path(workdir, task.name, "val") for task in tasks},
      warn_epochs=before.data.warn_epochs,
    ),
    validation=Validation(rows=0),
    samples=type(before.samples)(),
    every=config.every,
    checkpoint=config.checkpoint,
    profile=type(before.profile)(),
    plan=type(before.plan)(),
    task=None,
    evaluations=None,
    from_stores=None,
  )


def _tune(tuned: Pretrain, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Runs it, or what is left of it; False when interrupted."""
  folder = workdir / "tuned"
  if directory.is_done(folder):
    return True
  begin = time.monotonic()
  if not jobs.run(tuned, folder, interrupted):
    return False
  directory.mark_done(folder, time.monotonic() - begin)
  return True
