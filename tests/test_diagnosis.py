"""Why a model is no better than its baselines: from plain numbers, case by case."""

import shlex

import pytest

from totojax.report import diagnosis, verdict

# What the loop logged: held out, it was best after update 50.
RISING = ((0, 6.2, 0.01), (50, 5.2, 0.05), (100, 5.5, 0.05), (150, 5.8, 0.05))
FALLING = ((0, 6.2, 0.01), (50, 5.2, 0.05), (100, 3.2, 0.05), (150, 3.1, 0.05))


def judged(*, loss, copy=2.8, unigram=5.5, sem=0.05, **history):
  """The verdict on a model of a handful of videos."""
  metrics = {
    "clips/loss": loss,
    "clips/loss_sem": sem,
    "clips/later_loss": loss,
    "clips/later_loss_sem": sem,
    "clips/unigram/loss": unigram,
    "clips/unigram/later_loss": unigram,
    "clips/copy/loss": copy + 0.2,
    "clips/copy/later_loss": copy,
    "clips/copy/later_loss_sem": sem,
  }
  return verdict.judge(metrics, "clips", diagnosis.History(**history))


@pytest.mark.parametrize(
  "case, cause, better, headline",
  [
    # The paper's case in small: learned by heart, at the end of training.
    (
      dict(loss=5.8, videos=6, trained_end=2.5, evals=RISING, step=150),
      "by heart",
      False,
      "6 training videos: training loss 2.5, held out 5.8: the model has learned them by heart.",
    ),
    # The best checkpoint was kept: it is on a par with its training clips.
    (
      dict(loss=5.2, videos=6, trained=5.1, trained_end=2.5, evals=RISING, step=50),
      "by heart",
      False,
      "6 training videos: training loss 2.5, held out 5.8: the model has learned them by heart.",
    ),
    # No evaluation but the last: the gap tells it.
    (
      dict(loss=5.8, videos=1, trained=2.5, step=150),
      "by heart",
      False,
      "1 training video: training loss 2.5, held out 5.8: the model has learned them by heart.",
    ),
    # On its training clips it is no better than on others, and worse than copying.
    (
      dict(loss=4.2, videos=6, trained=4.1, evals=FALLING, step=150),
      "short",
      False,
      "Too few updates: even on its training clips the model needs 4.1 nats per token, and copying"
      " the previous frame 3.0.",
    ),
    # It beats copying: what else there is to say does not matter.
    (
      dict(loss=2.1, videos=6, trained=1.2, evals=RISING, step=50),
      None,
      True,
      "The model beats copying the previous frame.",
    ),
    # Equal within error.
    (
      dict(loss=2.85, videos=6, trained=2.8, evals=FALLING, step=150),
      None,
      None,
      "The model is about level with copying the previous frame.",
    ),
    # Nothing moves.
    (
      dict(loss=0.4, copy=0.1, videos=6, trained=0.3, evals=FALLING, step=150),
      "still",
      False,
      "There is hardly anything to predict: copying the previous frame needs 0.10 nats per token.",
    ),
    # A run of before, of which nothing is known.
    (dict(loss=5.8), None, False, "The model does not beat copying the previous frame."),
  ],
)
def test_the_headline_follows_the_numbers(case, cause, better, headline):
  found = judged(**case)
  assert (found.cause, found.better, found.claim) == (cause, better, headline)


def test_a_share_of_next_to_nothing_is_left_out():
  assert "%" not in judged(loss=5.6, copy=1e-5).detail
  assert "(107%; standard error" in judged(loss=5.8).detail


def test_a_small_rise_is_noise_and_a_fall_is_none():
  """Control of the cases above: it is the rise that makes them."""
  wobble = ((0, 6.2, 0.01), (50, 3.1, 0.05), (100, 3.15, 0.05))
  assert diagnosis.worsened(diagnosis.History(evals=wobble)) is None
  assert diagnosis.worsened(diagnosis.History(evals=FALLING)) is None
  assert diagnosis.worsened(diagnosis.History(evals=RISING)) == (50, 5.2, 5.8)
  # A start that was better than all that came is none: nothing was saved of it.
  late = ((0, 1.0, 0.01), (50, 3.0, 0.05), (100, 2.9, 0.05))
  assert diagnosis.worsened(diagnosis.History(evals=late)) is None


def test_the_notes_say_which_checkpoint_and_which_videos():
  kept = diagnosis.notes(diagnosis.History(evals=RISING, step=50, held_out=2))
  assert "lowest after update 50 (5.20): that checkpoint was kept" in kept[0]
  assert "come from 2 videos" in kept[1]
  last = diagnosis.notes(diagnosis.History(evals=RISING, step=150, held_out=100))
  assert len(last) == 1 and "checkpoint.best keeps the lowest" in last[0]
  assert diagnosis.notes(diagnosis.History(evals=FALLING, step=150)) == []


def test_one_video_alone_is_told():
  for items, copies, alone in ((1, 0, True), (2, 1, True), (2, 0, False), (3, 1, False)):
    info = dict(items=items, copies=copies)
    stores = {"train": dict(info=info, shards=[dict(records=8)])}
    history = diagnosis.of_logs({}, "clips", rows=[], manifests=stores, sources=1)
    assert any("There is one video" in note for note in diagnosis.notes(history)) == alone, info


def steps(reason, **history):
  told = dict(command="totojax --config=c.py", chain="runs/c", prefix="stages__pretrain__")
  return diagnosis.advice(reason, diagnosis.History(**history), **told)


def test_the_advice_follows_the_reason():
  on = "totojax --config=c.py --config.stages.pretrain.init_from=runs/c/pretrain"
  on += " --workdir=runs/c-on"
  again = "totojax --config=c.py --workdir=runs/c"
  (short,) = steps("short", evals=FALLING)
  assert short.command == on and "still falling" in short.text
  # On its own clips alone: first those that are rendered, then more of them.
  rendered, more = steps("by heart", sources=1, evals=RISING)
  assert (rendered.command, more.command) == (f"{again}-rendered", f"{again}-more")
  assert "project renders" in rendered.text and "More videos" in more.text
  (more,) = steps("by heart", sources=2, evals=RISING)
  assert "More videos" in more.text and diagnosis.ENOUGH in more.text
  # Neither is at its end: both.
  first, more = steps("by heart", sources=2, evals=FALLING)
  assert first.command == on and "More videos" in more.text
  apart, other = steps("still")
  assert "stride_frames=8" in apart.command and other.command == ""
  assert steps(None)[0].command == on
  # A run of before names no command: what to do is said all the same.
  (bare,) = diagnosis.advice("short", diagnosis.History(), command="", chain="x")
  assert bare.command == "" and "More updates" in bare.text


def test_the_next_command_changes_what_it_names_and_nothing_else():
  command = "python -m totojax.main --config=c.py --workdir 'my runs' --config.a.b=1 --config.x=2"
  words = shlex.split(diagnosis.again(command, workdir="more", a__b="3"))
  assert words == [
    *("python", "-m", "totojax.main", "--config=c.py", "--config.x=2", "--config.a.b=3"),
    "--workdir=more",
  ]
