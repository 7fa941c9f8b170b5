"""A trained policy: its parameters and the units of what it sees and does, as files.

A policy's folder has `policy.json` and `policy.npz`, of which the first is written
last. Numbers that a robot feels come to a policy in units of their deviation, and
all numbers of an action in one unit, so that their ratios stay as they were recorded.

Shapes: B rows, D width of features, P numbers felt, A of an action.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
from typing import Any

from etils import epath
import jax
import numpy as np

from totojax import tree as tree_lib
from totojax.config import policies as config, schema
from totojax.models import policy as policy_lib
from totojax.rundir import files
from totojax.storage import outside

_LEAST = 1e-6  # deviation that counts as one: what does not change is 0
# Deviations beyond which nothing is told apart: what hardly changed in what was
# learned from may be anywhere in a state that a policy comes to.
_MOST = 10.0


@dataclasses.dataclass(frozen=True)
class Units:
  """What is subtracted from numbers and what they are divided by."""

  felt_mean: np.ndarray  # [P]
  felt_std: np.ndarray
  features_mean: np.ndarray  # [D]; 0 and 1 where features have no units
  features_std: np.ndarray
  action: np.ndarray  # []

  @classmethod
  def of(
    cls, features_ND: np.ndarray, felt_NP: np.ndarray, action_NA: np.ndarray, *, features: bool
  ) -> "Units":
    """Those of recorded steps; `features`: whether features have units."""
    width = features_ND.shape[1]
    mean, std = _spread(features_ND) if features else (np.zeros(width), np.ones(width))
    size = float(np.sqrt(np.mean(np.square(action_NA, dtype=np.float64))))
    action = np.float32(size if size > _LEAST else 1.0)
    arrays = *_spread(felt_NP), mean, std, action
    return cls(*(np.asarray(one, np.float32) for one in arrays))

  def features(self, features_BD: np.ndarray) -> np.ndarray:
    if (self.features_std == 1).all():  # they have no units
      return np.asarray(features_BD, np.float32)
    return _scaled(features_BD, self.features_mean, self.features_std)

  def felt(self, felt_BP: np.ndarray) -> np.ndarray:
    return _scaled(felt_BP, self.felt_mean, self.felt_std)


def _scaled(x_BF: np.ndarray, mean_F: np.ndarray, std_F: np.ndarray) -> np.ndarray:
  return np.clip((x_BF - mean_F) / std_F, -_MOST, _MOST).astype(np.float32)


def _spread(table_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  std = table_NF.std(0, dtype=np.float64)
  return table_NF.mean(0, dtype=np.float64), np.where(std > _LEAST, std, 1.0)


@dataclasses.dataclass(frozen=True)
class Policy:
  """Actions of what is seen and felt."""

  model: policy_lib.Policy
  params: Any
  units: Units

  def act(self, features_BD: np.ndarray, felt_BP: np.ndarray) -> np.ndarray:
    """float32 [B, A] in the units of the recorded ones."""
    inputs = self.units.features(features_BD), self.units.felt(felt_BP)
    hashable: Any = self.model  # to pyright a module is not
    return np.asarray(_program(hashable)(self.params, *inputs)) * self.units.action


@functools.cache
def _program(model: policy_lib.Policy) -> Any:
  return jax.jit(lambda params, *inputs: tree_lib.apply(model, params, *inputs))


@dataclasses.dataclass(frozen=True)
class Facts:
  """policy.json: what a policy is, and what it sees with.

  Attributes:
    row: "blind", "state", "pixels", or an encoder's name.
    sees: of the config, for an encoder or pixels: `track.Tracker`'s keys.
    layer: of the encoder.
    arrays: digest of policy.npz.
  """

  head: config.PolicyHead
  norm: bool
  width: int = schema.field(0, "of features", at_least=0, at_most=2**20)
  felt: int = schema.field(0, "numbers felt", at_least=0, at_most=2**16)
  actions: int = schema.field(1, "numbers of an action", at_least=1, at_most=2**16)
  row: str = ""
  sees: dict[str, Any] = dataclasses.field(default_factory=dict)
  view: dict[str, Any] = dataclasses.field(default_factory=dict)
  layer: int = 0
  camera: str = ""
  action_names: tuple[str, ...] = ()
  arrays: str = ""


def save(folder: epath.Path, policy: Policy, facts: Facts) -> None:
  """Writes both files."""
  files.make_folder(folder)
  arrays = {f"params/{name}": np.asarray(v) for name, v in tree_lib.named_leaves(policy.params)}
  arrays |= {f"units/{name}": value for name, value in vars(policy.units).items()}
  data = files.npz(arrays, compressed=False)
  files.write_bytes(folder / "policy.npz", data)
  plain = {**dataclasses.asdict(facts), "head": schema.to_dict(facts.head)}
  plain["arrays"] = hashlib.sha256(data).hexdigest()
  files.write_json(folder / "policy.json", plain, sealed=True)


def read(folder: epath.Path) -> tuple[Policy, Facts]:
  """A policy that was saved.

  Raises:
    FileNotFoundError: there is none.
    Damaged: a file is no part of one, or the two do not belong together.
  """
  where = folder / "policy.json"
  facts = outside.fields(Facts, where, files.read_json(where))
  path = folder / "policy.npz"
  if hashlib.sha256(files.read_bytes(path)).hexdigest() != facts.arrays:
    raise outside.Damaged(path, f"it is not the one that {where} was written with")
  arrays = files.read_npz(path)
  model = policy_lib.Policy(facts.head, facts.actions, facts.norm)
  shapes = _shapes(model, facts)
  there = {name: value.shape for name, value in arrays.items()}
  if there != shapes:
    wrong = sorted(there.items() ^ shapes.items())[0][0]
    raise outside.Damaged(
      path, f"{wrong:.80} is {there.get(wrong)}, and {where} asks for {shapes.get(wrong)}"
    )
  for name, value in arrays.items():
    if value.dtype != np.float32 or not np.isfinite(value).all():
      raise outside.Damaged(path, f"{name} is {value.dtype}, or not finite; it must be float32")
  units = Units(**{f.name: arrays[f"units/{f.name}"] for f in dataclasses.fields(Units)})
  if min(one.min(initial=1.0) for one in (units.felt_std, units.features_std, units.action)) <= 0:
    raise outside.Damaged(path, "a unit is not above 0")
  params = {
    name.removeprefix("params/"): v for name, v in arrays.items() if name.startswith("params/")
  }
  return Policy(model, params, units), facts


def _shapes(model: policy_lib.Policy, facts: Facts) -> Mapping[str, tuple[int, ...]]:
  """Array -> shape, of both parts of policy.npz."""
  from totojax.tasks import imitate

  task = imitate.Imitate(model, width=facts.width, felt=facts.felt)
  params = jax.eval_shape(task.init, jax.random.key(0)).params
  widths = {"felt": facts.felt, "features": facts.width}
  units = {f"units/{k}_{end}": (v,) for k, v in widths.items() for end in ("mean", "std")}
  leaves = tree_lib.named_leaves(params)
  return {f"params/{k}": v.shape for k, v in leaves} | units | {"units/action": ()}
