"""The one product of the GPT: inputs of the compute dtype, sums in float32, forward and backward.

In: two arrays. Out: their product in ``storage``. In float32 it is ``lax.dot_general`` and nothing
else. Parameters, softmax, LayerNorm and losses are float32 whatever stands here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtype that products read, and that of what stands between them."""

    compute: str = "float32"
    storage: str = "float32"

    def dense(self, x, kernel_CxF, _=None, precision=None, **__) -> jax.Array:
        """x (..., C) times a kernel (C, F), float32: the ``dot_general`` of a ``nn.Dense``."""
        if self.compute == "float32":
            axes = (((x.ndim - 1,), (0,)), ((), ()))
            return lax.dot_general(x, kernel_CxF, axes, precision=precision)
        x_MxC = x.reshape(-1, x.shape[-1])
        return _dense(self, x_MxC, kernel_CxF).reshape(*x.shape[:-1], -1)

    def matmul(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """a @ b: (..., M, N) times (..., N, P); a gradient wants the same leading axes of both."""
        return a @ b if self.compute == "float32" else _matmul(self, a, b)

    def read(self, x: jax.Array) -> jax.Array:
        """x as a product reads it."""
        return x if x.dtype == self.compute else x.astype(self.compute)

    def store(self, x: jax.Array) -> jax.Array:
        """x as it is kept until it is read again."""
        return x if x.dtype == self.storage else x.astype(self.storage)


def dot(precision: Precision, a, b, contract, batch=((), ())) -> jax.Array:
    """``lax.dot_general`` of a and b in the compute dtype, the sums in float32."""
    a, b = precision.read(a), precision.read(b)
    return lax.dot_general(a, b, (contract, batch), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(precision, x_MxC, w_CxF):
    return dot(precision, x_MxC, w_CxF, ((1,), (0,))).astype(precision.storage)


def _dense_forward(precision, x_MxC, w_CxF):
    kept = (precision.read(x_MxC), w_CxF, jnp.zeros((), x_MxC.dtype))
    return _dense(precision, x_MxC, w_CxF), kept


def _dense_backward(precision, kept, g_MxF):
    x_MxC, w_CxF, like = kept
    g_MxF = precision.read(g_MxF)
    dx_MxC = dot(precision, g_MxF, w_CxF, ((1,), (1,)))
    of_weights = functools.partial(_weight_gradient, precision)
    dw_CxF = lax.platform_dependent(x_MxC, g_MxF, cpu=_by_transpose(precision), default=of_weights)
    return dx_MxC.astype(like.dtype), dw_CxF.astype(w_CxF.dtype)


_dense.defvjp(_dense_forward, _dense_backward)


def _weight_gradient(precision, x_MxC, g_MxF):
    return dot(precision, x_MxC, g_MxF, ((0,), (0,)))


def _by_transpose(precision):
    """xᵀ g with xᵀ written out: XLA's CPU kernel reads a transposed bfloat16 at half its speed."""

    def product(x_MxC, g_MxF):
        M, C = x_MxC.shape
        n = next((n for n in (16, 8, 4, 2) if M % n == 0), 1)
        # In three axes it is a copy; a transpose of two would be folded into the product again.
        x_CxnxM = lax.optimization_barrier(x_MxC.reshape(M // n, n, C).transpose(2, 0, 1))
        return dot(precision, x_CxnxM.reshape(C, M), g_MxF, ((1,), (0,)))

    return product


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(precision, a, b):
    a, b = precision.read(a), precision.read(b)
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(precision.storage)


def _matmul_forward(precision, a, b):
    kept = (precision.read(a), precision.read(b), jnp.zeros((), a.dtype), jnp.zeros((), b.dtype))
    return _matmul(precision, a, b), kept


def _matmul_backward(precision, kept, g):
    a, b, like_a, like_b = kept
    da, db = _matmul(precision, g, b.swapaxes(-2, -1)), _matmul(precision, a.swapaxes(-2, -1), g)
    return da.astype(like_a.dtype), db.astype(like_b.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)
