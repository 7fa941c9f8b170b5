"""launch/ beyond TPUs: a real Slurm and a real sshd, dry runs, prices, what is refused.

The daemons are this test's own. Where they are not installed those tests are
skipped, by name.
"""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import calls
import container
import gke
import prices
import project
import pytest
import runs
import slurm
import slurm_here
import ssh
import sshd_here
import stores
import yaml

DOORS = {"slurm": slurm, "ssh": ssh, "container": container, "gke": gke}
STEPS = 400
CONFIG = ["--config", "configs/smoke.py"]
SLURM = ["run", "--nodes", "2", "--gpus", "8", *CONFIG, "--workdir", "/shared/run"]
SSH = ["run", "--hosts", "a,b", *CONFIG, "--workdir", "/shared/run"]
CONTAINER = ["run", *CONFIG, "--workdir", "/data/run"]
GKE = ["run", "--type", "v5litepod-16", "--image", "europe-docker.pkg.dev/p/r/totojax:1"]
GKE += [*CONFIG, "--workdir", "gs://bucket/run"]
EACH = {"slurm": SLURM, "ssh": SSH, "container": CONTAINER, "gke": GKE}


def door(name, *words, env=None):
  """The script, as it is called."""
  script = ["bash", str(runs.ROOT / "launch" / f"{name}.sh"), *words]
  where = {"cwd": runs.ROOT, "env": env, "timeout": 240}
  return subprocess.run(script, capture_output=True, text=True, **where)


@pytest.fixture(name="dry")
def _dry(capsys):
  """What a dry run prints, and says, without a process of its own."""

  def lines(name, *words):
    command, *rest = words
    assert DOORS[name].main([command, "--dry-run", *rest]) == 0
    out = capsys.readouterr()
    assert out.err.splitlines()[-1] == f"{name}: this was a dry run: nothing was done"
    return out.out, out.err

  return lines


# --- What is printed, and what is refused ------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_help_has_every_option_and_a_command_that_is_understood(name):
  text = DOORS[name].__doc__
  example = re.split(r"\n\n(?=  launch)", text)[-1].replace("\\\n", " ")
  words = shlex.split(example)[1:]
  DOORS[name].parse([words[0], "--dry-run", *words[1:]])
  for option in re.findall(r"(?<![\w-])--[a-z-]+(?=[ ,;:.)])", text.split("\nOptions\n")[0]):
    assert re.search(rf"^  {option}\b", text, re.M), option


@pytest.mark.parametrize("name", EACH)
def test_a_dry_run_runs_nothing_and_is_no_mystery(name, dry, monkeypatch, tmp_path):
  monkeypatch.setattr(subprocess, "Popen", None)
  monkeypatch.setattr(subprocess, "run", None)
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setattr(project, "pack", lambda path: pathlib.Path(path).touch())
  out, told = dry(name, *EACH[name], "--price", "2.5", "--", "--config.optim.lr=1e-4")
  commands = [line for line in out.splitlines() if line.startswith("+ ")]
  assert any("--config=configs/smoke.py" in line and "--list" in line for line in commands)
  assert "--config.optim.lr=1e-4" in out
  assert "2.5 an hour (--price)" in told
  assert not [*tmp_path.iterdir()]
  last = {
    "slurm": "+ sbatch ",
    "ssh": "worker.sh look",
    "container": " run ",
    "gke": "kubectl --namespace=default apply",
  }
  assert any(last[name] in line for line in commands)


def test_a_job_asks_slurm_for_what_was_asked(dry):
  out, told = dry("slurm", *SLURM, "--time", "1-12", "--sbatch-flag", "--qos=q", "--price", "2")
  for line in (
    "#SBATCH --requeue",
    "#SBATCH --signal=B:TERM@120",
    "#SBATCH --open-mode=append",
    "#SBATCH --gpus-per-node=8",
    "#SBATCH --ntasks-per-node=1",
    "#SBATCH --time=1-12",
    "#SBATCH --qos=q",
    "export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7",
    "flags=(--config=configs/smoke.py --workdir=/shared/run)",
  ):
    assert line in out.splitlines(), line
  assert "16 x 2 an hour (--price): 32.00 an hour, 1,152.00 in 36 h" in told
  alone = dry("slurm", *SLURM, "--nodes", "1", "--gpus", "1")[0]
  assert "gpus-per-node=1" in alone and "JAX_LOCAL_DEVICE_IDS=0" not in alone


