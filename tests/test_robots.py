"""Policies on frozen features: heads, cloning, DAgger; against closed forms and a world by hand."""

import csv
import json

from etils import epath
import jax
import numpy as np
import pytest
import toy_worlds

from totojax.config import policies as config_lib, roots
from totojax.data.trajectories import lerobot
from totojax.jobs.robots import (
  clone,
  curves,
  dagger,
  record,
  rollouts,
  rows as rows_lib,
  server,
  training,
)
from totojax.models import policy as policy_lib
from totojax.tasks import imitate
from totojax.trained import policies, views

LINEAR = config_lib.PolicyHead(embed=0, norm=False, hidden=(), last_gain=0.01)


def steps_of(rng, count, weights, noise=0.0):
  """Steps whose actions are linear in features and in what is felt."""
  features, felt = (rng.normal(size=(count, n)).astype(np.float32) for n in (3, 2))
  inputs = np.concatenate([features, felt, np.ones((count, 1))], axis=1)
  action = inputs @ weights + noise * rng.normal(size=(count, weights.shape[1]))
  return training.Steps(features, felt, action.astype(np.float32)), inputs


def test_the_head_is_mvps_in_numpy():
  model = policy_lib.Policy(config_lib.PolicyHead(), 5)
  task = imitate.Imitate(model, width=7, felt=4)
  params = jax.device_get(jax.jit(task.init)(jax.random.key(0)).params)
  assert sum(p.size for p in params.values()) == (
    2 * 7 + 7 * 128 + 128 + 4 * 128 + 128 + 256 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64
  ) + (64 * 5 + 5)
  # Orthogonal: singular values are the gain.
  for name, gain in (("hidden_0_kernel", 2**0.5), ("embed_felt_kernel", 2**0.5)):
    np.testing.assert_allclose(np.linalg.svd(params[name])[1], gain, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.svd(params["action_kernel"])[1], 0.01, rtol=1e-5)
  rng = np.random.default_rng(0)
  features, felt = rng.normal(size=(3, 7)), rng.normal(size=(3, 4))
  params = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in params.items()}
  normed = (features - features.mean(1, keepdims=True)) / np.sqrt(
    features.var(1, keepdims=True) + 1e-6
  )
  linear = lambda x, name: x @ params[f"{name}_kernel"] + params[f"{name}_bias"]
  x = np.concatenate(
    [
      linear(normed * params["norm_scale"] + params["norm_bias"], "embed_features"),
      linear(felt, "embed_felt"),
    ],
    axis=1,
  )
  for number in range(3):
    x = linear(x, f"hidden_{number}")
    x = 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))
  found = jax.jit(model.apply)({"params": params}, features, felt)
  np.testing.assert_allclose(found, linear(x, "action"), rtol=1e-4, atol=1e-5)


def test_a_linear_policy_comes_to_the_closed_form():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(6, 2))
  steps, inputs = steps_of(rng, 300, weights, noise=0.3)
  least = np.linalg.lstsq(inputs, steps.action_NA, rcond=None)[0]  # ridge of no decay
  settings = config_lib.Imitation(
    epochs=200.0, warmup_epochs=10.0, batch_rows=100, lr=0.02, weight_decay=0.0
  )
  policy = training.train(steps, head=LINEAR, settings=settings, plain=True, seed=0)
  found = policy.act(steps.features_ND, steps.felt_NP)
  assert np.abs(least - weights).max() > 0.01  # the two differ by the noise
  np.testing.assert_allclose(found, inputs @ least, atol=0.01)
  again = training.train(steps, head=LINEAR, settings=settings, plain=True, seed=0)
  np.testing.assert_array_equal(again.act(steps.features_ND, steps.felt_NP), found)


def config(**changes):
  c = roots.config("dagger").to_dict()
  c |= {"baselines": ("state", "blind", "pixels"), "seeds": 2, "iterations": 2, "episodes": 4}
  c |= {"trials": 8, "pixels_side": 2}
  c["head"] |= {"embed": 0, "norm": False, "hidden": (), "standardise": True}
  c["train"] |= {"epochs": 60.0, "lr": 0.02, "weight_decay": 0.0, "batch_rows": 32}
  c["output"] |= {"episodes": 1}
  return roots.read(c | changes)


def correct(c, out, interrupted=lambda done: False, worlds=None):
  rows = rows_lib.of(c)
  worlds = worlds or toy_worlds.Linear()
  return dagger.corrected(c, rows, worlds, epath.Path(out), interrupted)


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
  """A run that was never stopped, and one that was twice."""
  out, c = tmp_path_factory.mktemp("dagger"), config()
  assert correct(c, out / "whole")
  for stop in (1, 5):
    assert not correct(c, out / "stopped", lambda done, stop=stop: done == stop)
  assert correct(c, out / "stopped")
  return out


