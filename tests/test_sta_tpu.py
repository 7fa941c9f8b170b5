"""A step of anticipation compiled for a TPU: it fits, and detection is a small part of it."""

import json

import pytest
import test_aot as aot

# In a process of its own: what is compiled is base at 16 frames and a still of 32 x 32 tokens,
# a row a chip. A loop until nothing changes has no readable number of rounds: NMS is given more
# than it takes.
STEP = """
import json
import re
import jax
from totojax import assembly, sharding
from totojax.config import recipes, roots, sta_recipes
from totojax.jobs.plan import chips, estimate, hlo
from totojax.jobs.sta import job
from totojax.models import boxes
from totojax.tasks import pretrain

ROUNDS, ROWS, TOPOLOGY = 32, 4, "v5e:2x2"

def rounds(round_, first):
  state = (first, jax.numpy.array(True))
  return jax.lax.fori_loop(0, ROUNDS, lambda _, state: round_(state), state)[0]

boxes.settled = rounds
base = roots.read(recipes.paper("base").to_dict())
config = sta_recipes.tuned()
config.model_run, config.data.root = "RUN", "EGO4D"
config.data.update(clip_px=128, still_px=256)  # 16 x 16 and 32 x 32 tokens of 8 pixels
config.train.batch_rows = ROWS
config = roots.read(config.to_dict())
layout = sharding.layout(config.mesh, chips.devices(TOPOLOGY, slices=1))
clip, still = job.models(config, assembly.model(base, "tpu"), 8, backend="tpu")
task = job.make_task(config, pretrain.Pretrain(clip), still, nouns=87, verbs=74)
program = assembly.program(
  config, task=task, steps=1000, rows=ROWS, microbatches=1, layout=layout,
  optimiser=job.layered_optimiser(config, task, 1000),
)
done = program.step_fn.lower(program.shapes, task.batch_spec(ROWS)).compile()
cycles = {"nms": 0.0, "roi_align": 0.0, "all": 0.0}
unpriced = set()
for operation in hlo.Module(done.as_text()).operations():
  found = re.search(r"\\bnms\\b|roi_align", operation.op_name)
  for name in ("all", *([found[0]] if found else [])):
    cycles[name] += operation.times * operation.cycles
  if found and not operation.cycles:
    unpriced.add(operation.opcode)
print("FOUND", json.dumps({
  "cycles": cycles, "unpriced": sorted(unpriced), "regions": config.detector.regions,
  "positions": [clip.spec.context, still.spec.context],
  **estimate.memory(done.memory_analysis()),
}))
"""


@aot.needs_compiler
@pytest.mark.slow
def test_a_step_of_base_fits_a_v5e_and_detects_in_a_tenth_of_its_cycles():
  (line,) = [x for x in aot.apart("-c", STEP).splitlines() if x.startswith("FOUND ")]
  print(line)  # the numbers of docs/anticipation.md
  found = json.loads(line.removeprefix("FOUND "))
  assert found["regions"] == 512 and found["peak_gib"] < 15.75
  cycles = found["cycles"]
  assert cycles["nms"] > 0 and cycles["roi_align"] > 0
  # Attention's kernels have no estimate, so that the share is of less than all.
  assert cycles["nms"] + cycles["roi_align"] <= 0.1 * cycles["all"]
  # What the compiler gives no cycles is no work of theirs.
  assert not {*found["unpriced"]} & {"gather", "scatter", "custom-call", "sort"}
