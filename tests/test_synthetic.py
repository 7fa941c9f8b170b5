"""Rendered clips: reproducible, labelled truly, unreadable from one frame."""

import numpy as np
import pytest

from totojax.data.pixels import synthetic


def _config(**changes) -> synthetic.SyntheticConfig:
  settings = dict(
    seed=3,
    frames=8,
    size_px=32,
    objects=2,
    occluder_frac=0.3,
    pan_frac=0.3,
    motions=(),
    backgrounds=(),
    radius=(0.22, 0.30),
    speed=(0.05, 0.085),
  )
  return synthetic.SyntheticConfig(**(settings | changes))


def _alone(**changes) -> synthetic.SyntheticConfig:
  """One object on a still background, nothing in front."""
  return _config(objects=1, occluder_frac=0.0, pan_frac=0.0, **changes)


def _clips(config, start, count):
  return (synthetic.render(config, index) for index in range(start, start + count))


def test_clip_depends_on_seed_and_index_alone():
  config = _config()
  clips = list(_clips(config, 5, 3))
  again = synthetic.render(config, 7)
  np.testing.assert_array_equal(clips[2].frames_NHW3, again.frames_NHW3)
  assert (clips[2].shape, clips[2].motion) == (again.shape, again.motion)
  assert not np.array_equal(clips[1].frames_NHW3, clips[2].frames_NHW3)
  other = synthetic.render(_config(seed=4), 7)
  assert not np.array_equal(other.frames_NHW3, again.frames_NHW3)


@pytest.mark.parametrize("size_px,frames", [(16, 1), (32, 16), (72, 3)])
def test_any_size_and_length(size_px, frames):
  clip = synthetic.render(_config(size_px=size_px, frames=frames), 0)
  assert clip.frames_NHW3.shape == (frames, size_px, size_px, 3)
  assert clip.frames_NHW3.dtype == np.uint8


def test_more_frames_go_on_with_the_same_clip():
  short = synthetic.render(_config(frames=4), 2)
  long = synthetic.render(_config(frames=9), 2)
  np.testing.assert_array_equal(short.frames_NHW3, long.frames_NHW3[:4])


def test_labels_cover_every_class_evenly():
  config = _config(frames=1, size_px=8)
  clips = list(_clips(config, 0, 1000))
  for by in synthetic.LABELS:
    names = synthetic.classes(by, config.moves)
    counts = np.bincount(
      [synthetic.label(clip, by, config.moves) for clip in clips], minlength=len(names)
    )
    assert len(counts) == len(names) == len(set(names))
    expected = 1000 / len(names)
    assert counts.min() > expected - 4.5 * np.sqrt(expected)
  both = synthetic.classes("both", config.moves)[synthetic.label(clips[0], "both", config.moves)]
  shape = synthetic.SHAPES[clips[0].shape]
  assert both == f"{shape}-{synthetic.MOTIONS[clips[0].motion]}"


