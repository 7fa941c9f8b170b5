"""Videos that a model goes on with while it is trained; and what is said where none can be."""

import json

from etils import epath
import numpy as np
from PIL import Image
import pytest
import runs
import stores
import temporal
import test_generate_job
import test_train

import totojax
from totojax import jobs
from totojax.config.generate import Sampling, Window
from totojax.config.model import EACH_FRAME
from totojax.data.store import store as store_lib
from totojax.report import reading, video_sections
from totojax.rundir import pictures
from totojax.tokenizers import weights
from totojax.trained import continued


def config(train, val, **keys):
  c = runs.load(runs.ROOT / "configs" / "smoke.py")
  c.data.train.moving.path, c.data.validation.moving = str(train), str(val)
  c.samples.clips = 3
  for key, value in keys.items():
    section, _, name = key.partition("__")
    c[section][name] = value
  return c


SHORT = dict(train__total_tokens=8 * 128.0, every__checkpoint_steps=8)  # to the evaluation


def go(c, folder):
  return jobs.run(jobs.typed(c.to_dict(), folder), epath.Path(folder), lambda step: False)


def sampled(folder):
  return {
    row["step"]: {key: value for key, value in row.items() if key.startswith("samples/")}
    for row in runs.metrics(folder)
    if row["kind"] == "eval"
  }


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory):
  """A run, and codes of what it holds out; its tokenizer is named by the job of its stores."""
  root = tmp_path_factory.mktemp("samples")
  file = root / "mine.py"
  path = str(runs.ROOT / "tests")
  file.write_text(test_generate_job.FILE.format(path, EACH_FRAME))
  (root / "config.json").write_text(json.dumps({"tokenizer": str(file)}))
  tokenizer = weights.load(str(file))
  for name, first in ("train", 0), ("val", 16):
    clips = temporal.clips(24, 4)[first : first + 16]
    temporal.store(root / name, temporal.brightness(EACH_FRAME), clips, prefix=name)
  spec = dict(frames=4, grid=temporal.GRID, vocab=tokenizer.vocab, context=4 * temporal.GRID**2)
  c = config(root / "train", root / "val")
  c.sequence.update(spec)
  c.train.batch_tokens = 8 * spec["context"]
  c.train.total_tokens = 16.0 * c.train.batch_tokens
  assert go(c, root / "run")
  return root / "run"


def test_they_are_what_the_trained_model_makes_of_the_same_clips(trained):
  """The last of them, from the checkpoint; those before it are others."""
  rows = sampled(trained)
  assert list(rows) == [0, 8, 16]
  model = totojax.load(trained)
  path = json.loads((trained / "config.json").read_text())["data"]["validation"]["moving"]
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  records = [0, (len(store) - 1) // 2, len(store) - 1]
  true_RNP = store.read(records)["codes"].reshape(3, 4, -1).astype(np.int32)
  decoder = model.decoder(frames=4, sampling=Sampling(seed=0), window=Window())
  made_RNP = continued.samples(decoder, true_RNP[:, :2], further=2, samples=1, rows=3)[:, 0]
  assert rows[16]["samples/accuracy"] == (made_RNP[:, 2:] == true_RNP[:, 2:]).mean()
  assert rows[16]["samples/change"] == (made_RNP[:, 2:] != made_RNP[:, 1:-1]).mean()
  assert rows[16]["samples/true_change"] == (true_RNP[:, 2:] != true_RNP[:, 1:-1]).mean()
  assert rows[0] != rows[16]


def test_each_evaluation_leaves_a_video_and_a_strip(trained):
  names = sorted(path.name for path in (trained / "samples").iterdir())
  steps = ("000000000", "000000008", "000000016")
  assert names == [f"{step}.{suffix}" for step in steps for suffix in ("png", "webp")]
  videos = [Image.open(trained / "samples" / f"{step}.webp") for step in steps]
  assert [video.n_frames for video in videos] == [4, 4, 4]
  frames = [np.asarray(video.convert("RGB")) for video in videos]
  # Of what was given.
  assert np.array_equal(frames[0], frames[2])
  for video in videos:
    video.seek(3)
  assert not np.array_equal(*(np.asarray(video.convert("RGB")) for video in (videos[0], videos[2])))


def test_tensorboard_has_the_strips_and_the_settings(trained):
  from tensorboardX.proto import plugin_hparams_pb2

  (path,) = (trained / "tensorboard").iterdir()
  values = [(event.step, v) for event in test_train.events(path) for v in event.summary.value]
  strips = {step: value.image for step, value in values if value.tag == pictures.TAG}
  assert list(strips) == [0, 8, 16]
  for step, image in strips.items():
    file = trained / "samples" / f"{step:09d}.png"
    assert image.encoded_image_string == file.read_bytes()
    with Image.open(file) as opened:
      assert opened.size == (image.width, image.height)
  (begun,) = [v for _, v in values if v.tag == "_hparams_/session_start_info"]
  content = plugin_hparams_pb2.HParamsPluginData.FromString(begun.metadata.plugin_data.content)
  settings = content.session_start_info.hparams
  assert settings["samples.clips"].number_value == 3
  assert settings["optim.name"].string_value == "adamw"


def test_the_page_of_a_chain_shows_the_first_a_middle_and_the_last(trained, tmp_path):
  (tmp_path / "pretrain").symlink_to(trained)
  html = video_sections.while_trained(reading.RunFolder(tmp_path))
  assert html.count("data:image/webp") == 3
  assert [html.find(f"After {step} updates") > 0 for step in (0, 8, 16)] == [True] * 3
  assert video_sections.while_trained(reading.RunFolder(trained)) == ""


def test_without_the_tokenizer_they_are_measured_alone(tmp_path, capsys):
  train, val = stores.pair(tmp_path)
  assert go(config(train, val, **SHORT), tmp_path / "run")
  assert "samples are not drawn, but measured" in capsys.readouterr().out
  assert set(sampled(tmp_path / "run")[8]) == {
    "samples/accuracy",
    "samples/change",
    "samples/true_change",
  }
  assert not (tmp_path / "run" / "samples").exists()


def test_without_held_out_videos_a_line_says_so(tmp_path, capsys):
  train, _ = stores.pair(tmp_path)
  assert go(config(train, "", data__validation={}, **SHORT), tmp_path / "run")
  assert "data.validation names no store of videos" in capsys.readouterr().out
  assert not sampled(tmp_path / "run")
