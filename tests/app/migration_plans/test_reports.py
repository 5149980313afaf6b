"""Reports of moves: each counts once, only from whom the move is for, and changes what the node holds."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from app.access.roles import Role
from app.migration_plans.schemas import MoveProgress, PlannedMove, PlanProgress, PlanRecord
from app.storage.keys import ClusterKeys
from app.tokens.service import issue
from migrations.model import MoveKind
from migrations.states import MoveState, PlanState

pytestmark = pytest.mark.anyio

BASE = "/v1/clusters/alpha"
KEYS = ClusterKeys("alpha")
PLAN = "plan-1"
DIGESTS = [f"{expert:064x}" for expert in range(4)]
BLOCK = {"layer": 0, "experts": 4, "expert_bytes": 100, "top_k": 1, "expert_digests": DIGESTS}


def move(move_id: str, kind: MoveKind, expert: int, destination: str = "n1") -> PlannedMove:
    return PlannedMove(
        move_id=move_id,
        kind=kind,
        model_id="tiny",
        layer=0,
        expert=expert,
        source=None,
        from_origin=kind is MoveKind.COPY,
        destination=destination,
        bytes=100,
        depends_on=[],
        start_seconds=0,
        end_seconds=1,
    )


MOVES = [
    move("copy", MoveKind.COPY, 1),
    move("drop", MoveKind.DROP, 0),
    move("later", MoveKind.COPY, 2),
    move("other", MoveKind.COPY, 3, "n2"),
]


async def release(redis: Redis, move_id: str, attempts: int, state: MoveState = MoveState.RELEASED) -> None:
    progress = MoveProgress(
        move_id=move_id,
        state=state,
        attempts=attempts,
        source=None,
        from_origin=True,
        bytes_done=0,
        reason=None,
        released_at=datetime.now(UTC),
        finished_at=None,
    )
    await redis.hset(KEYS.plan_progress(PLAN), move_id, progress.model_dump_json())


@pytest.fixture
async def plan(api: AsyncClient, redis: Redis) -> None:
    """Two nodes, of which n1 holds expert 0, and a running plan: all released but `later`."""
    await api.put(f"{BASE}/models/tiny", json={"blocks": [BLOCK]})
    for node_id in ("n1", "n2"):
        devices = [{"device_id": "g", "memory_bytes": 1000}]
        await api.put(f"{BASE}/nodes/{node_id}", json={"instance_uid": "i", "devices": devices})
    held = [{"model_id": "tiny", "layer": 0, "experts": [0]}]
    beat = {"instance_uid": "i", "sequence_number": 1, "holds": held}
    await api.put(f"{BASE}/nodes/n1/status", json=beat)
    now = datetime.now(UTC)
    record = PlanRecord(
        plan_id=PLAN,
        from_generation=1,
        to_generation=2,
        created_at=now,
        updated_at=now,
        state=PlanState.RUNNING,
        reason=None,
        validate_only=False,
        estimate=None,
        progress=PlanProgress(
            moves_total=4, moves_succeeded=0, moves_failed=0, moves_released=3, bytes_total=300, bytes_done=0
        ),
        moves=MOVES,
    )
    await redis.set(KEYS.plan(PLAN), record.model_dump_json())
    await redis.zadd(KEYS.plans, {PLAN: now.timestamp()})
    for name in ("copy", "drop", "other"):
        await release(redis, name, 1)
    await release(redis, "later", 0, MoveState.PENDING)


def body(state: str = "SUCCEEDED", **changes: Any) -> dict[str, Any]:
    report = {"instance_uid": "i", "generation": 2, "attempt": 1, "state": state}
    return report | ({"reason": "broken"} if state == "FAILED" else {}) | changes


async def put(api: AsyncClient, move_id: str, report: dict[str, Any], plan_id: str = PLAN) -> Response:
    return await api.put(f"{BASE}/migration_plans/{plan_id}/moves/{move_id}/report", json=report)


async def holdings(redis: Redis, node_id: str = "n1") -> set[int]:
    members = cast("set[bytes]", await redis.smembers(KEYS.holdings(node_id)))
    return {int(member.rsplit(b"/", 1)[1]) for member in members}


@pytest.mark.usefixtures("plan")
async def test_success_changes_holdings_once(api: AsyncClient, redis: Redis) -> None:
    """A copy adds, a drop removes, and the version rises once however often the same report comes."""
    version = int(await redis.hget(KEYS.holdings_versions, "n1") or 0)
    for outcome in ("ACCEPTED", "UNCHANGED", "UNCHANGED"):
        response = await put(api, "copy", body(digest=DIGESTS[1], bytes_done=100))
        assert response.status_code == 200
        assert response.json() == {"outcome": outcome}
    assert await holdings(redis) == {0, 1}
    assert (await put(api, "drop", body())).json() == {"outcome": "ACCEPTED"}
    assert await holdings(redis) == {1}
    assert int(await redis.hget(KEYS.holdings_versions, "n1") or 0) == version + 2


@pytest.mark.usefixtures("plan")
async def test_a_nodes_token_reports_its_own_moves_alone(
    api: AsyncClient, application: FastAPI, redis: Redis
) -> None:
    """The path of a report names no node: whose move it is decides, before anything is said of it."""
    clients = []
    for node_id in ("n1", "n2"):
        token = await issue(redis, "alpha", Role.NODE, node_id=node_id, created_by="test", max_clusters=9)
        transport = ASGITransport(application)
        headers = {"Authorization": f"Bearer {token.token}"}
        clients.append(AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers))
    own, other = clients
    while (await api.get(BASE)).status_code != 401:  # noqa: ASYNC110 - until the tokens are known of
        await asyncio.sleep(0.01)
    refused = await put(other, "copy", body(digest=DIGESTS[1], bytes_done=100))
    assert refused.status_code == 403
    assert refused.json()["errors"][0]["code"] == "OTHER_NODE"
    assert await holdings(redis) == {0}
    taken = await put(own, "copy", body(digest=DIGESTS[1], bytes_done=100))
    assert taken.json() == {"outcome": "ACCEPTED"}
    for client in clients:
        await client.aclose()


@pytest.mark.usefixtures("plan")
async def test_final_states_stand(api: AsyncClient, redis: Redis) -> None:
    """What comes after a final state of the same attempt is too late; progress only grows."""
    reports = [
        body("IN_PROGRESS", bytes_done=50),
        body("IN_PROGRESS", bytes_done=20),
        body("IN_PROGRESS", bytes_done=80),
        body("FAILED"),
        body("SUCCEEDED"),
        body("IN_PROGRESS", bytes_done=90),
    ]
    outcomes = [(await put(api, "copy", report)).json()["outcome"] for report in reports]
    assert outcomes == ["ACCEPTED", "UNCHANGED", "ACCEPTED", "ACCEPTED", "UNCHANGED", "UNCHANGED"]
    assert await holdings(redis) == {0}
    await release(redis, "copy", 2)
    assert (await put(api, "copy", body())).status_code == 409
    assert (await put(api, "copy", body(attempt=2))).json() == {"outcome": "ACCEPTED"}
    assert await holdings(redis) == {0, 1}


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(
    ("move_id", "report", "status"),
    [
        ("copy", body(instance_uid="another"), 409),
        ("copy", body(attempt=2), 409),
        ("later", body(), 409),
        ("unknown", body(), 404),
        ("copy", body(digest=DIGESTS[2]), 422),
        ("copy", {**body("FAILED"), "reason": None}, 422),
        ("copy", body(attempt=0), 422),
        ("copy", body("DONE"), 422),
        ("copy", body(bytes_done=-1), 422),
    ],
)
async def test_reports_that_cannot_be_taken(
    api: AsyncClient, redis: Redis, move_id: str, report: dict[str, Any], status: int
) -> None:
    """Of another instance or attempt, of a move not released, with other bytes: nothing changes."""
    response = await put(api, move_id, report)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert await holdings(redis) == {0}
    assert await redis.hlen(KEYS.plan_reports(PLAN)) == 0


@pytest.mark.usefixtures("plan")
async def test_batches_take_what_can_be_taken(api: AsyncClient, redis: Redis) -> None:
    """Each report of a batch is judged by itself; those refused are told by pointer and code."""
    reports = [
        body(plan_id=PLAN, move_id="unknown"),
        body(plan_id=PLAN, move_id="copy"),
        body(plan_id=PLAN, move_id="other"),
        body(plan_id=PLAN, move_id="later"),
        body(plan_id=PLAN, move_id="drop", digest=None),
        body(plan_id="plan-9", move_id="copy"),
        body(plan_id=PLAN, move_id="copy"),
    ]
    response = await api.post(f"{BASE}/nodes/n1/move_reports", json={"reports": reports})
    assert response.status_code == 200
    answer = response.json()
    assert answer["accepted_count"] == 3
    assert [(entry["pointer"], entry["code"]) for entry in answer["rejected"]] == [
        ("/reports/0/move_id", "UNKNOWN_MOVE"),
        ("/reports/2/move_id", "OTHER_NODE"),
        ("/reports/3", "NOT_RELEASED"),
        ("/reports/5/move_id", "UNKNOWN_MOVE"),
    ]
    assert await holdings(redis) == {1}
    assert await holdings(redis, "n2") == set()
    refused = await api.post(f"{BASE}/nodes/nobody/move_reports", json={"reports": reports})
    assert refused.status_code == 404
    assert (await api.post(f"{BASE}/nodes/n1/move_reports", json={"reports": []})).status_code == 422


STATES = st.sampled_from(["IN_PROGRESS", "FAILED", "SUCCEEDED"])


@pytest.mark.usefixtures("plan")
async def test_any_order_and_repetition_gives_the_first_final_state(api: AsyncClient, redis: Redis) -> None:
    """However reports of one attempt are repeated and mixed, the first final one decides, and the node holds
    the expert exactly if that one is a success."""

    async def check(states: list[str]) -> None:
        await redis.delete(KEYS.plan_reports(PLAN))
        await redis.srem(KEYS.holdings("n1"), "tiny/0/1")
        for number, state in enumerate(states):
            assert (await put(api, "copy", body(state, bytes_done=number))).status_code == 200
        final = next((state for state in states if state != "IN_PROGRESS"), "IN_PROGRESS")
        stored = await redis.hget(KEYS.plan_reports(PLAN), "copy")
        assert stored is not None
        assert f'"state":"{final}"'.encode() in cast(bytes, stored)
        assert (1 in await holdings(redis)) == (final == "SUCCEEDED")

    sequences: list[list[str]] = []

    @given(st.lists(STATES, min_size=1, max_size=6))
    @settings(max_examples=25, derandomize=True, database=None)
    def collect(states: list[str]) -> None:
        sequences.append(states)

    collect()
    for states in sequences:
        await check(states)


@pytest.mark.usefixtures("plan")
async def test_plan_is_shown_with_its_moves(api: AsyncClient, redis: Redis) -> None:
    """Alone with moves and their progress and a tag that follows it; in lists without moves."""
    url = f"{BASE}/migration_plans/{PLAN}"
    shown = await api.get(url)
    assert [entry["move_id"] for entry in shown.json()["moves"]] == ["copy", "drop", "later", "other"]
    assert len(shown.json()["progress_of_moves"]) == 4
    tag = {"If-None-Match": shown.headers["etag"]}
    assert (await api.get(url, headers=tag)).status_code == 304
    await release(redis, "later", 1)
    assert (await api.get(url, headers=tag)).status_code == 200
    listed = (await api.get(f"{BASE}/migration_plans")).json()
    assert [plan["plan_id"] for plan in listed["migration_plans"]] == [PLAN]
    assert "moves" not in listed["migration_plans"][0]
    assert (await api.get(f"{BASE}/migration_plans/none")).status_code == 404


@pytest.mark.usefixtures("plan")
async def test_commands_follow_the_state_machine(api: AsyncClient, redis: Redis) -> None:
    """What the plan's state allows is queued for the worker; the rest is a conflict, but a repetition."""
    url = f"{BASE}/migration_plans/{PLAN}"
    assert (await api.post(f"{url}:pause")).status_code == 202
    assert (await api.post(f"{url}:resume")).status_code == 202  # it runs: so already
    assert (await api.post(f"{url}:cancel")).status_code == 202
    assert (await api.post(f"{url}:cancel", json={"mode": "ROLLBACK"})).status_code == 202
    assert (await api.post(f"{url}:cancel", json={"mode": "MAYBE"})).status_code == 422
    commands = cast("list[bytes]", await redis.lrange(KEYS.plan_commands, 0, -1))
    assert [command.split(b'"verb":')[1] for command in commands] == [
        b'"PAUSE","mode":null}',
        b'"CANCEL","mode":"DRAIN"}',
        b'"CANCEL","mode":"ROLLBACK"}',
    ]
    stored = cast(bytes, await redis.get(KEYS.plan(PLAN)))
    await redis.set(KEYS.plan(PLAN), stored.replace(b'"RUNNING"', b'"SUCCEEDED"'))
    assert (await api.post(f"{url}:pause")).status_code == 409
    assert (await api.post(f"{BASE}/migration_plans/none:pause")).status_code == 404


