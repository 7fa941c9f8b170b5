r"""A policy for a robot: frames in, actions out, over a local socket (docs/robots.md).

  python -m totojax.main --config=configs/policy_server.py \
    --config.policy=CLONE/policies/toto-layer6/0
"""

from totojax.config import roots


def get_config():
  return roots.config("policy_server")
