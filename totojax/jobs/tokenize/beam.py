"""A corpus job as an Apache Beam pipeline (the `beam` extra).

Each element is a unit; a worker loads the tokenizer once and makes the units
that it is given. A unit that is tried again writes the same bytes, so retries
are safe. The runner is any of Beam's: DirectRunner on this machine, Dataflow,
Flink or Spark with their own options. Workers must reach the run directory, the
source and the tokenizer's file under the same paths.
"""

import dataclasses
from typing import Any

import jax

from totojax.config.corpus import BeamSettings, Tokenize
from totojax.data.pixels import media, workers
from totojax.data.store import manifests, shards
from totojax.jobs.tokenize import stores, units
from totojax.rundir import provenance


def check(settings: BeamSettings) -> None:
  """Checks that the pipeline that is asked for, if any, can be started.

  Raises:
    ValueError: one process of several asks for a pipeline, or an unknown
      runner.
    ImportError: Apache Beam is missing.
  """
  if not settings.name:
    return
  if jax.process_count() > 1:
    raise ValueError(
      f"beam.name is {settings.name!r} with {jax.process_count()} processes;"
      " start a pipeline from one, without --multihost"
    )
  beam = _beam()
  try:
    beam.runners.runner.create_runner(settings.name)
  except (ValueError, ImportError, AttributeError) as error:
    raise ValueError(
      f"beam.name is {settings.name!r}, which Apache Beam does not start: {error}"
    ) from error


def make(part: stores.CorpusStore, config: Tokenize) -> None:
  """Makes the units of a store that are not made yet; waits for the end.

  Which ones these are is found out by the workers, who read what is there.

  Raises:
    RuntimeError: the pipeline failed.
  """
  beam = _beam()
  job = _Job(
    str(part.path),
    part.manifest,
    part.spec,
    config.seed,
    config.tokenizer,
    provenance.other_versions_allowed(),
  )
  options = beam.options.pipeline_options.PipelineOptions(list(config.beam.options))
  with beam.Pipeline(runner=config.beam.name, options=options) as pipeline:
    _ = (
      pipeline
      | "units" >> beam.Create(part.units)
      | "spread" >> beam.Reshuffle()
      | "make" >> beam.ParDo(_make_unit_fn(beam, job))
    )


@dataclasses.dataclass(frozen=True)
class _Job:
  """What a worker needs beside its units."""

  path: str
  head: manifests.Manifest
  spec: media.Spec
  seed: int
  tokenizer: str
  other_versions: bool

  def make(self, unit: units.Unit, tokenizer: Any) -> None:
    if units.is_made(self.path, self.head, unit.number):
      return
    provenance.allow_other_versions(self.other_versions)
    here = media.versions(unit.items[0], self.spec)
    info = {**self.head.info, manifests.DECODERS: [here]}
    head = dataclasses.replace(self.head, info=info)
    shards.check_same_head(self.path, self.head, head)
    units.make(
      unit,
      workers.decode(unit.items, self.spec, seed=self.seed, workers=0, ahead=1),
      tokenizer,
      path=self.path,
      head=head,
      progress=lambda item: None,
    )


def _make_unit_fn(beam: Any, job: _Job) -> Any:
  """The DoFn; made here because its base class is an optional package's."""

  class MakeUnit(beam.DoFn):
    """Makes units with a tokenizer that is loaded once for each worker."""

    def __init__(self):
      self._shared = beam.utils.shared.Shared()
      self._tokenizer = None

    def setup(self):
      self._tokenizer = self._shared.acquire(
        lambda: stores.tokenizer(job.tokenizer), tag=job.tokenizer
      )

    def process(self, unit):
      job.make(unit, self._tokenizer)
      yield unit.number

  return MakeUnit()


def _beam() -> Any:
  try:
    import apache_beam as beam
    import apache_beam.options.pipeline_options  # noqa: F401
    import apache_beam.utils.shared  # noqa: F401
  except ImportError as error:
    raise ImportError(
      'a pipeline needs Apache Beam; install it with: pip install "totojax[beam]"'
    ) from error
  return beam
