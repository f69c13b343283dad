"""Questions to a trained model, answered with values: ``look`` prints them, others may draw them.

In: a ``Run`` and words of its vocabulary. Out: probabilities, near tokens, points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.data import dataset
from gptjax.data.dataset import Split
from gptjax.data.splits import item_lines
from gptjax.errors import UserError, did_you_mean
from gptjax.evaluation import embeddings, loss_eval
from gptjax.generation.generate import prompt_ids

ON_THE_PLANE = 150  # names that a picture can hold


def next_tokens(run: Run, text: str) -> tuple[np.ndarray, np.ndarray]:
    """``loss_eval.probabilities`` of a text: what the model expects after every place of it.

    Characters may stand apart ("a b i") where a space is no token of the model's.
    """
    ids = prompt_ids(run.tokenizer, run.tokenizer.close_up(text), run.items)
    return loss_eval.probabilities(run.model, run.params, ids)


def text_split(run: Run, text: str) -> Split:
    """A text cut into rows as the run was asked about its own; UserError: nothing to predict."""
    run.require_next("score a text")
    items, tok = run.items, run.tokenizer
    if items and not item_lines(text):
        raise UserError("the text holds no item: give one a line")
    split = dataset.build({"text": text}, tok, run.model, items, run.config.window(items))["text"]
    if not split.n_predicted:
        n = len(split.tokens)
        raise UserError(f"the text has {n} token, and the first is not predicted: give at least 2")
    return split


def names(run: Run) -> list[str]:
    """What each token looks like, in the order of the ids."""
    return [run.tokenizer.token_text(i) for i in range(run.tokenizer.vocab_size)]


def table(run: Run) -> np.ndarray:
    """The model's token_embedding_table, (V, C) float64; UserError when its rows are not tokens."""
    found = np.asarray(run.params["token_embedding_table"]["embedding"], np.float64)
    if len(found) != run.tokenizer.vocab_size:
        raise UserError(
            f"the table of this {run.config.model.kind} has a row per context of "
            f"{run.config.model.block_size} tokens, {len(found):,}, and no vectors of single "
            "tokens: ask next"
        )
    return found


def find(run: Run, words: Sequence[str]) -> list[int]:
    """The ids of tokens given as text; UserError names the nearest known one."""
    known = {name: i for i, name in enumerate(names(run))}
    words = list(map(run.tokenizer.as_shown, words))
    for word in words:
        if word not in known:
            raise UserError(
                f"{word!r} is none of the model's {len(known):,} tokens"
                f"{did_you_mean(word, known, repr)}: name one {run.tokenizer.unit} of the text it "
                "was trained on"
            )
        if not run.config.predicts_next and not run.tokenizer.is_word(known[word]):
            raise UserError(f"{word!r} is no word, and this run learnt of words alone")
    return [known[word] for word in words]


def near(run: Run, word: str, n: int) -> tuple[list[tuple[str, float]], int]:
    """The n tokens whose vectors point most nearly as this one's, with cosines, of how many."""
    ids, vectors = find(run, [word]), table(run)
    return _nearest(run, vectors, vectors[ids[0]], n, ids)


def analogy(run: Run, words: Sequence[str], n: int) -> tuple[list[tuple[str, float]], int]:
    """What is to the third word as the second is to the first, with cosines, of how many."""
    ids, vectors = find(run, words), table(run)
    return _nearest(run, vectors, embeddings.analogy(vectors, *ids), n, ids)


def _nearest(
    run: Run, vectors: np.ndarray, direction: np.ndarray, n: int, asked: list[int]
) -> tuple[list[tuple[str, float]], int]:
    others = alike(run, asked)
    found = embeddings.nearest(vectors, direction, n, others)
    if not found:
        raise UserError(
            f"the model's {len(vectors)} tokens hold no other one to answer with: ask a run with a "
            "larger vocabulary"
        )
    return [(run.tokenizer.token_text(i), cosine) for i, cosine in found], len(others)


def alike(run: Run, asked: Sequence[int]) -> list[int]:
    """What may answer: any token but those asked about; to a word, words alone."""
    tok = run.tokenizer
    words = tok.has_words and all(map(tok.is_word, asked))
    return [i for i in range(tok.vocab_size) if i not in asked and (not words or tok.is_word(i))]


def plane(run: Run, words: Sequence[str]) -> tuple[np.ndarray, list[str], str]:
    """The embeddings of these tokens on a plane; without names those of the longest vectors.

    Points (N, 2), their names, and what of the embeddings is shown.
    """
    vectors, texts, ids = table(run), names(run), find(run, words)
    if not ids:  # what is rare has learnt little and stays short
        allowed = np.array(alike(run, []), int)
        length = np.linalg.norm(vectors[allowed], axis=1)
        ids = allowed[np.argsort(-length, kind="stable")][:ON_THE_PLANE].tolist()
    points, kept = embeddings.plane(vectors[ids])
    how = "the embedding itself" if vectors.shape[1] == 2 else f"PCA, {kept:.0%} of the variance"
    return points, [texts[i] for i in ids], how
