"""The rendered world against closed forms: what is seen, where it is, what touches what."""

import dataclasses
import os
import sys

import numpy as np
import pytest
import worlds

from totojax.world import (
  arms,
  containers,
  hand,
  kinds,
  processes,
  scene as scene_lib,
  shapes,
  textures,
  truth,
)
from totojax.world.scene import Act, Hold, Track, yaw_quat

KINDS = (("tabletop", ""), ("containers", ""), ("hand", "hand"), ("hand", "panda"))
FRAMES = 12


@pytest.fixture(name="pool", scope="module")
def _pool():
  worlds.need()
  with processes.Pool(1) as pool:
    yield pool


@pytest.fixture(name="shoot", scope="module")
def _shoot():
  """Shoots scenes of one's own in one child."""
  worlds.need()
  with worlds.studio() as children:
    yield lambda made: children.submit(worlds.shoot, made).result()


def small(kind, index=0, style="", **more):
  frames = 24 if kind == "containers" else FRAMES
  return worlds.spec(kind, index, style=style, frames=frames, move_frames=(4, 6), **more)


# What is seen.


def test_a_ball_is_seen_where_a_sphere_projects(shoot):
  """Its mask is the outline of a sphere in perspective, an ellipse in closed form."""
  radius, side = 0.2, 256
  place, eye = np.array([0.25, 0.1, 0.6]), np.array([0.3, -2.0, 1.5])
  camera = worlds.still(1, eye)
  made = worlds.scene(
    [worlds.ball(radius, tuple(place), motion="fixed")], camera, width_px=side, height_px=side
  )
  clip = shoot(made)
  # A pixel sees the sphere where its ray passes the middle within the radius.
  turn = truth.rotations(camera)[0]
  scale = side / 2 / np.tan(np.deg2rad(camera.fovy_deg) / 2)
  y, x = np.mgrid[:side, :side] + 0.5
  way = np.stack([(x - side / 2) / scale, (side / 2 - y) / scale, -np.ones_like(x)], -1) @ turn.T
  way /= np.linalg.norm(way, axis=-1, keepdims=True)
  to = place - eye
  along = way @ to
  gap = np.sqrt(to @ to - along**2)
  is_seen = gap < radius
  got = clip.masks_NHW[0] == 1
  differ = got != is_seen
  assert is_seen.sum() > 1000
  # What is round has flat sides: half a pixel at its edge, and no more.
  assert differ.sum() < 0.03 * is_seen.sum()
  edge_px = np.abs(gap - radius)[differ] * scale / np.linalg.norm(to)
  assert edge_px.size == 0 or edge_px.max() < 1.5
  # Control: moved by two pixels it is another mask.
  assert (np.roll(got, 2, 1) != is_seen).sum() > 2 * differ.sum()
  # Its nearest point is as deep as its middle less its radius, along the axis.
  hit = along - np.sqrt(np.maximum(radius**2 - gap**2, 0))
  expected = hit * -(way @ turn[:, 2])
  inside = is_seen & got & (gap < 0.9 * radius)
  error = np.abs(clip.depth_NHW[0] - expected)[inside] / expected[inside]
  assert error.max() < 0.004
  # The box is the bounds of the mask, and its middle is where the middle projects.
  rows, columns = np.nonzero(got.any(1))[0], np.nonzero(got.any(0))[0]
  box = clip.boxes_NT4[0, 0]
  assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
  seen = truth.project(made, clip.pos_NT3)[0, 0]
  np.testing.assert_allclose(clip.pos_NT3[0, 0], place, rtol=1e-9)
  assert np.abs(seen[:2] - (box[:2] + box[2:]) / 2).max() < 3.0
  np.testing.assert_allclose(seen[2], -(to @ turn[:, 2]), rtol=1e-9)


