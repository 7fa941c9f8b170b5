"""What a user brings, one of each kind, from outside of the package.

The examples are those of docs/contributing.md: each is written to a file as it
stands there, and used as a config would.
"""

import json
import os
import re
import textwrap

from etils import epath
import jax
import numpy as np
import pytest
import runs
import stores

from totojax import jobs, plugins
from totojax.config import corpus, model, pretrain as pretrain_config, recipes, roots, schema
from totojax.data.sources import listings
from totojax.jobs.labels import setup
from totojax.models import heads
from totojax.rundir import directory
from totojax.tasks import pretrain
from totojax.tokenizers import api, weights
from totojax.trained import encoders

NEVER = lambda step: False
PAGE = runs.ROOT / "docs" / "contributing.md"


def examples() -> dict[str, str]:
  """Name of a file -> its text, as docs/contributing.md has it."""
  text = PAGE.read_text(encoding="utf-8")
  blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
  return {name: textwrap.dedent(code) for name, code in blocks}


@pytest.fixture(name="files")
def _files(tmp_path):
  found = examples()
  for name, code in found.items():
    (tmp_path / name).write_text(code)
  return {name.removesuffix(".py"): str(tmp_path / name) for name in found}


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stores")
  return (
    stores.write(folder / "train", records=32, seed=0, prefix="t"),
    stores.write(folder / "val", records=8, seed=1, prefix="v"),
  )


def smoke(data, **changes):
  c = runs.load(runs.ROOT / "configs" / "smoke.py")
  c.data.train.moving.path, c.data.validation.moving = data
  c.train.total_tokens = 2 * 128.0
  c.optim.warmup_steps = 1
  with c.unlocked():
    for key, value in changes.items():
      c[key] = value
  return c


def test_the_examples_are_short_and_of_every_kind():
  found = examples()
  assert {f"my_{kind}.py" for kind in plugins.KINDS} <= set(found)
  for name, code in found.items():
    assert len(code.splitlines()) <= 15, name


def test_an_architecture(files, data, tmp_path):
  c = smoke(data, architecture=files["my_architecture"])
  with c.unlocked():
    c.model.damping = 0.25
  assert jobs.run(c.to_dict(), epath.Path(tmp_path / "run"), NEVER)
  rows = [r for r in runs.metrics(tmp_path / "run") if r["kind"] == "train"]
  assert len(rows) == 2 and all(np.isfinite(r["loss"]) for r in rows)


def test_a_tokenizer(files):
  tokenizer = weights.load(files["my_tokenizer"])
  frames = np.zeros((2, 16, 16, 3), np.uint8)
  frames[1] = 255
  codes = tokenizer.encode(frames)
  assert codes.shape == (2, 2, 2) and len(set(codes.ravel().tolist())) == 2
  np.testing.assert_array_equal(tokenizer.decode(codes), frames)
  assert isinstance(tokenizer, api.Tokenizer)


def test_an_encoder(files):
  encoder = encoders.load(files["my_encoder"])
  clips = np.ones((3, 1, 32, 32, 3), np.uint8)
  assert encoder.features(clips).shape == (1, 3, 3)


@pytest.mark.parametrize("change", [("vocab=", "vocab='16' or "), ("decode=decode", "decode=5")])
def test_a_tokenizer_of_other_types_is_refused(files, tmp_path, change):
  text = epath.Path(files["my_tokenizer"]).read_text()
  assert change[0] in text
  (tmp_path / "other.py").write_text(text.replace(*change))
  with pytest.raises(plugins.PluginError, match="must give a tokenizers.api.Tokenizer"):
    weights.load(str(tmp_path / "other.py"))


def test_a_head(files):
  config = heads.HeadConfig(pool=files["my_head"], init_std=1.0)
  params = heads.init(config, jax.random.key(0), width=4, classes=2)
  assert params["scale"].tolist() == [1.0] * 4
  x = np.zeros((1, 3, 4), np.float32)
  x[0, 1], x[0, 2] = 2.0, 9.0  # the last is no visual token
  visual = np.array([[True, True, False]])
  logits = heads.logits(config, params, x, visual)
  expected = 2.0 * params["linear"].sum(0)
  np.testing.assert_allclose(logits[0], expected, rtol=1e-5)
  assert set(heads.axes(config, width=4, classes=2)) == set(params)


def test_a_data_set(files, tmp_path):
  from PIL import Image

  (tmp_path / "images").mkdir()
  for i in range(8):
    pixels = np.full((32, 32, 3), 30 * i, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / f"{i % 2}_{i}.png")
  c = recipes.tokenize()
  c.source.update(name=files["my_dataset"], root=str(tmp_path / "images"), val_frac=0.25)
  c.image.size_px = 32
  assert jobs.run(c.to_dict(), epath.Path(tmp_path / "tokens"), NEVER)
  manifest = json.loads((tmp_path / "tokens/train/manifest.json").read_text())
  assert manifest["classes"] == ["even", "odd"]
  assert sum(shard["records"] for shard in manifest["shards"]) == 6