def test_a_job_is_not_submitted_twice_and_anothers_is_left_alone(monkeypatch, capsys):
  rows = {"of": "/shared/run"}
  answer = lambda self, *words, supposed=None: f"7|RUNNING|None|{rows['of']}\n"
  monkeypatch.setattr(slurm.Session, "call", answer)
  assert slurm.main([*SLURM, "--dry-run"]) == 0
  assert "job 7 is running already (None); nothing was submitted" in capsys.readouterr().err
  rows["of"] = "/shared/other/run"
  assert slurm.main([*SLURM, "--dry-run"]) == 1
  assert "job 7 is called run, too, and is of /shared/other/run; give" in capsys.readouterr().err


@pytest.mark.parametrize(
  "limit, hours",
  [
    ("90", 1.5),
    ("30:00", 0.5),
    ("12:00:00", 12),
    ("2-00:00:00", 48),
    ("1-12", 36),
    ("1-1:30", 25.5),
  ],
)
def test_limits_as_slurm_writes_them(limit, hours):
  assert slurm.hours(limit) == pytest.approx(hours)


@pytest.mark.parametrize(
  "name, words, told",
  [
    ("slurm", ["run"], "run needs --config --workdir"),
    ("slurm", ["fly"], "fly is not a command"),
    ("slurm", [*SLURM, "--workdir", "runs/x"], "--workdir is runs/x; it must be a whole path"),
    ("slurm", [*SLURM, "--workdir", "gs://b/r"], "give --folder"),
    ("slurm", [*SLURM, "--nodes", "0"], "--nodes is 0; it is at least 1"),
    ("slurm", [*SLURM, "--time", "soon"], "--time is soon"),
    ("slurm", [*SLURM, "--time", "1"], "is not longer than --grace"),
    ("slurm", [*SLURM, "--python", "python"], "--python is python; it must be a whole path"),
    ("slurm", [*SLURM, "--name", "a b"], "--name is a b"),
    ("slurm", [*SLURM, "--config", "configs/gone.py"], "must be a file below"),
    ("slurm", [*SLURM, "--price", "nan"], "--price is nan"),
    ("ssh", [*SSH, "--hosts", "a,a"], "--hosts has a twice"),
    ("ssh", [*SSH, "--hosts", "a,,b"], "--hosts has ''"),
    ("ssh", [*SSH, "--hosts", "-oProxyCommand=x"], "--hosts"),
    ("ssh", [*SSH, "--env", "x"], "--env is x; it is NAME=VALUE"),
    ("ssh", [*SSH, "--port", "0"], "--port is 0"),
    ("ssh", [*SSH, "--prices", "/gone.json"], "--prices /gone.json cannot be read"),
    ("container", [*CONTAINER, "--engine", "rkt"], "--engine is rkt"),
    ("container", [*CONTAINER, "--workdir", "here"], "--workdir is here"),
    ("gke", [*GKE, "--type", "v5e-8"], "--type is v5e-8"),
    ("gke", [*GKE, "--workdir", "/data/run"], "--workdir is /data/run; it must be gs://"),
    ("gke", [*GKE, "--image", "bad image"], "--image is bad image"),
    ("gke", [*GKE, "--days", "8"], "--days is 8"),
  ],
)
def test_mistakes_are_one_line(name, words, told, capsys):
  assert DOORS[name].main([*words, "--dry-run"]) == 1
  out = capsys.readouterr()
  (line,) = out.err.splitlines()
  assert line.startswith(f"{name}: ") and told in line and not out.out


