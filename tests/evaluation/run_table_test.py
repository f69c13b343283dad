"""Runs side by side: errors, gains, means of seeds, and the table in four forms."""

import csv
import io
import json
import math

import numpy as np

from gptjax.evaluation import run_table
from gptjax.evaluation.run_table import Blocks, Line, Table

LINES = [
    Line("baseline", "uniform", math.log(65), 0.0),
    Line(
        "run",
        "a|run",
        2.5,
        error=0.01,
        gained=0.2,
        gained_error=0.003,
        folder="runs/a",
        seed=7,
        steps=3000,
        best_step=2500,
        step=2500,
        parameters=4225,
        flops=0,
        seconds=1.25,
        settings={"model.n_embd": 8, "optim.eps": 1e-8},
        sample="x, `y`",
    ),
    Line("seeds", "mean of 3 seeds", 2.4, deviation=0.02, gained=0.3, gained_deviation=0.004),
]
TABLE = Table(LINES, gained_over="count bigram", notes=["a note"])


def test_the_standard_error_is_that_of_independent_blocks():
    rng = np.random.default_rng(0)
    count = rng.integers(900, 1100, 400)
    errors, means = [], []
    for _ in range(300):
        nats = count * (2.5 + 0.2 * rng.normal(size=len(count)))
        mean, error = run_table.mean_and_error(Blocks("t", nats, count))
        means.append(mean)
        errors.append(error)
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.15)
    np.testing.assert_allclose(np.mean(errors), 0.2 / 20, rtol=0.05)
    few = Blocks("t", np.full(9, 6.0), np.full(9, 3))
    assert run_table.mean_and_error(few) == (2, None)  # too few to say
    assert run_table.mean_and_error(Blocks("t", np.full(10, 6.0), np.full(10, 3))) == (2, 0)


def test_what_makes_a_block_hard_cancels_in_a_gain():
    rng, count = np.random.default_rng(0), np.full(100, 50.0)
    hard = rng.normal(2, 0.5, 100)
    before, after = (Blocks("t", (hard + shift) * count, count) for shift in (0.3, 0.0))
    gained, error = run_table.gain(before, after)
    np.testing.assert_allclose([gained, error], [0.3, 0], atol=1e-9)
    assert run_table.mean_and_error(before)[1] > 0.03
    assert run_table.gain(before, Blocks("u", after.nats, count)) is None


def test_a_gain_is_the_difference_of_the_two_losses_where_blocks_hold_other_places():
    rng = np.random.default_rng(0)
    before, after = (Blocks("t", rng.uniform(90, 110, 20), rng.integers(40, 60, 20)) for _ in "ab")
    losses = [run_table.mean_and_error(blocks)[0] for blocks in (before, after)]
    np.testing.assert_allclose(run_table.gain(before, after)[0], losses[0] - losses[1], rtol=1e-12)


def test_the_mean_of_seeds_has_the_sample_standard_deviation():
    lines = [Line("run", "a", val, 0.1, gained=2 - val, seconds=val) for val in (1.0, 2.0, 4.0)]
    mean = run_table.mean_of_seeds("a", lines)
    assert (mean.kind, mean.name, mean.error, mean.seed) == (
        "seeds",
        "a: mean of 3 seeds",
        None,
        None,
    )
    found = [mean.val_nats, mean.deviation, mean.gained, mean.gained_deviation, mean.seconds]
    sd = math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)
    np.testing.assert_allclose(found, [7 / 3, sd, -1 / 3, sd, 7 / 3])
    ours = [*lines, Line("run", "b", 3.0)]  # of one it is not known what it gained
    assert run_table.mean_of_seeds("a", ours).gained is None


def test_the_terminals_table_says_what_its_figures_are():
    table, meanings, settings, samples = TABLE.text().split("\n\n")
    lines = table.splitlines()
    heading = "run val loss, gained over seed steps best parameters FLOPs training,"
    assert " ".join(lines[0].split()) == heading
    assert lines[1].split() == ["nats/token", "count", "bigram", "step", "per", "token", "s"]
    assert lines[2] == "-" * max(map(len, lines))
    assert lines[3].split() == ["uniform", "4.1744"]  # of which no text knows more or less
    cells = "a|run 2.5000 ± 0.0100 +0.2000 ± 0.0030 7 3,000 2,500 4,225 0 1.25"
    assert " ".join(lines[4].split()) == cells
    assert lines[5].startswith("mean of 3 seeds  2.4000, sd 0.0200")
    assert "+0.3000, sd 0.0040" in lines[5]
    meanings = " ".join(meanings.split())
    assert "±: standard error of the choice of validation text" in meanings
    assert "sd: sample standard deviation over the seeds" in meanings
    assert "without compiling" in meanings and "best checkpoint" in meanings
    assert settings.splitlines()[0].split() == ["settings", "model.", "optim."]
    assert settings.splitlines()[1].split() == ["that", "differ", "n_embd", "eps"]
    assert settings.splitlines()[-1].split() == ["a|run", "8", "1e-08"]
    assert samples.splitlines()[-1].split() == ["a|run", "x,", "`y`"]
    alone = Table([Line("run", "a", 2.0)], checkpoint="step 20").text()
    assert "±" not in alone and "sd" not in alone and "gained" not in alone
    assert "checkpoint of step 20" in alone


def test_the_markdown_table_has_a_cell_for_each_heading_and_what_they_mean():
    lines = TABLE.markdown().splitlines()
    heading, rule, *rows = [line for line in lines if line.startswith("|")]
    assert heading.startswith("| run | val loss, nats/token | gained over count bigram | seed |")
    assert heading.endswith("| `model.n_embd` | `optim.eps` | sample |")
    assert rule.startswith("| --- | ---: |")
    assert len({line.replace("\\|", "").count("|") for line in (heading, rule, *rows)}) == 1
    assert rows[1].startswith("| a\\|run | 2.5000 ± 0.0100 | +0.2000 ± 0.0030 | 7 | 3,000 |")
    rest = lines[lines.index(rows[-1]) + 1 :]
    assert rest[-1] == "- a note" and any("± " in line or "±:" in line for line in rest)


def test_the_csv_table_has_plain_numbers_whole_and_no_text_of_a_sample():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert float(rows[0]["val_nats"]) == math.log(65)
    assert (rows[1]["seed"], rows[1]["best_step"], rows[1]["seconds"]) == ("7", "2500", "1.25")
    assert (rows[1]["error"], rows[1]["deviation"], rows[2]["error"]) == ("0.01", "", "")
    assert (
        rows[1]["model.n_embd"] == "8" and "sample" not in rows[1] and "x, `y`" not in TABLE.csv()
    )


def test_json_says_everything_and_what_it_means():
    said = json.loads(json.dumps(TABLE.json()))
    assert (said["checkpoint"], said["gained_over"], said["notes"]) == (
        "best",
        "count bigram",
        ["a note"],
    )
    assert said["lines"][1]["settings"] == {"model.n_embd": 8, "optim.eps": 1e-8}
    assert said["lines"][1]["sample"] == "x, `y`" and said["lines"][2]["deviation"] == 0.02
    assert "standard error of the choice" in said["means"]["error"]
    assert set(said["means"]) <= set(said["lines"][0])


def test_a_sample_is_one_line():
    assert run_table.sample_line("\nTo be,\n  or `not`\n") == "To be, / or 'not'"
    assert run_table.sample_line("abcdef", 4) == "abc…" and run_table.sample_line("") == ""
