"""What was trained and how it went, as JSON: facts, losses, curves, samples, diagrams.

In: a run and its ``Context``. Out: the facts of the panels run, samples and diagrams. What the
folder does not say is None: a model that came from elsewhere has no curves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.checkpoints.run import SIZES, Run
from gptjax.data.dataset import Split
from gptjax.evaluation import count_models
from gptjax.interpret import diagrams
from gptjax.web.context import Context

MOST_POINTS = 1000  # of a curve
MOST_SAMPLES = 200_000  # characters of all samples together
MOST_COUNTED = 20_000_000  # tokens that are counted for a line to compare with: a second or two
CURVES = ("loss_nats", "train_nats", "val_nats", "learning_rate", "grad_norm")


def run_facts(run: Run, ctx: Context) -> dict[str, Any]:
    """The panel "run": what was trained, its exact losses, verdict, curves and lines."""
    config, record = run.config, ctx.record or {}
    steps = [r["step"] for r in ctx.records]
    has = {field.name for field in dataclasses.fields(run.model)} | {"block_size"}
    starts = record.get("starts") or [record.get("machine") or {}]
    return {
        "title": config.title,
        "why": config.why,
        "sizes": {name: getattr(run.model, name) for name in SIZES if name in has},
        "parameters": run.n_parameters,
        "data": run.data,
        "training": {
            "steps": config.train.steps,
            "batch_size": config.train.batch_size * config.train.accumulate,
            "optimizer": config.optim.name,
            "learning_rate": config.optim.learning_rate,
            "schedule": config.optim.schedule,
            "dropout": config.model.dropout,
            "seed": config.seed,
        },
        "last_step": max(steps, default=run.step),
        "predicts_next": config.predicts_next,
        "machine": _machine(starts[-1]),
        "losses": _losses(ctx.summary),
        "summary": ctx.summary,
        "first": _first_estimate(ctx.records),
        "began_trained": bool(config.train.init_from),
        "curves": {name: curve(ctx.records, name) for name in CURVES},
        "lines": lines(run, ctx),
    }


def _first_estimate(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The earliest loss that was estimated, on val or on batches, and at which step."""
    found = [
        {"step": record["step"], "nats": record[name]}
        for name in ("val_nats", "loss_nats")
        for record in records
        if isinstance(record.get(name), float)
    ]
    return min(found, key=lambda one: one["step"], default=None)


def _machine(start: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the last start recorded: when, on which device, with which versions."""
    kept = ("started", "os", "versions", "devices", "git")
    return {name: start[name] for name in kept if name in start}


def _losses(figures: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The exact losses of a finished run, nats per token: of its last step, and of its best."""
    if figures is None:
        return []
    last, best = figures["steps"], figures["best_step"]
    found = [("train", "final_train", last), ("val", "final_val", last)]
    found += [("val", "best_val", best)] if best != last else []
    return [
        {
            "split": split,
            "step": step,
            "nats": figures[f"{name}_nats"],
            "error": figures.get(f"{name}_nats_error"),
            "tokens": figures.get(f"final_{split}_tokens"),
        }
        for split, name, step in found
    ]


def curve(records: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A number of ``metrics.jsonl`` over the steps: {"x", "y", "of": how many there were}.

    What is null there, a loss that was not finite, is left out and counted in "missing".
    """
    points = [(r["step"], r[name]) for r in records if name in r]
    finite = [(x, y) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]
    kept = [finite[i] for i in thinned([y for _, y in finite])]
    return {
        "x": [x for x, _ in kept],
        "y": [y for _, y in kept],
        "of": len(finite),
        "missing": len(points) - len(finite),
    }


def thinned(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Which values stand for all of them, rising: at most ``most`` (4 or more).

    They are the first, the last, and of each part of those in between the least and the largest.
    """
    n = len(values)
    if n <= most:
        return list(range(n))
    edges = np.linspace(1, n - 1, (most - 2) // 2 + 1).astype(int)
    kept = {0, n - 1}
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        part = np.asarray(values[begin:end])
        kept |= {int(begin + part.argmin()), int(begin + part.argmax())}
    return sorted(kept)


def lines(run: Run, ctx: Context) -> dict[str, float | None]:
    """Losses on val to compare with, nats per token: of knowing nothing, of counting.

    None: the corpus is not here, or longer than ``MOST_COUNTED``.
    """
    V = run.tokenizer.vocab_size
    splits, figures = ctx.splits, ctx.summary or {}
    unigram, bigram = None, figures.get("count_bigram_val_nats")
    if splits is not None and len(splits["train"].tokens) <= MOST_COUNTED:
        unigram = unigram_nats(splits, V)
        if bigram is None:
            bigram = count_models.count_bigram_nats(splits, V)["val"]
    return {"uniform": math.log(V), "unigram": unigram, "count_bigram": bigram}


def unigram_nats(splits: Mapping[str, Split], V: int) -> float:
    """The loss on val of the (add-one) shares of single tokens in train, nats per token."""
    nats_V = count_models.unigram_nats(
        count_models.token_counts(splits["train"].tokens, V), np.arange(V)
    )
    n_V = count_models.token_counts(splits["val"].pairs()[1], V)
    return float(nats_V @ n_V / n_V.sum())


def samples_facts(run: Run, ctx: Context) -> dict[str, Any] | None:
    """The panel "samples": what each evaluation wrote, with its estimates of the losses.

    Where the texts are more than ``MOST_SAMPLES`` characters, evenly spread ones; "of" says of how
    many. None of a run that wrote none.
    """
    found = [r for r in ctx.records if isinstance(r.get("sample"), str) and r["sample"]]
    if not found:
        return None
    most = max(2, int(MOST_SAMPLES / np.mean([len(r["sample"]) for r in found])))
    last = len(found) - 1
    places = range(len(found))
    if len(found) > most:
        places = sorted({round(i * last / (most - 1)) for i in range(most)})
    kept = ("step", "train_nats", "val_nats", "sample")
    return {
        "of": len(found),
        "temperature": run.config.sample.temperature,
        "prompt": run.config.sample.prompt,
        "each": [{name: found[place].get(name) for name in kept} for place in places],
    }


def diagrams_facts(run: Run, ctx: Context) -> dict[str, Any]:
    """The panel "diagrams": the boxes of the notes' diagrams, see ``interpret/diagrams.py``."""
    found = diagrams.diagrams(run.config, run.model, run.params)
    return {"parameters": run.n_parameters, "diagrams": [_diagram(one) for one in found]}


def _diagram(one: diagrams.Diagram) -> dict[str, Any]:
    rows = [
        [dataclasses.asdict(box) | {"count": box.count} for box in row]  # a property is no field
        for row in one.rows
    ]
    return {"name": one.name, "count": one.count, "rows": rows, "skips": one.skips}
