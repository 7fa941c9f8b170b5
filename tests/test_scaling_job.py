"""A law from run directories: a planted one found, and what is no run."""

import csv
import json

from etils import epath
import numpy as np
import pytest

from totojax import jobs
from totojax.config import roots, study_recipes
from totojax.config.schema import ConfigError
from totojax.jobs import scaling as scaling_job
from totojax.report import scaling

LAW = scaling.Law(a=9.0, b=0.08, floor=0.0, unit=1.0, r2=1.0)
STEPS, TOKENS = 100, 1024


def made(
  folder, name, parameters, *, last=STEPS, worse=1.3, sources=("k400",), facts=(), config=()
):
  """A run that ends on the law, and is above it before."""
  path = folder / name
  path.mkdir()
  per_token = 6 * parameters
  (path / "manifest.json").write_text(
    json.dumps(
      dict(
        flops_per_token=per_token,
        tokens_per_step=TOKENS,
        steps=STEPS,
        parameters=parameters,
        **{"tokenizer": "f" * 16, **dict(facts)},
      )
    )
  )
  (path / "config.json").write_text(
    json.dumps(
      dict(
        run="pretrain",
        sequence=dict(vocab=512, grid=4, frames=4, context=64),
        init_from="",
        data=dict(validation={source: "/val" for source in sources}),
        validation=dict(rows=64),
      )
      | dict(config)
    )
  )
  rows = [dict(step=5, kind="train", loss=9.0)]
  for step in range(0, last + 1, 10):
    macs = step * TOKENS * per_token / 2
    loss = 9.0 if not step else float(LAW(macs))
    loss *= 1.0 if step == STEPS else worse
    rows.append(
      dict(step=step, kind="eval")
      | {
        key: value
        for i, source in enumerate(sources)
        # Sources differ, and their mean is on the law.
        for key, value in (
          (f"{source}/loss", loss + 0.1 * (2 * i - len(sources) + 1)),
          (f"{source}/loss_sem", 0.01),
        )
      }
    )
  (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return f"{name}={path}"


def fitted(tmp_path, runs, **changes):
  c = study_recipes.scaling(*runs)
  c.scaling.update(draws=50, **changes)
  workdir = epath.Path(tmp_path / "law")
  workdir.mkdir(exist_ok=True)
  assert jobs.run(c.to_dict(), workdir, lambda step: False)
  found = json.loads((workdir / "laws.json").read_text())
  with (workdir / "scaling.csv").open() as file:
    return workdir, found, list(csv.DictReader(file))


def law_of(runs, **changes):
  """What `fitted` writes, without the page."""
  c = study_recipes.scaling(*runs)
  c.scaling.update(draws=20, **changes)
  chosen = roots.read(c.to_dict()).scaling
  rows = scaling_job.read(chosen)
  return scaling_job.laws(rows, chosen)["law"], rows


SIZES = {"a1": 10**5, "a2": 10**6, "a3": 3 * 10**6, "a4": 10**7, "a5": 10**8}


@pytest.mark.parametrize(
  "frontier, worse, place", [("final", 1.3, "local"), ("envelope", 1.0, "gs")], indirect=["place"]
)
def test_a_planted_law_is_found(place, capsys, frontier, worse):
  root = epath.Path(place.url)
  runs = [made(root, n, s, worse=worse) for n, s in SIZES.items()]
  workdir, found, rows = fitted(root, runs, frontier=frontier)
  law = found["law"]
  assert law["b"] == pytest.approx(LAW.b, rel=1e-6)
  assert law["a"] == pytest.approx(LAW.a, rel=1e-5)
  low, high = found["b_interval_95"]
  assert low <= law["b"] + 1e-9 and high >= law["b"] - 1e-9
  # The ends alone are final; the first tenth of each run is left out.
  ends = [row["last"] for row in rows]
  assert ([row["frontier"] for row in rows] == ends) == (frontier == "final")
  assert len(rows) == len(SIZES) * 9
  a5 = [row for row in rows if row["run"] == "a5" and row["last"] == "1"]
  macs = 3 * 10**8 * STEPS * TOKENS
  assert float(a5[0]["macs"]) == macs
  assert float(a5[0]["pf_days"]) == pytest.approx(2 * macs / 8.64e19)
  page = (workdir / "report.html").read_text()
  assert "to the power of -0.080" in page and "another format" not in page
  assert (workdir / "scaling.png").read_bytes()[:4] == b"\x89PNG"
  assert "compute^-0.0800" in capsys.readouterr().out


def test_ends_that_are_no_low_are_off_the_frontier(tmp_path):
  runs = [made(tmp_path, n, s, worse=1.0) for n, s in SIZES.items()]
  bad = made(tmp_path, "bad", 2 * 10**6)
  text = (tmp_path / "bad" / "metrics.jsonl").read_text().splitlines()
  row = json.loads(text[-1])
  row["k400/loss"] *= 2
  (tmp_path / "bad" / "metrics.jsonl").write_text("\n".join([*text[:-1], json.dumps(row)]) + "\n")
  found, _ = law_of([*runs, bad])
  assert found["b"] == pytest.approx(LAW.b, rel=1e-6)
  found, _ = law_of([*runs, bad], frontier="final")
  assert abs(found["b"] / LAW.b - 1) > 1e-3


def test_a_source_or_their_mean(tmp_path):
  both = ("k400", "ego4d")
  runs = [made(tmp_path, n, s, sources=both, worse=1.0) for n, s in SIZES.items()]
  mean, rows = law_of(runs)
  assert mean["b"] == pytest.approx(LAW.b, rel=1e-6)
  assert float(rows[0]["loss_sem"]) == pytest.approx(0.01 / np.sqrt(2))
  one, _ = law_of(runs, source="ego4d")
  assert abs(one["b"] / LAW.b - 1) > 1e-3
  with pytest.raises(ValueError, match="source is 'k600'; run a1"):
    law_of(runs, source="k600")


def test_what_makes_no_law_is_told(tmp_path):
  runs = [made(tmp_path, name, size) for name, size in SIZES.items()]
  with pytest.raises(ValueError, match="1 points over 0 decades"):
    law_of(runs[:1], frontier="final")
  with pytest.raises(ValueError, match="a law needs 3 points"):
    law_of(runs[:2], frontier="final")
  found, _ = law_of(runs[:2], frontier="final", force=True)
  assert found["b"] == pytest.approx(LAW.b, rel=1e-6)
  half = made(tmp_path, "half", 10**7, last=50)
  with pytest.raises(ValueError, match="half: .* at update 50 of 100 last"):
    law_of([*runs, half])
  with pytest.raises(ValueError, match="runs: no is .*/no, which is no run"):
    law_of([f"no={tmp_path}/no"])
  with (tmp_path / "a2" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 3, "kin')  # cut in the middle by a kill
  law_of(runs)
  text = (tmp_path / "a2" / "metrics.jsonl").read_text().splitlines()
  text[3] = text[3][:9]
  (tmp_path / "a2" / "metrics.jsonl").write_text("\n".join(text))
  with pytest.raises(ValueError, match="a2 is .* damaged in line 4 of 13"):
    law_of(runs)
  for wrong in ((), ("a1",), (runs[0], runs[0])):
    with pytest.raises(ConfigError, match="scaling.runs"):
      law_of(wrong)


def test_few_points_are_told_of(tmp_path):
  runs = [made(tmp_path, name, SIZES[name]) for name in ("a1", "a2", "a3")]
  _, found, _ = fitted(tmp_path, runs, frontier="final", force=True)
  assert found["notes"][0].startswith("3 points: any line")


@pytest.mark.parametrize(
  "changes, told",
  [
    (dict(facts={"tokenizer": "e" * 16}), "tokenizer of b is eeee"),
    (dict(facts={"predicts": "patches"}), "what is predicted of b is patc"),
    (dict(config={"init_from": "/runs/a"}), "b started from /runs/a"),
    (dict(config={"validation": {"rows": 8}}), "validation.rows of b is 8"),
    (
      dict(config={"sequence": dict(vocab=512, grid=4, frames=8, context=128)}),
      "sequence.frames of b is 8, and of a 4: their losses cannot",
    ),
    (dict(sources=("ssv2",)), "names of data.validation of b is .'ssv2'"),
  ],
)
def test_runs_whose_losses_mean_other_things_make_no_law(tmp_path, changes, told):
  runs = [
    made(tmp_path, "a", 10**5),
    made(tmp_path, "c", 10**6),
    made(tmp_path, "b", 10**8, **changes),
  ]
  with pytest.raises(ValueError, match=told):
    law_of(runs)
  law_of(runs[:2], force=True)  # the control


def test_curves_of_runs_over_tokens(tmp_path):
  runs = [made(tmp_path, name, SIZES[name]) for name in ("a1", "a2")]
  rows = [dict(step=s, kind="train", loss=float(s)) for s in (10, 20, 30, 40)]
  for name in ("a1", "a2"):
    (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  c = study_recipes.curves(*runs)
  c.curves.update(window=3, printed={"a1": 3.5})
  workdir = epath.Path(tmp_path / "curves")
  workdir.mkdir()
  assert jobs.run(c.to_dict(), workdir, lambda step: False)
  with (workdir / "curves.csv").open() as file:
    found = list(csv.DictReader(file))
  a1 = [row for row in found if row["run"] == "a1"]
  assert [float(row["loss"]) for row in a1] == [10.0, 15.0, 20.0, 30.0]
  assert float(a1[-1]["tokens"]) == 40 * TOKENS
  assert a1[0]["printed"] == "3.5" and found[-1]["printed"] == ""
  page = (workdir / "report.html").read_text()
  assert "3.5" in page and "another format" not in page
  (tmp_path / "a2" / "metrics.jsonl").write_text(
    json.dumps(dict(step=0, kind="eval", value=1.0)) + "\n"
  )
  with pytest.raises(ValueError, match="a2: .* has logged no training loss"):
    jobs.run(c.to_dict(), workdir, lambda step: False)
  other = made(tmp_path, "pixels", 10, facts={"predicts": "patches"})
  c = study_recipes.curves(runs[0], other)
  with pytest.raises(ValueError, match="what is predicted of pixels is patc"):
    jobs.run(c.to_dict(), workdir, lambda step: False)
