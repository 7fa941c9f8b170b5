"""Sections of a report about prompts of pictures and what models answer."""

from collections.abc import Iterator, Mapping
from typing import Any

from totojax.report import frame, page, reading
from totojax.rundir import wording

_OF = {
  "tuned": "the tuned model",
  "untuned": "the model before it",
  "exchanged": "the tuned model, outputs of the examples from other prompts",
  "copy_query": "the query, copied",
  "copy_example": "the output of the last example",
  "mean_example": "the mean of the examples' outputs",
  "tokenizer": "the true answer through the tokenizer: the bound",
}
_RIVALS = ("untuned", "copy_query", "copy_example", "mean_example")
_MEASURES = {
  "abs_rel": ("absolute relative depth error, less is better", "{:.3f}"),
  "miou": ("mean intersection over union, more is better", "{:.3f}"),
  "psnr_db": ("PSNR in dB, more is better", "{:.2f}"),
}


def claim(folder: reading.RunFolder) -> frame.Claim:
  """In which tasks the tuned model is better than all that it is compared with."""
  results = folder.json("prompt_tune.json")["results"]
  won = [
    task
    for task, one in results.items()
    if all(one["tuned_less"][rival]["is_better"] for rival in _RIVALS)
  ]
  task, one = next(
    (pair for pair in results.items() if pair[0] in won), next(iter(results.items()))
  )
  name, form = _MEASURES[one["measure"]]
  line = (
    f"The tuned model beats copies, means and itself untuned in {len(won)} of"
    f" {wording.counted(len(results), 'task')}"
  )
  said = f"{task}: {name.partition(',')[0]} {_interval(one['scores']['tuned'], form)}, 95 %"
  return frame.Claim(
    f"{line}.",
    f"{said}, on {wording.counted(one['scores']['tuned']['n'], 'prompt')}.",
    bool(won) or None,
  )


def sentences(facts: Mapping[str, Any]) -> Iterator[str]:
  """A line for each task: what the tuned model has, and what it is better than."""
  for task, one in facts["results"].items():
    measure, scores = one["measure"], one["scores"]
    name, form = _MEASURES[measure]
    words = {True: "better than", False: "worse than", None: "not told from"}
    groups: dict[str, list[str]] = {word: [] for word in words.values()}
    for rival in _RIVALS:
      is_better = one["tuned_less"][rival]["is_better"]
      groups[words[is_better]].append(f"{_OF[rival]} ({_number(scores[rival]['mean'], form)})")
    verdicts = "; ".join(f"{word} {', '.join(some)}" for word, some in groups.items() if some)
    yield (
      f"{task}: {name.partition(',')[0]} {_interval(scores['tuned'], form)} on"
      f" {wording.counted(scores['tuned']['n'], 'prompt')}: {verdicts}; the tokenizer's bound is"
      f" {_number(scores['tokenizer']['mean'], form)}"
    )


def _number(value: float | None, form: str) -> str:
  return "-" if value is None else form.format(value)


def _interval(score: Mapping[str, Any], form: str) -> str:
  mean = _number(score["mean"], form)
  if score["low"] is None:
    return mean
  return f"{mean} ({form.format(score['low'])} to {form.format(score['high'])})"


def found(folder: reading.RunFolder) -> str:
  """Each task: its verdict, the table, and answers beside the truth."""
  facts = folder.json("prompt_tune.json")
  where = facts["root"] or "scenes that the project draws"
  text = page.paragraph(
    f"{wording.counted(facts['steps'], 'update')} on prompts of"
    f" {wording.counted(facts['examples'], 'pair')} and a query, of {where}."
    f" Scored on queries that are held out, at temperature {facts['sampling']['temperature']:g}."
    f" Intervals are of 95 %, by a bootstrap over prompts; {facts['conventions']['abs_rel']}.",
    "soft",
  )
  for sentence, (task, one) in zip(sentences(facts), facts["results"].items()):
    text += f"<h3>{page.text(task)}</h3>" + page.paragraph(sentence) + _table(one)
    if one["picture"]:
      text += page.figure(
        page.picture(folder.bytes(one["picture"]), "png", f"answers to prompts of {task}"),
        "A prompt in each row: its last examples, input and output each; the query; the truth; the"
        " truth through the tokenizer (grey bars); then the answers of the tuned and of the untuned"
        " model (orange bars).",
      )
  return text


def _table(one: Mapping[str, Any]) -> str:
  name, form = _MEASURES[one["measure"]]
  rows = []
  for of, words in _OF.items():
    if of in one["scores"]:
      less = one["tuned_less"].get(of)
      told = "" if less is None else _interval(less, form.replace("{:", "{:+"))
      rows.append((words, _interval(one["scores"][of], form), told))
  return page.table(("", name, "the tuned model less this"), rows)


PAGE = frame.Kind("prompts", claim, (("Prompts", found),))
