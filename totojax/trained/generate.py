"""Further frames of a video: tokens drawn one by one from the model.

Frames are those of the tokenizer: where one latent frame stands for several of
the video, these are drawn as one, and `tokenizers.api.decode_clips` decodes them
with those before, on which they depend:

  codes_BNP = np.concatenate([context_BNP, generate.frames(...)], axis=1)
  shape = (*codes_BNP.shape[:2], *model.spec.frame_shape)
  frames_BTHW3 = api.decode_clips(tokenizer, codes_BNP.reshape(shape))

A frame is a call of one compiled program, which also reads frames that are given
(`Batch.known`): so a video goes on after an interruption as it would have
without one, bit for bit, and a model's loss on a true continuation is computed
as the loss of its own.

Shapes: B videos, N (latent) frames, P tokens of a frame, T tokens, V padded
vocabulary, K codes of a place, W frames of a window.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from totojax import sequence, sharding
from totojax.config.generate import Sampling as Sampling, Window as Window
from totojax.models import decode, trunk
from totojax.trained import choices

UNKNOWN = -1  # a code that is to be drawn
Slots = tuple[tuple[int, int], ...]  # of `tokenizers.split.slots`
_ROWS = ("data", "fsdp")  # axes of the mesh that videos are spread over


class NotFinite(ValueError):
  """The model gives logits that are no numbers."""


@dataclasses.dataclass(frozen=True)
class Batch:
  """Videos that are continued together.

  A video depends on its codes, its numbers and the sampling alone, not on what
  else is in the batch.
  """

  context_BNP: np.ndarray  # integer codes of the first frames, in raster order
  item_B: np.ndarray  # uint32, a number of what is continued
  draw_B: np.ndarray  # uint32, which one of the videos that continue it
  # Codes of the frames after the context; UNKNOWN, or not there: drawn.
  known_BNP: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Frame:
  """One more (latent) frame of each video."""

  codes_BP: np.ndarray  # int32
  nll_BP: np.ndarray  # float32 nats of each code, by the model before any sampling
  likeliest_BP: np.ndarray  # bool, whether it is the model's most likely


@dataclasses.dataclass(frozen=True)
class Segment:
  """Frames that are made without a new start."""

  first: int  # of the new frames, from 0
  context: int  # frames before it that are read first
  count: int  # frames that are made
  rolled: bool = False  # by dropping from the cache, not by reading them


@dataclasses.dataclass(frozen=True)
class Decoder:
  """A model, ready to go on with videos.

  Attributes:
    model: the model.
    weights: of `decode.load`; whole on every device of the layout.
    window: (latent) frames that are seen at a time (W).
    sampling: how tokens are chosen.
    slots: which codes each code of a place can be; (): any.
    roll: whether frames are dropped from the cache when it is full, instead of
      reading the rest anew.
    drop: so many.
    layout: devices that videos are spread over; None: the one of the weights.
    restart: codes [B, W, P] of a full window -> those of its last W - drop
      frames as the beginning of a video, where they are others than they were
      (a first latent frame of another kind); None: the same.
    name: of the run, for errors.
  """

  model: trunk.Trunk
  weights: Any
  window: int
  sampling: Sampling
  slots: Slots = ()
  roll: bool = False
  drop: int = 1
  layout: sharding.Layout | None = None
  restart: Callable[[np.ndarray], np.ndarray] | None = None
  name: str = "the model"

  @property
  def ways(self) -> int:
    """Of what the number of videos must be a multiple."""
    return 1 if self.layout is None else self.layout.ways

  def segments(self, context: int, further: int) -> Iterator[Segment]:
    """How the further frames are made, in order."""
    done, held = 0, context
    while done < further:
      rolled = held == self.window and self.roll and done > 0
      if held == self.window:
        held -= self.drop
      count = min(self.window - held, further - done)
      yield Segment(done, held, count, rolled)
      done, held = done + count, held + count

  def frames(self, batch: Batch, *, further: int, begin: int = 0) -> Iterator[Frame]:
    """The frames that follow, from frame `begin` of them on.

    Args:
      batch: the videos; those before `begin` are known.
      further: (latent) frames after the context.
      begin: the first that is given back. Those before are read again as far as
        the cache needs it.

    Raises:
      ValueError: another shape, no context, or codes that the model does not have.
      NotFinite: the model gives NaN.
    """
    _check(batch, further, begin, self)
    frame_tokens = self.model.spec.frame_tokens
    # As the window has them.
    seen = list(np.moveaxis(batch.context_BNP.astype(np.int32), 1, 0))
    keys_B, carry = _keys(self, batch), None
    for segment in self.segments(len(seen), further):
      if len(seen) > segment.context:
        seen = self._restarted(seen, segment.context)
      made = range(segment.first, segment.first + segment.count)
      # A cache that is rolled, or a window that starts from one that was made,
      # has all before it in it.
      if made.stop <= begin and not self.roll and self.restart is None:
        seen += [_known(batch, n) for n in made]
        continue
      if segment.rolled:
        last_B = _placed(self, seen[-1][:, -1] + sequence.SPECIALS)
        carry = _programs(self).forget(self.weights, carry, last_B)
      else:
        carry = _start(self, np.stack(seen, axis=1))
      position = 1 + segment.context * frame_tokens
      for n in made:
        carry, frame = _frame(self, carry, keys_B, _known(batch, n), position=position, number=n)
        seen.append(frame.codes_BP)
        position += frame_tokens
        if n >= begin:
          yield frame

  def _restarted(self, seen: list[np.ndarray], context: int) -> list[np.ndarray]:
    """The last frames of a full window, as the beginning of a video."""
    if self.restart is None:
      return seen[len(seen) - context :]
    codes_BNP = self.restart(np.stack(seen, axis=1))[:, -context:]
    return list(np.moveaxis(codes_BNP.astype(np.int32), 1, 0))


def frames(
  model: trunk.Trunk,
  weights: Any,
  context_BNP: np.ndarray,
  *,
  further: int,
  sampling: Sampling,
  rows: np.ndarray,
) -> np.ndarray:
  """`Decoder.frames` of videos that end within the model's window.

  Args:
    model: the model.
    weights: of `decode.load`.
    context_BNP: integer codes of the first frames, in raster order; the codes of
      a place follow each other.
    further: (latent) frames to make.
    sampling: how tokens are chosen.
    rows: [B], a number of each video, which its draws depend on.

  Returns:
    int32 codes [B, further, P].

  Raises:
    ValueError: another shape, no context, a code that the model does not have,
      or more frames than its window.
  """
  window = window_frames(model)
  decoder = Decoder(model, weights, window=window, sampling=sampling)
  rows = np.asarray(rows, np.uint32)
  batch = Batch(np.asarray(context_BNP), rows, np.zeros_like(rows))
  _check_shape(batch, model.spec)
  context = batch.context_BNP.shape[1]
  if context < 1 or further < 1 or context + further > window:
    raise ValueError(
      f"{context} frames of context and {further} further ones; the model's window has {window}:"
      f" give at least 1 of context, and ask for 1 to {max(window - context, 0)}"
    )
  found = [frame.codes_BP for frame in decoder.frames(batch, further=further)]
  return np.stack(found, axis=1)


def window_frames(model: trunk.Trunk) -> int:
  """(Latent) frames that a model was trained to see at a time."""
  return min(model.spec.frames, model.spec.context // model.spec.frame_tokens)


def decoder(
  model: trunk.Trunk,
  weights: Any,
  *,
  settings: Window,
  frames: int,
  sampling: Sampling,
  slots: Slots = (),
  layout: sharding.Layout | None = None,
  restart: Callable[[np.ndarray, int], np.ndarray] | None = None,
  name: str = "the model",
) -> Decoder:
  """A `Decoder` for videos of a length.

  Args:
    model: as it was trained.
    weights: of `decode.load`.
    settings: how it goes on when its window is full.
    frames: (latent) ones of the longest video, the context's included.
    sampling: how tokens are chosen.
    slots: which codes each code of a place can be.
    layout: devices.
    restart: codes of a window, and how many frames of it stay -> `Decoder.restart`.
    name: of the run, for errors.

  Raises:
    ValueError: the model cannot go on so.
  """
  check_causal(model, name)
  window = window_frames(model)
  drop = settings.drop_frames or max(window // 4, 1)
  long = frames > window
  if long and settings.mode == "extend":
    model, window = _extended(model, settings, frames, window, name), frames
  elif long and not 1 <= drop < window:
    raise ValueError(
      f"window.drop_frames is {drop}; the window of {name} has {window}"
      f" {'latent ' if model.spec.latents.is_temporal else ''}frames, of which"
      f" {'1 to ' + str(window - 1) if window > 1 else 'none'} can go:"
      f" {'use one of these' if window > 1 else 'ask for no longer videos'}"
    )
  roll = long and settings.mode == "roll"
  if roll and not decode.forgets(model):
    raise ValueError(
      f"window.mode is 'roll'; {name} is a {model.config.kind}, whose cache has its places in it"
      " for good: use 'slide'"
    )
  if roll and restart is not None:
    raise ValueError(
      f"window.mode is 'roll'; the tokenizer of {name} makes a first latent frame of another kind,"
      " which a cache cannot lose: use 'slide'"
    )
  keep = window - drop
  return Decoder(
    model=model,
    weights=weights,
    window=window,
    sampling=sampling,
    slots=slots,
    roll=roll,
    drop=drop,
    layout=layout,
    restart=None if restart is None or not long else lambda codes: restart(codes, keep),
    name=name,
  )


def check_causal(model: trunk.Trunk, name: str) -> None:
  """Raises ValueError where tokens see later ones."""
  if model.config.prefix_tokens:
    raise ValueError(
      f"model.prefix_tokens of {name} is {model.config.prefix_tokens}; a model decodes token by"
      " token only with causal attention, 0"
    )


def _extended(
  model: trunk.Trunk, settings: Window, frames: int, window: int, name: str
) -> trunk.Trunk:
  """The model for places beyond those of training."""
  config, base = model.config, getattr(model.config, "rope_base", None)
  angles = config.angles(jnp.arange(1))
  if angles is None or base is None:
    if settings.rope == "base":
      raise ValueError(
        f"window.rope is 'base'; {name} is a {config.kind}, which rotates nothing by a base: use"
        " 'same'"
      )
    return model
  if settings.rope == "base":
    base = settings.rope_base
  elif settings.rope == "ntk":
    base = ntk_base(base, head_dim=2 * angles[0].shape[-1], longer=frames / window)
  return model.clone(config=dataclasses.replace(config, rope_base=float(base)))


def ntk_base(base: float, *, head_dim: int, longer: float) -> float:
  """The base with which the slowest angle of a sequence `longer` times as long
  ends where it did; the fastest is as it was ("NTK-aware" scaling; Peng et al.,
  2023, arXiv 2309.00071, section 3.1).
  """
  if head_dim <= 2:  # one angle alone, which has no base
    return base
  return base * longer ** (head_dim / (head_dim - 2))


def _check_shape(batch: Batch, spec: sequence.SequenceSpec) -> None:
  shape, rows = np.shape(batch.context_BNP), len(batch.item_B)
  if len(shape) != 3 or shape[2] != spec.frame_tokens or shape[0] != rows:
    raise ValueError(
      f"context codes have shape {shape}; [{rows} rows, frames,"
      f" {spec.frame_tokens} tokens] are needed"
    )


def _check(batch: Batch, further: int, begin: int, decoder: Decoder) -> None:
  """Raises ValueError where a batch is none of the decoder's."""
  spec = decoder.model.spec
  _check_shape(batch, spec)
  rows, frames, _ = batch.context_BNP.shape
  if not 1 <= frames <= decoder.window or further < 1:
    raise ValueError(
      f"{frames} frames of context and {further} further ones; the window of {decoder.name} has"
      f" {decoder.window}: give 1 to {decoder.window} of context, and ask for 1 or more"
    )
  if rows % decoder.ways:
    raise ValueError(f"{rows} videos do not divide over {decoder.ways} devices; pad them")
  check_codes(batch.context_BNP, spec, decoder.slots)
  known, done = batch.known_BNP, 0
  if known is not None and known.shape[1]:
    real = known != UNKNOWN
    check_codes(np.where(real, known, _first(spec, decoder.slots)), spec, decoder.slots)
    done = int(np.cumprod(real.all((0, 2))).sum())
  if done < begin:
    raise ValueError(f"frames 0 to {begin - 1} are to be gone on from, and are not all known")


