r"""The paper in miniature: every table and figure at a laptop's size, on one page.

  python -m totojax.main --config=configs/paper/miniature.py

Renders pictures and clips (extras `world`, `data`, `robots`), trains small models on their
tokens and asks of them what the paper asks of its own; runs/miniature/page/report.html
has the paper's number of every table and figure, ours with its interval and the size
that it is of, what differs, and the page of each run. The sizes are not the paper's,
and the page says so first. It takes hours on 2 cores, goes on where it was stopped, and
a part that fails leaves the others alone. Some of it:

  python -m totojax.main --config=configs/paper/miniature.py:parts=table3+figure5

Parts are called as the files of this folder; what two of them need is made once. Each
file beside this one has its table or figure at the paper's size.
"""

from collections.abc import Mapping

from totojax import plugins
from totojax.config import (
  arguments,
  cater,
  miniature,
  miniature_recipes as small,
  pixel_recipes,
  recipes,
  robots,
  sta_recipes,
  study_recipes,
)
from totojax.report import paper as printed, scaling as laws

IMAGENET = "rendered pictures of five shapes in place of ImageNet-1k"
KINETICS = "rendered clips in which a thing goes one of four ways in place of Kinetics-400"
HOUR = "left out of the miniature for its time; run {}"
WIDTHS = dict(a1=32, a2=48, a3=64, a4=96, a5=128, a6=160)  # one depth: 4
UNTRAINED = "the model of 16, untrained, average"  # a row that the paper has not
RATES = (-8.0, -7.0, -6.0, -5.0, -4.0)


def get_config(argument: str = ""):
  """`argument`: parts=NAME+NAME, or nothing for all."""
  parts = {**tables(), **figures()}
  return miniature.chain(miniature.chosen(argument, parts), parts, stages())


def beside(name: str):
  """The module of a config of this package."""
  return plugins.run_file(arguments.config_path(f"configs/{name}.py"))


def rows_of(table: str) -> Mapping:
  """The rows of a table or figure, with the paper's numbers."""
  return beside(f"paper/{table}").ROWS


def row(stage: str = "", paper: object = "", what: str = "", why_not: str = "") -> miniature.Row:
  return miniature.Row(stage=stage, what=what, paper=str(paper), why_not=why_not)


def part(name: str, title: str, about: str, rows: Mapping, **keys) -> dict[str, miniature.Part]:
  """A part by its name, which is that of the file that has it at the paper's size."""
  keys |= {"rows": rows, "order": (*rows,), "at_size": f"configs/paper/{name}.py"}
  return {name: miniature.Part(title, about, **keys)}


def top1(table: str, **stages: str) -> dict[str, miniature.Row]:
  """A row for each stage, whose name with "_" before it is the table's."""
  last = {key: one[-1] if isinstance(one, tuple) else one for key, one in rows_of(table).items()}
  return {key: row(stages[f"_{key}"], f"{value} %") for key, value in last.items()}


def models(prefix: str) -> dict[str, str]:
  """Stages of the three models by the rows of their table."""
  return {f"_{name}": f"{prefix}_{name}" for name in small.SIZES}


