"""The authorisation of every route: a request without a token for it gets no further, whatever it holds."""

from typing import cast

from fastapi import Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.authentication import Authentication
from app.access.roles import ANONYMOUS, Principal
from app.access.rules import Rule, require, rule_of
from app.errors import Forbidden
from app.http.state import TOKEN
from app.observability.metrics import AUTHORIZATION_FAILURES

_PRINCIPAL = "moeplace.principal"
"""Key of the request's scope."""


def authentication_of(scope: Scope) -> Authentication:
    """`app.state.authentication`, set when the application starts."""
    app = cast(Starlette, scope["app"])
    return cast(Authentication, app.state.authentication)


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks, once authorised."""
    return principal_of_scope(connection.scope)


def principal_of_scope(scope: Scope) -> Principal:
    return cast(Principal, scope.get(_PRINCIPAL, ANONYMOUS))


async def admit(scope: Scope, rule: Rule) -> None:
    """Let the request in, or raise: `Unauthenticated`, `Forbidden` or `RateLimited`; where no tokens are
    asked for, `Misdirected` or `ForeignSite`."""
    if rule is Rule.OPEN:
        return
    authentication = authentication_of(scope)
    if rule is Rule.METRICS and scope["app"].state.settings.open_metrics:
        if not authentication.on:
            authentication.site.require(scope)
        return
    if not (authentication.on or await authentication.required()):
        authentication.site.require(scope)
        return
    scope[_PRINCIPAL] = principal = await authentication.who(scope)
    scope[TOKEN] = principal.token_id
    place = scope["path_params"]
    try:
        require(rule, principal, place.get("cluster_id"), place.get("node_id"))
    except Forbidden:
        AUTHORIZATION_FAILURES.labels(principal.role.value).inc()
        raise


class Guard:
    """Around a plain route."""

    def __init__(self, app: ASGIApp, route: Route, rule: Rule) -> None:
        self._app = app
        self._route = route
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's router says of its own routes alone which it has found; metrics are labelled by it.
        scope["route"] = self._route
        await admit(scope, self._rule)
        await self._app(scope, receive, send)


def guarded(route: Route, *inside: Middleware) -> Route:
    """The same route behind its authorisation; `inside`: what else wraps it, once authorised."""
    rules = {rule_of(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    if len(rules) != 1:
        raise ValueError(f"{route.path}: expected one rule for the methods of a route, found {rules}")
    return Route(
        route.path,
        route.endpoint,
        methods=sorted(route.methods or ()),
        name=route.name,
        include_in_schema=route.include_in_schema,
        middleware=[Middleware(Guard, route=route, rule=rules.pop()), *inside],
    )


async def authorise(request: Request) -> None:
    """For `Depends`: around every route of a FastAPI router."""
    await admit(request.scope, rule_of(request.method, request.scope["route"].path))
