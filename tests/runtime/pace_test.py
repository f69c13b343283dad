"""Pieces of a long work: all of it, once, in the order, as large as half a second allows."""

import itertools

import pytest

from gptjax.runtime import pace


@pytest.fixture
def clock(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("seconds_each", [0.0, 0.001, 0.3, 7.0])
def test_pieces_are_all_of_it_and_take_half_a_second(clock, seconds_each):
    sizes, last = [], 0
    for begin, end in pace.pieces(1000, 8, 300):
        assert begin == last < end <= 1000
        clock[0] += seconds_each * (end - begin)
        sizes, last = [*sizes, end - begin], end
    assert last == 1000 and max(sizes) <= 300 and sizes[0] == 8
    for before, size in itertools.pairwise(sizes[:-1]):
        assert 1 <= size <= 4 * before
    assert sizes[1] >= 8  # the first piece may have compiled
    for size in sizes[2:-1]:
        assert size == 1 or size * seconds_each <= pace.SECONDS
    if seconds_each < 0.01:
        assert sizes[:4] == [8, 32, 128, 300]  # and nothing keeps it small


def test_nothing_is_done_in_no_piece():
    assert list(pace.pieces(0, 8, 300)) == []


def test_a_first_piece_is_no_larger_than_any():
    assert next(pace.pieces(100, 32, 5)) == (0, 5)
