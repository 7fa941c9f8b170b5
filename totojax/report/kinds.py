"""Which page a run has, by the name of its job."""

from collections.abc import Mapping
import functools
from typing import Any

from totojax.report import (
  audit_page,
  cater_sections,
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
  surprise_sections,
  sweep_page,
  tokens_page,
  track_sections,
  video_sections,
  world_sections,
)

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
  "surprise": surprise_sections.PAGE,
  "prompt_tune": prompt_sections.PAGE,
  "feature_maps": feature_sections.PAGE,
  "world": world_sections.PAGE,
  "dagger": robot_sections.DAGGER,
  "clone": robot_sections.CLONE,
  "plan": plan_page.PAGE,
  "audit": audit_page.PAGE,
  "miniature": miniature_page.PAGE,
}
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
  job = folder.json("config.json").get("run", "?")
  if job == "chain":
    return miniature_page.PAGE if miniature_page.named(folder) else chain(folder)
  return KINDS.get(job) or frame.Kind(str(job), _nothing, (("Numbers", _numbers),))


def chain(folder: reading.RunFolder) -> frame.Kind:
  """The page of a chain: of a model where it trained one, and of every other stage."""
  further = []
  for stage in provenance.stages(folder):
    kept = reading.optional({}, folder.json, f"{stage}/config.json")
    kind = KINDS.get(kept.get("run", ""))
    if kind is None or (kept["run"] in _IN_CHAIN and _is_model(folder)):
      continue
    if kept["run"] in ("pretrain", "validate") and not _is_model(folder):
      continue  # one of many: the page of the study has them
    further.append((stage, kind))
  sections = list(report.SECTIONS)
  claim = model_sections.claim
  if further and _judges_later(folder, further[-1][0]):
    stage, kind = further[-1]
    claim = functools.partial(_claim_of, stage=stage, kind=kind)
  at = [title for title, _ in sections].index("Data")
  sections[at:at] = [
    (f"{stage}: {kind.about}", functools.partial(_stage, stage=stage, kind=kind))
    for stage, kind in further
  ]
  places = [place for _, kind in further for place in kind.paper]
  mine = report.PAPER if _is_model(folder) else ()
  return frame.Kind("report", claim, tuple(sections), tuple(dict.fromkeys((*mine, *places))))


def _is_model(folder: reading.RunFolder) -> bool:
  names = provenance.stages(folder)
  return "pretrain" in names or "validate" in names


def _judges_later(folder: reading.RunFolder, stage: str) -> bool:
  """Whether a stage, and not the training of a model, says how the chain came out."""
  names = provenance.stages(folder)
  return not _is_model(folder) or (
    "validate" not in names and names.index(stage) > names.index("pretrain")
  )


def _claim_of(folder: reading.RunFolder, *, stage: str, kind: frame.Kind) -> frame.Claim:
  return kind.claim(reading.RunFolder(folder.path / stage))


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


def _nothing(folder: reading.RunFolder) -> frame.Claim:
  """Of a job whose numbers no page judges."""
  done = (folder.path / "done.json").exists()
  job = folder.json("config.json").get("run", "?")
  return frame.Claim(
    f"{job} is {'finished' if done else 'not finished'}.", "nothing is judged here"
  )


def _numbers(folder: reading.RunFolder) -> str:
  """What metrics.json has, where the job leaves one."""
  values = reading.optional({}, folder.json, "metrics.json")
  rows: list[tuple[str, Any]] = [
    (key, f"{value:.6g}")
    for key, value in provenance.flat(values)
    if isinstance(value, int | float)
  ]
  return page.table(("", "value"), rows) if rows else ""
