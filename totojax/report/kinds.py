"""Which page a run has, by the name of its job."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from totojax.report import (
  audit_page,
  cater_sections,
  check_sections,
  compare_page,
  curves_page,
  feature_sections,
  frame,
  layer_sections,
  miniature_page,
  model_sections,
  page,
  plan_page,
  prompt_sections,
  provenance,
  reading,
  report,
  robot_sections,
  scaling_page,
  sta_sections,
  store_sections,
  surprise_sections,
  sweep_page,
  tokens_page,
  track_sections,
  video_sections,
  world_sections,
)
from totojax.rundir import wording

KINDS: Mapping[str, frame.Kind] = {
  "pretrain": model_sections.TRAINING,
  "validate": model_sections.VALIDATION,
  "generate": video_sections.PAGE,
  "probe": layer_sections.PAGE,
  "finetune": layer_sections.PAGE,
  "joint": layer_sections.PAGE,
  "probe_seeds": layer_sections.SEEDS,
  "knn": layer_sections.NEIGHBOURS,
  "compare": compare_page.PAGE,
  "sweep": sweep_page.PAGE,
  "scaling": scaling_page.PAGE,
  "curves": curves_page.PAGE,
  "tokens_report": tokens_page.PAGE,
  "track": track_sections.PAGE,
  "cater": cater_sections.PAGE,
  "sta": sta_sections.PAGE,
  "sta_frozen": sta_sections.PAGE,
  "sta_seeds": sta_sections.SEEDS,
  "surprise": surprise_sections.PAGE,
  "prompt_tune": prompt_sections.PAGE,
  "feature_maps": feature_sections.PAGE,
  "world": world_sections.PAGE,
  "dagger": robot_sections.DAGGER,
  "clone": robot_sections.CLONE,
  "plan": plan_page.PAGE,
  "audit": audit_page.PAGE,
  "miniature": miniature_page.PAGE,
  **store_sections.KINDS,
  **check_sections.KINDS,
}
# In a chain only on the way to something: `report.SECTIONS` has what is worth a look.
_ON_THE_WAY = {*store_sections.KINDS, "export"} - {"record"}
_IN_CHAIN = {"pretrain", "validate", "generate", "probe", "probe_seeds", "knn"}  # `report.SECTIONS`


def of(folder: reading.RunFolder) -> frame.Kind:
  """The kind of page of a run directory.

  Raises:
    reading.Missing: it is none, or its config.json is damaged.
  """
  asked = reading.optional({}, folder.json, "config.json").get("run")
  if (folder.path / "plan.json").exists() and asked != "tokenize":  # which keeps one of its own
    return KINDS["plan"]
  if not (folder.path / "config.json").exists():
    if provenance.has_stages(folder):
      return chain(folder)
    raise reading.Absent("config.json")
  job = provenance.job(folder.json("config.json")) or "a run"
  if job == "chain":
    return miniature_page.PAGE if miniature_page.named(folder) else chain(folder)
  return KINDS.get(job) or frame.Kind(job, _ended, (("Numbers", _numbers),))


def chain(folder: reading.RunFolder) -> frame.Kind:
  """The page of a chain: of a model where it trained one, and of every other stage."""
  further: list[tuple[str, frame.Kind]] = []
  on_the_way: list[tuple[str, frame.Kind]] = []
  configs = {
    stage: reading.optional({}, folder.json, f"{stage}/config.json")
    for stage in provenance.stages(folder)
  }
  repeats = _repeats(configs)
  for stage, kept in configs.items():
    job = provenance.job(kept)
    kind = KINDS.get(job)
    if kind is None or stage in repeats or (job in _IN_CHAIN and _is_model(folder)):
      continue
    if job in ("pretrain", "validate") and not _is_model(folder):
      continue  # one of many: the page of the study has them
    (on_the_way if job in _ON_THE_WAY else further).append((stage, kind))
  if not _is_model(folder):
    further = further or on_the_way
  sections = list(report.SECTIONS)
  claim = model_sections.claim
  # Of a chain that is not finished the last stage that is.
  judges = [one for one in further if (folder.path / one[0] / "done.json").exists()] or further
  if judges and _judges_later(folder, judges[-1][0]):
    last = judges[-1][1]
    alike = judges[-1:] if last not in _JOINS else [one for one in judges if one[1] is last]
    claim = functools.partial(_claim_of, stages=alike)
  at = [title for title, _ in sections].index("Data")
  sections[at:at] = [
    (f"{stage}: {kind.about}", functools.partial(_stage, stage=stage, kind=kind))
    for stage, kind in further
  ]
  places = [place for _, kind in further for place in kind.paper]
  mine = report.PAPER if _is_model(folder) else ()
  return frame.Kind("report", claim, tuple(sections), tuple(dict.fromkeys((*mine, *places))))


_JOINS = (sta_sections.SEEDS,)  # of which a chain may have several, side by side
_WORKDIR = "{workdir}/"


def _repeats(configs: Mapping[str, Mapping[str, Any]]) -> set[str]:
  """Stages that another one puts together with a like stage before them, as seeds."""
  found: set[str] = set()
  for stage, kept in configs.items():
    for _, value in provenance.flat(kept):
      if not isinstance(value, list):
        continue
      named = [str(one).removeprefix(_WORKDIR) for one in value if str(one).startswith(_WORKDIR)]
      members = [one for one in named if one in configs and one != stage]
      jobs = {one: provenance.job(configs[one]) for one in members}
      found |= {one for one in members[1:] if jobs[one] == jobs[members[0]]}
  return found


def _is_model(folder: reading.RunFolder) -> bool:
  names = provenance.stages(folder)
  return "pretrain" in names or "validate" in names


def _judges_later(folder: reading.RunFolder, stage: str) -> bool:
  """Whether a stage, and not the training of a model, says how the chain came out."""
  names = provenance.stages(folder)
  return not _is_model(folder) or (
    "validate" not in names and names.index(stage) > names.index("pretrain")
  )


def _claim_of(
  folder: reading.RunFolder, *, stages: Sequence[tuple[str, frame.Kind]]
) -> frame.Claim:
  """What stages say of the chain: one, or several that are alike."""
  said = [kind.claim(reading.RunFolder(folder.path / stage)) for stage, kind in stages]
  sure = " ".join(f"{stage}: {one.interval}" for (stage, _), one in zip(stages, said))
  sure = sure if len(said) > 1 else said[0].interval
  open_yet = [
    stage for stage in provenance.stages(folder) if not (folder.path / stage / "done.json").exists()
  ]
  if open_yet and (folder.path / "config.json").exists():
    sure += f" Not finished: {', '.join(open_yet)}."
  good = {one.good for one in said}
  line = " ".join(one.line for one in said)
  return frame.Claim(line, sure.strip(), good.pop() if len(good) == 1 else None)


def _stage(folder: reading.RunFolder, *, stage: str, kind: frame.Kind) -> str:
  """The page of a stage, without its foot."""
  below = reading.RunFolder(folder.path / stage)
  said = kind.claim(below)
  out = [page.paragraph(f"{said.line} {said.interval}")]
  for title, body in kind.sections:
    try:
      content = body(below)
    except reading.Missing as reason:
      content = page.missing(reason)
    if content:
      out.append((f"<h3>{page.text(title)}</h3>" if title else "") + content)
  return "".join(out)


def _ended(folder: reading.RunFolder) -> frame.Claim:
  """Of a job that no page knows, as one of a plugin: whether it ended, and what it leaves."""
  done = (folder.path / "done.json").exists()
  job = provenance.job(folder.json("config.json")) or "The run"
  count = len(_values(folder))
  left = f"{wording.counted(count, 'number')} of its metrics.json below" if count else ""
  return frame.Claim(f"{job} is {'finished' if done else 'not finished'}.", left)


def _values(folder: reading.RunFolder) -> list[tuple[str, float]]:
  """Numbers of metrics.json, where the job leaves one."""
  return [
    (key, value)
    for key, value in provenance.flat(reading.optional({}, folder.json, "metrics.json"))
    if isinstance(value, int | float)
  ]


def _numbers(folder: reading.RunFolder) -> str:
  rows = [(key, f"{value:.6g}") for key, value in _values(folder)]
  return page.table(("", "value"), rows) if rows else ""
