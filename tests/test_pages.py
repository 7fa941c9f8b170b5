"""What every page has, from small made-up runs; one run beside another; a real browser."""

import base64
import csv
import io
import json
import re
import shutil

import fake_chain
import numpy as np
import pages
import pytest

from totojax.report import audit_page, frame, kinds, page, paper, plots, reading, side_by_side
from totojax.rundir import files

FOOT = ("What was run", "Run it again", "Settings", "Numbers as CSV")


@pytest.fixture(scope="module", name="chain")
def _chain(tmp_path_factory):
  return fake_chain.write(tmp_path_factory.mktemp("made") / "demo")


@pytest.fixture(name="undrawn")
def _undrawn(monkeypatch):
  monkeypatch.setattr(plots, "_svg", lambda *_, **__: "<svg></svg>")
  monkeypatch.setattr(plots, "_legend", lambda *_: "")


def read(folder, out):
  return frame.write(out, kinds.of(reading.RunFolder(folder)), run=folder).read_text()


def tables(html):
  """Name -> rows of every CSV that a page holds."""
  found = re.findall(r'download="([^"]+)" href="data:text/csv;base64,([^"]+)"', html)
  return {n: list(csv.reader(io.StringIO(base64.b64decode(x).decode()))) for n, x in found}


def test_every_page_has_a_verdict_its_interval_and_a_foot(chain, tmp_path, undrawn):
  del undrawn
  html = read(chain, tmp_path)
  text = pages.Page(html).text
  for words in (
    *FOOT,
    "The model beats copying the previous frame. 0.532 nats per token less (95 % from",
    "on 256 held-out sequences",
    "width 128, 1,337,216 parameters",
    "begun 2025-01-31 13:05 UTC",
    "Abacus 9",
    "totojax --config=b.py",
    f"--config=configs/report.py:{chain}",
    "Figure 10 of",
    paper.TITLE,
  ):
    assert words in text, words
  assert html.count('<p class="verdict') == 1 and paper.ADDRESS in html
  # What the interval is worth: 1.96 times both errors, of which a half is not it.
  found = re.search(r"95 % from ([\d.]+) to ([\d.]+)", text)
  assert found is not None
  low, high = map(float, found.groups())
  error = np.hypot(0.0211, 0.02)
  np.testing.assert_allclose([low, high], 0.5321 + 1.96 * error * np.array([-1, 1]), atol=6e-4)


def test_numbers_are_in_the_page_as_csv(chain, tmp_path, undrawn, monkeypatch):
  del undrawn
  found = tables(read(chain, tmp_path))
  assert found["validate_position_loss.csv"][0][:3] == ["source", "position", "frame"]
  assert ["moving/loss", "1.7123"] in found["validate_metrics.csv"]
  log = found["pretrain_metrics.csv"]
  assert {"step", "kind", "loss", "moving/loss", "wall.tokens_per_s"} <= set(log[0])
  lines = (chain / "pretrain" / "metrics.jsonl").read_text().splitlines()
  assert len(log) == 1 + len(lines)
  assert not any("config" in name or "manifest" in name for name in found)
  monkeypatch.setattr("totojax.report.provenance.MOST_TABLE", 500)  # too large: named
  html = read(chain, tmp_path)
  assert "validate_position_loss.csv" not in tables(html)
  assert "validate/position_loss.csv (0.0 MB)" in pages.Page(html).text


def test_sections_without_anything_to_say_leave_no_title(chain, tmp_path, undrawn):
  del undrawn
  text = pages.Page(read(chain, tmp_path)).text
  assert "What the tokenizer keeps" in text
  for title in ("What neighbours tell", "Continued videos", "While it was trained", "Not shown"):
    assert title not in text


def test_stages_and_single_runs_have_pages(chain, tmp_path, undrawn):
  del undrawn
  for stage, words in {
    "pretrain": "nats per token on held-out moving after 300 updates",
    "validate": "The model beats copying the previous frame.",
    "tokenizer": "A tokenizer.",
  }.items():
    text = pages.Page(read(chain / stage, tmp_path / stage)).text
    assert words in text and "What was run" in text and "another format" not in text, stage
  # Of a chain of an early version, which had no config of its own.
  old = shutil.copytree(chain, tmp_path / "old")
  (old / "config.json").unlink()
  assert "The model beats copying" in read(old, tmp_path / "page")
  (tmp_path / "empty").mkdir()
  with pytest.raises(reading.Missing, match="config.json is missing"):
    kinds.of(reading.RunFolder(tmp_path / "empty"))
  (tmp_path / "empty" / "config.json").write_text("{")
  with pytest.raises(reading.Missing, match="config.json cannot be read"):
    kinds.of(reading.RunFolder(tmp_path / "empty"))


