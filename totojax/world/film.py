"""Shoots a scene: physics, pixels, and what is true of every frame.

The only file that imports MuJoCo (the `world` extra). A process that shoots needs
an OpenGL without a screen, EGL or OSMesa, which it takes before anything else is
drawn; so that neither touches jax, others call `processes`.

Two passes a frame: colours, and numbers of geoms with depth. Shadows would cost
more than all else: the table is darkened below the things instead.

Shapes: N frames, H and W pixels, T things.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from totojax.world import arms, mjcf, shapes, truth
from totojax.world.scene import DRIVEN, FREE, Scene, TABLE

INSTALL = "apt-get install -y libosmesa6 libegl1 libegl-mesa0"
_DARKEST = 0.6  # share of light that a thing takes from the table where it stands
_IK_STEPS, _IK_FIRST, _DAMPING = 12, 300, 1e-3


@dataclasses.dataclass(frozen=True)
class Clip:
  """A film with its labels."""

  scene: Scene
  rgb_NHW3: np.ndarray  # uint8
  masks_NHW: np.ndarray  # uint8: number of the thing, 0 for everything else
  depth_NHW: np.ndarray  # float32, along the camera's axis, in lengths of the scene
  boxes_NT4: np.ndarray  # float32 x1 y1 x2 y2 of what is seen, ends left out; NaN: nothing is
  pos_NT3: np.ndarray  # float64, of the things' origins
  quat_NT4: np.ndarray  # float64 w x y z
  contacts: tuple[tuple[int, int, int], ...]  # (frame, thing, thing), the smaller first
  events: tuple[truth.Event, ...]  # in order


def mujoco() -> Any:
  """The package that simulates and draws.

  Raises:
    ImportError: it is missing, or there is no OpenGL; says what to install.
  """
  try:
    import mujoco as package
  except ImportError as error:
    raise ImportError(
      'rendering the world needs MuJoCo; install it with: pip install "totojax[world]"'
    ) from error
  except (AttributeError, RuntimeError, OSError) as error:
    raise ImportError(f"MuJoCo finds no OpenGL to draw with ({error}); {INSTALL}") from error
  return package


def compiled(mj: Any, scene: Scene) -> Any:
  """A scene as MuJoCo's model."""
  xml, pixels = mjcf.build(scene)
  model = mj.MjModel.from_xml_string(xml)
  for name, pixels_HW3 in pixels.items():
    begin = model.texture(name).adr[0]
    model.tex_data[begin : begin + pixels_HW3.size] = pixels_HW3.ravel()
  return model


def context(mj: Any, width_px: int, height_px: int) -> Any:
  """An OpenGL context without a screen, made current.

  Raises:
    ImportError: there is none; says what to install.
  """
  try:
    made = mj.GLContext(width_px, height_px)
    made.make_current()
  except Exception as error:  # each backend has its own
    raise ImportError(
      f"OpenGL gives no context of {width_px} x {height_px} pixels without a screen"
      f" ({type(error).__name__}: {error}); {INSTALL}"
    ) from error
  return made


def plain_scene(mj: Any, model: Any) -> Any:
  """What is drawn of a model, without what costs most: shadows and the like."""
  drawn = mj.MjvScene(model, maxgeom=model.ngeom + 8)
  flags = mj.mjtRndFlag
  off = (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX, flags.mjRND_HAZE)
  for flag in (*off, flags.mjRND_FOG):
    drawn.flags[flag] = 0
  return drawn


def is_unstable(mj: Any, data: Any) -> bool:
  """Whether MuJoCo found no numbers and began anew, which it does without an error."""
  kinds = mj.mjtWarning
  bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
  return any(data.warning[int(kind)].number for kind in bad)


