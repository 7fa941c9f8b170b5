"""Images that a tokenizer's decoder makes from the codes of stores.

Shapes: M images, N frames, H and W pixels, G grid side.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from totojax.data.store import store as store_lib
from totojax.tokenizers import api, stats, weights

SHOWN = 8  # images of a store
MEASURED = 64  # images that PSNR is over, where there are originals


@dataclasses.dataclass(frozen=True)
class Plan:
  """What can be decoded."""

  tokenizer: api.Tokenizer | None  # whose codes they are; None for nothing at all
  stores: Mapping[str, store_lib.Store]  # token stores of that tokenizer, by name
  originals: Mapping[str, store_lib.Store]  # pixel stores that some of them were made from


def plan(stores: Mapping[str, store_lib.Store], tokenizer: str, pixels: Mapping[str, str]) -> Plan:
  """Loads the tokenizer and opens the originals.

  Args:
    stores: token stores, by name.
    tokenizer: a tokenizer file, "shipped", or "" for none.
    pixels: path of a pixel store, by the name of the token store made from it.

  Raises:
    ValueError: the tokenizer made none of the stores, or not the one that
      originals are given for; or a pixel store is not what the codes are of.
  """
  if not tokenizer:
    return Plan(None, {}, {})
  loaded = weights.load(tokenizer)
  tokenizers = {name: store.manifest.tokenizer for name, store in stores.items()}
  matching = {name: stores[name] for name, mark in tokenizers.items() if mark == loaded.fingerprint}
  if not matching:
    raise ValueError(
      f"tokenizer {tokenizer} has fingerprint {loaded.fingerprint}, and the stores were made by"
      f" {', '.join(sorted(set(tokenizers.values())))}; give the tokenizer that made one of them,"
      ' or "" for no reconstructions'
    )
  originals = {}
  for name, path in pixels.items():
    if name not in matching:
      raise ValueError(
        f"pixels are given for {name}, which tokenizer {loaded.fingerprint} did not make"
        f" ({tokenizers[name]} did), so there is nothing to compare; leave them out"
      )
    originals[name] = _originals(name, path, matching[name])
  return Plan(loaded, matching, originals)


def decode(plan_: Plan) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
  """Decodes images of every store of the plan.

  Returns:
    ({store: {"images": measured, "psnr_db": over all of these or None}},
    {"<store>/reconstruction" and, with pixels, "<store>/original": uint8
    [M, H, W, 3] of those to show}). PSNR is None without pixels, and where
    nothing differs.
  """
  facts, arrays = {}, {}
  if plan_.tokenizer is None:
    return facts, arrays
  for name, store in plan_.stores.items():
    head = store.manifest
    pixels = plan_.originals.get(name)
    wanted = min(len(store), SHOWN if pixels is None else MEASURED)
    records = np.linspace(0, len(store) - 1, wanted).astype(int)
    codes = store.read(records)["codes"]
    codes_MNGG = codes.reshape(-1, head.frames, head.grid, head.grid)
    decoded_MHW3 = plan_.tokenizer.decode(codes_MNGG[:, head.frames // 2])
    shown = np.linspace(0, wanted - 1, min(wanted, SHOWN)).astype(int)
    arrays[f"{name}/reconstruction"] = decoded_MHW3[shown]
    facts[name] = {"images": wanted, "psnr_db": None}
    if pixels is not None:
      original_MHW3 = pixels.read(records)["frames"][:, head.frames // 2]
      arrays[f"{name}/original"] = original_MHW3[shown]
      psnr_db = stats.psnr_db(original_MHW3, decoded_MHW3)
      if math.isfinite(psnr_db):
        facts[name]["psnr_db"] = psnr_db
  return facts, arrays


def _originals(name: str, path: str, tokens: store_lib.Store) -> store_lib.Store:
  """The pixel store at `path`, if its records are those of `tokens`."""
  pixels = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if pixels.manifest.tokenizer:
    raise ValueError(
      f"pixels of {name}: {path} is a token store; give the pixel store that"
      " the codes were made from"
    )
  facts: list[dict[str, Any]] = [
    {"records": len(s), "frames": s.manifest.frames, "size_px": s.manifest.size_px}
    for s in (pixels, tokens)
  ]
  if pixels.manifest.ids and tokens.manifest.ids:
    for fact, store in zip(facts, (pixels, tokens)):
      fact["ids"] = (store[0]["id"], store[len(store) - 1]["id"])
  for what, value in facts[0].items():
    if value != facts[1][what]:
      raise ValueError(
        f"pixels of {name}: {path} has {what} {value!r}, and the token store {facts[1][what]!r};"
        " give the pixel store that the codes were made from"
      )
  return pixels