async def test_a_damaged_report_is_replaced_by_the_next(api: AsyncClient, redis: Redis, plan: None) -> None:
    """A node's report is accepted although the one before cannot be read."""
    await redis.hset(KEYS.plan_reports(PLAN), "copy", b"{damaged")
    answer = await put(api, "copy", body())
    assert (answer.status_code, answer.json()["outcome"]) == (200, "ACCEPTED")


@pytest.mark.parametrize("damaged", [b"{damaged", b"7", b"{}"])
async def test_damaged_progress_of_a_move_is_named(
    api: AsyncClient, redis: Redis, plan: None, damaged: bytes
) -> None:
    """Who reports gets the key, and not an internal error."""
    await redis.hset(KEYS.plan_progress(PLAN), "copy", damaged)
    answer = await put(api, "copy", body())
    assert answer.status_code == 503
    assert KEYS.plan_progress(PLAN) in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", f"/{PLAN}"])
async def test_a_damaged_plan_is_named(api: AsyncClient, redis: Redis, plan: None, path: str) -> None:
    """In the list and by itself; no broken JSON is served."""
    await redis.set(KEYS.plan(PLAN), b"{damaged")
    answer = await api.get(f"{BASE}/migration_plans{path}")
    assert answer.status_code == 503
    assert KEYS.plan(PLAN) in answer.json()["detail"]
