"""A pre-trained model in Python: pixels or codes in, features of any layer out.

  m = totojax.load("runs/demo/pretrain")
  f = m.features(frames, layer=4)
  v = m.generate(frames, new_frames=8)
  s = m.surprise(frames)
  a = m.prompt([(input_1, output_1), (input_2, output_2)], query)

Where the tokenizer makes one latent frame of several frames, features are of
latent frames: that of frame t is at `m.latents.latent_frame(t)`. Of one with
several codes for a place there is a feature of each; the last has seen them all.

Shapes: R clips, T frames of a clip, N latent frames (N = T of an image
tokenizer), G grid side, K codes of a place (the axis is missing where there is
one), P tokens of a latent frame (G x G x K), L layers, D width, H and W pixels,
S the model's own side.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax import flops, sequence, sharding
from totojax.config.model import LatentSpec
from totojax.data.pixels import augment
from totojax.models import taps, trunk
from totojax.rundir import console
from totojax.tokenizers import api
from totojax.trained import arguments, backbone

if TYPE_CHECKING:
  from totojax.config.generate import Sampling, Window
  from totojax.trained import generate as generate_lib

_RESAMPLE = "bicubic"  # as clips are made for training (`config.pixels`)


class Pretrained:
  """A run of `run = "pretrain"` whose parameters are on the devices.

  Attributes:
    run: where it comes from.
    depth: layers run from 0 (the embeddings) to this.
    width: values of a feature.
    frames: of a clip of pixels, at most.
    latents: how its tokens lie over frames and places.
    size_px: side of the frames that the model sees.
  """

  def __init__(
    self,
    run: backbone.Trained,
    *,
    tokenizer: str,
    depth: int,
    layout: sharding.Layout,
    trained: bool = True,
  ):
    """Args:
    run: of `backbone.find`.
    tokenizer: its file; "": found by itself (`backbone.find_tokenizer`).
    depth: blocks that are loaded.
    layout: of parameters and batches.
    trained: whether its parameters are the checkpoint's; else fresh ones.
    """
    self.run, self.depth = run, depth
    self._tokenizer, self._layout = tokenizer, layout
    if tokenizer:  # a wrong one is told now
      _ = self.tokenizer
    self._model, self._params = backbone.load(
      run, run.model, trained=trained, depth=depth, layout=layout, seed=0
    )
    self._tapped = functools.cache(self._compiled)

  @functools.cached_property
  def tokenizer(self) -> api.Tokenizer:
    """What made the model's tokens, or its patches; read when first needed."""
    return backbone.find_tokenizer(self.run, self._tokenizer)

  def __repr__(self) -> str:
    config, spec = self._model.config, self._model.spec
    whole = self.run.model.config
    loaded = "" if self.depth == whole.depth else f" of which {self.depth} are loaded,"
    held = "patches"
    if self.run.patches is None:
      count = console.short(flops.parameters(whole, spec.vocab))
      held = f"{count} parameters, {spec.vocab} codes"
    return (
      f"<totojax model {self.run.path}, step {self.run.step}: {config.kind}, {whole.depth}"
      f" layers,{loaded} {config.width} wide, {held}, {spec.frames} x {spec.grid} x {spec.grid}"
      f" places, tokenizer {self._tokenizer or self.run.tokenizer}>"
    )

  @property
  def width(self) -> int:
    return self._model.config.width

  @property
  def frames(self) -> int:
    return self._model.spec.clip_frames

  @property
  def latents(self) -> LatentSpec:
    return self._model.spec.latents

  @property
  def size_px(self) -> int:
    return self._model.spec.grid * self.tokenizer.factor

  def features(
    self,
    frames: np.ndarray,
    *,
    layer: int | Sequence[int],
    pool: str = "token",
    kind: str = "video",
    rows: int = 8,
  ) -> np.ndarray:
    """What the model makes of videos or images.

    Frames of another size are resized to the model's by their short side
    (bicubic, with antialiasing) and cut about their centre. Fewer frames than
    the model was trained on are a shorter sequence; its last latent frame is
    filled with their last frame.

    Args:
      frames: uint8, videos [R, T, H, W, 3], one video [T, H, W, 3] or one image
        [H, W, 3]; with `kind="image"` also images [R, H, W, 3].
      layer: H_l that is wanted, or several, increasing; 0: the embeddings. The
        forward pass stops at the last of them.
      pool: "token", or means over each (latent) "frame" or "clip".
      kind: "video" or "image": what a sequence begins with.
      rows: clips of a forward pass.

    Returns:
      float32 [R, N, G, G, D] ([R, N, G, G, K, D] of several codes a place),
      [R, N, D] or [R, D] by `pool`. One video has no R, images have no N, and
      several layers come first: [L, ...].

    Raises:
      ValueError: another shape or type, more frames than the model's clips
        have, images where tokens stand for several frames, or a layer that does
        not exist.
    """
    frames = arguments.pixels(frames)
    if frames.ndim == 3:
      kind = "image"
    clips_RTHW3 = arguments.clips(frames, kind)
    backbone.check_kind(self.latents, kind, "what features are asked of")
    self._check_amount(
      clips_RTHW3.shape[1], self.frames, "frames", but=', and for images kind="image"'
    )
    codes_RNP = self.codes(clips_RTHW3)
    features = self.features_of_codes(codes_RNP, layer=layer, pool=pool, kind=kind, rows=rows)
    first = 0 if np.ndim(layer) == 0 else 1  # the axis of clips
    if kind == "image" and pool != "clip":
      features = np.squeeze(features, axis=first + 1)
    single = frames.ndim == (3 if kind == "image" else 4)
    return np.squeeze(features, axis=first) if single else features

  def codes(self, clips_RTHW3: np.ndarray) -> np.ndarray:
    """Codes [R, N, P] of clips of any size, in raster order.

    Of a model of patches, the values of these: float32 [R, N, P, F].
    """
    clips_RTHW3 = arguments.several(clips_RTHW3)
    clips, frames = clips_RTHW3.shape[:2]
    size = self.size_px
    clips_RTHW3 = self.fitted(clips_RTHW3)
    if self.run.patches is not None:
      frames_MSS3 = clips_RTHW3.reshape(-1, size, size, 3)
      cut_MGGF = self.tokenizer.encode(frames_MSS3)
      return cut_MGGF.reshape(clips, frames, -1, cut_MGGF.shape[-1])
    codes = api.encode_clips(self.tokenizer, clips_RTHW3)
    return codes.reshape(clips, self.latents.latent_frames(frames), -1)

  def fitted(self, clips_RTHW3: np.ndarray) -> np.ndarray:
    """Clips of any size, resized by their short side and cut to the model's."""
    return augment.fitted(clips_RTHW3, self.size_px, _RESAMPLE)

  def features_of_codes(
    self,
    codes_RNP: np.ndarray,
    *,
    layer: int | Sequence[int],
    pool: str = "token",
    kind: str = "video",
    rows: int = 8,
  ) -> np.ndarray:
    """`features` of codes that were made before; R and N always stay.

    Raises:
      ValueError: as `features`, or a code that the model does not have.
    """
    layer, rows = arguments.layers(layer), arguments.rows(rows)
    if self.run.patches is None and len(codes_RNP):
      codes_RNP = arguments.codes(codes_RNP, self._model.spec.frame_tokens)
    single = np.ndim(layer) == 0
    layers = tuple(np.atleast_1d(layer).tolist())
    taps.check_layers(layers, self.depth)
    if not len(codes_RNP):
      raise ValueError("0 clips were given; features need at least one")
    latent = "latent frames" if self.latents.is_temporal else "frames"
    self._check_amount(codes_RNP.shape[1], self._model.spec.frames, latent)
    model, program = self._tapped(codes_RNP.shape[1], layers, pool)
    ways = self._layout.mesh.shape["data"]
    rows = -(-rows // ways) * ways  # what is missing is padding
    parts = []
    for start in range(0, len(codes_RNP), rows):
      part_BNP = codes_RNP[start : start + rows]
      build = patch_rows if self.run.patches is not None else token_rows
      batch = build(part_BNP, kind=kind, spec=model.spec, rows=rows)
      parts.append(program(batch)[: len(part_BNP)])
    out_LR = np.swapaxes(np.concatenate(parts), 0, 1)
    if pool == "token":
      out_LR = out_LR.reshape(*out_LR.shape[:3], *model.spec.frame_shape, self.width)
    return out_LR[0] if single else out_LR

  def generate(
    self,
    frames: np.ndarray,
    *,
    new_frames: int = 8,
    samples: int | None = None,
    sampling: "Sampling | None" = None,
    window: "Window | None" = None,
    rows: int = 8,
  ) -> np.ndarray:
    """How the model goes on with videos.

    A video depends on its frames, `sampling` and its number among the samples
    alone, not on the videos beside it, their number or that of devices (but for
    the rounding of logits, which a draw between equally likely tokens can show).

    Args:
      frames: uint8, videos [R, T, H, W, 3] or one [T, H, W, 3], of any size, as
        `features` takes them. Of a tokenizer of clips, whole latent frames.
      new_frames: that are made.
      samples: of each video; None: one, and no axis for it.
      sampling: `config.generate.Sampling`: temperature, top_k, top_p, min_p, seed.
      window: `config.generate.Window`: what is done where a video is longer than
        those that the model was trained on.
      rows: videos at a time.

    Returns:
      uint8 [R, samples, new_frames, S, S, 3], without the given frames.

    Raises:
      ValueError: another shape or type, more frames than the model's window,
        or a model that cannot go on with a video, or not so.
    """
    from totojax.config import generate as config
    from totojax.trained import continued

    new_frames = arguments.count(new_frames, "new_frames", most=config.MOST_FRAMES)
    if samples is not None:
      samples = arguments.count(samples, "samples", most=config.MOST_SAMPLES)
    rows = arguments.rows(rows)
    sampling = arguments.section(sampling, config.Sampling, "sampling")
    window = arguments.section(window, config.Window, "window")
    self._check_continues()
    frames = arguments.pixels(frames)
    clips_RTHW3 = arguments.clips(frames, takes_images=False)
    given = clips_RTHW3.shape[1]
    spec, name = self.run.model.spec, str(self.run.path)
    continued.check_amounts(spec, given=given, new=new_frames, name=name)
    latent = self.latents.latent_frames
    further = latent(given + new_frames) - latent(given)
    decoder = self.decoder(frames=latent(given) + further, sampling=sampling, window=window)
    made_RKNP = continued.samples(
      decoder, self.codes(clips_RTHW3), further=further, samples=samples or 1, rows=rows
    )
    shape = spec.frame_shape
    drawn = api.decode_clips(self.tokenizer, made_RKNP.reshape(-1, made_RKNP.shape[2], *shape))
    new = drawn[:, given : given + new_frames]
    out = new.reshape(len(clips_RTHW3), samples or 1, *new.shape[1:])
    out = out[:, 0] if samples is None else out
    return out[0] if frames.ndim == 4 else out

  def prompt(
    self,
    pairs: Any,
    query: np.ndarray,
    *,
    samples: int | None = None,
    sampling: "Sampling | None" = None,
    rows: int = 8,
  ) -> np.ndarray:
    """What the model draws for a query, after example pairs (`trained.prompting`).

    Args:
      pairs: uint8 [pairs, 2, H, W, 3], frames [2 pairs, H, W, 3], or a sequence
        of (input, output), of any size each.
      query: uint8 [H, W, 3], or several [R, H, W, 3] with the same pairs.
      samples: of each query; None: one, and no axis for it.
      sampling: of tokens; None: the most likely one.
      rows: prompts at a time.

    Returns:
      uint8 [R, samples, S, S, 3].

    Raises:
      ValueError: as `generate`, or what is given is no pairs and a query.
    """
    from totojax.trained import prompting

    return prompting.answer(self, pairs, query, samples=samples, sampling=sampling, rows=rows)

  def surprise(self, frames: np.ndarray, *, rows: int = 8) -> np.ndarray:
    """How unlikely each token of videos is, given all before it.

    Args:
      frames: uint8, videos [R, T, H, W, 3] or one [T, H, W, 3], of any size, as
        `features` takes them.
      rows: videos at a time.

    Returns:
      float32 nats [R, N, G, G] ([R, N, G, G, K] of several codes a place), those
      of the first latent frame given nothing; of one video without R.

    Raises:
      ValueError: another shape or type, more frames than the model's window, or
        a model of patches or one that gives NaN.
    """
    frames = arguments.pixels(frames)
    clips_RTHW3 = arguments.clips(frames, takes_images=False)
    self._check_amount(clips_RTHW3.shape[1], self.frames, "frames")
    self._check_continues()
    nll_RNP = self.nll_of_codes(self.codes(clips_RTHW3), rows=rows)
    nll = nll_RNP.reshape(*nll_RNP.shape[:2], *self.run.model.spec.frame_shape)
    return nll[0] if frames.ndim == 4 else nll

  def nll_of_codes(self, codes_RNP: np.ndarray, *, rows: int = 8) -> np.ndarray:
    """float32 nats [R, N, P] of the codes of videos, each given all before it.

    Raises:
      ValueError: as `surprise`, or a code that the model does not have.
    """
    codes_RNP = arguments.codes(codes_RNP, self.run.model.spec.frame_tokens)
    rows = arguments.rows(rows)
    self._check_amount(codes_RNP.shape[1], self.run.model.spec.frames, "latent frames")
    spec, program = self._losses(codes_RNP.shape[1])
    # A program for each power of two: what is missing is padding.
    rows = min(rows, 1 << max(len(codes_RNP) - 1, 0).bit_length())
    rows, parts = -(-rows // self._layout.ways) * self._layout.ways, []
    for start in range(0, len(codes_RNP), rows):
      some = codes_RNP[start : start + rows]
      tokens_BR = np.full((rows, spec.row_tokens), sequence.PAD, np.int32)
      for row_R, codes_NP in zip(tokens_BR, some):
        row_R[:] = sequence.build(codes_NP, kind="video", spec=spec)
      nll_BT, _ = program(self._all, {"tokens": tokens_BR})
      parts.append(np.asarray(nll_BT)[: len(some), : spec.visual_tokens].reshape(some.shape))
    nll_RNP = np.concatenate(parts)
    if not np.isfinite(nll_RNP).all():
      raise ValueError(
        f"{self.run.path} gives losses that are NaN or infinite; its parameters have diverged: use"
        " another checkpoint or run"
      )
    return nll_RNP

  @functools.cached_property
  def _all(self) -> Any:
    """All parameters, as training has them; read when first needed."""
    return backbone.read(self.run, backbone.causal(self.run.model), self._layout)

  @functools.cached_property
  def _losses(self) -> Callable[[int], tuple[sequence.SequenceSpec, Callable[..., Any]]]:
    """Latent frames -> their sequence, and (parameters, rows) -> nats of all targets."""
    from totojax import assembly
    from totojax.tasks import pretrain as task_lib

    parametrisation = assembly.parametrisation(self.run.config)

    @functools.cache
    def of(frames: int) -> tuple[sequence.SequenceSpec, Callable[..., Any]]:
      model = backbone.for_clips(backbone.causal(self.run.model), frames=frames)
      # Chunks need not divide these lengths; without gradients little is gained by them.
      model = model.clone(compute=dataclasses.replace(model.compute, loss_chunk=0))
      spec = dataclasses.replace(model.spec, train_end=False)
      task = task_lib.Pretrain(model.clone(spec=spec), parametrisation)
      return spec, assembly.everywhere(task.per_target, self._layout)

    return of

  def decoder(
    self, *, frames: int, sampling: "Sampling", window: "Window"
  ) -> "generate_lib.Decoder":
    """What goes on with videos of up to `frames` latent frames in all.

    Raises:
      ValueError: as `generate`.
    """
    from totojax.tokenizers import split
    from totojax.trained import continued, generate as generate_lib

    self._check_continues()
    return generate_lib.decoder(
      self.run.model,
      self._weights,
      settings=window,
      frames=frames,
      sampling=sampling,
      slots=split.slots(self.tokenizer),
      layout=self._layout,
      restart=continued.restart(self.tokenizer, self.run.model.spec),
      name=str(self.run.path),
    )

  def _check_continues(self) -> None:
    if self.run.patches is not None:
      raise ValueError(
        f"{self.run.path} reads patches of pixels, of which none can be drawn and none has a"
        " likelihood; name a model of tokens"
      )

  @functools.cached_property
  def _weights(self) -> Any:
    """All parameters, the head's too, as decoding reads them; read when first needed."""
    from totojax.models import decode

    model = backbone.causal(self.run.model)
    params = backbone.read(self.run, model, self._layout)
    return self._layout.jit(lambda params: decode.load(model, params))(params)

  def _compiled(
    self, frames: int, layers: tuple[int, ...], pool: str
  ) -> tuple[trunk.Trunk, Callable[..., np.ndarray]]:
    model = backbone.for_clips(self._model, frames=frames)
    return model, backbone.features(
      model, self._params, layers=layers, pool=pool, layout=self._layout
    )

  def _check_amount(self, count: int, most: int, what: str, but: str = "") -> None:
    if not 1 <= count <= most:
      raise ValueError(
        f"clips have {count} {what}; the model of {self.run.path} was"
        f" trained on {most}: give 1 to {most}{but}"
      )


def token_rows(
  codes_BNP: np.ndarray, *, kind: str, spec: sequence.SequenceSpec, rows: int
) -> dict[str, np.ndarray]:
  """A batch of `rows` rows, the last of which are padding."""
  tokens_BT = np.full((rows, spec.context), sequence.PAD, np.int32)
  for tokens_T, codes_NP in zip(tokens_BT, codes_BNP):
    tokens_T[:] = sequence.build(codes_NP, kind=kind, spec=spec)[:-1]
  return {"tokens": tokens_BT}


def patch_rows(
  patches_BNPF: np.ndarray, *, kind: str, spec: sequence.SequenceSpec, rows: int
) -> dict[str, np.ndarray]:
  """The same of patches."""
  count, values = len(patches_BNPF), patches_BNPF.shape[-1]
  patches_BTF = np.zeros((rows, spec.context - 1, values), np.float32)
  patches_BTF[:count, : spec.visual_tokens] = patches_BNPF.reshape(count, -1, values)
  return {"patches": patches_BTF, "start": np.full(rows, sequence.START[kind], np.int32)}


def load(
  run: str | os.PathLike[str],
  *,
  tokenizer: str = "",
  depth: int | None = None,
  trained: bool = True,
) -> Pretrained:
  """Loads a pre-trained model onto the devices of this process.

  Args:
    run: run directory of `run = "pretrain"`, local or gs://.
    tokenizer: file of the tokenizer that made its tokens; "": that of the run,
      of its chain, of the package or of its stores' job, whichever is it.
    depth: blocks that are loaded: no layer beyond can be asked for; None: all.
    trained: whether its parameters are the checkpoint's; else they are as they
      were before training.

  Raises:
    ValueError: it is no such run, it has no checkpoint, or fewer blocks.
    FileNotFoundError: there is no run.
  """
  tokenizer = arguments.path(tokenizer, "tokenizer") if tokenizer else ""
  source = backbone.find(arguments.path(run, "run"), patches=True)
  deepest = source.model.config.depth
  if depth is not None:
    depth = arguments.count(depth, "depth", least=0, most=deepest)
  # Parameters whole on every device: rows are spread, whatever their number.
  everywhere = sharding.MeshConfig(data=-1, fsdp=1, tensor=1, sequence=1)
  return Pretrained(
    source,
    tokenizer=tokenizer,
    depth=deepest if depth is None else depth,
    layout=sharding.Layout(sharding.make_mesh(everywhere)),
    trained=trained,
  )
