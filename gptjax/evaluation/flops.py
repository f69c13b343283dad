"""How much arithmetic a model needs: the floating point operations of its matrix products.

In: a model. Out: FLOPs per token, counted in the program JAX traces, so that no formula can fall
behind the model. Nothing is computed and nothing compiled.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def forward_flops_per_token(model: nn.Module, tokens: int | None = None) -> float:
    """FLOPs of predicting one token, the attention over the whole row included.

    Args:
      model: any of the models.
      tokens: length of a row; None is the model's block_size.

    Returns:
      2 · M · N · K per (M, K) x (K, N) product, over the tokens of the row. A lookup costs none: a
      table of bigrams needs 0.
    """
    T = tokens or model.block_size
    x_1xT = jax.ShapeDtypeStruct((1, T), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x_1xT)
    jaxpr = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, x_1xT)
    return product_flops(jaxpr.jaxpr) / T


def training_flops_per_token(model: nn.Module, tokens: int | None = None) -> float:
    """Three times the forward pass: each product has two more in the backward pass."""
    return 3 * forward_flops_per_token(model, tokens)


def product_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products of a jaxpr, those inside its loops and calls included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(left[axis] for axis in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += times * product_flops(getattr(inner, "jaxpr", inner))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")
