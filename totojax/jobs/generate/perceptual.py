"""Likeness of continued clips as networks see it, with weights that the user names.

LPIPS goes into the table beside PSNR and SSIM. Fréchet's distance is of all
clips at once: every set has as many members, the first sample of each clip and
one of each baseline, because the distance depends on their number.

Shapes: R clips, V videos of one clip, T frames, S pixels of a side, D width.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

import numpy as np

from totojax.config.generate import Generate, Perceptual as Settings
from totojax.config.schema import ConfigError
from totojax.data.pixels import augment
from totojax.evals import continuations, lpips as networks, perceptual
from totojax.jobs.generate import prompts
from totojax.trained import encoders, ready

_RESAMPLE = "bilinear"  # as the known distances of videos resize
_SAMPLE = "sample"


@dataclasses.dataclass(frozen=True)
class Shown:
  """What there is of a clip in pixels, each uint8 [T, S, S, 3].

  Attributes:
    references: "truth" where it is known, and "recon", which is that through
      the tokenizer; with what was given, as long as they are known.
    samples: with what was given.
    others: baselines, of the new frames that are known.
  """

  references: Mapping[str, np.ndarray]
  samples: Sequence[np.ndarray]
  others: Mapping[str, np.ndarray]


class Perceptual:
  """The networks of a config, which may be none, and what they gave."""

  def __init__(self, config: Generate, amounts: prompts.Amounts, *, size_px: int):
    """Opens them.

    Raises:
      ValueError: a file is damaged or of another network, or the frames are too small.
      OSError, ImportError: there is no such file, or no package that it needs.
    """
    settings = config.perceptual
    self._amounts, self._size_px = amounts, size_px
    self._lpips, self._frechet = None, None
    self._clips = 0  # that LPIPS is of
    self._backbone = settings.backbone
    if settings.lpips:
      self._lpips = networks.load(settings.lpips, backbone=settings.backbone, lin=settings.lin)
      self._lpips.check_size(size_px)
    if settings.frechet:
      self._frechet = _Frechet(settings, amounts, size_px=size_px)

  def facts(self) -> dict[str, Any]:
    """What a run that goes on must have again."""
    found = {}
    if self._lpips is not None:
      found["lpips"] = dict(self._lpips.digests)
    if self._frechet is not None:
      found["frechet"] = self._frechet.encoder.digest
    return found

  def check(self, clips: Sequence[prompts.Clip]) -> None:
    """Raises ConfigError where too few clips have a truth for Fréchet's distance."""
    if self._frechet is None:
      return
    frames = self._amounts.context + self._amounts.further
    whole = sum(len(clip.codes_NP) >= frames for clip in clips)
    if whole < 2:
      raise ConfigError(
        f"perceptual.frechet: all {self._amounts.new} new frames are known of {whole} of"
        f" {len(clips)} clips, and sets are compared: continue more clips (prompt.clips), or make"
        " fewer frames (new_frames)"
      )

  def add(self, table: continuations.Table, shown: Shown) -> None:
    """Adds a clip: to the table, and to what `summary` is of."""
    given = self._amounts.given
    known = min(len(video) for video in shown.references.values()) - given
    if known > 0 and self._lpips is not None:
      self._clips += 1
      _add_lpips(self._lpips, table, shown, given=given, known=known)
    if known == self._amounts.new and self._frechet is not None:
      self._frechet.add(shown)

  def summary(self, *, fps: float) -> dict[str, Any]:
    """For gen.json: what was measured how, with a line for people each; {}: nothing."""
    found, px = {}, self._size_px
    rate = f"{fps:g} frames a second" if fps else "their rate unknown"
    if (net := self._lpips) is not None:
      rows = "as released" if net.released else "not those released"
      weights = f"{net.name} of {os.path.basename(self._backbone)}, version {networks.VERSION}"
      frames = f"{self._amounts.new} new frames of {px} x {px} pixels, {rate}"
      found["lpips"] = {
        "label": f"LPIPS ({weights}, channels' weights {rows}; {frames}; n = {self._clips} clips)",
        "net": net.name,
        "version": networks.VERSION,
        "released": net.released,
        "weights": dict(net.digests),
        "size_px": px,
        "fps": fps or None,
        "n": self._clips,
        "mean": "over places of each layer (not of an enlarged map), then over frames",
      }
    if self._frechet is not None:
      found["frechet"] = self._frechet.summary(size_px=px, fps=fps, rate=rate)
    return found