def test_prices_are_of_a_table_that_the_user_sets(tmp_path):
  assert prices.find("NVIDIA H100", None, None) is None  # nobody has looked it up
  table = tmp_path / "prices.json"
  row = {"per_hour": 2.5, "currency": "EUR", "source": "my contract", "date": "2026-11-01"}
  table.write_text(json.dumps({"NVIDIA H100": row}))
  found = prices.find("NVIDIA H100", None, str(table))
  assert found.bill(16, 3) == (
    "16 x 2.5 EUR an hour (my contract, 2026-11-01): 40.00 EUR an hour, 120.00 EUR in 3 h"
  )
  assert prices.find("NVIDIA H100", 4.0, str(table)).per_hour == 4.0  # the flag wins
  with pytest.raises(calls.GiveUp, match="has 'NVIDIA H100', and not 'A100'"):
    prices.find("A100", None, str(table))
  wrong = ("3", '{"per_hour": "3"}', *(f'{{"per_hour": {x}}}' for x in ("NaN", "-1", "true")))
  for text in ("", "[]", "{", "\xff", *(f'{{"A100": {row}}}' for row in wrong)):
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(calls.GiveUp, match="--prices"):
      prices.find("A100", None, str(table))


def test_the_manifest_asks_for_whole_slices():
  """Its objects name each other, and the numbers of hosts and chips fit."""

  def objects(*more):
    words = ["show", *GKE[1:], "--dry-run", *more]
    text = gke.Session(gke.parse(words)).manifest()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}

  found = objects("--slices", "2", "--days", "3", "--", "--config.seed=3")
  (group,) = found["ClusterQueue"]["spec"]["resourceGroups"]
  assert group["flavors"][0]["resources"] == [{"name": "google.com/tpu", "nominalQuota": 32}]
  assert group["flavors"][0]["name"] == found["ResourceFlavor"]["metadata"]["name"]
  (check,) = found["ClusterQueue"]["spec"]["admissionChecksStrategy"]["admissionChecks"]
  assert check["name"] == found["AdmissionCheck"]["metadata"]["name"]
  config = found["AdmissionCheck"]["spec"]["parameters"]
  assert config["name"] == found[config["kind"]]["metadata"]["name"]
  run = found["JobSet"]
  assert (
    run["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    == (found["LocalQueue"]["metadata"]["name"])
  )
  notes = run["metadata"]["annotations"]
  assert notes["provreq.kueue.x-k8s.io/maxRunDurationSeconds"] == str(3 * 86_400)
  (slices,) = run["spec"]["replicatedJobs"]
  job = slices["template"]["spec"]
  pod = job["template"]["spec"]
  assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, 4, 4)
  (one,) = pod["containers"]
  assert one["resources"]["limits"] == one["resources"]["requests"] == {"google.com/tpu": 4}
  assert one["name"] == job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
  assert 75 not in job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
  assert pod["nodeSelector"] == found["ResourceFlavor"]["spec"]["nodeLabels"]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
  assert one["args"] == [
    "--multihost",
    "--config=configs/smoke.py",
    "--workdir=gs://bucket/run",
    "--config.mesh.data=2",
    "--config.seed=3",
  ]
  (alone,) = objects("--type", "v6e-8")["JobSet"]["spec"]["replicatedJobs"]
  job = alone["template"]["spec"]
  assert job["parallelism"] == 1 and "--multihost" not in str(job)


@pytest.mark.parametrize("done, code, status", [(1, 0, 0), (0, 0, 75), (0, 75, 75), (1, 2, 2)])
def test_a_pod_ends_with_0_once_the_run_is_finished_alone(tmp_path, done, code, status):
  tool = tmp_path / "totojax"
  tool.write_text(f"#!/bin/sh\nexit {code}\n")
  tool.chmod(0o755)
  (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
  (tmp_path / "python").chmod(0o755)
  if done:
    (tmp_path / "done.json").write_text("{}")
  env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(runs.ROOT)}
  call = ["bash", str(runs.ROOT / "launch" / "to_the_end.sh"), f"--workdir={tmp_path}"]
  assert subprocess.run(call, env=env, timeout=60).returncode == status


