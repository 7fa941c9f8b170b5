"""Views of images: windows, RandAugment and erasing, by brute force."""

import collections
import itertools

import classed
import numpy as np
from PIL import Image
import pytest

from totojax.data.pixels import augment, randaugment, views
from totojax.data.sources import folder
from totojax.data.stream import labelled, rows

BICUBIC = Image.Resampling.BICUBIC


def config(**changes):
  return views.ViewConfig(
    **{
      **dict(
        least_area=0.08,
        widest=4 / 3,
        flip=0.5,
        resample="bicubic",
        operations=0,
        magnitude=9.0,
        magnitude_std=0.5,
        erase=0.0,
        center_frac=0.875,
      ),
      **changes,
    }
  )


def test_windows_have_uniform_areas_and_even_shapes():
  rng = np.random.default_rng(0)
  found = [views.random_window((300, 400), config(least_area=0.1), rng=rng) for _ in range(2000)]
  top, left, h, w = np.array(found).T
  assert (top >= 0).all() and (top + h <= 300).all()
  assert (left >= 0).all() and (left + w <= 400).all()
  ratio = np.log(w / h)
  assert abs(ratio).max() < np.log(4 / 3) + 0.05
  area = h * w / (300 * 400)
  assert area.min() > 0.09
  # Areas that fit in whatever shape are uniform; the largest do not always fit.
  small = area[area < 0.5]
  assert abs(np.mean(small) - 0.3) < 0.02
  assert abs(ratio.mean()) < 0.05 and left.max() > 250 > 10 > left.min()


def test_a_window_that_never_fits_is_the_largest_central_one():
  rng = np.random.default_rng(0)
  whole = config(least_area=1.0)
  assert views.random_window((30, 300), whole, rng=rng) == (0, 130, 30, 40)
  assert views.random_window((300, 30), whole, rng=rng) == (130, 0, 40, 30)


def noise(seed=0, size=(24, 36)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3)).astype(np.uint8)


def operation(name, strength, sign=1):
  image = Image.fromarray(noise())
  found = randaugment.OPERATIONS[name](image, strength, sign, BICUBIC)
  return np.asarray(found).astype(int)


def test_operations_on_colours_are_what_they_say():
  x = noise().astype(int)
  np.testing.assert_array_equal(operation("invert", 0.9), 255 - x)
  np.testing.assert_array_equal(operation("solarize", 0.9), np.where(x < 256 - 230, x, 255 - x))
  np.testing.assert_array_equal(operation("solarize_add", 0.9), np.where(x < 128, x + 99, x))
  np.testing.assert_array_equal(operation("posterize", 0.5), x & 0b11000000)
  np.testing.assert_array_equal(operation("posterize", 1.0), 0 * x)
  np.testing.assert_allclose(operation("brightness", 0.5), np.minimum(x * 1.45, 255), atol=1)
  np.testing.assert_allclose(operation("brightness", 0.5, -1), x * 0.55, atol=1)
  grey = x @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(operation("color", 1.0, -1), 0.1 * x + 0.9 * grey[..., None], atol=2)
  contrast = operation("contrast", 0.5, -1)
  np.testing.assert_allclose(contrast, 0.55 * x + 0.45 * round(grey.mean()), atol=2)
  low, high = x.min((0, 1)), x.max((0, 1))
  np.testing.assert_allclose(
    operation("auto_contrast", 0.9), (x - low) * 255 / (high - low), atol=1
  )
  dark = (noise(size=(200, 200)).astype(float) ** 2 / 255).astype(np.uint8)
  flat = randaugment.OPERATIONS["equalize"](Image.fromarray(dark), 0.9, 1, BICUBIC)
  levels = np.percentile(np.asarray(flat), [25, 50, 75])
  assert abs(levels - [64, 128, 191]).max() < 5 and np.median(dark) < 80
  # Whatever the strength is, there is some left.
  assert operation("sharpness", 0.9).std() > operation("sharpness", 0.9, -1).std()


def test_operations_that_move_pixels_do_so_and_fill_with_grey():
  x, fill = noise().astype(int), np.array(randaugment.FILL)
  moved = operation("translate_x", 0.5, 1)  # 0.225 of 36: 8.1 pixels
  np.testing.assert_allclose(moved[:, 20], x[:, 28], atol=40)
  np.testing.assert_array_equal(moved[:, -7:] - fill, 0)
  assert abs(moved[:, 20] - x[:, 20]).mean() > 50
  down = operation("translate_y", 1.0, -1)  # 0.45 of 24: 10.8 pixels
  np.testing.assert_array_equal(down[:10] - fill, 0)
  turned = operation("rotate", 1.0, 1)
  np.testing.assert_array_equal(turned[0, 0], fill)
  exact = Image.fromarray(noise()).rotate(30, BICUBIC, fillcolor=tuple(fill))
  np.testing.assert_array_equal(turned, np.asarray(exact))
  # Sheared: a row's shift grows with its number.
  wide = np.zeros((20, 60, 3), np.uint8)
  wide[:, 30] = 255
  for name, image in (("shear_x", wide), ("shear_y", wide.transpose(1, 0, 2))):
    image = Image.fromarray(np.ascontiguousarray(image))
    got = np.asarray(randaugment.OPERATIONS[name](image, 1.0, 1, BICUBIC)).astype(int)
    got = got[..., 0] if name == "shear_x" else got[..., 0].T
    peak = got[:, 5:].argmax(1) + 5
    np.testing.assert_allclose(30 - peak, 0.3 * np.arange(20), atol=1)