def _first(spec: sequence.SequenceSpec, slots: Slots) -> np.ndarray:
  """[P], a code that each place can have."""
  firsts = [first for first, _ in slots] or [0]
  return np.resize(firsts, spec.frame_tokens)


def check_codes(codes_BNP: np.ndarray, spec: sequence.SequenceSpec, slots: Slots = ()) -> None:
  """Raises ValueError where codes are none of the model's, or stand where they cannot."""
  low, high = int(np.min(codes_BNP)), int(np.max(codes_BNP))
  if low < 0 or high >= spec.vocab:
    raise ValueError(
      f"context codes run from {low} to {high}; the model has codes 0 to"
      f" {spec.vocab - 1}. Were they made with another tokenizer?"
    )
  for k, (first, stop) in enumerate(slots):
    plane = codes_BNP[..., k :: len(slots)]
    if plane.min() < first or plane.max() >= stop:
      raise ValueError(
        f"code {k + 1} of a place runs from {plane.min()} to {plane.max()}; it can be {first} to"
        f" {stop - 1}. Were they made with another tokenizer?"
      )


def _known(batch: Batch, number: int) -> np.ndarray:
  """int32 [B, P]: codes of a new frame, or UNKNOWN."""
  known = batch.known_BNP
  if known is None or number >= known.shape[1]:
    return np.full((batch.context_BNP.shape[0], batch.context_BNP.shape[2]), UNKNOWN, np.int32)
  return known[:, number].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class _Programs:
  """What is compiled, for all samplings and weights of a model."""

  start: Callable[..., Any]  # (weights, inputs_BT, room=) -> carry
  frame: Callable[..., Any]  # (weights, carry, keys_B, known_BP, choice, position, number)
  forget: Callable[..., Any]  # (weights, carry, last_B) -> carry
  keys: Callable[..., jax.Array]  # (seed, item_B, draw_B) -> keys [B]


