"""Small DAVIS, JHMDB and VIP as they lie on disk, that tests track through."""

import numpy as np
from PIL import Image
import scipy.io

from totojax.data.pixels import label_images

SIZE = (96, 128)
NAMES = ("one", "two")
FRAMES = 5


def write_image(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def write_mask(path, labels):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(label_images.png(labels))


def discs(seed, *, frames=FRAMES, ids=(1, 2), size=SIZE):
  """uint8 [T, H, W]: discs that move, the later over the earlier."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[: size[0], : size[1]]
  out = np.zeros((frames, *size), np.uint8)
  for number, label in enumerate(ids):
    middle = np.array([size[0] * 0.5, size[1] * (0.3 + 0.4 * number)])
    speed = rng.uniform(-4, 4, 2)
    for t in range(frames):
      y, x = middle + speed * t
      out[t][(rows - y) ** 2 + (columns - x) ** 2 <= (0.24 * size[0]) ** 2] = label
  return out


def pixels_of(labels, seed):
  """uint8 [T, H, W, 3]: every label has its colour, with noise."""
  noise = np.random.default_rng(seed).integers(-20, 21, (*labels.shape, 3))
  colours = label_images.palette()[labels].astype(int) // 2 + 60
  return np.clip(colours + noise, 0, 255).astype(np.uint8)


def davis(root, *, year=2017, names=NAMES, values=None):
  """The masks of the sequences; `values` are written in place of ids."""
  (root / "ImageSets" / str(year)).mkdir(parents=True)
  (root / "ImageSets" / str(year) / "val.txt").write_text("".join(f"{n}\n" for n in names))
  found = {}
  for seed, name in enumerate(names):
    found[name] = discs(seed)
    for t, (labels, pixels) in enumerate(zip(found[name], pixels_of(found[name], seed))):
      write_image(root / f"JPEGImages/480p/{name}/{t:05d}.jpg", pixels)
      shown = labels if values is None else np.array(values, np.uint8)[labels]
      write_mask(root / f"Annotations/480p/{name}/{t:05d}.png", shown)
  return found


def jhmdb(root, *, names=("a_1", "b_2")):
  """Places of joints of videos of one class, [2, J, T] from 0."""
  (root / "splits").mkdir(parents=True)
  lines = [f"{name}.avi 2\n" for name in names] + ["other.avi 1\n"]
  (root / "splits" / "walk_test_split1.txt").write_text("".join(lines))
  found = {}
  for seed, name in enumerate(names):
    rng = np.random.default_rng(seed)
    start = rng.uniform(30, 90, (2, 15, 1)) * [[[1.3]], [[0.9]]]
    found[f"walk/{name}"] = start + rng.uniform(-2, 2, (2, 1, 1)) * np.arange(FRAMES)
    folder = root / "joint_positions" / "walk" / name
    folder.mkdir(parents=True)
    place = found[f"walk/{name}"] + 1
    scipy.io.savemat(folder / "joint_positions.mat", {"pos_img": place}, do_compression=True)
    for t in range(FRAMES):
      pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
      write_image(root / f"Rename_Images/walk/{name}/{t + 1:05d}.png", pixels)
  return found


def vip(root, *, names=("videos1", "videos2")):
  """Classes of the videos, of which one has pixels of none."""
  (root / "lists").mkdir(parents=True)
  (root / "lists" / "val_videos.txt").write_text("".join(f"{n}\n" for n in names))
  found = {}
  for seed, name in enumerate(names):
    found[name] = discs(seed, ids=(4, 13))
    if seed:
      found[name][:, :3] = 255
    for t, (labels, pixels) in enumerate(zip(found[name], pixels_of(found[name] % 20, seed))):
      number = 1 + 25 * t
      write_image(root / f"Images/{name}/{number}.jpg", pixels)
      write_mask(root / f"Annotations/Category_ids/{name}/{number}.png", labels)
  return found


def oracle(labels, grid):
  """float32 [T, h, w, 256]: how much of a place has each label."""
  t, h, w = len(labels), *grid
  cut = labels.reshape(t, h, labels.shape[1] // h, w, -1).swapaxes(2, 3).reshape(t, h, w, -1)
  there = np.unique(labels)
  return (cut[..., None] == there).mean(-2).astype(np.float32)
