"""Row `dvae_encode`: our dVAE against DALL-E's own modules.

Shapes: N frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from totojax.config.bench import DvaeEncodeBench
from totojax.jobs.bench import measure, peers
from totojax.tokenizers import api, dvae, weights


def measure_dvae_encode(
  settings: DvaeEncodeBench, *, how: measure.How, seed: int
) -> Iterator[measure.Row]:
  """Frames per second, from uint8 pixels to codes, both in numpy.

  Raises:
    ImportError: PyTorch or DALL-E is missing.
  """
  encode, encoder, decoder = peers.dvae(
    hidden=settings.hidden, vocab=settings.vocab, seed=seed, exact=settings.precision == api.HIGHEST
  )
  params, config = dvae.from_reference(encoder, decoder)
  tokenizer = weights.tokenizer(params, config, "benchmark", precision=settings.precision)
  shape = (settings.frames, settings.size_px, settings.size_px, 3)
  frames_NHW3 = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
  codes = {}

  def run(name, function):
    codes[name] = function(frames_NHW3)
    return float(len(frames_NHW3))

  ours = measure.Side(
    f"our dVAE's encode, float32, precision {settings.precision}",
    lambda: run("ours", tokenizer.encode),
    measure.nothing,
  )
  theirs = measure.Side(
    "DALL-E's Encoder in PyTorch, float32, with the same weights (TF32 on a"
    " GPU below the highest precision)",
    lambda: run("theirs", encode),
    measure.nothing,
  )
  measured = measure.compare(ours, theirs, how=how)
  yield measure.Row(
    row="dvae_encode",
    case=f"{settings.frames} frames of {settings.size_px} px",
    compares="uint8 frames to codes, all frames in one call",
    unit="frames",
    ours=ours.what,
    theirs=theirs.what,
    measured=measured,
    goals=(measure.Goal("times PyTorch's frames/s", measured.ratio.median, 1.0),),
    facts={
      "macs_per_frame": tokenizer.macs(settings.size_px),
      "hidden": settings.hidden,
      "vocab": settings.vocab,
      "codes_equal_frac": float(np.mean(codes["ours"] == codes["theirs"])),
      "threads_of_pytorch": peers.cores(),
    },
  )
