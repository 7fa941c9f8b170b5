"""Sections of a report about videos that a model goes on with."""

from collections.abc import Mapping
from typing import Any

from totojax.report import frame, page, reading
from totojax.rundir import files, wording

_SHOWN = 4  # clips of a chain's page
_TITLE = "Continued videos"

_OF = {
  "model": "the model, true frames given",
  "copy": "copying the frame before, true frames given",
  "sample": "the model's videos",
  "best": "the best of its videos for each clip",
  "recon": "the true frames through the tokenizer",
  "copy_last": "the last given frame, again and again",
  "mean_frame": "the mean of the given frames",
  "unigram": "tokens by their frequency alone",
  "truth": "the true frames",
}
# Head of a column, measures that it may be of (the first there is), format.
_COLUMNS = (
  ("nats/token", ("loss",), "{:.3f}"),
  ("tokens right", ("accuracy",), "{:.1%}"),
  ("PSNR, dB", ("psnr_db/truth", "psnr_db/recon"), "{:.1f}"),
  ("SSIM", ("ssim/truth", "ssim/recon"), "{:.3f}"),
  ("LPIPS", ("lpips/truth", "lpips/recon"), "{:.3f}"),
  ("tokens that change", ("change",), "{:.1%}"),
)


def continued(folder: reading.RunFolder, *, prefix: str = "", shown: int | None = None) -> str:
  """Clips as the model goes on with them, beside the truth, and how near they come.

  Args:
    folder: of the run, or of a chain.
    prefix: of the run's files in it, as "generate/".
    shown: clips at most; None: all that were drawn.
  """
  facts = folder.json(f"{prefix}gen.json")
  order = {"webp": "left to right", "png": "above to below"}
  figures = page.gallery(
    page.figure(
      page.picture(folder.bytes(f"{prefix}{one[kind]}"), kind, f"continued clip {one['id']}"),
      f"{one['id']}. From {order[kind]}: {', '.join(one['columns'])}.",
    )
    for one in facts["drawn"][:shown]
    for kind in ["webp" if "webp" in one else "png"]
  )
  how = (
    f"{wording.counted(facts['clips'], 'clip')};"
    f" {wording.counted(facts['given_frames'], 'frame')} are given (grey bar) and"
    f" {facts['new_frames']} are made (orange bar), at temperature"
    f" {facts['sampling']['temperature']:g}, {facts['samples']} for each clip."
  )
  known = facts.get("known_frames", {"least": 0, "new": 0})
  if known["least"] < known["new"]:
    how += (
      f" What follows is known for {known['least']} to {known['most']} of {known['new']} new frames"
      " of a clip: what is compared is of these alone."
    )
  if facts.get("skipped"):
    how += f" {wording.counted(facts['skipped'], 'file')} gave no clip (skipped.csv)."
  said = claim(folder, prefix=prefix)
  text = page.paragraph(f"{said.line} {said.interval}".strip()) if prefix else ""
  return text + page.paragraph(how, "soft") + figures + _table(facts) + _distances(facts)


def claim(folder: reading.RunFolder, *, prefix: str = "") -> frame.Claim:
  """Whether the model knows more of what comes next than copying does."""
  facts = folder.json(f"{prefix}gen.json")
  if "answers" in facts:
    return frame.Claim(
      "Example pairs and a query are given; the last frame is the model's answer (answers/)."
    )
  difference = facts["model_less_copy"]
  if difference is None:
    return frame.Claim("No frame after those given could be compared with what a copy would be.")
  better = "less" if difference["mean"] < 0 else "more"
  line = (
    f"On the true next frames the model loses {abs(difference['mean']):.3f} nats per token {better}"
    " than copying the frame before"
  )
  if difference["low"] is None:
    return frame.Claim(f"{line}.", "On one clip: no interval.")
  low, high = difference["low"], difference["high"]
  sure = (
    f"95 % interval of the difference: {low:.3f} to {high:.3f},"
    f" {wording.counted(difference['n'], 'clip')}."
  )
  return frame.Claim(f"{line}.", sure, None if low <= 0 <= high else high < 0)


def _table(facts: Mapping[str, Any]) -> str:
  metrics, rows = facts["metrics"], []
  seen = facts.get("perceptual", {})
  columns = [column for column in _COLUMNS if column[0] != "LPIPS" or "lpips" in seen]
  for of, name in _OF.items():
    cells = []
    for _, measures, form in columns:
      found = [metrics[f"{of}/{m}"] for m in measures if f"{of}/{m}" in metrics]
      mean = found[0]["mean"] if found else None
      cells.append("" if mean is None else form.format(mean))
    if any(cells):
      rows.append((name, *cells))
  table = page.table(("", *(head for head, _, _ in columns)), rows)
  return table + (page.paragraph(seen["lpips"]["label"] + ".", "soft") if "lpips" in seen else "")


def _distances(facts: Mapping[str, Any]) -> str:
  """Fréchet's distances, with all that they depend on."""
  found = facts.get("perceptual", {}).get("frechet")
  if found is None:
    return ""
  values, names = found["distances"], {**_OF, "halves": "one half of the clips to the other"}
  against = [of for of in ("truth", "recon") if any(key.endswith(f"/{of}") for key in values)]
  rows = []
  for of, name in names.items():
    cells = [values.get(f"{of}/{reference}") for reference in against]
    if any(cell is not None for cell in cells):
      rows.append((name, *("" if cell is None else f"{cell:.4g}" for cell in cells)))
  heads = [f"to {_OF[reference]}" for reference in against]
  notes = [found["label"] + ".", *([found["note"] + "."] if found["note"] else [])]
  return page.table(("", *heads), rows) + "".join(page.paragraph(note, "soft") for note in notes)


def of_chain(folder: reading.RunFolder) -> str:
  """The same of a chain's stage; nothing of a chain that has none."""
  if not (folder.path / "generate").exists():
    return ""
  return continued(folder, prefix="generate/", shown=_SHOWN)


def while_trained(folder: reading.RunFolder, *, prefix: str = "pretrain/") -> str:
  """The same clips, gone on with at the first, a middle and the last evaluation."""
  place = f"{prefix}samples"
  paths = [path for path in files.children(folder.path / place) if path.suffix == ".webp"]
  if not paths:
    return ""
  some = dict.fromkeys((paths[0], paths[(len(paths) - 1) // 2], paths[-1]))
  figures = page.gallery(
    page.figure(
      page.picture(folder.bytes(f"{place}/{path.name}"), "webp", f"samples of step {path.stem}"),
      f"After {wording.counted(int(path.stem), 'update')}: on the left held-out clips, on the"
      " right what the model"
      " makes of their first halves.",
    )
    for path in some
  )
  claim = f"The same clips and draws each time, {len(paths)} in all: {place}."
  return page.paragraph(claim, "soft") + figures


PAGE = frame.Kind("continued videos", claim, ((_TITLE, continued),))
