"""Runs totojax on Cloud TPU VMs, and keeps it running.

  launch/tpu_vm.sh COMMAND [options] [-- FLAGS]

Commands
  run      plan, make the TPU, install, start, and watch until it is finished:
           what is lost is made anew, what has ended too early is started again
           and goes on from its checkpoint. Safe to stop and to repeat: it
           attaches to a run that is under way
  plan     ask the planner whether the run fits, before anything is paid
  create   make the TPU and wait until it is ready
  install  install this project on every worker
  stop     ask the run to save a checkpoint and to leave; so does its `run`
  status   what the TPU, its workers and the work directory say
  logs     follow the log of one worker
  delete   delete the TPU, and wait until it is gone
  copy     copy stores of tokens into the bucket: bytes and hours first

Options
  --name NAME        of the TPU (and of its queued resource)
  --zone ZONE        that has the type, such as us-west4-a (docs/tpu.md)
  --type TYPE        such as v5litepod-256
  --node-count N     slices of this type, default 1; the planner names their mesh
  --config FILE      such as configs/1b.py; configs/tokenize.py makes tokens
  --workdir URL      gs://BUCKET/FOLDER of the run, which outlives the TPU
  --spot             cheaper, may be preempted
  --direct           make the TPU VM itself, not through a queued resource
  --runtime VERSION  of the TPU software; default: by type
  --project PROJECT  default: gcloud's own
  --create-flag F    more for gcloud's create, repeatable: --internal-ips,
                     --network=N, --service-account=A, --reserved, --labels=a=b
  --ssh-flag F       more for gcloud's ssh, repeatable: --internal-ip,
                     --tunnel-through-iap, --ssh-flag=-v
  --worker N         whose log, counted through all slices; default 0
  --poll SECONDS     between looks; default 60. All patience counts in looks
  --timeout SECONDS  of a look; default 180
  --tries N          failures in a row without a new checkpoint; default 5
  --stall N          looks without anything new in the bucket until a run is
                     taken for hung and started again; default 120, 0: never
  --no-plan          do not ask the planner first
  --delete-when-done delete the TPU at the end of `run`, however it ended, unless
                     somebody has stopped the TPU (gcloud ... tpu-vm stop) or it
                     is another run's
  --source FOLDER    with stores of tokens (copy)
  --mbit N           a second, of the line that copies; default 100
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.optim.lr=1e-4. Needs gcloud, logged in
and with a project (docs/tpu.md), Python 3.9, and for the plan the extra `tpu`.
Ends with 0: done, 1: not done, for the reason of the last line, 130: Ctrl-C,
143: SIGTERM, 129: SIGHUP.

  launch/tpu_vm.sh run --name toto --zone us-west4-a --type v5litepod-256 \\
    --spot --config configs/1b.py --workdir gs://BUCKET/toto-1b
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tarfile
import tempfile

import cloud
from cloud import Failure, GiveUp, say
import prepare
import watch

ROOT = prepare.ROOT
_TPU = ("name", "zone")
NEEDS = {
  "run": (*_TPU, "type", "config", "workdir"),
  "plan": ("type", "config"),
  "create": (*_TPU, "type"),
  "install": (*_TPU, "workdir"),
  **dict.fromkeys(("stop", "status", "logs", "delete"), _TPU),
  "copy": ("source", "workdir"),
}
LARGEST = 200e6  # bytes of the project
# Of the project, what no worker needs.
_LEFT_OUT = re.compile(r"^(runs|build|dist)$|^\.|^__pycache__$|\.egg-info$")


# --- Arguments ---------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
  def error(self, message):
    raise GiveUp(f"{message}; see --help")


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`; the help is their table.

  Raises:
    GiveUp: something is missing or wrong.
  """
  own, flags = list(words), []
  if "--" in own:
    own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
  parser = _Parser(add_help=False, allow_abbrev=False)
  parser.add_argument("command")
  table = re.findall(r"^  (--[\w-]+)( [A-Z]+)? +(.*(?:\n {10}.*)*)", __doc__ or "", re.M)
  names = {name for name, *_ in table}
  for i, word in enumerate(own):  # argparse takes no value that begins with --
    if word in ("--create-flag", "--ssh-flag") and not names & {*own[i + 1 : i + 2]}:
      own[i : i + 2] = ["=".join(own[i : i + 2])]
  for name, value, text in table:
    number = {" N": int, " SECONDS": float}.get(value)
    default = re.search(r"default (\d+)", text)
    if not value:
      parser.add_argument(name, action="store_true")
    elif value == " F":
      parser.add_argument(name, action="append", default=[])
    else:
      parser.add_argument(
        name, type=number or str, default=number(default[1]) if number and default else None
      )
  options = parser.parse_args(own)
  options.flags = flags
  check(options)
  return options


