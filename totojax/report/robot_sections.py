"""Sections of a report about policies: success over steps, layers, trials, videos."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import Any

from matplotlib import ticker
import numpy as np

from totojax.report import frame, page, plots, reading, shares
from totojax.rundir import wording

_ROWS = {
  "blind": "blind: its own joints, no frame",
  "state": "where everything is (upper bound)",
  "pixels": "small frames themselves",
}
_TASKS = {
  **{"pick": "cube pick", "cabinet": "cabinet drawer"},
  **{"lift": "robosuite's cube lift", "door": "robosuite's door"},
}


def name(row: Mapping[str, Any]) -> str:
  """A row in words, with its layer where its encoder has several."""
  text = _ROWS.get(row["row"]) or str(row["row"])
  return f"{text}, layer {row['layer']}" if row.get("several") else text


def _ends(one: Mapping[str, Any]) -> str:
  if one["low"] is None:
    return f"{100 * one['mean']:.0f} %"
  return f"{100 * one['mean']:.0f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})"


def sentences(facts: Mapping[str, Any]) -> Iterator[str]:
  """What each row's policies come to."""
  for row in facts["rows"]:
    half = row["steps_to_half_mean"]
    when = (
      "not all reach 50 %" if half is None else f"50 % after {wording.counted(round(half), 'step')}"
    )
    yield f"{name(row)}: success {_ends(row['last'])}, area {row['area']['mean']:.2f}, {when}"


def curve(folder: reading.RunFolder) -> str:
  """Success over steps of roll-outs, and what it comes to."""
  facts = folder.json("metrics.json")
  points = folder.records("curve.csv")
  env, expert = facts["env"], facts["expert"]
  rows = []
  for row in facts["rows"]:
    reached = [one for one in row["steps_to_half"] if one is not None]
    half = row["steps_to_half_mean"]
    told = (
      f"{half:,.0f}"
      if half is not None
      else f"{len(reached)} of {wording.counted(facts['seeds'], 'run')} do"
    )
    rows.append({**row, "name": name(row), "half": told})
  columns = (
    ("what policies see", "{name}"),
    ("layer", "{layer}"),
    ("success in the end, %", "{last[mean]:percent}"),
    ("95 % from", "{last[low]:percent}"),
    ("to", "{last[high]:percent}"),
    ("area under the curve", "{area[mean]:.3f}"),
    ("steps to 50 %", "{half}"),
  )
  first = facts["rows"][0]
  caption = (
    f"{env['arm']}, {_TASKS[env['task']]}: share of {wording.counted(first['n_ep'], 'trial')}"
    " that succeed, over steps"
    " of roll-outs (without those of trials); means of"
    f" {wording.counted(facts['seeds'], 'seed')} with 95 % intervals"
    f" (Student's t). Dashed: the expert. Figure 6 of the paper."
  )
  share = expert["successes"] / expert["n_ep"]
  out = [
    plots.figure(
      _over_steps(points, facts["rows"], share),
      caption,
      name="dagger",
      label="Success over steps of roll-outs",
    ),
    page.records(columns, rows),
    page.paragraph(
      f"The expert succeeds in {shares.percent(share, expert['n_ep'])} of"
      f" {wording.counted(expert['n_ep'], 'trial')},"
      f" in {wording.counted(round(expert['steps']), 'step')} on average. The area is the mean"
      " success up to"
      f" {wording.counted(round(first['area_steps']), 'step')}, the most that all runs have.",
      "soft",
    ),
  ]
  return "".join(out)


def _curves(
  points: Sequence[Mapping[str, str]], row: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """(steps, successes) [seeds, iterations] of a row."""
  mine = [p for p in points if (p["row"], int(p["layer"])) == (row["row"], row["layer"])]
  by_seed = {p["seed"]: [q for q in mine if q["seed"] == p["seed"]] for p in mine}
  table = lambda key: np.array([[float(p[key]) for p in each] for each in by_seed.values()])
  return table("env_steps"), table("success_mean")


def _over_steps(
  points: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]], expert: float
) -> plots.Draw:
  def draw(axes, palette):
    markers = itertools.cycle("osD^")
    for row, look, marker in zip(rows, palette.looks(), markers):
      steps_SI, success_SI = _curves(points, row)
      mean_I = success_SI.mean(0)
      low_I, high_I = intervals(success_SI)
      look |= {"label": name(row), "marker": marker, "lw": 1.4}
      bars = 100 * np.stack([mean_I - low_I, high_I - mean_I])
      plots.points(axes, (steps_SI.mean(0), 100 * mean_I), bars, **look)
    axes.axhline(100 * expert, color=palette.ink, lw=0.9, ls=plots.LEVEL, alpha=0.6)
    axes.set(xlabel="steps of roll-outs", ylabel="success, %", ylim=(0, 103), xlim=(0, None))
    axes.xaxis.set_major_formatter(plots.short_ticks())
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

  return draw


