"""launch/colab.ipynb, run cell after cell as a reader would, with a tiny model on a tiny text.

The cells run in a process of their own, in one namespace. As papermill does, new values for the
cell tagged "parameters" are put in after it; IPython is a stand-in that notes what is displayed.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = json.loads((ROOT / "launch/colab.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

RUNNER = """
import json, sys, types
cells, settings = json.load(sys.stdin)
ipython = types.ModuleType("IPython.display")
ipython.Image = lambda filename: f"displayed: {filename}"
ipython.display = print
sys.modules.update({"IPython": types.ModuleType("IPython"), "IPython.display": ipython})
names = {"__name__": "__main__"}
for cell in cells:
    exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    if "parameters" in cell["metadata"].get("tags", []):
        unknown = settings.keys() - names.keys()
        assert not unknown, f"the settings cell has no {unknown}"
        names.update(settings)
"""


def run_cells(cells, settings, cwd, **variables):
    env = os.environ | {"PIP_NO_INDEX": "1", "PYTHONUTF8": "1"} | variables
    result = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([cells, settings]),
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    print(result.stdout)  # pytest shows it when the test fails
    assert result.returncode == 0, "a cell failed, see the captured stdout"
    return result.stdout


def test_the_notebook_is_saved_without_outputs():
    assert [cell["outputs"] for cell in CODE] == [[]] * len(CODE)
    assert [cell["execution_count"] for cell in CODE] == [None] * len(CODE)


def test_its_cells_train_show_the_curve_sample_and_keep_the_run(tmp_path):
    text = tmp_path / "my text.txt"
    text.write_text("ROMEO: but soft, what light is this?\n" * 50, encoding="utf-8")
    tiny = {"model.n_layer": 1, "model.n_head": 2, "model.n_embd": 8, "model.block_size": 16}
    tiny |= {"train.steps": 20, "train.eval_every": 10, "train.batch_size": 3}
    settings = {
        "OVERRIDES": [f"--config.{field}={value}" for field, value in tiny.items()],
        "TEXT": str(text),
        "WORKDIR": str(tmp_path / "run"),
        "DRIVE": str(tmp_path / "drive"),
    }
    output = run_cells(CODE, settings, cwd=ROOT / "launch", JAX_PLATFORMS="cpu")
    assert "on cpu [" in output, "the machine's line"
    assert f"displayed: {tmp_path / 'run'}/loss.png" in output
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    assert "ROMEO:" in output.split("displayed:")[1], "the sample begins with the prompt"
    with tarfile.open(tmp_path / "drive/run.tar") as archive:
        names = archive.getnames()
        summary = json.load(archive.extractfile("./summary.json"))
    assert summary["steps"] == 20
    assert any(name.startswith("./checkpoints/step_20") for name in names)
    # Colab disconnects, its disk is gone, and all cells are run again.
    shutil.rmtree(tmp_path / "run")
    settings["OVERRIDES"].append("--config.train.steps=30")
    output = run_cells(CODE[:5], settings, cwd=ROOT / "launch", JAX_PLATFORMS="cpu")
    assert "continuing at step 20" in output


def test_outside_a_clone_it_fetches_one_once_and_works_in_it(tmp_path):
    origin, elsewhere = tmp_path / "origin", tmp_path / "content"
    elsewhere.mkdir()
    for path in ("gptjax/train.py", "launch/install.py"):
        (origin / path).parent.mkdir(parents=True)
        (origin / path).write_text("import os; print('in', os.getcwd())", encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(origin)]
    for command in ["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]:
        subprocess.run([*git, *command], check=True)
    settings = {"REPOSITORY": origin.as_uri()}
    for _ in range(2):
        output = run_cells(CODE[:2], settings, cwd=elsewhere)
        assert f"in {(elsewhere / 'gptjax').resolve()}" in output
    assert "Cloning" not in output
