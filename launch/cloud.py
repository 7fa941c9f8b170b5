"""Google Cloud through gcloud: the TPU with its workers, and the bucket.

Any call may fail. What Google's words mean is decided here, in one table; what
follows from it, in `watch`. Needs gcloud and Python 3.9, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
from typing import Any, TypeVar

import calls
from calls import Caller, end_all, GiveUp, say, show

T = TypeVar("T")
R = TypeVar("R")


class Foreign(GiveUp):
  """The TPU is another's: a person's who stopped it, or of another run."""


class Failure(calls.Failure):
  """A call that failed and may do better later; `meaning` is of what was said."""

  def __init__(self, text: str):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    hints = [hint for words, hint in _HINTS if words in text]
    super().__init__("; ".join([" ".join(errors or lines[-1:] or ["gcloud said nothing"]), *hints]))
    self.meaning = meaning(text)


# What gcloud says of itself on further lines, or at length.
_HINTS = (
  ("Failed to find attribute [project]", "give --project, or: gcloud config set project PROJECT"),
  ("active account", "log in: gcloud auth login"),
  ("invalid_grant", "log in again: gcloud auth login"),
)


# The first that matches counts: a status of the API's, then what is said of it,
# since a limit on requests is called a quota as well, running out of either is
# RESOURCE_EXHAUSTED, and FAILED_PRECONDITION may be anything. No word of
# "refused" is in what gcloud says of a network that is down.
_MEANINGS = (
  ("refused", r"(?-i:PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT)"),
  ("absent", r"(?-i:NOT_FOUND)"),
  ("exists", r"(?-i:ALREADY_EXISTS)"),
  ("refused", r"unrecognized arguments|Invalid (value|choice)|argument --"),
  ("passing", r"per minute|rate.?limit|HTTPError 429"),
  (
    "capacity",
    r"no more capacity|insufficient capacity|stockout|RESOURCE_POOL_EXHAUSTED"
    r"|not have enough resources available",
  ),
  ("quota", r"quota|\blimit: *[0-9]|IN_USE_ADDRESSES"),
  ("absent", r"was not found|not found: 404"),
  (
    "refused",
    r"billing|does not have permission"
    r"|Required '[\w.]*' permission|constraint|HTTPError 40[13]|has not been used in project"
    r"|invalid_grant|reauthentication|active account|required property|Failed to find attribute",
  ),
  ("busy", r"FAILED_PRECONDITION"),
)
# What users named, perhaps "quota-7", in quotes, URLs, paths, addresses.
_NAMES = re.compile(
  r"""(?<=')[^'\s]*(?=')|(?<=")[^"\s]*(?=")|(?<=\[)[^]\s]*(?=\])"""
  r"""|\b\w+://\S+|\bprojects/\S+|\S+@\S+|(?<=\bproject )\S+"""
)


def meaning(text: str) -> str:
  """ "passing" for what no pattern knows: it is tried again, and not for ever."""
  text = _NAMES.sub("", text)
  found = (name for name, words in _MEANINGS if re.search(words, text, re.IGNORECASE))
  return next(found, "passing")


@dataclasses.dataclass(frozen=True)
class Gcloud(Caller):
  """How gcloud is called."""

  project: str | None = None

  def call(self, *words: str, supposed: str | None = None) -> str:
    """What a command printed; `supposed`, of a look: its answer in a dry run.

    Raises:
      GiveUp: Google refuses it, and will again.
      Failure: it may work later.
    """
    status, out, errors = self.run(words, supposed or "", looks=supposed is not None)
    if not status:
      return out
    failure = Failure(errors)
    if failure.meaning == "refused":
      raise GiveUp(f"{failure}; docs/tpu.md says what a project needs")
    raise failure

  def follow(self, *words: str) -> None:
    """A command that may take days, and shows the user how far it is.

    Raises:
      Failure: it broke off; the same command goes on.
    """
    whole = self.words(*words)
    show(whole)
    if not self.dry_run and (status := subprocess.run(whole).returncode):
      raise Failure(f"gcloud {words[1]} ended with {status}, see above; the same command goes on")

  def words(self, *words: str) -> list[str]:
    """The whole command."""
    project = [] if self.project is None else [f"--project={self.project}"]
    return ["gcloud", *words, *project, "--quiet"]