def test_the_table_is_as_deep_as_a_plane(shoot):
  side, eye = 64, np.array([0.0, -1.5, 1.2])
  camera = worlds.still(1, eye)
  far = worlds.ball(0.05, (0.9, 0.9, 0.05), motion="fixed")
  clip = shoot(worlds.scene([far], camera, width_px=side, height_px=side))
  turn = truth.rotations(camera)[0]
  scale = side / 2 / np.tan(np.deg2rad(camera.fovy_deg) / 2)
  y, x = np.mgrid[:side, :side] + 0.5
  way = np.stack([(x - side / 2) / scale, (side / 2 - y) / scale, -np.ones_like(x)], -1) @ turn.T
  depth = -eye[2] / way[..., 2]  # rays have length 1 along the axis
  hits = eye + depth[..., None] * way
  on = (np.abs(hits[..., :2]).max(-1) < 0.95) & (clip.masks_NHW[0] == 0)
  assert on.sum() > 500
  np.testing.assert_allclose(clip.depth_NHW[0][on], depth[on], rtol=2e-3)


def test_what_is_behind_has_no_pixel_and_no_box(shoot):
  big = worlds.ball(0.3, (0.0, 0.0, 0.3), name="front", motion="fixed")
  small_ = worlds.ball(0.05, (0.0, 0.5, 0.3), name="behind", motion="fixed")
  camera = worlds.still(1, (0.0, -2.0, 0.3), (0.0, 0.0, 0.3))
  clip = shoot(worlds.scene([big, small_], camera, width_px=64, height_px=64))
  assert set(np.unique(clip.masks_NHW)) == {0, 1}
  assert np.isnan(clip.boxes_NT4[0, 1]).all() and np.isfinite(clip.boxes_NT4[0, 0]).all()
  assert np.isfinite(clip.pos_NT3).all()  # it is there all the same


# What happens.


def test_a_ball_that_falls_lands_when_a_parabola_does(shoot):
  radius, high, frames, fps = 0.1, 0.5, 8, 15.0
  thrown = worlds.ball(radius, (0.0, 0.0, high + radius))
  clip = shoot(worlds.scene([thrown], worlds.still(frames, (0, -2, 1)), width_px=32, height_px=32))
  at_s = np.arange(frames) / fps
  lands_s = np.sqrt(2 * high / 9.81)
  falling = at_s < lands_s
  # Steps of 1 / 120 s, the new speed before the new place: t (t + step) for t squared.
  fallen = 4.905 * at_s * (at_s + 1 / 120)
  np.testing.assert_allclose(
    clip.pos_NT3[falling, 0, 2], (high + radius - fallen)[falling], rtol=1e-5
  )
  frame = int(np.ceil(lands_s * fps))
  assert [(e.verb, e.subject, e.object) for e in clip.events] == [("land", 1, 0)]
  assert abs(clip.events[0].begin - frame) <= 1
  assert all(n >= clip.events[0].begin for n, _, _ in clip.contacts)


def test_what_touches_is_a_contact_in_the_frame_where_it_does(shoot):
  """A driven ball comes to a free one at a known pace."""
  radius, frames, pace = 0.1, 10, 0.05
  start = -0.55
  x_N = start + pace * np.arange(frames)
  pos_N3 = np.stack([x_N, np.zeros(frames), np.full(frames, radius)], -1)
  driven = worlds.ball(radius, tuple(pos_N3[0]), name="driven", motion="driven")
  waits = worlds.ball(radius, (0.0, 0.0, radius - 1e-4), name="waits")
  aside = worlds.ball(radius, (0.0, 0.6, radius - 1e-4), name="aside")
  made = worlds.scene(
    [driven, waits, aside],
    worlds.still(frames, (0, -2, 1)),
    width_px=32,
    height_px=32,
    tracks={"driven": Track(pos_N3, yaw_quat(np.zeros(frames)))},
  )
  clip = shoot(made)
  meets = -start - 2 * radius  # way to go
  frame = int(np.ceil(meets / pace - 1e-9))
  touches = [event for event in clip.events if event.verb == "touch"]
  assert [(e.subject, e.object) for e in touches] == [(1, 2)]  # and nothing touches the third
  assert touches[0].begin in (frame, frame + 1)
  assert not any(n < touches[0].begin and (a, b) == (1, 2) for n, a, b in clip.contacts)
  assert clip.pos_NT3[-1, 1, 0] > 0.01 and abs(clip.pos_NT3[-1, 2, 0]) < 1e-3


