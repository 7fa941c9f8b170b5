"""`run = "codes"`: arrays of codes that others made become stores of tokens.

The run directory gets `train` and `val`, or `all` where nothing is held out.
Files are read in pieces, and a shard at a time is in memory. An interrupted job
goes on with the shard that it was at.

Shapes: R records of a piece, T tokens of a record.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config.codes import CodeFiles, Codes
from totojax.config.schema import ConfigError
from totojax.data.sources import code_files, files as files_lib
from totojax.data.store import certificates, manifests, shards
from totojax.data.store.store import Store
from totojax.evals import token_counts
from totojax.rundir import console, directory, wording
from totojax.tokenizers import split as split_lib


@dataclasses.dataclass(frozen=True)
class _Part:
  """A store of the job."""

  files: Sequence[code_files.CodeFile]
  manifest: manifests.Manifest
  chosen: np.ndarray | None  # bool, which of the files' records it gets; None: all


def run(config: Codes, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Makes the stores; False when interrupted.

  Raises:
    ValueError: a file is no array of codes, or does not fit the others.
    StoreError: a store was begun with other values.
  """
  _check(config.codes)
  parts = _parts(config)
  mark = next(iter(parts.values())).manifest.tokenizer
  directory.begin(workdir, config, tokenizer=mark, vocab=config.codes.vocab)
  writers = {name: shards.Writer(workdir / name, part.manifest) for name, part in parts.items()}
  for name, part in parts.items():
    if not _fill(name, part, writers[name], config.codes, interrupted):
      return False
  stores = [Store(writer.path, writer.manifest) for writer in writers.values()]
  for part, store in zip(parts.values(), stores):
    print(
      f"{store.path}: {wording.counted(len(store), 'record')} of"
      f" {wording.counted(store.manifest.frames, 'frame')} from"
      f" {wording.counted(len(part.files), 'file')}; their tokenizer is {mark}"
    )
  certificates.certify(stores)
  for store in stores:
    token_counts.tell_use(store.path, store)
  return True


def _check(codes: CodeFiles) -> None:
  """Raises ConfigError with all keys that nothing but the user knows."""
  needed = {
    "files": "the .npz, .npy or .safetensors of codes, or their folder",
    "vocab": "the number of codes of their tokenizer",
    "size_px": "the side of the frames that were encoded, in pixels",
    "tokenizer": "a name for what made them, or its fingerprint",
  }
  lacking = [f"codes.{key} ({why})" for key, why in needed.items() if not getattr(codes, key)]
  if lacking:
    raise ConfigError(f"set {', '.join(lacking)}: configs/codes.py")
  if codes.split:
    split_lib.check_parts(codes.split, codes.vocab)


def _parts(config: Codes) -> Mapping[str, _Part]:
  """Every store by name, all of whose files' headers were read."""
  codes = config.codes
  paths, held_out = (code_files.listed(codes, some) for some in (codes.files, codes.val_files))
  if twice := sorted({*paths} & {*held_out}):
    raise ConfigError(f"codes.val_files names {twice[0]}, which is also in codes.files")
  with console.phase("reading the headers of the files"):
    where = code_files.root([*paths, *held_out])
    files = code_files.read(codes, [*paths, *held_out], where=where)
  with console.phase("reading ids"):
    ranks = code_files.ranks(files, seed=config.seed)
  count = sum(file.layout.records for file in files[: len(paths)])
  if held_out:
    shared = np.isin(ranks[count:], ranks[:count])
    if shared.any():
      raise ValueError(
        f"codes.val_files has {wording.counted(shared.sum(), 'record')} with ids of items in"
        " codes.files; what is held out must not be trained on: leave them out of one"
      )
    groups = {"train": (files[: len(paths)], None), "val": (files[len(paths) :], None)}
  elif codes.val_frac:
    mine = ranks <= _threshold(ranks, codes.val_frac)
    groups = {"train": (files, ~mine), "val": (files, mine)}
  else:
    groups = {"all": (files, None)}
  return {
    name: _Part(some, _manifest(config, some, name, where), chosen)
    for name, (some, chosen) in groups.items()
  }


