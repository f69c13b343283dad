"""Signals, kills, full disks and bad numbers: the run says so, loses nothing and goes on."""

from __future__ import annotations

import re
import runpy
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

from gptjax import evaluate
from gptjax.checkpoints import directory as shelf
from gptjax.checkpoints import manifest as integrity
from gptjax.checkpoints import run as runs
from gptjax.checkpoints import store as checkpoint
from gptjax.data import batching as batches
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.runtime import preemption as signals
from gptjax.runtime.preemption import Stopped
from gptjax.training import replay
from gptjax.training import summary as report
from gptjax.training.trainer import Loop

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_runs.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """The outcome of the run that nobody interrupted."""
    workdir, config = tmp_path_factory.mktemp("whole"), tiny_runs.config(text)
    with pytest.MonkeyPatch.context() as patch:
        fit(config, workdir, patch)
    return outcome(config, workdir)


@pytest.fixture
def poison(monkeypatch):
    """A function that makes the loss of some training steps NaN."""
    real = batches.get_batches

    def poison(*bad):
        def get(rows, seed, purpose, first_step, n, batch_size):
            drawn = real(rows, seed, purpose, first_step, n, batch_size)
            for step in bad:
                if purpose == "train" and first_step <= step < first_step + n:
                    drawn.w[step - first_step, 0] = np.nan
            return drawn

        monkeypatch.setattr(batches, "get_batches", get)

    return poison


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


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_its_echo_within_a_second_is_not_a_second_wish(kind, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(kind)
    with signals.watch() as stop:
        stop.check(3)
        signal.raise_signal(kind)
        now[0] += 0.9
        signal.raise_signal(kind)
        assert stop.signal == kind.name
        with pytest.raises(Stopped, match=f"{kind.name} at step 3: saved.*exit code 75"):
            stop.check(3)
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without its signals")
def test_a_second_signal_kills(kind):
    script = f"""
import signal, time
from gptjax.runtime import preemption as signals
now = 100.0
time.monotonic = lambda: now
try:
    with signals.watch():
        signal.raise_signal(signal.{kind})
        now += 1.1
        signal.raise_signal(signal.{kind})
finally:
    print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-getattr(signal, kind), ""), done.stderr


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
        (report, "first_page", 1, 0),  # before anything is compiled
        (Loop, "_draw", 1, 0),
        (evaluate, "estimate_loss", 1, 0),  # in the first evaluation: it is finished and saved
        (evaluate, "estimate_loss", 4, 7),
        (evaluate, "estimate_loss", 10, 23),  # in the last one
        (evaluate, "_sums", 12, 23),  # in the exact loss over the whole split
        (evaluate, "_sums", 25, 23),
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
    assert isinstance(stopped, Stopped) and stopped.step == step == checkpoint.last(tmp_path)
    assert not (tmp_path / runs.SUMMARY).exists()
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole


def test_the_clock_saves_too(text, tmp_path, monkeypatch):
    now, log = [0.0], Loop._log

    def minute(loop, *args):
        log(loop, *args)
        now[0] += 60.0

    monkeypatch.setattr(Loop, "_log", minute)
    monkeypatch.setattr(Loop, "_minutes_passed", Loop._minutes_passed)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + now[0])
    saved, save = [], Loop.save
    monkeypatch.setattr(Loop, "save", lambda s, best=False: (saved.append(s.step), save(s, best)))
    kept = {"every_minutes": 1.5, "keep_last": 99}
    config = tiny_runs.config(
        text, train={"eval_every": 0, "chunk_steps": 1, "steps": 9}, checkpoint=kept
    )
    fit(config, tmp_path, monkeypatch)
    assert saved == [2, 4, 6, 8, 9] == checkpoint.available(tmp_path)


# Full disks.


@pytest.fixture
def make_room(monkeypatch):
    """Once step 9 is done no file may grow beyond 2,000 bytes: until this function is called."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log, is_small = Loop._log, True

    def filling(loop, *args):
        log(loop, *args)
        if is_small and loop.step >= 9 and resource.getrlimit(resource.RLIMIT_FSIZE) == before:
            loop.checkpoints.wait()  # that of step 7
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))

    def make_room():
        nonlocal is_small
        is_small = False
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Loop, "_log", filling)
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
    assert checkpoint.last(tmp_path) == 7
    said = str(ended) if what == "stop" else capsys.readouterr().err
    assert "step 14 could not be written" in said and "step 7 is kept" in said
    assert "MB are free" in said and ("on_full_disk=continue" in said) == (what == "stop")
    if what == "continue":
        assert ended["steps"] == 23
    fit(tiny_runs.config(text), tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole


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
    assert outcome(config, tmp_path) == whole


def test_the_checkpoint_that_is_named_is_a_sound_one(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text, checkpoint={"every_steps": 3, "keep_last": 9})
    fit(config, tmp_path, monkeypatch, stop_at=6)
    sound, newest = shelf.slots(tmp_path)[-2:]
    (newest.path / "manifest.json").write_bytes(b"")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity, "seal", full)
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
        assert outcome(config, tmp_path) == whole
    else:
        assert ended["steps"] == 23
        said = capsys.readouterr().err  # once, and no advice to do what is done already
        assert said.count("metrics.jsonl cannot be written") == 1 and "on_full_disk" not in said


