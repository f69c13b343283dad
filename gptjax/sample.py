"""Continue prompts with a trained model.

    python -m gptjax.sample --workdir=runs/gpt-small --prompt="ROMEO:" --stream
    python -m gptjax.sample --workdir=runs/gpt-small --prompt="To be" --prompt="KING" --json
    python -m gptjax.sample --workdir=runs/mlp-names --num_samples=1000 --report

In: a work folder and prompts. Out: texts on stdout; items (names) one a line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax

from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data import splits as corpus
from gptjax.data.corpora import read_text
from gptjax.errors import UserError
from gptjax.evaluation import memorization as overlap
from gptjax.generation import decode as decoding
from gptjax.generation import generate as continuation
from gptjax.generation import sampling as samplers
from gptjax.generation.generate import Sample, Settings
from gptjax.monitoring.console import shown
from gptjax.training.experiment import Experiment

ITEMS_SHOWN = 10


def preview(exp: Experiment, params: Any, step: int) -> str:
    """The sample a run shows at step ``step``: a text, or a few items, one a line."""
    config, items = exp.config.sample, exp.corpus.kind == "items"
    if not config.max_new_tokens:
        return ""
    sampler = samplers.build(config.temperature)
    settings = Settings(config.max_new_tokens, sampler, items=items)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(exp.config.seed), 2), step)
    rows = ITEMS_SHOWN if items else 1
    key_R = continuation.row_keys(key, 1, rows)
    made = continuation.continue_rows(
        exp.model, params, exp.tokenizer, [config.prompt] * rows, key_R, settings, cached=False
    )
    return "\n".join(sample.prompt + sample.text for sample in made)


def main(args: Any) -> int:
    """Print continuations of the prompts."""
    run = runs.open_run(Path(args.workdir), runs.which(args.checkpoint))
    for notice in run.notices:
        print(f"warning: {notice}", file=sys.stderr)
    prompts = list(args.prompt)
    if args.prompt_file:
        text = read_text(args.prompt_file)
        prompts.append(text.removesuffix("\n") if run.items else text)
    prompts = prompts or [""]
    settings = run.settings(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        stop=tuple(args.stop),
        window=args.window,
    )
    one = ITEMS_SHOWN if run.items else 1
    num_samples = one if args.num_samples is None else args.num_samples
    if not 1 <= num_samples <= 2**20:
        raise UserError(f"--num_samples={num_samples} must be 1 or more, at most {2**20:,}")
    if args.stream:
        if args.json or args.report:
            raise UserError("--stream shows text as it is made: not with --json or --report")
        _stream(run, prompts, settings, args.seed, num_samples)
        return 0
    text = run.read_corpus(Path(args.workdir)) if args.report else None
    key_R = continuation.row_keys(args.seed, len(prompts), num_samples)
    made = run.continue_rows([p for p in prompts for _ in range(num_samples)], key_R, settings)
    if args.json:
        for sample in made:
            print(json.dumps(dataclasses.asdict(sample), ensure_ascii=False))
    else:
        between = "\n" if run.items else f"\n{'─' * 40}\n"
        print(shown(between.join(sample.prompt + sample.text for sample in made)))
    if text:
        print(_report(text, made), file=sys.stderr if args.json else sys.stdout)
    return 0


def _stream(
    run: runs.Run, prompts: list[str], settings: Settings, seed: int, num_samples: int
) -> None:
    """One row after the other, each as it is made: the same texts as all at once."""
    key_R = continuation.row_keys(seed, len(prompts), num_samples)
    rows = [prompt for prompt in prompts for _ in range(num_samples)]
    for number, prompt in enumerate(rows):
        if number and not run.items:
            print("─" * 40)
        print(shown(prompt), end="", flush=True)
        key = key_R[number : number + 1]
        run.continue_rows(
            [prompt], key, settings, lambda _, text: print(shown(text), end="", flush=True)
        )
        print()


def _report(text: corpus.Corpus, made: list[Sample]) -> str:
    """How much of what was made stands in the corpus already."""
    if text.kind != "items":
        longest = max((overlap.longest(s.text, text.splits["train"]) for s in made), key=len)
        return f"\nlongest passage of the training text: {len(longest)} characters, {longest!r}"
    words = [sample.prompt + sample.text for sample in made]
    lines = [f"\nof {len(words)} items:"]
    for where, items in overlap.sort_items(words, text.splits).items():
        share = f"{len(items):6} ({len(items) / len(words):.0%}) {where}"
        lines.append(f"{share:28} {', '.join(list(dict.fromkeys(items))[:ITEMS_SHOWN])}")
    return "\n".join(lines)


FLAGS = [
    cli.Flag("workdir", "", "folder of the run"),
    cli.Flag("checkpoint", "best", "best, last or a step"),
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
        choices=decoding.WINDOWS,
    ),
    cli.Flag("seed", 0, "another seed, another text"),
    cli.Flag("stream", False, "show text as it is made; the same text"),
    cli.Flag("json", False, "a JSON object a line: text, ids, log_probs, why it stopped"),
    cli.Flag("report", False, "say how much of it stands in the corpus already"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, config=False)
