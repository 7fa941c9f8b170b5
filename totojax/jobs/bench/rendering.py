"""Row `world`: frames of the rendered world with their truth, against MuJoCo's default settings."""

from collections.abc import Iterator
import time
from typing import TYPE_CHECKING

from totojax.config.bench import WorldBench
from totojax.jobs.bench import measure
from totojax.world import delivery, processes

if TYPE_CHECKING:
  from totojax.world import film

GOAL_PER_CPU_S = 300.0  # frames of 128 px, physics and all, of one core


def goal(per_cpu_s: list[float]) -> measure.Goal:
  """Of frames of 128 px a CPU-second, a reading each."""
  middle = measure.spread(per_cpu_s).median
  return measure.Goal("frames a CPU-second, physics included", middle, GOAL_PER_CPU_S)


def clock(clip: "film.Clip") -> tuple[int, float]:
  """(frames of a clip, CPU-seconds of this child so far)."""
  return len(clip.rgb_NHW3), time.process_time()


def as_by_default(clip: "film.Clip") -> tuple[int, float]:
  """The same for a clip that is drawn again, as MuJoCo's own renderer does by default.

  With shadows, reflections and multisampling; colours, masks and depth.
  """
  from totojax.world import film, mjcf

  mj, spec = film.mujoco(), clip.scene.spec
  model = film.compiled(mj, clip.scene)
  model.vis.quality.shadowsize, model.vis.quality.offsamples = 4096, 4
  model.light_castshadow[:] = 1
  data = mj.MjData(model)
  begin = time.process_time()
  with mj.Renderer(model, spec.height_px, spec.width_px) as renderer:
    for _ in range(spec.frames):
      mj.mj_step(model, data, nstep=mjcf.LOOKS * mjcf.substeps(spec.fps))
      for turn_on, turn_off in (
        (None, None),
        (renderer.enable_depth_rendering, renderer.disable_depth_rendering),
        (renderer.enable_segmentation_rendering, renderer.disable_segmentation_rendering),
      ):
        if turn_on:
          turn_on()
        renderer.update_scene(data, camera=0)
        renderer.render()
        if turn_off:
          turn_off()
  return spec.frames, time.process_time() - begin


def rows(settings: WorldBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Frames per second of one process, its start included, and per CPU-second without it.

  Raises:
    ImportError: MuJoCo or OpenGL is missing.
  """
  rates: dict[str, list[float]] = {"ours": [], "theirs": []}

  def specs(count: int):
    return (delivery.spec(settings.scene, harness.seed, n) for n in range(count))

  def ours() -> int:
    with processes.Pool(1) as pool:
      told = list(pool.films(specs(settings.clips + 1), clock))
    frames = sum(count for count, _ in told[1:])  # the first one starts OpenGL
    rates["ours"].append(frames / max(told[-1][1] - told[0][1], measure.LEAST_S))
    return frames

  def theirs() -> int:
    with processes.Pool(1) as pool:
      told = list(pool.films(specs(1), as_by_default))
    rates["theirs"].append(told[0][0] / max(told[0][1], measure.LEAST_S))
    return told[0][0]

  yield harness.compare(
    measure.Side("no shadows, reflections or multisampling; two passes", ours),
    measure.Side("MuJoCo's renderer as it is by default; three passes", theirs),
    case=f"{settings.scene.kind}, {settings.scene.width_px} x {settings.scene.height_px}",
    compares="frames with masks, depth, boxes, places, contacts and events",
    unit="frames",
    goals=lambda rounds: [goal(rates["ours"][1:])],
    facts=lambda rounds: {
      "per_cpu_s": {name: values[1:] for name, values in rates.items()},
      "frames_of_a_clip": settings.scene.frames,
    },
  )
