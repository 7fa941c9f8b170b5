"""A real Slurm of two nodes on this machine: its own key, ports, folder.

Nothing of it is the system's, so that it starts and ends with a test.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

TOOLS = ("slurmctld", "slurmd", "sbatch", "srun", "munged")


def missing() -> str:
  """Why there can be none; "" where there can."""
  if lacking := [tool for tool in TOOLS if not shutil.which(tool)]:
    return f"{lacking[0]} is not installed (apt-get install slurm-wlm munge)"
  return "" if os.geteuid() == 0 else "Slurm's daemons want root"


def free_ports(count: int) -> list[int]:
  with contextlib.ExitStack() as stack:
    probes = [stack.enter_context(socket.socket()) for _ in range(count)]
    for probe in probes:
      probe.bind(("127.0.0.1", 0))
    return [probe.getsockname()[1] for probe in probes]


class Slurm:
  """Two nodes of one core each, in the partitions low and high.

  Attributes:
    env: for Slurm's commands and what calls them.
  """

  def __init__(self, folder: pathlib.Path):
    host, (ctld, one) = socket.gethostname(), free_ports(2)
    # The first name of the list is jax's coordinator, and resolves; the second does not.
    self.folder, self.nodes = folder, (host, f"{host}x")
    key, munge = folder / "munge.key", folder / "munge"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    self.conf = folder / "slurm.conf"
    node = "CPUs=1 Boards=1 SocketsPerBoard=1 CoresPerSocket=1 ThreadsPerCore=1 RealMemory=1000"
    self.conf.write_text(
      f"""ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={munge}.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
KillWait=20
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
NodeName={",".join(self.nodes)} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{one}-{one + 1}] {node}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10
"""
    )
    self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    self.env["SLURM_CONF"] = str(self.conf)
    files = [f"--{name}-file={munge}.{name}" for name in ("pid", "seed", "log")]
    call = ["munged", "--force", f"--key-file={key}", f"--socket={munge}.socket", *files]
    subprocess.run(call, check=True, capture_output=True)
    (folder / "state").mkdir()
    try:
      # In the foreground: so they are children, which are ended by their numbers.
      self.daemons = [
        self._daemon("slurmctld"),
        *(self._daemon("slurmd", "-N", n) for n in self.nodes),
      ]
      self.until(lambda: self("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", 60)
    except BaseException:
      self.close()
      raise

  def _daemon(self, name, *words):
    log = open(self.folder / f"{name}{'-'.join(words)}.out", "w")
    call = [name, "-D", "-f", str(self.conf), *words]
    with log:
      return subprocess.Popen(call, env=self.env, stdout=log, stderr=log)

  def __call__(self, *words, check=False):
    done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done
    return done.stdout

  def until(self, look, seconds=60.0):
    """What a look sees, once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      if found := look():
        return found
      # What is requeued waits for two minutes, until its credentials have expired.
      for number in self("squeue", "-h", "-t", "PD", "-o", "%i %r").splitlines():
        if number.endswith(" BeginTime"):
          self("scontrol", "update", f"JobId={number.split()[0]}", "StartTime=now")
      time.sleep(0.3)
    raise AssertionError(f"in vain for {seconds} s: {self('squeue')}{self('sinfo')}")

  def close(self):
    self("scancel", "--signal=KILL", "--full", "-u", "root")
    for daemon in getattr(self, "daemons", ()):
      daemon.send_signal(signal.SIGTERM)
    for daemon in getattr(self, "daemons", ()):
      with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(20)
      daemon.kill()
    with contextlib.suppress(OSError, ValueError):
      os.kill(int((self.folder / "munge.pid").read_text()), signal.SIGTERM)
