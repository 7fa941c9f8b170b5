"""A tokenizer of brightness with any latents, clips for it, and stores of both.

Shapes: R records, N frames, H and W pixels.
"""

import jax.numpy as jnp
import numpy as np

from totojax.config.model import LatentSpec
from totojax.data.store import manifests, shards, store as store_lib
from totojax.tokenizers import api

CAUSAL = LatentSpec(frame_factor=4)
FACTOR, SIZE, GRID = 4, 8, 2


def brightness(latents: LatentSpec, *, vocab: int = 64) -> api.Tokenizer:
  """Codes are mean brightness of a place over the frames of a latent frame."""
  weights_K = np.arange(1, latents.codes + 1)

  def codes_of(params, clips):
    spans = [latents.span(t) for t in range(latents.latent_frames(clips.shape[-4]))]
    clips = clips.astype(jnp.float32)
    if not latents.is_temporal:
      means = _means(clips)
    else:
      means = jnp.stack([_means(clips[:, a:b]).mean(1) for a, b in spans], axis=1)
    codes = (means * params["scale"]).astype(jnp.int32)
    return codes if latents.codes == 1 else codes[..., None] // weights_K

  def decode(codes):
    first = codes if latents.codes == 1 else codes[..., 0]
    drawn = np.repeat(np.repeat(first, FACTOR, -1), FACTOR, -2)[..., None].repeat(3, -1)
    if latents.is_temporal:
      lengths = [b - a for a, b in map(latents.span, range(drawn.shape[1]))]
      drawn = np.repeat(drawn, lengths, axis=1)
    return (drawn * 255 // vocab).astype(np.uint8)

  params = {"scale": np.float32(vocab / 256)}
  return api.Tokenizer(
    kind="brightness",
    vocab=vocab,
    factor=FACTOR,
    fingerprint="feedfacefeedface",
    size={},
    encode=lambda clips: np.asarray(codes_of(params, jnp.asarray(clips))),
    decode=decode,
    params=params,
    codes_of=codes_of,
    macs=lambda size_px: size_px**2,
    passes=1,
    latents=latents,
  )


def _means(x):
  blocks = x.reshape(*x.shape[:-3], GRID, FACTOR, GRID, FACTOR, 3)
  return blocks.mean((-4, -2, -1))


def clips(records: int, frames: int) -> np.ndarray:
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, (records, frames, SIZE, SIZE, 3), np.uint8)


def store(path, tokenizer, frames_RNHW3, *, pixels=False, prefix="clip") -> store_lib.Store:
  """A store of clips of pixels, or of their codes."""
  latents, count = tokenizer.latents, frames_RNHW3.shape[1]
  latent = count if pixels else latents.latent_frames(count)
  field = (
    manifests.frame_field(frames=count, size_px=SIZE)
    if pixels
    else manifests.token_field(frames=latent, grid=GRID, vocab=tokenizer.vocab, codes=latents.codes)
  )
  head = manifests.new(
    kind="video",
    fields=(field,),
    tokenizer="" if pixels else tokenizer.fingerprint,
    vocab=0 if pixels else tokenizer.vocab,
    grid=0 if pixels else GRID,
    frames=latent,
    size_px=SIZE,
    stride_frames=2,
    fps=30.0,
    crops=1,
    labels=False,
    ids=True,
    classes=(),
    records_per_shard=4,
    info={},
    **({} if pixels else manifests.latents(latents, clip_frames=count)),
  )
  writer = shards.Writer(path, head)
  ids = [f"{prefix}{i}" for i in range(len(frames_RNHW3))]
  name = "frames" if pixels else "codes"
  values = frames_RNHW3 if pixels else api.encode_clips(tokenizer, frames_RNHW3)
  writer.append({name: values}, labels=None, ids=ids, cursor=len(ids))
  writer.close()
  return store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
