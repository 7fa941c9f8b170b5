"""`run = "official"`: a tokenizer file from released weights.

Leaves `tokenizer.safetensors` in the run directory, as training one does. What
had to be downloaded is in `downloads` beside it, and may be deleted; of a run
in a bucket it is on this machine until the run ends.
"""

import hashlib
import pathlib

from etils import epath

from totojax import jobs
from totojax.config import tokens
from totojax.config.schema import ConfigError
from totojax.rundir import directory, files, local, lock
from totojax.storage import objects
from totojax.tokenizers.released import download, official


def _check_files(settings: tokens.OfficialWeights, kind: official.Kind) -> None:
  """Raises ConfigError unless there is one of each list for every file, here."""
  if far := [file for file in settings.files if objects.is_url(file)]:
    raise ConfigError(
      f"official.files names {far[0]}; these files are read on this machine: copy it here first"
      f" (gcloud storage cp {far[0]} .)"
    )
  for name in ("files", "urls", "sha256"):
    entries = getattr(settings, name)
    if entries and len(entries) != len(kind.files):
      raise ConfigError(
        f"official.{name} has {len(entries)} entries; {kind.name} is made of {len(kind.files)}"
        f" files ({', '.join(kind.files)}): give one for each, or none"
      )
  if not (settings.files or settings.urls or kind.is_downloaded):
    raise ConfigError(
      f"official.files is empty; {kind.name} is made of {', '.join(kind.files)}, which lie at"
      f" {kind.origin(0)}: accept its licence, download them, and name them there in this order"
    )


def run(config: tokens.Official, workdir: epath.Path, interrupted: jobs.Interrupted) -> bool:
  """Downloads what is not given, and converts it; False when interrupted."""
  settings = config.official
  kind = official.find(settings.kind)
  _check_files(settings, kind)
  files.make_folder(workdir)
  lock.take(workdir)
  parts = [pathlib.Path(file) for file in settings.files]
  if not parts:
    folder = pathlib.Path(local.folder(workdir, "downloads"))
    folder.mkdir(parents=True, exist_ok=True)
    for i, url in enumerate(settings.urls or kind.urls):
      # Two addresses never share a file, nor the part of one.
      mark = hashlib.sha256(url.encode()).hexdigest()[:8]
      parts.append(folder / f"{mark}-{kind.files[i]}")
      if not download.fetch(
        url,
        parts[i],
        sha256=settings.sha256[i] if settings.sha256 else None,
        interrupted=lambda: interrupted(0),
      ):
        return False
  try:
    fingerprint = official.convert(
      kind,
      parts,
      workdir / "tokenizer.safetensors",
      sha256=settings.sha256,
      variant=settings.variant,
    )
  except ValueError as error:
    if settings.files:
      raise
    raise ValueError(
      f"{error}; what was downloaded stays in {parts[0].parent}; delete it to"
      " fetch it again, or give other addresses as official.urls"
    ) from error
  # Only now is it a run: wrong files can be replaced by others in its config.
  directory.begin(workdir, config, tokenizer=fingerprint)
  local.remove(workdir, "downloads")
  print(f"{workdir}: tokenizer {fingerprint} from {settings.kind}", flush=True)
  return True
