"""The addresses of the server, and what is answered there. The only file that knows starlette.

In: runs, a worker, a page. Out: an ASGI app. OpenAI's ``/v1/completions`` and ``/v1/models``,
``/health``, ``/tokenize`` and ``/detokenize``, the page at ``/``, and the routes of others.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import gptjax
from gptjax.errors import UserError
from gptjax.serving import completion_request
from gptjax.serving.completion_request import CompletionRequest, Limits, Part, Usage, Whole
from gptjax.serving.guard import BODY_BYTES, Refusal, as_json, read_json
from gptjax.serving.models import Served
from gptjax.serving.worker import Busy, Overdue, Worker

EVENTS = "text/event-stream"
ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Server:
    """What every answer needs: the runs, the worker, the limits."""

    def __init__(self, served: Sequence[Served], worker: Worker, limits: Limits):
        self.served, self.worker, self.limits = list(served), worker, limits

    def find(self, name: str | None) -> Served:
        """The run that a request names; without a name the only one. Refusal: none, or not open."""
        known = ", ".join(one.id for one in self.served)
        if name is None and len(self.served) > 1:
            raise Refusal(400, f"model is missing: name one of {known}", "model")
        found = [one for one in self.served if name in (None, one.id)]
        if not found:
            line = f"there is no model {name!r:.80} here: choose {known}"
            raise Refusal(404, line, "model", "model_not_found")
        if found[0].run is None:
            raise Refusal(503, f"{found[0].id} is still being opened: try again in a few seconds")
        return found[0]

    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object that was sent."""
        return await read_json(request.receive, BODY_BYTES)

    async def until_gone(self, request: Request, answer: Awaitable[Any]) -> Any:
        """Await an answer, unless its client goes away: then it is cancelled."""
        work = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Refusal(499, "the client has gone")
            return work.result()
        finally:
            gone.cancel()
            work.cancel()

    async def ask(self, request: Request, question: Callable[[], Any]) -> Any:
        """What a function returns in the worker's thread."""
        return await self.until_gone(request, self.worker.ask(question))

    async def stream(
        self,
        request: Request,
        make: Callable[[], Iterator[Any]],
        event: Callable[[Any], dict[str, Any] | None],
    ) -> StreamingResponse:
        """Server-sent events: ``event`` of each item of an iterator of the worker's, then [DONE].

        Of an item for which it is None none is sent. What goes wrong before the first item is
        raised, and after it is the last event.
        """
        items = self.worker.run(make)
        first = await self.until_gone(request, anext(items, None))

        async def told() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(items):
                try:
                    if (said := event(first)) is not None:
                        yield _event(said)
                    async for item in items:
                        if (said := event(item)) is not None:
                            yield _event(said)
                    yield b"data: [DONE]\n\n"
                except Exception as error:
                    refusal = as_refusal(error)
                    if refusal.status == 500:
                        logging.getLogger("gptjax").error("in a stream", exc_info=error)
                    yield _event(refusal.body())

        # A proxy is told to pass each event on as it comes.
        return StreamingResponse(told(), media_type=EVENTS, headers={"x-accel-buffering": "no"})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + as_json(value) + b"\n\n"


def json_response(value: dict[str, Any], status: int = 200, **headers: str) -> Response:
    """An answer in JSON."""
    return Response(as_json(value), status, headers or None, "application/json")


