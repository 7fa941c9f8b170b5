r"""Objects of videos followed by features: DAVIS (Table 10, Figures 5 and 8).

  python -m totojax.main --config=configs/davis.py:mine=RUN --workdir=DAVIS_OUT \
    --config.data.root=DAVIS
  python -m totojax.main --config=configs/davis.py:stc,mine=RUN,dino=dinov2:WEIGHTS

After the colon: rules ("dino", the default, "stc", "rvm", or "dino+stc"), then
NAME=WHAT: the run directory of a model of ours, an encoder by name
(totojax/trained/ready.py) or a Python file of yours, features:FOLDER of maps on
disk. Nothing is trained. Untrained runs, raw pixels and copies of the first mask
stand beside them. DAVIS is the folder with ImageSets, JPEGImages and Annotations;
of DAVIS-2016 --config.data.year=2016. Frames are squares of 256 pixels
(--config.frames.size_px=512), each an image of its own; --config.frames.input:
"self_repeat", "video"; --config.frames.full_attn=True. Leaves report.html,
per_layer.csv, the official tables and masks in results/, and overlays/
(docs/tracking.md). The same command goes on where it stopped.
"""

from totojax.config import track


def get_config(argument: str = ""):
  return track.job("davis", argument)
