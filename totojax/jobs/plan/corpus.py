"""What tokenizing costs, before it is paid: `run = "plan"`.

With v videos of h hours in all at 30 frames a second, stride s, grid G and
clips of T frames, of which the tokenizer makes L latent frames of K codes a
place (an image tokenizer: T and 1), one of every m frames:

  source frames        F = h * 3600 * 30       (Table 2 counts tokens at each)
  strided frames       F / s                   what a stride-s reader can see
  this job's frames    clips * T               (images: one each)
  latent frames        clips * L
  tokens               latent frames * G^2 * K
  tokens a second      fps / s / m * G^2 * K   of a clip
  bytes                2 * tokens              uint16; 4 beyond 65,536 codes
  FLOPs                2 * MACs(latent frame) * passes * latent frames
  chip-hours           FLOPs / (peak * busy) / 3600

`passes` is how many bfloat16 products a TPU makes of one product of the
tokenizer's precision (6 for HIGHEST). `busy`, the share of the peak that the
encoder reaches, is an assumption of the config and not a measurement.
"""

from collections.abc import Sequence
import dataclasses

from etils import epath
import numpy as np
from rich import console as rich_console, table as rich_table

from totojax import flops, jobs
from totojax.config.corpus import Planning, Tokenize
from totojax.config.model import EACH_FRAME
from totojax.config.schema import ConfigError
from totojax.data.pixels import containers, images, media, video
from totojax.data.sources import items as items_lib
from totojax.data.store import manifests
from totojax.jobs.tokenize import short, stores
from totojax.report import page
from totojax.rundir import files
from totojax.tokenizers import api

SOURCE_FPS = 30.0  # what Table 2's hours and tokens agree with


@dataclasses.dataclass(frozen=True)
class StorePlan:
  """The plan of one store."""

  name: str  # of the store
  items: int  # videos or images
  hours: float | None  # of video; None for images, or where no video could be read
  probed: int  # videos that the hours are estimated from
  clips: int  # records that the job writes, before any are skipped
  frames: int  # that the job encodes
  latent_frames: int  # that it makes of them; of an image tokenizer as many
  tokens: int  # that the job writes
  store_bytes: int  # of codes, or of pixels
  flops: float  # of encoding, counting every pass
  chip_hours: float  # at the peak's assumed share
  short: short.Estimate | None  # videos that are too short for a clip; None: not known
  tokens_every_frame: float | None  # as Table 2 counts; None for images
  tokens_strided: float | None  # at the job's stride; None for images
  tokens_per_s: float | None  # of a second of video at the job's stride; None for images


