"""J and F of masks, PCK of joints, mIoU of parts: the references' numbers, and brute force."""

import math

import numpy as np
import pytest
import runs
from scipy import ndimage

from totojax.evals import joints, masks, parts, resampled

GOLDEN = runs.ROOT / "tests" / "golden" / "tracking"


def golden(name):
  return np.load(GOLDEN / f"{name}.npz")


def packed(golden, name):
  shape = golden["shape"]
  bits = np.unpackbits(golden[name], axis=-1)
  return bits[..., : shape[-1]].reshape(shape).astype(bool)


def test_davis_is_the_golden_s():
  g = golden("davis_jf")
  truth, found = packed(g, "gt"), packed(g, "pred")
  for name, of in (("J", masks.jaccard), ("F", masks.boundary)):
    values = np.array([of(a, b) for a, b in zip(truth, found)])
    np.testing.assert_allclose(values, g[name], rtol=1e-12)
    stats = masks.statistics(values)
    np.testing.assert_allclose(list(stats.values()), g[f"{name}_stats"], rtol=1e-12)
  assert abs(masks.jaccard(truth[3], found[4]) - g["J"][3]) > 1e-3  # control: another frame


def dilated(edge, radius):
  y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
  return ndimage.binary_dilation(edge, x**2 + y**2 <= radius**2)


def test_f_is_that_of_dilated_contours():
  rng = np.random.default_rng(0)
  for size in ((40, 70), (300, 200)):
    a, b = (ndimage.gaussian_filter(rng.normal(size=size), 6) > 0.01 for _ in range(2))
    radius = math.ceil(0.008 * math.hypot(*size))
    edges = [masks.contour(x) for x in (a, b)]
    precision = (edges[1] & dilated(edges[0], radius)).sum() / edges[1].sum()
    recall = (edges[0] & dilated(edges[1], radius)).sum() / edges[0].sum()
    wanted = 2 * precision * recall / (precision + recall)
    assert masks.boundary(a, b) == pytest.approx(wanted, rel=1e-12)
  empty = np.zeros((40, 70), bool)
  some = empty.copy()
  some[5:9, 5:9] = True
  assert masks.boundary(empty, empty) == 1 and masks.jaccard(empty, empty) == 1
  assert masks.boundary(some, empty) == 0 == masks.boundary(empty, some)


def test_decay_of_long_sequences_is_a_number():
  """Bins of the reference are 8-bit, which goes wrong from 256 frames on."""
  values = np.linspace(1, 0, 400)
  stats = masks.statistics(values)
  assert stats["decay"] == pytest.approx(values[:100].mean() - values[300:].mean(), rel=1e-2)
  assert stats["recall"] == 0.5 and all(
    math.isnan(x) for x in masks.statistics(values[:0]).values()
  )


def test_a_table_counts_objects_and_an_interval_draws_sequences():
  a, b, c = (np.full((2, 8), v) for v in (0.2, 0.6, 1.0))
  found = masks.summary([a, b, c])
  assert found["J&F-Mean"] == pytest.approx(0.6) and found["J-Recall"] == pytest.approx(2 / 3)
  sums, counts = np.array([0.8, 1.0]), np.array([2, 1])
  low, high = resampled.interval(lambda n: n @ sums / (n @ counts), 2, seed=0)
  assert low == pytest.approx(0.4) and high == pytest.approx(1.0)
  assert resampled.interval(lambda n: 0.5, 3, seed=0) == (0.5, 0.5)
  assert resampled.interval(lambda n: 0.5, 1, seed=0) == (None, None)


def test_masks_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="must agree"):
    masks.scores(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), 1)
  with pytest.raises(ValueError, match="id 2, and the sequence 1 objects"):
    masks.scores(np.zeros((4, 4), np.uint8), np.full((4, 4), 2, np.uint8), 1)


def test_heat_maps_and_coordinates_are_the_golden_s():
  g = golden("jhmdb_heatmap")
  for i in range(2):
    maps = joints.heat_maps(
      g["pos_img_1based"] - 1 if g["pos_img_1based"].shape[0] == 2 else g["pos_img_1based"].T - 1,
      size_px=tuple(g["image_hw"]),
      grid=tuple(g[f"grid_hw_{i}"]),
    )
    np.testing.assert_allclose(maps, g[f"heat_{i}"], atol=1e-5)
  g = golden("jhmdb_readout")
  h, w = g["maps"].shape[1:3]
  for cells, name in ((5, "top5_cropmae"), (3, "top3_videowalk")):
    found = np.stack([joints.coordinates(m, cells=cells) for m in g["maps"]], -1)
    np.testing.assert_allclose(found, g[f"coords_grid_{name}"], atol=1e-4)
  found = np.stack([joints.coordinates(m) for m in g["maps"]])  # [T, 2, J]
  seen = g["visible_rvm"].astype(bool)
  np.testing.assert_array_equal(found[:, 0] >= 0, seen)
  height, width = g["image_hw"]
  pixels = np.stack([found[:, 0] / w * width, found[:, 1] / h * height], -1)
  np.testing.assert_allclose(pixels[seen], g["coords_pixel_top5_rvm"][seen], atol=1e-3)


def test_pck_is_the_golden_s():
  g = golden("jhmdb_pck")
  videos = []
  for i in range(2):
    height, width = g["image_hw"][i]
    found, truth = g[f"pred_grid_{i}"].astype(np.float64), g[f"pos_img_{i}"] - 1
    seen = found[0] >= 0
    np.testing.assert_array_equal(seen, g[f"visible_{i}"].astype(bool))
    np.testing.assert_allclose(joints.box_px(truth, seen), g[f"box_{i}"], rtol=1e-9)
    scale = np.array([width, height]).reshape(2, 1, 1) / g["feat_res"]
    videos.append(joints.distances(np.where(seen, found * scale, -1), truth))
  counts = sum(joints.counted(one, g["thresholds"]) for one in videos)
  shares = joints.pck(counts)
  np.testing.assert_allclose(100 * shares, g["pck_per_joint"], rtol=1e-9)
  np.testing.assert_allclose(100 * shares.mean(1), g["pck_mean"], rtol=1e-9)
  np.testing.assert_array_equal(counts[0], g["counts_per_joint"])
  pooled = np.concatenate([d for video in zip(*videos) for d in video])
  flat = [100 * np.mean(pooled <= a) for a in g["thresholds"]]
  np.testing.assert_allclose(flat, g["pck_pooled_not_the_metric"], rtol=1e-9)
  assert abs(flat[1] - 100 * shares[1].mean()) > 0.1  # control: pooled joints are another number


def test_miou_is_the_golden_s():
  g = golden("vip_miou")
  counts = sum(parts.histogram(g[f"gt_{i}"], g[f"pred_{i}"]) for i in range(2))
  np.testing.assert_array_equal(counts, g["hist"])
  np.testing.assert_allclose(parts.ious(counts), g["iou_per_class"], rtol=1e-9)
  assert parts.miou(counts) == pytest.approx(float(g["miou"]), rel=1e-9)
  later = sum(parts.histogram(g[f"gt_{i}"][1:], g[f"pred_{i}"][1:]) for i in range(2))
  wanted = float(g["miou_without_first_frame_not_the_metric"])
  assert parts.miou(later) == pytest.approx(wanted, rel=1e-9)
  with pytest.raises(ValueError, match="up to 20"):
    parts.histogram(np.zeros((2, 2), np.uint8), np.full((2, 2), 20, np.uint8))
