"""Does pre-training pay? Probes of three small models on motion and on shape.

  python -m totojax.main --config=configs/probe_learns.py

Renders clips in which one large object moves right, left, up or down, turns
them into tokens with the tokenizer that ships with the package, pre-trains the
same small model from three seeds, without a class, and probes every layer of
each on two questions: where does the object go, which no single frame tells,
and which of five shapes is it. Beside the trained model stand the same model
untrained, small pixels and the histogram of tokens. What it took and gave on 2
CPU cores is in docs/results.md.

The clips of the second question are others, seen by no pre-training. Results:
runs/probe_learns/seeds/per_layer.csv (every head of every seed),
seeds/metrics.json (means and intervals) and report/report.html.
"""

from totojax.config import pixel_recipes, recipes, small_runs

SEEDS = (0, 1, 2)
STAGES = {"motion": "", "shape": "shape_"}  # of a question's clips and shards
LABELLED = {"motion": 3000, "shape": 1500}  # clips, a hold-out among them
FRAMES, GRID, BATCH, STEPS = 8, 4, 32, 1000


def get_config():
  c = small_runs.videos_to_report(
    _clips("motion", train=6000, val=1000, seed=0),
    name="rendered",
    grid=GRID,
    batch=BATCH,
    steps=STEPS,
  )
  first = {name: c.stages[name] for name in c.order}
  report = first.pop("report")
  _pretraining(first["pretrain"])

  # Only with weights=train: the recipe of configs/tokenizer.py in short.
  small_runs.small_dvae(first["tokenizer"], steps=600)
  first["tokenizer"].data.train = {"rendered": recipes.source("{workdir}/clips/train", 1.0)}
  first["tokenizer"].data.validation = {"rendered": "{workdir}/clips/val"}

  more = {
    "shape_clips": _clips("shape", train=LABELLED["shape"], val=2000, seed=1),
    "shape_shards": pixel_recipes.shards(
      "{workdir}/shape_clips", "{workdir}/tokenizer/tokenizer.safetensors"
    ),
  }
  runs = {question: [] for question in STAGES}
  for seed in SEEDS:
    model = f"pretrain_{seed}" if seed else "pretrain"
    if seed:
      more[model] = recipes.follower(first["pretrain"])
      more[model].seed = seed
    for question in STAGES:
      name = f"{question}_{seed}"
      more[name] = _probe(model, question, seed)
      runs[question].append("{workdir}/" + name)
  return recipes.chain(**first, **more, seeds=small_runs.probe_seeds(**runs), report=report)


def _clips(label, *, train, val, seed):
  c = pixel_recipes.render(train=train, val=val)
  c.seed = seed
  c.amount.label = label
  small_runs.one_way(c)
  c.scene.update(frames=FRAMES, speed=(0.10, 0.15))  # half a token's width in each frame
  return c


def _pretraining(c):
  tokens = FRAMES * GRID**2
  c.sequence.update(frames=FRAMES, context=tokens)
  c.train.update(batch_tokens=BATCH * tokens, total_tokens=float(STEPS * BATCH * tokens))
  c.model.update(depth=4, heads=4)
  c.optim.lr = 3e-3
  c.every = recipes.every(log=20, evaluate=250, checkpoint=250)


def _probe(model, question, seed):
  stem = "{workdir}/" + STAGES[question]
  c = small_runs.small_probe("{workdir}/" + model, f"{stem}shards", f"{stem}clips")
  c.seed = seed
  c.data.train_records = LABELLED[question]
  c.train.epochs = 100.0
  # Of this grid the trained model's features want the fastest rate and the
  # least decay, and the histogram the most decay.
  c.optim.update(lrs=(1e-2, 3e-2, 1e-1), weight_decays=(0.01, 3.0))
  return c
