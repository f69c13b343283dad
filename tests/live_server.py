"""A server of this process on a free port, and small models with known tokens to serve."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import jax.numpy as jnp
import numpy as np
import uvicorn

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config import base
from gptjax.config.parse import from_dict
from gptjax.data.tokenizers import ByteTokenizer, CharTokenizer
from gptjax.serving.app import app
from gptjax.serving.completion_request import Limits
from gptjax.serving.guard import Guard
from gptjax.serving.models import Served
from gptjax.serving.worker import Worker

W = 6  # block_size of the GPT
CYCLE = "é😀a"  # what the table of bytes writes, but for a token by chance
PAGE = "<html><script>let a = 1</script><script>let b = 2</script></html>"
LIMITS = Limits(tokens=400, rows=24)


def _run(tok, model_config, params, kind="stream"):
    config = base()
    config.model.update(**model_config)
    config = from_dict(config)
    model = models.build(config.model, tok.vocab_size, tok.start_id)
    return Run(config, tok, model, params(model), 7, {"kind": kind, "sha256": "0" * 64})


def small_runs(random_params):
    """ "gpt" and "table" of characters, "bytes": round in ``CYCLE``, "names" of items."""

    def random(model):
        return random_params(model, jnp.zeros((1, 1), jnp.int32), std=0.7)

    def cycle(model):
        ids = ByteTokenizer().encode(CYCLE)
        table = np.zeros((256, 256), np.float32)
        table[ids, np.roll(ids, -1)] = np.log(256 / 0.05)
        return {"token_embedding_table": {"embedding": table}}

    sizes = {"kind": "gpt", "block_size": W, "n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0}
    names = {"kind": "mlp", "block_size": 3, "n_embd": 4, "n_hidden": 9, "n_layer": 1}
    return {
        "gpt": _run(CharTokenizer("\n abcdefgh"), sizes, random),
        "table": _run(CharTokenizer("\n abcdefgh"), {"kind": "bigram"}, random),
        "bytes": _run(ByteTokenizer(), {"kind": "bigram"}, cycle),
        "names": _run(CharTokenizer("\nabcde"), names, random, "items"),
    }


@contextlib.contextmanager
def serving(
    served,
    most_jobs=64,
    seconds=60.0,
    limits=LIMITS,
    more=lambda server: [],
    page_html=lambda: PAGE,
):
    """A server of these runs: .url, .worker, .client (httpx's)."""
    worker = Worker(most_jobs, seconds)
    inside = app(served, worker, page_html, limits, more)
    config = uvicorn.Config(
        Guard(inside, "127.0.0.1", ["known.example"], seconds),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        worker.start()
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                while not server.started:
                    time.sleep(0.01)
                yield SimpleNamespace(url=url, worker=worker, client=client)
        finally:
            server.should_exit = True
            thread.join()
            assert worker.stop(20)


def as_served(runs):
    return [Served(name, f"runs/{name}", run, 1234567890) for name, run in runs.items()]