def run(config: Tokenize, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Prints the plan, and writes it to `plan.json`."""
  del interrupted  # seconds
  tokenizer = stores.tokenizer(config.tokenizer)
  if config.plan.hours or config.plan.images:
    rows = without_source(config, tokenizer)
  else:
    rows = with_source(config, stores.parts(config, workdir), tokenizer)
  workdir.mkdir(parents=True, exist_ok=True)
  show(rows, workdir)
  return True


def without_source(config: Tokenize, tokenizer: api.Tokenizer | None) -> list[StorePlan]:
  """The plan of `plan.hours` of video, or of `plan.images`."""
  settings = config.plan
  kind = "image" if settings.images else "video"
  spec = media.spec(kind, config, split="")
  if isinstance(spec, images.ImageSpec):
    count, hours = settings.images, None
  else:
    count, hours = settings.videos, settings.hours
    if not count:
      strided = hours * 3600 * SOURCE_FPS / spec.stride_frames
      count = max(1, round(strided / spec.frames))
  name = "assumed" if settings.images or settings.videos else "without gaps"
  return [_row(name, count, hours, 0, spec, tokenizer, settings)]


def with_source(
  config: Tokenize, parts: Sequence[stores.CorpusStore], tokenizer: api.Tokenizer | None
) -> list[StorePlan]:
  """The plan of a job's stores; reads lengths of videos, and says which are too short."""
  settings = config.plan
  rows = []
  for part in parts:
    count = len(part.listing.items)
    hours, probed = None, 0
    if part.listing.kind == "video":
      hours, probed = estimate_hours(part.listing.items, settings.probed, seed=config.seed)
    found = short.announce(part.listing.items, part.spec, seed=config.seed, name=part.name)
    row = _row(part.name, count, hours, probed, part.spec, tokenizer, settings)
    rows.append(dataclasses.replace(row, short=found))
  return rows


def peak_flops_per_s(settings: Planning) -> float:
  """Of the chip that is planned for.

  Raises:
    ConfigError: it is not known.
  """
  if settings.chip not in flops.PEAK_FLOPS_PER_S:
    raise ConfigError(
      f"plan.chip is {settings.chip!r}; use one of {', '.join(flops.PEAK_FLOPS_PER_S)}"
    )
  return flops.PEAK_FLOPS_PER_S[settings.chip]


def estimate_hours(
  items: Sequence[items_lib.Item], probed: int, *, seed: int
) -> tuple[float | None, int]:
  """(hours of all items, videos read): the mean of some, times their number.

  Items with a stretch need no reading. Packets are read, nothing is decoded.
  """
  seconds = []
  for item in items_lib.shuffled(items, seed=seed)[:probed]:
    if item.start_s is not None and item.end_s is not None:
      seconds.append(item.end_s - item.start_s)
    elif item.record is None:
      try:
        seconds.append(media.duration_s(item))
      except (containers.Undecodable, OSError):
        seconds.append(0.0)  # will be skipped, and is so counted
  if not seconds:
    return None, 0
  return sum(seconds) / len(seconds) * len(items) / 3600, len(seconds)


def _row(
  name: str,
  count: int,
  hours: float | None,
  probed: int,
  spec: media.Spec,
  tokenizer: api.Tokenizer | None,
  settings: Planning,
) -> StorePlan:
  # Of a latent frame, which pixels have as many of as of frames.
  latents = EACH_FRAME if tokenizer is None else tokenizer.latents
  frame_tokens, frame_bytes, frame_flops = 0, 3 * spec.size_px**2, 0.0
  every, strided, per_s = None, None, None
  if tokenizer is not None:
    frame_tokens = (spec.size_px // tokenizer.factor) ** 2 * latents.codes
    frame_bytes = frame_tokens * np.dtype(manifests.code_dtype(tokenizer.vocab)).itemsize
    frame_flops = 2.0 * tokenizer.macs(spec.size_px) * tokenizer.passes
  if isinstance(spec, images.ImageSpec):
    clips = frames = count * spec.crops
    latent_frames = clips * latents.latent_frames(1)
  else:
    stretches = 1.0
    if isinstance(spec, video.ClipSpec) and spec.sampling == "duration":
      mean_s = 0.0 if hours is None else hours * 3600 / count
      stretches = min(max(1.0, mean_s // spec.every_s), spec.most_stretches)
    clips = round(count * stretches) * spec.crops
    frames = clips * spec.frames
    latent_frames = clips * latents.latent_frames(spec.frames)
    source_tokens = frame_tokens / latents.frame_factor  # of a frame of the source
    per_s = spec.fps / spec.stride_frames * source_tokens
    if hours is not None:
      every = hours * 3600 * SOURCE_FPS * source_tokens
      strided = every / spec.stride_frames
  rate = peak_flops_per_s(settings) * settings.busy
  work = frame_flops * latent_frames
  return StorePlan(
    name=name,
    items=count,
    hours=hours,
    probed=probed,
    clips=clips,
    frames=frames,
    latent_frames=latent_frames,
    tokens=latent_frames * frame_tokens,
    store_bytes=latent_frames * frame_bytes,
    flops=work,
    chip_hours=work / rate / 3600,
    short=None,
    tokens_every_frame=every,
    tokens_strided=strided,
    tokens_per_s=per_s,
  )


LATENT = "latent frames"
_LINES = (
  ("items", "{items:,}"),
  ("hours of video", "{written_hours}"),
  ("too short for a clip", "{short}"),
  ("clips", "{clips:,}"),
  ("frames to encode", "{frames:,}"),
  (LATENT, "{latent_frames:,}"),
  ("tokens", "{tokens:short}"),
  ("bytes of the store", "{store_bytes:short}B"),
  ("encoder FLOPs, all passes", "{flops:.3g}"),
  ("chip-hours, assumed", "{chip_hours:.3g}"),
  ("tokens at every frame", "{tokens_every_frame:short}"),
  ("tokens at this stride", "{tokens_strided:short}"),
  ("tokens of a second", "{tokens_per_s:,.4g}"),
)


def show(rows: Sequence[StorePlan], workdir: epath.Path) -> None:
  """Prints the table, and writes it to `plan.json`."""
  table = rich_table.Table("", title="plan")
  for row in rows:
    table.add_column(row.name, justify="right")
  cells = [page.cells(_LINES, {**vars(row), "written_hours": _hours(row)}) for row in rows]
  for (title, _), *values in zip(_LINES, *cells):
    if title == LATENT and all(row.latent_frames == row.frames for row in rows):
      continue
    table.add_row(title, *values)
  rich_console.Console().print(table)
  files.write_json(workdir / "plan.json", {row.name: dataclasses.asdict(row) for row in rows})


def _hours(row: StorePlan) -> str | None:
  if row.hours is None:
    return None
  sampled = f" (from {row.probed})" if 0 < row.probed < row.items else ""
  return f"{row.hours:,.4g}{sampled}"
