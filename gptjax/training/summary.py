"""The first and the last page of a run: what it is about to do, and what came of it.

In: an ``Experiment`` and a trained state. Out: the header on the terminal and run.json; the exact
losses, the curve, the verdict and summary.json.
"""

from __future__ import annotations

from typing import Any

import jax

from gptjax import evaluate
from gptjax.checkpoints import run as runs
from gptjax.config import parse as gptjax_config
from gptjax.errors import UserError
from gptjax.evaluation import count_models as counts
from gptjax.monitoring import metrics
from gptjax.monitoring import plots as plot
from gptjax.monitoring.console import duration
from gptjax.monitoring.param_table import model_rows
from gptjax.runtime import devices as machine
from gptjax.runtime import sharding
from gptjax.training.experiment import Experiment
from gptjax.training.trainer import Loop


def count_bigram_nats(exp: Experiment) -> dict[str, float]:
    """The line to beat: the add-one count bigram's loss on each split, nats per token."""
    bigram = counts.count_bigram(exp.rows["train"].counted, exp.tokenizer.vocab_size)
    return {split: bigram.nats(rows.counted) for split, rows in exp.rows.items()}


def first_page(loop: Loop) -> None:
    """Say what is about to happen, and record it in the folder."""
    exp, config = loop.exp, loop.exp.config
    facts = exp.corpus.facts() | {"vocabulary": exp.tokenizer.vocab_size}
    splits = ", ".join(f"{name} {rows.n_predicted:,}" for name, rows in exp.rows.items())
    items = facts.get("items_per_split")
    n_items = f", {sum(items.values()):,} items" if items else ""
    train = config.train
    lines = {
        "device": machine.device_line(),
        "corpus": f"{facts['name']} ({facts['source']})",
        "text": f"{facts['characters']:,} characters{n_items}, sha256 {facts['sha256'][:8]}",
        "tokens": f"{config.tokenizer.kind}, vocabulary {facts['vocabulary']:,}; {splits}",
        "training": f"{train.steps:,} steps of {exp.tokens_per_step:,.0f} tokens",
        "folder": str(loop.workdir),
        "to beat": f"count bigram (add-one): val {loop.bigram_val:.4f} nats per token",
    }
    title = config.name + (f" ({config.why})" if config.why else "")
    loop.terminal.header(title=title, lines=lines, model_rows=model_rows(loop.state.params))
    for warning in (machine.check(machine.guess_platform()[0]), loop.board.note):
        if warning:
            loop.terminal.note(warning)
    if loop.resumed is not None:
        loop.terminal.note(f"continuing at step {loop.resumed:,}")
    for note in loop.notes:
        loop.terminal.note(note)
    here = machine.facts()
    record = {"config": gptjax_config.to_dict(config), "data": facts, "machine": here}
    record["starts"] = [*runs.starts(loop.workdir), {"step": loop.step} | here]
    metrics.write_json(loop.workdir / runs.RECORD, record)


def last_page(loop: Loop, bigram: dict[str, float], why_no_band: str = "") -> dict[str, Any]:
    """Show what came of a run at its last step, and write it to summary.json.

    Args:
      loop: the run.
      bigram: of ``count_bigram_nats``.
      why_no_band: why the config's expected band does not apply, "" when it may.

    Returns:
      What summary.json holds. A run that was finished before is not measured again.
    """
    exp, config, say = loop.exp, loop.exp.config, loop.terminal.note
    summary = runs.summary(loop.workdir) if loop.resumed == loop.step else None
    if not summary or summary["steps"] != loop.step:
        summary = measure(loop, bigram)
    band = None if why_no_band else config.expected.get(exp.corpus.name)
    why = why_no_band or f"{config.name} has no band for {exp.corpus.name}"
    summary["verdict"], ok = metrics.verdict(summary["final_val_nats"], band, why)
    records = metrics.read(loop.workdir / runs.METRICS)
    if text := metrics.last_sample(records):
        say(f"sample, temperature {config.sample.temperature}:")
        loop.terminal.sample(text)
    say(
        "exact loss over the whole split, nats per token: "
        f"train {summary['final_train_nats']:.4f}, val {summary['final_val_nats']:.4f}; "
        f"best val {summary['best_val_nats']:.4f}, of step {summary['best_step']:,}"
    )
    say(
        f"trained {loop.step:,} steps in {duration(summary['train_seconds'])}, "
        f"{summary['tokens_per_second']:,.0f} tokens/s; everything is in {loop.workdir}"
    )
    loop.terminal.verdict(summary["verdict"], ok)
    loop.settle()
    # Last, so that a full disk costs the files and not the figures above.
    metrics.write_json(loop.workdir / runs.SUMMARY, summary)
    no_picture = plot.loss_curves(
        loop.workdir / runs.CURVE,
        plot.curves_of(records),
        {"count bigram": bigram["val"]},
        f"{config.name} on {exp.corpus.name}",
    )
    if no_picture:
        say(no_picture)
    return summary


def measure(loop: Loop, bigram: dict[str, float]) -> dict[str, Any]:
    """The figures of summary.json: exact losses of the last and the best parameters, and speed."""
    exp, best = loop.exp, loop.memory["best"]

    def busy(label: str, done: int, total: int) -> None:
        loop.terminal.busy(label, done, total)
        loop.end_if_told_to()  # it takes minutes on a large text: the next start measures anew

    final = {s: evaluate.exact_loss(exp, loop.state.params, s, busy) for s in ("train", "val")}
    best_val = final["val"]
    if best["step"] != loop.step:
        loop.settle()
        try:
            run = runs.open_run(loop.workdir, "best")
        except UserError as error:  # a night's run still has its last parameters
            loop.terminal.warn(f"{error}; best_val_nats is that of the last step")
            best = {"step": loop.step}
        else:
            if run.step != best["step"]:
                loop.terminal.warn(
                    f"the best checkpoint, of step {best['step']}, is not there any more: "
                    f"best_val_nats is that of step {run.step}"
                )
            best = {"step": run.step}
            params = jax.device_put(run.params, sharding.replicated(exp.mesh))
            best_val = evaluate.exact_loss(exp, params, "val", busy)
    return {
        "final_train_nats": final["train"],
        "final_val_nats": final["val"],
        "best_val_nats": best_val,
        "best_step": best["step"],
        "steps": loop.step,
        "train_seconds": loop.memory["train_seconds"],
        "checkpoint_seconds": loop.memory["checkpoint_seconds"],
        "tokens_per_second": loop.tokens_per_second(),
        "params": sum(leaf.size for leaf in jax.tree.leaves(loop.state.params)),
        "count_bigram_train_nats": bigram["train"],
        "count_bigram_val_nats": bigram["val"],
        "corpus": exp.corpus.name,
    }
