"""Released files, as torch writes them, through to codes; and wrong ones."""

import dataclasses
import hashlib
import json
import pathlib

from etils import epath
import jax
import numpy as np
import pytest
import torch_bytes as tb
import web

from totojax.config import roots, schema, tokens
from totojax.config.schema import ConfigError
from totojax.jobs import official as official_job
from totojax.tokenizers import dvae, vqgan, weights
from totojax.tokenizers.released import download, official, unpickler

DVAE, VQGAN = official.KINDS["dvae"], official.KINDS["vqgan-1k"]
SMALL_DVAE = dataclasses.replace(
  DVAE,
  config=dvae.DvaeConfig(
    vocab=512, hidden=64, groups=4, blocks=1, decoder_init=16, post_gain=1 / 16
  ),
)
SMALL_VQGAN = dataclasses.replace(
  VQGAN,
  config=vqgan.VqganConfig(
    vocab=48, embed=12, z=20, channels=32, multipliers=(1, 2, 2), blocks=1, attention=(1,)
  ),
)


def dall_e_modules(config):
  """Encoder and decoder of the package DALL-E, with random weights."""
  torch = pytest.importorskip("torch")
  dall_e = pytest.importorskip("dall_e", exc_type=ImportError)
  torch.manual_seed(0)
  size = dict(n_hid=config.hidden, n_blk_per_group=config.blocks, vocab_size=config.vocab)
  modules = (dall_e.Encoder(**size), dall_e.Decoder(n_init=config.decoder_init, **size))
  for module in modules:
    for name, value in module.named_parameters():
      if name.endswith(".b"):
        value.data.normal_(std=0.1)
  return modules


