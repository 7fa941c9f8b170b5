"""launch/: what it decides, what it prints, and days of the real gcloud.

`google_cloud` plays Google's side on the loopback; no request leaves the
machine. Without gcloud on PATH those tests are skipped.
"""

import ast
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import calls
from calls import GiveUp
import cloud
from cloud import Answers, Failure, State
import google_cloud
import prepare
import project
import pytest
import runs
import stores
import test_hosts
import tpu_vm
import watch
import xla_flags

LAUNCH = runs.ROOT / "launch"
SCRIPT = LAUNCH / "tpu_vm.sh"
TPU = ["--name", "toto", "--zone", "us-west4-a"]
TYPE = ["--type", "v5litepod-8"]
RUN = ["run", *TPU, *TYPE, "--config", "configs/1b.py", "--workdir", "gs://bucket/toto"]

GCLOUD = cloud.Gcloud(False, 10.0)
with_gcloud = pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not on PATH")


# --- What Google says --------------------------------------------------------


def node(state="READY", health="HEALTHY", ends=2):
  return {
    "state": state,
    "health": health,
    "networkEndpoints": [{"ipAddress": f"10.0.0.{i}"} for i in range(ends)],
  }


def queue(state, message=None):
  error = {"failedData": {"error": {"code": 8, "message": message}}} if message else {}
  return {"state": {"state": state, **error}}


ACTIVE = queue("ACTIVE")


@pytest.mark.parametrize(
  "queued, nodes, word",
  [
    (None, [None], "none"),
    (queue("WAITING_FOR_RESOURCES"), [None], "queued"),
    (queue("PROVISIONING"), [None], "changing"),
    # Not deleted before Google is through with it.
    (queue("SUSPENDING"), [node()], "changing"),
    (queue("SUSPENDED"), [node("PREEMPTED")], "lost"),
    (queue("DELETING"), [None], "changing"),
    (queue("FAILED", "no"), [None], "failed"),
    # Active, which says little.
    (ACTIVE, [node()], "ready"),
    (ACTIVE, [node("PREEMPTED")], "lost"),
    (ACTIVE, [node("TERMINATED")], "lost"),
    (ACTIVE, [None], "gone"),
    (ACTIVE, [node("STOPPED")], "stopped"),
    (ACTIVE, [node("REPAIRING", "UNHEALTHY_MAINTENANCE")], "changing"),
    (ACTIVE, [node("READY", "UNHEALTHY_MAINTENANCE")], "changing"),
    (ACTIVE, [node("READY", "TIMEOUT")], "ready"),  # the workers are asked
    (ACTIVE, [node("HIDDEN")], "changing"),
    (ACTIVE, [node("UNKNOWN")], "changing"),
    (ACTIVE, [node(ends=0)], "changing"),
    (ACTIVE, [{"state": "READY", "networkEndpoints": [{"port": 8470}]}], "changing"),
    # Several slices are as well as the worst of them.
    (ACTIVE, [node(), node("PREEMPTED")], "lost"),
    (ACTIVE, [node(), node("CREATING")], "changing"),
    (ACTIVE, [node(), None], "gone"),
  ],
)
def test_states_of_queue_and_nodes_together(queued, nodes, word):
  state = cloud.state_of(queued, nodes)
  assert state.word == word
  assert state.workers == (tuple(2 for _ in nodes) if word == "ready" else ())


def test_a_tpu_without_a_queue():
  assert cloud.state_of(None, [None], direct=True).word == "none"
  assert cloud.state_of(None, [node("PREEMPTED")], direct=True).word == "lost"
  assert cloud.state_of(None, [node()], direct=True) == State("ready", "node READY", (2,))


def test_states_are_those_of_the_api():
  """Each state that gcloud knows is one that this test names, or waits."""
  sdk = pathlib.Path(shutil.which("gcloud") or "").resolve().parents[1]
  path = sdk / "lib/googlecloudsdk/generated_clients/apis/tpu/v2/tpu_v2_messages.py"
  if not path.exists():
    pytest.skip("gcloud's sources are not there")
  text = path.read_text()
  found = {"QueuedResourceState": set(), "Node": set()}
  for name in found:
    part = text.split(f"\nclass {name}(")[1].split("\nclass ")[0]
    part = part.split("class StateValueValuesEnum")[1].split('"""')[2]
    found[name] = set(re.findall(r"^    ([A-Z_]+) = \d+$", part.split("\n\n")[0], re.M))
  assert {"ACTIVE", "SUSPENDED", "FAILED"} | cloud._QUEUED <= found["QueuedResourceState"]
  assert {"READY", "PREEMPTED", "TERMINATED", "STOPPED"} <= found["Node"]


@pytest.mark.parametrize(
  "text, meaning",
  [
    ("NOT_FOUND: Resource 'projects/p/locations/z/nodes/n' was not found", "absent"),
    ("ERROR: (gcloud.storage.ls) gs://b not found: 404.", "absent"),
    ("ALREADY_EXISTS: Resource 'x' already exists", "exists"),
    ("FAILED_PRECONDITION: DeleteQueuedResource is not supported when state is X", "busy"),
    (google_cloud.CAPACITY, "capacity"),
    ("RESOURCE_EXHAUSTED: " + google_cloud.QUOTA.format(16), "quota"),
    ("Quota 'IN_USE_ADDRESSES' exceeded.  Limit: 8.0 in region us-west4.", "quota"),
    ("Quota exceeded for 'Read requests' and limit 'Read requests per minute'", "passing"),
    ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p'", "refused"),
    ("UNAUTHENTICATED: Request had invalid authentication credentials", "refused"),
    ("This API method requires billing to be enabled", "refused"),
    ("HTTPError 403: x@y does not have storage.objects.list access", "refused"),
    ("Cloud TPU API has not been used in project 1 before or it is disabled", "refused"),
    ("Constraint constraints/compute.vmExternalIpAccess violated for p", "refused"),
    ("INVALID_ARGUMENT: Accelerator type v5litepod-256 is not available", "refused"),
    ("unrecognized arguments: --best-effort (did you mean '--quiet'?)", "refused"),
    ("('invalid_grant: Bad Request') Please run: gcloud auth login", "refused"),
    ("PERMISSION_DENIED: The tpu.googleapis.com API requires a quota project", "refused"),
    ("Error parsing [tpu].\nFailed to find attribute [project].", "refused"),
    # What something is called means nothing.
    (
      "NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/quota-7' was not found",
      "absent",
    ),
    ("Resource 'quota-7' was not found", "absent"),
    ("ERROR: (gcloud.storage.ls) gs://billing-data not found: 404.", "absent"),
    ("HTTPError 403: quota@x.iam does not have storage.objects.list access", "refused"),
    ("INTERNAL: of projects/billing/zones/z", "passing"),
    ("Cloud TPU API has not been used in project quota-1 before", "refused"),
    # A precondition may be anybody's.
    ("FAILED_PRECONDITION: Constraint constraints/compute.vmExternalIpAccess violated", "refused"),
    ("FAILED_PRECONDITION: billing is not enabled", "refused"),
    ("The zone 'z' does not have enough resources available to fulfill the request", "capacity"),
    # A laptop that is offline is no refusal.
    ("There was a problem refreshing your current auth tokens: Failed to resolve", "passing"),
    ("UNAVAILABLE: The service is currently unavailable.", "passing"),
    ('This TPU has terminal state "PREEMPTED", so it cannot be used anymore.', "passing"),
    ("", "passing"),
  ],
)
def test_what_google_means(text, meaning):
  assert Failure(text).meaning == cloud.meaning(text) == meaning


def test_an_error_is_told_without_what_is_around_it():
  text = "WARNING: x\nERROR: (gcloud.a) NOT_FOUND: y\nTo search the help, run\n"
  assert str(Failure(text)) == "ERROR: (gcloud.a) NOT_FOUND: y"
  assert str(Failure("one\ntwo\n\n")) == "two"


def test_without_project_or_account_it_says_what_to_do():
  """gcloud does so too, on lines of their own, or at length."""
  text = "ERROR: (gcloud.a) Error parsing [tpu].\nFailed to find attribute [project]. The\n- x\n"
  told = "ERROR: (gcloud.a) Error parsing [tpu].; give --project, or: gcloud config set project"
  assert str(Failure(text)).startswith(told)
  text = "ERROR: (gcloud.a) You do not currently have an active account selected.\nPlease run:\n"
  assert str(Failure(text)).endswith("active account selected.; log in: gcloud auth login")


def test_workers_are_asked_in_batches():
  assert cloud.batches(1) == cloud.batches(64) == ["all"]
  assert cloud.batches(130) == ["0-63", "64-127", "128-129"]
  assert cloud.batches(65) == ["0-63", "64"]  # gcloud refuses 64-64
  # Nor all batches: of many small slices some, of large ones two.
  assert [cloud.parallel([n] * 32) for n in (1, 16, 64, 500)] == [8, 8, 2, 2]


def test_answers_are_those_of_all_workers():
  answers = Answers({"a": "75", "b": "1", "c": "75"}, 1, "no route")
  assert str(answers) == "a, c: 75; b: 1; 1 not heard (no route)"
  assert not Answers({"a": "running"}, 1).all("running")
  assert not Answers({"a": "running", "b": "0"}, 0).all("running")
  assert Answers({"a": "running", "b": "running"}, 0).all("running")