def tables() -> dict[str, miniature.Part]:
  """The tables."""
  third, tokens = rows_of("table3"), printed.TABLE_2_TOKENS
  of_third = {"dvae16": "probe_16", "dvae32": "probe_32", "vqgan16k": "probe_f8"}
  files = "probes of models of patches read files of images, and the pictures here are stores"
  no_third = {"patch": files, "patch_dvae16": files}
  no_third["vqgan1k"] = "no other codebook of about 1,000 codes ships"
  third = {
    key: row(of_third.get(key, ""), f"{one[2]} %", why_not=no_third.get(key, ""))
    for key, one in sorted(third.items(), key=lambda pair: pair[0] != "dvae16")
  }
  ego = dict(zip(("noun", "noun_verb", "noun_ttc", "overall"), rows_of("table9")["large"]))
  tracks = {key: one[2] for key, one in rows_of("table10").items()}
  trials = {key: f"{one[2]} of 16 trials" for key, one in rows_of("table11").items()}
  snitch = {key: one[2] for key, one in rows_of("table12").items()}
  tuned = {key: one[1] for key, one in rows_of("table13").items()}
  return {
    **part(
      "table1",
      "Table 1",
      "three models on the mixture",
      rows={
        name: row(name, f"{loss} nats at the end of training (read off Figure 2)")
        for name, loss in rows_of("table1").items()
      },
      best="lowest",
      differs="Ours is the loss on held-out clips, on a mixture of two rendered stores in place of"
      " four data sets, with 512 codes in place of 8,192.",
    ),
    **part(
      "table2",
      "Table 2",
      "how much the mixture has",
      rows={
        "images": row("mixture", f"{tokens['ImageNet']} (ImageNet)", "images/tokens"),
        "videos": row(
          "mixture",
          ", ".join(f"{count} ({name})" for name, count in tokens.items() if name != "ImageNet"),
          "videos/tokens",
        ),
      },
      differs="The paper counts every frame, ours what is in the stores.",
    ),
    **part(
      "table3",
      "Table 3",
      "what is read and what is predicted",
      rows=third | {UNTRAINED: row("probe_16", "", "untrained")},
      best="highest",
      differs=f"{IMAGENET}; the row vqgan16k has 4,096 finite scalars of a larger tokenizer, and"
      " probes see the same pixels in every epoch. The layer is chosen on a hold-out, not the 9th.",
    ),
    **part(
      "table4",
      "Table 4",
      "fewer tokens, more, and from one to the other",
      rows={
        key: row(stage, f"{one[2]} %")
        for (key, one), stage in zip(
          rows_of("table4").items(),
          ("probe_16", "probe_32", "probe_16to32", "probe_16to32_rope"),
          strict=True,
        )
      },
      best="highest",
      differs=f"{IMAGENET}, of 32 and 64 pixels: 4 x 4 and 8 x 8 tokens.",
    ),
    **part(
      "table5",
      "Table 5",
      "attention against average pooling",
      rows={
        pool: row(stage, f"{beside('paper/table5').TOP1[pool]} %")
        for pool, stage in {"attention": "attention_16", "average": "probe_16"}.items()
      }
      | {UNTRAINED: row("probe_16", "", "untrained")},
      best="highest",
      differs=f"{IMAGENET}.",
    ),
    **part(
      "table6",
      "Table 6",
      "LLaMA, GPT-2 and Mamba",
      rows=top1("table6", _llama="probe_16", _gpt2="probe_gpt2", _mamba="probe_mamba")
      | {UNTRAINED: row("probe_16", "", "untrained")},
      best="highest",
      differs=f"{IMAGENET}; all have one rate, which was chosen for LLaMA.",
    ),
    **part(
      "table7",
      "Table 7",
      "next-token training with probes, images",
      rows=top1("table7", **models("joint_images")),
      best="highest",
      differs=f"{IMAGENET}, on 4 x 4 tokens from stores; the layer is chosen on a hold-out.",
    ),
    **part(
      "table8",
      "Table 8",
      "next-token training with probes, videos",
      rows=top1("table8", **models("joint_clips")),
      best="highest",
      differs=f"{KINETICS}; one view of each clip.",
    ),
    **part(
      "table9",
      "Table 9",
      "what a hand touches next",
      rows={key: row("hands_tuned", f"{value} %", key) for key, value in reversed(ego.items())},
      differs="Rendered hands in Ego4D's format, two maps in place of five, a model that was"
      " pre-trained on such videos. Three seeds: configs/ego4d_world.py.",
    ),
    **part(
      "table10",
      "Table 10",
      "masks that follow features",
      rows={
        key: row("tracking_256" if key == "large_512" else "tracking", f"{score} %", key[:5])
        for key, score in {**tracks}.items()
      }
      | {
        "copies of the first mask": row("tracking", "", "copy"),
        "patches of pixels": row("tracking", "", "pixels"),
      },
      best="highest",
      differs="Rendered scenes as DAVIS lies on disk, 128 and 256 pixels; other sequences choose"
      " the layer. The last two rows are no models.",
    ),
    **part(
      "table11",
      "Table 11",
      "a cloned policy",
      rows={
        "toto": row("robots_clone", trials["toto"], "toto"),
        "mvp": row(paper=trials["mvp"], why_not="needs a ViT-MAE of MVP, which does not ship"),
        "small frames themselves": row("robots_clone", "", "pixels"),
      },
      differs="A simulated arm and a scripted expert in place of a real robot.",
    ),
    **part(
      "table12",
      "Table 12",
      "where the snitch is",
      rows={
        "16": row("cater_snitch", f"{snitch['16']} %", "finetuned"),
        "32": row("cater_snitch_8", f"{snitch['32']} %", "finetuned"),
        "the last visible place": row("cater_snitch", "", "last seen"),
      },
      best="highest",
      differs="A rendered stand-in for CATER with 4 and 8 frames in place of 16 and 32, and a"
      " model that was pre-trained on it.",
    ),
    **part(
      "table13",
      "Table 13 and A.2",
      "fine-tuning, full attention against causal",
      rows={key: row(f"tuned_{key}", f"{value} %") for key, value in tuned.items()},
      best="highest",
      differs=f"{IMAGENET}; without mixup, cutmix and drop path.",
    ),
    **part(
      "table14",
      "Table 14",
      "a linear probe of the largest model",
      rows={"1b": row("linear_1b", f"{beside('paper/table14').get_config().paper.top1} %")},
      differs=f"{IMAGENET}.",
    ),
    **part(
      "table15",
      "Table 15",
      "models of one family at one rate, by µP",
      rows={
        name: row(f"mup_{name}", f"{parameters} parameters; its loss stands in no table")
        for name, parameters in rows_of("table15").items()
      },
      best="lowest",
      differs="Clips alone, one depth, and the rate that is best for the multipliers used here.",
    ),
    **part(
      "table16",
      "Table 16",
      "cross-attention and an MLP on a frozen model",
      rows=top1("table16", **models("cross")),
      best="highest",
      differs=f"{KINETICS}; one view of each clip, two settings of the optimiser.",
    ),
  }


