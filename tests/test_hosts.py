"""Real processes over loopback: the same losses, data, checkpoint and resume.

All runs have four devices: what several processes may change is who holds them,
and which part of a batch each reads.
"""

import csv
import json
import os
import shutil
import signal
import socket

import numpy as np
import probes
import pytest
import runs
import stores
import test_generate_job

from totojax import checkpoint, jobs, rundir, sequence
from totojax.data.store import store
from totojax.data.stream import heldout, mixture, rows
from totojax.rundir import hosts, lock

STEPS, DEVICES = 40, 4
LONG = f"--config.train.total_tokens={STEPS * 128.0}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  # Of validation not a multiple of the batch: the last batch is padded.
  return small(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def chain(data, tmp_path_factory):
  """workdir -> the command that trains, validates and probes in it."""
  root = tmp_path_factory.mktemp("labelled")
  train, val = (
    probes.write(root / p, np.arange(n) % 3, prefix=p, seed=n) for p, n in (("t", 48), ("v", 19))
  )
  stages = "--config.stages"
  return lambda workdir: runs.command(
    "tests/several_hosts.py",
    workdir,
    f"{stages}.pretrain.data.train.moving.path={data[0]}",
    f"{stages}.pretrain.data.validation.moving={data[1]}",
    f"{stages}.probe.data.train={train}",
    f"{stages}.probe.data.validation={val}",
  )


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def start_hosts(words: list[str], hosts: int, devices: int) -> list:
  """Processes of one run over loopback, `devices` devices in all."""
  port = free_port()
  return [
    runs.start(
      [
        *words,
        "--multihost",
        f"--coordinator=127.0.0.1:{port}",
        f"--processes={hosts}",
        f"--process={host}",
      ],
      devices // hosts,
    )
    for host in range(hosts)
  ]


def small(folder) -> tuple[str, str]:
  """Stores to train on and to validate with."""
  return (
    stores.write(folder / "train", records=96, seed=0, prefix="t"),
    stores.write(folder / "val", records=19, seed=1, prefix="v"),
  )


def start_ailing(
  words, *, second: str, at: int, timeout_s=100, devices=1, **variables: str
) -> list:
  """Two processes, the second of which ails (`ailing`) at a step."""
  words, port = [words[0], "tests/ailing.py", *words[3:]], free_port()
  several = ["--multihost", f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  several.append(f"--host_timeout_s={timeout_s}")
  return [
    runs.start(
      [*words, *several, f"--process={i}"],
      devices,
      AILS=second if i else "",
      AT=str(at),
      **variables,
    )
    for i in range(2)
  ]


def finish(processes: list) -> list[str]:
  return [runs.finish(process) for process in processes]


@pytest.fixture(scope="module")
def alone(chain, tmp_path_factory):
  """The chain in one process."""
  workdir = tmp_path_factory.mktemp("alone")
  runs.finish(runs.start(chain(workdir), DEVICES))
  return workdir


@pytest.fixture(scope="module")
def two(chain, alone, tmp_path_factory):
  """The chain in two processes."""
  del alone  # before: its compiled programs show what is slow here
  workdir = tmp_path_factory.mktemp("two")
  outputs = finish(start_hosts(chain(workdir), 2, DEVICES))
  # Only the first process speaks.
  assert "[3/3] probe" in outputs[0] and "[3/3]" not in outputs[1]
  return workdir


@pytest.fixture(scope="module")
def four(data, tmp_path_factory):
  """Its first stage in four processes."""
  workdir = tmp_path_factory.mktemp("four")
  finish(start_hosts(runs.smoke(data, workdir, LONG), 4, DEVICES))
  return workdir


def differences(ours: list[dict], theirs: list[dict]) -> dict[str, float]:
  """The largest relative difference of each value of all rows."""
  assert [(r["step"], r["kind"]) for r in ours] == [(r["step"], r["kind"]) for r in theirs]
  found = {}
  for row, other in zip(ours, theirs):
    assert row.keys() == other.keys()
    for name in row.keys() - {"step", "kind"}:
      scale = max(abs(other[name]), 1e-30)
      off = abs(row[name] - other[name]) / scale
      found[name] = max(found.get(name, 0.0), off)
  return found


def assert_close(ours, theirs, rtol):
  off = differences(ours, theirs)
  assert max(off.values()) <= rtol, off


FOUR = pytest.mark.exhaustive("test_hosts.py::test_hosts_train_like_one")  # of two


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=FOUR)])
def test_hosts_train_like_one(alone, number, request):
  """The reductions of XLA and of gloo differ in the order of their sums only.

  So 1e-6, eight units of the last place of a float32, over all 40 updates.
  """
  workdir = request.getfixturevalue({2: "two", 4: "four"}[number])
  workdir = workdir / "pretrain" if number == 2 else workdir
  manifest = json.loads((workdir / "manifest.json").read_text())
  assert manifest["processes"] == number
  assert manifest["devices"]["count"] == DEVICES
  ours, theirs = runs.metrics(workdir), runs.metrics(alone / "pretrain")
  assert_close(ours, theirs, rtol=1e-6)
  assert sum(row["kind"] == "eval" for row in ours) == 6
  # Control: an update earlier is not the same to 1e-6.
  train = [row for row in theirs if row["kind"] == "train"]
  shifted = [{**b, "step": a["step"]} for a, b in zip(train[1:], train)]
  assert differences(train[1:], shifted)["loss"] > 1e-2

  ours, theirs = (runs.checkpoint(w, STEPS) for w in (workdir, alone / "pretrain"))
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    assert ours[name].dtype == value.dtype, name
    size = np.sqrt(np.mean(np.square(value, dtype=np.float64)))
    np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-4 * size, err_msg=name)