def _add_lpips(
  net: networks.Lpips, table: continuations.Table, shown: Shown, *, given: int, known: int
) -> None:
  new = slice(given, given + known)
  videos = [*(video[new] for video in shown.references.values())]
  videos += [video[new] for video in shown.samples]
  videos += [video[:known] for video in shown.others.values()]
  of = [*shown.references, *(_SAMPLE for _ in shown.samples), *shown.others]
  # The truth is compared with no reconstruction of itself, but that with it.
  pairs = [
    (reference, other)
    for reference in range(len(shown.references))
    for other in range(len(of))
    if of[other] not in (of[reference], "truth")
  ]
  values_PT = net.distances(np.stack(videos), pairs)
  samples: dict[str, list[np.ndarray]] = {}
  for (reference, other), values_T in zip(pairs, values_PT):
    measure = f"lpips/{of[reference]}"
    if of[other] == _SAMPLE:
      samples.setdefault(measure, []).append(values_T)
    else:
      table.add(of[other], measure, values_T)
  for measure, values_KT in samples.items():
    table.add(_SAMPLE, measure, np.mean(values_KT, axis=0))
    if len(values_KT) > 1:
      table.add("best", measure, -continuations.best(-np.stack(values_KT)))


class _Frechet:
  """Features of all clips, and the distances of their distributions."""

  def __init__(self, settings: Settings, amounts: prompts.Amounts, *, size_px: int):
    self._settings = settings
    self._given = amounts.given if settings.frames == "new" else 0  # frames that are left out
    self._context, self._count = amounts.given, amounts.given + amounts.new - self._given
    name = settings.frechet
    try:
      self.encoder = ready.load(name, pool=settings.pool, norm=settings.norm)
    except ValueError as error:
      raise ConfigError(f"perceptual.frechet: {error}") from error
    layers = self.encoder.layers
    self._layer = layers[-1] if settings.layer < 0 else settings.layer
    if self._layer not in layers:
      raise ConfigError(f"perceptual.layer is {self._layer}; {name} has layers {layers}")
    self._features: dict[str, list[np.ndarray]] = {}  # of what -> [units, D] of each clip
    # What it gives is found wrong now, and not when all videos have been made.
    self._of(np.zeros((1, self._count, size_px, size_px, 3), np.uint8))

  def add(self, shown: Shown) -> None:
    """The features of a clip, of all that it is compared by."""
    given = self._given
    seen = shown.references["recon"][given : self._context]
    videos = {name: video[given:] for name, video in shown.references.items()}
    videos[_SAMPLE] = shown.samples[0][given:]
    videos |= {name: np.concatenate([seen, video]) for name, video in shown.others.items()}
    for name, x_UD in zip(videos, self._of(np.stack([*videos.values()]))):
      self._features.setdefault(name, []).append(x_UD)

  def _of(self, videos_VTSS3: np.ndarray) -> np.ndarray:
    """float [V, units, D]."""
    videos, frames = videos_VTSS3.shape[:2]
    if self._settings.unit == "frame":
      clips = videos_VTSS3.reshape(-1, 1, *videos_VTSS3.shape[2:])
    else:
      clips = videos_VTSS3[:, self._places(frames)]
    clips = augment.fitted(clips, self.encoder.size_px, _RESAMPLE)
    x_LR = encoders.checked(
      self.encoder.features(clips),
      self.encoder,
      name=self._settings.frechet,
      clips=len(clips),
      tokens=False,
    )
    x_RD = x_LR[self.encoder.layers.index(self._layer)]
    if not np.isfinite(x_RD).all():
      raise ValueError(f"{self._settings.frechet} gives features that are not finite")
    return x_RD.reshape(videos, -1, x_RD.shape[-1])

  def _places(self, frames: int) -> np.ndarray:
    return encoders.places(frames, most=self.encoder.frames, multiple=self.encoder.multiple)

  def summary(self, *, size_px: int, fps: float, rate: str) -> dict[str, Any]:
    """Of all clips that were added."""
    settings, name = self._settings, self._settings.frechet
    fit = lambda parts: perceptual.Gaussian.of(np.concatenate(parts), ddof=settings.ddof)
    sets = {of: fit(parts) for of, parts in self._features.items()}
    references = [of for of in ("truth", "recon") if of in sets]
    first = self._features[references[0]]
    distances = {
      f"{of}/{reference}": perceptual.frechet(sets[reference], one)
      for reference in references
      for of, one in sets.items()
      if of not in (reference, "truth")
    }
    if len(first) > 3:
      # What so few make of no difference at all.
      distances[f"halves/{references[0]}"] = perceptual.frechet(fit(first[::2]), fit(first[1::2]))
    count = self._count
    read = 1 if settings.unit == "frame" else len(self._places(count))
    one, width = sets[references[0]], len(sets[references[0]].mean_D)
    unit = f"{one.n} frames of {len(first)} clips" if settings.unit == "frame" else f"{one.n} clips"
    frames = f"{count} {'new' if settings.frames == 'new' else 'given and new'} frames"
    if read != count:
      how = " at a time" if read == 1 else " (some twice)" if read > count else ""
      frames += f", of which it reads {read}{how}"
    label = (
      f"Fréchet distance of {name} features (layer {self._layer}, {width} wide"
      f"{', normed' if self.encoder.normed else ''}; {frames} of {size_px} x {size_px} pixels,"
      f" {rate}, shown to it at {self.encoder.size_px}; n = {unit}; ddof {settings.ddof})"
    )
    return {
      "label": label,
      "encoder": name,
      "digest": self.encoder.digest,
      "layer": self._layer,
      "width": width,
      "pool": settings.pool,
      "normed": self.encoder.normed,
      "unit": settings.unit,
      "frames": settings.frames,
      "frame_count": count,
      "frames_read": read,
      "size_px": size_px,
      "encoder_px": self.encoder.size_px,
      "resample": _RESAMPLE,
      "fps": fps or None,
      "n": one.n,
      "clips": len(first),
      "ddof": settings.ddof,
      "distances": distances,
      "full_rank": one.is_full,
      "note": ""
      if one.is_full
      else f"{one.n} samples give covariances of {width} features no full rank: the distance is"
      f" compared at this n alone, and is too large; continue over {width} clips (prompt.clips)",
    }


def sentences(summary: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
  """What is said of it when the job ends."""
  lines = []
  if "lpips" in summary:
    against = "truth" if f"{_SAMPLE}/lpips/truth" in metrics else "recon"
    values = {
      key.partition("/")[0]: found["mean"]
      for key, found in metrics.items()
      if key.endswith(f"/lpips/{against}")
    }
    lines.append(_line(summary["lpips"], values, against))
  if "frechet" in summary:
    found = summary["frechet"]
    against = "truth" if f"{_SAMPLE}/truth" in found["distances"] else "recon"
    values = {
      key.partition("/")[0]: value
      for key, value in found["distances"].items()
      if key.endswith(f"/{against}")
    }
    lines.append(_line(found, values, against))
    if found["note"]:
      lines.append(found["note"])
  return lines


def _line(found: Mapping[str, Any], values: Mapping[str, float], against: str) -> str:
  told = ", ".join(f"{of} {value:.4g}" for of, value in values.items())
  name = {"truth": "the truth", "recon": "what the tokenizer keeps of it"}[against]
  return f"{found['label']} to {name}: {told or 'nothing is known'}"
