"""profile.steps: a trace in the run directory, and nothing of the run is changed."""

import gzip
import json

import pytest
import runs
import stores

pytestmark = pytest.mark.slow


def test_a_trace_of_some_updates_and_the_line_that_opens_it(tmp_path):
  data = stores.pair(tmp_path / "stores")
  short = ("--config.train.total_tokens=640.0", "--config.optim.warmup_steps=0")
  plain = runs.here(runs.smoke(data, tmp_path / "plain", *short))
  printed = runs.here(runs.smoke(data, tmp_path / "run", *short, "--config.profile.steps=2"))
  folder = tmp_path / "run" / "profile"
  assert (
    f"2 updates are traced: pip install xprof tensorboard, then  tensorboard --logdir={folder}"
    in (printed)
  )
  (path,) = folder.rglob("perfetto_trace.json.gz")
  assert list(folder.rglob("*.xplane.pb"))
  events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  steps = {event["args"]["step_num"] for event in events if event.get("name") == "update"}
  assert steps == {"2", "3"}  # the first, which compiles, is none of them
  # The same run: what is traced is what is done anyway.
  runs.assert_same(*(runs.checkpoint(tmp_path / name, 5) for name in ("plain", "run")))
  assert "traced" not in plain and not (tmp_path / "plain" / "profile").exists()


def test_a_run_of_one_update_says_that_nothing_is_traced(tmp_path):
  data = stores.pair(tmp_path / "stores")
  one = ("--config.train.total_tokens=128.0", "--config.optim.warmup_steps=0")
  printed = runs.here(runs.smoke(data, tmp_path / "run", *one, "--config.profile.steps=2"))
  assert "the run ends with its first update, and nothing is traced" in printed
  assert not (tmp_path / "run" / "profile").exists()
