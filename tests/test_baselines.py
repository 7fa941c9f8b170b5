"""Baselines against closed forms, brute force and a grid of lam."""

import numpy as np
import pytest

from totojax.evals import baselines


def test_unigram_by_hand():
  train = np.array([[[0, 0, 1]]])  # counts 2, 1, 0 of V = 3; add one, over 6
  q = baselines.fit_unigram(train, vocab=3)
  np.testing.assert_allclose(q, [3 / 6, 2 / 6, 1 / 6])
  score = baselines.unigram_score(np.array([[[0, 2]], [[1, 1]]]), unigram_V=q, first_frame=0)
  means = [np.log(2) / 2 + np.log(6) / 2, np.log(3)]
  np.testing.assert_allclose(score.mean, np.mean(means))
  np.testing.assert_allclose(score.sem, abs(means[0] - means[1]) / 2)
  assert (score.sequences, score.tokens) == (2, 4)


def test_uniform_codes_cost_ln_v():
  rng = np.random.default_rng(0)
  train, val = rng.integers(0, 32, (2, 400, 4, 16))
  out = baselines.evaluate(train, val, vocab=32)
  for name in ("unigram", "copy", "copy_per_code"):
    np.testing.assert_allclose(out[f"{name}/loss"], np.log(32), rtol=5e-3)
  assert out["copy/lam"] < 0.01  # nothing to copy: lam must not be invented


def _markov(rng, *, stay_V, shape):
  """Codes that stay with probability stay_V[c], else are redrawn uniformly."""
  sequences, frames, places = shape
  vocab = len(stay_V)
  codes = np.empty(shape, np.int64)
  codes[:, 0] = rng.integers(0, vocab, (sequences, places))
  for n in range(1, frames):
    stay = rng.random((sequences, places)) < stay_V[codes[:, n - 1]]
    fresh = rng.integers(0, vocab, (sequences, places))
    codes[:, n] = np.where(stay, codes[:, n - 1], fresh)
  return codes


def test_copy_finds_the_process_and_its_entropy():
  vocab, lam = 8, 0.7
  rng = np.random.default_rng(1)
  shape = (300, 6, 16)
  train = _markov(rng, stay_V=np.full(vocab, lam), shape=shape)
  val = _markov(rng, stay_V=np.full(vocab, lam), shape=shape)
  model = baselines.fit_copy(train, vocab=vocab, per_code=False)
  np.testing.assert_allclose(model.lam_V, lam, atol=0.02)
  repeat = lam + (1 - lam) / vocab
  other = (1 - lam) / vocab
  entropy = -repeat * np.log(repeat) - (vocab - 1) * other * np.log(other)
  score = baselines.copy_score(val, model=model, first_frame=1)
  np.testing.assert_allclose(score.mean, entropy, atol=4 * score.sem)
  unigram = baselines.unigram_score(val, unigram_V=model.unigram_V, first_frame=1)
  assert unigram.mean > score.mean + 0.5


def test_shared_lam_is_the_maximum_of_the_likelihood():
  rng = np.random.default_rng(2)
  stay = np.linspace(0.1, 0.9, 8)
  train = _markov(rng, stay_V=stay, shape=(40, 5, 9))
  model = baselines.fit_copy(train, vocab=8, per_code=False)

  def loss(lam):
    candidate = baselines.CopyModel(model.unigram_V, np.full(8, lam))
    return baselines.copy_score(train, model=candidate, first_frame=1).mean

  grid = np.linspace(0, 0.999, 1000)
  best = grid[np.argmin([loss(lam) for lam in grid])]
  assert abs(model.lam_V[0] - best) <= grid[1]


def test_per_code_lam_tells_codes_apart():
  rng = np.random.default_rng(3)
  stay = np.array([0.05, 0.95, 0.05, 0.95])
  train = _markov(rng, stay_V=stay, shape=(300, 6, 16))
  val = _markov(rng, stay_V=stay, shape=(300, 6, 16))
  out = baselines.evaluate(train, val, vocab=4)
  per_code = baselines.fit_copy(train, vocab=4, per_code=True).lam_V
  assert per_code[[1, 3]].min() > per_code[[0, 2]].max() + 0.5
  assert out["copy_per_code/later_loss"] < out["copy/later_loss"] - 0.05


def test_probabilities_sum_to_one():
  rng = np.random.default_rng(4)
  train = _markov(rng, stay_V=np.linspace(0, 1, 5), shape=(30, 4, 4))
  for per_code in (False, True):
    model = baselines.fit_copy(train, vocab=5, per_code=per_code)
    for previous in range(5):
      pairs = np.stack([np.full(5, previous), np.arange(5)], 1)[:, :, None]
      nll = [baselines.copy_score(p[None], model=model, first_frame=1).mean for p in pairs]
      np.testing.assert_allclose(np.exp(-np.array(nll)).sum(), 1, rtol=1e-12)


