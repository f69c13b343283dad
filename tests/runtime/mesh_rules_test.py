"""A run on eight devices is the run on one, however rows and parameters are cut over them.

The devices are eight faces of one CPU, which JAX must be told about before it starts: the runs
are made in a process of their own, and each test looks at one side of what came of it.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import MODELS, MeshConfig, ModelConfig, OptimConfig
from gptjax.errors import UserError
from gptjax.runtime import mesh_rules
from gptjax.training import optimizer

ROOT = Path(__file__).resolve().parents[2]
DEVICES, STEPS = 8, 3
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]
KINDS = ("bigram", "mlp", "gpt")
SUMS = [(attention, 3, n) for attention in ("blocks", "plain") for n in (1, 8)]
SUMS += [("blocks", 1, 8)]
QUICK = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

RUNS = f"""
import dataclasses, functools, pickle, sys
import jax, numpy as np
from gptjax import models
from gptjax.aot import hlo
from gptjax.config.schema import *
from gptjax.data.batching import Batch
from gptjax.data.corpora import Corpus
from gptjax.generation.generate import preview
from gptjax.training import experiment, scan
from gptjax.runtime import mesh_rules

text = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 2000))  # V = 16
text = Corpus("made up", "stream", "random", "", {{"train": text, "val": text[:300]}})
sizes = dict(block_size=9, n_embd=96, n_head=8, n_layer=1, n_hidden=40)
gpt = ModelConfig("gpt", dropout=0.25, compute_dtype="float32", **sizes)
of_kind = {{"gpt": gpt}} | {{kind: ModelConfig(kind, **sizes) for kind in ("bigram", "mlp")}}
steps = dict(steps={STEPS}, batch_size=16, chunk_steps={STEPS}, eval_iters=2)
all_devices, results = jax.devices(), {{}}
for kind in {KINDS}:
    for mesh in ((1, 1, 1), *{MESHES}):
        jax.devices = lambda mesh=mesh: all_devices[: np.prod(mesh)]
        train = TrainConfig(**steps, accumulate=1 + (kind == "gpt"))
        config = Config(model=of_kind[kind], train=train, mesh=MeshConfig(*mesh))
        exp = experiment.build(config, text=text)
        fresh = exp.init_state()
        first = jax.device_get(fresh.params)
        per_device = np.zeros(len(exp.placement.mesh.devices.flat), int)
        for leaf in jax.tree.leaves((fresh.params, fresh.opt_state)):
            for shard in leaf.addressable_shards:
                per_device[shard.device.id] += shard.data.nbytes
        batches, rates = exp.chunk_inputs(0, {STEPS})
        rows = [shard.data.shape for shard in batches.x.addressable_shards]
        state, seen = exp.train_chunk(fresh, batches, rates, {STEPS}, exp.dropout_key)
        key, sample = jax.random.key(3), SampleConfig("ab", 12 if kind == "gpt" else 0)
        results[kind, mesh] = {{
            "first": first,
            "values": jax.device_get((state.params, seen)),
            "held out": kind == "gpt" and exp.evaluator.exact_loss(state.params, exp.splits["val"]),
            "sample": preview(exp.model, state.params, exp.tokenizer, sample, False, key),
            "bytes": per_device,
            "rows": rows,
            "needs": exp.memory_needs(),
            "kept": all(
                leaf.sharding.is_equivalent_to(place, leaf.ndim)
                for leaf, place in zip(
                    *map(jax.tree.leaves, (state, exp.placement.of_tree(state)))
                )
            ),
        }}

def sums(attention, parts, n):
    # What in_parts of (parts, 8, 9) rows gives on n devices, and what its program sends.
    padded = 5 if attention == "blocks" else 1
    how = dataclasses.replace(gpt, attention=attention, tie_lm_head=True, pad_vocab=padded)
    model = models.build(how, 16)
    place = mesh_rules.Placement(mesh_rules.make_mesh(devices=all_devices[:n]))
    params = place.put(jax.jit(model.init)(jax.random.key(1), np.zeros((1, 1), int))["params"])
    x = np.random.default_rng(2).integers(0, 16, (parts, 8, 9))
    inputs = params, place.put_batch(Batch(x, x[..., ::-1], np.ones(x.shape))), jax.random.key(4)
    jitted = jax.jit(functools.partial(scan.in_parts, model))
    compiled = place.on_mesh(jitted).lower(*inputs).compile()
    sent = hlo.traffic(compiled.as_text()).collectives
    return {{"values": jax.device_get(compiled(*inputs)), "sent": sent}}

