"""Runs totojax in a container with this machine's GPUs, and keeps it running.

  launch/container.sh COMMAND [options] [-- FLAGS]

Commands
  run      plan, build the image, run it until the run is finished: exit status
           75 and a kill are started again, and go on from the checkpoint. Ctrl-C
           and SIGTERM save first; the same command goes on
  build    build the image from launch/Containerfile
  plan     look at the config and its flags, and ask the planner

Options
  --config FILE      of configs/, such as configs/base.py: they are in the wheel
  --workdir FOLDER   of the run, by its whole path: it is mounted; or gs://
  --mount F          FOLDER that the run reads, by its whole path, repeatable
  --engine NAME      podman or docker; default: what is on PATH
  --image NAME       default: totojax
  --extras LIST      that the image has; default: cuda,data
  --gpus LIST        all, none, or numbers, as 0,1; default: all
  --count N          of these GPUs, for plan and price alone, default 1
  --env F            NAME=VALUE for the run, repeatable
  --run-flag F       more for the engine's run, repeatable: --shm-size=32g
  --tries N          failures in a row without a new checkpoint; default 5
  --poll SECONDS     before a start after a failure, and ever longer; default 10
  --kind KIND        of the GPUs as planner and prices name them: NVIDIA H100
  --price MONEY      of one GPU an hour, in any currency
  --prices FILE      a table of them (docs/launch.md); default: prices.json here
  --no-plan          do not ask totojax before anything is built
  --no-build         the image is there
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.optim.lr=1e-4. Needs podman or docker,
NVIDIA's driver and its container toolkit (for podman: nvidia-ctk cdi generate),
and Python 3.9. Ends with 0: done, 1: not done, for the reason of the last line,
130: Ctrl-C, 143: SIGTERM, 129: SIGHUP.

  launch/container.sh run --config configs/base.py --workdir /data/toto-base \\
    --mount /data/tokens -- --config.data.root=/data/tokens
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import arguments
import calls
from calls import Caller, GiveUp, say, show
import prepare
import prices
from project import ROOT
import watch

NEEDS = {"run": ("config", "workdir"), "build": (), "plan": ("config",)}


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`.

  Raises:
    GiveUp: something is missing or wrong.
  """
  options = arguments.read(words, __doc__)
  arguments.check_needed(options, NEEDS)
  arguments.check_least(options, {"count": 1, "tries": 1, "poll": 0, "price": 0})
  if options.config:
    options.config = arguments.config_file(options.config)
    if not options.config.startswith("configs/"):
      raise GiveUp(f"--config is {options.config}; only what is in configs/ goes into the image")
  if options.workdir:
    options.workdir = arguments.shared_folder(options.workdir)
  for folder in options.mount:
    if not os.path.isabs(folder) or ":" in folder:
      raise GiveUp(f"--mount is {folder}; it is a whole path, without a colon")
    if not options.dry_run and not os.path.isdir(folder):
      raise GiveUp(f"--mount {folder} is not there")
  options.gpus = options.gpus or "all"
  if not re.fullmatch(r"all|none|\d+(,\d+)*", options.gpus):
    raise GiveUp(f"--gpus is {options.gpus}; it is all, none, or numbers as 0,1")
  engines = ("podman", "docker")
  if options.engine not in (None, *engines):
    raise GiveUp(f"--engine is {options.engine}; it is podman or docker")
  found = [engine for engine in engines if shutil.which(engine)]
  options.engine = options.engine or (found or ["podman"])[0]
  if not options.dry_run and options.command != "plan" and options.engine not in found:
    raise GiveUp(f"{options.engine} is not installed")
  options.image = options.image or "totojax"
  options.bill = prices.find(options.kind, options.price, options.prices)
  return options


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options = options
    self.name = f"totojax-{os.getpid()}"
    self.tries = watch.Tries(options.tries, self.pause)

  def pause(self, times: int) -> None:
    time.sleep(self.options.poll * times)

  def follow(self, words: Sequence[str]) -> int:
    """Prints a command and runs it, whose output is seen; its status."""
    show(words)
    if self.options.dry_run:
      return 0
    process = subprocess.Popen(words)
    try:
      return process.wait()
    except KeyboardInterrupt:  # any signal of the door
      if words[1] == "run":
        # It saves, which may take a while; Ctrl-C has told it already.
        subprocess.run([self.options.engine, "stop", "--time=300", self.name], capture_output=True)
      process.wait()
      raise

  def build(self) -> None:
    options = self.options
    words = [options.engine, "build", f"--file={ROOT / 'launch' / 'Containerfile'}"]
    words += [f"--tag={options.image}", f"--build-arg=EXTRAS={options.extras or 'cuda,data'}"]
    if status := self.follow([*words, str(ROOT)]):
      raise GiveUp(f"the image was not built ({options.engine} ended with {status}), see above")

  def words(self) -> list[str]:
    """The command that runs it once."""
    options = self.options
    words = [options.engine, "run", "--rm", "--init", f"--name={self.name}", "--shm-size=8g"]
    if options.engine == "docker":  # its root is the machine's; podman's is the user
      words += [f"--user={os.getuid()}:{os.getgid()}", "--env=HOME=/tmp"]
    if options.gpus != "none":
      each = options.gpus.split(",")
      podman = [f"--device=nvidia.com/gpu={gpu}" for gpu in each]
      docker = ["--gpus=all" if options.gpus == "all" else f'--gpus="device={options.gpus}"']
      words += podman if options.engine == "podman" else docker
    if not options.workdir.startswith("gs://"):
      words.append(f"--volume={options.workdir}:{options.workdir}")
    words += [f"--volume={folder}:{folder}:ro" for folder in options.mount]
    words += [f"--env={pair}" for pair in options.env]
    words += [*options.run_flag, options.image, f"--config={options.config}"]
    return [*words, f"--workdir={options.workdir}", *options.flags]

  def plan(self) -> None:
    options = self.options
    prepare.plan_gpus(
      Caller(options.dry_run, 60.0),
      options.config,
      options.flags,
      kind=None if options.gpus == "none" else options.kind,
      count=options.count,
      price=options.bill.per_hour if options.bill else None,
    )

  def run(self) -> None:
    options = self.options
    here = not options.workdir.startswith("gs://")
    done = pathlib.Path(options.workdir, "done.json")
    if here and done.exists():
      say(f"finished already: {options.workdir}")
      return
    if not options.no_plan:
      self.plan()
    if options.bill:
      say(options.bill.bill(options.count, None))
    if not options.no_build:
      self.build()
    if here and not options.dry_run:
      os.makedirs(options.workdir, exist_ok=True)  # docker would make it root's
    while True:
      self.tries.see(watch.progress_in(options.workdir) if here else ())
      self.tries.advanced = False
      status = self.follow(self.words())
      if options.dry_run:
        return
      self.tries.see(watch.progress_in(options.workdir) if here else ())
      if not status:
        say(f"finished: {options.workdir}" if done.exists() or not here else "stopped")
        return
      if watch.own_failure(str(status)) and not self.tries.advanced:
        raise GiveUp(f"it has failed ({status}), see above; the same command goes on")
      self.tries.failed(f"it has ended with {status}")


def main(words: Sequence[str]) -> int:
  why = "stopped, and saved as far as it says above; the same command goes on"
  return calls.door("container", __doc__, words, lambda: Session(parse(words)), why)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
