"""`run = "tokenizer"`: trains a dVAE, or takes one, and leaves its file."""

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import assembly, jobs, sharding, step as step_lib, train
from totojax.config import schema, tokens, training as training_config
from totojax.config.schema import ConfigError
from totojax.data.store import store as store_lib
from totojax.data.stream import frames as frames_lib, rows
from totojax.rundir import console, directory, files
from totojax.tasks import tokenizer as task_lib
from totojax.tokenizers import dvae, stats, weights

_KMEANS_PATCHES = 40_000


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
  how, size = config.train, config.dvae
  run_ = training(config)
  state, finished = train.fit(run_, workdir, interrupted=interrupted)
  if not finished:
    return False
  params = jax.tree.map(np.asarray, jax.device_get(state.params))
  held_out = open_validation(config.data)
  results = dict(scores(params, size, held_out, how.score_frames))
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
  """Everything that `train.fit` needs for a dVAE."""
  layout = sharding.layout(config.mesh)
  how, size, objective = config.train, config.dvae, config.objective
  sources = open_sources(config.data)
  size_px = sources[0].store.manifest.size_px
  kmeans = _kmeans(config, sources) if objective.needs_kmeans else None
  task = task_lib.TokenizerTask(model=size, config=objective, size_px=size_px, kmeans=kmeans)
  dataset = frames_lib.frames_stream(
    sources,
    seed=config.seed,
    batch=how.batch_frames,
    host=jax.process_index(),
    hosts=jax.process_count(),
  )
  held_out = open_validation(config.data)

  def score(state: step_lib.TrainState) -> Iterator[tuple[str, float]]:
    return scores(state.params, size, held_out, how.score_frames)

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
    facts={"parameters": dvae_parameters(size), "sources": {s.name: len(s.store) for s in sources}},
    data=rows.identities(train=sources)
    | {f"data.validation.{name}": store.manifest.identity for name, store in held_out.items()},
    tokens_per_step=how.batch_frames * (size_px // size.factor) ** 2,
    flops_per_token=0.0,
  )


def _kmeans(config: tokens.Tokenizer, sources: list[rows.Source]) -> task_lib.KMeansStart:
  """Frames and patch centres of a start that depends on data.

  Every host looks at the same frames, so that all start alike.
  """
  size = config.dvae
  frames = frames_lib.frames_stream(
    sources, seed=config.seed, batch=config.train.start_frames, host=0, hosts=1
  )[0]["frames"]
  kmeans = stats.fit_kmeans(
    frames,
    codes=size.vocab,
    size=size.factor,
    most_patches=_KMEANS_PATCHES,
    iterations=20,
    seed=config.seed,
  )
  codebook_CF = kmeans.codebook_CF
  if len(codebook_CF) < size.vocab:
    raise ConfigError(
      f"train.start_frames {len(frames)} have {len(codebook_CF)}"
      f" distinct patches for {size.vocab} codes; use more frames"
    )
  return task_lib.KMeansStart(frames, codebook_CF.astype(np.float32) / 255.0)


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


def dvae_parameters(size: dvae.DvaeConfig) -> int:
  shapes = jax.eval_shape(lambda: dvae.init(size, jax.random.key(0)))
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def scores(
  params: Any, size: dvae.DvaeConfig, held_out: Mapping[str, Any], frames: int
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
