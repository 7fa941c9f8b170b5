"""Row `robots`: steps of a robot's environment with pixels, against MuJoCo's default settings."""

from collections.abc import Iterator
import time

from totojax.config.bench import RobotsBench
from totojax.config.robot_envs import EnvConfig
from totojax.data.pixels import workers
from totojax.jobs.bench import measure
from totojax.world import processes

GOAL_PER_CPU_S = 300.0  # frames of 128 px, physics and all, of one core


def clock(config: EnvConfig, frames: int, *, by_default: bool) -> tuple[int, float]:
  """(frames, CPU-seconds of this child) of an expert's episodes; what it thinks is left out.

  Args:
    config: of the environment.
    frames: steps of control.
    by_default: drawn as MuJoCo's own renderer does, with shadows, reflections and
      multisampling.
  """
  processes.take_gl("")
  from totojax.world import film
  from totojax.world.robots import experts, simulation

  stage = simulation.Stage(config)
  made, expert, cpu_s = simulation.Simulation(stage), experts.expert(config), 0.0
  renderer = None
  if by_default:
    stage.close()
    model = stage.model
    model.vis.quality.shadowsize, model.vis.quality.offsamples = 4096, 4
    model.light_castshadow[:] = 1
    renderer = film.mujoco().Renderer(model, config.size_px, config.size_px)
  for n in range(frames + 1):
    if made.episode.is_done:
      made.reset(n)
      seen = made.observe()
    action = expert(seen["state"], seen["proprio"])
    begin = time.process_time()
    made.step(action)
    seen = made.observe()
    if renderer is not None:
      renderer.update_scene(made.data, camera="front")
      renderer.render()
    cpu_s += (time.process_time() - begin) * (n > 0)  # the first one starts OpenGL
  if renderer is not None:
    renderer.close()
  stage.close()
  return frames, cpu_s


def rows(settings: RobotsBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Frames per second of one process, its start included, and per CPU-second without it.

  Raises:
    ImportError: MuJoCo or OpenGL is missing.
  """
  for task in settings.tasks:
    yield _row(settings, harness, EnvConfig(task=task, arm=settings.arm, size_px=settings.size_px))


def _row(settings: RobotsBench, harness: measure.Harness, config: EnvConfig) -> measure.Measurement:
  rates: dict[str, list[float]] = {"ours": [], "theirs": []}

  def side(name: str, frames: int, *, by_default: bool) -> int:
    with workers.children(1, processes.begin, "") as child:
      done, cpu_s = child.submit(clock, config, frames, by_default=by_default).result()
    rates[name].append(done / max(cpu_s, measure.LEAST_S))
    return done

  few = max(settings.frames // 10, 1)
  return harness.compare(
    measure.Side(
      "no shadows, reflections or multisampling",
      lambda: side("ours", settings.frames, by_default=False),
    ),
    measure.Side(
      "MuJoCo's renderer as it is by default", lambda: side("theirs", few, by_default=True)
    ),
    case=f"{config.task}, {config.arm}, {config.size_px} px",
    compares="steps of control with one camera, physics included",
    unit="frames",
    goals=lambda rounds: [
      measure.Goal(
        "frames a CPU-second, physics included",
        measure.spread(rates["ours"][1:]).median,
        GOAL_PER_CPU_S,
      )
    ],
    facts=lambda rounds: {"per_cpu_s": {name: values[1:] for name, values in rates.items()}},
  )
