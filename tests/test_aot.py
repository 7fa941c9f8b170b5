"""The planner: what it reads from the compiler, and what it makes of it.

`python tests/test_aot.py` compiles the presets and writes the golden tables of
memory and traffic anew (with libtpu, about three minutes each on two cores);
`python tests/test_aot.py compared` compares today's with them, and writes down
the programs that were compiled for it.
"""

import ast
from collections.abc import Callable
import contextlib
import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from totojax import jobs, sharding
from totojax.config import recipes, roots
from totojax.config.schema import ConfigError
from totojax.jobs.plan import (
  chips,
  compile as compile_lib,
  estimate,
  hlo,
  job as plan,
  kernels,
  raising,
  steps,
)
from totojax.models import attention, layers, splash

GOLDEN = pathlib.Path(__file__).parent / "golden"
PRESETS = {"1b": "v5e:16x16", "base": "v5e:8x8", "large": "v5e:8x8"}
PARTS = {"1b": 1, "base": 4, "large": 4}  # microbatches
# Compiled where its program is another one. The rest, whose layers are in line and
# take minutes each, by TOTOJAX_EXHAUSTIVE=1 and by `compared`.
ALWAYS = ("1b",)
needs_compiler = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)

PROGRAM = """HloModule jit_traced, is_scheduled=true

%gather.1 (p: bf16[8,64]) -> bf16[64,64] {
  %p.0 = bf16[8,64]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.9 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%gather.2 (p: bf16[8,64]) -> bf16[64,64] {
  %p.1 = bf16[8,64]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.10 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%condition.1 (c: (s32[], f32[16])) -> pred[] {
  %c.0 = (s32[], f32[16]) parameter(0)
  %i.0 = s32[]{:T(128)} get-tuple-element(%c.0), index=0
  %n.0 = s32[]{:T(128)} constant(5)
  ROOT %lt.0 = pred[] compare(%i.0, %n.0), direction=LT
}

%body.1 (b: (s32[], f32[16])) -> (s32[], f32[16]) {
  %b.0 = (s32[], f32[16]) parameter(0)
  %f.1 = bf16[64,64]{1,0} fusion(%b.0), kind=kCustom, calls=%gather.1
  %f.2 = bf16[64,64]{1,0} fusion(%b.0), kind=kCustom, calls=%gather.2
  %f.3 = f32[16]{0} fusion(%f.1), kind=kOutput, calls=%plain.1, metadata={op_name="jit(traced)/jvp(Trunk)/while/body/blocks/mlp/dot_general"}, backend_config={"estimated_cycles":"100"}
  ROOT %t.0 = (s32[], f32[16]) tuple(%b.0, %f.3)
}

ENTRY %main.2 (a: f32[16]) -> f32[16] {
  %a.0 = f32[16]{0} parameter(0)
  %w.0 = (s32[], f32[16]) while(%a.0), condition=%condition.1, body=%body.1
  %r.0 = f32[16]{0:T(8,128)} all-reduce(%a.0), channel_id=8, replica_groups=mesh['x'=2, 'y'=4] {'y'}, to_apply=%add.1
  ROOT %u.0 = f32[16]{0} fusion(%r.0), kind=kLoop, calls=%plain.2, metadata={op_name="jit(traced)/add"}, backend_config={"estimated_cycles":"30"}
}
"""  # noqa: E501


def test_cycles_in_a_loop_count_as_often_as_it_runs():
  program = hlo.Module(PROGRAM)
  assert estimate.groups(program) == {"MLP products": 500, "optimiser": 30}
  longer = hlo.Module(PROGRAM.replace("constant(5)", "constant(7)"))
  assert estimate.groups(longer)["MLP products"] == 700


def test_products_alone_take_a_chips_share_of_their_cycles():
  program = hlo.Module(PROGRAM)
  assert estimate.groups(program, products=0.5) == {"MLP products": 250, "optimiser": 30}


def test_a_loop_without_a_readable_end_is_an_error():
  program = hlo.Module(
    PROGRAM.replace("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} add(%i.0, %i.0)")
  )
  with pytest.raises(ValueError, match="trip count .* condition.1"):
    list(program.operations())
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.Module("nothing")


def test_an_exchange_in_several_fusions_counts_once():
  gather, reduce = sorted(hlo.Module(PROGRAM).collectives(), key=lambda found: found.kind)
  assert (gather.kind, gather.times, gather.group) == ("all-gather", 5, 8)
  assert gather.payload_bytes == 64 * 64 * 2
  assert gather.sent_bytes == 64 * 64 * 2 * 7 / 8
  assert (reduce.kind, reduce.times, reduce.group) == ("all-reduce", 1, 4)
  assert reduce.sent_bytes == 2 * 64 * 3 / 4
  # Control: another channel is another exchange.
  two = PROGRAM.replace("channel_id=7", "channel_id=9", 1)
  assert len(hlo.Module(two).collectives()) == 3


BETWEEN_SLICES = """ENTRY %main.2 (a: f32[16]) -> f32[16] {
  %r.1 = f32[16]{0:T(8,128)} all-reduce(%a.0), channel_id=8, replica_groups={{0,1},{2,3}}, to_apply=%add.1
  %s.0 = (bf16[4,8]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%a.1, %b.0), channel_id=36, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.41_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %s.1 = (f32[4]{0}, u32[], token[]) send(%a.2, %b.0), channel_id=37
  ROOT %u.0 = f32[16]{0} fusion(%r.1), kind=kLoop, calls=%plain.2
}
"""  # noqa: E501


