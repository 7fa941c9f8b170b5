"""`run = "token_study"`: tokenizers side by side, by what a second of video costs.

On the same clips of pixels: how near the frames of what a tokenizer keeps come
to all frames, tokens and bits a second, codes in use, and, where a model was
trained on its tokens and validated, that model's nats a second. Leaves
`tokens.csv` and `tokens.md`.

Images are clips of one frame, with tokens and bits of each in place of those of
a second.

Shapes: R clips, N frames, H and W pixels.
"""

from collections.abc import Mapping
import itertools
import math
import time
from typing import Any

from etils import epath
import numpy as np

from totojax import jobs
from totojax.config import studies
from totojax.data.store import store as store_lib
from totojax.rundir import console, directory, files
from totojax.tokenizers import api, stats, weights

_COLUMNS = {
  "pixels": "frames",
  "name": "tokenizer",
  "every": "every",
  "vocab": "codes",
  "codes_used": "in use",
  "tokens_per_s": "tokens/s",
  "bits_per_s": "bits/s",
  "tokens_per_image": "tokens/image",
  "psnr_db": "PSNR, dB",
  "ssim": "SSIM",
  "block_means_db": "block means, dB",
  "kmeans_db": "k-means, dB",
  "frames_per_cpu_s": "frames/CPU-s",
  "nats_per_s": "nats/s of the model",
}


