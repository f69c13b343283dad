"""Signals, kills, full disks and bad numbers: the run says so, loses nothing and goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import fit, outcome

from gptjax.checkpoints import directory, manifest, run, store
from gptjax.errors import UserError
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.monitoring import metrics
from gptjax.runtime import preemption
from gptjax.runtime.preemption import Stopped
from gptjax.training import summary, trainer
from gptjax.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def test_kills_signals_and_damages_through_the_real_command_line():
    if sys.platform == "win32":
        pytest.skip("starts its runs with fork")
    counts = ["--kills=2", "--signals=2", "--damages=12", "--kind=bigram"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "torture.py"), *counts],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = re.findall(r"^(\S+) +(\d+)  (\w+)", done.stdout, re.M)
    assert sum(int(n) for _, n, word in verdicts if word == "equal") == 4, done.stdout
    assert sum(int(n) for what, n, _ in verdicts if what == "damage") == 12, done.stdout


def signal_in(monkeypatch, owner, name, call):
    """Have a SIGTERM come in the middle of the n-th call of a function."""
    real, count = getattr(owner, name), 0

    def signalling(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalling)


@pytest.mark.parametrize(
    "owner, name, call, step",
    [
        (summary, "first_page", 1, 0),  # before anything is compiled
        (Trainer, "_next_chunk", 1, 0),
        (trainer, "estimate_loss", 1, 0),  # in the first evaluation: done anew at the next start
        (trainer, "estimate_loss", 2, 7),
        (trainer, "preview", 2, 7),  # after the estimate, and before it is written
        (Evaluator, "_ask", 1, 0),
        (Evaluator, "_ask", 4, 7),  # between train and val
        (Evaluator, "_ask", 10, 23),  # in the last one
        (Evaluator, "_ask", 12, 23),  # in the exact loss over the whole train split
        (Evaluator, "row_losses", 1, 23),  # and over val
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_signal_at_any_time_of_the_run_is_obeyed(
    owner, name, call, step, text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    with monkeypatch.context() as patch:
        signal_in(patch, owner, name, call)
        stopped = fit(config, tmp_path, monkeypatch)
    assert isinstance(stopped, Stopped) and stopped.step == step == directory.last(tmp_path)
    assert not (tmp_path / run.SUMMARY).exists()
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


@pytest.mark.parametrize("ends", ["well", "stopped", "by a mistake"])
def test_a_notebook_keeps_its_own_ctrl_c_after_a_run(ends, text, tmp_path, monkeypatch):
    def mine(*_):
        raise AssertionError("it was not for this handler")

    outside = {kind: signal.signal(kind, mine) for kind in preemption.KINDS}
    try:
        if ends == "by a mistake":
            monkeypatch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(UserError("no")))
        stop_at = 5 if ends == "stopped" else None
        fit(tiny_runs.config(text), tmp_path, monkeypatch, stop_at, ends_with=(Stopped, UserError))
        assert {kind: signal.getsignal(kind) for kind in outside} == dict.fromkeys(outside, mine)
    finally:
        for kind, handler in outside.items():
            signal.signal(kind, handler)


def test_the_speed_leaves_out_the_first_chunk_of_every_start(text, tmp_path, monkeypatch):
    """It compiles: 1,000 seconds here, where any other step takes a quarter of one."""
    take_in, chunks, starts = Trainer._take_in, [], []

    def timed(self, n, *seen):
        chunks.append(n / 4 if self in starts else 1000.0)
        starts.append(self)
        take_in(self, n, *seen[:-1], chunks[-1])

    monkeypatch.setattr(Trainer, "_take_in", timed)
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    figures = fit(config, tmp_path, monkeypatch)
    assert chunks.count(1000.0) == 2
    tokens_per_step = 4 * 6
    assert figures["tokens_per_second"] == pytest.approx(4 * tokens_per_step)
    assert figures["train_seconds"] == pytest.approx(sum(chunks))


def test_the_clock_saves_too(text, tmp_path, monkeypatch):
    now, take_in = [0.0], Trainer._take_in

    def minute(self, *args):
        take_in(self, *args)
        now[0] += 60.0

    monkeypatch.setattr(Trainer, "_take_in", minute)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + now[0])
    saved, save = [], Trainer.save
    monkeypatch.setattr(
        Trainer, "save", lambda self, best=False: (saved.append(self.step), save(self, best))
    )
    kept = {"every_minutes": 1.5, "keep_last": 99}
    config = tiny_runs.config(
        text, train={"eval_every": 0, "chunk_steps": 1, "steps": 9}, checkpoint=kept
    )
    fit(config, tmp_path, monkeypatch)
    assert saved == [2, 4, 6, 8, 9] == directory.available(tmp_path)


# Full disks.


@pytest.fixture
def make_room(monkeypatch):
    """Once step 9 is done no file may grow beyond 2,000 bytes: until this function is called."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    take_in, is_small = Trainer._take_in, True

    def filling(self, *args):
        take_in(self, *args)
        if is_small and self.step >= 9 and resource.getrlimit(resource.RLIMIT_FSIZE) == before:
            self.checkpoints.wait()  # that of step 7
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))

    def make_room():
        nonlocal is_small
        is_small = False
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Trainer, "_take_in", filling)
    yield make_room
    make_room()


