"""One dial: from a number of parameters to a model, a rate and amounts, by µP.

Nothing is read from a measurement here; what each choice rests on is said with
it (`configs/scale.py` prints it).
"""

from collections.abc import Iterator
import dataclasses
import math
import re

from ml_collections import ConfigDict

from totojax.config import recipes, study_recipes
from totojax.config.schema import ConfigError

UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
LEAST, MOST = 2e4, 1.3e9  # parameters of the blocks
BASE_WIDTH, BASE_HEADS = 32, 4  # of the model that the rate was tuned for
LOG2_LR = -6.0  # `configs/mup_sweep.py`: -6.5 to -5.5 is best at widths of 32 to 256
TOKENS_EACH = 20  # of training, for a parameter (Hoffmann et al., 2022)
# Widths that there are: multiples of what a matrix unit likes at that size.
_WIDTHS = (*range(32, 256, 32), *range(256, 1024, 64), *range(1024, 2049, 128))


@dataclasses.dataclass(frozen=True)
class Choice:
  """What a size means."""

  width: int  # of the residual stream
  depth: int  # blocks
  heads: int  # of attention
  mlp_dim: int  # hidden units
  batch_tokens: int  # inputs of an update
  total_tokens: float  # of the run

  @property
  def parameters(self) -> int:
    """Of the blocks: what the size is of."""
    return self.depth * (4 * self.width**2 + 3 * self.width * self.mlp_dim)

  @property
  def steps(self) -> int:
    return int(self.total_tokens) // self.batch_tokens


def read(size: str) -> tuple[float, bool]:
  """(parameters, for TPUs) of "300k", "20m" or "1b", and "20m-tpu".

  Raises:
    ConfigError: it is no size, or beyond what the dial reaches.
  """
  match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb])(-tpu)?", size)
  number = float(match[1]) * UNITS[match[2]] if match else 0.0
  if not LEAST <= number <= MOST:
    raise ConfigError(
      f"size {size!r} is unknown; write parameters from 20k to 1b, as 300k, 20m or 0.5b, and -tpu"
      " after it for heads that fill a TPU's matrix unit"
    )
  return number, bool(match and match[3])


def _shaped(width: int, tpu: bool) -> Choice:
  """The model of a width, with 20 tokens for each parameter."""
  depth = max(2, round(width / 64))
  head_dim = width // 4 if width < 256 else 64 if width < 1024 and not tpu else 128
  multiple = 32 if width < 256 else 128
  mlp_dim = round(width * 8 / 3 / multiple) * multiple
  model = Choice(width, depth, max(1, width // head_dim), mlp_dim, 1, 1.0)
  # Doubles with every fourfold of the parameters, from 2^12 at 100,000.
  batch = 2 ** min(max(12 + round(math.log(model.parameters / 1e5, 4)), 12), 20)
  total = max(math.ceil(TOKENS_EACH * model.parameters / batch), 200) * batch
  return dataclasses.replace(model, batch_tokens=batch, total_tokens=float(total))


def choose(parameters: float, tpu: bool = False) -> Choice:
  """The model whose blocks are nearest to so many parameters.

  `tpu`: heads of 128 from a width of 256 on, of widths that they divide.
  """
  widths = (w for w in _WIDTHS if w // 4 % 2 == 0 and not (tpu and w > 256 and w % 128))
  models = (_shaped(width, tpu) for width in widths)
  return min(models, key=lambda model: abs(math.log(model.parameters / parameters)))


def config(choice: Choice) -> ConfigDict:
  """`pretrain` of one's own stores, which decide its sequence (`recipes.own`)."""
  c = recipes.own("base")
  c.model.update({k: getattr(choice, k) for k in ("width", "depth", "heads", "mlp_dim")})
  c.model.tied = False  # as the multipliers were tuned
  c.mup = study_recipes.tuned_mup(BASE_WIDTH)
  c.mup.base_heads = BASE_HEADS
  c.train.update(batch_tokens=choice.batch_tokens, total_tokens=choice.total_tokens)
  c.optim.update(lr=2.0**LOG2_LR, warmup_steps=min(2000, choice.steps // 10))
  if choice.parameters <= 5e6:  # of a CPU, where bfloat16 is no faster
    c.compute.dtype = "float32"
    c.validation.rows = 64
  return c


def reasons(choice: Choice) -> Iterator[str]:
  """What was chosen and why, a line each."""
  c = choice
  yield (
    f"width {c.width}, depth {c.depth}: {c.parameters:,} parameters in blocks. A block for each 64"
    " of width, as base and large of Table 1 have"
  )
  yield (
    f"{c.heads} heads of {c.width // c.heads}, {c.mlp_dim} hidden units: heads fill matrix units"
    " where the width allows it; SwiGLU's 8/3 of the width"
  )
  yield (
    f"rate 2^{LOG2_LR:g}, the same at every size: µP from a base of width {BASE_WIDTH}, where it"
    " was tuned (configs/mup_sweep.py) for widths up to 256. Beyond, and over depth and batch, it"
    " is untested: sweep an octave to each side where a run is dear"
  )
  yield (
    f"{c.total_tokens:,.0f} tokens, {TOKENS_EACH} a parameter (Hoffmann et al., 2022) and 200"
    f" updates at least, in {c.steps:,} updates of {c.batch_tokens:,}, which double with every"
    " fourfold of the parameters; fewer where the stores have less"
  )
