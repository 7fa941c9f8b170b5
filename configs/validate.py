r"""What a pre-trained model knows of held-out tokens: loss by position.

  python -m totojax.main --config=configs/validate.py --workdir=VALIDATION \
    --config.model_run=RUN --config.validation=NAME:TOKENS/val

Without stores it is of those of the run. Leaves `metrics.json` (nats per visual
token with standard errors, beside unigram and copy baselines), CSV files by
position, frame and row, and Figure 10's curve. --config.rows=1000 is quicker.
"""

from totojax.config import recipes


def get_config():
  return recipes.validate("")
