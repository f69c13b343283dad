"""Runs side by side: errors, gains, the table in three forms, the verb and its mistakes."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import compare as verb
from gptjax import evaluate, models, train
from gptjax.checkpoints import directory as shelf
from gptjax.checkpoints import run as runs
from gptjax.config import files as config_file
from gptjax.config import parse as gptjax_config
from gptjax.errors import UserError
from gptjax.evaluation import baselines as yardsticks
from gptjax.evaluation import flops
from gptjax.evaluation import run_table as comparison
from gptjax.evaluation.run_table import Blocks, Line
from gptjax.models import ModelConfig
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment

TEXT = "the cat sat on the mat; a rat ate the fat hat that sat there.\n" * 50


def make_run(folder, name, text=TEXT, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(text)}.txt"
    path.write_text(text, encoding="utf-8")
    config = config_file.load(name)
    config.data.path = str(path)
    config.name = name.replace(":", "-")
    config.train.update(steps=30, batch_size=5, eval_every=10, eval_iters=3)
    config.sample.max_new_tokens = 12
    for field, value in fields.items():
        part, _, leaf = field.rpartition("__")
        config[part or "model"][leaf] = value
    with Terminal(io.StringIO()) as terminal:
        train.fit(gptjax_config.from_dict(config), folder / config.name, terminal)
    return folder / config.name


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder, "bigram"), make_run(folder, "ladder:head", n_embd=8)


def compare(workdirs, which, out):
    with Terminal(io.StringIO()) as terminal:
        return verb.compare(workdirs, which, out, terminal)


def args(**flags):
    defaults = {"workdirs": "", "ladder": False, "rungs": "", "steps": None, "data": ""}
    defaults |= {"seed": None, "out": "", "markdown": False, "csv": False, "checkpoint": "best"}
    return SimpleNamespace(**defaults | flags)


def test_the_standard_error_is_that_of_independent_blocks():
    rng = np.random.default_rng(0)
    count = rng.integers(900, 1100, 400)
    errors, means = [], []
    for _ in range(300):
        nats = count * (2.5 + 0.2 * rng.normal(size=len(count)))
        mean, error = comparison.mean_and_error(nats, count)
        means.append(mean)
        errors.append(error)
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.15)
    np.testing.assert_allclose(np.mean(errors), 0.2 / 20, rtol=0.05)
    assert comparison.mean_and_error(np.array([6.0]), np.array([3]))[0] == 2


def test_what_makes_a_block_hard_cancels_in_a_gain():
    rng, count = np.random.default_rng(0), np.full(100, 50.0)
    hard = rng.normal(2, 0.5, 100)
    before, after = (Blocks("t", (hard + shift) * count, count) for shift in (0.3, 0.0))
    gained, error = comparison.gain(before, after)
    np.testing.assert_allclose([gained, error], [0.3, 0], atol=1e-9)
    assert comparison.mean_and_error(before.nats, count)[1] > 0.03
    assert comparison.gain(before, Blocks("u", after.nats, count)) is None


@pytest.mark.parametrize("which", [0, 1])
def test_the_blocks_add_up_to_the_exact_loss(two_runs, which):
    run = runs.open_run(two_runs[which])
    exp = experiment.build(run.config, run.tokenizer)
    blocks = yardsticks.block_losses(exp, run.params)
    assert len(blocks.nats) > 20 and blocks.count.sum() == exp.rows["val"].n_predicted
    exact = evaluate.exact_loss(exp, run.params, "val")
    np.testing.assert_allclose(blocks.nats.sum() / blocks.count.sum(), exact, rtol=1e-5)


def test_the_table_says_what_each_run_gained(two_runs, tmp_path):
    lines, notes = compare(two_runs, "best", tmp_path / "out")
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
    assert {line.count("|") for line in markdown} == {len(comparison.HEADINGS) + 1}


def test_runs_of_two_texts_have_no_gain_and_no_common_lines(two_runs, tmp_path):
    other = make_run(tmp_path, "bigram", "another text about dogs.\n" * 70)
    lines, notes = compare([two_runs[0], other], "last", tmp_path)
    # Two runs of one name go by their folders, both.
    assert [line.name for line in lines] == [str(two_runs[0]), str(other)]
    assert lines[1].gained is None and any("do not compare" in note for note in notes)


def test_two_ways_to_split_one_text_are_two_texts(tmp_path):
    items = "\n".join("abc"[i % 3] + "de"[i % 2] * (i % 7) for i in range(300))
    both = [
        make_run(tmp_path / split, "mlp_names", items, data__kind="items", data__split=split)
        for split in ("distinct", "makemore")
    ]
    assert compare(both, "last", tmp_path)[0][1].gained is None


def test_the_checkpoint_that_was_asked_for_is_measured(two_runs, tmp_path):
    losses = {
        which: compare([two_runs[1]], which, tmp_path)[0][-1].val_nats for which in (20, "last")
    }
    assert losses[20] > losses["last"]
    verb.main(args(workdirs=str(two_runs[1]), out=str(tmp_path), checkpoint="20"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text("utf-8"))))
    assert float(rows[-1]["val_nats"]) == losses[20]


def test_a_damaged_checkpoint_that_was_passed_over_is_told(two_runs, tmp_path, capsys):
    run = Path(shutil.copytree(two_runs[0], tmp_path / "copy"))
    (shelf.slots(run)[-1].path / "params" / "manifest.ocdbt").write_bytes(b"")
    flags = args(workdirs=str(run), out=str(tmp_path), checkpoint="last", csv=True)
    assert verb.main(flags) == 0
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
    line = compare([run], "best", tmp_path)[0][-1]
    assert line.seconds is None and isinstance(line.sample, str)
    both = args(workdirs=f"{two_runs[0]},{tmp_path}/c*", out=str(tmp_path))
    with pytest.raises(UserError, match="no finished run matches"):
        verb.main(both)
    shutil.copytree(two_runs[1], tmp_path / "c2")
    assert verb.main(both) == 0
    assert f"left out: {run}" in capsys.readouterr().err


def test_the_picture_has_the_lines_to_beat(two_runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(verb.plot, "loss_curves", lambda *given: drawn.append(given) or "none")
    notes = compare(two_runs, "best", tmp_path)[1]
    assert list(drawn[0][2]) == ["uniform", "unigram", "count bigram"] and len(drawn[0][1]) == 2
    assert notes[-1] == "none" and "compare.csv" in notes[-2] and "png" not in notes[-2]


def test_a_changed_text_is_refused(two_runs, tmp_path):
    run = shutil.copytree(make_run(tmp_path, "bigram", TEXT + "t"), tmp_path / "copy")
    (tmp_path / f"{len(TEXT) + 1}.txt").write_text(TEXT + "a", encoding="utf-8")
    with pytest.raises(UserError, match="is not the one that .*copy was trained on"):
        compare([run], "best", tmp_path)


def test_the_verb_prints_the_table_last(two_runs, tmp_path, capsys):
    names = ",".join(map(str, two_runs))
    assert verb.main(args(workdirs=names, out=str(tmp_path))) == 0
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert table[0].startswith("run") and table[-1].startswith("ladder-head")
    pattern = str(two_runs[0].parent / "*")  # the text files there are passed over
    assert verb.main(args(workdirs=pattern, out=str(tmp_path), markdown=True)) == 0
    assert capsys.readouterr().out.startswith("| run | val loss")
    assert verb.main(args(workdirs=names, out=str(tmp_path), csv=True)) == 0
    assert capsys.readouterr().out.startswith("name,val_nats,error")


def test_the_ladder_is_trained_compared_and_not_trained_again(tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    flags = args(
        ladder=True, rungs="bigram,embed", steps=5, data=str(path), out=str(tmp_path / "l")
    )
    assert verb.main(flags) == 0
    out = capsys.readouterr().out
    assert "rung 1 of 2: bigram" in out and out.rstrip().splitlines()[-1].startswith("ladder-embed")
    assert (tmp_path / "l/embed/summary.json").exists() and (tmp_path / "l/compare.png").exists()
    monkeypatch.setattr(experiment.Experiment, "train_batches", None)
    flags.markdown = True
    assert verb.main(flags) == 0
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
        verb.main(args(**flags, out=str(tmp_path)))


def test_the_terminals_table_is_aligned_and_leaves_out_what_is_not_there():
    lines = [
        Line("uniform", math.log(65)),
        Line("a-run", 2.5, 0.01, 0.2, 0.003, 4225, 0, 1.25, "x"),
    ]
    table = comparison.text_table(lines).splitlines()
    assert table[2] == "uniform  4.1744"
    cells = "a-run 2.5000 ± 0.0100 +0.2000 ± 0.0030 4,225 0 1.2"
    assert " ".join(table[3].split()) == cells
    assert table[-1] == "a-run    x"


def test_a_sample_is_one_line():
    assert comparison.sample_line("\nTo be,\n  or `not`\n") == "To be, / or 'not'"
    assert comparison.sample_line("abcdef", 4) == "abc…" and comparison.sample_line("") == ""


def test_flops_are_those_of_the_matrix_products():
    C, T, V, N, H = 12, 7, 13, 2, 3
    gpt = models.build(ModelConfig("gpt", block_size=T, n_layer=N, n_head=H, n_embd=C), V)
    # Per layer 12 C² weights, twice, and q kᵀ and wei v over T places; then the head.
    expected = N * (2 * 12 * C * C + 2 * 2 * T * C) + 2 * C * V
    assert flops.forward_flops_per_token(gpt) == expected
    assert flops.training_flops_per_token(gpt) == 3 * expected
    assert flops.forward_flops_per_token(models.build(ModelConfig("bigram"), V)) == 0
    mlp = ModelConfig("mlp", block_size=3, n_embd=10, n_layer=1, n_hidden=200)
    assert flops.forward_flops_per_token(models.build(mlp, 27)) == 2 * (30 * 200 + 200 * 27)


def test_flops_inside_a_loop_count_each_time():
    import jax

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]

    jaxpr = jax.make_jaxpr(loop)(jnp.ones((4, 4)))
    assert flops.product_flops(jaxpr.jaxpr) == 5 * 2 * 4**3
