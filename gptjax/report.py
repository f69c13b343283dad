"""The first and the last page of a run: what it is about to do, and what came of it.

In: an ``Experiment`` and a trained state. Out: the header on the terminal and run.json; the exact
losses, the curve, the verdict and summary.json.
"""

from __future__ import annotations

from typing import Any

import jax

from gptjax import config as gptjax_config
from gptjax import counts, evaluate, machine, metrics, plot, runs, sharding
from gptjax.experiment import Experiment
from gptjax.loop import Loop


def count_bigram_nats(exp: Experiment) -> dict[str, float]:
    """The line to beat: the add-one count bigram's loss on each split, nats per token."""
    bigram = counts.count_bigram(exp.rows["train"].tokens, exp.tokenizer.vocab_size)
    return {split: bigram.nats(rows.tokens) for split, rows in exp.rows.items()}


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
    loop.terminal.header(title=title, lines=lines, model_rows=metrics.model_rows(loop.state.params))
    if loop.resumed is not None:
        loop.terminal.note(f"continuing at step {loop.resumed:,}")
    record = {"config": gptjax_config.to_dict(config), "data": facts, "machine": machine.facts()}
    metrics.write_json(loop.workdir / runs.RECORD, record)


def last_page(loop: Loop, bigram: dict[str, float], why_no_band: str = "") -> dict[str, Any]:
    """Measure the trained model exactly, draw its curve, say the verdict, write summary.json.

    Args:
      loop: a run at its last step.
      bigram: of ``count_bigram_nats``.
      why_no_band: why the config's expected band does not apply, "" when it may.

    Returns:
      What summary.json holds.
    """
    exp, config, best, busy = loop.exp, loop.exp.config, loop.memory["best"], loop.terminal.busy
    final = {s: evaluate.exact_loss(exp, loop.state.params, s, busy) for s in ("train", "val")}
    best_val = final["val"]
    if best["step"] != loop.step:
        loop.checkpoints.wait()
        params = runs.open_run(loop.workdir, "best").params
        params = jax.device_put(params, sharding.replicated(exp.mesh))
        best_val = evaluate.exact_loss(exp, params, "val", busy)
    band = None if why_no_band else config.expected.get(exp.corpus.name)
    why = why_no_band or f"{config.name} has no band for {exp.corpus.name}"
    verdict, ok = metrics.verdict(final["val"], band, why)
    summary = {
        "final_train_nats": final["train"],
        "final_val_nats": final["val"],
        "best_val_nats": best_val,
        "best_step": best["step"],
        "steps": loop.step,
        "train_seconds": loop.memory["train_seconds"],
        "tokens_per_second": loop.tokens_per_second(),
        "params": sum(leaf.size for leaf in jax.tree.leaves(loop.state.params)),
        "count_bigram_train_nats": bigram["train"],
        "count_bigram_val_nats": bigram["val"],
        "corpus": exp.corpus.name,
        "verdict": verdict,
    }
    metrics.write_json(loop.workdir / runs.SUMMARY, summary)
    records = metrics.read(loop.workdir / runs.METRICS)
    no_picture = plot.loss_curves(
        loop.workdir / runs.CURVE,
        plot.curves_of(records),
        {"count bigram": bigram["val"]},
        f"{config.name} on {exp.corpus.name}",
    )
    say = loop.terminal.note
    text = next((line["sample"] for line in reversed(records) if line.get("sample")), "")
    if text:
        say(f"sample, temperature {config.sample.temperature}:")
        loop.terminal.sample(text)
    say(
        f"exact loss over the whole split, nats per token: train {final['train']:.4f}, val "
        f"{final['val']:.4f}; best val {best_val:.4f}, of step {best['step']:,}"
    )
    say(
        f"trained {loop.step:,} steps in {metrics.duration(summary['train_seconds'])}, "
        f"{summary['tokens_per_second']:,.0f} tokens/s; all of it is in {loop.workdir}"
    )
    if no_picture:
        say(no_picture)
    loop.terminal.verdict(verdict, ok)
    return summary
