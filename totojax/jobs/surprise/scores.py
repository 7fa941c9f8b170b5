"""What a model loses on a video, window by window and frame by frame; and what follows of all.

Shapes: C contexts, W windows, N latent frames of a window, P tokens of one, F
scored frames of a video, G grid, S pixels.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Self
import zlib

import numpy as np

from totojax.config.model import LatentSpec
from totojax.config.schema import ConfigError
from totojax.config.surprise import Windows
from totojax.evals import continuations, surprise
from totojax.report import shares
from totojax.trained import backbone, generate, model as pretrained

FILTERED, FRAMES = "filtered", "frames"
AGGREGATES = {"mean": np.mean, "max": np.max}
_SEED = 0  # of bootstraps and permutations
_PERMUTATIONS = 1000
Setting = tuple[str, str]  # (a context, FILTERED or FRAMES; one of AGGREGATES)


@dataclasses.dataclass(frozen=True)
class Amounts:
  """How a video is cut."""

  window: int  # frames of pixels
  latents: int  # latent frames of it
  stride: int  # frames of pixels
  contexts: tuple[int, ...]  # frames of pixels

  @classmethod
  def of(cls, config: Windows, run: backbone.Trained) -> Self:
    """With what the model decides for 0 and ().

    Raises:
      ConfigError: they do not fit it.
    """
    latents = run.model.spec.latents
    most = generate.window_frames(run.model)
    if most < 2:
      raise ConfigError(
        f"the window of {run.path} has {most} frames; of 2 and more the later are scored"
      )
    window = config.frames or latents.whole_frames(most)
    held = _whole(window, latents, "windows.frames", run)
    if not 2 <= held <= most:
      raise ConfigError(
        f"windows.frames is {window}; the window of {run.path} has {latents.whole_frames(most)}:"
        f" use {latents.whole_frames(2)} to {latents.whole_frames(most)}"
      )
    quarters = sorted({min(max(held * n // 4, 1), held - 1) for n in (1, 2, 3)})
    contexts = config.contexts or tuple(map(latents.whole_frames, quarters))
    if config.context and config.context not in contexts:
      contexts = (*contexts, config.context)
    contexts = tuple(sorted(set(contexts)))
    for context in contexts:
      if _whole(context, latents, "windows.contexts", run) >= held:
        raise ConfigError(
          f"windows.contexts has {context}, and a window {window} frames; give less, so that some"
          " are left to score"
        )
    return cls(window, held, config.stride, contexts)


def _whole(frames: int, latents: LatentSpec, key: str, run: backbone.Trained) -> int:
  """Latent frames of so many frames, which they must hold wholly."""
  held = latents.latent_frames(frames)
  if latents.whole_frames(held) != frames:
    fitting = [str(latents.whole_frames(n)) for n in (held - 1, held) if n]
    raise ConfigError(
      f"{key} is {frames}; a token of {run.path} stands for {latents.frame_factor} frames (the"
      f" first for {latents.first_frames}): use {' or '.join(fitting)}"
    )
  return held


@dataclasses.dataclass(frozen=True)
class Scored:
  """What a model says of one video."""

  losses_CW: np.ndarray  # nats per token
  first_F: np.ndarray  # the first frame of pixels of each scored (latent) frame
  last_F: np.ndarray  # its last
  nll_FP: np.ndarray  # float32 nats of its tokens, given as much before it as a window holds

  @property
  def frames_F(self) -> np.ndarray:
    """Nats per token of each scored frame."""
    return self.nll_FP.mean(1, dtype=np.float64)

  def values(self, contexts: Sequence[int]) -> dict[str, np.ndarray]:
    """By context, FILTERED and FRAMES, what is aggregated over a video."""
    named = {str(context): losses_W for context, losses_W in zip(contexts, self.losses_CW)}
    return named | {FILTERED: surprise.filtered(self.losses_CW), FRAMES: self.frames_F}

  def scores(self, contexts: Sequence[int]) -> dict[Setting, float]:
    """The video's surprise in nats per token, by each setting."""
    return {
      (name, aggregate): float(function(values))
      for name, values in self.values(contexts).items()
      for aggregate, function in AGGREGATES.items()
    }


def score(
  videos: Sequence[np.ndarray], model: pretrained.Pretrained, amounts: Amounts, *, rows: int
) -> list[Scored]:
  """What a model says of videos uint8 [T, S, S, 3], each of a window's length or more."""
  starts = [
    range(0, len(frames_TSS3) - amounts.window + 1, amounts.stride) for frames_TSS3 in videos
  ]
  codes = np.concatenate([_windows(v, model, amounts, s) for v, s in zip(videos, starts)])
  nll_RNP = model.nll_of_codes(codes, rows=rows)
  ends = np.cumsum([len(some) for some in starts])
  parts = np.split(nll_RNP, ends[:-1])
  return [_scored(part, some, model.latents, amounts) for part, some in zip(parts, starts)]


def _windows(
  frames_TSS3: np.ndarray, model: pretrained.Pretrained, amounts: Amounts, starts: range
) -> np.ndarray:
  """Codes [W, N, P] of a video's windows."""
  if model.latents.is_temporal:  # codes depend on where a window begins
    return model.codes(np.stack([frames_TSS3[s : s + amounts.window] for s in starts]))
  codes_TP = model.codes(frames_TSS3[None])[0]
  return np.stack([codes_TP[s : s + amounts.window] for s in starts])


