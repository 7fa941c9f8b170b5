"""A chain is looked at as a whole before its first stage, and no flag is lost in a copy."""

import pathlib
import re

from etils import epath
import pytest
import runs
import stores

from totojax.config import arguments
from totojax.config.schema import ConfigError
from totojax.jobs import foresight
from totojax.rundir import directory

STAGES = "--config.stages."


def read(file, *flags):
  return arguments.read(["totojax", f"--config=configs/{file}", *(STAGES + f for f in flags)])[0]


def look(config, workdir="/none/run"):
  foresight.check(directory.typed(config.to_dict()), epath.Path(workdir))


CHAINS = ["demo.py", "mup_sweep.py", "scaling.py", "token_study.py", "probe_learns.py", "clips.py"]
CHAINS += ["compare.py", "mup_search.py:tied", "mup_search.py:untied,check"]
CHAINS += ["cater.py", "cater.py:seeds=2", "track_learns.py", "robots.py", "robots.py:task=cabinet"]
CHAINS += ["shipped.py", "paper/miniature.py"]
CHAINS += ["ego4d_world.py", "ego4d_world.py:root=WORLD,model=RUN,protocol=frozen"]
CHAINS += ["tokenizer.py:32", "tokenizer.py:video", "tokenizer.py:f8,VIDEOS"]


@pytest.mark.parametrize("file", CHAINS)
def test_what_ships_fits(file):
  look(read(file))


REFUSED = [
  (["clips.scene.size_px=64"], "grid is 4, .*has grid 8"),
  (["clips.scene.frames=8"], "frames is 16, .*has 8 frames a record"),
  (["pretrain.sequence.vocab=1024"], "vocab is 1024, .*has vocab 512"),
  (["tokenizer.weights=train", "tokenizer.dvae.vocab=1024"], "vocab is 512, .*has vocab 1024"),
  (["tokenizer.weights=shipped-f8"], "vocab is 512, .*has vocab 4096"),
  (["shards.tokenizing.every=4"], "frames is 16, .*has 4 frames a record"),
]


@pytest.mark.parametrize("flags, told", REFUSED)
def test_what_does_not_fit_is_refused_with_the_flags_that_mend_it(flags, told):
  with pytest.raises(ConfigError, match=rf"stages.pretrain: sequence.{told}") as refused:
    look(read("demo.py", *flags))
  # What follows from it in other stages is not told as well.
  assert str(refused.value).count("stages.probe") == 0
  advice = re.findall(r"--config\.stages\.(\S+)", str(refused.value))
  assert advice
  look(read("demo.py", *flags, *advice))


@pytest.mark.parametrize(
  "flags, told",
  [
    (["clips.scene.size_px=60"], r"stages.shards: .*60 pixels, no multiple of the 8.* 56 or 64"),
    (["pretrain.train.batch_tokens=1000"], "stages.pretrain: .*not a multiple of the context"),
    (["tokenizer.weights=no.safetensors"], "stages.tokenizer: weights: no tokenizer file at"),
    (["pretrain.train.total_tokens=20000"], "stages.pretrain: optim.warmup_steps .* 4 updates"),
    (["pretrain.train.total_tokens=500"], "stages.pretrain: train.total_tokens 500 is less than"),
    (["pretrain.init_from=/none/other"], "stages.pretrain: /none/other is not a run"),
    (["validate.model_run=/none/other"], "stages.validate: model_run: /none/other is not a run"),
    (["pretrain.data.train.rendered.path=/none/x"], "data.train.rendered: /none/x/manifest.json"),
    (["tokenizer.weights=train", "tokenizer.dvae.groups=7"], "stages.tokenizer: .*of the 64 of a"),
  ],
)
def test_what_no_flag_mends_is_refused_by_its_stage(flags, told):
  with pytest.raises(ConfigError, match=told):
    look(read("demo.py", *flags))


def test_a_stage_that_reads_a_later_one_is_told(tmp_path):
  config = read("demo.py")
  config.order = ("clips", "pretrain", "shards", "report")
  with pytest.raises(ConfigError) as refused:
    look(config, tmp_path)
  assert "data.train.rendered.path reads what stage 'shards' makes, which comes later" in str(
    refused.value
  )
  assert "reads what stage 'tokenizer' makes, which is not in `order`" in str(refused.value)


def test_a_run_of_a_stage_that_starts_from_another_has_its_model():
  config = read("demo.py").unlock()
  config.stages.second = config.stages.pretrain.copy_and_resolve_references()
  config.stages.second.init_from = "{workdir}/pretrain"
  config.order = ("clips", "tokenizer", "shards", "pretrain", "second")
  look(config)
  config.stages.second.model.width = 64
  config.stages.second.model.heads = 2
  with pytest.raises(ConfigError, match="stages.second: model.width is 64; .*trained with 128"):
    look(config)


def test_what_is_on_disk_counts_where_its_stage_is_done(tmp_path):
  config = read("demo.py", "clips.scene.size_px=64")
  for split in ("train", "val"):
    stores.write(tmp_path / "shards" / split, records=2, seed=1, prefix=split)
  (tmp_path / "shards" / "done.json").write_text("{}")
  with pytest.raises(ConfigError) as refused:
    look(config, tmp_path)
  assert "has grid 8" not in str(refused.value) and "vocab" in str(refused.value)


def test_the_command_line_refuses_before_anything_is_made(tmp_path):
  workdir = tmp_path / "run"
  said = runs.here(
    runs.command("configs/demo.py", workdir, f"{STAGES}clips.scene.size_px=64"), code=2
  )
  assert "stages.pretrain.sequence.grid=8" in said and not workdir.exists()


@pytest.mark.parametrize(
  "key, other",
  [
    ("train.total_tokens=1e5", "sweep.total_tokens"),
    ("optim.lr=1e-2", "sweep.log2_lr"),
    ("seed=3", "sweep.seeds"),
    ("mup.on=True", "sweep.log2_lr"),
    ("model.width=64", "sweep.models.NAME.width"),
  ],
)
def test_a_flag_that_a_copy_hides_is_refused(key, other):
  with pytest.raises(ConfigError, match=f"would change nothing: set stages.sweep.{other}"):
    read("mup_sweep.py", f"sweep.pretrain.{key}")
  read("mup_sweep.py", "sweep.pretrain.model.tied=True", "sweep.sweep.total_tokens=1e5")


def test_seeds_of_one_model_follow_its_flags():
  """The control: a key of one seed is that seed's alone."""
  flags = "pretrain.optim.lr=0.5", "pretrain.sequence.context=64", "pretrain_1.model.depth=3"
  stages = read("probe_learns.py", *flags).stages
  runs_ = [stages.pretrain, stages.pretrain_1, stages.pretrain_2]
  assert [run.optim.lr for run in runs_] == [0.5] * 3
  assert [run.sequence.context for run in runs_] == [64] * 3
  assert [run.model.depth for run in runs_] == [4, 3, 4]
  assert [run.seed for run in runs_] == [0, 1, 2]


def test_every_chain_that_ships_is_tried():
  """Those of configs/paper name stores that nobody has."""
  names = {path.name for path in pathlib.Path(runs.ROOT, "configs").glob("*.py")}
  chained = {n for n in names if "chain(" in pathlib.Path(runs.ROOT, "configs", n).read_text()}
  chained |= {"demo.py", "clips.py"}
  assert chained <= {name.partition(":")[0] for name in CHAINS}
