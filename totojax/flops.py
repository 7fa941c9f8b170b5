"""Parameters, multiply-accumulates and FLOPs from first principles.

1 MAC is 2 FLOPs; a training step costs three forward passes. Causal attention
is counted as what it needs, half of the square. Padding rows of the vocabulary
and special ids beyond the codes are told apart everywhere.
"""

from typing import Protocol


class Decoder(Protocol):
  """What of a model's config is needed: see `models.architecture`."""

  def parameters(self, vocab: int) -> int: ...

  def forward_macs_per_token(self, *, vocab: int, context: int) -> int: ...


# Dense bf16 peak of one device, FLOP/s, by the start of jax's `device_kind`.
# Source: the vendors' data sheets. A v4 or v5p chip is one device.
PEAK_FLOPS_PER_S = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5p": 459e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
}


def parameters(model: Decoder, vocab: int) -> int:
  """Parameters with `vocab` rows in the embedding: Table 1 has 8,192.

  With a final norm of n and V D for each table, of which an untied head is one:

    LLaMA  L (4 D^2 + 3 D F + 2 D), n = D
    GPT-2  L (4 D^2 + 2 D F + 9 D + F), n = 2 D: all have biases
    Mamba  L (3 D E + E (K + 2 R + 3 S + 3) + D), n = D
  """
  return model.parameters(vocab)


def forward_macs_per_token(model: Decoder, *, vocab: int, context: int) -> int:
  """MACs of one token: matrices, what mixes tokens, head.

  Causal attention is over a mean of T / 2 keys. Mamba's recurrence has four
  products for each channel and state.
  """
  return model.forward_macs_per_token(vocab=vocab, context=context)


def train_flops_per_token(model: Decoder, *, vocab: int, context: int) -> int:
  """FLOPs of one token's forward and backward pass: 6 per MAC."""
  return 6 * forward_macs_per_token(model, vocab=vocab, context=context)


def peak_flops_per_s(device_kind: str) -> float | None:
  """Peak of one device, or None for a chip that is not in the table (a CPU)."""
  for prefix in sorted(PEAK_FLOPS_PER_S, key=len, reverse=True):
    if device_kind.startswith(prefix):
      return PEAK_FLOPS_PER_S[prefix]
  return None


def steps(total_tokens: float, batch_tokens: int) -> int:
  """Updates that `total_tokens` make, rounded down, at least one.

  Raises:
    ValueError: fewer tokens than one batch has.
  """
  if total_tokens < batch_tokens:
    raise ValueError(
      f"train.total_tokens {total_tokens:g} is less than one batch of"
      f" {batch_tokens} tokens; raise it or lower train.batch_tokens"
    )
  return int(total_tokens // batch_tokens)