def test_what_goes_between_slices_is_told_apart():
  program = hlo.Module(BETWEEN_SLICES)
  links, network = estimate.traffic(program, chips.CHIPS["v5e"])
  assert (links["over"], network["over"]) == ("links", "network")
  assert links["sent_bytes"] == 2 * 64 / 2
  # Of four slices, each chip's own part: 2 (n - 1) / n of 64 bytes.
  assert network["count"] == 1 and network["payload_bytes"] == 64
  assert network["sent_bytes"] == 2 * 64 * 3 / 4
  assert network["alone_s"] == pytest.approx(96 / 3.125e9)
  assert estimate.traffic(program, chips.CHIPS["v4"])[1]["alone_s"] is None


def test_bytes_of_shapes():
  assert hlo.array_bytes("(bf16[2,8]{1,0:T(8,128)(2,1)S(1)}, s32[])") == [32, 4]
  assert hlo.array_bytes("pred[3]{0}") == [3]


BUNDLES = """control target key start
LB: loop body
   0x1   :  { %1 = smov 0 }
   0x2 LB: > { %2 = sst 1 }
   0x3   : > { %3 = sbr.rel (%p1) target = $region9 }
   0x4   : > { %4 = vst 0 }
   0x5   : > { %5 = vst 0 }
   0x6 PF: > { %6 = sld 0 }
   0x7   : > { %7 = sbr.rel (%p2) target = $region10 }
   0x8   : > { %8 = vmatmul.f32.gmra.mxu1 %v0
  ;; %9 = vadd %v1 }
   0x9   : > { %10 = vpop %v2 }
   0xa   : > { %11 = vpop %v2 }
   0xb PF: > { %12 = sadd 1 }
   0xc   :  { %13 = vsync }
"""


def test_bundles_of_a_kernel():
  assert kernels.read_bundles(BUNDLES) == kernels.Bundles(per_block=3, per_row=2, per_turn=5)
  plain = BUNDLES.replace("vmatmul", "vmul")
  assert kernels.read_bundles(plain).per_block == 0


def test_a_kernel_is_charged_what_is_more():
  chip = chips.CHIPS["v5e"]

  def charge(per_block):
    return kernels._charge(
      "fwd", kernels.Bundles(per_block, 10, 1), 3, chip=chip, heads=2, tokens=2048, head_dim=64
    )

  # Blocks of 1,024: two rows, three of four blocks at or below the diagonal.
  macs = 3 * 2 * 1024 * 1024 * 128  # 64 is padded to 128 lanes
  units = 4 * 128 * 128  # of a v5e's matrix units
  assert chip.macs_per_cycle == pytest.approx(units, rel=1e-3)
  many, few = charge(5000), charge(1)
  assert many.bundles == 2 * (3 * 5000 + 2 * 10 + 4)
  assert many.cycles == 3 * many.bundles
  assert few.products == pytest.approx(2 * macs / units / 0.88, rel=1e-3)
  assert few.cycles == 3 * few.products


def planned(config, **changes):
  """A pre-training config and what its plan is for."""
  section = config["plan"] | changes
  found = roots.read(config | {"run": "plan", "plan": section})
  plan.check(found.plan)
  return found


@pytest.mark.parametrize(
  "changes, told",
  [
    ({}, "plan.topology is empty"),
    ({"topology": "v5e"}, "plan.topology is 'v5e'; use v4, v5e"),
    ({"topology": "v9:2x2"}, "plan.topology is 'v9:2x2'"),
    ({"topology": "gpu:NVIDIA H100"}, "gpu:KIND:NUMBER with one of"),
    ({"topology": "gpu:abacus:8"}, "gpu:KIND:NUMBER with one of"),
    ({"topology": "gpu:NVIDIA H100:0"}, "gpu:KIND:NUMBER with one of"),
    ({"topology": "gpu:NVIDIA H100:8", "slices": 2}, "knows no slices"),
    ({"topology": "gpu:NVIDIA H100:8", "search": True}, "no variants"),
    ({"topology": "v5e:2x2", "slices": 0}, "plan.slices is 0"),
    ({"topology": "v5e:2x2", "meshes": ((1, 2),)}, "data, fsdp, tensor"),
    ({"topology": "v5e:2x2", "busy": 2.0}, "busy is 2.0; it must be above"),
    ({"topology": "v5e:2x2", "what": "rest"}, "use 'train', 'decode' or"),
    ({"topology": "v5e:2x2", "rows": 0}, "plan.rows is 0"),
  ],
)
def test_what_cannot_be_planned(changes, told):
  with pytest.raises(ConfigError, match=told):
    planned(recipes.paper("tiny").to_dict(), **changes)


def test_a_search_has_every_combination():
  config = recipes.paper("tiny").to_dict()
  found = plan.variants(
    planned(
      config,
      topology="v5e:2x2",
      search=True,
      meshes=((1, 4, 1), (2, 2, 1)),
      remats=("full", "none"),
      microbatches=(1, 2),
    )
  )
  seen = {(*dataclasses.astuple(v.mesh)[:3], v.compute.remat, v.train.microbatches) for v in found}
  assert len(found) == len(seen) == 8
  assert (2, 2, 1, "none", 2) in seen
  alone = planned(config, topology="v5e:2x2")
  assert plan.variants(alone) == [alone]