def figures() -> dict[str, miniature.Part]:
  """The figures."""
  law, codes = laws.PAPER, {one.name: one for one in printed.CODES}
  panels = list(rows_of("figure6"))
  sixth = {"franka-pick": row("robots_dagger", "a curve, no number", "toto")}
  sixth["franka-pick, untrained"] = row("robots_dagger", "", "toto-untrained")
  for panel in panels[1:]:
    task, arm = rows_of("figure6")[panel]
    why = HOUR.format(f"configs/robots.py:task={task},arm={arm}")
    sixth[panel] = row(paper="a curve, no number", why_not=why)
  peak = "a curve with its peak at about half of the depth"
  read_off = "{} of {:,} codes, {:,} 2-grams (read off)"
  return {
    "figure1": miniature.Part(
      "Figure 1", "the method", why_not="it draws the method, and has no result"
    ),
    **part(
      "figure2",
      "Figure 2",
      "training loss over tokens",
      rows={
        name: row("curves", f"{loss} nats (read off)", name)
        for name, loss in beside("paper/figure2").ENDS.items()
      },
      best="lowest",
      differs="As Table 1.",
    ),
    **part(
      "figure3",
      "Figures 3, 12 and 13",
      "1-, 2- and 3-grams of tokenizers",
      rows={
        f"{name}, {kind}": row(
          "grams", read_off.format(f"{one.used:,}", one.vocab, one.bigrams), f"{store}/{kind}"
        )
        for name, store in {"dVAE": "dvae", "VQGAN-16k": "f8"}.items()
        for one in [codes[name]]
        for kind in ("codes", "bigrams")
      }
      | {"VQGAN-1k": row(paper=f"{codes['VQGAN-1k'].used} of 1,024", why_not="as in Table 3")},
      differs=f"{IMAGENET}; finite scalars of 512 and 4,096 values.",
    ),
    **part(
      "figure4",
      "Figure 4",
      "attention probes of every layer",
      rows={
        name: row(f"attention_{name}", f"a curve with a peak at layer {layer} (read off)", "peak")
        for name, layer in rows_of("figure4").items()
      },
      differs=f"{IMAGENET}.",
    ),
    **part(
      "figure5",
      "Figure 5",
      "masks over frames",
      rows={"large": row("tracking", "pictures, no number", "large")},
      differs="Rendered scenes in place of DAVIS.",
    ),
    **part(
      "figure6",
      "Figure 6",
      "policies that an expert corrects",
      rows=sixth,
      differs="Other scenes, cameras and expert than MVP's, whose simulator runs no more.",
    ),
    "figure7": miniature.Part(
      "Figure 7",
      "a robot that picks a cube",
      why_not="it needs a Franka arm; configs/policy_server.py is what it would ask",
    ),
    **part(
      "figure8",
      "Figure 8",
      "every layer by four tasks",
      rows={
        "images": row("attention_large", peak, "peak"),
        "videos": row("cross_large", peak, "peak"),
        "masks": row("tracking", peak, "large"),
        "robots": row("robots_dagger", "violins, no number", "toto"),
      },
      differs="As Figure 4 and Tables 16, 10 and 11; of robots one layer.",
    ),
    **part(
      "figure9",
      "Figure 9",
      "loss over compute",
      rows={"law": row("law", f"exponent -{law.b}: L(C) = {law.a} C^-{law.b}")},
      differs="Six models of one depth, on clips alone, each with one length of training.",
    ),
    **part(
      "figure10",
      "Figure 10",
      "loss by position",
      rows={
        "first token": row("positions", "8.4 nats (read off)", "first token"),
        "first frame": row("positions", "6.0 to 7.0 nats (read off)", "first frame"),
        "second frame": row("positions", "3.1 to 3.9 nats (read off)", "second frame"),
        "fifth frame and later": row("positions", "2.4 to 3.3 nats (read off)", "later frames"),
      },
      differs=f"{KINETICS}; 8 frames in place of 16.",
    ),
    **part(
      "figure11",
      "Figure 11",
      "the best rate over widths, with µP",
      rows={
        f"width {width}": row("rates", "2^-7 for widths of 64 to 1,536", f"w{width}")
        for width in (32, 64, 128)
      },
      differs="Short runs on clips, two seeds, another base model and other multipliers.",
    ),
    **part(
      "figure14",
      "Figure 14",
      "probes of every layer at two resolutions",
      rows={
        "128, average": row("probe_16", "a curve", "peak"),
        "128, attention": row("attention_16", f"at most {printed.TABLE_5[1]} % (read off)", "peak"),
        "256, average": row("probe_32", "a curve", "peak"),
        "256, attention": row("attention_32", "a curve", "peak"),
      },
      differs="As Table 4, and its models.",
    ),
  }


