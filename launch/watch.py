"""Keeps a run going: makes the TPU, starts, watches, and starts again.

  none, queued, changing -> ready -> absent -> running -> ended -> finished
  lost, gone, failed: made anew

Whatever ends before `done.json` is in the work directory is started again and
goes on from its checkpoint. What ends it for good is a reason that waiting does
not mend, and too many failures without a new checkpoint. Not to be heard is
never taken for not to be there. Time is counted in looks, a poll apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import pathlib
import re
import shlex
import time
from typing import TypeVar

import calls
from calls import GiveUp, say
from cloud import Answers, Bucket, Failure, Foreign, meaning, State, Tpu

T = TypeVar("T")


PATIENT = 60  # looks that may fail in a row: an hour, at one a minute
HEARD = 20  # looks until all workers of a TPU that is ready have answered
BELIEVED = 3  # looks until a run's own failure is not the TPU's after all
ALONE = 5  # looks that workers may go on after one has ended
LONGEST = 15  # polls between two tries
RESTART = 75  # how totojax ends that lost a peer, or whose storage stays away

# New ones are a run's progress: checkpoints, units of tokens, stages.
_PROGRESS = re.compile(r"(checkpoints/\d+/commit_success\.txt|\.units/\d+\.json|done\.json)$")


def refuse_stopped(state: State) -> None:
  """Raises Foreign where it is."""
  if state.word == "stopped":
    raise Foreign(
      f"{state.why}: somebody stopped it. Start it (gcloud compute tpus tpu-vm start) or delete it"
      " (tpu_vm.sh delete); then the same command goes on"
    )


def counts(name: str) -> bool:
  """Whether a run that hangs would not write it."""
  return not re.search(r"^launch/|lease|lock", name)


def own_failure(word: str) -> bool:
  """Whether a status is the run's own: no peer was lost, and no signal came."""
  return word.isdigit() and 0 < int(word) < 128 and int(word) != RESTART


def progress_in(workdir: str) -> list[str]:
  """What a folder of this machine has of it, named as in a bucket."""
  found = [path for path in pathlib.Path(workdir).rglob("*") if path.parent.name == ".units"]
  done = [*pathlib.Path(workdir).rglob("done.json")]
  # A checkpoint is a folder that is renamed once it is whole.
  whole = [path for path in pathlib.Path(workdir).rglob("checkpoints/*") if path.name.isdigit()]
  return [*map(str, [*found, *done]), *(f"{path}/commit_success.txt" for path in whole)]


@dataclasses.dataclass
class Tries:
  """Failures in a row without a new checkpoint.

  Attributes:
    limit: how many are too many.
    pause: waits for so many polls.
    advanced: whether there was a new checkpoint since this was set to False.
  """

  limit: int
  pause: Callable[[int], None]
  count: int = 0
  advanced: bool = False
  known: set[str] | None = None

  def see(self, names: Iterable[str]) -> None:
    """What the work directory holds now."""
    found = {name for name in names if _PROGRESS.search(name)}
    if self.known is not None and found - self.known:
      self.count, self.advanced = 0, True
    self.known = found | (self.known or set())

  def failed(self, why: str) -> None:
    """Waits before another try, or raises GiveUp where there were enough."""
    self.count += 1
    if self.count >= self.limit:
      raise GiveUp(
        f"{self.count} failures in a row without a new checkpoint (--tries); the last one: {why}"
      )
    say(f"{why}; try {self.count + 1} of {self.limit}")
    self.pause(min(2 ** (self.count - 1), LONGEST))


