"""`moeplace token` on a Redis of one's own: issue, list, revoke, and what it refuses."""

import asyncio
import re

import pytest
from typer.testing import CliRunner

from app.access.secret import digest_of, name_of
from app.cli import command_line
from app.cli.token import read_page
from app.storage.client import open_client
from app.storage.keys import EVERYWHERE, ClusterKeys


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(command_line(["token"]), ["token", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_a_first_token_without_a_service(redis_url: str) -> None:
    """It stands alone on standard output, is in Redis as a digest, is listed, and can be revoked once."""
    status, text, told = run("issue", "--role", "operator", "--note", "first", "--redis-url", redis_url)
    assert status == 0
    name = name_of(text.strip())
    assert name is not None
    assert name.scope == EVERYWHERE
    assert name.token_id in told

    async def stored() -> str:
        async with open_client(redis_url) as redis:
            return str(await redis.hget(ClusterKeys(EVERYWHERE).tokens, name.token_id))

    assert digest_of(text.strip()).hex() in asyncio.run(stored())
    _, listed, _ = run("list", "--redis-url", redis_url)
    assert name.token_id in listed
    assert text.strip().rpartition("~")[2] not in listed
    assert run("revoke", name.token_id, "--redis-url", redis_url)[0] == 0
    status, _, told = run("revoke", name.token_id, "--redis-url", redis_url)
    assert (status, told) == (1, f"moeplace: there is no token {name.token_id} of all clusters\n")


def test_a_nodes_token_makes_its_cluster(redis_url: str) -> None:
    """So that nodes are given theirs before anything runs; its time is counted from now."""
    options = ("--role", "node", "--cluster", "edge", "--node", "a", "--expires-in", "1.5d")
    status, text, _ = run("issue", *options, "--redis-url", redis_url)
    assert status == 0
    assert text.startswith("mpl_edge~")
    _, listed, _ = run("list", "--cluster", "edge", "--redis-url", redis_url)
    assert re.search(r"node a of edge .* 20\d\d-\d\d-\d\d \d\d:\d\d .*never", listed)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["issue"], "expected --role"),
        (["issue", "--role", "node", "--cluster", "c"], "--node, --cluster: expected both"),
        (["issue", "--role", "node", "--node", "n"], "--node, --cluster: expected both"),
        (["issue", "--role", "reader", "--node", "n", "--cluster", "c"], "--node with it alone"),
        (["issue", "--role", "reader", "--expires-in", "soon"], "expected a number with one of s, m, h"),
        (["issue", "--role", "reader", "--cluster", "a/b"], "--cluster: 'a/b' is not an id"),
        (["issue", "0123456789abcdef", "--role", "reader"], "issue: expected no"),
        (["revoke"], "expected the id of a token"),
        (["revoke", "x"], "expected the id of a token"),
        (["list", "--redis-url", "redis://:secret@127.0.0.1:1"], "Connection refused"),
    ],
)
def test_what_it_refuses(arguments: list[str], named: str) -> None:
    """In one line, before anything is asked."""
    status, said, told = run(*arguments)
    assert status in (1, 2)
    assert said == ""
    assert named in " ".join(told.split())
    assert "secret" not in told


def test_secrets_are_made_anew() -> None:
    """Each long enough for an operator's token by setting."""
    made = {run("make")[1].strip() for _ in range(5)}
    assert len(made) == 5
    assert all(len(secret) == 43 for secret in made)


def test_the_list_of_a_newer_service_is_read() -> None:
    """Fields that this version does not know are passed over, at every depth."""
    token = {
        "token_id": "0123456789abcdef",
        "role": "NODE",
        "cluster_id": "edge",
        "node_id": "a",
        "note": "",
        "created_at": "2026-01-01T00:00:00Z",
        "created_by": "operator-setting",
        "expires_at": None,
        "last_used_at": None,
        "scopes": ["telemetry"],
    }
    page = read_page({"tokens": [token], "next_after": None, "total": 1})
    assert page.tokens[0].node_id == "a"
