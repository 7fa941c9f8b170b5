"""What a tokenizer is to the rest: frames to codes and back, numpy to numpy.

Most of them read a frame at a time. Some read clips, and make one latent frame
of several frames; some give several codes for a place (`LatentSpec`). Whoever
has clips calls `encode_clips`, `decode_clips` or `clip_codes`, which serve all.

Shapes: N and B frames, R clips, T frames of a clip, L latent frames, H height,
W width, G grid side (a frame's sides may differ), K codes of a place (the axis
is missing where there is one), F values of a continuous token.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from totojax.config.model import EACH_FRAME, LatentSpec

# Below this, some codes of a float32 encoder change on a TPU.
HIGHEST = "highest"

# Precision of a product -> bf16 products that a TPU makes of it.
PASSES = {"highest": 6, "high": 3, "default": 1}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A trained tokenizer, or patches of pixels behind the same interface.

  Attributes:
    kind: "dvae", "patches", or a family of `families`, "vqgan" the first.
    vocab: number of codes; codes are 0 to vocab - 1. 0 where tokens are
      continuous ("patches").
    factor: pixels of one side of a token.
    fingerprint: 16 hex digits of the SHA-256 of weights and size. Stores and
      runs carry it, so that codes never meet another tokenizer's.
    size: its config, as plain values.
    encode: uint8 [N, H, W, 3] to int32 codes [N, H / factor, W / factor], or
      float32 [N, G, G, F] where tokens are continuous. In batches over all
      local devices; a frame's codes depend neither on the frames around it nor
      on how many frames or devices there are.
    decode: what `encode` gives to uint8 [N, G * factor, G * factor, 3].
    params: float32 numpy arrays. Place them on the device once before a loop
      over `codes_of`, or every call transfers them.
    codes_of: the same as `encode`, `(params, frames [B, H, W, 3])`, pure and
      traceable, for use inside a jitted function.
    macs: multiply-accumulates of encoding one square frame of so many pixels a
      side, each counted once: see `passes`.
    passes: bf16 products that a TPU makes of one multiply-accumulate.
    latents: codes of a place, and frames of a latent frame. Where that is
      several frames, clips stand in place of frames above: `encode` is of
      uint8 [R, T, H, W, 3] to int32 [R, L, G, G] or [R, L, G, G, K], and T is
      what L latent frames stand for (`LatentSpec.whole_frames`); `macs` are
      of a latent frame.
  """

  kind: str
  vocab: int
  factor: int
  fingerprint: str
  size: Mapping[str, Any]
  encode: Callable[[np.ndarray], np.ndarray]
  decode: Callable[[np.ndarray], np.ndarray]
  params: Any
  codes_of: Callable[[Any, jax.Array], jax.Array]
  macs: Callable[[int], int]
  passes: int
  latents: LatentSpec = EACH_FRAME


def encode_clips(tokenizer: Tokenizer, frames_RTHW3: np.ndarray) -> np.ndarray:
  """int32 codes [R, L G G K] of uint8 clips, in raster order.

  Clips of no whole number of latent frames go on with their last frame.

  Raises:
    ValueError: the tokenizer gives anything but codes of its own.
  """
  clips, frames, *shape = frames_RTHW3.shape
  latents = tokenizer.latents
  if latents.is_temporal:
    codes = tokenizer.encode(np.concatenate(_padded(frames_RTHW3, latents, np), axis=1))
    expected = (clips, latents.latent_frames(frames))
  else:
    codes = tokenizer.encode(frames_RTHW3.reshape(clips * frames, *shape))
    expected = (clips * frames,)
  codes = np.asarray(codes)
  check_codes(codes, tokenizer.vocab, latents)
  if codes.shape[: len(expected)] != expected:
    raise ValueError(
      f"the tokenizer gave codes {codes.shape} for {clips} clips of {frames} frames; they must"
      f" begin with {expected}"
    )
  return codes.reshape(clips, -1).astype(np.int32, copy=False)


def decode_clips(
  tokenizer: Tokenizer, codes_RLGG: np.ndarray, *, frames: int | None = None
) -> np.ndarray:
  """uint8 clips [R, T, H, W, 3] of codes [R, L, G, G] or [R, L, G, G, K].

  Args:
    tokenizer: whose codes they are.
    codes_RLGG: any integers.
    frames: T, without what was padded; None: all that they stand for.
  """
  codes_RLGG = codes_RLGG.astype(np.int32, copy=False)
  if tokenizer.latents.is_temporal:
    return np.asarray(tokenizer.decode(codes_RLGG))[:, :frames]
  drawn = np.asarray(tokenizer.decode(codes_RLGG.reshape(-1, *codes_RLGG.shape[2:])))
  return drawn.reshape(*codes_RLGG.shape[:2], *drawn.shape[1:])[:, :frames]


