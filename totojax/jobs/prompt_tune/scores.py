"""Answers of the tuned and the untuned model to held-out prompts, judged and drawn.

Shapes: R prompts, T frames of one without its answer, P tokens of a frame, S
pixels of a side.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs, sequence
from totojax.config.generate import Window
from totojax.config.prompt_tune import PromptTune
from totojax.data.pixels import movies
from totojax.evals import answers
from totojax.jobs.generate import prompts as generating
from totojax.jobs.prompt_tune import prompts
from totojax.rundir import console, files
from totojax.tokenizers import api
from totojax.trained import backbone, continued, model as pretrained

MODELS = ("tuned", "untuned")
EXCHANGED = "exchanged"  # the tuned model, given the outputs of other prompts' examples
_SHOWN_PAIRS = 2  # of a prompt that is drawn


@dataclasses.dataclass(frozen=True)
class Found:
  """What `measure` gives."""

  rows: list[dict[str, Any]]  # of scores.csv
  summary: dict[str, Any]  # of prompt_tune.json


def _held_out(task: prompts.Task) -> list[prompts.Prompt]:
  return [task.make("val", number) for number in range(task.counts["val"])]


def _exchanged(shown: Sequence[prompts.Prompt]) -> list[prompts.Prompt]:
  """The same prompts, each with the outputs of another one's examples."""
  others = [*shown[1:], shown[0]]
  return [
    dataclasses.replace(
      one, pairs=[(pair[0], theirs[1]) for pair, theirs in zip(one.pairs, other.pairs)]
    )
    for one, other in zip(shown, others)
  ]


def _asked(task: prompts.Task) -> list[str]:
  """Whose answers there are."""
  return [*MODELS, *([EXCHANGED] if task.counts["val"] > 1 else [])]