class Studio:
  """Draws scenes of one size after each other, with one OpenGL context."""

  def __init__(self, width_px: int, height_px: int):
    """Raises ImportError as `mujoco`."""
    self.mj = mujoco()
    self.size = width_px, height_px
    self._gl = context(self.mj, width_px, height_px)

  def close(self) -> None:
    """Frees the context while OpenGL is still loaded, which the end of Python does not."""
    self._gl.free()

  def shoot(self, scene: Scene) -> Clip:
    """All frames of a scene.

    Raises:
      ValueError: it has another size, or physics gives no numbers.
    """
    spec = scene.spec
    if (spec.width_px, spec.height_px) != self.size:
      raise ValueError(
        f"the scene is {spec.width_px} x {spec.height_px}, and the studio {self.size}"
      )
    stage = _Stage(self.mj, scene)
    lens = _Lens(self.mj, stage, scene)
    shape = spec.frames, spec.height_px, spec.width_px
    rgb, masks = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    depth = np.empty(shape, np.float32)
    places, contacts = [], []
    try:
      for n in range(spec.frames):
        pairs = stage.advance(n)
        contacts += [(n, *pair) for pair in sorted(pairs)]
        places.append(stage.places())
        lens.take(n, rgb[n], masks[n], depth[n])
    finally:
      lens.close()
    pos_NT3, quat_NT4 = (np.stack(x) for x in zip(*places))
    if not np.isfinite(pos_NT3).all() or is_unstable(self.mj, stage.data):
      raise ValueError(f"physics of scene {spec.index} of {spec.kind} gave positions that are none")
    return Clip(
      scene,
      rgb,
      masks,
      depth,
      truth.boxes(masks, len(scene.things)),
      pos_NT3,
      quat_NT4,
      tuple(contacts),
      truth.events(scene, contacts, pos_NT3),
    )


