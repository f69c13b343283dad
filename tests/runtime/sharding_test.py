"""A run on eight devices is the run on one: rows are dealt out, parameters stand on each.

The devices are eight faces of one CPU, which JAX must be told about before it starts: the runs
are made in a process of their own, and each test looks at one side of what came of it.
"""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gptjax.checkpoints import pytree
from gptjax.config.schema import OptimConfig
from gptjax.errors import UserError
from gptjax.runtime import sharding
from gptjax.training import optimizer

ROOT = Path(__file__).resolve().parents[2]
DEVICES, B, T, STEPS = 8, 16, 6, 3
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

RUNS = f"""
import pickle, sys
import jax, numpy as np
from gptjax.config.schema import Config, OptimConfig
from gptjax.data.batching import Batch
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.models.gpt import GPTLanguageModel
from gptjax.runtime import sharding
from gptjax.training import optimizer
from gptjax.training.experiment import Experiment
from gptjax.training.train_step import init_state

model = GPTLanguageModel(vocab_size=11, block_size=7, n_embd=12, n_head=3, n_layer=1, dropout=0.25)
optim = OptimConfig("sgd", learning_rate=0.5)
tx, schedule = optimizer.build(optim), optimizer.schedule(optim, {STEPS})
rates = np.array([schedule(step) for step in range({STEPS})])
rng = np.random.default_rng(0)
shape = ({STEPS}, 2, {B} // 2, {T})  # two parts a step
x, y = rng.integers(0, 11, (2, *shape)).astype(np.int32)
w = rng.integers(0, 2, shape).astype(np.float32)
fresh = jax.device_get(jax.jit(lambda: init_state(model, tx, 0))())
results = {{}}
for n in (1, {DEVICES}):
    place = sharding.Placement(sharding.make_mesh(jax.devices()[:n]))
    evaluator = Evaluator(model, {B} // 2, {STEPS}, place.put_batch)
    exp = Experiment(Config(), None, None, model, tx, {{}}, place, evaluator)
    batches = place.put_batch(Batch(x, y, w))
    state, seen = exp.train_chunk(place.put(fresh), batches, rates, {STEPS}, jax.random.key(1))
    held_out = Batch(*(a[:, 0] for a in (x, y, w)))
    sums = evaluator.batch_sums(state.params, held_out)
    held_out = place.put_batch(held_out)
    table = state.params["token_embedding_table"]["embedding"]
    results[n] = {{
        "values": jax.device_get((state.params, seen, sums)),
        "step": int(state.step),
        "batch_shards": [shard.data.shape for shard in batches.x.addressable_shards],
        "held_out_shards": [shard.data.shape for shard in held_out.x.addressable_shards],
        "table_shards": [np.asarray(shard.data) for shard in table.addressable_shards],
        "seen_shards": [shard.data.shape for shard in seen.loss_nats.addressable_shards],
        "divides": sharding.check_divisible({DEVICES} * 2, 2, place.mesh),
    }}
pickle.dump(results, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def runs():
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    done = subprocess.run(
        [sys.executable, "-c", RUNS],
        env=os.environ | QUICK | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def test_eight_devices_compute_what_one_does(runs):
    chex.assert_trees_all_close(runs[1]["values"], runs[8]["values"], rtol=1e-4, atol=1e-5)
    assert runs[1]["step"] == runs[8]["step"] == STEPS
    (_, seen, (_, counts)) = runs[8]["values"]
    assert np.all(seen.finite) and np.all(seen.loss_nats > 1) and np.all(counts > 0)


def test_every_device_has_rows_of_its_own(runs):
    assert runs[8]["batch_shards"] == [(STEPS, 2, B // 2 // DEVICES, T)] * DEVICES
    assert runs[8]["held_out_shards"] == [(STEPS, B // 2 // DEVICES, T)] * DEVICES
    assert runs[1]["batch_shards"] == [(STEPS, 2, B // 2, T)]
    assert runs[8]["seen_shards"] == [(STEPS,)] * DEVICES  # what a step reports is whole on each


def test_every_device_ends_with_the_same_parameters(runs):
    tables = runs[8]["table_shards"]
    assert len(tables) == DEVICES and tables[0].shape == (11, 12)
    for table in tables[1:]:
        np.testing.assert_array_equal(table, tables[0])


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_rows_are_split_along_the_last_axis_but_one(ndim):
    place = sharding.Placement(sharding.make_mesh(jax.devices()[:1]))
    assert list(place.of_batch(ndim).spec) == [None] * (ndim - 2) + ["data", None]
    assert place.whole.spec == place.of_path("params/lm_head/kernel").spec == PartitionSpec()


def test_a_leaf_goes_where_the_first_rule_that_fits_its_path_says(monkeypatch):
    """And an optimizer's memory of a parameter to where the parameter is."""
    split, whole = PartitionSpec(None, "data"), PartitionSpec()
    rules = ((re.compile("lm_head/kernel"), split), *sharding.RULES, (re.compile("bias"), split))
    monkeypatch.setattr(sharding, "RULES", rules)
    place = sharding.Placement(sharding.make_mesh(jax.devices()[:1]))
    params = {"lm_head": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}}
    state = {"params": params, "opt_state": optimizer.build(OptimConfig()).init(params)}
    specs = pytree.flat(jax.tree.map(lambda place: place.spec, place.of_tree(state)))
    assert len(specs) == len(jax.tree.leaves(state)) > 6
    for path, spec in specs.items():
        assert spec == (split if path.endswith("lm_head/kernel") else whole), path
        assert place.of_path(path).spec == spec
    assert sum(spec == split for spec in specs.values()) == 3  # itself, and AdamW's two
    put = jax.tree.map(lambda leaf: leaf.sharding.spec, place.put(state))
    assert pytree.flat(put) == specs


@pytest.mark.parametrize(
    "batch_size, accumulate, devices, message",
    [
        (12, 1, 8, "train.accumulate=1 times 8 devices: use 16"),
        (7, 3, 1, "train.accumulate=3 times 1 device: use 9"),
        (50, 3, 8, "train.accumulate=3 times 8 devices: use 72"),
        (25, 3, 8, "train.accumulate=3 times 8 devices: use 48"),
    ],
)
def test_a_batch_that_cannot_be_dealt_out_is_refused(batch_size, accumulate, devices, message):
    with pytest.raises(UserError) as caught:
        sharding.check_divisible(batch_size, accumulate, SimpleNamespace(size=devices))
    wrong = f"train.batch_size={batch_size} is not divisible by "
    assert str(caught.value) == wrong + message


@pytest.mark.parametrize("batch_size, accumulate, devices", [(48, 3, 8), (8, 1, 8), (1, 1, 1)])
def test_a_batch_that_can_is_not(batch_size, accumulate, devices):
    sharding.check_divisible(batch_size, accumulate, SimpleNamespace(size=devices))
