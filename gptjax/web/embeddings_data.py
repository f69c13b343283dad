"""The part of the page about tables: vectors on a plane, places, what follows a token, windows.

In: a run and its ``Context``. Out: JSON of ``interpret/tables``. The ids that are shown are the
same at every checkpoint.
"""

from __future__ import annotations

from typing import Any

from gptjax.checkpoints.run import Run
from gptjax.evaluation import probe
from gptjax.interpret import tables
from gptjax.web.arrays import pack
from gptjax.web.context import Context


def embeddings_facts(run: Run, ctx: Context) -> dict[str, Any]:
    """The tokens of the plane and of the table, the counts beside it, the sizes of a window.

    "counts" is None where the corpus is not there. "window": of ``block_size`` tokens, ``start`` is
    shown where a text has not begun; None where the model has none, "too_large" one that the page
    cannot compute.
    """
    ids, paired = tables.shown(run, ctx.splits), tables.paired(run, ctx.splits)
    facts: dict[str, Any] = {
        "ids": pack(ids, "int"),
        "of": len(probe.alike(run, [])),
        "chosen": "frequent" if ctx.splits else "first",
        "width": getattr(run.model, "n_embd", run.tokenizer.vocab_size),
        "paired": pack(paired, "int"),
        "counts": None,
        "window": None,
    }
    if ctx.splits and run.config.predicts_next:
        counts = tables.counts(ctx.splits, run.tokenizer.vocab_size, paired)
        arrays = {"pairs": pack(counts.pairs, "int"), "first": pack(counts.first, "int")}
        facts["counts"] = {**arrays, "add": counts.add}
    if tables.has_window(run):
        window = {"block_size": run.model.block_size, "start": run.model.start_id}
        too_large = tables.window(run) is None
        facts["window"] = window | {"kind": run.config.model.kind, "too_large": too_large}
    return facts


def embeddings_data(run: Run, ctx: Context) -> dict[str, Any]:
    """The plane's points with neighbours, cosines of places, P(next | one token), parameters."""
    made: dict[str, Any] = dict.fromkeys(("plane", "places", "after", "window"))
    if tables.has_vectors(run):
        ids = tables.shown(run, ctx.splits)
        points, kept = tables.plane(run, ids)
        near = tables.nearest(run, ids)
        made["plane"] = {
            "points": pack(points, "float"),
            "kept": kept,
            "near": pack(near.ids, "int"),
            "cosines": pack(near.cosines, "float"),
        }
    if (found := tables.positions(run)) is not None:
        places, cosines = found
        made["places"] = {"at": pack(places, "int"), "cosines": pack((cosines + 1) / 2, "unit")}
    if (after := tables.after_each(run, tables.paired(run, ctx.splits))) is not None:
        made["after"] = pack(after, "unit")
    if (params := tables.window(run)) is not None:
        kinds = {name: "unit" if name == "table" else "float" for name in params}
        made["window"] = {name: pack(value, kinds[name]) for name, value in params.items()}
    return made
