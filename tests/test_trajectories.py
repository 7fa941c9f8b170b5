"""Recorded episodes of robots: files that LeRobot and robomimic read, and ours that are like them.

`golden/robots` was loaded with lerobot 0.3.3 and 0.4.4 and robomimic 0.3.0; its
numbers are theirs.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from totojax.data.pixels import augment, movies
from totojax.data.trajectories import episodes, lerobot, lerobot_writer, robomimic
from totojax.storage import outside

parquet = pytest.importorskip("pyarrow.parquet")
GOLDEN = pathlib.Path(__file__).parent / "golden" / "robots"
SIDE = augment.Resize(64, "bicubic")
CAMERA = "observation.images.front"


def expected(name):
  return json.loads((GOLDEN / f"{name}_expected.json").read_text())


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_lerobots_episodes_are_those_that_it_reads(version):
  want = expected("lerobot")
  found = lerobot.read(GOLDEN / f"lerobot_{version}")
  assert (found.fps, found.cameras) == (want["fps"], (CAMERA,))
  assert found.state_names == ("x", "y", "z") and not found.missing
  assert [one.task for one in found.episodes] == want["tasks"]
  decoded = np.array(want[f"{version}_decoded_mean_rgb"]).reshape(2, 5, 3)
  for one, state, action, means in zip(found.episodes, want["state"], want["action"], decoded):
    np.testing.assert_array_equal(one.state_NS, np.float32(state))
    np.testing.assert_array_equal(one.action_NA, np.float32(action))
    mine = one.frames(CAMERA, range(5), SIDE).mean((1, 2))
    np.testing.assert_allclose(mine, means, atol=1.0)  # of 255: another conversion of colours
    assert np.abs(mine[::-1] - means).max() > 10  # other frames are none of these
    picked = one.frames(CAMERA, [1, 4], SIDE).mean((1, 2))
    np.testing.assert_array_equal(picked, mine[[1, 4]])


@pytest.mark.parametrize("steps", [[], [2, 1], [-1], [5]])
def test_steps_that_are_not_there(steps):
  one = lerobot.read(GOLDEN / "lerobot_v30").episodes[0]
  with pytest.raises(ValueError, match="they ascend, from 0 to 4"):
    one.frames(CAMERA, steps, SIDE)


def changed(tmp_path, version, name, change):
  """A copy of the set with a JSON file changed."""
  root = tmp_path / version
  shutil.copytree(GOLDEN / f"lerobot_{version}", root)
  path = root / "meta" / name
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))
  return root


def test_what_is_wrong_with_a_set_is_named(tmp_path):
  def refused(told, version="v30", **values):
    case = tmp_path / str(len(list(tmp_path.iterdir())))
    root = changed(case, version, "info.json", lambda info: info.update(values))
    with pytest.raises(ValueError, match=told) as error:
      lerobot.read(root)
    assert "\n" not in str(error.value)

  refused("codebase_version is 'v2.0', and v2.1 and v3.0 are read", codebase_version="v2.0")
  refused("total_episodes is 3, and meta/ has", total_episodes=3)
  refused("total_frames is 11, and episodes have 10", total_frames=11)
  refused("leads out of the data set", data_path="../../{chunk_index}/x.parquet")
  refused("leads out of the data set", "v21", data_path="/etc/{episode_index}")
  refused("fps", fps=0)
  refused("times of episode 0 are not 1/20 s apart", fps=20)
  with pytest.raises(ValueError, match="there are: observation.state, action"):
    lerobot.read(GOLDEN / "lerobot_v30", state="observation.joints")
  with pytest.raises(ValueError, match="it has no meta/info.json"):
    lerobot.read(tmp_path)


def test_pictures_that_lie_in_the_rows(tmp_path):
  root = changed(
    tmp_path, "v30", "info.json", lambda info: info["features"][CAMERA].update(dtype="image")
  )
  (path,) = root.glob("data/*/*.parquet")
  pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
  rows = [{"bytes": movies.png(one), "path": None} for one in pixels]
  rows[7]["bytes"] = rows[7]["bytes"][:-30]
  table = parquet.read_table(path).append_column(CAMERA, [rows])
  parquet.write_table(table, path)
  first, second = lerobot.read(root).episodes
  shown = first.frames(CAMERA, [0, 3], augment.Resize(8, "bicubic"))
  np.testing.assert_array_equal(shown, pixels[[0, 3]])
  with pytest.raises(outside.Damaged, match=f"{CAMERA} of step 2"):
    second.frames(CAMERA, [2], SIDE)


def test_an_episode_that_is_damaged_is_missing_and_the_others_are_there(tmp_path):
  root = tmp_path / "v21"
  shutil.copytree(GOLDEN / "lerobot_v21", root)
  (path,) = root.glob("data/*/episode_000001.parquet")
  path.write_bytes(path.read_bytes()[:-200])
  found = lerobot.read(root)
  assert [one.name for one in found.episodes] == ["episode_000000"]
  assert found.missing[0].id == "episode_000001" and "is damaged" in found.missing[0].reason
  (path,) = root.glob("data/*/episode_000000.parquet")
  os.remove(path)
  with pytest.raises(ValueError, match="no episode is left"):
    lerobot.read(root)


def test_frames_that_are_not_at_their_times_are_refused(tmp_path):
  """Negative control of the tolerance: a video at another rate."""
  root = changed(tmp_path, "v21", "info.json", lambda info: None)
  (path,) = root.glob("videos/*/*/episode_000000.mp4")
  path.write_bytes(movies.mp4(np.zeros((9, 64, 64, 3), np.uint8), fps=7, codec="h264", crf=20))
  one = lerobot.read(root).episodes[0]
  with pytest.raises(outside.Damaged, match=r"no frame is within 0.0001 s of 0.1000 s"):
    one.frames(CAMERA, [0, 1], SIDE)


def made(rng, steps=6, task="push", side=32):
  return lerobot_writer.Recorded(
    task=task,
    state_NS=rng.normal(size=(steps, 3)).astype(np.float32),
    action_NA=rng.normal(size=(steps, 2)).astype(np.float32),
    frames={
      CAMERA: np.repeat(rng.integers(0, 256, (steps, 1, 1, 3)), side, 1)
      .repeat(side, 2)
      .astype(np.uint8)
    },
  )


HOW = {"fps": 10, "robot": "arm", "state_names": ("x", "y", "z"), "action_names": ("a", "b")}


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
  monkeypatch.setattr(lerobot_writer, "STEPS_A_FILE", 10)  # two files
  rng = np.random.default_rng(0)
  written = [made(rng, steps, task) for steps, task in ((6, "push"), (4, "open"), (5, "push"))]
  lerobot_writer.write(tmp_path / "set", written, **HOW)
  found = lerobot.read(tmp_path / "set")
  assert [one.task for one in found.episodes] == ["push", "open", "push"]
  assert len([*(tmp_path / "set").glob("data/*/*.parquet")]) == 2
  for one, its in zip(found.episodes, written):
    np.testing.assert_array_equal(one.state_NS, its.state_NS)
    np.testing.assert_array_equal(one.action_NA, its.action_NA)
    shown = one.frames(CAMERA, range(one.steps), augment.Resize(32, "bicubic"))
    means, want = (x.astype(float).mean((1, 2)) for x in (shown, its.frames[CAMERA]))
    np.testing.assert_allclose(means, want, atol=6)  # of 255: H.264 halves the colours' grid
  with pytest.raises(FileExistsError, match="is there already"):
    lerobot_writer.write(tmp_path / "set", written, **HOW)


def test_what_is_written_is_as_lerobot_writes_it(tmp_path):
  """Columns, types and meta data of the golden set; statistics of all, by numpy."""
  rng = np.random.default_rng(1)
  written = [made(rng, 5, "pick", 64), made(rng, 5, "open", 64)]
  lerobot_writer.write(tmp_path / "set", written, **HOW)
  golden = GOLDEN / "lerobot_v30"
  for path in sorted(golden.rglob("*.parquet")):
    ours = parquet.read_schema(tmp_path / "set" / path.relative_to(golden))
    theirs = parquet.read_schema(path)
    assert {n: ours.field(n).type for n in ours.names} == {
      n: theirs.field(n).type for n in theirs.names
    }
    for key, value in (theirs.metadata or {}).items():
      mine, want = json.loads(ours.metadata[key]), json.loads(value)
      for drop in ("creator", "pandas_version", "column_indexes"):  # who wrote it
        want.pop(drop, None), mine.pop(drop, None)
      assert str(mine).replace("unicode", "object") == str(want).replace("unicode", "object")
  ours, theirs = (
    json.loads((root / "meta" / "info.json").read_text()) for root in (tmp_path / "set", golden)
  )
  assert ours.pop("robot_type") == "arm" and theirs.pop("robot_type")
  assert ours == theirs
  stats = json.loads((tmp_path / "set" / "meta" / "stats.json").read_text())
  assert set(stats) == set(json.loads((golden / "meta" / "stats.json").read_text()))
  states = np.concatenate([one.state_NS for one in written]).astype(np.float64)
  np.testing.assert_allclose(stats["observation.state"]["std"], states.std(0), rtol=1e-9)
  pixels = np.concatenate([one.frames[CAMERA] for one in written]).reshape(-1, 3) / 255
  np.testing.assert_allclose(np.ravel(stats[CAMERA]["mean"]), pixels.mean(0), rtol=1e-9)
  np.testing.assert_allclose(np.ravel(stats[CAMERA]["std"]), pixels.std(0), rtol=1e-9)


def test_the_golden_statistics_are_as_ours_are_joined():
  """The rule by which statistics of episodes become those of all, on LeRobot's own numbers."""
  want = expected("lerobot")["global_stats"]
  each = [np.array(rows, np.float32) for rows in expected("lerobot")["state"]]
  places = [
    {f"stats/x/{key}": value for key, value in lerobot_writer._stats({"x": rows})["x"].items()}
    for rows in each
  ]
  writer = lerobot_writer._Writer(None, 10, "", (), (), places=places)
  for key, value in want["observation.state"].items():
    np.testing.assert_allclose(writer._joined("x")[key], value, rtol=1e-6)


