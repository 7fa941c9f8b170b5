"""Frames that the model goes on with: greedy, drawn, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
import test_decode as decoding
import test_models as models

from totojax import sequence, sharding
from totojax.config.generate import Window
from totojax.models import decode, gpt2, layers
from totojax.trained import choices, continued, generate

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


def kept_by_hand(logits, top_k, top_p, temperature, min_p):
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
  while shares[count - 1] < min_p * shares[0]:
    count -= 1
  found = np.zeros(128)
  found[4 + order[:count]] = shares[:count] / shares[:count].sum()
  return found


@pytest.mark.parametrize(
  "top_k, top_p, temperature, min_p",
  [
    (0, 1.0, 1.0, 0.0),
    (5, 1.0, 0.7, 0.0),
    (0, 0.6, 1.3, 0.0),
    (9, 0.8, 1.0, 0.0),
    (0, 1e-6, 1.0, 0.0),
    (1000, 1.0, 1.0, 0.0),
    (0, 1.0, 1.0, 0.1),
    (9, 0.9, 0.8, 0.3),
    (0, 1.0, 1.0, 1.0),
    (0, 1.0, 1e-6, 0.0),
    (0, 1.0, 1e6, 0.5),
  ],
)
def test_candidates_against_numpy(top_k, top_p, temperature, min_p):
  logits = np.random.default_rng(1).normal(0, 2, (4, 128)).astype(np.float32)
  logits[:, 0] = 50.0  # padding of the sequence, the likeliest of all
  logits[:, 100] = 40.0  # no token at all
  choice = choices.Choice.of(generate.Sampling(temperature, top_k, top_p, min_p, seed=0))
  found = jax.nn.softmax(choices.candidates(logits, choice=choice, low=0, high=VOCAB))
  expected = [kept_by_hand(row, top_k, top_p, temperature, min_p) for row in logits]
  np.testing.assert_array_equal(np.asarray(found) > 0, np.array(expected) > 0)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert choices.visual(logits, 0, VOCAB).argmax(-1).min() >= 4


def test_new_values_of_a_sampling_are_compiled_no_more(model, weights):
  given, others = context(), dict(temperature=9.0, top_k=2, top_p=0.1, min_p=0.9, seed=8)
  drawn = lambda sampling: generate.frames(
    model, weights, given, further=2, sampling=sampling, rows=range(3)
  )
  first, compiled = drawn(DRAWN), []
  listen = lambda event, _, **more: compiled.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    found = [drawn(dataclasses.replace(DRAWN, **{name: one})) for name, one in others.items()]
    greedy = drawn(GREEDY)
    assert not [event for event in compiled if "compile" in event or "trace" in event]
    jax.jit(lambda x: x + 1)(np.zeros(3))
    assert [event for event in compiled if "compile" in event]  # or nothing would be heard
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert all((one != first).any() for one in [*found, greedy])
  np.testing.assert_array_equal(greedy, drawn(dataclasses.replace(GREEDY, top_k=3, seed=9)))


@pytest.mark.parametrize("k", [1, 2, 7, 127, 128])
def test_the_kth_largest_is_that_of_a_sort(k):
  logits = np.random.default_rng(k).normal(0, 3, (5, 128)).astype(np.float32)
  logits[0, :40], logits[1, 3:9], logits[2] = -np.inf, 1.5, -np.abs(logits[2])
  found = choices._kth(logits, np.int32(k))
  np.testing.assert_array_equal(found[:, 0], np.sort(logits, axis=-1)[:, -k])


def test_draws_have_the_probabilities():
  logits = np.tile(np.log(np.float32([1, 1, 1, 1, 1, 2, 5])), (4000, 1))
  keys = jax.random.split(jax.random.key(0), len(logits))
  sampling = dataclasses.replace(DRAWN, temperature=1.0)
  drawn = choices.choose(logits, keys, choice=choices.Choice.of(sampling), low=0, high=3)
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
    ({"top_k": np.int64(-1)}, "at least 0"),
    ({"top_k": 10**9}, "at most 1000000"),
    ({"top_k": "a"}, "top_k is 'a' .str.; it must be int"),
    ({"temperature": None}, "temperature is None .NoneType.; it must be float"),
    ({"temperature": True}, "it must be float"),
    ({"temperature": 10**400}, "at most"),
    ({"seed": float("nan")}, "seed is nan .float.; it must be int"),
    ({"seed": 1.5}, "it must be int"),
    ({"top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 1.1}, "probability"),
    ({"top_p": float("nan")}, "finite"),
    ({"min_p": 1.5}, "min_p is 1.5"),
    ({"temperature": float("inf")}, "finite"),
    ({"temperature": float("nan")}, "finite"),
    ({"temperature": 1e-40}, r"temperature is 1e-40; use 0.0, which takes the most likely"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**32}, "seed"),
  ],
)
def test_sampling_is_checked(change, told):
  with pytest.raises(ValueError, match=told):
    dataclasses.replace(GREEDY, **change)


# --- Windows that are full, devices, frames that are known -----------------------


def decoder(model, weights, frames=9, sampling=GREEDY, **more):
  settings = {k: more.pop(k) for k in ("mode", "drop_frames", "rope", "rope_base") if k in more}
  return generate.decoder(
    model, weights, settings=Window(**settings), frames=frames, sampling=sampling, **more
  )


def made(decoder_, given, further=7, begin=0, known=None):
  videos = continued.batch(decoder_, given, np.arange(len(given)), known)
  found = list(decoder_.frames(videos, further=further, begin=begin))
  codes, nll = (
    np.stack([getattr(f, name) for f in found], axis=1)[: len(given)]
    for name in ("codes_BP", "nll_BP")
  )
  return codes, nll


def by_hand(model, params, given, further, window=4, drop=1):
  """Greedy codes and their nats, each token from the whole sequence of its window."""
  seen, codes, nats = given, [], []
  for _ in range(further):
    if seen.shape[1] == window:
      seen = seen[:, drop:]
    tokens = np.full((len(given), 1 + 4 * window), sequence.PAD, np.int32)
    tokens[:, 0] = sequence.VIDEO_START
    filled = 1 + 4 * seen.shape[1]
    tokens[:, 1:filled] = seen.reshape(len(seen), -1) + 4
    for at in range(filled, filled + 4):
      logits = decoding.whole(model, params, tokens)[:, at - 1]
      tokens[:, at] = 4 + logits[:, 4:].argmax(-1)
      shifted = logits - logits.max(-1, keepdims=True)
      log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
      nats.append(np.take_along_axis(log_p, tokens[:, at, None], 1)[:, 0])
    new = tokens[:, filled : filled + 4] - 4
    codes.append(new)
    seen = np.concatenate([seen, new[:, None]], axis=1)
  return np.stack(codes, axis=1), -np.stack(nats, axis=1).reshape(len(given), further, 4)


def test_a_window_that_slides_is_read_anew(model, weights):
  given = context()
  codes, nll = made(decoder(model, weights), given)
  expected, nats = by_hand(model, decoding.init(model), given, 7)
  np.testing.assert_array_equal(codes, expected)
  np.testing.assert_allclose(nll, nats, rtol=1e-3)
  # As far as the window reaches it is the plain one, and a full context slides at once.
  plain = generate.frames(model, weights, given, further=2, sampling=GREEDY, rows=range(3))
  np.testing.assert_array_equal(codes[:, :2], plain)
  full = np.concatenate([given, codes[:, :2]], axis=1)
  later, _ = made(decoder(model, weights), full, further=5)
  np.testing.assert_array_equal(later, codes[:, 2:])
  # Control: more frames dropped at a time are other windows.
  others, _ = made(decoder(model, weights, drop_frames=3), given)
  assert np.any(others != codes)
  np.testing.assert_array_equal(others, by_hand(model, decoding.init(model), given, 7, drop=3)[0])


def test_a_rolled_cache_of_one_layer_is_a_window_that_slides(monkeypatch):
  """Keys and values of one layer hold nothing of what came before."""
  model = decoding.build(decoding.STACKED, depth=1)
  params = decoding.init(model)
  weights = decode.load(model, params)
  (slid, slid_nll), (rolled, rolled_nll) = (
    made(decoder(model, weights, mode=mode), context()) for mode in ("slide", "roll")
  )
  np.testing.assert_array_equal(rolled, slid)
  np.testing.assert_allclose(rolled_nll, slid_nll, rtol=1e-3)
  # Control: keys that are not turned back.
  monkeypatch.setattr(layers, "apply_rope", lambda x, *_, **__: x)
  cache = decode.prefill(model, weights, decoding.tokens(), room=16)[1]
  still = decode.forget(model, cache, 4)
  monkeypatch.undo()
  right = decode.forget(model, cache, 4)
  np.testing.assert_array_equal(still.values, right.values)
  assert decoding.relative(np.asarray(still.keys), np.asarray(right.keys)) > 0.1


@pytest.mark.parametrize("mode", ["slide", "roll"])
def test_an_interrupted_video_goes_on_bit_for_bit(model, weights, mode):
  given, sampling = context(), DRAWN
  one = decoder(model, weights, sampling=sampling, mode=mode)
  codes, nll = made(one, given)
  for begin in (1, 5, 6):
    known = codes.copy()
    known[:, begin:] = generate.UNKNOWN
    again, nll_again = made(one, given, begin=begin, known=known)
    np.testing.assert_array_equal(again, codes[:, begin:])
    np.testing.assert_array_equal(nll_again, nll[:, begin:])
  with pytest.raises(ValueError, match="not all known"):
    made(one, given, begin=6, known=known[:, :5])


def test_known_frames_are_read_and_the_others_drawn(model, weights):
  """The nats of known frames are those of the whole sequence."""
  given, truth = context(), context(frames=2, seed=5)
  known = truth.copy()
  known[1] = generate.UNKNOWN
  one = decoder(model, weights, sampling=DRAWN)
  codes, nll = made(one, given, further=2, known=known)
  np.testing.assert_array_equal(codes[[0, 2]], truth[[0, 2]])
  free, _ = made(one, given, further=2)
  np.testing.assert_array_equal(codes[1], free[1])
  tokens = np.insert(np.concatenate([given, codes], 1).reshape(3, 16) + 4, 0, 1, axis=1)
  logits = decoding.whole(model, decoding.init(model), tokens[:, :-1])[:, 8:]
  log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1))
  expected = -np.take_along_axis(log_p, tokens[:, 9:, None], -1)[..., 0]
  np.testing.assert_allclose(nll.reshape(3, 8), expected, rtol=1e-3)


def test_batch_and_devices_change_no_video(model, weights):
  """One of eight devices, all of them, alone or among others."""
  layout = sharding.Layout(sharding.make_mesh(sharding.MeshConfig(data=-1, fsdp=1)))
  assert layout.ways == 8
  given = context(rows=10)
  alone, spread = (decoder(model, weights, sampling=DRAWN, layout=one) for one in (None, layout))
  draws = lambda one, some, rows: continued.samples(
    one, given[some], further=2, samples=2, rows=rows
  )
  expected = draws(alone, range(10), 20)
  np.testing.assert_array_equal(draws(spread, range(10), 20), expected)
  np.testing.assert_array_equal(draws(spread, range(9, -1, -1), 7), expected[::-1])
  np.testing.assert_array_equal(draws(alone, [4], 1), expected[[4]])
  assert np.all(np.any(expected[:, 0] != expected[:, 1], axis=(1, 2)))  # samples differ
  twice = continued.samples(spread, given[[3, 3]], further=2, samples=3, rows=8)
  np.testing.assert_array_equal(twice[0], twice[1])
  np.testing.assert_array_equal(twice[0, :2], expected[3])


def test_places_beyond_the_window_have_the_base_that_was_asked_for(model, weights):
  given, params = context(), decoding.init(model)
  codes, _ = made(decoder(model, weights, mode="extend"), given)
  spec = dataclasses.replace(model.spec, frames=9, context=36)
  base = 10_000.0 * (9 / 4) ** (16 / 14)  # head dim 16
  grown = model.clone(spec=spec, config=dataclasses.replace(model.config, rope_base=base))
  expected, _ = by_hand(grown, params, given, 7, window=9)
  np.testing.assert_array_equal(codes, expected)
  same, _ = made(decoder(model, weights, mode="extend", rope="same"), given)
  assert np.any(same != codes)
  # What it is for: the slowest angle ends where it ended, the fastest is as it was.
  cos, _ = layers.rope_table(np.array([4]), 16, 10_000.0)
  longer, _ = layers.rope_table(np.array([9]), 16, base)
  np.testing.assert_allclose(longer[0, -1], cos[0, -1], rtol=1e-6)
  with pytest.raises(ValueError, match="rope_base is 0 with window.rope 'base'"):
    Window(rope="base")


def test_each_code_of_a_place_is_one_that_it_can_be(model, weights):
  """Places 0 and 2 of codes 0 to 19, 1 and 3 of 20 to 59."""
  slots = ((0, 20), (20, 60))
  given = np.random.default_rng(0).integers([0, 20, 0, 20], [20, 60, 20, 60], (3, 2, 4))
  codes, _ = made(decoder(model, weights, sampling=DRAWN, slots=slots), given)
  assert codes[..., ::2].max() < 20 <= codes[..., 1::2].min()
  assert len(np.unique(codes)) > 30
  free, _ = made(decoder(model, weights, sampling=DRAWN), given)
  assert free[..., ::2].max() >= 20  # the control
  with pytest.raises(ValueError, match="code 1 of a place runs from .*; it can be 0 to 19"):
    made(decoder(model, weights, slots=slots), given[..., ::-1])


def test_a_model_of_nan_is_refused_in_a_line(model, weights):
  broken = jax.tree.map(lambda x: x * np.nan, weights)
  for sampling in (GREEDY, DRAWN):
    one = decoder(model, broken, sampling=sampling, name="runs/x")
    with pytest.raises(generate.NotFinite, match="runs/x gives logits that are NaN .*3 of 3"):
      made(one, context(), further=2)


def test_what_cannot_go_on_so_is_refused(model, weights):
  with pytest.raises(ValueError, match="drop_frames is 4; the window of the model has 4 frames.*3"):
    decoder(model, weights, drop_frames=4)
  with pytest.raises(ValueError, match="causal attention"):
    decoder(decoding.build(prefix_tokens=2), weights)
  fixed = model.clone(config=gpt2.Gpt2Config(width=32, depth=2, heads=2, mlp_dim=64))
  with pytest.raises(ValueError, match="mode is 'roll'; the model is a gpt2.*use 'slide'"):
    decoder(fixed, weights, mode="roll")
  with pytest.raises(ValueError, match="rotates nothing by a base"):
    decoder(fixed, weights, mode="extend", rope="base", rope_base=5e4)
  with pytest.raises(ValueError, match="first latent frame of another kind"):
    decoder(model, weights, mode="roll", restart=lambda codes, keep: codes)
  with pytest.raises(ValueError, match="5 frames of context .* has 4: give 1 to 4"):
    made(decoder(model, weights), context(frames=5))
