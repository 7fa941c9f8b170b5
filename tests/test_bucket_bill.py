"""What a run asks of its bucket: the arithmetic, and what it rests on."""

import json
import sys

import numpy as np
import runs
import token_sets

from totojax.data.store import store as store_lib
from totojax.storage import objects

sys.path.insert(0, str(runs.ROOT / "launch"))
import bucket_bill  # noqa: E402


def test_a_record_of_tokens_is_one_request(bucket):
  """The index of a shard is read once; neighbours that are read at once are one."""
  token_sets.write(bucket / "store", 30)
  objects.context.cache_clear()  # what was written is still in memory
  opened = store_lib.open_store(bucket / "store", tokenizer=None, vocab=None, grid=None)
  opened.read(np.array([0]))  # opens the shard, and reads its index

  def requests(*rows):
    bucket.proxy.log.clear()
    for row in rows:
      opened.read(np.array(row))
    return sum("codes/c/" in line for line in bucket.proxy.lines("GET"))

  assert requests([1], [2], [5]) == 3
  assert requests([3, 4]) == 1


def test_the_bill_of_a_run(tmp_path, capsys):
  prices = {"class_a_per_1000": 5.0, "class_b_per_1000": 0.5, "gib_month": 0.25, "gib_out": 1.0}
  (tmp_path / "prices.json").write_text(json.dumps(prices))
  words = ["--prices", str(tmp_path / "prices.json"), "--tokens", str(2.0**31), "--context", "1024"]
  bucket_bill.main(
    [
      *words,
      "--save_a",
      "14",
      "--save_b",
      "28",
      "--saves",
      "100",
      "--parameters",
      "0",
      "--rows",
      "50",
    ]
  )
  printed = capsys.readouterr().out
  table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
  # 2 ** 31 tokens in records of 1,024 are 2 ** 21 requests, and 4 GiB.
  assert table["tokens"] == ["0", f"{2**21:,}", "4", f"{2**21 / 1000 * 0.5:,.2f}"]
  assert table["checkpoints"][:2] == ["1,400", "2,800"]
  assert table["metrics"][0] == "50" and table["lease"][0] == "2,880"
  assert "would cost 4.00 more" in printed and "storage: 1.00 a month" in printed