def _threshold(ranks: np.ndarray, frac: float) -> np.uint64:
  """Of the last rank that is held out; one item at least is, and one is not."""
  items = np.unique(ranks)
  if len(items) < 2:
    raise ValueError(
      f"codes.val_frac is {frac}, and all {wording.counted(len(ranks), 'record')} are of one"
      " item; set codes.val_files"
      " in its place"
    )
  return items[min(max(1, round(frac * len(items))), len(items) - 1) - 1]


def _manifest(
  config: Codes, files: Sequence[code_files.CodeFile], name: str, where: str
) -> manifests.Manifest:
  codes, layout = config.codes, files[0].layout
  latents = codes.latents
  vocab = sum(codes.split) or codes.vocab
  if codes.size_px % layout.grid:
    raise ConfigError(
      f"codes.size_px is {codes.size_px}, and the files have {layout.grid} tokens a side: give the"
      " side of the frames in pixels, a multiple"
    )
  clip = codes.clip_frames or latents.whole_frames(layout.frames)
  if latents.latent_frames(clip) != layout.frames:
    raise ConfigError(
      f"codes.clip_frames is {clip}, which are {latents.latent_frames(clip)} latent frames; the"
      f" files have {layout.frames}"
    )
  # Ids that were given mean the same wherever the files are.
  origin = {} if files[0].ids else manifests.Origin.at(where, codes.prefix).info()
  is_video = codes.kind == "video"
  return manifests.new(
    kind=codes.kind,
    fields=(
      manifests.token_field(
        frames=layout.frames, grid=layout.grid, vocab=vocab, codes=latents.codes
      ),
    ),
    tokenizer=_fingerprint(codes),
    vocab=vocab,
    grid=layout.grid,
    frames=layout.frames,
    size_px=codes.size_px,
    stride_frames=codes.stride_frames if is_video else 0,
    fps=codes.fps if is_video else 0.0,
    crops=codes.crops,
    labels=files[0].labels is not None,
    ids=True,
    classes=_classes(codes, files[0]),
    records_per_shard=codes.records_per_shard,
    info={
      "source": "codes",
      "codes": codes.tokenizer,
      "split": name,
      "seed": config.seed,
      "val_frac": codes.val_frac,
      **origin,
      "items": len(files),
      "listing": code_files.digest(files),
    },
    **manifests.latents(latents, clip_frames=clip),
  )


def _fingerprint(codes: CodeFiles) -> str:
  """16 hex digits: the tokenizer's, or of its name and vocabulary."""
  whole = codes.tokenizer
  if not codes.is_fingerprint:
    name = json.dumps(["codes", codes.tokenizer, codes.vocab])
    whole = hashlib.sha256(name.encode()).hexdigest()[:16]
  return split_lib.fingerprint(whole, codes.split) if codes.split else whole


def _classes(codes: CodeFiles, file: code_files.CodeFile) -> tuple[str, ...]:
  if not codes.classes:
    return ()
  if file.labels is None:
    raise ConfigError(
      f"codes.classes is {codes.classes!r}, and {file.path} has no labels"
      f" {codes.labels!r}; set codes.labels to their array"
    )
  return tuple(line for _, line in files_lib.lines(codes.classes))


def _fill(
  name: str, part: _Part, writer: shards.Writer, codes: CodeFiles, interrupted: jobs.Interrupted
) -> bool:
  """One store, going on where it stopped; False when interrupted."""
  if writer.complete:
    return True
  total = sum(file.layout.records for file in part.files)
  done, rows = writer.cursor or 0, codes.records_per_shard
  current, ids, labels_R = None, [], None
  with console.tracking(f"writing {name}", unit="records", total=total, done=done) as bar:
    for file, row, codes_RT in code_files.records(part.files, done, rows, vocab=codes.vocab):
      if interrupted(done):
        return False
      if file is not current:
        current, ids = file, file.ids_of()
        labels_R = file.labels_of(len(writer.manifest.classes))
      stop = done + len(codes_RT)
      everything = np.ones(len(codes_RT), bool)
      mine_R = np.flatnonzero(everything if part.chosen is None else part.chosen[done:stop])
      if len(mine_R):
        if codes.split:
          codes_RT = split_lib.divided(codes_RT, codes.split, np).reshape(len(codes_RT), -1)
        writer.append(
          {"codes": codes_RT[mine_R]},
          labels=None if labels_R is None else labels_R[row + mine_R],
          ids=[ids[row + i] for i in mine_R],
          cursor=stop,
        )
      bar.advance(stop - done)
      done = stop
  writer.close()
  return True
