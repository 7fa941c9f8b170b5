"""Every config key with its default, unit and source.

Files in `configs/` start from one of these functions and change what they are
about. A key that is not here cannot be set: a misspelt one is refused. "[gap]"
marks what the paper does not say; the source of our default follows.

A flag takes a value's type from its default: write floats as 1.0.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from totojax.config import labels
from totojax.config import schema

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
# Table 6: 1,024 wide as large. Depths are not printed; these are the ones that
# give 280m and 290m, tied (`run = "audit"`).
GPT2_PRESETS = {
    "280m": dict(width=1024, depth=22, heads=16, mlp_dim=4096),
    "tiny": dict(width=32, depth=2, heads=2, mlp_dim=64),
}
MAMBA_PRESETS = {
    "290m": dict(width=1024, depth=42),
    "tiny": dict(width=32, depth=2),
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
      prefix_tokens=0,  # seen by all: 0: causal (Eq. 1), -1: full
  ))  # fmt: skip


def gpt2(preset: str) -> ConfigDict:
  """GPT-2 with sines and cosines for places (Table 6), for `model`."""
  return ConfigDict(dict(
      **GPT2_PRESETS[preset],
      norm_eps=1e-5,  # [gap] GPT-2
      init_std=0.02,  # [gap] GPT-2
      tied=True,  # [gap] GPT-2
      position_std=0.02,  # of sines and cosines; [gap] that of GPT-2's learned
      # ones at the start; as large as they are (0.7), they drown the tokens
  ))  # fmt: skip


def mamba(preset: str) -> ConfigDict:
  """Mamba (S6; Table 6), for `model`."""
  return ConfigDict(dict(
      **MAMBA_PRESETS[preset],
      expand=2,  # inner width over width; [gap] mamba_ssm
      state=16,  # of each inner channel; [gap] mamba_ssm
      conv=4,  # tokens of the convolution; [gap] mamba_ssm
      step_rank=0,  # of the map to step sizes; 0: width / 16; [gap] mamba_ssm
      chunk_tokens=64,  # whose states exist at a time; changes no result
      scan="steps",  # within a chunk; or "tree": an associative scan
      norm_eps=1e-5,  # [gap] mamba_ssm
      init_std=0.02,  # [gap] as LLaMA's
      tied=True,  # [gap] mamba_ssm
  ))  # fmt: skip


def use(c: ConfigDict, architecture: str, preset: str) -> None:
  """Gives `pretrain()` another architecture (Table 6) and its keys."""
  sections = {"llama": model, "gpt2": gpt2, "mamba": mamba}
  c.architecture = architecture
  c.model = sections[architecture](preset)


def mup() -> ConfigDict:
  """µP (section A.5; Yang et al., 2022); off, as Table 1's models are."""
  return ConfigDict(dict(
      on=False,
      base_width=64,  # [gap] the smallest of Figure 11
      base_mlp_dim=0,  # hidden units there; 0: the model's ratio to its width
      base_heads=0,  # 0: the model's, so that the head dimension grows
      zero_query=True,  # [gap] Yang et al., section D.2
      zero_head=True,  # of an untied head; [gap] Yang et al., section D.2
      depth_init=True,  # / sqrt(2 depth) into the residual stream; [gap] GPT-2
      matrix_std=0.0,  # of the base's matrices at the start; 0: model.init_std
      embedding_std=0.0,  # of embeddings at the start; 0: model.init_std
      output=1.0,  # times the logits
  ))  # fmt: skip


def tuned_mup(base_width: int) -> ConfigDict:
  """µP, on, for an untied head, with multipliers that were tuned.

  In `configs/mup_sweep.py` at widths of 32 to 256, on a CPU; with those of
  `mup` wider models learnt hardly better there (see README.md).
  """
  c = mup()
  c.update(
      on=True, base_width=base_width, matrix_std=base_width**-0.5,
      embedding_std=1.0, output=8.0,
  )  # fmt: skip
  return c


def compute() -> ConfigDict:
  return ConfigDict(dict(
      dtype="bfloat16",  # of activations and products; [gap] LVM
      attention="auto",  # blocked on CPU, splash on TPU, cudnn on GPU (bf16)
      remat="auto",  # none on CPU, full elsewhere; "projections", "products"
      unroll=0,  # layers in line; 0: a scan on TPU, all elsewhere
      loss_chunk=0,  # tokens whose logits exist at a time; 0: all
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
      mu_dtype="float32",  # of the first moment; "bfloat16": half the bytes
  ))  # fmt: skip