def check(options: argparse.Namespace) -> None:
  """Raises GiveUp unless the command can be carried out."""
  needed = NEEDS.get(options.command)
  if needed is None:
    raise GiveUp(f"{options.command} is not a command; see --help")
  if missing := [f"--{name}" for name in needed if not getattr(options, name)]:
    raise GiveUp(f"{options.command} needs {' '.join(missing)}; see --help")
  options.workdir = (options.workdir or "").rstrip("/")
  if options.workdir and not re.fullmatch(r"gs://[^/]+/[^*?#\[\]{}]+", options.workdir):
    raise GiveUp(
      f"--workdir is {options.workdir}; it must be gs://BUCKET/FOLDER, since a TPU's own disk"
      " is lost with it, and gcloud takes none of *?#[]{} for a name"
    )
  least = {"worker": 0, "poll": 0, "stall": 0, "node_count": 1, "tries": 1, "mbit": 1, "timeout": 1}
  for name, low in least.items():
    if not low <= getattr(options, name) < 1e6:  # nor what is no number
      name, value = name.replace("_", "-"), getattr(options, name)
      raise GiveUp(f"--{name} is {value:g}; it is at least {low}, and below a million")
  if options.node_count > 1 and options.direct:
    raise GiveUp("--node-count needs a queued resource; leave --direct out")
  if options.type and not re.fullmatch(r"[a-z0-9]+-[1-9]\d*", options.type):
    raise GiveUp(f"--type is {options.type}; it is GENERATION-NUMBER, such as v5litepod-256")
  if options.type and "name" in needed and not options.runtime:
    options.runtime = cloud.runtime(options.type)
  if options.config:
    name, colon, argument = options.config.partition(":")
    path = (pathlib.Path(name) if os.path.exists(name) else ROOT / name).resolve()
    if not path.is_file() or ROOT not in path.parents:
      raise GiveUp(f"--config is {options.config}; it must be a file below {ROOT}")
    if left_out := [part for part in path.relative_to(ROOT).parts if _LEFT_OUT.search(part)]:
      raise GiveUp(
        f"--config is {options.config}; {left_out[0]} goes to no worker: move it to configs"
      )
    options.config = path.relative_to(ROOT).as_posix() + colon + argument
  if not options.dry_run and options.command != "plan" and not shutil.which("gcloud"):
    raise GiveUp("gcloud is not installed; see https://cloud.google.com/sdk/docs/install")


