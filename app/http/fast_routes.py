"""The routes that are called most, found without asking all others, and answered without what they need."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.extensions import WHOLE
from app.http.problem import answer_exception
from app.http.whole import WholeAnswer

Authorise = Callable[[Scope], Awaitable[None]]
"""Lets a request in, or raises."""

FastRoute = tuple[Route, str, Authorise]

REMEMBERED_PATHS, REMEMBERED_LENGTH = 4096, 256
"""Whose routes were found: nodes call the same few all the time."""


class FastRoutesMiddleware:
    """Calls the endpoint of the first of `routes` that matches, or goes on.

    routes: of functions, with parameters that match one segment of the path each; with a method and what
    authorises requests.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[FastRoute]) -> None:
        self._app = app
        self._routes: defaultdict[str, list[tuple[Route, Authorise]]] = defaultdict(list)
        for route, method, authorise in routes:
            self._routes[method].append((route, authorise))
        self._find_again = lru_cache(REMEMBERED_PATHS)(self._find)

    def _find(self, method: str, path: str) -> tuple[Route, Authorise, Mapping[str, str]] | None:
        for route, authorise in self._routes.get(method, ()):
            match = route.path_regex.match(path)
            if match is not None:
                return route, authorise, MappingProxyType(match.groupdict())
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        path = scope["path"]
        find = self._find if len(path) > REMEMBERED_LENGTH else self._find_again
        found = find(scope["method"], path)
        if found is not None:
            route, authorise, parameters = found
            scope["route"] = route
            scope["path_params"] = parameters
            request = Request(scope, receive)
            try:
                await authorise(scope)
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
        await app(scope, receive, send)
