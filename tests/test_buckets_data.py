"""Jobs that make data make it in a bucket, byte for byte as in a folder."""

import itertools

from etils import epath
import little_videos
import pytest
import runs

from totojax import jobs
from totojax.config import pixel_recipes, recipes, roots
from totojax.rundir import directory
from totojax.storage import objects

# Of one run: when, where and how fast; and who writes there now.
OWN = {"manifest.json", "config.json", ".lease", ".lock", "done.json"}


def never(_):
  return False


def once(call: int):
  """Asks to stop at its `call`-th call, and never again."""
  calls = itertools.count(1)
  return lambda _: next(calls) == call


def made(workdir) -> dict[str, bytes]:
  names = (name for name in objects.keys(workdir) if name not in OWN)
  return {name: objects.read(f"{workdir}/{name}") for name in names}


def configs(videos, workdir):
  """(name of its folder, config) of jobs that make data, one of another's."""
  render = pixel_recipes.render(train=6, val=2)
  render.scene.frames = 4
  render.amount.records_per_shard = 4
  encode = pixel_recipes.shards(f"{workdir}/render", "shipped")
  encode.tokenizing.update(report_frames=4, kmeans_frames=4, kmeans_patches=100)
  decode = pixel_recipes.decode(videos)
  decode.clip.update(frames=4, size_px=16)
  decode.decoding.update(val_frac=0.5, records_per_shard=1)
  tokenize = recipes.tokenize()
  tokenize.source.update(root=videos, val_frac=0.5)
  tokenize.clip.update(frames=4, stride_frames=2, size_px=32)
  tokenize.amount.update(items_per_shard=1, workers=0)
  return {"render": render, "shards": encode, "decode": decode, "tokenize": tokenize}


@pytest.fixture(scope="module", name="videos")
def _videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  for i in range(4):
    little_videos.write(folder / f"{i}.mp4", 12 + i)
  return str(folder)


def make(videos, workdir, interrupted):
  for name, config in configs(videos, workdir).items():
    config, folder = roots.read(config.to_dict()), epath.Path(f"{workdir}/{name}")
    if not jobs.run(config, folder, interrupted):
      assert jobs.run(config, folder, interrupted)
    directory.mark_done(folder, 0.0)


@pytest.fixture(scope="module", name="expected")
def _expected(videos, tmp_path_factory):
  folder = tmp_path_factory.mktemp("local")
  make(videos, folder, never)
  return {name: made(folder / name) for name in configs(videos, folder)}


@pytest.mark.slow
def test_they_make_the_same_anywhere(data_place, videos, expected):
  make(videos, data_place.url, once(3))
  for name, files in expected.items():
    assert made(data_place / name) == files and files, name


@pytest.mark.slow
def test_the_command_line_takes_s3_for_them(s3_bucket, videos):
  words = [f"--config.source.root={videos}", "--config.clip.size_px=32"]
  words += ["--config.clip.frames=4", "--config.clip.stride_frames=2"]
  words = runs.command("configs/tokenize.py", s3_bucket / "tokens", *words)
  assert f"{s3_bucket / 'tokens/all'}: 4 records" in runs.finish(runs.start(words))
  assert "done already" in runs.finish(runs.start(words))
