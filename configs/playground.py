"""A page on which one plays with a model: pick a clip, watch how it goes on.

  python -m totojax.main --config=configs/playground.py
  python -m totojax.main --config=configs/playground.py --config.model_run=RUN

The first plays with the small model that ships with the package, the second with a
finished run of pre-training. Needs the extra `web`, and for uploads and MP4 PyAV
(extra `data`). Prints the address, http://127.0.0.1:8765/, until Ctrl-C;
--config.server.port=0 takes a free port. Frames appear as they are decoded,
beside the truth, with the loss of each token as a heat map over them; the clip
can be downloaded. Clips are those that the run holds out, some that are drawn
for the page, your files (--config.prompt.path=VIDEOS) and uploads.

It is for this machine alone: there is no password (docs/generation.md).
"""

from totojax.config import roots


def get_config():
  return roots.config("playground", model_run="shipped")
