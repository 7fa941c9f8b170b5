"""Frames that the model goes on with: greedy, drawn, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
import test_decode as decoding
import test_models as models

from totojax import sequence
from totojax.models import decode
from totojax.trained import generate

GREEDY = generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
DRAWN = dataclasses.replace(GREEDY, temperature=1.5, seed=3)
VOCAB, REAL = decoding.SPEC.vocab, decoding.REAL


@pytest.fixture(scope="module")
def model():
  return decoding.build()


@pytest.fixture(scope="module")
def weights(model):
  return decode.load(model, decoding.init(model))


def context(rows=3, frames=2, seed=0):
  return np.random.default_rng(seed).integers(0, VOCAB, (rows, frames, 4))


def test_greedy_frames_are_those_without_a_cache(model, weights):
  given = context()
  found = generate.frames(model, weights, given, further=2, sampling=GREEDY, rows=range(3))
  assert found.shape == (3, 2, 4) and found.dtype == np.int32
  # The whole sequence again for every token; what is not there yet is hidden
  # by causality.
  tokens = np.full((3, 16), sequence.PAD, np.int32)
  tokens[:, 0] = sequence.VIDEO_START
  tokens[:, 1:9] = given.reshape(3, 8) + 4
  made = []
  for at in range(8, 16):
    logits = decoding.whole(model, decoding.init(model), tokens)[:, at]
    made.append(4 + logits[:, 4:].argmax(-1))
    if at < 15:
      tokens[:, at + 1] = made[-1]
  np.testing.assert_array_equal(found.reshape(3, 8), np.transpose(made) - 4)
  assert len(np.unique(found)) > 4  # or the model says one thing only


def test_greedy_tokens_meet_hugging_face():
  torch = pytest.importorskip("torch")
  model = decoding.build(tied=False, rope_base=5e4)
  params = decoding.init(model, seed=1)
  given = context(frames=1)
  found = generate.frames(
    model, decode.load(model, params), given, further=3, sampling=GREEDY, rows=range(3)
  )
  prompt = np.insert(given.reshape(3, 4) + 4, 0, sequence.VIDEO_START, axis=1)
  reference = models.hugging_face(model.config, params, 128)
  # What is no code: special tokens and the padding of the vocabulary.
  others = [*range(4), *range(REAL, 128)]
  with torch.no_grad():
    whole = reference.generate(
      torch.tensor(prompt),
      do_sample=False,
      max_new_tokens=12,
      suppress_tokens=others,
      eos_token_id=None,
      pad_token_id=0,
    )
  theirs = whole.numpy()[:, 5:] - 4
  np.testing.assert_array_equal(found.reshape(3, 12), theirs)
  assert len(np.unique(theirs)) > 4


def test_draws_depend_on_seed_and_row_alone(model, weights):
  given = context()

  def drawn(rows, seed=3):
    return generate.frames(
      model,
      weights,
      given[rows],
      further=2,
      sampling=dataclasses.replace(DRAWN, seed=seed),
      rows=rows,
    )

  all_ = drawn([0, 1, 2])
  np.testing.assert_array_equal(all_, drawn([0, 1, 2]))
  np.testing.assert_array_equal(all_[[2, 0, 1]], drawn([2, 0, 1]))
  assert np.any(all_ != drawn([0, 1, 2], seed=4))
  # Two rows of the same video are two draws.
  twice = generate.frames(
    model, weights, given[[0, 0, 0]], further=2, sampling=DRAWN, rows=[0, 7, 0]
  )
  np.testing.assert_array_equal(twice[0], twice[2])
  assert np.any(twice[0] != twice[1])


def kept_by_hand(logits, top_k, top_p, temperature):
  """Probabilities of one row, in float64."""
  logits = logits[4:REAL].astype(np.float64) / temperature
  order = np.argsort(-logits)
  if top_k:
    order = order[:top_k]
  shares = np.exp(logits[order] - logits[order[0]])
  shares /= shares.sum()
  count = 1
  while shares[:count].sum() < top_p and count < len(shares):
    count += 1
  found = np.zeros(128)
  found[4 + order[:count]] = shares[:count] / shares[:count].sum()
  return found


@pytest.mark.parametrize(
  "top_k, top_p, temperature",
  [(0, 1.0, 1.0), (5, 1.0, 0.7), (0, 0.6, 1.3), (9, 0.8, 1.0), (0, 1e-6, 1.0), (1000, 1.0, 1.0)],
)
def test_candidates_against_numpy(top_k, top_p, temperature):
  logits = np.random.default_rng(1).normal(0, 2, (4, 128)).astype(np.float32)
  logits[:, 0] = 50.0  # padding of the sequence, the likeliest of all
  logits[:, 100] = 40.0  # no token at all
  sampling = generate.Sampling(temperature, top_k, top_p, seed=0)
  found = jax.nn.softmax(generate.candidates(logits, sampling=sampling, low=0, high=VOCAB))
  expected = [kept_by_hand(row, top_k, top_p, temperature) for row in logits]
  np.testing.assert_array_equal(np.asarray(found) > 0, np.array(expected) > 0)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert generate.visual(logits, 0, VOCAB).argmax(-1).min() >= 4


def test_draws_have_the_probabilities():
  logits = np.tile(np.log(np.float32([1, 1, 1, 1, 1, 2, 5])), (4000, 1))
  keys = jax.random.split(jax.random.key(0), len(logits))
  sampling = dataclasses.replace(DRAWN, temperature=1.0)
  drawn = generate.choose(logits, keys, sampling=sampling, low=0, high=3)
  counts = np.bincount(drawn, minlength=7) / len(logits)
  assert np.all(counts[:4] == 0)
  np.testing.assert_allclose(counts[4:], [1 / 8, 2 / 8, 5 / 8], atol=0.03)


@pytest.mark.parametrize(
  "given, further, told",
  [
    (context(frames=1)[:, :0], 1, "0 frames of context"),
    (context(frames=2), 3, "2 frames of context and 3 further .* has 4"),
    (context(frames=2), 0, "ask for 1 to 2"),
    (context(frames=2)[:, :, :3], 1, "are needed"),
    (context(rows=2), 1, r"shape \(2, 2, 4\); \[3 rows"),
    (context() + 60, 1, "another tokenizer"),
  ],
)
def test_what_cannot_be_made_is_refused(model, given, further, told):
  with pytest.raises(ValueError, match=told):
    generate.frames(model, None, given, further=further, sampling=GREEDY, rows=range(3))


@pytest.mark.parametrize(
  "change, told",
  [
    ({"temperature": -1.0}, "temperature is -1.0"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 1.1}, "probability"),
  ],
)
def test_sampling_is_checked(change, told):
  with pytest.raises(ValueError, match=told):
    dataclasses.replace(GREEDY, **change)
