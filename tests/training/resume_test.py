"""A run that was stopped anywhere and continued equals one that was not, bit for bit."""

import json
import shutil
import time
from pathlib import Path

import chex
import pytest
import tiny_runs
from tiny_runs import fit, outcome

from gptjax.checkpoints import directory, manifest, run
from gptjax.config.schema import MODELS
from gptjax.errors import UserError
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.monitoring import metrics
from gptjax.monitoring.console import Terminal
from gptjax.training import resume, trainer
from gptjax.training.resume import Progress
from gptjax.training.trainer import Trainer


def stop_and_go_on(config, workdir, monkeypatch, stops):
    for stop in stops:
        stopped = fit(config, workdir, monkeypatch, stop_at=stop)
        assert stop <= stopped.step == directory.last(workdir)
    return fit(config, workdir, monkeypatch)


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_continues_to_the_same_bits(kind, text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text, kind)
    stop_and_go_on(config, tmp_path, monkeypatch, [9])
    assert outcome(config, tmp_path) == whole(config)[1]


@pytest.mark.parametrize("stop", [1, 6, 7, 13, 22, 23])
def test_a_run_may_stop_after_any_step_the_last_one_too(stop, text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    stop_and_go_on(config, tmp_path, monkeypatch, [stop])
    assert outcome(config, tmp_path) == whole(config)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"accumulate": 2}},
        {"checkpoint": {"every_steps": 4, "keep_last": 1}},
        {"checkpoint": {"every_minutes": 1e-9}},
        {"train": {"eval_every": 0}},
        {"optim": {"name": "sgd", "clip_norm": 0.0, "schedule": "constant"}},
    ],
    ids=str,
)
def test_settings_that_move_saves_and_sums_change_nothing_of_that(
    changes, text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text, **changes)
    stop_and_go_on(config, tmp_path, monkeypatch, [2, 11, 15])
    assert outcome(config, tmp_path) == whole(config)[1]


def test_the_best_may_change_before_and_after_the_stop(text, whole, tmp_path, monkeypatch):
    # Too high a rate: after a while the loss rises, and the best lies in the middle.
    rates = {"learning_rate": 0.6, "schedule": "constant"}
    config = tiny_runs.config(text, optim=rates, train={"steps": 61})
    workdir, expected = whole(config)
    records = metrics.read(workdir / run.METRICS)
    vals = {r["step"]: r["val_nats"] for r in records if "val_nats" in r}
    best = expected["summary"]["best_step"]
    assert 0 < best < 61 and vals[best] == min(vals.values())
    for stop in (best - 1, best + 1):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        stop_and_go_on(config, tmp_path / "run", monkeypatch, [stop])
        assert outcome(config, tmp_path / "run") == expected


class Killed(BaseException):
    """Stands for a kill: nothing that catches errors may catch it."""


def moments(*calls: int):
    """Where to die: (object, its function, at which call of it, before or after it)."""
    owners = [(trainer, "estimate_loss"), (Evaluator, "batch_sums")]
    owners += [(Trainer, "write"), (Trainer, "save")]
    for owner, name in owners:
        for call in calls:
            yield pytest.param(owner, name, call, False, id=f"before {name} {call}")
            yield pytest.param(owner, name, call, True, id=f"after {name} {call}")


@pytest.mark.parametrize("owner, name, call, after", list(moments(1, 4)))
def test_no_line_is_lost_or_doubled_wherever_it_dies(
    owner, name, call, after, text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text, checkpoint={"every_steps": 5})
    real, count = getattr(owner, name), 0

    def deadly(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call and not after:
            raise Killed
        result = real(*args, **kwargs)
        if count == call:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, deadly)
        assert isinstance(fit(config, tmp_path, monkeypatch, ends_with=Killed), Killed)
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_an_evaluation_whose_checkpoint_was_lost_is_written_once(
    text, whole, tmp_path, monkeypatch
):
    """Saved by the clock at step 7, evaluated there, and killed before that was saved, too."""
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=7)  # saves before it evaluates
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", lambda *_, **__: (_ for _ in ()).throw(Killed))
        fit(config, tmp_path, monkeypatch, ends_with=Killed)
    steps = [r["step"] for r in metrics.read(tmp_path / run.METRICS) if "val_nats" in r]
    assert steps == [0, 7]  # the line is there, its checkpoint is not
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_torn_and_foreign_lines_are_cut_away(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=12)
    with open(tmp_path / run.METRICS, "ab") as file:
        file.write(b'{"step": 20, "loss_nats": 1.0}\n{"step": 14, "loss_na')
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_a_damaged_last_checkpoint_costs_time_and_no_bit(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=12)
    slot = directory.slots(tmp_path)[-1]
    (slot.path / "rest" / "manifest.ocdbt").write_bytes(b"cut")
    fit(config, tmp_path, monkeypatch)
    found, expected = outcome(config, tmp_path), whole(config)[1]
    assert found == expected