def test_a_task_and_an_evaluation(files, data, tmp_path):
  c = smoke(data, task=files["my_task"], evaluations=(files["my_evaluation"],))
  assert jobs.run(c.to_dict(), epath.Path(tmp_path / "run"), NEVER)
  rows = runs.metrics(tmp_path / "run")
  plain = smoke(data)
  assert jobs.run(plain.to_dict(), epath.Path(tmp_path / "plain"), NEVER)
  others = runs.metrics(tmp_path / "plain")
  loss = [[r["loss"] for r in some if r["kind"] == "train"] for some in (rows, others)]
  assert loss[0][0] > loss[1][0]  # a penalty is added
  (first, *_) = [r for r in rows if r["kind"] == "eval"]
  assert first["my_evaluation/embedding_norm"] > 0
  assert not any("my_evaluation" in key for row in others for key in row)


def test_a_job(files, tmp_path):
  values = {"run": files["my_job"], "times": 3}
  assert jobs.run(values, epath.Path(tmp_path / "run"), NEVER)
  assert json.loads((tmp_path / "run" / "count.json").read_text()) == 3
  with pytest.raises(ValueError, match="key tmes does not .* mean times?"):
    jobs.run({"run": files["my_job"], "tmes": 3}, tmp_path, NEVER)
  with pytest.raises(ValueError, match="times is 0; it must be at least 1"):
    jobs.run(values | {"times": 0}, epath.Path(tmp_path / "run"), NEVER)


def test_the_source_is_part_of_a_runs_identity(files, data, tmp_path):
  c = smoke(data, task=files["my_task"]).to_dict()
  workdir = epath.Path(tmp_path / "run")
  assert not jobs.run(c, workdir, lambda step: step == 1)
  manifest = json.loads((workdir / "manifest.json").read_text())
  assert list(manifest["plugins"]) == ["task"]
  directory.check(workdir, c, allow_change=False)
  path = epath.Path(files["my_task"])
  path.write_text(path.read_text() + "\n# another\n")
  plugins.find.cache_clear()
  with pytest.raises(directory.ConfigChanged, match="source of task: "):
    directory.check(workdir, c, allow_change=False)
  directory.check(workdir, c, allow_change=True)
  path.unlink()  # is told as that, and not as another source
  plugins.find.cache_clear()
  with pytest.raises(plugins.PluginError, match="my_task.py does not exist"):
    directory.check(workdir, c, allow_change=False)


def test_every_source_of_a_key_counts(files):
  config = pretrain_config.Pretrain(
    task=files["my_task"], evaluations=(files["my_evaluation"], files["my_head"] + ":head")
  )
  first = schema.digests(config)
  assert list(first) == ["task", "evaluations"] and first["task"] not in first["evaluations"]
  for name in ("my_evaluation", "my_head"):
    path = epath.Path(files[name])
    path.write_text(path.read_text() + "\n# another\n")
    plugins.find.cache_clear()
    again = schema.digests(config)
    assert again["evaluations"] != first["evaluations"] and again["task"] == first["task"]
    first = again


@pytest.mark.parametrize(
  "code, told",
  [
    ("x = 1\ndef other(): pass", "must define task.*; it defines other"),
    ("import nothing_there", r"cannot be imported \(ModuleNotFoundError"),
    ("def task(: pass", r"cannot be imported \(SyntaxError"),
    ("x = 1\ndef task(): raise KeyError(3)", r"wrong.py, line 2: task\(\) fails \(KeyError: 3\)"),
    (
      "def task(): return 3",
      r"task\(\) gives 3 \(int\); task\(\) must give a function \(model, µP",
    ),
  ],
)
def test_what_is_wrong_with_a_file_is_one_error(tmp_path, code, told):
  path = tmp_path / "wrong.py"
  path.write_text(code)
  with pytest.raises(plugins.PluginError, match=told) as error:
    plugins.function(str(path), "task", pretrain.Pretrain)
  assert str(path) in str(error.value) and "\n" not in str(error.value)


