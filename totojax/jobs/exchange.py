"""`run = "export"` and `run = "import"`: models for other people's programs, and theirs.

An export is a folder that transformers' `AutoModelForCausalLM` and vLLM read; an
import leaves a run of pre-training, `model`, of no update.
"""

from collections.abc import Mapping
import os
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import ml_dtypes
import numpy as np
import safetensors.numpy

import totojax
from totojax import jobs, sequence, sharding
from totojax.config import schema
from totojax.config.exchange import Export, Import
from totojax.config.schema import ConfigError
from totojax.models import llama
from totojax.rundir import console, directory, files, metrics
from totojax.storage import arrays
from totojax.trained import backbone, imported, llama_files

FILE_BYTES = 2 * 2**30  # of a file of tensors, at most
_SPECIALS = ("padding", "video start", "end", "image start")


def export(config: Export, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes tensors, settings and a card of a run's parameters."""
  source = backbone.find(config.model_run, what="an exported run")
  for_others = config.export.what == "transformers"
  if for_others:
    llama_files.check(source.model.config, os.fspath(source.path))
  layout = sharding.layout(source.config.mesh)
  with console.phase(f"reading the parameters of {source.path}"):
    params = backbone.read(source, source.model, layout)
  directory.begin(workdir, config, tokenizer=source.tokenizer, step=source.step)
  if for_others:
    shape = llama_files.check(source.model.config, os.fspath(source.path))
    found = dict(llama_files.tensors(shape, params, scales=source.model.scales))
    for name, value in _settings(source, config.export.dtype).items():
      files.write_json(workdir / name, value)
  else:
    found = {
      name: np.asarray(jax.device_get(x), np.float32)
      for name, x in traverse_util.flatten_dict(params, sep=".").items()
      if config.export.head or name != "head"
    }
    files.write_json(workdir / "model.json", schema.to_dict(source.config.model))
  size = _write(workdir, found, config.export.dtype)
  files.write_text(workdir / "README.md", _card(source, found, config))
  console.say(f"{workdir}: {len(found)} tensors, {size / 1e6:,.1f} MB, of {source.path}")
  return True


def _write(workdir: epath.Path, found: Mapping[str, np.ndarray], dtype: str) -> int:
  """model.safetensors, or several of these and their index; returns their bytes."""
  wide = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
  sizes = {name: x.size * wide.itemsize for name, x in found.items()}
  groups = llama_files.parts(sizes, FILE_BYTES)
  weight_map = {}
  with console.tracking("writing", unit="tensors", total=len(found)) as bar:
    for number, names in enumerate(groups, 1):
      several = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
      part = {name: found[name].astype(wide) for name in names}
      # transformers want to be told for whom the tensors are.
      about = {"format": "pt", arrays.DIGEST: arrays.digest(part)}
      name = f"model{several}.safetensors"
      files.write_bytes(workdir / name, safetensors.numpy.save(part, about))
      weight_map |= dict.fromkeys(names, name)
      bar.advance(len(names))
  if len(groups) > 1:
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    files.write_json(workdir / "model.safetensors.index.json", index)
  return sum(sizes.values())


def _settings(source: backbone.Trained, dtype: str) -> dict[str, dict[str, Any]]:
  """Name of file -> what transformers read there."""
  spec, shape = source.model.spec, llama.required(source.model.config)
  tied = llama_files.is_tied(shape, source.model.scales)
  end = sequence.END if spec.train_end else None
  ids = {"bos_token_id": sequence.VIDEO_START, "eos_token_id": end, "pad_token_id": sequence.PAD}
  first = len(_SPECIALS)
  never = [*range(first), *range(first + spec.vocab, spec.padded_vocab)]
  return {
    "config.json": llama_files.settings(
      shape, rows=spec.padded_vocab, context=spec.context, tied=tied
    )
    | ids
    | {
      "dtype": dtype,
      "torch_dtype": dtype,  # before transformers 5
      "totojax": {
        "version": totojax.__version__,
        "tokenizer": source.tokenizer,
        "step": source.step,
        "sequence": schema.to_dict(spec),
      },
    },
    "generation_config.json": ids
    | {"do_sample": True, "suppress_tokens": [token for token in never if token != end]},
  }


def _card(source: backbone.Trained, found: Mapping[str, np.ndarray], config: Export) -> str:
  """README.md of an export: what was run, and how tokens are meant."""
  spec, manifest = source.model.spec, files.read_json(source.path / "manifest.json")
  total = sum(x.size for x in found.values())
  run = source.config
  use = ""
  if config.export.what == "transformers":
    use = (
      "\n```python\nfrom transformers import AutoModelForCausalLM\n\n"
      'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")\n```\n'
    )
  rows = {
    "parameters": f"{total:,}, {config.export.dtype}",
    "architecture": type(source.model.config).kind,
    "run": f"step {source.step:,} of `{manifest.get('command', '')}`",
    "trained on": ", ".join(run.data.train) or "nothing that it names",
    "tokenizer": f"fingerprint `{source.tokenizer}`",
    "code c": f"token c + {len(_SPECIALS)} (codes 0 to {spec.vocab - 1})",
    "tokens 0 to 3": ", ".join(_SPECIALS),
    "a sequence": f"start, then {spec.frames} frames of {spec.frame_tokens} tokens in raster order",
    "context": f"{spec.context} tokens",
    "seed": run.seed,
    **_scores(source),
    "made by": f"totojax {totojax.__version__}",
  }
  table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
  return (
    f"---\nlibrary_name: transformers\ntags: [totojax, video, autoregressive]\n---\n\n"
    f"# A model of visual tokens\n\nIt continues tokens of images and videos, and knows no text"
    f" (arXiv 2501.05453).\n{use}\n| | |\n|---|---|\n{table}"
  )


def _scores(source: backbone.Trained) -> dict[str, str]:
  """What was held out of the run, and its loss at the exported step; {}: nothing was."""
  path, suffix = source.path / "metrics.jsonl", "/loss"
  rows = metrics.read(path) if files.exists(path) else []
  found = [row for row in rows if row["kind"] == "eval" and row["step"] == source.step]
  scores = {}
  for key, loss in found[-1].items() if found else ():
    if key.endswith(suffix) and loss is not None:
      sem, n = (found[-1].get(key.removesuffix(suffix) + end) for end in ("/loss_sem", "/n"))
      spread = "" if sem is None else f", standard error {sem:.4f}"
      of = "" if n is None else f", {int(n):,} sequences"
      scores[f"held out, {key.removesuffix(suffix)}"] = f"{loss:.4f} nats per token{spread}{of}"
  return scores


def import_(config: Import, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Makes `model`, a run of pre-training whose first parameters are those of a folder."""
  settings = config.importing
  if not settings.path:
    raise ConfigError(
      "config key importing.path is empty; set it to a folder with config.json (of transformers) or"
      " params.json (Meta's) and its tensors"
    )
  found = imported.read(settings, config.seed)
  directory.begin(workdir, config, tokenizer=found.tokenizer)
  run = workdir / "model"
  imported.write(found, run, imported={"path": settings.path, "layout": settings.layout})
  console.say(
    f"{run}: {found.count:,} parameters of {settings.path}, for tokens of {found.tokenizer}"
  )
  return True
