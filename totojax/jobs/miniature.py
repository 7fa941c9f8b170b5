"""`run = "miniature"`: the page of the paper's tables and figures in small, of a chain's stages."""

from etils import epath

from totojax import jobs
from totojax.config import miniature
from totojax.report import frame, kinds, miniature_page, reading
from totojax.rundir import console, directory, files


def run(config: miniature.Miniature, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Writes report.html of what is there, and pages of stages that have none; anew each time."""
  del interrupted  # seconds
  if not files.exists(workdir / "manifest.json"):  # or each stage of its chain would be a start
    directory.begin(workdir, config)
  files.write_json(workdir / "config.json", directory.written(config), sealed=True)
  folder = reading.RunFolder(workdir)
  for stage in list(miniature_page.without_page(folder)):
    run = reading.RunFolder(workdir.parent / stage)
    try:
      frame.write(workdir / miniature_page.PAGES / stage, kinds.of(run), run=run.path)
    except reading.Missing as reason:
      console.say(f"{stage} has no page: {reason}")
  console.say(f"report: {frame.write(workdir, kinds.KINDS['miniature'])}")
  return True