# Of each kind: the body of its function, and what is said of what it gives.
WRONG = [
  ("job", "return (1,)", r"job\(\) gives \(1,\) \(tuple\); job\(\) must give \(a `schema.section`"),
  ("job", "return int, print", r"job\(\) must give"),
  ("architecture", "return int", r"gives <class 'int'> \(type\); architecture\(\) must give"),
  ("tokenizer", "return 5", r"gives 5 .int.; tokenizer\(\) must give a tokenizers.api.Tokenizer"),
  ("encoder", "return 5", r"encoder\(\) must give a trained.encoders.Encoder"),
  (
    "dataset",
    "return lambda root, split: 5",
    r"dataset\(\)\(...\) gives 5 .int.; dataset\(\) must give",
  ),
  (
    "dataset",
    "return lambda root: 5",
    r"dataset.py: dataset\(\)\(...\) fails \(TypeError: .*2 were",
  ),
  ("head", "return 5", r"gives 5 .int.; head\(\) must give an object with shapes"),
  ("task", "return lambda model, mup: 5", r"task\(\)\(...\) gives 5 .int.; task\(\) must"),
  (
    "evaluation",
    "return lambda task, config: 5",
    r"gives 5 .int.; evaluation\(\) must give a function",
  ),
  ("evaluation", "return lambda *_: lambda state: 1 / 0", "line 2: the evaluation fails .ZeroDiv"),
  *(
    ("evaluation", f"return lambda *_: lambda state: {given}", rf"\(...\)\(state\) gives {told}")
    for given, told in (
      ("5", "5 .int."),
      ("'loss'", "'loss' .str."),
      ("{'loss': 1.0}", "{'loss': 1.0} .dict."),
      ("[('loss', '3')]", r"\('loss', '3'\) .tuple."),
      ("[('loss', 3, 4)]", r"\('loss', 3, 4\) .tuple."),
      ("[(1, 3.0)]", r"\(1, 3.0\) .tuple."),
      ("[('loss', float('nan'))]", r"\('loss', nan\) .tuple."),
      ("[('loss', [1.0, 2.0])]", r"\('loss', \[1.0, 2.0\]\) .tuple."),
    )
  ),
]


@pytest.mark.parametrize("kind, body, told", WRONG)
def test_what_does_not_keep_its_contract_is_one_error(tmp_path, kind, body, told):
  path = tmp_path / f"{kind}.py"
  path.write_text(f"def {kind}():\n  {body}\n")
  use = {
    "job": lambda name: roots.read({"run": name}),
    "architecture": lambda name: model.model_kind({"architecture": name}),
    "tokenizer": weights.load,
    "encoder": encoders.load,
    "dataset": lambda name: listings.by_store(corpus.SourceConfig(name=name), seed=0),
    "head": lambda name: heads.shapes(heads.HeadConfig(pool=name), width=4, classes=2),
    "task": lambda name: plugins.function(name, "task", pretrain.Pretrain)(None, None),
    "evaluation": lambda name: plugins.evaluation(name, None, None)(None),
  }
  with pytest.raises(plugins.PluginError, match=told) as error:
    use[kind](str(path))
  assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "change, told",
  [
    (("x_BTD, visual_BT):", "x_BTD):"), r"head.py: the head fails at .* \(TypeError: "),
    (("max(axis=1)", "max()"), r"pool\(\) gives \[4\] of features \[2, 3, 4\]; it must give"),
    (("seen_BTD.max(axis=1)", "seen_BTD"), r"pool\(\) gives \[2, 3, 4\] of .* must give \[2, 4\]"),
    (("(width,), (", "(width + 1,), ("), r"line \d+: the head fails at features \[2, 3, 4\]"),
    (('{"scale": ((width,), ("norm",))}', "5"), "the head fails at .*AttributeError"),
    (('{"scale": ((width,)', '{"bias": ((width,)'), "names of every head"),
  ],
)
def test_a_head_is_tried_before_anything_is_trained(files, change, told):
  path = epath.Path(files["my_head"])
  config = heads.HeadConfig(pool=str(path))
  setup.check_head(config, width=4, classes=2)
  setup.check_head(heads.HeadConfig(pool="cross"), width=4, classes=2)  # no user's
  assert change[0] in path.read_text()
  path.write_text(path.read_text().replace(*change))
  plugins.find.cache_clear()
  heads._users.cache_clear()
  with pytest.raises(plugins.PluginError, match=told):
    setup.check_head(config, width=4, classes=2)


def test_a_number_that_comes_to_be_none_ends_no_run(tmp_path):
  path = tmp_path / "score.py"
  path.write_text("def evaluation():\n  return lambda *_: lambda state: [('x', state)]\n")
  evaluate = plugins.evaluation(str(path), None, None)
  assert evaluate(np.float32(2.0)) == [("x", 2.0)]
  assert np.isnan(evaluate(float("nan"))[0][1])


def test_a_job_says_whether_it_is_finished(files, tmp_path):
  path = epath.Path(files["my_job"])
  path.write_text(path.read_text().replace("return True", "return None"))
  with pytest.raises(plugins.PluginError, match=r"my_job.py: job\(\).* gives None .* -> bool"):
    jobs.run({"run": os.fspath(path), "times": 3}, epath.Path(tmp_path / "run"), NEVER)


