"""Ask a trained model what it knows.

    python -m gptjax.look --workdir=runs/mlp-names next "a b i"
    python -m gptjax.look --workdir=runs/gpt-small next "ROMEO" --every_position
    python -m gptjax.look --workdir=runs/word2vec near king
    python -m gptjax.look --workdir=runs/word2vec analogy man king woman
    python -m gptjax.look --workdir=runs/mlp-names plane

In: a work folder and a question. Out: next - probabilities as bars; near - whose embeddings point
the same way; analogy A B C - what is to C as B is to A; plane - a picture of the embeddings. The
first line says what the numbers are, and how many of how many are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal, padded, shown
from gptjax.runtime.object_store import is_remote

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    from gptjax.checkpoints.run import Run

BAR = 40  # columns of the longest bar


def bars(labels: Sequence[str], values: Sequence[float]) -> str:
    """Numbers as lines of text: label, value, and a bar as long as it is large."""
    scale = BAR / max(*values, 1e-9)
    return "\n".join(
        f"{label}  {value:.4f}  {'█' * round(scale * value)}".rstrip()
        for label, value in zip(padded(labels, left=False), values, strict=True)
    )


def visible(text: str) -> str:
    """A token as it can be told from nothing: white space in quotes."""
    return repr(text) if text.isspace() else text


def look_next(run: Run, words: Sequence[str], args: Any) -> str:
    """The distribution after the context, or after each of its places."""
    from gptjax.evaluation import probe

    seen, p_SxV = probe.next_tokens(run, " ".join(words))
    texts = list(map(visible, probe.names(run)))
    n = args.top or (5 if args.every_position else 27)
    best_SxN = np.argsort(-p_SxV, kind="stable")[:, :n]
    tokens = f"{best_SxN.shape[1]:,} of {len(texts):,} tokens"
    if not args.every_position:
        after = repr(run.tokenizer.decode(seen))
        best, left = best_SxN[-1], len(texts) - best_SxN.shape[1]
        shown = bars([texts[i] for i in best], p_SxV[-1, best])
        rest = max(0.0, 1 - float(p_SxV[-1, best].sum()))
        head = f"probability of the next token after {after}: {tokens}"
        return "\n".join([head, shown, *([f"{left:,} others: {rest:.4f}"] if left else [])])
    lines = [f"probability of the next token after each place: {tokens}"]
    for t, p_V in enumerate(p_SxV):
        guesses = "  ".join(f"{texts[i]} {p_V[i]:.3f}" for i in best_SxN[t])
        came = f"   came: {texts[seen[t + 1]]} {p_V[seen[t + 1]]:.3f}" if t + 1 < len(seen) else ""
        lines.append(f"{run.tokenizer.decode(seen[: t + 1])!r} -> {guesses}{came}")
    return "\n".join(lines)


def look_near(run: Run, words: Sequence[str], args: Any) -> str:
    """The tokens whose vectors point most nearly as this one's."""
    from gptjax.evaluation import probe

    return _cosines(f"to {words[0]}", *probe.near(run, words[0], args.top or 10))


def look_analogy(run: Run, words: Sequence[str], args: Any) -> str:
    """What is to the third word as the second is to the first."""
    from gptjax.evaluation import probe

    a, b, c = words
    return _cosines(f"to {b} - {a} + {c}", *probe.analogy(run, words, args.top or 5))


def _cosines(to: str, found: Sequence[tuple[str, float]], n_others: int) -> str:
    head = f"cosine {to} (1: the same direction): {len(found):,} of {n_others:,} others"
    texts, cosines = zip(*found, strict=True)
    return f"{head}\n{bars(list(map(visible, texts)), cosines)}"


def look_plane(run: Run, words: Sequence[str], args: Any) -> str:
    """Draw the embeddings on a plane, and say how much of them it shows."""
    from gptjax.evaluation import probe
    from gptjax.monitoring import plots

    points, texts, how = probe.plane(run, words)
    labels, title = list(map(visible, texts)), f"{run.config.name}: vectors of tokens"
    folder = "." if is_remote(args.workdir) else args.workdir
    path = Path(args.out or f"{folder}/plane.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = f"{len(labels):,} of {run.tokenizer.vocab_size:,} tokens"
    what = f"{tokens}, {how}"
    why_none, named = plots.plane(path, points, labels, title, what)
    return why_none or "; ".join(filter(None, (f"{path}: {what}", named)))


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
    with Terminal() as terminal:
        with terminal.doing("opening the run"):
            from gptjax.checkpoints.run import open_for_command

            run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
        with terminal.doing("asking it"):
            answered = answer(run, words, args)
    print(shown(answered))
    return 0


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("top", int, "how many answers; 27 (next), 5 (each place) or 10 when not set"),
    cli.Flag("every_position", False, "next: after every place of the context"),
    cli.Flag(
        "out",
        "",
        "plane: the PNG; plane.png in the folder of the run (of a URL: here) when empty",
    ),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, words="question", flags=FLAGS)