class _Stage:
  """A scene's physics."""

  def __init__(self, mj: Any, scene: Scene):
    self.mj, self.scene = mj, scene
    self.model = compiled(mj, scene)
    self.data = mj.MjData(self.model)
    names = [self.model.geom(g).name for g in range(self.model.ngeom)]
    self.number_G = np.array([int(name.split("#")[0]) for name in names], np.int64)
    self.bodies = [self.model.body(thing.name).id for thing in scene.things]
    self._free = any(thing.motion == FREE for thing in scene.things)
    self._grips: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    self._parts = [
      (thing.name, part, self.model.body(f"{thing.name}/{part}" if part else thing.name).mocapid[0])
      for thing in scene.things
      if thing.motion == DRIVEN
      for part in dict.fromkeys(["", *(g.part for g in shapes.form(thing.shape, thing.size).geoms)])
    ]
    self._throw()

  def _throw(self) -> None:
    for thing in self.scene.things:
      if thing.motion == FREE:
        at = self.model.joint(mjcf.joint(thing.name)).dofadr[0]
        self.data.qvel[at : at + 6] = [*thing.velocity, *thing.spin]

  def advance(self, frame: int) -> set[tuple[int, int]]:
    """Goes on to a frame; pairs of things that touched since the one before."""
    mj = self.mj
    if frame == 0 or not self._free:
      self._drive(float(frame))
      self._reach(first=frame == 0)
      mj.mj_forward(self.model, self.data)
      return self._pairs([self._touching()])
    touching = []
    for look in range(mjcf.LOOKS):
      if self._parts:
        self._drive(frame - 1 + (look + 1) / mjcf.LOOKS)
      self._hold(frame)
      mj.mj_step(self.model, self.data, nstep=mjcf.substeps(self.scene.spec.fps))
      touching.append(self._touching())
    self._reach(first=False)
    self._hold(frame)
    mj.mj_kinematics(self.model, self.data)  # positions are those of the state
    mj.mj_comPos(self.model, self.data)
    mj.mj_camlight(self.model, self.data)
    return self._pairs(touching)

  def _drive(self, time: float) -> None:
    """Driven things where they are at a time in frames."""
    low = min(int(time), self.scene.spec.frames - 1)
    high, part = min(low + 1, self.scene.spec.frames - 1), time - low
    for name, side, mocap in self._parts:
      track = self.scene.tracks[name]
      pos = (1 - part) * track.pos_N3[low] + part * track.pos_N3[high]
      quat = (1 - part) * track.quat_N4[low] + part * track.quat_N4[high]
      self.mj.mju_normalize4(quat)
      if side and track.opening_N is not None:
        opening = (1 - part) * track.opening_N[low] + part * track.opening_N[high]
        sign = -1 if side == "left" else 1
        pos = pos + _rotation(self.mj, quat)[:, 0] * sign * opening
      self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = pos, quat

  def _hold(self, frame: int) -> None:
    """What is held goes with what holds it, as it was when it was taken."""
    mj, data = self.mj, self.data
    for hold in self.scene.holds:
      if frame < hold.frame:
        continue
      mocap = self.model.body(hold.by).mocapid[0]
      pos, quat = data.mocap_pos[mocap].copy(), data.mocap_quat[mocap].copy()
      drawer = f"{hold.thing}/{mjcf.DRAWER}"
      if self._has_drawer(hold.thing):
        joint = self.model.joint(mjcf.joint(drawer))
        if hold.thing not in self._grips:
          self._grips[hold.thing] = pos, np.array([data.qpos[joint.qposadr[0]]])
        begin, opened = self._grips[hold.thing]
        pull = -data.body(hold.thing).xmat.reshape(3, 3)[:, 1]
        data.qpos[joint.qposadr[0]] = opened[0] + max(float(((pos - begin) * pull).sum()), 0.0)
        data.qvel[joint.dofadr[0]] = 0
        continue
      joint = self.model.joint(mjcf.joint(hold.thing))
      at, speed = joint.qposadr[0], joint.dofadr[0]
      if hold.thing not in self._grips:
        inverse, relative = np.empty(4), np.empty(4)
        mj.mju_negQuat(inverse, quat)
        mj.mju_mulQuat(relative, inverse, data.qpos[at + 3 : at + 7])
        offset = np.empty(3)
        mj.mju_rotVecQuat(offset, data.qpos[at : at + 3] - pos, inverse)
        self._grips[hold.thing] = offset, relative
      offset, relative = self._grips[hold.thing]
      moved = np.empty(3)
      mj.mju_rotVecQuat(moved, offset, quat)
      data.qpos[at : at + 3] = pos + moved
      mj.mju_mulQuat(data.qpos[at + 3 : at + 7], quat, relative)
      data.qvel[speed : speed + 6] = 0

  def _has_drawer(self, thing: str) -> bool:
    return self.scene.things[self.scene.number(thing) - 1].shape == "cabinet"

  def _touching(self) -> np.ndarray:
    """Pairs of geoms [P, 2]."""
    if not self.data.ncon:
      return np.empty((0, 2), np.int32)
    contact = self.data.contact
    return contact.geom[contact.dist <= 0]

  def _pairs(self, geoms: list[np.ndarray]) -> set[tuple[int, int]]:
    """Of things, the smaller number first."""
    numbers_P2 = self.number_G[np.concatenate(geoms)]
    return {
      (min(a, b), max(a, b)) for a, b in numbers_P2.tolist() if a != b and mjcf.ROOM not in (a, b)
    }

  def _reach(self, *, first: bool) -> None:
    """Turns an arm's joints until its flange is where its gripper begins."""
    if not self.scene.arm:
      return
    mj, model, data = self.mj, self.model, self.data
    arm = arms.ARMS[self.scene.spec.style]
    thing = self.scene.things[self.scene.number(self.scene.arm) - 1]
    mocap = model.body(thing.name).mocapid[0]
    turn = _rotation(mj, data.mocap_quat[mocap])
    goal = data.mocap_pos[mocap] - turn[:, 2] * 3.7 * thing.size
    joints = [model.joint(f"arm/{n}/joint") for n in range(len(arm.links))]
    qpos, dofs = [j.qposadr[0] for j in joints], [j.dofadr[0] for j in joints]
    low, high = model.jnt_range[[j.id for j in joints]].T
    home = np.array([link.home for link in arm.links])
    site = model.site("arm/flange").id
    if first:
      data.qpos[qpos] = home
    jacobian = np.zeros((6, model.nv))
    for _ in range(_IK_FIRST if first else _IK_STEPS):
      mj.mj_kinematics(model, data)
      mj.mj_comPos(model, data)
      mj.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
      is_turn = data.site_xmat[site].reshape(3, 3)
      about = 0.5 * sum(np.cross(is_turn[:, i], turn[:, i]) for i in range(3))
      error = np.concatenate([goal - data.site_xpos[site], about])
      if np.abs(error).max() < 1e-4:
        break
      j = jacobian[:, dofs]
      inverse = j.T @ np.linalg.inv(j @ j.T + _DAMPING * np.eye(6))
      step = inverse @ error + (np.eye(len(dofs)) - inverse @ j) @ (0.05 * (home - data.qpos[qpos]))
      data.qpos[qpos] = np.clip(data.qpos[qpos] + np.clip(step, -0.2, 0.2), low, high)
    # Sums of linear algebra may differ by a bit from run to run: they are rounded off.
    data.qpos[qpos] = np.round(data.qpos[qpos], 6)
    data.qvel[dofs] = 0

  def places(self) -> tuple[np.ndarray, np.ndarray]:
    """Positions [T, 3] and quaternions [T, 4] of all things."""
    return self.data.xpos[self.bodies].copy(), self.data.xquat[self.bodies].copy()


