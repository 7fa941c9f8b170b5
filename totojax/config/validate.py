"""Config keys of the loss of a pre-trained model by position."""

from collections.abc import Mapping

from totojax.config.schema import field, Job, section


@section("", run="validate")
class Validate(Job):
  """`run = "validate"`: loss of a pre-trained model by position."""

  model_run: str = field("", 'run directory of `run = "pretrain"`')
  rows: int = field(0, "sequences of each source; 0: all", at_least=0)
  validation: Mapping[str, str] | None = field(
    None, "name -> held-out store, in place of the run's", optional=True
  )
