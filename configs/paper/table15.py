r"""Table 15: the models a1 to a6, trained with µP at one learning rate.

  python -m totojax.main --config=configs/paper/table15.py:a3 \
    --workdir=gs://BUCKET/a3 --config.data.root=gs://BUCKET/vqgan-tokens

Rows: a1 to a6, on the mixture as tokens of VQGAN-16k. The printed parameter
counts fit no standard rule (`configs/audit.py`); the MLP here is the one that
the compute axis of Figure 9 agrees with. The rate is 2^-7 for all; its base
width is not printed (64 [gap]), nor how that base starts (0.02, logits times 1
[gap]): configs/mup_sweep.py has tuned ones, for untied heads. Weight decay at
this rate is that of the other runs, 0.1 [gap]. figure9.py reads
these runs. Not run.
"""

from totojax.config import paper as paper_defaults, recipes, study_recipes

# Parameters, as printed.
ROWS = {"a1": "14.8M", "a2": "77.2M", "a3": "215M", "a4": "458M", "a5": "1.2B", "a6": "1.9B"}


def get_config(row="a1"):
  paper_defaults.chosen(ROWS, row, "table15")
  c = recipes.paper(row)
  c.sequence.vocab = paper_defaults.VOCAB["vqgan-16k"]
  c.mup.on = True
  # The narrowest of Figure 11, of the same family of MLPs.
  c.mup.base_mlp_dim = study_recipes.mlp_dim(c.mup.base_width)
  c.optim.lr = 2.0**-7
  return c
