"""`moeplace token`."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
import typer
from pydantic import ValidationError
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from app.access.roles import Role
from app.access.secret import SECRET_BYTES, TOKEN_ID_PATTERN
from app.cli.service_access import ask_service
from app.cli.settings import fail, settings_from
from app.errors import ProblemError
from app.schema import ID_PATTERN
from app.storage.client import StorageError, connect
from app.storage.keys import EVERYWHERE
from app.tokens import service
from app.tokens.schemas import TokenList
from moeplace_agent.client import NOT_THE_SERVICE, AnswerNotUnderstood, ServiceClient, converted

DEFAULT_SERVICE = "http://127.0.0.1:8080"
BY_COMMAND_LINE = "command-line"
"""Who made a token that was written to Redis by nobody whose token we know."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31_536_000}
_PAGE = 500

_Done = TypeVar("_Done")


class Action(StrEnum):
    ISSUE = "issue"
    LIST = "list"
    REVOKE = "revoke"
    MAKE = "make"


class RoleName(StrEnum):
    OPERATOR = "operator"
    READER = "reader"
    NODE = "node"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdwy])", text)
    if found is None or not 0 < float(found[1]) * _UNITS[found[2]] <= 3.2e9:
        raise typer.BadParameter(f"{text!r}: expected a number with one of s, m, h, d, w, y: 90d")
    return float(found[1]) * _UNITS[found[2]]


def token_command(
    action: Annotated[Action, typer.Argument(help="What to do with tokens.", show_default=False)],
    token_id: Annotated[
        str | None, typer.Argument(metavar="[TOKEN_ID]", help="For revoke: the id, as list shows it.")
    ] = None,
    role: Annotated[
        RoleName | None,
        typer.Option(
            "--role", "-r", help="operator: may do everything. reader: may read. node: acts for one node."
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", help="For this cluster only. Default: for all clusters.")
    ] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", help="The node that the token is for.")] = None,
    expires_in: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", parser=_seconds, help="Time until the token expires: 12h, 90d. Default: never."
        ),
    ] = None,
    note: Annotated[str, typer.Option(help="A note for people: who uses it, and for what.")] = "",
    url: Annotated[
        str | None,
        typer.Option(
            "--service",
            metavar="URL",
            help=f"The service. Default: {DEFAULT_SERVICE}, unless a Redis is given.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="An operator's token for the service. The variable MOEPLACE_TOKEN is safer."),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Use this Redis directly instead of a service. Variable: MOEPLACE_REDIS_URL."
        ),
    ] = None,
) -> None:
    """Issue, list and revoke access tokens.

    issue prints only the new token, so that it can be written to a file; it is not stored anywhere. list
    shows everything except the secrets. revoke takes effect in every API process within seconds. make prints
    a secret for MOEPLACE_OPERATOR_TOKEN_FILE, the first token of a service that other machines reach.

    The command asks the service, with an operator's token. With --redis-url it changes the Redis of the
    service directly.
    """
    if action is Action.MAKE:
        typer.echo(secrets.token_urlsafe(SECRET_BYTES))
        return
    _check(action, token_id, role, cluster, node)
    if url is None:
        redis_url = settings_from(redis_url=redis_url).redis_url
    place = (
        _Redis(redis_url)
        if url is None and redis_url is not None
        else _Service(url or DEFAULT_SERVICE, token)
    )
    if action is Action.ISSUE:
        assert role is not None
        text, issued = place.issue(cluster, role, node, note, expires_in)
        typer.echo(text)
        typer.echo(f"token {issued}: revoke it by this id", err=True)
    elif action is Action.REVOKE:
        assert token_id is not None
        place.revoke(cluster, token_id)
        typer.echo(f"token {token_id} is revoked")
    else:
        _show(place.list(cluster))


