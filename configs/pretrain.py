r"""A model of a given size on your own stores of tokens, in one command.

  python -m totojax.main --config=configs/pretrain.py:small --workdir=RUN \
    --config.data.train=TOKENS/train --config.data.validation=TOKENS/val

SIZE is tiny (23,000 parameters: minutes on two cores), mini (1.3 million),
small (26 million: one GPU), base, large or 1b (Table 1), a1 to a6 (Table 15),
or gpt2-280m, gpt2-tiny, mamba-290m, mamba-tiny (Table 6).

A run is as long as 20 tokens a parameter, or fewer where there are fewer data. A
short one, to see that all works, says how many tokens it reads; what follows
from it (updates, warm-up, intervals) is said in its first lines:
  --config.train.total_tokens=200000.0

Several stores, with names and weights, paths or URLs:
  --config.data.train=mine:TOKENS/train:0.7,web:gs://BUCKET/web:0.3
  --config.data.validation=mine:TOKENS/val

Vocabulary, grid, frames and context are read from the stores, which must agree;
steps, batch, warm-up and intervals follow from the size and from how much data
there is (said in a line at the start). What a flag gives is kept, and refused
where a store says otherwise. For pixels add --config.data.encode_with=shipped;
for what it costs, --config.run=plan --config.plan.topology=v5e:2x4.
"""

from totojax.config import recipes


def get_config(size: str = "tiny"):
  return recipes.own(size)
