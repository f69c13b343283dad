"""The logit lens: the model's head on every stream, and at the end the model itself."""

import numpy as np
import pytest
from random_runs import TEXT

from gptjax.interpret import lens, text
from gptjax.models.fast.gpt_fast import FastGPT


@pytest.fixture(scope="module")
def seen(run_of):
    """A run of a quick GPT, a row of a text, what was captured, and its lens."""
    run = run_of("gpt", attention="blocks", compute_dtype="float32")
    assert isinstance(run.model, FastGPT)
    cut = text.rows(run, TEXT, 30)
    found = next(text.captures(run, cut))
    return run, cut, found, lens.lens(run, found, cut.y_RxT[0])


def test_the_last_layer_is_the_models_own_guess(seen):
    run, cut, found, layers = seen
    own = text.guesses(found.logits_BxTxV[0], cut.y_RxT[0], lens.TOP)
    for of_layers, of_model in zip(layers, own, strict=True):
        assert of_layers.shape[:2] == (run.model.n_layer + 1, run.model.block_size)
        np.testing.assert_array_equal(of_layers[-1], of_model)
    np.testing.assert_array_equal(layers.nats[-1], text.read(run, cut).nats[: cut.count_R[0]])


def test_every_layer_is_the_head_on_its_stream(seen):
    run, cut, found, layers = seen
    for n, stream in enumerate(found.streams_LxBxTxC):
        logits = run.model.apply({"params": run.params}, stream, method=run.model.logits)
        expected = text.guesses(np.asarray(logits)[0], cut.y_RxT[0], lens.TOP)
        np.testing.assert_allclose(layers.nats[n], expected.nats, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layers.top_p[n], expected.top_p, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layers.top_ids[n], expected.top_ids)
    assert np.abs(np.diff(layers.nats, axis=0)).max(axis=1).min() > 0.01  # each block adds to it


def test_what_has_no_residual_stream_has_no_lens(run_of):
    run = run_of("multihead")
    cut = text.rows(run, TEXT, 30)
    assert lens.lens(run, next(text.captures(run, cut)), cut.y_RxT[0]) is None
