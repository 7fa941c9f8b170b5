"""Config keys of what looks at a machine (`run = "doctor"`)."""

from totojax.config.schema import field, Job, section


@section("", run="doctor")
class Doctor(Job):
  """`run = "doctor"`: what is wrong with a machine, an installation, a store or a run."""

  paths: tuple[str, ...] = field((), "stores, runs and folders that are looked at too")
  json: bool = field(False, "JSON in place of a table")
  timeout_s: float = field(120.0, "that a device or a package may take to start", above=0.0)
