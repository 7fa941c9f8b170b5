r"""Where is the snitch? CATER's localisation, and a stand-in that is rendered (Table 12).

  python -m totojax.main --config=configs/cater.py

renders clips in which cones cover and carry a golden snitch, as CATER lies on
disk (extras `world` and `data`), tokenises them with a tokenizer that ships with
the package, pre-trains a small model on them, fine-tunes all of it with section
3.5's attention probe and scores it: top-1, top-5 and L1 on all clips that were
held out and on exactly those in which the snitch is carried while it is hidden,
beside the last visible place, the most frequent cell and chance, with intervals.
After the colon, KEY=VALUE with commas between:

  root    a folder that is rendered, or CATER itself; nothing is rendered then
  seeds   runs of fine-tuning, of which the mean is reported (1)

Of CATER itself at the paper's sizes: configs/paper/table12.py. Rates, sizes and epochs
of the stand-in are chosen, not tuned; what came out is in docs/tracking.md.
"""

from totojax.config import cater


def get_config(argument: str = ""):
  return cater.chain(argument)
