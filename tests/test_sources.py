"""Each data set in miniature, laid out as it lies on disk."""

import json

import numpy as np
import pytest
import runs

from totojax.data.sources import diving48, ego4d, howto100m, kinetics, ssv2, ucf101


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text if isinstance(text, str) else json.dumps(text))
  return str(path)


def labels(listing):
  return {item.id: item.label for item in listing.items}


def missing(listing):
  return [row.id for row in listing.missing]


# Kinetics

HEAD = "label,youtube_id,time_start,time_end,split\n"
CSV = (
  HEAD
  + """\
riding a bike,-abcdefghij,10,20,train
"eating, fast",ABCDEFGHIJK,3,13,train
eating_x,aaaaaaaaaaa,0,10,validate
riding a bike,zzzzzzzzzzz,100,110,train
riding a bike,yyyyyyyyyyy,7,17,train
"""
)


def kin(root, split="train", annotations="", classes=0, plain_names="whole"):
  return kinetics.list_items(
    root, split, annotations=annotations, classes=classes, plain_names=plain_names
  )


def test_kinetics_cells_are_stripped_and_rows_count_once(tmp_path, capsys):
  touch(tmp_path, "train/-abcdefghij_000010_000020.mp4")
  rows = (
    HEAD
    + "riding a bike , -abcdefghij ,10, 20,train \n"
    + "riding a bike,-abcdefghij,10,20,train\n"
  )
  listing = kin(tmp_path, annotations=write(tmp_path / "k.csv", rows))
  assert labels(listing) == {"-abcdefghij": 0} and listing.classes == ("riding a bike",)
  assert "1 rows say what another one does" in capsys.readouterr().out
  other = rows + "running,-abcdefghij,10,20,train\n"
  with pytest.raises(ValueError, match="line 4: .* is 'running', and 'riding a bike' before"):
    kin(tmp_path, annotations=write(tmp_path / "k.csv", other))


@pytest.mark.parametrize("layout", ["train/", "train/riding_a_bike/", ""])
def test_kinetics(tmp_path, layout):
  touch(
    tmp_path,
    f"{layout}-abcdefghij_000010_000020.mp4",
    f"{layout}ABCDEFGHIJK.mkv",
    f"{layout}yyyyyyyyyyy_000027_000037.mp4",
  )
  csv = write(tmp_path / "k.csv", CSV)
  listing = kin(tmp_path, annotations=csv, classes=2)
  assert listing.classes == ("eating, fast", "riding a bike")
  assert labels(listing) == {"-abcdefghij": 1, "ABCDEFGHIJK": 0}
  spans = {item.id: (item.start_s, item.end_s) for item in listing.items}
  assert spans == {"-abcdefghij": (None, None), "ABCDEFGHIJK": (3.0, 13.0)}
  assert missing(listing) == ["yyyyyyyyyyy", "zzzzzzzzzzz"]
  assert "000027_000037.mp4 is another stretch" in listing.missing[0].reason
  listing = kin(tmp_path, annotations=csv, plain_names="trimmed")
  assert {item.start_s for item in listing.items} == {None}
  with pytest.raises(ValueError, match="has 2 classes; 400 are wanted"):
    kin(tmp_path, annotations=csv, classes=400)


@pytest.mark.parametrize("split", ["val", "validate", "validation"])
def test_kinetics_names_of_validation(tmp_path, split):
  touch(tmp_path, "val/aaaaaaaaaaa_000000_000010.mp4")
  write(tmp_path / f"{split}.csv", CSV)
  listing = kin(tmp_path, split, annotations=str(tmp_path / "{split}.csv"))
  assert labels(listing) == {"aaaaaaaaaaa": 0}
  assert listing.classes == ("eating x",)


