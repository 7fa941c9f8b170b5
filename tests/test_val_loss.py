"""Validation loss against plain numpy, and its tables against hand."""

import csv
import io
import math

import jax
import numpy as np
import pytest

from totojax import assembly, sequence, sharding
from totojax.config import recipes
from totojax.evals import loss_tables, val_loss
from totojax.models import llama, platform, trunk
from totojax.tasks import pretrain

SPEC = sequence.SequenceSpec(60, 2, 3, 12, False)  # 3 frames of 2 x 2
ROWS, T = 11, 12


def problem():
  """Nats and where they count, with rows of padding and junk where not."""
  rng = np.random.default_rng(0)
  nll_BT = rng.gamma(2.0, 1.0, (ROWS, T)).astype(np.float32)
  visual_BT = np.ones((ROWS, T), bool)
  visual_BT[3, 5:] = False  # a row that ends early
  visual_BT[7] = False  # a row of padding
  visual_BT[:, 11] = False  # a place with no target at all
  nll_BT[~visual_BT] = np.nan
  return nll_BT, visual_BT


@jax.jit
def sums_of(nll_BT, visual_BT):
  return val_loss.batch_sums(nll_BT, visual_BT, frame_tokens=4)


def in_batches(size):
  nll_BT, visual_BT = problem()
  for first in range(0, ROWS, size):
    nll, visual = (x[first : first + size] for x in (nll_BT, visual_BT))
    pad = size - len(nll)
    nll = np.pad(nll, ((0, pad), (0, 0)), constant_values=np.inf)
    yield sums_of(nll, np.pad(visual, ((0, pad), (0, 0))))


def test_a_mask_that_would_be_broadcast_is_refused():
  nll_BT, visual_BT = problem()
  for wrong in (visual_BT[0], visual_BT[:1], visual_BT[:, :1]):
    with pytest.raises(AssertionError, match="shape"):
      sums_of(nll_BT, wrong)


def test_against_plain_numpy():
  loss = val_loss.PositionLoss.total(in_batches(4))
  nll_BT, visual_BT = problem()
  assert loss.rows == ROWS - 1
  assert loss.count_T.tolist() == visual_BT.sum(0).tolist()
  for first in (0, 1, 2):  # frames left out; row 3 ends in frame 1
    nll_Bt, visual_Bt = nll_BT[:, 4 * first :], visual_BT[:, 4 * first :]
    tokens = nll_Bt.astype(np.float64)[visual_Bt]
    rows = [
      nll[visual].astype(np.float64).mean()
      for nll, visual in zip(nll_Bt, visual_Bt)
      if visual.any()
    ]
    assert len(rows) == (ROWS - 2 if first == 2 else ROWS - 1)
    mean, sem = loss.mean(first)
    assert mean == pytest.approx(tokens.mean(), rel=1e-6)
    expected = np.std(rows, ddof=1) / math.sqrt(len(rows))
    assert sem == pytest.approx(expected, rel=1e-5)
    # Control: a mean of row means weighs the short row too much.
    if first < 2:
      assert mean != pytest.approx(np.mean(rows), rel=1e-4)
  assert loss.mean() == loss.mean(0)
  with pytest.raises(ValueError, match="no visual target in frame 3 or later"):
    loss.mean(3)


def test_by_position_against_plain_numpy():
  loss = val_loss.PositionLoss.total(in_batches(3))
  nll_BT, visual_BT = problem()
  frame_T = np.arange(T) // 4
  for groups in (np.arange(T), frame_T):
    expected = []
    for group in np.unique(groups):
      at = (groups == group)[None] & visual_BT
      if not at.any():
        continue  # position 11 has no target
      x = nll_BT[at].astype(np.float64)
      sem = x.std(ddof=1) / math.sqrt(len(x))
      expected.append((group, x.mean(), sem, len(x)))
    np.testing.assert_allclose(loss.groups(groups), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5, 11, 16])
def test_batch_size_changes_nothing(size):
  loss = val_loss.PositionLoss.total(in_batches(size))
  whole = val_loss.PositionLoss.total(in_batches(4))
  assert loss.mean() == pytest.approx(whole.mean(), rel=1e-5)
  np.testing.assert_allclose(loss.sum_MN, whole.sum_MN, rtol=1e-6)
  np.testing.assert_allclose(loss.sum_T, whole.sum_T, rtol=1e-6)
  np.testing.assert_allclose(loss.square_T, whole.square_T, rtol=1e-6)
  np.testing.assert_array_equal(loss.count_T, whole.count_T)


def test_one_row_has_no_standard_error():
  one = np.ones((1, T), np.float32)
  assert val_loss.PositionLoss.total([sums_of(one, one > 0)]).mean() == (1.0, 0.0)


def test_nothing_to_count_is_refused():
  nothing = sums_of(np.ones((2, T)), np.zeros((2, T), bool))
  with pytest.raises(ValueError, match="no validation row has a visual token"):
    val_loss.PositionLoss.total([nothing])


