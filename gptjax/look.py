"""Ask a trained model what it knows, and draw what is inside it.

    python -m gptjax.look --workdir=runs/mlp-names next "a b i"
    python -m gptjax.look --workdir=runs/gpt-small next "ROMEO" --every_position
    python -m gptjax.look --workdir=runs/word2vec near king
    python -m gptjax.look --workdir=runs/word2vec analogy man king woman
    python -m gptjax.look --workdir=runs/mlp-names plane
    python -m gptjax.look --workdir=runs/gpt-small attention "To be, or not to be" --layer=2
    python -m gptjax.look --workdir=runs/gpt-small lens "To be, or not to be" --out=lens.svg
    python -m gptjax.look --workdir=runs/gpt-small loss --text_file=my.txt
    python -m gptjax.look --workdir=runs/bigram table q e
    python -m gptjax.look --workdir=runs/gpt-small curves

In: a work folder and a question. Out: next - probabilities as bars; near - whose embeddings point
the same way; analogy A B C - what is to C as B is to A; plane - a picture of the embeddings;
attention - what each head looks at; lens - the guess after every block; loss - what each token of a
text cost, in nats; table - what follows a token, beside the counts; curves - the training. The
last six write a PNG or SVG too. The first line says what the numbers are, and how many of how many
are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax.cli import main as cli
from gptjax.data.text_file import read_text
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal, padded, shown
from gptjax.runtime.object_store import is_remote

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    from gptjax.checkpoints.run import Run
    from gptjax.data.dataset import Split

BAR = 40  # columns of the longest bar
LINE = 100  # columns of a lens
ROWS = 10  # of a table, where none are named
BASELINES = {"uniform": "ln V", "unigram": "unigram", "count_bigram": "count bigram"}


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
    import numpy as np

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
    tokens = f"{len(labels):,} of {run.tokenizer.vocab_size:,} tokens"
    path, what = picture(args), f"{tokens}, {how}"
    why_none, named = plots.plane(path, points, labels, title, what)
    return why_none or "; ".join(filter(None, (f"{path}: {what}", named)))


def look_attention(run: Run, words: Sequence[str], args: Any) -> str:
    """A line per head, with where it looks most; the matrices as a picture."""
    import numpy as np

    from gptjax.interpret import figures, lens

    found = lens.attention(run, " ".join(words), args.layer, args.head)
    names, lines = lens.names(run, found.ids_T), []
    for layer, of_heads in zip(found.layers, found.wei_NxHxTxT, strict=True):
        for head, wei_TxT in zip(found.heads, of_heads, strict=True):
            where, share = lens.habit(wei_TxT)
            most = np.argsort(-wei_TxT[-1], kind="stable")[: args.top or 3]
            last = "  ".join(f"{names[i]} {wei_TxT[-1, i]:.2f}" for i in most)
            lines.append(f"{f'layer {layer} head {head}':<16}{where:>15} {share:.2f}   {last}")
    seen = f"{len(names):,} of {found.n_read:,} tokens"
    head = f"what each head looks at most, {seen}: its share of all attention; then from the last"
    return "\n".join(
        [f"{head} token, {names[-1]}", *lines, drawn(args, figures.draw_attention, run, found)]
    )


def look_lens(run: Run, words: Sequence[str], args: Any) -> str:
    """A line per layer with the likeliest next token at each place; what came is in brackets."""
    from gptjax.interpret import figures, lens

    found = lens.look_through(run, " ".join(words))
    reads, T = lens.names(run, found.ids_T), len(found.ids_T)
    rows = [[f" {name} " for name in reads]]
    for ids_T, rank_T in zip(found.guesses.top_ids[..., 0], found.guesses.rank, strict=True):
        row = enumerate(lens.names(run, ids_T))
        rows.append([f"[{n}]" if t < T - 1 and rank_T[t] == 1 else f" {n} " for t, n in row])
    rows.append([f" {name} " for name in [*reads[1:], ""]])
    titles = padded(["reads", *lens.layer_names(len(rows) - 2), "came next"])
    cells = padded(sum(rows, []))
    width = max(map(len, cells))
    n = max(1, (LINE - len(titles[0])) // width)  # places side by side
    lines = []
    for first in range(0, T, n):
        for r, title in enumerate(titles):
            row = cells[r * T : (r + 1) * T][first : first + n]
            lines.append(f"{title} {''.join(row)}".rstrip())
        lines.append("")
    seen = f"{T:,} of {found.n_read:,} tokens"
    head = f"the likeliest next token after every block at each place, {seen}; in brackets: it came"
    return "\n".join([head, *lines[:-1], drawn(args, figures.draw_lens, run, found)])


def look_loss(run: Run, words: Sequence[str], args: Any) -> str:
    """What each token of a text cost, beside what pairs would have; the text as a picture."""
    from gptjax.evaluation import count_models
    from gptjax.interpret import figures, lens, text

    cut = text.rows(run, " ".join(words), figures.MOST_PREDICTIONS)
    found, (splits, notes, bigram) = text.read(run, cut), (*train_of(run), None)
    said = f"mean {found.nats.mean():.4f}"
    if splits is not None:
        bigram = count_models.count_bigram(*splits["train"].pairs(), run.tokenizer.vocab_size)
        said += f", the count bigram's {text.bigram_nats(cut, bigram).mean():.4f}"
    n = min(len(found.nats), args.top or 100)
    if len(found.nats) < cut.n_predicted:
        said += f" of the first {len(found.nats):,}"
    head = f"loss of each token, nats (-ln P): {n:,} of {cut.n_predicted:,} predictions; {said}"
    lines = bars(lens.names(run, cut.ids[1 : n + 1]), found.nats[:n])
    picture = drawn(args, figures.draw_loss, run, cut, found, bigram)
    return "\n".join([head, lines, picture, *notes])


def look_table(run: Run, words: Sequence[str], args: Any) -> str:
    """What follows single tokens, beside how often it did in train; the table as a picture."""
    import numpy as np

    from gptjax.interpret import figures, lens, tables

    splits, notes = train_of(run)
    found = tables.followers(run, splits, words)
    rows = np.arange(len(found.ids_R))
    if not words:  # the most frequent ones alone
        few = tables.frequent(run.tokenizer, splits, found.ids_R.tolist(), ROWS)
        rows = np.searchsorted(found.ids_R, few)
    names, next_ = lens.names(run, found.ids_R[rows]), lens.names(run, found.ids_K)
    lines, n = [], args.top or 5
    for name, row in zip(padded(names), rows, strict=True):
        cells = [name]
        for i in np.argsort(-found.p_RxK[row], kind="stable")[:n]:
            cells.append(f"{next_[i]} {found.p_RxK[row, i]:.3f}")
            if found.counted_RxK is not None:
                cells[-1] += f" ({found.counted_RxK[row, i]:.3f})"
        lines.append("   ".join(cells))
    V, K = run.tokenizer.vocab_size, len(next_)
    head = f"the likeliest next tokens after one token alone, after {len(rows):,} of {V:,}"
    head += "" if splits is None else "; in brackets how often they came in train"
    head += f"; only the {K:,} most frequent tokens follow" if K < V else ""
    drawn_of = tables.followers(run, splits, words, figures.IN_PICTURE)
    return "\n".join([head, *lines, drawn(args, figures.draw_table, run, drawn_of), *notes])


def look_curves(run: Run, words: Sequence[str], args: Any) -> str:
    """The losses of a training beside what they are compared with; the curves as a picture."""
    from gptjax.interpret import figures
    from gptjax.monitoring import plots
    from gptjax.web import context, run_data

    ctx, said = context.of_run(run), {}
    lines = run_data.lines(run, ctx)
    lines = {name: lines[key] for key, name in BASELINES.items() if lines[key] is not None}
    picture = drawn(args, figures.curves, run, lines)
    exact = plots.exact_of(ctx.summary) if ctx.summary else {}
    for curve in plots.curves_of(ctx.records, exact):
        for step, nats in curve.exact:
            said[f"{curve.label}, exact, step {step:,}"] = nats
        if not curve.exact and curve.label != plots.BATCHES:
            said[f"{curve.label}, estimate, step {curve.steps[-1]:,}"] = curve.nats[-1]
    rows = zip(padded([*lines, *said]), [*lines.values(), *said.values()], strict=True)
    head = f"losses of {run.config.name}, nats per token"
    notes = [f"nothing could be counted: {ctx.no_corpus}"] if ctx.splits is None else []
    return "\n".join([head, *(f"{name}  {nats:.4f}" for name, nats in rows), picture, *notes])


def train_of(run: Run) -> tuple[Mapping[str, Split] | None, list[str]]:
    """The splits of a run's corpus; None, and the reason, where they cannot be counted."""
    from gptjax.web import context, run_data

    ctx = context.of_run(run)
    if ctx.splits is None:
        return None, [f"no counts beside it: {ctx.no_corpus}"]
    n = len(ctx.splits["train"].tokens)
    if n > run_data.MOST_COUNTED:
        most = run_data.MOST_COUNTED
        return None, [f"no counts beside it: train has {n:,} tokens, and {most:,} are counted"]
    return ctx.splits, []