def test_kinetics_by_folders(tmp_path):
  touch(
    tmp_path,
    "val/riding a bike/-abcdefghij_000010_000020.mp4",
    "val/eating_x/ABCDEFGHIJK.mp4",
    "val/eating_x/ABCDEFGHIJK_000001_000011.mp4",
  )
  listing = kin(tmp_path, "validate", classes=2)
  assert listing.classes == ("eating x", "riding a bike")
  assert labels(listing) == {"-abcdefghij": 1, "ABCDEFGHIJK": 0, "ABCDEFGHIJK_000001_000011": 0}
  assert {item.start_s for item in listing.items} == {None}


def test_kinetics_without_labels_and_bad_annotations(tmp_path):
  touch(tmp_path, "test/aaaaaaaaaaa_000000_000010.mp4")
  csv = write(
    tmp_path / "test.csv", "youtube_id,time_start,time_end,split\naaaaaaaaaaa,0,10,test\n"
  )
  listing = kin(tmp_path, "test", annotations=csv, classes=400)
  assert labels(listing) == {"aaaaaaaaaaa": -1} and listing.classes == ()
  for text, told in (
    ("label,id\n", r"\['youtube_id', 'time_start', 'time_end'\] are missing"),
    (HEAD, "no row of the split test"),
    (HEAD + "a,aaaaaaaaaaa,x,10,test\n", "line 2: 'x' is no time"),
    (HEAD + "a,aaaaaaaaaaa,20,10,test\n", "line 2: the video has no times"),
    (HEAD + "a,aaaaaaaaaaa\n", "line 2: has fewer columns"),
    (HEAD + "a,bbbbbbbbbbb,0,10,test\n", "holds no video.*1 are missing"),
  ):
    csv = write(tmp_path / "test.csv", text)
    with pytest.raises(ValueError, match=told):
      kin(tmp_path, "test", annotations=csv)
  with pytest.raises(ValueError, match="'whole', 'trimmed'"):
    kin(tmp_path, plain_names="x")


# Something-Something v2


@pytest.mark.parametrize(
  "prefix, folder",
  [("something-something-v2-", "20bn-something-something-v2/"), ("labels/", "videos/")],
)
def test_ssv2(tmp_path, prefix, folder):
  classes = {"Holding something next to something": "1", "Moving down": "0"}
  rows = [
    {
      "id": "78687",
      "label": "holding potato next to a bottle",
      "template": "Holding [something] next to [something]",
      "placeholders": ["potato", "a bottle"],
    },
    {"id": "9", "label": "moving down", "template": "Moving down"},
    {"id": "10", "label": "moving down", "template": "Moving down"},
  ]
  write(tmp_path / f"{prefix}labels.json", classes)
  write(tmp_path / f"{prefix}validation.json", rows)
  write(tmp_path / f"{prefix}test.json", [{"id": "9"}])
  touch(tmp_path, f"{folder}78687.webm", f"{folder}9.webm")
  listing = ssv2.list_items(tmp_path, "val", classes=2)
  assert listing.classes == ("Moving down", "Holding something next to something")
  assert labels(listing) == {"78687": 1, "9": 0}
  assert missing(listing) == ["10"]
  assert labels(ssv2.list_items(tmp_path, "test", classes=2)) == {"9": -1}
  with pytest.raises(ValueError, match="has 2 classes; 174 are wanted"):
    ssv2.list_items(tmp_path, "validation", classes=174)
  with pytest.raises(ValueError, match=r"Something-Something v2 \(train\)"):
    ssv2.list_items(tmp_path, "train", classes=2)
  rows[1]["template"] = "Moving [something] up"
  write(tmp_path / f"{prefix}validation.json", rows)
  with pytest.raises(ValueError, match="entry 2: 'Moving something up' is no"):
    ssv2.list_items(tmp_path, "validation", classes=2)


# Ego4D


