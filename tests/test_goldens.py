"""What must not change is as it was written down; `goldens.py` remakes it."""

import goldens
import numpy as np
import pytest


@pytest.fixture(scope="module", name="stores")
def _stores(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mixture")
  return {field: goldens.mixture(folder, field) for field in ("codes", "frames")}


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_the_order_of_tokens_is_that_of_every_run_so_far(stores, hosts):
  found = goldens.order(stores["codes"], field="codes", hosts=hosts)
  assert found == goldens.read("order")["codes"]
  assert len(set(found)) == goldens.STEPS


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_the_order_of_pixels_is_that_of_every_run_so_far(stores, hosts):
  found = goldens.order(stores["frames"], field="frames", hosts=hosts, steps=6)
  assert found == goldens.read("order")["frames"][:6]


def test_the_golden_order_tells_orders_apart(stores, tmp_path):
  """Another seed, other sources first, one record more: no step is the same."""
  golden = goldens.read("order")["codes"][:6]
  paths = stores["codes"]
  again = goldens.order(paths, field="codes", steps=6)
  assert again == golden
  turned = dict(reversed(paths.items()))
  longer = goldens.store(tmp_path / "long", "long", field="codes", records=8)
  for found in (
    goldens.order(paths, field="codes", seed=1, steps=6),
    goldens.order(turned, field="codes", steps=6),
    goldens.order({**paths, "long": longer}, field="codes", steps=6),
  ):
    assert not set(found) & set(golden)


def test_a_digest_sees_every_part_of_an_array():
  one = np.arange(6, dtype=np.int32).reshape(2, 3)
  found = goldens.digest({"a": one})
  assert goldens.digest({"a": one.copy()}) == found
  other = one.copy()
  other[1, 2] += 1
  for arrays in (
    {"a": other},
    {"b": one},
    {"a": one.T},
    {"a": one.astype(np.uint32)},
    {"a": one.reshape(3, 2)},
    {"a": one, "b": one},
  ):
    assert goldens.digest(arrays) != found


def assert_close(found, golden):
  """The losses to 1e-6, all else to 1e-5: processors sum in other orders.

  A standard error is made of small differences: to 1e-4.
  """
  assert found["arrays"] == golden["arrays"]
  assert len(found["metrics"]) == len(golden["metrics"])
  for row, other in zip(found["metrics"], golden["metrics"]):
    assert row.keys() == other.keys()
    assert row["kind"] == other["kind"]
    for key in row.keys() - {"kind"}:
      rtol = 1e-6 if key.endswith("loss") else 1e-5
      rtol = 1e-4 if key.endswith("_sem") else rtol
      assert row[key] == pytest.approx(other[key], rel=rtol), (row, key)
  assert found["params"].keys() == golden["params"].keys()
  for name, values in golden["params"].items():
    # A mean near zero is as exact as the elements are.
    size = abs(values[0]) + values[1]
    np.testing.assert_allclose(
      found["params"][name], values, rtol=0, atol=1e-5 * size + 1e-7, err_msg=name
    )


# Each compiles for long; of the models of tokens one is enough every time.
@pytest.mark.parametrize(
  "kind",
  [
    pytest.param(kind, marks=[] if fast else [pytest.mark.slow])
    for kind in goldens.UPDATES
    for fast in [kind in ("llama", "patches")]
  ],
)
def test_three_updates_are_those_of_every_run_so_far(tmp_path, kind):
  found, golden = goldens.update(tmp_path, kind), goldens.read("updates")[kind]
  rows = [row for row in found["metrics"] if row["kind"] == "train"]
  assert [row["step"] for row in rows] == [1, 2, 3]
  assert all(row["loss"] > 0 for row in rows)
  assert_close(found, golden)


def test_the_golden_updates_tell_recipes_apart(tmp_path):
  """A weight decay of 0.101 in place of 0.1, over three updates."""
  word = "--config.optim.weight_decay=0.101"
  found = goldens.update(tmp_path, "llama", word)
  with pytest.raises(AssertionError):
    assert_close(found, goldens.read("updates")["llama"])


@pytest.mark.parametrize(
  "where",
  [
    ("metrics", 1, "loss"),
    ("metrics", 4, "moving/loss"),
    ("params", "['params']['embedding']", 1),
    ("params", "['params']['embedding']", 4),
  ],
)
def test_a_golden_number_that_is_off_is_noticed(where):
  first, second, third = where
  golden, found = (goldens.read("updates")["llama"] for _ in range(2))
  assert_close(found, golden)
  found[first][second][third] *= 1 + 1e-4
  with pytest.raises(AssertionError):
    assert_close(found, golden)


CONFIGS = goldens.unpacked(goldens.read("configs"))


def differences(found, golden):
  """Lines that say which keys are others than they were."""
  gone = "(absent)"
  return [
    f"{key}: {golden.get(key, gone)} -> {found.get(key, gone)}"
    for key in sorted(golden.keys() | found.keys())
    if golden.get(key, gone) != found.get(key, gone)
  ]


def test_every_config_has_a_golden():
  assert goldens.arguments() == list(CONFIGS) and len(CONFIGS) > 80


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_resolves_to_the_keys_that_it_had(name):
  assert differences(goldens.config(name), CONFIGS[name]) == []


def test_a_changed_key_is_named():
  name, golden = "configs/smoke.py", CONFIGS["configs/smoke.py"]
  found = goldens.config(name, "--config.optim.lr=0.5")
  assert differences(found, golden) == ["optim.lr: 0.01 -> 0.5"]
  del found["seed"]
  found["train.microbatches"] = "1.0"  # the number is equal, its type is not
  found["mup.onn"] = "true"
  assert differences(found, golden) == [
    "mup.onn: (absent) -> true",
    "optim.lr: 0.01 -> 0.5",
    "seed: 0 -> (absent)",
    "train.microbatches: 1 -> 1.0",
  ]


def test_what_json_has_no_word_for_is_compared_too():
  value = {"a": {"b": float("inf"), "c": {}}, "d": (1, 2.0), "e": {3}}
  found = goldens.flat(value)
  assert found == {"a.b": "inf", "a.c": "{}", "d": "[1, 2.0]", "e": "{3}"}


def test_packing_loses_nothing():
  configs = {
    "x": {"run": '"a"', "k": "1", "l": "2"},
    "y": {"run": '"a"', "k": "1", "m": '"= "'},
    "z": {
      "run": '"chain"',
      "order": '["s"]',
      "stages.s.run": '"a"',
      "stages.s.l": "3",
      "stages.s.n.o": "{}",
    },
  }
  small = goldens.packed(configs)
  assert small["others"]["y"][""] == ['run = "a"', 'm = "= "', "-l"]
  assert goldens.unpacked(small) == configs
