"""The paper's parameter counts, tokens and compute, worked out again.

  python -m totojax.main --config=configs/audit.py

Tables 1, 2, 4, 6 and 15 and the units of the scaling law, value by value: what
is printed, what follows from the rest of the paper, and where the two disagree.
Needs no data. Writes audit.csv.
"""

from totojax.config import recipes


def get_config():
  return recipes.audit()
