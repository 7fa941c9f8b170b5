"""The page of `run = "playground"` in a real browser, headless Chromium.

Skipped by name where there is no `chromium` with its `chromedriver` (on Debian
the packages chromium and chromium-driver), which nothing here downloads.
"""

import json
import shutil
import threading
import time

import numpy as np
import playgrounds
import pytest
import test_playground as plain

from totojax.data.pixels import movies
from totojax.evals import continuations
from totojax.jobs.playground import studio as studio_lib
from totojax.jobs.surprise import maps

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
  pytest.skip("no chromium, or no chromedriver, on this machine", allow_module_level=True)

_OPTIONS = (
  "--headless=new",
  "--no-sandbox",  # which root has none of
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--no-first-run",
  "--window-size=1280,900",
)
HOSTILE = '<img src=x onerror="document.title=1">.mp4'.replace('"', "'")


@pytest.fixture(scope="module", name="browser")
def _browser(tmp_path_factory):
  from selenium.webdriver.chrome import service

  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for word in _OPTIONS:
    options.add_argument(word)
  options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
  browser = webdriver.Chrome(options=options, service=service.Service(DRIVER))
  downloads = tmp_path_factory.mktemp("downloads")
  browser.execute_cdp_cmd(
    "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
  )
  browser.downloads = downloads
  yield browser
  browser.quit()


@pytest.fixture(scope="module", name="served")
def _served(tmp_path_factory):
  config = playgrounds.config(*playgrounds.build(tmp_path_factory.mktemp("page")))
  with playgrounds.serving(config) as page:
    yield page


@pytest.fixture(name="page")
def _page(served, browser):
  """The page, opened anew."""
  browser.get(served.address)
  wait_for(browser, "return document.querySelectorAll('.clip img').length >= 7")
  return served


def wait_for(browser, script, seconds=90.0):
  until = time.monotonic() + seconds
  while not (value := browser.execute_script(script)):
    assert time.monotonic() < until, (script, text(browser, "status"), text(browser, "error"))
    time.sleep(0.02)
  return value


def text(browser, name):
  return browser.execute_script("return document.getElementById(arguments[0]).textContent", name)


def fill(browser, **values):
  for name, value in values.items():
    element = browser.find_element("id", name)
    if element.tag_name == "select":
      browser.execute_script("arguments[0].value = arguments[1]", element, str(value))
    else:
      element.clear()
      element.send_keys(str(value))


def generate(browser, **values):
  """Asks for a decoding, and waits for its end."""
  fill(browser, **values)
  browser.find_element("id", "go").click()
  wait_for(browser, "return document.getElementById('status').textContent.includes('done in')")


def canvas(browser, kind, frame=None):
  """uint8 [columns, H, W, 3] of the canvases of all columns, of one frame."""
  if frame is not None:
    browser.execute_script("setPlaying(false); at = arguments[0]; show()", frame)
  found = browser.execute_script(
    """return figures.map((one) => {
      const c = one[arguments[0]], context = c.getContext("2d");
      return [c.height, c.width, ...context.getImageData(0, 0, c.width, c.height).data];
    })""",
    kind,
  )
  return np.stack([np.array(one[2:], np.uint8).reshape(*one[:2], 4)[..., :3] for one in found])


def test_a_clip_goes_on_and_is_downloaded(page, browser, monkeypatch):
  av = pytest.importorskip("av")
  add, made, seen, said = studio_lib._Stage.add, [], [], []

  def slow(stage, frame):
    """A frame, once the one before was seen here."""
    plain.wait_for(lambda: 3 + len(made) in seen)
    made.append(frame)
    return add(stage, frame)

  monkeypatch.setattr(studio_lib._Stage, "add", slow)
  browser.find_elements("css selector", ".clip")[1].click()
  fill(browser, given=3, new=6, samples=2, seed=5)
  browser.find_element("id", "go").click()
  while not said or "done in" not in said[-1]:
    count = browser.execute_script("return frames.length")
    said.append(text(browser, "status"))  # before the next frame is made
    seen.append(count)
    assert not text(browser, "error") and len(seen) < 5000
    time.sleep(0.02)
  seen.append(browser.execute_script("return frames.length"))  # the last may come with the end
  # One by one: each number of frames is seen, the new ones while others are not there yet.
  assert {4, 5, 6, 7, 8, 9} <= set(seen) and sorted(seen) == seen
  assert any("Frame 5 of 9" in line for line in said)
  names = browser.execute_script("return figures.map((one) => one.name)")
  assert names == ["truth", "tokenizer", "sample 1", "sample 2"]
  # What is drawn is what was sent, and what was sent is what is downloaded.
  sent = browser.execute_script("return frames.map((one) => one.pictures)")
  drawn = [canvas(browser, "picture", t) for t in range(9)]
  for shown, pictures in zip(drawn, sent):
    np.testing.assert_array_equal(shown, np.stack([*map(plain.pixels, pictures)]))
  pairs = [
    (movies.enlarged(np.stack(column), side_px=96), given)
    for column, given in zip(zip(*drawn), (9, 9, 3, 3))
  ]
  expected = movies.beside(pairs, frames=9)
  files = {}
  for kind in ("webp", "mp4"):
    browser.find_element("id", f"get-{kind}").click()
    until = time.monotonic() + 60
    while not (found := list(browser.downloads.glob(f"totojax-*.{kind}"))):
      assert time.monotonic() < until
      time.sleep(0.05)
    files[kind] = found[0]
  np.testing.assert_array_equal(plain.frames_of_webp(files["webp"].read_bytes()), expected)
  with av.open(str(files["mp4"])) as container:
    played = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
  assert played.shape == expected.shape
  assert continuations.psnrs(expected, played).min() > 20
  assert continuations.psnrs(expected[::-1], played)[0] < 20


