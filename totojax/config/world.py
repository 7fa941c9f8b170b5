"""Config keys of the rendered world (`run = "world"`)."""

import dataclasses

from ml_collections import ConfigDict

from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS, to_config

KINDS = ("tabletop", "containers", "hand")
FORMATS = ("stores", "davis", "cater", "ego4d")
ACTORS = ("", "hand", "gripper", "panda", "iiwa")
LABELS = {"tabletop": ("",), "containers": ("", "cell"), "hand": ("", "verb", "noun")}
MOST_THINGS = 24
LEAST_FRAMES = 12  # of "hand"


@section("scene")
class SceneConfig(Section):
  """What is rendered; with the seed it decides every pixel.

  Attributes:
    kind: "tabletop": things roll, slide and fall; "containers": cones cover and
      carry a golden snitch, as in CATER; "hand": a hand takes, pushes or opens
      one of several things.
    things: that lie about; of "containers" the snitch and two cones are among them.
    camera: "both": every other scene.
    actor: of "hand": who acts; "": a hand or a gripper, by the seed. The arms
      have the joints of Franka's Panda and KUKA's LBR iiwa 7.
    nouns: of "hand": "colour": things are plain, and their noun is their colour, which
      a small model sees; a drawer is one by its shape.
    carried_frac: of "containers": clips in which the snitch is carried while it
      is hidden, and is hidden at the end; in the others it is not. 0: as it comes.
    move_frames: of "containers": of one movement.
  """

  kind: str = field("tabletop", "of scene", choices=KINDS)
  frames: int = field(16, "of a clip", at_least=1, at_most=10_000)
  width_px: int = field(128, "of a frame", at_least=16, at_most=4096)
  height_px: int = field(128, "of a frame", at_least=16, at_most=4096)
  fps: float = field(15.0, "of the clip", at_least=1.0, at_most=240.0)
  things: tuple[int, int] = field((4, 7), "least and most", at_least=1, at_most=MOST_THINGS)
  camera: str = field("both", "of a scene", choices=("still", "moving", "both"))
  zoom: float = field(1.0, "how much larger things are seen", above=0, at_most=10)
  container: str = field("cone", "containers: what covers", choices=("cone", "cup"))
  actor: str = field("", "hand: who acts", choices=ACTORS)
  nouns: str = field("shape", "hand: what things are told apart by", choices=("shape", "colour"))
  carried_frac: float = field(0.0, "containers: carried while hidden", at_least=0, at_most=1)
  move_frames: tuple[int, int] = field((20, 30), "containers: least and most", "CATER", at_least=4)

  def __post_init__(self):
    for name in ("things", "move_frames"):
      least, greatest = getattr(self, name)
      if least > greatest:
        raise ConfigError(f"scene.{name} is {(least, greatest)}; give the smaller first")
    if self.kind == "hand" and self.frames < LEAST_FRAMES:
      raise ConfigError(
        f"scene.frames is {self.frames}, and a hand takes {LEAST_FRAMES} to come to something; use"
        f" {LEAST_FRAMES} or more"
      )
    if self.kind == "containers" and self.things[0] < 3:
      raise ConfigError(
        f"scene.things is {self.things}; the snitch and two cones are 3: use 3 or more"
      )
    if self.kind == "containers" and self.carried_frac and self.frames < 3 * self.move_frames[1]:
      raise ConfigError(
        f"scene.frames is {self.frames}, and to be covered and carried takes up to"
        f" {3 * self.move_frames[1]}; use more frames, or a smaller scene.move_frames"
      )


@section("amount")
class WorldAmount(Section):
  """How many clips."""

  train: int = field(256, "clips", at_least=0, at_most=10_000_000)
  val: int = field(64, "clips, held out", at_least=0, at_most=10_000_000)
  records_per_shard: int = field(64, "stores: clips of a shard", at_least=1)


@section("output")
class WorldOutput(Section):
  """What is written.

  Attributes:
    format: "stores": WORKDIR/train and WORKDIR/val, which other jobs read, and
      their truth in WORKDIR/train_truth and WORKDIR/val_truth; "davis":
      JPEGImages, Annotations and ImageSets of DAVIS 2017; "cater": videos, scenes
      and lists of CATER; "ego4d": videos and annotations of short-term anticipation.
    label: stores: what is labelled: the snitch's last cell, what the hand does,
      or to what; "": nothing.
    queries: of "ego4d": frames of a clip that are asked about.
    before: of "ego4d": frames that they are before the contact, least and most.
  """

  format: str = field("stores", "of the files", choices=FORMATS)
  label: str = field("", "of stores", choices=("", "cell", "verb", "noun"))
  queries: int = field(4, "ego4d: of a clip", at_least=1, at_most=64)
  before: tuple[int, int] = field((2, 18), "ego4d: frames", at_least=1)
  jpeg_quality: int = field(95, "davis: of the frames", at_least=1, at_most=100)
  shown: int = field(6, "clips on the page", at_least=0, at_most=64)