def stages() -> dict:
  """Every run, in an order in which they can be made."""
  toto = small.SIZES["large"]
  found = {
    "images": small.images(32),
    "images64": small.images(64),
    "clips": small.clips(),
    "images_tokens": pixel_recipes.shards("{workdir}/images", "shipped"),
    "images_f8": pixel_recipes.shards("{workdir}/images", "shipped-f8"),
    "images64_tokens": pixel_recipes.shards("{workdir}/images64", "shipped"),
    "clips_tokens": pixel_recipes.shards("{workdir}/clips", "shipped"),
    "mixture": recipes.tokens_report(),
    "grams": recipes.tokens_report(),
  }
  found["mixture"].tokens_report.stores = {
    name: f"{{workdir}}/{store}/train"
    for name, store in {"images": "images_tokens", "videos": "clips_tokens"}.items()
  }
  found["grams"].tokens_report.stores = {
    name: f"{{workdir}}/{store}/val"
    for name, store in {"dvae": "images_tokens", "f8": "images_f8"}.items()
  }
  # Table 1's models: a fifth of images, as section 3.3 has it.
  for name, sizes in small.SIZES.items():
    shares = {"clips_tokens": 0.8, "images_tokens": 0.2}
    found[name] = small.pretrained(sizes, shares, frames=small.FRAMES)
  found |= ablations(toto)
  for name in small.SIZES:
    found[f"attention_{name}"] = small.probed(name, "images_tokens", pool="attention")
    found[f"joint_images_{name}"] = small.joint(name, "images_tokens", classes=5, epochs=20.0)
    found[f"joint_clips_{name}"] = small.joint(name, "clips_tokens", classes=4, epochs=6.0)
    found[f"cross_{name}"] = small.probed(name, "clips_tokens", pool="cross")
  found["linear_1b"] = small.probed("1b", "images_tokens")
  for name, (prefix_tokens, _) in rows_of("table13").items():
    found[f"tuned_{name}"] = small.finetuned("base", "images_tokens", prefix_tokens=prefix_tokens)
  found["curves"] = study_recipes.curves(*(f"{name}={{workdir}}/{name}" for name in small.SIZES))
  found["positions"] = recipes.validate("{workdir}/large")
  found["sequences"] = small.sequences()
  found["tracking"] = small.tracked(128, *small.SIZES, baselines=("copy", "pixels", "untrained"))
  found["tracking_256"] = small.tracked(256, "large", baselines=())
  return found | studies() | worlds()


