r"""Table 8: Kinetics-400 at 128 pixels, next-token training with probes.

  python -m totojax.main --config=configs/paper/table8.py:large \
    --workdir=gs://BUCKET/table8-large --config.model_run=gs://BUCKET/large

Rows: base, large, 1b, which begin with the runs of table1.py; stores of clips
as configs/probe_k400.py says; batches of 256 clips [gap]. The paper's top-1:
59.3, 65.3 and 74.4 %. Not run.
"""

from totojax.config import paper as paper_defaults

ROWS = {"base": 59.3, "large": 65.3, "1b": 74.4}


def get_config(row="large"):
  top1 = paper_defaults.chosen(ROWS, row, "table8")
  c = paper_defaults.joint_of_clips("", f"{paper_defaults.ROOT}/k400-dvae-16")
  c.paper.update(name=f"Table 8, {row}", top1=top1)
  return c
