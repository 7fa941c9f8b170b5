"""`run = "tokenizer"`: trains a tokenizer, or takes one, and leaves its file.

Of images a dVAE or finite scalars, of clips finite scalars (`family`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly, jobs, sharding, step as step_lib, train
from totojax.config import schema, tokens, training as training_config
from totojax.config.model import EACH_FRAME
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.data.stream import frames as frames_lib, rows
from totojax.rundir import console, directory, files
from totojax.tasks import fsq as fsq_task, tokenizer as dvae_task
from totojax.tokenizers import fsq, stats, weights

_KMEANS_PATCHES = 40_000
_START_PATCHES = 40_000  # whose components a start of finite scalars has


class Collapsed(ValueError):
  """A trained tokenizer that uses too few of its codes."""


def run(config: tokens.Tokenizer, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Leaves `tokenizer.safetensors`: copied from `weights`, or trained.

  Raises:
    Collapsed: fewer codes are used than `train.least_used_frac` asks for.
  """
  file = workdir / "tokenizer.safetensors"
  if config.weights != "train":
    mark = weights.load(config.weights).fingerprint
    directory.begin(workdir, config, tokenizer=mark)
    files.write_bytes(file, weights.resolve(config.weights).read_bytes())
    return True
  how, size = config.train, config.size
  run_ = training(config)
  state, finished = train.fit(run_, workdir, interrupted=interrupted)
  if not finished:
    return False
  params = jax.tree.map(np.asarray, jax.device_get(state.params))
  held_out = open_validation(config.data)
  results = dict(scores(params, size, held_out, how))
  least = how.least_used_frac * size.vocab
  if results["codes_used"] < least:
    raise Collapsed(
      f"{workdir}: the tokenizer uses {results['codes_used']} of {size.vocab}"
      f" codes; train.least_used_frac asks for {least:g}. Train longer, raise"
      " objective.usage, or use a data-dependent objective.start"
    )
  if jax.process_index() == 0:
    weights.save(
      file,
      params,
      size,
      card={**schema.to_dict(config.card), "steps": run_.steps, "scores": results},
      dtype=how.dtype,
    )
  console.say(", ".join(f"{k} {v:.4g}" for k, v in results.items()))
  return True


