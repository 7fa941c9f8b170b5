"""Eight CPU devices, shared programs, parsed flags; before jax is imported."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

import xla_flags

os.environ["XLA_FLAGS"] = xla_flags.value(8, more=os.environ.get("XLA_FLAGS", "").split())
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test compiles serves the others, xdist's workers, which inherit
# this, and the processes that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _compiled = tempfile.mkdtemp(prefix="totojax-compiled-")
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where in Python each operation comes from is in no program that is kept.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# A test whose storage is away by mistake fails, and does not wait a quarter of an hour.
os.environ.setdefault("TOTOJAX_STORAGE_TIMEOUT_S", "120")

from absl import flags  # noqa: E402
from buckets import bucket, data_place, gcs_proxy, local, place, s3_bucket, s3_proxy  # noqa: E402, F401
import pytest  # noqa: E402
import runs  # noqa: E402

# grain's worker processes read absl flags, which pytest does not parse.
flags.FLAGS(sys.argv[:1])

# Files with half a minute of one test or fixture, or of slow tests in all: at
# the start, or one would end alone.
FIRST = (
  "test_aot.py",
  "test_bench.py",
  "test_buckets_checkpoints.py",
  "test_buckets_jobs.py",
  "test_chain.py",
  "test_classify.py",
  "test_configs.py",
  "test_fuzz.py",
  "test_hosts.py",
  "test_joint.py",
  "test_kills.py",
  "test_launch.py",
  "test_launch_hosts.py",
  "test_notebook.py",
  "test_probe.py",
  "test_resume.py",
  "test_sweep.py",
  "test_tokenizer_task.py",
  "test_trunks.py",
)


def pytest_configure(config):
  # xdist would hand out files by their number of tests, and so a long one last.
  if hasattr(config.option, "loadscopereorder"):
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before -m looks who is slow
def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.name not in FIRST)
  for item in items:
    if mark := item.get_closest_marker("exhaustive"):
      item.add_marker(pytest.mark.slow)
      if not runs.EXHAUSTIVE:
        why = f"TOTOJAX_EXHAUSTIVE=1 asks for it; else {mark.args[0]}"
        item.add_marker(pytest.mark.skip(reason=why))


def pytest_collection_finish():
  # What was imported stays: looking for garbage in it, again and again, took a
  # twelfth of the time.
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 10, 10)
