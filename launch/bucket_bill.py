"""What a run asks of its bucket: requests, bytes, and their price.

  python launch/bucket_bill.py --prices prices.json --saves 95 \
    --rows 9500 --tokens 1e12 --context 4096 --parameters 1.1e9 --days 4 \
    --save_a A --save_b B

`prices.json` is yours, from your provider's list, in one currency:
{"class_a_per_1000": A, "class_b_per_1000": B, "gib_month": S, "gib_out": O}.
Class A writes and lists, class B reads; deleting is free. The requests of a
save of all hosts are yours to count; tests/test_pod_day.py prints them of two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib

# How often they are written at most, in seconds.
ROWS_S, EVENTS_S, LEASE_S = 10.0, 60.0, 30.0
_GIB, _DAY_S = 2.0**30, 86_400.0


@dataclasses.dataclass(frozen=True)
class Line:
  """One thing that a run does; bytes are those it moves."""

  what: str
  class_a: float
  class_b: float
  bytes: float


def lines(
  *,
  saves: int,
  rows: int,
  tokens: float,
  context: int,
  parameters: float,
  days: float,
  token_bytes: int,
  save_a: float,
  save_b: float,
) -> list[Line]:
  """What a run of so many days asks for.

  Args:
    saves: checkpoints that are written: parameters and two moments, float32.
    rows: of metrics.jsonl, about 280 bytes each.
    tokens: that are read, in records of `context`, each a request of its own
      (fewer where neighbours are read at once).
    context: tokens of a record.
    parameters: of the model.
    days: the run takes.
    token_bytes: of a token in a store.
    save_a: requests of class A of a save, of all hosts.
    save_b: of class B.
  """
  seconds = days * _DAY_S
  return [
    Line("tokens", 0, tokens / context, tokens * token_bytes),
    Line("checkpoints", saves * save_a, saves * save_b, saves * parameters * 12),
    Line("metrics", min(rows, seconds / ROWS_S), 0, rows * 280.0),
    Line("TensorBoard", seconds / EVENTS_S, 0, 0),
    Line("lease", seconds / LEASE_S, 0, 0),
  ]


def main(words: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--prices", type=pathlib.Path, help="a JSON file; without, no money is told")
  parser.add_argument("--saves", type=int, default=95)
  parser.add_argument("--kept", type=int, default=2, help="checkpoints that stay")
  parser.add_argument("--rows", type=int, default=9500)
  parser.add_argument("--tokens", type=float, default=1e12)
  parser.add_argument("--context", type=int, default=4096)
  parser.add_argument("--parameters", type=float, default=1.1e9)
  parser.add_argument("--days", type=float, default=1.0)
  parser.add_argument("--token_bytes", type=int, default=2, help="of a token in a store")
  parser.add_argument("--save_a", type=float, required=True, help="class A requests of a save")
  parser.add_argument("--save_b", type=float, required=True, help="class B requests of a save")
  given = vars(parser.parse_args(words))
  prices, kept = given.pop("prices"), given.pop("kept")
  price = json.loads(prices.read_text(encoding="utf-8")) if prices else None
  bill, total = lines(**given), 0.0
  print(f"{'':12}{'class A':>12}{'class B':>15}{'GiB':>12}{'price':>10}")
  for line in bill:
    cost = ""
    if price:
      money = line.class_a * price["class_a_per_1000"] + line.class_b * price["class_b_per_1000"]
      total += money / 1000
      cost = f"{money / 1000:,.2f}"
    size = line.bytes / _GIB
    print(f"{line.what:12}{line.class_a:12,.0f}{line.class_b:15,.0f}{size:12,.0f}{cost:>10}")
  stored = (given["tokens"] * given["token_bytes"] + kept * given["parameters"] * 12) / _GIB
  print(f"stored: {stored:,.0f} GiB of tokens and {kept} checkpoints")
  if price:
    month = stored * price["gib_month"]
    print(f"requests: {total:,.2f}; storage: {month:,.2f} a month")
    out = given["tokens"] * given["token_bytes"] / _GIB * price["gib_out"]
    print(f"read from another region, the tokens would cost {out:,.2f} more")


if __name__ == "__main__":
  main()
