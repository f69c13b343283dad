"""launch/notes.ipynb, run from the first cell to the last."""

import json
import re
from pathlib import Path

import numpy as np
from notebook_test import run_cells

ROOT = Path(__file__).resolve().parent.parent
SAVED = (ROOT / "launch/notes.ipynb").read_text(encoding="utf-8")


def test_cells_are_named_tagged_and_without_outputs():
    cells = json.loads(SAVED)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert [c["id"] for c in cells if "parameters" in c["metadata"].get("tags", [])] == ["settings"]
    assert not any(cell.get("outputs") for cell in cells)


# What the notes should have printed (see goldens_test.py, which holds the digits).
FIGURES = """
.1514 .0168 .0034 .8285
.0818 .0025 .0135 .9022
.2683 .1627 .1267 .4423
.1166 .0158 .0058 .8618
1.4472 .9264 2.2168 .9264 2.2168 1.7285
.1880 .2077 .1701 .1539 .2804
.0483 .1187 .0196 .0590 .3942 .0240 .2391 .0972
.9310 .3536 -.3536 2.124 2.45 .6667 .2667 .9333
.2604 .5835 .0471 .1090 .1776 .1103 .0558 .6563
"""


def test_it_runs_from_the_first_cell_to_a_gpt_that_writes(tmp_path):
    text, names = tmp_path / "text.txt", tmp_path / "names.txt"
    text.write_text("ROMEO: but soft, what light is this?\n" * 60, encoding="utf-8")
    names.write_text("abi\nabid\nbia\ndiba\nbaab\nabba\nibi\naib\ndida\nbab\n", encoding="utf-8")
    tiny = {"model.n_layer": 1, "model.n_embd": 8, "model.block_size": 8, "train.batch_size": 3}
    settings = {
        "DATA": str(text),
        "NAMES": str(names),
        "RUNGS": "bigram,embed",
        "LADDER_STEPS": 10,
        "GPT_STEPS": 10,
        "GPT_FIELDS": [f"--config.{field}={value}" for field, value in tiny.items()],
        "FOLDER": str(tmp_path / "runs"),
    }
    cells = [cell for cell in json.loads(SAVED)["cells"] if cell["cell_type"] == "code"]
    output = run_cells(cells, settings, cwd=ROOT / "launch", JAX_PLATFORMS="cpu")
    printed = np.array([float(number) for number in re.findall(r"-?\d+\.\d+", output)])
    for figure in map(float, FIGURES.split()):
        assert np.abs(printed - figure).min() < 0.51e-4, figure
    assert "input shape: (4, 8)  target shape: (4, 8)" in output
    ids = re.findall(r"^\(2, 5\) (.*)$", output, re.MULTILINE)
    for rows in map(json.loads, ids):
        assert [row[:3] for row in rows] == [[0, 1, 2], [1, 2, 3]] and max(map(max, rows)) < 4
    assert len(ids) == 2, "page 6 by hand and by the package"
    assert "(4, 8, 2) True True" in output and "209729 parameters" in output
    assert "loss 1.5770" in output
    assert "learnt the same pairs: True" in output and "the|␣wea|ther|" in output
    for name in ("ladder/compare.png", "names/plane.png", "gpt/loss.png"):
        assert f"displayed: {tmp_path / 'runs'}/{name}" in output
    assert "ladder-embed" in output and "count bigram" in output
    assert "ROMEO:" in output.split("gpt/loss.png")[-1], "it ends with a sample"
