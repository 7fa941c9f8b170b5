"""`run = "shards"`: a store of pixels becomes a store of tokens.

Beside the shards it writes what the report shows of the tokenizer:
`samples.npz` (frames, reconstructions and three baselines) and `tokens.json`
(PSNR, codes used, n-grams).

Shapes: R records, N frames, H and W pixels, P tokens of a frame, G grid side.
"""

from collections.abc import Mapping
import dataclasses
from typing import Protocol

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import tokens as tokens_config
from totojax.config.model import LatentSpec
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


class Codes(Protocol):
  """What of a tokenizer decides what its tokens are."""

  @property
  def fingerprint(self) -> str: ...
  @property
  def vocab(self) -> int: ...
  @property
  def factor(self) -> int: ...
  @property
  def latents(self) -> LatentSpec: ...


def token_manifest(
  pixels: manifests.Manifest, tokenizer: Codes, settings: tokens_config.Tokenizing
) -> manifests.Manifest:
  """The manifest of a store of tokens, without shards, from that of its pixels."""
  grid, latents = pixels.size_px // tokenizer.factor, tokenizer.latents
  kept = -(-pixels.frames // settings.every)
  frames = latents.latent_frames(kept)
  field = manifests.token_field(
    frames=frames, grid=grid, vocab=tokenizer.vocab, codes=latents.codes
  )
  return dataclasses.replace(
    pixels,
    fields=(field,),
    **manifests.latents(latents, clip_frames=kept),
    frames=frames,
    stride_frames=pixels.stride_frames * settings.every,
    tokenizer=tokenizer.fingerprint,
    vocab=tokenizer.vocab,
    grid=grid,
    records_per_shard=settings.records_per_shard,
    shards=(),
    cursor=None,
    complete=False,
  )


def _tokenize(
  source: store_lib.Store,
  path: epath.Path,
  tokenizer: api.Tokenizer,
  settings: tokens_config.Tokenizing,
  interrupted: jobs.Interrupted,
) -> bool:
  """One split, going on where it stopped; False when interrupted."""
  manifest, every = source.manifest, settings.every
  writer = shards.Writer(path, token_manifest(manifest, tokenizer, settings))
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
      codes_RP = api.encode_clips(tokenizer, frames_RNHW3[:, ::every])
      writer.append(
        {"codes": codes_RP},
        labels=None if labels is None else labels[start:stop],
        ids=None if ids is None else ids[start:stop],
        cursor=stop,
      )
      bar.advance(stop - start)
  writer.close()
  return True


def _copy(
  tokenizer: api.Tokenizer, tokens: store_lib.Store, frames: int, *, records: int
) -> np.ndarray:
  """What `frames_lib.some_frames` shows of the pixels, decoded from the codes of their clips."""
  count = min(len(tokens), frames)
  chosen, places = frames_lib.some_places(tokens, count, -(-frames // count))
  drawn = []
  for start in range(0, len(chosen), records):
    codes_RP = tokens.read(chosen[start : start + records])["codes"]
    codes_RLGG = codes_RP.reshape(-1, *tokens.manifest.code_shape)
    drawn += list(api.draw_frames(tokenizer, codes_RLGG, places))
  return np.concatenate(drawn)[:frames]


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
  tokens = {
    split: store_lib.open_store(
      workdir / split, tokenizer=tokenizer.fingerprint, vocab=tokenizer.vocab, grid=None
    )
    for split in SPLITS
  }
  original_MHW3 = frames_lib.some_frames(
    pixels["val"], settings.report_frames, every=settings.every
  )
  kmeans = stats.fit_kmeans(
    frames_lib.some_frames(pixels["train"], settings.kmeans_frames),
    codes=tokenizer.vocab,
    size=tokenizer.factor,
    most_patches=settings.kmeans_patches,
    iterations=20,
    seed=seed,
  )
  copies = {
    "reconstruction": _copy(
      tokenizer, tokens["val"], settings.report_frames, records=settings.records
    ),
    "kmeans": kmeans.decode(kmeans.encode(original_MHW3)),
    "block_means": stats.block_means(original_MHW3, tokenizer.factor),
    "mean_colour": stats.mean_colour(original_MHW3),
  }
  sample = np.linspace(0, len(original_MHW3) - 1, 8).astype(int)
  samples = {name: pixels[sample] for name, pixels in {"original": original_MHW3, **copies}.items()}
  files.write_npz(workdir / "samples.npz", samples, compressed=True)
  train = tokens["train"]
  codes = train.read(np.arange(min(len(train), 4096)))["codes"]
  images_MGW = np.concatenate(token_counts.split_frames(codes, train.manifest))
  facts = stats.summary(images_MGW, vocab=tokenizer.vocab, adjacency="raster")
  facts["frame_factor"] = tokenizer.latents.frame_factor
  facts["use"] = dataclasses.asdict(token_counts.tell_use("train", train))
  facts["psnr_db"] = {name: stats.psnr_db(original_MHW3, copy) for name, copy in copies.items()}
  if min(original_MHW3.shape[1:3]) >= stats.WINDOW_PX:
    facts["ssim"] = {name: stats.ssim(original_MHW3, copy) for name, copy in copies.items()}
  rivals = ", ".join(f"{name} {value:.1f}" for name, value in facts["psnr_db"].items())
  console.say(f"PSNR in dB of {len(original_MHW3)} held-out frames: {rivals}")
  files.write_json(workdir / "tokens.json", facts)
