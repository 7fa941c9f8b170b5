"""What the page about a chain of runs shows: what it did, and what the model learned.

Each section is a function of the chain's folder. A new section is one more
function in SECTIONS; stages that none of these is about are added by `kinds`.
"""

from etils import epath

from totojax.report import (
  frame,
  layer_sections,
  model_sections,
  plots,
  reading,
  run_sections,
  token_sections,
  video_sections,
)


def write_figure(chain: epath.PathLike, workdir: epath.PathLike) -> None:
  """Writes `loss.png`, the first figure of the page, for use elsewhere.

  Nothing is written where the chain has not trained.
  """
  try:
    draw, _ = model_sections.learning(reading.RunFolder(chain))
  except reading.Missing:
    return
  plots.write(epath.Path(workdir) / "loss.png", draw)


SECTIONS: tuple[frame.Section, ...] = (
  ("", run_sections.in_short),
  ("Against baselines", model_sections.headline),
  ("Learning", model_sections.loss_curves),
  ("Continued videos", video_sections.of_chain),
  ("What each layer knows", layer_sections.probes),
  ("What neighbours tell", layer_sections.all_neighbours),
  ("Where in the video the loss is", model_sections.position_loss),
  ("Frames and rows", model_sections.group_loss),
  ("While it was trained", video_sections.while_trained),
  ("What the tokenizer keeps", token_sections.reconstructions),
  ("How the codes are used", token_sections.codes),
  ("Data", token_sections.skipped),
  ("Time", run_sections.timings),
)
PAPER = ("Figure 1", "Figure 2", "Figure 3", "Figure 10")
