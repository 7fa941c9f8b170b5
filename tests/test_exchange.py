"""Models for other people's programs and theirs: exports, imports, logits."""

import dataclasses
import json

from etils import epath
import jax
import numpy as np
import pytest
import runs
import safetensors.numpy
import stores

from totojax import assembly, jobs, sharding
from totojax.config import roots, schema
from totojax.config.schema import ConfigError
from totojax.models import layers, llama
from totojax.storage import outside
from totojax.trained import backbone, generate, llama_files

ROWS, WIDTH, DEPTH, HEADS, GROUPS, MLP = 128, 32, 2, 4, 2, 48
SETTINGS = dict(
  model_type="llama",
  hidden_size=WIDTH,
  intermediate_size=MLP,
  num_hidden_layers=DEPTH,
  num_attention_heads=HEADS,
  num_key_value_heads=GROUPS,
  vocab_size=ROWS,
  rms_norm_eps=1e-5,
  rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
  tie_word_embeddings=False,
)
OWN = {"tokenizer": "t/1", "sequence": {"vocab": 100, "grid": 2, "frames": 3, "context": 12}}


def arrays(seed=0, groups=GROUPS):
  """Tensors of a model with these settings, by transformers' names."""
  rng = np.random.default_rng(seed)
  narrow = WIDTH // HEADS * groups
  shapes = {"model.embed_tokens": (ROWS, WIDTH), "lm_head": (ROWS, WIDTH)}
  for i in range(DEPTH):
    at = f"model.layers.{i}"
    shapes |= {
      f"{at}.self_attn.q_proj": (WIDTH, WIDTH),
      f"{at}.self_attn.k_proj": (narrow, WIDTH),
      f"{at}.self_attn.v_proj": (narrow, WIDTH),
      f"{at}.self_attn.o_proj": (WIDTH, WIDTH),
      f"{at}.mlp.gate_proj": (MLP, WIDTH),
      f"{at}.mlp.up_proj": (MLP, WIDTH),
      f"{at}.mlp.down_proj": (WIDTH, MLP),
    }
  found = {f"{k}.weight": rng.normal(0, 0.3, s).astype(np.float32) for k, s in shapes.items()}
  for name in ("norm", *(f"layers.{i}.input_layernorm" for i in range(DEPTH))):
    found[f"model.{name}.weight"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
  for i in range(DEPTH):
    name = f"model.layers.{i}.post_attention_layernorm.weight"
    found[name] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
  return found


def folder(path, settings=SETTINGS, tensors=None, own=OWN):
  path.mkdir()
  values = dict(settings) | ({"totojax": own} if own else {})
  (path / "config.json").write_text(json.dumps(values))
  safetensors.numpy.save_file(tensors or arrays(), path / "model.safetensors", {"format": "pt"})
  return path


def imported(path, workdir, **keys):
  config = roots.config("import")
  config.importing.update(path=str(path), **keys)
  jobs.run(roots.read(config.to_dict()), epath.Path(workdir), lambda step: False)
  return backbone.find(str(epath.Path(workdir) / "model"))


def exported(run, workdir, **keys):
  config = roots.config("export")
  config.model_run = str(run.path)
  config.export.update(**keys)
  jobs.run(roots.read(config.to_dict()), epath.Path(workdir), lambda step: False)
  return workdir


def parameters(run):
  return backbone.read(run, run.model, sharding.layout(run.config.mesh))


def exact(run):
  """Its model, which computes in float32."""
  return run.model.clone(compute=dataclasses.replace(run.model.compute, dtype="float32"))


def logits(run, tokens_BT):
  return np.asarray(jax.jit(exact(run).apply)({"params": parameters(run)}, tokens_BT))


def tokens(rows=2, length=12, vocab=100):
  drawn = np.random.default_rng(7).integers(4, 4 + vocab, (rows, length))
  drawn[:, 0] = 1
  return drawn


def reference(folder_):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  return transformers.AutoModelForCausalLM.from_pretrained(folder_, dtype="float32").eval()


def theirs(folder_, tokens_BT):
  model = reference(folder_)
  import torch

  with torch.inference_mode():
    return model(torch.from_numpy(np.asarray(tokens_BT))).logits.numpy()


def test_transformers_weights_have_the_same_logits_here_and_back(tmp_path):
  run = imported(folder(tmp_path / "theirs"), tmp_path / "in")
  wanted = theirs(tmp_path / "theirs", tokens())
  np.testing.assert_allclose(logits(run, tokens())[..., :104], wanted[..., :104], rtol=0, atol=1e-5)
  out = exported(run, tmp_path / "out")
  back = theirs(out, tokens())
  np.testing.assert_allclose(back[..., :104], wanted[..., :104], rtol=0, atol=1e-5)
  assert np.abs(wanted).max() > 1  # or all logits would be near


def test_an_export_chooses_the_same_tokens_in_transformers(tmp_path):
  run = imported(folder(tmp_path / "theirs"), tmp_path / "in")
  model = reference(exported(run, tmp_path / "out"))
  import torch

  weights = generate.decode.load(exact(run), parameters(run))
  greedy = generate.Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
  context_BNP = tokens(length=5)[:, 1:].reshape(2, 1, 4) - 4
  ours = generate.frames(
    exact(run), weights, context_BNP, further=2, sampling=greedy, rows=range(2)
  )
  found = model.generate(
    torch.from_numpy(tokens(length=5)), do_sample=False, max_new_tokens=8, min_new_tokens=8
  )
  np.testing.assert_array_equal(found[:, 5:].numpy() - 4, np.asarray(ours).reshape(2, 8))


def test_an_export_comes_back_to_the_bit(tmp_path, place):
  at = epath.Path(place.url)
  run = imported(folder(tmp_path / "theirs"), at / "in")
  out = exported(run, at / "out")
  again = imported(out, at / "again")
  assert again.model.spec == run.model.spec and again.tokenizer == "t/1"
  runs.assert_same(*(dict(flat(parameters(one))) for one in (run, again)))
  # Heads that shared keys have copies; all else is as it was.
  found = safetensors.numpy.load((out / "model.safetensors").read_bytes())
  for name, value in arrays().items():
    if "k_proj" in name or "v_proj" in name:
      value = np.repeat(value.reshape(GROUPS, -1, WIDTH), HEADS // GROUPS, 0).reshape(WIDTH, WIDTH)
    rows = slice(0, 104) if value.shape[0] == ROWS else slice(None)
    np.testing.assert_array_equal(found[name][rows], value[rows], name)


def test_the_card_has_the_scores_of_its_step(tmp_path):
  """Of the exported one, and not of another."""
  run = tmp_path / "run"
  train, val = stores.pair(tmp_path)
  c = runs.load(runs.ROOT / "configs" / "smoke.py")
  c.data.train.moving.path, c.data.validation.moving = train, val
  assert jobs.run(jobs.typed(c.to_dict(), run), epath.Path(run), lambda step: False)
  c = runs.load(runs.ROOT / "configs" / "export.py", f"--config.model_run={run}")
  out = tmp_path / "out"
  assert jobs.run(jobs.typed(c.to_dict(), out), epath.Path(out), lambda step: False)
  card = (out / "README.md").read_text()
  losses = {r["step"]: r["moving/loss"] for r in runs.metrics(run) if r["kind"] == "eval"}
  assert f"| held out, moving | {losses[20]:.4f} nats per token, standard error" in card
  assert f"{losses[16]:.4f}" not in card


def flat(params):
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves]


def meta(path):
  """The same model as Meta's files would have it."""
  found = {}
  for name, value in arrays().items():
    if "q_proj" in name or "k_proj" in name:  # halves to neighbours
      heads = value.reshape(-1, 2, WIDTH // HEADS // 2, WIDTH)
      value = np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(value.shape)
    for ours, meta in (
      ("model.embed_tokens", "tok_embeddings"),
      ("lm_head", "output"),
      ("model.norm", "norm"),
      ("model.layers", "layers"),
      ("self_attn.q_proj", "attention.wq"),
      ("self_attn.k_proj", "attention.wk"),
      ("self_attn.v_proj", "attention.wv"),
      ("self_attn.o_proj", "attention.wo"),
      ("mlp.gate_proj", "feed_forward.w1"),
      ("mlp.down_proj", "feed_forward.w2"),
      ("mlp.up_proj", "feed_forward.w3"),
      ("input_layernorm", "attention_norm"),
      ("post_attention_layernorm", "ffn_norm"),
    ):
      name = name.replace(ours, meta)
    found[name] = value
  path.mkdir()
  safetensors.numpy.save_file(found, path / "consolidated.safetensors")
  values = dict(
    dim=WIDTH, n_layers=DEPTH, n_heads=HEADS, n_kv_heads=GROUPS, norm_eps=1e-5, rope_theta=5e4
  )
  (path / "params.json").write_text(json.dumps(values | {"totojax": OWN, "multiple_of": 8}))
  return path


def test_metas_files_are_the_same_model(tmp_path):
  run = imported(meta(tmp_path / "meta"), tmp_path / "in")
  same = imported(folder(tmp_path / "theirs"), tmp_path / "in2")
  runs.assert_same(*(dict(flat(parameters(one))) for one in (run, same)))
  assert dataclasses.replace(run.model.config, init_std=0.02) == same.model.config


def test_neighbours_that_turn_meet_halves_that_turn():
  """Scores of queries and keys by Meta's own rule: pairs are complex numbers."""
  rng = np.random.default_rng(3)
  head_dim, length = WIDTH // HEADS, 5
  tensors = arrays()
  foreign = llama_files.of_hugging_face("x", SETTINGS, tensors)
  blocks = llama_files.blocks(foreign, neighbours=True)["attention"]
  x_TD = rng.standard_normal((length, WIDTH)).astype(np.float32)

  def complex_scores(head):
    angle = np.arange(length)[:, None] * 5e4 ** (-np.arange(0, head_dim, 2) / head_dim)
    turn = np.exp(1j * angle)
    made = []
    for name, at in (("q_proj", head), ("k_proj", head // (HEADS // GROUPS))):
      w = tensors[f"model.layers.0.self_attn.{name}.weight"].reshape(-1, head_dim, WIDTH)[at]
      pairs = (x_TD @ w.T).reshape(length, -1, 2)
      made.append((pairs[..., 0] + 1j * pairs[..., 1]) * turn)
    return (made[0] @ made[1].conj().T).real

  rope = layers.rope_table(jax.numpy.arange(length), head_dim, 5e4)
  turned = [
    layers.apply_rope(
      np.einsum("TD,DHK->THK", x_TD, blocks[name][0])[None], *rope, by_product=False
    )[0]
    for name in ("query", "key")
  ]
  scores_HTT = np.einsum("THK,SHK->HTS", *turned)
  wanted = np.stack([complex_scores(head) for head in range(HEADS)])
  np.testing.assert_allclose(scores_HTT, wanted, rtol=1e-4, atol=1e-4)


def test_what_mup_multiplies_by_is_in_the_matrices(tmp_path):
  run = imported(folder(tmp_path / "theirs", own=OWN), tmp_path / "in")
  scales = layers.Scales(attention=0.5, logits=0.25)
  scaled = exact(run).clone(scales=scales)
  wanted = np.asarray(jax.jit(scaled.apply)({"params": parameters(run)}, tokens()))[..., :104]
  found = dict(llama_files.tensors(run.model.config, parameters(run), scales=scales))
  plain = dict(llama_files.tensors(run.model.config, parameters(run)))
  foreign = llama_files.of_hugging_face(
    "x", SETTINGS | {"num_key_value_heads": HEADS}, plain | found
  )
  params = parameters(run) | {
    "blocks": llama_files.blocks(foreign, neighbours=False),
    "head": np.asarray(foreign.tensors[llama_files.HEAD]),
  }
  got = np.asarray(jax.jit(exact(run).apply)({"params": params}, tokens()))[..., :104]
  np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
  assert np.abs(got - logits(run, tokens())[..., :104]).max() > 0.1
  tied = dataclasses.replace(run.model.config, tied=True)
  assert not llama_files.is_tied(tied, scales) and llama_files.is_tied(tied, layers.STANDARD)


def test_rows_of_other_tokens_are_put_in_their_places(tmp_path):
  path = folder(tmp_path / "theirs", own=None)
  own = dict(tokenizer="shipped-32", grid=2, frames=3)
  with pytest.raises(ValueError, match=r"512 codes from row 0 on.*importing\.codes_at"):
    imported(path, tmp_path / "in", codes_at=0, specials=(-1, 127, -1, -1), **own)
  foreign = llama_files.of_hugging_face("x", SETTINGS, arrays())
  rows = llama_files.rows(
    foreign, llama_files.HEAD, codes_at=0, specials=(-1, 127, -1, 2), vocab=100, padded=128
  )
  head = arrays()["lm_head.weight"]
  np.testing.assert_array_equal(rows[4:104], head[:100])
  np.testing.assert_array_equal(rows[[1, 3]], head[[127, 2]])
  assert not rows[[0, 2]].any() and not rows[104:].any()


def test_a_model_of_text_gives_its_blocks(tmp_path):
  path = folder(tmp_path / "theirs", own=None)
  run = imported(path, tmp_path / "in", codes_at=-1, tokenizer="shipped-32", grid=2, frames=3)
  params = parameters(run)
  assert run.model.spec.vocab == 512 and run.model.spec.context == 12
  assert 0.019 < np.std(params["embedding"]) < 0.021
  same = parameters(imported(folder(tmp_path / "b"), tmp_path / "in2"))
  runs.assert_same(dict(flat(params["blocks"])), dict(flat(same["blocks"])))


def test_a_large_export_is_several_files(tmp_path, monkeypatch):
  monkeypatch.setattr("totojax.jobs.exchange.FILE_BYTES", 20_000)
  run = imported(folder(tmp_path / "theirs"), tmp_path / "in")
  out = exported(run, tmp_path / "out", dtype="bfloat16")
  index = json.loads((out / "model.safetensors.index.json").read_text())
  assert len({*index["weight_map"].values()}) > 2
  again = imported(out, tmp_path / "again")
  for (name, a), (_, b) in zip(flat(parameters(run)), flat(parameters(again)), strict=True):
    np.testing.assert_allclose(a, b, rtol=2**-8, err_msg=name)


def test_plain_tensors_are_the_parameters(tmp_path):
  run = imported(folder(tmp_path / "theirs"), tmp_path / "in")
  out = exported(run, tmp_path / "out", what="plain", head=False)
  found = safetensors.numpy.load_file(out / "model.safetensors")
  params = parameters(run)
  assert "head" not in found
  np.testing.assert_array_equal(
    found["blocks.attention.query"], params["blocks"]["attention"]["query"]
  )
  assert json.loads((out / "model.json").read_text())["width"] == WIDTH


def test_a_run_starts_from_an_import(tmp_path):
  from totojax.jobs import starts

  run = imported(folder(tmp_path / "theirs"), tmp_path / "in")
  values = roots.config("pretrain").to_dict()
  values |= {"model": schema.to_dict(run.config.model), "init_from": str(run.path)}
  values["sequence"] = schema.to_dict(run.config.sequence)
  config = roots.read(values)
  from totojax.tasks import pretrain as task_lib

  task = task_lib.Pretrain(assembly.model(config), None)
  start = starts.find(
    config, task, tokenizer="t/1", steps=1, data={}, layout=sharding.layout(config.mesh)
  )
  runs.assert_same(dict(flat(start.parameters(None))), dict(flat(parameters(run))))


@pytest.mark.parametrize(
  "change, match",
  [
    ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"head_dim": 16}, "head_dim is 16"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type is 'llama3'"),
    ({"rope_parameters": [1]}, "rope_parameters are no object"),
    ({"hidden_size": "32"}, "hidden_size"),
    ({"hidden_size": 64}, r"must be \[None, 64\]|must be"),
    ({"num_hidden_layers": 10**9}, "no LLaMA's"),
    ({"num_hidden_layers": 3}, "there is no tensor model.layers.2"),
    ({"num_key_value_heads": 3}, "no LLaMA's"),
    ({"num_key_value_heads": "2"}, "heads of keys"),
    ({"totojax": {"tokenizer": "t/1", "sequence": {"vocab": -3}}}, "vocab"),
    ({"totojax": None}, "importing.tokenizer is empty"),
  ],
)
def test_other_settings_are_one_line(tmp_path, change, match):
  settings = {k: v for k, v in (SETTINGS | {"totojax": OWN} | change).items() if v is not None}
  path = folder(tmp_path / "theirs", settings, own=None)
  with pytest.raises(ValueError, match=match) as caught:
    imported(path, tmp_path / "in")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "in").exists()


def test_what_cannot_be_exchanged_is_refused(tmp_path):
  config = roots.config("import")
  with pytest.raises(ConfigError, match=r"importing\.path is empty"):
    jobs.run(roots.read(config.to_dict()), epath.Path(tmp_path / "a"), lambda step: False)
  (tmp_path / "nothing").mkdir()
  with pytest.raises(ConfigError, match="has neither config.json"):
    imported(tmp_path / "nothing", tmp_path / "b")
  (tmp_path / "nothing" / "config.json").write_text("[]")
  with pytest.raises(ConfigError, match="no file of tensors"):
    imported(tmp_path / "nothing", tmp_path / "b")
  path = folder(tmp_path / "nan", tensors=arrays() | {"model.norm.weight": np.full(WIDTH, np.nan)})
  with pytest.raises(outside.Damaged, match="not finite"):
    imported(path, tmp_path / "c")
  normed = llama.LlamaConfig(qk_norm=True)
  with pytest.raises(ValueError, match=r"model\.qk_norm = True.*export\.what='plain'"):
    llama_files.check(normed, "RUN")
  with pytest.raises(ConfigError, match="give four rows"):
    roots.read(
      {**roots.config("import").to_dict(), "importing": {**importing(), "specials": (0, 1)}}
    )


def importing():
  return roots.config("import").importing.to_dict()
