"""Serve trained models on this machine: a page to play with, and OpenAI's /v1/completions.

    python -m gptjax.serve --workdir=runs/gpt-small
    python -m gptjax.serve --workdir=runs/gpt-small --workdir=runs/bigram --port=8001
    curl http://127.0.0.1:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"prompt": "ROMEO:", "max_tokens": 100, "seed": 1}'

In: work folders. Out: a server, until Ctrl-C; it is called by its folder's name there. Only this
machine can ask it, unless --host says otherwise. Of OpenAI's clients, give base_url and any key.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal

END_S = 0.5  # what answers under way get after Ctrl-C, and the worker after them
CONNECTIONS = 512


def main(args: Any) -> int:
    """Serve until Ctrl-C."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"serving needs {name}: pip install starlette uvicorn")
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
        serve(args, served, sock, terminal)
    # Nothing is left to be saved, and Python would take JAX down piece by piece, or wait for it.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def serve(args: Any, served: list, sock: socket.socket, terminal: Terminal) -> None:
    """Run the server on a socket that listens; returns after Ctrl-C."""
    import uvicorn

    from gptjax.serving import guard, models
    from gptjax.serving.worker import Worker

    colab = "COLAB_RELEASE_TAG" in os.environ
    worker = Worker(args.jobs, args.seconds)
    inside = make_app(args, served, worker, colab)
    allowed = [*args.allow_host, *(guard.GOOGLE if colab else ())]
    config = uvicorn.Config(
        guard.Guard(inside, args.host, allowed, args.seconds + END_S),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=END_S,
    )

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            worker.stop(0)  # who waits for it is told, and so its answer ends, too
            await super().shutdown(sockets)

    server, failed = Server(config), []

    def opening(what: str, error: Exception | None = None) -> None:
        if what == "error":
            failed.append(error)
            server.should_exit = True

    def open_runs() -> Iterator[Any]:
        return models.open_all(served, args.checkpoint, terminal)

    for line in address_lines(sock, colab):
        terminal.note(line)
    worker.begin(open_runs, opening)
    worker.start()
    # A loop that waits for no thread at its end: one may look through a corpus, or compile.
    loop = asyncio.new_event_loop()
    with contextlib.suppress(KeyboardInterrupt):  # told again when all has ended in good order
        loop.run_until_complete(server.serve(sockets=[sock]))
    if failed:
        raise failed[0]


def make_app(args: Any, served: list, worker: Any, colab: bool) -> Any:
    """The app, its page and the page's own questions."""
    from gptjax.serving import app, guard, playground
    from gptjax.serving.completion_request import Limits
    from gptjax.web import page

    frames = " ".join(f"https://{name}" for name in guard.GOOGLE) if colab else "'none'"
    limits = Limits(tokens=args.max_tokens)
    data = playground.first_data(served)
    return app.app(
        served,
        worker,
        lambda: page.html_page(data, data["name"], live=True),
        limits,
        playground.routes,
        frames,
    )


def address_lines(sock: socket.socket, colab: bool) -> list[str]:
    """Where the server is, and how to see its page."""
    host, port = sock.getsockname()[:2]
    host = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    lines = [f"http://{host}:{port}/ (Ctrl-C ends it)"]
    if colab:
        lines.append(
            f"in Colab, from another cell: from google.colab import output; "
            f"output.serve_kernel_port_as_iframe({port}, height=800)"
        )
    return lines


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A ``with`` around a socket that listens; UserError: the port is taken, no such address."""
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


FLAGS = [
    cli.Flag("workdir", [], "folder of a run, or gs://, s3://; may be repeated"),
    cli.Flag("checkpoint", "best", "best, last or a step; of every run"),
    cli.Flag("host", "127.0.0.1", "where to listen; 0.0.0.0: for whoever reaches this machine"),
    cli.Flag("port", 8000, "the port; 0 takes a free one"),
    cli.Flag("allow_host", [], "a name others call it by (*.name: all below); may be repeated"),
    cli.Flag("max_tokens", 4096, "the most that one request may ask for, tokens of a text"),
    cli.Flag("jobs", 64, "the most requests answered at a time; more are told to come again"),
    cli.Flag("seconds", 120.0, "the longest that one request may take"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
