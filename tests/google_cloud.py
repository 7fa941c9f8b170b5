"""Google Cloud on the loopback for the real gcloud, and machines for its ssh.

The server plays queued resources and nodes with their lags and refusals; a
worker is a folder in which commands really run. Run as a program, this file is
what a worker's PATH and gcloud's have in place of ssh, uv, gcloud and Python.
"""

import collections
import contextlib
import dataclasses
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = "p"
# Where there is what: part of the table of docs/tpu.md.
TYPES = {"us-west4-a": ("v5litepod",), "us-central2-b": ("v4",)}


def error(code, status, message):
  return code, {"error": {"code": code, "status": status, "message": message}}


def absent(name):
  return error(404, "NOT_FOUND", f"Resource '{name}' was not found")


QUOTA = (
  "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded."
  " Limit: {} in zone us-west4-a."
)
CAPACITY = (
  'There is no more capacity in the zone "us-west4-a"; you can try in another zone where Cloud'
  " TPU Nodes are offered (code 8)"
)


@dataclasses.dataclass
class Worker:
  """One machine: its folder."""

  home: pathlib.Path

  @property
  def name(self):
    return self.home.name

  def processes(self):
    """Numbers of the processes that run on it."""
    mark = f"TOTOJAX_WORKER={self.home}".encode()
    for folder in pathlib.Path("/proc").iterdir():
      with contextlib.suppress(OSError):
        if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
          yield int(folder.name)

  def reboot(self):
    """No process is left, and every file."""
    for number in [*self.processes(), *self.processes()]:
      with contextlib.suppress(OSError):
        os.kill(number, signal.SIGKILL)


