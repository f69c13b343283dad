"""The tests of the command line leave the cache of compiled programs alone."""

import pytest

from gptjax.runtime import compilation_cache


@pytest.fixture(autouse=True)
def no_cache_of_compiled_programs(monkeypatch):
    monkeypatch.setattr(compilation_cache, "switch", lambda on: None)