@pytest.mark.parametrize(
  "change, told",
  [
    ({"state_NS": np.full((6, 3), np.nan, np.float32)}, "state of step 0 is not finite"),
    ({"action_NA": np.zeros((5, 2), np.float32)}, "6 states and 5 actions"),
    ({"action_NA": np.zeros((6, 4), np.float32)}, "actions of 4 numbers, and names are"),
    ({"frames": {CAMERA: np.zeros((6, 31, 32, 3), np.uint8)}}, "frames of even sides"),
    ({"frames": {}}, "has cameras"),
  ],
)
def test_an_episode_that_cannot_be_written_leaves_nothing(tmp_path, change, told):
  rng = np.random.default_rng(2)
  wrong = lerobot_writer.Recorded(**{**vars(made(rng)), **change})
  with pytest.raises(ValueError, match=told):
    lerobot_writer.write(tmp_path / "set", [made(rng), wrong], **HOW)
  assert not (tmp_path / "set").exists()
  lerobot_writer.write(tmp_path / "set", [made(rng)], **HOW)  # what was left is no obstacle


def test_robomimics_demonstrations_are_those_that_it_reads():
  h5py = pytest.importorskip("h5py")
  want, path = expected("robomimic"), GOLDEN / "robomimic_tiny.hdf5"
  with h5py.File(path) as file:
    keys = [k for k, v in file["data/demo_0/obs"].items() if v.ndim == 2]
  found = robomimic.read(path, state=keys)
  assert {one.name: one.steps for one in found.episodes} == {
    name: demo["n"] for name, demo in want["demos"].items()
  }
  for one in found.episodes:
    of = want["demos"][one.name]
    np.testing.assert_allclose(one.action_NA.sum(), of["action_sum"], rtol=1e-5)
    (camera,) = found.cameras
    side = one.frames(camera, [0], SIDE).shape[1]
    assert side == 64
    with h5py.File(path) as file:
      native = file[f"data/{one.name}/obs/{camera}"].shape[1]
    pixels = one.frames(camera, range(one.steps), augment.Resize(native, "bicubic"))
    assert int(pixels.sum()) == of["image_sum"]
  some = robomimic.read(path, state=keys, mask="train")
  assert [one.name for one in some.episodes] == want["train_order_after_sort"]