def test_the_best_is_the_fastest_that_fits():
  rows = [
    {"fits": True, "step_s": 2.0, "hbm_peak_gib": 1.0},
    {"fits": False},
    {"fits": True, "step_s": 1.0, "hbm_peak_gib": 9.0},
  ]
  assert plan.fastest(rows) == 2
  assert plan.fastest(rows[:2]) == 0
  assert plan.fastest([{"fits": False}]) is None


def test_gpus_are_planned_with_mup_where_their_attention_is_not():
  config = recipes.paper("a1").to_dict()
  config["mup"]["on"] = True
  found = plan.outcome(planned(config, topology="gpu:NVIDIA H100:8"))
  assert found["attention"] == "cudnn" and found["step_s"] > 0


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"cache_tokens": 8192}, "8,192; the model's context is 4,096"),
    ({"cache_tokens": -1}, "plan.cache_tokens is -1"),
    ({"rows": 0}, "plan.rows is 0; it must be at least 1"),
  ],
)
def test_a_cache_that_the_model_cannot_fill_is_refused(changes, told):
  config = recipes.paper("base").to_dict()
  with pytest.raises(ValueError, match=told):
    plan.outcome(planned(config, what="decode", topology="gpu:NVIDIA H100:1", **changes))


def test_two_cores_share_the_heads_of_the_kernel():
  one = dataclasses.replace(chips.CHIPS["v5p"], cores=1)
  of = dict(heads=6, tokens=4096, head_dim=64)
  bundles = kernels.Bundles(per_block=3000, per_row=100, per_turn=10)
  for kernel in kernels.PRODUCTS:
    a, b = (
      kernels._charge(kernel, bundles, 1, chip=chip, **of) for chip in (chips.CHIPS["v5p"], one)
    )
    assert a.bundles == pytest.approx(0.5 * b.bundles)
    assert a.products == pytest.approx(b.products)
  odd = kernels._charge("fwd", bundles, 1, chip=chips.CHIPS["v4"], **{**of, "heads": 5})
  even = kernels._charge("fwd", bundles, 1, chip=chips.CHIPS["v4"], **of)
  assert odd.bundles == even.bundles  # one core has nothing to do at the end


def test_small_heads_are_charged_the_whole_of_a_matrix_unit():
  bundles = kernels.Bundles(1, 1, 1)

  def products(family, head_dim):
    chip = chips.CHIPS[family]
    charge = kernels._charge(
      "fwd", bundles, 1, chip=chip, heads=1024 // head_dim, tokens=2048, head_dim=head_dim
    )
    return charge.products

  # As many products in heads of 64, 128 and 256, which fill units of 128 and 256.
  assert products("v5e", 64) == pytest.approx(2 * products("v5e", 128))
  assert products("v5e", 128) == pytest.approx(products("v5e", 256))
  assert products("v6e", 64) == pytest.approx(4 * products("v6e", 256))
  assert products("v6e", 128) == pytest.approx(2 * products("v6e", 256))


def test_clocks_follow_from_the_peak_and_the_matrix_units():
  # Cells of a chip, in the squares of a v5e's: four of 128 x 128.
  for family, squares in {"v4": 8, "v5e": 4, "v5p": 8, "v6e": 16}.items():
    assert chips.CHIPS[family].macs_per_cycle == pytest.approx(squares * 128**2, rel=2e-3)


def test_a_plan_says_how_far_estimates_are_from_what_was_measured():
  told = estimate.calibration("v5e:16x16")
  for family, point in estimate.PUBLIC.items():
    error = point.counted / point.measured - 1
    assert abs(error) < 0.1 and f"{error:+.1%} on a {family}" in told
  assert "none of" not in told
  assert "There is none of a v5p." in estimate.calibration("v5p:4x4x4")


def test_what_would_raise_a_plan_is_told():
  config = planned(recipes.paper("base").to_dict(), topology="v5e:1x1")
  cycles = {"MLP products": 50.0, "keeping activations": 10.0, "optimiser": 1.0}
  facts = {
    "cycles": cycles,
    "kernels": [{"cycles": 40.0}],
    "remat": "products",
    "unroll": 1,
    "hbm_peak_gib": 5.0,
    "collectives_alone_s": 0.0,
    "step_s": 1.0,
  }
  told = list(raising.lines(config, facts))
  assert [line.partition("=")[0].partition(" ")[0] for line in told] == [
    "model.heads",
    "compute.remat",
    "compute.unroll",
  ]
  assert "model.heads=6: heads of 64 fill 50%" in told[0] and "40%" in told[0]
  assert "10%" in told[2]
  # Control: what is done is not told again.
  wide = planned(recipes.paper("base_tpu").to_dict(), topology="v5e:1x1")
  assert list(raising.lines(wide, facts | {"remat": "none", "unroll": 12})) == []
  exposed = facts | {"remat": "none", "unroll": 12, "collectives_alone_s": 0.6}
  (line,) = raising.lines(wide, exposed)
  assert "600 ms" in line