def intervals(values_SI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(low, high) of means over seeds, by Student's t, within 0 and 1."""
  seeds = len(values_SI)
  mean_I = values_SI.mean(0)
  if seeds < 2:
    return mean_I, mean_I
  from scipy import stats  # slow to import

  level = (1 + shares.LEVEL) / 2
  half_I = stats.t.ppf(level, seeds - 1) * values_SI.std(0, ddof=1) / np.sqrt(seeds)
  return np.clip(mean_I - half_I, 0, 1), np.clip(mean_I + half_I, 0, 1)


def layers(folder: reading.RunFolder) -> str:
  """Violins of success by layer, of encoders with several (Figure 8)."""
  facts = folder.json("metrics.json")
  several = [row for row in facts["rows"] if row["several"]]
  if not several:
    return ""
  points = folder.records("curve.csv")
  caption = (
    "Success by layer over the later half of all runs' iterations; a violin shows how it spreads"
    " over these and over seeds, and its line the mean. Figure 8 of the paper."
  )
  label = "Success by layer"
  return plots.figure(_violins(points, several), caption, name="layers", label=label)


def _violins(points: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]]) -> plots.Draw:
  names = list(dict.fromkeys(row["row"] for row in rows))

  def draw(axes, palette):
    for number, (encoder, look) in enumerate(zip(names, palette.looks())):
      mine = [row for row in rows if row["row"] == encoder]
      shift = 0.8 * ((number + 0.5) / len(names) - 0.5)
      places = [row["layer"] + shift for row in mine]
      values = []
      for row in mine:
        _, success_SI = _curves(points, row)
        values.append(100 * success_SI[:, success_SI.shape[1] // 2 :].reshape(-1))
      parts = axes.violinplot(values, places, widths=0.7 / len(names), showmeans=True)
      for body in parts["bodies"]:
        body.set(facecolor=look["color"], alpha=0.35)
      for line in ("cmeans", "cmins", "cmaxes", "cbars"):
        parts[line].set(color=look["color"], lw=1.0)
      axes.plot(places, [v.mean() for v in values], lw=1.0, label=encoder, **look)
    axes.set(xlabel="layer (0: embeddings)", ylabel="success, %", ylim=(0, 103))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(12, integer=True))
    axes.legend(fontsize=8)

  return draw


def videos(folder: reading.RunFolder) -> str:
  """Roll-outs, as they are played."""
  out = []
  for one in folder.json("metrics.json")["videos"]:
    won = ", ".join("succeeds" if yes else "fails" for yes in one["succeeded"])
    caption = f"{name(one)}, from left to right: {won}."
    alt = f"roll-outs of {name(one)}"
    out.append(page.figure(page.picture(folder.bytes(one["webp"]), "webp", alt), caption))
  return "".join(out)


def cloned(folder: reading.RunFolder) -> str:
  """Held-out errors of cloned policies, and trials."""
  facts = folder.json("metrics.json")
  rows = []
  for row in facts["rows"]:
    told = {"name": name(row), **row}
    if trials := row.get("trials"):
      share = trials["successes"] / trials["n"]
      told["won"] = f"{trials['successes']} of {trials['n']}"
      told["low"], told["high"] = shares.wilson(share, trials["n"])
      told["share"] = share
    rows.append(told)
  columns = [
    ("what the policy sees", "{name}"),
    ("layer", "{layer}"),
    ("held-out error", "{error[mean]:.4f}"),
    ("95 % from", "{error[low]:.4f}"),
    ("to", "{error[high]:.4f}"),
    ("on training steps", "{train_error:.4f}"),
  ]
  if any("won" in row for row in rows):
    columns += [("trials", "{won}"), ("%", "{share:percent}")]
    columns += [("95 % from", "{low:percent}"), ("to", "{high:percent}")]
  out = [page.records(columns, rows)]
  amounts = facts["amounts"]
  out.append(
    page.paragraph(
      f"{wording.counted(amounts['train'], 'trajectory', 'trajectories')}"
      f" ({wording.counted(amounts['train_steps'], 'step')}) are learned from,"
      f" {amounts['heldout']} ({wording.counted(amounts['heldout_steps'], 'step')}) held out."
      " The error is the mean"
      " squared difference of actions over their mean square: 1 is a policy that does nothing."
      " Intervals of errors are of a bootstrap over held-out trajectories, those of trials"
      f" Wilson's; {wording.counted(facts['seeds'], 'policy', 'policies')} of each row.",
      "soft",
    )
  )
  if paper := facts.get("paper"):
    share = paper["successes"] / paper["trials"]
    out.append(
      page.paragraph(
        f"Paper, {paper['name']}: {paper['successes']} of"
        f" {wording.counted(paper['trials'], 'trial')},"
        f" {shares.percent(share, paper['trials'])}; the interval is ours.",
        "soft",
      )
    )
  return "".join(out)


def verdict(facts: Mapping[str, Any]) -> frame.Claim:
  """Whether a policy that sees is above a blind one: in trials, or in held-out error."""
  rows = facts["rows"]
  seen = [row for row in rows if row["row"] not in ("blind", "state")] or rows
  blind = next((row for row in rows if row["row"] == "blind"), None)
  tried = [row for row in seen if row.get("trials")]
  if tried:
    best = max(tried, key=lambda row: (row["trials"]["successes"], -row["error"]["mean"]))
    return _in_trials(best, None if best is blind else blind)
  best = min(seen, key=lambda row: row["error"]["mean"])
  return _in_error(best, None if best is blind else blind)


_BLIND = "Blind: it is told the arm's own joints, and sees no frame."


def _in_trials(best: Mapping[str, Any], blind: Mapping[str, Any] | None) -> frame.Claim:
  """Of trials of the best policy that sees, against those of the blind one."""
  won, n = best["trials"]["successes"], best["trials"]["n"]
  line = f"The policy that sees {_seen(best)} succeeds in {100 * won / n:.0f} % of trials"
  sure = f"95 %: {shares.percent(won / n, n)}"
  if not (blind and blind.get("trials")):
    return frame.Claim(
      f"{line}.", f"{sure} of {wording.counted(n, 'trial')}; no blind policy was tried beside it."
    )
  other, m = blind["trials"]["successes"], blind["trials"]["n"]
  low, high = shares.difference(won / n, other / m, min(n, m))
  gap = won / n - other / m
  good = True if low > 0 else False if high < 0 else None
  word = _word(gap, good)
  line += f", {word} the blind one ({100 * other / m:.0f} %)."
  sure += (
    f" of {wording.counted(n, 'trial')}, blind {shares.percent(other / m, m)} of {m};"
    " the difference is"
  )
  sure += f" {100 * gap:+.0f} points ({100 * low:+.0f} to {100 * high:+.0f}). {_BLIND}"
  return frame.Claim(line, sure, good)


def _in_error(best: Mapping[str, Any], blind: Mapping[str, Any] | None) -> frame.Claim:
  """Of actions on held-out trajectories; less error is better."""
  error = best["error"]
  line = f"The policy that sees {_seen(best)} has a held-out error of {error['mean']:.3f}"
  sure = f"95 % from {error['low']:.4f} to {error['high']:.4f}"
  if error["low"] is None:
    sure = "no interval: one trajectory is held out"
  if not blind:
    return frame.Claim(f"{line}.", f"{sure}; no blind policy stands beside it.")
  less: Mapping[str, Any] = best.get("less_than_blind") or {"low": None}
  good, gap = None, blind["error"]["mean"] - error["mean"]
  if less["low"] is not None:
    good = True if less["low"] > 0 else False if less["high"] < 0 else None
    gap = less["mean"]
    sure += f"; blind is {gap:+.4f} from it ({less['low']:+.4f} to {less['high']:+.4f},"
    sure += " of the same trajectories)"
  word = _word(-gap, good)
  line += f", {word} the blind one's {blind['error']['mean']:.3f} (less is better)."
  return frame.Claim(line, f"{sure}. {_BLIND}", good)


def _word(gap: float, is_good: bool | None) -> str:
  side = "above" if gap > 0 else "below"
  if is_good is None:
    return f"not surely {side}" if gap else "level with"
  return side


def _seen(row: Mapping[str, Any]) -> str:
  """What a policy sees, in a sentence."""
  return "small frames" if row["row"] == "pixels" else f"features of {name(row)}"


def claim_of_curves(folder: reading.RunFolder) -> frame.Claim:
  """The best encoder's success in the end, above or below what learned nothing."""
  facts = folder.json("metrics.json")
  rows = facts["rows"]
  seen = [row for row in rows if row["row"] not in ("blind", "state")] or rows
  simple = [row for row in seen if row["row"] == "pixels" or row["row"].endswith("-untrained")]
  top = max([row for row in seen if row not in simple] or seen, key=lambda r: r["last"]["mean"])
  line = f"Policies that see {_seen(top)} succeed in {100 * top['last']['mean']:.0f} %"
  line, good = f"{line} of trials in the end", None
  if others := [row for row in simple if row is not top]:
    best = max(others, key=lambda row: row["last"]["mean"])
    one, other = top["last"], best["last"]
    if None not in (one["low"], one["high"], other["low"], other["high"]):
      good = True if one["low"] > other["high"] else False if one["high"] < other["low"] else None
    line += f", {_word(one['mean'] - other['mean'], good)} those that see {_seen(best)}"
    line += f" ({100 * other['mean']:.0f} %)"
  each = "; ".join(f"{name(row)} {_ends(row['last'])}" for row in rows)
  sure = f"95 % over {facts['seeds']} seeds" if facts["seeds"] > 1 else "No interval: one seed"
  return frame.Claim(f"{line}.", f"{sure}. {each}.", good)


def claim_of_clones(folder: reading.RunFolder) -> frame.Claim:
  """Whether what is seen is of use."""
  return verdict(folder.json("metrics.json"))


DAGGER = frame.Kind(
  "robots",
  claim_of_curves,
  (("Success over steps", curve), ("Layers", layers), ("Roll-outs", videos)),
  ("Figure 6", "Figure 8"),
)
CLONE = frame.Kind(
  "behaviour cloning",
  claim_of_clones,
  (("Behaviour cloning", cloned), ("Roll-outs", videos)),
  ("Table 11",),
)
