"""What flows through layers and what a step changes, against plain JAX, NumPy and a real step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

from gptjax import models
from gptjax.checkpoints.run import open_run
from gptjax.config.schema import ModelConfig, OptimConfig
from gptjax.data.batching import Batch
from gptjax.interpret import capture, layers
from gptjax.models.fast.gpt_fast import FastGPT
from gptjax.models.gpt import twin
from gptjax.models.precision import Precision
from gptjax.training import resume
from gptjax.training.train_step import sum_and_grads, train_step
from gptjax.training.tuning import Tuning

V, B, T, C, H, N = 11, 3, 5, 6, 2, 2


def batch_of(rows=B, width=T, weights=None):
    rng = np.random.default_rng(4)
    x, y = (rng.integers(0, V, (rows, width), np.int32) for _ in "xy")
    return Batch(x, y, np.ones((rows, width), np.float32) if weights is None else weights)


@pytest.fixture(scope="module")
def gpt(random_params):
    config = ModelConfig("gpt", block_size=T + 2, n_embd=C, n_head=H, n_layer=N, dropout=0.5)
    model = models.build(config, V)
    return model, random_params(model, np.zeros((1, 1), np.int32))


def by_name(found):
    return {flow.place.name: flow for flow in found.flows}


def test_the_gradients_of_parameters_are_trainings_without_dropout(gpt):
    model, params = gpt
    weights = np.ones((B, T), np.float32)
    weights[1, 2:] = 0
    batch = batch_of(weights=weights)
    found = layers.measure(model, params, batch)
    of_training = jax.jit(functools.partial(sum_and_grads, model.clone(dropout=0.0)))
    (nats, count), grads = of_training(params, batch, jax.random.key(0))
    np.testing.assert_allclose(found.nats, nats / count, rtol=1e-5)
    flat, values = (layers.pytree.flat(tree) for tree in (grads, params))
    matrices = {m.name: m for m in found.matrices}
    assert set(matrices) == {name for name, leaf in values.items() if leaf.ndim > 1}
    assert len(matrices) == 6 * N + 3
    for name, matrix in matrices.items():
        grad = np.asarray(flat[name]) / count
        seen = matrix.mean, matrix.std, matrix.grad_mean, matrix.grad_std, matrix.grad_to_data
        ratio = grad.std() / values[name].std()
        expected = values[name].mean(), values[name].std(), grad.mean(), grad.std(), ratio
        np.testing.assert_allclose(seen, expected, rtol=2e-3, atol=1e-7)
        assert matrix.shape == values[name].shape
        assert matrix.update_std is None and matrix.update_to_data is None


def test_the_values_are_those_of_a_plain_forward_pass(gpt):
    model, params = gpt
    batch = batch_of()
    found = by_name(layers.measure(model, params, batch))
    captured = capture.capture(model.clone(dropout=0.0), params, batch.x)
    kept = captured.activations
    expected = {"tok_emb + pos_emb": kept["embed"], "logits": captured.logits_BxTxV}
    for n in range(N):
        expected[f"blocks_{n}"] = kept[f"blocks_{n}"]
        expected[f"blocks_{n} sa"] = kept[f"blocks_{n}/sa"]
        expected[f"blocks_{n} ffwd relu"] = kept[f"blocks_{n}/ffwd/fc"]
    assert set(found) == set(expected)
    for name, values in expected.items():
        flow, drawn = found[name], values[values != 0] if "relu" in name else values
        moments = flow.values.mean, flow.values.std
        np.testing.assert_allclose(moments, (values.mean(), values.std()), rtol=1e-3, atol=1e-6)
        assert flow.values.histogram.counts.sum() == drawn.size
        assert flow.units == values.shape[-1]
    lengths = np.linalg.norm(captured.streams_LxBxTxC, axis=-1).mean(axis=(1, 2))
    norms = [flow.norm for flow in found.values() if flow.norm is not None]
    np.testing.assert_allclose(norms, lengths, rtol=1e-4)


def test_the_gradient_at_a_place_is_how_the_loss_answers_to_a_nudge(gpt):
    model, params = gpt
    batch = batch_of()
    found = by_name(layers.measure(model, params, batch))
    captured = capture.capture(model.clone(dropout=0.0), params, batch.x)
    logits = captured.logits_BxTxV.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    by_logit = (p - np.eye(V)[batch.y]) / (B * T)  # of softmax and cross-entropy, by hand
    np.testing.assert_allclose(found["logits"].gradient.std, by_logit.std(), rtol=1e-4)
    plain, at = layers.plain(model), tuple(layers.places(model))
    gradients = layers._program()(plain, at, Tuning(), params, batch)[2]
    place = [p.name for p in at].index("blocks_0 sa")
    nudge = np.sign(gradients[place])

    @jax.jit
    def loss(size):
        nudges = [0.0] * len(at)
        nudges[place] = size * nudge
        watched = layers.Watched(plain, at, nudges)
        nats, count = layers.nats_of(watched, params, batch, jax.random.key(0))
        return nats / count

    slope = (float(loss(2e-3)) - float(loss(-2e-3))) / 4e-3
    np.testing.assert_allclose(np.abs(gradients[place]).sum(), slope, rtol=0.02)
    assert slope > 0.1


def test_dead_and_zero_units_are_those_that_were_killed(gpt):
    model, params = gpt
    params = jax.tree.map(np.copy, params)
    fc = params["blocks_1"]["ffwd"]["fc"]
    fc["bias"][:] = 1e3
    fc["bias"][[2, 3, 5, 7, 11]] = -1e3
    flow = by_name(layers.measure(model, params, batch_of()))["blocks_1 ffwd relu"]
    assert (flow.dead, flow.units) == (5, 4 * C)
    assert flow.zero == pytest.approx(5 / (4 * C))
    assert flow.values.histogram.counts.sum() == B * T * (4 * C - 5)
    assert flow.values.histogram.low > 100


def test_saturated_values_are_those_far_from_zero(random_params):
    model = models.build(ModelConfig("mlp", block_size=2, n_embd=3, n_hidden=7, n_layer=2), V)
    params = jax.tree.map(np.copy, random_params(model, np.zeros((1, 1), np.int32)))
    params["hidden_1"]["kernel"][:] = 0
    limit = np.arctanh(layers.SATURATED)
    params["hidden_1"]["bias"][:] = [limit + 0.1, -limit - 0.1, limit - 0.1, 0, 0, 0, 99]
    weights = np.ones((B, T), np.float32)
    weights[0] = 0
    batch = batch_of(weights=weights)
    found = by_name(layers.measure(model, params, batch))
    assert list(found) == ["embeddings", "hidden_0 tanh", "hidden_1 tanh", "logits"]
    assert found["hidden_1 tanh"].saturated == pytest.approx(3 / 7)
    assert found["embeddings"].saturated is None and found["hidden_0 tanh"].dead is None
    assert found["logits"].values.histogram.counts.sum() == (B - 1) * T * V  # padding is left out


@pytest.mark.parametrize("kind", ["bigram", "bigram_embed", "head", "ffwd", "gpt"])
def test_every_kind_of_model_can_be_looked_into(kind, random_params):
    activation = "gelu" if kind == "gpt" else "relu"
    sizes = {"block_size": T, "n_embd": C, "n_head": H, "n_layer": 1, "activation": activation}
    model = models.build(ModelConfig(kind, dropout=0.0, **sizes), V)
    params = random_params(model, np.zeros((1, 1), np.int32))
    found = layers.measure(model, params, batch_of())
    at = layers.places(model)
    assert [flow.place for flow in found.flows] == at and at[-1].name == "logits"
    assert all(flow.values.std > 0 and flow.gradient.std > 0 for flow in found.flows)
    has_units = any(place.kind in ("relu", "gelu") for place in at)
    assert has_units == (kind in ("ffwd", "gpt"))
    assert {flow.dead is not None for flow in found.flows} == {has_units, False}


def test_a_quick_gpt_is_looked_into_as_the_notes_one_by_one_program(gpt):
    model, params = gpt
    plain, programs = layers.measure(model, params, batch_of()), layers._program()._cache_size()
    quick = twin(FastGPT, model, precision=Precision("bfloat16"))
    again = layers.measure(quick, params, batch_of())
    assert again.nats == plain.nats and again.matrices == plain.matrices
    layers.measure(model, jax.tree.map(lambda p: p / 2, params), batch_of())
    assert layers._program()._cache_size() == programs


@pytest.mark.parametrize("name, clip", [("adamw", 0.01), ("sgd", 0.2)])
def test_an_update_is_what_the_optimizer_does_leaf_by_leaf(gpt, name, clip):
    _, params = gpt
    optim = OptimConfig(name, clip_norm=clip, weight_decay=0.3)
    tx = layers.optimizer.build(optim)
    grads = jax.tree.map(lambda p: np.cos(p).astype(np.float32), params)
    update = jax.jit(functools.partial(tx.update, learning_rate=jnp.float32(0.1)))
    memory = update(grads, tx.init(params), params)[1]
    expected, _ = update(grads, memory, params)
    found = layers.update_of(optim, memory, grads, params, 0.1)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8), found, expected
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run's folder, all of its checkpoints kept, and its experiment."""
    folder = tmp_path_factory.mktemp("layers")
    changes = {"checkpoint": {"keep_last": 9}, "optim": {"clip_norm": 0.5}}
    config = tiny_runs.config(tiny_runs.write_text(folder), "bigram_embed", **changes)
    tiny_runs.fit(config, folder / "run")
    return folder / "run", tiny_runs.build_once(config)


