"""What the planner's method says of two measurements that others published.

  python tests/public_decoder.py v5e:1x1
  python tests/public_decoder.py v6e:1x1

compiles a decoder of 163.6 million parameters as a blog post describes it
(vorushin.github.io, "LLM pretraining on TPU v6e with a $50 budget", and the
repository vorushin/tpuchat), written anew: multi-query attention (4 heads of
256, 1 of keys), SwiGLU, norms without gain, a norm of queries and keys, capped
logits, everything in bfloat16 but the softmax, layers in line, nothing
computed twice, 16 microbatches of 4 x 2,048 tokens, optax.adamw. Prints tokens
a second as they were measured and as `totojax.jobs.plan.estimate` counts the
compiled program. The pairs are `estimate.PUBLIC`. It takes two to four minutes
of a core.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

from totojax.jobs.plan import chips, estimate, hlo, kernels

PARTS, B, T, D, H, K, F, V, L = 16, 4, 2048, 1024, 4, 256, 3072, 32768, 8
BLOCK = 1024  # of attention's kernel, forward and backward
CAP = 15.0  # of logits
TYPE = jnp.bfloat16


def shapes() -> dict[str, Any]:
  block = {
    "query": (D, H, K),
    "key": (D, 1, K),
    "value": (D, 1, K),
    "out": (H, K, D),
    "gate": (D, F),
    "up": (D, F),
    "down": (F, D),
  }
  return {"embedding": (V, D), "head": (D, V), "blocks": [block] * L}


def norm(x):
  return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def rotated(x_BHTK, cos_Tk, sin_Tk):
  first, second = jnp.split(x_BHTK, 2, -1)
  return jnp.concatenate(
    [first * cos_Tk + second * sin_Tk, second * cos_Tk - first * sin_Tk], axis=-1
  )


def attention(q_BHTK, k_BHTK, v_BHTK):
  from jax.experimental.pallas.ops.tpu import splash_attention as library

  sides = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
  kernel = library.make_splash_mha(
    library.MultiHeadMask([library.CausalMask((T, T))] * H),
    block_sizes=library.BlockSizes(**dict.fromkeys(sides, BLOCK)),
    head_shards=1,
    q_seq_shards=1,
  )
  return jax.vmap(kernel)(q_BHTK, k_BHTK, v_BHTK)


def block(p, x_BTD, cos_Tk, sin_Tk):
  h_BTD = norm(x_BTD)
  q, k, v = (jnp.einsum("btd,dhk->bhtk", h_BTD, p[name]) for name in ("query", "key", "value"))
  q, k = (norm(rotated(x, cos_Tk, sin_Tk)) for x in (q, k))
  x_BTD += jnp.einsum("bhtk,hkd->btd", attention(q, k, v), p["out"])
  h_BTD = norm(x_BTD)
  gate_BTF, up_BTF = (jnp.einsum("btd,df->btf", h_BTD, p[name]) for name in ("gate", "up"))
  return x_BTD + jnp.einsum("btf,fd->btd", jax.nn.silu(gate_BTF) * up_BTF, p["down"])


def loss(params, inputs_BT, targets_BT):
  frequency_k = 10_000.0 ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
  angle_Tk = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency_k
  cos_Tk, sin_Tk = jnp.cos(angle_Tk).astype(TYPE), jnp.sin(angle_Tk).astype(TYPE)
  x_BTD = norm(params["embedding"][inputs_BT])
  for p in params["blocks"]:
    x_BTD = block(p, x_BTD, cos_Tk, sin_Tk)
  logits_BTV = jnp.einsum("btd,dv->btv", norm(x_BTD), params["head"]).astype(jnp.float32)
  logits_BTV = CAP * jnp.tanh(logits_BTV / CAP)
  return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT))


def program(topology: str) -> hlo.Module:
  """The train step, compiled."""
  device = chips.devices(topology, slices=1)[0]
  here = jax.sharding.SingleDeviceSharding(device)
  optimiser = optax.adamw(optax.linear_schedule(0.0, 1e-4, 100), b2=0.95, weight_decay=0.1)

  def step(params, state, inputs, targets):
    def part(total, rows):
      value, gradient = jax.value_and_grad(loss)(params, *rows)
      return jax.tree.map(jnp.add, total, gradient), value

    total, values = jax.lax.scan(part, jax.tree.map(jnp.zeros_like, params), (inputs, targets))
    mean = jax.tree.map(lambda leaf: leaf / PARTS, total)
    updates, state = optimiser.update(mean, state, params)
    return jnp.mean(values), optax.apply_updates(params, updates), state

  def placed(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)

  params = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, TYPE, sharding=here),
    shapes(),
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )
  state = jax.tree.map(placed, jax.eval_shape(optimiser.init, params))
  tokens = placed(jax.ShapeDtypeStruct((PARTS, B, T), jnp.int32))
  text = jax.jit(step).lower(params, state, tokens, tokens).compile().as_text()
  return hlo.Module(text or "")


def kernel_cycles(topology: str) -> float:
  """Of attention's kernel in a step, as `kernels` charges it."""
  total = 0.0
  for name, bundles in kernels.splash_bundles(topology, T, K, BLOCK).items():
    charge = kernels._charge(
      name,
      bundles,
      PARTS * L,
      chip=chips.chip(topology),
      heads=B * H,
      tokens=T,
      head_dim=K,
      backward=BLOCK,
    )
    total += charge.cycles
  return total


def main(topology: str) -> None:
  chip = chips.chip(topology)
  cycles = sum(estimate.groups(program(topology), products=chip.products).values())
  cycles += kernel_cycles(topology)
  seconds = cycles / chip.clock_hz
  measured, told = estimate.PUBLIC[topology.partition(":")[0]].measured, PARTS * B * T / seconds
  print(f"{topology}: {cycles / 1e6:,.1f} million cycles, {1e3 * seconds:,.1f} ms a step,")
  print(
    f"{told:,.0f} tokens/s by the estimate, {measured:,.0f} measured: {told / measured - 1:+.1%}"
  )


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  main(sys.argv[1])
