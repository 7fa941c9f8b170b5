"""launch/tpu_vm.sh: what a dry run prints, and runs with a made-up gcloud."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "tpu_vm.sh"
BASH = shutil.which("bash")
TPU = ["--name", "toto", "--zone", "us-central2-b"]
RUN = [
  "run",
  *TPU,
  "--type",
  "v5litepod-256",
  "--config",
  "configs/1b.py",
  "--workdir",
  "gs://bucket/toto-1b",
]


def _script(*args, env=None, **kwargs):
  return subprocess.run(
    [BASH, SCRIPT, *args], capture_output=True, text=True, timeout=60, env=env, **kwargs
  )


class Cloud:
  """A folder that a fake gcloud keeps its state in."""

  def __init__(self, root, scenario):
    self.root = root
    for folder in ("bin", "bucket", "tmp"):
      (root / folder).mkdir()
    program = root / "bin" / "gcloud"
    fake = ROOT / "tests" / "fake_gcloud.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake}" "$@"\n')
    program.chmod(0o755)
    (root / "scenario").write_text(scenario)

    self.env = {
      **os.environ,
      "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
      "FAKE_ROOT": str(root),
      "TMPDIR": str(root / "tmp"),
    }

  def __call__(self, *args):
    return _script(*args, env=self.env)

  @property
  def verbs(self):
    """Verbs of the calls, without those that only look."""
    out = []
    for line in (self.root / "calls").read_text().splitlines():
      words = json.loads(line)
      if words[0] == "storage":
        continue
      command = "".join(w for w in words if w.startswith("--command="))
      if "nohup" in command:
        out.append("start")
      elif "uv venv" in command:
        out.append("install")
      elif "tail" in command:
        out.append("tail")
      elif words[3] not in ("describe", "ssh"):
        out.append(words[3])
    return out

  @property
  def starts(self):
    return (self.root / "starts").read_text().splitlines()


def test_dry_run_prints_everything_and_runs_nothing(tmp_path):
  out = _script(
    *RUN,
    "--spot",
    "--project",
    "p",
    "--dry-run",
    "--",
    "--config.optim.lr=1e-4",
    env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
  )
  assert out.returncode == 0, out.stderr
  lines = out.stdout.splitlines()
  assert all(line.startswith("+ ") for line in lines)
  create = next(line for line in lines if " create " in line)
  for words in (
    "queued-resources create toto",
    "--node-id=toto",
    "--spot",
    "--accelerator-type=v5litepod-256",
    "--zone=us-central2-b",
    "--project=p",
    "--runtime-version=v2-alpha-tpuv5-lite",
  ):
    assert words in create
  order = [
    next(i for i, line in enumerate(lines) if words in line)
    for words in (
      " create ",
      " scp ",
      "uv pip install",
      "totojax.main --multihost",
      "cat totojax.exit",
      "storage ls gs://bucket/toto-1b/done.json",
    )
  ]
  assert order == sorted(order)
  start = lines[order[3]]
  assert "--worker=all" in start and "--config.optim.lr=1e-4" in start
  assert not list(tmp_path.glob("*.tar.gz"))


def test_dry_run_needs_no_gcloud(tmp_path):
  for tool in ("mktemp", "rm", "cat", "grep", "tail", "dirname"):
    (tmp_path / tool).symlink_to(shutil.which(tool))
  env = {"PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
  assert _script(*RUN, "--dry-run", env=env).returncode == 0
  out = _script(*RUN, env=env)
  assert out.returncode == 1 and "gcloud is not installed" in out.stderr


def test_a_run_to_the_end(tmp_path):
  cloud = Cloud(tmp_path, "done")
  out = cloud(*RUN, "--poll", "0", "--", "--config.note=a 'b c")
  assert out.returncode == 0, out.stderr
  assert cloud.verbs == ["create", "scp", "install", "start"]
  assert cloud.starts == [
    "-m totojax.main --multihost --config=totojax/configs/1b.py"
    " --workdir=gs://bucket/toto-1b --config.note=a 'b c"
  ]
  assert "finished" in out.stderr and "delete it with" in out.stderr
  assert not list((tmp_path / "tmp").glob("*.tar.gz"))


def test_a_preempted_tpu_is_made_anew_and_the_run_goes_on(tmp_path):
  cloud = Cloud(tmp_path, "preempt done")
  out = cloud(*RUN, "--spot", "--poll", "0", "--delete-when-done")
  assert out.returncode == 0, out.stderr
  once = ["create", "scp", "install", "start"]
  assert cloud.verbs == [*once, "delete", *once, "delete"]
  assert len(cloud.starts) == 2 and len(set(cloud.starts)) == 1
  assert "preempted" in out.stderr
  assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("scenario", ["leave done", "vanish done"])
def test_an_interrupted_run_goes_on_on_the_same_tpu(tmp_path, scenario):
  cloud = Cloud(tmp_path, scenario)
  out = cloud(*RUN, "--poll", "0")
  assert out.returncode == 0, out.stderr
  assert cloud.verbs.count("create") == 1 and len(cloud.starts) == 2


def test_a_second_call_attaches_to_the_run_under_way(tmp_path):
  cloud = Cloud(tmp_path, "linger")
  with subprocess.Popen(
    [BASH, SCRIPT, *RUN, "--poll", "1"],
    env=cloud.env,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as first:
    while not (tmp_path / "starts").exists():
      assert first.poll() is None
      time.sleep(0.02)
    first.kill()  # the laptop is closed
  out = cloud(*RUN, "--poll", "0")
  assert out.returncode == 0, out.stderr
  assert "toto is running already" in out.stderr
  assert len(cloud.starts) == 1 and cloud.verbs.count("create") == 1


def test_a_failed_run_is_not_repeated(tmp_path):
  cloud = Cloud(tmp_path, "fail")
  out = cloud(*RUN, "--poll", "0")
  assert out.returncode == 1
  assert "the run has failed; toto is kept" in out.stderr
  assert "something is wrong" in out.stdout  # the end of its log
  assert len(cloud.starts) == 1 and "delete" not in cloud.verbs


def test_a_run_that_never_finishes_is_given_up(tmp_path):
  cloud = Cloud(tmp_path, "leave")
  out = cloud(*RUN, "--poll", "0")
  assert out.returncode == 1 and "ended five times" in out.stderr
  assert len(cloud.starts) == 5


def test_create_waits_and_delete_deletes_without_a_queue(tmp_path):
  cloud = Cloud(tmp_path, "done")
  out = cloud("create", *TPU, "--type", "v4-8", "--direct", "--poll", "0")
  assert out.returncode == 0, out.stderr
  assert "tpu-vm create toto --accelerator-type=v4-8" in out.stdout
  assert "--version=tpu-ubuntu2204-base" in out.stdout
  assert "TPU: ready" in cloud("status", *TPU, "--direct").stdout
  assert cloud("delete", *TPU, "--direct").returncode == 0
  assert cloud("status", *TPU, "--direct").stdout == "TPU: none\n"


def test_an_unknown_state_is_an_error_and_creates_nothing(tmp_path):
  cloud = Cloud(tmp_path, "done")
  (tmp_path / "state").write_text("DENIED")
  out = cloud(*RUN, "--poll", "0")
  assert out.returncode == 1
  assert "PERMISSION_DENIED" in out.stderr and "create" not in cloud.verbs


@pytest.mark.parametrize(
  "args, words",
  [
    (["run", *TPU], "run needs --type --config --workdir"),
    (["create", "--type", "v4-8"], "create needs --name --zone"),
    ([*RUN, "--workdir", "/data"], "--workdir is /data; it must be gs://"),
    (["fly", *TPU], "fly is not a command"),
    ([*RUN, "again"], "again is one command too many"),
    ([*RUN, "--config.optim.lr=1"], "flags of totojax go after --"),
    ([*RUN, "--poll"], "--poll needs a value"),
    ([*RUN, "--poll", "often"], "give whole seconds"),
    ([*RUN, "--type", "x9-8", "--dry-run"], "no runtime is known"),
  ],
)
def test_mistakes_are_named(args, words, tmp_path):
  out = Cloud(tmp_path, "done")(*args)
  assert out.returncode != 0 and words in out.stderr
  assert not (tmp_path / "calls").exists()


def test_help():
  out = _script("--help")
  assert out.returncode == 0 and "--delete-when-done" in out.stdout
  assert _script().returncode == 2


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck():
  out = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
  assert out.returncode == 0, out.stdout
