"""Runs totojax on Slurm, and keeps it running.

  launch/slurm.sh COMMAND [options] [-- FLAGS]

Commands
  run      plan, write the job's script and submit it. The job requeues itself
           until the run is finished: after a preemption, a lost node, the time
           limit, exit status 75. Safe to repeat: a job that is queued or runs
           is not submitted twice
  plan     look at the config and its flags, and ask the planner
  stop     ask the run to save a checkpoint and to leave, for good
  status   what Slurm and the work directory say
  logs     follow the job's log

Options
  --config FILE      such as configs/1b.py
  --workdir FOLDER   of the run, by its whole path, that all nodes see; or gs://
  --name NAME        of the job; default: the last name of --workdir
  --nodes N          default 1; one process on each
  --gpus N           of each node, default 1; 0: none
  --cpus N           cores of each node for its process; default: Slurm's own
  --partition NAME   as sinfo lists them; default: Slurm's own
  --account NAME     that pays
  --time LIMIT       as 30, 12:00:00, 2-00:00:00: of one start; the next goes on
  --sbatch-flag F    more for sbatch, repeatable: --qos=Q, --constraint=C,
                     --exclusive, --gres=gpu:h100:8 (with --gpus 0)
  --grace SECONDS    before the time limit in which it saves; default 120
  --python PATH      of a Python that has totojax, on all nodes; default: this one
  --folder FOLDER    of script and log, that all nodes see; default: launch in
                     --workdir; needed with gs://
  --tries N          failures in a row without a new checkpoint; default 5
  --kind KIND        of the GPUs as planner and prices name them: NVIDIA H100
  --price MONEY      of one GPU an hour, in any currency
  --prices FILE      a table of them (docs/launch.md); default: prices.json here
  --no-plan          do not ask totojax before anything is submitted
  --timeout SECONDS  of a look; default 60
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.optim.lr=1e-4. Needs Slurm's commands
and Python 3.9 where it is called, and bash on the nodes. Ends with 0: done, 1:
not done, for the reason of the last line.

  launch/slurm.sh run --nodes 2 --gpus 8 --partition gpu --time 1-00:00:00 \\
    --config configs/1b.py --workdir /shared/toto-1b -- --config.data.root=/shared/tokens
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import shlex
import shutil
import sys

import arguments
import calls
from calls import GiveUp, say
import prepare
import prices
from project import ROOT

NEEDS = {
  "run": ("config", "workdir"),
  "plan": ("config",),
  **dict.fromkeys(("stop", "status", "logs"), ("workdir",)),
}
_BODY = pathlib.Path(__file__).resolve().parent / "slurm_job.sh"


# --- Arguments ---------------------------------------------------------------


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`.

  Raises:
    GiveUp: something is missing or wrong.
  """
  options = arguments.read(words, __doc__)
  arguments.check_needed(options, NEEDS)
  least = {"nodes": 1, "gpus": 0, "cpus": 1, "grace": 1, "tries": 1, "timeout": 1, "price": 0}
  arguments.check_least(options, least)
  if options.config:
    options.config = arguments.config_file(options.config)
  options.hours = hours(options.time)
  if options.workdir:
    options.workdir = arguments.shared_folder(options.workdir)
    options.folder = options.folder or (
      "" if "://" in options.workdir else f"{options.workdir}/launch"
    )
    if not options.folder:
      raise GiveUp(f"--workdir is {options.workdir}; give --folder, for the script and the log")
    options.name = options.name or options.workdir.rpartition("/")[2]
    if not re.fullmatch(r"[\w.-]+", options.name):
      raise GiveUp(f"--name is {options.name}; it has letters, digits, and _ . - only")
  if options.python and not os.path.isabs(options.python):
    raise GiveUp(f"--python is {options.python}; it must be a whole path, the same on all nodes")
  if options.hours is not None and options.hours * 3600 <= options.grace:
    raise GiveUp(f"--time {options.time} is not longer than --grace {options.grace:g} s")
  options.bill = prices.find(options.kind, options.price, options.prices)
  if not options.dry_run and options.command != "plan" and not shutil.which("sbatch"):
    raise GiveUp("sbatch is not on PATH; call this where jobs are submitted")
  return options


def hours(limit: str | None) -> float | None:
  """Of a time limit as Slurm writes it; None where there is none.

  Raises:
    GiveUp: it is no such limit.
  """
  if limit is None:
    return None
  form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
  if not form:
    raise GiveUp(f"--time is {limit}; it is MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
  days, *parts = form.groups()
  numbers = [int(part) for part in parts if part is not None]
  # Without days one number is of minutes, and two are minutes and seconds.
  names = (1.0, 1 / 60, 1 / 3600) if days or len(numbers) == 3 else (1 / 60, 1 / 3600)
  return 24.0 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, names))