def test_half_of_the_operations_are_applied_and_all_are_drawn(monkeypatch):
  seen = collections.Counter()

  def spy(name):
    def change(image, strength, sign, resample):
      seen[name, sign] += 1
      strengths.append(strength)
      return image

    return change

  strengths = []
  monkeypatch.setattr(randaugment, "OPERATIONS", {n: spy(n) for n in randaugment.OPERATIONS})
  rng = np.random.default_rng(0)
  image = Image.fromarray(noise())
  for _ in range(3000):
    randaugment.apply(image, magnitude=9.0, std=0.5, resample=BICUBIC, rng=rng)
  assert abs(sum(seen.values()) / 3000 - 0.5) < 0.03
  assert len(seen) == 30 and min(seen.values()) > 25
  assert abs(np.mean(strengths) - 0.9) < 0.01 and max(strengths) <= 1.0
  assert abs(np.std(strengths) - 0.05) < 0.01


def test_erased_is_a_rectangle_of_noise():
  rng = np.random.default_rng(0)
  flat = np.full((40, 60, 3), 7, np.uint8)
  shares, inside = [], []
  for _ in range(300):
    out = views.erased(flat, rng=rng)
    where = (out != 7).any(-1)
    rows_, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    box = out[rows_[0] : rows_[-1] + 1, columns[0] : columns[-1] + 1]
    assert (box != 7).any(-1).mean() > 0.99  # all of it
    shares.append(where.mean())
    inside.append(box.reshape(-1, 3))
  assert 0.015 < min(shares) and max(shares) < 0.36
  assert abs(np.mean(shares) - (0.02 + 1 / 3) / 2) < 0.02
  pixels = np.concatenate(inside) / 255
  np.testing.assert_allclose(pixels.mean(0), views.MEAN, atol=0.02)
  np.testing.assert_allclose(pixels.std(0), views.STD, atol=0.02)
  assert (flat == 7).all()  # nothing is changed in place


@pytest.fixture(name="listing", scope="module")
def _listing(tmp_path_factory):
  root = classed.write(tmp_path_factory.mktemp("views"), each=3)
  return folder.list_items(root, "", kind="image", class_folders=True)


def test_rows_follow_from_seed_record_and_epoch(listing):
  read = views.ReadViews(listing.items, 16, config(operations=2, erase=0.5), 0)
  row = lambda record, epoch: rows.Row(0, (rows.Draw(record, epoch),))
  plan = [row(0, 0), row(0, 1), row(1, 0), row(0, None), rows.Row(0, ())]
  found = read(plan)
  frames = found["frames"]
  assert frames.shape == (5, 1, 16, 16, 3) and frames.dtype == np.uint8
  assert set(found["start"]) == {3}
  # Alone or among others, again or not: the same.
  for b in range(4):
    np.testing.assert_array_equal(read([plan[b]])["frames"][0], frames[b])
  for a, b in itertools.combinations(range(4), 2):
    assert (frames[a] != frames[b]).any(), (a, b)
  assert not frames[4].any()
  image = np.asarray(Image.open(listing.items[0].path).convert("RGB"))
  small = augment.Resize(18, "bicubic")(image)
  np.testing.assert_array_equal(frames[3, 0], augment.center_crop(small[None], 16)[0])
  other = views.ReadViews(listing.items, 16, read.config, 1)([plan[0]])
  assert (other["frames"][0] != frames[0]).any()


def test_a_file_that_is_damaged_is_named(listing, tmp_path):
  bad = tmp_path / "bad.png"
  bad.write_bytes(b"no image")
  read = views.ReadViews([folder.items.Item("c/bad.png", bad, label=0)], 16, config(), 0)
  with pytest.raises(ValueError, match="bad.png .c/bad.png. cannot be read"):
    read([rows.Row(0, (rows.Draw(0, None),))])
  images = [folder.items.Item("x.png", "x.png")]
  with pytest.raises(ValueError, match="1 of 1 records of train .image files. have no class"):
    views.records(folder.items.listing("image", images, where="here"), "train")
  whole = views.records(listing, "train")
  rest, held = labelled.split(whole, held_frac=0.34, seed=0)
  assert np.bincount(held.labels[held.records]).tolist() == [1, 1, 1]
  assert len(rest.records) == 6


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(least_area=1.5), "view.least_area is 1.5; it must be at least 0"),
    (dict(magnitude=11.0), "view.magnitude is 11.0"),
    (dict(resample="area"), "view.resample is 'area'; use 'bicubic'"),
  ],
)
def test_views_that_cannot_be_are_refused(changes, told):
  with pytest.raises(ValueError, match=told):
    config(**changes)
