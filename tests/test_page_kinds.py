"""What pages of each kind of job say: a verdict, whole words, figures that can be read."""

import itertools
import json
import re
import shlex

from matplotlib.backends import backend_agg
import numpy as np
import pages
import pytest

from totojax import jobs
from totojax.report import (
  compare_page,
  frame,
  kinds,
  layer_sections,
  page,
  plan_page,
  plots,
  provenance,
  reading,
  robot_sections,
  track_sections,
)
from totojax.rundir import files, wording


def made(folder, *, files_of):
  """A run directory of such files, as text or as JSON."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in files_of.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
  return reading.RunFolder(folder)


def told(folder, kind=None):
  """The verdict of a run's page, and its text."""
  html = frame.write(folder.path / "page", kind or kinds.of(folder), run=folder.path).read_text()
  (said,) = re.findall(r'<p class="verdict.*?</p>', html, re.S)
  return pages.Page(f"<main>{said}</main>").text, pages.Page(html).text


# Figures.


def _extents(heights, shifts):
  return sorted((h + s, h + s + plots.LABEL) for h, s in zip(heights, shifts))


def _clash(heights, shifts):
  """Whether labels meet, or a line goes through one."""
  ends = _extents(heights, shifts)
  meet = any(a[1] > b[0] + 1e-9 for a, b in itertools.pairwise(ends))
  return meet or any(low < h < high for low, high in ends for h in heights)


def test_labels_of_lines_never_meet():
  rng = np.random.default_rng(0)
  for count in (1, 2, 3, 4, 5) * 20:
    heights = (40 + 60 * rng.random(count)).tolist()
    shifts = plots.beside(heights)
    assert not _clash(heights, shifts), heights
    lines = np.argsort(heights)
    ends = np.array(heights) + shifts
    assert (np.diff(ends[lines]) > 0).all()  # in the order of their lines
  # Negative control: as they were, each just above its own line.
  assert _clash([50.0, 53.0], [plots.AWAY] * 2) and not _clash([50.0, 90.0], [plots.AWAY] * 2)
  assert plots.beside([2.0, 3.0])[0] > 0  # there is no room under the lowest


def test_labels_of_the_learning_figure_never_meet():
  levels = {"code frequencies": 6.31, "neighbours": 6.42, "copy": 3.9}
  draw = plots.learning(train=([0, 1], [6.5, 3.0]), evals={}, levels=levels, xlabel="x")
  for size in (plots.WIDE, plots.NARROW):
    drawn = plots._render(draw, size, plots.PAPER)
    canvas = backend_agg.FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawn.axes[0].texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


# Words.


def test_one_is_not_told_as_several(tmp_path):
  assert wording.counted(1, "run") == "1 run" and wording.counted(0, "run") == "0 runs"
  assert wording.counted(2000, "query", "queries") == "2,000 queries"
  world = {"clips": 1, "frames": 1, "seen_frac": 1.0, "events": {}, "labels": {}, "sheets": []}
  maps = {"clips": 1, "drawn": [], "basis": "clip"}
  store = {"complete": True, "kind": "video", "frames": 1, "size_px": 8, "digest": "d" * 32}
  store |= {"fields": [], "shards": [{"records": 1}], "vocab": 0}
  for name, files_of in {
    "world": {"config.json": {"run": "world"}, "world.json": world},
    "feature_maps": {"config.json": {"run": "feature_maps"}, "feature_maps.json": maps},
    "render": {"config.json": {"run": "render"}, "train/manifest.json": store},
    "clone": {"config.json": {"run": "clone"}, "metrics.json": _clones(n=1)},
  }.items():
    _, text = told(made(tmp_path / name, files_of=files_of))
    wrong = r"\b1 (clips|frames|trials|policies|steps|runs|records|cores|trajectories)\b"
    assert not re.findall(wrong, text), (name, re.findall(wrong, text))


def test_flags_of_commands_stay_whole():
  words = ["python", "-m", "totojax.main", "--config=configs/a.py:x=RUN", "--config.b=(5, 8)"]
  command = provenance.readable(shlex.join([*words, "--config.c=('a','b')"]))
  html = page.command(command)
  text = pages.Page(html).text
  assert text == command and shlex.split(text) == [*words, "--config.c=('a','b')"]
  assert "<span>--config=<span>configs/a.py:x=RUN</span></span>" in html
  assert """'"'"'""" not in text  # which nobody can read
  assert provenance.readable("cd a && b | c") == "cd a && b | c"  # somebody else's stays


