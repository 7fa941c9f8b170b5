"""What must not change: the order of data, first updates, resolved configs.

`test_goldens.py` compares it with tests/golden. After a change that is meant:

  PYTHONPATH=. python tests/goldens.py order   # or updates, or configs

and look at what git says has changed.
"""

import hashlib
import json
import pathlib
import sys
import tempfile
from typing import Any

if __name__ == "__main__":
  import conftest  # noqa: F401  eight devices, before anything imports jax

import numpy as np
import runs
import surfaces

FOLDER = runs.ROOT / "tests" / "golden"
VOCAB, GRID, FRAMES, PIXELS = 60, 2, 4, 8
BATCH, STEPS = 10, 24

# name: kind, records, frames of a record, share. In 24 batches of 10 rows the
# images pass 18 times, the videos 12 and 14 times.
MIXTURE = {
  "short": ("video", 7, 4, 0.35),
  "images": ("image", 13, 1, 0.25),
  "long": ("video", 7, 9, 0.4),
}
# Runs of golden_mixture.py: its argument, and what the command line changes.
UPDATES = {
  "llama": ("", ()),
  "gpt2": (":gpt2", ()),
  "mamba": (":mamba", ()),
  "mup": ("", ("--config.mup.on=true", "--config.mup.base_width=16")),
  "patches": (
    "",
    (
      "--config.patches.inputs=true",
      "--config.patches.targets=true",
      f"--config.patches.side_px={PIXELS}",
    ),
  ),
}

# What follows the colon of a config that has no table of rows.
ARGUMENTS = {
  "configs/bench.py": ("gpu",),
  "configs/probe_encoders.py": ("FOLDER/one,two=FOLDER/2",),
  "configs/probe_vjepa2.py": ("k400", "diving48", "imagenet", "ssv2,one=FOLDER/1"),
  "configs/knn.py": ("one=FOLDER/1",),
  "configs/compare.py": ("one=dinov2:FOLDER,two=FOLDER/2",),
  "configs/mup_sweep.py": ("muon",),
  "configs/pretrain.py": ("1b", "gpt2-tiny"),
  "configs/scale.py": ("1b",),
  "configs/scaling.py": ("runs",),
  "configs/smoke.py": ("gpt2", "mamba"),
  "configs/tokens_report.py": ("one=FOLDER/1,FOLDER/two",),
}


def store(path, name: str, *, field: str, records: int | None = None) -> str:
  """A source of `MIXTURE`, of random codes or of pixels."""
  kind, count, frames, _ = MIXTURE[name]
  count, side = records or count, GRID * PIXELS
  rng = np.random.default_rng([count, frames])
  if field == "codes":
    arrays = rng.integers(0, VOCAB, (count, frames * GRID**2), np.uint16)
  else:
    shape = (count, frames, side, side, 3)
    arrays = rng.integers(0, 256, shape, np.uint8)
  return surfaces.write(
    path, field=field, kind=kind, frames=frames, arrays=arrays, size_px=side, vocab=VOCAB, grid=GRID
  )


def mixture(folder: pathlib.Path, field: str) -> dict[str, str]:
  """Name -> path of the sources of `MIXTURE`, in its order."""
  return {name: store(folder / field / name, name, field=field) for name in MIXTURE}


def order(
  paths: dict[str, str], *, field: str, hosts: int = 1, seed: int = 0, steps: int = STEPS
) -> list[str]:
  """A hash of the global batch of each step."""

  def batch(step):
    parts = [
      surfaces.host_batch(
        paths,
        {name: share for name, (*_, share) in MIXTURE.items()},
        step,
        field=field,
        seed=seed,
        batch=BATCH,
        host=host,
        hosts=hosts,
        vocab=VOCAB,
        grid=GRID,
        frames=FRAMES,
        factor=PIXELS,
      )
      for host in range(hosts)
    ]
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

  return [digest(batch(step)) for step in range(steps)]


def digest(arrays: dict[str, np.ndarray]) -> str:
  """64 bits of a hash of names, types, shapes and bytes."""
  found = hashlib.sha256()
  for name in sorted(arrays):
    array = arrays[name]
    found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    found.update(np.ascontiguousarray(array).tobytes())
  return found.hexdigest()[:16]