def test_ego4d(tmp_path):
  write(
    tmp_path / "ego4d.json",
    {
      "videos": [
        {"video_uid": "u1", "duration_sec": 9.0},
        {"video_uid": "u2"},
        {"video_uid": "u3"},
      ],
      "clips": [{"clip_uid": "c1", "video_uid": "u1"}],
    },
  )
  touch(
    tmp_path,
    "v2/full_scale/u1.mp4",
    "v2/full_scale/u3.mp4",
    "v2/full_scale/manifest.csv",
    "v2/clips/c1.mp4",
  )
  listing = ego4d.list_items(tmp_path, "", folder="full_scale")
  assert labels(listing) == {"u1": -1, "u3": -1}
  assert missing(listing) == ["u2"]
  assert labels(ego4d.list_items(tmp_path, "", folder="clips")) == {"c1": -1}
  within = ego4d.list_items(tmp_path / "v2", "", folder="full_scale")
  assert labels(within) == {"u1": -1, "u3": -1} and within.missing == ()
  uids = write(tmp_path / "train.txt", "u3\nu2\n")
  listing = ego4d.list_items(tmp_path, "", folder="full_scale", ids=uids)
  by_split = str(tmp_path / "{split}.txt")
  assert listing == ego4d.list_items(tmp_path, "train", folder="full_scale", ids=by_split)
  with pytest.raises(ValueError, match="split is 'train', and ids is ''"):
    ego4d.list_items(tmp_path, "train", folder="full_scale")
  assert labels(listing) == {"u3": -1} and missing(listing) == ["u2"]
  spans = write(
    tmp_path / "spans.csv", "video_uid,start_s,end_s\nu1,2.5,10\nu1,20,\nu3,,\nu2,0,1\n"
  )
  listing = ego4d.list_items(tmp_path, "", folder="full_scale", ids=spans)
  assert [(i.id, i.start_s, i.end_s) for i in listing.items] == [
    ("u1/2.5-10", 2.5, 10.0),
    ("u1/20-end", 20.0, None),
    ("u3", None, None),
  ]
  assert missing(listing) == ["u2/0-1"]
  write(tmp_path / "spans.csv", "video_uid,start_s,end_s\nu1,5,4\n")
  with pytest.raises(ValueError, match="line 2: the span from 5.0 to 4.0"):
    ego4d.list_items(tmp_path, "", folder="full_scale", ids=spans)
  write(tmp_path / "ego4d.json", {"films": []})
  with pytest.raises(ValueError, match="is not Ego4D's"):
    ego4d.list_items(tmp_path, "", folder="full_scale")
  with pytest.raises(ValueError, match="no folder of videos; looked for"):
    ego4d.list_items(tmp_path, "", folder="video_540ss")


# HowTo100M


def test_howto100m(tmp_path):
  touch(tmp_path, "a/-0123456789.mp4", "b/c/zzzzzzzzzzz.webm", "yyyyyyyyyyy.mkv")
  listing = howto100m.list_items(tmp_path, "", ids="")
  assert list(labels(listing)) == ["-0123456789", "yyyyyyyyyyy", "zzzzzzzzzzz"]
  ids = write(
    tmp_path / "HowTo100M_v1.csv",
    "video_id,category_1,category_2,rank,task_id\n"
    "-0123456789,Food,Soups,1,3\nnnnnnnnnnnn,Food,Soups,2,3\n"
    "-0123456789,Food,Soups,4,7\n",
  )
  listing = howto100m.list_items(tmp_path, "", ids=ids)
  assert labels(listing) == {"-0123456789": -1}
  assert missing(listing) == ["nnnnnnnnnnn"] and listing.classes == ()
  plain = write(tmp_path / "ids.txt", "zzzzzzzzzzz\n")
  assert list(labels(howto100m.list_items(tmp_path, "b", ids=plain))) == ["zzzzzzzzzzz"]
  with pytest.raises(ValueError, match="is empty"):
    howto100m.list_items(tmp_path, "", ids=write(tmp_path / "no.txt", ""))


