"""Pre-training on pixels that the step itself turns into tokens (`data.encode_with`)."""

from collections.abc import Sequence
from typing import Any

from totojax import sequence
from totojax.config.pretrain import Data
from totojax.config.schema import ConfigError
from totojax.data.stream import frames, rows
from totojax.tasks import encode, pretrain
from totojax.tokenizers import api, weights


def tokenizer(data: Data, spec: sequence.SequenceSpec) -> api.Tokenizer:
  """The one that runs on the device.

  Raises:
    ConfigError: it has other codes than the sequence.
  """
  path, expected = data.encode_with, data.tokenizer
  found = weights.load(path)
  if found.vocab != spec.vocab:
    raise ConfigError(
      f"data.encode_with {path} has {found.vocab} codes; sequence.vocab is {spec.vocab}: make them"
      " equal"
    )
  if expected and expected != found.fingerprint:
    raise ConfigError(
      f"data.encode_with {path} is tokenizer {found.fingerprint}; data.tokenizer asks for"
      f" {expected}"
    )
  return found


def check_same(encoder: api.Tokenizer, held_out: Sequence[rows.Source]) -> None:
  """Raises ConfigError where a store of tokens that is held out is of another tokenizer."""
  # Shapes would fit: the loss would be of codes that mean something else.
  for source in held_out:
    fingerprint = source.store.manifest.tokenizer
    if fingerprint != encoder.fingerprint:
      raise ConfigError(
        f"validation store {source.name!r} has tokens of {fingerprint}, and data.encode_with is"
        f" {encoder.fingerprint}; make it with the same tokenizer"
      )


def stream(
  training: Sequence[rows.Source],
  encoder: api.Tokenizer,
  task: pretrain.Pretrain,
  *,
  seq: sequence.SequenceSpec,
  **of_stream: Any,
) -> tuple[Any, encode.EncodeFrames]:
  """This host's batches of clips, and the task on them."""
  clips = frames.clips_stream(training, factor=encoder.factor, seq=seq, **of_stream)
  return clips, encode.EncodeFrames(task, encoder, spec=seq)