@dataclasses.dataclass
class Run:
  """One run on one TPU.

  Attributes:
    create: asks for the TPU. Raises as `Gcloud.call`.
    archive: puts the project into the bucket, once; returns its URL.
    stall: looks without anything new in the bucket until a run is taken for
      hung; 0: for ever.
    command: flags that totojax is started with.
    had: whether there was a TPU before.
  """

  tpu: Tpu
  bucket: Bucket
  create: Callable[[], None]
  archive: Callable[[], str]
  poll_s: float
  limit: int
  stall: int
  command: Sequence[str] = ()
  had: bool = False

  def __post_init__(self):
    self.tries = Tries(self.limit, self.pause)

  def pause(self, polls: int = 1) -> None:
    if self.tpu.gcloud.dry_run:
      print(f"+ sleep {self.poll_s * polls:g}")
    else:
      time.sleep(self.poll_s * polls)

  def keep_going(self) -> None:
    """Returns once the run is finished.

    Raises:
      GiveUp: with the reason, Google's where it gave one.
    """
    while True:
      state = self.make_ready("ready" if self.had else "none")
      try:
        if not self.under_way(state):
          self.begin(state)
        ended = self.watch(state)
      except calls.Failure as failure:
        ended = "" if self.finished() else str(failure)
      if not ended:
        return
      self.tries.failed(ended)

  def patiently(self, look: Callable[[], T]) -> T:
    """What a look sees, though Google may not answer for a while."""
    told = ""
    for _ in range(PATIENT):
      try:
        return look()
      except calls.Failure as failure:
        if str(failure) != told:
          say(f"{failure}; asked again")
        told = str(failure)
      self.pause()
    raise GiveUp(f"Google did not answer {PATIENT} times: {told}")

  def finished(self) -> bool:
    """Whether the work directory says so."""
    found = self.patiently(lambda: self.bucket.listing("done.json"))
    self.tries.see(found)
    return "done.json" in found

  # --- The TPU ---------------------------------------------------------------

  def make_ready(self, supposed: str = "ready") -> State:
    """Waits for the TPU, which is made, or made anew, where need be."""
    why, same, made, refusals = "", 0, False, 0
    while True:
      state = self.patiently(lambda: self.tpu.state(supposed))
      supposed = "ready"
      same = same + 1 if state.why == why else 1
      if same == 1 or same % PATIENT == 0:
        say(f"{self.tpu.name}: {state.why}")
      why = state.why
      self.had = self.had or state.word in ("ready", "lost", "gone")
      long = {"gone": BELIEVED, "changing": PATIENT}.get(state.word)
      if state.word == "ready":
        return state
      refuse_stopped(state)
      try:
        if state.word in ("lost", "failed") or (long and same >= long):
          self.tpu.delete()
          if state.word == "failed":  # deleted first, for it uses up quota
            refusals = self.refused(why, refusals)
          elif made:
            self.tries.failed(why)
        elif state.word == "none":
          self.create()
          made = True
        else:
          self.pause()
      except calls.Failure as failure:
        refusals = self.refused(str(failure), refusals)

  def refused(self, why: str, refusals: int) -> int:
    """Google makes or deletes no TPU: waits, where that may help; one refusal more.

    What is changing is not deleted yet. Capacity comes back. A quota that
    sufficed before is used up by the TPU that was just lost, for a while; any
    other one a person must raise.
    """
    kind = meaning(why)
    before = self.had or self.tries.known  # by what the work directory holds
    never = not before or re.search(r"\blimit: *0\b", why, re.IGNORECASE)
    if kind in ("refused", "absent") or (kind == "quota" and never):
      raise GiveUp(f"Google makes no TPU: {why}; docs/tpu.md says what a project needs")
    if kind == "busy" and refusals < PATIENT:
      self.pause()
    elif kind == "capacity":
      polls = min(2**refusals, LONGEST)
      say(f"no TPU yet: {why}; asked again in {polls * self.poll_s:g} s")
      self.pause(polls)
    else:
      self.tries.failed(why)
    return refusals + 1

  def lost(self) -> str:
    """Why the TPU is lost, as far as Google says; '' where it is not.

    Raises:
      Foreign: it is not lost.
    """
    try:
      state = self.tpu.state()
    except calls.Failure:
      return ""
    refuse_stopped(state)
    return "" if state.word in ("ready", "changing") else state.why

  # --- The run ---------------------------------------------------------------

  def tell(self, state: State, word: str, *more: str, supposed: str, looks: bool = True) -> Answers:
    """Calls worker.sh on all workers: those without it have no run."""
    call = " ".join(["bash totojax/launch/worker.sh", word, *map(shlex.quote, more)])
    there = f"if [ -e totojax/launch/worker.sh ]; then {call};"
    other = ' else echo "totojax $(hostname) absent"; fi'
    return self.tpu.tell(there + other, state.workers, supposed, looks=looks)

  def look(self, state: State, supposed: str) -> Answers:
    """What the workers say of this run."""
    return self.tell(state, "look", self.bucket.url, supposed=supposed)

  def under_way(self, state: State) -> bool:
    """Whether there is a run to be watched; if not, every worker has said so.

    Raises:
      Failure: not all workers can be heard, so nothing may be started.
      Foreign: there is a run of another work directory.
    """
    for _ in range(HEARD):
      answers = self.look(state, "absent")
      if other := [word for word in answers.words.values() if word.startswith("busy with ")]:
        raise Foreign(
          f"{self.tpu.name} is {other[0]}, which is not --workdir {self.bucket.url}; stop that run"
          f" first ({calls.program}.sh stop), or give another --name"
        )
      if "running" in answers.words.values():
        say(f"{self.tpu.name} is running already; it is watched")
        return True
      if not answers.missing:
        return False
      if why := self.lost():
        raise Failure(why)
      self.pause()
    raise Failure(f"{answers} in {HEARD} looks, though the TPU is ready")

  def begin(self, state: State) -> None:
    """Installs and starts on every worker. Raises as `install`."""
    self.tries.advanced = False
    self.install(state)
    words = [self.bucket.url, *self.command]
    answers = self.tell(state, "start", *words, supposed="started", looks=False)
    if not answers.all("started"):
      raise Failure(f"not started: {answers}")
    say(f"started; its log: {calls.program}.sh logs")

  def install(self, state: State) -> None:
    """Installs the project on every worker, which fetches it from the bucket.

    Raises:
      Failure: some worker did not say that it is done.
      GiveUp: Google lets it read nothing.
    """
    url = self.archive()
    say(f"installing on {sum(state.workers)} workers")
    # One at a time: what an interrupted call has begun on a worker goes on there.
    fetch = (
      f"(flock 9; if gcloud storage cp -q {shlex.quote(url)} totojax.tar.gz 2> fetch.log"
      " && rm -rf totojax.new && mkdir totojax.new && tar -xzf totojax.tar.gz -C totojax.new;"
      " then bash totojax.new/launch/worker.sh install;"
      ' else echo "totojax $(hostname) failed: $(tail -n 1 fetch.log)"; fi) 9> install.lock'
    )
    answers = self.tpu.tell(fetch, state.workers, "installed", looks=False)
    for host, word in answers.words.items():
      if "(gcloud." in word and meaning(word) == "refused":  # to the TPUs' own account
        raise GiveUp(f"{host} may not read {url}: {word}; docs/tpu.md says what a project needs")
    if not answers.all("installed"):
      raise Failure(f"not installed: {answers}")

  def watch(self, state: State) -> str:
    """Watches until the run has ended: why it is to be started again, or ''."""
    silent = alone = still = 0
    before: object = None
    while True:
      self.pause()
      answers = self.look(state, "0")
      words = set(answers.words.values())
      seen = None
      try:
        seen = self.bucket.listing("done.json")
        self.tries.see(seen)
        now = {name: version for name, version in seen.items() if counts(name)}
        still, before = (still + 1 if now == before else 0), now
      except calls.Failure:
        still = 0  # nobody knows
      done = seen is not None and "done.json" in seen
      if done and "running" not in words:
        return ""  # whoever is not heard
      if "running" in words and self.stall and still >= self.stall:
        self.tell(state, "end", supposed="ended")
        return f"nothing new in {self.bucket.url} in {still} looks (--stall), so it was ended"
      if answers.all("running"):
        silent = alone = 0
      elif words - {"running"}:
        alone += 1  # the others will notice, or may be heard soon
        whole = not answers.missing and "running" not in words
        if whole or alone >= ALONE or self.lost():
          done = done or (seen is None and self.finished())
          return "" if done else self.judge(answers, state)
      else:
        why = self.lost()
        silent += 1
        if not why and silent >= PATIENT and still >= self.stall:
          why = f"{answers} in {silent} looks"
        if why:
          return "" if seen is None and self.finished() else why

  def judge(self, answers: Answers, state: State) -> str:
    """Why a run that has ended too early goes on.

    Raises:
      GiveUp: it was stopped, or has failed by itself without any progress.
    """
    words = set(answers.words.values())
    if "stopped" in words:
      raise GiveUp(f"the run was stopped ({calls.program}.sh stop); the same command goes on")
    if "running" in words:
      self.tell(state, "end", supposed="ended")
    own = [host for host, word in sorted(answers.words.items()) if own_failure(word)]
    if not own:
      return self.lost() or f"the run has left before its end ({answers})"
    self.show_log(own[0])
    for _ in range(BELIEVED):  # Google may say only later that the TPU is lost
      if why := self.lost():
        return why
      self.pause()
    if self.tries.advanced:
      return f"the run has failed ({answers})"
    raise GiveUp(
      f"the run has failed without a new checkpoint ({answers}); logs: {self.bucket.url}/launch"
    )

  def show_log(self, host: str) -> None:
    """Prints the end of a worker's log, which it has left in the bucket."""
    url = f"{self.bucket.url}/launch/{host}.log"
    try:
      print(self.tpu.gcloud.call("storage", "cat", "--range=-4000", url, supposed=""), flush=True)
    except (Failure, GiveUp) as failure:
      say(f"the log of {host} is not in the bucket: {failure}")