class Google:
  """The state of the world, and what befalls it.

  Attributes:
    plans: what befalls it after the next calls of a kind, once all workers have
      answered: create, delete, install, start, look, stop, end. None: nothing.
    calls: how many of each kind there were.
    plays: what the run does at each start, in bash; the last one repeats. "done"
      writes done.json.
    refusals: (pattern, answer) for the next request whose line it is found in.
    totojax: whether the workers' Python is a real one; `real`: their gcloud.
  """

  def __init__(self, root, bucket, *, workers=2, lag=2, totojax=False, real=False):
    self.root, self.bucket, self.workers_per_node, self.lag = root, bucket, workers, lag
    self.totojax, self.ports = totojax, {}
    self.queue, self.nodes = None, {}
    self.plans = collections.defaultdict(list)
    self.calls, self.starts = collections.Counter(), collections.Counter()
    self.refusals = []
    self.plays = ["totojax" if totojax else "done"]
    self.lock, self.over = threading.RLock(), threading.Event()
    for folder in ("bin", "tools", "home", "config"):
      (root / folder).mkdir()
    (root / "token").write_text("made-up")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.google, server.daemon_threads = self, True
    self.server = server
    self.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    tools = [("bin", "ssh"), ("tools", "uv"), ("tools", "hostname")]
    for folder, tool in [*tools, *([] if real else [("tools", "gcloud")])]:
      path = root / folder / tool
      here = f"{sys.executable} -S -E {__file__} {tool}"
      path.write_text(f'#!/bin/sh\nexec {here} "$@"\n')
      path.chmod(0o755)

  @property
  def env(self):
    """Of a laptop whose gcloud knows nothing but this server."""
    storage = {k: v for k, v in self.bucket.environment.items()} if self.bucket else {}
    emulator = storage.get("STORAGE_EMULATOR_HOST", self.url)
    return {
      **{k: v for k, v in os.environ.items() if not k.startswith(("CLOUDSDK_", "SSH_"))},
      **storage,
      "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
      "HOME": str(self.root / "home"),
      "GOOGLE_PLAYED": self.url,
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"{self.url}/",
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/compute/v1/",
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{emulator}/storage/v1/",
      "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(self.root / "token"),
      "CLOUDSDK_CONFIG": str(self.root / "config"),
      "CLOUDSDK_CORE_PROJECT": PROJECT,
      "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
      "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
      "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "1",
      "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
      # What would leave the machine fails.
      **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
      "no_proxy": "127.0.0.1",
    }

  def popen(self, *words, **how):
    """tpu_vm.sh, as it is called on that laptop."""
    script = [shutil.which("bash"), str(ROOT / "launch" / "tpu_vm.sh"), *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **how}
    return subprocess.Popen(script, env=self.env, text=True, **pipes)

  def __call__(self, *words, timeout=900):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with self.popen(*words, **pipes) as process:
      try:
        out, errors = process.communicate(timeout=timeout)
      except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()) from None
    return subprocess.CompletedProcess(words, process.returncode, out, errors)

  def close(self):
    self.over.set()
    self.server.shutdown()
    self.server.server_close()
    for worker in self.workers():
      worker.reboot()

  # --- What may befall it ---

  def workers(self):
    return [worker for node in self.nodes.values() for worker in node["workers"]]

  def happened(self, kind, of=1):
    """Counts one of the calls that make up a kind; does what was planned."""
    with self.lock:
      self.calls[kind] += 1
      whole = self.calls[kind] % of == 0
      plan = self.plans[kind].pop(0) if whole and self.plans[kind] else None
    if plan:
      plan()

  def preempt(self):
    """The nodes are gone; their queued resource says so `lag` looks later."""
    with self.lock:
      for node in self.nodes.values():
        node["state"] = "PREEMPTED"
        for worker in node["workers"]:
          worker.reboot()
          shutil.rmtree(worker.home, ignore_errors=True)
      if self.queue:
        self.queue["states"] = ["ACTIVE"] * self.lag + ["SUSPENDING", "SUSPENDED"]

  def fail(self, message):
    """The queued resource that was asked for last fails, for this reason."""
    self.queue.update(states=["FAILED"], error={"code": 8, "message": message})
    self.nodes.clear()

  # --- The Cloud TPU API ---

  def make(self, name, spec):
    """A node of this specification, which is ready."""
    first = 10 + len(self.workers())
    workers = []
    for i in range(self.workers_per_node):
      home = self.root / f"{name}-w-{i}"
      home.mkdir(exist_ok=True)
      workers.append(Worker(home))
    self.nodes[name] = {
      "state": "READY",
      "health": "HEALTHY",
      "workers": workers,
      "metadata": {},
      "spec": spec,
      "ips": [f"127.0.0.{first + i}" for i in range(len(workers))],
    }

  def answer(self, method, path, query, body):
    """(status, JSON) of a request to the API."""
    for i, (pattern, reply) in enumerate(self.refusals):
      if re.search(pattern, f"{method} {path}"):
        del self.refusals[i]
        return reply
    if path.startswith("/compute/"):
      return 200, {"name": PROJECT, "id": "1", "commonInstanceMetadata": {"items": []}}
    zone, kind, name = re.fullmatch(
      r"/v2/projects/p/locations/([\w-]+)/(queuedResources|nodes|operations)/?([\w.-]*)(?::\w+)?",
      path,
    ).groups()
    here = f"projects/p/locations/{zone}"
    if kind == "operations":
      resource = {"name": f"{here}/{name.replace('.', '/')}"}
      return 200, {"name": path, "done": True, "response": resource}
    if method == "POST" and not name:
      name = query.get("nodeId", query.get("queuedResourceId"))
    done = 200, {"name": f"{here}/operations/{kind}.{name}", "done": False}
    if path.endswith(":getGuestAttributes"):
      return 200, {"guestAttributes": []}
    if method == "POST":
      reply = self.create(zone, kind, name, body) or done
      self.happened("create")
      return reply
    queued = kind == "queuedResources"
    if (self.queue if queued else self.nodes.get(name)) is None:
      return absent(path)
    if method == "DELETE":
      reply = self.delete(queued, name, query) or done
      self.happened("delete")
      return reply
    if method == "PATCH":
      self.nodes[name]["metadata"] = body["metadata"]
      return done
    return 200, (self.describe_queue() if queued else self.describe(zone, name))

  def create(self, zone, kind, name, body):
    spec, nodes = body, [name]
    if kind == "queuedResources":
      if self.queue:
        return error(409, "ALREADY_EXISTS", f"Resource '{name}' already exists")
      (asked,) = body["tpu"]["nodeSpec"]
      spec = {**asked["node"], "spot": "spot" in body}
      count = asked.get("multisliceParams", {}).get("nodeCount", 0)
      nodes = [f"{name}-{i}" for i in range(count)] or [asked["nodeId"]]
    if spec["acceleratorType"].split("-")[0] not in TYPES.get(zone, ()):
      text = f"Accelerator type {spec['acceleratorType']} is not available in zone {zone}"
      return error(400, "INVALID_ARGUMENT", text)
    if kind == "queuedResources":
      self.queue = {"states": ["WAITING_FOR_RESOURCES", "ACTIVE"], "tpu": body["tpu"]}
    for node in nodes:
      self.make(node, spec)
    return None

  def delete(self, queued, name, query):
    if queued:
      state = self.queue["states"][0]
      if state in ("ACTIVE", "PROVISIONING", "SUSPENDING") and (
        query.get("force", "").lower() != "true" or state != "ACTIVE"
      ):
        text = f"DeleteQueuedResource is not supported when state is {state}"
        return error(400, "FAILED_PRECONDITION", text)
      self.queue = None
    for node in [*self.nodes] if queued else [name]:
      for worker in self.nodes.pop(node)["workers"]:
        worker.reboot()
        shutil.rmtree(worker.home, ignore_errors=True)
    return None

  def describe_queue(self):
    states = self.queue["states"]
    state = {"state": states[0]}
    if state["state"] == "FAILED":
      state["failedData"] = {"error": self.queue["error"]}
    if len(states) > 1:
      del states[0]
    return {"name": "q", "state": state, "tpu": self.queue["tpu"]}

  def describe(self, zone, name):
    node = self.nodes[name]
    ends = [
      {"ipAddress": ip, "port": 8470, "accessConfig": {"externalIp": ip}} for ip in node["ips"]
    ]
    return {
      "name": f"projects/p/locations/{zone}/nodes/{name}",
      "id": "7",
      "apiVersion": "V2",
      "state": node["state"],
      "health": node["health"],
      "networkEndpoints": ends,
      "metadata": node["metadata"],
    }

  # --- The workers ---

  def ssh(self, ip, command):
    """(status, output) of a command on a worker."""
    node = next((node for node in self.nodes.values() if ip in node["ips"]), None)
    if node is None:
      return 255, ""
    worker = node["workers"][node["ips"].index(ip)]
    call = re.search(r"bash \S+worker\.sh (\w+)", command)
    if not call:
      return 0, f"{worker.name}: {command}\n"
    kind = call[1]
    if kind == "start":
      self.starts[worker.name] += 1
    status, out = 255, ""
    if worker.home.exists():
      status, out = self.run(worker, command)
    self.happened(kind, of=len(node["workers"]))
    return status, out

  def run(self, worker, command):
    env = {
      **{k: v for k, v in self.env.items() if not re.match("PYTHON|VIRTUAL|.*_proxy", k)},
      "PATH": f"{self.root / 'tools'}:{os.environ['PATH']}",
      "HOME": str(worker.home),
      "TOTOJAX_WORKER": str(worker.home),
      "TOTOJAX_TPU_LOCK": str(worker.home / "lockfile"),
      "TOTOJAX_REAL": "yes" if self.totojax else "",
    }
    words = ["bash", "-c", command]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    done = subprocess.run(words, cwd=worker.home, env=env, text=True, **pipes)
    return done.returncode, done.stdout

  def play(self, host):
    """What a worker's run is to do, and the port of this start's coordinator."""
    number = self.starts[host]
    word = self.plays[min(number, len(self.plays)) - 1]
    if word == "done" and host.endswith("-w-0"):
      self.put("done.json", b"{}")
    with self.lock:
      if number not in self.ports:
        with socket.socket() as probe:
          probe.bind(("127.0.0.1", 0))
          self.ports[number] = probe.getsockname()[1]
    return {"play": "exit 0" if word == "done" else word, "port": self.ports[number]}

  def put(self, name, data):
    """Writes into the work directory."""
    folder = self.bucket.url.removeprefix("gs://bucket/")
    _upload(self.bucket.environment["STORAGE_EMULATOR_HOST"], f"{folder}/run/{name}", data)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def _serve(self):
    google = self.server.google
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    path, _, query = self.path.partition("?")
    if path.startswith("/ssh/"):
      status, out = google.ssh(path.rpartition("/")[2], body.decode())
      reply = 200, {"status": status, "out": out}
    elif path == "/alive":
      reply = 200, {}
    elif path.startswith("/play/"):
      reply = 200, google.play(path.rpartition("/")[2])
    else:
      words = dict(urllib.parse.parse_qsl(query))
      reply = google.answer(self.command, path, words, json.loads(body or b"{}"))
    data = json.dumps(reply[1]).encode()
    with contextlib.suppress(ConnectionError):
      self.send_response(reply[0])
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data)

  do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

  def log_message(self, *_):
    pass


