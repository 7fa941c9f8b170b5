"""What several processes are told at the door, and how they compare themselves."""

import io
import socket
import threading
import types

import jax
from jax._src import distributed
import pytest

from configs import smoke
from totojax import checkpoint, failures, rundir
from totojax.jobs import agreement
from totojax.rundir import coordinators, directory, peers
from totojax.storage import outages

WHO = ("coordinator", "processes", "process")


@pytest.mark.parametrize(
  "given, told",
  [
    ((None, 2, 0), "^--coordinator is missing; give all of"),
    (("h:1", None, None), "^--processes and --process are missing"),
    (("h:1", 2, 2), "^--process is 2 of --processes 2; .* from 0 to 1"),
    (("h:1", 2, -1), "^--process is -1 of"),
    (("h:1", 0, 0), "^--processes is 0; it must be at least 1"),
    (("h", 2, 1), "^--coordinator is 'h'; it must be HOST:PORT"),
    (("h:", 2, 1), "'h:'"),
    ((":1", 2, 1), "':1'"),
    (("h:0", 2, 1), "'h:0'"),
    (("h:65536", 2, 1), "port from 1 to 65535"),
    (("h:²", 2, 1), "HOST:PORT"),
    (("http://h:1", 2, 1), "HOST:PORT"),
    (("::1:1234", 2, 1), r"as 10.0.0.1:1234 or \[fd00::1\]:1234"),
  ],
)
def test_flags_that_describe_no_process_are_refused(given, told):
  with pytest.raises(ValueError, match=told):
    peers.check(True, {k: v for k, v in zip(WHO, given) if v is not None})


@pytest.mark.parametrize("where", ["h:1", "10.0.0.1:65535", "[::1]:1234"])
def test_flags_that_describe_a_process_are_taken(where):
  peers.check(True, dict(coordinator=where, processes=2, process=1, host_timeout_s=1))


def test_several_processes_are_asked_for():
  peers.check(True, {})
  peers.check(False, {})
  for given in ({"coordinator": "h:1"}, {"process": 0}, {"host_timeout_s": 5}):
    with pytest.raises(ValueError, match=f"--{[*given][0]} without --multihost.*run alone"):
      peers.check(False, given)


@pytest.mark.parametrize("name", ["host_timeout_s", "start_timeout_s"])
def test_time_outs_are_positive(name):
  with pytest.raises(ValueError, match=f"--{name} is 0; it must be"):
    peers.check(True, {name: 0})


@pytest.fixture
def joins(monkeypatch):
  """Joining jax's processes is noted and done by nobody."""
  given, ends = {}, []

  def initialize(*where, **timeouts):
    given.update(timeouts, where=where)

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(peers, "_at_abort", lambda last, stderr: ends.append(last()))
  monkeypatch.setattr(coordinators, "look", lambda *args, **more: None)
  monkeypatch.setattr(peers.faulthandler, "disable", lambda: None)
  return given, ends


def test_time_outs_are_those_that_were_given(joins):
  """How soon a host is missed is jax's affair, after as many seconds."""
  given, ends = joins
  peers.join(coordinator="a:1", processes=2, process=0, start_timeout_s=3, host_timeout_s=7)
  assert given == {
    "where": ("a:1", 2, 0),
    "initialization_timeout": 3,
    "heartbeat_timeout_seconds": 7,
  }
  (start, code), (later, same) = ends
  assert code == same == rundir.RESTART
  assert "waited 3 s for the others at a:1" in start
  assert "silent for 7 s" in later


