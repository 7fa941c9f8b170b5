"""Held-out videos that a model goes on with while it is trained (`samples.clips`).

At each evaluation the same clips are gone on with by the same draws, so that
they show what the model has learned since. `samples/` of the run gets a WebP,
which plays, and a strip of PNG for each of these steps: each clip as the tokenizer
draws it, and what the model makes of its first half.

Shapes: R clips, N latent frames, P tokens of one, T frames of pixels.
"""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import assembly, step as step_lib, train
from totojax.config import generate as generate_config
from totojax.config.pretrain import Pretrain
from totojax.data.pixels import movies
from totojax.data.store import store as store_lib
from totojax.evals import continuations
from totojax.models import decode
from totojax.rundir import console, files, hosts, pictures
from totojax.tokenizers import api, split
from totojax.trained import backbone, continued, generate

_SIDE_PX, _FPS, _STRIP = 64, 8.0, 8


def drawn(run: train.Run, config: Pretrain, workdir: epath.Path) -> train.Run:
  """The same run, with the evaluation `samples`: shares of tokens, and pictures in `samples/`.

  Where there is nothing to go on with, or nothing that could, a line says so.

  Args:
    run: of pre-training.
    config: its config.
    workdir: its folder.
  """
  model = assembly.model(config)
  try:
    if config.patches.inputs:
      raise ValueError("patches of pixels are not drawn")
    if (window := generate.window_frames(model)) < 2:
      raise ValueError(f"the model sees {window} frame, and nothing that follows it")
    decoder = generate.decoder(
      model,
      None,
      settings=generate_config.Window(),
      frames=window,
      sampling=generate_config.Sampling(seed=config.seed),
      layout=run.layout,
      name=str(workdir),
    )
    clips_RNP = _held_out(config)[:, :window]
  except ValueError as error:
    console.say(f"no samples (samples.clips is {config.samples.clips}): {error}")
    return run
  source = backbone.Trained(workdir, config, model, run.facts["tokenizer"], 0, "")
  try:
    tokenizer = backbone.find_tokenizer(source, "")
    decoder = dataclasses.replace(decoder, slots=split.slots(tokenizer))
  except (ValueError, ImportError, OSError) as error:
    console.say(f"samples are not drawn, but measured: {error}")
    tokenizer = None
  load = run.layout.jit(lambda params: decode.load(model, params))
  samples = _Samples(clips_RNP, decoder, load, tokenizer, workdir)
  return dataclasses.replace(run, evals={**run.evals, "samples": samples})


def _held_out(config: Pretrain) -> np.ndarray:
  """Codes [R, N, P] of clips, evenly spread over the first store of videos that is held out."""
  for path in config.data.validation.values():
    store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
    head = store.manifest
    if head.kind == "video" and head.vocab and head.frames > 1:
      count = min(config.samples.clips, len(store))
      records = np.linspace(0, len(store) - 1, count).astype(int).tolist()
      return store.read(records)["codes"].reshape(count, head.frames, -1).astype(np.int32)
  raise ValueError("data.validation names no store of videos")


@dataclasses.dataclass(frozen=True)
class _Samples:
  """An evaluation of `train.fit`."""

  clips_RNP: np.ndarray
  decoder: generate.Decoder  # without weights
  load: Callable[[Any], Any]  # parameters -> these weights, whole on every device
  tokenizer: api.Tokenizer | None
  workdir: epath.Path

  def __call__(self, state: step_lib.TrainState) -> Iterator[tuple[str, float]]:
    decoder = dataclasses.replace(self.decoder, weights=self.load(state.params))
    frames = self.clips_RNP.shape[1]
    given = frames // 2
    made_RNP = continued.samples(
      decoder,
      self.clips_RNP[:, :given],
      further=frames - given,
      samples=1,
      rows=len(self.clips_RNP),
    )[:, 0]
    new = slice(given, None)
    yield "accuracy", float((made_RNP[:, new] == self.clips_RNP[:, new]).mean())
    for name, codes_RNP in ("change", made_RNP), ("true_change", self.clips_RNP):
      from_last = (continuations.changes(codes_NP[given - 1 :]) for codes_NP in codes_RNP)
      yield name, float(np.mean([share_N.mean() for share_N in from_last]))
    if self.tokenizer is not None:
      step = int(state.step)
      hosts.first(lambda: self._draw(made_RNP, given, step))

  def _draw(self, made_RNP: np.ndarray, given: int, step: int) -> None:
    latents = self.decoder.model.spec.latents
    true, made = (self._pixels(codes_RNP) for codes_RNP in (self.clips_RNP, made_RNP))
    count, shown = true.shape[1], latents.whole_frames(given)
    lines = [
      movies.beside([(true_TSS3, count), (made_TSS3, shown)], frames=count)
      for true_TSS3, made_TSS3 in zip(true, made)
    ]
    places = np.unique(np.linspace(0, count - 1, _STRIP).astype(int)).tolist()
    pairs = [pair for one in zip(true, made) for pair in ((one[0], count), (one[1], shown))]
    folder = self.workdir / pictures.FOLDER
    files.make_folder(folder)
    name = pictures.NAME.format(step=step)
    files.write_bytes(folder / f"{name}.png", movies.png(movies.strip(pairs, places)))
    playing = np.concatenate(lines, axis=1)
    files.write_bytes(folder / f"{name}.webp", movies.webp(playing, fps=_FPS))

  def _pixels(self, codes_RNP: np.ndarray) -> np.ndarray:
    """uint8 [R, T, S, S, 3], enlarged."""
    assert self.tokenizer is not None
    shape = *codes_RNP.shape[:2], *self.decoder.model.spec.frame_shape
    drawn = api.decode_clips(self.tokenizer, codes_RNP.reshape(shape))
    return np.stack([movies.enlarged(clip, side_px=_SIDE_PX) for clip in drawn])
