"""`run = "official"`: a tokenizer file from released weights.

Leaves `tokenizer.safetensors` in the run directory, as training one does. What
had to be downloaded is in `downloads` beside it, and may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import pathlib
import re
from typing import Any

from etils import epath

from totojax.config.typed import typed
from totojax.rundir import directory
from totojax.rundir import lock
from totojax.tokenizers.released import download
from totojax.tokenizers.released import official


@dataclasses.dataclass(frozen=True)
class Official:
  """Which weights, and where they are.

  Attributes:
    kind: one of `official.KINDS`.
    files: local paths (encoder and decoder, or the checkpoint); empty: they are
      downloaded.
    urls: addresses to download them from; empty: the official ones.
    sha256: that the files must have; empty: not checked (none is published).
  """

  kind: str
  files: tuple[str, ...]
  urls: tuple[str, ...]
  sha256: tuple[str, ...]

  def __post_init__(self):
    kind = official.find(self.kind)
    for name in ("files", "urls", "sha256"):
      given = getattr(self, name)
      if not isinstance(given, tuple | list) or not all(
          isinstance(word, str) for word in given
      ):
        raise ValueError(
            f"official.{name} is {given!r}; it must be a tuple of strings"
        )
      if given and len(given) != len(kind.files):
        raise ValueError(
            f"official.{name} has {len(given)} entries; {self.kind} is made of"
            f" {len(kind.files)} files ({', '.join(kind.files)}): give one for"
            " each, or none"
        )
    if self.files and self.urls:
      raise ValueError(
          "official.files and official.urls are both set; keep the one that the"
          " weights are read from"
      )
    for word in self.sha256:
      if not re.fullmatch("[0-9a-fA-F]{64}", word):
        raise ValueError(
            f"official.sha256 has {word!r}; a SHA-256 has 64 hex digits"
        )


def run(
    config: Mapping[str, Any],
    workdir: epath.Path,
    interrupted: Callable[[int], bool],
) -> bool:
  """Downloads what is not given, and converts it; False when interrupted."""
  settings = typed(Official, config["official"], "official")
  kind = official.find(settings.kind)
  workdir.mkdir(parents=True, exist_ok=True)
  lock.take(workdir)
  files = [pathlib.Path(file) for file in settings.files]
  if not files:
    folder = pathlib.Path(workdir) / "downloads"
    folder.mkdir(exist_ok=True)
    for i, url in enumerate(settings.urls or kind.urls):
      # Two addresses never share a file, nor the part of one.
      mark = hashlib.sha256(url.encode()).hexdigest()[:8]
      files.append(folder / f"{mark}-{kind.files[i]}")
      if not download.fetch(
          url,
          files[i],
          sha256=settings.sha256[i] if settings.sha256 else None,
          interrupted=lambda: interrupted(0),
      ):
        return False
  try:
    fingerprint = official.convert(
        kind, files, workdir / "tokenizer.safetensors", sha256=settings.sha256
    )
  except ValueError as error:
    if settings.files:
      raise
    raise ValueError(
        f"{error}\nWhat was downloaded stays in {files[0].parent}; delete it to"
        " fetch it again, or give other addresses as official.urls"
    ) from error
  # Only now is it a run: wrong files can be replaced by others in its config.
  directory.begin(workdir, config, tokenizer=fingerprint)
  print(f"{workdir}: tokenizer {fingerprint} from {settings.kind}", flush=True)
  return True
