r"""Figure 6: policies on frozen features by DAgger, two robots and two tasks.

  python -m totojax.main --config=configs/paper/figure6.py:franka-pick --workdir=FIGURE6

Panels: franka-pick, kuka-pick, franka-cabinet, kuka-cabinet. Toto-base of runs/base at
its sixth layer [gap: "an intermediate layer"], beside it before training, small frames
and the state; MVP's MAE as --config.encoders.mae... of a folder of transformers:
configs/dagger.py:toto=runs/base,mae=mae:FOLDER. The paper names DAgger and nothing more
of it: iterations, episodes, trials and epochs are [gap], and so is the expert, a script
here. Simulator, scenes and cameras are ours (docs/robots.md): MVP's runs no more. The
paper prints a curve and no number. Not run at this size.
"""

from totojax.config import paper, robots

ROWS = {
  "franka-pick": ("pick", "panda"),
  "kuka-pick": ("pick", "iiwa"),
  "franka-cabinet": ("cabinet", "panda"),
  "kuka-cabinet": ("cabinet", "iiwa"),
}


def get_config(row="franka-pick"):
  task, arm = paper.chosen(ROWS, str(row), "figure6")
  return robots.paper_dagger(task, arm, toto=robots.tracker("runs/base", 6))
