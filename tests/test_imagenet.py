"""ImageNet in miniature, in each layout that it is found in."""

import os

import numpy as np
import pytest
from scipy import io as scipy_io
import test_folder
from test_sources import labels, missing, touch, write

from totojax.data.sources import imagenet


def net(root, split, classes=2, val_labels=""):
  return imagenet.list_items(root, split, classes=classes, val_labels=val_labels)


def test_imagenet_folders(tmp_path):
  touch(
    tmp_path,
    "train/n02000000/n02000000_7.JPEG",
    "train/n01440764/n01440764_10.JPEG",
    "train/n01440764/n01440764_9.JPEG",
  )
  listing = net(tmp_path, "train")
  assert listing.kind == "image"
  assert listing.classes == ("n01440764", "n02000000")
  assert labels(listing) == {
    "train/n01440764/n01440764_10.JPEG": 0,
    "train/n01440764/n01440764_9.JPEG": 0,
    "train/n02000000/n02000000_7.JPEG": 1,
  }
  with pytest.raises(ValueError, match="has 2 classes; 1000 are wanted"):
    net(tmp_path, "train", classes=1000)
  assert net(tmp_path / "train", "", classes=0).classes == listing.classes
  touch(tmp_path, "train/tench/1.JPEG")
  with pytest.raises(ValueError, match="'tench', which is none"):
    net(tmp_path, "train")
  with pytest.raises(ValueError, match="val is not a folder"):
    net(tmp_path, "val")


FLAT = [f"val/ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3)]
WNIDS = ["n02000000", "n01440764", "n02000000"]


def flat_labels(root, **how):
  return [labels(net(root, "val", **how))[name] for name in FLAT]


def test_imagenet_flat_validation(tmp_path):
  touch(tmp_path / "set", *FLAT)
  with pytest.raises(ValueError, match="give the file as val_labels"):
    net(tmp_path / "set", "val")
  # Kaggle's: any order, boxes behind the wnid.
  rows = [
    f"ILSVRC2012_val_0000000{i},{WNIDS[i - 1]} 85 1 499 272 {WNIDS[i - 1]} 3 4 5 6 "
    for i in (2, 1, 3)
  ]
  solution = write(
    tmp_path / "set" / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows])
  )
  assert flat_labels(tmp_path / "set") == [1, 0, 1]
  # TensorFlow's list of wnids.
  os.remove(solution)
  write(tmp_path / "imagenet_2012_validation_synset_labels.txt", "\n".join(WNIDS) + "\n")
  assert flat_labels(tmp_path / "set") == [1, 0, 1]
  short = write(tmp_path / "short.txt", "\n".join(WNIDS[:2]))
  with pytest.raises(ValueError, match="2 lines for 3 images"):
    flat_labels(tmp_path / "set", val_labels=short)
  wrong = write(tmp_path / "wrong.txt", "\n".join([*WNIDS[:2], "tench"]))
  with pytest.raises(ValueError, match="line 3: 'tench' is no wnid"):
    flat_labels(tmp_path / "set", val_labels=wrong)


def test_imagenet_development_kit_numbers_are_not_labels(tmp_path):
  touch(tmp_path, *FLAT)
  # The kit numbers n02000000 first, though n01440764 sorts before it.
  truth = write(tmp_path / "kit" / "ILSVRC2012_validation_ground_truth.txt", "1\n2\n1\n")
  with pytest.raises(ValueError, match="meta.mat"):
    flat_labels(tmp_path, val_labels=truth)
  synsets = np.zeros((2, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O")])
  synsets["ILSVRC2012_ID"][:, 0] = [1, 2]
  synsets["WNID"][:, 0] = ["n02000000", "n01440764"]
  scipy_io.savemat(tmp_path / "kit" / "meta.mat", {"synsets": synsets})
  assert flat_labels(tmp_path, val_labels=truth) == [1, 0, 1]


def test_imagenet_image_without_a_class_and_class_without_image(tmp_path):
  touch(tmp_path, *FLAT[:2])
  head = "ImageId,PredictionString\n"
  rows = "".join(f"ILSVRC2012_val_0000000{i + 1},{wnid} 1 1 2 2\n" for i, wnid in enumerate(WNIDS))
  path = write(tmp_path / "LOC_val_solution.csv", head + rows)
  listing = net(tmp_path, "val")
  assert missing(listing) == ["ILSVRC2012_val_00000003"]
  write(tmp_path / "LOC_val_solution.csv", head + rows.splitlines()[0])
  with pytest.raises(ValueError, match="no class for .*val_00000002"):
    net(tmp_path, "val", val_labels=path, classes=0)


def test_imagenet_21k_tars(tmp_path):
  for wnid, count in (("n02000000", 1), ("n01440764", 2)):
    test_folder.shard(
      tmp_path / f"{wnid}.tar", *((f"{wnid}_{i}.JPEG", test_folder.png(i)) for i in range(count))
    )
  listing = net(tmp_path, "", classes=0)
  assert listing.classes == ("n01440764", "n02000000")
  assert labels(listing) == {
    "n01440764/n01440764_0": 0,
    "n01440764/n01440764_1": 0,
    "n02000000/n02000000_0": 1,
  }
  assert all(item.part for item in listing.items)