def test_a_run_that_is_stopped_goes_on_to_the_same_curve(corrected):
  whole, stopped = (corrected / name for name in ("whole", "stopped"))
  for name in ("curve.csv", "metrics.json"):
    assert (whole / name).read_bytes() == (stopped / name).read_bytes()
  assert not (whole / "parts").exists()


def test_dagger_on_a_linear_world_comes_to_the_expert(corrected):
  policy, facts = policies.read(epath.Path(corrected / "whole/policies/state/0"))
  x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
  felt = np.ones((20, 1), np.float32)
  np.testing.assert_allclose(policy.act(x, felt), -x @ toy_worlds.GAIN.T, atol=0.02)
  assert (facts.row, facts.felt, facts.width) == ("state", 1, 2)
  metrics = json.loads((corrected / "whole/metrics.json").read_text())
  rows = {row["row"]: row for row in metrics["rows"]}
  assert metrics["expert"]["successes"] == 8
  assert rows["state"]["last"]["mean"] == rows["pixels"]["last"]["mean"] == 1.0
  assert rows["blind"]["last"]["mean"] == 0.0  # the negative control
  assert rows["blind"]["steps_to_half"] == [None, None]
  with open(corrected / "whole/curve.csv") as file:
    table = list(csv.DictReader(file))
  assert len(table) == 3 * 2 * 2 and {row["n_ep"] for row in table} == {"8"}
  page = (corrected / "whole/report.html").read_text()
  assert "Success over steps" in page and "Not shown" not in page
  assert "data:image/webp" in page


