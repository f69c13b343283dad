"""The table of parameters adds up, reads in order and folds only what is equal."""

import jax
import numpy as np
from gpt_tree import PER_BLOCK, TOTAL, gpt

from gptjax.monitoring import param_table


def test_rows_add_up_and_read_from_the_embedding_to_the_head():
    rows = param_table.model_rows(gpt(12))
    assert sum(count for *_, count in rows) == TOTAL + 12 * PER_BLOCK
    assert rows[0] == ("token_embedding_table/embedding", (11, 6), 66)
    assert [path for path, *_ in rows[-2:]] == ["lm_head/kernel", "lm_head/bias"]
    blocks = list(dict.fromkeys(p.split("/")[0] for p, *_ in rows if p.startswith("blocks")))
    assert blocks == [f"blocks_{i}" for i in range(12)]
    assert param_table.model_rows({"w": np.zeros(())}) == [("w", (), 1)]
    assert len({path for path, *_ in rows}) == len(jax.tree.leaves(gpt(12)))


def test_equal_neighbours_fold_into_one_line_and_the_column_still_adds_up():
    table = param_table.fold(param_table.model_rows(gpt(12)))
    assert ("blocks_0 … blocks_11", "", f"12 × {PER_BLOCK}", f"{12 * PER_BLOCK:,}") in table
    assert ("  sa/heads/key, query, value", "3 × (2×6×3)", "108", "") in table
    number = [
        [int(c.replace(",", "")) for c in col if c.isdigit() or "," in c]
        for col in ([row[3] for row in table], [row[2] for row in table if row[0].startswith(" ")])
    ]
    assert sum(number[0]) == TOTAL + 12 * PER_BLOCK
    assert sum(number[1]) == PER_BLOCK


def test_neighbours_that_differ_do_not_fold():
    params = {f"hidden_{i}": {"kernel": np.zeros((3 if i else 7, 3))} for i in range(3)}
    names = [row[0] for row in param_table.fold(param_table.model_rows(params))]
    assert names == ["hidden_0", "hidden_1, hidden_2"]
