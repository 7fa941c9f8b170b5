"""Short-term anticipation at its full size, and small enough for 2 CPU cores."""

from ml_collections import ConfigDict

from totojax.config import schema, sta
from totojax.config.schema import ConfigError

SIZES = ("full", "small")


def tuned(size: str = "full") -> ConfigDict:
  """The paper's protocol; raises ConfigError for an unknown size."""
  c = schema.to_config(sta.Sta())
  if _is_small(size):
    _shrink(c)
    c.optim.update(lr=1e-3, layer_decay=1.0)
  return c


def frozen(size: str = "full") -> ConfigDict:
  """The frozen protocol; raises as `tuned`."""
  c = schema.to_config(sta.StaFrozen())
  if _is_small(size):
    _shrink(c)
    c.probe.heads = 4
    c.optim.update(lr=1e-3, warmup_steps=50)
  return c


def _is_small(size: str) -> bool:
  if size not in SIZES:
    raise ConfigError(f"size {size!r} is unknown; use {schema.either(map(repr, SIZES))}")
  return size == "small"


def _shrink(c: ConfigDict) -> None:
  """In place: 4 frames of 64 pixels and one of 96, two maps, 32 regions."""
  c.data.update(frames=4, stride=2, clip_px=64, still_px=96, most_objects=4, mirror=False)
  c.data.update(train_queries=1200, validation_queries=400)
  c.detector.update(
    width=32,
    scales=(2.0, 1.0),
    anchor_cells=3.0,
    anchors=64,
    candidates=64,
    proposals=64,
    eval_candidates=64,
    eval_proposals=48,
    regions=32,
    region_bins=5,
    hidden=96,
    scored=96,
    detections=20,
  )
  c.train.update(epochs=15.0, batch_rows=8, score_rows=16)
  c.every.update(log_steps=20, eval_steps=1000, checkpoint_steps=200)
