r"""A LLaMA of transformers, or Meta's files, as a run to start from.

  python -m totojax.main --config=configs/import_llama.py --workdir=IMPORTED \
    --config.importing.path=FOLDER

Leaves IMPORTED/model, a run of pre-training of no update: for `model_run`,
`init_from` and `totojax.load`. An export of ours says which tokenizer and
sequence it has; of other models of visual tokens name them, and their rows:

  --config.importing.tokenizer=TOKENIZER.safetensors --config.importing.codes_at=0 \
  --config.importing.specials='(-1,-1,-1,-1)' \
  --config.importing.grid=16 --config.importing.frames=16

A model of text gives its blocks alone, for tokens that it is to learn:
--config.importing.codes_at=-1 with tokenizer, grid and frames as above. EasyLM's
tensors under transformers' names have --config.importing.layout=neighbours.
"""

from totojax.config import roots


def get_config():
  return roots.config("import")
