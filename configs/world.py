"""Clips of a rendered world with exact labels: masks, depth, boxes, places, contacts, events.

  python -m totojax.main --config=configs/world.py:tabletop --workdir=WORLD

needs the extra `world` (pip install 'totojax[world]') and, on a machine without a
screen, apt-get install -y libosmesa6 libegl1 libegl-mesa0. After the colon:

  tabletop     things roll, slide and fall; stores of 128 px
  hand         a hand takes, pushes or opens one of several things; stores, verbs as labels
  containers   cones cover and carry a golden snitch; stores, its last cell as label
  davis        tabletop as DAVIS 2017 lies on disk: frames, masks and lists
  cater        containers as CATER lies on disk, at its sizes: 5,500 clips
  cater_small  the same with 64 frames of 128 x 96 px: 1,300 clips, half of them carried
  cater_tiny   the same with 24 frames and three or four things: 2,300 clips
  ego4d_small  a hand and what it will touch, as Ego4D's short-term anticipation lies
               on disk: 750 videos of 128 px, four queries each

Leaves WORLD/train and WORLD/val with WORLD/train_truth and WORLD/val_truth, or the
folders of the data set; clips.csv, and report.html with some clips (docs/world.md).
"""

from totojax.config import world


def get_config(what: str = "tabletop"):
  return world.recipe(what)
