"""`run = "audit"`: the paper's counts and compute, worked out again.

Every number of Tables 1, 2, 4, 6, 10 and 15 that follows from others, those of
Tables 5 and 12 that stand in two places, and the units of the scaling law,
beside what is printed; where the paper disagrees with
itself, the row says so. Leaves `audit.csv` and `report.html`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import re

from etils import epath
from rich import console as rich_console, table as rich_table

from totojax import flops, jobs
from totojax.config import model as models, schema, studies
from totojax.models import gpt2, llama, mamba
from totojax.report import audit_page, frame, paper, scaling
from totojax.rundir import console, directory, files

DVAE_VOCAB, VQGAN_VOCAB = 8192, 16384
TOKENS_OF_FRAME = 256
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@dataclasses.dataclass(frozen=True)
class Line:
  """One number of the paper."""

  where: str  # table or figure and its row
  source: str  # section or caption of the paper where it is printed
  what: str  # the reading under which it is worked out
  printed: str  # as in the paper, or read off a figure
  value: float  # worked out
  # "rounds" or "cut off" to what is printed, "no", or "reads" where a figure
  # agrees to a per cent.
  verdict: str


def run(config: studies.Audit, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Prints and writes the audit."""
  del interrupted  # well below a second
  directory.begin(workdir, config)
  lines = audit()
  files.write_csv(workdir / "audit.csv", map(vars, lines))
  _print(lines)
  console.say(f"report: {frame.write(workdir, audit_page.PAGE)}")
  return True


def audit() -> list[Line]:
  """Every line, in the paper's order."""
  return [*table_1(), *table_2(), *table_4(), *accuracies(), *table_6(), *table_15(), *law()]


def _lines(where: str, source: str, printed: str, readings: Mapping[str, float]) -> Iterator[Line]:
  """One printed number and what it is under each reading."""
  for what, value in readings.items():
    yield Line(where, source, what, printed, value, agreement(printed, value))


def agreement(printed: str, value: float) -> str:
  """Whether `value`, at the digits that are printed, is what is printed.

  Trailing zeros of a whole number are no digits: 277 rounds to "280m".
  """
  mantissa, unit, last = _parsed(printed)
  scaled = value / unit / last
  if round(scaled) == round(mantissa / last):
    return "rounds"
  if int(scaled) == round(mantissa / last):
    return "cut off"
  return "no"


def _parsed(printed: str) -> tuple[float, float, float]:
  """(mantissa, unit, size of the last printed digit in it)."""
  match = re.fullmatch(r"([\d,.]+)(?:e(\d+)|([kmbtKMBT]?))", printed)
  if match is None:
    raise ValueError(f"{printed!r} is not read as a number of the paper")
  digits, power, letter = match.groups()
  digits = digits.replace(",", "")
  unit = 10.0 ** int(power) if power else _UNITS[(letter or "").lower()]
  if "." in digits:
    return float(digits), unit, 10.0 ** -len(digits.partition(".")[2])
  zeros = len(digits) - len(digits.rstrip("0"))
  return float(digits), unit, 10.0**zeros


def _shape(preset: str, mlp_dim: float | None = None, tied: bool = True) -> llama.LlamaConfig:
  """A preset with another MLP, of any real number of hidden units."""
  shape = llama.LlamaConfig(**models.PRESETS[preset], tied=tied)
  if mlp_dim is not None:
    object.__setattr__(shape, "mlp_dim", mlp_dim)  # as a key it would have to be a whole number
  return shape


def _parameters(preset: str, mlp_dim: float | None = None, tied: bool = True) -> float:
  return flops.parameters(_shape(preset, mlp_dim, tied), DVAE_VOCAB)


def table_1() -> Iterator[Line]:
  """Parameters: which MLP size each of the three must have."""
  for name, printed in paper.TABLE_1.items():
    d = models.PRESETS[name]["width"]
    readings = {
      "our preset, tied head": _parameters(name),
      "our preset, untied head": _parameters(name, tied=False),
      "MLP of 4 d, tied": _parameters(name, 4 * d),
      "MLP of 8/3 d, tied": _parameters(name, 8 * d / 3),
    }
    yield from _lines(f"Table 1, {name}, parameters", "section 3.2", printed, readings)