def test_every_run_has_a_verdict(chain, tmp_path, undrawn):
  """Also one that is not finished, and one that keeps a plan and is none."""
  del undrawn
  for job, files_of, words in (
    ("clone", {}, "The run is not finished."),
    ("tokenize", {"plan.json": "{}", "done.json": "{}"}, "The run is finished."),
  ):
    folder = tmp_path / job
    folder.mkdir()
    for name, content in {"config.json": json.dumps({"run": job}), **files_of}.items():
      (folder / name).write_text(content)
    html = read(folder, tmp_path / "page")
    assert html.count('<p class="verdict') == 1 and words in html, job
    assert html.count("metrics.json is missing") <= 1  # one line a reason
  # Of a chain without validation: its last stage says it.
  other = shutil.copytree(chain, tmp_path / "chain")
  shutil.rmtree(other / "validate")
  config = json.loads((other / "config.json").read_text())
  config["order"] = [*(x for x in config["order"] if x != "validate"), "robot"]
  (other / "config.json").write_text(json.dumps(config))
  rows = [
    {"row": name, "layer": 0, "error": {"mean": error, "low": error, "high": error}}
    | {"train_error": 0.1, "trials": {"successes": n, "n": 50}, "several": False}
    | {"less_than_blind": {"mean": 0.1 - error, "low": -0.1, "high": 0.1}}
    for name, error, n in (("mine", 0.05, 40), ("blind", 0.1, 4))
  ]
  amounts = {"train": 45, "train_steps": 99, "heldout": 5, "heldout_steps": 9, "missing": 0}
  metrics = {"rows": rows, "seeds": 1, "videos": [], "amounts": amounts}
  for folder in (tmp_path / "clone", other / "robot"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"run": "clone"}')
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "done.json").write_text("{}")
  own = verdict(read(tmp_path / "clone", tmp_path / "page"))
  assert "mine" in own and verdict(read(other, tmp_path / "page")) == own
  # With a validation it is the model's.
  config["order"].insert(-1, "validate")
  (other / "config.json").write_text(json.dumps(config))
  shutil.copytree(chain / "validate", other / "validate")
  assert verdict(read(other, tmp_path / "page")) == verdict(read(chain, tmp_path / "page")) != own


def verdict(html: str) -> str:
  (said,) = re.findall(r'<p class="verdict.*?</p>', html, re.S)
  return said


def several(chain, tmp_path):
  """The chain and one like it, whose model is worse and has another width."""
  other = shutil.copytree(chain, tmp_path / "other")
  config = json.loads((other / "pretrain" / "config.json").read_text())
  config["model"]["width"] = 96
  (other / "pretrain" / "config.json").write_text(json.dumps(config))
  rows = [json.loads(x) for x in (other / "pretrain" / "metrics.jsonl").read_text().splitlines()]
  for row in rows:
    row |= {key: row[key] + 0.25 for key in ("loss", "moving/loss") if key in row}
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (other / "pretrain" / "metrics.jsonl").write_text(lines)
  return [("one", reading.RunFolder(chain)), ("two", reading.RunFolder(other))]


def test_runs_side_by_side(chain, tmp_path, undrawn):
  del undrawn
  runs = several(chain, tmp_path)
  html = side_by_side.write(tmp_path / "page", runs).read_text()
  text, found = pages.Page(html).text, tables(html)
  assert "one ends lowest on held-out moving" in text and "next two, 0.250 above" in text
  assert found["settings.csv"] == [["setting", "one", "two"], ["model.width", "128", "96"]]
  final = {row[0]: dict(zip(found["final.csv"][0], row)) for row in found["final.csv"][1:]}
  gap = float(final["two"]["held out: moving"]) - float(final["one"]["held out: moving"])
  assert gap == pytest.approx(0.25)
  assert {row[0] for row in found["validation.csv"][1:]} == {"one", "two"}
  assert text.count("Loss on held-out sequences") == 1 and "model.evil" not in text
  # Of other tokens: no ranking.
  path = runs[1][1].path / "pretrain" / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer": "other"}))
  text = pages.Page(side_by_side.write(tmp_path / "page", runs).read_text()).text
  assert "cannot be compared" in text and "tokenizers differ" in text and "ends lowest" not in text


def test_a_legend_is_text_that_wraps():
  curves = {f"a run <{i}>": ([1, 2], [i, i + 1]) for i in range(9)}
  draw = plots.lines(curves, look={"lw": 1.0}, xlabel="x")
  html = plots.figure(draw, "", name="n", label="l")
  assert html.count("<li>") == 9 and "a run &lt;8&gt;</li>" in html
  wide = html[html.index('class="wide-only"') :]
  assert "a run" not in wide  # or it would be cut on a phone
  assert html.count("stroke-dasharray") > 0  # colours are used up