def test_money_follows_from_the_step():
  facts = dict(step_s=0.5, total_tokens=7.2e6, tokens_per_step=1000, chips=4)
  found = compile_lib.cost(facts, price_per_chip_hour=3.0)
  assert found["tokens_per_s"] == 2000
  assert found["chip_hours"] == pytest.approx(4.0)  # one hour
  assert found["money"] == pytest.approx(12.0)
  assert compile_lib.cost({"fits": False}, price_per_chip_hour=1.0) == {}
  served = dict(what="encode", step_s=1.0, frames_per_s_of_a_chip=100.0)
  found = compile_lib.cost(served, price_per_chip_hour=3.6)
  assert found["chip_hours_of_a_million"] == pytest.approx(1e4 / 3600)
  assert found["money_of_a_million"] == pytest.approx(10.0)


@pytest.mark.parametrize(
  "text",
  [
    "Ran out of memory in memory space hbm. Used 16.58G of 15.75G hbm."
    " Exceeded hbm capacity by 848.05M.",
    "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory"
    " required for HLO temporaries (16.58G) exceeds available HBM"
    " (15.75G). HLO module: jit_traced.",
  ],
)
def test_an_error_of_the_compiler_becomes_readable(text):
  error = RuntimeError(f"RESOURCE_EXHAUSTED: {text}")
  found = compile_lib._does_not_fit(error, steps.ADVICE)
  assert found["fits"] is False
  assert found["hbm_peak_gib"] == pytest.approx(16.58)
  assert found["error"] == "needs 16.58 GiB of a chip's 15.75 GiB of HBM"
  assert any("remat" in line for line in found["advice"])
  with pytest.raises(RuntimeError, match="another"):
    compile_lib._does_not_fit(RuntimeError("INTERNAL: another"), ())


def test_gpus_are_planned_by_arithmetic_and_marked_so(tmp_path):
  config = recipes.paper("1b").to_dict() | {"run": "plan"}
  config["plan"] |= dict(topology="gpu:NVIDIA H100:8", busy=0.5, price_per_chip_hour=2.0)
  assert jobs.run(config, epath.Path(tmp_path), lambda step: False)
  found = json.loads((tmp_path / "plan.json").read_text())
  assert found["source"] == "arithmetic" and "mfu_estimate" not in found
  by_hand = 7.894e9 * 2**20 / 8 / 989e12 / 0.5
  assert found["step_s"] == pytest.approx(by_hand, rel=1e-3)
  assert found["money"] == pytest.approx(2.0 * found["chip_hours"])
  config["optim"]["mu_dtype"] = "bfloat16"
  small = plan.outcome(planned(config))
  state = "state_and_gradients_gib"
  assert small[state] / found[state] == pytest.approx(14 / 16)
  page = (tmp_path / "report.html").read_text()
  assert "arithmetic" in page and "another format" not in page


def test_a_gpu_that_cannot_hold_the_state_is_told():
  config = recipes.paper("1b").to_dict()
  of = dict(topology="gpu:NVIDIA H100:2", busy=0.5)
  split = plan.outcome(planned(config, **of))
  assert split.get("fits", True) and split["mesh"]["fsdp"] == 2
  mesh = config["mesh"] | {"data": -1, "fsdp": 1}
  whole = plan.outcome(planned(config | {"mesh": mesh}, **of))
  state = "state_and_gradients_gib"
  assert whole[state] == pytest.approx(2 * split[state])
  config["model"] |= {"depth": 400}
  found = plan.outcome(planned(config, topology="gpu:NVIDIA H100:1", busy=0.5))
  assert found["fits"] is False and found[state] > 4 * 80e9 / 2**30 * 0.9
  assert f"{found[state]:.1f} GiB of a NVIDIA H100's" in found["error"]
  for changes, told in (
    ({"mesh": config["mesh"] | {"data": 3}}, "3"),
    ({"train": config["train"] | {"microbatches": 7}}, "7 microbatches"),
  ):
    with pytest.raises(ValueError, match=told):
      plan.outcome(planned(config | changes, **of))


def test_decoding_is_bound_by_what_it_reads(tmp_path):
  config = recipes.paper("1b").to_dict() | {"run": "plan"}
  config["plan"] |= dict(what="decode", topology="gpu:NVIDIA H100:8", rows=4, cache_tokens=1024)
  config["mesh"] |= dict(tensor=2)
  assert jobs.run(config, epath.Path(tmp_path), lambda step: False)
  found = json.loads((tmp_path / "plan.json").read_text())
  # bfloat16, halves on two GPUs; 124 rows of the vocabulary are padding.
  weights = 2 * (1_129_940_992 + 124 * 2048) // 2
  cache = 2 * 2 * 22 * 4 * 1024 * 2048 // 2
  assert found["source"] == "arithmetic" and found["batch"] == 16
  assert (found["weight_bytes"], found["cache_bytes"]) == (weights, cache)
  assert found["floor_s"] == pytest.approx((weights + cache) / 3.35e12)
  # 2 FLOPs of each weight (not of gains) and of each place, twice.
  macs = 1_129_940_992 - 4 * 2048 - 45 * 2048 + 2 * 22 * 2048 * 1024
  assert found["model_flops_per_step"] == 16 * 2 * macs
  assert found["products_s"] < found["floor_s"] == found["step_s"]
  assert found["tokens_per_s"] == pytest.approx(16 / found["floor_s"])
  page = (tmp_path / "report.html").read_text()
  assert "A token of each of 16 sequences" in page
  assert "chip-hours of a million" in page
  assert "another format" not in page and "Not shown" not in page


