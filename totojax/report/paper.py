"""Numbers of the paper that reports show beside ours, and where they stand.

Rajasegaran et al., "An Empirical Study of Autoregressive Pre-training from
Videos" (arXiv 2501.05453). What is read off a figure is not printed there, and
is only as exact as a figure can be read.
"""

import dataclasses

TITLE = "An Empirical Study of Autoregressive Pre-training from Videos"
ARXIV = "2501.05453"
ADDRESS, PDF = f"https://arxiv.org/abs/{ARXIV}", f"https://arxiv.org/pdf/{ARXIV}"


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A row of Table 2."""

  name: str  # as printed
  instances: int  # images or videos
  # As printed, which is 256 for each image and each frame at 30 frames a
  # second: hours x 3,600 x 30 x 256 gives the printed values. Of these a
  # sequence draws every 4th frame.
  tokens: int
  hours: float | None  # None for images
  mix: float  # share of a mini-batch (section 3.3)


SOURCES = (
  DataSet("ImageNet", 13_900_000, 3_600_000_000, None, 0.20),
  DataSet("Kinetics-600", 530_000, 41_300_000_000, 1496.0, 0.10),
  DataSet("Ego4D", 52_100, 103_000_000_000, 3750.0, 0.10),
  DataSet("HowTo100m", 1_172_000, 2_560_000_000_000, 92627.0, 0.60),
)
STRIDE_FRAMES = 4  # section 3.4


@dataclasses.dataclass(frozen=True)
class Codes:
  """A tokenizer in Figures 3 and 12, read off these."""

  name: str  # as in the figures
  vocab: int  # its codes
  used: int  # of these on the ImageNet validation set (Figure 3)
  bigrams: int  # distinct 2-grams on 10,000 of its images (Figure 12)


CODES = (
  Codes("dVAE", 8192, 8000, 2_370_000),
  Codes("VQGAN-1k", 1024, 450, 198_000),
  Codes("VQGAN-16k", 16384, 970, 790_000),
)
BIGRAM_IMAGES = 10_000

# Parameters (Tables 1 and 15), tokens (Table 2) and compute (Table 4), as
# printed; Table 4's rows are dVAE/16, dVAE/32 and dVAE/16 to 32.
TABLE_1 = {"base": "120m", "large": "280m", "1b": "1.1b"}
TABLE_2_TOKENS = {
  "ImageNet": "3.6B",
  "Kinetics-600": "41.3B",
  "Ego4D": "103B",
  "HowTo100m": "2560B",
}
TABLE_4 = ("1.42e17", "5.68e17", "2.13e17")
TABLE_6 = {"gpt2": "280m", "mamba": "290m"}  # parameters
TABLE_15 = {"a1": "14.8M", "a2": "77.2M", "a3": "215M", "a4": "458M", "a5": "1.2B", "a6": "1.9B"}
A5_RANGES = {"width": ("64", "1536"), "depth": ("12", "48")}  # in the text
# J&F, and the J and F whose mean it is.
TABLE_10 = {
  "base (256/8)": ("42.0", 41.2, 43.1),
  "large (256/8)": ("44.8", 44.4, 45.1),
  "1b (256/8)": ("46.1", 45.8, 46.4),
  "large (512/8)": ("62.4", 59.2, 65.6),
}
# Frames -> CATER's accuracy in section 4.7's text, and in the table.
TABLE_12 = {16: ("62.8", 62.8), 32: ("70.9", 72.9)}
# Method, model, and top-1 at 16 and at 32 frames as the table has them.
TABLE_12_ROWS = (
  ("V3D (Zhang, 2022)", "ResNet", "55.2", "69.7"),
  ("TFC V3D (Zhang, 2022)", "ResNet", "54.6", "70.2"),
  ("Toto-large", "LLaMA", "62.8", "72.9"),
)
# Attention pooling in the table, and the highest point of its curve in Figure 14, read off.
TABLE_5 = ("61.1", 57.4)
ABLATION_EPOCHS = 400  # section 4
IMAGENET_1K_IMAGES = 1_281_167  # Russakovsky et al., 2015: training images
# Read off Figure 9, on its axis: compute at each model's first point, and the
# loss of the dashed line at one compute.
FIGURE_9_FIRST = {"a1": 2.571e13, "a2": 1.082e14, "a3": 2.826e14, "a4": 5.772e14, "a6": 2.272e15}
LAW_READ_OFF = (1e16, 3.06)
