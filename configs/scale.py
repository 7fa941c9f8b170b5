r"""One dial: a model of any size on your own stores, with all else that follows from it.

  python -m totojax.main --config=configs/scale.py:20m --workdir=RUN \
    --config.data.train=TOKENS/train --config.data.validation=TOKENS/val

SIZE is the number of parameters of the blocks, from 20k (minutes on a laptop)
to 1b; 20m-tpu has heads of 128, which fill a TPU's matrix unit. Width, depth,
heads, tokens and batch follow from it, and the rate by µP
(totojax/config/dial.py), which is printed with the reasons. Flags change any of
it, and stores decide what they decide for configs/pretrain.py.
"""

from totojax.config import dial


def get_config(size="1m"):
  choice = dial.choose(*dial.read(size))
  for line in dial.reasons(choice):
    print(f"scale {size}: {line}")
  return dial.config(choice)
