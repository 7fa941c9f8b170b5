"""A page of a model that was never trained, on loopback, and what a client needs of it."""

import contextlib
import dataclasses
import json
import threading

import probes
import requests

from totojax import jobs
from totojax.config import pixel_recipes, roots
from totojax.jobs.playground import server, shelf as shelf_lib, studio as studio_lib
from totojax.tokenizers import weights
from totojax.trained import model as pretrained

FRAMES, GRID = 6, 4
WAIT_S = 120.0


def build(root):
  """(run directory, store of pixels) for the shipped tokenizer."""
  size = dict(vocab=512, grid=GRID, frames=FRAMES, context=FRAMES * GRID**2)
  run = probes.bare_backbone(root, tokenizer=weights.load("shipped").fingerprint, sequence=size)
  c = pixel_recipes.render(train=1, val=3)
  c.scene.frames = 10
  assert jobs.run(c.to_dict(), root / "clips", lambda step: False)
  return run, str(root / "clips" / "val")


def config(run, store="", **keys):
  """The typed config of a page; `limits__waiting=1` changes a key."""
  c = roots.config("playground", model_run=str(run))
  c.prompt.store, c.server.port, c.limits.new_frames = store, 0, 12
  for key, value in keys.items():
    section, _, name = key.rpartition("__")
    (c[section] if section else c)[name] = value
  return roots.read(c.to_dict())


@dataclasses.dataclass
class Page:
  """A page that is served, and what answers it."""

  address: str
  studio: studio_lib.Studio
  model: pretrained.Pretrained
  stop: threading.Event
  thread: threading.Thread

  def get(self, path, **more):
    return requests.get(self.address + path, timeout=WAIT_S, **more)

  def post(self, path, data, **more):
    return requests.post(self.address + path, data=data, timeout=WAIT_S, **more)

  def state(self):
    return self.get("state").json()

  def ask(self, **changed):
    """The response to a decoding that is asked for, whose events have not been read."""
    sampling = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=3)
    sampling |= changed.pop("sampling", {})
    values = dict(clip="c0", given=3, new_frames=4, samples=2, mode="slide", sampling=sampling)
    return self.post("runs", json.dumps(values | changed), stream=True)

  def error(self, response, status=400):
    """The one line of an answer that is an error."""
    assert response.status_code == status, response.text
    line = response.json()["error"]
    assert line and "\n" not in line and "Traceback" not in line
    return line


def events(response):
  """(event, data) pairs of a stream."""
  event = None
  for line in response.iter_lines(decode_unicode=True):
    if line.startswith("event: "):
      event = line.removeprefix("event: ")
    elif line.startswith("data: "):
      yield event, json.loads(line.removeprefix("data: "))


def last(response):
  return list(events(response))[-1]


@contextlib.contextmanager
def serving(config, model=None):
  """A page whose decodings are made on another thread than the test's."""
  model = model or pretrained.load(config.model_run, tokenizer=config.tokenizer, depth=0)
  shelf = shelf_lib.Shelf(config, model)
  studio = studio_lib.Studio(config, model, shelf, name="a model")
  stop = threading.Event()
  thread = threading.Thread(target=studio.serve, args=(lambda step: stop.is_set(),), daemon=True)
  with server.serving(studio, config.server) as address:
    thread.start()
    try:
      yield Page(address, studio, model, stop, thread)
    finally:
      stop.set()
      thread.join(WAIT_S)