def test_a_table_with_long_numbers_is_cards_on_a_phone():
  long = "12.88 (11.10 to 14.66)"
  assert "cards" in page.table(("", "a", "b"), [("x", long, long)])
  assert "cards" not in page.table(("", "a", "b"), [("x", "63.3", "45.5 to 78.1")])


# Kinds.


def test_every_job_that_leaves_a_run_has_a_page():
  """Or it is a plugin's: then the page says what there is, and judges nothing."""
  own = {"chain", "plan", "miniature"}  # found otherwise
  no_numbers = {"import"}  # leaves a run of pre-training
  kept = {name for name, job in jobs.JOBS.items() if job.kept}
  assert kept - {*kinds.KINDS} - own <= no_numbers
  assert all(kind.about and kind.about != "?" for kind in kinds.KINDS.values())


def test_a_run_of_a_plugin_says_what_it_leaves(tmp_path):
  folder = made(
    tmp_path / "own",
    files_of={"config.json": {"run": "a.py:run"}, "done.json": {}, "metrics.json": {"a": 1.5}},
  )
  verdict, text = told(folder)
  assert "a.py:run is finished. 1 number of its metrics.json below" in verdict
  assert "judged" not in text and "1.5" in text


def test_an_export_has_a_title_and_a_model(tmp_path):
  shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 2}
  folder = made(
    tmp_path / "exported",
    files_of={
      "config.json": {"model_type": "llama", **shape},
      "generation_config.json": {},
      "manifest.json": {"step": 200, "tokenizer": "abc"},
      "model.safetensors": "x" * 5000,
    },
  )
  verdict, text = told(folder)
  assert "A model after 200 updates, as transformers and vLLM read it." in verdict
  assert "exported \N{MIDDLE DOT} an exported model" in text and "?" not in text
  assert "llama, width 128, depth 6, heads 2" in text and "model.safetensors 0.005" in text


def _sta(overall, seed):
  row = dict.fromkeys(("noun", "noun_verb", "noun_ttc"), 30.0) | {"overall": overall}
  counts = dict.fromkeys(("objects", "nouns", "verbs", "videos", "detections"), 9)
  own = {"split": "val", "n": 400, "n_expected": 400, "seed": seed, "protocol": "sta"}
  rules = {"the nearest": {**row, "overall": 15.2}, "the commonest": {**row, "overall": 0.8}}
  return row | counts | own | {"baselines": rules, "drawn": []}


def test_a_chain_of_seeds_is_judged_by_what_joins_them(tmp_path):
  each = [21.0, 23.9, 20.0]
  names = ["tuned", "tuned_1", "tuned_2"]
  mean = lambda values: {"mean": 21.63, "low": 16.7, "high": 26.6, "each": values}
  joined = {"split": "val", "n": 400, "protocol": "sta", "objects": 400, "seeds": [0, 1, 2]}
  joined |= {key: mean(each) for key in ("noun", "noun_verb", "noun_ttc", "overall")}
  joined["baselines"] = _sta(0, 0)["baselines"]
  content = {"config.json": {"run": "chain", "order": [*names, "tuned_seeds"]}}
  for seed, name in enumerate(names):
    content[f"{name}/config.json"] = {"run": "sta"}
    content[f"{name}/metrics.json"] = _sta(each[seed], seed)
    content[f"{name}/done.json"] = {"seconds": 1.0}
  runs = [f"{{workdir}}/{name}" for name in names]
  content["tuned_seeds/config.json"] = {"run": "sta_seeds", "runs": runs}
  content["tuned_seeds/metrics.json"] = joined
  content["tuned_seeds/done.json"] = {"seconds": 1.0}
  folder = made(tmp_path / "chain", files_of=content)
  verdict, text = told(folder)
  assert "Top-5 mAP overall 21.6 %, mean of 3 seeds" in verdict and "16.7 to 26.6 %" in verdict
  assert 'class="verdict good"' in (folder.path / "page" / "report.html").read_text()
  assert "tuned: short-term anticipation" in text and "seed 2" in text
  assert "tuned_1: short" not in text and "tuned_2: short" not in text  # thrice the same
  # Of a chain that is not finished: the last that is, and what is open.
  (folder.path / "tuned_seeds" / "done.json").unlink()
  (folder.path / "tuned_seeds" / "metrics.json").unlink()
  verdict, _ = told(folder)
  assert "21.0 %" in verdict and "Not finished: tuned_seeds." in verdict