def _rotation(mj: Any, quat: np.ndarray) -> np.ndarray:
  out = np.empty(9)
  mj.mju_quat2Mat(out, np.asarray(quat, np.float64))
  return out.reshape(3, 3)


class _Lens:
  """Draws one stage."""

  def __init__(self, mj: Any, stage: _Stage, scene: Scene):
    self._mj, self._stage, self._scene = mj, stage, scene
    self._context = mj.MjrContext(stage.model, mj.mjtFontScale.mjFONTSCALE_50)
    mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
    self._drawn = plain_scene(mj, stage.model)
    self._options, self._camera = mj.MjvOption(), mj.MjvCamera()
    self._options.sitegroup[:] = 0
    self._camera.type, self._camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, 0
    self._forms = [shapes.form(thing.shape, thing.size) for thing in scene.things]
    width, height = scene.spec.width_px, scene.spec.height_px
    self._view = mj.MjrRect(0, 0, width, height)
    self._pixels = np.empty((height, width, 3), np.uint8)
    self._near_far = np.empty((height, width), np.float32)
    self._light = np.empty((height, width), np.float32)
    self._lit = np.empty((height, width, 3), np.float32)
    self._turn_N33 = truth.rotations(scene.camera)
    self._numbers: np.ndarray | None = None
    self._ways: tuple[np.ndarray, np.ndarray] | None = None
    self._dark: dict[int, tuple[Any, Any, Any]] = {}  # by body: place, window, light
    self._smooth()

  def _smooth(self) -> None:
    """Textures are as large as what they are seen on: nothing is drawn of smaller ones."""
    from OpenGL import GL  # MuJoCo brings it

    kinds = GL.GL_TEXTURE_2D, GL.GL_TEXTURE_CUBE_MAP
    types = self._context.textureType[: self._context.ntexture]
    for kind, texture in zip(types.tolist(), self._context.texture.tolist()):
      GL.glBindTexture(kinds[kind], texture)
      GL.glTexParameteri(kinds[kind], GL.GL_TEXTURE_MIN_FILTER, GL.GL_LINEAR)

  def close(self) -> None:
    self._context.free()

  def take(self, frame: int, rgb: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> None:
    """One frame, written into arrays [H, W, 3], [H, W], [H, W]."""
    mj, stage, drawn = self._mj, self._stage, self._drawn
    camera = self._scene.camera
    stage.data.cam_xpos[0] = camera.eye_N3[frame]
    stage.data.cam_xmat[0] = self._turn_N33[frame].ravel()
    mj.mjv_updateScene(
      stage.model, stage.data, self._options, None, self._camera, mj.mjtCatBit.mjCAT_ALL, drawn
    )
    mj.mjr_render(self._view, drawn, self._context)
    mj.mjr_readPixels(self._pixels, None, self._view, self._context)
    rgb[:] = self._pixels[::-1]  # OpenGL's rows begin below
    flags = mj.mjtRndFlag
    drawn.flags[flags.mjRND_SEGMENT] = drawn.flags[flags.mjRND_IDCOLOR] = 1
    mj.mjr_render(self._view, drawn, self._context)
    mj.mjr_readPixels(self._pixels, self._near_far, self._view, self._context)
    drawn.flags[flags.mjRND_SEGMENT] = drawn.flags[flags.mjRND_IDCOLOR] = 0
    found = self._things(self._pixels[::-1])
    self._shade(frame, rgb, found)
    mask[:] = np.maximum(found, TABLE)
    self._near_far *= camera.near / camera.far - 1
    self._near_far += 1
    np.divide(camera.near, self._near_far[::-1], out=depth)

  def _things(self, colours: np.ndarray) -> np.ndarray:
    """Numbers of things, of the table and the room, by the colours that stand for geoms."""
    if self._numbers is None:  # geoms are drawn in the same order in all frames
      table = np.full(self._drawn.maxgeom + 2, mjcf.ROOM, np.int16)
      geom = int(self._mj.mjtObj.mjOBJ_GEOM)
      for drawn in self._drawn.geoms[: self._drawn.ngeom]:
        if drawn.objtype == geom and drawn.segid >= 0:
          table[drawn.segid + 1] = self._stage.number_G[drawn.objid]
      self._numbers = table
    if len(self._numbers) <= 256:
      return self._numbers[colours[..., 0]]
    return self._numbers[colours[..., 0].astype(np.int32) + 256 * colours[..., 1].astype(np.int32)]

  def _shade(self, frame: int, rgb: np.ndarray, found: np.ndarray) -> None:
    """Darkens the table in rgb [H, W, 3] below what is above it, softly."""
    is_still = self._scene.spec.camera == "still"
    if self._ways is None or not is_still:
      self._ways = truth.on_table(self._scene, frame, self._turn_N33[frame])
      self._dark.clear()
    darkened = []
    for thing, form, body in zip(self._scene.things, self._forms, self._stage.bodies):
      # What lies still trembles far below a tenth of a millimetre.
      x, y, z = (round(value, 4) for value in self._stage.data.xpos[body].tolist())
      gap = max(z - form.bottom, 0.0) / thing.size
      strength = _DARKEST / (1 + 2.5 * gap)
      # A driven hand is no thing that lies about.
      if z < 0 or strength < 0.03 or thing.motion == DRIVEN and gap * thing.size > form.top:
        continue
      place, window, away = self._dark.get(body, (None, None, None))
      if place != (x, y, z):
        radius = 1.5 * form.radius * (1 + 0.25 * gap)
        window = self._window(frame, x, y, radius)
        away = self._darkened(window, x, y, radius, strength)
        self._dark[body] = (x, y, z), window, away
      darkened.append((window, away))
    if not darkened:
      return
    every = tuple(
      slice(min(w[i].start for w, _ in darkened), max(w[i].stop for w, _ in darkened))
      for i in range(2)
    )
    light = self._light[every]
    light.fill(1)
    for window, away in darkened:
      self._light[window] *= away
    np.copyto(light, 1, where=found[every] != TABLE)
    lit = self._lit[every]
    lit[:] = light[..., None]
    lit *= rgb[every]
    rgb[every] = lit

  def _darkened(
    self, window: tuple[slice, slice], x: float, y: float, radius: float, strength: float
  ) -> np.ndarray:
    """Shares of light that one thing leaves to the table in a window."""
    assert self._ways is not None
    x_HW, y_HW = self._ways
    away_HW = (x_HW[window] - x) ** 2
    away_HW += (y_HW[window] - y) ** 2
    away_HW *= -1 / radius**2
    away_HW += 1
    np.maximum(away_HW, 0, out=away_HW)
    away_HW *= -strength
    away_HW += 1
    return away_HW

  def _window(self, frame: int, x: float, y: float, radius: float) -> tuple[slice, slice]:
    """Rows and columns about what is seen of a round on the table, or of a ball there."""
    camera, spec = self._scene.camera, self._scene.spec
    ray = self._turn_N33[frame].T @ ([x, y, 0.0] - camera.eye_N3[frame])
    right, up, depth = ray[0], ray[1], -ray[2]
    if depth - radius < camera.near:
      return slice(0, spec.height_px), slice(0, spec.width_px)
    scale = spec.height_px / 2 / math.tan(math.radians(camera.fovy_deg) / 2)
    ends = []
    for side, tangent in ((spec.height_px, -up / depth), (spec.width_px, right / depth)):
      middle = side / 2 + scale * tangent
      reach = scale * radius * math.hypot(1, tangent) / (depth - radius)
      low, high = (int(min(max(middle + sign * reach, 0), side)) for sign in (-1, 1))
      ends.append(slice(low, min(high + 1, side)))
    return ends[0], ends[1]