def mesh() -> ConfigDict:
  """Devices per axis; -1 takes what is left."""
  return ConfigDict(dict(data=1, fsdp=-1, tensor=1, sequence=1))


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


def plan() -> ConfigDict:
  """What `run = "plan"` of a pre-training config compiles for."""
  return ConfigDict(dict(
      what="train",  # the step; or "decode", "encode"
      rows=8,  # sequences decoded, or frames encoded, by each data-parallel
      # device
      cache_tokens=0,  # room of the cache of "decode"; 0: sequence.context
      dvae=dict(  # of "encode": the official one (Ramesh et al. 2021)
          hidden=256, groups=4, blocks=2, decoder_init=128, post_gain=1 / 64
      ),
      topology="",  # "v5e:16x16", "v4:4x4x8", or "gpu:NVIDIA H100:8"
      slices=1,  # of this topology each
      price_per_chip_hour=0.0,  # in any currency; 0.0: no cost
      busy=0.4,  # share of their peak that GPUs reach: an assumption
      search=False,  # every combination of the three lists
      meshes=(),  # (data, fsdp, tensor, sequence) each; (): `mesh`
      remats=("none", "full", "projections", "products"),
      microbatches=(),  # (): `train.microbatches`
  ))  # fmt: skip


def pretrain(preset: str) -> ConfigDict:
  """`run = "pretrain"`: the paper's recipe (section 3) for one model."""
  return ConfigDict(dict(
      run="pretrain",
      seed=0,
      init_from="",  # a run whose parameters this one starts from (Table 4: at
      # another grid or base of RoPE); "": afresh
      sequence=sequence(),
      architecture="llama",  # whose keys `model` has; "gpt2", "mamba": `use`
      model=model(preset),
      patches=dict(  # Table 3; `train` and `validation` are stores of pixels
          inputs=False,  # patches of pixels in place of tokens
          targets=False,  # the next patch, normalised; False: its token, of
          # data.encode_with
          side_px=16,  # of a patch; [gap] 256 pixels over a grid of 16
          eps=1e-6,  # added to a patch's variance; MAE
      ),
      mup=mup(),
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
          encode_with="",  # tokenizer file: `train` are stores of pixels, and
          # codes are made on the device in each step; "": stores of tokens
          train=dict(),  # name -> source
          validation=dict(),  # name -> path of a store
          reading=reading(),
      ),
      validation=dict(
          rows=1024,  # sequences of each source, during training; 0: all
      ),
      every=every(100, 5000, 1000),
      checkpoint=checkpoint(),
      plan=plan(),
  ))  # fmt: skip


def paper(preset: str) -> ConfigDict:
  """One of Table 1's models on section 3.3's mixture.

  `data.root` holds the stores `imagenet`, `ego4d`, `kinetics600`, `howto100m`
  and, for validation, `kinetics400_val` (of which nothing may be in
  Kinetics-600's training set).
  """
  c = pretrain(preset)
  c.data.root = "data"
  root = c.data.get_ref("root")
  mixture = dict(imagenet=0.2, ego4d=0.1, kinetics600=0.1, howto100m=0.6)
  c.data.train = {
      name: source(root + f"/{name}", weight)
      for name, weight in mixture.items()
  }
  c.data.validation = {"kinetics400": root + "/kinetics400_val"}
  return c


def scene() -> ConfigDict:
  """What `data/synthetic.py` renders."""
  return ConfigDict(dict(
      frames=16,  # of a clip
      size_px=32,
      objects=2,  # at most
      occluder_frac=0.3,  # clips with a bar in front
      pan_frac=0.25,  # clips whose background moves
      motions=(),  # (): all of them
      backgrounds=(),  # (): all of them
      radius=(0.22, 0.30),  # of the large object, in frame sides
      speed=(0.05, 0.085),  # in frame sides a frame
  ))  # fmt: skip


def render(train: int, val: int) -> ConfigDict:
  """`run = "render"`: labelled clips of moving textured objects."""
  return ConfigDict(dict(
      run="render",
      seed=0,
      scene=scene(),
      amount=dict(
          train=train,  # clips
          val=val,  # clips, held out
          label="motion",  # or "shape", or "both"
          records_per_shard=256,
      ),
  ))  # fmt: skip