def _programs(decoder: Decoder) -> _Programs:
  mesh = None if decoder.layout is None else decoder.layout.mesh
  forgotten = decoder.drop * decoder.model.spec.frame_tokens if decoder.roll else 0
  return _compiled(
    # Modules hash by their fields; a checker sees no hash beside their `==`.
    decoder.model,  # pyright: ignore[reportArgumentType]
    decoder.slots,
    1 + decoder.window * decoder.model.spec.frame_tokens,
    forgotten,
    mesh,
  )


@functools.lru_cache(maxsize=8)
def _compiled(
  model: trunk.Trunk, slots: Slots, room: int, forgotten: int, mesh: Mesh | None
) -> _Programs:
  """One program per shape; on a mesh each device computes its own videos."""
  spec = model.spec

  def start(weights, inputs_BT):
    return decode.prefill(model, weights, inputs_BT, room=room)

  def frame(weights, carry, keys_B, known_BP, choice, position, number):
    lows, highs = (jnp.array(ends) for ends in zip(*(slots or ((0, spec.vocab),))))

    def one(carry, i):
      logits_BV, cache = carry
      own_B = jax.vmap(lambda key: jax.random.fold_in(key, number * spec.frame_tokens + i))(keys_B)
      low, high = lows[i % len(lows)], highs[i % len(highs)]
      allowed_BV = choices.visual(logits_BV, low, high)
      token_B = choices.choose(logits_BV, own_B, choice=choice, low=low, high=high)
      known_B = known_BP[:, i]
      token_B = jnp.where(known_B == UNKNOWN, token_B, known_B + sequence.SPECIALS)
      facts = (
        token_B,
        trunk.token_nll(logits_BV, token_B),
        jnp.argmax(allowed_BV, axis=-1) == token_B,
        jnp.any(jnp.isnan(allowed_BV) | (allowed_BV == jnp.inf), axis=-1)
        | jnp.all(allowed_BV == -jnp.inf, axis=-1),
      )
      return decode.step(model, weights, cache, token_B, position + i), facts

    carry, facts = jax.lax.scan(one, carry, jnp.arange(spec.frame_tokens))
    return carry, tuple(fact.T for fact in facts)

  def forget(weights, carry, last_B):
    logits_BV, cache = carry
    if not isinstance(cache, decode.Cache):
      return carry
    # The last token is read again, now that it does not see what has gone.
    shorter = decode.forget(model, cache, forgotten)
    return decode.step(model, weights, shorter, last_B, jnp.int32(room - forgotten - 1))

  def keys(seed, item_B, draw_B):
    key = jax.random.key(seed)
    one = lambda item, draw: jax.random.fold_in(jax.random.fold_in(key, item), draw)
    return jax.vmap(one)(item_B, draw_B)

  row, no = PartitionSpec(_ROWS), PartitionSpec()
  carry_spec = (row, _cache_spec(model))

  def program(function, ins, outs, **options):
    if mesh is not None:
      # Each device on its own: no video depends on how many there are.
      function = jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
    return jax.jit(function, **options)

  def told(*args):
    """A frame, whose facts every process can read."""
    carry, facts = program(frame, (no, carry_spec, row, row, no, no, no), (carry_spec, row))(*args)
    if mesh is not None:
      facts = jax.lax.with_sharding_constraint(facts, NamedSharding(mesh, no))
    return carry, facts

  return _Programs(
    start=program(start, (no, row), carry_spec),
    frame=jax.jit(told, donate_argnums=1),
    forget=program(forget, (no, carry_spec, row), carry_spec, donate_argnums=1),
    keys=program(keys, (no, row, row), row),
  )


