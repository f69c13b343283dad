"""What a config stands for: one compiled program, its inputs, and a state made on its devices."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import tiny_runs

from gptjax.checkpoints import pytree
from gptjax.data.batching import get_batch
from gptjax.evaluation import loss_eval
from gptjax.evaluation.count_models import count_bigram
from gptjax.training import experiment, optimizer, scan

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gptjax"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_runs.write_text(tmp_path_factory.mktemp("text"))


# ---- the inputs of a chunk --------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_chunks_batches_are_those_of_its_steps_in_parts(accumulate, text):
    config = tiny_runs.config(text, train={"accumulate": accumulate})
    exp = experiment.build(config)
    for first, n in ((0, 5), (7, 3), (22, 1)):
        batches, rates = exp.chunk_inputs(first, n)
        K = config.train.chunk_steps
        assert {a.shape for a in batches} == {(K, accumulate, 4 // accumulate, 6)}
        assert rates.shape == (K,)
        for i in range(n):
            alone = get_batch(exp.splits["train"], 4, config.seed, first + i)
            for found, expected in zip(batches, alone, strict=True):
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found[i].reshape(4, 6), expected)


@pytest.fixture(params=[True, False], ids=["quick compile", "as in a run"])
def both_ways(request):
    """How XLA compiles must not matter: a continued run may do it otherwise."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", request.param)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(
    "optim",
    [
        {"schedule": "cosine", "warmup_steps": 3},
        {"schedule": "cosine", "warmup_steps": 0, "final_fraction": 0.0},
        {"schedule": "constant", "warmup_steps": 5},
        {"schedule": "step", "warmup_steps": 2, "final_fraction": 0.3},
    ],
    ids=lambda optim: optim["schedule"],
)
def test_the_rate_of_a_step_is_the_schedules_and_the_same_to_the_bit_in_any_chunk(
    optim, text, both_ways
):
    config = tiny_runs.config(text, optim={"learning_rate": 0.037} | optim)
    exp, K = experiment.build(config), config.train.chunk_steps
    steps = config.train.steps
    schedule = jax.jit(optimizer.schedule(config.optim, steps))
    expected = np.array([schedule(np.int32(step)) for step in range(steps + K)])
    assert len(set(expected.tolist())) > (2 if optim["schedule"] == "cosine" else 1)
    rates = np.full(steps + K, np.nan, np.float32)
    for first in range(steps):
        _, found = exp.chunk_inputs(first, 1)
        assert found.dtype == np.float32
        before = rates[first : first + K]
        np.testing.assert_array_equal(np.where(np.isnan(before), found, before), found)
        rates[first : first + K] = found
    np.testing.assert_allclose(rates[: steps + K - 1], expected[:-1], rtol=2.5e-7)


def test_steps_count_far_beyond_what_a_float_can(text):
    steps = 2**31 - 1
    exp = experiment.build(tiny_runs.config(text, train={"steps": steps}))
    _, rates = exp.chunk_inputs(2**24 + 1, 1)
    inside = jax.jit(optimizer.schedule(exp.config.optim, steps))
    assert rates[0] == inside(np.int32(2**24 + 1))


# ---- the compiled form ------------------------------------------------------------------------