def test_events_are_in_order_and_of_what_was_apart():
  things = [worlds.ball(0.1, (i, 0.0, 0.1), name=f"b{i}") for i in range(3)]
  acts = (Act("push", "b0", "b1", 2, 9),)
  made = worlds.scene(things, worlds.still(10, (0, -2, 1)), width_px=8, height_px=8, acts=acts)
  contacts = [(0, 0, 1), (0, 1, 2), (1, 1, 2), (5, 1, 2), (6, 1, 2), (4, 0, 3), (8, 0, 3)]
  pos = np.zeros((10, 3, 3))
  pos[7:, 1, 2] = -0.5
  found = truth.events(made, sorted(contacts), pos)
  assert [(e.begin, e.verb, e.subject, e.object) for e in found] == [
    (2, "push", 1, 2),
    (4, "land", 3, 0),
    (5, "touch", 1, 2),
    (7, "fall", 2, 0),
    (8, "land", 3, 0),
  ]


def test_boxes_are_the_bounds_of_masks():
  rng = np.random.default_rng(0)
  masks = (rng.uniform(size=(3, 9, 11)) < 0.03) * rng.integers(1, 4, (3, 9, 11))
  got = truth.boxes(masks.astype(np.uint8), 4)
  for n in range(3):
    for t in range(4):
      y, x = np.nonzero(masks[n] == t + 1)
      if len(y):
        assert got[n, t].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
      else:
        assert np.isnan(got[n, t]).all()


def test_what_is_held_goes_with_the_hand(shoot):
  frames, radius = 10, 0.05
  up_N = np.maximum(np.arange(frames) - 4, 0) * 0.03
  pos_N3 = np.stack([np.zeros(frames), np.zeros(frames), radius + up_N], -1)
  opening_N = np.where(np.arange(frames) < 3, 0.08, 0.045)
  turn_N4 = np.tile(hand._towards((0.0, 0.0, -1.0), 0.0), (frames, 1))
  taken = worlds.ball(radius, (0.0, 0.0, radius - 1e-4), name="taken")
  fingers = dataclasses.replace(
    worlds.ball(0.1, tuple(pos_N3[0]), name="hand", motion="driven"), shape="gripper", size=0.05
  )
  made = worlds.scene(
    [taken, fingers],
    worlds.still(frames, (0, -2, 1)),
    width_px=32,
    height_px=32,
    tracks={"hand": Track(pos_N3, turn_N4, opening_N)},
    holds=(Hold("taken", "hand", 4),),
  )
  clip = shoot(made)
  lifted = clip.pos_NT3[-1, 0] - clip.pos_NT3[4, 0]
  np.testing.assert_allclose(lifted, [0, 0, up_N[-1]], atol=2e-3)
  assert ("touch", 2, 1) in [(e.verb, e.subject, e.object) for e in clip.events]
  dropped = shoot(dataclasses.replace(made, holds=()))
  assert dropped.pos_NT3[-1, 0, 2] < clip.pos_NT3[-1, 0, 2] - 0.05  # control


# Same seed, same pixels.


@pytest.mark.slow
def test_the_same_spec_gives_the_same_pixels_in_any_process(pool):
  specs = [small(kind, index, style) for kind, style in KINDS for index in (0, 1)]
  once = list(pool.films(specs, worlds.digest))
  with processes.Pool(1) as other:
    again = list(other.films(specs[::-1], worlds.digest))[::-1]
  assert once == again
  assert len(set(once)) == len(once)
  seeded = pool.films([dataclasses.replace(spec, seed=1) for spec in specs], worlds.digest)
  assert not set(seeded) & set(once)


