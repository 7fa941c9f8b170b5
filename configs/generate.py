"""Goes on with videos: the user's, or those that a run holds out.

  python -m totojax.main --config=configs/generate.py
  python -m totojax.main --config=configs/generate.py --workdir=VIDEOS \
    --config.model_run=RUN --config.prompt.path=clip.mp4

The first takes the small model that ships with the package, on clips that are
rendered. RUN is a finished run of pre-training; files need PyAV (extra `data`). Leaves
VIDEOS/report.html, which plays them beside the truth, VIDEOS/videos (lossless
WebP, MP4, a strip of PNG), tokens.npy, gen.json and metrics.csv: token loss on
the true next frames, PSNR and SSIM, beside copying the last frame, the mean
frame and the unigram.

Half of the model's window is given and the rest is made; what is longer
(--config.new_frames=56) goes on in a window that slides (docs/generation.md).
"""

from totojax.config import recipes


def get_config():
  return recipes.generate("shipped")
