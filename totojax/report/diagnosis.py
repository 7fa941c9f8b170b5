"""Why a model does not beat its baselines, and what to do: from plain numbers.

Three reasons can be told apart by what a run leaves behind:

  still     there is hardly anything to predict: copying is almost free.
  by heart  it does better on its training clips than on held-out ones, or got
            worse on these while it went on learning: there is too little video.
  short     on its training clips it does not beat the baseline either: there
            were too few updates.

Losses are in nats per visual token, over all frames where it is not said.
"""

from collections.abc import Mapping
import dataclasses
import shlex
from typing import Any

STILL_FRAC = 0.1  # of the code frequencies' loss: below, copying is almost free
# Nobody has measured it on real videos, so no number of hours stands here but the paper's.
ENOUGH = (
  "How many would do has not been measured; expect orders of magnitude more, not twice as many:"
  " the paper trains on 100,000 hours (section 3.3)."
)
GAP_FRAC = 0.1  # of the held-out loss: so much lower on training clips is by heart


@dataclasses.dataclass(frozen=True)
class History:
  """How a validated model came about; None and () where it is not known."""

  videos: int | None = None  # that were trained on and gave clips
  held_out: int | None = None  # videos that the held-out clips come from
  alone: bool = False  # whether there is one video, of which the end is held out
  clips: int | None = None  # that were trained on, several of a video
  trained: float | None = None  # loss of the validated model on its training clips
  trained_end: float | None = None  # training loss at the end of the run, of a single source
  step: int | None = None  # of the checkpoint that is validated
  sources: int | None = None  # stores that were trained on
  evals: tuple[tuple[int, float, float], ...] = ()  # step, held-out loss, its standard error


def cause(
  history: History, *, loss: float, baseline: float, copied_frac: float | None, error: float
) -> str | None:
  """ "still", "by heart", "short", or None: the numbers do not say.

  Args:
    history: of the model.
    loss: held out.
    baseline: of the best predictor without a network, on the same tokens.
    copied_frac: what copying needs on frames 2 and later, as a share of what the
      code frequencies do; None on images.
    error: standard error of `loss`.
  """
  if copied_frac is not None and copied_frac < STILL_FRAC:
    return "still"
  if worsened(history) is not None:
    return "by heart"
  on_training = history.trained if history.trained is not None else history.trained_end
  if on_training is None:
    return None
  if loss - on_training > max(2 * error, GAP_FRAC * loss):
    return "by heart"
  return "short" if on_training >= baseline else None


def worsened(history: History) -> tuple[int, float, float] | None:
  """(step, held-out loss there, held-out loss at the end), where it rose.

  A rise counts above two standard errors, and a twentieth of the loss: the
  errors take clips of one video as independent, and are too small.
  """
  after = [row for row in history.evals if row[0]]
  if len(after) < 2:
    return None
  step, lowest, error = min(after, key=lambda row: (row[1], row[0]))
  last = after[-1][1]
  return (step, lowest, last) if last - lowest > max(2 * error, lowest / 20) else None


def falling(history: History) -> bool:
  """Whether the last evaluation is the lowest, of three after the start or more."""
  after = [value for step, value, _ in history.evals if step]
  return len(after) > 2 and after[-1] == min(after)


def headline(
  reason: str, history: History, *, loss: float, baseline: float, frame: str = "frame"
) -> str:
  """One sentence, which stands in the place of "it does not beat copying"."""
  if reason == "still":
    return (
      f"There is hardly anything to predict: copying the previous {frame} needs"
      f" {baseline:.2f} nats per token."
    )
  on_training = history.trained_end if history.trained_end is not None else history.trained
  if reason == "short":
    return (
      f"Too few updates: even on its training clips the model needs {on_training:.1f} nats per"
      f" token, and copying the previous {frame} {baseline:.1f}."
    )
  rise = worsened(history)
  held_out = rise[2] if rise else loss
  told = f"training loss {on_training:.1f}, " if on_training is not None else ""
  return f"{amount(history)}: {told}held out {held_out:.1f}: the model has learned them by heart."


def amount(history: History) -> str:
  """ "6 training videos", or what else is known of how much there was."""
  for count, unit in ((history.videos, "video"), (history.clips, "clip")):
    if count is not None:
      return f"{count:,} training {unit}{'s' * (count != 1)}"
  return "Too little video"


