"""Before anything is paid: does the run fit, and how do its tokens get there?

Asks this project's planner, where it is installed here, and copies stores of
tokens into the bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from calls import Caller, GiveUp, say, show
from cloud import Gcloud
from project import ROOT

_FAMILIES = {"v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}


def chips(kind: str) -> int:
  """Of a type: v5litepod-256 and v6e-256 count chips, the others cores."""
  generation, _, number = kind.partition("-")
  return int(number) if generation in ("v5litepod", "v6e") else max(int(number) // 2, 1)


def topology(kind: str) -> str | None:
  """As the planner names it, v5e:16x16 for v5litepod-256; None: not known.

  Slices are as square (v5e, v6e) or as cubic (v4, v5p) as their size allows.
  """
  family = _FAMILIES.get(kind.partition("-")[0])
  power = int(math.log2(chips(kind)))
  if family is None or chips(kind) != 2**power:
    return None
  axes = 2 if family in ("v5e", "v6e") else 3
  sides = [2 ** ((power + axis) // axes) for axis in range(axes)]
  if axes == 3 and power == 2:
    sides.reverse()  # of one host
  return f"{family}:{'x'.join(map(str, sides))}"


def mesh_flags(slices: int, flags: Sequence[str]) -> list[str]:
  """Only replicas go over the network between slices."""
  own = slices == 1 or any(flag.startswith("--config.mesh.") for flag in flags)
  return [] if own else [f"--config.mesh.data={slices}"]


def totojax(caller: Caller, *words: str, quiet: bool = False) -> str:
  """Runs totojax here, having printed the command; returns what it printed.

  Raises:
    GiveUp: it failed.
  """
  words = (sys.executable, "-m", "totojax.main", *words)
  show(words)
  if caller.dry_run:
    return ""
  path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
  env = {**os.environ, "PYTHONPATH": path}
  stdout = subprocess.PIPE if quiet else None
  done = subprocess.run(words, cwd=ROOT, env=env, encoding="utf-8", stdout=stdout)
  if done.returncode:
    raise GiveUp("no plan can be made, see above; --no-plan goes on without")
  return done.stdout or ""


def plan(gcloud: Gcloud, config: str, kind: str, slices: int, flags: Sequence[str]) -> list[str]:
  """Asks the planner; flags for the mesh that it names for several slices.

  Raises:
    GiveUp: a flag is wrong, or the run does not fit.
  """
  mesh, shape = mesh_flags(slices, flags), topology(kind)
  if not gcloud.dry_run and not installed():
    return mesh
  keys = totojax(gcloud, f"--config={config}", *flags, "--list", quiet=True)
  if "plan.probed = " in keys:  # of making tokens
    told = _planned(gcloud, config, flags)
    hours = sum(row["chip_hours"] for row in told.values()) / chips(kind) / slices
    say(f"about {hours:.3g} hours of encoding on {slices} x {kind}")
    return []
  reason = f"no topology of {kind} is known" if shape is None else ""
  if not gcloud.dry_run:
    reason = reason if "plan.topology = " in keys else f"{config} has no plan"
    reason = reason or ("" if importlib.util.find_spec("libtpu") else "libtpu is not installed")
  if reason:
    say(f"not planned: {reason}")
    return mesh
  more = [f"--config.plan.topology={shape}", f"--config.plan.slices={slices}"]
  if mesh:
    each = chips(kind)
    meshes = tuple((slices * n, each // n, 1) for n in (1, 2, 4) if n <= each)
    more += ["--config.plan.search=True", f"--config.plan.meshes={meshes}"]
    more.append("--config.plan.remats=()")
  told = _planned(gcloud, config, [*flags, *more])
  if gcloud.dry_run:
    return mesh
  if told["best"] is None:
    raise GiveUp(f"it does not fit on {slices} x {kind}: {told['error']}; --no-plan goes on")
  if mesh:
    mesh = [f"--config.mesh.{axis}={size}" for axis, size in told["mesh"].items()]
    say(f"the planner's mesh: {' '.join(mesh)}")
  return mesh


def plan_gpus(
  caller: Caller,
  config: str,
  flags: Sequence[str],
  *,
  kind: str | None,
  count: int,
  price: float | None,
) -> None:
  """Lets totojax look at the config and its flags, and asks the planner for `count` GPUs.

  Args:
    caller: says whether this is a dry run.
    config: as totojax is given it.
    flags: for totojax.
    kind: of GPU, as the planner names it; None: nothing is planned.
    count: of GPUs.
    price: of one, an hour; None: no money is told.

  Raises:
    GiveUp: a flag is wrong, or the run does not fit.
  """
  if not caller.dry_run and not installed():
    return
  keys = totojax(caller, f"--config={config}", *flags, "--list", quiet=True)
  why = "" if kind else "no --kind is given"
  if not caller.dry_run:
    why = why or ("" if "plan.topology = " in keys else f"{config} has no plan for GPUs")
  if why:
    say(f"not planned: {why}")
    return
  more = [f"--config.plan.topology=gpu:{kind}:{count}"]
  if price is not None:
    more.append(f"--config.plan.price_per_chip_hour={price:.6f}")
  told = _planned(caller, config, [*flags, *more])
  if not caller.dry_run and told["best"] is None:
    raise GiveUp(f"it does not fit on {count} x {kind}: {told.get('error')}; --no-plan goes on")


def installed() -> bool:
  """Whether this Python can ask totojax; says so where it cannot."""
  lacking = [m for m in ("jax", "ml_collections") if importlib.util.find_spec(m) is None]
  if lacking:
    say(f"not planned: this Python has no {lacking[0]} (pip install -e '.[tpu]')")
  return not lacking


def _planned(caller: Caller, config: str, flags: Sequence[str]) -> dict[str, Any]:
  """What the planner writes, which it prints as well; {} in a dry run."""
  with tempfile.TemporaryDirectory() as folder:
    where = (f"--config={config}", f"--workdir={folder}")
    totojax(caller, *where, *flags, "--config.run=plan")
    path = pathlib.Path(folder, "plan", "plan.json")
    return {} if caller.dry_run else json.loads(path.read_text(encoding="utf-8"))


def copy(gcloud: Gcloud, source: str, url: str, mbit_s: float) -> None:
  """Copies stores of tokens into the bucket; what is there stays.

  Raises:
    GiveUp: there is no store in the folder.
    Failure: it broke off; the same command goes on.
  """
  files = [path for path in pathlib.Path(source).rglob("*") if path.is_file()]
  stores = sum(path.name == "manifest.json" for path in files)
  if not stores:
    raise GiveUp(f"--source is {source}; no store (a manifest.json) is in it")
  size = sum(path.stat().st_size for path in files)
  hours = size * 8 / (mbit_s * 1e6) / 3600
  say(
    f"{stores} stores, {len(files)} files, {size / 1e9:.3g} GB: {hours:.3g} hours at {mbit_s:g}"
    " Mbit/s (--mbit); what is there already is not sent again"
  )
  gcloud.follow("storage", "rsync", "--recursive", source, url)
