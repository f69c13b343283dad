"""How likely a model found each token of a text, and which others it found likelier.

In: a run, and a text as tokens. Out: ln P in nats, as the notes have it: the whole context through
the model, past block_size the last block_size tokens anew for each place. A place gives the same
numbers whatever follows it: the program and its shapes are the same.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.errors import UserError
from gptjax.runtime.pace import pieces

MOST_ALTERNATIVES = 5
SLIDE = 64  # places of one call of a model that takes texts of any length


class Score(NamedTuple):
    """Of one token: ln P (nats), and the likeliest ones at its place, as (id, ln P)."""

    log_prob: float
    likeliest: list[tuple[int, float]]


def scores(run: Run, ids_T: np.ndarray, begin: int, end: int) -> Iterator[list[Score]]:
    """The ``Score`` of tokens begin (>= 1) to end of a text, half a second's worth at a time.

    UserError: logits that are not finite.
    """
    W = run.model.block_size
    N = W + SLIDE - 1 if run.model.slides else W
    # Windows begin ``step`` apart: one for each place, unless a model slides.
    place_P = np.arange(begin - 1, end - 1)
    at_P = np.maximum(place_P - (W - 1), 0) // (N - W + 1) * (N - W + 1)
    calls = np.unique(at_P)
    for first, last in pieces(len(calls), 1, len(calls)):
        found: list[Score] = []
        for at in calls[first:last]:
            x_N, came_N = np.zeros(N, np.int32), np.zeros(N, np.int32)
            x, came = ids_T[at : at + N], ids_T[at + 1 : at + 1 + N]
            x_N[: len(x)], came_N[: len(came)] = x, came
            asked = place_P[at_P == at] - at
            log_p_N, top_NxK, id_NxK = jax.device_get(_ask(run.model, run.params, x_N, came_N))
            if not np.isfinite(log_p_N[asked]).all():
                raise UserError("the logits are not finite: the parameters are damaged")
            for i in asked:
                top = zip(id_NxK[i].tolist(), top_NxK[i].tolist(), strict=True)
                found.append(Score(float(log_p_N[i]), list(top)))
        yield found


@functools.partial(jax.jit, static_argnums=0)
def _ask(model: Any, params: Any, x_N: jax.Array, came_N: jax.Array) -> Any:
    """ln P of what came after each place (N,), and the likeliest ln P and ids there (N, K)."""
    logits_NxV = model.apply({"params": params}, x_N[None])[0].astype(jnp.float32)
    log_p_NxV = jax.nn.log_softmax(logits_NxV)
    top_NxK, id_NxK = jax.lax.top_k(log_p_NxV, min(MOST_ALTERNATIVES, log_p_NxV.shape[1]))
    return jnp.take_along_axis(log_p_NxV, came_N[:, None], axis=1)[:, 0], top_NxK, id_NxK
