"""Resizing and cropping, against pixels that torchvision made."""

import numpy as np
import pytest

from totojax.data.pixels import augment


@pytest.fixture(name="golden", scope="module")
def _golden(request):
  return np.load(request.path.parent / "golden" / "image_preproc.npz")


@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear"])
def test_resize_and_center_crop_equal_torchvision(resample, golden):
  image = golden["im"]
  small = augment.Resize(64, resample)(image)
  assert small.shape == (64, 94, 3)
  got = augment.center_crop(small[None], 64)[0]
  np.testing.assert_array_equal(got, golden[f"resize64_{resample}"])


def test_filters_differ(golden):
  got = augment.Resize(64, "bilinear")(golden["im"])
  got = augment.center_crop(got[None], 64)[0]
  assert (got != golden["resize64_bicubic"]).any()


def test_random_crop_is_uniform_and_the_same_in_all_frames():
  y, x = np.mgrid[:4, :5]
  frame = np.stack([y, x, y * 0], -1).astype(np.uint8)
  frames = np.stack([frame, frame])
  rng = np.random.default_rng(0)
  corners = []
  for _ in range(600):
    crop = augment.random_crop(frames, 3, rng=rng)
    np.testing.assert_array_equal(crop[0], crop[1])
    corners.append(tuple(crop[0, 0, 0, :2].tolist()))
  found, counts = np.unique(corners, axis=0, return_counts=True)
  assert len(found) == 2 * 3 and counts.min() > 60
  with pytest.raises(ValueError, match="hold no crop of 5"):
    augment.random_crop(frames, 5, rng=rng)
