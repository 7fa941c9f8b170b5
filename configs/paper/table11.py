r"""Table 11: behaviour cloning of a Franka that picks a cube, from 240 trajectories.

  python -m totojax.main --config=configs/paper/table11.py:toto --workdir=TABLE11

Rows: toto (Toto-base of runs/base) and mvp (a ViT-MAE of transformers in weights/mvp).
The trajectories are RPT's, which must lie in data/rpt as a LeRobot data set; joints are
filtered and scaled as RPT's. The paper's numbers are of 16 trials on a real robot: 63 %
(10) and 75 % (12), whose Wilson intervals overlap. Trials of yours: run the policy with
configs/policy_server.py. The layer is [gap]. Not run at this size.
"""

from totojax.config import paper, robots

ROWS = {"toto": ("runs/base", 6, 10), "mvp": ("mae:weights/mvp", 12, 12)}  # what, layer, successes


def get_config(row="toto"):
  what, layer, successes = paper.chosen(ROWS, str(row), "table11")
  c = robots.paper_clone(f"{paper.ROOT}/rpt", **{row: robots.tracker(what, layer)})
  c.paper.update(name=f"Table 11, {row}", successes=successes, trials=16)
  return c