def table_2() -> Iterator[Line]:
  """Tokens from hours at 30 frames a second, and the sums in the text."""
  tokens = hours = 0.0
  for row in paper.SOURCES:
    where, printed = f"Table 2, {row.name}, tokens", paper.TABLE_2_TOKENS[row.name]
    if row.hours is None:
      value = row.instances * TOKENS_OF_FRAME
      what = f"{row.instances:,} images x 256"
    else:
      value = row.hours * 3600 * 30 * TOKENS_OF_FRAME
      what = f"{row.hours:,.0f} h at 30 frames/s x 256"
      hours += row.hours
    yield from _lines(where, "section 3.3", printed, {what: value})
    tokens += value
    if row.hours is not None:
      strided = {"of the frames that a sequence can use": value / paper.STRIDE_FRAMES}
      yield from _lines(where, "section 3.4: every 4th frame", printed, strided)
  source = "section 3.3: 'about 2.5 trillion'"
  yield from _lines("text, all tokens", source, "2.5T", {"sum of Table 2": tokens})
  verdict = "rounds" if hours > 1e5 else "no"
  source = "section 3.3: 'over 100,000 hours'"
  yield Line("text, hours of video", source, "sum of Table 2", "100,000", hours, verdict)
  images = {"training images of ImageNet-1k": paper.IMAGENET_1K_IMAGES}
  source = "section 4: 'ImageNet-1k dataset'"
  yield from _lines("Table 2, ImageNet, instances", source, "13.9M", images)


def table_4() -> Iterator[Line]:
  """The compute column: parameters x images, whatever it is called."""
  n, images = _parameters("large"), paper.IMAGENET_1K_IMAGES * paper.ABLATION_EPOCHS
  low, high, staged = paper.TABLE_4
  source = "section 4.1, 400 epochs"
  readings = {
    "parameters x images x epochs": n * images,
    "the same, untied head": _parameters("large", tied=False) * images,
    "forward MACs of all 256 tokens": _forward(256) * images,
    "training MACs (x 3)": 3 * _forward(256) * images,
  }
  yield from _lines("Table 4, dVAE/16, MACs", source, low, readings)
  readings = {
    "4 x dVAE/16": 4 * n * images,
    "forward MACs of all 1,024 tokens": _forward(1024) * images,
  }
  yield from _lines("Table 4, dVAE/32, MACs", source, high, readings)
  for epochs, reason in ((1, "'only one epoch'"), (50, "no source")):
    value = n * images + 4 * n * paper.IMAGENET_1K_IMAGES * epochs
    readings = {f"dVAE/16 and {epochs} epochs at 32 x 32": value}
    yield from _lines("Table 4, dVAE/16 to 32, MACs", f"section 4.1: {reason}", staged, readings)


def _forward(tokens: int) -> float:
  """MACs of Toto-large."""
  shape = _shape("large")
  return flops.forward_macs_per_token(shape, vocab=DVAE_VOCAB, context=tokens) * tokens


def accuracies() -> Iterator[Line]:
  """Accuracies that are printed twice: Tables 5, 10 and 12."""
  printed, peak = paper.TABLE_5
  source, what = "section 4.1", "the curve of Figure 14 at its peak, read off"
  yield from _lines("Table 5, attention pooling, top-1", source, printed, {what: peak})
  for name, (printed, j, f) in paper.TABLE_10.items():
    readings = {"mean of the J and F printed": (j + f) / 2}
    yield from _lines(f"Table 10, {name}, J&F", "section 4.5", printed, readings)
  for frames, (told, value) in paper.TABLE_12.items():
    where = f"section 4.7, CATER at {frames} frames"
    yield from _lines(where, "section 4.7, text", told, {"Table 12": value})