# UCF101


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", "."])
@pytest.mark.parametrize("folder", ["UCF-101", "."])
def test_ucf101(tmp_path, lists, folder):
  where = tmp_path / lists
  write(where / "classInd.txt", "1 ApplyEyeMakeup\r\n2 YoYo\r\n")
  write(where / "trainlist02.txt", "YoYo/v_YoYo_g08_c01.avi 2\r\nYoYo/v_YoYo_g09_c01.avi 2\r\n")
  write(where / "testlist02.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n")
  touch(tmp_path / folder, "YoYo/v_YoYo_g08_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
  listing = ucf101.list_items(tmp_path, "train", fold=2, classes=2)
  assert listing.classes == ("ApplyEyeMakeup", "YoYo")
  assert labels(listing) == {"YoYo/v_YoYo_g08_c01.avi": 1}
  assert missing(listing) == ["YoYo/v_YoYo_g09_c01.avi"]
  listing = ucf101.list_items(tmp_path, "test", fold=2, classes=2)
  assert list(labels(listing).values()) == [0]
  with pytest.raises(ValueError, match="has 2 classes; 101 are wanted"):
    ucf101.list_items(tmp_path, "test", fold=2, classes=101)
  with pytest.raises(ValueError, match="'train' and 'test' of folds"):
    ucf101.list_items(tmp_path, "val", fold=2, classes=2)
  with pytest.raises(ValueError, match="testlist03.txt"):
    ucf101.list_items(tmp_path, "test", fold=3, classes=2)
  for line, told in (
    ("YoYo/a.avi 1", "line 1: label 1 for YoYo, which is 2"),
    ("Juggling/a.avi 1", "line 1: 'Juggling' is no class"),
    ("YoYo/a.avi x", "line 1: label 'x' is not an integer"),
  ):
    write(where / "trainlist02.txt", line)
    with pytest.raises(ValueError, match=told):
      ucf101.list_items(tmp_path, "train", fold=2, classes=2)


def test_diving48(tmp_path):
  golden = np.load(runs.ROOT / "tests" / "golden" / "label_formats.npz")
  for name in ("vocab", "train", "test"):
    file = "Diving48_vocab.json" if name == "vocab" else f"Diving48_V2_{name}.json"
    (tmp_path / file).write_text(str(golden[f"diving48/{name}_json"]))
  for split in ("train", "test"):
    touch(tmp_path, *(f"rgb/{file}" for file in golden[f"diving48/{split}_files"]))
    listing = diving48.list_items(tmp_path, split, classes=12)
    entries = {row["vid_name"]: row for row in json.loads(str(golden[f"diving48/{split}_json"]))}
    expected = dict(zip(golden[f"diving48/{split}_files"], golden[f"diving48/{split}_class"]))
    whole = {k: v for k, v in expected.items() if not entries[k[:-4]]["start_frame"]}
    assert {f"{k}.mp4": v for k, v in labels(listing).items()} == whole
    names = dict(zip(golden[f"diving48/{split}_files"], golden[f"diving48/{split}_names"]))
    for item in listing.items:
      assert listing.classes[item.label].replace(" ", "_") == names[f"{item.id}.mp4"]
    assert len(missing(listing)) == len(expected) - len(whole) > 0  # parts of their files
  assert labels(diving48.list_items(tmp_path, "val", classes=0))
  with pytest.raises(ValueError, match="has 12 classes; 48 are wanted"):
    diving48.list_items(tmp_path, "train", classes=48)
  # The first version's lists have other names, and are not taken for these.
  (tmp_path / "Diving48_V2_train.json").rename(tmp_path / "Diving48_train.json")
  with pytest.raises(ValueError, match="annotations of Diving-48"):
    diving48.list_items(tmp_path, "train", classes=0)
  write(tmp_path / "Diving48_V2_train.json", [{"vid_name": "x", "label": 12}])
  with pytest.raises(ValueError, match="label 12 is out of range"):
    diving48.list_items(tmp_path, "train", classes=0)
