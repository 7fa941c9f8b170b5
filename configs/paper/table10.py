r"""Table 10: DAVIS-2017 by features of every layer (Figures 5 and 8: figure5.py, figure8.py).

  python -m totojax.main --config=configs/paper/table10.py:large \
    --workdir=table10-large --config.encoders.toto.model_run=gs://BUCKET/large

Rows: base, large, 1b (256/8) and large_512 (512/8), which follow the features of
the runs of table1.py. Rules of DINO, whose rows stand beside ours there, and of
STC, which section 4.5 names. 32 x 32 tokens are Table 4's; 64 x 64 are four times
those, [gap] which may want --config.frames.rope_base. The paper's J&F: 42.0, 44.8,
46.1 and 62.4 %. Not run.
"""

from totojax.config import paper, track

# Name -> (model, side of a frame, printed J&F in per cent).
ROWS = {
  "base": ("base", 256, 42.0),
  "large": ("large", 256, 44.8),
  "1b": ("1b", 256, 46.1),
  "large_512": ("large", 512, 62.4),
}


def get_config(row: str = "base"):
  model, size_px, score = paper.chosen(ROWS, row, "table10")
  c = track.job("davis", f"dino+stc,toto=runs/{model}")
  c.data.root = f"{paper.ROOT}/DAVIS"
  c.frames.size_px = size_px
  c.paper.update(name=f"Table 10, {row}", score=score)
  return c
