"""The routes that are called most, found without asking all others, and answered without what they need."""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.problem import answer_exception

Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class FastRoutesMiddleware:
    """Calls the endpoint of the first of `routes` that matches, or goes on.

    routes: of functions, with parameters that match one segment of the path each.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes: defaultdict[str, list[tuple[re.Pattern[str], Route, Endpoint]]] = defaultdict(list)
        for route in routes:
            for method in route.methods or ():
                self._routes[method].append((route.path_regex, route, route.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for pattern, route, endpoint in self._routes.get(scope["method"], ()):
                match = pattern.match(scope["path"])
                if match is not None:
                    scope["route"] = route
                    scope["path_params"] = match.groupdict()
                    await _answer(endpoint, scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _answer(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    try:
        response = await endpoint(request)
    except Exception as error:
        answer = await answer_exception(request, error)
        if answer is None:
            raise
        response = answer
    await response(scope, receive, send)
