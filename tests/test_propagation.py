"""Label propagation: the references' maps, a loop in plain Python, and what must not matter."""

import dataclasses

import jax
import numpy as np
import pytest
import runs

from totojax.config.propagation import PRESETS, Propagation
from totojax.evals import joints, label_maps, parts, propagation

GOLDEN = runs.ROOT / "tests" / "golden" / "tracking"


def golden(name):
  return np.load(GOLDEN / f"{name}.npz")


def changed(preset, **keys):
  return dataclasses.replace(PRESETS[preset], **keys)


def close(found, wanted):
  np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["stc_prop_r12_k10", "stc_prop_r3_k5"])
def test_stc_is_the_golden_s(name):
  g = golden(name)
  keys = dict(radius=float(g["radius"]), top_k=int(g["topk"]), temperature=float(g["temperature"]))
  rule = changed("stc", context_frames=int(g["n_context"]), **keys)
  feats = g["feats"].transpose(1, 2, 3, 0)
  close(propagation.propagate(feats, g["pred"][0], rule, chunk=16), g["pred"])
  other = propagation.propagate(feats, g["pred"][0], changed("dino"))
  assert np.abs(other - g["pred"]).max() > 0.01  # control


@pytest.mark.parametrize("name", ["dino_prop_a", "dino_prop_b"])
def test_dino_is_the_golden_s(name):
  g = golden(name)
  rule = changed(
    "dino",
    context_frames=int(g["n_last"]),
    radius=float(g["size_mask_neighborhood"]),
    top_k=int(g["topk"]),
  )
  feats = g["feats"].transpose(1, 2, 3, 0)
  ids = np.unique(g["lab0"])
  first = (g["lab0"][..., None] == ids).astype(np.float32)
  found = propagation.propagate(feats, first, rule)[1:]
  close(found, g["pred"].transpose(0, 2, 3, 1))
  size = g["hard"].shape[1:]
  hard = [label_maps.decided(x, ids, size=size, input_px=size, rule=rule) for x in found]
  assert np.mean(np.stack(hard) != g["hard"]) < 1e-3


def test_rules_of_the_notebook_and_of_others_are_the_golden_s():
  g = golden("propagation_variants")
  for name, preset in (("rvm", "rvm"), ("stc", "stc")):
    n, temperature, k, r = g[f"{name}_params_n_T_k_r"]
    rule = changed(
      preset, context_frames=int(n), temperature=float(temperature), top_k=int(k), radius=float(r)
    )
    found = propagation.propagate(g["feats"], g["heat0"], rule)
    close(found, g[f"{name}_out_videowalkcode"])
  n, k, s = g["dino_params_n_k_s"]
  rule = changed("dino", context_frames=int(n), top_k=int(k), radius=float(s))
  close(propagation.propagate(g["feats"], g["heat0_hard"], rule), g["dino_out"])
  g = golden("propagation_n20")
  for rule, name in (
    (PRESETS["rvm"], "out_k7"),
    (changed("rvm", top_k=10), "out_k10"),
    (PRESETS["stc"], "out_stc_k10_T007_r12"),
  ):
    close(propagation.propagate(g["feats"], g["heat0"], rule), g[name])


def plain(feats, first, rule):
  """The rule as it is written, place by place."""
  t, h, w, _ = feats.shape
  feats = feats / np.linalg.norm(feats, axis=-1, keepdims=True)
  labels = [first]
  for now in range(1, t):
    others = [now - n for n in range(rule.context_frames, 0, -1)]
    others = [max(o, 0) for o in others] if rule.fill else [o for o in others if o > 0]
    out = np.zeros_like(first)
    for y in range(h):
      for x in range(w):
        near = []
        for slot, frame in enumerate([0, *others]):
          for v in range(h):
            for u in range(w):
              square = max(abs(v - y), abs(u - x)) <= rule.radius
              circle = (v - y) ** 2 + (u - x) ** 2 < rule.radius**2
              ok = square if rule.window == "square" else circle
              if ok or not rule.radius or (slot == 0 and rule.first_everywhere):
                near.append((feats[now, y, x] @ feats[frame, v, u], labels[frame][v, u]))
        near.sort(key=lambda pair: -pair[0])
        kept = near[: rule.top_k]
        weights = np.exp(np.array([a for a, _ in kept]) / rule.temperature)
        out[y, x] = (weights / weights.sum()) @ np.stack([b for _, b in kept])
    labels.append(out)
  return np.stack(labels)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_loop_over_places_gives_the_same(preset):
  rng = np.random.default_rng(1)
  feats = rng.normal(size=(5, 4, 5, 6)).astype(np.float32)
  first = rng.random((4, 5, 3)).astype(np.float32)
  for keys in (dict(context_frames=2, radius=2.0, top_k=4), dict(context_frames=0, radius=0.0)):
    rule = changed(preset, **keys)
    close(propagation.propagate(feats, first, rule, chunk=7), plain(feats, first, rule))


