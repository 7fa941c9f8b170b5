"""Prompts of pictures: example pairs, a query, and what a model draws next (A.8).

A prompt is a video: input and output of the first example, of the second, and
so on, and the query; the frame that follows is the answer.

Shapes: R prompts, J pairs of a prompt, T frames of a prompt (2 J + 1), H and W
pixels, S pixels of the model's side.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np

from totojax import sequence
from totojax.data.sources import pairs as folders
from totojax.trained import arguments

if TYPE_CHECKING:
  from totojax.trained.generate import Sampling
  from totojax.trained.model import Pretrained

LEAST_FRAMES = 4  # of a window: a pair, the query and its answer


def most_pairs(spec: sequence.SequenceSpec) -> int:
  """Pairs that fit into a model's window, beside a query and its answer."""
  window = min(spec.frames, spec.context // spec.frame_tokens)
  return max(window // 2 - 1, 0)


def check(spec: sequence.SequenceSpec, *, pairs: int, name: str) -> None:
  """Raises ValueError unless a model can be given so many pairs and a query.

  Args:
    spec: of the model.
    pairs: before the query.
    name: of the model.
  """
  if spec.latents.is_temporal:
    raise ValueError(
      f"a token of {name} stands for {spec.latents.frame_factor} frames, and each frame of a prompt"
      " is a picture by itself: use a model of a tokenizer of single frames"
    )
  if pairs < 1:
    raise ValueError(f"{pairs} example pairs are given; a prompt needs 1 and more")
  most, frames = most_pairs(spec), 2 * pairs + 2
  if pairs > most:
    window = min(spec.frames, spec.context // spec.frame_tokens)
    advice = f"give at most {most}" if most else f"a prompt needs {LEAST_FRAMES} or more"
    raise ValueError(
      f"{pairs} pairs, the query and its answer are {frames} frames; the window of {name} has"
      f" {window}: {advice}"
    )


def sequence_of(
  pairs: Sequence[tuple[np.ndarray, np.ndarray]], query_HW3: np.ndarray
) -> list[np.ndarray]:
  """The frames of a prompt in order: input, output, input, output, ..., query."""
  return [*(frame for pair in pairs for frame in pair), query_HW3]


def pairs_of(pairs: Any) -> list[tuple[np.ndarray, np.ndarray]]:
  """Example pairs of whatever `Pretrained.prompt` takes.

  Raises:
    ValueError: no pairs, an odd number of frames, pictures of another kind, or
      two of a pair that differ in size.
  """
  if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes):
    raise ValueError(
      f"pairs are {pairs!r:.80}; give [(input, output), ...] of pictures, uint8 [height, width, 3]"
    )
  frames = list(pairs)
  if not frames:
    raise ValueError("0 example pairs are given; a prompt needs 1 and more")
  if all(isinstance(frame, np.ndarray) and frame.ndim == 3 for frame in frames):
    if len(frames) % 2:
      raise ValueError(
        f"pairs are {len(frames)} frames; they are input, output, input, output, ...: give an even"
        " number"
      )
    frames = [frames[n : n + 2] for n in range(0, len(frames), 2)]
  out = []
  for number, pair in enumerate(frames, 1):
    if not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2:
      told = f"has {len(pair)} pictures" if isinstance(pair, Sequence) else f"is {pair!r:.80}"
      raise ValueError(f"pair {number} {told}; it is (input, output)")
    two = (
      _picture(pair[0], f"the input of pair {number}"),
      _picture(pair[1], f"the output of pair {number}"),
    )
    folders.check_sizes(*two, f"input and output of pair {number}")
    out.append(two)
  return out


def _picture(frame: Any, what: str) -> np.ndarray:
  frame = arguments.pixels(frame, f"{what} is", "uint8 [height, width, 3]")
  if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or not frame.size:
    raise ValueError(f"{what} is {frame.dtype} {frame.shape}; give uint8 [height, width, 3]")
  return frame


def frames_of(
  pairs: Sequence[tuple[np.ndarray, np.ndarray]],
  query: np.ndarray,
  fitted: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
  """uint8 [R, T, S, S, 3]: a prompt for each of the queries, with the same pairs.

  Args:
    pairs: of `pairs_of`.
    query: uint8 [R, H, W, 3] or [H, W, 3].
    fitted: clips of any size -> those of the model's.
  """
  query = arguments.pixels(query, "the query is", "uint8 [height, width, 3]")
  if query.dtype != np.uint8 or query.ndim not in (3, 4) or query.shape[-1] != 3 or not query.size:
    raise ValueError(
      f"the query is {query.dtype} {query.shape}; give uint8 [height, width, 3], or [queries,"
      " height, width, 3]"
    )
  queries_RHW3 = query.reshape(-1, *query.shape[-3:])
  size = lambda image_HW3: fitted(image_HW3[None, None])[0, 0]
  examples = [(size(first), size(second)) for first, second in pairs]
  return np.stack([np.stack(sequence_of(examples, size(one))) for one in queries_RHW3])


def answer(
  model: "Pretrained",
  pairs: Any,
  query: np.ndarray,
  *,
  samples: int | None,
  sampling: "Sampling | None",
  rows: int,
) -> np.ndarray:
  """`Pretrained.prompt`."""
  from totojax.trained import generate

  examples = pairs_of(pairs)
  check(model.run.model.spec, pairs=len(examples), name=str(model.run.path))
  frames_RTSS3 = frames_of(examples, query, model.fitted)
  drawn = model.generate(
    frames_RTSS3,
    new_frames=1,
    samples=samples,
    sampling=generate.Sampling(temperature=0.0) if sampling is None else sampling,
    rows=rows,
  )
  drawn = np.squeeze(drawn, axis=-4)
  return drawn[0] if np.ndim(query) == 3 else drawn
