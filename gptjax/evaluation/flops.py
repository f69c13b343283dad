"""How much arithmetic a model needs: the floating point operations of its matrix products.

In: a model. Out: FLOPs per token, counted in the program JAX traces; nothing is computed.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


@functools.lru_cache(maxsize=4)  # traced once: whoever asks anew waits a sixth of a second
def forward_flops_per_token(model: nn.Module) -> float:
    """FLOPs of predicting one token, the attention over a row of block_size tokens included.

    2 · M · N · K per (M, K) x (K, N) product, over the tokens of the row. A lookup costs none.
    """
    x_1xT = jax.ShapeDtypeStruct((1, model.block_size), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))  # the devices of a mesh may not be here
    jaxpr = jax.make_jaxpr(model.init_with_output)(key, x_1xT)  # traced once
    return product_flops(jaxpr.jaxpr) / model.block_size


def training_flops_per_token(model: nn.Module) -> float:
    """Three times the forward pass: each product has two more in the backward pass."""
    return 3 * forward_flops_per_token(model)


def product_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products of a jaxpr, those inside its loops and calls included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(left[axis] for axis in contracted)
        if equation.primitive.name == "cond":  # one of them is run: the costliest
            total += max(product_flops(branch.jaxpr) for branch in equation.params["branches"])
            continue
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "shard_map":  # in it stands what one part of its axes does
            mesh, axes = equation.params["mesh"], equation.params.get("newly_manual_axes")
            axes = axes or equation.params["manual_axes"]  # so older JAX calls them
            times = math.prod(mesh.shape[axis] for axis in axes)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * product_flops(inner)
    return total
