r"""Parts of people followed by features: VIP, mIoU of 20 classes.

  python -m totojax.main --config=configs/vip.py:mine=RUN --workdir=VIP_OUT \
    --config.data.root=VIP_Fine

After the colon as in configs/davis.py; rules are "rvm", with 10 neighbours, if
none are named. VIP_Fine is the folder with Images, Annotations and lists
(docs/tracking.md).
"""

from totojax.config import track


def get_config(argument: str = ""):
  return track.job("vip", argument)