@pytest.mark.parametrize(
  "kind, chips, topology",
  [
    ("v5litepod-256", 256, "v5e:16x16"),
    ("v5litepod-8", 8, "v5e:2x4"),
    ("v5litepod-1", 1, "v5e:1x1"),
    ("v6e-32", 32, "v6e:4x8"),
    ("v4-8", 4, "v4:2x2x1"),
    ("v4-16", 8, "v4:2x2x2"),
    ("v4-512", 256, "v4:4x8x8"),
    ("v5p-128", 64, "v5p:4x4x4"),
    ("v5p-96", 48, None),
    ("v2-8", 4, None),
  ],
)
def test_topologies_by_type(kind, chips, topology):
  assert prepare.chips(kind) == chips
  assert prepare.topology(kind) == topology


def test_types_without_tpu_vms_say_where_they_are_made():
  for kind in ("tpu7x-128", "v7x-128", "tpu8-8"):
    with pytest.raises(GiveUp, match="GKE or Compute Engine"):
      cloud.runtime(kind)
  with pytest.raises(GiveUp, match="give --runtime"):
    cloud.runtime("x9-8")
  assert cloud.runtime("v6e-8") == "v2-alpha-tpuv6e"


# --- What follows from it ----------------------------------------------------


class Play:
  """A TPU and a bucket by the book: what each look sees, in order.

  The last of a list repeats. A failure in a list is raised.
  """

  name = "toto"
  gcloud = GCLOUD
  url = "gs://bucket/toto"

  def __init__(self, states, looks, listings=({},)):
    self.states, self.looks, self.listings = list(states), list(looks), list(listings)
    self.done, self.polls, self.failures, self.answers = [], 0, {}, {}

  @staticmethod
  def _next(items):
    item = items.pop(0) if len(items) > 1 else items[0]
    if isinstance(item, Exception):
      raise item
    return item

  def state(self, supposed="ready"):
    word = self._next(self.states)
    return word if isinstance(word, State) else State(word, f"node {word}", (2,))

  def listing(self, *supposed):
    return self._next(self.listings)

  def tell(self, command, workers, supposed, *, looks=True):
    kind = re.search(r"bash \S+worker\.sh (\w+)", command)[1]
    if kind == "look":
      words = dict(zip("ab", self._next(self.looks)))
      heard = {host: word for host, word in words.items() if word}
      return Answers(heard, 2 - len(heard), "no answer")
    self.do(kind)
    told = self.answers.get(kind)
    return told.pop(0) if told else Answers(dict.fromkeys("ab", supposed), 0)

  def do(self, kind):
    self.done.append(kind)
    assert len(self.done) < 500, "it asks for ever"
    if self.failures.get(kind):
      raise self.failures[kind].pop(0)

  def create(self):
    self.do("create")

  def delete(self):
    self.do("delete")

  def run(self, *, known=(), **more):
    task = watch.Run(
      self, self, create=self.create, archive=lambda: "gs://a", poll_s=0.0, limit=3, stall=99
    )
    for name, value in more.items():
      setattr(task, name, value)
    task.show_log = lambda host: self.done.append(f"log of {host}")

    def pause(polls=1):
      self.polls += polls
      assert self.polls < 500, "it waits for ever"

    task.pause = task.tries.pause = pause
    task.tries.see(known)
    task.keep_going()
    return task


UP, GONE, OVER = ("running", "running"), ("absent", "absent"), ("0", "0")
DONE = {"done.json": 1}
START = ["install", "start"]


def test_a_good_day():
  play = Play(["none", "queued", "changing", "ready"], [GONE, UP, OVER], [{}, DONE])
  play.run()
  assert play.done == ["create", *START]


def test_a_node_that_is_lost_while_its_queue_is_active_is_made_anew():
  play = Play(
    ["ready", "lost", "lost", "none", "ready"], [GONE, UP, ("", ""), GONE, OVER], [{}, {}, DONE]
  )
  play.run()
  assert play.done == [*START, "delete", "create", *START]


def test_a_node_that_google_does_not_know_yet_is_not_deleted():
  play = Play(["none", "gone", "gone", "ready"], [GONE, OVER], [DONE])
  play.run()
  assert play.done == ["create", *START]
  play = Play(["gone", "gone", "gone", "none", "ready"], [GONE, OVER], [DONE])
  play.run()
  assert play.done == ["delete", "create", *START]


@pytest.mark.parametrize("kind", ["create", "delete", "install", "start"])
def test_any_step_may_fail(kind):
  play = Play(["lost", "none", "ready"], [GONE, OVER], [DONE])
  if kind == "delete":
    play.states.insert(0, "lost")
  if kind == "create":
    play.states.insert(1, "none")
  if kind in START:
    play.looks.insert(0, GONE)
    play.listings.insert(0, {})
  play.failures[kind] = [Failure("INTERNAL: of Google")]
  play.run()
  assert play.done.count(kind) == 2
  for other in {"create", "delete", "start"} - {kind}:
    assert play.done.count(other) == 1


def test_what_google_deletes_only_later_is_waited_for():
  """It may refuse for minutes, which is no failure, and then takes its time."""
  play = Play([*["lost"] * 11, *["changing"] * 4, "none", "ready"], [GONE, OVER], [DONE])
  text = "FAILED_PRECONDITION: DeleteQueuedResource is not supported when state is PROVISIONING"
  play.failures["delete"] = [Failure(text)] * 10
  play.run()
  assert play.done == [*["delete"] * 11, "create", *START]


@pytest.mark.parametrize("kind", START)
@pytest.mark.parametrize(
  "answers",
  [Answers({"a": "{}", "b": "failed: No space left"}, 0), Answers({"a": "{}"}, 1, "no route")],
)
def test_one_worker_may_fail(kind, answers, capsys):
  """The others have installed or started by then, and gcloud's status says little."""
  word = f"{kind}ed"
  words = {host: text.format(word) for host, text in answers.words.items()}
  play = Play(["ready"], [GONE, GONE, OVER], [{}, DONE])
  play.answers[kind] = [Answers(words, answers.missing, answers.error)]
  play.run()
  assert play.done == [*(["install"] if kind == "install" else START), *START]
  assert f"not {word}: a: {word}; " in capsys.readouterr().err


def test_workers_that_may_not_read_the_bucket_are_refused_at_once():
  word = "failed: ERROR: (gcloud.storage.cp) HTTPError 403: x does not have storage.objects.get"
  play = Play(["ready"], [GONE], [{}])
  play.answers["install"] = [Answers({"a": "installed", "b": word}, 0)]
  with pytest.raises(GiveUp, match="b may not read gs://a: failed: .* 403"):
    play.run()
  assert play.done == ["install"]


def test_a_lost_worker_is_a_restart():
  """The one was rebooted, the other misses it."""
  play = Play(["ready"], [GONE, UP, ("absent", "75"), ("absent", "75"), OVER], [{}, {}, DONE])
  play.run()
  assert play.done == [*START, *START]


def test_a_run_that_left_at_sigterm_is_started_again():
  """With 0, while Google still says that all is well; or it is lost by then."""
  play = Play(["ready"], [GONE, UP, OVER, OVER, OVER], [{}, {}, DONE])
  play.run()
  assert play.done == [*START, *START]
  play = Play(["ready", "lost", "lost", "none", "ready"], [GONE, OVER, GONE, OVER], [{}, DONE])
  play.run()
  assert play.done == [*START, "delete", "create", *START]


def test_the_runs_own_failure_ends_it_with_its_log():
  play = Play(["ready"], [GONE, ("1", "75")])
  with pytest.raises(GiveUp, match=r"failed without a new checkpoint \(a: 1; b: 75\)"):
    play.run()
  assert play.done == [*START, "log of a"]


def test_a_failure_that_was_the_tpus_is_found_out():
  """What workers of a lost TPU end with is not to be believed at once."""
  play = Play(
    ["ready", "ready", "ready", "lost", "lost", "none", "ready"],
    [GONE, ("1", "1"), GONE, OVER],
    [{}, DONE],
  )
  play.run()
  assert play.done == [*START, "log of a", "delete", "create", *START]


def step(number):
  return {f"checkpoints/{number}/commit_success.txt": 1}


def test_a_failure_after_a_new_checkpoint_is_tried_once_more():
  play = Play(["ready"], [GONE, ("1", "1"), GONE, ("1", "1")], [step(4)])
  with pytest.raises(GiveUp, match="without a new checkpoint"):
    play.run()
  assert play.done == [*START, "log of a", *START, "log of a"]


def test_failures_in_a_row_are_too_many_and_a_checkpoint_starts_anew():
  crash = [GONE, ("75", "75")]
  with pytest.raises(GiveUp, match="3 failures in a row .* left before its end .*75"):
    Play(["ready"], crash * 9).run()
  play = Play(["ready"], [*crash * 4, GONE, OVER], [{}, {}, step(4), {}, DONE])
  play.run()
  assert play.done.count("start") == 5
  # What is no progress: a log, a lease, rows of metrics.
  other = [{f"launch/{i}.log": i, "lease": i, "metrics.jsonl": i} for i in range(50)]
  with pytest.raises(GiveUp, match="3 failures in a row"):
    Play(["ready"], crash * 9, other).run()


def test_not_to_be_heard_is_not_to_be_absent():
  """Nothing is started unless all workers have said that nothing runs."""
  play = Play(["ready"], [("", ""), ("absent", ""), UP, OVER], [DONE])
  play.run()
  assert play.done == []
  play = Play(["ready"], [("absent", "")])
  with pytest.raises(GiveUp, match=r"b?.*1 not heard \(no answer\) in 20 looks"):
    play.run()
  assert play.done == []


