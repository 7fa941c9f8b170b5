"""Plain folders, lists of files, and tars."""

import io
import os
import tarfile

import little_videos
from PIL import Image
import pytest

from totojax.config import recipes, roots
from totojax.data.pixels import images, media
from totojax.data.sources import files, folder, listings, tars


def touch(root, *names):
  for name in names:
    path = os.path.join(os.fsencode(root), os.fsencode(name))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
      file.write(b"x")


def videos(root, split="", class_folders=False):
  return folder.list_items(root, split, kind="video", class_folders=class_folders)


def ids(listing):
  return [item.id for item in listing.items]


def test_folder(tmp_path):
  names = ["b/Ünï cödé 視頻.MP4", "a b.avi", "b/x.webm", "Z.mov"]
  touch(tmp_path, *names, "notes.txt", "b/y.mp4.part", ".b/._x.mp4", "c.jpg")
  (tmp_path / "folder.mp4").mkdir()
  os.mkfifo(tmp_path / "pipe.mp4")
  listing = videos(tmp_path)
  assert ids(listing) == sorted(names)
  assert listing.kind == "video" and listing.classes == ()
  assert all(os.path.isfile(item.path) for item in listing.items)
  assert {item.label for item in listing.items} == {-1}
  assert ids(videos(tmp_path, "b")) == ["b/x.webm", "b/Ünï cödé 視頻.MP4"]
  pictures = folder.list_items(tmp_path, "", kind="image", class_folders=False)
  assert ids(pictures) == ["c.jpg"]
  with pytest.raises(ValueError, match="holds no video"):
    videos(tmp_path / "folder.mp4")
  with pytest.raises(ValueError, match="not a folder"):
    videos(tmp_path / "none")
  with pytest.raises(ValueError, match="'sound'; use 'image' or 'video'"):
    folder.list_items(tmp_path, "", kind="sound", class_folders=False)


def test_class_folders(tmp_path):
  touch(tmp_path, "val/zoo/1.mp4", "val/a b/deep/er/2.mp4", "val/empty/x.txt")
  listing = videos(tmp_path, "val", class_folders=True)
  assert listing.classes == ("a b", "empty", "zoo")
  found = {item.id: item.label for item in listing.items}
  assert found == {"val/a b/deep/er/2.mp4": 0, "val/zoo/1.mp4": 2}
  touch(tmp_path, "val/loose.mp4")
  with pytest.raises(ValueError, match="loose.mp4 is in no class folder"):
    videos(tmp_path, "val", class_folders=True)


