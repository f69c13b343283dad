"""A server with small models, and OpenAI's own client of it."""

import pytest

WITHOUT = 'the server\'s packages are not there: pip install ".[serve]" httpx'
for name in ("starlette", "uvicorn", "httpx"):
    pytest.importorskip(name, reason=WITHOUT)


@pytest.fixture(scope="module")
def runs(random_params):
    """``live_server.small_runs``."""
    import live_server

    return live_server.small_runs(random_params)


@pytest.fixture(scope="module")
def live(runs):
    """A server of them: .url, .worker, .client."""
    import live_server

    with live_server.serving(live_server.as_served(runs)) as server:
        yield server


@pytest.fixture(scope="module")
def openai(live):
    """OpenAI's own client of the server."""
    package = pytest.importorskip("openai", reason="openai's client is not there")
    return package.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60)
