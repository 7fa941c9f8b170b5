"""Sections of a report about features as pictures: components and likeness."""

from totojax.report import frame, page, reading
from totojax.rundir import wording


def claim(folder: reading.RunFolder) -> frame.Claim:
  """What is drawn; nothing is scored."""
  facts = folder.json("feature_maps.json")
  rows = dict.fromkeys(one["row"] for one in facts["drawn"])
  count = wording.counted(facts["clips"], "clip")
  line = f"What each layer of {', '.join(rows)} tells apart in {count}, as pictures."
  more = "Places of one colour are alike to a layer. Tracking and probes score the same features."
  return frame.Claim(line, more)


def components(folder: reading.RunFolder) -> str:
  """The first three principal components of every layer as colours."""
  facts = folder.json("feature_maps.json")
  of = {"clip": "each clip", "set": "all clips together"}[facts["basis"]]
  out = [
    page.paragraph(
      "Red, green and blue are the first three principal components of the features of places,"
      f" of {of} and each layer alone, each from its 1st to its 99th percentile. The first row is"
      " what the encoder reads; below it the layers, the first on top.",
      "soft",
    )
  ]
  for one in facts["drawn"]:
    shares = ", ".join(f"{n}: {100 * s:.0f} %" for n, s in zip(one["layers"], one["shares"]))
    text = f"{one['row']}, {one['clip']}. Layers, and their three components' variance: {shares}."
    out.append(_figure(folder, one, "pca", text))
  return "".join(out)


def likeness(folder: reading.RunFolder) -> str:
  """How like every place is to one of the first frame."""
  out = [
    page.paragraph(
      "Cosine similarity to the place with the red frame, from 0 and below (dark) to 1 (light),"
      " over the frames in grey.",
      "soft",
    )
  ]
  for one in folder.json("feature_maps.json")["drawn"]:
    layers = ", ".join(map(str, one["layers"]))
    text = f"{one['row']}, {one['clip']}, place {tuple(one['place'])} of {one['grid']}. {layers}."
    out.append(_figure(folder, one, "cosine", text.replace(". ", ". Layers ", 1)))
  return "".join(out)


def _figure(folder: reading.RunFolder, one: dict, kind: str, caption: str) -> str:
  alt = f"{kind} of features of {one['row']} in {one['clip']}"
  return page.figure(page.picture(folder.bytes(one[kind]), "webp", alt), caption)


PAGE = frame.Kind(
  "features", claim, (("What features hold", components), ("What is like a place", likeness))
)