def parsed(text: str) -> Any:
  """JSON that gcloud printed. Raises Failure where it is none."""
  try:
    return json.loads(text)
  except ValueError as error:
    raise Failure(f"ERROR: gcloud printed no JSON ({error}): {text[:80]!r}") from error


# --- The TPU -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class State:
  """What Google says of the TPU.

  Attributes:
    word: none, queued, changing, gone, ready, lost, failed or stopped. Of those
      that pass by themselves "queued" may take days, "changing" should not.
      "gone" is lost, unless Google has only not heard of it yet.
    why: in Google's words.
    workers: of each node.
  """

  word: str
  why: str
  workers: tuple[int, ...] = ()


_QUEUED = {"STATE_UNSPECIFIED", "CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES"}


def state_of(
  queue: Mapping | None, nodes: Sequence[Mapping | None], *, direct: bool = False
) -> State:
  """What a queued resource and its nodes mean together; None: not there.

  A node may be preempted for a while before its queued resource says so.
  """
  if queue is None and (not direct or not any(nodes)):
    return State("none", "not there")
  asked = (queue or {}).get("state", {})
  word = "ACTIVE" if direct else asked.get("state", "STATE_UNSPECIFIED")
  if word == "FAILED":
    return State("failed", asked.get("failedData", {}).get("error", {}).get("message", "FAILED"))
  if word != "ACTIVE":
    kind = "lost" if word == "SUSPENDED" else "queued" if word in _QUEUED else "changing"
    return State(kind, f"queued resource {word}")
  states = {"absent" if node is None else node.get("state", "UNKNOWN") for node in nodes}
  health = {(node or {}).get("health", "HEALTHY") for node in nodes} - {"HEALTHY"}
  why = f"node {', '.join([*sorted(states), *sorted(health)])}"
  for found, kind in (
    ("PREEMPTED", "lost"),
    ("TERMINATED", "lost"),
    ("absent", "gone"),
    ("STOPPED", "stopped"),
  ):
    if found in states:
      return State(kind, why)
  ends = [(node or {}).get("networkEndpoints", ()) for node in nodes]
  whole = all(ends) and all(end.get("ipAddress") for node in ends for end in node)
  if states != {"READY"} or "UNHEALTHY_MAINTENANCE" in health or not whole:
    return State("changing", why)
  return State("ready", why, tuple(map(len, ends)))


_RUNTIMES = {
  **dict.fromkeys(("v2", "v3", "v4"), "tpu-ubuntu2204-base"),
  "v5litepod": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}


def runtime(kind: str) -> str:
  """What the software of TPUs of this type is called."""
  generation = kind.partition("-")[0]
  if generation in _RUNTIMES:
    return _RUNTIMES[generation]
  if re.match(r"(tpu|v)([7-9]|\d\d)", generation):
    raise GiveUp(
      f"--type is {kind}; from TPU7x on the Cloud TPU API, which this script uses, has no TPU"
      " VMs: make the machines with GKE or Compute Engine (docs/tpu.md, 'By hand')"
    )
  known = ", ".join(_RUNTIMES)  # v5e is what the planner calls a v5litepod
  raise GiveUp(f"no runtime is known for --type {kind}, but for {known}; give --runtime")


def batches(workers: int, size: int = 64) -> list[str]:
  """Values of --worker, for so many workers of a node: not all at once."""
  if workers <= size:
    return ["all"]
  parts = [(first, min(first + size, workers) - 1) for first in range(0, workers, size)]
  return [str(a) if a == b else f"{a}-{b}" for a, b in parts]


