"""`run = "report"`: one page about runs, from what lies in their folders."""

from collections.abc import Iterator

from etils import epath

from totojax import jobs
from totojax.config import studies
from totojax.config.schema import ConfigError
from totojax.report import frame, kinds, reading, report, side_by_side
from totojax.rundir import console, directory


def run(config: studies.Report, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes report.html, and of a chain loss.png; made anew each time.

  Raises:
    ConfigError: no run is named, or a folder is none.
  """
  del interrupted  # seconds
  runs = list(_named(config))
  directory.begin(workdir, config)
  if len(runs) > 1:
    page = side_by_side.write(workdir, [(name, folder) for name, folder, _ in runs])
  else:
    (_, folder, kind), *_ = runs
    page = frame.write(workdir, kind, run=folder.path)
    report.write_figure(folder.path, workdir)
  console.say(f"report: {page}")
  return True


def _named(config: studies.Report) -> Iterator[tuple[str, reading.RunFolder, frame.Kind]]:
  """Name, folder and kind of page of every run."""
  given = [*filter(None, [config.chain]), *config.runs]
  if not given:
    raise ConfigError("runs is (); name run directories, as --config.runs=\"('runs/demo',)\"")
  taken: set[str] = set()
  for one in given:
    name, equals, path = one.partition("=")
    path = path if equals else one
    name = name if equals else epath.Path(path).name
    if name in taken:  # as stages of two chains are called
      name = f"{epath.Path(path).parent.name}/{name}"
    if name in taken:
      raise ConfigError(f"runs has two that are called {name!r}; write NAME=FOLDER")
    taken.add(name)
    folder = reading.RunFolder(path)
    try:
      yield name, folder, kinds.of(folder)
    except reading.Missing as reason:
      raise ConfigError(f"runs: {path} is no run directory that can be read: {reason}") from reason