def clip() -> ConfigDict:
  """What is cut out of a video (section 3.4)."""
  return ConfigDict(dict(
      frames=16,  # section 3.4
      stride_frames=4,  # section 3.4
      fps=30.0,  # [gap] Table 2's hours and tokens agree with 30
      size_px=128,  # section 3.4
      crops=1,  # [gap] clips of one video
      resample="bicubic",  # [gap] with antialiasing
  ))  # fmt: skip


def views() -> ConfigDict:
  """Clips as SlowFast samples Kinetics (section 4.3), in place of `clip`'s.

  Frames, stride, rate and size stay those of `clip`.
  """
  return ConfigDict(dict(
      mode="",  # "train": clip.crops random ones; "test": views; "": off
      temporal=10,  # with "test": places in time; 10 x 3 views is SlowFast's
      spatial=3,  # with "test": windows along the long side; 1: the central one
      offset=False,  # with "test": the last place ends with the video
      short_frac=(8 / 7, 10 / 7),  # with "train": the short side is drawn, in
      # sizes of the clip; SlowFast: 256 to 320 for 224
      flip_frac=0.5,  # with "train": clips that are mirrored
  ))  # fmt: skip


def decode(root: str) -> ConfigDict:
  """`run = "decode"`: clips out of a folder of videos (section 3.4)."""
  return ConfigDict(dict(
      run="decode",
      seed=0,
      clip=clip(),
      decoding=dict(
          root=root,
          val_frac=0.1,  # of the videos, held out
          records_per_shard=256,
      ),
  ))  # fmt: skip


def photos(train: int, val: int) -> ConfigDict:
  """`run = "photos"`: squares out of a few public-domain photographs."""
  return ConfigDict(dict(
      run="photos",
      seed=0,
      crop=dict(
          size_px=32,
          least_px=48,  # of the photograph, resized to size_px
          most_px=400,
      ),
      amount=dict(train=train, val=val, records_per_shard=1024),
  ))  # fmt: skip


def tokenizer() -> ConfigDict:
  """`run = "tokenizer"`: a dVAE as DALL-E trained it (Ramesh et al., A.2)."""
  return ConfigDict(dict(
      run="tokenizer",
      seed=0,
      weights="train",  # or a tokenizer file, or "shipped": no training
      dvae=dict(
          vocab=8192,
          hidden=256,
          groups=4,
          blocks=2,
          decoder_init=128,
          post_gain=1 / 64,
      ),
      objective=dict(
          loss="logit_laplace",
          kl=6.6,
          kl_steps=5000,
          tau_start=1.0,
          tau_end=1 / 16,
          tau_steps=150_000,
          usage=0.0,  # ours; off, as published
          start="random",  # as published; ours: "patches"
          start_logit_std=10.0,  # nothing with a random start
          teacher=0.0,  # ours; off, as published
          teacher_steps=1,  # nothing without a teacher
      ),
      train=dict(
          steps=3_000_000,
          batch_frames=512,
          microbatches=1,
          start_frames=256,  # nothing with a random start
          score_frames=512,  # held-out frames of each source
          least_used_frac=0.0,  # of the codes, at the end; 0.0: no check
          dtype="float32",  # of the file
      ),
      optim=dict(
          lr=1e-4,
          warmup_steps=0,
          end_lr_frac=0.0125,  # 1.25e-6
          b1=0.9,
          b2=0.999,
          eps=1e-8,
          weight_decay=1e-4,
          clip_norm=1e9,  # none
          mu_dtype="float32",  # of the first moment; or "bfloat16"
      ),
      data=dict(
          train=dict(),  # name -> source of pixels
          validation=dict(),  # name -> path of a store of pixels
          reading=reading(),
      ),
      mesh=mesh(),
      every=every(100, 10_000, 5000),
      checkpoint=checkpoint(),
      card=dict(command="", data=""),  # what the file says of itself
  ))  # fmt: skip