def test_areas_and_steps_to_half_by_hand():
  curve = [curves.Point(100, 0.2, 10), curves.Point(200, 0.8, 10), curves.Point(400, 1.0, 10)]
  assert curves.steps_to(curve) == pytest.approx(150)
  assert curves.steps_to(curve[:1]) is None
  assert curves.area(curve, 200) == pytest.approx((10 + 50) / 200)
  assert curves.area(curve, 300) == pytest.approx((10 + 50 + 85) / 300)
  # Student's t of three: 4.303 standard errors.
  found = curves.interval([0.4, 0.5, 0.6])
  assert found["low"] == pytest.approx(0.5 - 4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_an_episode_does_not_depend_on_those_beside_it():
  nothing = lambda seen: np.zeros((4, 0), np.float32)  # noqa: E731
  world = toy_worlds.Linear()
  options = {"beta": 0.5, "noise": 0.1, "drawn": True}
  act = lambda features, felt: np.full((len(felt), 2), 0.1, np.float32)  # noqa: E731
  all_ = [*rollouts.roll(world, [3, 5, 7, 9, 11], nothing, act, **options)]
  alone = [*rollouts.roll(world, [11], nothing, act, **options)]
  np.testing.assert_array_equal(all_[4].done_NA, alone[0].done_NA)
  np.testing.assert_array_equal(all_[4].steps.action_NA, alone[0].steps.action_NA)
  assert not np.array_equal(all_[0].done_NA, all_[1].done_NA)


def test_a_crop_is_at_the_lower_edge():
  frames = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
  np.testing.assert_array_equal(views.cropped(frames, 2), frames[:, 2:, 2:4])
  with pytest.raises(ValueError, match="view.crop_px is 5, and frames are 4 x 6"):
    views.cropped(frames, 5)


def test_policies_are_read_as_they_were_saved_or_refused(corrected, tmp_path):
  folder = epath.Path(corrected / "whole/policies/state/1")
  policy, facts = policies.read(folder)
  policies.save(epath.Path(tmp_path), policy, facts)
  again, _ = policies.read(epath.Path(tmp_path))
  for name, value in policy.params.items():
    np.testing.assert_array_equal(again.params[name], value)
  text = (tmp_path / "policy.json").read_text()
  (tmp_path / "policy.json").write_text(text.replace('"width": 2', '"width": 3'))
  with pytest.raises(ValueError, match="policy.json is damaged"):
    policies.read(epath.Path(tmp_path))


def test_a_saved_policy_is_served_as_it_was(corrected):
  folder = corrected / "whole/policies"
  served = config_lib.PolicyServer(policy=str(folder / "pixels-layer0/0"))
  policy, facts, sight = server.opened(served)
  assert (facts.row, facts.felt, facts.actions) == ("pixels", 1, 2)
  world = toy_worlds.Linear()
  seen = world.begin([1, 2, 3, 4], drawn=True)
  features = sight.of(seen.image_EHW3, np.zeros((4, 0)))
  found = policy.act(features, seen.felt_EP)
  np.testing.assert_allclose(found, world.expert(seen), atol=0.1)  # of colours in whole levels
  for name, told in (("state/0", "sees where everything is"), ("none", "has no whole policy")):
    with pytest.raises(ValueError, match=told):
      server.opened(config_lib.PolicyServer(policy=str(folder / name)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
  """An expert's roll-outs as a LeRobot data set."""
  out = tmp_path_factory.mktemp("record")
  c = roots.config("record").to_dict() | {"episodes": 12, "noise": 0.02}
  assert record.recorded(roots.read(c), toy_worlds.Linear(), epath.Path(out), lambda done: False)
  return out


def clone_config(root, **changes):
  c = roots.config("clone").to_dict() | {"trials": 8, "seeds": 2, "pixels_side": 2}
  c |= {"baselines": ("pixels", "blind", "state")}
  c["data"] |= {"root": str(root), "state": ("observation.environment_state",)}
  c["data"] |= {"heldout_frac": 0.25}
  c["head"] |= {"embed": 0, "norm": False, "hidden": (), "standardise": True}
  c["train"] |= {"epochs": 100.0, "warmup_epochs": 1.0, "lr": 0.02, "weight_decay": 0.0}
  c["train"] |= {"batch_rows": 32}
  return c | changes


@pytest.mark.slow
def test_clones_of_recorded_trajectories_do_as_the_expert(recorded, tmp_path):
  told = json.loads((recorded / "metrics.json").read_text())
  assert (told["successes"], told["kept"]) == (12, 12)
  read = lerobot.read(recorded / "data", state="observation.environment_state")
  for one in read.episodes:  # what is recorded is what the expert would do in that state
    np.testing.assert_allclose(one.action_NA, -one.state_NS @ toy_worlds.GAIN.T, atol=1e-5)
  c, out = roots.read(clone_config(recorded / "data")), epath.Path(tmp_path / "clone")
  world = toy_worlds.Linear()
  assert not clone.cloned(c, world, out, lambda done: done == 3)
  stamp = (out / "policies/blind/0/policy.npz").read_bytes()
  assert clone.cloned(c, world, out, lambda done: False)
  assert (out / "policies/blind/0/policy.npz").read_bytes() == stamp
  metrics = json.loads((out / "metrics.json").read_text())
  rows = {row["row"]: row for row in metrics["rows"]}
  assert rows["state"]["error"]["mean"] < 0.01
  assert rows["pixels"]["error"]["mean"] < 0.1 < 0.5 < rows["blind"]["error"]["mean"]
  assert rows["pixels"]["less_than_blind"]["low"] > 0.3
  assert rows["state"]["trials"] == {"successes": 16, "n": 16}
  assert rows["blind"]["trials"] == {"successes": 0, "n": 16}
  assert metrics["amounts"]["heldout"] == 3 and not (out / "features").exists()
  page = (out / "report.html").read_text()
  assert "16 of 16" in page and "Not shown" not in page


def test_what_cannot_be_cloned_is_told(recorded, tmp_path):
  for changes, told in (
    ({"data": {"root": str(tmp_path)}}, "is no LeRobot data set"),
    ({"data": {"state": ("observation.no",)}}, "has no column 'observation.no'"),
    ({"data": {"camera": "wrist"}}, "data.camera is 'wrist'"),
    ({"data": {"episodes": 1}}, "gives 1 trajectories"),
    ({"data": {"actions": "deltas"}, "trials": 0}, "7 and a gripper are asked for"),
  ):
    c = clone_config(recorded / "data")
    c |= {k: v for k, v in changes.items() if k != "data"}
    c["data"] |= changes["data"]
    with pytest.raises(ValueError, match=told):
      clone.cloned(roots.read(c), None, epath.Path(tmp_path / "out"), lambda done: False)


@pytest.mark.parametrize("side, grid", ((1, 4), (2, 4), (3, 4), (2, 5), (4, 4)))
def test_regions_are_those_of_adaptive_average_pooling(side, grid):
  torch = pytest.importorskip("torch")
  x_LBTD = np.random.default_rng(0).normal(size=(2, 3, grid**2, 5)).astype(np.float32)
  found = views.pooled(x_LBTD, side, grid=0)
  maps = torch.from_numpy(x_LBTD.reshape(6, grid, grid, 5)).permute(0, 3, 1, 2)
  theirs = torch.nn.functional.adaptive_avg_pool2d(maps, side).permute(0, 2, 3, 1)
  np.testing.assert_allclose(found, theirs.reshape(2, 3, -1).numpy(), rtol=1e-5, atol=1e-6)


def test_regions_of_what_is_no_map_are_told():
  x_LBTD = np.arange(32, dtype=np.float32).reshape(1, 2, 8, 2)
  two = views.pooled(x_LBTD, 2, grid=2)  # two maps of 2 x 2: their mean
  np.testing.assert_array_equal(two[0, 0], (x_LBTD[0, 0, :4] + x_LBTD[0, 0, 4:]).reshape(-1) / 2)
  assert views.pooled(x_LBTD[:, :, :1], 2, grid=0).shape == (1, 2, 2)  # a vector has no places
  for side, grid in ((3, 2), (2, 0), (2, 3)):
    with pytest.raises(ValueError, match=f"view.pool_side is {side}"):
      views.pooled(x_LBTD[:, :, :7] if grid == 0 else x_LBTD, side, grid=grid)
