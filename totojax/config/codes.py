"""Config keys of stores of codes that others made (`run = "codes"`)."""

import re

from totojax.config.model import LatentSpec, MAX_VOCAB
from totojax.config.schema import ConfigError, field, Job, Section, section, SEEDS


@section("codes")
class CodeFiles(Section):
  """Which arrays, and what they are of.

  Attributes:
    files: .npz, .npy and .safetensors, folders and globs of them. An .npy is
      the codes themselves; its labels are NAME.labels.npy, its ids NAME.ids.npy.
    val_frac: of the items, by a hash of the id, as `source.val_frac`.
    ids: texts or integers, one a record. Without them an id is the file and the
      number of the item in it.
    grid: where the shape leaves it open, as [R, tokens] does.
    split: each code becomes so many of a place (`tokenizers.split`); their
      product is the vocabulary.
    tokenizer: a name of yours for what made the codes. The fingerprint is made
      of it and the vocabulary; 16 hex digits are the fingerprint itself.
    clip_frames: frames of pixels behind a record, where the last latent frame
      is in part of padding; 0: all that its latent frames stand for.
    crops: records of one item, one after the other in its file.
    classes: file of the labels' names, one a line.
  """

  files: tuple[str, ...] = field((), "what is read", once=True)
  val_files: tuple[str, ...] = field((), "the same, held out", once=True)
  val_frac: float = field(0.0, "or so much of `files` is held out", at_least=0, below=1)
  array: str = field("codes", "name of the array")
  labels: str = field("labels", "of the classes, if there is one")
  ids: str = field("ids", "of the items' ids, if there is one")
  prefix: str = field("", "before ids made of files, as source.prefix")
  kind: str = field("video", "of a record", choices=("video", "image"))
  grid: int = field(0, "tokens a side; 0: as the shape says", at_least=0)
  place_codes: int = field(1, "codes of a place, the array's last axis", at_least=1)
  vocab: int = field(0, "codes are below it", at_least=0, at_most=MAX_VOCAB)
  split: tuple[int, ...] = field((), "parts, as 64,4096; (): none", at_least=2)
  tokenizer: str = field("", "name or fingerprint of what made them")
  size_px: int = field(0, "side of the frames", at_least=0)
  stride_frames: int = field(1, "source frames from one to the next", at_least=1)
  fps: float = field(30.0, "frame rate that the stride counts in", above=0)
  frame_factor: int = field(1, "frames of a latent frame", at_least=1)
  first_frames: int = field(1, "of the first one: 1 is causal", at_least=1)
  clip_frames: int = field(0, "of a record, in pixels; 0: all", at_least=0)
  crops: int = field(1, "records of an item", at_least=1)
  classes: str = field("", "file of their names")
  records_per_shard: int = field(512, "of a shard, all an interruption costs", at_least=1)

  @property
  def latents(self) -> LatentSpec:
    """How codes lie over frames and places."""
    codes = len(self.split) or self.place_codes
    return LatentSpec(codes, self.frame_factor, self.first_frames)

  def __post_init__(self):
    if self.val_files and self.val_frac:
      raise ConfigError(
        f"codes.val_files are given and codes.val_frac is {self.val_frac}; set one of them alone"
      )
    if re.fullmatch("[0-9a-fA-F]{16}", self.tokenizer) and not self.is_fingerprint:
      raise ConfigError(
        f"codes.tokenizer is {self.tokenizer!r}; fingerprints are written in small letters:"
        f" {self.tokenizer.lower()!r}"
      )
    if self.split and self.place_codes > 1:
      raise ConfigError(
        f"codes.split is {self.split} and codes.place_codes {self.place_codes}; only one code of a"
        " place can be split"
      )
    if self.first_frames > self.frame_factor:
      raise ConfigError(
        f"codes.first_frames is {self.first_frames}; it is 1 (causal) up to codes.frame_factor"
        f" {self.frame_factor} (blocks)"
      )
    if self.kind == "image" and self.frame_factor > 1:
      raise ConfigError(f"codes.frame_factor is {self.frame_factor} of images; it is 1")

  @property
  def is_fingerprint(self) -> bool:
    """Whether `tokenizer` is a fingerprint and no name."""
    return re.fullmatch("[0-9a-f]{16}", self.tokenizer) is not None


@section("", run="codes")
class Codes(Job):
  """`run = "codes"`: codes that others made to a store of tokens."""

  seed: int = field(0, "of what is held out", at_least=0, below=SEEDS)
  codes: CodeFiles = field(CodeFiles(), "which, and what they are of")
