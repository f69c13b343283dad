"""Batches depend on (seed, purpose, step) alone, and a whole split predicts each token once."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from item_tokens import END, items_to_tokens

from gptjax.data.batching import PURPOSES, get_batch, get_batches, whole_split
from gptjax.data.dataset import cut_items, cut_stream, skip_gram

SIZES = {"window": st.integers(1, 7), "lookback": st.integers(0, 5)}


def places(split):
    """The same rows over tokens that are their own places: x then says where it was taken from."""
    return dataclasses.replace(split, tokens=np.arange(len(split.tokens)))


def draw(split, *, seed=3, purpose="train", step=0, n=1, size=2):
    return get_batches(split, size, seed, range(step, step + n), purpose)


# ---- the notes' examples ----------------------------------------------------------------------


def test_page_2_y_is_x_one_token_later():
    # A split of exactly one window leaves nothing to chance.
    split = cut_stream(np.array([18, 47, 56, 57, 58, 1, 15, 47, 58]), window=8)
    batch = draw(split, size=1)
    np.testing.assert_array_equal(batch.x, [[[18, 47, 56, 57, 58, 1, 15, 47]]])
    np.testing.assert_array_equal(batch.y, [[[47, 56, 57, 58, 1, 15, 47, 58]]])
    np.testing.assert_array_equal(batch.w, np.ones((1, 1, 8)))
    assert [a.dtype for a in batch] == [np.int32, np.int32, np.float32]


def test_page_3_the_windows_of_the_walk_through_are_drawn():
    split = cut_stream(np.arange(10, 130, 10), window=4)
    batch = draw(split, n=50)
    assert batch.x.shape == (50, 2, 4)
    pairs = list(zip(batch.x.reshape(-1, 4).tolist(), batch.y.reshape(-1, 4).tolist(), strict=True))
    for x, y in ([20, 30, 40, 50], [30, 40, 50, 60]), ([60, 70, 80, 90], [70, 80, 90, 100]):
        assert (x, y) in pairs
    # torch.randint(len(data) - block_size): 8 starts, the last of which ends with the data.
    assert {x[0] for x, _ in pairs} == set(range(10, 90, 10))


def test_the_slides_seven_examples_of_one_name():
    aabid = np.array([END, 1, 1, 2, 9, 4, END])  # "-aabid-"
    batch = draw(cut_items(aabid, END, window=6), size=1)
    np.testing.assert_array_equal(batch.x, [[[END, 1, 1, 2, 9, 4]]])
    np.testing.assert_array_equal(batch.y, [[[1, 1, 2, 9, 4, END]]])


# ---- a batch is a function of seed, purpose and step ------------------------------------------

STREAM = cut_stream(np.arange(1000), window=5, lookback=2)
ITEMS = cut_items(items_to_tokens(np.arange(200) % 9 + 1), END, window=6, lookback=2)


@pytest.mark.parametrize("split", [STREAM, ITEMS], ids=["stream", "items"])
def test_a_step_has_the_same_batch_in_whatever_company(split):
    together = draw(split, step=4, n=6, size=3)
    for i in range(6):
        alone = draw(split, step=4 + i, size=3)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[i])


def test_some_rows_of_a_batch_are_those_of_the_whole():
    whole = get_batches(STREAM, 7, 3, [4, 5])
    some = get_batches(STREAM, 7, 3, [4, 5], rows=np.array([1, 6, 2]))
    for ours, theirs in zip(some, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[:, [1, 6, 2]])


@pytest.mark.parametrize("split", [STREAM, ITEMS], ids=["stream", "items"])
def test_other_steps_seeds_and_purposes_draw_other_batches(split):
    drawn = [draw(split, size=7)]
    drawn += [draw(split, step=step, size=7) for step in (1, 2**32, 2**40)]
    drawn += [draw(split, seed=seed, size=7) for seed in (4, 2**32 - 1)]
    drawn += [draw(split, purpose=purpose, size=7) for purpose in PURPOSES if purpose != "train"]
    assert len({batch.x.tobytes() for batch in drawn}) == len(drawn) == 9


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize(
    "split",
    [STREAM, ITEMS, skip_gram(np.arange(90), neighbours=3)],
    ids=["stream", "items", "skip-gram"],
)
def test_a_batch_is_the_batches_of_one_step(split, purpose):
    for seed, step, size in ((3, 0, 1), (2**32 - 1, 2**31 - 2, 5)):
        batch = get_batch(split, size, seed, step, purpose)
        batches = get_batches(split, size, seed, [step], purpose)
        for one, several in zip(batch, batches, strict=True):
            lookback = split.lookback if one is batch.x else 0
            assert one.shape == (size, lookback + split.window)
            assert one.dtype == several.dtype
            np.testing.assert_array_equal(one[None], several)


def test_a_batch_that_names_neither_step_nor_purpose_is_the_first_of_training():
    for split in (STREAM, ITEMS):
        first = get_batches(split, 4, 3, [0])
        for ours, theirs in zip(get_batch(split, 4, 3), first, strict=True):
            np.testing.assert_array_equal(ours, theirs[0])
        for ours, theirs in zip(get_batches(split, 4, 3, [0], "train"), first, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_draws_are_those_of_the_first_release():
    # Should numpy or this code ever draw otherwise, a continued run would not be the same run.
    starts = draw(STREAM, step=5, size=6).x[0, :, 0]
    np.testing.assert_array_equal(starts, [770, 373, 9, 175, 221, 417])


# ---- what a training batch holds --------------------------------------------------------------


@given(room=st.integers(1, 5), seed=st.integers(0, 2**32 - 1), **SIZES)
def test_a_window_lies_inside_the_split_after_what_it_looks_back_on(room, seed, window, lookback):
    tokens = np.random.default_rng(seed).permutation(room + window + lookback)
    split = cut_stream(tokens, window, lookback)
    batch = draw(places(split), seed=seed, n=40, size=3)
    start = batch.x[..., :1]
    assert set(start.ravel().tolist()) == set(range(room))  # every place that has room
    np.testing.assert_array_equal(batch.x, start + np.arange(lookback + window))
    np.testing.assert_array_equal(batch.y, batch.x[..., lookback:] + 1)
    np.testing.assert_array_equal(batch.w, np.ones(batch.y.shape))
    # And the tokens are those of the places.
    real = draw(split, seed=seed, n=40, size=3)
    np.testing.assert_array_equal(real.x, tokens[batch.x])
    np.testing.assert_array_equal(real.y, tokens[batch.y])


def test_training_draws_every_item_from_its_beginning_to_its_end():
    lengths = [3, 1, 6, 2]
    tokens = items_to_tokens(lengths)
    batch = draw(cut_items(tokens, END, window=max(lengths) + 1), n=30, size=3)
    seen = set()
    for x, y, w in zip(*(a.reshape(-1, 7) for a in batch), strict=True):
        n = int(w.sum())
        np.testing.assert_array_equal(w, np.arange(7) < n)
        assert x[0] == END and y[n - 1] == END and END not in y[: n - 1]
        np.testing.assert_array_equal(x[1:n], y[: n - 1])
        seen.add(tuple(y[: n - 1].tolist()))
    assert seen == {(1, 2, 3), (4,), tuple(range(5, 11)), (11, 12)}


# ---- a whole split, each token once -----------------------------------------------------------


def check_whole(split, batch_size, n, began_of):
    """Every token but the first is predicted once, from exactly the past that may be shown."""
    predicted, lookback, start = [], split.lookback, -7
    total = 0.0
    for batch in whole_split(dataclasses.replace(places(split), start_id=start), batch_size, n):
        assert batch.y.shape == batch.w.shape == (n, batch_size, split.window)
        assert batch.x.shape == (n, batch_size, lookback + split.window)
        for x, y, w in zip(*(a.reshape(-1, a.shape[-1]) for a in batch), strict=True):
            end = int(w.sum())
            total += w.sum()
            np.testing.assert_array_equal(w, np.arange(split.window) < end)  # ones, then zeros
            if not end:
                continue
            past, x = x[:lookback], x[lookback:]
            np.testing.assert_array_equal(x[:end], x[0] + np.arange(end))  # running text
            np.testing.assert_array_equal(y[:end], x[:end] + 1)
            assert set(x[end:].tolist()) <= {x[end - 1]}  # nothing of what follows is shown
            before = x[0] + np.arange(-lookback, 0)
            np.testing.assert_array_equal(past, np.where(before < began_of(x[0]), start, before))
            predicted += y[:end].tolist()
    assert predicted == list(range(1, len(split.tokens)))
    assert total == split.n_predicted == len(predicted)


@given(length=st.integers(2, 40), batch_size=st.integers(1, 4), n=st.integers(1, 3), **SIZES)
def test_a_whole_stream_is_predicted_once(length, batch_size, n, window, lookback):
    split = cut_stream(np.arange(length), window, lookback)
    check_whole(split, batch_size, n, began_of=lambda place: 0)


@given(
    items=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    batch_size=st.integers(1, 4),
    n=st.integers(1, 3),
    **SIZES,
)
def test_a_whole_list_of_items_is_predicted_once(items, batch_size, n, window, lookback):
    tokens = items_to_tokens(items)
    split = cut_items(tokens, END, window, lookback)
    begins = np.flatnonzero(tokens == END)[:-1]
    check_whole(
        split,
        batch_size,
        n,
        began_of=lambda place: begins[np.searchsorted(begins, place, "right") - 1],
    )


@pytest.mark.parametrize("name", ["stream", "items"])
def test_the_tokens_of_a_whole_split_are_those_of_its_places(name):
    tokens = items_to_tokens([5, 2, 9, 3])
    cut = {"stream": cut_stream(tokens, 4, 2), "items": cut_items(tokens, END, 4, 2)}[name]
    pairs = zip(whole_split(cut, 3, 2), whole_split(places(cut), 3, 2), strict=True)
    for real, where in pairs:
        np.testing.assert_array_equal(real.x, tokens[where.x])
        np.testing.assert_array_equal(real.y, tokens[where.y])
        np.testing.assert_array_equal(real.w, where.w)