def parallel(workers: Sequence[int], most: int = 128) -> int:
  """How many gclouds may run, each with the connections of a batch."""
  return max(min(most // min(max(workers), 64), 8), 1)


@dataclasses.dataclass(frozen=True)
class Answers:
  """What workers answered: words by host, how many said nothing, and why not."""

  words: Mapping[str, str]
  missing: int
  error: str = ""

  def all(self, word: str) -> bool:
    """Whether every worker has answered, and with this."""
    return not self.missing and set(self.words.values()) == {word}

  def __str__(self):
    hosts: dict[str, list[str]] = {}
    for host, word in sorted(self.words.items()):
      hosts.setdefault(word, []).append(host)
    parts = [f"{', '.join(some)}: {word}" for word, some in hosts.items()]
    missing = [f"{self.missing} not heard ({self.error})"] if self.missing else []
    return "; ".join([*parts, *missing])


@dataclasses.dataclass(frozen=True)
class Tpu:
  """One queued resource with its nodes, or (`direct`) one node without."""

  gcloud: Gcloud
  name: str
  zone: str
  direct: bool = False
  node_count: int = 1
  ssh_flags: Sequence[str] = ()

  @property
  def nodes(self) -> list[str]:
    """Their names, as Google gives them to several."""
    several = self.node_count > 1
    return [f"{self.name}-{i}" for i in range(self.node_count)] if several else [self.name]

  def state(self, supposed: str = "ready") -> State:
    """Asks Google. Raises as `Gcloud.call`, and Foreign where it has other nodes."""
    queue = None if self.direct else self._describe("queued-resources", self.name)
    self._compare(queue or {})
    dry = self.gcloud.dry_run
    active = self.direct or dry or (queue or {}).get("state", {}).get("state") == "ACTIVE"
    nodes = [self._describe("tpu-vm", node) if active else None for node in self.nodes]
    if dry:
      return State(supposed, f"{supposed}, supposedly", (1,) * self.node_count)
    return state_of(queue, nodes, direct=self.direct)

  def _compare(self, queue: Mapping) -> None:
    """Raises Foreign unless the flags name the nodes that it has.

    What they do not name would be taken for lost, and all of it deleted.
    """
    nodes = []
    for spec in queue.get("tpu", {}).get("nodeSpec", ()):
      several = spec.get("multisliceParams", {})
      prefix = several.get("nodeIdPrefix") or self.name
      parts = [f"{prefix}-{i}" for i in range(int(several.get("nodeCount", 0)))]
      nodes += parts or [spec.get("nodeId") or self.name]
    if nodes and len(nodes) != self.node_count:
      raise Foreign(
        f"--node-count is {self.node_count}; {self.name} has {len(nodes)} nodes: give --node-count"
        f" {len(nodes)}"
      )
    if nodes and nodes != self.nodes:
      raise Foreign(
        f"{self.name} has the node {nodes[0]}, which this script did not make; give"
        f" --name {nodes[0]} --direct"
      )

  def elsewhere(self) -> bool:
    """Whether there is one of this name of the other kind. Raises as `Gcloud.call`."""
    return self._describe("queued-resources" if self.direct else "tpu-vm", self.name) is not None

  def _describe(self, kind: str, name: str) -> Mapping | None:
    words = ("compute", "tpus", kind, "describe", name, f"--zone={self.zone}", "--format=json")
    try:
      return parsed(self.gcloud.call(*words, supposed="null"))
    except Failure as failure:
      if failure.meaning != "absent":
        raise
      return None

  def create(self, kind: str, version: str, more: Sequence[str]) -> None:
    """Asks for it. Raises as `Gcloud.call`."""
    count = self.node_count
    words = ["tpu-vm", "create", self.name, f"--version={version}"]
    if not self.direct:
      which = f"--node-count={count}" if count > 1 else f"--node-id={self.name}"
      words = ["queued-resources", "create", self.name, which, f"--runtime-version={version}"]
    where = (f"--accelerator-type={kind}", f"--zone={self.zone}")
    self.gcloud.call("compute", "tpus", *words, *where, *more)

  def delete(self) -> None:
    """Raises as `Gcloud.call`, also where Google is just making it."""
    words = ["tpu-vm", "delete", self.name]
    if not self.direct:
      words = ["queued-resources", "delete", self.name, "--force"]
    try:
      self.gcloud.call("compute", "tpus", *words, f"--zone={self.zone}")
    except Failure as failure:
      if failure.meaning != "absent":
        raise

  def ssh(self, node: str, worker: str, command: str) -> list[str]:
    """The words of an ssh that ends by itself where nobody answers."""
    track = ["alpha"] if "--tunnel-through-iap" in self.ssh_flags else []
    words = [*track, "compute", "tpus", "tpu-vm", "ssh", node, f"--zone={self.zone}"]
    waits = ("ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4")
    flags = [*(f"--ssh-flag=-o{wait}" for wait in waits), *self.ssh_flags]
    return [*words, f"--worker={worker}", *flags, f"--command={command}"]

  def tell(
    self, command: str, workers: Sequence[int], supposed: str, *, looks: bool = True
  ) -> Answers:
    """Runs a command on all workers of all nodes, and hears what they answer.

    gcloud's own status says little: it forgets workers above the first batch.

    Raises:
      GiveUp: Google lets nobody in.
    """
    if not self.gcloud.dry_run:
      prepare_key()

    def hear(place: tuple[str, str]) -> tuple[str, str]:
      line = f"totojax {place[0]}-w-0 {supposed}"
      status, out, errors = self.gcloud.run(self.ssh(*place, command), line, looks=looks)
      # What a worker's own gcloud says is no word about this machine's.
      ours = [
        text for text in errors.splitlines() if re.search(r"\(gcloud\.(\w+\.)?compute\.tpus", text)
      ]
      if status and ours and meaning(ours[-1]) == "refused":
        raise GiveUp(ours[-1])
      return out, str(Failure(errors)) if status else ""

    places = [(n, b) for n, count in zip(self.nodes, workers) for b in batches(count)]
    heard = self._each(hear, places, parallel(workers))
    text = "\n".join(out for out, _ in heard)
    words = dict(re.findall(r"^totojax (\S+) (.+?)\s*$", text, re.MULTILINE))
    errors = [error for _, error in heard if error]
    return Answers(words, max(sum(workers) - len(words), 0), " ".join(errors[-1:]))

  def _each(self, hear: Callable[[T], R], places: Sequence[T], limit: int) -> list[R]:
    """What is heard at each place, at so many at once."""
    if len(places) == 1 or self.gcloud.dry_run:
      return [hear(place) for place in places]
    with concurrent.futures.ThreadPoolExecutor(limit) as pool:
      try:
        return list(pool.map(hear, places))
      except BaseException:  # Ctrl-C above all, which threads do not hear
        pool.shutdown(wait=False, cancel_futures=True)
        end_all()
        raise


@functools.cache
def prepare_key() -> None:
  """Makes gcloud's key, as gcloud would, and lets a running ssh-agent know it.

  Several of gcloud's would make it at the same time; and to several workers a
  key with a passphrase is of no use where no agent has it.
  """
  key = pathlib.Path("~/.ssh/google_compute_engine").expanduser()
  if not key.exists():
    key.parent.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)])
  if not os.environ.get("SSH_AUTH_SOCK"):
    return
  known = subprocess.run(["ssh-add", "-l"], capture_output=True, encoding="utf-8")
  own = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, encoding="utf-8")
  here = set(own.stdout.split()[1:2]) & set(known.stdout.split())
  # Status 2: there is no agent after all.
  if known.returncode != 2 and not here and subprocess.run(["ssh-add", str(key)]).returncode:
    say(f"ssh-add {key} failed: several workers may not be reached")


