r"""Robots: policies on frozen features, in small, from an expert on (Figure 6, Table 11).

  python -m totojax.main --config=configs/robots.py

records 55 roll-outs of a scripted expert (Franka's arm lifts a cube) as a LeRobot data
set, tokenises what its camera saw with a tokenizer that ships with the package,
pre-trains a small model on it, clones policies from 50 trajectories and tries each
50 times, then lets the expert correct policies by DAgger: on features of the
trained and of the untrained model, on small frames themselves and on the state, with
three seeds each (extras `world`, `data` and `robots`). `dagger/report.html` has the
curve, `clone/report.html` the table. After the colon, KEY=VALUE with commas between:

  task    pick or cabinet, or robosuite's lift or door (pick)
  arm     panda or iiwa (panda)
  seeds   runs of each row of DAgger (3)
  spread  of where things are at first, 0 to 1 (1)

Another encoder: --config.stages.dagger.encoders.NAME... is not a flag; write a file that
starts from this one. Rates, sizes and epochs are chosen, not tuned.
"""

from totojax.config import robots


def get_config(argument: str = ""):
  return robots.chain(argument)