def test_a_camera_that_moves_changes_pixels_and_no_place(pool):
  still, moving = (small("tabletop", 3, camera=camera) for camera in ("still", "moving"))
  a, b = pool.films([still, moving], worlds.whole)
  np.testing.assert_array_equal(a.pos_NT3, b.pos_NT3)
  np.testing.assert_array_equal(a.rgb_NHW3[0], b.rgb_NHW3[0])  # they begin at one place
  middle = FRAMES // 2
  assert (a.rgb_NHW3[middle] != b.rgb_NHW3[middle]).mean() > 0.5
  # Where things stand still, a still camera sees the same.
  (empty,) = pool.films([small("containers", 0, share=0.0)], worlds.whole)
  rest = (empty.pos_NT3[1] == empty.pos_NT3[0]).all()
  if rest:
    np.testing.assert_array_equal(empty.masks_NHW[1], empty.masks_NHW[0])


def test_no_process_has_both_jax_and_mujoco(pool):
  assert next(pool.films([small("tabletop")], worlds.modules)) == ["mujoco"]
  assert "mujoco" not in sys.modules and "OpenGL" not in sys.modules
  assert "LP_NUM_THREADS" not in os.environ


@pytest.mark.slow
def test_a_process_that_dies_is_told(pool):
  del pool
  with processes.Pool(1) as other, pytest.raises(OSError, match="died; run the same command again"):
    list(other.films([small("tabletop")], _die))


def _die(clip):
  del clip
  os._exit(7)


@pytest.mark.slow
def test_an_unknown_backend_is_refused():
  worlds.need()
  with processes.Pool(1, "nothing") as pool, pytest.raises(ImportError, match="libosmesa6"):
    pool.backend()


# Scenes.


@pytest.mark.parametrize("kind, style", KINDS)
def test_scenes_are_data_that_follow_from_a_spec(kind, style):
  first, again = (kinds.build(small(kind, 5, style)) for _ in range(2))
  assert first.things == again.things and first.acts == again.acts
  np.testing.assert_array_equal(first.camera.eye_N3, again.camera.eye_N3)
  other = kinds.build(small(kind, 6, style))
  assert first.things != other.things
  names = [thing.name for thing in first.things]
  assert len(set(names)) == len(names)
  for thing in first.things:
    assert thing.motion != "driven" or thing.name in first.tracks


def test_an_unknown_kind_shape_or_texture_is_refused():
  with pytest.raises(ValueError, match="kind 'x' is unknown"):
    kinds.build(small("x"))
  with pytest.raises(ValueError, match="shape 'x' is unknown"):
    shapes.form("x", 1.0)
  with pytest.raises(ValueError, match="texture 'x' is unknown"):
    textures.pixels(dataclasses.replace(worlds.PLAIN, texture="x"))


@pytest.mark.parametrize("texture", textures.TEXTURES)
def test_textures_have_both_colours_and_follow_from_their_seed(texture):
  look = scene_lib.Look((0.1, 0.2, 0.9), (0.9, 0.8, 0.1), texture, 3)
  pixels = textures.pixels(look)
  np.testing.assert_array_equal(pixels, textures.pixels(look))
  blue = pixels[..., 2].astype(int) - pixels[..., 0]
  assert blue.max() > 100
  assert (blue.min() < -100) == (texture != "plain")


def test_nothing_lies_in_something_else_at_first():
  for index in range(12):
    made = kinds.build(small("tabletop", index))
    flat = [(t.pos[:2], shapes.form(t.shape, t.size).radius) for t in made.things]
    for i, (a, r) in enumerate(flat):
      for b, s in flat[:i]:
        assert np.hypot(*np.subtract(a, b)) > 0.98 * (r + s)