@pytest.mark.slow
def test_two_hosts_validate_like_one(two, alone):
  ours, theirs = (json.loads((w / "validate" / "metrics.json").read_text()) for w in (two, alone))
  assert ours.keys() == theirs.keys() and "moving/copy/later_loss" in ours
  assert ours["moving/n"] == 19
  for name, value in theirs.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)
  for file in ("position_loss.csv", "position_loss.png", "frame_loss.csv"):
    assert (two / "validate" / file).stat().st_size > 0, file


@pytest.mark.slow
def test_two_hosts_probe_like_one(two, alone):
  """The global batch is normalised, and every item is scored."""
  ours, theirs = (dict(np.load(w / "probe" / "trained" / "scores.npz")) for w in (two, alone))
  assert theirs["validation/nll"].shape == (3, 1, 19)
  for name, value in theirs.items():
    size = max(np.sqrt(np.mean(np.square(value, dtype=np.float64))), 1e-30)
    off = np.max(np.abs(ours[name] - value)) / size
    assert off < 1e-5, (name, off)
  tables = []
  for workdir in (two, alone):
    with open(workdir / "probe" / "per_layer.csv") as file:
      tables.append(list(csv.DictReader(file)))
  assert len(tables[0]) == len(tables[1]) == 3
  for row, other in zip(*tables):
    assert row["n"] == "19"
    assert (row["layer"], row["top1"]) == (other["layer"], other["top1"])


def at_step(workdir, source, step: int) -> None:
  """A copy of a run as it was after `step`."""
  shutil.copytree(source, workdir, dirs_exist_ok=True)
  (workdir / "done.json").unlink()
  for path in (workdir / "checkpoints").iterdir():
    if path.name.isdigit() and int(path.name) > step:
      shutil.rmtree(path)


@pytest.mark.slow
def test_two_hosts_go_on_with_videos_as_one_does(tmp_path):
  from totojax.config.model import EACH_FRAME

  run, tokenizer = test_generate_job.build(tmp_path, EACH_FRAME)
  words = [
    f"--config.model_run={run}",
    f"--config.tokenizer={tokenizer}",
    f"--config.prompt.store={tmp_path / 'pixels'}",
    "--config.samples=3",
    "--config.rows=4",
    "--config.output.codec=",
  ]
  command = lambda name: runs.command("configs/generate.py", tmp_path / name, *words)
  one = runs.finish(runs.start(command("one"), DEVICES))
  outputs = finish(start_hosts(command("two"), 2, DEVICES))
  assert "nats per visual token" in one and "nats per visual token" in outputs[0]
  for name in ("tokens.npy", "truth.npy", "metrics.csv"):
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
  assert not (tmp_path / "two" / "parts").exists()


