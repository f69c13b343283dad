"""What the page asks while somebody types: addresses of its own, below /api.

In: the ``Server`` of app.py. Out: its routes. Texts themselves are written by ``/v1/completions``;
here are the next token's bars, the look inside of a text, and whether it is copied. A text that a
run cannot read is no wrong question, while somebody types: the answer is {"problem": one line}.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import gptjax
from gptjax.errors import UserError, did_you_mean
from gptjax.monitoring.metrics import plain
from gptjax.serving.app import Server, json_response
from gptjax.serving.guard import Refusal, as_json
from gptjax.serving.models import Served

SHOWN, MOST_SHOWN = 12, 1000  # tokens of an answer
MOST_TOKENS = 20_000  # of a text that is asked about: the page sends it at every key
PATIENCE_S = 60.0  # for a run to be opened


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(id) is int and 0 <= id < 2**31 for id in value)


_A_NUMBER = (_is_number, "a number")
# name -> what it may be, and in words; the ranges of the sampler's numbers are the sampler's own.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "run": (lambda value: isinstance(value, str), "the id of a run"),
    "text": (lambda value: isinstance(value, str), "a text"),
    "ids": (_are_ids, "a list of tokens"),
    "n": (
        lambda n: type(n) is int and 1 <= n <= MOST_SHOWN,
        f"a whole number, 1 to {MOST_SHOWN:,}",
    ),
    "temperature": _A_NUMBER,
    "top_k": (lambda k: type(k) is int and 1 <= k < 2**31, "a whole number, 1 or more"),
    "top_p": _A_NUMBER,
    "min_p": _A_NUMBER,
    "repetition_penalty": _A_NUMBER,
}
_TEXT = ("run", "text", "ids")
_SAMPLER = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Playground:
    """The answers, and what is kept between them: a run's laid-out weights and its corpus."""

    def __init__(self, server: Server):
        self._server = server
        self._asked: dict[str, Any] = {}  # id -> next_token.Asked; of the worker's thread alone
        self._contexts: dict[str, asyncio.Task] = {}  # id -> web.context.Context
        self._page: asyncio.Task | None = None  # JSON
        self._looking = asyncio.Lock()

    async def runs(self, request: Request) -> Response:
        """The runs, those that are still being opened too, and what can be said of each."""
        return json_response({"runs": [_told(one) for one in self._server.served]})

    async def vocabulary(self, request: Request) -> Response:
        """The text of each token of a run."""
        run = self._server.find(request.query_params.get("run")).run

        def labels() -> list[str]:
            from gptjax.serving.next_token import label

            return [label(run.tokenizer, id) for id in range(run.tokenizer.vocab_size)]

        return json_response({"tokens": await self._server.ask(request, labels)})

    async def next(self, request: Request) -> Response:
        """The distribution after a text: the model's, and what a sampler leaves of it."""
        one, said = await self._said(request, *_TEXT, "n", *_SAMPLER)
        rules = {name: said[name] for name in _SAMPLER if name in said}

        def answer() -> dict[str, Any]:
            from gptjax.serving.next_token import Asked

            if one.id not in self._asked:
                self._asked[one.id] = Asked(one.run)
            asked = self._asked[one.id]
            try:
                ids_T = _context(one.run, said)
            except UserError as error:
                return {"problem": str(error)}
            found = asked.next_token(ids_T, asked.sampler(**rules), said.get("n", SHOWN))
            # As a prompt that goes on from here: what stands before an item is none of it.
            return {"ids": ids_T[1 if one.run.items else 0 :].tolist(), **found}

        return json_response(await self._server.ask(request, answer))

    async def page(self, request: Request) -> Response:
        """The data of the page's other panels: of the first run, made once.

        Who asks before it is open waits a while: a browser would complain of a refusal.
        """
        one, until = self._server.served[0], time.monotonic() + PATIENCE_S
        while one.run is None and time.monotonic() < until:
            await asyncio.sleep(0.1)
        self._server.find(one.id)  # refuses: it is still being opened
        if self._page is None:
            self._page = asyncio.ensure_future(self._look(one))
        return Response(await asyncio.shield(self._page), media_type="application/json")

    async def _look(self, one: Served) -> bytes:
        context = await self._context_of(one)

        def look() -> bytes:
            from gptjax.web import payload

            steps = payload.shown_steps(context.workdir, one.run.step)
            return as_json(plain(payload.page_data(one.run, context, steps)))

        return await asyncio.to_thread(look)  # beside the worker: others type meanwhile

    async def inspect(self, request: Request) -> Response:
        """What the panel of a text shows, of this text."""
        one, said = await self._said(request, *_TEXT)
        context = await self._context_of(one)

        def look() -> dict[str, Any]:
            from gptjax.web import text_data

            text = _text(one.run, said)
            if not text:
                raise Refusal(400, "text is empty: type something to look inside of", "text")
            try:
                return {"text": text_data.inspect(one.run, context, text)}
            except UserError as error:
                return {"problem": str(error)}

        return json_response(await self._server.ask(request, look))

    async def copied(self, request: Request) -> Response:
        """How much of a text stands in the corpus; "kind" is None where that is not known."""
        one, said = await self._said(request, *_TEXT)
        context = await self._context_of(one)
        if context.corpus is None:
            return json_response({"kind": None, "reason": context.no_corpus})

        def look() -> dict[str, Any]:
            from gptjax.serving.next_token import copied, tokens_of

            text = _text(one.run, said)
            try:
                found = copied(text, context.corpus)
            except UserError as error:
                return {"kind": None, "reason": str(error)}
            if "ids" in said and found["kind"] == "passage":
                begin = found["begin"]
                end = begin + found["characters"]
                found["tokens"] = tokens_of(one.run.tokenizer, said["ids"], begin, end)
            return found

        # Beside the worker: it looks through a text, one at a time, and needs no model.
        async with self._looking:
            return json_response(await asyncio.to_thread(look))

    async def _said(self, request: Request, *names: str) -> tuple[Served, dict[str, Any]]:
        """The run that a request names, and its fields, checked; null is as if it were not said."""
        body = await self._server.body(request)
        said = {name: value for name, value in body.items() if value is not None}
        for name, value in said.items():
            if name not in names:
                near = did_you_mean(name, names) or f": there are {', '.join(names)}"
                raise Refusal(400, f"unknown field {name!r:.80}{near}", name)
            good, must = _FIELDS[name]
            if not good(value):
                raise Refusal(400, f"{name} must be {must}, not {value!r:.80}", name)
        if "text" in said and "ids" in said:
            raise Refusal(400, "text and ids are two ways to say one thing: give one", "ids")
        n = len(said.get("ids", said.get("text", "")))
        if "ids" in said and n > MOST_TOKENS or n > 8 * MOST_TOKENS:
            raise Refusal(413, f"the text is too long to ask about: {MOST_TOKENS:,} tokens at most")
        return self._server.find(said.get("run")), said

    async def _context_of(self, one: Served) -> Any:
        """The run's corpus, read once; whoever asks meanwhile waits for the same."""

        def read() -> Any:
            from gptjax.web import context

            return context.of_run(one.run)

        if one.id not in self._contexts:
            self._contexts[one.id] = asyncio.ensure_future(asyncio.to_thread(read))
        return await asyncio.shield(self._contexts[one.id])


