"""A real sshd on loopback: its own keys, port, configuration and home.

Two names of ssh's configuration, a and b, lead to it, and c where nobody listens.
"""

import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import time

import slurm_here


def missing() -> str:
  """Why there can be none; "" where there can."""
  if not all(map(shutil.which, ("ssh", "ssh-keygen"))) or not _sshd():
    return "sshd is not installed (apt-get install openssh-server)"
  return "" if os.geteuid() == 0 else "sshd wants root for a folder of its own"


def _sshd() -> str | None:
  return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


class Sshd:
  """One daemon.

  Attributes:
    config: of ssh, for -F.
    home: of whoever logs in.
  """

  def __init__(self, folder: pathlib.Path, **variables: str):
    self.home, self.config = folder / "home", folder / "ssh_config"
    self.home.mkdir()
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where it separates privileges
    for name in ("host", "user", "stranger"):
      call = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
      subprocess.run(call, check=True)
    self.port, closed = slurm_here.free_ports(2)
    given = " ".join(
      f'"{name}={value}"' for name, value in {**variables, "HOME": self.home}.items()
    )
    (folder / "sshd_config").write_text(
      f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin yes
MaxStartups 100
PidFile none
SetEnv {given}
"""
    )
    (folder / "known").write_text("")
    who = f"User {getpass.getuser()}\nHostName 127.0.0.1\nUserKnownHostsFile {folder}/known\n"
    who += f"StrictHostKeyChecking accept-new\nIdentitiesOnly yes\nIdentityFile {folder}"
    self.config.write_text(
      f"Host a b\nPort {self.port}\n{who}/user\nHost c\nPort {closed}\n{who}/user\n"
      f"Host stranger\nPort {self.port}\n{who}/stranger\n"
    )
    call = [str(_sshd()), "-D", "-e", "-f", str(folder / "sshd_config")]
    with open(folder / "sshd.log", "w") as log:
      self.daemon = subprocess.Popen(call, stdout=log, stderr=log)
    for _ in range(200):
      with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", self.port)):
          return
      time.sleep(0.05)
    self.close()
    raise AssertionError((folder / "sshd.log").read_text())

  def close(self):
    self.daemon.terminate()
    self.daemon.wait(20)
