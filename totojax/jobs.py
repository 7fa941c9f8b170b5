"""The jobs by the name that `config.run` has for them.

A job is a function (config, run directory, interrupted) -> whether it is
finished; run again after an interruption it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import audit
from totojax import checkpoint
from totojax import extract
from totojax import logs
from totojax import official_weights
from totojax import pixels
from totojax import pretokenize
from totojax import token_stats
from totojax import train
from totojax import validate
from totojax.analysis import report
from totojax.aot import plan as training_plan
from totojax.bench import job as bench
from totojax.build import parts
from totojax.build import patches as build_patches
from totojax.build import pretrain as build_pretrain
from totojax.build import tokenizer as build_tokenizer
from totojax.corpus import leakage
from totojax.corpus import plan as tokenizing_plan
from totojax.corpus import tokenize
from totojax.probe import job as probe
from totojax.probe import seeds as probe_seeds
from totojax.probe import supervised
from totojax.sweep import coordinates
from totojax.sweep import curves
from totojax.sweep import job as sweep_job
from totojax.sweep import scaling_job
from totojax.tokenizers import weights

Config = Mapping[str, Any]
Interrupted = Callable[[int], bool]


class Collapsed(ValueError):
  """A trained tokenizer that uses too few of its codes."""


def run(config: Config, workdir: epath.Path, interrupted: Interrupted) -> bool:
  """Runs the job that `config.run` names.

  Raises:
    ValueError: there is no such job, or it is none for several processes.
  """
  name = config["run"]
  if name not in JOBS:
    raise ValueError(
        f"config.run is {name!r}; the jobs are"
        f" {', '.join(sorted([*JOBS, 'chain']))}"
    )
  if jax.process_count() > 1 and name not in SHARED:
    raise ValueError(
        f'run = "{name}" works in one process, and this is one of'
        f" {jax.process_count()}; run it without --multihost. Jobs for several"
        f" processes: {', '.join(sorted(SHARED))}"
    )
  return JOBS[name](config, workdir, interrupted)


def pretrain(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Prediction of the next token, or of the next patch."""
  build = build_pretrain if parts.patches(config) is None else build_patches
  run_ = build.pretraining(config)
  _, finished = train.fit(run_, workdir, interrupted=interrupted)
  return finished


def tokenizer(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Leaves `tokenizer.safetensors`: copied from `weights`, or trained.

  Raises:
    Collapsed: fewer codes are used than `train.least_used_frac` asks for.
  """
  file = workdir / "tokenizer.safetensors"
  if config["weights"] != "train":
    found = weights.load(config["weights"])
    logs.begin(workdir, config, tokenizer=found.fingerprint)
    weights.resolve(config["weights"]).copy(file, overwrite=True)
    return True
  how = build_tokenizer.amount(config)
  run_ = build_tokenizer.training(config)
  state, finished = train.fit(run_, workdir, interrupted=interrupted)
  if not finished:
    return False
  params = jax.tree.map(np.asarray, jax.device_get(state.params))
  size = build_tokenizer.shape(config)
  scores = dict(
      build_tokenizer.scores(
          params, size, build_tokenizer.open_validation(config),
          how.score_frames,
      )
  )  # fmt: skip
  least = how.least_used_frac * size.vocab
  if scores["codes_used"] < least:
    raise Collapsed(
        f"{workdir}: the tokenizer uses {scores['codes_used']} of {size.vocab}"
        f" codes; train.least_used_frac asks for {least:g}. Train longer, raise"
        " objective.usage, or use a data-dependent objective.start"
    )
  if jax.process_index() == 0:
    weights.save(
        file,
        params,
        size,
        card={**config["card"], "steps": run_.steps, "scores": scores},
        dtype=how.dtype,
    )
  train.say(", ".join(f"{k} {v:.4g}" for k, v in scores.items()))
  return True


def write_report(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """One page from the run directories of a chain."""
  del interrupted  # seconds
  logs.begin(workdir, config)
  train.say(f"report: {report.write_report(config['chain'], workdir)}")
  return True


def plan(
    config: Config, workdir: epath.Path, interrupted: Interrupted
) -> bool:
  """Of training where the config holds a model to train, else of tokenizing."""
  if "model_run" in config:
    raise ValueError(
        "a plan is of pre-training or of tokenizing; this config starts from"
        " model_run. Plan a pre-training config of its model and grid"
    )
  trains = {"model", "optim"} <= set(config)
  job = training_plan.run if trains else tokenizing_plan.run
  return job(config, workdir, interrupted)


JOBS: Mapping[str, Callable[[Config, epath.Path, Interrupted], bool]] = {
    "render": pixels.render,
    "decode": pixels.decode,
    "photos": pixels.photos,
    "tokenizer": tokenizer,
    "shards": pretokenize.run,
    "tokenize": tokenize.run,
    "plan": plan,
    "leakage": leakage.run,
    "official": official_weights.run,
    "tokens_report": token_stats.run,
    "pretrain": pretrain,
    "validate": validate.run,
    "probe": probe.run,
    "probe_seeds": probe_seeds.run,
    "features": extract.run,
    "joint": supervised.joint,
    "finetune": supervised.finetune,
    "coord_check": coordinates.run,
    "audit": audit.run,
    "sweep": sweep_job.run,
    "scaling": scaling_job.run,
    "curves": curves.run,
    "bench": bench.run,
    "report": write_report,
}
# Jobs that several processes do together; each of the others would do it all.
SHARED = frozenset(
    {
        "pretrain", "tokenizer", "tokenize", "validate", "probe", "joint",
        "finetune", "sweep",
    }
)  # fmt: skip
ERRORS = (
    ValueError,
    ImportError,
    OSError,
    checkpoint.CheckpointError,
    train.NotFinite,
)
