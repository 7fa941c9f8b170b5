"""A LLaMA of somebody else's as a run of pre-training of no update.

`configs/import_llama.py` makes one of a folder, and `shipped` of the model in the package.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, checkpoint, step as step_lib, tree
from totojax.config import model as model_config, pretrain as pretrain_config
from totojax.config.exchange import Importing
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.rundir import console, directory, files
from totojax.storage import arrays, outside, reading
from totojax.tasks import pretrain as task_lib
from totojax.tokenizers import weights
from totojax.tokenizers.released import official
from totojax.trained import llama_files

ROWS = 16  # sequences of an update, or of a batch of validation


@dataclasses.dataclass(frozen=True)
class Imported:
  """What a run is made of: its config, the fingerprint of its tokenizer, its parameters."""

  config: Pretrain
  tokenizer: str
  params: Any

  @property
  def count(self) -> int:
    """Numbers in its parameters."""
    return sum(x.size for x in jax.tree.leaves(self.params))


def read(settings: Importing, seed: int) -> Imported:
  """The model in the folder `settings.path`; `seed` is of rows that are drawn anew.

  Raises:
    ConfigError: it is none, or does not say what its tokens are.
    Damaged: a file of it is.
  """
  with contextlib.ExitStack() as stack:
    foreign, own = _opened(stack, settings.path)
    tokenizer, spec = _tokens(settings, own, foreign.where)
    made = Pretrain(
      seed=seed,
      sequence=spec,
      model=outside.fields(model_config.Llama, foreign.where, foreign.keys),
      # As `recipes.own` has it: small ones are for a CPU, where bfloat16 is no faster.
      compute=model_config.Compute(dtype="float32" if _is_small(foreign) else "bfloat16"),
      train=pretrain_config.Amount(batch_tokens=ROWS * spec.context),
    )
    neighbours = {"auto": foreign.neighbours}.get(settings.layout, settings.layout == "neighbours")
    with console.tracking("reading", unit="layers", total=foreign.keys["depth"]) as bar:
      blocks = llama_files.blocks(foreign, neighbours=neighbours, progress=bar.advance)
    params = _parameters(settings, seed, foreign, blocks, assembly.model(made))
  return Imported(made, tokenizer, params)


def write(found: Imported, run: epath.Path, **facts: Any) -> None:
  """Makes `run` a run directory of it, with `facts` in its manifest; once."""
  directory.begin(run, found.config, tokenizer=found.tokenizer, **facts)
  checkpoints = checkpoint.Checkpoints(run / "checkpoints", found.config.checkpoint)
  if checkpoints.latest() is None:
    start = jnp.zeros((), jnp.int32)
    checkpoints.save(0, step_lib.TrainState(start, found.params, {}, {}, {}), {})
  checkpoints.close()
  directory.mark_done(run, 0.0)


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
  settings: Importing, own: Mapping[str, Any], where: str
) -> tuple[str, model_config.SequenceSpec]:
  """(fingerprint of the tokenizer, sequence) of what is imported."""
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
  settings: Importing,
  seed: int,
  foreign: llama_files.Foreign,
  blocks: Mapping[str, Any],
  model: Any,
) -> Any:
  """All parameters, compared with what the model has."""
  spec = model.spec
  names = {"embedding": llama_files.EMBEDDING}
  if not model.config.tied:
    names["head"] = llama_files.HEAD
  params = {"blocks": blocks, "norm": {"scale": llama_files.norm(foreign)}}
  draw = np.random.default_rng(seed)
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