def _check(
    action: Action, token_id: str | None, role: RoleName | None, cluster: str | None, node: str | None
) -> None:
    for name, value in (("--cluster", cluster), ("--node", node)):
        if value is not None and re.fullmatch(ID_PATTERN, value) is None:
            raise fail(f"{name}: {value!r} is not an id, expected at most 63 of A-Z a-z 0-9 . _ -", 2)
    if action is Action.REVOKE and (token_id is None or re.fullmatch(TOKEN_ID_PATTERN, token_id) is None):
        raise fail(
            "revoke: expected the id of a token, as `moeplace token list` shows it (with --cluster)", 2
        )
    if action is not Action.REVOKE and token_id is not None:
        raise fail(f"{action.value}: expected no {token_id!r}", 2)
    if action is Action.ISSUE:
        if role is None:
            raise fail("issue: expected --role operator, reader or node", 2)
        if (role is RoleName.NODE) != (node is not None) or (node is not None and cluster is None):
            raise fail("--node, --cluster: expected both with --role node, and --node with it alone", 2)


class _Issued(msgspec.Struct, frozen=True):
    token: str
    token_id: str


def read_page(answer: Any) -> TokenList:
    try:
        return TokenList.model_validate(answer, extra="ignore")  # a newer service has more fields
    except ValidationError:
        raise AnswerNotUnderstood(NOT_THE_SERVICE) from None


class _Service:
    """A running one, over HTTP."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._token = token

    def _ask(self, method: str, path: str, read: Callable[[Any], _Done], body: Any = None) -> _Done:
        async def work(client: ServiceClient) -> _Done:
            return read(await client.ask(method, path, body))

        return ask_service(self._url, "default", self._token, work)

    def issue(
        self, cluster: str | None, role: RoleName, node: str | None, note: str, seconds: float | None
    ) -> tuple[str, str]:
        body: dict[str, Any] = {"role": role.name, "note": note, "expires_in_seconds": seconds}
        if cluster is not None:
            body["node_id"] = node
        issued = self._ask("POST", _path(cluster), lambda answer: converted(answer, _Issued), body)
        return issued.token, issued.token_id

    def revoke(self, cluster: str | None, token_id: str) -> None:
        self._ask("DELETE", f"{_path(cluster)}/{token_id}", lambda _: None)

    def list(self, cluster: str | None) -> list[TokenList]:
        pages: list[TokenList] = []
        after = ""
        while True:
            page = self._ask("GET", f"{_path(cluster)}?limit={_PAGE}{after}", read_page)
            pages.append(page)
            if page.next_after is None:
                return pages
            after = f"&after={page.next_after}"


class _Redis:
    """The Redis of a service, without it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _do(self, work: Callable[[Redis], Awaitable[_Done]]) -> _Done:
        async def run() -> _Done:
            async with await connect(self._url) as redis:
                return await work(redis)

        try:
            return asyncio.run(run())
        except (StorageError, ProblemError) as error:
            raise fail(error) from None

    def issue(
        self, cluster: str | None, role: RoleName, node: str | None, note: str, seconds: float | None
    ) -> tuple[str, str]:
        issued = self._do(
            lambda redis: service.issue(
                redis,
                cluster or EVERYWHERE,
                Role[role.name],
                node_id=node,
                note=note,
                expires_in_seconds=seconds,
                created_by=BY_COMMAND_LINE,
                max_clusters=settings_from().max_clusters,
            )
        )
        return issued.token, issued.token_id

    def revoke(self, cluster: str | None, token_id: str) -> None:
        self._do(lambda redis: service.revoke(redis, cluster or EVERYWHERE, token_id))

    def list(self, cluster: str | None) -> list[TokenList]:
        async def read(redis: Redis) -> list[TokenList]:
            pages: list[TokenList] = []
            after: str | None = None
            while True:
                page = await service.list_tokens(redis, cluster or EVERYWHERE, limit=_PAGE, after=after)
                pages.append(page)
                after = page.next_after
                if after is None:
                    return pages

        return self._do(read)


def _path(cluster: str | None) -> str:
    return "/v1/tokens" if cluster is None else f"/v1/clusters/{quote(cluster, safe='')}/tokens"


def _show(pages: list[TokenList]) -> None:
    table = Table()
    for column in ("id", "for", "issued", "expires", "last used", "note"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for page in pages:
        for token in page.tokens:
            node = f"node {token.node_id}" if token.node_id else token.role.value.lower()
            table.add_row(
                token.token_id,
                f"{node} of {token.cluster_id or 'all clusters'}",
                f"{token.created_at:%Y-%m-%d}",
                f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "never",
                f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never",
                token.note,
            )
    console = Console()
    # Into a file or a pipe every token has one line.
    Console(width=console.width if console.is_terminal else 200).print(table, markup=False)