def test_a_run_under_way_is_watched():
  for looks in ([UP, UP, OVER], [("running", ""), UP, OVER]):
    play = Play(["ready"], looks, [{}, DONE])
    play.run()
    assert play.done == []


def test_a_run_of_another_work_directory_is_left_alone():
  """Neither watched, which would end it where its bucket stays still, nor deleted."""
  for looks in ([("busy with gs://bucket/a",) * 2], [("", "busy with gs://bucket/a")]):
    play = Play(["ready"], looks)
    with pytest.raises(cloud.Foreign, match="toto is busy with gs://bucket/a, which is not --work"):
      play.run()
    assert play.done == []


def test_a_run_that_only_some_workers_have_is_made_whole():
  """The connection was lost at the start of the others."""
  play = Play(["ready"], [*[("running", "absent")] * 6, GONE, OVER], [*[{}] * 5, DONE])
  play.run()
  assert play.done == ["end", *START]


def test_hours_of_silence_end_where_nothing_grows():
  """A laptop that is offline for an hour; then Google is heard and nobody else."""
  away = [Failure("Failed to resolve")] * 40
  play = Play([*away, "ready"], [UP, *[("", "")] * 50, UP, OVER], [*away, {}, DONE])
  play.run()
  assert play.done == []
  with pytest.raises(GiveUp, match="Google did not answer 60 times: Failed to resolve"):
    Play([Failure("Failed to resolve")], [UP]).run()


def test_what_is_finished_is_finished_though_nobody_is_heard():
  """The TPU is lost by then, say: nothing is made or started for it."""
  unheard = Failure("Failed to resolve")
  for listings in ([{}, DONE], [{}, unheard, DONE]):
    play = Play(["ready", "lost", "lost", "none", "ready"], [GONE, UP, ("", ""), GONE], listings)
    play.run()
    assert play.done == START and play.polls < 5
  play = Play(["ready", "lost", "lost", "none"], [("", "")], [DONE])
  play.run()  # of which another call has made an end
  assert play.done == []
  # Control: workers that still run are waited for.
  play = Play(["ready"], [UP, UP, UP, OVER], [DONE])
  play.run()
  assert play.done == [] and play.polls == 3


def test_a_refusal_ends_it_at_once():
  with pytest.raises(GiveUp, match="PERMISSION_DENIED"):
    Play([GiveUp("PERMISSION_DENIED")], [UP]).run()


def test_workers_that_go_on_alone_are_ended():
  """The main process of one is gone, and the other hangs all the same."""
  play = Play(["ready"], [GONE, UP, *[("137", "running")] * 5, OVER, OVER], [*[{}] * 6, DONE])
  play.run()
  assert play.done == [*START, "end", *START]


def test_a_run_that_hangs_is_ended_and_started():
  lease = [{"metrics.jsonl": 7, "lease": i} for i in range(11)]
  play = Play(["ready"], [UP, *[UP] * 11, GONE, OVER], [*lease, DONE])
  play.run(stall=10)
  assert play.done == ["end", *START]
  # And where one of its workers is not heard.
  play = Play(["ready"], [*[("running", "")] * 12, GONE, OVER], [*lease, DONE])
  play.run(stall=10)
  assert play.done == ["end", *START]
  # Control: one that writes goes on.
  rows = [{"metrics.jsonl": i} for i in range(11)]
  play = Play(["ready"], [UP, *[UP] * 11, OVER], [*rows, DONE])
  play.run(stall=10)
  assert play.done == []


def test_what_a_person_stopped_is_left_alone():
  with pytest.raises(GiveUp, match="somebody stopped it"):
    Play(["stopped"], [GONE]).run()
  play = Play(["ready"], [GONE, UP, ("stopped", "stopped")])
  with pytest.raises(GiveUp, match="was stopped"):
    play.run()
  assert play.done == START
  # While it is watched, also where there were too many failures before.
  play = Play([*["ready"] * 3, "stopped"], [*[GONE, ("75", "75")] * 2, GONE, ("", "")])
  with pytest.raises(cloud.Foreign):
    play.run()
  assert "delete" not in play.done


@pytest.mark.parametrize(
  "message, had, ends",
  [
    (google_cloud.CAPACITY, False, False),
    (google_cloud.QUOTA.format(16), False, True),
    # The TPU that was just lost uses it up for a while.
    (google_cloud.QUOTA.format(16), True, False),
    (google_cloud.QUOTA.format(0), True, True),
    ("billing is not enabled", True, True),
    ("PERMISSION_DENIED: service account", True, True),
    ("something else", False, False),
  ],
)
@pytest.mark.parametrize("queued", [True, False])
def test_refusals_end_it_or_wait(message, had, ends, queued):
  failed = State("failed", message)
  play = Play([failed, "none", "ready"] if queued else ["none", "ready"], [GONE, OVER], [DONE])
  if not queued:
    kind = GiveUp if cloud.meaning(message) == "refused" else Failure
    play.states.insert(0, "none")
    play.failures["create"] = [kind(message)]
  if ends:
    with pytest.raises(GiveUp, match=re.escape(message)):
      play.run(had=had)
  else:
    play.run(had=had)
    assert play.polls >= 1 and play.done[-1] == "start"
  if queued:
    assert play.done[0] == "delete"  # it would use up quota


@pytest.mark.parametrize(
  "states, known, ends",
  [
    (["lost", "none", "none", "ready"], (), False),  # the one that is gone uses it up
    (["none", "none", "ready"], step(4), False),  # as one did before this call
    (["none", "none", "ready"], (), True),
    (["none", State("failed", google_cloud.QUOTA.format(16)), "none", "ready"], (), True),
  ],
)
def test_a_quota_that_sufficed_before_this_call_is_asked_for_again(states, known, ends):
  play = Play(states, [GONE, OVER], [DONE])
  if isinstance(states[1], str):
    play.failures["create"] = [Failure(google_cloud.QUOTA.format(16))]
  with pytest.raises(GiveUp, match="Quota limit") if ends else contextlib.nullcontext():
    play.run(known=known)
  assert ends or play.done[-3:] == ["create", *START]


def test_a_name_that_is_taken_is_not_asked_for_without_an_end():
  play = Play(["none"], [GONE])
  play.failures["create"] = [Failure("ALREADY_EXISTS: Resource 'x' already exists")] * 100
  with pytest.raises(GiveUp, match="3 failures in a row .*'x' already exists"):
    play.run()
  assert play.done == ["create"] * 3 and play.polls == 3
  # Control: what was made though the call broke off is there at the next look.
  play = Play(["none", "none", "ready"], [GONE, OVER], [DONE])
  play.failures["create"] = [Failure("ALREADY_EXISTS: Resource 'x' already exists")]
  play.run()
  assert play.done == ["create", "create", *START]


def test_no_capacity_is_waited_for_without_an_end():
  play = Play([*["none"] * 21, "ready"], [GONE, OVER], [DONE])
  play.failures["create"] = [Failure(google_cloud.CAPACITY)] * 20
  play.run()
  assert play.done == ["create"] * 21 + START
  assert 200 < play.polls < 300  # at last a quarter of an hour between two


def test_statuses_that_are_the_runs_own():
  from totojax import rundir

  assert watch.RESTART == rundir.RESTART
  own = [word for word in ("0", "1", "2", "75", "137", "143", "running") if watch.own_failure(word)]
  assert own == ["1", "2"]


# --- What is asked of it -----------------------------------------------------


def script(*words, env=None):
  return subprocess.run(
    [shutil.which("bash"), SCRIPT, *words], capture_output=True, text=True, timeout=60, env=env
  )


def test_a_dry_run_prints_everything_runs_nothing_and_says_so(tmp_path):
  env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
  more = ["--create-flag", "--internal-ips", "--create-flag=--labels=a=b"]
  more.append("--ssh-flag=--internal-ip")
  out = script(
    *RUN, "--spot", "--project", "p", *more, "--dry-run", "--", "--config.optim.lr=1e-4", env=env
  )
  assert out.returncode == 0, out.stderr
  assert out.stderr.splitlines()[-1] == "tpu_vm: this was a dry run: nothing was done"
  lines = out.stdout.splitlines()
  assert all(line.startswith("+ ") for line in lines)
  order = [
    next(i for i, line in enumerate(lines) if words in line)
    for words in (
      "--config.run=plan",
      "queued-resources create toto",
      "worker.sh look",
      "storage cp",
      "worker.sh install",
      "worker.sh start",
      "sleep 60",
      "storage ls --long --etag 'gs://bucket/toto/**'",
    )
  ]
  assert order[:-1] == sorted(order[:-1])
  assert "--config.plan.topology=v5e:2x4" in lines[order[0]]
  create, start = shlex.split(lines[order[1]]), lines[order[5]]
  for word in (
    "--node-id=toto",
    "--spot",
    "--accelerator-type=v5litepod-8",
    "--zone=us-west4-a",
    "--project=p",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--internal-ips",
    "--labels=a=b",
  ):
    assert word in create
  for words in (
    "--worker=all",
    "--internal-ip ",
    "--ssh-flag=-oConnectTimeout=15",
    "--ssh-flag=-oServerAliveInterval=15",
    "--multihost --config=configs/1b.py --workdir=gs://bucket/toto --config.optim.lr=1e-4",
  ):
    assert words in start
  assert not list(tmp_path.iterdir())


