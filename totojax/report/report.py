"""One page about a chain of runs: what it did, and what the model learned.

`write_report` reads the run directories of a chain (see `files`) and writes a
single HTML file. Each section is a function of the folder; one whose file is
missing says which, and the others are not affected. A new section is one more
function in SECTIONS.
"""

from etils import epath

from totojax.report import (
  layer_sections,
  model_sections,
  page,
  plots,
  reading,
  run_sections,
  token_sections,
  video_sections,
)


def write_report(chain: epath.PathLike, workdir: epath.PathLike) -> epath.Path:
  """Writes `report.html` about the runs of a chain.

  Args:
    chain: the folder that holds clips/, tokenizer/, shards/, pretrain/ and
      validate/; any of them, or any of their files, may be missing.
    workdir: where the page is written; made if need be.

  Returns:
    The page's path.
  """
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  return page.write(workdir, about="totojax report", sections=SECTIONS, run=chain)


def write_figure(chain: epath.PathLike, workdir: epath.PathLike) -> None:
  """Writes `loss.png`, the first figure of the page, for use elsewhere.

  Nothing is written where the chain has not trained.
  """
  try:
    draw, _ = model_sections.learning(reading.RunFolder(chain))
  except reading.Missing:
    return
  plots.write(epath.Path(workdir) / "loss.png", draw)


SECTIONS: tuple[page.Section, ...] = (
  ("", model_sections.headline),
  ("", run_sections.in_short),
  ("Learning", model_sections.loss_curves),
  ("Where in the video the loss is", model_sections.position_loss),
  ("", model_sections.group_loss),
  ("", video_sections.of_chain),
  ("", video_sections.while_trained),
  ("What each layer knows", layer_sections.probes),
  ("What neighbours tell", layer_sections.all_neighbours),
  ("What the tokenizer keeps", token_sections.reconstructions),
  ("How the codes are used", token_sections.codes),
  ("Data", token_sections.skipped),
  ("Time", run_sections.timings),
  ("Environment", run_sections.environment),
  ("Settings", run_sections.settings),
)
