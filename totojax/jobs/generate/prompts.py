"""What is continued: clips of a store, or of the user's files.

Shapes: R clips, N latent frames, T frames of pixels, P tokens of a latent frame,
S pixels of a side.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from totojax.config.generate import Generate
from totojax.config.pixels import Scene
from totojax.config.schema import ConfigError
from totojax.data.pixels import containers, excerpts, synthetic, video
from totojax.data.sources import folder, items as items_lib, pairs as pair_lib
from totojax.data.store import manifests, store as store_lib
from totojax.rundir import console, files
from totojax.storage import objects, outside
from totojax.trained import backbone, continued, model as pretrained, prompting, shipped

_STRIDE_FRAMES, _FPS = 4, 30.0  # section 3.4, where no training data say otherwise
_AT_A_TIME = 32  # clips that are encoded
_DRAWN, _DRAWN_SEED = 16, 20_250  # clips of the model that ships: how many, and their seed
_FITTED, _FITTED_SEED = 400, 20_251  # others of them, for what needs no network
_LEAST_DRAWN_PX = 8  # of a scene
_STILL = 0.25  # of a clip's frames, equal to the one before: a line says so


@dataclasses.dataclass(frozen=True)
class Amounts:
  """How much is given and made."""

  given: int  # frames of pixels
  new: int
  context: int  # latent frames
  further: int

  @classmethod
  def of(cls, config: Generate, run: backbone.Trained) -> "Amounts":
    """With what the model decides for 0.

    Raises:
      ConfigError: they do not fit it.
    """
    spec = run.model.spec
    if config.prompt.pairs:
      given = 2 * len(_pairs(config, run)) + 1
      return cls(given, 1, given, 1)
    latents, window = spec.latents, min(spec.frames, spec.context // spec.frame_tokens)
    given = config.prompt.frames or latents.whole_frames(max(window // 2, 1))
    new = config.new_frames or max(latents.whole_frames(window) - given, latents.frame_factor)
    try:
      continued.check_amounts(spec, given=given, new=new, name=str(run.path))
    except ValueError as error:
      raise ConfigError(f"prompt.frames: {error}") from error
    context = latents.latent_frames(given)
    return cls(given, new, context, latents.latent_frames(given + new) - context)


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip: what is given, and what is known of what follows."""

  id: str
  codes_NP: np.ndarray  # int32, whole latent frames
  frames_TSS3: np.ndarray | None  # uint8 of the model's size; None: of a store of tokens


@dataclasses.dataclass(frozen=True)
class Source:
  """Where clips come from, opened and compared with the model."""

  name: str  # the path
  fps: float  # frames a second of what the model sees; 0.0: not known
  store: store_lib.Store | None  # or
  items: Sequence[items_lib.Item]  # files
  spec: video.ClipSpec | None  # of videos
  pairs: Sequence[pair_lib.Pair] = ()  # that are given before files of pictures
  drawn: int = 0  # clips that are rendered


def find(config: Generate, run: backbone.Trained, amounts: Amounts, size_px: int) -> Source:
  """The clips that a config names; none is read yet.

  Raises:
    ConfigError: there is none, or they are too short or of another tokenizer.
    ImportError: the package that reads videos is missing.
  """
  if config.prompt.pairs:
    queries = _listed(config, kind="image")
    return Source(config.prompt.path, 0.0, None, queries, None, _pairs(config, run))
  if config.prompt.path:
    return _files(config, run, amounts, size_px)
  path = config.prompt.store or next(iter(run.config.data.validation.values()), "")
  if not path and config.model_run == shipped.NAME:
    return Source("rendered", 0.0, None, (), None, drawn=config.prompt.clips or _DRAWN)
  if not path:
    raise ConfigError(
      f"prompt.path and prompt.store are empty, and {run.path} holds nothing out; name a video, a"
      " folder of videos, or a store"
    )
  return _store(config, path, run, amounts)


def _store(config: Generate, path: str, run: backbone.Trained, amounts: Amounts) -> Source:
  if config.prompt.place == "end":
    raise ConfigError("prompt.place is 'end', which is of files; clips of a store begin at 'start'")
  if config.clip.stride_frames or config.clip.fps:
    raise ConfigError(
      f"clip.stride_frames and clip.fps are of files; clips of {path} are taken as they are: set"
      " both to 0"
    )
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  head, spec = store.manifest, run.model.spec
  what = f"prompt.store {path}"
  backbone.check_kind(spec.latents, head.kind, what)
  if head.vocab:
    backbone.check_codes(
      run, vocab=head.vocab, latents=head.latents, tokenizer=head.tokenizer, what=what
    )
    if head.grid != spec.grid:
      raise ConfigError(f"{what} has a grid of {head.grid}; {run.path} was trained on {spec.grid}")
  if head.pixel_frames < amounts.given:
    raise ConfigError(
      f"{what} has clips of {head.pixel_frames} frames, and prompt.frames is {amounts.given}; give"
      " as many, or fewer"
    )
  fps = head.fps / head.stride_frames if head.stride_frames else 0.0
  return Source(path, fps, store, (), None)