@pytest.mark.slow
def test_one_host_resumed_on_two_with_another_mesh(data, alone, tmp_path):
  """fsdp 4 to data 2 x fsdp 2: the same batches, up to rounding."""
  at_step(tmp_path, alone / "pretrain", 36)
  words = runs.smoke(
    data, tmp_path, LONG, "--config.mesh.data=2", "--config.mesh.fsdp=2", "--allow_changed_config"
  )
  outputs = finish(start_hosts(words, 2, DEVICES))
  assert f"resumed at step 36 of {STEPS}" in outputs[0]
  config = json.loads((tmp_path / "config.json").read_text())
  assert (config["mesh"]["data"], config["mesh"]["fsdp"]) == (2, 2)
  expected = runs.metrics(alone / "pretrain")
  assert_close(runs.metrics(tmp_path), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_lost_host_ends_the_other_and_the_run_goes_on(data, alone, tmp_path):
  """One host to 8 steps, two hosts, SIGKILL; two again, SIGTERM; then one."""
  at_step(tmp_path, alone / "pretrain", 36)
  longer = f"--config.train.total_tokens={2 * STEPS * 128.0}"
  # The schedule follows the length: what is compared is the end, below.
  words = runs.smoke(data, tmp_path, longer, "--allow_changed_config")

  def start_and_stop(at, **more):
    """The second stands still at a step, and so the first."""
    first, second = start_ailing(words, second="stop", at=at, devices=DEVICES // 2, **more)
    return first, runs.stopped(second)

  first, second = start_and_stop(50, timeout_s=10)
  kept = checkpoint.latest_step(tmp_path / "checkpoints")
  second.kill()
  runs.finish(second, code=-signal.SIGKILL)
  done = runs.metrics(tmp_path)[-1]["step"]
  output = runs.finish(first, code=rundir.RESTART)
  # It waits in the next exchange: it does not go on without the other.
  assert runs.metrics(tmp_path)[-1]["step"] <= done + 2
  last = output.splitlines()[-1]
  assert last.startswith("totojax: process 0 of 2 lost another one")
  assert "start the same command again" in last
  reached = checkpoint.latest_step(tmp_path / "checkpoints")
  assert 40 <= kept <= reached < 2 * STEPS
  runs.checkpoint(tmp_path, reached)  # whole

  processes = start_and_stop(reached + 10)
  processes[1].send_signal(signal.SIGTERM)
  processes[1].send_signal(signal.SIGCONT)
  outputs = finish(processes)
  assert f"resumed at step {reached} of {2 * STEPS}" in outputs[0]
  stopped = checkpoint.latest_step(tmp_path / "checkpoints")
  assert reached < stopped < 2 * STEPS
  assert f"stopped at step {stopped} of {2 * STEPS}" in outputs[0]

  output = runs.finish(runs.start(words, DEVICES))
  assert f"resumed at step {stopped} of {2 * STEPS}" in output
  whole = tmp_path / "whole"
  at_step(whole, alone / "pretrain", 36)
  runs.finish(runs.start(runs.smoke(data, whole, longer, "--allow_changed_config"), DEVICES))
  ours, theirs = runs.metrics(tmp_path), runs.metrics(whole)
  assert_close(ours[:50], theirs[:50], rtol=1e-6)
  # Rounding grows over updates; the data stays the same to the last step.
  assert abs(ours[-1]["moving/loss"] - theirs[-1]["moving/loss"]) < 1e-2


@pytest.mark.slow
def test_a_host_that_never_comes_is_an_error(data, tmp_path):
  """Whether it is the first or another that waits; here both, on their own."""
  waiting = [
    runs.start(
      [
        *runs.smoke(data, tmp_path / "run"),
        "--start_timeout_s=1",
        "--multihost",
        f"--coordinator=127.0.0.1:{free_port()}",
        "--processes=2",
        f"--process={host}",
      ]
    )
    for host in range(2)
  ]
  for host, process in enumerate(waiting):
    last = runs.finish(process, code=rundir.RESTART).splitlines()[-1]
    assert last.startswith(f"totojax: not all processes arrived: process {host} of 2 waited 1 s")
    assert "--start_timeout_s" in last
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_the_others(data, tmp_path):
  """In Python, where a name is asked for, and in C++, which hears no signal."""
  several = ["--multihost", "--processes=2", "--process=0"]
  for where in ("127.0.0.1", "no.invalid"):
    words = [*runs.smoke(data, tmp_path / "run"), f"--coordinator={where}:{free_port()}"]
    process = runs.start([*words, *several])
    line = "waiting" if where == "127.0.0.1" else "does not resolve"
    while line not in process.stdout.readline():
      assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "stopped while it waited for the other processes" in runs.finish(process)


@pytest.mark.slow
def test_what_the_first_host_is_refused_ends_all_with_its_line(data, place):
  lock.take(place.url)
  processes = start_hosts(runs.smoke(data, place.url), 2, 2)
  last = [runs.finish(process, code=2).splitlines()[-2:] for process in processes]
  assert last[0] == last[1]
  assert last[0][0].startswith(f"totojax: {place.url} is in use by process {os.getpid()} on ")
  lock.release(place.url)


@pytest.mark.slow
def test_hosts_agree_on_a_checkpoint_that_one_of_them_cannot_read(data, tmp_path):
  """Both refuse it, and go on from the one before where the config says so."""
  words = [*runs.smoke(data, tmp_path), "--config.checkpoint.keep=3"]
  finish(start_hosts(words, 2, 2))
  rows, arrays = runs.metrics(tmp_path), runs.checkpoint(tmp_path, 20)
  (tmp_path / "done.json").unlink()
  step = tmp_path / "checkpoints" / "20"
  runs.damage(step, process="1")
  outputs = [runs.finish(p, code=rundir.DAMAGED) for p in start_hosts(words, 2, 2)]
  assert f"{step} cannot be read by process 1, see there; remove this" in outputs[0]
  assert f"{step} cannot be read (" in outputs[1] and "Traceback" not in "".join(outputs)
  assert all("4 updates are made again" in output for output in outputs)
  outputs = finish(start_hosts([*words, "--config.checkpoint.skip_damaged"], 2, 2))
  assert "resumed at step 16 of 20" in outputs[0] and "it is put aside" in outputs[0]
  assert runs.metrics(tmp_path) == rows
  runs.assert_same(runs.checkpoint(tmp_path, 20), arrays)
  assert [path.name[:10] for path in (tmp_path / "checkpoints").glob("*damaged*")] == ["20.damaged"]


@pytest.mark.slow
def test_a_host_that_dies_while_a_checkpoint_is_written_is_told_as_lost(data, tmp_path):
  """And not as a disk that is full: whatever was being done, the cause is the host."""
  words = runs.smoke(data, tmp_path / "run", LONG)
  first, second = start_ailing(words, second="die", at=4, timeout_s=10)
  runs.finish(second, code=-signal.SIGKILL)
  output = runs.finish(first, code=rundir.RESTART)
  last = output.splitlines()[-1]
  assert last.startswith("totojax: process 0 of 2 lost another one")
  assert "disk" not in output and "--traceback" not in output


@pytest.mark.slow
def test_hosts_that_were_started_otherwise_say_in_what(data, tmp_path):
  words, port = runs.smoke(data, tmp_path / "run"), free_port()
  others = ("--config.seed=1", "--config.every.checkpoint_steps=3", f"--workdir={tmp_path}/other")
  several = ["--multihost", f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  # The second one's are alike: their order, a flag that is given again, and dumps.
  flags = runs.environment()["XLA_FLAGS"].split()
  variables = (
    {"XLA_FLAGS": " ".join(flags)},
    {
      "XLA_FLAGS": " ".join([f"--xla_dump_to={tmp_path}/dump", *flags[::-1], flags[0]]),
      "LIBTPU_INIT_ARGS": "--xla_tpu_a=1",
    },
  )
  processes = [
    runs.start(
      [*words, *several, f"--process={host}", *(others if host else ())], **variables[host]
    )
    for host in range(2)
  ]
  for process in processes:
    last = runs.finish(process, code=rundir.USER).splitlines()[-1]
    assert last.startswith("totojax: the hosts were started otherwise (")
    for told in (
      f"--workdir is {tmp_path}/run on process 0 and {tmp_path}/other on process 1",
      "config.every.checkpoint_steps is 4 on process 0 and 3 on process 1",
      "config.seed is 0 on process 0 and 1 on process 1",
      "LIBTPU_INIT_ARGS is '' on process 0 and --xla_tpu_a=1 on process 1",
    ):
      assert told in last
    assert "XLA_FLAGS" not in last
  assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["render", "report", "bench", "shards"])
def test_a_job_for_one_process_refuses_several(monkeypatch, tmp_path, name):
  monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
  with pytest.raises(ValueError, match="without --multihost.*pretrain, probe"):
    jobs.run({"run": name}, tmp_path / "run", lambda step: False)
  assert not (tmp_path / "run").exists()


def opened(monkeypatch, read) -> list[int]:
  """Records that `read` takes out of stores, in order."""
  found, plain = [], store.Store.read

  def recorded(self, records):
    found.extend(int(r) for r in records)
    return plain(self, records)

  with monkeypatch.context() as patch:
    patch.setattr(store.Store, "read", recorded)
    read()
  return found


def test_each_host_opens_its_part_and_no_other(data, monkeypatch):
  """Of every training batch, and of the validation set."""
  spec = sequence.SequenceSpec(vocab=60, grid=2, frames=4, context=16, segments=False)
  train, val = (
    rows.Source(
      name="moving", weight=1.0, store=store.open_store(p, tokenizer=None, vocab=None, grid=None)
    )
    for p in data
  )

  def batches(number, host):
    part = dict(seq=spec, batch=8, host=host, hosts=number)
    ds = mixture.stream([train], seed=0, **part)
    return [opened(monkeypatch, lambda step=step: ds[step]) for step in range(15)], opened(
      monkeypatch, lambda: list(heldout.validation(val, rows=0, **part))
    )

  steps, validated = batches(1, 0)
  assert all(len(set(step)) == 8 for step in steps[:12])
  assert sorted(sum(steps[:12], [])) == list(range(96))  # an epoch
  assert sorted(set(validated)) == list(range(19))
  for number in (2, 4):
    parts = [batches(number, host) for host in range(number)]
    for i, step in enumerate(steps):
      each = [part[0][i] for part in parts]
      assert {len(records) for records in each} == {8 // number}
      assert sum(each, []) == step  # in the order of the hosts
    assert sorted(sum((part[1] for part in parts), [])) == sorted(validated)
    assert all(len(part[1]) < 19 for part in parts)
