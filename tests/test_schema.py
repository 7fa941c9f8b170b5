"""The schema: one declaration of a key gives all that is made of it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re
import subprocess
import sys

import pytest
import runs

from totojax.config import document, pixel_recipes, pretrain, recipes, roots, schema, study_recipes
from totojax.config.schema import ConfigError, field, section


@section("toy.inner")
class Inner:
  """A section below another."""

  rate: float = field(0.1, "of what", "Table 0", above=0.0, at_most=1.0)
  kind: str = field("a", "which", choices=("a", "b", "c"))


@section("toy.more")
class More(Inner):
  """One that has another's keys, and its check."""

  size_px: int = field(4, "a side", at_least=1)

  def __post_init__(self):
    if self.kind == "b" and self.size_px > 8:
      raise ConfigError("toy.more.kind is 'b', which is small")


@section("toy")
class Toy:
  """Every kind of key."""

  run: str = field("toy", "the job")
  steps: int = field(3, "updates", at_least=1)
  on: bool = field(False, "whether")
  sizes: tuple[int, ...] = field((1, 2), "each", at_least=0)
  pair: tuple[float, float] = field((0.0, 1.0), "from, to")
  inner: Inner = field(Inner(), "one")
  named: Mapping[str, Inner] = field({}, "name -> one")
  free: Mapping[str, float] = field({}, "name -> number")
  root: str | None = field(None, "folder", optional=True)


def values(**changes):
  found = schema.to_dict(Toy())
  for key, value in changes.items():
    *path, last = key.split("__")
    below = found
    for name in path:
      below = below[name]
    below[last] = value
  return found


def test_what_is_written_is_what_is_read():
  toy = Toy(
    steps=5,
    inner=Inner(rate=0.5),
    named={"x": Inner(kind="c")},
    free={"y": 2.0},
    sizes=(),
    root="here",
  )
  written = schema.to_dict(toy)
  assert schema.read(Toy, written) == toy
  assert schema.to_config(toy).to_dict() == written
  assert written["named"] == {"x": {"rate": 0.1, "kind": "c"}}
  # What a config may lack is not in it.
  assert "root" in written and "root" not in schema.to_dict(Toy())
  assert schema.read(Toy, schema.to_dict(Toy())).root is None


def test_json_and_whole_numbers_serve():
  toy = schema.read(Toy, values(sizes=[3], pair=[1, 2], inner__rate=1))
  assert toy.sizes == (3,) and toy.pair == (1.0, 2.0)
  assert type(toy.inner.rate) is float and type(toy.pair[0]) is float


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(stps=1), "key stps does not exist; did you mean steps?"),
    (dict(inner__rat=1.0), "key inner.rat does not .* mean inner.rate?"),
    (dict(steps="3"), r"key steps is '3' \(str\); it must be int"),
    (dict(steps=True), r"key steps is True \(bool\); it must be int"),
    (dict(on=1), r"key on is 1 \(int\); it must be bool"),
    (dict(steps=0), "steps is 0; it must be at least 1"),
    (dict(inner__rate=0.0), "inner.rate is 0.0; it must be above 0 and at"),
    (dict(inner__rate=float("nan")), "inner.rate is nan; it must be"),
    (dict(inner__kind="d"), "inner.kind is 'd'; use 'a', 'b' or 'c'"),
    (dict(sizes=(1, -1)), r"sizes is \(1, -1\); it must be at least 0"),
    (dict(sizes=3), r"key sizes is 3; it must be a tuple, as \(3,\)"),
    (dict(sizes=(1.5,)), r"key sizes\[0\] is 1.5 \(float\); it must"),
    (dict(pair=(1.0,)), r"key pair is \(1.0,\); it must have 2 parts"),
    (dict(inner=3), "key inner is 3; it must be a section with keys"),
    (dict(named=3), "key named is 3; it must be a section with names"),
    (
      dict(named={"x": {"rate": 9.0, "kind": "a"}}),
      "named.x.rate is 9.0; it must be above 0 and at most 1",
    ),
  ],
)
def test_what_is_wrong_is_named_where_it_stands(changes, told):
  with pytest.raises(ConfigError, match=told):
    schema.read(Toy, values(**changes))


