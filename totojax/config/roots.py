"""Which keys a config has, by the name of its job."""

from collections.abc import Mapping
import difflib
import importlib
from typing import Any

from ml_collections import ConfigDict

from totojax import plugins
from totojax.config import schema

# Key `run` -> "module:class" of its whole config, in this folder; imported when asked for.
ROOTS: Mapping[str, str] = {
  "render": "pixels:Render",
  "decode": "pixels:Decode",
  "photos": "pixels:Photos",
  "tokenizer": "tokens:Tokenizer",
  "shards": "tokens:Shards",
  "tokenize": "corpus:Tokenize",
  "codes": "codes:Codes",
  "features": "corpus:Features",
  "leakage": "tokens:Leakage",
  "official": "tokens:Official",
  "tokens_report": "tokens:TokensReport",
  "pretrain": "pretrain:Pretrain",
  "validate": "validate:Validate",
  "generate": "generate:Generate",
  "surprise": "surprise:Surprise",
  "prompt_tune": "prompt_tune:PromptTune",
  "playground": "playground:Playground",
  "world": "world:World",
  "cater": "cater:Cater",
  "track": "track:Track",
  "feature_maps": "feature_maps:FeatureMaps",
  **{name: f"policies:{name.title()}" for name in ("record", "clone", "dagger")},
  "policy_server": "policies:PolicyServer",
  "sta": "sta:Sta",
  "sta_frozen": "sta:StaFrozen",
  "sta_seeds": "sta:StaSeeds",
  "audit": "studies:Audit",
  "coord_check": "studies:CoordCheckJob",
  "sweep": "studies:SweepJob",
  "scaling": "studies:ScalingJob",
  "token_study": "studies:TokenStudyJob",
  "curves": "studies:CurvesJob",
  "miniature": "miniature:Miniature",
  "bench": "bench:BenchJob",
  "report": "studies:Report",
  "chain": "studies:Chain",
  "probe": "labels:Probe",
  "probe_seeds": "labels:ProbeSeeds",
  "knn": "compare:KnnJob",
  "compare": "compare:CompareJob",
  "joint": "labels:Joint",
  "finetune": "labels:Finetune",
  "export": "exchange:Export",
  "import": "exchange:Import",
  "doctor": "doctor:Doctor",
}


def find(name: str) -> type:
  """The whole config of a job of ours, by the value of its key `run`.

  Raises:
    schema.ConfigError: there is no such job.
  """
  if not isinstance(name, str) or name not in ROOTS:
    near = difflib.get_close_matches(str(name), ROOTS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(sorted([*ROOTS, "plan"]))
    raise schema.ConfigError(f"config.run is {name!r}; {hint}the jobs are {known}")
  module, _, cls = ROOTS[name].partition(":")
  return getattr(importlib.import_module(f"totojax.config.{module}"), cls)


def job(config: Any) -> str:
  """The value of the key `run` of a config, typed or not."""
  return config["run"] if isinstance(config, Mapping) else config.run


def config(name: str, **keys: Any) -> ConfigDict:
  """The whole config of a job with its defaults, but for `keys`."""
  return schema.to_config(find(name)(**keys))


def read(values: Mapping[str, Any], path: str = "", *, fill: bool = False) -> Any:
  """The typed config of the job that `values["run"]` names.

  Raises:
    schema.ConfigError: as `schema.read`, there is no such job, or a stage of a
      chain is no config.
  """
  if not isinstance(values, Mapping):
    raise schema.ConfigError(
      f"config key {path} is {values!r}; it must be a whole config of a job, as those of"
      " totojax.config.recipes"
    )
  if "run" not in values:
    raise schema.ConfigError(
      f"config key {f'{path}.run'.lstrip('.')} is missing; it says which job this is: one of"
      f" {', '.join(sorted(ROOTS))}"
    )
  stages, order = values.get("stages"), values.get("order", ())
  if values["run"] == "chain" and isinstance(stages, Mapping):
    # In the order in which they are run, which a ConfigDict does not keep.
    names = dict.fromkeys((*(name for name in order if name in stages), *stages))
    configs = {n: read(stages[n], f"{path}.stages.{n}".lstrip("."), fill=fill) for n in names}
    values = {**values, "stages": configs}
  return schema.read(root(values), values, path, fill=fill)


def root(values: Mapping[str, Any]) -> type:
  """Which of `ROOTS` a config is; for a plan, of which job it is a plan.

  Raises:
    schema.ConfigError: there is no such job, or no plan of it.
  """
  name = values.get("run", "")
  if name == "plan":
    return _root_of_plan(values)
  if plugins.is_reference(name):
    return plugins.job(name)[0]
  return find(name)


def _root_of_plan(values: Mapping[str, Any]) -> type:
  reason = "a plan is of pre-training or of tokenizing; this config"
  if "model_run" in values:
    raise schema.ConfigError(
      f"{reason} starts from model_run. Plan a pre-training config of its model and grid"
    )
  if {"model", "optim"} <= set(values):
    return find("pretrain")
  if "source" in values:
    return find("tokenize")
  raise schema.ConfigError(
    f"{reason} has neither a model nor a source. Plan configs/1b.py or"
    " configs/tokenize.py, with your changes"
  )
