"""A scene as MuJoCo's XML, with the pixels of its textures.

Bodies are called as their things, and their parts THING/PART; a geom's name is
NUMBER#COUNT, by which its pixels and contacts are known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from xml.etree import ElementTree

import numpy as np

from totojax.world import arms, shapes, textures
from totojax.world.scene import DRIVEN, FIXED, FREE, Look, Scene, TABLE, Thing

LOOKS = 4  # times in a frame that contacts are looked at
_LONGEST_S = 1 / 120  # step of physics
FLOOR = -0.75  # of the room: share of the table's longer half
_THICK = 0.05
ROOM = -1  # number of floor and walls
_FINE_PX = 192  # height of frames from which on things have textures in full
DRAWER = "drawer"


def build(scene: Scene) -> tuple[str, dict[str, np.ndarray]]:
  """(XML, what goes into its textures by their names: uint8 [height, width, 3])."""
  return _Writer(scene).write()


def substeps(fps: float) -> int:
  """Steps of physics from one look at contacts to the next."""
  return max(int(np.ceil(1 / fps / LOOKS / _LONGEST_S - 1e-9)), 1)


def joint(body: str) -> str:
  """The name of the joint that moves a body."""
  return f"{body}/joint"


Text = tuple[str, str]  # of a mesh: its points and faces


class _Writer:
  """Builds one document."""

  def __init__(self, scene: Scene):
    self._scene, self._pixels = scene, dict[str, np.ndarray]()
    self._root = ElementTree.Element("mujoco")
    self._asset = ElementTree.Element("asset")
    self._world = ElementTree.Element("worldbody")
    self._geoms = 0
    self._corners = int(np.clip(scene.spec.height_px / 10, 12, 64))  # of what is round, as seen

  def write(self) -> tuple[str, dict[str, np.ndarray]]:
    scene = self._scene
    self._settings()
    self._root.extend([self._asset, self._world])
    self._room()
    for number, thing in enumerate(scene.things, 1):
      self._thing(number, thing)
    if scene.arm:
      self._arm(scene.number(scene.arm))
    return ElementTree.tostring(self._root, encoding="unicode"), self._pixels

  def _settings(self) -> None:
    scene, spec, add = self._scene, self._scene.spec, put
    add(self._root, "compiler", angle="radian")
    add(
      self._root,
      "option",
      timestep=text(1 / spec.fps / LOOKS / substeps(spec.fps)),
      integrator="implicitfast",
      cone="elliptic",
    )
    add(self._root, "statistic", extent="1", center="0 0 0", meansize="0.1")
    visual = add(self._root, "visual")
    add(visual, "global", offwidth=str(spec.width_px), offheight=str(spec.height_px))
    round_ = {"numslices": str(self._corners), "numstacks": str(self._corners * 3 // 4)}
    add(visual, "quality", shadowsize="0", offsamples="0", **round_)
    add(visual, "map", znear=text(scene.camera.near), zfar=text(scene.camera.far))
    add(visual, "headlight", ambient="0.34 0.34 0.36", diffuse="0.2 0.2 0.2", specular="0 0 0")

  def _room(self) -> None:
    """A light, the table, and the room that it stands in."""
    scene, (half_x, half_y) = self._scene, self._scene.half_table
    put(
      self._world,
      "light",
      directional="true",
      castshadow="false",
      pos="0 0 9",
      dir=text(*scene.light),
      diffuse="0.62 0.61 0.58",
      specular="0.35 0.35 0.35",
      ambient="0 0 0",
    )
    put(self._world, "camera", name="camera", fovy=text(scene.camera.fovy_deg))
    table = self._material("table", scene.table, repeat=2)
    top = shapes.Geom("box", (half_x, half_y, _THICK), (0.0, 0.0, -_THICK))
    self._geom(self._world, TABLE, top, table)
    # One mesh that is seen from within.
    low, far = FLOOR * max(half_x, half_y), scene.half_room
    x, y, z = np.meshgrid((-far, far), (-far, far), (low, low + 1.2 * far), indexing="ij")
    points_P3 = np.stack([x.ravel(), y.ravel(), z.ravel()], -1)
    corners = (0, 2, 6, 4), (0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6)
    faces = [face for a, b, c, d in corners for face in ((a, c, b), (a, d, c))]
    mesh = shapes.Mesh(points_P3, np.array(faces))
    room = self._material("room", scene.room)
    walls = shapes.Geom("mesh", mesh=mesh)
    self._geom(self._world, ROOM, walls, room, solid=False, mesh=_written(mesh))
    floor = {"type": "plane", "size": "1 1 1", "pos": text(0, 0, low), "group": "3"}
    self._add(self._world, ROOM, **floor, rgba="0 0 0 0")

  def _thing(self, number: int, thing: Thing) -> None:
    form = shapes.form(thing.shape, thing.size)
    own = self._material(thing.name, thing.look)
    second = self._plain(f"{thing.name}/second", thing.look.rgb2, thing.look.shine)
    turn = np.array([np.cos(thing.yaw / 2), 0, 0, np.sin(thing.yaw / 2)])
    bodies = {}
    for part in dict.fromkeys(["", *(geom.part for geom in form.geoms)]):
      is_drawer = part == DRAWER
      name = f"{thing.name}/{part}" if part else thing.name
      place = {} if is_drawer else {"pos": text(*thing.pos), "quat": text(*turn)}
      more = {"mocap": "true"} if thing.motion == DRIVEN else {}
      parent = bodies[""] if is_drawer else self._world
      bodies[part] = put(parent, "body", name=name, **place, **more)
      if thing.motion == FREE and not part:
        put(bodies[part], "freejoint", name=joint(name))
      if is_drawer:
        put(bodies[part], "joint", name=joint(name), type="slide", axis="0 -1 0", damping="5")
    texts = _texts(thing.shape)
    skins = _skins(thing.shape, self._corners)
    geom_of = functools.partial(
      self._geom, number=number, solid=not thing.is_seen_through, scale=thing.size
    )
    for geom, written in zip(form.geoms, texts):
      geom_of(
        bodies[geom.part],
        geom=geom,
        material=second if geom.is_second else own,
        moves=thing.motion != FIXED or geom.part == DRAWER,
        is_drawn=(geom.part, geom.is_second) not in skins,
        mesh=written,
      )
    for (part, is_second), written in skins.items():
      name = self._mesh(written, thing.size, solid=False)
      untouched = {"contype": "0", "conaffinity": "0", "mass": "0"}
      material = second if is_second else own
      self._add(bodies[part], number, type="mesh", mesh=name, material=material, **untouched)
    if DRAWER in bodies:  # it never touches the cabinet that it is in
      contact = put(self._root, "contact")
      put(contact, "exclude", body1=thing.name, body2=f"{thing.name}/{DRAWER}")

  def _arm(self, number: int) -> None:
    """An arm that stands at the table's edge and reaches to the things."""
    arm = arms.ARMS[self._scene.spec.style]
    material = self._plain("arm", arm.rgb, 0.4)
    dark = self._plain("arm/joints", (0.25, 0.25, 0.28), 0.4)
    above = put(self._world, "body", name="arm/base", **base(self._scene))
    self._part(above, "cylinder", (arm.radius * 1.4, 0.03), (0, 0, 0.03), material, number=number)
    chain(above, arm, functools.partial(self._part, number=number), (material, dark))

  def _part(
    self,
    body: ElementTree.Element,
    kind: str,
    size: Sequence[float],
    pos: Sequence[float] | None,
    material: str,
    *,
    number: int,
    **more: str,
  ) -> None:
    """A geom of an arm, which touches nothing."""
    self._add(
      body,
      number,
      type=kind,
      size=text(*size),
      material=material,
      contype="0",
      conaffinity="0",
      mass="1",
      **({"pos": text(*pos)} if pos else {}),
      **more,
    )

  def _geom(
    self,
    body: ElementTree.Element,
    number: int,
    geom: shapes.Geom,
    material: str,
    *,
    solid: bool = True,
    moves: bool = False,
    is_drawn: bool = True,
    mesh: Text | None = None,
    scale: float = 1.0,
  ) -> None:
    """A geom of a thing, of the table or of the room; its mesh is scaled."""
    more = {"size": text(*geom.size)} if geom.size else {}
    if mesh is not None:
      more = {"mesh": self._mesh(mesh, scale, solid=True)}
    more |= {} if solid else {"contype": "0", "conaffinity": "0"}
    more |= {"density": "400"} if moves else {}
    more |= {} if is_drawn else {"group": "3"}
    friction = text(self._scene.friction, 0.005, 0.0001)
    self._add(
      body,
      number,
      type=geom.type,
      pos=text(*geom.pos),
      quat=text(*geom.quat),
      material=material,
      friction=friction,
      **more,
    )

  def _mesh(self, written: Text, scale: float, *, solid: bool) -> str:
    """A mesh among the assets; its name."""
    name, (vertex, face) = f"mesh{self._geoms}", written
    inertia = "convex" if solid else "shell"
    own = {"name": name, "scale": text(scale, scale, scale), "inertia": inertia}
    put(self._asset, "mesh", vertex=vertex, face=face, **own)
    return name

  def _add(self, body: ElementTree.Element, number: int, **attributes: str) -> None:
    put(body, "geom", name=f"{number}#{self._geoms}", **attributes)
    self._geoms += 1

  def _material(self, name: str, look: Look, *, repeat: int = 1) -> str:
    """A material with the look's texture; its name."""
    if look.texture == "plain" and repeat == 1:
      return self._plain(name, look.rgb, look.shine)
    # A cube of six faces fits what has no coordinates of its own, meshes. Things
    # are small: what would shrink in the frame anyhow is shrunk here.
    is_flat = repeat > 1
    is_fine = is_flat or self._scene.spec.height_px >= _FINE_PX
    pixels_SS3 = textures.pixels(look, 1 if is_fine else 2)
    side = str(len(pixels_SS3))
    kind = {"type": "2d" if is_flat else "cube", "width": side, "height": side}
    put(self._asset, "texture", name=name, builtin="flat", **kind)
    self._pixels[name] = pixels_SS3 if is_flat else np.tile(pixels_SS3, (6, 1, 1))
    put(
      self._asset,
      "material",
      name=name,
      texture=name,
      texrepeat=text(repeat, repeat),
      specular=text(look.shine),
      shininess="0.4",
      reflectance="0",
    )
    return name

  def _plain(self, name: str, rgb: Iterable[float], shine: float) -> str:
    put(
      self._asset,
      "material",
      name=name,
      rgba=text(*rgb, 1),
      specular=text(shine),
      shininess="0.4",
      reflectance="0",
    )
    return name


