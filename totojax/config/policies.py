"""Config keys of policies on frozen features: behaviour cloning, DAgger (section 4.6)."""

from collections.abc import Mapping

from totojax.config import track
from totojax.config.robot_envs import EnvConfig
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS

BASELINES = ("untrained", "pixels", "blind", "state")
FORMATS = ("auto", "lerobot", "robomimic")
ACTIONS = ("recorded", "deltas")


@section("head")
class PolicyHead(Section):
  """MVP's head (Xiao et al., 2022): what is embedded, and a perceptron on it.

  Attributes:
    embed: values that features, and what the robot feels, are made of each by a
      linear layer; 0: they go on as they are.
    norm: a trained LayerNorm on the features of frames.
    standardise: features by their mean and deviation over what is learned from,
      before the norm, which sees one frame alone.
    hidden: units of the perceptron's layers, with SELU between.
  """

  embed: int = field(128, "of features and of the robot's own state; 0: none", "MVP", at_least=0)
  norm: bool = field(True, "LayerNorm on features", "MVP")
  standardise: bool = field(False, "features, before the norm", "MVP")
  hidden: tuple[int, ...] = field((256, 128, 64), "units", "MVP", at_least=1)
  gain: float = field(2**0.5, "of orthogonal matrices at the start", "MVP", above=0)
  last_gain: float = field(0.01, "of the last one", "MVP", above=0)


@section("train")
class Imitation(Section):
  """AdamW on the squared error of actions, with half a cosine."""

  epochs: float = field(400.0, "over the steps that were recorded", "MVP", above=0)
  warmup_epochs: float = field(40.0, "linear from 0", "MVP", at_least=0)
  batch_rows: int = field(128, "of an update", "MVP", at_least=1)
  lr: float = field(1e-3, "peak rate", "MVP", above=0)
  weight_decay: float = field(0.01, "on matrices", "MVP", at_least=0)

  def __post_init__(self):
    if self.warmup_epochs >= self.epochs:
      raise ConfigError(
        f"train.warmup_epochs is {self.warmup_epochs:g} of {self.epochs:g} epochs; shorten the"
        " warm-up or train longer"
      )


@section("view")
class CameraView(Section):
  """What of a camera's frame an encoder sees, resized to its own size.

  Attributes:
    crop_px: side of a square that is cut out of the frame, in the middle of its
      lower edge as RPT does; 0: the largest in its centre.
    start: what a sequence of one of our models begins with: "video" is a clip of
      one frame, as models of videos know frames.
    pool_side: an encoder's tokens of a frame are averaged over so many regions of a
      side (adaptive average pooling), whose means stand side by side: where things
      are is then told. 1: over the whole frame.
  """

  crop_px: int = field(0, "of a square at the lower edge; 0: none", "RPT: 448", at_least=0)
  start: str = field("video", "of our models", "[gap]", choices=("image", "video"))
  pool_side: int = field(1, "regions of a side, average pool", "section 4.6", at_least=1)
  rows: int = field(32, "frames of a forward pass", at_least=1)


@section("")
class Policies(Job):
  """What all jobs of policies have.

  Attributes:
    encoders: name -> whose features; of one without layers the middle one is used.
    baselines: untrained: runs of ours as they were before training; pixels: small
      frames themselves; blind: a policy that sees no frame; state: one that sees
      where everything is.
  """

  seed: int = field(0, "of everything drawn", at_least=0, below=SEEDS)
  encoders: Mapping[str, track.Tracker] = field({}, "name -> whose features")
  baselines: tuple[str, ...] = field(BASELINES, "beside them", choices=BASELINES, once=True)
  pixels_side: int = field(16, "of frames as features", at_least=1, at_most=256, unit="pixels")
  view: CameraView = field(CameraView(), "what of a frame is seen")
  head: PolicyHead = field(PolicyHead(), "the policy")
  train: Imitation = field(Imitation(), "how it is trained")

  def __post_init__(self):
    track.check_names(self.encoders, BASELINES)
    if on_disk := sorted(name for name, one in self.encoders.items() if one.features):
      raise ConfigError(
        f"encoders.{on_disk[0]} is of features on disk, and policies see frames that nobody has"
        " seen before: name an encoder or a run"
      )
    if not self.encoders and not {*self.baselines} - {"untrained"}:
      raise ConfigError("encoders is empty, and so are baselines; name what policies see")


@section("data")
class Recorded(Section):
  """Recorded trajectories, as they lie on disk.

  Attributes:
    root: folder of a LeRobot data set (2.1, 3.0), or robomimic's HDF5 file.
    camera: its key; "": the only one.
    felt: what the robot feels of itself: LeRobot's columns, robomimic's keys below
      obs/, one after the other.
    state: the same of where everything is, for the policy that sees it; (): that
      policy is left out.
    actions: "recorded" as they are; "deltas": changes of the first `joints` felt
      numbers to the next step in which something has moved, and the gripper that
      follows them (RPT's).
  """

  root: str = field("", "LeRobot's folder, or robomimic's file")
  format: str = field("auto", "whose", choices=FORMATS)
  camera: str = field("", "key; '': the only one")
  felt: tuple[str, ...] = field(("observation.state",), "columns or keys", some=True, once=True)
  state: tuple[str, ...] = field((), "columns or keys; (): none", once=True)
  action: str = field("action", "column, of LeRobot's")
  mask: str = field("", "robomimic's filter key; '': all")
  episodes: int = field(0, "first ones; 0: all", at_least=0)
  heldout_frac: float = field(0.1, "of episodes, drawn", "[gap]", above=0, below=1)
  actions: str = field("recorded", "what is learned", choices=ACTIONS)
  joints: int = field(7, "first numbers felt, of deltas; the gripper follows", "RPT", at_least=1)
  least_rad: float = field(0.004, "of deltas: less is no movement", "RPT", at_least=0)
  gripper_scale: float = field(0.2, "times the gripper, of deltas", "RPT", above=0)


