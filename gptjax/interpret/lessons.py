"""What three lessons are computed from: a head's queries and keys, logits, and the noise of draws.

In: a run and a few tokens. Out: a ``Lesson``, numpy. From q and k follow the scores, the mask and
the softmax; from logits and noise what temperature does: the page computes these as it is asked.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.config.schema import ATTENTION_MODELS
from gptjax.data.dataset import LONGEST_SLIDING_ROW
from gptjax.generation.generate import prompt_ids, row_keys
from gptjax.interpret import capture

PLACES = 12  # tokens of a lesson: its matrices can be read cell by cell
WIDEST = 256  # places of a pass
SEEDS = (0, 1, 2)  # of the draws that are shown
LAYER, HEAD = 0, 0  # the head that is shown


class Lesson(NamedTuple):
    """What a model makes of a few tokens ``ids_T``.

    ``logits_V``: of what comes after them. ``noise_SxV``: of each of ``SEEDS``, what a draw adds to
    the logits before it takes the largest. ``q_TxK``, ``k_TxK``: of one head, None without any.
    """

    ids_T: np.ndarray
    logits_V: np.ndarray
    noise_SxV: np.ndarray
    q_TxK: np.ndarray | None = None
    k_TxK: np.ndarray | None = None


def lesson(run: Run, text: str) -> Lesson:
    """Ask a run about the first ``PLACES`` tokens of a text, an item: of its first line.

    UserError: a token that the run does not know.
    """
    ids_T, model, kind = first_tokens(run, text), run.model, run.config.model.kind
    T = len(ids_T)
    # As wide as a row of the text panel, so that both are one program; not a long block, whose
    # attention would be large. The places after T are filled up: none before them sees that.
    long = model.slides or model.block_size > WIDEST
    width = LONGEST_SLIDING_ROW + model.lookback if long else model.block_size
    found = capture.capture(model, run.params, np.pad(ids_T, (0, width - T))[None])
    logits_V = found.logits_BxTxV[0, T - 1]
    noise = np.asarray(_noise_program()(jnp.array(SEEDS), jnp.int32(T), len(logits_V)))
    if kind not in ATTENTION_MODELS:
        return Lesson(ids_T, logits_V, noise)
    q_TxK, k_TxK = (_of_one_head(kind, found.activations, name)[:T] for name in ("query", "key"))
    return Lesson(ids_T, logits_V, noise, q_TxK, k_TxK)


def first_tokens(run: Run, text: str) -> np.ndarray:
    """The tokens of a lesson, (T,) int32: at most ``PLACES``, and no more than the model reads."""
    if run.items:
        text = next(filter(None, text.splitlines()), "")
    n = PLACES if run.model.slides else min(PLACES, run.model.block_size)
    # A long text need not be encoded for a dozen tokens.
    return prompt_ids(run.tokenizer, text[: 40 * PLACES], run.items)[:n]


def _of_one_head(kind: str, activations: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What the linear map ``name`` of the head that is shown gave, (width, K)."""
    if kind == "head":
        return activations[f"sa/{name}"][0]
    block = f"blocks_{LAYER}/" if kind == "gpt" else ""
    return activations[f"{block}sa/heads/{name}"][HEAD, 0]


@functools.cache
def _noise_program():
    # It runs once: on a CPU, optimising it would take most of a second, for the same draws.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(_noise, static_argnums=2, compiler_options=quick)


def _noise(seed_S: jax.Array, place: jax.Array, V: int) -> jax.Array:
    """The Gumbel numbers (S, V) that ``sampling.draw`` adds at a place of texts of these seeds.

    The largest of logits + noise is a draw from softmax(logits).
    """

    def of_one(seed):
        key = row_keys(jax.random.key(seed), 1, 1)[0]
        return jax.random.gumbel(jax.random.fold_in(key, place), (V,), jnp.float32)

    return jax.vmap(of_one)(seed_S)
