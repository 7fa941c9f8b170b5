r"""Figure 5: masks that follow features, laid over DAVIS-2017's videos.

  python -m totojax.main --config=configs/paper/figure5.py:large \
    --workdir=figure5-large --config.encoders.toto.model_run=gs://BUCKET/large

Rows: base, large, 1b, which follow the features of the runs of table1.py, and
large_512. Of every sequence overlays/NUMBER.mp4 shows all frames with what is
annotated and what the best layer found by the rules of DINO, and NUMBER.webp five of
them; some: --config.data.sequences="('bike-packing',)". The .mp4 needs the extra
`data`. Which sequences and frames the paper shows is not told [gap]. Not run.
"""

from totojax.config import paper, track

ROWS = {"base": ("base", 256), "large": ("large", 256), "1b": ("1b", 256)}
ROWS["large_512"] = ("large", 512)  # side of a frame


def get_config(row: str = "large"):
  model, size_px = paper.chosen(ROWS, row, "figure5")
  c = track.job("davis", f"toto=runs/{model}")
  c.baselines = ()
  c.data.root = f"{paper.ROOT}/DAVIS"
  c.frames.size_px = size_px
  c.output.update(sequences=30, width_px=480)  # all that are validated
  return c