def first_data(served: Sequence[Served]) -> dict[str, Any]:
    """What the page knows before a run is open: the rest it asks for."""
    title = ", ".join(one.id for one in served)
    told = {"version": gptjax.__version__, "name": title, "run": served[0].id}
    return told | {"tokens": [], "checkpoints": []}


def routes(server: Server) -> Sequence[Route]:
    """The addresses of the playground."""
    own = Playground(server)
    return [
        Route("/api/page", own.page, methods=["GET"]),
        Route("/api/runs", own.runs, methods=["GET"]),
        Route("/api/vocabulary", own.vocabulary, methods=["GET"]),
        Route("/api/next", own.next, methods=["POST"]),
        Route("/api/inspect", own.inspect, methods=["POST"]),
        Route("/api/copied", own.copied, methods=["POST"]),
    ]


def _told(one: Served) -> dict[str, Any]:
    if one.run is None:
        return {"id": one.id, "state": "loading"}
    run = one.run
    return {
        "id": one.id,
        "state": "ready",
        "facts": run.facts(),
        "items": run.items,
        "writes": run.config.predicts_next,
        "block_size": run.model.block_size,
        "vocab_size": run.model.vocab_size,
        "unit": run.tokenizer.unit,
    }


def _context(run: Any, said: dict[str, Any]) -> Any:
    """The tokens that a request asks about, as the model reads them (T >= 1)."""
    import numpy as np

    from gptjax.generation.generate import prompt_ids

    prompt = np.array(said["ids"], np.int32) if "ids" in said else said.get("text", "")
    ids_T = prompt_ids(run.tokenizer, prompt, run.items)
    if len(ids_T) > MOST_TOKENS:
        raise UserError(
            f"a text of {len(ids_T):,} tokens is too long to ask: {MOST_TOKENS:,} at most"
        )
    return ids_T


def _text(run: Any, said: dict[str, Any]) -> str:
    return run.tokenizer.decode(said["ids"]) if "ids" in said else said.get("text", "")
