"""The loop of training: chunks of steps, with evaluations, saves and signals between them.

In: an ``Experiment``, a work folder, a terminal and a writer of checkpoints. Out: a run that may
end at any instant and continue to the same bits, and the summary of a finished one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from gptjax import evaluate, sample
from gptjax.checkpoints import run as runs
from gptjax.checkpoints import store as checkpoint
from gptjax.checkpoints.store import Checkpoints
from gptjax.config import parse as gptjax_config
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.runtime.preemption import Stop
from gptjax.training import nonfinite, optimizer
from gptjax.training import resume as resumption
from gptjax.training.experiment import Experiment
from gptjax.training.scan import StepMetrics

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
        stop: Stop,
    ):
        """Take the run up where the folder has it, or begin."""
        self.exp, self.workdir, self.terminal = exp, workdir, terminal
        self.checkpoints, self.bigram_val, self.stop = checkpoints, bigram_val, stop
        self.key = exp.dropout_key
        # Losses since the last line of metrics.jsonl, so that a continued run writes the same.
        self.memory = {"evaluated": -1, "best": None, "pending": []}
        # Seconds of all chunks; then steps and seconds of those that did not compile.
        self.memory |= {"train_seconds": 0.0, "timed": [0, 0.0]}
        # Seconds for which the steps waited on checkpoints; lines of metrics.jsonl (None: unknown).
        self.memory |= {"checkpoint_seconds": 0.0, "lines": None}
        self.resumed, self.notes = None, []
        if checkpoint.available(workdir):
            continued = resumption.take_up(exp, workdir)
            for warning in continued.warnings:
                terminal.warn(warning)
            self.state, self.notes = continued.state, continued.notes
            self.memory |= continued.memory
            self.resumed = checkpoints.safe = int(self.state.step)
        elif (workdir / runs.SUMMARY).exists():
            raise UserError(
                f"{workdir} holds the results of a run, {runs.SUMMARY}, and none of its "
                "checkpoints: name another --workdir, or move that file away to begin anew"
            )
        else:
            self.state = exp.init_state()
        self.step, self.skipped = int(self.state.step), int(self.state.skipped)
        # All rates at once: one at a time, off the compiled path, would cost a millisecond each.
        schedule = optimizer.schedule(exp.config.optim, exp.config.train.steps)
        self.rates = np.asarray(jax.vmap(schedule)(np.arange(max(1, exp.config.train.steps))))
        path = workdir / runs.METRICS
        self.lines = metrics.JsonLines(path, self.resumed, self.memory["lines"])
        if self.lines.n_lines < (self.memory["lines"] or 0):
            self.notes.append(
                f"{path} has {self.lines.n_lines} of the {self.memory['lines']} lines that were "
                f"there at step {self.resumed}: the others are lost"
            )
        self.full_disk = False  # whether the last line found no room
        self.board = metrics.TensorBoard(workdir / "tensorboard", self.resumed)
        self.saved, self.saved_at = self.resumed, time.monotonic()
        self.compiled = False

    def run(self) -> None:
        """Step, evaluate and save until the last step or a signal.

        Raises:
          signals.Stopped: a signal came; all is saved.
        """
        steps_total, planned = self.exp.config.train.steps, 1
        drawn = self._draw(self.step, planned)
        while True:
            self.end_if_told_to()
            self._evaluate_if_due()
            if self.step >= steps_total:
                return
            self.end_if_told_to()
            n, placed = drawn
            began = time.monotonic()
            state, seen = self.exp.train_chunk(self.state, placed, n, self.key)
            # The device works on this chunk; meanwhile the host gathers the next.
            drawn = self._draw(self.step + n, planned)
            self.state, seen = state, jax.device_get(seen)
            seconds = time.monotonic() - began
            self._log(n, seen, seconds)
            planned = max(1, min(4 * n, int(n * CHUNK_SECONDS / max(seconds, 1e-9))))
            self.checkpoints.look()  # a full disk is told now, not hours later
            self._pass_on_notices()

    def end_if_told_to(self) -> None:
        """After a signal: save, and end the run here.

        Raises:
          signals.Stopped: all is saved.
          UserError: it could not be saved.
        """
        if not self.stop.signal:
            return
        if self.saved != self.step:
            self.save()
        self.settle()
        if self.checkpoints.safe != self.step:
            raise UserError(
                f"{self.stop.signal} at step {self.step}: it could not be saved, the last "
                f"checkpoint is of step {self.checkpoints.safe}: make room and start again"
            )
        self.stop.check(self.step)

    def settle(self) -> None:
        """Wait for the checkpoint being written, and pass on what became of it."""
        self.checkpoints.wait()
        self._pass_on_notices()

    def _draw(self, step: int, planned: int):
        """The next chunk: its length, up to the next event, and its batches."""
        train, save_every = self.exp.config.train, self.exp.config.checkpoint.every_steps
        ends = [train.steps, step + min(planned, train.chunk_steps)]
        ends += [step - step % every + every for every in (train.eval_every, save_every) if every]
        n = min(ends) - step
        return (n, self.exp.train_batches(step, n, train.chunk_steps)) if n > 0 else (0, None)

    def _log(self, n: int, seen: StepMetrics, seconds: float) -> None:
        """Take in what ``n`` steps saw: count, write, show; stop on a loss that is not finite."""
        done = int(self.state.step) - self.step
        pending = self.memory["pending"]
        for i in range(done):
            self.step += 1
            if seen.finite[i]:
                pending.append([float(seen.loss_nats[i]), float(seen.grad_norm[i])])
            else:
                self.skipped += 1
                nonfinite.record(self, float(seen.loss_nats[i]))
            if self.step % LOG_EVERY == 0 and pending:
                loss, norm = np.mean(pending, axis=0)
                rate = float(self.rates[self.step - 1])
                line = {"step": self.step, "loss_nats": loss, "grad_norm": norm}
                self.write(line | {"learning_rate": rate, "skipped": self.skipped})
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
            nonfinite.end_run(self, float(seen.loss_nats[done]))
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
        elif self.saved != self.step and (
            (save_every and self.step % save_every == 0) or self._minutes_passed()
        ):
            self.save()

    def _evaluate(self) -> None:
        params, config = self.state.params, self.exp.config
        nats = {s: evaluate.estimate_loss(self.exp, params, s) for s in ("train", "val")}
        best, self.memory["evaluated"] = self.memory["best"], self.step
        is_best = best is None or nats["val"] < best["val_nats"]
        if is_best:
            self.memory["best"] = {"step": self.step, "val_nats": nats["val"]}
        text = sample.preview(self.exp, params, self.step)
        line = {"step": self.step, "train_nats": nats["train"], "val_nats": nats["val"]}
        self.write(line | {"sample": text})
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
        self.save(best=is_best)

    def write(self, record: Mapping[str, float | int | str]) -> None:
        """Add a line to metrics.jsonl; on a full disk do as ``checkpoint.on_full_disk`` says."""
        try:
            self.lines.write(record)
        except OSError as error:
            line = (
                f"step {self.step}: {self.workdir / runs.METRICS} cannot be written "
                f"({error.strerror}); the last checkpoint is of step {self.last_safe()}: make room"
            )
            if self.exp.config.checkpoint.on_full_disk == "stop":
                way_out = "start again, or set checkpoint.on_full_disk=continue"
                raise UserError(f"{line} and {way_out}") from error
            if not self.full_disk:  # said once, not at every line
                self.terminal.warn(line)
            self.full_disk = True
        else:
            self.full_disk = False

    def save(self, best: bool = False) -> None:
        began, exp = time.monotonic(), self.exp
        nonfinite.refuse_to_save(self)
        self.memory["lines"] = self.lines.n_lines
        meta = {
            "config": gptjax_config.to_dict(exp.config),
            "tokenizer": exp.tokenizer.to_json(),
            "data": exp.corpus.facts(),
            "memory": self.memory,
        }
        parts = {"params": self.state.params, "rest": self.state.replace(params=None)}
        self.checkpoints.save(self.step, parts, meta, best=best)
        self._pass_on_notices()
        self.saved, self.saved_at = self.step, time.monotonic()
        self.memory["checkpoint_seconds"] += self.saved_at - began

    def _pass_on_notices(self) -> None:
        for notice in self.checkpoints.notices:
            self.terminal.warn(notice)
        self.checkpoints.notices.clear()

    def _minutes_passed(self) -> bool:
        minutes = self.exp.config.checkpoint.every_minutes
        return bool(minutes) and time.monotonic() - self.saved_at > 60 * minutes

    def last_safe(self) -> int | None:
        """The step of the last checkpoint; one still being written counts once it is complete."""
        try:
            self.checkpoints.wait()
        except UserError as failed:  # the one before it is the last
            self.terminal.warn(str(failed))
        return self.checkpoints.safe

    def tokens_per_second(self) -> float:
        """The speed of training without compiling; 0 before it is known."""
        steps_done, seconds = self.memory["timed"]
        return steps_done * self.exp.tokens_per_step / seconds if seconds else 0.0

    def close(self) -> None:
        """Close the files; what was written stays."""
        self.lines.close()
        self.board.close()