def play_engine(folder, text):
  """An engine that does this where it is to run something."""
  folder.mkdir()
  engine = folder / "podman"
  engine.write_text(f'#!/bin/sh\n[ "$1" = run ] || exit 0\necho x >> {folder}/runs\n{text}\n')
  engine.chmod(0o755)
  return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
  "text, status, starts, told",
  [
    ("[ -e {w}/again ] && exec touch {w}/done.json; touch {w}/again; exit 75", 0, 2, "finished: "),
    ("exit 2", 1, 1, "it has failed (2)"),
    ("exit 137", 1, 3, "3 failures in a row"),
    ("n=$(wc -l < $0/../runs); [ $n -gt 5 ] && exit 2; mkdir -p {w}/checkpoints/$n; exit 75",
     1, 6, "it has failed (2)"),
    ("exit 0", 0, 1, "stopped"),
  ],
)  # fmt: skip
def test_a_container_is_started_until_the_run_is_finished(tmp_path, text, status, starts, told):
  workdir = tmp_path / "run"
  text = text.replace("{w}", str(workdir)).replace("$0/..", str(tmp_path / "bin"))
  env = play_engine(tmp_path / "bin", text)
  words = ["run", *CONFIG, "--workdir", str(workdir), "--no-plan", "--tries", "3", "--poll", "0"]
  out = door("container", *words, env=env)
  assert out.returncode == status and told in out.stderr.splitlines()[-1], out
  assert (tmp_path / "bin" / "runs").read_text().count("x") == starts
  (build, run, *_) = out.stdout.splitlines()
  assert "--build-arg=EXTRAS=cuda,data" in build and "--device=nvidia.com/gpu=all" in run


