"""Config keys of the benchmark: sizes, units, sources.

As in `defaults.py`.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from totojax.config import defaults
from totojax.config import pixels
from totojax.config import schema


def four_layers(*, frames: int, batch_tokens: int) -> ConfigDict:
  """Base with 4 layers in float32, for measurements on a CPU; no stores."""
  c = defaults.pretrain("base")
  c.model.depth = 4
  c.sequence.update(frames=frames, context=frames * c.sequence.grid**2)
  c.compute.dtype = "float32"
  c.train.update(batch_tokens=batch_tokens, total_tokens=1e9)
  c.checkpoint.keep = 1
  return c


def probe_bench() -> ConfigDict:
  """Every layer of four, 20 settings each, 1,000 classes; 128 images."""
  of = defaults.probe("", "", "")
  of.optim.update(
      lrs=(0.01, 0.03, 0.1, 0.3, 1.0), weight_decays=(0.0, 1e-4, 1e-3, 1e-2)
  )
  return ConfigDict(dict(
      pools=("average", "attention"),
      widths=(384, 768),
      classes=1000,
      rows=128,
      head={key: of.head[key] for key in of.head if key != "pool"},
      optim=of.optim,
      trained=four_layers(frames=1, batch_tokens=256),
  ))  # fmt: skip


def sweep_bench() -> ConfigDict:
  """Four rates of a model of configs/mup_sweep.py, 50 updates each."""
  c = defaults.pretrain("tiny")
  c.model.update(width=128, depth=2, heads=4, mlp_dim=256)
  c.sequence.update(vocab=512, grid=4, frames=4, context=64)
  c.compute.dtype = "float32"
  c.train.update(batch_tokens=512, total_tokens=1e9)
  return ConfigDict(dict(
      log2_lr=(-9.0, -8.0, -7.0, -6.0), steps=50,
      together=("at_once", "in_turn"), trained=c,
  ))  # fmt: skip


def growth() -> ConfigDict:
  """From 10 million parameters, 1,024 tokens and one device upwards."""
  c = defaults.pretrain("base")
  # 10.6M parameters.
  c.model.update(width=256, depth=10, heads=4, mlp_dim=768)
  c.sequence.update(frames=4, context=1024)
  c.compute.dtype = "float32"
  c.train.update(batch_tokens=1024, total_tokens=1e9)
  return ConfigDict(dict(
      trained=c,
      models={
          name: dict(defaults.PRESETS[name]) for name in ("base", "large", "1b")
      },
      frames=(16, 64),  # 4,096 and 16,384 tokens
      devices=(2, 4, 8),
  ))  # fmt: skip


def bench_accelerator() -> ConfigDict:
  """`run = "bench"`: what a GPU does, with the paper's models in bfloat16."""
  c = bench()
  c.bench.rows = ("train_step", "decode_tokens", "dvae_encode")
  c.train_step.update(steps=8, peer_compiled=True)
  c.train_step.trained = {
      name: one_gpu(name, rows)
      for name, rows in (("base", 16), ("large", 8), ("1b", 4))
  }
  c.decode_tokens.update(rows=8, trained=one_gpu("1b", 1))
  c.dvae_encode.frames = 64
  return c


def one_gpu(preset: str, rows: int) -> ConfigDict:
  """A step of one of Table 1's models that fills one GPU; no stores."""
  c = defaults.pretrain(preset)
  c.train.update(batch_tokens=rows * c.sequence.context, total_tokens=1e9)
  c.compute.remat = "none"
  return c


def bench() -> ConfigDict:
  """`run = "bench"`: ratios to what others have, measured in one run."""
  return ConfigDict(dict(
      run="bench",
      seed=0,
      bench=dict(
          rows=(),  # of `totojax/jobs/bench/job.py`; (): all
          rounds=5,  # readings of each side
          rest_s=0.2,  # pause before each, for threads that spin
      ),
      decode=dict(
          sizes=("320x240", "1280x720"),  # of the videos, pixels
          lengths_s=(2.1, 6.0),  # 2.1 is just more than a clip
          codec="libx264",
          rate=30,  # frames per second
          clips=8,  # of one reading
          clip=schema.to_dict(pixels.ClipSpec()),
      ),
      dvae_encode=dict(
          frames=8,  # of one call
          size_px=128,  # section 3.4
          hidden=256,  # the official size
          vocab=8192,
          precision="highest",  # or "high", "default"
      ),
      store=dict(
          records=4096,
          frames=16,  # of 256 tokens: a sequence of 4,096
          records_per_shard=1024,
          batch=64,  # records at a time
          reads=64,  # batches of one reading
          singles=512,  # records of one reading, one at a time
      ),
      train_step=dict(
          steps=1,  # of one reading
          peer_compiled=False,  # torch.compile needs a C++ compiler on CPUs
          trained={"4 layers": four_layers(frames=4, batch_tokens=4096)},
      ),
      decode_tokens=dict(
          rows=1,  # sequences at a time
          context=1,  # frames that are given
          further=1,  # frames that are made
          trained=four_layers(frames=2, batch_tokens=512),
      ),
      probe=probe_bench(),
      sweep=sweep_bench(),
      checkpoint=dict(
          steps=4,  # updates of one reading
          trained=four_layers(frames=1, batch_tokens=512),
      ),
      startup=dict(trained=four_layers(frames=1, batch_tokens=512)),
      growth=growth(),
      mamba_scan=dict(  # a layer of 290m at a quarter of a sequence
          rows=1,
          tokens=1024,
          inner=2048,
          state=16,
          chunk_tokens=64,
          scans=("steps", "tree"),
      ),
  ))  # fmt: skip
