"""How a route is called: with the request as it is, and whatever goes wrong becomes a reply."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.serving.replies import reply_failure


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the response; nothing is solved or checked in between."""

    def get_route_handler(self) -> Any:
        """FastAPI's hook: the function, with replies for its errors."""
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except Exception as error:  # noqa: BLE001 - the edge: no error leaves the server but as a reply
                return reply_failure(request.scope, error)

        return answer
