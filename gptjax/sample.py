"""Continue prompts with a trained model.

    python -m gptjax.sample --workdir=runs/gpt-small --prompt="ROMEO:" --stream
    python -m gptjax.sample --workdir=runs/gpt-small --prompt="To be" --prompt="KING" --json
    python -m gptjax.sample --workdir=runs/mlp-names --num_samples=1000 --report

In: a work folder and prompts. Out: texts on stdout; items (names) one a line.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax.cli import main as cli
from gptjax.config.schema import WINDOWS
from gptjax.data.text_file import read_text
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal, shown

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    import jax

    from gptjax.checkpoints.run import Run
    from gptjax.data.corpora import Corpus
    from gptjax.generation.generate import Settings
    from gptjax.generation.stopping import Sample

SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
SETTINGS += ("stop", "window")  # the flags that are fields of ``Run.settings``


def main(args: Any) -> int:
    """Print continuations of the prompts."""
    if args.stream and (args.json or args.report):
        raise UserError("--stream shows text as it is made: not with --json or --report")
    with Terminal(sys.stderr) as terminal:
        with terminal.doing("opening the run"):
            from gptjax.checkpoints.run import open_for_command
            from gptjax.generation.generate import ITEMS_SHOWN, row_keys

            run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
        prompts = list(args.prompt)
        if args.prompt_file:
            text = read_text(args.prompt_file)
            prompts.append(text.removesuffix("\n") if run.items else text)
        prompts = prompts or [""]
        settings = run.settings(**{name: getattr(args, name) for name in SETTINGS})
        one = ITEMS_SHOWN if run.items else 1
        num_samples = one if args.num_samples is None else args.num_samples
        if not 1 <= num_samples <= 2**20:
            raise UserError(f"--num_samples={num_samples} must be 1 or more, at most {2**20:,}")
        key_R = row_keys(args.seed, len(prompts), num_samples)
        rows = [prompt for prompt in prompts for _ in range(num_samples)]
        between = "\n" if run.items else f"\n{'─' * 40}\n"
        if not args.stream:
            corpus = None
            if args.report:
                with terminal.doing("reading the corpus"):
                    corpus = run.read_corpus(Path(args.workdir))
                    corpus.require_text()
            with terminal.doing("writing"):
                told = functools.partial(terminal.busy, "writing")
                made = run.continue_rows(rows, key_R, settings, busy=told)
                report = _report(corpus, made) if corpus else ""
    if args.stream:
        stream(run, rows, key_R, settings, between)
        return 0
    if args.json:
        for sample in made:
            print(json.dumps(dataclasses.asdict(sample), ensure_ascii=False))
    else:
        print(shown(between.join(sample.prompt + sample.text for sample in made)))
    if report:
        print(report, file=sys.stderr if args.json else sys.stdout)
    return 0


def stream(run: Run, rows: list[str], key_R: jax.Array, settings: Settings, between: str) -> None:
    """Print each row's text as it is made."""
    with Terminal() as screen:
        for row, prompt in enumerate(rows):
            screen.write(shown((between if row else "") + prompt))
            for piece in run.stream([prompt], key_R[row : row + 1], settings):
                screen.write(shown(piece.text))
        screen.write("\n")


def _report(corpus: Corpus, made: list[Sample]) -> str:
    """How much of what was made stands in the corpus already."""
    from gptjax.evaluation import memorization
    from gptjax.generation.generate import ITEMS_SHOWN

    if not corpus.is_items:
        longest = max((memorization.longest(s.text, corpus.splits["train"]) for s in made), key=len)
        return f"\nlongest passage of the training text: {len(longest)} characters, {longest!r}"
    words = [sample.prompt + sample.text for sample in made]
    lines = [f"\nof {len(words)} items:"]
    for where, items in memorization.sort_items(words, corpus.splits).items():
        share = f"{len(items):6} ({len(items) / len(words):.0%}) {where}"
        lines.append(f"{share:28} {', '.join(list(dict.fromkeys(items))[:ITEMS_SHOWN])}")
    return "\n".join(lines)


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("prompt", [], "the text to continue; may be repeated"),
    cli.Flag("prompt_file", "", "a UTF-8 file that holds one more prompt"),
    cli.Flag("num_samples", int, "continuations per prompt; 1, for items 10"),
    cli.Flag("max_new_tokens", 500, "the most to add, tokens"),
    cli.Flag("temperature", 0.8, "above 1 wilder, below 1 tamer, 0 the likeliest token"),
    cli.Flag("top_k", int, "draw from the k likeliest tokens"),
    cli.Flag("top_p", float, "draw from the fewest tokens that reach this probability"),
    cli.Flag("min_p", float, "drop tokens less than this times the likeliest one"),
    cli.Flag("repetition_penalty", float, "above 1: what stands there comes less often"),
    cli.Flag("stop", [], "end a text at this string; may be repeated"),
    cli.Flag(
        "window",
        "exact",
        "past block_size: exact (the notes: all anew for each token), or refill (quick: "
        "re-read the last half of the context when it is full)",
        choices=WINDOWS,
    ),
    cli.Flag("seed", 0, "another seed, another text"),
    cli.Flag("stream", False, "show text as it is made; the same text"),
    cli.Flag("json", False, "a JSON object a line: text, ids, log_probs, why it stopped"),
    cli.Flag("report", False, "say how much of it stands in the corpus already"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
