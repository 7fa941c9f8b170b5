r"""Table 2: how many images, videos and tokens the mixture has.

  python -m totojax.main --config=configs/paper/table2.py --workdir=table2

Counts what is in the stores of configs/tokenize.py, below `data/`; the report
shows Table 2's numbers beside ours. The paper counts tokens at every frame, a
store holds every 4th. Its 13.9 M images are ImageNet-21k's number under the
name of ImageNet-1k [gap]. Not run on these data sets.
"""

from totojax.config import paper as paper_defaults, recipes


def get_config():
  c = recipes.tokens_report()
  c.tokens_report.stores = {
    path.partition("/")[0]: f"{paper_defaults.ROOT}/{path}" for path in recipes.MIXTURE
  }
  return c
