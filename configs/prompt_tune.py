"""Makes a model promptable: pairs of pictures, then a query, and it draws the answer (A.8).

  python -m totojax.main --config=configs/prompt_tune.py --workdir=PROMPTS \
    --config.model_run=runs/demo/pretrain
  python -m totojax.main --config=configs/prompt_tune.py --workdir=PROMPTS \
    --config.model_run=RUN --config.data.root=PAIRS

Needs a finished run of pre-training. The first tunes it by 1,000 updates on
scenes that the project draws with their depth, classes, colours, turns and
edges; the second on folders of yours, PAIRS/TASK/NAME_in.png and NAME_out.png.
Leaves PROMPTS/tuned, a run as those of pre-training, and PROMPTS/report.html:
answers to held-out queries of the tuned and the untuned model beside the truth,
scores.csv and prompt_tune.json with intervals (docs/generation.md).
"""

from totojax.config import roots


def get_config():
  return roots.config("prompt_tune")