@pytest.mark.slow
def test_the_hand_touches_what_it_is_said_to_first(pool):
  """Time to contact is that of the physics; nothing is touched on the way."""
  specs = [worlds.spec("hand", i, frames=32, width_px=16, height_px=16) for i in range(8)]
  verbs = set()
  for clip in pool.films(specs, worlds.whole):
    (act,) = clip.scene.acts
    who, what = clip.scene.number(act.subject), clip.scene.number(act.object)
    touches = [e for e in clip.events if e.verb == "touch" and e.subject == who]
    assert touches and touches[0].object == what
    assert abs(touches[0].begin - act.begin) <= 2
    moved = np.linalg.norm(clip.pos_NT3[-1, what - 1] - clip.pos_NT3[act.begin, what - 1])
    before = np.linalg.norm(clip.pos_NT3[act.begin - 2, what - 1] - clip.pos_NT3[0, what - 1])
    assert before < 0.02
    assert moved > 0.03 or act.verb == "open"  # of a drawer the cabinet stays
    verbs.add(act.verb)
  assert verbs == set(hand.VERBS)


@pytest.mark.parametrize("name", arms.ARMS)
def test_arms_have_their_makers_reach(name):
  """Stretched upwards, the flange is as high as the links are long."""
  arm = arms.ARMS[name]
  pos, turn = arm.pose(np.zeros(7))
  wanted = {"panda": (0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107), "iiwa": (0, 0, 1.266)}[name]
  np.testing.assert_allclose(pos, wanted, atol=1e-9)
  np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
  for link in arm.links:
    assert link.limits[0] <= link.home <= link.limits[1]


# Containers.


def test_cones_cover_and_carry_in_the_share_that_is_asked_for():
  more = dict(frames=64, things=(4, 6), move_frames=(8, 12))
  plans = [
    containers.plan(worlds.spec("containers", i, share=share, **more))
    for share in (0.5, 0.001)
    for i in range(20)
  ]
  half, none = ([plan.is_carried_hidden for plan in some] for some in (plans[:20], plans[20:]))
  assert 4 <= sum(half) <= 16 and sum(none) == 0
  for plan in plans:
    sizes = np.array([prop.size for prop in plan.props])
    assert plan.props[0].shape == "spl" and (np.abs(plan.pos_NT3[..., :2]) <= 3).all()
    for t in range(len(sizes)):
      by_N = plan.inside_NT[:, t]
      covered = np.flatnonzero(by_N >= 0)
      # What is covered is below its cone, which is larger.
      np.testing.assert_allclose(
        plan.pos_NT3[covered, t, :2], plan.pos_NT3[covered, by_N[covered], :2], atol=1e-9
      )
      assert all(plan.props[by].shape == "cone" for by in set(by_N[covered]))
      assert (sizes[by_N[covered]] > sizes[t]).all()
    # Nothing that is not covered comes into anything else that is not.
    for a in range(len(sizes)):
      for b in range(a):
        free = (plan.inside_NT[:, a] < 0) & (plan.inside_NT[:, b] < 0)
        away = np.linalg.norm(plan.pos_NT3[:, a] - plan.pos_NT3[:, b], axis=-1)
        going = np.zeros(len(away), bool)  # a cone on its way over the other
        for act in plan.acts:
          if act.verb in ("contain", "pick_place") and {act.subject} & {
            plan.props[a].name,
            plan.props[b].name,
          }:
            going[max(act.begin - 1, 0) : act.end + 2] = True
        assert (away > sizes[a] + sizes[b])[free & ~going].all()


@pytest.mark.slow
def test_what_is_covered_is_not_seen(pool):
  made = [worlds.spec("containers", i, frames=64, share=0.999, move_frames=(8, 12)) for i in (0, 1)]
  for clip, spec in zip(pool.films(made, worlds.whole), made):
    plan = containers.plan(spec)
    hidden = plan.inside_NT[:, 0] >= 0
    seen = (clip.masks_NHW == 1).any((1, 2))
    assert hidden[-1] and not seen[hidden].any()
    assert seen[~hidden].mean() > 0.5  # behind something it may be out of sight too
    np.testing.assert_allclose(clip.pos_NT3, plan.pos_NT3, atol=1e-9)
