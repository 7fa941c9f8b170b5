"""Pictures of features: components by another way, likeness, and the job."""

import json

from etils import epath
import numpy as np
from PIL import Image
import pytest
import test_configs
import test_track
import tracked

from totojax import jobs
from totojax.config import roots
from totojax.evals import feature_views


def test_components_are_those_of_a_singular_value_decomposition():
  x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)) * np.arange(6, 0, -1)
  basis = feature_views.Basis.of(x)
  flat = x.reshape(-1, 6) - x.reshape(-1, 6).mean(0)
  _, values, vectors = np.linalg.svd(flat, full_matrices=False)
  np.testing.assert_allclose(np.abs(basis.components_3D @ vectors.T)[:, :3], np.eye(3), atol=1e-9)
  np.testing.assert_allclose(basis.shares_3, (values**2 / (values**2).sum())[:3], rtol=1e-9)
  assert (np.abs(basis.components_3D).max(1) == basis.components_3D.max(1)).all()
  colours = basis.colours(x)
  assert colours.shape == (3, 4, 5, 3) and colours.min() == 0 and colours.max() == 255
  both = feature_views.Basis.of([x[:1], x[1:]])
  np.testing.assert_allclose(both.ends_23, basis.ends_23, rtol=1e-9)
  with pytest.raises(ValueError, match="have no 3 components"):
    feature_views.Basis.of(x[..., :2])


def test_likeness_is_a_cosine():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
  found = feature_views.cosine(x, frame=1, place=(2, 3))
  a, b = x[0, 1, 1], x[1, 2, 3]
  wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  assert found[0, 1, 1] == pytest.approx(wanted, rel=1e-5)
  assert found[1, 2, 3] == pytest.approx(1.0, rel=1e-5) == found.max()
  with pytest.raises(ValueError, match="are not in maps"):
    feature_views.cosine(x, frame=2, place=(0, 0))


def test_a_report_of_clips_goes_on_where_it_stopped(tmp_path):
  tracked.davis(tmp_path / "data")
  (tmp_path / "mine.py").write_text(test_track.ENCODER)
  c = test_configs.load("configs/feature_maps.py").to_dict()
  frames = tmp_path / "data/JPEGImages/480p"
  c["clips"] |= {"paths": (str(frames / "one"), str(frames / "two")), "frames": 2}
  c["frames"] |= {"size_px": 16}
  c["encoders"] = {"mine": test_track.tracker(encoder=str(tmp_path / "mine.py"))}
  c |= {"basis": "set", "width_px": 32}
  out = tmp_path / "out"
  run = lambda stop: jobs.run(roots.read(c), epath.Path(out), stop)  # noqa: E731
  assert not run(lambda done: True)
  stamp = (out / "maps/mine-000.json").stat().st_mtime_ns
  assert run(lambda done: False)
  assert (out / "maps/mine-000.json").stat().st_mtime_ns == stamp
  facts = json.loads((out / "feature_maps.json").read_text())
  assert [(one["row"], one["layers"]) for one in facts["drawn"]] == [
    ("mine", [5]),
    ("mine", [5]),
    ("pixels", [0]),
    ("pixels", [0]),
  ]
  image = np.array(Image.open(out / "maps/mine-001-pca.webp"))
  assert image.shape == (32 * 2 + 4, 32 * 2 + 4, 3)  # two frames, and one layer below them
  assert "Not shown" not in (out / "report.html").read_text()
  c["clips"] |= {"paths": (str(tmp_path / "none.mp4"),)}
  with pytest.raises(ValueError, match="none.mp4'?, and there is no such file or folder"):
    run(lambda done: False)