def test_a_missing_key_is_an_error_or_has_its_default():
  without = values()
  del without["steps"], without["inner"]["kind"]
  with pytest.raises(ConfigError, match="key steps is missing; set it"):
    schema.read(Toy, without)
  assert schema.read(Toy, without, fill=True) == Toy()
  # A default is for keys that were left out, not for those that are wrong.
  with pytest.raises(ConfigError, match="steps is 0"):
    schema.read(Toy, without | {"steps": 0}, fill=True)


def test_ranges_and_checks_hold_for_whoever_makes_a_section():
  with pytest.raises(ConfigError, match="toy.inner.rate is 2.0"):
    Inner(rate=2.0)
  with pytest.raises(ConfigError, match="toy.more.rate is 2.0"):
    More(rate=2.0)
  with pytest.raises(ConfigError, match="kind is 'b', which is small"):
    More(kind="b", size_px=9)
  with pytest.raises(ConfigError, match="kind is 'b', which is small"):
    dataclasses.replace(More(kind="b"), size_px=9)
  assert More(kind="b", size_px=8).rate == 0.1


def test_every_key_is_told_with_its_unit():
  toy = Toy(named={"x": More()})
  found = {key.path: key for key in schema.keys(toy)}
  assert list(found)[:3] == ["run", "steps", "on"]
  assert document.unit(found["steps"]) == "updates" and document.unit(found["run"]) == ""
  assert document.unit(found["named.x.size_px"]) == "pixels"
  assert found["inner.rate"].meta.source == "Table 0"
  assert found["inner.rate"].meta.range.bounds == ["above 0", "at most 1"]
  assert document.describe(found["sizes"].kind) == "int, any number"
  assert "named" not in found and "root" not in found
  lines = document.listing(toy).splitlines()
  assert len(lines) == len(found)
  assert any("size_px = 4" in s and "in pixels" in s for s in lines)


def test_the_section_of_a_choice_follows_what_is_beside_it():
  config = schema.to_dict(pretrain.Pretrain())
  old = {k: v for k, v in config.items() if k != "architecture"}
  assert schema.read(pretrain.Pretrain, old, fill=True) == pretrain.Pretrain()
  with pytest.raises(ConfigError, match="architecture is 'rnn'; use 'llama'"):
    roots.read(config | {"architecture": "rnn"})
  with pytest.raises(ConfigError, match="architecture is 'gpt2'.*the keys of 'llama'"):
    roots.read(config | {"architecture": "gpt2"})
  for run, told in (
    ("pretrian", "config.run is 'pretrian'; did you mean 'pretrain'"),
    ("zzz", "config.run is 'zzz'; the jobs are audit, .*plan"),
    (["pretrain"], "config.run is ..pretrain..; "),
  ):
    with pytest.raises(ConfigError, match=told):
      roots.read(config | {"run": run})


@pytest.mark.parametrize(
  "key, value",
  [
    ("b1", 2.0),
    ("eps", -1.0),
    ("lr", -1.0),
    ("warmup_steps", -1),
    ("lr", float("nan")),
    ("clip_norm", float("inf")),
  ],
)
def test_nonsense_of_the_optimiser_is_refused_at_the_door(key, value):
  config = schema.to_dict(pretrain.Pretrain())
  config["optim"][key] = value
  with pytest.raises(ConfigError, match=f"optim.{key} is {value}; it must be"):
    roots.read(config)


