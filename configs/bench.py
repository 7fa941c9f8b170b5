r"""How fast this machine does what the project needs, as ratios.

  python -m totojax.main --config=configs/bench.py --workdir=runs/bench
  python -m totojax.main --config=configs/bench.py --workdir=runs/bench \
    --config.bench.rows="('decode','store_read')"

Each row compares two ways to do the same work, in turns, in one process: videos
against a bare PyAV loop (extra `data`), the dVAE against DALL-E's modules and
the train step against PyTorch and transformers (extra `parity`), shards against
a memmap and a DataLoader, NMS and RoI align against loops and gathers in
PyTorch, checkpoints against a plain file, a start with the compilation cache
against one without, Mamba's scan in chunks against one token by token, and
larger train steps against a small one (the row growth; on a CPU its devices
need XLA_FLAGS=--xla_force_host_platform_device_count=8). On a GPU,
configs/bench.py:gpu measures the paper's models in bfloat16: training and
decoding against PyTorch and transformers on the same GPU, and the dVAE against
DALL-E's modules. Leaves bench.json and prints the table. Meant for a quiet
machine: the load before and after stands in bench.json.
"""

from totojax.config import bench as bench_defaults


def get_config(where=""):
  """`where`: "gpu" for the sizes of a GPU."""
  if where not in ("", "gpu"):
    raise ValueError(f"configs/bench.py:{where} is unknown; use gpu or nothing")
  if where:
    return bench_defaults.bench_accelerator()
  return bench_defaults.bench()
