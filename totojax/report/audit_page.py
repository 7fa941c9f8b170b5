"""The page of `run = "audit"`: what of the paper's numbers follows from others of its own.

Reads audit.csv alone.
"""

from totojax.report import frame, page, reading

_WORDS = {
  "rounds": "rounds to it",
  "cut off": "cut off, not rounded",
  "reads": "agrees with the figure to a per cent",
  "no": "no",
}


def _by_number(folder: reading.RunFolder) -> dict[str, list[dict[str, str]]]:
  """Readings of each printed number, by the place where it is printed."""
  out: dict[str, list[dict[str, str]]] = {}
  for row in folder.records("audit.csv"):
    out.setdefault(f"{row['where']} ({row['printed']})", []).append(row)
  return out


def claim(folder: reading.RunFolder) -> frame.Claim:
  """How many printed numbers some reading gives."""
  numbers = _by_number(folder)
  given = sum(any(row["verdict"] != "no" for row in rows) for rows in numbers.values())
  line = f"{given} of {len(numbers)} printed numbers follow from the rest of the paper."
  return frame.Claim(line, "worked out exactly: no interval")


def unexplained(folder: reading.RunFolder) -> str:
  """Numbers that no reading gives."""
  rows = [
    (row["where"], row["what"], row["printed"], f"{float(row['value']):.4g}")
    for group in _by_number(folder).values()
    if all(one["verdict"] == "no" for one in group)
    for row in group
  ]
  return page.table(("where", "reading", "printed", "worked out"), rows, words=2) if rows else ""


def everything(folder: reading.RunFolder) -> str:
  """All readings, table by table."""
  groups: dict[str, list[tuple[str, ...]]] = {}
  for row in folder.records("audit.csv"):
    value = f"{float(row['value']):.4g}"
    told = _WORDS.get(row["verdict"], row["verdict"])
    cells = (row["where"], row["source"], row["what"], row["printed"], value, told)
    groups.setdefault(row["where"].partition(",")[0], []).append(cells)
  head = ("where", "source", "reading", "printed", "worked out", "is it that?")
  return "".join(
    page.fold(f"{name}: {len(rows)} readings", page.table(head, rows, words=3))
    for name, rows in groups.items()
  )


PAGE = frame.Kind(
  "the paper, worked out again",
  claim,
  (("What no reading gives", unexplained), ("Every reading", everything)),
  paper=("Tables 1, 2, 4, 5, 6, 10, 12 and 15", "Figure 9"),
)
