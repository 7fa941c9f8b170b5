"""Config keys of the robots' environments (section `env` of `run = "robots"`)."""

from totojax.config.schema import ConfigError, field, Section, section

TASKS = ("pick", "cabinet")
SUITE_TASKS = ("lift", "door")  # robosuite's
ARMS = ("panda", "iiwa")
SIMULATORS = {"world": TASKS, "robosuite": SUITE_TASKS}  # and their tasks
_OURS = ("step_rad", "spread", "goal_m")  # keys of our own scenes


@section("env")
class EnvConfig(Section):
  """A robot, its task, and what is seen and known of them.

  Attributes:
    simulator: "world": scenes of our own; "robosuite": robosuite 1.5.2, in a Python
      of its own (`worlds.python`; docs/robots.md).
    task: of ours, "pick": a cube is lifted; "cabinet": a drawer is pulled open by its
      bar. Of robosuite's, "lift": a cube is lifted; "door": a door is opened by its
      handle, which is turned first.
    arm: whose joints: Franka's Panda, or KUKA's LBR iiwa 7; of ours both have one
      gripper, of robosuite's the second has Robotiq's.
    image: whether pixels are drawn. Without, observations have no "image" and no
      "wrist", and no OpenGL is needed.
    spread: of where things are at first: 0: always in the same place; 1: a cube
      within 0.2 x 0.3 m and 40 degrees each way, a cabinet within 0.06 x 0.2 x 0.1 m
      and 18 degrees.
    until_success: whether an episode ends with success; else it goes on to
      `steps`, as MVP's do.
    goal_m: how high a cube, or how far a drawer; 0: 0.4 and 0.15.
  """

  simulator: str = field("world", "ours, or robosuite's", choices=tuple(SIMULATORS))
  task: str = field("pick", "what is done", "Figure 6", choices=TASKS + SUITE_TASKS)
  arm: str = field("panda", "that does it", "Figure 6", choices=ARMS)
  image: bool = field(True, "draw pixels")
  size_px: int = field(128, "side of a frame", at_least=16, at_most=1024)
  wrist: bool = field(False, "a second camera, on the gripper")
  steps: int = field(500, "of an episode at most", "MVP", at_least=10, at_most=100_000)
  hold_steps: int = field(
    10, "in the goal, one after the other, that are success", "MVP", at_least=1
  )
  rate_hz: float = field(20.0, "steps of control a second", at_least=5.0, at_most=100.0)
  step_rad: float = field(0.08, "that an action of 1 turns a joint's target", above=0, at_most=0.5)
  spread: float = field(1.0, "of where things are at first", at_least=0, at_most=1)
  goal_m: float = field(0.0, "of the cube or the drawer; 0: the task's", at_least=0, at_most=0.5)
  until_success: bool = field(True, "an episode ends with success")

  def __post_init__(self):
    if self.task not in (tasks := SIMULATORS[self.simulator]):
      raise ConfigError(
        f"env.task is {self.task!r}, and tasks of env.simulator {self.simulator!r} are"
        f" {', '.join(tasks)}; use one of these, or the other simulator"
      )
    if self.simulator != "world":
      for name in _OURS:
        if (value := getattr(self, name)) != (
          usual := type(self).__dataclass_fields__[name].default
        ):
          raise ConfigError(
            f"env.{name} is {value}, which robosuite does not know; leave it at {usual}"
          )
    if self.wrist and not self.image:
      raise ConfigError("env.wrist is set and env.image is not; set env.image too, or neither")
    if self.hold_steps > self.steps:
      raise ConfigError(
        f"env.hold_steps is {self.hold_steps}, more than env.steps {self.steps}; nothing could"
        " succeed: use fewer"
      )
    if self.task == "cabinet" and self.goal_m > 0.18:
      raise ConfigError(
        f"env.goal_m is {self.goal_m}, and the drawer opens 0.2 m; use 0.18 or less"
      )