def test_the_heat_map_is_seen(page, browser):
  generate(browser, given=2, new=3, samples=1)
  assert (canvas(browser, "picture", 3)[2] != canvas(browser, "picture", 1)[2]).any()
  heat, most = browser.execute_script("return [frames[3].heat, state.most_nats]")
  colours = canvas(browser, "heat", 3)
  stops = np.arange(len(maps.RAMP))
  for nats, image in zip(heat, colours):
    if nats is None:
      continue
    level = np.clip(np.array(nats) / most, 0, 1) * stops[-1]
    wanted = np.stack([np.interp(level, stops, maps.RAMP[:, c]) for c in range(3)], -1)
    assert np.abs(image.reshape(-1, 3) - wanted).max() <= 1
  hidden = browser.execute_script("return figures.map((one) => one.heat.hidden)")
  assert hidden == [False, True, False] and [one is None for one in heat] == hidden
  slider = browser.find_element("id", "heat")
  for value in ("0", "1"):
    browser.execute_script(
      "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
      slider,
      value,
    )
    style = "return getComputedStyle(figures[2].heat).opacity"
    assert browser.execute_script(style) == value
  assert "nats: a guess among all codes" in text(browser, "most")
  ramp = browser.execute_script(
    "return [...document.getElementById('ramp').getContext('2d').getImageData(0,0,128,1).data]"
  )
  np.testing.assert_array_equal(ramp[:3], maps.RAMP[0])
  np.testing.assert_array_equal(ramp[-4:-1], maps.RAMP[-1])


