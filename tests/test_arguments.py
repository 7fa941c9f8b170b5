"""What is given to a model in Python: one line for each wrong kind, before anything is computed."""

import pathlib

import numpy as np
import pytest

from totojax.config.generate import Sampling, Window
from totojax.trained import arguments, prompting

FRAMES = np.zeros((4, 6, 8, 3), np.uint8)


@pytest.mark.parametrize(
  "frames, told",
  [
    (FRAMES / 255, r"float64 \(4, 6, 8, 3\); .* \(255 \* frames\)"),
    (FRAMES.astype(int), "int64 .* frames.astype"),
    (FRAMES[..., 0], r"uint8 \(4, 6, 8\); .* np.stack"),
    (FRAMES[..., :1], "np.repeat"),
    (FRAMES[..., [0, 1, 2, 0]], "without the opacity"),
    (np.moveaxis(FRAMES, -1, 1), "np.moveaxis"),
    (FRAMES[0], r"uint8 \(6, 8, 3\)"),
    (FRAMES[None, None], "give uint8"),
    (FRAMES[:0], "holds none"),
    (FRAMES[:, :0], "holds none"),
    ("clip.mp4", "'clip.mp4', no pixels"),
    (b"clip.mp4", "no pixels"),
    (pathlib.Path("clip.mp4"), "no pixels"),
    (None, "a NoneType that makes no array"),
    ([FRAMES[0], FRAMES[0, :5]], "a list that makes no array"),
    ({1, 2}, "a set that makes no array"),
  ],
)
def test_what_is_no_video_is_one_line(frames, told):
  with pytest.raises(ValueError, match=told) as error:
    arguments.clips(frames, "video")
  assert "\n" not in str(error.value)


def test_only_who_takes_images_is_told_how():
  with pytest.raises(ValueError, match='with kind="image" images'):
    arguments.clips(FRAMES[0], "video")
  for frames in (FRAMES[0], FRAMES[0] / 255):
    with pytest.raises(ValueError, match="frames are .* or one video") as error:
      arguments.clips(frames, takes_images=False)
    assert "kind" not in str(error.value)
  with pytest.raises(ValueError, match=r"one frame: frames\[None\]$"):
    arguments.clips(FRAMES[0], takes_images=False)


def test_what_is_a_video_is_taken():
  for frames in (FRAMES, list(FRAMES), FRAMES[None], np.ma.masked_array(FRAMES)):
    assert arguments.clips(frames, "video").shape == (1, *FRAMES.shape)
  assert arguments.clips(FRAMES, "image").shape == (4, 1, 6, 8, 3)
  # What an error advises is right.
  mended = np.repeat(FRAMES[..., :1], 3, axis=-1)
  assert arguments.clips(mended, "video").shape == (1, *FRAMES.shape)


@pytest.mark.parametrize("value", [2.5, "3", None, True, float("nan"), 0, -1, 10**12, [1], 1j])
def test_what_is_no_count_is_one_line(value):
  with pytest.raises(ValueError, match="new_frames is .*; give a whole number, 1 to 9$"):
    arguments.count(value, "new_frames", most=9)
  assert arguments.count(np.int64(9), "new_frames", most=9) == 9


@pytest.mark.parametrize("value", [{"top_k": 3}, {}, 0.7, "greedy", Sampling, Window(), False])
def test_what_are_no_settings_is_one_line(value):
  with pytest.raises(ValueError, match="sampling is .* must be a totojax.config.generate.Sampling"):
    arguments.section(value, Sampling, "sampling")
  assert arguments.section(None, Sampling, "sampling") == Sampling()
  with pytest.raises(ValueError, match=r"sampling=Sampling\(top_k=3\)"):
    arguments.section({"top_k": 3}, Sampling, "sampling")


def test_what_is_no_path_layer_code_or_pair_is_one_line():
  for value in (b"runs/demo", None, 3):
    with pytest.raises(ValueError, match="run is .*; give a path as text"):
      arguments.path(value, "run")
  assert arguments.path(pathlib.Path("a"), "run") == "a"
  for value in ("a", 1.5, None, [1, "a"], -1):
    with pytest.raises(ValueError, match="layer is .*; give a whole number, 0 or more"):
      arguments.layers(value)
  with pytest.raises(ValueError, match="layer is empty"):
    arguments.layers([])
  for value in (np.zeros((1, 2, 4)), np.zeros((2, 4), int), np.zeros((0, 2, 4), int)):
    with pytest.raises(ValueError, match="codes are .*; give whole numbers .clips"):
      arguments.codes(value, 4)
  for value in (None, 3, "folder"):
    with pytest.raises(ValueError, match="pairs are .*; give .* of pictures"):
      prompting.pairs_of(value)
  with pytest.raises(ValueError, match="pair 1 is 3; it is"):
    prompting.pairs_of([3])
