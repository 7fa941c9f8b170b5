"""The clips that the page has: held out, drawn for it, and uploaded.

Shapes: T frames, S pixels of a side, N latent frames, P tokens of one.
"""

import dataclasses
import functools
import secrets
import threading

import numpy as np

from totojax.config.generate import Generate, Prompt
from totojax.config.playground import Playground
from totojax.config.schema import ConfigError
from totojax.data.pixels import excerpts, video, workers
from totojax.data.sources import items
from totojax.jobs.generate import prompts
from totojax.storage import outside
from totojax.tokenizers import api
from totojax.trained import generate, model as pretrained

_NAME = 80  # characters of a name that is shown


class Unreadable(ValueError):
  """An upload gives no clip; the message is why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A clip, as the model has its pixels.

  Attributes:
    key: by which it is asked for.
    name: for people.
    kind: "held out", "file", "drawn" or "uploaded".
    first_SS3: its first frame, uint8.
    frames_TSS3: uint8; None: of a store of tokens.
    codes_NP: int32 of whole latent frames; None: not encoded yet.
  """

  key: str
  name: str
  kind: str
  first_SS3: np.ndarray
  frames_TSS3: np.ndarray | None
  codes_NP: np.ndarray | None = None


class Shelf:
  """Clips by their keys, read and written by several threads."""

  def __init__(self, config: Playground, model: pretrained.Pretrained):
    """Reads the clips that the page begins with.

    Raises:
      ConfigError: none can be read of those that the config names.
    """
    self._config, self.model = config, model
    self._lock = threading.Lock()
    self._clips: dict[str, Clip] = {}
    self.notes: list[str] = []
    for clip in (*self._named(), *self._drawn()):
      self._clips[clip.key] = clip
    self.can_upload = self._can_upload()

  @functools.cached_property
  def most_frames(self) -> int:
    """Of pixels, of a clip: a window, and what may be made after it."""
    window = generate.window_frames(self.model.run.model)
    return self.model.latents.whole_frames(window) + self._config.limits.new_frames

  @functools.cached_property
  def _as_generated(self) -> Generate:
    """What `run = "generate"` would be asked for."""
    config = self._config
    prompt = Prompt(path=config.prompt.path, store=config.prompt.store, clips=config.prompt.clips)
    return Generate(
      model_run=config.model_run, tokenizer=config.tokenizer, prompt=prompt, clip=config.clip
    )

  def _amounts(self) -> prompts.Amounts:
    latents = self.model.latents
    given = latents.whole_frames(1)
    new = self.most_frames - given
    return prompts.Amounts(given, new, 1, latents.latent_frames(self.most_frames) - 1)

  def _named(self) -> list[Clip]:
    """Those of a store or of files."""
    config, amounts = self._as_generated, self._amounts()
    try:
      source = prompts.find(config, self.model.run, amounts, self.model.size_px)
      found, skipped = prompts.read(source, self.model, amounts, config=config)
    except (OSError, ValueError) as error:
      if config.prompt.path or config.prompt.store:
        raise
      self.notes.append(f"no held-out clips: {outside.shown(error)}")
      return []
    self.notes += [f"{one.id} gives no clip: {one.reason}" for one in skipped]
    kind = "file" if config.prompt.path else "held out"
    return [
      Clip(f"c{n}", one.id, kind, first_SS3, one.frames_TSS3, one.codes_NP)
      for n, one in enumerate(found[: config.prompt.clips])
      for first_SS3 in self.drawn(one.codes_NP[:1])[:1]
    ]

  def _drawn(self) -> list[Clip]:
    """Moving objects, as those of configs/demo.py, of a seed of the page's own."""
    prompt = self._config.prompt
    found = prompts.drawn(self.model, self.most_frames, prompt.rendered, seed=prompt.seed)
    return [
      Clip(f"d{n}", name, "drawn", frames_TSS3[0], frames_TSS3)
      for n, (name, frames_TSS3) in enumerate(found)
    ]

  @functools.cached_property
  def _spec(self) -> video.ClipSpec:
    """What is cut out of an upload.

    Raises:
      ImportError: PyAV is missing.
    """
    return prompts.spec_of_files(
      self._as_generated, self.model.run, frames=self.most_frames, size_px=self.model.size_px
    )

  def _can_upload(self) -> bool:
    try:
      _ = self._spec
    except ImportError as error:
      self.notes.append(f"no uploads: {error}")
      return False
    return True

  def all(self) -> list[Clip]:
    with self._lock:
      return list(self._clips.values())

  def find(self, key: str) -> Clip:
    """Raises ConfigError where there is no such clip."""
    with self._lock:
      if key in self._clips:
        return self._clips[key]
    raise ConfigError(f"clip {key!r:.40} is not there, or not any more; choose another one")

  def frames(self, clip: Clip) -> int:
    """Of pixels, that are known of a clip, in whole latent frames."""
    latents = self.model.latents
    if clip.codes_NP is not None:
      return latents.whole_frames(len(clip.codes_NP))
    assert clip.frames_TSS3 is not None
    count = len(clip.frames_TSS3)
    held = latents.latent_frames(count)
    held -= latents.whole_frames(held) > count
    return latents.whole_frames(held) if held else 0

  def encoded(self, clip: Clip) -> Clip:
    """The clip with its codes; on the thread that has the devices."""
    if clip.codes_NP is not None:
      return clip
    assert clip.frames_TSS3 is not None
    frames_TSS3 = clip.frames_TSS3[: self.frames(clip)]
    (codes_NP,) = self.model.codes(frames_TSS3[None])
    clip = dataclasses.replace(clip, frames_TSS3=frames_TSS3, codes_NP=codes_NP)
    self._put(clip)
    return clip

  def upload(self, path: str, name: str) -> Clip:
    """The clip of a file that somebody sent, read in a process that may crash.

    Args:
      path: of the file.
      name: for people; nothing is opened by it.

    Raises:
      Unreadable: it gives none.
    """
    shown = outside.shown(name)[:_NAME] or "upload"
    limit_s = self._config.limits.upload_s
    try:
      found = workers.call(
        excerpts.of_stranger, items.Item(shown, path), self._spec, limit_s=limit_s
      )
    except workers.Ended as error:
      raise Unreadable(f"{shown} gives no clip: {error}") from None
    if isinstance(found, items.Skipped):
      raise Unreadable(f"{shown} gives no clip: {found.reason.replace(path, shown)}")
    clip = Clip(f"u{secrets.token_hex(8)}", shown, "uploaded", found[0], found)
    if not self.frames(clip):
      least = self.model.latents.whole_frames(1)
      raise Unreadable(f"{shown} has {len(found)} frames, and the model's tokens need {least}")
    self._put(clip)
    return clip

  def _put(self, clip: Clip) -> None:
    """Adds or replaces a clip; of too many uploads the oldest goes."""
    with self._lock:
      if clip.kind == "uploaded" and clip.key not in self._clips:
        uploads = [key for key, one in self._clips.items() if one.kind == "uploaded"]
        for key in uploads[: len(uploads) + 1 - self._config.limits.uploads]:
          del self._clips[key]
      self._clips[clip.key] = clip

  def drawn(self, codes_NP: np.ndarray) -> np.ndarray:
    """uint8 [T, S, S, 3]: what the tokenizer keeps of a clip; on the thread as above."""
    shape = 1, len(codes_NP), *self.model.run.model.spec.frame_shape
    return api.decode_clips(self.model.tokenizer, codes_NP.reshape(shape))[0]
