"""Prompts of each task: of scenes that the project draws, or of folders of pairs.

What is held out shares no scene and no query with what is trained on. Of a
folder the example pairs of a held-out query are pairs of training: so a model
is used, whose user has some pairs and asks of others.

Shapes: J pairs of a prompt, T frames of it with its answer (2 J + 2), S pixels
of a side, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
from PIL import Image

from totojax.config.prompt_tune import PromptTune, TASKS
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment, known_scenes
from totojax.data.sources import items, pairs
from totojax.evals import answers
from totojax.rundir import console
from totojax.trained import prompting

SPLITS = ("train", "val")
_RESAMPLE = "bicubic"  # as the clips of training
_SCENES = 2**40  # of a split of a task, whose numbers no other has
_CACHED_BYTES = 2**28  # of pairs of a folder
_MOST_CLASSES = 64

Picture = np.ndarray  # uint8 [S, S, 3]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt, with its answer."""

  id: str
  pairs: Sequence[tuple[Picture, Picture]]
  query: Picture
  answer: Picture

  @property
  def frames_TSS3(self) -> np.ndarray:
    return np.stack([*prompting.sequence_of(self.pairs, self.query), self.answer])


@dataclasses.dataclass(frozen=True)
class Task:
  """A task, before any of its prompts is made."""

  name: str
  counts: Mapping[str, int]  # prompts of each of `SPLITS`
  make: Callable[[str, int], Prompt]  # (split, number) -> the same one, always
  info: Mapping[str, Any]  # what decides them all
  meaning: Mapping[str, Any]  # of its measure: `evals.answers.statistic`
  skipped: Sequence[items.Skipped] = ()  # pairs of a folder that cannot be read

  @property
  def measure(self) -> str:
    return answers.MEASURES.get(self.name, "psnr_db")


def find(config: PromptTune, *, examples: int, size_px: int) -> list[Task]:
  """The tasks that a config names.

  Args:
    config: of the job.
    examples: pairs of a prompt.
    size_px: side of the model's frames.

  Raises:
    ConfigError: there are none, or too few pairs.
  """
  if not config.data.root:
    return [
      _drawn(name, config, examples=examples, size_px=size_px) for name in config.tasks or TASKS
    ]
  try:
    listed = pairs.list_tasks(config.data.root, config.tasks)
    return [
      _of_folder(name, some, config, examples=examples, size_px=size_px)
      for name, some in listed.items()
    ]
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f"data.root: {error}") from error


def _meaning(name: str, config: PromptTune, palette: Callable[[], np.ndarray]) -> dict[str, Any]:
  if name == "depth":
    return {"kind": config.data.depth}
  if name != "segmentation":
    return {}
  if not config.data.palette:
    return {"palette_C3": palette()}
  colours = [bytes.fromhex(colour[1:]) for colour in config.data.palette]
  return {"palette_C3": np.array([list(colour) for colour in colours], np.uint8)}


def _drawn(name: str, config: PromptTune, *, examples: int, size_px: int) -> Task:
  if name == "depth" and config.data.depth != "inverse":
    raise ConfigError("data.depth is 'linear'; of drawn scenes it is 'inverse'")
  seed, objects = config.seed, config.prompts.objects

  def make(split: str, number: int) -> Prompt:
    place = TASKS.index(name) * len(SPLITS) + SPLITS.index(split)
    first = place * _SCENES + number * (examples + 1)
    # The turn is one for all pairs of a prompt: its examples tell which.
    turn = int(np.random.default_rng([seed, first, 1]).choice(known_scenes.TURNS))
    made = [
      known_scenes.pair(
        name,
        known_scenes.render(size_px=size_px, objects=objects, seed=seed, index=first + n),
        turn,
      )
      for n in range(examples + 1)
    ]
    *shown, (query, answer) = made
    return Prompt(f"{name}/drawn/{seed}/{split}/{number}", shown, query, answer)

  counts = {"train": config.prompts.train, "val": config.prompts.val}
  info = {"task": name, "seed": seed, "examples": examples, "objects": objects}
  return Task(name, counts, make, info, _meaning(name, config, lambda: known_scenes.PALETTE))


