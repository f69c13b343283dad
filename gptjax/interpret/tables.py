"""What a run's tables know: vectors on a plane, their neighbours, places, what follows a token.

In: a ``Run``, and the ids of the tokens to show. Out: numpy arrays. A vocabulary may be too large
for one picture: ``shown`` and ``paired`` choose from it.

K tokens shown, V vocabulary, C channels, T places.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.checkpoints import pytree
from gptjax.checkpoints.run import Run
from gptjax.data.dataset import Split
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.evaluation import count_models, embeddings, probe
from gptjax.evaluation.loss_eval import softmax
from gptjax.interpret.capture import plain
from gptjax.models.mlp import MLPLanguageModel
from gptjax.models.ngram import NGramLanguageModel

ON_PLANE, IN_TABLE, PLACES, NEAREST = 500, 96, 64, 10
FEWEST, PRODUCTS = 50, 1e10  # on a plane; multiplications that finding neighbours may take
LARGEST_WINDOW = 2**15  # numbers of a model of windows that a page can hold: 128 KB


class Near(NamedTuple):
    """Of K tokens the nearest others: ids and cosines (K, n), the nearest first."""

    ids: np.ndarray
    cosines: np.ndarray


class Counts(NamedTuple):
    """How often pairs of K tokens came in the training split, and what that is a part of.

    ``pairs`` (K, K): row then column; ``first`` (K,): the row's token before any token. The count
    bigram of ``evaluation.baselines`` is (pairs + add) / (first + add · V).
    """

    pairs: np.ndarray
    first: np.ndarray
    add: float


class Followers(NamedTuple):
    """P(next | one token and nothing before it), of the model and of the count bigram.

    ``p_RxK``: row tokens ``ids_R``, then ``ids_K``. ``counted_RxK``: None without a corpus. Rows do
    not add up to 1 where the vocabulary has other tokens than these K.
    """

    ids_R: np.ndarray
    ids_K: np.ndarray
    p_RxK: np.ndarray
    counted_RxK: np.ndarray | None


def frequent(
    tok: Tokenizer, splits: Mapping[str, Split] | None, among: list[int], n: int
) -> np.ndarray:
    """The n most frequent of some tokens in the train split, that first, (K,).

    Where the corpus is not there, the first of them. All as they are, where there are at most n.
    """
    ids = np.asarray(among, np.int64)
    if len(ids) <= n or splits is None:
        return ids[:n]
    counts = count_models.token_counts(splits["train"].tokens, tok.vocab_size)
    return ids[np.argsort(-counts[ids], kind="stable")[:n]]


def shown(run: Run, splits: Mapping[str, Split] | None) -> np.ndarray:
    """The ids of tokens for a plane, at most ``ON_PLANE``; of a word vocabulary words alone."""
    V, C = run.tokenizer.vocab_size, getattr(run.model, "n_embd", run.tokenizer.vocab_size)
    most = min(ON_PLANE, max(FEWEST, int(PRODUCTS / (V * C))))
    return frequent(run.tokenizer, splits, probe.alike(run, []), most)


def paired(run: Run, splits: Mapping[str, Split] | None) -> np.ndarray:
    """The ids of tokens for a table of pairs, at most ``IN_TABLE``, rising."""
    every = list(range(run.tokenizer.vocab_size))
    return np.sort(frequent(run.tokenizer, splits, every, IN_TABLE))


def nearest(run: Run, ids_K: np.ndarray, n: int = NEAREST) -> Near:
    """``probe.near`` of each of the tokens, among all that may answer."""
    table = probe.table(run)
    lengths = np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-30)
    unit, among = table / lengths, np.asarray(probe.alike(run, []), np.int64)
    n = min(n, len(among) - 1)
    if n < 1:
        return Near(np.zeros((len(ids_K), 0), np.int64), np.zeros((len(ids_K), 0)))
    quick, found = unit.astype(np.float32), []
    for part in np.array_split(ids_K, -(-len(ids_K) // 64)):
        cosines = quick[part] @ quick[among].T  # which they are; what they are, in float64
        cosines[part[:, None] == among] = -np.inf
        few = among[np.argpartition(-cosines, n - 1, axis=1)[:, :n]]
        exact = np.einsum("kc,knc->kn", unit[part], unit[few])
        order = np.lexsort((few, -exact), axis=1)
        found.append([np.take_along_axis(a, order, axis=1) for a in (few, exact)])
    return Near(*(np.concatenate(both) for both in zip(*found, strict=True)))


def positions(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """(places, cosines of their vectors (P, P)): every one, or evenly at most ``PLACES`` of T.

    None where a model has no position embeddings, or one alone.
    """
    found = run.params.get("position_embedding_table")
    if found is None or len(found["embedding"]) < 2:
        return None
    table = np.asarray(found["embedding"], np.float64)
    places = np.arange(0, len(table), -(-len(table) // PLACES))
    unit = table[places] / np.maximum(np.linalg.norm(table[places], axis=1, keepdims=True), 1e-30)
    return places, np.clip(unit @ unit.T, -1, 1)


def after_each(run: Run, ids_K: np.ndarray) -> np.ndarray | None:
    """P(next | one token and nothing before it), (K, K) of these tokens; None: it asks for more.

    Rows do not sum to 1 where the vocabulary has other tokens. A bigram is asked for its table.
    """
    if not run.config.predicts_next or (has_window(run) and run.model.block_size > 1):
        return None
    logits_KxV = np.asarray(_single(plain(run.model), run.params, jnp.asarray(ids_K, jnp.int32)))
    return softmax(logits_KxV)[:, ids_K]


@functools.partial(jax.jit, static_argnums=0)
def _single(model: nn.Module, params: Any, ids_K: jax.Array) -> jax.Array:
    return model.apply({"params": params}, ids_K[:, None])[:, 0].astype(jnp.float32)


def counts(splits: Mapping[str, Split], vocab_size: int, ids_K: np.ndarray) -> Counts:
    """The pairs of these tokens in the train split."""
    bigram = count_models.count_bigram(*splits["train"].pairs(), vocab_size)
    cells = ids_K[:, None] * vocab_size + ids_K
    at = np.minimum(np.searchsorted(bigram.pairs, cells), len(bigram.pairs) - 1)
    pairs = np.where(bigram.pairs[at] == cells, bigram.n_pairs[at], 0)
    return Counts(pairs, bigram.n_first[ids_K], bigram.add)


def followers(
    run: Run, splits: Mapping[str, Split] | None, words: Sequence[str] = (), n: int = 0
) -> Followers:
    """What comes after each of these tokens alone, and how often it did in the train split.

    Without ``words`` after the n most frequent (``IN_TABLE`` at most, also where n is 0);
    what may follow are these. Raises:
      UserError: an unknown token, or a model that looks at more than one.
    """
    asked, V = probe.find(run, words), run.tokenizer.vocab_size
    run.require_next("say what follows a token")
    common = frequent(run.tokenizer, splits, list(range(V)), n or IN_TABLE)
    ids_K = np.union1d(common, np.array(asked, np.int64))
    p_KxK = after_each(run, ids_K)
    if p_KxK is None:
        kind, size = run.config.model.kind, run.model.block_size
        raise UserError(f"this {kind} looks at {size} tokens, and has no table of pairs: ask next")
    at_R = np.searchsorted(ids_K, asked) if asked else np.arange(len(ids_K))
    if splits is None:
        return Followers(ids_K[at_R], ids_K, p_KxK[at_R], None)
    pairs, first, add = counts(splits, V, ids_K)
    counted = (pairs + add) / (first[:, None] + add * V)
    return Followers(ids_K[at_R], ids_K, p_KxK[at_R], counted[at_R])


def plane(run: Run, ids_K: np.ndarray) -> tuple[np.ndarray, float]:
    """``embeddings.plane`` of these tokens' vectors: points (K, 2), the part of the variance."""
    return embeddings.plane(probe.table(run)[ids_K])


def has_window(run: Run) -> bool:
    """Whether it looks at the last few tokens, whatever stands before them: an MLP, an n-gram."""
    of_windows = isinstance(run.model, (MLPLanguageModel, NGramLanguageModel))
    return of_windows and run.config.predicts_next


def window(run: Run) -> dict[str, np.ndarray] | None:
    """The parameters of a model of windows, small enough to be computed anywhere, by name.

    Of the MLP all of them; of an n-gram the probabilities (V^block_size, V). None: another model,
    or more than ``LARGEST_WINDOW`` numbers.
    """
    if not has_window(run) or run.n_parameters > LARGEST_WINDOW:
        return None
    if isinstance(run.model, NGramLanguageModel):
        return {"table": softmax(np.asarray(run.params["token_embedding_table"]["embedding"]))}
    return {name: np.asarray(leaf) for name, leaf in pytree.flat(run.params).items()}


def has_vectors(run: Run) -> bool:
    """Whether each token has a vector: a table of longer contexts has none."""
    try:
        probe.table(run)
    except UserError:
        return False
    return True