@pytest.fixture
def packed(monkeypatch):
  """A project that is packed fast."""
  monkeypatch.setattr(project, "pack", lambda path: str(pathlib.Path(path).write_text("project")))


@pytest.fixture
def dry(capsys, packed):
  """What a dry run prints, without a process of its own."""

  def lines(*words):
    assert tpu_vm.main([words[0], "--dry-run", *words[1:]]) == 0
    return capsys.readouterr().out.splitlines()

  return lines


def test_several_slices_have_replicas_between_them(dry):
  lines = dry(*RUN, "--node-count", "2")
  assert any("--node-count=2" in line and "--node-id" not in line for line in lines)
  (plan,) = (line for line in lines if "--config.run=plan" in line)
  assert "--config.plan.slices=2" in plan and "((2, 8, 1), (4, 4, 1), (8, 2, 1))" in plan
  starts = [line for line in lines if "worker.sh start" in line]
  assert [("ssh toto-0" in line, "ssh toto-1" in line) for line in starts] == [
    (True, False),
    (False, True),
  ]
  assert all("--config.mesh.data=2" in line for line in starts)
  # Whoever names a mesh has it.
  text = "\n".join(dry(*RUN, "--node-count", "2", "--", "--config.mesh.data=4"))
  assert "mesh.data=4" in text and "mesh.data=2" not in text and "plan.search" not in text


def test_other_commands_dry(dry):
  out = "\n".join(dry("create", *TPU, "--type", "v4-8", "--direct"))
  assert "tpu-vm create toto --version=tpu-ubuntu2204-base --accelerator-type=v4-8" in out
  assert "queued-resources delete toto --force" in "\n".join(dry("delete", *TPU))
  (line,) = dry("logs", *TPU, "--worker", "3")
  assert "--worker=3" in line and "tail -n 100 -F totojax.log" in line
  (line,) = dry("logs", *TPU, "--ssh-flag=--tunnel-through-iap")
  assert "gcloud alpha compute tpus tpu-vm ssh" in line
  # Workers of several slices are counted through.
  *_, line = dry("logs", *TPU, "--node-count", "2", "--worker", "1")
  assert "ssh toto-1 " in line and "--worker=0" in line
  with pytest.raises(GiveUp, match="--worker is 2; there are 2, counted from 0"):
    session("logs", *TPU, "--node-count", "2", "--worker", "2", "--dry-run").logs()


@pytest.mark.parametrize(
  "args, words",
  [
    (["run", *TPU], "run needs --type --config --workdir"),
    (["create", "--type", "v4-8"], "create needs --name --zone"),
    ([*RUN, "--workdir", "/data"], "--workdir is /data; it must be gs://"),
    ([*RUN, "--workdir", "gs://bucket"], "it must be gs://BUCKET/FOLDER"),
    ([*RUN, "--workdir", "gs://bucket/run[1]"], "gcloud takes none of *?#[]{} for a name"),
    (["fly", *TPU], "fly is not a command"),
    ([*RUN, "again"], "unrecognized arguments: again"),
    ([*RUN, "--config.optim.lr=1"], "unrecognized arguments: --config.optim.lr=1"),
    ([*RUN, "--poll"], "--poll: expected one argument"),
    ([*RUN, "--poll", "often"], "--poll: invalid float value"),
    ([*RUN, "--tries", "0"], "--tries is 0; it is at least 1"),
    ([*RUN, "--poll", "-1"], "--poll is -1; it is at least 0"),
    ([*RUN, "--poll", "nan"], "--poll is nan; it is at least 0"),
    ([*RUN, "--stall", "-1"], "--stall is -1; it is at least 0"),
    ([*RUN, "--node-count", "0"], "--node-count is 0; it is at least 1"),
    (["logs", *TPU, "--worker", "-1"], "--worker is -1; it is at least 0"),
    ([*RUN, "--create-flag"], "--create-flag: expected one argument"),
    ([*RUN, "--nam", "x"], "unrecognized arguments: --nam x"),
    ([*RUN, "--type", "v5e-8"], "no runtime is known for --type v5e-8, but for v2, v3, v4, v5li"),
    ([*RUN, "--type", "v5litepod"], "it is GENERATION-NUMBER"),
    ([*RUN, "--type", "x9-8"], "no runtime is known"),
    ([*RUN, "--type", "tpu7x-128"], "has no TPU VMs"),
    ([*RUN, "--config", ".ci/run"], ".ci goes to no worker: move it to configs"),
    ([*RUN, "--config", "configs/gone.py"], "must be a file below"),
    ([*RUN, "--node-count", "2", "--direct"], "leave --direct out"),
    (["copy", "--source", str(LAUNCH), "--workdir", "gs://b/c"], "no store"),
  ],
)
def test_mistakes_are_one_line(args, words, capsys):
  assert tpu_vm.main([*args, "--dry-run"]) == 1
  out = capsys.readouterr()
  (line,) = out.err.splitlines()
  assert line.startswith("tpu_vm: ") and words in line and not out.out


def test_help_and_what_is_missing(tmp_path):
  out = script("--help")
  assert out.returncode == 0 and "--delete-when-done" in out.stdout
  assert script().returncode == 2
  # By a link to a link, the second relative.
  (tmp_path / "one").symlink_to(SCRIPT)
  (tmp_path / "two").symlink_to("one")
  linked = subprocess.run([tmp_path / "two", "--help"], capture_output=True, text=True)
  assert linked.stdout == out.stdout
  for tool in ("bash", "dirname", "python3", "readlink"):
    (tmp_path / tool).symlink_to(shutil.which(tool))
  env = {"PATH": str(tmp_path)}
  assert "gcloud is not installed" in script(*RUN, env=env).stderr
  (tmp_path / "python3").unlink()
  assert "no Python of 3.9 or newer" in script(*RUN, env=env).stderr


def test_it_needs_python_39_alone():
  for path in LAUNCH.glob("*.py"):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    for item in ast.walk(tree):
      names = [a.name for a in item.names] if isinstance(item, ast.Import) else []
      names += [item.module] if isinstance(item, ast.ImportFrom) else []
      for name in names:
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or (LAUNCH / f"{top}.py").exists(), name


def zones(text):
  """Generation -> zones that have it, by the table of docs/tpu.md."""
  rows = re.findall(r"^\| `(\w+)-N` \|.*\| (`[a-z].*?) \|$", text, re.M)
  return {kind: set(re.findall(r"`([\w-]+)`", names)) for kind, names in rows}


def examples(text):
  text = text.replace("\\\n", " ")
  return re.findall(r"--zone[ =]([a-z]+-[\w-]+) --type[ =](\w+)-\d+", text)


def test_examples_name_zones_that_have_the_type():
  table = zones((runs.ROOT / "docs" / "tpu.md").read_text())
  assert table["v4"] == {"us-central2-b"} and set(table) == set(prepare._FAMILIES)
  for zone, kinds in google_cloud.TYPES.items():
    assert all(zone in table[kind] for kind in kinds)
  found = []
  for path in ("README.md", "docs/tpu.md", "docs/data.md", "launch/tpu_vm.py"):
    found += examples((runs.ROOT / path).read_text())
  assert len(found) >= 3
  for zone, kind in found:
    assert zone in table[kind], (zone, kind)
  # Control: v5e is not where v4 is.
  assert examples("--zone us-central2-b --type v5litepod-256") == [("us-central2-b", "v5litepod")]
  assert "us-central2-b" not in table["v5litepod"]


def test_the_project_is_packed_without_what_no_worker_needs(tmp_path):
  project.pack(str(tmp_path / "a"))
  out = subprocess.run(["tar", "-tzf", tmp_path / "a"], capture_output=True, text=True, check=True)
  names = set(out.stdout.splitlines())
  assert {"./setup.py", "./configs/1b.py", "./launch/worker.sh", "./totojax/main.py"} <= names
  assert not [name for name in names if "/.git" in name or "__pycache__" in name]


def test_a_packed_project_is_the_same_and_has_no_data(tmp_path, monkeypatch):
  clone = tmp_path / "a clone"
  for name in ("setup.py", "venv/pyvenv.cfg", "venv/lib/x.py", "runs/1/log", "a/__pycache__/x.pyc"):
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text(name)
  monkeypatch.setattr(project, "ROOT", clone)
  digests = {project.pack(str(tmp_path / name)) for name in ("a", "b")}
  assert len(digests) == 1
  with tarfile.open(tmp_path / "a") as archive:
    assert set(archive.getnames()) == {".", "./setup.py", "./a"}
  monkeypatch.setattr(project, "LARGEST", 1000.0)
  (clone / "a" / "tokens").write_bytes(bytes(1001))
  with pytest.raises(GiveUp, match="a clone holds more than 0.001 MB, as ./a/tokens; keep data"):
    project.pack(str(tmp_path / "c"))


def test_copying_stores_says_bytes_and_hours_first(tmp_path, capsys):
  stores.write(tmp_path / "store", records=8, seed=0, prefix="t")
  files = [path for path in tmp_path.rglob("*") if path.is_file()]
  size = sum(path.stat().st_size for path in files)
  words = ["copy", "--source", str(tmp_path), "--workdir", "gs://b/tokens", "--mbit", "1"]
  assert tpu_vm.main([*words, "--dry-run"]) == 0
  out = capsys.readouterr()
  assert f"1 stores, {len(files)} files" in out.err
  assert f"{size / 1e9:.3g} GB: {size * 8 / 1e6 / 3600:.3g} hours at 1 Mbit/s" in out.err
  assert f"storage rsync --recursive {tmp_path} gs://b/tokens" in out.out


