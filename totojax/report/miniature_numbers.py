"""The number that a finished run stands for, by its job: what a table of the paper would have.

Reads run directories alone.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np

from totojax.report import layer_sections, model_sections, page, reading, shares, verdict
from totojax.rundir import console, wording

_HOLDOUT = f"/{layer_sections.HOLDOUT}/top1"
_NO_MODELS = {"copy", "pixels", "histogram", "blind", "state", "last seen", "frequent", "chance"}
_FRAMES = {"first token": (0, 1), "first frame": (0, None), "second frame": (1, None)}


@dataclasses.dataclass(frozen=True)
class Number:
  """A number of ours."""

  value: float
  shown: str  # with its unit, and its interval where there is one
  n: str = ""  # of what: "1,000 items"


def read(root: reading.RunFolder, stage: str, what: str) -> Number:
  """The number of a stage.

  Args:
    root: folder of the chain.
    stage: its folder's name.
    what: which of its numbers; "": the one that it has.

  Raises:
    reading.Missing: the stage has not finished, or has no such number.
  """
  folder = reading.RunFolder(root.path / stage)
  job = folder.json("config.json").get("run", "?")
  if not (folder.path / "done.json").exists():
    raise reading.Missing(f"{stage} has not finished")
  if job not in _READERS:
    raise reading.Missing(f"a run of {job!r} has no number that stands in a table")
  try:
    return _READERS[job](folder, what)
  except (LookupError, TypeError, ValueError, StopIteration) as error:
    raise reading.Missing(f"{stage} has no number {what!r}") from error


def size(root: reading.RunFolder, stage: str, what: str) -> str:
  """How large the model behind a number is, and on how many tokens it was trained.

  "" where it is not known, and of a number that is of no model.
  """
  what, untrained = what.removesuffix("-untrained"), what.endswith("untrained")
  if what in _NO_MODELS:
    return ""
  kept = reading.optional({}, root.json, f"{stage}/config.json")
  run = stage if kept.get("run") == "pretrain" else kept.get("model_run")
  encoders = kept.get("encoders") or {}
  for encoder in [encoders[what]] if what in encoders else encoders.values():
    run = run or encoder.get("model_run")
  for runs in (kept.get("models") or {}).values() if kept.get("run") == "cater" else ():
    run = run or (reading.optional({}, root.json, f"{_name(runs[0])}/config.json")).get("model_run")
  if not run:
    return ""
  run = _name(run)
  parameters = reading.optional({}, root.json, f"{run}/manifest.json").get("parameters")
  trained = reading.optional({}, root.json, f"{run}/config.json").get("train", {})
  tokens = trained.get("total_tokens")
  if parameters is None or tokens is None:
    return ""
  seen = "untrained" if untrained else f"{console.short(tokens)} tokens"
  return f"{console.short(parameters)} parameters, {seen}"


def _name(path: str) -> str:
  """The stage of "{workdir}/NAME"."""
  return path.rpartition("/")[2]


def _percent(value: float, low: float | None, high: float | None) -> str:
  if low is None or high is None:
    return f"{100 * value:.1f} %"
  return f"{100 * value:.1f} % ({100 * max(low, 0.0):.1f} to {100 * min(high, 1.0):.1f})"


def _top1(folder: reading.RunFolder, what: str) -> Number:
  """Of probes, joint training and fine-tuning: top-1 at the layer that a hold-out chose.

  "peak": at the layer that is best on the held-out items, as figures show it.
  """
  metrics = folder.json("metrics.json")
  items = wording.counted(metrics["n"], "item")
  if "majority_top1" in metrics:
    items += f", the largest class {100 * metrics['majority_top1']:.1f} %"
  if what == "peak":
    best = {key: metrics[f"trained/chosen_on_validation/{key}"] for key in ("layer", "top1")}
    shown = f"a peak at layer {best['layer']}, {shares.percent(best['top1'], metrics['n'])}"
    return Number(best["layer"], shown, items)
  keys = [key for key in metrics if key.endswith(_HOLDOUT)]
  # Fine-tuning has one layer, and holds none out.
  keys = keys or [key for key in metrics if key.endswith("/chosen_on_validation/top1")]
  key = next(key for key in keys if not what or key.partition("/")[0] == what)
  value, n = metrics[key], metrics["n"]
  return Number(value, shares.percent(value, n), items)


def _loss(folder: reading.RunFolder, what: str) -> Number:
  """Of pre-training: its last held-out loss."""
  rows = [row for row in folder.lines("metrics.jsonl") if row["kind"] == "eval"]
  row = [row for row in rows if model_sections.sources(row)][-1]
  source = what or model_sections.sources(row)[0]
  loss, n = row[f"{source}/loss"], row.get(f"{source}/n")
  return Number(
    loss,
    _nats(loss, row.get(f"{source}/loss_sem")),
    wording.counted(round(n), "sequence") if n else "",
  )


def _nats(loss: float, sem: float | None) -> str:
  ends = "" if sem is None else f" ({loss - verdict.Z * sem:.3f} to {loss + verdict.Z * sem:.3f})"
  return f"{loss:.3f} nats{ends}"


def _by_place(folder: reading.RunFolder, what: str) -> Number:
  """Of a validation: the mean loss of some places of the sequence."""
  table = next(iter(folder.table("position_loss.csv").values()))
  frame, count = _FRAMES.get(what, (None, None))
  mine = table["frame"] == frame if frame is not None else table["frame"] >= 4
  means, weights = table["mean"][mine][:count], table["n"][mine][:count]
  value = float(np.average(means, weights=weights))
  return Number(value, _nats(value, None), wording.counted(int(weights.max()), "sequence"))


def _counts(folder: reading.RunFolder, what: str) -> Number:
  """Of a report on tokens: "STORE/codes", "STORE/bigrams" or "STORE/tokens"."""
  store, _, kind = what.rpartition("/")
  fact = folder.json("tokens.json")["stores"][store]
  if kind == "tokens":
    return Number(fact["tokens"], f"{console.short(fact['tokens'])} tokens", _records(fact))
  grams = fact["ngrams"][{"codes": 0, "bigrams": 1}[kind]]
  distinct = grams["distinct"]
  of = f" of {fact['vocab']:,}" if "vocab" in fact and kind == "codes" else ""
  return Number(distinct, f"{distinct:,}{of}", wording.counted(grams["images"], "image"))


def _records(fact: Mapping[str, Any]) -> str:
  return wording.counted(fact["records"], "record")


def _named(rows: list[dict[str, Any]], what: str, key: str = "row") -> dict[str, Any]:
  return next(row for row in rows if not what or row[key] == what)


def _tracked(folder: reading.RunFolder, what: str) -> Number:
  facts = folder.json("metrics.json")
  row = _named(facts["rows"], what)
  value = row[facts["score"]]
  shown = f"J&F {_percent(value, row.get('low'), row.get('high'))}"
  shown += f" at layer {row['layer']}" if row["last_layer"] else ""
  return Number(value, shown, wording.counted(facts["sequences"], "sequence"))


def _foreseen(folder: reading.RunFolder, what: str) -> Number:
  facts = folder.json("metrics.json")
  value, ends = facts[what], facts.get("interval", {}).get(what) or (None, None)
  sure = "" if None in ends else f" ({ends[0]:.1f} to {ends[1]:.1f})"
  return Number(value, f"{value:.1f} %{sure}", wording.counted(facts["n"], "query", "queries"))


def _snitch(folder: reading.RunFolder, what: str) -> Number:
  rows = folder.json("metrics.json")["rows"]
  row = _named([row for row in rows if row["group"] == "all"], what, "name")
  shown = _percent(row["top1"], row["top1_low"], row["top1_high"])
  return Number(row["top1"], shown, wording.counted(row["n"], "clip"))


def _cloned(folder: reading.RunFolder, what: str) -> Number:
  trials = _named(folder.json("metrics.json")["rows"], what)["trials"]
  share = trials["successes"] / trials["n"]
  return Number(share, shares.percent(share, trials["n"]), wording.counted(trials["n"], "trial"))


def _corrected(folder: reading.RunFolder, what: str) -> Number:
  facts = folder.json("metrics.json")
  row = _named(facts["rows"], what)
  last = row["last"]
  shown = _percent(last["mean"], last["low"], last["high"])
  return Number(last["mean"], shown, f"{facts['seeds']} x {wording.counted(row['n_ep'], 'trial')}")


def _optimum(folder: reading.RunFolder, what: str) -> Number:
  """Of a sweep: the best log2 of the rate of a model with µP."""
  rows = [row for row in folder.records("optima.csv") if row["parametrisation"] == "mup"]
  row = _named(rows, what, "model")
  value = float(row["log2_lr"] or row["grid"])
  low, high = (float(row[end] or "nan") for end in ("low", "high"))
  ends = f" (2^{low:.1f} to 2^{high:.1f})" if np.isfinite([low, high]).all() else ""
  return Number(value, f"2^{value:.1f}{ends}", wording.counted(row["seeds"], "seed"))


def _exponent(folder: reading.RunFolder, what: str) -> Number:
  del what
  laws = folder.json("laws.json")
  value, ends = laws["law"]["b"], laws.get("b_interval_95")
  sure = f" (-{ends[1]:.3f} to -{ends[0]:.3f})" if ends else ""
  return Number(
    value,
    f"exponent -{value:.3f}{sure}",
    f"{wording.counted(laws['points'], 'point')} of the frontier",
  )


def _end(folder: reading.RunFolder, what: str) -> Number:
  """Of curves: where the training loss of a run is."""
  rows = [row for row in folder.records("curves.csv") if not what or row["run"] == what]
  value = float(rows[-1]["loss"])
  tokens = page.filled("{tokens:short} tokens", rows[-1]) or ""
  return Number(value, f"{value:.3f} nats in training", tokens)


_READERS: Mapping[str, Callable[[reading.RunFolder, str], Number]] = {
  "probe": _top1,
  "joint": _top1,
  "finetune": _top1,
  "pretrain": _loss,
  "validate": _by_place,
  "tokens_report": _counts,
  "track": _tracked,
  "sta": _foreseen,
  "cater": _snitch,
  "clone": _cloned,
  "dagger": _corrected,
  "sweep": _optimum,
  "scaling": _exponent,
  "curves": _end,
}