def _scored(nll_WNP: np.ndarray, starts: range, latents: LatentSpec, amounts: Amounts) -> Scored:
  contexts = [latents.latent_frames(context) for context in amounts.contexts]
  nll_WN = nll_WNP.mean(2, dtype=np.float64)
  covered, frames = amounts.contexts[0], []
  for window, start in enumerate(starts):
    for n in range(nll_WNP.shape[1]):
      first, stop = (start + place for place in latents.span(n))
      if stop > covered:  # by this window first, and so after the most frames
        frames.append((first, stop - 1, nll_WNP[window, n]))
        covered = stop
  first_F, last_F, nll_FP = (np.array(column) for column in zip(*frames))
  losses_CW = surprise.window_losses(nll_WN, contexts)
  return Scored(losses_CW, first_F, last_F, nll_FP.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Video:
  """A scored video of a group."""

  id: str
  is_possible: bool | None
  pair: str
  scores: Mapping[Setting, float]


@dataclasses.dataclass(frozen=True)
class Group:
  """A scored scene."""

  id: str
  kinds: tuple[str, ...]
  videos: tuple[Video, ...]

  def sides(self, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Surprise of the possible and of the impossible videos."""
    by = {True: [], False: []}
    for video in self.videos:
      by[bool(video.is_possible)].append(video.scores[setting])
    return np.array(by[True]), np.array(by[False])

  def pairs(self, setting: Setting) -> np.ndarray:
    """[pairs, 2] of possible and impossible videos."""
    two: dict[str, dict[bool, float]] = {}
    for video in self.videos:
      two.setdefault(video.pair, {})[bool(video.is_possible)] = video.scores[setting]
    return np.array([(sides[True], sides[False]) for sides in two.values()])


def half(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
  """(what a setting is chosen on, what is told) by a number that follows from a group's id."""
  order = sorted(groups, key=lambda group: (zlib.crc32(group.id.encode()), group.id))
  middle = len(order) // 2
  return order[:middle], order[middle:]


def choose(
  config: Windows, amounts: Amounts, groups: Sequence[Group]
) -> tuple[Setting, list[Group], str]:
  """(the setting that counts, groups that are told of, how it was chosen)."""
  if config.choose == "filtered":
    how = "the least over contexts of each window"
    return (FILTERED, config.aggregate), list(groups), how
  if config.choose == "fixed":
    context = config.context or amounts.contexts[0]
    return (str(context), config.aggregate), list(groups), "fixed by the config"
  chosen_on, told = half(groups)
  found = {
    setting: surprise.sums([group.sides(setting) for group in chosen_on])
    for setting in groups[0].videos[0].scores
  }
  best = max(found, key=lambda setting: found[setting])
  how = f"the best on {len(chosen_on)} other groups, {100 * found[best]:.1f} % of them right"
  return best, told, how


def _pairs(groups: Sequence[Group], setting: Setting) -> np.ndarray:
  return np.concatenate([group.pairs(setting) for group in groups])


def summary(groups: Sequence[Group], setting: Setting) -> dict[str, Any]:
  """All metrics of some groups with their intervals."""
  pairs, sides = _pairs(groups, setting), [group.sides(setting) for group in groups]
  found: dict[str, Any] = dict(surprise.measures(pairs, sides))
  of_pairs, of_sums = (
    [float(end) for end in shares.wilson(found[name], n)]
    for name, n in (("pairs", len(pairs)), ("sums", len(groups)))
  )
  # Pairs of a scene are alike, so that its difference is one number.
  differences = np.array([np.diff(group.pairs(setting), axis=1).mean() for group in groups])
  found |= {
    "n_groups": len(groups),
    "n_pairs": len(pairs),
    "n_videos": sum(len(group.videos) for group in groups),
    "pairs_interval": of_pairs,
    "sums_interval": of_sums,
    "difference": dataclasses.asdict(continuations.Interval.of(differences)),
  }
  if len(groups) > 1:
    found["auroc_interval"] = list(surprise.auroc_interval(sides, seed=_SEED))
  return found


def tables(groups: Sequence[Group], setting: Setting) -> dict[str, Any]:
  """`summary` of all groups, of each kind, and of all by every setting."""
  kinds = sorted({kind for group in groups for kind in group.kinds})
  by_kind = {kind: [group for group in groups if kind in group.kinds] for kind in kinds}
  sides = [group.sides(setting) for group in groups]
  return {
    "all": summary(groups, setting)
    | {"crossed_p": surprise.permuted(sides, draws=_PERMUTATIONS, seed=_SEED)},
    "kinds": {kind: summary(some, setting) for kind, some in by_kind.items()},
    "settings": [
      {"context": name, "aggregate": aggregate, **_short(groups, (name, aggregate))}
      for name, aggregate in groups[0].videos[0].scores
    ],
  }


def _short(groups: Sequence[Group], setting: Setting) -> dict[str, float]:
  pairs, sides = _pairs(groups, setting), [group.sides(setting) for group in groups]
  possible, impossible = (np.concatenate([one[n] for one in sides]) for n in (0, 1))
  return {
    "sums": surprise.sums(sides),
    "pairs": surprise.relative(pairs[:, 0], pairs[:, 1])["strict"],
    "auroc": surprise.auroc(possible, impossible),
  }