def test_what_was_run_names_models_and_data(tmp_path):
  scene = {"kind": "containers", "frames": 24, "width_px": 128, "height_px": 96}
  world = {"run": "world", "scene": scene, "amount": {"train": 2000, "val": 300}}
  said = provenance.data(world, {})
  assert said == (
    "rendered scenes: containers, 24 frames, 128 x 96 pixels, 2,000 clips of training, 300 clips"
    " held out"
  )
  cater = {"run": "cater", "models": {"finetuned": ["/r/ft", "/r/ft1"]}, "data": {"root": "/w"}}
  assert provenance.model(cater, {}) == "finetuned: /r/ft, /r/ft1"
  assert provenance.data(cater, {}) == "/w"
  encoders = {"mine": {"model_run": "/r", "untrained": True}, "other": {"encoder": "pixels:8"}}
  for kept in ({"run": "clone", "encoders": encoders}, {"run": "c", "c": {"encoders": encoders}}):
    assert provenance.model(kept, {}) == "mine: /r, untrained; other: pixels:8"
  # Scaling stands on runs: it names them, and whose data these are.
  data = {"data.train.moving": {"digest": "0123456789abcdef", "records": 1}}
  made(
    tmp_path / "w32", files_of={"config.json": {"run": "pretrain"}, "manifest.json": {"data": data}}
  )
  runs = ["w32={workdir}/w32", "w64={workdir}/w64"]
  law = made(
    tmp_path / "law", files_of={"config.json": {"run": "scaling", "scaling": {"runs": runs}}}
  )
  text = pages.Page(provenance.what_was_run(law)).text
  assert "model 2 runs: w32, w64" in text
  assert "data of w32: data.train.moving 0123456789ab (1 record)" in text


def _clones(*, n=50, mine=10, blind=15, gap=(-0.02, 0.003)):
  rows = [
    {"row": name, "layer": 2, "error": {"mean": error, "low": error, "high": error}}
    | {"train_error": 0.1, "trials": {"successes": min(won, n), "n": n}, "several": False}
    | {"less_than_blind": {"mean": 0.09 - error, "low": gap[0], "high": gap[1]}}
    for name, error, won in (("toto", 0.0966, mine), ("blind", 0.09, blind), ("state", 0.05, 47))
  ]
  amounts = dict.fromkeys(("train", "train_steps", "heldout", "heldout_steps", "missing"), n)
  return {"rows": rows, "seeds": 1, "videos": [], "amounts": amounts}


@pytest.mark.parametrize(
  ("mine", "word", "good"),
  [(10, "not surely below", None), (40, "above", True), (2, "below", False)],
)
def test_a_clone_is_above_or_below_blind(mine, word, good):
  said = robot_sections.verdict(_clones(mine=mine))
  assert said.line == (
    f"The policy that sees features of toto succeeds in {2 * mine} % of trials, {word} the blind"
    " one (30 %)."
  )
  assert said.good is good and "blind 30.0 % (19.1 to 43.8) of 50" in said.interval
  assert f"{2 * mine - 30:+d} points (" in said.interval


def test_a_clone_without_trials_is_judged_by_its_error():
  facts = _clones()
  for row in facts["rows"]:
    del row["trials"]
  said = robot_sections.verdict(facts)
  assert "has a held-out error of 0.097, not surely above the blind one's 0.090" in said.line
  for row in facts["rows"]:
    row["less_than_blind"] = {"mean": 0.04, "low": 0.02, "high": 0.06}
    row["error"] = {"mean": 0.05, "low": 0.04, "high": 0.06}
  said = robot_sections.verdict(facts)
  assert said.good is True and ", below the blind one's" in said.line


def _ends(mean, low, high):
  return {"mean": mean, "low": low, "high": high}