def test_the_update_ratio_is_that_of_a_real_step(trained):
    (workdir, exp), step = trained, 14
    run, batch = open_run(workdir, step), layers.draw(open_run(workdir), exp.splits["train"])
    found = layers.at_checkpoint(run, workdir, batch)
    rate = float(layers.optimizer.schedule(exp.config.optim, exp.config.train.steps)(step))
    assert found.learning_rate == pytest.approx(rate) and found.no_updates == ""
    state, _, _ = resume.restore(exp, workdir, step)
    one = jax.jit(functools.partial(train_step, layers.plain(exp.model), exp.tx))
    after, seen = one(state, batch, jax.random.key(0), jnp.float32(rate))
    assert found.nats == pytest.approx(float(seen.loss_nats), rel=1e-5)
    before, after = (layers.pytree.flat(jax.device_get(s.params)) for s in (state, after))
    assert len(found.matrices) == 3
    for matrix in found.matrices:
        changed = np.std(after[matrix.name].astype(np.float64) - before[matrix.name])
        ratio = np.log10(changed / np.std(before[matrix.name]))
        assert matrix.update_to_data == pytest.approx(ratio, abs=0.01)
    assert -4 < np.median([m.update_to_data for m in found.matrices]) < 0


def test_of_a_model_whose_rest_is_frozen_only_what_learns_is_measured(trained):
    workdir, exp = trained
    state, _, _ = resume.restore(exp, workdir, 14)
    tuning = Tuning("lm_head")
    optim = exp.config.optim
    opt_state = layers.optimizer.build(optim).init(tuning.split(state.params)[0])
    batch = layers.draw(open_run(workdir), exp.splits["train"])
    found = layers.measure(exp.model, state.params, batch, opt_state, optim, 0.01, tuning)
    assert [matrix.name for matrix in found.matrices] == ["lm_head/kernel"]
    assert found.matrices[0].update_to_data is not None
    assert found.nats == pytest.approx(layers.measure(exp.model, state.params, batch).nats)


