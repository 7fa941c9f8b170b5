"""Images that a tokenizer's decoder makes from the codes of stores.

Shapes: M images, L latent frames, T frames of a clip, H and W pixels, G grid
side.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from totojax.data.store import store as store_lib
from totojax.rundir import console
from totojax.tokenizers import api, stats, weights

SHOWN = 8  # images of a store
MEASURED = 64  # images that PSNR and SSIM are over, where there are originals
# Of the k-means baseline: frames of as many other records, patches of these.
KMEANS_FRAMES = 4
KMEANS_PATCHES = 20_000
KMEANS_ITERATIONS = 10


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
  for name, store in matching.items():  # a fingerprint may have been written by hand
    head = store.manifest
    if (head.vocab, head.latents) != (loaded.vocab, loaded.latents):
      raise ValueError(
        f"{store.path} ({name}) has the fingerprint of {tokenizer}, and {head.vocab} codes with"
        f" {head.latents}; the tokenizer has {loaded.vocab} with {loaded.latents}: make the store"
        " again"
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
  """Decodes the middle frame of clips (or an image) of every store of the plan.

  Returns:
    ({store: {"images": measured, "psnr_db", "ssim": over all of these or None,
    "rivals": {"block_means", "kmeans": the same of these}}},
    {"<store>/reconstruction" and, with pixels, "<store>/original": uint8
    [M, H, W, 3] of those to show}). All is None or empty without pixels, and
    PSNR where nothing differs.
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
    codes_MLGG = codes.reshape(-1, *head.code_shape)
    middle = np.array([head.pixel_frames // 2])
    decoded_MHW3 = api.draw_frames(plan_.tokenizer, codes_MLGG, middle)[:, 0]
    shown = np.linspace(0, wanted - 1, min(wanted, SHOWN)).astype(int)
    arrays[f"{name}/reconstruction"] = decoded_MHW3[shown]
    facts[name] = {"images": wanted, "psnr_db": None, "ssim": None, "rivals": {}}
    if pixels is not None:
      original_MHW3 = pixels.read(records)["frames"][:, middle[0]]
      arrays[f"{name}/original"] = original_MHW3[shown]
      facts[name] |= stats.likeness(original_MHW3, decoded_MHW3)
      facts[name]["rivals"] = _rivals(plan_.tokenizer, pixels, records, original_MHW3)
  return facts, arrays


@console.phase("measuring what arithmetic gives")
def _rivals(
  tokenizer: api.Tokenizer, pixels: store_lib.Store, records: np.ndarray, original_MHW3: np.ndarray
) -> dict[str, dict[str, float | None]]:
  """`stats.likeness` of block means, and of k-means on patches with as many codes.

  k-means is fitted to other records, where there are any. Both draw each frame
  for itself, and k-means has one code of a place, whatever the tokenizer has.
  """
  others = np.setdiff1d(np.arange(len(pixels)), records)
  others = others if len(others) else records
  chosen = np.linspace(0, len(others) - 1, min(len(others), MEASURED)).astype(int)
  clips_MTHW3 = pixels.read(others[chosen])["frames"]
  places = np.linspace(0, clips_MTHW3.shape[1] - 1, min(KMEANS_FRAMES, clips_MTHW3.shape[1]))
  kmeans = stats.fit_kmeans(
    np.concatenate(clips_MTHW3[:, places.astype(int)]),
    codes=tokenizer.vocab,
    size=tokenizer.factor,
    most_patches=KMEANS_PATCHES,
    iterations=KMEANS_ITERATIONS,
    seed=0,
  )
  copies = {
    "block_means": stats.block_means(original_MHW3, tokenizer.factor),
    "kmeans": kmeans.decode(kmeans.encode(original_MHW3)),
  }
  return {name: stats.likeness(original_MHW3, copy) for name, copy in copies.items()}


def _originals(name: str, path: str, tokens: store_lib.Store) -> store_lib.Store:
  """The pixel store at `path`, if its records are those of `tokens`."""
  pixels = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if pixels.manifest.tokenizer:
    raise ValueError(
      f"pixels of {name}: {path} is a token store; give the pixel store that"
      " the codes were made from"
    )
  facts: list[dict[str, Any]] = [
    {"records": len(s), "frames": s.manifest.pixel_frames, "size_px": s.manifest.size_px}
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
