"""Which checkpoints a page shows."""

import itertools

import pytest

from gptjax.web import payload


@pytest.mark.parametrize("n", [1, 3, 11, 12, 13, 29, 100])
def test_first_best_and_last_are_always_shown(n, tmp_path, monkeypatch):
    steps = [7 * i for i in range(n)]
    monkeypatch.setattr(payload.directory, "available", lambda workdir: steps[::-1])
    for most, best in itertools.product((3, 12), steps):
        shown = payload.shown_steps(tmp_path, best, most)
        assert shown == sorted(set(shown)) and set(shown) <= set(steps)
        assert {steps[0], best, steps[-1]} <= set(shown)
        assert len(shown) == min(n, most)
        if n > most == 12:  # and the others lie evenly between them
            gaps = [b - a for a, b in itertools.pairwise(shown)]
            assert max(gaps) <= 3 * 7 * n / most
