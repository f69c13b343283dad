"""What the lessons compute with: q and k give the model's attention, noise its draws."""

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.schema import Config, DataConfig, ModelConfig
from gptjax.data import tokenizers
from gptjax.interpret import capture, lessons

TEXT = "so it is. it is so, is it not?\n"
NAMES = "abi\nbia\n"


@pytest.fixture(scope="module")
def run_of(random_params):
    """A function of a model's kind and a text: a run with random parameters."""

    def make(kind, text=TEXT, **sizes):
        sizes = {"block_size": 9, "n_layer": 2, "n_head": 2, "n_embd": 6, "n_hidden": 5} | sizes
        config = Config(
            data=DataConfig(kind="items" if text == NAMES else "stream"),
            model=ModelConfig(kind, **sizes),
        )
        tok = tokenizers.build(config.tokenizer, text)
        model = models.build(config.model, tok.vocab_size, tok.start_id)
        params = random_params(model, np.zeros((1, 1), np.int32), std=0.8)
        return Run(config, tok, model, params, step=0)

    return make


@pytest.mark.parametrize("kind", ["gpt", "multihead", "head"])
def test_q_and_k_give_the_attention_of_the_first_head(kind, run_of):
    run = run_of(kind)
    found = lessons.lesson(run, TEXT)
    T, K = found.q_TxK.shape
    assert found.k_TxK.shape == (T, K) == (9, 6 if kind == "head" else 3)
    scores = found.q_TxK @ found.k_TxK.T / np.sqrt(K)
    scores[np.triu_indices(T, 1)] = -np.inf
    inside = capture.capture(run.model, run.params, found.ids_T[None])
    expected = inside.attention_NxBxHxTxS[lessons.LAYER, 0, lessons.HEAD]
    np.testing.assert_allclose(jax.nn.softmax(scores, axis=-1), expected, atol=1e-6)
    assert 0.01 < expected[-1].max() < 0.999


@pytest.mark.parametrize("kind", ["gpt", "bigram", "bigram_embed", "mlp"])
def test_the_logits_are_those_after_the_last_token(kind, run_of):
    run = run_of(kind)
    found = lessons.lesson(run, TEXT)
    T = {"gpt": 9, "bigram_embed": 9}.get(kind, lessons.PLACES)
    assert run.tokenizer.decode(found.ids_T) == TEXT[:T]
    expected = run.model.apply({"params": run.params}, found.ids_T[None])[0, -1]
    np.testing.assert_allclose(found.logits_V, expected, atol=1e-5)
    assert (found.q_TxK is None) == (kind != "gpt")


@pytest.mark.parametrize("temperature", [0, 0.5, 1, 2])
def test_the_noise_draws_what_generate_draws(temperature, run_of):
    run = run_of("gpt")
    found = lessons.lesson(run, TEXT)
    drawn = []
    for seed, noise_V in zip(lessons.SEEDS, found.noise_SxV, strict=True):
        scaled = found.logits_V / temperature + noise_V if temperature else found.logits_V
        (made,) = run.generate(TEXT[:9], max_new_tokens=1, temperature=temperature, seed=seed)
        assert run.tokenizer.decode([scaled.argmax()]) == made.text
        drawn.append(made.text)
    assert temperature != 2 or len(set(drawn)) > 1


def test_of_items_the_first_is_taken(run_of):
    run = run_of("mlp", NAMES)
    found = lessons.lesson(run, NAMES)
    assert run.tokenizer.decode(found.ids_T) == "\nabi"
