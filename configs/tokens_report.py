r"""What is in stores of tokens: amounts, codes, n-grams, pictures.

  python -m totojax.main --workdir=REPORT \
    --config=configs/tokens_report.py:k600=TOKENS/k600,in=TOKENS/in \
    --config.tokens_report.tokenizer=TOKENIZER.safetensors

After the colon: name=path of each store. Writes report.html (Figures 3, 12 and
13, Table 2), tokens.json, CSV files and figures.
"""

from totojax.config import recipes


def get_config(stores: str = ""):
  c = recipes.tokens_report()
  for part in filter(None, stores.split(",")):
    name, equals, path = part.rpartition("=")
    c.tokens_report.stores[name if equals else path.strip("/")] = path
  return c
