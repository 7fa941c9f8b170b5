"""Sections of the page about clips of a rendered world."""

from totojax.report import frame, page, reading, shares
from totojax.rundir import wording

FILE = "world.json"


def claim(folder: reading.RunFolder) -> frame.Claim:
  """How much there is."""
  facts = folder.json(FILE)
  line = (
    f"{wording.counted(facts['clips'], 'clip')} of"
    f" {wording.counted(facts['frames'], 'frame')} in all, with exact labels."
  )
  carried = facts.get("carried_frac")
  if carried is None:
    return frame.Claim(line, "Counted whole: no interval.")
  sure = f"The snitch is carried, hidden, in {shares.percent(carried, facts['clips'])}, 95 %"
  return frame.Claim(line, sure)


def found(folder: reading.RunFolder) -> str:
  """How much there is, and what happens in it."""
  facts = folder.json(FILE)
  per_clip = [
    (verb, f"{count:,}", f"{count / facts['clips']:.2f}") for verb, count in facts["events"].items()
  ]
  carried = facts.get("carried_frac")
  return (
    page.facts(
      {
        "clips": f"{facts['clips']:,}",
        "frames": f"{facts['frames']:,}",
        "things seen, of all in all frames": page.share(facts["seen_frac"]),
        "clips whose snitch is carried, hidden, into another cell": (
          None if carried is None else page.share(carried)
        ),
      }
    )
    + page.table(("event", "in all", "a clip"), per_clip)
    + (
      page.table(("class", "clips"), [(k, f"{n:,}") for k, n in facts["labels"].items()])
      if facts["labels"]
      else ""
    )
  )


def shown(folder: reading.RunFolder) -> str:
  """Sheets of some clips."""
  names = folder.json(FILE)["sheets"]
  return page.gallery(
    page.figure(
      page.picture(folder.bytes(f"sheets/{name}"), "png", f"frames of clip {name[:-4]}"),
      f"Clip {int(name[:-4])}: frames, masks by number in DAVIS's colours, and depth (light:"
      " near).",
    )
    for name in names
  )


PAGE = frame.Kind("a rendered world", claim, (("What is in it", found), ("Some clips", shown)))
