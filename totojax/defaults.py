"""Every config key with its default, unit and source.

Files in `configs/` start from one of these functions and change what they are
about. A key that is not here cannot be set: a misspelt one is refused. "[gap]"
marks what the paper does not say; the source of our default follows.

A flag takes a value's type from its default: write floats as 1.0.
"""

from __future__ import annotations

from ml_collections import ConfigDict

# Table 1. The MLP sizes are not printed: 4 x width for base and large and
# LVM's 5,504 for 1b are what gives 120m, 280m and 1.1b, tied (and, for large,
# Table 4's compute). a1 to a6 are Table 15's widths and depths with 8/3 x width
# rounded up to 128, which the compute axis of Figure 9 agrees with; Table 15's
# parameter counts fit no standard rule.
PRESETS = {
    "base": dict(width=768, depth=12, heads=12, mlp_dim=3072),
    "large": dict(width=1024, depth=16, heads=16, mlp_dim=4096),
    "1b": dict(width=2048, depth=22, heads=16, mlp_dim=5504),
    "a1": dict(width=256, depth=12, heads=16, mlp_dim=768),
    "a2": dict(width=512, depth=16, heads=16, mlp_dim=1408),
    "a3": dict(width=768, depth=20, heads=16, mlp_dim=2048),
    "a4": dict(width=1024, depth=24, heads=16, mlp_dim=2816),
    "a5": dict(width=1536, depth=28, heads=16, mlp_dim=4096),
    "a6": dict(width=1792, depth=32, heads=16, mlp_dim=4864),
    # Ours, for one laptop and for tests.
    "mini": dict(width=128, depth=6, heads=2, mlp_dim=384),
    "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}


def sequence() -> ConfigDict:
  return ConfigDict(dict(
      vocab=8192,  # visual codes (section 3.4)
      grid=16,  # tokens per side: 128 pixels, factor 8 (section 3.4)
      frames=16,  # video frames, or images, in a sequence (section 3.4)
      context=4096,  # inputs, in tokens (section 3.4)
      segments=False,  # hide the images of a sequence from each other; [paper]
  ))  # fmt: skip


def model(preset: str) -> ConfigDict:
  """LLaMA of one of `PRESETS`."""
  return ConfigDict(dict(
      **PRESETS[preset],
      rope_base=10_000.0,  # Table 4 names 50,000 as the change, so 10,000
      norm_eps=1e-6,  # [gap] LVM
      init_std=0.02,  # [gap] LVM's initializer_range
      tied=True,  # [gap] the one reading that gives Table 4's compute
  ))  # fmt: skip


def compute() -> ConfigDict:
  return ConfigDict(dict(
      dtype="bfloat16",  # of activations and products; [gap] LVM
      attention="auto",  # blocked on CPU, cudnn on GPU, xla elsewhere
      remat="auto",  # none on CPU, full elsewhere
      unroll=0,  # layers in line; 0: all on CPU, a scan elsewhere
  ))  # fmt: skip


def optim() -> ConfigDict:
  return ConfigDict(dict(
      lr=3e-4,  # peak (section 3.2)
      warmup_steps=2000,  # linear (section 3.2)
      end_lr_frac=0.1,  # of the peak; [gap] 3e-5, as LVM ends
      b1=0.9,  # section 3.2
      b2=0.95,  # section 3.2
      eps=1e-8,  # [gap] optax
      weight_decay=0.1,  # on matrices; [gap] LLaMA
      clip_norm=1.0,  # global; [gap] LLaMA, LVM
  ))  # fmt: skip


def mesh() -> ConfigDict:
  """Devices per axis; -1 takes what is left."""
  return ConfigDict(dict(data=1, fsdp=-1, tensor=1))


def every(log: int, evaluate: int, checkpoint: int) -> ConfigDict:
  return ConfigDict(dict(
      log_steps=log, eval_steps=evaluate, checkpoint_steps=checkpoint
  ))  # fmt: skip


def checkpoint() -> ConfigDict:
  return ConfigDict(dict(
      keep=2,  # newest checkpoints
      keep_every_steps=0,  # multiples of this stay for good; 0: none
  ))  # fmt: skip


def source(path: str, weight: float) -> ConfigDict:
  """A store of tokens and its share of each batch."""
  return ConfigDict(dict(path=path, weight=weight))


def reading() -> ConfigDict:
  return ConfigDict(dict(
      workers=0,  # processes that read ahead; 0: threads of this process
      prefetch=2,  # batches read ahead
  ))  # fmt: skip


def pretrain(preset: str) -> ConfigDict:
  """`run = "pretrain"`: the paper's recipe (section 3) for one model."""
  return ConfigDict(dict(
      run="pretrain",
      seed=0,
      sequence=sequence(),
      model=model(preset),
      compute=compute(),
      mesh=mesh(),
      optim=optim(),
      train=dict(
          batch_tokens=2**20,  # inputs per update: "1M" (section 3.2)
          total_tokens=1e12,  # section 3.3
          microbatches=1,  # parts of a batch, one after the other
      ),
      data=dict(
          tokenizer="",  # fingerprint that the stores must have; "": any, equal
          train=dict(),  # name -> source
          validation=dict(),  # name -> path of a store
          reading=reading(),
      ),
      validation=dict(
          rows=1024,  # sequences of each source, during training; 0: all
      ),
      every=every(100, 5000, 1000),
      checkpoint=checkpoint(),
  ))  # fmt: skip
