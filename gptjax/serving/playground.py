"""What the page asks of the server while somebody types.

In: the server. Out: routes below ``/api``.
"""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptjax.serving.app import Server, json_response


def routes(server: Server) -> Sequence[Route]:
    """The routes of a server."""

    async def runs(request: Request) -> Response:
        known = [
            {"id": one.id, "facts": one.run and one.run.facts(), "loading": one.run is None}
            for one in server.served
        ]
        return json_response({"runs": known})

    return [Route("/api/runs", runs, methods=["GET"])]