@section("paper")
class Paper(Section):
  """The paper's number that stands beside ours."""

  name: str = field("", "where it is printed; '': none")
  successes: int = field(0, "trials that succeeded", at_least=0)
  trials: int = field(0, "of so many", at_least=0)


@section("worlds")
class Worlds(Section):
  """How environments are run.

  Attributes:
    python: of `env.simulator` robosuite: the interpreter that has it.
  """

  count: int = field(16, "of them at a time", at_least=1, at_most=4096)
  processes: int = field(-1, "they are in; -1: one a core", at_least=-1)
  gl: str = field(
    "", "egl or osmesa; '': MUJOCO_GL, or what is found", choices=("", "egl", "osmesa")
  )
  python: str = field("", "with robosuite; '': TOTOJAX_ROBOSUITE_PYTHON, or the one that runs")


@section("output")
class Output(Section):
  """What is drawn of roll-outs."""

  episodes: int = field(2, "of each row, as videos", at_least=0)
  fps: float = field(20.0, "of a video", above=0, at_most=240)
  side_px: int = field(128, "of a frame, at least", at_least=16, at_most=1024)


@section("", run="clone")
class Clone(Policies):
  """`run = "clone"`: behaviour cloning from recorded trajectories (Table 11).

  Attributes:
    trials: roll-outs of every policy in `env`, which must be what was recorded in;
      0: none.
  """

  data: Recorded = field(Recorded(), "what was recorded")
  seeds: int = field(1, "policies of each row", at_least=1)
  trials: int = field(0, "roll-outs of each policy in env; 0: none", "Table 11: 16", at_least=0)
  env: EnvConfig = field(EnvConfig(), "where trials are")
  worlds: Worlds = field(Worlds(), "how environments are run")
  output: Output = field(Output(), "what is drawn")
  paper: Paper = field(Paper(), "what it is compared with")

  def __post_init__(self):
    Policies.__post_init__(self)
    if self.trials and self.data.actions == "deltas":
      raise ConfigError(
        "trials is set and data.actions is 'deltas', which are no actions of env; set data.actions"
        " to 'recorded', or trials to 0"
      )


@section("", run="dagger")
class Dagger(Policies):
  """`run = "dagger"`: an expert corrects what policies do (Ross et al., 2011; Figure 6).

  In the first iteration the expert acts, then the policy; what the expert would do
  in each state that was visited is added to what the policy is trained on.

  Attributes:
    beta: share of steps in which the expert acts from the second iteration on.
    restart: whether each iteration trains a fresh policy, or goes on with the last.
  """

  env: EnvConfig = field(EnvConfig(), "robot and task")
  worlds: Worlds = field(Worlds(), "how environments are run")
  iterations: int = field(8, "of roll-outs and training", "[gap]", at_least=1, at_most=999)
  episodes: int = field(16, "rolled out in each", "[gap]", at_least=1)
  beta: float = field(0.0, "of steps the expert acts in later", "Ross", at_least=0, at_most=1)
  restart: bool = field(True, "a fresh policy in each iteration", "Ross")
  trials: int = field(50, "episodes that score a policy", "[gap]", at_least=1)
  seeds: int = field(3, "runs of each row", "[gap]", at_least=1, at_most=999)
  train: Imitation = field(Imitation(epochs=100.0, warmup_epochs=0.0), "epochs 100.0", "[gap]")
  output: Output = field(Output(), "what is drawn")


@section("", run="record")
class Record(Job):
  """`run = "record"`: an expert's roll-outs as a LeRobot data set (3.0).

  Attributes:
    noise: standard deviation that is added to what the expert does, so that it is
      seen to mend things; what it would have done is recorded.
    failures: whether episodes are kept that did not succeed.
  """

  seed: int = field(0, "of where things are at first", at_least=0, below=SEEDS)
  env: EnvConfig = field(EnvConfig(), "robot and task")
  worlds: Worlds = field(Worlds(), "how environments are run")
  episodes: int = field(50, "that are rolled out", at_least=1)
  noise: float = field(0.0, "of actions, which are -1 to 1", at_least=0)
  failures: bool = field(False, "keep those that did not succeed")


@section("", run="policy_server")
class PolicyServer(Job):
  """`run = "policy_server"`: frames of a robot in, actions out (docs/robots.md).

  Attributes:
    socket: path of a Unix socket, which is made; "": `host` and `port` instead.
    latency: file for counts and a histogram of latencies, written at the end.
  """

  policy: str = field("", "folder with policy.json, as RUN/policies/NAME/0")
  host: str = field("127.0.0.1", "that is listened on: whoever reaches it can use it")
  port: int = field(7651, "0: a free one", at_least=0, below=2**16)
  socket: str = field("", "path of a Unix socket in place of host and port")
  idle_s: float = field(30.0, "of silence after which a client is let go", above=0)
  warm_px: int = field(128, "side of a frame that is computed first", at_least=1, at_most=8192)
  latency: str = field("", "file of latencies, JSON; '': none")
