"""The command ``compare``: the table, the picture, the ladder and what is refused."""

import csv
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gptjax import compare
from gptjax.checkpoints import directory
from gptjax.config import files, parse
from gptjax.errors import UserError
from gptjax.evaluation.run_table import HEADINGS
from gptjax.monitoring import plots
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment
from gptjax.training.trainer import fit

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 50


def make_run(folder, name, text=TEXT, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(text)}.txt"
    path.write_text(text, encoding="utf-8")
    config = files.load(name)
    config.data.path = str(path)
    config.name = name.replace(":", "-")
    config.train.update(steps=30, batch_size=5, eval_every=10, eval_iters=3)
    config.sample.max_new_tokens = 12
    for field, value in fields.items():
        part, _, leaf = field.rpartition("__")
        config[part or "model"][leaf] = value
    with Terminal(io.StringIO()) as terminal:
        fit(parse.from_dict(config), folder / config.name, terminal)
    return folder / config.name


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder, "bigram"), make_run(folder, "ladder:head", n_embd=8)


def measured(workdirs, which, out):
    """The table's lines, and the notes with what was written."""
    with Terminal(io.StringIO()) as terminal:
        lines, curves, notes = compare.compare(workdirs, which, terminal)
    return lines, [*notes, compare.write(lines, curves, out)]


def args(**flags):
    defaults = {"workdirs": "", "ladder": False, "rungs": "", "steps": None, "data": ""}
    defaults |= {"seed": None, "out": "", "markdown": False, "csv": False, "checkpoint": "best"}
    return SimpleNamespace(**defaults | flags)


def test_the_table_says_what_each_run_gained(two_runs, tmp_path):
    lines, notes = measured(two_runs, "best", tmp_path / "out")
    uniform, unigram, bigram, table, head = lines
    assert [line.name for line in lines[:3]] == ["uniform", "unigram", "count bigram"]
    assert uniform.val_nats > unigram.val_nats > bigram.val_nats
    assert table.gained is None and head.name == "ladder-head"
    np.testing.assert_allclose(head.gained, table.val_nats - head.val_nats, atol=1e-6)
    summary = json.loads((two_runs[1] / "summary.json").read_text(encoding="utf-8"))
    assert head.parameters == summary["params"] and head.seconds == summary["train_seconds"]
    np.testing.assert_allclose(head.val_nats, summary["best_val_nats"], rtol=1e-5)
    assert head.sample and head.error > 0 and table.flops == 0 < head.flops
    assert "total variation" in notes[0] and notes[0].startswith("bigram:")
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/compare.csv").read_text("utf-8"))))
    assert float(rows[4]["val_nats"]) == head.val_nats and rows[0]["error"] == ""
    markdown = (tmp_path / "out/compare.md").read_text("utf-8").splitlines()
    assert {line.count("|") for line in markdown} == {len(HEADINGS) + 1}


def test_runs_of_two_texts_have_no_gain_and_no_common_lines(two_runs, tmp_path):
    other = make_run(tmp_path, "bigram", "another text about dogs.\n" * 70)
    lines, notes = measured([two_runs[0], other], "last", tmp_path)
    # Two runs of one name go by their folders, both.
    assert [line.name for line in lines] == [str(two_runs[0]), str(other)]
    assert lines[1].gained is None and any("do not compare" in note for note in notes)


def test_two_ways_to_split_one_text_are_two_texts(tmp_path):
    items = "\n".join("abc"[i % 3] + "de"[i % 2] * (i % 7) for i in range(300))
    both = [
        make_run(tmp_path / split, "mlp_names", items, data__kind="items", data__split=split)
        for split in ("distinct", "makemore")
    ]
    assert measured(both, "last", tmp_path)[0][1].gained is None


def test_the_checkpoint_that_was_asked_for_is_measured(two_runs, tmp_path):
    losses = {
        which: measured([two_runs[1]], which, tmp_path)[0][-1].val_nats for which in (20, "last")
    }
    assert losses[20] > losses["last"]
    compare.main(args(workdirs=str(two_runs[1]), out=str(tmp_path), checkpoint="20"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text("utf-8"))))
    assert float(rows[-1]["val_nats"]) == losses[20]