@pytest.mark.parametrize("what", ["stop", "continue"])
def test_a_full_disk_is_told_and_costs_no_checkpoint_that_was_there(
    what, text, whole, tmp_path, monkeypatch, make_room, capsys
):
    config = tiny_runs.config(text, checkpoint={"on_full_disk": what})
    try:
        ended = fit(config, tmp_path, monkeypatch, ends_with=UserError)
    finally:
        make_room()
    assert directory.last(tmp_path) == 7
    out, err = capsys.readouterr()
    said = str(ended) if what == "stop" else err
    assert "step 14 could not be written" in said and "step 7 is kept" in said
    assert re.search(r"MB and [\d,]+ files are free", said)
    assert ("on_full_disk=continue" in said) == (what == "stop")
    if what == "continue":
        assert "trained to step 23, but of the checkpoints the last is of step 7" in str(ended)
        assert "lost" in str(ended) and not (tmp_path / run.SUMMARY).exists()
        assert "everything is in" not in out
    fit(tiny_runs.config(text), tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(tiny_runs.config(text))[1]


def test_a_stop_on_a_full_disk_does_not_say_that_all_is_saved(
    text, whole, tmp_path, monkeypatch, make_room
):
    config = tiny_runs.config(text, checkpoint={"on_full_disk": "continue"})
    try:
        ended = fit(config, tmp_path, monkeypatch, stop_at=16, ends_with=(UserError, Stopped))
    finally:
        make_room()
    assert isinstance(ended, UserError) and "could not be saved" in str(ended)
    assert "SIGTERM at step" in str(ended) and "of step 7" in str(ended)
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(tiny_runs.config(text))[1]


FILLING = """
import resource, sys
from pathlib import Path
import tiny_runs
from gptjax.cli import main as cli
from gptjax.monitoring.console import Terminal
from gptjax.training.trainer import Trainer, fit

text, workdir, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:]
take_in = Trainer._take_in

def full_from_step_9_on(self, *args):
    take_in(self, *args)
    if self.step >= 9:
        self.checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def main(args):
    with Terminal() as terminal:
        fit(tiny_runs.config(text), workdir, terminal)

Trainer._take_in = full_from_step_9_on
cli.run(main)
"""


@pytest.mark.parametrize("limit, said", [(2_000, "step 14 could not be written"), (300, "metrics")])
def test_a_disk_that_fills_while_orbax_writes_is_one_line(limit, said, text, tmp_path):
    pytest.importorskip("resource")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    # There is room, as under a quota: the write itself fails, in threads of orbax's.
    command = [sys.executable, "-c", FILLING, str(text), str(tmp_path / "run"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr and "step 7" in done.stderr


@pytest.mark.parametrize("room", [(2**19, 10**6), (10**9, 69)])
def test_a_disk_without_room_is_found_before_orbax_writes(room, text, tmp_path, monkeypatch):
    def no_room_from_step_7_on(folder):
        return (10**9, None) if directory.last(tmp_path) is None else room

    monkeypatch.setattr(store, "_room", no_room_from_step_7_on)
    ended = fit(tiny_runs.config(text), tmp_path, monkeypatch, ends_with=UserError)
    needs, free = "it needs 0.5 MB and 70 files", f"{room[0] / 1e6:.1f} MB and {room[1]:,} files"
    assert f"(No space left on device: {needs}; {free} are free)" in str(ended)
    assert "step 7 could not be written" in str(ended) and "step 0 is kept" in str(ended)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0-best"]


def test_a_folder_renamed_while_training_ends_the_run_and_nothing_is_made_anew(
    text, whole, tmp_path, monkeypatch
):
    config, before, after = tiny_runs.config(text), tmp_path / "before", tmp_path / "after"
    take_in = Trainer._take_in

    def rename(self, *args):
        take_in(self, *args)
        if self.step >= 9 and before.exists():
            self.checkpoints.wait()
            before.rename(after)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_in", rename)
        ended = fit(config, before, monkeypatch, ends_with=UserError)
    assert "before was renamed or removed" in str(ended) and "of step 7" in str(ended)
    assert "make room" not in str(ended) and not before.exists()
    fit(config, after, monkeypatch)
    assert outcome(config, after) == whole(config)[1]


def test_checkpoints_of_every_so_many_steps_are_kept_for_good(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text, checkpoint={"keep_every": 5, "keep_last": 1})
    fit(config, tmp_path, monkeypatch)
    best = run.summary(tmp_path)["best_step"]
    assert set(directory.available(tmp_path)) == {0, 5, 10, 15, 20, 23, best}


def test_the_checkpoint_that_is_named_is_a_sound_one(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text, checkpoint={"every_steps": 3, "keep_last": 9})
    fit(config, tmp_path, monkeypatch, stop_at=6)
    sound, newest = directory.slots(tmp_path)[-2:]
    (newest.path / "manifest.json").write_bytes(b"")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "seal", full)
    ended = fit(config, tmp_path, monkeypatch, ends_with=UserError)
    assert f"that of step {sound.step} is kept" in str(ended) and sound.step < newest.step


@pytest.mark.parametrize("what", ["stop", "continue"])
def test_metrics_that_cannot_be_written_are_told(what, text, whole, tmp_path, monkeypatch, capsys):
    config, write = tiny_runs.config(text, checkpoint={"on_full_disk": what}), metrics.JsonLines

    def full(lines, record):
        if record["step"] > 8:
            raise OSError(28, "No space left on device")
        real(lines, record)

    real = write.write
    with monkeypatch.context() as patch:
        patch.setattr(write, "write", full)
        ended = fit(config, tmp_path, monkeypatch, ends_with=UserError)
    if what == "stop":
        assert "metrics.jsonl cannot be written (No space left" in str(ended)
        assert "step 7" in str(ended)
        fit(config, tmp_path, monkeypatch)
        assert outcome(config, tmp_path) == whole(tiny_runs.config(text))[1]
    else:
        assert ended["steps"] == 23
        said = capsys.readouterr().err  # once, and no advice to do what is done already
        assert said.count("metrics.jsonl cannot be written") == 1 and "on_full_disk" not in said


# Numbers that are not finite.


def test_a_bad_step_stops_the_run_is_recorded_and_can_be_passed_over_later(
    text, tmp_path, monkeypatch, poison
):
    poison(11)
    config = tiny_runs.config(text)
    error = fit(config, tmp_path / "a", monkeypatch, ends_with=UserError)
    assert re.match(
        r"step 11: loss nan nats, the gradient of \S+ is not finite; .*of step 11:", str(error)
    )
    assert "--replay_step=11" in str(error) and "skip_nonfinite=10" in str(error)
    assert directory.last(tmp_path / "a") == 11
    record = metrics.read(tmp_path / "a" / run.METRICS)[-1]
    assert (record["bad_step"], record["bad_loss"]) == (11, "nan")
    again = fit(config, tmp_path / "a", monkeypatch, ends_with=UserError)
    assert str(again) == str(error)
    found = [r for r in metrics.read(tmp_path / "a" / run.METRICS) if "bad_step" in r]
    assert found == [record]  # not once per try
    lenient = tiny_runs.config(text, train={"skip_nonfinite": 1})
    assert fit(lenient, tmp_path / "a", monkeypatch)["steps"] == 23
    fit(lenient, tmp_path / "b", monkeypatch)
    assert outcome(lenient, tmp_path / "a") == outcome(lenient, tmp_path / "b")


def test_bad_steps_are_passed_over_up_to_the_limit_and_named(
    text, tmp_path, monkeypatch, poison, capsys
):
    poison(3, 4, 15)
    config = tiny_runs.config(text, train={"skip_nonfinite": 2})
    error = fit(config, tmp_path, monkeypatch, ends_with=UserError)
    assert str(error).startswith("step 15: loss nan nats")
    records = metrics.read(tmp_path / run.METRICS)
    bad = [(r["bad_step"], r["what"]) for r in records if "bad_step" in r]
    assert bad[:2] == [(3, "passed over"), (4, "passed over")] and bad[2][0] == 15
    assert [r["skipped"] for r in records if "skipped" in r] == [2]
    assert all(r["loss_nats"] is not None for r in records if "skipped" in r)  # of the others
    err = capsys.readouterr().err
    assert "step 3:" in err and "--replay_step=4" in err
    stopped_on_the_way = tmp_path / "other"
    fit(config, stopped_on_the_way, monkeypatch, stop_at=4)
    fit(config, stopped_on_the_way, monkeypatch, ends_with=UserError)
    assert metrics.read(stopped_on_the_way / run.METRICS) == records


def test_parameters_that_are_not_finite_are_never_saved(text, tmp_path, monkeypatch):
    save, write = Trainer.save, store.Checkpoints._write

    def slow(*args):
        time.sleep(0.5)  # so that the good one is still being written when the bad one comes
        write(*args)

    def spoilt(self, best=False):
        if self.step == 14:
            params = jax.tree.map(lambda leaf: leaf.at[0, 0].set(np.inf), self.state.params)
            self.state = self.state.replace(params=params)
        save(self, best)

    monkeypatch.setattr(store.Checkpoints, "_write", slow)
    monkeypatch.setattr(Trainer, "save", spoilt)
    error = fit(tiny_runs.config(text), tmp_path, monkeypatch, ends_with=UserError)
    assert "step 14: parameter token_embedding_table/embedding is not finite" in str(error)
    assert "not saved" in str(error) and "step 7" in str(error)
    assert directory.last(tmp_path) == 7


def test_parameters_that_are_not_finite_cannot_be_passed_over(text, tmp_path, monkeypatch):
    take_in = Trainer._take_in

    def spoilt(self, *args):
        take_in(self, *args)
        if self.step == 9:
            params = jax.tree.map(lambda leaf: leaf.at[0, 0].set(np.inf), self.state.params)
            self.state = self.state.replace(params=params)

    monkeypatch.setattr(Trainer, "_take_in", spoilt)
    config = tiny_runs.config(text, train={"chunk_steps": 1})
    error = str(fit(config, tmp_path, monkeypatch, ends_with=UserError))
    assert "parameter token_embedding_table/embedding is not finite" in error
    assert "--replay_step=" in error and "lower optim.learning_rate" in error
    assert "skip_nonfinite" not in error  # every step from here on would be as bad
