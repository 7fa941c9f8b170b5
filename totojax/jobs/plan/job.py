"""`run = "plan"`: what a pre-training config costs, before it is paid.

  python -m totojax.main --config=configs/1b.py --config.run=plan \
    --config.plan.topology=v5e:16x16 --workdir=runs/plan

Compiles the train step of the config ahead of time (no TPU is needed) and
leaves `plan.json` and `report.html`. `--config.plan.what=decode` is one token
of each row of a batch, `encode` the tokenizer on a batch of frames.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
from rich import box as rich_box, console as rich_console, table as rich_table

from totojax import flops, jobs, sharding
from totojax.config import schema
from totojax.config.corpus import Tokenize
from totojax.config.pretrain import Plan, Pretrain
from totojax.config.schema import ConfigError
from totojax.config.training import MeshConfig
from totojax.data.store import manifests
from totojax.data.stream import mixture
from totojax.jobs import memory, pretrain, stores
from totojax.jobs.plan import chips, compile as compile_lib
from totojax.report import frame, page, plan_page
from totojax.rundir import console, directory, files


def run(config: Pretrain | Tokenize, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Plans the config or every variant of the search; True when all are done.

  A variant that was compiled before an interruption is not compiled again. A
  config that holds no model to train is one of tokenizing.
  """
  if isinstance(config, Tokenize):
    from totojax.jobs.plan import corpus  # which decodes, and compiles nothing

    return corpus.run(config, workdir, interrupted)
  check(config.plan)
  # A compiler for TPUs is no TPU. jax adds its options while it is imported.
  if not jax.config.jax_platforms:  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_platforms", "cpu")
  directory.begin(workdir, config)
  path = workdir / "plan.json"
  rows = files.read_json(path)["rows"] if path.exists() else []
  cases = variants(config)
  for number, case in enumerate(cases[len(rows) :], len(rows) + 1):
    if interrupted(number):
      return False
    rows.append(outcome(case))
    files.write_json(path, result(rows))
    console.say(f"plan {number} of {len(cases)}: {headline(rows[-1])}")
  show(rows)
  if config.plan.what == "train":
    files.write_json(path, result(rows) | {"epochs": epochs(config)})
  console.say(f"report: {frame.write(workdir, plan_page.PAGE)}")
  return True


def check(plan: Plan) -> None:
  """Raises ConfigError where `plan.topology` is no hardware that is known."""
  if not plan.topology:
    raise ConfigError(
      "plan.topology is empty; name the hardware, as --config.plan.topology=v5e:16x16"
    )
  if not chips.gpus(plan.topology):
    chips.chip(plan.topology)
  elif plan.search or plan.slices > 1:
    raise ConfigError(
      f"plan.topology is {plan.topology!r}, with plan.search {plan.search}"
      f" and plan.slices {plan.slices}; GPUs are planned by arithmetic, which"
      " tells no variants apart and knows no slices: leave both as they are"
    )


def variants(config: Pretrain) -> list[Pretrain]:
  """The config itself, or each combination of its plan's lists.

  Only a train step has remat policies and microbatches.
  """
  plan = config.plan
  if not plan.search:
    return [config]
  meshes = plan.meshes or (dataclasses.astuple(config.mesh),)
  remats, counts = plan.remats, plan.microbatches
  if plan.what != "train":
    remats = counts = ()
  return [
    dataclasses.replace(
      config,
      mesh=MeshConfig(*sizes),
      compute=dataclasses.replace(config.compute, remat=remat),
      train=dataclasses.replace(config.train, microbatches=count),
    )
    for sizes in meshes
    for remat in remats or (config.compute.remat,)
    for count in counts or (config.train.microbatches,)
  ]


def epochs(config: Pretrain) -> dict[str, float]:
  """How often the run reads each store of `data.train`, by name; says it.

  Empty where one is not made yet, or cannot be read.
  """
  try:
    sources, reasons = stores.find_stores(config.data, manifests.load)
  except (OSError, ValueError, RuntimeError) as error:
    sources, reasons = [], [str(error)]
  prefix = "data.train."
  trained = [
    dataclasses.replace(source, name=source.name.removeprefix(prefix))
    for source in sources
    if source.name.startswith(prefix)
  ]
  missing = sorted(config.data.train.keys() - {source.name for source in trained})
  if reasons or missing or not trained:
    why = reasons[0] if reasons else f"{', '.join(missing) or 'data.train'}: not there yet"
    console.say(f"epochs of each store: not known ({why})")
    return {}
  spec, train = config.sequence, config.train
  steps = flops.steps(train.total_tokens, train.batch_tokens)
  batch = pretrain.batch_rows(train.batch_tokens, spec)
  pretrain.tell_data(config, trained, steps=steps, batch=batch)
  return mixture.epochs(trained, spec, total_rows=steps * batch)