def _files(config: Generate, run: backbone.Trained, amounts: Amounts, size_px: int) -> Source:
  items = _listed(config, kind="video")
  frames = amounts.given + amounts.new
  spec = spec_of_files(config, run, frames=frames, size_px=size_px)
  return Source(config.prompt.path, spec.fps / spec.stride_frames, None, items, spec)


def spec_of_files(
  config: Generate, run: backbone.Trained, *, frames: int, size_px: int
) -> video.ClipSpec:
  """What is cut out of files.

  Raises:
    ImportError: the package that reads videos is missing.
  """
  containers.pyav()
  stride, fps = _rate(run)
  return video.ClipSpec(
    frames=frames,
    stride_frames=config.clip.stride_frames or stride,
    fps=config.clip.fps or fps,
    size_px=size_px,
    resample=config.clip.resample,
    short="skip",
  )


def _listed(config: Generate, *, kind: str) -> list[items_lib.Item]:
  """The files of `prompt.path`."""
  path = config.prompt.path
  if os.path.isfile(path) or (objects.is_url(path) and objects.exists(path)):
    return [items_lib.Item(items_lib.name(os.path.basename(path)), path)]
  if not objects.is_url(path) and not os.path.exists(path):
    raise ConfigError(f"prompt.path is {path!r}, and there is no such file or folder")
  if not objects.is_url(path) and not os.path.isdir(path):
    raise ConfigError(f"prompt.path is {path!r}, which is neither a file nor a folder")
  try:
    listing = folder.list_items(path, "", kind=kind, class_folders=False)
  except ValueError as error:
    raise ConfigError(f"prompt.path: {error}") from error
  return [listing.items[i] for i in spread(len(listing.items), config.prompt.clips)]


def _pairs(config: Generate, run: backbone.Trained) -> list[pair_lib.Pair]:
  """The example pairs of `prompt.pairs`, where the model can be given as many."""
  try:
    found = pair_lib.list_pairs(config.prompt.pairs)
    prompting.check(run.model.spec, pairs=len(found), name=str(run.path))
  except ValueError as error:
    raise ConfigError(f"prompt.pairs: {error}") from error
  return found


def _rate(run: backbone.Trained) -> tuple[int, float]:
  """(stride, frames/s) of what a run was trained on, where its stores are at hand."""
  for share in run.config.data.train.values():
    try:
      head = manifests.existing(share.path)
    except (OSError, ValueError):
      continue
    if head.stride_frames and head.fps:
      return head.stride_frames, head.fps
  return _STRIDE_FRAMES, _FPS


def spread(count: int, most: int) -> list[int]:
  """Places of at most so many of `count`, evenly; 0: of all."""
  wanted = min(most, count) if most else count
  return np.linspace(0, count - 1, wanted).astype(int).tolist()


def read(
  source: Source, model: pretrained.Pretrained, amounts: Amounts, *, config: Generate
) -> tuple[list[Clip], list[items_lib.Skipped]]:
  """The clips, and what gave none.

  Raises:
    ConfigError: no file gives one.
  """
  if source.store is not None:
    return list(_of_store(source.store, model, amounts, config.prompt.clips)), []
  if source.drawn:
    found = drawn(model, amounts.given + amounts.new, source.drawn, seed=_DRAWN_SEED)
    return [
      Clip(name, codes_NP, frames_TSS3[: model.latents.whole_frames(len(codes_NP))])
      for name, frames_TSS3 in found
      for codes_NP in _whole(model, frames_TSS3[None], model.latents)
    ], []
  clips, skipped, still = [], [], []
  examples = _examples(source.pairs)
  with console.tracking("reading what is continued", unit="files", total=len(source.items)) as bar:
    for item in source.items:
      if source.pairs:
        found = _of_query(item, examples, model)
      else:
        found = of_file(item, source, amounts, place=config.prompt.place)
      bar.advance()
      if isinstance(found, items_lib.Skipped):
        skipped.append(found)
        continue
      if np.mean([np.array_equal(*pair) for pair in zip(found, found[1:])] or [0]) > _STILL:
        still.append(item.id)
      (codes_NP,) = _whole(model, found[None], model.latents)
      clips.append(Clip(item.id, codes_NP, found[: model.latents.whole_frames(len(codes_NP))]))
  if not clips:
    first = skipped[0]
    more = f" (and {len(skipped) - 1} more files)" if len(skipped) > 1 else ""
    raise ConfigError(f"prompt.path {source.name}: {first.id} gives no clip{more}: {first.reason}")
  if still and not source.pairs:
    console.say(
      f"{len(still)} of {len(clips)} clips repeat frames ({still[0]}): nothing moves in them, or"
      f" their files have fewer than {source.fps:g} frames a second (a larger"
      " --config.clip.stride_frames takes fewer)"
    )
  return clips, skipped