@pytest.mark.parametrize(
  "error, told",
  [
    (ValueError("coordinator_address should be defined."), "--multihost alone is for clusters"),
    (ValueError("Number of processes must be defined."), "give --coordinator=HOST:PORT"),
    (RuntimeError("UNKNOWN: Failed to start RPC server\nmore"), "server\\); check --coordinator"),
  ],
)
def test_what_jax_refuses_is_one_line(joins, monkeypatch, error, told):
  def fail(*args, **more):
    raise error

  monkeypatch.setattr(jax.distributed, "initialize", fail)
  with pytest.raises(ValueError, match=told) as caught:
    peers.join(**dict.fromkeys(WHO), start_timeout_s=1, host_timeout_s=1)
  assert failures.status(caught.value) == rundir.USER
  assert len(failures.line(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
  "words, told, code",
  [
    ("DEADLINE_EXCEEDED", "not all processes arrived: process 1 of 2", rundir.RESTART),
    ("absl::Status: ALREADY_EXISTS: newer", "calls itself process 1 of 2", rundir.USER),
    ("Unexpected task registered with task=1", "knows no process 1 of 2", rundir.USER),
  ],
)
def test_what_jax_dies_of_is_one_line(words, told, code):
  file = io.BytesIO(f"F1129 client.h:80] {words}\n  @ 0x7f stack\n".encode())
  line, status = peers._not_arrived("h:1", 2, 1, waited_s=3, told=file)
  assert told in line and "\n" not in line and "stack" not in line
  assert status == code


def test_a_port_that_is_in_use_is_refused(capsys):
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    where = f"127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(ValueError, match="is in use on this machine"):
      coordinators.look(where, first=True, patience_s=0)
    coordinators.look(where, first=False, patience_s=0)  # the others do not need it
  coordinators.look(where, first=True, patience_s=0)
  assert capsys.readouterr().err == ""


def test_a_name_that_leads_elsewhere_is_told(monkeypatch, capsys):
  there = [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 1))]  # of documentation alone
  monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: there)
  monkeypatch.setattr(coordinators, "_check_free", lambda port: None)
  coordinators.look("host:1", first=True, patience_s=0)
  assert "host:1 is no address of this machine" in capsys.readouterr().err


def test_a_name_that_does_not_resolve_is_told_at_once_and_waited_for(monkeypatch, capsys):
  here = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 1))]
  answers = [socket.gaierror(-2, "Name or service not known")] * 2 + [here]
  pauses = []

  def ask(*args, **more):
    answer = answers.pop(0) if len(answers) > 1 else answers[0]
    if isinstance(answer, Exception):
      raise answer
    return answer

  monkeypatch.setattr(socket, "getaddrinfo", ask)
  monkeypatch.setattr(coordinators.time, "sleep", pauses.append)
  coordinators.look("host:1", first=False, patience_s=60)
  assert len(pauses) == 2
  assert capsys.readouterr().err.count("host:1 does not resolve here (Name or") == 1
  answers[:] = [socket.gaierror(-2, "Name or service not known")]
  with pytest.raises(rundir.PeerLost, match="does not resolve") as caught:
    coordinators.look("host:1", first=False, patience_s=0)
  assert failures.status(caught.value) == rundir.RESTART


def test_slurms_coordinator_is_looked_for_as_a_flags_is(monkeypatch):
  assert coordinators.of_slurm() == (None, None)  # control: this is no job
  given = {
    "JOB_ID": "1",
    "STEP_NODELIST": "gpu[07-09],x",
    "NTASKS": "4",
    "PROCID": "3",
    "LOCALID": "0",
  }
  for name, value in given.items():
    monkeypatch.setenv(f"SLURM_{name}", value)
  assert coordinators.of_slurm() == ("gpu07:61441", 3)
  none = socket.gaierror(-2, "Name or service not known")
  monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: (_ for _ in ()).throw(none))
  with pytest.raises(
    rundir.PeerLost, match="Slurm's coordinator gpu07:61441 does not resolve here"
  ):
    peers.join(
      coordinator=None, processes=None, process=None, start_timeout_s=0, host_timeout_s=100
    )


@pytest.mark.parametrize("listens", [False, True])
def test_a_coordinator_that_nobody_answers_at_is_told_with_its_name(monkeypatch, capsys, listens):
  monkeypatch.setattr(peers, "_REACHED_S", 0.0)
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    if listens:
      other.listen()
    where = f"127.0.0.1:{other.getsockname()[1]}"
    asked, unreachable = threading.Event(), coordinators.unreachable
    look = lambda address: (unreachable(address), asked.set())[0]
    monkeypatch.setattr(coordinators, "unreachable", look)
    peers._while_signals_are_heard(where, asked.wait, 60)
  told = f"nobody answers at {where} (Connection refused)"
  assert capsys.readouterr().err.count(told) == (0 if listens else 1)


class Store:
  """The keys of a coordinator, for processes that are threads."""

  def __init__(self, count):
    self._values, self._barrier = {}, threading.Barrier(count)

  def key_value_set(self, key, value):
    self._values[key] = value

  def key_value_dir_get(self, key):
    return [(k, v) for k, v in self._values.items() if k.startswith(key)]

  def blocking_key_value_get(self, key, timeout):
    return self._values[key]

  def wait_at_barrier(self, key, timeout):
    self._barrier.wait(60)


