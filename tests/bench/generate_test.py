"""How fast text is made: medians and ratios are right, and the work is done as said."""

import pytest

from gptjax.bench import generate
from gptjax.generation import decode

TINY = generate.Work(8, 12, 3, 2, batch_size=2, tokens=11, windows=("exact", "refill"))


def test_speeds_and_ratios_are_medians(monkeypatch):
    taken = {"exact": [1.0, 2.0, 4.0], "refill": [0.5, 1.0, 1.0], "peer": [3.0, 8.0, 20.0]}
    monkeypatch.setattr(generate.Ours, "__init__", lambda self, work: None)
    monkeypatch.setattr(generate, "interleave", lambda calls, repeats, told: taken)
    exact, refill, peer = generate.measure(TINY, 3)
    assert (exact["tokens_per_second"], exact["slowest"], exact["fastest"]) == (11, 5.5, 22)
    assert refill["tokens_per_second"] == 22 and not refill["times_as_fast"]
    assert peer["times_as_fast"] == {"exact": 4, "refill": 8}  # of 3, 4, 5 and of 6, 8, 20


def test_the_work_is_done_as_said(monkeypatch):
    ends = []
    real = decode.advance

    def advance(*args):
        ends.append(real(*args))
        return ends[-1]

    monkeypatch.setattr(decode, "advance", advance)
    ours = generate.Ours(TINY)
    assert ours.write(2, 11, "refill") > 0 and ours.write_around(5, 4) > 0
    assert ends[0].length_B.tolist() == [12, 12]
    assert ends[1].length_B.tolist() == [7]  # 3 were there, 4 came: the fifth amid them


def test_the_cost_by_position_is_per_token(monkeypatch):
    seconds = {10: [0.1, 0.2, 0.4], 250: [0.3, 0.4, 0.2]}
    monkeypatch.setattr(generate.Ours, "write_around", lambda self, at, n: seconds[at].pop())
    monkeypatch.setattr(generate.Ours, "__init__", lambda self, work: None)
    found = generate.cost_by_position(TINY, repeats=2, tokens=10)
    assert found["ms_per_token_at_10"] == pytest.approx(15)  # 0.1 and 0.2 s; 0.4 was the warm-up
    assert found["ms_per_token_at_250"] == pytest.approx(35)
    assert found["ratio"] == pytest.approx((2 + 3) / 2)