for attention, parts, n in {SUMS}:
    results["sums", attention, parts, n] = sums(attention, parts, n)
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
        timeout=900,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_compute_what_one_does(runs, kind, mesh):
    one, eight = runs[kind, (1, 1, 1)], runs[kind, mesh]
    chex.assert_trees_all_equal(one["first"], eight["first"])  # and to the bit at the start
    chex.assert_trees_all_close(one["values"], eight["values"], rtol=1e-3, atol=2e-5)
    _, seen = eight["values"]
    assert np.all(seen.finite) and np.all(seen.loss_nats > 1)
    assert abs(one["held out"] - eight["held out"]) < 1e-5
    assert one["sample"] == eight["sample"]
    assert len(eight["sample"]) == (14 if kind == "gpt" else 0)
    assert eight["kept"]  # after the steps each leaf lies where it began


@pytest.mark.parametrize("attention", ["blocks", "plain"])
def test_sums_in_parts_are_those_of_one_device_whoever_drops_out(runs, attention):
    one, eight = (runs["sums", attention, 3, n]["values"] for n in (1, 8))
    chex.assert_trees_all_close(one, eight, rtol=1e-4, atol=2e-4)
    assert one[0][0] > 3 * 8 * 9 and one[0][1] == 3 * 8 * 9


@pytest.mark.skipif(not mesh_rules.CAN_BE_APART, reason="needs jax 0.8.2")
def test_gradients_are_sent_once_however_many_parts_a_batch_has(runs):
    once, thrice = (runs["sums", "blocks", parts, 8] for parts in (1, 3))
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(once["values"][1]))
    for found in (once["sent"], thrice["sent"]):
        _, size, sent = found["all-reduce"]
        assert set(found) == {"all-reduce"}
        assert size == gradients + 8 and sent == 2 * size * 7 / 8  # the loss and its count: 8


