"""What is measured and drawn of continued clips.

Shapes: R clips, K samples of a clip, N latent frames, T frames of pixels, P
tokens of a latent frame, S pixels of a side.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np

from totojax.config.generate import Generate
from totojax.config.training import Share
from totojax.data.pixels import movies
from totojax.evals import continuations
from totojax.jobs import stores, validate
from totojax.jobs.generate import perceptual as perceptual_lib, prompts
from totojax.rundir import console, files, wording
from totojax.tokenizers import api
from totojax.trained import model as pretrained, shipped

_STRIP = 12  # frames of a strip
_SEED = 0  # of what the unigram draws


@dataclasses.dataclass(frozen=True)
class OnTruth:
  """What the model says of the true frames after a context, where they are known."""

  nll_NP: np.ndarray
  likeliest_NP: np.ndarray


@dataclasses.dataclass(frozen=True)
class Made:
  """All that was decoded."""

  codes_RKNP: np.ndarray  # with what was given
  nll_RKNP: np.ndarray  # of the new frames, as the model has it
  truth: Mapping[int, OnTruth]  # by clip


@dataclasses.dataclass(frozen=True)
class Found:
  """What `measure` gives."""

  rows: list[dict[str, Any]]  # of metrics.csv
  summary: dict[str, Any]  # of gen.json
  sentence: str  # for the console


def measure(
  clips: Sequence[prompts.Clip],
  made: Made,
  model: pretrained.Pretrained,
  amounts: prompts.Amounts,
  perceptual: perceptual_lib.Perceptual,
  config: Generate,
  workdir: epath.Path,
  *,
  fps: float,
) -> Found:
  """Compares all clips with the truth and what needs no network; draws some."""
  table, drawn, notes = continuations.Table(), [], []
  known = [min(max(len(c.codes_NP) - amounts.context, 0), amounts.further) for c in clips]
  prompted = bool(config.prompt.pairs)  # of pictures, whose answers nobody knows
  predictors = None if prompted else _predictors(model, config, notes)
  answers = []
  files.make_folder(workdir / "videos")
  with console.tracking("measuring and drawing", unit="clips", total=len(clips)) as bar:
    for number, clip in enumerate(clips):
      tokens = _Tokens(clip, made, number, amounts)
      tokens.add_to(table, predictors)
      frames = _Frames(tokens, model, predictors)
      frames.add_to(table, perceptual)
      if prompted:
        answers.append({"id": clip.id, "files": _write_answers(frames, number, workdir)})
      if number < config.output.clips:
        drawn.append(_draw(frames, number, config, workdir, notes))
      bar.advance()
  means, seen = table.means(), perceptual.summary(fps=fps)
  summary = {
    "metrics": means,
    "perceptual": seen,
    "known_frames": {"least": min(known), "most": max(known), "new": amounts.further},
    "model_less_copy": table.compared("loss", "model", "copy"),
    "drift": {
      f"{of}/{name}": drift
      for of, name in (("sample", "own_loss"), ("sample", "change"), ("sample", "accuracy"))
      if (drift := table.drift(of, name)) is not None
    },
    "fitted_records": predictors and predictors.records,
    "conventions": {
      "interval": "95 %, Student's t over clips",
      "psnr_db": f"mean over frames, each at most {continuations.MOST_DB:g} dB; 8 bits",
      "ssim": "7 x 7 uniform windows, sample covariance, mean of channels (scikit-image's default)",
      "loss": "nats per visual token",
    },
    "notes": list(dict.fromkeys(notes)),
    **({"answers": answers} if prompted else {}),
    "drawn": drawn,
  }
  for note in (*summary["notes"], *perceptual_lib.sentences(seen, means)):
    console.say(note)
  return Found(table.rows(), summary, sentence(summary))


def _write_answers(frames: "_Frames", number: int, workdir: epath.Path) -> list[str]:
  """Writes what was drawn for a query, a picture for each sample; their names."""
  files.make_folder(workdir / "answers")
  names = [f"answers/{number:05d}-{k:03d}.png" for k in range(len(frames.samples))]
  for name, sample_TSS3 in zip(names, frames.samples):
    files.write_bytes(workdir / name, movies.png(sample_TSS3[-1]))
  return names


def _predictors(
  model: pretrained.Pretrained, settings: Generate, notes: list[str]
) -> continuations.Predictors | None:
  """Fitted on a store, or on what a run was trained on, where that is tokens and at hand.

  Of the model that ships, and clips that are drawn, on others of them.
  """
  config, spec, path = model.run.config, model.run.model.spec, settings.fitted_on
  fit = functools.partial(continuations.Predictors.fit, vocab=spec.vocab, codes=spec.codes)
  try:
    named = path or settings.prompt.path or settings.prompt.store
    if settings.model_run == shipped.NAME and not named:
      with console.phase("predictors without a network, of further clips"):
        return fit(prompts.drawn_codes(model))
    if path:
      data = dataclasses.replace(config.data, train={"fitted_on": Share(path, 1.0)}, encode_with="")
      config = dataclasses.replace(config, data=data)
    elif not config.data.train:
      raise ValueError("the model names no stores that it was trained on; name one with fitted_on")
    if config.data.encode_with:
      raise ValueError("the model was trained on pixels, which it encoded itself")
    training = stores.open_sources(config, spec, pixels=False)
    parts = [validate.codes_of(one, spec) for one in training if one.store.manifest.kind == "video"]
    if not parts:
      raise ValueError("the model was trained on no videos")
  except (OSError, ValueError) as error:
    notes.append(f"copying and unigram have no token loss: {error}")
    return None
  with console.phase("predictors without a network"):
    return fit(np.concatenate(parts))


class _Tokens:
  """The tokens of a clip and of its samples."""

  def __init__(self, clip: prompts.Clip, made: Made, number: int, amounts: prompts.Amounts):
    self.clip, self.amounts = clip, amounts
    self.samples_KNP = made.codes_RKNP[number]
    self.on_truth = made.truth.get(number)
    self._nll_KNP = made.nll_RKNP[number]
    end = amounts.context + amounts.further
    self.known_NP = clip.codes_NP[:end]  # with the context
    self.known = len(self.known_NP) - amounts.context  # new frames

  def add_to(self, table: continuations.Table, predictors: continuations.Predictors | None) -> None:
    last = self.amounts.context - 1
    each = [continuations.changes(sample_NP[last:]) for sample_NP in self.samples_KNP]
    table.add("sample", "change", np.mean(each, axis=0))
    table.add("sample", "own_loss", self._nll_KNP.mean((0, 2)))
    if self.on_truth is None:
      return
    from_last_NP = self.known_NP[last:]
    truth_NP = from_last_NP[1:]
    table.add("truth", "change", continuations.changes(from_last_NP))
    table.add("model", "loss", self.on_truth.nll_NP[: self.known].mean(-1))
    table.add("model", "accuracy", self.on_truth.likeliest_NP[: self.known].mean(-1))
    new_KNP = self.samples_KNP[:, last + 1 : last + 1 + self.known]
    equal_KN = (new_KNP == truth_NP).mean(-1)
    table.add("sample", "accuracy", equal_KN.mean(0))
    if len(equal_KN) > 1:
      table.add("best", "accuracy", continuations.best(equal_KN))
    table.add("copy_last", "accuracy", (from_last_NP[:1] == truth_NP).mean(-1))
    if predictors is not None:
      for name, values_N in predictors.losses(from_last_NP).items():
        table.add(name, "loss", values_N)
      drawn_NP = predictors.draws(*truth_NP.shape, seed=_SEED)
      table.add("unigram", "accuracy", (drawn_NP == truth_NP).mean(-1))


class _Frames:
  """The same in pixels."""

  def __init__(
    self, tokens: _Tokens, model: pretrained.Pretrained, predictors: continuations.Predictors | None
  ):
    self._tokens, self._predictors = tokens, predictors
    self._shape, self._tokenizer = model.run.model.spec.frame_shape, model.tokenizer
    self.amounts = tokens.amounts
    self.end = tokens.amounts.given + tokens.amounts.new
    truth = tokens.clip.frames_TSS3
    self.truth_TSS3 = None if truth is None else truth[: self.end]

  def _decoded(self, codes_NP: np.ndarray) -> np.ndarray:
    shape = 1, len(codes_NP), *self._shape
    return api.decode_clips(self._tokenizer, codes_NP.reshape(shape))[0, : self.end]

  @functools.cached_property
  def samples(self) -> list[np.ndarray]:
    """Each uint8 [T, S, S, 3], with what was given."""
    return [self._decoded(codes_NP) for codes_NP in self._tokens.samples_KNP]

  @functools.cached_property
  def recon_TSS3(self) -> np.ndarray:
    """What the tokenizer keeps of what is known."""
    return self._decoded(self._tokens.known_NP)

  def add_to(self, table: continuations.Table, perceptual: perceptual_lib.Perceptual) -> None:
    given = self.amounts.given
    changes = [continuations.pixel_changes(sample[given - 1 :]) for sample in self.samples]
    table.add("sample", "pixel_change", np.mean(changes, axis=0))
    references = {"recon": self.recon_TSS3}
    if self.truth_TSS3 is not None:
      references["truth"] = self.truth_TSS3
    if len(self.recon_TSS3) > given:
      known = references.get("truth", self.recon_TSS3)
      table.add("truth", "pixel_change", continuations.pixel_changes(known[given - 1 :]))
    others = self._others(len(self.recon_TSS3) - given)
    for name, reference_TSS3 in references.items():
      new_TSS3 = reference_TSS3[given:]
      if len(new_TSS3):
        self._compare(table, name, new_TSS3, others)
    perceptual.add(table, perceptual_lib.Shown(references, self.samples, others))

  def _compare(
    self,
    table: continuations.Table,
    name: str,
    new_TSS3: np.ndarray,
    others: Mapping[str, np.ndarray],
  ) -> None:
    """Adds what is like the new frames of a reference, and how much."""
    given, count = self.amounts.given, len(new_TSS3)
    like = functools.partial(continuations.pixel_measures, new_TSS3)
    shown = [sample[given : given + count] for sample in self.samples]
    for measure, values_KT in continuations.over_samples(like, shown).items():
      table.add("sample", f"{measure}/{name}", values_KT.mean(0))
      if len(values_KT) > 1:
        table.add("best", f"{measure}/{name}", continuations.best(values_KT))
    if name != "recon":
      others = {**others, "recon": self.recon_TSS3[given:]}
    for of, other_TSS3 in others.items():
      for measure, values_T in like(other_TSS3[:count]).items():
        table.add(of, f"{measure}/{name}", values_T)

  def _others(self, count: int) -> dict[str, np.ndarray]:
    """Baselines, of what was given as the tokenizer draws it."""
    given = self.amounts.given
    seen_TSS3 = self.recon_TSS3[:given]
    mean_SS3 = np.rint(seen_TSS3.astype(np.float64).mean(0)).astype(np.uint8)
    out = {
      "copy_last": np.repeat(seen_TSS3[-1:], count, axis=0),
      "mean_frame": np.repeat(mean_SS3[None], count, axis=0),
    }
    if self._predictors is not None:
      context_NP = self._tokens.known_NP[: self.amounts.context]
      drawn_NP = self._predictors.draws(self.amounts.further, context_NP.shape[-1], seed=_SEED)
      drawn = self._decoded(np.concatenate([context_NP, drawn_NP]))
      out["unigram"] = drawn[given : given + count]
    return out


def _draw(
  frames: _Frames, number: int, config: Generate, workdir: epath.Path, notes: list[str]
) -> dict[str, Any]:
  """The files of a clip: truth, what the tokenizer keeps, samples, side by side."""
  output, given = config.output, frames.amounts.given
  enlarged = functools.partial(movies.enlarged, side_px=output.side_px)
  columns = []
  if frames.truth_TSS3 is not None:
    columns.append(("truth", enlarged(frames.truth_TSS3), len(frames.truth_TSS3)))
  known = len(frames.recon_TSS3)
  columns.append(("tokenizer", enlarged(frames.recon_TSS3), known))
  for k, sample_TSS3 in enumerate(frames.samples[: output.samples]):
    columns.append((f"sample {k + 1}", enlarged(sample_TSS3), given))
  pairs = [(pixels_TSS3, count) for _, pixels_TSS3, count in columns]
  together = movies.beside(pairs, frames=frames.end)
  is_video = not config.prompt.pairs
  shown = _STRIP if is_video else frames.end
  places = np.unique(np.linspace(0, frames.end - 1, shown).astype(int)).tolist()
  name = f"videos/{number:05d}"
  made = {"png": movies.png(movies.strip(pairs, places))}
  if is_video:
    made["webp"] = movies.webp(together, fps=output.fps)
  if is_video and output.codec:
    try:
      made["mp4"] = movies.mp4(together, fps=output.fps, codec=output.codec, crf=output.crf)
    except ImportError as error:
      notes.append(f"no .mp4 is written: {error}")
  for suffix, data in made.items():
    files.write_bytes(workdir / f"{name}.{suffix}", data)
  return {
    "id": frames._tokens.clip.id,
    "columns": [column for column, _, _ in columns],
    **{suffix: f"{name}.{suffix}" for suffix in made},
  }


def truths(known_frames: Mapping[str, int]) -> str:
  """For how many of the new (latent) frames there is a truth, where not for all."""
  least, most, new = (known_frames[key] for key in ("least", "most", "new"))
  if least == new:
    return ""
  return f"truth for {most if least == most else f'{least} to {most}'} of {new} new frames"


def sentence(summary: Mapping[str, Any]) -> str:
  """What is said of it when the job ends."""
  metrics = summary["metrics"]
  if "answers" in summary:
    return (
      f"answered: {wording.counted(len(summary['answers']), 'query', 'queries')},"
      " answers/ and report.html"
    )
  model = metrics.get("model/loss")
  if model is None:
    return "no frame after what was given is known: there is nothing to compare with"
  text = f"{model['n']} clips: {model['mean']:.4f} nats per visual token of the true next frames"
  if told := truths(summary["known_frames"]):
    text += f" ({told})"
  difference = summary["model_less_copy"]
  if difference is None:
    return text
  copy, unigram = (metrics[f"{name}/loss"]["mean"] for name in ("copy", "unigram"))
  text += f" (copying the frame before {copy:.4f}, unigram {unigram:.4f})"
  word = "better" if difference["mean"] < 0 else "worse"
  text += f": {word} than copying by {abs(difference['mean']):.4f}"
  if difference["low"] is None:
    return text + ", of one clip"
  ends = sorted(abs(difference[end]) for end in ("low", "high"))
  if difference["low"] < 0 < difference["high"]:
    ends = [f"{difference[end]:+.4f}" for end in ("low", "high")]
    return text + f" (95 % interval of the difference {ends[0]} to {ends[1]}: not told from none)"
  return text + f" (95 % interval {ends[0]:.4f} to {ends[1]:.4f})"
