"""The kinds of scenes by name."""

from collections.abc import Callable, Mapping

from totojax.config.world import KINDS as KINDS
from totojax.world import containers, hand, tabletop
from totojax.world.scene import Scene, Spec

BUILDERS: Mapping[str, Callable[[Spec], Scene]] = {
  "tabletop": tabletop.build,
  "containers": containers.build,
  "hand": hand.build,
}


def build(spec: Spec) -> Scene:
  """The scene of a spec: the same for the same spec, anywhere.

  Raises:
    ValueError: there is no such kind.
  """
  if spec.kind not in BUILDERS:
    raise ValueError(f"kind {spec.kind!r} is unknown; use one of {', '.join(BUILDERS)}")
  return BUILDERS[spec.kind](spec)
