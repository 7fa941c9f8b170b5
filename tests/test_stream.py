"""The stream: one global order, on any number of hosts, from any step."""

import itertools
import pickle

import numpy as np
import pytest
import token_sets
from token_sets import SEQ

from totojax import sequence
from totojax.data.store import manifests, shards, store as store_lib
from totojax.data.stream import frames as frames_lib, heldout, labelled, mixture, rows

BATCH = 8
PAPER = (0.2, 0.1, 0.1, 0.6)  # rows of images and of three video sets


@pytest.fixture(scope="module", name="sources")
def _sources(tmp_path_factory):
  path = tmp_path_factory.mktemp("sets")
  return [
    token_sets.source(
      path / "images", 37, weight=0.2, kind="image", frames=1, stride_frames=0, fps=0.0
    ),
    token_sets.source(path / "short", 11, weight=0.1, frames=4),
    token_sets.source(path / "long", 23, weight=0.1, frames=9),
    token_sets.source(path / "main", 90, weight=0.6, frames=6),
  ]


def global_batch(sources, step, *, hosts, seed=0, batch=BATCH):
  """The batch of a step, put together from what each host reads."""
  parts = [
    mixture.stream(sources, seq=SEQ, seed=seed, batch=batch, host=host, hosts=hosts)[step]
    for host in range(hosts)
  ]
  return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def frames_of(row_R):
  """Codes [N, P] of the frames of a row."""
  visual = row_R[1:]
  visual = visual[visual >= sequence.SPECIALS]
  return sequence.codes_of(visual).reshape(-1, SEQ.frame_tokens)


