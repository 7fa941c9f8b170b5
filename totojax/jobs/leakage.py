"""`run = "leakage"`: is anything of a held-out store in a training store?

Two questions: does a video stand in both, by its id (Kinetics-600 training
videos that are Kinetics-400 validation videos), and do records, or single
frames, of both have exactly the same tokens. Crops are drawn by id, so a video
that is stored under two names rarely gives equal tokens; images cropped in the
centre do. A frame of a tokenizer with temporal latents is a latent frame, which
may depend on the clip before it: clips that are cut elsewhere differ. Ids are
paths below a root: of two roots they are told apart where that is known
(`certificates`). A held-out store that shares no id with a training store gets
a certificate of that, so that training need not compare them again.

Shapes: R records, T frames, G grid side.
"""

from collections.abc import Iterator
import hashlib
import itertools

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import tokens as tokens_config
from totojax.data.sources import items as items_lib
from totojax.data.store import certificates, store as store_lib
from totojax.rundir import console, directory, files

_Held = tuple[str, int, str, str]  # store, record, item, video
READ_RECORDS = 256  # at a time
_HEADER = "same,held_out,held_out_record,held_out_id,train,train_record,train_id".split(",")


def run(config: tokens_config.Leakage, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes `leakage.csv`; False when interrupted.

  Raises:
    ValueError: no store is named, or something of a held-out store is in a
      training store and `leakage.fail` asks for an error.
  """
  settings = config.leakage
  for name in ("train", "validation"):
    if not getattr(settings, name):
      raise ValueError(f"leakage.{name} names no store; name at least one")
  train = [_open(path) for path in settings.train]
  held_out = [_open(path) for path in settings.validation]
  for store in (*train, *held_out):
    if store.manifest.tokenizer != train[0].manifest.tokenizer:
      raise ValueError(
        f"{store.path} has tokens of {store.manifest.tokenizer!r}, and {train[0].path} of"
        f" {train[0].manifest.tokenizer!r}; tokens of different tokenizers cannot be compared"
      )
  directory.begin(workdir, config)
  ids: dict[bytes, dict[int, _Held]] = {}  # by id and by path, of each store
  tokens, videos = {}, set()
  for number, store in enumerate(held_out):
    for record, (item, marks) in enumerate(_records(store, settings.per)):
      video = items_lib.video_id(item)
      videos.add(video)
      for name in _names(store, video):
        ids.setdefault(name, {}).setdefault(number, (store.path, record, video, video))
      for mark in marks:
        tokens.setdefault(mark, (store.path, record, item, video))
  rows, matches = [], set()
  for store in train:
    apart = [certificates.apart(store, other) for other in held_out]
    for record, (item, marks) in enumerate(_records(store, settings.per)):
      if interrupted(record):
        return False
      found = {
        number: held
        for name in _names(store, items_lib.video_id(item))
        for number, held in ids.get(name, {}).items()
        if name != item.encode() or item not in apart[number]
      }
      same = [("id", *held) for held in found.values()]
      same += [(settings.per, *tokens[mark]) for mark in marks & tokens.keys()]
      for kind, path, held_record, held_item, held_video in same:
        rows.append((kind, path, held_record, held_item, store.path, record, item))
        matches.add((path, held_video))
  files.write_table(workdir / "leakage.csv", rows, header=_HEADER)
  for store, other in itertools.product(train, held_out):
    certificates.check(store, other)  # a start of training asks no more
  text = (
    f"{len(matches)} of {len(videos)} held-out items are also in training data"
    f" ({workdir / 'leakage.csv'})"
  )
  if matches and settings.fail:
    raise ValueError(
      f"{text}; make the training stores again with source.exclude naming the"
      " held-out store, or set leakage.fail=False"
    )
  print(text)
  return True


def _names(store: store_lib.Store, video: str) -> set[bytes]:
  """What a video is called: its id, and where it lies, if that is known."""
  name, origin = video.encode(), store.manifest.origin
  return {name, origin.path(name)} if origin else {name}


def _open(path: str) -> store_lib.Store:
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if not store.manifest.vocab or not store.manifest.ids:
    raise ValueError(
      f"{path} holds no tokens with ids; leakage is looked for in stores that"
      " configs/tokenize.py or run='shards' wrote"
    )
  return store


def _records(store: store_lib.Store, per: str) -> Iterator[tuple[str, set[bytes]]]:
  """(id, hashes of its tokens) of every record.

  Per frame they are of a latent frame's codes. The first of a causal tokenizer
  holds one frame and the others several: equal codes of both say nothing, so it
  is compared with first ones alone.
  """
  manifest, ids = store.manifest, store.ids()
  parts = manifest.frames if per == "frame" else 1
  with console.tracking(f"reading {store.path}", unit="records", total=len(store)) as bar:
    for start in range(0, len(store), READ_RECORDS):
      stop = min(start + READ_RECORDS, len(store))
      codes_RP = store.read(np.arange(start, stop))["codes"]
      for item, codes_P in zip(ids[start:stop], codes_RP, strict=True):
        pieces = [part.tobytes() for part in np.split(codes_P, parts)]
        if per == "frame" and manifest.latents.has_start:
          pieces[0] += b"first"
        yield item, {hashlib.blake2b(piece, digest_size=16).digest() for piece in pieces}
      bar.advance(stop - start)
