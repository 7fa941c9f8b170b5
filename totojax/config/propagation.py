"""Config keys of label propagation: how labels of a first frame go on to later ones."""

from typing import Any

from totojax.config.schema import field, Section, section

FIRST = ("bilinear", "nearest", "input")
OUTPUT = ("image", "input")


@section("propagation.NAME")
class Propagation(Section):
  """How labels of frames before go on to the next by the likeness of features.

  Attributes:
    first_labels: how those of the first frame come to the grid. "bilinear": one
      map of each label, at the frame's size, interpolated without antialiasing;
      "nearest": labels themselves, so that a place has one; "input": labels to
      the encoder's input by nearest pixels, then as "bilinear".
    output: where the largest map decides. "image": at the frame's size; "input":
      at the encoder's input, whose labels come to the frame by nearest pixels.
    fill: whether copies of the first frame stand before it, so that there is a
      whole context from the start. They count in `top_k`.
  """

  context_frames: int = field(7, "before a frame, beside the first", "DINO", at_least=0)
  fill: bool = field(False, "copies of the first before it", "DINO")
  radius: float = field(12.0, "places that are near; 0: all are", "DINO", at_least=0, unit="cells")
  window: str = field("square", "of what is near", "DINO", choices=("square", "circle"))
  first_everywhere: bool = field(False, "all of the first frame is near", "DINO")
  temperature: float = field(0.1, "of the softmax", "DINO", above=0)
  top_k: int = field(5, "places that a place is made of", "DINO", at_least=1)
  keep_ties: bool = field(True, "all that are as like as the last of them", "DINO")
  first_labels: str = field("nearest", "on the grid", "DINO", choices=FIRST)
  output: str = field("input", "where the largest decides", "DINO", choices=OUTPUT)
  normalise: bool = field(True, "each label's map to 0 to 1 first", "DINO")


_STC: dict[str, Any] = dict(
  context_frames=20,
  fill=True,
  radius=12.0,
  window="circle",  # closer than the radius; a square has it too
  first_everywhere=True,
  temperature=0.07,
  top_k=10,
  keep_ties=False,
  first_labels="bilinear",
  output="image",
  normalise=False,
)
# Of Jabri et al. (2020, "stc", the defaults of their code), Caron et al. (2021, "dino") and the
# notebook of representations4d ("rvm", CropMAE's too); for DAVIS.
PRESETS: dict[str, Propagation] = {
  "dino": Propagation(),
  "stc": Propagation(**_STC),
  "rvm": Propagation(
    **_STC | dict(radius=20.0, temperature=0.7, top_k=7, first_labels="input", output="input")
  ),
}