def test_a_folder_copied_elsewhere_continues_there(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path / "here", monkeypatch, stop_at=12)
    there = shutil.copytree(tmp_path / "here", tmp_path / "an other place, ü")
    shutil.rmtree(tmp_path / "here")
    fit(config, there, monkeypatch)
    assert outcome(config, there) == whole(config)[1]


def test_foreign_files_among_the_checkpoints_are_left_alone(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    folder = tmp_path / "checkpoints"
    for name in ("step_99 (copy)", "step_-3", "notes", "step_007"):
        (folder / name).mkdir(parents=True)
    for name in (".DS_Store", "step_98", "Thumbs.db", "ünïcode\ud800".encode(errors="replace")):
        path = folder / (name if isinstance(name, str) else name.decode())
        path.write_bytes(b"not yours")
    fit(config, tmp_path, monkeypatch, stop_at=12)
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]
    assert (folder / "step_98").read_bytes() == b"not yours" and (folder / "notes").is_dir()


def test_a_clock_that_goes_back_changes_nothing(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    now = iter(range(2**31, 0, -3600))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(now)))
        fit(config, tmp_path, monkeypatch, stop_at=12)
        fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_two_runs_of_one_seed_are_one_run_byte_for_byte(text, whole, tmp_path):
    config = tiny_runs.config(text, "mlp")
    fit(config, tmp_path)  # compiled anew: nothing is shared with the other
    assert outcome(config, tmp_path) == whole(config)[1]


def test_another_seed_is_another_run(text, whole, tmp_path, monkeypatch):
    values = tiny_runs.to_dict(tiny_runs.config(text))
    config = tiny_runs.from_dict(values | {"seed": 3})
    fit(config, tmp_path, monkeypatch)
    lines = (tmp_path / run.METRICS).read_bytes()
    assert lines != whole(tiny_runs.config(text))[1]["metrics"]