def test_largest_is_top_k_with_ties():
  rng = np.random.default_rng(0)
  for values in (rng.normal(size=(9, 1500)), rng.integers(0, 9, (9, 1511))):
    values = values.astype(np.float32)
    for k in (1, 5, 10):
      for a, b in zip(propagation.largest(values, k), jax.lax.top_k(values, k)):
        np.testing.assert_array_equal(a, b)


def test_chunks_change_nothing():
  rng = np.random.default_rng(2)
  feats = rng.normal(size=(3, 6, 7, 4)).astype(np.float32)
  first = rng.random((6, 7, 2)).astype(np.float32)
  found = [propagation.propagate(feats, first, PRESETS["stc"], chunk=c) for c in (5, 42, 1000)]
  for other in found[1:]:
    close(other, found[0])


def test_parts_end_to_end_are_the_golden_s():
  g = golden("vip_end_to_end")
  n, temperature, k, r = g["params_n_T_k_r"]
  rule = Propagation(
    **{
      **vars(PRESETS["rvm"]),
      "context_frames": int(n),
      "temperature": float(temperature),
      "top_k": int(k),
      "radius": float(r),
    }
  )
  ids, mask, input_px = np.unique(g["mask"][0]), g["mask"], tuple(g["input_hw"])
  np.testing.assert_array_equal(ids, g["label_set"])
  args = dict(grid=tuple(g["grid_hw"]), input_px=input_px)
  first = label_maps.first(mask[0], ids, how="input", **args)
  close(first, g["heat0"])
  maps = propagation.propagate(g["feats"], first, rule)
  close(maps, g["maps"])
  size = mask.shape[1:]
  found = np.stack(
    [label_maps.decided(m, ids, size=size, input_px=input_px, rule=rule) for m in g["maps"]]
  )
  np.testing.assert_array_equal(found, g["pred"])
  counts = parts.histogram(mask, found)
  np.testing.assert_array_equal(counts, g["hist"])
  assert parts.miou(counts) == pytest.approx(float(g["miou"]), rel=1e-9)


def test_joints_end_to_end_are_the_golden_s():
  g = golden("jhmdb_end_to_end")
  (height, width), (h, w) = g["image_hw"], g["grid_hw"]
  scale = np.array([width / w, height / h])
  videos = []
  for i in range(2):
    truth = g[f"pos_img_{i}"] - 1
    first = joints.heat_maps(truth[..., 0], size_px=(height, width), grid=(h, w))
    close(first, g[f"heat0_{i}"])
    maps = propagation.propagate(g[f"feats_{i}"], first, PRESETS["rvm"])
    close(maps, g[f"maps_{i}"])
    found = np.stack([joints.coordinates(m) for m in g[f"maps_{i}"]])  # [T, 2, J]
    seen = g[f"visible_{i}"].astype(bool)
    np.testing.assert_array_equal(found[:, 0] >= 0, seen)
    pixels = found * scale[:, None]
    sure = g[f"tie_free_{i}"] & seen
    np.testing.assert_allclose(
      np.moveaxis(pixels, 1, 2)[sure], g[f"pred_pixel_{i}"][sure], atol=2e-3
    )
    # A joint that hangs on the order of equal values is as one not found, in the box too.
    place = np.moveaxis(np.where(sure[:, None], pixels, -1), 0, -1)
    videos.append(joints.distances(place, truth))
  shares = joints.pck(sum(joints.counted(one, g["thresholds"]) for one in videos))
  np.testing.assert_allclose(100 * shares.mean(1), g["pck_mean_tie_free_only"], rtol=1e-6)