def test_training_takes_the_state_over_and_evaluation_leaves_it(text):
    exp = experiment.build(tiny_runs.config(text))
    state = exp.init_state()
    batch = get_batch(exp.splits["train"], 4, 0)
    exp.evaluator.batch_sums(state.params, jax.tree.map(lambda a: a[None], batch))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    after, _ = exp.train_chunk(state, *exp.chunk_inputs(0, 5), 5, exp.dropout_key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_many_chunks_are_traced_and_compiled_once(text, monkeypatch):
    traces, compiles, real = [], [], scan.train_chunk

    def counted(*args, **more):
        traces.append("train_chunk")
        return real(*args, **more)

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiles.append(seconds)

    monkeypatch.setattr(scan, "train_chunk", counted)
    loss_eval.forward.clear_cache()  # a test before this one may have an equal model
    exp = experiment.build(tiny_runs.config(text))
    state, key = exp.init_state(), exp.dropout_key
    chunks, first = [], 0
    for n in (1, 2, 5, 3):
        chunks.append((*exp.chunk_inputs(first, n), n))
        first += n
    held_out = [jax.tree.map(lambda a: np.asarray(a[:, 0]), batches) for batches, *_ in chunks]
    exp.compile_ahead()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for inputs, batches in zip(chunks, held_out, strict=True):
            state, _ = exp.train_chunk(state, *inputs, key)
            exp.evaluator.batch_sums(state.params, batches)
    finally:
        jax.monitoring.clear_event_listeners()
    assert traces == ["train_chunk"]
    assert len(compiles) == 1  # the evaluation: the steps were compiled ahead
    assert state.step == 11


def test_the_baseline_is_the_count_bigram_of_the_train_split(text):
    exp = experiment.build(tiny_runs.config(text))
    bigram = count_bigram(*exp.splits["train"].pairs(), exp.tokenizer.vocab_size)
    assert exp.bigram_nats == {name: bigram.nats(*s.pairs()) for name, s in exp.splits.items()}
    assert exp.bigram_nats is exp.bigram_nats  # counted once


def test_a_character_of_the_held_out_part_alone_is_in_the_vocabulary(text, tmp_path):
    path = tmp_path / "with an end.txt"
    path.write_text(text.read_text(encoding="utf-8") + "the end: Ω", encoding="utf-8")
    exp = experiment.build(tiny_runs.config(path))
    assert "Ω" not in exp.corpus.splits["train"] and "Ω" in exp.tokenizer.vocabulary
    assert exp.tokenizer.decode(exp.splits["val"].tokens).endswith("the end: Ω")


# ---- the beginning ----------------------------------------------------------------------------

FACES = """
import pickle, sys
import jax, numpy as np
import tiny_runs
from gptjax.checkpoints import pytree
from gptjax.training import experiment
from pathlib import Path

found = {}
for kind in ("gpt", "ngram"):
    exp = experiment.build(tiny_runs.config(Path(sys.argv[1]), kind, train={"batch_size": 8}))
    state = exp.init_state()
    places, like = pytree.flat(exp.placement.of_tree(state)), pytree.flat(exp.abstract_state)
    assert exp.placement.mesh.size == 8
    found[kind] = {
        path: {
            "as placement says": leaf.sharding.is_equivalent_to(places[path], leaf.ndim),
            "as the abstract state": places[path] == like[path].sharding,
            "committed": leaf.committed,
            "devices": len(leaf.sharding.device_set),
            "value": np.asarray(leaf),
            "shards": [np.asarray(shard.data) for shard in leaf.addressable_shards],
        }
        for path, leaf in pytree.flat(state).items()
    }
pickle.dump(found, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def faces(text):
    """The fresh states of two kinds on eight faces of one CPU, leaf by leaf."""
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", FACES, str(text)],
        env=os.environ | quick | flags | path,
        cwd=ROOT,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize("kind", ["gpt", "ngram"])
def test_every_leaf_of_a_fresh_state_is_where_the_placement_says(kind, faces):
    assert {"step", "skipped"} <= set(faces[kind])
    assert any(path.startswith("params/") for path in faces[kind])
    for path, leaf in faces[kind].items():
        assert leaf["as placement says"] and leaf["as the abstract state"], path
        assert leaf["committed"] and leaf["devices"] == 8, path
        for shard in leaf["shards"]:
            np.testing.assert_array_equal(shard, leaf["value"])


@pytest.mark.parametrize("kind", ["gpt", "ngram"])
def test_eight_devices_begin_where_one_does(kind, faces, text):
    exp = experiment.build(tiny_runs.config(text, kind, train={"batch_size": 8}))
    here = pytree.flat(exp.init_state())
    assert list(here) == list(faces[kind])
    for path, leaf in here.items():
        np.testing.assert_array_equal(leaf, faces[kind][path]["value"], err_msg=path)


def test_the_seed_alone_decides_the_fresh_state(text):
    def begin(**changes):
        values = tiny_runs.to_dict(tiny_runs.config(text, "gpt", **changes))
        return lambda seed: experiment.build(tiny_runs.from_dict(values | {"seed": seed}))

    state = begin()(5).init_state()
    other_run = begin(train={"batch_size": 8, "steps": 3}, optim={"learning_rate": 0.5})(5)
    chex.assert_trees_all_equal(state, other_run.init_state())
    other = begin()(6).init_state()
    kernels = [s.params["lm_head"]["kernel"] for s in (state, other)]
    assert not np.allclose(*kernels)


def test_the_seed_decides_the_dropout(text):
    values = tiny_runs.to_dict(tiny_runs.config(text, "gpt"))
    exps = [experiment.build(tiny_runs.from_dict(values | {"seed": seed})) for seed in (5, 5, 6)]
    one, again, other = (jax.random.key_data(exp.dropout_key).tolist() for exp in exps)
    assert one == again != other
    weights = jax.random.key_data(jax.random.key(5)).tolist()
    assert one != weights, "the weights have a key of their own"


@pytest.mark.parametrize("kind", ["gpt", "ngram"])
def test_the_abstract_state_is_the_states_without_its_values(kind, text):
    exp = experiment.build(tiny_runs.config(text, kind))
    state, like = pytree.flat(exp.init_state()), pytree.flat(exp.abstract_state)
    assert list(state) == list(like)
    for path, leaf in state.items():
        found = (like[path].shape, like[path].dtype, like[path].sharding)
        assert found == (leaf.shape, leaf.dtype, leaf.sharding)


# ---- who knows what ---------------------------------------------------------------------------


def test_the_trainers_memory_is_known_to_training_alone():
    """A model opens, samples and scores without the history of its training."""
    console = PACKAGE / "monitoring" / "console.py"  # its progress is a bar
    outside = [path for path in PACKAGE.rglob("*.py") if PACKAGE / "training" not in path.parents]
    outside = [path for path in outside if PACKAGE / "aot" not in path.parents]  # of devices
    assert len(outside) > 30
    for path in outside:
        source = path.read_text(encoding="utf-8").replace("show_progress", "")  # a library's bar
        assert not re.search(r"""["']memory["']""", source), path
        assert "progress" not in source.lower() or path == console, path
    assert '"memory"' in (PACKAGE / "training" / "resume.py").read_text(encoding="utf-8")


def test_a_run_without_an_end_needs_no_more_memory_than_one_with(text):
    """Whoever trains until he stops it asks for all the steps there are."""
    most = 2**31 - 1
    optim = {"warmup_steps": most - 9, "schedule": "constant"}
    config = tiny_runs.config(text, train={"steps": most}, optim=optim)
    exp = experiment.build(config)
    batches, rates = exp.chunk_inputs(most - 3, 3)
    assert rates.shape == (config.train.chunk_steps,) == batches.x.shape[:1]
    np.testing.assert_allclose(rates[:1], config.optim.learning_rate, rtol=1e-6)
    assert np.isfinite(rates).all() and sum(exp.memory_needs().values()) < 10**6


def test_what_training_needs_of_memory_is_what_its_arrays_are(text):
    config = tiny_runs.config(text, "gpt", train={"batch_size": 6, "accumulate": 2})
    exp = experiment.build(config)
    needs = exp.memory_needs()
    state = exp.init_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert needs["parameters"] == needs["gradients"] == size
    assert needs["optimizer"] == sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    batches, _ = exp.chunk_inputs(0, 1)
    assert needs["batches of 5 steps"] == 2 * sum(array.nbytes for array in batches)
    more = experiment.build(
        tiny_runs.config(text, "gpt", train={"batch_size": 12, "accumulate": 2})
    )
    rows = needs["activations of 3 rows"], more.memory_needs()["activations of 6 rows"]
    assert rows[0] > 3 * 6 * 4 * exp.tokenizer.vocab_size and 1.9 < rows[1] / rows[0] < 2.1
