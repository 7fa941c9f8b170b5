r"""Behaviour cloning from recorded trajectories on frozen features (Table 11).

  python -m totojax.main --config=configs/clone.py:toto=RUN --workdir=CLONE \
    --config.data.root=LEROBOT

`data.root` is the folder of a LeRobot data set (2.1, 3.0) or a file of robomimic
(extras `data` and `robots`). After the colon as in configs/dagger.py. As RPT filters and
scales joints: --config.data.actions=deltas. The policy for a robot is
CLONE/policies/toto-layerN/0, see configs/policy_server.py.
"""

from totojax.config import roots, track


def get_config(argument: str = ""):
  return roots.config("clone", encoders=track.trackers(argument.split(",")))
