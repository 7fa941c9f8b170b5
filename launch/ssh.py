"""Runs totojax on hosts with GPUs by plain ssh, and keeps it running.

  launch/ssh.sh COMMAND [options] [-- FLAGS]

Commands
  run      plan, install, start on every host, detached, and watch until it is
           finished: what has ended too early (exit status 75, a reboot, a lost
           host) is started again on all and goes on from its checkpoint. Safe
           to stop and to repeat: it attaches to a run that is under way
  plan     look at the config and its flags, and ask the planner
  stop     ask the run to save a checkpoint and to leave; so does its `run`
  status   what the hosts and the work directory say
  logs     follow the log of one host

Options
  --hosts LIST       a,b,user@c as ssh takes them; one process on each, the
                     first is the coordinator
  --config FILE      such as configs/1b.py
  --workdir FOLDER   of the run, by its whole path, that all hosts see; or gs://
  --gpus N           of each host, default 8; for plan and price alone
  --coordinator NAME of the first host, as the others find it; default: as in
                     --hosts
  --port N           of it, free on the first host; default 8476
  --python PATH      of a Python that has totojax, on all hosts; default: what
                     this clone holds is installed, by uv
  --extras LIST      that are installed; default: cuda,data
  --ssh-flag F       more for ssh, repeatable: -p2222, -iKEY, -FCONFIG
  --env F            NAME=VALUE for the run, repeatable: NCCL_SOCKET_IFNAME=eth0
  --kind KIND        of the GPUs as planner and prices name them: NVIDIA H100
  --price MONEY      of one GPU an hour, in any currency
  --prices FILE      a table of them (docs/launch.md); default: prices.json here
  --host NAME        whose log; default: the first
  --poll SECONDS     between looks; default 30. All patience counts in looks
  --timeout SECONDS  of a look; default 60
  --tries N          failures in a row without a new checkpoint; default 5
  --stall N          looks without anything new in the work directory until a run
                     is taken for hung and started again; default 240, 0: never
  --no-plan          do not ask totojax before anything is started
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.optim.lr=1e-4. Hosts need sshd, bash
and the work directory, and let you in without a question (a key). A host that
does not answer is waited for without an end. Ends with 0: done, 1: not done,
for the reason of the last line, 130: Ctrl-C, 143: SIGTERM, 129: SIGHUP.

  launch/ssh.sh run --hosts gpu1,gpu2 --config configs/1b.py \\
    --workdir /shared/toto-1b -- --config.data.root=/shared/tokens
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import shutil
import sys
import tempfile

import arguments
import calls
from calls import Caller, GiveUp, say
import cloud
import hosts as hosts_lib
import prepare
import prices
import project
import watch

NEEDS = {
  "run": ("hosts", "config", "workdir"),
  "plan": ("config",),
  **dict.fromkeys(("stop", "status", "logs"), ("hosts", "workdir")),
}
_WORKER = pathlib.Path(__file__).resolve().parent / "worker.sh"


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`.

  Raises:
    GiveUp: something is missing or wrong.
  """
  options = arguments.read(words, __doc__)
  arguments.check_needed(options, NEEDS)
  least = {"gpus": 0, "port": 1, "poll": 0, "stall": 0, "tries": 1, "timeout": 1, "price": 0}
  arguments.check_least(options, least)
  options.hosts = (options.hosts or "").split(",")
  for host in options.hosts if "hosts" in NEEDS[options.command] else ():
    if not re.fullmatch(r"[\w.@:\[\]%-]+", host) or host.startswith("-"):
      raise GiveUp(f"--hosts has {host!r}; it is a list of names with commas, as gpu1,me@gpu2")
  if twice := {host for host in options.hosts if options.hosts.count(host) > 1}:
    raise GiveUp(f"--hosts has {twice.pop()} twice; one process has all GPUs of a host")
  if options.config:
    options.config = arguments.config_file(options.config)
  if options.workdir:
    options.workdir = arguments.shared_folder(options.workdir)
  if options.python and not os.path.isabs(options.python):
    raise GiveUp(f"--python is {options.python}; it must be a whole path, the same on all hosts")
  if options.host and options.host not in options.hosts:
    raise GiveUp(f"--host is {options.host}; it is one of {', '.join(options.hosts)}")
  for pair in options.env:
    if not re.fullmatch(r"[A-Za-z_]\w*=.*", pair):
      raise GiveUp(f"--env is {pair}; it is NAME=VALUE")
  options.bill = prices.find(options.kind, options.price, options.prices)
  needs = ("ssh", "gcloud") if (options.workdir or "").startswith("gs://") else ("ssh",)
  for tool in needs:
    if not options.dry_run and options.command != "plan" and not shutil.which(tool):
      raise GiveUp(f"{tool} is not installed")
  return options


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options = options
    caller = Caller(options.dry_run, options.timeout)
    variables = dict(pair.split("=", 1) for pair in options.env)
    variables["TOTOJAX_EXTRAS"] = options.extras or "cuda,data"
    if options.python:
      variables["TOTOJAX_PYTHON"] = options.python
    self.hosts = hosts_lib.Hosts(
      caller, options.hosts, options.workdir or "", options.ssh_flag, variables
    )
    bucket = hosts_lib.Folder(self.hosts, options.workdir or "")
    if bucket.url.startswith("gs://"):
      bucket = cloud.Bucket(cloud.Gcloud(options.dry_run, options.timeout), bucket.url)
    self.task = hosts_lib.Run(
      self.hosts,  # type: ignore[arg-type]
      bucket,  # type: ignore[arg-type]
      create=self.hosts.delete,
      archive=lambda: "",
      poll_s=options.poll,
      limit=options.tries,
      stall=options.stall,
    )
    self.task.worker = str(_WORKER)

  def run(self) -> None:
    options, task = self.options, self.task
    if task.finished() and not options.dry_run:
      say(f"finished already: {options.workdir}")
      return
    if not options.no_plan:
      self.plan()
    self.price()
    task.command = [*self.several(), f"--config={options.config}", f"--workdir={options.workdir}"]
    task.command += options.flags
    with tempfile.TemporaryDirectory() as folder:
      if not options.python:
        path = os.path.join(folder, "totojax.tar.gz")
        project.pack(path)
        say(f"the project, packed: {os.path.getsize(path) / 1e6:.1f} MB")
        task.project = path
      try:
        task.keep_going()
      except (calls.Failure, GiveUp, OSError) as error:
        raise GiveUp(f"{error}. The run is not finished; the same command goes on") from error
    say(f"finished: {options.workdir}")

  def several(self) -> list[str]:
    """Flags by which the processes find each other; none of one alone."""
    options = self.options
    if len(options.hosts) == 1:
      return []
    first = options.coordinator or options.hosts[0].rpartition("@")[2]
    return [
      "--multihost",
      f"--coordinator={first}:{options.port}",
      f"--processes={len(options.hosts)}",
      hosts_lib.PROCESS,
    ]

  def price(self) -> None:
    """Says what an hour costs, as far as anybody has said the price of a GPU."""
    count = len(self.options.hosts) * self.options.gpus
    if self.options.bill and count:
      say(self.options.bill.bill(count, None))

  def plan(self) -> None:
    options = self.options
    prepare.plan_gpus(
      self.hosts.caller,
      options.config,
      options.flags,
      kind=options.kind if options.gpus else None,
      count=len(options.hosts) * options.gpus,
      price=options.bill.per_hour if options.bill else None,
    )

  def stop(self) -> None:
    say(str(self.task.tell(self.hosts.state(), "stop", supposed="running", looks=False)))

  def status(self) -> None:
    state = self.hosts.state()
    print(f"hosts: {state.why}")
    print(f"run: {self.task.look(state, 'running')}")
    found = self.task.bucket.listing()
    steps = [int(step) for step in re.findall(r"checkpoints/(\d+)/commit", "\n".join(found))]
    times = [version.split()[0] for name, version in found.items() if watch.counts(name)]
    print(f"last written: {max(times, default='-')}, last checkpoint: {max(steps, default='-')}")

  def logs(self) -> None:
    self.task.logs(self.options.host or self.options.hosts[0])


def main(words: Sequence[str]) -> int:
  why = "interrupted"
  if words and words[0] == "run":
    why += "; a run on the hosts goes on: ssh.sh stop ends it. The same command watches it"
  return calls.door("ssh", __doc__, words, lambda: Session(parse(words)), why)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