# --- Commands ----------------------------------------------------------------


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options, self._archive = options, ""
    self.gcloud = cloud.Gcloud(options.project, options.dry_run, options.timeout)
    self.bucket = cloud.Bucket(self.gcloud, options.workdir)
    self.tpu = cloud.Tpu(
      self.gcloud,
      options.name,
      options.zone,
      direct=options.direct,
      node_count=options.node_count,
      ssh_flags=options.ssh_flag,
    )
    more = [*(["--spot"] if options.spot else ()), *options.create_flag]
    self.task = watch.Run(
      self.tpu,
      self.bucket,
      create=lambda: self.tpu.create(options.type, options.runtime, more),
      archive=self.archive,
      poll_s=options.poll,
      limit=options.tries,
      stall=options.stall,
    )

  def archive(self) -> str:
    """The project in the bucket, whence every worker fetches it."""
    if not self._archive:
      with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "totojax.tar.gz")
        digest = pack(path)
        say(f"the project, packed: {os.path.getsize(path) / 1e6:.1f} MB")
        self._archive = self.bucket.put(path, f"launch/totojax-{digest}.tar.gz")
    return self._archive

  def run(self) -> None:
    options, task = self.options, self.task
    if task.finished() and not options.dry_run:
      say(f"finished already: {options.workdir}")
      return
    flags = [*self.mesh(), *options.flags]
    where = [f"--config={options.config}", f"--workdir={options.workdir}"]
    task.command = ["--multihost", *where, *flags]
    try:
      task.keep_going()
      say(f"finished: {options.workdir}")
    except (GiveUp, Failure, OSError) as error:
      say(str(error))
      if not isinstance(error, cloud.Foreign):
        self.leave()
      raise GiveUp("the run is not finished; the same command goes on") from error
    self.leave()

  def mesh(self) -> list[str]:
    """Flags for the mesh of several slices: the planner's, or of the first start."""
    options, name = self.options, "launch/mesh.json"
    own = any(flag.startswith("--config.mesh.") for flag in options.flags)  # they win
    several = options.node_count > 1 and not own
    patiently = self.task.patiently
    if several and name in patiently(self.bucket.listing):
      words = ("storage", "cat", f"{options.workdir}/{name}")
      kept = patiently(lambda: cloud.parsed(self.gcloud.call(*words, supposed="{}")))
      if isinstance(kept, dict) and kept.get("slices") == options.node_count:
        return kept["flags"]
    planned = not options.no_plan
    if planned and patiently(lambda: self.tpu.state("none")).word == "none":
      mesh = self.plan()
    else:
      mesh = prepare.mesh_flags(options.node_count, options.flags)
    if several:
      with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump({"slices": options.node_count, "flags": mesh}, file)
        file.flush()
        patiently(lambda: self.bucket.put(file.name, name))
    return mesh

  def leave(self) -> None:
    """What becomes of the TPU at the end of `run`."""
    options = self.options
    if options.delete_when_done:
      self.delete()
    else:
      direct = " --direct" if options.direct else ""
      where = f"--name {options.name} --zone {options.zone}{direct}"
      say(f"{options.name}, if there, is kept and costs: launch/tpu_vm.sh delete {where}")

  def plan(self) -> list[str]:
    options = self.options
    count, flags = options.node_count, options.flags
    return prepare.plan(self.gcloud, options.config, options.type, count, flags)

  def create(self) -> None:
    self.task.make_ready("none")

  def ready(self) -> cloud.State:
    """Of a TPU that is there: what it takes to make one is not asked for."""
    state = self.task.patiently(self.tpu.state)
    if state.word != "ready":
      raise GiveUp(f"{self.options.name} is not ready: {state.why}")
    return state

  def install(self) -> None:
    state = self.ready()
    if self.task.under_way(state):
      raise GiveUp("nothing is installed over a run that is under way; stop it first")
    self.task.install(state)

  def stop(self) -> None:
    say(str(self.task.tell(self.ready(), "stop", supposed="running", looks=False)))

  def status(self) -> None:
    state = self.task.patiently(self.tpu.state)
    print(f"TPU: {state.word} ({state.why})")
    if state.word == "ready":
      print(f"run: {self.task.tell(state, 'look', supposed='running')}")
    if self.options.workdir:
      found = self.bucket.listing()
      steps = [int(step) for step in re.findall(r"checkpoints/(\d+)/commit", "\n".join(found))]
      times = [version.split()[0] for name, version in found.items() if watch.counts(name)]
      print(f"last written: {max(times, default='-')}, last checkpoint: {max(steps, default='-')}")

  def logs(self) -> None:
    node, worker = self.tpu.nodes[0], self.options.worker
    if self.options.node_count > 1:  # they are counted through
      workers = self.ready().workers
      if worker >= sum(workers):
        raise GiveUp(f"--worker is {worker}; there are {sum(workers)}, counted from 0")
      node, worker = self.tpu.nodes[worker // workers[0]], worker % workers[0]
    words = self.gcloud.words(*self.tpu.ssh(node, str(worker), "tail -n 100 -F totojax.log"))
    cloud.show(words)
    if not self.options.dry_run:
      os.execvp(words[0], words)

  def delete(self) -> None:
    """Google refuses to delete what it is just making, for a while.

    Raises:
      GiveUp: it is not of the kind, or not of the nodes, that the flags say.
    """
    patiently, tpu = self.task.patiently, self.tpu
    if patiently(tpu.state).word == "none":
      if patiently(tpu.elsewhere):
        kind, flag = (
          ("queued resource", "leave --direct out") if tpu.direct else ("TPU VM", "--direct")
        )
        raise GiveUp(f"{tpu.name} is there as a {kind}: {flag}")
      say(f"{tpu.name} was not there")
      return
    while True:
      try:
        self.tpu.delete()
      except Failure as failure:
        self.task.tries.failed(str(failure))
      if self.task.patiently(lambda: self.tpu.state("none")).word == "none":
        return
      self.task.pause()

  def copy(self) -> None:
    options = self.options
    prepare.copy(self.gcloud, options.source, options.workdir, options.mbit)


def pack(path: str) -> str:
  """Packs the project; the same files give the same digest, which is returned.

  Raises:
    GiveUp: it is so large that data must be in it.
  """

  size = 0

  def kept(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
    nonlocal size
    if item.name != "." and _LEFT_OUT.search(pathlib.PurePath(item.name).name):
      return None
    if (ROOT / item.name / "pyvenv.cfg").exists():
      return None
    size += item.size
    if size > LARGEST:
      raise GiveUp(
        f"{ROOT} holds more than {LARGEST / 1e6:g} MB, as {item.name}; keep data elsewhere"
      )
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item

  with open(path, "wb") as file, gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed:
    with tarfile.open(fileobj=packed, mode="w") as archive:
      archive.add(ROOT, ".", filter=kept)
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:12]


def main(words: Sequence[str]) -> int:
  if not words or {"--help", "-h"} & set(words):
    print((__doc__ or "").rstrip())
    return 0 if words else 2
  try:
    with cloud.interrupt.heard():
      options = parse(words)
      getattr(Session(options), options.command)()
      if options.dry_run:
        say("this was a dry run: nothing was done")
      return 0
  except (GiveUp, Failure, OSError) as error:
    say(str(error))
    return 1
  except KeyboardInterrupt:
    if words[0] in ("run", "create"):
      with contextlib.suppress(OSError):  # of a terminal that was closed
        say(
          "interrupted; a TPU that is queued or runs goes on, and costs. The same command goes on"
        )
    return 128 + (cloud.interrupt.number or signal.SIGINT)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