def outcome(config: Pretrain) -> dict[str, Any]:
  """The row of one config; in a search, what cannot be built says why.

  Of `train.microbatches` 0 that of the fewest that fit, or of the most.
  """
  planning = config.plan
  if planning.what == "train" and not config.train.microbatches:
    row = {}
    for count in _counts(config):
      parts = dataclasses.replace(config.train, microbatches=count)
      row = outcome(dataclasses.replace(config, train=parts))
      if row.get("fits", True):
        break
    return row
  try:
    gpus = chips.gpus(planning.topology)
    facts = compile_lib.arithmetic(config, *gpus) if gpus else compile_lib.plan(config)
  except ValueError as error:
    if not planning.search:
      raise
    return {
      "what": planning.what,
      "batch": planning.rows,
      "mesh": schema.to_dict(config.mesh),
      "remat": config.compute.remat,
      "microbatches": config.train.microbatches,
      "fits": False,
      "error": str(error),
    }
  price = planning.price_per_chip_hour
  return facts | compile_lib.cost(facts, price_per_chip_hour=price)


def _counts(config: Pretrain) -> list[int]:
  """Microbatches that a plan tries in turn; arithmetic cannot tell them apart."""
  planning = config.plan
  if chips.gpus(planning.topology):
    return [1]
  layout = sharding.layout(config.mesh, chips.devices(planning.topology, slices=planning.slices))
  rows = pretrain.batch_rows(config.train.batch_tokens, config.sequence)
  return list(memory.divisors(rows, layout.mesh)) or [1]


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """What plan.json holds: the best row's own keys, and all rows.

  Where nothing fits, the first row's keys, and None for `best`.
  """
  best = fastest(rows)
  return {**rows[best or 0], "best": best, "rows": rows}


def fastest(rows: list[dict[str, Any]]) -> int | None:
  """Index of the fastest row that fits; None where none does."""
  fitting = [
    (row.get("step_s") or float("inf"), row.get("hbm_peak_gib", 0.0), i)
    for i, row in enumerate(rows)
    if row.get("fits", True)
  ]
  return min(fitting)[2] if fitting else None


def headline(row: Mapping[str, Any]) -> str:
  """One line about a row."""
  what = f"mesh {tuple(row['mesh'].values())}"
  if row.get("what", "train") == "train":
    what += f", remat {row['remat']}, {row['microbatches']} microbatches"
  else:
    what += f", {row['what']} {row['batch']} rows"
  if not row.get("fits", True):
    return f"{what}: does not fit: {row['error']}"
  parts = [
    "peak {hbm_peak_gib:.2f} GiB",
    "{step_s:ms} ms a step",
    "about {mfu_estimate:.1%} of the peak",
  ]
  if row.get("what", "train") != "train":
    parts += [f"about {{{unit}_per_s:,.0f}} {unit}/s" for unit in ("tokens", "frames")]
  sentences = [page.filled(part, plan_page.facts(row)) for part in parts]
  return f"{what}: {', '.join(filter(None, sentences))}"


def flags(row: Mapping[str, Any]) -> str:
  """The flags that make a config this row."""
  parts = [f"--config.mesh.{axis}={n}" for axis, n in row["mesh"].items()]
  if row.get("what", "train") == "train":
    parts.append(f"--config.compute.remat={row['remat']}")
    parts.append(f"--config.train.microbatches={row['microbatches']}")
  return " ".join(parts)


def show(rows: list[dict[str, Any]]) -> None:
  """Prints one row as a list, several as a table, the best marked."""
  best = fastest(rows)
  first = rows[best or 0]
  title = f"plan, {first.get('source', 'nothing compiled')}"
  heads = plan_page.columns(first)
  if len(rows) == 1:
    table = rich_table.Table("", "", title=title, show_header=False)
    for line in zip(heads, plan_page.cells(first), strict=True):
      table.add_row(*line)
  else:  # the rest is in the report
    shown = [i for i, head in enumerate(heads) if head not in plan_page.LONG]
    table = rich_table.Table("", title=title, box=rich_box.SIMPLE)
    for i in shown:  # heads that may be broken, so that 80 columns are enough
      head = heads[i].partition(" (")[0].replace("micro", "micro ")
      table.add_column(head, justify="right")
    for number, row in enumerate(rows):
      cells = plan_page.cells(row)
      table.add_row("best" if number == best else "", *(cells[i] for i in shown))
  printer = rich_console.Console()
  printer.print(table)
  for line in first.get("limits", ()):
    printer.print(f"- {line}", style="dim")
  if "step_s" in first and "calibration" in first:
    printer.print(first["calibration"])
  if first.get("raising"):
    printer.print("what would raise it:")
  for line in first.get("raising", ()):
    printer.print(f"- {line}")
  if best is None:
    printer.print(f"does not fit: {first['error']}. To change:")
    for line in first.get("advice", ()):
      printer.print(f"- {line}")
  elif len(rows) > 1:
    console.say(f"best: {flags(first)}")
