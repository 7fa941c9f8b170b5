"""Numbers in sentences, for pages and for lines of the console."""


def counted(count: int, noun: str, many: str = "") -> str:
  """ "1 run", "2,000 runs"; `many` is the plural where an s does not make it."""
  return f"{count:,} {plural(count, noun, many)}"


def plural(count: int, noun: str, many: str = "") -> str:
  """ "run" of one, "runs" of any other number."""
  return noun if count == 1 else many or f"{noun}s"