def test_verdicts_say_what_learned_nothing(tmp_path):
  rows = [
    {
      "row": name,
      "rule": "dino",
      "layer": 1,
      "J&F-Mean": mean,
      "low": mean - 0.05,
      "high": mean + 0.05,
    }
    for name, mean in (("mine", 0.5), ("mine-untrained", 0.3), ("copy", 0.4))
  ]
  facts = {"score": "J&F-Mean", "rows": rows, "set": "davis", "year": 2016, "sequences": 2}
  folder = made(tmp_path / "t", files_of={"metrics.json": facts | {"whole": {"sequences": 20}}})
  said = track_sections.claim(folder)
  assert said.line.startswith("mine tracks with a J&F of 50.0 % at layer 1, above copies of")
  assert said.good is True and "on 2 of 20 sequences of DAVIS-2016" in said.interval
  # Policies by DAgger.
  last = {"toto": _ends(0.4, 0.3, 0.5), "toto-untrained": _ends(0.6, 0.55, 0.7)}
  rows = [{"row": name, "layer": 0, "last": one} for name, one in last.items()]
  folder = made(tmp_path / "d", files_of={"metrics.json": {"rows": rows, "seeds": 3}})
  said = robot_sections.claim_of_curves(folder)
  assert (
    "in 40 % of trials in the end, below those that see features of toto-untrained" in said.line
  )
  assert said.good is False and "95 % over 3 seeds" in said.interval
  # Neighbours.
  ends = {"": 0.8, "_low": 0.7, "_high": 0.9}
  metrics = {f"dino/k3/chosen_on_holdout/top1{end}": x for end, x in ends.items()}
  metrics |= {"n": 40, "majority_top1": 0.5}
  metrics = {
    key.replace("chosen_on_holdout", layer_sections.HOLDOUT): x for key, x in metrics.items()
  }
  folder = made(tmp_path / "k", files_of={"metrics.json": metrics})
  said = layer_sections.nearest(folder)
  assert "name the class of 80.0 % of items rightly" in said.line and said.good is True
  # Encoders, of an earlier version that had one measure.
  row = dict.fromkeys(("low", "high"), 0.5) | {"encoder": "a", "probe": "knn", "score": 0.6}
  (tmp_path / "c").mkdir()
  files.write_csv(tmp_path / "c" / "compare.csv", [row | {"n": 9, "majority_top1": 0.2}])
  said = compare_page.claim(reading.RunFolder(tmp_path / "c"))
  assert said.line.startswith("a is best, by nearest neighbours: 60.0 % top-1")
  # A plan fits or not, for a time that can be read.
  plan = {"fits": True, "chips": 1, "topology": "v5e:1x1", "total_tokens": 1e6, "days": 0.01}
  folder = made(tmp_path / "p", files_of={"plan.json": plan | {"what": "train", "source": "s"}})
  said = plan_page.claim(folder)
  assert said.line == "It fits: 1 M tokens on 1 chip of v5e:1x1: about 14 min 24 s."


def test_checks_say_yes_or_no(tmp_path):
  header = "same,held_out,held_out_record,held_out_id,train,train_record,train_id\n"
  leak = {"config.json": {"run": "leakage"}, "leakage.csv": header}
  clean = made(tmp_path / "clean", files_of=leak)
  assert "Nothing that is held out is in training data." in told(clean)[0]
  leak["leakage.csv"] = header + "id,v,0,a,t,3,a\nid,v,1,a,t,4,a\n"
  assert "1 held-out item is in training data." in told(made(tmp_path / "l", files_of=leak))[0]
  rows = [("mup", 32, 4, 1.0, 1.0), ("mup", 128, 4, 1.2, 0.9)]
  lines = "parametrisation,width,update,residual,logits\n"
  lines += "".join(",".join(map(str, row)) + "\n" for row in rows)
  check = {"config.json": {"run": "coord_check"}, "coordinates.csv": lines}
  verdict, _ = told(made(tmp_path / "w", files_of=check))
  assert "Under µP activations keep their size over widths." in verdict and "1.20 times" in verdict
  check["coordinates.csv"] = lines.replace("1.2,0.9", "9.0,0.9")
  assert "do not keep their size" in told(made(tmp_path / "w2", files_of=check))[0]
