"""`run = "surprise"`: whether impossible videos surprise a model more than possible ones.

A model of tokens has a likelihood, so nats per token of a video are its surprise.
Each scene's losses are on disk as soon as they are there, in `parts/`, until all
are: an interrupted run goes on with the next scene.

The run directory gets `surprise.json`, `videos.csv`, `frames.csv`, `heatmaps/`,
`skipped.csv` and `report.html`; of IntPhys's test set `maximum.txt` and
`average.txt`, which are handed in.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath

from totojax import jobs
from totojax.config import schema
from totojax.config.schema import ConfigError
from totojax.config.surprise import Surprise
from totojax.data.sources import items
from totojax.jobs.generate import prompts
from totojax.jobs.surprise import clips, maps, scores
from totojax.report import frame, surprise_sections
from totojax.rundir import console, files, wording
from totojax.trained import backbone, model as pretrained


def run(config: Surprise, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Scores all groups of videos that a config names; False when interrupted.

  Raises:
    ConfigError: the model, the videos or the windows do not fit each other.
    ValueError: the model gives NaN.
  """
  source = backbone.find(config.model_run, what="a model that is surprised")
  tokenizer = backbone.find_tokenizer(source, config.tokenizer)
  amounts = scores.Amounts.of(config.windows, source)
  size_px = source.model.spec.grid * tokenizer.factor
  groups, skipped = clips.find(config, size_px=size_px, window_px=amounts.window)
  if config.windows.choose == "validation" and len(groups) < 2:
    raise ConfigError(
      f"windows.choose is 'validation', and it needs 2 groups and more, not"
      f" {len(groups)}: use 'filtered' or 'fixed'"
    )
  with console.phase(f"reading the parameters of {source.path}"):
    model = pretrained.load(source.path, tokenizer=config.tokenizer, depth=0)
  facts = {"model_run": str(source.path), "step": source.step, "tokenizer": tokenizer.fingerprint}
  listed = {"groups": len(groups), "first": groups[0].id, "last": groups[-1].id}
  backbone.begin(workdir, config, facts, digest=source.digest, **listed)
  if not _score(groups, model, amounts, config, workdir, interrupted):
    return False
  _finish(groups, skipped, amounts, config, workdir, facts)
  return True


def _part(workdir: epath.Path, number: int, ending: str) -> epath.Path:
  return workdir / "parts" / f"{number:06d}.{ending}"


def _score(
  groups: Sequence[clips.Group],
  model: pretrained.Pretrained,
  amounts: scores.Amounts,
  config: Surprise,
  workdir: epath.Path,
  interrupted: jobs.Interrupted,
) -> bool:
  """Scores the groups that are not on disk; False when interrupted."""
  for name in ("parts", "heatmaps"):
    files.make_folder(workdir / name)
  there = {path.name for path in files.children(workdir / "parts")}
  begun = sum(f"{number:06d}.json" in there for number in range(len(groups)))
  drawn = set(prompts.spread(len(groups), config.output.pairs)) if config.output.pairs else set()
  with console.tracking("scoring", unit="groups", total=len(groups), done=begun) as bar:
    for number, group in enumerate(groups):
      if f"{number:06d}.json" in there:
        continue
      part = _one(group, model, amounts, config, workdir / "heatmaps", number, number in drawn)
      files.write_json(_part(workdir, number, "json"), part)
      bar.advance()
      if interrupted(bar.done) and bar.done < len(groups):
        return False
  return True


def _one(
  group: clips.Group,
  model: pretrained.Pretrained,
  amounts: scores.Amounts,
  config: Surprise,
  folder: epath.Path,
  number: int,
  is_drawn: bool,
) -> dict[str, Any]:
  """What is kept of a group, or why it is left out."""
  videos = group.read()
  if isinstance(videos, items.Skipped):
    return {"skipped": videos.reason}
  short = next((video for video in videos if len(video.frames_TSS3) < amounts.window), None)
  if short is not None:
    return {
      "skipped": f"{short.id} has {len(short.frames_TSS3)} frames, and a window {amounts.window};"
      " use a smaller data.frame_step or windows.frames"
    }
  scored = scores.score([video.frames_TSS3 for video in videos], model, amounts, rows=config.rows)
  out: dict[str, Any] = {
    "videos": [
      {
        "id": video.id,
        "possible": video.is_possible,
        "pair": video.pair,
        "frames": one.first_F.tolist(),
        "nats": one.frames_F.tolist(),
        "scores": [[*setting, value] for setting, value in one.scores(amounts.contexts).items()],
      }
      for video, one in zip(videos, scored)
    ]
  }
  if is_drawn:
    shown = sorted(
      (n for n, video in enumerate(videos) if video.pair == videos[0].pair),
      key=lambda n: not videos[n].is_possible,
    )
    png, facts = maps.worst(
      [videos[n] for n in shown],
      [scored[n] for n in shown],
      grid=model.run.model.spec.grid,
      side_px=config.output.side_px,
    )
    name = f"{number:06d}.png"
    files.write_bytes(folder / name, png)
    out["drawn"] = {"png": f"heatmaps/{name}", **facts}
  return out


