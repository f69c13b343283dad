"""What a prompt makes a model look at and guess, and what follows a token."""

import numpy as np
import pytest
from random_runs import NAMES

from gptjax.data import dataset
from gptjax.errors import UserError
from gptjax.evaluation import probe
from gptjax.interpret import capture, lens, tables

PROMPT = "it is"


def test_attention_is_what_the_forward_pass_had_of_these_tokens_alone(run_of):
    run = run_of("gpt")
    found = lens.attention(run, PROMPT)
    ids = run.tokenizer.encode(PROMPT)
    alone = capture.capture(run.model, run.params, np.asarray(ids)[None])
    assert found.ids_T.tolist() == list(ids) and found.n_read == 5
    assert found.wei_NxHxTxT.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(found.wei_NxHxTxT, alone.attention_NxBxHxTxS[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.wei_NxHxTxT.sum(axis=-1), 1, atol=1e-6)
    assert not np.triu(found.wei_NxHxTxT, 1).any() and found.wei_NxHxTxT.std() > 0.01


def test_one_layer_or_head_is_that_part_of_all(run_of):
    run = run_of("gpt")
    every = lens.attention(run, PROMPT)
    assert (every.layers, every.heads) == ([1, 2, 3], [1, 2])
    one = lens.attention(run, PROMPT, layer=3, head=1)
    assert (one.layers, one.heads) == ([3], [1])
    np.testing.assert_array_equal(one.wei_NxHxTxT, every.wei_NxHxTxT[2:, :1])
    head = lens.attention(run, PROMPT, head=2)
    np.testing.assert_array_equal(head.wei_NxHxTxT, every.wei_NxHxTxT[:, 1:])


def test_of_a_long_text_the_model_reads_the_end(run_of):
    run = run_of("gpt")
    found = lens.attention(run, "it was so, as")
    assert run.tokenizer.decode(found.ids_T) == " so, as" and found.n_read == 13
    assert len(lens.look_through(run, "it was so, as").ids_T) == 7


@pytest.mark.parametrize("kind", ["head", "multihead", "ffwd"])
def test_the_rungs_have_one_layer(run_of, kind):
    found = lens.attention(run_of(kind), PROMPT)
    assert found.wei_NxHxTxT.shape == (1, 1 if kind == "head" else 2, 5, 5)


def test_an_item_begins_after_the_end_of_another(run_of):
    found = lens.attention(run_of("gpt", text=NAMES), "ab")
    assert lens.names(run_of("gpt", text=NAMES), found.ids_T) == ["⏎", "a", "b"]


@pytest.mark.parametrize(
    "kind, text, flags, message",
    [
        ("bigram", PROMPT, {}, "this bigram has no attention: ask next"),
        ("mlp", PROMPT, {}, "this mlp has no attention: ask next"),
        ("gpt", PROMPT, {"layer": 4}, "layer=4 is none of this model's: it has layers 1 to 3"),
        ("gpt", PROMPT, {"head": 0}, "head=0 is none of this model's: it has heads 1 to 2"),
        ("head", PROMPT, {"layer": 2}, "it has one layer, 1"),
        ("gpt", "i", {}, "the text has 1 token, .* give at least 2"),
        ("gpt", "", {}, "the text has 1 token"),
        ("gpt", "it x", {}, "the character 'x'"),
    ],
)
def test_mistakes_about_attention(run_of, kind, text, flags, message):
    with pytest.raises(UserError, match=message):
        lens.attention(run_of(kind), text, **flags)


def test_a_run_that_learnt_neighbours_is_told_what_to_ask(run_of):
    run = run_of("bigram_embed", tokens="word", neighbours=2)
    with pytest.raises(UserError, match="no attention: ask near"):
        lens.attention(run, "it")
    with pytest.raises(UserError, match="learnt neighbours"):
        tables.followers(run, None)


def test_the_last_layer_of_a_lens_is_what_next_says(run_of):
    run = run_of("gpt")
    found = lens.look_through(run, PROMPT)
    ids, p_TxV = probe.next_tokens(run, PROMPT)
    assert found.guesses.top_p.shape == (4, 5, 3)
    np.testing.assert_array_equal(found.ids_T, ids)
    np.testing.assert_allclose(found.guesses.top_p[-1, :, 0], p_TxV.max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.guesses.top_ids[-1, :, 0], p_TxV.argmax(axis=1))
    came = p_TxV[np.arange(4), ids[1:]]
    np.testing.assert_allclose(found.guesses.nats[-1, :-1], -np.log(came), atol=1e-5)
    names = lens.layer_names(4)
    assert names == ["embedding (raw)", "block 1 (raw)", "block 2 (raw)", "block 3: output"]


@pytest.mark.parametrize("kind", ["multihead", "bigram"])
def test_only_a_gpt_has_a_stream_to_look_through(run_of, kind):
    with pytest.raises(UserError, match=f"this {kind} has no residual stream: ask next"):
        lens.look_through(run_of(kind), PROMPT)


def splits_of(run, text):
    tok, window = run.tokenizer, run.config.window(run.items)
    return dataset.build({"train": text, "val": text}, tok, run.model, run.items, window)


@pytest.mark.parametrize("kind", ["bigram", "bigram_embed", "gpt"])
def test_what_follows_a_token_stands_beside_how_often_it_did(run_of, kind):
    run, text = run_of(kind), "so it is. it is so.\n"
    found, V = tables.followers(run, splits_of(run, text)), run.tokenizer.vocab_size
    _, p_SxV = probe.next_tokens(run, "i")
    i = run.tokenizer.encode("i")[0]
    np.testing.assert_allclose(found.p_RxK[i], p_SxV[0], atol=1e-6)
    s = run.tokenizer.encode("s")[0]
    n, first = text.count("is"), text[:-1].count("i")
    np.testing.assert_allclose(found.counted_RxK[i, s], (n + 1) / (first + V))
    np.testing.assert_allclose(found.counted_RxK.sum(axis=1), 1)


def test_asked_tokens_are_the_rows_and_the_frequent_ones_the_columns(run_of):
    run = run_of("bigram")
    every, splits = tables.followers(run, None), splits_of(run, "so it is. it is so.\n")
    assert every.counted_RxK is None
    asked = tables.followers(run, None, [",", "a"])
    assert lens.names(run, asked.ids_R) == [",", "a"]
    np.testing.assert_array_equal(asked.p_RxK, every.p_RxK[asked.ids_R])
    few = tables.followers(run, splits, [","], n=3)
    assert set(lens.names(run, few.ids_K)) == {"␣", "i", "s", ","}
    np.testing.assert_allclose(few.p_RxK[0], every.p_RxK[few.ids_R[0], few.ids_K], atol=1e-7)


def test_a_model_of_windows_has_no_table_of_pairs(run_of):
    with pytest.raises(UserError, match="this mlp looks at 7 tokens, .*: ask next"):
        tables.followers(run_of("mlp"), None)


def test_the_habit_of_a_head_is_where_most_of_its_attention_goes():
    shifted = np.eye(6, k=-2) * 0.9 + np.eye(6) * 0.1
    shifted[0], shifted[1] = np.eye(6)[0], np.eye(6)[0]
    where, share = lens.habit(shifted)
    assert where == "2 back" and share == pytest.approx(4 * 0.9 / 5)
    assert lens.habit(np.eye(6)) == ("itself", 1.0)
    first = np.zeros((6, 6))
    first[:, 0] = 1
    assert lens.habit(first) == ("the first token", 1.0)