def copying(params, batch):
  """A predictor without a model: sure of the token one frame before, else
  uniform over `params` codes."""
  inputs_BT, targets_BT = sequence.split(batch["tokens"])
  before_BT = np.zeros_like(targets_BT)
  before_BT[:, 4:] = targets_BT[:, :-4]
  nll_BT = np.where(before_BT == targets_BT, 0.0, math.log(params))
  return sums_of(nll_BT, sequence.is_visual(targets_BT))


def test_a_copy_task_by_hand(tmp_path):
  still = np.tile(np.arange(4), (3, 1))
  moving = still + [[0, 0, 0, 0], [0, 0, 0, 9], [0, 0, 9, 9]]
  rows = [sequence.build(codes, kind="video", spec=SPEC) for codes in (still, moving)]
  padding = np.zeros_like(rows[0])
  batches = [{"tokens": np.stack([row, padding])} for row in rows]
  sources = {"both": batches, "still": batches[:1]}
  losses = dict(val_loss.evaluate(copying, 60, sources))
  nats = math.log(60)
  # Frame 0 has nothing to copy; of the moving clip, 2 of 8 copies fail.
  assert losses["still"].mean()[0] == pytest.approx(4 * nats / 12)
  assert losses["both"].mean()[0] == pytest.approx((4 + 6) * nats / 24)
  values = dict(val_loss.scalars(losses.items()))
  assert values["both/n"] == 2 and values["still/n"] == 1
  assert values["both/loss_sem"] == pytest.approx((6 - 4) * nats / 12 / 2)

  loss_tables.write(tmp_path, losses, SPEC)
  files = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert set(files) == {f"{x}_loss.csv" for x in ("position", "frame", "row")}
  text = files["position_loss.csv"]
  assert text.startswith("source,position,frame,row,col,mean,sem,n\nboth,0,0,")
  by_position = list(csv.DictReader(io.StringIO(text)))
  assert len(by_position) == 24
  for i, (source, position, place, mean, sem, n) in {
    0: ("both", "0", "000", nats, 0.0, "2"),
    7: ("both", "7", "111", nats / 2, nats / 2, "2"),
    10: ("both", "10", "210", nats / 2, nats / 2, "2"),
    11: ("both", "11", "211", 0.0, 0.0, "2"),
    12: ("still", "0", "000", nats, 0.0, "1"),
    23: ("still", "11", "211", 0.0, 0.0, "1"),
  }.items():
    row = by_position[i]
    assert (row["source"], row["position"], row["n"]) == (source, position, n)
    assert row["frame"] + row["row"] + row["col"] == place
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-5), i
    assert float(row["sem"]) == pytest.approx(sem, rel=1e-3, abs=1e-3 * nats)
  by_frame = list(csv.DictReader(io.StringIO(files["frame_loss.csv"])))
  assert [(r["source"], r["frame"], r["mean"], r["n"]) for r in by_frame] == [
    ("both", "0", "4.094345", "8"),
    ("both", "1", f"{nats / 8:.6f}", "8"),
    ("both", "2", f"{nats / 8:.6f}", "8"),
    ("still", "0", "4.094345", "4"),
    ("still", "1", "0.000000", "4"),
    ("still", "2", "0.000000", "4"),
  ]
  by_row = list(csv.DictReader(io.StringIO(files["row_loss.csv"])))
  assert [(r["source"], r["row"], r["n"]) for r in by_row] == [
    ("both", "0", "12"),
    ("both", "1", "12"),
    ("still", "0", "6"),
    ("still", "1", "6"),
  ]


def test_on_eight_devices_it_is_the_models_log_probability():
  """`position_sums` against a log-softmax in numpy, one row at a time."""
  model = trunk.Trunk(
    llama.LlamaConfig(**recipes.model("tiny").to_dict() | {"depth": 1}),
    SPEC,
    trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU),
  )
  task = pretrain.Pretrain(model)
  params = jax.jit(task.init)(jax.random.key(0)).params
  rng = np.random.default_rng(1)
  codes = rng.integers(0, 60, (6, 3, 4))
  tokens = np.zeros((8, 13), np.int32)  # two rows of padding
  for row, code in zip(tokens, codes):
    row[:] = sequence.build(code, kind="video", spec=SPEC)
  layout = sharding.layout(sharding.MeshConfig(2, 2, 2, 1))
  sums = assembly.position_sums(task.per_target, layout, SPEC.frame_tokens)
  source = np.zeros(8, np.int32)
  loss = val_loss.PositionLoss.total([sums(params, {"tokens": tokens, "source": source})])

  apply = jax.jit(lambda inputs: model.apply({"params": params}, inputs))
  logits = np.asarray(apply(tokens[:6, :-1]), np.float64)[..., :64]
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  picked = np.take_along_axis(log_p, codes.reshape(6, 12, 1) + 4, -1)[..., 0]
  np.testing.assert_allclose(loss.sum_T, -picked.sum(0), rtol=1e-5)
  assert loss.mean()[0] == pytest.approx(-picked.mean(), rel=1e-5)
  assert loss.rows == 6
  assert loss.count_T.tolist() == [6] * 12
