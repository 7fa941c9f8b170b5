"""A chain for tests of several processes: train, validate and probe."""

from ml_collections import ConfigDict

from configs import smoke
from totojax.config import recipes

MODEL = "{workdir}/pretrain"


def get_config() -> ConfigDict:
  pretrain = smoke.get_config()
  pretrain.train.total_tokens = 128 * 40.0
  pretrain.checkpoint.best = "moving/loss"  # named by the first host, read by all
  probe = recipes.probe(MODEL, "", "")
  # Features are kept in one process only: the same way for any number of them.
  probe.backbones, probe.cache = ("trained",), "off"
  probe.train.update(epochs=4.0, batch_rows=16, score_rows=32)
  probe.optim.update(name="adamw", lrs=(0.03,), weight_decays=(0.0,), lr_rows=0, warmup_epochs=1.0)
  probe.every = recipes.every(log=1, evaluate=1000, checkpoint=1000)
  return recipes.chain(pretrain=pretrain, validate=recipes.validate(MODEL), probe=probe)
