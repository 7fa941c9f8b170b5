"""The address at which processes find each other: is it one, whose is it, does anybody answer?"""

import contextlib
import errno
import os
import socket
import time

from totojax import rundir
from totojax.config.schema import ConfigError
from totojax.rundir import console


def host_and_port(coordinator: str) -> tuple[str, int]:
  """(host, port) of the flag; ConfigError if it is no address."""
  host, _, port = coordinator.rpartition(":")
  name = host.removeprefix("[").removesuffix("]")
  bare = ":" in name and name == host  # an address of IPv6 needs its brackets
  number = int(port) if port.isascii() and port.isdecimal() else 0
  if not name or bare or set(name) & set("/ []@") or not 0 < number < 2**16:
    raise ConfigError(
      f"--coordinator is {coordinator!r}; it must be HOST:PORT of process 0, as 10.0.0.1:1234 or"
      " [fd00::1]:1234, with a port from 1 to 65535"
    )
  return name, number


def of_slurm() -> tuple[str | None, int | None]:
  """(host:port of process 0, which process this is) where Slurm tells jax; else Nones.

  Other clusters' coordinators are addresses, or are waited for by jax itself.
  """
  from jax._src import clusters

  with contextlib.suppress(AttributeError, TypeError):  # of another jax: it looks by itself
    for cluster in clusters.ClusterEnv._cluster_types:
      if cluster.name == "slurm" and cluster.is_env_present():
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = cluster.get_coordinator_address(timeout_secs=None, override_coordinator_port=port)
        return address, cluster.get_process_id()
  return None, None


def look(coordinator: str, *, first: bool, patience_s: float, of: str = "--coordinator") -> None:
  """Waits until the coordinator's name resolves; process 0 needs its port free."""
  name, port = host_and_port(coordinator)
  if first:
    _check_free(port)
  end, told = time.monotonic() + patience_s, False
  while True:
    try:
      found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
      break
    except UnicodeError:
      raise ConfigError(f"{of} is {coordinator!r}; its host is no name") from None
    except OSError as error:
      why = f"the host of {of} {coordinator} does not resolve here ({error.strerror})"
    if time.monotonic() >= end:
      raise rundir.PeerLost(
        f"{why}, and was asked for {patience_s:g} s (--start_timeout_s); give the name or the"
        " address of the machine of process 0"
      )
    if not told:
      console.warn(f"{why}; asked again for {patience_s:g} s (--start_timeout_s)")
    told = True
    time.sleep(min(1.0, max(end - time.monotonic(), 0.01)))
  if first and not any(_is_here(family, str(where[0])) for family, *_, where in found):
    console.warn(
      f"--coordinator {coordinator} is no address of this machine, where process 0 listens; the"
      " others find it only if that leads here"
    )


def unreachable(address: str) -> str:
  """Why no connection can be made; "" where one can."""
  try:
    socket.create_connection(host_and_port(address), timeout=3.0).close()
  except OSError as error:
    return error.strerror or str(error)
  return ""


def _check_free(port: int) -> None:
  """Raises ConfigError where nobody can listen on the port."""
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  with socket.socket(family, socket.SOCK_STREAM) as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed is free
    try:
      one.bind(("", port))
    except OSError as error:
      why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
      raise ConfigError(
        f"port {port} of --coordinator {why} on this machine; give every host another one, or end"
        " what has it (a run of before?)"
      ) from error


def _is_here(family: int, address: str) -> bool:
  with socket.socket(family, socket.SOCK_STREAM) as one:
    try:
      one.bind((address, 0))
    except OSError as error:
      return error.errno != errno.EADDRNOTAVAIL
  return True
