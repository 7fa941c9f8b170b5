"""`run = "generate"`: videos that a pre-trained model goes on with.

Each clip is continued some times, and once more with the true frames given one
after the other, where they are known: the model's loss on these is what is
compared with copying the frame before. New frames are on disk as soon as they
are made, in `parts/`, until all are: an interrupted run goes on with the next.

The run directory gets `tokens.npy` [clips, samples, latent frames, grid, grid(,
codes)] with what was given, `truth.npy` (-1: not known), `metrics.csv` frame by
frame, `gen.json`, `videos/` and `report.html`.

Shapes: R clips, K samples of a clip, B videos of a batch, N latent frames, P
tokens of one.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from totojax import jobs, storage
from totojax.config import schema
from totojax.config.generate import Generate
from totojax.jobs.generate import measures, perceptual, prompts
from totojax.report import frame, video_sections
from totojax.rundir import console, files, hosts
from totojax.trained import backbone, continued, generate, model as pretrained

_TRUTH = 2**32 - 1  # in place of a sample's number
_UNKNOWN = generate.UNKNOWN


@dataclasses.dataclass(frozen=True)
class _Rows:
  """All videos that are decoded, one after the other."""

  clip_B: np.ndarray  # which clip each is of
  draw_B: np.ndarray  # which sample it is, or _TRUTH
  context_BNP: np.ndarray  # codes that are given
  known_BNP: np.ndarray  # codes of the new frames; _UNKNOWN: drawn

  @classmethod
  def of(cls, clips: Sequence[prompts.Clip], amounts: prompts.Amounts, samples: int) -> "_Rows":
    rows = []
    for number, clip in enumerate(clips):
      if len(clip.codes_NP) > amounts.context:
        rows.append((number, _TRUTH))
      rows += [(number, draw) for draw in range(samples)]
    clip_B, draw_B = (np.array(column) for column in zip(*rows))
    truth_RNP = whole(clips, amounts)
    known_BNP = truth_RNP[clip_B, amounts.context :]
    known_BNP[draw_B != _TRUTH] = _UNKNOWN
    return cls(clip_B, draw_B, truth_RNP[clip_B, : amounts.context], known_BNP)


def whole(clips: Sequence[prompts.Clip], amounts: prompts.Amounts) -> np.ndarray:
  """int32 [R, N, P]: codes of clips and of what follows; -1 where that is not known."""
  frames = amounts.context + amounts.further
  out = np.full((len(clips), frames, clips[0].codes_NP.shape[-1]), _UNKNOWN, np.int32)
  for codes_NP, clip in zip(out, clips):
    known_NP = clip.codes_NP[:frames]
    codes_NP[: len(known_NP)] = known_NP
  return out


def run(config: Generate, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Goes on with the clips that a config names; False when interrupted.

  Raises:
    ConfigError: the model, the clips or the amounts do not fit each other.
    generate.NotFinite: the model gives NaN.
  """
  source = backbone.find(config.model_run, what="a model that goes on with videos")
  tokenizer = backbone.find_tokenizer(source, config.tokenizer)
  amounts = prompts.Amounts.of(config, source)
  size_px = source.model.spec.grid * tokenizer.factor
  clips_source = prompts.find(config, source, amounts, size_px)
  if config.fitted_on:
    backbone.open_tokens(source, config.fitted_on, "fitted_on")
  seen = perceptual.Perceptual(config, amounts, size_px=size_px)
  with console.phase(f"reading the parameters of {source.path}"):
    model = pretrained.load(source.path, tokenizer=config.tokenizer, depth=0)
    decoder = model.decoder(
      frames=amounts.context + amounts.further, sampling=config.sampling, window=config.window
    )
  clips, skipped = prompts.read(clips_source, model, amounts, config=config)
  seen.check(clips)
  facts = {"model_run": str(source.path), "step": source.step, "tokenizer": tokenizer.fingerprint}
  same = {"digest": source.digest, "clips": prompts.digest(clips), "perceptual": seen.facts()}
  # One video is of one setting, whatever its first part was made with.
  kept = ("sampling", "window", "samples", "rows")
  same |= {key: value for key, value in schema.to_dict(config).items() if key in kept}
  same |= {"frames": {"given": amounts.given, "new": amounts.new}}
  backbone.begin(workdir, config, facts, **same)
  hosts.first(lambda: prompts.write_skipped(workdir, skipped))
  rows = _Rows.of(clips, amounts, config.samples)
  if not _make(rows, decoder, amounts, config, workdir, interrupted):
    return False
  facts |= {
    "source": clips_source.name,
    "clips": len(clips),
    "skipped": len(skipped),
    "samples": config.samples,
    "given_frames": amounts.given,
    "new_frames": amounts.new,
    "fps": clips_source.fps or None,
    "window_frames": generate.window_frames(source.model),
    "window": schema.to_dict(config.window),
    "sampling": schema.to_dict(config.sampling),
  }
  hosts.first(lambda: _finish(rows, clips, amounts, model, seen, config, workdir, facts))
  return True


