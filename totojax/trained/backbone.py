"""A pre-trained model as a frozen backbone: its first blocks, and its inputs.

What a backbone is asked for is in `models.taps.tap_layers`.

Shapes: B rows, T positions, N (latent) frames, P tokens of a frame, L layers
asked for, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from totojax import assembly, checkpoint, plugins, sequence, sharding, storage
from totojax.checkpoint import restoring
from totojax.config import schema
from totojax.config.model import LatentSpec
from totojax.config.pretrain import Pretrain
from totojax.config.schema import ConfigError
from totojax.data.store import manifests, store as store_lib
from totojax.models import heads, patched, taps, trunk
from totojax.rundir import directory, files
from totojax.storage import objects
from totojax.tasks import patches as patch_task, pretrain as task_lib
from totojax.tokenizers import api, patches as patches_lib, split, weights
from totojax.trained import shipped

POOLS = ("token", "frame", "clip")  # what a feature is of


@dataclasses.dataclass(frozen=True)
class Trained:
  """A run of `run = "pretrain"`, before anything of it is loaded."""

  path: epath.Path  # its run directory
  config: Pretrain  # as it was made
  model: trunk.Trunk  # as it was trained
  tokenizer: str  # fingerprint of the tokenizer that made its tokens
  step: int  # of the checkpoint that is used (`checkpoint.chosen_step`)
  digest: str  # of config, data and code of the user's: what was trained, see `check_same`

  @property
  def patches(self) -> patches_lib.PatchesConfig | None:
    """What it reads in place of tokens, if it does."""
    return self.config.patches.size if self.config.patches.inputs else None


def find(model_run: str, *, patches: bool = False, what: str = "a backbone") -> Trained:
  """The run at `model_run`.

  Args:
    model_run: its folder; "shipped": the one in the package.
    patches: whether it may be one of patches of pixels.
    what: it is wanted for, for errors.

  Raises:
    ValueError: it is none, or has no checkpoint yet.
  """
  if not model_run:
    raise ConfigError(
      'config key model_run is empty; set it to the folder of a run of run = "pretrain", or to'
      " shipped"
    )
  storage.check_run(model_run)
  path = shipped.run() if model_run == shipped.NAME else epath.Path(model_run)
  config = read_config(path, what)
  if not patches:
    assembly.check_tokens(config, what)
  step = checkpoint.chosen_step(path / "checkpoints")
  if step is None:
    raise ConfigError(f"{path} has no whole checkpoint; train first, or name another model_run")
  manifest = files.read_json(path / "manifest.json")
  if not isinstance(manifest.get("tokenizer"), str):
    advice = "; restore it, or train again"
    raise files.Damaged(path / "manifest.json", "it names no tokenizer", advice)
  return Trained(
    path=path,
    config=config,
    model=assembly.model(config),
    tokenizer=manifest["tokenizer"],
    step=step,
    digest=_digest(path, manifest),
  )


def _digest(path: epath.Path, manifest: Mapping[str, Any]) -> str:
  """Another one for a run that was made anew from other keys, data or plug-ins."""
  made = [files.read_json(path / "config.json"), manifest.get("data"), manifest.get("plugins")]
  return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]


def read_config(path: epath.PathLike, what: str) -> Pretrain:
  """What a run of pre-training was made with; `what` it is wanted for.

  Raises:
    FileNotFoundError: there is no run.
    ConfigError: it is of another job.
  """
  values = directory.read_config(path)
  if values.get("run") != "pretrain":
    of = f'of run = "{values["run"]}"' if "run" in values else "no run directory"
    raise ConfigError(f'{path} is {of}; {what} is one of run = "pretrain"')
  # Runs from before there was a key have its default.
  return schema.read(Pretrain, values, fill=True)


# What a run may have other than the one that it starts from: no parameter
# depends on it. (The grid, the frames and the context are no part of it.)
FREE = frozenset({"rope_base", "prefix_tokens", "init_std"})


def check_start(run: Trained, model: trunk.Trunk, *, tokenizer: str) -> None:
  """Raises ConfigError unless `model` can start from the parameters of a run.

  Args:
    run: where they come from.
    model: what starts from them; its grid, frames, context and base of RoPE
      may be others.
    tokenizer: fingerprint of the one whose tokens it sees.
  """
  spec = model.spec
  check_codes(run, vocab=spec.vocab, latents=spec.latents, tokenizer=tokenizer, what="the data")
  theirs, ours = run.model.config, model.config
  if type(theirs) is not type(ours):
    raise ConfigError(
      f"{run.path} is of a {type(theirs).__name__}, and this run of a"
      f" {type(ours).__name__}; start from a run of the same architecture"
    )
  for field in dataclasses.fields(ours):
    theirs_value, ours_value = (getattr(c, field.name) for c in (theirs, ours))
    if theirs_value != ours_value and field.name not in FREE:
      raise ConfigError(
        f"model.{field.name} is {ours_value}; {run.path} was trained with {theirs_value}. Set"
        f" model.{field.name} to {theirs_value}, or start from another run"
      )
  if run.model.scales != model.scales:
    raise ConfigError(
      f"mup gives {model.scales}; {run.path} was trained with"
      f" {run.model.scales}. Use that run's section mup"
    )


def check_codes(
  run: Trained, *, vocab: int, latents: LatentSpec, tokenizer: str, what: str
) -> None:
  """Raises ConfigError unless `what` has the codes of a run."""
  advice = "Use that run's tokenizer"
  if vocab != run.model.spec.vocab:
    raise ConfigError(
      f"{what} has {vocab} codes; {run.path} was trained with {run.model.spec.vocab}. {advice}"
    )
  if tokenizer != run.tokenizer:
    raise ConfigError(
      f"{what} is of tokenizer {tokenizer}; {run.path} was trained on tokens of {run.tokenizer},"
      f" and the codes mean different things. {advice}"
    )
  if latents != run.model.spec.latents:
    raise ConfigError(
      f"{what} has {latents}; {run.path} was trained with {run.model.spec.latents}. {advice}"
    )


def check_tokenizer(run: Trained, tokenizer: api.Tokenizer, path: str) -> None:
  """Raises ConfigError unless the tokenizer of a file is that of a run."""
  check_codes(
    run,
    vocab=tokenizer.vocab,
    latents=tokenizer.latents,
    tokenizer=tokenizer.fingerprint,
    what=path,
  )


def check_kind(latents: LatentSpec, kind: str, what: str) -> None:
  """Raises ConfigError where `what`, of a kind, is images and no latent frame is one."""
  if kind == "image" and not latents.takes_images:
    raise ConfigError(
      f"{what} is of images, and the tokenizer makes tokens of {latents.first_frames} frames at a"
      " time: use videos, or the model of a tokenizer of images or of a causal one"
    )


def for_clips(model: trunk.Trunk, *, frames: int) -> trunk.Trunk:
  """The model with whole clips as its inputs: `[start]` and all tokens of so
  many (latent) frames.

  Pre-training cuts the last visual token off, which is a target only.
  """
  positions = frames * model.spec.frame_tokens + 1
  multiple = model.compute.platform.lanes
  context = -(-positions // multiple) * multiple
  spec = dataclasses.replace(model.spec, frames=frames, context=context)
  return model.clone(spec=spec)


def open_tokens(
  run: Trained, path: str, name: str, *, seq: sequence.SequenceSpec | None = None
) -> store_lib.Store:
  """A store of tokens, of the tokenizer and vocabulary of the backbone.

  Args:
    run: the backbone.
    path: of the store.
    name: its config key, for errors.
    seq: the sequence, where it is not the one that the backbone was trained on.

  Raises:
    ValueError: it is of others, or its clips are too short.
  """
  if not path:
    raise ConfigError(f"config key {name} is empty; set it to a store of tokens with classes")
  spec = run.model.spec if seq is None else seq
  manifest = manifests.existing(path)
  if not manifest.vocab:
    raise ConfigError(f"{path} ({name}) holds pixels; give a store of tokens")
  try:
    store = store_lib.open_store(path, tokenizer=run.tokenizer, vocab=spec.vocab, grid=spec.grid)
  except objects.StoreError as error:
    own = (run.tokenizer, spec.vocab, spec.grid)
    same = own == (manifest.tokenizer, manifest.vocab, manifest.grid)
    if same or not manifest.complete:  # it is something else
      raise
    raise ConfigError(f"{error}. {_making(run, manifest.kind, spec.grid)}") from error
  what = f"{path} ({name})"
  check_codes(
    run, vocab=manifest.vocab, latents=manifest.latents, tokenizer=manifest.tokenizer, what=what
  )
  check_kind(manifest.latents, manifest.kind, what)
  if manifest.kind == "video" and manifest.frames < spec.frames:
    latent = "latent " if spec.latents.is_temporal else ""
    raise ConfigError(
      f"{what} has clips of {manifest.frames} {latent}frames; {run.path} was"
      f" trained on {spec.frames}. Make the store with at least that many"
    )
  return store


def _making(run: Trained, kind: str, grid: int) -> str:
  """How a store of its tokens is made, for whoever has one of others."""
  section = "image" if kind == "image" else "clip"
  file, tokenizer = _its_tokenizer(run) or ("FILE", None)
  size = f" --config.{section}.size_px={grid * tokenizer.factor}" if tokenizer else ""
  return f"For {run.path}: configs/tokenize.py with --config.tokenizer={file}{size}"


def find_tokenizer(run: Trained, path: str) -> api.Tokenizer:
  """The tokenizer that made the tokens, or patches, that a run reads.

  Args:
    run: the run.
    path: its file; "": the one that the run encodes with, that of its chain, one
      of the package, or of the job that made its stores, whichever is it.

  Raises:
    ConfigError: it is another one, or none of these.
  """
  if run.patches is not None:
    if path:
      raise ConfigError(
        f"{run.path} reads patches of pixels, and no tokens of {path}; name no tokenizer"
      )
    return patches_lib.tokenizer(run.patches)
  if path:
    tokenizer = weights.load(path)
    check_tokenizer(run, tokenizer, path)
    return tokenizer
  if found := _its_tokenizer(run):
    return found[1]
  raise ConfigError(
    f"{run.path} was trained on tokens of tokenizer {run.tokenizer}, which is"
    f" none of those in the package and not at {_beside(run)}; name its file"
    ' (tokenizer="FILE.safetensors"; of split codes "FILE.safetensors:split=64,4096")'
  )


def _its_tokenizer(run: Trained) -> tuple[str, api.Tokenizer] | None:
  """The first of `_named` that made the tokens of a run, with the name of its file."""
  for file in _named(run):
    if (
      split.reference(file)[0] in weights.PACKAGED
      or plugins.is_reference(file)
      or files.exists(split.reference(file)[0])
    ):
      tokenizer = weights.load(file)
      if tokenizer.fingerprint == run.tokenizer:
        return file, tokenizer
  return None


def _named(run: Trained) -> Iterator[str]:
  """Where the tokenizer of a run may be: as it, its chain and the jobs of its stores say."""
  if run.config.data.encode_with:
    yield run.config.data.encode_with
  yield from (_beside(run), weights.SHIPPED)
  for share in run.config.data.train.values():
    job = epath.Path(share.path).parent / "config.json"
    values = files.read_json(job) if files.exists(job) else {}
    named = values.get("tokenizer") or values.get("tokenizing", {}).get("tokenizer")
    if isinstance(named, str):
      yield named
  yield from weights.PACKAGED
  if before := run.config.init_from:  # which has the same tokenizer
    try:
      yield from _named(find(before))
    except (ValueError, OSError):  # it is not there any more
      return


def _beside(run: Trained) -> str:
  return os.fspath(run.path.parent / "tokenizer" / "tokenizer.safetensors")


def check_same(facts: Mapping[str, Any], workdir: epath.Path) -> None:
  """Raises ValueError where what is in `workdir` is of other `facts`.

  The first time, `backbone.json` keeps them there.
  """
  path = workdir / "backbone.json"
  facts = json.loads(json.dumps(facts))
  if files.exists(path):
    first = files.read_json(path)
    # What is not in it was not kept then.
    if other := [key for key in first if first[key] != facts.get(key)]:
      then, now = ({key: kept.get(key) for key in other} for kept in (first, facts))
      raise ValueError(
        f"{workdir} was begun with another {', '.join(other)} ({then}, and now {now}), and what is"
        " there stays as it is, --allow_changed_config or not. Use another --workdir"
      )
  elif jax.process_index() == 0:
    files.write_json(path, facts)


def begin(
  workdir: epath.Path, config: Any, facts: Mapping[str, Any], *, data: Any = None, **more: Any
) -> None:
  """Begins a run directory, or goes on with one whose results are of the same things.

  Args:
    workdir: the run directory.
    config: of the job.
    facts: what its results are of, for its manifest.
    data: identities of its data, likewise (`directory.begin`).
    more: what they are of too, beside the manifest.

  Raises:
    ValueError: what is in `workdir` is of others.
  """
  directory.begin(workdir, config, **({} if data is None else {"data": data}), **facts)
  check_same({**facts, **more}, workdir)


def load(
  run: Trained, model: trunk.Trunk, *, trained: bool, depth: int, layout: sharding.Layout, seed: int
) -> tuple[trunk.Trunk, Any]:
  """(model, parameters) of the first `depth` blocks, sharded over a mesh.

  Parameters are cast to the dtype that the model computes in, which changes no
  feature and halves their memory in bfloat16.

  Args:
    run: where the parameters come from.
    model: `run.model`, or that with other inputs.
    trained: False gives the parameters that such a run starts from, drawn anew.
    depth: blocks that are kept.
    layout: of the parameters.
    seed: of an untrained backbone.
  """
  if trained:
    params = read(run, model, layout)
  else:
    # In a scan: the same numbers from a program that compiles sooner.
    compute = dataclasses.replace(model.compute, unroll=1)
    task = _task(run, model.clone(compute=compute))
    _, shardings = _places(task, layout)
    params = jax.jit(lambda key: task.init(key).params, out_shardings=shardings)(
      jax.random.key(seed)
    )
  model, params = taps.truncate(model, params, depth)
  return model, trunk.cast(model.config, params, model.compute.dtype)


def read(run: Trained, model: trunk.Trunk, layout: sharding.Layout) -> Any:
  """All parameters of the run's `step`, float32, sharded over a mesh.

  They do not depend on the grid, the frames, or the base of RoPE: `model` may
  have other ones than `run.model`.
  """
  places = _places(_task(run, model), layout)
  return restoring.read_params(run.path / "checkpoints", *places)[0]


def _task(run: Trained, model: trunk.Trunk) -> task_lib.OfModel:
  """What the parameters are of."""
  parametrisation = assembly.parametrisation(run.config)
  if run.patches is None:
    return task_lib.Pretrain(causal(model), parametrisation)
  assert isinstance(model, patched.PatchTrunk)
  return patch_task.Patches(model, run.patches, parametrisation)


def _places(task: task_lib.OfModel, layout: sharding.Layout) -> tuple[Any, Any]:
  """(shapes, shardings) of the parameters."""
  shapes = jax.eval_shape(task.init, jax.random.key(0)).params
  return shapes, layout.shardings(task.axes().params, shapes)


def causal(model: trunk.Trunk) -> trunk.Trunk:
  """The same parameters: which tokens see which changes none of them."""
  if not model.config.prefix_tokens:
    return model
  return model.clone(config=dataclasses.replace(model.config, prefix_tokens=0))


def features(
  model: trunk.Trunk, params: Any, *, layers: Sequence[int], pool: str, layout: sharding.Layout
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
  """This host's rows -> float32 features of the whole global batch.

  N are latent frames, and P tokens are those of all places, one after the other
  where a place has several codes.

  Args:
    model: with whole clips as its inputs (`for_clips`).
    params: of the model.
    layers: increasing, from 0; the forward pass stops at the last of them.
    pool: one of `POOLS`: "clip" gives means [B, L, D] over visual tokens,
      "frame" [B, L, N, D] over those of each frame, "token" [B, L, N, P, D].
    layout: of the parameters; its mesh divides the rows of the global batch.
  """
  if pool not in POOLS:
    raise ValueError(f"pool is {pool!r}; use one of {', '.join(POOLS)}")
  program = _program(
    # Modules hash by their fields; a checker sees no hash beside their `==`.
    model,  # pyright: ignore[reportArgumentType]
    tuple(layers),
    pool,
    layout,
  )

  def of_rows(batch):
    names = ("patches", "start") if "patches" in batch else ("tokens",)
    arrays = layout.place({name: batch[name] for name in names})
    inputs = arrays.get("tokens")
    if inputs is None:
      inputs = patched.Inputs(arrays["patches"], arrays["start"])
    return np.asarray(program(params, inputs))

  return of_rows


@functools.lru_cache(maxsize=4)
def _program(
  model: trunk.Trunk, layers: tuple[int, ...], pool: str, layout: sharding.Layout
) -> Callable[[Any, Any], jax.Array]:
  """(params, inputs) -> features; one program for all parameters."""

  def tap(x_BTD, visual_BT):
    if pool == "clip":
      return heads.mean_over_tokens(x_BTD, visual_BT)
    # Position 0 holds the start, and what follows the last token is padding.
    x_BTD = x_BTD[:, 1 : 1 + model.spec.visual_tokens].astype(jnp.float32)
    shape = model.spec.frames, model.spec.frame_tokens, x_BTD.shape[-1]
    x_BNPD = x_BTD.reshape(-1, *shape)
    return x_BNPD if pool == "token" else jnp.mean(x_BNPD, axis=2)

  @layout.jit
  def tapped(params, inputs):
    visual_BT = patched.visual(model.spec, inputs)
    x_LB = taps.tap_layers(
      model,
      params,
      inputs,
      tap=lambda x_BTD, _: tap(x_BTD, visual_BT),
      layers=layers,
      per_layer=None,
    )
    return jnp.swapaxes(x_LB, 0, 1)

  return tapped