def table_6() -> Iterator[Line]:
  """Parameters of GPT-2 and Mamba, whose depths are not printed."""
  source, preset = "section 4.1; 1,024 wide as large", models.GPT2_PRESETS["280m"]
  readings = {
    f"our preset, {preset['depth']} layers": {},
    "16 layers, as large": {"depth": 16},
    "16 layers, MLP of 6 d": {"depth": 16, "mlp_dim": 6 * 1024},
  }
  values = {}
  for what, changes in readings.items():
    section = schema.to_dict(models.Gpt2(**preset | changes))
    values[what] = flops.parameters(gpt2.Gpt2Config(**section), DVAE_VOCAB)
  yield from _lines("Table 6, GPT2, parameters", source, paper.TABLE_6["gpt2"], values)
  ours, values = models.MAMBA_PRESETS["290m"]["depth"], {}
  for depth in (ours, ours - 1, ours + 1, 48):
    what = f"{depth} layers" if depth != ours else f"our preset, {ours} layers"
    section = schema.to_dict(models.Mamba(depth=depth))
    values[what] = flops.parameters(mamba.MambaConfig(**section), DVAE_VOCAB)
  yield from _lines("Table 6, Mamba, parameters", source, paper.TABLE_6["mamba"], values)


def table_15() -> Iterator[Line]:
  """Parameters of a1 to a6, under the two usual MLPs."""
  for name, printed in paper.TABLE_15.items():
    d = models.PRESETS[name]["width"]
    shapes = {
      "our preset (8/3 d rounded up to 128), tied": _shape(name),
      "the same, untied": _shape(name, tied=False),
      "MLP of 4 d, tied": _shape(name, 4 * d),
      "MLP of 4 d, untied": _shape(name, 4 * d, tied=False),
    }
    values = {what: flops.parameters(shape, VQGAN_VOCAB) for what, shape in shapes.items()}
    yield from _lines(f"Table 15, {name}, parameters", "section A.5", printed, values)
  presets = [models.PRESETS[name] for name in paper.TABLE_15]
  for key, (low, high) in paper.A5_RANGES.items():
    for what, printed, pick in (("least", low, min), ("most", high, max)):
      value = {"of Table 15": pick(sizes[key] for sizes in presets)}
      yield from _lines(f"section A.5, {what} {key}", "section A.5, text", printed, value)


def law() -> Iterator[Line]:
  """What the unit of C in the printed law can be."""
  a, b = scaling.PAPER.a, scaling.PAPER.b
  macs, loss = paper.LAW_READ_OFF
  for unit, name in ((1.0, "axis units"), (1e6, "1e6 of the axis")):
    yield _read(
      f"Figure 9, dashed line at {macs:g}",
      f"{a} C^-{b} with C in {name}",
      loss,
      a * (macs / unit) ** -b,
    )
  yield _read("the law's prefactor", "with C in the axis's own unit", a, a * 1e6**b)
  sequences = {}
  for name, compute in paper.FIGURE_9_FIRST.items():
    d = models.PRESETS[name]["width"]
    per_token = flops.forward_macs_per_token(
      _shape(name, 8 * d / 3), vocab=VQGAN_VOCAB, context=TOKENS_OF_FRAME
    )
    sequences[name] = compute / per_token
  mean = sum(sequences.values()) / len(sequences)
  for name, value in sequences.items():
    yield _read(
      f"Figure 9, {name}, first point",
      "over one token's MACs (MLP 8/3 d, 16,384 codes): sequences, all models alike",
      mean,
      value,
    )


def _read(where: str, what: str, loss: float, value: float) -> Line:
  """A line whose printed side was read off a figure, to a per cent."""
  verdict = "reads" if abs(value / loss - 1) < 0.01 else "no"
  return Line(where, "section 4.9, Figure 9", what, f"{loss:.4g}", value, verdict)


def _print(lines: list[Line]) -> None:
  table = rich_table.Table("where", "source", "reading", title="the paper, worked out again")
  for head in ("printed", "worked out", ""):
    table.add_column(head, justify="right" if head else "left")
  for line in lines:
    cells = dataclasses.astuple(dataclasses.replace(line, value=f"{line.value:.4g}"))
    table.add_row(*cells, style="bold" if line.verdict == "no" else "")
  rich_console.Console().print(table)
  wrong = [line for line in lines if line.verdict == "no"]
  console.say(
    f"{len(wrong)} of {len(lines)} readings do not give what is printed; a"
    " number of which no reading does:"
  )
  for where in dict.fromkeys(line.where for line in lines):
    group = [line for line in lines if line.where == where]
    if all(line.verdict == "no" for line in group):
      values = ", ".join(f"{line.value:.4g}" for line in group)
      console.say(f"  {where}: {group[0].printed}, worked out {values}")
