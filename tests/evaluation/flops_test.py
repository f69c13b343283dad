"""FLOPs are those of the matrix products, counted by hand."""

import functools

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.config.schema import ModelConfig
from gptjax.evaluation import flops


def test_flops_are_those_of_the_matrix_products():
    C, T, V, N, H = 12, 7, 13, 2, 3
    gpt = models.build(ModelConfig("gpt", block_size=T, n_layer=N, n_head=H, n_embd=C), V)
    # Per layer 12 C² weights, twice, and q kᵀ and wei v over T places; then the head.
    expected = N * (2 * 12 * C * C + 2 * 2 * T * C) + 2 * C * V
    assert flops.forward_flops_per_token(gpt) == expected
    assert flops.training_flops_per_token(gpt) == 3 * expected
    assert flops.forward_flops_per_token(models.build(ModelConfig("bigram"), V)) == 0
    mlp = ModelConfig("mlp", block_size=3, n_embd=10, n_layer=1, n_hidden=200)
    assert flops.forward_flops_per_token(models.build(mlp, 27)) == 2 * (30 * 200 + 200 * 27)


def test_flops_are_those_of_xla_where_products_are_most_of_the_work():
    V, C, T, N, B = 23, 96, 40, 2, 3
    gpt = models.build(ModelConfig("gpt", block_size=T, n_layer=N, n_head=4, n_embd=C), V)
    x_BxT = jnp.zeros((B, T), jnp.int32)
    params = gpt.init(jax.random.key(0), x_BxT)["params"]

    def nats(params, x_BxT):
        return jax.nn.log_softmax(gpt.apply({"params": params}, x_BxT)).sum()

    for program, counted in (
        (nats, flops.forward_flops_per_token(gpt)),
        (jax.value_and_grad(nats), flops.training_flops_per_token(gpt)),
    ):
        xla = jax.jit(program).lower(params, x_BxT).compile().cost_analysis()["flops"]
        # XLA counts additions too; what training needs no product for is the input's gradient.
        assert 0.98 < xla / (B * T * counted) < 1.06


def test_flops_inside_a_loop_count_each_time():
    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]

    jaxpr = jax.make_jaxpr(loop)(jnp.ones((4, 4)))
    assert flops.product_flops(jaxpr.jaxpr) == 5 * 2 * 4**3


def test_flops_inside_calls_and_branches_count():
    def inside(x):
        y = jax.jit(lambda x: x @ x)(x)
        return jax.lax.cond(y.sum() > 0, lambda y: y @ y @ y, lambda y: y, y)

    jaxpr = jax.make_jaxpr(inside)(jnp.ones((4, 4)))
    assert flops.product_flops(jaxpr.jaxpr) == 3 * 2 * 4**3


def test_one_branch_is_run_and_each_device_does_its_share():
    x, wide = jnp.zeros((8, 6)), jnp.zeros((6, 5))
    product = 2 * 8 * 6 * 5

    def one_of_two(i, x):
        return jax.lax.cond(i, lambda x: x @ wide, lambda x: x @ wide @ wide.T @ wide, x)

    assert flops.product_flops(jax.make_jaxpr(one_of_two)(True, x).jaxpr) == 3 * product
    auto, rows = (jax.sharding.AxisType.Auto,), jax.sharding.PartitionSpec("data")
    mesh = jax.sharding.AbstractMesh((4, 5), ("data", "tensor"), axis_types=2 * auto)
    in_one = functools.partial(jax.shard_map, check_vma=False)
    by_rows = functools.partial(in_one, in_specs=rows, out_specs=rows, mesh=mesh)
    shared = by_rows(lambda x: x @ wide, axis_names={"data"})  # tensor is left to the compiler
    assert flops.product_flops(jax.make_jaxpr(shared)(x).jaxpr) == product

    def nested(x):
        whole, columns = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(None, "tensor")
        return in_one(jnp.matmul, in_specs=(whole, columns), out_specs=columns)(x, wide)

    shared = by_rows(nested, axis_names={"data"})
    assert flops.product_flops(jax.make_jaxpr(shared)(x).jaxpr) == product