def notes(history: History) -> list[str]:
  """What a reader must know to judge the number: which checkpoint, which videos."""
  out = []
  if rise := worsened(history):
    step, lowest, last = rise
    if history.step == step:
      out.append(
        f"The held-out loss was lowest after update {step:,} ({lowest:.2f}): that checkpoint was"
        " kept and is the one validated here (on the clips that chose it, which flatters it a"
        f" little). At the end of training it was {last:.2f}."
      )
    else:
      out.append(
        f"The held-out loss was lowest after update {step:,} ({lowest:.2f}) and {last:.2f} at the"
        " end, which is what is validated here; checkpoint.best keeps the lowest."
      )
  if history.alone:
    out.append(
      "There is one video: the model is trained on its beginning and judged by its end, which may"
      " well show the same scene. This says nothing of other videos."
    )
  elif history.held_out is not None and history.held_out < 10:
    out.append(
      f"The held-out clips come from {history.held_out} video{'s' * (history.held_out != 1)}. The"
      " standard error takes clips as independent, so it says nothing of other videos."
    )
  return out


@dataclasses.dataclass(frozen=True)
class Step:
  """Something to do, and the command for it, if there is one."""

  text: str
  command: str = ""


def advice(
  reason: str | None, history: History, *, command: str, chain: str, prefix: str = ""
) -> list[Step]:
  """What to do next where a model is no better than its baseline.

  Args:
    reason: of `cause`.
    history: of the model.
    command: that of the run; "" where it is not known.
    chain: its folder.
    prefix: of the keys of the pre-training stage ("stages__pretrain__").
  """

  def anew(text: str, end: str, **changes: str) -> Step:
    return Step(text, again(command, workdir=f"{chain}-{end}", **changes) if command else "")

  if reason == "still":
    stride = "stages__clips__clip__stride_frames"
    return [
      anew(
        "Look at frames that are further apart, so that more moves between them:",
        "apart",
        **{stride: "8"},
      ),
      Step("Or take videos in which something moves."),
    ]
  told = "the held-out loss was still falling at the end; " if falling(history) else ""
  go_on = anew(
    f"More updates: {told}go on from this model.",
    "on",
    **{f"{prefix}init_from": f"{chain}/pretrain"},
  )
  if reason != "by heart":
    return [go_on]
  out = [go_on] if falling(history) else []
  if history.sources == 1:
    out.append(
      anew(
        "Train on clips that the project renders too, and keep the best checkpoint: the command"
        " below does, with configs/clips.py as it is now (docs/results.md has what that is worth).",
        "rendered",
      )
    )
  return [*out, anew(f"More videos, then the command below. {ENOUGH}", "more")]


def again(command: str, *, workdir: str, **changes: str) -> str:
  """A command with another work directory and other keys, to be typed.

  Args:
    command: that of the run.
    workdir: of the next one.
    **changes: config key, with dots as two underscores -> value.
  """
  new = {f"--config.{key.replace('__', '.')}": value for key, value in changes.items()}
  new["--workdir"] = workdir
  words, skip = [], False
  for word in shlex.split(command):
    flag, equals, _ = word.partition("=")
    if not skip and flag not in new:
      words.append(word)
    skip = flag in new and not equals  # its value is the next word
  return shlex.join([*words, *(f"{flag}={value}" for flag, value in new.items())])


def of_logs(
  metrics: Mapping[str, float],
  source: str,
  *,
  rows: list[dict[str, Any]],
  manifests: Mapping[str, Mapping[str, Any]],
  sources: int | None,
) -> History:
  """The history that files tell.

  Args:
    metrics: of validate/metrics.json.
    source: whose validation it is.
    rows: of pretrain/metrics.jsonl.
    manifests: of the stores "train" and "val" of pixels, of those that are there.
    sources: how many are trained on; of several, the logged loss is of their mixture.
  """
  losses = [row["loss"] for row in rows if row["kind"] == "train" and row.get("loss") is not None]
  last = losses[-max(1, len(losses) // 10) :]
  evals = [row for row in rows if row["kind"] == "eval"]
  key = f"{source}/loss"
  info = manifests.get("train", {}).get("info", {})
  counts = {split: _counts(manifest) for split, manifest in manifests.items()}
  videos, clips = counts.get("train", (None, None))
  return History(
    videos=videos,
    held_out=counts.get("val", (None, None))[0],
    alone=info.get("items", 0) - info.get("copies", 0) == 1,
    clips=clips,
    trained=metrics.get(f"{source}/training/loss"),
    trained_end=sum(last) / len(last) if last and sources == 1 else None,
    step=int(metrics["step"]) if "step" in metrics else None,
    sources=sources,
    evals=tuple(
      (row["step"], row[key], row.get(f"{key}_sem") or 0.0)
      for row in evals
      if row.get(key) is not None
    ),
  )


def _counts(manifest: Mapping[str, Any]) -> tuple[int | None, int]:
  """(videos, clips) of a store of pixels; of renderings there are clips alone."""
  clips = sum(shard["records"] for shard in manifest["shards"])
  crops = manifest.get("crops")
  decoded = "clip" in manifest.get("info", {})
  return (clips // crops if decoded and crops else None), clips