@pytest.mark.parametrize(
  "change, told",
  [
    (("size}, stats", "size}, 5"), "it must give second stats like"),
    (('"size": size}, stats', '"nll": size}, stats'), r"of weights\(\): \['nll', 'size'\]"),
    (("stats, metrics\n", "stats, metrics, 5\n"), r"must give \(loss terms, stats, metrics\)"),
    (("stats, metrics\n", 'stats, {"x": 3.0}\n'), "third metrics by name"),
    (("tasks.LossTerm(jnp.sum(", "tasks.LossTerm(abs("), "first a LossTerm of a scalar"),
    (("jnp.sum(params", "jnp.sum(parms"), r"line \d+: Penalised fails \(NameError: "),
  ],
)
def test_a_task_is_tried_before_anything_is_compiled(files, data, tmp_path, change, told):
  path = epath.Path(files["my_task"])
  assert change[0] in path.read_text()
  path.write_text(path.read_text().replace(*change))
  with pytest.raises(plugins.PluginError, match=told) as error:
    jobs.run(smoke(data, task=str(path)).to_dict(), epath.Path(tmp_path / "run"), NEVER)
  assert "my_task.py" in str(error.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "change, told",
  [
    (("* (y_BTD - x_BTD), kept", "* (y_BTD - x_BTD)"), r"fails at tokens \[2, 16\] .TypeError"),
    (("x_BTD + self", "x_BTD[..., :8] + self"), r"line 7: the architecture fails at .*TypeError"),
    (("return x_BTD + self", "return x_BTD[..., None] + self"), "the architecture fails at tokens"),
  ],
)
def test_an_architecture_is_tried_before_a_run_begins(files, data, tmp_path, change, told):
  path = epath.Path(files["my_architecture"])
  assert change[0] in path.read_text()
  path.write_text(path.read_text().replace(*change))
  c = smoke(data, architecture=str(path))
  with c.unlocked():
    c.model.damping = 0.25
  with pytest.raises(plugins.PluginError, match=told) as error:
    jobs.run(c.to_dict(), epath.Path(tmp_path / "run"), NEVER)
  assert str(path) in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "change, told",
  [
    (('"image"', '"picture"'), "kind is 'picture'; it must be one of video, image"),
    (("label=", "labl="), r"dataset\(\)\(...\) fails"),
    (
      (
        'items.listing("image", found, classes=("even", "odd"), where=root)',
        "items.Listing(5, found, (), ())",
      ),
      "be used .ValueError: kind is 5",
    ),
  ],
)
def test_a_data_set_is_named_where_it_is_wrong(files, tmp_path, change, told):
  path = epath.Path(files["my_dataset"])
  assert change[0] in path.read_text()
  path.write_text(path.read_text().replace(*change))
  with pytest.raises(plugins.PluginError, match=told) as error:
    listings.by_store(corpus.SourceConfig(name=str(path), root=str(tmp_path)), seed=0)
  assert str(path) in str(error.value)


def test_a_start_that_failed_in_an_evaluation_binds_no_run(files, data, tmp_path):
  path, folder = epath.Path(files["my_evaluation"]), epath.Path(tmp_path / "run")
  right = path.read_text()
  config = smoke(data, evaluations=(str(path),)).to_dict()

  def start(text):
    plugins.find.cache_clear()
    path.write_text(text)
    return jobs.run(config, directory.check(folder, config, allow_change=False), NEVER)

  for _ in range(2):
    with pytest.raises(plugins.PluginError, match="the evaluation fails"):
      start(right.replace("yield ", "1 / 0; yield "))
    assert not (folder / "config.json").exists(), list(folder.iterdir())
  assert start(right)
  # Control: what was made keeps its source.
  with pytest.raises(directory.ConfigChanged, match="source of evaluations"):
    start(right + "\n")


def test_a_function_or_module_may_be_named(tmp_path, monkeypatch):
  (tmp_path / "mine_for_tests.py").write_text("def deep(): return 7\n")
  file = f"{tmp_path}/mine_for_tests.py:deep"
  assert plugins.load(file, "head", int) == 7
  monkeypatch.syspath_prepend(tmp_path)
  assert plugins.load("mine_for_tests:deep", "head", int) == 7
  assert plugins.stem(file) == plugins.stem("mine_for_tests:deep") == "deep"
  assert not plugins.is_reference("average")
  assert not plugins.is_reference("weights/dvae.safetensors")
  assert not plugins.is_reference("gs://bucket/run")
  with pytest.raises(ValueError, match="config.run is 'nothing'; the jobs"):
    roots.read({"run": "nothing"})
