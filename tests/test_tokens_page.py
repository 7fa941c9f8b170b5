"""The page of the job that says what is in stores of tokens."""

import numpy as np
import pages
import pytest
import token_reports

from totojax.report import frame, ngram_sections, plots, tokens_page


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory):
  return token_reports.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", name="done")
def _done(data, tmp_path_factory):
  """The directory of a finished run."""
  workdir = tmp_path_factory.mktemp("runs") / "tokens"
  assert token_reports.run(token_reports.config(data), workdir)
  return workdir


def test_the_page_says_what_was_counted(done):
  page = pages.Page((done / "report.html").read_text())
  for words in (
    "352 tokens in 3 stores.",  # 48 + 20 + 20 frames of 4
    "clips + more",
    "192",
    "768",
    "read off the figure",
    "about 450",
    "about 8,000",
    "2.37 M",
    "not printed in the paper",
    "41.3 G",
    "10.3 G",
    "92,627",
    "60%",  # Table 2, and at its stride
    "codes are never used",
    "-sum p ln p",
  ):
    assert words in page.text, words
  assert "Not shown" not in page.text
  assert "What the codes keep" not in page.text  # no tokenizer was given
  assert page.tags.count("figure") == 3


def test_the_page_needs_the_run_directory_alone(done, tmp_path, monkeypatch):
  monkeypatch.setattr(plots, "_svg", lambda *_, **__: "<svg></svg>")
  monkeypatch.setattr(plots, "_legend", lambda *_: "")
  for name in ("tokens.json", "rank_frequency.csv"):
    (tmp_path / name).write_bytes((done / name).read_bytes())
  whole = frame.write(tmp_path, tokens_page.PAGE).read_text()
  assert "Not shown" not in whole.partition("<footer>")[0]  # there is no config to show
  (tmp_path / "rank_frequency.csv").unlink()
  text = pages.Page(frame.write(tmp_path, tokens_page.PAGE).read_text()).text
  assert text.count("rank_frequency.csv is missing") == 1  # told once, with all that lack it
  assert "352 tokens" in text
  (tmp_path / "tokens.json").write_text('{"stores": 3}')
  text = pages.Page(frame.write(tmp_path, tokens_page.PAGE).read_text()).text
  assert "have another format" in text and "-sum p ln p" in text


def test_names_are_text(data, tmp_path, monkeypatch):
  monkeypatch.setattr(plots, "_svg", lambda *_, **__: "<svg></svg>")
  monkeypatch.setattr(plots, "_legend", lambda *_: "")
  stores = {"a, <script>": str(data / "clips"), "ü/b": str(data / "more")}
  config = token_reports.config(data, stores=stores)
  assert token_reports.run(config, tmp_path / "run")
  page = pages.Page((tmp_path / "run" / "report.html").read_text())
  assert "a, <script> + ü/b" in page.text and "script" not in page.tags


def test_curves_are_shares_and_thin():
  last = np.array([1.0, 10_000.0])
  table = {
    "a": {
      "n": np.array([2.0, 2.0]),
      "first_rank": np.array([1.0, 2.0]),
      "last_rank": last,
      "count": np.array([10_001.0, 1.0]),
    }
  }
  ((rank, share),) = ngram_sections.curves(table, 2).values()
  assert (rank[0], rank[-1]) == (1, 10_000) and len(rank) <= 160
  np.testing.assert_allclose(share[[0, 1, -1]], [10_001 / 20_000] + [5e-5] * 2)


def test_more_stores_than_colours_are_told_apart():
  curves = {f"store {i}": ([1, 2], [0.5, 0.1]) for i in range(9)}
  figure = plots._render(plots.by_rank(curves, ylabel=""), plots.WIDE, plots.PAPER)
  looks = {
    (line.get_color(), str(line.get_linestyle()), str(line._dash_pattern))
    for line in figure.axes[0].lines
  }
  assert len(looks) == 9