def as_refusal(error: Exception) -> Refusal:
    """What a client is told of an error."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UserError):
        # A setting's mistake begins with its name.
        name = re.match(r"(\w+)=", str(error))
        return Refusal(400, str(error), name[1] if name else "prompt")
    if isinstance(error, Busy):
        return Refusal(503, f"{error}: try again")
    if isinstance(error, Overdue):
        return Refusal(503, "it took longer than this server gives one request: ask for less")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return Refusal(503, "out of memory: ask for fewer or shorter texts")
    return Refusal(500, f"a bug of the server's: {type(error).__name__} {error!s:.200}")


async def _refused(request: Request, error: Exception) -> Response:
    refusal = as_refusal(error)
    headers = {"retry-after": "1"} if refusal.status == 503 else {}
    if refusal.status in (408, 413):  # what is still to come of it is not read
        headers["connection"] = "close"
    return json_response(refusal.body(), refusal.status, **headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    says = {404: f"there is nothing at {request.url.path!r:.80}", 405: f"not {request.method} here"}
    line, status = says.get(error.status_code, str(error.detail)), error.status_code
    return json_response(Refusal(status, line).body(), status, **(error.headers or {}))


def app(
    served: Sequence[Served],
    worker: Worker,
    page_html: Callable[[], str],
    limits: Limits,
    more: Callable[[Server], Sequence[Route]] = lambda server: [],
    frames: str = "'none'",
) -> Starlette:
    """The app; ``more`` makes the routes of others, and ``frames`` may show the page in a frame."""
    server = Server(served, worker, limits)

    async def page(request: Request) -> Response:
        html = await asyncio.to_thread(page_html)
        policy = content_policy(html, frames)
        return Response(html, media_type="text/html", headers={"content-security-policy": policy})

    async def completions(request: Request) -> Response:
        return await _completions(server, request)

    async def health(request: Request) -> Response:
        loading = [one.id for one in server.served if one.run is None]
        status = 503 if len(loading) == len(server.served) else 200
        said = {"status": "ok" if status == 200 else "loading", "loading": loading}
        return json_response(said, status, **({"retry-after": "1"} if status == 503 else {}))

    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": [_model(one) for one in server.served]})

    async def model(request: Request) -> Response:
        return json_response(_model(server.find(request.path_params["id"])))

    async def tokenize(request: Request) -> Response:
        return json_response(await _tokenize(server, request))

    async def detokenize(request: Request) -> Response:
        return json_response(await _detokenize(server, request))

    async def chat(request: Request) -> Response:
        raise Refusal(400, "these are base models, which continue a text: use /v1/completions")

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{id:path}", model, methods=["GET"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=ANY_METHOD),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        *more(server),
    ]
    handlers = dict.fromkeys((Refusal, UserError, Busy, Overdue, Exception), _refused)
    return Starlette(routes=routes, exception_handlers={**handlers, HTTPException: _http_error})


def content_policy(html: str, frames: str = "'none'") -> str:
    """A Content-Security-Policy: a page's own scripts may run, and ask this server, no other."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )


def _model(one: Served) -> dict[str, Any]:
    said = {"id": one.id, "object": "model", "created": one.opened, "owned_by": "gptjax"}
    return said | ({"max_model_len": one.run.model.block_size} if one.run else {})


def _only(said: dict[str, Any], names: Sequence[str]) -> None:
    for name in said:
        if name not in names:
            raise Refusal(400, f"unknown field {name!r:.80}: there are {', '.join(names)}", name)


async def _tokenize(server: Server, request: Request) -> dict[str, Any]:
    said = await server.body(request)
    _only(said, ("model", "prompt"))
    run, text = server.find(said.get("model")).run, said.get("prompt")
    if not isinstance(text, str):
        raise Refusal(400, "prompt must be a text", "prompt")
    ids = await server.ask(request, lambda: run.tokenizer.encode(text).tolist())
    return {"tokens": ids, "count": len(ids), "max_model_len": run.model.block_size}


async def _detokenize(server: Server, request: Request) -> dict[str, Any]:
    said = await server.body(request)
    _only(said, ("model", "tokens"))
    run, ids = server.find(said.get("model")).run, said.get("tokens")
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < 2**31 for id in ids):
        raise Refusal(400, "tokens must be a list of whole numbers, 0 or more", "tokens")
    try:
        return {"prompt": await server.ask(request, lambda: run.tokenizer.decode(ids))}
    except UserError as error:
        raise Refusal(400, str(error), "tokens") from error


async def _completions(server: Server, request: Request) -> Response:
    asked = completion_request.parse(await server.body(request), server.limits)
    one = server.find(asked.model)
    try:
        one.run.require_next("write")
    except UserError as error:
        raise Refusal(400, str(error), "model") from error

    def make() -> Iterator[Any]:
        from gptjax.serving import completions

        return completions.parts(one.run, asked)

    # With the request, all that is needed to have the same text again.
    made_with = f"gptjax {gptjax.__version__}, step {one.run.step}"
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": one.id,
        "system_fingerprint": f"{made_with}, seed {asked.seed}",
    }
    if asked.stream:
        return await server.stream(request, make, functools.partial(_chunk, asked, head))
    answer = _whole(server.worker.run(make), asked, head)
    return json_response(await server.until_gone(request, answer))


def _chunk(asked: CompletionRequest, head: dict[str, Any], item: Any) -> dict[str, Any] | None:
    """One event of a streamed answer."""
    more = {"usage": None} if asked.include_usage else {}
    if isinstance(item, Part):
        return head | {"choices": [item.json()]} | more
    if isinstance(item, Usage) and asked.include_usage:
        return head | {"choices": [], "usage": item.json()}
    return None


async def _whole(items: AsyncIterator, asked: CompletionRequest, head: dict) -> dict[str, Any]:
    """The answer that is not streamed."""
    whole, usage = Whole(asked), Usage(0, 0)
    async with contextlib.aclosing(items):
        async for item in items:
            if isinstance(item, Part):
                whole.add(item)
            elif isinstance(item, Usage):
                usage = item
    return head | {"choices": whole.choices, "usage": usage.json()}
