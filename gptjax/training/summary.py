"""The first and the last page of a run: what it is about to do, and what came of it.

In: an ``Experiment``, its state, the trainer's ``Progress``. Out: the header on the console and
run.json; the exact losses, the curve, the verdict and summary.json.
"""

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from gptjax.checkpoints import run
from gptjax.config import schema
from gptjax.data import corpora
from gptjax.errors import UserError
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.console import Terminal, duration
from gptjax.monitoring.param_table import model_rows
from gptjax.runtime import devices
from gptjax.training.experiment import Experiment
from gptjax.training.resume import FREE, Progress


def first_page(
    exp: Experiment, workdir: Path, terminal: Terminal, params: Any, step: int, notes: list[str]
) -> None:
    """Say what is about to happen from ``step`` on, and record it in the folder."""
    config, facts = exp.config, exp.corpus.facts() | {"vocabulary": exp.tokenizer.vocab_size}
    splits = ", ".join(f"{name} {split.n_predicted:,}" for name, split in exp.splits.items())
    items = facts.get("items_per_split")
    n_items = f", {sum(items.values()):,} items" if items else ""
    if dropped := facts.get("duplicates"):
        n_items += f" ({dropped:,} repeated lines dropped)"
    lines = {
        "device": devices.device_line(),
        "corpus": f"{facts['name']} ({facts['source']})",
        "text": f"{facts['characters']:,} characters{n_items}, sha256 {facts['sha256'][:8]}",
        "tokens": f"{config.tokenizer.kind}, vocabulary {facts['vocabulary']:,}; {splits}",
        "training": f"{config.train.steps:,} steps of {exp.tokens_per_step:,.0f} tokens",
        "folder": str(workdir),
        "baseline": f"count bigram (add-one): val {exp.bigram_nats['val']:.4f} nats per token",
    }
    title = config.name + (f" ({config.why})" if config.why else "")
    terminal.header(title=title, lines=lines, model_rows=model_rows(params))
    advice = "" if step else corpora.advice(config.data, exp.corpus)
    for note in filter(None, (advice, devices.check(devices.guess_platform()[0]), *notes)):
        terminal.note(note)
    here = devices.facts()
    record = {"config": schema.to_dict(config), "data": facts, "machine": here}
    record["starts"] = [*run.starts(workdir), {"step": step} | here]
    metrics.write_json(workdir / run.RECORD, record)


def measure(
    exp: Experiment, workdir: Path, params: Any, progress: Progress, busy: Callable, warn: Callable
) -> dict[str, Any]:
    """The figures of summary.json: exact losses of the last and the best parameters, and speed.

    The run is at its last step, with ``params``, and its best checkpoint is complete. As
    predictions are made, ``busy`` is told (label, done, total).
    """

    def exact_loss(params: Any, split: str) -> float:
        told = functools.partial(busy, f"exact loss over {split}")
        return exp.evaluator.exact_loss(params, exp.splits[split], told)

    final = {split: exact_loss(params, split) for split in ("train", "val")}
    steps, best_step, best_val = exp.config.train.steps, progress.best_step, final["val"]
    if best_step != steps:
        try:
            best = run.open_run(workdir, "best")
        except UserError as error:  # a night's run still has its last parameters
            warn(f"{error}; best_val_nats is that of the last step")
            best_step = steps
        else:
            if best.step != best_step:
                warn(
                    f"the best checkpoint, of step {best_step}, is not there any more: "
                    f"best_val_nats is that of step {best.step}"
                )
            best_step, best_val = best.step, exact_loss(exp.placement.put(best.params), "val")
    return {
        "final_train_nats": final["train"],
        "final_val_nats": final["val"],
        "best_val_nats": best_val,
        "best_step": best_step,
        "steps": steps,
        "train_seconds": progress.train_seconds,
        "evaluation_seconds": progress.evaluation_seconds,
        "checkpoint_seconds": progress.checkpoint_seconds,
        "tokens_per_second": exp.tokens_per_step * progress.steps_per_second,
        "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "count_bigram_train_nats": exp.bigram_nats["train"],
        "count_bigram_val_nats": exp.bigram_nats["val"],
        "corpus": exp.corpus.name,
    }


def last_page(
    exp: Experiment, workdir: Path, terminal: Terminal, figures: dict[str, Any], no_band: str = ""
) -> None:
    """Show what came of a run, and add the verdict to its figures; ``no_band``: see ``fit``."""
    config, say = exp.config, terminal.note
    band = None if no_band else config.expected.get(exp.corpus.name)
    why = no_band or f"{config.name} has no band for {exp.corpus.name}"
    figures["verdict"], ok = verdict(figures["final_val_nats"], band, why)
    if text := metrics.last_sample(metrics.read(workdir / run.METRICS)):
        say(f"sample, temperature {config.sample.temperature}:")
        terminal.sample(text)
    say(
        "exact loss over the whole split, nats per token: "
        f"train {figures['final_train_nats']:.4f}, val {figures['final_val_nats']:.4f}; "
        f"best val {figures['best_val_nats']:.4f}, of step {figures['best_step']:,}"
    )
    say(
        f"trained {figures['steps']:,} steps in {duration(figures['train_seconds'])}, "
        f"{figures['tokens_per_second']:,.0f} tokens/s; everything is in {workdir}"
    )
    terminal.verdict(figures["verdict"], ok)


def write_last_page(exp: Experiment, workdir: Path, terminal: Terminal, figures: dict) -> None:
    """Write summary.json and loss.png; a full disk costs the files and not the figures shown."""
    metrics.write_json(workdir / run.SUMMARY, figures)
    curves = plots.curves_of(metrics.read(workdir / run.METRICS))
    baseline = {"count bigram": figures["count_bigram_val_nats"]}
    title = f"{exp.config.name} on {exp.corpus.name}"
    if no_picture := plots.loss_curves(workdir / run.CURVE, curves, baseline, title):
        terminal.note(no_picture)


def verdict(val_nats: float, band: tuple | None, why_none: str = "") -> tuple[str, bool | None]:
    """One line that says whether an exact loss is normal, and whether it is (None: nobody knows).

    ``band``: (low, high) that the config expects, nats per token; ``why_none``: why there is none.
    """
    if band is None:
        return f"val {val_nats:.2f}: nothing to compare with ({why_none or 'no band'})", None
    low, high = band
    if not math.isfinite(val_nats):
        return f"val {val_nats}: the training diverged, lower optim.learning_rate", False
    # Two decimals, unless the band has more or they put the loss on the other side of its edge.
    same = (low <= round(val_nats, 2) <= high) == (low <= val_nats <= high)
    digits = 2 if same and all(x == round(x, 2) for x in band) else 4
    loss, expected = f"{val_nats:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f}"
    if low <= val_nats <= high:
        return f"val {loss}: as expected, {expected} nats per token", True
    if val_nats < low:
        return f"val {loss}: better than expected ({expected} nats per token)", True
    hint = "if the curve still falls, raise train.steps, else try another optim.learning_rate"
    return f"val {loss}: higher than expected ({expected} nats per token): {hint}", False


def why_no_band(overridden: Iterable[str]) -> str:
    """Why a file's expected band says nothing of a run with these fields changed, "" if it does."""
    # A band is one of a corpus, so naming another is covered; so is another seed. How often a run
    # evaluates changes what it shows and not what it learns.
    free = {*FREE, "data.name", "seed", "train.eval_every", "train.eval_iters"} - {"train.steps"}
    changed = [path for path in overridden if not {path, path.split(".")[0]} & free]
    return f"settings differ from the file's ({', '.join(changed)})" if changed else ""
