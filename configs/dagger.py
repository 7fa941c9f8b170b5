r"""DAgger: an expert corrects policies on frozen features in a rendered world (Figure 6).

  python -m totojax.main --config=configs/dagger.py:toto=RUN,dino=dinov2:WEIGHTS \
    --workdir=DAGGER --config.env.task=cabinet --config.env.arm=iiwa

After the colon NAME=WHAT with commas between: a run of pre-training, an encoder by name
(`docs/probing.md`) or a file of yours. The extra `world`. All layers of an encoder:
--config.encoders.toto.layers="(0, 3, 6, 9, 12)" (Figure 8).
"""

from totojax.config import roots, track


def get_config(argument: str = ""):
  return roots.config("dagger", encoders=track.trackers(argument.split(",")))
