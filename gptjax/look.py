"""Ask a trained model what it knows.

    python -m gptjax.look --workdir=runs/mlp-names next "a b i"
    python -m gptjax.look --workdir=runs/gpt-small next "ROMEO" --every_position
    python -m gptjax.look --workdir=runs/word2vec near king
    python -m gptjax.look --workdir=runs/word2vec analogy man king woman
    python -m gptjax.look --workdir=runs/mlp-names plane

In: a work folder and a question. Out: next - the probabilities of the next token as bars; near -
the tokens whose embeddings point the same way; analogy A B C - what is to C as B is to A; plane -
a picture of the embeddings, of all tokens or of those named.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.evaluation import embeddings as neighbours
from gptjax.generation import generate as continuation
from gptjax.monitoring import plots as plot
from gptjax.monitoring.console import Terminal, shown

BAR = 40  # columns of the longest bar
ON_THE_PLANE = 150  # names that a picture can hold


def probabilities(run: Run, ids_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the model expects behind every place, as the notes have it: all places at once.

    Args:
      run: a trained model.
      ids_T: the context.

    Returns:
      The part of the context that the model looked at, (S,), and softmax(logits), (S, V) float64.
    """
    seen = ids_T if run.model.slides else ids_T[-run.model.block_size :]
    apply = jax.jit(functools.partial(run.model.apply, train=False))
    logits = np.asarray(apply({"params": run.params}, seen[None].astype(np.int32)))[0]
    p = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return seen, p / p.sum(axis=1, keepdims=True)


def context_ids(run: Run, text: str) -> np.ndarray:
    """The ids of a context, behind the start of an item or of a text that has not begun.

    Characters may stand apart ("a b i") where a space is no token of the model's.
    """
    if run.config.tokenizer.kind == "char" and " " not in names(run):
        text = text.replace(" ", "")
    return continuation.prompt_ids(run.tokenizer, text, run.items)


def names(run: Run) -> list[str]:
    """What each token looks like, in the order of the ids."""
    return [run.tokenizer.token_text(i) for i in range(run.tokenizer.vocab_size)]


def embeddings(run: Run) -> np.ndarray:
    """The model's token_embedding_table, (V, C); UserError when its rows are not tokens."""
    table = np.asarray(run.params["token_embedding_table"]["embedding"], np.float64)
    if len(table) != run.tokenizer.vocab_size:
        raise UserError(
            f"the table of this {run.config.model.kind} has a row per context of "
            f"{run.config.model.block_size} tokens, {len(table):,}, and no vectors of single "
            "tokens: ask next"
        )
    return table


def find(run: Run, words: Sequence[str]) -> list[int]:
    """The ids of tokens given as text; UserError names the nearest known one."""
    known = {name: i for i, name in enumerate(names(run))}
    for word in words:
        if word not in known:
            fold = {name.casefold(): name for name in known}
            near = difflib.get_close_matches(word.casefold(), fold, 1)
            near = f" (did you mean {fold[near[0]]!r}?)" if near else ""
            raise UserError(
                f"{word!r} is none of the model's {len(known):,} tokens{near}: name one "
                f"{run.config.tokenizer.kind} of the text it was trained on"
            )
    if run.config.train.neighbours:
        for word in words:
            if not word[0].isalnum():
                raise UserError(
                    f"{word!r} is no word: this run learnt words alone, passing it over"
                )
    return [known[word] for word in words]


def alike(run: Run, ids: Sequence[int]) -> list[int]:
    """What may answer: any token but those asked about; to a word, words alone."""
    texts = names(run)
    words = run.config.tokenizer.kind == "word" and all(texts[i][0].isalnum() for i in ids)
    return [i for i, text in enumerate(texts) if i not in ids and (not words or text[0].isalnum())]


def bars(labels: Sequence[str], values: Sequence[float]) -> str:
    """Numbers as lines of text: label, value, and a bar as long as it is large."""
    scale, width = BAR / max(*values, 1e-9), max(map(len, labels))
    return "\n".join(
        f"{label:>{width}}  {value:.4f}  {'█' * round(scale * value)}".rstrip()
        for label, value in zip(labels, values, strict=True)
    )


