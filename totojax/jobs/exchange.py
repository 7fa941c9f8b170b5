"""`run = "export"` and `run = "import"`: models for other people's programs, and theirs.

An export is a folder that transformers' `AutoModelForCausalLM` and vLLM read; an
import leaves a run of pre-training, `model`, of no update.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors.numpy

import totojax
from totojax import assembly, checkpoint, jobs, sequence, sharding, step as step_lib, tree
from totojax.config import model as model_config, pretrain as pretrain_config, schema
from totojax.config.exchange import Export, Import
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.models import llama
from totojax.rundir import console, directory, files, metrics
from totojax.storage import arrays, outside, reading
from totojax.tasks import pretrain as task_lib
from totojax.tokenizers import weights
from totojax.tokenizers.released import official
from totojax.trained import backbone, llama_files

FILE_BYTES = 2 * 2**30  # of a file of tensors, at most
ROWS = 16  # sequences of an update, or of a batch of validation, of what is imported
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
  with contextlib.ExitStack() as stack:
    foreign, own = _opened(stack, settings.path)
    tokenizer, spec = _tokens(config, own, foreign.where)
    made = Pretrain(
      seed=config.seed,
      sequence=spec,
      model=outside.fields(model_config.Llama, foreign.where, foreign.keys),
      # As `recipes.own` has it: small ones are for a CPU, where bfloat16 is no faster.
      compute=model_config.Compute(dtype="float32" if _is_small(foreign) else "bfloat16"),
      train=pretrain_config.Amount(batch_tokens=ROWS * spec.context),
    )
    model = assembly.model(made)
    neighbours = {"auto": foreign.neighbours}.get(settings.layout, settings.layout == "neighbours")
    with console.tracking("reading", unit="layers", total=foreign.keys["depth"]) as bar:
      blocks = llama_files.blocks(foreign, neighbours=neighbours, progress=bar.advance)
    params = _parameters(config, foreign, blocks, model)
  run = workdir / "model"
  directory.begin(workdir, config, tokenizer=tokenizer)
  directory.begin(
    run, made, tokenizer=tokenizer, imported={"path": settings.path, "layout": settings.layout}
  )
  checkpoints = checkpoint.Checkpoints(run / "checkpoints", made.checkpoint)
  if checkpoints.latest() is None:
    start = jnp.zeros((), jnp.int32)
    checkpoints.save(0, step_lib.TrainState(start, params, {}, {}, {}), {})
  checkpoints.close()
  directory.mark_done(run, 0.0)
  count = sum(x.size for x in jax.tree.leaves(params))
  console.say(f"{run}: {count:,} parameters of {settings.path}, for tokens of {tokenizer}")
  return True


def _is_small(foreign: llama_files.Foreign) -> bool:
  width, depth = foreign.keys["width"], foreign.keys["depth"]
  return 12 * width**2 * depth <= 5e6


def _opened(
  stack: contextlib.ExitStack, path: str
) -> tuple[llama_files.Foreign, Mapping[str, Any]]:
  """The model in a folder, and what an export of ours says of its tokens."""
  folder = epath.Path(path)
  kinds = {"config.json": llama_files.of_hugging_face, "params.json": llama_files.of_meta}
  name = next((name for name in kinds if reading.exists(os.fspath(folder / name))), None)
  if name is None:
    raise ConfigError(
      f"importing.path {path} has neither config.json (of transformers) nor params.json (Meta's)"
    )
  found = sorted(os.fspath(child) for child in files.children(folder))
  tensors = [file for file in found if file.endswith(".safetensors")]
  tensors = tensors or [file for file in found if file.endswith(".pth")]
  if not tensors:
    raise ConfigError(f"importing.path {path} has no file of tensors (.safetensors, .pth)")
  if tensors[0].endswith(".pth") and len(tensors) > 1:
    raise ConfigError(
      f"importing.path {path} has {len(tensors)} .pth files, each a part of every matrix; models of"
      " one part are read. Convert it with transformers' convert_llama_weights_to_hf first"
    )
  stored: dict[str, Any] = {}
  for file in tensors:
    part = (
      arrays.stored(file)
      if file.endswith(".safetensors")
      else stack.enter_context(official.opened(pathlib.Path(file)))
    )
    if twice := sorted(stored.keys() & part.keys()):
      raise ValueError(f"{file} has {twice[0]!r:.80}, as another file of its folder")
    stored |= part
  where = os.fspath(folder / name)
  values = outside.read_json(where)
  if not isinstance(values, Mapping):
    raise outside.Damaged(where, "it is no object")
  own = values.get("totojax", {})
  return kinds[name](where, values, stored), own if isinstance(own, Mapping) else {}


def _tokens(
  config: Import, own: Mapping[str, Any], where: str
) -> tuple[str, model_config.SequenceSpec]:
  """(fingerprint of the tokenizer, sequence) of what is imported."""
  settings = config.importing
  known = own.get("sequence") if isinstance(own.get("tokenizer"), str) else None
  if not settings.tokenizer and not isinstance(known, Mapping):
    raise ConfigError(
      f"config key importing.tokenizer is empty, and {where} does not say which it is, as that of"
      " an export of ours does; name the tokenizer whose codes the model has, or is to learn"
      " (shipped, shipped-f8, a file)"
    )
  spec, fingerprint = model_config.SequenceSpec(), ""
  if isinstance(known, Mapping):
    spec = outside.fields(model_config.SequenceSpec, where, known)
    fingerprint = own["tokenizer"]
  if settings.tokenizer:
    tokenizer = weights.load(settings.tokenizer)
    fingerprint, latents = tokenizer.fingerprint, tokenizer.latents
    spec = dataclasses.replace(
      spec,
      vocab=tokenizer.vocab,
      codes=latents.codes,
      frame_factor=latents.frame_factor,
      first_frames=latents.first_frames,
    )
  spec = dataclasses.replace(
    spec, grid=settings.grid or spec.grid, frames=settings.frames or spec.frames
  )
  return fingerprint, dataclasses.replace(spec, context=spec.visual_tokens)


def _parameters(
  config: Import, foreign: llama_files.Foreign, blocks: Mapping[str, Any], model: Any
) -> Any:
  """All parameters, compared with what the model has."""
  settings, spec = config.importing, model.spec
  names = {"embedding": llama_files.EMBEDDING}
  if not model.config.tied:
    names["head"] = llama_files.HEAD
  params = {"blocks": blocks, "norm": {"scale": llama_files.norm(foreign)}}
  draw = np.random.default_rng(config.seed)
  for ours, theirs in names.items():
    if settings.codes_at < 0:
      shape = (spec.padded_vocab, model.config.width)
      params[ours] = (draw.standard_normal(shape) * model.config.init_std).astype(np.float32)
    else:
      params[ours] = llama_files.rows(
        foreign,
        theirs,
        codes_at=settings.codes_at,
        specials=settings.specials,
        vocab=spec.vocab,
        padded=spec.padded_vocab,
      )
  task = task_lib.Pretrain(model, None)
  shapes = jax.eval_shape(task.init, jax.random.key(0)).params
  lines = tree.differences(params, shapes)
  assert not lines, lines
  return jax.tree.map(jnp.asarray, params)
