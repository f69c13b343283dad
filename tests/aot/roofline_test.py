"""The roofline is the longest of three times, and what a change would give is arithmetic."""

import dataclasses

import pytest

from gptjax.aot.roofline import Step, changes, roofline
from gptjax.bench import peaks

CHIP = peaks.Chip(float32=50, bfloat16=200, memory_gib=16, memory_gb_s=800, link_gb_s=90)
STEP = Step(
    flops=2e12,
    memory_bytes=4e9,
    link_bytes=9e8,
    total=5e9,
    params=1e9,
    optimizer=2e9,
    temporary=1.6e9,
    saved=0.5e9,
    saved_by_remat=0.2e9,
    remat=False,
    parts=2,
    rows=6,
    copies=4,
)


def test_each_part_takes_its_work_over_its_speed():
    found = roofline(CHIP, "bfloat16", 2e12, 4e9, 9e8)
    assert (found.compute, found.memory, found.links) == (0.01, 0.005, 0.01)
    assert roofline(CHIP, "float32", 2e12, 4e9, 9e8).bound == "compute"
    assert roofline(CHIP, "bfloat16", 2e12, 40e9, 9e8).bound == "memory"
    assert roofline(CHIP, "bfloat16", 2e12, 4e9, 18e8).seconds == 0.02


def test_a_change_gives_what_its_formula_says():
    found = {change.setting: change for change in changes(STEP, CHIP, "bfloat16", accumulate=2)}
    assert not any(change.compiled for change in found.values())
    remat = found.pop("model.remat=true")
    assert remat.total == pytest.approx(5e9 - 0.3e9)
    assert remat.roofline.compute == pytest.approx(0.01 * 4 / 3)
    more, less = found.pop("train.accumulate=4"), found.pop("train.accumulate=1")
    assert more.total == pytest.approx(5e9 - 0.3e9) and less.total == pytest.approx(5e9 + 0.6e9)
    assert more.roofline.links == 2 * 0.01 and less.roofline.links == 0.01 / 2
    split = found.pop("mesh.fsdp=4")
    assert split.total == pytest.approx(5e9 - 4e9 * 3 / 4)  # parameters, gradients and optimizer
    assert split.roofline.links == pytest.approx(2.5 * 2 * 1e9 * 3 / 4 / 90e9)
    assert not found


def test_what_cannot_be_changed_is_not_offered():
    alone = dataclasses.replace(STEP, remat=None, parts=1, rows=1, copies=1)
    assert changes(alone, CHIP, "bfloat16", accumulate=1) == []
    back = changes(dataclasses.replace(alone, remat=True), CHIP, "bfloat16", accumulate=1)
    assert [change.setting for change in back] == ["model.remat=false"]
    assert back[0].roofline.compute == 0.01 * 3 / 4