@pytest.mark.parametrize("mesh", MESHES)
def test_rows_are_dealt_out_over_data_and_fsdp(runs, mesh):
    data, fsdp, _ = mesh
    assert runs["gpt", mesh]["rows"] == [(STEPS, 2, 8 // (data * fsdp), 9)] * DEVICES


@pytest.mark.parametrize("mesh", MESHES)
def test_a_device_has_its_share_of_parameters_and_optimizer(runs, mesh):
    data, fsdp, tensor = mesh
    whole, needs = runs["gpt", (1, 1, 1)]["bytes"][0], runs["gpt", mesh]["needs"]
    found = runs["gpt", mesh]["bytes"]
    assert len(found) == DEVICES and len(set(found)) == 1
    assert found[0] <= 1.1 * whole / (fsdp * tensor)
    assert abs(needs["parameters"] + needs["optimizer"] - found[0]) <= 16  # said before it is made


def placement(uneven="refuse", **sizes):
    """Of a mesh that is asked about shapes alone: it has no devices to lay anything on."""
    shape = {axis: sizes.get(axis, 1) for axis in mesh_rules.AXES}
    mesh = jax.sharding.AbstractMesh(tuple(shape.values()), tuple(shape))
    return mesh_rules.Placement(mesh, uneven)


@pytest.mark.parametrize("kind", MODELS)
def test_every_leaf_of_every_model_has_one_rule_and_its_optimizer_lies_with_it(kind):
    model = models.build(ModelConfig(kind, block_size=2, n_embd=16, n_head=4, n_hidden=12), 20)
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    tx = optimizer.build(OptimConfig())
    state = {"params": params, "opt_state": jax.eval_shape(tx.init, params), "step": tokens}
    state["step"] = jax.ShapeDtypeStruct((), np.int32)
    place = placement(fsdp=2, tensor=2)
    specs = pytree.flat(jax.tree.map(lambda place: place.spec, place.of_tree(state)))
    for path, leaf in pytree.flat(params).items():
        spec = specs[f"params/{path}"]
        same = [found for name, found in specs.items() if name.endswith(f"/{path}")]
        assert len(same) == 3 and set(same) == {spec}, path  # itself, and AdamW's two
        large = leaf.size > 4 * max(leaf.shape)
        assert large <= any(spec), f"{path} {leaf.shape} stands whole on each device"
    assert specs["step"] == PartitionSpec()


def test_each_rule_says_what_lies_where():
    place = placement(data=2, fsdp=2, tensor=3)
    for path, shape, spec in [
        ("params/token_embedding_table/embedding", (7, 12), (None, ("fsdp", "tensor"))),
        ("opt_state/0/mu/blocks_3/sa/heads/query/kernel", (3, 12, 4), ("tensor", "fsdp", None)),
        ("params/blocks_0/sa/proj/kernel", (12, 12), ("tensor", "fsdp")),
        ("params/blocks_0/ffwd/fc/kernel", (12, 48), ("fsdp", "tensor")),
        ("params/blocks_0/ffwd/proj/kernel", (48, 12), ("tensor", "fsdp")),
        ("params/blocks_0/ffwd/fc/bias", (48,), ("tensor",)),
        ("params/lm_head/kernel", (12, 7), (("fsdp", "tensor"), None)),
        ("params/blocks_0/ln1/scale", (12,), ()),
    ]:
        assert place.of_path(path, shape).spec == PartitionSpec(*spec), path


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_rows_are_split_along_the_last_axis_but_one(ndim):
    spec = placement(data=2).of_batch(ndim).spec
    assert list(spec) == [None] * (ndim - 2) + [("data", "fsdp"), None]


def test_what_has_no_rule_or_cannot_be_cut_is_refused_by_name(monkeypatch):
    place = placement(fsdp=4)
    with pytest.raises(UserError, match=r"params/router/kernel of shape \(3, 4\) has 0 rules"):
        place.of_path("params/router/kernel", (3, 4))
    with pytest.raises(UserError, match="has 1 rules"):  # it is of two axes
        place.of_path("params/lm_head/kernel", (3,))
    uneven = "params/lm_head/kernel", (10, 65)
    with pytest.raises(UserError, match=r"10 is not divisible by 4, which is mesh.fsdp x mesh.t"):
        place.of_path(*uneven)
    assert placement("whole", fsdp=4).of_path(*uneven).spec == PartitionSpec()
    monkeypatch.setattr(mesh_rules, "_RULES", mesh_rules._RULES * 2)
    with pytest.raises(UserError, match="has 2 rules"):
        place.of_path("params/lm_head/kernel", (12, 65))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 1, 1), "mesh.data=2 x mesh.fsdp=1 x mesh.tensor=1 = 2 devices, and there is 1 device"),
        ((-1, 2, 3), "1 device, which mesh.fsdp=2 x mesh.tensor=3 = 6 does not divide"),
    ],
)
def test_a_mesh_of_other_devices_than_there_are_is_refused(sizes, message):
    with pytest.raises(UserError) as caught:
        mesh_rules.make_mesh(MeshConfig(*sizes), jax.devices()[:1])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "batch_size, accumulate, parts, message",
    [
        (
            12,
            1,
            8,
            "train.accumulate=1 times the 8 parts of a batch (mesh.data x mesh.fsdp): use 16",
        ),
        (7, 3, 1, "train.accumulate=3 times the 1 part of a batch (mesh.data x mesh.fsdp): use 9"),
        (
            50,
            3,
            8,
            "train.accumulate=3 times the 8 parts of a batch (mesh.data x mesh.fsdp): use 72",
        ),
    ],
)
def test_a_batch_that_cannot_be_dealt_out_is_refused(batch_size, accumulate, parts, message):
    with pytest.raises(UserError) as caught:
        mesh_rules.check_divisible(batch_size, accumulate, parts)
    wrong = f"train.batch_size={batch_size} is not divisible by "
    assert str(caught.value) == wrong + message


@pytest.mark.parametrize("batch_size, accumulate, parts", [(48, 3, 8), (8, 1, 8), (1, 1, 1)])
def test_a_batch_that_can_is_not(batch_size, accumulate, parts):
    mesh_rules.check_divisible(batch_size, accumulate, parts)
