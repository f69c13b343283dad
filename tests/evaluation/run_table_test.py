"""Runs side by side: errors, gains, and the table in three forms."""

import csv
import io
import math

import numpy as np

from gptjax.evaluation import run_table
from gptjax.evaluation.run_table import HEADINGS, Blocks, Line

LINES = [
    Line("uniform", math.log(65)),
    Line("a-run", 2.5, 0.01, 0.2, 0.003, 4225, 0, 1.25, "x"),
]


def test_the_standard_error_is_that_of_independent_blocks():
    rng = np.random.default_rng(0)
    count = rng.integers(900, 1100, 400)
    errors, means = [], []
    for _ in range(300):
        nats = count * (2.5 + 0.2 * rng.normal(size=len(count)))
        mean, error = run_table.mean_and_error(nats, count)
        means.append(mean)
        errors.append(error)
    np.testing.assert_allclose(np.mean(errors), np.std(means), rtol=0.15)
    np.testing.assert_allclose(np.mean(errors), 0.2 / 20, rtol=0.05)
    assert run_table.mean_and_error(np.array([6.0]), np.array([3])) == (2, 0)


def test_what_makes_a_block_hard_cancels_in_a_gain():
    rng, count = np.random.default_rng(0), np.full(100, 50.0)
    hard = rng.normal(2, 0.5, 100)
    before, after = (Blocks("t", (hard + shift) * count, count) for shift in (0.3, 0.0))
    gained, error = run_table.gain(before, after)
    np.testing.assert_allclose([gained, error], [0.3, 0], atol=1e-9)
    assert run_table.mean_and_error(before.nats, count)[1] > 0.03
    assert run_table.gain(before, Blocks("u", after.nats, count)) is None


def test_the_terminals_table_is_aligned_and_leaves_out_what_is_not_there():
    table = run_table.text_table(LINES).splitlines()
    assert table[2] == "uniform  4.1744"
    cells = "a-run 2.5000 ± 0.0100 +0.2000 ± 0.0030 4,225 0 1.2"
    assert " ".join(table[3].split()) == cells
    assert table[-1] == "a-run    x"
    assert [len(line) for line in table[:2]] == [len(table[3])] * 2
    assert table[0].endswith("training, s") and table[0].startswith("run      val loss, nats")


def test_the_markdown_table_has_a_cell_for_each_heading():
    heading, rule, *rows = run_table.markdown_table([*LINES, Line("a|b", 1.0)]).splitlines()
    assert heading == f"| {' | '.join(HEADINGS)} |" and rule.startswith("| --- | ---: |")
    assert rows[0] == "| uniform | 4.1744 |  |  |  |  |  |  |  |"
    assert rows[1] == "| a-run | 2.5000 | 0.0100 | +0.2000 | 0.0030 | 4,225 | 0 | 1.2 | `x` |"
    assert rows[2].startswith("| a\\|b | 1.0000 |")


def test_the_csv_table_has_plain_numbers_whole():
    rows = list(csv.DictReader(io.StringIO(run_table.csv_table(LINES))))
    assert float(rows[0]["val_nats"]) == math.log(65) and rows[0]["error"] == ""
    assert (
        ",".join(rows[1])
        == "name,val_nats,error,gained,gained_error,parameters,flops,seconds,sample"
    )
    assert ",".join(rows[1].values()) == "a-run,2.5,0.01,0.2,0.003,4225,0,1.25,x"


def test_a_sample_is_one_line():
    assert run_table.sample_line("\nTo be,\n  or `not`\n") == "To be, / or 'not'"
    assert run_table.sample_line("abcdef", 4) == "abc…" and run_table.sample_line("") == ""
