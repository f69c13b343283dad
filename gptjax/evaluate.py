"""Evaluate a run: the exact loss over a whole split, beside the counted bigram's, or over any text.
± is the standard error of the choice of validation text: how much the mean would differ, for this
model, on another text of this length; what another seed would change is not in it.

    python -m gptjax.evaluate --workdir=runs/gpt-small
    python -m gptjax.evaluate --workdir=runs/gpt-small --split=train --json
    python -m gptjax.evaluate --workdir=runs/gpt-small --text_file=letter.txt --per_token

In: a work folder. Out: nats and bits per token, per character and per byte, which compares runs
with other tokens; perplexity, count of tokens.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptjax.cli import main as cli
from gptjax.data.text_file import read_text
from gptjax.errors import UserError
from gptjax.evaluation import run_table
from gptjax.monitoring.console import Terminal, padded

if TYPE_CHECKING:  # JAX takes seconds to import: a mistake is told before
    from gptjax.checkpoints.run import Run
    from gptjax.data.dataset import Split
    from gptjax.data.tokenizers import Tokenizer
    from gptjax.evaluation.run_table import Blocks


def main(args: Any) -> int:
    """Print the loss over one split, or over a text, as a table or as JSON."""
    if args.per_token and not args.text_file:
        raise UserError("--per_token shows the tokens of a text: name it with --text_file")
    if args.split == "":
        raise UserError("--split= names no split: train, val or, of items, test")
    if args.text_file and args.split is not None:
        raise UserError("--text_file and --split are two texts: give one of them")
    with Terminal(sys.stderr if args.json else None) as terminal:
        with terminal.doing("opening the run"):
            from gptjax.checkpoints.run import open_for_command
            from gptjax.monitoring import metrics

            run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
        report: dict[str, Any] = {"workdir": args.workdir, "step": run.step}
        with terminal.doing("evaluating"):
            if args.text_file:
                report |= of_text(run, args.text_file, args.per_token, terminal)
            else:
                report |= of_split(run, Path(args.workdir), args.split or "val", terminal)
    if args.json:
        print(json.dumps(metrics.plain(report), ensure_ascii=False))
        return 0
    tokens, error = report.pop("per_token", []), report.pop("nats_per_token_error")
    for name, value in report.items():
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value}"
        if name == "nats_per_token" and error is not None:
            shown += f" ± {error:.4f}"
        print(f"{name.replace('_', ' '):<28} {shown}")
    if error is not None:
        print(textwrap.fill(f"±: {run_table.ERROR_MEANS}", 98, subsequent_indent="  "))
    if tokens:
        texts = padded(["token", " " * 12, *(token["text"] for token in tokens)])
        print(f"\n{'row':>6} {texts[0]} {'probability':>11} {'nats':>8} {'rank':>6}")
        for token, text in zip(tokens, texts[2:], strict=True):
            figures = "{probability:>11.6f} {nats:>8.4f} {rank:>6}".format_map(token)
            print(f"{token['row']:>6} {text} {figures}")
    return 0


def of_split(run: Run, workdir: Path, split: str, terminal: Terminal) -> dict[str, Any]:
    """The exact loss over a split of the run's corpus, beside the count bigram's."""
    from gptjax.evaluation.baselines import block_losses
    from gptjax.training import experiment

    exp = experiment.of_run(run, workdir)
    if split not in exp.splits:
        raise UserError(f"--split={split!r} is unknown: choose {', '.join(exp.splits)}")
    told = functools.partial(terminal.busy, f"exact loss over {split}")
    asked, params = exp.splits[split], exp.placement.put(run.params)
    report = {"split": split, **_figures(block_losses(exp.evaluator, params, asked, told), asked)}
    bigram = {"count_bigram_nats_per_token": exp.bigram_nats[split]}
    return report | _unknown(run.tokenizer, asked) | bigram


def of_text(run: Run, text_file: str, per_token: bool, terminal: Terminal) -> dict[str, Any]:
    """The loss over a text, and with ``per_token`` each token's."""
    from gptjax.evaluation import probe
    from gptjax.evaluation.baselines import in_blocks
    from gptjax.evaluation.loss_eval import Evaluator

    tok, model, items = run.tokenizer, run.model, run.items
    split = probe.text_split(run, read_text(text_file))
    told = functools.partial(terminal.busy, "exact loss over the text")
    scores = Evaluator(model, run.config.train.batch_size).score(run.params, split, told)
    seen = f"rows of at most {split.window} predictions, which see nothing of the row before"
    if model.slides:
        seen = f"each token is predicted from the {model.block_size} before it"
    rest = "one item a line, its end predicted too" if items else "the first token is not predicted"
    report: dict[str, Any] = {"text_file": text_file, "cut": f"{seen}; {rest}"}
    row_nats = np.bincount(scores.row, scores.nats, split.n_rows)
    report |= _figures(in_blocks(split, row_nats), split) | _unknown(tok, split)
    if per_token:
        report["per_token"] = tokens = []
        for id, nats, rank, row in zip(*(column.tolist() for column in scores), strict=True):
            token = {"row": row, "id": id, "text": tok.token_text(id)}
            tokens.append(token | {"probability": math.exp(-nats), "nats": nats, "rank": rank})
    return report


def _figures(blocks: Blocks, split: Split) -> dict[str, Any]:
    """``loss_eval.figures`` with how sure the loss is, None of a text too short to say."""
    from gptjax.evaluation.loss_eval import figures

    nats, error = run_table.mean_and_error(blocks)
    both = {"nats_per_token": nats, "nats_per_token_error": error}
    return both | figures(nats, split)


def _unknown(tok: Tokenizer, split: Split) -> dict[str, float]:
    """The share of unknown words: guessed as one token, however many letters they have."""
    from gptjax.evaluation.count_models import token_counts

    if tok.unknown_id is None:
        return {}
    counts = token_counts(split.tokens, tok.vocab_size)
    return {"unknown_words": float(counts[tok.unknown_id] / counts.sum())}


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("split", str, "train, val (what it is when not set) or (items) test"),
    cli.Flag("text_file", "", "a UTF-8 file to score instead; for items one a line"),
    cli.Flag("per_token", False, "with --text_file: each token's probability and rank (1: top)"),
    cli.Flag("json", False, "one line of JSON instead of a table"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