def same(a, b):
  return all(np.array_equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


def take(iterator, count):
  return list(itertools.islice(iterator, count))


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_any_number_of_hosts_gives_the_same_global_batches(sources, hosts):
  for step in (0, 1, 7, 100, 12_345):
    one = global_batch(sources, step, hosts=1)
    assert one["tokens"].shape == (BATCH, SEQ.row_tokens)
    assert one["tokens"].dtype == one["source"].dtype == np.int32
    assert same(global_batch(sources, step, hosts=hosts), one)
    # The control: neither a neighbouring step nor another seed is the same.
    assert not same(global_batch(sources, step + 1, hosts=hosts), one)
    assert not same(global_batch(sources, step, hosts=hosts, seed=1), one)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_iteration_from_any_step_on_another_host_count(sources, prefetch):
  reading = mixture.Reading(workers=0, prefetch=prefetch)
  expected = [global_batch(sources, step, hosts=1) for step in range(12)]
  for hosts, start in itertools.product((1, 2, 4), (0, 1, 5, 9)):
    parts = []
    for host in range(hosts):
      ds = mixture.stream(sources, seq=SEQ, seed=0, batch=BATCH, host=host, hosts=hosts)
      parts.append(take(mixture.host_batches(ds, start, reading=reading), 3))
    for ahead, batches in enumerate(zip(*parts)):
      joined = {k: np.concatenate([batch[k] for batch in batches]) for k in batches[0]}
      assert same(joined, expected[start + ahead])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(sources):
  ds = mixture.stream(sources, seq=SEQ, seed=0, batch=BATCH, host=1, hosts=2)
  reading = mixture.Reading(workers=2, prefetch=2)
  batches = take(mixture.host_batches(ds, 3, reading=reading), 7)
  for step, batch in enumerate(batches, start=3):
    assert same(batch, ds[step])


def test_a_row_is_its_record(sources):
  """Every token of a row against the codes written, not against our reader."""
  for step in range(6):
    batch = global_batch(sources, step, hosts=1)
    for row_R, index in zip(batch["tokens"], batch["source"]):
      source = sources[index]
      image = source.name == "images"
      start = sequence.IMAGE_START if image else sequence.VIDEO_START
      assert row_R[0] == start
      frames_NP = frames_of(row_R)
      assert len(frames_NP) == SEQ.frames
      for n, frame_P in enumerate(frames_NP):
        record = token_sets.record_of(frame_P)
        first = 0 if image else frames_NP[0, 3]
        frame = 0 if image else first + n
        written = token_sets.codes(record, 1, frames=source.store.manifest.frames).reshape(
          -1, SEQ.frame_tokens
        )
        np.testing.assert_array_equal(frame_P, written[frame])
      if not image:
        assert len({token_sets.record_of(f) for f in frames_NP}) == 1


def draws(source, rows_wanted, *, seed=0):
  """(records, first frames) that the first rows of one source hold."""
  ds = mixture.stream([source], seq=SEQ, seed=seed, batch=1, host=0, hosts=1)
  frames = [frames_of(ds[i]["tokens"][0]) for i in range(rows_wanted)]
  records = [[token_sets.record_of(f) for f in row] for row in frames]
  return records, [int(row[0, 3]) for row in frames]


def test_each_epoch_has_each_video_once_in_a_new_order(sources):
  source = sources[2]
  count = len(source.store)
  records, _ = draws(source, 3 * count)
  epochs = np.array([row[0] for row in records]).reshape(3, count)
  for epoch in epochs:
    assert sorted(epoch) == list(range(count))
  assert not np.array_equal(epochs[0], epochs[1])
  # The control: a window of the stream that is no epoch has repetitions.
  across = epochs.reshape(-1)[count // 2 : count // 2 + count]
  assert len(set(across)) < count


def test_each_epoch_has_each_image_once(sources):
  """37 images, 4 a row: epochs end within rows, and nothing is lost."""
  source = sources[0]
  records, _ = draws(source, 37)
  epochs = np.array(records).reshape(4, 37)
  for epoch in epochs:
    assert sorted(epoch) == list(range(37))
  assert not np.array_equal(epochs[0], epochs[1])


def test_windows_differ_between_epochs_and_records(sources):
  source = sources[2]  # 9 frames, of which a sequence takes 4: 6 windows
  count = len(source.store)
  records, starts = draws(source, 40 * count)
  window_ER = np.zeros((40, count), int)
  for i, (row, start) in enumerate(zip(records, starts)):
    window_ER[i // count, row[0]] = start
  assert set(window_ER.reshape(-1)) == set(range(6))
  # All six are about equally likely: 920 draws, 153 each, deviation 11.
  counts = np.bincount(window_ER.reshape(-1))
  assert np.all(np.abs(counts - 153) < 5 * 11), counts
  assert len({tuple(row) for row in window_ER}) == 40  # over epochs
  assert len({tuple(row) for row in window_ER.T}) == count  # over records
  _, others = draws(source, count, seed=1)
  assert others != starts[:count]
  # The control: a record as long as a sequence has one window only.
  _, fixed = draws(sources[1], 22)
  assert set(fixed) == {0}


@pytest.mark.parametrize(
  "seed, source, record, epoch, window",
  [
    (7, 2, 5, 3, 75),
    # Each of them counts, and the first of everything has no other rule.
    (8, 2, 5, 3, 6),
    (7, 1, 5, 3, 26),
    (7, 2, 6, 3, 62),
    (7, 2, 5, 4, 62),
    (0, 0, 0, 0, 85),
    (0, 0, 0, 1, 39),
    (7, 2, 5, None, 0),  # validation
  ],
)
def test_the_window_of_a_draw_is_that_of_every_run_so_far(seed, source, record, epoch, window):
  """Of 100. A run that goes on with other draws is another run."""
  draw = rows.Draw(record=record, epoch=epoch)
  found = rows.window(draw, source=source, seed=seed, choices=100)
  assert found == window


def test_sources_of_equal_length_have_different_orders(tmp_path):
  pair = [token_sets.source(tmp_path / name, 40) for name in "ab"]
  ds = mixture.stream(pair, seq=SEQ, seed=0, batch=80, host=0, hosts=1)
  batch = ds[0]
  order = [
    [
      token_sets.record_of(frames_of(row)[0])
      for row, index in zip(batch["tokens"], batch["source"])
      if index == s
    ]
    for s in range(2)
  ]
  assert sorted(order[0]) == sorted(order[1]) == list(range(40))
  assert order[0] != order[1]


def _orders(kind, seed, records=40, epochs=3):
  """The records of each epoch, as a stream draws them."""
  if kind == "labelled":
    labels = np.zeros(records, np.int32)
    data = labelled.Records(None, "a", np.arange(records), labels, ("",) * records, ())
    stream = labelled.stream(data, _drawn, seed=seed, batch=1, host=0, hosts=1)
    drawn = [int(stream[i]["records"][0]) for i in range(epochs * records)]
  else:
    source = mixture.Source("a", _Some(records), 1.0)
    plans = mixture.mix([source], per_row=[1], seed=seed)
    drawn = [plans[i].draws[0].record for i in range(epochs * records)]
  return np.array(drawn).reshape(epochs, records)


class _Some:
  def __init__(self, records):
    self.records = records

  def __len__(self):
    return self.records


def _drawn(rows_):
  return {"records": np.array([row.draws[0].record for row in rows_])}


@pytest.mark.parametrize("kind", ["labelled", "mixture"])
def test_neighbouring_seeds_share_no_order(kind):
  """Grain adds the epoch to the seed it is given."""
  orders = {seed: _orders(kind, seed) for seed in (0, 1, 2)}
  epochs = np.concatenate(list(orders.values()))
  assert (np.sort(epochs) == np.arange(40)).all()
  assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)
  np.testing.assert_array_equal(_orders(kind, 0), orders[0])


def test_the_mixture_is_exact_over_its_cycle(sources):
  batches = [global_batch(sources, s, hosts=2)["source"] for s in range(10)]
  source_R = np.concatenate(batches).reshape(8, 10)
  for cycle in source_R:
    assert np.bincount(cycle).tolist() == [2, 1, 1, 6]


@pytest.mark.parametrize(
  "weights, counts",
  [
    (PAPER, [2, 1, 1, 6]),
    ((3, 7), [3, 7]),
    ((1 / 3, 1 / 3), [1, 1]),
    ((0.125, 0.5), [1, 4]),
    ((5.0,), [1]),
  ],
)
def test_cycles_hold_whole_shares_and_lose_no_row(weights, counts):
  cycle = mixture.Cycle(weights)
  length = sum(counts)
  places = [cycle[k] for k in range(5 * length)]
  for s, count in enumerate(counts):
    mine = [index for source, index in places if source == s]
    assert mine == list(range(5 * count))
  for n in range(1, 5 * length):  # any beginning is close to its share
    seen = np.bincount([s for s, _ in places[:n]], minlength=len(counts))
    assert np.all(np.abs(seen - n * np.array(counts) / length) <= len(counts))


def test_the_cycle_of_the_paper_is_that_of_every_run_so_far():
  """Whoever is furthest behind its share with row k has it; then the first."""
  cycle = mixture.Cycle(PAPER)
  assert [cycle[k] for k in range(12)] == [
    (3, 0),
    (0, 0),
    (3, 1),
    (1, 0),
    (3, 2),
    (2, 0),
    (3, 3),
    (3, 4),
    (0, 1),
    (3, 5),
    (3, 6),
    (0, 2),
  ]
  third = mixture.Cycle((3, 7))
  assert [third[k][0] for k in range(10)] == [1, 0, 1, 1, 0, 1, 1, 1, 0, 1]


def test_bad_weights_are_refused():
  for weights in ((), (0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),)):
    with pytest.raises(ValueError, match="positive"):
      mixture.Cycle(weights)
  with pytest.raises(ValueError, match="round them"):
    mixture.Cycle((1 / 3, 0.123456789))


def test_what_does_not_fit_is_refused(sources, tmp_path):
  spec = dict(seq=SEQ, seed=0, batch=BATCH, host=0, hosts=1)
  for changes, message in (
    (dict(batch=6, hosts=4), "batch 6 is not divisible by 4 hosts"),
    (dict(host=2, hosts=2), "host 2 of 2"),
    (dict(seq=sequence.SequenceSpec(128, 2, 4, 16, False)), "vocab 64"),
    (dict(seq=sequence.SequenceSpec(64, 4, 1, 16, False)), "grid 2"),
    (dict(seq=sequence.SequenceSpec(64, 2, 6, 24, False)), "4 frames a rec"),
  ):
    with pytest.raises(ValueError, match=message):
      mixture.stream(sources, **{**spec, **changes})
  other = token_sets.source(tmp_path / "other", 9, tokenizer="another")
  with pytest.raises(ValueError, match="different tokenizers"):
    mixture.stream([*sources, other], **spec)
  with pytest.raises(ValueError, match="each once"):
    mixture.stream([sources[0], sources[0]], **spec)
  with pytest.raises(ValueError, match="reads 'frames'"):
    frames_lib.frames_stream(sources, seed=0, batch=2, host=0, hosts=1)
  with pytest.raises(ValueError, match="workers is -1; it must be at least 0"):
    mixture.Reading(workers=-1, prefetch=0)


def test_a_stream_can_be_pickled(sources):
  ds = mixture.stream(sources, seq=SEQ, seed=0, batch=BATCH, host=0, hosts=1)
  copy = pickle.loads(pickle.dumps(ds))
  assert same(copy[3], ds[3])


def test_damage_during_a_run_stops_it_with_the_path(tmp_path):
  source = token_sets.source(tmp_path / "a", 18)
  ds = mixture.stream([source], seq=SEQ, seed=0, batch=18, host=0, hosts=1)
  (file,) = (tmp_path / "a/shard-00001/codes/c").rglob("0/0")
  file.write_bytes(file.read_bytes()[:50])
  reading = mixture.Reading(workers=0, prefetch=2)
  fresh = pickle.loads(pickle.dumps(ds))
  with pytest.raises(shards.StoreError, match="a/shard-00001/codes"):
    next(mixture.host_batches(fresh, 0, reading=reading))


def write_pixels(path, records, *, frames, size_px=4):
  """Frames whose pixels say which record and frame they are."""
  head = token_sets.manifest(
    fields=(manifests.frame_field(frames=frames, size_px=size_px),),
    frames=frames,
    size_px=size_px,
    tokenizer="",
    vocab=0,
    grid=0,
    labels=False,
  )
  writer = shards.Writer(path, head)
  pixels = np.zeros((records, frames, size_px, size_px, 3), np.uint8)
  pixels[..., 0] = np.arange(records)[:, None, None, None]
  pixels[..., 1] = np.arange(frames)[:, None, None]
  ids = [f"clip/{i}" for i in range(records)]
  writer.append({"frames": pixels}, labels=None, ids=ids, cursor=records)
  writer.close()
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  return rows.Source("clips", store, 1.0)


def test_pixel_stream_draws_one_frame_of_each_clip(tmp_path):
  source = write_pixels(tmp_path / "clips", 20, frames=5)

  def batch(step, hosts):
    return np.concatenate(
      [
        frames_lib.frames_stream([source], seed=0, batch=20, host=host, hosts=hosts)[step]["frames"]
        for host in range(hosts)
      ]
    )

  epochs = [batch(step, 1) for step in range(3)]
  for step, frames in enumerate(epochs):
    assert frames.shape == (20, 4, 4, 3) and frames.dtype == np.uint8
    assert sorted(frames[:, 0, 0, 0]) == list(range(20))
    np.testing.assert_array_equal(batch(step, 4), frames)
  drawn = np.stack([f[np.argsort(f[:, 0, 0, 0]), 0, 0, 1] for f in epochs])
  assert set(drawn.reshape(-1)) == set(range(5))
  assert not np.array_equal(drawn[0], drawn[1])


def test_validation_is_exact_and_padded(sources):
  for source in sources:
    image = source.name == "images"
    records = len(source.store)
    seen, targets = [], 0
    held_out = heldout.validation(source, seq=SEQ, rows=0, batch=8, host=0, hosts=1)
    batches = list(held_out)
    assert held_out.rows == (10 if image else records)
    assert len(held_out) == len(batches) == -(-held_out.rows // 8)
    tokens_RT = np.concatenate([batch["tokens"] for batch in batches])
    assert np.all(tokens_RT[held_out.rows :] == sequence.PAD)
    for row_R in tokens_RT[: held_out.rows]:
      frames_NP = frames_of(row_R)
      targets += frames_NP.size
      records_N = [token_sets.record_of(f) for f in frames_NP]
      seen.extend(records_N if image else records_N[:1])
      if not image:
        np.testing.assert_array_equal(frames_NP[:, 3], range(SEQ.frames))
    assert seen == list(range(records))
    assert targets == held_out.targets


def test_a_last_row_of_few_images_is_padding_after_them(sources):
  held_out = heldout.validation(sources[0], seq=SEQ, rows=0, batch=2, host=0, hosts=1)
  row_R = held_out.batches[4]["tokens"][1]  # 37 = 9 x 4 + 1 images
  assert row_R[0] == sequence.IMAGE_START
  assert np.all(row_R[1:5] >= sequence.SPECIALS)
  assert np.all(row_R[5:] == sequence.PAD)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_validation_is_the_same_on_any_number_of_hosts(sources, hosts):
  def read(host, hosts):
    return heldout.validation(sources[2], seq=SEQ, rows=0, batch=8, host=host, hosts=hosts)

  one = read(0, 1)
  parts = [read(host, hosts) for host in range(hosts)]
  assert {len(part) for part in parts} == {len(one)}
  for step, batch in enumerate(one):
    joined = np.concatenate([part.batches[step]["tokens"] for part in parts])
    np.testing.assert_array_equal(joined, batch["tokens"])


def test_part_of_the_validation_set_is_spread_over_it(sources):
  held_out = heldout.validation(sources[3], seq=SEQ, rows=9, batch=4, host=0, hosts=1)
  tokens = np.concatenate([batch["tokens"] for batch in held_out])
  records = [token_sets.record_of(frames_of(row)[0]) for row in tokens[:9]]
  assert records == list(range(0, 90, 10))
  assert np.all(tokens[9:] == sequence.PAD) and len(tokens) == 12
  assert held_out.targets == 9 * SEQ.visual_tokens
  more = heldout.validation(sources[1], seq=SEQ, rows=99, batch=4, host=0, hosts=1)
  assert more.rows == 11


def test_shared_items_are_refused(sources, tmp_path):
  held_out = token_sets.source(tmp_path / "validation", 9)
  heldout.check_disjoint(sources, [held_out])
  leak = rows.Source("leak", token_sets.write(tmp_path / "l", 3, prefix="main"), 1.0)
  with pytest.raises(ValueError, match="'main/0' is in training source 'main'"):
    heldout.check_disjoint(sources, [held_out, leak])
  with pytest.raises(ValueError, match="'validation/0' is in"):
    heldout.check_disjoint([*sources, held_out], [held_out])
  head = token_sets.manifest(ids=False, labels=False)
  writer = shards.Writer(tmp_path / "n", head)
  writer.append({"codes": token_sets.codes(0, 2)}, labels=None, ids=None, cursor=2)
  writer.close()
  store = store_lib.open_store(tmp_path / "n", tokenizer=None, vocab=None, grid=None)
  with pytest.raises(ValueError, match="'nameless'.* has no ids"):
    heldout.check_disjoint([rows.Source("nameless", store, 1.0)], [held_out])