def test_a_damaged_upload_is_one_line_and_a_sound_one_works(page, browser, tmp_path):
  little = pytest.importorskip("little_videos")
  little.write(tmp_path / "a.mp4", 60)
  bad = tmp_path / HOSTILE
  sound = (tmp_path / "a.mp4").read_bytes()
  bad.write_bytes(sound[: len(sound) // 3])
  title = browser.title
  browser.find_element("id", "upload").send_keys(str(bad))
  wait_for(browser, "return !document.getElementById('error').hidden")
  line = text(browser, "error")
  assert line.startswith(HOSTILE) and "it is no video that is read here" in line
  assert "\n" not in line and browser.title == title
  generate(browser, given=2, new=2)
  assert browser.find_element("id", "error").get_property("hidden")
  browser.find_element("id", "upload").send_keys(str(tmp_path / "a.mp4"))
  wait_for(browser, "return document.getElementById('status').textContent === 'a.mp4 is there.'")
  chosen = "return document.querySelector('input[name=clip]:checked').value"
  assert browser.execute_script(chosen).startswith("u")
  generate(browser, given=3, new=2)
  shown = np.stack([canvas(browser, "picture", t)[0] for t in range(5)])
  assert little.numbers(shown[None])[0].tolist() == [0, 4, 8, 12, 16]


def test_what_cannot_be_made_is_one_line_on_the_page(page, browser):
  browser.execute_script("document.getElementById('form').noValidate = true")
  fill(browser, new=10**9)
  browser.find_element("id", "go").click()
  wait_for(browser, "return !document.getElementById('error').hidden")
  assert text(browser, "error").startswith("new_frames is 1000000000; it must be")
  generate(browser, new=2, temperature=0, top_p=0.5, top_k=3, min_p=0.1, samples=1)


def test_the_form_keeps_to_the_clip_and_an_old_error_goes(page, browser):
  given = "return [...document.querySelectorAll('#given option')].map((one) => Number(one.value))"
  fill(browser, given=5)
  assert browser.execute_script(given) == [*range(1, playgrounds.FRAMES + 1)]
  browser.execute_script(
    """addClip({key: "u1", name: "a_name_without_any_place_to_break_it.mp4", kind: "uploaded",
    frames: 2, picture: state.clips[0].picture}, true)"""
  )
  assert browser.execute_script(given) == [1, 2]
  assert browser.find_element("id", "given").get_attribute("value") == "2"
  lines = "const b = document.querySelector('.clip b'); return [b.title, b.getClientRects().length]"
  assert browser.execute_script(lines) == ["a_name_without_any_place_to_break_it.mp4", 1]
  browser.find_element("css selector", "input[value=c0]").find_element("xpath", "..").click()
  assert len(browser.execute_script(given)) == playgrounds.FRAMES
  # An error goes when something is changed, and where the browser itself refuses the next try.
  for change in (lambda: fill(browser, seed=7), lambda: browser.find_element("id", "go").click()):
    browser.execute_script("fail('an old one'); document.getElementById('temperature').value = 101")
    change()
    assert browser.execute_script("return document.getElementById('error').hidden")
  assert browser.execute_script("return document.querySelectorAll('#form :invalid').length") >= 1
  fill(browser, temperature=1)
  # What is waited for has its seconds beside it.
  browser.execute_script("status('Compiling ...', true)")
  wait_for(browser, "return document.getElementById('status').textContent === 'Compiling ... 1 s'")
  browser.execute_script("status('Done.')")
  time.sleep(1.2)
  assert text(browser, "status") == "Done."


@pytest.mark.parametrize("way", ["stop", "close"])
def test_whoever_leaves_in_the_middle_leaves_the_page_as_it_was(page, browser, monkeypatch, way):
  made, left = [], threading.Event()
  add = studio_lib._Stage.add

  def slow(stage, frame):
    made.append(stage)
    if len(made) > 3:  # not many more until somebody has left
      left.wait(60)
    time.sleep(0.25)
    return add(stage, frame)

  monkeypatch.setattr(studio_lib._Stage, "add", slow)
  home = browser.current_window_handle
  browser.switch_to.new_window("tab")
  browser.get(page.address)
  wait_for(browser, "return document.querySelectorAll('.clip img').length >= 7")
  fill(browser, given=2, new=12)
  browser.find_element("id", "go").click()
  wait_for(browser, "return frames.length >= 4")
  if way == "stop":
    browser.find_element("id", "stop").click()
    wait_for(browser, "return document.getElementById('status').textContent === 'Stopped.'")
  browser.close()
  left.set()
  browser.switch_to.window(home)
  plain.wait_for(lambda: page.studio._now is None)
  assert 2 <= len(made) < 12
  monkeypatch.undo()
  generate(browser, given=2, new=2)


def test_nothing_leaves_loopback(page, browser):
  for name in ("performance", "browser"):  # of before
    browser.get_log(name)
  browser.refresh()
  wait_for(browser, "return document.querySelectorAll('.clip img').length >= 7")
  generate(browser, given=2, new=2)
  events = [json.loads(row["message"])["message"] for row in browser.get_log("performance")]
  asked = [
    e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
  ]
  assert {page.address, page.address + "page.js", page.address + "runs"} <= {*asked}
  assert all(url.startswith((page.address, "data:", "blob:")) for url in asked)
  entries = browser.execute_script(
    "return performance.getEntriesByType('resource').map((one) => one.name)"
  )
  assert entries and all(url.startswith((page.address, "data:")) for url in entries)
  severe = [row for row in browser.get_log("browser") if row["level"] == "SEVERE"]
  assert not severe
  # Control: the policy is in force, so that what is elsewhere is not even asked for.
  refused = browser.execute_async_script(
    """const done = arguments[0], seen = [];
    document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
    document.body.append(Object.assign(new Image(), {src: "http://127.0.0.2:9/x.png"}));
    fetch("http://127.0.0.2:9/").catch(() => setTimeout(() => done(seen), 200));"""
  )
  assert {"img-src", "connect-src"} <= {*refused}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_has_names(page, browser, width, scheme):
  size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
  media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
  browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
  try:
    generate(browser, given=2, new=2, samples=4)
    widest = browser.execute_script(
      """return Math.max(...[...document.querySelectorAll("main *")]
      .map((one) => one.getBoundingClientRect().right), document.documentElement.scrollWidth)"""
    )
    assert widest <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "spinbutton", "combobox", "slider", "radio", "link", "image"}
    shown = [n for n in tree if not n["ignored"] and n["role"]["value"] in roles]
    unnamed = [n["role"]["value"] for n in shown if not n.get("name", {}).get("value")]
    assert len(shown) > 20 and not unnamed
  finally:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
