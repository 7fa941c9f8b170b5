"""Row `dvae_encode`: our dVAE against DALL-E's own modules.

Shapes: N frames.
"""

from collections.abc import Iterator

import numpy as np

from totojax.config.bench import DvaeEncodeBench
from totojax.jobs.bench import measure, peers
from totojax.rundir import provenance
from totojax.tokenizers import api, dvae, weights


def rows(settings: DvaeEncodeBench, harness: measure.Harness) -> Iterator[measure.Measurement]:
  """Frames per second, from uint8 pixels to codes, both in numpy.

  Raises:
    ImportError: PyTorch or DALL-E is missing.
  """
  hidden, vocab, precision = settings.hidden, settings.vocab, settings.precision
  exact = precision == api.HIGHEST
  encode, encoder, decoder = peers.dvae(hidden=hidden, vocab=vocab, seed=harness.seed, exact=exact)
  params, config = dvae.from_reference(encoder, decoder)
  tokenizer = weights.tokenizer(params, config, "benchmark", precision=precision)
  shape = (settings.frames, settings.size_px, settings.size_px, 3)
  frames_NHW3 = np.random.default_rng(harness.seed).integers(0, 256, shape, dtype=np.uint8)
  yield harness.compare(
    measure.Side(
      f"our dVAE's encode, float32, precision {precision}",
      lambda: tokenizer.encode(frames_NHW3),
      settings.frames,
    ),
    measure.Side(
      "DALL-E's Encoder in PyTorch, float32, with the same weights (TF32 on a"
      " GPU below the highest precision)",
      lambda: encode(frames_NHW3),
      settings.frames,
    ),
    case=f"{settings.frames} frames of {settings.size_px} px",
    compares="uint8 frames to codes, all frames in one call",
    unit="frames",
    goals=measure.level("times PyTorch's frames/s"),
    facts=lambda rounds: {
      "macs_per_frame": tokenizer.macs(settings.size_px),
      "hidden": hidden,
      "vocab": vocab,
      "codes_equal_frac": float(np.mean(np.equal(*rounds.warmup))),
      "threads_of_pytorch": provenance.cores(),
    },
  )
