"""`run = "tokenizer"`: trains a dVAE, or takes one, and leaves its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly as parts
from totojax import jobs
from totojax import step as step_lib
from totojax import train
from totojax.config.schema import ConfigError
from totojax.config.typed import typed
from totojax.data.store import shards
from totojax.data.stream import frames as frames_lib
from totojax.data.stream import mixture
from totojax.data.stream import rows
from totojax.rundir import console
from totojax.rundir import directory
from totojax.tasks import tokenizer as task_lib
from totojax.tokenizers import dvae
from totojax.tokenizers import stats
from totojax.tokenizers import weights

Section = Mapping[str, Any]
_KMEANS_PATCHES = 40_000


@dataclasses.dataclass(frozen=True)
class Amount:
  """How long a tokenizer is trained.

  Attributes:
    steps: updates.
    batch_frames: frames of an update.
    microbatches: parts of a batch, one after the other.
    start_frames: frames that a data-dependent start looks at.
    score_frames: held-out frames of each source that it is scored on.
    least_used_frac: share of the codes that must be in use at the end on the
      held-out frames of all sources; 0.0 asks for nothing.
    dtype: of the file: "float32" or "float16".
  """

  steps: int
  batch_frames: int
  microbatches: int
  start_frames: int
  score_frames: int
  least_used_frac: float
  dtype: str


class Collapsed(ValueError):
  """A trained tokenizer that uses too few of its codes."""


def run(
    config: jobs.Config, workdir: epath.Path, interrupted: jobs.Interrupted
) -> bool:
  """Leaves `tokenizer.safetensors`: copied from `weights`, or trained.

  Raises:
    Collapsed: fewer codes are used than `train.least_used_frac` asks for.
  """
  file = workdir / "tokenizer.safetensors"
  if config["weights"] != "train":
    found = weights.load(config["weights"])
    directory.begin(workdir, config, tokenizer=found.fingerprint)
    weights.resolve(config["weights"]).copy(file, overwrite=True)
    return True
  how = amount(config)
  run_ = training(config)
  state, finished = train.fit(run_, workdir, interrupted=interrupted)
  if not finished:
    return False
  params = jax.tree.map(np.asarray, jax.device_get(state.params))
  size = shape(config)
  held_out = open_validation(config)
  found = dict(scores(params, size, held_out, how.score_frames))
  least = how.least_used_frac * size.vocab
  if found["codes_used"] < least:
    raise Collapsed(
        f"{workdir}: the tokenizer uses {found['codes_used']} of {size.vocab}"
        f" codes; train.least_used_frac asks for {least:g}. Train longer, raise"
        " objective.usage, or use a data-dependent objective.start"
    )
  if jax.process_index() == 0:
    weights.save(
        file,
        params,
        size,
        card={**config["card"], "steps": run_.steps, "scores": found},
        dtype=how.dtype,
    )
  console.say(", ".join(f"{k} {v:.4g}" for k, v in found.items()))
  return True


def amount(config: Section) -> Amount:
  return typed(Amount, config["train"], "train")


def shape(config: Section) -> dvae.DvaeConfig:
  return typed(dvae.DvaeConfig, config["dvae"], "dvae")


def training(config: Section) -> train.Run:
  """Everything that `train.fit` needs for a dVAE."""
  on = parts.mesh(config)
  how, size = amount(config), shape(config)
  objective = typed(task_lib.TokenizerConfig, config["objective"], "objective")
  sources = open_sources(config)
  size_px = sources[0].store.manifest.size_px
  task = task_lib.TokenizerTask(
      model=size,
      config=objective,
      size_px=size_px,
      kmeans=_kmeans(config, sources, size) if objective.needs_kmeans else None,
  )
  dataset = mixture.frames_stream(
      sources,
      seed=config["seed"],
      batch=how.batch_frames,
      host=jax.process_index(),
      hosts=jax.process_count(),
  )
  held_out = open_validation(config)

  def score(state: step_lib.TrainState) -> Iterator[tuple[str, float]]:
    return scores(state.params, size, held_out, how.score_frames)

  tokens = how.batch_frames * (size_px // size.factor) ** 2
  return parts.run(
      config,
      task=task,
      steps=how.steps,
      rows=how.batch_frames,
      microbatches=how.microbatches,
      batches=parts.reader(config, dataset),
      evals={"": score} if held_out else {},
      facts={
          "parameters": dvae_parameters(size),
          "sources": {s.name: len(s.store) for s in sources},
      },
      tokens_per_step=tokens,
      flops_per_token=0.0,
      on=on,
  )


def _kmeans(
    config: Section, sources: list[rows.Source], size: dvae.DvaeConfig
) -> task_lib.KMeansStart:
  """Frames and patch centres of a start that depends on data.

  Every host looks at the same frames, so that all start alike.
  """
  frames = mixture.frames_stream(
      sources,
      seed=config["seed"],
      batch=amount(config).start_frames,
      host=0,
      hosts=1,
  )[0]["frames"]
  fitted = stats.fit_kmeans(
      frames,
      stats.KMeansConfig(
          codes=size.vocab,
          size=size.factor,
          patches=_KMEANS_PATCHES,
          iterations=20,
      ),
      seed=config["seed"],
  )
  if len(fitted.codebook_CF) < size.vocab:
    raise ConfigError(
        f"train.start_frames {len(frames)} have {len(fitted.codebook_CF)}"
        f" distinct patches for {size.vocab} codes; use more frames"
    )
  return task_lib.KMeansStart(
      frames, fitted.codebook_CF.astype(np.float32) / 255.0
  )


def open_sources(config: Section) -> list[rows.Source]:
  """The pixel stores of `data.train`.

  Raises:
    ConfigError: there is none.
  """
  shares = parts.shares(config, example="configs/tokenizer.py")
  return [
      rows.Source(
          name=name,
          store=shards.open_store(
              share.path, tokenizer=None, vocab=None, grid=None
          ),
          weight=share.weight,
      )
      for name, share in shares.items()
  ]


def open_validation(config: Section) -> dict[str, Any]:
  """Source -> pixel store of `data.validation`."""
  return {
      name: shards.open_store(path, tokenizer=None, vocab=None, grid=None)
      for name, path in config["data"]["validation"].items()
  }


def dvae_parameters(size: dvae.DvaeConfig) -> int:
  shapes = jax.eval_shape(lambda: dvae.init(size, jax.random.key(0)))
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def scores(
    params: Any,
    size: dvae.DvaeConfig,
    held_out: Mapping[str, Any],
    frames: int,
) -> Iterator[tuple[str, float]]:
  """PSNR in dB of each source, and how the codes are used over all of them."""
  # Gathered, so that it is the same on every host and for every mesh.
  params = jax.tree.map(np.asarray, jax.device_get(params))
  tokenizer = weights.tokenizer(params, size, "in training")
  counts_V = np.zeros(size.vocab, np.int64)
  for name, store in held_out.items():
    original = frames_lib.some_frames(store, frames)
    codes = tokenizer.encode(original)
    counts_V += np.bincount(codes.reshape(-1), minlength=size.vocab)
    yield f"{name}/psnr_db", stats.psnr_db(original, tokenizer.decode(codes))
  share = counts_V[counts_V > 0] / counts_V.sum()
  yield "codes_used", int((counts_V > 0).sum())
  yield "perplexity", float(np.exp(-np.sum(share * np.log(share))))
