"""The command ``compare``: the table, the picture, the ladder and what is refused."""

import csv
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gptjax.checkpoints import directory
from gptjax.cli import main as cli
from gptjax.compare import __main__ as compare
from gptjax.compare import measure
from gptjax.config import files, parse
from gptjax.errors import UserError
from gptjax.monitoring import plots
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment
from gptjax.training.trainer import fit

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 50


def make_run(folder, name, text=TEXT, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / f"{hash(text)}.txt"
    path.write_text(text, encoding="utf-8")
    config = files.load(name)
    config.data.path = str(path)
    config.name = name.replace(":", "-")
    config.train.update(steps=30, batch_size=5, eval_every=10, eval_iters=3)
    config.sample.max_new_tokens = 12
    for field, value in fields.items():
        part, _, leaf = field.rpartition("__")
        (config[part or "model"] if field != "seed" else config)[leaf] = value
    with Terminal(io.StringIO()) as terminal:
        fit(parse.from_dict(config), folder / config.name, terminal)
    return folder / config.name


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder, "bigram"), make_run(folder, "ladder:head", n_embd=8)


def measured(workdirs, which, out, baseline=""):
    """The table, and what was written."""
    with Terminal(io.StringIO()) as terminal:
        table, curves = measure.compare(workdirs, which, terminal, baseline)
    return table, measure.write(table, curves, out, [])


def args(**flags):
    defaults = {"workdirs": "", "ladder": False, "rungs": "", "steps": None, "data": ""}
    defaults |= {"seed": None, "out": "", "markdown": False, "csv": False, "json": False}
    return SimpleNamespace(**defaults | {"checkpoint": "best", "baseline": ""} | flags)


def csv_rows(folder):
    return list(csv.DictReader(io.StringIO((folder / "compare.csv").read_text("utf-8"))))


def test_the_table_says_what_each_run_gained(two_runs, tmp_path):
    found, _ = measured(two_runs, "best", tmp_path / "out")
    uniform, unigram, bigram, table, head = found.lines
    assert [line.name for line in found.lines[:3]] == ["uniform", "unigram", "count bigram"]
    assert uniform.val_nats > unigram.val_nats > bigram.val_nats and bigram.error > 0
    assert table.gained is None and head.name == "ladder-head" and found.gained_over == "bigram"
    np.testing.assert_allclose(head.gained, table.val_nats - head.val_nats, rtol=1e-12)
    summary = json.loads((two_runs[1] / "summary.json").read_text(encoding="utf-8"))
    assert head.parameters == summary["params"] and head.steps == summary["steps"] == 30
    assert (head.seed, head.best_step, head.step) == (1337, *[summary["best_step"]] * 2)
    # One loss, one number, one error: of the same function.
    assert head.val_nats == summary["best_val_nats"] and head.error > 0
    assert head.error == summary["best_val_nats_error"]
    seconds = summary["train_seconds"] - summary["compile_seconds"]
    np.testing.assert_allclose(head.seconds, seconds, rtol=1e-9)
    assert head.sample and table.flops == 0 < head.flops
    assert "total variation" in found.notes[0] and found.notes[0].startswith("bigram:")
    assert head.settings["model.kind"] == "head" and head.settings["model.n_embd"] == 8
    assert not {"seed", "name", "train.steps", "train.eval_every"} & set(head.settings)
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    assert float(csv_rows(tmp_path / "out")[4]["val_nats"]) == head.val_nats
    said = json.loads((tmp_path / "out/compare.json").read_text("utf-8"))
    assert said["lines"][4]["gained"] == head.gained
    assert "± " in (tmp_path / "out/compare.md").read_text("utf-8")


@pytest.mark.parametrize("named", ["count bigram", "ladder-head", "folder"])
def test_gains_are_measured_against_the_baseline_that_is_named(named, two_runs, tmp_path):
    baseline = f"{two_runs[1]}/" if named == "folder" else named
    found, _ = measured(two_runs, "best", tmp_path, baseline)
    by_name = {line.name: line for line in found.lines}
    over = by_name[found.gained_over]
    assert found.gained_over == ("count bigram" if named == "count bigram" else "ladder-head")
    for line in found.lines[3:]:
        gained = None if line is over else over.val_nats - line.val_nats
        assert line.gained == (gained if gained is None else pytest.approx(gained, abs=1e-12))


