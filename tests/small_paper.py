"""The paper in miniature, shrunk to what a test can wait for: a few updates on a few pictures."""

from totojax.config import recipes


def shrunk(config):
  """In place: every stage of configs/paper/miniature.py, by its job."""
  for stage in config.stages.values():
    with stage.unlocked():
      _STAGES.get(stage.run, lambda stage: None)(stage)
  return config


def _render(c):
  c.amount.update(train=60, val=24, records_per_shard=64)


def _shards(c):
  c.tokenizing.update(records=32, records_per_shard=64, report_frames=32)
  c.tokenizing.update(kmeans_frames=32, kmeans_patches=600)


def _pretrain(c):
  batch = 8 * c.sequence.context  # of eight devices
  c.train.update(batch_tokens=batch, total_tokens=float(4 * batch))
  c.optim.warmup_steps = 1
  c.validation.rows = 8
  c.every = recipes.every(log=1, evaluate=2, checkpoint=2)


def _labels(c):
  c.train.update(epochs=1.0, batch_rows=16, score_rows=16)
  c.data.holdout_frac = 0.2
  if "backbones" in c:
    c.backbones = ("trained",)
    c.data.update(train_pixels="", validation_pixels="")
  if "warmup_epochs" in c.optim:
    c.optim.warmup_epochs = 0.0
  if "lrs" in c.optim:
    c.optim.update(lrs=c.optim.lrs[:1], weight_decays=c.optim.weight_decays[:1])


def _world(c):
  if c.output.format == "davis":
    c.amount.val = 3
    c.scene.update(width_px=64, height_px=64, frames=4)
  else:
    train = 400 if c.output.format == "cater" else 24  # of each of 36 classes some
    c.amount.update(train=train, val=12)


def _track(c):
  c.select, c.frames.size_px = 1, c.frames.size_px // 4


def _sweep(c):
  _pretrain(c.pretrain)
  c.sweep.total_tokens = (c.pretrain.train.total_tokens,)
  c.sweep.seeds = c.sweep.seeds[:1]
  c.sweep.models = dict(list(c.sweep.models.items())[:1])
  c.sweep.log2_lr.mup = (-8.0, -6.0, -4.0)


def _sta(c):
  c.data.validation_queries = 8
  c.train.update(epochs=0.1, batch_rows=4, score_rows=4)
  c.optim.warmup_epochs = 0.0


def _record(c):
  c.episodes = 10


def _clone(c):
  c.trials, c.train.epochs, c.train.warmup_epochs = 2, 2.0, 0.0
  c.data.episodes = 8


def _dagger(c):
  c.update(iterations=2, episodes=2, trials=2, seeds=1)
  c.train.epochs = 2.0


_STAGES = {
  "render": _render,
  "shards": _shards,
  "pretrain": _pretrain,
  "probe": _labels,
  "joint": _labels,
  "finetune": _labels,
  "world": _world,
  "track": _track,
  "sweep": _sweep,
  "sta": _sta,
  "record": _record,
  "clone": _clone,
  "dagger": _dagger,
}