def answer(
  tasks: Sequence[prompts.Task],
  source: backbone.Trained,
  config: PromptTune,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Makes the answers that are not on disk; False when interrupted."""
  files.make_folder(workdir / "parts")
  wanted = [(of, task) for of in ("untuned", "tuned", EXCHANGED) for task in tasks]
  wanted = [(of, task) for of, task in wanted if of in _asked(task)]
  missing = [one for one in wanted if not files.exists(_part(workdir, *one))]
  total = sum(task.counts["val"] for _, task in wanted)
  done = total - sum(task.counts["val"] for _, task in missing)
  model, whose = None, None
  with console.tracking("answering", unit="prompts", total=total, done=done) as bar:
    for number, (of, task) in enumerate(missing):
      if number and interrupted(bar.done):
        return False
      path = source.path if of == "untuned" else workdir / "tuned"
      if model is None or whose != path:
        model, whose = pretrained.load(path, tokenizer=config.tokenizer, depth=0), path
      shown = _held_out(task)
      if of == EXCHANGED:
        shown = _exchanged(shown)
      files.write_npz(_part(workdir, of, task), {"codes": _answers(shown, model, config)})
      bar.advance(len(shown))
  return True


def _part(workdir: epath.Path, of: str, task: prompts.Task) -> epath.Path:
  return workdir / "parts" / f"{of}-{task.name}.npz"


def _answers(
  shown: Sequence[prompts.Prompt], model: pretrained.Pretrained, config: PromptTune
) -> np.ndarray:
  """int32 codes [R, P]."""
  frames = len(shown[0].frames_TSS3)
  decoder = model.decoder(frames=frames, sampling=config.sampling, window=Window())
  parts = []
  for start in range(0, len(shown), config.rows):
    some = shown[start : start + config.rows]
    codes_RTP = model.codes(np.stack([one.frames_TSS3[:-1] for one in some]))
    # As many of the last as of all others: one program.
    codes_RTP = continued.padded(codes_RTP, min(config.rows, len(shown)))
    made = continued.samples(decoder, codes_RTP, further=1, samples=1, rows=len(codes_RTP))
    parts.append(made[: len(some), 0, -1])
  return np.concatenate(parts)


def measure(
  tasks: Sequence[prompts.Task],
  tokenizer: api.Tokenizer,
  spec: sequence.SequenceSpec,
  config: PromptTune,
  workdir: epath.Path,
) -> Found:
  """Compares all answers with the truth and with what needs no model; draws some."""
  rows, summary, kept = [], {}, {}
  files.make_folder(workdir / "pictures")
  with console.tracking("measuring and drawing", unit="tasks", total=len(tasks)) as bar:
    for task in tasks:
      shown = _held_out(task)
      codes = {of: files.read_npz(_part(workdir, of, task))["codes"] for of in _asked(task)}
      kept |= {f"{task.name}/{of}": codes_RP for of, codes_RP in codes.items()}
      truth = np.stack([one.answer for one in shown])
      drawn = {of: _decoded(tokenizer, codes_RP, spec) for of, codes_RP in codes.items()}
      drawn |= dict(_without_model(shown))
      codes_RP = api.encode_clips(tokenizer, truth[:, None])
      drawn["tokenizer"] = _decoded(tokenizer, codes_RP, spec)
      found = {
        of: answers.statistic(task.measure, truth, picture, **task.meaning)
        for of, picture in drawn.items()
      }
      told = {of: dataclasses.asdict(answers.score(one)) for of, one in found.items()}
      less = {of: _less(found["tuned"], one) for of, one in found.items() if of != "tuned"}
      summary[task.name] = {
        "measure": task.measure,
        "scores": told,
        "tuned_less": less,
        "picture": _draw(task, shown, drawn, config, workdir),
      }
      for of, one in told.items():
        rows.append({"task": task.name, "measure": task.measure, "of": of, **one})
      bar.advance()
  files.write_npz(workdir / "answers.npz", kept)
  conventions = {
    "interval": "95 %, percentile bootstrap over prompts",
    "abs_rel": f"depth is 255 / grey, at most {answers.FARTHEST:g}"
    if config.data.depth == "inverse"
    else "depth is grey / 255",
  }
  return Found(rows, {"results": summary, "conventions": conventions})


def _less(tuned: answers.Statistic, other: answers.Statistic) -> dict[str, Any]:
  """How much the tuned model has above another one, and whether that is better."""
  difference = answers.score(tuned, other)
  return {
    **dataclasses.asdict(difference),
    "is_better": answers.is_better(tuned.measure, difference),
  }


def _decoded(
  tokenizer: api.Tokenizer, codes_RP: np.ndarray, spec: sequence.SequenceSpec
) -> np.ndarray:
  """uint8 [R, S, S, 3] of codes of single frames."""
  return api.decode_clips(tokenizer, codes_RP.reshape(-1, 1, *spec.frame_shape))[:, 0]


def _without_model(shown: Sequence[prompts.Prompt]) -> Iterator[tuple[str, np.ndarray]]:
  """What is drawn where no model is asked: (name, uint8 [R, S, S, 3])."""
  yield "copy_query", np.stack([one.query for one in shown])
  yield "copy_example", np.stack([one.pairs[-1][1] for one in shown])
  means = [np.mean([drawn for _, drawn in one.pairs], axis=0) for one in shown]
  yield "mean_example", np.rint(np.stack(means)).astype(np.uint8)


def _draw(
  task: prompts.Task,
  shown: Sequence[prompts.Prompt],
  drawn: dict[str, np.ndarray],
  config: PromptTune,
  workdir: epath.Path,
) -> str | None:
  """The file of a task's pictures, a row for each prompt; None: there is none."""
  chosen = generating.spread(len(shown), config.output.prompts) if config.output.prompts else []
  rows = []
  for number in chosen:
    one = shown[number]
    pairs = [frame for pair in one.pairs[-_SHOWN_PAIRS:] for frame in pair]
    known = [*pairs, one.query, one.answer, drawn["tokenizer"][number]]
    frames = np.stack([*known, *(drawn[of][number] for of in MODELS)])
    rows.append((movies.enlarged(frames, side_px=config.output.side_px), len(known)))
  if not rows:
    return None
  name = f"pictures/{task.name}.png"
  files.write_bytes(workdir / name, movies.png(movies.strip(rows, range(len(rows[0][0])))))
  return name