def _written(mesh: shapes.Mesh) -> Text:
  points, faces = mesh.points_P3.ravel().tolist(), mesh.faces_F3.ravel().tolist()
  return " ".join(map("{:.9g}".format, points)), " ".join(map(str, faces))


@functools.cache
def _texts(shape: str) -> tuple[Text | None, ...]:
  """The meshes of a shape's geoms at size 1."""
  geoms = shapes.form(shape, 1.0).geoms
  return tuple(None if geom.mesh is None else _written(geom.mesh) for geom in geoms)


@functools.cache
def _skins(shape: str, corners: int) -> Mapping[tuple[str, bool], Text]:
  """What is drawn in place of several geoms that move together and have one colour.

  At size 1, by (part, whether it has the second colour): OpenGL takes most of its
  time for each thing that is drawn, whatever it is.
  """
  groups: dict[tuple[str, bool], list[shapes.Mesh]] = {}
  for geom in shapes.form(shape, 1.0).geoms:
    groups.setdefault((geom.part, geom.is_second), []).append(shapes.skin(geom, corners))
  return {
    key: _written(shapes.together(meshes)) for key, meshes in groups.items() if len(meshes) > 1
  }


def base(scene: Scene) -> dict[str, str]:
  """Where an arm stands: at the left edge, and faces the things."""
  return {"pos": text(-0.9 * scene.half_table[0], -0.3 * scene.half_table[1], 0)}


