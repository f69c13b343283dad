"""Serve trained models on this machine: a page to play with, and OpenAI's /v1/completions.

    python -m gptjax.serve --workdir=runs/gpt-small
    python -m gptjax.serve --workdir=runs/gpt-small --workdir=runs/bigram --port=8001
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"prompt": "ROMEO:", "max_tokens": 100, "seed": 1}'

In: work folders. Out: a server, until Ctrl-C; it is called by its folder's name there. Only this
machine can ask it, unless --host says otherwise. Of OpenAI's clients, give base_url and any key.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal

END_S = 1.0  # what answers under way get after Ctrl-C, and the worker after them
CONNECTIONS = 512


def main(args: Any) -> int:
    """Serve until Ctrl-C."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f'serving needs {name}: pip install "gptjax[serve]", or {name} itself')
    if not args.workdir:
        from gptjax.checkpoints.run import runs_below

        raise UserError(f"--workdir is missing{runs_below('runs')}")
    for name, least, most in (("port", 0, 65535), ("max_tokens", 1, 2**24), ("jobs", 1, 1024)):
        if not least <= (value := getattr(args, name)) <= most:
            raise UserError(f"--{name}={value} must be {least} or more, at most {most:,}")
    if not 0 < args.seconds <= 86_400:
        raise UserError(f"--seconds={args.seconds} must be above 0, at most 86,400")
    from gptjax.serving import models

    served = models.named(args.workdir)
    with listening(args.host, args.port) as sock, Terminal() as terminal:
        return serve(args, served, sock, terminal)


def serve(args: Any, served: list, sock: socket.socket, terminal: Terminal) -> int:
    """Run the server on a socket that listens; returns after Ctrl-C."""
    import uvicorn

    from gptjax.serving import app, completion_request, guard, models, playground
    from gptjax.serving.worker import Worker

    colab = "COLAB_RELEASE_TAG" in os.environ
    allowed = [*args.allow_host, *(guard.GOOGLE if colab else ())]
    worker = Worker(args.jobs, args.seconds)
    inner = app.app(
        served,
        worker,
        page_html=playground.page_html(served),
        limits=completion_request.Limits(tokens=args.max_tokens),
        more=playground.routes,
        frames=" ".join(f"https://{name}" for name in guard.GOOGLE) if colab else "'none'",
    )
    config = uvicorn.Config(
        guard.Guard(inner, args.host, allowed, args.seconds + END_S),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(END_S),
    )
    server, failed = uvicorn.Server(config), []

    def open_runs() -> Iterator[None]:
        try:
            yield from models.open_all(served, args.checkpoint, terminal.note, terminal.warn)
        except Exception as error:
            failed.append(error)
            server.should_exit = True

    ...
    raise NotImplementedError


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A ``with`` around a socket that listens; UserError: the port is taken, the address not ours."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(f"--host={host!r:.80} is no address of this machine ({error})") from error
    with socket.socket(family, kind, proto) as sock:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(128)
        except OSError as error:
            raise UserError(
                f"port {port} of {host} cannot be had ({error.strerror}): end what has it, or try "
                f"--port={port + 1 if 1024 <= port < 65535 else 0}"
            ) from error
        yield sock
