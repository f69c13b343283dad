"""The rungs: what each is made of, that all of them build and learn, and the bands they promise."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.config import files, parse
from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError
from gptjax.models.gpt import FeedForward, Head, MultiHeadAttention
from gptjax.training import experiment

LADDER = runpy.run_path(str(Path(__file__).resolve().parents[2] / "configs/ladder.py"))
RUNGS, BANDS = LADDER["RUNGS"], LADDER["BANDS"]
PUBLISHED = {"multihead": 2.28, "ffwd": 2.24, "blocks": 2.06, "gpt": 1.8226}
B, T, V, C, H = 2, 5, 11, 12, 3


def rung(kind):
    return models.build(ModelConfig(kind, block_size=8, n_embd=C, n_head=H), V)


def shapes(kind):
    x = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(rung(kind).init, jax.random.key(0), x)["params"]


def test_each_rung_adds_one_module_to_the_one_before():
    both = {"token_embedding_table", "position_embedding_table", "lm_head"}
    assert set(shapes("bigram_embed")) == both
    assert set(shapes("head")) == both | {"sa"}
    assert set(shapes("head")["sa"]) == {"key", "query", "value"}
    assert set(shapes("multihead")) == both | {"sa"}
    assert set(shapes("multihead")["sa"]) == {"heads", "proj"}
    assert set(shapes("ffwd")) == both | {"sa", "ffwd"}


@pytest.mark.parametrize("kind", ["head", "multihead", "ffwd"])
def test_a_rung_is_its_modules_one_after_the_other(kind, random_params):
    x_BxT = np.arange(B * T).reshape(B, T) % V
    params = random_params(rung(kind), x_BxT)
    x = params["token_embedding_table"]["embedding"][x_BxT]
    x = x + params["position_embedding_table"]["embedding"][:T]
    sa = Head(C, 8) if kind == "head" else MultiHeadAttention(H, C // H, 8)
    x = sa.apply({"params": params["sa"]}, x)
    if kind == "ffwd":
        x = FeedForward(C).apply({"params": params["ffwd"]}, x)
    expected = x @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]
    np.testing.assert_allclose(rung(kind).apply({"params": params}, x_BxT), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["head", "multihead", "ffwd"])
def test_a_rung_sees_the_past_and_never_the_future(kind, random_params):
    x = np.arange(T)[None]
    params = random_params(rung(kind), x)
    apply = jax.jit(rung(kind).apply)
    for place in range(T):
        changed = x.copy()
        changed[0, place] = V - 1
        moved = np.abs(apply({"params": params}, x) - apply({"params": params}, changed)).max(-1)
        assert (moved[0, :place] == 0).all() and (moved[0, place:] > 0).all()


def test_a_number_of_heads_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"model.n_embd=32 is not divisible by model.n_head=5"):
        ModelConfig("multihead", n_embd=32, n_head=5)
    ModelConfig("head", n_embd=32, n_head=5)  # one head has no use for n_head


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_trains(name, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat.\n" * 60, encoding="utf-8")
    settings = files.load(f"ladder:{name}")
    settings.data.path = str(path)
    # The same modules, narrower and fewer: what compiles and falls here does at full size.
    settings.model.update(n_embd=8, n_layer=1, block_size=8)
    settings.train.update(steps=60, batch_size=8)
    settings.optim.learning_rate = 1e-2
    settings.train.chunk_steps = 60
    exp = experiment.build(parse.from_dict(settings))
    batches, rates = exp.chunk_inputs(0, 60)
    _, seen = exp.train_chunk(exp.init_state(), batches, rates, 60, exp.dropout_key)
    losses = np.asarray(seen.loss_nats)
    assert seen.finite.all() and losses[-1] < losses[0] - 0.3


def test_the_settings_are_the_lectures():
    for name in RUNGS:
        config = parse.from_dict(files.load(f"ladder:{name}"))
        assert config.train.steps == 5000 and config.optim.weight_decay == 0.01
        assert config.optim.learning_rate == (1e-2 if name == "bigram" else 1e-3)
        sizes = (config.model.n_embd, config.model.block_size, config.train.batch_size)
        assert sizes == ((64, 32, 16) if name == "gpt" else (32, 8, 32))
        assert config.expected == {"tinyshakespeare": BANDS[name]}
    with pytest.raises(UserError, match="no rung 'heads': choose bigram, embed, head"):
        files.load("ladder:heads")


def test_the_bands_hold_the_published_losses_and_go_down():
    for name, nats in PUBLISHED.items():
        low, high = BANDS[name]
        assert low < nats < high
    middles = [sum(BANDS[name]) for name in RUNGS]
    assert middles == sorted(middles, reverse=True)
