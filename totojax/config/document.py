"""The keys of configs for people: `--list`, and the page docs/config.md.

python -m totojax.config.document > docs/config.md
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import os
import re
import sys
import types
import typing
from typing import Any

from totojax.config import roots, schema

_HEAD = """# Config keys

Every key of every config, made from the schema in `totojax/config/` by
`python -m totojax.config.document > docs/config.md`. A file in `configs/`
starts from these defaults and changes what it is about;
`--config.section.key=value` changes one more, and `--config=FILE --list` prints
the keys of one config with the values that they have (`--list=optim`: those of
one section). "[gap]" marks what the
paper does not say; what follows is where our default is from.
"""
_UNITS = {
  **{word: word for word in "tokens bytes rows frames records epochs hours".split()},
  **dict(s="seconds", steps="updates", px="pixels", frac="share", gb="GB", fps="frames/s"),
  **dict(std="standard deviation", side="cells"),
}


def unit(key: schema.Key) -> str:
  """Of a number, in words; "" where it has none."""
  kind = schema.without_none(key.kind)
  kinds = typing.get_args(kind) if typing.get_origin(kind) is tuple else (kind,)
  if key.meta.unit or Ellipsis in kinds or kinds[0] not in (int, float):
    return key.meta.unit
  return _UNITS.get(key.path.rpartition(".")[2].rpartition("_")[2], "")


def show(values: Mapping[str, Any], section: str) -> None:
  """Prints `listing` of a config as it was read."""
  try:
    print(listing(roots.read(values), section), flush=True)
  except BrokenPipeError:  # whoever reads has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listing(config: Any, section: str = "") -> str:
  """A line a key of a typed config: path = value, its type and what it means.

  Args:
    config: of a job.
    section: lists what is in it, or the key of that name; "": all. It may be
      the end of a path: "optim" is in "stages.pretrain.optim" too.

  Raises:
    ConfigError: there is no such section; names one that there is.
  """
  lines, keys = [], list(schema.keys(config))
  for key in keys:
    if not section or f".{section.strip('.')}." in f".{key.path}.":
      value = f"{key.path} = {key.value!r}"
      words = "; ".join(filter(None, _words(key)))
      lines.append(f"{value:<44}  # {words}")
  if not lines:
    raise schema.unknown(section, sections(keys))
  return "\n".join(lines)


def sections(keys: Iterable[schema.Key]) -> list[str]:
  """The paths of all sections that keys are in, each once."""
  paths = dict.fromkeys(key.path for key in keys)
  above = {p[:i]: None for p in paths for i, letter in enumerate(p) if letter == "."}
  return list(above)


def _words(key: schema.Key) -> Iterator[str]:
  kind = describe(key.kind)
  yield f"{kind}: {key.meta.doc}" if key.meta.doc else kind
  yield unit(key) and f"in {unit(key)}"
  yield str(key.meta.range)
  yield key.meta.source
  plain = isinstance(key.default, bool | int | float | str | tuple)
  yield f"default {key.default!r}" if plain and key.default != key.value else ""


def page() -> str:
  """docs/config.md."""
  lines, sections = [_HEAD], {}
  for name in roots.ROOTS:
    root = roots.find(name)
    lines += [f'## `run = "{name}"`', "", _first(root), "", *_table(root), ""]
    _collect(root, sections)
  lines += ["# Sections", ""]
  for section in sections:
    lines += [f"## {_title(section)}", "", _first(section), "", *_table(section)]
    lines.append("")
  return "\n".join(lines).rstrip() + "\n"


def _first(cls: type) -> str:
  """The first paragraph of a docstring on one line."""
  doc = (cls.__doc__ or "").strip().split("\n\n")[0]
  return " ".join(doc.split())


def _title(section: type) -> str:
  return f"{section.SECTION}: {section.__name__}"


def _anchor(section: type) -> str:
  """As GitHub makes it of a heading."""
  letters = re.sub(r"[^\w\- ]", "", _title(section).lower())
  return letters.replace(" ", "-")


def _classes(kind: Any) -> list[type]:
  """The sections in an annotation."""
  if isinstance(kind, type) and dataclasses.is_dataclass(kind):
    return [kind]
  return [c for one in typing.get_args(kind) for c in _classes(one)]


def _is_root(section: type) -> bool:
  return section in map(roots.find, roots.ROOTS)


def _collect(cls: type, classes: dict[type, None]) -> None:
  """The sections below one, each before those that are below it."""
  hints = typing.get_type_hints(cls)
  for f in dataclasses.fields(cls):
    for section in _classes(hints[f.name]):
      if section not in classes and not _is_root(section):
        classes[section] = None
        _collect(section, classes)


def _table(cls: type) -> list[str]:
  rows = ["| key | type | default | meaning | range | source |"]
  rows.append("|---|---|---|---|---|---|")
  hints = typing.get_type_hints(cls)
  # As a flag has it, and as one looks for it.
  path = "" if _is_root(cls) else f"{getattr(cls, 'SECTION', '')}.".lstrip(".")
  for f in dataclasses.fields(cls):
    meta = f.metadata["key"]
    sections = [c for c in _classes(hints[f.name]) if hasattr(c, "SECTION")]
    parts = [c for c in sections if not _is_root(c)]
    kind = describe(hints[f.name])
    if parts:
      links = [f"[{c.__name__}](#{_anchor(c)})" for c in parts]
      many = isinstance(hints[f.name], types.GenericAlias) or (
        typing.get_origin(hints[f.name]) not in (None, types.UnionType)
      )
      kind = ("name -> " if many else "") + " or ".join(links)
    key = schema.Key(f.name, None, hints[f.name], meta)
    default = "" if sections else f"`{_default(f)!r}`"
    named = f" ({unit(key)})" if unit(key) else ""
    cells = [f"`{path}{f.name}`", kind + named, default, meta.doc]
    # In brackets it would be a link.
    source = meta.source.replace("[gap]", "\\[gap\\]")
    cells += [str(meta.range), source]
    rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
  return rows


def describe(kind: Any) -> str:
  """A type in words: "int", "float, any number of them", "section"."""
  kind = schema.without_none(kind)
  if kind in (bool, int, float, str):
    return kind.__name__
  if dataclasses.is_dataclass(kind):
    return "section"
  outer, inner = typing.get_origin(kind), typing.get_args(kind)
  if outer in (types.UnionType, typing.Union):
    return describe(inner[0])
  if outer is tuple and inner and inner[-1] is Ellipsis:
    return f"{describe(inner[0])}, any number"
  if outer is tuple:
    return " and ".join(map(describe, inner))
  if outer is not None and issubclass(outer, Mapping):
    return f"name -> {describe(inner[1])}"
  return "any"


def _default(f: dataclasses.Field) -> Any:
  if f.default_factory is not dataclasses.MISSING:
    return f.default_factory()
  return dict(f.default) if isinstance(f.default, Mapping) else f.default


if __name__ == "__main__":
  # As the file is read, whatever the locale.
  sys.stdout.buffer.write(page().encode())
