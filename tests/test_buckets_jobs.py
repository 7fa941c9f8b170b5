"""Every job with its run directory, and what it reads, in a bucket."""

import io
import pathlib
import re

import buckets
from etils import epath
import numpy as np
from PIL import Image
import pytest
import runs
import test_chain

from totojax import jobs
from totojax.rundir import directory, files
from totojax.storage import objects

DOCUMENT = runs.ROOT / "docs/running.md"
LABELLED = (
  "--config.model_run={demo}/pretrain",
  "--config.data.encode_with=shipped",
  "--config.data.source=folder",
  "--config.data.root={root}/images",
  "--config.data.train=",
  "--config.data.validation=",
  "--config.data.val_frac=0.25",
  "--config.data.classes=0",
  "--config.data.expected=0",
  "--config.data.grid=4",
  "--config.data.reading.workers=0",
  "--config.train.epochs=1.0",
  "--config.train.batch_rows=4",
  "--config.train.score_rows=4",
  "--config.optim.warmup_epochs=0.0",
)
IMAGES = ("--config.source.root={root}/images", "--config.source.kind=image")
# Job -> its config file and keys; in order, since some read what others wrote.
COMMANDS = {
  "tokenize": (
    "configs/tokenize.py",
    *IMAGES,
    "--config.source.folder.class_folders=True",
    "--config.source.val_frac=0.25",
    "--config.image.size_px=32",
  ),
  "tokens_report": ("configs/tokens_report.py:mine={root}/tokenize/train",),
  "leakage": (
    "configs/leakage.py",
    "--config.leakage.train=('{root}/tokenize/train',)",
    "--config.leakage.validation=('{root}/tokenize/val',)",
  ),
  "features": ("configs/features.py", *IMAGES, "--config.model_run={demo}/pretrain"),
  "joint": ("configs/joint_imagenet.py", *LABELLED, "--config.data.holdout_frac=0.3"),
  "finetune": ("configs/finetune_imagenet.py", *LABELLED),
  "curves": ("configs/paper/figure2.py", "--config.curves.runs=('one={demo}/pretrain',)"),
}


@pytest.fixture(scope="module")
def place(gcs_proxy):
  with pytest.MonkeyPatch.context() as patch:
    yield from buckets.gcs_place(gcs_proxy, patch)


@pytest.fixture(scope="module")
def demo(place):
  """The demo's chain, shrunk, and no key of it changed for the bucket."""
  runs.finish(runs.start(runs.command("configs/demo.py", place / "demo", *test_chain.FEWER)))
  rng = np.random.default_rng(0)
  for name in (f"{label}/{i}.png" for label in "ab" for i in range(12)):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(file, "png")
    objects.write(place / f"images/{name}", file.getvalue())
  return place / "demo"


@pytest.mark.slow
def test_the_demo_runs_to_its_end(demo):
  stages = directory.read_config(demo)["order"]
  assert len(stages) == 10 and all(directory.is_done(f"{demo}/{name}") for name in stages)
  assert b"<svg" in files.read_bytes(epath.Path(demo) / "report" / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("job", COMMANDS)
def test_a_job_ends(demo, place, job):
  config, *keys = [word.format(root=place.url, demo=demo) for word in COMMANDS[job]]
  runs.finish(runs.start(runs.command(config, place / job, *keys)))
  assert directory.is_done(place / job)
  assert directory.read_config(place / job)["run"] == job


def _rows() -> dict[str, list[str]]:
  """The table of jobs in the document: the other cells by the name of the job."""
  text = DOCUMENT.read_text().partition("### What works where")[2].partition("\n## ")[0]
  cells = (re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if line[:1] == "|")
  return {job: more for first, *more in list(cells)[2:] for job in re.findall(r"`(\w+)`", first)}


def test_the_table_of_jobs_is_whole():
  rows = _rows()
  assert rows.keys() == jobs.JOBS.keys()
  for job, (local, gs, s3, test) in rows.items():
    assert {local, gs, s3} <= {"yes", "data", "no", "by hand", "not tried"}, job
    if test == "none":
      assert gs != "yes", job
      continue
    file, _, name = test.strip("`").partition("::")
    assert re.search(rf"^def {name}\(", pathlib.Path(runs.ROOT, file).read_text(), re.M), test
    assert name != "test_a_job_ends" or job in COMMANDS