def taming_module(config):
  """The modules of taming's `VQModel`, under its names."""
  torch = pytest.importorskip("torch")
  model = pytest.importorskip("taming.modules.diffusionmodules.model")
  quantize = pytest.importorskip("taming.modules.vqvae.quantize")
  torch.manual_seed(0)
  levels = len(config.multipliers)
  resolution = 16 * 2 ** (levels - 1)
  size = dict(
    ch=config.channels,
    out_ch=3,
    ch_mult=config.multipliers,
    num_res_blocks=config.blocks,
    in_channels=3,
    resolution=resolution,
    attn_resolutions=[resolution // 2**i for i in config.attention],
    z_channels=config.z,
    double_z=False,
  )
  module = torch.nn.Module()
  module.encoder, module.decoder = model.Encoder(**size), model.Decoder(**size)
  module.quantize = quantize.VectorQuantizer2(config.vocab, config.embed, 0.25)
  module.quantize.embedding.weight.data.normal_()
  module.quant_conv = torch.nn.Conv2d(config.z, config.embed, 1)
  module.post_quant_conv = torch.nn.Conv2d(config.embed, config.z, 1)
  return module


def checkpoint(module):
  """What Lightning saves: losses, optimizer and callbacks beside the model."""
  torch = pytest.importorskip("torch")
  state = module.state_dict()
  state["loss.discriminator.main.0.weight"] = torch.ones(2, 3, 4, 4)
  state["loss.logvar"] = torch.zeros(())
  moments = {0: {"step": 7, "exp_avg": torch.ones(5, 3)}}
  return {
    "epoch": 1,
    "global_step": 500,
    "pytorch-lightning_version": "1.0.8",
    "callbacks": {pathlib.PurePosixPath: {"best": torch.ones(())}},
    "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-4}]}],
    "lr_schedulers": [],
    "state_dict": state,
  }


def dvae_files(folder, modules, *, is_zip=True):
  torch = pytest.importorskip("torch")
  files = [folder / name for name in DVAE.files]
  for file, module in zip(files, modules):
    torch.save(module, file, _use_new_zipfile_serialization=is_zip)
  return files


def vqgan_file(folder, saved, *, is_zip=True, name="last.ckpt"):
  torch = pytest.importorskip("torch")
  torch.save(saved, folder / name, _use_new_zipfile_serialization=is_zip)
  return folder / name


def frames(count, side):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def close(ours, reference):
  """Within 1e-4 of the largest reference value."""
  scale = np.abs(reference).max()
  np.testing.assert_allclose(ours / scale, reference / scale, atol=1e-4)


def assert_dvae_parity(path, modules, images):
  torch = pytest.importorskip("torch")
  encoder, decoder = modules
  with torch.no_grad():
    unit = torch.from_numpy(images.astype(np.float32) / 255)
    logits = encoder(0.8 * unit.permute(0, 3, 1, 2) + 0.1)
    codes = logits.argmax(1)
    one_hot = torch.nn.functional.one_hot(codes, logits.shape[1])
    statistics = decoder(one_hot.permute(0, 3, 1, 2).float())
  params, config, _ = weights.read(path)
  ours = jax.jit(lambda p, x: dvae.logits(config, p, x))(params, images)
  close(np.asarray(ours), logits.permute(0, 2, 3, 1).numpy())
  tokenizer = weights.load(path)
  np.testing.assert_array_equal(tokenizer.encode(images), codes.numpy())
  assert len(np.unique(codes.numpy())) > 3
  drawn = (statistics[:, :3].sigmoid() - 0.1) / 0.8
  drawn = drawn.clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
  assert np.abs(tokenizer.decode(codes.numpy()) - drawn).max() < 0.51


def assert_vqgan_parity(path, module, images):
  torch = pytest.importorskip("torch")
  with torch.no_grad():
    unit = torch.from_numpy(images.astype(np.float32) / 255)
    z = module.quant_conv(module.encoder(2 * unit.permute(0, 3, 1, 2) - 1))
    _, _, (_, _, codes) = module.quantize(z)
    codes = codes.reshape(len(images), *z.shape[2:])
    e = module.quantize.embedding(codes).permute(0, 3, 1, 2)
    drawn = module.decoder(module.post_quant_conv(e)).clamp(-1, 1)
  params, config, _ = weights.read(path)
  ours = jax.jit(lambda p, x: vqgan.latents(config, p, x))(params, images)
  close(np.asarray(ours), z.permute(0, 2, 3, 1).numpy())
  tokenizer = weights.load(path)
  np.testing.assert_array_equal(tokenizer.encode(images), codes.numpy())
  assert len(np.unique(codes.numpy())) > 3
  drawn = (drawn.permute(0, 2, 3, 1).numpy() + 1) * 127.5
  assert np.abs(tokenizer.decode(codes.numpy()) - drawn).max() < 0.51


@pytest.mark.parametrize("is_zip", [True, False])
def test_dvae_files_become_a_tokenizer(tmp_path, is_zip, capsys):
  modules = dall_e_modules(SMALL_DVAE.config)
  files = dvae_files(tmp_path, modules, is_zip=is_zip)
  out = tmp_path / "out.safetensors"
  mark = official.convert(SMALL_DVAE, files, out)
  assert weights.load(out).fingerprint == mark
  digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
  assert weights.card(out) == {
    "kind": "dvae",
    "source": [
      {"file": "encoder.pkl", "sha256": digests[0]},
      {"file": "decoder.pkl", "sha256": digests[1]},
    ],
  }
  printed = capsys.readouterr().out
  assert all(digest in printed for digest in digests)
  if is_zip:
    assert_dvae_parity(out, modules, frames(2, 32))
  # State dicts are read as well, and give the same tokenizer.
  states = [module.state_dict() for module in modules]
  files = dvae_files(tmp_path, states, is_zip=is_zip)
  assert official.convert(SMALL_DVAE, files, out) == mark


def test_a_vqgan_checkpoint_becomes_a_tokenizer(tmp_path):
  module = taming_module(SMALL_VQGAN.config)
  marks = set()
  for is_zip in (True, False):
    file = vqgan_file(tmp_path, checkpoint(module), is_zip=is_zip)
    out = tmp_path / "out.safetensors"
    marks.add(official.convert(SMALL_VQGAN, [file], out))
  assert len(marks) == 1
  assert_vqgan_parity(out, module, frames(2, 32))


@pytest.mark.exhaustive("test_dvae.py::test_encoder_and_decoder_equal_the_released_modules")
def test_the_official_dvae_size(tmp_path):
  modules = dall_e_modules(DVAE.config)
  files = dvae_files(tmp_path, modules)
  out = tmp_path / "out.safetensors"
  official.convert("dvae", files, out)
  assert_dvae_parity(out, modules, frames(1, 64))


@pytest.mark.exhaustive("test_vqgan.py::test_latents_codes_and_images_equal_the_released_modules")
def test_the_official_vqgan_size(tmp_path):
  module = taming_module(VQGAN.config)
  file = vqgan_file(tmp_path, checkpoint(module))
  out = tmp_path / "out.safetensors"
  official.convert("vqgan-1k", [file], out)
  assert_vqgan_parity(out, module, frames(1, 128))
  out.unlink()
  with pytest.raises(ValueError, match="it is vqgan-1k: give that kind"):
    official.convert("vqgan-16k", [file], out)
  assert not out.exists()


def small(tmp_path, monkeypatch):
  """Small files of each kind, and kinds of those sizes under official names."""
  sizes = {
    "dvae": SMALL_DVAE,
    "vqgan-1k": SMALL_VQGAN,
    "vqgan-16k": dataclasses.replace(
      official.KINDS["vqgan-16k"], config=dataclasses.replace(SMALL_VQGAN.config, vocab=96)
    ),
  }
  for name, kind in sizes.items():
    monkeypatch.setitem(official.KINDS, name, kind)
  return (
    *dvae_files(tmp_path, dall_e_modules(SMALL_DVAE.config)),
    vqgan_file(tmp_path, checkpoint(taming_module(SMALL_VQGAN.config))),
  )


def test_wrong_files_are_refused_by_name(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  encoder, decoder, ckpt = small(tmp_path, monkeypatch)
  out = tmp_path / "out.safetensors"

  def told(kind, *files, error=ValueError, **more):
    with pytest.raises(error) as caught:
      official.convert(kind, files, out, **more)
    assert not list(tmp_path.glob("out*"))
    message = str(caught.value)
    if error is ValueError and len(files) == len(official.KINDS[kind].files):
      assert any(str(file) in message for file in files), message
    return message

  def altered(change, of=ckpt, key="state_dict"):
    whole = torch.load(of, weights_only=False)
    state = whole[key] if key else whole.state_dict()
    change(state)
    torch.save(whole if key else state, tmp_path / "altered")
    return tmp_path / "altered"

  assert "is the decoder" in told("dvae", decoder, encoder)
  assert "is the decoder" in told("dvae", decoder, decoder)
  assert "is the encoder" in told("dvae", encoder, encoder)
  assert "it is vqgan-1k: give that kind" in told("vqgan-16k", ckpt)
  assert "a VQGAN of taming" in told("dvae", encoder, ckpt)
  assert "DALL-E's dVAE" in told("vqgan-1k", decoder)
  # The config's names are those that there are.
  keys = {key.path: key for key in schema.keys(tokens.OfficialWeights())}
  kind = keys["kind"]
  assert kind.meta.range.choices == tuple(official.KINDS)
  assert "2: encoder.pkl, decoder.pkl" in told("dvae", encoder)
  with pytest.raises(ValueError, match="vqgan-2k.* use one of dvae, vqgan-1k"):
    official.convert("vqgan-2k", [ckpt], out)
  message = told("vqgan-1k", tmp_path / "none", error=FileNotFoundError)
  assert "none" in message and "https://heibox" in message

  for bad in (
    altered(lambda s: s.pop("encoder.conv_in.bias")),
    altered(lambda s: s.update({"encoder.conv_in.bias": torch.ones(5)})),
  ):
    assert "encoder.conv_in.bias" in told("vqgan-1k", bad)
  bad = altered(lambda s: s.update(new_tensor=torch.ones(2)))
  assert "new_tensor" in told("vqgan-1k", bad)
  bad = altered(lambda s: s["quant_conv.bias"].fill_(np.nan))
  assert "'quant_conv.bias'" in told("vqgan-1k", bad)

  bad = altered(lambda s: s.pop("blocks.input.b"), encoder, key=None)
  assert "blocks.input.b is missing" in told("dvae", bad, decoder)
  bad = altered(lambda s: s.update(more=torch.ones(1)), decoder, key=None)
  assert "more is unknown" in told("dvae", encoder, bad)
  wide = dall_e_modules(dataclasses.replace(SMALL_DVAE.config, hidden=68))
  (tmp_path / "wide").mkdir()
  wide = dvae_files(tmp_path / "wide", wide)
  assert "hidden 68 instead of 64" in told("dvae", *wide)

  whole = ckpt.read_bytes()
  for length in (0, 100, len(whole) // 2, len(whole) - 1):
    (tmp_path / "cut").write_bytes(whole[:length])
    assert "again" in told("vqgan-1k", tmp_path / "cut")

  ran = tmp_path / "ran"
  attack = tb.call(tb.name("os", "system"), tb.text(f"touch '{ran}'"))
  data = tb.archive(tb.mapping(callbacks=attack, state_dict=tb.mapping()))
  (tmp_path / "hostile").write_bytes(data)
  assert "os.system" in told("vqgan-1k", tmp_path / "hostile", error=unpickler.UnsafeOrDamaged)
  assert not ran.exists()

  message = told("vqgan-1k", ckpt, sha256=["0" * 64])
  assert download.digest(ckpt) in message
  # Control: the same files are right where they belong.
  official.convert("dvae", [encoder, decoder], out)
  official.convert("vqgan-1k", [ckpt], out, sha256=[download.digest(ckpt)])


# The job.


def config(kind, *, files=(), urls=(), sha256=()):
  section = dict(kind=kind, variant="", files=files, urls=urls, sha256=sha256)
  return {"run": "official", "official": section}


def run(values, workdir, interrupted):
  return official_job.run(roots.read(values), workdir, interrupted)


def never(step):
  return False


def test_the_job_reads_local_files(tmp_path, monkeypatch):
  *files, ckpt = small(tmp_path, monkeypatch)
  workdir = epath.Path(tmp_path / "a run")
  wrong = config("dvae", files=(str(files[1]), str(files[0])))
  with pytest.raises(ValueError, match="is the decoder"):
    run(wrong, workdir, never)
  # What was refused left no run behind that would refuse the correction.
  assert not (workdir / "config.json").exists()
  right = config("dvae", files=tuple(map(str, files)))
  assert run(right, workdir, never)
  mark = weights.load(workdir / "tokenizer.safetensors").fingerprint
  manifest = json.loads((workdir / "manifest.json").read_text())
  assert manifest["tokenizer"] == mark
  other = epath.Path(tmp_path / "other")
  assert run(config("vqgan-1k", files=(str(ckpt),)), other, never)
  assert weights.load(other / "tokenizer.safetensors").kind == "vqgan"


def test_the_job_downloads_and_goes_on(tmp_path, monkeypatch, place):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  files = small(tmp_path, monkeypatch)[:2]
  workdir = epath.Path(place / "run")
  served = {f"/{file.name}": file.read_bytes() for file in files}
  with web.serving(served) as site:
    urls = tuple(f"{site.url}/{file.name}" for file in files)
    hashes = tuple(map(download.digest, files))
    asked = []

    def once(step):
      asked.append(step)
      return len(asked) > 2

    settings = config("dvae", urls=urls, sha256=hashes)
    assert not run(settings, workdir, once)
    assert not (workdir / "tokenizer.safetensors").exists()
    # What came of them is on this machine, also where the run is not.
    assert bool(list(tmp_path.glob("cache/**/*.pkl*"))) == (place.scheme == "gs")
    assert run(settings, workdir, never)
    assert not list(tmp_path.glob("cache/**/*.pkl*"))
    (_, first), (again, part), (last, whole) = site.asked
    assert (again, last) == tuple(served) and part == "bytes=196608-"
    assert first is None and whole is None
    assert weights.load(workdir / "tokenizer.safetensors").kind == "dvae"
    # Another file than the one whose hash is given.
    settings = config("dvae", urls=urls, sha256=hashes[::-1])
    with pytest.raises(ValueError, match="SHA-256"):
      run(settings, epath.Path(tmp_path / "b"), never)


def test_the_job_downloads_from_the_official_addresses(tmp_path, monkeypatch):
  asked = []

  def fetch(url, path, *, sha256, interrupted):
    asked.append((url, sha256))
    assert pathlib.Path(path).parent.is_dir()
    return url != DVAE.urls[1]  # interrupted in the second

  monkeypatch.setattr(download, "fetch", fetch)
  workdir = epath.Path(tmp_path / "run")
  assert not run(config("dvae"), workdir, never)
  assert asked == [
    ("https://cdn.openai.com/dall-e/encoder.pkl", None),
    ("https://cdn.openai.com/dall-e/decoder.pkl", None),
  ]


@pytest.mark.parametrize(
  "wrong, told",
  [
    (dict(kind="dvea"), "'dvae', 'vqgan-1k', .*'cosmos-di', .* or 'cosmos-dv'"),
    (dict(files=("a",)), "2 files"),
    (dict(kind="llamagen"), "files is empty; llamagen is .*vq_ds16_c2i.pt.*https://hugging"),
    (dict(files=("gs://b/a", "b")), "names gs://b/a; .*gcloud storage cp gs://b/a"),
    (dict(urls=("a", "b", "c")), "has 3"),
    (dict(files="ab"), "official.files is 'ab'; it must be a tuple"),
    (dict(files=(1, 2)), "files.0. is 1 .int.; it must be str"),
    (dict(files=("a", "b"), urls=("a", "b")), "both set"),
    (dict(sha256=("a" * 64, "g" * 64)), "64 hex digits"),
    (dict(sha=()), "official.sha256"),
  ],
)
def test_settings_that_cannot_be(tmp_path, wrong, told):
  settings = config("dvae")
  settings["official"].update(wrong)
  workdir = epath.Path(tmp_path / "run")
  with pytest.raises(ConfigError, match=told):
    run(settings, workdir, never)
  assert not workdir.exists()