def look_next(run: Run, words: Sequence[str], args: Any) -> str:
    """The distribution behind the context, or behind each of its places."""
    seen, p_SxV = probabilities(run, context_ids(run, " ".join(words)))
    texts = [repr(text) if text.isspace() else text for text in names(run)]
    if not args.every_position:
        best = np.argsort(-p_SxV[-1], kind="stable")[: args.top or 27]
        return bars([texts[i] for i in best], [p_SxV[-1, i] for i in best])
    lines = []
    for t, p_V in enumerate(p_SxV):
        best = np.argsort(-p_V, kind="stable")[: args.top or 5]
        guesses = "  ".join(f"{texts[i]} {p_V[i]:.3f}" for i in best)
        came = f"   came: {texts[seen[t + 1]]} {p_V[seen[t + 1]]:.3f}" if t + 1 < len(seen) else ""
        lines.append(f"{run.tokenizer.decode(seen[: t + 1])!r} -> {guesses}{came}")
    return "\n".join(lines)


def look_near(run: Run, words: Sequence[str], args: Any) -> str:
    """The tokens whose vectors point most nearly as this one's."""
    (word,) = find(run, words)
    table = embeddings(run)
    return _nearest(run, table, table[word], args.top or 10, [word])


def look_analogy(run: Run, words: Sequence[str], args: Any) -> str:
    """What is to the third word as the second is to the first."""
    ids = find(run, words)
    table = embeddings(run)
    direction = neighbours.analogy(table, *ids)
    return _nearest(run, table, direction, args.top or 5, ids)


def _nearest(run: Run, table: np.ndarray, direction: np.ndarray, n: int, asked: list[int]) -> str:
    """The tokens that point most nearly in a direction, but for those asked about."""
    found = neighbours.nearest(table, direction, n, alike(run, asked))
    if not found:
        raise UserError(
            f"the model's {len(table)} tokens hold no other one to answer with: ask a run with a "
            "larger vocabulary"
        )
    return bars([names(run)[i] for i, _ in found], [cosine for _, cosine in found])


def look_plane(run: Run, words: Sequence[str], args: Any) -> str:
    """Draw the embeddings on a plane, and say how much of them it shows."""
    table, texts = embeddings(run), names(run)
    # Without names: the longest vectors. What is rare has learnt little and stays short.
    longest = np.argsort(-np.linalg.norm(table, axis=1), kind="stable")
    allowed = set(alike(run, []))
    ids = find(run, words) or [i for i in longest if i in allowed][:ON_THE_PLANE]
    points, kept = neighbours.plane(table[ids])
    path = Path(args.out or Path(args.workdir) / "plane.png")
    how = "the embedding itself" if table.shape[1] == 2 else f"PCA, {kept:.0%} of the variance"
    path.parent.mkdir(parents=True, exist_ok=True)
    why_none = plot.plane(path, points, [texts[i] for i in ids], f"{run.config.name}: {how}")
    return why_none or f"{path}: {len(ids)} of {len(texts):,} tokens, {how}"


QUESTIONS = {  # name -> how it is answered, how many words it needs (None: any)
    "next": (look_next, None),
    "near": (look_near, 1),
    "analogy": (look_analogy, 3),
    "plane": (look_plane, None),
}


def main(args: Any) -> int:
    """Answer one question."""
    question, *words = args.question or [""]
    if question not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise UserError(f"unknown question {question!r}: ask {known}; --help shows examples")
    answer, n_words = QUESTIONS[question]
    if n_words is not None and len(words) != n_words:
        raise UserError(f"{question} needs {n_words} of the model's tokens, and got {len(words)}")
    if args.top is not None and args.top < 1:
        raise UserError(f"--top={args.top} must be at least 1")
    for flag, meant in (("every_position", "next"), ("out", "plane")):
        if getattr(args, flag) and question != meant:
            raise UserError(f"--{flag} belongs to the question {meant}, not to {question}")
    run = runs.open_run(Path(args.workdir), runs.which(args.checkpoint))
    with Terminal() as terminal:
        for notice in run.notices:
            terminal.warn(notice)
    print(shown(answer(run, words, args)))
    return 0


FLAGS = [
    cli.Flag("workdir", "", "folder of the run"),
    cli.Flag("top", int, "how many answers; 27 (next), 5 (each place) or 10 when not set"),
    cli.Flag("every_position", False, "next: behind every place of the context"),
    cli.Flag("out", "", "plane: the PNG; plane.png in the folder of the run when empty"),
    cli.Flag("checkpoint", "best", "best, last or a step"),
]


if __name__ == "__main__":
    cli.run(main, about=__doc__, words="question", flags=FLAGS)
