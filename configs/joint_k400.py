r"""Kinetics-400 at 128 pixels: next-token training with probes (section 4.3).

  python -m totojax.main --config=configs/joint_k400.py --workdir=JOINT \
    --config.model_run=MODEL --config.data.train=TOKENS/train \
    --config.data.validation=TOKENS/val

Clips of 16 frames, every 4th, as stores of tokens that configs/tokenize.py
makes with --config.source.name=kinetics; records of one video
(--config.clip.crops) are its views, and their scores are added. [gap] Epochs
and rate are those of Table 7; at 16 x 16 tokens RoPE keeps its base. The
paper's number is that of Toto-large: Table 8, 65.3 % (base 59.3, 1b 74.4).
"""

from totojax.config import paper


def get_config():
  c = paper.joint_of_clips("", "")
  c.data.update(train="", validation="")
  c.paper.update(name="Table 8, large", top1=65.3)
  return c