def test_encoding_is_bound_by_products():
  config = recipes.paper("base").to_dict()
  found = plan.outcome(planned(config, what="encode", topology="gpu:NVIDIA A100:2", busy=0.5))
  # DALL-E's encoder: 34.0e9 MACs a frame, in float32.
  assert found["macs_per_frame"] == pytest.approx(34.0e9, rel=2e-3)
  per_s = 19.5e12 * 0.5 / (2 * found["macs_per_frame"])
  assert found["frames_per_s_of_a_chip"] == pytest.approx(per_s)
  assert found["batch"] == 16 and "floor_s" not in found


def test_encoding_is_planned_of_a_tokenizer_of_single_frames():
  config = recipes.paper("base").to_dict()
  config["sequence"] |= dict(frame_factor=4)
  with pytest.raises(ValueError, match="frame_factor 4 and 1 codes .* plan.what='encode' is of a"):
    plan.outcome(planned(config, what="encode", topology="gpu:NVIDIA A100:2", busy=0.5))


def test_only_a_train_step_has_remat_policies_to_search():
  config = recipes.paper("tiny").to_dict()
  both = dict(topology="v5e:2x2", search=True, meshes=((1, 4, 1), (1, 2, 2)))
  found = plan.variants(planned(config, what="decode", **both))
  assert len(found) == 2
  assert len(plan.variants(planned(config, **both))) == 8


def test_a_tokenizing_config_still_plans_tokens(tmp_path):
  config = recipes.tokenize().to_dict() | {"run": "plan"}
  config["plan"] |= dict(hours=2.0, videos=10)
  assert jobs.run(config, epath.Path(tmp_path), lambda step: False)
  assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("segmented", [False, True])
def test_the_kernel_is_attention(head_dim, segmented):
  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (jax.random.normal(key, (2, 256, 1, head_dim)) for key in keys)
  segments = jnp.tile(jnp.arange(256)[None] // 100, (2, 1))
  segments = segments if segmented else None
  scale = 0.7 * head_dim**-0.5

  def ours(q, k, v):
    return splash.attend(q, k, v, segments_BT=segments, scale=scale, interpret=True)

  def plain(q, k, v, scale=scale):
    return attention.attend(q, k, v, segments_BT=segments, scale=scale, implementation="xla")

  def both(attend):
    return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(jnp.sin(attend(*x))), argnums=(0, 1, 2)))(
      q, k, v
    )

  with jax.default_matmul_precision("highest"):
    found, expected = both(ours), both(plain)
    other = both(lambda *x: plain(*x, scale=head_dim**-0.5))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    size = np.abs(np.asarray(b)).max()
    np.testing.assert_allclose(a / size, b / size, atol=2e-5)
  # Control: another scale gives something else.
  assert np.abs(np.asarray(other[1][0] - expected[1][0])).max() > 1e-3


def test_the_kernel_refuses_odd_lengths():
  x = jnp.zeros((1, 100, 1, 64))
  with pytest.raises(ValueError, match="100 tokens are not a multiple of 128"):
    splash.attend(x, x, x, segments_BT=None, scale=1.0)


def test_rotating_by_a_product_is_rotating():
  x = jax.random.normal(jax.random.key(1), (2, 8, 3, 16))
  cos, sin = layers.rope_table(jnp.arange(8), 16, 1e4)
  plain = layers.apply_rope(x, cos, sin, by_product=False)
  product = layers.apply_rope(x, cos, sin, by_product=True)
  np.testing.assert_allclose(product, plain, rtol=1e-5, atol=1e-6)
  back = layers.apply_rope(x, cos, -sin, by_product=True)
  assert np.abs(np.asarray(back - plain)).max() > 0.1


