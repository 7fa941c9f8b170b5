r"""A pre-trained LLaMA as transformers and vLLM read one.

  python -m totojax.main --config=configs/export.py --workdir=EXPORT --config.model_run=RUN

Leaves config.json, generation_config.json, model.safetensors and a card. Token
ids are the run's own (code c is token c + 4). --config.export.what=plain writes
the parameters of any architecture under their own names, and with
--config.export.head=False those that features need. configs/import_llama.py is
the way back.
"""

from totojax.config import roots


def get_config():
  return roots.config("export")
