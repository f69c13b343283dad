"""The first and the last page of a run: what is recorded, what is measured, what is said of it."""

import json
import math
import shutil

import pytest
import tiny_runs
from tiny_runs import fit

from gptjax.checkpoints import directory, run
from gptjax.monitoring.console import Terminal
from gptjax.training import summary
from gptjax.training.trainer import Trainer


@pytest.mark.parametrize(
    "nats, band, text, ok",
    [
        (1.79, (1.7, 1.9), "val 1.79: as expected, 1.70–1.90 nats per token", True),
        (1.7, (1.7, 1.9), "val 1.70: as expected, 1.70–1.90 nats per token", True),
        (2.31, (1.7, 1.9), "val 2.31: higher than expected (1.70–1.90 nats per token): ", False),
        (1.904, (1.7, 1.9), "val 1.9040: higher than expected (1.7000–1.9000 nats", False),
        (1.61, (1.7, 1.9), "val 1.61: better than expected (1.70–1.90 nats per token)", True),
        (2.455, (2.4519, 2.4619), "val 2.4550: as expected, 2.4519–2.4619 nats", True),
        (math.nan, (1.7, 1.9), "val nan: the training diverged", False),
        (math.inf, (1.7, 1.9), "val inf: the training diverged", False),
    ],
)
def test_verdict_against_the_band(nats, band, text, ok):
    said, good = summary.verdict(nats, band)
    assert said.startswith(text) and good is ok and "\n" not in said


def test_without_a_band_the_verdict_says_why():
    said, ok = summary.verdict(1.5, None, "my.txt is not in expected")
    assert ok is None and "1.50" in said and "my.txt is not in expected" in said


# ---- what is recorded and measured


def test_every_start_is_kept_in_run_json(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    for stop in (4, 12, None):
        fit(config, tmp_path, monkeypatch, stop_at=stop)
    starts = run.starts(tmp_path)
    assert [start["step"] > 0 for start in starts] == [False, True, True]
    for start in starts:
        assert {"versions", "git", "devices", "command", "started"} <= set(start)
    (tmp_path / run.RECORD).write_text("[[[", encoding="utf-8")
    fit(config, tmp_path, monkeypatch)
    assert [start["step"] for start in run.starts(tmp_path)] == [tiny_runs.STEPS]


def test_a_fresh_run_says_that_its_stream_looks_like_a_list(tmp_path, monkeypatch):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{n:b}\n" for n in range(100, 200)), encoding="utf-8")
    seen = []
    monkeypatch.setattr(Terminal, "note", lambda _, note: seen.append(note))
    advice = "names.txt looks like a list of items, one a line: data.kind=items learns them as such"
    config = tiny_runs.config(names, data={"kind": "auto"})
    for stop in (4, None):
        fit(config, tmp_path / "run", monkeypatch, stop_at=stop)
        assert seen.count(advice) == (stop is not None)  # a run that goes on is what it is
        seen.clear()
    fit(tiny_runs.config(names, data={"kind": "items"}), tmp_path / "items", monkeypatch)
    assert advice not in seen


def test_tensorboard_files_are_told_and_can_be_left_out(text, whole, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    seen = []
    monkeypatch.setattr(Terminal, "note", lambda _, note: seen.append(note))
    config, folder = tiny_runs.config(text), tmp_path / "tensorboard"
    fit(config, tmp_path, monkeypatch, stop_at=9)
    line = f"TensorBoard files: {folder} (train.tensorboard=false leaves them out)"
    assert seen.count(line) == 1
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 1
    without = tiny_runs.config(text, train={"tensorboard": False})
    fit(without, tmp_path, monkeypatch)  # it changes no number, so the run goes on
    assert seen.count(line) == 1 and [path.name for path in folder.iterdir()] == names
    assert tiny_runs.outcome(without, tmp_path) == whole(config)[1]
    fit(config, tmp_path, monkeypatch)  # there is nothing left to do
    assert [path.name for path in folder.iterdir()] == names


def test_a_best_that_is_gone_at_the_end_lends_no_other_its_loss(
    text, whole, tmp_path, monkeypatch, capsys
):
    config = tiny_runs.config(text, checkpoint={"keep_last": 9})
    fit(config, tmp_path, monkeypatch)
    real = Trainer._evaluate

    def better_before(self):
        real(self)
        self.progress.best_step, self.progress.best_val_nats = 14, -1.0
        for slot in directory.slots(tmp_path):
            if slot.step == 14:
                directory.delete(slot)

    more = tiny_runs.config(text, checkpoint={"keep_last": 9}, train={"steps": 24})
    monkeypatch.setattr(Trainer, "_evaluate", better_before)
    figures = fit(more, tmp_path, monkeypatch)
    assert "the best checkpoint, of step 14, is not there any more" in capsys.readouterr().err
    assert figures["best_step"] != 14
    params = run.open_run(tmp_path, figures["best_step"]).params
    exp = tiny_runs.build_once(more)
    assert figures["best_val_nats"] == exp.evaluator.exact_loss(params, exp.splits["val"])


def test_a_best_that_is_damaged_at_the_end_does_not_cost_the_summary(
    text, whole, tmp_path, monkeypatch
):
    rates = {"learning_rate": 0.6, "schedule": "constant"}
    config = tiny_runs.config(text, optim=rates, train={"steps": 61})
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    best = next(slot for slot in directory.slots(workdir) if slot.best)
    (best.path / "params" / "manifest.ocdbt").unlink()
    (workdir / run.SUMMARY).unlink()
    figures = fit(config, workdir, monkeypatch)
    assert figures["best_step"] == figures["steps"] == 61
    assert json.loads((workdir / run.SUMMARY).read_text(encoding="utf-8")) == figures