@pytest.mark.parametrize(
  "run, key, value",
  [
    ("pretrain", "seed", -1),
    ("pretrain", "sequence.vocab", 2**30 + 1),
    ("pretrain", "model.init_std", -0.02),
    ("pretrain", "model.norm_eps", -1e-6),
    ("pretrain", "model.rope_base", 0.0),
    ("pretrain", "model.prefix_tokens", -2),
    ("pretrain", "mup.output", 0.0),
    ("pretrain", "mesh.tensor", -2),
    ("pretrain", "compute.unroll", -1),
    ("pretrain", "compute.loss_chunk", -1),
    ("pretrain", "optim.clip_norm", 0.0),
    ("pretrain", "train.total_tokens", -1.0),
    ("pretrain", "data.reading.workers", -1),
    ("pretrain", "plan.dvae.groups", 0),
    ("pretrain", "plan.dvae.post_gain", -1.0),
    ("pretrain", "plan.meshes", ((1, -2, 1),)),
    ("probe", "head.init_std", -0.1),
    ("probe", "head.norm_momentum", 1.5),
    ("probe", "train.epochs", 0.0),
    ("probe", "optim.momentum", 1.0),
    ("probe", "optim.trust", 0.0),
    ("probe", "optim.lrs", ()),
    ("probe", "layers", (-1,)),
    ("probe", "backbones", ("trained", "trained")),
    ("probe", "paper.top1", 101.0),
    ("finetune", "view.magnitude_std", -0.5),
    ("finetune", "head.head_init_std", -1.0),
    ("finetune", "optim.b2", 1.0),
    ("joint", "model.rope_base", -1.0),
    ("joint", "data.grid", -1),
    ("tokenizer", "objective.kl", -1.0),
    ("tokenizer", "train.least_used_frac", 1.5),
    ("tokenizer", "dvae.hidden", 0),
    ("render", "scene.radius", (0.1, 0.6)),
    ("tokenize", "source.splits", ("a", "a")),
    ("tokenize", "source.tfds.fps", 0.0),
    ("coord_check", "coord_check.log2_lr", 100.0),
    ("sweep", "sweep.seeds", (0, -1)),
  ],
)
def test_what_no_run_can_have_is_refused_at_the_door(run, key, value):
  config = roots.config(run).to_dict()
  *above, last = key.split(".")
  section = config
  for name in above:
    section = section[name]
  assert roots.read(config) is not None and last in section
  section[last] = value
  with pytest.raises(ConfigError, match=rf"^{key} is {re.escape(repr(value))}; (it must|name) "):
    roots.read(config)


def test_a_mistake_in_any_stage_of_a_chain_is_found_at_its_door():
  config = recipes.chain(
    law=study_recipes.scaling("a=b"), page=recipes.report("{workdir}")
  ).to_dict()
  assert roots.read(config).stages["law"].scaling.runs == ("a=b",)
  config["stages"]["law"]["scaling"]["draws"] = 0
  with pytest.raises(ConfigError, match="^stages.law.scaling.draws is 0"):
    roots.read(config)
  del config["stages"]["law"]
  with pytest.raises(
    ConfigError, match=r"order names \['law', 'page'\], and stages has \['page'\]"
  ):
    roots.read(config)
  config["order"] = ("page",)
  assert roots.read(config).stages["page"].chain == "{workdir}"
  config["stages"]["page"]["chian"] = ""
  with pytest.raises(ConfigError, match="mean stages.page.chain?"):
    roots.read(config)


def test_the_page_of_all_keys_is_up_to_date():
  """Remake it: python -m totojax.config.document > docs/config.md."""
  page = (runs.ROOT / "docs" / "config.md").read_text(encoding="utf-8")
  assert page == document.page()
  for name in roots.ROOTS:
    assert f'## `run = "{name}"`' in page


def test_configs_load_without_jax():
  """They are read before jax may start, and `--list` needs none of it."""
  code = (
    "import sys\n"
    "from totojax.config import document, roots\n"
    "assert document.page()\n"
    "heavy = {'jax', 'numpy', 'flax', 'grain', 'orbax'} & set(sys.modules)\n"
    "assert not heavy, heavy\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=runs.environment(),
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed, right", [(0, True), (2**32 - 1, True), (2**32, False), (-1, False)])
def test_seeds_have_32_bits_in_every_job(seed, right):
  configs = [recipes.pretrain("mini"), recipes.tokenize(), pixel_recipes.decode("x")]
  for config in configs:
    config.seed = seed
    if right:
      assert roots.read(config.to_dict()).seed == seed
      continue
    with pytest.raises(schema.ConfigError, match=f"seed is {seed};.*below 4294967296"):
      roots.read(config.to_dict())


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
def test_an_architecture_without_its_keys_names_the_way(architecture):
  config = recipes.pretrain("mini")
  config.architecture = architecture
  with pytest.raises(schema.ConfigError, match=f"'llama'.*smoke.py:{architecture}.*recipes.use"):
    roots.read(config.to_dict())
  # A misspelt key of the right one is told as that.
  recipes.use(config, architecture, "tiny")
  roots.read(config.to_dict())
  with config.unlocked():
    config.model.widht = 3
  with pytest.raises(schema.ConfigError, match="widht does not exist; did you mean model.width"):
    roots.read(config.to_dict())
