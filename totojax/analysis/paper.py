"""Numbers of the paper that reports show beside ours, and where they stand.

Rajasegaran et al., "An Empirical Study of Autoregressive Pre-training from
Videos" (arXiv 2501.05453). What is read off a figure is not printed there, and
is only as exact as a figure can be read.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
  """A row of Table 2.

  Attributes:
    name: as printed.
    instances: images or videos.
    tokens: as printed, which is 256 for each image and each frame at 30 frames
      a second: hours x 3,600 x 30 x 256 gives the printed values. Of these a
      sequence draws every 4th frame.
    hours: None for images.
    mix: share of a mini-batch (section 3.3).
  """

  name: str
  instances: int
  tokens: int
  hours: float | None
  mix: float


SOURCES = (
    Source("ImageNet", 13_900_000, 3_600_000_000, None, 0.20),
    Source("Kinetics-600", 530_000, 41_300_000_000, 1496.0, 0.10),
    Source("Ego4D", 52_100, 103_000_000_000, 3750.0, 0.10),
    Source("HowTo100m", 1_172_000, 2_560_000_000_000, 92627.0, 0.60),
)
STRIDE_FRAMES = 4  # section 3.4


@dataclasses.dataclass(frozen=True)
class Codes:
  """A tokenizer in Figures 3 and 12, read off these.

  Attributes:
    name: as in the figures.
    vocab: its codes.
    used: of these on the ImageNet validation set (Figure 3).
    bigrams: distinct 2-grams on 10,000 of its images (Figure 12).
  """

  name: str
  vocab: int
  used: int
  bigrams: int


CODES = (
    Codes("dVAE", 8192, 8000, 2_370_000),
    Codes("VQGAN-1k", 1024, 450, 198_000),
    Codes("VQGAN-16k", 16384, 970, 790_000),
)
BIGRAM_IMAGES = 10_000