def test_what_is_wrong_with_a_demonstration_is_named(tmp_path):
  h5py = pytest.importorskip("h5py")
  path = tmp_path / "set.hdf5"
  shutil.copy(GOLDEN / "robomimic_tiny.hdf5", path)
  with h5py.File(path, "r+") as file:
    (key,) = [k for k, v in file["data/demo_0/obs"].items() if v.ndim == 2][:1]
    file.copy("data/demo_0", "data/demo_10")
    file["data/demo_1"].attrs["num_samples"] = 9
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink("/etc/passwd", "/x")
    file["mask/odd"] = [b"demo_77"]
  found = robomimic.read(path, state=[key])
  assert [one.name for one in found.episodes] == ["demo_2", "demo_10"]
  reasons = {one.id: one.reason for one in found.missing}
  assert "link to another file" in reasons["demo_0"] and "num_samples 9" in reasons["demo_1"]
  with pytest.raises(ValueError, match="names 'demo_77', which is not there"):
    robomimic.read(path, state=[key], mask="odd")
  with pytest.raises(ValueError, match="no episode is left.*demo_0: .* is a link to another file"):
    robomimic.read(path, state=["joints"])
  path.write_bytes(path.read_bytes()[:-3000])
  with pytest.raises(ValueError, match="it is no HDF5 file"):
    robomimic.read(path, state=[key])


def test_steps_without_movement_are_left_out():
  joints = np.array([[0.0, 0.0], [0.003, 0.0], [0.006, 0.0], [0.006, 0.001], [0.006, 0.001]])
  gripper = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
  kept = episodes.moving(joints, gripper)
  np.testing.assert_array_equal(kept, [0, 2, 4])
  actions = episodes.deltas(joints, gripper, kept)
  np.testing.assert_allclose(actions, [[0.006, 0.0, 0.2], [0.0, 0.001, 0.0]], rtol=1e-6)
