"""What is refused before anything is done, and how a refusal looks.

In: a request as ASGI has it. Out: the same to the app within, or an answer of one line. A page of
another site that a browser shows can send requests to this machine, too: the ``Host`` it names,
what the browser says of its site and the type of what it sends give it away, and no answer lets it
read anything (there are no CORS headers).
"""

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

ASGI = Callable[[Any, Any, Any], Awaitable[None]]
BODY_BYTES, BODY_S = 2**20, 10.0  # the most of a request, and the longest until it is all here
GOOGLE = ("*.googleusercontent.com", "*.colab.dev", "colab.research.google.com")  # Colab's proxies


class Refusal(Exception):
    """An answer that is an error: an HTTP status and one line, as OpenAI's API has them."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": said}


def as_json(value: Any) -> bytes:
    """JSON in ASCII: half a character that a client sent goes back as it came."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def is_allowed(host: str, bound: str, allowed: Sequence[str]) -> bool:
    """Whether a ``Host`` header names this server, bound to ``bound``; the port is any.

    A name that somebody else's DNS sends here is none of ours; a number cannot be such a name, and
    Colab's proxy may use any. ``allowed``: names, or "*.name" for all below.
    """
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.split(":")[0]
    name = name.casefold().rstrip(".")
    below = [one[1:] for one in allowed if one.startswith("*.")]
    if name in ("localhost", bound.casefold(), *map(str.casefold, allowed)):
        return True
    if any(name.endswith(end) for end in below):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI app around another: see above. ``seconds``: the longest an answer may take."""

    def __init__(self, app: ASGI, bound: str, allowed: Sequence[str] = (), seconds: float = 180.0):
        self.app, self.bound, self.allowed, self.seconds = app, bound, allowed, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # "lifespan", or a websocket, which the app within has none of
            await self.app(scope, receive, send)
            return
        began = False

        async def with_headers(message: Any) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message = message | {"headers": [*message["headers"], *_SECURITY]}
            await send(message)

        try:
            self._check(scope)
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, with_headers)
        except Refusal as refusal:
            await refuse(refusal, with_headers)
        except TimeoutError:  # where it has begun, uvicorn closes what a client does not read
            if not began:
                await refuse(Refusal(503, f"not done after {self.seconds:.0f} s"), with_headers)

    def _check(self, scope: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not is_allowed(host, self.bound, self.allowed):
            name = host.rpartition(":")[0] or host
            raise Refusal(
                421,
                f"this server is not called {host!r:.80}: use http://localhost, or start it with "
                f"--allow_host={name:.80}",
            )
        if scope["method"] in ("GET", "HEAD"):
            return
        if headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "a page of another site may not ask this server")
        kind = headers.get(b"content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, f"send JSON, as Content-Type: application/json, not {kind!r:.60}")


async def refuse(refusal: Refusal, send: Any) -> None:
    """Send a refusal as the whole answer."""
    body = as_json(refusal.body())
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.status == 503:
        headers.append((b"retry-after", b"1"))
    if refusal.status in (408, 413):  # what is still to come of it is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


async def read_json(receive: Any, most: int = BODY_BYTES, seconds: float = BODY_S) -> dict:
    """The object that a request's body is; Refusal: too long, too slow, not UTF-8 or no JSON."""
    body, length, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the request ended early")
                more, part = message.get("more_body", False), message.get("body", b"")
                length += len(part)
                if length <= most:  # who sends more is listened to for a while: then it can read
                    body += part
                elif not more or length > 32 * most:
                    raise Refusal(413, f"a request may have {most:,} bytes, and this one has more")
    except TimeoutError:
        raise Refusal(408, f"the request was not here after {seconds:.0f} s") from None
    try:
        said = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request is not JSON in UTF-8: {error!s:.200}") from None
    if not isinstance(said, dict):
        raise Refusal(400, f"the request must be a JSON object, not {type(said).__name__}")
    return said


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")
