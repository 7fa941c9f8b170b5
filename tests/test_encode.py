"""Training on frames that are encoded on the device is training on tokens."""

import json

import chex
from etils import epath
import jax
import numpy as np
import pytest
import runs
import token_sets

from totojax import sequence, tasks, train
from totojax.config import pixel_recipes, recipes, roots
from totojax.data.store import certificates, store as store_lib
from totojax.jobs import pixels, pretrain as build, shards as pretokenize, validate
from totojax.models import llama, platform, trunk
from totojax.tasks import encode, pretrain
from totojax.tokenizers import weights

NEVER = lambda done: False


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Rendered clips of five frames, and their tokens."""
  root = epath.Path(tmp_path_factory.mktemp("data"))
  c = pixel_recipes.render(train=24, val=8)
  c.scene.frames = 5
  assert pixels.render(roots.read(c.to_dict()), root / "pixels", NEVER)
  c = pixel_recipes.shards(str(root / "pixels"), "shipped")
  c.tokenizing.update(report_frames=8, kmeans_frames=16, kmeans_patches=600)
  assert pretokenize.run(roots.read(c.to_dict()), root / "tokens", NEVER)
  return root


def test_training_reads_no_id_of_stores_of_one_job(data, monkeypatch):
  """Nor where it encodes the pixels that the tokens were made of."""
  for kind in ("pixels", "tokens"):
    assert token_sets.proven(data / kind / "train", data / "tokens" / "val")

  def refuse(one, other):
    raise AssertionError(f"{one} and {other} were compared before")

  monkeypatch.setattr(certificates, "shared", refuse)
  for tokenizer in ("", "shipped"):
    build.pretraining(roots.read(config(data, encode_with=tokenizer)))
  # Control: without the proof they are compared.
  proof = data / "tokens" / "val" / certificates.FILE
  kept = proof.read_bytes()
  proof.unlink()
  with pytest.raises(AssertionError, match="were compared before"):
    build.pretraining(roots.read(config(data, encode_with="")))
  proof.write_bytes(kept)


def config(data, *, encode_with, **changes):
  c = recipes.pretrain("tiny")
  c.sequence.update(vocab=512, grid=4, frames=4, context=64)
  c.compute.dtype = "float32"
  # With AdamW's usual eps, rounding decides the sign of the step of a gradient of about 0.
  c.optim.update(lr=1e-2, warmup_steps=1, eps=1e-5)
  c.train.update(batch_tokens=8 * 64, total_tokens=8 * 64 * 2.0)
  kind = "pixels" if encode_with else "tokens"
  c.data.encode_with = encode_with
  c.data.train = {"rendered": recipes.source(str(data / kind / "train"), 1.0)}
  c.data.validation = {"rendered": str(data / "tokens" / "val")}
  c.every = recipes.every(log=1, evaluate=2, checkpoint=2)
  c.update_from_flattened_dict(changes)
  return c.to_dict()


def fit(values, workdir):
  state, finished = train.fit(
    build.pretraining(roots.read(values)), epath.Path(workdir), interrupted=NEVER
  )
  assert finished
  return state


CHANGES = {
  "train.batch_tokens": 16 * 64,
  "train.total_tokens": 2 * 16 * 64.0,
  "train.microbatches": 2,
}


@pytest.fixture(scope="module")
def from_tokens(data, tmp_path_factory):
  values = config(data, encode_with="", **CHANGES)
  return fit(values, tmp_path_factory.mktemp("tokens"))


def same(ours, theirs):
  chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_training_from_frames_is_training_from_tokens(data, from_tokens, tmp_path):
  """The windows, rows and codes are the same, so the parameters are."""
  state = fit(config(data, encode_with="shipped", **CHANGES), tmp_path)
  same(state.params, from_tokens.params)
  # The tokenizer is no part of what is trained or saved.
  assert set(state.frozen) == {"inner", "tokenizer"}
  chex.assert_trees_all_equal(state.frozen["tokenizer"], weights.load("shipped").params)
  assert not list((tmp_path / "checkpoints").rglob("*tokenizer*"))
  # The control: other rows give other parameters.
  other = fit(config(data, encode_with="", seed=1, **CHANGES), tmp_path / "other")
  with pytest.raises(AssertionError):
    same(other.params, from_tokens.params)


@pytest.mark.slow
def test_a_model_trained_from_frames_is_validated_on_tokens(data, tmp_path):
  fit(config(data, encode_with="shipped"), tmp_path / "run")
  values = roots.read(recipes.validate(str(tmp_path / "run")).to_dict())
  assert validate.run(values, epath.Path(tmp_path / "validate"), NEVER)
  metrics = json.loads((tmp_path / "validate" / "metrics.json").read_text())
  last = runs.metrics(tmp_path / "run")[-1]
  np.testing.assert_allclose(metrics["rendered/loss"], last["rendered/loss"], rtol=1e-5)
  # No tokens of training, so nothing that a baseline could be fitted on.
  assert not any("unigram" in name for name in metrics)


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("context", [64, 60, 70])
def test_rows_are_those_of_cached_codes(data, kind, context):
  spec = sequence.SequenceSpec(512, 4, 4, context, False)
  tokenizer = weights.load("shipped")
  frames = store_lib.open_store(
    data / "pixels" / "val", tokenizer=None, vocab=None, grid=None
  ).read([0, 1, 2])["frames"][:, :4]
  task = encode.EncodeFrames(_Inner(), tokenizer, spec=spec)
  start = np.full(3, sequence.START[kind], np.int32)
  with pytest.raises(TypeError, match="_Inner has no outcomes"):
    task.outcomes(tasks.Variables({}, {}, {}), {}, measure=lambda logits: logits)
  found = jax.jit(task.tokens)(tokenizer.params, {"frames": frames, "start": start})
  for row, clip in zip(found, frames, strict=True):
    codes = tokenizer.encode(clip).reshape(4, -1)
    expected = sequence.build(codes, kind=kind, spec=spec)
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("end", [False, True])
def test_targets_that_count_are_known_before_they_are_encoded(end):
  spec = sequence.SequenceSpec(512, 4, 4, 70, False, train_end=end)
  shape = llama.LlamaConfig(**recipes.model("tiny").to_dict())
  compute = trunk.Compute("float32", "blocked", "none", 1, 0, platform.CPU)
  inner = pretrain.Pretrain(trunk.Trunk(shape, spec, compute))
  task = encode.EncodeFrames(inner, weights.load("shipped"), spec=spec)
  weight = task.weights({"frames": np.zeros((3, 4, 32, 32, 3), np.uint8)})
  assert weight == {"nll": 3 * (64 + end)}


class _Inner:
  """A task of which nothing is asked."""


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"sequence.vocab": 500}, "has 512 codes; sequence.vocab is 500"),
    ({"sequence.grid": 2, "sequence.context": 16}, "32 pixels.*need 16"),
    (
      {"sequence.frames": 6, "sequence.context": 96, "train.batch_tokens": 8 * 96},
      "5 frames a record",
    ),
    ({"data.tokenizer": "0" * 16}, "data.tokenizer asks for 0000"),
  ],
)
def test_what_does_not_fit_is_refused(data, changes, message):
  values = config(data, encode_with="shipped", **changes)
  values["data"]["validation"] = {}
  with pytest.raises(ValueError, match=message):
    build.pretraining(roots.read(values))


def test_tokens_given_as_pixels_are_refused(data):
  values = config(data, encode_with="shipped")
  values["data"]["train"]["rendered"]["path"] = str(data / "tokens" / "train")
  with pytest.raises(ValueError, match="reads 'frames'"):
    build.pretraining(roots.read(values))
