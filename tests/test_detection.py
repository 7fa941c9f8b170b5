"""Detection primitives equal torchvision's (a golden of its version 0.29), and brute force."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax.models import boxes, pyramid, regions

GOLDEN = pathlib.Path(__file__).parent / "golden" / "torchvision_detection.npz"


@functools.cache
def golden():
  with np.load(GOLDEN) as arrays:
    return {name: arrays[name] for name in arrays.files}


def kept(stay_K, scores_K):
  """Numbers of those that stay, best first, as torchvision gives them."""
  order = np.argsort(-np.asarray(scores_K), kind="stable")
  return order[np.asarray(stay_K)[order]]


def test_nms_and_batched_nms_are_torchvisions():
  g = golden()
  stay = boxes.nms(g["boxes"], g["scores"], 0.5)
  np.testing.assert_array_equal(kept(stay, g["scores"]), g["nms_05"])
  labelled = boxes.nms(g["boxes"], g["scores"], 0.5, labels_K=g["labels"])
  np.testing.assert_array_equal(kept(labelled, g["scores"]), g["batched_nms_05"])
  assert not np.array_equal(stay, labelled)  # labels matter in this golden
  padded = boxes.nms(
    np.concatenate([g["boxes"], g["boxes"]]),
    np.concatenate([g["scores"], g["scores"] + 1.0]),
    0.5,
    valid_K=np.arange(120) < 60,
  )
  np.testing.assert_array_equal(padded, np.concatenate([stay, np.zeros(60, bool)]))


@pytest.mark.parametrize("spread", [4.0, 40.0])
def test_nms_is_the_greedy_loop_on_crowds_and_ties(spread):
  rng = np.random.default_rng(0)
  low = rng.uniform(0, spread, (200, 2))
  many = np.concatenate([low, low + rng.uniform(1, 30, (200, 2))], 1).astype(np.float32)
  scores = rng.integers(0, 20, 200).astype(np.float32)  # with ties
  overlap = np.asarray(boxes.iou(many, many))
  stay = np.ones(200, bool)
  order = np.argsort(-scores, kind="stable")
  for place, one in enumerate(order):
    if stay[one]:
      later = order[place + 1 :]
      stay[later[overlap[one, later] > 0.3]] = False
  np.testing.assert_array_equal(jax.jit(boxes.nms)(many, scores, 0.3), stay)


def test_overlap_coding_and_anchors_are_torchvisions():
  g = golden()
  np.testing.assert_allclose(boxes.iou(g["boxes"][:10], g["boxes"][10:25]), g["iou"], rtol=1e-5)
  coded = boxes.encode(g["bc_gt"], g["bc_prop"], boxes.SECOND)
  np.testing.assert_allclose(coded, g["bc_enc"], rtol=1e-4, atol=1e-4)
  decode = functools.partial(boxes.decode, anchors_K4=g["bc_prop"], weights=boxes.SECOND)
  np.testing.assert_allclose(decode(g["bc_enc"]), g["bc_dec"], rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(decode(20.0 * g["bc_enc"]), g["bc_dec_big"], rtol=1e-4, atol=1e-2)
  made = [
    boxes.anchors(32.0 * 2**n, (0.5, 1.0, 2.0), grid=(64 >> n, 96 >> n), stride=(4 << n, 4 << n))
    for n in range(5)
  ]
  whole = np.concatenate(made)
  assert len(whole) == g["anchors_n"]
  np.testing.assert_array_equal(whole[:12], g["anchors_head"])
  np.testing.assert_array_equal(whole[-6:], g["anchors_tail"])
  np.testing.assert_allclose(whole.sum(0, dtype=np.float64), g["anchors_sum"], rtol=1e-6)


def test_matches_are_torchvisions_and_nobodys_of_padding():
  g = golden()
  overlap, real = g["match_q"], np.ones(10, bool)
  rescued = boxes.match(overlap, real, high=0.7, low=0.3, rescue=True)
  np.testing.assert_array_equal(rescued, g["match_rpn"])
  np.testing.assert_array_equal(boxes.match(overlap, real, high=0.5, low=0.5), g["match_roi"])
  padded = np.concatenate([overlap, np.full((3, 10), 0.9, np.float32)])
  real = np.arange(13) < 10
  again = boxes.match(padded, real, high=0.7, low=0.3, rescue=True)
  np.testing.assert_array_equal(again, g["match_rpn"])


def test_roi_align_is_torchvisions():
  g = golden()
  for samples in (0, 2):
    out = [
      regions.roi_align(
        jnp.moveaxis(g["ra_feat"][int(roi[0])], 0, -1), roi[None, 1:], scale=1 / 8, bins=7,
        samples=samples,
      )[0]
      for roi in g["ra_rois"]
    ]
    out = np.moveaxis(np.stack(out), -1, 1)
    np.testing.assert_allclose(out, g[f"roialign_sr{samples}"], rtol=1e-4, atol=1e-5)
  assert not np.allclose(g["roialign_sr0"], g["roialign_sr2"], atol=1e-2)


def test_regions_of_a_pyramid_are_torchvisions():
  g = golden()
  level = regions.levels(g["ms_boxes"], 4, first=2)
  assert len({*np.asarray(level).tolist()}) > 1
  maps = [jnp.moveaxis(g[f"ms_f{n}"][0], 0, -1) for n in range(4)]
  out = regions.pooled(maps, g["ms_boxes"], level, scales=[0.25 / 2**n for n in range(4)], bins=7)
  np.testing.assert_allclose(np.moveaxis(out, -1, 1), g["ms_out"], rtol=1e-4, atol=1e-5)


def test_the_feature_pyramid_is_torchvisions():
  g, params = golden(), {}
  for n in range(2):
    inner, layer = (f"fpn_w_{name}_blocks.{n}.0." for name in ("inner", "layer"))
    params[f"inner_{n}"] = g[inner + "weight"][:, :, 0, 0].T
    params[f"inner_{n}_bias"] = g[inner + "bias"]
    params[f"layer_{n}"] = np.transpose(g[layer + "weight"], (2, 3, 1, 0))
    params[f"layer_{n}_bias"] = g[layer + "bias"]
  maps = [np.moveaxis(g[f"fpn_in_{n}"], 1, -1) for n in range(2)]
  out = pyramid.fpn(params, maps, last=True)
  for name, x in zip(("0", "1", "pool"), out, strict=True):
    np.testing.assert_allclose(np.moveaxis(x, -1, 1), g[f"fpn_out_{name}"], rtol=1e-4, atol=1e-5)
