"""What was run, by which command, and all its numbers: the foot of every page.

Of a chain the stage that trained a model says what the model, its data and its
tokenizer are. Manifests of earlier versions say less.
"""

from collections.abc import Iterable, Mapping
import json
import shlex
from typing import Any

from totojax.report import page, reading
from totojax.rundir import console, files, wording

STAGES = ("clips", "tokenizer", "shards", "pretrain", "validate")  # of a chain of early versions
# Of any job, where it has them: what its numbers hang on.
TELLING = (
  "seed",
  "sequence.frames",
  "sequence.grid",
  "sequence.context",
  "train.total_tokens",
  "train.batch_tokens",
  "train.epochs",
  "train.steps",
  "optim.name",
  "optim.schedule",
  "optim.lr",
  "optim.lrs",
  "mup.on",
  "head.pool",
  "layers",
  "sampling.temperature",
  "sampling.top_k",
  "sampling.top_p",
  "validation.rows",
)
# Jobs whose stage says what a chain's model is, the surest first.
_TELLING_STAGES = ("pretrain", "finetune", "joint", "tokenizer", "track", "compare")
_TELLING_STAGES += ("sta", "sta_frozen", "clone", "dagger", "world")
_NOT_NUMBERS = {"config.json", "manifest.json", "done.json", "backbone.json"}
# Bytes of a table that is put into a page, and of all of them; larger ones stay beside it.
MOST_TABLE, MOST_TABLES = 1 << 20, 4 << 20


def what_was_run(folder: reading.RunFolder) -> str:
  """Job, model, data, tokenizer, settings that matter, date, machine, code."""
  prefix, gaps = trained(folder), []

  def of_model(name: str) -> dict[str, Any]:
    try:
      return folder.json(f"{prefix}{name}")
    except reading.Missing as reason:
      gaps.append(page.missing(reason) if prefix else "")
      return {}

  kept, manifest = of_model("config.json"), of_model("manifest.json")
  own = kept if not prefix else reading.optional({}, folder.json, "config.json")
  try:
    whole = folder.json("manifest.json")
  except reading.Absent:
    whole = {}
  what = job(own)
  if names := stages(folder):
    what = f"{what or 'chain'}: {', '.join(names)}"

  def placed(words: str) -> str:
    """With the folder of the chain where a stage's config has a word for it."""
    chain = folder.path if names else folder.path.parent
    return words.replace("{workdir}", str(chain))

  packages = {**whole.get("versions", {})}
  packages.pop("totojax", None)
  if "python" in whole:
    packages = {"Python": whole["python"], **packages}
  shown = page.terms(
    (
      ("job", page.text(what)),
      ("model", page.text(placed(model(kept, manifest)))),
      ("data", page.text(placed(data(kept, manifest) or _of_runs(folder, kept)))),
      ("tokenizer", page.text(tokenizer(kept, manifest))),
      ("settings", page.text(telling(kept))),
      ("date", page.text(_date(folder, whole))),
      ("machine", page.text(_machine(whole or manifest))),
      ("code", page.text(_code(whole))),
    )
  )
  versions = " · ".join(f"{name} {version}" for name, version in packages.items())
  shown += "".join(gaps)
  return shown + (page.fold("Versions of packages", page.paragraph(versions)) if versions else "")


def trained(folder: reading.RunFolder) -> str:
  """Prefix of the files that say what the model is: "" or "pretrain/", say."""
  if (folder.path / "config.json").exists() or (folder.path / "manifest.json").exists():
    if reading.optional({}, folder.json, "config.json").get("run") not in (None, "chain"):
      return ""
  names = stages(folder)
  for what in _TELLING_STAGES:
    for name in names:
      kept = reading.optional({}, folder.json, f"{name}/config.json")
      if kept.get("run", name) == what:
        return f"{name}/"
  return f"{names[-1]}/" if names else ""


def stages(folder: reading.RunFolder) -> list[str]:
  """Names of a chain's stages in their order, but for the report; [] of another job."""
  kept = reading.optional({}, folder.json, "config.json")
  if kept.get("run", "chain") != "chain":
    return []
  order = kept.get("order") or [
    name for name in STAGES if (folder.path / name).exists() or not kept
  ]
  return [name for name in order if name != "report"]


def has_stages(folder: reading.RunFolder) -> bool:
  """Whether a folder without a config holds stages, as chains of early versions did."""
  return any((folder.path / name / "config.json").exists() for name in STAGES)


def job(kept: Mapping[str, Any]) -> str:
  """What was run, by a config; an export's is in the format of other people's programs."""
  if "run" in kept:
    return str(kept["run"])
  return "export" if "model_type" in kept or "architectures" in kept else ""


