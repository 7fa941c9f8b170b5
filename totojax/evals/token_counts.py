"""What stores of tokens hold: amounts, codes, and n-grams of codes.

Stores may be far larger than memory: they are read in pieces. Counts and how
many records they are of are saved as one file: a note beside them
(`rundir.pieces`) could be of other counts.

Shapes: R records, N latent frames (of an image tokenizer every frame is one), M
images (a latent frame of a video is one), G grid side, K codes of a place, W a
row of a grid (G x K codes, as the model reads them), P places of a record, V
codes.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import time
from typing import Any

from etils import epath
import numpy as np

from totojax.data.store import manifests, store as store_lib
from totojax.rundir import console, files
from totojax.tokenizers import ngrams

Interrupted = Callable[[int], bool]
Stores = Mapping[str, store_lib.Store]
READ_TOKENS = 1 << 22  # tokens read at a time: 8 MB
SAVE_EVERY_S = 60.0  # between two saves of the counts
RARE = 16  # of the least used codes that are listed
USE_RECORDS = 4096  # that `use` reads
# Beyond these a tokenizer has collapsed, at least on such data.
MOST_COMMONEST = 0.5  # of all tokens
MOST_SINGLE = 0.05  # of the records
LEAST_PERPLEXITY = 0.02  # of what evenly used codes would have
PAPER_FPS = 30.0  # Table 2's tokens are its hours x 3,600 x 30 x 256


def describe(store: store_lib.Store) -> dict[str, Any]:
  """What the manifest says of a store, with its tokens counted in two ways.

  `tokens` are those in the store, which has one of `stride_frames` frames. The
  paper's Table 2 counts every frame at 30 a second, whatever the stride:
  `tokens_30fps` = hours x 3,600 x 30 x tokens of a frame, where a latent frame
  of several frames shares its tokens among them. `hours` are frames x stride /
  fps; several crops of one video count several times. Images have no hours
  (None), and the same tokens in both ways. `frames` are those that the codes
  were made from, `latent_frames` those that codes are of.
  """
  head = store.manifest
  frames, latent_frames = len(store) * head.pixel_frames, len(store) * head.frames
  tokens = len(store) * math.prod(head.code_shape)
  hours, tokens_30fps = None, tokens
  if head.kind == "video":
    seconds = frames * head.stride_frames / head.fps
    hours = seconds / 3600
    frame_tokens = math.prod(head.code_shape[1:]) / head.latents.frame_factor
    tokens_30fps = round(seconds * PAPER_FPS * frame_tokens)
  kept = ("kind", "tokenizer", "vocab", "grid", "size_px", "stride_frames", "fps", "crops")
  return {
    "path": store.path,
    **{name: getattr(head, name) for name in kept},
    "records": len(store),
    "frames": frames,
    "latent_frames": latent_frames,
    **dataclasses.asdict(head.latents),
    "tokens": tokens,
    "tokens_30fps": tokens_30fps,
    "hours": hours,
    "short": head.info.get(manifests.SHORT),
  }


@dataclasses.dataclass(frozen=True)
class Use:
  """How some records use the codes of their tokenizer."""

  records: int  # read, evenly over the store
  vocab: int  # codes that there are
  tokens: int  # of the records
  codes_used: int  # distinct codes among them
  perplexity: float  # how many equally frequent codes would do the same
  commonest: float  # share of the tokens that are the commonest code
  single: float  # share of the records that are one code (the same K codes) throughout

  def __str__(self) -> str:
    return (
      f"{self.codes_used:,} of {self.vocab:,} codes in use, perplexity {self.perplexity:,.1f};"
      f" the commonest is {self.commonest:.1%} of the tokens, and {self.single:.1%} of"
      f" {self.records:,} records are a single code"
    )

  def collapse(self) -> str:
    """What shows that the tokens tell little of what they were made from, or ""."""
    even = min(self.vocab, self.tokens)
    signs = {
      f"one code is {self.commonest:.0%} of all tokens": self.commonest > MOST_COMMONEST,
      f"{self.single:.1%} of the records are a single code": self.single > MOST_SINGLE,
      f"a perplexity of {self.perplexity:.1f} is {self.perplexity / even:.1%} of {even:,}": (
        self.perplexity < LEAST_PERPLEXITY * even
      ),
    }
    return " and ".join(sign for sign, shows in signs.items() if shows)


def use(store: store_lib.Store) -> Use:
  """How a store uses its codes, on at most `USE_RECORDS` records of it."""
  head = store.manifest
  record_R = np.unique(np.linspace(0, len(store) - 1, min(len(store), USE_RECORDS)).astype(int))
  step = _records_at_a_time(head)
  # By the codes that there are: a vocabulary may be as large as 2**30.
  tables, single = [], 0
  for start in range(0, len(record_R), step):
    codes_RP = store.read(record_R[start : start + step])["codes"]
    tables.append(
      ngrams.Table(1, head.vocab, *np.unique(codes_RP.astype(np.int64), return_counts=True))
    )
    codes_RPK = codes_RP.reshape(len(codes_RP), -1, head.latents.codes)
    single += int((codes_RPK == codes_RPK[:, :1]).all(axis=(1, 2)).sum())
  grams = ngrams.merged(tables).ngrams()
  return Use(
    records=len(record_R),
    vocab=head.vocab,
    tokens=grams.total,
    codes_used=grams.distinct,
    perplexity=grams.perplexity,
    commonest=float(grams.counts[0] / grams.total),
    single=single / len(record_R),
  )


def tell_use(name: str, store: store_lib.Store) -> Use:
  """`use`, said in a line, and in another where the tokenizer has collapsed."""
  facts = use(store)
  console.say(f"{name}: {facts}")
  if signs := facts.collapse():
    console.say(
      f"WARNING: {name}: {signs}. Its tokens tell little of the pixels: look at reconstructions"
      " (configs/tokens_report.py), and use a tokenizer that was trained on such data"
    )
  return facts


def by_tokenizer(stores: Stores) -> dict[str, list[str]]:
  """Names of the stores of each tokenizer, by its fingerprint."""
  groups: dict[str, list[str]] = {}
  for name, store in stores.items():
    groups.setdefault(store.manifest.tokenizer, []).append(name)
  return groups


def rare(counts_V: np.ndarray) -> dict[str, Any]:
  """How many codes are never used, and the least used of the others.

  Returns:
    {"never", "never_first": the first RARE of these, "rarest": [code, count] of
    RARE codes, fewest first}.
  """
  never = np.flatnonzero(counts_V == 0)
  order = np.argsort(counts_V, kind="stable")[len(never) :][:RARE]
  return {
    "never": len(never),
    "never_first": never[:RARE].tolist(),
    "rarest": [[int(code), int(counts_V[code])] for code in order],
  }


def images_counted(store: store_lib.Store, images: int) -> int:
  """How many images `count_ngrams` reads of a store."""
  frames = len(store) * store.manifest.frames
  return min(images, frames) if images else frames


def count_codes(
  stores: Stores, save: epath.Path, interrupted: Interrupted
) -> dict[str, np.ndarray] | None:
  """Occurrences int64 [V] of each code, over all of each store.

  Args:
    stores: by name.
    save: an .npz file of what is counted so far; a later call with the same
      stores goes on from it.
    interrupted: whether to stop here.

  Returns:
    Counts by store; None when interrupted.
  """
  progress = _load(save, stores)
  total = sum(map(len, stores.values()))
  done = sum(records for records, _ in progress.values())
  saved_s = time.monotonic()
  with console.tracking("counting codes", unit="records", total=total, done=done) as bar:
    for name, store in stores.items():
      head = store.manifest
      begin, counts_V = progress[name]
      step = _records_at_a_time(head)
      for start in range(begin, len(store), step):
        if interrupted(bar.done):
          _save(save, stores, progress)
          return None
        stop = min(start + step, len(store))
        codes = store.read(range(start, stop))["codes"]
        images = np.concatenate(split_frames(codes, head))
        counts_V = counts_V + ngrams.code_counts(images, vocab=head.vocab)
        progress[name] = (stop, counts_V)
        bar.advance(stop - start)
        if time.monotonic() - saved_s > SAVE_EVERY_S:
          _save(save, stores, progress)
          saved_s = time.monotonic()
  _save(save, stores, progress)
  return {name: counts_V for name, (_, counts_V) in progress.items()}


def count_ngrams(
  stores: Stores, *, n: int, images: int, adjacency: str, interrupted: Interrupted
) -> dict[str, ngrams.Table] | None:
  """n-grams of some images of each store, evenly over its latent frames.

  Of several codes of a place they run over codes as the model reads them, from
  one code of a place to the next, and on into the next place.

  Args:
    stores: by name.
    n: codes of one n-gram.
    images: of each store, or all where it has fewer; 0 for all.
    adjacency: as `ngrams.table` has it.
    interrupted: whether to stop here.

  Returns:
    Tables by store, 16 bytes for each distinct n-gram; None when interrupted.
  """
  total = sum(images_counted(store, images) for store in stores.values())
  tables: dict[str, ngrams.Table] = {}
  stopped = False

  def until_interrupted(parts, bar):
    nonlocal stopped
    for codes_MGW in parts:
      stopped = stopped or interrupted(bar.done)
      if stopped:
        return
      yield codes_MGW
      bar.advance(len(codes_MGW))

  with console.tracking(f"counting {n}-grams", unit="images", total=total) as bar:
    for name, store in stores.items():
      parts = sampled(store, images_counted(store, images))
      tables[name] = ngrams.table(
        until_interrupted(parts, bar), vocab=store.manifest.vocab, n=n, adjacency=adjacency
      )
      if stopped:
        return None
  return tables


def sampled(store: store_lib.Store, images: int) -> Iterator[np.ndarray]:
  """Codes [M, G, W] of `images` latent frames, evenly over all, in pieces."""
  head = store.manifest
  frames = len(store) * head.frames
  step = _records_at_a_time(head)
  for start in range(0, images, step):
    place_M = np.arange(start, min(start + step, images))
    frame_M = place_M * (frames - 1) // max(1, images - 1)
    record_M, inside_M = np.divmod(frame_M, head.frames)
    record_R, which_M = np.unique(record_M, return_inverse=True)
    codes = store.read(record_R)["codes"]
    yield split_frames(codes, head)[which_M, inside_M]


def split_frames(codes_RP: np.ndarray, head: manifests.Manifest) -> np.ndarray:
  """Codes [R, N, G, W]: of several codes of a place, one follows the other in its row."""
  return codes_RP.reshape(len(codes_RP), head.frames, head.grid, -1)


def _records_at_a_time(head: manifests.Manifest) -> int:
  return max(1, READ_TOKENS // math.prod(head.code_shape))


def _mark(store: store_lib.Store) -> str:
  """The same for the same records: the checksums of all shards."""
  return " ".join(shard.checksum for shard in store.manifest.shards)


def _load(path: epath.Path, stores: Stores) -> dict[str, tuple[int, np.ndarray]]:
  """(records counted, counts [V]); from zero for a store that has changed."""
  arrays = files.read_npz(path) if files.exists(path) else {}
  progress = {}
  for name, store in stores.items():
    progress[name] = (0, np.zeros(store.manifest.vocab, np.int64))
    if str(arrays.get(f"{name}/mark")) == _mark(store):
      progress[name] = (int(arrays[f"{name}/done"]), arrays[f"{name}/counts"])
  return progress


def _save(path: epath.Path, stores: Stores, progress: Mapping[str, tuple[int, np.ndarray]]) -> None:
  arrays = {}
  for name, (done, counts_V) in progress.items():
    arrays[f"{name}/mark"] = np.array(_mark(stores[name]))
    arrays[f"{name}/done"] = np.array(done)
    arrays[f"{name}/counts"] = counts_V
  files.write_npz(path, arrays, compressed=True)
