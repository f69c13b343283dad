"""No rest between turns, and both dtypes whatever the CPU: nothing is measured here."""

import pytest

from gptjax.bench import peaks, turns


@pytest.fixture(autouse=True)
def quick_and_alike(monkeypatch):
    monkeypatch.setattr(turns, "REST_SECONDS", 0)
    monkeypatch.setattr(peaks, "dtypes", lambda: peaks.DTYPES)