def test_frozen_training_video_gives_a_finite_loss_elsewhere():
  train = np.zeros((3, 4, 2), np.int64)
  val = np.array([[[0, 0], [1, 0]]])
  for per_code in (False, True):
    model = baselines.fit_copy(train, vocab=2, per_code=per_code)
    score = baselines.copy_score(val, model=model, first_frame=1)
    assert np.isfinite(score.mean) and model.lam_V.max() < 1


def test_images_have_no_copy_baseline():
  codes = np.zeros((3, 1, 4), np.int64)
  out = baselines.evaluate(codes, codes, vocab=4)
  losses = {f"{name}/loss{end}" for name in ("unigram", "neighbours") for end in ("", "_sem")}
  assert set(out) == {"uniform/loss", *losses, "fitted_records", "scored_records"}
  with pytest.raises(ValueError, match="needs at least 2"):
    baselines.fit_copy(codes, vocab=4, per_code=False)


@pytest.mark.parametrize(
  "codes, message",
  [
    (np.full((1, 2, 3), 9), "Give raw codes"),
    (np.zeros((2, 3), np.int64), r"give \[sequences"),
    (np.zeros((0, 2, 3), np.int64), "none of them empty"),
  ],
)
def test_bad_codes(codes, message):
  with pytest.raises(ValueError, match=message):
    baselines.fit_unigram(codes, vocab=8)


def _neighbours_by_loops(train, frame_sets, *, vocab, prior):
  """Nats of every token, of dictionaries and loops alone; [M, N, P]."""
  edge, counts = "edge", {}

  def walk(codes):
    for m, sequence in enumerate(codes):
      for n, frame in enumerate(sequence):
        side = int(len(frame) ** 0.5)
        for p, code in enumerate(frame):
          row, col = divmod(p, side)
          left = frame[p - 1] if col else edge
          up = frame[p - side] if row else edge
          yield (m, n, p), (("both", left, up), ("left", left), ("up", up), ("all",)), code

  for _, contexts, code in walk(train):
    for context in contexts:
      counts.setdefault(context, {}).setdefault(code, 0)
      counts[context][code] += 1
  nll = np.zeros(np.shape(frame_sets))
  for place, (both, left, up, every), code in walk(frame_sets):
    seen = lambda c: (counts.get(c, {}).get(code, 0), sum(counts.get(c, {}).values()))
    hits, total = seen(every)
    q = (hits + 1) / (total + vocab)
    single = []
    for context in (left, up):
      hits, total = seen(context)
      single.append((hits + prior * q) / (total + prior))
    hits, total = seen(both)
    nll[place] = -np.log((hits + prior * sum(single) / 2) / (total + prior))
  return nll


@pytest.mark.parametrize("frames", [1, 3])
def test_neighbours_are_those_of_loops(frames):
  rng = np.random.default_rng(5)
  # Codes that go on to the right and downwards, now and then.
  train = np.sort(rng.integers(0, 6, (20, frames, 9)), axis=-1)
  val = np.sort(rng.integers(0, 6, (7, frames, 9)), axis=-1)
  model = baselines.fit_neighbours(train, vocab=7)
  losses = {
    prior: _neighbours_by_loops(train[:-2], train[-2:], vocab=7, prior=prior).mean()
    for prior in baselines.PRIORS
  }
  assert model.prior == min(losses, key=losses.__getitem__)
  nll = _neighbours_by_loops(train, val, vocab=7, prior=model.prior)
  for first in range(frames):
    score = baselines.neighbour_score(val, model=model, first_frame=first)
    np.testing.assert_allclose(score.mean, nll[:, first:].mean(), rtol=1e-12)
  # The control: the frames turned by a quarter have other neighbours.
  turned = np.rot90(val.reshape(7, frames, 3, 3), axes=(2, 3)).reshape(val.shape)
  other = baselines.neighbour_score(turned, model=model, first_frame=0).mean
  assert abs(other - nll.mean()) > 0.05


def test_neighbours_know_stripes_that_frequencies_do_not():
  """Every row of a frame repeats a code that is drawn once: ln 4 / 4 each."""
  rng = np.random.default_rng(6)
  train, val = (
    np.repeat(rng.integers(0, 4, (m, 1, 4, 1)), 4, axis=3).reshape(m, 1, 16) for m in (500, 50)
  )
  found = baselines.evaluate(train, val, vocab=4)
  assert found["neighbours/loss"] == pytest.approx(np.log(4) / 4, rel=0.02)
  assert found["unigram/loss"] == pytest.approx(np.log(4), rel=0.02)
  assert (found["fitted_records"], found["scored_records"]) == (500, 50)


def test_neighbours_of_all_codes_sum_to_one():
  rng = np.random.default_rng(7)
  model = baselines.fit_neighbours(rng.integers(0, 3, (30, 2, 4)), vocab=5)
  # Probabilities of all frames of four tokens, seen or not: 5^4 of them.
  frames = np.stack(np.meshgrid(*[np.arange(5)] * 4), -1).reshape(-1, 1, 4)
  nll = [4 * baselines.neighbour_score(f[None], model=model, first_frame=0).mean for f in frames]
  assert np.exp(-np.array(nll)).sum() == pytest.approx(1.0, rel=1e-9)