def draw_frames(tokenizer: Tokenizer, codes_RLGG: np.ndarray, places_T: np.ndarray) -> np.ndarray:
  """Some frames of clips: uint8 [R, T, H, W, 3], of their places in the clip.

  Where frames are decoded each for itself, no others are.
  """
  if tokenizer.latents.is_temporal:
    return decode_clips(tokenizer, codes_RLGG)[:, places_T]
  return decode_clips(tokenizer, codes_RLGG[:, places_T])


def clip_codes(tokenizer: Tokenizer, params: Any, frames_RTHW3: jax.Array) -> jax.Array:
  """`encode_clips` inside a jitted function: int32 [R, L G G K].

  A frame at a time where frames are encoded each for itself, so that memory
  does not grow with the length of a clip, and rows stay on their devices.
  """
  if tokenizer.latents.is_temporal:
    parts = _padded(frames_RTHW3, tokenizer.latents, jnp)
    codes_RL = tokenizer.codes_of(params, jnp.concatenate(parts, axis=1))
  else:
    frames_TRHW3 = jnp.swapaxes(frames_RTHW3, 0, 1)
    codes_TR = jax.lax.map(lambda frames: tokenizer.codes_of(params, frames), frames_TRHW3)
    codes_RL = jnp.swapaxes(codes_TR, 0, 1)
  return codes_RL.reshape(len(frames_RTHW3), -1)


def _padded(clips_RTHW3: Any, latents: LatentSpec, xp: Any) -> list[Any]:
  """Clips and what follows them, up to whole latent frames, along axis 1."""
  frames = clips_RTHW3.shape[1]
  missing = latents.whole_frames(latents.latent_frames(frames)) - frames
  return [clips_RTHW3, *([xp.repeat(clips_RTHW3[:, -1:], missing, axis=1)] if missing else [])]


def passes(precision: str) -> int:
  """bf16 products that a TPU makes of one product at this precision.

  Raises:
    ValueError: on another name.
  """
  if precision not in PASSES:
    raise ValueError(f"precision {precision!r} is unknown; use one of {sorted(PASSES)}")
  return PASSES[precision]


def fingerprint(tensors: Mapping[str, np.ndarray], size: Mapping[str, Any]) -> str:
  """16 hex digits of the SHA-256 over size and tensors as stored."""
  digest = hashlib.sha256(json.dumps(size, sort_keys=True).encode())
  for name in sorted(tensors):
    value = np.ascontiguousarray(tensors[name])
    digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


def check_sides(shape: tuple[int, ...], factor: int) -> None:
  """Raises ValueError unless [.., H, W, C] is of whole tokens."""
  height, width = shape[-3:-1]
  if height % factor or width % factor or not height or not width:
    raise ValueError(
      f"frames are {height} x {width} pixels; a token is {factor} pixels"
      f" wide: resize or crop both to a multiple of {factor}"
    )


def check_frames(frames: np.ndarray, factor: int, latents: LatentSpec = EACH_FRAME) -> None:
  """Raises ValueError unless uint8 [N, H, W, 3], or clips of whole tokens."""
  names = "clips, frames, height" if latents.is_temporal else "frames, height"
  axes = 5 if latents.is_temporal else 4
  if frames.dtype != np.uint8 or frames.ndim != axes or frames.shape[-1] != 3:
    raise ValueError(
      f"frames are {frames.dtype} {frames.shape}; a tokenizer reads uint8 [{names}, width, 3]"
    )
  check_sides(frames.shape, factor)
  if latents.is_temporal:
    count = frames.shape[1]
    whole = latents.whole_frames(latents.latent_frames(count))
    if count != whole:
      raise ValueError(
        f"a clip has {count} frames; this tokenizer reads {latents.first_frames} and then"
        f" {latents.frame_factor} at a time, as {whole}: api.encode_clips pads"
      )


def check_codes(codes: np.ndarray, vocab: int, latents: LatentSpec = EACH_FRAME) -> None:
  """Raises ValueError unless codes are integers below `vocab`, of these axes."""
  axes = ["frames", "grid", "grid"]
  axes = ["clips", *axes] if latents.is_temporal else axes
  shaped = codes.ndim == len(axes)
  if latents.codes > 1:
    axes.append(f"{latents.codes} codes")
    shaped = codes.ndim == len(axes) and codes.shape[-1] == latents.codes
  if not shaped or not np.issubdtype(codes.dtype, np.integer):
    raise ValueError(
      f"a tokenizer's codes are {codes.dtype} {codes.shape}; they must be integers"
      f" [{', '.join(axes)}]"
    )
  if codes.size and (codes.min() < 0 or codes.max() >= vocab):
    raise ValueError(
      f"codes run from {codes.min()} to {codes.max()}; this tokenizer has"
      f" codes 0 to {vocab - 1}. Tokens are codes + 4: subtract the specials"
    )
