"""What a page is made from: a run, what its folder says of it, its corpus, the text that is shown.

In: a folder and a run of it. Out: a ``Context``. What is not there is None, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.data import dataset
from gptjax.data.corpora import Corpus
from gptjax.data.dataset import Split
from gptjax.errors import UserError
from gptjax.generation.generate import ITEMS_SHOWN
from gptjax.monitoring import metrics
from gptjax.runtime.atomic_files import read_json

CHARACTERS = 4000  # of val that a page may show
SEED = 1337  # of what is drawn for a page


@dataclasses.dataclass(frozen=True)
class Context:
    """What the panels of a page have in common.

    ``workdir`` is None of a run without a folder, of which only the model is known.
    ``text`` is what the text panel shows, ``text_from`` where it comes from: "user", "val",
    "sample". ``splits`` and ``corpus`` are None where the corpus is not there, for the reason
    ``no_corpus``. ``records``: of metrics.jsonl; ``summary``, ``record``: summary.json, run.json.
    ``n_checkpoints`` share the room of a page; in ``kept`` a panel keeps what it needs again.
    """

    workdir: Path | None
    text: str
    text_from: str
    corpus: Corpus | None = None
    splits: Mapping[str, Split] | None = None
    no_corpus: str = ""
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    n_checkpoints: int = 1
    kept: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def of_run(
    run: Run,
    workdir: Path | None = None,
    text: str = "",
    known: tuple[Corpus, Mapping[str, Split]] | None = None,
) -> Context:
    """The context of a run in a folder; ``text``: the user's, and ``known``: the corpus, if read.

    ``workdir`` None: the folder where the run was opened, if it was.

    UserError: a text with a token that the run does not know.
    """
    corpus, splits, why = None, None, ""
    workdir = workdir or run.folder
    try:
        corpus, splits = known or _read(run, workdir or Path(run.config.name))
    except UserError as error:
        why = str(error)
    records = metrics.read(workdir / runs.METRICS) if workdir else []
    shown, source = (text, "user") if text else _own_text(run, corpus, splits, records)
    run.tokenizer.encode(shown)  # what it lacks is said before anything is computed
    record = read_json(workdir / runs.RECORD, runs.JSON_LIMIT) if workdir else None
    return Context(
        workdir=workdir,
        text=shown,
        text_from=source,
        corpus=corpus,
        splits=splits,
        no_corpus=why,
        records=records,
        summary=runs.summary(workdir) if workdir else None,
        record=record if isinstance(record, dict) else None,
    )


def _read(run: Run, workdir: Path) -> tuple[Corpus, Mapping[str, Split]]:
    corpus = run.read_corpus(workdir)
    texts, window = corpus.encoded(run.tokenizer), run.config.window(run.items)
    how = run.tokenizer, run.model, run.items, window, run.config.train.neighbours
    return corpus, dataset.build(texts, *how)


def _own_text(
    run: Run, corpus: Corpus | None, splits: Mapping[str, Split] | None, records: list
) -> tuple[str, str]:
    """The beginning of val; without a corpus what the run wrote last, or writes now."""
    if corpus is not None and corpus.is_items and not corpus.prepared:
        lines = str(corpus.splits["val"]).splitlines()[: 2 * ITEMS_SHOWN]
        return "\n".join(lines), "val"
    if splits is not None and run.config.predicts_next:
        return run.tokenizer.decode(splits["val"].tokens[:CHARACTERS])[:CHARACTERS], "val"
    if not run.config.predicts_next:
        return "", "val"
    sample = metrics.last_sample(records)
    if not sample:
        made = run.generate(max_new_tokens=run.model.block_size, seed=SEED)
        sample = made[0].text
    return sample.strip("\n") if run.items else sample, "sample"