# --- Programs ----------------------------------------------------------------


def _ask(path, data=None):
  with urllib.request.urlopen(os.environ["GOOGLE_PLAYED"] + path, data) as answer:
    return json.loads(answer.read())


def _guard():
  """This session, which is detached, ends with the test that it is part of."""
  guarded = os.getpid()
  if os.fork():
    return
  while os.getppid() == guarded:
    time.sleep(1)
    try:
      _ask("/alive")
    except OSError:
      os.killpg(0, signal.SIGKILL)
  os._exit(0)


def _upload(emulator, name, data):
  name = urllib.parse.quote(name, safe="")
  url = f"{emulator}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"
  urllib.request.urlopen(urllib.request.Request(url, data, method="POST")).close()


def _ssh(words):
  where = next(i for i, word in enumerate(words) if re.fullmatch(r"\w+@127[\d.]+", word))
  command = " ".join(word for word in words[where + 1 :] if word != "--")
  answer = _ask("/ssh/" + words[where].partition("@")[2], command.encode())
  print(answer["out"], end="", flush=True)
  return answer["status"]


def _uv(words):
  """`uv venv ... FOLDER` makes a Python that asks what it is to do."""
  if words[0] == "venv":
    program = pathlib.Path(words[-1], "bin", "python")
    program.parent.mkdir(parents=True, exist_ok=True)
    here = f"{sys.executable} -S -E {__file__}"
    line = f"{here} {'host' if os.environ['TOTOJAX_REAL'] else 'python'}"
    program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    program.chmod(0o755)
  return 0


