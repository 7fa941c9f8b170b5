"""Names, labels and splits of items."""

import csv
import io
import os

import pytest

from totojax.data.sources import items


def some(count):
  return [items.Item(f"{i}.mp4", f"/x/{i}.mp4") for i in range(count)]


def test_split_is_by_item_and_stable():
  parts = items.split(some(20), 0.25, seed=0)
  assert len(parts["val"]) == 5 and len(parts["train"]) == 15
  ids = {name: {item.id for item in part} for name, part in parts.items()}
  assert not ids["val"] & ids["train"]
  assert parts == items.split(some(20)[::-1], 0.25, seed=0)
  assert parts != items.split(some(20), 0.25, seed=1)
  # A new item changes the side of at most one other.
  more = [*some(20), items.Item("new.mp4", "/x/new.mp4")]
  val = {item.id for item in items.split(more, 0.25, seed=0)["val"]}
  assert len(val ^ ids["val"]) <= 2
  with pytest.raises(ValueError, match="at least 2"):
    items.split(some(1), 0.5, seed=0)


def test_shuffling_follows_from_ids_alone():
  order = [item.id for item in items.shuffled(some(50), seed=0)]
  assert order == [item.id for item in items.shuffled(some(50)[::-1], seed=0)]
  assert order != sorted(order)
  assert order != [item.id for item in items.shuffled(some(50), seed=1)]
  # Items that go missing leave the others in their order.
  fewer = [item.id for item in items.shuffled(some(50)[10:], seed=0)]
  assert fewer == [name for name in order if name in fewer]


def test_names_are_one_line_of_utf8():
  raw = os.fsdecode(b"a\xffb/\xc3\xbc \n\x85.mp4")
  name = items.name(raw)
  assert name == "a\\xffb/ü \\x0a\\x85.mp4"
  assert name.encode().decode() == name
  text = io.StringIO()
  csv.writer(text).writerow([name, "reason"])
  assert list(csv.reader(text.getvalue().splitlines())) == [[name, "reason"]]
  # Control: the name as the system gives it does neither.
  with pytest.raises(UnicodeEncodeError):
    raw.encode()
  assert len(raw.splitlines()) > 1


def test_generator_is_of_item_crop_stretch_and_seed():
  a, b = some(2)
  base = items.generator(a, 0, stretch=0, seed=0).integers(2**60)
  assert base == items.generator(a, 0, stretch=0, seed=0).integers(2**60)
  others = [
    items.generator(b, 0, stretch=0, seed=0),
    items.generator(a, 1, stretch=0, seed=0),
    items.generator(a, 0, stretch=1, seed=0),
    items.generator(a, 0, stretch=0, seed=1),
    items.generator(a, 1, stretch=1, seed=0),
  ]
  drawn = {int(rng.integers(2**60)) for rng in others}
  assert len(drawn) == 5 and base not in drawn


def make(found, classes=(), missing=()):
  return items.listing("video", [*found, *missing], classes=classes, where="here")


def test_listings_are_sorted_and_checked():
  listing = make(some(12)[::-1])
  assert [item.id for item in listing.items] == sorted(f"{i}.mp4" for i in range(12))
  with pytest.raises(ValueError, match="two items of here .*3.mp4"):
    make([*some(5), *some(4)[3:]])
  labelled = items.Item("a", "/a", label=2)
  assert make([labelled], classes=["x", "y", "z"]).items == [labelled]
  with pytest.raises(ValueError, match="label 2; labels run from 0 to 1"):
    make([labelled], classes=["x", "y"])
  with pytest.raises(ValueError, match="label -2"):
    make([items.Item("a", "/a", label=-2)])
  with pytest.raises(ValueError, match="holds no video.*1 are.*b: gone"):
    make([], missing=[items.Skipped("b", "gone")])
