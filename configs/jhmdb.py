r"""Joints of people followed by features: JHMDB, PCK at 0.1 and 0.2.

  python -m totojax.main --config=configs/jhmdb.py:mine=RUN --workdir=JHMDB_OUT \
    --config.data.root=JHMDB

After the colon as in configs/davis.py; rules are "rvm" if none are named. JHMDB is
the folder with splits, Rename_Images and joint_positions (docs/tracking.md).
"""

from totojax.config import track


def get_config(argument: str = ""):
  return track.job("jhmdb", argument)
