"""The loop of training: chunks of steps, with evaluations, saves and signals between them.

In: an ``Experiment``, a work folder, a terminal and a writer of checkpoints. Out: a run that may
end at any instant and continue to the same bits, and the summary of a finished one.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import jax
import numpy as np

from gptjax import (
    checkpoint,
    evaluate,
    metrics,
    optimizer,
    runs,
    sample,
    signals,
    steps,
)
from gptjax import config as gptjax_config
from gptjax.checkpoint import Checkpoints
from gptjax.errors import UserError
from gptjax.experiment import Experiment
from gptjax.steps import TrainState
from gptjax.terminal import Terminal

# Fields in which a run and its continuation may differ: none of them changes a number of it.
FREE = ("name", "why", "expected", "checkpoint", "sample", "train.steps", "train.chunk_steps")
LOG_EVERY = 10  # steps per line of metrics.jsonl
CHUNK_SECONDS = 0.5  # how long a compiled loop runs before the run looks up


class Loop:
    """A run in motion: the state, and what has to survive beside it (``self.memory``)."""

    def __init__(
        self,
        exp: Experiment,
        workdir: Path,
        terminal: Terminal,
        checkpoints: Checkpoints,
        bigram_val: float,
    ):
        """Take the run up where the folder has it, or begin."""
        self.exp, self.workdir, self.terminal = exp, workdir, terminal
        self.checkpoints, self.bigram_val = checkpoints, bigram_val
        self.key = jax.random.fold_in(jax.random.key(exp.config.seed), 1)
        # Losses since the last line of metrics.jsonl, so that a continued run writes the same.
        self.memory = {"evaluated": -1, "best": None, "pending": []}
        # Seconds of all chunks; then steps and seconds of those that did not compile.
        self.memory |= {"train_seconds": 0.0, "timed": [0, 0.0]}
        self.resumed = None
        if checkpoint.available(workdir):
            self.state = self._take_up()
        else:
            self.state = exp.init_state()
        self.step = int(self.state.step)
        exp.tokenizer.encode(exp.config.sample.prompt)  # an unknown character speaks up now
        self.rate = optimizer.schedule(exp.config.optim, exp.config.train.steps)
        self.lines = metrics.JsonLines(workdir / runs.METRICS, self.resumed)
        self.board = metrics.TensorBoard(workdir / "tensorboard", self.resumed)
        self.saved_at = time.monotonic()
        self.compiled = False

    def _take_up(self) -> TrainState:
        config = self.exp.config
        _, meta = checkpoint.read_meta(self.workdir, "last")
        theirs = gptjax_config.from_dict(meta["config"])
        differ = gptjax_config.differences(config, theirs, FREE)
        if differ:
            raise UserError(
                f"{self.workdir} holds a run with other settings: {'; '.join(differ)}: name "
                "another --workdir, or repeat its settings to continue it"
            )
        if meta["data"]["sha256"] != self.exp.corpus.sha256:
            raise UserError(
                f"{self.workdir} holds a run on another text (sha256 {meta['data']['sha256'][:8]}"
                f" then, {self.exp.corpus.sha256[:8]} now): name another --workdir"
            )
        abstract = self.exp.abstract_state()
        restored = checkpoint.restore(
            self.workdir, "last", {"params": abstract.params, "rest": abstract.replace(params=None)}
        )
        for notice in restored.notices:
            self.terminal.warn(notice)
        if restored.step > config.train.steps:
            raise UserError(
                f"{self.workdir} is at step {restored.step}, past train.steps="
                f"{config.train.steps}: ask for more steps, or name another --workdir"
            )
        self.memory, self.resumed = restored.meta["memory"], restored.step
        return restored.tree["rest"].replace(params=restored.tree["params"])

    def run(self) -> None:
        """Step, evaluate and save until the last step or a signal."""
        steps_total, planned = self.exp.config.train.steps, 1
        with signals.watch() as stop:
            drawn = self._draw(self.step, planned)
            while True:
                self._evaluate_if_due()
                if stop.signal and self.step < steps_total:
                    self._save()
                    self.checkpoints.wait()
                    raise signals.Stopped(stop.signal, self.step)
                if self.step >= steps_total:
                    return
                n, placed = drawn
                began = time.monotonic()
                state, seen = self.exp.train_chunk(self.state, placed, n, self.key)
                # The device works on this chunk; meanwhile the host gathers the next.
                drawn = self._draw(self.step + n, planned)
                self.state, seen = state, jax.device_get(seen)
                seconds = time.monotonic() - began
                self._log(n, seen, seconds)
                planned = max(1, min(4 * n, int(n * CHUNK_SECONDS / max(seconds, 1e-9))))
                if self._minutes_passed():
                    self._save()

    def _draw(self, step: int, planned: int):
        """The next chunk: its length, up to the next event, and its batches."""
        train, save_every = self.exp.config.train, self.exp.config.checkpoint.every_steps
        ends = [train.steps, step + min(planned, train.chunk_steps)]
        ends += [step - step % every + every for every in (train.eval_every, save_every) if every]
        n = min(ends) - step
        return (n, self.exp.train_batches(step, n, train.chunk_steps)) if n > 0 else (0, None)

    def _log(self, n: int, seen: steps.StepMetrics, seconds: float) -> None:
        """Take in what ``n`` steps saw: count, write, show; stop on a loss that is not finite."""
        done = int(self.state.step) - self.step
        pending = self.memory["pending"]
        for i in range(done):
            self.step += 1
            if seen.finite[i]:
                pending.append([float(seen.loss_nats[i]), float(seen.grad_norm[i])])
            if self.step % LOG_EVERY == 0 and pending:
                loss, norm = np.mean(pending, axis=0)
                rate = float(self.rate(self.step - 1))
                line = {"step": self.step, "loss_nats": loss, "grad_norm": norm}
                self.lines.write(line | {"learning_rate": rate, "skipped": int(self.state.skipped)})
                self.board.scalars(
                    self.step, {"train/loss_nats": loss, "train/learning_rate": rate}
                )
                pending.clear()
        self.memory["train_seconds"] += seconds
        timed = self.memory["timed"]
        if self.compiled:
            timed[:] = timed[0] + done, timed[1] + seconds
        self.compiled = True
        if done < n:
            self._stop_on_bad_step(float(seen.loss_nats[done]))
        shown = [float(x) for x in seen.loss_nats[:n] if math.isfinite(x)]
        if not timed[0]:
            return
        self.terminal.progress(
            step=self.step,
            steps=self.exp.config.train.steps,
            loss_nats=float(np.mean(shown)) if shown else math.nan,
            tokens_per_second=self.tokens_per_second(),
            seconds_left=timed[1] / timed[0] * (self.exp.config.train.steps - self.step),
        )

    def _evaluate_if_due(self) -> None:
        """At step 0, every ``eval_every`` steps and at the end: estimate, sample, save."""
        train = self.exp.config.train
        due = self.step == train.steps or (train.eval_every and self.step % train.eval_every == 0)
        save_every = self.exp.config.checkpoint.every_steps
        if due and self.memory["evaluated"] != self.step:
            self._evaluate()
        elif (save_every and self.step % save_every == 0) or self._minutes_passed():
            self._save()

    def _evaluate(self) -> None:
        params, config = self.state.params, self.exp.config
        nats = {s: evaluate.estimate_loss(self.exp, params, s) for s in ("train", "val")}
        best, self.memory["evaluated"] = self.memory["best"], self.step
        is_best = best is None or nats["val"] < best["val_nats"]
        if is_best:
            self.memory["best"] = {"step": self.step, "val_nats": nats["val"]}
        text = sample.preview(self.exp, params, self.step)
        line = {"step": self.step, "train_nats": nats["train"], "val_nats": nats["val"]}
        self.lines.write(line | {"sample": text})
        self.board.scalars(self.step, {f"eval/{s}_nats": value for s, value in nats.items()})
        self.board.text(self.step, "sample", text)
        self.terminal.evaluation(
            step=self.step,
            train_nats=nats["train"],
            val_nats=nats["val"],
            best=is_best,
            bigram_nats=self.bigram_val,
        )
        if text and self.step < config.train.steps:
            self.terminal.sample(text)
        self._save(best=is_best)

    def _save(self, best: bool = False) -> None:
        exp = self.exp
        meta = {
            "config": gptjax_config.to_dict(exp.config),
            "tokenizer": exp.tokenizer.to_json(),
            "data": exp.corpus.facts(),
            "memory": self.memory,
        }
        parts = {"params": self.state.params, "rest": self.state.replace(params=None)}
        self.checkpoints.save(self.step, parts, meta, best=best)
        self._pass_on_notices()
        self.saved_at = time.monotonic()

    def _pass_on_notices(self) -> None:
        for notice in self.checkpoints.notices:
            self.terminal.warn(notice)
        self.checkpoints.notices.clear()

    def _minutes_passed(self) -> bool:
        minutes = self.exp.config.checkpoint.every_minutes
        return bool(minutes) and time.monotonic() - self.saved_at > 60 * minutes

    def _stop_on_bad_step(self, loss_nats: float) -> None:
        """Name the step, the first bad parameter and what is safe, and end the run."""
        exp, state = self.exp, self.state
        name = steps.first_nonfinite(state.params)
        if name:
            safe = checkpoint.last(self.workdir)
            what = f"parameter {name} is not finite"
        else:
            batch = jax.tree.map(lambda a: a[0], exp.train_batches(self.step, 1, 1))
            key = jax.random.fold_in(self.key, state.step)
            grads = steps.loss_and_grads(exp.model, state.params, batch, key)[1]
            name = steps.first_nonfinite(grads)
            what = f"the gradient of {name} is not finite" if name else "the norm overflows"
            self._save()
            self.checkpoints.wait()
            safe = self.step
        raise UserError(
            f"step {self.step}: loss {loss_nats} nats, {what}; the last good checkpoint is of "
            f"step {safe}: lower optim.learning_rate or optim.clip_norm, or pass over up to 10 "
            "such steps with --config.train.skip_nonfinite=10"
        )

    def tokens_per_second(self) -> float:
        """The speed of training without compiling; 0 before it is known."""
        steps_done, seconds = self.memory["timed"]
        return steps_done * self.exp.tokens_per_step / seconds if seconds else 0.0

    def close(self) -> None:
        """Close the files; what was written stays."""
        self.lines.close()
        self.board.close()
