"""`run = "report"`: one page from the run directories of a chain."""

from etils import epath

from totojax import jobs
from totojax.config import studies
from totojax.report import report
from totojax.rundir import console, directory


def run(config: studies.Report, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes report.html and loss.png."""
  del interrupted  # seconds
  directory.begin(workdir, config)
  page = report.write_report(config.chain, workdir)
  report.write_figure(config.chain, workdir)
  console.say(f"report: {page}")
  return True
