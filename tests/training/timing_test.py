"""How long a run took stands beside its losses: in a file whose bytes no other file depends on."""

import errno
import itertools
import os
import time

import pytest
import tiny_runs
from tiny_runs import fit, outcome

from gptjax.checkpoints import directory, run
from gptjax.errors import UserError
from gptjax.monitoring import metrics
from gptjax.runtime import pace
from gptjax.training import trainer

TOKENS_PER_STEP = 4 * 6
SUMS = ("tokens", "train_seconds", "gather_seconds", "evaluation_seconds", "checkpoint_seconds")


def check(workdir, starts, figures):
    """The lines of a finished run: later ones never less, few, and at the end the summary's."""
    lines = metrics.read(workdir / run.TIMING)
    assert all(set(line) == {"step", *SUMS, "compiled"} for line in lines)
    for before, after in itertools.pairwise(lines):
        assert before["step"] < after["step"]
        assert all(before[name] <= after[name] for name in SUMS)
        assert before["train_seconds"] < after["train_seconds"]
    assert [line["tokens"] for line in lines] == [TOKENS_PER_STEP * ln["step"] for ln in lines]
    assert [line["step"] for line in lines if line["compiled"]] == [n + 1 for n in starts]
    # One in ten steps, one after each start's first steps, and one where a start ended.
    assert len(lines) <= tiny_runs.STEPS / trainer.LOG_EVERY + 2 * len(starts)
    assert lines[-1]["step"] == tiny_runs.STEPS
    assert lines[-1]["train_seconds"] == pytest.approx(figures["train_seconds"], abs=1e-6)
    # The last evaluation comes after the last step.
    assert 0 < lines[-1]["evaluation_seconds"] < figures["evaluation_seconds"]
    return lines


def test_at_another_speed_and_over_a_stop_the_losses_are_the_same_bytes(
    text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    workdir, expected = whole(config)
    check(workdir, [0], run.summary(workdir))
    real = trainer.estimate_loss

    def slow(*args):
        time.sleep(0.05)
        return real(*args)

    monkeypatch.setattr(trainer, "estimate_loss", slow)
    monkeypatch.setattr(pace, "SECONDS", 0.0)  # a step at a time
    assert fit(config, tmp_path, monkeypatch, stop_at=9).step == 9
    figures = fit(config, tmp_path, monkeypatch)
    lines = check(tmp_path, [0, 9], figures)
    assert 9 in [line["step"] for line in lines]  # from where the second start goes on
    assert outcome(config, tmp_path) == expected
    assert lines[-1]["evaluation_seconds"] > 4 * 0.05


def test_what_came_after_the_checkpoint_that_a_run_continues_from_is_cut_off(
    text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=12)
    slot = directory.slots(tmp_path)[-1]
    (slot.path / "rest" / "manifest.ocdbt").write_bytes(b"cut")  # that of step 7 is the last now
    figures = fit(config, tmp_path, monkeypatch)
    check(tmp_path, [0, 7], figures)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_a_run_from_before_there_was_such_a_file_goes_on_with_its_sums(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    step = fit(config, tmp_path, monkeypatch, stop_at=9).step
    before, *_ = metrics.read(tmp_path / run.TIMING)
    (tmp_path / run.TIMING).unlink()
    figures = fit(config, tmp_path, monkeypatch)
    first, *_ = check(tmp_path, [step], figures)
    assert first["step"] == step and first["train_seconds"] > before["train_seconds"]


def test_a_finished_run_started_again_adds_nothing(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch)
    before = (tmp_path / run.TIMING).read_bytes()
    fit(config, tmp_path, monkeypatch)
    assert (tmp_path / run.TIMING).read_bytes() == before


def test_a_run_that_stops_at_the_same_bad_step_again_adds_nothing(
    text, tmp_path, monkeypatch, poison
):
    poison(11)
    written = []
    for _ in range(2):
        fit(tiny_runs.config(text), tmp_path, monkeypatch, ends_with=UserError)
        written.append([line["step"] for line in metrics.read(tmp_path / run.TIMING)])
    assert written[0] == sorted(set(written[0])) and written[0][-1] <= 11
    assert written[1] == sorted({*written[0], 11})  # from where the second start goes on


@pytest.mark.parametrize("way", ["no room", "a folder in its place"])
def test_where_it_cannot_be_written_the_run_goes_on(way, text, whole, tmp_path, monkeypatch):
    real, refused = os.write, []

    def full(file, data):
        if b"train_seconds" in data:
            refused.append(data)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    if way == "no room":
        monkeypatch.setattr(metrics.os, "write", full)
    else:
        (tmp_path / run.TIMING).mkdir()
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    fit(config, tmp_path, monkeypatch)
    monkeypatch.undo()
    assert outcome(config, tmp_path) == whole(config)[1]
    assert bool(refused) == (way == "no room")
