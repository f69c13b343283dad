"""Evaluate a run: the exact loss over a whole split, beside the counted bigram's, or over any text.

    python -m gptjax.evaluate --workdir=runs/gpt-small
    python -m gptjax.evaluate --workdir=runs/gpt-small --split=train --json
    python -m gptjax.evaluate --workdir=runs/gpt-small --text_file=letter.txt --per_token

In: a work folder. Out: nats and bits per token and per character, perplexity, count of tokens.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data import batching as batches
from gptjax.data import tokenizers as tokenizer
from gptjax.data.batching import Batch
from gptjax.data.corpora import read_text
from gptjax.errors import UserError
from gptjax.evaluation import count_models as counts
from gptjax.evaluation import loss_eval as scoring
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.runtime import sharding
from gptjax.training import experiment
from gptjax.training.experiment import Experiment


def estimate_loss(exp: Experiment, params: Any, split: str) -> float:
    """Page 8: the mean loss of ``eval_iters`` random batches, dropout off.

    Args:
      exp: the experiment.
      params: the model's.
      split: "train" or "val".

    Returns:
      Nats per token. The batches are the same at every call, so that two estimates of one run
      differ by what was learnt between them.
    """
    train = exp.config.train
    drawn = batches.get_batches(
        exp.rows[split], exp.config.seed, f"eval_{split}", 0, train.eval_iters, train.batch_size
    )
    nats, count = _sums(exp, params, drawn)
    return float(np.mean(nats / count))


def exact_loss(
    exp: Experiment, params: Any, split: str, busy: Callable[[str, int, int], None] | None = None
) -> float:
    """The mean over every prediction of a split, each made once.

    Args:
      exp: the experiment.
      params: the model's.
      split: "train", "val" or (items) "test".
      busy: told (label, done, total) as predictions are made.

    Returns:
      Nats per token.
    """
    train, rows = exp.config.train, exp.rows[split]
    total = done = 0.0
    for batch in batches.whole_split(rows, train.batch_size, train.eval_iters):
        nats, count = _sums(exp, params, batch)
        total, done = total + nats.sum(), done + count.sum()
        if busy:
            busy(f"exact loss over {split}", int(done), rows.n_predicted)
    return float(total / done)


def _sums(exp: Experiment, params: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    nats, count = jax.device_get(exp.eval_chunk(params, exp.place(batch)))
    return nats.astype(np.float64), count.astype(np.float64)


def figures(nats_per_token: float, tokens: int, characters: int) -> dict[str, float | int]:
    """One loss in every unit people use.

    Args:
      nats_per_token: the mean loss.
      tokens: how many predictions it is the mean of.
      characters: how many characters those tokens stand for.

    Returns:
      Nats and bits per token and per character, perplexity per token, and the counts.
    """
    per_character = nats_per_token * tokens / characters
    return {
        "nats_per_token": nats_per_token,
        "bits_per_token": nats_per_token / math.log(2),
        "nats_per_character": per_character,
        "bits_per_character": per_character / math.log(2),
        "perplexity": math.exp(nats_per_token) if nats_per_token < 700 else math.inf,
        "tokens": tokens,
        "characters": characters,
    }


def main(args: Any) -> int:
    """Print the loss over one split, or over a text, as a table or as JSON."""
    if args.per_token and not args.text_file:
        raise UserError("--per_token shows the tokens of a text: name it with --text_file")
    if args.text_file and args.split is not None:
        raise UserError("--text_file and --split are two texts: give one of them")
    workdir = Path(args.workdir)
    run = runs.open_run(workdir, runs.which(args.checkpoint))
    with Terminal(sys.stderr if args.json else None) as terminal:
        for notice in run.notices:
            terminal.warn(notice)
        measured = (
            _of_text(run, args.text_file, args.per_token)
            if args.text_file
            else _of_split(run, workdir, args.split or "val", terminal.busy)
        )
    report = {"workdir": str(workdir), "step": run.step} | measured
    if args.json:
        print(json.dumps(metrics.plain(report), ensure_ascii=False))
        return 0
    tokens = report.pop("per_token", [])
    for name, value in report.items():
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value}"
        print(f"{name.replace('_', ' '):<28} {shown}")
    if tokens:
        print(f"\n{'row':>6} {'token':<12} {'probability':>11} {'nats':>8} {'rank':>6}")
    for token in tokens:
        print("{row:>6} {text:<12} {probability:>11.6f} {nats:>8.4f} {rank:>6}".format_map(token))
    return 0


def _of_split(
    run: runs.Run, workdir: Path, split: str, busy: Callable[[str, int, int], None]
) -> dict[str, Any]:
    exp = experiment.of_run(run, workdir)
    if split not in exp.rows:
        raise UserError(f"--split={split!r} is unknown: choose {', '.join(exp.rows)}")
    params = jax.device_put(run.params, sharding.replicated(exp.mesh))
    nats = exact_loss(exp, params, split, busy)
    rows = exp.rows[split]
    bigram = counts.count_bigram(exp.rows["train"].counted, run.tokenizer.vocab_size)
    report = {"split": split, **figures(nats, rows.n_predicted, exp.characters[split])}
    if run.config.train.neighbours:  # its predictions are neighbours: no text is made of them
        report = {k: v for k, v in report.items() if "character" not in k}
    report |= _unknown(run.tokenizer, rows)
    return report | {"count_bigram_nats_per_token": bigram.nats(rows.counted)}


def _unknown(tok: tokenizer.Tokenizer, rows: batches.Rows) -> dict[str, float]:
    """The share of unknown words: guessed as one token, however many letters they have."""
    if not isinstance(tok, tokenizer.WordTokenizer):
        return {}
    return {"unknown_words": float(np.mean(rows.tokens == tokenizer.UNKNOWN_ID))}


def _of_text(run: runs.Run, text_file: str, per_token: bool) -> dict[str, Any]:
    run.require_next("score a text")
    tok, model = run.tokenizer, run.model
    rows, characters = scoring.cut(
        read_text(text_file), tok, model, run.items, run.config.window(run.items)
    )
    scores = scoring.score(model, run.params, rows, run.config.train.batch_size)
    report = {"text_file": text_file, "cut": scoring.how_cut(rows, model, run.items)}
    report |= figures(float(scores.nats.mean()), len(scores.nats), characters)
    report |= _unknown(tok, rows)
    if per_token:
        columns = (scores.row, scores.ids, scores.nats, scores.rank)
        report["per_token"] = [
            {
                "row": row,
                "id": id,
                "text": tok.token_text(id),
                "probability": math.exp(-nats),
                "nats": nats,
                "rank": rank,
            }
            for row, id, nats, rank in zip(*(column.tolist() for column in columns), strict=True)
        ]
    return report


FLAGS = [
    cli.Flag("workdir", "", "folder of the run"),
    cli.Flag("split", str, "train, val (what it is when not set) or (items) test"),
    cli.Flag("text_file", "", "a UTF-8 file to score instead; for items one a line"),
    cli.Flag("per_token", False, "with --text_file: each token's probability and rank (1: top)"),
    cli.Flag("checkpoint", "best", "best, last or a step"),
    cli.Flag("json", False, "one line of JSON instead of a table"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, config=False, flags=FLAGS)
