"""What a run of short-term anticipation leaves: results, numbers, drawn boxes, a page.

Shapes: H and W pixels of a frame as drawn.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np
from PIL import Image, ImageDraw

from totojax.config import sta
from totojax.data.pixels import movies
from totojax.data.sources import sta as source
from totojax.evals import sta_baselines, sta_map, sta_results
from totojax.jobs.generate import prompts
from totojax.jobs.sta import inputs
from totojax.report import frame, sta_sections
from totojax.rundir import console, files

_TRUE, _FOUND = (60, 200, 90), (240, 120, 30)
Found = Mapping[str, sta_map.Detections]


def truth(found: inputs.Inputs) -> dict[str, source.Query]:
  """Queries whose objects are known, by uid."""
  return {query.uid: query for query in found.queries if len(query.boxes)}


def has_truth(found: inputs.Inputs) -> bool:
  return bool(truth(found))


def scores(found: inputs.Inputs, detections: Found) -> dict[str, float]:
  """Top-5 mAP in per cent by column."""
  return sta_map.top_k_map(detections, truth(found))


def rules(train: source.Annotations, found: inputs.Inputs) -> dict[str, dict[str, float]]:
  """Top-5 mAP of rules that look at no pixels; those about the hand where a world told."""
  queries, true = found.queries, truth(found)
  rows = {
    f"the most frequent noun with its {box} box": sta_baselines.constant(train, queries, box=box)
    for box in sta_baselines.BOXES
  }
  try:
    around = sta_baselines.read_around(found.annotations)
  except ValueError:  # Ego4D does not say where hand and things are
    around = None
  if around is not None:
    for count, name in ((1, "the object nearest to the hand"), (5, "the nearest five objects")):
      rows[name] = sta_baselines.nearest(train, queries, around, count=count)
  return {name: sta_map.top_k_map(row, true) for name, row in rows.items()}


def write(
  found: inputs.Inputs,
  detections: Found,
  config: sta.Anticipating,
  train: source.Annotations,
  workdir: epath.Path,
) -> None:
  """Writes results.json, metrics.json, pictures/ and report.html.

  Args:
    found: what was read.
    detections: by uid.
    config: of the run.
    train: what rules are made of.
    workdir: the run directory.
  """
  annotations, path = found.annotations, workdir / "results.json"
  # Checked by the challenge's own rules; uids that were not read get a box of score 0.
  sta_results.write(path, detections, annotations)
  videos = {query.uid: query.video for query in found.queries}
  metrics: dict[str, Any] = {
    "split": annotations.split,
    "n": len(found.queries),
    "n_expected": len(annotations.uids),
    "nouns": len(annotations.nouns),
    "verbs": len(annotations.verbs),
    "detections": sum(len(one.scores) for one in detections.values()),
    "protocol": config.run,
    "seed": config.seed,
  }
  true = truth(found)
  if true:
    metrics |= sta_map.summary(detections, true, videos)
    metrics["plain"] = sta_map.top_k_map(detections, true, k=1)
    metrics["baselines"] = rules(train, found)
  if config.paper.name:
    metrics["paper"] = dataclasses.asdict(config.paper)
  metrics["drawn"] = _pictures(found, detections, config, workdir)
  files.write_json(workdir / "metrics.json", metrics)
  for line in sta_sections.sentences(metrics):
    console.say(line)
  if len(found.queries) < len(annotations.uids):
    console.say(
      f"{len(annotations.uids) - len(found.queries)} of {len(annotations.uids)} uids were not read,"
      " and have a box of score 0 in results.json"
    )
  frame.write(workdir, sta_sections.PAGE)
  console.say(f"results: {path}; report: {workdir / 'report.html'}")


def _pictures(
  found: inputs.Inputs, detections: Found, config: sta.Anticipating, workdir: epath.Path
) -> list[dict[str, Any]]:
  """Draws some queries; returns what their captions say."""
  out, c = [], config.output
  if not c.pictures:
    return out
  files.make_folder(workdir / "pictures")
  for number in prompts.spread(len(found.queries), c.pictures):
    query = found.queries[number]
    frame_HW3 = movies.scaled(source.clip(query, 1, 1)[0], c.width_px)
    best = detections[query.uid]
    order = np.argsort(-best.scores, kind="stable")[: c.boxes]
    annotations = found.annotations
    name = lambda noun, verb, ttc: (
      f"{annotations.verbs[verb]} {annotations.nouns[noun]} in {ttc:.2f} s"
    )
    true = [
      name(*one) for one in zip(query.nouns.tolist(), query.verbs.tolist(), query.ttc_s.tolist())
    ]
    said = [
      f"{name(int(best.nouns[i]), int(best.verbs[i]), float(best.ttc_s[i]))} ({best.scores[i]:.2f})"
      for i in order
    ]
    image = Image.fromarray(frame_HW3)
    draw = ImageDraw.Draw(image)
    times = np.array([image.width / query.width_px, image.height / query.height_px] * 2)
    for rank, box in reversed([*enumerate(best.boxes[order])]):
      draw.rectangle([*map(float, box * times)], outline=_FOUND, width=3 if rank == 0 else 1)
    for box in query.boxes:
      draw.rectangle([*map(float, box * times)], outline=_TRUE, width=2)
    path = f"pictures/{number:06d}.webp"
    files.write_bytes(workdir / path, movies.still(np.asarray(image)))
    out.append({"picture": path, "uid": query.uid, "true": true, "found": said})
  return out