def test_a_model_without_a_history_has_no_updates_and_says_why(trained):
    workdir, exp = trained
    batch = layers.draw(open_run(workdir), exp.splits["train"])
    known = layers.at_checkpoint(open_run(workdir), workdir, batch)
    assert known.no_updates == "" and known.matrices[0].update_std > 0
    converted = dataclasses.replace(open_run(workdir), data=None)
    gone = open_run(workdir), workdir / "elsewhere"
    for run, folder, why in ((converted, workdir, "not trained here"), (*gone, "no checkpoint")):
        found = layers.at_checkpoint(run, folder, batch)
        assert why in found.no_updates and found.learning_rate is None
        assert found.matrices and all(m.update_to_data is None for m in found.matrices)
        assert found.nats == pytest.approx(known.nats)


def test_the_batch_is_always_the_same_and_of_a_few_tokens(trained):
    workdir, exp = trained
    run, split = open_run(workdir), exp.splits["train"]
    batch, again = layers.draw(run, split), layers.draw(open_run(workdir, 0), split)
    np.testing.assert_array_equal(batch.x, again.x)
    assert batch.y.shape == (layers.TOKENS // split.window, split.window)


def test_a_large_model_is_shown_less(trained, monkeypatch):
    workdir, exp = trained
    run, split = open_run(workdir), exp.splits["train"]
    for tokens, shape in ((4, (1, 4)), (20, (3, 6)), (0, (1, 2))):
        monkeypatch.setattr(layers, "FLOPS", 6 * run.n_parameters * tokens)
        batch = layers.draw(run, split)
        assert batch.x.shape == batch.y.shape == batch.w.shape == shape


def test_a_text_is_a_batch_where_there_is_no_corpus(trained):
    workdir, exp = trained
    run = open_run(workdir)
    text = exp.corpus.splits["val"][:20]
    batch = layers.of_text(run, text)
    ids = run.tokenizer.encode(text)
    assert int(batch.w.sum()) == len(ids) - 1 == 19
    np.testing.assert_array_equal(batch.y[batch.w > 0], ids[1:])
    assert layers.of_text(run, text[:1]) is None
