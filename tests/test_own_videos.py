"""configs/clips.py on a few videos, shrunk: from files to a page that one can act on."""

import json

import pages
import pytest
import runs
from test_pixels import write_video

from totojax import jobs
from totojax.rundir import directory

SMALL = {
  "clips.clip": dict(frames=4, size_px=16, crops=4),
  "rendered.scene": dict(frames=4, size_px=16),
  "rendered.amount": dict(train=8, val=2),
  "pretrain.sequence": dict(grid=2, frames=4, context=16),
  "pretrain.model": dict(width=32, depth=2, heads=2, mlp_dim=64),
  "pretrain.train": dict(batch_tokens=128, total_tokens=8.0 * 128),
  "pretrain.optim": dict(warmup_steps=1),
  "pretrain.every": dict(log_steps=1, eval_steps=2, checkpoint_steps=8),
}


def clips(root):
  flag = f"--config.data.root={root}"
  config = runs.load(runs.ROOT / "configs" / "clips.py", flag)
  for path, keys in SMALL.items():
    section = config.stages
    for name in path.split("."):
      section = section[name]
    section.update(keys)
  return config.to_dict()


TWO = pytest.mark.exhaustive("test_diagnosis.py::test_one_video_alone_is_told")


@pytest.mark.slow  # 40 s, of which compiling is the most
@pytest.mark.parametrize("videos", [1, pytest.param(2, marks=TWO)])
def test_a_few_videos_end_in_a_page_that_says_what_to_do(tmp_path, videos):
  folder, chain = tmp_path / "videos", tmp_path / "run"
  folder.mkdir()
  for i in range(videos):
    write_video(folder / f"{i}.mp4", frames=90, seed=i, hold=15)
  assert jobs.run(directory.typed(clips(folder)), chain, lambda _: False)
  page = pages.Page((chain / "report" / "report.html").read_text())
  metrics = json.loads((chain / "validate" / "metrics.json").read_text())
  # A colour stays for a while: nobody copies that well after eight updates.
  assert metrics["clips/later_loss"] > metrics["clips/copy/later_loss"]
  assert "What to do next" in page.text and "Not shown" not in page.text
  assert "nan" not in page.text.lower().replace("nanosecond", "")
  assert ("There is one video" in page.text) == (videos == 1)
  # The checkpoint that is validated is the lowest of the log.
  rows = [json.loads(x) for x in (chain / "pretrain" / "metrics.jsonl").read_text().splitlines()]
  after = {r["step"]: r["clips/loss"] for r in rows if r["kind"] == "eval" and r["step"]}
  assert metrics["step"] == min(after, key=after.__getitem__)