def _cache_spec(model: trunk.Trunk) -> Any:
  """How a cache lies over the devices, as a prefix of its tree."""
  rows: Any = PartitionSpec(None, _ROWS) if decode.stacked(model) else PartitionSpec(_ROWS)
  cache = jax.eval_shape(lambda: decode.empty(model, rows=1, room=2))
  if not isinstance(cache, decode.Cache):
    return rows
  tokens_BS: Any = None if cache.tokens_BS is None else PartitionSpec(_ROWS)
  return decode.Cache(rows, rows, tokens_BS)


def _placed(decoder: Decoder, rows: np.ndarray) -> Any:
  """Rows of a batch, on their devices."""
  if decoder.layout is None:
    return jnp.asarray(rows)
  return jax.device_put(rows, NamedSharding(decoder.layout.mesh, PartitionSpec(_ROWS)))


def _keys(decoder: Decoder, batch: Batch) -> jax.Array:
  numbers = (_placed(decoder, np.asarray(x, np.uint32)) for x in (batch.item_B, batch.draw_B))
  return _programs(decoder).keys(np.uint32(decoder.sampling.seed), *numbers)


def _start(decoder: Decoder, seen_BNP: np.ndarray) -> Any:
  """The state after the frames of a window."""
  start_B1 = np.full((len(seen_BNP), 1), sequence.VIDEO_START, np.int32)
  tokens_BT = seen_BNP.reshape(len(seen_BNP), -1) + sequence.SPECIALS
  inputs_BT = np.concatenate([start_B1, tokens_BT], axis=1).astype(np.int32)
  return _programs(decoder).start(decoder.weights, _placed(decoder, inputs_BT))


def _frame(
  decoder: Decoder,
  carry: Any,
  keys_B: jax.Array,
  known_BP: np.ndarray,
  *,
  position: int,
  number: int,
) -> tuple[Any, Frame]:
  """The next frame, and the state after it."""
  choice, known = choices.Choice.of(decoder.sampling), _placed(decoder, known_BP)
  carry, facts = _programs(decoder).frame(
    decoder.weights, carry, keys_B, known, choice, np.int32(position), np.int32(number)
  )
  token_BP, nll_BP, likeliest_BP, broken_BP = (np.asarray(fact) for fact in facts)
  if broken_BP.any():
    raise NotFinite(
      f"{decoder.name} gives logits that are NaN or infinite in new frame {number}"
      f" ({int(broken_BP.any(1).sum())} of {len(broken_BP)} videos); its parameters have diverged:"
      " use another checkpoint or run"
    )
  return carry, Frame(sequence.codes_of(token_BP), nll_BP, likeliest_BP)
