"""Tiny runs for the tests of continuing, interrupting and damaging: seconds, not minutes."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import signal
from pathlib import Path

import jax
import numpy as np

from gptjax.checkpoints import store
from gptjax.config import base
from gptjax.config.parse import from_dict
from gptjax.config.schema import to_dict
from gptjax.monitoring import plots
from gptjax.monitoring.console import Terminal
from gptjax.runtime.preemption import Stopped
from gptjax.training import experiment, trainer
from gptjax.training.trainer import Trainer

STEPS, EVAL_EVERY = 23, 7
TIMES = ("train_seconds", "compile_seconds", "gather_seconds", "evaluation_seconds")
TIMES += ("checkpoint_seconds", "tokens_per_second", "verdict")


def write_text(folder: Path) -> Path:
    """A text of 1,500 letters: little enough that the exact loss takes no time."""
    letters = random.Random(5)
    words = ["".join(letters.choices("abcdefg", k=letters.randint(2, 6))) for _ in range(40)]
    path = folder / "words.txt"
    path.write_text("\n".join(letters.choices(words, k=300)) + "\n", encoding="utf-8")
    return path


def config(text: Path, kind: str = "bigram", **changes):
    """A config of 23 steps that evaluates at 0, 7, 14, 21 and 23; ``changes`` name its groups."""
    c = base()
    c.name = f"tiny-{kind}"
    c.data.update(path=str(text), kind="items" if kind == "mlp" else "stream")
    sizes = {"ngram": 2, "mlp": 3}
    c.model.update(kind=kind, block_size=sizes.get(kind, 6), n_layer=1, n_head=2, n_embd=6)
    c.model.update(n_hidden=7, dropout=0.2 if kind == "gpt" else 0.0)
    c.train.update(steps=STEPS, batch_size=4, eval_every=EVAL_EVERY, eval_iters=2, chunk_steps=5)
    c.optim.update(learning_rate=0.02, warmup_steps=3)
    c.sample.update(max_new_tokens=9, temperature=1.0)
    for group, values in changes.items():
        c[group].update(**values)
    return from_dict(c)


@functools.cache
def _built(key: str):
    return _build(json.loads(key))


def _build(values):
    return real_build(from_dict(values))


real_build = experiment.build


def build_once(config, **_):
    """``experiment.build`` that compiles a config's functions once for all the runs of a test."""
    return _built(json.dumps(to_dict(config), sort_keys=True))


def fit(config, workdir: Path, monkeypatch=None, stop_at=None, ends_with=Stopped):
    """Train in this process; with ``stop_at`` a SIGTERM comes as that step is done.

    Returns:
      summary.json, or the exception that ended the run.
    """
    take_in = Trainer._take_in

    def signalling(trainer, *args):
        take_in(trainer, *args)
        if stop_at is not None and trainer.step >= stop_at:
            signal.raise_signal(signal.SIGTERM)

    context = monkeypatch.context() if monkeypatch else contextlib.nullcontext()
    with context as patch, Terminal(io.StringIO(), live=False) as terminal:
        if patch:
            patch.setattr(Trainer, "_take_in", signalling)
            patch.setattr(experiment, "build", build_once)
            patch.setattr(plots, "loss_curves", lambda *_: "")  # half of the time
        try:
            return trainer.fit(config, workdir, terminal)
        except ends_with as end:
            return end


def arrays(config, workdir: Path, which="last") -> dict[str, bytes]:
    """Every array of a checkpoint, by name: dtype, shape and bytes."""
    like = build_once(config).abstract_state
    abstract = {"params": like.params, "rest": like.replace(params=None)}
    restored = store.restore(workdir, which, abstract)
    leaves = jax.tree_util.tree_leaves_with_path(restored.tree)
    found = {"notices": restored.notices}
    for path, leaf in leaves:
        array = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = (str(array.dtype), array.shape, array.tobytes())
    return found


def outcome(config, workdir: Path) -> dict:
    """All that two equal runs have in common: lines, samples, parameters, optimizer, summary."""
    summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    return {
        "metrics": (workdir / "metrics.jsonl").read_bytes(),
        "summary": {name: value for name, value in summary.items() if name not in TIMES},
        "last": arrays(config, workdir),
        "best": arrays(config, workdir, "best"),
    }