def test_a_finished_run_started_again_is_shown_and_not_changed(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    fit(config, workdir, monkeypatch)
    assert outcome(config, workdir) == whole(config)[1]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == names


# Other settings, other versions.


def test_more_steps_continue_and_a_cosine_says_that_it_changes(
    text, whole, tmp_path, monkeypatch, capsys
):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    more = tiny_runs.config(text, train={"steps": 30})
    _, _, notes = resume.restore(tiny_runs.build_once(more), workdir)
    assert len(notes) == 1 and "was 23 and is 30" in notes[0] and "learning rate" in notes[0]
    assert "0.002" in notes[0]  # where the cosine had ended
    summary = fit(more, workdir, monkeypatch)
    assert summary["steps"] == 30
    records = metrics.read(workdir / run.METRICS)
    assert [r["step"] for r in records if "val_nats" in r] == [0, 7, 14, 21, 23, 28, 30]
    long = tiny_runs.config(text, optim={"schedule": "constant"}, train={"steps": 30})
    assert resume.changed_schedule(long, config, 23) == []


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"optim": {"learning_rate": 0.5}}, ["optim.learning_rate: 0.02 -> 0.5"]),
        ({"model": {"block_size": 5}}, ["model.block_size: 6 -> 5"]),
        ({"train": {"batch_size": 8}, "optim": {"beta1": 0.5}}, ["train.batch_size", "beta1"]),
        ({"train": {"steps": 9}}, ["step 23", "train.steps=9"]),
    ],
    ids=str,
)
def test_other_settings_are_refused_with_both_values_and_harm_nothing(
    changes, named, text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    with pytest.raises(UserError) as error:
        fit(tiny_runs.config(text, **changes), workdir, monkeypatch)
    assert all(part in str(error.value) for part in named) and "--workdir" in str(error.value)
    assert outcome(config, workdir) == whole(config)[1]


def test_another_text_is_refused(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    tiny_runs._built.cache_clear()
    before = text.read_bytes()
    try:
        text.write_bytes(before[:-9] + b"abcabca.\n")
        with pytest.raises(UserError, match="another text"):
            fit(config, workdir, monkeypatch)
    finally:
        text.write_bytes(before)
        tiny_runs._built.cache_clear()


def rewrite_meta(workdir, change):
    """Give every checkpoint of a run another meta, properly sealed."""
    for slot in directory.slots(workdir):
        facts = manifest.read(slot.path)
        change(facts["meta"])
        (slot.path / manifest.MANIFEST).unlink()
        del facts["files"]
        manifest.seal(slot.path, facts)


def test_a_checkpoint_from_before_a_field_existed_opens_and_continues(
    text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=12)

    def age(meta):
        for group, field in (("train", "skip_nonfinite"), ("optim", "clip_norm")):
            del meta["config"][group][field]
        del meta["config"]["sample"]
        for name in LATER:
            del meta["memory"][name]

    rewrite_meta(tmp_path, age)
    assert run.open_run(tmp_path, "last").config.optim.clip_norm == 1.0
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_a_checkpoint_of_a_later_version_is_refused_and_its_field_named(
    text, whole, tmp_path, monkeypatch
):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    rewrite_meta(workdir, lambda meta: meta["config"]["optim"].update(nesterov=True))
    for use in (lambda: fit(config, workdir, monkeypatch), lambda: run.open_run(workdir)):
        with pytest.raises(UserError, match="optim.nesterov.*run.json"):
            use()


def test_a_damaged_best_names_the_way_out(text, whole, tmp_path):
    rates = {"learning_rate": 0.6, "schedule": "constant"}
    config = tiny_runs.config(text, optim=rates, train={"steps": 61})
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    best = next(slot for slot in directory.slots(workdir) if slot.best)
    (best.path / "params" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=f"step {best.step} is damaged.*--checkpoint=last"):
        run.open_run(workdir)
    assert run.open_run(workdir, "last").step == 61


def test_results_without_checkpoints_are_not_overwritten(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "checkpoints")
    kept = {name: (tmp_path / name).read_bytes() for name in (run.METRICS, run.SUMMARY)}
    error = fit(config, tmp_path, monkeypatch, ends_with=UserError)
    assert "summary.json, and none of its checkpoints" in str(error)
    assert kept == {name: (tmp_path / name).read_bytes() for name in kept}
    (tmp_path / run.SUMMARY).unlink()
    fit(config, tmp_path, monkeypatch)
    assert outcome(config, tmp_path) == whole(config)[1]


def test_lines_that_somebody_deleted_are_missed(text, tmp_path, monkeypatch, capsys):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    path, seen = tmp_path / run.METRICS, []
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    monkeypatch.setattr(Terminal, "note", lambda _, note: seen.append(note))
    fit(config, tmp_path, monkeypatch)
    assert any(f"has 1 of the {len(lines)} lines" in note for note in seen)


def test_what_a_killed_writer_left_is_deleted(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=9)
    (tmp_path / "metrics.jsonlx1.part").write_bytes(b"half")
    (tmp_path / "my.part").write_bytes(b"mine")
    fit(config, tmp_path, monkeypatch)
    assert [path.name for path in tmp_path.glob("*.part")] == ["my.part"]


def test_the_same_text_may_lie_elsewhere(text, whole, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path / "run", monkeypatch, stop_at=9)
    moved = tiny_runs.config(Path(shutil.copy(text, tmp_path / text.name)))
    fit(moved, tmp_path / "run", monkeypatch)
    assert outcome(moved, tmp_path / "run") == whole(config)[1]


@pytest.mark.parametrize("missing", ["memory", "data"])
def test_a_model_without_a_history_opens_and_is_not_continued(missing, text, whole, tmp_path):
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    expected = run.open_run(workdir, "last")
    rewrite_meta(workdir, lambda meta: meta.pop(missing))
    opened = run.open_run(workdir, "last")
    assert (opened.step, opened.config) == (expected.step, expected.config)
    assert opened.data == (None if missing == "data" else expected.data)
    chex.assert_trees_all_equal(opened.params, expected.params)
    assert opened.generate("ab", max_new_tokens=9) == expected.generate("ab", max_new_tokens=9)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        fit(config, workdir)
    assert str(error.value) == (
        f"the model in {workdir} has no history of training to continue: train from it in a folder "
        f"of its own, --init_from={workdir} --workdir=runs/mine"
    )
    after = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert {path: before[path] for path in before if path.name != "run.lock"} == {
        path: after[path] for path in after if path.name != "run.lock"
    }


def test_the_saved_parts_are_those_of_the_state(text, whole):
    exp = tiny_runs.build_once(tiny_runs.config(text))
    state, progress, notes = resume.restore(exp, whole(exp.config)[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(state, exp.abstract_state)
    assert state.step == tiny_runs.STEPS and progress.evaluated == tiny_runs.STEPS and notes == []


def test_damage_that_is_passed_over_is_told(text, tmp_path, monkeypatch):
    config, told = tiny_runs.config(text), []
    fit(config, tmp_path, monkeypatch, stop_at=12)
    slot = directory.slots(tmp_path)[-1]
    (slot.path / "rest" / "manifest.ocdbt").write_bytes(b"cut")
    state, _, _ = resume.restore(tiny_runs.build_once(config), tmp_path, warn=told.append)
    assert state.step == 7
    assert len(told) == 1 and f"step {slot.step} is damaged" in told[0] and "\n" not in told[0]


# The trainer's progress as JSON.

PROGRESS = Progress(
    evaluated=14,
    best_step=7,
    best_val_nats=1.75,
    pending=[[1.5, 0.25], [1.25, 0.5]],
    train_seconds=3.5,
    timed_steps=13,
    timed_seconds=2.5,
    gather_seconds=0.0625,
    evaluation_seconds=0.75,
    checkpoint_seconds=0.125,
    lines=9,
)
SAVED = {
    "evaluated": 14,
    "best": {"step": 7, "val_nats": 1.75},
    "pending": [[1.5, 0.25], [1.25, 0.5]],
    "train_seconds": 3.5,
    "timed": [13, 2.5],
    "gather_seconds": 0.0625,
    "evaluation_seconds": 0.75,
    "checkpoint_seconds": 0.125,
    "lines": 9,
}
# What earlier versions did not note.
LATER = ("lines", "gather_seconds", "evaluation_seconds", "checkpoint_seconds")


def test_progress_is_saved_as_it_always_was_and_comes_back():
    assert PROGRESS.to_json() == SAVED
    assert Progress.from_json(json.loads(json.dumps(SAVED))) == PROGRESS
    fresh = Progress()
    said = json.loads(json.dumps(fresh.to_json()))
    assert said["best"] is None and said["lines"] is None
    assert Progress.from_json(said) == fresh
    PROGRESS.to_json()["pending"].clear()
    assert len(PROGRESS.pending) == 2  # what was saved is not what goes on


def test_progress_is_what_a_run_saves(text, tmp_path, monkeypatch):
    config = tiny_runs.config(text)
    fit(config, tmp_path, monkeypatch, stop_at=12)
    said = directory.facts(directory.slots(tmp_path)[-1])["meta"]["memory"]
    assert set(said) == set(SAVED) and said["evaluated"] == 7
    _, progress, _ = resume.restore(tiny_runs.build_once(config), tmp_path)
    assert progress.to_json() == said


def test_earlier_versions_noted_less():
    old = {name: SAVED[name] for name in SAVED if name not in LATER}
    found = Progress.from_json(old)
    assert (found.lines, found.evaluation_seconds, found.checkpoint_seconds) == (None, 0.0, 0.0)
    assert found.to_json() == SAVED | dict.fromkeys(LATER, 0.0) | {"lines": None}
    assert Progress.from_json(SAVED | {"a later version's": 1}) == PROGRESS


WRONG = [None, "x", True, [], {}, [1.0], 10**400]
SECONDS = ("train_seconds", "gather_seconds", "evaluation_seconds", "checkpoint_seconds")
MALFORMED = {name: list(WRONG) for name in ("evaluated", *SECONDS)}
MALFORMED["best"] = ["x", 7, 0, "", False, [], {}, {"step": 7}, {"val_nats": 1.0}]
MALFORMED["best"] += [{"step": wrong, "val_nats": 1.0} for wrong in WRONG]
MALFORMED["best"] += [{"step": 7, "val_nats": wrong} for wrong in WRONG]
MALFORMED["timed"] = [None, 1.0, "ab", [], [1], [1, 2, 3], {}, {"a": 1, "b": 2}]
MALFORMED["timed"] += [[wrong, 1.0] for wrong in WRONG] + [[1, wrong] for wrong in WRONG]
MALFORMED["pending"] = [None, 1.0, "ab", {"ab": 1}, [1.0], [[]], [[1.0]], [[1.0, 2.0, 3.0]], ["ab"]]
MALFORMED["pending"] += [[[1.0, wrong]] for wrong in WRONG] + [[[wrong, 1.0]] for wrong in WRONG]
MALFORMED["lines"] = [*WRONG[1:-1], -1, 2.5, 9.0, "9"]
REFUSED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


@pytest.mark.parametrize(
    "name, value",
    [(name, value) for name, values in MALFORMED.items() for value in values],
    ids=lambda value: repr(value)[:30],
)
def test_a_malformed_progress_is_refused(name, value):
    with pytest.raises(REFUSED):
        Progress.from_json(SAVED | {name: value})


@pytest.mark.parametrize("name", [n for n in SAVED if n not in LATER])
def test_a_progress_that_lacks_something_is_refused(name):
    with pytest.raises(REFUSED):
        Progress.from_json({other: SAVED[other] for other in SAVED if other != name})


@pytest.mark.parametrize("said", [None, 3, "memory", [], True])
def test_a_progress_that_is_none_is_refused(said, text, whole, tmp_path):
    with pytest.raises(REFUSED):
        Progress.from_json(said)
    config = tiny_runs.config(text)
    workdir = shutil.copytree(whole(config)[0], tmp_path / "run")
    rewrite_meta(workdir, lambda meta: meta.update(memory=said))
    with pytest.raises(UserError, match="is not one that this version of gptjax can read") as error:
        fit(config, workdir)
    assert "\n" not in str(error.value) and "--workdir" in str(error.value)
    assert run.open_run(workdir, "last").step == tiny_runs.STEPS  # it needs no history