def _finish(
  groups: Sequence[clips.Group],
  skipped: list[items.Skipped],
  amounts: scores.Amounts,
  config: Surprise,
  workdir: epath.Path,
  facts: dict[str, Any],
) -> None:
  """Tables and the page of what was scored.

  Raises:
    ConfigError: nothing was.
  """
  parts = [files.read_json(_part(workdir, number, "json")) for number in range(len(groups))]
  scored, drawn = [], []
  for group, part in zip(groups, parts):
    if "skipped" in part:
      skipped.append(items.Skipped(group.id, part["skipped"]))
      continue
    videos = [
      scores.Video(
        one["id"],
        one["possible"],
        one["pair"],
        {(name, aggregate): value for name, aggregate, value in one["scores"]},
      )
      for one in part["videos"]
    ]
    scored.append(scores.Group(group.id, group.kinds, tuple(videos)))
    if "drawn" in part:
      drawn.append(part["drawn"])
  prompts.write_skipped(workdir, skipped)
  if not scored:
    raise ConfigError(f"no group could be scored; the first: {skipped[0].id}: {skipped[0].reason}")
  _write_tables(workdir, parts, scored, amounts)
  facts |= {
    "set": config.data.set,
    "source": config.data.list or config.data.root,
    "skipped": len(skipped),
    "amounts": dataclasses.asdict(amounts),
    "windows": schema.to_dict(config.windows),
    "drawn": drawn,
  }
  if any(video.is_possible is None for group in scored for video in group.videos):
    _write_submission(workdir, scored, facts)
  else:
    _write_metrics(workdir, scored, amounts, config, facts)
  report = frame.write(workdir, surprise_sections.PAGE)
  files.remove(workdir / "parts")
  console.say(f"report: {report}")


def _write_tables(
  workdir: epath.Path,
  parts: Sequence[dict[str, Any]],
  scored: Sequence[scores.Group],
  amounts: scores.Amounts,
) -> None:
  """videos.csv, a row for each video, and frames.csv, one for each of its scored frames."""
  rows, lines = [], []
  for group in scored:
    for video in group.videos:
      named = {f"{name}_{aggregate}": value for (name, aggregate), value in video.scores.items()}
      label = {True: "possible", False: "impossible", None: ""}[video.is_possible]
      told = {"group": group.id, "kinds": " ".join(group.kinds), "pair": video.pair}
      rows.append({"id": video.id, **told, "label": label, **named})
  for part in parts:
    for video in part.get("videos", ()):
      lines += [(video["id"], *pair) for pair in zip(video["frames"], video["nats"])]
  files.write_csv(workdir / "videos.csv", rows)
  files.write_table(workdir / "frames.csv", lines, header=("id", "frame", "nats_per_token"))


def _write_submission(
  workdir: epath.Path, scored: Sequence[scores.Group], facts: dict[str, Any]
) -> None:
  """What IntPhys's server takes: a plausibility of each task."""
  for name, aggregate in (("maximum", "max"), ("average", "mean")):
    lines = [
      f"{video.id} {1 - video.scores[scores.FILTERED, aggregate]!r}\n"
      for group in scored
      for video in group.videos
    ]
    files.write_text(workdir / f"{name}.txt", "".join(lines))
  files.write_json(workdir / "surprise.json", facts | {"videos": len(scored)})
  console.say(
    f"{wording.counted(len(scored), 'video')} whose labels are not known: {workdir / 'average.txt'}"
  )


def _write_metrics(
  workdir: epath.Path,
  scored: Sequence[scores.Group],
  amounts: scores.Amounts,
  config: Surprise,
  facts: dict[str, Any],
) -> None:
  if config.windows.choose == "validation" and len(scored) < 2:
    raise ConfigError("one group alone could be scored, which makes no two halves: skipped.csv")
  setting, told, how = scores.choose(config.windows, amounts, scored)
  found = scores.tables(told, setting)
  facts |= {"context": setting[0], "aggregate": setting[1], "how": how, **found}
  files.write_json(workdir / "surprise.json", facts)
  console.say(surprise_sections.sentence(facts))
