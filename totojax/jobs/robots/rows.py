"""What policies see, row by row of a table: encoders, their layers, and baselines.

Shapes: B frames or steps, H and W pixels, S numbers of a state, D width.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np

from totojax.config import policies as config_lib, schema, track
from totojax.trained import policies, views

BLIND, STATE, PIXELS, UNTRAINED = "blind", "state", "pixels", "untrained"


@dataclasses.dataclass(frozen=True)
class Sight:
  """What makes features of a row.

  Attributes:
    of: (frames uint8 [B, H, W, 3] or None, states [B, S]) -> float32 [B, D].
    plain: whether features are a state, which has units.
    drawn: whether it needs frames.
    facts: what other features would differ in.
  """

  of: Callable[[np.ndarray | None, np.ndarray], np.ndarray]
  plain: bool
  drawn: bool
  facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """An encoder at one layer, or a baseline."""

  name: str
  layer: int
  sees: track.Tracker | None  # None: a baseline without frames
  several: bool = False  # whether its encoder has other rows of other layers

  @property
  def key(self) -> str:
    """Its folder's name."""
    return f"{self.name}-layer{self.layer}" if self.sees else self.name

  def load(self, view: config_lib.CameraView) -> Sight:
    """Loads the encoder; raises as `views.load`."""
    if self.sees is None:
      return _STATE if self.name == STATE else _BLIND
    loaded = views.load(self.sees, view)

    def of(frames_BHW3: np.ndarray | None, state_BS: np.ndarray) -> np.ndarray:
      del state_BS
      assert frames_BHW3 is not None
      return loaded.of(frames_BHW3)[0]

    return Sight(of, plain=False, drawn=True, facts=loaded.facts)

  def facts(self, config: config_lib.Policies, policy: policies.Policy, **more: Any) -> Any:
    """What `policies.save` says of a policy of this row."""
    return policies.Facts(
      head=config.head,
      norm=policy.model.norm,
      width=len(policy.units.features_mean),
      felt=len(policy.units.felt_mean),
      actions=policy.model.actions,
      row=self.name,
      sees={} if self.sees is None else schema.to_dict(self.sees),
      view=schema.to_dict(config.view),
      layer=self.layer,
      **more,
    )


_BLIND = Sight(
  lambda frames, state_BS: np.zeros((len(state_BS), 0), np.float32),
  plain=False,
  drawn=False,
  facts={"sees": "nothing"},
)
_STATE = Sight(
  lambda frames, state_BS: np.asarray(state_BS, np.float32),
  plain=True,
  drawn=False,
  facts={"sees": "state"},
)


def of(config: config_lib.Policies, *, state: bool = True) -> list[Row]:
  """All rows of a config; `state`: whether states are known.

  Raises:
    ValueError: there is no such encoder or run, or it has no such layer.
  """
  found = []
  for name, one in config.encoders.items():
    layers = views.layers_of(one)
    for layer in layers:
      at = dataclasses.replace(one, layers=(layer,))
      found.append(Row(name, layer, at, len(layers) > 1))
      if UNTRAINED in config.baselines and one.model_run and not one.untrained:
        before = dataclasses.replace(at, untrained=True)
        found.append(Row(f"{name}-{UNTRAINED}", layer, before, len(layers) > 1))
  if PIXELS in config.baselines:
    found.append(Row(PIXELS, 0, track.Tracker(encoder=f"pixels:{config.pixels_side}", layers=(0,))))
  if BLIND in config.baselines:
    found.append(Row(BLIND, 0, None))
  if STATE in config.baselines and state:
    found.append(Row(STATE, 0, None))
  return found