def run(config: studies.TokenStudyJob, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Measures every tokenizer on every store of pixels.

  Raises:
    ValueError: a store is not of pixels, or of images, where frames are left out.
  """
  settings = config.token_study
  sources = {name: _pixels(path) for name, path in settings.pixels.items()}
  fitted = {name: _pixels(path) for name, path in settings.kmeans.items()}
  for (name, source), row in itertools.product(sources.items(), settings.rows.values()):
    if row.every > 1 and source.manifest.kind == "image":
      raise ValueError(
        f"token_study: {settings.pixels[name]} holds images, of which every one is kept; set"
        f" `every` to 1, not {row.every}"
      )
  tokenizers = {name: weights.load(row.tokenizer) for name, row in settings.rows.items()}
  directory.begin(workdir, config)
  rows = []
  total = len(sources) * len(tokenizers)
  with console.tracking("measuring", unit="tokenizers", total=total) as bar:
    for name, source in sources.items():
      for label, row in settings.rows.items():
        if interrupted(len(rows)):
          return False
        facts = _facts(source, tokenizers[label], row, settings)
        kmeans = _kmeans(fitted.get(name), source, tokenizers[label], settings)
        rows.append({"pixels": name, "name": label, **facts, **kmeans})
        bar.advance(1)
  files.write_csv(workdir / "tokens.csv", rows)
  table = _table(rows)
  files.write_bytes(workdir / "tokens.md", table.encode())
  console.say(table)
  return True


def _pixels(path: str) -> store_lib.Store:
  """A store of images, or clips, of pixels."""
  store = store_lib.open_store(path, tokenizer=None, vocab=None, grid=None)
  if store.manifest.tokenizer:
    raise ValueError(f"token_study: {path} holds tokens; give stores of pixels")
  return store


def _clips(store: store_lib.Store, clips: int) -> np.ndarray:
  """uint8 [R, N, H, W, 3] of some clips, evenly."""
  records = np.unique(np.linspace(0, len(store) - 1, min(clips, len(store))).astype(int))
  frames = store.read(records)["frames"]
  return frames[:, None] if frames.ndim == 4 else frames


def _facts(
  store: store_lib.Store,
  tokenizer: api.Tokenizer,
  row: studies.TokenRow,
  settings: studies.TokenStudy,
) -> dict[str, Any]:
  """A row of the table; frames that are not kept are shown as the one before."""
  head = store.manifest
  clips_RNHW3 = _clips(store, settings.clips)
  count = clips_RNHW3.shape[1]
  kept_RNHW3 = clips_RNHW3[:, :: row.every]
  api.encode_clips(tokenizer, kept_RNHW3[:1])  # compiles
  begin = time.process_time()
  codes_RP = api.encode_clips(tokenizer, kept_RNHW3)
  cpu_s = time.process_time() - begin
  latents = tokenizer.latents
  grid = head.size_px // tokenizer.factor
  several = (latents.codes,) if latents.codes > 1 else ()
  shape = (latents.latent_frames(kept_RNHW3.shape[1]), grid, grid, *several)
  drawn = api.decode_clips(tokenizer, codes_RP.reshape(-1, *shape), frames=kept_RNHW3.shape[1])
  shown_RNHW3 = np.repeat(drawn, row.every, axis=1)[:, :count]
  likeness = stats.likeness(_frames(clips_RNHW3), _frames(shown_RNHW3))
  blocks = stats.block_means(_frames(clips_RNHW3), tokenizer.factor)
  tokens = codes_RP.shape[1]
  is_image = head.kind == "image"
  # From the first frame of a clip to the first of one that would follow it.
  rate = None if is_image else tokens / (count * head.stride_frames / head.fps)
  return {
    "every": row.every,
    "clips": len(clips_RNHW3),
    "frames": count,
    "vocab": tokenizer.vocab,
    "codes_used": len(np.unique(codes_RP)),
    "tokens_per_image": tokens if is_image else None,
    "tokens_per_s": rate,
    "bits_per_s": rate and rate * math.log2(tokenizer.vocab),
    **likeness,
    "block_means_db": stats.psnr_db(_frames(clips_RNHW3), blocks),
    "frames_per_cpu_s": kept_RNHW3.shape[0] * kept_RNHW3.shape[1] / max(cpu_s, 1e-9),
    "nats_per_s": _nats(row) * rate if rate and row.validation else None,
  }


def _kmeans(
  fitted: store_lib.Store | None,
  store: store_lib.Store,
  tokenizer: api.Tokenizer,
  settings: studies.TokenStudy,
) -> dict[str, float | None]:
  """dB of patches in as many colours as there are codes, fitted on other clips."""
  if fitted is None or tokenizer.latents.codes > 1:
    return {"kmeans_db": None}
  kmeans = stats.fit_kmeans(
    _frames(_clips(fitted, settings.clips)),
    codes=tokenizer.vocab,
    size=tokenizer.factor,
    most_patches=settings.kmeans_patches,
    iterations=10,
    seed=0,
  )
  original_MHW3 = _frames(_clips(store, settings.clips))
  return {"kmeans_db": stats.psnr_db(original_MHW3, kmeans.decode(kmeans.encode(original_MHW3)))}


def _frames(clips_RNHW3: np.ndarray) -> np.ndarray:
  return clips_RNHW3.reshape(-1, *clips_RNHW3.shape[2:])


def _nats(row: studies.TokenRow) -> float:
  """Held-out nats a token of the model that was validated.

  Raises:
    ValueError: the directory has no validation, or one of several stores.
  """
  path = epath.Path(row.validation) / "metrics.json"
  if not files.exists(path):
    raise ValueError(f"{path} does not exist; validate a model on these tokens first")
  metrics: Mapping[str, Any] = files.read_json(path)
  losses = [v for k, v in metrics.items() if k.count("/") == 1 and k.endswith("/loss")]
  if len(losses) != 1:
    raise ValueError(f"{path} has {len(losses)} losses; validate on one store")
  return float(losses[0])


def _table(rows: list[dict[str, Any]]) -> str:
  """In Markdown, without columns that are empty."""
  names = {k: v for k, v in _COLUMNS.items() if any(row[k] is not None for row in rows)}
  lines = [" | ".join(names.values()), " | ".join("---" for _ in names)]
  lines += [" | ".join(_cell(row[key]) for key in names) for row in rows]
  return "".join(f"| {line} |\n" for line in lines)


def _cell(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, float):
    return (
      f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"
    )
  return f"{value:,}" if isinstance(value, int) else str(value)