@section("", run="world")
class World(Job):
  """`run = "world"`: clips of a rendered world with masks, depth, boxes, places and events."""

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  scene: SceneConfig = field(SceneConfig(), "what is rendered")
  amount: WorldAmount = field(WorldAmount(), "how much")
  output: WorldOutput = field(WorldOutput(), "what is written")
  processes: int = field(-1, "that render; -1: one for each core", at_least=-1)
  gl: str = field("", "OpenGL; '': MUJOCO_GL, or as found", choices=("", "egl", "osmesa"))

  def __post_init__(self):
    scene, label, kind = self.scene, self.output.label, self.output.format
    if label not in LABELS[scene.kind]:
      raise ConfigError(
        f"output.label is {label!r}, which scene.kind {scene.kind!r} has not; use one of"
        f" {', '.join(map(repr, LABELS[scene.kind]))}"
      )
    if kind == "cater" and scene.kind != "containers":
      raise ConfigError(
        f"output.format is 'cater', and scene.kind {scene.kind!r}; CATER's files are of"
        " 'containers'"
      )
    if kind == "ego4d":
      self._check_ego4d()
    if label == "noun" and scene.nouns != "shape":
      raise ConfigError("output.label is 'noun', and scene.nouns 'colour'; stores label shapes")
    if kind == "stores" and scene.width_px != scene.height_px:
      raise ConfigError(
        f"frames are {scene.width_px} x {scene.height_px}, and stores hold squares; set"
        " scene.width_px and scene.height_px to the same, or another output.format"
      )
    if not self.amount.train + self.amount.val:
      raise ConfigError("amount.train and amount.val are both 0; nothing would be rendered")
    if self.processes == 0:
      raise ConfigError("processes is 0; rendering takes one or more (-1: one for each core)")

  def _check_ego4d(self) -> None:
    least, most = self.output.before
    if self.scene.kind != "hand" or self.scene.camera != "still":
      raise ConfigError(
        f"output.format is 'ego4d', scene.kind {self.scene.kind!r} and scene.camera"
        f" {self.scene.camera!r}; its files are of 'hand' seen by a 'still' one"
      )
    if not least < most < self.scene.frames // 2 or most - least + 1 < self.output.queries:
      raise ConfigError(
        f"output.before is {(least, most)}; it should be from a smaller number to a greater one,"
        f" below half of scene.frames {self.scene.frames}, with room for output.queries"
        f" {self.output.queries}"
      )


def recipe(what: str) -> ConfigDict:
  """A config of `run = "world"` for one of `RECIPES`.

  Raises:
    ConfigError: there is no such recipe.
  """
  if what not in RECIPES:
    raise ConfigError(f"{what!r} is unknown; use one of {', '.join(RECIPES)}")
  return to_config(RECIPES[what])


_CATER = SceneConfig("containers", 301, 320, 240, 24.0, (5, 10), camera="still", carried_frac=0.0)
RECIPES = {
  # Stores of clips.
  "tabletop": World(),
  "hand": World(
    scene=SceneConfig("hand", 48, fps=16.0, camera="still"), output=WorldOutput(label="verb")
  ),
  "containers": World(
    scene=SceneConfig("containers", 64, camera="still", move_frames=(8, 12), carried_frac=0.5),
    output=WorldOutput(label="cell"),
  ),
  # Files of data sets, and as they are: CATER's sizes, and a small stand-in.
  "davis": World(
    scene=SceneConfig(frames=48, width_px=256, height_px=256, fps=24.0),
    amount=WorldAmount(train=0, val=30),
    output=WorldOutput("davis"),
  ),
  "cater": World(
    scene=_CATER, amount=WorldAmount(train=3850, val=1650), output=WorldOutput("cater")
  ),
  # What a hand will touch; a model of 1 to 3 million parameters learns it.
  "ego4d_small": World(
    scene=SceneConfig(
      "hand", 40, fps=16.0, things=(3, 5), camera="still", actor="hand", nouns="colour"
    ),
    amount=WorldAmount(train=600, val=150),
    output=WorldOutput("ego4d"),
  ),
  "cater_small": World(
    scene=dataclasses.replace(
      _CATER,
      frames=64,
      width_px=128,
      height_px=96,
      things=(4, 7),
      move_frames=(8, 12),
      carried_frac=0.5,
    ),
    amount=WorldAmount(train=1000, val=300),
    output=WorldOutput("cater"),
  ),
  # Three or four things in clips of one second: less to render, and to learn.
  "cater_tiny": World(
    scene=dataclasses.replace(
      _CATER,
      frames=24,
      width_px=128,
      height_px=96,
      things=(3, 4),
      move_frames=(5, 8),
      carried_frac=0.5,
    ),
    amount=WorldAmount(train=2000, val=300),
    output=WorldOutput("cater"),
  ),
}