def _finish(
  rows: _Rows,
  clips: Sequence[prompts.Clip],
  amounts: prompts.Amounts,
  model: pretrained.Pretrained,
  seen: perceptual.Perceptual,
  config: Generate,
  workdir: epath.Path,
  facts: Mapping[str, Any],
) -> None:
  """Measures and draws what lies in `parts/`, and removes that."""
  made = _assembled(rows, amounts, config, workdir)
  truth_RNP = whole(clips, amounts)
  shape = model.run.model.spec.frame_shape
  _write_array(workdir / "tokens.npy", made.codes_RKNP.reshape(*made.codes_RKNP.shape[:3], *shape))
  _write_array(workdir / "truth.npy", truth_RNP.reshape(*truth_RNP.shape[:2], *shape))
  fps = facts["fps"] or 0.0
  found = measures.measure(clips, made, model, amounts, seen, config, workdir, fps=fps)
  files.write_csv(workdir / "metrics.csv", found.rows)
  files.write_json(workdir / "gen.json", {**facts, **found.summary})
  report = frame.write(workdir, video_sections.PAGE)
  files.remove(workdir / "parts")
  console.say(found.sentence)
  console.say(f"report: {report}")


def _write_array(path: epath.Path, array: np.ndarray) -> None:
  buffer = io.BytesIO()
  np.lib.format.write_array(buffer, array)
  files.write_bytes(path, buffer.getvalue())


def _part(workdir: epath.Path, group: int, frame: int) -> epath.Path:
  return workdir / "parts" / f"{group:05d}-{frame:06d}.npz"


def _made(workdir: epath.Path, group: int, further: int) -> int:
  """How many parts of a group are whole, up to the first that is not."""
  for n in range(further):
    path = _part(workdir, group, n)
    if not files.exists(path):
      return n
    try:
      files.read_npz(path)
    except storage.Damage as error:
      console.say(f"{error}; it is made anew")
      return n
  return further


def _groups(rows: _Rows, config: Generate) -> list[slice]:
  return [slice(n, n + config.rows) for n in range(0, len(rows.clip_B), config.rows)]


def _amount_in_words(new: int, drawn: int, samples: int, truths: int) -> str:
  """ "2 clips go on for 56 frames, 3 times each; ..."."""
  clips = drawn // samples
  times = f", {samples} times each" if samples > 1 else ""
  line = (
    f"{clips} clip{'s' if clips > 1 else ''} go{'es' if clips == 1 else ''} on for {new}"
    f" frame{'s' if new > 1 else ''}{times}"
  )
  if not truths:
    return line
  which = "each" if truths == clips else f"{truths} of them"
  which = which if clips > 1 else "it"
  return f"{line}; {which} is read once more as it really goes on, for the loss on the truth"


def _make(
  rows: _Rows,
  decoder: generate.Decoder,
  amounts: prompts.Amounts,
  config: Generate,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes the frames that are not on disk; False when interrupted."""
  hosts.first(lambda: files.make_folder(workdir / "parts"))
  groups = _groups(rows, config)
  done = [_made(workdir, group, amounts.further) for group in range(len(groups))]
  if jax.process_count() > 1:  # or one could see what another has just written
    done = multihost_utils.broadcast_one_to_all(np.array(done)).tolist()
  sizes = [len(rows.clip_B[some]) for some in groups]
  total = sum(sizes) * amounts.further
  begun = sum(size * frames for size, frames in zip(sizes, done))
  truths = int((rows.draw_B == _TRUTH).sum())
  console.say(_amount_in_words(amounts.new, len(rows.draw_B) - truths, config.samples, truths))
  with console.tracking("generating", unit="frames", total=total, done=begun) as bar:
    for group, some in enumerate(groups):
      begin, known_BNP = done[group], rows.known_BNP[some].copy()
      if begin == amounts.further:
        continue
      for n in range(begin):
        known_BNP[:, n] = files.read_npz(_part(workdir, group, n))["codes"]
      videos = continued.batch(decoder, rows.context_BNP[some], rows.draw_B[some], known_BNP)
      for n, frame in enumerate(
        decoder.frames(videos, further=amounts.further, begin=begin), start=begin
      ):
        arrays = {"codes": frame.codes_BP, "nll": frame.nll_BP, "likeliest": frame.likeliest_BP}
        arrays = {name: array[: sizes[group]] for name, array in arrays.items()}
        if jax.process_index() == 0:
          files.write_npz(_part(workdir, group, n), arrays)
        bar.advance(sizes[group])
        if interrupted(bar.done) and bar.done < total:
          return False
  return True


def _assembled(
  rows: _Rows, amounts: prompts.Amounts, config: Generate, workdir: epath.Path
) -> measures.Made:
  """All that was made, clip by clip."""
  parts: dict[str, list[Any]] = {"codes": [], "nll": [], "likeliest": []}
  for group in range(len(_groups(rows, config))):
    read = [files.read_npz(_part(workdir, group, n)) for n in range(amounts.further)]
    for name, out in parts.items():
      out.append(np.stack([one[name] for one in read], axis=1))
  codes_BNP, nll_BNP, likeliest_BNP = (np.concatenate(out) for out in parts.values())
  drawn_B = rows.draw_B != _TRUTH
  by_clip = lambda array: array[drawn_B].reshape(-1, config.samples, *array.shape[1:])
  whole_BNP = np.concatenate([rows.context_BNP, codes_BNP], axis=1)
  return measures.Made(
    codes_RKNP=by_clip(whole_BNP),
    nll_RKNP=by_clip(nll_BNP),
    truth={
      int(clip): measures.OnTruth(nll_NP, likeliest_NP)
      for clip, nll_NP, likeliest_NP in zip(
        rows.clip_B[~drawn_B], nll_BNP[~drawn_B], likeliest_BNP[~drawn_B]
      )
    },
  )