def training(config: tokens.Tokenizer) -> train.Run:
  """Everything that `train.fit` needs."""
  layout = sharding.layout(config.mesh)
  how, size = config.train, config.size
  sources = open_sources(config.data)
  task, clip = _task(config, sources), how.clip_frames
  size_px = task.size_px
  dataset = frames_lib.frames_stream(
    sources,
    seed=config.seed,
    batch=how.batch_frames,
    host=jax.process_index(),
    hosts=jax.process_count(),
    clip=clip,
  )
  held_out = open_validation(config.data)
  latent_frames = getattr(size, "latents", EACH_FRAME).latent_frames(max(1, clip))

  def score(state: step_lib.TrainState) -> Iterator[tuple[str, float]]:
    return scores(state.params, size, held_out, how)

  program = assembly.program(
    config,
    task=task,
    steps=how.steps,
    rows=how.batch_frames,
    microbatches=how.microbatches,
    layout=layout,
  )
  return assembly.run(
    program,
    batches=assembly.reader(config.data.reading, dataset),
    evals={"": score} if held_out else {},
    facts={"parameters": _parameters(size), "sources": {s.name: len(s.store) for s in sources}},
    data=rows.identities(train=sources)
    | {f"data.validation.{name}": store.manifest.identity for name, store in held_out.items()},
    tokens_per_step=how.batch_frames * latent_frames * (size_px // size.factor) ** 2,
    flops_per_token=0.0,
  )


def _task(
  config: tokens.Tokenizer, sources: list[rows.Source]
) -> dvae_task.TokenizerTask | fsq_task.FsqTask:
  """What is trained.

  A start that depends on data looks at the same frames on every host, so that
  all start alike.
  """
  how, objective = config.train, config.objective
  size_px = sources[0].store.manifest.size_px
  if config.family == "dvae":
    kmeans = _kmeans(config, _start_frames(config, sources)) if objective.needs_kmeans else None
    return dvae_task.TokenizerTask(
      model=config.dvae, config=objective, size_px=size_px, kmeans=kmeans
    )
  patches_NX = _patches(config, _start_frames(config, sources))
  start = fsq.fit(config.fsq, patches_NX, seed=config.seed)
  if start.book_VE is not None:
    _check_rows(len(start.book_VE), config.fsq.codebook, how.start_frames)
  frames = max(1, how.clip_frames)
  return fsq_task.FsqTask(
    config.fsq, config.dark, config.views, frames=frames, size_px=size_px, start=start
  )


def _start_frames(config: tokens.Tokenizer, sources: list[rows.Source]) -> np.ndarray:
  """uint8 frames, or clips, of the training data."""
  how = config.train
  stream = frames_lib.frames_stream(
    sources, seed=config.seed, batch=how.start_frames, host=0, hosts=1, clip=how.clip_frames
  )
  return stream[0]["frames"]


def _patches(config: tokens.Tokenizer, frames: np.ndarray) -> np.ndarray:
  """Some patches of frames or clips, as `fsq.fit` takes them."""
  size, rng = config.fsq, np.random.default_rng(config.seed)
  clips = frames if config.train.clip_frames else frames[:, None]
  parts = []
  for clip in clips:
    rows_NX = np.asarray(fsq.cut(size, clip[None])).reshape(-1, size.values)
    count = min(len(rows_NX), -(-_START_PATCHES // len(clips)))
    parts.append(rows_NX[rng.choice(len(rows_NX), count, replace=False)])
  return np.concatenate(parts)


def _kmeans(config: tokens.Tokenizer, frames: np.ndarray) -> dvae_task.KMeansStart:
  """Patch centres, and the frames whose features are regressed onto them."""
  size = config.dvae
  kmeans = stats.fit_kmeans(
    frames,
    codes=size.vocab,
    size=size.factor,
    most_patches=_KMEANS_PATCHES,
    iterations=20,
    seed=config.seed,
  )
  codebook_CF = kmeans.codebook_CF
  _check_rows(len(codebook_CF), size.vocab, len(frames))
  return dvae_task.KMeansStart(frames, codebook_CF.astype(np.float32) / 255.0)


def _check_rows(count: int, codes: int, frames: int) -> None:
  """Raises ConfigError where the start's frames have fewer distinct patches than codes."""
  if count < codes:
    raise ConfigError(
      f"train.start_frames {frames} have {count}"
      f" distinct patches for {codes} codes; use more frames"
    )


def open_sources(data: tokens.TokenizerData) -> list[rows.Source]:
  """The pixel stores of `data.train`.

  Raises:
    ConfigError: there is none.
  """
  shares = training_config.shares(data.train, example="configs/tokenizer.py")
  return [
    rows.Source(
      name=name,
      store=store_lib.open_store(share.path, tokenizer=None, vocab=None, grid=None),
      weight=share.weight,
    )
    for name, share in shares.items()
  ]


def open_validation(data: tokens.TokenizerData) -> dict[str, Any]:
  """Source -> pixel store of `data.validation`."""
  return {
    name: store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
    for name, path in data.validation.items()
  }


def _parameters(size: weights.Config) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(weights.module(size).shapes(size)))


def scores(
  params: Any, size: weights.Config, held_out: Mapping[str, Any], how: tokens.TokenizerAmount
) -> Iterator[tuple[str, float]]:
  """PSNR in dB of each source, and how the codes are used over all of them."""
  # Gathered, so that it is the same on every host and for every mesh.
  params = jax.tree.map(np.asarray, jax.device_get(params))
  tokenizer = weights.tokenizer(params, size, "in training")
  counts_V = np.zeros(size.vocab, np.int64)
  for name, store in held_out.items():
    original = frames_lib.some_frames(store, how.score_frames, clip=how.clip_frames)
    codes = tokenizer.encode(original)
    counts_V += np.bincount(codes.reshape(-1), minlength=size.vocab)
    yield f"{name}/psnr_db", stats.psnr_db(original, tokenizer.decode(codes))
  share = counts_V[counts_V > 0] / counts_V.sum()
  yield "codes_used", int((counts_V > 0).sum())
  yield "perplexity", float(np.exp(-np.sum(share * np.log(share))))