def test_a_long_copy_shows_how_far_it_is(no_gcloud, tmp_path, capfd):
  """gcloud writes to the terminal, for days if need be, and its end is told."""
  stores.write(tmp_path / "store", records=8, seed=0, prefix="t")
  words = ["copy", "--source", str(tmp_path), "--workdir", "gs://b/tokens"]
  (no_gcloud / "gcloud").write_text("#!/bin/sh\necho 'Copying: 7%' >&2\n")
  assert tpu_vm.main(words) == 0
  assert capfd.readouterr().err.splitlines()[-1] == "Copying: 7%"
  (no_gcloud / "gcloud").write_text("#!/bin/sh\nexit 3\n")
  assert tpu_vm.main(words) == 1
  assert "gcloud rsync ended with 3, see above; the same" in capfd.readouterr().err


def test_shellcheck():
  shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable)) or shutil.which(
    "shellcheck"
  )
  if shellcheck is None:
    pytest.skip("shellcheck is not there (extra 'lint')")
  scripts = sorted(LAUNCH.glob("*.sh"))
  out = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
  assert len(scripts) == 9 and out.returncode == 0, out.stdout


def session(*words):
  return tpu_vm.Session(tpu_vm.parse([*words]))


@pytest.fixture
def no_gcloud(tmp_path, monkeypatch):
  """A gcloud that fails; the folder that temporary files are in."""
  (tmp_path / "bin").mkdir()
  program = tmp_path / "bin" / "gcloud"
  program.write_text("#!/bin/sh\necho 'ERROR: INTERNAL' >&2\nexit 1\n")
  program.chmod(0o755)
  monkeypatch.setenv("PATH", str(program.parent), prepend=":")
  monkeypatch.setattr(cloud, "prepare_key", lambda: None)  # in the user's home
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "bin"))
  return program.parent


def test_a_copy_that_fails_leaves_nothing(no_gcloud, packed):
  with pytest.raises(Failure, match="INTERNAL"):
    session(*RUN).archive()
  assert [path.name for path in no_gcloud.iterdir()] == ["gcloud"]


@pytest.mark.parametrize(
  "more, ends, calls, told",
  [
    ([], None, [], True),
    ([], GiveUp("the run has failed"), [], True),
    (["--delete-when-done"], None, ["delete"], False),
    (["--delete-when-done"], GiveUp("the run has failed"), ["delete"], False),
    (["--delete-when-done"], OSError("No space left"), ["delete"], False),
    (["--delete-when-done"], cloud.Foreign("by a person"), [], False),
  ],
)
def test_the_tpu_is_deleted_however_it_ended_or_kept(
  no_gcloud, monkeypatch, capsys, more, ends, calls, told
):
  done = []
  monkeypatch.setattr(cloud.Tpu, "delete", lambda self: done.append("delete"))
  there = lambda self, supposed="ready": State("none" if done else "ready", "as it is")
  monkeypatch.setattr(cloud.Tpu, "state", there)
  monkeypatch.setattr(cloud.Bucket, "listing", lambda self, *supposed: {})
  one = session(*RUN, "--no-plan", *more)

  def keep_going():
    if ends:
      raise ends

  one.task.keep_going = keep_going
  with pytest.raises(GiveUp, match="is not finished") if ends else contextlib.nullcontext():
    one.run()
  assert done == calls
  assert ("is kept and costs" in capsys.readouterr().err) == told


_ABSENT = "echo 'ERROR: (gcloud.x) NOT_FOUND: Resource was not found' >&2; exit 1"


