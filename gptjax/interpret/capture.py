"""One forward pass of any model that keeps what is inside: streams, attention, activations.

In: a model, its parameters, tokens (B, T). Out: a ``Captured`` of numpy arrays, float32, dropout
off. A GPT is computed as gpt.py has it, in float32: the quick ones keep no attention.

B batch, T time, S source time, C channels (n_embd), H heads, K head size, N layers, V vocabulary.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.models.gpt import ACTIVATIONS, GPTLanguageModel, twin
from gptjax.models.precision import Precision

# What a module's method returns is kept under the name of the module; "embed" is tok_emb + pos_emb.
_METHODS = ("__call__", "embed")
# Outputs that are kept already: of the module around them, as the logits, or as they came in.
_TWICE = ("proj", "lm_head", "Dropout_0")


class Captured(NamedTuple):
    """What a forward pass went through; None where this kind of model has no such thing.

    ``streams``: the residual stream after tok_emb + pos_emb and after each block, L = N + 1.
    ``attention``: how each head of each layer deals 1 out over the places up to its own.
    ``activations``: what each module returns, in the order of computing, by its name: "embed",
    "blocks_0/ln1", "blocks_0/sa/heads/key", "/query" and "/value" and what they gathered,
    "blocks_0/sa/heads", "blocks_0/sa", "blocks_0/ln2", "blocks_0/ffwd/fc" after its activation
    function, "blocks_0/ffwd", "blocks_0", "ln_f"; of the MLP "hidden_0" after tanh. They are
    (B, T, width), but those of heads (H, B, T, K) and the position table's (T, C).
    """

    logits_BxTxV: np.ndarray
    streams_LxBxTxC: np.ndarray | None
    attention_NxBxHxTxS: np.ndarray | None
    activations: dict[str, np.ndarray]


def capture(model: nn.Module, params: Any, x_BxT: np.ndarray) -> Captured:
    """Run ``model`` on tokens (B, T) and keep everything; one program for all of one shape.

    Of a model that looks back the logits are of all T places: the first ones lack their past.
    """
    found = _forward(plain(model), params, jnp.asarray(x_BxT, jnp.int32))
    logits, streams, attention, activations = jax.tree.map(np.asarray, found)
    return Captured(logits, streams, attention, dict(activations))


def plain(model: nn.Module) -> nn.Module:
    """The model as it is captured: a GPT as gpt.py computes it, in float32; another as it is."""
    if isinstance(model, GPTLanguageModel):
        return twin(GPTLanguageModel, model, precision=Precision())
    return model


@functools.partial(jax.jit, static_argnums=0)
def _forward(model: nn.Module, params: Any, x_BxT: jax.Array) -> tuple:
    """The fields of a ``Captured``; the activations as an OrderedDict, whose order jit keeps."""
    logits_BxTxV, state = model.apply(
        {"params": params},
        x_BxT,
        mutable="intermediates",
        capture_intermediates=lambda _, method: method in _METHODS,
    )
    kept, weights = OrderedDict(), []
    for name, value in _flat(state.get("intermediates", {})):
        *module, last = name.split("/")
        if last == "wei":  # of one head (B, T, S), or of several, stacked in front
            weights.append(value[:, None] if value.ndim == 3 else value.swapaxes(0, 1))
        elif name and last not in _TWICE:
            kept[name] = _shaped(model, last, value, x_BxT.shape)
    attention = jnp.stack(weights) if weights else None
    return logits_BxTxV.astype(jnp.float32), _streams(model, kept), attention, kept


def _streams(model: nn.Module, kept: dict[str, jax.Array]) -> jax.Array | None:
    if not isinstance(model, GPTLanguageModel):
        return None
    return jnp.stack([kept["embed"], *(kept[f"blocks_{n}"] for n in range(model.n_layer))])


def _shaped(model: nn.Module, module: str, value: jax.Array, BxT: tuple[int, int]) -> jax.Array:
    """What a module returned, after its activation function, its places as (B, T)."""
    if module == "fc":  # the feed-forward makes one axis of B and T
        return ACTIVATIONS[model.activation](value).reshape(*BxT, -1)
    return nn.tanh(value) if module.startswith("hidden_") else value


def _flat(kept: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, jax.Array]]:
    """Names and values of Flax's tree of intermediates, in the order of computing."""
    for name, value in kept.items():
        if not isinstance(value, tuple):
            yield from _flat(value, (*path, name))
        elif name != "__call__":
            yield "/".join((*path, name)), value[0]  # of its calls, and there is one
    if "__call__" in kept:  # done after all that stands in it
        yield "/".join(path), kept["__call__"][0]
