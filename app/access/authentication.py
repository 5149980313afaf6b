"""From the Authorization header to who asks, without a call to Redis for a token seen lately.

What is remembered of a token is forgotten when its cluster's tokens change, which is announced to every
process, and whenever announcements may have been missed; and in any case after `TRUST_SECONDS`. A connection
that dies silently is noticed within ten seconds (`app.http.waiting`).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from redis.asyncio import Redis
from starlette.types import Scope

from app.access import store
from app.access.rates import Rates
from app.access.roles import ANONYMOUS, Principal, Role
from app.access.secret import TokenName, digest_of, name_of, same_digest
from app.errors import Unauthenticated
from app.metrics import AUTHENTICATION_FAILURES
from app.storage import topics

TRUST_SECONDS = 60.0
REMEMBERED = 20_000
USE_NOTED_SECONDS = 300
"""How exactly it is known when a token was last used: a write for each in this time, not for each request."""

OPERATOR_SETTING = "operator-setting"
"""The id, in the record of what operators did, of the token given by setting."""


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    principal: Principal
    expires_at: float | None
    read_at: float

    def has(self, digest: bytes) -> bool:
        return same_digest(self.digest, digest)


class Authentication:
    """`required`: True, False, or None: as soon as any token was ever issued.

    `operator_digest`: of the token that is an operator's by setting.
    """

    def __init__(
        self, redis: Redis, rates: Rates, *, required: bool | None, operator_digest: bytes | None
    ) -> None:
        self._redis = redis
        self._rates = rates
        self._setting = required
        self._required = required
        self._operator = operator_digest
        self._known: OrderedDict[TokenName, _Known] = OrderedDict()
        self._changes = 0

    @property
    def off(self) -> bool:
        """Whether it is known that no token is asked for."""
        return self._required is False

    def told(self, cluster_id: str | None, topic: str | None) -> None:
        """An announcement; None: some may have been missed."""
        if topic not in (None, topics.TOKENS):
            return
        if self._setting is None and self._required is False:
            self._required = None
        self._changes += 1
        if cluster_id is None:
            self._known.clear()
        else:
            for name in [name for name in self._known if name.scope == cluster_id]:
                del self._known[name]

    async def who(self, scope: Scope) -> Principal:
        """Who sent the request; `Unauthenticated` or `TooManyRequests` otherwise."""
        if self._required is None:
            self._required = await store.tokens_issued(self._redis)
        if self._required is False:
            return ANONYMOUS
        text = _bearer(scope)
        digest = digest_of(text)
        if self._operator is not None and same_digest(digest, self._operator):
            principal = Principal(OPERATOR_SETTING, Role.OPERATOR)
        else:
            principal = await self._of_token(text, digest, scope)
        self._rates.asked(principal.token_id)
        return principal

    async def _of_token(self, text: str, digest: bytes, scope: Scope) -> Principal:
        name = name_of(text)
        known = None if name is None else self._known.get(name)
        if known is None or time.monotonic() - known.read_at > TRUST_SECONDS or not known.has(digest):
            known = await self._judge(name, digest, scope)
        if known.expires_at is not None and known.expires_at <= time.time():
            raise self._refusal(scope, "expired", "the token has expired")
        return known.principal

    async def _judge(self, name: TokenName | None, digest: bytes, scope: Scope) -> _Known:
        """Ask Redis, and remember what it says."""
        # Only here: tokens that are remembered pass, so that whoever guesses behind a proxy or a NAT does not
        # lock the others there out.
        self._rates.allow_attempt(_address(scope))
        known = None
        if name is not None:
            changes = self._changes
            known = await self._read(name)
            if known is not None and known.has(digest) and changes == self._changes:
                self._known[name] = known
                self._known.move_to_end(name)
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        if known is None or not known.has(digest):
            raise self._refusal(scope, "unknown", "the token is not known here, or was revoked")
        return known

    async def _read(self, name: TokenName) -> _Known | None:
        record, used = await store.read(self._redis, name.scope, name.token_id)
        if record is None:
            return None
        now = time.time()
        if now - used > USE_NOTED_SECONDS and not store.expired(record):
            await store.note_use(self._redis, name.scope, name.token_id, int(now))
        return _Known(
            digest=bytes.fromhex(record.digest),
            principal=Principal(record.token_id, record.role, record.cluster_id, record.node_id),
            expires_at=None if record.expires_at is None else record.expires_at.timestamp(),
            read_at=time.monotonic(),
        )

    def _refusal(self, scope: Scope, reason: str, words: str) -> Unauthenticated:
        self._rates.failed(_address(scope))
        AUTHENTICATION_FAILURES.labels(reason).inc()
        return Unauthenticated(words, reason="invalid_token")


def _bearer(scope: Scope) -> str:
    """The token sent; `Unauthenticated` where there is none."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        AUTHENTICATION_FAILURES.labels("missing").inc()
        raise Unauthenticated("header:Authorization: expected Bearer and a token")
    value: bytes = given[0]
    kind, _, text = value.decode("latin-1").partition(" ")
    if len(given) > 1 or kind.lower() != "bearer":
        AUTHENTICATION_FAILURES.labels("malformed").inc()
        raise Unauthenticated("header:Authorization: expected it once, Bearer and a token")
    return text.strip()


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "unknown"