def small_dvae(c: ConfigDict, steps: int) -> None:
  """Turns `tokenizer()` into one that a CPU trains in minutes.

  The k-means start and teacher are ours: the published losses alone collapse to
  a few codes in so few updates.
  """
  c.dvae.update(
      vocab=512, hidden=32, blocks=1, decoder_init=64, post_gain=0.25
  )
  c.objective.update(
      loss="l2",
      kl=0.0,
      tau_steps=steps * 3 // 5,
      start="patches",
      teacher=0.01,
      teacher_steps=steps * 3 // 4,
  )
  c.train.update(
      steps=steps,
      batch_frames=32,
      start_frames=2500,
      score_frames=512,
      least_used_frac=0.5,
  )
  c.optim.update(
      lr=3e-3,
      warmup_steps=min(50, steps // 10),
      end_lr_frac=0.02,
      b2=0.99,
      clip_norm=1.0,
  )
  c.every = every(50, 500, 250)


def shards(pixels: str, weights: str) -> ConfigDict:
  """`run = "shards"`: pixels to tokens."""
  return ConfigDict(dict(
      run="shards",
      seed=0,
      tokenizing=dict(
          pixels=pixels,  # folder with the pixel stores train and val
          tokenizer=weights,  # a file, or "shipped"
          records=32,  # clips at a time
          records_per_shard=512,
          report_frames=512,  # held-out frames that PSNR is measured on
          kmeans_frames=2000,  # training frames for the k-means baseline
          kmeans_patches=20_000,
      ),
  ))  # fmt: skip


def tokenize() -> ConfigDict:
  """`run = "tokenize"` and "plan": any images or videos to tokens."""
  return ConfigDict(dict(
      run="tokenize",
      seed=0,
      tokenizer="shipped",  # or a tokenizer file (runs "tokenizer", "official")
      source=dict(
          name="folder",  # a section below, or "list"
          kind="video",  # or "image": of folder, list and tars
          root="",  # folder of the data
          splits=("",),  # of the source; each becomes a store; "": all of it
          val_frac=0.0,  # of the items, held out, where there is one split
          exclude=(),  # files of ids, or stores, whose items are left out
          folder=dict(class_folders=False),  # the folders are the classes
          list=dict(
              path="",  # "path label" in each line
              separator="space",  # before the label; "comma", "tab", "none"
              classes=0,  # labels are below it; 0: any
          ),
          tars=dict(classes=0, label_key="label"),  # WebDataset; of a .json
          tfds=dict(
              name="",  # "ucf101", "moving_mnist:1.0.0"
              feature="",  # of pixels; "": the only image or video
              label="",  # its class; "": the only one, if there is one
              fps=30.0,  # of videos, which TFDS does not store
          ),
          imagenet=dict(classes=1000, val_labels=""),  # 0: ImageNet-21k
          kinetics=dict(
              annotations="",  # the official CSV, "{split}" filled in; "":
              # what is there
              classes=400,  # or 600, 700
              plain_names="whole",  # files without times in their names;
              # or "trimmed"
          ),
          ssv2=dict(classes=174),
          ego4d=dict(
              folder="full_scale",  # or "clips"
              ids="",  # file of ids or stretches; "{split}" is filled in
          ),
          howto100m=dict(ids=""),  # file of the wanted ids; "": all
          ucf101=dict(fold=1, classes=101),  # official split 1, 2 or 3
      ),
      clip=dict(
          **clip(),
          sampling="uniform",  # [gap] or "duration": in proportion to length
          every_s=10.0,  # with "duration": seconds of video for one stretch
          most_stretches=64,  # with "duration": of one video
      ),
      views=views(),
      image=dict(
          size_px=128,  # section 3.4
          crops=1,  # [gap] windows of one image
          crop="random",  # [gap] section 3.4 says it of videos; or "center"
          resample="bicubic",  # [gap] with antialiasing
          animated="refuse",  # or "first": the first picture
      ),
      amount=dict(
          items_per_shard=256,  # an interruption costs at most one shard
          workers=-1,  # processes that decode; -1: one for each core
          ahead=4,  # items of a worker that are decoded before they are needed
      ),
      beam=dict(
          name="",  # "DirectRunner", "DataflowRunner", ...; "": no pipeline
          options=(),  # Beam's flags, as "--project=NAME"
      ),
      plan=dict(
          chip="TPU v5e",
          busy=0.3,  # share of its peak: an assumption, not a measurement
          probed=64,  # videos whose length is read
          hours=0.0,  # of video, without a source
          videos=0,  # that these hours are; 0: clips without gaps
          images=0,  # or images, without a source
      ),
  ))  # fmt: skip


def tokens_report() -> ConfigDict:
  """`run = "tokens_report"`: what is in stores of tokens."""
  return ConfigDict(dict(
      run="tokens_report",
      tokens_report=dict(
          stores=dict(),  # name -> path of a store of tokens
          tokenizer="",  # a file or "shipped", to show images; "": none
          pixels=dict(),  # name of a store -> the pixels it was made from
          images=10_000,  # whose 2- and 3-grams are counted; 0: all (A.6)
          adjacency="raster",  # [gap] n-grams go on into the next row; or "row"
      ),
  ))  # fmt: skip


def official() -> ConfigDict:
  """`run = "official"`: released tokenizers, as files of ours."""
  return ConfigDict(dict(
      run="official",
      official=dict(
          kind="dvae",  # or "vqgan-1k", "vqgan-16k"
          files=(),  # encoder.pkl and decoder.pkl, or last.ckpt; (): download
          urls=(),  # (): the official ones
          sha256=(),  # that the files must have; none is published
      ),
  ))  # fmt: skip


def leakage() -> ConfigDict:
  """`run = "leakage"`: is anything held out also trained on?"""
  return ConfigDict(dict(
      run="leakage",
      leakage=dict(
          train=(),  # stores of tokens
          validation=(),  # stores of tokens
          per="record",  # or "frame": whose tokens must not be equal
          fail=True,  # an overlap is an error
      ),
  ))  # fmt: skip


def validate(model_run: str) -> ConfigDict:
  """`run = "validate"`: loss of a pre-trained model by position."""
  return ConfigDict(dict(
      run="validate",
      model_run=model_run,  # run directory of `run = "pretrain"`
      rows=0,  # sequences of each source; 0: all
  ))  # fmt: skip


def sizes(
    *widths: int, depth: int, heads: int, mlp_ratio: float
) -> ConfigDict:
  """Models of one depth by name, for a sweep over widths."""
  return ConfigDict({
      f"w{width}": dict(
          width=width, depth=depth, heads=heads, mlp_dim=int(width * mlp_ratio)
      )
      for width in widths
  })


def audit() -> ConfigDict:
  """`run = "audit"`: the paper's counts and compute, worked out again."""
  return ConfigDict(dict(run="audit"))


def coord_check(models: ConfigDict) -> ConfigDict:
  """`run = "coord_check"`: do activations keep their size over the width?

  Of `pretrain`, the sections sequence, model, mup, compute and optim count.
  """
  c = pretrain("tiny")
  c.optim.update(warmup_steps=0, end_lr_frac=1.0)  # the same in each update
  return ConfigDict(dict(
      run="coord_check",
      coord_check=dict(
          models=models,  # name -> sizes, in place of pretrain.model's
          parametrisations=("mup", "standard"),
          rows=4,  # sequences of random tokens
          updates=4,
          log2_lr=-7.0,  # of the peak learning rate; Figure 11's best
      ),
      pretrain=c,
  ))  # fmt: skip


def sweep(pretrain: ConfigDict, models: ConfigDict) -> ConfigDict:
  """`run = "sweep"`: every combination of the lists, and their optima.

  Args:
    pretrain: what all runs share.
    models: name -> sizes, in place of pretrain.model's.
  """
  return ConfigDict(dict(
      run="sweep",
      sweep=dict(
          models=models,
          log2_lr=dict(  # of the peak rate; (): without this parametrisation
              mup=tuple(float(x) for x in range(-12, -2)),
              standard=tuple(float(x) for x in range(-12, -2)),
          ),
          seeds=(0, 1, 2),  # of parameters and data
          total_tokens=(pretrain.train.total_tokens,),  # of each run
          lanes=0,  # learning rates in one program, as memory allows; 0: all
          together="auto",  # vmap: "at_once"; "in_turn"; auto: in turn on CPU
      ),
      pretrain=pretrain,
  ))  # fmt: skip


def scaling(*runs: str) -> ConfigDict:
  """`run = "scaling"`: the law of finished runs (Figure 9).

  Args:
    *runs: "NAME=FOLDER" each, run directories of `run = "pretrain"`.
  """
  return ConfigDict(dict(
      run="scaling",
      scaling=dict(
          runs=runs,
          source="",  # of the evaluation; "": the mean over all
          skip_frac=0.1,  # of each run, whose evaluations are left out
          frontier="envelope",  # or "final", the end of each run
          bins_per_decade=8,  # of compute, for the envelope
          draws=1000,  # of runs, for the interval
          seed=0,
          force=False,  # fit fewer than 3 points, or less than a decade
      ),
  ))  # fmt: skip


def curves(*runs: str) -> ConfigDict:
  """`run = "curves"`: training losses of several runs over tokens (Figure 2).

  Args:
    *runs: "NAME=FOLDER" each, run directories of `run = "pretrain"`.
  """
  return ConfigDict(dict(
      run="curves",
      curves=dict(
          runs=runs,
          window=1,  # logged losses of which the mean is drawn
          printed=dict(),  # name -> loss at its end in the paper
      ),
  ))  # fmt: skip


def probe(model_run: str, train: str, validation: str) -> ConfigDict:
  """`run = "probe"`: MAE's linear probe on every layer (section 3.5).

  Args:
    model_run: run directory of `run = "pretrain"`.
    train: store of tokens with classes.
    validation: the same, held out.
  """
  c = schema.to_config(labels.Probe(model_run=model_run))
  c.data.update(train=train, validation=validation)
  return c


def features(model_run: str) -> ConfigDict:
  """`run = "features"`: features of a pre-trained model, as files.

  Args:
    model_run: run directory of `run = "pretrain"`.
  """
  c = tokenize()
  c.clip.update(frames=0, size_px=0)  # 0: the model's
  c.image.update(size_px=0, crop="center")  # 0: the model's
  return ConfigDict(dict(
      run="features",
      seed=0,
      model_run=model_run,
      features=dict(
          encoder="",  # Python file of another (totojax/trained/encoders.py)
          tokenizer="",  # its file; "": of the run, its chain or the package
          layers=(),  # H_0 (the embeddings) to H_L; (): all
          pool="clip",  # means over each; or "frame", "token"
          format="safetensors",  # or "npz"
          dtype="float32",  # of what is stored; or "float16"
          rows=8,  # clips of a forward pass
      ),
      source=c.source,
      clip=c.clip,
      views=c.views,
      image=c.image,
      amount=c.amount,
  ))  # fmt: skip


def small_probe(model_run: str, shards: str, clips: str) -> ConfigDict:
  """`probe` of a small model on rendered clips, with everything beside it.

  Args:
    model_run: run directory of `run = "pretrain"`.
    shards: folder of the stores of tokens `train` and `val`.
    clips: folder of the stores of pixels that they were made from.
  """
  c = probe(model_run, f"{shards}/train", f"{shards}/val")
  c.backbones = ("trained", "untrained", "pixels", "histogram")
  c.data.update(
      train_pixels=f"{clips}/train",
      validation_pixels=f"{clips}/val",
      holdout_frac=0.2,
  )
  c.train.update(epochs=40.0, batch_rows=256, score_rows=256)
  c.optim.update(
      name="adamw",
      lrs=(1e-3, 3e-3, 1e-2),
      weight_decays=(0.01, 0.3),
      lr_rows=0,
      warmup_epochs=1.0,
  )
  c.every = every(100, 1000, 1000)
  return c


def probe_seeds(**runs: list[str]) -> ConfigDict:
  """`run = "probe_seeds"`: question -> run directories, one for each seed."""
  folders = {name: tuple(paths) for name, paths in runs.items()}
  return schema.to_config(labels.ProbeSeeds(probe_seeds=folders))


def report(chain: str) -> ConfigDict:
  """`run = "report"`: one page about a chain."""
  return ConfigDict(dict(run="report", chain=chain))


def chain(**stages: ConfigDict) -> ConfigDict:
  """`run = "chain"`: the stages in the order given."""
  return ConfigDict(dict(run="chain", order=tuple(stages), stages=stages))


def videos_to_report(
    clips: ConfigDict, *, name: str, grid: int, batch: int, steps: int
) -> ConfigDict:
  """The whole job in small: pixels, tokens, a "mini" model, validation, report.

  Args:
    clips: the stage that makes the pixel stores.
    name: of the only source.
    grid: tokens per side of a frame.
    batch: sequences of an update.
    steps: updates.
  """
  chosen = tokenizer()
  chosen.weights = "shipped"
  model_run = pretrain("mini")
  tokens = 16 * grid**2
  model_run.sequence.update(vocab=512, grid=grid, frames=16, context=tokens)
  model_run.compute.dtype = "float32"  # bf16 is no faster on a CPU
  model_run.train.update(
      batch_tokens=batch * tokens, total_tokens=float(steps * batch * tokens)
  )
  model_run.optim.warmup_steps = steps // 10
  model_run.data.train = {name: source("{workdir}/shards/train", 1.0)}
  model_run.data.validation = {name: "{workdir}/shards/val"}
  model_run.validation.rows = 64
  return chain(
      clips=clips,
      tokenizer=chosen,
      shards=shards(
          "{workdir}/clips", "{workdir}/tokenizer/tokenizer.safetensors"
      ),
      pretrain=model_run,
      validate=validate("{workdir}/pretrain"),
      report=report("{workdir}"),
  )