def test_names_that_are_no_utf8(tmp_path):
  touch(tmp_path, b"a/\xff\xfe.mp4", "new\nline.mp4")
  listing = videos(tmp_path)
  assert ids(listing) == ["a/\\xff\\xfe.mp4", "new\\x0aline.mp4"]
  assert all(os.path.exists(item.path) for item in listing.items)
  # A file that is called like the escape is not confused with it.
  touch(tmp_path, "a/\\xff\\xfe.mp4")
  with pytest.raises(ValueError, match="two items"):
    videos(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path):
  touch(tmp_path, "data/a.mp4", "elsewhere/b.mp4")
  (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
  (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
  (tmp_path / "data" / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
  listing = videos(tmp_path / "data")
  assert ids(listing) == ["a.mp4", "gone.mp4", "more/b.mp4"]


def test_a_folder_without_permission_is_an_error(tmp_path, monkeypatch):
  touch(tmp_path, "open/a.mp4", "shut/b.mp4")
  scandir = os.scandir

  def guarded(path):
    if os.fspath(path).endswith("shut"):
      raise PermissionError(13, "Permission denied", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", guarded)
  with pytest.raises(ValueError, match="shut cannot be read .Permission"):
    videos(tmp_path)
  assert ids(videos(tmp_path, "open")) == ["open/a.mp4"]


def lines(root, text, separator="space", classes=3):
  (root / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
  return folder.list_lines(
    root, str(root / "list.csv"), kind="video", separator=separator, classes=classes
  )


@pytest.mark.parametrize("separator", ["space", "comma", "tab"])
def test_lists(tmp_path, separator):
  touch(tmp_path, "a b/ü, 視.mp4", "c.mp4")
  mark = folder.SEPARATORS[separator]
  text = f"c.mp4{mark}2\r\na b/ü, 視.mp4{mark}0\r\n\r\nnone.mp4{mark}1\r\n"
  listing = lines(tmp_path, "\ufeff" + text, separator)
  assert [(item.id, item.label) for item in listing.items] == [("a b/ü, 視.mp4", 0), ("c.mp4", 2)]
  assert listing.classes == ("0", "1", "2")
  (row,) = listing.missing
  assert row.id == "none.mp4" and "does not exist" in row.reason


def test_lists_with_quotes_absolute_paths_or_no_labels(tmp_path):
  touch(tmp_path, "a,b.mp4", b"\xff.mp4")
  assert ids(lines(tmp_path, '"a,b.mp4",1', "comma")) == ["a,b.mp4"]
  full = str(tmp_path / "a,b.mp4")
  assert ids(lines(tmp_path, f"{full} 0")) == [full]
  listing = lines(tmp_path, b"a,b.mp4\n\xff.mp4\n", "none", classes=0)
  assert ids(listing) == ["\\xff.mp4", "a,b.mp4"] and listing.classes == ()
  assert {item.label for item in listing.items} == {-1}


@pytest.mark.parametrize(
  "text, told",
  [
    ("c.mp4 0\nd.mp4 3", r"line 2: label 3 is out of .* 0 to 2"),
    ("c.mp4 -2", "line 1: label -2 is out of range"),
    ("c.mp4 cat", "line 1: label 'cat' is not an integer"),
    ("c.mp4 1.5", "line 1: label '1.5' is not an integer"),
    ("\nc.mp4", "line 2: 'c.mp4' is not a path and a label"),
    ("c.mp4 0\nc.mp4 1", "line 2: 'c.mp4' has label 1, and 0 on line 1"),
    ("", "holds no video"),
  ],
)
def test_bad_lists(tmp_path, text, told):
  touch(tmp_path, "c.mp4")
  with pytest.raises(ValueError, match=told):
    lines(tmp_path, text)


def test_a_line_that_is_there_twice_counts_once(tmp_path, capsys):
  touch(tmp_path, "c.mp4", "d.mp4")
  listing = lines(tmp_path, "c.mp4 1\nd.mp4 0\nc.mp4 1\n")
  assert [(item.id, item.label) for item in listing.items] == [("c.mp4", 1), ("d.mp4", 0)]
  assert "1 rows say what another one does" in capsys.readouterr().out


def test_one_file_named_in_several_ways_counts_once(tmp_path):
  """Else it could be trained on and held out."""
  touch(tmp_path, "c.mp4", "d.mp4")
  listing = lines(tmp_path, f"c.mp4 1\n{tmp_path}/c.mp4 1\n./c.mp4 1\nd.mp4 0\n")
  assert ids(listing) == ["c.mp4", "d.mp4"]
  with pytest.raises(ValueError, match="line 2: .* has label 0, and 1 on line 1"):
    lines(tmp_path, f"c.mp4 1\n{tmp_path}/c.mp4 0\n")


def test_what_downloaders_and_machines_leave_is_no_item_and_no_class(tmp_path, capsys):
  touch(
    tmp_path,
    "cat/a.mp4",
    "cat/b.f137.mp4",
    "cat/c.temp.mp4",
    "cat/d.mp4.part",
    "cat/e.F251.webm",
    "cat/f.fhls-1080p.mp4",
    "cat/g.fdash-video=1.mp4",
    "cat/._a.mp4",
    "@eaDir/a.mp4",
    "#snapshot/a.mp4",
    "@Recycle/cat/a.mp4",
    "__MACOSX/cat/a.mp4",
    "dog/v1.5.mp4",  # the control: a name with a dot
  )
  listing = folder.list_items(tmp_path, "", kind="video", class_folders=True)
  assert ids(listing) == ["cat/a.mp4", "dog/v1.5.mp4"] and listing.classes == ("cat", "dog")
  assert "5 files are what a downloader left" in capsys.readouterr().out


@pytest.mark.parametrize(
  "name, stem",
  [
    ("dQw4w9WgXcQ.mp4.webm", "dQw4w9WgXcQ"),
    ("a/dQw4w9WgXcQ.MKV.mp4.mp4", "dQw4w9WgXcQ"),
    ("v1.5.mp4", "v1.5"),
    ("a.jpg.mp4", "a.jpg"),
  ],
)
def test_a_name_without_its_endings(name, stem):
  assert files.stem(name) == stem


def test_classes_without_items_are_named(tmp_path, capsys):
  touch(tmp_path, "cat/a.mp4")
  (tmp_path / "emu").mkdir()
  c = recipes.tokenize()
  c.source.root = str(tmp_path)
  c.source.folder.class_folders = True
  listing = listings.by_store(roots.read(c.to_dict()).source, seed=0)["all"]
  assert ids(listing) == ["cat/a.mp4"]
  assert "1 of 2 classes have no item that is there: emu" in capsys.readouterr().out


def test_labels_are_stored_as_they_stand_or_refused(tmp_path):
  touch(tmp_path, "c.mp4")
  listing = lines(tmp_path, "c.mp4 2147483647", classes=0)
  assert listing.items[0].label == 2**31 - 1
  with pytest.raises(ValueError, match="2147483648 is out of range"):
    lines(tmp_path, "c.mp4 2147483648", classes=0)


def test_lists_that_cannot_be_read(tmp_path):
  with pytest.raises(ValueError, match="separator is ';'"):
    lines(tmp_path, "c.mp4;1", ";")
  with pytest.raises(ValueError, match="nothing.csv cannot be read"):
    folder.list_lines(
      tmp_path, str(tmp_path / "nothing.csv"), kind="video", separator="space", classes=0
    )


def add(archive, name, data):
  entry = tarfile.TarInfo(name)
  entry.size = len(data)
  archive.addfile(entry, io.BytesIO(data))


def png(value):
  file = io.BytesIO()
  Image.new("RGB", (16, 16), (value,) * 3).save(file, "PNG")
  return file.getvalue()


def shard(path, *members, **how):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, **({"mode": "w"} | how)) as archive:
    for name, data in members:
      add(archive, name, data)


def samples(root, kind="image", split="", classes=0):
  return tars.list_items(root, split, kind=kind, classes=classes, label_key="label")


def test_members_that_are_foreign_or_there_twice(tmp_path):
  shard(
    tmp_path / "a.tar",
    ("1.png", png(10)),
    ("__MACOSX/2.png", png(10)),
    ("@eaDir/3.png", png(10)),
    ("4.png", png(10)),
    ("4.png", png(20)),
    ("./5.png", png(20)),  # the control: as `tar -c .` names what is in a folder
  )
  listing = samples(tmp_path)
  assert ids(listing) == ["a/./5", "a/1"]
  (row,) = listing.missing
  assert row.id == "a/4" and "there are two members 4.png" in row.reason


def test_tars(tmp_path):
  long = "f/" + "n" * 200
  shard(
    tmp_path / "train" / "s-0000.tar",
    ("000.png", png(10)),
    ("000.cls", b"1\n"),
    ("000.txt", b"a cat"),
    ("sub/ü 1.json", b'{"label": 2, "x": 0}'),
    ("sub/ü 1.PNG", png(20)),
    ("._000.png", b"mac"),
    (long + ".png", png(30)),
  )
  shard(tmp_path / "train" / "s-0001.tar", ("000.png", png(40)))
  listing = samples(tmp_path, classes=3)
  got = [(item.id, item.label) for item in listing.items]
  assert got == [
    ("train/s-0000/000", 1),
    ("train/s-0000/" + long, -1),
    ("train/s-0000/sub/ü 1", 2),
    ("train/s-0001/000", -1),
  ]
  assert listing.missing == () and listing.classes == ("0", "1", "2")
  spec = images.ImageSpec(size_px=8, crops=1, crop="center", resample="bicubic", animated="refuse")
  values = [media.load(item, spec, seed=0)[0, 0, 0, 0, 0] for item in listing.items]
  assert values == [10, 30, 20, 40]
  one = samples(tmp_path / "train" / "s-0001.tar")
  assert ids(one) == ["s-0001/000"]


def test_videos_in_tars(tmp_path):
  item = little_videos.write(tmp_path / "a.mp4", 40)
  with open(item.path, "rb") as file:
    data = file.read()
  shard(tmp_path / "s.tar", ("k.json", b'{"label": 0}'), ("k.mp4", data))
  (found,) = samples(tmp_path, kind="video").items
  assert found.label == 0
  offset, size = found.part
  with open(found.path, "rb") as file:
    assert file.read()[offset : offset + size] == data


def test_a_cut_tar_gives_its_whole_members(tmp_path):
  shard(tmp_path / "s.tar", *((f"{i}.png", png(i)) for i in range(4)))
  whole = (tmp_path / "s.tar").read_bytes()
  places = [item.part for item in samples(tmp_path).items]
  assert len(places) == 4 and samples(tmp_path).missing == ()
  third, size = places[2]
  for cut in (third + size - 1, third + 1, third - 200):
    (tmp_path / "s.tar").write_bytes(whole[:cut])
    listing = samples(tmp_path)
    assert [item.part for item in listing.items] == places[:2], cut
    (row,) = listing.missing
    assert row.id == "s" and "no whole tar" in row.reason
  # Cut between members, where Python sees nothing wrong; and overwritten.
  border = third - tarfile.BLOCKSIZE
  for data in (whole[:border], whole[:border] + b"junk" * 500):
    (tmp_path / "s.tar").write_bytes(data)
    listing = samples(tmp_path)
    assert [item.part for item in listing.items] == places[:2]
    assert "no end mark" in listing.missing[0].reason
  (tmp_path / "s.tar").write_bytes(b"junk" * 500)
  with pytest.raises(ValueError, match="holds no image.*no whole tar"):
    samples(tmp_path)


def test_bad_tars(tmp_path):
  shard(tmp_path / "z" / "s.tar.gz", ("0.png", png(0)), mode="w:gz")
  with pytest.raises(ValueError, match="s.tar.gz is compressed"):
    samples(tmp_path / "z")
  for name, data, told in (
    ("0.cls", b"cat", "0.cls: label 'cat' is not an integer"),
    ("0.cls", b"7", "0.cls: label 7 is out of range"),
    ("0.json", b"{", "0.json is damaged"),
    ("0.json", b'{"label": 0.5}', "0.json: label 0.5 is not an integer"),
  ):
    shard(tmp_path / "s.tar", ("0.png", png(0)), (name, data))
    with pytest.raises(ValueError, match=told):
      samples(tmp_path / "s.tar", classes=3)


def test_samples_without_one_image_are_missing(tmp_path):
  shard(
    tmp_path / "s.tar",
    ("a.png", png(0)),
    ("b.cls", b"1"),
    ("c.png", png(0)),
    ("c.jpg", png(0)),
    ("d.e.png", png(0)),
  )
  listing = samples(tmp_path)
  assert ids(listing) == ["s/a"]
  assert [row.id for row in listing.missing] == ["s/b", "s/c", "s/d"]
  assert ".e.png" in listing.missing[2].reason


def test_the_first_of_two_formats_counts(tmp_path):
  touch(tmp_path, "b/x.webm", "a/x.mp4", "y.mkv")
  found = files.by_stem(str(tmp_path), "video")
  assert found == {"x": str(tmp_path / "a" / "x.mp4"), "y": str(tmp_path / "y.mkv")}
