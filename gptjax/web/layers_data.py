"""The part of the page about health: activations, gradients and updates per layer, on one batch.

In: a run and its ``Context``. Out: JSON of ``interpret/layers``. The batch is of the train split
and the same at every checkpoint; without a corpus it is the text that the page shows.
"""

from __future__ import annotations

from typing import Any

from gptjax.checkpoints.run import Run
from gptjax.data.batching import Batch
from gptjax.interpret import layers
from gptjax.interpret.layers import Flow, Matrix, Spread
from gptjax.web.context import Context


def layers_facts(run: Run, ctx: Context) -> dict[str, Any] | None:
    """Where the batch is from, and its size; None where there is none, or nothing was learnt."""
    if (batch := _batch(run, ctx)) is None:
        return None
    return {
        "from": "train" if ctx.splits else "text",
        "rows": batch.y.shape[0],
        "tokens": int(batch.w.sum()),
        "saturated": layers.SATURATED,
        "far": layers.FAR,
    }


def layers_data(run: Run, ctx: Context) -> dict[str, Any] | None:
    """``layers.at_checkpoint`` of the batch."""
    if (batch := _batch(run, ctx)) is None:
        return None
    found = layers.at_checkpoint(run, ctx.workdir, batch)
    return {
        "nats": found.nats,
        "learning_rate": found.learning_rate,
        "no_updates": found.no_updates,
        "flows": [_flow(flow) for flow in found.flows],
        "matrices": [_matrix(matrix) for matrix in found.matrices],
    }


def _batch(run: Run, ctx: Context) -> Batch | None:
    if run.config.model.kind == "ngram":  # counted, and not learnt by gradients
        return None
    if ctx.splits:
        return layers.draw(run, ctx.splits["train"])
    return layers.of_text(run, ctx.text) if run.config.predicts_next else None


def _flow(flow: Flow) -> dict[str, Any]:
    said = {"name": flow.place.name, "kind": flow.place.kind, "units": flow.units}
    said |= {"values": _spread(flow.values), "gradient": _spread(flow.gradient)}
    states = {name: getattr(flow, name) for name in ("saturated", "zero", "dead", "norm")}
    return said | states


def _spread(spread: Spread) -> dict[str, Any]:
    low, high, counts = spread.histogram
    histogram = {"low": low, "high": high, "counts": counts.tolist()}
    return {"mean": spread.mean, "std": spread.std, **histogram}


def _matrix(matrix: Matrix) -> dict[str, Any]:
    ratios = {"grad_to_data": matrix.grad_to_data, "update_to_data": matrix.update_to_data}
    return {**matrix._asdict(), "shape": list(matrix.shape), **ratios}
