"""The token contract, against rows written out by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from totojax import sequence
from totojax.evals import loss_tables

# 2 frames of 2 x 2: eight visual tokens, ten with start and end.
SMALL = sequence.SequenceSpec(vocab=10, grid=2, frames=2, context=8, segments=False)
CODES = np.array([[0, 1, 2, 3], [9, 8, 7, 6]], np.uint16)


def small(**changes):
  return dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
  "kind, context, row",
  [
    # As long as the visual tokens: the last target is the last token.
    ("video", 8, [1, 4, 5, 6, 7, 13, 12, 11, 10]),
    ("image", 8, [3, 4, 5, 6, 7, 13, 12, 11, 10]),
    # Shorter: cut.
    ("video", 1, [1, 4]),
    ("video", 5, [1, 4, 5, 6, 7, 13]),
    # One longer: the end token is the last target.
    ("video", 9, [1, 4, 5, 6, 7, 13, 12, 11, 10, 2]),
    # Longer still: padded on the right.
    ("video", 12, [1, 4, 5, 6, 7, 13, 12, 11, 10, 2, 0, 0, 0]),
    ("image", 11, [3, 4, 5, 6, 7, 13, 12, 11, 10, 2, 0, 0]),
  ],
)
def test_rows_by_hand(kind, context, row):
  built = sequence.build(CODES, kind=kind, spec=small(context=context))
  assert built.dtype == np.int32
  assert built.tolist() == row
  assert len(row) == small(context=context).row_tokens


def test_order_is_frames_then_rows_then_columns():
  grid, frames = 3, 2
  spec = sequence.SequenceSpec(99, grid, frames, 18, False)
  frames_NGG = np.array(
    [[[10, 11, 12], [20, 21, 22], [30, 31, 32]], [[40, 41, 42], [50, 51, 52], [60, 61, 62]]]
  )
  row = sequence.build(frames_NGG.reshape(2, 9), kind="video", spec=spec)
  by_hand = [1]
  for n in range(frames):
    for y in range(grid):
      for x in range(grid):
        by_hand.append(4 + int(frames_NGG[n, y, x]))
  assert row.tolist() == by_hand


@pytest.mark.parametrize("grid", [4, 8, 16, 32, 64])
def test_every_grid(grid):
  spec = sequence.SequenceSpec(8192, grid, 2, 2 * grid * grid, False)
  codes = np.random.default_rng(grid).integers(0, 8192, (2, grid * grid))
  inputs, targets = sequence.split(sequence.build(codes, kind="video", spec=spec)[None])
  assert inputs.shape == targets.shape == (1, 2 * grid * grid)
  assert sequence.codes_of(targets[0]).tolist() == codes.reshape(-1).tolist()
  assert inputs[0, 0] == 1
  assert inputs[0, 1:].tolist() == targets[0, :-1].tolist()


def test_the_papers_sequence():
  spec = sequence.SequenceSpec(8192, 16, 16, 4096, False)
  codes = np.random.default_rng(0).integers(0, 8192, (16, 256))
  codes[0, 0], codes[-1, -1] = 0, 8191
  row = sequence.build(codes, kind="video", spec=spec)
  assert row.shape == (4097,)
  _, targets = sequence.split(row[None])
  assert int(np.sum(sequence.is_visual(targets))) == 4096 == spec.visual_tokens
  assert (targets[0] == codes.reshape(-1) + 4).all()
  assert row[0] == 1 and row[1] == 4 and row[-1] == 8195
  assert spec.padded_vocab == 8320 and spec.padded_vocab % 128 == 0


def test_specials_and_codes_never_collide():
  codes = np.arange(16)
  spec = sequence.SequenceSpec(16, 4, 1, 17, False)
  row = sequence.build(codes[None], kind="video", spec=spec)
  specials = {sequence.PAD, sequence.VIDEO_START, sequence.END, sequence.IMAGE_START}
  assert len(specials) == 4
  assert not specials & set(row[1:17].tolist())
  assert row[17] == sequence.END
  # Control: the paper's own ids, with codes left where they are, do collide.
  assert specials & set(codes.tolist())


@pytest.mark.parametrize(
  "dtype, padded",  # (codes + 4) rounded up to 128
  [("uint16", 65_664), ("uint32", 2**30 + 128)],
)
def test_the_highest_codes_do_not_wrap(dtype, padded):
  vocab = {"uint16": 2**16, "uint32": 2**30}[dtype]
  spec = sequence.SequenceSpec(vocab, 1, 1, 1, False)
  row = sequence.build(np.array([[vocab - 1]], dtype), kind="video", spec=spec)
  assert row.tolist() == [1, vocab + 3]
  assert sequence.codes_of(row[1:]).tolist() == [vocab - 1]
  assert spec.padded_vocab == padded


def test_what_counts_as_visual():
  tokens = jnp.array([0, 1, 2, 3, 4, 8195])
  expected = [False, False, False, False, True, True]
  assert sequence.is_visual(tokens).tolist() == expected
  with pytest.raises(ValueError, match="no code"):
    sequence.codes_of(np.array([4, 2]))


def test_segments():
  row = sequence.build(CODES, kind="image", spec=small(context=11))
  video = sequence.build(CODES, kind="video", spec=small(context=11))
  inputs, _ = sequence.split(jnp.stack([row, video]))
  segments = sequence.segment_ids(inputs, small(context=11))
  assert segments.dtype == jnp.int32
  # Start and first image are 0, second image 1, end 2, padding -1.
  assert segments[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, -1]
  assert segments[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1]


def test_locate_names_the_place_of_the_target():
  grid, frames = 3, 2
  frame_p, row_p, column_p, code_p = loss_tables.locate(np.arange(18), grid)
  assert not code_p.any()
  codes = np.array(
    [[100 * n + 10 * y + x for y in range(grid) for x in range(grid)] for n in range(frames)]
  )
  spec = sequence.SequenceSpec(200, grid, frames, 18, False)
  _, targets = sequence.split(sequence.build(codes, kind="video", spec=spec)[None])
  told = 100 * frame_p + 10 * row_p + column_p
  assert told.tolist() == sequence.codes_of(targets[0]).tolist()
  assert loss_tables.locate(np.int64(4095), 16) == (15, 15, 15, 0)


def test_locate_names_the_code_of_a_place():
  """2 latent frames of 2 x 2 places of 3 codes: 12 tokens a frame."""
  got = [tuple(map(int, loss_tables.locate(np.int64(p), 2, 3))) for p in (0, 2, 3, 11, 12, 23)]
  assert got == [(0, 0, 0, 0), (0, 0, 0, 2), (0, 0, 1, 0), (0, 1, 1, 2), (1, 0, 0, 0), (1, 1, 1, 2)]


@pytest.mark.parametrize(
  "codes, kind, message",
  [
    (CODES, "clip", "'clip' is unknown; use 'video' or 'image'"),
    (CODES[:1], "video", r"\(1, 4\); 2 frames of a 2x2 grid need \(2, 4\)"),
    (CODES.reshape(2, 2, 2), "video", r"need \(2, 4\)"),
    (CODES + 1, "video", "run from 1 to 10; this tokenizer has .* 0 to 9"),
    (CODES.astype(int) - 1, "image", "run from -1 to 8"),
  ],
)
def test_build_refuses(codes, kind, message):
  with pytest.raises(ValueError, match=message):
    sequence.build(codes, kind=kind, spec=SMALL)


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(vocab=0), "sequence.vocab is 0"),
    (dict(vocab=2**30 + 1), "at most 1073741824"),
    (dict(grid=0), "sequence.grid is 0; it must be at least 1"),
    (dict(frames=-1), "sequence.frames is -1"),
    (dict(context=0), "sequence.context is 0"),
  ],
)
def test_spec_refuses(changes, message):
  with pytest.raises(ValueError, match=message):
    small(**changes)