def chain(
  above: ElementTree.Element,
  arm: arms.Arm,
  part: Callable[..., None],
  materials: tuple[str, str],
  **more: str,
) -> ElementTree.Element:
  """An arm's bodies and joints, and what is drawn of them.

  Args:
    above: the body that it stands on.
    arm: whose.
    part: adds a geom: of (body, kind, size, place or None, material) and attributes.
    materials: of links and of joints.
    **more: attributes of every body.

  Returns:
    the last body; "arm/flange" is a site of it.
  """
  material, dark = materials
  for count, link in enumerate(arm.links):
    if np.linalg.norm(link.pos) > 0.02:
      size, to = (arm.radius * 0.85,), text(0, 0, 0, *link.pos)
      part(above, "capsule", size, None, material, fromto=to)
    name = f"arm/{count}"
    above = put(above, "body", name=name, pos=text(*link.pos), quat=text(*link.quat), **more)
    put(above, "joint", name=joint(name), axis="0 0 1", range=text(*link.limits))
    part(above, "cylinder", (arm.radius, arm.radius * 1.15), (0, 0, 0), dark)
  part(above, "capsule", (0.04,), None, material, fromto=text(0, 0, 0, 0, 0, arm.flange))
  put(above, "site", name="arm/flange", pos=text(0, 0, arm.flange))
  return above


def put(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
  """A new element in another."""
  return ElementTree.SubElement(parent, tag, attributes)


def text(*values: float) -> str:
  """Numbers as MuJoCo's files have them."""
  return " ".join(f"{float(value):.9g}" for value in values)
