r"""What is wrong with this machine, and what to do about it.

  python -m totojax.main --config=configs/doctor.py
  python -m totojax.main --config=configs/doctor.py --workdir=gs://BUCKET/RUN \
    --config.paths="('TOKENS/train','RUN')"
  python -m totojax.doctor

Looks at Python and the packages (do jax, jaxlib and plugins match?), devices,
memory, disk, whether the workdir can be written, the compilation cache, each
extra, PyAV's codecs and OpenGL; of paths, whether a store is whole and how far
a run is. A row for each, with what to do where it is not well;
--config.json=True prints JSON. Leaves nothing. Exit status 0: a run should work
here; 2: a row failed. The last command is the same where nothing else starts:
it needs Python alone.
"""

from totojax.config import roots


def get_config():
  return roots.config("doctor")
