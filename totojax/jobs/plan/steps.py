"""Steps of a pre-training config, for devices that are not here.

To train, to decode a token of each row, or to encode frames. Bytes that a
decode step cannot do without are the weights and the whole cache, once: over
the memory's bandwidth they give the least time of a step.

Shapes: B rows, L layers, H heads, S places of the cache, K head dim.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from totojax import assembly, flops, sequence, sharding
from totojax.config import schema
from totojax.config.model import EACH_FRAME
from totojax.config.pretrain import Pretrain
from totojax.jobs import pretrain
from totojax.jobs.plan import chips
from totojax.models import decode, trunk
from totojax.tasks import pretrain as task_lib
from totojax.tokenizers import api, dvae

# Every data-parallel device has the whole model: gathering weights for each
# token would take longer than reading them.
RULES = sharding.ShardingRules(embed=None)
ADVICE = (
  "compute.remat='full' keeps least, then 'projections', then 'products'",
  "a larger train.microbatches computes fewer rows at a time",
  "a larger mesh.fsdp splits parameters and moments further",
  "compute.attention='auto' keeps no tokens x tokens array on a TPU",
)
SERVING_ADVICE = (
  "a smaller plan.rows decodes or encodes less at a time",
  "a smaller plan.cache_tokens holds shorter sequences",
  "a larger mesh.tensor splits weights and cache over the heads",
)
SERVING_LIMITS = (
  "A step reads the whole static cache, also places that hold nothing yet.",
  "tokens/s and frames/s are those of the slower of cycles and memory.",
  "Weights that are copied to the cores ahead of their products count as hidden behind other work;"
  " 'copies alone' is what that takes by itself at the memory's nominal rate.",
)


@dataclasses.dataclass(frozen=True)
class Step:
  """A step of a config, without its data."""

  facts: Mapping[str, Any]  # what is known before anything is compiled, as plain values
  lower: Callable[[], Any] | None  # traces it for its mesh; None where nothing is to be compiled


def build(config: Pretrain, *, devices: list[Any] | None) -> Step:
  """What `plan.what` asks for.

  Args:
    config: of `run = "pretrain"`; its stores of tokens are not opened.
    devices: of a topology; None: describe it for GPUs, compile nothing.

  Raises:
    ValueError: the mesh does not fit the devices, or the batch the mesh.
  """
  planning = config.plan
  assembly.check_tokens(config, "a plan")
  gpus = chips.gpus(planning.topology)
  count = gpus[1] if gpus else len(devices or ())
  facts = {"what": planning.what, "topology": planning.topology, "slices": planning.slices}
  facts["chips"] = count
  layout = None if devices is None else sharding.layout(config.mesh, devices)
  if planning.what == "train":
    return _training(config, facts, layout)
  if layout is not None:
    layout = dataclasses.replace(layout, rules=RULES)
    ways, mesh = layout.ways, dict(layout.mesh.shape)
  else:
    split = config.mesh.tensor
    if split < 1 or count % split:
      raise ValueError(f"mesh.tensor is {split}; it must divide the {count} GPUs")
    ways = count // split
    mesh = {"data": ways, "fsdp": 1, "tensor": split}
  facts |= {"mesh": mesh, "batch": planning.rows * ways}
  serving = _decoding if planning.what == "decode" else _encoding
  return serving(config, facts, layout)


def _plain(model: trunk.Trunk, layout: sharding.Layout | None) -> trunk.Trunk:
  """The model; where nothing is compiled, without what may not be here."""
  if layout is not None:
    return model
  return model.clone(compute=dataclasses.replace(model.compute, attention="xla"))


def _training(config: Pretrain, facts: dict[str, Any], layout: sharding.Layout | None) -> Step:
  """The step that `pretrain.pretraining` runs."""
  model = assembly.model(config, "gpu" if layout is None else "tpu")
  shape, spec, size = model.config, model.spec, config.train
  rows = pretrain.batch_rows(size.batch_tokens, spec)
  tokens = rows * spec.context
  per_token = flops.train_flops_per_token(shape, vocab=spec.vocab, context=spec.context)
  task = task_lib.Pretrain(_plain(model, layout), assembly.parametrisation(config))
  facts |= {
    "remat": model.compute.remat,
    "unroll": model.compute.unroll,
    "attention": model.compute.attention,
    "dtype": model.compute.dtype,
    "rows": rows,
    "context": spec.context,
    "microbatches": size.microbatches,
    "tokens_per_step": tokens,
    "total_tokens": size.total_tokens,
    "parameters": flops.parameters(shape, spec.vocab + sequence.SPECIALS),
    "model_flops_per_step": per_token * tokens,
  }
  if layout is None:
    mesh = AbstractMesh(tuple(sharding.filled(config.mesh, facts["chips"])), sharding.AXES)
    sharding.check_batch(rows, microbatches=size.microbatches, mesh=mesh)
    return Step(facts | {"mesh": dict(mesh.shape)}, None)
  program = assembly.program(
    config,
    task=task,
    steps=flops.steps(size.total_tokens, tokens),
    rows=rows,
    microbatches=size.microbatches,
    layout=layout,
    rules=task.rules,
  )
  facts |= {
    "mesh": dict(layout.mesh.shape),
    "optimiser_bytes": _bytes(program.shapes.opt_state),
    "parameter_bytes": _bytes(program.shapes.params),
  }
  return Step(facts, lambda: program.step_fn.lower(program.shapes, task.batch_spec(rows)))


def _decoding(config: Pretrain, facts: dict[str, Any], layout: sharding.Layout | None) -> Step:
  model = _plain(assembly.model(config, "gpu" if layout is None else "tpu"), layout)
  c, spec, planning = model.config, model.spec, config.plan
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
  cache = jax.eval_shape(
    lambda: decode.empty(model, rows=rows, room=room, split=facts["mesh"]["tensor"])
  )
  read = dict(weights)
  if not c.tied:
    read.pop("embedding")  # one row of it for each token
  split, ways = facts["mesh"]["tensor"], rows // planning.rows
  cache_bytes = _bytes(cache) // ways // split
  facts |= {
    "dtype": model.compute.dtype,
    "cache_tokens": room,
    "parameters": flops.parameters(c, spec.vocab + sequence.SPECIALS),
    "weight_bytes": _bytes(weights) // split,
    "cache_bytes": cache_bytes,
    "read_bytes": _bytes(read) // split + cache_bytes,
    "model_flops_per_step": 2 * rows * c.decode_macs_per_token(vocab=spec.vocab, context=room),
  }
  if layout is None:
    return Step(facts, None)
  cache_shardings = layout.shardings(decode.axes(model, cache), cache)
  weight_shardings = layout.shardings(decode.weight_axes(model, task.axes().params), weights)

  def step(weights, cache, token_B, position):
    return decode.step(model, weights, cache, token_B, position)

  jitted = layout.jit(
    step,
    in_shardings=(weight_shardings, cache_shardings, layout.by_row, layout.whole),
    out_shardings=(layout.by_row, cache_shardings),
    donate_argnums=1,
  )
  token_B = jax.ShapeDtypeStruct((rows,), jnp.int32)
  position = jax.ShapeDtypeStruct((), jnp.int32)
  return Step(facts, lambda: jitted.lower(weights, cache, token_B, position))


def _encoding(config: Pretrain, facts: dict[str, Any], layout: sharding.Layout | None) -> Step:
  spec = config.sequence
  if spec.latents != EACH_FRAME:
    raise ValueError(
      f"sequence has frame_factor {spec.frame_factor} and {spec.codes} codes of a place;"
      " plan.what='encode' is of a dVAE, which has 1 and 1: set both, or plan another step"
    )
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


def _bytes(tree: Any) -> int:
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