def test_a_damaged_checkpoint_that_was_passed_over_is_told(two_runs, tmp_path, capsys):
    run = Path(shutil.copytree(two_runs[0], tmp_path / "copy"))
    (directory.slots(run)[-1].path / "params" / "manifest.ocdbt").write_bytes(b"")
    flags = args(workdirs=str(run), out=str(tmp_path), checkpoint="last", csv=True)
    assert compare.main(flags) == 0
    said = capsys.readouterr()
    assert "is used instead" in said.err and str(run) in said.err
    assert said.out.startswith("name,val_nats")


@pytest.mark.parametrize("wrong", ["null", '"x"', "true", None])
def test_a_summary_that_is_not_whole_is_none(two_runs, tmp_path, wrong, capsys):
    run = Path(shutil.copytree(two_runs[0], tmp_path / "copy"))
    figures = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    figures["train_seconds"] = json.loads(wrong) if wrong else figures.pop("train_seconds") and 0
    if wrong is None:
        del figures["train_seconds"]
    (run / "summary.json").write_text(json.dumps(figures), encoding="utf-8")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 30, "sample": 5}\n')
    line = measured([run], "best", tmp_path)[0][-1]
    assert line.seconds is None and isinstance(line.sample, str)
    both = args(workdirs=f"{two_runs[0]},{tmp_path}/c*", out=str(tmp_path))
    with pytest.raises(UserError, match="no finished run matches"):
        compare.main(both)
    shutil.copytree(two_runs[1], tmp_path / "c2")
    assert compare.main(both) == 0
    assert f"left out: {run}" in capsys.readouterr().err


def test_the_picture_has_the_baselines(two_runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "loss_curves", lambda *given: drawn.append(given) or "none")
    notes = measured(two_runs, "best", tmp_path)[1]
    assert list(drawn[0][2]) == ["uniform", "unigram", "count bigram"] and len(drawn[0][1]) == 2
    written, why_none = notes[-1].split("\n")
    assert why_none == "none" and "compare.csv" in written and "png" not in written


def test_a_changed_text_is_refused(two_runs, tmp_path):
    run = shutil.copytree(make_run(tmp_path, "bigram", TEXT + "t"), tmp_path / "copy")
    (tmp_path / f"{len(TEXT) + 1}.txt").write_text(TEXT + "a", encoding="utf-8")
    with pytest.raises(UserError, match="is not the one that .*copy was trained on"):
        measured([run], "best", tmp_path)


def test_the_command_prints_the_table_last(two_runs, tmp_path, capsys):
    names = ",".join(map(str, two_runs))
    assert compare.main(args(workdirs=names, out=str(tmp_path))) == 0
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert table[0].startswith("run") and table[-1].startswith("ladder-head")
    pattern = str(two_runs[0].parent / "*")  # the text files there are passed over
    assert compare.main(args(workdirs=pattern, out=str(tmp_path), markdown=True)) == 0
    assert capsys.readouterr().out.startswith("| run | val loss")
    assert compare.main(args(workdirs=names, out=str(tmp_path), csv=True)) == 0
    assert capsys.readouterr().out.startswith("name,val_nats,error")


def test_the_ladder_is_trained_compared_and_not_trained_again(tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    flags = args(
        ladder=True, rungs="bigram,embed", steps=5, data=str(path), out=str(tmp_path / "l")
    )
    assert compare.main(flags) == 0
    out = capsys.readouterr().out
    assert "rung 1 of 2: bigram" in out and out.rstrip().splitlines()[-1].startswith("ladder-embed")
    assert (tmp_path / "l/embed/summary.json").exists() and (tmp_path / "l/compare.png").exists()
    monkeypatch.setattr(experiment.Experiment, "chunk_inputs", None)
    flags.markdown = True
    assert compare.main(flags) == 0
    said = capsys.readouterr()
    assert said.out.startswith("| run |") and "rung 1 of 2: bigram" in said.err


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "name the runs to compare"),
        ({"ladder": True, "workdirs": "a"}, "name the runs to compare"),
        ({"ladder": True, "rungs": "head,heads"}, "--rungs names 'heads', which is none of bigram"),
        ({"ladder": True, "steps": 0}, "--steps=0 must be at least 1"),
        ({"workdirs": "nowhere/*"}, "no finished run matches"),
        ({"workdirs": "nowhere"}, "no folder 'nowhere'"),
        ({"workdirs": "a", "rungs": "head"}, "--rungs is of the rungs: say --ladder"),
        ({"workdirs": "a", "seed": 0}, "--seed is of the rungs"),
    ],
)
def test_mistakes(flags, message, tmp_path):
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        compare.main(args(**flags, out=str(tmp_path)))