# jax makes keys for its cache of compiled programs, which has no folder here. Where in
# Python a kernel comes from is in none of them.
KEYS = {
  "JAX_ENABLE_COMPILATION_CACHE": "true",
  "JAX_COMPILATION_CACHE_DIR": "",
  "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}


def apart(*words, **environment):
  """Runs Python without the flags of these tests, which slow compilers down."""
  path = [str(runs.ROOT), str(runs.ROOT / "tests"), *filter(None, sys.path)]
  clean = os.environ | {
    "XLA_FLAGS": "",
    "PYTHONPATH": os.pathsep.join(path),
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # it is for what runs here
    **environment,
  }
  done = subprocess.run(
    [sys.executable, *words], env=clean, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


PLANS = """
import sys
from etils import epath
from totojax import jobs
from totojax.config import recipes
from totojax.jobs.plan import chips

folder = epath.Path(sys.argv[1])

def run(config, name):
  assert jobs.run(config, folder / name, lambda step: False)

def tiny(kind="", width=128, **plan):
  c = recipes.paper("tiny")
  if kind:
    recipes.use(c, kind, "tiny")
  config = c.to_dict() | {"run": "plan"}
  config["model"] |= dict(width=width)
  config["sequence"] |= dict(vocab=508, grid=8, frames=4, context=256)
  config["train"] |= dict(batch_tokens=8 * 256)
  config["plan"] |= dict(topology="v5e:2x2") | plan
  return config

def llama(**plan):
  config = tiny(**plan)
  config["model"] |= dict(heads=2, mlp_dim=256)
  return config

run(llama(price_per_chip_hour=1.0), "small")

run(llama(search=True, remats=("full",), microbatches=(1,),
          meshes=((4, 1, 1), (3, 1, 1), (1, 4, 1))), "search")
config = llama(slices=2)
config["mesh"] |= dict(data=2)
run(config, "slices")

assert [len(chips.devices(f"v5e:{shape}", slices=1)) for shape in
        ("1x1", "2x2")] == [1, 4]
for what in ("decode", "encode"):
  config = tiny(width=256, what=what, rows=4, cache_tokens=2048)
  config["model"] |= dict(heads=2, mlp_dim=512)
  config["sequence"] |= dict(grid=4, frames=128, context=2048)
  config["mesh"] |= dict(tensor=2)
  config["plan"]["dvae"] |= dict(hidden=32, groups=2, blocks=1)
  run(config, what)

for kind, what in (("gpt2", "train"), ("mamba", "train"), ("mamba", "decode")):
  run(tiny(kind, what=what, rows=2), f"{kind}-{what}")
"""


@pytest.fixture(name="plans", scope="module")
def _plans(tmp_path_factory):
  """(folder of all plans below, what was printed): compiled by one process."""
  folder = tmp_path_factory.mktemp("plans")
  return folder, apart("-c", PLANS, str(folder))


def read(folder, name):
  return json.loads((folder / name / "plan.json").read_text())


@needs_compiler
@pytest.mark.slow
def test_a_small_model_is_compiled_for_tpus(plans):
  folder, _ = plans
  found = read(folder, "small")
  assert found["fits"] and found["chips"] == 4
  assert found["attention"] == "splash"
  assert {kernel["kernel"] for kernel in found["kernels"]} == {"fwd", "dq", "dkv"}
  assert found["uncharged_kernels"] == []
  # Arguments: parameters and two moments over four chips, and the padding of
  # small arrays to tiles.
  state = (found["parameter_bytes"] + found["optimiser_bytes"]) / 4 / 2**30
  assert state < found["hbm"]["arguments_gib"] < 1.5 * state
  kinds = {row["kind"]: row for row in found["collectives"]}
  # All weights are gathered in bfloat16 forward and backward.
  gathered = found["parameters"] * 2
  assert gathered < kinds["all-gather"]["payload_bytes"] < 4 * gathered
  assert 0 < found["mfu_estimate"] < 1 and found["days"] > 0
  page = (folder / "small" / "report.html").read_text()
  assert "another format" not in page and "Not shown" not in page


@needs_compiler
@pytest.mark.slow
def test_a_search_and_two_slices_are_compiled_for_tpus(plans):
  folder, printed = plans
  found = read(folder, "search")
  whole, wrong, split = found["rows"]
  assert not wrong["fits"] and "3" in wrong["error"]
  assert whole["fits"] and split["fits"]
  # What is split over four chips takes less of each, and is gathered.
  state = (split["parameter_bytes"] + split["optimiser_bytes"]) / 2**30
  saved = whole["hbm"]["arguments_gib"] - split["hbm"]["arguments_gib"]
  assert saved == pytest.approx(0.75 * state, rel=0.2)
  kinds = {row["kind"] for row in whole["collectives"]}
  assert "all-gather" not in kinds and "all-reduce" in kinds
  assert "all-gather" in {row["kind"] for row in split["collectives"]}
  times = {0: whole["step_s"], 2: split["step_s"]}
  assert found["best"] == min(times, key=times.get)
  assert found["step_s"] == min(times.values())
  data, fsdp = (4, 1) if found["best"] == 0 else (1, 4)
  told = f"best: --config.mesh.data={data} --config.mesh.fsdp={fsdp} "
  assert told in printed and "--config.compute.remat=full" in printed
  page = (folder / "search" / "report.html").read_text()
  assert "another format" not in page and "Not shown" not in page

  found = read(folder, "slices")
  assert found["chips"] == 8 and found["slices"] == 2
  assert found["compiler"].startswith("libtpu 0.")
  (network,) = (r for r in found["collectives"] if r["over"] == "network")
  assert network["kind"] == "all-reduce"
  # Of every gradient a chip holds a quarter; some go in bfloat16.
  part = found["parameter_bytes"] / 4
  assert 0.4 * part < network["sent_bytes"] < 1.2 * part
  # Weights are gathered within a slice alone.
  gathers = [r for r in found["collectives"] if r["kind"] == "all-gather"]
  assert [row["over"] for row in gathers] == ["links"]


@needs_compiler
@pytest.mark.slow
def test_decoding_and_encoding_are_compiled_for_tpus(plans):
  folder, _ = plans
  found, encoded = read(folder, "decode"), read(folder, "encode")
  assert found["fits"] and found["batch"] == 8 and found["chips"] == 4
  # Of each chip: half of the weights and a quarter of the cache, which is
  # written in place and not copied.
  assert found["cache_bytes"] == 2 * 2 * 2 * 4 * 2048 * 256 // 2
  used = (found["weight_bytes"] + found["cache_bytes"]) / 2**30
  assert used <= found["hbm"]["arguments_gib"] < 1.2 * used
  assert found["hbm"]["aliased_gib"] >= found["cache_bytes"] / 2**30
  assert found["hbm"]["temporaries_gib"] < 0.1 * found["cache_bytes"] / 2**30
  assert found["floor_s"] == found["read_bytes"] / 819e9
  assert found["tokens_per_s"] == pytest.approx(8 / max(found["step_s"], found["floor_s"]))
  assert found["cycles"]["attention to the cache"] > 0
  # Two chips add up what their heads and hidden units give, in each of two
  # layers; no weight and no cache goes between chips.
  kinds = {row["kind"]: row for row in found["collectives"]}
  assert kinds["all-reduce"]["count"] >= 4
  moved = sum(row["payload_bytes"] for row in kinds.values())
  assert moved < 0.05 * found["weight_bytes"]
  assert encoded["fits"] and encoded["passes"] == 6 and encoded["size_px"] == 8
  assert encoded["frames_per_s"] == pytest.approx(8 / encoded["step_s"])
  for what in ("decode", "encode"):
    page = (folder / what / "report.html").read_text()
    assert "another format" not in page and "Not shown" not in page


STEP_OF_1B = """
import json, runpy, sys
import jax
jax.config.update("jax_platforms", "cpu")
from totojax.config import roots
from totojax.jobs.plan import compile

config = runpy.run_path("configs/1b.py")["get_config"]()
config.plan.update(what="decode", topology="v5e:2x2")
config.model.depth = 4  # of 22, which take four times as long to compile
found = compile.plan(roots.read(config.to_dict()))
json.dump(found, open(sys.argv[1], "w"))
"""


@needs_compiler
@pytest.mark.slow
def test_a_token_of_1b_is_near_what_reading_takes(tmp_path):
  apart("-c", STEP_OF_1B, str(tmp_path / "plan.json"))
  found = json.loads((tmp_path / "plan.json").read_text())
  assert found["step_s"] <= 1.35 * found["floor_s"]
  # With nothing hidden of what is copied ahead. (Without layers apart: 1.86, of 22 layers.)
  assert found["step_s"] + found["copies_alone_s"] <= 1.5 * found["floor_s"]
  assert "taking layers out of stacks" not in found["cycles"]
  # The cache is written in place.
  assert found["hbm"]["temporaries_gib"] < 0.05 * found["cache_bytes"] / 2**30


@needs_compiler
@pytest.mark.slow
def test_other_architectures_are_compiled_for_tpus(plans):
  folder, _ = plans
  found = {name: read(folder, name) for name in ("gpt2-train", "mamba-train", "mamba-decode")}
  assert all(plan["fits"] for plan in found.values())
  kernels = {row["kernel"] for row in found["gpt2-train"]["kernels"]}
  assert kernels == {"fwd", "dq", "dkv"}
  assert found["mamba-train"]["kernels"] == []
  assert all(plan["step_s"] > 0 for plan in found.values())
  # Two layers of 2 rows: 3 tokens of the convolution, 16 states, 256 channels.
  one = found["mamba-decode"]
  assert one["cache_bytes"] == 2 * 2 * 256 * (3 + 16) * 4
  assert one["hbm"]["aliased_gib"] >= one["cache_bytes"] / 2**30


@needs_compiler
def test_only_replicas_go_between_slices():
  devices = chips.devices("v5e:2x2", slices=2)
  assert {device.slice_index for device in devices} == {0, 1}
  mesh = sharding.make_mesh(sharding.MeshConfig(2, -1, 1, 1), devices)
  of_axis = [{d.slice_index for d in row.flat} for row in mesh.devices]
  assert sorted(map(tuple, of_axis)) == [(0,), (1,)]
  with pytest.raises(ValueError, match="mesh.data 1 .* the 2 slices"):
    sharding.make_mesh(sharding.MeshConfig(1, -1, 1, 1), devices)


def golden(preset: str, **compute) -> dict:
  """Memory and traffic of a preset's own config on its topology."""
  config = _of_file(preset)
  config["compute"] |= compute
  config["train"]["microbatches"] = PARTS[preset]
  found = plan.outcome(planned(config, topology=PRESETS[preset], price_per_chip_hour=0.0))
  keys = (
    "topology",
    "mesh",
    "remat",
    "attention",
    "microbatches",
    "hbm_peak_gib",
    "mfu_estimate",
    "step_s",
    "cycles",
  )
  return {key: found[key] for key in keys} | {
    "collectives": {
      row["kind"]: {"count": row["count"], "payload_bytes": row["payload_bytes"]}
      for row in found["collectives"]
    },
    "kernel_cycles": {
      kernel: sum(row["cycles"] for row in found["kernels"] if row["kernel"] == kernel)
      for kernel in kernels.PRODUCTS
    },
  }


def _of_file(preset):
  path = GOLDEN.parent.parent / "configs" / f"{preset}.py"
  spec = importlib.util.spec_from_file_location(preset, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config().to_dict()


@pytest.mark.parametrize("preset", PRESETS)
def test_golden_tables_are_of_the_shipped_configs(preset):
  """Cheap: what was compiled is what ships."""
  table = read_golden(preset)
  config = _of_file(preset)
  assert table["remat"] == config["compute"]["remat"]
  assert table["microbatches"] == PARTS[preset] and config["train"]["microbatches"] == 0
  least = {"1b": 0.64, "base": 0.45, "large": 0.45}[preset]
  assert least <= table["mfu_estimate"] < 1.0
  if preset == "1b":
    assert table["hbm_peak_gib"] <= 4.3


# What is compared with a golden table, and the compiler says of a program.
COMPARED = ("hbm_peak_gib", "collectives")


class Known(Exception):
  """Nothing is compiled: what the compiler says of this program is known."""


@contextlib.contextmanager
def programs(known: Callable[[str], bool]):
  """Yields the keys of programs for TPUs, as jax comes to compile them.

  By its key jax's cache knows a compiled program: it is of the traced program
  without names of files and lines, the options and devices that it is compiled
  with and for, and the compiler. Raises Known where `known` says so of a key.
  """
  from jax._src import compilation_cache  # which no version promises

  own, found = compilation_cache.get_cache_key, []

  def key(module, devices, options, backend, *more):
    name = own(module, devices, options, backend, *more)
    if backend.platform == "tpu":
      found.append(name)
      if known(name):
        raise Known(name)
    return name

  compilation_cache.get_cache_key = key
  try:
    yield found
  finally:
    compilation_cache.get_cache_key = own


def pair(program: str, table: dict) -> str:
  """SHA-256 of a program's key, who reads it, and what a table says of it."""
  readers = [
    ast.unparse(ast.parse(inspect.getsource(part)))
    for part in (estimate.memory, estimate.traffic, hlo)
  ]
  said = [program, readers, {name: table[name] for name in COMPARED}]
  return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def compiled(preset: str, known: Callable[[str], bool], **compute) -> dict:
  """The key of a preset's program, and its table where that is not known."""
  table = {}
  with programs(known) as found, contextlib.suppress(Known):
    table = golden(preset, **compute)
  return {"program": found[0], **table}


# Without the instructions of the kernel, which change neither memory nor traffic.
MEMORY = """
import json
import pathlib
import sys
import test_aot
from totojax.jobs.plan import kernels
kernels.charges = lambda *_, **__: ([], [])
folder, presets, pairs = pathlib.Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
for name in test_aot.PRESETS:
  table = test_aot.read_golden(name)
  known = lambda key: name not in presets or test_aot.pair(key, table) in pairs
  found = test_aot.compiled(name, known)
  (folder / f"plan_{name}.json").write_text(json.dumps(found))
other = test_aot.compiled("base", lambda key: True, remat="full")
(folder / "other.json").write_text(json.dumps(other))
"""


def read_golden(name: str) -> dict:
  return json.loads((GOLDEN / f"plan_{name}.json").read_text())


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
  """Folder of the presets' programs, and of tables of those that are compiled."""
  folder, presets = tmp_path_factory.mktemp("tables"), PRESETS if runs.EXHAUSTIVE else ALWAYS
  known = read_golden("programs").values()
  apart("-c", MEMORY, str(folder), ",".join(presets), *known, **KEYS)
  return folder


def assert_table(found, table):
  assert found["hbm_peak_gib"] == pytest.approx(table["hbm_peak_gib"], rel=0.01)
  assert found["collectives"] == table["collectives"]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("preset", PRESETS)
def test_golden_tables(preset, tables):
  """A program that was compared with this table before is not compiled again.

  The compiler and who reads what it gives being the same, so is the table.
  """
  table = read_golden(preset)
  found = json.loads((tables / f"plan_{preset}.json").read_text())
  if "collectives" in found:
    assert_table(found, table)
  if pair(found["program"], table) != read_golden("programs")[preset]:
    assert "collectives" in found or preset not in ALWAYS
    told = f"{preset} is another program: run python tests/test_aot.py compared"
    warnings.warn(told, stacklevel=2)


@pytest.mark.slow
@needs_compiler
def test_another_program_or_table_is_not_known(tables):
  known = read_golden("programs")["base"]
  table = read_golden("base")
  found = json.loads((tables / "plan_base.json").read_text())["program"]
  other = json.loads((tables / "other.json").read_text())["program"]
  assert found != other and pair(other, table) != known
  off = dict(table, hbm_peak_gib=table["hbm_peak_gib"] * 1.001)
  assert pair(found, off) != known
  with pytest.raises(AssertionError):
    assert_table(dict(table, hbm_peak_gib=table["hbm_peak_gib"] * 1.02), table)


def write(folder):
  """The tables of the presets, and of which programs they are."""
  pairs = {}
  for name in PRESETS:
    found = compiled(name, lambda key: False)
    pairs[name] = pair(found.pop("program"), found)
    write_json(folder / f"plan_{name}.json", found)
  write_json(folder / "plan_programs.json", pairs)


def write_compared(folder):
  """Programs of today that the tables hold for.

  Raises:
    AssertionError: a table does not.
  """
  apart("-c", MEMORY, str(folder), ",".join(PRESETS), **KEYS)
  pairs = {}
  for name in PRESETS:
    found, table = json.loads((folder / f"plan_{name}.json").read_text()), read_golden(name)
    assert_table(found, table)
    pairs[name] = pair(found["program"], table)
  write_json(GOLDEN / "plan_programs.json", pairs)


def write_json(file, value):
  file.write_text(json.dumps(value, indent=1) + "\n")
  print(file)


if __name__ == "__main__":
  if sys.argv[1:] == ["compared"]:
    with tempfile.TemporaryDirectory() as folder:
      write_compared(pathlib.Path(folder))
  else:
    apart("-c", "import test_aot; test_aot.write(test_aot.GOLDEN)", **KEYS)