# --- The bucket --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bucket:
  """The run's work directory, gs://BUCKET/FOLDER."""

  gcloud: Gcloud
  url: str

  def listing(self, *supposed: str) -> dict[str, str]:
    """Its objects by name below the folder: when written, and a tag of what.

    Raises as `Gcloud.call`.
    """
    # Not `objects list`: of a versioned bucket it names what was deleted, too,
    # and it asks for ACLs, which takes a right of its own.
    words = ("storage", "ls", "--long", "--etag", f"{self.url}/**")
    assumed = "\n".join(f"0  now  {self.url}/{name}  etag=" for name in supposed)
    try:
      out = self.gcloud.call(*words, supposed=assumed)
    except Failure as failure:
      if "matched no objects" in str(failure):
        return {}
      if failure.meaning != "absent":
        raise
      raise GiveUp(f"{failure}; make it with: gcloud storage buckets create") from failure
    form = rf"^ *\d+  (\S+)  {re.escape(self.url)}/(.*)  (etag=.*)$"
    return {name: f"{when} {tag}" for when, name, tag in re.findall(form, out, re.MULTILINE)}

  def put(self, path: str, name: str) -> str:
    """Copies a local file below the folder; returns its URL."""
    self.gcloud.call("storage", "cp", path, f"{self.url}/{name}")
    return f"{self.url}/{name}"