def test_a_baseline_that_is_not_there_is_refused_with_the_names(two_runs, tmp_path):
    with pytest.raises(UserError, match=r"'ladder-haed' is none of bigram, .*mean 'ladder-head'"):
        measured(two_runs, "best", tmp_path, "ladder-haed")


def test_runs_that_differ_in_the_seed_alone_have_a_mean_with_its_deviation(tmp_path):
    one = {"model__n_embd": 6}
    both = [
        make_run(tmp_path / str(i), "bigram_embed", seed=seed, **fields)
        for i, (seed, fields) in enumerate(
            [(1, one), (2, one), (3, one), (1, {"model__n_embd": 7})]
        )
    ]
    found, _ = measured(both, "best", tmp_path)
    kinds = [line.kind for line in found.lines[3:]]
    assert kinds == ["run", "run", "run", "seeds", "run"]
    seeds, mean = [line.val_nats for line in found.lines[3:6]], found.lines[6]
    assert len(set(seeds)) == 3 and mean.name == "bigram_embed: mean of 3 seeds"
    np.testing.assert_allclose(
        [mean.val_nats, mean.deviation], [np.mean(seeds), np.std(seeds, ddof=1)]
    )
    assert mean.gained is None and mean.error is None  # one of them is the baseline
    assert list(found.lines[3].settings) == ["model.n_embd"] and mean.settings["model.n_embd"] == 6
    assert found.text().count("sample standard deviation over the seeds") == 1
    against, _ = measured(both, "best", tmp_path, "count bigram")
    gains = [line.gained for line in against.lines[3:6]]
    np.testing.assert_allclose(against.lines[6].gained_deviation, np.std(gains, ddof=1))


def test_runs_of_two_texts_have_no_gain_and_no_common_lines(two_runs, tmp_path):
    other = make_run(tmp_path, "bigram", "another text about dogs.\n" * 70)
    found, _ = measured([two_runs[0], other], "last", tmp_path)
    # Two runs of one name, and of one folder's name, go by their whole paths, both.
    assert [line.name for line in found.lines] == [str(two_runs[0]), str(other)]
    assert found.lines[1].gained is None and found.gained_over == ""
    assert any("do not compare" in note for note in found.notes)
    assert "do not compare" in found.markdown()
    # Each may be measured against its own text's counts.
    own, _ = measured([two_runs[0], other], "last", tmp_path, "count bigram")
    assert all(line.gained is not None for line in own.lines)


def test_another_training_split_is_noticed_where_val_is_the_same(two_runs, tmp_path):
    """The last tenth, which is val, and the characters are the same; the rest is shuffled."""
    n = int(0.9 * len(TEXT))
    other = make_run(tmp_path, "bigram", TEXT[:n][::-1] + TEXT[n:])
    found, _ = measured([two_runs[0], other], "last", tmp_path)
    assert [line.gained for line in found.lines] == [None, None]
    assert any("do not compare" in note for note in found.notes)


def test_two_ways_to_split_one_text_are_two_texts(tmp_path):
    items = "\n".join("abc"[i % 3] + "de"[i % 2] * (i % 7) for i in range(300))
    both = [
        make_run(tmp_path / split, "mlp_names", items, data__kind="items", data__split=split)
        for split in ("distinct", "makemore")
    ]
    assert measured(both, "last", tmp_path)[0].lines[1].gained is None


def test_the_checkpoint_that_was_asked_for_is_measured(two_runs, tmp_path):
    losses = {
        which: measured([two_runs[1]], which, tmp_path)[0].lines[-1].val_nats
        for which in (20, "last")
    }
    assert losses[20] > losses["last"]
    compare.main(args(workdirs=str(two_runs[1]), out=str(tmp_path), checkpoint="20"))
    row = csv_rows(tmp_path)[-1]
    assert float(row["val_nats"]) == losses[20] and (row["step"], row["steps"]) == ("20", "30")


def test_a_damaged_checkpoint_that_was_passed_over_is_told(two_runs, tmp_path, capsys):
    run = Path(shutil.copytree(two_runs[0], tmp_path / "copy"))
    (directory.slots(run)[-1].path / "params" / "manifest.ocdbt").write_bytes(b"")
    flags = args(workdirs=str(run), out=str(tmp_path), checkpoint="last", csv=True)
    assert compare.main(flags) == 0
    said = capsys.readouterr()
    assert "is used instead" in said.err and str(run) in said.err
    assert said.out.startswith("kind,name,val_nats")


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
    line = measured([run], "best", tmp_path)[0].lines[-1]
    assert line.seconds is None and isinstance(line.sample, str)
    both = args(workdirs=f"{two_runs[0]},{tmp_path}/c*", out=str(tmp_path))
    with pytest.raises(UserError, match="no finished run matches"):
        compare.main(both)
    shutil.copytree(two_runs[1], tmp_path / "c2")
    assert compare.main(both) == 0
    assert f"left out: {run}" in capsys.readouterr().err


