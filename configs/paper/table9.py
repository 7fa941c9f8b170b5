r"""Table 9: short-term anticipation on Ego4D's validation split, v1, top-5 mAP.

  python -m totojax.main --config=configs/paper/table9.py --workdir=table9 \
    --config.model_run=gs://BUCKET/large --config.data.root=EGO4D

Toto-large, fine-tuned: Noun 15.20, N+V 6.75, N+TTC 5.41, Overall 2.70 % (StillFast
16.20, 7.47, 4.94 and 2.48). Five layers and a pyramid are the paper's; which
layers, the frames, a still or none, rates and epochs are [gap], of StillFast where
it has them. The run is that of table1.py:large. Not run.
"""

from totojax.config import paper, sta_recipes

ROWS = {"large": (15.20, 6.75, 5.41, 2.70)}  # Noun, N+V, N+TTC, Overall


def get_config(row: str = "large"):
  noun, noun_verb, noun_ttc, overall = paper.chosen(ROWS, row, "table9")
  c = sta_recipes.tuned()
  c.model_run = "runs/large"
  c.data.root = f"{paper.ROOT}/ego4d"
  c.paper.update(
    name=f"Table 9, {row}", noun=noun, noun_verb=noun_verb, noun_ttc=noun_ttc, overall=overall
  )
  return c
