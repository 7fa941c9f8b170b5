"""The audit: what agrees with the paper, what does not, value by value."""

from etils import epath
import pytest

from totojax import jobs
from totojax.config import recipes
from totojax.jobs import audit
from totojax.report import reading


@pytest.mark.parametrize(
  "printed, value, verdict",
  [
    ("120m", 119_556_864, "rounds"),
    ("120m", 125_848_320, "cut off"),  # 13 tens, cut to 12
    ("120m", 131e6, "no"),
    ("280m", 276_857_856, "rounds"),
    ("1.1b", 1_129_932_800, "rounds"),
    ("1.1b", 1_164_011_520, "cut off"),
    ("1.1b", 1_493e6, "no"),
    ("41.3B", 41.36e9, "cut off"),
    ("41.3B", 41.25e9, "no"),  # 41.2, halves to even
    ("2560B", 2_560.95e9, "rounds"),
    ("1.42e17", 1.4188e17, "rounds"),
    ("1.42e17", 1.462e17, "no"),
    ("100,000", 97_873, "rounds"),
    ("13.9M", 1_281_167, "no"),
  ],
)
def test_agreement_at_the_printed_digits(printed, value, verdict):
  assert audit.agreement(printed, value) == verdict


def test_what_is_no_number_is_refused():
  with pytest.raises(ValueError, match="'about 5' is not read"):
    audit.agreement("about 5", 5.0)


@pytest.fixture(scope="module")
def lines():
  return audit.audit()


def of(lines, where, what=""):
  return [x for x in lines if where in x.where and what in x.what]


def verdicts(lines, where, what=""):
  return [line.verdict for line in of(lines, where, what)]


def test_table_1_agrees_with_tied_heads_and_no_single_mlp(lines):
  assert verdicts(lines, "Table 1,", "our preset, tied") == ["rounds"] * 3
  assert verdicts(lines, "Table 1,", "MLP of 4 d") == ["rounds", "rounds", "no"]
  assert verdicts(lines, "Table 1,", "8/3") == ["no", "no", "rounds"]
  (base,) = of(lines, "Table 1, base", "our preset, tied")
  assert base.value == 119_556_864


def test_table_2_counts_every_frame(lines):
  (howto,) = of(lines, "Table 2, HowTo100m", "30 frames/s")
  assert howto.value == 92_627 * 3600 * 30 * 256
  assert "no" not in verdicts(lines, "Table 2", "30 frames/s")
  assert verdicts(lines, "Table 2", "can use") == ["no"] * 3
  assert verdicts(lines, "text,") == ["no", "no"]  # neither sum is as told
  tokens, hours = of(lines, "text,")
  assert tokens.value == pytest.approx(2.7096e12, rel=1e-4)
  assert hours.value == 97_873
  assert verdicts(lines, "ImageNet, instances") == ["no"]


def test_table_4_is_parameters_times_images(lines):
  (one,) = of(lines, "dVAE/16, MACs", "parameters x images")
  assert one.value == 276_857_856 * 1_281_167 * 400 and one.verdict == "rounds"
  (true,) = of(lines, "dVAE/16, MACs", "training MACs")
  assert true.value == pytest.approx(1.11e20, rel=5e-3)
  assert true.verdict == "no"
  assert verdicts(lines, "dVAE/16 to 32") == ["no", "rounds"]  # 1, 50 epochs


def test_no_usual_model_has_table_15s_parameters(lines):
  assert verdicts(lines, "Table 15") == ["no"] * 24
  (a1,) = of(lines, "Table 15, a1", "our preset")
  assert a1.value == pytest.approx(14.42e6, rel=1e-3)
  # The text's ranges against the table's.
  found = {x.where: x.verdict for x in of(lines, "section A.5")}
  assert found == {
    "section A.5, least width": "no",
    "section A.5, most width": "no",
    "section A.5, least depth": "rounds",
    "section A.5, most depth": "no",
  }


def test_the_laws_unit(lines):
  raw, millions = of(lines, "dashed line")
  assert (raw.verdict, millions.verdict) == ("no", "reads")
  assert raw.value == pytest.approx(1.818, rel=1e-3)
  assert millions.value == pytest.approx(3.066, rel=1e-3)
  (prefactor,) = of(lines, "prefactor")
  assert prefactor.value == pytest.approx(12.34, rel=1e-3)
  sequences = of(lines, "first point")
  assert len(sequences) == 5
  assert {line.verdict for line in sequences} == {"reads"}
  for line in sequences:
    assert line.value == pytest.approx(1.781e6, rel=5e-3)


def test_the_job_writes_and_tells(place, capsys, lines):
  workdir = epath.Path(place / "run")
  assert jobs.run(recipes.audit().to_dict(), workdir, lambda step: False)
  rows = reading.RunFolder(workdir).records("audit.csv")
  assert len(rows) == len(lines)
  assert list(rows[0]) == ["where", "source", "what", "printed", "value", "verdict"]
  told = capsys.readouterr().out
  assert "of which no reading does" in told
  assert "Table 15, a4, parameters: 458M, worked out 3.251e+08" in told
  assert "Table 1, base, parameters: 120m" not in told  # one reading does


def test_accuracies_that_disagree_with_themselves_are_named(lines):
  assert verdicts(lines, "Table 5, attention") == ["no"]
  assert verdicts(lines, "Table 10,") == ["no", "rounds", "rounds", "rounds"]
  (base,) = of(lines, "Table 10, base")
  assert (base.printed, base.value) == ("42.0", pytest.approx(42.15))
  assert verdicts(lines, "CATER") == ["rounds", "no"]
  (frames,) = of(lines, "CATER at 32")
  assert (frames.printed, frames.value) == ("70.9", 72.9)