@pytest.mark.parametrize(
  "spec, words, told",
  [
    ({"multisliceParams": {"nodeCount": 2}}, [], "--node-count is 1; toto has 2 nodes: give --no"),
    ({"nodeId": "toto"}, ["--node-count", "2"], "--node-count is 2; toto has 1 nodes: give --nod"),
    ({"nodeId": "mine"}, [], "has the node mine, which .*; give --name mine --direct"),
    (
      {"multisliceParams": {"nodeCount": 2, "nodeIdPrefix": "b"}},
      ["--node-count", "2"],
      "node b-0",
    ),
    ({"nodeId": "toto"}, [], ""),
    ({"multisliceParams": {"nodeCount": 2}}, ["--node-count", "2"], ""),
    ({"multisliceParams": {"nodeCount": "2", "nodeIdPrefix": "toto"}}, ["--node-count", "2"], ""),
  ],
)
def test_a_tpu_of_other_nodes_is_not_taken_for_lost(no_gcloud, spec, words, told, capsys):
  """It would be deleted, and made anew with those of the flags."""
  text = json.dumps({"state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [spec]}})
  (no_gcloud / "gcloud").write_text(
    f"#!/bin/sh\ncase \"$3\" in queued-resources) echo '{text}' ;; *) {_ABSENT} ;; esac\n"
  )
  for command in ("create", "delete"):
    one = session(command, *TPU, *TYPE, *words, "--delete-when-done")
    if told:
      with pytest.raises(cloud.Foreign, match=told):
        getattr(one, command)()
    else:
      assert one.tpu.state().word == "gone"  # those nodes are
  assert " delete " not in capsys.readouterr().out


@pytest.mark.parametrize(
  "kind, words, told, status",
  [
    ("tpu-vm", [], "toto is there as a TPU VM: --direct", 1),
    ("queued-resources", ["--direct"], "toto is there as a queued resource: leave --direct out", 1),
    ("nothing", [], "toto was not there", 0),
    ("nothing", ["--direct"], "toto was not there", 0),
  ],
)
def test_nothing_is_deleted_in_silence(no_gcloud, kind, words, told, status, capsys):
  (no_gcloud / "gcloud").write_text(
    f'#!/bin/sh\ncase "$3" in {kind}) echo "{{}}" ;; *) {_ABSENT} ;; esac\n'
  )
  assert tpu_vm.main(["delete", *TPU, *words]) == status
  assert capsys.readouterr().err == f"tpu_vm: {told}\n"


@pytest.mark.parametrize("track, flags", [("", ()), ("alpha.", ("--tunnel-through-iap",))])
def test_whom_google_lets_in_nowhere_is_told_at_once(no_gcloud, track, flags):
  text = f"ERROR: (gcloud.{track}compute.tpus.tpu-vm.ssh) PERMISSION_DENIED: no"
  (no_gcloud / "gcloud").write_text(f"#!/bin/sh\necho '{text}' >&2; exit 1\n")
  with pytest.raises(GiveUp, match="PERMISSION_DENIED"):
    cloud.Tpu(GCLOUD, "toto", "z", ssh_flags=flags).tell("look", (1,), "0")


def test_a_gcloud_that_cannot_be_called_or_says_nothing_may_do_better_later(no_gcloud, monkeypatch):
  (no_gcloud / "gcloud").write_text("#!/bin/sh\n")
  with pytest.raises(Failure, match="gcloud printed no JSON"):
    session("status", *TPU).tpu.state()
  monkeypatch.setenv("PATH", "/nowhere")
  with pytest.raises(Failure, match="gcloud cannot be called: .*No such file"):
    GCLOUD.call("storage", "ls", supposed="")


def test_a_look_that_hangs_is_ended_with_its_children(no_gcloud):
  """And what was heard until then counts; a frozen host never answers."""
  (no_gcloud / "gcloud").write_text(
    "#!/bin/sh\necho totojax a 0\nsleep 60 &\necho $! > $0.pid\nwait\n"
  )
  quick = cloud.Gcloud(False, 1.0)
  begun = time.monotonic()
  answers = cloud.Tpu(quick, "toto", "z").tell("look", (2,), "0")
  assert time.monotonic() - begun < 55
  assert answers == Answers({"a": "0"}, 1, "no answer in 1 s")
  with pytest.raises(Failure, match="no answer in 1 s"):
    quick.call("describe", supposed="")
  for _ in range(400):
    with contextlib.suppress(ProcessLookupError):
      os.kill(int((no_gcloud / "gcloud.pid").read_text()), 0)
      time.sleep(0.05)
      continue
    return
  raise AssertionError("a child is left")


def test_a_log_that_is_cut_within_a_character_is_read(no_gcloud):
  (no_gcloud / "gcloud").write_text("#!/bin/sh\nprintf '\\265P: loss 1\\n'\n")
  assert GCLOUD.call("cat", supposed="") == "\ufffdP: loss 1\n"


LISTING = """         5  2026-11-29T11:12:52Z  gs://bucket/toto/a  b  etag=x/y==
       123  2026-11-29T11:12:53Z  gs://bucket/toto/checkpoints/4/commit_success.txt  etag=CAE=
TOTAL: 2 objects, 128 bytes (128B)
"""


@pytest.mark.parametrize(
  "out, errors, found",
  [
    (
      LISTING,
      "",
      {
        "a  b": "2026-11-29T11:12:52Z etag=x/y==",
        "checkpoints/4/commit_success.txt": "2026-11-29T11:12:53Z etag=CAE=",
      },
    ),
    ("", "ERROR: (gcloud.storage.ls) One or more URLs matched no objects.", {}),
    ("", "ERROR: (gcloud.storage.ls) gs://bucket not found: 404.", GiveUp),
    ("", "ERROR: (gcloud.storage.ls) HTTPError 503: later", Failure),
  ],
)
def test_what_a_bucket_holds(no_gcloud, out, errors, found):
  (no_gcloud / "out").write_text(out)
  line = f"cat {no_gcloud}/out; echo '{errors}' >&2; exit {int(bool(errors))}"
  (no_gcloud / "gcloud").write_text(f"#!/bin/sh\n{line}\n")
  bucket = cloud.Bucket(GCLOUD, "gs://bucket/toto")
  if isinstance(found, dict):
    assert bucket.listing() == found
  else:
    with pytest.raises(found):
      bucket.listing()


_PLAYED = r"""#!/bin/sh
case "$*" in *"$HANGS"*) sleep 60 & echo $! >> "$0.hung"; wait ;; esac
case "$*" in
  *"queued-resources describe"*)
    case "$HANGS" in *create) echo "NOT_FOUND" >&2; exit 1 ;; esac
    echo '{"state": {"state": "ACTIVE"}}' ;;
  *"tpu-vm describe"*) echo '{"state": "READY", "networkEndpoints": [{"ipAddress": "10.0.0.1"}]}' ;;
  *" ssh "*) echo "totojax $5 absent" ;;
esac
"""


@pytest.mark.parametrize(
  "phase, hung, number",
  [
    ("storage ls", 1, signal.SIGINT),
    ("queued-resources describe", 1, signal.SIGHUP),
    ("queued-resources create", 1, signal.SIGINT),
    ("worker.sh look", 2, signal.SIGINT),
    ("storage cp", 1, signal.SIGTERM),
    ("worker.sh install", 2, signal.SIGINT),
  ],
)
def test_ctrl_c_ends_it_at_once_with_all_its_children(no_gcloud, tmp_path, phase, hung, number):
  """Also those that other threads wait for, one for each slice; and SIGTERM."""
  (no_gcloud / "gcloud").write_text(_PLAYED)
  (tmp_path / "tmp").mkdir()
  home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "SSH_AUTH_SOCK": ""}
  env = {**os.environ, **home, "HANGS": phase}
  (tmp_path / ".ssh").mkdir()
  (tmp_path / ".ssh" / "google_compute_engine").touch()
  words = [*RUN, "--node-count", "2", "--no-plan", "--", "--config.mesh.data=2"]
  pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
  # A suite that runs in a shell's background has Ctrl-C switched off.
  heard = "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (1, 2, 15)]"
  command = [sys.executable, "-c", f"{heard}; os.execvp('bash', sys.argv[1:])", "bash", SCRIPT]
  list_hung = lambda: (no_gcloud / "gcloud.hung").read_text().split()
  with subprocess.Popen([*command, *words], env=env, **pipes) as process:
    try:
      children = wait_for(list_hung, hung)
      process.send_signal(number)
      _, errors = process.communicate(timeout=60)
      for child in children:
        wait_for(lambda: [] if pathlib.Path(f"/proc/{child}/exe").exists() else [child], 1)
    finally:
      process.kill()
      with contextlib.suppress(OSError):
        for child in list_hung():
          os.kill(int(child), signal.SIGKILL)
  assert process.returncode == 128 + number
  assert errors.splitlines()[-1].startswith("tpu_vm: interrupted; a TPU that is queued or runs")
  assert not [*(tmp_path / "tmp").iterdir()]


@pytest.mark.parametrize("thread", [False, True])
def test_a_child_that_is_just_started_is_ended_as_well(no_gcloud, monkeypatch, thread):
  """A signal while nobody has its number yet; or another thread hears of it."""
  (no_gcloud / "gcloud").write_text("#!/bin/sh\nexec sleep 60\n")
  started = []

  class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      started.append(self)
      calls.interrupt.number = signal.SIGINT
      if not thread:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # which Python hears of between two of its lines

  monkeypatch.setattr(calls.subprocess, "Popen", Popen)
  monkeypatch.setattr(calls, "interrupt", calls.Interrupt())

  def run():
    with pytest.raises(KeyboardInterrupt):
      GCLOUD.call("storage", "ls", supposed="")
    ended.append(True)

  ended = []
  try:
    if thread:
      other = threading.Thread(target=run)
      other.start()
      other.join(30)
    else:
      monkeypatch.setattr(tpu_vm.Session, "status", lambda self: run())
      before = signal.signal(signal.SIGINT, signal.default_int_handler)
      try:
        assert tpu_vm.main(["status", *TPU]) == 0  # as `run` has heard it
      finally:
        signal.signal(signal.SIGINT, before)
    assert ended and [child.wait(30) for child in started] == [-signal.SIGKILL]
  finally:
    for child in started:
      child.kill()


def test_a_child_that_has_ended_by_itself_is_no_error(no_gcloud, monkeypatch, capsys):
  """What Ctrl-C was to end is gone by then."""

  def communicate(self, timeout=None):
    self.wait()
    raise KeyboardInterrupt

  monkeypatch.setattr(calls.subprocess.Popen, "communicate", communicate)
  assert tpu_vm.main([*RUN]) == 130
  assert capsys.readouterr().err.startswith("tpu_vm: interrupted")


def wait_for(look, length):
  """What it finds, once there are so many; a machine may be busy for a while."""
  end = time.monotonic() + 60
  while time.monotonic() < end:
    with contextlib.suppress(OSError):
      if len(found := look()) == length:
        return found
    time.sleep(0.02)
  raise AssertionError("in vain")


def test_what_needs_a_tpu_makes_none(no_gcloud, monkeypatch):
  """Nothing would say of which type."""
  monkeypatch.setattr(cloud.Tpu, "state", lambda self, supposed="ready": State("lost", "gone"))
  for words in (["install", *TPU, "--workdir", "gs://b/r"], ["stop", *TPU]):
    one = session(*words)
    with pytest.raises(GiveUp, match="toto is not ready: gone"):
      getattr(one, words[0])()


def test_a_finished_run_costs_nothing(no_gcloud, monkeypatch, capsys):
  monkeypatch.setattr(cloud.Bucket, "listing", lambda self, *supposed: {"done.json": "now"})
  session(*RUN).run()
  assert capsys.readouterr().err == "tpu_vm: finished already: gs://bucket/toto\n"


# --- Before a TPU is made ----------------------------------------------------


def planner(monkeypatch, keys, told):
  """A planner that says this; the flags that it is given."""
  given = []

  def totojax(gcloud, *words, quiet=False):
    given.append(words)
    if "--list" in words:
      return keys
    (folder,) = (w.partition("=")[2] for w in words if w.startswith("--workdir="))
    path = pathlib.Path(folder, "plan")
    path.mkdir()
    (path / "plan.json").write_text(json.dumps(told))
    return ""

  monkeypatch.setattr(prepare, "totojax", totojax)
  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: True)
  return given


def test_a_run_that_does_not_fit_makes_no_tpu(monkeypatch):
  told = {"best": None, "error": "needs 20 GiB of a chip's 16 GiB of HBM"}
  given = planner(monkeypatch, "plan.topology = ''", told)
  with pytest.raises(GiveUp, match="does not fit on 1 x v4-8: needs 20 GiB .*--no-plan"):
    prepare.plan(GCLOUD, "configs/1b.py", "v4-8", 1, ["--config.seed=1"])
  assert "--config.seed=1" in given[1] and "--config.plan.topology=v4:2x2x1" in given[1]


@pytest.mark.parametrize("word, asked", [("none", 1), ("ready", 0)])
def test_the_planner_is_asked_before_a_tpu_is_made(no_gcloud, monkeypatch, word, asked):
  calls = []

  def plan(*_):
    calls.append("plan")
    raise GiveUp("it does not fit")

  monkeypatch.setattr(prepare, "plan", plan)
  monkeypatch.setattr(cloud.Tpu, "create", lambda *_: calls.append("create"))
  monkeypatch.setattr(cloud.Tpu, "state", lambda self, supposed="ready": State(word, word))
  monkeypatch.setattr(cloud.Bucket, "listing", lambda self, *supposed: {})
  one = session(*RUN)
  one.task.keep_going = lambda: calls.append("goes on")
  with pytest.raises(GiveUp, match="fit") if asked else contextlib.nullcontext():
    one.run()
  assert calls == (["plan"] if asked else ["goes on"])


def test_the_mesh_of_several_slices_stays_the_runs(no_gcloud, monkeypatch):
  """Checkpoints are of it, and a TPU that is made anew has the same slices."""
  line = '[ ! -e "$0.kept" ] || echo "  9  now  gs://bucket/toto/launch/mesh.json  etag=x"'
  (no_gcloud / "gcloud").write_text(
    f'#!/bin/sh\ncase "$2" in\n  ls) {line} ;;\n  cp) cp "$3" "$0.kept" ;;\n'
    '  cat) cat "$0.kept" ;;\nesac\n'
  )
  monkeypatch.setattr(cloud.Tpu, "state", lambda self, supposed="ready": State("none", ""))
  meshes = [["--config.mesh.data=4"]]
  monkeypatch.setattr(prepare, "plan", lambda *words: [] if words[-1] else meshes.pop())
  words = [*RUN, "--node-count", "2"]
  assert session(*words).mesh() == session(*words).mesh() == ["--config.mesh.data=4"]
  assert not meshes
  # Whoever names a mesh has it, and other slices have another one.
  assert session(*words, "--", "--config.mesh.data=16").mesh() == []
  meshes.append(["--config.mesh.data=8"])
  assert session(*RUN, "--node-count", "4").mesh() == ["--config.mesh.data=8"]


