r"""Figure 8: every layer by four tasks: ImageNet-1k, Kinetics-400, DAVIS, robots.

  python -m totojax.main --config=configs/paper/figure8.py:large \
    --workdir=figure8-large --config.stages.imagenet.model_run=gs://BUCKET/large \
    --config.stages.kinetics.model_run=gs://BUCKET/large \
    --config.stages.davis.encoders.toto.model_run=gs://BUCKET/large

Rows: base, large, 1b, whose runs of table1.py are below runs/. A chain of three
stages, `imagenet`, `kinetics` and `davis`, each of which leaves its panel as
layer_curve.png and its numbers as per_layer.csv; one alone:
--config.order="('davis',)". The panel of robots is configs/dagger.py with several
layers of a run. Heads are those of figure4.py and Table 16 [gap]. The paper says that the first
three peak at about half of the depth. Not run.
"""

from totojax.config import paper, recipes, track

ROWS = {"base": "runs/base", "large": "runs/large", "1b": "runs/1b"}


def get_config(row: str = "large"):
  run = paper.chosen(ROWS, row, "figure8")
  imagenet = paper.attention_probe(paper.linear_probe(run, name="", top1=0.0))
  kinetics = paper.kinetics_probe(run, name="", top1=0.0)
  davis = track.job("davis", f"toto={run}")
  davis.data.root = f"{paper.ROOT}/DAVIS"
  return recipes.chain(imagenet=imagenet, kinetics=kinetics, davis=davis)
