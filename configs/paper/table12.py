r"""Table 12: fine-tuning Toto-large to find CATER's snitch.

  python -m totojax.main --config=configs/paper/table12.py:32 \
    --workdir=gs://BUCKET/table12-32 --config.stages.finetune.model_run=gs://BUCKET/large

Rows: 16 and 32 frames of 16 x 16 tokens, 4,096 and 8,192, evenly spread over the
whole video with its last frame among them; from the run of table1.py:large. CATER
of a camera that stands still (all_actions) is below data/cater. The paper's top-1:
62.8 and 72.9 %; its text has 70.9 for the latter (configs/audit.py). Rate and
epochs of fine-tuning are [gap]; no flip and no crop, which would change the class.
RoPE's base is 50,000 at 32 frames [gap]: section 4.2's, for four times the tokens.
Next tokens beside the classes: --config.stages.finetune.head.next_token=0.1
--config.stages.finetune.model.prefix_tokens=0. Not run.
"""

from totojax.config import cater, paper

ROWS = {"16": (16, 10_000.0, 62.8), "32": (32, 50_000.0, 72.9)}  # frames, RoPE's base, top-1


def get_config(row="32"):
  frames, rope_base, top1 = paper.chosen(ROWS, str(row), "table12")
  c = cater.paper_chain(f"{paper.ROOT}/cater", "runs/large", frames, paper.tokenizer_file("dvae"))
  c.stages.finetune.model.rope_base = rope_base
  c.stages.finetune.paper.update(name=f"Table 12, {frames} frames", top1=top1)
  return c