def test_several_slices_have_the_planners_mesh(monkeypatch):
  mesh = {"data": 4, "fsdp": 4, "tensor": 1, "sequence": 1}
  given = planner(monkeypatch, "plan.topology = ''", {"best": 1, "mesh": mesh})
  flags = prepare.plan(GCLOUD, "configs/1b.py", "v5litepod-8", 2, [])
  assert flags == [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
  assert "--config.plan.slices=2" in given[1]
  # Who names one has it, and one slice has the config's.
  assert prepare.plan(GCLOUD, "configs/1b.py", "v5litepod-8", 2, ["--config.mesh.data=2"]) == []
  assert prepare.plan(GCLOUD, "configs/1b.py", "v5litepod-8", 1, []) == []


def test_a_plan_of_tokens_says_hours(monkeypatch, capsys):
  told = {"train": {"chip_hours": 6.0}, "val": {"chip_hours": 2.0}}
  planner(monkeypatch, "plan.probed = 64", told)
  assert prepare.plan(GCLOUD, "configs/tokenize.py", "v5litepod-16", 1, []) == []
  assert "about 0.5 hours of encoding on 1 x v5litepod-16" in capsys.readouterr().err


@pytest.mark.parametrize(
  "keys, kind, told",
  [
    ("run = finetune", "v4-8", "has no plan"),
    ("plan.topology = ''", "v2-8", "no topology of v2-8"),
  ],
)
def test_what_cannot_be_planned_says_so_and_goes_on(monkeypatch, capsys, keys, kind, told):
  planner(monkeypatch, keys, {})
  assert prepare.plan(GCLOUD, "configs/1b.py", kind, 2, []) == ["--config.mesh.data=2"]
  assert told in capsys.readouterr().err
  monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
  assert prepare.plan(GCLOUD, "configs/1b.py", "v4-8", 1, []) == []
  assert "this Python has no jax" in capsys.readouterr().err


@pytest.mark.slow
def test_the_planner_is_asked_for_real(monkeypatch, capfd):
  pytest.importorskip("libtpu")
  monkeypatch.delenv("XLA_FLAGS")  # of the tests' CPU
  words = ["plan", "--type", "v5litepod-4", "--node-count", "2", "--config", "configs/smoke.py"]
  assert tpu_vm.main(words) == 0
  out = capfd.readouterr()
  assert re.search(r"the planner's mesh: --config.mesh.data=\d --config.mesh.fsdp=\d", out.err)
  assert "v5e:2x2" in out.out


# --- A worker ----------------------------------------------------------------


class Machine:
  """A worker's home, in which worker.sh is called as by ssh."""

  def __init__(self, home, run):
    self.home = home
    (home / "totojax" / "launch").mkdir(parents=True)
    shutil.copy(LAUNCH / "worker.sh", home / "totojax" / "launch")
    self.tool("totojax-env/bin/python", run)
    self.tool("tools/hostname", "echo host")
    self.tool("tools/gcloud", "cat > copied")
    self.env = {
      **os.environ,
      "HOME": str(home),
      "PATH": f"{home / 'tools'}:{os.environ['PATH']}",
      "TOTOJAX_TPU_LOCK": str(home / "lockfile"),
    }

  def tool(self, name, text):
    path = self.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)

  def __call__(self, *words):
    words = ["bash", "totojax/launch/worker.sh", *words]
    where = {"cwd": self.home, "env": self.env, "timeout": 60}
    out = subprocess.run(words, capture_output=True, text=True, **where)
    assert out.stdout.startswith("totojax host "), out
    return out.stdout.removeprefix("totojax host ").strip()

  def until(self, done):
    for _ in range(400):
      if done():
        return
      time.sleep(0.02)
    raise AssertionError(self.text("totojax.log"))

  def text(self, name):
    path = self.home / name
    return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path):
  made = []

  def make(run):
    made.append(Machine(tmp_path, run))
    return made[0]

  yield make
  for one in made:
    one("end")


def test_a_run_on_a_worker(machine):
  worker = machine('echo "in $(basename "$PWD"): $*"; [ -e go ] || { touch go; exit 3; }')
  assert worker("look") == "absent"
  assert worker("start", "gs://b/r", "--config=a 'b") == "started"
  worker.until(lambda: worker("look") == "3")
  # From the clone's folder, with its flags as they are; the log outlives it.
  line = "in totojax: -m totojax.main --config=a 'b"
  assert worker.text("totojax.log").splitlines()[1:] == [line]
  worker.until(lambda: line in worker.text("copied"))
  assert worker("start", "gs://b/r", "--config=a 'b") == "started"
  worker.until(lambda: worker("look") == "0")
  assert worker.text("totojax.log").splitlines()[1::2] == [line, line]


def test_no_run_is_started_or_installed_over(machine):
  worker = machine("sleep 60 & wait")
  assert worker("start", "gs://b/r") == "started"
  assert worker("look") == "running"
  number = worker.text("totojax.pid")
  assert worker("start", "gs://b/r") == "running"
  (worker.home / "totojax.new").mkdir()
  assert worker("install") == "running"
  assert (worker.home / "totojax.new").exists() and worker.text("totojax.pid") == number


def test_a_worker_knows_whose_run_it_has(machine):
  worker = machine("sleep 60 & wait")
  assert worker("start", "gs://b/a run") == "started"
  assert worker("look", "gs://b/a run") == worker("look") == "running"
  assert worker("look", "gs://b/other") == "busy with gs://b/a run"
  (worker.home / "totojax.workdir").unlink()  # of a worker.sh that left none
  assert worker("look", "gs://b/other") == "running"
  assert worker("end") == "ended"
  assert worker("look", "gs://b/other") == "absent"


def test_stop_asks_the_main_process_alone(machine):
  """What decodes for it goes on until it has saved."""
  worker = machine(
    "trap 'sleep 0.3; kill -0 $!; echo reader $? >> said; kill -9 $!; exit 0' TERM\n"
    "(trap 'exit 1' TERM; touch up; sleep 60 & wait) &\nwhile true; do sleep 0.05; done"
  )
  assert worker("start", "gs://b/r") == "started"
  worker.until(lambda: (worker.home / "totojax" / "up").exists())
  assert worker("stop") == "running"
  worker.until(lambda: worker("look") != "running")
  assert worker.text("totojax/said") == "reader 0\n"
  assert worker("look") == "stopped"
  # A start forgets it.
  assert worker("start", "gs://b/r") == "started" and worker("look") == "running"


def test_what_is_left_of_a_run_is_ended_before_a_start(machine):
  """A process that outlives its main one, and libtpu's lock of a killed one."""
  worker = machine("sleep 61 & echo $! > child; echo busy > ~/lockfile; sleep 60; true")
  assert worker("start", "gs://b/r") == "started"
  worker.until(lambda: worker.text("totojax/child"))
  child = int(worker.text("totojax/child"))
  os.kill(int(worker.text("totojax.pid")), 9)
  worker.until(lambda: worker("look") == "137")
  os.kill(child, 0)  # it is there
  assert worker.text("lockfile") == "busy\n"
  worker.tool("totojax-env/bin/python", "[ -e ~/lockfile ] || sleep 60; true")
  assert worker("start", "gs://b/r") == "started"
  with pytest.raises(ProcessLookupError):
    os.kill(child, 0)
  time.sleep(0.2)
  assert worker("look") == "running"


def test_a_run_that_cannot_be_ended_is_not_started_again(machine):
  """Such as one that waits for a driver for ever: it holds the TPU."""
  worker = machine("sleep 60 & wait")
  assert worker("start", "gs://b/r") == "started"
  os.kill(int(worker.text("totojax.pid")), 9)
  worker.until(lambda: worker("look") == "137")
  for tool in ("pkill", "sleep"):
    worker.tool(f"tools/{tool}", "exit 0")
  assert worker("start", "gs://b/r") == "failed: the last run cannot be ended"
  for tool in ("pkill", "sleep"):
    (worker.home / "tools" / tool).unlink()
  assert worker("end") == "ended"


def test_numbers_of_before_a_reboot_are_nobodys(machine):
  worker = machine("exit 0")
  with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
    (worker.home / "totojax.session").write_text(f"{other.pid} another-boot\n")
    (worker.home / "totojax.pid").write_text(f"{other.pid}\n")
    assert worker("look") == "absent"
    assert worker("end") == "ended"
    assert other.poll() is None
    # Control: of this boot it would be ended.
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    (worker.home / "totojax.session").write_text(f"{other.pid} {boot}")
    threading.Thread(target=other.wait).start()  # or it would stay, a zombie
    assert worker("end") == "ended"
    assert other.wait(30) == -9


def test_an_installation_that_fails_says_why(machine):
  worker = machine("exit 0")
  shutil.copytree(worker.home / "totojax", worker.home / "totojax.new")
  worker.tool("tools/uv", "echo 'No space left' >&2; exit 1")
  assert worker("install") == "failed: No space left"