# Numbers that are none.


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
    assert checkpoint.last(tmp_path / "a") == 11
    record = metrics.read(tmp_path / "a" / runs.METRICS)[-1]
    assert (record["bad_step"], record["bad_loss"]) == (11, "nan")
    again = fit(config, tmp_path / "a", monkeypatch, ends_with=UserError)
    assert str(again) == str(error)
    found = [r for r in metrics.read(tmp_path / "a" / runs.METRICS) if "bad_step" in r]
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
    records = metrics.read(tmp_path / runs.METRICS)
    bad = [(r["bad_step"], r["what"]) for r in records if "bad_step" in r]
    assert bad[:2] == [(3, "passed over"), (4, "passed over")] and bad[2][0] == 15
    assert [r["skipped"] for r in records if "skipped" in r] == [2]
    err = capsys.readouterr().err
    assert "step 3:" in err and "--replay_step=4" in err
    stopped_on_the_way = tmp_path / "other"
    fit(config, stopped_on_the_way, monkeypatch, stop_at=4)
    fit(config, stopped_on_the_way, monkeypatch, ends_with=UserError)
    assert metrics.read(stopped_on_the_way / runs.METRICS) == records


def test_parameters_that_are_not_finite_are_never_saved(text, tmp_path, monkeypatch):
    save, write = Loop.save, checkpoint.Checkpoints._write

    def slow(*args):
        time.sleep(0.5)  # so that the good one is still being written when the bad one comes
        write(*args)

    def spoilt(loop, best=False):
        if loop.step == 14:
            params = jax.tree.map(lambda leaf: leaf.at[0, 0].set(np.inf), loop.state.params)
            loop.state = loop.state.replace(params=params)
        save(loop, best)

    monkeypatch.setattr(checkpoint.Checkpoints, "_write", slow)
    monkeypatch.setattr(Loop, "save", spoilt)
    error = fit(tiny_runs.config(text), tmp_path, monkeypatch, ends_with=UserError)
    assert "step 14: parameter token_embedding_table/embedding is not finite" in str(error)
    assert "not saved" in str(error) and "step 7" in str(error)
    assert checkpoint.last(tmp_path) == 7


def test_a_step_is_replayed_from_the_checkpoint_before_it(text, tmp_path, monkeypatch, poison):
    config = tiny_runs.config(text, "bigram_embed", train={"skip_nonfinite": 3})
    poison(11)
    fit(config, tmp_path, monkeypatch, stop_at=16)
    steps = checkpoint.available(tmp_path)
    exp = tiny_runs.build_once(config)
    found = replay.replay(exp, tmp_path, 11)
    assert found.from_step == max((s for s in steps if s <= 11), default=0)
    assert np.isnan(found.loss_nats)
    assert all(leaf.n_bad == 0 and leaf.grad_n_bad > 0 for leaf in found.parameters)
    lines = list(replay.lines(found))
    assert any("lm_head" in line for line in lines) and any("loss is not fin" in ln for ln in lines)
    fine = replay.replay(exp, tmp_path, 12)
    assert np.isfinite(fine.loss_nats) and not any(leaf.grad_n_bad for leaf in fine.parameters)
    assert checkpoint.available(tmp_path) == steps


def test_a_replay_sees_the_very_parameters_that_the_run_had(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text, checkpoint={"every_steps": 1, "keep_last": 99})
    fit(config, tmp_path, monkeypatch)
    exp = tiny_runs.build_once(config)
    norms = {}
    for step in (13, 20):
        norms[step] = [leaf.norm for leaf in replay.replay(exp, tmp_path, step).parameters]
    for slot in shelf.slots(tmp_path):
        if slot.step != 10:
            shelf.delete(slot)
    for step in (13, 20):
        found = replay.replay(exp, tmp_path, step)
        assert found.from_step == 10
        assert [leaf.norm for leaf in found.parameters] == norms[step]


def test_a_step_is_replayed_from_the_sound_checkpoint_before_a_damaged_one(
    text, tmp_path, monkeypatch
):
    config = tiny_runs.config(text, checkpoint={"every_steps": 5, "keep_last": 9})
    fit(config, tmp_path, monkeypatch)
    exp = tiny_runs.build_once(config)
    sound = replay.replay(exp, tmp_path, 12)
    assert sound.from_step == 10 and not sound.notes
    damaged = next(slot for slot in shelf.slots(tmp_path) if slot.step == 10)
    (damaged.path / "manifest.json").write_bytes(b"")
    found = replay.replay(exp, tmp_path, 12)
    assert found.from_step == 7 and "step 10 is damaged" in found.notes[0]
    assert found.parameters == sound.parameters and found.loss_nats == sound.loss_nats


def test_a_step_behind_the_last_checkpoint_is_replayed_with_a_word_about_it(
    text, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    last = checkpoint.last(tmp_path)
    found = replay.replay(tiny_runs.build_once(config), tmp_path, 20)
    assert f"the last checkpoint is of step {last}" in found.notes[0]


def test_the_flag_prints_the_table(text, tmp_path, monkeypatch, capsys):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    capsys.readouterr()
    fields = tiny_runs.gptjax_config.fields(config)
    flags = [f"--config.{field.path}={field.value}" for field in fields if field.path != "expected"]
    argv = ["train", "--config=gpt:small", f"--workdir={tmp_path}", "--replay_step=8", *flags]
    monkeypatch.setattr(sys, "argv", [*argv, "--nocompilation_cache"])
    with pytest.warns(RuntimeWarning), pytest.raises(SystemExit) as end:
        runpy.run_module("gptjax.train", run_name="__main__", alter_sys=True)
    out = capsys.readouterr().out
    assert end.value.code == 0, out
    assert "step 8, from step 7: loss" in out and "token_embedding_table" in out
    assert "the loss is finite" in out
