"""What stands between a model's logits and the draw: small rules, applied one after the other.

In: logits (B, V), and which tokens each row holds already. Out: logits (B, V), in which a token
that must not come is -inf. Their numbers are data, not code: another temperature compiles nothing.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from gptjax.errors import UserError

Number = Any  # a Python number when made, a traced scalar inside a compiled function


class Sampler(Protocol):
    """A rule over logits."""

    def __call__(self, logits_BxV: jax.Array, seen_BxV: jax.Array) -> jax.Array:
        """Change logits (B, V) float32; ``seen_BxV`` is True for tokens that the row holds."""


def _check(name: str, value: Number, good: Callable[[Number], bool], must: str) -> None:
    # Inside jit the value is a tracer (or another stand-in), checked before it became one.
    if isinstance(value, numbers.Real) and not (math.isfinite(value) and good(value)):
        raise UserError(f"{name}={value} must be {must}")


def _rank(logits_BxV: jax.Array) -> jax.Array:
    """0 for the likeliest token, V - 1 for the least; equal ones in order of their ids."""
    order = jnp.argsort(-logits_BxV, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1)


@flax.struct.dataclass
class Temperature:
    """logits / value; 0 keeps the likeliest token alone (greedy). Source: page 1, section 10."""

    value: Number = 1.0

    def __post_init__(self):
        _check("temperature", self.value, lambda v: v >= 0, "0 (likeliest token) or more")

    def __call__(self, logits_BxV, seen_BxV):
        likeliest_B = logits_BxV.argmax(axis=-1)  # the first of equals
        is_likeliest = jnp.arange(logits_BxV.shape[-1]) == likeliest_B[:, None]
        greedy = jnp.where(is_likeliest, 0.0, -jnp.inf)
        # Dividing by less than this could overflow, and draws the likeliest token anyway.
        divides = self.value > 1e-7
        return jnp.where(divides, logits_BxV / jnp.where(divides, self.value, 1.0), greedy)


@flax.struct.dataclass
class TopK:
    """Keep the k likeliest tokens. Source: page 1, "Top-K Filtering"."""

    k: Number

    def __post_init__(self):
        whole = "a whole number, 1 or more (and below 2**31)"
        _check("top_k", self.k, lambda k: 1 <= k < 2**31 and k == int(k), whole)

    def __call__(self, logits_BxV, seen_BxV):
        return jnp.where(_rank(logits_BxV) < self.k, logits_BxV, -jnp.inf)


@flax.struct.dataclass
class TopP:
    """Keep the fewest likeliest tokens that together reach probability p. Source: page 1."""

    p: Number

    def __post_init__(self):
        _check("top_p", self.p, lambda p: 0 < p <= 1, "above 0 and at most 1")

    def __call__(self, logits_BxV, seen_BxV):
        rank = _rank(logits_BxV)
        falling = -jnp.sort(-jax.nn.softmax(logits_BxV), axis=-1)
        before = jnp.cumsum(falling, axis=-1) - falling
        # p = 1 keeps all: the sum may reach 1 early, in float32, with tokens still to come.
        keep = (jnp.take_along_axis(before, rank, axis=-1) < self.p) | (rank == 0) | (self.p >= 1)
        return jnp.where(keep, logits_BxV, -jnp.inf)


@flax.struct.dataclass
class MinP:
    """Keep the tokens at least p times as likely as the likeliest. Source: Nguyen et al. 2024."""

    p: Number

    def __post_init__(self):
        _check("min_p", self.p, lambda p: 0 <= p <= 1, "0 to 1")

    def __call__(self, logits_BxV, seen_BxV):
        gap = jnp.log(jnp.maximum(self.p, 1e-30))
        top = logits_BxV.max(axis=-1, keepdims=True)
        return jnp.where(logits_BxV >= top + gap, logits_BxV, -jnp.inf)


@flax.struct.dataclass
class RepetitionPenalty:
    """Divide the logit of a token that stands in the text by r, multiply if it is negative.

    Source: Keskar et al. 2019 (CTRL).
    """

    r: Number

    def __post_init__(self):
        _check("repetition_penalty", self.r, lambda r: r > 0, "above 0 (1 changes nothing)")

    def __call__(self, logits_BxV, seen_BxV):
        less = jnp.where(logits_BxV > 0, logits_BxV / self.r, logits_BxV * self.r)
        return jnp.where(seen_BxV, less, logits_BxV)


@flax.struct.dataclass
class Chain:
    """Several samplers, first to last. Without any it is the model's own distribution."""

    parts: tuple[Sampler, ...] = ()

    def __call__(self, logits_BxV, seen_BxV):
        for part in self.parts:
            logits_BxV = part(logits_BxV, seen_BxV)
        return logits_BxV

    @property
    def reads_past(self) -> bool:
        """Whether a part looks at ``seen_BxV``."""
        return any(isinstance(part, RepetitionPenalty) for part in self.parts)


def build(
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Chain:
    """The usual order: penalty, temperature, top-k, top-p, min-p; what is None is left out.

    Raises:
      UserError: a value out of its range.
    """
    parts: list[Sampler] = []
    if repetition_penalty is not None:
        parts.append(RepetitionPenalty(float(repetition_penalty)))
    parts.append(Temperature(float(temperature)))
    if top_k is not None:
        parts.append(TopK(top_k))
    if top_p is not None:
        parts.append(TopP(float(top_p)))
    if min_p is not None:
        parts.append(MinP(float(min_p)))
    return Chain(tuple(parts))
