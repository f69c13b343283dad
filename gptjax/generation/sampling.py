"""What stands between a model's logits and the draw: small rules, applied one after the other.

In: logits (B, V) float32, and ``seen_BxV``, True for tokens that the row holds. Out: logits (B, V),
-inf where a token must not come. Their numbers are data: another temperature compiles nothing.
"""

import numbers
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from gptjax.config.schema import MOST_FLOAT
from gptjax.errors import UserError

Number = Any  # a Python number when made, a traced scalar inside a compiled function
Rule = Callable[[jax.Array, jax.Array], jax.Array]


def _check(name: str, good: Callable[[Number], bool], must: str) -> Callable[[Any], None]:
    """A ``__post_init__`` that refuses the one number of a rule where it is not ``good``."""

    def check(rule):
        value, _ = vars(rule).values()
        # Inside jit the value is a tracer (or another stand-in), checked before it became one.
        if isinstance(value, numbers.Real) and not (abs(value) <= MOST_FLOAT and good(value)):
            raise UserError(f"{name}={value} must be {must}")

    return check


def _name(name: str) -> str:
    """A rule's name, as a part of its structure and not of its data.

    JAX (0.10, 0.12) takes the structures of two dataclasses with as many fields for equal, and
    once in a hundred times jit would run the program of another rule. A name keeps them apart.
    """
    return flax.struct.field(pytree_node=False, default=name)


def _rank(logits_BxV: jax.Array) -> jax.Array:
    """0 for the likeliest token, V - 1 for the least; equal ones in order of their ids."""
    order = jnp.argsort(-logits_BxV, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1)


@flax.struct.dataclass
class Temperature:
    """logits / value; 0 keeps the likeliest token alone (greedy). Source: page 1, section 10."""

    value: Number = 1.0
    name: str = _name("Temperature")
    __post_init__ = _check("temperature", lambda v: v >= 0, f"0 (likeliest token) to {MOST_FLOAT}")

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
    name: str = _name("TopK")
    _must = "a whole number, 1 or more (and below 2**31)"
    __post_init__ = _check("top_k", lambda k: 1 <= k < 2**31 and k == int(k), _must)

    def __call__(self, logits_BxV, seen_BxV):
        return jnp.where(_rank(logits_BxV) < self.k, logits_BxV, -jnp.inf)


@flax.struct.dataclass
class TopP:
    """Keep the fewest likeliest tokens that together reach probability p. Source: page 1."""

    p: Number
    name: str = _name("TopP")
    __post_init__ = _check("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")

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
    name: str = _name("MinP")
    __post_init__ = _check("min_p", lambda p: 0 <= p <= 1, "0 to 1")

    def __call__(self, logits_BxV, seen_BxV):
        top = logits_BxV.max(axis=-1, keepdims=True)
        gap = jnp.log(self.p)  # of 0: all are within it
        return jnp.where(logits_BxV >= top + gap, logits_BxV, -jnp.inf)


@flax.struct.dataclass
class RepetitionPenalty:
    """Divide the logit of a token that the row holds by r; a negative one times r. CTRL, 2019."""

    r: Number
    name: str = _name("RepetitionPenalty")
    __post_init__ = _check("repetition_penalty", lambda r: r > 0, "above 0 (1 changes nothing)")

    def __call__(self, logits_BxV, seen_BxV):
        less = jnp.where(logits_BxV > 0, logits_BxV / self.r, logits_BxV * self.r)
        return jnp.where(seen_BxV, less, logits_BxV)


@flax.struct.dataclass
class Chain:
    """Several rules, first to last. Without any it is the model's own distribution."""

    parts: tuple[Rule, ...] = ()

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

    UserError for a value out of its range.
    """
    rules: Any = (RepetitionPenalty, Temperature, TopK, TopP, MinP)
    values = (repetition_penalty, temperature, top_k, top_p, min_p)
    given = [(rule, value) for rule, value in zip(rules, values, strict=True) if value is not None]
    # Of one dtype, so that another number compiles nothing: floats, but for k.
    return Chain(tuple(rule(value if rule is TopK else float(value)) for rule, value in given))


def draw(key_B: jax.Array, place_B: jax.Array, logits_BxV: jax.Array) -> jax.Array:
    """A token per row from softmax(logits), int32 (B,), by its key and place in the text alone."""
    each = jax.vmap(jax.random.fold_in)(key_B, place_B)
    return jax.vmap(jax.random.categorical)(each, logits_BxV).astype(jnp.int32)
