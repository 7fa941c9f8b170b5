"""`run = "shards"`: a store of pixels becomes a store of tokens.

Beside the shards it writes what the report shows of the tokenizer:
`samples.npz` (frames, reconstructions and two baselines) and `tokens.json`
(PSNR, codes used, n-grams).

Shapes: R records, N frames, H and W pixels, P tokens of a frame, G grid side.
"""

from collections.abc import Mapping
import dataclasses

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import tokens as tokens_config
from totojax.data.store import certificates, manifests, shards, store as store_lib
from totojax.data.stream import frames as frames_lib
from totojax.evals import token_counts
from totojax.rundir import console, directory, files
from totojax.tokenizers import api, stats, weights

SPLITS = ("train", "val")


def run(config: tokens_config.Shards, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Tokenizes both splits; False when interrupted."""
  settings = config.tokenizing
  tokenizer = weights.load(settings.tokenizer)
  folder = epath.Path(settings.pixels)
  pixels = {
    split: store_lib.open_store(folder / split, tokenizer=None, vocab=None, grid=None)
    for split in SPLITS
  }
  directory.begin(workdir, config, tokenizer=tokenizer.fingerprint, vocab=tokenizer.vocab)
  for split, source in pixels.items():
    if not _tokenize(source, workdir / split, tokenizer, settings, interrupted):
      return False
  paths = [workdir / split for split in SPLITS]
  certificates.certify([store_lib.Store(path, manifests.existing(path)) for path in paths])
  _describe(workdir, tokenizer, settings, pixels, seed=config.seed)
  return True


def _tokenize(
  source: store_lib.Store,
  path: epath.Path,
  tokenizer: api.Tokenizer,
  settings: tokens_config.Tokenizing,
  interrupted: jobs.Interrupted,
) -> bool:
  """One split, going on where it stopped; False when interrupted."""
  manifest = source.manifest
  grid = manifest.size_px // tokenizer.factor
  writer = shards.Writer(
    path,
    dataclasses.replace(
      manifest,
      fields=(manifests.token_field(frames=manifest.frames, grid=grid, vocab=tokenizer.vocab),),
      tokenizer=tokenizer.fingerprint,
      vocab=tokenizer.vocab,
      grid=grid,
      records_per_shard=settings.records_per_shard,
      shards=(),
      cursor=None,
      complete=False,
    ),
  )
  if writer.complete:
    return True
  begin, total = writer.cursor or 0, len(source)
  labels = source.labels() if manifest.labels else None
  ids = source.ids() if manifest.ids else None
  with console.tracking(f"tokenizing {path.name}", unit="clips", total=total, done=begin) as bar:
    for start in range(begin, total, settings.records):
      if interrupted(start):
        return False
      stop = min(start + settings.records, total)
      frames_RNHW3 = source.read(range(start, stop))["frames"]
      codes_RP = api.encode_clips(tokenizer, frames_RNHW3)
      writer.append(
        {"codes": codes_RP},
        labels=None if labels is None else labels[start:stop],
        ids=None if ids is None else ids[start:stop],
        cursor=stop,
      )
      bar.advance(stop - start)
  writer.close()
  return True


@console.phase("counting codes and drawing reconstructions")
def _describe(
  workdir: epath.Path,
  tokenizer: api.Tokenizer,
  settings: tokens_config.Tokenizing,
  pixels: Mapping[str, store_lib.Store],
  *,
  seed: int,
) -> None:
  """Writes `samples.npz` and `tokens.json`."""
  original_MHW3 = frames_lib.some_frames(pixels["val"], settings.report_frames)
  kmeans = stats.fit_kmeans(
    frames_lib.some_frames(pixels["train"], settings.kmeans_frames),
    codes=tokenizer.vocab,
    size=tokenizer.factor,
    most_patches=settings.kmeans_patches,
    iterations=20,
    seed=seed,
  )
  copies = {
    "reconstruction": tokenizer.decode(tokenizer.encode(original_MHW3)),
    "kmeans": kmeans.decode(kmeans.encode(original_MHW3)),
    "mean_colour": stats.mean_colour(original_MHW3),
  }
  sample = np.linspace(0, len(original_MHW3) - 1, 8).astype(int)
  samples = {name: pixels[sample] for name, pixels in {"original": original_MHW3, **copies}.items()}
  files.write_npz(workdir / "samples.npz", samples, compressed=True)
  tokens = store_lib.open_store(
    workdir / "train", tokenizer=tokenizer.fingerprint, vocab=tokenizer.vocab, grid=None
  )
  grid = tokens.manifest.grid
  records = min(len(tokens), 4096)
  codes = tokens.read(np.arange(records))["codes"].reshape(-1, grid, grid)
  facts = stats.summary(codes, vocab=tokenizer.vocab, adjacency="raster")
  facts["use"] = dataclasses.asdict(token_counts.tell_use("train", tokens))
  facts["psnr_db"] = {name: stats.psnr_db(original_MHW3, copy) for name, copy in copies.items()}
  rivals = ", ".join(f"{name} {value:.1f}" for name, value in facts["psnr_db"].items())
  console.say(f"PSNR in dB of {len(original_MHW3)} held-out frames: {rivals}")
  files.write_json(workdir / "tokens.json", facts)
