"""A token is replaced by writing another to its file, while the agent runs."""

from pathlib import Path

import pytest

from moeplace_agent.client import ServiceClient, ServiceProblem
from moeplace_agent.config import NodeFileError, ServiceSection
from moeplace_agent.retrying import RetryPolicy
from tests.agent.scripted import problem, reply, scripted

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(first_seconds=0.01, longest_seconds=0.02, attempts=3)
ACCEPTED = {"accepted_count": 1, "duplicate": False, "partial_success": None}


def section(path: Path) -> ServiceSection:
    return ServiceSection(url="http://127.0.0.1:1", token_file=path)


async def test_a_refused_token_is_read_again(tmp_path: Path) -> None:
    """The request is sent once more with the new one, the same bytes, and all that follow carry it."""
    file = tmp_path / "token"
    file.write_text("old\n")
    replies = (reply(200, ACCEPTED), problem(401, "revoked"), reply(200, ACCEPTED))
    async with scripted(*replies) as server:
        client = ServiceClient(
            server.base_url, "east", retry=QUICK, token=section(file).token, use_environment=False
        )
        async with client:
            await client.post_telemetry("n1", b"one")
            file.write_text("new\n")
            await client.post_telemetry("n1", b"two")
            await client.post_telemetry("n1", b"three")
    sent = [(asked.body, asked.headers["authorization"]) for asked in server.asked]
    assert sent == [
        (b"one", "Bearer old"),
        (b"two", "Bearer old"),
        (b"two", "Bearer new"),
        (b"three", "Bearer new"),
    ]


@pytest.mark.parametrize("left", ["old\n", "", None])
async def test_the_same_token_is_not_tried_again(tmp_path: Path, left: str | None) -> None:
    """Nor one that is being written, or gone: the caller is told, and the next request looks again."""
    file = tmp_path / "token"
    file.write_text("old\n")
    async with scripted(problem(401, "revoked")) as server:
        client = ServiceClient(
            server.base_url, "east", retry=QUICK, token=section(file).token, use_environment=False
        )
        file.unlink() if left is None else file.write_text(left)
        async with client:
            with pytest.raises(ServiceProblem, match="401: revoked"):
                await client.post_telemetry("n1", b"x")
    assert len(server.asked) == 1


def test_where_tokens_and_authorities_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file comes before the variable; a file that holds no certificates is named."""
    nothing = ServiceSection(url="http://127.0.0.1:1")
    assert (nothing.token(), nothing.authorities()) == (None, None)
    monkeypatch.setenv("MOEPLACE_TOKEN", "of-the-variable")
    assert nothing.token() == "of-the-variable"
    (tmp_path / "token").write_text("of-the-file")
    assert section(tmp_path / "token").token() == "of-the-file"
    for wrong in (tmp_path / "token", tmp_path / "absent"):
        with pytest.raises(NodeFileError, match=f"ca_file: {wrong}"):
            ServiceSection(url="https://127.0.0.1:1", ca_file=wrong).authorities()
        monkeypatch.setenv("MOEPLACE_CA_FILE", str(wrong))
        with pytest.raises(NodeFileError, match=f"MOEPLACE_CA_FILE: {wrong}"):
            nothing.authorities()
