"""A chain of run directories with made-up numbers, as the stages write them."""

import json

import numpy as np

from totojax.report import frame, kinds, reading

FRAMES, GRID = 8, 4
MANIFEST = {
  "started": "2025-01-31T13:05:09+00:00",
  "command": "totojax --config='my <run>.py'",
  "git": {"commit": "0123456789abcdef" * 2 + "01234567", "clean": False},
  "versions": {"totojax": "0.0.7", "jax": "0.10.3"},
  "python": "3.11.8",
  "machine": {"system": "Linux x86_64", "cpu": "Abacus 9", "cores": 12},
  "devices": {"kind": "cpu", "count": 3},
  "processes": 1,
  "starts": [
    {"started": "2025-01-31T14:06:09+00:00", "command": "a"},
    {"started": "2025-02-01T15:07:09+00:00", "command": "totojax --config=b.py"},
  ],
}


def _json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))


def page(chain):
  """The path of the page of a chain, as `run = "report"` writes it."""
  return frame.write(chain / "report", kinds.of(reading.RunFolder(chain)), run=chain)


def write(root):
  """Writes every file that the report reads; numbers are easy to recognise."""
  rng = np.random.default_rng(0)
  stages = ["clips", "tokenizer", "shards", "pretrain", "validate", "report"]
  _json(root / "config.json", {"run": "chain", "order": stages, "stages": {}})
  _json(root / "manifest.json", MANIFEST)
  for seconds, stage in enumerate(stages[:-1], 11):
    _json(root / stage / "config.json", {"run": stage, "seed": 0})
    _json(root / stage / "done.json", {"seconds": float(seconds**2)})
  for split, records in (("train", 1500), ("val", 256)):
    shards = [{"name": "0", "records": records - 100}, {"records": 100}]
    _json(root / "clips" / split / "manifest.json", {"shards": shards})
  (root / "clips" / "skipped.csv").write_text('path,reason\n"a, <b>.mp4",too short: 1.63 s\n')
  _tokens(root, rng)
  _training(root, rng)
  _validation(root, rng)
  return root


def _tokens(root, rng):
  """Shaded discs, and worse and worse copies of them."""
  y, x = np.mgrid[:32, :32]
  clean = np.zeros((8, 32, 32, 3))
  for image in clean:
    colours = rng.uniform(40, 220, (2, 3))
    inside = np.hypot(y - rng.uniform(8, 24), x - rng.uniform(8, 24)) < 8
    image[:] = np.where(inside[..., None], colours[0], colours[1] * 0.4)
  coarse = clean.reshape(8, 8, 4, 8, 4, 3).mean((2, 4))
  blocks = clean.reshape(8, 4, 8, 4, 8, 3).mean((2, 4))
  mean = clean.mean((1, 2), keepdims=True)
  arrays = {
    "original": clean,
    "reconstruction": coarse.repeat(4, 1).repeat(4, 2),
    "kmeans": blocks.repeat(8, 1).repeat(8, 2),
    "mean_colour": np.broadcast_to(mean, clean.shape),
  }
  np.savez(
    root / "shards" / "samples.npz",
    **{k: v.clip(0, 255).astype(np.uint8) for k, v in arrays.items()},
  )
  ngrams = [
    {
      "n": n,
      "total": 8000 - n,
      "distinct": 200 * n,
      "space_coverage": 0.7**n,
      "total_coverage": 0.025 * n,
      "entropy_nats": 4.0 + n,
      "perplexity": float(np.exp(4.0 + n)),
      "top_percent_mass": 0.2,
      "rank": [1, 10, 100, 200 * n],
      "count": [900, 200, 20, 1],
    }
    for n in (1, 2, 3)
  ]
  _json(
    root / "shards" / "tokens.json",
    {
      "vocab": 256,
      "images": 500,
      "adjacency": "raster",
      "codes_used": 187,
      "entropy_nats": 5.0,
      "perplexity": 148.4,
      "ngrams": ngrams,
      "psnr_db": {"reconstruction": 24.64, "kmeans": 20.11, "mean_colour": 15.2},
    },
  )


def _training(root, rng):
  _json(
    root / "pretrain" / "config.json",
    {
      "run": "pretrain",
      "train": {"batch_tokens": 2048, "total_tokens": 614400.0},
      "model": {"width": 128, "evil": "<script>alert(1)</script>"},
    },
  )
  _json(
    root / "pretrain" / "manifest.json",
    {
      "versions": {"jax": "0.10.2", "totojax": "0.1.0"},
      "python": "3.11.7",
      "devices": {"kind": "cpu", "count": 1},
      "processes": 1,
      "parameters": 1337216,
      "flops_per_token": 9123456.0,
    },
  )
  lines = []
  for step in range(0, 301, 5):
    loss = 1.7 + 3.8 * np.exp(-step / 60)
    wall = {"time_s": step / 3, "tokens_per_s": 6543.0, "data_frac": 0.012}
    if step:
      row = {"step": step, "kind": "train", "loss": loss + rng.normal() * 0.05}
      lines.append({**row, "lr": 1e-3, "wall": wall})
    if step % 50 == 0:
      row = {"step": step, "kind": "eval", "moving/loss": loss + 0.02}
      lines.append({**row, "moving/loss_sem": 0.01, "wall": {"eval_s": 1.0}})
  path = root / "pretrain" / "metrics.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _validation(root, rng):
  _json(
    root / "validate" / "metrics.json",
    {
      "step": 300,
      "moving/loss": 1.7123,
      "moving/loss_sem": 0.0211,
      "moving/n": 256,
      "moving/later_loss": 1.5321,
      "moving/uniform/loss": 5.5452,
      "moving/unigram/loss": 5.0301,
      "moving/unigram/loss_sem": 0.02,
      "moving/unigram/later_loss": 5.0287,
      "moving/unigram/later_loss_sem": 0.02,
      "moving/copy/loss": 2.4719,
      "moving/copy/loss_sem": 0.02,
      "moving/copy/later_loss": 2.1066,
      "moving/copy/later_loss_sem": 0.02,
      "moving/copy/lam": 0.71,
      "moving/copy_per_code/loss": 2.4333,
      "moving/copy_per_code/loss_sem": 0.02,
      "moving/copy_per_code/later_loss": 2.0642,
      "moving/copy_per_code/later_loss_sem": 0.02,
    },
  )
  frame, row, col = (axis.ravel() for axis in np.mgrid[:FRAMES, :GRID, :GRID])
  mean = np.where(frame == 0, 3.46, 1.5) + 0.4 * (col == 0)
  mean = mean + rng.normal(size=mean.shape) * 0.1
  lines = [
    f"moving,{p},{frame[p]},{row[p]},{col[p]},{mean[p]:.6f},0.05,256" for p in range(len(mean))
  ]
  head = "source,position,frame,row,col,mean,sem,n"
  folder = root / "validate"
  (folder / "position_loss.csv").write_text("\n".join([head, *lines]) + "\n")
  for name, group in (("frame", frame), ("row", row)):
    lines = [f"moving,{g},{mean[group == g].mean():.6f},0.03,4096" for g in np.unique(group)]
    text = "\n".join([f"source,{name},mean,sem,n", *lines]) + "\n"
    (folder / f"{name}_loss.csv").write_text(text)