def _of_folder(
  name: str, listed: Sequence[pairs.Pair], config: PromptTune, *, examples: int, size_px: int
) -> Task:
  what = f"reading the pairs of {name}"
  with console.tracking(what, unit="pairs", total=len(listed)) as bar:
    listed, skipped = pairs.sound(listed, bar)
  by_id = {pair.id: pair for pair in listed}
  named = [items.Item(pair.id, pair.input) for pair in listed]
  split_items = items.split(named, config.data.val_frac, seed=config.seed)
  parts = {split: [by_id[item.id] for item in some] for split, some in split_items.items()}
  if len(parts["train"]) <= examples:
    raise ConfigError(
      (
        f"{name} of {config.data.root} has {len(parts['train'])} pairs to train on and"
        f" {len(parts['val'])} held out, and a prompt has {examples} and a query: add pairs, or set"
        f" prompts.examples to {len(parts['train']) - 1} or less"
        if len(parts["train"]) > 1
        else f"{name} of {config.data.root} has {len(listed)} pairs; give 3 and more"
      )
      + (f" ({len(skipped)} cannot be read: {skipped[0].reason})" if skipped else "")
    )
  is_exact = name in answers.MEASURES  # labels and depths are not to be mixed

  @functools.lru_cache(maxsize=max(_CACHED_BYTES // (6 * size_px**2), 2))
  def read(pair: pairs.Pair) -> tuple[Picture, Picture]:
    shown, drawn = pair.read()
    return fitted(shown, size_px), fitted(drawn, size_px, is_exact=is_exact)

  def make(split: str, number: int) -> Prompt:
    rng = np.random.default_rng([config.seed, SPLITS.index(split), number])
    known = parts["train"]
    if split == "train":
      first, *others = rng.permutation(len(known))[: examples + 1]
      query = known[first]
    else:
      query, others = parts["val"][number], rng.permutation(len(known))[:examples]
    return Prompt(f"{name}/{query.id}", [read(known[n]) for n in others], *read(query))

  counts = {"train": config.prompts.train, "val": min(config.prompts.val, len(parts["val"]))}
  info = {
    "task": name,
    "seed": config.seed,
    "examples": examples,
    "val_frac": config.data.val_frac,
    "pairs": hashlib.sha256("\n".join(by_id).encode()).hexdigest()[:32],
  }
  palette = functools.partial(_palette, listed, f"{config.data.root}/{name}", size_px)
  return Task(name, counts, make, info, _meaning(name, config, palette), skipped)


def fitted(image_HW3: np.ndarray, size_px: int, *, is_exact: bool = False) -> Picture:
  """A picture's square of the model's size, as training frames are cut.

  Args:
    image_HW3: uint8.
    size_px: its new side.
    is_exact: whether every value of the result is one of the picture (nearest
      neighbours); else bicubic with antialiasing.
  """
  resize = augment.Resize(size_px, _RESAMPLE)
  if is_exact:
    height, width = resize.size(*image_HW3.shape[:2])
    image = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.NEAREST)
    resized_HW3 = np.asarray(image)
  else:
    resized_HW3 = resize(image_HW3)
  return augment.center_crop(resized_HW3[None], size_px)[0]


def _palette(listed: Sequence[pairs.Pair], where: str, size_px: int) -> np.ndarray:
  """uint8 [C, 3]: the colours of a folder's outputs.

  Raises:
    ConfigError: there are more than classes have.
  """
  found: set[tuple[int, ...]] = set()
  for pair in listed:
    drawn = fitted(pairs.read(pair.output), size_px, is_exact=True)
    found |= {tuple(colour) for colour in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}
    if len(found) > _MOST_CLASSES:
      raise ConfigError(
        f"outputs of {where} have more than {_MOST_CLASSES} colours, and each is taken for a class"
        " (a JPEG mixes them): give PNGs, or the colours of classes as data.palette"
      )
  return np.array(sorted(found), np.uint8)
