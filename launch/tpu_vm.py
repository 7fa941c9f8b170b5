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
import json
import os
import re
import shutil
import sys
import tempfile

import arguments
import calls
from calls import GiveUp, say
import cloud
from cloud import Failure
import prepare
import project
import watch

_TPU = ("name", "zone")
NEEDS = {
  "run": (*_TPU, "type", "config", "workdir"),
  "plan": ("type", "config"),
  "create": (*_TPU, "type"),
  "install": (*_TPU, "workdir"),
  **dict.fromkeys(("stop", "status", "logs", "delete"), _TPU),
  "copy": ("source", "workdir"),
}


# --- Arguments ---------------------------------------------------------------


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`; the help is their table.

  Raises:
    GiveUp: something is missing or wrong.
  """
  options = arguments.read(words, __doc__)
  check(options)
  return options


def check(options: argparse.Namespace) -> None:
  """Raises GiveUp unless the command can be carried out."""
  arguments.check_needed(options, NEEDS)
  options.workdir = (options.workdir or "").rstrip("/")
  if options.workdir and not re.fullmatch(r"gs://[^/]+/[^*?#\[\]{}]+", options.workdir):
    raise GiveUp(
      f"--workdir is {options.workdir}; it must be gs://BUCKET/FOLDER, since a TPU's own disk"
      " is lost with it, and gcloud takes none of *?#[]{} for a name"
    )
  least = {"worker": 0, "poll": 0, "stall": 0, "node_count": 1, "tries": 1, "mbit": 1, "timeout": 1}
  arguments.check_least(options, least)
  if options.node_count > 1 and options.direct:
    raise GiveUp("--node-count needs a queued resource; leave --direct out")
  if options.type and not re.fullmatch(r"[a-z0-9]+-[1-9]\d*", options.type):
    raise GiveUp(f"--type is {options.type}; it is GENERATION-NUMBER, such as v5litepod-256")
  if options.type and "name" in NEEDS[options.command] and not options.runtime:
    options.runtime = cloud.runtime(options.type)
  if options.config:
    options.config = arguments.config_file(options.config)
  if not options.dry_run and options.command != "plan" and not shutil.which("gcloud"):
    raise GiveUp("gcloud is not installed; see https://cloud.google.com/sdk/docs/install")


# --- Commands ----------------------------------------------------------------


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options, self._archive = options, ""
    self.gcloud = cloud.Gcloud(options.dry_run, options.timeout, options.project)
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
        digest = project.pack(path)
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
    calls.show(words)
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


def main(words: Sequence[str]) -> int:
  why = "interrupted"
  if words and words[0] in ("run", "create"):
    why += "; a TPU that is queued or runs goes on, and costs. The same command goes on"
  return calls.door("tpu_vm", __doc__, words, lambda: Session(parse(words)), why)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
