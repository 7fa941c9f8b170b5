"""Config keys of the paper in miniature: which number of which run stands beside the paper's.

`configs/paper/miniature.py` has the table; here are its columns, and what is
run of it.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from totojax.config import recipes, roots, studies
from totojax.config.schema import ConfigError, field, Job, Section, section

PAGE = "page"  # the stage that writes the page


@section("parts.NAME.rows.NAME")
class Row(Section):
  """A number of the paper, and what is shown beside it."""

  stage: str = field("", "whose number is ours; '': none")
  what: str = field("", "which of its numbers; '': the one that it has")
  paper: str = field("", "the paper's; '': it prints none")
  why_not: str = field("", "why there is none of ours")

  def __post_init__(self):
    if bool(self.stage) == bool(self.why_not):
      raise ConfigError(
        f"a row has stage {self.stage!r} and why_not {self.why_not!r}; name the run that gives its"
        " number, or say why there is none"
      )


@section("parts.NAME")
class Part(Section):
  """A table or figure of the paper."""

  title: str = field("", "as the paper calls it")
  about: str = field("", "what it asks")
  rows: Mapping[str, Row] = field({}, "name -> numbers; {}: none are taken")
  order: tuple[str, ...] = field((), "of the rows, as the page has them", once=True)
  stages: tuple[str, ...] = field((), "runs whose pages belong to it, beside those of rows")
  differs: str = field("", "what is not as in the paper, but for sizes")
  best: str = field("", "which row the paper argues for", choices=("", "highest", "lowest"))
  at_size: str = field("", "the config at the paper's size")
  why_not: str = field("", "why it cannot be run in small; '': it can")

  def __post_init__(self):
    if {*self.order} != {*self.rows}:
      raise ConfigError(f"order is {self.order}; name each of {(*self.rows,)}")
    if bool(self.runs) == bool(self.why_not):
      raise ConfigError(
        f"a part has the runs {self.runs} and why_not {self.why_not!r}; name runs, or say why"
        " there is none"
      )

  @property
  def runs(self) -> tuple[str, ...]:
    """Its stages, each once."""
    of_rows = (row.stage for row in self.rows.values() if row.stage)
    return tuple(dict.fromkeys((*of_rows, *self.stages)))


@section("", run="miniature")
class Miniature(Job):
  """`run = "miniature"`: the page of a chain's stages beside the paper's numbers.

  A stage of that chain itself, so that the others lie beside it.
  """

  parts: Mapping[str, Part] = field({}, "name -> a table or figure")
  order: tuple[str, ...] = field((), "of the parts, as the page has them", once=True)

  def __post_init__(self):
    if {*self.order} != {*self.parts}:
      raise ConfigError(f"order is {self.order}; name each of {(*self.parts,)}")


def chosen(argument: str, parts: Mapping[str, Part]) -> tuple[str, ...]:
  """Names of the parts that "parts=table3+figure5" after a config's colon names; "": all that run.

  Raises:
    ConfigError: it is something else, or names no part, or one that cannot be run.
  """
  able = [name for name, part in parts.items() if not part.why_not]
  if not argument:
    return tuple(able)
  key, _, value = argument.partition("=")
  names = tuple(filter(None, value.split("+")))
  if key != "parts" or not names:
    raise ConfigError(f"{argument!r} is not understood; write parts=NAME+NAME of {', '.join(able)}")
  for name in names:
    if name not in parts:
      raise ConfigError(f"part {name!r} is unknown; use {', '.join(able)}")
    if parts[name].why_not:
      raise ConfigError(f"part {name!r} cannot be run in small: {parts[name].why_not}")
  return names


def chain(
  names: tuple[str, ...], parts: Mapping[str, Part], stages: Mapping[str, ConfigDict]
) -> ConfigDict:
  """`run = "chain"`: the stages of some parts, what these read, and the page of all parts.

  Args:
    names: of the parts that are run.
    parts: all.
    stages: of all parts, in an order in which they can be run.
  """
  needed: set[str] = set()
  more = [stage for name in names for stage in parts[name].runs]
  while more:
    if (stage := more.pop()) not in needed:
      needed.add(stage)
      more += studies.reads(stages[stage].to_dict())
  kept = {name: stage for name, stage in stages.items() if name in needed}
  kept[PAGE] = roots.config("miniature", parts=dict(parts), order=tuple(parts))
  c = recipes.chain(**kept)
  c.keep_going = True
  return c


def under(prefix: str, chain: ConfigDict) -> dict[str, ConfigDict]:
  """The stages of another chain as PREFIX_NAME, which read each other by these names."""
  names = set(chain.stages)

  def renamed(value):
    if isinstance(value, str):
      return studies.STAGE.sub(
        lambda m: f"{{workdir}}/{prefix}_{m[1]}" if m[1] in names else m[0], value
      )
    if isinstance(value, Mapping):
      return {key: renamed(one) for key, one in value.items()}
    return type(value)(map(renamed, value)) if isinstance(value, tuple | list) else value

  return {
    f"{prefix}_{name}": ConfigDict(renamed(chain.stages[name].to_dict())) for name in chain.order
  }