def test_an_interrupted_installation_and_the_next_are_one_after_the_other(machine):
  worker = machine("exit 0")
  worker.tool("pack/launch/worker.sh", "echo begin >> said; sleep 0.3; echo end >> said")
  worker.tool("tools/gcloud", "tar -czf totojax.tar.gz -C pack .")
  play = Play(["ready"], [UP])
  play.tell = lambda command, *_, **__: commands.append(command) or Answers({"a": "installed"}, 0)
  commands = []
  task = watch.Run(
    play, play, create=play.create, archive=lambda: "gs://a b", poll_s=0.0, limit=3, stall=9
  )
  task.install(State("ready", "", (1,)))
  calls = [
    subprocess.Popen(["bash", "-c", commands[0]], cwd=worker.home, env=worker.env) for _ in "ab"
  ]
  assert [call.wait(30) for call in calls] == [0, 0]
  assert worker.text("said").split() == ["begin", "end", "begin", "end"]


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent")
def test_an_agent_that_holds_other_keys_gets_gclouds(tmp_path, monkeypatch):
  """Without it gcloud does not even look for its key with several workers."""
  monkeypatch.setenv("HOME", str(tmp_path))
  started = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True)
  found = dict(re.findall(r"(SSH_\w+)=([^;]+);", started.stdout))
  try:
    monkeypatch.setenv("SSH_AUTH_SOCK", found["SSH_AUTH_SOCK"])
    other = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")]
    subprocess.run(other, check=True)
    subprocess.run(["ssh-add", "-q", str(tmp_path / "other")], check=True)
    for _ in range(2):  # once made, then there
      cloud.prepare_key.cache_clear()
      cloud.prepare_key()
      keys = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True).stdout.splitlines()
      own = (tmp_path / ".ssh" / "google_compute_engine.pub").read_text().split()[1]
      assert len(keys) == 2 and sum(own in key for key in keys) == 1
  finally:
    os.kill(int(found["SSH_AGENT_PID"]), 15)
    cloud.prepare_key.cache_clear()


# --- Days of the real gcloud -------------------------------------------------


@pytest.fixture
def google(bucket, tmp_path):
  """Google's side; the work directory of `day` is in a bucket of its own."""
  made = []

  def make(**how):
    made.append(google_cloud.Google(tmp_path, bucket, **how))
    return made[0]

  yield make
  for one in made:
    one.close()


def day(google, command="run", *more, poll="0"):
  """The words of a command, with everything that `run` needs."""
  words = [command, *TPU, *TYPE, "--spot", "--config", "configs/1b.py", "--no-plan"]
  return [*words, "--workdir", google.bucket / "run", "--poll", poll, *more]


@with_gcloud
@pytest.mark.slow
def test_a_queue_that_fails_says_why_and_is_not_left(google):
  """The quota of a new project: Google's reason, and nothing that uses it up."""
  g = google()
  g.plans["create"] = [lambda: g.fail(google_cloud.QUOTA.format(0))]
  out = g(*day(g, "create"))
  assert out.returncode == 1
  assert out.stderr.splitlines()[-1].startswith("tpu_vm: Google makes no TPU: Quota limit 'TPUV5s")
  assert g.queue is None and g.calls["create"] == g.calls["delete"] == 1


@with_gcloud
@pytest.mark.slow
def test_who_attaches_starts_nothing(google):
  """A laptop is closed; the next look hears nobody; then all is well.

  Here the workers have the real gcloud as well, to fetch and to leave logs.
  """
  g = google(real=True)
  g.plays = ["until [ -e go ]; do sleep 0.1; done; exit 0"]

  def finish():
    g.put("done.json", b"{}")
    for worker in g.workers():
      (worker.home / "totojax" / "go").touch()

  g.plans["look"] = [None, finish]
  with g.popen(*day(g, "run", "--", "--config.note=a 'b c")) as first:
    while g.calls["start"] < 2:
      assert first.poll() is None
      time.sleep(0.1)
    first.kill()
  g.refusals = [("/compute/", google_cloud.error(412, "FAILED_PRECONDITION", "not now"))]
  out = g(*day(g, "run", "--delete-when-done"))
  assert out.returncode == 0, out.stderr
  assert "toto is running already" in out.stderr and not g.refusals
  assert g.starts == {"toto-w-0": 1, "toto-w-1": 1} and g.calls["install"] == 2
  assert g.queue is None and not g.nodes
  logs = {name: data for name, data in g.bucket.objects().items() if name.endswith(".log")}
  assert set(logs) == {"run/launch/toto-w-0.log", "run/launch/toto-w-1.log"}
  assert all(b"--multihost" in log and b"--config.note=a 'b c" in log for log in logs.values())


@with_gcloud
@pytest.mark.slow
def test_slices_and_tpus_without_a_queue(google):
  g = google(workers=1)
  g.refusals = [("GET /v2", google_cloud.error(503, "UNAVAILABLE", "later"))]
  out = g(*day(g, "create", "--node-count", "2", "--create-flag=--labels=a=b"))
  assert out.returncode == 0, out.stderr
  assert list(g.nodes) == ["toto-0", "toto-1"]
  assert all(node["spec"]["labels"] == {"a": "b"} for node in g.nodes.values())
  assert all(node["spec"]["spot"] for node in g.nodes.values())
  out = g(*day(g, "status", "--node-count", "2"))
  assert out.stdout.splitlines() == [
    "TPU: ready (node READY)",
    "run: toto-0-w-0, toto-1-w-0: absent",
    "last written: -, last checkpoint: -",
  ]
  out = g("logs", *TPU, "--node-count", "2", "--worker", "1")
  assert out.stdout.splitlines()[1:] == ["toto-1-w-0: tail -n 100 -F totojax.log"]
  g.queue = None
  g.nodes.clear()
  g.refusals = [("POST", google_cloud.error(429, "RESOURCE_EXHAUSTED", google_cloud.CAPACITY))]
  out = g(*day(g, "create", "--direct"))
  assert out.returncode == 0 and "no TPU yet: ERROR" in out.stderr, out.stderr
  assert list(g.nodes) == ["toto"] and g.queue is None
  assert g(*day(g, "delete", "--direct")).returncode == 0 and not g.nodes


@with_gcloud
@pytest.mark.slow
def test_stores_are_copied_and_what_is_there_stays(google, tmp_path):
  g = google()
  folder = tmp_path / "two words"
  stores.write(folder / "train", records=8, seed=0, prefix="t")
  url = g.bucket / "tokens"
  for _ in range(2):
    out = g("copy", "--source", str(folder), "--workdir", url)
    assert out.returncode == 0, out.stderr
  here = {
    p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
  }
  assert {name.removeprefix("tokens/"): b for name, b in g.bucket.objects().items()} == here
  assert len(g.bucket.proxy.lines("POST .*upload.*")) == len(here)


@with_gcloud
@pytest.mark.slow
@pytest.mark.skipif("TOTOJAX_SPOT_RUN" not in os.environ, reason="set TOTOJAX_SPOT_RUN=1")
def test_a_spot_run_of_totojax_ends_by_itself(google, tmp_path, monkeypatch):
  """Three preemptions, a quota that is used up for a while, and a lost worker.

  Two hosts train in a bucket; the TPU is lost before the installation, before
  the start, and while it trains. What is left is the unbroken run's. Half of
  the time is gcloud's, which is asked about a hundred times.
  """
  monkeypatch.setenv("XLA_FLAGS", xla_flags.value(2))
  folder = tmp_path / "stores"
  data = (
    stores.write(folder / "train", records=96, seed=0, prefix="t"),
    stores.write(folder / "val", records=19, seed=1, prefix="v"),
  )
  long = f"--config.train.total_tokens={20 * 128.0}"
  flags = [*runs.smoke(data, "", long)[5:], "--host_timeout_s=10"]
  whole = tmp_path / "whole"
  unbroken = test_hosts.start_hosts(runs.smoke(data, whole, long), 2, 4)
  g = google(totojax=True, lag=1)

  def quota():
    g.preempt()
    text = google_cloud.QUOTA.format(16)
    g.refusals.append(
      ("POST .*/queuedResources", google_cloud.error(429, "RESOURCE_EXHAUSTED", text))
    )

  g.plans["look"] = [g.preempt]
  g.plans["install"] = [quota]
  saved = {4: lambda: g.workers()[1].reboot(), 12: g.preempt}

  def befall():
    for step, action in saved.items():
      while not g.bucket.proxy.lines(f"POST .*checkpoints/{step}/commit_success"):
        if g.over.wait(0.05):
          return
      action()

  threading.Thread(target=befall, daemon=True).start()
  words = day(g, "run", poll="1")
  words[words.index("configs/1b.py")] = "configs/smoke.py"
  out = g(*words, "--delete-when-done", "--", *flags, timeout=1500)
  assert out.returncode == 0, out.stderr
  print(out.stderr)
  story = (
    r"not installed: 2 not heard \(ERROR: .* terminal state .PREEMPTED.",
    r"not started: 2 not heard \(ERROR: .* terminal state .PREEMPTED.",
    r"Quota limit .* Limit: 16 in zone us-west4-a.; try 4 of 5",
    r"left before its end \(toto-w-0: 75; toto-w-1: absent\); try 2 of 5",
    r"node PREEMPTED; try 2 of 5",
    r"finished: gs://",
  )
  assert re.search(".*".join(story), out.stderr, re.DOTALL)
  assert g.calls["create"] == 4 and not g.refusals
  assert g.queue is None and not g.nodes
  assert g.starts == {"toto-w-0": 3, "toto-w-1": 3}
  test_hosts.finish(unbroken)
  (tmp_path / "metrics.jsonl").write_bytes(g.bucket.objects()["run/metrics.jsonl"])
  assert runs.metrics(tmp_path) == runs.metrics(whole)
  assert runs.metrics(whole)[-1]["step"] == 20