# --- Commands ----------------------------------------------------------------


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options = options
    self.caller = calls.Caller(options.dry_run, options.timeout)

  def call(self, *words: str, supposed: str | None = None) -> str:
    """What a command printed; `supposed`, of a look: its answer in a dry run.

    Raises:
      GiveUp: Slurm refuses it, or does not answer.
    """
    status, out, errors = self.caller.run(words, supposed or "", looks=supposed is not None)
    if status:
      raise GiveUp(f"{words[0]}: {' '.join((errors or out).split()) or f'status {status}'}")
    return out

  def jobs(self) -> list[tuple[str, str, str]]:
    """(number, state, reason) of the jobs of this work directory."""
    words = ("squeue", "--me", f"--name={self.options.name}", "--noheader", "--format=%i|%T|%r|%k")
    rows = [line.split("|", 3) for line in self.call(*words, supposed="").splitlines()]
    ours = [row for row in rows if len(row) == 4]
    known = (self.options.workdir, "(null)", "")  # not every Slurm keeps comments
    if other := [row for row in ours if row[3] not in known]:
      raise GiveUp(
        f"job {other[0][0]} is called {self.options.name}, too, and is of {other[0][3]}; give"
        " another --name"
      )
    return [(number, state, reason) for number, state, reason, _ in ours]

  def run(self) -> None:
    options = self.options
    if os.path.exists(f"{options.workdir}/done.json"):
      say(f"finished already: {options.workdir}")
      return
    for number, state, reason in self.jobs():
      say(f"job {number} is {state.lower()} already ({reason}); nothing was submitted")
      return
    if not options.no_plan:
      self.plan()
    self.price()
    path, text = f"{options.folder}/{options.name}.sbatch", self.script()
    print(f"+ cat >{shlex.quote(path)} <<'END'\n{text}END", flush=True)
    if not options.dry_run:
      os.makedirs(options.folder, exist_ok=True)
      for left in ("stop", "tries"):
        pathlib.Path(options.folder, left).unlink(missing_ok=True)
      pathlib.Path(f"{path}.part").write_text(text, encoding="utf-8")
      os.replace(f"{path}.part", path)
    number = self.call("sbatch", "--parsable", path).split(";")[0].strip()
    if not options.dry_run:
      say(f"submitted as job {number}; its log: {options.folder}/{options.name}.log")

  def script(self) -> str:
    """Of the job: what is asked of Slurm, what is run, and the part that all jobs share."""
    options = self.options
    asked = {
      "job-name": options.name,
      "comment": options.workdir,
      "nodes": options.nodes,
      "ntasks-per-node": 1,
      "cpus-per-task": options.cpus,
      "gpus-per-node": options.gpus or None,
      "partition": options.partition,
      "account": options.account,
      "time": options.time,
      "chdir": ROOT,
      "output": f"{options.folder}/{options.name}.log",
      "open-mode": "append",
      "signal": f"B:TERM@{options.grace:g}",
    }
    lines = [
      f"#SBATCH --{name}={shlex.quote(str(value))}"
      for name, value in asked.items()
      if value is not None
    ]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {flag}" for flag in options.sbatch_flag)]
    flags = [f"--config={options.config}", f"--workdir={options.workdir}", *options.flags]
    given = {
      "python": options.python or sys.executable,
      "folder": options.folder,
      "workdir": options.workdir,
      "tries": str(options.tries),
      "nodes": str(options.nodes),
      "cpus": str(options.cpus or ""),
    }
    lines += [f"{name}={shlex.quote(value)}" for name, value in given.items()]
    lines.append(f"flags=({' '.join(map(shlex.quote, flags))})")
    if options.gpus > 1:  # jax would else give a process of Slurm's one of them
      devices = ",".join(map(str, range(options.gpus)))
      lines.append(f"export JAX_LOCAL_DEVICE_IDS={devices}")
    body = _BODY.read_text(encoding="utf-8").removeprefix("#!/usr/bin/env bash\n")
    return "\n".join(["#!/usr/bin/env bash", *lines, body])

  def price(self) -> None:
    """Says what it costs, as far as anybody has said the price of a GPU."""
    options = self.options
    count = options.nodes * options.gpus
    if options.bill and count:
      say(
        options.bill.bill(count, options.hours)
        + (" (--time), at each start" if options.time else "")
      )
    elif count:
      say(f"{count} GPUs; no price is known (--price, --prices)")

  def plan(self) -> None:
    options = self.options
    prepare.plan_gpus(
      self.caller,
      options.config,
      options.flags,
      kind=options.kind if options.gpus else None,
      count=options.nodes * options.gpus,
      price=options.bill.per_hour if options.bill else None,
    )

  def stop(self) -> None:
    jobs = self.jobs()
    if not jobs and not self.options.dry_run:
      say("no job is queued or runs")
      return
    path = pathlib.Path(self.options.folder, "stop")
    print(f"+ touch {shlex.quote(str(path))}", flush=True)
    if not self.options.dry_run:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
    for number, state, _ in jobs or [("NUMBER", "RUNNING", "")]:
      # One that runs saves and leaves; one that waits never starts.
      signal_ = ("--signal=TERM",) if state == "RUNNING" else ()
      self.call("scancel", *signal_, number)
      say(f"job {number}: " + ("asked to save and to leave" if signal_ else "cancelled"))

  def status(self) -> None:
    for number, state, reason in self.jobs() or [("-", "no job", "none")]:
      print(f"job {number}: {state} ({reason})")
    folder = pathlib.Path(self.options.workdir)
    if "://" not in self.options.workdir:
      steps = [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit()]
      done = ", finished" if (folder / "done.json").exists() else ""
      print(f"last checkpoint: {max(steps, default='-')}{done}")

  def logs(self) -> None:
    words = ["tail", "-n", "100", "-F", f"{self.options.folder}/{self.options.name}.log"]
    calls.show(words)
    if not self.options.dry_run:
      os.execvp(words[0], words)


def main(words: Sequence[str]) -> int:
  return calls.door("slurm", __doc__, words, lambda: Session(parse(words)))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