def model(kept: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
  """The model that was trained, or those that were looked at."""
  parts = []
  if isinstance(sizes := kept.get("model"), Mapping):
    parts.append(str(kept.get("architecture", "model")))
    parts += _sizes(sizes)
  if job(kept) == "export" and "hidden_size" in kept:
    parts += [str(kept.get("model_type", "model"))]
    parts += [f"{name} {kept[key]}" for key, name in _EXPORTED.items() if kept.get(key)]
  if "parameters" in manifest:
    parts.append(f"{manifest['parameters']:,} parameters")
  if "flops_per_token" in manifest:
    parts.append(f"{console.short(manifest['flops_per_token'])} training FLOPs per token")
  if backbone := manifest.get("backbone"):
    path = backbone.get("model_run") or backbone.get("run", "?")
    parts.append(_after(str(path), backbone.get("step")))
    parts += [wording.counted(backbone["depth"], "layer")] if "depth" in backbone else []
  elif kept.get("model_run"):
    parts.append(_after(str(kept["model_run"]), manifest.get("step")))
  own = kept.get(job(kept))
  for place in (kept, own if isinstance(own, Mapping) else {}):
    parts += _several(place)
  return ", ".join(parts)


_EXPORTED = {
  "hidden_size": "width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "heads",
  "intermediate_size": "mlp_dim",
}


def _sizes(sizes: Mapping[str, Any]) -> list[str]:
  keys = ("width", "depth", "heads", "mlp_dim")
  return [f"{key} {sizes[key]}" for key in keys if sizes.get(key)]


def _after(path: str, step: Any) -> str:
  """A path and how long it was trained; a model that ships, or was imported, has no step."""
  return (
    f"{path} after {wording.counted(step, 'update')}" if isinstance(step, int) and step else path
  )


def _several(place: Mapping[str, Any]) -> list[str]:
  """Models that a job compares or puts together, by name, with where each is."""
  parts = []
  for key in ("encoders", "models"):
    named = place.get(key) or {}
    if not isinstance(named, Mapping):  # of an early version
      parts.append(f"{key}: {', '.join(map(str, named))}")
    elif named:
      parts.append("; ".join(f"{name}: {_one(each)}" for name, each in named.items()))
  if runs := place.get("runs"):
    names = [_run_name(run) for run in runs]
    parts.append(f"{wording.counted(len(names), 'run')}: {', '.join(names)}")
  return parts


def _one(each: Any) -> str:
  """Where a model of several is, or how large it is."""
  if not isinstance(each, Mapping):
    return ", ".join(map(str, each)) if isinstance(each, list) else str(each)
  if sizes := _sizes(each):
    return ", ".join(sizes)
  path = next(
    (each[key] for key in ("model_run", "encoder", "features", "train") if each.get(key)), ""
  )
  return f"{path}, untrained" if each.get("untrained") else str(path)


def _run_name(run: str) -> str:
  """The name of "NAME=FOLDER", or the end of a path."""
  name, equals, _ = str(run).partition("=")
  return name if equals else str(run).rstrip("/").rpartition("/")[2]


def data(kept: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
  """The data sets by name, with shares, records and the digests that know them."""
  asked = kept.get("data")
  asked = asked if isinstance(asked, Mapping) else {}
  if manifest.get("data"):
    kind = [asked["set"]] if isinstance(asked.get("set"), str) else []
    said = " ".join([*kind, stores(manifest["data"])])
  else:
    source = kept.get("source")
    places = source.values() if isinstance(source, Mapping) else ()
    named = [str(place) for place in places if isinstance(place, str) and place]
    said = ", ".join(named or _drawn(kept) or _asked(kept, asked))
  named = asked.get("train", {})
  if isinstance(named, Mapping) and len(named) > 1:
    shares = (f"{name} x {one['weight']:g}" for name, one in named.items() if "weight" in one)
    said = "; ".join(filter(None, (said, f"weights {', '.join(shares)}")))
  return said


def _drawn(kept: Mapping[str, Any]) -> list[str]:
  """Of what is rendered: the scene, how large it is, and how much of it there is."""
  parts = []
  if isinstance(scene := kept.get("scene"), Mapping):
    parts.append(f"rendered scenes: {scene['kind']}" if scene.get("kind") else "rendered scenes")
    parts += [wording.counted(scene["frames"], "frame")] if scene.get("frames") else []
    side = scene.get("size_px")
    width, height = scene.get("width_px", side), scene.get("height_px", side)
    parts += [f"{width} x {height} pixels"] if width and height else []
    amount = kept.get("amount") or kept.get("render") or {}
    split = {"train": "of training", "val": "held out"}
    parts += [
      f"{wording.counted(amount[key], 'clip')} {name}"
      for key, name in split.items()
      if amount.get(key)
    ]
  elif isinstance(env := kept.get("env"), Mapping) and not (kept.get("data") or {}).get("root"):
    parts.append(f"a rendered robot: {env.get('arm', '?')}, {env.get('task', '?')}")
  elif (kept.get("data") or {}).get("set") == "rendered":
    parts.append("scenes that the project draws")
  return parts


def _asked(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
  """What a config names: a data set and its folder, stores, or files."""
  own = kept.get(job(kept))
  own = own if isinstance(own, Mapping) else {}
  parts = [str(asked[key]) for key in ("set", "root", "list") if asked.get(key)]
  for part in ("train", "validation", "split"):
    for place in (asked, own):
      if isinstance(place.get(part), str) and place[part]:
        parts.append(f"{part} {place[part]}")
  for named in (own.get("stores"), own.get("pixels"), asked.get("train"), asked.get("validation")):
    for name, one in named.items() if isinstance(named, Mapping) else ():
      path = one.get("path", "") if isinstance(one, Mapping) else one
      parts.append(f"{name}: {path}" if path else name)
  paths = (kept.get("clips") or {}).get("paths") if isinstance(kept.get("clips"), Mapping) else None
  return parts + [str(path) for path in paths or ()]


def _of_runs(folder: reading.RunFolder, kept: Mapping[str, Any]) -> str:
  """The data of a job that puts runs together: those of the first that is still there."""
  own = kept.get(job(kept))
  runs = kept.get("runs") or (own.get("runs") if isinstance(own, Mapping) else None) or ()
  for run in runs if isinstance(runs, list) else ():
    place = str(run).rpartition("=")[2].replace("{workdir}", str(folder.path.parent))
    one = reading.RunFolder(place)
    manifest = reading.optional({}, one.json, "manifest.json")
    if said := data(reading.optional({}, one.json, "config.json"), manifest):
      return f"of {_run_name(run)}: {said}"
  return ""


def stores(digests: Mapping[str, Mapping[str, Any]]) -> str:
  """The data sets of a manifest with the digests by which runs know them."""
  return ", ".join(
    f"{name} {each['digest'][:12]} ({wording.counted(each['records'], 'record')})"
    for name, each in digests.items()
  )


def tokenizer(kept: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
  """The fingerprint of the tokenizer, and its file where the config names one."""
  asked = kept.get("data", {}) if isinstance(kept.get("data"), Mapping) else {}
  named = [asked.get("tokenizer"), asked.get("encode_with"), kept.get("tokenizer")]
  known = manifest.get("tokenizer") or manifest.get("backbone", {}).get("tokenizer")
  parts = [str(known)] if known else []
  if not parts:
    parts = [one["tokenizer"] for one in manifest.get("data", {}).values() if one.get("tokenizer")]
  parts += [name for name in named if isinstance(name, str) and name]
  return ", ".join(dict.fromkeys(parts))


def telling(kept: Mapping[str, Any]) -> str:
  """The settings that matter, as far as a job has them."""
  values = dict(flat(kept))
  shown = [(key, values[key]) for key in TELLING if values.get(key) not in (None, "", [], 0)]
  return ", ".join(f"{key} {plain(value)}" for key, value in shown)


def _date(folder: reading.RunFolder, manifest: Mapping[str, Any]) -> str:
  parts = [f"begun {_minute(manifest['started'])}"] if "started" in manifest else []
  if later := manifest.get("starts"):
    last = _minute(later[-1]["started"])
    parts.append(f"started {len(later) + 1} times, the last time {last}")
  done = reading.optional({}, folder.json, "done.json")
  if "seconds" in done:
    parts.append(f"took {console.duration(done['seconds'])}")
  return " · ".join(parts)


def _machine(manifest: Mapping[str, Any]) -> str:
  parts = []
  if machine := manifest.get("machine"):
    parts += [machine["cpu"], wording.counted(machine["cores"], "core"), machine["system"]]
  if devices := manifest.get("devices"):
    parts.append(f"{devices['count']} x {devices['kind']}")
  if manifest.get("processes", 1) > 1:
    parts.append(f"{manifest['processes']} processes")
  return " · ".join(parts)


def _code(manifest: Mapping[str, Any]) -> str:
  parts = []
  if "totojax" in manifest.get("versions", {}):
    parts.append(f"totojax {manifest['versions']['totojax']}")
  if git := manifest.get("git"):
    changed = "" if git["clean"] else " with changes that were not committed"
    parts.append(f"commit {git['commit'][:12]}{changed}")
  return " · ".join(parts)


def _minute(iso: str) -> str:
  """2025-01-31T13:05:09+00:00 -> 2025-01-31 13:05 UTC."""
  return f"{iso[:16].replace('T', ' ')} UTC"


def again(folder: reading.RunFolder) -> str:
  """The command that makes the run, as it was last given, and the one that makes this page."""
  try:
    manifest = folder.json("manifest.json")
  except reading.Absent:
    manifest = {}
  command = [manifest, *manifest.get("starts", ())][-1].get("command")
  out = page.command(readable(command)) if command else ""
  return out + page.paragraph("This page alone:", "soft") + page.command(page_command({"": folder}))


def readable(command: str) -> str:
  """A command as `shlex.join` wrote it, with words that hold a ' in double quotes."""
  try:
    words = shlex.split(command)
  except ValueError:
    return command
  if shlex.join(words) != command:  # somebody else's
    return command
  plain_in = lambda word: "'" in word and not set(word) & set('"$`\\!')
  return " ".join(f'"{word}"' if plain_in(word) else shlex.quote(word) for word in words)


def page_command(folders: Mapping[str, reading.RunFolder]) -> str:
  """The command that makes the page of these runs; "": without a name."""
  runs = [f"{name}={one.path}" if name else str(one.path) for name, one in folders.items()]
  asked = shlex.quote(f"--config=configs/report.py:{','.join(runs)}")
  return f"python -m totojax.main {asked}"


def settings(folder: reading.RunFolder) -> str:
  """The resolved config of the run, or of every stage."""
  names = stages(folder)
  out = []
  for prefix in [f"{name}/" for name in names] or [""]:
    try:
      kept = folder.json(f"{prefix}config.json")
    except reading.Missing as reason:
      out.append(page.missing(reason))
      continue
    rows = [(key, plain(value)) for key, value in flat(kept)]
    out.append(page.fold(prefix.rstrip("/") or "All settings", page.table((), rows, words=2)))
  return "".join(out)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
  """("model.width", 768), ... of nested objects."""
  out = []
  for key, value in values.items():
    if isinstance(value, Mapping) and value:
      out += flat(value, f"{prefix}{key}.")
    else:
      out.append((prefix + str(key), value))
  return out


def plain(value: Any) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{k} {v}" for k, v in value.items())
  if isinstance(value, list):
    return ", ".join(map(str, value))
  if isinstance(value, float) and value.is_integer() and abs(value) >= 1000:
    return f"{value:,.0f}"  # as tokens
  return "" if value is None else str(value)


def downloads(folder: reading.RunFolder) -> str:
  """Every table and every number of the run, or of a chain's stages, as CSV in the page."""
  links, rest, room = [], [], MOST_TABLES
  for prefix in ["", *(f"{name}/" for name in stages(folder))]:
    for path in files.children(folder.path / prefix):
      name = f"{prefix}{path.name}"
      table = None if path.name in _NOT_NUMBERS else reading.optional(None, as_csv, folder, name)
      if not table:
        continue
      shown = f"{name.rpartition('.')[0].replace('/', '_')}.csv"
      if len(table) > min(MOST_TABLE, room):
        rest.append(f"{name} ({len(table) / 1e6:.1f} MB)")
        continue
      room -= len(table)
      links.append(page.download(shown, table))
  out = f"<p>{' · '.join(links)}</p>" if links else ""
  if rest:
    out += page.paragraph(f"Too large for a page, in the run's folder: {', '.join(rest)}.", "soft")
  return out


def as_csv(folder: reading.RunFolder, name: str) -> bytes:
  """A file of numbers as CSV; b"" of any other file, and of one without a row.

  Raises:
    reading.Missing: it is damaged.
  """
  match name.rpartition(".")[2]:
    case "csv":
      return folder.bytes(name) if folder.rows(name) else b""
    case "jsonl":
      rows = [dict(flat(row)) for row in folder.lines(name)]
      keys = list(dict.fromkeys(key for row in rows for key in row))
      return table([keys, *([row.get(key) for key in keys] for row in rows)])
    case "json":
      values = flat(folder.json(name))
      return table([("name", "value"), *((key, _cell(value)) for key, value in values)])
  return b""


def table(rows: Iterable[Iterable[Any]]) -> bytes:
  return files.csv_text(rows).encode()


def _cell(value: Any) -> Any:
  return json.dumps(value) if isinstance(value, list | Mapping) else value
