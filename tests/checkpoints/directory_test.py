"""Which checkpoints there are and which may go."""

from __future__ import annotations

import os

import pytest

from gptjax.checkpoints import directory
from gptjax.checkpoints.manifest import Damaged
from gptjax.errors import UserError


def make(workdir, *names):
    for name in names:
        (workdir / "checkpoints" / name).mkdir(parents=True)


def test_names_are_read_in_the_order_of_writing_and_others_ignored(tmp_path):
    make(tmp_path, "step_10", "step_9-best", "step_9", "step_10.2-best", "step_10.11")
    make(tmp_path, "step_", "step_7x", ".unfinished-12", "step_8.tmp", "step_-1", "step_٣")
    (tmp_path / "checkpoints" / "step_99").write_text("a file", encoding="utf-8")
    found = [slot.path.name for slot in directory.slots(tmp_path)]
    assert found == ["step_9", "step_9-best", "step_10", "step_10.2-best", "step_10.11"]
    assert (directory.available(tmp_path), directory.best(tmp_path), directory.last(tmp_path)) == (
        [9, 10],
        10,
        10,
    )


def test_a_finished_folder_never_replaces_another(tmp_path):
    make(tmp_path, "step_5-best", ".unfinished-5")
    (tmp_path / "checkpoints" / ".unfinished-5" / "x").write_text("new", encoding="utf-8")
    slot = directory.rename_into_place(
        tmp_path / "checkpoints" / ".unfinished-5", 5, True, tmp_path
    )
    assert slot.path.name == "step_5.2-best" and (slot.path / "x").exists()
    assert [s.serial for s in directory.slots(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("there", "new", "keep_last", "gone"),
    [
        ("1 2 3", "3", 2, "1"),
        ("1-best 2 3 4", "4", 2, "2"),
        ("1-best 2-best 3 4", "4", 1, "1-best 3"),
        ("1-best 2 3-best", "3-best", 1, "1-best 2"),
        ("1 2 2.2", "2.2", 2, "2"),  # written again
        ("1 3-best 4 2", "2", 2, "3-best 4"),  # an earlier try
    ],
)
def test_the_last_ones_and_the_newest_best_stay(tmp_path, there, new, keep_last, gone):
    make(tmp_path, *(f"step_{name}" for name in there.split()))
    by_name = {slot.path.name: slot for slot in directory.slots(tmp_path)}
    found = directory.superfluous(directory.slots(tmp_path), by_name[f"step_{new}"], keep_last)
    assert [slot.path.name for slot in found] == [f"step_{name}" for name in gone.split()]


@pytest.mark.parametrize(
    ("there", "new", "gone"),
    [
        ("0 2 3 4 6 7 8-best 9 10", "10", "2 3 4 7 9"),
        ("5 5.2 6 10 11", "11", "5 6"),  # written again
        ("5 10-best 15 7", "7", "10-best 15"),  # an earlier try
    ],
)
def test_those_of_every_so_many_steps_stay_too(tmp_path, there, new, gone):
    make(tmp_path, *(f"step_{name}" for name in there.split()))
    slots, every = directory.slots(tmp_path), 6 if "8-best" in there else 5
    new = next(slot for slot in slots if slot.path.name == f"step_{new}")
    found = directory.superfluous(slots, new, 1, every)
    assert [slot.path.name for slot in found] == [f"step_{name}" for name in gone.split()]


def test_the_first_sound_one_is_taken_and_the_others_told(tmp_path):
    make(tmp_path, "step_1", "step_2-best", "step_3", "step_4")

    def read(slot):
        if slot.step > 1:
            raise Damaged("it is broken")
        return slot.step

    step, told = directory.first_sound(tmp_path, "last", read)
    assert step == 1
    assert told == [f"the checkpoint of step {k} is damaged (it is broken)" for k in (4, 3, 2)]
    for which in ("best", 3):
        with pytest.raises(UserError, match="broken.*of steps 1, 2, 3, 4"):
            directory.first_sound(tmp_path, which, read)


def test_what_was_left_unfinished_is_cleaned_away_and_nothing_else(tmp_path):
    make(tmp_path, ".unfinished-3/params", ".unfinished-step_1", "step_2", "mine")
    directory.clean(tmp_path)
    directory.delete(directory.slots(tmp_path)[0])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["mine"]


def test_a_deletion_that_is_interrupted_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    make(tmp_path, "step_1/params", "step_2")
    monkeypatch.setattr(directory.shutil, "rmtree", lambda *_, **__: None)
    directory.delete(directory.slots(tmp_path)[0])
    assert directory.available(tmp_path) == [2]
    monkeypatch.undo()
    directory.clean(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_2"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_among_what_was_left_unfinished_is_deleted_and_not_waited_for(tmp_path):
    make(tmp_path, "step_2")
    os.mkfifo(tmp_path / "checkpoints" / ".unfinished-7")
    directory.clean(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_2"]


def test_a_file_held_open_by_another_program_for_a_moment_costs_only_that(tmp_path, monkeypatch):
    make(tmp_path, ".unfinished-5")
    unfinished, rename, waits = tmp_path / "checkpoints" / ".unfinished-5", os.rename, []
    monkeypatch.setattr(directory.time, "sleep", waits.append)

    def refuse(free_after):
        def renamed(path, target):
            if len(waits) < free_after:
                raise PermissionError(13, "in use")
            rename(path, target)

        return renamed

    monkeypatch.setattr(directory.Path, "rename", refuse(9))
    with pytest.raises(PermissionError):
        directory.rename_into_place(unfinished, 5, False, tmp_path)
    assert waits == [0.1, 0.3, 1.0] and unfinished.is_dir()
    waits.clear()
    monkeypatch.setattr(directory.Path, "rename", refuse(2))
    assert directory.rename_into_place(unfinished, 5, False, tmp_path).path.is_dir()
    assert waits == [0.1, 0.3] and not unfinished.exists()