def ablations(toto: Mapping[str, int]) -> dict:
  """Tables 3 to 6: what is read, how many tokens, and which architecture."""
  found = {
    "im_16": small.pretrained(toto, {"images_tokens": 1.0}),
    "im_32": small.pretrained(toto, {"images64_tokens": 1.0}, grid=8),
    "im_f8": small.pretrained(toto, {"images_f8": 1.0}),
  }
  found["im_f8"].sequence.vocab = 4096
  # An eighth of the updates at a tenth of the rate, as table4.py has it.
  for name, rope_base in {"16to32": 10_000.0, "16to32_rope": 50_000.0}.items():
    found[f"im_{name}"] = c = small.pretrained(toto, {"images64_tokens": 1.0}, grid=8)
    c.init_from = "{workdir}/im_16"
    c.model.rope_base = rope_base
    c.train.total_tokens /= 8
    c.optim.update(lr=c.optim.lr / 10, warmup_steps=small.STEPS // 80)
  for name, sizes in small.OTHERS.items():
    found[f"im_{name}"] = c = small.pretrained(toto, {"images_tokens": 1.0})
    recipes.use(c, name, "tiny")
    c.model.update(sizes)
  stores = {"32": "images64_tokens", "f8": "images_f8"}
  stores |= dict.fromkeys(("16to32", "16to32_rope"), "images64_tokens")
  for name in [name.removeprefix("im_") for name in found]:
    store = stores.get(name, "images_tokens")
    found[f"probe_{name}"] = small.probed(f"im_{name}", store, alone=name != "16")
  for name in ("16", "32"):
    store = stores.get(name, "images_tokens")
    found[f"attention_{name}"] = small.probed(f"im_{name}", store, pool="attention")
  return found


def studies() -> dict:
  """Table 15 and Figures 9 and 11: the studies of configs/scaling.py and configs/mup_sweep.py."""
  ladder, found = beside("scaling"), {}
  sizes = study_recipes.sizes(*WIDTHS.values(), depth=4, heads=4, mlp_ratio=8 / 3)
  for name, width in WIDTHS.items():
    found[f"mup_{name}"] = c = ladder.trained(sizes[f"w{width}"], frames=small.FRAMES, batch=32)
    read_clips(c)
  found["law"] = study_recipes.scaling(*(f"{name}={{workdir}}/mup_{name}" for name in WIDTHS))
  found["rates"] = c = beside("mup_sweep").get_config().stages.sweep
  read_clips(c.pretrain)
  c.sweep.models = {name: c.sweep.models[name] for name in ("w32", "w64", "w128")}
  c.sweep.log2_lr.mup, c.sweep.log2_lr.standard = RATES, ()
  c.sweep.seeds = (0, 1)
  return found


def read_clips(c) -> None:
  """In place: pre-training on the clips that all of this shares."""
  c.data.train = {"rendered": recipes.source("{workdir}/clips_tokens/train", 1.0)}
  c.data.validation = {"rendered": "{workdir}/clips_tokens/val"}


def worlds() -> dict:
  """Tables 9, 11 and 12 and Figure 6: the chains that have a world of their own, made smaller."""
  hands = sta_recipes.chain("seeds=1,protocol=tuned")
  hands.stages.world.amount.update(train=400, val=100)
  hands.stages.pretrain.train.total_tokens /= 3
  snitch = cater.chain()
  snitch.stages.world.amount.train = 1000
  snitch.stages.finetune.train.epochs = 20.0
  arm = robots.chain("seeds=2")
  arm.stages.clone.trials = 16  # as Table 11
  arm.stages.dagger.update(iterations=4, episodes=8, trials=16)
  found = miniature.under("hands", hands) | miniature.under("cater", snitch)
  found |= miniature.under("robots", arm)
  # Twice the frames (Table 12's second row), of the same model.
  found["cater_tokens_8"] = longer = found["cater_tokens"].copy_and_resolve_references()
  longer.clip.frames = 2 * cater.FRAMES
  found["cater_finetune_8"] = tuned = found["cater_finetune"].copy_and_resolve_references()
  tuned.data.update(train="{workdir}/cater_tokens_8/train", frames=2 * cater.FRAMES)
  tuned.data.validation = "{workdir}/cater_tokens_8/val"
  found["cater_snitch_8"] = scored = found["cater_snitch"].copy_and_resolve_references()
  scored.models = {"finetuned": ("{workdir}/cater_finetune_8",)}
  return found
