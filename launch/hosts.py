"""Hosts that are there, by plain ssh: what `watch` asks of a TPU and of a bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import concurrent.futures
import dataclasses
import hashlib
import os
import re
import shlex

import calls
from calls import Caller, Failure, GiveUp, say, show
from cloud import Answers, State
import watch

PROCESS = "--process=EACH"  # becomes each host's own
# The first says so of itself; the others of what is refused for good.
_REFUSED = re.compile(
  r"Permission denied|Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"
  r"|Bad configuration option|no such identity|Could not resolve hostname"
)
_PROGRESS = r".*/\(checkpoints/[0-9]+\|\.units/[0-9]+\.json\|[a-z.]+\.jsonl?\)"


@dataclasses.dataclass
class Hosts:
  """The machines of a run; each has a folder of its own, also where homes are shared.

  Attributes:
    caller: calls programs.
    hosts: as ssh takes them.
    workdir: of the run, which names the folder.
    ssh_flags: more for ssh.
    variables: of the shell in which worker.sh is called.
    heard: hosts that have answered once.
  """

  caller: Caller
  hosts: Sequence[str]
  workdir: str
  ssh_flags: Sequence[str] = ()
  variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
  heard: set[str] = dataclasses.field(default_factory=set)

  @property
  def gcloud(self) -> Caller:
    """By this name `watch` asks whether this is a dry run."""
    return self.caller

  @property
  def name(self) -> str:
    return ",".join(self.hosts)

  def folder(self, host: str) -> str:
    """Of this run on this host, below the home."""
    digest = hashlib.sha256(self.workdir.encode()).hexdigest()[:10]
    return f"~/.cache/totojax/launch/{digest}/{re.sub(r'[^A-Za-z0-9_.-]', '_', host)}"

  def words(self, host: str, command: str) -> list[str]:
    """An ssh that ends by itself where nobody answers, and never asks a person."""
    waits = (
      "BatchMode=yes",
      "ConnectTimeout=15",
      "ServerAliveInterval=15",
      "ServerAliveCountMax=4",
    )
    flags = [f"-o{wait}" for wait in waits]
    return ["ssh", *flags, *self.ssh_flags, host, command]

  def shell(self, host: str, command: str) -> str:
    """The command in the host's folder, by bash, whatever shell its user has."""
    exports = {"TOTOJAX_FOLDER": "$PWD", **self.variables}
    lines = [f"mkdir -p {self.folder(host)} && cd {self.folder(host)} || exit"]
    for name, value in exports.items():
      lines.append(f"export {name}={value if value == '$PWD' else shlex.quote(value)}")
    # What worker.sh calls the host: two may have one name, as aliases do.
    lines.append(f"hostname() {{ echo {shlex.quote(host)}; }}; export -f hostname")
    lines.append(command.replace(PROCESS, f"--process={list(self.hosts).index(host)}"))
    return f"bash -c {shlex.quote('; '.join(lines))}"

  def ask(
    self, host: str, command: str, supposed: str, *, looks: bool = True, source: str | None = None
  ) -> str:
    """What a command on a host printed.

    Raises:
      GiveUp: ssh refuses it, and will again.
      Failure: the host cannot be reached, or the command has failed.
    """
    words = self.words(host, command)
    status, out, errors = self.caller.run(words, supposed, looks=looks, source=source)
    if not status:
      self.heard.add(host)
      return out
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    why = f"{host}: {lines[-1] if lines else f'ssh ended with {status}'}"
    # A name that was known before is not known for a while, as networks go.
    if status == 255 and _REFUSED.search(errors) and host not in self.heard:
      raise GiveUp(f"{why}; try: {' '.join(map(shlex.quote, self.words(host, 'true')))}")
    raise Failure(why)

  def tell(
    self, command: str, workers: Sequence[int], supposed: str, *, looks: bool = True
  ) -> Answers:
    """Runs a command on all hosts at once, and hears what they answer."""
    del workers

    def hear(host: str) -> tuple[str, str]:
      try:
        line = f"totojax {host} {supposed}"
        return self.ask(host, self.shell(host, command), line, looks=looks), ""
      except Failure as failure:
        return "", str(failure)

    heard = self.each(hear)
    words = {
      host: found[-1]
      for host, (out, _) in zip(self.hosts, heard)
      if (found := re.findall(r"^totojax \S+ (.+?)\s*$", out, re.MULTILINE))
    }
    errors = [error for _, error in heard if error]
    return Answers(words, len(self.hosts) - len(words), "; ".join(errors))

  def each(self, do):
    """What is done at each host, at all at once."""
    if len(self.hosts) == 1 or self.caller.dry_run:
      return [do(host) for host in self.hosts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      try:
        return list(pool.map(do, self.hosts))
      except BaseException:  # Ctrl-C above all, which threads do not hear
        pool.shutdown(wait=False, cancel_futures=True)
        calls.end_all()
        raise

  def state(self, supposed: str = "ready") -> State:
    """Ready once all hosts answer; until then queued, which is waited for without an end.

    Raises:
      GiveUp: one lets nobody in.
    """
    del supposed
    answers = self.tell('echo "totojax $(hostname) there"', (), "there")
    if answers.missing:
      return State("queued", f"not all answer: {answers.error}")
    return State("ready", "all answer", (1,) * len(self.hosts))

  def delete(self) -> None:
    raise GiveUp("hosts are not deleted")


@dataclasses.dataclass(frozen=True)
class Folder:
  """The run's work directory, a folder that all hosts see."""

  hosts: Hosts
  url: str

  def listing(self, *supposed: str) -> dict[str, str]:
    """Its files of a run's progress by name: when written, and their size.

    Raises:
      GiveUp, Failure: no host can be asked.
    """
    command = (
      f"if [ -d {shlex.quote(self.url)} ]; then cd {shlex.quote(self.url)} && find . -maxdepth 5"
      f" -regex {shlex.quote(_PROGRESS)} -printf '%TY-%Tm-%TdT%TH:%TM:%TS %s %P\\n'; fi"
    )
    assumed = "\n".join(f"now 0 {name}" for name in supposed)
    failures = []
    for host in self.hosts.hosts:
      try:
        out = self.hosts.ask(host, f"bash -c {shlex.quote(command)}", assumed)
        break
      except Failure as failure:
        failures.append(str(failure))
    else:
      raise Failure("; ".join(failures))
    rows = [line.split(" ", 2) for line in out.splitlines()]
    # A checkpoint is a folder that is renamed once it is whole.
    return {
      re.sub(r"(checkpoints/\d+)$", r"\1/commit_success.txt", row[2]): f"{row[0]} {row[1]}"
      for row in rows
      if len(row) == 3
    }


class Run(watch.Run):
  """One run on hosts: they are not made, and nothing of theirs is ever lost for good.

  Attributes:
    project: a packed file of the project; "": they have totojax already.
    worker: worker.sh, which each of them gets.
  """

  project = ""
  worker = ""

  def lost(self) -> str:
    return ""  # a host that cannot be heard may be back: `make_ready` waits

  def install(self, state: State) -> None:
    """Gives each host worker.sh, and the project where it has none.

    Raises:
      Failure: some host did not say that it is done.
      GiveUp: they do not see one work directory.
    """
    hosts: Hosts = self.tpu  # type: ignore[assignment]
    if not self.bucket.url.startswith("gs://"):
      self._check_shared(hosts)
    if self.project:
      say(f"installing on {len(hosts.hosts)} hosts")
      unpack = (
        "cat > totojax.tar.gz && rm -rf totojax.new && mkdir totojax.new"
        " && tar -xzf totojax.tar.gz -C totojax.new && bash totojax.new/launch/worker.sh install"
      )
      source, done = self.project, "installed"
    else:
      unpack = (
        "mkdir -p totojax/launch && cat > totojax/launch/worker.part"
        " && mv totojax/launch/worker.part totojax/launch/worker.sh && echo totojax - there"
      )
      source, done = self.worker, "there"

    def give(host: str) -> str:
      line = f"totojax {host} {done}"
      try:
        return hosts.ask(host, hosts.shell(host, unpack), line, looks=False, source=source)
      except Failure as failure:
        return str(failure)

    for host, out in zip(hosts.hosts, hosts.each(give)):
      if not re.search(rf"^totojax \S+ {done}\s*$", out, re.MULTILINE):
        raise Failure(f"not {done}: {host}: {' '.join(out.split()) or 'no answer'}")

  def _check_shared(self, hosts: Hosts) -> None:
    """Raises GiveUp unless what one host writes there the others see."""
    path = shlex.quote(f"{self.bucket.url}/launch/shared")
    make = f"mkdir -p {shlex.quote(self.bucket.url)}/launch && date > {path} && echo seen"
    look = (
      f"ls {shlex.quote(self.bucket.url)}/launch > /dev/null; cat {path} > /dev/null && echo seen"
    )
    for command, some in ((make, hosts.hosts[:1]), (look, hosts.hosts[1:])):
      for host in some:
        try:
          hosts.ask(host, f"bash -c {shlex.quote(command)}", "seen", looks=command == look)
        except Failure as failure:
          if "ssh" in str(failure):
            raise
          raise GiveUp(
            f"--workdir {self.bucket.url} is not one folder that {hosts.hosts[0]} writes and {host}"
            f" reads ({failure}); mount it on all hosts, or give gs://BUCKET/FOLDER"
          ) from failure

  def show_log(self, host: str) -> None:
    """Prints the end of a host's log."""
    hosts: Hosts = self.tpu  # type: ignore[assignment]
    try:
      command = hosts.shell(host, "tail -n 40 totojax.log")
      print(hosts.ask(host, command, ""), flush=True)
    except (Failure, GiveUp) as failure:
      say(f"the log of {host} cannot be read: {failure}")

  def logs(self, host: str) -> None:
    """Follows a host's log, in place of this process."""
    hosts: Hosts = self.tpu  # type: ignore[assignment]
    words = hosts.words(host, hosts.shell(host, "exec tail -n 100 -F totojax.log"))
    show(words)
    if not hosts.caller.dry_run:
      os.execvp(words[0], words)