def update(folder: pathlib.Path, name: str, *more: str) -> dict[str, Any]:
  """What three updates of one of `UPDATES` leave behind.

  Returns:
    {"metrics": rows of metrics.jsonl, "arrays": name -> type and shape of what
    a checkpoint holds, "params": name -> mean, deviation and the first three
    elements}.
  """
  argument, words = UPDATES[name]
  field = "frames" if name == "patches" else "codes"
  paths = {
    "data.train.videos.path": ("long", 23),
    "data.train.images.path": ("images", 37),
    "data.validation.moving": ("short", 5),
  }
  data = [
    f"--config.{key}={store(folder / key, kind, field=field, records=count)}"
    for key, (kind, count) in paths.items()
  ]
  workdir = folder / "run"
  surfaces.do(f"tests/golden_mixture.py{argument}", workdir, *data, *words, *more)
  saved = runs.checkpoint(workdir, 3)
  return {
    "metrics": runs.metrics(workdir),
    "arrays": {k: f"{v.dtype}{list(v.shape)}" for k, v in saved.items()},
    "params": {
      k: [float(v.mean()), float(v.std()), *map(float, v.flat[:3])]
      for k, v in saved.items()
      if k.startswith("['params']")
    },
  }


def arguments() -> list[str]:
  """Every config that ships as --config names it: with each row of a table."""
  found = []
  for path in sorted((runs.ROOT / "configs").rglob("*.py")):
    name = str(path.relative_to(runs.ROOT))
    rows = getattr(runs.module(path), "ROWS", None) or ARGUMENTS.get(name, ())
    found += [name, *(f"{name}:{row}" for row in rows)]
  return found


def flat(value: Any, name: str = "") -> dict[str, str]:
  """Key with dots -> its value as JSON, or, where that has none, as Python.

  So 1 and 1.0 differ; a section that is empty is a value.
  """
  if isinstance(value, dict) and value:
    found = {}
    for key, one in value.items():
      found |= flat(one, f"{name}.{key}" if name else key)
    return found
  try:
    return {name: json.dumps(value, allow_nan=False)}
  except (TypeError, ValueError):
    return {name: repr(value)}


def config(name: str, *words: str) -> dict[str, str]:
  """The resolved keys of a config, as `flat` gives them."""
  return flat(runs.load(runs.ROOT / name, *words).to_dict())


def _sections(keys: dict[str, str]) -> dict[str, dict[str, str]]:
  """Prefix -> what is below it: of each stage of a chain, and of the rest."""
  found = {}
  for key, value in keys.items():
    words = key.split(".")
    stage = words[0] == "stages" and words[1]
    prefix = f"stages.{words[1]}." if stage else ""
    found.setdefault(prefix, {})[key.removeprefix(prefix)] = value
  return found


def packed(configs: dict[str, dict[str, str]]) -> dict[str, Any]:
  """Small, and with one line for each key that git can show a change of.

  Returns:
    {"whole": kind of run -> the lines "key = value" of the first config of it,
    "others": config -> {section of it: the lines that differ from those, and
    "-key" for what is not there}}.
  """
  whole, others = {}, {}
  for name, keys in configs.items():
    others[name] = {}
    for prefix, section in _sections(keys).items():
      first = whole.setdefault(json.loads(section["run"]), section)
      lines = [f"{k} = {v}" for k, v in section.items() if k == "run" or first.get(k) != v]
      lines += [f"-{k}" for k in first if k not in section]
      others[name][prefix] = lines
  lines = {run: [f"{k} = {v}" for k, v in section.items()] for run, section in whole.items()}
  return {"whole": lines, "others": others}


def unpacked(golden: dict[str, Any]) -> dict[str, dict[str, str]]:
  """The reverse of `packed`."""

  def read(lines):
    return dict(line.split(" = ", 1) for line in lines if line[0] != "-")

  whole = {run: read(lines) for run, lines in golden["whole"].items()}
  found = {}
  for name, sections in golden["others"].items():
    found[name] = {}
    for prefix, lines in sections.items():
      own = read(lines)
      keys = {**whole[json.loads(own["run"])], **own}
      for line in lines:
        if line[0] == "-":
          del keys[line[1:]]
      found[name] |= {prefix + key: value for key, value in keys.items()}
  return found


def read(name: str) -> Any:
  return json.loads((FOLDER / f"{name}.json").read_text())


def make(name: str) -> Any:
  """A golden, made anew: "order", "updates" or "configs"."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    match name:
      case "order":
        return {field: order(mixture(folder, field), field=field) for field in ("codes", "frames")}
      case "updates":
        return {kind: update(folder / kind, kind) for kind in UPDATES}
      case "configs":
        return packed({name: config(name) for name in arguments()})
      case _:
        raise ValueError(f"{name!r} is no golden; order, updates, configs")


if __name__ == "__main__":
  for word in sys.argv[1:]:
    text = json.dumps(make(word), indent=1)
    (FOLDER / f"{word}.json").write_text(text + "\n")
