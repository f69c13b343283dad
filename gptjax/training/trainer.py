"""The trainer: chunks of steps, with evaluations, saves and signals between them.

In: a config, a work folder, a terminal. Out: a run that may end at any instant and continue to the
same bits, and the summary of a finished one.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from gptjax.checkpoints import directory, run, store
from gptjax.config.schema import Config, to_dict
from gptjax.errors import UserError
from gptjax.generation.generate import preview
from gptjax.monitoring import metrics, tensorboard
from gptjax.monitoring.console import Terminal
from gptjax.processes import cluster
from gptjax.runtime import preemption, run_lock
from gptjax.runtime.pace import Pace
from gptjax.training import experiment, nonfinite, resume, summary
from gptjax.training.train_step import StepMetrics, estimate_loss

LOG_EVERY = 10  # steps per line of metrics.jsonl, and at least of timing.jsonl


def fit(
    config: Config,
    workdir: Path,
    terminal: Terminal,
    no_band: str = "",
    explicit: Collection[str] = (),
    beside: Callable[[experiment.Experiment], Any] = lambda exp: contextlib.nullcontext(),
) -> dict[str, Any]:
    """Train, evaluate, save and report one run, from wherever the folder has it.

    ``no_band``: settings for which ``config.expected`` need not hold, and then it is not saved
    either. ``explicit``: those that were set by hand. ``beside``: a ``with`` around the first
    process's steps; what it gives is None or has a ``write``, called last. Returns summary.json.

    Raises:
      UserError: the settings do not fit the data, the folder holds another run, the loss is not
        finite, or a checkpoint cannot be read or written.
      preemption.Stopped: a signal came; all is saved.
    """
    with terminal.doing("reading the corpus"):
        # A run that is continued with its own config must not be measured against it.
        held_to = dataclasses.replace(config, expected={}) if no_band else config
        told = (terminal.note, terminal.busy)
        exp = experiment.build_to_train(held_to, workdir, explicit, *told)
        exp.tokenizer.encode(config.sample.prompt)  # what it lacks is said before any folder
        exp.require_memory()
    with contextlib.ExitStack() as open_:
        stop = open_.enter_context(preemption.watch())
        with cluster.together():  # the first process holds the folder for all
            lock = run_lock.lock(workdir) if cluster.is_first() else contextlib.nullcontext()
            held = open_.enter_context(lock)
        checkpoints = open_.enter_context(store.Checkpoints(workdir, config.checkpoint))
        with terminal.doing("preparing the model"):
            trainer = Trainer(exp, workdir, terminal, checkpoints, stop, held)
            open_.enter_context(contextlib.closing(trainer))
            params, notes = trainer.state.params, trainer.notes
            summary.first_page(exp, workdir, terminal, params, trainer.step, notes)
        page = open_.enter_context(beside(exp)) if cluster.is_first() else None
        trainer.run()
        figures = trainer.figures()
        summary.last_page(exp, workdir, terminal, figures)
        trainer.wait_for_checkpoint()
        trainer.require_saved()
        summary.write_last_page(exp, workdir, terminal, figures, config.expected, no_band)
        if page:
            page.write()
        return figures


@dataclasses.dataclass(eq=False)
class Trainer:
    """A run in motion: the state, and the progress that has to survive beside it."""

    exp: experiment.Experiment
    workdir: Path
    terminal: Terminal
    checkpoints: store.Checkpoints
    stop: preemption.Stop
    held: run_lock.Held | None  # of several processes the first has it

    def __post_init__(self):
        """Continue the run that the folder has, or begin; a UserError if it has another one."""
        self.resumed: int | None = None  # the step it continued from
        # Compiles the first steps while the fresh model is made, evaluated and sampled.
        self.compiler = ThreadPoolExecutor(1)
        if cluster.from_first(bool(directory.available(self.workdir))):
            found = resume.restore(self.exp, self.workdir, warn=self.terminal.warn)
            self.state, self.progress, changes = found
            self.resumed = self.checkpoints.safe = int(self.state.step)
            notes = [f"continuing at step {self.resumed:,}", *changes]
        elif cluster.from_first((self.workdir / run.SUMMARY).exists()):
            raise UserError(
                f"{self.workdir} holds the results of a run, {run.SUMMARY}, and none of its "
                "checkpoints: name another --workdir, or move that file away to begin anew"
            )
        else:
            if self.exp.config.train.steps:
                self.compiler.submit(self.exp.compile_ahead)
            self.state, self.progress = self.exp.init_state(), resume.Progress()
            notes = list(self.exp.start.notes) if self.exp.start else []
        self.step, self.skipped = int(self.state.step), int(self.state.skipped)
        path, before = self.workdir / run.METRICS, self.progress.lines
        self.lines = metrics.JsonLines(path, self.resumed, before)
        self.timing = metrics.TimingLines(self.workdir / run.TIMING, self.resumed)
        if self.step > self.timing.last_step:
            self._write_timing()
        if self.lines.n_lines < (before or 0):
            notes.append(
                f"{path} has {self.lines.n_lines} of the {before} lines that were there at step "
                f"{self.resumed}: the others are lost"
            )
        folder, wanted = self.workdir / "tensorboard", self.exp.config.train.tensorboard
        self.board = tensorboard.TensorBoard(folder, self.resumed, wanted)
        self.notes = [self.board.note, *notes]
        self.saved, self.saved_at = self.resumed, time.monotonic()
        self.disk_is_full = False  # whether the last line found no room

    def run(self) -> None:
        """Step, evaluate and save until the last step; ``preemption.Stopped`` after a signal."""
        train, start = self.exp.config.train, self.exp.start
        if start and "before" not in start.facts:  # of step 0: before anything is learnt
            start.facts["before"] = summary.val_losses(self.exp, self.params, self._busy)
        steps, pace = train.steps, Pace(1, train.chunk_steps)
        most, began = pace.n, time.monotonic()
        n, inputs = self._next_chunk(self.step, most)
        waited = time.monotonic() - began
        while True:
            self.stop_if_told_to()
            self._evaluate_if_due()
            if self.step >= steps:
                return
            self.stop_if_told_to()
            began, rates = time.monotonic(), inputs[1]
            what = "compiling the training step" if self._compiles else "training"
            with self.terminal.doing(what):
                self.compiler.shutdown()  # waits for it; what went wrong there comes again here
                state, seen = self.exp.train_chunk(self.state, *inputs, n, self.exp.dropout_key)
                # The device works on this chunk; meanwhile the host gathers the next.
                gathering = time.monotonic()
                following = self._next_chunk(self.step + n, most)
                self.progress.gather_seconds += waited
                # Ready already: the device may have had nothing to do since this gathering began.
                waited = time.monotonic() - gathering if seen.loss_nats.is_ready() else 0.0
                self.state, seen = state, jax.device_get(seen)
            seconds = time.monotonic() - began
            self._take_in(n, seen, np.asarray(rates), seconds)
            pace.took(n, seconds)
            most = cluster.from_first(pace.n)  # clocks differ, and the steps of a chunk must not
            n, inputs = following
            self.wait_for_checkpoint(only_look=True)  # a full disk is told now, not hours later

    @property
    def params(self) -> Any:
        """What the model is asked with: see ``Experiment.merged``."""
        return self.exp.merged(self.state.params)

    @property
    def _compiles(self) -> bool:
        """Whether the next chunk is the first of this start."""
        return self.step == (self.resumed or 0)

    def _next_chunk(self, step: int, most: int) -> tuple[int, Any]:
        """The next chunk: its length, up to the next event, and its batches and rates."""
        train, save = self.exp.config.train, self.exp.config.checkpoint
        events = (train.eval_every, save.every_steps, save.keep_every)
        ends = [train.steps, step + most]
        ends += [step - step % every + every for every in events if every]
        n = min(ends) - step
        return (n, self.exp.chunk_inputs(step, n)) if n > 0 else (0, None)

    def _take_in(self, n: int, seen: StepMetrics, rates: np.ndarray, seconds: float) -> None:
        """Count, write and show what ``n`` steps saw; stop on a loss that is not finite."""
        done, compiles = int(self.state.step) - self.step, self._compiles
        progress, steps = self.progress, self.exp.config.train.steps
        for i in range(done):
            self.step += 1
            if seen.finite[i]:
                progress.pending.append([float(seen.loss_nats[i]), float(seen.grad_norm[i])])
            else:
                self._note_skipped(float(seen.loss_nats[i]))
            if self.step % LOG_EVERY == 0 and progress.pending:
                self._write_means(float(rates[i]))
        progress.train_seconds += seconds
        if not compiles:  # the first chunk of a start does
            progress.timed_steps += done
            progress.timed_seconds += seconds
        new_steps = self.step - self.timing.last_step
        if new_steps >= LOG_EVERY or (new_steps and (compiles or self.step == steps)):
            self._write_timing(compiles)
        if done < n:
            self._end_on_nonfinite(float(seen.loss_nats[done]))
        if per_second := progress.steps_per_second:
            shown = [loss for loss in seen.loss_nats[:n] if np.isfinite(loss)]
            self.terminal.progress(
                step=self.step,
                steps=steps,
                loss_nats=float(np.mean(shown)) if shown else np.nan,
                tokens_per_second=self.exp.tokens_per_step * per_second,
                seconds_left=(steps - self.step) / per_second,
            )

    def _write_means(self, rate: float) -> None:
        loss, norm = np.mean(self.progress.pending, axis=0)
        line = {"step": self.step, "loss_nats": loss, "grad_norm": norm}
        self.write(line | {"learning_rate": rate, "skipped": self.skipped})
        self.board.scalars(self.step, {"train/loss_nats": loss, "train/learning_rate": rate})
        self.progress.pending.clear()

    def _write_timing(self, compiled: bool = False) -> None:
        names = ("train_seconds", "gather_seconds", "evaluation_seconds", "checkpoint_seconds")
        sums = {name: getattr(self.progress, name) for name in names}
        tokens = round(self.step * self.exp.tokens_per_step)
        self.timing.write({"step": self.step, "tokens": tokens} | sums | {"compiled": compiled})

    def _note_skipped(self, loss_nats: float) -> None:
        """Record a step that was passed over; ``self.step`` already counts it."""
        self.skipped += 1
        bad, what = self.step - 1, "passed over"
        self.write({"step": self.step, "bad_step": bad, "bad_loss": str(loss_nats), "what": what})
        self.terminal.warn(
            f"step {bad}: the loss ({loss_nats} nats) or a gradient is not finite: {what}; "
            f"--replay_step={bad} shows it"
        )

    def _end_on_nonfinite(self, loss_nats: float) -> NoReturn:
        """Name the step, the first bad parameter and what is safe, and end the run."""
        what, state_is_good = nonfinite.judge(self.exp, self.state, loss_nats)
        if state_is_good:
            self.save()
        line = {"step": self.step + 1, "bad_step": self.step, "bad_loss": str(loss_nats)}
        self.write(line | {"what": f"stopped: {what}"})
        limit, skip = self.exp.config.train.skip_nonfinite + 10, ""
        if state_is_good:  # else every step from here on is as bad
            flag = f"--config.train.skip_nonfinite={limit}"
            skip = f", pass over up to {limit} such steps with {flag}"
        raise UserError(
            f"step {self.step}: loss {loss_nats} nats, {what}; the last good checkpoint is "
            f"of step {self.last_safe()}: look with --replay_step={self.step}{skip}, or lower "
            "optim.learning_rate in another --workdir"
        )

    def _evaluate_if_due(self) -> None:
        """At step 0, every ``eval_every`` steps and at the end: estimate, sample, save."""
        step, train, save = self.step, self.exp.config.train, self.exp.config.checkpoint
        due = step == train.steps or (train.eval_every and step % train.eval_every == 0)
        if due and self.progress.evaluated != step:
            self._evaluate()
        elif self.saved != step:
            late = save.every_minutes and time.monotonic() - self.saved_at > 60 * save.every_minutes
            planned = [every for every in (save.every_steps, save.keep_every) if every]
            if cluster.from_first(bool(late)) or any(step % every == 0 for every in planned):
                self.save()

    def _evaluate(self) -> None:
        exp, progress, params = self.exp, self.progress, self.params
        config, iters, began = exp.config, exp.config.train.eval_iters, time.monotonic()
        busy = self._busy("estimating the loss")
        nats = estimate_loss(exp.evaluator, params, exp.splits, iters, config.seed, busy)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2), self.step)
        items, busy = exp.corpus.is_items, self._busy("writing a sample")
        text = preview(exp.model, params, exp.tokenizer, config.sample, items, key, busy)
        # Only now: a signal up to here saves a state that has not been evaluated.
        progress.evaluated = self.step
        is_best = progress.best_step is None or nats["val"] < progress.best_val_nats
        if is_best:
            progress.best_step, progress.best_val_nats = self.step, nats["val"]
        line = {"step": self.step, "train_nats": nats["train"], "val_nats": nats["val"]}
        self.write(line | {"sample": text})
        self.board.scalars(self.step, {f"eval/{s}_nats": value for s, value in nats.items()})
        self.board.text(self.step, "sample", text)
        self.terminal.evaluation(**line, best=is_best, bigram_nats=exp.bigram_nats["val"])
        if text and self.step < config.train.steps:
            self.terminal.sample(text)
        progress.evaluation_seconds += time.monotonic() - began
        self.save(best=is_best)

    def figures(self) -> dict[str, Any]:
        """What summary.json is to hold. A run that was finished before is not measured again."""
        known = run.summary(self.workdir) if self.resumed == self.step else None
        if known and known["steps"] == self.step:
            return known | {"count_bigram_val_nats": self.exp.bigram_nats["val"]}
        if self.progress.best_step != self.step:  # it is to be opened
            self.wait_for_checkpoint()
        params, warn = self.params, self.terminal.warn
        return summary.measure(self.exp, self.workdir, params, self.progress, self._busy, warn)

    def _busy(self, label: str) -> Callable[[float, float], None]:
        """Shows how far a work between the steps is; a signal ends it: the next start does it."""

        def busy(done: float, total: float) -> None:
            self.terminal.busy(label, done, total)
            self.stop_if_told_to()

        self.terminal.busy(label, 0, 1)
        return busy

    def write(self, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; on a full disk do as ``checkpoint.on_full_disk`` says."""
        try:
            self.lines.write(record)
            self.disk_is_full = False
        except OSError as error:
            line = (
                f"step {self.step}: {self.workdir / run.METRICS} cannot be written "
                f"({error.strerror}); the last checkpoint is of step {self.last_safe()}: make room"
            )
            if self.exp.config.checkpoint.on_full_disk == "stop":
                way_out = "start again, or set checkpoint.on_full_disk=continue"
                raise UserError(f"{line} and {way_out}") from error
            if not self.disk_is_full:  # said once, not at every line
                self.terminal.warn(line)
            self.disk_is_full = True

    def save(self, best: bool = False) -> None:
        """Have the state written; a UserError if it is not finite, or the save before failed."""
        began, exp, state = time.monotonic(), self.exp, self.state
        self.require_folder()
        if name := nonfinite.first_nonfinite(state.params):
            raise UserError(
                f"step {self.step}: parameter {name} is not finite, so it is not saved; the last "
                f"good checkpoint is of step {self.last_safe()}: lower optim.learning_rate or "
                "optim.clip_norm, in another --workdir"
            )
        self.progress.lines = self.lines.n_lines
        meta = {"config": to_dict(exp.config), "tokenizer": exp.tokenizer.to_json()}
        meta |= {"data": exp.corpus.facts(), "memory": self.progress.to_json()}
        meta |= {"start": exp.start.facts} if exp.start else {}
        parts = {"params": state.params, "rest": state.replace(params=None)}
        self.wait_for_checkpoint()
        self.checkpoints.save(self.step, parts, meta, best=best)
        self.saved, self.saved_at = self.step, time.monotonic()
        self.progress.checkpoint_seconds += self.saved_at - began

    def require_folder(self) -> None:
        """End the run, by a UserError, whose folder is not there any more."""
        if self.held and not self.held.is_there:
            raise UserError(
                f"step {self.step}: {self.workdir} was renamed or removed while this run trained, "
                f"and nothing is written there any more; the last checkpoint was of step "
                f"{self.checkpoints.safe}: continue it by its new name as --workdir"
            )

    def require_saved(self) -> None:
        """End, by a UserError, a run whose last steps no checkpoint has (see on_full_disk)."""
        self.require_folder()
        if (safe := self.checkpoints.safe) != self.step:
            since = "none could be written" if safe is None else f"the last is of step {safe:,}"
            raise UserError(
                f"trained to step {self.step:,}, but of the checkpoints {since}: the parameters "
                "since then are lost; make room and start again, which trains those steps anew"
            )

    def stop_if_told_to(self) -> None:
        """After a signal save, and raise ``preemption.Stopped``; a UserError if it cannot be."""
        if not cluster.any_of(bool(self.stop.signal)):
            return
        self.stop.signal = self.stop.signal or "a signal to another process"
        if self.saved != self.step:
            self.save()
        self.wait_for_checkpoint()
        if self.checkpoints.safe != self.step:
            raise UserError(
                f"{self.stop.signal} at step {self.step}: it could not be saved, the last "
                f"checkpoint is of step {self.checkpoints.safe}: make room and start again"
            )
        self.stop.check(self.step)

    def wait_for_checkpoint(self, only_look: bool = False) -> None:
        """Wait for the checkpoint being written, and pass on what became of it."""
        (self.checkpoints.look if only_look else self.checkpoints.wait)()
        while self.checkpoints.notices:
            self.terminal.warn(self.checkpoints.notices.pop(0))

    def last_safe(self) -> int | None:
        """The step of the last checkpoint; one still being written counts once it is complete."""
        try:
            self.checkpoints.wait()
        except UserError as failed:  # the one before it is the last
            self.terminal.warn(str(failed))
        return self.checkpoints.safe

    def close(self) -> None:
        """Close the files; what was written stays. The compiler cannot be stopped: wait for it."""
        with self.terminal.doing("ending the compiler"):
            self.compiler.shutdown()
        self.timing.close()
        self.lines.close()
        self.board.close()