def _gcloud(words):
  """`gcloud storage cp` of a worker."""
  *_, source, target = words
  emulator = os.environ["STORAGE_EMULATOR_HOST"]
  if target.startswith("gs://"):
    _upload(emulator, target.removeprefix("gs://bucket/"), sys.stdin.buffer.read())
  else:
    name = urllib.parse.quote(source.removeprefix("gs://bucket/"), safe="")
    with urllib.request.urlopen(f"{emulator}/storage/v1/b/bucket/o/{name}?alt=media") as answer:
      pathlib.Path(target).write_bytes(answer.read())
  return 0


def _python(words):
  """A run on a TPU, which is in use while it lives."""
  _guard()
  print(f"totojax: {' '.join(words)}", flush=True)
  lock = pathlib.Path(os.environ["TOTOJAX_TPU_LOCK"])
  if lock.exists():
    print(f"The TPU is already in use by process with pid {lock.read_text()}")
    return 1
  lock.write_text(str(os.getpid()))
  play = _ask(f"/play/{pathlib.Path(os.environ['TOTOJAX_WORKER']).name}")["play"]
  status = subprocess.run(["bash", "-c", f"trap 'exit 0' TERM; {play}"]).returncode
  lock.unlink()
  return status


def _host(words):
  """A host of a pod, which metadata would tell who it is."""
  _guard()
  worker = pathlib.Path(os.environ["TOTOJAX_WORKER"]).name
  port, number = _ask(f"/play/{worker}")["port"], worker.rpartition("-")[2]
  words += [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={number}"]
  os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
  tool, words = sys.argv[1], sys.argv[2:]
  if tool == "hostname":
    print(pathlib.Path(os.environ["TOTOJAX_WORKER"]).name)
    sys.exit(0)
  programs = {"ssh": _ssh, "uv": _uv, "gcloud": _gcloud, "python": _python, "host": _host}
  sys.exit(programs[tool](words))