# --- A real Slurm ------------------------------------------------------------


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory):
  return stores.pair(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module", name="cluster")
def _cluster(tmp_path_factory):
  if why := slurm_here.missing():
    pytest.skip(why)
  made = slurm_here.Slurm(tmp_path_factory.mktemp("slurm"))
  made.env |= {
    k: v for k, v in runs.environment(1).items() if not k.startswith(("SLURM", "SBATCH"))
  }
  yield made
  made.close()


def smoke(data, steps=STEPS, every=50):
  """Flags of a run that has a checkpoint every so many steps."""
  return [
    "--",
    f"--config.data.train.moving.path={data[0]}",
    f"--config.data.validation.moving={data[1]}",
    f"--config.train.total_tokens={steps * 128.0}",
    f"--config.every.checkpoint_steps={every}",
    "--config.every.eval_steps=10000",
  ]


def reached(workdir, step):
  path = workdir / "metrics.jsonl"
  return path.exists() and f'"step": {step},' in path.read_text()


def trained(workdir):
  """The steps of whose updates there are rows, in their order."""
  return [row["step"] for row in runs.metrics(workdir) if row["kind"] == "train"]


@pytest.mark.slow
def test_a_run_on_slurm_is_preempted_requeued_and_goes_on(cluster, data, tmp_path):
  """Two processes; a job of higher priority takes both nodes, and Slurm brings it back."""
  workdir = tmp_path / "run"
  words = ["run", "--nodes", "2", "--gpus", "0", "--partition", "low", "--no-plan", *CONFIG]
  words += ["--workdir", str(workdir), *smoke(data)]
  out = door("slurm", *words, env=cluster.env)
  assert out.returncode == 0 and "submitted as job" in out.stderr, out
  again = door("slurm", *words, env=cluster.env)
  assert again.returncode == 0 and "already" in again.stderr and "submitted as" not in again.stderr
  log = workdir / "launch" / "run.log"
  try:
    cluster.until(lambda: reached(workdir, 1) or not cluster("squeue", "-h"), 200)
    call = ("sbatch", "-p", "high", "-N2", "-n2", "-o", "/dev/null", "--wrap", "sleep 1")
    cluster(*call, check=True)
    cluster.until(lambda: (workdir / "done.json").exists() or not cluster("squeue", "-h"), 500)
    cluster.until(lambda: not cluster("squeue", "-h"), 60)
  finally:
    print(log.read_text() if log.exists() else "no log")
  text = log.read_text()
  assert "DUE TO PREEMPTION" in text and "stopped at step" in text
  (resumed,) = re.findall(r"resumed at step (\d+) of 400", text)
  assert 1 <= int(resumed) < STEPS
  assert "start 2" in text and "finished:" in text.splitlines()[-1]
  assert trained(workdir) == list(range(1, STEPS + 1))
  assert json.loads((workdir / "manifest.json").read_text())["processes"] == 2
  out = door("slurm", *words, env=cluster.env)
  assert "finished already" in out.stderr


@pytest.mark.slow
def test_a_job_that_fails_by_itself_is_not_requeued_and_75_is(cluster, tmp_path):
  """Whatever the others end with; and 75 as often as --tries says."""
  for status, starts in ((2, 1), (75, 3)):
    workdir = tmp_path / f"of-{status}"
    play = tmp_path / f"python{status}"
    play.write_text(f"#!/bin/sh\n[ $SLURM_PROCID = 1 ] && exit 75\nexit {status}\n")
    play.chmod(0o755)
    words = ["run", "--nodes", "2", "--gpus", "0", "--no-plan", *CONFIG, "--tries", "3"]
    words += ["--python", str(play), "--workdir", str(workdir)]
    assert door("slurm", *words, env=cluster.env).returncode == 0
    cluster.until(lambda: not cluster("squeue", "-h"), 120)
    text = (workdir / "launch" / f"of-{status}.log").read_text()
    assert len(re.findall(r", start \d", text)) == starts, text
    told = "failed (2) without a new checkpoint" if status == 2 else "3 failures in a row"
    assert told in text.splitlines()[-1]


@pytest.mark.slow
def test_what_is_stopped_or_cancelled_stays_so(cluster, tmp_path):
  """A run that leaves at SIGTERM with 0 is not requeued then, and else is."""
  play = tmp_path / "python"
  traps = tmp_path / "traps"
  traps.touch()
  play.write_text(f"#!/bin/sh\ntrap 'exit 0' TERM\necho set >> {traps}\nsleep 60 & wait\n")
  play.chmod(0o755)
  for how in ("stop", "cancel", "limit"):
    workdir = tmp_path / how
    base, set_before = ["--workdir", str(workdir)], traps.read_text().count("set")
    words = ["run", "--gpus", "0", "--no-plan", *CONFIG, "--python", str(play), *base]
    assert door("slurm", *words, env=cluster.env).returncode == 0
    log = workdir / "launch" / f"{how}.log"
    running = lambda: log.exists() and ", start " in log.read_text()
    trapped = lambda starts: traps.read_text().count("set") == set_before + starts
    cluster.until(lambda: running() and trapped(1), 60)
    if how == "stop":
      assert "asked to save" in door("slurm", "stop", *base, env=cluster.env).stderr
    elif how == "cancel":
      cluster("scancel", "-n", how)
    else:  # what --signal sends before the time limit: to the batch shell alone
      cluster("scancel", "--batch", "--signal=TERM", "-n", how)
      cluster.until(lambda: ", start 2" in log.read_text() and trapped(2), 60)
      cluster.until(lambda: "as asked; 0 of 5 failures" in log.read_text(), 60)
      door("slurm", "stop", *base, env=cluster.env)
    cluster.until(lambda: not cluster("squeue", "-h"), 90)
    assert len(re.findall(r", start \d", log.read_text())) == (2 if how == "limit" else 1)
    assert how == "cancel" or "stopped (slurm.sh stop)" in log.read_text()


@pytest.mark.slow
def test_a_coordinator_that_slurm_alone_knows_is_told_with_its_name(cluster, data, tmp_path):
  words = runs.smoke(data, tmp_path / "run", "--multihost", "--start_timeout_s=1")
  call = ["srun", "-N1", "-n1", f"--nodelist={cluster.nodes[1]}", *words]
  done = subprocess.run(
    call, env=cluster.env, cwd=runs.ROOT, capture_output=True, text=True, timeout=120
  )
  assert re.search(
    rf"Slurm's coordinator {cluster.nodes[1]}:\d+ does not resolve here", done.stderr
  )
  assert done.returncode == 75


# --- A real sshd -------------------------------------------------------------


@pytest.fixture(scope="module", name="sshd")
def _sshd(tmp_path_factory):
  if why := sshd_here.missing():
    pytest.skip(why)
  given = runs.environment(1)
  names = ("JAX_PLATFORMS", "XLA_FLAGS", "PYTHONPATH", "JAX_COMPILATION_CACHE_DIR")
  made = sshd_here.Sshd(
    tmp_path_factory.mktemp("sshd"), **{name: given[name] for name in names if name in given}
  )
  yield made
  made.close()


@pytest.mark.slow
def test_a_run_over_ssh_loses_a_process_and_goes_on(sshd, data, tmp_path):
  """It is started again on both hosts, from the checkpoint; then it is done."""
  workdir = tmp_path / "run"
  (port,) = slurm_here.free_ports(1)
  words = ["run", "--hosts", "a,b", *CONFIG, "--workdir", str(workdir), "--no-plan"]
  words += ["--python", sys.executable, "--ssh-flag", f"-F{sshd.config}", "--poll", "0.5"]
  words += ["--coordinator", "127.0.0.1", "--port", str(port), *smoke(data, steps=100, every=20)]
  script = ["bash", str(runs.ROOT / "launch" / "ssh.sh"), *words]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  with subprocess.Popen(script, cwd=runs.ROOT, **pipes) as process:
    try:
      end = time.monotonic() + 400
      kept = workdir / "checkpoints" / "20" / "commit_success.txt"  # the last that is written
      while not (kept.exists() and reached(workdir, 22)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
      (pid,) = sshd.home.glob(".cache/totojax/launch/*/b/totojax.pid")
      os.kill(int(pid.read_text()), signal.SIGKILL)
      told, _ = process.communicate(timeout=400)
    finally:
      process.kill()
      for left in sshd.home.glob(".cache/totojax/launch/*/*/totojax.session"):
        subprocess.run(["pkill", "-KILL", "-s", left.read_text().split()[0]])
      if left := [*sshd.home.glob(".cache/totojax/launch/*/*/totojax.log")]:
        print(*(path.read_text() for path in left), sep="\n---\n")
  assert process.returncode == 0, told
  assert told.count("started; its log: ssh.sh logs") == 2
  assert "b: 137" in told and f"finished: {workdir}" in told.splitlines()[-1]
  log = (workdir / "launch" / "a.log").read_text()
  (resumed,) = re.findall(r"resumed at step (\d+) of 100", log)
  assert 20 <= int(resumed) < 100
  assert trained(workdir) == list(range(1, 101))


@pytest.mark.slow
def test_hosts_that_do_not_answer_are_waited_for_and_strangers_refused(sshd, tmp_path):
  flag = ["--ssh-flag", f"-F{sshd.config}"]
  more = ["--workdir", str(tmp_path / "run"), *flag]
  out = door("ssh", "status", "--hosts", "a,c", *more)
  assert out.returncode == 0 and "not all answer: c: " in out.stdout and "refused" in out.stdout
  assert "a: absent" in out.stdout and "1 not heard" in out.stdout
  out = door("ssh", "status", "--hosts", "a,stranger", *more)
  assert out.returncode == 1
  assert re.search(r"ssh: stranger: .*Permission denied .*; try: ssh ", out.stderr)


@pytest.mark.slow
def test_a_work_directory_that_only_one_host_sees_is_refused(sshd, tmp_path, monkeypatch):
  words = ["run", "--hosts", "a,b", *CONFIG, "--workdir", str(tmp_path / "run"), "--dry-run"]
  one = ssh.Session(ssh.parse([*words, "--ssh-flag", f"-F{sshd.config}"]))
  hosts = one.hosts
  hosts.caller = calls.Caller(False, 60.0)
  ask = type(hosts).ask

  def elsewhere(self, host, command, *rest, **more):
    return ask(
      self, host, command.replace("/run/", "/gone/") if host == "b" else command, *rest, **more
    )

  one.task._check_shared(hosts)  # of a folder that both see
  monkeypatch.setattr(type(hosts), "ask", elsewhere)
  with pytest.raises(calls.GiveUp, match="is not one folder that a writes and b reads .*mount it"):
    one.task._check_shared(hosts)


def test_names_of_files_are_those_that_progress_is_counted_by():
  """A checkpoint's folder counts once it is renamed, and its makings do not."""
  hosts = ssh.Session(ssh.parse([*SSH, "--dry-run"])).task.bucket.hosts
  out = "t 1 checkpoints/40\nt 2 a/.units/3.json\nt 3 done.json\n"
  hosts.ask = lambda *words, **more: out
  found = ssh.hosts_lib.Folder(hosts, "/shared/run").listing()
  assert set(found) == {"checkpoints/40/commit_success.txt", "a/.units/3.json", "done.json"}