def test_small_pictures_are_enlarged_and_strips_scroll():
  png = lambda width: page._data(np.zeros((32, width, 3), np.uint8))
  data = lambda width: base64.b64decode(png(width).partition(",")[2])
  assert 'class="fit"' in page.picture(data(64), "png", "a")
  assert 'width="320"' in page.picture(data(64), "png", "a")
  assert 'class="scroll strip"' in page.picture(data(1024), "png", "a")


def test_the_audit_has_a_page(tmp_path):
  rows = [
    dict(where="Table 1, a", source="s", what="w", printed="1m", value=1e6, verdict="rounds"),
    dict(where="Table 1, b", source="s", what="w", printed="2m", value=1e6, verdict="no"),
  ]
  files.write_csv(tmp_path / "audit.csv", rows)
  text = pages.Page(frame.write(tmp_path, audit_page.PAGE).read_text()).text
  assert "1 of 2 printed numbers follow" in text and "Table 1: 2 readings" in text


_SEEN = """
const lum = (c) => {
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const [r, g, b] = c.map((v) => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const under = (e) => {
  for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
const width = document.documentElement.clientWidth;
const shown = (e) => e.getClientRects().length > 0;
const words = "p, td, th, dt, dd, a, li, figcaption, code, h2, summary";
const contrasts = [...document.querySelectorAll(words)]
  .filter(shown).map((e) => {
    const [a, b] = [lum(rgb(getComputedStyle(e).color).slice(0, 3)), lum(under(e).slice(0, 3))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)];
  });
const cut = [...document.querySelectorAll(".scroll")].filter(shown)
  .filter((e) => e.scrollWidth > e.clientWidth + 1);
return {
  wide: document.documentElement.scrollWidth,
  over: [...document.querySelectorAll("main *")].filter(shown)
    .filter((e) => !e.closest(".scroll, svg") && e.getBoundingClientRect().right > width + 1)
    .map((e) => e.outerHTML.slice(0, 80)),
  tables: cut.filter((e) => e.querySelector("table")).length,
  cueless: cut.filter((e) => !getComputedStyle(e).backgroundImage.includes("gradient")).length,
  contrast: contrasts.reduce((a, b) => a[0] < b[0] ? a : b),
  loaded: performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:")),
  colour: getComputedStyle(document.body).backgroundColor,
  torn: [...document.querySelectorAll("pre")].filter(shown).flatMap((e) => {
    const torn = [], walk = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
    for (let node = walk.nextNode(); node; node = walk.nextNode())
      for (const found of node.data.matchAll(/--[a-z]/g)) {
        const range = document.createRange();
        range.setStart(node, found.index);
        range.setEnd(node, found.index + 3);
        const tops = new Set([...range.getClientRects()].map((r) => Math.round(r.top)));
        if (tops.size > 1) torn.push(node.data.slice(found.index, found.index + 40));
      }
    return torn;
  }),
};
"""


@pytest.mark.slow
def test_on_a_phone_in_a_real_browser(chain, tmp_path):
  """Nothing is wider than the page, tables fit, no request leaves it, and all can be read."""
  webdriver = pytest.importorskip("selenium.webdriver")
  from selenium.webdriver.chrome import service

  chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
  if not (chromium and driver):
    pytest.skip("no chromium, or no chromedriver, on this machine")
  read(chain, tmp_path / "chain")
  side_by_side.write(tmp_path / "several", several(chain, tmp_path))
  # Negative control: what is too wide, grey on grey, and flags that break as text does.
  bad = page.page(
    "bad",
    [
      '<p style="color: #888; background: #777">x</p><p style="width: 600px">y',
      *(f"<pre><code>{'x' * n} --config.a=b</code></pre>" for n in range(20, 50)),
    ],
  )
  (tmp_path / "bad.html").write_text(bad)
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"):
    options.add_argument(word)
  browser = webdriver.Chrome(options=options, service=service.Service(driver))
  try:
    size = dict(width=390, height=844, deviceScaleFactor=1, mobile=True)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = set()
    for scheme in ("light", "dark"):
      media = [dict(name="prefers-color-scheme", value=scheme)]
      browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=media))
      for name in ("chain/report.html", "several/report.html"):
        browser.get(f"file://{tmp_path / name}")
        browser.execute_script(
          "document.querySelectorAll('details').forEach((e) => { e.open = true; })"
        )
        seen = browser.execute_script(_SEEN)
        assert seen["wide"] <= 390 and not seen["over"], (name, seen)
        assert not seen["tables"] and not seen["cueless"] and not seen["loaded"], (name, seen)
        assert not seen["torn"], (name, seen["torn"])
        assert seen["contrast"][0] >= 4.5, (name, scheme, seen["contrast"])
        colours.add(seen["colour"])
    assert len(colours) == 2  # dark is another page than light
    browser.get(f"file://{tmp_path / 'bad.html'}")
    seen = browser.execute_script(_SEEN)
    assert seen["over"] and seen["torn"] and seen["contrast"][0] < 4.5, seen
  finally:
    browser.quit()
