"""One page about runs: verdict, what was run, figures, samples, numbers as CSV.

  python -m totojax.main --config=configs/report.py:runs/demo
  python -m totojax.main --config=configs/report.py:runs/a,runs/b --workdir=runs/a_and_b

The page of any run directory, also of one that is not finished or that an earlier
version made, is made anew from its files; several runs stand side by side:
training and held-out curves, the settings that differ, final numbers. Writes
report/report.html into --workdir, and nothing into the runs.
"""

from totojax.config import recipes


def get_config(runs=""):
  """`runs`: FOLDER or NAME=FOLDER, with commas between several."""
  c = recipes.report("")
  c.runs = tuple(filter(None, runs.split(",")))
  return c
