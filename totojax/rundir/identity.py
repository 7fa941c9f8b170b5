"""What a run reads is part of what it is, like its config: compared at a resume.

The manifest of a run, and the meta data of its checkpoints, have for each of
its data sets what `Manifest.identity` gives: a digest of the records in their
order, and how many there are, of which items and tokenizer.
"""

from collections.abc import Mapping
import json
from typing import Any

from totojax.rundir import hosts

KEY = "data"  # of manifest.json, and of a checkpoint's meta data
Identities = Mapping[str, Mapping[str, Any]]  # config key of a data set -> its identity

_changed_allowed = False  # by --allow_changed_config


class DataChanged(ValueError):
  """A run that would go on with other data than it was begun with."""


def allow_changed(allow: bool) -> None:
  """Whether runs may go on with other data than they were begun with."""
  global _changed_allowed
  _changed_allowed = allow


def changes(before: Identities, now: Identities) -> dict[str, str]:
  """Data set -> what is otherwise, of those that are in both."""
  return {
    name: _change(before[name], now[name])
    for name in now
    if name in before and before[name]["digest"] != now[name]["digest"]
  }


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  for what, unit in (("tokenizer", ""), ("records", " records")):
    if before.get(what) != now.get(what):
      name = what if not unit else ""
      return f"{name} {now.get(what)}{unit} instead of {before.get(what)}".strip()
  if before.get("items") == now.get("items"):
    return f"the same {now['records']} items in another order, or with other contents"
  return f"{now['records']} other records"


def check(workdir: Any, before: Identities, now: Identities) -> None:
  """Raises DataChanged unless a run may go on with the data that it has now."""
  if (told := changes(before, now)) and not _changed_allowed:
    listed = "; ".join(f"{name}: {what}" for name, what in told.items())
    raise DataChanged(
      f"{workdir} was begun with other data ({listed}). Restore the data, use another --workdir,"
      " or pass --allow_changed_config to go on with what is there now"
    )


def check_hosts(now: Identities) -> None:
  """Raises DataChanged, on all hosts alike, where one of them has other data."""
  if places := hosts.differing([json.dumps(now[name], sort_keys=True) for name in now]):
    names = ", ".join(list(now)[place] for place in places)
    raise hosts.last(
      DataChanged(
        f"the hosts have different data ({names}); give all of them the same, as one bucket or"
        " copies of one store"
      )
    )


def sentence(now: Identities) -> str:
  """Each data set with the digest by which runs know it."""
  return ", ".join(
    f"{name} {each['digest'][:12]} ({each['records']:,} records)" for name, each in now.items()
  )
