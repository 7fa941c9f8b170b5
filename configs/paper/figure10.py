r"""Figure 10: loss by position on Kinetics-400's validation videos.

  python -m totojax.main --config=configs/paper/figure10.py --workdir=figure10 \
    --config.model_run=gs://BUCKET/table1-large

position_loss.png is the figure. The paper's, read off, for Toto-large: the
first token 8.4 nats, the first frame 6.0 to 7.0, the second 3.1 to 3.9, from
the fifth on 2.4 to 3.3, with a spike at each row's start. Not run.
"""

from totojax.config import recipes


def get_config():
  return recipes.validate("table1-large")