def drawn(
  model: pretrained.Pretrained, frames: int, count: int, *, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
  """(what is seen, frames [T, S, S, 3]) of moving objects, as those of configs/demo.py."""
  plain = Scene(frames=frames, size_px=max(model.size_px, _LEAST_DRAWN_PX))
  scene = synthetic.SyntheticConfig(**vars(plain), seed=seed)
  for n in range(count):
    made = synthetic.render(scene, n)
    (frames_TSS3,) = model.fitted(made.frames_NHW3[None])
    yield f"{n}: {synthetic.SHAPES[made.shape]}, {synthetic.MOTIONS[made.motion]}", frames_TSS3


def drawn_codes(model: pretrained.Pretrained) -> np.ndarray:
  """Codes [R, N, P] of clips as `drawn` ones that are none of those that are continued."""
  found = drawn(model, model.frames, _FITTED, seed=_FITTED_SEED)
  return _whole(model, np.stack([frames_TSS3 for _, frames_TSS3 in found]), model.latents)


def _whole(model: pretrained.Pretrained, clips_RTHW3: np.ndarray, latents: Any) -> np.ndarray:
  """Codes [R, N, P] of the latent frames that lie wholly in clips."""
  frames, count = clips_RTHW3.shape[1], latents.latent_frames(clips_RTHW3.shape[1])
  count -= latents.whole_frames(count) > frames
  return model.codes(clips_RTHW3[:, : latents.whole_frames(count)])


def _of_store(
  store: store_lib.Store, model: pretrained.Pretrained, amounts: Amounts, most: int
) -> Iterator[Clip]:
  head, latents = store.manifest, model.latents
  records = spread(len(store), most)
  ids = store.ids() if head.ids else None
  longest = amounts.given + amounts.new
  for first in range(0, len(records), _AT_A_TIME):
    some = records[first : first + _AT_A_TIME]
    if head.vocab:
      codes = store.read(some)["codes"].reshape(len(some), head.frames, -1)
      # The last latent frame may hold padding.
      count = head.frames - (latents.whole_frames(head.frames) > head.pixel_frames)
      codes_RNP = codes[:, : min(count, latents.latent_frames(longest))].astype(np.int32)
      frames = [None] * len(some)
    else:
      pixels = store.read(some)["frames"]
      pixels = pixels[:, None] if pixels.ndim == 4 else pixels
      pixels_RTSS3 = model.fitted(pixels[:, :longest])
      codes_RNP = _whole(model, pixels_RTSS3, latents)
      frames = list(pixels_RTSS3[:, : latents.whole_frames(codes_RNP.shape[1])])
    for record, codes_NP, frames_TSS3 in zip(some, codes_RNP, frames):
      name = ids[record] if ids else f"record {record}"
      yield Clip(name, codes_NP, frames_TSS3)


def of_file(
  item: items_lib.Item, source: Source, amounts: Amounts, *, place: str
) -> np.ndarray | items_lib.Skipped:
  """Frames [T, S, S, 3] of a file, as many as are wanted and there; or why there are none."""
  assert source.spec is not None
  return excerpts.load(item, source.spec, least=amounts.given, place=place)


def _examples(pairs: Sequence[pair_lib.Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
  try:
    return [pair.read() for pair in pairs]
  except ValueError as error:
    raise ConfigError(f"prompt.pairs: {error}") from error


def _of_query(
  item: items_lib.Item,
  examples: Sequence[tuple[np.ndarray, np.ndarray]],
  model: pretrained.Pretrained,
) -> np.ndarray | items_lib.Skipped:
  """Frames [T, S, S, 3] of a prompt of pictures; or why there are none."""
  try:
    query_HW3 = pair_lib.read(item.path)
  except ValueError as error:
    return items_lib.Skipped(item.id, outside.shown(error))
  return prompting.frames_of(examples, query_HW3, model.fitted)[0]


def digest(clips: Sequence[Clip]) -> str:
  """Stands for what is continued, and what it is compared with."""
  state = hashlib.sha256()
  for clip in clips:
    state.update(f"{clip.id} {clip.codes_NP.shape} ".encode())
    state.update(np.ascontiguousarray(clip.codes_NP, "<i4").tobytes())
  return state.hexdigest()[:32]


def write_skipped(workdir: Any, skipped: Sequence[items_lib.Skipped]) -> None:
  """`skipped.csv`: files that gave no clip."""
  rows = [(one.id, one.reason) for one in skipped]
  files.write_table(workdir / "skipped.csv", rows, header=("id", "reason"))
  if rows:
    console.say(f"{len(rows)} files give no clip: {workdir / 'skipped.csv'}")
