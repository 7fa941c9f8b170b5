"""Detection primitives equal torchvision's (a golden of its version 0.29), and brute force."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from totojax.config import sta
from totojax.jobs.sta import inputs
from totojax.models import boxes, detection, pyramid, regions

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
        jnp.moveaxis(g["ra_feat"][int(roi[0])], 0, -1),
        roi[None, 1:],
        scale=1 / 8,
        bins=7,
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


def small(**changes):
  config = sta.Detector(
    width=16, scales=(2.0, 1.0), anchors=32, candidates=32, proposals=32, regions=16, hidden=32
  )
  sizes = dict(nouns=5, verbs=3, width=8, grid=4, size_px=64.0, still=False, maps=1)
  return detection.Detector(config, **{**sizes, **changes})


def test_losses_of_regions_are_torchvisions():
  g = golden()
  prior = np.float32([[10.0, 10.0, 50.0, 60.0]]) + np.arange(12, dtype=np.float32)[:, None]
  wanted = boxes.decode(g["fl_targets"], prior, boxes.SECOND)
  label = g["fl_labels"].astype(np.int32)
  region = detection._Region(
    wanted, label, np.zeros(12, np.int32), np.zeros(12), label > 0, np.ones(12, bool)
  )
  verb, ttc = np.zeros((12, 4), np.float32), np.full(12, 3.0, np.float32)
  out = small()._region_losses(
    g["fl_logits"], verb, g["fl_reg"].reshape(12, 6, 4), ttc, prior, region
  )
  np.testing.assert_allclose(out["noun"], g["fl_cls"], rtol=1e-5)
  np.testing.assert_allclose(out["box"], g["fl_box"], rtol=1e-3)
  # Background has a verb, its own, and no time to contact: that of objects is 3 s off.
  np.testing.assert_allclose(out["verb"], np.log(4.0), rtol=1e-5)
  np.testing.assert_allclose(out["ttc"], 2.5, rtol=1e-5)


def test_samples_have_their_shares_and_nothing_else():
  fg, bg = np.arange(40) < 10, (np.arange(40) >= 12) & (np.arange(40) < 30)
  drawn = [detection.sampled(jax.random.key(n), fg, bg, 16, 0.25) for n in range(20)]
  for place, counts in drawn:
    assert counts.all() and fg[place].sum() == 4 and bg[place].sum() == 12
    assert len({*place.tolist()}) == 16
  assert len({place for each, _ in drawn for place in each.tolist()}) == 28  # all have a chance
  place, counts = detection.sampled(
    jax.random.key(0), fg & False, bg & (np.arange(40) < 14), 16, 0.25
  )
  assert counts.sum() == 2 and {*np.asarray(place)[np.asarray(counts)].tolist()} == {12, 13}


def test_placement_is_undone_and_mirrors_the_middle():
  some = np.float32([[0, 0, 1920, 1440], [100, 200, 300, 420]])
  for mirrored in (False, True):
    place = inputs.Placement(1920, 1440, 256.0, mirrored)
    np.testing.assert_allclose(place.to_frame(place.to_picture(some)), some, rtol=1e-4, atol=1e-2)
  np.testing.assert_allclose(
    place.to_picture(some[1:]), [[216, 35.5556, 242.6667, 74.6667]], rtol=1e-4
  )


def test_what_is_certain_is_detected_and_what_is_doubtful_once():
  """Heads that are known by hand: a noun of one region, nothing of the others."""
  d = small()
  regions_K4 = np.float32([[4, 4, 20, 20], [5, 4, 21, 20], [30, 30, 60, 60], [0, 0, 0, 0]])
  noun = np.full((4, 6), -9.0, np.float32)
  noun[:, 0] = 0.0
  noun[[0, 1, 2], [2, 2, 4]] = [9.0, 8.0, 9.0]  # the first two overlap
  verb = np.zeros((4, 4), np.float32)
  verb[:, 3] = 9.0
  found = d._detected(
    noun,
    verb,
    np.zeros((4, 6, 4), np.float32),
    np.float32([0.5, 1, 2, 3]),
    regions_K4,
    np.array([True, True, True, False]),
  )
  assert found.real_BK.sum() == 2
  assert found.noun_BK[:2].tolist() == [1, 3] and found.verb_BK[:2].tolist() == [2, 2]
  np.testing.assert_allclose(found.boxes_BK4[1], regions_K4[2], rtol=1e-5)
  assert found.ttc_BK[:2].tolist() == [0.5, 2.0]
  none = d._detected(
    np.where(np.arange(6) > 0, -9.0, 0.0)[None] + 0 * noun,
    verb,
    np.zeros((4, 6, 4), np.float32),
    np.ones(4, np.float32),
    regions_K4,
    np.array([True, True, True, False]),
  )
  assert none.real_BK.sum() == 1 and none.real_BK[0] and none.score_BK[0] < d.config.least_score
