"""Only what is named learns: the rest keeps its bits, and costs no gradient and no memory."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from gptjax.data.batching import Batch
from gptjax.data.corpora import Corpus
from gptjax.evaluation.flops import product_flops
from gptjax.models import lora
from gptjax.runtime.mesh_rules import device_bytes
from gptjax.training import experiment, optimizer, scan
from gptjax.training.train_step import init_state
from gptjax.training.tuning import ALL, Tuning

ROOT = Path(__file__).resolve().parents[2]
B, T, C, H, N, V, SEED = 6, 5, 12, 3, 2, 13, 9
SIZES = {"block_size": T, "n_layer": N, "n_embd": C, "n_head": H, "attention": "plain"}
PLAIN = ModelConfig("gpt", **SIZES)
LORA = ModelConfig("gpt", **SIZES, lora_rank=4, lora_targets="query,fc", lora_alpha=3.0)
NAMED = Tuning("lm_head,blocks_1/ffwd", PLAIN)
BESIDE = Tuning("", LORA)
BOTH = Tuning("ln_f", LORA)
SGD = optimizer.build(OptimConfig("sgd", clip_norm=0.0))
ADAMW = optimizer.build(OptimConfig())


def batches(n, parts=1):
    x = np.random.default_rng(2).integers(0, V, (n, parts, B // parts, T))
    return Batch(x, (x + 1) % V, np.ones(x.shape, np.float32))


def state_of(tuning, tx):
    model = models.build(tuning.model, V)
    return model, jax.jit(functools.partial(init_state, model, tx, SEED, tuning))()


def after(tuning, tx, n=1, parts=1, rate=0.1):
    """The parameters before and after ``n`` steps, and what these saw."""
    model, state = state_of(tuning, tx)
    chunk = functools.partial(scan.train_chunk, model, tx, 0, tuning=tuning)
    rates = np.full(n, rate, np.float32)
    new, seen = jax.jit(chunk)(state, batches(n, parts), rates, n, jax.random.key(1))
    return state, new, seen


@pytest.mark.parametrize("tuning", [ALL, NAMED, BESIDE, BOTH], ids=["all", "named", "lora", "both"])
def test_what_is_split_is_joined_again_and_each_parameter_is_on_one_side(tuning):
    _, state = state_of(tuning, SGD)
    trained, frozen = tuning.split(state.params)
    chex.assert_trees_all_equal(tuning.join(trained, frozen), state.params)
    names = [set(pytree.flat(side)) for side in (trained, frozen)]
    assert not names[0] & names[1] and names[0] and bool(names[1]) is tuning.freezes
    assert jax.tree.structure(tuning.join(trained, frozen)) == jax.tree.structure(state.params)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_named_move_as_they_do_when_all_learn_and_the_others_keep_their_bits(parts):
    _, expected, seen_all = after(Tuning("", PLAIN), SGD, parts=parts)
    start, found, seen = after(NAMED, SGD, parts=parts)
    trained, frozen = NAMED.split(start.params)
    assert len(pytree.flat(trained)) == 6  # two layers of a feed-forward, and the head
    for name, leaf in pytree.flat(found.params).items():
        if name in pytree.flat(frozen):
            np.testing.assert_array_equal(leaf, pytree.flat(frozen)[name])
        else:
            whole = pytree.flat(expected.params)[name]
            np.testing.assert_allclose(leaf, whole, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(leaf, pytree.flat(trained)[name]), f"{name} learns"
    np.testing.assert_allclose(seen.loss_nats, seen_all.loss_nats, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.1, trained, NAMED.split(found.params)[0])
    np.testing.assert_allclose(seen.grad_norm[0], optax.tree.norm(moved), rtol=1e-4)
    assert seen.grad_norm[0] < 0.9 * seen_all.grad_norm[0], "the norm is of what learns"


@pytest.mark.parametrize("tuning", [BESIDE, BOTH], ids=["lora", "both"])
def test_of_lora_the_products_learn_and_no_kernel_does(tuning):
    start, found, _ = after(tuning, ADAMW, n=3, rate=0.01)
    before, now = pytree.flat(start.params), pytree.flat(found.params)
    moved = {name for name, leaf in now.items() if not np.array_equal(leaf, before[name])}
    adapters = {name for name in now if name.startswith("lora/")}
    assert len(adapters) == 2 * 2 * N
    assert moved == adapters | ({"ln_f/scale", "ln_f/bias"} if tuning is BOTH else set())


def test_lora_starts_where_the_model_does_and_its_merge_gives_the_loss_it_trained_to():
    alone, new, seen = after(Tuning("", PLAIN), ADAMW, n=1)
    start, found, of_lora = after(BESIDE, ADAMW, n=2, rate=0.03)
    np.testing.assert_array_equal(of_lora.loss_nats[0], seen.loss_nats[0])
    model, x = models.build(PLAIN, V), batches(1).x[0, 0]
    chex.assert_trees_all_equal(BESIDE.merge(start.params), alone.params)
    merged = model.apply({"params": BESIDE.merge(found.params)}, x)
    beside = BESIDE.beside(model, BESIDE.split(found.params)[1])
    apart = beside.apply({"params": BESIDE.split(found.params)[0]}, x)
    np.testing.assert_array_equal(merged, apart)
    assert np.abs(merged - model.apply({"params": alone.params}, x)).max() > 1e-3


@pytest.mark.parametrize("tuning", [NAMED, BESIDE], ids=["named", "lora"])
def test_the_optimizer_remembers_what_learns_alone(tuning):
    _, state = state_of(tuning, ADAMW)
    trained = tuning.split(state.params)[0]
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.nbytes for leaf in moments) == 2 * device_bytes(trained)
    assert device_bytes(trained) < 0.4 * device_bytes(state.params)


def flops_of(tuning):
    model, state = state_of(tuning, SGD)
    trained, frozen = tuning.split(state.params)
    batch = jax.tree.map(lambda array: array[0], batches(1))
    sums = functools.partial(scan.in_parts, tuning.beside(model, frozen))
    return product_flops(jax.make_jaxpr(sums)(trained, batch, jax.random.key(0)).jaxpr)


def test_no_backward_pass_goes_below_what_learns():
    model, state = state_of(Tuning("", PLAIN), SGD)
    forward = product_flops(
        jax.make_jaxpr(model.apply)({"params": state.params}, batches(1).x[0, 0]).jaxpr
    )
    assert flops_of(Tuning("", PLAIN)) == 3 * forward
    kernel = 2 * B * T  # FLOPs of a product with a kernel, by its size
    assert flops_of(Tuning("lm_head", PLAIN)) == forward + kernel * C * V
    # To the last feed-forward: through the head and proj, and the gradients of fc and proj.
    back = kernel * (C * V + 4 * C * C)
    assert flops_of(Tuning("blocks_1/ffwd", PLAIN)) == forward + back + kernel * 8 * C * C
    assert flops_of(Tuning("blocks_0/ffwd", PLAIN)) > flops_of(Tuning("blocks_1/ffwd", PLAIN))


TEXT = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 2000))
TEXT = Corpus("made up", "stream", "random", "", {"train": TEXT, "val": TEXT[:300]})
MESHES = {"named": (2, 2, 2), "lora": (8, 1, 1)}
TUNED = {
    "named": ({"trainable": "lm_head,blocks_0/ffwd"}, {}),
    "lora": ({}, {"lora_rank": 4, "lora_targets": "query,fc"}),
}


def on_devices(name, mesh):
    """State and losses after three steps of a tuned run on a mesh."""
    train, how = TUNED[name]
    train = TrainConfig(3, batch_size=16, accumulate=2, chunk_steps=3, **train)
    sizes = {"block_size": 9, "n_embd": 96, "n_head": 8, "n_layer": 1, "dropout": 0.25}
    model = ModelConfig("gpt", **sizes, **how, compute_dtype="float32")
    config = Config(model=model, train=train, mesh=MeshConfig(*mesh))
    exp = experiment.build(config, text=TEXT)
    inputs = exp.chunk_inputs(0, 3)
    fresh = exp.init_state()
    first = jax.device_get(fresh.params)
    state, seen = exp.train_chunk(fresh, *inputs, 3, exp.dropout_key)
    merged = exp.merged(state.params)
    places = jax.tree.leaves(exp.placement.of_tree(state))
    kept = zip(jax.tree.leaves(state), places, strict=True)
    return {
        "first": first,
        "values": jax.device_get((merged, state.params, seen)),
        "held out": exp.evaluator.exact_loss(merged, exp.splits["val"]),
        "needs": exp.memory_needs(),
        "optimizer": device_bytes(state.opt_state),
        "kept": all(leaf.sharding.is_equivalent_to(place, leaf.ndim) for leaf, place in kept),
    }


@pytest.fixture(scope="module")
def meshes():
    code = "import pickle, sys, tuning_test as t; pickle.dump({n: t.on_devices(n, m) "
    code += "for n, m in t.MESHES.items()}, sys.stdout.buffer)"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    flags["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    flags["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | flags, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize("name", TUNED)
def test_eight_devices_tune_as_one_does(name, meshes):
    one, eight = on_devices(name, (1, 1, 1)), meshes[name]
    chex.assert_trees_all_equal(one["first"], eight["first"])
    chex.assert_trees_all_close(one["values"], eight["values"], rtol=1e-3, atol=2e-5)
    assert abs(one["held out"] - eight["held out"]) < 1e-5 and eight["kept"]
    assert eight["needs"]["optimizer"] == eight["optimizer"]
    assert one["needs"]["optimizer"] == 2 * one["needs"]["gradients"] + 8  # and two counts
    assert one["needs"]["gradients"] < 0.7 * one["needs"]["parameters"]
    assert lora.NAME not in one["values"][0]