def together(monkeypatch, call, tables):
  """What `call` of each process's table gives, or raises."""
  local, store = threading.local(), Store(len(tables))
  state = type("State", (), {"process_id": property(lambda self: local.process)})()
  state.client, state.num_processes = store, len(tables)
  monkeypatch.setattr(distributed, "global_state", state)
  # Each process counts its own.
  monkeypatch.setattr(peers, "next", lambda turns: 0, raising=False)
  found = {}

  def run(process):
    local.process = process
    try:
      found[process] = call(tables[process])
    except ValueError as error:
      found[process] = error

  threads = [threading.Thread(target=run, args=(i,)) for i in range(len(tables))]
  [thread.start() for thread in threads]
  [thread.join(30) for thread in threads]
  return [found[process] for process in range(len(tables))]


def test_all_processes_find_the_same_differences(monkeypatch):
  same = {"seed": "0", "keep": "2"}
  assert together(monkeypatch, peers.differences, [same] * 3) == [{}] * 3
  tables = [same, same, {"seed": "1", "more": "x", "keep": "2"}]
  expected = {"seed": {0: "0", 2: "1"}, "more": {0: None, 2: "x"}}
  assert together(monkeypatch, peers.differences, tables) == [expected] * 3


def test_the_one_that_differs_is_named_with_its_keys(monkeypatch):
  def agree(table):
    return peers.agree(table, patience_s=1)

  tables = [{f"k{i:02d}": str(i * other) for i in range(12)} for other in (1, 2)]
  errors = {str(error) for error in together(monkeypatch, agree, tables)}
  (line,) = errors  # the same in all
  assert "k01 is 1 on process 0 and 2 on process 1; k02" in line
  assert "and 3 more" in line and "k00" not in line
  tables[1] = {peers.REFUSED: "seed is -1"}
  lines = [str(error) for error in together(monkeypatch, agree, tables)]
  assert lines == ["process 1 was refused what this one was not: seed is -1"] * 2
  assert together(monkeypatch, agree, tables[:1] * 2) == [None, None]


def test_what_decides_numbers_is_compared(tmp_path):
  def table(workdir="a", key="seed", value=0, **given):
    config = smoke.get_config()
    config.data.train.moving.path = config.data.validation.moving = "store"
    config.update_from_flattened_dict({key: value})
    flags = types.SimpleNamespace(**(dict.fromkeys(agreement._FLAGS) | given))
    return agreement._table(directory.typed(config.to_dict()), workdir, flags)

  def changed(**other):
    other = table(**other)
    return {name for name in plain.keys() | other.keys() if plain.get(name) != other.get(name)}

  plain = table()
  assert changed() == set()
  for key, value in {
    "seed": 1,
    "data.train.moving.weight": 2.0,
    "checkpoint.keep": 5,
    "every.checkpoint_steps": 3,
  }.items():
    assert changed(key=key, value=value) == {f"config.{key}"}
  assert changed(workdir="b", processes=4) == {"--workdir", "--processes"}
  assert {"version of jax", "version of pillow", "version of Python"} <= plain.keys()


def test_code_that_differs_has_another_digest(tmp_path):
  (tmp_path / "a.py").write_text("a = 1\n")
  before = agreement._digest(tmp_path)
  assert agreement._digest(tmp_path) == before
  (tmp_path / "a.py").write_text("a = 2\n")
  assert agreement._digest(tmp_path) != before


def test_a_lost_peer_is_told_whatever_was_being_done(monkeypatch):
  gloo = ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc] Connection reset by peer")
  error = checkpoint.CheckpointError(  # it repeats what it came of
    f"runs/a: could not be written ({outages.brief(gloo)}). Free the disk"
  )
  error.__cause__ = gloo
  damaged = checkpoint.Damaged("runs/a is damaged; remove this folder")
  damaged.__cause__ = jax.errors.JaxRuntimeError("UNAVAILABLE: Task 1 heartbeat timeout")
  away = ValueError("UNAVAILABLE: connection to the store")  # storage's words
  assert peers.loss(error) == ""  # one process
  monkeypatch.setattr(distributed.global_state, "num_processes", 2)
  for one in (error, damaged):
    line = failures.line(one)
    assert line.startswith("totojax: process 0 of 2 lost another one (")
    assert "disk" not in line and "damaged" not in line
    assert failures.status(one) == rundir.RESTART
  assert peers.loss(away) == "" and outages.is_away(away)
  full = checkpoint.CheckpointError("runs/a: could not be written. Free the disk")
  full.__cause__ = OSError(28, "No space left on device")
  assert peers.loss(full) == "" and failures.status(full) == rundir.DISK
