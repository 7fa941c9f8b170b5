"""`run = "playground"`: a page on which a model goes on with clips.

This thread has the devices and the signals; the page is served on another one.
No run directory is left.
"""

import ipaddress

from etils import epath

from totojax import jobs
from totojax.config.playground import Playground
from totojax.jobs.playground import server, shelf as shelf_lib, studio as studio_lib
from totojax.rundir import console
from totojax.trained import backbone, model as pretrained


def run(config: Playground, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Serves the page until it is interrupted.

  Raises:
    ConfigError: the model, or the clips that the config names, cannot be used.
    ImportError: the extra `web` is missing.
    OSError: the port cannot be had.
  """
  del workdir
  server.check(config.server)
  source = backbone.find(config.model_run, what="a model that goes on with videos")
  with console.phase(f"reading the parameters of {source.path}"):
    model = pretrained.load(source.path, tokenizer=config.tokenizer, depth=0)
    model.decoder(frames=1, sampling=config.sampling, window=config.window)
  with console.phase("reading the clips"):
    shelf = shelf_lib.Shelf(config, model)
  for note in shelf.notes:
    console.say(note)
  studio = studio_lib.Studio(config, model, shelf, name=str(source.path))
  with server.serving(studio, config.server) as address:
    if not _is_loopback(config.server.host):
      console.warn(
        f"server.host is {config.server.host}: whoever reaches it can upload and decode, without a"
        " password"
      )
    console.say(f"{address} (Ctrl-C ends it)")
    studio.serve(interrupted)
    console.say("the page is closed")
  return True


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"
