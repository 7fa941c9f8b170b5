"""A `gcloud` for tests: records its calls and plays a TPU on this machine.

The one worker is the folder `home`, in which commands given to `ssh` really
run; the bucket is the folder `bucket`. `scenario` says what befalls the runs:
a word for each start, the last for all later ones.

  done     writes done.json and leaves
  linger   the same after two seconds
  leave    leaves well without done.json, as after SIGTERM
  fail     leaves with status 3
  preempt  is under way when the TPU is lost with all its files
  vanish   its process is gone while the TPU stays, as after a reboot
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(os.environ["FAKE_ROOT"])
HOME, BUCKET, STATE = ROOT / "home", ROOT / "bucket", ROOT / "state"

TOTOJAX = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$FAKE_ROOT/starts"
case $(cat "$FAKE_ROOT/now") in
  done) touch "$FAKE_ROOT/bucket/done.json" ;;
  linger) sleep 2; touch "$FAKE_ROOT/bucket/done.json" ;;
  leave) exit 0 ;;
  fail) echo "something is wrong"; exit 3 ;;
  *) sleep 60 ;;
esac
"""


def _scenario():
  words = (ROOT / "scenario").read_text().split()
  starts = ROOT / "starts"
  done = len(starts.read_text().splitlines()) if starts.exists() else 0
  return words[min(done, len(words) - 1)]


def _end_run():
  """Ends the process group that a start left in totojax.pid."""
  deadline = time.monotonic() + 10
  while not (ROOT / "starts").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
  os.killpg(int((HOME / "totojax.pid").read_text()), signal.SIGKILL)


def _run_on_worker(command):
  if "uv venv" in command:  # the installation: nothing is fetched in a test
    assert (HOME / "totojax.tar.gz").exists()
    program = HOME / "totojax-env" / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(TOTOJAX)
    program.chmod(0o755)
    return 0
  if "nohup" in command:
    (ROOT / "now").write_text(_scenario())
  elif "totojax.exit ]" in command and (ROOT / "now").exists():
    now = (ROOT / "now").read_text()
    looks = ROOT / "looks"
    looks.write_text(looks.read_text() + "x" if looks.exists() else "x")
    if now in ("preempt", "vanish") and len(looks.read_text()) > 2:
      _end_run()
      looks.unlink()
      (ROOT / "now").unlink()
      if now == "preempt":
        STATE.write_text("SUSPENDED")
        shutil.rmtree(HOME)
        return 255
  return subprocess.run(["bash", "-c", command], cwd=HOME).returncode


def main(argv):
  with open(ROOT / "calls", "a") as file:
    file.write(json.dumps(argv) + "\n")
  if argv[0] == "storage":
    name = argv[2].rpartition("/")[2]
    return 0 if (BUCKET / name).exists() else 1
  verb = argv[3]
  if verb == "describe":
    if not STATE.exists():
      print("ERROR: NOT_FOUND: no such resource", file=sys.stderr)
      return 1
    if STATE.read_text() == "DENIED":
      print("ERROR: PERMISSION_DENIED", file=sys.stderr)
      return 1
    print(STATE.read_text())
    if STATE.read_text() == "WAITING_FOR_RESOURCES":
      STATE.write_text("READY" if argv[2] == "tpu-vm" else "ACTIVE")
    return 0
  if verb == "create":
    HOME.mkdir()
    STATE.write_text("WAITING_FOR_RESOURCES")
  elif verb == "delete":
    STATE.unlink()
    shutil.rmtree(HOME, ignore_errors=True)
  elif verb == "scp":
    shutil.copy(argv[4], HOME / "totojax.tar.gz")
  elif verb == "ssh":
    command = next(a for a in argv if a.startswith("--command="))
    return _run_on_worker(command.partition("=")[2])
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