def picture(args: Any) -> Path:
    """The file that the picture of a question goes to; its folder is made."""
    folder = "." if is_remote(args.workdir) else args.workdir
    path = Path(args.out or f"{folder}/{FILES.get(args.question[0], args.question[0])}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def drawn(args: Any, draw: Callable[..., Any], *values: Any) -> str:
    """Write the figure ``draw(*values)``: its file's name, or why there is none."""
    from gptjax.monitoring import pictures

    path = picture(args)
    return pictures.write(path, lambda: draw(*values)) or f"{path}: a picture of it"


QUESTIONS = {  # name -> how it is answered, how many words it needs (None: any)
    "next": (look_next, None),
    "near": (look_near, 1),
    "analogy": (look_analogy, 3),
    "plane": (look_plane, None),
    "attention": (look_attention, None),
    "lens": (look_lens, None),
    "loss": (look_loss, None),
    "table": (look_table, None),
    "curves": (look_curves, 0),
}
TEXTS = ("attention", "lens", "loss")  # those that need a text
FILES = {"loss": "text_loss"}  # loss.png is the training's
OF = {  # flag -> the questions that it belongs to
    "every_position": ("next",),
    "layer": ("attention",),
    "head": ("attention",),
    "text_file": TEXTS,
    "out": ("plane", *TEXTS, "table", "curves"),
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
    for flag, meant in OF.items():
        unset = any(getattr(args, flag) is none for none in (None, False, ""))
        if not unset and question not in meant:
            s = "s" if len(meant) > 1 else ""
            of = f"--{flag} belongs to the question{s} {', '.join(meant)}"
            raise UserError(f"{of}, not to {question}")
    if args.out and Path(args.out).suffix.lower() not in (".png", ".svg"):
        raise UserError(f"--out={args.out} must end in .png or .svg")
    words = [text_of(question, words, args)] if question in TEXTS else words
    with Terminal() as terminal:
        with terminal.doing("opening the run"):
            from gptjax.checkpoints.run import open_for_command

            run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
        with terminal.doing("asking it"):
            answered = answer(run, words, args)
    print(shown(answered))
    return 0


def text_of(question: str, words: Sequence[str], args: Any) -> str:
    """The text that a question is about: the words of the command, or a file."""
    if words and args.text_file:
        raise UserError("--text_file and the words after the question are two texts: give one")
    if not words and not args.text_file:
        raise UserError(f'{question} needs a text: {question} "To be", or --text_file=my.txt')
    return read_text(args.text_file) if args.text_file else " ".join(words)


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("top", int, "how many answers, where there are many; a few for each when not set"),
    cli.Flag("every_position", False, "next: after every place of the context"),
    cli.Flag("layer", int, "attention: of this layer alone, from 1"),
    cli.Flag("head", int, "attention: of this head alone, from 1"),
    cli.Flag("text_file", "", "attention, lens, loss: a UTF-8 file that holds the text"),
    cli.Flag(
        "out",
        "",
        "the picture, .png or .svg; <question>.png (of loss: text_loss.png) in the folder of the "
        "run (of a URL: here) when empty",
    ),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, words="question", flags=FLAGS)
