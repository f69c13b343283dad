"""No rest between turns: nothing is measured here."""

import pytest

from gptjax.bench import turns


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(turns, "REST_SECONDS", 0)
