"""The first and the last page of a run: what it is about to do, and what came of it.

In: an ``Experiment``, its state, the trainer's ``Progress``. Out: the header on the console and
run.json; the exact losses, the curve, the verdict and summary.json.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gptjax.checkpoints import pytree, run
from gptjax.config import schema
from gptjax.data import corpora, dataset
from gptjax.data.dataset import Split
from gptjax.errors import UserError
from gptjax.evaluation.baselines import block_losses
from gptjax.evaluation.loss_eval import bits_per
from gptjax.evaluation.run_table import mean_and_error
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.console import Terminal, duration
from gptjax.monitoring.param_table import model_rows
from gptjax.runtime import devices, fast_paths
from gptjax.training.experiment import Experiment
from gptjax.training.resume import FREE, Progress

Loss = tuple[float, float | None]  # nats per token, and its error
MOST_MEASURED = 5_000_000  # predictions of a split: a minute or two, where all might take hours
BIGRAM_REACHES = 0.02  # nats: how near a trained table of pairs comes to the count bigram
TRY = "raise train.steps if the curve still falls, else try another optim.learning_rate"


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
        "begins": _beginning(exp),
        "learns": _what_learns(exp, params),
        "computed": fast_paths.line(fast_paths.resolve(config.model)),
        "folder": str(workdir),
        "baseline": f"count bigram (add-one): val {exp.bigram_nats['val']:.4f} nats per token",
    }
    lines = {name: line for name, line in lines.items() if line}
    terminal.header(lines=lines, model_rows=model_rows(params))
    advice = "" if step else corpora.advice(config.data, exp.corpus)
    for note in filter(None, (advice, devices.check(devices.guess_platform()[0]), *notes)):
        terminal.note(note)
    here = devices.facts()
    record = {"config": schema.to_dict(config), "data": facts, "machine": here}
    record |= {"start": exp.start.facts} if exp.start else {}
    record["starts"] = [*run.starts(workdir), {"step": step} | here]
    metrics.write_json(workdir / run.RECORD, record)


def _beginning(exp: Experiment) -> str:
    """With which run it begins, "" where with none."""
    if not (start := exp.start):
        return ""
    facts = start.facts
    return f"with {facts['name']} at step {facts['step']:,}, {start.folder}"


def _what_learns(exp: Experiment, params: Any) -> str:
    """How many parameters do, "" where all."""
    if not exp.tuning.freezes:
        return ""
    trained, frozen = map(pytree.n_numbers, exp.tuning.split(params))
    model, what = exp.config.model, exp.config.train.trainable
    if rank := model.lora_rank:
        lora = f"LoRA of rank {rank} on {model.lora_targets}, alpha {model.lora_alpha:g}"
        what = f"{lora}; {what}" if what else lora
    share = f"{trained / (trained + frozen):.1%}"
    return f"{trained:,} parameters of {trained + frozen:,}, {share} ({what}); the rest is frozen"


def val_losses(
    exp: Experiment, params: Any, busy: Callable, val_nats: float | None = None
) -> dict[str, Any]:
    """The exact loss on val of a run's corpus, and of that which its start learnt from.

    Nats per token, measured as in ``measure``; ``val_nats``: the first, where it has been.
    ``old_val_nats`` is None where the corpora are one, or ``old_corpus`` says why it cannot be
    measured.
    """
    if val_nats is None:
        told = busy("exact loss over val")
        val_nats = exp.evaluator.exact_loss(params, _measured(exp.splits["val"]), told)
    found = {"val_nats": val_nats}
    try:
        old = exp.start.read_corpus()
        if old.sha256 == exp.corpus.sha256:
            return found | {"old_corpus": "the same", "old_val_nats": None}
        texts, window = {"val": old.splits["val"]}, exp.config.window(old.is_items)
        how = exp.tokenizer, exp.model, old.is_items, window, exp.config.train.neighbours
        val = dataset.build(texts, *how)["val"]
    except UserError as error:
        return found | {"old_corpus": str(error), "old_val_nats": None}
    told = busy(f"exact loss over val of {old.name}")
    old_nats = exp.evaluator.exact_loss(params, _measured(val), told)
    return found | {"old_corpus": old.name, "old_val_nats": old_nats}


def _measured(val: Split) -> Split:
    """A split, of more than ``MOST_MEASURED`` predictions so many in evenly spread rows."""
    return val.sample(max(1, MOST_MEASURED // val.window))


def _learnt_and_forgotten(figures: dict[str, Any]) -> str:
    """What the training did to the loss on its corpus, and on the one its start learnt from."""
    start, before = figures["start"], figures["start"]["before"]
    both = f"{before['val_nats']:.4f} -> {figures['final_val_nats']:.4f}"
    said, old, now = (
        f"learnt, nats per token: val of {figures['corpus']} {both}",
        before["old_val_nats"],
        None,
    )
    if old is not None and (now := start["after"]["old_val_nats"]) is not None:
        side = "forgotten" if now > old else "not forgotten"
        return f"{said}; {side}: val of {before['old_corpus']} {old:.4f} -> {now:.4f}"
    why = before["old_corpus"] if old is None else start["after"]["old_corpus"]
    if why == "the same":
        return said
    return f"{said}; what was forgotten is not known: {why}"


def measure(
    exp: Experiment, workdir: Path, params: Any, progress: Progress, busy: Callable, warn: Callable
) -> dict[str, Any]:
    """The figures of summary.json: exact losses of the last and the best parameters, and speed.

    The run is at its last step, with ``params``, and its best checkpoint is complete. The loss of
    val is over all of it, or rows that are evenly spread where it has more than ``MOST_MEASURED``
    predictions; that of train over as many evenly spread rows. ``busy`` of a label makes who is
    told (done, total) predictions. ``train_seconds`` are those of all steps, ``compile_seconds`` of
    them waited for the compiler, None where no step was timed without it, and at most
    ``gather_seconds`` for batches; for the errors see ``run_table.ERROR_MEANS``.
    """
    val = _measured(exp.splits["val"])
    train = exp.splits["train"].sample(val.n_rows)

    def val_loss(params: Any) -> Loss:
        told = busy("exact loss over val")
        return mean_and_error(block_losses(exp.evaluator, params, val, told))

    train_nats = exp.evaluator.exact_loss(params, train, busy("exact loss over train"))
    val_nats, val_error = val_loss(params)
    steps = exp.config.train.steps
    best_step, best_val, best_error = steps, val_nats, val_error
    if progress.best_step != steps and (best := _best(workdir, progress.best_step, warn)):
        best_step, (best_val, best_error) = best.step, val_loss(exp.placement.put(best.params))
    per_second = progress.steps_per_second
    compiling = progress.train_seconds - steps / per_second if per_second else None
    return {
        "final_train_nats": train_nats,
        "final_train_tokens": train.n_predicted,
        "final_val_tokens": val.n_predicted,
        "final_val_nats": val_nats,
        "final_val_nats_error": val_error,
        "best_val_nats": best_val,
        "best_val_nats_error": best_error,
        **_in_bits(exp, val_nats, best_val),
        "best_step": best_step,
        "steps": steps,
        "train_seconds": progress.train_seconds,
        "compile_seconds": compiling,
        "gather_seconds": progress.gather_seconds,
        "evaluation_seconds": progress.evaluation_seconds,
        "checkpoint_seconds": progress.checkpoint_seconds,
        "tokens_per_second": exp.tokens_per_step * progress.steps_per_second,
        "params": pytree.n_numbers(params),
        "count_bigram_train_nats": exp.bigram_nats["train"],
        "count_bigram_val_nats": exp.bigram_nats["val"],
        "corpus": exp.corpus.name,
    } | _since_the_start(exp, params, busy, val_nats)


def _since_the_start(
    exp: Experiment, params: Any, busy: Callable, val_nats: float
) -> dict[str, Any]:
    """Of a run that began with another: which, and ``val_losses`` before and after."""
    if not exp.start:
        return {}
    facts = {name: fact for name, fact in exp.start.facts.items() if name != "config"}
    return {"start": facts | {"after": val_losses(exp, params, busy, val_nats)}}


def _best(workdir: Path, step: int | None, warn: Callable) -> run.Run | None:
    """The run at its best checkpoint, of ``step`` unless that is gone; None: it cannot be read."""
    try:
        best = run.open_run(workdir, "best")
    except UserError as error:  # a night's run still has its last parameters
        warn(f"{error}; best_val_nats is that of the last step")
        return None
    if best.step != step:
        gone = f"the best checkpoint, of step {step}, is not there any more"
        warn(f"{gone}: best_val_nats is that of step {best.step}")
    return best


def _in_bits(exp: Experiment, final_nats: float, best_nats: float) -> dict[str, float | None]:
    """The losses of val as they compare with those of other tokens; None where no text is made."""
    val = exp.splits["val"]
    return {
        "final_val_bits_per_character": bits_per(val.characters, final_nats, val),
        "final_val_bits_per_byte": bits_per(val.n_bytes, final_nats, val),
        "best_val_bits_per_byte": bits_per(val.n_bytes, best_nats, val),
    }


def _spread(figures: dict[str, Any], exp: Experiment, split: str) -> str:
    """Of how many predictions a loss is the mean, where it is not that of all."""
    n = figures.get(f"final_{split}_tokens")  # an older summary's is over all of them
    return f" over {n:,} evenly spread" if n and n < exp.splits[split].n_predicted else ""


def last_page(exp: Experiment, workdir: Path, terminal: Terminal, figures: dict[str, Any]) -> None:
    """Show what came of a run."""
    config, say = exp.config, terminal.note
    if text := metrics.last_sample(metrics.read(workdir / run.METRICS)):
        say(f"sample, temperature {config.sample.temperature}:")
        terminal.sample(text)
    error, of_best = figures.get("final_val_nats_error"), ""
    sure = f" ± {error:.4f} by the choice of val text" if error is not None else ""
    if figures["best_step"] != figures["steps"]:
        of_best = f"; best checkpoint, by its estimate, of step {figures['best_step']:,}: val "
        of_best += f"{figures['best_val_nats']:.4f}"
    train, val = figures["final_train_nats"], figures["final_val_nats"]
    of_train, of_val = (_spread(figures, exp, split) for split in ("train", "val"))
    both = f"train {train:.4f}{of_train}, val {val:.4f}{sure}{of_val}{of_best}"
    say(f"exact loss, nats per token: {both}")
    if (bits := figures.get("final_val_bits_per_byte")) is not None:
        per_character = figures["final_val_bits_per_character"]
        say(f"val, bits: {bits:.4f} per byte, {per_character:.4f} per character")
    if "start" in figures:
        say(_learnt_and_forgotten(figures))
    say(_took(figures))


def _took(figures: dict[str, Any]) -> str:
    """How long the steps took, and apart from them compiling and evaluating."""
    steps, compiling = figures["steps"], figures.get("compile_seconds")
    if not steps:
        return "no steps, nothing was trained"
    speed, seconds, evaluating = "", figures["train_seconds"], figures.get("evaluation_seconds")
    if compiling is not None:  # seconds x tokens/s = steps x tokens of a step
        seconds -= compiling
        speed = f" ({figures['tokens_per_second']:,.0f} tokens/s), after {duration(compiling)} of"
    plural = "s" if steps > 1 else ""
    said = f"trained {steps:,} step{plural} in {duration(seconds)}{speed or ', with'} compiling"
    return said + (f"; evaluations and samples {duration(evaluating)}" if evaluating else "")


def write_last_page(
    exp: Experiment,
    workdir: Path,
    terminal: Terminal,
    figures: dict[str, Any],
    expected: Mapping[str, Any],
    no_band: str = "",
) -> None:
    """Write summary.json and loss.png, and show the verdict; ``no_band``: see ``fit``.

    ``expected``: the bands of the config as it was given. The run's last checkpoint is complete. A
    full disk costs the files and not the figures shown.
    """
    band = expected.get(exp.corpus.name)
    figures["verdict"], ok = verdict(exp, figures, band, no_band)
    metrics.write_json(workdir / run.SUMMARY, figures)
    curves = plots.curves_of(metrics.read(workdir / run.METRICS), plots.exact_of(figures))
    baseline = {"count bigram": figures["count_bigram_val_nats"]}
    title = f"{exp.config.name} on {exp.corpus.name}: loss while training"
    with terminal.doing(f"drawing {run.CURVE}"):
        no_picture = plots.loss_curves(workdir / run.CURVE, curves, baseline, title)
    if no_picture:
        terminal.note(no_picture)
    terminal.note(f"everything is in {workdir}")
    terminal.verdict(figures["verdict"], ok)


def verdict(
    exp: Experiment, figures: dict[str, Any], band: tuple[float, float] | None, changed: str = ""
) -> tuple[str, bool | None]:
    """One sentence that says whether the last loss is normal, and whether it is (None: unknown).

    ``band``: (low, high) that the config expects of this corpus, nats per token; ``changed``:
    settings that differ from those that it is of, see ``why_no_band``.
    """
    config, val, corpus = exp.config, figures["final_val_nats"], exp.corpus.name
    gap = val - (bigram := figures["count_bigram_val_nats"])
    pairs = config.model.kind in ("bigram", "bigram_embed")
    if not math.isfinite(val):
        return f"val {val}: the training diverged, lower optim.learning_rate", False
    if not config.predicts_next:
        return f"val {val:.2f}: neighbours are hard to guess; look near shows what it learnt", None
    side = f"{abs(gap):.4f} {'above' if gap > 0 else 'below'}" if round(gap, 4) else "equal to"
    beside = f"{side} the count bigram's {bigram:.4f}"
    if band and not changed:
        said, ok = against_band(val, band)
        return said + (f"; {beside}, about the best that pairs can do" if pairs and ok else ""), ok
    said = f"val {val:.4f} nats per token, {beside}"
    if pairs and gap < BIGRAM_REACHES:
        return f"{said}: as expected, it is about the best that pairs can do", True
    if pairs:
        return f"{said}, which a table of pairs can reach: {TRY}", None
    why = f"no config says what to expect of {corpus}"
    if band:
        why = f"with {changed} changed, the config's {band[0]:.2f}–{band[1]:.2f} need not hold"
    return f"{said}; {why}" + (f": {TRY}" if gap > 0 and figures["steps"] else ""), None


def against_band(val_nats: float, band: tuple[float, float]) -> tuple[str, bool]:
    """Whether a loss is in the (low, high) that a config expects, nats per token, as a sentence."""
    low, high = band
    # Two decimals, unless the band has more or they put the loss on the other side of its edge.
    same = (low <= round(val_nats, 2) <= high) == (low <= val_nats <= high)
    digits = 2 if same and all(x == round(x, 2) for x in band) else 4
    loss, expected = f"{val_nats:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f} nats per token"
    if low <= val_nats <= high:
        return f"val {loss}: as expected, {expected}", True
    if val_nats < low:
        return f"val {loss}: {low - val_nats:.{digits}f} better than expected, {expected}", True
    return (
        f"val {loss}: {val_nats - high:.{digits}f} above what is expected, {expected}: {TRY}",
        False,
    )


def why_no_band(overridden: Iterable[str]) -> str:
    """The settings without which a config's expected band need not hold, "" where it does.

    A band is one of a corpus, so naming another is covered; so is another seed. How often a run
    evaluates changes what it shows and not what it learns.
    """
    free = {*FREE, "data.name", "seed", "train.eval_every", "train.eval_iters"} - {"train.steps"}
    return ", ".join(path for path in overridden if not {path, path.split(".")[0]} & free)
