"""Pages of a set of ids ordered by time of creation, newest first."""

from typing import cast

from redis.asyncio import Redis

from app.errors import FieldError, InvalidRequest


async def newest_first(
    redis: Redis, key: str, *, limit: int, before: str | None
) -> tuple[list[str], str | None]:
    """Ids of a page, and `before` of the next one; `InvalidRequest` where `before` is not retained."""
    start = 0
    if before is not None:
        rank = cast("int | None", await redis.zrevrank(key, before))
        if rank is None:
            detail = f"{before} is not among those retained"
            raise InvalidRequest(
                f"query:before: {detail}", errors=[FieldError("query:before", detail, "UNKNOWN_ID")]
            )
        start = rank + 1
    members = cast("list[bytes]", await redis.zrevrange(key, start, start + limit))
    page = [member.decode() for member in members[:limit]]
    return page, page[-1] if len(members) > limit else None