def test_the_picture_has_the_baselines_and_the_tables_losses(two_runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "compare_curves", lambda *given: drawn.append(given) or "none")
    found, written = measured(two_runs, "best", tmp_path)
    assert list(drawn[0][2]) == ["uniform", "unigram", "count bigram"] and len(drawn[0][1]) == 2
    exact = [[(line.best_step, line.val_nats)] for line in found.lines[3:]]
    assert [list(curve.exact) for curve in drawn[0][1]] == exact
    written, why_none = written.split("\n")
    assert why_none == "none" and "compare.csv, compare.json" in written and "png" not in written


def test_a_changed_text_is_refused(two_runs, tmp_path):
    run = shutil.copytree(make_run(tmp_path, "bigram", TEXT + "t"), tmp_path / "copy")
    (tmp_path / f"{hash(TEXT + 't')}.txt").write_text(TEXT + "a", encoding="utf-8")
    with pytest.raises(UserError, match="is not the one that .*copy was trained on"):
        measured([run], "best", tmp_path)


def test_the_command_prints_the_table(two_runs, tmp_path, capsys):
    names = ",".join(map(str, two_runs))
    assert compare.main(args(workdirs=names, out=str(tmp_path))) == 0
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert table[0].startswith("run ") and "gained over" in table[0] and " bigram " in table[1]
    assert any(line.startswith("±: standard error of the choice of") for line in table)
    assert compare.main(args(workdirs=names, out=str(tmp_path), csv=True)) == 0
    assert capsys.readouterr().out.startswith("kind,name,val_nats,error")
    assert compare.main(args(workdirs=names, out=str(tmp_path), json=True)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "compare.json").read_text("utf-8"))
    assert said["gained_over"] == "bigram" and len(said["lines"]) == 5


def test_a_pattern_lists_its_runs_by_name_and_gains_are_over_counting(two_runs, tmp_path, capsys):
    for copy, run in (("r10", 0), ("r2", 1), ("r1", 0)):  # neither by loss nor by letter
        shutil.copytree(two_runs[run], tmp_path / "runs" / copy)
    pattern = str(tmp_path / "runs/*")
    assert compare.main(args(workdirs=pattern, out=str(tmp_path), markdown=True)) == 0
    assert capsys.readouterr().out.startswith(
        "| run | val loss, nats/token | bits per byte | gained over count bi"
    )
    rows = csv_rows(tmp_path)[3:]
    assert [Path(row["folder"]).name for row in rows] == ["r1", "r2", "r10"]
    assert [row["name"] for row in rows] == ["r1", "ladder-head", "r10"]
    named = f"{two_runs[1]},{pattern}"
    assert compare.main(args(workdirs=named, out=str(tmp_path), markdown=True)) == 0
    assert f"gained over {two_runs[1].name}" in capsys.readouterr().out


def test_the_help_page_says_what_the_error_is(capsys):
    assert cli.call(compare.main, ["x", "--help"], about=compare.__doc__, flags=compare.FLAGS) == 0
    said = capsys.readouterr().out
    assert "± is the standard error of the choice of validation text" in said
    assert "--baseline" in said and "rung before" in " ".join(said.split())


def test_the_ladder_is_trained_compared_and_not_trained_again(tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    flags = args(
        ladder=True, rungs="bigram,embed", steps=5, data=str(path), out=str(tmp_path / "l")
    )
    assert compare.main(flags) == 0
    out = capsys.readouterr().out
    assert "rung 1 of 2: bigram" in out and out.rstrip().splitlines()[-1].startswith("ladder-embed")
    assert "the rung before" in out and "with train.steps changed" not in out  # it has no band
    bigram, embed = csv_rows(tmp_path / "l")[3:]
    gained = float(bigram["val_nats"]) - float(embed["val_nats"])
    np.testing.assert_allclose(float(embed["gained"]), gained, rtol=1e-9)
    assert bigram["gained"] == ""
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
        ({"workdirs": "a", "csv": True, "json": True}, "--csv and --json are two tables"),
    ],
)
def test_mistakes(flags, message, tmp_path):
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        compare.main(args(**flags, out=str(tmp_path)))
