"""The steps that use a model: decoding a token of each row, encoding frames.

Bytes that a decode step cannot do without are the weights and the whole cache,
once: over the memory's bandwidth they give the least time of a step.

Shapes: B rows, L layers, H heads, S places of the cache, K head dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from totojax import assembly, flops, sequence, sharding
from totojax.config import schema
from totojax.config.pretrain import Plan, Pretrain
from totojax.jobs.plan import chips, settings
from totojax.models import decode
from totojax.tasks import pretrain as task_lib
from totojax.tokenizers import api, dvae

# Every data-parallel device has the whole model: gathering weights for each
# token would take longer than reading them.
RULES = sharding.ShardingRules(embed=None)
ADVICE = (
  "a smaller plan.rows decodes or encodes less at a time",
  "a smaller plan.cache_tokens holds shorter sequences",
  "a larger mesh.tensor splits weights and cache over the heads",
)
LIMITS = (
  "A step reads the whole static cache, also places that hold nothing yet.",
  "tokens/s and frames/s are those of the slower of cycles and memory.",
)


@dataclasses.dataclass(frozen=True)
class Step:
  """A decode or encode step of a config.

  Attributes:
    facts: what is known before anything is compiled, as plain values.
    lower: traces it for its mesh; None where nothing is to be compiled.
  """

  facts: Mapping[str, Any]
  lower: Callable[[], Any] | None


def step_of(config: Pretrain, *, devices: list[Any] | None) -> Step:
  """What `plan.what` asks for.

  Args:
    config: of `run = "pretrain"`.
    devices: of a topology; None: describe it for GPUs, compile nothing.

  Raises:
    ValueError: the mesh does not fit the devices.
  """
  planning = config.plan
  assembly.check_tokens(config, "a plan")
  if devices is not None:
    layout = sharding.layout(config.mesh, devices)
    layout = dataclasses.replace(layout, rules=RULES)
    ways = layout.ways
    facts = {"chips": len(devices), "mesh": dict(layout.mesh.shape)}
  else:
    layout = None
    _, count = settings.gpus(planning.topology)
    split = config.mesh.tensor
    if split < 1 or count % split:
      raise ValueError(f"mesh.tensor is {split}; it must divide the {count} GPUs")
    ways = count // split
    facts = {"chips": count, "mesh": {"data": ways, "fsdp": 1, "tensor": split}}
  facts |= {
    "what": planning.what,
    "topology": planning.topology,
    "slices": planning.slices,
    "batch": planning.rows * ways,
  }
  make = _decoding if planning.what == "decode" else _encoding
  return make(config, facts, layout)


def _decoding(config: Pretrain, facts: dict[str, Any], layout: sharding.Layout | None) -> Step:
  model = assembly.model(config, "gpu" if layout is None else "tpu")
  # A scan, as the weights are split by the axes of their stacks.
  compute = dataclasses.replace(model.compute, unroll=1)
  if layout is None:  # nothing is compiled, and cuDNN is not here
    compute = dataclasses.replace(compute, attention="xla")
  model = model.clone(compute=compute)
  c, spec = model.config, model.spec
  planning = config.plan
  room, rows = planning.cache_tokens or spec.context, facts["batch"]
  if room > spec.context:
    raise ValueError(
      f"plan.cache_tokens is {room:,}; the model's context is"
      f" {spec.context:,} (sequence.context): use that or fewer, or 0"
    )
  task = task_lib.Pretrain(model)

  def load(key):
    return decode.load(model, task.init(key).params)

  weights = jax.eval_shape(load, jax.random.key(0))
  cache = jax.eval_shape(lambda: decode.empty(model, rows=rows, room=room))
  read = dict(weights)
  if not c.tied:
    read.pop("embedding")  # one row of it for each token
  split = facts["mesh"]["tensor"]
  ways = rows // planning.rows
  facts |= {
    "dtype": model.compute.dtype,
    "cache_tokens": room,
    "parameters": flops.parameters(c, spec.vocab + sequence.SPECIALS),
    "weight_bytes": _bytes(weights) // split,
    "cache_bytes": _bytes(cache) // ways // split,
    "read_bytes": _bytes(read) // split + _bytes(cache) // ways // split,
    "model_flops_per_step": (2 * rows * c.decode_macs_per_token(vocab=spec.vocab, context=room)),
  }
  if layout is None:
    return Step(facts, None)

  placed = layout.shardings(decode.axes(model, cache), cache)

  def step(weights, cache, token_B, position):
    return decode.step(model, weights, cache, token_B, position)

  jitted = layout.jit(
    step,
    in_shardings=(
      layout.shardings(task.axes().params, weights),
      placed,
      layout.by_row,
      layout.whole,
    ),
    out_shardings=(layout.by_row, placed),
    donate_argnums=1,
  )
  token_B = jax.ShapeDtypeStruct((rows,), jnp.int32)
  position = jax.ShapeDtypeStruct((), jnp.int32)
  shapes = weights, cache, token_B, position
  return Step(facts, lambda: jitted.lower(*shapes))


def _encoding(config: Pretrain, facts: dict[str, Any], layout: sharding.Layout | None) -> Step:
  spec = config.sequence
  size = dvae.DvaeConfig(vocab=spec.vocab, **schema.to_dict(config.plan.dvae))
  size_px = spec.grid * size.factor
  params = {"encoder": dvae.shapes(size)["encoder"]}
  passes = api.PASSES[api.HIGHEST]
  macs = dvae.macs(size, size_px)
  facts |= {
    "dtype": "float32",
    "size_px": size_px,
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "weight_bytes": _bytes(params),
    "macs_per_frame": macs,
    # The peak is one of bfloat16, and a float32 product is several.
    "passes": passes,
    "model_flops_per_step": 2 * macs * facts["batch"] * passes,
  }
  if layout is None:
    return Step(facts, None)
  jitted = layout.jit(
    lambda params, frames: dvae.codes(size, params, frames, precision=api.HIGHEST),
    in_shardings=(layout.whole, layout.by_row),
    out_shardings=layout.by_row,
  )
  frames = jax.ShapeDtypeStruct((facts["batch"], size_px, size_px, 3), jnp.uint8)
  return Step(facts, lambda: jitted.lower(params, frames))


def arithmetic(step: Step, planning: Plan) -> dict[str, Any]:
  """The step on GPUs, for which there is no compiler: FLOPs and bytes only."""
  facts, (kind, count) = dict(step.facts), settings.gpus(planning.topology)
  gpu = chips.gpu(kind)
  peak = flops.peak_flops_per_s(kind)
  if facts["what"] == "encode":
    # float32 on the vector units; passes are a TPU's.
    facts["model_flops_per_step"] //= facts["passes"]
    facts["passes"], peak = 1, gpu.float32_flops_per_s
  products_s = facts["model_flops_per_step"] / count / peak / planning.busy
  read_s = facts.get("read_bytes", 0) / gpu.hbm_bytes_per_s
  facts |= {
    "source": "arithmetic",
    "device_kind": kind,
    "assumed_mfu": planning.busy,
    "products_s": products_s,
    "step_s": max(products_s, read_s),
    "limits": [
      f"Arithmetic only: plan.busy={planning.busy:g} of the peak is an"
      " assumption, and no memory but weights and cache is counted.",
      *LIMITS,
    ],
  }
  return facts | rates(facts, hbm_bytes_per_s=gpu.hbm_bytes_per_s)


def rates(facts: Mapping[str, Any], *, hbm_bytes_per_s: float) -> dict[str, float]:
  """The bandwidth floor of a decode step, and tokens/s or frames/s."""
  row = {}
  floor_s = 0.0
  if "read_bytes" in facts:
    floor_s = facts["read_bytes"] / hbm_bytes_per_s
    row = {"hbm_bytes_per_s": hbm_bytes_per_s, "floor_s": floor_s}
  slower_s = max(facts.get("step_s") or 0.0, floor_s)
  if slower_s:
    unit = {"decode": "tokens", "encode": "frames"}[facts["what"]]
    per_s = facts["batch"] / slower_s
    row[f"{unit}_per_s"] = per_s
    row[f"{unit}_per_s_of_a_chip"] = per_s / facts["chips"]
  return row


def _bytes(tree: Any) -> int:
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