def _shift(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
  """Displacement (right, down) in pixels on the torus, by phase correlation."""
  product = np.fft.fft2(after) * np.conj(np.fft.fft2(before))
  score = np.fft.ifft2(product).real
  down, right = np.unravel_index(score.argmax(), score.shape)
  side = len(before)
  wrapped = lambda value: (value + side // 2) % side - side // 2
  return wrapped(right), wrapped(down)


def test_straight_motions_go_where_their_name_says():
  directions = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
  seen = dict.fromkeys((*directions, "still"), 0)
  # Long enough that every place is background in more than half of the frames.
  for clip in _clips(_alone(frames=48, size_px=48), 0, 80):
    name = synthetic.MOTIONS[clip.motion]
    if name not in seen:
      continue
    seen[name] += 1
    pixels = clip.frames_NHW3.astype(float)
    if name == "still":
      assert np.ptp(pixels, axis=0).max() == 0
      continue
    mask_NHW = np.abs(pixels - np.median(pixels, axis=0)).sum(-1) > 60
    shifts = [_shift(mask_NHW[i], mask_NHW[i + 1]) for i in range(47)]
    right, down = np.median(shifts, axis=0)
    expected = directions[name]
    assert (np.sign(right), np.sign(down)) == expected, name
    speed = abs(right) + abs(down)
    assert 0.04 * 48 < speed < 0.1 * 48, name
  assert min(seen.values()) >= 3


def test_a_scene_of_few_kinds_has_only_these():
  """Motions of its own, numbered as they are listed; size and speed too."""
  few = _alone(
    motions=("up", "left"),
    backgrounds=("plain",),
    radius=(0.35, 0.35),
    speed=(0.25, 0.25),
    frames=5,
  )
  clips = list(_clips(few, 0, 24))
  names = synthetic.classes("motion", few.moves)
  assert names == ("up", "left")
  for clip in clips:
    name = names[synthetic.label(clip, "motion", few.moves)]
    assert name == synthetic.MOTIONS[clip.motion]
    pixels = clip.frames_NHW3.astype(int)
    axis = 0 if name == "up" else 1  # 8 of 32 pixels a frame, round the torus
    moved = np.roll(pixels[0], -8, axis)
    assert np.abs(pixels[1] - moved).max() <= 1
    assert np.abs(pixels[4] - pixels[0]).max() <= 1
    behind = pixels[0][np.ptp(pixels[0], axis=-1) < 30]  # it is not coloured
    assert len(behind) > 200 and np.unique(behind, axis=0).shape[0] < 60
  assert {c.motion for c in clips} == {3, 2}


def _path(motion: str, frames: int = 12) -> synthetic.Path:
  time_N = np.arange(frames, dtype=np.float32)
  rng = np.random.default_rng(0)
  return synthetic._path(rng, motion, (0.2, 0.2), (0.05, 0.085), time_N)


@pytest.mark.parametrize("motion,sign", [("clockwise", 1), ("anticlockwise", -1)])
def test_orbits_turn_as_seen_on_the_screen(motion, sign):
  path = _path(motion)
  dx_N, dy_N = np.diff(path.x_N), np.diff(path.y_N)
  turning_N = dx_N[:-1] * dy_N[1:] - dy_N[:-1] * dx_N[1:]
  # y points down: a positive cross product turns clockwise.
  assert (sign * turning_N > 0).all()
  speed_N = np.hypot(dx_N, dy_N)
  np.testing.assert_allclose(speed_N, speed_N[0], rtol=1e-3)


def test_spin_swing_and_pulse_change_one_thing_each():
  moves = lambda values: np.ptp(values) > 1e-3
  for motion, expected in (("spin", "angle_N"), ("pulse", "radius_N"), ("still", None)):
    path = _path(motion)
    for field in ("x_N", "y_N", "radius_N", "angle_N"):
      assert moves(getattr(path, field)) == (field == expected), (motion, field)
  swing = _path("swing", 60)
  steps = np.hypot(np.diff(swing.x_N), np.diff(swing.y_N))
  assert np.ptp(np.sign(np.diff(swing.x_N))) == 2  # it turns back
  assert np.median(steps) > 0.04


def _accuracy(features: np.ndarray, label: np.ndarray) -> float:
  """Held-out accuracy of ridge regression on random cosine features."""
  rng = np.random.default_rng(0)
  x = features - features.mean(0)
  x /= x.std(0) + 1e-9
  mix = rng.normal(0, 0.3 / np.sqrt(x.shape[1]), (x.shape[1], 800))
  x = np.concatenate([x, np.cos(x @ mix + rng.uniform(0, 7, 800))], axis=1)
  known = 2 * len(x) // 3
  target = np.eye(label.max() + 1)[label] - 1 / (label.max() + 1)
  gram = x[:known].T @ x[:known] + 100.0 * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x[:known].T @ target[:known])
  return float(np.mean((x[known:] @ weights).argmax(1) == label[known:]))


def _spectrum(frames: np.ndarray) -> np.ndarray:
  """Amplitudes of the coloured parts: the same wherever an object is."""
  coloured = np.ptp(frames, axis=-1)
  return np.abs(np.fft.rfft2(coloured)).reshape(len(frames), -1)


def test_motion_needs_several_frames_and_shape_one():
  config = _alone(frames=3, size_px=16)
  clips = list(_clips(config, 0, 3000))
  motion = np.array([clip.motion for clip in clips])
  shape = np.array([clip.shape for clip in clips])
  frames = np.stack([clip.frames_NHW3 for clip in clips]).astype(float)
  one = np.concatenate([frames[:, 2].reshape(len(clips), -1), _spectrum(frames[:, 2])], axis=1)
  change = _spectrum(frames[:, 2] - frames[:, 1])
  held_out = len(clips) // 3
  spread = lambda chance: 4 * np.sqrt(chance * (1 - chance) / held_out)
  assert _accuracy(one, motion) < 0.1 + spread(0.1)
  assert _accuracy(change, motion) > 0.1 + spread(0.1)  # it is there to be read
  assert _accuracy(_spectrum(frames[:, 2]), shape) > 0.2 + 2 * spread(0.2)


def test_codes_at_a_place_have_to_change():
  clips = _clips(_config(frames=8), 0, 60)
  frames = np.stack([clip.frames_NHW3 for clip in clips]).astype(float)
  patch = np.abs(np.diff(frames, axis=1)).reshape(60, 7, 4, 8, 4, 8, 3)
  changed = (patch.mean(axis=(3, 5, 6)) > 2).mean()
  assert 0.2 < changed < 0.8


def test_objects_and_bars_hide_what_is_behind():
  bare = _alone(frames=2)
  barred = synthetic.SyntheticConfig(**(vars(bare) | {"occluder_frac": 1.0}))
  crowded = synthetic.SyntheticConfig(**(vars(bare) | {"objects": 4}))
  hidden = 0
  for index in range(20):
    plain = synthetic.render(bare, index).frames_NHW3
    bar = synthetic.render(barred, index).frames_NHW3
    white = (bar == 245).all(axis=(0, 3))
    rows, columns = white.all(axis=1), white.all(axis=0)
    assert rows.any() != columns.any()  # one bar, straight across
    outside = ~(rows[:, None] | columns[None])
    same = (plain == bar).all(axis=(0, 3)) & outside
    assert same.sum() > 0.6 * outside.sum()
    hidden += not np.array_equal(plain, synthetic.render(crowded, index).frames_NHW3)
  assert hidden > 5


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"size_px": 4}, "size_px is 4"),
    ({"objects": 0}, "objects is 0"),
    ({"pan_frac": 1.5}, "pan_frac is 1.5"),
    ({"motions": ("hop",)}, r"motions is \('hop',\); use 'still'"),
    ({"speed": (0.2, 0.1)}, "speed is .0.2, 0.1.; give the smaller first"),
  ],
)
def test_bad_settings_are_refused_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    _config(**changes)


def test_bad_index_and_label_are_refused():
  with pytest.raises(ValueError, match="-1"):
    synthetic.render(_config(), -1)
  with pytest.raises(ValueError, match="'colour'"):
    synthetic.classes("colour", ("up",))
