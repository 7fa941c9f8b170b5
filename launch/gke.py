"""Runs totojax on TPU slices of a GKE cluster, which wait in a queue for all of them.

  launch/gke.sh COMMAND [options] [-- FLAGS]

Commands
  run      plan, fill in launch/gke.yaml and apply it. Kueue waits for the slices,
           JobSet starts all hosts, and again after exit status 75 or a lost node,
           until the run is finished. Safe to repeat
  plan     ask the planner whether the run fits, before anything is paid
  show     print the manifest
  status   what the cluster says of queue, request and pods
  logs     follow the log of the first host
  delete   delete the run from the cluster; the work directory stays

Options
  --name NAME        of the run in the cluster; default: totojax
  --type TYPE        such as v5litepod-16, as launch/tpu_vm.sh names them
  --slices N         of this type, default 1
  --image NAME       in a registry that the cluster reads, built with
                     --build-arg EXTRAS=tpu,data of launch/Containerfile
  --config FILE      of configs/, such as configs/1b.py: they are in the image
  --workdir URL      gs://BUCKET/FOLDER of the run
  --namespace NAME   default: default
  --queue NAME       of the queue that is made; default: totojax and the type
  --service-account NAME  of Kubernetes, which may write the bucket; default:
                     default
  --days N           that a slice is lent at most, 1 to 7, default 7; the run
                     goes on with the next
  --restarts N       of all hosts together, default 1000
  --context NAME     of kubectl; default: its own
  --price MONEY      of one chip an hour, in any currency
  --prices FILE      a table of them by type without its number, as v5litepod
                     (docs/launch.md); default: prices.json here
  --no-plan          do not ask the planner first
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.data.root=gs://BUCKET/tokens. Needs
kubectl with the cluster's credentials, Python 3.9, and for the plan the extra
`tpu`. Ends with 0: done, 1: not done, for the reason of the last line.

  launch/gke.sh run --type v5litepod-16 --image europe-docker.pkg.dev/P/R/totojax:1 \\
    --config configs/1b.py --workdir gs://BUCKET/toto-1b -- --config.data.root=gs://BUCKET/tokens
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import re
import shutil
import string
import subprocess
import sys
import tempfile

import arguments
import calls
from calls import GiveUp, say, show
import cloud
import prepare
import prices

_RUN = ("type", "image", "config", "workdir")
NEEDS = {
  **dict.fromkeys(("run", "show"), _RUN),
  "plan": ("type", "config"),
  **dict.fromkeys(("status", "logs", "delete"), ()),
}
_MANIFEST = pathlib.Path(__file__).resolve().parent / "gke.yaml"
# What node pools of them are labelled with.
_ACCELERATORS = {
  "v4": "tpu-v4-podslice",
  "v5litepod": "tpu-v5-lite-podslice",
  "v5p": "tpu-v5p-slice",
  "v6e": "tpu-v6e-slice",
}
_NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"


def parse(words: Sequence[str]) -> argparse.Namespace:
  """The options, and what follows -- as `flags`.

  Raises:
    GiveUp: something is missing or wrong.
  """
  options = arguments.read(words, __doc__)
  arguments.check_needed(options, NEEDS)
  arguments.check_least(options, {"slices": 1, "days": 1, "restarts": 0, "price": 0})
  if options.days > 7:
    raise GiveUp(f"--days is {options.days}; Google lends queued slices for 7 days at most")
  if options.type:
    family = options.type.partition("-")[0]
    if not re.fullmatch(r"[a-z0-9]+-[1-9]\d*", options.type) or family not in _ACCELERATORS:
      known = ", ".join(f"{name}-N" for name in _ACCELERATORS)
      raise GiveUp(f"--type is {options.type}; it is one of {known}")
    if prepare.topology(options.type) is None:
      raise GiveUp(f"--type is {options.type}; its topology is not known: edit launch/gke.yaml")
  options.name = options.name or "totojax"
  options.queue = options.queue or f"totojax-{options.type or ''}".rstrip("-")
  options.namespace = options.namespace or "default"
  options.service_account = options.service_account or "default"
  for name in ("name", "queue", "namespace", "service_account"):
    if not re.fullmatch(_NAME, getattr(options, name)):
      flag, value = name.replace("_", "-"), getattr(options, name)
      raise GiveUp(f"--{flag} is {value}; it has up to 40 of a-z, 0-9 and -, and begins with a-z")
  if options.image and not re.fullmatch(r"[\w./:@-]+", options.image):
    raise GiveUp(f"--image is {options.image}; it is REGISTRY/NAME:TAG")
  if options.config:
    options.config = arguments.config_file(options.config)
    if not options.config.startswith("configs/"):
      raise GiveUp(f"--config is {options.config}; only what is in configs/ goes into the image")
  if options.workdir:
    options.workdir = arguments.shared_folder(options.workdir)
    if not options.workdir.startswith("gs://"):
      raise GiveUp(f"--workdir is {options.workdir}; it must be gs://BUCKET/FOLDER")
  kind = options.type.partition("-")[0] if options.type else None
  options.bill = prices.find(kind, options.price, options.prices)
  if not options.dry_run and options.command not in ("plan", "show"):
    if not shutil.which("kubectl"):
      raise GiveUp("kubectl is not installed; see https://kubernetes.io/docs/tasks/tools")
  return options


class Session:
  """One call of this script; its methods are the commands."""

  def __init__(self, options: argparse.Namespace):
    self.options = options

  def kubectl(self, *words: str) -> None:
    """Prints a command and runs it, whose output is seen.

    Raises:
      GiveUp: it failed.
    """
    options = self.options
    where = [] if options.context is None else [f"--context={options.context}"]
    whole = ["kubectl", *where, f"--namespace={options.namespace}", *words]
    show(whole)
    if not options.dry_run and (status := subprocess.run(whole).returncode):
      raise GiveUp(f"kubectl {words[0]} ended with {status}, see above")

  def manifest(self) -> str:
    """launch/gke.yaml, filled in."""
    options = self.options
    chips = prepare.chips(options.type)
    family, _, sides = (prepare.topology(options.type) or "").partition(":")
    # Of one host up to 8 chips of these generations, else 4 on each.
    of_a_host = chips if family in ("v5e", "v6e") and chips in (1, 4, 8) else min(chips, 4)
    mesh = prepare.mesh_flags(options.slices, options.flags)
    flags = [f"--config={options.config}", f"--workdir={options.workdir}", *mesh, *options.flags]
    if options.slices * chips > of_a_host:
      flags.insert(0, "--multihost")
    return string.Template(
      _MANIFEST.read_text(encoding="utf-8").replace("${LIKE_THIS}", "$$X")
    ).substitute(
      NAME=options.name,
      NAMESPACE=options.namespace,
      QUEUE=options.queue,
      ACCELERATOR=_ACCELERATORS[options.type.partition("-")[0]],
      TOPOLOGY=sides,
      CHIPS=options.slices * chips,
      CHIPS_OF_A_HOST=of_a_host,
      HOSTS=chips // of_a_host,
      SLICES=options.slices,
      SECONDS_AT_MOST=options.days * 86_400,
      RESTARTS=options.restarts,
      SERVICE_ACCOUNT=options.service_account,
      IMAGE=options.image,
      ARGUMENTS=json.dumps(flags),
    )

  def run(self) -> None:
    options = self.options
    if not options.no_plan:
      self.plan()
    if options.bill:
      count = options.slices * prepare.chips(options.type)
      say(options.bill.bill(count, 24.0 * options.days) + " (--days)")
    text = self.manifest()
    with tempfile.TemporaryDirectory() as folder:
      path = os.path.join(folder, "gke.yaml")
      pathlib.Path(path).write_text(text, encoding="utf-8")
      print(f"+ cat >{path} <<'END'\n{text}END", flush=True)
      # The cluster looks at all of it before any of it is made.
      self.kubectl("apply", "--dry-run=server", f"--filename={path}")
      self.kubectl("apply", f"--filename={path}")
    if not options.dry_run:
      say(f"{options.name} waits in the queue, or runs: launch/gke.sh status --name {options.name}")

  def plan(self) -> None:
    options = self.options
    gcloud = cloud.Gcloud(options.dry_run, 60.0)
    prepare.plan(gcloud, options.config, options.type, options.slices, options.flags)

  def show(self) -> None:
    print(self.manifest(), end="")

  def status(self) -> None:
    kinds = "jobset,workloads.kueue.x-k8s.io,provisioningrequests.autoscaling.x-k8s.io"
    self.kubectl("get", kinds, "--output=wide")
    self.kubectl("get", "pods", f"--selector=jobset.sigs.k8s.io/jobset-name={self.options.name}")

  def logs(self) -> None:
    labels = f"jobset.sigs.k8s.io/jobset-name={self.options.name}"
    labels += ",jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    self.kubectl("logs", "--follow", "--tail=100", f"--selector={labels}")

  def delete(self) -> None:
    self.kubectl("delete", "jobset", self.options.name)


def main(words: Sequence[str]) -> int:
  return calls.door("gke", __doc__, words, lambda: Session(parse(words)))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
