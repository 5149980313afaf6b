"""The routes that are called most, found without asking all others, and answered without what they need."""

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.extensions import WHOLE
from app.http.problem import answer_exception
from app.http.whole import WholeAnswer

Door = Callable[[Scope], Awaitable[None]]
"""Lets a request in, or raises."""

FastRoute = tuple[Route, str, Door]


class FastRoutesMiddleware:
    """Calls the endpoint of the first of `routes` that matches, or goes on.

    routes: of functions, with parameters that match one segment of the path each; with a method and its door.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[FastRoute]) -> None:
        self._app = app
        self._routes: defaultdict[str, list[tuple[re.Pattern[str], Route, Door]]] = defaultdict(list)
        for route, method, door in routes:
            self._routes[method].append((route.path_regex, route, door))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        for pattern, route, door in self._routes.get(scope["method"], ()):
            match = pattern.match(scope["path"])
            if match is None:
                continue
            scope["route"] = route
            scope["path_params"] = match.groupdict()
            request = Request(scope, receive)
            try:
                await door(scope)
                app = await route.endpoint(request)
            except Exception as error:
                answer = await answer_exception(request, error)
                if answer is None:
                    raise
                app = answer
            else:
                if isinstance(app, WholeAnswer) and WHOLE in scope.get("extensions", ()):
                    await send(app.whole())
                    return
            break
        await app(scope, receive, send)
